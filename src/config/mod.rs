//! Configuration of a router at start, and changes to it while it runs.
//!
//! There are two sources, the file ([`file`]) and the environment ([`env`]); the environment takes precedence.
//! Both are validated before anything is created.

mod choices;
pub mod env;
mod error;
pub mod file;
mod spread;
pub mod update;

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use zeroize::Zeroizing;

pub use choices::{AeadChoice, LogFormat, Queues, Switch, Table};
use env::Environment;
pub use error::ConfigError;
use file::FileConfig;
pub use spread::SpreadPorts;
use update::DeviceUpdate;

use crate::cpus::cpu_list::CpuList;
use crate::cpus::pinning::Wishes;
use crate::lane::bounds::DRAIN_CAP;
pub use crate::lane::inside::RejectPolicy;
use crate::lane::peer_metrics::PEER_LIMIT;
use crate::netlink::{DefaultRule, IpVersion, Route};
use crate::wireguard::aead::Backend;
use crate::wireguard::keys::{KeyError, PrivateKey, PublicKey};

/// Smallest and largest accepted MTU in bytes. IPv4 requires 576 (RFC 1122, section 3.3.2). The largest fits a UDP
/// datagram over IPv4 together with WireGuard's 32 bytes, and is a multiple of 16, so padding does not lengthen it.
pub const MTU_RANGE: (u16, u16) = (576, 65_456);

/// Everything needed to start a router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterConfig {
    /// Name of the TUN interface.
    pub interface: String,
    /// Descriptor number of a TUN that is already open (`WG_TUN_FD`).
    pub tun_fd: Option<i32>,
    /// Whether the router brings the link up and adds routes. Tools that run it as a plain WireGuard
    /// implementation, such as `wg-quick`, do that themselves.
    pub up: bool,
    /// MTU of the interface in bytes.
    pub mtu: u16,
    /// Addresses of the interface, including host bits.
    pub addresses: Vec<IpNet>,
    /// Routing table for routes to the peers' allowed IPs.
    pub table: Table,
    /// Number of lanes.
    pub queues: Queues,
    /// Whether workers are pinned to CPUs.
    pub pin: Switch,
    /// CPUs for inside workers; `None` lets the router choose.
    pub inside_cpus: Option<CpuList>,
    /// CPUs for outside workers; `None` lets the router choose.
    pub outside_cpus: Option<CpuList>,
    /// How long a worker polls before it sleeps.
    pub spin: Duration,
    /// Batches per ring; `None` for the default.
    pub inbox_depth: Option<usize>,
    /// Maximum TUN reads per wake.
    pub drain_cap: usize,
    /// Segmentation offload (TSO and USO) on the TUN.
    pub tun_offload: Switch,
    /// GSO and GRO on the UDP sockets.
    pub udp_offload: Switch,
    /// Requested size of each UDP socket buffer in bytes.
    pub socket_buffer: usize,
    /// What to do with packets that have no route.
    pub reject: RejectPolicy,
    /// The AEAD implementation.
    pub aead: Backend,
    /// Peers that each lane sends to from its own port.
    pub spread_ports: SpreadPorts,
    /// Address on which `/metrics` is served; `None` for no metrics.
    pub metrics_addr: Option<SocketAddr>,
    /// Number of peers that have their own series in the metrics.
    pub metrics_peers: usize,
    /// Whether `/metrics` and the probes are served to packets that arrive through the interface.
    pub metrics_from_tunnel: bool,
    /// The peer that must have a session before `/readyz` reports success.
    pub ready_peer: Option<PublicKey>,
    /// Directory of the UAPI socket, which is named after the interface.
    pub uapi_dir: PathBuf,
    /// Descriptor number of a UAPI socket that is already listening (`WG_UAPI_FD`).
    pub uapi_fd: Option<i32>,
    /// Log filter, in the syntax of `tracing_subscriber::EnvFilter`.
    pub log: String,
    /// Format of log lines.
    pub log_format: LogFormat,
    /// Whether a seccomp filter denies the system calls a running router does not need.
    pub seccomp: Switch,
    /// Separate file from which the private key was read, if any.
    pub private_key_file: Option<PathBuf>,
    /// Configuration file, read again on SIGHUP.
    pub file: Option<PathBuf>,
    /// Keys, port and peers.
    pub update: DeviceUpdate,
    /// Warnings about the file, to be logged.
    pub warnings: Vec<String>,
}

impl RouterConfig {
    /// Returns the defaults for `interface`: no key, no peers, no addresses and no metrics.
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
            spin: Duration::ZERO,
            inbox_depth: None,
            drain_cap: DRAIN_CAP,
            tun_offload: Switch::default(),
            udp_offload: Switch::default(),
            socket_buffer: 32 << 20,
            reject: RejectPolicy::default(),
            aead: Backend::fastest(),
            spread_ports: SpreadPorts::default(),
            metrics_addr: None,
            metrics_peers: PEER_LIMIT,
            metrics_from_tunnel: false,
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

