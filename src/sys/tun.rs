//! The three ioctls of a TUN queue (`include/uapi/linux/if_tun.h`).

use std::os::fd::{AsFd, AsRawFd};

use nix::errno::Errno;

/// What `TUNSETOFFLOAD` can switch on (`TUN_F_*`).
pub mod offload {
    /// Checksums; every other needs it.
    pub const CSUM: u32 = libc::TUN_F_CSUM;
    /// TCP over either IP version, with and without ECN.
    pub const TSO: u32 = libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    /// UDP over either IP version: only together, from Linux 6.2 on.
    pub const USO: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;
}

/// A TUN interface's flags (`IFF_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(u16);

impl Flags {
    /// IP packets behind a virtio header, in several queues.
    pub const QUEUE: Flags =
        Flags((libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE) as u16);
    /// Fail if the interface exists.
    pub const EXCLUSIVE: Flags = Flags(libc::IFF_TUN_EXCL as u16);

    /// These flags and `others`.
    #[must_use]
    pub const fn with(self, others: Flags) -> Flags {
        Flags(self.0 | others.0)
    }

    /// Whether all of `others` are set.
    pub const fn has(self, others: Flags) -> bool {
        self.0 & others.0 == others.0
    }

    /// Whether every packet has a virtio header before it, and nothing else.
    pub const fn has_virtio_header(self) -> bool {
        self.has(Flags((libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as u16))
    }

    /// Whether further queues can be attached.
    pub const fn is_multi_queue(self) -> bool {
        self.has(Flags(libc::IFF_MULTI_QUEUE as u16))
    }
}

/// `TUNSETIFF`: makes `fd` a queue of the interface `name`, which is created if need be. Returns
/// the name as the kernel has it, with `%d` filled in.
///
/// # Errors
/// `ENAMETOOLONG` for more than 15 bytes, `EINVAL` for a NUL within, and what the kernel says.
pub fn set_interface(fd: impl AsFd, name: &str, flags: Flags) -> Result<String, Errno> {
    let mut request = request();
    let bytes = name.as_bytes();
    if bytes.contains(&0) {
        return Err(Errno::EINVAL);
    }
    // The last byte stays NUL.
    if bytes.len() >= request.ifr_name.len() {
        return Err(Errno::ENAMETOOLONG);
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(bytes) {
        *place = libc::c_char::from_ne_bytes([*byte]);
    }
    request.ifr_ifru.ifru_flags = flags.0.cast_signed();
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`. `request` is one, lives until the
    // call returns, and is borrowed by nobody else.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    Errno::result(result)?;
    Ok(interface_name(&request))
}

/// `TUNGETIFF`: the interface that `fd` is a queue of.
///
/// # Errors
/// `EBADFD` if it is a queue of none, `ENOTTY` if it is no TUN at all.
pub fn interface(fd: impl AsFd) -> Result<(String, Flags), Errno> {
    let mut request = request();
    // SAFETY: TUNGETIFF writes one `struct ifreq`. `request` is one, lives until the call returns,
    // and is borrowed by nobody else.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TUNGETIFF, &raw mut request) };
    Errno::result(result)?;
    // SAFETY: the kernel filled in the flags, and every bit pattern is a valid c_short.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok((interface_name(&request), Flags(flags.cast_unsigned())))
}

/// `TUNSETOFFLOAD`: which packets the kernel may leave unfinished, for all queues of the interface.
///
/// # Errors
/// `EINVAL` if the kernel does not know one of them.
pub fn set_offload(fd: impl AsFd, offloads: u32) -> Result<(), Errno> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory of ours.
    let result =
        unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) };
    Errno::result(result).map(drop)
}

fn request() -> libc::ifreq {
    // SAFETY: `ifreq` is a plain C struct of integers, pointers and unions of them, for which all
    // bytes zero is a valid value.
    unsafe { std::mem::zeroed() }
}

fn interface_name(request: &libc::ifreq) -> String {
    let bytes = request.ifr_name.iter().map(|c| c.to_ne_bytes()[0]).take_while(|byte| *byte != 0).collect();
    // Names are ours or the kernel's, ASCII in practice; anything else is only for display.
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
