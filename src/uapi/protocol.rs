//! The UAPI protocol: parses requests and formats answers (wireguard.com/xplatform; where that is silent,
//! `device/uapi.go` of wireguard-go).
//!
//! A request is `get=1` or `set=1`, then `key=value` lines, then an empty line. An answer is `key=value` lines, the
//! last of them `errno=N`, then an empty line. The errno is negative for a failed `set` and positive for a failed
//! `get`.
//!
//! `get=metrics` and `get=drops` are Laneway extensions; other implementations close the connection on them. The answer
//! to `get=metrics` is the metrics in the Prometheus text format without blank lines, then `errno=0`. The answer to
//! `get=drops` is `next=N`, a line for each sample of a dropped packet, then `errno=0`. With a line `after=N`, the
//! samples continue where a previous answer ended; without one, they begin after this request. `take_over=1` is
//! another extension, after which the connection has its own protocol ([`takeover`](crate::router::takeover)).

use std::fmt::Write as _;
use std::str::FromStr;

use nix::errno::Errno;
use zeroize::Zeroizing;

use crate::config::update::{
    AllowedIpChange, DeviceStatus, DeviceUpdate, PeerEndpoint, PeerUpdate, ScopedByName, parse_network,
    parse_scoped_address,
};
use crate::wireguard::keys::{KeyError, PresharedKey, PrivateKey, PublicKey};
use crate::wireguard::suite::Suite;

/// The first line of a request for a take-over. An empty line follows.
pub const TAKE_OVER: &str = "take_over=1";

/// A complete request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read the configuration and counters.
    Get,
    /// Read the metrics.
    GetMetrics,
    /// Read the samples of dropped packets after this number.
    GetDrops {
        /// The number; `u64::MAX` for no samples yet.
        after: u64,
    },
    /// Change the configuration, or the error in the request, in which case nothing is changed.
    Set(Result<DeviceUpdate, Errno>),
    /// A `get` followed by lines that it does not have.
    BadGet,
    /// Hand the router over to the process that asks.
    TakeOver,
}

/// The line does not begin a request. The start of the next request cannot be found, so the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotARequest;

/// Assembles requests from lines.
#[derive(Debug, Default)]
pub struct RequestParser(ParserState);

#[derive(Debug, Default)]
enum ParserState {
    #[default]
    Idle,
    Get {
        what: Subject,
        has_lines: bool,
    },
    Set(Box<Setting>),
    TakeOver,
}

/// What a `get` reads.
#[derive(Clone, Copy, Debug)]
enum Subject {
    Device,
    Metrics,
    /// Samples of dropped packets after this number.
    Drops(u64),
}

/// A `set` being read.
#[derive(Debug, Default)]
struct Setting {
    update: DeviceUpdate,
    /// The first error. Lines after it are skipped up to the empty line.
    mistake: Option<Errno>,
}

impl RequestParser {
    /// Parses the next line, without its newline. Returns the request that the line completes, if any.
    ///
    /// # Errors
    /// [`NotARequest`] if the line should begin a request and does not.
    pub fn line(&mut self, line: &str) -> Result<Option<Request>, NotARequest> {
        match &mut self.0 {
            ParserState::Idle => {
                self.0 = match line {
                    "get=1" => ParserState::Get { what: Subject::Device, has_lines: false },
                    TAKE_OVER => ParserState::TakeOver,
                    "get=metrics" => ParserState::Get { what: Subject::Metrics, has_lines: false },
                    "get=drops" => ParserState::Get { what: Subject::Drops(u64::MAX), has_lines: false },
                    "set=1" => ParserState::Set(Box::default()),
                    _ => return Err(NotARequest),
                };
                Ok(None)
            }
            ParserState::Get { what, has_lines } if !line.is_empty() => {
                match (what, line.strip_prefix("after=").and_then(|number| number.parse().ok())) {
                    (Subject::Drops(after), Some(number)) => *after = number,
                    _ => *has_lines = true,
                }
                Ok(None)
            }
            ParserState::TakeOver if !line.is_empty() => Err(NotARequest),
            ParserState::Set(setting) if !line.is_empty() => {
                if setting.mistake.is_none() {
                    setting.mistake = setting.update.set(line).err();
                }
                Ok(None)
            }
            _ => Ok(match std::mem::take(&mut self.0) {
                ParserState::Idle => None,
                ParserState::TakeOver => Some(Request::TakeOver),
                ParserState::Get { has_lines: true, .. } => Some(Request::BadGet),
                ParserState::Get { what: Subject::Device, .. } => Some(Request::Get),
                ParserState::Get { what: Subject::Metrics, .. } => Some(Request::GetMetrics),
                ParserState::Get { what: Subject::Drops(after), .. } => Some(Request::GetDrops { after }),
                ParserState::Set(setting) => {
                    Some(Request::Set(setting.mistake.map_or(Ok(setting.update), Err)))
                }
            }),
        }
    }
}

impl DeviceUpdate {
    fn set(&mut self, line: &str) -> Result<(), Errno> {
        let (key, value) = line.split_once('=').ok_or(Errno::EPROTO)?;
        match key {
            "public_key" => {
                let public_key = PublicKey::from_hex(value).map_err(bad)?;
                self.peers.push(PeerUpdate::new(public_key));
                Ok(())
            }
            _ => match self.peers.last_mut() {
                Some(peer) => peer.set(key, value),
                None => self.set_device(key, value),
            },
        }
    }

