//! The virtio network header that precedes every packet on a TUN opened with `IFF_VNET_HDR`.
//!
//! Layout and constants follow `include/uapi/linux/virtio_net.h` and section 5.1.6 of the virtio 1.2
//! specification.

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
}

impl VirtioHeader {
    /// Length of the header in bytes.
    pub const LEN: usize = VIRTIO_HEADER_LEN;

    /// The checksum is partial: the field holds only the sum of the pseudo header.
    pub const NEEDS_CSUM: u8 = 1;
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
        }
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
        };
        assert_eq!(VirtioHeader::decode(header.encode()), header);
        assert_eq!(header.encode()[..2], [1, 0x84]);
        assert_eq!(header.encode()[2..4], 0x0102u16.to_ne_bytes());
    }
}
