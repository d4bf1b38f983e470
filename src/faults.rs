//! Panics on demand, for the tests of what a panic costs (`tests/panics.rs`).
//!
//! [`point`] marks the stages of the data path at which a test can make a worker panic. Only debug builds have
//! the mechanism; in a release build `point` is empty.
//!
//! Tests [`install`] their [`Faults`] on the thread that starts a router, whose workers inherit them. Other routers of
//! the process are not affected.

#[cfg(debug_assertions)]
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

macro_rules! stages {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A stage of the data path at which a worker can be made to panic.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Stage {
            $($(#[$doc])* $name,)*
        }

        impl Stage {
            /// All stages, in discriminant order.
            pub const ALL: &'static [Stage] = &[$(Stage::$name,)*];
        }
    };
}

stages! {
    /// Inside worker: a packet was read from the TUN queue but not validated.
    Read,
    /// Inside worker: a superpacket is about to be routed.
    Route,
    /// Inside worker: a superpacket is about to be answered.
    Reject,
    /// Inside worker: a packet is being staged.
    Stage,
    /// Inside worker: a staged packet was taken out.
    Release,
    /// Inside worker: a segment is about to be cut.
    Cut,
    /// Inside worker: a run has its counters but is not sealed.
    Seal,
    /// Inside worker: a batch leaves for the outside worker.
    HandOver,
    /// Inside worker: a lone datagram is about to be sent.
    SendShortcut,
    /// Inside worker: batches were taken from the ring.
    Take,
    /// Inside worker: a packet or superpacket is about to be written.
    Write,
    /// Inside worker: the packets are written, their batches not yet returned.
    Return,
    /// Outside worker: a command was taken from the channel.
    Command,
    /// Outside worker: a run is about to be sent.
    Send,
    /// Outside worker: a run was sent.
    Sent,
    /// Outside worker: a batch was sent but not returned.
    Finish,
    /// Outside worker: messages were received but none is opened.
    Receive,
    /// Outside worker: a run was opened, its sources not yet checked.
    Open,
    /// Outside worker: a handshake message is about to go to the peer actor.
    Handshake,
    /// Outside worker: a packet is about to be placed in a batch.
    Place,
    /// Outside worker: all packets of a message are placed.
    Settle,
    /// Outside worker: a batch leaves for an inside worker.
    Push,
    /// Outside worker: a lone packet is about to be written.
    WriteShortcut,
    /// Any worker: a run of a shared batch is about to be sealed.
    SealJob,
    /// Any worker: a shared batch is about to be opened.
    OpenJob,
    /// Any worker: another worker's shared batch is about to be sealed or opened.
    Help,
}

/// Panics to come, by stage.
#[derive(Debug)]
pub struct Faults(Box<[AtomicU32]>);

impl Faults {
    /// Creates a plan without panics.
    pub fn new() -> Self {
        Self(Stage::ALL.iter().map(|_| AtomicU32::new(0)).collect())
    }

    /// Causes panics the next `times` times that a worker reaches `stage`.
    pub fn arm(&self, stage: Stage, times: u32) {
        self.0[stage as usize].store(times, Ordering::Relaxed);
    }

    /// Returns how many panics at `stage` are still to come.
    pub fn left(&self, stage: Stage) -> u32 {
        self.0[stage as usize].load(Ordering::Relaxed)
    }

    /// Panics if a panic at `stage` is due.
    ///
    /// # Panics
    /// As described.
    pub fn strike(&self, stage: Stage) {
        let less = |left: u32| left.checked_sub(1);
        let due = self.0[stage as usize].fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        assert!(due.is_err(), "a panic at stage {stage:?}, as a test intends");
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(debug_assertions)]
thread_local! {
    static FAULTS: RefCell<Option<Arc<Faults>>> = const { RefCell::new(None) };
}

/// Sets the faults of the calling thread, and of the workers of each router that it starts. Does nothing in a release
/// build.
pub fn install(faults: Option<Arc<Faults>>) {
    #[cfg(debug_assertions)]
    FAULTS.set(faults);
    #[cfg(not(debug_assertions))]
    drop(faults);
}

/// Returns the faults of the calling thread; `None` in a release build.
pub fn installed() -> Option<Arc<Faults>> {
    #[cfg(debug_assertions)]
    return FAULTS.with_borrow(Clone::clone);
    #[cfg(not(debug_assertions))]
    None
}

/// Panics if a test wants the calling worker to panic at `stage`. Does nothing in a release build.
#[inline]
pub fn point(stage: Stage) {
    #[cfg(debug_assertions)]
    FAULTS.with_borrow(|faults| faults.iter().for_each(|faults| faults.strike(stage)));
    #[cfg(not(debug_assertions))]
    let _ = stage;
}

/// A step of a take-over ([`takeover`](crate::router::takeover)) at which a test can end the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeOverStep {
    /// Predecessor: it was asked.
    Asked,
    /// Predecessor: it has sent the offer.
    Offered,
    /// Predecessor: its workers are paused.
    Paused,
    /// Predecessor: the state is written.
    Frozen,
    /// Predecessor: the state is sent.
    StateSent,
    /// Predecessor: the successor has accepted.
    Accepted,
    /// Predecessor: it has said `go`.
    Gone,
    /// Predecessor, at a restart: the state is written.
    Written,
    /// Predecessor, at a restart: the service manager has the state.
    Kept,
    /// Successor: it has asked.
    Connected,
    /// Successor: it has the descriptors.
    Received,
    /// Successor: it is ready.
    Prepared,
    /// Successor, at a restart: the service manager has passed the state on.
    Found,
    /// Successor, at a restart: the service manager has forgotten the state.
    Removed,
    /// Successor: it has read the state.
    Read,
    /// Successor: it has imported the state.
    Imported,
    /// Successor: it has accepted.
    Said,
    /// Successor: the predecessor has said `go`.
    Going,
    /// Successor: its threads run.
    Started,
    /// Successor: it has said so.
    Running,
}

impl TakeOverStep {
    /// The steps of the predecessor, in order.
    pub const OF_PREDECESSOR: [TakeOverStep; 7] = [
        TakeOverStep::Asked,
        TakeOverStep::Offered,
        TakeOverStep::Paused,
        TakeOverStep::Frozen,
        TakeOverStep::StateSent,
        TakeOverStep::Accepted,
        TakeOverStep::Gone,
    ];

    /// The steps of a restart, in order: two of the predecessor, and the rest of the successor.
    pub const OF_RESTART: [TakeOverStep; 7] = [
        TakeOverStep::Written,
        TakeOverStep::Kept,
        TakeOverStep::Found,
        TakeOverStep::Removed,
        TakeOverStep::Read,
        TakeOverStep::Imported,
        TakeOverStep::Started,
    ];

    /// The steps of the successor, in order.
    pub const OF_SUCCESSOR: [TakeOverStep; 9] = [
        TakeOverStep::Connected,
        TakeOverStep::Received,
        TakeOverStep::Prepared,
        TakeOverStep::Read,
        TakeOverStep::Imported,
        TakeOverStep::Said,
        TakeOverStep::Going,
        TakeOverStep::Started,
        TakeOverStep::Running,
    ];
}

/// The variable that names the [`TakeOverStep`] at which a process kills itself.
pub const DIES_AT: &str = "TAKE_OVER_TEST_DIES_AT";

/// The variable with the version of the state that a process understands.
pub const UNDERSTANDS: &str = "TAKE_OVER_TEST_VERSION";

/// Kills the process if a test wants it to die at `step`. Does nothing in a release build.
pub fn step(step: TakeOverStep) {
    #[cfg(debug_assertions)]
    if std::env::var(DIES_AT).is_ok_and(|name| name == format!("{step:?}")) {
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL);
    }
    #[cfg(not(debug_assertions))]
    let _ = step;
}

/// Returns `version`, or the version that a test sets. Always `version` in a release build.
pub fn understood_version(version: u32) -> u32 {
    #[cfg(debug_assertions)]
    return std::env::var(UNDERSTANDS).ok().and_then(|text| text.parse().ok()).unwrap_or(version);
    #[cfg(not(debug_assertions))]
    version
}

#[cfg(test)]
mod tests {
    use std::panic::catch_unwind;
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_panics_as_often_as_armed_and_only_at_that_stage() {
        let faults = Arc::new(Faults::new());
        faults.arm(Stage::Seal, 2);
        let strike = || catch_unwind(|| point(Stage::Seal)).is_err();
        thread::spawn(move || {
            assert!(!strike(), "none is installed");
            install(Some(Arc::clone(&faults)));
            point(Stage::Open);
            let struck = [strike(), strike(), strike()];
            assert_eq!(
                (struck, faults.left(Stage::Seal)),
                ([cfg!(debug_assertions), cfg!(debug_assertions), false], 0)
            );
        })
        .join()
        .unwrap();
    }
}
