//! `laneway run` is restarted by its service manager: packets, sessions and order survive it, and whichever process dies
//! when, no counter is sent twice.

use std::collections::HashSet;
use std::fs::File;
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::manager::Manager;
use crate::succession::{CHUNK, Tunnel};
use crate::support::process::{Process, attempt, command_in, output};
use crate::support::{Finally, links, require_root, skip, wait_until};
use crate::traffic::{Flow, Wire, assert_complete, stream};
use laneway::faults::{DIES_AT, TakeOverStep, UNDERSTANDS};
use nix::sys::signal::Signal;
use nix::sys::stat::fstat;

/// How many times a router is restarted in a row.
const RESTARTS: usize = 3;

/// The signal by which the unit asks for the end before a restart.
const RESTART: Signal = Signal::SIGUSR1;

/// The exit status after it.
const TO_RESTART: Option<i32> = Some(4);

/// A router that a service manager runs.
struct Service {
    tunnel: Tunnel,
    manager: Manager,
    /// How many descriptors the manager says it keeps.
    room: Option<&'static str>,
}

impl Service {
    fn new(lanes: usize, variables: &[(&'static str, &str)]) -> Service {
        let tunnel = Tunnel::new(lanes, variables);
        let manager = Manager::new(&tunnel.folder);
        Service { tunnel, manager, room: None }
    }

    /// Starts the next process. `more` variables come after those of all processes.
    fn start(&self, more: &[(&str, &str)]) -> Process {
        let Tunnel { lab, file, environment, .. } = &self.tunnel;
        let mut variables: Vec<_> = environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        variables.extend(more);
        self.manager.start(&lab.left, &["run", "--config", file], &variables, self.room)
    }

    /// Starts the next process, and waits until it is ready and the tunnel carries packets.
    fn run(&self, more: &[(&str, &str)]) -> Process {
        let process = self.manager.until_ready(|| self.start(more));
        self.tunnel.wait_for_packets();
        process
    }

    /// Ends the router for a restart.
    fn end(router: &mut Process) {
        router.signal(RESTART);
        assert_eq!(router.wait(), TO_RESTART, "{}", router.said());
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
        Service::end(&mut router);
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
            Service::end(&mut router);
            router = service.run(&dies);
            router.signal(RESTART);
            assert_eq!(router.wait(), None, "it was to be killed at {name}: {}", router.said());
        } else {
            Service::end(&mut router);
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
        ((UNDERSTANDS, "1"), "sessions with peers start again: the state has version 2", true),
        (
            ("LANEWAY_QUEUES", "3"),
            "the queues and sockets, and the sessions, of a router that has ended are not used: the number of lanes has changed",
            false,
        ),
    ] {
        Service::end(&mut router);
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
    let mut service = Service::new(1, &[]);
    // The manager says that it has no room, or has none, or has less than it takes with what comes at a restart.
    for (room, limit) in [(Some("0"), 64), (None, 0), (None, 5)] {
        service.room = room;
        service.manager.limit(limit);
        let mut router = service.run(&[]);
        assert!(service.manager.kept().is_empty());
        Service::end(&mut router);
        assert!(router.said().contains("sessions end with the restart"), "{}", router.said());
        let Tunnel { lab, device, .. } = &service.tunnel;
        assert!(service.manager.kept().is_empty() && !links(&lab.left).contains(device));
    }
    service.manager.limit(6);
    let mut router = service.run(&[]);
    Service::end(&mut router);
    assert!(service.keeps_sessions(), "{}", router.said());
    let router = service.run(&[]);
    assert!(service.went_on());
    service.stop(router);
}

#[test]
fn a_start_that_fails_leaves_no_keys_with_the_manager() {
    require_root!();
    let service = Service::new(1, &[]);
    let busy = service.tunnel.lab.left.namespace.run(|| TcpListener::bind("127.0.0.1:0"));
    let busy = busy.expect("enter").expect("bind");
    let address = busy.local_addr().expect("bound").to_string();
    let mut router = service.run(&[]);
    for (variable, status) in [
        (("LANEWAY_QUEUES", "many"), 2),
        (("LANEWAY_METRICS_CONFIG", "/nonexistent"), 2),
        (("LANEWAY_METRICS_ADDR", address.as_str()), 1),
    ] {
        Service::end(&mut router);
        let keys = service.manager.told().kept["sessions"].try_clone().expect("a descriptor");
        assert_ne!(fstat(&keys).expect("its size").st_size, 0);
        let mut next = service.start(&[variable]);
        assert_eq!(next.wait(), Some(status), "{}", next.said());
        assert!(!service.keeps_sessions(), "{variable:?}");
        assert_eq!(fstat(&keys).expect("its size").st_size, 0, "{variable:?}: wiped");
        router = service.run(&[]);
        assert!(router.said().contains("continues with the queues and sockets"), "{}", router.said());
        assert!(!service.went_on());
    }
    service.stop(router);
}

#[test]
fn a_manager_that_does_not_answer_costs_the_sessions_at_most() {
    require_root!();
    let mut service = Service::new(1, &[]);
    service.room = Some("64");
    let mut router = service.run(&[]);
    let index = service.tunnel.index();
    service.manager.be_mute(true);
    Service::end(&mut router);
    let why = "sessions end with the restart: the service manager has not said within 5 s that it keeps";
    assert!(router.said().contains(why), "{}", router.said());
    assert!(!service.keeps_sessions());
    service.manager.be_mute(false);
    router = service.run(&[]);
    Service::end(&mut router);
    assert!(service.keeps_sessions());

    service.manager.be_mute(true);
    router = service.run(&[]);
    let why =
        "sessions with peers start again: the service manager has not said within 5 s that it has let go";
    assert!(router.said().contains(why), "{}", router.said());
    assert!(!service.went_on() && !service.keeps_sessions());
    assert_eq!(service.tunnel.index(), index);

    // Nor does it say how many descriptors it keeps.
    service.room = None;
    Service::end(&mut router);
    router = service.run(&[]);
    let why = "the service manager has not said within 5 s whether it keeps descriptors";
    assert!(router.said().contains(why), "{}", router.said());
    service.stop(router);
}

#[test]
fn masquerading_goes_on_in_a_restart() {
    require_root!();
    let service = Service::new(1, &[("LANEWAY_MASQUERADE", "auto")]);
    let Tunnel { lab, device, .. } = &service.tunnel;
    let left = &lab.left.namespace;
    if attempt(left, &["nft", "add", "table", "inet", "probe"], "").is_err() {
        skip::report("this kernel has no nftables");
        return;
    }
    // The table's handle tells it from one that was added later.
    let table = || {
        let text =
            attempt(left, &["nft", "-a", "list", "table", "inet", &format!("laneway-{device}")], "").ok()?;
        assert!(text.contains("masquerade"), "{text}");
        Some(text.split("# handle ").nth(1)?.split_whitespace().next()?.to_owned())
    };
    let mut router = service.run(&[]);
    let first = table().expect("the rules");
    for _ in 0..2 {
        Service::end(&mut router);
        assert_eq!(table().as_ref(), Some(&first), "the rules stay while no router runs");
        router = service.run(&[]);
        assert!(service.went_on() && !service.manager.kept().contains(&"masquerade".to_owned()));
        assert_eq!(table().as_ref(), Some(&first));
    }
    // Without them, and with them again.
    Service::end(&mut router);
    router = service.run(&[("LANEWAY_MASQUERADE", "off")]);
    assert!(service.went_on() && table().is_none(), "{}", router.said());
    Service::end(&mut router);
    router = service.run(&[]);
    let second = table().expect("the rules");
    assert!(service.went_on() && second != first);
    // After a crash they are added again.
    router.signal(Signal::SIGKILL);
    assert_eq!(router.wait(), None);
    router = service.run(&[]);
    assert!(table().is_some_and(|third| third != second));
    // A start that fails does not leave them with the manager.
    Service::end(&mut router);
    assert_eq!(service.start(&[("LANEWAY_QUEUES", "many")]).wait(), Some(2));
    assert!(!service.manager.kept().contains(&"masquerade".to_owned()));
    router = service.run(&[]);
    assert!(table().is_some());
    service.stop(router);
    assert_eq!(table(), None);
}

#[test]
fn what_the_kernel_takes_is_tried_once() {
    require_root!();
    let service = Service::new(1, &[]);
    let left = &service.tunnel.lab.left.namespace;
    let seen = service.tunnel.folder.join("links");
    let file = File::create(&seen).expect("a file");
    let _monitor = Process::start(command_in(left, "ip").args(["-o", "monitor", "link"]).stdout(file));
    let links_of = |marker: &str| {
        let mut text = String::new();
        wait_until("the links", || {
            // It may not listen yet.
            output(left, &["ip", "link", "add", marker, "type", "bridge"], "");
            output(left, &["ip", "link", "del", marker], "");
            text = std::fs::read_to_string(&seen).expect("a file");
            text.contains(marker)
        });
        text
    };
    links_of("lwfirst");
    let mut router = service.run(&[]);
    let began = links_of("lwsecond");
    if !began.contains("lwprobe") {
        skip::report("this kernel takes no superpackets inside UDP tunnels");
        return;
    }
    Service::end(&mut router);
    router = service.run(&[]);
    assert!(service.went_on());
    let tries = |text: &str| text.matches("lwprobe").count();
    assert_eq!(tries(&links_of("lwthird")), tries(&began), "{}", router.said());
    service.stop(router);
}
