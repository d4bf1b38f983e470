//! Which lane receives: each lane has as many peers as the others, and a peer keeps its lane across new sessions and
//! changes of its address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use ::boringtun::noise::{Tunn, TunnResult};
use etherparse::PacketBuilder;
use laneway::cli::demo::lab::{Lab, Side};
use laneway::config::{Queues, Sharing};
use laneway::router::start::Router;
use laneway::wireguard::keys::PrivateKey;

use crate::support::metrics::total;
use crate::support::router::{self, key, peer};
use crate::support::tunnel::Family;
use crate::support::{DEADLINE, boringtun, lab, require_root, wait_until};

const LANES: u32 = 4;

/// Packets that each peer sends with a session.
const PACKETS: u64 = 50;

/// A peer with another implementation of the protocol.
struct Peer {
    tunnel: Tunn,
    inside: Ipv4Addr,
    router: SocketAddr,
}

impl Peer {
    fn new(own: &PrivateKey, router: &PrivateKey, inside: Ipv4Addr, side: &Side, number: u32) -> Peer {
        let tunnel = boringtun::protocol(own, &router.public_key(), number);
        Peer { tunnel, inside, router: Family::V4.endpoint(side) }
    }

    /// Starts a session from `socket`.
    fn shake_hands(&mut self, socket: &UdpSocket) {
        let mut room = [0; 2048];
        let TunnResult::WriteToNetwork(initiation) = self.tunnel.format_handshake_initiation(&mut room, true)
        else {
            panic!("no initiation");
        };
        socket.send_to(initiation, self.router).unwrap();
        let mut answer = [0; 2048];
        let len = socket.recv(&mut answer).expect("an answer");
        let TunnResult::WriteToNetwork(keepalive) = self.tunnel.decapsulate(None, &answer[..len], &mut room)
        else {
            panic!("the answer is refused");
        };
        socket.send_to(keepalive, self.router).unwrap();
    }

    /// Sends `payload` to `to` inside the tunnel.
    fn send(&mut self, socket: &UdpSocket, to: SocketAddr, payload: &[u8]) {
        let IpAddr::V4(address) = to.ip() else { unreachable!("an IPv4 address") };
        let mut packet = Vec::new();
        let headers = PacketBuilder::ipv4(self.inside.octets(), address.octets(), 64).udp(4000, to.port());
        headers.write(&mut packet, payload).unwrap();
        let mut room = [0; 2048];
        let TunnResult::WriteToNetwork(datagram) = self.tunnel.encapsulate(&packet, &mut room) else {
            panic!("no session");
        };
        socket.send_to(datagram, self.router).unwrap();
    }
}

/// Returns a socket of `side`'s underlay.
fn outside(side: &Side) -> UdpSocket {
    let socket =
        side.namespace.run(|| UdpSocket::bind((side.underlay4, 0))).expect("enter a namespace").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket
}

/// Starts a router with [`LANES`] lanes and the peers at the left, and returns it with the peers, which are at the right,
/// and a socket behind it.
fn join(lab: &Lab, share: Sharing, peers: u32) -> (Router, Vec<Peer>, UdpSocket) {
    let theirs = key();
    let mut config = router::config(1, &theirs);
    config.queues = Queues::Fixed(LANES as usize);
    config.share = share;
    let mut all = Vec::new();
    for number in 0..peers {
        let (own, host) = (key(), number as u8 + 2);
        let IpAddr::V4(inside) = Family::V4.inside(host) else { unreachable!("an IPv4 address") };
        config.update.peers.push(peer(own.public_key(), &[&format!("{inside}/32")]));
        all.push(Peer::new(&own, &theirs, inside, &lab.left, number));
    }
    let router = router::start(&lab.left, &config);
    let bind = || UdpSocket::bind((Family::V4.inside(1), 0));
    let behind = lab.left.namespace.run(bind).expect("enter a namespace").unwrap();
    behind.set_read_timeout(Some(DEADLINE)).unwrap();
    (router, all, behind)
}

/// Returns how many datagrams each lane has received.
fn received(router: &Router) -> Vec<u64> {
    let queues = (0..LANES).map(|queue| queue.to_string());
    queues.map(|queue| total(router, "laneway_udp_gro_segments_sum", &[("queue", &queue)])).collect()
}

#[test]
fn each_lane_receives_from_as_many_peers_which_keep_their_lane() {
    const PEERS: usize = 8;
    require_root!();
    let lab = lab();
    let (router, mut peers, behind) = join(&lab, Sharing::Off, PEERS as u32);
    let to = behind.local_addr().unwrap();
    let sockets: Vec<_> = peers.iter().map(|_| outside(&lab.right)).collect();
    let mut before = received(&router);
    // Each round has new sessions.
    let mut round = || {
        let mut lane_of = |(peer, socket): (&mut Peer, &UdpSocket)| {
            peer.shake_hands(socket);
            for _ in 0..PACKETS {
                peer.send(socket, to, b"from a peer");
                behind.recv(&mut [0; 32]).expect("a packet arrives");
            }
            // Counters are published when a worker has no more to do.
            let all = before.iter().sum::<u64>() + PACKETS + 2;
            wait_until("the counters", || received(&router).iter().sum::<u64>() == all);
            let after = received(&router);
            // Data and a keepalive. The kernel selects the lane of the initiation.
            let is_lane = |lane: &usize| after[*lane] - before[*lane] > PACKETS;
            let lane = (0..LANES as usize).find(is_lane).expect("one lane receives all data");
            before = after;
            lane
        };
        peers.iter_mut().zip(&sockets).map(&mut lane_of).collect::<Vec<_>>()
    };
    let lanes = round();
    for lane in 0..LANES as usize {
        let peers = lanes.iter().filter(|other| **other == lane).count();
        assert_eq!(peers, PEERS / LANES as usize, "{lanes:?}");
    }
    assert_eq!(round(), lanes);
    router.stop().expect("a clean stop");
}

#[test]
fn a_flow_stays_in_order_while_its_peer_changes_its_port() {
    const DATAGRAMS: u32 = 20_000;
    const BURST: u32 = 32;
    require_root!();
    for share in [Sharing::Off, Sharing::On] {
        let lab = lab();
        let (router, mut peers, behind) = join(&lab, share, 1);
        let peer = &mut peers[0];
        let to = behind.local_addr().unwrap();
        let sockets: Vec<_> = (0..8).map(|_| outside(&lab.right)).collect();
        peer.shake_hands(&sockets[0]);
        behind.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let mut arrived = 0;
        let mut next = 0;
        for first in (0..DATAGRAMS).step_by(BURST as usize) {
            for number in first..first + BURST {
                // Two of each socket, so that lanes with different sockets would overtake each other.
                peer.send(&sockets[number as usize / 2 % sockets.len()], to, &number.to_be_bytes());
            }
            let mut number = [0; 4];
            while next < first + BURST && behind.recv(&mut number).is_ok() {
                let number = u32::from_be_bytes(number);
                assert!(number >= next, "{number} after {next}");
                next = number + 1;
                arrived += 1;
            }
        }
        assert!(arrived > DATAGRAMS / 2, "only {arrived} arrived");
        router.stop().expect("a clean stop");
    }
}
