//! Inherited descriptors, passed by number in an environment variable.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Takes ownership of the inherited descriptor `fd` and sets its close-on-exec flag. Must be called once per
/// descriptor, before anything else opens descriptors.
///
/// # Errors
/// `EBADF` if `fd` is not open, or is standard input, output or error.
pub fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    if fd <= libc::STDERR_FILENO {
        return Err(Errno::EBADF.into());
    }
    // SAFETY: the borrow lasts for this call only, and fcntl returns EBADF for a descriptor that is
    // not open. -1, the only value a BorrowedFd must not hold, was rejected above.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: the descriptor is open, or fcntl would have failed. It was inherited, and the caller guarantees
    // that nothing in the process has opened or owns it.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    debug_assert_eq!(owned.as_raw_fd(), fd);
    Ok(owned)
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd as _;

    use super::*;

    #[test]
    fn an_open_descriptor_is_adopted_and_closed_on_exec() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let adopted = adopt(writer.into_raw_fd()).unwrap();
        let flags = fcntl(&adopted, FcntlArg::F_GETFD).unwrap();
        assert_eq!(flags & FdFlag::FD_CLOEXEC.bits(), FdFlag::FD_CLOEXEC.bits());
        drop(adopted);
        // Dropping it closes the pipe: the other end reads end of file.
        assert_eq!(nix::unistd::read(&reader, &mut [0]).unwrap(), 0);
    }

    #[test]
    fn what_is_not_open_or_not_ours_is_refused() {
        for fd in [-1, 0, 1, 2, 1_000_000] {
            assert_eq!(adopt(fd).unwrap_err().raw_os_error(), Some(libc::EBADF), "{fd}");
        }
    }
}
