//! Test harness: two ends of a tunnel with a simulated clock.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::simulated::unix;
use crate::drops::DropReason;
use crate::units::{Nanos, PeerId};
use crate::wireguard::keys::{Counting, PresharedKey, PrivateKey, PublicKey};
use crate::wireguard::messages::Kind;
use crate::wireguard::outputs::{HandshakeDrop, Output, Outputs};
use crate::wireguard::protocol::Protocol;
use crate::wireguard::session::Session;
use crate::wireguard::settings::Settings;
use crate::wireguard::single;
use crate::wireguard::table::SessionTable;

/// The source address of all datagrams.
pub(super) const ADDRESS: &str = "192.0.2.1:51820";

/// One end of the tunnel: a protocol and a caller that records its outputs.
pub(super) struct End {
    pub(super) protocol: Protocol,
    pub(super) table: Arc<SessionTable>,
    pub(super) peer: PeerId,
    pub(super) sending: Option<Arc<Session>>,
    pub(super) handshakes: usize,
    pub(super) failures: usize,
    pub(super) initiated: usize,
    pub(super) roamed: usize,
    pub(super) dropped: Vec<HandshakeDrop>,
    pub(super) next_poll: Option<Nanos>,
    entropy: Counting,
    out: Outputs,
}

/// Returns the time `seconds` after the start of the test.
pub(super) fn at(seconds: f64) -> Nanos {
    Nanos(1_000_000_000).after(Duration::from_secs_f64(seconds))
}

/// Returns the private key generated from `seed`.
pub(super) fn private(seed: u8) -> PrivateKey {
    PrivateKey::generate(&mut Counting(u64::from(seed)))
}

/// Two ends configured as each other's peer.
pub(super) fn pair(settings: Settings) -> (End, End) {
    (End::new(1, &private(2).public_key(), settings), End::new(2, &private(1).public_key(), settings))
}

impl End {
    pub(super) fn new(seed: u8, remote: &PublicKey, settings: Settings) -> Self {
        let table = Arc::new(SessionTable::new(&[7; 8]));
        let mut protocol = Protocol::new(Some(private(seed)), Arc::clone(&table), settings);
        let peer = protocol.add_peer(*remote).unwrap();
        protocol.set_preshared_key(peer, PresharedKey::from_bytes([42; 32]));
        End {
            protocol,
            table,
            peer,
            sending: None,
            handshakes: 0,
            failures: 0,
            initiated: 0,
            roamed: 0,
            dropped: Vec::new(),
            next_poll: None,
            entropy: Counting(u64::from(seed) << 32),
            out: Outputs::new(),
        }
    }

    /// Returns the end in a process that takes over.
    pub(super) fn successor(self, reserve: u64) -> Self {
        let mut next = End::new(3, &private(9).public_key(), Settings::default());
        let mut protocol = Protocol::new(None, Arc::clone(&next.table), Settings::default());
        let imported = protocol.import(self.protocol.export(), reserve).unwrap().remove(0);
        next.protocol = protocol;
        (next.peer, next.sending) = (imported.id, imported.sending);
        next
    }

    /// Reports that data waits for a session. Returns the datagrams to send.
    pub(super) fn wants_to_send(&mut self, now: Nanos) -> Vec<Vec<u8>> {
        self.protocol.data_waits(now, unix(now), &mut self.entropy, self.peer, &mut self.out);
        self.carry_out(now)
    }

    /// Polls. Returns the datagrams to send.
    pub(super) fn poll(&mut self, now: Nanos) -> Vec<Vec<u8>> {
        self.next_poll = self.protocol.poll(now, unix(now), &mut self.entropy, self.peer, &mut self.out);
        assert!(self.next_poll.is_none_or(|at| at > now), "a poll does all that is due");
        self.carry_out(now)
    }

    /// Polls at each requested time up to `end`. Returns the datagrams sent, with their times.
    pub(super) fn poll_until(&mut self, mut now: Nanos, end: Nanos) -> Vec<(Nanos, Vec<u8>)> {
        let mut sent = Vec::new();
        while now <= end {
            sent.extend(self.poll(now).into_iter().map(|datagram| (now, datagram)));
            let Some(next) = self.next_poll else { break };
            now = next;
        }
        sent
    }

    /// Handles a datagram. Returns its plaintexts and the datagrams to send.
    pub(super) fn receive(&mut self, now: Nanos, datagram: &[u8]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        self.receive_from(now, ADDRESS.parse().unwrap(), datagram)
    }

    pub(super) fn receive_from(
        &mut self,
        now: Nanos,
        from: SocketAddr,
        datagram: &[u8],
    ) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        if Kind::of(datagram) == Some(Kind::Data) {
            let plaintexts = self.open(now, datagram).unwrap_or_default();
            return (plaintexts, self.carry_out(now));
        }
        self.protocol.handle_datagram(now, unix(now), &mut self.entropy, from, datagram, &mut self.out);
        (Vec::new(), self.carry_out(now))
    }

    /// Opens a data message as an outside worker does.
    pub(super) fn open(&mut self, now: Nanos, datagram: &[u8]) -> Result<Vec<Vec<u8>>, DropReason> {
        single::open(&self.table, &mut self.protocol, now, datagram, &mut self.out)
    }

    /// Seals a packet as an inside worker does.
    pub(super) fn seal(&mut self, now: Nanos, payload: &[u8]) -> Vec<u8> {
        let session = self.sending.as_ref().expect("there is a session to send with");
        assert!(session.can_send(now));
        single::seal(session, now, payload, payload.len()).expect("counters are left")
    }

    fn carry_out(&mut self, now: Nanos) -> Vec<Vec<u8>> {
        let outputs: Vec<Output> = self.out.drain().collect();
        let mut sent = Vec::new();
        for output in outputs {
            match output {
                Output::Send { datagram, .. } => sent.push(datagram.to_vec()),
                Output::SendKeepalive { .. } => sent.push(self.seal(now, &[])),
                Output::Use { session, .. } => self.sending = Some(session),
                Output::Stop { .. } => self.sending = None,
                Output::Initiated { .. } => self.initiated += 1,
                Output::Unanswered { .. } => {}
                Output::Roamed { .. } => self.roamed += 1,
                Output::HandshakeFailed { .. } => self.failures += 1,
                Output::HandshakeDone { .. } => self.handshakes += 1,
                Output::MessageDropped { reason } => self.dropped.push(reason),
            }
        }
        sent
    }
}

/// Delivers datagrams in both directions until none are left.
pub(super) fn exchange(now: Nanos, a: &mut End, b: &mut End, mut to_b: Vec<Vec<u8>>) {
    let mut to_a = Vec::new();
    while !to_a.is_empty() || !to_b.is_empty() {
        to_a.extend(to_b.drain(..).flat_map(|datagram| b.receive(now, &datagram).1));
        to_b.extend(to_a.drain(..).flat_map(|datagram| a.receive(now, &datagram).1));
    }
}

/// Two ends with a session that `a` initiated at `now`.
pub(super) fn connected(now: Nanos, settings: Settings) -> (End, End) {
    let (mut a, mut b) = pair(settings);
    let initiation = a.wants_to_send(now);
    exchange(now, &mut a, &mut b, initiation);
    assert!(a.sending.is_some() && b.sending.is_some());
    (a, b)
}

/// Sends `payload` from one end to the other.
pub(super) fn send(now: Nanos, from: &mut End, to: &mut End, payload: &[u8]) {
    let datagram = from.seal(now, payload);
    assert_eq!(to.receive(now, &datagram).0, [payload]);
}
