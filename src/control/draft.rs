//! A snapshot that is being changed: what one update makes of the peers and their allowed IPs before the
//! workers see any of it.
//!
//! To take all prefixes from a peer, a draft has to know which those are. The table of routes cannot tell
//! without being searched from end to end, and `wg setconf` and `wg syncconf` ask for it once a peer: with
//! thousands of peers that would be minutes. So it is searched once, when the first peer asks, and what is
//! found is kept up to date until the draft is done.

use std::sync::Arc;

use ipnet::IpNet;

use crate::lane::peers::{PeerRecord, Snapshot};
use crate::routes::Routes;
use crate::units::PeerId;

/// A copy of the snapshot in force, to be changed and published.
pub(super) struct Draft {
    snapshot: Snapshot,
    /// By peer id, once somebody asked: every prefix that the peer has, and maybe some that it had.
    prefixes: Option<Vec<Vec<IpNet>>>,
}

impl Draft {
    /// A draft that begins as `snapshot`.
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        Draft { snapshot: snapshot.clone(), prefixes: None }
    }

    /// What it has become.
    pub(super) fn finish(self) -> Snapshot {
        self.snapshot
    }

    /// The record of `peer`, unless there is none.
    pub(super) fn peer(&self, peer: PeerId) -> Option<&Arc<PeerRecord>> {
        self.snapshot.peer(peer)
    }

    /// Every peer.
    pub(super) fn peers(&self) -> impl Iterator<Item = &Arc<PeerRecord>> {
        self.snapshot.peers.iter().flatten()
    }

    /// Adds a peer.
    pub(super) fn add_peer(&mut self, record: PeerRecord) {
        let index = record.id.0 as usize;
        if self.snapshot.peers.len() <= index {
            self.snapshot.peers.resize(index + 1, None);
        }
        self.snapshot.peers[index] = Some(Arc::new(record));
    }

    /// Takes `peer` out with all its allowed IPs. A worker that still holds the snapshot before this one
    /// finds no session in its record.
    pub(super) fn remove_peer(&mut self, peer: PeerId) {
        self.clear(peer);
        if let Some(record) = self.snapshot.peers.get_mut(peer.0 as usize).and_then(Option::take) {
            record.sending.store(None);
        }
    }

    /// Gives `net` to the peer of `record`; whoever had exactly this prefix loses it.
    pub(super) fn allow(&mut self, net: IpNet, record: &Arc<PeerRecord>) {
        let before = self.snapshot.routes.insert(net, Arc::clone(record));
        if let Some(prefixes) = &mut self.prefixes
            && before.is_none_or(|before| before.id != record.id)
        {
            note(prefixes, record.id, net);
        }
    }

    /// Takes `net` from `peer`; nothing happens if it is not that peer's.
    pub(super) fn disallow(&mut self, net: IpNet, peer: PeerId) {
        if self.snapshot.routes.get(net).is_some_and(|owner| owner.id == peer) {
            self.snapshot.routes.remove(net);
        }
    }

    /// Takes all allowed IPs from `peer`.
    pub(super) fn clear(&mut self, peer: PeerId) {
        let routes = &self.snapshot.routes;
        let prefixes = self.prefixes.get_or_insert_with(|| {
            let mut prefixes = Vec::new();
            routes.iter().for_each(|(net, owner)| note(&mut prefixes, owner.id, net));
            prefixes
        });
        let had = prefixes.get_mut(peer.0 as usize).map(std::mem::take);
        had.into_iter().flatten().for_each(|net| self.disallow(net, peer));
    }

    /// Takes all allowed IPs from everybody.
    pub(super) fn clear_all(&mut self) {
        self.snapshot.routes = Routes::default();
        self.prefixes = None;
    }
}

fn note(prefixes: &mut Vec<Vec<IpNet>>, peer: PeerId, net: IpNet) {
    let index = peer.0 as usize;
    if prefixes.len() <= index {
        prefixes.resize(index + 1, Vec::new());
    }
    prefixes[index].push(net);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Nanos;
    use crate::wireguard::aead::Backend;
    use crate::wireguard::keys::PublicKey;
    use crate::wireguard::replay::WINDOW;
    use crate::wireguard::session::{MessageLimits, Role, Session, SessionKeys, SessionParts};
    use crate::wireguard::suite::Suite;
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    const PEERS: u32 = 3;

    fn draft() -> Draft {
        let mut draft = Draft::of(&Snapshot::default());
        (0..PEERS).for_each(|id| {
            draft.add_peer(PeerRecord::new(PeerId(id), PublicKey::from_bytes([0; 32]), false));
        });
        draft
    }

    fn owners(draft: &Draft) -> Vec<(IpNet, u32)> {
        let mut owners: Vec<_> = draft.snapshot.routes.iter().map(|(net, owner)| (net, owner.id.0)).collect();
        owners.sort();
        owners
    }

    proptest! {
        #[test]
        fn prefixes_are_whose_a_plain_list_says_they_are(
            steps in prop::collection::vec((0_u8..4, 0..PEERS, 0_u8..6, any::<bool>()), 0..60),
        ) {
            let mut draft = draft();
            let mut list: Vec<(IpNet, u32)> = Vec::new();
            for (what, id, low, six) in steps {
                let text = if six { format!("fd00::{low}/128") } else { format!("10.0.0.{low}/32") };
                let net: IpNet = text.parse().unwrap();
                match what {
                    0 | 1 => {
                        let record = Arc::clone(draft.peer(PeerId(id)).unwrap());
                        draft.allow(net, &record);
                        list.retain(|(other, _)| *other != net);
                        list.push((net, id));
                    }
                    2 => {
                        draft.disallow(net, PeerId(id));
                        list.retain(|entry| *entry != (net, id));
                    }
                    _ => {
                        draft.clear(PeerId(id));
                        list.retain(|(_, owner)| *owner != id);
                    }
                }
                list.sort();
                prop_assert_eq!(owners(&draft), list.clone());
            }
        }
    }

    #[test]
    fn a_removed_peer_leaves_neither_prefix_nor_record_nor_keys() {
        let mut draft = draft();
        let record = Arc::clone(draft.peer(PeerId(1)).unwrap());
        draft.allow("10.0.0.0/8".parse().unwrap(), &record);
        let key = || Zeroizing::new([1; 32]);
        let session = Arc::new(Session::new(SessionParts {
            peer: PeerId(1),
            activity: Arc::default(),
            role: Role::Initiator,
            local_index: 1,
            remote_index: 1,
            created: Nanos(1),
            keys: SessionKeys { suite: Suite::default(), send: key(), receive: key() },
            limits: MessageLimits::default(),
            backend: Backend::default(),
            window: WINDOW,
        }));
        let alive = Arc::downgrade(&session);
        record.sending.store(Some(session));
        draft.remove_peer(PeerId(1));
        assert!(draft.peer(PeerId(1)).is_none() && owners(&draft).is_empty());
        assert_eq!(draft.peers().count(), 2);
        assert!(alive.upgrade().is_none(), "although a worker may still hold the record");
    }
}
