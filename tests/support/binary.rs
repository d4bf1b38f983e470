//! The `laneway` command, started as a user starts it.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use laneway::cli::demo::lab::Side;

use super::process::{Process, command_in};
use super::wg::control_socket;
use super::{DEADLINE, device_name, wait_until};

/// The command under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_laneway");

/// A running `laneway -f IFNAME` in one side of the lab.
#[derive(Debug)]
pub struct Laneway {
    /// Its TUN device.
    pub device: String,
    /// The running program.
    pub process: Process,
}

impl Laneway {
    /// Starts it with a new device and waits until it can be configured. `environment` holds names and values of
    /// variables.
    ///
    /// # Panics
    /// If it does not come up; the message contains its stderr.
    pub fn start(side: &Side, environment: &[(&str, &str)]) -> Laneway {
        Self::start_as(side, &device_name("lw"), environment)
    }

    /// Like [`start`](Self::start), with a name for the device.
    ///
    /// # Panics
    /// If it does not come up; the message contains its stderr.
    pub fn start_as(side: &Side, device: &str, environment: &[(&str, &str)]) -> Laneway {
        let mut command = command(side, &["-f", device], environment);
        let mut process = Process::start_quietly(&mut command);
        wait_until("laneway", || {
            assert!(process.is_running(), "laneway exited during the start: {}", process.said());
            serves(device)
        });
        Laneway { device: device.to_owned(), process }
    }

    /// Returns the path of its control socket.
    pub fn socket(&self) -> PathBuf {
        control_socket(&self.device)
    }
}

/// Returns whether a process answers at this device's control socket. The file alone proves nothing: it may be
/// left over from a killed process.
pub fn serves(device: &str) -> bool {
    let ask = || -> io::Result<bool> {
        let mut stream = UnixStream::connect(control_socket(device))?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.write_all(b"get=1\n\n")?;
        Ok(stream.read(&mut [0; 1])? > 0)
    };
    ask().is_ok_and(|answers| answers)
}

/// Returns the command with these arguments and variables, for one side of the lab. It does not inherit
/// `LANEWAY_*` variables of the test process.
pub fn command(side: &Side, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = command_in(&side.namespace, BINARY);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LANEWAY_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).envs(environment.iter().copied()).stdin(Stdio::null());
    command
}
