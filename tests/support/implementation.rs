//! Implementations of WireGuard that the tests run against each other, all configured with `wg`.

use laneway::cli::demo::lab::Side;

use super::binary::Laneway;
use super::boringtun::BoringTun;
use super::kernel::KernelWireGuard;
use super::wireguard_go::WireGuardGo;

/// An implementation of WireGuard.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Laneway, with this many lanes.
    Laneway(&'static str),
    /// wireguard-go.
    WireGuardGo,
    /// boringtun.
    BoringTun,
    /// The kernel's own, if it has one: see [`kernel::available`](super::kernel::available).
    Kernel,
}

/// A running implementation, stopped on drop.
pub enum Running {
    /// Laneway.
    Laneway(Laneway),
    /// wireguard-go.
    WireGuardGo(WireGuardGo),
    /// boringtun.
    BoringTun(BoringTun),
    /// The kernel's own.
    Kernel(KernelWireGuard),
}

impl Kind {
    /// Starts it with a new device.
    ///
    /// # Panics
    /// If it does not come up.
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
    /// Returns the name of its device.
    pub fn device(&self) -> &str {
        match self {
            Running::Laneway(running) => &running.device,
            Running::WireGuardGo(running) => &running.device,
            Running::BoringTun(running) => &running.device,
            Running::Kernel(running) => &running.device,
        }
    }
}
