//! The router, its remote peers and the network between them, and the oracle that knows every packet's owner.

mod configure;
mod packets;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use self::packets::{mark, packet};
use super::config::{ADDRESSES, Config, Holder, REMOTES};
use super::remote::Remote;
use super::router::Router;
use super::steps::ModelStep;
use crate::clock::simulated;
use crate::config::update::DeviceUpdate;
use crate::drops::DropReason;
use crate::lane::peers::Snapshot;
use crate::underlay::Endpoint;
use crate::units::Nanos;
use crate::wireguard::keys::{Counting, PrivateKey, PublicKey};
use crate::wireguard::timers::{MAX_ATTEMPTS, MAX_JITTER, REKEY_TIMEOUT};

/// Datagrams that the network holds at most; it loses the oldest.
const IN_FLIGHT: usize = 64;
/// Rounds of [`ModelStep::Settle`] at most.
const ROUNDS: usize = 12;
/// What a step takes. Handshake timestamps have a resolution of 16 ms.
const STEP: Duration = Duration::from_millis(40);

/// How often what happened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Coverage {
    /// Packets that came from the TUN to their owner.
    delivered: u64,
    /// Of those, packets that came to another owner than they had when they were written.
    moved: u64,
    /// Packets that were sealed by a turn whose snapshot was no longer current.
    stale: u64,
    /// Packets accepted from remotes.
    accepted: u64,
    /// Packets from remotes that were not accepted when they arrived.
    refused: u64,
    /// Staged packets dropped with their peer.
    removed: u64,
    /// Staged packets dropped with a handshake that failed.
    given_up: u64,
    /// Datagrams that came to a remote they were not for.
    misdelivered: u64,
}

impl Coverage {
    #[cfg(test)]
    pub(super) fn add(&mut self, other: &Coverage) {
        self.delivered += other.delivered;
        self.moved += other.moved;
        self.stale += other.stale;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.removed += other.removed;
        self.given_up += other.given_up;
        self.misdelivered += other.misdelivered;
    }

    /// Returns whether everything happened.
    #[cfg(test)]
    pub(super) fn is_complete(&self) -> bool {
        let Coverage { delivered, moved, stale, accepted, refused, removed, given_up, misdelivered } = *self;
        [delivered, moved, stale, accepted, refused, removed, given_up, misdelivered]
            .iter()
            .all(|count| *count > 0)
    }
}

/// A packet from the TUN, by its number.
struct WrittenPackets {
    to: IpAddr,
    /// The number of the configuration in which it was written.
    at: usize,
    /// From which turn of the inside worker on it waits for, or has gone to, whom.
    held: Vec<(usize, Option<Holder>)>,
}

impl WrittenPackets {
    /// Notes that the inside worker takes a turn in which `config` holds.
    fn note_turn(&mut self, turn: usize, config: &Config) {
        let before = self.held.last().map(|(_, holder)| *holder);
        let now = match before {
            None => config.holder(self.to),
            Some(holder) => holder.and_then(|holder| config.next_holder(holder, self.to)),
        };
        if before != Some(now) {
            self.held.push((turn, now));
        }
    }

    /// Returns whom it may go to in a turn.
    fn holder(&self, turn: usize) -> Option<Holder> {
        self.held.iter().rev().find(|(since, _)| *since <= turn).and_then(|(_, holder)| *holder)
    }
}

/// A packet from a remote, by its number.
struct Sent {
    remote: usize,
    claims: IpAddr,
}

/// A datagram on its way.
#[derive(Clone)]
enum Datagram {
    /// To a remote. Data was sealed in this turn of the inside worker.
    Out { to: SocketAddr, bytes: Vec<u8>, turn: usize },
    /// To the router.
    In { from: SocketAddr, bytes: Vec<u8> },
}

pub(crate) struct World {
    router: Router,
    remotes: Vec<Remote>,
    network: VecDeque<Datagram>,
    now: Nanos,
    /// Every configuration so far.
    configs: Vec<Config>,
    own: PublicKey,
    keys: u64,
    /// The configurations in which each turn of the inside worker began and ended.
    turns: Vec<[usize; 2]>,
    /// Packets that the TUN holds.
    tun: Vec<Vec<u8>>,
    written: Vec<WrittenPackets>,
    sent: Vec<Sent>,
    /// The snapshots that workers have begun a turn with, and the numbers of their configurations.
    inside: Option<(Arc<Snapshot>, usize)>,
    outside: Option<(Arc<Snapshot>, usize)>,
    coverage: Coverage,
}

