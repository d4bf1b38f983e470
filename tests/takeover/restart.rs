//! `laneway run` is restarted by its service manager: packets, sessions and order survive it, and whichever process dies
//! when, no counter is sent twice.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::manager::Manager;
use crate::succession::{CHUNK, Tunnel};
use crate::support::process::{Process, output};
use crate::support::{Finally, links, require_root, wait_until};
use crate::traffic::{Flow, Wire, assert_complete, stream};
use laneway::faults::{DIES_AT, TakeOverStep, UNDERSTANDS};
use nix::sys::signal::Signal;

/// How many times a router is restarted in a row.
const RESTARTS: usize = 3;

/// The signal by which the unit asks for the end before a restart.
const RESTART: Signal = Signal::SIGUSR1;

/// A router that a service manager runs.
struct Service {
    tunnel: Tunnel,
    manager: Manager,
}

impl Service {
    fn new(lanes: usize, variables: &[(&'static str, &str)]) -> Service {
        let tunnel = Tunnel::new(lanes, variables);
        let manager = Manager::new(&tunnel.folder);
        Service { tunnel, manager }
    }

    /// Starts the next process. `more` variables come after those of all processes.
    fn start(&self, more: &[(&str, &str)]) -> Process {
        let Tunnel { lab, file, environment, .. } = &self.tunnel;
        let mut variables: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        variables.extend(more);
        self.manager.start(&lab.left, &["run", "--config", file], &variables, Some("64"))
    }

    /// Starts the next process, and waits until it is ready and the tunnel carries packets.
    fn run(&self, more: &[(&str, &str)]) -> Process {
        let process = self.manager.until_ready(|| self.start(more));
        self.tunnel.wait_for_packets();
        process
    }

    fn keeps_sessions(&self) -> bool {
        self.manager.told().kept.contains_key("sessions")
    }

    /// Returns whether the router has made no handshake since it started.
    fn went_on(&self) -> bool {
        self.tunnel.metric("laneway_handshakes_total") < 0.5
    }

    /// Stops the service, and checks that nothing is left.
    fn stop(&self, mut router: Process) {
        router.signal(Signal::SIGTERM);
        assert_eq!(router.wait(), Some(0), "{}", router.said());
        wait_until("everything to be forgotten", || self.manager.kept().is_empty());
        let left = &self.tunnel.lab.left;
        assert!(!links(left).contains(&self.tunnel.device), "the interface is left");
        let rules = output(&left.namespace, &["ip", "rule"], "");
        assert_eq!(rules.lines().count(), 3, "{rules}");
    }
}

#[test]
fn a_restart_loses_nothing_and_a_stop_leaves_nothing() {
    require_root!();
    let service = Service::new(2, &[]);
    let tunnel = &service.tunnel;
    tunnel.have_patience();
    let mut router = service.run(&[]);
    let (index, handshake, retransmits) = (tunnel.index(), tunnel.handshake(), tunnel.retransmits());
    let flows = [true, false].map(|from_left| Flow::start(tunnel, from_left));
    let over = Arc::new(AtomicBool::new(false));
    let finally = Finally(&over);
    let stream = stream(tunnel, true, CHUNK, &over);
    for _ in 0..RESTARTS {
        router.signal(RESTART);
        assert_eq!(router.wait(), Some(0), "{}", router.said());
        assert!(router.said().contains("continues with the sessions"), "{}", router.said());
        assert!(service.keeps_sessions());
        router = service.run(&[]);
        assert!(!service.keeps_sessions(), "nobody else may use them");
        assert!(router.said().contains("was taken over with its sessions"), "{}", router.said());
        assert!(service.went_on() && tunnel.metric("laneway_take_overs_total") > 0.5);
    }
    drop(finally);
    assert!(stream.join().expect("the stream") > 0);
    assert_complete(tunnel, flows);
    assert_eq!((tunnel.index(), tunnel.handshake()), (index, handshake));
    assert_eq!(tunnel.retransmits(), retransmits, "TCP segments were sent again");
    service.stop(router);
}

#[test]
fn whoever_dies_at_a_restart_no_counter_is_sent_twice() {
    require_root!();
    // Without GSO each message is a frame.
    let service = Service::new(2, &[("LANEWAY_UDP_OFFLOAD", "off")]);
    let wire = Wire::watch(&service.tunnel.lab.right);
    let mut router = service.run(&[]);
    let index = service.tunnel.index();
    let flow = Flow::start(&service.tunnel, true);
    for step in TakeOverStep::OF_RESTART {
        let name = format!("{step:?}");
        let dies = [(DIES_AT, name.as_str())];
        if [TakeOverStep::Written, TakeOverStep::Kept].contains(&step) {
            // The next one dies before it ends for a restart.
            router.signal(RESTART);
            assert_eq!(router.wait(), Some(0), "{name}: {}", router.said());
            router = service.run(&dies);
            router.signal(RESTART);
            assert_eq!(router.wait(), None, "it was to be killed at {name}: {}", router.said());
        } else {
            router.signal(RESTART);
            assert_eq!(router.wait(), Some(0), "{name}: {}", router.said());
            let mut next = service.start(&dies);
            assert_eq!(next.wait(), None, "it was to be killed at {name}: {}", next.said());
        }
        let kept = [TakeOverStep::Kept, TakeOverStep::Found].contains(&step);
        assert_eq!(service.keeps_sessions(), kept, "{name}");
        router = service.run(&[]);
        assert_eq!(service.went_on(), kept, "{name}: {}", router.said());
        assert!(router.said().contains("continues with the queues and sockets"), "{name}: {}", router.said());
    }
    assert_eq!(service.tunnel.index(), index);
    let (sent, received) = flow.stop();
    let numbers: HashSet<_> = received.iter().collect();
    assert_eq!(numbers.len(), received.len(), "a datagram arrived twice");
    let counters = wire.stop();
    assert!(counters > received.len() && received.len() as u64 > sent / 2, "{counters} {sent}");
    service.stop(router);
}

#[test]
fn sessions_that_the_next_process_cannot_use_are_refused_and_wiped() {
    require_root!();
    let service = Service::new(2, &[]);
    let mut router = service.run(&[]);
    for (variables, why, queues_go_on) in [
        ((UNDERSTANDS, "2"), "sessions with peers start again: the state has version 1", true),
        (
            ("LANEWAY_QUEUES", "3"),
            "the queues and sockets, and the sessions, of a router that has ended are not used: the number of lanes has changed",
            false,
        ),
    ] {
        router.signal(RESTART);
        assert_eq!(router.wait(), Some(0), "{}", router.said());
        assert!(service.keeps_sessions());
        router = service.run(&[variables]);
        let said = router.said();
        assert!(said.contains(why), "{said}");
        assert_eq!(said.contains("continues with the queues and sockets"), queues_go_on, "{said}");
        assert!(!service.went_on() && !service.keeps_sessions(), "{said}");
    }
    service.stop(router);
}

#[test]
fn without_room_for_descriptors_a_restart_is_a_stop() {
    require_root!();
    let service = Service::new(1, &[]);
    let Tunnel { lab, device, file, .. } = &service.tunnel;
    let mut router = service
        .manager
        .until_ready(|| service.manager.start(&lab.left, &["run", "--config", file], &[], None));
    router.signal(RESTART);
    assert_eq!(router.wait(), Some(0), "{}", router.said());
    assert!(router.said().contains("sessions end with the restart"), "{}", router.said());
    assert!(service.manager.kept().is_empty() && !links(&lab.left).contains(device));
}
