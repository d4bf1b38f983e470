//! A remote peer: the protocol, and what a caller does with its outputs.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::clock::simulated;
use crate::packet::ip;
use crate::units::{Nanos, PeerId};
use crate::wireguard::keys::{Counting, PresharedKey, PrivateKey, PublicKey};
use crate::wireguard::messages::{Kind, padded_len};
use crate::wireguard::outputs::{Output, Outputs};
use crate::wireguard::protocol::Protocol;
use crate::wireguard::session::Session;
use crate::wireguard::settings::Settings;
use crate::wireguard::single;
use crate::wireguard::table::SessionTable;

/// A remote peer.
pub(super) struct Remote {
    pub(super) private: PrivateKey,
    pub(super) preshared: PresharedKey,
    pub(super) address: SocketAddr,
    protocol: Protocol,
    table: Arc<SessionTable>,
    router: PeerId,
    sending: Option<Arc<Session>>,
    next_poll: Option<Nanos>,
    entropy: Counting,
    out: Outputs,
}

impl Remote {
    /// Creates the remote with this number, a peer of the router with the key `router`.
    pub(super) fn new(number: usize, router: PublicKey) -> Self {
        let private = PrivateKey::generate(&mut Counting(number as u64 + 1));
        let preshared = PresharedKey::from_bytes([number as u8; 32]);
        let address = (Ipv4Addr::new(192, 0, 2, number as u8 + 1), 51820).into();
        let (protocol, table, id) = begin(&private, &preshared, router);
        Remote {
            private,
            preshared,
            address,
            protocol,
            table,
            router: id,
            sending: None,
            next_poll: None,
            entropy: Counting(number as u64 + 1000),
            out: Outputs::new(),
        }
    }

    /// Forgets all sessions, and speaks to the router with the key `router` from now on.
    pub(super) fn restart(&mut self, router: PublicKey) {
        (self.protocol, self.table, self.router) = begin(&self.private, &self.preshared, router);
        (self.sending, self.next_poll) = (None, None);
    }

    pub(super) fn set_preshared_key(&mut self, key: PresharedKey) {
        self.protocol.set_preshared_key(self.router, key.clone());
        self.preshared = key;
    }

    /// Starts a handshake. Returns the datagrams to send.
    pub(super) fn initiate(&mut self, now: Nanos) -> Vec<Vec<u8>> {
        self.protocol.data_waits(now, simulated::unix(now), &mut self.entropy, self.router, &mut self.out);
        self.carry_out(now)
    }

    /// Does what is due. Returns the datagrams to send.
    pub(super) fn poll(&mut self, now: Nanos) -> Vec<Vec<u8>> {
        if self.next_poll.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.look(now);
        self.carry_out(now)
    }

    /// Handles a datagram. Returns the packets in it, and the datagrams to send.
    pub(super) fn receive(&mut self, now: Nanos, datagram: &[u8]) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let mut packets = Vec::new();
        if Kind::of(datagram) == Some(Kind::Data) {
            packets = self.open(now, datagram);
        } else {
            let from = (Ipv4Addr::new(203, 0, 113, 1), 51820).into();
            let unix = simulated::unix(now);
            self.protocol.handle_datagram(now, unix, &mut self.entropy, from, datagram, &mut self.out);
        }
        (packets, self.carry_out(now))
    }

    /// Seals a packet, if there is a session to send with.
    pub(super) fn seal(&mut self, now: Nanos, packet: &[u8]) -> Option<Vec<u8>> {
        let session = self.sending.as_ref().filter(|session| session.can_send(now))?;
        single::seal(session, now, packet, padded_len(packet.len(), 1420))
    }

    fn open(&mut self, now: Nanos, datagram: &[u8]) -> Vec<Vec<u8>> {
        let opened = single::open(&self.table, &mut self.protocol, now, datagram, &mut self.out);
        let packets = opened.unwrap_or_default();
        packets.iter().filter_map(|packet| ip::trimmed(packet)).map(<[u8]>::to_vec).collect()
    }

    fn look(&mut self, now: Nanos) {
        let unix = simulated::unix(now);
        self.next_poll = self.protocol.poll(now, unix, &mut self.entropy, self.router, &mut self.out);
    }

    fn carry_out(&mut self, now: Nanos) -> Vec<Vec<u8>> {
        let mut sent = self.take_outputs(now);
        self.look(now);
        sent.extend(self.take_outputs(now));
        sent
    }

    fn take_outputs(&mut self, now: Nanos) -> Vec<Vec<u8>> {
        let outputs: Vec<Output> = self.out.drain().collect();
        let mut sent = Vec::new();
        for output in outputs {
            match output {
                Output::Send { datagram, .. } => sent.push(datagram.to_vec()),
                Output::SendKeepalive { .. } => sent.extend(self.seal(now, &[])),
                Output::Use { session, .. } => self.sending = Some(session),
                Output::Stop { .. } => self.sending = None,
                _ => {}
            }
        }
        sent
    }
}

fn begin(
    private: &PrivateKey,
    preshared: &PresharedKey,
    router: PublicKey,
) -> (Protocol, Arc<SessionTable>, PeerId) {
    let table = Arc::new(SessionTable::new(&[3; 8]));
    let mut protocol = Protocol::new(Some(private.clone()), Arc::clone(&table), Settings::default());
    let id = protocol.add_peer(router).expect("one peer");
    protocol.set_preshared_key(id, preshared.clone());
    (protocol, table, id)
}
