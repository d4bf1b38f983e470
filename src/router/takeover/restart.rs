//! Sessions across a restart of the service: the service manager keeps the router's state from one process to the next.
//!
//! | | The process that ends | The next process |
//! |---|---|---|
//! | 1 | pauses its workers, freezes the peer actor, writes the state into a memfd | |
//! | 2 | has the manager keep it (`FDSTORE=1`), waits until it has (`BARRIER=1`) | |
//! | 3 | ends, and leaves interface, routes, rules and control socket | |
//! | 4 | | has the manager forget it (`FDSTOREREMOVE=1`), waits until it has |
//! | 5 | | reads and wipes it, starts its threads |
//!
//! The first process sends nothing after step 1, whatever fails. The memory is the same for every process that has a
//! descriptor of it, so only one process reads it. It has sent nothing before, and one that ends after step 4 leaves no
//! state to the next. So no counter is sent twice. Step 4 comes before everything that can fail, such as reading the
//! configuration, so that a start that fails does not leave keys with the manager.

use std::fs::File;
use std::mem;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Offer;
use super::predecessor::Failed;
use super::state::{self, Memory, State, StateError};
use super::successor::Inherited;
use crate::clock;
use crate::config::RouterConfig;
use crate::faults::{self, TakeOverStep};
use crate::netlink::masquerade::{Masquerade, Masquerading};
use crate::service::ServiceManager;
use crate::wireguard::timers::REJECT_AFTER_TIME;

/// The names under which the manager keeps the state, and the socket of the rules for masquerading.
const STATE: &str = "sessions";
const RULES: &str = "masquerade";

/// Descriptors that the manager needs room for besides those of the router.
pub(super) const ROOM: usize = 2;

/// What the manager keeps.
#[derive(Serialize, Deserialize)]
struct Stored {
    /// The secret of the receiver indices.
    secret: [u8; 8],
    /// What is masqueraded.
    masquerade: Option<Masquerade>,
    /// Whether the kernel takes superpackets inside UDP tunnels, if it was tried.
    tunnels: Option<bool>,
    state: State,
}

