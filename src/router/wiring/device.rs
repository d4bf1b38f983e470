//! Opens the TUN device and sets its interface up.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::{StartError, segments_per_run};
use crate::config::RouterConfig;
use crate::offload::{Offloads, OpenError, TunDevice};
use crate::shutdown::Shutdown;
use crate::{netlink, offload};

/// Opens the TUN device, or takes over the queue `tun`.
pub(super) fn open_tun(
    config: &RouterConfig,
    tun: Option<OwnedFd>,
    lanes: usize,
    shutdown: &Arc<Shutdown>,
) -> Result<TunDevice, OpenError> {
    let offload = config.tun_offload.is_on();
    let mut tun = match tun {
        Some(fd) => offload::inherit_queue(fd, lanes, offload, shutdown)?,
        None if config.persist => {
            offload::open_or_take_over(&config.interface, lanes, offload, shutdown, attached)?
        }
        None => offload::open_queues(&config.interface, lanes, offload, shutdown)?,
    };
    fill_checksums(config, &mut tun);
    Ok(tun)
}

/// Takes over all queues of a router's interface. With `offloads`, those that it has, nothing about it is changed.
/// `tunnels` says whether the kernel takes superpackets inside UDP tunnels, if that is known.
pub(super) fn inherit_tun(
    config: &RouterConfig,
    queues: Vec<OwnedFd>,
    offloads: Option<Offloads>,
    tunnels: Option<bool>,
    shutdown: &Arc<Shutdown>,
) -> Result<TunDevice, OpenError> {
    let mut tun = offload::inherit_queues(queues, offloads, config.tun_offload.is_on(), tunnels, shutdown)?;
    fill_checksums(config, &mut tun);
    Ok(tun)
}

fn fill_checksums(config: &RouterConfig, tun: &mut TunDevice) {
    for queue in &mut tun.queues {
        queue.writer.fill_checksums(config.tunnel_merge.is_on());
    }
}

/// Returns the number of queues of a persistent multiqueue TUN.
pub(super) fn attached(interface: &str) -> Option<usize> {
    let state = netlink::tun_state(interface).ok().flatten()?;
    state.persistent.then_some(state.queues as usize)
}

/// Gives the interface its addresses and routes. Rules and unreachable routes are added earlier: see `KillSwitch`.
pub(super) fn set_up(config: &RouterConfig, tun: &TunDevice) -> Result<(), StartError> {
    set_up_interface(config, &tun.name, tun.lifetime.taken_over())
}

/// Gives `interface` its addresses and routes, and removes those of a router before, if it was `taken_over`. Leaves those
/// that others have set: with `laneway IFNAME`, all of them.
pub(crate) fn set_up_interface(
    config: &RouterConfig,
    interface: &str,
    taken_over: bool,
) -> Result<(), StartError> {
    let setup = netlink::Setup { rules: Vec::new(), unreachable: Vec::new(), ..interface_setup(config) };
    // Without the routes of a control plane, such as Kilo's, packets would leave unencrypted until it adds them again.
    if taken_over && config.persist && config.up {
        let found = netlink::remains(interface)?.setup;
        let before = netlink::Setup { rules: Vec::new(), unreachable: Vec::new(), ..found };
        netlink::change(interface, &before, &setup)?;
    } else {
        netlink::set_up(interface, &setup)?;
    }
    Ok(())
}

/// Returns the interface settings that `config` asks of the kernel.
pub(crate) fn interface_setup(config: &RouterConfig) -> netlink::Setup {
    netlink::Setup {
        mtu: config.mtu,
        gso_max_segs: segments_per_run(config.mtu) as u32,
        addresses: config.addresses.clone(),
        routes: config.routes(),
        rules: config.rules(),
        unreachable: config.unreachable(),
        up: config.up,
    }
}
