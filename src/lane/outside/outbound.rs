//! TUN to socket, second half: runs of sealed datagrams leave by UDP.
//!
//! When the socket's buffer is full the batch in hand waits for room, and with it all that is
//! behind it: nothing overtakes.

use std::sync::Arc;

use super::sockets::{LaneSockets, Port};
use crate::drops::DropReason;
use crate::lane::batch::{OutboundBatch, Run};
use crate::lane::inbox::Inbox;
use crate::lane::peers::{PeerRecord, Snapshot};
use crate::lane::telemetry::OutsideTelemetry;
use crate::sys::clock;
use crate::underlay::{Endpoint, Notices, SendFailure, Sender, UdpSocket};

/// The sending half of an outside worker.
pub struct Outbound {
    sender: Sender,
    inbox: Arc<Inbox<OutboundBatch>>,
    home: Arc<Inbox<OutboundBatch>>,
    current: Option<Box<OutboundBatch>>,
    progress: Progress,
}

/// How far the batch in hand has got.
#[derive(Clone, Copy, Default)]
struct Progress {
    /// The run in hand.
    run: usize,
    /// Its bytes that are on their way.
    sent: usize,
    /// The socket that had no room for more.
    blocked: Option<Port>,
}

impl Outbound {
    /// Sends what comes in at `inbox` and returns the slabs to `home`.
    pub fn new(sender: Sender, inbox: Arc<Inbox<OutboundBatch>>, home: Arc<Inbox<OutboundBatch>>) -> Self {
        Self { sender, inbox, home, current: None, progress: Progress::default() }
    }

    /// Whether no batch waits.
    pub fn is_empty(&self) -> bool {
        self.current.is_none() && self.inbox.is_empty()
    }

    /// The socket whose buffer is full.
    pub(super) fn blocked(&self) -> Option<Port> {
        self.progress.blocked
    }

    /// The next sends go to another socket, which may be able to group where the last one could not.
    pub fn use_socket(&mut self, socket: &UdpSocket) {
        self.sender = Sender::new(socket);
        self.progress.blocked = None;
    }

    /// Sends what waits, or as much as the socket takes; whether anything was sent. It ends after as many batches as
    /// the inbox holds: an inside worker that fills it as fast as it is emptied must keep this one neither from its
    /// orders nor from what it is to receive.
    pub fn serve(
        &mut self,
        sockets: &LaneSockets,
        snapshot: &Snapshot,
        telemetry: &mut OutsideTelemetry,
    ) -> bool {
        let mut served = false;
        for _ in 0..self.inbox.depth() {
            let Some(batch) = self.current.take().or_else(|| self.inbox.pop()) else { break };
            self.current = Some(batch);
            let before = (self.progress.run, self.progress.sent);
            self.send_batch(sockets, snapshot, telemetry);
            served |= before != (self.progress.run, self.progress.sent);
            if self.progress.blocked.is_some() {
                break;
            }
            self.finish_batch();
            served = true;
        }
        telemetry.note_sends(self.sender.tally());
        served
    }

    /// Sends a handshake message or keepalive. One that meets a full buffer is lost, as on a full
    /// link; its timer sends another.
    pub fn send_control(
        &mut self,
        socket: &UdpSocket,
        message: &[u8],
        to: &Endpoint,
        telemetry: &mut OutsideTelemetry,
    ) {
        if let Err(failure) = self.sender.send_run(socket, message, message.len(), to) {
            tracing::trace!("a control message was not sent: {failure}");
            telemetry.outbound_drops.add(DropReason::SendError, 1);
        }
    }

    /// Gives up the batch in hand, after a panic: how many of its datagrams were not sent.
    pub fn abandon(&mut self) -> u64 {
        let unsent = self.current.as_ref().map_or(0, |batch| {
            let runs = batch.runs.iter().skip(self.progress.run);
            runs.map(|run| u64::from(run.len.div_ceil(u32::from(run.stride)))).sum()
        });
        if self.current.is_some() {
            self.finish_batch();
        }
        unsent
    }

    /// Drops the batch in hand and those that wait: how many datagrams.
    pub(super) fn drop_waiting(&mut self) -> u64 {
        let mut unsent = self.abandon();
        while let Some(batch) = self.inbox.pop() {
            self.current = Some(batch);
            unsent += self.abandon();
        }
        unsent
    }

