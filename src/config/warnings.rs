//! Warnings about configurations that are valid but hardly meant: a router without a key, the same network at two
//! peers, and the like.

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::update::DeviceUpdate;
use crate::wireguard::keys::{PrivateKey, PublicKey};

/// Line numbers of the sections of a file, from 1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SectionLines {
    /// The first `[Interface]` section, if there is one.
    pub interface: Option<usize>,
    /// The `PublicKey` of each peer, in the order of [`DeviceUpdate::peers`].
    pub peers: Vec<usize>,
}

/// A warning about a configuration, to be logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The file it is about.
    pub path: PathBuf,
    /// The line in that file, from 1; `None` for the file as a whole.
    pub line: Option<usize>,
    /// What is wrong and what to do. Never contains a secret.
    pub text: String,
}

impl Warning {
    /// Returns whether both are about the same setting of the same file, wherever its line is now.
    pub fn repeats(&self, other: &Warning) -> bool {
        self.path == other.path && self.text == other.text
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        write!(f, " {}", self.text)
    }
}

/// Returns the warnings about the configuration as a whole, `update`, which was read from the file at `path` and
/// from the environment. `lines` says where its parts are in the file.
pub(super) fn about(path: &Path, lines: &SectionLines, update: &DeviceUpdate) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |line, text: String| warnings.push(Warning { path: path.to_owned(), line, text });
    let own = update.private_key.iter().flatten().next().map(PrivateKey::public_key);
    if own.is_none() {
        warn(
            lines.interface,
            "no private key: no handshake is possible; add PrivateKey to [Interface] or set \
             LANEWAY_PRIVATE_KEY_FILE"
                .to_owned(),
        );
    }
    if update.peers.is_empty() {
        warn(
            lines.interface,
            "no [Peer] section: the tunnel carries nothing until a peer is added".to_owned(),
        );
    }
    let mut listed: HashMap<PublicKey, usize> = HashMap::new();
    let mut owners: HashMap<IpNet, (PublicKey, usize)> = HashMap::new();
    for (peer, line) in update.peers.iter().zip(&lines.peers) {
        let key = peer.public_key;
        if Some(key) == own {
            warn(Some(*line), format!("PublicKey: {key} is this router's own key; the peer is skipped"));
            continue;
        }
        if let Some(first) = listed.insert(key, *line) {
            warn(
                Some(*line),
                format!("PublicKey: the peer {key} is listed before, in line {first}; the settings here win"),
            );
        }
        for change in &peer.allowed_ips {
            if let Some((other, at)) = owners.insert(change.net, (key, *line))
                && other != key
            {
                warn(
                    Some(*line),
                    format!(
                        "AllowedIPs: {} is taken from the peer {other} in line {at}: a network belongs to one \
                         peer, the last that lists it",
                        change.net
                    ),
                );
            }
        }
    }
    warnings
}

/// Returns a warning if users other than the owner and the group can reach and read the file at `path`, which holds
/// keys. The rule is that of `wg-quick`.
pub(super) fn about_access(path: &Path) -> Option<Warning> {
    let mode = |path: &Path| fs::metadata(path).map(|data| data.permissions().mode());
    let file = fs::canonicalize(path).ok()?;
    let others = mode(&file).ok()? & mode(file.parent()?).ok()? & 0o007;
    (others != 0).then(|| Warning {
        path: path.to_owned(),
        line: None,
        text: "the keys in it are open to other users; `chmod 600` closes the file".to_owned(),
    })
}
