//! Reads resolv.conf(5) and hosts(5). Unknown and invalid lines are ignored, as in the C library.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use nix::net::if_::if_nametoindex;

/// Limits of the C library (`MAXNS`, `RES_MAXNDOTS`, `RES_MAXRETRANS` and `RES_MAXRETRY` in `resolv.h`).
const SERVERS: usize = 3;
const MAX_DOTS: usize = 15;
const MAX_TIMEOUT: u64 = 30;
const MAX_ATTEMPTS: usize = 5;

/// The addresses of systemd-resolved (systemd-resolved.service(8)).
const SYSTEMD: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54))];

/// The UDP and TCP port of name servers.
const PORT: u16 = 53;

/// The settings in resolv.conf(5) that this resolver knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Conf {
    /// The name servers, in order of preference, at least one.
    pub(super) servers: Vec<SocketAddr>,
    /// Domains that are appended to names.
    search: Vec<String>,
    /// Number of dots from which a name is first tried without the search list.
    dots: usize,
    /// How long to wait for a server's answer.
    pub(super) timeout: Duration,
    /// How often all servers are tried.
    pub(super) attempts: usize,
    /// Whether to ask by TCP only.
    pub(super) tcp: bool,
    /// Whether IPv6 addresses are left out.
    pub(super) no_ipv6: bool,
}

impl Conf {
    pub(super) fn parse(text: &str) -> Conf {
        let mut conf = Conf {
            servers: Vec::new(),
            search: Vec::new(),
            dots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
            tcp: false,
            no_ipv6: false,
        };
        for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") if conf.servers.len() < SERVERS => {
                    conf.servers.extend(words.next().and_then(server));
                }
                // The last of these lines counts.
                Some("search") => conf.search = words.map(domain).collect(),
                Some("domain") => conf.search = words.next().map(domain).into_iter().collect(),
                Some("options") => words.for_each(|option| conf.set(option)),
                _ => {}
            }
        }
        if conf.servers.is_empty() {
            conf.servers.push((Ipv4Addr::LOCALHOST, PORT).into());
        }
        conf
    }

    /// Returns whether all name servers are on this host.
    pub(super) fn is_local(&self) -> bool {
        self.servers.iter().all(|server| server.ip().is_loopback())
    }

    /// Returns whether the only name server is systemd-resolved.
    pub(super) fn is_systemd(&self) -> bool {
        self.servers.iter().all(|server| SYSTEMD.contains(&server.ip()))
    }

    /// Returns these settings with the name servers of `upstream`, unless all of those are on this host.
    pub(super) fn with_servers_of(self, upstream: &Conf) -> Conf {
        if upstream.is_local() { self } else { Conf { servers: upstream.servers.clone(), ..self } }
    }

    fn set(&mut self, option: &str) {
        let (name, value) = option.split_once(':').unwrap_or((option, ""));
        let value = value.parse::<usize>().ok();
        match (name, value) {
            ("ndots", Some(dots)) => self.dots = dots.min(MAX_DOTS),
            ("timeout", Some(seconds)) => {
                self.timeout = Duration::from_secs((seconds as u64).clamp(1, MAX_TIMEOUT));
            }
            ("attempts", Some(attempts)) => self.attempts = attempts.clamp(1, MAX_ATTEMPTS),
            ("use-vc" | "usevc", _) => self.tcp = true,
            ("no-aaaa", _) => self.no_ipv6 = true,
            _ => {}
        }
    }

    /// Returns the absolute names to ask for, in order, without the final dot.
    pub(super) fn candidates(&self, host: &str) -> Vec<String> {
        if let Some(absolute) = host.strip_suffix('.') {
            return vec![absolute.to_owned()];
        }
        let in_domain = |domain: &String| {
            if domain.is_empty() { host.to_owned() } else { format!("{host}.{domain}") }
        };
        let mut names: Vec<_> = self.search.iter().map(in_domain).collect();
        let first = if host.matches('.').count() >= self.dots { 0 } else { names.len() };
        names.insert(first, host.to_owned());
        names
    }
}

fn domain(word: &str) -> String {
    word.trim_end_matches('.').to_owned()
}

/// Parses an address, which may have a scope: `fe80::1%eth0`.
fn server(word: &str) -> Option<SocketAddr> {
    let Some((ip, scope)) = word.split_once('%') else {
        return Some((word.parse::<IpAddr>().ok()?, PORT).into());
    };
    let scope = scope.parse().ok().or_else(|| if_nametoindex(scope).ok())?;
    Some(SocketAddrV6::new(ip.parse().ok()?, PORT, 0, scope).into())
}

/// Returns the addresses of `host` in the text of hosts(5), in the order of the lines.
pub(super) fn hosts(text: &str, host: &str) -> Vec<IpAddr> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|name| name.eq_ignore_ascii_case(host)).then_some(address)
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_are_those_of_resolv_conf() {
        let conf = Conf::parse(
            "# comment\n; comment\nnameserver 192.0.2.53\nnameserver nonsense\nnameserver fe80::53%lo\n\
             nameserver 2001:db8::53\nnameserver 192.0.2.99\ndomain lost.example\n\
             search a.example b.example.\nsortlist x\noptions ndots:2 timeout:1 attempts:9 use-vc rotate\n",
        );
        let servers: Vec<_> = conf.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.53:53", "[fe80::53%1]:53", "[2001:db8::53]:53"]);
        assert_eq!((conf.timeout, conf.attempts, conf.tcp), (Duration::from_secs(1), 5, true));
        assert_eq!(conf.candidates("gw"), ["gw.a.example", "gw.b.example", "gw"]);
        assert_eq!(conf.candidates("gw.x.y"), ["gw.x.y", "gw.x.y.a.example", "gw.x.y.b.example"]);
        assert_eq!(conf.candidates("gw."), ["gw"]);
    }

    #[test]
    fn without_a_file_the_server_is_this_host() {
        let conf = Conf::parse("");
        assert_eq!(conf.servers, ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!((conf.timeout, conf.attempts), (Duration::from_secs(5), 2));
        assert_eq!(conf.candidates("gw"), ["gw"]);
    }

    #[test]
    fn the_name_servers_of_systemd_resolved_are_asked_past_it() {
        let upstream = Conf::parse("nameserver 192.0.2.53\nnameserver 127.0.0.1");
        let conf = Conf::parse("nameserver 127.0.0.53\nsearch a.example\noptions ndots:2");
        assert!(conf.is_systemd() && conf.is_local() && !upstream.is_local());
        let merged = conf.clone().with_servers_of(&upstream);
        assert_eq!(merged.servers, upstream.servers);
        assert_eq!(merged.candidates("gw"), ["gw.a.example", "gw"]);
        assert_eq!(conf.clone().with_servers_of(&Conf::parse("")), conf);
        let other = Conf::parse("nameserver ::1");
        assert!(other.is_local() && !other.is_systemd());
    }

    #[test]
    fn hosts_may_have_several_addresses_and_names() {
        let text =
            "127.0.0.1 localhost\n192.0.2.7\tgw.example gw # mine\n2001:db8::7 GW.example\nx gw\n#1.1.1.1 gw";
        let told = |host| hosts(text, host).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(told("gw.example"), ["192.0.2.7", "2001:db8::7"]);
        assert_eq!(told("gw"), ["192.0.2.7"]);
        assert_eq!(told("gw."), ["192.0.2.7"]);
        assert!(told("mine").is_empty() && told("example").is_empty());
    }
}
