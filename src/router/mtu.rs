//! The MTU of the interface and where it comes from.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::update::PeerEndpoint;
use crate::config::{MtuFrom, RouterConfig};
use crate::metrics::{Collector, Page};
use crate::netlink;

/// Derives the MTU from the routes to the peers, unless the configuration sets it. `current` are the endpoints in use.
/// Without a route, the MTU stays as it is.
///
/// # Panics
/// Panics inside an async runtime.
pub fn choose(config: &mut RouterConfig, current: &[SocketAddr]) {
    if !config.up || !config.mtu_from.is_free() {
        return;
    }
    let configured = config.update.peers.iter().filter_map(|peer| match &peer.endpoint {
        Some(PeerEndpoint::Address(address)) => Some(*address),
        _ => None,
    });
    let endpoints: Vec<_> = configured.chain(current.iter().copied()).collect();
    let mark = config.update.fwmark.unwrap_or(0);
    match netlink::path_mtu(&config.interface, &endpoints, mark) {
        Ok(Some(path)) => config.derive_mtu(path),
        Ok(None) => {}
        Err(error) => tracing::warn!("{error}; the MTU is {}", config.mtu),
    }
}

/// The MTU that the router has set, for metrics.
#[derive(Debug)]
pub struct ChosenMtu {
    chosen: Mutex<(u16, MtuFrom)>,
    /// The interface's MTU in bytes.
    current: Arc<AtomicUsize>,
}

impl ChosenMtu {
    /// Creates it for an interface whose MTU is kept in `current`.
    pub(super) fn new(config: &RouterConfig, current: Arc<AtomicUsize>) -> Self {
        ChosenMtu { chosen: Mutex::new((config.mtu, config.mtu_from)), current }
    }

    /// Notes the MTU of `config`.
    pub(super) fn note(&self, config: &RouterConfig) {
        *self.chosen.lock().unwrap_or_else(PoisonError::into_inner) = (config.mtu, config.mtu_from);
    }
}

/// Exports the MTU.
#[derive(Debug)]
pub(super) struct MtuMetrics(pub(super) Arc<ChosenMtu>);

impl Collector for MtuMetrics {
    fn collect(&self, page: &mut Page) {
        let (chosen, from) = *self.0.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.0.current.load(Ordering::Relaxed);
        let source = if current == usize::from(chosen) { from.label() } else { "other" };
        page.sample("laneway_tun_mtu_bytes", &[("source", source)], current as f64);
    }
}
