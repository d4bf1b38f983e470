//! TUN ioctls (`include/uapi/linux/if_tun.h`).

use std::os::fd::{AsFd, AsRawFd, FromRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::unistd::Uid;

/// Offloads for [`set_offload`] (`TUN_F_*`).
pub mod offload {
    /// Checksum offload; required by the others.
    pub const CSUM: u32 = libc::TUN_F_CSUM;
    /// TCP segmentation offload for IPv4 and IPv6, with and without ECN.
    pub const TSO: u32 = libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
    /// UDP segmentation offload for IPv4 and IPv6, which can only be enabled together. Since Linux 6.2.
    pub const USO: u32 = libc::TUN_F_USO4 | libc::TUN_F_USO6;
    /// Segmentation offload for TCP and UDP inside UDP tunnels, without and with outer checksum
    /// (`TUN_F_UDP_TUNNEL_GSO`, `TUN_F_UDP_TUNNEL_GSO_CSUM`). Since Linux 6.17.
    pub const UDP_TUNNEL: u32 = 0x080 | 0x100;
}

/// Flags of a TUN interface (`IFF_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFlags(u16);

impl DeviceFlags {
    /// Multiqueue, with a virtio header before each IP packet.
    pub const QUEUE: DeviceFlags =
        DeviceFlags((libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE) as u16);
    /// Fail if the interface exists.
    pub const EXCLUSIVE: DeviceFlags = DeviceFlags(libc::IFF_TUN_EXCL as u16);

    /// Returns the union of these flags and `others`.
    #[must_use]
    pub const fn with(self, others: DeviceFlags) -> DeviceFlags {
        DeviceFlags(self.0 | others.0)
    }

    /// Returns whether all of `others` are set.
    pub const fn has(self, others: DeviceFlags) -> bool {
        self.0 & others.0 == others.0
    }

    /// Returns whether each packet is preceded by a virtio header and nothing else.
    pub const fn has_virtio_header(self) -> bool {
        self.has(DeviceFlags((libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as u16))
    }

    /// Returns whether further queues can be attached.
    pub const fn is_multi_queue(self) -> bool {
        self.has(DeviceFlags(libc::IFF_MULTI_QUEUE as u16))
    }
}

/// Attaches `fd` to the interface `name` as a queue, creating the interface if necessary (`TUNSETIFF`). Returns the
/// actual name: the kernel replaces `%d` with a number.
///
/// # Errors
/// `ENAMETOOLONG` if the name is longer than 15 bytes, `EINVAL` if it contains a NUL, or the kernel's error.
pub fn set_interface(fd: impl AsFd, name: &str, flags: DeviceFlags) -> Result<String, Errno> {
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
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`. `request` is one, outlives the call and is not
    // borrowed elsewhere.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    Errno::result(result)?;
    Ok(interface_name(&request))
}

/// Returns the name and flags of the interface that `fd` is a queue of (`TUNGETIFF`).
///
/// # Errors
/// `EBADFD` if `fd` is not attached to an interface, `ENOTTY` if it is not a TUN descriptor.
pub fn interface(fd: impl AsFd) -> Result<(String, DeviceFlags), Errno> {
    let mut request = request();
    // SAFETY: TUNGETIFF writes one `struct ifreq`. `request` is one, outlives the call and is not borrowed
    // elsewhere.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TUNGETIFF, &raw mut request) };
    Errno::result(result)?;
    // SAFETY: the kernel has set the flags, and every bit pattern is a valid c_short.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok((interface_name(&request), DeviceFlags(flags.cast_unsigned())))
}

/// Returns the network namespace that the interface is in (`TUNGETDEVNETNS`, since Linux 5.2).
///
/// # Errors
/// `EBADFD` if the interface is gone, `EPERM` without `CAP_NET_ADMIN` in the namespace.
pub fn namespace(fd: impl AsFd) -> Result<OwnedFd, Errno> {
    // SAFETY: TUNGETDEVNETNS takes no argument and accesses no user memory.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), GET_NAMESPACE) };
    let namespace = Errno::result(result)?;
    // SAFETY: the kernel has opened this descriptor for this call, so nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(namespace) })
}

/// `TUNGETDEVNETNS`: `_IO('T', 227)`, which the libc crate lacks.
pub const GET_NAMESPACE: libc::Ioctl = 0x54e3;

/// Sets the offloads of all queues of the interface (`TUNSETOFFLOAD`): which packets the kernel may pass on without
/// checksum or segmentation.
///
/// # Errors
/// `EINVAL` if the kernel does not support one of the offloads.
pub fn set_offload(fd: impl AsFd, offloads: u32) -> Result<(), Errno> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value and accesses no user memory.
    let result =
        unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(offloads)) };
    Errno::result(result).map(drop)
}

/// Sets the length in bytes of the virtio header that precedes each packet of the interface, in both directions
/// (`TUNSETVNETHDRSZ`).
///
/// # Errors
/// `EINVAL` if the length is shorter than the short form of the header.
pub fn set_header_len(fd: impl AsFd, len: usize) -> Result<(), Errno> {
    const TUNSETVNETHDRSZ: libc::c_ulong = nix::request_code_write!(b'T', 216, size_of::<libc::c_int>());
    let len = libc::c_int::try_from(len).map_err(|_| Errno::EINVAL)?;
    // SAFETY: TUNSETVNETHDRSZ reads one int through its argument. `len` is one and outlives the call.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), TUNSETVNETHDRSZ as _, &raw const len) };
    Errno::result(result).map(drop)
}

/// Sets whether the interface stays when its last queue is closed (`TUNSETPERSIST`).
///
/// # Errors
/// The kernel's error.
pub fn set_persistent(fd: impl AsFd, persistent: bool) -> Result<(), Errno> {
    // SAFETY: TUNSETPERSIST takes its argument by value and accesses no user memory.
    let result =
        unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TUNSETPERSIST, libc::c_ulong::from(persistent)) };
    Errno::result(result).map(drop)
}

/// Lets only `user` and holders of `CAP_NET_ADMIN` attach to the interface (`TUNSETOWNER`). An interface without an
/// owner accepts queues from every user.
///
/// # Errors
/// `EINVAL` if the user does not exist in the process's user namespace.
pub fn set_owner(fd: impl AsFd, user: Uid) -> Result<(), Errno> {
    // SAFETY: TUNSETOWNER takes its argument by value and accesses no user memory.
    let result =
        unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TUNSETOWNER, libc::c_ulong::from(user.as_raw())) };
    Errno::result(result).map(drop)
}

fn request() -> libc::ifreq {
    // SAFETY: `ifreq` is a C struct of integers, pointers and unions of them, for which all zeros is a valid
    // value.
    unsafe { std::mem::zeroed() }
}

fn interface_name(request: &libc::ifreq) -> String {
    let bytes = request.ifr_name.iter().map(|c| c.to_ne_bytes()[0]).take_while(|byte| *byte != 0).collect();
    // Names are ASCII in practice; other bytes are replaced, for display only.
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}
