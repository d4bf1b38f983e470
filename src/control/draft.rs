//! A snapshot that is being changed: what one update makes of the peers and their allowed IPs before the
//! workers see any of it.
//!
//! With thousands of peers an update must cost what it changes, not what there is, for tools change one peer at a
//! time (`wg set`), thousands of times. Three things see to that:
//!
//! - An update that changes neither peers nor allowed IPs publishes nothing, and one that says what is so
//!   already changes nothing.
//! - The prefixes of one peer, which the table of routes cannot tell without being searched from end to end, are
//!   kept beside it ([`Memory`]).
//! - The snapshot before the one in force is kept for a while. Once no worker holds it any more it is brought up
//!   to date, which takes the few changes that it missed, and becomes the next one. Otherwise all is copied.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use crate::lane::peers::{PeerRecord, Peers, Snapshot};
use crate::routes::Routes;
use crate::units::{Nanos, PeerId};

/// How many changes a snapshot may have missed and still be worth keeping.
const MISSED: usize = 1024;

/// How long it is kept: one update of many follows the other sooner.
const KEPT: Duration = Duration::from_secs(5);

/// The first of all prefixes in their order.
const FIRST: IpNet = IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::UNSPECIFIED, 0));

/// The next snapshot, to be changed and published.
pub(super) struct Draft {
    base: Arc<Snapshot>,
    /// What it has become, once something has changed.
    changed: Option<Snapshot>,
    /// What has changed; `None` if that is too much to be worth noting.
    log: Option<Vec<Change>>,
    memory: Memory,
}

/// What is kept from one draft to the next.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Every prefix in force, by the peer that has it.
    nets: BTreeSet<(PeerId, IpNet)>,
    spare: Option<Spare>,
}

/// The snapshot before the one in force.
#[derive(Debug)]
struct Spare {
    snapshot: Arc<Snapshot>,
    missed: Vec<Change>,
    until: Nanos,
}

/// One change of a snapshot.
#[derive(Clone, Debug)]
enum Change {
    /// The peer of this id is another one, or none.
    Peer(PeerId, Option<Arc<PeerRecord>>),
    /// The prefix belongs to another peer, or to none.
    Net(IpNet, Option<Arc<PeerRecord>>),
}

impl Draft {
    /// A draft that begins as `snapshot`, the one in force, with what the draft before it left.
    pub(super) fn of(snapshot: Arc<Snapshot>, memory: Memory) -> Self {
        Draft { base: snapshot, changed: None, log: Some(Vec::new()), memory }
    }

    /// Puts it in force at `now`, if it has changed, and leaves what the next draft needs.
    pub(super) fn publish(self, peers: &Peers, now: Nanos) -> Memory {
        let Draft { changed, log, mut memory, .. } = self;
        if let Some(changed) = changed {
            let before = peers.swap(Arc::new(changed));
            memory.spare = log.map(|missed| Spare { snapshot: before, missed, until: now.after(KEPT) });
        }
        memory
    }

    /// The record of `peer`, unless there is none.
    pub(super) fn peer(&self, peer: PeerId) -> Option<&Arc<PeerRecord>> {
        self.snapshot().peer(peer)
    }

    /// Every peer.
    pub(super) fn peers(&self) -> impl Iterator<Item = &Arc<PeerRecord>> {
        self.snapshot().peers.iter().flatten()
    }

    /// Adds a peer.
    pub(super) fn add_peer(&mut self, record: PeerRecord) {
        self.change(Change::Peer(record.id, Some(Arc::new(record))));
    }

    /// Takes `peer` out with all its allowed IPs. A worker that still holds the snapshot before this one
    /// finds no session in its record.
    pub(super) fn remove_peer(&mut self, peer: PeerId) {
        self.keep_only(peer, &HashSet::new());
        let Some(record) = self.peer(peer) else { return };
        record.sending.store(None);
        self.change(Change::Peer(peer, None));
    }

