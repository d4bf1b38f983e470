//! Routing rules that send all packets except our own datagrams into the interface, as `wg-quick` sets them up
//! (wg-quick(8), "Table"; ip-rule(8)).
//!
//! Datagrams we send carry a mark. Packets without the mark are looked up in a table with a single route, the
//! default route into the interface. Before that, the main table is consulted for everything but its default
//! route, so that more specific routes keep working. All rules of a router name its mark, so several routers in a
//! network namespace share none.
//!
//! A last rule rejects packets without the mark that found no route in the table, before they reach the main table's
//! default route. Together with the routes of [`barrier`](super::barrier) it keeps packets from leaving unencrypted
//! while the interface is down or gone, or someone has flushed the table.
//!
//! Rules that let received datagrams pass a reverse path filter come before: see
//! [`port_rules`](super::port_rules).
//!
//! Rules do not belong to an interface: they outlive it and must be removed. Those of a killed process keep packets
//! in until the router starts again or `laneway down` removes them.

use std::fmt;
use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use nix::errno::Errno;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

use super::{NetlinkError, added, refused, unless};

/// The main routing table (`RT_TABLE_MAIN`).
pub const MAIN_TABLE: u32 = 254;

/// Priorities of our rules: before that of the main table (32766), leaving room for an administrator's rules before
/// them. The distinct numbers tell our rules from others, which must not be removed.
const MAIN_WITHOUT_DEFAULT: u32 = 32_700;
const UNMARKED: u32 = 32_701;
const NO_WAY_OUT: u32 = 32_702;

/// Looks up all packets of one IP version without a mark in a separate table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultRule {
    /// The IP version.
    pub version: IpVersion,
    /// The mark (`SO_MARK`) of our own datagrams, and the number of the table.
    pub mark: u32,
}

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl IpVersion {
    /// Returns the version of `address`.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { IpVersion::V4 } else { IpVersion::V6 }
    }

    /// Returns the address family, for messages to the kernel.
    pub(super) fn family(self) -> AddressFamily {
        match self {
            IpVersion::V4 => AddressFamily::Inet,
            IpVersion::V6 => AddressFamily::Inet6,
        }
    }
}

impl From<IpVersion> for rtnetlink::IpVersion {
    fn from(version: IpVersion) -> Self {
        match version {
            IpVersion::V4 => rtnetlink::IpVersion::V4,
            IpVersion::V6 => rtnetlink::IpVersion::V6,
        }
    }
}

impl fmt::Display for IpVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IpVersion::V4 => "IPv4",
            IpVersion::V6 => "IPv6",
        })
    }
}

/// Adds the kernel's rules for `rule` unless they exist. Returns whether one was missing.
pub(super) async fn add(handle: &Handle, rule: DefaultRule) -> Result<bool, NetlinkError> {
    let mut missing = false;
    for message in messages(rule) {
        let mut request = handle.rule().add();
        *request.message_mut() = message;
        missing |= added(request.execute().await)
            .map_err(|error| refused(format!("add a rule for table {}", rule.mark), &error))?;
    }
    Ok(missing)
}

/// Removes the rules that [`add`] added, if they exist.
pub(super) async fn remove(handle: &Handle, rule: DefaultRule) -> Result<(), NetlinkError> {
    for message in messages(rule) {
        let what = || format!("remove the rule for table {}", rule.mark);
        unless(Errno::ENOENT, handle.rule().del(message).execute().await)
            .map_err(|error| refused(what(), &error))?;
    }
    Ok(())
}

/// Returns the numbers of the tables that rules of this kind look up.
pub(super) async fn tables(handle: &Handle, version: IpVersion) -> Result<Vec<u32>, NetlinkError> {
    let is_ours = |rule: &RuleMessage| {
        let priority = rule.attributes.contains(&RuleAttribute::Priority(UNMARKED));
        priority && rule.header.flags.contains(RuleFlags::Invert)
    };
    let listed = handle.rule().get(version.into()).execute().try_filter_map(async |rule| {
        let mark = rule.attributes.iter().find_map(|attribute| match attribute {
            RuleAttribute::FwMark(mark) => Some(*mark),
            _ => None,
        });
        Ok(mark.filter(|_| is_ours(&rule)))
    });
    listed.try_collect().await.map_err(|error| refused("list the routing rules".to_owned(), &error))
}

fn messages(rule: DefaultRule) -> [RuleMessage; 3] {
    let message = |priority, table, more: &[RuleAttribute]| {
        let mut message = RuleMessage::default();
        message.header.family = rule.version.family();
        message.header.action = RuleAction::ToTable;
        message.attributes = vec![RuleAttribute::Priority(priority), RuleAttribute::Table(table)];
        message.attributes.extend_from_slice(more);
        message
    };
    // The mark also makes the rule distinct from those of other routers, so each removes its own.
    let attributes = [RuleAttribute::SuppressPrefixLen(0), RuleAttribute::FwMark(rule.mark)];
    let mut near = message(MAIN_WITHOUT_DEFAULT, MAIN_TABLE, &attributes);
    near.header.flags = RuleFlags::Invert;
    let mut unmarked = message(UNMARKED, rule.mark, &[RuleAttribute::FwMark(rule.mark)]);
    unmarked.header.flags = RuleFlags::Invert;
    let mut closed = unmarked.clone();
    closed.header.action = RuleAction::Unreachable;
    closed.attributes = vec![RuleAttribute::Priority(NO_WAY_OUT), RuleAttribute::FwMark(rule.mark)];
    [near, unmarked, closed]
}
