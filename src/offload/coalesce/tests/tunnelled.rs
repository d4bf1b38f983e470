//! TCP in VXLAN and Geneve. The collector checks that cutting each superpacket inside a tunnel gives back its datagrams
//! byte for byte, identifications included.

use super::*;

mod random;

const LIMITS: Limits = Limits { fill_checksums: true, ..Limits::SAFE.with_tunnels() };

/// Payload bytes of a segment.
const SEGMENT: usize = 100;

/// How a TCP flow is encapsulated.
#[derive(Clone, Debug)]
struct Overlay {
    outer: Build,
    inner: Build,
    /// Bytes of Geneve options; VXLAN if there is no number.
    geneve: Option<usize>,
    vlan_tags: usize,
    checksum: bool,
}

impl Overlay {
    fn new(outer6: bool, inner6: bool) -> Overlay {
        Overlay {
            outer: Build { v6: outer6, id: 0xfffe, ports: (50_000, 4789), ..Build::default() },
            inner: Build { v6: inner6, id: 0xffff, sequence: u32::MAX - 150, ..Build::default() },
            geneve: None,
            vlan_tags: 0,
            checksum: false,
        }
    }

    fn with_geneve(self, options: usize) -> Overlay {
        let outer = Build { ports: (50_000, 6081), ..self.outer };
        Overlay { geneve: Some(options), outer, ..self }
    }

    /// Every combination of versions, encapsulations and outer checksum.
    fn all() -> Vec<Overlay> {
        let mut all = Vec::new();
        for number in 0..8 {
            let bit = |bit: usize| number >> bit & 1 == 1;
            let vxlan = Overlay { checksum: bit(2), ..Overlay::new(bit(0), bit(1)) };
            let mut flannel = vxlan.clone();
            flannel.outer.ports.1 = 8472;
            all.extend([vxlan.clone().with_geneve(0), vxlan.clone().with_geneve(16), flannel]);
            all.push(Overlay { vlan_tags: 1, ..vxlan.clone() });
            all.push(vxlan);
        }
        all
    }

