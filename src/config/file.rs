//! The configuration file, in the format of `wg` and `wg-quick` (wg(8), "CONFIGURATION FILE FORMAT"; wg-quick(8),
//! "CONFIGURATION").
//!
//! As in that format, `#` begins a comment, keys and section names ignore case, keys may come in any order within
//! their section, and `Address` and `AllowedIPs` may be repeated. What either program accepts is accepted, also where
//! the manual pages say otherwise. Comments may name peers ([`comments`]). Unlike in `wg-quick`, commands (`PostUp`
//! and the like) are never run: a sidecar's file must not be a way to run programs.

mod comments;
mod entry;
mod hooks;
mod numbers;

use std::path::Path;

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::Table;
use super::error::ConfigError;
use super::update::{AllowedIpChange, DeviceUpdate, PeerEndpoint, PeerUpdate};
use super::warnings::{SectionLines, Warning};
use crate::wireguard::keys::{PresharedKey, PublicKey};
use crate::wireguard::suite::{Suite, UnknownSuite};
use entry::{At, Entry};

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
    /// Warnings to log about single lines.
    pub warnings: Vec<Warning>,
    /// Where the sections are.
    pub lines: SectionLines,
}

impl FileConfig {
    /// Parses the text of a file. `path` is only used in messages. A byte order mark is ignored, and so are NULs, which
    /// the shell that `wg-quick` is written in ignores too.
    ///
    /// # Errors
    /// [`ConfigError::Line`] for the first error.
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        let mut parser = Parser { file: FileConfig::default(), section: Section::Before, name: None };
        parser.file.update.replace_peers = true;
        parser.file.update.keep_endpoints = true;
        parser.file.update.fwmark = Some(0);
        let mut last = 0;
        for (index, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
            last = index + 1;
            let at = At { path, line: last };
            if line.contains('\0') {
                let line: Zeroizing<String> = Zeroizing::new(line.replace('\0', ""));
                parser.line(at, &line)?;
            } else {
                parser.line(at, line)?;
            }
        }
        parser.end_section()?;
        if matches!(parser.section, Section::Before) {
            return Err(At { path, line: last.max(1) }.mistake("[Interface]", "the section is missing"));
        }
        Ok(parser.file)
    }
}

/// A file being parsed.
struct Parser<'a> {
    file: FileConfig,
    section: Section<'a>,
    /// A name in the comments directly above, whose peer is not known yet.
    name: Option<comments::PeerName>,
}

impl<'a> Parser<'a> {
    fn line(&mut self, at: At<'a>, line: &str) -> Result<(), ConfigError> {
        let setting = line.split('#').next().unwrap_or_default().trim();
        if setting.is_empty() {
            if let Some(name) = comments::name(line) {
                self.name_peer();
                self.name = Some(name);
            } else if line.trim().is_empty() {
                self.name_peer();
            }
            return Ok(());
        }
        if setting.starts_with('[') {
            let name = self.name.take();
            self.end_section()?;
            self.section = Section::named(at, setting)?;
            match &mut self.section {
                Section::Interface => _ = self.file.lines.interface.get_or_insert(at.line),
                Section::Peer { peer, .. } => {
                    peer.friendly_name = name.map(|name| name.text).unwrap_or_default();
                }
                Section::Before => {}
            }
            return Ok(());
        }
        self.name_peer();
        let entry = Entry::new(at, setting);
        match &mut self.section {
            Section::Before => Err(entry.mistake("expected [Interface] or [Peer] before any key")),
            _ if !entry.is_pair => Err(entry.mistake("expected `key = value`")),
            Section::Interface => self.file.set_interface(at, &entry),
            Section::Peer { peer, .. } => self.file.set_peer(peer, at, &entry),
        }
    }

    /// Gives the name in the comments above to the peer of the current section, unless it may only stand above a
    /// header.
    fn name_peer(&mut self) {
        if let (Some(name), Section::Peer { peer, .. }) = (self.name.take(), &mut self.section)
            && name.inside
        {
            peer.friendly_name = name.text;
        }
    }

