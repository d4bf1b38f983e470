//! Flow keys and flow hashes. The inbound path selects the lane that writes a packet by its hash;
//! coalescing finds the chain of a packet by its key.

use super::{Ipv4, Ipv6, ip, protocol};

/// Identity of a flow: IP version, protocol, addresses and ports, packed into five words for fast
/// comparison. The default key differs from the key of any packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowKey {
    /// Ports, protocol and IP version. Ports and protocol are zero if the packet has no ports.
    ports: u64,
    addresses: [u64; 4],
}

impl FlowKey {
    /// Returns the key of `packet`, or `None` if it has no complete IP header. `transport` is the result of
    /// [`ip::transport`] for the packet.
    ///
    /// The key of a fragment, and of a packet that is neither TCP nor UDP, has only IP version and
    /// addresses: later fragments have no ports, and all fragments of a packet must have the same key.
    #[inline]
    pub fn new(packet: &[u8], transport: Option<ip::Transport>) -> Option<FlowKey> {
        let mut addresses = [0; 4];
        let version = packet.first()? >> 4;
        if version == 4 {
            Ipv4::new_checked(packet)?;
            addresses[0] = word(&packet[Ipv4::ADDRESSES]);
        } else {
            Ipv6::new_checked(packet)?;
            for (address, bytes) in addresses.iter_mut().zip(packet[Ipv6::ADDRESSES].as_chunks::<8>().0) {
                *address = u64::from_ne_bytes(*bytes);
            }
        }
        let mut ports = u64::from(version);
        if let Some(transport) = transport
            && matches!(transport.protocol, protocol::TCP | protocol::UDP)
            && !transport.fragment
            && let Some(bytes) = packet.get(transport.offset..).and_then(<[u8]>::first_chunk::<4>)
        {
            ports |= u64::from(transport.protocol) << 8 | u64::from(u32::from_ne_bytes(*bytes)) << 32;
        }
        Some(FlowKey { ports, addresses })
    }

    /// Returns whether both keys have the same IP version, source address and destination address.
    #[inline]
    pub fn same_addresses(&self, other: &FlowKey) -> bool {
        self.addresses == other.addresses && self.ports as u8 == other.ports as u8
    }

    /// Returns a well-mixed hash. It is not keyed: a sender that chooses addresses and ports can direct
    /// flows to one lane, as with the kernel's receive hashing.
    #[inline]
    pub fn hash(&self) -> u32 {
        let mixed = self.addresses.iter().fold(self.ports, |hash, word| mix(hash, *word));
        (mixed >> 32) as u32 ^ mixed as u32
    }
}

/// Returns which of `lanes` lanes writes `packet`. All packets of a flow have the same lane. Fragments, and
/// packets whose transport header cannot be parsed, are assigned by addresses alone; packets without a
/// complete IP header have lane 0.
///
/// # Panics
/// Panics if `lanes` is zero.
#[inline]
pub fn lane_of(packet: &[u8], lanes: usize) -> usize {
    if lanes == 1 {
        return 0;
    }
    flow_hash(packet) as usize % lanes
}

/// Returns the hash of a packet's flow; zero without a complete IP header.
#[inline]
pub(crate) fn flow_hash(packet: &[u8]) -> u32 {
    FlowKey::new(packet, ip::transport(packet)).map_or(0, |key| key.hash())
}

fn word(bytes: &[u8]) -> u64 {
    bytes.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}

/// A folded 64 by 64 bit multiplication. The constants, fractional bits of the square roots of 2 and 3,
/// prevent zero inputs from giving zero.
#[inline]
fn mix(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ 0x6a09_e667_f3bc_c908) * u128::from(b ^ 0xbb67_ae85_84ca_a73b);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;

    fn udp(source: [u8; 4], port: u16) -> Vec<u8> {
        let mut out = Vec::new();
        PacketBuilder::ipv4(source, [10, 0, 0, 2], 64).udp(port, 53).write(&mut out, b"payload").unwrap();
        out
    }

    #[test]
    fn one_flow_has_one_hash_whatever_else_differs() {
        let a = udp([10, 0, 0, 1], 5000);
        let mut b = a.clone();
        b[1] = 0xff;
        b[8] = 1;
        *b.last_mut().unwrap() = 0;
        assert_eq!(flow_hash(&a), flow_hash(&b));
        assert_ne!(flow_hash(&a), flow_hash(&udp([10, 0, 0, 1], 5001)));
        assert_ne!(flow_hash(&a), flow_hash(&udp([10, 0, 0, 3], 5000)));
    }

    #[test]
    fn all_fragments_of_a_packet_have_the_same_lane() {
        let mut first = udp([10, 0, 0, 1], 5000);
        first[6] = 0x20;
        let mut second = udp([10, 0, 0, 1], 0x1111);
        second[7] = 9;
        assert_eq!(flow_hash(&first), flow_hash(&second));
    }

    #[test]
    fn flows_spread_evenly_over_lanes() {
        for lanes in 1..=8 {
            let mut flows = vec![0; lanes];
            for port in 0..4000u16 {
                flows[lane_of(&udp([10, 0, 0, 1], port), lanes)] += 1;
            }
            let even = 4000 / lanes;
            assert!(flows.iter().all(|n| (even * 4 / 5..even * 6 / 5 + 1).contains(n)), "{flows:?}");
        }
    }

    #[test]
    fn bytes_that_are_not_a_packet_hash_too() {
        assert_eq!(flow_hash(&[]), 0);
        assert_eq!(flow_hash(&[0x45; 19]), 0);
        let cut = &udp([10, 0, 0, 1], 5000)[..22];
        assert_eq!(flow_hash(cut), flow_hash(&udp([10, 0, 0, 1], 5000)[..20]));
    }
}
