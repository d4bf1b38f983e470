//! UAPI server: the socket's location and permissions, and limits on clients.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task;
use tokio::time::{Instant, timeout_at};
use zeroize::Zeroizing;

use super::Device;
use super::lines::Lines;
use super::protocol::{self, NotARequest, Request, RequestParser};
use crate::clients::{Client, Clients};
use crate::sys::memory;

/// Maximum length of a line in bytes. The longest valid lines, endpoints and keys, are shorter than 100.
const MAX_LINE: usize = 256;
/// Maximum length of a request in bytes: enough for 20,000 peers with a dozen allowed IPs each.
const MAX_REQUEST: usize = 16 << 20;
/// Length in bytes from which a request is a long one: of a few hundred peers. Only one long request is read and answered
/// at a time, so all clients together take little more memory than one.
const LONG: usize = 64 << 10;
/// How long a client may pause within a request.
const PAUSE: Duration = Duration::from_secs(5);
/// Time limit for sending a long request. Others may be waiting.
const SENDING: Duration = Duration::from_secs(30);
/// Maximum number of requests answered concurrently. Each occupies a thread.
pub const MAX_ANSWERS: usize = 16;
/// Class of clients that have not sent a complete request.
const IDLE: usize = 0;
/// Class of clients whose request is being answered or waits for that.
const ASKED: usize = 1;
/// Maximum number of clients in each class.
const CLIENTS: [usize; 2] = [64, 64];
/// Interval at which the server checks that the socket's file still exists.
const WATCH: Duration = Duration::from_millis(500);

/// The UAPI socket of one interface. Dropping it removes the socket's file.
#[derive(Debug)]
pub struct Server {
    listener: unix::UnixListener,
    /// The file created for the socket; `None` for an inherited socket.
    file: Option<Arc<SocketFile>>,
}

/// The file of a socket that this process created.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
    /// Whether another process is responsible for the file.
    left: AtomicBool,
}

impl SocketFile {
    /// Removes the file if it still exists. A different file of the same name belongs to a successor and is kept.
    pub fn remove(&self) {
        if !self.left.load(Ordering::Acquire) && self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }

    /// Leaves the file to another process, which serves the same socket.
    pub fn leave(&self) {
        self.left.store(true, Ordering::Release);
    }

    fn is_there(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode)
    }
}

/// Errors when creating the UAPI socket.
#[derive(Debug, thiserror::Error)]
pub enum UapiError {
    /// Another process is listening on the socket.
    #[error("{}: {}, perhaps in another network namespace, serves an interface of this name; stop it, choose another name, \
         or set LANEWAY_UAPI_DIR to a directory for this one", path.display(), named(*process))]
    Taken {
        /// The socket.
        path: PathBuf,
        /// The process, if it can be told.
        process: Option<i32>,
    },
    /// The directory or the socket cannot be created.
    #[error("{}: cannot {what}: {source}; LANEWAY_UAPI_DIR selects another directory", path.display())]
    Os {
        /// The path.
        path: PathBuf,
        /// The operation that failed.
        what: &'static str,
        /// The system error.
        source: io::Error,
    },
    /// The descriptor named by `WG_UAPI_FD` cannot be used.
    #[error("WG_UAPI_FD: not a listening UNIX socket: {0}")]
    Inherited(io::Error),
}

impl Server {
    /// Checks that no process listens on `directory/interface.sock`.
    ///
    /// # Errors
    /// [`UapiError::Taken`] if one does.
    pub fn check(directory: &Path, interface: &str) -> Result<(), UapiError> {
        let path = super::socket_path(directory, interface);
        match unix::UnixStream::connect(&path) {
            Ok(stream) => Err(UapiError::Taken { path, process: super::process_behind(&stream) }),
            Err(_) => Ok(()),
        }
    }

    /// Listens on `directory/interface.sock`. Creates the directory if it is missing (mode 0755). Only the owner may
    /// connect to the socket (mode 0600). Replaces a stale socket that no process listens on.
    ///
    /// # Errors
    /// Another process listens on the socket, or the directory or socket cannot be created.
    pub fn bind(directory: &Path, interface: &str) -> Result<Self, UapiError> {
        let path = super::socket_path(directory, interface);
        let os = |path: &Path, what| {
            let path = path.to_owned();
            move |source| UapiError::Os { path, what, source }
        };
        let mut builder = fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o755)
            .create(directory)
            .map_err(os(directory, "create the directory"))?;
        match unix::UnixStream::connect(&path) {
            Ok(stream) => {
                return Err(UapiError::Taken { path, process: super::process_behind(&stream) });
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(&path).map_err(os(&path, "remove the stale socket"))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(os(&path, "check whether it is in use")(error)),
        }
        // Bind in a directory of our own and rename once the mode is set: no other user can ever connect, and clients
        // that take every socket in `directory` for an interface see only this one.
        let cradle = directory.join(format!(".{interface}.{}", std::process::id()));
        let _ = fs::remove_dir_all(&cradle);
        fs::DirBuilder::new().mode(0o700).create(&cradle).map_err(os(&cradle, "create the directory"))?;
        let bound = Self::bind_in(&cradle, path);
        let _ = fs::remove_dir_all(&cradle);
        bound
    }

