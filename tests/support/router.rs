//! Laneway routers inside the test's own process.

use ipnet::IpNet;
use laneway::cli::demo::lab::{Lab, Side};
use laneway::config::update::{AllowedIpChange, PeerEndpoint, PeerUpdate};
use laneway::config::{Queues, RouterConfig};
use laneway::faults;
use laneway::router::start::Router;
use laneway::wireguard::keys::{OsEntropy, PrivateKey, PublicKey};

use super::tunnel::{Family, PORT};

/// The device name of every router: namespaces keep them apart.
pub const DEVICE: &str = "lane0";

/// Generates a key.
pub fn key() -> PrivateKey {
    PrivateKey::generate(&mut OsEntropy::new().expect("the system's randomness"))
}

/// Returns the configuration of a router with one lane, the inside addresses of this host number, and no peer.
pub fn config(host: u8, key: &PrivateKey) -> RouterConfig {
    let mut config = RouterConfig::named(DEVICE);
    config.up = true;
    config.queues = Queues::Fixed(1);
    let address = |family: Family, prefix| IpNet::new(family.inside(host), prefix).expect("a prefix");
    config.addresses = vec![address(Family::V4, 24), address(Family::V6, 64)];
    config.update.private_key = Some(Some(key.clone()));
    config.update.listen_port = Some(PORT);
    config
}

/// Returns a peer with these allowed IPs and no endpoint.
pub fn peer(key: PublicKey, allowed_ips: &[&str]) -> PeerUpdate {
    let allow = |net: &&str| AllowedIpChange { net: net.parse().expect("a prefix"), remove: false };
    PeerUpdate { allowed_ips: allowed_ips.iter().map(allow).collect(), ..PeerUpdate::new(key) }
}

/// Starts a router in one side of the lab, with the faults of the calling thread.
///
/// # Panics
/// If the router does not start.
pub fn start(side: &Side, config: &RouterConfig) -> Router {
    let faults = faults::installed();
    let start = || {
        faults::install(faults);
        Router::start(config, None)
    };
    let started = side.namespace.run(start).expect("enter a namespace");
    started.unwrap_or_else(|error| panic!("{error}"))
}

/// Starts two routers that are each other's peer, with endpoints of the given address family.
pub fn pair(lab: &Lab, outside: Family) -> [Router; 2] {
    pair_with(lab, outside, |_| {})
}

/// Like [`pair`], with `tune` applied to both configurations before the start.
pub fn pair_with(lab: &Lab, outside: Family, tune: impl Fn(&mut RouterConfig)) -> [Router; 2] {
    pair_of(lab, outside, &[key(), key()], |_, config| tune(config))
}

/// Like [`pair_with`], with these keys; `tune` also receives the index of the router it tunes.
pub fn pair_of(
    lab: &Lab,
    outside: Family,
    keys: &[PrivateKey; 2],
    tune: impl Fn(usize, &mut RouterConfig),
) -> [Router; 2] {
    let sides = [&lab.left, &lab.right];
    [0, 1].map(|own: usize| {
        let other = 1 - own;
        let (mut config, host) = (config(own as u8 + 1, &keys[own]), other as u8 + 1);
        let allowed = [format!("{}/32", Family::V4.inside(host)), format!("{}/128", Family::V6.inside(host))];
        let mut peer = peer(keys[other].public_key(), &[&allowed[0], &allowed[1]]);
        peer.endpoint = Some(PeerEndpoint::Address(outside.endpoint(sides[other])));
        config.update.peers = vec![peer];
        tune(own, &mut config);
        start(sides[own], &config)
    })
}
