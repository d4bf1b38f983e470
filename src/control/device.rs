//! Configuration while running: how a [`DeviceUpdate`] becomes protocol state, snapshot and sockets,
//! and how the control socket reaches the peer actor that does it.
//!
//! Updates are in place. A peer that is kept keeps its sessions, counters and endpoint; allowed IPs
//! change with one swap of the snapshot, so no packet sees half of an update.

use std::collections::HashSet;
use std::mem;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{self, Receiver, Sender};
use ipnet::IpNet;
use nix::errno::Errno;

use super::actor::PeerActor;
use super::config::update::{DeviceStatus, DeviceUpdate, PeerEndpoint, PeerStatus, PeerUpdate};
use super::draft::Draft;
use super::uapi::Device;
use crate::lane::doorbell::{Awaited, Doorbell};
use crate::lane::outside::LaneSockets;
use crate::lane::peers::PeerRecord;
use crate::lane::telemetry::Registry;
use crate::sys::clock;
use crate::underlay::{BindError, Endpoint, SocketOptions};
use crate::units::PeerId;
use crate::wireguard::keys::{PresharedKey, PrivateKey, PublicKey};
use crate::wireguard::protocol::AddPeerError;

/// Requests that may wait for the peer actor. Whoever asks waits for the answer, so there are no
/// more than there are connections to the control socket.
const REQUESTS: usize = 64;

/// What the control socket and the supervisor ask of the peer actor.
#[derive(Debug)]
pub enum Request {
    /// Change the configuration.
    Apply(DeviceUpdate, Sender<Result<(), Errno>>),
    /// Say how things are.
    Status(Sender<DeviceStatus>),
}

/// The way to the peer actor for those who ask.
#[derive(Clone, Debug)]
pub struct DeviceHandle {
    requests: Sender<Request>,
    bell: Arc<Doorbell>,
    registry: Arc<Registry>,
}

impl DeviceHandle {
    /// A handle, and the end of it that belongs to the actor at `bell`. Metrics come from `registry`.
    pub fn new(bell: Arc<Doorbell>, registry: Arc<Registry>) -> (Self, Receiver<Request>) {
        let (requests, receiver) = channel::bounded(REQUESTS);
        (Self { requests, bell, registry }, receiver)
    }

    fn ask<T>(&self, request: impl FnOnce(Sender<T>) -> Request) -> Result<T, Errno> {
        let (answer, answered) = channel::bounded(1);
        self.requests.send(request(answer)).map_err(|_| Errno::ENODEV)?;
        self.bell.ring(Awaited::WORK);
        answered.recv().map_err(|_| Errno::ENODEV)
    }
}

impl Device for DeviceHandle {
    fn apply(&self, update: DeviceUpdate) -> Result<(), Errno> {
        self.ask(|answer| Request::Apply(update, answer))?
    }

    fn status(&self) -> Result<DeviceStatus, Errno> {
        self.ask(Request::Status)
    }

    fn metrics(&self) -> String {
        self.registry.render()
    }
}

/// How long an order for another port waits for workers to let go of old sockets on it. Each does so in its next turn;
/// on a busy machine that may be a while away.
const LETTING_GO: Duration = Duration::from_secs(1);

/// How long it may take from the last hold on old sockets to the end of them.
const CLOSING: Duration = Duration::from_millis(20);

/// How often it is looked whether the port is free.
const LOOK: Duration = Duration::from_millis(1);

/// The sockets as they are bound, and how to bind them anew.
#[derive(Clone, Debug)]
pub struct Bound {
    /// The UDP port of all lanes.
    pub port: u16,
    /// How the sockets are opened, with the mark in force.
    pub options: SocketOptions,
    /// All that were ever opened and may still be open: the workers have them.
    pub sockets: Vec<Weak<LaneSockets>>,
}

/// Answers one request.
pub(super) fn answer(actor: &mut PeerActor, request: Request) {
    // Whoever asked may be gone; then nobody misses the answer.
    match request {
        Request::Apply(update, answer) => drop(answer.send(actor.apply(update))),
        Request::Status(answer) => drop(answer.send(actor.status())),
    }
}

