//! Builds the next snapshot of peers and allowed IPs from the current one, and publishes it to the workers.
//!
//! The cost of an update must depend on what it changes, not on the number of peers, because tools change
//! peers one at a time (`wg set`), thousands of times. Therefore:
//!
//! - An update that changes neither peers nor allowed IPs, or repeats the current ones, publishes nothing.
//! - The prefixes of each peer, which the route table yields only by a full scan, are kept in an index beside
//!   it ([`BuilderState`]).
//! - The snapshot before the current one is kept for a while. If no worker reads it any more, the next update
//!   applies the few changes that it missed and reuses it. Otherwise the current snapshot is copied.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};

use crate::lane::peers::{PeerRecord, Peers, Snapshot};
use crate::routes::Routes;
use crate::units::{Nanos, PeerId};

/// Maximum number of changes that a kept snapshot may have missed.
const MISSED: usize = 1024;

/// How long the previous snapshot is kept. Updates that follow each other in a series come sooner.
const KEPT: Duration = Duration::from_secs(5);

/// The lowest prefix in sort order.
const FIRST: IpNet = IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::UNSPECIFIED, 0));

/// The next snapshot, under construction.
pub(crate) struct SnapshotBuilder {
    base: Arc<Snapshot>,
    /// The changed snapshot; `None` until the first change.
    changed: Option<Snapshot>,
    /// The changes made; `None` if there are too many to record.
    log: Option<Vec<Change>>,
    state: BuilderState,
}

/// State kept from one update to the next.
#[derive(Debug, Default)]
pub(crate) struct BuilderState {
    /// Every allowed prefix, ordered by peer.
    nets: BTreeSet<(PeerId, IpNet)>,
    previous: Option<PreviousSnapshot>,
}

/// The snapshot before the current one, and what it has missed.
#[derive(Debug)]
struct PreviousSnapshot {
    snapshot: Arc<Snapshot>,
    missed: Vec<Change>,
    until: Nanos,
}

/// One change of a snapshot.
#[derive(Clone, Debug)]
enum Change {
    /// Sets or removes the peer in the slot of this id.
    Peer(PeerId, Option<Arc<PeerRecord>>),
    /// Assigns the prefix to a peer, or to none.
    Net(IpNet, Option<Arc<PeerRecord>>),
}

impl SnapshotBuilder {
    /// Starts from `snapshot`, the current one, with the state that the previous update left.
    pub(crate) fn of(snapshot: Arc<Snapshot>, state: BuilderState) -> Self {
        SnapshotBuilder { base: snapshot, changed: None, log: Some(Vec::new()), state }
    }

    /// Publishes the snapshot at `now` if it has changed. Returns the state for the next update.
    pub(crate) fn publish(self, peers: &Peers, now: Nanos) -> BuilderState {
        let SnapshotBuilder { base, changed, log, mut state } = self;
        if let Some(mut changed) = changed {
            changed.version = base.version + 1;
            // The previous snapshot can be reused only without other references, this one included.
            drop(base);
            let before = peers.swap(Arc::new(changed));
            state.previous =
                log.map(|missed| PreviousSnapshot { snapshot: before, missed, until: now.after(KEPT) });
        }
        state
    }

    /// Returns the record of `peer`, if it exists.
    pub(crate) fn peer(&self, peer: PeerId) -> Option<&Arc<PeerRecord>> {
        self.snapshot().peer(peer)
    }

    /// Iterates over all peers.
    pub(crate) fn peers(&self) -> impl Iterator<Item = &Arc<PeerRecord>> {
        self.snapshot().peers.iter().flatten()
    }

    /// Adds a peer.
    pub(crate) fn add_peer(&mut self, record: PeerRecord) {
        self.change(Change::Peer(record.id, Some(Arc::new(record))));
    }

    /// Removes `peer` and all its allowed IPs. Also clears the session in its record, which workers may still
    /// reach through an older snapshot.
    pub(crate) fn remove_peer(&mut self, peer: PeerId) {
        self.keep_only(peer, &HashSet::new());
        let Some(record) = self.peer(peer) else { return };
        record.sending.store(None);
        self.change(Change::Peer(peer, None));
    }

