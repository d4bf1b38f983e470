//! Source address translation for a gateway: packets from the tunnel leave with the address of the interface they leave
//! by, so that answers come back (`LANEWAY_MASQUERADE`).
//!
//! The rules are in a table of nftables of our own, named after the interface, which is gone when the router ends.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::nftables::{Expression, HookChain, RuleTable};

/// Which packets from the tunnel are translated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Masquerade {
    /// Those that leave by any other interface.
    Auto,
    /// Those that leave by the interface of this name.
    Interface(String),
}

/// `NF_INET_POST_ROUTING`, and the priority of source address translation there (`NF_IP_PRI_NAT_SRC`).
const POST_ROUTING: u32 = 4;
const PRIORITY: i32 = 100;

/// Rules in force. Dropping them removes them.
#[derive(Debug)]
pub struct Masquerading(RuleTable);

/// The kernel refused the rules.
#[derive(Debug, thiserror::Error)]
#[error("cannot masquerade packets from {interface}: {errno}{}", hint(*errno))]
pub struct MasqueradeError {
    /// The interface.
    pub interface: String,
    /// The error.
    pub errno: Errno,
}

impl Masquerading {
    /// Translates packets from `interface` in the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel refuses, for example because it lacks nftables, or for want of `CAP_NET_ADMIN`.
    pub fn begin(interface: &str, to: &Masquerade) -> Result<Self, MasqueradeError> {
        let leaves_by = match to {
            Masquerade::Auto => Expression::compare_name(interface, true),
            Masquerade::Interface(name) => Expression::compare_name(name, false),
        };
        let rule = vec![
            Expression::meta(libc::NFT_META_IIFNAME),
            Expression::compare_name(interface, false),
            Expression::meta(libc::NFT_META_OIFNAME),
            leaves_by,
            Expression::masquerade(),
        ];
        let chain = HookChain {
            name: "postrouting",
            kind: "nat",
            hook: POST_ROUTING,
            priority: PRIORITY,
            rules: vec![rule],
        };
        let refused = |errno| MasqueradeError { interface: interface.to_owned(), errno };
        RuleTable::add(&table_name(interface), &[chain]).map(Masquerading).map_err(refused)
    }
}

impl Masquerading {
    /// Takes over the rules that another process has for `interface`, with the socket that they belong to.
    pub fn inherit(interface: &str, socket: OwnedFd) -> Self {
        Masquerading(RuleTable::inherit(socket, table_name(interface)))
    }

    /// Leaves the rules to a process that has taken them over.
    pub fn leave(self) {
        self.0.leave();
    }
}

impl AsFd for Masquerading {
    /// Returns the socket that the rules belong to.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket()
    }
}

fn table_name(interface: &str) -> String {
    format!("laneway-{interface}")
}

/// Returns whether the calling thread's network namespace forwards IPv4 packets.
pub fn forwards_ipv4() -> bool {
    fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() == "1")
}

fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM | Errno::EACCES => "; this requires CAP_NET_ADMIN",
        Errno::EOPNOTSUPP | Errno::ENOENT | Errno::EPROTONOSUPPORT | Errno::EINVAL => {
            "; this requires a kernel with nftables (nft_masq, nf_tables_inet)"
        }
        _ => "",
    }
}
