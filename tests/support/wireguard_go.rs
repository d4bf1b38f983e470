//! wireguard-go as a peer. It must be installed.

use std::process::Stdio;

use laneway::cli::demo::lab::Side;

use super::process::{Process, command_in, output};
use super::tunnel::MTU;
use super::wg::control_socket;
use super::{device_name, wait_until};

/// A running wireguard-go in one side of the lab.
#[derive(Debug)]
pub struct WireGuardGo {
    /// Its TUN device.
    pub device: String,
    _process: Process,
}

impl WireGuardGo {
    /// Starts it with a device of its own and waits until it can be configured.
    ///
    /// # Panics
    /// If it is not installed or does not come up.
    pub fn start(side: &Side) -> WireGuardGo {
        let device = device_name("wg");
        let mut command = command_in(&side.namespace, "wireguard-go");
        command.args(["-f", &device]);
        // With this variable set, even to an empty value, it restarts itself forever.
        command.env_remove("WG_PROCESS_FOREGROUND");
        // Its banner would show up between the test results.
        let mut process = Process::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
        let socket = control_socket(&device);
        wait_until("wireguard-go", || {
            assert!(
                process.is_running(),
                "wireguard-go exited during the start: is it installed, and may it open /dev/net/tun?"
            );
            socket.exists()
        });
        output(&side.namespace, &["ip", "link", "set", &device, "mtu", &MTU.to_string()], "");
        WireGuardGo { device, _process: process }
    }
}
