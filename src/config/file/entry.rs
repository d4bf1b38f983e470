//! One line of a configuration file, with parsers for its value.

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::str::FromStr;

use ipnet::IpNet;
use zeroize::Zeroizing;

use super::numbers;
use crate::config::error::ConfigError;
use crate::config::update::{self, PeerEndpoint};
use crate::config::{MTU_RANGE, Table, is_interface_name};
use crate::wireguard::keys::KeyError;

/// Smallest and largest MTU that the kernel accepts for a TUN, in bytes (`ETH_MIN_MTU` in Linux's
/// `include/uapi/linux/if_ether.h` and `MAX_MTU` in `drivers/net/tun.c`).
const KERNEL_MTU: (u32, u32) = (68, 65_535);

/// A place in the file.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) path: &'a Path,
    pub(super) line: usize,
}

impl At<'_> {
    pub(super) fn mistake(self, key: &str, problem: impl Into<String>) -> ConfigError {
        ConfigError::Line {
            path: self.path.to_owned(),
            line: self.line,
            key: key.to_owned(),
            problem: problem.into(),
        }
    }
}

/// One `key = value` line.
pub(super) struct Entry<'a> {
    at: At<'a>,
    /// The key in lower case, without spaces: `wg` ignores spaces anywhere.
    pub(super) name: String,
    key: &'a str,
    /// The value without spaces around it.
    pub(super) value: &'a str,
    /// Whether the line has a `=`.
    pub(super) is_pair: bool,
}

impl<'a> Entry<'a> {
    /// Splits `line`, which has no comment.
    pub(super) fn new(at: At<'a>, line: &'a str) -> Self {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        let (key, value) = (key.trim(), value.trim());
        Entry { at, name: compact(key).to_ascii_lowercase(), key, value, is_pair: line.contains('=') }
    }

    /// Returns an error about the key or the line as a whole.
    pub(super) fn mistake(&self, problem: impl Into<String>) -> ConfigError {
        self.at.mistake(self.shown_key(), problem)
    }

    /// Returns the error that `value` is not what is `allowed`.
    fn refuse(&self, value: &str, allowed: &str) -> ConfigError {
        // A key pasted into the wrong line may be a secret.
        let is_secret =
            value.len() >= 40 && value.chars().all(|c| c.is_ascii_alphanumeric() || "+/=".contains(c));
        let value = if is_secret { "(a key)".into() } else { value.chars().take(80).collect::<String>() };
        let value = value.escape_debug();
        self.at.mistake(&format!("{} = {value}", self.shown_key()), format!("expected {allowed}"))
    }

    fn shown_key(&self) -> &str {
        // Anything that does not look like a key may be a secret on its own line: base64 ends in `=`.
        let looks_like_one =
            self.key.len() <= 24 && self.key.chars().all(|c| c.is_ascii_alphabetic() || c == ' ');
        if self.is_pair && looks_like_one { self.key } else { "this line" }
    }

    pub(super) fn key_value<K: FromStr<Err = KeyError>>(&self) -> Result<K, ConfigError> {
        compact(self.value).parse().map_err(|error: KeyError| self.mistake(error.to_string()))
    }

    pub(super) fn listen_port(&self) -> Result<u16, ConfigError> {
        numbers::port(&compact(self.value)).ok_or_else(|| self.refuse(self.value, "a number from 0 to 65535"))
    }

    /// Returns the MTU in bytes; `None` for an empty value, which stands for the default.
    pub(super) fn mtu(&self) -> Result<Option<u16>, ConfigError> {
        let (least, most) = KERNEL_MTU;
        match numbers::number(self.value) {
            _ if self.value.is_empty() => Ok(None),
            Some(mtu) if (least..=most).contains(&mtu) => Ok(Some((mtu as u16).min(MTU_RANGE.1))),
            _ => Err(self.refuse(self.value, &format!("a number from {least} to {most}"))),
        }
    }

    /// Returns whether [`mtu`](Self::mtu) is less than the value.
    pub(super) fn mtu_is_cut(&self) -> bool {
        numbers::number(self.value).is_some_and(|mtu| mtu > u32::from(MTU_RANGE.1))
    }

    pub(super) fn keepalive(&self) -> Result<u16, ConfigError> {
        let value = compact(self.value);
        if value.eq_ignore_ascii_case("off") {
            return Ok(0);
        }
        value.parse().map_err(|_| self.refuse(self.value, "`off` or seconds from 0 to 65535"))
    }

