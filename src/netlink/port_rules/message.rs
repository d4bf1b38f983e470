//! Rules as messages of the kernel.

use ipnet::IpNet;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleMessage, RulePortRange, RuleUidRange};
use rtnetlink::packet_route::{AddressFamily, IpProtocol};

use super::{PortRule, Ports, Purpose};
use crate::netlink::{IpVersion, MAIN_TABLE};

/// Priorities: before the rules that lead into the tunnel ([`rules`](crate::netlink::rules)).
const SOURCE_PORT: u32 = 32_695;
const DESTINATION_PORT: u32 = 32_696;
const WITHOUT_PORTS: u32 = 32_697;
pub(in crate::netlink) const READ_PORTS: u32 = 32_698;
pub(in crate::netlink) const TO_MAIN: u32 = 32_699;

/// The ports that a rule can name.
const ANY_PORT: Ports = Ports { first: 1, last: 65_534 };

/// Returns the message that adds or removes a rule.
pub(in crate::netlink) fn message(PortRule { mark, version, purpose }: PortRule) -> RuleMessage {
    let range = |ports: Ports| RulePortRange { start: ports.first, end: ports.last };
    let at = |net: IpNet| {
        [
            RuleAttribute::Table(MAIN_TABLE),
            RuleAttribute::Source(net.addr()),
            RuleAttribute::UidRange(RuleUidRange { start: 0, end: 0 }),
        ]
    };
    let mut message = RuleMessage::default();
    let mut attributes = Vec::new();
    let (priority, action) = match purpose {
        Purpose::ReadPorts(ports) => {
            attributes.push(RuleAttribute::SourcePortRange(range(ports)));
            (READ_PORTS, RuleAction::Nop)
        }
        Purpose::Target => (READ_PORTS, RuleAction::Nop),
        Purpose::Admit(ports, net) => {
            attributes.push(RuleAttribute::SourcePortRange(range(ports)));
            attributes.extend(at(net));
            message.header.src_len = net.prefix_len();
            (TO_MAIN, RuleAction::ToTable)
        }
        Purpose::SourcePort => {
            attributes.push(RuleAttribute::SourcePortRange(range(ANY_PORT)));
            (SOURCE_PORT, RuleAction::Goto)
        }
        Purpose::DestinationPort => {
            attributes.push(RuleAttribute::DestinationPortRange(range(ANY_PORT)));
            (DESTINATION_PORT, RuleAction::Goto)
        }
        Purpose::WithoutPorts(net) => {
            attributes.extend(at(net));
            message.header.src_len = net.prefix_len();
            (WITHOUT_PORTS, RuleAction::ToTable)
        }
    };
    if action == RuleAction::Goto {
        attributes.push(RuleAttribute::Goto(READ_PORTS));
    }
    // Packets of this machine, and lookups of the filter.
    if !matches!(purpose, Purpose::ReadPorts(_)) {
        attributes.push(RuleAttribute::Iifname("lo".to_owned()));
    }
    attributes.extend([
        RuleAttribute::Priority(priority),
        RuleAttribute::FwMark(mark),
        RuleAttribute::FwMask(0),
        RuleAttribute::IpProtocol(IpProtocol::Udp),
    ]);
    message.header.family = version.family();
    message.header.action = action;
    message.attributes = attributes;
    message
}

/// The reverse of [`message`]. Returns `None` for other rules.
pub(super) fn read(message: &RuleMessage) -> Option<PortRule> {
    let version = match message.header.family {
        AddressFamily::Inet => IpVersion::V4,
        AddressFamily::Inet6 => IpVersion::V6,
        _ => return None,
    };
    let (mut priority, mut mark, mut ports, mut net) = (0, 0, Ports::default(), IpNet::default());
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Priority(number) => priority = *number,
            RuleAttribute::FwMark(number) => mark = *number,
            RuleAttribute::SourcePortRange(range) => {
                ports = Ports { first: range.start, last: range.end };
            }
            RuleAttribute::Source(address) => net = IpNet::new(*address, message.header.src_len).ok()?,
            _ => {}
        }
    }
    let purpose = match priority {
        READ_PORTS if version == IpVersion::V6 => Purpose::Target,
        READ_PORTS => Purpose::ReadPorts(ports),
        TO_MAIN => Purpose::Admit(ports, net),
        SOURCE_PORT => Purpose::SourcePort,
        DESTINATION_PORT => Purpose::DestinationPort,
        WITHOUT_PORTS => Purpose::WithoutPorts(net),
        _ => return None,
    };
    let rule = PortRule { mark, version, purpose };
    let expected = self::message(rule);
    let holds = expected.attributes.iter().all(|attribute| message.attributes.contains(attribute));
    (holds && message.header.action == expected.header.action).then_some(rule)
}

#[cfg(test)]
mod tests {
    use super::super::{rules_for, rules_without_ports};
    use super::*;

    #[test]
    fn rules_are_read_as_they_are_written() {
        let ports = Ports { first: 7001, last: 7004 };
        let nets = |texts: [&str; 2]| texts.map(|text| text.parse().unwrap());
        let mut rules = rules_for(51_820, ports, &nets(["10.0.0.0/8", "192.0.2.1/32"]));
        rules.extend(rules_without_ports(51_820, &nets(["2001:db8::/32", "fd00::1/128"])));
        for rule in rules {
            assert_eq!(read(&message(rule)), Some(rule));
            let mut other = message(rule);
            other.attributes.retain(|attribute| !matches!(attribute, RuleAttribute::IpProtocol(_)));
            assert_eq!(read(&other), None, "{rule:?}");
        }
    }
}
