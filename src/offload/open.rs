//! Opening a TUN interface: attaches its queues and negotiates offloads with the kernel.

use std::fs::OpenOptions;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::unistd::Uid;
use serde::{Deserialize, Serialize};

use super::error::{CLONE_DEVICE, OpenError};
use super::limits::Limits;
use super::port::Port;
use super::probe::{self, takes_tunnels};
use super::reader::{QueueReader, TunnelsSeen};
use super::virtio::HeaderForm;
use super::writer::{QueueRejecter, QueueShortcut, QueueWriter};
use crate::shutdown::Shutdown;
use crate::sys::tun::{self, DeviceFlags, offload};

/// A TUN interface and its queues. Unless it was made persistent, the interface is deleted when the
/// last part of the last queue is dropped.
#[derive(Debug)]
pub struct TunDevice {
    /// Name of the interface, with `%d` resolved.
    pub name: String,
    /// Offloads that the kernel granted, the same for every queue.
    pub offloads: Offloads,
    /// Whether superpackets inside UDP tunnels are read.
    pub tunnels: TunnelsSeen,
    /// Whether superpackets inside UDP tunnels are written: whether the kernel takes them.
    pub writes_tunnels: bool,
    /// One queue for each lane.
    pub queues: Vec<Offload>,
    /// Decides whether the interface outlives the process.
    pub lifetime: Lifetime,
    /// The descriptor of each queue.
    pub descriptors: Vec<Arc<OwnedFd>>,
}

/// Decides whether an interface outlives the process that has its queues open.
#[derive(Clone, Debug)]
pub struct Lifetime {
    queue: Arc<OwnedFd>,
    taken_over: bool,
}

impl Lifetime {
    /// Returns whether the interface existed before this process attached to it.
    pub fn taken_over(&self) -> bool {
        self.taken_over
    }

    /// Returns the network namespace that the interface is in, and the interface's name there.
    ///
    /// # Errors
    /// `EBADFD` if the interface is gone, `EINVAL` before Linux 5.2, or the kernel's error.
    pub fn whereabouts(&self) -> Result<(OwnedFd, String), Errno> {
        Ok((tun::namespace(&self.queue)?, tun::interface(&self.queue)?.0))
    }

    /// Keeps the interface with its addresses and routes when the last queue is closed, whatever closes it. The
    /// kernel drops all packets for the interface while no queue is attached.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn outlive_process(&self) -> Result<(), OpenError> {
        tun::set_persistent(&self.queue, true).map_err(|errno| os("TUNSETPERSIST", errno))
    }

    /// Reverts [`outlive_process`](Self::outlive_process). Takes no lock and allocates no memory.
    ///
    /// # Errors
    /// The kernel's error.
    pub fn end_with_process(&self) -> Result<(), Errno> {
        tun::set_persistent(&self.queue, false)
    }
}

/// The parts of one queue. They share only the file descriptor, so the writer and the rejecter can
/// write while a read is borrowed from the reader.
#[derive(Debug)]
pub struct Offload {
    /// Reads packets and superpackets.
    pub reader: QueueReader,
    /// Writes packets and superpackets.
    pub writer: QueueWriter,
    /// Writes rejects, and packets for the interface's own address, while a read is borrowed.
    pub rejecter: QueueRejecter,
    /// Lets other workers write single packets while the worker that owns the queue sleeps.
    pub shortcut: QueueShortcut,
}

/// Segmentation offloads of a TUN interface, in both directions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offloads {
    /// TCP segmentation (TSO), with checksum offload.
    pub tcp: bool,
    /// UDP segmentation (USO), with checksum offload.
    pub udp: bool,
    /// Segmentation of TCP and UDP inside UDP tunnels, with and without outer checksum. In the direction to
    /// the kernel, see [`TunDevice::writes_tunnels`].
    pub udp_tunnel: bool,
}

/// Maximum queues of one interface: `MAX_TAP_QUEUES` in `drivers/net/tun.c`.
const MAX_QUEUES: usize = 256;

/// Creates the interface `name` with this number of `queues`. The kernel replaces a `%d` in the name
/// with a free number. Requests offloads only if `offload` is true.
///
/// # Errors
/// See [`OpenError`]. On an error no interface is left behind.
pub fn open_queues(
    name: &str,
    queues: usize,
    offload: bool,
    shutdown: &Arc<Shutdown>,
) -> Result<TunDevice, OpenError> {
    check(name, queues)?;
    let first = clone_device()?;
    // Exclusive, so that a second process cannot attach to the interface and silently take its packets.
    let name = attach(&first, name, DeviceFlags::QUEUE.with(DeviceFlags::EXCLUSIVE))?;
    restrict(&first)?;
    finish(first, name, queues, offload, shutdown, false)
}

