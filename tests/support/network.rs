//! Networks beyond two ends of one cable: hosts with two paths, routers in between, address translation.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _};

use laneway::cli::demo::lab::Side;
use laneway::netns::Namespace;
use laneway::sys::udp::IntOption;

use super::process::output;
use super::{DEADLINE, wait_until};

/// Creates a host without a cable. Peers reach it at these addresses once it has them.
///
/// # Panics
/// If the kernel refuses a namespace.
pub fn host(underlay4: [u8; 4], underlay6: &str) -> Side {
    let namespace = Namespace::create().unwrap_or_else(|error| panic!("a network namespace: {error}"));
    let underlay6: Ipv6Addr = underlay6.parse().expect("an IPv6 address");
    let host = Side { namespace, underlay4: Ipv4Addr::from(underlay4), underlay6 };
    ip(&host, "link set lo up");
    // Duplicate address detection would block the address for its first second, and nobody else is on a cable.
    sysctl(&host, "ipv6/conf/default/accept_dad", "0");
    host
}

/// Connects two hosts with a veth pair. Each end has a device name and addresses with prefix lengths.
///
/// # Panics
/// If a device name is taken or an address is invalid.
pub fn cable(left: (&Side, &str, &[&str]), right: (&Side, &str, &[&str])) {
    let far = format!("/proc/{}/fd/{}", std::process::id(), right.0.namespace.as_raw_fd());
    ip(left.0, &format!("link add {} type veth peer name {} netns {far}", left.1, right.1));
    for (host, name, addresses) in [left, right] {
        ip(host, &format!("link set {name} up"));
        for address in addresses {
            ip(host, &format!("address add {address} dev {name}"));
        }
    }
}

/// Returns the link-local IPv6 address of a device once it is usable: the kernel assigns one when the carrier is
/// up, then runs duplicate address detection.
///
/// # Panics
/// If there is none before the deadline.
pub fn link_local(host: &Side, device: &str) -> String {
    let mut found = None;
    wait_until("a link-local address", || {
        let words = ["ip", "-6", "-oneline", "address", "show", "dev", device, "scope", "link"];
        let shown = output(&host.namespace, &words, "");
        let usable = shown.lines().find(|line| !line.contains("tentative"));
        let address =
            usable.and_then(|line| line.split_whitespace().find_map(|word| word.strip_suffix("/64")));
        found = address.map(str::to_owned);
        found.is_some()
    });
    found.expect("found above")
}

/// Runs `ip` at a host with these words, separated by single spaces.
///
/// # Panics
/// If it fails; the message contains its stderr.
pub fn ip(host: &Side, words: &str) {
    let words: Vec<_> = std::iter::once("ip").chain(words.split(' ')).collect();
    output(&host.namespace, &words, "");
}

/// Sets a value under `/proc/sys/net` at a host.
///
/// # Panics
/// If there is no such setting.
pub fn sysctl(host: &Side, name: &str, value: &str) {
    let path = format!("/proc/sys/net/{name}");
    let written = host.namespace.run(|| std::fs::write(&path, value)).expect("enter a namespace");
    written.unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// Returns a UDP socket at this IPv4 address of a host. Its datagrams are not fragmented and ignore the path MTU that
/// the kernel has cached, so that only a tunnel can refuse them.
///
/// # Panics
/// If the host does not have the address.
pub fn probe(host: &Side, address: IpAddr) -> UdpSocket {
    let socket = host.namespace.run(|| UdpSocket::bind((address, 0))).expect("enter a namespace");
    let socket = socket.unwrap_or_else(|error| panic!("{address}: {error}"));
    IntOption::IPV4_MTU_DISCOVER.set(socket.as_fd(), libc::IP_PMTUDISC_PROBE).expect("set an option");
    socket.set_read_timeout(Some(DEADLINE)).expect("set a timeout");
    socket
}
