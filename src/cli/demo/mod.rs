//! `laneway demo`: two routers, joined back to back on this machine, carry TCP, and a table says how well.
//!
//! Nothing needs to be configured or installed. The path of a byte: [`traffic`] sends it into one
//! namespace's TUN device, the router there seals it, it crosses the cable of the [`lab`], the other router
//! opens it, and [`traffic`] checks it. Half of the time traffic goes to the right, then to the left, so that
//! both routers show both of their ways. Then [`report`] reads their metrics and [`table`] prints them.
//!
//! Both routers, both namespaces and the generator live in this one process, and nothing of it has a name outside,
//! so nothing is left when the process ends, however it ends.

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
use self::table::Table;
use self::traffic::{Limit, Outcome, PATIENCE, Plan, Progress, TrafficError};
use crate::cli::exposition::{Exposition, ExpositionError};

/// The names of the two routers in table and JSON. Traffic goes from the first to the second, and then back.
pub const ROUTERS: [&str; 2] = ["left", "right"];

/// The IPv4 addresses of the two routers inside the tunnel, in a /24.
pub const INSIDE4: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 0, 1), Ipv4Addr::new(10, 77, 0, 2)];

/// The IPv6 addresses of the two routers inside the tunnel, in a /64.
pub const INSIDE6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2)];

/// Let two routers on this machine carry TCP, and print a table that says how well.
///
/// Needs no configuration and leaves nothing behind. Needs root or a user namespace.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// TCP connections at once [default: 4, or one per queue if that is more]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=256))]
    streams: Option<u16>,

    /// How long to send, half of the time each way
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = value_parser!(u32).range(1..=3600))]
    seconds: u32,

    /// Queues (lanes) of each router [default: a quarter of the CPUs, at least 1]
    #[arg(long, value_name = "N", value_parser = value_parser!(u16).range(1..=64))]
    queues: Option<u16>,

    /// Keep both routers up so many seconds after the result
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    hold: u32,

    /// Serve the left router's metrics here, on this machine's own network
    #[arg(long, value_name = "ADDR:PORT")]
    metrics_addr: Option<SocketAddr>,

    /// Print the result as one JSON object on one line
    #[arg(long)]
    json: bool,
}

/// A running router as the demo sees it. Dropping it stops it.
pub trait Router {
    /// Its metrics in the Prometheus text format, complete up to the last packet it has handled.
    fn metrics_text(&self) -> String;
}

/// How a demo ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All that was sent has arrived.
    Done,
    /// Somebody pressed Ctrl-C.
    Interrupted,
}

/// Why a demo failed.
#[derive(Debug, Error)]
pub enum DemoError {
    /// There is no laboratory.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// `--metrics-addr` cannot be had.
    #[error("cannot listen on {address} for metrics: {cause}. Choose a free address with --metrics-addr")]
    Metrics {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the kernel said.
        cause: io::Error,
    },
    /// A router did not start.
    #[error("cannot start a router: {0}")]
    Start(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Something did not cross, or not unchanged.
    #[error(transparent)]
    Traffic(#[from] TrafficError),
    /// The streams were open, and no byte came.
    #[error("nothing crossed: the streams were open, and not one byte arrived")]
    NothingCrossed,
    /// Our own metrics cannot be read.
    #[error(transparent)]
    Exposition(#[from] ExpositionError),
    /// No signal thread, or standard output is closed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl DemoArgs {
    /// TCP connections at once.
    pub fn streams(&self) -> u16 {
        self.streams.unwrap_or_else(|| self.queues().max(4))
    }

    /// Queues of each router. A queue keeps two workers busy, and there are two routers: four CPUs.
    pub fn queues(&self) -> u16 {
        self.queues.unwrap_or_else(|| {
            let cpus = thread::available_parallelism().map_or(1, usize::from);
            (cpus / 4).clamp(1, 64) as u16
        })
    }
}

/// Runs the demo, with `start` to start the routers named in [`ROUTERS`] on the left and the right side of the
/// lab. The listener, if there is one, is for the first router's metrics. To be called while the process has
/// one thread.
///
/// # Errors
/// When the lab or the routers cannot be set up, nothing crossed, or a byte was wrong.
pub fn run<R, E>(
    args: &DemoArgs,
    start: impl FnOnce(&Lab, &DemoArgs, Option<TcpListener>) -> Result<[R; 2], E>,
) -> Result<Ending, DemoError>
where
    R: Router,
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
        eprintln!("metrics of the {}: http://{address}/metrics", ROUTERS[0]);
    }

    let ending = measure(args, &interrupt, &lab, &routers, &mut io::stdout().lock())?;
    if args.hold == 0 || interrupt.is_raised() {
        return Ok(ending);
    }
    eprintln!("both routers stay up for {} s; Ctrl-C ends it", args.hold);
    interrupt.wait(Duration::from_secs(args.hold.into()));
    Ok(if interrupt.is_raised() { Ending::Interrupted } else { Ending::Done })
}

/// Pushes traffic through the routers and writes the result to `out`.
fn measure<R: Router>(
    args: &DemoArgs,
    interrupt: &Interrupt,
    lab: &Lab,
    routers: &[R; 2],
    out: &mut impl Write,
) -> Result<Ending, DemoError> {
    let time = Duration::from_secs(args.seconds.into());
    let mut display = Display::new(time);
    let outcome = there_and_back(args, interrupt, lab, time, |progress| display.show(progress));
    display.finish();
    let outcome = match outcome {
        // Whoever stops a demo before the first connection is up has not found a fault.
        Err(TrafficError::Connect { .. }) if interrupt.is_raised() => return Ok(Ending::Interrupted),
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
        write!(out, "{}", Table(&report))?;
    }
    out.flush()?;
    Ok(if interrupt.is_raised() { Ending::Interrupted } else { Ending::Done })
}

/// Pushes traffic to the right for half of `time`, and to the left for the other half.
fn there_and_back(
    args: &DemoArgs,
    interrupt: &Interrupt,
    lab: &Lab,
    time: Duration,
    mut watch: impl FnMut(Progress),
) -> Result<Outcome, TrafficError> {
    let there = Plan {
        from: &lab.left.namespace,
        to: &lab.right.namespace,
        address: IpAddr::V4(INSIDE4[1]),
        streams: args.streams(),
        limit: Limit::Time(time / 2),
        patience: PATIENCE,
    };
    let back = Plan { from: there.to, to: there.from, address: IpAddr::V4(INSIDE4[0]), ..there };
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
