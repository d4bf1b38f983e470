//! The underlay over the kernel's loopback: what a lane relies on to send and receive.
//!
//! Tests that change addresses, MTU or rules run in a network namespace of their own thread, which the kernel
//! removes with the thread. They need root; `LANEWAY_SKIP_NETNS=1` skips them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket as Plain};
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{require_root, skip};
use laneway::drops::DropReason;
use laneway::underlay::{
    DEPTH, Endpoint, Notices, Received, Receiver, SendFailure, Sender, SocketOptions, UdpSocket, bind,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};

/// A lane's socket, with sender, receiver and buffers.
struct Lane {
    socket: UdpSocket,
    sender: Sender,
    receiver: Receiver,
    slabs: Vec<Vec<u8>>,
}

impl Lane {
    fn new() -> Self {
        Self::all(1, SocketOptions::default()).remove(0)
    }

    fn all(count: usize, options: SocketOptions) -> Vec<Self> {
        let lane = |socket| Lane {
            sender: Sender::new(&socket),
            socket,
            receiver: Receiver::new(),
            slabs: vec![vec![0; 65_536]; DEPTH],
        };
        bind(0, count, options).unwrap().into_iter().map(lane).collect()
    }

    fn at(&self, ip: &str) -> Endpoint {
        Endpoint::new(SocketAddr::new(ip.parse().unwrap(), self.socket.port()))
    }

    fn send(&mut self, run: &[u8], stride: usize, to: &Endpoint) -> Result<Notices, SendFailure> {
        self.sender.send_run(&self.socket, run, stride, to, 0)
    }

    /// Receives until the messages hold at least `datagrams`, and returns each with its bytes.
    fn receive(&mut self, datagrams: usize) -> Vec<(Received, Vec<u8>)> {
        let mut messages = Vec::new();
        loop {
            let buffers = self.slabs.iter_mut().map(|slab| &mut slab[..]);
            let count = self.receiver.receive(&self.socket, buffers).unwrap();
            for (index, slab) in self.slabs.iter().enumerate().take(count) {
                let message = self.receiver.message(index);
                messages.push((message, slab[..message.len].to_vec()));
            }
            let here: usize = messages.iter().map(|(message, _)| message.segments().max(1)).sum();
            if count == 0 && (here >= datagrams || !waits_for(&self.socket, PollFlags::POLLIN)) {
                return messages;
            }
        }
    }

    /// Receives the only message.
    fn receive_one(&mut self) -> (Received, Vec<u8>) {
        let mut messages = self.receive(1);
        assert_eq!(messages.len(), 1);
        messages.remove(0)
    }
}

/// Returns whether `socket` becomes readable before a deadline, so that a test fails instead of hanging.
fn waits_for(socket: &UdpSocket, events: PollFlags) -> bool {
    poll(&mut [PollFd::new(socket.as_fd(), events)], PollTimeout::from(10_000_u16)) == Ok(1)
}

/// Returns `count` different datagrams of `stride` bytes; the last one is half as long.
fn run(count: u8, stride: usize) -> Vec<u8> {
    let mut run: Vec<u8> = (0..count).flat_map(|n| vec![n; stride]).collect();
    run.truncate(run.len() - stride / 2);
    run
}

/// Moves this thread to a new network namespace that has only a loopback device.
fn enter_namespace() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
    ip("link set lo up");
}

fn ip(arguments: &str) {
    let status =
        Command::new("ip").args(arguments.split(' ')).status().expect("ip (apt-get install iproute2)");
    assert!(status.success(), "ip {arguments}");
}

/// Assigns an address to the loopback device, and waits until packets get there: the kernel adds the local route
/// of an IPv6 address a little later.
fn add_address(address: &str) -> String {
    let with_length = format!("{address}/{} dev lo", if address.contains(':') { 128 } else { 32 });
    ip(&format!("addr add {with_length}"));
    let arrives = || {
        let route = Command::new("ip").args(["route", "get", address]).output().expect("ip");
        String::from_utf8_lossy(&route.stdout).starts_with("local")
    };
    let end = Instant::now() + Duration::from_secs(10);
    while !arrives() {
        assert!(Instant::now() < end, "no route to {address}");
    }
    with_length
}

#[test]
fn a_run_arrives_as_one_message_over_ipv4_and_ipv6() {
    for local in ["127.0.0.1", "::1"] {
        let (mut from, mut to) = (Lane::new(), Lane::new());
        let run = run(45, 1452);
        assert_eq!(from.send(&run, 1452, &to.at(local)), Ok(Notices::default()));
        let (message, bytes) = to.receive_one();
        assert_eq!(bytes, run);
        assert_eq!((message.stride, message.segments()), (1452, 45));
        assert_eq!(message.from.address, from.at(local).address, "not a plain address");
        assert_eq!(message.from.source.unwrap().ip, local.parse::<IpAddr>().unwrap());
    }
}

