//! The `LANEWAY_*` environment variables.
//!
//! All are optional. An invalid value is an error that names the variable, and so is an unknown `LANEWAY_*` name:
//! a misspelt setting must not be silently ignored.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::error::ConfigError;
use super::spelling::distance;
use super::{
    AeadChoice, LogFormat, MTU_RANGE, Queues, RejectPolicy, Sharing, SpreadPorts, Switch, is_interface_name,
};
use crate::cpus::cpu_list::{CpuList, CpuListError};
use crate::lane::bounds::{MAX_DRAIN_CAP, MAX_RING_DEPTH};
use crate::lane::standing::ShortQueues;
use crate::netlink::masquerade::Masquerade;
use crate::packet::class::Dscp;
use crate::wireguard::keys::PublicKey;

/// All known variables that start with [`PREFIX`].
const NAMES: [&str; 33] = [
    "LANEWAY_CONFIG",
    "LANEWAY_INTERFACE",
    "LANEWAY_QUEUES",
    "LANEWAY_SHARE",
    "LANEWAY_PIN",
    "LANEWAY_INSIDE_CPUS",
    "LANEWAY_OUTSIDE_CPUS",
    "LANEWAY_SPIN_US",
    "LANEWAY_SHORT_QUEUES",
    "LANEWAY_INBOX_DEPTH",
    "LANEWAY_DRAIN_CAP",
    "LANEWAY_TUN_OFFLOAD",
    "LANEWAY_TUNNEL_MERGE",
    "LANEWAY_UDP_OFFLOAD",
    "LANEWAY_MTU",
    "LANEWAY_LISTEN_PORT",
    "LANEWAY_PRIVATE_KEY_FILE",
    "LANEWAY_SOCKET_BUFFER",
    "LANEWAY_METRICS_ADDR",
    "LANEWAY_METRICS_CONFIG",
    "LANEWAY_METRICS_PEERS",
    "LANEWAY_METRICS_FROM_TUNNEL",
    "LANEWAY_READY_PEER",
    "LANEWAY_LOG",
    "LANEWAY_LOG_FORMAT",
    "LANEWAY_REJECT",
    "LANEWAY_DSCP",
    "LANEWAY_AEAD",
    "LANEWAY_SPREAD_PORTS",
    "LANEWAY_UAPI_DIR",
    "LANEWAY_SECCOMP",
    "LANEWAY_MASQUERADE",
    "LANEWAY_KEEP",
];
const PREFIX: &str = "LANEWAY_";

