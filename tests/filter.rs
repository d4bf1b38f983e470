//! Under the seccomp filter a process can do what a router does, and cannot start a program. A test binary of its
//! own, because the filter stays in force for all threads.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fs::File;
use std::net::{TcpListener, ToSocketAddrs as _, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::process::Command;
use std::thread;

use laneway::router::sandbox::syscalls;
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};

/// Maps one page of `file` with the protection `PROT_*`, then changes its protection.
#[allow(unsafe_code)]
fn map(file: &File, protection: libc::c_int, then: libc::c_int) -> Result<(), Errno> {
    // SAFETY: the kernel picks an unused address, and nothing reads or writes the mapping.
    let mapped =
        unsafe { libc::mmap(std::ptr::null_mut(), 4096, protection, libc::MAP_PRIVATE, file.as_raw_fd(), 0) };
    if mapped == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    // SAFETY: the page was mapped above and is not used.
    Errno::result(unsafe { libc::mprotect(mapped, 4096, then) }).map(drop)
}

#[test]
fn a_filtered_process_starts_no_program_and_does_everything_else() {
    let (started, wait) = std::sync::mpsc::channel::<()>();
    // A thread that existed before the filter is filtered too.
    let before = thread::spawn(move || {
        wait.recv().unwrap();
        Command::new("/bin/true").status().unwrap_err().raw_os_error()
    });
    syscalls::restrict().unwrap();
    started.send(()).unwrap();
    assert_eq!(before.join().unwrap(), Some(libc::ENOSYS));
    assert_eq!(Command::new("/bin/true").status().unwrap_err().raw_os_error(), Some(libc::ENOSYS));
    assert_eq!(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUTS), Err(nix::errno::Errno::ENOSYS));

    // Families of sockets, requests of ioctl, and code.
    for (family, protocol) in [
        (AddressFamily::Netlink, Some(SockProtocol::NetlinkNetFilter)),
        (AddressFamily::Netlink, Some(SockProtocol::NetlinkSockDiag)),
        (AddressFamily::Packet, None),
        (AddressFamily::Vsock, None),
    ] {
        let refused = socket(family, SockType::Raw, SockFlag::empty(), protocol).unwrap_err();
        assert_eq!(refused, Errno::ENOSYS, "{family:?} {protocol:?}");
    }
    let protocol = SockProtocol::NetlinkRoute;
    let routes = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::empty(), protocol).unwrap();
    assert_eq!(laneway::sys::tun::set_offload(&routes, 0).unwrap_err(), Errno::ENOSYS);
    let file = File::open("/proc/self/exe").unwrap();
    let (data, code) = (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ | libc::PROT_EXEC);
    assert_eq!(map(&file, data, libc::PROT_READ), Ok(()));
    assert_eq!(map(&file, code, libc::PROT_READ), Err(Errno::ENOSYS));
    assert_eq!(map(&file, data, code), Err(Errno::ENOSYS));

    // New threads, name lookups, sockets, files, and the output of a panic.
    assert_eq!(thread::spawn(|| 7).join().unwrap(), 7);
    assert!(("localhost", 1).to_socket_addrs().unwrap().next().is_some());
    UdpSocket::bind("127.0.0.1:0").unwrap();
    TcpListener::bind("[::1]:0").unwrap();
    std::fs::read_to_string("/proc/self/stat").unwrap();
    let backtrace = Backtrace::force_capture();
    assert_eq!(backtrace.status(), BacktraceStatus::Captured);
    assert!(backtrace.to_string().contains("a_filtered_process"), "{backtrace}");
    assert!(thread::spawn(|| panic!("on purpose")).join().is_err());
}
