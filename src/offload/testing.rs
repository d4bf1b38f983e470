//! Test packets, written by an independent builder (`etherparse`).

use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header, TcpHeader, UdpHeader};

use super::VirtioHeader;
use crate::packet::Flags;

pub(super) const V4: ([u8; 4], [u8; 4]) = ([10, 1, 0, 1], [10, 2, 0, 2]);
pub(super) const V6: ([u8; 16], [u8; 16]) = ([0xfd; 16], [0xfc; 16]);

/// Parameters of a test packet.
#[derive(Clone, Debug)]
pub(super) struct Build {
    pub(super) v6: bool,
    pub(super) id: u16,
    pub(super) dont_fragment: bool,
    pub(super) tos: u8,
    pub(super) ttl: u8,
    pub(super) flow_label: u32,
    /// IPv4 options, or a complete IPv6 destination options header.
    pub(super) ip_options: Vec<u8>,
    pub(super) ports: (u16, u16),
    pub(super) sequence: u32,
    pub(super) acknowledgement: u32,
    pub(super) flags: Flags,
    pub(super) window: u16,
    pub(super) tcp_options: Vec<u8>,
    pub(super) payload: Vec<u8>,
}

impl Default for Build {
    fn default() -> Build {
        Build {
            v6: false,
            id: 100,
            dont_fragment: false,
            tos: 0,
            ttl: 64,
            flow_label: 7,
            ip_options: Vec::new(),
            ports: (40_000, 5201),
            sequence: 1,
            acknowledgement: 9,
            flags: Flags::ACK,
            window: 512,
            tcp_options: Vec::new(),
            payload: Vec::new(),
        }
    }
}

impl Build {
    pub(super) fn v6() -> Build {
        Build { v6: true, ..Build::default() }
    }

    /// Sets a payload of `len` varying bytes.
    pub(super) fn payload(self, len: usize) -> Build {
        let payload = (0..len).map(|i| (i * 7 + i / 251) as u8).collect();
        Build { payload, ..self }
    }

    pub(super) fn tcp(&self) -> Vec<u8> {
        let (source, destination) = self.ports;
        let mut header = TcpHeader::new(source, destination, self.sequence, self.window);
        header.acknowledgment_number = self.acknowledgement;
        header.set_options_raw(&self.tcp_options).unwrap();
        header.fin = self.flags.any(Flags::FIN);
        header.syn = self.flags.any(Flags::SYN);
        header.rst = self.flags.any(Flags::RST);
        header.psh = self.flags.any(Flags::PSH);
        header.ack = self.flags.any(Flags::ACK);
        header.urg = self.flags.any(Flags::URG);
        header.ece = self.flags.any(Flags::ECE);
        header.cwr = self.flags.any(Flags::CWR);
        header.checksum = if self.v6 {
            header.calc_checksum_ipv6_raw(V6.0, V6.1, &self.payload).unwrap()
        } else {
            header.calc_checksum_ipv4_raw(V4.0, V4.1, &self.payload).unwrap()
        };
        self.ip(IpNumber::TCP, &header.to_bytes())
    }

    pub(super) fn udp(&self) -> Vec<u8> {
        let length = (UdpHeader::LEN + self.payload.len()) as u16;
        let (source_port, destination_port) = self.ports;
        let mut header = UdpHeader { source_port, destination_port, length, checksum: 0 };
        header.checksum = if self.v6 {
            header.calc_checksum_ipv6_raw(V6.0, V6.1, &self.payload).unwrap()
        } else {
            header.calc_checksum_ipv4_raw(V4.0, V4.1, &self.payload).unwrap()
        };
        self.ip(IpNumber::UDP, &header.to_bytes())
    }

    fn ip(&self, protocol: IpNumber, transport: &[u8]) -> Vec<u8> {
        let len = transport.len() + self.payload.len();
        let mut out = if self.v6 {
            let next_header =
                if self.ip_options.is_empty() { protocol } else { IpNumber::IPV6_DESTINATION_OPTIONS };
            let header = Ipv6Header {
                traffic_class: self.tos,
                flow_label: Ipv6FlowLabel::try_new(self.flow_label).unwrap(),
                payload_length: (self.ip_options.len() + len) as u16,
                next_header,
                hop_limit: self.ttl,
                source: V6.0,
                destination: V6.1,
            };
            [&header.to_bytes()[..], &self.ip_options].concat()
        } else {
            let mut header = Ipv4Header::new(0, self.ttl, protocol, V4.0, V4.1).unwrap();
            header.options = self.ip_options[..].try_into().unwrap();
            header.set_payload_len(len).unwrap();
            header.dont_fragment = self.dont_fragment;
            header.identification = self.id;
            header.dscp = (self.tos >> 2).try_into().unwrap();
            header.ecn = (self.tos & 3).try_into().unwrap();
            header.header_checksum = header.calc_header_checksum();
            header.to_bytes().to_vec()
        };
        out.extend_from_slice(transport);
        out.extend_from_slice(&self.payload);
        out
    }

    /// Returns the offset of the transport header in bytes.
    pub(super) fn transport(&self) -> usize {
        self.ip_options.len() + if self.v6 { 40 } else { 20 }
    }

    /// Returns the virtio header that the kernel would put before `self.tcp()` as a superpacket.
    pub(super) fn tso(&self, gso_size: u16) -> VirtioHeader {
        let gso_type = if self.v6 { VirtioHeader::GSO_TCPV6 } else { VirtioHeader::GSO_TCPV4 };
        self.gso(gso_type, gso_size, 16, 20 + self.tcp_options.len())
    }

    /// Returns the virtio header that the kernel would put before `self.udp()` as a superpacket.
    pub(super) fn uso(&self, gso_size: u16) -> VirtioHeader {
        self.gso(VirtioHeader::GSO_UDP_L4, gso_size, 6, 8)
    }

    fn gso(&self, gso_type: u8, gso_size: u16, csum_offset: u16, transport_len: usize) -> VirtioHeader {
        VirtioHeader {
            flags: VirtioHeader::NEEDS_CSUM,
            gso_type,
            hdr_len: (self.transport() + transport_len) as u16,
            gso_size,
            csum_start: self.transport() as u16,
            csum_offset,
            ..VirtioHeader::default()
        }
    }
}
