//! Two routers inside the test's own process, one at each end of the lab's cable, each other's only peer: for
//! tests that look at metrics or need settings of their own, without a control socket.

use laneway::cli::demo::lab::Lab;
use laneway::config::RouterConfig;
use laneway::metrics::exposition::Exposition;
use laneway::router::start::Router;

use super::router;
use super::tunnel::Family;

/// Starts the left and the right router, with `tune` to change their settings first. Both know where the other
/// one is, over IPv4.
///
/// # Panics
/// When one of them does not start.
pub fn start(lab: &Lab, tune: impl Fn(&mut RouterConfig)) -> [Router; 2] {
    router::pair_with(lab, Family::V4, tune)
}

/// What a router's metrics say now.
///
/// # Panics
/// When they are not in the Prometheus text format.
pub fn metrics(router: &Router) -> Exposition {
    Exposition::parse(&router.metrics_text()).unwrap_or_else(|error| panic!("{error}"))
}
