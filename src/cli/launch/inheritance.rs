//! What a router process continues with instead of opening it: a running router that it takes over, the descriptors that
//! the service manager has kept, or those of another program.

use std::mem;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::LaunchError;
use crate::cli::signals::Signals;
use crate::config::RouterConfig;
use crate::netlink::masquerade::Masquerading;
use crate::router::admin::{self, AdminError, Http};
use crate::router::listen::Bound;
use crate::router::start::{Origin, Router, StartError};
use crate::router::takeover::Descriptor;
use crate::router::takeover::kept::{Keeper, Kept, Left};
use crate::router::takeover::predecessor::Predecessor;
use crate::router::takeover::successor::Successor;
use crate::router::web::Web;
use crate::service::ServiceManager;
use crate::shutdown::Shutdown;
use crate::uapi::{self, UapiError};

/// What a process continues with.
pub(super) struct Inheritance {
    /// What the router starts from.
    pub(super) origin: Origin,
    /// The rules for masquerading.
    pub(super) rules: Option<OwnedFd>,
    /// The listening control socket.
    control: Option<OwnedFd>,
    /// The listener for HTTP.
    http: Option<TcpListener>,
    /// The descriptors that the service manager still keeps.
    kept: Vec<Descriptor>,
}

impl Inheritance {
    /// Uses what the service manager has `kept`, or asks the running router, if the process is to take over. `tun` is a
    /// queue of another program.
    pub(super) fn find(config: &RouterConfig, kept: Kept, tun: Option<OwnedFd>) -> Result<Self, LaunchError> {
        let mut origin = tun.map_or(Origin::Nothing, Origin::Queue);
        // If the service manager has kept something, the router of this service has ended.
        if let (Origin::Nothing, Some(kept)) = (&origin, kept.inherit(config)) {
            origin = Origin::Inherited(kept);
        } else if config.take_over {
            let asked = Successor::ask(&config.uapi_dir, &config.interface).map_err(StartError::from)?;
            if let Some(successor) = asked {
                origin = Origin::Predecessor(successor);
            } else {
                tracing::info!("no router serves {}, so none is taken over", config.interface);
            }
        }
        let inherited = match &mut origin {
            Origin::Predecessor(successor) => successor.descriptors(),
            Origin::Inherited(inherited) => inherited,
            Origin::Nothing | Origin::Queue(_) => {
                return Ok(Inheritance { origin, rules: None, control: None, http: None, kept: Vec::new() });
            }
        };
        let (rules, control, http) =
            (inherited.masquerade.take(), inherited.control.take(), inherited.http.take());
        let kept = mem::take(&mut inherited.kept);
        Ok(Inheritance { origin, rules, control, http, kept })
    }

    /// Returns whether the process continues with anything of a router.
    pub(super) fn inherits(&self) -> bool {
        matches!(self.origin, Origin::Predecessor(_) | Origin::Inherited(_))
    }

    /// Returns whether a router is taken over whose rules are in force, with its sessions or because it still runs.
    pub(super) fn takes_over(&self) -> bool {
        match &self.origin {
            Origin::Predecessor(_) => true,
            Origin::Inherited(inherited) => inherited.sessions.is_some(),
            Origin::Nothing | Origin::Queue(_) => false,
        }
    }

    /// Binds the address for HTTP of `config`, or takes the listener that has it. `web` has certificates and logins.
    pub(super) fn bind_http(
        &mut self,
        config: &RouterConfig,
        web: Option<Arc<Web>>,
    ) -> Result<Option<Http>, AdminError> {
        let bind = |address| match self.http.take_if(|http| serves(http, address)) {
            Some(http) => Ok(Bound::from(http)),
            None => admin::bind(address),
        };
        let bound = config.metrics_addr.map(bind).transpose()?;
        Ok(bound.map(|bound| Http { bound, from_tunnel: config.metrics_from_tunnel, web }))
    }

    /// Returns what opens the control socket of `interface`, which is `given` if another program has opened it.
    pub(super) fn control_of(
        &mut self,
        given: Option<uapi::Server>,
        config: &RouterConfig,
        interface: &str,
    ) -> impl FnOnce() -> Result<uapi::Server, UapiError> + use<> {
        let (control, directory, interface) =
            (self.control.take(), config.uapi_dir.clone(), interface.to_owned());
        move || match (given, control) {
            (Some(server), _) => Ok(server),
            // Someone may have removed the file while no process served it.
            (None, Some(control)) if uapi::socket_path(&directory, &interface).exists() => {
                uapi::Server::take_over(control, &directory, &interface)
            }
            (None, _) => uapi::Server::bind(&directory, &interface),
        }
    }

    /// Returns what hands `router`, which has this configuration, over to a successor, and has `manager` keep its descriptors
    /// in place of those that the process began with.
    pub(super) fn bequeath(
        &mut self,
        router: &Router,
        config: &RouterConfig,
        http: Option<&Http>,
        rules: Option<&Masquerading>,
        signals: &Signals,
        manager: &Arc<ServiceManager>,
    ) -> Result<Arc<Keeper>, StartError> {
        let duplicate = |fd: BorrowedFd<'_>| fd.try_clone_to_owned();
        let http = http.map(|http| duplicate(http.bound.as_fd())).transpose()?;
        let rules = rules.map(|rules| duplicate(rules.as_fd())).transpose()?;
        let handed_over = Arc::clone(signals.handed_over());
        let predecessor = Predecessor::new(router.estate().clone(), http, rules, handed_over)?;
        let kept = mem::take(&mut self.kept);
        Ok(Arc::new(Keeper::new(Arc::clone(manager), Arc::new(predecessor), config.masquerade.clone(), kept)))
    }
}

/// Blocks until the router is told to stop. Once `restart` is readable, leaves it to the next process of its service.
pub(super) fn wait_for(shutdown: &Shutdown, restart: BorrowedFd<'_>, signals: &Signals, keeper: &Keeper) {
    while !shutdown.is_signalled() {
        let events = [shutdown.as_fd(), restart].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        match poll(&mut { events }, PollTimeout::NONE) {
            Ok(_) if signals.takes_restart() => {
                if keeper.leave() == Left::Nothing {
                    signals.stop(shutdown);
                }
            }
            Ok(_) | Err(Errno::EINTR | Errno::EAGAIN | Errno::ENOMEM) => {}
            Err(errno) => panic!("poll on the shutdown descriptor: {errno}"),
        }
    }
}

/// Returns whether `listener` listens on `address`, of which the port may be 0 for any.
fn serves(listener: &TcpListener, address: SocketAddr) -> bool {
    listener.local_addr().is_ok_and(|bound| {
        bound.ip() == address.ip() && (address.port() == 0 || bound.port() == address.port())
    })
}