/// Brings everything in line with `update`.
pub(super) fn apply(actor: &mut PeerActor, mut update: DeviceUpdate) -> Result<(), Errno> {
    // What is most likely to be refused comes first: then nothing has changed.
    if let Some(port) = update.listen_port {
        rebind(actor, port)?;
    }
    if let Some(mark) = update.fwmark {
        actor.bound.options.fwmark = mark;
        for commands in &actor.commands {
            commands.set_fwmark(mark);
        }
    }
    if let Some(key) = update.private_key {
        set_private_key(actor, key);
    }
    let mut draft = Draft::of(actor.peers.load_full(), mem::take(&mut actor.memory));
    if update.replace_peers {
        // Kept peers begin with what the update says and nothing else.
        let mut named = HashSet::new();
        for peer in &mut update.peers {
            if named.insert(peer.public_key) {
                peer.preshared_key.get_or_insert(PresharedKey::NONE);
                peer.persistent_keepalive.get_or_insert(0);
            }
        }
        let unnamed = draft.peers().filter(|peer| !named.contains(&peer.public_key));
        let unnamed: Vec<PeerId> = unnamed.map(|peer| peer.id).collect();
        draft.clear_all();
        for peer in unnamed {
            remove_peer(actor, &mut draft, peer);
        }
    }
    let mut touched = Vec::new();
    let outcome = update.peers.into_iter().try_for_each(|peer| {
        touched.extend(apply_peer(actor, &mut draft, peer)?);
        Ok(())
    });
    actor.memory = draft.publish(&actor.peers, clock::now());
    for peer in touched {
        actor.look_at(peer);
    }
    outcome
}

/// What `get=1` shows.
pub(super) fn status(actor: &PeerActor) -> DeviceStatus {
    let snapshot = actor.peers.load();
    let mut allowed_ips: Vec<Vec<IpNet>> = vec![Vec::new(); snapshot.peers.len()];
    for (net, owner) in snapshot.routes.iter() {
        allowed_ips[owner.id.0 as usize].push(net);
    }
    let peer = |record: &Arc<PeerRecord>| {
        let info = actor.protocol.peer(record.id).expect("protocol and snapshot have the same peers");
        PeerStatus {
            public_key: record.public_key,
            preshared_key: info.preshared_key.clone(),
            suite: info.suite,
            endpoint: record.endpoint.load().map(|endpoint| endpoint.address),
            last_handshake: info.last_handshake,
            sent_bytes: record.sent_bytes.load(Ordering::Relaxed),
            received_bytes: record.received_bytes.load(Ordering::Relaxed),
            persistent_keepalive: info.persistent_keepalive.map_or(0, |every| every.as_secs() as u16),
            allowed_ips: mem::take(&mut allowed_ips[record.id.0 as usize]),
        }
    };
    DeviceStatus {
        private_key: actor.protocol.private_key().cloned(),
        listen_port: actor.bound.port,
        fwmark: actor.bound.options.fwmark,
        peers: snapshot.peers.iter().flatten().map(peer).collect(),
    }
}

/// New sockets on another port. The old ones stay until each worker has its new one, so a bound
/// socket always has a reader.
fn rebind(actor: &mut PeerActor, port: u16) -> Result<(), Errno> {
    if port == actor.bound.port {
        return Ok(());
    }
    let sockets = open(actor, port).map_err(|error| {
        tracing::warn!("the listen port stays {}: {error}", actor.bound.port);
        match error {
            BindError::PortTaken { .. } => Errno::EADDRINUSE,
            _ => Errno::EACCES,
        }
    })?;
    actor.bound.port = sockets.first().map_or(port, |sockets| sockets.shared.port());
    // The last ones stay on the list in any case: they may be about to be closed.
    let mut before_the_last = actor.bound.sockets.len().saturating_sub(actor.commands.len());
    actor.bound.sockets.retain(|sockets| {
        let is_last = before_the_last == 0;
        before_the_last = before_the_last.saturating_sub(1);
        is_last || sockets.strong_count() > 0
    });
    for (commands, sockets) in actor.commands.iter().zip(sockets) {
        let sockets = Arc::new(sockets);
        actor.bound.sockets.push(Arc::downgrade(&sockets));
        commands.rebind(sockets);
    }
    Ok(())
}

