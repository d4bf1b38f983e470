//! Congestion notification across the tunnel (RFC 6040), between two routers over a cable that marks. The rules of
//! nftables mark packets and count what they see; both are outside the routers.

use std::time::Duration;

use crate::support::bottleneck::{Bottleneck, Seen, Shape};
use crate::support::metrics::total;
use crate::support::process::{attempt, output};
use crate::support::router::{DEVICE, key, pair_of, pair_with};
use crate::support::tunnel::{Family, PORT};
use crate::support::{bulk, lab, ping, require_root, wait_until};
use laneway::cli::demo::lab::{CABLE, Lab, Side};
use laneway::config::Queues;
use laneway::config::update::PeerEndpoint;
use laneway::packet::class::Dscp;
use laneway::router::start::Router;

const COUNTERS: [&str; 4] = ["not-ect", "ect1", "ect0", "ce"];

/// Returns whether the kernel has nftables. Without it, reports the test as skipped.
fn has_nftables(side: &Side) -> bool {
    let made = attempt(&side.namespace, &["nft", "add", "table", "inet", "marks"], "");
    made.inspect_err(|said| crate::support::skip::report(format!("nftables: {said}"))).is_ok()
}

/// Loads rules on a side, replacing those before.
fn rules(side: &Side, chains: &str) {
    let counters: String = COUNTERS.map(|name| format!("counter seen-{name} {{}}\n")).concat();
    let text = format!(
        "add table inet marks\ndelete table inet marks\ntable inet marks {{\n{counters}{chains}\n}}\n"
    );
    output(&side.namespace, &["nft", "-f", "-"], &text);
}

/// Rules that count by ECN field the packets that match, of either IP version.
fn count(matching: &str) -> String {
    let rule =
        |version: &str, name: &str| format!("{matching} {version} ecn {name} counter name seen-{name}\n");
    COUNTERS.map(|name| rule("ip", name) + &rule("ip6", name)).concat()
}

/// Returns how many packets were counted with each field, in the order of [`COUNTERS`].
fn counted(side: &Side) -> [u64; 4] {
    COUNTERS.map(|name| {
        let said = output(
            &side.namespace,
            &["nft", "list", "counter", "inet", "marks", &format!("seen-{name}")],
            "",
        );
        let mut words = said.split_whitespace().skip_while(|word| *word != "packets");
        words.nth(1).expect("a counter").parse().expect("a number")
    })
}

/// A chain of the left side that sets the ECN field of what enters the tunnel, and counts what leaves on the cable.
fn sends_with(ecn: &str) -> String {
    format!(
        "chain out {{ type filter hook output priority mangle;\n oifname {DEVICE} ip ecn set {ecn}\n oifname {DEVICE} \
         ip6 ecn set {ecn}\n{} }}",
        count(&format!("oifname {CABLE} udp dport {PORT} udp length > 200"))
    )
}

/// Chains of the right side that mark what arrives on the cable, if so told, and count what leaves the tunnel.
fn receives(marked: Option<&str>) -> String {
    let mark = marked.map_or(String::new(), |ecn| {
        format!("iifname {CABLE} udp dport {PORT} ip ecn set {ecn}\niifname {CABLE} udp dport {PORT} ip6 ecn set {ecn}")
    });
    format!(
        "chain marks {{ type filter hook prerouting priority mangle;\n{mark}\n }}\nchain in {{ type filter hook input \
         priority filter;\n{} }}",
        count(&format!("iifname {DEVICE} meta length > 200"))
    )
}

fn not_capable(router: &Router) -> u64 {
    let labels = [("direction", "inbound"), ("reason", "ecn_not_capable")];
    total(router, "laneway_dropped_packets_total", &labels)
}

/// Returns whether packets were counted with this field and with no other.
fn only(name: &str, counts: [u64; 4]) -> bool {
    COUNTERS.iter().zip(counts).all(|(other, packets)| (*other == name) == (packets > 0))
}

fn crosses(lab: &Lab, routers: &[Router; 2], outside: Family) {
    let [_, right] = routers;
    for inside in Family::ALL {
        let address = inside.inside(2);
        for (ecn, marked, expected) in [
            ("ect0", None, "ect0"),
            ("ect1", None, "ect1"),
            ("ce", None, "ce"),
            ("not-ect", None, "not-ect"),
            ("ect0", Some("ce"), "ce"),
            ("ect1", Some("ce"), "ce"),
            ("ect0", Some("ect1"), "ect1"),
            ("ect1", Some("ect0"), "ect1"),
        ] {
            rules(&lab.left, &sends_with(ecn));
            rules(&lab.right, &receives(marked));
            bulk(&lab.left, &lab.right, address, 2, 1 << 20);
            let case = format!("{outside:?} {inside:?} {ecn} {marked:?}");
            assert!(only(ecn, counted(&lab.left)), "{case}, outside: {:?}", counted(&lab.left));
            assert!(only(expected, counted(&lab.right)), "{case}, inside: {:?}", counted(&lab.right));
        }
        let before = not_capable(right);
        rules(&lab.left, &sends_with("not-ect"));
        rules(&lab.right, &receives(Some("ce")));
        assert!(!ping::answers(&lab.left.namespace, address), "a mark that its sender does not understand");
        wait_until("the drop is counted", || not_capable(right) > before);
        rules(&lab.right, &receives(None));
        ping::once(&lab.left.namespace, address);
    }
}

