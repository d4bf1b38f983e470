//! wireguard-go as a peer, configured with the `wg` tool: both must be installed. Anything that serves the same
//! control socket is configured the same way.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use laneway::cli::demo::lab::Side;

use super::process::{Process, command_in, output};
use super::tunnel::{MTU, PORT, allowed_ips};
use super::{device_name, wait_until};

/// A running wireguard-go in one side of the lab.
#[derive(Debug)]
pub struct WireGuardGo {
    /// Its TUN device.
    pub device: String,
    _process: Process,
}

impl WireGuardGo {
    /// Starts it with a device of its own and waits until it can be configured.
    ///
    /// # Panics
    /// When it is not installed or does not come up.
    pub fn start(side: &Side) -> WireGuardGo {
        let device = device_name("wg");
        let mut command = command_in(&side.namespace, "wireguard-go");
        command.args(["-f", &device]);
        // Even an empty value makes it start itself anew for ever.
        command.env_remove("WG_PROCESS_FOREGROUND");
        // Its greeting would stand between the test results.
        let mut process = Process::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
        let socket = control_socket(&device);
        wait_until("wireguard-go", || {
            assert!(
                process.is_running(),
                "wireguard-go ended at once: is it installed, and may it open /dev/net/tun?"
            );
            socket.exists()
        });
        output(&side.namespace, &["ip", "link", "set", &device, "mtu", &MTU.to_string()], "");
        WireGuardGo { device, _process: process }
    }
}

/// Where `wg` looks for the control socket of a userspace device.
pub fn control_socket(device: &str) -> PathBuf {
    PathBuf::from(format!("/var/run/wireguard/{device}.sock"))
}

/// A key pair in base64, made by `wg`.
#[derive(Clone)]
pub struct KeyPair {
    /// The private half.
    pub private: String,
    /// The public half.
    pub public: String,
}

impl KeyPair {
    /// A fresh pair.
    pub fn generate(side: &Side) -> KeyPair {
        let private = output(&side.namespace, &["wg", "genkey"], "").trim().to_owned();
        let public = output(&side.namespace, &["wg", "pubkey"], &private).trim().to_owned();
        KeyPair { private, public }
    }
}

/// Configures the device of `side` with one peer, that has the given host number inside the tunnel. Without an
/// endpoint it can only answer.
pub fn configure(
    side: &Side,
    device: &str,
    own: &KeyPair,
    peer: &KeyPair,
    peer_host: u8,
    endpoint: Option<SocketAddr>,
) {
    let endpoint = endpoint.map(|endpoint| format!("Endpoint = {endpoint}\n")).unwrap_or_default();
    let file = format!(
        "[Interface]\nPrivateKey = {}\nListenPort = {PORT}\n\
         [Peer]\nPublicKey = {}\nAllowedIPs = {}\n{endpoint}",
        own.private,
        peer.public,
        allowed_ips(peer_host),
    );
    output(&side.namespace, &["wg", "setconf", device, "/dev/stdin"], &file);
}
