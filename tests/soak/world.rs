//! Two routers, the underlay between them, and the traffic.
//!
//! ```text
//!   left ── wan ─────── left ── middle: relay, watchers ── right ─────── wan ── right
//!   192.0.2.x/24   192.0.2.1                       198.51.100.1   198.51.100.x/24
//!   everything through the tunnel                   203.0.113.9, 2001:db8:ffff::9 behind the tunnel
//! ```

use std::net::IpAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use laneway::cli::demo::lab::Side;

use super::flows::{Context, Flows, Marker};
use super::ledger::{Excuse, Ledger, Random};
use super::pings::Ping;
use super::plan::{self, Plan, Sabotage};
use super::relay::Relay;
use super::router::{Router, tail};
use super::streams::{Mark as StreamMark, Stream};
use super::watcher::Watcher;
use crate::support::folder::Folder;
use crate::support::http;
use crate::support::network::{cable, host, ip, sysctl};
use crate::support::tunnel::Family;

/// The routers' underlay device.
pub const WAN: &str = "wan";

/// The devices of the middle.
pub const CABLES: [&str; 2] = ["left", "right"];

/// Addresses behind the left router's default routes.
pub const FAR: [&str; 2] = ["203.0.113.9", "2001:db8:ffff::9"];

/// All traffic passes again after this time, or never.
pub const LIMIT: Duration = Duration::from_secs(75);

/// As [`LIMIT`], for TCP, which doubles its timeout with each try.
pub const TCP_LIMIT: Duration = Duration::from_secs(180);

/// For how long what is excused until then is excused after that.
const GRACE: Duration = Duration::from_secs(2);

/// A point in all traffic.
pub struct Mark {
    at: Instant,
    sent: Vec<u64>,
    streams: Vec<StreamMark>,
}

/// How long after a mark traffic passed.
#[derive(Clone, Copy, Debug)]
pub struct Recovery {
    pub packets: Duration,
    pub streams: Duration,
    pub lost: u64,
}

pub struct World {
    // Dropped in this order: traffic before routers.
    pub streams: Vec<Stream>,
    pub flows: Flows,
    pub pings: Vec<Ping>,
    pub routers: [Router; 2],
    pub relay: Relay,
    pub watcher: Option<Watcher>,
    pub middle: Side,
    pub outside: Family,
    /// Whether the right router's file has the left one's endpoint.
    pub both_know: bool,
    /// Whether there is time for long outages.
    pub long: bool,
    pub random: Random,
    pub ledger: Arc<Ledger>,
    pub folder: Folder,
    pub mark: Mark,
    /// What is excused until all traffic passes again.
    excused: Vec<Excuse>,
    lost: u64,
}

impl World {
    /// Builds everything and waits until all traffic passes.
    pub fn new(plan: &Plan, ledger: &Arc<Ledger>) -> World {
        let marker: Marker = plan::random();
        let left = host([192, 0, 2, 2], "2001:db8:1::2");
        let right = host([198, 51, 100, 2], "2001:db8:2::2");
        let middle = host([192, 0, 2, 1], "2001:db8:1::1");
        cable(
            (&left, WAN, &["192.0.2.2/24", "2001:db8:1::2/64"]),
            (&middle, CABLES[0], &["192.0.2.1/24", "2001:db8:1::1/64"]),
        );
        let ends = ["198.51.100.2/24", "2001:db8:2::2/64"];
        cable((&right, WAN, &ends), (&middle, CABLES[1], &["198.51.100.1/24", "2001:db8:2::1/64"]));
        // The ends of a cable have one hardware address and need no neighbour discovery. While it waits for an answer,
        // the kernel holds packets back, and lets later ones overtake them once there is one.
        for (side, device, mac) in
            [(&left, WAN, 1), (&middle, CABLES[0], 1), (&right, WAN, 2), (&middle, CABLES[1], 2)]
        {
            ip(side, &format!("link set {device} address 02:00:00:00:00:0{mac} arp off"));
        }
        for side in [&left, &right, &middle] {
            sysctl(side, "ipv6/conf/all/keep_addr_on_down", "1");
            sysctl(side, "ipv4/conf/all/promote_secondaries", "1");
            for interface in ["all", "default"] {
                sysctl(side, &format!("ipv4/conf/{interface}/rp_filter"), "0");
            }
        }
        for device in CABLES {
            sysctl(&middle, &format!("ipv4/conf/{device}/rp_filter"), "0");
        }
        sysctl(&middle, "ipv4/ip_forward", "1");
        sysctl(&middle, "ipv6/conf/all/forwarding", "1");
        for (far, version) in FAR.iter().zip(["-4", "-6"]) {
            ip(&right, &format!("{version} addr add {far} dev lo"));
            // What leaks arrives, so that it is seen in any case.
            let gateway = if version == "-4" { "198.51.100.2" } else { "2001:db8:2::2" };
            ip(&middle, &format!("{version} route add {far} via {gateway}"));
        }
        let relay = Relay::start(&middle, CABLES, Random(plan.seed ^ 1));
        let watcher = Watcher::start(&middle, CABLES, marker, ledger);
        let routers = [("left", left), ("right", right)]
            .map(|(name, side)| Router::new(name, side, ledger, plan.logs.clone()));
        for router in &routers {
            router.route_underlay();
        }
        let mark = Mark { at: Instant::now(), sent: Vec::new(), streams: Vec::new() };
        let mut world = World {
            streams: Vec::new(),
            flows: Flows::new(),
            pings: Vec::new(),
            routers,
            relay,
            watcher: Some(watcher),
            middle,
            outside: Family::V4,
            both_know: false,
            long: plan.time > Duration::from_secs(600),
            random: Random(plan.seed),
            ledger: Arc::clone(ledger),
            folder: Folder::new(),
            mark,
            excused: Vec::new(),
            lost: 0,
        };
        world.write_files();
        for router in [1, 0] {
            let process = world.routers[router].spawn(&[]);
            world.routers[router].adopt(process);
            world.routers[router].wait_for_service();
        }
        let context = Context { marker, ledger: Arc::clone(ledger), sabotage: plan.sabotage };
        world.start_traffic(&context);
        if plan.sabotage == Some(Sabotage::Clear) {
            world.routers[0].tool(&format!("ip rule add pref 1 to {} lookup main", FAR[0]));
        }
        world
    }

