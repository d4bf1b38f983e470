//! Configuration of a router at start, and changes to it while it runs.
//!
//! There are two sources, the file ([`file`]) and the environment ([`env`]); the environment takes precedence.
//! Both are validated before anything is created.

pub mod changes;
mod choices;
pub mod env;
mod error;
pub mod file;
pub(crate) mod reading;
mod routing;
pub(crate) mod spelling;
pub mod update;
pub mod warnings;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;
use zeroize::Zeroizing;

pub use choices::{AeadChoice, LogFormat, MtuFrom, Queues, Sharing, SpreadPorts, Switch, Table};
use env::Environment;
pub use error::ConfigError;
use file::FileConfig;
use update::{DeviceUpdate, PeerEndpoint};
use warnings::Warning;

use crate::cpus::cpu_list::CpuList;
use crate::cpus::pinning::Wishes;
use crate::lane::bounds::DRAIN_CAP;
pub use crate::lane::inside::RejectPolicy;
use crate::lane::peer_metrics::PEER_LIMIT;
use crate::lane::standing::ShortQueues;
use crate::netlink::IPV6_MIN_MTU;
use crate::netlink::masquerade::Masquerade;
use crate::packet::class::Dscp;
use crate::wireguard::aead::Backend;
use crate::wireguard::keys::{KeyError, PrivateKey, PublicKey};

/// Smallest and largest accepted MTU in bytes. IPv4 requires 576 (RFC 1122, section 3.3.2). The largest fits a UDP
/// datagram over IPv4 together with WireGuard's 32 bytes, and is a multiple of 16, so padding does not lengthen it.
pub const MTU_RANGE: (u16, u16) = (576, 65_456);

/// Maximum length of a socket's path in bytes (`sun_path` in unix(7), with its end).
const LONGEST_SOCKET: usize = 107;

/// Bytes of the control socket's path besides directory and interface, while it is made: `DIRECTORY/.NAME.PROCESS/s`.
const AROUND_NAME: usize = "/..4194304/s".len();

/// The name of an interface that nothing names.
pub(crate) const DEFAULT_NAME: &str = "laneway0";

/// Everything needed to start a router.
#[expect(clippy::struct_excessive_bools, reason = "independent settings")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouterConfig {
    /// Name of the TUN interface.
    pub interface: String,
    /// Descriptor number of a TUN that is already open (`WG_TUN_FD`).
    pub tun_fd: Option<i32>,
    /// Whether the router brings the link up and adds routes. Tools that run it as a plain WireGuard
    /// implementation, such as `wg-quick`, do that themselves.
    pub up: bool,
    /// Whether the interface outlives the process if the process crashes or is killed.
    pub persist: bool,
    /// Whether the interface, its routes and rules stay when the router stops, and packets for the tunnel are
    /// rejected until it starts again.
    pub keep: bool,
    /// Whether to take over from a router that serves the interface.
    pub take_over: bool,
    /// MTU of the interface in bytes.
    pub mtu: u16,
    /// What sets the MTU.
    pub mtu_from: MtuFrom,
    /// Addresses of the interface, including host bits.
    pub addresses: Vec<IpNet>,
    /// Routing table for routes to the peers' allowed IPs.
    pub table: Table,
    /// Whether the mark, which is also the number of the table of default routes, is the router's choice.
    pub mark_is_free: bool,
    /// Number of lanes.
    pub queues: Queues,
    /// Whether workers seal and open for each other.
    pub share: Sharing,
    /// Whether workers are pinned to CPUs.
    pub pin: Switch,
    /// CPUs for inside workers; `None` lets the router choose.
    pub inside_cpus: Option<CpuList>,
    /// CPUs for outside workers; `None` lets the router choose.
    pub outside_cpus: Option<CpuList>,
    /// How long a worker polls before it sleeps.
    pub spin: Duration,
    /// Whether bulk flows are slowed down to keep queues short.
    pub short_queues: ShortQueues,
    /// Batches per ring; `None` for the default.
    pub inbox_depth: Option<usize>,
    /// Maximum TUN reads per wake.
    pub drain_cap: usize,
    /// Segmentation offload (TSO and USO) on the TUN.
    pub tun_offload: Switch,
    /// Whether encapsulated packets are merged although their outer datagrams have no checksum.
    pub tunnel_merge: Switch,
    /// GSO and GRO on the UDP sockets.
    pub udp_offload: Switch,
    /// Requested size of each UDP socket buffer in bytes.
    pub socket_buffer: usize,
    /// What to do with packets that have no route.
    pub reject: RejectPolicy,
    /// The DSCP of outer headers.
    pub dscp: Dscp,
    /// The AEAD implementation.
    pub aead: Backend,
    /// Peers that each lane sends to from its own port.
    pub spread_ports: SpreadPorts,
    /// Address on which `/metrics` is served; `None` for no metrics.
    pub metrics_addr: Option<SocketAddr>,
    /// File that turns on HTTPS and logins for the metrics.
    pub metrics_config: Option<PathBuf>,
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
    /// Which packets from the tunnel leave with the address of the interface they leave by; `None` for none.
    pub masquerade: Option<Masquerade>,
    /// Separate file from which the private key was read, if any.
    pub private_key_file: Option<PathBuf>,
    /// Configuration file, read again on SIGHUP.
    pub file: Option<PathBuf>,
    /// Keys, port and peers.
    pub update: DeviceUpdate,
    /// Warnings about the files, to be logged.
    pub warnings: Vec<Warning>,
}

