//! UDP system calls: `recvmmsg`, `sendmsg` and the integer socket options.
//!
//! Socket addresses and control messages are passed as plain bytes; [`crate::underlay`] encodes and parses them in
//! safe code. This module contains only what passes pointers to the kernel.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use libc::{c_int, c_void, iovec, mmsghdr, msghdr, socklen_t};
use nix::errno::Errno;

/// Maximum number of messages in one [`receive`].
pub const DEPTH: usize = 8;

/// Size in bytes of the longest IP socket address.
pub const NAME_SPACE: usize = mem::size_of::<libc::sockaddr_in6>();

/// Space for control messages of one datagram, in bytes. A packet info of either family, a GRO or GSO size and a
/// traffic class of either family need 144.
pub const CONTROL_SPACE: usize = 160;

/// Metadata of one received message: sender, control messages, length and flags.
#[derive(Clone)]
#[repr(align(8))]
pub struct Slot {
    control: [u8; CONTROL_SPACE],
    name: [u8; NAME_SPACE],
    control_len: usize,
    name_len: usize,
    len: usize,
    flags: c_int,
}

impl Slot {
    /// An empty slot.
    pub const EMPTY: Slot = Slot {
        control: [0; CONTROL_SPACE],
        name: [0; NAME_SPACE],
        control_len: 0,
        name_len: 0,
        len: 0,
        flags: 0,
    };

    /// Returns the length of the payload in its buffer, in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether the payload is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Returns the sender's `sockaddr`.
    pub fn name(&self) -> &[u8] {
        &self.name[..self.name_len]
    }

    /// Returns the control messages.
    pub fn control(&self) -> &[u8] {
        &self.control[..self.control_len]
    }

    /// Returns whether the kernel truncated the payload or the control messages.
    pub fn truncated(&self) -> bool {
        self.flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0
    }
}

