//! Tests against the kernel, each in a new network namespace. They require root; `LANEWAY_SKIP_NETNS=1` skips them.

use std::fs;
use std::process::Command;
use std::thread;

use caps::{CapSet, Capability};
use nix::sched::{CloneFlags, unshare};

use crate::netlink::*;
use crate::testing;

/// Runs `test` on a thread in a new network namespace, which ends with the thread.
fn in_fresh_namespace(test: impl FnOnce() + Send + 'static) {
    if testing::without_root() {
        return;
    }
    let test = move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("root can create a network namespace");
        test();
    };
    if let Err(panic) = thread::spawn(test).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Adds one end of a veth pair in place of a TUN; the kernel's link code treats both alike.
fn add_link(name: &'static str) {
    let work = async {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        handle.link().add(rtnetlink::LinkVeth::new(name, "other-end").build()).execute().await.unwrap();
    };
    runtime().unwrap().block_on(work);
}

fn setup() -> Setup {
    let route = |net: &str, table| Route { net: net.parse().unwrap(), table };
    Setup {
        mtu: 1380,
        gso_max_segs: 45,
        addresses: vec!["10.9.0.1/24".parse().unwrap(), "fd09::1/64".parse().unwrap()],
        routes: vec![route("10.10.0.0/16", 254), route("fd10::/32", 254), route("0.0.0.0/0", 1234)],
        rules: [IpVersion::V4, IpVersion::V6].map(|version| DefaultRule { version, mark: 1234 }).to_vec(),
        unreachable: vec![route("0.0.0.0/0", 1234), route("::/0", 1234)],
        up: true,
    }
}