    /// Returns the configuration for `laneway run`: the file `config`, or the one `LANEWAY_CONFIG` names, overridden
    /// by the environment. The interface is named by `LANEWAY_INTERFACE`, otherwise after the file, as with
    /// `wg-quick`, otherwise `laneway0`.
    ///
    /// # Errors
    /// The first error found in the configuration file, in the key file or in the combined settings.
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

    /// Returns the configuration for `laneway IFNAME`: an interface without keys or addresses, which `wg` and `ip`
    /// then configure. Metrics are off unless the environment enables them.
    ///
    /// # Errors
    /// The first error found.
    pub fn for_interface(interface: &str, environment: &Environment) -> Result<Self, ConfigError> {
        let mut router = RouterConfig::named(interface);
        router.take_environment(environment)?;
        interface.clone_into(&mut router.interface);
        router.check_interface("the command line")
    }

    /// Returns how workers are to be pinned to CPUs.
    pub fn pinning(&self) -> Wishes<'_> {
        Wishes {
            auto: self.pin.is_on(),
            inside: self.inside_cpus.as_ref(),
            outside: self.outside_cpus.as_ref(),
        }
    }

    /// Returns the routes into the interface, without duplicates: one per allowed IP of the peers in
    /// [`update`](Self::update), except networks on the link. Empty if `up` is false or the table is off.
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

    /// Returns the rules that select the default routes among [`routes`](Self::routes).
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

    /// Returns the mark that exempts our own datagrams from the default routes, if there are rules for those.
    fn mark(&self) -> Option<u32> {
        let everything = self.allowed_ips().iter().any(|net| net.prefix_len() == 0);
        let mark = self.update.fwmark.filter(|mark| *mark != 0).unwrap_or(Table::DEFAULT_ROUTES);
        (self.up && self.table == Table::Auto && everything).then_some(mark)
    }

    /// Returns the peers' allowed IPs, sorted and without duplicates.
    fn allowed_ips(&self) -> Vec<IpNet> {
        let changes = self.update.peers.iter().flat_map(|peer| &peer.allowed_ips);
        let mut nets: Vec<_> = changes.filter(|change| !change.remove).map(|change| change.net).collect();
        nets.sort_unstable();
        nets.dedup();
        nets
    }

    /// Reads the file again under the same environment. Returns `None` if there is no file.
    ///
    /// # Errors
    /// The first error found.
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
        self.metrics_from_tunnel = e.metrics_from_tunnel.unwrap_or(self.metrics_from_tunnel);
        self.ready_peer = e.ready_peer;
        self.log = e.log.unwrap_or_else(|| self.log.clone());
        self.log_format = e.log_format.unwrap_or(self.log_format);
        self.reject = e.reject.unwrap_or(self.reject);
        if let Some(choice) = e.aead {
            self.aead = choice.backend();
        }
        self.spread_ports = e.spread_ports.unwrap_or_else(|| self.spread_ports.clone());
        self.uapi_dir = e.uapi_dir.unwrap_or_else(|| self.uapi_dir.clone());
        self.seccomp = e.seccomp.unwrap_or(self.seccomp);
        if let Some(path) = &e.private_key_file {
            self.update.private_key = Some(Some(read_key(path, &mut self.warnings)?));
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

/// Returns whether both `wg-quick` and Linux accept `name` (`dev_valid_name` in Linux's `net/core/dev.c`).
fn is_interface_name(name: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '=' | '+' | '.' | '-');
    (1..=15).contains(&name.len()) && name.chars().all(is_allowed) && name != "." && name != ".."
}

fn read_file(path: &Path, named_by: Option<&'static str>) -> Result<FileConfig, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), named_by, source };
    let (text, exposed) = read_secret(path).map_err(unreadable)?;
    let mut file = FileConfig::parse(path, &text)?;
    if exposed && file.update.has_secrets() {
        file.warnings.push(exposure(path));
    }
    Ok(file)
}

/// Reads a text file. Also returns whether users other than its owner and group have access to it.
fn read_secret(path: &Path) -> std::io::Result<(Zeroizing<String>, bool)> {
    let file = File::open(path)?;
    let exposed = file.metadata()?.mode() & 0o007 != 0;
    Ok((Zeroizing::new(std::io::read_to_string(file)?), exposed))
}

fn exposure(path: &Path) -> String {
    let path = path.display();
    format!("{path}: every user has access to the keys in this file; remove it with `chmod o= {path}`")
}

fn read_key(path: &Path, warnings: &mut Vec<String>) -> Result<PrivateKey, ConfigError> {
    let named_by = "LANEWAY_PRIVATE_KEY_FILE";
    let unreadable =
        |source| ConfigError::Unreadable { path: path.to_owned(), named_by: Some(named_by), source };
    let (text, exposed) = read_secret(path).map_err(unreadable)?;
    if exposed {
        warnings.push(exposure(path));
    }
    text.trim().parse().map_err(|error: KeyError| ConfigError::KeyFile {
        path: path.to_owned(),
        named_by,
        problem: error.to_string(),
    })
}

#[cfg(test)]
mod tests;
