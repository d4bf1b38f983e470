//! TUN to UDP, second half: sends runs of sealed datagrams.
//!
//! If the socket's buffer is full, the current batch waits for room and later batches wait behind it, so
//! nothing is reordered.

use std::mem;
use std::sync::Arc;

use crate::clock;
use crate::drops::DropReason;
use crate::faults::{self, Stage};
use crate::lane::peers::{PeerRecord, Snapshot};
use crate::lane::ring::Ring;
use crate::lane::ring::batch::{OutboundBatch, Run};
use crate::lane::sockets::{LaneSockets, SendSocket};
use crate::metrics::{Dropped, OutsideMetrics};
use crate::packet::class::Dscp;
use crate::underlay::{Endpoint, Notices, SendFailure, Sender, UdpSocket};
use crate::wireguard::messages::Kind;

/// Traffic class of handshake messages and cookie replies: DSCP AF41, as the kernel's WireGuard sends them
/// (`HANDSHAKE_DSCP`, `drivers/net/wireguard/messages.h`).
pub const HANDSHAKE_CLASS: u8 = 0x88;

/// The sending half of an outside worker.
pub struct BatchSender {
    sender: Sender,
    ring: Arc<Ring<OutboundBatch>>,
    returns: Arc<Ring<OutboundBatch>>,
    current: Option<Box<OutboundBatch>>,
    progress: SendProgress,
    keepalive_class: u8,
}

/// The progress of sending the current batch.
#[derive(Clone, Copy, Default)]
struct SendProgress {
    /// Index of the current run.
    run: usize,
    /// Bytes of the current run already sent.
    sent: usize,
    /// The socket whose buffer is full, if any.
    blocked: Option<SendSocket>,
    /// Whether the current run is being sent.
    sending: bool,
}

impl BatchSender {
    /// Creates a sender of the batches in `ring`. `returns` is the return ring. `dscp` applies to
    /// keepalives; batches carry their own traffic class.
    pub fn new(
        sender: Sender,
        ring: Arc<Ring<OutboundBatch>>,
        returns: Arc<Ring<OutboundBatch>>,
        dscp: Dscp,
    ) -> Self {
        let keepalive_class = dscp.outer(0);
        Self { sender, ring, returns, current: None, progress: SendProgress::default(), keepalive_class }
    }

    /// Returns whether no batch waits.
    pub fn is_empty(&self) -> bool {
        self.current.is_none() && self.ring.is_empty()
    }

    /// Returns the number of batches held.
    pub(super) fn batches(&self) -> usize {
        usize::from(self.current.is_some())
    }

    /// Returns the socket whose buffer is full, if any.
    pub(super) fn blocked(&self) -> Option<SendSocket> {
        self.progress.blocked
    }

    /// Switches to another socket, and tries GSO again even if the previous socket had it disabled.
    pub fn use_socket(&mut self, socket: &UdpSocket) {
        self.sender = Sender::new(socket);
        self.progress.blocked = None;
    }

    /// Sends waiting batches until the ring is empty or the socket's buffer is full. Returns whether
    /// anything was sent.
    ///
    /// Sends at most as many batches as the ring holds, so that an inside worker that keeps filling it
    /// cannot keep this worker from commands and receiving.
    pub fn serve(
        &mut self,
        sockets: &LaneSockets,
        snapshot: &Snapshot,
        metrics: &mut OutsideMetrics,
    ) -> bool {
        let mut served = false;
        for _ in 0..self.ring.depth() {
            let Some(batch) = self.current.take().or_else(|| self.ring.pop()) else { break };
            self.current = Some(batch);
            let before = (self.progress.run, self.progress.sent);
            self.send_batch(sockets, snapshot, metrics);
            served |= before != (self.progress.run, self.progress.sent);
            if self.progress.blocked.is_some() {
                break;
            }
            self.finish_batch();
            served = true;
        }
        metrics.note_sends(self.sender.tally());
        served
    }

