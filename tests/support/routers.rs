//! Two routers inside the test's own process, one at each end of the lab's cable, each other's only peer: for
//! tests that look at metrics or need settings of their own, without a control socket.

use ipnet::IpNet;
use laneway::cli::demo::lab::{Lab, Side};
use laneway::cli::exposition::Exposition;
use laneway::control::config::RouterConfig;
use laneway::control::config::update::{AllowedIpChange, DeviceUpdate, PeerEndpoint, PeerUpdate};
use laneway::control::supervisor::Router;
use laneway::wireguard::keys::{OsEntropy, PrivateKey};

use super::tunnel::{Family, PORT};

/// Starts the left and the right router, with `tune` to change their settings first. Both know where the other
/// one is, over IPv4.
///
/// # Panics
/// When one of them does not start.
pub fn start(lab: &Lab, tune: impl Fn(&mut RouterConfig)) -> [Router; 2] {
    let mut entropy = OsEntropy::new().expect("randomness");
    let keys = [PrivateKey::generate(&mut entropy), PrivateKey::generate(&mut entropy)];
    let sides = [&lab.left, &lab.right];
    [0, 1].map(|own| {
        let mut config = config(own, &keys, sides[1 - own]);
        tune(&mut config);
        let started = sides[own].namespace.run(|| Router::start(&config, None)).expect("enter a namespace");
        started.unwrap_or_else(|error| panic!("{error}"))
    })
}

/// What a router's metrics say now.
///
/// # Panics
/// When they are not in the Prometheus text format.
pub fn metrics(router: &Router) -> Exposition {
    Exposition::parse(&router.metrics_text()).unwrap_or_else(|error| panic!("{error}"))
}

fn config(own: usize, keys: &[PrivateKey; 2], other_side: &Side) -> RouterConfig {
    let other = 1 - own;
    let (own_host, other_host) = (own as u8 + 1, other as u8 + 1);
    let allowed =
        Family::ALL.map(|family| AllowedIpChange { net: IpNet::from(family.inside(other_host)), remove: false });
    let address = |family: Family, prefix| IpNet::new(family.inside(own_host), prefix).expect("a prefix");
    let peer = PeerUpdate {
        endpoint: Some(PeerEndpoint::Address(Family::V4.endpoint(other_side))),
        allowed_ips: allowed.to_vec(),
        ..PeerUpdate::new(keys[other].public_key())
    };
    let mut config = RouterConfig::named("lw0");
    config.up = true;
    config.addresses = vec![address(Family::V4, 24), address(Family::V6, 64)];
    config.update = DeviceUpdate {
        private_key: Some(Some(keys[own].clone())),
        listen_port: Some(PORT),
        peers: vec![peer],
        ..DeviceUpdate::default()
    };
    config
}
