//! `laneway doctor`: what this machine, container or pod can do for a router, what is missing, and the
//! remedy in the words of whoever runs it.
//!
//! It tries the real thing where it can (a TUN with two queues, a grouped send over loopback) and leaves
//! nothing behind. What it must not try, it reads from the kernel.
//!
//! - `check`: what a check has found, and remedies. `remedies`: the remedies we know.
//! - `configuration`, `tun`, `udp`, `cpus`, `host`: the checks.

mod check;
mod configuration;
mod cpus;
mod host;
mod remedies;
mod tun;
mod udp;

use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use check::{Check, Verdict};

/// Say what this machine can do for a router, what is missing and how to get it
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// The configuration file that the router would run with [default: what `LANEWAY_CONFIG` names]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Everything that was found.
#[derive(Clone, Debug, Serialize)]
struct Report {
    /// Whether a router would run.
    runs: bool,
    checks: Vec<Check>,
}

/// Looks at everything and prints what it found. The exit status: 0 if a router would run here, 1 if
/// something that it needs is missing.
pub fn run(args: &DoctorArgs) -> u8 {
    let report = examine(args);
    let said = if args.json { json(&report) } else { text(&report) };
    // Whoever closed the pipe has read enough; the status still says what was found.
    let _ = io::stdout().write_all(said.as_bytes());
    u8::from(!report.runs)
}

fn examine(args: &DoctorArgs) -> Report {
    let (config, configuration) = configuration::check(args.config.as_deref());
    let mut checks = vec![configuration, host::kernel(), host::capabilities()];
    checks.extend(tun::check());
    checks.extend(udp::check(&config));
    checks.push(cpus::plan(&config));
    checks.push(cpus::quota(&config));
    checks.push(host::control_socket(&config.uapi_dir));
    checks.push(host::ipv6(&config));
    checks.push(host::reverse_path_filter());
    checks.push(host::forwarding());
    Report { runs: checks.iter().all(|check| check.verdict != Verdict::Missing), checks }
}

fn json(report: &Report) -> String {
    format!("{:#}\n", serde_json::json!(report))
}

fn text(report: &Report) -> String {
    let worst = report.checks.iter().map(|check| check.verdict).max();
    let summary = match worst {
        Some(Verdict::Missing) => "A router cannot run here yet.",
        Some(Verdict::Limited) => "A router runs here, with limits.",
        _ => "A router runs here, with all it can use.",
    };
    let checks: String = report.checks.iter().map(ToString::to_string).collect();
    format!("{checks}\n{summary}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdicts: &[Verdict]) -> Report {
        let check = |verdict: &Verdict| Check::new("a thing", *verdict, "it is so");
        let checks: Vec<_> = verdicts.iter().map(check).collect();
        Report { runs: true, checks }
    }

    #[test]
    fn the_worst_finding_decides_what_is_said_at_the_end() {
        use Verdict::{Good, Limited, Missing};
        for (verdicts, summary) in [
            (&[Good, Good][..], "with all it can use."),
            (&[Good, Limited, Good], "with limits."),
            (&[Limited, Missing, Good], "cannot run here yet."),
        ] {
            let said = text(&report(verdicts));
            assert!(said.trim_end().ends_with(summary), "{said}");
        }
    }
}
