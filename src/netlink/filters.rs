//! Looks for rules of a packet filter that keep others on the same link from injecting packets into the tunnel
//! (CVE-2019-14899). Laneway adds none, so they are another program's or the user's.

use std::net::IpAddr;

use nix::errno::Errno;

use super::nftables::{self, FilterRule};

/// Returns those of an interface's `addresses` that no rule of nftables protects: none that names the address and any
/// interface but `interface`, and drops or rejects. That is the form of `wg-quick`'s rules, and of those of `iptables` over
/// nftables. Rules of another form and those of the legacy `iptables` are not recognized.
///
/// # Errors
/// The kernel's error, for example without nftables or `CAP_NET_ADMIN`.
pub fn unprotected(interface: &str, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, Errno> {
    let rules = nftables::rules()?;
    let is_exposed = |address: &IpAddr| !rules.iter().any(|rule| protects(rule, interface, *address));
    Ok(addresses.iter().copied().filter(is_exposed).collect())
}

fn protects(rule: &FilterRule, interface: &str, address: IpAddr) -> bool {
    let address = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    // Names are padded with zeros.
    let is_name = |value: &[u8]| {
        value.strip_prefix(interface.as_bytes()).is_some_and(|rest| rest.iter().all(|byte| *byte == 0))
    };
    rule.refuses && rule.equal.contains(&address) && rule.not_equal.iter().any(|value| is_name(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_protects_an_address_from_all_interfaces_but_one() {
        let rule = FilterRule {
            equal: vec![vec![2], vec![10, 0, 0, 2]],
            not_equal: vec![b"wg0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()],
            refuses: true,
        };
        let address = |text: &str| text.parse().unwrap();
        assert!(protects(&rule, "wg0", address("10.0.0.2")));
        assert!(!protects(&rule, "wg", address("10.0.0.2")));
        assert!(!protects(&rule, "wg0", address("10.0.0.3")));
        assert!(!protects(&FilterRule { refuses: false, ..rule.clone() }, "wg0", address("10.0.0.2")));
        assert!(!protects(&FilterRule { not_equal: Vec::new(), ..rule }, "wg0", address("10.0.0.2")));
    }
}
