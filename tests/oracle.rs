//! The kernel as oracle for the whole router: what leaves a Laneway for its peer, and what it writes for the
//! workload, is byte for byte what the kernel itself makes of the same superpackets.
//!
//! ```text
//! out   superpacket ─┬─ "feed-a" ─ kernel ─ lane0 ─ Laneway ─ UDP ─ boringtun ── compared
//!                    └─ "feed-b" ─ kernel ─ "plain", without offloads ─────────┘
//! back  segments ─┬─ boringtun ─ UDP runs ─ Laneway ─ lane0 ─ kernel ─ "plain" ── compared
//!                 └────────────────────────── one hop later ────────────────────┘
//! ```
//!
//! Both ways out are one hop long, so even the TTL is equal. `LANEWAY_SEED` repeats a run.

mod support;

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, TcpHeader, UdpHeader};
use laneway::control::config::update::PeerEndpoint;
use laneway::control::config::{RouterConfig, Table};
use laneway::control::supervisor::Router;
use laneway::offload::{Offload, Read, Shutdown, SuperpacketKind, TunDevice, VirtioHeader, open_queues};
use laneway::packet::checksum::pseudo_header_between;
use laneway::packet::{Ipv4, ip, protocol};
use laneway::sys::netns::Namespace;
use laneway::underlay::max_run;
use laneway::wireguard::messages::DATA_OVERHEAD;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg, setsockopt, sockopt};
use support::process::output;
use support::router::{DEVICE, key, peer, total};
use support::{DEADLINE, require_root};

/// Superpackets that are compared each way.
const CASES: usize = 400;

/// Superpackets whose segments come back once more, mixed.
const FLOWS: usize = 3;

/// All devices' MTU in bytes.
const MTU: usize = 1420;

/// Room for any packet.
const ROOM: usize = 65_536;