#[test]
fn without_offloads_the_same_datagrams_arrive() {
    let off = SocketOptions { gso: false, gro: false, ..SocketOptions::default() };
    let (mut from, mut to) = (Lane::all(1, off).remove(0), Lane::all(1, off).remove(0));
    let run = run(DEPTH as u8, 1452);
    assert_eq!(from.send(&run, 1452, &to.at("127.0.0.1")), Ok(Notices::default()));
    let messages = to.receive(DEPTH);
    assert!(messages.iter().all(|(message, _)| message.segments() == 1));
    assert_eq!(messages.into_iter().map(|(_, bytes)| bytes).collect::<Vec<_>>().concat(), run);
}

#[test]
fn a_plain_peer_gets_a_run_as_datagrams() {
    let peer = Plain::bind("127.0.0.1:0").unwrap();
    let run = run(5, 1000);
    Lane::new().send(&run, 1000, &Endpoint::new(peer.local_addr().unwrap())).unwrap();
    let mut buffer = [0; 2000];
    for datagram in run.chunks(1000) {
        let len = peer.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], datagram);
    }
}

#[test]
fn an_answer_leaves_from_the_address_that_was_asked() {
    let mut lane = Lane::new();
    for asked in ["127.0.0.1", "127.0.0.2", "127.9.9.9"] {
        let peer = Plain::bind("127.0.0.1:0").unwrap();
        peer.send_to(b"ping", lane.at(asked).address).unwrap();
        let (message, _) = lane.receive_one();
        lane.send(b"pong", 4, &message.from).unwrap();
        assert_eq!(peer.recv_from(&mut [0; 10]).unwrap(), (4, lane.at(asked).address));
    }
}

#[test]
fn an_answer_leaves_from_the_ipv6_address_that_was_asked() {
    require_root!();
    enter_namespace();
    add_address("fd00::2");
    let mut lane = Lane::new();
    for asked in ["::1", "fd00::2"] {
        let peer = Plain::bind("[::1]:0").unwrap();
        peer.send_to(b"ping", lane.at(asked).address).unwrap();
        let (message, _) = lane.receive_one();
        lane.send(b"pong", 4, &message.from).unwrap();
        assert_eq!(peer.recv_from(&mut [0; 10]).unwrap(), (4, lane.at(asked).address));
    }
}

#[test]
fn an_address_that_is_taken_away_does_not_cut_off_the_peer() {
    require_root!();
    enter_namespace();
    for asked in ["10.0.0.9", "fd00::9"] {
        let (mut lane, mut peer) = (Lane::new(), Lane::new());
        let address = add_address(asked);
        peer.send(b"ping", 4, &lane.at(asked)).unwrap();
        let (message, _) = lane.receive_one();
        assert_eq!(message.from.source.unwrap().ip, asked.parse::<IpAddr>().unwrap());
        ip(&format!("addr del {address}"));

        let back = peer.at(if asked.contains(':') { "::1" } else { "127.0.0.1" });
        let to = Endpoint { source: message.from.source, ..back };
        let run = run(7, 1200);
        assert_eq!(lane.send(&run, 1200, &to), Ok(Notices { source_gone: true, over_mtu: false }));
        assert_eq!(peer.receive_one().1, run);
        assert!(lane.sender.gso());
    }
}

#[test]
fn a_run_that_is_too_long_for_the_path_still_arrives_and_the_path_mtu_is_known() {
    require_root!();
    enter_namespace();
    ip("link set lo mtu 1400");
    for local in ["127.0.0.1", "::1"] {
        let (mut from, mut to) = (Lane::new(), Lane::new());
        let run = run(4, 1452);
        let endpoint = to.at(local);
        assert_eq!(from.send(&run, 1452, &endpoint), Ok(Notices { over_mtu: true, source_gone: false }));
        let arrived: Vec<u8> = to.receive(4).into_iter().flat_map(|(_, bytes)| bytes).collect();
        assert_eq!(arrived, run);
        assert!(from.sender.gso());
        assert_eq!(from.socket.path_mtu(&endpoint).unwrap(), 1400);
    }
}

#[test]
fn the_mark_can_change_while_the_socket_is_in_use() {
    require_root!();
    enter_namespace();
    // Marked datagrams are unroutable, so the result of a send shows the mark.
    ip("rule add pref 2 lookup local");
    ip("rule del pref 0 lookup local");
    ip("rule add pref 1 fwmark 0x2a unreachable");
    let options = SocketOptions { fwmark: 0x2a, ..SocketOptions::default() };
    let mut from = Lane::all(1, options).remove(0);
    let mut to = Lane::new();
    let endpoint = to.at("127.0.0.1");

    let refused = from.send(b"lost", 4, &endpoint);
    assert!(matches!(refused, Err(SendFailure::Refused { lost: 1, .. })), "{refused:?}");
    assert!(from.socket.path_mtu(&endpoint).is_err(), "the path MTU lookup ignored the mark");

    from.socket.set_fwmark(0).unwrap();
    from.send(b"goes", 4, &endpoint).unwrap();
    assert_eq!(to.receive_one().1, b"goes");
}

