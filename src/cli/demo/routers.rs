//! The demo's two routers: fresh keys, each other's only peer, one at each end of the cable.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use thiserror::Error;

use super::lab::{Lab, Side};
use super::{DemoArgs, INSIDE4, INSIDE6, ROUTERS};
use crate::control::config::update::{AllowedIpChange, DeviceUpdate, PeerEndpoint, PeerUpdate};
use crate::control::config::{Queues, RouterConfig};
use crate::control::supervisor::{Router, StartError};
use crate::wireguard::keys::{OsEntropy, PrivateKey};

/// The UDP port of both routers: each has a network of its own.
const PORT: u16 = 51820;

/// The TUN device's name, the same at both ends.
const DEVICE: &str = "laneway0";

/// Why the routers did not start.
#[derive(Debug, Error)]
pub enum RoutersError {
    /// One of them did not.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Its namespace cannot be entered, or there is no randomness for its key.
    #[error("{0}")]
    System(#[from] std::io::Error),
}

/// Starts both routers.
///
/// # Errors
/// What one of them needs is not there. The other is stopped.
pub fn start(lab: &Lab, args: &DemoArgs) -> Result<[Router; 2], RoutersError> {
    let mut entropy = OsEntropy::new().map_err(std::io::Error::from)?;
    let keys = [PrivateKey::generate(&mut entropy), PrivateKey::generate(&mut entropy)];
    let sides = [&lab.left, &lab.right];
    let config = |own: usize| config(args, own, &keys, sides[1 - own]);
    let begin = |own: usize| -> Result<Router, RoutersError> {
        let config = config(own);
        Ok(sides[own].namespace.run(|| Router::start(&config, None))??)
    };
    Ok([begin(0)?, begin(1)?])
}

/// What router number `own` is told: its key, its addresses, and the other one as its only peer.
fn config(args: &DemoArgs, own: usize, keys: &[PrivateKey; 2], other_side: &Side) -> RouterConfig {
    let other = 1 - own;
    let host = |address: IpAddr| AllowedIpChange { net: IpNet::from(address), remove: false };
    let address = |address: IpAddr, prefix| IpNet::new(address, prefix).expect("a prefix of its family");
    let peer = PeerUpdate {
        endpoint: Some(PeerEndpoint::Address(SocketAddr::new(other_side.underlay4.into(), PORT))),
        allowed_ips: vec![host(INSIDE4[other].into()), host(INSIDE6[other].into())],
        ..PeerUpdate::new(keys[other].public_key())
    };
    let mut config = RouterConfig::named(DEVICE);
    config.up = true;
    config.addresses = vec![address(INSIDE4[own].into(), 24), address(INSIDE6[own].into(), 64)];
    config.queues = Queues::Fixed(args.queues().into());
    config.update = DeviceUpdate {
        private_key: Some(Some(keys[own].clone())),
        listen_port: Some(PORT),
        peers: vec![peer],
        ..DeviceUpdate::default()
    };
    tracing::debug!(router = ROUTERS[own], key = %keys[own].public_key(), "fresh key");
    config
}
