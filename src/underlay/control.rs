//! Control messages: encoding and decoding of GSO size, GRO size, traffic class and packet info.
//!
//! The layout is the kernel's `struct cmsghdr` (`include/linux/socket.h`): a `size_t` length that
//! includes the header, an `int` level, an `int` type, then the data. Each message is padded to a
//! multiple of `size_t`.
//!
//! A dual-stack socket needs only `IPV6_PKTINFO`: the kernel reports the local address of an IPv4
//! datagram as v4-mapped (`ip6_datagram_recv_common_ctl`), and accepts it on a send to a v4-mapped
//! destination (`ip_cmsg_send`).

use std::net::{IpAddr, Ipv4Addr};

use arrayvec::ArrayVec;

use super::endpoint::LocalSource;
use super::name::Family;
use crate::sys::udp::CONTROL_SPACE;

const WORD: usize = size_of::<usize>();
const HEADER: usize = WORD + 2 * size_of::<libc::c_int>();

/// The encoded control messages of one send.
pub(crate) type Control = ArrayVec<u8, CONTROL_SPACE>;

/// Encodes the control messages of one send to `to`: split the payload every `segment` bytes (GSO), set
/// the traffic class of the IP headers, and send from `source`.
///
/// Class 0 needs no message, as it is every socket's default. For a v4-mapped destination the kernel takes
/// `IP_TOS` and ignores `IPV6_TCLASS` (`udpv6_sendmsg` calls `udp_sendmsg`).
pub(super) fn encode(
    family: Family,
    to: IpAddr,
    segment: Option<u16>,
    class: u8,
    source: Option<LocalSource>,
) -> Control {
    let mut control = Control::new();
    if class != 0 {
        let (level, kind) =
            if to.is_ipv4() { (libc::SOL_IP, libc::IP_TOS) } else { (libc::SOL_IPV6, libc::IPV6_TCLASS) };
        put(&mut control, level, kind, &[&libc::c_int::from(class).to_ne_bytes()]);
    }
    if let Some(size) = segment {
        put(&mut control, libc::SOL_UDP, libc::UDP_SEGMENT, &[&size.to_ne_bytes()]);
    }
    match (family, source.map(|source| source.ip)) {
        (Family::V4, Some(IpAddr::V4(ip))) => {
            // struct in_pktinfo: interface, source address to use, destination (ignored on a send).
            put(&mut control, libc::SOL_IP, libc::IP_PKTINFO, &[&[0; 4], &ip.octets(), &[0; 4]]);
        }
        (Family::Dual, Some(ip)) => {
            let ip = match ip {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            let ifindex = source.map_or(0, |s| if ip.is_unicast_link_local() { s.ifindex } else { 0 });
            // struct in6_pktinfo: address, interface.
            let parts: [&[u8]; 2] = [&ip.octets(), &ifindex.to_ne_bytes()];
            put(&mut control, libc::SOL_IPV6, libc::IPV6_PKTINFO, &parts);
        }
        (Family::V4, Some(IpAddr::V6(_))) | (_, None) => {}
    }
    control
}

/// Encodes the control message of a dual-stack socket that sends from `source`.
#[cfg(any(test, fuzzing))]
pub(crate) fn encode_source(source: LocalSource) -> Control {
    encode(Family::Dual, source.ip, None, 0, Some(source))
}

/// Decoded control messages of one receive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ancillary {
    /// Bytes of each datagram according to GRO, unvalidated.
    pub(crate) gro_size: Option<i32>,
    /// The local address to reply from.
    pub(crate) source: Option<LocalSource>,
    /// The traffic class of the IP header; 0 if it was not reported.
    pub(super) class: u8,
}

