//! What happens to the routers and the underlay.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use laneway::wireguard::keys::PublicKey;
use nix::sys::signal::Signal;

use super::ledger::{Excuse, Random};
use super::plan::random;
use super::relay::Trouble;
use super::router::tail;
use super::world::{CABLES, WAN, World, allowed_ips};
use crate::support::binary::BINARY;
use crate::support::flood::Flood;
use crate::support::http;
use crate::support::metrics;
use crate::support::network::ip;
use crate::support::tunnel::Family;
use crate::support::wait_until;

/// One kind of event.
pub struct Action {
    pub name: &'static str,
    /// How often it is chosen, relative to the others.
    pub weight: u64,
    /// Whether it ends the process.
    pub fatal: bool,
    /// Whether it may cost packets.
    pub costs: bool,
    pub run: fn(&mut World, usize),
}

const fn action(name: &'static str, weight: u64, run: fn(&mut World, usize)) -> Action {
    Action { name, weight, fatal: false, costs: true, run }
}

const fn free(name: &'static str, weight: u64, run: fn(&mut World, usize)) -> Action {
    Action { costs: false, ..action(name, weight, run) }
}

const fn fatal(name: &'static str, weight: u64, run: fn(&mut World, usize)) -> Action {
    Action { fatal: true, ..action(name, weight, run) }
}

/// All of them. Each leaves everything as it was, except addresses, ports, endpoints, lanes and processes.
pub const ACTIONS: &[Action] = &[
    free("nothing", 3, |world, _| world.pause(500, 2000)),
    action("listen port", 4, port),
    action("prefixes", 4, prefixes),
    free("other peers", 4, other_peers),
    action("the peer removed", 2, peer),
    free("reload", 4, reload),
    action("endpoint", 3, endpoint),
    action("MTU of the TUN", 4, tun_mtu),
    action("MTU of the underlay", 4, underlay_mtu),
    action("underlay down", 4, underlay_down),
    action("address", 4, address),
    action("relay", 10, relay),
    action("addresses and routes taken", 3, taken),
    action("freeze", 4, freeze),
    action("garbage", 3, garbage),
    action("handshake flood", 3, handshake_flood),
    free("scrapes", 4, scrapes),
    free("wg show, top, drops", 4, tools),
    fatal("kill -9", 4, kill),
    fatal("restart", 3, restart),
    Action { costs: false, ..fatal("take-over", 5, take_over) },
    fatal("take-over, one is killed", 4, broken_take_over),
];

impl World {
    fn pause(&mut self, from: u64, to: u64) {
        let time = self.random.millis(from, to);
        thread::sleep(time);
    }

    /// As [`pause`](Self::pause), in long runs sometimes much longer.
    fn outage(&mut self, from: u64, to: u64) {
        let long = self.long && self.random.chance(40);
        let [from, to] = if long { [10_000, 40_000] } else { [from, to] };
        self.pause(from, to);
    }

    /// Excuses datagrams out of order while an endpoint changes: those from and to the old one and the new one reach
    /// different lanes of a router, which open them independently.
    fn moves(&self) {
        self.ledger.excuse(Excuse::Order, Duration::from_secs(3));
    }

    /// Excuses datagrams out of order while a process attaches the queues of an interface: those that came before the
    /// second queue was there are in the first one. All wait for the first handshake.
    fn attaches(&mut self) {
        self.excuse_until_recovered(Excuse::Order);
    }

    fn wg(&self, index: usize, words: &str) -> String {
        let router = &self.routers[index];
        router.tool(&format!("wg set {} {words}", router.device))
    }

    /// Starts a process after the last one has ended, with another number of lanes.
    fn start_again(&mut self, index: usize) {
        self.both_know = self.random.chance(500);
        self.routers[index].lanes = self.random.range(1, 3) as usize;
        self.write_files();
        self.set_mark();
        self.attaches();
        let process = self.routers[index].spawn(&[]);
        self.routers[index].adopt(process);
        self.routers[index].wait_for_service();
    }
}

