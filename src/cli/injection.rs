//! The risk of a default route through the tunnel that a packet filter closes (CVE-2019-14899).
//!
//! A host with a default route answers packets that are addressed to the tunnel's own address, even if they
//! arrive on another interface. Someone on the same link as the host can so probe connections inside the
//! tunnel and inject into them. `wg-quick` adds a packet filter against that; Laneway adds none and names the
//! command that does, unless there is one.

use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::config::RouterConfig;
use crate::netlink;

/// What protects connections inside the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Protection {
    /// Nothing is needed: no default route leads into the tunnel, or the interface has no address.
    NotNeeded,
    /// Rules for every address.
    Complete,
    /// No rules for these addresses, as far as the kernel tells.
    Missing(Vec<IpAddr>),
}

/// Finds out what protects connections inside the tunnel.
pub(super) fn protection(config: &RouterConfig) -> Protection {
    let addresses: Vec<_> = config.addresses.iter().map(IpNet::addr).collect();
    if config.rules().is_empty() || addresses.is_empty() {
        return Protection::NotNeeded;
    }
    let missing = netlink::unprotected(&config.interface, &addresses).unwrap_or(addresses);
    if missing.is_empty() { Protection::Complete } else { Protection::Missing(missing) }
}

/// Returns the command, for a shell, that drops packets to these addresses from other interfaces than `interface`, as
/// `wg-quick` does. What is in quotes can also be a file for `nft -f`.
pub(super) fn command(interface: &str, addresses: &[IpAddr]) -> String {
    // Not `laneway-`, as the table for masquerading, which belongs to the router. Names of tables have fewer characters.
    let is_foreign = |c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
    let table = format!("inet laneway_filter_{}", interface.replace(is_foreign, "_"));
    let mut rules = format!(
        "add table {table}; add chain {table} preraw {{ type filter hook prerouting priority -300; }}"
    );
    for address in addresses {
        let family = if address.is_ipv4() { "ip" } else { "ip6" };
        let _ = write!(
            rules,
            "; add rule {table} preraw iifname != \"{interface}\" {family} daddr {address} fib saddr type != local drop"
        );
    }
    format!("nft '{rules}'")
}

/// Returns the warning for the log of a router, if something is missing.
pub(super) fn warning(config: &RouterConfig) -> Option<String> {
    let Protection::Missing(addresses) = protection(config) else { return None };
    Some(format!(
        "no packet filter protects connections inside the tunnel from packets that others on the same link inject \
         (CVE-2019-14899); to add it: {}",
        command(&config.interface, &addresses)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_a_rule() {
        let command = command("w=0", &["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()]);
        let table = "inet laneway_filter_w_0";
        assert_eq!(
            command,
            format!(
                "nft 'add table {table}; add chain {table} preraw {{ type filter hook prerouting priority -300; }}; \
                 add rule {table} preraw iifname != \"w=0\" ip daddr 10.0.0.2 fib saddr type != local drop; \
                 add rule {table} preraw iifname != \"w=0\" ip6 daddr fd00::2 fib saddr type != local drop'"
            )
        );
    }

    #[test]
    fn without_a_default_route_nothing_is_needed() {
        let mut config = RouterConfig::named("wg0");
        config.addresses = vec!["10.0.0.2/24".parse().unwrap()];
        assert_eq!((protection(&config), warning(&config)), (Protection::NotNeeded, None));
    }
}
