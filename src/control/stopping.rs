//! How a router stops, and how long that may take.
//!
//! Everybody is told by one [`Shutdown`](crate::offload::Shutdown), and nobody is waited for without a bound,
//! for a thread that is stuck would hold up the end of all others. These are the waits on the way down:
//!
//! | Who waits | For what | At the most |
//! |---|---|---|
//! | each worker (`lane::drain`) | that what was taken in leaves | 1 s ([`drain::LIMIT`]) |
//! | peer actor (`control::device`) | a port that its workers let go of, in the middle of a change | 1 s |
//! | admin (`control::admin`) | requests and a reload under way, which wait for the peer actor | [`ANSWERS`] |
//! | admin, while it starts | names that are looked up | 0.1 s: it looks whether to stop |
//! | supervisor | workers and peer actor | [`THREADS`] |
//! | `cli::launch` | admin | [`THREADS`], the same ones |
//! | `cli::launch` | rules to be taken away, by netlink | [`PROCESS`] |
//! | whoever is not in this list | a full log, a lock, the kernel | [`PROCESS`] |
//!
//! Name look-ups are not waited for. A thread that is left behind keeps its descriptors until the process ends,
//! which takes them, and with them the device.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::lane::drain;

/// How long the threads of a router may take to end. In good health it is a few milliseconds, and little over a
/// second when nothing can leave any more.
pub const THREADS: Duration = Duration::from_secs(5);

/// How long the whole process may take from the moment that it is told. Container runtimes kill after ten seconds.
pub const PROCESS: Duration = Duration::from_secs(8);

/// How long those who asked something may wait for the answer.
pub const ANSWERS: Duration = Duration::from_secs(2);

const _: () = assert!(drain::LIMIT.as_millis() < ANSWERS.as_millis());
const _: () = assert!(ANSWERS.as_millis() < THREADS.as_millis());
const _: () = assert!(THREADS.as_millis() < PROCESS.as_millis());

/// How often it is looked whether a thread has ended.
const LOOK: Duration = Duration::from_millis(1);

/// Why a router did not stop in good order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// A part of it had failed before it was told to stop.
    #[error("{0}")]
    Failed(String),
    /// These threads did not end, and are left behind. What they had in hand is lost.
    #[error("{} did not end within {} s of being told to; please report this", .0.join(" and "), THREADS.as_secs())]
    Stuck(Vec<String>),
}

/// Waits for the end of `thread`, and no longer than to `deadline`: what it returned, or itself.
///
/// # Errors
/// It has not ended.
pub fn join_until<T>(thread: JoinHandle<T>, deadline: Instant) -> Result<thread::Result<T>, JoinHandle<T>> {
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            return Err(thread);
        }
        thread::sleep(LOOK);
    }
    Ok(thread.join())
}

/// What a thread is called.
pub fn name_of<T>(thread: &JoinHandle<T>) -> String {
    thread.thread().name().unwrap_or("a thread without a name").to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_thread_that_does_not_end_is_given_back_and_can_be_named() {
        let (end, wait) = mpsc::channel::<()>();
        let stuck = thread::Builder::new().name("stuck".into()).spawn(move || wait.recv()).unwrap();
        let stuck = join_until(stuck, Instant::now()).expect_err("it waits");
        assert_eq!(name_of(&stuck), "stuck");
        drop(end);
        let ended = join_until(stuck, Instant::now() + Duration::from_secs(600)).expect("it ends");
        assert!(ended.unwrap().is_err());
    }

    #[test]
    fn who_is_stuck_is_named() {
        let error = StopError::Stuck(vec!["inside-0".into(), "peers".into()]);
        assert!(error.to_string().starts_with("inside-0 and peers did not end within 5 s"), "{error}");
    }
}
