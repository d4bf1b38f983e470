//! The virtio network header that precedes every packet on a TUN opened with `IFF_VNET_HDR`.
//!
//! Layout and constants follow `include/uapi/linux/virtio_net.h` and section 5.1.6 of the virtio 1.2
//! specification. The header has two forms: the short one, and a long one that can also describe
//! superpackets inside a UDP tunnel (`struct virtio_net_hdr_v1_hash_tunnel`, Linux 6.17). The long form
//! begins like the short one.

/// Length of the virtio header in bytes: the default of `TUNSETVNETHDRSZ`.
pub const VIRTIO_HEADER_LEN: usize = 10;

/// Offload metadata of one TUN read or write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtioHeader {
    /// Bit set of [`VirtioHeader::NEEDS_CSUM`] and others.
    pub flags: u8,
    /// [`VirtioHeader::GSO_NONE`] or another type, optionally with [`VirtioHeader::GSO_ECN`].
    pub gso_type: u8,
    /// Total bytes of IP and transport header. A hint, which can be wrong.
    pub hdr_len: u16,
    /// Payload bytes of every segment but the last, which can be shorter.
    pub gso_size: u16,
    /// Offset where checksumming starts, in bytes from the start of the packet.
    pub csum_start: u16,
    /// Offset of the checksum field, in bytes from `csum_start`.
    pub csum_offset: u16,
    /// With a tunnel type: offset of the outer UDP header, in bytes from the start of the packet. Only in
    /// the long form.
    pub outer_transport: u16,
    /// With a tunnel type: offset of the inner IP header, in bytes from the start of the packet. Only in
    /// the long form.
    pub inner_network: u16,
}

impl VirtioHeader {
    /// Length of the short form in bytes.
    pub const LEN: usize = VIRTIO_HEADER_LEN;
    /// Length of the long form in bytes: 12 of virtio 1.0, 8 of a hash, and the two tunnel offsets.
    pub const LONG: usize = 24;

    /// The checksum is partial: the field holds only the sum of the pseudo header.
    pub const NEEDS_CSUM: u8 = 1;
    /// With a tunnel type: each segment gets an outer UDP checksum. Otherwise it stays zero.
    pub const UDP_TUNNEL_CSUM: u8 = 8;
    /// Receive segment coalescing information: used with virtual machines, never on a TUN.
    pub const RSC_INFO: u8 = 4;

    /// A single packet: no segmentation.
    pub const GSO_NONE: u8 = 0;
    /// TCP over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// UDP fragmentation offload, removed in Linux 4.14.
    pub const GSO_UDP: u8 = 3;
    /// TCP over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    /// UDP segmentation over IPv4 or IPv6.
    pub const GSO_UDP_L4: u8 = 5;
    /// Combined with another type: the superpacket is in a UDP tunnel over IPv4.
    pub const GSO_UDP_TUNNEL_IPV4: u8 = 0x20;
    /// Combined with another type: the superpacket is in a UDP tunnel over IPv6.
    pub const GSO_UDP_TUNNEL_IPV6: u8 = 0x40;
    /// Combined with a TCP type: the first segment has CWR set.
    pub const GSO_ECN: u8 = 0x80;

    /// Decodes a header in native byte order, the default without `TUNSETVNETLE`.
    #[inline]
    pub const fn decode(bytes: [u8; Self::LEN]) -> VirtioHeader {
        VirtioHeader {
            flags: bytes[0],
            gso_type: bytes[1],
            hdr_len: u16::from_ne_bytes([bytes[2], bytes[3]]),
            gso_size: u16::from_ne_bytes([bytes[4], bytes[5]]),
            csum_start: u16::from_ne_bytes([bytes[6], bytes[7]]),
            csum_offset: u16::from_ne_bytes([bytes[8], bytes[9]]),
            outer_transport: 0,
            inner_network: 0,
        }
    }

    /// Decodes the long form. The tunnel offsets are little endian on every machine.
    #[inline]
    pub fn decode_long(bytes: &[u8; Self::LONG]) -> VirtioHeader {
        let [short @ .., _, _, _, _, _, _, _, _, _, _, o0, o1, i0, i1] = *bytes;
        VirtioHeader {
            outer_transport: u16::from_le_bytes([o0, o1]),
            inner_network: u16::from_le_bytes([i0, i1]),
            ..Self::decode(short)
        }
    }

    /// Encodes the long form. The fields between the short form and the tunnel offsets are zero.
    #[inline]
    pub fn encode_long(self) -> [u8; Self::LONG] {
        let mut bytes = [0; Self::LONG];
        bytes[..Self::LEN].copy_from_slice(&self.encode());
        bytes[20..22].copy_from_slice(&self.outer_transport.to_le_bytes());
        bytes[22..].copy_from_slice(&self.inner_network.to_le_bytes());
        bytes
    }

    /// Encodes the header in native byte order.
    #[inline]
    pub const fn encode(self) -> [u8; Self::LEN] {
        let hdr_len = self.hdr_len.to_ne_bytes();
        let gso_size = self.gso_size.to_ne_bytes();
        let start = self.csum_start.to_ne_bytes();
        let offset = self.csum_offset.to_ne_bytes();
        [
            self.flags,
            self.gso_type,
            hdr_len[0],
            hdr_len[1],
            gso_size[0],
            gso_size[1],
            start[0],
            start[1],
            offset[0],
            offset[1],
        ]
    }
}

/// Which form of the header precedes the packets of an interface, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderForm {
    /// 10 bytes.
    Short,
    /// 24 bytes, with tunnel offsets.
    Long,
}

impl HeaderForm {
    /// Returns the length in bytes.
    #[inline]
    pub(super) const fn len(self) -> usize {
        match self {
            Self::Short => VirtioHeader::LEN,
            Self::Long => VirtioHeader::LONG,
        }
    }

    /// Splits a read into header and packet. Returns `None` if it is shorter than a header.
    #[inline]
    pub(super) fn split(self, read: &mut [u8]) -> Option<(VirtioHeader, &mut [u8])> {
        match self {
            Self::Short => {
                let (header, packet) = read.split_first_chunk_mut()?;
                Some((VirtioHeader::decode(*header), packet))
            }
            Self::Long => {
                let (header, packet) = read.split_first_chunk_mut()?;
                Some((VirtioHeader::decode_long(header), packet))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_then_decoding_gives_the_same_header() {
        let header = VirtioHeader {
            flags: VirtioHeader::NEEDS_CSUM,
            gso_type: VirtioHeader::GSO_TCPV6 | VirtioHeader::GSO_ECN,
            hdr_len: 0x0102,
            gso_size: 0x0304,
            csum_start: 0x0506,
            csum_offset: 0x0708,
            ..VirtioHeader::default()
        };
        assert_eq!(VirtioHeader::decode(header.encode()), header);
        let long = VirtioHeader { outer_transport: 0x090a, inner_network: 0x0b0c, ..header };
        assert_eq!(VirtioHeader::decode_long(&long.encode_long()), long);
        assert_eq!(long.encode_long()[20..], [0x0a, 0x09, 0x0c, 0x0b]);
        assert_eq!(header.encode()[..2], [1, 0x84]);
        assert_eq!(header.encode()[2..4], 0x0102u16.to_ne_bytes());
    }
}
