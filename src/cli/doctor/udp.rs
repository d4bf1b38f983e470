//! UDP checks: opens sockets as a router would and tries a GSO send over loopback.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::check::Check;
use super::remedies;
use crate::config::RouterConfig;
use crate::underlay::{BindError, Endpoint, Receiver, Sender, SocketOptions, UdpSocket, bind};

/// Datagrams in the GSO send, and the size of each in bytes.
const DATAGRAMS: usize = 4;
const STRIDE: usize = 100;

/// Polls of the receiving socket, and the pause between two polls.
const LOOKS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(2);

pub(super) fn check(config: &RouterConfig) -> Vec<Check> {
    let options = SocketOptions { buffer: config.socket_buffer, ..SocketOptions::default() };
    let sockets = bind(0, 1, options).and_then(|from| Ok((from, bind(0, 1, options)?)));
    let (from, to) = match sockets {
        Ok((mut from, mut to)) => (from.remove(0), to.remove(0)),
        Err(error) => return vec![Check::missing("UDP socket", error.to_string(), remedies::UDP_PORT)],
    };
    let (gso, gro) = offloads(&from, &to);
    vec![port(config, &from), gso, gro, buffers(&from, config.socket_buffer)]
}

/// Checks that the port the router would listen on is free.
fn port(config: &RouterConfig, any: &UdpSocket) -> Check {
    let families = if any.carries_ipv6() { "IPv4 and IPv6" } else { "IPv4 only: this host has no IPv6" };
    let port = config.update.listen_port.unwrap_or(0);
    match bind(port, 1, SocketOptions::default()) {
        Ok(_) if port == 0 => Check::good("UDP socket", format!("{families}, on any free port")),
        Ok(_) => Check::good("UDP socket", format!("{families}, port {port} is free")),
        // The port may be held by the router this report is about.
        Err(BindError::PortTaken { port }) => {
            let found = format!("port {port} is in use by a running router or another program");
            Check::limited("UDP socket", found, remedies::UDP_PORT)
        }
        Err(error) => Check::missing("UDP socket", error.to_string(), remedies::UDP_PORT),
    }
}

/// Tries GSO and GRO; returns the two checks in that order.
fn offloads(from: &UdpSocket, to: &UdpSocket) -> (Check, Check) {
    let limited = |name, found: &str| Check::limited(name, found, remedies::NEWER_KERNEL);
    let (send, receive) = ("UDP GSO", "UDP GRO");
    let tried = exchange(from, to);
    let gso = match &tried {
        _ if !from.gso() => limited(send, "not supported by the kernel: each datagram takes a system call"),
        Ok(seen) if seen.grouped => {
            Check::good(send, format!("sent {DATAGRAMS} datagrams in one system call"))
        }
        Ok(_) => limited(send, "supported by the kernel, but a GSO send failed"),
        Err(error) => Check::good(send, format!("supported by the kernel; not tested: {error}")),
    };
    let gro = match &tried {
        _ if !to.gro() => limited(receive, "not supported by the kernel: each datagram is received alone"),
        Ok(seen) if seen.together => {
            Check::good(receive, format!("received {DATAGRAMS} datagrams in one message"))
        }
        Ok(_) => Check::good(receive, "supported by the kernel; loopback delivered the datagrams one by one"),
        Err(error) => Check::good(receive, format!("supported by the kernel; not tested: {error}")),
    };
    (gso, gro)
}

/// Result of sending one run over loopback.
struct Seen {
    /// Whether the run was sent in one system call.
    grouped: bool,
    /// Whether the run was received in one message.
    together: bool,
}

fn exchange(from: &UdpSocket, to: &UdpSocket) -> io::Result<Seen> {
    let mut sender = Sender::new(from);
    let endpoint = Endpoint::new(SocketAddr::from((Ipv4Addr::LOCALHOST, to.port())));
    sender
        .send_run(from, &[0x5a; DATAGRAMS * STRIDE], STRIDE, &endpoint, 0)
        .map_err(|failure| io::Error::other(failure.to_string()))?;
    let grouped = sender.tally().gso_disabled.total() == 0 && sender.tally().runs.of(DATAGRAMS) == 1;
    let mut receiver = Receiver::new();
    let mut buffer = vec![0; 2 * DATAGRAMS * STRIDE];
    for _ in 0..LOOKS {
        if receiver.receive(to, [&mut buffer[..]])? > 0 {
            let message = receiver.message(0);
            let together = message.len == DATAGRAMS * STRIDE && message.stride == STRIDE;
            return Ok(Seen { grouped, together });
        }
        std::thread::sleep(PAUSE);
    }
    Err(io::Error::other("nothing arrived over loopback"))
}

fn buffers(socket: &UdpSocket, wanted: usize) -> Check {
    let name = "socket buffers";
    match socket.buffers() {
        Ok(got) if got.receive >= wanted && got.send >= wanted => {
            Check::good(name, format!("{} KiB each way", wanted >> 10))
        }
        Ok(got) => {
            let found = format!(
                "{} KiB to receive and {} KiB to send instead of {} KiB: short bursts may be lost",
                got.receive >> 10,
                got.send >> 10,
                wanted >> 10
            );
            Check::limited(name, found, remedies::BUFFERS)
        }
        Err(error) => Check::limited(name, format!("unknown: {error}"), remedies::BUFFERS),
    }
}
