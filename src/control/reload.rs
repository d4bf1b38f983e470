//! SIGHUP: the file is read again and what it says now is brought about, while packets flow.
//!
//! Peers change as with `wg syncconf`: those that stay keep their sessions, counters and endpoints.
//! Addresses, routes, rules and MTU follow the file too. What it takes a restart to change (lanes, offloads
//! and whatever else the environment says) is not in the file. A file with a mistake changes nothing.

use std::collections::HashSet;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};

use super::config::env::Environment;
use super::config::update::PeerEndpoint;
use super::config::{ConfigError, RouterConfig};
use super::device::DeviceHandle;
use super::netlink::{self, DefaultRule, NetlinkError, Setup};
use super::parts::interface_setup;
use super::uapi::Device as _;
use crate::offload::Shutdown;

/// How long names are waited for before everything goes through the tunnel: two name servers that do not
/// answer, and one that does (resolv.conf(5), "timeout").
const PATIENCE: Duration = Duration::from_secs(12);

/// How often we look whether they have addresses, in milliseconds.
const LOOK: u8 = 100;

/// The rules that a router has made, and those that it may have made: all that have to be taken away. Whoever does
/// that does not wait for a reload that is stuck.
#[derive(Debug, Default)]
pub struct OwnRules(Mutex<Vec<DefaultRule>>);

impl OwnRules {
    /// All of them.
    pub fn list(&self) -> Vec<DefaultRule> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// These are about to be made, too.
    fn add(&self, rules: &[DefaultRule]) {
        let mut own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        own.extend_from_slice(rules);
    }

    /// There are these and no others.
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
    device: DeviceHandle,
    shutdown: Arc<Shutdown>,
    rules: Arc<OwnRules>,
}

/// Why the router is not as its file says.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// There is no file.
    #[error("there is no configuration file to read again")]
    NoFile,
    /// The file has a mistake. Nothing has changed.
    #[error("everything stays as it is: {0}")]
    Mistake(#[from] ConfigError),
    /// The router refused it.
    #[error("{} cannot be applied: {errno}", file.display())]
    Refused {
        /// The file.
        file: PathBuf,
        /// What the control socket would answer.
        errno: Errno,
    },
    /// Keys, port and peers are as the file says. Of addresses, routes and MTU some are not.
    #[error("peers are as the file has them now, but the interface is not: {0}")]
    Interface(#[from] NetlinkError),
}

impl Reloader {
    /// For the router at `device`, which was started on `interface` as `config` says and has no rules yet. Once
    /// `shutdown` is signalled, no more are added.
    pub fn new(
        interface: String,
        config: RouterConfig,
        environment: Environment,
        device: DeviceHandle,
        shutdown: Arc<Shutdown>,
    ) -> Self {
        Reloader { interface, config, environment, device, shutdown, rules: Arc::default() }
    }

    /// The rules that have to be taken away at the end.
    pub fn rules(&self) -> &Arc<OwnRules> {
        &self.rules
    }

    /// Adds the rules that lead everything into the interface. Questions to name servers will go there too,
    /// and get no answer before a peer has been reached: so names are looked up first, if that does not take
    /// too long. If the router is told to stop meanwhile, there is nothing to lead there any more.
    ///
    /// # Errors
    /// The kernel refuses.
    ///
    /// # Panics
    /// Inside an async runtime.
    pub fn add_rules(&self) -> Result<(), NetlinkError> {
        let setup = self.setup();
        if setup.rules.is_empty() {
            return Ok(());
        }
        let begin = Instant::now();
        while let Some(name) = self.unresolved() {
            if begin.elapsed() > PATIENCE {
                tracing::warn!("{name} has no address yet, and is asked for through the tunnel from now on");
                break;
            }
            // Also if this wait fails we have waited: names are asked for elsewhere.
            let _ = poll(&mut [PollFd::new(self.shutdown.as_fd(), PollFlags::POLLIN)], LOOK);
            if self.shutdown.is_signalled() {
                break;
            }
        }
        self.change(&Setup { rules: Vec::new(), ..setup.clone() }, &setup)
    }

    /// An endpoint of the file that is a name, and has no address yet.
    fn unresolved(&self) -> Option<&PeerEndpoint> {
        let status = self.device.status().ok()?;
        let located = status.peers.iter().filter(|peer| peer.endpoint.is_some());
        let located: HashSet<_> = located.map(|peer| peer.public_key).collect();
        let mut peers = self.config.update.peers.iter();
        peers.find_map(|peer| peer.endpoint.as_ref().filter(|_| !located.contains(&peer.public_key)))
    }

    /// Reads the file again, and waits until the router has taken it.
    ///
    /// # Errors
    /// See [`ReloadError`]; the router goes on in any case.
    ///
    /// # Panics
    /// Inside an async runtime.
    pub fn reload(&mut self) -> Result<(), ReloadError> {
        let next = self.config.read_again(&self.environment)?.ok_or(ReloadError::NoFile)?;
        for warning in &next.warnings {
            tracing::warn!("{warning}");
        }
        self.device.apply(next.update.clone()).map_err(|errno| {
            let file = next.file.clone().unwrap_or_default();
            ReloadError::Refused { file, errno }
        })?;
        let before = interface_setup(&std::mem::replace(&mut self.config, next));
        let after = self.setup();
        Ok(self.change(&before, &after)?)
    }

    /// Changes the interface, unless the router is stopping: nobody might take rules away any more.
    fn change(&self, before: &Setup, after: &Setup) -> Result<(), NetlinkError> {
        if self.shutdown.is_signalled() {
            return Ok(());
        }
        self.rules.add(&after.rules);
        netlink::change(&self.interface, before, after)?;
        self.rules.set(&after.rules);
        Ok(())
    }

    /// How the interface is set up now.
    pub fn setup(&self) -> Setup {
        interface_setup(&self.config)
    }
}