/// Returns the output of ip(8) as an independent check, or `None` if it is not installed. It runs in the calling
/// thread's namespace.
fn ip(arguments: &str) -> Option<String> {
    let output = Command::new("ip").args(arguments.split(' ')).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn an_interface_gets_all_that_its_setup_says_and_doing_it_twice_does_no_harm() {
    in_fresh_namespace(|| {
        add_link("lw0");
        set_up("lw0", &setup()).unwrap();
        set_up("lw0", &setup()).unwrap();
        // thread-self reads the thread's namespace, not the process's.
        let proc = |file: &str| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap();
        assert!(proc("if_inet6").lines().any(|line| line.starts_with("fd09") && line.ends_with("lw0")));
        // The kernel prints destination and mask in little-endian hexadecimal.
        assert!(
            proc("route")
                .lines()
                .any(|line| line.starts_with("lw0\t00000A0A\t") && line.contains("0000FFFF"))
        );
        assert!(proc("ipv6_route").lines().any(|line| line.starts_with("fd10") && line.ends_with("lw0")));
        let Some(link) = ip("-d link show lw0") else { return };
        for part in ["mtu 1380", "qlen 10000", "gso_max_segs 45", "UP"] {
            assert!(link.contains(part), "{part}: {link}");
        }
        lift_segment_limit("lw0").unwrap();
        assert!(ip("-d link show lw0").unwrap().contains("gso_max_segs 65535"));
        assert!(ip("-4 addr show lw0").unwrap().contains("inet 10.9.0.1/24"));
        assert!(link.contains("addrgenmode none"), "{link}");
        assert!(ip("route show table 1234").unwrap().contains("default dev lw0 proto static scope link"));
        // Gateways can be in the networks of the routes.
        assert!(ip("route add 10.99.0.0/16 via 10.10.0.9 dev lw0").is_some());
        assert!(ip("route show 10.99.0.0/16").unwrap().contains("via 10.10.0.9"));
        for rules in ["-4 rule", "-6 rule"].map(|words| ip(words).unwrap()) {
            let rule = |text: &str| rules.lines().filter(|line| line.ends_with(text)).count();
            assert_eq!(rule("not from all fwmark 0x4d2 lookup main suppress_prefixlength 0"), 1, "{rules}");
            assert_eq!(rule("not from all fwmark 0x4d2 lookup 1234"), 1, "{rules}");
        }
    });
}

#[test]
fn a_change_takes_away_what_is_no_longer_wanted_and_leaves_the_rest() {
    in_fresh_namespace(|| {
        add_link("lw0");
        set_up("lw0", &setup()).unwrap();
        let mut after = setup();
        // A route added by someone else, which must not be removed.
        let Some(_) = ip("route add 10.99.0.0/16 dev lw0") else { return };
        after.mtu = 1300;
        after.addresses = vec!["10.9.0.2/24".parse().unwrap(), "10.9.0.3/24".parse().unwrap()];
        after.routes.remove(1);
        after.rules.remove(1);
        change("lw0", &setup(), &after).unwrap();
        change("lw0", &setup(), &after).unwrap();
        assert!(ip("link show lw0").unwrap().contains("mtu 1300"));
        let addresses = ip("-o addr show dev lw0 scope global").unwrap();
        let told = |text: &str| addresses.contains(text);
        assert!(told("10.9.0.2/24") && told("10.9.0.3/24"), "{addresses}");
        assert!(!told("10.9.0.1/24") && !told("fd09::1"), "{addresses}");
        let routes = ip("route show dev lw0").unwrap();
        assert!(
            routes.contains("10.10.0.0/16") && !ip("-6 route").unwrap().contains("fd10::/32"),
            "{routes}"
        );
        assert!(ip("route show table 1234").unwrap().contains("default dev lw0"));
        assert!(ip("-4 rule").unwrap().contains("lookup 1234"));
        assert!(!ip("-6 rule").unwrap().contains("lookup 1234"));
        clean_up("lw0", &after).unwrap();
        assert_eq!(ip("-4 rule").unwrap().lines().count(), 3, "local, main, default");
    });
}

#[test]
fn routers_share_neither_table_nor_rules() {
    in_fresh_namespace(|| {
        add_link("lw0");
        let first = free_table("lw0", 1234).unwrap();
        assert_eq!(first, 1234);
        set_up("lw0", &setup()).unwrap();
        assert_eq!(free_table("lw0", 1234).unwrap(), 1234, "its own routes are no reason for another table");
        let lock = TableLock::take();
        let second = free_table("other-end", 1234).unwrap();
        drop(lock);
        assert_eq!(second, 1235);
        let rules =
            |mark| [IpVersion::V4, IpVersion::V6].map(|version| DefaultRule { version, mark }).to_vec();
        let of_second = Setup { addresses: Vec::new(), routes: Vec::new(), rules: rules(second), ..setup() };
        let told = || ["-4 rule", "-6 rule"].map(|words| ip(words).unwrap_or_default());
        let before = told();
        set_up("other-end", &of_second).unwrap();
        assert_ne!(told(), before);
        clean_up("other-end", &of_second).unwrap();
        assert_eq!(told(), before);
    });
}

#[test]
fn a_router_finds_the_table_of_its_earlier_process() {
    in_fresh_namespace(|| {
        let default = |table| Route { net: "0.0.0.0/0".parse().unwrap(), table };
        shut("lw0", &Setup { unreachable: vec![default(1234)], ..Setup::default() }).unwrap();
        assert_eq!(free_table("lw0", 1200).unwrap(), 1234, "with the interface gone");
        assert_eq!(free_table("lw1", 1234).unwrap(), 1235);
        shut("lw1", &Setup { unreachable: vec![default(1234)], ..Setup::default() }).unwrap();
        assert_eq!(free_table("lw0", 1200).unwrap(), 1200, "another router has a route in it");
    });
}

#[test]
fn an_interface_that_is_not_there_is_named() {
    in_fresh_namespace(|| {
        let message = set_up("lw9", &setup()).unwrap_err().to_string();
        assert!(message.starts_with("cannot find the interface lw9: "), "{message}");
    });
}

#[test]
fn where_ipv6_is_switched_off_that_is_what_is_said_and_no_capability_is_asked_for() {
    in_fresh_namespace(|| {
        fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        add_link("lw0");
        let mut setup = setup();
        let refused = |setup: &Setup, what: &str| {
            let message = set_up("lw0", setup).unwrap_err().to_string();
            assert!(message.starts_with(&format!("cannot {what}")), "{message}");
            assert!(message.contains("net.ipv6.conf.all.disable_ipv6=0"), "{message}");
            assert!(!message.contains("NET_ADMIN"), "{message}");
        };
        refused(&setup, "add the address fd09::1/64 to lw0");
        setup.addresses.pop();
        refused(&setup, "add a route to fd10::/32 through lw0");
        // The suggested remedy works.
        fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "0").unwrap();
        set_up("lw0", &setup).unwrap();
    });
}