/// Like [`open_queues`], but if a persistent interface of this name exists and no process has it open, takes it over
/// with its addresses and routes. `attached` returns the number of queues of a persistent multiqueue TUN interface,
/// and `None` for any other.
///
/// # Errors
/// See [`OpenError`]; [`OpenError::Busy`] if another process has a queue, or attaches one at the same time.
pub fn open_or_take_over(
    name: &str,
    queues: usize,
    offload: bool,
    shutdown: &Arc<Shutdown>,
    attached: impl Fn(&str) -> Option<usize>,
) -> Result<TunDevice, OpenError> {
    match open_queues(name, queues, offload, shutdown) {
        // Checked before attaching, since a further queue would take packets from a process that has others.
        Err(OpenError::Busy { .. }) if attached(name) == Some(0) => {}
        result => return result,
    }
    let first = clone_device()?;
    let name = attach(&first, name, DeviceFlags::QUEUE)?;
    restrict(&first)?;
    let device = finish(first, name, queues, offload, shutdown, true)?;
    if attached(&device.name) == Some(queues) {
        Ok(device)
    } else {
        Err(OpenError::Busy { name: device.name })
    }
}

/// Keeps other users from attaching to the interface.
fn restrict(queue: &OwnedFd) -> Result<(), OpenError> {
    tun::set_owner(queue, Uid::effective()).map_err(|errno| os("TUNSETOWNER", errno))
}

/// Takes over a queue that another process opened (`WG_TUN_FD`) and attaches further queues to its
/// interface, for a total of `queues`. Requests offloads only if `offload` is true.
///
/// # Errors
/// See [`OpenError`].
pub fn inherit_queue(
    fd: OwnedFd,
    queues: usize,
    offload: bool,
    shutdown: &Arc<Shutdown>,
) -> Result<TunDevice, OpenError> {
    let (name, flags) = tun::interface(&fd).map_err(|_| OpenError::Inherited)?;
    check(&name, queues)?;
    if !flags.has_virtio_header() || (queues > 1 && !flags.is_multi_queue()) {
        return Err(OpenError::Inherited);
    }
    set_flags(&fd).map_err(|errno| os("fcntl on the inherited descriptor", errno))?;
    finish(fd, name, queues, offload, shutdown, true)
}

/// Takes over all queues of an interface that another process has opened. If that process still reads them, `offloads`
/// are those of the interface, and nothing about it is changed. Otherwise offloads are requested if `offload` is true.
/// `tunnels` says whether the kernel takes superpackets inside UDP tunnels, if that process has tried.
///
/// # Errors
/// See [`OpenError`].
pub fn inherit_queues(
    fds: Vec<OwnedFd>,
    offloads: Option<Offloads>,
    offload: bool,
    tunnels: Option<bool>,
    shutdown: &Arc<Shutdown>,
) -> Result<TunDevice, OpenError> {
    probe::learn(tunnels);
    let mut name = None;
    for fd in &fds {
        let (of, flags) = tun::interface(fd).map_err(|_| OpenError::Inherited)?;
        let same = *name.get_or_insert_with(|| of.clone()) == of;
        if !same || !flags.has_virtio_header() || (fds.len() > 1 && !flags.is_multi_queue()) {
            return Err(OpenError::Inherited);
        }
    }
    let name = name.ok_or(OpenError::Queues { queues: 0 })?;
    check(&name, fds.len())?;
    let offloads = match offloads {
        Some(offloads) => offloads,
        None => negotiated(&fds, offload)?,
    };
    Ok(assemble(fds, name, offloads, shutdown, true))
}

/// Returns the writing parts of a queue that discards everything.
#[cfg(any(test, fuzzing))]
pub(crate) fn discarding(shutdown: &Arc<Shutdown>) -> (QueueWriter, QueueRejecter, QueueShortcut) {
    let null = std::fs::File::options().write(true).open("/dev/null").expect("a null device");
    let port = Port::new(Arc::new(null.into()), Arc::clone(shutdown), super::virtio::HeaderForm::Short);
    let writer = QueueWriter::new(port.clone(), Limits::NONE);
    (writer, QueueRejecter::new(port.clone()), QueueShortcut::new(port))
}

