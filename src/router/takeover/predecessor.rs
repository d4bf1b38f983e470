//! The running router's side of a take-over.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;
use std::{io, mem};

use arc_swap::ArcSwap;
use crossbeam::channel;
use nix::errno::Errno;

use super::connection::{Connection, LineError};
use super::state::{self, Memory, State, StateError};
use super::{ANSWERING, Descriptor, Offer, PAUSING, PREPARING, STARTING};
use crate::clock;
use crate::config::update::{DeviceStatus, DeviceUpdate};
use crate::faults::{self, TakeOverStep};
use crate::lane::sockets::LaneSockets;
use crate::lane::wait::pause::Pause;
use crate::metrics::TakeOverMetrics;
use crate::peers::handle::ActorHandle;
use crate::peers::state::Thaw;
use crate::shutdown::Shutdown;
use crate::uapi::{self, Device, SocketFile};

/// The descriptors and parts of a running router that a successor continues with.
#[derive(Clone, Debug)]
pub struct Estate {
    /// What the successor must know before the state.
    pub offer: Offer,
    /// The TUN queues, by lane.
    pub queues: Vec<Arc<OwnedFd>>,
    /// The current sockets of each lane.
    pub sockets: Vec<Arc<ArcSwap<LaneSockets>>>,
    /// Pauses the workers.
    pub pause: Arc<Pause>,
    /// The peer actor.
    pub actor: ActorHandle,
    /// Counts take-overs.
    pub metrics: TakeOverMetrics,
    /// Ends the router once it has been handed over.
    pub shutdown: Arc<Shutdown>,
}

/// Hands a running router over to a successor that asks for it.
#[derive(Debug)]
pub struct Predecessor {
    estate: Estate,
    http: Option<OwnedFd>,
    masquerade: Option<OwnedFd>,
    control: OnceLock<(OwnedFd, Option<Arc<SocketFile>>)>,
    /// The two ends of a pipe that closes when this process ends: one to give away, one to keep.
    life: (OwnedFd, OwnedFd),
    handed_over: Arc<AtomicBool>,
    /// The last round of the pause. Locked while a take-over is in progress.
    round: Mutex<u32>,
}

