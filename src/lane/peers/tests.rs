//! Promotion: who sends with which session, whatever the peer actor decides at the same time.

use crate::wireguard::settings::Settings;
use std::net::SocketAddr;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use super::*;
use crate::underlay::LocalSource;
use crate::wireguard::keys::{Entropy, OsEntropy, PrivateKey};
use crate::wireguard::outputs::{Output, Outputs};
use crate::wireguard::protocol::Protocol;
use crate::wireguard::suite::Suite;
use crate::wireguard::table::SessionTable;

const NOW: Nanos = Nanos(1_000_000_000);

/// One end of a tunnel: the protocol, and the record that the workers see.
struct PeerEnd {
    protocol: Protocol,
    table: Arc<SessionTable>,
    peer: PeerId,
    record: PeerRecord,
    entropy: OsEntropy,
    out: Outputs,
    confirmed: usize,
}

impl PeerEnd {
    fn new(private: &PrivateKey, remote: &PublicKey) -> Self {
        let table = Arc::new(SessionTable::new(&[7; 8]));
        let mut protocol = Protocol::new(Some(private.clone()), Arc::clone(&table), Settings::default());
        let peer = protocol.add_peer(*remote).unwrap();
        let record = PeerRecord::new(peer, *remote, false);
        let (entropy, out) = (OsEntropy::new().unwrap(), Outputs::new());
        PeerEnd { protocol, table, peer, record, entropy, out, confirmed: 0 }
    }

    /// Carries out the outputs as the actor does. Returns the messages to send.
    fn carry_out(&mut self, now: Nanos) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        for output in self.out.drain() {
            match output {
                Output::Send { datagram, .. } => sent.push(datagram.to_vec()),
                Output::Use { session, .. } => self.record.sending.store(Some(session)),
                Output::Stop { .. } => self.record.stop_if_expired(now),
                Output::HandshakeDone { .. } => self.confirmed += 1,
                _ => {}
            }
        }
        sent
    }

    fn initiate(&mut self, now: Nanos) -> Vec<u8> {
        let unix = now.since(Nanos::NEVER);
        self.protocol.data_waits(now, unix, &mut self.entropy, self.peer, &mut self.out);
        self.carry_out(now).remove(0)
    }

    fn receive(&mut self, now: Nanos, datagram: &[u8]) -> Vec<Vec<u8>> {
        let from: SocketAddr = "192.0.2.1:1".parse().unwrap();
        let unix = now.since(Nanos::NEVER);
        self.protocol.handle_datagram(now, unix, &mut self.entropy, from, datagram, &mut self.out);
        self.carry_out(now)
    }

    fn poll(&mut self, now: Nanos) -> Vec<Vec<u8>> {
        let unix = now.since(Nanos::NEVER);
        self.protocol.poll(now, unix, &mut self.entropy, self.peer, &mut self.out);
        self.carry_out(now)
    }

    /// Answers the initiation of `other`. Returns the response and the session that awaits confirmation.
    fn answer(&mut self, now: Nanos, other: &mut PeerEnd) -> (Vec<u8>, Arc<Session>) {
        let response = self.receive(now, &other.initiate(now)).remove(0);
        let index = u32::from_le_bytes(response[4..8].try_into().unwrap());
        (response, self.table.get(index).unwrap().to_arc())
    }

    fn sends_with(&self, session: &Arc<Session>) -> bool {
        self.record.sending.load().as_ref().is_some_and(|used| Arc::ptr_eq(used, session))
    }

    /// Forgets all sessions and handshakes, as a program does that is started anew.
    fn restart(&mut self) {
        *self = PeerEnd::new(&self.protocol.private_key().unwrap().clone(), &self.record.public_key);
    }

    fn remove(&mut self) {
        self.protocol.remove_peer(self.peer);
        self.record.sending.store(None);
    }
}

fn key(entropy: &mut dyn Entropy) -> PrivateKey {
    PrivateKey::generate(entropy)
}

fn pair() -> [PeerEnd; 2] {
    let mut entropy = OsEntropy::new().unwrap();
    let keys = [key(&mut entropy), key(&mut entropy)];
    [PeerEnd::new(&keys[0], &keys[1].public_key()), PeerEnd::new(&keys[1], &keys[0].public_key())]
}

fn later(seconds: u64) -> Nanos {
    NOW.after(Duration::from_secs(seconds))
}

