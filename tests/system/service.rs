//! Notifications to the service manager from `laneway run`: ready, reloading, stopping.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use crate::support::binary::{self, serves};
use crate::support::folder::Folder;
use crate::support::process::{Process, output};
use crate::support::wg::KeyPair;
use crate::support::{device_name, lab, require_root};
use nix::sys::signal::Signal;

/// How long to wait for a message.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn the_service_manager_is_told_when_the_router_is_up_reloads_and_stops() {
    require_root!();
    let (lab, folder, device) = (lab(), Folder::new(), device_name("lw"));
    let socket = folder.join("notify");
    let manager = UnixDatagram::bind(&socket).expect("a socket");
    manager.set_read_timeout(Some(PATIENCE)).expect("a limit");
    let heard = || {
        let mut message = [0; 1024];
        let length = manager.recv(&mut message).expect("a message of the router");
        String::from_utf8(message[..length].to_vec()).expect("text")
    };

    let [own, other] = [0, 1].map(|_| KeyPair::generate(&lab.left));
    let write = |more: &str| {
        let text = format!(
            "[Interface]\nPrivateKey = {}\nAddress = 10.50.0.1/24\n{more}\n\
             [Peer]\nPublicKey = {}\nAllowedIPs = 10.60.0.0/16\n",
            own.private, other.public
        );
        folder.write(&format!("{device}.conf"), &text)
    };
    let file = write("");
    let environment = [("LANEWAY_METRICS_ADDR", "off"), ("NOTIFY_SOCKET", socket.as_str())];
    let mut command = binary::command(&lab.left, &["run", "--config", &file], &environment);
    let mut process = Process::start_quietly(&mut command);

    // Reading a message without its descriptors closes them, as a manager does that keeps none.
    assert_eq!(heard(), "FDSTORE=1\nFDNAME=trial\nFDPOLL=0");
    assert_eq!(heard(), "BARRIER=1");
    assert_eq!(heard(), format!("READY=1\nSTATUS={device} is up"));
    // It is up already, without polling.
    assert!(serves(&device));
    let routes = output(&lab.left.namespace, &["ip", "route"], "");
    assert!(routes.contains("10.50.0.0/24") && routes.contains("10.60.0.0/16"), "{routes}");

    process.signal(Signal::SIGHUP);
    let reloading = heard();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    let reloaded = heard();
    assert!(
        reloaded.starts_with("READY=1\nSTATUS=configuration reloaded from the file; peers: 0 added"),
        "{reloaded}"
    );

    write("Nonsense = 1");
    process.signal(Signal::SIGHUP);
    let reloading = heard();
    assert!(reloading.starts_with("RELOADING=1\n"), "{reloading}");
    let refused = heard();
    let mistake = refused.strip_prefix("READY=1\nSTATUS=not reloaded: ").expect(&refused);
    assert!(mistake.contains("Nonsense"), "{mistake}");

    process.signal(Signal::SIGTERM);
    assert_eq!(heard(), "STOPPING=1");
    assert_eq!(process.wait(), Some(0));
}
