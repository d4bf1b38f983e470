//! Configuration: what the supervisor starts a router from, and what is changed while it runs.
//!
//! Two sources, the file ([`file`]) and the environment ([`env`]); the environment wins. Both are
//! read and checked before anything is created.

pub mod env;
mod error;
pub mod file;
mod spread;
pub mod update;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use zeroize::Zeroizing;

use env::Environment;
pub use error::ConfigError;
use file::FileConfig;
pub use spread::SpreadPorts;
use update::DeviceUpdate;

use super::metrics::PEER_LIMIT;
use super::netlink::{DefaultRule, IpVersion, Route};
use crate::lane::bounds::MAX_LANES;
use crate::lane::cpu_list::CpuList;
pub use crate::lane::inside::RejectPolicy;
use crate::lane::pinning::Wishes;
use crate::sys::scheduling::Scheduling;
use crate::wireguard::aead::{Backend, Unavailable};
use crate::wireguard::keys::{KeyError, PrivateKey, PublicKey};

/// The least and the greatest MTU that is taken, in bytes. IPv4 demands 576 (RFC 1122, section
/// 3.3.2); the greatest is what still fits a UDP datagram over IPv4 with WireGuard's 32 bytes, and is
/// a multiple of 16, so that padding does not lengthen it.
pub const MTU_RANGE: (u16, u16) = (576, 65_456);

/// Everything a router is started from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterConfig {
    /// The TUN interface's name.
    pub interface: String,
    /// A TUN that is open already, by the number of its descriptor (`WG_TUN_FD`).
    pub tun_fd: Option<i32>,
    /// Whether the router brings the link up and adds routes. `wg-quick` and others that start it as
    /// a plain WireGuard implementation do that themselves.
    pub up: bool,
    /// The interface's MTU in bytes.
    pub mtu: u16,
    /// The interface's addresses, host bits kept.
    pub addresses: Vec<IpNet>,
    /// Where routes to the peers' allowed IPs go.
    pub table: Table,
    /// How many lanes.
    pub queues: Queues,
    /// Whether workers are bound to CPUs.
    pub pin: Switch,
    /// CPUs for inside workers; `None` lets the router choose.
    pub inside_cpus: Option<CpuList>,
    /// CPUs for outside workers; `None` lets the router choose.
    pub outside_cpus: Option<CpuList>,
    /// How the kernel schedules workers.
    pub scheduling: Scheduling,
    /// How long a worker polls before it sleeps.
    pub spin: Duration,
    /// Batches per inbox; `None` for the lane's own choice.
    pub inbox_depth: Option<usize>,
    /// TUN reads per wake-up.
    pub drain_cap: usize,
    /// GSO on the inside.
    pub tun_offload: Switch,
    /// GSO and GRO on the outside.
    pub udp_offload: Switch,
    /// Bytes asked for each UDP socket buffer.
    pub socket_buffer: usize,
    /// What happens to packets without a route.
    pub reject: RejectPolicy,
    /// What seals and opens.
    pub aead: Backend,
    /// The peers that each lane sends to from a port of its own.
    pub spread_ports: SpreadPorts,
    /// Where `/metrics` is served.
    pub metrics_addr: Option<SocketAddr>,
    /// How many peers have series of their own in the metrics.
    pub metrics_peers: usize,
    /// The peer that must have a session before `/readyz` says yes.
    pub ready_peer: Option<PublicKey>,
    /// The directory of the UAPI socket, which is called after the interface.
    pub uapi_dir: PathBuf,
    /// A UAPI socket that listens already, by the number of its descriptor (`WG_UAPI_FD`).
    pub uapi_fd: Option<i32>,
    /// Which log lines are shown, in the syntax of `tracing_subscriber::EnvFilter`.
    pub log: String,
    /// How they look.
    pub log_format: LogFormat,
    /// Whether a running router gives up the system calls that it does not need.
    pub seccomp: Switch,
    /// The file that the private key was read from, if that is one of its own.
    pub private_key_file: Option<PathBuf>,
    /// The file this was read from, and is read from again on SIGHUP.
    pub file: Option<PathBuf>,
    /// Keys, port and peers.
    pub update: DeviceUpdate,
    /// What in the file was ignored, to be logged.
    pub warnings: Vec<String>,
}

