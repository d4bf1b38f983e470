//! Superpackets of every kind, as an application hands them to the kernel.

use std::net::IpAddr;

use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, TcpHeader, UdpHeader};
use laneway::offload::{SuperpacketKind, VirtioHeader};
use laneway::packet::checksum::pseudo_header_between;
use laneway::packet::{ip, protocol};

use super::MTU;
use super::random::Random;

const FROM4: [u8; 4] = [10, 1, 0, 1];
const TO4: [u8; 4] = [10, 2, 0, 1];
const FROM6: [u8; 16] = [0xfd, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const TO6: [u8; 16] = [0xfd, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// The source networks of all cases, by IP version.
pub(super) const SOURCES: [&str; 2] = ["10.1.0.0/16", "fd00:1::/32"];
/// The destination networks of all cases, by IP version.
pub(super) const DESTINATIONS: [&str; 2] = ["10.2.0.0/16", "fd00:2::/32"];

/// Returns whether a packet belongs to a case, rather than to the kernel.
pub(super) fn is_ours(packet: &[u8]) -> bool {
    [FROM4.into(), FROM6.into()].map(Some).contains(&ip::source(packet))
}

/// One superpacket, or one packet if `gso_size` is zero.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) kind: SuperpacketKind,
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
    /// Generates a case. Kinds and sizes take turns: tiny segments, long ones with an odd tail, any. Without
    /// `uso`, UDP superpackets become single packets.
    pub(super) fn any(random: &mut Random, number: usize, uso: bool) -> Case {
        let kind = SuperpacketKind::ALL[1 + number % 4];
        let ip_options = match (random.one_in(3), kind) {
            (false, _) => 0,
            (true, SuperpacketKind::Tso4 | SuperpacketKind::Uso4) => 4 * random.within(1, 10),
            (true, _) => 8 * random.within(1, 4),
        };
        let tcp_options = if is_tcp(kind) && random.one_in(2) { 4 * random.within(1, 10) } else { 0 };
        let header = header_len(kind, ip_options, tcp_options);
        // Behind an IPv6 extension header the kernel reads TCP's header length at the wrong offset when it checks
        // whether segments fit (`ip6_rcv_core` sets the transport header), and may find 60 bytes.
        let beyond = if kind == SuperpacketKind::Tso6 && ip_options > 0 { 60 } else { 0 };
        let longest = MTU - header - beyond;
        let most = if is_tcp(kind) { 300 } else { 64 };
        let gso_size = match number / 4 % 4 {
            0 => random.within(1, 40),
            1 => longest,
            _ => random.within(1, longest),
        };
        let room = (65_535 - header).min(gso_size * most);
        // With options the kernel rejects a superpacket that fits one segment (`virtio_net_hdr_to_skb` assumes the
        // shortest headers), and drops it.
        let least = if ip_options + tcp_options > 0 { gso_size + 1 } else { 1 };
        let payload = match random.within(0, 3) {
            // The minimum, a whole number of segments, the maximum, any.
            0 => least,
            1 => gso_size * random.within(2, room / gso_size),
            2 => room,
            _ => random.within(least, room),
        };
        let (gso_size, payload) =
            if uso || is_tcp(kind) { (gso_size, payload) } else { (0, payload.min(gso_size)) };
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

    pub(super) fn segments(&self) -> usize {
        if self.gso_size == 0 { 1 } else { self.payload.div_ceil(self.gso_size) }
    }

    /// Returns the case between two packets of its flow: one as long as its segments, which they follow without a
    /// gap, and one without payload after them.
    pub(super) fn with_neighbours(self) -> [Case; 3] {
        let len = if self.gso_size == 0 { self.payload } else { self.gso_size.min(self.payload) };
        let before = Case {
            gso_size: 0,
            payload: len,
            id: self.id.wrapping_sub(1),
            sequence: self.sequence.wrapping_sub(len as u32),
            ..self.clone()
        };
        let behind = Case {
            gso_size: 0,
            payload: 0,
            id: self.id.wrapping_add(self.segments() as u16),
            sequence: self.sequence.wrapping_add(self.payload as u32),
            ..self.clone()
        };
        [before, self, behind]
    }

    /// Returns what is written to a TUN device: virtio header, and packet with a partial checksum.
    pub(super) fn frame(&self) -> Vec<u8> {
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
        let gso_type = match self.kind {
            _ if self.gso_size == 0 => VirtioHeader::GSO_NONE,
            SuperpacketKind::Tso4 => VirtioHeader::GSO_TCPV4 | self.ecn(),
            SuperpacketKind::Tso6 => VirtioHeader::GSO_TCPV6 | self.ecn(),
            _ => VirtioHeader::GSO_UDP_L4,
        };
        let virtio = VirtioHeader {
            flags: VirtioHeader::NEEDS_CSUM,
            gso_type,
            // The kernel corrects a hint that is too small, and refuses one beyond the packet.
            hdr_len: self.lying_header_len % (header as u16 + 1),
            gso_size: self.gso_size as u16,
            csum_start: transport as u16,
            csum_offset: if is_tcp(self.kind) { 16 } else { 6 },
            ..VirtioHeader::default()
        };
        [&virtio.encode()[..], &packet].concat()
    }

    /// Returns the GSO flag that CWR requires.
    fn ecn(&self) -> u8 {
        if self.flags & 8 != 0 { VirtioHeader::GSO_ECN } else { 0 }
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

/// Returns whether superpackets of this kind are among the cases.
pub(super) fn occurs(kind: SuperpacketKind, uso: bool) -> bool {
    match kind {
        SuperpacketKind::UdpTunnel => false,
        SuperpacketKind::Uso4 | SuperpacketKind::Uso6 => uso,
        _ => true,
    }
}

pub(super) fn is_tcp(kind: SuperpacketKind) -> bool {
    matches!(kind, SuperpacketKind::Tso4 | SuperpacketKind::Tso6)
}

fn header_len(kind: SuperpacketKind, ip_options: usize, tcp_options: usize) -> usize {
    let ip = if matches!(kind, SuperpacketKind::Tso4 | SuperpacketKind::Uso4) { 20 } else { 40 };
    ip + ip_options + if is_tcp(kind) { 20 + tcp_options } else { 8 }
}
