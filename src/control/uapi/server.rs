//! The socket itself: where it is, who may open it, and how much one client can ask of us.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task;
use zeroize::Zeroizing;

use super::Device;
use super::protocol::{self, NotARequest, Request, RequestParser};

/// The longest line, in bytes. The longest that means anything is an endpoint's or a key's, below 100.
const MAX_LINE: u64 = 256;
/// The longest request, in bytes: room for 20,000 peers with a dozen allowed IPs each.
const MAX_REQUEST: usize = 16 << 20;
/// Clients at a time, each with one request. More wait until one is done.
pub const MAX_CLIENTS: usize = 16;
/// How often we look whether the socket's file is still there.
const WATCH: Duration = Duration::from_millis(500);

/// The UAPI socket of one interface. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct Server {
    listener: unix::UnixListener,
    /// The file we made; `None` for a socket that was handed to us.
    file: Option<Arc<SocketFile>>,
}

/// The file of a socket that we made.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl SocketFile {
    /// Removes it, unless somebody else has done so. A file of this name that is not ours belongs to who came
    /// after us.
    pub fn remove(&self) {
        if self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }

    fn is_there(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode)
    }
}

/// Why there is no UAPI socket.
#[derive(Debug, thiserror::Error)]
pub enum UapiError {
    /// Another process listens on it.
    #[error("{}: another process serves this interface; stop it, or choose another interface name", .0.display())]
    Taken(PathBuf),
    /// The directory or the socket cannot be made.
    #[error("{}: cannot {what}: {source}; LANEWAY_UAPI_DIR chooses another directory", path.display())]
    Os {
        /// The path.
        path: PathBuf,
        /// What was attempted.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The descriptor that `WG_UAPI_FD` names cannot be used.
    #[error("WG_UAPI_FD: not a listening UNIX socket: {0}")]
    Inherited(io::Error),
}

impl Server {
    /// Listens on `directory/interface.sock`. The directory is made if it is missing (mode 0755); the
    /// socket is for its owner alone (0600). A socket that nobody listens on any more is replaced.
    ///
    /// # Errors
    /// Another process listens there, or the system refuses.
    pub fn bind(directory: &Path, interface: &str) -> Result<Self, UapiError> {
        let path = directory.join(format!("{interface}.sock"));
        let os = |path: &Path, what| {
            let path = path.to_owned();
            move |source| UapiError::Os { path, what, source }
        };
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o755).create(directory).map_err(os(directory, "make the directory"))?;
        match unix::UnixStream::connect(&path) {
            Ok(_) => return Err(UapiError::Taken(path)),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(&path).map_err(os(&path, "remove the stale socket"))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(os(&path, "look who serves it")(error)),
        }
        // Bound under another name and moved in place once it is for its owner only: at no moment
        // can anybody else connect.
        let unnamed = directory.join(format!(".{interface}.{}", std::process::id()));
        let _ = fs::remove_file(&unnamed);
        let listener = unix::UnixListener::bind(&unnamed).map_err(os(&path, "listen"))?;
        fs::set_permissions(&unnamed, fs::Permissions::from_mode(0o600))
            .map_err(os(&path, "set the mode"))?;
        let inode = fs::symlink_metadata(&unnamed).map_err(os(&path, "look at it"))?.ino();
        fs::rename(&unnamed, &path).map_err(os(&path, "name the socket"))?;
        Ok(Server { listener, file: Some(Arc::new(SocketFile { path, inode })) })
    }

    /// Serves a socket that listens already (`WG_UAPI_FD`). Its file is its maker's affair.
    ///
    /// # Errors
    /// It is not a listening UNIX socket.
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

    /// The file that was made for it, if one was.
    pub fn file(&self) -> Option<&Arc<SocketFile>> {
        self.file.as_ref()
    }

    /// Answers clients. Returns when the socket's file is gone: by old custom, removing it is how
    /// tools ask a WireGuard process to end.
    ///
    /// # Errors
    /// The listener cannot be served.
    pub async fn serve(&self, device: Arc<dyn Device>) -> io::Result<()> {
        self.listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(self.listener.try_clone()?)?;
        let places = Arc::new(Semaphore::new(MAX_CLIENTS));
        let accept = async {
            loop {
                let Ok(place) = places.clone().acquire_owned().await else { break };
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let device = device.clone();
                        tokio::spawn(async move {
                            // What a client loses by its own fault, or by going away, is no news.
                            let _ = converse(stream, &device).await;
                            drop(place);
                        });
                    }
                    Err(error) => {
                        tracing::warn!("the UAPI socket cannot accept a client: {error}");
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

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(file) = &self.file {
            file.remove();
        }
    }
}

/// Answers one client until it hangs up.
async fn converse(stream: UnixStream, device: &Arc<dyn Device>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let mut parser = RequestParser::default();
    // Lines hold keys: the buffer never grows, so no copy stays behind, and is wiped at the end.
    let mut line = Zeroizing::new(Vec::with_capacity(MAX_LINE as usize));
    let mut request_bytes = 0;
    loop {
        line.clear();
        let read = (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).await?;
        request_bytes += read;
        // The end of the stream; half a request is not acted on.
        let Some(text) = line.strip_suffix(b"\n") else { return Ok(()) };
        if request_bytes > MAX_REQUEST {
            return Ok(());
        }
        let Ok(text) = std::str::from_utf8(text) else { return Ok(()) };
        match parser.line(text) {
            Ok(None) => continue,
            Ok(Some(request)) => answer(&mut writer, request, device).await?,
            Err(NotARequest) => return Ok(()),
        }
        request_bytes = 0;
    }
}

async fn answer(writer: &mut OwnedWriteHalf, request: Request, device: &Arc<dyn Device>) -> io::Result<()> {
    // The device may take its time, and others must not wait for it.
    let device = Arc::clone(device);
    let said = task::spawn_blocking(move || reply(request, device.as_ref())).await?;
    writer.write_all(said.as_bytes()).await
}

fn reply(request: Request, device: &dyn Device) -> Zeroizing<String> {
    match request {
        Request::Get => protocol::get_answer(device.status()),
        Request::GetMetrics => Zeroizing::new(protocol::metrics_answer(&device.metrics())),
        Request::BadGet => protocol::get_answer(Err(nix::errno::Errno::EINVAL)),
        Request::Set(update) => {
            let result = update.and_then(|update| device.apply(update));
            Zeroizing::new(protocol::set_answer(result))
        }
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
