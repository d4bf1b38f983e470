//! Reload on SIGHUP: reads the configuration file again and applies it while packets flow.
//!
//! Peers change as with `wg syncconf`: those that remain keep their sessions, counters and endpoints.
//! Addresses, routes, rules and MTU follow the file too. Settings that need a restart (lanes, offloads and
//! everything else from the environment) are not in the file. An invalid file changes nothing.

use std::collections::HashSet;
use std::hash::RandomState;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use super::kill_switch::{KillSwitch, report_ended, waits_for_names};
use super::mtu::{self, ChosenMtu};
use super::readiness::Readiness;
use super::start::Router;
use super::wiring::device::interface_setup;
use crate::config::changes::{Changes, Outline};
use crate::config::env::Environment;
use crate::config::update::PeerEndpoint;
use crate::config::{ConfigError, RouterConfig, Table};
use crate::netlink::{self, NetlinkError, Ports, Setup, TableLock};
use crate::peers::handle::{ActorHandle, Listening};
use crate::shutdown::Shutdown;
use crate::uapi::Device as _;

/// Time limit for host name lookups before all traffic is routed through the tunnel. Enough for two name
/// servers that time out and a third that answers (resolv.conf(5), "timeout").
const PATIENCE: Duration = Duration::from_secs(12);

/// How long removals are not reported again after a report.
const QUIET: Duration = Duration::from_secs(60);

/// How often lookups are checked for completion, in milliseconds.
const LOOK: u8 = 100;

/// Chooses the table for default routes if `config` leaves it to the router: that of `before`, the configuration in
/// force, otherwise the first that is free. Other routers cannot choose the same until the lock is dropped.
///
/// # Errors
/// The routes cannot be listed.
///
/// # Panics
/// Panics inside an async runtime.
pub fn choose_table(
    config: &mut RouterConfig,
    before: Option<&RouterConfig>,
) -> Result<Option<TableLock>, NetlinkError> {
    if !config.wants_table() {
        return Ok(None);
    }
    if let Some(mark) = before.filter(|before| before.wants_table()).and_then(|before| before.update.fwmark) {
        config.set_table(mark);
        return Ok(None);
    }
    let lock = TableLock::take();
    let number = netlink::free_table(&config.interface, Table::DEFAULT_ROUTES)?;
    let is_own = before.and_then(|before| before.update.fwmark) == Some(number);
    if number != Table::DEFAULT_ROUTES && !is_own {
        tracing::warn!(
            "table {} is in use, so {} uses table and mark {number}; default routes of the other tunnel may take \
             precedence",
            Table::DEFAULT_ROUTES,
            config.interface
        );
    }
    config.set_table(number);
    Ok(Some(lock))
}

/// Reloads one router.
#[derive(Debug)]
pub struct Reloader {
    interface: String,
    config: RouterConfig,
    environment: Environment,
    device: ActorHandle,
    shutdown: Arc<Shutdown>,
    switch: Arc<KillSwitch>,
    chosen: Arc<ChosenMtu>,
    readiness: Arc<Readiness>,
    /// When a removal was last reported.
    reported: Option<Instant>,
    /// The settings that the last change began with, if it failed.
    unchanged: Option<Setup>,
    /// What was last logged of rules for the router's ports.
    not_admitted: Option<String>,
    hasher: RandomState,
    /// Outline of the configuration that was read last.
    outline: Outline,
}

