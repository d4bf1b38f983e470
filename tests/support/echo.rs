//! A flood of numbered datagrams that are echoed. Unlike `ping -f` it waits for each one up to the deadline, so
//! that a late echo on a busy machine does not count as lost.

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use laneway::cli::demo::lab::Side;

use super::DEADLINE;

/// The number of datagrams in flight: few enough for every buffer along the way.
const WINDOW: usize = 16;

/// The result of a flood.
#[derive(Debug)]
pub struct Flood {
    /// The number of datagrams sent.
    pub sent: u32,
    /// The numbers of the datagrams that did not return.
    pub lost: Vec<u32>,
    /// How many returned more than once, or were never sent.
    pub surplus: u32,
}

/// Sends datagrams to `address` at the other side, which echoes them, until `enough` returns true for the number
/// sent.
///
/// # Panics
/// If a socket cannot be bound.
pub fn flood(from: &Side, to: &Side, address: IpAddr, enough: impl Fn(u32) -> bool) -> Flood {
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let bind = |side: &Side| {
        let socket = side.namespace.run(|| UdpSocket::bind(any)).expect("enter").expect("bind");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        socket
    };
    let (here, there) = (bind(from), bind(to));
    here.connect((address, there.local_addr().expect("a port").port())).expect("a route");
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = [0; 4];
            while !over.load(Relaxed) {
                if let Ok((4, sender)) = there.recv_from(&mut number) {
                    // A failed send counts as lost.
                    let _ = there.send_to(&number, sender);
                }
            }
        });
        let flood = count(&here, enough);
        over.store(true, Relaxed);
        flood
    })
}

fn count(socket: &UdpSocket, enough: impl Fn(u32) -> bool) -> Flood {
    let (mut flood, mut away) = (Flood { sent: 0, lost: Vec::new(), surplus: 0 }, BTreeSet::new());
    let mut heard = Instant::now();
    while heard.elapsed() < DEADLINE {
        while away.len() < WINDOW && !enough(flood.sent) {
            // A failed send counts as lost.
            let _ = socket.send(&flood.sent.to_be_bytes());
            away.insert(flood.sent);
            flood.sent += 1;
        }
        if away.is_empty() {
            break;
        }
        let mut number = [0; 4];
        if let Ok(4) = socket.recv(&mut number) {
            heard = Instant::now();
            flood.surplus += u32::from(!away.remove(&u32::from_be_bytes(number)));
        }
    }
    flood.lost.extend(away);
    flood
}