#[test]
fn lanes_on_one_port_share_the_senders_and_a_sender_stays_with_its_lane() {
    let mut lanes = Lane::all(4, SocketOptions::default());
    let mut at_lane = vec![BTreeSet::new(); lanes.len()];
    let peers: Vec<_> = (0..64).map(|_| Plain::bind("127.0.0.1:0").unwrap()).collect();
    for _ in 0..3 {
        for peer in &peers {
            peer.send_to(b"hello", lanes[0].at("127.0.0.1").address).unwrap();
        }
    }
    let mut arrived = 0;
    while arrived < 3 * peers.len() {
        let before = arrived;
        for (lane, senders) in lanes.iter_mut().zip(&mut at_lane) {
            let messages = lane.receive(0);
            arrived += messages.len();
            senders.extend(messages.iter().map(|(message, _)| message.from.address));
        }
        let sockets = lanes.iter().map(|lane| PollFd::new(lane.socket.as_fd(), PollFlags::POLLIN));
        let none_waits = arrived == before
            && poll(&mut sockets.collect::<Vec<_>>(), PollTimeout::from(10_000_u16)) == Ok(0);
        assert!(!none_waits, "{arrived} of {} arrived", 3 * peers.len());
    }
    assert_eq!(at_lane.iter().map(BTreeSet::len).sum::<usize>(), peers.len(), "a flow used two lanes");
    assert!(at_lane.iter().all(|senders| !senders.is_empty()), "a lane got no flow");
}

#[test]
fn empty_and_oversized_datagrams_have_their_reason_and_the_socket_goes_on() {
    let mut lane = Lane::new();
    lane.slabs = vec![vec![0; 100]; DEPTH];
    let peer = Plain::bind("127.0.0.1:0").unwrap();
    for len in [0, 101, 100, 0] {
        peer.send_to(&vec![1; len], lane.at("127.0.0.1").address).unwrap();
    }
    let reasons: Vec<_> = lane.receive(4).iter().map(|(message, _)| message.drop_reason()).collect();
    let (empty, oversized) = (Some(DropReason::EmptyDatagram), Some(DropReason::Oversized));
    assert_eq!(reasons, [empty, oversized, None, empty]);
    assert_eq!(lane.receiver.tally().messages.total(), 1);
    assert_eq!(lane.receiver.tally().bytes, 100);
}

#[test]
fn a_peer_that_refuses_does_not_disturb_the_others() {
    let mut lane = Lane::new();
    let refusing = Plain::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let good = Plain::bind("127.0.0.1:0").unwrap();
    for _ in 0..3 {
        let _ = lane.send(b"nobody is there", 15, &Endpoint::new(refusing));
        lane.send(b"hello", 5, &Endpoint::new(good.local_addr().unwrap())).unwrap();
        good.send_to(b"hello", lane.at("127.0.0.1").address).unwrap();
        assert_eq!(lane.receive_one().1, b"hello");
    }
}

#[test]
fn a_full_send_buffer_blocks_and_nothing_is_lost_when_it_has_room_again() {
    require_root!();
    enter_namespace();
    // A device slower than the sender, so that the buffer fills.
    ip("link add slow type veth peer name far");
    ip("addr add 10.1.0.1/24 dev slow");
    ip("link set slow up");
    ip("link set far up");
    ip("neigh add 10.1.0.2 lladdr 02:00:00:00:00:02 dev slow");
    let tc = "qdisc add dev slow root tbf rate 8mbit burst 64k limit 10m";
    let shaped = Command::new("tc").args(tc.split(' ')).status();
    if !shaped.is_ok_and(|status| status.success()) {
        skip::report("this kernel has no traffic shaper (sch_tbf)");
        return;
    }
    let small = SocketOptions { buffer: 1 << 17, ..SocketOptions::default() };
    let mut lane = Lane::all(1, small).remove(0);
    let to = Endpoint::new("10.1.0.2:9".parse().unwrap());
    let run = run(40, 1452);
    let blocked = (0..100).find_map(|_| lane.send(&run, 1452, &to).err()).expect("the buffer fills");
    assert_eq!(blocked, SendFailure::WouldBlock { sent: 0, notices: Notices::default() });
    let mut writable =
        [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&lane.socket), nix::poll::PollFlags::POLLOUT)];
    nix::poll::poll(&mut writable, nix::poll::PollTimeout::NONE).unwrap();
    assert_eq!(lane.sender.send_run(&lane.socket, &run, 1452, &to, 0), Ok(Notices::default()));
}