/// Opens sockets on `port`. If it is one that was left just before, workers may still have the old ones.
fn open(actor: &PeerActor, port: u16) -> Result<Vec<LaneSockets>, BindError> {
    let start = clock::now();
    loop {
        let old = &actor.bound.sockets;
        let held = old.iter().filter_map(Weak::upgrade).any(|old| old.has_port(port));
        // Nobody holds them any more, but whoever let go of them last may not have closed them yet.
        let closing = old.iter().any(|old| old.strong_count() == 0);
        let patience = match (held, closing) {
            (true, _) => LETTING_GO,
            (false, true) => CLOSING,
            (false, false) => Duration::ZERO,
        };
        let spread = actor.spread_ports.is_on();
        match LaneSockets::open(port, actor.commands.len(), spread, actor.bound.options) {
            Err(BindError::PortTaken { .. }) if clock::now().since(start) < patience => thread::sleep(LOOK),
            opened => return opened,
        }
    }
}

/// Every session was made with the old key, so none is used any more. A peer that turns out to be
/// ourselves is gone.
fn set_private_key(actor: &mut PeerActor, key: Option<PrivateKey>) {
    let change = actor.protocol.set_private_key(key);
    if change.changed {
        for record in actor.peers.load().peers.iter().flatten() {
            record.sending.store(None);
        }
    }
    if let Some(peer) = change.removed {
        let mut draft = Draft::of(actor.peers.load_full(), mem::take(&mut actor.memory));
        forget_peer(actor, &mut draft, peer);
        actor.memory = draft.publish(&actor.peers, clock::now());
    }
}

/// Changes one peer; the peer, if there is one to look at now.
fn apply_peer(actor: &mut PeerActor, draft: &mut Draft, update: PeerUpdate) -> Result<Option<PeerId>, Errno> {
    let known = actor.protocol.peer_by_key(&update.public_key);
    if update.remove {
        if let Some(peer) = known {
            remove_peer(actor, draft, peer);
        }
        return Ok(None);
    }
    let peer = match known {
        Some(peer) => peer,
        None if update.update_only => return Ok(None),
        None => match add_peer(actor, draft, update.public_key)? {
            Some(peer) => peer,
            None => return Ok(None),
        },
    };
    let record = Arc::clone(draft.peer(peer).expect("protocol and snapshot have the same peers"));
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
        // Until it has been looked up the peer stays where it is.
        Some(PeerEndpoint::Name { host, port }) => actor.names.set(peer, host, port, clock::now()),
        None => {}
    }
    if let Some(seconds) = update.persistent_keepalive {
        let interval = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        actor.protocol.set_persistent_keepalive(peer, interval);
    }
    if update.replace_allowed_ips {
        // What is given back below is not taken away: most of what tools say is so already.
        let given = update.allowed_ips.iter().filter(|change| !change.remove);
        draft.keep_only(peer, &given.map(|change| change.net.trunc()).collect());
    }
    for change in update.allowed_ips {
        if change.remove {
            draft.disallow(change.net, peer);
        } else {
            draft.allow(change.net, &record);
        }
    }
    Ok(Some(peer))
}

/// Adds a peer; `None` if it is ourselves. Tools give the same list of peers to all of them, so that is
/// no mistake.
fn add_peer(actor: &mut PeerActor, draft: &mut Draft, key: PublicKey) -> Result<Option<PeerId>, Errno> {
    let peer = match actor.protocol.add_peer(key) {
        Ok(peer) => peer,
        Err(error @ AddPeerError::OwnKey(_)) => {
            tracing::info!("a peer is left out: {error}");
            return Ok(None);
        }
        Err(error) => {
            tracing::warn!("{key} is not added: {error}");
            return Err(Errno::EINVAL);
        }
    };
    draft.add_peer(PeerRecord::new(peer, key, actor.spread_ports.includes(&key)));
    Ok(Some(peer))
}

fn remove_peer(actor: &mut PeerActor, draft: &mut Draft, peer: PeerId) {
    actor.protocol.remove_peer(peer);
    forget_peer(actor, draft, peer);
}

/// Takes a peer that the protocol no longer has out of all that workers see.
fn forget_peer(actor: &mut PeerActor, draft: &mut Draft, peer: PeerId) {
    actor.schedule.set(peer, None);
    actor.names.forget(peer);
    draft.remove_peer(peer);
}
