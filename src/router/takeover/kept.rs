//! The descriptors that the service manager keeps for the next process, so that packets wait in the kernel's queues while
//! no process runs. After a crash sessions with peers start again; after a [`restart`] they go on.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use super::Descriptor;
use super::predecessor::Predecessor;
use super::restart::{self, Remainder};
use super::successor::Inherited;
use crate::config::RouterConfig;
use crate::netlink::masquerade::Masquerade;
use crate::service::{self, ServiceManager};
use crate::sys::tun;
use crate::underlay::{SocketOptions, UdpSocket};

/// How often the workers are looked at after a change of the port, and the pause in between.
const LOOKS: usize = 100;
const LOOK: Duration = Duration::from_millis(10);

/// What a router leaves to the next process of its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Everything.
    Sessions,
    /// All but the sessions and the rules for masquerading.
    Descriptors,
    /// Nothing: the router is to end as if the service were stopped.
    Nothing,
}

/// Has the service manager keep the descriptors of one router.
#[derive(Debug)]
pub struct Keeper {
    manager: Arc<ServiceManager>,
    router: Arc<Predecessor>,
    masquerade: Option<Masquerade>,
    /// The descriptors that are kept, and the port of the sockets among them; 0 for those that this process began with.
    kept: Mutex<(Vec<Descriptor>, u16)>,
    left: OnceLock<Left>,
    /// Whether the manager has room for all of them, once it is known.
    has_room: OnceLock<bool>,
}

impl Keeper {
    /// Creates the keeper of `router`'s descriptors, a router with these rules for masquerading. The manager still has the
    /// `kept` ones, which the first [`keep`](Self::keep) replaces.
    pub fn new(
        manager: Arc<ServiceManager>,
        router: Arc<Predecessor>,
        masquerade: Option<Masquerade>,
        kept: Vec<Descriptor>,
    ) -> Self {
        Keeper {
            manager,
            router,
            masquerade,
            kept: Mutex::new((kept, 0)),
            left: OnceLock::new(),
            has_room: OnceLock::new(),
        }
    }

    /// Returns the router.
    pub fn router(&self) -> &Arc<Predecessor> {
        &self.router
    }

    /// Returns the service manager.
    pub fn manager(&self) -> &Arc<ServiceManager> {
        &self.manager
    }

    /// Has the manager keep the current descriptors. Must be called again after a change of the port. Keeps none if the
    /// manager has too little room for all. The first call waits for the manager if that does not say how much it has.
    pub fn keep(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let port = self.router.port();
        if kept.1 == port && !kept.0.is_empty() {
            return;
        }
        // The workers change their sockets one after the other.
        for _ in 0..LOOKS {
            if self.router.has_port(port) {
                break;
            }
            thread::sleep(LOOK);
        }
        // Without room for one, the manager would log each descriptor that it cannot keep.
        let is_known = self.has_room.get().is_some() || self.manager.room().is_some();
        if !is_known && !self.manager.has_room_for(1) {
            let _ = self.has_room.set(false);
        }
        self.forget_all(&mut kept.0);
        if self.has_room.get() == Some(&false) {
            return;
        }
        self.router.with_descriptors(|descriptors| {
            let of_process = [Descriptor::Life, Descriptor::Masquerade];
            let descriptors = descriptors.iter().filter(|(kind, _)| !of_process.contains(kind));
            let needed = descriptors.clone().count() + restart::ROOM;
            let is_enough = self.manager.room().map(|room| needed <= room);
            if is_enough.is_some_and(|is_enough| !self.has_room.get_or_init(|| is_enough)) {
                return;
            }
            for (kind, descriptor) in descriptors {
                self.manager.keep(&kind.name(), *descriptor);
                kept.0.push(*kind);
            }
        });
        // After the others, since they take their room.
        if !*self.has_room.get_or_init(|| self.manager.has_room_for(restart::ROOM)) {
            self.forget_all(&mut kept.0);
        }
        kept.1 = port;
    }

    /// Has the manager keep the sessions too, and ends the router for a restart of its service. Returns what is left to the
    /// next process.
    pub fn leave(&self) -> Left {
        *self.left.get_or_init(|| self.leave_once())
    }

    /// Returns what [`leave`](Self::leave) has left; `None` if it was not called.
    pub fn left(&self) -> Option<Left> {
        self.left.get().copied()
    }

    fn leave_once(&self) -> Left {
        self.keep();
        if self.kept.lock().unwrap_or_else(PoisonError::into_inner).0.is_empty() {
            tracing::info!("sessions end with the restart, as the service manager keeps no descriptors");
            return Left::Nothing;
        }
        let left = self.router.leave_to_next(|state, offer, rules| {
            // The port does not change any more.
            self.keep();
            let masquerade = self.masquerade.as_ref().zip(rules);
            restart::store(&self.manager, (state, offer), masquerade)
        });
        match left {
            Ok(()) => Left::Sessions,
            Err(why) if self.router.is_left() => {
                tracing::warn!("sessions end with the restart: {why}");
                Left::Descriptors
            }
            Err(why) => {
                tracing::warn!("the router stops, and nothing is left to the next process: {why}");
                Left::Nothing
            }
        }
    }

    /// Has the manager close everything, before the router removes its interface.
    pub fn forget(&self) {
        self.forget_all(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner).0);
    }

    fn forget_all(&self, kept: &mut Vec<Descriptor>) {
        for kind in kept.drain(..) {
            self.manager.forget(&kind.name());
        }
    }
}

/// What the service manager has kept for this process. The manager still has the descriptors, but not the sessions;
/// dropping this wipes those.
#[derive(Debug)]
pub struct Kept {
    manager: Arc<ServiceManager>,
    named: Vec<(String, OwnedFd)>,
    remainder: Remainder,
    /// Why nothing can be used.
    trouble: Option<io::Error>,
}

