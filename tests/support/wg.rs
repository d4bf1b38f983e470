//! The `wg` tool, which must be installed: it makes the keys and configures everything that serves the usual
//! control socket.

use std::net::SocketAddr;
use std::path::PathBuf;

use laneway::cli::demo::lab::Side;

use super::process::output;
use super::tunnel::{PORT, allowed_ips};

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
