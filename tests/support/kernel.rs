//! The kernel's own WireGuard as a peer, where the kernel has it.

use laneway::cli::demo::lab::Side;
use laneway::netns::Namespace;

use super::device_name;
use super::process::{attempt, output};
use super::tunnel::MTU;

/// A WireGuard device of the kernel in one side of the lab.
#[derive(Debug)]
pub struct KernelWireGuard {
    /// Its name.
    pub device: String,
    /// Where it is, to take it away.
    namespace: Namespace,
}

/// Whether this kernel has WireGuard. If it has not, tests leave it out and say so; `KERNEL_WIREGUARD=1`
/// makes that a failure.
///
/// # Panics
/// When it is demanded and not there; the message holds what the kernel said.
pub fn available() -> bool {
    let namespace = Namespace::create().unwrap_or_else(|error| panic!("a network namespace: {error}"));
    let Err(said) = attempt(&namespace, &["ip", "link", "add", "probe", "type", "wireguard"], "") else {
        return true;
    };
    let demanded = std::env::var_os("KERNEL_WIREGUARD").is_some_and(|value| value == "1");
    assert!(!demanded, "this kernel has no WireGuard: {said}");
    eprintln!("left out: this kernel has no WireGuard: tests/kernels/run starts ones that have");
    false
}

impl KernelWireGuard {
    /// Makes the device.
    ///
    /// # Panics
    /// When the kernel does not; the message holds what it said.
    pub fn start(side: &Side) -> KernelWireGuard {
        let device = device_name("kw");
        let mtu = MTU.to_string();
        output(&side.namespace, &["ip", "link", "add", &device, "mtu", &mtu, "type", "wireguard"], "");
        let namespace = side.namespace.try_clone().expect("a descriptor");
        KernelWireGuard { device, namespace }
    }
}

impl Drop for KernelWireGuard {
    fn drop(&mut self) {
        // A test may have moved it, and its namespace takes it along in the end.
        let _ = attempt(&self.namespace, &["ip", "link", "delete", &self.device], "");
    }
}