#[test]
fn without_the_capability_it_is_the_capability_that_is_asked_for() {
    in_fresh_namespace(|| {
        fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        add_link("lw0");
        caps::drop(None, CapSet::Effective, Capability::CAP_NET_ADMIN).unwrap();
        let message = set_up("lw0", &setup()).unwrap_err().to_string();
        assert!(message.contains("--cap-add NET_ADMIN"), "{message}");
    });
}

#[test]
fn a_new_mtu_and_the_end_of_the_interface_are_told() {
    in_fresh_namespace(|| {
        add_link("lw0");
        let work = async {
            let mut watch = LinkWatch::open("lw0").await.unwrap();
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            let link = || LinkMessageBuilder::<LinkUnspec>::new().index(watch.index());
            handle.link().set(link().mtu(1300).build()).execute().await.unwrap();
            handle.link().set(link().up().build()).execute().await.unwrap();
            let index = watch.index();
            assert_eq!(watch.next().await, LinkEvent::Changed { mtu: 1300, up: false });
            assert_eq!(watch.next().await, LinkEvent::Changed { mtu: 1300, up: true });
            handle.link().del(index).execute().await.unwrap();
            while watch.next().await != LinkEvent::Gone {}
        };
        runtime().unwrap().block_on(work);
    });
}

#[test]
fn addresses_are_told_whoever_gives_and_takes_them() {
    in_fresh_namespace(|| {
        add_link("lw0");
        let work = async {
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            let index = find(&handle, "lw0").await.unwrap().header.index;
            let add = async |address: &str| {
                handle.address().add(index, address.parse().unwrap(), 24).execute().await.unwrap();
            };
            add("10.9.0.1").await;
            let mut watch = AddressWatch::open("lw0").await.unwrap();
            let addresses =
                |all: &[&str]| all.iter().map(|a| a.parse::<IpAddr>().unwrap()).collect::<Vec<_>>();
            assert_eq!(watch.last(), addresses(&["10.9.0.1"]));
            add("fd09::1").await;
            assert_eq!(watch.next().await.unwrap(), addresses(&["10.9.0.1", "fd09::1"]));
            remove_address(&handle, index, "lw0", "10.9.0.1/24".parse().unwrap()).await.unwrap();
            assert_eq!(watch.next().await.unwrap(), addresses(&["fd09::1"]));
            handle.link().del(index).execute().await.unwrap();
            assert_eq!(watch.next().await.unwrap(), addresses(&[]));
        };
        runtime().unwrap().block_on(work);
    });
}

#[test]
fn rules_for_ports_are_for_addresses_that_peers_send_to_and_work_without_ipv6() {
    in_fresh_namespace(|| {
        add_link("lw0");
        let Some(_) = ip("link add eth7 type veth peer name eth7-end") else { return };
        for link in ["lo", "eth7", "eth7-end", "other-end"] {
            ip(&format!("link set {link} up"));
        }
        set_up("lw0", &setup()).unwrap();
        let address = |words: &str| ip(&format!("addr add {words}")).unwrap();
        for words in
            ["192.0.2.7/24 dev eth7", "2001:db8:7::7/64 dev eth7 nodad", "fd55::1/64 dev other-end nodad"]
        {
            address(words);
        }
        let before = [ip("-4 rule"), ip("-6 rule")];
        let ports = Ports { first: 51_820, last: 51_820 };
        let found = || port_rules("lw0", &setup().rules, ports).unwrap();
        let rules6 = || ip("-6 rule").unwrap();
        // Nothing of peers can arrive over IPv6.
        change_port_rules(&[], &found()).unwrap();
        assert!(ip("-4 rule").unwrap().contains("from 192.0.2.7 "));
        assert_eq!(Some(rules6()), before[1]);
        let v4 = found();

        ip("-6 route add default via 2001:db8:7::1 dev eth7");
        change_port_rules(&v4, &found()).unwrap();
        change_port_rules(&found(), &found()).unwrap();
        let rules = rules6();
        assert_eq!(rules.matches("from 2001:db8:7::7 ").count(), 1, "{rules}");
        assert_eq!(rules.matches(" goto 32698").count(), 2, "{rules}");
        for other in ["fd55::1", "fd09::1", "fe80"] {
            assert!(!rules.contains(other), "{rules}");
        }
        let known = found();
        assert_eq!(remains("lw0").unwrap().port_rules.len(), known.len());

        fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
        assert_eq!(found(), v4);
        change_port_rules(&known, &[]).unwrap();
        assert_eq!([ip("-4 rule"), ip("-6 rule")], before);
    });
}
