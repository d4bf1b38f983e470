//! TCP resets (RFC 9293, section 3.10.7.1).

use super::{MAX_REJECT, ipv4_header, ipv6_header};
use crate::packet::checksum::{Sum, pseudo_header};
use crate::packet::{Flags, Ipv4, Ipv6, Tcp, ip, protocol, put_u16, put_u32};

/// Writes the reset that answers `packet`, whose TCP header is at byte `offset`. Returns the length in
/// bytes of the IP packet written.
pub(super) fn write(packet: &[u8], offset: usize, out: &mut [u8; MAX_REJECT]) -> Option<usize> {
    let answered = Tcp::new_checked(&packet[offset..])?;
    let flags = answered.flags();
    let (sequence, acknowledgement, control) = if flags.any(Flags::ACK) {
        (answered.acknowledgement(), 0, Flags::RST)
    } else {
        // Sequence space that the segment occupies. The packet is trimmed to its IP length, so the rest is
        // payload; for a superpacket it is that of all segments.
        let payload = packet.len() - offset - answered.header_len();
        let taken = payload as u32 + u32::from(flags.any(Flags::SYN)) + u32::from(flags.any(Flags::FIN));
        (0, answered.sequence().wrapping_add(taken), Flags::RST.with(Flags::ACK))
    };

    let v4 = packet[0] >> 4 == 4;
    let at = if v4 { Ipv4::MIN_HEADER } else { Ipv6::HEADER };
    let len = at + Tcp::MIN_HEADER;
    if v4 {
        ipv4_header(packet, protocol::TCP, len, out)?;
    } else {
        ipv6_header(packet, protocol::TCP, len, out)?;
    }
    let tcp = &mut out[at..len];
    tcp.fill(0);
    tcp[0..2].copy_from_slice(&packet[offset + 2..offset + 4]);
    tcp[2..4].copy_from_slice(&packet[offset..offset + 2]);
    put_u32(tcp, 4, sequence);
    put_u32(tcp, 8, acknowledgement);
    tcp[12] = (Tcp::MIN_HEADER as u8 / 4) << 4;
    tcp[13] = control.0;
    let sum = pseudo_header(ip::addresses(&out[..len])?, protocol::TCP).with_u16(Tcp::MIN_HEADER as u16);
    let sum = sum + Sum::of(&out[at..len]);
    put_u16(&mut out[at..len], Tcp::CHECKSUM, sum.checksum());
    Some(len)
}
