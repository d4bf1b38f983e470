//! Once traffic flows, the threads of the data path ask the allocator for nothing.
//!
//! Two routers of two lanes each run in this process over a counting allocator. After a warm-up it
//! counts what the threads called `inside-N` and `outside-N` ask for while bulk TCP, small
//! datagrams and packets that lead nowhere cross both ways. It is a test binary of its own because
//! an allocator is the whole process's.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::hint::black_box;
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use clap::Parser;
use laneway::cli::demo::lab::{Lab, Side};
use laneway::cli::demo::{DemoArgs, INSIDE4, INSIDE6, routers};
use support::{bulk, lab, require_root};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Whether requests are counted now.
static ARMED: AtomicBool = AtomicBool::new(false);
/// Requests of the data path's threads while armed.
static REQUESTS: AtomicU64 = AtomicU64::new(0);
/// Whether the first of them was shown.
static SHOWN: AtomicBool = AtomicBool::new(false);

thread_local! {
    // Const and without a destructor: to use it allocates nothing.
    static KIND: Cell<Kind> = const { Cell::new(Kind::Unknown) };
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Not asked yet.
    Unknown,
    /// A thread whose requests count.
    DataPath,
    /// Any other thread, and one that is just reporting a request.
    Other,
}

/// The system's allocator, counting.
struct Counting;

// SAFETY: every call goes to the system's allocator unchanged. The counting neither allocates nor
// unwinds, but for the one report of a request, during which its thread does not count.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract of `GlobalAlloc::alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller keeps the contract of `GlobalAlloc::realloc`.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(old, layout) }
    }
}

/// Counts a request of `size` bytes if it comes from the data path, and shows where the first of
/// them came from.
fn count(size: usize) {
    if !ARMED.load(Relaxed) || kind_of_this_thread() != Kind::DataPath {
        return;
    }
    REQUESTS.fetch_add(1, Relaxed);
    if !SHOWN.swap(true, Relaxed) {
        KIND.set(Kind::Other);
        eprintln!("a request for {size} bytes on the data path:\n{}", Backtrace::force_capture());
        KIND.set(Kind::DataPath);
    }
}

/// Asks the kernel for the thread's name, once: the standard library's way to it may allocate.
/// Only threads that had their name before the count began can be of the data path.
fn kind_of_this_thread() -> Kind {
    if KIND.get() == Kind::Unknown {
        KIND.set(Kind::Other);
        let name = thread_name();
        let ours = name.starts_with(b"inside-") || name.starts_with(b"outside-");
        KIND.set(if ours { Kind::DataPath } else { Kind::Other });
    }
    KIND.get()
}

/// At most fifteen bytes and zeroes (`PR_GET_NAME`, prctl(2)).
#[allow(unsafe_code)]
fn thread_name() -> [u8; 16] {
    let mut name = [0; 16];
    // SAFETY: the kernel writes at most sixteen bytes, which is the size of `name`.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name
}

#[test]
fn the_data_path_allocates_nothing_once_traffic_flows() {
    if !require_root() {
        return;
    }
    let lab = lab();
    let routers = routers::start(&lab, &two_lanes()).unwrap_or_else(|error| panic!("{error}"));
    // Warm-up: handshakes, each thread's first use of what it shares, buffers at their working size.
    exchange(&lab);

    ARMED.store(true, Relaxed);
    exchange(&lab);
    ARMED.store(false, Relaxed);

    assert_eq!(REQUESTS.load(Relaxed), 0, "requests on the data path; the first is shown above");
    drop(routers);

    // And a request would have been seen. This one need not be shown.
    SHOWN.store(true, Relaxed);
    let worker = thread::Builder::new().name("inside-9".into());
    let worker = worker.spawn(|| {
        while !ARMED.load(Relaxed) {
            thread::yield_now();
        }
        drop(black_box(Box::new(9)));
    });
    ARMED.store(true, Relaxed);
    worker.unwrap().join().unwrap();
    ARMED.store(false, Relaxed);
    assert_ne!(REQUESTS.load(Relaxed), 0, "the counting allocator does not count");
}

/// What the demo's routers are told.
fn two_lanes() -> DemoArgs {
    #[derive(Parser)]
    struct CommandLine {
        #[command(flatten)]
        demo: DemoArgs,
    }
    CommandLine::parse_from(["demo", "--queues", "2"]).demo
}

/// Everything a lane does: superpackets, single packets, datagrams and packets that lead nowhere,
/// over both protocols and both ways.
fn exchange(lab: &Lab) {
    let ends: [(&Side, &Side, [IpAddr; 2]); 2] = [
        (&lab.left, &lab.right, [INSIDE4[1].into(), INSIDE6[1].into()]),
        (&lab.right, &lab.left, [INSIDE4[0].into(), INSIDE6[0].into()]),
    ];
    for (from, to, addresses) in ends {
        for address in addresses {
            bulk(from, to, address, 4, 16 << 20);
            datagrams(from, address);
        }
        datagrams(from, IpAddr::from([10, 77, 0, 99]));
    }
}

/// Datagrams of many sizes to a port where nobody listens: the other end answers some of them.
fn datagrams(from: &Side, to: IpAddr) {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = from.namespace.run(|| UdpSocket::bind((any, 0))).unwrap().unwrap();
    for size in (0..1300).step_by(7) {
        // A refusal that came for an earlier one ends a send, too.
        let _ = socket.send_to(&vec![0x5a; size], (to, 9));
    }
}
