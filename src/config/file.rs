//! The configuration file, in the format of `wg` and `wg-quick` (wg(8), "CONFIGURATION FILE FORMAT"; wg-quick(8),
//! "CONFIGURATION").
//!
//! As in that format, `#` begins a comment, keys and section names ignore case, keys may come in any order within
//! their section, and `Address` and `AllowedIPs` may be repeated. A comment line `# friendly_name = NAME` in a
//! `[Peer]` section names the peer in the metrics, a convention of existing exporters. Unlike in `wg-quick`,
//! commands (`PostUp` and the like) are never run: a sidecar's file must not be a way to run programs.

use std::path::Path;
use std::str::FromStr;

use ipnet::IpNet;

use super::error::ConfigError;
use super::update::{self, AllowedIpChange, DeviceUpdate, PeerEndpoint, PeerUpdate};
use super::{MTU_RANGE, Table};
use crate::wireguard::keys::{KeyError, PresharedKey, PublicKey};
use crate::wireguard::suite::{Suite, UnknownSuite};

/// The contents of a configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileConfig {
    /// The interface's addresses, including host bits.
    pub addresses: Vec<IpNet>,
    /// The interface's MTU in bytes.
    pub mtu: Option<u16>,
    /// The routing table for routes to allowed IPs.
    pub table: Option<Table>,
    /// Keys and peers. Settings the file omits are reset, except the private key, the listen port and endpoints.
    pub update: DeviceUpdate,
    /// Warnings to log about ignored keys: file, line, key and reason.
    pub warnings: Vec<String>,
}

impl FileConfig {
    /// Parses the text of a file. `path` is only used in messages.
    ///
    /// # Errors
    /// [`ConfigError::Line`] for the first error.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let mut file = FileConfig::default();
        file.update.replace_peers = true;
        file.update.fwmark = Some(0);
        let mut section = Section::Before;
        let mut last = 0;
        for (index, line) in text.lines().enumerate() {
            last = index + 1;
            if let (Section::Peer { peer, .. }, Some(name)) = (&mut section, friendly_name(line)) {
                peer.friendly_name = name;
            }
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let at = At { path, line: last };
            if line.starts_with('[') {
                file.end_section(&section)?;
                section = Section::named(at, line)?;
                continue;
            }
            let (key, value) = line.split_once('=').unwrap_or((line, ""));
            let entry = Entry { at, key: key.trim(), value: value.trim(), is_pair: line.contains('=') };
            file.set(&mut section, &entry)?;
        }
        file.end_section(&section)?;
        if matches!(section, Section::Before) {
            return Err(At { path, line: last.max(1) }.mistake("[Interface]", "the section is missing"));
        }
        Ok(file)
    }

    fn set(&mut self, section: &mut Section<'_>, entry: &Entry<'_>) -> Result<(), ConfigError> {
        match section {
            Section::Before => Err(entry.mistake("expected [Interface] or [Peer] before any key")),
            _ if !entry.is_pair => Err(entry.mistake("expected `key = value`")),
            Section::Interface => self.set_interface(entry),
            Section::Peer { peer, .. } => set_peer(peer, entry),
        }
    }

    fn set_interface(&mut self, entry: &Entry<'_>) -> Result<(), ConfigError> {
        match entry.key.to_ascii_lowercase().as_str() {
            "privatekey" => self.update.private_key = Some(Some(entry.key_value()?)),
            "listenport" => self.update.listen_port = Some(entry.number(0, u16::MAX)?),
            "fwmark" => self.update.fwmark = Some(entry.fwmark()?),
            "address" => {
                let allowed = "expected addresses as in `10.0.0.1/24, fd00::1/64`";
                self.addresses.extend(entry.list(update::parse_interface_address, allowed)?);
            }
            "mtu" => self.mtu = Some(entry.number(MTU_RANGE.0, MTU_RANGE.1)?),
            "table" => self.table = Some(entry.table()?),
            "dns" => self.warn(entry, "ignored: name resolution is left to the container or host"),
            "saveconfig" => self.warn(entry, "ignored: the file is never written"),
            "preup" | "postup" | "predown" | "postdown" => {
                self.warn(entry, "ignored: commands from the file are never run");
            }
            _ => {
                return Err(entry.mistake(
                    "unknown key in [Interface]; expected PrivateKey, ListenPort, FwMark, Address, \
                     MTU or Table",
                ));
            }
        }
        Ok(())
    }

    fn warn(&mut self, entry: &Entry<'_>, why: &str) {
        self.warnings.push(entry.mistake(why).to_string());
    }

    fn end_section(&mut self, section: &Section<'_>) -> Result<(), ConfigError> {
        if let Section::Peer { at, peer } = section {
            let Some(public_key) = peer.public_key else {
                return Err(at.mistake("[Peer]", "the peer has no PublicKey"));
            };
            self.update.peers.push(PeerUpdate {
                friendly_name: Some(peer.friendly_name.clone()),
                endpoint: peer.endpoint.clone(),
                preshared_key: Some(peer.preshared_key.clone()),
                suite: Some(peer.suite),
                persistent_keepalive: Some(peer.persistent_keepalive),
                replace_allowed_ips: true,
                allowed_ips: peer.allowed_ips.clone(),
                ..PeerUpdate::new(public_key)
            });
        }
        Ok(())
    }
}

