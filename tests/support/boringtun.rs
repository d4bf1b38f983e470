//! boringtun as a peer, inside the test process: another implementation of the protocol, with its own TUN device
//! in the lab. It serves the usual control socket, so that `wg` can configure it.

use std::mem;
use std::thread;

use boringtun::device::{DeviceConfig, DeviceHandle};
use boringtun::noise::Tunn;
use boringtun::x25519::{self, StaticSecret};
use laneway::cli::demo::lab::Side;
use laneway::wireguard::keys::{PrivateKey, PublicKey};

use super::device_name;
use super::process::output;
use super::tunnel::MTU;

/// A running boringtun in one side of the lab.
pub struct BoringTun {
    /// Its TUN device.
    pub device: String,
    /// Stops its threads and removes its control socket on drop.
    handle: Option<DeviceHandle>,
}

impl BoringTun {
    /// Starts it with a new device. A thread inside the namespace starts its threads, so that they and their
    /// sockets are inside as well.
    ///
    /// # Panics
    /// If it does not come up.
    pub fn start(side: &Side) -> BoringTun {
        let device = device_name("bt");
        let config = DeviceConfig { n_threads: 2, use_connected_socket: false, ..DeviceConfig::default() };
        let started = side.namespace.run(|| DeviceHandle::new(&device, config)).expect("enter a namespace");
        let handle = started.unwrap_or_else(|error| panic!("boringtun: {error}"));
        output(&side.namespace, &["ip", "link", "set", &device, "mtu", &MTU.to_string()], "");
        BoringTun { device, handle: Some(handle) }
    }
}

/// Creates the protocol of a peer of `theirs`, without sockets. `number` distinguishes it from others.
pub fn protocol(own: &PrivateKey, theirs: &PublicKey, number: u32) -> Tunn {
    let (own, theirs) = (StaticSecret::from(*own.as_bytes()), x25519::PublicKey::from(*theirs.as_bytes()));
    Tunn::new(own, theirs, None, None, number, None)
}

impl Drop for BoringTun {
    fn drop(&mut self) {
        // If one of its threads has panicked, the others never exit; a failing test must not wait for them.
        if thread::panicking() {
            mem::forget(self.handle.take());
        }
    }
}