    pub(super) fn fwmark(&self) -> Result<u32, ConfigError> {
        let value = compact(self.value);
        let mark = if value.eq_ignore_ascii_case("off") { Some(0) } else { numbers::number(&value) };
        mark.ok_or_else(|| self.refuse(self.value, "`off` or a 32-bit mark as in `51820` or `0xca6c`"))
    }

    /// Returns the table; an empty value stands for `auto`.
    pub(super) fn table(&self) -> Result<Table, ConfigError> {
        match self.value.to_ascii_lowercase().as_str() {
            "auto" | "" => Ok(Table::Auto),
            "off" => Ok(Table::Off),
            _ => numbers::table(self.value).map(Table::Number).ok_or_else(|| {
                self.refuse(
                    self.value,
                    "`auto`, `off`, or a routing table's number or name (`main`, or from /etc/iproute2/rt_tables)",
                )
            }),
        }
    }

    /// Returns the interface's addresses, separated by commas or spaces.
    pub(super) fn addresses(&self) -> Result<Vec<IpNet>, ConfigError> {
        let items = self.value.split([',', ' ', '\t']).filter(|item| !item.is_empty());
        let allowed = "addresses as in `10.0.0.1/24, fd00::1/64`";
        let one = |item| {
            let address = interface_address(item).ok_or_else(|| self.refuse(item, allowed))?;
            if is_refused(address.addr()) {
                return Err(self.refuse(item, "an address that an interface can have"));
            }
            Ok(address)
        };
        items.map(one).collect()
    }

    /// Returns the allowed IPs, including host bits.
    pub(super) fn networks(&self) -> Result<Vec<IpNet>, ConfigError> {
        // `wg` prints and accepts an empty list for a peer without allowed IPs.
        let items = self.value.split(',').map(compact);
        let mut items: Vec<_> = items.collect();
        if items.last().is_some_and(|last| last.is_empty()) {
            items.pop();
        }
        let allowed = "networks as in `10.0.0.0/24, fd00::/64`";
        let one =
            |item: &Zeroizing<String>| interface_address(item).ok_or_else(|| self.refuse(item, allowed));
        items.iter().map(one).collect()
    }

    /// Returns the endpoint. As in `wg`, the port is what follows the last colon, and brackets may surround any
    /// host.
    pub(super) fn endpoint(&self) -> Result<PeerEndpoint, ConfigError> {
        let mistake = || {
            self.refuse(
                self.value,
                "`host:port`, `192.0.2.1:51820` or `[2001:db8::1]:51820`, port from 1 to 65535",
            )
        };
        let value = compact(self.value);
        let (host, port) = match value.strip_prefix('[') {
            Some(rest) => rest.split_once("]:").ok_or_else(mistake)?,
            None => value.rsplit_once(':').ok_or_else(mistake)?,
        };
        let port = numbers::port(port).filter(|port| *port != 0).ok_or_else(mistake)?;
        if let Some(address) = update::parse_address(&format!("[{host}]:{port}")) {
            return Ok(PeerEndpoint::Address(address));
        }
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(PeerEndpoint::Address((address, port).into()));
        }
        if let Some((address, scope)) = host.split_once('%') {
            // Kept as a name to look up later: the interface's index is not known before the router starts.
            let is_scoped = address.parse::<Ipv6Addr>().is_ok() && is_interface_name(scope);
            return is_scoped.then(|| PeerEndpoint::Name { host: host.to_owned(), port }).ok_or_else(mistake);
        }
        // RFC 1123 host name characters, plus the underscore that is common in practice.
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        if host.is_empty() || host.len() > 253 || !host.chars().all(is_name) {
            return Err(mistake());
        }
        Ok(PeerEndpoint::Name { host: host.to_owned(), port })
    }
}

/// Returns `text` without white space. `wg` ignores it wherever it is. The result is wiped on drop, since it may be
/// a key.
fn compact(text: &str) -> Zeroizing<String> {
    let mut without = Zeroizing::new(String::with_capacity(text.len()));
    without.extend(text.chars().filter(|c| !c.is_ascii_whitespace()));
    without
}

/// Returns whether the kernel refuses `address` on an interface (`inet_rtm_newaddr`, `inet6_addr_add`, `ipv6_add_addr`).
fn is_refused(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast(),
        IpAddr::V6(address) => address.is_multicast() || address.is_unspecified() || address.is_loopback(),
    }
}

/// Parses an address with an optional prefix length or netmask, including host bits.
fn interface_address(text: &str) -> Option<IpNet> {
    update::parse_interface_address(text).or_else(|| {
        let (address, mask) = text.split_once('/')?;
        IpNet::with_netmask(address.parse().ok()?, mask.parse().ok()?).ok()
    })
}
