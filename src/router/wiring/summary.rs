//! What a router logs when it starts.

use std::sync::Arc;

use crate::config::{MtuFrom, RouterConfig};
use crate::cpus::pinning::LaneCpus;
use crate::lane::sockets::LaneSockets;
use crate::offload::{Offloads, TunDevice};
use crate::wireguard::aead::Backend;

/// What the log says about a router once it is up.
#[derive(Clone, Debug)]
pub struct Summary {
    interface: String,
    cpus: Vec<String>,
    offloads: Offloads,
    writes_tunnels: bool,
    gso: bool,
    gro: bool,
    aead: Backend,
    mtu: u16,
    mtu_from: MtuFrom,
    addresses: Vec<String>,
    port: u16,
    metrics: String,
}

impl Summary {
    pub(super) fn of(
        config: &RouterConfig,
        tun: &TunDevice,
        sockets: &[Arc<LaneSockets>],
        cpus: &[LaneCpus],
    ) -> Self {
        let pinned = |cpu: Option<usize>| cpu.map_or_else(|| "any".into(), |cpu| cpu.to_string());
        let socket = &sockets.first().expect("a router has a lane").shared;
        Summary {
            interface: tun.name.clone(),
            cpus: cpus
                .iter()
                .map(|lane| format!("{}+{}", pinned(lane.inside), pinned(lane.outside)))
                .collect(),
            offloads: tun.offloads,
            writes_tunnels: tun.writes_tunnels,
            gso: socket.gso(),
            gro: socket.gro(),
            aead: config.aead,
            mtu: config.mtu,
            mtu_from: config.mtu_from,
            addresses: config.addresses.iter().map(ToString::to_string).collect(),
            port: socket.port(),
            metrics: "off".to_owned(),
        }
    }

    /// Adds where the metrics are.
    pub fn add_metrics(&mut self, metrics: String) {
        self.metrics = metrics;
    }

    /// Logs it, on one line.
    pub fn log(&self) {
        tracing::info!(
            interface = self.interface,
            queues = self.cpus.len(),
            cpus = self.cpus.join(","),
            tso = self.offloads.tcp,
            uso = self.offloads.udp,
            udp_tunnel = self.offloads.udp_tunnel,
            udp_tunnel_write = self.writes_tunnels,
            gso = self.gso,
            gro = self.gro,
            aead = %self.aead,
            mtu = self.mtu,
            mtu_from = %self.mtu_from,
            addresses = self.addresses.join(","),
            port = self.port,
            metrics = self.metrics,
            "router is up"
        );
    }
}
