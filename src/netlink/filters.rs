//! Looks for rules of a packet filter that keep others on the same link from injecting packets into the tunnel
//! (CVE-2019-14899). Laneway adds none, so they are another program's or the user's.

use std::net::IpAddr;

use nix::errno::Errno;

use super::nftables::{self, GET_CHAIN, GET_RULE, NEW_CHAIN, NEW_RULE, attribute, attributes, nested};

/// Returns those of an interface's `addresses` that no rule of nftables protects: none in a base chain of prerouting or
/// input that drops or rejects what is addressed to it and arrives on any interface but `interface`. That is the form of
/// `wg-quick`'s rules, and of those of `iptables` over nftables. Rules with further conditions, and those of the legacy
/// `iptables`, are not recognized.
///
/// # Errors
/// The kernel's error, for example without nftables or `CAP_NET_ADMIN`.
pub fn unprotected(interface: &str, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, Errno> {
    let rules = rules()?;
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
    rule.refuses
        && rule.destination.as_ref() == Some(&address)
        && rule.not_from.as_ref().is_some_and(|value| is_name(value))
}

/// What a rule of a base chain refuses that packets pass on their way to this host: prerouting or input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct FilterRule {
    /// The destination address that packets must have.
    destination: Option<Vec<u8>>,
    /// The name of the interface on which packets must not have arrived.
    not_from: Option<Vec<u8>>,
    /// Whether such packets are dropped or rejected, unless their source is local or something else is asked for.
    refuses: bool,
}

/// Returns the rules on the way of incoming packets, of all tables in the calling thread's network namespace.
///
/// # Errors
/// The kernel's error, for example without nftables or `CAP_NET_ADMIN`.
fn rules() -> Result<Vec<FilterRule>, Errno> {
    let chain_of = |(family, object): &(u8, Vec<u8>), table, chain| {
        let name = |kind| nested(object, &[kind]).map(<[u8]>::to_vec);
        Some((*family, name(table)?, name(chain)?))
    };
    let incoming: Vec<_> = nftables::dump(GET_CHAIN, NEW_CHAIN)?
        .iter()
        .filter(|(_, chain)| {
            let hook = nested(chain, &[attribute::CHAIN_HOOK, attribute::HOOK_NUMBER]);
            let hooks = [libc::NF_INET_PRE_ROUTING, libc::NF_INET_LOCAL_IN];
            hooks.iter().any(|wanted| hook == Some(&wanted.cast_unsigned().to_be_bytes()))
        })
        .filter_map(|chain| chain_of(chain, attribute::CHAIN_TABLE, attribute::CHAIN_NAME))
        .collect();
    let rules = nftables::dump(GET_RULE, NEW_RULE)?;
    let is_incoming = |rule: &&(u8, Vec<u8>)| {
        chain_of(rule, attribute::RULE_TABLE, attribute::RULE_CHAIN)
            .is_some_and(|chain| incoming.contains(&chain))
    };
    Ok(rules.iter().filter(is_incoming).map(|(_, rule)| FilterRule::decode(rule)).collect())
}

/// What an expression has loaded into a register.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loaded {
    /// The name of the interface on which the packet arrived.
    Interface,
    /// Its destination address.
    Destination,
    /// The IP version, or whether the source is local: these do not narrow what a rule protects.
    Harmless,
    /// Anything else.
    Other,
}

impl Loaded {
    fn by_meta(data: &[u8]) -> Self {
        let key = nested(data, &[attribute::META_KEY]);
        let is = |wanted: libc::c_int| key == Some(&wanted.cast_unsigned().to_be_bytes());
        if is(libc::NFT_META_IIFNAME) {
            Loaded::Interface
        } else if is(libc::NFT_META_NFPROTO) {
            Loaded::Harmless
        } else {
            Loaded::Other
        }
    }

