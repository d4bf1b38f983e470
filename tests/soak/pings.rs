//! Pings that run all the time. `ping` compares the payload, which has the marker.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use laneway::cli::demo::lab::Side;

use super::flows::Context;
use crate::support::process::{Process, command_in};

/// A `ping` in one host.
pub struct Ping {
    pub name: String,
    process: Process,
    /// When the last request was sent that was answered.
    answered: Arc<Mutex<Option<Instant>>>,
    count: Arc<AtomicU64>,
}

impl Ping {
    pub fn start(side: &Side, to: IpAddr, context: &Context) -> Ping {
        let pattern = context.marker.iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        });
        let mut command = command_in(&side.namespace, "ping");
        command.args(["-n", "-i", "0.1", "-s", "100", "-p", &pattern, &to.to_string()]);
        let mut process =
            Process::start(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()));
        let output = process.take_stdout().expect("a pipe");
        let name = format!("ping {to}");
        let (answered, count) = (Arc::default(), Arc::default());
        let ping =
            Ping { name: name.clone(), process, answered: Arc::clone(&answered), count: Arc::clone(&count) };
        let ledger = Arc::clone(&context.ledger);
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if line.contains("wrong data") || line.contains("DUP!") {
                    ledger.broken(&format!("{name}: {line}"));
                }
                let time =
                    line.split_once("time=").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
                if let Some(time) = time.map(|time: f64| Duration::from_secs_f64(time / 1e3)) {
                    count.fetch_add(1, Relaxed);
                    *answered.lock().unwrap() = Instant::now().checked_sub(time);
                }
            }
        });
        ping
    }

    /// Returns whether a request was answered that was sent after `mark`.
    pub fn passes(&self, mark: Instant) -> bool {
        self.answered.lock().unwrap().is_some_and(|sent| sent > mark)
    }

    /// Returns how many were answered.
    pub fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }
}