/// Decodes the control messages of one receive. Skips unknown messages and stops at a malformed one.
pub(crate) fn decode(mut control: &[u8]) -> Ancillary {
    let mut found = Ancillary::default();
    while let Some((Cmsg { level, kind, data }, rest)) = split_message(control) {
        match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                found.gro_size = data.first_chunk().copied().map(i32::from_ne_bytes);
            }
            // One byte on receipt, unlike on a send (`ip_cmsg_recv_tos`).
            (libc::SOL_IP, libc::IP_TOS) => found.class = data.first().copied().unwrap_or(0),
            (libc::SOL_IPV6, libc::IPV6_TCLASS) => {
                found.class = data.first_chunk().map_or(0, |int| u32::from_ne_bytes(*int) as u8);
            }
            (libc::SOL_IP, libc::IP_PKTINFO) => found.source = ipv4_source(data),
            (libc::SOL_IPV6, libc::IPV6_PKTINFO) => found.source = ipv6_source(data),
            _ => {}
        }
        control = rest;
    }
    found
}

/// Reads the local address from a `struct in_pktinfo`: of its two addresses, the one to reply from.
fn ipv4_source(data: &[u8]) -> Option<LocalSource> {
    let (ifindex, data) = data.split_first_chunk::<4>()?;
    let octets: [u8; 4] = *data.first_chunk()?;
    local_source(Ipv4Addr::from(octets).into(), *ifindex)
}

/// Reads the local address from a `struct in6_pktinfo`.
fn ipv6_source(data: &[u8]) -> Option<LocalSource> {
    let (octets, data) = data.split_first_chunk::<16>()?;
    local_source(IpAddr::from(*octets).to_canonical(), *data.first_chunk()?)
}

/// Returns the address as a source, or `None` if it cannot be one: unspecified, multicast or broadcast.
fn local_source(ip: IpAddr, ifindex: [u8; 4]) -> Option<LocalSource> {
    let group = ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST);
    (!group).then_some(LocalSource { ip, ifindex: u32::from_ne_bytes(ifindex) })
}

/// One control message.
struct Cmsg<'a> {
    level: i32,
    kind: i32,
    data: &'a [u8],
}

/// Splits off the first message. Returns it and the remaining bytes, or `None` if it is malformed or
/// there is none.
fn split_message(control: &[u8]) -> Option<(Cmsg<'_>, &[u8])> {
    let (header, _) = control.split_first_chunk::<HEADER>()?;
    let (len, header) = header.split_first_chunk::<WORD>()?;
    let (level, kind) = header.split_first_chunk::<4>()?;
    let len = usize::from_ne_bytes(*len);
    let message = Cmsg {
        level: i32::from_ne_bytes(*level),
        kind: i32::from_ne_bytes(*kind.first_chunk()?),
        data: control.get(HEADER..len)?,
    };
    // The last message need not be padded.
    let next = len.next_multiple_of(WORD).min(control.len());
    Some((message, &control[next..]))
}