    /// Gives `net` to the peer of `record`; whoever had exactly this prefix loses it.
    pub(super) fn allow(&mut self, net: IpNet, record: &Arc<PeerRecord>) {
        let net = net.trunc();
        let before = self.snapshot().routes.get(net);
        if before.is_some_and(|owner| Arc::ptr_eq(owner, record)) {
            return;
        }
        if let Some(before) = before.map(|owner| owner.id) {
            self.memory.nets.remove(&(before, net));
        }
        self.memory.nets.insert((record.id, net));
        self.change(Change::Net(net, Some(Arc::clone(record))));
    }

    /// Takes `net` from `peer`; nothing happens if it is not that peer's.
    pub(super) fn disallow(&mut self, net: IpNet, peer: PeerId) {
        let net = net.trunc();
        if self.memory.nets.remove(&(peer, net)) {
            self.change(Change::Net(net, None));
        }
    }

    /// Takes from `peer` all its allowed IPs but those among `kept`.
    pub(super) fn keep_only(&mut self, peer: PeerId, kept: &HashSet<IpNet>) {
        let all = self.memory.nets.range((peer, FIRST)..).take_while(|(owner, _)| *owner == peer);
        let lost: Vec<IpNet> = all.map(|(_, net)| *net).filter(|net| !kept.contains(net)).collect();
        for net in lost {
            self.disallow(net, peer);
        }
    }

    /// Takes all allowed IPs from everybody.
    pub(super) fn clear_all(&mut self) {
        self.changed().routes = Routes::default();
        self.memory.nets.clear();
        self.log = None;
    }

    fn snapshot(&self) -> &Snapshot {
        self.changed.as_ref().unwrap_or(&self.base)
    }

    fn changed(&mut self) -> &mut Snapshot {
        self.changed.get_or_insert_with(|| {
            let spare = self.memory.spare.take().and_then(Spare::catch_up);
            spare.unwrap_or_else(|| Snapshot::clone(&self.base))
        })
    }

    fn change(&mut self, change: Change) {
        change.clone().make(self.changed());
        self.log = self.log.take().filter(|log| log.len() < MISSED);
        if let Some(log) = &mut self.log {
            log.push(change);
        }
    }
}

impl Memory {
    /// When [`forget`](Self::forget) has something to do.
    pub(super) fn next_due(&self) -> Option<Nanos> {
        self.spare.as_ref().map(|spare| spare.until)
    }

    /// Gives the memory of a snapshot back that no update has used for long.
    pub(super) fn forget(&mut self, now: Nanos) {
        self.spare = self.spare.take().filter(|spare| spare.until > now);
    }
}

impl Spare {
    /// The snapshot in force, made of this one; `None` if somebody still reads it.
    fn catch_up(self) -> Option<Snapshot> {
        let mut snapshot = Arc::try_unwrap(self.snapshot).ok()?;
        for change in self.missed {
            change.make(&mut snapshot);
        }
        Some(snapshot)
    }
}