const FROM4: [u8; 4] = [10, 1, 0, 1];
const TO4: [u8; 4] = [10, 2, 0, 1];
const FROM6: [u8; 16] = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const TO6: [u8; 16] = [0xfd, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

#[test]
fn what_the_router_sends_and_writes_is_what_the_kernel_makes_of_it() {
    if !require_root() {
        return;
    }
    let seed = std::env::var("LANEWAY_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) ^ 0x5eed);
    println!("LANEWAY_SEED={seed}");
    let namespace = Namespace::create().unwrap();
    namespace.run(|| Oracle::new(&namespace).compare(Random(seed))).unwrap();
}

/// The devices, the router, and its peer.
struct Oracle {
    through_router: TunDevice,
    through_kernel: TunDevice,
    plain: TunDevice,
    router: Router,
    peer: Peer,
}

impl Oracle {
    /// To be called inside `namespace`.
    fn new(namespace: &Namespace) -> Oracle {
        let ip = |words: String| {
            output(namespace, &[&["ip"], &words.split(' ').collect::<Vec<_>>()[..]].concat(), "")
        };
        ip("link set lo up".into());
        let tun = |name: &str, offload| {
            let shutdown = Arc::new(Shutdown::new().unwrap());
            let device = open_queues(name, 1, offload, &shutdown).unwrap();
            ip(format!("link set {name} up mtu {MTU} txqueuelen 10000"));
            device
        };
        let (through_router, through_kernel) = (tun("feed-a", true), tun("feed-b", true));
        let plain = tun("plain", false);
        let (router, peer) = Peer::join();
        // Longer superpackets than one UDP send takes must come out right too.
        ip(format!("link set {DEVICE} gso_max_segs 65535"));

        for (file, value) in
            [("ipv4/conf/all/rp_filter", "0"), ("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")]
        {
            std::fs::write(format!("/proc/sys/net/{file}"), value).unwrap();
        }
        for name in ["feed-a", "feed-b", DEVICE] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0").unwrap();
        }
        for family in ["-4", "-6"] {
            ip(format!("{family} route add default dev {DEVICE} table 101"));
            ip(format!("{family} route add default dev plain table 102"));
            for (device, table) in [("feed-a", 101), ("feed-b", 102), (DEVICE, 102)] {
                ip(format!("{family} rule add iif {device} lookup {table}"));
            }
        }
        Oracle { through_router, through_kernel, plain, router, peer }
    }

    fn compare(mut self, mut random: Random) {
        let (mut segments, mut bytes) = (0, 0);
        let mut flows = Vec::new();
        for number in 0..CASES {
            let case = Case::any(&mut random, number);
            let what = format!("case {number}: {case:?}");
            let frame = case.frame();
            write(&self.through_kernel, &frame);
            let kernels = read(&mut self.plain.queues[0], case.segments(), &format!("out, {what}"));
            write(&self.through_router, &frame);
            let ours = self.peer.open(case.segments(), &what);
            same(&ours, &kernels, &format!("out, {what}"));

            self.peer.send(&kernels);
            let back = format!("back, {what}");
            let expected: Vec<_> = kernels.iter().cloned().map(one_hop_later).collect();
            same(&read(&mut self.plain.queues[0], kernels.len(), &back), &expected, &back);
            segments += expected.len();
            bytes += expected.iter().map(Vec::len).sum::<usize>();
            flows.push(Flow { sent: kernels, expected });
            if flows.len() == FLOWS {
                self.compare_mixed(&flows, &format!("mixed, the last of them {what}"));
                flows.clear();
            }
        }
        println!("{CASES} superpackets, {segments} segments, {bytes} bytes are equal, each way");
        for kind in SuperpacketKind::ALL {
            let label = format!("kind=\"{}\"", kind.label());
            let of = |family| total(&self.router, family, &[&label]);
            let read = of("laneway_tun_read_superpackets_total");
            let written = of("laneway_tun_write_superpackets_total");
            println!("{}: the router read {read} and wrote {written}", kind.label());
            // Otherwise the kernel cut them before the router saw them, and nothing was compared.
            assert!(read > 0 && written > 0, "{label}");
        }
    }

    /// Segments of several flows come back in turns, each in a datagram of its own. Between flows no order
    /// is promised.
    fn compare_mixed(&mut self, flows: &[Flow], what: &str) {
        let longest = flows.iter().map(|flow| flow.sent.len()).max().unwrap_or_default();
        for turn in 0..longest {
            for flow in flows {
                if let Some(packet) = flow.sent.get(turn) {
                    self.peer.send(std::slice::from_ref(packet));
                }
            }
        }
        let count = flows.iter().map(|flow| flow.sent.len()).sum();
        let written = read(&mut self.plain.queues[0], count, what);
        for flow in flows {
            same(&of_flow(&flow.expected, &written), &flow.expected, what);
        }
    }
}

/// Segments of one superpacket, and how they come back.
struct Flow {
    sent: Vec<Vec<u8>>,
    expected: Vec<Vec<u8>>,
}

/// The flow's packets among `packets`, in order.
fn of_flow(flow: &[Vec<u8>], packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let key = |packet: &[u8]| {
        let transport = ip::transport(packet).expect("a whole packet");
        (packet[0] >> 4, transport.protocol, packet[transport.offset..transport.offset + 4].to_vec())
    };
    packets.iter().filter(|packet| key(packet) == key(&flow[0])).cloned().collect()
}

/// The decrypting end: another implementation of the protocol on a UDP socket.
struct Peer {
    tunnel: Tunn,
    socket: UdpSocket,
    router: SocketAddr,
}

impl Peer {
    /// A router with one lane, and its only peer, which everything is routed to.
    fn join() -> (Router, Peer) {
        let (own, theirs) = (key(), key());
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        setsockopt(&socket, sockopt::RcvBufForce, &(32 << 20)).unwrap();

        let mut config: RouterConfig = support::router::config(1, &theirs);
        config.addresses.clear();
        config.table = Table::Off;
        config.mtu = MTU as u16;
        let mut peer = peer(own.public_key(), &["0.0.0.0/0", "::/0"]);
        peer.endpoint = Some(PeerEndpoint::Address(socket.local_addr().unwrap()));
        config.update.peers = vec![peer];
        let router = Router::start(&config, None).unwrap_or_else(|error| panic!("{error}"));
        let address = (Ipv4Addr::LOCALHOST, config.update.listen_port.unwrap()).into();

        let public = PublicKey::from(*theirs.public_key().as_bytes());
        let tunnel = Tunn::new(StaticSecret::from(*own.as_bytes()), public, None, None, 1, None);
        (router, Peer { tunnel, socket, router: address })
    }

    /// Receives until `count` packets are opened.
    fn open(&mut self, count: usize, what: &str) -> Vec<Vec<u8>> {
        let (mut datagram, mut room) = (vec![0; ROOM], vec![0; ROOM]);
        let mut packets = Vec::with_capacity(count);
        while packets.len() < count {
            let received = self.socket.recv(&mut datagram);
            let len =
                received.unwrap_or_else(|e| panic!("{} of {count} packets came: {e}; {what}", packets.len()));
            let from = Some(IpAddr::from(Ipv4Addr::LOCALHOST));
            match self.tunnel.decapsulate(from, &datagram[..len], &mut room) {
                TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                    // Of itself the kernel sends neighbour discovery.
                    packets.extend(is_ours(packet).then(|| packet.to_vec()));
                }
                TunnResult::WriteToNetwork(answer) => {
                    self.socket.send_to(answer, self.router).unwrap();
                }
                TunnResult::Done => {}
                TunnResult::Err(error) => panic!("the router sent what cannot be opened: {error:?}"),
            }
        }
        packets
    }

    /// Seals `packets`, equal in length but the last, and sends them as the kernel would a run.
    fn send(&mut self, packets: &[Vec<u8>]) {
        let stride = packets[0].len() + DATA_OVERHEAD;
        let SocketAddr::V4(router) = self.router else { unreachable!("it was bound so") };
        for run in packets.chunks(max_run(stride)) {
            let mut bytes = Vec::new();
            for packet in run {
                let mut room = vec![0; packet.len().max(1500) + DATA_OVERHEAD];
                match self.tunnel.encapsulate(packet, &mut room) {
                    TunnResult::WriteToNetwork(datagram) => bytes.extend_from_slice(datagram),
                    other => panic!("{other:?}"),
                }
            }
            let segment = [ControlMessage::UdpGsoSegments(&(stride as u16))];
            let control = if run.len() > 1 { &segment[..] } else { &[] };
            let to = SockaddrIn::from(router);
            sendmsg(self.socket.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::empty(), Some(&to))
                .unwrap();
        }
    }
}