/// Appends one message whose data is the concatenation of `parts`.
fn put(control: &mut Control, level: i32, kind: i32, parts: &[&[u8]]) {
    const ROOM: &str = "the control messages of a send fit CONTROL_SPACE bytes";
    let len = HEADER + parts.iter().map(|part| part.len()).sum::<usize>();
    let end = control.len() + len.next_multiple_of(WORD);
    control.try_extend_from_slice(&len.to_ne_bytes()).expect(ROOM);
    control.try_extend_from_slice(&level.to_ne_bytes()).expect(ROOM);
    control.try_extend_from_slice(&kind.to_ne_bytes()).expect(ROOM);
    for part in parts {
        control.try_extend_from_slice(part).expect(ROOM);
    }
    while control.len() < end {
        control.push(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    fn message(level: i32, kind: i32, parts: &[&[u8]]) -> Control {
        let mut control = Control::new();
        put(&mut control, level, kind, parts);
        control
    }

    #[test]
    fn the_headers_are_laid_out_as_libc_has_them() {
        assert_eq!(HEADER, size_of::<libc::cmsghdr>());
        let control = encode(Family::Dual, V4, Some(1452), 0, None);
        assert_eq!(control.len(), HEADER + WORD);
        assert_eq!(usize::from_ne_bytes(*control.first_chunk().unwrap()), HEADER + 2);
    }

    #[test]
    fn the_source_of_a_receive_is_what_a_send_needs_in_either_family() {
        let source = LocalSource { ip: "192.0.2.7".parse().unwrap(), ifindex: 0 };
        for family in [Family::Dual, Family::V4] {
            let control = encode(family, V4, Some(9), 0, Some(source));
            assert_eq!(decode(&control).source, Some(source));
        }
    }

    #[test]
    fn the_traffic_class_is_set_by_the_version_that_leaves_the_socket() {
        for (family, to) in [(Family::Dual, V4), (Family::Dual, V6), (Family::V4, V4)] {
            let source = Some(LocalSource { ip: to, ifindex: 0 });
            let decoded = decode(&encode(family, to, Some(1452), 0x8a, source));
            assert_eq!((decoded.class, decoded.source), (0x8a, source));
            assert_eq!(decode(&encode(family, to, None, 0, None)), Ancillary::default());
        }
        assert!(encode(Family::Dual, V6, None, 0, None).is_empty(), "class 0 costs nothing");
    }

    #[test]
    fn only_a_link_local_source_names_its_interface() {
        let sent_from = |ip: &str| {
            let source = LocalSource { ip: ip.parse().unwrap(), ifindex: 3 };
            decode(&encode(Family::Dual, source.ip, None, 0, Some(source))).source.unwrap().ifindex
        };
        assert_eq!(sent_from("fe80::1"), 3);
        assert_eq!(sent_from("2001:db8::1"), 0);
        assert_eq!(sent_from("192.0.2.7"), 0);
    }

    #[test]
    fn no_answer_is_sent_from_a_group_or_from_nowhere() {
        for octets in [[224, 0, 0, 1], [255; 4], [0; 4]] {
            let info = message(libc::SOL_IP, libc::IP_PKTINFO, &[&[1, 0, 0, 0], &octets, &octets]);
            assert_eq!(decode(&info).source, None);
        }
    }

    #[test]
    fn messages_that_are_not_ours_are_skipped() {
        let mut control = message(libc::SOL_SOCKET, libc::SCM_TIMESTAMP, &[&[0; 16]]);
        put(&mut control, libc::SOL_UDP, libc::UDP_GRO, &[&1452_i32.to_ne_bytes()]);
        assert_eq!(decode(&control).gro_size, Some(1452));
    }

    #[test]
    fn a_length_that_lies_ends_the_reading() {
        for lie in [0, HEADER - 1, HEADER + 5, usize::MAX] {
            let mut control = message(libc::SOL_UDP, libc::UDP_GRO, &[&[1, 0, 0, 0]]);
            control.truncate(HEADER + 4);
            control[..WORD].copy_from_slice(&lie.to_ne_bytes());
            assert_eq!(decode(&control), Ancillary::default(), "length {lie}");
        }
    }

    #[test]
    fn data_that_is_too_short_says_nothing() {
        let control = message(libc::SOL_UDP, libc::UDP_GRO, &[&[1, 0, 0]]);
        assert_eq!(decode(&control), Ancillary::default());
        let control = message(libc::SOL_IPV6, libc::IPV6_PKTINFO, &[&[1; 19]]);
        assert_eq!(decode(&control), Ancillary::default());
    }

    proptest! {
        #[test]
        fn no_bytes_are_trusted(bytes in proptest::collection::vec(any::<u8>(), 0..CONTROL_SPACE)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn no_length_is_trusted(len in 0_usize..200, kept in 0_usize..100, padding: [u8; 80]) {
            let mut bytes = len.to_ne_bytes().to_vec();
            bytes.extend(libc::SOL_IPV6.to_ne_bytes());
            bytes.extend(libc::IPV6_PKTINFO.to_ne_bytes());
            bytes.extend(padding);
            let _ = decode(&bytes[..kept.min(bytes.len())]);
        }
    }
}