impl Kept {
    /// Takes what the service manager of this process has kept. Must be called before anything that can fail, such as
    /// reading the configuration, so that a start that fails leaves no keys with the manager. Logs nothing.
    pub fn take() -> Self {
        // First, before anything else is opened under the numbers of the descriptors.
        let named = service::kept_descriptors();
        let manager = Arc::new(ServiceManager::of_process());
        let (mut named, trouble) = match named {
            Ok(named) => (named, None),
            Err(error) => {
                for name in service::kept_names() {
                    manager.forget(&name);
                }
                manager.await_manager();
                (Vec::new(), Some(error))
            }
        };
        if named.iter().any(|(name, _)| name == service::TRIAL) {
            named.retain(|(name, _)| name != service::TRIAL);
            manager.forget(service::TRIAL);
        }
        let remainder = Remainder::take_out(&manager, &mut named);
        Kept { manager, named, remainder, trouble }
    }

    /// Returns the service manager.
    pub fn manager(&self) -> &Arc<ServiceManager> {
        &self.manager
    }

    /// Returns what a router with `config` can use. If it can use nothing, the manager closes what it has.
    pub fn inherit(self, config: &RouterConfig) -> Option<Inherited> {
        let Kept { manager, named, mut remainder, trouble } = self;
        if let Some(error) = trouble {
            tracing::warn!("the descriptors that the service manager has kept cannot be used: {error}");
        }
        remainder.is_of(&config.interface);
        let and_sessions = if remainder.has_sessions() { ", and the sessions," } else { "" };
        let all: Vec<_> = named.iter().map(|(name, _)| name.clone()).collect();
        if all.is_empty() && !remainder.has_sessions() {
            return None;
        }
        match sort(named, config) {
            Ok(mut inherited) => {
                tracing::info!(
                    "{} continues with the queues and sockets of a router that has ended",
                    config.interface
                );
                remainder.add_to(&mut inherited, config);
                Some(inherited)
            }
            Err(why) => {
                tracing::info!(
                    "the queues and sockets{and_sessions} of a router that has ended are not used: {why}"
                );
                for name in all {
                    manager.forget(&name);
                }
                // The port is free once the manager has closed its duplicates.
                if !manager.await_manager() {
                    tracing::warn!("the service manager has not said within 5 s that it has closed them");
                }
                None
            }
        }
    }
}

/// Sorts descriptors by their names, and checks that they fit `config`.
fn sort(named: Vec<(String, OwnedFd)>, config: &RouterConfig) -> Result<Inherited, &'static str> {
    let mut sorted = BTreeMap::new();
    for (name, descriptor) in named {
        let kind = Descriptor::named(&name).ok_or("one has an unknown name")?;
        if sorted.insert(kind, descriptor).is_some() {
            return Err("there are two of a kind");
        }
    }
    let mut inherited = Inherited { kept: sorted.keys().copied().collect(), ..Inherited::default() };
    for (kind, descriptor) in sorted {
        inherited.add(kind, descriptor, &mut None).map_err(|_| "some are missing")?;
    }
    let lanes = config.queues.count_here();
    if inherited.queues.len() != lanes || inherited.sockets.len() != lanes {
        return Err("the number of lanes has changed");
    }
    let spread = config.spread_ports.is_on();
    if inherited.sockets.iter().skip(1).any(|(_, own)| own.is_some() != spread) {
        return Err("LANEWAY_SPREAD_PORTS has changed");
    }
    if inherited
        .queues
        .iter()
        .any(|queue| tun::interface(queue).map(|(name, _)| name).ok().as_ref() != Some(&config.interface))
    {
        return Err("the interface is gone or has another name");
    }
    for (socket, _) in &inherited.sockets {
        let socket = socket.as_fd().try_clone_to_owned().map_err(|_| "there are no descriptors left")?;
        let socket =
            UdpSocket::inherit(socket, SocketOptions::default()).map_err(|_| "one is no UDP socket")?;
        if config.update.listen_port.is_some_and(|port| port != 0 && port != socket.port()) {
            return Err("the port has changed");
        }
    }
    Ok(inherited)
}

impl Descriptor {
    /// Returns the name under which the service manager keeps it.
    fn name(self) -> String {
        match self {
            Descriptor::Tun(lane) => format!("tun-{lane}"),
            Descriptor::Shared(lane) => format!("udp-{lane}"),
            Descriptor::Own(lane) => format!("own-{lane}"),
            Descriptor::Http => "http".to_owned(),
            Descriptor::Control => "control".to_owned(),
            Descriptor::Masquerade => "masquerade".to_owned(),
            Descriptor::Life => "life".to_owned(),
        }
    }

    /// Returns the kind of the descriptor of this name.
    fn named(name: &str) -> Option<Self> {
        let of_lane = |prefix| name.strip_prefix(prefix)?.parse().ok();
        match name {
            "http" => Some(Descriptor::Http),
            "control" => Some(Descriptor::Control),
            _ => (of_lane("tun-").map(Descriptor::Tun))
                .or_else(|| of_lane("udp-").map(Descriptor::Shared))
                .or_else(|| of_lane("own-").map(Descriptor::Own)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_their_kinds() {
        let kinds = [
            Descriptor::Tun(0),
            Descriptor::Shared(12),
            Descriptor::Own(3),
            Descriptor::Http,
            Descriptor::Control,
        ];
        for kind in kinds {
            assert_eq!(Descriptor::named(&kind.name()), Some(kind));
        }
        for name in ["", "tun-", "tun-x", "life", "stored"] {
            assert_eq!(Descriptor::named(name), None, "{name}");
        }
    }
}
