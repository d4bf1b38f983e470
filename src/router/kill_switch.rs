//! Keeps packets for the tunnel from leaving unencrypted while no router forwards them.
//!
//! Rules and unreachable routes are added before anything else is opened, and stay if the process crashes or is
//! killed: they belong to the network namespace. `laneway run` also makes its interface persistent
//! ([`Router::outlive_process`](super::start::Router::outlive_process)), so the next process takes over an interface
//! with the same index, addresses and routes. An ordered end removes everything, unless `LANEWAY_KEEP=on` is set or the
//! service is restarted ([`restart`](super::takeover::restart)).

use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use super::wiring::device::interface_setup;
use crate::config::RouterConfig;
use crate::netlink::{self, IpVersion, NetlinkError, PortRule, Ports, Setup};
use crate::peers::handle::Listening;
use crate::peers::resolver;

/// The rules and unreachable routes of one router.
#[derive(Debug)]
pub struct KillSwitch {
    interface: String,
    keep: bool,
    /// Whether this process is to delete the interface when it ends.
    persist: bool,
    /// Whether an earlier process left something behind.
    existed: bool,
    /// What the router has added, or may have added. Readable while a reload is in progress, so removal never waits
    /// for a stuck reload.
    own: Mutex<Setup>,
    /// Rules for datagrams to the router's UDP port that it has added, or may have added.
    port_rules: Mutex<Vec<PortRule>>,
    /// Whether these rules are to be removed for good.
    ended: AtomicBool,
}

impl KillSwitch {
    /// Adds the unreachable routes of `config` and, unless they have to [wait](waits_for_names), its rules, then removes
    /// those that an earlier process left and `config` does not contain.
    ///
    /// # Errors
    /// The kernel refused a request. Nothing is left behind that did not exist before.
    ///
    /// # Panics
    /// If called inside an async runtime.
    pub fn close(config: &RouterConfig) -> Result<KillSwitch, NetlinkError> {
        let found = if config.persist { Some(netlink::remains(&config.interface)?) } else { None };
        let setup = interface_setup(config);
        let switch = KillSwitch {
            interface: config.interface.clone(),
            keep: config.keep,
            persist: config.persist,
            existed: found.as_ref().is_some_and(|found| !found.is_empty()),
            own: Mutex::default(),
            port_rules: Mutex::default(),
            ended: AtomicBool::new(false),
        };
        switch.record(&setup);
        let rules = if waits_for_names(config) { Vec::new() } else { setup.rules.clone() };
        let closed = netlink::shut(&config.interface, &Setup { rules, ..setup.clone() });
        let closed = closed.and_then(|()| match found {
            Some(found) => {
                netlink::change_port_rules(&found.port_rules, &[])?;
                netlink::clean_up(&config.interface, &without(found.setup, &setup))
            }
            None => Ok(()),
        });
        if let Err(error) = closed {
            switch.end(ProcessEnd::NotStarted);
            return Err(error);
        }
        Ok(switch)
    }

    /// Creates the record of a router that takes over from another process. Nothing changes before
    /// [`close_again`](Self::close_again).
    pub fn inherit(config: &RouterConfig) -> KillSwitch {
        KillSwitch {
            interface: config.interface.clone(),
            keep: config.keep,
            persist: config.persist,
            existed: true,
            own: Mutex::default(),
            port_rules: Mutex::default(),
            ended: AtomicBool::new(false),
        }
    }

    /// Adds what is missing of the rules and unreachable routes of `config`, after the interface was taken over, and
    /// removes those that `config` does not contain. Rules for the ports stay until [`admit`](Self::admit) replaces them.
    ///
    /// # Errors
    /// The kernel refused a request.
    ///
    /// # Panics
    /// If called inside an async runtime.
    pub fn close_again(&self, config: &RouterConfig) -> Result<(), NetlinkError> {
        let found = netlink::remains(&config.interface)?;
        let setup = interface_setup(config);
        self.record(&setup);
        *self.port_rules() = found.port_rules;
        netlink::shut(&config.interface, &setup)?;
        netlink::clean_up(&config.interface, &without(found.setup.clone(), &setup))?;
        report_ended(&config.interface, &found.setup, &setup);
        Ok(())
    }

    /// Records what is about to be added.
    pub(super) fn record(&self, setup: &Setup) {
        let mut own = self.own();
        own.rules.extend_from_slice(&setup.rules);
        own.unreachable.extend_from_slice(&setup.unreachable);
    }

    /// Replaces the record with what is in force.
    pub(super) fn set(&self, setup: &Setup) {
        *self.own() =
            Setup { rules: setup.rules.clone(), unreachable: setup.unreachable.clone(), ..Setup::default() };
    }

