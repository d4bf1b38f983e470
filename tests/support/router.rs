//! Laneway itself as a peer, inside the test's own process, and its metrics.

use ipnet::IpNet;
use laneway::cli::demo::lab::{Lab, Side};
use laneway::config::update::{AllowedIpChange, PeerEndpoint, PeerUpdate};
use laneway::config::{Queues, RouterConfig};
use laneway::router::start::Router;
use laneway::wireguard::keys::{OsEntropy, PrivateKey, PublicKey};

use super::tunnel::{Family, PORT};

/// The device's name: namespaces keep routers apart.
pub const DEVICE: &str = "lane0";

/// A fresh key.
pub fn key() -> PrivateKey {
    PrivateKey::generate(&mut OsEntropy::new().expect("the system's randomness"))
}

/// One lane with the addresses of this host number, and no peer yet.
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

/// A peer with these allowed IPs, and no endpoint yet.
pub fn peer(key: PublicKey, allowed_ips: &[&str]) -> PeerUpdate {
    let allow = |net: &&str| AllowedIpChange { net: net.parse().expect("a prefix"), remove: false };
    PeerUpdate { allowed_ips: allowed_ips.iter().map(allow).collect(), ..PeerUpdate::new(key) }
}

/// Starts a router in one side of the lab.
///
/// # Panics
/// When it does not come up.
pub fn start(side: &Side, config: &RouterConfig) -> Router {
    let started = side.namespace.run(|| Router::start(config, None)).expect("enter a namespace");
    started.unwrap_or_else(|error| panic!("{error}"))
}

/// Two routers that know each other, over this protocol outside.
pub fn pair(lab: &Lab, outside: Family) -> [Router; 2] {
    pair_with(lab, outside, |_| {})
}

/// The same, with `tune` to change their settings before they start.
pub fn pair_with(lab: &Lab, outside: Family, tune: impl Fn(&mut RouterConfig)) -> [Router; 2] {
    pair_of(lab, outside, &[key(), key()], |_, config| tune(config))
}

/// The same with these keys, and with `tune` told which of the two it tunes.
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

/// The sum over the series of a family that have all of `labels`, such as `kind="rst"`.
///
/// # Panics
/// When there is no such series.
pub fn total(router: &Router, family: &str, labels: &[&str]) -> u64 {
    let text = router.metrics_text();
    let of_family = |line: &&str| line.strip_prefix(family).is_some_and(|rest| rest.starts_with(['{', ' ']));
    let series: Vec<&str> = text
        .lines()
        .filter(of_family)
        .filter(|line| labels.iter().all(|label| line.contains(label)))
        .collect();
    assert!(!series.is_empty(), "{family} {labels:?} is not in the metrics:\n{text}");
    let value = |line: &&str| line.rsplit(' ').next().and_then(|value| value.parse::<u64>().ok());
    series.iter().filter_map(value).sum()
}