impl RouterConfig {
    /// Returns the defaults for `interface`: no key, no peers, no addresses and no metrics.
    pub fn named(interface: impl Into<String>) -> Self {
        RouterConfig {
            interface: interface.into(),
            tun_fd: None,
            up: false,
            persist: false,
            keep: false,
            take_over: false,
            mtu: 1420,
            mtu_from: MtuFrom::Default,
            addresses: Vec::new(),
            table: Table::default(),
            mark_is_free: true,
            queues: Queues::default(),
            share: Sharing::default(),
            pin: Switch::default(),
            inside_cpus: None,
            outside_cpus: None,
            spin: Duration::ZERO,
            short_queues: ShortQueues::default(),
            inbox_depth: None,
            drain_cap: DRAIN_CAP,
            tun_offload: Switch::default(),
            tunnel_merge: Switch::default(),
            udp_offload: Switch::default(),
            socket_buffer: 32 << 20,
            reject: RejectPolicy::default(),
            dscp: Dscp::default(),
            aead: Backend::fastest(),
            spread_ports: SpreadPorts::default(),
            metrics_addr: None,
            metrics_config: None,
            metrics_peers: PEER_LIMIT,
            metrics_from_tunnel: false,
            ready_peer: None,
            uapi_dir: PathBuf::from("/var/run/wireguard"),
            uapi_fd: None,
            log: "info".to_owned(),
            log_format: LogFormat::default(),
            seccomp: Switch::default(),
            masquerade: None,
            private_key_file: None,
            file: None,
            update: DeviceUpdate::default(),
            warnings: Vec::new(),
        }
    }

