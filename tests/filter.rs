//! Under the seccomp filter a process can do what a router does, and cannot start a program. A test binary of its
//! own, because the filter stays in force for all threads.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::net::{TcpListener, ToSocketAddrs as _, UdpSocket};
use std::process::Command;
use std::thread;

use laneway::router::sandbox::syscalls;

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