/// Receives up to one message per buffer, at most [`DEPTH`], without blocking. Returns the number of messages.
/// Message `i` is in the `i`-th buffer, its metadata in `slots[i]`.
///
/// # Errors
/// The kernel's errno; `EAGAIN` if no message is available. Retries on `EINTR`.
///
/// # Panics
/// If the kernel reports more messages than buffers, which would be a kernel bug.
pub fn receive<'b>(
    fd: BorrowedFd<'_>,
    buffers: impl IntoIterator<Item = &'b mut [u8]>,
    slots: &mut [Slot; DEPTH],
) -> Result<usize, Errno> {
    let mut iovecs = [iovec { iov_base: ptr::null_mut(), iov_len: 0 }; DEPTH];
    let mut capacity = [0; DEPTH];
    let mut count = 0;
    for buffer in buffers.into_iter().take(DEPTH) {
        iovecs[count] = iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        capacity[count] = buffer.len();
        count += 1;
    }

    // SAFETY: an mmsghdr consists of integers and pointers, for which all zeros is a valid value. (It may have
    // private padding fields, so it cannot be written as a literal.)
    let mut headers: [mmsghdr; DEPTH] = unsafe { mem::zeroed() };
    let received = loop {
        // The kernel writes lengths into the headers, so they are reset before each call.
        for ((header, iov), slot) in headers.iter_mut().zip(&mut iovecs).zip(slots.iter_mut()) {
            header.msg_hdr.msg_name = slot.name.as_mut_ptr().cast();
            header.msg_hdr.msg_namelen = NAME_SPACE as socklen_t;
            header.msg_hdr.msg_iov = iov;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = slot.control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = CONTROL_SPACE as _;
            header.msg_hdr.msg_flags = 0;
        }
        // SAFETY: the first `count` headers are filled in. Each points to
        // - its own iovec on this stack, which covers exactly one of the caller's buffers: these are
        //   distinct `&'b mut` slices, and 'b outlives this call, so nothing else accesses them;
        // - the name and control arrays of its own slot, with their actual sizes; `slots` is borrowed
        //   mutably for the whole call.
        // The kernel writes no more than the lengths given, and only plain bytes. The timeout is null.
        let n = unsafe {
            libc::recvmmsg(
                fd.as_raw_fd(),
                headers.as_mut_ptr(),
                count as _,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        match Errno::result(n) {
            Ok(n) => break n.cast_unsigned() as usize,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    };
    assert!(received <= count, "recvmmsg filled {received} of {count} buffers");

    for ((slot, header), capacity) in slots.iter_mut().zip(&headers).zip(capacity).take(received) {
        // The length of a truncated name or payload may be reported untruncated.
        slot.len = (header.msg_len as usize).min(capacity);
        slot.name_len = (header.msg_hdr.msg_namelen as usize).min(NAME_SPACE);
        #[allow(clippy::unnecessary_cast)] // u32 in musl
        let control_len = header.msg_hdr.msg_controllen as usize;
        slot.control_len = control_len.min(CONTROL_SPACE);
        slot.flags = header.msg_hdr.msg_flags;
    }
    Ok(received)
}

/// Sends `payload` with `control` messages to the `sockaddr` in `name`, without blocking.
///
/// # Errors
/// The kernel's errno, in which case nothing was sent. Retries on `EINTR`.
pub fn send(fd: BorrowedFd<'_>, payload: &[u8], name: &[u8], control: &[u8]) -> Result<(), Errno> {
    let mut iov = iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    // SAFETY: a msghdr consists of integers and pointers, for which all zeros is a valid value.
    let mut header: msghdr = unsafe { mem::zeroed() };
    header.msg_name = name.as_ptr().cast_mut().cast();
    header.msg_namelen = name.len() as socklen_t;
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    if !control.is_empty() {
        header.msg_control = control.as_ptr().cast_mut().cast();
        header.msg_controllen = control.len() as _;
    }
    loop {
        // SAFETY: the header points to `iov` on this stack and to three slices borrowed for the whole call, each
        // with its actual length. sendmsg only reads through these pointers, so shared slices suffice. The kernel
        // copies control messages before parsing them, whatever their alignment, and checks every length in them.
        let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT) };
        match Errno::result(sent) {
            // A UDP send is all or nothing.
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// A socket option whose value is an `int`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntOption {
    level: c_int,
    name: c_int,
}

impl IntOption {
    /// Receive buffer size in bytes, not limited by `net.core.rmem_max`; requires `CAP_NET_ADMIN`.
    pub const RECEIVE_BUFFER_FORCE: Self = Self::new(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE);
    /// Send buffer size in bytes, not limited by `net.core.wmem_max`; requires `CAP_NET_ADMIN`.
    pub const SEND_BUFFER_FORCE: Self = Self::new(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE);
    /// Stride of every send in bytes. Only read, to detect whether the kernel supports UDP GSO.
    pub const UDP_SEGMENT: Self = Self::new(libc::SOL_UDP, libc::UDP_SEGMENT);
    /// Receive datagrams coalesced into one message.
    pub const UDP_GRO: Self = Self::new(libc::SOL_UDP, libc::UDP_GRO);
    /// Report the local address of each IPv4 datagram.
    pub const IPV4_PACKET_INFO: Self = Self::new(libc::SOL_IP, libc::IP_PKTINFO);
    /// Report the local address of each datagram on an IPv6 socket, including v4-mapped ones.
    pub const IPV6_PACKET_INFO: Self = Self::new(libc::SOL_IPV6, libc::IPV6_RECVPKTINFO);
    /// Report the type of service of each IPv4 datagram, on an IPv6 socket of each v4-mapped one.
    pub const IPV4_RECEIVE_CLASS: Self = Self::new(libc::SOL_IP, libc::IP_RECVTOS);
    /// Report the traffic class of each IPv6 datagram.
    pub const IPV6_RECEIVE_CLASS: Self = Self::new(libc::SOL_IPV6, libc::IPV6_RECVTCLASS);
    /// IPv4 path MTU discovery mode, one of `IP_PMTUDISC_*`.
    pub const IPV4_MTU_DISCOVER: Self = Self::new(libc::SOL_IP, libc::IP_MTU_DISCOVER);
    /// The known path MTU of a connected IPv4 socket, in bytes.
    pub const IPV4_MTU: Self = Self::new(libc::SOL_IP, libc::IP_MTU);
    /// The known path MTU of a connected IPv6 socket, in bytes.
    pub const IPV6_MTU: Self = Self::new(libc::SOL_IPV6, libc::IPV6_MTU);

    pub(super) const fn new(level: c_int, name: c_int) -> Self {
        IntOption { level, name }
    }

    /// Sets the option.
    ///
    /// # Errors
    /// The kernel's error; `ENOPROTOOPT` if it does not support the option.
    pub fn set(self, fd: BorrowedFd<'_>, value: c_int) -> io::Result<()> {
        // SAFETY: the pointer is to a c_int on this stack, and the length is that of a c_int.
        let done = unsafe {
            libc::setsockopt(
                fd.as_raw_fd(),
                self.level,
                self.name,
                (&raw const value).cast::<c_void>(),
                mem::size_of::<c_int>() as socklen_t,
            )
        };
        Errno::result(done)?;
        Ok(())
    }

    /// Returns the option's value.
    ///
    /// # Errors
    /// The kernel's error, as for [`set`](Self::set).
    pub fn get(self, fd: BorrowedFd<'_>) -> io::Result<c_int> {
        let mut value: c_int = 0;
        get_words(fd, self, std::slice::from_mut(&mut value))?;
        Ok(value)
    }
}

/// Returns how many datagrams the kernel has dropped at this socket since it was opened, for a full buffer or a bad
/// checksum. The kernel's counter wraps at 2^32.
///
/// # Errors
/// The kernel's error; `ENOPROTOOPT` before Linux 4.12.
pub fn drops(fd: BorrowedFd<'_>) -> io::Result<u32> {
    const DROPS: usize = libc::SK_MEMINFO_DROPS as usize;
    let mut words: [c_int; DROPS + 1] = [0; DROPS + 1];
    get_words(fd, IntOption::new(libc::SOL_SOCKET, libc::SO_MEMINFO), &mut words)?;
    Ok(words[DROPS].cast_unsigned())
}

/// Reads an option that is an array of 32-bit words. Words the kernel does not write are left unchanged.
fn get_words(fd: BorrowedFd<'_>, option: IntOption, words: &mut [c_int]) -> io::Result<()> {
    let mut len = mem::size_of_val(words) as socklen_t;
    // SAFETY: `words` is borrowed mutably for the call, and `len` is its size in bytes, which limits what the
    // kernel writes. Every bit pattern is a valid c_int.
    let done = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            option.level,
            option.name,
            words.as_mut_ptr().cast::<c_void>(),
            &raw mut len,
        )
    };
    Errno::result(done)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn no_more_messages_than_buffers_are_taken_and_the_rest_waits() {
        // Unix datagrams are delivered when send returns; UDP datagrams may not be.
        let (from, to) = UnixDatagram::pair().unwrap();
        for byte in 0..3 {
            from.send(&[byte; 10]).unwrap();
        }
        let mut slots = [Slot::EMPTY; DEPTH];
        let (mut a, mut b) = ([9; 16], [9; 16]);
        assert_eq!(receive(to.as_fd(), [&mut a[..], &mut b[..]], &mut slots), Ok(2));
        assert_eq!((&a[..10], &b[..10], a[10]), (&[0; 10][..], &[1; 10][..], 9));
        assert_eq!(receive(to.as_fd(), [&mut a[..]], &mut slots), Ok(1));
        assert_eq!(a[..10], [2; 10]);
        assert_eq!(receive(to.as_fd(), [&mut a[..]], &mut slots), Err(Errno::EAGAIN));
        assert_eq!(receive(to.as_fd(), [], &mut slots), Ok(0));
    }

    #[test]
    fn a_cut_payload_is_marked_and_never_longer_than_its_buffer() {
        let (from, to) = UnixDatagram::pair().unwrap();
        from.send(&[7; 100]).unwrap();
        let mut slots = [Slot::EMPTY; DEPTH];
        let mut small = [0; 30];
        assert_eq!(receive(to.as_fd(), [&mut small[..]], &mut slots), Ok(1));
        assert!(slots[0].truncated());
        assert_eq!(slots[0].len(), 30);
    }

    #[test]
    fn datagrams_that_find_no_room_are_in_the_drop_count() {
        let to = UdpSocket::bind("127.0.0.1:0").unwrap();
        let from = UdpSocket::bind("127.0.0.1:0").unwrap();
        from.connect(to.local_addr().unwrap()).unwrap();
        assert_eq!(drops(to.as_fd()).unwrap(), 0);
        // A small buffer keeps the test short: datagrams queue at the loopback device behind those of other tests.
        nix::sys::socket::setsockopt(&to, nix::sys::socket::sockopt::RcvBuf, &4096).unwrap();
        let sent = (1..10_000).find(|_| {
            from.send(&[0; 1000]).unwrap();
            drops(to.as_fd()).unwrap() > 0
        });
        assert!(sent > Some(1), "the first datagram must fit: {sent:?}");
    }
}
