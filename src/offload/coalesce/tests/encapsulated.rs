//! Datagrams of known encapsulations, which may lack a checksum.

use super::*;

/// Collects the segments of each superpacket, and all other packets as they are.
#[derive(Default)]
struct Segments(Vec<Vec<Vec<u8>>>);

impl Sink for Segments {
    fn packet(&mut self, packet: &[u8]) {
        self.0.push(vec![packet.to_vec()]);
    }

    fn superpacket(&mut self, superpacket: &Coalesced<'_, '_>) {
        self.0.push(cut_again(superpacket));
    }

    fn closed(&mut self, _: CloseReason) {}
}

#[test]
fn datagrams_of_encapsulations_get_the_checksum_that_they_lack() {
    for v6 in [false, true] {
        for (port, fill, writes) in [(4789, true, 1), (8472, true, 1), (4789, false, 3), (4788, true, 3)] {
            let build = |n: u16| {
                let build = Build { v6, id: 100 + n, ports: (40_000, port), ..Build::default() };
                build.payload(100).udp()
            };
            let right: Vec<_> = (0..3).map(build).collect();
            let mut bare = right.clone();
            let checksum = if v6 { 46 } else { 26 };
            for packet in &mut bare {
                packet[checksum..checksum + 2].fill(0);
            }
            let mut segments = Segments::default();
            let mut window = Window::new(Limits { fill_checksums: fill, ..Limits::SAFE });
            for packet in &bare {
                window.push(packet);
            }
            window.flush(&mut segments);
            assert_eq!(segments.0.len(), writes, "port {port}, fill {fill}");
            let expected = if writes == 1 { &right } else { &bare };
            assert_eq!(&segments.0.concat(), expected);
        }
    }
}

#[test]
fn datagrams_with_and_without_checksum_do_not_merge() {
    let packet = |n: u16| Build { id: 100 + n, ports: (40_000, 4789), ..Build::default() }.payload(100).udp();
    let mut packets: Vec<_> = (0..3).map(packet).collect();
    packets[1][26..28].fill(0);
    let collector = coalesce_within(Limits { fill_checksums: true, ..Limits::SAFE }, &packets);
    assert_eq!(collector.writes.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1, 1]);
}