/// One superpacket.
#[derive(Debug)]
struct Case {
    kind: SuperpacketKind,
    source_port: u16,
    gso_size: usize,
    payload: usize,
    id: u16,
    dont_fragment: bool,
    traffic_class: u8,
    sequence: u32,
    /// FIN, PSH, ECE, CWR, by bit.
    flags: u8,
    /// IPv4 options, or an IPv6 destination options header in front of TCP or UDP, in bytes.
    ip_options: usize,
    tcp_options: usize,
    lying_header_len: u16,
    fill: u64,
}

impl Case {
    /// Kinds take turns, and so do sizes: tiny segments, long ones with an odd tail, any.
    fn any(random: &mut Random, number: usize) -> Case {
        let kind = SuperpacketKind::ALL[1 + number % 4];
        let ip_options = match (random.one_in(3), kind) {
            (false, _) => 0,
            (true, SuperpacketKind::Tso4 | SuperpacketKind::Uso4) => 4 * random.within(1, 10),
            (true, _) => 8 * random.within(1, 4),
        };
        let tcp_options = if is_tcp(kind) && random.one_in(2) { 4 * random.within(1, 10) } else { 0 };
        let header = header_len(kind, ip_options, tcp_options);
        // Behind an IPv6 extension header the kernel looks for TCP's header length in the wrong place when
        // it asks whether segments fit (`ip6_rcv_core` sets the transport header), and may find 60 bytes.
        let beyond = if kind == SuperpacketKind::Tso6 && ip_options > 0 { 60 } else { 0 };
        let longest = MTU - header - beyond;
        let most = if is_tcp(kind) { 300 } else { 64 };
        let gso_size = match number / 4 % 4 {
            0 => random.within(1, 40),
            1 => longest,
            _ => random.within(1, longest),
        };
        let room = (65_535 - header).min(gso_size * most);
        // With options the kernel takes what fits one segment for a broken superpacket (it reckons with
        // the shortest headers, `virtio_net_hdr_to_skb`), and then drops it.
        let least = if ip_options + tcp_options > 0 { gso_size + 1 } else { 1 };
        let payload = match random.within(0, 3) {
            // The least, a whole number of segments, as much as there can be, any.
            0 => least,
            1 => gso_size * random.within(2, room / gso_size),
            2 => room,
            _ => random.within(least, room),
        };
        let near_wrap = random.one_in(4);
        Case {
            kind,
            source_port: 4000 + number as u16,
            gso_size,
            payload,
            id: if near_wrap { 0xffff - random.within(0, 20) as u16 } else { random.next() as u16 },
            dont_fragment: random.one_in(2),
            traffic_class: random.next() as u8,
            sequence: if near_wrap { u32::MAX - random.within(0, 3000) as u32 } else { random.next() as u32 },
            flags: random.next() as u8 & 0x0f,
            ip_options,
            tcp_options,
            lying_header_len: random.next() as u16,
            fill: random.next(),
        }
    }

