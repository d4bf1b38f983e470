//! The `wg` tool, which must be installed. It generates keys and configures everything that serves a WireGuard
//! control socket.

use std::net::SocketAddr;
use std::path::PathBuf;

use laneway::cli::demo::lab::Side;

use super::process::output;
use super::tunnel::{PORT, allowed_ips};

/// Returns the path where `wg` looks for the control socket of a userspace device.
pub fn control_socket(device: &str) -> PathBuf {
    PathBuf::from(format!("/var/run/wireguard/{device}.sock"))
}

/// A key pair in base64, made by `wg`.
#[derive(Clone)]
pub struct KeyPair {
    /// The private key.
    pub private: String,
    /// The public key.
    pub public: String,
}

impl KeyPair {
    /// Generates a pair.
    pub fn generate(side: &Side) -> KeyPair {
        let private = output(&side.namespace, &["wg", "genkey"], "").trim().to_owned();
        let public = output(&side.namespace, &["wg", "pubkey"], &private).trim().to_owned();
        KeyPair { private, public }
    }
}

/// Configures the device of `side` with one peer, which has the given host number inside the tunnel. Without an
/// endpoint the device can only respond.
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

/// The settings of a peer for `wg set`.
pub struct Setting<'a> {
    /// Its keys, of which only the public one is used.
    pub key: &'a KeyPair,
    /// Its host number inside the tunnel.
    pub host: u8,
    /// Its endpoint. Without one the device can only respond.
    pub endpoint: Option<SocketAddr>,
    /// The preshared key in base64.
    pub preshared: Option<&'a str>,
}

impl<'a> Setting<'a> {
    /// Returns a peer with a key and an address inside, but no endpoint or preshared key.
    pub fn new(key: &'a KeyPair, host: u8) -> Self {
        Setting { key, host, endpoint: None, preshared: None }
    }
}

/// Configures the device of `side` as [`configure`] does, but with `wg set`.
///
/// # Panics
/// If the device refuses.
pub fn set(side: &Side, device: &str, own: &KeyPair, peer: &Setting<'_>) {
    // Each secret is read from standard input, so two secrets take two commands.
    let words = ["wg", "set", device, "listen-port", &PORT.to_string(), "private-key", "/dev/stdin"];
    output(&side.namespace, &words, &own.private);
    let (allowed, endpoint) = (allowed_ips(peer.host), peer.endpoint.map(|endpoint| endpoint.to_string()));
    let mut words = vec!["wg", "set", device, "peer", &peer.key.public, "allowed-ips", &allowed];
    words.extend(endpoint.iter().flat_map(|endpoint| ["endpoint", endpoint]));
    if peer.preshared.is_some() {
        words.extend(["preshared-key", "/dev/stdin"]);
    }
    output(&side.namespace, &words, peer.preshared.unwrap_or_default());
}

/// One peer as `wg show DEVICE dump` lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerLine {
    /// Its key in base64.
    pub public: String,
    /// Its endpoint, or `(none)`.
    pub endpoint: String,
    /// Its allowed IPs, separated by commas, or `(none)`.
    pub allowed_ips: String,
    /// The time of the last handshake in seconds since the epoch, or 0.
    pub latest_handshake: u64,
    /// Bytes received from it.
    pub received: u64,
    /// Bytes sent to it.
    pub sent: u64,
}

/// Returns the peers of a device.
///
/// # Panics
/// If there is no such device, or the output of `wg` is not as documented.
pub fn peers(side: &Side, device: &str) -> Vec<PeerLine> {
    let dump = output(&side.namespace, &["wg", "show", device, "dump"], "");
    let peer = |line: &str| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [public, _preshared, endpoint, allowed_ips, handshake, received, sent, _keepalive] = fields[..]
        else {
            panic!("wg printed {line:?}");
        };
        let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("wg printed {line:?}"));
        PeerLine {
            public: public.to_owned(),
            endpoint: endpoint.to_owned(),
            allowed_ips: allowed_ips.to_owned(),
            latest_handshake: number(handshake),
            received: number(received),
            sent: number(sent),
        }
    };
    dump.lines().skip(1).map(peer).collect()
}
