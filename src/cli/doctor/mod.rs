//! `laneway doctor`: reports what this machine, container or pod offers a router, what is missing, and how to
//! fix it.
//!
//! Features are tested for real where that is safe (a TUN with two queues, a GSO send over loopback) and read
//! from the kernel otherwise. Nothing created for a test remains.
//!
//! - `check`: the result of a check. `remedies`: the known remedies.
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

use check::{Check, Text, Verdict};

/// Check whether this machine can run a router, and how to fix what is missing
#[derive(Clone, Debug, Args)]
pub struct DoctorArgs {
    /// Configuration file to check [default: `LANEWAY_CONFIG`]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// All checks and the verdict.
#[derive(Clone, Debug, Serialize)]
struct Findings {
    /// Whether a router can run here.
    runs: bool,
    checks: Vec<Check>,
}

/// Runs all checks and prints the report. Returns the exit status: 0 if a router can run here, 1 if something
/// it needs is missing.
pub fn run(args: &DoctorArgs) -> u8 {
    let report = examine(args);
    let said = if args.json { json(&report) } else { text(&report) };
    // A closed pipe is not an error; the exit status still carries the verdict.
    let _ = io::stdout().write_all(said.as_bytes());
    u8::from(!report.runs)
}

fn examine(args: &DoctorArgs) -> Findings {
    let (config, configuration) = configuration::check(args.config.as_deref());
    let mut checks = vec![configuration, host::kernel(), host::capabilities()];
    checks.extend(tun::check());
    checks.extend(udp::check(&config));
    checks.push(cpus::plan(&config));
    checks.push(cpus::quota(&config));
    checks.push(host::control_socket(&config.uapi_dir));
    checks.push(host::interface(&config));
    checks.push(host::ipv6(&config));
    checks.push(host::reverse_path_filter());
    checks.extend(host::injection(&config));
    checks.push(host::forwarding());
    Findings { runs: checks.iter().all(|check| check.verdict != Verdict::Missing), checks }
}

fn json(report: &Findings) -> String {
    format!("{:#}\n", serde_json::json!(report))
}

fn text(report: &Findings) -> String {
    let worst = report.checks.iter().map(|check| check.verdict).max();
    let summary = match worst {
        Some(Verdict::Missing) => "A router cannot run here yet.",
        Some(Verdict::Limited) => "A router can run here, with limitations.",
        _ => "A router can run here, with every feature.",
    };
    let print = |(place, check): (usize, &Check)| {
        let same = |earlier: &&Check| check.remedy.is_some() && earlier.remedy == check.remedy;
        let told = report.checks[..place].iter().find(same).map(|earlier| earlier.name);
        Text { check, told }.to_string()
    };
    let checks: String = report.checks.iter().enumerate().map(print).collect();
    format!("{checks}\n{summary}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(verdicts: &[Verdict]) -> Findings {
        let check = |verdict: &Verdict| Check::new("a thing", *verdict, "it is so");
        let checks: Vec<_> = verdicts.iter().map(check).collect();
        Findings { runs: true, checks }
    }

    #[test]
    fn a_remedy_is_told_once() {
        let check = |name| Check::missing(name, "it is so", remedies::NET_ADMIN);
        let other = Check::missing("another", "it is so", remedies::TUN_DEVICE);
        let said = text(&Findings { runs: false, checks: vec![check("a thing"), other, check("a third")] });
        assert_eq!(said.matches(remedies::NET_ADMIN.compose).count(), 1, "{said}");
        assert_eq!(said.matches(remedies::TUN_DEVICE.compose).count(), 1, "{said}");
        assert!(said.contains("as for a thing\n"), "{said}");
    }

    #[test]
    fn the_worst_finding_decides_what_is_said_at_the_end() {
        use Verdict::{Good, Limited, Missing};
        for (verdicts, summary) in [
            (&[Good, Good][..], "with every feature."),
            (&[Good, Limited, Good], "with limitations."),
            (&[Limited, Missing, Good], "cannot run here yet."),
        ] {
            let said = text(&report(verdicts));
            assert!(said.trim_end().ends_with(summary), "{said}");
        }
    }
}