    fn segments(&self) -> usize {
        self.payload.div_ceil(self.gso_size)
    }

    /// As it is written to a TUN: virtio header, and packet with an unfinished checksum.
    fn frame(&self) -> Vec<u8> {
        let v6 = matches!(self.kind, SuperpacketKind::Tso6 | SuperpacketKind::Uso6);
        let mut fill = Random(self.fill);
        let payload: Vec<u8> = (0..self.payload).map(|_| fill.next() as u8).collect();
        let number = if is_tcp(self.kind) { protocol::TCP } else { protocol::UDP };
        let transport_len =
            header_len(self.kind, 0, self.tcp_options) - if v6 { 40 } else { 20 } + self.payload;
        let (from, to): (IpAddr, IpAddr) =
            if v6 { (FROM6.into(), TO6.into()) } else { (FROM4.into(), TO4.into()) };
        let seed = pseudo_header_between(from, to, number, transport_len as u32).fold();

        let mut packet = self.ip_header(v6, number, transport_len);
        let transport = packet.len();
        packet.extend(self.transport_header(seed, transport_len));
        let header = packet.len();
        packet.extend(payload);
        let (gso_type, csum_offset) = match self.kind {
            SuperpacketKind::Tso4 => (VirtioHeader::GSO_TCPV4, 16),
            SuperpacketKind::Tso6 => (VirtioHeader::GSO_TCPV6, 16),
            _ => (VirtioHeader::GSO_UDP_L4, 6),
        };
        let ecn = if is_tcp(self.kind) && self.flags & 8 != 0 { VirtioHeader::GSO_ECN } else { 0 };
        let virtio = VirtioHeader {
            flags: VirtioHeader::NEEDS_CSUM,
            gso_type: gso_type | ecn,
            // The kernel mends a hint that is too small, and refuses one beyond the packet.
            hdr_len: self.lying_header_len % (header as u16 + 1),
            gso_size: self.gso_size as u16,
            csum_start: transport as u16,
            csum_offset,
        };
        [&virtio.encode()[..], &packet].concat()
    }