    /// Assigns `net` to the peer of `record`, and takes it from the peer that had exactly this prefix.
    pub(crate) fn allow(&mut self, net: IpNet, record: &Arc<PeerRecord>) {
        let net = net.trunc();
        let before = self.snapshot().routes.get(net);
        if before.is_some_and(|owner| Arc::ptr_eq(owner, record)) {
            return;
        }
        if let Some(before) = before.map(|owner| owner.id) {
            self.state.nets.remove(&(before, net));
        }
        self.state.nets.insert((record.id, net));
        self.change(Change::Net(net, Some(Arc::clone(record))));
    }

    /// Removes `net` from `peer`. Does nothing if the prefix belongs to another peer.
    pub(crate) fn disallow(&mut self, net: IpNet, peer: PeerId) {
        let net = net.trunc();
        if self.state.nets.remove(&(peer, net)) {
            self.change(Change::Net(net, None));
        }
    }

    /// Removes all allowed IPs of `peer` that are not in `kept`.
    pub(crate) fn keep_only(&mut self, peer: PeerId, kept: &HashSet<IpNet>) {
        let all = self.state.nets.range((peer, FIRST)..).take_while(|(owner, _)| *owner == peer);
        let lost: Vec<IpNet> = all.map(|(_, net)| *net).filter(|net| !kept.contains(net)).collect();
        for net in lost {
            self.disallow(net, peer);
        }
    }

    /// Removes all allowed IPs of all peers.
    pub(crate) fn clear_all(&mut self) {
        self.changed().routes = Routes::default();
        self.state.nets.clear();
        self.log = None;
    }

    fn snapshot(&self) -> &Snapshot {
        self.changed.as_ref().unwrap_or(&self.base)
    }