/// Has `manager` keep the state of a router with this `offer`, and `rules`, the socket of the rules for masquerading.
pub(super) fn store(
    manager: &ServiceManager,
    (state, offer): (State, &Offer),
    masquerade: Option<(&Masquerade, BorrowedFd<'_>)>,
) -> Result<(), Failed> {
    let masquerade_of = masquerade.map(|(what, _)| what.clone());
    let stored = Stored { secret: offer.secret, masquerade: masquerade_of, tunnels: offer.tunnels, state };
    let memory = Memory(state::write(&stored)?);
    faults::step(TakeOverStep::Written);
    let told = masquerade.is_none_or(|(_, rules)| manager.keep(RULES, rules))
        && manager.keep(STATE, memory.0.as_fd());
    let why = if told {
        "the service manager has not said within 5 s that it keeps its sessions"
    } else {
        "the service manager did not take its sessions"
    };
    if !(told && manager.await_manager()) {
        manager.forget(STATE);
        if stored.masquerade.is_some() {
            manager.forget(RULES);
        }
        return Err(Failed::Here(why));
    }
    faults::step(TakeOverStep::Kept);
    // The next process wipes it.
    mem::forget(memory);
    Ok(())
}

/// The sessions that a process has left.
#[derive(Debug)]
pub struct StoredSessions {
    /// The state.
    pub state: State,
    /// The secret of the receiver indices.
    pub secret: [u8; 8],
}

/// Errors when using stored sessions.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("the service manager has not said within 5 s that it has let go of them")]
    StillKept,
    #[error("the service manager has kept those of two processes")]
    Two,
    #[error(transparent)]
    State(#[from] StateError),
    #[error("the router ended {} s ago, and they last {} s", .0.as_secs(), REJECT_AFTER_TIME.as_secs())]
    Old(Duration),
}

/// What the manager has passed on besides the router's descriptors. Dropping it wipes the state and removes the rules.
#[derive(Debug, Default)]
pub(super) struct Remainder {
    /// The states: one, unless something is wrong.
    memories: Vec<Memory>,
    rules: Option<OwnedFd>,
    /// The interface of the rules, once it is known.
    interface: Option<String>,
    /// Whether the manager has removed both.
    is_removed: bool,
}

impl Remainder {
    /// Removes it from `named`, and has `manager` forget it. Logs nothing.
    pub(super) fn take_out(manager: &ServiceManager, named: &mut Vec<(String, OwnedFd)>) -> Self {
        let mut remainder = Remainder::default();
        for (name, descriptor) in mem::take(named) {
            match &*name {
                STATE => remainder.memories.push(Memory(File::from(descriptor))),
                RULES => remainder.rules = Some(descriptor),
                _ => {
                    named.push((name, descriptor));
                    continue;
                }
            }
            faults::step(TakeOverStep::Found);
            manager.forget(&name);
        }
        if remainder.has_sessions() || remainder.rules.is_some() {
            remainder.is_removed = manager.await_manager();
            faults::step(TakeOverStep::Removed);
        }
        remainder
    }

    /// Returns whether there are sessions.
    pub(super) fn has_sessions(&self) -> bool {
        !self.memories.is_empty()
    }

    /// Notes that the rules are those of `interface`.
    pub(super) fn is_of(&mut self, interface: &str) {
        self.interface = Some(interface.to_owned());
    }

    /// Reads and wipes the state for a router with `config`, and adds what can be used to `inherited`.
    pub(super) fn add_to(mut self, inherited: &mut Inherited, config: &RouterConfig) {
        let read = match &*mem::take(&mut self.memories) {
            [] => return,
            [memory] => read(memory, self.is_removed),
            _ => Err(Unusable::Two),
        };
        let Stored { secret, masquerade, tunnels, state } = match read {
            Ok(stored) => stored,
            Err(why) => {
                tracing::warn!("sessions with peers start again: {why}");
                return;
            }
        };
        faults::step(TakeOverStep::Read);
        if masquerade == config.masquerade {
            inherited.masquerade = self.rules.take();
        }
        inherited.tunnels = tunnels;
        inherited.sessions = Some(Box::new(StoredSessions { state, secret }));
    }
}

impl Drop for Remainder {
    fn drop(&mut self) {
        // Of an unknown interface, they go with their socket, or the next router replaces them.
        if let (Some(rules), Some(interface)) = (self.rules.take(), &self.interface) {
            drop(Masquerading::inherit(interface, rules));
        }
    }
}

fn read(memory: &Memory, is_removed: bool) -> Result<Stored, Unusable> {
    if !is_removed {
        return Err(Unusable::StillKept);
    }
    let stored: Stored = state::take(&memory.0)?;
    let since = clock::now().since(stored.state.paused);
    if since >= REJECT_AFTER_TIME { Err(Unusable::Old(since)) } else { Ok(stored) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::state::ActorState;
    use crate::units::Nanos;
    use crate::wireguard::state::ProtocolState;

    fn memory(paused: Nanos) -> Memory {
        let protocol = ProtocolState { private_key: None, peers: Vec::new() };
        let actor = ActorState { fwmark: 5, protocol, records: Vec::new() };
        let masquerade = Some(Masquerade::Interface("eth0".to_owned()));
        let stored = Stored {
            secret: [3; 8],
            masquerade,
            tunnels: Some(true),
            state: State { paused, actor, staged: Vec::new() },
        };
        Memory(state::write(&stored).unwrap())
    }

    #[test]
    fn sessions_are_used_while_they_last_and_once_nobody_else_can() {
        let now = Nanos::NEVER.after(Duration::from_secs(1000));
        clock::simulated::set(now);
        let read_of = |age: Duration, is_removed| {
            let memory = memory(Nanos(now.0 - age.as_nanos() as u64));
            let copy = memory.0.try_clone().unwrap();
            let read = read(&memory, is_removed);
            drop(memory);
            assert_eq!(copy.metadata().unwrap().len(), 0, "it is wiped");
            read
        };
        let stored = read_of(Duration::from_secs(1), true).unwrap();
        assert_eq!((stored.secret, stored.tunnels, stored.state.actor.fwmark), ([3; 8], Some(true), 5));
        assert_eq!(stored.masquerade, Some(Masquerade::Interface("eth0".to_owned())));
        assert!(matches!(read_of(Duration::from_secs(1), false), Err(Unusable::StillKept)));
        assert!(matches!(read_of(REJECT_AFTER_TIME, true), Err(Unusable::Old(_))));
    }
}
