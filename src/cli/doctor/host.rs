//! Host checks: kernel, capabilities, control socket directory and network settings.

use std::fs;
use std::path::Path;

use ipnet::IpNet;
use nix::net::if_::if_nametoindex;
use nix::unistd::{AccessFlags, access};

use super::check::Check;
use super::remedies;
use crate::cli::injection::{self, Protection};
use crate::cli::kept;
use crate::config::RouterConfig;
use crate::netlink::{self, ReversePath};
use crate::router::sandbox::capabilities;
use crate::uapi;

pub(super) fn kernel() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Check::good("kernel", format!("Linux {} on {}", release.trim(), std::env::consts::ARCH))
}

pub(super) fn capabilities() -> Check {
    let name = "capabilities";
    let held = capabilities::effective().unwrap_or_default();
    if held.iter().any(|capability| capability == "CAP_NET_ADMIN") {
        let others = held.len() - 1;
        Check::good(name, format!("CAP_NET_ADMIN, and {others} more that a router drops or does not need"))
    } else {
        Check::missing(name, "CAP_NET_ADMIN is missing", remedies::NET_ADMIN)
    }
}

/// Checks that the control socket can be created in `directory`, which may not exist yet.
pub(super) fn control_socket(directory: &Path) -> Check {
    let name = "control socket";
    let there = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    match access(there, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) => Check::good(name, format!("{} is writable", directory.display())),
        Err(errno) => {
            let found = format!("{} is not writable: {}", there.display(), errno.desc());
            Check::missing(name, found, remedies::CONTROL_DIRECTORY)
        }
    }
}

/// Checks whether a strict reverse path filter drops what peers send when everything is routed through the tunnel, which
/// the router prevents with a rule for its port.
pub(super) fn reverse_path_filter() -> Check {
    let name = "reverse path filter";
    let limited = |found: String| Check::limited(name, found, remedies::STRICT_FILTER);
    match netlink::probe_reverse_path() {
        Ok(ReversePath::Open) => Check::good(name, "not strict (tried)"),
        Ok(ReversePath::Cured) => {
            Check::good(name, "strict, but rules let datagrams to the router's port pass (tried)")
        }
        Ok(ReversePath::CuredButFragments) => limited(
            "strict; rules let datagrams to the router's port pass, but not if they are fragments (tried)"
                .to_owned(),
        ),
        Ok(ReversePath::NoRoute) => Check::good(name, "not tried: there is no IPv4 route to other networks"),
        Ok(ReversePath::Closed) => limited(
            "strict, and it drops what peers send to the router with AllowedIPs = 0.0.0.0/0 (tried)"
                .to_owned(),
        ),
        Err(error) => limited(format!("not tried: {error}")),
    }
}

/// Checks whether a packet filter protects a default route through the tunnel; nothing otherwise.
pub(super) fn injection(config: &RouterConfig) -> Option<Check> {
    let name = "injection filter";
    match injection::protection(config) {
        Protection::NotNeeded => None,
        Protection::Complete => Some(Check::good(name, "rules drop what others on the same link inject")),
        Protection::Missing(addresses) => {
            let command = injection::command(&config.interface, &addresses);
            let found = format!(
                "nothing drops what others on the same link inject into a tunnel with the default route \
                 (CVE-2019-14899); this command adds rules: {command}"
            );
            Some(Check::limited(name, found, remedies::INJECTION))
        }
    }
}

/// Checks whether `interface` can be created, or what has it.
pub(super) fn interface(config: &RouterConfig) -> Check {
    let (name, interface) = ("interface", &config.interface);
    if let Some(notice) = kept::notice(interface) {
        return Check::limited(name, notice, remedies::KEPT_SHUT);
    }
    let is_used =
        netlink::tun_state(interface).is_ok_and(|state| state.is_some_and(|state| state.queues > 0));
    let found = match uapi::serving(&config.uapi_dir, interface) {
        Some(process) if is_used => format!("{interface} is run by process {process}"),
        None if is_used => format!("{interface} is in use by a process"),
        _ if if_nametoindex(interface.as_str()).is_err() => {
            format!("{interface} is not there yet, and nothing is left of it")
        }
        _ => {
            let found = format!("{interface} exists and is not a router's");
            return Check::missing(name, found, remedies::OTHER_NAME);
        }
    };
    Check::good(name, found)
}

/// Checks that a new interface accepts the IPv6 addresses and routes in `config`, if it has any.
pub(super) fn ipv6(config: &RouterConfig) -> Check {
    let name = "IPv6";
    let off = netlink::ipv6_setting("default", "disable_ipv6");
    let nets = config.addresses.iter().copied().chain(config.routes().into_iter().map(|route| route.net));
    let wanted = nets.into_iter().find(|net| matches!(net, IpNet::V6(_)));
    let (found, remedy) = match off {
        Some(0) => return Check::good(name, "on"),
        Some(_) => ("disabled for new interfaces", remedies::IPV6),
        None => ("not available in this kernel", remedies::IPV6_KERNEL),
    };
    match wanted {
        Some(net) => Check::missing(name, format!("{found}, but the configuration has {net}"), remedy),
        None => Check::good(name, format!("{found}; the configuration has no IPv6")),
    }
}

pub(super) fn forwarding() -> Check {
    let is_on =
        |path: &str| fs::read_to_string(format!("/proc/sys/net/{path}")).is_ok_and(|text| text.trim() == "1");
    let state = |on: bool| if on { "on" } else { "off" };
    let (v4, v6) = (is_on("ipv4/ip_forward"), is_on("ipv6/conf/all/forwarding"));
    Check::good(
        "IP forwarding",
        format!("IPv4 {}, IPv6 {}: required for a gateway, not for a sidecar", state(v4), state(v6)),
    )
}
