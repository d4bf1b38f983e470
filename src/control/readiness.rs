//! Whether the router can be given traffic: what `/readyz` answers.
//!
//! A router that answers at all has its device, its sockets and its configuration, for these come
//! first at the start. What may be missing is an interface that is up, which can be others' task, and
//! the peer that somebody waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::lane::peers::Peers;
use crate::offload::Shutdown;
use crate::units::Nanos;
use crate::wireguard::keys::PublicKey;

/// What has to hold.
#[derive(Debug)]
pub struct Readiness {
    peers: Arc<Peers>,
    /// The peer that must have a session.
    awaited: Option<PublicKey>,
    shutdown: Arc<Shutdown>,
    interface_down: AtomicBool,
}

/// Why a router is not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// It was told to stop.
    #[error("the router is stopping")]
    Stopping,
    /// Nothing can go through its interface.
    #[error("the interface is down")]
    InterfaceDown,
    /// It does not know the peer that is waited for.
    #[error("no peer has the public key {0} that LANEWAY_READY_PEER names")]
    UnknownPeer(PublicKey),
    /// The peer that is waited for has no session.
    #[error("there is no session with the peer {0} yet")]
    NoSession(PublicKey),
}

impl Readiness {
    /// Of a router with these `peers`, of which the `awaited` one must have a session.
    pub fn new(peers: Arc<Peers>, awaited: Option<PublicKey>, shutdown: Arc<Shutdown>) -> Self {
        Readiness { peers, awaited, shutdown, interface_down: AtomicBool::new(false) }
    }

    /// The interface is up or down from now on.
    pub fn set_interface_up(&self, up: bool) {
        self.interface_down.store(!up, Ordering::Relaxed);
    }

    /// Whether the router is ready.
    ///
    /// # Errors
    /// What it lacks.
    pub fn check(&self, now: Nanos) -> Result<(), NotReady> {
        if self.shutdown.is_signalled() {
            return Err(NotReady::Stopping);
        }
        if self.interface_down.load(Ordering::Relaxed) {
            return Err(NotReady::InterfaceDown);
        }
        let Some(key) = self.awaited else { return Ok(()) };
        let snapshot = self.peers.load();
        let peer = snapshot.peers.iter().flatten().find(|peer| peer.public_key == key);
        let session = peer.ok_or(NotReady::UnknownPeer(key))?.sending.load();
        match session.as_ref() {
            Some(session) if session.can_send(now) => Ok(()),
            _ => Err(NotReady::NoSession(key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::peers::{PeerRecord, Snapshot};
    use crate::sys::clock;
    use crate::units::PeerId;

    #[test]
    fn it_says_what_is_missing() {
        let shutdown = Arc::new(Shutdown::new().unwrap());
        let key = PublicKey::from_bytes([7; 32]);
        let peers = Arc::new(Peers::from_pointee(Snapshot::default()));
        let ready = Readiness::new(Arc::clone(&peers), Some(key), Arc::clone(&shutdown));
        let check = || ready.check(clock::now());
        assert_eq!(check(), Err(NotReady::UnknownPeer(key)));
        let record = Arc::new(PeerRecord::new(PeerId(0), key, false));
        peers.store(Arc::new(Snapshot { peers: vec![Some(record)], ..Snapshot::default() }));
        assert_eq!(check(), Err(NotReady::NoSession(key)));
        ready.set_interface_up(false);
        assert_eq!(check(), Err(NotReady::InterfaceDown));
        ready.set_interface_up(true);
        assert_eq!(Readiness::new(peers, None, Arc::clone(&shutdown)).check(clock::now()), Ok(()));
        shutdown.signal();
        assert_eq!(check(), Err(NotReady::Stopping));
    }
}
