//! Readiness for traffic, as `/readyz` reports it.
//!
//! A router that answers `/readyz` has its device, sockets and configuration, because these are set up first.
//! It is ready once its interface is up and it has a private key, which may be other programs' tasks, while its
//! addresses, routes and rules are in place and it is alone on its UDP port, and once it has a session with the peer
//! that `LANEWAY_READY_PEER` names, if any.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::lane::peers::Peers;
use crate::shutdown::Shutdown;
use crate::units::Nanos;
use crate::wireguard::keys::PublicKey;

/// The conditions for readiness.
#[derive(Debug)]
pub struct Readiness {
    peers: Arc<Peers>,
    /// The peer that must have a session, if any.
    awaited: Option<PublicKey>,
    /// Whether the router has a private key.
    has_key: Arc<AtomicBool>,
    shutdown: Arc<Shutdown>,
    started: AtomicBool,
    interface_down: AtomicBool,
    port_shared: AtomicBool,
    /// Whether addresses, routes or rules are missing.
    incomplete: watch::Sender<bool>,
}

/// Reasons why the router is not ready.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// The router was told to stop.
    #[error("the router is stopping")]
    Stopping,
    /// The router waits for the addresses of its peers' names, or for its control socket.
    #[error("the router is starting")]
    Starting,
    /// The interface is down.
    #[error("the interface is down")]
    InterfaceDown,
    /// Addresses, routes or rules of the interface are missing and cannot be added.
    #[error("addresses, routes or rules of the interface are missing, as the log says")]
    Incomplete,
    /// The router has no private key.
    #[error("the router has no private key")]
    NoKey,
    /// A socket of another process is on the router's UDP port.
    #[error("another process has a socket on the router's UDP port, as the log says")]
    PortShared,
    /// The awaited peer is not configured.
    #[error("no peer with public key {0} is configured (LANEWAY_READY_PEER)")]
    UnknownPeer(PublicKey),
    /// The awaited peer has no session.
    #[error("no session with the peer {0} yet")]
    NoSession(PublicKey),
}

impl Readiness {
    /// Creates the conditions for a router with these `peers`. The `awaited` peer, if any, must have a
    /// session. `has_key` says whether the router has a private key.
    pub fn new(
        peers: Arc<Peers>,
        awaited: Option<PublicKey>,
        has_key: Arc<AtomicBool>,
        shutdown: Arc<Shutdown>,
    ) -> Self {
        Readiness {
            peers,
            awaited,
            has_key,
            shutdown,
            started: AtomicBool::new(false),
            interface_down: AtomicBool::new(false),
            port_shared: AtomicBool::new(false),
            incomplete: watch::Sender::new(false),
        }
    }

    /// Records that everything has been set up.
    pub fn set_started(&self) {
        self.started.store(true, Ordering::Relaxed);
    }

    /// Records whether the interface is up. Initially it counts as up.
    pub fn set_interface_up(&self, up: bool) {
        self.interface_down.store(!up, Ordering::Relaxed);
    }

    /// Records whether another process has a socket on the router's UDP port. Initially none has.
    pub fn set_port_shared(&self, shared: bool) {
        self.port_shared.store(shared, Ordering::Relaxed);
    }

    /// Records whether addresses, routes or rules of the interface are missing. Initially none is.
    pub fn set_incomplete(&self, incomplete: bool) {
        self.incomplete.send_replace(incomplete);
    }

    /// Returns whether addresses, routes or rules of the interface are missing, and follows it.
    pub(crate) fn incomplete(&self) -> watch::Receiver<bool> {
        self.incomplete.subscribe()
    }

    /// Checks whether the router is ready.
    ///
    /// # Errors
    /// Returns the first condition that does not hold.
    pub fn check(&self, now: Nanos) -> Result<(), NotReady> {
        if self.shutdown.is_signalled() {
            return Err(NotReady::Stopping);
        }
        if !self.started.load(Ordering::Relaxed) {
            return Err(NotReady::Starting);
        }
        if self.interface_down.load(Ordering::Relaxed) {
            return Err(NotReady::InterfaceDown);
        }
        if *self.incomplete.borrow() {
            return Err(NotReady::Incomplete);
        }
        if self.port_shared.load(Ordering::Relaxed) {
            return Err(NotReady::PortShared);
        }
        let has_key = || if self.has_key.load(Ordering::Relaxed) { Ok(()) } else { Err(NotReady::NoKey) };
        let Some(key) = self.awaited else { return has_key() };
        let snapshot = self.peers.load();
        let peer = snapshot.peers.iter().flatten().find(|peer| peer.public_key == key);
        let peer = peer.ok_or(NotReady::UnknownPeer(key))?;
        has_key()?;
        let session = peer.sending.load();
        match session.as_ref() {
            Some(session) if session.can_send(now) => Ok(()),
            _ => Err(NotReady::NoSession(key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::lane::peers::{PeerRecord, Snapshot};
    use crate::units::PeerId;

    #[test]
    fn it_says_what_is_missing() {
        let shutdown = Arc::new(Shutdown::new().unwrap());
        let key = PublicKey::from_bytes([7; 32]);
        let peers = Arc::new(Peers::from_pointee(Snapshot::default()));
        let has_key = Arc::new(AtomicBool::new(false));
        let ready = |awaited| {
            let shutdown = Arc::clone(&shutdown);
            let ready = Readiness::new(Arc::clone(&peers), awaited, Arc::clone(&has_key), shutdown);
            assert_eq!(ready.check(clock::now()), Err(NotReady::Starting));
            ready.set_started();
            ready
        };
        assert_eq!(ready(None).check(clock::now()), Err(NotReady::NoKey));
        let plain = ready(None);
        let ready = ready(Some(key));
        let check = || ready.check(clock::now());
        assert_eq!(check(), Err(NotReady::UnknownPeer(key)));
        let record = Arc::new(PeerRecord::new(PeerId(0), key, false));
        peers.store(Arc::new(Snapshot { peers: vec![Some(record)], ..Snapshot::default() }));
        assert_eq!(check(), Err(NotReady::NoKey));
        has_key.store(true, Ordering::Relaxed);
        assert_eq!(check(), Err(NotReady::NoSession(key)));
        ready.set_interface_up(false);
        assert_eq!(check(), Err(NotReady::InterfaceDown));
        ready.set_interface_up(true);
        ready.set_incomplete(true);
        assert_eq!(check(), Err(NotReady::Incomplete));
        ready.set_incomplete(false);
        ready.set_port_shared(true);
        assert_eq!(check(), Err(NotReady::PortShared));
        ready.set_port_shared(false);
        assert_eq!(plain.check(clock::now()), Ok(()));
        shutdown.signal();
        assert_eq!(check(), Err(NotReady::Stopping));
    }
}
