//! Other processes on the router's UDP port: refused if the router has one lane, found if it has several.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::support::binary::Laneway;
use crate::support::http::{SERVED, get};
use crate::support::process::output;
use crate::support::{lab, require_root, wait_until};
use laneway::cli::demo::lab::Side;
use nix::sys::stat::fstat;
use socket2::{Domain, Socket, Type};

const PORT: u16 = 51_820;

/// Binds a socket of this process to `address`, sharing it as far as the kernel allows.
fn join(side: &Side, address: SocketAddr) -> std::io::Result<Socket> {
    side.namespace.run(|| {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, None)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        Ok(socket)
    })?
}

fn start(side: &Side, lanes: &str) -> Laneway {
    let laneway = Laneway::start(side, &[SERVED, ("LANEWAY_QUEUES", lanes)]);
    listen_on(side, &laneway, PORT);
    // Without a key the router is not ready.
    let key = output(&side.namespace, &["wg", "genkey"], "");
    output(&side.namespace, &["wg", "set", &laneway.device, "private-key", "/dev/stdin"], &key);
    output(&side.namespace, &["ip", "link", "set", &laneway.device, "up"], "");
    wait_until("the router", || get(side, "/readyz") == (200, "ok\n".to_owned()));
    laneway
}

fn listen_on(side: &Side, laneway: &Laneway, port: u16) {
    output(&side.namespace, &["wg", "set", &laneway.device, "listen-port", &port.to_string()], "");
}

#[test]
fn a_router_with_one_lane_is_alone_on_every_port_it_moves_to() {
    require_root!();
    let lab = lab();
    let laneway = start(&lab.left, "1");
    for port in [PORT, PORT + 1, PORT] {
        listen_on(&lab.left, &laneway, port);
        for address in [(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()] {
            let refused = join(&lab.left, address).unwrap_err();
            assert_eq!(refused.kind(), std::io::ErrorKind::AddrInUse, "{address}");
        }
    }
    assert_eq!(get(&lab.left, "/readyz").0, 200);
    drop(join(&lab.left, (Ipv4Addr::UNSPECIFIED, PORT + 1).into()).expect("the port that was left is free"));
}

#[test]
fn a_socket_that_joins_several_lanes_is_found_on_every_port() {
    require_root!();
    let lab = lab();
    let laneway = start(&lab.left, "2");
    let count = || {
        let metrics = get(&lab.left, "/metrics").1;
        let line = metrics.lines().find(|line| line.starts_with("laneway_foreign_sockets_total "));
        line.unwrap().rsplit(' ').next().unwrap().parse::<u32>().unwrap()
    };
    assert_eq!(count(), 0);
    for (found, port) in [(1, PORT), (2, PORT + 1)] {
        listen_on(&lab.left, &laneway, port);
        assert_eq!(get(&lab.left, "/readyz").0, 200);
        let foreign = join(&lab.left, (Ipv6Addr::UNSPECIFIED, port).into()).unwrap();
        wait_until("the finding", || get(&lab.left, "/readyz").0 == 503);
        let body = get(&lab.left, "/readyz").1;
        assert!(body.contains("another process has a socket on the router's UDP port"), "{body}");
        assert_eq!(count(), found);
        let inode = fstat(&foreign).unwrap().st_ino;
        let said = laneway.process.said();
        assert!(said.contains(&format!("inode={inode} uid=0")), "{said}");
        // Not a failure of the router itself.
        assert_eq!(get(&lab.left, "/healthz").0, 200);
        drop(foreign);
        wait_until("the router", || get(&lab.left, "/readyz").0 == 200);
    }
    assert_eq!(count(), 2, "the router's own sockets never count");
}