fn port(world: &mut World, index: usize) {
    world.moves();
    let port = world.random.range(40_000, 60_000) as u16;
    world.wg(index, &format!("listen-port {port}"));
    world.routers[index].port = port;
    world.write_files();
}

fn prefixes(world: &mut World, index: usize) {
    let peer = world.routers[1 - index].keys.public.clone();
    let kept = world.random.range(0, 1) as usize;
    let mut less: Vec<_> = allowed_ips(index).split(',').skip(kept).take(1).map(str::to_owned).collect();
    less.extend((0..world.random.range(0, 50)).map(|number| format!("10.88.{number}.0/24")));
    world.excuse_until_recovered(Excuse::Resets);
    world.wg(index, &format!("peer {peer} allowed-ips {}", less.join(",")));
    world.pause(0, 1000);
    world.wg(index, &format!("peer {peer} allowed-ips {}", allowed_ips(index)));
}

/// Returns the words of `wg set` for peers that nobody is.
fn strangers(random: &mut Random) -> Vec<String> {
    let number = random.range(1, 40);
    (0..number)
        .map(|number| {
            format!(
                "peer {} allowed-ips 10.99.{number}.0/24 endpoint 192.0.2.250:{}",
                stranger(),
                1000 + number
            )
        })
        .collect()
}

/// Returns a key that nobody has.
fn stranger() -> PublicKey {
    PublicKey::from_bytes(random())
}

fn other_peers(world: &mut World, index: usize) {
    let strangers = strangers(&mut world.random);
    world.wg(index, &strangers.join(" "));
    world.pause(0, 1000);
    let removals: Vec<_> = strangers
        .iter()
        .map(|words| format!("peer {} remove", words.split(' ').nth(1).expect("a key")))
        .collect();
    world.wg(index, &removals.join(" "));
}

fn peer(world: &mut World, index: usize) {
    let other = &world.routers[1 - index];
    let (peer, place) = (other.keys.public.clone(), other.endpoint(world.outside));
    let endpoint =
        if index == 0 || world.random.chance(500) { format!(" endpoint {place}") } else { String::new() };
    world.excuse_until_recovered(Excuse::Resets);
    world.wg(index, &format!("peer {peer} remove"));
    world.pause(0, 1000);
    world.wg(index, &format!("peer {peer} allowed-ips {}{endpoint}", allowed_ips(index)));
}

