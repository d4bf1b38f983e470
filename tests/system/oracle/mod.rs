//! Compares what comes through a router, byte for byte, with what the kernel makes of the same superpackets, and
//! across offload settings. `LANEWAY_SEED` repeats a run.

mod device;
mod kernel;
mod merged;
mod peer;
mod random;
mod superpacket;
mod switched;
mod tunnelled;
mod wrapped;

use laneway::netns::Namespace;
use laneway::offload::SuperpacketKind;
use laneway::packet::ip;

use crate::support::require_root;
use kernel::Oracle;
use random::Random;

/// The MTU of all devices in bytes.
const MTU: usize = 1420;

#[test]
fn what_the_router_sends_and_writes_is_what_the_kernel_makes_of_it() {
    require_root!();
    let random = random();
    let namespace = Namespace::create().unwrap();
    namespace.run(|| Oracle::new(&namespace).compare(random)).unwrap();
}

#[test]
fn the_same_packets_arrive_with_each_offload_on_and_off() {
    require_root!();
    switched::compare(&mut random());
}

#[test]
fn segments_of_superpackets_in_tunnels_are_those_of_the_kernel() {
    require_root!();
    tunnelled::compare(&mut random());
}

fn random() -> Random {
    let seed = std::env::var("LANEWAY_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) ^ 0x5eed);
    println!("LANEWAY_SEED={seed}");
    Random(seed)
}

/// Returns the packets of the same flow as `one` among `packets`, in order.
fn of_flow(one: &[u8], packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let key = |packet: &[u8]| {
        let transport = ip::transport(packet).expect("a whole packet");
        (packet[0] >> 4, transport.protocol, packet[transport.offset..transport.offset + 4].to_vec())
    };
    packets.iter().filter(|packet| key(packet) == key(one)).cloned().collect()
}

fn same(found: &[Vec<u8>], expected: &[Vec<u8>], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found, expected, "segment {i} of {what}");
    }
}

/// Like [`same`], for packets in UDP tunnels. The inner TCP checksum may be either form of zero: both are right (RFC 1624),
/// and the kernel has the other one where it adjusts a checksum instead of computing it.
fn same_in_tunnel(found: &[Vec<u8>], expected: &[Vec<u8>], inner: SuperpacketKind, what: &str) {
    let is_tcp = superpacket::is_tcp(inner);
    let alike = |(found, expected): (&Vec<u8>, &Vec<u8>)| {
        let mut found = found.clone();
        let differing = found.iter().zip(expected).position(|(one, other)| one != other);
        let outer = ip::transport(expected).expect("a whole packet").offset;
        if let Some(at) = differing.filter(|at| is_tcp && *at != outer + 6)
            && let (Some(one), Some(other)) = (found.get_mut(at..at + 2), expected.get(at..at + 2))
            && [(&[0, 0][..], &[0xff, 0xff][..]), (&[0xff, 0xff], &[0, 0])].contains(&(&*one, other))
        {
            one.copy_from_slice(other);
        }
        found
    };
    assert_eq!(found.len(), expected.len(), "{what}");
    let found: Vec<_> = found.iter().zip(expected).map(alike).collect();
    same(&found, expected, what);
}
