//! `laneway demo`: runs TCP through two routers on this machine and prints a table of the results.
//!
//! Needs no configuration or installation. [`traffic`] sends data into the TUN device in one namespace, the router
//! there seals it, it crosses the cable of the [`lab`], the other router opens it, and [`traffic`] verifies it.
//! Traffic flows left to right for half of the time, then right to left, so that both routers show both
//! directions. Then [`report`] reads the routers' metrics and [`table`] prints them.
//!
//! Both routers, both namespaces and the generator live in this process and have no names outside it, so nothing
//! remains when the process ends, however it ends.

pub mod interrupt;
pub mod lab;
pub mod pattern;
pub mod progress;
pub mod report;
pub mod routers;
pub mod table;
pub mod traffic;

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use clap::{Args, value_parser};
use thiserror::Error;

use self::interrupt::Interrupt;
use self::lab::{Lab, LabError};
use self::progress::Display;
use self::report::Report;
use self::table::ReportTable;
use self::traffic::{Limit, Outcome, PATIENCE, Progress, TrafficError, TrafficPlan};
use crate::metrics::exposition::{Exposition, ExpositionError};

/// Names of the two routers in the table and JSON. Traffic goes from the first to the second, then back.
pub const ROUTERS: [&str; 2] = ["left", "right"];

/// IPv4 addresses of the two routers inside the tunnel, in a /24.
pub const INSIDE4: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 2)];

/// IPv6 addresses of the two routers inside the tunnel, in a /64.
pub const INSIDE6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2)];

/// Run TCP through two routers on this machine and print a table of the results
///
/// Needs no configuration and leaves nothing behind. Requires root or a user namespace.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Concurrent TCP connections [default: 4, or one per queue if that is more]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=256))]
    streams: Option<u16>,

    /// Seconds to send for, half of them in each direction
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(1..=3600))]
    seconds: u32,

    /// Queues (lanes) of each router [default: a quarter of the CPUs, at least 1]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=64))]
    queues: Option<u16>,

    /// Keep both routers up for this long after the result
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    hold: u32,

    /// Serve the left router's metrics on this address, in the current network namespace
    #[arg(long, value_name = "ADDR:PORT")]
    metrics_addr: Option<SocketAddr>,

    /// Print the result as one JSON object on one line
    #[arg(long)]
    json: bool,
}

/// A running router as the demo sees it. Dropping it stops the router.
pub trait LabRouter {
    /// Returns the metrics in the Prometheus text format, up to date with the last packet handled.
    fn metrics_text(&self) -> String;
}

/// How a successful demo ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DemoEnd {
    /// The demo ran to its end, and all data arrived.
    Done,
    /// A signal, such as Ctrl-C, ended the demo early.
    Interrupted,
}