/// Attaches the remaining queues and enables offloads.
fn finish(
    first: OwnedFd,
    name: String,
    queues: usize,
    offload: bool,
    shutdown: &Arc<Shutdown>,
    taken_over: bool,
) -> Result<TunDevice, OpenError> {
    let mut fds = vec![first];
    while fds.len() < queues {
        let fd = clone_device()?;
        attach(&fd, &name, DeviceFlags::QUEUE)?;
        fds.push(fd);
    }
    let offloads = negotiated(&fds, offload)?;
    Ok(assemble(fds, name, offloads, shutdown, taken_over))
}

/// Enables as many offloads of the interface as the kernel accepts.
fn negotiated(fds: &[OwnedFd], offload: bool) -> Result<Offloads, OpenError> {
    negotiate(fds, offload, |fd, rung| {
        // The kernel grants tunnel offloads only with the long header.
        tun::set_header_len(fd, rung.header().len())?;
        tun::set_offload(fd, rung.mask())
    })
}

/// Builds the parts of an interface with these queues.
fn assemble(
    fds: Vec<OwnedFd>,
    name: String,
    offloads: Offloads,
    shutdown: &Arc<Shutdown>,
    taken_over: bool,
) -> TunDevice {
    let header = offloads.header();
    let limits = Limits::for_kernel(&kernel_release(), offloads.tcp, offloads.udp);
    let writes_tunnels = offloads.udp_tunnel && takes_tunnels();
    let limits = if writes_tunnels { limits.with_tunnels() } else { limits };
    let fds: Vec<_> = fds.into_iter().map(Arc::new).collect();
    let tunnels = TunnelsSeen::default();
    let lifetime = Lifetime { queue: Arc::clone(&fds[0]), taken_over };
    let queue = |fd: Arc<OwnedFd>| {
        let port = Port::new(Arc::clone(&fd), Arc::clone(shutdown), header);
        Offload {
            reader: QueueReader::new(fd, header, tunnels.clone()),
            writer: QueueWriter::new(port.clone(), limits),
            rejecter: QueueRejecter::new(port.clone()),
            shortcut: QueueShortcut::new(port),
        }
    };
    let descriptors = fds.clone();
    let queues = fds.into_iter().map(queue).collect();
    TunDevice { name, offloads, tunnels, writes_tunnels, queues, lifetime, descriptors }
}

/// Enables as many offloads as the kernel accepts. The mask belongs to the interface and the last one
/// set wins, so every queue sets the same mask.
fn negotiate<Q>(
    queues: &[Q],
    offload: bool,
    set: impl Fn(&Q, Offloads) -> Result<(), Errno>,
) -> Result<Offloads, OpenError> {
    let ladder = [
        Offloads { tcp: true, udp: true, udp_tunnel: true },
        Offloads { tcp: true, udp: true, udp_tunnel: false }, // Linux before 6.17
        Offloads { tcp: true, udp: false, udp_tunnel: false }, // Linux before 6.2
        Offloads::default(),
    ];
    let rungs = if offload { &ladder[..] } else { &ladder[3..] };
    let mut refusal = Errno::EINVAL;
    for rung in rungs {
        match queues.iter().try_for_each(|queue| set(queue, *rung)) {
            Ok(()) => return Ok(*rung),
            Err(errno) => refusal = errno,
        }
    }
    Err(os("TUNSETOFFLOAD", refusal))
}

impl Offloads {
    fn mask(self) -> u32 {
        let of = |granted, mask| if granted { offload::CSUM | mask } else { 0 };
        of(self.tcp, offload::TSO) | of(self.udp, offload::USO) | of(self.udp_tunnel, offload::UDP_TUNNEL)
    }

    fn header(self) -> HeaderForm {
        if self.udp_tunnel { HeaderForm::Long } else { HeaderForm::Short }
    }
}

fn check(name: &str, queues: usize) -> Result<(), OpenError> {
    if !(1..=MAX_QUEUES).contains(&queues) {
        return Err(OpenError::Queues { queues });
    }
    let wrong = |c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace();
    if !(1..16).contains(&name.len()) || name.contains(wrong) {
        return Err(OpenError::Name { name: name.to_owned() });
    }
    Ok(())
}

pub(super) fn clone_device() -> Result<OwnedFd, OpenError> {
    // The standard library opens with O_CLOEXEC.
    let flags = OFlag::O_NONBLOCK.bits();
    match OpenOptions::new().read(true).write(true).custom_flags(flags).open(CLONE_DEVICE) {
        Ok(file) => Ok(file.into()),
        Err(error) => Err(match error.raw_os_error().map(Errno::from_raw) {
            // EPERM comes from the device cgroup: the container was started without --device.
            Some(Errno::ENOENT | Errno::ENXIO | Errno::ENODEV | Errno::EPERM) => OpenError::NoDevice,
            Some(Errno::EACCES) => OpenError::Forbidden,
            Some(Errno::EISDIR) => OpenError::NotTun,
            _ => OpenError::Os { operation: "opening /dev/net/tun", source: error },
        }),
    }
}