    fn send_batch(&mut self, sockets: &LaneSockets, snapshot: &Snapshot, telemetry: &mut OutsideTelemetry) {
        let Some(batch) = &self.current else { return };
        let progress = &mut self.progress;
        progress.blocked = None;
        while let Some(run) = batch.runs.get(progress.run) {
            let bytes = &batch.data[run.start as usize + progress.sent..(run.start + run.len) as usize];
            let port = sockets.towards(snapshot.peer(run.peer).map(Arc::as_ref));
            let socket = sockets.on(port);
            match self.sender.send_run(socket, bytes, usize::from(run.stride), &run.to) {
                Ok(notices) => take_notice(notices, run, socket, snapshot),
                Err(SendFailure::WouldBlock { sent, notices }) => {
                    take_notice(notices, run, socket, snapshot);
                    progress.sent += sent;
                    progress.blocked = Some(port);
                    return;
                }
                Err(SendFailure::Refused { lost, notices, .. }) => {
                    take_notice(notices, run, socket, snapshot);
                    let reason = if notices.over_mtu { DropReason::TooBig } else { DropReason::SendError };
                    telemetry.outbound_drops.add(reason, lost as u64);
                }
            }
            progress.run += 1;
            progress.sent = 0;
        }
    }

    fn finish_batch(&mut self) {
        self.progress = Progress::default();
        if let Some(mut batch) = self.current.take() {
            batch.runs.clear();
            assert!(self.home.push(batch).is_ok(), "a return ring holds every batch of its pool");
        }
    }
}

/// Takes to heart what a send has shown. A source address that this host no longer has is forgotten, and
/// routing picks the next one. A path that is too narrow is asked about, so that inside workers reject
/// what does not fit.
fn take_notice(notices: Notices, run: &Run, socket: &UdpSocket, snapshot: &Snapshot) {
    if notices == Notices::default() {
        return;
    }
    let Some(peer) = snapshot.peer(run.peer) else { return };
    if notices.source_gone
        && let Some(endpoint) = peer.endpoint.load()
    {
        peer.endpoint.store(Some(endpoint.without_source()));
    }
    if notices.over_mtu {
        learn_path(peer, &run.to, socket);
    }
}

/// Asks the kernel for the path MTU to a peer, and notes it.
#[cold]
fn learn_path(peer: &PeerRecord, to: &Endpoint, socket: &UdpSocket) {
    let now = clock::now();
    if !peer.path_limit.may_ask(now) {
        return;
    }
    match socket.path_mtu(to) {
        Ok(mtu) => {
            tracing::debug!("the path to {} takes {mtu} bytes", to.address);
            peer.path_limit.learn(mtu, to.address, now);
        }
        Err(error) => tracing::debug!("the path MTU to {} is not known: {error}", to.address),
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    use std::thread;

    use super::*;
    use crate::cli::exposition::Exposition;
    use crate::lane::doorbell::Doorbell;
    use crate::lane::inbox::Pool;
    use crate::lane::telemetry::Registry;
    use crate::underlay::SocketOptions;
    use crate::units::PeerId;

    /// One datagram to this socket itself.
    fn fill(batch: &mut OutboundBatch, port: u16) {
        let to = Endpoint::new((Ipv4Addr::LOCALHOST, port).into());
        batch.runs.push(Run { start: 0, len: 32, stride: 32, to, peer: PeerId(0) });
    }

    #[test]
    fn it_comes_to_an_end_however_fast_its_inbox_is_filled() {
        const DEPTH: usize = 4;
        let sockets = LaneSockets::open(0, 1, false, SocketOptions::default()).unwrap().remove(0);
        let port = sockets.shared.port();
        let bell = || Arc::new(Doorbell::new().unwrap());
        let inbox = Arc::new(Inbox::new(DEPTH, bell()));
        let mut pool = Pool::new(4 * DEPTH, bell(), OutboundBatch::new);
        let home = Arc::clone(pool.home());
        let mut outbound = Outbound::new(Sender::new(&sockets.shared), Arc::clone(&inbox), home);
        let (registry, snapshot) = (Registry::new(), Snapshot::default());
        let mut telemetry = OutsideTelemetry::register(&registry, 0);
        let (over, mut most) = (AtomicBool::new(false), 0.0_f64);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut batch = None;
                while !over.load(Relaxed) {
                    let Some(mut full) = batch.take().or_else(|| pool.take()) else { continue };
                    if full.runs.is_empty() {
                        fill(&mut full, port);
                    }
                    batch = inbox.push(full).err();
                }
            });
            let mut sent = 0.0;
            for _ in 0..500 {
                while !inbox.is_full() {
                    thread::yield_now();
                }
                outbound.serve(&sockets, &snapshot, &mut telemetry);
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
