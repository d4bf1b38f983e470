//! The virtio network header that stands before every packet on a TUN opened with `IFF_VNET_HDR`.
//! Source of layout and numbers: `include/uapi/linux/virtio_net.h`, and the virtio 1.2
//! specification, section 5.1.6.

/// The virtio header's length in bytes: `TUNSETVNETHDRSZ` is left at its default.
pub const VIRTIO_HEADER_LEN: usize = 10;

/// What the kernel says about a packet it hands over, or is told about one it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VirtioHeader {
    /// [`VirtioHeader::NEEDS_CSUM`] and others.
    pub flags: u8,
    /// [`VirtioHeader::GSO_NONE`] or another type, and perhaps [`VirtioHeader::GSO_ECN`].
    pub gso_type: u8,
    /// Bytes of all headers. A hint that can be wrong.
    pub hdr_len: u16,
    /// Payload bytes of each segment but the last.
    pub gso_size: u16,
    /// Where the checksum starts, in bytes from the start of the packet.
    pub csum_start: u16,
    /// Where the checksum field is, in bytes from `csum_start`.
    pub csum_offset: u16,
}

impl VirtioHeader {
    /// The header's length in bytes.
    pub const LEN: usize = VIRTIO_HEADER_LEN;

    /// The checksum field holds the pseudo header's sum; the rest is still to be added.
    pub const NEEDS_CSUM: u8 = 1;
    /// Receive segment coalescing: for virtual machines, never on a TUN.
    pub const RSC_INFO: u8 = 4;

    /// One packet as it is.
    pub const GSO_NONE: u8 = 0;
    /// TCP over IPv4.
    pub const GSO_TCPV4: u8 = 1;
    /// UDP fragmentation, which the kernel gave up in 4.14.
    pub const GSO_UDP: u8 = 3;
    /// TCP over IPv6.
    pub const GSO_TCPV6: u8 = 4;
    /// UDP segmentation, either IP version.
    pub const GSO_UDP_L4: u8 = 5;
    /// Beside a TCP type: the first segment has CWR set.
    pub const GSO_ECN: u8 = 0x80;

    /// Reads a header. Native byte order: `TUNSETVNETLE` is left alone.
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

    /// Writes a header.
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
