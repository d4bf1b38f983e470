//! Tests of the UAPI server over a real socket.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;

use crate::config::update::{DeviceStatus, DeviceUpdate};
use crate::uapi::server::*;

/// A device that remembers its port.
#[derive(Default)]
struct Remembering(Mutex<DeviceStatus>);

impl Device for Remembering {
    fn apply(&self, update: DeviceUpdate) -> Result<(), Errno> {
        match update.listen_port {
            Some(1) => Err(Errno::EADDRINUSE),
            port => {
                self.0.lock().unwrap().listen_port = port.unwrap_or(0);
                Ok(())
            }
        }
    }

    fn status(&self) -> Result<DeviceStatus, Errno> {
        Ok(self.0.lock().unwrap().clone())
    }

    fn metrics(&self) -> String {
        "# HELP a_total A\na_total{queue=\"0\"} 1\n\nb 2\n".into()
    }

    fn drops(&self, after: u64) -> String {
        format!("next=9\nsamples after {after}\n")
    }
}

/// Returns a directory that no other test uses.
fn directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("laneway-uapi-{}-{next}", std::process::id()))
}

/// Serves while `client` runs on another thread with the socket's path. Returns the client's result.
fn with_server<T: Send + 'static>(client: impl FnOnce(PathBuf) -> T + Send + 'static) -> T {
    let directory = directory();
    let server = Server::bind(&directory, "lw0").unwrap();
    let path = directory.join("lw0.sock");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let said = runtime.block_on(async {
        let client = tokio::task::spawn_blocking(move || client(path));
        tokio::select! {
            end = server.serve(Arc::new(Remembering::default())) => panic!("the server stopped: {end:?}"),
            said = client => said.unwrap(),
        }
    });
    drop(server);
    assert!(fs::read_dir(&directory).unwrap().next().is_none(), "the socket's file is removed");
    fs::remove_dir(&directory).unwrap();
    said
}

fn ask(path: &Path, request: &[u8]) -> String {
    let mut stream = unix::UnixStream::connect(path).unwrap();
    // The server may close the connection while the client still writes.
    let _ = stream.write_all(request);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn several_requests_on_one_connection_are_answered_in_order() {
    let request = b"set=1\nlisten_port=7\n\nget=1\n\nset=1\nlisten_port=1\n\nset=1\nx=1\n\nget=1\n\n";
    let answers = with_server(|path| ask(&path, request));
    let get = "listen_port=7\nerrno=0\n\n";
    let set = format!("errno=-{}\n\nerrno=-{}\n\n", Errno::EADDRINUSE as i32, Errno::EINVAL as i32);
    assert_eq!(answers, format!("errno=0\n\n{get}{set}{get}"));
}

#[test]
fn samples_of_drops_continue_where_the_client_says() {
    let answers =
        with_server(|path| ask(&path, b"get=drops\n\nget=drops\nafter=7\n\nget=drops\nbefore=7\n\n"));
    let said = |after: u64| format!("next=9\nsamples after {after}\nerrno=0\n\n");
    assert_eq!(answers, format!("{}{}errno=22\n\n", said(u64::MAX), said(7)));
}

#[test]
fn metrics_are_told_in_one_answer_without_the_blank_lines_that_would_end_it() {
    let answers = with_server(|path| ask(&path, b"get=metrics\n\nget=1\n\n"));
    let metrics = "# HELP a_total A\na_total{queue=\"0\"} 1\nb 2\nerrno=0\n\n";
    assert_eq!(answers, format!("{metrics}errno=0\n\n"));
}

#[test]
fn a_client_that_hangs_up_or_talks_nonsense_harms_nobody() {
    let (nothing, half, nonsense, long, last) = with_server(|path| {
        let long = [b"set=1\nprivate_key=".to_vec(), vec![b'0'; 100_000]].concat();
        let answers = [&b""[..], b"set=1\nlisten_port=9\n", b"GET / HTTP/1.1\r\n\r\n", &long];
        let [a, b, c, d] = answers.map(|request| ask(&path, request));
        (a, b, c, d, ask(&path, b"get=1\n\n"))
    });
    assert_eq!([nothing, half, nonsense, long], [""; 4]);
    assert_eq!(last, "errno=0\n\n", "an incomplete request must not set the port");
}

#[test]
fn the_socket_is_for_its_owner_alone_in_a_directory_for_all() {
    let (socket, directory) = with_server(|path| {
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        (mode(&path), mode(path.parent().unwrap()))
    });
    // The process's umask may clear further bits of the directory's mode.
    assert_eq!((socket, directory & 0o700), (0o600, 0o700));
    assert_eq!(directory & !0o755, 0);
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let directory = directory();
    fs::create_dir_all(&directory).unwrap();
    // Dropping a listener does not remove its file.
    drop(unix::UnixListener::bind(directory.join("lw0.sock")).unwrap());
    let first = Server::bind(&directory, "lw0").unwrap();
    assert!(matches!(Server::bind(&directory, "lw0"), Err(UapiError::Taken { process: Some(_), .. })));
    drop(first);
    fs::remove_dir(&directory).unwrap();
}

#[test]
fn serving_ends_when_the_socket_is_removed_and_a_successor_keeps_its_own() {
    let directory = directory();
    let path = directory.join("lw0.sock");
    let server = Server::bind(&directory, "lw0").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    fs::remove_file(&path).unwrap();
    runtime.block_on(server.serve(Arc::new(Remembering::default()))).unwrap();
    let successor = Server::bind(&directory, "lw0").unwrap();
    drop(server);
    assert!(path.exists());
    drop(successor);
    fs::remove_dir(&directory).unwrap();
}

#[test]
fn an_inherited_listener_is_taken_and_anything_else_refused() {
    let directory = directory();
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join("inherited.sock");
    let listener = unix::UnixListener::bind(&path).unwrap();
    assert!(Server::inherited(listener.into()).is_ok());
    let (one, _other) = unix::UnixStream::pair().unwrap();
    assert!(matches!(Server::inherited(one.into()), Err(UapiError::Inherited(_))));
    fs::remove_dir_all(&directory).unwrap();
}
