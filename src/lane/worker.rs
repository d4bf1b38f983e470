//! The errors that end a worker.

use std::io;

use thiserror::Error;

use super::sleep::Stopped;
use crate::offload::QueueError;

/// Why a worker stopped working.
#[derive(Debug, Error)]
pub enum WorkerError {
    /// The router was told to stop.
    #[error("the router was told to stop")]
    Stopped,
    /// The TUN queue failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The UDP socket failed.
    #[error("the UDP socket failed: {0}")]
    Socket(#[from] io::Error),
}

impl From<Stopped> for WorkerError {
    fn from(_: Stopped) -> Self {
        WorkerError::Stopped
    }
}
