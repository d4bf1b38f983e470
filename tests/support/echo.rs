//! A flood of numbered datagrams that come back: unlike `ping -f`, it waits for every one of them as long as it
//! takes, so on a busy machine a late echo is not taken for a lost one.

use std::collections::BTreeSet;
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use laneway::cli::demo::lab::Side;

use super::DEADLINE;

/// Datagrams on their way at one time: few enough for every buffer on the way.
const WINDOW: usize = 16;

/// What came of a flood.
#[derive(Debug)]
pub struct Flood {
    /// How many were sent.
    pub sent: u32,
    /// The numbers of those that did not come back.
    pub lost: Vec<u32>,
    /// How many came back more than once, or that were not sent.
    pub surplus: u32,
}

/// Sends datagrams to `address` at the other side, where they are sent back, until `enough` says so.
///
/// # Panics
/// When a socket cannot be had.
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
                    // What cannot be sent back counts as lost.
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
            // What cannot be sent counts as lost.
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
