//! Opens the TUN device and sets its interface up.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::{StartError, segments_per_run};
use crate::config::RouterConfig;
use crate::offload::{OpenError, TunDevice};
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
    for queue in &mut tun.queues {
        queue.writer.fill_checksums(config.tunnel_merge.is_on());
    }
    Ok(tun)
}

/// Returns the number of queues of a persistent multiqueue TUN.
pub(super) fn attached(interface: &str) -> Option<usize> {
    let state = netlink::tun_state(interface).ok().flatten()?;
    state.persistent.then_some(state.queues as usize)
}

/// Gives the interface its addresses and routes. Rules and unreachable routes are added earlier: see `KillSwitch`.
pub(super) fn set_up(config: &RouterConfig, tun: &TunDevice) -> Result<(), StartError> {
    let setup = netlink::Setup { rules: Vec::new(), unreachable: Vec::new(), ..interface_setup(config) };
    if tun.lifetime.taken_over() && config.persist {
        let found = netlink::remains(&tun.name)?.setup;
        let before = netlink::Setup { rules: Vec::new(), unreachable: Vec::new(), ..found };
        netlink::change(&tun.name, &before, &setup)?;
    } else {
        netlink::set_up(&tun.name, &setup)?;
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
