//! The descriptors of `laneway run` that the service manager keeps: after a crash the next process continues with them,
//! and packets have waited in the kernel's queues.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::binary::{BINARY, Laneway, serves};
use crate::support::folder::Folder;
use crate::support::http::{self, SERVED};
use crate::support::process::{Process, command_in, output};
use crate::support::tunnel::{self, Family, PORT, allowed_ips};
use crate::support::wg::{self, KeyPair, Setting};
use crate::support::{DEADLINE, device_name, lab, links, require_root, wait_until};
use laneway::cli::demo::lab::Lab;
use laneway::sys::rights;
use nix::sys::signal::Signal;

/// Packets sent while no process runs: fewer than are staged for a peer.
const WAITING: u8 = 50;

/// A packet that is no number.
const PROBE: u8 = u8::MAX;

/// A service manager that keeps descriptors.
struct Manager {
    socket: UnixDatagram,
    path: String,
    kept: BTreeMap<String, OwnedFd>,
}

impl Manager {
    fn new(folder: &Folder) -> Manager {
        let path = folder.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(DEADLINE)).expect("a limit");
        Manager { socket, path, kept: BTreeMap::new() }
    }

    /// Takes messages up to one that begins with `last`.
    fn hear(&mut self, last: &str) {
        loop {
            let mut message = [0; 1024];
            let (length, descriptors) = rights::receive(&self.socket, &mut message).expect("a message");
            let message = String::from_utf8(message[..length].to_vec()).expect("text");
            let name = || message.split('\n').find_map(|line| line.strip_prefix("FDNAME=")).expect("a name");
            if message.starts_with("FDSTORE=1\n") {
                assert!(message.contains("\nFDPOLL=0"), "{message}");
                let [descriptor] = <[OwnedFd; 1]>::try_from(descriptors).expect("one descriptor");
                assert!(self.kept.insert(name().to_owned(), descriptor).is_none(), "{message}");
            } else if message.starts_with("FDSTOREREMOVE=1\n") {
                assert!(self.kept.remove(name()).is_some(), "{message}");
            }
            // The sender of BARRIER=1 waits until its descriptor is closed, which it is by now.
            if message.starts_with(last) {
                return;
            }
        }
    }

    /// Starts a router to which it passes everything that it keeps, in an order of its own.
    #[allow(unsafe_code)]
    fn start(&self, lab: &Lab, file: &str) -> Process {
        let mut command: Command = command_in(&lab.left.namespace, "sh");
        command.args(["-c", r#"LISTEN_PID=$$ exec "$@""#, "sh", BINARY, "run", "--config", file]);
        let names: Vec<_> = self.kept.keys().rev().cloned().collect();
        let descriptors: Vec<RawFd> = self.kept.values().rev().map(AsRawFd::as_raw_fd).collect();
        command
            .envs([("LANEWAY_QUEUES", "2"), SERVED, ("NOTIFY_SOCKET", &self.path), ("FDSTORE", "64")])
            .envs([("LISTEN_FDS", names.len().to_string()), ("LISTEN_FDNAMES", names.join(":"))])
            .stdin(Stdio::null());
        let pass_on = move || {
            // Up first, since their numbers may be among those that they get.
            for (descriptor, number) in descriptors.iter().zip(500..) {
                // SAFETY: dup2 accesses no memory. No descriptor of this process has such a high number.
                nix::errno::Errno::result(unsafe { libc::dup2(*descriptor, number) })?;
            }
            for (number, _) in (0..).zip(&descriptors) {
                // SAFETY: as above. What had this number is closed: it belongs to the parent, and is not used here.
                nix::errno::Errno::result(unsafe { libc::dup2(500 + number, 3 + number) })?;
                // SAFETY: close accesses no memory, and the number was assigned above.
                nix::errno::Errno::result(unsafe { libc::close(500 + number) })?;
            }
            Ok(())
        };
        // SAFETY: the closure only calls dup2 and close, which are async-signal-safe, and reads memory.
        unsafe { command.pre_exec(pass_on) };
        Process::start_quietly(&mut command)
    }
}

#[test]
fn after_a_crash_the_next_process_continues_with_the_queues_and_sockets() {
    require_root!();
    let (lab, folder, device) = (lab(), Folder::new(), device_name("lw"));
    let mut manager = Manager::new(&folder);
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

    let mut router = manager.start(&lab, &file);
    manager.hear("READY=1");
    let kept: Vec<_> = manager.kept.keys().map(String::as_str).collect();
    assert_eq!(kept, ["control", "http", "tun-0", "tun-1", "udp-0", "udp-1"], "{}", router.said());
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
    let mut router = manager.start(&lab, &file);
    // It has what is kept already, and stores it again under the same names once the manager has forgotten the old ones.
    manager.kept.clear();
    manager.hear("READY=1");
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
    manager.hear("FDSTOREREMOVE=1");
    manager.hear("FDSTORE=1\nFDNAME=udp-1");
    wait_until("the port to be free", || sockets(first_port) == 0 && sockets(PORT) > 0);

    router.signal(Signal::SIGTERM);
    assert_eq!(router.wait(), Some(0));
    wait_until("everything to be forgotten", || {
        if !manager.kept.is_empty() {
            manager.hear("FDSTOREREMOVE=1");
        }
        manager.kept.is_empty()
    });
    assert!(!links(&lab.left).contains(&device));
}