    fn end_section(&mut self) -> Result<(), ConfigError> {
        self.name_peer();
        if let Section::Peer { at, peer } = &self.section {
            let Some(public_key) = peer.public_key else {
                return Err(at.mistake("[Peer]", "the peer has no PublicKey"));
            };
            self.file.lines.peers.push(peer.line);
            self.file.update.peers.push(PeerUpdate {
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

impl FileConfig {
    fn set_interface(&mut self, at: At<'_>, entry: &Entry<'_>) -> Result<(), ConfigError> {
        match entry.name.as_str() {
            "privatekey" => self.update.private_key = Some(Some(entry.key_value()?)),
            "listenport" => self.update.listen_port = Some(entry.listen_port()?),
            "fwmark" => self.update.fwmark = Some(entry.fwmark()?),
            "address" => self.addresses.extend(entry.addresses()?),
            "mtu" => {
                self.mtu = entry.mtu()?;
                if entry.mtu_is_cut() {
                    let used = super::MTU_RANGE.1;
                    self.warn(at, format!("MTU: {used} is used, the most that a UDP datagram carries"));
                }
            }
            "table" => self.table = Some(entry.table()?),
            // An empty value asks for nothing.
            "dns" | "preup" | "postup" | "predown" | "postdown" if entry.value.is_empty() => {}
            "dns" => self.warn(at, "DNS: ignored: name resolution is left to the container or host"),
            "saveconfig" => match entry.value {
                "false" => {}
                _ => self.warn(at, "SaveConfig: ignored: the file is never written"),
            },
            name @ ("preup" | "postup" | "predown" | "postdown") => {
                let key = match name {
                    "preup" => "PreUp",
                    "postup" => "PostUp",
                    "predown" => "PreDown",
                    _ => "PostDown",
                };
                self.warn(
                    at,
                    format!(
                        "{key}: ignored: commands from the file are never run; {}",
                        hooks::replacement(entry.value)
                    ),
                );
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

    fn set_peer(&mut self, peer: &mut PeerSection, at: At<'_>, entry: &Entry<'_>) -> Result<(), ConfigError> {
        match entry.name.as_str() {
            "publickey" => {
                peer.public_key = Some(entry.key_value()?);
                peer.line = at.line;
            }
            "presharedkey" => peer.preshared_key = entry.key_value()?,
            "suite" => {
                peer.suite = entry.value.parse().map_err(|e: UnknownSuite| entry.mistake(e.to_string()))?;
            }
            "endpoint" => peer.endpoint = Some(entry.endpoint()?),
            "persistentkeepalive" => peer.persistent_keepalive = entry.keepalive()?,
            "allowedips" => {
                for net in entry.networks()? {
                    let change = AllowedIpChange { net: net.trunc(), remove: false };
                    if change.net != net {
                        self.warn(at, format!("AllowedIPs: {net} has host bits set; {} is used", change.net));
                    }
                    peer.allowed_ips.push(change);
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

    fn warn(&mut self, at: At<'_>, text: impl Into<String>) {
        let (path, line) = (at.path.to_owned(), Some(at.line));
        self.warnings.push(Warning { path, line, text: text.into() });
    }
}

/// The section being parsed.
enum Section<'a> {
    Before,
    Interface,
    Peer { at: At<'a>, peer: Box<PeerSection> },
}

impl<'a> Section<'a> {
    fn named(at: At<'a>, line: &str) -> Result<Self, ConfigError> {
        let name: String = line.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        match name.to_ascii_lowercase().as_str() {
            "[interface]" => Ok(Section::Interface),
            "[peer]" => Ok(Section::Peer { at, peer: Box::default() }),
            _ => Err(at.mistake("this section", "unknown section; expected [Interface] or [Peer]")),
        }
    }
}

/// Settings of the `[Peer]` section being parsed.
#[derive(Default)]
struct PeerSection {
    public_key: Option<PublicKey>,
    /// The line of the public key.
    line: usize,
    friendly_name: String,
    preshared_key: PresharedKey,
    suite: Suite,
    endpoint: Option<PeerEndpoint>,
    persistent_keepalive: u16,
    allowed_ips: Vec<AllowedIpChange>,
}

#[cfg(test)]
mod tests;