/// How many lanes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Queues {
    /// Half as many as CPUs we may use, at least one.
    #[default]
    Auto,
    /// This many.
    Fixed(usize),
}

impl Queues {
    /// As many queues as a TUN can have (`MAX_TAP_QUEUES` in Linux's `drivers/net/tun.c`).
    pub const MOST: usize = MAX_LANES;

    /// The number of lanes on a machine where this process may use `cpus` CPUs.
    pub fn count(self, cpus: usize) -> usize {
        match self {
            Queues::Auto => (cpus / 2).clamp(1, Self::MOST),
            Queues::Fixed(queues) => queues,
        }
    }
}

/// Something that is on where that helps, or off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Switch {
    /// On where the system supports it.
    #[default]
    Auto,
    /// Off.
    Off,
}

impl Switch {
    /// Whether it may be on.
    pub fn is_on(self) -> bool {
        self == Switch::Auto
    }
}

/// Where routes to allowed IPs are added (wg-quick(8), "Table").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Table {
    /// To the main table, but for default routes: what we send ourselves would follow them back into
    /// the interface. They get a table of their own, and rules lead all to it that does not bear our mark.
    #[default]
    Auto,
    /// Nowhere.
    Off,
    /// To the table of this number.
    Number(u32),
}

impl Table {
    /// The main table (`RT_TABLE_MAIN`).
    pub const MAIN: u32 = 254;
    /// The table of default routes, and the mark of what does not take them, unless `FwMark` says
    /// otherwise. `wg-quick` has the same.
    pub const DEFAULT_ROUTES: u32 = 51_820;
}

/// What shall compute ChaCha20-Poly1305.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AeadChoice {
    /// AWS-LC, everywhere.
    Portable,
    /// The fastest of our own that this CPU can run.
    #[default]
    Auto,
    /// Intel's library.
    IpsecMb,
}

