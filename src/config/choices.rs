//! Settings with a choice of values, and what `auto` stands for.

use crate::lane::bounds::MAX_LANES;
use crate::wireguard::aead::Backend;

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
    pub const MAIN: u32 = 254;
    /// Number of the table of default routes and mark of our own datagrams, unless `FwMark` is set. The same as
    /// in `wg-quick`.
    pub const DEFAULT_ROUTES: u32 = 51_820;
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
