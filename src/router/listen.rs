//! The address for HTTP: bound at once, so that a mistake is found at startup, and open to connections only
//! once the router runs.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};

/// Connections that the kernel holds until the router accepts them.
const BACKLOG: i32 = 128;

/// A bound TCP address that does not accept connections yet.
pub struct Bound(Socket);

impl Bound {
    /// Binds `address`.
    ///
    /// # Errors
    /// Fails if the address is in use or does not belong to this host.
    pub fn new(address: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        Ok(Bound(socket))
    }

    /// Returns the address, with the port that the kernel picked if it was 0.
    ///
    /// # Errors
    /// Fails if the descriptor is not a socket with an IP address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()?.as_socket().ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Accepts connections from now on, except from packets that arrive through the interface with the index
    /// `refused`. The kernel drops these before it looks at them, whichever local address they are sent to,
    /// so their sender sees nothing of the listener.
    ///
    /// # Errors
    /// Fails if another listener took the address meanwhile.
    pub(crate) fn listen(self, refused: Option<u32>) -> io::Result<TcpListener> {
        if let Some(interface) = refused {
            // Accepted connections inherit the filter.
            self.0.attach_filter(&all_but(interface))?;
        }
        self.0.listen(BACKLOG)?;
        Ok(self.0.into())
    }
}

impl From<TcpListener> for Bound {
    /// Takes a listener of another program part, which accepts connections already.
    fn from(listener: TcpListener) -> Self {
        Bound(listener.into())
    }
}

impl AsFd for Bound {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl fmt::Debug for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Bound").field(&self.local_addr().ok()).finish()
    }
}

/// A classic BPF program (Documentation/networking/filter.rst in Linux) that drops packets received through
/// `interface` and accepts all others.
fn all_but(interface: u32) -> [SockFilter; 4] {
    let op = |code: u32, jf: u8, k: u32| SockFilter::new(code as u16, 0, jf, k);
    let interface_index = (libc::SKF_AD_OFF + libc::SKF_AD_IFINDEX).cast_unsigned();
    [
        op(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, interface_index),
        op(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 1, interface),
        op(libc::BPF_RET | libc::BPF_K, 0, 0),
        op(libc::BPF_RET | libc::BPF_K, 0, u32::MAX),
    ]
}