impl World {
    pub(crate) fn new() -> Self {
        let now = Nanos(1_000_000_000);
        simulated::set(now);
        let private = PrivateKey::generate(&mut Counting(500));
        let own = private.public_key();
        let mut router = Router::new();
        router.apply(DeviceUpdate { private_key: Some(Some(private)), ..DeviceUpdate::default() });
        World {
            router,
            remotes: (0..REMOTES).map(|number| Remote::new(number, own)).collect(),
            network: VecDeque::new(),
            now,
            configs: vec![Config::default()],
            own,
            keys: 0,
            turns: Vec::new(),
            tun: Vec::new(),
            written: Vec::new(),
            sent: Vec::new(),
            inside: None,
            outside: None,
            coverage: Coverage::default(),
        }
    }

    pub(crate) fn coverage(mut self) -> Coverage {
        self.count_drops();
        self.coverage
    }

    /// Takes a step.
    ///
    /// # Errors
    /// A packet came to another than its owner.
    pub(crate) fn take(&mut self, step: ModelStep) -> Result<(), String> {
        self.pass(STEP);
        match step {
            ModelStep::Add { .. }
            | ModelStep::Remove { .. }
            | ModelStep::Replace { .. }
            | ModelStep::Give { .. } => {
                self.configure(step);
            }
            ModelStep::Take { .. } | ModelStep::Reload { .. } => self.configure(step),
            ModelStep::ChangeKey => self.change_key(),
            ModelStep::ChangePreshared { remote } => self.change_preshared_key(remote),
            ModelStep::Write { address, count } => self.write(address, count),
            ModelStep::BeginInside => self.inside = Some((self.router.snapshot(), self.current())),
            ModelStep::Inside => self.turn_inside(),
            ModelStep::BeginOutside => self.outside = Some((self.router.snapshot(), self.current())),
            ModelStep::Actor => drop(self.turn_actor()),
            ModelStep::Deliver { which } => {
                return self.pick(which).map_or(Ok(()), |at| self.deliver(at, None));
            }
            ModelStep::Repeat { which } => {
                let Some(at) = self.pick(which) else { return Ok(()) };
                let copy = self.network[at].clone();
                self.network.push_back(copy);
                return self.deliver(at, None);
            }
            ModelStep::Lose { which } => drop(self.pick(which).and_then(|at| self.network.remove(at))),
            ModelStep::Misdeliver { which, remote } => {
                return self.pick(which).map_or(Ok(()), |at| self.deliver(at, Some(remote)));
            }
            ModelStep::Settle => return self.settle(),
            ModelStep::Wait { seconds } => self.pass(Duration::from_secs(seconds.into())),
            ModelStep::Silence => {
                for _ in 0..=MAX_ATTEMPTS {
                    self.pass(REKEY_TIMEOUT + MAX_JITTER);
                    self.turn_actor();
                    self.network.clear();
                }
            }
            ModelStep::Roam { remote } => {
                let address = &mut self.remotes[remote].address;
                address.set_port(address.port() + 1);
            }
            ModelStep::Restart { remote } => self.remotes[remote].restart(self.own),
            ModelStep::Initiate { remote } => {
                let datagrams = self.remotes[remote].initiate(self.now);
                self.transmit(remote, datagrams);
            }
            ModelStep::Send { remote, address } => self.send(remote, address),
        }
        Ok(())
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
        simulated::set(self.now);
    }

    fn current(&self) -> usize {
        self.configs.len() - 1
    }

    fn write(&mut self, address: usize, count: u8) {
        let to: IpAddr = ADDRESSES[address].parse().expect("an address");
        for _ in 0..=count {
            self.tun.push(packet(None, to, self.written.len()));
            self.written.push(WrittenPackets { to, at: self.current(), held: Vec::new() });
        }
    }

    fn turn_inside(&mut self) {
        let loaded = self.inside.take();
        let (snapshot, begin) = loaded.unwrap_or_else(|| (self.router.snapshot(), self.current()));
        let turn = self.turns.len();
        self.turns.push([begin, self.current()]);
        self.written.iter_mut().for_each(|written| written.note_turn(turn, &self.configs[begin]));
        let packets = std::mem::take(&mut self.tun);
        let network = &mut self.network;
        self.router.seal(&snapshot, packets, |batch| {
            for run in &batch.runs {
                let bytes = &batch.data[run.start as usize..(run.start + run.len) as usize];
                for datagram in bytes.chunks(run.stride.into()) {
                    network.push_back(Datagram::Out { to: run.to.address, bytes: datagram.to_vec(), turn });
                }
            }
        });
        self.bound_network();
    }