/// Settings from the environment; `None` for variables that are not set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment {
    /// `LANEWAY_CONFIG`: the configuration file.
    pub config: Option<PathBuf>,
    /// `LANEWAY_INTERFACE`: name of the TUN interface.
    pub interface: Option<String>,
    /// `LANEWAY_QUEUES`: number of lanes.
    pub queues: Option<Queues>,
    /// `LANEWAY_SHARE`: whether workers seal and open for each other.
    pub share: Option<Sharing>,
    /// `LANEWAY_PIN`: whether workers are pinned to CPUs.
    pub pin: Option<Switch>,
    /// `LANEWAY_INSIDE_CPUS`: CPUs for inside workers.
    pub inside_cpus: Option<CpuList>,
    /// `LANEWAY_OUTSIDE_CPUS`: CPUs for outside workers.
    pub outside_cpus: Option<CpuList>,
    /// `LANEWAY_SPIN_US`: how long a worker polls before it sleeps.
    pub spin: Option<Duration>,
    /// `LANEWAY_SHORT_QUEUES`: whether bulk flows are slowed down to keep queues short.
    pub short_queues: Option<ShortQueues>,
    /// `LANEWAY_INBOX_DEPTH`: batches per ring.
    pub inbox_depth: Option<usize>,
    /// `LANEWAY_DRAIN_CAP`: maximum TUN reads per wake.
    pub drain_cap: Option<usize>,
    /// `LANEWAY_TUN_OFFLOAD`: segmentation offload (TSO and USO) on the TUN.
    pub tun_offload: Option<Switch>,
    /// `LANEWAY_TUNNEL_MERGE`: merging of encapsulated packets whose outer datagrams have no checksum.
    pub tunnel_merge: Option<Switch>,
    /// `LANEWAY_UDP_OFFLOAD`: GSO and GRO on the UDP sockets.
    pub udp_offload: Option<Switch>,
    /// `LANEWAY_MTU`: the TUN's MTU in bytes.
    pub mtu: Option<u16>,
    /// `LANEWAY_LISTEN_PORT`: the UDP port.
    pub listen_port: Option<u16>,
    /// `LANEWAY_PRIVATE_KEY_FILE`: a file with the router's private key in base64.
    pub private_key_file: Option<PathBuf>,
    /// `LANEWAY_SOCKET_BUFFER`: size of each UDP socket buffer in bytes.
    pub socket_buffer: Option<usize>,
    /// `LANEWAY_METRICS_ADDR`: address on which `/metrics` is served; `Some(None)` for `off`.
    pub metrics_addr: Option<Option<SocketAddr>>,
    /// `LANEWAY_METRICS_CONFIG`: a file that turns on HTTPS and logins for the metrics.
    pub metrics_config: Option<PathBuf>,
    /// `LANEWAY_METRICS_PEERS`: number of peers that have their own series.
    pub metrics_peers: Option<usize>,
    /// `LANEWAY_METRICS_FROM_TUNNEL`: whether HTTP is served to peers, through the tunnel.
    pub metrics_from_tunnel: Option<bool>,
    /// `LANEWAY_READY_PEER`: public key of the peer that `/readyz` requires a session with.
    pub ready_peer: Option<PublicKey>,
    /// `LANEWAY_LOG`: the log filter.
    pub log: Option<String>,
    /// `LANEWAY_LOG_FORMAT`: text or JSON.
    pub log_format: Option<LogFormat>,
    /// `LANEWAY_REJECT`: what to do with packets that have no route.
    pub reject: Option<RejectPolicy>,
    /// `LANEWAY_DSCP`: the DSCP of outer headers.
    pub dscp: Option<Dscp>,
    /// `LANEWAY_AEAD`: the AEAD implementation.
    pub aead: Option<AeadChoice>,
    /// `LANEWAY_SPREAD_PORTS`: peers that each lane sends to from its own port.
    pub spread_ports: Option<SpreadPorts>,
    /// `LANEWAY_UAPI_DIR`: directory of UAPI sockets.
    pub uapi_dir: Option<PathBuf>,
    /// `LANEWAY_SECCOMP`: whether a seccomp filter denies unneeded system calls.
    pub seccomp: Option<Switch>,
    /// `LANEWAY_MASQUERADE`: which packets from the tunnel are masqueraded; `Some(None)` for `off`.
    pub masquerade: Option<Option<Masquerade>>,
    /// `LANEWAY_KEEP`: whether interface, routes and rules stay when the router stops.
    pub keep: Option<bool>,
}

impl Environment {
    /// Reads the environment of this process.
    ///
    /// # Errors
    /// A `LANEWAY_*` variable is unknown or has an invalid value.
    pub fn of_process() -> Result<Self, ConfigError> {
        Self::read(std::env::vars_os())
    }

