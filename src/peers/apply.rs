//! Configuration of a running router: applies a [`DeviceUpdate`] to protocol, snapshot and sockets.
//!
//! Updates are in place. A peer that remains keeps its sessions, counters and endpoint. Peers and allowed IPs
//! change with one swap of the snapshot, so no packet sees half of an update.

use std::collections::HashSet;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use ipnet::IpNet;
use nix::errno::Errno;

use super::actor::{LETTING_GO, PeerActor};
use super::snapshot_builder::SnapshotBuilder;
use crate::clock;
use crate::config::update::{DeviceStatus, DeviceUpdate, PeerEndpoint, PeerStatus, PeerUpdate};
use crate::lane::peers::PeerRecord;
use crate::lane::sockets::LaneSockets;
use crate::underlay::{BindError, Endpoint};
use crate::units::PeerId;
use crate::wireguard::keys::{PrivateKey, PublicKey};
use crate::wireguard::protocol::AddPeerError;

/// Number of removed peers whose memory is worth returning to the kernel: some megabytes.
const MANY: usize = 1000;

/// Interval between attempts to bind a port that the workers may still hold.
const LOOK: Duration = Duration::from_millis(1);

impl PeerActor {
    /// Applies `update` to the protocol, the snapshot and the sockets.
    ///
    /// # Errors
    /// Returns the error number to report on the UAPI socket. Changes before the failed one remain applied,
    /// as in other WireGuard implementations.
    pub(crate) fn apply(&mut self, update: DeviceUpdate) -> Result<(), Errno> {
        apply(self, update)
    }

    /// Returns the state that the UAPI request `get=1` reports.
    pub(super) fn status(&self) -> DeviceStatus {
        status(self)
    }
}

fn apply(actor: &mut PeerActor, mut update: DeviceUpdate) -> Result<(), Errno> {
    // The step most likely to fail comes first, so that its failure changes nothing.
    if let Some(port) = update.listen_port {
        rebind(actor, port)?;
    }
    if let Some(mark) = update.fwmark {
        actor.listen.options.fwmark = mark;
        actor.marked.set(mark);
        for commands in &actor.commands {
            commands.set_fwmark(mark);
        }
    }
    let listening = actor.listening();
    actor.listening.send_if_modified(|known| mem::replace(known, listening) != listening);
    if let Some(key) = update.private_key {
        set_private_key(actor, key);
    }
    let mut builder = SnapshotBuilder::of(actor.peers.load_full(), mem::take(&mut actor.builder_state));
    let mut removed = 0;
    if update.replace_peers {
        let mut named = HashSet::new();
        let keep_endpoints = update.keep_endpoints;
        // The outcome is that of an update to a router without peers. One for a peer that is not named before it, and
        // is not to be added, has no effect there.
        update.peers.retain_mut(|peer| {
            if peer.remove || peer.update_only {
                return named.contains(&peer.public_key);
            }
            if named.insert(peer.public_key) {
                // Settings of a remaining peer that the update does not give return to their defaults.
                peer.preshared_key.get_or_insert_default();
                peer.persistent_keepalive.get_or_insert(0);
                if peer.endpoint.is_none() && !keep_endpoints {
                    forget_endpoint(actor, &peer.public_key);
                }
            }
            true
        });
        let unnamed = builder.peers().filter(|peer| !named.contains(&peer.public_key));
        let unnamed: Vec<PeerId> = unnamed.map(|peer| peer.id).collect();
        builder.clear_all();
        removed += unnamed.len();
        for peer in unnamed {
            remove_peer(actor, &mut builder, peer);
        }
    }
    removed += update.peers.iter().filter(|peer| peer.remove).count();
    let mut touched = Vec::new();
    let outcome = update.peers.into_iter().try_for_each(|peer| {
        touched.extend(apply_peer(actor, &mut builder, peer)?);
        Ok(())
    });
    actor.builder_state = builder.publish(&actor.peers, clock::now());
    // Staged packets are routed again: their peer may be gone, or their prefix may belong to another peer.
    actor.reroute_inside();
    for peer in touched {
        actor.look_at(peer);
    }
    if removed >= MANY {
        actor.let_go();
    }
    outcome
}

