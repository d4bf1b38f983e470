//! Inherited descriptors, passed by number in an environment variable.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Takes ownership of the inherited descriptor `fd` and sets its close-on-exec flag, so each descriptor can be
/// adopted once only.
///
/// # Errors
/// `EBADF` if `fd` is not open, is standard input, output or error, or has its close-on-exec flag set, as all
/// descriptors have that were opened or adopted by this process.
pub fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    /// Held while a descriptor's flag is tested and set, so that two threads cannot adopt the same one.
    static ADOPTING: Mutex<()> = Mutex::new(());
    let _adopting = ADOPTING.lock().unwrap_or_else(PoisonError::into_inner);
    if fd <= libc::STDERR_FILENO {
        return Err(Errno::EBADF.into());
    }
    // SAFETY: the borrow lasts for this call only, and fcntl returns EBADF for a descriptor that is
    // not open. -1, the only value a BorrowedFd must not hold, was rejected above.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let flags = FdFlag::from_bits_retain(fcntl(borrowed, FcntlArg::F_GETFD)?);
    if flags.contains(FdFlag::FD_CLOEXEC) {
        return Err(Errno::EBADF.into());
    }
    fcntl(borrowed, FcntlArg::F_SETFD(flags | FdFlag::FD_CLOEXEC))?;
    // SAFETY: the descriptor is open, or fcntl would have failed, and nothing in this process owns it. The
    // standard library and this crate open every descriptor with FD_CLOEXEC and never clear the flag except on
    // standard streams, which were refused above, and the flag was clear: the descriptor was left open
    // across exec, which gives it no owner. The flag is set now and was tested and set under one lock, so no
    // other call has adopted or will adopt the same descriptor.
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
        assert_eq!(
            adopt(adopted.as_raw_fd()).unwrap_err().raw_os_error(),
            Some(libc::EBADF),
            "a second time"
        );
        drop(adopted);
        // Dropping it closes the pipe: the other end reads end of file.
        assert_eq!(nix::unistd::read(&reader, &mut [0]).unwrap(), 0);
    }

    #[test]
    fn descriptors_that_are_not_open_or_not_inherited_are_refused() {
        let ours = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(adopt(ours.as_raw_fd()).unwrap_err().raw_os_error(), Some(libc::EBADF));
        for fd in [-1, 0, 1, 2, 1_000_000] {
            assert_eq!(adopt(fd).unwrap_err().raw_os_error(), Some(libc::EBADF), "{fd}");
        }
    }
}
