//! Other processes on the router's UDP port: refused if the router has one lane, found if it has several.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt as _, chown};

use crate::support::binary::{BINARY, Laneway};
use crate::support::folder::Folder;
use crate::support::http::{SERVED, get};
use crate::support::process::{Process, command_in, output};
use crate::support::wg::KeyPair;
use crate::support::{device_name, lab, require_root, wait_until};
use laneway::cli::demo::lab::Side;
use nix::sys::signal::Signal;
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
    // The outside worker closes the old socket a moment after the answer to `wg`.
    wait_until("the port that was left to be free", || {
        join(&lab.left, (Ipv4Addr::UNSPECIFIED, PORT + 1).into()).is_ok()
    });
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

/// A shell script that gives the rest of the process a `/dev/net/tun` that everybody may open, as udev creates it, and
/// runs a program as another user with one capability. Its arguments: an empty directory, and the program.
const AS_ANOTHER_USER: &str = r#"
    set -e
    mount -t tmpfs tmpfs "$1"
    mknod -m 0666 "$1/tun" c 10 200
    mount --bind "$1/tun" /dev/net/tun
    shift
    exec setpriv --reuid 65532 --regid 65532 --clear-groups --bounding-set=-all,+net_admin \
        --inh-caps=-all,+net_admin --ambient-caps=-all,+net_admin --no-new-privs "$@"
"#;

#[test]
fn a_router_with_a_user_of_its_own_shares_its_port_with_no_process_of_root() {
    require_root!();
    let (lab, folder, device) = (lab(), Folder::new(), device_name("lw"));
    let [node, sockets] = ["node", "sockets"].map(|name| folder.join(name));
    let private = KeyPair::generate(&lab.left).private;
    let text = format!(
        "[Interface]\nPrivateKey = {private}\nAddress = 10.77.0.1/24\nListenPort = {PORT}\n\
         [Peer]\nPublicKey = {}\nAllowedIPs = 0.0.0.0/0\nEndpoint = 192.0.2.1:9\n",
        KeyPair::generate(&lab.left).public
    );
    let file = folder.write(&format!("{device}.conf"), &text);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    for directory in [&node, &sockets] {
        fs::create_dir(directory).unwrap();
    }
    for path in [&file, &sockets] {
        chown(path, Some(65_532), Some(65_532)).unwrap();
    }
    let arguments = ["--mount", "sh", "-c", AS_ANOTHER_USER, "sh", &node, BINARY, "run", "--config", &file];
    let mut command = command_in(&lab.left.namespace, "unshare");
    command.args(arguments).envs([SERVED, ("LANEWAY_QUEUES", "2"), ("LANEWAY_UAPI_DIR", &sockets)]);
    let mut router = Process::start_quietly(&mut command);
    wait_until("the router", || {
        assert!(router.is_running(), "{}", router.said());
        router.said().contains("router is up")
    });
    wait_until("readiness", || get(&lab.left, "/readyz").0 == 200);
    let status = fs::read_to_string(format!("/proc/{}/status", router.id())).unwrap();
    assert!(status.contains("Uid:\t65532\t65532\t65532\t65532\n"), "{status}");

    for address in [(Ipv4Addr::UNSPECIFIED, PORT).into(), (Ipv6Addr::UNSPECIFIED, PORT).into()] {
        let refused = join(&lab.left, address).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::AddrInUse, "{address}");
    }
    // A reload and the end need no more privilege.
    fs::write(&file, text.replace("10.77.0.1/24", "10.77.0.2/24")).unwrap();
    router.signal(Signal::SIGHUP);
    wait_until("the new address", || {
        output(&lab.left.namespace, &["ip", "addr", "show", &device], "").contains("10.77.0.2/24")
    });
    router.signal(Signal::SIGTERM);
    assert_eq!(router.wait(), Some(0), "{}", router.said());
    let rules = output(&lab.left.namespace, &["ip", "rule"], "");
    assert!(!rules.contains("unreachable") && !rules.contains("fwmark"), "{rules}");
}