    fn turn_actor(&mut self) -> bool {
        let turn = self.turns.len();
        let network = &mut self.network;
        let worked = self.router.act(|message, to| {
            network.push_back(Datagram::Out { to: to.address, bytes: message.to_vec(), turn });
        });
        for number in 0..REMOTES {
            let datagrams = self.remotes[number].poll(self.now);
            self.transmit(number, datagrams);
        }
        self.bound_network();
        worked
    }

    fn send(&mut self, remote: usize, address: usize) {
        let claims: IpAddr = ADDRESSES[address].parse().expect("an address");
        let packet = packet(Some(claims), claims, self.sent.len());
        if let Some(datagram) = self.remotes[remote].seal(self.now, &packet) {
            self.sent.push(Sent { remote, claims });
            self.transmit(remote, vec![datagram]);
        }
    }

    fn transmit(&mut self, remote: usize, datagrams: Vec<Vec<u8>>) {
        let from = self.remotes[remote].address;
        self.network.extend(datagrams.into_iter().map(|bytes| Datagram::In { from, bytes }));
        self.bound_network();
    }

    fn bound_network(&mut self) {
        let over = self.network.len().saturating_sub(IN_FLIGHT);
        self.network.drain(..over);
    }

    fn pick(&self, which: u8) -> Option<usize> {
        (!self.network.is_empty()).then(|| usize::from(which) % self.network.len())
    }

    /// Delivers a datagram, to this remote if it is for one at all and one is given.
    fn deliver(&mut self, at: usize, wrongly: Option<usize>) -> Result<(), String> {
        match self.network.remove(at).expect("it was just picked") {
            Datagram::In { from, bytes } => self.deliver_in(from, &bytes),
            Datagram::Out { to, bytes, turn } => {
                let at_address = self.remotes.iter().position(|remote| remote.address == to);
                let Some(number) = wrongly.or(at_address) else { return Ok(()) };
                self.coverage.misdelivered += u64::from(Some(number) != at_address);
                let (packets, answers) = self.remotes[number].receive(self.now, &bytes);
                self.transmit(number, answers);
                packets.iter().try_for_each(|packet| self.check_delivered(number, packet, turn))
            }
        }
    }

    fn check_delivered(&mut self, remote: usize, packet: &[u8], turn: usize) -> Result<(), String> {
        let number = mark(packet);
        let written = &self.written[number];
        let [begin, end] = self.turns[turn];
        let before = self.configs[written.at].owner(written.to);
        if written.holder(turn).is_none_or(|holder| holder.remote != remote) {
            return Err(format!(
                "packet {number} for {} was sealed for remote {remote}; it was for {:?} then, its address belonged to {:?} \
                 when it was written, and to {:?} when it was sealed",
                written.to,
                written.holder(turn),
                before,
                self.configs[begin].owner(written.to),
            ));
        }
        self.coverage.delivered += 1;
        self.coverage.moved += u64::from(before != Some(remote));
        self.coverage.stale += u64::from(begin != end);
        Ok(())
    }

    fn deliver_in(&mut self, from: SocketAddr, datagram: &[u8]) -> Result<(), String> {
        let loaded = self.outside.take();
        let (snapshot, begin) = loaded.unwrap_or_else(|| (self.router.snapshot(), self.current()));
        let mut accepted = Vec::new();
        let from = Endpoint::new(from);
        self.router.open(&snapshot, datagram, from, |packet| accepted.push(mark(packet)));
        self.coverage.accepted += accepted.len() as u64;
        self.coverage.refused += u64::from(accepted.is_empty() && datagram.len() > 32 && datagram[0] == 4);
        for number in accepted {
            let Sent { remote, claims } = self.sent[number];
            if !self.configs[begin..].iter().any(|config| config.owner(claims) == Some(remote)) {
                let owner = self.configs[self.current()].owner(claims);
                return Err(format!(
                    "packet {number} from {claims} was accepted from remote {remote}; the owner is {owner:?}"
                ));
            }
        }
        Ok(())
    }

    fn settle(&mut self) -> Result<(), String> {
        for _ in 0..ROUNDS {
            self.turn_inside();
            let worked = self.turn_actor();
            if self.network.is_empty() && !worked {
                break;
            }
            for _ in 0..self.network.len() {
                if !self.network.is_empty() {
                    self.deliver(0, None)?;
                }
            }
        }
        Ok(())
    }

    fn count_drops(&mut self) {
        let coverage = &mut self.coverage;
        self.router.take_drops(|reason, packets| match reason {
            DropReason::PeerRemoved => coverage.removed += packets,
            DropReason::HandshakeFailed => coverage.given_up += packets,
            _ => {}
        });
    }
}