/// The section being parsed.
enum Section<'a> {
    Before,
    Interface,
    Peer { at: At<'a>, peer: Box<Peer> },
}

impl<'a> Section<'a> {
    fn named(at: At<'a>, line: &str) -> Result<Self, ConfigError> {
        match line.to_ascii_lowercase().as_str() {
            "[interface]" => Ok(Section::Interface),
            "[peer]" => Ok(Section::Peer { at, peer: Box::default() }),
            _ => Err(at.mistake("this section", "unknown section; expected [Interface] or [Peer]")),
        }
    }
}

/// Settings of the `[Peer]` section being parsed.
#[derive(Default)]
struct Peer {
    public_key: Option<PublicKey>,
    friendly_name: String,
    preshared_key: PresharedKey,
    suite: Suite,
    endpoint: Option<PeerEndpoint>,
    persistent_keepalive: u16,
    allowed_ips: Vec<AllowedIpChange>,
}

fn set_peer(peer: &mut Peer, entry: &Entry<'_>) -> Result<(), ConfigError> {
    match entry.key.to_ascii_lowercase().as_str() {
        "publickey" => peer.public_key = Some(entry.key_value()?),
        "presharedkey" => peer.preshared_key = entry.key_value()?,
        "suite" => {
            peer.suite = entry.value.parse().map_err(|e: UnknownSuite| entry.mistake(e.to_string()))?;
        }
        "endpoint" => peer.endpoint = Some(entry.endpoint()?),
        "persistentkeepalive" => peer.persistent_keepalive = entry.keepalive()?,
        "allowedips" => {
            // `wg` prints and accepts an empty list for a peer without allowed IPs.
            if !entry.value.is_empty() {
                let allowed = "expected networks as in `10.0.0.0/24, fd00::/64`";
                let nets = entry.list(update::parse_network, allowed)?;
                peer.allowed_ips.extend(nets.into_iter().map(|net| AllowedIpChange { net, remove: false }));
            }
        }
        _ => {
            return Err(entry.mistake(
                "unknown key in [Peer]; expected PublicKey, PresharedKey, AllowedIPs, Endpoint, \
                 PersistentKeepalive or Suite",
            ));
        }
    }
    Ok(())
}

/// Returns the name in a line `# friendly_name = NAME`. The name becomes a metric label and is cut to 64
/// characters.
fn friendly_name(line: &str) -> Option<String> {
    const LONGEST: usize = 64;
    let (key, name) = line.trim().strip_prefix('#')?.split_once('=')?;
    (key.trim() == "friendly_name").then(|| name.trim().chars().take(LONGEST).collect())
}

/// A place in the file.
#[derive(Clone, Copy)]
struct At<'a> {
    path: &'a Path,
    line: usize,
}