#[test]
fn the_first_authentic_packet_decides_and_the_actor_follows() {
    let [mut ours, mut theirs] = pair();
    let (_, old) = ours.answer(NOW, &mut theirs);
    ours.record.promote(&old);
    assert!(ours.sends_with(&old), "there was no session before");
    assert!(old.awaits_confirmation(), "the actor has not heard");
    assert!(ours.poll(NOW).is_empty() && !old.awaits_confirmation());
    assert_eq!(ours.confirmed, 1, "the actor sees the promotion before the notice");

    // The other end has restarted: it has lost the session before.
    theirs.restart();
    let (_, new) = ours.answer(later(1), &mut theirs);
    assert!(ours.sends_with(&old), "only the initiator's first packet proves that it has the keys");
    ours.record.promote(&new);
    assert!(ours.sends_with(&new));
    ours.record.promote(&old);
    assert!(ours.sends_with(&new), "the session before is settled");
    ours.protocol.confirmed(Duration::from_secs(1), &new, &mut ours.out);
    ours.carry_out(later(1));
    assert!(ours.sends_with(&new) && ours.confirmed == 2);
}

#[test]
fn a_session_of_our_own_handshake_is_not_replaced_by_one_answered_before() {
    let [mut ours, mut theirs] = pair();
    let initiation = ours.initiate(NOW);
    let (_, answered) = ours.answer(NOW, &mut theirs);
    let response = theirs.receive(NOW, &initiation).remove(0);
    ours.record.promote(&answered);
    assert!(ours.sends_with(&answered));
    ours.receive(NOW, &response);
    let used = ours.record.sending.load_full().unwrap();
    assert!(!Arc::ptr_eq(&used, &answered));
    ours.record.promote(&answered);
    assert!(ours.sends_with(&used), "a late packet on the other session changes nothing");
    ours.protocol.confirmed(Duration::from_secs(1), &answered, &mut ours.out);
    ours.carry_out(NOW);
    assert!(ours.sends_with(&used), "nor does a late notice");
}

#[test]
fn a_promoted_session_is_current_when_the_next_one_is_answered() {
    let [mut ours, mut theirs] = pair();
    let (_, first) = ours.answer(NOW, &mut theirs);
    ours.record.promote(&first);
    // A repeated initiation comes before the notice of the promotion.
    theirs.restart();
    let (_, second) = ours.answer(later(1), &mut theirs);
    assert!(ours.sends_with(&first) && !first.has_ended() && ours.confirmed == 1);
    ours.record.promote(&second);
    assert!(ours.sends_with(&second));
    ours.poll(later(1));
    assert!(ours.sends_with(&second) && !first.has_ended() && ours.confirmed == 2);
}

#[test]
fn nothing_is_promoted_that_was_withdrawn() {
    type Withdraw = fn(&mut PeerEnd);
    let ways: [(&str, Withdraw); 4] = [
        ("removal", PeerEnd::remove),
        ("key", |end| {
            let new = key(&mut end.entropy);
            end.protocol.set_private_key(Some(new));
            end.record.sending.store(None);
        }),
        ("suite", |end| {
            assert!(end.protocol.set_suite(end.peer, Suite::Aes256Gcm));
            end.record.sending.store(None);
        }),
        ("age", |end| {
            end.poll(later(600));
        }),
    ];
    for (name, withdraw) in ways {
        for promoted_before in [false, true] {
            let [mut ours, mut theirs] = pair();
            let (_, session) = ours.answer(NOW, &mut theirs);
            if promoted_before {
                ours.record.promote(&session);
            }
            withdraw(&mut ours);
            ours.record.promote(&session);
            assert!(ours.record.sending.load().is_none(), "{name}, promoted before: {promoted_before}");
            assert!(session.has_ended());
        }
    }
}

#[test]
fn a_session_that_expires_does_not_take_the_promoted_one_along() {
    let [mut ours, mut theirs] = pair();
    let (_, old) = ours.answer(NOW, &mut theirs);
    ours.record.promote(&old);
    ours.poll(NOW);
    theirs.restart();
    let (_, new) = ours.answer(later(170), &mut theirs);
    ours.record.promote(&new);
    // Decided by the actor before it saw the promotion.
    ours.record.stop_if_expired(later(181));
    assert!(ours.sends_with(&new));
    ours.poll(later(181));
    assert!(ours.sends_with(&new));
    ours.poll(later(351));
    assert!(ours.record.sending.load().is_none());
}

#[test]
fn however_a_promotion_races_with_a_removal_the_record_ends_without_a_session() {
    for _ in 0..300 {
        let [mut ours, mut theirs] = pair();
        let (_, session) = ours.answer(NOW, &mut theirs);
        let start = Barrier::new(2);
        let (protocol, record, peer) = (&mut ours.protocol, &ours.record, ours.peer);
        thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                for _ in 0..20 {
                    record.promote(&session);
                }
            });
            start.wait();
            protocol.remove_peer(peer);
            record.sending.store(None);
        });
        assert!(ours.record.sending.load().is_none());
    }
}

