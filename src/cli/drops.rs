//! `laneway drops`: how many packets a router has dropped and why; with `--follow`, which packets it drops now.
//!
//! Samples and counters both come from the control socket. Each reading of samples allows the router some more; what was
//! counted and not sampled is shown as a number, so nothing is dropped unseen.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use clap::Args;

use super::chosen::{self, ChosenError};
use super::output;
use crate::config::ConfigError;
use crate::config::env::Environment;
use crate::drops::DropReason;
use crate::metrics::exposition::Exposition;
use crate::uapi::client::{self, ClientError};

/// Show what a router drops, and why
///
/// Without --follow, the packets dropped since the start, by direction and reason. With it, packets as they are dropped:
/// addresses, ports, protocol, length in bytes and peer, but no payload. These are samples, at most 64 of each reason
/// four times a second; every second, the packets that were dropped without a sample are shown as numbers.
#[derive(Clone, Debug, Args)]
pub struct DropsArgs {
    /// Interface of the router; may be left out if there is only one
    #[arg(value_name = "IFNAME")]
    interface: Option<String>,

    /// Show packets as they are dropped, until interrupted
    #[arg(long, short)]
    follow: bool,

    /// Show only this reason; may be repeated
    #[arg(long, value_name = "REASON", value_parser = reasons(), hide_possible_values = true)]
    reason: Vec<String>,
}

/// Errors of `laneway drops`.
#[derive(Debug, thiserror::Error)]
pub enum DropsError {
    /// The environment is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// There is not exactly one interface to choose.
    #[error(transparent)]
    Chosen(#[from] ChosenError),
    /// The router does not answer on its control socket.
    #[error(transparent)]
    Socket(#[from] ClientError),
    /// The interface is not served by a Laneway with this command.
    #[error("{0}: served by another WireGuard or an older Laneway, which does not tell what it drops")]
    Foreign(String),
    /// Standard output failed.
    #[error("cannot write to standard output: {0}")]
    Print(#[source] io::Error),
}

/// Interval at which samples are read.
const INTERVAL: Duration = Duration::from_millis(250);

/// Number of readings of samples for one of the counters, which are a whole page of metrics.
const READINGS: u32 = 4;

fn reasons() -> clap::builder::PossibleValuesParser {
    DropReason::ALL.iter().map(|reason| reason.label()).into()
}

/// Prints what the router drops.
///
/// # Errors
/// See [`DropsError`].
pub fn run(args: &DropsArgs) -> Result<(), DropsError> {
    let (directory, interface) =
        chosen::interface(Environment::of_process()?.uapi_dir, args.interface.as_deref())?;
    let router = SampledRouter { directory: &directory, interface: &interface };
    let filter = |cause: &DropCause| args.reason.is_empty() || args.reason.contains(&cause.reason);
    if args.follow {
        return follow(&router, filter);
    }
    let counts = router.counts()?;
    let mut out = String::new();
    for (cause, packets) in counts.iter().filter(|(cause, packets)| **packets > 0 && filter(cause)) {
        let _ = writeln!(out, "{cause}: {packets} packets");
    }
    if out.is_empty() {
        // Not on standard output, which programs read.
        eprintln!(
            "{interface}: no packets dropped{}",
            if args.reason.is_empty() { "" } else { " for this reason" }
        );
    }
    print(&out).map(drop)
}

/// Prints drops until standard output is closed.
fn follow(router: &SampledRouter<'_>, filter: impl Fn(&DropCause) -> bool) -> Result<(), DropsError> {
    // In this order, what is dropped in between counts as not shown.
    let mut account = Account::new(router.counts()?);
    let mut next = router.samples(None)?.0;
    for reading in 1.. {
        if output::is_closed_within(INTERVAL) {
            break;
        }
        // The counters come first: what they count has left its sample before.
        let counts = if reading % READINGS == 0 { Some(router.counts()?) } else { None };
        let (after, samples) = router.samples(Some(next))?;
        next = after;
        let mut out = String::new();
        for line in samples.lines() {
            let Some((cause, packets)) = read(line) else { continue };
            if filter(&cause) {
                out.extend([line, "\n"]);
            }
            account.shown(cause, packets);
        }
        for (cause, packets) in counts.map(|counts| account.settle(counts)).unwrap_or_default() {
            if filter(&cause) {
                let _ = writeln!(out, "{cause}: {packets} packets not shown");
            }
        }
        if !print(&out)? {
            break;
        }
    }
    Ok(())
}

/// Prints `text`. Returns whether anybody still reads.
fn print(text: &str) -> Result<bool, DropsError> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        printed => printed.map(|()| true).map_err(DropsError::Print),
    }
}

/// A router to ask.
struct SampledRouter<'a> {
    directory: &'a Path,
    interface: &'a str,
}

