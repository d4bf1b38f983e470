//! Once traffic flows, the threads of the data path allocate nothing.
//!
//! Two routers of two lanes each run in this process with a counting allocator, first with every worker on its own,
//! then with workers that share their jobs. After a warm-up it counts the allocations of the threads called `inside-N` and `outside-N` while bulk TCP, small datagrams and packets
//! without a route cross both ways. It has its own test binary because the allocator is global.

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::hint::black_box;
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use laneway::cli::demo::lab::{Lab, Side};
use laneway::config::{Queues, Sharing};
use support::metrics::total;
use support::tunnel::Family;
use support::{bulk, lab, require_root, router};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Whether allocations are being counted.
static ARMED: AtomicBool = AtomicBool::new(false);
/// Allocations by data path threads while armed.
static REQUESTS: AtomicU64 = AtomicU64::new(0);
/// Whether the first allocation has been reported.
static SHOWN: AtomicBool = AtomicBool::new(false);

thread_local! {
    // Const and without a destructor, so that access never allocates.
    static KIND: Cell<Kind> = const { Cell::new(Kind::Unknown) };
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// The thread's name has not been looked up.
    Unknown,
    /// A thread of the data path.
    DataPath,
    /// Any other thread, or one that is reporting an allocation.
    Other,
}

/// The system allocator, with counters.
struct Counting;

// SAFETY: every call goes to the system allocator unchanged. Counting neither allocates nor unwinds, except while
// reporting an allocation, during which its thread does not count.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller upholds the contract of `GlobalAlloc::alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller upholds the contract of `GlobalAlloc::alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: the caller upholds the contract of `GlobalAlloc::realloc`.
        unsafe { System.realloc(old, layout, size) }
    }

    unsafe fn dealloc(&self, old: *mut u8, layout: Layout) {
        // SAFETY: the caller upholds the contract of `GlobalAlloc::dealloc`.
        unsafe { System.dealloc(old, layout) }
    }
}

/// Counts an allocation of `size` bytes by a data path thread, and prints a backtrace for the first.
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

/// Asks the kernel for the thread's name, once: the standard library's lookup may allocate. Only threads named
/// before the count began can be data path threads.
fn kind_of_this_thread() -> Kind {
    if KIND.get() == Kind::Unknown {
        KIND.set(Kind::Other);
        let name = thread_name();
        let ours = name.starts_with(b"inside-") || name.starts_with(b"outside-");
        KIND.set(if ours { Kind::DataPath } else { Kind::Other });
    }
    KIND.get()
}

/// At most 15 bytes and zeroes (`PR_GET_NAME`, prctl(2)).
#[allow(unsafe_code)]
fn thread_name() -> [u8; 16] {
    let mut name = [0; 16];
    // SAFETY: the kernel writes at most 16 bytes, the size of `name`.
    unsafe { libc::prctl(libc::PR_GET_NAME, name.as_mut_ptr()) };
    name
}

#[test]
fn the_data_path_allocates_nothing_once_traffic_flows() {
    require_root!();
    for share in [Sharing::Off, Sharing::On] {
        let lab = lab();
        let routers = router::pair_with(&lab, Family::V4, |config| {
            config.queues = Queues::Fixed(2);
            config.share = share;
        });
        // Warm-up: handshakes, each thread's first use of shared state, buffers grown to their working size.
        exchange(&lab);

        ARMED.store(true, Relaxed);
        exchange(&lab);
        ARMED.store(false, Relaxed);

        assert_eq!(REQUESTS.load(Relaxed), 0, "requests on the data path; the first is shown above");
        let helped: u64 =
            routers.iter().map(|router| total(router, "laneway_jobs_total", &[("by", "helper")])).sum();
        assert_eq!(helped > 0, share == Sharing::On, "{share:?}: {helped} jobs were done by other workers");
    }

    // The counter works: it sees a deliberate allocation. This one is not reported.
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

/// Sends everything a lane handles: superpackets, single packets, datagrams and packets without a route, over both
/// IP versions and both ways.
fn exchange(lab: &Lab) {
    let ends: [(&Side, &Side, [IpAddr; 2]); 2] = [
        (&lab.left, &lab.right, Family::ALL.map(|family| family.inside(2))),
        (&lab.right, &lab.left, Family::ALL.map(|family| family.inside(1))),
    ];
    for (from, to, addresses) in ends {
        for address in addresses {
            bulk(from, to, address, 4, 16 << 20);
            datagrams(from, address);
        }
        datagrams(from, IpAddr::from([10, 77, 0, 99]));
    }
}

/// Sends datagrams of many sizes to a port where nothing listens: the other end answers some of them.
fn datagrams(from: &Side, to: IpAddr) {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0_u16; 8].into() };
    let socket = from.namespace.run(|| UdpSocket::bind((any, 0))).unwrap().unwrap();
    for size in (0..1300).step_by(7) {
        // A pending ICMP error for an earlier datagram also fails a send.
        let _ = socket.send_to(&vec![0x5a; size], (to, 9));
    }
}
