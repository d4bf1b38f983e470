//! `laneway demo` with real routers, one at each end of the cable: new keys, each the other's only peer.
//! Optionally serves the left one's metrics.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::Arc;

use ipnet::IpNet;
use thiserror::Error;

use super::lab::{Lab, Side};
use super::{DemoArgs, DemoEnd, DemoError, INSIDE4, INSIDE6, ROUTERS};
use crate::config::update::{AllowedIpChange, DeviceUpdate, PeerEndpoint, PeerUpdate};
use crate::config::{Queues, RouterConfig};
use crate::router::admin::{Admin, AdminError, Http};
use crate::router::start::{Router, StartError};
use crate::wireguard::keys::{OsEntropy, PrivateKey};

/// The UDP port of both routers; they run in different network namespaces.
const PORT: u16 = 51820;

/// The TUN device's name, the same at both ends.
const DEVICE: &str = "laneway0";

/// Errors when starting the routers.
#[derive(Debug, Error)]
pub enum RoutersError {
    /// A router did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A namespace cannot be entered, or there are no random bytes for a key.
    #[error("{0}")]
    System(#[from] std::io::Error),
}

/// Starts both routers.
///
/// # Errors
/// A router did not start. The other one is stopped.
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

/// Returns the configuration of router number `own`: its key, its addresses, and the other router as its only
/// peer.
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
    tracing::debug!(router = ROUTERS[own], key = %keys[own].public_key(), "generated a key");
    config
}

/// Runs the demo until it completes or is interrupted.
///
/// # Errors
/// The lab or the routers cannot be set up, or traffic was lost or corrupted.
pub fn run(args: &DemoArgs) -> Result<DemoEnd, DemoError> {
    super::run(args, |lab, args, listener| -> Result<_, DemoStartError> {
        let routers = start(lab, args)?;
        if let Some(listener) = listener {
            serve_metrics(&routers[0], listener)?;
        }
        Ok(routers)
    })
}

impl super::LabRouter for Router {
    fn metrics_text(&self) -> String {
        Router::metrics_text(self)
    }
}

/// Errors when starting the demo's routers.
#[derive(Debug, Error)]
enum DemoStartError {
    #[error(transparent)]
    Routers(#[from] RoutersError),
    #[error(transparent)]
    Admin(#[from] AdminError),
}

/// Serves metrics until the router stops. The listener stays in the network namespace it was bound in.
fn serve_metrics(router: &Router, listener: TcpListener) -> Result<(), AdminError> {
    let admin = Admin {
        registry: Arc::clone(router.registry()),
        threads: Arc::clone(router.threads()),
        readiness: Arc::new(router.readiness()),
        device: Arc::new(router.device().clone()),
        shutdown: Arc::clone(router.shutdown()),
        metrics: Some(Http { bound: listener.into(), from_tunnel: false, web: None }),
        before: None,
        uapi: None,
        link: None,
        paths: None,
        shared_port: None,
        hangups: None,
    };
    // The thread ends when the router stops, so it is not joined.
    admin.spawn().map(drop)
}