impl SampledRouter<'_> {
    fn foreign(&self) -> DropsError {
        DropsError::Foreign(self.interface.to_owned())
    }

    /// Returns the samples after number `after`, a line each, and the number to continue from.
    fn samples(&self, after: Option<u64>) -> Result<(u64, String), DropsError> {
        let answer = client::drops(self.directory, self.interface, after)?;
        let (next, samples) = answer.as_deref().and_then(continued).ok_or_else(|| self.foreign())?;
        Ok((next, samples.to_owned()))
    }

    /// Returns the number of packets dropped since the start.
    fn counts(&self) -> Result<DropCounts, DropsError> {
        let metrics = client::metrics(self.directory, self.interface)?.ok_or_else(|| self.foreign())?;
        let metrics = Exposition::parse(&metrics).map_err(|_| self.foreign())?;
        let mut counts = DropCounts::new();
        for sample in metrics.select("laneway_dropped_packets_total", &[]) {
            let label = |name| sample.label(name).unwrap_or_default().to_owned();
            let cause = DropCause { direction: label("direction"), reason: label("reason") };
            // Counters are whole numbers and never negative.
            *counts.entry(cause).or_default() += (sample.value as i64).cast_unsigned();
        }
        Ok(counts)
    }
}

/// Splits an answer into the number to continue from and the samples.
fn continued(answer: &str) -> Option<(u64, &str)> {
    let (next, samples) = answer.split_once('\n')?;
    Some((next.strip_prefix("next=")?.parse().ok()?, samples))
}

/// Direction and reason of drops.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct DropCause {
    direction: String,
    reason: String,
}

impl fmt::Display for DropCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.direction, self.reason)
    }
}

/// Dropped packets by cause.
type DropCounts = BTreeMap<DropCause, u64>;

/// Finds the packets that were counted and not shown.
struct Account {
    before: DropCounts,
    /// Packets counted less packets shown; negative while the counters lag behind.
    open: BTreeMap<DropCause, i64>,
}

impl Account {
    fn new(before: DropCounts) -> Self {
        Account { before, open: BTreeMap::new() }
    }

    fn shown(&mut self, cause: DropCause, packets: i64) {
        *self.open.entry(cause).or_default() -= packets;
    }

    /// Takes the current counts. Returns the packets counted before them and not shown.
    fn settle(&mut self, counts: DropCounts) -> DropCounts {
        for (cause, count) in &counts {
            let before = self.before.get(cause).copied().unwrap_or_default();
            *self.open.entry(cause.clone()).or_default() += count.saturating_sub(before).cast_signed();
        }
        self.before = counts;
        let missing = self.open.extract_if(.., |_, packets| *packets > 0);
        missing.map(|(cause, packets)| (cause, packets.cast_unsigned())).collect()
    }
}

/// Returns the cause and the number of packets of a sample.
fn read(line: &str) -> Option<(DropCause, i64)> {
    let (cause, packet) = line.split_once(": ")?;
    let (direction, reason) = cause.split_once(' ')?;
    let packets = packet.rsplit_once(", ").and_then(|(_, last)| last.strip_suffix(" packets"));
    let packets = packets.map_or(Ok(1), str::parse).ok()?;
    Some((DropCause { direction: direction.to_owned(), reason: reason.to_owned() }, packets))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(direction: &str, reason: &str) -> DropCause {
        DropCause { direction: direction.to_owned(), reason: reason.to_owned() }
    }

    #[test]
    fn samples_are_read_back() {
        for (line, told) in [
            ("outbound no_route: udp 10.0.0.1:1 > 10.0.0.2:2, 34 bytes", (cause("outbound", "no_route"), 1)),
            ("inbound replay: datagram from [::1]:9, 12 bytes, 7 packets", (cause("inbound", "replay"), 7)),
        ] {
            assert_eq!(read(line), Some(told));
        }
        assert_eq!(read("errno=0"), None);
        assert_eq!(continued("next=7\na: b\n"), Some((7, "a: b\n")));
        assert_eq!(continued("errno=1\n"), None);
    }

    #[test]
    fn what_is_not_shown_is_told_once_and_lagging_counters_are_no_loss() {
        let replay = || cause("inbound", "replay");
        let counts = |packets| DropCounts::from([(replay(), packets)]);
        let mut account = Account::new(counts(10));
        account.shown(replay(), 3);
        assert_eq!(account.settle(counts(11)), DropCounts::new(), "two of the three are not counted yet");
        account.shown(replay(), 1);
        assert_eq!(account.settle(counts(19)), counts(5));
        assert_eq!(account.settle(counts(19)), DropCounts::new());
        assert_eq!(account.settle(counts(2)), DropCounts::new(), "a restarted router");
        assert_eq!(account.settle(counts(3)), counts(1));
    }
}