    fn start_traffic(&mut self, context: &Context) {
        let [left, right] = [&self.routers[0].side, &self.routers[1].side];
        let far = FAR.map(|far| far.parse::<IpAddr>().expect("an address"));
        for (family, far) in Family::ALL.into_iter().zip(far) {
            let [one, two] = [family.inside(1), family.inside(2)];
            // The source is up to the routes: this one would leave by any of them.
            self.flows.add([left, right], [None, Some(far)], one, context);
            self.flows.add([left, right], [Some(one), Some(two)], one, context);
            self.flows.add([right, left], [Some(two), Some(one)], two, context);
        }
        let streams = [
            ([left, right], far[0]),
            ([left, right], Family::V6.inside(2)),
            ([right, left], Family::V4.inside(1)),
            ([right, left], Family::V6.inside(1)),
        ];
        for (number, (sides, to)) in (0..).zip(streams) {
            self.streams.push(Stream::start(number, sides, to, context));
        }
        let pings =
            [(left, far[0]), (left, far[1]), (right, Family::V4.inside(1)), (right, Family::V6.inside(1))];
        self.pings = pings.map(|(side, to)| Ping::start(side, to, context)).into();
        self.set_mark();
    }

    /// Writes the configuration files of both as they are now.
    pub fn write_files(&mut self) {
        for own in [0, 1] {
            let (router, other) = (&self.routers[own], &self.routers[1 - own]);
            let host = own as u8 + 1;
            let endpoint = if own == 0 || self.both_know {
                format!("Endpoint = {}\n", other.endpoint(self.outside))
            } else {
                String::new()
            };
            let text = format!(
                "[Interface]\nPrivateKey = {}\nListenPort = {}\nAddress = {}/24, {}/64\n{}\n\
                 [Peer]\nPublicKey = {}\nAllowedIPs = {}\n{endpoint}{}",
                router.keys.private,
                router.port,
                Family::V4.inside(host),
                Family::V6.inside(host),
                router.more[0],
                other.keys.public,
                allowed_ips(own),
                router.more[1],
            );
            let name = format!("{}.conf", router.device);
            self.routers[own].path = self.folder.write(&name, &text);
        }
    }

    /// Excuses `what` until all traffic passes again: a connection whose other end was reset meanwhile ends only then.
    pub fn excuse_until_recovered(&mut self, what: Excuse) {
        self.excused.push(what);
        self.ledger.excuse(what, LIMIT + TCP_LIMIT);
    }

    /// Sets the point from which recovery is measured.
    pub fn set_mark(&mut self) {
        self.mark = Mark {
            at: Instant::now(),
            sent: self.flows.list.iter().map(super::flows::Flow::sent).collect(),
            streams: self.streams.iter().map(Stream::mark).collect(),
        };
    }

    /// Returns when the mark was set.
    pub fn mark_time(&self) -> Instant {
        self.mark.at
    }

