//! Passes descriptors over a UNIX socket (`SCM_RIGHTS`, unix(7)).

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// Maximum number of descriptors in one message (`SCM_MAX_FD` in `include/net/scm.h`).
pub const MAX: usize = 253;

/// Sends `bytes` with up to [`MAX`] descriptors. Returns how many bytes were sent; the descriptors go with the first.
///
/// # Errors
/// The kernel's error, in which case nothing was sent. Retries on `EINTR`.
pub fn send(socket: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
    let raw: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights };
    loop {
        let fd = socket.as_fd().as_raw_fd();
        match sendmsg::<()>(fd, &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None) {
            Err(Errno::EINTR) => {}
            sent => return sent,
        }
    }
}

/// Receives bytes, and the descriptors that came with them, which are closed on exec. Returns the number of bytes, 0 at
/// the end of the stream.
///
/// # Errors
/// The kernel's error; `EMSGSIZE` if descriptors were cut off. Retries on `EINTR`.
pub fn receive(socket: impl AsFd, bytes: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), Errno> {
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; MAX]);
    let mut room = [IoSliceMut::new(bytes)];
    let received = loop {
        let fd = socket.as_fd().as_raw_fd();
        match recvmsg::<()>(fd, &mut room, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC) {
            Err(Errno::EINTR) => {}
            received => break received?,
        }
    };
    let mut descriptors = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            // SAFETY: the kernel has opened these descriptors for this call, so nothing else owns them, and each
            // message is read once.
            descriptors.extend(raw.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if received.flags.contains(MsgFlags::MSG_CTRUNC) {
        return Err(Errno::EMSGSIZE);
    }
    Ok((received.bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn descriptors_arrive_in_order_and_work() {
        const COUNT: usize = 20;
        let (from, to) = UnixStream::pair().unwrap();
        let pipes: Vec<_> = (0..COUNT).map(|_| std::io::pipe().unwrap()).collect();
        let writers: Vec<_> = pipes.iter().map(|(_, writer)| writer.as_fd()).collect();
        assert_eq!(send(&from, b"x", &writers), Ok(1));
        let mut byte = [0; 4];
        let (1, received) = receive(&to, &mut byte).unwrap() else { panic!("one byte") };
        assert_eq!((byte[0], received.len()), (b'x', COUNT));
        for (number, (writer, (mut reader, _))) in (0..).zip(received.into_iter().zip(pipes)) {
            std::fs::File::from(writer).write_all(&[number]).unwrap();
            let mut read = [0];
            reader.read_exact(&mut read).unwrap();
            assert_eq!(read, [number]);
        }
        drop(from);
        assert_eq!(receive(&to, &mut byte).unwrap().0, 0);
    }
}
