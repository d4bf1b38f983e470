//! Settings with a choice of values, and what `auto` stands for.

use std::fmt;
use std::str::FromStr;

use crate::cpus::topology::Topology;
use crate::lane::bounds::MAX_LANES;
use crate::netlink::MAIN_TABLE;
use crate::wireguard::aead::Backend;
use crate::wireguard::keys::{KeyError, PublicKey};

/// Number of lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Queues {
    /// Half the number of CPUs the process may use, at least one.
    #[default]
    Auto,
    /// A fixed number.
    Fixed(usize),
}

impl Queues {
    /// Maximum number of queues of a TUN (`MAX_TAP_QUEUES` in Linux's `drivers/net/tun.c`).
    pub const MOST: usize = MAX_LANES;

    /// Returns the number of lanes for a process that may use `cpus` CPUs.
    pub fn count(self, cpus: usize) -> usize {
        match self {
            Queues::Auto => (cpus / 2).clamp(1, Self::MOST),
            Queues::Fixed(queues) => queues,
        }
    }

    /// Returns the number of queues on the CPUs that this thread may use.
    pub fn count_here(self) -> usize {
        self.count(Topology::of_this_thread().cpus.len())
    }
}

/// An optional feature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Switch {
    /// On where the system supports it.
    #[default]
    Auto,
    /// Off.
    Off,
}

impl Switch {
    /// Returns whether the feature may be used.
    pub fn is_on(self) -> bool {
        self == Switch::Auto
    }
}

/// Whether workers seal and open for each other ([`crate::lane::share`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// On with two or more lanes, if there is a CPU for each worker.
    #[default]
    Auto,
    /// On.
    On,
    /// Off.
    Off,
}

impl Sharing {
    /// Returns whether the workers of `lanes` lanes share their work, in a process that may use `cpus` CPUs.
    pub fn is_on(self, lanes: usize, cpus: usize) -> bool {
        match self {
            Sharing::Auto => lanes > 1 && cpus >= 2 * lanes,
            Sharing::On => true,
            Sharing::Off => false,
        }
    }
}

/// Where routes to allowed IPs are added (wg-quick(8), "Table").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Table {
    /// The main table, except for default routes, which would route our own datagrams back into the interface.
    /// Default routes go to a separate table, which rules apply to all packets without our mark.
    #[default]
    Auto,
    /// No routes are added.
    Off,
    /// The table with this number.
    Number(u32),
}

impl Table {
    /// The main table (`RT_TABLE_MAIN`).
    pub const MAIN: u32 = MAIN_TABLE;
    /// Number of the table of default routes and mark of our own datagrams, unless `FwMark` is set. The same as
    /// in `wg-quick`. Routers that find the table in use take the next number.
    pub const DEFAULT_ROUTES: u32 = 51_820;
}

/// What sets the MTU of the interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MtuFrom {
    /// Nothing: 1420 bytes.
    #[default]
    Default,
    /// The configuration file.
    File,
    /// `LANEWAY_MTU`.
    Environment,
    /// The routes to the peers' endpoints.
    Route,
}

impl MtuFrom {
    /// Returns whether the router chooses the MTU.
    pub fn is_free(self) -> bool {
        matches!(self, MtuFrom::Default | MtuFrom::Route)
    }

    /// Returns the value of the metric's label `source`.
    pub fn label(self) -> &'static str {
        match self {
            MtuFrom::Default => "default",
            MtuFrom::File => "file",
            MtuFrom::Environment => "environment",
            MtuFrom::Route => "route",
        }
    }
}

impl fmt::Display for MtuFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MtuFrom::Default => "the default",
            MtuFrom::File => "the file",
            MtuFrom::Environment => "LANEWAY_MTU",
            MtuFrom::Route => "the route to the peers",
        })
    }
}

/// Choice of ChaCha20-Poly1305 implementation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AeadChoice {
    /// AWS-LC.
    Portable,
    /// The fastest built-in implementation this CPU supports.
    #[default]
    Auto,
}

impl AeadChoice {
    /// Resolves the choice to a backend on this machine.
    pub fn backend(self) -> Backend {
        match self {
            AeadChoice::Portable => Backend::Portable,
            AeadChoice::Auto => Backend::fastest(),
        }
    }
}

/// Format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Plain text.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The peers to send to from one UDP port per lane. These must be Laneway routers with the same setting for this
/// router: another WireGuard implementation would take each lane's port for a new endpoint and roam between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SpreadPorts {
    /// No peers. Lanes share one port.
    #[default]
    Off,
    /// All peers, including peers added later.
    All,
    /// The peers with these public keys.
    Peers(Vec<PublicKey>),
}

impl SpreadPorts {
    /// Returns whether each lane has its own port.
    pub fn is_on(&self) -> bool {
        *self != SpreadPorts::Off
    }

    /// Returns whether `peer` is selected.
    pub fn includes(&self, peer: &PublicKey) -> bool {
        match self {
            SpreadPorts::Off => false,
            SpreadPorts::All => true,
            SpreadPorts::Peers(peers) => peers.contains(peer),
        }
    }
}

impl FromStr for SpreadPorts {
    type Err = KeyError;

    /// Parses `off`, `all`, or a comma-separated list of public keys in base64.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        match text {
            "off" => Ok(SpreadPorts::Off),
            "all" => Ok(SpreadPorts::All),
            keys => Ok(SpreadPorts::Peers(
                keys.split(',').map(|key| key.trim().parse()).collect::<Result<_, _>>()?,
            )),
        }
    }
}
