//! Packets with a number, by which the oracle knows them again.

use std::net::{IpAddr, Ipv4Addr};

/// Returns a packet with this number. Without a source it comes from the TUN.
pub(super) fn packet(from: Option<IpAddr>, to: IpAddr, number: usize) -> Vec<u8> {
    let number = (number as u32).to_be_bytes();
    match to {
        IpAddr::V4(to) => {
            let from = match from {
                Some(IpAddr::V4(from)) => from,
                _ => Ipv4Addr::new(10, 200, 0, 1),
            };
            let len = 20 + number.len() as u8;
            // Protocol 253 is for experiments (RFC 3692).
            let header = [0x45, 0, 0, len, 0, 0, 0, 0, 64, 253, 0, 0];
            [&header[..], &from.octets(), &to.octets(), &number].concat()
        }
        IpAddr::V6(to) => {
            let from = match from {
                Some(IpAddr::V6(from)) => from.octets(),
                _ => [0xfc; 16],
            };
            let header = [0x60, 0, 0, 0, 0, number.len() as u8, 253, 64];
            [&header[..], &from, &to.octets(), &number].concat()
        }
    }
}

/// Returns the number of a packet.
pub(super) fn mark(packet: &[u8]) -> usize {
    u32::from_be_bytes(*packet.last_chunk().expect("a packet has a number")) as usize
}
