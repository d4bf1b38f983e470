//! Looks host names up past a tunnel that takes all traffic: every socket carries the router's mark, so queries leave
//! as the router's own datagrams do, whatever the default route is.
//!
//! This is a stub resolver as in the C library (resolver(3)): it reads `/etc/hosts` and `/etc/resolv.conf` at each
//! lookup, so it follows changes to them, and caches nothing, so no address outlives its TTL. Without a mark the C
//! library's own resolver is used, which also asks other sources that nsswitch.conf(5) names.

mod conf;
mod exchange;
pub(crate) mod message;
mod order;

use std::fs;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};

use arrayvec::ArrayVec;

use conf::Conf;
use exchange::NameServers;

/// The name servers that systemd-resolved asks (systemd-resolved.service(8)).
const SYSTEMD: &str = "/run/systemd/resolve/resolv.conf";

/// Maximum number of addresses kept for a name.
pub(super) const ADDRESSES: usize = 8;

/// Looks `host` up in the calling thread's network namespace. Blocks for as long as the timeouts in
/// `/etc/resolv.conf` allow. `mark` is the router's mark (`SO_MARK`); 0 for none. Returns at least one address, in
/// order of preference.
///
/// # Errors
/// The name has no address, no name server answered, or the mark cannot be set.
pub(super) fn resolve(host: &str, port: u16, mark: u32) -> io::Result<ArrayVec<SocketAddr, ADDRESSES>> {
    // Without a query, the C library also parses addresses with a scope.
    let is_address = host.parse::<IpAddr>().is_ok() || host.contains('%');
    let addresses = if mark == 0 || is_address {
        (host, port).to_socket_addrs()?.take(ADDRESSES).collect()
    } else {
        let found = past_the_tunnel(host, mark)?;
        order::sorted(found, port, mark).into_iter().take(ADDRESSES).collect::<ArrayVec<_, ADDRESSES>>()
    };
    if addresses.is_empty() {
        return Err(io::Error::new(ErrorKind::NotFound, "the name has no address"));
    }
    Ok(addresses)
}

fn past_the_tunnel(host: &str, mark: u32) -> io::Result<Vec<IpAddr>> {
    let listed = conf::hosts(&read("/etc/hosts"), host);
    if !listed.is_empty() {
        return Ok(listed);
    }
    let conf = configuration();
    let servers = NameServers { conf: &conf, mark };
    let mut failure = None;
    for name in conf.candidates(host) {
        match servers.addresses(&name) {
            Ok(addresses) if addresses.is_empty() => {}
            Ok(addresses) => return Ok(addresses),
            // A later candidate may have an address; if none has, whether this one does is unknown.
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or_else(|| Ok(Vec::new()), Err)
}

/// Returns whether all name servers are on this host, where their own queries do not carry the router's mark.
pub(crate) fn is_on_this_host() -> bool {
    configuration().is_local()
}

/// Reads the configuration. The servers of systemd-resolved are asked directly, since its own queries carry no mark.
fn configuration() -> Conf {
    let conf = Conf::parse(&read("/etc/resolv.conf"));
    if conf.is_systemd() { conf.with_servers_of(&Conf::parse(&read(SYSTEMD))) } else { conf }
}

/// Returns the text of a file. Missing files are empty ones, as in the C library.
fn read(path: &str) -> String {
    fs::read(path).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
}
