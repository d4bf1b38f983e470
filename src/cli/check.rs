//! `laneway check`: prints what `laneway run` would do with a file and the environment, and creates nothing.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::Failure;
use crate::config::env::Environment;
use crate::config::update::PeerUpdate;
use crate::config::{ConfigError, RouterConfig, Table};
use crate::netlink::{self, DefaultRule, IpVersion};
use crate::router::mtu;
use crate::router::web::Web;
use crate::router::wiring;

/// Check a configuration and print what `run` would do with it
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Configuration file [default: `LANEWAY_CONFIG`]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Reads the configuration and prints it.
///
/// # Errors
/// The configuration is invalid. With `--json`, the error is printed to standard output too.
pub fn run(args: &CheckArgs) -> Result<(), Failure> {
    let read = || -> Result<RouterConfig, ConfigError> {
        let environment = Environment::of_process()?;
        let mut config = RouterConfig::for_run(args.config.as_deref(), &environment)?;
        // Without netlink the prediction is the first choice.
        if config.wants_table()
            && let Ok(number) = netlink::free_table(&config.interface, Table::DEFAULT_ROUTES)
        {
            config.set_table(number);
        }
        mtu::choose(&mut config, &[]);
        Ok(config)
    };
    let checked = || -> Result<(RouterConfig, Option<Web>), Failure> {
        let mut config = read()?;
        let web = config.metrics_config.as_deref().map(Web::read).transpose()?;
        config.warnings.extend(web.as_ref().and_then(|web| web.warning(config.metrics_addr)));
        wiring::check(&config).map_err(Failure::Refused)?;
        Ok((config, web))
    };
    let text = match checked() {
        Ok((config, web)) => {
            let plan = CheckedPlan { config: &config, web: web.as_ref() };
            if args.json { format!("{:#}\n", plan.json()) } else { plan.to_string() }
        }
        Err(error) => {
            if args.json {
                print(&format!("{:#}\n", json!({ "valid": false, "error": error.to_string() })));
            }
            return Err(error);
        }
    };
    print(&text);
    Ok(())
}

fn print(text: &str) {
    // A closed pipe is not an error; the exit status still carries the verdict.
    let _ = io::stdout().write_all(text.as_bytes());
}

/// What a router with this configuration would do.
struct CheckedPlan<'a> {
    config: &'a RouterConfig,
    web: Option<&'a Web>,
}

impl CheckedPlan<'_> {
    fn public_key(&self) -> Option<String> {
        let key = self.config.update.private_key.iter().flatten().next();
        key.map(|key| key.public_key().to_string())
    }

    fn json(&self) -> Value {
        let config = self.config;
        let routes = config.routes();
        let routes = routes.iter().map(|route| json!({ "to": route.net.to_string(), "table": route.table }));
        let rules = config.rules();
        let rules = rules.iter().map(|rule| {
            let version = if rule.version == IpVersion::V4 { 4 } else { 6 };
            json!({ "ipVersion": version, "withoutMark": rule.mark, "table": rule.mark })
        });
        let peers = config.update.peers.iter().map(|peer| {
            json!({
                "publicKey": peer.public_key.to_string(),
                "friendlyName": name(peer),
                "endpoint": peer.endpoint.as_ref().map(ToString::to_string),
                "allowedIps": nets(peer),
                "persistentKeepalive": peer.persistent_keepalive.filter(|seconds| *seconds > 0),
                "presharedKey": peer.preshared_key.as_ref().is_some_and(|key| !key.is_zero()),
            })
        });
        let warnings = config.warnings.iter().map(|warning| {
            json!({ "file": warning.path.display().to_string(), "line": warning.line, "text": warning.text })
        });
        json!({
            "valid": true,
            "interface": config.interface,
            "file": config.file.as_ref().map(|path| path.display().to_string()),
            "publicKey": self.public_key(),
            "listenPort": config.update.listen_port.filter(|port| *port > 0),
            "fwmark": config.update.fwmark.filter(|mark| *mark > 0),
            "addresses": config.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "mtu": config.mtu,
            "mtuFrom": config.mtu_from.to_string(),
            "routes": routes.collect::<Vec<_>>(),
            "rules": rules.collect::<Vec<_>>(),
            "metrics": config.metrics_addr.map(|address| address.to_string()),
            "metricsUrl": config.metrics_addr.map(|address| Web::url(self.web, address)),
            "metricsNeeds": self.web.and_then(Web::needs),
            "peers": peers.collect::<Vec<_>>(),
            "warnings": warnings.collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for CheckedPlan<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = self.config;
        let none = || "(none)".to_owned();
        let update = &config.update;
        writeln!(f, "interface: {}", config.interface)?;
        writeln!(f, "  public key: {}", self.public_key().unwrap_or_else(none))?;
        let port = update.listen_port.filter(|port| *port > 0).map(|port| port.to_string());
        writeln!(f, "  listening port: {}", port.unwrap_or_else(|| "any free one".to_owned()))?;
        if let Some(mark) = update.fwmark.filter(|mark| *mark > 0) {
            writeln!(f, "  fwmark: {mark:#x}")?;
        }
        let addresses: Vec<_> = config.addresses.iter().map(ToString::to_string).collect();
        writeln!(f, "  addresses: {}", if addresses.is_empty() { none() } else { addresses.join(", ") })?;
        writeln!(f, "  mtu: {} ({})", config.mtu, config.mtu_from)?;
        for route in config.routes() {
            writeln!(f, "  route: {}, table {}", route.net, table(route.table))?;
        }
        for rule in config.rules() {
            let DefaultRule { version, mark } = rule;
            writeln!(f, "  rule: {version} without the mark {mark:#x}, table {}", table(mark))?;
        }
        let metrics = config.metrics_addr.map(|address| Web::describe(self.web, address));
        let metrics = metrics.unwrap_or_else(|| "off".to_owned());
        writeln!(f, "  metrics: {metrics}")?;
        for peer in &update.peers {
            f.write_char('\n')?;
            write_peer(f, peer)?;
        }
        if !config.warnings.is_empty() {
            f.write_char('\n')?;
        }
        config.warnings.iter().try_for_each(|warning| writeln!(f, "warning: {warning}"))
    }
}

fn write_peer(f: &mut fmt::Formatter<'_>, peer: &PeerUpdate) -> fmt::Result {
    write!(f, "peer: {}", peer.public_key)?;
    match name(peer) {
        Some(name) => writeln!(f, " ({name})")?,
        None => f.write_char('\n')?,
    }
    if peer.preshared_key.as_ref().is_some_and(|key| !key.is_zero()) {
        writeln!(f, "  preshared key: (hidden)")?;
    }
    if let Some(endpoint) = &peer.endpoint {
        writeln!(f, "  endpoint: {endpoint}")?;
    }
    let nets = nets(peer);
    writeln!(f, "  allowed ips: {}", if nets.is_empty() { "(none)".to_owned() } else { nets.join(", ") })?;
    match peer.persistent_keepalive {
        Some(seconds) if seconds > 0 => writeln!(f, "  persistent keepalive: every {seconds} seconds"),
        _ => Ok(()),
    }
}

fn name(peer: &PeerUpdate) -> Option<&str> {
    peer.friendly_name.as_deref().filter(|name| !name.is_empty())
}

fn nets(peer: &PeerUpdate) -> Vec<String> {
    peer.allowed_ips.iter().map(|change| change.net.to_string()).collect()
}

fn table(number: u32) -> String {
    if number == Table::MAIN { "main".to_owned() } else { number.to_string() }
}
