//! A host with two uplinks, each of which only lets its own addresses out (BCP 38), loses one of them.

use super::{Tunnel, endpoint_of_peer, reaches};
use crate::support::implementation::Kind;
use crate::support::network::{cable, host, ip, sysctl};
use crate::support::{require_root, wait_until};

#[test]
fn the_tunnel_follows_the_default_route_to_another_uplink() {
    require_root!();
    for (family, how) in [(4, "route"), (6, "route"), (4, "down"), (6, "down")] {
        println!("IPv{family}, {how}");
        let left = host([192, 0, 2, 2], "2001:db8::2");
        let between = host([192, 0, 2, 1], "2001:db8::1");
        let right = host([203, 0, 113, 2], "2001:db8:9::2");
        cable(
            (&left, "one", &["192.0.2.2/24", "2001:db8::2/64"]),
            (&between, "one", &["192.0.2.1/24", "2001:db8::1/64"]),
        );
        cable(
            (&left, "two", &["198.51.100.2/24", "2001:db8:2::2/64"]),
            (&between, "two", &["198.51.100.1/24", "2001:db8:2::1/64"]),
        );
        cable(
            (&right, "far", &["203.0.113.2/24", "2001:db8:9::2/64"]),
            (&between, "far", &["203.0.113.1/24", "2001:db8:9::1/64"]),
        );
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            sysctl(&between, setting, "1");
        }
        for (option, link, own, foreign) in [
            ("-4", "one", "192.0.2.0/24", "198.51.100.0/24"),
            ("-4", "two", "198.51.100.0/24", "192.0.2.0/24"),
            ("-6", "one", "2001:db8::/64", "2001:db8:2::/64"),
            ("-6", "two", "2001:db8:2::/64", "2001:db8::/64"),
        ] {
            println!("{link} lets {own} out");
            ip(&between, &format!("{option} rule add pref 10 iif {link} from {foreign} blackhole"));
        }
        ip(&right, "route add default via 203.0.113.1");
        ip(&right, "-6 route add default via 2001:db8:9::1");
        for (gateway, device, metric) in [
            ("192.0.2.1", "one", 100),
            ("198.51.100.1", "two", 200),
            ("2001:db8::1", "one", 100),
            ("2001:db8:2::1", "two", 200),
        ] {
            let option = if gateway.contains(':') { "-6" } else { "-4" };
            ip(&left, &format!("{option} route add default via {gateway} dev {device} metric {metric}"));
        }
        let (endpoint, after) = match family {
            4 => ("203.0.113.2:51820", "198.51.100.2:"),
            _ => ("[2001:db8:9::2]:51820", "[2001:db8:2::2]:"),
        };
        let tunnel = Tunnel::new(&left, &right, Kind::Laneway("1"), endpoint);
        reaches(&left, 2);
        match how {
            "route" => {
                ip(&left, "route del default via 192.0.2.1");
                ip(&left, "-6 route del default via 2001:db8::1");
            }
            _ => ip(&left, "link set one down"),
        }
        // The keepalive alone makes the other end follow: nothing is sent through the tunnel.
        wait_until("the peer to follow", || {
            endpoint_of_peer(&right, tunnel.right.device()).starts_with(after)
        });
        reaches(&left, 2);
        reaches(&right, 1);
    }
}