    fn ip_header(&self, v6: bool, number: u8, transport_len: usize) -> Vec<u8> {
        let mut out = Vec::new();
        if v6 {
            const DESTINATION_OPTIONS: u8 = 60;
            let header = Ipv6Header {
                traffic_class: self.traffic_class,
                flow_label: (self.fill as u32 & 0xf_ffff).try_into().unwrap(),
                payload_length: (transport_len + self.ip_options) as u16,
                next_header: IpNumber(if self.ip_options > 0 { DESTINATION_OPTIONS } else { number }),
                hop_limit: 64,
                source: FROM6,
                destination: TO6,
            };
            out.extend(header.to_bytes());
            if self.ip_options > 0 {
                // One PadN option fills the header (RFC 8200, section 4.2).
                let padding = self.ip_options - 4;
                out.extend([number, (self.ip_options / 8 - 1) as u8, 1, padding as u8]);
                out.extend(vec![0; padding]);
            }
            return out;
        }
        let len = (transport_len + self.ip_options) as u16;
        let mut header = Ipv4Header::new(0, 64, IpNumber(number), FROM4, TO4).unwrap();
        (header.dscp, header.ecn) =
            ((self.traffic_class >> 2).try_into().unwrap(), (self.traffic_class & 3).try_into().unwrap());
        (header.identification, header.dont_fragment) = (self.id, self.dont_fragment);
        header.options = vec![1; self.ip_options][..].try_into().unwrap();
        header.total_len = 20 + len;
        header.header_checksum = header.calc_header_checksum();
        IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default()).write(&mut out).unwrap();
        out
    }

    fn transport_header(&self, checksum: u16, transport_len: usize) -> Vec<u8> {
        if !is_tcp(self.kind) {
            let (source_port, destination_port) = (self.source_port, 5000);
            let length = transport_len as u16;
            return UdpHeader { source_port, destination_port, length, checksum }.to_bytes().to_vec();
        }
        let mut header = TcpHeader::new(self.source_port, 5000, self.sequence, 512);
        (header.ack, header.acknowledgment_number) = (true, 77);
        (header.fin, header.psh) = (self.flags & 1 != 0, self.flags & 2 != 0);
        (header.ece, header.cwr) = (self.flags & 4 != 0, self.flags & 8 != 0);
        header.set_options_raw(&vec![1; self.tcp_options]).unwrap();
        header.checksum = checksum;
        header.to_bytes().to_vec()
    }
}

fn is_tcp(kind: SuperpacketKind) -> bool {
    matches!(kind, SuperpacketKind::Tso4 | SuperpacketKind::Tso6)
}

fn header_len(kind: SuperpacketKind, ip_options: usize, tcp_options: usize) -> usize {
    let ip = if matches!(kind, SuperpacketKind::Tso4 | SuperpacketKind::Uso4) { 20 } else { 40 };
    ip + ip_options + if is_tcp(kind) { 20 + tcp_options } else { 8 }
}

fn write(device: &TunDevice, frame: &[u8]) {
    let written = nix::unistd::write(device.queues[0].reader.as_fd(), frame);
    assert_eq!(written, Ok(frame.len()), "the kernel takes the superpacket");
}

/// The next `count` packets from a device without offloads.
fn read(queue: &mut Offload, count: usize, what: &str) -> Vec<Vec<u8>> {
    let mut packets = Vec::with_capacity(count);
    while packets.len() < count {
        match queue.reader.read().unwrap() {
            Read::Packet(packet) => {
                packets.extend(is_ours(packet.packet()).then(|| packet.packet().to_vec()));
            }
            Read::Malformed(reason) => panic!("the kernel wrote a bad packet: {}", reason.label()),
            Read::Empty => {
                let mut fds = [PollFd::new(queue.reader.as_fd(), PollFlags::POLLIN)];
                let ready = poll(&mut fds, PollTimeout::try_from(DEADLINE).unwrap()).unwrap();
                assert!(ready > 0, "{} of {count} packets came: {what}", packets.len());
            }
        }
    }
    packets
}

/// Whether a packet is one of the cases' and not the kernel's own.
fn is_ours(packet: &[u8]) -> bool {
    [FROM4.into(), FROM6.into()].map(Some).contains(&ip::source(packet))
}

fn same(found: &[Vec<u8>], expected: &[Vec<u8>], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found, expected, "segment {i} of {what}");
    }
}

/// A packet as it is behind one more router.
fn one_hop_later(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 6 {
        packet[7] -= 1;
        return packet;
    }
    packet[8] -= 1;
    let header_len = Ipv4::new_checked(&packet[..]).unwrap().header_len();
    let checksum = Ipv4Header::from_slice(&packet[..header_len]).unwrap().0.calc_header_checksum();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// `SplitMix64` (Steele, Lea and Flood, 2014): enough to choose cases.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn within(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() % (high - low + 1) as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.within(1, n) == 1
    }
}
