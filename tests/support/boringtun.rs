//! boringtun as a peer, inside the test's own process: another implementation of the protocol, with a TUN device
//! of its own in the lab. It serves the usual control socket, so the `wg` tool configures it.

use std::mem;
use std::thread;

use boringtun::device::{DeviceConfig, DeviceHandle};
use laneway::cli::demo::lab::Side;

use super::device_name;
use super::process::output;
use super::tunnel::MTU;

/// A running boringtun in one side of the lab.
pub struct BoringTun {
    /// Its TUN device.
    pub device: String,
    /// Dropping it ends its threads and removes its control socket.
    handle: Option<DeviceHandle>,
}

impl BoringTun {
    /// Starts it with a device of its own. Its threads are started by one that is inside the namespace, so
    /// they are inside too, with all sockets that they will open.
    ///
    /// # Panics
    /// When it does not come up.
    pub fn start(side: &Side) -> BoringTun {
        let device = device_name("bt");
        let config = DeviceConfig { n_threads: 2, use_connected_socket: false, ..DeviceConfig::default() };
        let started = side.namespace.run(|| DeviceHandle::new(&device, config)).expect("enter a namespace");
        let handle = started.unwrap_or_else(|error| panic!("boringtun: {error}"));
        output(&side.namespace, &["ip", "link", "set", &device, "mtu", &MTU.to_string()], "");
        BoringTun { device, handle: Some(handle) }
    }
}

impl Drop for BoringTun {
    fn drop(&mut self) {
        // One of its threads may have panicked too, and then the others never end: a test that fails must not
        // wait for them.
        if thread::panicking() {
            mem::forget(self.handle.take());
        }
    }
}