pub(super) fn attach(fd: &OwnedFd, name: &str, flags: DeviceFlags) -> Result<String, OpenError> {
    tun::set_interface(fd, name, flags).map_err(|errno| match errno {
        Errno::EPERM | Errno::EACCES => OpenError::NoPermission,
        // Not a command of a file or another device.
        Errno::ENOTTY => OpenError::NotTun,
        Errno::EBUSY | Errno::EEXIST => OpenError::Busy { name: name.to_owned() },
        Errno::ENAMETOOLONG => OpenError::Name { name: name.to_owned() },
        _ => os("TUNSETIFF", errno),
    })
}

/// Sets the flags of an inherited descriptor to those of one opened here: nonblocking, close-on-exec.
fn set_flags(fd: impl AsFd) -> Result<(), Errno> {
    let status = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL)?);
    fcntl(fd.as_fd(), FcntlArg::F_SETFL(status | OFlag::O_NONBLOCK))?;
    fcntl(fd.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map(drop)
}

/// Returns the kernel release as `uname -r` prints it, or an empty string if it cannot be read, which
/// [`Limits::for_kernel`] treats as an old kernel.
fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default()
}

pub(super) fn os(operation: &'static str, errno: Errno) -> OpenError {
    OpenError::Os { operation, source: errno.into() }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_name_the_kernel_would_refuse_is_refused_before_anything_is_opened() {
        for name in ["", "sixteen-bytes-xx", "a b", "a/b", "a:b"] {
            assert!(matches!(check(name, 1), Err(OpenError::Name { .. })), "{name:?}");
        }
        assert!(check("fifteen-bytes-x", 1).is_ok());
        assert!(check("lane%d", MAX_QUEUES).is_ok());
        assert!(matches!(check("lane0", 0), Err(OpenError::Queues { queues: 0 })));
        assert!(matches!(check("lane0", 257), Err(OpenError::Queues { queues: 257 })));
    }

    /// Negotiates for three queues of a kernel that knows only the `known` offloads. Returns the result
    /// and the mask that each queue ends up with.
    fn negotiated(known: u32, offload: bool) -> (Offloads, [u32; 3]) {
        let queues: [Cell<u32>; 3] = Default::default();
        let set = |queue: &Cell<u32>, rung: Offloads| {
            let mask = rung.mask();
            if mask & !known != 0 {
                return Err(Errno::EINVAL);
            }
            queue.set(mask);
            Ok(())
        };
        let offloads = negotiate(&queues, offload, set).expect("the empty mask is always accepted");
        (offloads, queues.map(Cell::into_inner))
    }

    #[test]
    fn every_queue_sets_the_most_that_the_kernel_knows() {
        use offload::{CSUM, TSO, UDP_TUNNEL, USO};
        let all = Offloads { tcp: true, udp: true, udp_tunnel: true };
        let plain = Offloads { udp_tunnel: false, ..all };
        let tcp = Offloads { udp: false, ..plain };
        let every = CSUM | TSO | USO | UDP_TUNNEL;
        assert_eq!(negotiated(every, true), (all, [every; 3]));
        assert_eq!(negotiated(CSUM | TSO | USO, true), (plain, [CSUM | TSO | USO; 3]), "Linux before 6.17");
        assert_eq!(negotiated(CSUM | TSO, true), (tcp, [CSUM | TSO; 3]), "Linux before 6.2");
        assert_eq!(negotiated(CSUM, true), (Offloads::default(), [0; 3]), "checksums alone are useless");
        assert_eq!(negotiated(CSUM | TSO | USO, false), (Offloads::default(), [0; 3]), "not requested");
    }

    #[test]
    fn a_refusal_of_everything_is_an_error() {
        let refused = negotiate(&[()], true, |(), _| Err(Errno::EPERM));
        assert!(matches!(refused, Err(OpenError::Os { operation: "TUNSETOFFLOAD", .. })));
    }

    #[test]
    fn a_descriptor_that_is_no_tun_is_refused() {
        let shutdown = Arc::new(Shutdown::new().unwrap());
        let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        assert!(matches!(inherit_queue(file, 1, true, &shutdown), Err(OpenError::Inherited)));
    }
}