impl AeadChoice {
    /// What that is here.
    ///
    /// # Errors
    /// If it is not there, or does not work.
    pub fn backend(self) -> Result<Backend, Unavailable> {
        match self {
            AeadChoice::Portable => Ok(Backend::Portable),
            AeadChoice::Auto => Ok(Backend::fastest()),
            AeadChoice::IpsecMb => Backend::ipsec_mb(),
        }
    }
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl RouterConfig {
    /// A router that nothing is known about but its interface's name: no key, no peers, no
    /// addresses, no metrics.
    pub fn named(interface: impl Into<String>) -> Self {
        RouterConfig {
            interface: interface.into(),
            tun_fd: None,
            up: false,
            mtu: 1420,
            addresses: Vec::new(),
            table: Table::default(),
            queues: Queues::default(),
            pin: Switch::default(),
            inside_cpus: None,
            outside_cpus: None,
            scheduling: Scheduling::default(),
            spin: Duration::ZERO,
            inbox_depth: None,
            drain_cap: 64,
            tun_offload: Switch::default(),
            udp_offload: Switch::default(),
            socket_buffer: 32 << 20,
            reject: RejectPolicy::default(),
            aead: Backend::fastest(),
            spread_ports: SpreadPorts::default(),
            metrics_addr: None,
            metrics_peers: PEER_LIMIT,
            ready_peer: None,
            uapi_dir: PathBuf::from("/var/run/wireguard"),
            uapi_fd: None,
            log: "info".to_owned(),
            log_format: LogFormat::default(),
            seccomp: Switch::default(),
            private_key_file: None,
            file: None,
            update: DeviceUpdate::default(),
            warnings: Vec::new(),
        }
    }

    /// What `laneway run` starts: a file, from the command line or `LANEWAY_CONFIG`, under the
    /// environment. The interface is called after the file, as with `wg-quick`, unless
    /// `LANEWAY_INTERFACE` names it; without either it is `laneway0`.
    ///
    /// # Errors
    /// The first mistake found in the environment's files or the configuration file.
    pub fn for_run(config: Option<&Path>, environment: &Environment) -> Result<Self, ConfigError> {
        let file = config.or(environment.config.as_deref());
        let named_by = if config.is_some() { None } else { Some("LANEWAY_CONFIG") };
        let mut router = match file {
            Some(path) => {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                let mut router = RouterConfig::named(stem);
                router.take_file(read_file(path, named_by)?);
                router.file = Some(path.to_owned());
                router
            }
            None => RouterConfig::named("laneway0"),
        };
        router.up = true;
        router.metrics_addr = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9586)));
        router.take_environment(environment)?;
        router.update.fwmark = router.mark().or(router.update.fwmark);
        let named_by = if environment.interface.is_some() {
            "LANEWAY_INTERFACE"
        } else {
            "the configuration file's name; LANEWAY_INTERFACE changes it"
        };
        router.check_interface(named_by)
    }

    /// What `laneway IFNAME` starts: an interface without keys or addresses, which `wg` and `ip`
    /// then configure. Metrics are off unless the environment asks for them.
    ///
    /// # Errors
    /// The first mistake found.
    pub fn for_interface(interface: &str, environment: &Environment) -> Result<Self, ConfigError> {
        let mut router = RouterConfig::named(interface);
        router.take_environment(environment)?;
        interface.clone_into(&mut router.interface);
        router.check_interface("the command line")
    }

    /// How workers are to be bound to CPUs.
    pub fn pinning(&self) -> Wishes<'_> {
        Wishes {
            auto: self.pin.is_on(),
            inside: self.inside_cpus.as_ref(),
            outside: self.outside_cpus.as_ref(),
        }
    }

    /// The routes that lead into the interface: to what the peers of [`update`](Self::update) may use,
    /// each once. None if the link is left to others or the table is off.
    pub fn routes(&self) -> Vec<Route> {
        let table = |net: &IpNet| match self.table {
            Table::Off => None,
            Table::Auto if net.prefix_len() == 0 => self.mark(),
            Table::Auto => Some(Table::MAIN),
            Table::Number(number) => Some(number),
        };
        let is_on_link = |net: &IpNet| self.addresses.iter().any(|address| address.trunc() == *net);
        let mut nets = if self.up { self.allowed_ips() } else { Vec::new() };
        nets.retain(|net| !is_on_link(net));
        nets.into_iter().filter_map(|net| Some(Route { net, table: table(&net)? })).collect()
    }

    /// The rules that lead to the default routes among [`routes`](Self::routes).
    pub fn rules(&self) -> Vec<DefaultRule> {
        let Some(mark) = self.mark() else { return Vec::new() };
        let defaults = self.allowed_ips().into_iter().filter(|net| net.prefix_len() == 0);
        defaults
            .map(|net| {
                let version = if net.addr().is_ipv4() { IpVersion::V4 } else { IpVersion::V6 };
                DefaultRule { version, mark }
            })
            .collect()
    }

    /// The mark that keeps our own datagrams off the default routes, if rules do that.
    fn mark(&self) -> Option<u32> {
        let everything = self.allowed_ips().iter().any(|net| net.prefix_len() == 0);
        let mark = self.update.fwmark.filter(|mark| *mark != 0).unwrap_or(Table::DEFAULT_ROUTES);
        (self.up && self.table == Table::Auto && everything).then_some(mark)
    }

    /// What the peers may use, sorted, each once.
    fn allowed_ips(&self) -> Vec<IpNet> {
        let changes = self.update.peers.iter().flat_map(|peer| &peer.allowed_ips);
        let mut nets: Vec<_> = changes.filter(|change| !change.remove).map(|change| change.net).collect();
        nets.sort_unstable();
        nets.dedup();
        nets
    }

    /// Reads the file again, under the same environment; `None` if there is no file.
    ///
    /// # Errors
    /// The first mistake found.
    pub fn read_again(&self, environment: &Environment) -> Result<Option<Self>, ConfigError> {
        self.file.as_deref().map(|path| RouterConfig::for_run(Some(path), environment)).transpose()
    }

    fn take_file(&mut self, file: FileConfig) {
        self.addresses = file.addresses;
        self.mtu = file.mtu.unwrap_or(self.mtu);
        self.table = file.table.unwrap_or(self.table);
        self.update = file.update;
        self.warnings = file.warnings;
    }

    fn take_environment(&mut self, environment: &Environment) -> Result<(), ConfigError> {
        let e = environment.clone();
        self.interface = e.interface.unwrap_or_else(|| self.interface.clone());
        self.queues = e.queues.unwrap_or(self.queues);
        self.pin = e.pin.unwrap_or(self.pin);
        self.inside_cpus = e.inside_cpus;
        self.outside_cpus = e.outside_cpus;
        self.scheduling = e.scheduling.unwrap_or(self.scheduling);
        self.spin = e.spin.unwrap_or(self.spin);
        self.inbox_depth = e.inbox_depth;
        self.drain_cap = e.drain_cap.unwrap_or(self.drain_cap);
        self.tun_offload = e.tun_offload.unwrap_or(self.tun_offload);
        self.udp_offload = e.udp_offload.unwrap_or(self.udp_offload);
        self.mtu = e.mtu.unwrap_or(self.mtu);
        self.update.listen_port = e.listen_port.or(self.update.listen_port);
        self.socket_buffer = e.socket_buffer.unwrap_or(self.socket_buffer);
        self.metrics_addr = e.metrics_addr.unwrap_or(self.metrics_addr);
        self.metrics_peers = e.metrics_peers.unwrap_or(self.metrics_peers);
        self.ready_peer = e.ready_peer;
        self.log = e.log.unwrap_or_else(|| self.log.clone());
        self.log_format = e.log_format.unwrap_or(self.log_format);
        self.reject = e.reject.unwrap_or(self.reject);
        if let Some(choice) = e.aead {
            self.aead = choice.backend()?;
        }
        self.spread_ports = e.spread_ports.unwrap_or_else(|| self.spread_ports.clone());
        self.uapi_dir = e.uapi_dir.unwrap_or_else(|| self.uapi_dir.clone());
        self.seccomp = e.seccomp.unwrap_or(self.seccomp);
        if let Some(path) = &e.private_key_file {
            self.update.private_key = Some(Some(read_key(path)?));
            self.private_key_file = Some(path.clone());
        }
        Ok(())
    }

    fn check_interface(self, named_by: &'static str) -> Result<Self, ConfigError> {
        if is_interface_name(&self.interface) {
            Ok(self)
        } else {
            Err(ConfigError::InterfaceName { name: self.interface, named_by })
        }
    }
}

/// Whether `wg-quick` and Linux would both take it (`dev_valid_name` in Linux's `net/core/dev.c`).
fn is_interface_name(name: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '=' | '+' | '.' | '-');
    (1..=15).contains(&name.len()) && name.chars().all(is_allowed) && name != "." && name != ".."
}

fn read_file(path: &Path, named_by: Option<&'static str>) -> Result<FileConfig, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), named_by, source };
    let text = Zeroizing::new(fs::read_to_string(path).map_err(unreadable)?);
    FileConfig::parse(path, &text)
}

fn read_key(path: &Path) -> Result<PrivateKey, ConfigError> {
    let named_by = "LANEWAY_PRIVATE_KEY_FILE";
    let unreadable =
        |source| ConfigError::Unreadable { path: path.to_owned(), named_by: Some(named_by), source };
    let text = Zeroizing::new(fs::read_to_string(path).map_err(unreadable)?);
    text.trim().parse().map_err(|error: KeyError| ConfigError::KeyFile {
        path: path.to_owned(),
        named_by,
        problem: error.to_string(),
    })
}

#[cfg(test)]
mod tests;
