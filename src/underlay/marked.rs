//! Sockets besides those of the lanes that carry the router's mark.
//!
//! With rules that route all packets without the mark into the tunnel, answers from other sockets of the router would
//! leave through it too. Clients outside, such as a kubelet, would not receive them.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use socket2::SockRef;

/// Sockets that follow changes of the router's mark. A listener's connections inherit its mark.
#[derive(Debug, Default)]
pub struct MarkedSockets(Mutex<Marked>);

#[derive(Debug, Default)]
struct Marked {
    mark: u32,
    sockets: Vec<OwnedFd>,
}

impl MarkedSockets {
    /// Creates an empty set with the mark `mark`; 0 for none.
    pub fn new(mark: u32) -> Self {
        MarkedSockets(Mutex::new(Marked { mark, sockets: Vec::new() }))
    }

    /// Adds a socket and sets its mark. `socket` is a duplicate of the descriptor that is in use.
    pub fn add(&self, socket: OwnedFd) {
        let mut marked = self.lock();
        if marked.mark != 0 {
            set_mark(&socket, marked.mark);
        }
        marked.sockets.push(socket);
    }

    /// Changes the mark of all sockets.
    pub(crate) fn set(&self, mark: u32) {
        let mut marked = self.lock();
        if marked.mark != mark {
            marked.sockets.iter().for_each(|socket| set_mark(socket, mark));
            marked.mark = mark;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Marked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn set_mark(socket: &OwnedFd, mark: u32) {
    if let Err(error) = SockRef::from(socket).set_mark(mark) {
        tracing::warn!(
            "cannot set the firewall mark {mark:#x} on the HTTP listener: {error}; clients outside the tunnel may get \
             no answers: grant CAP_NET_ADMIN"
        );
    }
}