    /// Waits until all traffic that begins after the mark passes. What does not is a finding.
    pub fn recover(&mut self) -> Recovery {
        let (mut packets, mut late) = (None, false);
        let streams = loop {
            self.check_processes();
            let elapsed = self.mark.at.elapsed();
            let stuck = self.stuck_packets();
            if packets.is_none() && (stuck.is_empty() || elapsed > LIMIT) {
                packets = Some(elapsed);
                if !stuck.is_empty() {
                    self.explain(&stuck, elapsed);
                }
            }
            let stuck: Vec<_> = self
                .streams
                .iter()
                .zip(&self.mark.streams)
                .filter(|(stream, mark)| !stream.passes(**mark))
                .map(|(stream, _)| stream.name.clone())
                .collect();
            late |= elapsed > TCP_LIMIT;
            if packets.is_some() && (stuck.is_empty() || late) {
                if !stuck.is_empty() {
                    self.explain(&stuck, elapsed);
                }
                break elapsed;
            }
            thread::sleep(Duration::from_millis(5));
        };
        for excuse in std::mem::take(&mut self.excused) {
            self.ledger.end_excuse(excuse, GRACE);
        }
        let lost = self.flows.totals()[1];
        let more = lost.saturating_sub(self.lost);
        self.lost = lost;
        Recovery { packets: packets.unwrap_or_default(), streams, lost: more }
    }

    fn stuck_packets(&self) -> Vec<String> {
        let flows = self
            .flows
            .list
            .iter()
            .zip(&self.mark.sent)
            .filter(|(flow, mark)| !flow.passes(**mark))
            .map(|(flow, _)| flow.name.clone());
        let pings = self.pings.iter().filter(|ping| !ping.passes(self.mark.at)).map(|ping| ping.name.clone());
        flows.chain(pings).collect()
    }

    fn explain(&mut self, stuck: &[String], elapsed: Duration) {
        self.ledger.broken(&format!("not after {} s: {}", elapsed.as_secs(), stuck.join("; ")));
        for router in &self.routers {
            let shown = router.tool(&format!("wg show {}", router.device));
            let said =
                router.process.as_ref().map(crate::support::process::Process::said).unwrap_or_default();
            self.ledger.say(&format!("{}:\n{shown}\n{}", router.name, tail(&said, 15)));
        }
    }

    /// Starts a router again that has ended by itself, which is a finding.
    fn check_processes(&mut self) {
        for index in [0, 1] {
            let router = &mut self.routers[index];
            if router.process().is_running() {
                continue;
            }
            let said = tail(&router.process().said(), 20);
            self.ledger.broken(&format!("{} has ended: {said}", router.name));
            router.retire();
            let process = router.spawn(&[]);
            router.adopt(process);
            router.wait_for_service();
        }
        for ping in &mut self.pings {
            assert!(ping.is_running(), "{} has ended", ping.name);
        }
    }

    /// Checks what must hold between any two actions.
    pub fn check(&mut self) {
        for router in &mut self.routers {
            router.look();
            let (status, body) = http::get(&router.side, "/healthz");
            if status != 200 {
                self.ledger.broken(&format!("{} is not healthy: {status} {body}", router.name));
            }
            let metrics = crate::support::metrics::parse(&http::get(&router.side, "/metrics").1);
            if metrics.sum("laneway_worker_restarts_total", &[]) > 0.5 {
                self.ledger.broken(&format!("{}: a worker has panicked", router.name));
            }
        }
    }

    /// Gives a router other addresses on the underlay.
    pub fn move_to(&mut self, index: usize, host: u8) {
        let router = &mut self.routers[index];
        let (old4, old6) = (router.side.underlay4, router.side.underlay6);
        let (mut octets, mut segments) = (old4.octets(), old6.segments());
        (octets[3], segments[7]) = (host, host.into());
        (router.side.underlay4, router.side.underlay6) = (octets.into(), segments.into());
        router.tool(&format!("ip addr add {}/24 dev {WAN}", router.side.underlay4));
        router.tool(&format!("ip addr add {}/64 dev {WAN} nodad", router.side.underlay6));
        router.tool(&format!("ip addr del {old4}/24 dev {WAN}"));
        router.tool(&format!("ip addr del {old6}/64 dev {WAN}"));
        router.route_underlay();
        self.write_files();
    }
}

/// Returns the allowed IPs of the peer of this router.
pub fn allowed_ips(own: usize) -> String {
    if own == 0 { "0.0.0.0/0,::/0".to_owned() } else { crate::support::tunnel::allowed_ips(1) }
}