    fn changed(&mut self) -> &mut Snapshot {
        self.changed.get_or_insert_with(|| {
            let previous = self.state.previous.take().and_then(PreviousSnapshot::catch_up);
            previous.unwrap_or_else(|| Snapshot::clone(&self.base))
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

impl BuilderState {
    /// Returns when [`forget`](Self::forget) is next due.
    pub(crate) fn next_due(&self) -> Option<Nanos> {
        self.previous.as_ref().map(|previous| previous.until)
    }

    /// Frees the previous snapshot if no update has reused it in time.
    pub(crate) fn forget(&mut self, now: Nanos) {
        self.previous = self.previous.take().filter(|previous| previous.until > now);
    }
}

impl PreviousSnapshot {
    /// Brings the snapshot up to date. Returns `None` if a worker still reads it.
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
                let index = id.slot();
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
    use crate::wireguard::keys::PublicKey;
    use crate::wireguard::session::Role;
    use crate::wireguard::tests::sessions::session;
    use proptest::prelude::*;

    const PEERS: u64 = 3;

    fn builder() -> SnapshotBuilder {
        let mut builder = SnapshotBuilder::of(Arc::default(), BuilderState::default());
        (0..PEERS).for_each(|id| {
            builder.add_peer(PeerRecord::new(PeerId(id), PublicKey::from_bytes([0; 32]), false));
        });
        builder
    }

    fn owners(snapshot: &Snapshot) -> Vec<(IpNet, u64)> {
        let mut owners: Vec<_> = snapshot.routes.iter().map(|(net, owner)| (net, owner.id.0)).collect();
        owners.sort();
        owners
    }

    /// Publishes `builder` and returns the next one.
    fn publish(builder: SnapshotBuilder, peers: &Peers) -> SnapshotBuilder {
        let state = builder.publish(peers, Nanos(1));
        let kept: Vec<_> = state.nets.iter().map(|(peer, net)| (*net, peer.0)).collect();
        let snapshot = peers.load_full();
        let mut known = owners(&snapshot);
        known.sort_by_key(|(net, peer)| (*peer, *net));
        assert_eq!(kept, known);
        SnapshotBuilder::of(snapshot, state)
    }

    proptest! {
        #[test]
        fn prefixes_are_whose_a_plain_list_says_they_are(
            steps in prop::collection::vec((0_u8..7, 0..PEERS, 0_u8..6, any::<bool>()), 0..90),
        ) {
            let peers = Peers::default();
            let mut builder = builder();
            let mut list: Vec<(IpNet, u64)> = Vec::new();
            // A snapshot that a worker still reads must not change.
            let mut seen: Option<(Arc<Snapshot>, Vec<_>)> = None;
            for (what, id, low, six) in steps {
                let text = if six { format!("fd00::{low}/128") } else { format!("10.0.0.{low}/32") };
                let net: IpNet = text.parse().unwrap();
                match what {
                    0 | 1 => {
                        let record = Arc::clone(builder.peer(PeerId(id)).unwrap());
                        builder.allow(net, &record);
                        list.retain(|(other, _)| *other != net);
                        list.push((net, id));
                    }
                    2 => {
                        builder.disallow(net, PeerId(id));
                        list.retain(|entry| *entry != (net, id));
                    }
                    3 => {
                        builder.keep_only(PeerId(id), &HashSet::from([net]));
                        list.retain(|entry| entry.1 != id || entry.0 == net);
                    }
                    4 if low == 0 => {
                        builder.clear_all();
                        list.clear();
                    }
                    4 => {}
                    _ => {
                        builder = publish(builder, &peers);
                        prop_assert_eq!(owners(&peers.load()), list.clone());
                        prop_assert_eq!(peers.load().peers.len(), PEERS as usize);
                        if what == 5 {
                            seen = six.then(|| (peers.load_full(), list.clone()));
                        }
                    }
                }
                list.sort();
                prop_assert_eq!(owners(builder.snapshot()), list.clone());
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
        let mut builder = builder();
        let record = Arc::clone(builder.peer(PeerId(1)).unwrap());
        builder.allow(net, &record);
        let mut builder = publish(builder, &peers);
        let before = peers.load_full();
        builder.keep_only(PeerId(1), &HashSet::from([net]));
        builder.allow("10.9.9.9/8".parse().unwrap(), &record);
        builder.disallow(net, PeerId(0));
        publish(builder, &peers);
        assert!(Arc::ptr_eq(&before, &peers.load_full()));
    }

    #[test]
    fn a_spare_snapshot_is_used_again_and_given_back_after_a_while() {
        let peers = Peers::default();
        let mut builder = publish(builder(), &peers);
        let mut used: Vec<*const Option<Arc<PeerRecord>>> = Vec::new();
        for low in 0..6 {
            let record = Arc::clone(builder.peer(PeerId(0)).unwrap());
            builder.allow(format!("10.0.0.{low}/32").parse().unwrap(), &record);
            // The next build must not hold a reference to the snapshot that is reused.
            let state = builder.publish(&peers, Nanos(1));
            used.push(peers.load().peers.as_ptr());
            builder = SnapshotBuilder::of(peers.load_full(), state);
        }
        assert_eq!((used[2], used[3]), (used[4], used[5]), "two snapshots alternate");
        let mut state = builder.publish(&peers, Nanos(2));
        assert_eq!(state.next_due(), Some(Nanos(1).after(KEPT)));
        state.forget(Nanos(1).after(KEPT));
        assert_eq!(state.next_due(), None);
    }

    #[test]
    fn a_removed_peer_leaves_neither_prefix_nor_record_nor_keys() {
        let mut builder = builder();
        let record = Arc::clone(builder.peer(PeerId(1)).unwrap());
        builder.allow("10.0.0.0/8".parse().unwrap(), &record);
        let session = session(PeerId(1), Role::Initiator, 1, Nanos(1));
        let alive = Arc::downgrade(&session);
        record.sending.store(Some(session));
        builder.remove_peer(PeerId(1));
        assert!(builder.peer(PeerId(1)).is_none() && owners(builder.snapshot()).is_empty());
        assert_eq!(builder.peers().count(), 2);
        assert!(alive.upgrade().is_none(), "the session outlives its peer's removal");
    }
}