    /// Returns the configuration for `laneway run`: the file `config`, or the one `LANEWAY_CONFIG` names, overridden
    /// by the environment. The interface is named by `LANEWAY_INTERFACE`, otherwise after the file, as with
    /// `wg-quick`, otherwise (also for a file in `/dev/fd`) `laneway0`.
    ///
    /// # Errors
    /// The first error found in the configuration file, in the key file or in the combined settings.
    pub fn for_run(config: Option<&Path>, environment: &Environment) -> Result<Self, ConfigError> {
        let file = config.or(environment.config.as_deref());
        let named_by = if config.is_some() { None } else { Some("LANEWAY_CONFIG") };
        let mut lines = None;
        let mut router = match file {
            Some(path) => {
                let stem = path.file_stem().unwrap_or_default().to_string_lossy();
                // A shell's `<(…)` has the name of a descriptor.
                let is_descriptor =
                    ["/dev/fd", "/dev/stdin", "/proc"].iter().any(|begin| path.starts_with(begin));
                let mut router = RouterConfig::named(if is_descriptor { DEFAULT_NAME.into() } else { stem });
                let file = read_file(path, named_by)?;
                lines = Some(file.lines.clone());
                router.take_file(file);
                router.file = Some(path.to_owned());
                router
            }
            None if environment.private_key_file.is_none() => return Err(ConfigError::Nothing),
            None => RouterConfig::named(DEFAULT_NAME),
        };
        let keys_in_file = router.update.has_secrets();
        router.up = true;
        router.persist = true;
        router.metrics_addr = Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9586)));
        router.take_environment(environment)?;
        router.mark_is_free = router.update.fwmark.unwrap_or(0) == 0;
        router.update.fwmark = router.mark().or(router.update.fwmark);
        if let (Some(path), Some(lines)) = (file, &lines) {
            router.warnings.extend(warnings::about(path, lines, &router.update));
        }
        let key_files = file.filter(|_| keys_in_file).into_iter().chain(router.private_key_file.as_deref());
        router.warnings.extend(key_files.filter_map(warnings::about_access));
        let named_by = if environment.interface.is_some() {
            "LANEWAY_INTERFACE"
        } else {
            "the configuration file's name; LANEWAY_INTERFACE changes it"
        };
        router.check_mtu()?;
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
        router.persist = router.keep;
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

    /// Returns whether an endpoint is a host name.
    pub fn awaits_names(&self) -> bool {
        let mut endpoints = self.update.peers.iter().filter_map(|peer| peer.endpoint.as_ref());
        endpoints.any(|endpoint| matches!(endpoint, PeerEndpoint::Name { .. }))
    }

    /// Reads the file again under the same environment. Returns `None` if there is no file.
    ///
    /// # Errors
    /// The first error found.
    pub fn read_again(&self, environment: &Environment) -> Result<Option<Self>, ConfigError> {
        let Some(path) = self.file.as_deref() else { return Ok(None) };
        // A key file that is a pipe is empty by now, which is an error of its own.
        if reading::is_pipe(path) {
            return Err(ConfigError::Pipe(path.to_owned()));
        }
        RouterConfig::for_run(Some(path), environment).map(Some)
    }

    fn take_file(&mut self, file: FileConfig) {
        self.addresses = file.addresses;
        self.mtu = file.mtu.unwrap_or(self.mtu);
        if file.mtu.is_some() {
            self.mtu_from = MtuFrom::File;
        }
        self.table = file.table.unwrap_or(self.table);
        self.update = file.update;
        self.warnings = file.warnings;
    }

    fn take_environment(&mut self, environment: &Environment) -> Result<(), ConfigError> {
        let e = environment.clone();
        self.interface = e.interface.unwrap_or_else(|| self.interface.clone());
        self.queues = e.queues.unwrap_or(self.queues);
        self.share = e.share.unwrap_or(self.share);
        self.pin = e.pin.unwrap_or(self.pin);
        self.inside_cpus = e.inside_cpus;
        self.outside_cpus = e.outside_cpus;
        self.spin = e.spin.unwrap_or(self.spin);
        self.short_queues = e.short_queues.unwrap_or(self.short_queues);
        self.inbox_depth = e.inbox_depth;
        self.drain_cap = e.drain_cap.unwrap_or(self.drain_cap);
        self.tun_offload = e.tun_offload.unwrap_or(self.tun_offload);
        self.tunnel_merge = e.tunnel_merge.unwrap_or(self.tunnel_merge);
        self.udp_offload = e.udp_offload.unwrap_or(self.udp_offload);
        self.keep = e.keep.unwrap_or(self.keep);
        if let Some(mtu) = e.mtu {
            (self.mtu, self.mtu_from) = (mtu, MtuFrom::Environment);
        }
        self.update.listen_port = e.listen_port.or(self.update.listen_port);
        self.socket_buffer = e.socket_buffer.unwrap_or(self.socket_buffer);
        self.metrics_addr = e.metrics_addr.unwrap_or(self.metrics_addr);
        self.metrics_config = e.metrics_config.clone().or(self.metrics_config.take());
        self.metrics_peers = e.metrics_peers.unwrap_or(self.metrics_peers);
        self.metrics_from_tunnel = e.metrics_from_tunnel.unwrap_or(self.metrics_from_tunnel);
        self.ready_peer = e.ready_peer;
        self.log = e.log.unwrap_or_else(|| self.log.clone());
        self.log_format = e.log_format.unwrap_or(self.log_format);
        self.reject = e.reject.unwrap_or(self.reject);
        self.dscp = e.dscp.unwrap_or(self.dscp);
        if let Some(choice) = e.aead {
            self.aead = choice.backend();
        }
        self.spread_ports = e.spread_ports.unwrap_or_else(|| self.spread_ports.clone());
        self.uapi_dir = e.uapi_dir.unwrap_or_else(|| self.uapi_dir.clone());
        self.masquerade = e.masquerade.flatten();
        self.seccomp = e.seccomp.unwrap_or(self.seccomp);
        if let Some(path) = &e.private_key_file {
            self.update.private_key = Some(Some(read_key(path)?));
            self.private_key_file = Some(path.clone());
        }
        Ok(())
    }

    /// Sets the MTU for an underlay with an MTU of `path` bytes, less WireGuard's overhead over IPv6, as `wg-quick`
    /// does (`set_mtu_up` in its `linux.bash`). IPv6 keeps its least MTU; longer datagrams are then fragmented.
    ///
    /// Unlike `wg-quick`, changes nothing for a path over the loopback interface: a local program, such as an
    /// obfuscating proxy, carries the datagrams on, over a path that is not known.
    pub fn derive_mtu(&mut self, path: u32) {
        const OVERHEAD: u32 = 80;
        /// Only the loopback interface has it (`drivers/net/loopback.c`).
        const LOOPBACK: u32 = 64 << 10;
        if path >= LOOPBACK {
            return;
        }
        let least = if self.ipv6().is_some() { IPV6_MIN_MTU } else { MTU_RANGE.0 };
        let mtu = u16::try_from(path.saturating_sub(OVERHEAD)).unwrap_or(u16::MAX);
        self.mtu = mtu.clamp(least, MTU_RANGE.1);
        self.mtu_from = MtuFrom::Route;
    }

    /// Returns an IPv6 network that is to pass through the interface.
    fn ipv6(&self) -> Option<IpNet> {
        let address = self.addresses.iter().copied().find(|address| address.addr().is_ipv6());
        address.or_else(|| self.routes().into_iter().map(|route| route.net).find(|net| net.addr().is_ipv6()))
    }

    /// Refuses an MTU at which the kernel removes IPv6 from the interface, if IPv6 is to pass through it.
    fn check_mtu(&self) -> Result<(), ConfigError> {
        match self.ipv6() {
            Some(net) if self.mtu < IPV6_MIN_MTU => Err(ConfigError::MtuForIpv6 { mtu: self.mtu, net }),
            _ => Ok(()),
        }
    }

    fn check_interface(self, named_by: &'static str) -> Result<Self, ConfigError> {
        if !is_interface_name(&self.interface) {
            return Err(ConfigError::InterfaceName { name: self.interface, named_by });
        }
        let most = (LONGEST_SOCKET - AROUND_NAME).saturating_sub(self.interface.len());
        if self.uapi_dir.as_os_str().len() > most {
            return Err(ConfigError::SocketPath { directory: self.uapi_dir, most });
        }
        Ok(self)
    }
}

/// Returns whether both `wg-quick` and Linux accept `name` (`dev_valid_name` in Linux's `net/core/dev.c`).
fn is_interface_name(name: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '=' | '+' | '.' | '-');
    (1..=15).contains(&name.len()) && name.chars().all(is_allowed) && name != "." && name != ".."
}

fn read_file(path: &Path, named_by: Option<&'static str>) -> Result<FileConfig, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), named_by, source };
    let bytes = reading::read(path).map_err(unreadable)?;
    // Comments may be in any encoding. Values are ASCII, so a replaced character in one is refused.
    let text = Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned());
    FileConfig::parse(path, &text)
}

fn read_key(path: &Path) -> Result<PrivateKey, ConfigError> {
    let named_by = "LANEWAY_PRIVATE_KEY_FILE";
    let unreadable =
        |source| ConfigError::Unreadable { path: path.to_owned(), named_by: Some(named_by), source };
    let bytes = reading::read(path).map_err(unreadable)?;
    let text = Zeroizing::new(String::from_utf8_lossy(&bytes).into_owned());
    text.trim().parse().map_err(|error: KeyError| ConfigError::KeyFile {
        path: path.to_owned(),
        named_by,
        problem: error.to_string(),
    })
}

#[cfg(test)]
mod tests;