/// Errors of the demo.
#[derive(Debug, Error)]
pub enum DemoError {
    /// The lab cannot be created.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// The address in `--metrics-addr` cannot be used.
    #[error("cannot listen on {address} for metrics: {cause}. Choose a free address with --metrics-addr")]
    Metrics {
        /// The requested address.
        address: SocketAddr,
        /// The system error.
        cause: io::Error,
    },
    /// A router did not start.
    #[error("cannot start a router: {0}")]
    Start(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Data was lost or corrupted.
    #[error(transparent)]
    Traffic(#[from] TrafficError),
    /// The streams connected, but no byte arrived.
    #[error("no data crossed the tunnel: the streams connected, but no byte arrived")]
    NothingCrossed,
    /// The router's metrics cannot be parsed.
    #[error(transparent)]
    Exposition(#[from] ExpositionError),
    /// The signal thread cannot be started, or standard output failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl DemoArgs {
    /// Returns the number of concurrent TCP connections.
    pub fn streams(&self) -> u16 {
        self.streams.unwrap_or_else(|| self.queues().max(4))
    }

    /// Returns the number of queues of each router. By default one per four CPUs: a queue has two workers, and
    /// there are two routers.
    pub fn queues(&self) -> u16 {
        self.queues.unwrap_or_else(|| {
            let cpus = thread::available_parallelism().map_or(1, usize::from);
            (cpus / 4).clamp(1, 64) as u16
        })
    }
}

/// Runs the demo. `start` starts the routers named in [`ROUTERS`] on the left and right side of the lab; its
/// listener, if any, is for the first router's metrics. Must be called while the process has a single thread.
///
/// # Errors
/// The lab or the routers cannot be set up, nothing crossed, or a byte was wrong.
pub fn run<R, E>(
    args: &DemoArgs,
    start: impl FnOnce(&Lab, &DemoArgs, Option<TcpListener>) -> Result<[R; 2], E>,
) -> Result<DemoEnd, DemoError>
where
    R: LabRouter,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let listener = args
        .metrics_addr
        .map(|address| TcpListener::bind(address).map_err(|cause| DemoError::Metrics { address, cause }));
    let listener = listener.transpose()?;
    lab::gain_privilege()?;
    let interrupt = Interrupt::listen()?;
    let lab = Lab::create()?;
    let routers = start(&lab, args, listener).map_err(|cause| DemoError::Start(cause.into()))?;
    if let Some(address) = args.metrics_addr {
        eprintln!("metrics of the {} router: http://{address}/metrics", ROUTERS[0]);
    }

    let ending = measure(args, &interrupt, &lab, &routers, &mut io::stdout().lock())?;
    if args.hold == 0 || interrupt.is_raised() {
        return Ok(ending);
    }
    eprintln!("both routers stay up for {} s; press Ctrl-C to stop them", args.hold);
    interrupt.wait(Duration::from_secs(args.hold.into()));
    Ok(if interrupt.is_raised() { DemoEnd::Interrupted } else { DemoEnd::Done })
}

/// Runs traffic through the routers and writes the result to `out`.
fn measure<R: LabRouter>(
    args: &DemoArgs,
    interrupt: &Interrupt,
    lab: &Lab,
    routers: &[R; 2],
    out: &mut impl Write,
) -> Result<DemoEnd, DemoError> {
    let time = Duration::from_secs(args.seconds.into());
    let mut display = Display::new(time);
    let outcome = there_and_back(args, interrupt, lab, time, |progress| display.show(progress));
    display.finish();
    let outcome = match outcome {
        // An interrupt before the first connection is up is not a failure.
        Err(TrafficError::Connect { .. }) if interrupt.is_raised() => return Ok(DemoEnd::Interrupted),
        outcome => outcome?,
    };
    if outcome.verified == 0 && !interrupt.is_raised() {
        return Err(DemoError::NothingCrossed);
    }

    let [first, second] = routers.each_ref().map(|router| Exposition::parse(&router.metrics_text()));
    let metrics = [(ROUTERS[0], first?), (ROUTERS[1], second?)];
    let report = Report::new(&outcome, args.streams(), &metrics);
    if args.json {
        serde_json::to_writer(&mut *out, &report).map_err(io::Error::from)?;
        writeln!(out)?;
    } else {
        write!(out, "{}", ReportTable(&report))?;
    }
    out.flush()?;
    Ok(if interrupt.is_raised() { DemoEnd::Interrupted } else { DemoEnd::Done })
}

/// Sends left to right for half of `time`, then right to left for the other half.
fn there_and_back(
    args: &DemoArgs,
    interrupt: &Interrupt,
    lab: &Lab,
    time: Duration,
    mut watch: impl FnMut(Progress),
) -> Result<Outcome, TrafficError> {
    let there = TrafficPlan {
        from: &lab.left.namespace,
        to: &lab.right.namespace,
        address: IpAddr::V4(INSIDE4[1]),
        streams: args.streams(),
        limit: Limit::Time(time / 2),
        patience: PATIENCE,
    };
    let back = TrafficPlan { from: there.to, to: there.from, address: IpAddr::V4(INSIDE4[0]), ..there };
    let outcome = traffic::run(&there, interrupt.flag(), &mut watch)?;
    if interrupt.is_raised() {
        return Ok(outcome);
    }
    let returned = traffic::run(&back, interrupt.flag(), |progress| {
        watch(Progress {
            elapsed: outcome.elapsed + progress.elapsed,
            verified: outcome.verified + progress.verified,
        });
    })?;
    Ok(outcome.then(returned))
}

#[cfg(test)]
mod tests;
