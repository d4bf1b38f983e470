//! Tests of the peer actor with outside workers that do not run. Needs root; skipped if `LANEWAY_SKIP_NETNS`
//! is set.

use crate::config::RouterConfig;
use crate::config::update::{PeerEndpoint, PeerUpdate};
use crate::lane::bounds::COOKIE_QUEUE;
use crate::metrics::exposition::Exposition;
use crate::netns::Namespace;
use crate::peers::actor::*;
use crate::peers::state::Thaw;
use crate::router::wiring::{self, Wiring};
use crate::shutdown::Shutdown;
use crate::testing;
use crate::wireguard::keys::{OsEntropy, PrivateKey, PublicKey};
use crate::wireguard::outputs::Output;
use crate::wireguard::settings::Settings;
use crate::wireguard::table::SessionTable;

/// Opens a router whose workers do not run.
fn open(config: &RouterConfig) -> Wiring {
    let shutdown = Arc::new(Shutdown::new().unwrap());
    let opened = Namespace::create().unwrap().run(|| wiring::open(config, wiring::Given::Nothing, &shutdown));
    let mut wiring = opened.unwrap().unwrap();
    wiring.actor.apply(config.update.clone()).unwrap();
    wiring
}

/// Returns a handshake initiation to the owner of `victim` from the owner of `key`.
fn initiation(key: PrivateKey, victim: PublicKey) -> ControlMessage {
    let mut entropy = OsEntropy::new().unwrap();
    let mut unknown = Protocol::new(Some(key), Arc::new(SessionTable::new(&[7; 8])), Settings::default());
    let peer = unknown.add_peer(victim).unwrap();
    let mut out = Outputs::new();
    unknown.data_waits(clock::now(), clock::unix_now(), &mut entropy, peer, &mut out);
    let sent = out.drain().find_map(|output| match output {
        Output::Send { datagram, .. } => Some(datagram),
        _ => None,
    });
    sent.unwrap()
}

#[test]
fn a_cookie_that_finds_its_queue_full_is_counted() {
    if testing::without_root() {
        return;
    }
    let [key, stranger] = [(); 2].map(|()| PrivateKey::generate(&mut OsEntropy::new().unwrap()));
    let mut config = RouterConfig::named("lane0");
    config.update.private_key = Some(Some(key.clone()));
    let Wiring { mut actor, access, lanes: _lanes, .. } = open(&config);
    let registry = access.registry;

    let message = initiation(stranger, key.public_key());
    let from = Endpoint::new("192.0.2.9:4000".parse().unwrap());
    let mut count = |initiations: usize| {
        for _ in 0..initiations {
            let message = message.clone();
            actor.receive(&HandshakeDatagram { message, from, at: clock::now(), lane: FIRST_LANE });
        }
        actor.metrics.publish();
        let metrics = Exposition::parse(&registry.render()).unwrap();
        let sum = |family, reason| metrics.sum(family, &[("reason", reason)]);
        let demanded = sum("laneway_handshake_messages_dropped_total", "cookie_demanded");
        (demanded, sum("laneway_dropped_packets_total", "control_queue_full"))
    };
    // Under load each initiation is answered with a cookie. Bursts, because load is a rate.
    let full = (0..1000).map(|_| count(COOKIE_QUEUE)).find(|(demanded, _)| *demanded > COOKIE_QUEUE as f64);
    let (demanded, dropped) = full.expect("the actor never came under load");
    assert!((demanded - dropped - COOKIE_QUEUE as f64).abs() < 0.5, "{demanded} demanded, {dropped} dropped");
    assert!(dropped > 0.5);
}

#[test]
fn an_initiation_that_may_be_a_replay_does_not_move_a_known_endpoint() {
    if testing::without_root() {
        return;
    }
    let known: std::net::SocketAddr = "192.0.2.1:1000".parse().unwrap();
    let elsewhere: std::net::SocketAddr = "198.51.100.9:4000".parse().unwrap();
    for (before, after) in [(Some(known), known), (None, elsewhere)] {
        let [key, peer] = [(); 2].map(|()| PrivateKey::generate(&mut OsEntropy::new().unwrap()));
        let mut config = RouterConfig::named("lane0");
        config.update.private_key = Some(Some(key.clone()));
        let endpoint = before.map(PeerEndpoint::Address);
        config.update.peers = vec![PeerUpdate { endpoint, ..PeerUpdate::new(peer.public_key()) }];
        let Wiring { mut actor, lanes: _lanes, .. } = open(&config);

        let message = initiation(peer, key.public_key());
        let from = Endpoint::new(elsewhere);
        actor.receive(&HandshakeDatagram { message, from, at: clock::now(), lane: FIRST_LANE });
        let snapshot = actor.peers.load();
        let record = snapshot.peers[0].as_ref().unwrap();
        assert!(record.received_bytes.load(Ordering::Relaxed) > 0, "the initiation was not accepted");
        assert_eq!(record.endpoint().map(|endpoint| endpoint.address), Some(after));
    }
}

#[test]
fn a_take_over_does_not_wait_for_a_flood_of_handshake_messages() {
    const FLOOD: usize = 100;
    if testing::without_root() {
        return;
    }
    let [key, stranger] = [(); 2].map(|()| PrivateKey::generate(&mut OsEntropy::new().unwrap()));
    let mut config = RouterConfig::named("lane0");
    config.update.private_key = Some(Some(key.clone()));
    let Wiring { mut actor, lanes: _lanes, .. } = open(&config);
    let message = initiation(stranger, key.public_key());
    let from = Endpoint::new("192.0.2.9:4000".parse().unwrap());
    for _ in 0..FLOOD {
        let message = message.clone();
        assert!(actor.channel.handshake(HandshakeDatagram {
            message,
            from,
            at: clock::now(),
            lane: FIRST_LANE
        }));
    }
    let (answer, answered) = crossbeam::channel::bounded(1);
    let (thaw, thawed) = crossbeam::channel::bounded(1);
    thaw.send(Thaw::GoOn).unwrap();
    actor.freeze(&answer, &thawed);
    assert!(answered.try_recv().is_ok(), "the state");
    // The router was not taken over and answers the rest.
    let left = std::iter::from_fn(|| actor.channel.next_unverified()).count();
    assert_eq!(left, FLOOD - HANDSHAKES_A_TURN);
}
