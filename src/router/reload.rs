//! Reload on SIGHUP: reads the configuration file again and applies it while packets flow.
//!
//! Peers change as with `wg syncconf`: those that remain keep their sessions, counters and endpoints.
//! Addresses, routes, rules and MTU follow the file too. Settings that need a restart (lanes, offloads and
//! everything else from the environment) are not in the file. An invalid file changes nothing.

use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use super::wiring::interface_setup;
use crate::config::env::Environment;
use crate::config::update::PeerEndpoint;
use crate::config::{ConfigError, RouterConfig};
use crate::netlink::{self, DefaultRule, NetlinkError, Setup};
use crate::peers::apply::ActorHandle;
use crate::shutdown::Shutdown;
use crate::uapi::Device as _;

/// Time limit for host name lookups before all traffic is routed through the tunnel. Enough for two name
/// servers that time out and a third that answers (resolv.conf(5), "timeout").
const PATIENCE: Duration = Duration::from_secs(12);

/// How often lookups are checked for completion, in milliseconds.
const LOOK: u8 = 100;

/// The routing rules that a router has added or may have added, to be removed when it stops. Readable while a
/// reload is in progress, so removal never waits for a stuck reload.
#[derive(Debug, Default)]
pub struct OwnRules(Mutex<Vec<DefaultRule>>);

impl OwnRules {
    /// Returns all rules.
    pub fn list(&self) -> Vec<DefaultRule> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records rules that are about to be added.
    fn add(&self, rules: &[DefaultRule]) {
        let mut own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        own.extend_from_slice(rules);
    }

    /// Replaces the record with the rules in force.
    fn set(&self, rules: &[DefaultRule]) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = rules.to_vec();
    }
}

/// Reloads one router.
#[derive(Debug)]
pub struct Reloader {
    interface: String,
    config: RouterConfig,
    environment: Environment,
    device: ActorHandle,
    shutdown: Arc<Shutdown>,
    rules: Arc<OwnRules>,
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
    /// Creates a reloader for the router at `device`, which was started on `interface` with `config` and has
    /// no rules yet. No rules are added once `shutdown` is signalled.
    pub fn new(
        interface: String,
        mut config: RouterConfig,
        environment: Environment,
        device: ActorHandle,
        shutdown: Arc<Shutdown>,
    ) -> Self {
        // The peer actor has the keys. They may be replaced, and then must not be here.
        config.update.forget_secrets();
        Reloader { interface, config, environment, device, shutdown, rules: Arc::default() }
    }

    /// Returns the rules to remove when the router stops.
    pub fn rules(&self) -> &Arc<OwnRules> {
        &self.rules
    }

    /// Adds the rules that route all traffic into the interface. These also capture queries to name servers,
    /// which get no answer before a peer is reached, so this first waits for endpoint names to be looked up,
    /// 12 s at most. Adds no rules if the router is told to stop meanwhile.
    ///
    /// # Errors
    /// Fails if the kernel refuses a rule.
    ///
    /// # Panics
    /// Panics inside an async runtime.
    pub fn add_rules(&self) -> Result<(), NetlinkError> {
        let setup = self.setup();
        if setup.rules.is_empty() {
            return Ok(());
        }
        let begin = Instant::now();
        while let Some(name) = self.unresolved() {
            if begin.elapsed() > PATIENCE {
                tracing::warn!("{name} has no address yet; further lookups go through the tunnel");
                break;
            }
            // A failed poll is harmless: the lookups run on other threads.
            let _ = poll(&mut [PollFd::new(self.shutdown.as_fd(), PollFlags::POLLIN)], LOOK);
            if self.shutdown.is_signalled() {
                break;
            }
        }
        self.change(&Setup { rules: Vec::new(), ..setup.clone() }, &setup)
    }

    /// Returns an endpoint of the configuration that is a host name without an address yet.
    fn unresolved(&self) -> Option<&PeerEndpoint> {
        let status = self.device.status().ok()?;
        let located = status.peers.iter().filter(|peer| peer.endpoint.is_some());
        let located: HashSet<_> = located.map(|peer| peer.public_key).collect();
        let mut peers = self.config.update.peers.iter();
        peers.find_map(|peer| peer.endpoint.as_ref().filter(|_| !located.contains(&peer.public_key)))
    }

    /// Reads the configuration file again, applies it and waits until the peer actor has done so.
    ///
    /// # Errors
    /// See [`ReloadError`]. The router keeps running in any case.
    ///
    /// # Panics
    /// Panics inside an async runtime.
    pub fn reload(&mut self) -> Result<(), ReloadError> {
        let mut next = self.config.read_again(&self.environment)?.ok_or(ReloadError::NoFile)?;
        for warning in &next.warnings {
            tracing::warn!("{warning}");
        }
        self.device.apply(next.update.clone()).map_err(|errno| {
            let file = next.file.clone().unwrap_or_default();
            ReloadError::Refused { file, errno }
        })?;
        next.update.forget_secrets();
        let before = interface_setup(&std::mem::replace(&mut self.config, next));
        let after = self.setup();
        Ok(self.change(&before, &after)?)
    }

    /// Changes the interface, unless the router is stopping: rules added then might never be removed.
    fn change(&self, before: &Setup, after: &Setup) -> Result<(), NetlinkError> {
        if self.shutdown.is_signalled() {
            return Ok(());
        }
        self.rules.add(&after.rules);
        netlink::change(&self.interface, before, after)?;
        self.rules.set(&after.rules);
        Ok(())
    }

    /// Returns the interface settings of the current configuration.
    pub fn setup(&self) -> Setup {
        interface_setup(&self.config)
    }
}
