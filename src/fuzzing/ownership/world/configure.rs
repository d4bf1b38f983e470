//! Steps that change the configuration: applied to the router and to the list of what holds.

use super::World;
use crate::config::update::{AllowedIpChange, DeviceUpdate, PeerEndpoint, PeerUpdate};
use crate::fuzzing::ownership::config::{NETS, REMOTES};
use crate::fuzzing::ownership::steps::ModelStep;
use crate::wireguard::keys::{Counting, PresharedKey, PrivateKey};

impl World {
    /// Applies a step of the configuration to the router, and to the list.
    pub(super) fn configure(&mut self, step: ModelStep) {
        let mut config = self.configs[self.current()].clone();
        let mut update = DeviceUpdate::default();
        let net = |net: usize| NETS[net].parse().expect("a prefix");
        let gives = |number: usize| vec![AllowedIpChange { net: net(number), remove: false }];
        let peer = |world: &World, remote: usize| PeerUpdate {
            endpoint: Some(PeerEndpoint::Address(world.remotes[remote].address)),
            preshared_key: Some(world.remotes[remote].preshared.clone()),
            ..PeerUpdate::new(world.remotes[remote].private.public_key())
        };
        match step {
            ModelStep::Add { remote, net: number } => {
                update.peers = vec![PeerUpdate { allowed_ips: gives(number), ..peer(self, remote) }];
                config.add(remote);
                config.give(net(number), remote);
            }
            ModelStep::Remove { remote } => {
                update.peers = vec![PeerUpdate { remove: true, ..peer(self, remote) }];
                config.remove(remote);
            }
            ModelStep::Replace { remote, by, net: number } => {
                let removed = PeerUpdate { remove: true, ..peer(self, remote) };
                update.peers = vec![removed, PeerUpdate { allowed_ips: gives(number), ..peer(self, by) }];
                config.remove(remote);
                config.add(by);
                config.give(net(number), by);
            }
            ModelStep::Give { remote, net: number, only } => {
                let change = PeerUpdate {
                    update_only: true,
                    replace_allowed_ips: only,
                    allowed_ips: gives(number),
                    endpoint: None,
                    ..peer(self, remote)
                };
                update.peers = vec![change];
                if config.has(remote) {
                    if only {
                        config.take_all(remote);
                    }
                    config.give(net(number), remote);
                }
            }
            ModelStep::Take { remote, net: number } => {
                let allowed_ips = vec![AllowedIpChange { net: net(number), remove: true }];
                update.peers = vec![PeerUpdate { update_only: true, allowed_ips, ..peer(self, remote) }];
                config.take(net(number), remote);
            }
            ModelStep::Reload { remotes, net: number } => {
                config.keep(remotes);
                update.replace_peers = true;
                update.keep_endpoints = remotes & 16 != 0;
                for remote in (0..REMOTES).filter(|remote| remotes & 1 << remote != 0) {
                    let number = (number + remote) % NETS.len();
                    update.peers.push(PeerUpdate { allowed_ips: gives(number), ..peer(self, remote) });
                    config.add(remote);
                    config.give(net(number), remote);
                }
            }
            _ => unreachable!("a step of the configuration"),
        }
        self.router.apply(update);
        self.configs.push(config);
    }

    pub(super) fn change_key(&mut self) {
        self.keys += 1;
        let private = PrivateKey::generate(&mut Counting(500 + self.keys));
        self.own = private.public_key();
        self.router.apply(DeviceUpdate { private_key: Some(Some(private)), ..DeviceUpdate::default() });
        for remote in &mut self.remotes {
            remote.restart(self.own);
        }
    }

    pub(super) fn change_preshared_key(&mut self, remote: usize) {
        self.keys += 1;
        let key = PresharedKey::from_bytes([100 + self.keys as u8; 32]);
        let remote = &mut self.remotes[remote];
        remote.set_preshared_key(key.clone());
        let peer = PeerUpdate {
            update_only: true,
            preshared_key: Some(key),
            ..PeerUpdate::new(remote.private.public_key())
        };
        self.router.apply(DeviceUpdate { peers: vec![peer], ..DeviceUpdate::default() });
    }
}