    /// Listens on a socket made in the directory `cradle`, and moves its file to `path`.
    fn bind_in(cradle: &Path, path: PathBuf) -> Result<Self, UapiError> {
        let os = |what| {
            let path = path.clone();
            move |source| UapiError::Os { path, what, source }
        };
        let unnamed = cradle.join("s");
        let listener = unix::UnixListener::bind(&unnamed).map_err(os("listen"))?;
        fs::set_permissions(&unnamed, fs::Permissions::from_mode(0o600)).map_err(os("set the mode"))?;
        let inode = fs::symlink_metadata(&unnamed).map_err(os("read its inode number"))?.ino();
        fs::rename(&unnamed, &path).map_err(os("rename the socket into place"))?;
        Ok(Server {
            listener,
            file: Some(Arc::new(SocketFile { path, inode, left: AtomicBool::new(false) })),
        })
    }

    /// Serves a socket that is already listening (`WG_UAPI_FD`). Whoever created its file is responsible for it.
    ///
    /// # Errors
    /// The descriptor is not a listening UNIX socket.
    pub fn inherited(fd: OwnedFd) -> Result<Self, UapiError> {
        let listener = unix::UnixListener::from(fd);
        listener.local_addr().map_err(UapiError::Inherited)?;
        let listens = nix::sys::socket::getsockopt(&listener, nix::sys::socket::sockopt::AcceptConn);
        match listens {
            Ok(true) => Ok(Server { listener, file: None }),
            Ok(false) => Err(UapiError::Inherited(io::ErrorKind::InvalidInput.into())),
            Err(errno) => Err(UapiError::Inherited(errno.into())),
        }
    }

    /// Serves the socket of another process, which leaves `directory/interface.sock` to this one.
    ///
    /// # Errors
    /// The descriptor is not a listening UNIX socket.
    pub fn take_over(fd: OwnedFd, directory: &Path, interface: &str) -> Result<Self, UapiError> {
        let path = super::socket_path(directory, interface);
        let mut server = Self::inherited(fd)?;
        server.file = fs::symlink_metadata(&path)
            .ok()
            .map(|file| Arc::new(SocketFile { path, inode: file.ino(), left: AtomicBool::new(false) }));
        Ok(server)
    }

    /// Returns the file created for the socket; `None` for an inherited socket.
    pub fn file(&self) -> Option<&Arc<SocketFile>> {
        self.file.as_ref()
    }

    /// Serves clients until the socket's file is removed. By convention, tools stop a userspace WireGuard process by
    /// removing its socket.
    ///
    /// # Errors
    /// The listener cannot be registered with the runtime.
    pub async fn serve(&self, device: Arc<dyn Device>) -> io::Result<()> {
        self.listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(self.listener.try_clone()?)?;
        let clients = Clients::new(CLIENTS);
        let bounds = Arc::new(Bounds { answers: Semaphore::new(MAX_ANSWERS), long: Semaphore::new(1) });
        let accept = async {
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let process = stream.peer_cred().ok().and_then(|peer| peer.pid());
                        let (client, displaced) = clients.admit(process, IDLE);
                        let (device, bounds) = (device.clone(), bounds.clone());
                        tokio::spawn(async move {
                            tokio::select! {
                                // Errors concern only this client, so they are not logged.
                                _ = converse(stream, &device, &client, &bounds) => {}
                                _ = displaced => {}
                            }
                        });
                        // Lets the client be heard before the next ones can displace it.
                        task::yield_now().await;
                    }
                    Err(error) => {
                        tracing::warn!("cannot accept a client on the UAPI socket: {error}");
                        tokio::time::sleep(WATCH).await;
                    }
                }
            }
        };
        tokio::select! {
            () = accept => {}
            () = self.file_gone() => {}
        }
        Ok(())
    }

    async fn file_gone(&self) {
        let mut ticks = tokio::time::interval(WATCH);
        loop {
            ticks.tick().await;
            if self.file.as_ref().is_some_and(|file| !file.is_there()) {
                return;
            }
        }
    }
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            file.remove();
        }
    }
}

