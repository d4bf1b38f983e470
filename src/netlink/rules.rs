//! Routing rules that send all packets except our own datagrams into the interface, as `wg-quick` sets them up
//! (wg-quick(8), "Table"; ip-rule(8)).
//!
//! Datagrams we send carry a mark. Packets without the mark are looked up in a table with a single route, the
//! default route into the interface. Before that, the main table is consulted for everything but its default
//! route, so that more specific routes keep working. All rules of a router name its mark, so several routers in a
//! network namespace share none.
//!
//! Rules do not belong to an interface: they outlive it and must be removed. Rules left behind by a killed process
//! are harmless, because the table they point to is then empty.

use std::fs;

use nix::errno::Errno;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

use super::{NetlinkError, refused, unless};
use crate::config::Table;

/// Priorities of our rules: before that of the main table (32766), leaving room for an administrator's rules before
/// them. The distinct numbers tell our rules from others, which must not be removed.
const MAIN_WITHOUT_DEFAULT: u32 = 32_700;
const UNMARKED: u32 = 32_701;

/// Unless this is set, a strict IPv4 reverse path filter looks replies up without their mark and drops them.
const VALID_MARK: &str = "/proc/sys/net/ipv4/conf/all/src_valid_mark";

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

/// Adds the kernel's rules for `rule` unless they exist.
pub(super) async fn add(handle: &Handle, rule: DefaultRule) -> Result<(), NetlinkError> {
    if rule.version == IpVersion::V4
        && let Err(error) = fs::write(VALID_MARK, "1")
    {
        // Containers are often not permitted to. It only matters with a strict filter (rp_filter = 1).
        tracing::info!("cannot set {VALID_MARK} to 1, which a strict rp_filter requires: {error}");
    }
    for message in messages(rule) {
        let mut request = handle.rule().add();
        *request.message_mut() = message;
        unless(Errno::EEXIST, request.execute().await)
            .map_err(|error| refused(format!("add a rule for table {}", rule.mark), &error))?;
    }
    Ok(())
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

fn messages(rule: DefaultRule) -> [RuleMessage; 2] {
    let message = |priority, table, more: &[RuleAttribute]| {
        let mut message = RuleMessage::default();
        message.header.family = match rule.version {
            IpVersion::V4 => AddressFamily::Inet,
            IpVersion::V6 => AddressFamily::Inet6,
        };
        message.header.action = RuleAction::ToTable;
        message.attributes = vec![RuleAttribute::Priority(priority), RuleAttribute::Table(table)];
        message.attributes.extend_from_slice(more);
        message
    };
    // The mark also makes the rule distinct from those of other routers, so each removes its own.
    let attributes = [RuleAttribute::SuppressPrefixLen(0), RuleAttribute::FwMark(rule.mark)];
    let mut near = message(MAIN_WITHOUT_DEFAULT, Table::MAIN, &attributes);
    near.header.flags = RuleFlags::Invert;
    let mut unmarked = message(UNMARKED, rule.mark, &[RuleAttribute::FwMark(rule.mark)]);
    unmarked.header.flags = RuleFlags::Invert;
    [near, unmarked]
}
