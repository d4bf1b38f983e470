//! Host name lookups outside the peer actor's thread: a lookup can block for many seconds if a name server is slow or
//! down.
//!
//! Each lookup runs on a thread of its own, so one that hangs does not delay the others. Lookups are rare,
//! and the number of concurrent lookups is bounded.

use std::io;
use std::net::SocketAddr;
use std::panic;
use std::sync::Arc;
use std::thread;

use arrayvec::ArrayVec;
use crossbeam::channel::{self, Receiver, Sender};

use super::resolver::{self, ADDRESSES};
use crate::lane::ring::doorbell::{Awaited, Doorbell};
use crate::units::PeerId;

/// Maximum number of concurrent lookups.
const LOOKUPS: usize = 4;

/// A name to look up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    /// The peer whose endpoint the name is.
    pub(crate) peer: PeerId,
    /// The revision of the peer's name, to tell it from names configured earlier or later.
    pub(crate) revision: u64,
    /// The host name.
    pub(crate) host: String,
    /// The UDP port of the endpoint.
    pub(crate) port: u16,
}

/// The result of a lookup.
#[derive(Debug)]
pub(crate) struct LookupResult {
    /// The question that this answers.
    pub(crate) question: Question,
    /// The name's addresses in order of preference, at least one.
    pub(crate) addresses: io::Result<ArrayVec<SocketAddr, ADDRESSES>>,
}

/// The lookups in progress.
#[derive(Debug)]
pub(crate) struct Lookups {
    running: usize,
    answers: Receiver<LookupResult>,
    sender: Sender<LookupResult>,
    bell: Arc<Doorbell>,
}

impl Lookups {
    /// Creates an empty set of lookups. `bell` is rung when an answer is available.
    pub(crate) fn new(bell: Arc<Doorbell>) -> Self {
        let (sender, answers) = channel::bounded(LOOKUPS);
        Lookups { running: 0, answers, sender, bell }
    }

    /// Returns whether another lookup can begin.
    pub(crate) fn has_room(&self) -> bool {
        self.running < LOOKUPS
    }

    /// Begins a lookup in the network namespace of the calling thread. Queries carry `mark`; 0 for none. A stopping
    /// router does not wait for the lookup.
    ///
    /// # Panics
    /// Panics if there is no [room](Self::has_room).
    pub(crate) fn begin(&mut self, question: Question, mark: u32) {
        assert!(self.has_room(), "too many concurrent lookups");
        self.running += 1;
        let (sender, bell, asked) = (self.sender.clone(), Arc::clone(&self.bell), question.clone());
        let started = thread::Builder::new().name("lookup".into()).spawn(move || {
            let resolved = panic::catch_unwind(|| resolver::resolve(&asked.host, asked.port, mark));
            let addresses = resolved.unwrap_or_else(|_| Err(io::Error::other("the lookup panicked")));
            // The channel has room for every lookup, so sending fails only once the router has stopped.
            let _ = sender.send(LookupResult { question: asked, addresses });
            bell.ring(Awaited::WORK);
        });
        if let Err(error) = started {
            let _ = self.sender.send(LookupResult { question, addresses: Err(error) });
        }
    }

    /// Takes the next answer.
    pub(crate) fn next(&mut self) -> Option<LookupResult> {
        let answer = self.answers.try_recv().ok()?;
        self.running -= 1;
        Some(answer)
    }

    /// Returns whether no answer is waiting.
    pub(crate) fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(host: &str) -> Question {
        Question { peer: PeerId(3), revision: 1, host: host.into(), port: 51820 }
    }

    fn wait(lookups: &mut Lookups) -> LookupResult {
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
        // glibc parses these without a name server. The second has a scope (zone) identifier.
        for (host, address) in [("192.0.2.7", "192.0.2.7:51820"), ("fe80::1%1", "[fe80::1%1]:51820")] {
            lookups.begin(question(host), 0);
            let answer = wait(&mut lookups);
            assert_eq!(answer.question, question(host));
            assert_eq!(answer.addresses.unwrap()[..], [address.parse().unwrap()]);
        }
        lookups.begin(question("no spaces in names"), 0);
        assert!(wait(&mut lookups).addresses.is_err());
        assert!(lookups.has_room() && lookups.is_empty());
    }

    #[test]
    fn no_more_run_at_one_time_than_there_is_room_for() {
        let mut lookups = Lookups::new(Arc::new(Doorbell::new().unwrap()));
        for _ in 0..LOOKUPS {
            lookups.begin(question("127.0.0.1"), 0);
        }
        assert!(!lookups.has_room());
        wait(&mut lookups);
        assert!(lookups.has_room());
    }
}
