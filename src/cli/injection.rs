//! The risk of a default route through the tunnel that a packet filter closes (CVE-2019-14899).
//!
//! A host with a default route answers packets that are addressed to the tunnel's own address, even if they
//! arrive on another interface. Someone on the same link as the host can so probe connections inside the
//! tunnel and inject into them. `wg-quick` adds a packet filter against that; Laneway adds none and names the
//! commands that do.

use ipnet::IpNet;

use crate::config::RouterConfig;

/// Returns the commands that drop packets to the tunnel's addresses from other interfaces, as `wg-quick` does.
pub(super) fn commands(config: &RouterConfig) -> Vec<String> {
    let interface = &config.interface;
    let table = format!("inet laneway-{interface}");
    let mut commands = vec![
        format!("nft add table {table}"),
        format!("nft add chain {table} preraw '{{ type filter hook prerouting priority -300; }}'"),
    ];
    commands.extend(config.addresses.iter().map(|address| {
        let family = if matches!(address, IpNet::V4(_)) { "ip" } else { "ip6" };
        format!(
            "nft add rule {table} preraw iifname != \\\"{interface}\\\" {family} daddr {} fib saddr type != local drop",
            address.addr()
        )
    }));
    commands
}

/// Returns the warning for the log of a router with a default route.
pub(super) fn warning(config: &RouterConfig) -> String {
    format!(
        "no packet filter protects connections inside the tunnel from packets that others on the same link inject \
         (CVE-2019-14899); to add it: {}",
        commands(config).join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_a_rule() {
        let mut config = RouterConfig::named("wg0");
        config.addresses = vec!["10.0.0.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()];
        let commands = commands(&config);
        assert_eq!(commands.len(), 4);
        let rule = "nft add rule inet laneway-wg0 preraw iifname != \\\"wg0\\\"";
        assert_eq!(commands[2], format!("{rule} ip daddr 10.0.0.2 fib saddr type != local drop"));
        assert_eq!(commands[3], format!("{rule} ip6 daddr fd00::2 fib saddr type != local drop"));
        assert!(warning(&config).contains("CVE-2019-14899"));
    }
}
