//! Packets that wait for a session: stages them, routes them again when peers or allowed IPs change, and seals them once
//! their peer has a session.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrayvec::ArrayVec;

use super::{Sealer, usable_session};
use crate::drops::DropReason;
use crate::faults;
use crate::faults::Stage;
use crate::lane::inside::Turn;
use crate::lane::peers::{PeerRecord, Snapshot};
use crate::lane::staging::{self, StagedPacket};
use crate::lane::wait::sleep::Stopped;
use crate::metrics::Dropped;
use crate::offload::{Superpacket, VirtioHeader};
use crate::packet::reject::Cause;
use crate::units::{MAX_PACKET, Nanos, PeerId};

/// Number of bytes that describe a staged packet: an IPv6 header with extensions, and ports.
const DESCRIBED: usize = 128;

/// A buffer for the packet that leaves the staging.
pub struct Unstaged(Box<[u8]>);

impl Default for Unstaged {
    fn default() -> Self {
        Self(vec![0; VirtioHeader::LONG + MAX_PACKET].into_boxed_slice())
    }
}

impl Sealer {
    /// Returns copies of the staged packets.
    pub(in crate::lane::inside) fn staged(&self) -> Vec<StagedPacket> {
        self.staging.copies()
    }

    /// Stages packets that another process had staged. They are routed again.
    pub fn stage_again(&mut self, packets: Vec<StagedPacket>) {
        for StagedPacket { peer, attempt, bytes } in packets {
            // They fitted before.
            self.staging.push(peer, attempt, [&bytes, &[]]);
        }
        self.routed_by = u64::MAX;
    }

    /// Returns whether packets wait for handshakes.
    pub(in crate::lane::inside) fn has_staged(&self) -> bool {
        !self.staging.is_empty()
    }

    /// Returns whether [`release_staged`](Self::release_staged) would find work.
    pub(in crate::lane::inside) fn has_releasable(&self, snapshot: &Snapshot, now: Nanos) -> bool {
        !self.staging.is_empty()
            && (self.routed_by != snapshot.version || self.next_releasable(snapshot, now).is_some())
    }

    /// Seals, in order, the staged packets of one peer that now has a session, or drops those whose
    /// handshake failed. Returns whether there was anything to do.
    ///
    /// If peers or allowed IPs have changed, routes all staged packets again first: packets of removed
    /// peers are dropped, and packets whose destination now belongs to another peer move to that peer.
    ///
    /// `unstaged` is scratch space.
    pub(in crate::lane::inside) fn release_staged(
        &mut self,
        unstaged: &mut Unstaged,
        turn: &mut Turn<'_>,
    ) -> Result<bool, Stopped> {
        if self.staging.is_empty() {
            return Ok(false);
        }
        let changed = self.routed_by != turn.snapshot.version;
        if changed {
            self.route_staged_again(unstaged, turn)?;
        }
        let Some(peer) = self.next_releasable(turn.snapshot, turn.now) else { return Ok(changed) };
        let id = peer.id;
        let Some(session) = usable_session(peer, turn.now) else {
            self.drop_staged_for(id, DropReason::HandshakeFailed, Some(peer), turn);
            return Ok(true);
        };
        let seal = |sealer: &mut Self, packet: &Superpacket<'_>, turn: &mut Turn<'_>| {
            sealer.seal(packet, peer, &session, turn)
        };
        while self.with_staged(id, unstaged, turn, seal)? {}
        Ok(true)
    }