impl At<'_> {
    fn mistake(self, key: &str, problem: impl Into<String>) -> ConfigError {
        ConfigError::Line {
            path: self.path.to_owned(),
            line: self.line,
            key: key.to_owned(),
            problem: problem.into(),
        }
    }
}

/// One `key = value` line, with parsers for its value.
struct Entry<'a> {
    at: At<'a>,
    key: &'a str,
    value: &'a str,
    is_pair: bool,
}

impl Entry<'_> {
    fn mistake(&self, problem: impl Into<String>) -> ConfigError {
        // Anything that does not look like a key may be a secret on its own line: base64 ends in `=`.
        let looks_like_one = self.key.len() <= 24 && self.key.chars().all(|c| c.is_ascii_alphabetic());
        let key = if self.is_pair && looks_like_one { self.key } else { "this line" };
        self.at.mistake(key, problem)
    }

    fn key_value<K: FromStr<Err = KeyError>>(&self) -> Result<K, ConfigError> {
        self.value.parse().map_err(|error: KeyError| self.mistake(error.to_string()))
    }

    fn number(&self, least: u16, most: u16) -> Result<u16, ConfigError> {
        match self.value.parse() {
            Ok(number) if (least..=most).contains(&number) => Ok(number),
            _ => Err(self.mistake(format!("expected a number from {least} to {most}"))),
        }
    }

    fn keepalive(&self) -> Result<u16, ConfigError> {
        if self.value.eq_ignore_ascii_case("off") {
            return Ok(0);
        }
        self.value.parse().map_err(|_| self.mistake("expected `off` or seconds from 1 to 65535"))
    }

    fn fwmark(&self) -> Result<u32, ConfigError> {
        let hex = self.value.strip_prefix("0x").or_else(|| self.value.strip_prefix("0X"));
        let mark = match hex {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None if self.value.eq_ignore_ascii_case("off") => Some(0),
            None => self.value.parse().ok(),
        };
        mark.ok_or_else(|| self.mistake("expected `off` or a 32-bit mark as in `51820` or `0xca6c`"))
    }

    fn table(&self) -> Result<Table, ConfigError> {
        match self.value.to_ascii_lowercase().as_str() {
            "auto" => Ok(Table::Auto),
            "off" => Ok(Table::Off),
            "main" => Ok(Table::Number(Table::MAIN)),
            number => match number.parse() {
                Ok(number) if number > 0 => Ok(Table::Number(number)),
                _ => Err(self.mistake("expected `auto`, `off`, `main` or a routing table's number")),
            },
        }
    }

    fn list<T>(&self, read: fn(&str) -> Option<T>, allowed: &str) -> Result<Vec<T>, ConfigError> {
        let one = |item: &str| read(item.trim()).ok_or_else(|| self.mistake(allowed));
        self.value.split(',').map(one).collect()
    }

    fn endpoint(&self) -> Result<PeerEndpoint, ConfigError> {
        let mistake = || {
            self.mistake(
                "expected `host:port`, `192.0.2.1:51820` or `[2001:db8::1]:51820`, port from 1 to 65535",
            )
        };
        if let Some(address) = update::parse_address(self.value) {
            return if address.port() == 0 { Err(mistake()) } else { Ok(PeerEndpoint::Address(address)) };
        }
        let (host, port) = self.value.rsplit_once(':').ok_or_else(mistake)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(mistake)?;
        if let Some(scoped) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            return scoped_by_name(scoped, port).ok_or_else(mistake);
        }
        // RFC 1123 host name characters, plus the underscore that is common in practice.
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if host.is_empty() || host.len() > 253 || !host.chars().all(is_name) {
            return Err(mistake());
        }
        Ok(PeerEndpoint::Name { host: host.to_owned(), port })
    }
}

/// Parses an address scoped by interface name, as in `fe80::1%eth0`. It is kept as a name to look up later, since
/// the interface's index is not known before the router starts.
fn scoped_by_name(host: &str, port: u16) -> Option<PeerEndpoint> {
    let (address, scope) = host.split_once('%')?;
    address.parse::<std::net::Ipv6Addr>().ok()?;
    let is_interface = super::is_interface_name(scope);
    is_interface.then(|| PeerEndpoint::Name { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests;
