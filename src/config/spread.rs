//! Selects the peers that are sent to from one port per lane (`LANEWAY_SPREAD_PORTS`).

use std::str::FromStr;

use crate::wireguard::keys::{KeyError, PublicKey};

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
