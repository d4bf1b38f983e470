//! The kernel's own WireGuard as a peer, on kernels that have it.

use laneway::cli::demo::lab::Side;
use laneway::netns::Namespace;

use super::process::{attempt, output};
use super::tunnel::MTU;
use super::{device_name, skip};

/// A WireGuard device of the kernel in one side of the lab.
#[derive(Debug)]
pub struct KernelWireGuard {
    /// The name of the device.
    pub device: String,
    /// The namespace it was created in, for removal.
    namespace: Namespace,
}

/// Returns whether this kernel has WireGuard. Without it, reports the parts that need it as skipped.
///
/// # Panics
/// If `KERNEL_WIREGUARD=1` demands it and the kernel does not have it; the message contains the kernel's error.
pub fn available() -> bool {
    let namespace = Namespace::create().unwrap_or_else(|error| panic!("a network namespace: {error}"));
    let Err(said) = attempt(&namespace, &["ip", "link", "add", "probe", "type", "wireguard"], "") else {
        return true;
    };
    let demanded = std::env::var_os("KERNEL_WIREGUARD").is_some_and(|value| value == "1");
    assert!(!demanded, "KERNEL_WIREGUARD=1, but this kernel has no WireGuard: {said}");
    skip::report("this kernel has no WireGuard; tests/kernels/run boots kernels that do");
    false
}

impl KernelWireGuard {
    /// Creates the device.
    ///
    /// # Panics
    /// If the kernel refuses; the message contains the stderr of `ip`.
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
        // A test may have moved it to another namespace, which is removed along with it.
        let _ = attempt(&self.namespace, &["ip", "link", "delete", &self.device], "");
    }
}