    fn set_device(&mut self, key: &str, value: &str) -> Result<(), Errno> {
        match key {
            "private_key" => {
                let key = PrivateKey::from_hex(value).map_err(bad)?;
                self.private_key = Some(Some(key).filter(|key| !key.is_zero()));
            }
            "listen_port" => self.listen_port = Some(number(value)?),
            "fwmark" => self.fwmark = Some(number(value)?),
            "replace_peers" => self.replace_peers = is_true(value)?,
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }
}

impl PeerUpdate {
    fn set(&mut self, key: &str, value: &str) -> Result<(), Errno> {
        match key {
            "remove" => self.remove = is_true(value)?,
            "update_only" => self.update_only = is_true(value)?,
            "preshared_key" => self.preshared_key = Some(PresharedKey::from_hex(value).map_err(bad)?),
            // A Laneway extension.
            "suite" => self.suite = Some(value.parse().map_err(|_| Errno::EINVAL)?),
            "endpoint" => {
                let address = parse_scoped_address(value).ok_or(Errno::EINVAL)?;
                self.endpoint = Some(PeerEndpoint::Address(address));
            }
            "persistent_keepalive_interval" => self.persistent_keepalive = Some(number(value)?),
            "replace_allowed_ips" => {
                self.replace_allowed_ips = is_true(value)?;
                self.allowed_ips.clear();
            }
            "allowed_ip" => {
                let (remove, text) = value.strip_prefix('-').map_or((false, value), |text| (true, text));
                let net = parse_network(text).ok_or(Errno::EINVAL)?;
                self.allowed_ips.push(AllowedIpChange { net, remove });
            }
            // The only protocol version; setting it has no effect.
            "protocol_version" if value == "1" => {}
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }
}

/// Formats the answer to a `set`.
pub fn set_answer(result: Result<(), Errno>) -> String {
    match result {
        Ok(()) => "errno=0\n\n".to_owned(),
        Err(errno) => format!("errno=-{}\n\n", errno as i32),
    }
}

/// Formats the answer to a `get`. It contains the private key, so it is wiped on drop.
pub fn get_answer(result: Result<DeviceStatus, Errno>) -> Zeroizing<String> {
    match result {
        Err(errno) => Zeroizing::new(format!("errno={}\n\n", errno as i32)),
        Ok(status) => {
            let mut out = Zeroizing::new(String::with_capacity(room_for(&status)));
            // Writing to a String cannot fail.
            let _ = write_status(&mut out, &status);
            out.push_str("errno=0\n\n");
            out
        }
    }
}

/// Formats the answer to a `get=metrics` or `get=drops`.
pub fn text_answer(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    // An empty line would end the answer.
    for line in text.lines().filter(|line| !line.is_empty()) {
        out.extend([line, "\n"]);
    }
    out.push_str("errno=0\n\n");
    out
}

fn write_status(out: &mut String, status: &DeviceStatus) -> std::fmt::Result {
    if let Some(key) = &status.private_key {
        writeln!(out, "private_key={}", *key.to_hex())?;
    }
    if status.listen_port != 0 {
        writeln!(out, "listen_port={}", status.listen_port)?;
    }
    if status.fwmark != 0 {
        writeln!(out, "fwmark={}", status.fwmark)?;
    }
    for peer in &status.peers {
        writeln!(out, "public_key={}", peer.public_key.to_hex())?;
        writeln!(out, "preshared_key={}", *peer.preshared_key.to_hex())?;
        writeln!(out, "protocol_version=1")?;
        if peer.suite != Suite::default() {
            writeln!(out, "suite={}", peer.suite)?;
        }
        if let Some(endpoint) = peer.endpoint {
            writeln!(out, "endpoint={}", ScopedByName(endpoint))?;
        }
        let handshake = peer.last_handshake.unwrap_or_default();
        writeln!(out, "last_handshake_time_sec={}", handshake.as_secs())?;
        writeln!(out, "last_handshake_time_nsec={}", handshake.subsec_nanos())?;
        writeln!(out, "tx_bytes={}", peer.sent_bytes)?;
        writeln!(out, "rx_bytes={}", peer.received_bytes)?;
        writeln!(out, "persistent_keepalive_interval={}", peer.persistent_keepalive)?;
        for net in &peer.allowed_ips {
            writeln!(out, "allowed_ip={net}")?;
        }
    }
    Ok(())
}

/// Returns an upper bound on the length of an answer in bytes. A string that reallocates would leave copies of
/// keys in memory.
fn room_for(status: &DeviceStatus) -> usize {
    const DEVICE: usize = 256;
    const PEER: usize = 640;
    const ALLOWED_IP: usize = 64;
    let allowed_ips: usize = status.peers.iter().map(|peer| peer.allowed_ips.len()).sum();
    DEVICE + PEER * status.peers.len() + ALLOWED_IP * allowed_ips
}

fn is_true(value: &str) -> Result<bool, Errno> {
    if value == "true" { Ok(true) } else { Err(Errno::EINVAL) }
}

fn number<N: FromStr>(value: &str) -> Result<N, Errno> {
    value.parse().map_err(|_| Errno::EINVAL)
}

fn bad(_: KeyError) -> Errno {
    Errno::EINVAL
}

#[cfg(test)]
mod tests;
