//! UAPI client: reads the status of a running device, Laneway's or another implementation's.

use std::fs;
use std::io::{self, BufRead, BufReader, Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use zeroize::Zeroizing;

use crate::config::update::{DeviceStatus, PeerStatus, parse_network, parse_scoped_address};
use crate::wireguard::keys::{PresharedKey, PrivateKey, PublicKey};

/// Time limit for a device's answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Maximum length of an answer in bytes: some 100,000 peers.
const MAX_ANSWER: u64 = 64 << 20;

/// Maximum length of a status line in bytes. Valid lines are shorter than 100.
const MAX_LINE: u64 = 256;

/// Errors when querying a device.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No process serves this interface.
    #[error("{}: {}: {source}", path.display(), unserved(source))]
    Unserved {
        /// The socket.
        path: PathBuf,
        /// The system error.
        source: io::Error,
    },
    /// The device closed the connection or did not answer in time.
    #[error("{}: no answer: {source}", path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// The system error.
        source: io::Error,
    },
    /// The device answered with an error.
    #[error("{}: {errno}", path.display())]
    Refused {
        /// The socket.
        path: PathBuf,
        /// The error.
        errno: Errno,
    },
    /// The answer is not a valid status.
    #[error("{}: invalid answer: not a status", path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
    },
}

/// Returns what a failure to connect means.
fn unserved(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "this user may not query the interface; run as root or as its user"
        }
        _ => "no userspace WireGuard serves this interface",
    }
}

/// Returns the names of the interfaces with a live socket in `directory`, sorted. A socket that this user may not
/// connect to counts as live. A missing directory counts as empty.
///
/// # Errors
/// The directory cannot be read.
pub fn interfaces(directory: &Path) -> io::Result<Vec<String>> {
    sockets(directory, |connected| match connected {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    })
}

/// Returns the names of the interfaces with a socket in `directory` that no process serves, sorted. A directory that cannot
/// be read counts as empty.
pub fn unserved_interfaces(directory: &Path) -> Vec<String> {
    let is_dead = |connected: io::Result<UnixStream>| {
        connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    };
    sockets(directory, is_dead).unwrap_or_default()
}

/// Returns the names of the interfaces in `directory` whose sockets are `wanted`, by the result of connecting.
fn sockets(directory: &Path, wanted: impl Fn(io::Result<UnixStream>) -> bool) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        let file = entry.file_name();
        let Some(name) = file.as_bytes().strip_suffix(b".sock") else { continue };
        if !name.is_empty() && wanted(UnixStream::connect(entry.path())) {
            names.push(String::from_utf8_lossy(name).into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Returns the configuration and counters of `interface`.
///
/// # Errors
/// See [`ClientError`].
pub fn status(directory: &Path, interface: &str) -> Result<DeviceStatus, ClientError> {
    let path = super::socket_path(directory, interface);
    let stream = ask(&path, "get=1\n\n")?;
    match read_status(BufReader::new(stream.take(MAX_ANSWER))) {
        Ok(Some(Ok(status))) => Ok(status),
        Ok(Some(Err(errno))) => Err(ClientError::Refused { path, errno }),
        Ok(None) => Err(ClientError::Answer { path }),
        Err(source) => Err(ClientError::NoAnswer { path, source }),
    }
}

/// Returns the metrics of `interface` in the Prometheus text format, or `None` if it is not served by Laneway or
/// the connection was lost.
///
/// # Errors
/// No process serves the interface, or the request cannot be sent.
pub fn metrics(directory: &Path, interface: &str) -> Result<Option<String>, ClientError> {
    text(directory, interface, "get=metrics\n\n")
}

/// Begins to sample the packets that `interface` drops, or returns the samples after number `after`: `next=NUMBER`, from
/// where the next call continues, then a line for each. Returns `None` if it is not served by a Laneway that can tell, or
/// the connection was lost.
///
/// # Errors
/// No process serves the interface, or the request cannot be sent.
pub fn drops(directory: &Path, interface: &str, after: Option<u64>) -> Result<Option<String>, ClientError> {
    let after = after.map(|after| format!("after={after}\n")).unwrap_or_default();
    text(directory, interface, &format!("get=drops\n{after}\n"))
}

fn text(directory: &Path, interface: &str, request: &str) -> Result<Option<String>, ClientError> {
    let stream = ask(&super::socket_path(directory, interface), request)?;
    let mut answer = String::new();
    let read = stream.take(MAX_ANSWER).read_to_string(&mut answer);
    let text = answer.strip_suffix("errno=0\n\n").filter(|text| !text.is_empty());
    Ok(text.filter(|_| read.is_ok()).map(str::to_owned))
}

fn ask(path: &Path, request: &str) -> Result<UnixStream, ClientError> {
    let mut stream = UnixStream::connect(path)
        .map_err(|source| ClientError::Unserved { path: path.to_owned(), source })?;
    let mut send = || {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        stream.shutdown(Shutdown::Write)
    };
    send().map_err(|source| ClientError::NoAnswer { path: path.to_owned(), source })?;
    Ok(stream)
}

/// Reads an answer to `get=1` up to its `errno` line. Returns `None` if it is not a valid answer. Ignores unknown
/// keys, which other implementations may send.
///
/// # Errors
/// Reading from `answer` failed.
pub fn read_status(mut answer: impl BufRead) -> io::Result<Option<Result<DeviceStatus, Errno>>> {
    let mut status = DeviceStatus::default();
    // As in the server, the buffer never reallocates, which would leave copies of keys in memory.
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_LINE as usize));
    loop {
        line.clear();
        answer.by_ref().take(MAX_LINE).read_until(b'\n', &mut line)?;
        let text = line.strip_suffix(b"\n").and_then(|line| std::str::from_utf8(line).ok());
        let Some((key, value)) = text.and_then(|text| text.split_once('=')) else { return Ok(None) };
        if key == "errno" {
            let errno = value.parse::<i32>().ok();
            return Ok(errno.map(|errno| if errno == 0 { Ok(status) } else { Err(Errno::from_raw(errno)) }));
        }
        if take(&mut status, key, value).is_none() {
            return Ok(None);
        }
    }
}