    /// Sends a handshake message or keepalive to `peer`, if it is for a peer. It is dropped if the socket's
    /// buffer is full; a timer retries it.
    pub fn send_control(
        &mut self,
        socket: &UdpSocket,
        message: &[u8],
        to: &Endpoint,
        peer: Option<&PeerRecord>,
        metrics: &mut OutsideMetrics,
    ) {
        let class = match Kind::of(message) {
            Some(Kind::Data) => self.keepalive_class,
            _ => HANDSHAKE_CLASS,
        };
        if let Err(failure) = self.sender.send_run(socket, message, message.len(), to, class) {
            tracing::trace!("dropped a control message to {}: {failure}", to.address);
            metrics.outbound_drops.add_described(DropReason::SendError, 1, || {
                let peer = peer.map(|peer| peer.public_key);
                Dropped::datagram_to(to.address, message.len()).with_peer(peer)
            });
            if let (Some(peer), SendFailure::Refused { errno, .. }) = (peer, failure) {
                peer.note_control_refusal(Some(errno));
            }
        } else if let Some(peer) = peer {
            peer.note_control_refusal(None);
            peer.note_sent(message.len());
        }
    }

    /// Skips the run that was being sent when the worker panicked. Returns the number of its datagrams not sent.
    pub(super) fn recover(&mut self) -> u64 {
        let progress = &mut self.progress;
        if !mem::take(&mut progress.sending) {
            return 0;
        }
        let run = self.current.as_ref().and_then(|batch| batch.runs.get(progress.run));
        let unsent = run.map_or(0, |run| run.datagrams() - (progress.sent / usize::from(run.stride)) as u64);
        progress.run += 1;
        progress.sent = 0;
        unsent
    }

    /// Drops the current batch and all waiting ones. Returns the number of datagrams dropped.
    pub(super) fn drop_waiting(&mut self) -> u64 {
        let mut unsent = 0;
        while let Some(batch) = self.current.take().or_else(|| self.ring.pop()) {
            let SendProgress { run, sent, .. } = self.progress;
            unsent += batch.runs.iter().skip(run).map(Run::datagrams).sum::<u64>();
            unsent -= batch.runs.get(run).map_or(0, |run| (sent / usize::from(run.stride)) as u64);
            self.current = Some(batch);
            self.finish_batch();
        }
        unsent
    }

    fn send_batch(&mut self, sockets: &LaneSockets, snapshot: &Snapshot, metrics: &mut OutsideMetrics) {
        let Some(batch) = &self.current else { return };
        let progress = &mut self.progress;
        progress.blocked = None;
        while let Some(run) = batch.runs.get(progress.run) {
            let bytes = &batch.data[run.start as usize + progress.sent..(run.start + run.len) as usize];
            let peer = snapshot.peer(run.peer).map(Arc::as_ref);
            let port = sockets.towards(peer);
            let socket = sockets.on(port);
            let note_sent = |bytes| {
                if let Some(peer) = peer {
                    peer.note_sent(bytes);
                }
            };
            progress.sending = true;
            faults::point(Stage::Send);
            let outcome = self.sender.send_run(socket, bytes, usize::from(run.stride), &run.to, run.class);
            // From here on a panic does not cost this run.
            progress.sending = false;
            if let Err(SendFailure::WouldBlock { sent, .. }) = outcome {
                progress.sent += sent;
                progress.blocked = Some(port);
            } else {
                progress.run += 1;
                progress.sent = 0;
            }
            faults::point(Stage::Sent);
            match outcome {
                Ok(notices) => {
                    note_sent(bytes.len());
                    take_notice(notices, run, socket, snapshot);
                }
                Err(SendFailure::WouldBlock { sent, notices }) => {
                    note_sent(sent);
                    take_notice(notices, run, socket, snapshot);
                    return;
                }
                Err(SendFailure::Refused { sent, lost, notices, .. }) => {
                    note_sent(sent);
                    let reason = if notices.over_mtu { DropReason::TooBig } else { DropReason::SendError };
                    metrics.outbound_drops.add_described(reason, lost as u64, || {
                        let peer = peer.map(|peer| peer.public_key);
                        Dropped::datagram_to(run.to.address, usize::from(run.stride)).with_peer(peer)
                    });
                    take_notice(notices, run, socket, snapshot);
                }
            }
        }
    }