#[test]
fn congestion_marks_cross_the_tunnel() {
    require_root!();
    for (outside, lanes) in [(Family::V4, 1), (Family::V6, 2)] {
        let lab = lab();
        if !has_nftables(&lab.left) {
            return;
        }
        let routers = pair_with(&lab, outside, |config| config.queues = Queues::Fixed(lanes));
        ping::ping(&lab.left.namespace, Family::V4.inside(2));
        crosses(&lab, &routers, outside);
    }
}

#[test]
fn the_outer_dscp_is_the_chosen_one_and_handshakes_have_their_own() {
    require_root!();
    for (dscp, expected) in [(Dscp::default(), 0), (Dscp::Fixed(10), 10), (Dscp::Inherit, 46)] {
        for outside in Family::ALL {
            let lab = lab();
            let version = if outside == Family::V4 { "ip" } else { "ip6" };
            let sends = format!("oifname {CABLE} udp dport {PORT}");
            let chain = format!(
                "chain out {{ type filter hook output priority mangle;\noifname {DEVICE} ip dscp set 46\n{sends} \
                 udp length < 170 @th,64,8 1 {version} dscp 34 counter name seen-ect0\n{sends} udp length < 170 @th,64,8 1 \
                 {version} dscp != 34 counter name seen-ce\n{sends} udp length > 200 {version} dscp {expected} counter \
                 name seen-ect1\n{sends} udp length > 200 {version} dscp != {expected} counter name seen-not-ect\n}}"
            );
            if !has_nftables(&lab.left) {
                return;
            }
            rules(&lab.left, &chain);
            let _routers = pair_with(&lab, outside, |config| config.dscp = dscp);
            ping::ping(&lab.left.namespace, Family::V4.inside(2));
            let [data_wrong, data_right, handshake_right, handshake_wrong] = counted(&lab.left);
            let seen = format!("{dscp:?} {outside:?}: {:?}", counted(&lab.left));
            assert!(data_right > 0 && data_wrong == 0, "{seen}");
            assert!(handshake_right > 0 && handshake_wrong == 0, "{seen}");
        }
    }
}

/// A slow link with a delay that TCP notices.
const LINK: Shape = Shape {
    rate: 20e6,
    delay: Duration::from_millis(5),
    marks: Duration::from_millis(10),
    limit: Duration::from_millis(100),
};

/// Counters of the kernel's TCP in a namespace: retransmissions after a loss (those after a timeout or a probe may
/// be spurious on a busy machine), and acknowledgements of marks.
fn tcp_counters(side: &Side) -> [u64; 2] {
    let text = output(&side.namespace, &["cat", "/proc/net/netstat"], "");
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:")).map(str::split_whitespace);
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let pairs: Vec<_> = names.zip(values).collect();
    let sum = |wanted: &[&str]| {
        let value = |name| pairs.iter().find(|(known, _)| *known == name).expect("a counter").1;
        wanted.iter().map(|name| value(*name).parse::<u64>().expect("a number")).sum()
    };
    [sum(&["TCPFastRetrans", "TCPSlowStartRetrans", "TCPLostRetransmit"]), sum(&["TCPDeliveredCE"])]
}

/// Sends one TCP stream through the tunnel over [`LINK`]. Returns what the bottleneck saw, and the sender's
/// [`tcp_counters`].
fn stream_over_a_slow_link(outside: Family, ecn: bool) -> (Seen, [u64; 2]) {
    let lab = lab();
    for side in [&lab.left, &lab.right] {
        let ecn = format!("net.ipv4.tcp_ecn={}", u8::from(ecn));
        // Reno's slow start ends with a loss or a mark, not with a growing delay.
        output(&side.namespace, &["sysctl", "-qw", &ecn, "net.ipv4.tcp_congestion_control=reno"], "");
    }
    let server = outside.endpoint(&lab.right);
    let mut relay = server;
    relay.set_port(PORT + 1);
    let link = Bottleneck::start(&lab.right.namespace, relay.port(), server, LINK);
    let _routers = pair_of(&lab, outside, &[key(), key()], |own, config| {
        // The right one learns where the relay is.
        config.update.peers[0].endpoint = (own == 0).then_some(PeerEndpoint::Address(relay));
    });
    let inside = Family::V4.inside(2);
    ping::ping(&lab.left.namespace, inside);
    let outcome = bulk(&lab.left, &lab.right, inside, 1, 4 << 20);
    let (seen, counters) = (link.stop(), tcp_counters(&lab.left));
    let share = seen.busy.as_secs_f64() / outcome.elapsed.as_secs_f64();
    eprintln!("{outside:?}, ECN {ecn}: the link was used by {:.0} %, {seen:?}, {counters:?}", 100.0 * share);
    (seen, counters)
}

#[test]
fn a_marking_queue_slows_a_stream_down_without_a_loss() {
    require_root!();
    for outside in Family::ALL {
        let (seen, [retransmitted, marks]) = stream_over_a_slow_link(outside, true);
        assert!(seen.marked > 0 && marks > 0, "marked and heard of: {seen:?}, {marks}");
        assert!(seen.dropped == 0 && retransmitted == 0, "{seen:?}, {retransmitted}");
    }
    // The same queue tells others by loss.
    let (seen, [retransmitted, marks]) = stream_over_a_slow_link(Family::V4, false);
    assert!(seen.marked == 0 && marks == 0 && seen.dropped > 0 && retransmitted > 0, "{seen:?}");
}
