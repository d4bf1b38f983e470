//! Which peers are sent to from a port per lane (`LANEWAY_SPREAD_PORTS`).

use std::str::FromStr;

use crate::wireguard::keys::{KeyError, PublicKey};

/// The peers that are Laneways with this setting for us. A plain WireGuard peer among them would take
/// each lane for a new place that we have moved to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SpreadPorts {
    /// None; no lane has a port of its own.
    #[default]
    Off,
    /// All there are and will be.
    All,
    /// These.
    Peers(Vec<PublicKey>),
}

impl SpreadPorts {
    /// Whether lanes have ports of their own.
    pub fn is_on(&self) -> bool {
        *self != SpreadPorts::Off
    }

    /// Whether `peer` is one of them.
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

    /// Reads `off`, `all`, or public keys in base64 with commas between them.
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
