//! What ends a worker.

use std::io;

use thiserror::Error;

use super::sleep::Stopped;
use crate::offload::QueueError;

/// Why a worker stopped working.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// It was told to.
    #[error("the router was told to stop")]
    Stopped,
    /// Its TUN queue is gone.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// Its socket is no good any more.
    #[error("the UDP socket failed: {0}")]
    Socket(#[from] io::Error),
}

impl From<Stopped> for WorkerError {
    fn from(_: Stopped) -> Self {
        WorkerError::Stopped
    }
}
