//! Rules that lead everything into the interface but what we send ourselves, as `wg-quick` makes them
//! (wg-quick(8), "Table"; ip-rule(8)).
//!
//! What we send bears a mark. Everything without the mark is looked up in a table that has one route, the
//! default route into the interface. Before that, the main table is asked for all but its default route:
//! what is nearer than that stays near.
//!
//! Rules belong to no interface: they stay when it goes, and have to be removed. Those that a kill leaves
//! behind do no harm, for the table that they lead to is empty then.

use std::fs;

use nix::errno::Errno;
use rtnetlink::Handle;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

use super::{NetlinkError, refused, unless};
use crate::control::config::Table;

/// Where our rules stand: right before that of the main table (32766), those of a person before them.
/// Numbers of their own tell them from the rules of others, which are not ours to remove.
const MAIN_WITHOUT_DEFAULT: u32 = 32_700;
const UNMARKED: u32 = 32_701;

/// Without this the reverse path filter of IPv4 looks answers up without their mark, and drops them.
const VALID_MARK: &str = "/proc/sys/net/ipv4/conf/all/src_valid_mark";

/// Leads everything of one version of IP that does not bear a mark to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefaultRule {
    /// Which version.
    pub version: IpVersion,
    /// The mark (`SO_MARK`) of what we send ourselves, and the number of the table.
    pub mark: u32,
}

/// A version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpVersion {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Adds what `rule` needs, unless it is there already.
pub(super) async fn add(handle: &Handle, rule: DefaultRule) -> Result<(), NetlinkError> {
    if rule.version == IpVersion::V4
        && let Err(error) = fs::write(VALID_MARK, "1")
    {
        // A container often may not. It only matters where the filter is strict (rp_filter = 1).
        tracing::info!("{VALID_MARK} cannot be set to 1, which a strict rp_filter needs: {error}");
    }
    for message in messages(rule) {
        let mut request = handle.rule().add();
        *request.message_mut() = message;
        unless(Errno::EEXIST, request.execute().await)
            .map_err(|error| refused(format!("add a rule that leads to table {}", rule.mark), &error))?;
    }
    Ok(())
}

/// Removes what [`add`] added, if it is there.
pub(super) async fn remove(handle: &Handle, rule: DefaultRule) -> Result<(), NetlinkError> {
    for message in messages(rule) {
        let what = || format!("remove the rule that leads to table {}", rule.mark);
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
    let near = message(MAIN_WITHOUT_DEFAULT, Table::MAIN, &[RuleAttribute::SuppressPrefixLen(0)]);
    let mut unmarked = message(UNMARKED, rule.mark, &[RuleAttribute::FwMark(rule.mark)]);
    unmarked.header.flags = RuleFlags::Invert;
    [near, unmarked]
}
