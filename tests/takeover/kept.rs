//! The descriptors of `laneway run` that the service manager keeps: after a crash the next process continues with them,
//! and packets have waited in the kernel's queues.

use std::net::UdpSocket;
use std::time::Duration;

use crate::manager::Manager;
use crate::support::binary::{Laneway, serves};
use crate::support::folder::Folder;
use crate::support::http::{self, SERVED};
use crate::support::process::{Process, output};
use crate::support::tunnel::{self, Family, PORT, allowed_ips};
use crate::support::wg::{self, KeyPair, Setting};
use crate::support::{device_name, lab, links, require_root, wait_until};
use nix::sys::signal::Signal;

/// Packets sent while no process runs: fewer than are staged for a peer.
const WAITING: u8 = 50;

/// A packet that is no number.
const PROBE: u8 = u8::MAX;

#[test]
fn after_a_crash_the_next_process_continues_with_the_queues_and_sockets() {
    require_root!();
    let (lab, folder, device) = (lab(), Folder::new(), device_name("lw"));
    let manager = Manager::new(&folder);
    let right = Laneway::start(&lab.right, &[]);
    let keys = [KeyPair::generate(&lab.left), KeyPair::generate(&lab.right)];
    wg::set(&lab.right, &right.device, &keys[1], &Setting::new(&keys[0], 1));
    tunnel::address(&lab.right, &right.device, 2);
    let text = format!(
        "[Interface]\nPrivateKey = {}\nAddress = {}/24\n[Peer]\nPublicKey = {}\nEndpoint = {}\nAllowedIPs = {}\n",
        keys[0].private,
        Family::V4.inside(1),
        keys[1].public,
        Family::V4.endpoint(&lab.right),
        allowed_ips(2),
    );
    let file = folder.write(&format!("{device}.conf"), &text);
    let bind = |side: &laneway::cli::demo::lab::Side, host| {
        let socket = side.namespace.run(|| UdpSocket::bind((Family::V4.inside(host), 0)));
        let socket = socket.expect("enter").expect("bind");
        socket.set_read_timeout(Some(Duration::from_millis(20))).expect("set");
        socket
    };

    let start = || {
        let environment = [("LANEWAY_QUEUES", "2"), SERVED];
        manager.start(&lab.left, &["run", "--config", &file], &environment, Some("64"))
    };
    let mut router = manager.until_ready(start);
    assert_eq!(manager.kept(), ["control", "http", "tun-0", "tun-1", "udp-0", "udp-1"], "{}", router.said());
    let sockets = |port: u16| {
        output(&lab.left.namespace, &["ss", "-lunH"], "")
            .lines()
            .filter(|line| line.contains(&format!(":{port} ")))
            .count()
    };
    let port = |router: &Process| {
        let said = router.said();
        let port =
            said.split("port=").nth(1).and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
        port.and_then(|port| port.parse::<u16>().ok()).unwrap_or_else(|| panic!("{said}"))
    };
    let index = || output(&lab.left.namespace, &["ip", "-oneline", "link", "show", "dev", &device], "");
    let (before, first_port) = (index().split(':').next().map(str::to_owned), port(&router));
    let (near, far) = (bind(&lab.left, 1), bind(&lab.right, 2));
    let to_far = far.local_addr().expect("bound");
    wait_until("a packet to pass", || {
        let _ = near.send_to(&[PROBE], to_far);
        far.recv(&mut [0; 8]).is_ok()
    });
    while far.recv(&mut [0; 8]).is_ok() {}

    router.signal(Signal::SIGKILL);
    assert_eq!(router.wait(), None);
    for number in 0..WAITING {
        near.send_to(&[number], to_far).expect("the queue takes it");
    }
    assert!(far.recv(&mut [0; 8]).is_err(), "nobody forwards");
    let mut router = manager.until_ready(start);
    let mut numbers = Vec::new();
    wait_until("the packets that have waited", || {
        let mut byte = [0];
        // Probes of before may still be on their way.
        if far.recv(&mut byte).is_ok() && byte[0] != PROBE {
            numbers.push(byte[0]);
        }
        numbers.len() == usize::from(WAITING)
    });
    assert!(numbers.iter().copied().eq(0..WAITING), "{numbers:?}");
    assert_eq!((index().split(':').next().map(str::to_owned), port(&router)), (before, first_port));
    assert!(serves(&device) && http::get(&lab.left, "/readyz").0 == 200);
    assert!(router.said().contains("continues with the queues and sockets"), "{}", router.said());

    // A new port takes the place of the old one, which is free then.
    output(&lab.left.namespace, &["wg", "set", &device, "listen-port", &PORT.to_string()], "");
    wait_until("the port to be free", || sockets(first_port) == 0 && sockets(PORT) > 0);

    router.signal(Signal::SIGTERM);
    assert_eq!(router.wait(), Some(0));
    wait_until("everything to be forgotten", || manager.kept().is_empty());
    assert!(!links(&lab.left).contains(&device));
}
