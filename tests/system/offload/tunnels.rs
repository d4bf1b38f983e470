//! Superpackets inside UDP tunnels, written to the kernel.

use super::*;

/// Returns a VXLAN datagram that carries segment `number` of a TCP flow.
fn vxlan(v6: bool, ttl: u8, number: u16) -> Vec<u8> {
    let shape = Shape { v6: false, ttl: 64, id: number, sequence: u32::from(number) * 1000, last: false };
    let inner = shape.tcp(&[number as u8; 1000]);
    let mut payload = vec![8, 0, 0, 0, 0, 0, 7, 0];
    payload.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    payload.extend(inner);
    let mut out = Vec::new();
    let outer = Shape { v6, ttl, id: number, ..shape };
    outer.ip().udp(40_000, 4789).write(&mut out, &payload).unwrap();
    out
}

/// The kernel cuts a superpacket that it takes, and a refused one is written in pieces: the same packets arrive.
#[test]
fn superpackets_in_tunnels_are_taken_as_the_probe_has_found_and_nothing_is_lost_otherwise() {
    in_namespace(|| {
        let (mut first, mut second) = two_devices();
        assert!(!exists("lwprobe0"), "the probe's interface is gone");
        if !first.offloads.udp_tunnel {
            skip::report(
                "superpackets in UDP tunnels: this kernel (before 6.17) has no UDP tunnel GSO on a TUN",
            );
            assert!(!first.writes_tunnels);
            return;
        }
        let writes = first.writes_tunnels;
        println!("the kernel takes superpackets in UDP tunnels: {writes}");
        let (from, to) = (&mut first.queues[0], &mut second.queues[0]);
        let limits = from.writer.limits();
        assert_eq!(limits.merges_tunnels(), writes);
        for v6 in [false, true] {
            let packets: Vec<_> = (0..20).map(|number| vxlan(v6, 64, number)).collect();
            let mut window = Window::new(limits.with_tunnels());
            for packet in &packets {
                window.push(packet);
            }
            window.flush(&mut from.writer);
            for number in 0..20 {
                assert_eq!(next(to, is_ours).1, [vxlan(v6, 63, number)], "packet {number}, v6: {v6}");
            }
            let tally = from.writer.tally().take();
            let written = tally.superpackets[SuperpacketKind::UdpTunnel as usize];
            assert_eq!((written, tally.fallbacks), if writes { (1, 0) } else { (0, 1) }, "v6: {v6}");
            assert_eq!(tally.errors.of(Errno::EINVAL), tally.fallbacks);
            assert_eq!(tally.packets, 20);
        }
        // All others are still written.
        assert!(from.writer.limits().merges() && from.writer.limits().udp_segments > 1);
    });
}