    fn finish_batch(&mut self) {
        self.progress = SendProgress::default();
        if let Some(mut batch) = self.current.take() {
            batch.runs.clear();
            faults::point(Stage::Finish);
            assert!(self.returns.push(batch).is_ok(), "a return ring holds every batch of its pool");
        }
    }
}

/// Applies what a send revealed.
///
/// If the host has lost the source address, clears it, so that routing selects another. If the datagrams
/// exceeded the path MTU, queries it, so that inside workers reject packets that do not fit.
fn take_notice(notices: Notices, run: &Run, socket: &UdpSocket, snapshot: &Snapshot) {
    if notices == Notices::default() {
        return;
    }
    let Some(peer) = snapshot.peer(run.peer) else { return };
    if notices.source_gone {
        peer.forget_source(&run.to);
    }
    if notices.over_mtu {
        learn_path(peer, &run.to, socket);
    }
}

/// Queries the kernel for the path MTU to a peer and records it.
#[cold]
fn learn_path(peer: &PeerRecord, to: &Endpoint, socket: &UdpSocket) {
    let now = clock::now();
    if !peer.path_limit.may_ask(now) {
        return;
    }
    match socket.path_mtu(to) {
        Ok(mtu) => {
            tracing::debug!("path MTU to {} is {mtu} bytes", to.address);
            peer.learn_path(to.address, mtu, now);
        }
        Err(error) => tracing::debug!("path MTU to {} is unknown: {error}", to.address),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::thread;

    use super::*;
    use crate::lane::ring::Pool;
    use crate::lane::ring::doorbell::Doorbell;
    use crate::metrics::Registry;
    use crate::metrics::exposition::Exposition;
    use crate::underlay::SocketOptions;
    use crate::units::PeerId;
    use crate::wireguard::lanes::LaneHash;

    /// Adds one datagram, sent to the socket's own port.
    fn fill(batch: &mut OutboundBatch, port: u16) {
        let to = Endpoint::new((Ipv4Addr::LOCALHOST, port).into());
        batch.runs.push(Run { start: 0, len: 32, stride: 32, class: 0, to, peer: PeerId(0) });
    }

    #[test]
    fn one_turn_sends_at_most_as_many_batches_as_the_ring_holds() {
        const DEPTH: usize = 4;
        let sockets =
            LaneSockets::open(0, LaneHash::default(), false, SocketOptions::default()).unwrap().remove(0);
        let port = sockets.shared.port();
        let bell = || Arc::new(Doorbell::new().unwrap());
        let ring = Arc::new(Ring::new(DEPTH, bell()));
        let mut pool = Pool::new(4 * DEPTH, bell(), OutboundBatch::new);
        let returns = Arc::clone(pool.returns());
        let mut sender =
            BatchSender::new(Sender::new(&sockets.shared), Arc::clone(&ring), returns, Dscp::default());
        let (registry, snapshot) = (Registry::new(), Snapshot::default());
        let mut metrics = OutsideMetrics::register(&registry, 0);
        let (over, mut most) = (AtomicBool::new(false), 0.0_f64);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut batch = None;
                while !over.load(Relaxed) {
                    let Some(mut full) = batch.take().or_else(|| pool.take()) else { continue };
                    if full.runs.is_empty() {
                        fill(&mut full, port);
                    }
                    batch = ring.push(full).err();
                }
            });
            let mut sent = 0.0;
            for _ in 0..500 {
                while !ring.is_full() {
                    thread::yield_now();
                }
                sender.serve(&sockets, &snapshot, &mut metrics);
                let metrics = Exposition::parse(&registry.render()).unwrap();
                let now = metrics.sum("laneway_udp_run_segments_count", &[]);
                most = (now - sent).max(most);
                sent = now;
            }
            over.store(true, Relaxed);
        });
        assert!((1.0..=DEPTH as f64).contains(&most), "{most} batches in one go");
    }
}
