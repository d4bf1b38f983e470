//! Exports and imports the protocol's state, so that another process can continue it.
//!
//! A handshake in progress is not carried: the initiator's ephemeral key stays behind, and the handshake starts again.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::keys::{PresharedKey, PrivateKey, PublicKey};
use super::peer::Peer;
use super::protocol::Protocol;
use super::session::Session;
use super::state::{Contradiction, ProtocolState, suite};
use crate::units::PeerId;

/// A peer after its state was imported.
#[derive(Debug)]
pub struct Imported {
    /// Its id in this process.
    pub id: PeerId,
    /// Its public key.
    pub public_key: PublicKey,
    /// The session to send with, if any.
    pub sending: Option<Arc<Session>>,
}

impl Protocol {
    /// Returns the protocol's state. The workers must have stopped; the state is true until they go on.
    pub fn export(&self) -> ProtocolState {
        ProtocolState {
            private_key: self.private_key().map(|key| Zeroizing::new(*key.as_bytes())),
            peers: self.all().map(Peer::export).collect(),
        }
    }

    /// Continues from `state`, in a protocol without peers whose session table has the secret of the exporting one.
    /// `reserve` counters of each session are not sent. Returns the peers in the order of the list.
    ///
    /// # Errors
    /// Two peers have the same key, or two sessions the same index. The protocol is then of no use.
    pub fn import(&mut self, state: ProtocolState, reserve: u64) -> Result<Vec<Imported>, Contradiction> {
        self.set_private_key(state.private_key.map(|key| PrivateKey::from_bytes(*key)));
        let mut imported = Vec::with_capacity(state.peers.len());
        for peer in state.peers {
            let public_key = PublicKey::from_bytes(peer.public_key);
            let id = self.add_peer(public_key).map_err(|_| Contradiction)?;
            self.set_preshared_key(id, PresharedKey::from_bytes(*peer.preshared_key));
            self.set_suite(id, suite(peer.suite)?);
            let sending = self.restore(id, peer, reserve)?;
            imported.push(Imported { id, public_key, sending });
        }
        self.end_import();
        Ok(imported)
    }
}