/// Errors when reloading the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// The router was started without a configuration file.
    #[error("no configuration file to reload")]
    NoFile,
    /// The file is invalid. Nothing has changed.
    #[error("configuration unchanged: {0}")]
    Mistake(#[from] ConfigError),
    /// The peer actor refused the configuration.
    #[error("cannot apply {}: {errno}", file.display())]
    Refused {
        /// The configuration file.
        file: PathBuf,
        /// The error number, as the UAPI socket would report it.
        errno: Errno,
    },
    /// Keys, port and peers follow the file, but some addresses, routes, rules or the MTU do not.
    #[error("peers were reloaded, but the interface was not fully updated: {0}")]
    Interface(#[from] NetlinkError),
}

impl Reloader {
    /// Creates a reloader for `router`, which was started with `config`. No rules are added once the router is told to
    /// stop.
    pub fn new(
        router: &Router,
        mut config: RouterConfig,
        environment: Environment,
        switch: Arc<KillSwitch>,
    ) -> Self {
        let hasher = RandomState::new();
        let outline = Outline::of(&config.update, &hasher);
        // The peer actor has the keys. They may be replaced, and then must not be here.
        config.update.forget_secrets();
        Reloader {
            interface: router.interface().to_owned(),
            config,
            environment,
            device: router.device().clone(),
            shutdown: Arc::clone(router.shutdown()),
            switch,
            chosen: Arc::clone(router.chosen_mtu()),
            readiness: Arc::new(router.readiness()),
            reported: None,
            unchanged: None,
            not_admitted: None,
            hasher,
            outline,
        }
    }

    /// Returns the conditions for readiness, one of which is that the interface is as configured.
    pub fn readiness(&self) -> Arc<Readiness> {
        Arc::clone(&self.readiness)
    }

    /// Adds the rules if they have [waited](waits_for_names) for endpoint names to be looked up, 12 s at most. Adds no
    /// rules if the router is told to stop meanwhile.
    ///
    /// # Errors
    /// Fails if the kernel refuses a rule.
    ///
    /// # Panics
    /// Panics inside an async runtime.
    pub fn add_rules(&mut self) -> Result<(), NetlinkError> {
        let setup = self.setup();
        if setup.rules.is_empty() {
            return Ok(());
        }
        if waits_for_names(&self.config) {
            self.await_names();
        }
        self.change(&Setup { rules: Vec::new(), ..setup.clone() }, &setup)
    }

    /// Waits until all endpoint names have been looked up, 12 s at most, or the router is told to stop.
    fn await_names(&self) {
        let begin = Instant::now();
        while let Some(name) = self.unresolved() {
            if begin.elapsed() > PATIENCE {
                tracing::warn!(
                    "{name} has no address yet; queries of the name server on this host go through the tunnel from \
                     now on"
                );
                break;
            }
            // A failed poll is harmless: the lookups run on other threads.
            let _ = poll(&mut [PollFd::new(self.shutdown.as_fd(), PollFlags::POLLIN)], LOOK);
            if self.shutdown.is_signalled() {
                break;
            }
        }
    }

    /// Returns an endpoint of the configuration that is a host name without an address yet.
    fn unresolved(&self) -> Option<&PeerEndpoint> {
        let status = self.device.status().ok()?;
        let located = status.peers.iter().filter(|peer| peer.endpoint.is_some());
        let located: HashSet<_> = located.map(|peer| peer.public_key).collect();
        let mut peers = self.config.update.peers.iter();
        peers.find_map(|peer| peer.endpoint.as_ref().filter(|_| !located.contains(&peer.public_key)))
    }

    /// Reads the configuration file again, applies it and waits until the peer actor has done so. Returns what has
    /// changed since the file was last read.
    ///
    /// # Errors
    /// See [`ReloadError`]. The router keeps running in any case.
    ///
    /// # Panics
    /// Panics inside an async runtime.
    pub fn reload(&mut self) -> Result<Changes, ReloadError> {
        let mut next = self.config.read_again(&self.environment)?.ok_or(ReloadError::NoFile)?;
        // Held until the routes are in the table.
        let _lock = choose_table(&mut next, Some(&self.config))?;
        mtu::choose(&mut next, &self.endpoints());
        let old = &self.config.warnings;
        for warning in next.warnings.iter().filter(|new| !old.iter().any(|old| new.repeats(old))) {
            tracing::warn!("{warning}");
        }
        // Before peers are sent to that need it.
        if !next.rules().is_empty() {
            self.switch.admit_first(&next, *self.device.listening().borrow());
        }
        self.device.apply(next.update.clone()).map_err(|errno| {
            let file = next.file.clone().unwrap_or_default();
            ReloadError::Refused { file, errno }
        })?;
        let outline = Outline::of(&next.update, &self.hasher);
        next.update.forget_secrets();
        let changes = Changes::between(&self.outline, &outline);
        self.outline = outline;
        let before = std::mem::replace(&mut self.config, next);
        let (old, new) = (interface_setup(&before), self.setup());
        if waits_for_names(&self.config) && new.rules.iter().any(|rule| !old.rules.contains(rule)) {
            self.await_names();
        }
        self.change(&old, &new)?;
        self.admit_ports();
        self.chosen.note(&self.config);
        Ok(changes)
    }

    /// Changes the interface, unless the router is stopping: rules added then might never be removed. A change that
    /// fails is tried again by [`restore`](Self::restore).
    fn change(&mut self, before: &Setup, after: &Setup) -> Result<(), NetlinkError> {
        if self.shutdown.is_signalled() {
            return Ok(());
        }
        self.switch.record(after);
        let changed = netlink::change(&self.interface, before, after);
        self.readiness.set_incomplete(changed.is_err());
        self.unchanged = changed.is_err().then(|| before.clone());
        changed?;
        self.switch.set(after);
        report_ended(&self.interface, before, after);
        Ok(())
    }

    /// Lets datagrams to the router's ports pass a strict reverse path filter. Must be called again after changes of the
    /// ports or of other interfaces' addresses and routes.
    ///
    /// # Panics
    /// Panics inside an async runtime.
    pub fn admit_ports(&mut self) {
        if self.shutdown.is_signalled() {
            return;
        }
        let Listening { port, last_port, .. } = *self.device.listening().borrow();
        if let Err(error) = self.switch.admit(&self.setup(), Ports { first: port, last: last_port }) {
            let message = format!(
                "{error}; a strict reverse path filter (rp_filter = 1, or firewalld's for IPv6) drops what the \
                 peers send"
            );
            if self.not_admitted.as_ref() != Some(&message) {
                tracing::warn!("{message}");
                self.not_admitted = Some(message);
            }
        }
    }

    /// Follows the underlay: `path` is the largest MTU of the routes to the peers, in bytes.
    ///
    /// # Panics
    /// Panics inside an async runtime.
    pub fn follow_mtu(&mut self, path: u32) {
        if !self.config.mtu_from.is_free() {
            return;
        }
        let (before, old) = (self.setup(), self.config.mtu);
        self.config.derive_mtu(path);
        let (interface, new) = (self.interface.clone(), self.config.mtu);
        if new == old {
            return;
        }
        match self.change(&before, &self.setup()) {
            Ok(()) => {
                self.chosen.note(&self.config);
                tracing::info!(
                    "the MTU of {interface} is now {new}, was {old}: the route to the peers has changed"
                );
            }
            Err(error) => tracing::warn!("{interface} does not follow the route to the peers: {error}"),
        }
    }

    /// Returns the peers' current endpoints.
    fn endpoints(&self) -> Vec<SocketAddr> {
        let peers = self.device.status().map(|status| status.peers).unwrap_or_default();
        peers.iter().filter_map(|peer| peer.endpoint).collect()
    }

    /// Adds addresses, routes and rules again that something else has removed, and warns, at most once a minute.
    ///
    /// # Panics
    /// Panics inside an async runtime.
    pub fn restore(&mut self) {
        self.admit_ports();
        if self.shutdown.is_signalled() {
            return;
        }
        let setup = self.setup();
        let changed = match self.unchanged.take() {
            Some(before) => self.change(&before, &setup),
            None => Ok(()),
        };
        let interface = &self.interface;
        let restored = changed.and_then(|()| netlink::restore(interface, &setup));
        self.readiness.set_incomplete(restored.is_err());
        let message = match restored {
            Ok(0) => return,
            Ok(missing) => format!(
                "{missing} addresses, routes or rules of {interface} had been removed, by a program or because it \
                 was down; they were added again"
            ),
            Err(error) => format!("{interface} lost addresses, routes or rules: {error}"),
        };
        if self.reported.is_some_and(|last| last.elapsed() < QUIET) {
            tracing::debug!("{message}");
        } else {
            tracing::warn!("{message}");
            self.reported = Some(Instant::now());
        }
    }

    /// Returns the interface settings of the current configuration.
    pub fn setup(&self) -> Setup {
        interface_setup(&self.config)
    }
}
