//! Compares the kernel's segments of superpackets inside UDP tunnels that were merged here with the datagrams that they
//! were merged from.
//!
//! ```text
//! superpacket ─ TAP "feed" ─ kernel ─ "under" without offloads ─ datagrams ─┬─────────────── compared
//!                                                                           └─ Window ─ assemble_tunnel
//!                                                              ─ TAP "feed" ─ kernel ─ "under" ─┘
//! ```
//!
//! Not a TUN: Linux 6.18 refuses superpackets in tunnels without an Ethernet header.

use std::fs::File;

use laneway::offload::{
    CAPACITY, CloseReason, Coalesced, Limits, Sink, SuperpacketKind, VirtioHeader, Window, assemble_tunnel,
};

use super::kernel::one_hop_later;
use super::random::Random;
use super::same_in_tunnel;
use super::tunnelled::read_unchanged;
use super::wrapped::{FEED, Path, Tunnel, Wrap};

/// The number of superpackets for each encapsulation, and at most, if none of them could be merged. With long headers, few
/// can.
const CASES: usize = 24;
const MOST_CASES: usize = 20 * CASES;

const WRAPS: [Wrap; 5] =
    [Wrap::VxlanTagged(0), Wrap::VxlanTagged(1), Wrap::Geneve(0), Wrap::Geneve(12), Wrap::Geneve(60)];

/// Length of an Ethernet header in bytes.
const ETHERNET: usize = 14;

/// Compares `CASES` superpackets or more in each kind of tunnel. The kernel must have UDP tunnel GSO.
pub(super) fn compare(random: &mut Random) {
    let mut path = Path::open(false);
    let (mut merged, mut segments, mut total) = (0, 0, 0);
    for wrap in WRAPS {
        for (outer6, checksum) in [(false, false), (false, true), (true, false), (true, true)] {
            let tunnel = Tunnel { wrap, outer6, checksum };
            let before = merged;
            for number in 0..MOST_CASES {
                if number >= CASES && merged > before {
                    break;
                }
                let (case, frame) = tunnel.case(random, number);
                let what = format!("{tunnel:?}, case {number}: {case:?}");
                write(&path.feed, &frame, &what);
                let datagrams = read_unchanged(&mut path.under, case.segments(), &what).0;

                let mut tap = Tap { feed: &path.feed, superpackets: 0, segments: 0, what: &what };
                for packets in datagrams.chunks(CAPACITY) {
                    let mut window =
                        Window::new(Limits { fill_checksums: true, ..Limits::SAFE.with_tunnels() });
                    for packet in packets {
                        window.push(packet);
                    }
                    window.flush(&mut tap);
                }
                (merged, segments) = (merged + tap.superpackets, segments + tap.segments);
                let expected: Vec<_> = datagrams.iter().cloned().map(one_hop_later).collect();
                let found = read_unchanged(&mut path.under, expected.len(), &what).0;
                same_in_tunnel(&found, &expected, case.kind, &what);
                total += found.len();
            }
            assert!(merged > before, "no superpacket was merged in {tunnel:?}");
        }
    }
    println!(
        "{merged} superpackets merged from {segments} of {total} datagrams in tunnels come out as they went in"
    );
}

/// Writes superpackets inside tunnels to a TAP, and everything else packet by packet.
struct Tap<'p> {
    feed: &'p File,
    superpackets: usize,
    segments: usize,
    what: &'p str,
}

impl Tap<'_> {
    fn write(&self, header: VirtioHeader, packet: &[u8]) {
        let ether_type = if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [0x08, 0x00] };
        let ethernet = [&FEED[..], &[2, 0, 0, 0, 0, 9], &ether_type].concat();
        write(self.feed, &[&header.encode_long()[..], &ethernet, packet].concat(), self.what);
    }
}

impl Sink for Tap<'_> {
    fn packet(&mut self, packet: &[u8]) {
        self.write(VirtioHeader::default(), packet);
    }

    fn superpacket(&mut self, superpacket: &Coalesced<'_, '_>) {
        if superpacket.kind() != SuperpacketKind::UdpTunnel {
            for packet in superpacket.packets() {
                self.packet(packet);
            }
            return;
        }
        self.superpackets += 1;
        self.segments += superpacket.segments();
        let mut frame = vec![0; VirtioHeader::LONG + 65_535];
        let (header, payloads) = (superpacket.header(), superpacket.payloads());
        let len = assemble_tunnel(&mut frame, header, superpacket.inner(), payloads, superpacket.gso_size())
            .unwrap();
        let header = VirtioHeader::decode_long(frame.first_chunk().unwrap());
        // The offsets of a TAP count from the Ethernet header.
        let behind = |offset: u16| offset + ETHERNET as u16;
        let header = VirtioHeader {
            hdr_len: behind(header.hdr_len),
            csum_start: behind(header.csum_start),
            outer_transport: behind(header.outer_transport),
            inner_network: behind(header.inner_network),
            ..header
        };
        self.write(header, &frame[VirtioHeader::LONG..len]);
    }

    fn closed(&mut self, _: CloseReason) {}
}

fn write(feed: &File, frame: &[u8], what: &str) {
    assert_eq!(nix::unistd::write(feed, frame), Ok(frame.len()), "the kernel refused a frame: {what}");
}