    /// Reads `vars`, ignoring names that do not start with `LANEWAY_`.
    ///
    /// # Errors
    /// A `LANEWAY_*` variable is unknown or has an invalid value.
    pub fn read(vars: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, ConfigError> {
        let mut environment = Environment::default();
        for (name, value) in vars {
            let name = name.to_string_lossy().into_owned();
            if !name.starts_with(PREFIX) || is_not_a_setting(&name) {
                continue;
            }
            let value = Value { name: &name, value: &value };
            environment.set(&value)?;
        }
        Ok(environment)
    }

    fn set(&mut self, value: &Value<'_>) -> Result<(), ConfigError> {
        match value.name {
            "LANEWAY_CONFIG" => self.config = Some(value.path()?),
            "LANEWAY_INTERFACE" => self.interface = Some(value.text()?.to_owned()),
            "LANEWAY_QUEUES" => self.queues = Some(value.queues()?),
            "LANEWAY_SHARE" => {
                let choices = [("auto", Sharing::Auto), ("on", Sharing::On), ("off", Sharing::Off)];
                self.share = Some(value.one_of(&choices)?);
            }
            "LANEWAY_PIN" => self.pin = Some(value.switch()?),
            "LANEWAY_INSIDE_CPUS" => self.inside_cpus = Some(value.cpus()?),
            "LANEWAY_OUTSIDE_CPUS" => self.outside_cpus = Some(value.cpus()?),
            "LANEWAY_SPIN_US" => {
                let micros = value.number(0, 1_000_000, "microseconds")?;
                self.spin = Some(Duration::from_micros(micros));
            }
            "LANEWAY_SHORT_QUEUES" => {
                let choices =
                    [("auto", ShortQueues::Auto), ("on", ShortQueues::On), ("off", ShortQueues::Off)];
                self.short_queues = Some(value.one_of(&choices)?);
            }
            "LANEWAY_INBOX_DEPTH" => {
                self.inbox_depth = Some(value.number(1, MAX_RING_DEPTH as u64, "batches")? as usize);
            }
            "LANEWAY_DRAIN_CAP" => {
                self.drain_cap = Some(value.number(1, MAX_DRAIN_CAP as u64, "packets")? as usize);
            }
            "LANEWAY_TUN_OFFLOAD" => self.tun_offload = Some(value.switch()?),
            "LANEWAY_TUNNEL_MERGE" => self.tunnel_merge = Some(value.switch()?),
            "LANEWAY_UDP_OFFLOAD" => self.udp_offload = Some(value.switch()?),
            "LANEWAY_MTU" => {
                let (least, most) = MTU_RANGE;
                self.mtu = Some(value.number(least.into(), most.into(), "bytes")? as u16);
            }
            "LANEWAY_LISTEN_PORT" => {
                self.listen_port = Some(value.number(0, 65_535, "(0: any free port)")? as u16);
            }
            "LANEWAY_PRIVATE_KEY_FILE" => self.private_key_file = Some(value.path()?),
            "LANEWAY_SOCKET_BUFFER" => {
                self.socket_buffer = Some(value.number(4096, 1 << 30, "bytes")? as usize);
            }
            "LANEWAY_METRICS_ADDR" => self.metrics_addr = Some(value.metrics_addr()?),
            "LANEWAY_METRICS_CONFIG" => self.metrics_config = Some(value.path()?),
            "LANEWAY_METRICS_PEERS" => {
                self.metrics_peers = Some(value.number(0, 1 << 20, "peers")? as usize);
            }
            "LANEWAY_METRICS_FROM_TUNNEL" => {
                self.metrics_from_tunnel = Some(value.one_of(&[("refuse", false), ("allow", true)])?);
            }
            "LANEWAY_READY_PEER" => self.ready_peer = Some(value.public_key()?),
            "LANEWAY_LOG" => self.log = Some(value.log_filter()?),
            "LANEWAY_LOG_FORMAT" => {
                self.log_format =
                    Some(value.one_of(&[("text", LogFormat::Text), ("json", LogFormat::Json)])?);
            }
            "LANEWAY_REJECT" => {
                let policies = [
                    ("reject", RejectPolicy::Reject),
                    ("unreachable", RejectPolicy::Unreachable),
                    ("drop", RejectPolicy::Drop),
                ];
                self.reject = Some(value.one_of(&policies)?);
            }
            "LANEWAY_DSCP" => self.dscp = Some(value.dscp()?),
            "LANEWAY_AEAD" => {
                let choices = [("portable", AeadChoice::Portable), ("auto", AeadChoice::Auto)];
                self.aead = Some(value.one_of(&choices)?);
            }
            "LANEWAY_SPREAD_PORTS" => self.spread_ports = Some(value.spread_ports()?),
            "LANEWAY_UAPI_DIR" => self.uapi_dir = Some(value.path()?),
            "LANEWAY_SECCOMP" => self.seccomp = Some(value.switch()?),
            "LANEWAY_MASQUERADE" => self.masquerade = Some(value.masquerade()?),
            "LANEWAY_KEEP" => self.keep = Some(value.one_of(&[("on", true), ("off", false)])?),
            unknown => {
                return Err(ConfigError::UnknownVariable { name: unknown.to_owned(), near: near(unknown) });
            }
        }
        Ok(())
    }
}

/// Returns whether a `LANEWAY_*` name is set by something else. Kubernetes sets variables for each service: for
/// one called `laneway`, `LANEWAY_SERVICE_HOST`, `LANEWAY_PORT`, `LANEWAY_PORT_9586_TCP` and so on. Laneway's
/// tests set `LANEWAY_SKIP_NETNS`.
fn is_not_a_setting(name: &str) -> bool {
    !NAMES.contains(&name)
        && (name == "LANEWAY_SKIP_NETNS"
            || name.ends_with("_PORT")
            || ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT_"].iter().any(|mark| name.contains(mark)))
}

/// One variable, with parsers for its value.
struct Value<'a> {
    name: &'a str,
    value: &'a OsString,
}

impl Value<'_> {
    fn refuse(&self, allowed: impl Into<String>) -> ConfigError {
        let value = self.value.to_string_lossy().into_owned();
        ConfigError::Variable { name: self.name.to_owned(), value, allowed: allowed.into() }
    }

    fn text(&self) -> Result<&str, ConfigError> {
        match self.value.to_str().map(str::trim) {
            Some(text) if !text.is_empty() => Ok(text),
            _ => Err(self.refuse("a value that is not empty, or the variable to be unset")),
        }
    }

    fn path(&self) -> Result<PathBuf, ConfigError> {
        if self.value.is_empty() {
            return Err(self.refuse("a path, or the variable to be unset"));
        }
        Ok(PathBuf::from(self.value))
    }

