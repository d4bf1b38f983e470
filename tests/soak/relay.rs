//! The relay on the underlay: all packets between the routers pass through it, as IP packets from a TUN device and back
//! into it. It can corrupt, duplicate, reorder and drop.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Instant;

use laneway::cli::demo::lab::Side;
use laneway::sys::tun::{self, DeviceFlags};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{read, write};

use super::ledger::Random;
use crate::support::network::ip;

/// The relay's TUN device.
const DEVICE: &str = "relay";

/// The virtio header before each packet: all zero, since the device has no offloads.
const HEADER: usize = 10;

/// How often each thing happens to a packet, per thousand.
#[derive(Clone, Copy, Debug, Default)]
pub struct Trouble {
    pub corrupt: u64,
    pub duplicate: u64,
    pub reorder: u64,
    pub drop: u64,
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    /// Corrupt, duplicate, reorder, drop: how often per thousand, and how often so far.
    set: [AtomicU64; 4],
    done: [AtomicU64; 4],
    passed: AtomicU64,
}

pub struct Relay {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Starts the relay at `middle`, which forwards what comes from `devices` through it.
    pub fn start(middle: &Side, devices: [&str; 2], random: Random) -> Relay {
        let open = || -> File {
            let mut options = OpenOptions::new();
            options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
            let tun = options.open("/dev/net/tun").expect("a TUN");
            tun::set_interface(&tun, DEVICE, DeviceFlags::QUEUE).expect("an interface");
            tun
        };
        let tun = middle.namespace.run(open).expect("enter");
        ip(middle, &format!("link set {DEVICE} up mtu 9000 txqueuelen 10000"));
        for version in ["-4", "-6"] {
            ip(middle, &format!("{version} route add default dev {DEVICE} table 100"));
            for device in devices {
                ip(middle, &format!("{version} rule add iif {device} lookup 100"));
            }
        }
        let shared = Arc::new(Shared::default());
        let own = Arc::clone(&shared);
        let thread =
            std::thread::spawn(move || Worker { tun, shared: own, random, waiting: BinaryHeap::new() }.run());
        Relay { shared, thread: Some(thread) }
    }

    pub fn set(&self, trouble: Trouble) {
        let values = [trouble.corrupt, trouble.duplicate, trouble.reorder, trouble.drop];
        for (place, value) in self.shared.set.iter().zip(values) {
            place.store(value, Relaxed);
        }
    }

    /// Returns what it has done so far, as a sentence.
    pub fn report(&self) -> String {
        let done = [0, 1, 2, 3].map(|index: usize| self.shared.done[index].load(Relaxed));
        format!(
            "relay: {} packets, of which {} corrupted, {} duplicated, {} reordered, {} dropped",
            self.shared.passed.load(Relaxed),
            done[0],
            done[1],
            done[2],
            done[3]
        )
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.over.store(true, Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct Worker {
    tun: File,
    shared: Arc<Shared>,
    random: Random,
    /// Packets held back, by when they are due.
    waiting: BinaryHeap<Reverse<(Instant, Vec<u8>)>>,
}

impl Worker {
    fn run(mut self) {
        let mut bytes = vec![0; 65_536 + HEADER];
        while !self.shared.over.load(Relaxed) {
            let length = read(&self.tun, &mut bytes).unwrap_or(0);
            if length > HEADER {
                self.take(&bytes[..length]);
            }
            let now = Instant::now();
            while self.waiting.peek().is_some_and(|Reverse((due, _))| *due <= now) {
                let Reverse((_, packet)) = self.waiting.pop().expect("seen above");
                self.write(&packet);
            }
            if length == 0 {
                let patience = if self.waiting.is_empty() { 20_u8 } else { 1 };
                let _ = poll(
                    &mut [PollFd::new(self.tun.as_fd(), PollFlags::POLLIN)],
                    PollTimeout::from(patience),
                );
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let mut packet = bytes.to_vec();
        packet[..HEADER].fill(0);
        self.shared.passed.fetch_add(1, Relaxed);
        if self.strikes(3) {
            return self.count(3);
        }
        if self.strikes(0) && corrupt(&mut packet[HEADER..], &mut self.random) {
            self.count(0);
        }
        if self.strikes(1) {
            self.count(1);
            self.write(&packet);
        }
        if self.strikes(2) {
            self.count(2);
            let due = Instant::now() + self.random.millis(1, 25);
            return self.waiting.push(Reverse((due, packet)));
        }
        self.write(&packet);
    }

    fn strikes(&mut self, index: usize) -> bool {
        let permille = self.shared.set[index].load(Relaxed);
        permille > 0 && self.random.chance(permille)
    }

    fn count(&self, index: usize) {
        self.shared.done[index].fetch_add(1, Relaxed);
    }

    fn write(&self, packet: &[u8]) {
        // A full queue along the way loses it, as queues do.
        let _ = write(&self.tun, packet);
    }
}

/// Flips a bit in the payload of a UDP datagram and corrects the checksum (RFC 1624), so that it arrives at the router.
/// Returns whether this is one.
fn corrupt(packet: &mut [u8], random: &mut Random) -> bool {
    let udp = match packet[0] >> 4 {
        // The first fragment, or the only one.
        4 if packet[9] == 17 && packet[6].trailing_zeros() >= 5 && packet[7] == 0 => {
            usize::from(packet[0] & 15) * 4
        }
        6 if packet[6] == 17 => 40,
        _ => return false,
    };
    let Some(last) = packet[udp..].len().checked_sub(9) else { return false };
    let at = udp + 8 + random.range(0, last as u64) as usize;
    let word = at - (at - udp) % 2;
    let read = |packet: &[u8]| u16::from_be_bytes([packet[word], packet.get(word + 1).copied().unwrap_or(0)]);
    let old = read(packet);
    packet[at] ^= 1 << random.range(0, 7);
    let new = read(packet);
    let checksum = u16::from_be_bytes([packet[udp + 6], packet[udp + 7]]);
    // Over IPv4, 0 is for none.
    if checksum != 0 {
        let mut sum = u32::from(!checksum) + u32::from(!old) + u32::from(new);
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        let fixed = match !(sum as u16) {
            0 => u16::MAX,
            fixed => fixed,
        };
        packet[udp + 6..udp + 8].copy_from_slice(&fixed.to_be_bytes());
    }
    true
}