    fn by_payload(data: &[u8]) -> Self {
        let number = |kind| nested(data, &[kind])?.first_chunk().copied().map(u32::from_be_bytes);
        let base = number(attribute::PAYLOAD_BASE);
        // Of IPv4 and IPv6.
        let places = [(Some(16), Some(4)), (Some(24), Some(16))];
        let place = (number(attribute::PAYLOAD_OFFSET), number(attribute::PAYLOAD_LENGTH));
        let is_network = base == Some(libc::NFT_PAYLOAD_NETWORK_HEADER.cast_unsigned());
        if is_network && places.contains(&place) { Loaded::Destination } else { Loaded::Other }
    }
}

impl FilterRule {
    /// Decodes a rule. One with an expression that may narrow it is taken for one that refuses nothing.
    fn decode(rule: &[u8]) -> Self {
        let (mut decoded, mut is_narrowed) = (FilterRule::default(), false);
        let mut registers: Vec<(&[u8], Loaded)> = Vec::new();
        let list = nested(rule, &[attribute::RULE_EXPRESSIONS]).unwrap_or_default();
        for (_, expression) in attributes(list) {
            let data = nested(expression, &[attribute::EXPRESSION_DATA]).unwrap_or_default();
            let mut load = |loaded| {
                // `NFTA_META_DREG`, `NFTA_PAYLOAD_DREG` and `NFTA_FIB_DREG` are the same number.
                let register = nested(data, &[attribute::META_REGISTER]).unwrap_or_default();
                registers.retain(|(other, _)| *other != register);
                registers.push((register, loaded));
            };
            match nested(expression, &[attribute::EXPRESSION_NAME]) {
                Some(b"meta\0") => load(Loaded::by_meta(data)),
                Some(b"payload\0") => load(Loaded::by_payload(data)),
                Some(b"fib\0") => load(Loaded::Harmless),
                Some(b"cmp\0") => {
                    let register = nested(data, &[attribute::COMPARE_REGISTER]).unwrap_or_default();
                    let loaded = registers.iter().find(|(other, _)| *other == register);
                    let loaded = loaded.map_or(Loaded::Other, |(_, loaded)| *loaded);
                    let operation = nested(data, &[attribute::COMPARE_OPERATION]);
                    let is = |wanted: libc::c_int| operation == Some(&wanted.cast_unsigned().to_be_bytes());
                    let value = nested(data, &[attribute::COMPARE_DATA, attribute::DATA_VALUE]);
                    match loaded {
                        Loaded::Interface if is(libc::NFT_CMP_NEQ) => {
                            decoded.not_from = value.map(<[u8]>::to_vec);
                        }
                        Loaded::Destination if is(libc::NFT_CMP_EQ) => {
                            decoded.destination = value.map(<[u8]>::to_vec);
                        }
                        Loaded::Harmless => {}
                        _ => is_narrowed = true,
                    }
                }
                // Of `iptables` over nftables: whether the source is local.
                Some(b"match\0") => {
                    is_narrowed |= nested(data, &[attribute::MATCH_NAME]) != Some(b"addrtype\0");
                }
                Some(b"immediate\0") => {
                    let verdict =
                        [attribute::IMMEDIATE_DATA, attribute::DATA_VERDICT, attribute::VERDICT_CODE];
                    let drop = (libc::NF_DROP as u32).to_be_bytes();
                    decoded.refuses |= nested(data, &verdict).is_some_and(|code| code == drop);
                }
                Some(b"reject\0") => decoded.refuses = true,
                Some(b"counter\0" | b"log\0") => {}
                _ => is_narrowed = true,
            }
        }
        decoded.refuses &= !is_narrowed;
        decoded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_protects_an_address_from_all_interfaces_but_one() {
        let rule = FilterRule {
            destination: Some(vec![10, 0, 0, 2]),
            not_from: Some(b"wg0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec()),
            refuses: true,
        };
        let address = |text: &str| text.parse().unwrap();
        assert!(protects(&rule, "wg0", address("10.0.0.2")));
        assert!(!protects(&rule, "wg", address("10.0.0.2")));
        assert!(!protects(&rule, "wg0", address("10.0.0.3")));
        assert!(!protects(&FilterRule { refuses: false, ..rule.clone() }, "wg0", address("10.0.0.2")));
        assert!(!protects(&FilterRule { not_from: None, ..rule }, "wg0", address("10.0.0.2")));
    }
}