    /// Lets datagrams to `ports` pass a strict reverse path filter, over each IP version whose packets `setup` all routes
    /// into the tunnel. Must be called again after changes of the ports, of the setup, or of other interfaces' addresses
    /// and routes.
    ///
    /// # Errors
    /// The kernel refused a request.
    ///
    /// # Panics
    /// If called inside an async runtime.
    pub(super) fn admit(&self, setup: &Setup, ports: Ports) -> Result<(), NetlinkError> {
        let after = if setup.rules.is_empty() {
            Vec::new()
        } else {
            netlink::port_rules(&self.interface, &setup.rules, ports)?
        };
        let before = {
            let mut recorded = self.port_rules();
            let before = recorded.clone();
            recorded.extend(after.iter().filter(|rule| !before.contains(rule)));
            before
        };
        netlink::change_port_rules(&before, &after)?;
        *self.port_rules() = after;
        if self.ended.load(Ordering::SeqCst) {
            // The router has stopped meanwhile.
            netlink::change_port_rules(&mem::take(&mut *self.port_rules()), &[])?;
        }
        Ok(())
    }

    /// Like [`admit`](Self::admit), for a router that has sent nothing yet: an answer to its first handshake message
    /// that the filter drops delays the tunnel by the 5 s until the next one. Leaves errors to later calls.
    ///
    /// # Panics
    /// If called inside an async runtime.
    pub fn admit_first(&self, config: &RouterConfig, Listening { port, last_port, .. }: Listening) {
        let ports = Ports { first: port, last: last_port };
        if let Err(error) = self.admit(&interface_setup(config), ports) {
            tracing::debug!("{error}");
        }
    }

    /// Removes rules, unreachable routes and a persistent interface, or leaves them, depending on how the process
    /// ends.
    pub fn end(&self, end: ProcessEnd) {
        let Self { interface, .. } = self;
        let own = self.own().clone();
        self.ended.store(true, Ordering::SeqCst);
        // Nothing is received any more. Removed even if the rest stays, since a port may get another owner.
        let closed = netlink::change_port_rules(&mem::take(&mut *self.port_rules()), &[]);
        if let Err(error) = closed {
            tracing::warn!("{error}; `laneway down {interface}` removes it");
        }
        let stays = match end {
            ProcessEnd::Ordered => self.keep,
            ProcessEnd::NotStarted => self.existed,
            ProcessEnd::Failed => self.persist,
        };
        if stays {
            if self.keep && end == ProcessEnd::Ordered {
                tracing::info!(
                    "{interface} stays and lets no packet out; `laneway down {interface}` removes it"
                );
            } else if !own.rules.is_empty() {
                tracing::warn!(
                    "packets for the tunnel are rejected until the router runs again; \
                     `laneway down {interface}` lets them pass unencrypted"
                );
            }
            return;
        }
        let cleaned = netlink::clean_up(interface, &own);
        let deleted = if self.persist { netlink::delete(interface) } else { Ok(()) };
        if let Err(error) = cleaned.and(deleted) {
            tracing::warn!(
                "{interface} was not fully removed: {error}; `laneway down {interface}` removes it"
            );
        }
    }

    fn port_rules(&self) -> MutexGuard<'_, Vec<PortRule>> {
        self.port_rules.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn own(&self) -> MutexGuard<'_, Setup> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whether the rules of `config` have to wait until endpoint names have been looked up: queries of a name server
/// on this host do not carry the router's mark, so the rules would reject them.
pub(super) fn waits_for_names(config: &RouterConfig) -> bool {
    !config.rules().is_empty() && config.awaits_names() && resolver::is_on_this_host()
}

/// Warns if `before` routed all packets of an IP version into the tunnel, and `after` does not.
pub(super) fn report_ended(interface: &str, before: &Setup, after: &Setup) {
    for version in [IpVersion::V4, IpVersion::V6] {
        if takes_all(before, version) && !takes_all(after, version) {
            tracing::warn!(
                "{interface} no longer has a default route: {version} packets that it took now follow the other routes \
                 of this host, unencrypted"
            );
        }
    }
}

/// Returns whether `setup` routes all packets of an IP version into the tunnel, also by several routes.
fn takes_all(setup: &Setup, version: IpVersion) -> bool {
    // Nothing but rules leads to other tables.
    let routes =
        setup.routes.iter().filter(|route| route.table == netlink::MAIN_TABLE).map(|route| route.net);
    let nets: Vec<_> = routes.filter(|net| IpVersion::of(net.addr()) == version).collect();
    setup.rules.iter().any(|rule| rule.version == version)
        || IpNet::aggregate(&nets).iter().any(|net| net.prefix_len() == 0)
}

/// How a router's process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessEnd {
    /// The router was told to stop.
    Ordered,
    /// The router did not start.
    NotStarted,
    /// The router ran and failed.
    Failed,
}

/// Returns the rules and unreachable routes of `found` that `setup` does not contain.
fn without(mut found: Setup, setup: &Setup) -> Setup {
    found.rules.retain(|rule| !setup.rules.contains(rule));
    found.unreachable.retain(|route| !setup.unreachable.contains(route));
    found
}
