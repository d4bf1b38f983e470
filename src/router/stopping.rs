//! Shutdown of a router and its time limits.
//!
//! One [`Shutdown`](crate::shutdown::Shutdown) tells all threads to stop. Every wait is bounded, so a stuck
//! thread cannot prevent the others from ending:
//!
//! | Waiting thread | Waits for | Limit |
//! |---|---|---|
//! | each worker (`lane::wait::quiesce`) | packets already read to leave | 1 s ([`quiesce::LIMIT`]) |
//! | peer actor (`peers::apply`) | workers to close the old port's sockets, during a change | 1 s |
//! | admin (`router::admin`) | pending requests and a reload, which wait for the peer actor | [`ANSWERS`] |
//! | admin, while starting | name lookups | 0.1 s, its interval for checking the shutdown |
//! | supervisor | workers and peer actor | [`THREADS`] |
//! | `cli::launch` | admin | [`THREADS`], shared with the supervisor |
//! | `cli::launch` | removal of rules by netlink | [`PROCESS`] |
//! | `cli::launch`, at a restart | the state to be with the service manager | [`LEAVING`] before the router is told to stop |
//! | any other | a blocked log, a lock, the kernel | [`PROCESS`] |
//!
//! Threads that look names up are not waited for. A thread left behind keeps its descriptors, and with them
//! the device, until the process ends.

use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::lane::wait::quiesce;

/// Time limit for a router's threads to end. They normally take a few milliseconds, or little over a second
/// if packets can no longer leave.
pub const THREADS: Duration = Duration::from_secs(5);

/// Time limit for the process to end once it is told to stop. Container runtimes kill it after 10 s.
pub const PROCESS: Duration = Duration::from_secs(8);

/// Time limit for leaving the sessions to the next process of the service. They normally take some milliseconds; the
/// service manager may take some seconds.
pub const LEAVING: Duration = Duration::from_secs(10);

/// Time limit for pending requests and a reload to be answered.
pub const ANSWERS: Duration = Duration::from_secs(2);

const _: () = assert!(quiesce::LIMIT.as_millis() < ANSWERS.as_millis());
const _: () = assert!(ANSWERS.as_millis() < THREADS.as_millis());
const _: () = assert!(THREADS.as_millis() < PROCESS.as_millis());

/// How often [`join_until`] checks whether the thread has ended.
const LOOK: Duration = Duration::from_millis(1);

/// Errors when stopping a router.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// A thread failed before the router was told to stop.
    #[error("{0}")]
    Failed(String),
    /// These threads did not end and are left behind. Packets that they held are lost.
    #[error("{} did not end within {} s of being told to; please report this", .0.join(" and "), THREADS.as_secs())]
    Stuck(Vec<String>),
}

/// Waits until `thread` ends, but no longer than until `deadline`. Returns the thread's result.
///
/// # Errors
/// Returns `thread` itself if it has not ended.
pub fn join_until<T>(thread: JoinHandle<T>, deadline: Instant) -> Result<thread::Result<T>, JoinHandle<T>> {
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            return Err(thread);
        }
        thread::sleep(LOOK);
    }
    Ok(thread.join())
}

/// Returns the name of `thread`.
pub fn name_of<T>(thread: &JoinHandle<T>) -> String {
    thread.thread().name().unwrap_or("an unnamed thread").to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_thread_that_does_not_end_is_given_back_and_can_be_named() {
        let (end, wait) = mpsc::channel::<()>();
        let stuck = thread::Builder::new().name("stuck".into()).spawn(move || wait.recv()).unwrap();
        let stuck = join_until(stuck, Instant::now()).expect_err("the thread still waits");
        assert_eq!(name_of(&stuck), "stuck");
        drop(end);
        let ended = join_until(stuck, Instant::now() + Duration::from_secs(600)).expect("the thread ends");
        assert!(ended.unwrap().is_err());
    }

    #[test]
    fn who_is_stuck_is_named() {
        let error = StopError::Stuck(vec!["inside-0".into(), "peers".into()]);
        assert!(error.to_string().starts_with("inside-0 and peers did not end within 5 s"), "{error}");
    }
}
