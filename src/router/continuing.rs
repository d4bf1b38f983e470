//! A router that continues the sessions of another one.

use std::collections::HashMap;

use super::start::Router;
use super::takeover::RESERVE;
use super::takeover::state::State;
use super::takeover::successor::TakeOverError;
use super::wiring::{self, Access, Lanes, StartError};
use crate::clock;
use crate::config::RouterConfig;
use crate::config::update::{DeviceUpdate, PeerEndpoint};
use crate::lane::peers::Peers;
use crate::peers::actor::PeerActor;
use crate::uapi::Device as _;
use crate::units::Nanos;

impl Router {
    /// Records a take-over. `paused` is when the predecessor stopped, if its sessions go on.
    pub(super) fn note_take_over(&self, paused: Option<Nanos>) {
        let metrics = &self.access.estate.metrics;
        let interface = &self.access.interface;
        if let Some(paused) = paused {
            let gap = clock::now().since(paused);
            metrics.continued.increment(1);
            metrics.set_gap(gap);
            tracing::info!(
                "{interface} was taken over with its sessions; packets waited {:.1} ms",
                gap.as_secs_f64() * 1e3
            );
        } else {
            metrics.fresh.increment(1);
            tracing::info!("{interface} was taken over without sessions");
        }
    }

    /// Applies `config` as a reload does. `continues` says whether sessions go on. Errors are logged: the predecessor has
    /// ended.
    pub(super) fn follow_after_take_over(&self, config: &RouterConfig, continues: bool) {
        let interface = &self.access.interface;
        if let Err(error) = wiring::device::set_up_interface(config, interface, true) {
            tracing::error!("{interface} was taken over, but does not follow its configuration: {error}");
        }
        if continues
            && let Err(errno) =
                self.access.device.apply(without_known_endpoints(&self.access.peers, config.update.clone()))
        {
            tracing::error!(
                "{interface} was taken over, but its peers do not follow the configuration: {errno}"
            );
        }
    }
}

/// Returns `update` without endpoints that `peers` have already, so that they keep the source address.
fn without_known_endpoints(peers: &Peers, mut update: DeviceUpdate) -> DeviceUpdate {
    let snapshot = peers.load();
    let known: HashMap<_, _> = snapshot
        .peers
        .iter()
        .flatten()
        .filter_map(|record| Some((record.public_key, record.endpoint()?.address)))
        .collect();
    update.keep_endpoints = true;
    for peer in &mut update.peers {
        let has = known.get(&peer.public_key);
        peer.endpoint.take_if(|to| matches!(to, PeerEndpoint::Address(to) if has == Some(to)));
    }
    update
}

/// Lets a router that continues stored sessions follow `config`, before it carries packets.
///
/// # Errors
/// The configuration cannot be applied, or the interface cannot be set up.
pub(super) fn follow(
    config: &RouterConfig,
    access: &Access,
    actor: &mut PeerActor,
) -> Result<(), StartError> {
    wiring::device::set_up_interface(config, &access.interface, true)?;
    apply(without_known_endpoints(&access.peers, config.update.clone()), access, actor)
}

/// Applies `update` before the router runs.
///
/// # Errors
/// It cannot be applied.
pub(super) fn apply(update: DeviceUpdate, access: &Access, actor: &mut PeerActor) -> Result<(), StartError> {
    actor.apply(update).map_err(|errno| {
        StartError::Config(format!("cannot apply the configuration of {}: {errno}", access.interface))
    })
}

/// Continues with the peers, sessions and staged packets of `state`.
pub(super) fn continue_from(
    state: State,
    actor: &mut PeerActor,
    lanes: &mut Lanes,
) -> Result<(), StartError> {
    let ids = actor.import(state.actor, RESERVE).map_err(TakeOverError::from)?;
    let ids: HashMap<_, _> = ids.into_iter().collect();
    for ((inside, _, _), mut packets) in lanes.iter_mut().zip(state.staged) {
        packets.retain_mut(|packet| ids.get(&packet.peer).map(|id| packet.peer = *id).is_some());
        inside.sealer.stage_again(packets);
    }
    Ok(())
}