/// Applies one status line to `status`. Returns `None` if its value is invalid.
fn take(status: &mut DeviceStatus, key: &str, value: &str) -> Option<()> {
    match (key, status.peers.last_mut()) {
        ("private_key", _) => {
            status.private_key = Some(PrivateKey::from_hex(value).ok()?).filter(|key| !key.is_zero());
        }
        ("listen_port", _) => status.listen_port = value.parse().ok()?,
        ("fwmark", _) => status.fwmark = value.parse().ok()?,
        ("public_key", _) => status.peers.push(PeerStatus::new(PublicKey::from_hex(value).ok()?)),
        ("preshared_key", Some(peer)) => peer.preshared_key = PresharedKey::from_hex(value).ok()?,
        ("suite", Some(peer)) => peer.suite = value.parse().ok()?,
        ("endpoint", Some(peer)) => peer.endpoint = Some(parse_scoped_address(value)?),
        ("last_handshake_time_sec", Some(peer)) => {
            let seconds = value.parse().ok()?;
            peer.last_handshake = (seconds > 0).then(|| Duration::from_secs(seconds));
        }
        ("last_handshake_time_nsec", Some(peer)) => {
            let more = Duration::from_nanos(value.parse().ok()?);
            peer.last_handshake = peer.last_handshake.map(|at| at.saturating_add(more));
        }
        ("tx_bytes", Some(peer)) => peer.sent_bytes = value.parse().ok()?,
        ("rx_bytes", Some(peer)) => peer.received_bytes = value.parse().ok()?,
        ("persistent_keepalive_interval", Some(peer)) => peer.persistent_keepalive = value.parse().ok()?,
        ("allowed_ip", Some(peer)) => peer.allowed_ips.push(parse_network(value)?),
        _ => {}
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::uapi::protocol;
    use crate::wireguard::suite::Suite;
    use proptest::prelude::*;

    fn read(answer: &str) -> Option<Result<DeviceStatus, Errno>> {
        read_status(answer.as_bytes()).expect("memory can be read")
    }

    fn peer() -> impl Strategy<Value = PeerStatus> {
        let keys = (any::<[u8; 32]>(), any::<[u8; 32]>());
        let numbers = (any::<u64>(), any::<u64>(), any::<u16>(), 0..1_u64 << 40, 0..1_000_000_000_u32);
        let nets = prop::collection::vec(any::<(std::net::IpAddr, u8)>(), 0..4);
        (keys, numbers, any::<Option<std::net::SocketAddrV4>>(), nets).prop_map(
            |(keys, numbers, to, nets)| {
                let net = |(ip, len): (std::net::IpAddr, u8)| {
                    ipnet::IpNet::new(ip, len % 33).expect("both families have that many bits").trunc()
                };
                PeerStatus {
                    preshared_key: PresharedKey::from_bytes(keys.1),
                    suite: Suite::ALL[numbers.2 as usize % 2],
                    endpoint: to.map(Into::into),
                    last_handshake: (numbers.3 > 0).then(|| Duration::new(numbers.3, numbers.4)),
                    sent_bytes: numbers.0,
                    received_bytes: numbers.1,
                    persistent_keepalive: numbers.2,
                    allowed_ips: nets.into_iter().map(net).collect(),
                    ..PeerStatus::new(PublicKey::from_bytes(keys.0))
                }
            },
        )
    }

    proptest! {
        #[test]
        fn what_the_server_says_is_understood(
            key in any::<Option<[u8; 32]>>(), listen_port: u16, fwmark: u32, peers in prop::collection::vec(peer(), 0..4)
        ) {
            let private_key = key.map(PrivateKey::from_bytes).filter(|key| !key.is_zero());
            let status = DeviceStatus { private_key, listen_port, fwmark, peers };
            prop_assert_eq!(read(&protocol::get_answer(Ok(status.clone()))), Some(Ok(status)));
        }

        #[test]
        fn no_answer_makes_the_reader_panic(answer in "((tx_bytes|public_key|endpoint|errno)=\\PC{0,9}\n|\\PC*\n){0,9}") {
            let _ = read(&answer);
        }
    }

    #[test]
    fn an_answer_that_is_an_error_cut_off_or_nonsense_is_no_status() {
        assert_eq!(read("errno=13\n\n"), Some(Err(Errno::EACCES)));
        for answer in ["", "listen_port=1\n", "listen_port=x\nerrno=0\n", "hello\nerrno=0\n", "fwmark=1"] {
            assert_eq!(read(answer), None, "{answer:?}");
        }
        assert_eq!(read(&format!("listen_port={}\nerrno=0\n", "0".repeat(1000))), None, "an overlong line");
        let more = read("some_key_of_theirs=1\nlisten_port=7\nerrno=0\n\n").unwrap().unwrap();
        assert_eq!(more.listen_port, 7);
    }
}
