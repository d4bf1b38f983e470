//! Looking host names up, off the peer actor's thread: a name server that is far away or down holds
//! `getaddrinfo(3)` up for many seconds.
//!
//! Each look-up has a thread of its own for as long as it takes. Look-ups are rare, and a thread that
//! hangs must not hold up other names; how many there can be at one time is bounded.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::thread;

use arrayvec::ArrayVec;
use crossbeam::channel::{self, Receiver, Sender};

use crate::lane::doorbell::{Awaited, Doorbell};
use crate::units::PeerId;

/// Look-ups at one time.
const LOOKUPS: usize = 4;

/// Addresses of one name that are tried.
const ADDRESSES: usize = 8;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// Who is there.
    pub(super) peer: PeerId,
    /// Which of the names that the peer has had.
    pub(super) revision: u64,
    /// The name.
    pub(super) host: String,
    /// The UDP port.
    pub(super) port: u16,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Answer {
    /// What was asked.
    pub(super) question: Question,
    /// The name's addresses, in the order of preference; at least one.
    pub(super) addresses: io::Result<ArrayVec<SocketAddr, ADDRESSES>>,
}

/// The look-ups under way.
#[derive(Debug)]
pub(super) struct Lookups {
    running: usize,
    answers: Receiver<Answer>,
    sender: Sender<Answer>,
    bell: Arc<Doorbell>,
}

impl Lookups {
    /// None yet. `bell` is rung when there is an answer.
    pub(super) fn new(bell: Arc<Doorbell>) -> Self {
        let (sender, answers) = channel::bounded(LOOKUPS);
        Lookups { running: 0, answers, sender, bell }
    }

    /// Whether one more can begin.
    pub(super) fn has_room(&self) -> bool {
        self.running < LOOKUPS
    }

    /// Begins to look a name up, in the network namespace of the calling thread. The thread is not waited
    /// for when the router stops.
    pub(super) fn begin(&mut self, question: Question) {
        assert!(self.has_room(), "the caller has asked");
        self.running += 1;
        let (sender, bell, asked) = (self.sender.clone(), Arc::clone(&self.bell), question.clone());
        let started = thread::Builder::new().name("lookup".into()).spawn(move || {
            let addresses = resolve(&asked);
            // The channel has room for every look-up. If nobody listens, the router has stopped.
            let _ = sender.send(Answer { question: asked, addresses });
            bell.ring(Awaited::WORK);
        });
        if let Err(error) = started {
            let _ = self.sender.send(Answer { question, addresses: Err(error) });
        }
    }

    /// The next answer.
    pub(super) fn next(&mut self) -> Option<Answer> {
        let answer = self.answers.try_recv().ok()?;
        self.running -= 1;
        Some(answer)
    }

    /// Whether there is no answer.
    pub(super) fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }
}

fn resolve(question: &Question) -> io::Result<ArrayVec<SocketAddr, ADDRESSES>> {
    let addresses: ArrayVec<_, ADDRESSES> =
        (question.host.as_str(), question.port).to_socket_addrs()?.take(ADDRESSES).collect();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "it has no address"));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(host: &str) -> Question {
        Question { peer: PeerId(3), revision: 1, host: host.into(), port: 51820 }
    }

    fn wait(lookups: &mut Lookups) -> Answer {
        loop {
            if let Some(answer) = lookups.next() {
                return answer;
            }
            thread::yield_now();
        }
    }

    #[test]
    fn an_address_needs_no_name_server_and_nonsense_has_none() {
        let mut lookups = Lookups::new(Arc::new(Doorbell::new().unwrap()));
        // glibc reads these without asking anybody; the second is how a scope is written.
        for (host, address) in [("192.0.2.7", "192.0.2.7:51820"), ("fe80::1%1", "[fe80::1%1]:51820")] {
            lookups.begin(question(host));
            let answer = wait(&mut lookups);
            assert_eq!(answer.question, question(host));
            assert_eq!(answer.addresses.unwrap()[..], [address.parse().unwrap()]);
        }
        lookups.begin(question("no spaces in names"));
        assert!(wait(&mut lookups).addresses.is_err());
        assert!(lookups.has_room() && lookups.is_empty());
    }

    #[test]
    fn no_more_run_at_one_time_than_there_is_room_for() {
        let mut lookups = Lookups::new(Arc::new(Doorbell::new().unwrap()));
        for _ in 0..LOOKUPS {
            lookups.begin(question("127.0.0.1"));
        }
        assert!(!lookups.has_room());
        wait(&mut lookups);
        assert!(lookups.has_room());
    }
}