fn status(actor: &PeerActor) -> DeviceStatus {
    let snapshot = actor.peers.load();
    let mut allowed_ips: Vec<Vec<IpNet>> = vec![Vec::new(); snapshot.peers.len()];
    for (net, owner) in snapshot.routes.iter() {
        allowed_ips[owner.id.slot()].push(net);
    }
    let peer = |record: &Arc<PeerRecord>| {
        let info = actor.protocol.peer(record.id).expect("protocol and snapshot have the same peers");
        PeerStatus {
            public_key: record.public_key,
            preshared_key: info.preshared_key.clone(),
            suite: info.suite,
            endpoint: record.endpoint().map(|endpoint| endpoint.address),
            last_handshake: info.last_handshake,
            sent_bytes: record.sent_bytes.load(Ordering::Relaxed),
            received_bytes: record.received_bytes.load(Ordering::Relaxed),
            persistent_keepalive: info.persistent_keepalive.map_or(0, |every| every.as_secs() as u16),
            allowed_ips: mem::take(&mut allowed_ips[record.id.slot()]),
        }
    };
    DeviceStatus {
        private_key: actor.protocol.private_key().cloned(),
        listen_port: actor.listen.port,
        fwmark: actor.listen.options.fwmark,
        peers: snapshot.peers.iter().flatten().map(peer).collect(),
    }
}

/// Moves all lanes to sockets on another port. Each old socket stays open until its worker has the new one,
/// so a bound socket always has a reader.
fn rebind(actor: &mut PeerActor, port: u16) -> Result<(), Errno> {
    if port == actor.listen.port {
        return Ok(());
    }
    let sockets = open(actor, port).map_err(|error| {
        tracing::warn!("cannot change the listen port from {} to {port}: {error}", actor.listen.port);
        match error {
            BindError::PortTaken { .. } => Errno::EADDRINUSE,
            _ => Errno::EACCES,
        }
    })?;
    actor.listen.port = sockets.first().map_or(port, |sockets| sockets.shared.port());
    actor.listen.left = Some(clock::now());
    for (commands, sockets) in actor.commands.iter().zip(sockets) {
        commands.rebind(Arc::new(sockets));
    }
    Ok(())
}

/// Opens sockets on `port`. Retries for a while if the port is taken shortly after a change of port, because
/// this router's previous sockets may still hold it.
fn open(actor: &PeerActor, port: u16) -> Result<Vec<LaneSockets>, BindError> {
    let spread = actor.spread_ports.is_on();
    loop {
        let opened = LaneSockets::open(port, actor.listen.lanes, spread, actor.listen.options);
        let just_left = actor.listen.left.is_some_and(|left| clock::now().since(left) < LETTING_GO);
        match opened {
            Err(BindError::PortTaken { .. }) if just_left => thread::sleep(LOOK),
            opened => return opened,
        }
    }
}

/// Sets or removes the private key. A change ends all sessions, which were made with the old key. A peer
/// whose public key is now the router's own is removed.
fn set_private_key(actor: &mut PeerActor, key: Option<PrivateKey>) {
    actor.has_key.store(key.is_some(), Ordering::Relaxed);
    let change = actor.protocol.set_private_key(key);
    if change.changed {
        for record in actor.peers.load().peers.iter().flatten() {
            record.sending.store(None);
        }
    }
    if let Some(peer) = change.removed {
        let mut builder = SnapshotBuilder::of(actor.peers.load_full(), mem::take(&mut actor.builder_state));
        forget_peer(actor, &mut builder, peer);
        actor.builder_state = builder.publish(&actor.peers, clock::now());
        actor.reroute_inside();
    }
}