    /// Finds a peer with staged packets whose handshake has completed or failed.
    pub(super) fn next_releasable<'s>(
        &self,
        snapshot: &'s Snapshot,
        now: Nanos,
    ) -> Option<&'s Arc<PeerRecord>> {
        self.staging
            .peers()
            .find_map(|(id, attempt)| snapshot.peer(id).filter(|peer| is_releasable(peer, attempt, now)))
    }

    /// Routes every staged packet by the current snapshot.
    pub(super) fn route_staged_again(
        &mut self,
        unstaged: &mut Unstaged,
        turn: &mut Turn<'_>,
    ) -> Result<(), Stopped> {
        self.routed_by = turn.snapshot.version;
        let queues: ArrayVec<_, { staging::MAX_QUEUES }> = self.staging.peers().collect();
        for (id, attempt) in queues {
            if turn.snapshot.peer(id).is_none() {
                self.drop_staged_for(id, DropReason::PeerRemoved, None, turn);
                continue;
            }
            // Each packet moves to the end of a queue, mostly the same one, so one pass keeps the order.
            for _ in 0..self.staging.packets(id) {
                self.with_staged(id, unstaged, turn, |sealer, packet, turn| {
                    let owner = turn.snapshot.routes.lookup(packet.destination());
                    match owner.filter(|owner| owner.id == id) {
                        Some(_) => sealer.stage_for(id, attempt, packet, turn),
                        None => sealer.route(packet, turn)?,
                    }
                    Ok(())
                })?;
            }
        }
        Ok(())
    }

    /// Removes the oldest packet staged for `id` and passes it to `act`. Returns whether there was one.
    pub(super) fn with_staged(
        &mut self,
        id: PeerId,
        Unstaged(buffer): &mut Unstaged,
        turn: &mut Turn<'_>,
        act: impl FnOnce(&mut Self, &Superpacket<'_>, &mut Turn<'_>) -> Result<(), Stopped>,
    ) -> Result<bool, Stopped> {
        let Some(len) = self.staging.pop(id, buffer) else { return Ok(false) };
        let (header, packet) = buffer[..len].split_first_chunk_mut().expect("staged with its header");
        let packet = Superpacket::parse(VirtioHeader::decode_long(header), packet);
        let packet = packet.expect("it was parsed before it was staged");
        self.in_hand += packet.segments() as u64;
        faults::point(Stage::Release);
        act(self, &packet, turn).map(|()| true)
    }

    /// Drops all staged packets. Returns their number.
    pub(in crate::lane::inside) fn drop_staged(&mut self) -> u64 {
        let mut lost = 0;
        while let Some((peer, _)) = { self.staging.peers().next() } {
            lost += self.staging.clear(peer);
        }
        lost
    }

    /// Drops the packets staged for the peer with this id.
    fn drop_staged_for(
        &mut self,
        id: PeerId,
        reason: DropReason,
        peer: Option<&PeerRecord>,
        turn: &mut Turn<'_>,
    ) {
        let drops = &mut turn.metrics.outbound_drops;
        let oldest = drops.wants(reason).then(|| self.describe_oldest(id, peer)).flatten();
        let lost = self.staging.clear(id);
        match oldest {
            Some(oldest) => drops.add_described(reason, lost, || oldest),
            None => drops.add(reason, lost),
        }
    }

    /// Describes the oldest packet staged for the peer with this id.
    #[cold]
    fn describe_oldest(&self, id: PeerId, peer: Option<&PeerRecord>) -> Option<Dropped> {
        let mut head = [0; VirtioHeader::LONG + DESCRIBED];
        let len = self.staging.peek(id, &mut head)?;
        let packet = len.saturating_sub(VirtioHeader::LONG);
        let headers = &head[VirtioHeader::LONG..][..packet.min(DESCRIBED)];
        Some(Dropped::packet_of(headers, packet).with_peer(peer.map(|peer| peer.public_key)))
    }

    /// Stages a superpacket until its peer has a session, and requests a handshake.
    pub(super) fn stage(&mut self, packet: &Superpacket<'_>, peer: &PeerRecord, turn: &mut Turn<'_>) {
        let Some(to) = peer.endpoint() else {
            return self.refuse(packet, DropReason::NoEndpoint, Some(peer), Cause::Unreachable, turn);
        };
        if self.drop_if_looped(packet, peer, &to, None, turn) {
            return self.put_down(packet.segments());
        }
        if self.staging.is_empty() {
            self.routed_by = turn.snapshot.version;
        }
        self.stage_for(peer.id, peer.failed_handshakes.load(Ordering::Acquire), packet, turn);
        self.actor.want_handshake(peer);
    }

    /// Stages a packet in hand for `id`.
    pub(super) fn stage_for(
        &mut self,
        id: PeerId,
        attempt: u32,
        packet: &Superpacket<'_>,
        turn: &mut Turn<'_>,
    ) {
        let drops = &mut turn.metrics.outbound_drops;
        let peer = turn.snapshot.peer(id).map(Arc::as_ref);
        let oldest = drops.wants(DropReason::StagingFull).then(|| self.describe_oldest(id, peer)).flatten();
        let dropped = self.staging.push(id, attempt, [&packet.header().encode_long(), packet.packet()]);
        self.put_down(packet.segments());
        drops.add_described(DropReason::StagingFull, dropped, || {
            // With nothing older, the packet itself was dropped.
            oldest.unwrap_or_else(|| {
                Dropped::packet(packet.packet()).with_peer(peer.map(|peer| peer.public_key))
            })
        });
    }
}

/// Returns whether packets staged for `peer` during the handshake `attempt` need not wait any longer. A session
/// that has expired is none, although the peer actor may not have withdrawn it yet.
fn is_releasable(peer: &PeerRecord, attempt: u32, now: Nanos) -> bool {
    peer.failed_handshakes.load(Ordering::Acquire) != attempt || usable_session(peer, now).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wireguard::keys::PublicKey;
    use crate::wireguard::session::Role;
    use crate::wireguard::tests::sessions;
    use std::time::Duration;

    #[test]
    fn packets_wait_for_the_next_session_while_an_expired_one_is_not_withdrawn_yet() {
        let created = Nanos(1 << 40);
        let peer = PeerRecord::new(PeerId(0), PublicKey::from_bytes([0; 32]), false);
        assert!(!is_releasable(&peer, 0, created));
        peer.sending.store(Some(sessions::session(PeerId(0), Role::Initiator, 1, created)));
        assert!(is_releasable(&peer, 0, created.after(Duration::from_secs(179))));
        let expired = created.after(Duration::from_secs(180));
        assert!(!is_releasable(&peer, 0, expired), "would be dropped as if their handshake had failed");
        peer.failed_handshakes.store(1, Ordering::Release);
        assert!(is_releasable(&peer, 0, expired) && !is_releasable(&peer, 1, expired));
    }
}