#[test]
fn however_a_promotion_races_with_our_own_handshake_the_current_session_is_sent_with() {
    for _ in 0..300 {
        let [mut ours, mut theirs] = pair();
        let initiation = ours.initiate(NOW);
        let (_, answered) = ours.answer(NOW, &mut theirs);
        let response = theirs.receive(NOW, &initiation).remove(0);
        let start = Barrier::new(2);
        let record = std::mem::replace(
            &mut ours.record,
            PeerRecord::new(ours.peer, PublicKey::from_bytes([0; 32]), false),
        );
        let record = &record;
        let own = thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                for _ in 0..20 {
                    record.promote(&answered);
                }
            });
            start.wait();
            // The placeholder receives the actor's choice, which then goes to the real record.
            ours.receive(NOW, &response);
            let own = ours.record.sending.load_full();
            record.sending.store(own.clone());
            own.unwrap()
        });
        assert!(record.sending.load_full().is_some_and(|used| Arc::ptr_eq(&used, &own)));
        assert!(!Arc::ptr_eq(&own, &answered));
    }
}

fn somebody() -> PeerRecord {
    PeerRecord::new(PeerId(0), PublicKey::from_bytes([0; 32]), false)
}

/// Returns an endpoint with a source.
fn at(address: &str) -> Endpoint {
    Endpoint {
        source: Some(LocalSource { ip: "192.0.2.9".parse().unwrap(), ifindex: 1 }),
        ..Endpoint::new(address.parse().unwrap())
    }
}

#[test]
fn a_lost_source_does_not_undo_a_move() {
    let record = somebody();
    let (before, after) = (at("192.0.2.1:1"), at("192.0.2.2:2"));
    record.move_to(before);
    record.forget_source(&before);
    assert_eq!(record.endpoint(), Some(before.without_source()));
    record.move_to(after);
    record.forget_source(&before);
    assert_eq!(record.endpoint(), Some(after));
}

#[test]
fn a_handshake_message_that_waited_does_not_undo_a_move() {
    let record = somebody();
    let (old, new) = (at("192.0.2.1:1"), at("192.0.2.2:2"));
    record.roam(old, later(1));
    record.roam(new, later(3));
    record.roam(old, later(2));
    assert_eq!(record.endpoint(), Some(new), "received before the data that moved the peer");
    record.roam(old, later(3));
    assert_eq!(record.endpoint(), Some(old), "datagrams of one receive are in order");
}

#[test]
fn an_address_found_for_a_name_does_not_undo_a_move() {
    let record = somebody();
    let [configured, roamed, found] = ["192.0.2.1:1", "192.0.2.2:2", "192.0.2.3:3"].map(at);
    record.move_from(None, configured);
    assert_eq!(record.endpoint(), Some(configured));
    record.path_limit.learn(1280, configured.address, NOW);
    record.roam(roamed, NOW);
    assert_eq!(record.path_limit.get(NOW), None);
    record.move_from(Some(configured), found);
    assert_eq!(record.endpoint(), Some(roamed));
    record.path_limit.learn(1280, roamed.address, NOW);
    record.move_from(Some(roamed), found);
    assert_eq!((record.endpoint(), record.path_limit.get(NOW)), (Some(found), None));
}

#[test]
fn the_mtu_of_the_path_before_a_move_is_not_that_of_the_path_after_it() {
    let record = somebody();
    let (before, after) = (at("192.0.2.1:1"), at("192.0.2.2:2"));
    record.move_to(before);
    record.learn_path(before.address, 1280, NOW);
    assert!(record.path_limit.get(NOW).is_some());
    record.move_to(after);
    record.learn_path(before.address, 1280, NOW);
    assert_eq!(record.path_limit.get(NOW), None, "refused a datagram that was sealed before the move");
}

#[test]
fn however_a_path_is_learned_while_the_peer_moves_its_limit_does_not_stay() {
    let (before, after) = (at("192.0.2.1:1"), at("192.0.2.2:2"));
    for _ in 0..300 {
        let record = somebody();
        record.move_to(before);
        let start = Barrier::new(2);
        thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                record.learn_path(before.address, 1280, NOW);
            });
            start.wait();
            record.move_to(after);
        });
        assert_eq!(record.path_limit.get(NOW), None);
    }
}
