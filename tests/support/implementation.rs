//! Implementations of WireGuard that the tests run against each other, all of them served by `wg`.

use laneway::cli::demo::lab::Side;

use super::binary::Laneway;
use super::boringtun::BoringTun;
use super::kernel::KernelWireGuard;
use super::wireguard_go::WireGuardGo;

/// An implementation of WireGuard.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// The command under test, with this many lanes.
    Laneway(&'static str),
    /// The Go program.
    WireGuardGo,
    /// The Rust library.
    BoringTun,
    /// The kernel's own, which not every kernel has: see [`kernel::available`](super::kernel::available).
    Kernel,
}

/// A running one. Dropping it ends it.
pub enum Running {
    /// The command under test.
    Laneway(Laneway),
    /// The Go program.
    WireGuardGo(WireGuardGo),
    /// The Rust library.
    BoringTun(BoringTun),
    /// The kernel's own.
    Kernel(KernelWireGuard),
}

impl Kind {
    /// Starts it with a device of its own.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(self, side: &Side) -> Running {
        match self {
            Kind::Laneway(lanes) => Running::Laneway(Laneway::start(side, &[("LANEWAY_QUEUES", lanes)])),
            Kind::WireGuardGo => Running::WireGuardGo(WireGuardGo::start(side)),
            Kind::BoringTun => Running::BoringTun(BoringTun::start(side)),
            Kind::Kernel => Running::Kernel(KernelWireGuard::start(side)),
        }
    }
}

impl Running {
    /// The name of its device.
    pub fn device(&self) -> &str {
        match self {
            Running::Laneway(running) => &running.device,
            Running::WireGuardGo(running) => &running.device,
            Running::BoringTun(running) => &running.device,
            Running::Kernel(running) => &running.device,
        }
    }
}
