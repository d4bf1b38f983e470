//! A router at one side: its configuration, its process, and what the process holds.

use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use laneway::cli::demo::lab::Side;
use nix::sys::signal::Signal;

use super::ledger::Ledger;
use super::world::WAN;
use crate::support::binary::{self, serves};
use crate::support::http::SERVED;
use crate::support::process::{Process, attempt};
use crate::support::tunnel::Family;
use crate::support::wg::KeyPair;
use crate::support::{DEADLINE, device_name};

/// Memory may grow by this many KiB after the warm-up of a process: pools are touched as bursts need them.
const GROWTH: u64 = 32 << 10;

/// The age from which a process is warm.
const WARM: Duration = Duration::from_secs(20);

/// How long a process may hold more than when it was warm: connections are closed meanwhile.
const PATIENCE: Duration = Duration::from_secs(45);

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub memory: u64,
    pub descriptors: usize,
    pub threads: usize,
}

/// A process from its start to its end.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    pub born: Instant,
    pub age: Duration,
    pub lanes: usize,
    pub warm: Option<Held>,
    pub last: Option<Held>,
    /// Since when it holds more than that.
    pub grown_since: Option<Instant>,
}

impl Life {
    fn begin(lanes: usize) -> Life {
        let (born, age) = (Instant::now(), Duration::ZERO);
        Life { born, age, lanes, warm: None, last: None, grown_since: None }
    }
}

/// One of the two routers.
pub struct Router {
    pub name: &'static str,
    pub side: Side,
    pub device: String,
    pub keys: KeyPair,
    pub port: u16,
    pub lanes: usize,
    /// More lines of the file's `[Interface]`, and more `[Peer]` sections.
    pub more: [String; 2],
    pub life: Life,
    pub lives: Vec<Life>,
    pub path: String,
    pub process: Option<Process>,
    pub ledger: Arc<Ledger>,
    pub logs: Option<String>,
}

impl Router {
    pub fn new(name: &'static str, side: Side, ledger: &Arc<Ledger>, logs: Option<String>) -> Router {
        Router {
            name,
            keys: KeyPair::generate(&side),
            side,
            device: device_name("lw"),
            port: crate::support::tunnel::PORT,
            lanes: 2,
            more: Default::default(),
            life: Life::begin(2),
            lives: Vec::new(),
            path: String::new(),
            process: None,
            ledger: Arc::clone(ledger),
            logs,
        }
    }

    /// Starts a process, which takes over from the running one, if there is one.
    pub fn spawn(&self, variables: &[(&str, &str)]) -> Process {
        let lanes = self.lanes.to_string();
        let mut environment = vec![("LANEWAY_KEEP", "on"), ("LANEWAY_QUEUES", &*lanes), SERVED];
        environment.extend(variables);
        let arguments = ["run", "--config", &self.path, "--take-over"];
        Process::start_quietly(&mut binary::command(&self.side, &arguments, &environment))
    }

    /// Makes `process` the router.
    pub fn adopt(&mut self, process: Process) {
        self.process = Some(process);
        self.life = Life::begin(self.lanes);
    }

    /// Returns the running process.
    ///
    /// # Panics
    /// If there is none.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("a process")
    }

    /// Waits until the control socket answers.
    pub fn wait_for_service(&mut self) {
        let start = Instant::now();
        while !serves(&self.device) {
            let said = (!self.process().is_running()).then(|| self.process().said());
            assert!(said.is_none(), "{} exited during the start: {}", self.name, said.unwrap_or_default());
            assert!(start.elapsed() < DEADLINE, "{} does not serve", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends the process with a signal, and returns its exit status.
    pub fn end(&mut self, signal: Signal) -> Option<i32> {
        self.process().signal(signal);
        let status = self.process().wait();
        self.retire();
        status
    }

    /// Forgets a process that has ended, after a look at its log.
    pub fn retire(&mut self) {
        let Some(process) = self.process.take() else { return };
        let said = process.said();
        if said.contains("panicked") {
            self.ledger.broken(&format!("{} panicked: {}", self.name, tail(&said, 20)));
        }
        self.life.age = self.life.born.elapsed();
        self.lives.push(self.life);
        if let Some(folder) = &self.logs {
            let _ = fs::write(format!("{folder}/{}-{}.log", self.name, self.lives.len()), said);
        }
    }

    /// Runs a program at its side. A failure is a finding.
    pub fn tool(&self, words: &str) -> String {
        self.tool_with(words, "")
    }

    /// As [`tool`](Self::tool), with this standard input.
    pub fn tool_with(&self, words: &str, input: &str) -> String {
        let done = attempt(&self.side.namespace, &words.split(' ').collect::<Vec<_>>(), input);
        done.unwrap_or_else(|said| {
            self.ledger.broken(&format!("{}: {words}: {said}", self.name));
            String::new()
        })
    }

    /// Brings routes back that the loss of an address or of the cable has taken, as a DHCP client would.
    pub fn route_underlay(&self) {
        for (version, gateway) in [("-4", gateway4(&self.side)), ("-6", gateway6(&self.side))] {
            let words = ["ip", version, "route", "replace", "default", "via", &gateway, "dev", WAN];
            let start = Instant::now();
            // The kernel notices the carrier asynchronously, and only then is there a route to the gateway.
            while let Err(said) = attempt(&self.side.namespace, &words, "") {
                assert!(start.elapsed() < DEADLINE, "{words:?}: {said}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// Returns the endpoint at which it is reached.
    pub fn endpoint(&self, outside: Family) -> String {
        let mut endpoint = outside.endpoint(&self.side);
        endpoint.set_port(self.port);
        endpoint.to_string()
    }

    /// Looks at what the process holds, which must be as when it was warm.
    pub fn look(&mut self) {
        let born = self.life.born;
        if born.elapsed() < WARM {
            return;
        }
        let held = held(self.process());
        let warm = *self.life.warm.get_or_insert(held);
        self.life.last = Some(held);
        let flat = held.descriptors <= warm.descriptors
            && held.threads <= warm.threads
            && held.memory <= warm.memory + GROWTH;
        if flat {
            self.life.grown_since = None;
        } else if self.life.grown_since.get_or_insert_with(Instant::now).elapsed() > PATIENCE {
            let age = born.elapsed().as_secs();
            self.ledger.broken(&format!("{} (age {age} s) has grown from {warm:?} to {held:?}", self.name));
            self.life.warm = Some(held);
        }
    }
}

fn held(process: &Process) -> Held {
    let id = process.id();
    let descriptors = fs::read_dir(format!("/proc/{id}/fd")).map_or(0, Iterator::count);
    // Threads of the pool for blocking calls come and go; they end after 10 s without one.
    let lasting = |task: &fs::DirEntry| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() != "request")
    };
    let tasks = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    Held { memory: process.memory("VmRSS"), descriptors, threads: tasks.filter(lasting).count() }
}

/// Returns the gateway of a side: the first address of its network.
fn gateway4(side: &Side) -> String {
    let [a, b, c, _] = side.underlay4.octets();
    format!("{a}.{b}.{c}.1")
}

fn gateway6(side: &Side) -> String {
    let [a, b, c, ..] = side.underlay6.segments();
    format!("{a:x}:{b:x}:{c:x}::1")
}

/// Returns the last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
