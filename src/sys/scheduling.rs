//! How the kernel's scheduler treats the calling thread when there is work for it.

use std::io;

/// A policy of the scheduler (`sched(7)`) that takes no privilege.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheduling {
    /// A thread that wakes may take the CPU from another at once (`SCHED_OTHER`).
    #[default]
    Normal,
    /// It waits until the other's turn is over, or another CPU is idle (`SCHED_BATCH`): more is done at one time,
    /// later.
    Batch,
}

impl Scheduling {
    /// Schedules the calling thread so from now on. What it had before stays if this is
    /// [`Normal`](Scheduling::Normal), for somebody may have chosen it for the whole process.
    ///
    /// # Errors
    /// A filter for system calls does not let it.
    pub fn apply(self) -> io::Result<()> {
        if self == Scheduling::Normal {
            return Ok(());
        }
        let parameters = libc::sched_param { sched_priority: 0 };
        // SAFETY: the kernel reads the structure, which lives until the call returns. Thread 0 is the caller.
        match unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