/// Returns what a message calls `process`.
pub(crate) fn named(process: Option<i32>) -> String {
    process.map_or_else(|| "another process".to_owned(), |process| format!("process {process}"))
}

/// What all clients share.
struct Bounds {
    /// Requests being answered.
    answers: Semaphore,
    /// Long requests being read or answered.
    long: Semaphore,
}

/// A request that is being read.
#[derive(Default)]
struct Incoming<'b> {
    bytes: usize,
    long: Option<Long<'b>>,
}

/// A long request that is being read or answered.
struct Long<'b> {
    /// When it has to be complete.
    end: Instant,
    _place: SemaphorePermit<'b>,
}

impl Drop for Long<'_> {
    fn drop(&mut self) {
        // The allocator would keep the memory of the request.
        memory::trim();
    }
}

impl<'b> Incoming<'b> {
    /// Returns when the next line has to be there, if the request has begun.
    fn deadline(&self) -> Option<Instant> {
        let pause = (self.bytes > 0).then(|| Instant::now() + PAUSE)?;
        Some(self.long.as_ref().map_or(pause, |long| pause.min(long.end)))
    }

    /// Counts a line of `bytes` bytes. A request that becomes a long one waits for its turn. Returns whether the request
    /// may go on.
    async fn grow(&mut self, bytes: usize, bounds: &'b Bounds) -> bool {
        self.bytes += bytes;
        if self.bytes > LONG && self.long.is_none() {
            let place = bounds.long.acquire().await.expect("the semaphore is never closed");
            self.long = Some(Long { end: Instant::now() + SENDING, _place: place });
        }
        self.bytes <= MAX_REQUEST
    }
}

/// Serves one client until it disconnects, or pauses within a request.
async fn converse<const CLASSES: usize>(
    stream: UnixStream,
    device: &Arc<dyn Device>,
    client: &Client<Option<i32>, CLASSES>,
    bounds: &Bounds,
) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    // Declared before the parser, so that the place of a long request is free once its memory is.
    let mut incoming = Incoming::default();
    let mut lines = Lines::new(reader);
    let mut parser = RequestParser::default();
    loop {
        // End of stream, or a line that is too long; an incomplete request is discarded.
        let next = lines.next(MAX_LINE);
        let line = match incoming.deadline() {
            Some(deadline) => timeout_at(deadline, next).await??,
            None => next.await?,
        };
        let Some(line) = line else { return Ok(()) };
        let Some(text) = line.strip_suffix(b"\n") else { return Ok(()) };
        client.enter(IDLE);
        if !incoming.grow(line.len(), bounds).await {
            return Ok(());
        }
        let Ok(text) = std::str::from_utf8(text) else { return Ok(()) };
        match parser.line(text) {
            Ok(None) => continue,
            Ok(Some(Request::TakeOver)) => {
                let Ok(stream) = lines.into_stream().reunite(writer) else { return Ok(()) };
                let (stream, device) = (stream.into_std()?, Arc::clone(device));
                // Not counted among the answers: the router may end with it.
                let _ = task::spawn_blocking(move || device.hand_over(stream)).await;
                return Ok(());
            }
            Ok(Some(request)) => {
                client.enter(ASKED);
                let said = answer(request, device, &bounds.answers).await?;
                // A client that does not read its answer is idle.
                client.enter(IDLE);
                writer.write_all(said.as_bytes()).await?;
            }
            Err(NotARequest) => return Ok(()),
        }
        incoming = Incoming::default();
    }
}

/// Answers a request on a thread of its own, because a call on the device may block.
async fn answer(
    request: Request,
    device: &Arc<dyn Device>,
    answers: &Semaphore,
) -> io::Result<Zeroizing<String>> {
    let _place = answers.acquire().await.expect("the semaphore is never closed");
    let device = Arc::clone(device);
    Ok(task::spawn_blocking(move || reply(request, device.as_ref())).await?)
}

fn reply(request: Request, device: &dyn Device) -> Zeroizing<String> {
    match request {
        Request::Get => protocol::get_answer(device.status()),
        Request::GetMetrics => Zeroizing::new(protocol::text_answer(&device.metrics())),
        Request::GetDrops { after } => Zeroizing::new(protocol::text_answer(&device.drops(after))),
        Request::BadGet | Request::TakeOver => protocol::get_answer(Err(nix::errno::Errno::EINVAL)),
        Request::Set(update) => {
            let result = update.and_then(|update| device.apply(update));
            Zeroizing::new(protocol::set_answer(result))
        }
    }
}

#[cfg(test)]
mod tests;
