//! Control messages and names of received messages, as the kernel fills them in.

use crate::underlay::{Ancillary, decode_control, decode_name, encode_source, stride};

/// Decodes a control message buffer and a socket address. The first two bytes are the length of a message.
///
/// # Panics
/// If the stride cuts a message into other datagrams than the kernel can have grouped, or a source address is not one
/// to send from, or does not survive a round trip.
pub fn control(bytes: &[u8]) {
    let (len, rest) = bytes.split_at(bytes.len().min(2));
    let len = len.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
    let Ancillary { gro_size, source, .. } = decode_control(rest);
    let stride = stride(len, gro_size);
    assert!(stride > 0 && stride <= len.max(1));
    if stride != len.max(1) {
        assert_eq!(i32::try_from(stride).ok(), gro_size, "a stride that the kernel did not say");
    }
    if let Some(source) = source {
        assert!(!source.ip.is_unspecified() && !source.ip.is_multicast());
        // What is sent back is read in the same way. Only link-local addresses keep their interface.
        let again = decode_control(&encode_source(source));
        assert_eq!(again.gro_size, None);
        assert_eq!(again.source.map(|again| again.ip), Some(source.ip));
    }
    if let Some(address) = decode_name(rest) {
        assert!(rest.len() >= 8, "{address} was read from too few bytes");
    }
}