impl Change {
    fn make(self, snapshot: &mut Snapshot) {
        match self {
            Change::Peer(id, record) => {
                let index = id.0 as usize;
                if snapshot.peers.len() <= index {
                    snapshot.peers.resize(index + 1, None);
                }
                snapshot.peers[index] = record;
            }
            Change::Net(net, Some(owner)) => drop(snapshot.routes.insert(net, owner)),
            Change::Net(net, None) => drop(snapshot.routes.remove(net)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wireguard::aead::Backend;
    use crate::wireguard::keys::PublicKey;
    use crate::wireguard::replay::WINDOW;
    use crate::wireguard::session::{MessageLimits, Role, Session, SessionKeys, SessionParts};
    use crate::wireguard::suite::Suite;
    use proptest::prelude::*;
    use zeroize::Zeroizing;

    const PEERS: u32 = 3;

    fn draft() -> Draft {
        let mut draft = Draft::of(Arc::default(), Memory::default());
        (0..PEERS).for_each(|id| {
            draft.add_peer(PeerRecord::new(PeerId(id), PublicKey::from_bytes([0; 32]), false));
        });
        draft
    }

    fn owners(snapshot: &Snapshot) -> Vec<(IpNet, u32)> {
        let mut owners: Vec<_> = snapshot.routes.iter().map(|(net, owner)| (net, owner.id.0)).collect();
        owners.sort();
        owners
    }

    /// `draft`, published, and the next one.
    fn publish(draft: Draft, peers: &Peers) -> Draft {
        let memory = draft.publish(peers, Nanos(1));
        let kept: Vec<_> = memory.nets.iter().map(|(peer, net)| (*net, peer.0)).collect();
        let snapshot = peers.load_full();
        let mut known = owners(&snapshot);
        known.sort_by_key(|(net, peer)| (*peer, *net));
        assert_eq!(kept, known);
        Draft::of(snapshot, memory)
    }

    proptest! {
        #[test]
        fn prefixes_are_whose_a_plain_list_says_they_are(
            steps in prop::collection::vec((0_u8..7, 0..PEERS, 0_u8..6, any::<bool>()), 0..90),
        ) {
            let peers = Peers::default();
            let mut draft = draft();
            let mut list: Vec<(IpNet, u32)> = Vec::new();
            // What a worker has seen must not change under its hands.
            let mut seen: Option<(Arc<Snapshot>, Vec<_>)> = None;
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
                    3 => {
                        draft.keep_only(PeerId(id), &HashSet::from([net]));
                        list.retain(|entry| entry.1 != id || entry.0 == net);
                    }
                    4 if low == 0 => {
                        draft.clear_all();
                        list.clear();
                    }
                    4 => {}
                    _ => {
                        draft = publish(draft, &peers);
                        prop_assert_eq!(owners(&peers.load()), list.clone());
                        prop_assert_eq!(peers.load().peers.len(), PEERS as usize);
                        if what == 5 {
                            seen = six.then(|| (peers.load_full(), list.clone()));
                        }
                    }
                }
                list.sort();
                prop_assert_eq!(owners(draft.snapshot()), list.clone());
                if let Some((snapshot, before)) = &seen {
                    prop_assert_eq!(&owners(snapshot), before);
                }
            }
        }
    }

    #[test]
    fn what_says_how_it_is_already_publishes_nothing() {
        let peers = Peers::default();
        let net: IpNet = "10.0.0.0/8".parse().unwrap();
        let mut draft = draft();
        let record = Arc::clone(draft.peer(PeerId(1)).unwrap());
        draft.allow(net, &record);
        let mut draft = publish(draft, &peers);
        let before = peers.load_full();
        draft.keep_only(PeerId(1), &HashSet::from([net]));
        draft.allow("10.9.9.9/8".parse().unwrap(), &record);
        draft.disallow(net, PeerId(0));
        publish(draft, &peers);
        assert!(Arc::ptr_eq(&before, &peers.load_full()));
    }

    #[test]
    fn a_spare_snapshot_is_used_again_and_given_back_after_a_while() {
        let peers = Peers::default();
        let mut draft = publish(draft(), &peers);
        let mut used: Vec<*const Option<Arc<PeerRecord>>> = Vec::new();
        for low in 0..6 {
            let record = Arc::clone(draft.peer(PeerId(0)).unwrap());
            draft.allow(format!("10.0.0.{low}/32").parse().unwrap(), &record);
            // The draft after this one must not hold what is to be used again.
            let memory = draft.publish(&peers, Nanos(1));
            used.push(peers.load().peers.as_ptr());
            draft = Draft::of(peers.load_full(), memory);
        }
        assert_eq!((used[2], used[3]), (used[4], used[5]), "two take turns");
        let mut memory = draft.publish(&peers, Nanos(2));
        assert_eq!(memory.next_due(), Some(Nanos(1).after(KEPT)));
        memory.forget(Nanos(1).after(KEPT));
        assert_eq!(memory.next_due(), None);
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
        assert!(draft.peer(PeerId(1)).is_none() && owners(draft.snapshot()).is_empty());
        assert_eq!(draft.peers().count(), 2);
        assert!(alive.upgrade().is_none(), "although a worker may still hold the record");
    }
}