/// Why the router was not handed over.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error(transparent)]
    Line(#[from] LineError),
    #[error("{0}")]
    Here(&'static str),
    #[error(transparent)]
    State(#[from] StateError),
}

impl Predecessor {
    /// Creates the service. `http` is the listener for HTTP and `masquerade` the socket of the rules for masquerading, if
    /// there are any. `handed_over` is set once the router is the successor's.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn new(
        estate: Estate,
        http: Option<OwnedFd>,
        masquerade: Option<OwnedFd>,
        handed_over: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        Ok(Predecessor {
            estate,
            http,
            masquerade,
            control: OnceLock::new(),
            life: (reader.into(), writer.into()),
            handed_over,
            round: Mutex::new(0),
        })
    }

    /// Records the control socket. If the process is out of descriptors, the router cannot be taken over.
    pub fn note_control(&self, server: &uapi::Server) {
        match server.as_fd().try_clone_to_owned() {
            // A process has one control socket.
            Ok(socket) => drop(self.control.set((socket, server.file().cloned()))),
            Err(error) => tracing::warn!("no process can take this router over: {error}"),
        }
    }

    /// Hands the router over to the process at the other end of `stream`. Blocks until the successor runs, or this router
    /// goes on.
    pub fn serve(&self, stream: UnixStream) {
        let Ok(mut connection) = Connection::new(stream) else { return };
        if !connection.is_same_user() {
            return;
        }
        let Ok(mut round) = self.round.try_lock() else {
            let _ = connection.say("no another take-over is in progress");
            return;
        };
        faults::step(TakeOverStep::Asked);
        if let Err(failed) = self.hand_over(&mut connection, &mut round) {
            self.estate.metrics.failed.increment(1);
            tracing::warn!("the router was not taken over and goes on: {failed}");
        }
    }

    fn hand_over(&self, connection: &mut Connection, round: &mut u32) -> Result<(), Failed> {
        self.offer(connection)?;
        faults::step(TakeOverStep::Offered);
        connection.expect("ready", PREPARING)?;
        let (thaw, frozen) = channel::bounded(1);
        let held = Held(&self.estate.pause);
        let Err((failed, go_on)) = self.hand_sessions_over(connection, round, &frozen) else {
            // The workers stay paused, and the actor frozen, until they are told to end.
            mem::forget(held);
            self.end(connection);
            return Ok(());
        };
        if go_on == Thaw::GoOn {
            // Said before anything is sent again: see the module.
            let _ = connection.say(&format!("no {}", one_line(&failed)));
        }
        let _ = thaw.send(go_on);
        if go_on == Thaw::Forget {
            // Answered once the sessions are forgotten.
            let _ = self.estate.actor.status();
        }
        drop(held);
        Err(failed)
    }

    /// Ends this router, and leaves everything to the process at the other end of `connection`.
    fn end(&self, connection: &Connection) {
        let process = connection.process().map_or_else(String::new, |process| format!(" {process}"));
        tracing::info!("process{process} has taken the router over");
        self.leave();
    }

    /// Tells the router to end, and to leave interface, rules and control socket to another process.
    fn leave(&self) {
        self.handed_over.store(true, Ordering::Release);
        if let Some((_, Some(file))) = self.control.get() {
            file.leave();
        }
        self.estate.shutdown.signal();
    }

    /// Pauses the router for good, gives its state, the offer that goes with it and the socket of the rules for
    /// masquerading to `store`, and ends it, so that the next process of its service continues. Does so without a state if
    /// there is none or it cannot be stored.
    ///
    /// # Errors
    /// There is no state. Nothing was done if the router stops already, or is being taken over.
    pub(super) fn leave_to_next(
        &self,
        store: impl FnOnce(State, &Offer, Option<BorrowedFd<'_>>) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        let Ok(mut round) = self.round.try_lock() else {
            return Err(Failed::Here("a process is taking the router over"));
        };
        let (thaw, frozen) = channel::bounded(1);
        let rules = self.masquerade.as_ref().map(AsFd::as_fd);
        let stored =
            self.freeze(&mut round, &frozen).and_then(|state| store(state, &self.estate.offer, rules));
        // From here on nothing may be sent with the sessions, so the pause does not end, and the actor thaws when it is
        // told to end.
        if stored.is_ok() || !self.estate.shutdown.is_signalled() {
            self.leave();
        }
        drop(thaw);
        stored
    }

    /// Returns whether the router is left to another process.
    pub(super) fn is_left(&self) -> bool {
        self.handed_over.load(Ordering::Acquire)
    }

    /// Sends the offer with all descriptors.
    fn offer(&self, connection: &mut Connection) -> Result<(), Failed> {
        if self.control.get().is_none() {
            return Err(Failed::Here("the router has not started yet"));
        }
        self.with_descriptors(|all| {
            let (kinds, descriptors): (Vec<_>, Vec<_>) = all.iter().copied().unzip();
            let offer = Offer { descriptors: kinds, ..self.estate.offer.clone() };
            let line =
                serde_json::to_string(&offer).map_err(|_| Failed::Here("the offer cannot be encoded"))?;
            Ok(connection.say_with(&line, &descriptors)?)
        })
    }

    /// Calls `act` with all descriptors that a successor needs, by lane within each kind.
    pub(super) fn with_descriptors<T>(&self, act: impl FnOnce(&[(Descriptor, BorrowedFd<'_>)]) -> T) -> T {
        let Estate { queues, sockets, .. } = &self.estate;
        let sockets: Vec<_> = sockets.iter().map(|sockets| sockets.load_full()).collect();
        let mut all = vec![(Descriptor::Life, self.life.0.as_fd())];
        all.extend((0..).zip(queues).map(|(lane, queue)| (Descriptor::Tun(lane), queue.as_fd())));
        for (lane, sockets) in (0..).zip(&sockets) {
            all.push((Descriptor::Shared(lane), sockets.shared.as_fd()));
            all.extend(sockets.own.iter().map(|own| (Descriptor::Own(lane), own.as_fd())));
        }
        all.extend(self.http.iter().map(|http| (Descriptor::Http, http.as_fd())));
        all.extend(self.masquerade.iter().map(|rules| (Descriptor::Masquerade, rules.as_fd())));
        all.extend(self.control.get().map(|(control, _)| (Descriptor::Control, control.as_fd())));
        act(&all)
    }

    /// Returns the router's UDP port.
    pub(super) fn port(&self) -> u16 {
        self.estate.actor.listening().borrow().port
    }

    /// Returns whether all lanes have sockets on this port.
    pub(super) fn has_port(&self, port: u16) -> bool {
        self.estate.sockets.iter().all(|sockets| sockets.load().shared.port() == port)
    }

    /// Pauses the router and hands its sessions over. An error comes with how the actor goes on.
    fn hand_sessions_over(
        &self,
        connection: &mut Connection,
        round: &mut u32,
        frozen: &channel::Receiver<Thaw>,
    ) -> Result<(), (Failed, Thaw)> {
        let goes_on = |failed: Failed| (failed, Thaw::GoOn);
        // Wiped when this returns, if the successor has not done so.
        let _memory = self.send_state(connection, round, frozen).map_err(goes_on)?;
        faults::step(TakeOverStep::StateSent);
        match connection.hear(ANSWERING) {
            Ok(answer) if answer == "accept" || answer == "fresh" => {}
            Ok(answer) => return Err(goes_on(LineError::Unknown(answer).into())),
            Err(error) => return Err(goes_on(error.into())),
        }
        faults::step(TakeOverStep::Accepted);
        let gave = connection.say("go");
        faults::step(TakeOverStep::Gone);
        match gave.and_then(|()| connection.expect("running", STARTING)) {
            Ok(()) => Ok(()),
            // It may have used the sessions.
            Err(error @ LineError::Closed) => Err((error.into(), Thaw::Forget)),
            Err(error) => {
                tracing::warn!("the successor has the sessions, but: {error}");
                Ok(())
            }
        }
    }

    fn send_state(
        &self,
        connection: &mut Connection,
        round: &mut u32,
        frozen: &channel::Receiver<Thaw>,
    ) -> Result<Memory, Failed> {
        let memory = Memory(state::write(&self.freeze(round, frozen)?)?);
        faults::step(TakeOverStep::Frozen);
        connection.say_with("state", &[memory.0.as_fd()])?;
        Ok(memory)
    }

    /// Pauses the workers, freezes the peer actor, and returns the state. The caller ends the pause.
    fn freeze(&self, round: &mut u32, frozen: &channel::Receiver<Thaw>) -> Result<State, Failed> {
        let Estate { pause, actor, shutdown, .. } = &self.estate;
        let (began, paused) = (Instant::now(), clock::now());
        let in_time = || began.elapsed() < PAUSING && !shutdown.is_signalled();
        if !pause.settle(round, in_time) {
            return Err(Failed::Here("its workers could not finish what they have read"));
        }
        faults::step(TakeOverStep::Paused);
        let state = actor.freeze(frozen.clone(), PAUSING);
        let actor = state.ok_or(Failed::Here("its peer actor did not stop in time"))?;
        if !pause.settle(round, in_time) {
            return Err(Failed::Here("its workers could not send the last handshake messages"));
        }
        Ok(State { paused, actor, staged: pause.take_staged() })
    }
}

impl Device for Predecessor {
    fn apply(&self, update: DeviceUpdate) -> Result<(), Errno> {
        self.estate.actor.apply(update)
    }

    fn status(&self) -> Result<DeviceStatus, Errno> {
        self.estate.actor.status()
    }

    fn metrics(&self) -> String {
        self.estate.actor.metrics()
    }

    fn drops(&self, after: u64) -> String {
        self.estate.actor.drops(after)
    }

    fn hand_over(&self, stream: UnixStream) {
        self.serve(stream);
    }
}

/// Ends the pause when dropped.
struct Held<'p>(&'p Pause);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

fn one_line(failed: &Failed) -> String {
    failed.to_string().replace('\n', " ")
}