/// Applies an update to one peer. Returns the peer if it exists, so that its timers are run.
fn apply_peer(
    actor: &mut PeerActor,
    builder: &mut SnapshotBuilder,
    update: PeerUpdate,
) -> Result<Option<PeerId>, Errno> {
    let known = actor.protocol.peer_by_key(&update.public_key);
    if update.remove {
        if let Some(peer) = known {
            remove_peer(actor, builder, peer);
        }
        return Ok(None);
    }
    let peer = match known {
        Some(peer) => peer,
        None if update.update_only => return Ok(None),
        None => match add_peer(actor, builder, update.public_key)? {
            Some(peer) => peer,
            None => return Ok(None),
        },
    };
    let record = Arc::clone(builder.peer(peer).expect("protocol and snapshot have the same peers"));
    if let Some(name) = update.friendly_name {
        record.friendly_name.store((!name.is_empty()).then(|| Arc::new(name)));
    }
    if let Some(key) = update.preshared_key {
        actor.protocol.set_preshared_key(peer, key);
    }
    if let Some(suite) = update.suite
        && actor.protocol.set_suite(peer, suite)
    {
        record.sending.store(None);
    }
    match update.endpoint {
        Some(PeerEndpoint::Address(address)) => {
            actor.names.forget(peer);
            record.move_to(Endpoint::new(address));
        }
        // The peer keeps its current endpoint until the name has been looked up.
        Some(PeerEndpoint::Name { host, port }) => actor.names.set(peer, host, port, clock::now()),
        None => {}
    }
    if let Some(seconds) = update.persistent_keepalive {
        let interval = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        actor.protocol.set_persistent_keepalive(peer, interval);
    }
    if update.replace_allowed_ips {
        // Prefixes added again below are not removed first: tools mostly repeat the current configuration.
        let given = update.allowed_ips.iter().filter(|change| !change.remove);
        builder.keep_only(peer, &given.map(|change| change.net.trunc()).collect());
    }
    for change in update.allowed_ips {
        if change.remove {
            builder.disallow(change.net, peer);
        } else {
            builder.allow(change.net, &record);
        }
    }
    Ok(Some(peer))
}

/// Removes the endpoint of the peer with this key, if there is such a peer.
fn forget_endpoint(actor: &mut PeerActor, key: &PublicKey) {
    let Some(peer) = actor.protocol.peer_by_key(key) else { return };
    actor.names.forget(peer);
    if let Some(record) = actor.peers.load().peer(peer) {
        record.leave();
    }
}

/// Adds a peer. Returns `None` if the key is the router's own, which is not an error: tools give the same
/// list of peers to every router.
fn add_peer(
    actor: &mut PeerActor,
    builder: &mut SnapshotBuilder,
    key: PublicKey,
) -> Result<Option<PeerId>, Errno> {
    let peer = match actor.protocol.add_peer(key) {
        Ok(peer) => peer,
        Err(error @ AddPeerError::OwnKey(_)) => {
            tracing::info!("peer skipped: {error}");
            return Ok(None);
        }
        Err(error) => {
            tracing::warn!("cannot add the peer {key}: {error}");
            return Err(Errno::EINVAL);
        }
    };
    builder.add_peer(PeerRecord::new(peer, key, actor.spread_ports.includes(&key)));
    Ok(Some(peer))
}

fn remove_peer(actor: &mut PeerActor, builder: &mut SnapshotBuilder, peer: PeerId) {
    actor.protocol.remove_peer(peer);
    forget_peer(actor, builder, peer);
}

/// Removes a peer that the protocol no longer has from the timers, the names and the snapshot.
fn forget_peer(actor: &mut PeerActor, builder: &mut SnapshotBuilder, peer: PeerId) {
    actor.schedule.set(peer, None);
    actor.names.forget(peer);
    actor.reports.forget(peer);
    builder.remove_peer(peer);
}