fn reload(world: &mut World, index: usize) {
    let key = stranger();
    let mtu = world.random.range(1280, 1420);
    world.routers[index].more = [
        format!("MTU = {mtu}\nAddress = 10.66.0.{}/32\n", index + 1),
        format!("[Peer]\nPublicKey = {key}\nAllowedIPs = 10.99.0.0/16\n"),
    ];
    for present in [true, false] {
        world.write_files();
        world.routers[index].process().signal(Signal::SIGHUP);
        let start = Instant::now();
        let listed = |world: &World| {
            let router = &world.routers[index];
            router.tool(&format!("wg show {} peers", router.device)).contains(&key.to_string())
        };
        while listed(world) != present {
            if start.elapsed() > Duration::from_secs(20) {
                let said = tail(&world.routers[index].process().said(), 10);
                world.ledger.broken(&format!("a reload is not applied (peer wanted: {present}): {said}"));
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        world.pause(0, 500);
        world.routers[index].more = Default::default();
    }
}

fn endpoint(world: &mut World, _: usize) {
    world.moves();
    world.outside = if world.outside == Family::V4 { Family::V6 } else { Family::V4 };
    world.write_files();
    let right = &world.routers[1];
    let words = format!("peer {} endpoint {}", right.keys.public, right.endpoint(world.outside));
    world.wg(0, &words);
}

fn tun_mtu(world: &mut World, index: usize) {
    let device = world.routers[index].device.clone();
    let shown = world.routers[index].tool(&format!("ip -o link show {device}"));
    let before =
        shown.split(" mtu ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or("1420").to_owned();
    let mtu = world.random.range(1280, 1420);
    world.routers[index].tool(&format!("ip link set {device} mtu {mtu}"));
    world.pause(200, 2000);
    world.routers[index].tool(&format!("ip link set {device} mtu {before}"));
}

fn underlay_mtu(world: &mut World, index: usize) {
    let mtu = world.random.range(1280, 1499);
    for mtu in [mtu, 1500] {
        world.routers[index].tool(&format!("ip link set {WAN} mtu {mtu}"));
        ip(&world.middle, &format!("link set {} mtu {mtu}", CABLES[index]));
        world.pause(500, 3000);
        // What passes with the smaller MTU counts, too, and the larger one brings nothing new.
        world.set_mark();
    }
}

fn underlay_down(world: &mut World, index: usize) {
    let near = world.random.chance(500);
    let set = |world: &World, state: &str| {
        if near {
            world.routers[index].tool(&format!("ip link set {WAN} {state}"));
        } else {
            ip(&world.middle, &format!("link set {} {state}", CABLES[index]));
        }
    };
    set(world, "down");
    world.outage(200, 4000);
    world.set_mark();
    set(world, "up");
    world.routers[index].route_underlay();
}

fn address(world: &mut World, index: usize) {
    world.moves();
    let now = world.routers[index].side.underlay4.octets()[3];
    let next = if now == 250 { 2 } else { now + 1 };
    world.move_to(index, next);
}

fn relay(world: &mut World, _: usize) {
    let kinds = world.random.range(1, 15);
    let mut one = |bit: u64, most: u64| if kinds & bit != 0 { world.random.range(10, most) } else { 0 };
    let trouble =
        Trouble { corrupt: one(1, 100), duplicate: one(2, 200), reorder: one(4, 300), drop: one(8, 100) };
    if trouble.reorder > 0 {
        world.ledger.excuse(Excuse::Order, Duration::from_secs(600));
    }
    world.ledger.say(&format!("         {trouble:?}"));
    world.relay.set(trouble);
    world.pause(1000, 4000);
    world.relay.set(Trouble::default());
    if trouble.reorder > 0 {
        world.ledger.end_excuse(Excuse::Order, Duration::from_secs(2));
    }
}

fn taken(world: &mut World, index: usize) {
    let router = &world.routers[index];
    let device = &router.device;
    match world.random.range(0, 3) {
        0 => {
            router.tool(&format!("ip link set {device} down"));
            world.pause(0, 1000);
            world.set_mark();
            let router = &world.routers[index];
            router.tool(&format!("ip link set {} up", router.device));
        }
        1 => drop(router.tool(&format!("ip addr flush dev {device}"))),
        2 if index == 0 => {
            router.tool("ip -4 route flush table 51820");
            router.tool("ip -6 route flush table 51820");
        }
        _ if index == 0 => {
            router.tool("ip -4 rule del pref 32701");
            router.tool("ip -6 rule del pref 32702");
        }
        _ => drop(router.tool(&format!("ip -4 route flush dev {device}"))),
    }
}

fn freeze(world: &mut World, index: usize) {
    world.routers[index].process().signal(Signal::SIGSTOP);
    world.outage(200, 6000);
    world.set_mark();
    world.routers[index].process().signal(Signal::SIGCONT);
}

fn garbage(world: &mut World, index: usize) {
    let target =
        world.routers[index].endpoint(if world.random.chance(500) { Family::V4 } else { Family::V6 });
    let any = if target.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = world.middle.namespace.run(|| UdpSocket::bind(any)).expect("enter").expect("bind");
    let (end, mut sent) = (Instant::now() + world.random.millis(500, 2500), 0_u64);
    // Of its own: how many numbers it takes depends on the machine.
    let mut random = Random(world.random.next());
    let mut datagram = vec![0; 2000];
    while Instant::now() < end {
        for chunk in datagram.chunks_mut(8) {
            chunk.copy_from_slice(&random.next().to_be_bytes());
        }
        for _ in 0..20 {
            let length = random.range(0, 1452) as usize;
            datagram[0] = random.range(0, 5) as u8;
            if random.chance(800) {
                datagram[1..4].fill(0);
            }
            // A full queue is not a finding.
            let _ = socket.send_to(&datagram[..length], &target);
            sent += 1;
        }
        thread::sleep(Duration::from_millis(1));
    }
    world.ledger.say(&format!("         {sent} datagrams"));
}

fn handshake_flood(world: &mut World, index: usize) {
    let router = &world.routers[index];
    let key = router.keys.public.parse().expect("a key");
    let to = format!("{}:{}", router.side.underlay4, router.port).parse().expect("an endpoint");
    let (over, time) = (AtomicBool::new(false), world.random.millis(500, 2000));
    let kind = world.random.pick(&[Flood::WrongMac, Flood::Strangers]);
    let sent = thread::scope(|scope| {
        let flood = scope.spawn(|| kind.run(&world.middle, to, &key, &over));
        thread::sleep(time);
        over.store(true, Relaxed);
        flood.join().expect("the flood")
    });
    world.ledger.say(&format!("         {kind:?}, {sent} messages"));
}

fn scrapes(world: &mut World, index: usize) {
    let side = &world.routers[index].side;
    for _ in 0..20 {
        let scraped = metrics::parse(&http::get(side, "/metrics").1);
        if scraped.select("laneway_peers", &[]).next().is_none() {
            world.ledger.broken("a scrape without laneway_peers");
        }
        http::get(side, "/readyz");
    }
}

fn tools(world: &mut World, index: usize) {
    let router = &world.routers[index];
    for words in [
        format!("wg show {}", router.device),
        format!("{BINARY} show {}", router.device),
        format!("{BINARY} top {} --once", router.device),
        format!("{BINARY} drops {}", router.device),
    ] {
        router.tool(&words);
    }
}

fn kill(world: &mut World, index: usize) {
    let status = world.routers[index].end(Signal::SIGKILL);
    assert_eq!(status, None, "it was killed");
    world.outage(0, 2000);
    world.start_again(index);
}

fn restart(world: &mut World, index: usize) {
    world.excuse_until_recovered(Excuse::Resets);
    let status = world.routers[index].end(Signal::SIGTERM);
    if status != Some(0) {
        world.ledger.broken(&format!("{} has ended with {status:?}", world.routers[index].name));
    }
    world.pause(0, 1000);
    world.start_again(index);
}

fn take_over(world: &mut World, index: usize) {
    let router = &mut world.routers[index];
    let mut successor = router.spawn(&[]);
    wait_until("one of the two processes to end", || {
        !router.process().is_running() || !successor.is_running()
    });
    if router.process().is_running() {
        router.ledger.broken(&format!("{} was not taken over: {}", router.name, tail(&successor.said(), 10)));
        return;
    }
    let status = router.process().wait();
    if status != Some(0) {
        let said = [tail(&router.process().said(), 10), tail(&successor.said(), 10)];
        router.ledger.broken(&format!("{} has ended with {status:?}, taken over: {said:?}", router.name));
    }
    router.retire();
    router.adopt(successor);
    router.wait_for_service();
}

fn broken_take_over(world: &mut World, index: usize) {
    // A successor of one that dies before it has passed anything on starts by itself.
    world.attaches();
    let (time, first) = (world.random.millis(0, 150), world.random.chance(500));
    let router = &mut world.routers[index];
    let mut successor = router.spawn(&[]);
    thread::sleep(time);
    if first {
        router.process().signal(Signal::SIGKILL);
        router.process().wait();
    } else {
        successor.signal(Signal::SIGKILL);
        successor.wait();
    }
    // Whoever is left carries on. The other one may have ended by itself.
    let start = Instant::now();
    let carries_on = loop {
        match [router.process().is_running(), successor.is_running()] {
            [true, true] if start.elapsed() < Duration::from_secs(10) => {
                thread::sleep(Duration::from_millis(10));
            }
            running => break running,
        }
    };
    router.ledger.say(&format!(
        "         killed the {} after {time:?}; running: {carries_on:?}",
        if first { "predecessor" } else { "successor" }
    ));
    match carries_on {
        [true, false] => {}
        [false, true] => {
            router.retire();
            router.adopt(successor);
            router.wait_for_service();
        }
        [false, false] => {
            router.retire();
            world.start_again(index);
        }
        [true, true] => panic!("two routers: {}", successor.said()),
    }
}
