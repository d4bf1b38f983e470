//! Interoperability with boringtun, which shares no code with Laneway.

use crate::wireguard::settings::{LoadLimits, Settings};
use std::net::IpAddr;
use std::sync::Arc;

use ::boringtun::noise::rate_limiter::RateLimiter;
use ::boringtun::noise::{Tunn, TunnResult};
use ::boringtun::x25519::{PublicKey, StaticSecret};

use super::world::{End, at, private};
use crate::drops::DropTally;
use crate::wireguard::messages::{DATA_HEADER, DATA_OVERHEAD, INITIATION, Kind};
use crate::wireguard::session::OpenedRun;

/// An IPv4 packet of 100 bytes with a header that boringtun accepts.
fn packet(fill: u8) -> [u8; 100] {
    let mut packet = [fill; 100];
    packet[..20].copy_from_slice(&[0x45, 0, 0, 100, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet
}

struct Theirs(Tunn);

impl Theirs {
    /// boringtun as the peer of `End::new(1, …)`.
    fn new(limiter: Option<Arc<RateLimiter>>) -> Self {
        let secret = StaticSecret::from(*private(2).as_bytes());
        let public = PublicKey::from(*private(1).public_key().as_bytes());
        Theirs(Tunn::new(secret, public, Some([42; 32]), None, 7, limiter))
    }

    fn sends(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut room = [0; 2000];
        match self.0.encapsulate(packet, &mut room) {
            TunnResult::WriteToNetwork(datagram) => datagram.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    fn initiates(&mut self) -> Vec<u8> {
        let mut room = [0; 2000];
        match self.0.format_handshake_initiation(&mut room, true) {
            TunnResult::WriteToNetwork(datagram) => datagram.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    fn answers(&mut self, datagram: &[u8]) -> Vec<u8> {
        let mut room = [0; 2000];
        match self.0.decapsulate(Some(IpAddr::from([192, 0, 2, 9])), datagram, &mut room) {
            TunnResult::WriteToNetwork(datagram) => datagram.to_vec(),
            other => panic!("{other:?}"),
        }
    }

    /// Returns the opened packet; empty for a keepalive.
    fn opens(&mut self, datagram: &[u8]) -> Vec<u8> {
        let mut room = [0; 2000];
        match self.0.decapsulate(Some(IpAddr::from([192, 0, 2, 9])), datagram, &mut room) {
            TunnResult::WriteToTunnelV4(packet, _) => packet.to_vec(),
            TunnResult::Done => Vec::new(),
            other => panic!("{other:?}"),
        }
    }
}

fn ours() -> End {
    End::new(1, &private(2).public_key(), Settings::default())
}

/// Both ends, with a session that we initiated.
fn connected() -> (End, Theirs) {
    let (mut ours, mut theirs) = (ours(), Theirs::new(None));
    let initiation = ours.wants_to_send(at(0.0)).remove(0);
    let response = theirs.answers(&initiation);
    let keepalive = ours.receive(at(0.0), &response).1.remove(0);
    assert_eq!(keepalive.len(), DATA_OVERHEAD);
    assert_eq!(theirs.opens(&keepalive), b"");
    (ours, theirs)
}

fn carries_data(ours: &mut End, theirs: &mut Theirs) {
    for fill in 0..10 {
        let datagram = ours.seal(at(1.0), &packet(fill));
        assert_eq!(theirs.opens(&datagram), packet(fill));
        let datagram = theirs.sends(&packet(fill));
        assert_eq!(ours.receive(at(1.0), &datagram).0, [packet(fill)]);
    }
}

#[test]
fn as_initiator_we_understand_each_other() {
    let (mut ours, mut theirs) = connected();
    carries_data(&mut ours, &mut theirs);
}

#[test]
fn as_responder_we_understand_each_other() {
    let (mut ours, mut theirs) = (ours(), Theirs::new(None));
    let response = ours.receive(at(0.0), &theirs.initiates()).1.remove(0);
    assert!(ours.sending.is_none());
    let keepalive = theirs.answers(&response);
    assert_eq!(ours.receive(at(0.0), &keepalive).0, [b""]);
    carries_data(&mut ours, &mut theirs);
}

#[test]
fn a_new_session_replaces_the_old_one_from_either_end() {
    let (mut ours, mut theirs) = connected();
    let initiation = ours.wants_to_send(at(121.0)).remove(0);
    let response = theirs.answers(&initiation);
    let keepalive = ours.receive(at(121.0), &response).1.remove(0);
    assert_eq!(theirs.opens(&keepalive), b"");
    let first = ours.sending.clone().unwrap();
    let datagram = ours.seal(at(122.0), &packet(1));
    assert_eq!(theirs.opens(&datagram), packet(1));

    let response = ours.receive(at(123.0), &theirs.initiates()).1.remove(0);
    let keepalive = theirs.answers(&response);
    ours.receive(at(123.0), &keepalive);
    assert_ne!(ours.sending.as_ref().unwrap().local_index(), first.local_index());
    let datagram = ours.seal(at(124.0), &packet(2));
    assert_eq!(theirs.opens(&datagram), packet(2));
    assert_eq!(ours.handshakes, 3);
}

#[test]
fn their_demand_for_a_cookie_is_met() {
    let public = PublicKey::from(*private(2).public_key().as_bytes());
    let (mut ours, mut theirs) = (ours(), Theirs::new(Some(Arc::new(RateLimiter::new(&public, 0)))));
    let initiation = ours.wants_to_send(at(0.0)).remove(0);
    let reply = theirs.answers(&initiation);
    assert_eq!(Kind::of(&reply), Some(Kind::CookieReply));
    assert!(ours.receive(at(0.1), &reply).1.is_empty() && ours.dropped.is_empty());
    let again = ours.poll(at(6.0)).remove(0);
    assert_eq!(again.len(), INITIATION);
    let response = theirs.answers(&again);
    assert_eq!(Kind::of(&response), Some(Kind::Response));
    ours.receive(at(6.0), &response);
    assert!(ours.sending.is_some());
}

#[test]
fn our_demand_for_a_cookie_is_understood() {
    let load = LoadLimits { begins_over: 0, ends_at: 0 };
    let mut ours = End::new(1, &private(2).public_key(), Settings { load, ..Settings::default() });
    let mut theirs = Theirs::new(None);
    let reply = ours.receive(at(0.0), &theirs.initiates()).1.remove(0);
    assert_eq!(Kind::of(&reply), Some(Kind::CookieReply));
    assert_eq!(theirs.opens(&reply), b"");
    let response = ours.receive(at(0.1), &theirs.initiates()).1.remove(0);
    assert_eq!(Kind::of(&response), Some(Kind::Response));
}

/// Number of datagrams in a run.
const COUNT: usize = 45;
/// Size of each datagram, in bytes.
const STRIDE: usize = 112 + DATA_OVERHEAD;

#[test]
fn whole_runs_are_understood_both_ways() {
    let (mut ours, mut theirs) = connected();
    let session = ours.sending.clone().unwrap();

    let mut run = vec![0; COUNT * STRIDE];
    for (i, datagram) in run.chunks_mut(STRIDE).enumerate() {
        datagram[DATA_HEADER..][..100].copy_from_slice(&packet(i as u8));
    }
    session.seal_run(session.reserve(COUNT as u32).unwrap(), &mut run, STRIDE);
    for (i, datagram) in run.chunks(STRIDE).enumerate() {
        assert_eq!(theirs.opens(datagram), packet(i as u8), "trimmed to the length in the header");
    }

    let mut run: Vec<u8> = (0..COUNT).flat_map(|i| theirs.sends(&packet(i as u8))).collect();
    let stride = run.len() / COUNT;
    let (mut opened, mut drops) = (OpenedRun::new(), DropTally::default());
    ours.table.get(session.local_index()).unwrap().open_run(&mut run, stride, &mut opened, &mut drops);
    assert_eq!(opened.len(), COUNT);
    for (i, payload) in opened.iter().enumerate() {
        assert_eq!(run[payload.offset as usize..][..100], packet(i as u8));
    }
    drops.take(|reason, _| panic!("{reason:?}"));
    ours.poll(at(2.0));
}
