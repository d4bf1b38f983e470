//! UDP system calls: `recvmmsg`, `sendmsg` and the integer socket options.
//!
//! Names and control messages go in and out as plain bytes. What the bytes mean is safe code, in
//! [`crate::underlay`]; here is only what has to hand pointers to the kernel.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use libc::{c_int, c_void, iovec, mmsghdr, msghdr, socklen_t};
use nix::errno::Errno;

/// The most messages that one [`receive`] takes from the kernel.
pub const DEPTH: usize = 8;

/// Room for the longest socket name of an IP socket, in bytes.
pub const NAME_SPACE: usize = mem::size_of::<libc::sockaddr_in6>();

/// Room for control messages of one datagram, in bytes: a packet info of either family and a GRO or
/// GSO size need 96.
pub const CONTROL_SPACE: usize = 128;

/// What the kernel tells about one received message beside its payload.
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
    /// A slot that has received nothing.
    pub const EMPTY: Slot = Slot {
        control: [0; CONTROL_SPACE],
        name: [0; NAME_SPACE],
        control_len: 0,
        name_len: 0,
        len: 0,
        flags: 0,
    };

    /// The payload's length in the buffer, in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the payload is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The sender's `sockaddr`.
    pub fn name(&self) -> &[u8] {
        &self.name[..self.name_len]
    }

    /// The control messages.
    pub fn control(&self) -> &[u8] {
        &self.control[..self.control_len]
    }

    /// Whether the kernel had to cut the payload or the control messages.
    pub fn truncated(&self) -> bool {
        self.flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0
    }
}

/// Receives up to as many messages as there are `buffers`, at most [`DEPTH`], without blocking.
/// Message `i` is in the `i`-th buffer and `slots[i]` tells about it.
///
/// # Errors
/// The kernel's errno; `EAGAIN` when nothing waits. A receive that was interrupted starts again.
///
/// # Panics
/// Never, unless the kernel claims more messages than there were buffers.
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

    // SAFETY: an mmsghdr is integers and pointers, for which all zeroes is a value. (It may have
    // private padding fields, so it cannot be written out.)
    let mut headers: [mmsghdr; DEPTH] = unsafe { mem::zeroed() };
    let received = loop {
        // The kernel writes lengths back into the headers, so each call starts from fresh ones.
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
        // - its own iovec on this stack, which spans exactly one of the caller's buffers: these are
        //   distinct `&'b mut` slices, and 'b outlives this call, so nobody else touches them;
        // - the name and control arrays of its own slot, with their true sizes; `slots` is borrowed
        //   mutably for the whole call.
        // The kernel writes no more than the lengths given, and only plain bytes. No timeout.
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
        // A name or payload that was cut may be reported with the length it would have had.
        slot.len = (header.msg_len as usize).min(capacity);
        slot.name_len = (header.msg_hdr.msg_namelen as usize).min(NAME_SPACE);
        #[allow(clippy::unnecessary_cast)] // u32 in musl
        let control_len = header.msg_hdr.msg_controllen as usize;
        slot.control_len = control_len.min(CONTROL_SPACE);
        slot.flags = header.msg_hdr.msg_flags;
    }
    Ok(received)
}

/// Sends `payload` to the `sockaddr` in `name`, with `control` messages, without blocking.
///
/// # Errors
/// The kernel's errno, and then nothing was sent. A send that was interrupted starts again.
pub fn send(fd: BorrowedFd<'_>, payload: &[u8], name: &[u8], control: &[u8]) -> Result<(), Errno> {
    let mut iov = iovec { iov_base: payload.as_ptr().cast_mut().cast(), iov_len: payload.len() };
    // SAFETY: a msghdr is integers and pointers, for which all zeroes is a value.
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
        // SAFETY: the header points to `iov` on this stack and to three slices that are borrowed for
        // the whole call, each with its true length. sendmsg only reads through all of them, so that
        // the slices are shared ones does not matter. The kernel copies control messages before it
        // parses them, whatever their alignment, and checks every length in them.
        let sent = unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT) };
        match Errno::result(sent) {
            // UDP takes a payload whole or not at all.
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
    /// Bytes of receive buffer, past `net.core.rmem_max`; needs `CAP_NET_ADMIN`.
    pub const RECEIVE_BUFFER_FORCE: Self = Self::new(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE);
    /// Bytes of send buffer, past `net.core.wmem_max`; needs `CAP_NET_ADMIN`.
    pub const SEND_BUFFER_FORCE: Self = Self::new(libc::SOL_SOCKET, libc::SO_SNDBUFFORCE);
    /// Segment size of every send; here only asked for, to learn whether the kernel has UDP GSO.
    pub const UDP_SEGMENT: Self = Self::new(libc::SOL_UDP, libc::UDP_SEGMENT);
    /// Take received datagrams grouped.
    pub const UDP_GRO: Self = Self::new(libc::SOL_UDP, libc::UDP_GRO);
    /// Tell the local address of each IPv4 datagram.
    pub const IPV4_PACKET_INFO: Self = Self::new(libc::SOL_IP, libc::IP_PKTINFO);
    /// Tell the local address of each datagram on an IPv6 socket, v4-mapped ones included.
    pub const IPV6_PACKET_INFO: Self = Self::new(libc::SOL_IPV6, libc::IPV6_RECVPKTINFO);
    /// What IPv4 does about path MTU: one of `IP_PMTUDISC_*`.
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
    /// The kernel's refusal: `ENOPROTOOPT` if it does not know the option.
    pub fn set(self, fd: BorrowedFd<'_>, value: c_int) -> io::Result<()> {
        // SAFETY: the pointer is to a c_int on this stack and the length is that of a c_int.
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

    /// The option's value.
    ///
    /// # Errors
    /// The kernel's refusal, as for [`set`](Self::set).
    pub fn get(self, fd: BorrowedFd<'_>) -> io::Result<c_int> {
        let mut value: c_int = 0;
        get_words(fd, self, std::slice::from_mut(&mut value))?;
        Ok(value)
    }
}

/// How many datagrams the kernel has dropped at this socket, for want of room or for a bad checksum,
/// since it was opened. The kernel's counter wraps at 2^32.
///
/// # Errors
/// The kernel's refusal: `ENOPROTOOPT` before Linux 4.12.
pub fn drops(fd: BorrowedFd<'_>) -> io::Result<u32> {
    const DROPS: usize = libc::SK_MEMINFO_DROPS as usize;
    let mut words: [c_int; DROPS + 1] = [0; DROPS + 1];
    get_words(fd, IntOption::new(libc::SOL_SOCKET, libc::SO_MEMINFO), &mut words)?;
    Ok(words[DROPS].cast_unsigned())
}

/// Reads an option that is an array of 32-bit words; words that the kernel does not write stay.
fn get_words(fd: BorrowedFd<'_>, option: IntOption, words: &mut [c_int]) -> io::Result<()> {
    let mut len = mem::size_of_val(words) as socklen_t;
    // SAFETY: `words` is borrowed mutably for the call and `len` is its size in bytes, which bounds
    // what the kernel writes. Every bit pattern is a c_int.
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
        // Unix datagrams have arrived when a send returns; UDP ones may not have.
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
        // Little room, so that it takes few: what waits at the loopback device waits among other tests' datagrams.
        nix::sys::socket::setsockopt(&to, nix::sys::socket::sockopt::RcvBuf, &4096).unwrap();
        let sent = (1..10_000).find(|_| {
            from.send(&[0; 1000]).unwrap();
            drops(to.as_fd()).unwrap() > 0
        });
        assert!(sent > Some(1), "the first datagram finds room: {sent:?}");
    }
}