    /// Returns what is between outer UDP and inner IP.
    fn encapsulation(&self) -> Vec<u8> {
        let mut bytes = match self.geneve {
            None => vec![8, 0, 0, 0, 0, 0, 7, 0],
            Some(options) => {
                let mut bytes = vec![(options / 4) as u8, 0x40, 0x65, 0x58, 0, 0, 7, 0];
                bytes.extend((0..options).map(|at| at as u8));
                bytes
            }
        };
        bytes.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
        bytes.extend([0x81, 0, 0, 9].repeat(self.vlan_tags));
        bytes.extend(if self.inner.v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
        bytes
    }

    /// Returns the offset of the inner IP header in bytes.
    fn network(&self) -> usize {
        self.outer.transport() + 8 + self.encapsulation().len()
    }

    /// Returns the datagram around `inner`, the packet with this `number`.
    fn around(&self, number: u32, inner: &[u8]) -> Vec<u8> {
        let payload = [self.encapsulation(), inner.to_vec()].concat();
        let id = self.outer.id.wrapping_add(number as u16);
        let mut packet = Build { id, payload, ..self.outer.clone() }.udp();
        if !self.checksum {
            let at = self.outer.transport() + 6;
            packet[at..at + 2].fill(0);
        }
        packet
    }

    /// Returns the datagram with segment `number` of `len` bytes, of which those before have [`SEGMENT`].
    fn segment(&self, number: u32, len: usize) -> Vec<u8> {
        self.with(number, |build| *build = build.clone().payload(len))
    }

    /// Returns the datagram with segment `number`, whose inner packet has this change.
    fn with(&self, number: u32, change: impl Fn(&mut Build)) -> Vec<u8> {
        let sequence = self.inner.sequence.wrapping_add(number * SEGMENT as u32);
        let id = self.inner.id.wrapping_add(number as u16);
        let mut inner = Build { id, sequence, ..self.inner.clone() }.payload(SEGMENT);
        change(&mut inner);
        self.around(number, &inner.tcp())
    }

    fn datagram(&self, number: u32) -> Vec<u8> {
        self.segment(number, SEGMENT)
    }
}

fn kinds_of(packets: &[Vec<u8>]) -> Vec<SuperpacketKind> {
    let written = coalesce_within(LIMITS, packets);
    assert_eq!(written.writes.concat(), packets);
    written.kinds
}

#[test]
fn segments_of_every_overlay_become_one_superpacket_inside_a_tunnel() {
    for overlay in Overlay::all() {
        let mut packets: Vec<_> = (0..4).map(|number| overlay.datagram(number)).collect();
        packets.push(overlay.with(4, |build| {
            build.payload.truncate(7);
            build.flags = Flags::ACK.with(Flags::PSH);
        }));
        let written = coalesce_within(LIMITS, &packets);
        assert_eq!(written.writes, [packets.clone()], "{overlay:?}");
        assert_eq!(written.kinds, [SuperpacketKind::UdpTunnel]);
        assert_eq!(written.closes, [CloseReason::Push]);

        let options = |number| overlay.with(number, |build| build.tcp_options = vec![1; 12]);
        assert_eq!(kinds_of(&[options(0), options(1)]), [SuperpacketKind::UdpTunnel]);

        // Where the kernel does not take them, they are merged as UDP.
        let udp = Limits { fill_checksums: overlay.checksum, ..Limits::SAFE };
        let written = coalesce_within(udp, &packets[..4]);
        assert!(!written.kinds.contains(&SuperpacketKind::UdpTunnel));
        assert_eq!(written.kinds.len(), if overlay.checksum { 1 } else { 4 });
    }
}

#[test]
fn the_limits_hold_for_headers_and_segments_together() {
    let overlay = Overlay::new(false, false);
    let packets: Vec<_> = (0..65).map(|number| overlay.datagram(number)).collect();
    assert_eq!(coalesce_within(LIMITS, &packets).writes.iter().map(Vec::len).collect::<Vec<_>>(), [64, 1]);
    let long = |number: u32| {
        overlay.with(number, |build| {
            build.sequence = number * 9000;
            *build = build.clone().payload(9000);
        })
    };
    let packets: Vec<_> = (0..8).map(long).collect();
    assert_eq!(coalesce_within(LIMITS, &packets).writes.iter().map(Vec::len).collect::<Vec<_>>(), [7, 1]);
}

#[test]
fn a_switched_off_merge_of_datagrams_without_checksum_is_obeyed() {
    let overlay = Overlay::new(false, false);
    let packets = [overlay.datagram(0), overlay.datagram(1)];
    let limits = Limits { fill_checksums: false, ..LIMITS };
    assert_eq!(coalesce_within(limits, &packets).kinds, [SuperpacketKind::None; 2]);
    let sums = Overlay { checksum: true, ..overlay };
    let packets = [sums.datagram(0), sums.datagram(1)];
    assert_eq!(coalesce_within(limits, &packets).kinds, [SuperpacketKind::UdpTunnel]);
}

#[test]
fn segments_whose_headers_differ_are_not_merged() {
    type Change<'a> = &'a dyn Fn(&mut Build);
    let changes: [(&str, Change<'_>); 12] = [
        ("sequence", &|b| b.sequence += 1),
        ("earlier sequence", &|b| b.sequence = b.sequence.wrapping_sub(SEGMENT as u32)),
        ("acknowledgement", &|b| b.acknowledgement += 1),
        ("window", &|b| b.window += 1),
        ("flags", &|b| b.flags = Flags::ACK.with(Flags::ECE)),
        ("options", &|b| b.tcp_options = vec![1; 4]),
        ("source port", &|b| b.ports.0 += 1),
        ("destination port", &|b| b.ports.1 += 1),
        ("hop limit", &|b| b.ttl -= 1),
        ("traffic class", &|b| b.tos = 3),
        ("length", &|b| *b = b.clone().payload(SEGMENT + 1)),
        ("identification, or flow label", &|b| (b.id, b.flow_label) = (b.id.wrapping_add(1), 9)),
    ];
    for overlay in Overlay::all() {
        for (what, change) in changes {
            let packets = [overlay.datagram(0), overlay.with(1, change)];
            assert_eq!(kinds_of(&packets), [SuperpacketKind::None; 2], "{what} in {overlay:?}");
        }
        // Fields of the outer headers.
        for change in [
            &|b: &mut Build| b.ttl -= 1,
            &|b: &mut Build| b.tos = 3,
            &|b: &mut Build| (b.id, b.flow_label) = (b.id.wrapping_add(1), 9),
            &|b: &mut Build| b.ports.0 -= 1,
        ] as [Change<'_>; 4]
        {
            let mut other = overlay.clone();
            change(&mut other.outer);
            let packets = [overlay.datagram(0), other.datagram(1)];
            assert_eq!(kinds_of(&packets), [SuperpacketKind::None; 2], "{other:?}");
        }
        let other = Overlay { checksum: !overlay.checksum, ..overlay.clone() };
        assert_eq!(kinds_of(&[overlay.datagram(0), other.datagram(1)]), [SuperpacketKind::None; 2]);
        let other = Overlay { vlan_tags: 2, ..overlay.clone() };
        assert_eq!(kinds_of(&[overlay.datagram(0), other.datagram(1)]), [SuperpacketKind::None; 2]);
    }
}

#[test]
fn identifications_count_up_also_if_fragmenting_is_forbidden() {
    for (outer, inner) in [(true, false), (false, true), (true, true)] {
        let mut overlay = Overlay::new(false, false);
        (overlay.outer.dont_fragment, overlay.inner.dont_fragment) = (outer, inner);
        assert_eq!(kinds_of(&[overlay.datagram(0), overlay.datagram(1)]), [SuperpacketKind::UdpTunnel]);
        let same = overlay.with(1, |build| build.id = overlay.inner.id);
        assert_eq!(kinds_of(&[overlay.datagram(0), same]), [SuperpacketKind::None; 2]);
        overlay.outer.id = 7;
        let mut other = overlay.clone();
        other.outer.id = 6;
        assert_eq!(kinds_of(&[overlay.datagram(0), other.datagram(1)]), [SuperpacketKind::None; 2]);
    }
}

/// Bytes that no checksum covers if the outer one is missing, and swaps that no checksum notices.
#[test]
fn a_difference_anywhere_between_the_ip_headers_is_noticed() {
    for overlay in Overlay::all().into_iter().filter(|overlay| !overlay.checksum) {
        let headers = overlay.outer.transport() + 8..overlay.network();
        for at in headers {
            let mut other = overlay.datagram(1);
            other[at] ^= 1;
            let kinds = kinds_of(&[overlay.datagram(0), other]);
            assert!(!kinds.contains(&SuperpacketKind::UdpTunnel), "byte {at} of {overlay:?}");
        }
        let mut swapped = overlay.datagram(1);
        let (at, len) = if overlay.inner.v6 { (8, 16) } else { (12, 4) };
        let addresses = overlay.network() + at;
        let (source, destination) = swapped[addresses..addresses + 2 * len].split_at_mut(len);
        source.swap_with_slice(destination);
        assert_eq!(kinds_of(&[overlay.datagram(0), swapped]), [SuperpacketKind::None; 2]);
    }
}

#[test]
fn what_is_no_mergeable_tcp_in_ethernet_is_merged_as_udp_or_not_at_all() {
    for overlay in Overlay::all() {
        let never = |what: &str, packet: &dyn Fn(u32) -> Vec<u8>| {
            let kinds = kinds_of(&[packet(0), packet(1), packet(2)]);
            assert!(!kinds.contains(&SuperpacketKind::UdpTunnel), "{what} in {overlay:?}");
        };
        never("UDP", &|number| overlay.around(number, &overlay.inner.clone().payload(SEGMENT).udp()));
        never("a pure ACK", &|number| overlay.with(number, |build| build.payload.clear()));
        for flag in [Flags::SYN, Flags::FIN, Flags::RST, Flags::URG, Flags::CWR] {
            never("a flag", &|number| overlay.with(number, |build| build.flags = Flags::ACK.with(flag)));
        }
        never("no ACK", &|number| overlay.with(number, |build| build.flags = Flags(0)));
        let options = if overlay.inner.v6 { vec![6, 0, 1, 4, 0, 0, 0, 0] } else { vec![1; 4] };
        never("IP options", &|number| overlay.with(number, |build| build.ip_options = options.clone()));
        never("trailing bytes", &|number| {
            let mut inner = overlay.inner.clone();
            inner.sequence = inner.sequence.wrapping_add(number * SEGMENT as u32);
            overlay.around(number, &[inner.payload(SEGMENT).tcp(), vec![0; 4]].concat())
        });
        let edited = |at: usize, value: u8| {
            let overlay = Overlay { checksum: false, ..overlay.clone() };
            move |number: u32| {
                let mut packet = overlay.datagram(number);
                packet[overlay.outer.transport() + 8 + at] = value;
                packet
            }
        };
        let ether_type = overlay.encapsulation().len() - 1;
        never("ARP", &edited(ether_type, 6));
        if overlay.geneve.is_some() {
            never("another version", &edited(0, 0x40));
            never("options beyond the packet", &edited(0, 0x3f));
            never("a control message", &edited(1, 0x80));
            never("another protocol", &edited(3, 0));
        } else {
            never("VXLAN-GPE", &edited(0, 0x0c));
            never("no network identifier", &edited(0, 0));
            never("remote checksum offload", &edited(1, 0x20));
        }
        if !overlay.inner.v6 {
            never("a fragment", &|number| {
                let mut packet = overlay.datagram(number);
                packet[overlay.network() + 6] = 0x20;
                packet
            });
        }
        let other =
            Overlay { outer: Build { ports: (50_000, 4790), ..overlay.outer.clone() }, ..overlay.clone() };
        never("another port", &|number| other.datagram(number));
        never("headers of more than 192 bytes", &|number| {
            Overlay { checksum: true, ..overlay.clone() }.with_geneve(112).datagram(number)
        });
        let tags = Overlay { vlan_tags: 3, ..overlay.clone() };
        never("three VLAN tags", &|number| tags.datagram(number));
        for cut in 0..120 {
            // The outer lengths are right, and the rest is missing.
            let inner = overlay.inner.clone().payload(0).tcp();
            never("a short packet", &|_| {
                let datagram = overlay.around(0, &inner);
                let payload = &datagram[overlay.outer.transport() + 8..];
                let payload = payload[..cut.min(payload.len())].to_vec();
                Build { payload, ..overlay.outer.clone() }.udp()
            });
        }
    }
}

/// Zero has two notations, both of them correct. Segmentation would turn one into the other.
#[test]
fn a_checksum_of_negative_zero_is_kept() {
    // Moves one word's value into another, without a change to the sum of all words.
    let sum = |one: u16, other: u16| {
        let sum = u32::from(one) + u32::from(other);
        (sum + (sum >> 16)) as u16
    };
    let check = |overlay: &Overlay, mut first: Vec<u8>, at: usize| {
        assert_eq!(first[at..at + 2], [0; 2], "byte {at} of {overlay:?}");
        let merged = kinds_of(&[first.clone(), overlay.datagram(1)]);
        assert_eq!(merged, [SuperpacketKind::UdpTunnel], "byte {at} of {overlay:?}");
        first[at..at + 2].fill(0xff);
        let kept = kinds_of(&[first, overlay.datagram(1)]);
        assert!(!kept.contains(&SuperpacketKind::UdpTunnel), "byte {at} of {overlay:?}");
    };
    for overlay in Overlay::all().into_iter().filter(|overlay| !overlay.checksum) {
        let network = overlay.network();
        let mut packet = overlay.datagram(0);
        let word = |packet: &[u8], at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
        let (checksum, last) = (network + overlay.inner.transport() + 16, packet.len() - 2);
        let moved = sum(word(&packet, checksum), word(&packet, last));
        packet[last..].copy_from_slice(&moved.to_be_bytes());
        packet[checksum..checksum + 2].fill(0);
        check(&overlay, packet, checksum);
        if !overlay.inner.v6 {
            let mut overlay = overlay.clone();
            overlay.inner.id = sum(overlay.inner.id, word(&overlay.datagram(0), network + 10));
            check(&overlay, overlay.datagram(0), network + 10);
        }
        if !overlay.outer.v6 {
            let mut overlay = overlay.clone();
            overlay.outer.id = sum(overlay.outer.id, word(&overlay.datagram(0), 10));
            check(&overlay, overlay.datagram(0), 10);
        }
    }
}

#[test]
fn a_wrong_checksum_is_never_repaired_in_a_tunnel() {
    for overlay in Overlay::all() {
        let network = overlay.network();
        let mut places =
            vec![network + overlay.inner.transport() + 16, network + overlay.inner.transport() + 30];
        if overlay.checksum {
            places.push(overlay.outer.transport() + 6);
        }
        if !overlay.inner.v6 {
            places.push(network + 10);
        }
        for at in places {
            for wrong in 0..3 {
                let mut packets = [overlay.datagram(0), overlay.datagram(1), overlay.datagram(2)];
                packets[wrong][at] ^= 0x10;
                let written = coalesce_within(LIMITS, &packets);
                assert_eq!(written.writes.concat(), packets);
                let with = written.writes.iter().find(|write| write.contains(&packets[wrong])).unwrap();
                assert_eq!(with.len(), 1, "byte {at} of packet {wrong} in {overlay:?}");
            }
        }
    }
}

#[test]
fn other_datagrams_of_the_outer_flow_keep_their_place() {
    use SuperpacketKind::{None, UdpTunnel, Uso4};
    let overlay = Overlay { checksum: true, ..Overlay::new(false, false) };
    let segment = |number| overlay.datagram(number);
    let ack = |number| overlay.with(number, |build| build.payload.clear());
    let packets = [segment(0), segment(1), ack(2), ack(3), segment(4), segment(5), ack(6)];
    assert_eq!(kinds_of(&packets), [UdpTunnel, Uso4, UdpTunnel, None]);
    // Without checksums, too: those that become UDP superpackets get one.
    let bare = Overlay { checksum: false, ..overlay };
    let packets = [bare.datagram(0), bare.datagram(1), bare.with(2, |build| build.payload.clear())];
    assert_eq!(kinds_of(&packets), [UdpTunnel, None]);
}