    fn number(&self, least: u64, most: u64, unit: &str) -> Result<u64, ConfigError> {
        match self.text()?.parse() {
            Ok(number) if (least..=most).contains(&number) => Ok(number),
            _ => Err(self.refuse(format!("a number from {least} to {most} {unit}"))),
        }
    }

    fn one_of<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, ConfigError> {
        let text = self.text()?;
        let found = choices.iter().find(|(name, _)| *name == text).map(|(_, choice)| *choice);
        let names = || choices.iter().map(|(name, _)| format!("`{name}`")).collect::<Vec<_>>().join(" or ");
        found.ok_or_else(|| self.refuse(names()))
    }

    fn switch(&self) -> Result<Switch, ConfigError> {
        self.one_of(&[("auto", Switch::Auto), ("off", Switch::Off)])
    }

    fn dscp(&self) -> Result<Dscp, ConfigError> {
        match self.text()? {
            "inherit" => Ok(Dscp::Inherit),
            text => match text.parse() {
                Ok(dscp) if dscp < 64 => Ok(Dscp::Fixed(dscp)),
                _ => Err(self.refuse("`inherit` or a number from 0 to 63")),
            },
        }
    }

    fn queues(&self) -> Result<Queues, ConfigError> {
        match self.text()? {
            "auto" => Ok(Queues::Auto),
            text => match text.parse() {
                Ok(queues) if (1..=Queues::MOST).contains(&queues) => Ok(Queues::Fixed(queues)),
                _ => Err(self.refuse(format!("`auto` or a number from 1 to {}", Queues::MOST))),
            },
        }
    }

    fn cpus(&self) -> Result<CpuList, ConfigError> {
        self.text()?.parse().map_err(|error: CpuListError| self.refuse(error.to_string()))
    }

    fn metrics_addr(&self) -> Result<Option<SocketAddr>, ConfigError> {
        match self.text()? {
            "off" => Ok(None),
            text => text.parse().map(Some).map_err(|_| {
                self.refuse("`off`, or an address and port as in `127.0.0.1:9586` or `[::]:9586`")
            }),
        }
    }

    fn masquerade(&self) -> Result<Option<Masquerade>, ConfigError> {
        match self.text()? {
            "off" => Ok(None),
            "auto" => Ok(Some(Masquerade::Auto)),
            // Valid names, but far more likely meant as switches.
            name if is_interface_name(name) && !["on", "yes", "true", "no", "false"].contains(&name) => {
                Ok(Some(Masquerade::Interface(name.to_owned())))
            }
            _ => Err(self.refuse("`off`, `auto`, or the name of the interface that packets leave by")),
        }
    }

    fn public_key(&self) -> Result<PublicKey, ConfigError> {
        self.text()?.parse().map_err(|_| self.refuse("a peer's public key in base64, as `wg show` prints it"))
    }

    fn spread_ports(&self) -> Result<SpreadPorts, ConfigError> {
        let allowed = "`off`, `all`, or a comma-separated list of peers' public keys in base64";
        self.text()?.parse().map_err(|_| self.refuse(allowed))
    }

    fn log_filter(&self) -> Result<String, ConfigError> {
        let text = self.text()?;
        let refuse = || {
            self.refuse(
                "a level (`off`, `error`, `warn`, `info`, `debug`, `trace`), or a filter that has one for \
                 `laneway`, as in `warn,laneway::peers=debug`",
            )
        };
        // The filter syntax takes any word that is not a level for a target, and would silence everything else.
        let concerns_us = |directive: &str| {
            let directive = directive.trim();
            let target = directive.split(['=', '[']).next().unwrap_or_default();
            target.is_empty()
                || target.parse::<LevelFilter>().is_ok()
                || target == "laneway"
                || target.starts_with("laneway::")
        };
        let is_bare = |directive: &str| !directive.contains(['=', '[']);
        let valid = EnvFilter::try_new(text).is_ok()
            && text.split(',').any(concerns_us)
            && text.split(',').all(|directive| !is_bare(directive) || concerns_us(directive));
        if valid { Ok(text.to_owned()) } else { Err(refuse()) }
    }
}

/// Returns up to three known names most similar to `unknown`, joined by "or".
fn near(unknown: &str) -> String {
    let mut names = NAMES.map(|name| (distance(unknown, name), name));
    names.sort_unstable();
    let closest = names[0].0;
    let names: Vec<_> =
        names.iter().take_while(|(d, _)| *d <= closest + 1).take(3).map(|(_, n)| *n).collect();
    names.join(" or ")
}

#[cfg(test)]
mod tests;
