//! The successor's side of a take-over.

use std::fs::File;
use std::io::{self, Write as _};
use std::net::TcpListener;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};
use procfs::process::Process;

use super::connection::{Connection, LineError};
use super::restart::StoredSessions;
use super::state::{self, State, StateError};
use super::{ANSWERING, Descriptor, Offer, PAUSING, PREPARING};
use crate::config::RouterConfig;
use crate::faults::{self, TakeOverStep};
use crate::offload::Offloads;
use crate::uapi;
use crate::uapi::protocol::TAKE_OVER;

/// How long the end of a process may become visible after its connection has closed.
const DYING: u16 = 1000;

/// Why a router could not be taken over.
#[derive(Debug, thiserror::Error)]
pub enum TakeOverError {
    /// The running router did not hand itself over. It goes on.
    #[error("cannot take over from the running router: {0}")]
    Refused(#[from] LineError),
    /// The running router differs in a way that a take-over cannot bridge.
    #[error(
        "cannot take over from the running router: it has {there}, and this one would have {here}; {remedy}"
    )]
    Differs {
        /// The running router's setting.
        there: String,
        /// The successor's setting.
        here: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The descriptors are not those of a router.
    #[error("cannot take over from the running router: {0}")]
    Descriptors(&'static str),
    /// The state is of no use.
    #[error("cannot take over from the running router: {0}")]
    State(#[from] StateError),
    /// The running router's configuration cannot be continued.
    #[error("cannot take over from the running router: {0}")]
    Carry(#[from] crate::wireguard::state::Contradiction),
    /// A system call failed.
    #[error("cannot take over from the running router: {0}")]
    Os(#[from] io::Error),
}

/// A router that is being taken over.
#[derive(Debug)]
pub struct Successor {
    connection: Connection,
    offer: Offer,
    estate: Inherited,
    /// A pipe that closes when the predecessor's process ends.
    life: OwnedFd,
}

/// The descriptors of a router that another process has opened.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The TUN queues, by lane.
    pub queues: Vec<OwnedFd>,
    /// The offloads of the interface, if a process still reads the queues and they must stay as they are.
    pub offloads: Option<Offloads>,
    /// Whether the kernel takes superpackets inside UDP tunnels, if another process has tried.
    pub tunnels: Option<bool>,
    /// The UDP sockets, by lane: on the router's port, and on the lane's own.
    pub sockets: Vec<(OwnedFd, Option<OwnedFd>)>,
    /// The secret of the receiver indices, if sessions are to be continued.
    pub secret: Option<[u8; 8]>,
    /// The listener for HTTP.
    pub http: Option<TcpListener>,
    /// The listener of the control socket.
    pub control: Option<OwnedFd>,
    /// The netlink socket that the rules for masquerading belong to.
    pub masquerade: Option<OwnedFd>,
    /// The sessions, if the process has ended and left them.
    pub sessions: Option<Box<StoredSessions>>,
    /// The descriptors that the service manager still keeps, if they come from there.
    pub kept: Vec<Descriptor>,
}

/// What a successor continues with.
pub enum Carried {
    /// The sessions go on.
    State(Box<State>),
    /// Only the descriptors: the state is not understood, or the predecessor ended before it gave one away.
    Fresh(String),
}

impl Successor {
    /// Asks the router that serves `interface` in `directory` to hand itself over. Returns `None` if none runs, or if it
    /// ends before it has answered.
    ///
    /// # Errors
    /// It refuses.
    pub fn ask(directory: &Path, interface: &str) -> Result<Option<Self>, TakeOverError> {
        let path = uapi::socket_path(directory, interface);
        let mut stream = match UnixStream::connect(&path) {
            Ok(stream) => stream,
            Err(error)
                if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        stream.write_all(format!("{TAKE_OVER}\n\n").as_bytes())?;
        let mut connection = Connection::new(stream)?;
        if !connection.is_same_user() {
            return Err(TakeOverError::Descriptors("it runs as another user"));
        }
        faults::step(TakeOverStep::Connected);
        let answer = match connection.hear(PREPARING) {
            Ok(answer) => answer,
            Err(LineError::Closed) => {
                await_end(connection.process());
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        let offer: Offer = serde_json::from_str(&answer)
            .map_err(|_| LineError::Unknown("an offer of another form".into()))?;
        let (estate, life) = sort(&offer, &mut connection)?;
        faults::step(TakeOverStep::Received);
        Ok(Some(Successor { connection, offer, estate, life }))
    }

    /// Returns what the predecessor offers.
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// Returns the descriptors, which can be taken out.
    pub fn descriptors(&mut self) -> &mut Inherited {
        &mut self.estate
    }

    /// Refuses to go on if a router with `config` would have other lanes, ports per lane or offloads.
    ///
    /// # Errors
    /// [`TakeOverError::Differs`].
    pub fn check(&self, config: &RouterConfig) -> Result<(), TakeOverError> {
        let lanes = config.queues.count_here();
        let spread = config.spread_ports.is_on();
        if !config.tun_offload.is_on() && self.offer.offloads != Offloads::default() {
            return Err(TakeOverError::Differs {
                there: "offloads".to_owned(),
                here: "none".to_owned(),
                remedy: "set LANEWAY_TUN_OFFLOAD=auto, or restart it",
            });
        }
        if lanes != self.offer.lanes {
            return Err(TakeOverError::Differs {
                there: format!("{} lane{}", self.offer.lanes, if self.offer.lanes == 1 { "" } else { "s" }),
                here: lanes.to_string(),
                remedy: "set LANEWAY_QUEUES to that number, or restart it",
            });
        }
        if spread != self.offer.spread {
            let name = |spread| if spread { "one port per lane" } else { "one port" };
            return Err(TakeOverError::Differs {
                there: name(self.offer.spread).to_owned(),
                here: name(spread).to_owned(),
                remedy: "set LANEWAY_SPREAD_PORTS as it is there, or restart it",
            });
        }
        Ok(())
    }

    /// Has the predecessor pause, and returns its state.
    ///
    /// # Errors
    /// The predecessor goes on.
    pub fn take_state(&mut self) -> Result<Carried, TakeOverError> {
        faults::step(TakeOverStep::Prepared);
        let heard = self
            .connection
            .say("ready")
            .and_then(|()| self.connection.expect("state", 2 * PAUSING + ANSWERING));
        match heard {
            Ok(()) => {}
            Err(LineError::Closed) if self.predecessor_ended() => {
                return Ok(Carried::Fresh(
                    "the running router ended before it gave its sessions away".into(),
                ));
            }
            Err(error) => return Err(error.into()),
        }
        let memory = self.connection.descriptor().ok_or(TakeOverError::Descriptors("it sent no state"))?;
        match state::take(&File::from(memory)) {
            Ok(state) => {
                faults::step(TakeOverStep::Read);
                Ok(Carried::State(Box::new(state)))
            }
            Err(error @ StateError::Version(_)) => Ok(Carried::Fresh(error.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    /// Accepts the state, and waits until the predecessor leaves the sessions. After that, this router runs.
    ///
    /// # Errors
    /// The predecessor goes on.
    pub fn accept(&mut self, fresh: bool) -> Result<(), TakeOverError> {
        let answer = if fresh { "fresh" } else { "accept" };
        let said = self.connection.say(answer);
        faults::step(TakeOverStep::Said);
        match said.and_then(|()| self.connection.expect("go", ANSWERING)) {
            // It has not sent anything since it gave the state away: see the module.
            Err(LineError::Closed) if self.predecessor_ended() => {}
            outcome => outcome?,
        }
        faults::step(TakeOverStep::Going);
        Ok(())
    }

    /// Tells the predecessor that this router runs.
    pub fn running(&mut self) {
        // It ends in any case.
        let _ = self.connection.say("running");
        faults::step(TakeOverStep::Running);
    }

    /// Returns whether the predecessor's process has ended.
    fn predecessor_ended(&self) -> bool {
        let mut life = [PollFd::new(self.life.as_fd(), PollFlags::POLLIN)];
        poll(&mut life, DYING) == Ok(1)
    }
}

/// Waits until a process that has closed its connection has closed its other descriptors too, if it is ending.
fn await_end(process: Option<i32>) {
    let Some(process) = process else { return };
    // The first thread may have ended before the others.
    let has_ended = || match Process::new(process).and_then(|process| process.stat()) {
        Ok(stat) => matches!(stat.state, 'Z' | 'X') && stat.num_threads <= 1,
        Err(_) => true,
    };
    let begin = Instant::now();
    while !has_ended() && begin.elapsed() < Duration::from_millis(DYING.into()) {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Returns what the descriptors of `offer` are.
fn sort(offer: &Offer, connection: &mut Connection) -> Result<(Inherited, OwnedFd), TakeOverError> {
    const MISSING: TakeOverError = TakeOverError::Descriptors("descriptors are missing");
    let mut estate = Inherited {
        offloads: Some(offer.offloads),
        tunnels: offer.tunnels,
        secret: Some(offer.secret),
        ..Inherited::default()
    };
    let mut life = None;
    for kind in &offer.descriptors {
        let descriptor = connection.descriptor().ok_or(MISSING)?;
        estate.add(*kind, descriptor, &mut life)?;
    }
    if estate.queues.len() != offer.lanes || estate.sockets.len() != offer.lanes {
        return Err(MISSING);
    }
    Ok((estate, life.ok_or(MISSING)?))
}

impl Inherited {
    /// Adds a descriptor. Those of each kind come in the order of their lanes, shared sockets before own ones.
    pub(super) fn add(
        &mut self,
        kind: Descriptor,
        descriptor: OwnedFd,
        life: &mut Option<OwnedFd>,
    ) -> Result<(), TakeOverError> {
        const ORDER: TakeOverError = TakeOverError::Descriptors("descriptors are not in order");
        match kind {
            Descriptor::Tun(lane) if lane == self.queues.len() => self.queues.push(descriptor),
            Descriptor::Shared(lane) if lane == self.sockets.len() => self.sockets.push((descriptor, None)),
            Descriptor::Own(lane) => {
                let sockets = self.sockets.get_mut(lane).ok_or(ORDER)?;
                sockets.1 = Some(descriptor);
            }
            Descriptor::Http => self.http = Some(descriptor.into()),
            Descriptor::Control => self.control = Some(descriptor),
            Descriptor::Masquerade => self.masquerade = Some(descriptor),
            Descriptor::Life => *life = Some(descriptor),
            Descriptor::Tun(_) | Descriptor::Shared(_) => return Err(ORDER),
        }
        Ok(())
    }
}
