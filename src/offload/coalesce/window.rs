//! The coalescing window: one batch of opened packets to be written to the TUN.
//!
//! A window lives on the stack for one batch and holds only references. There is no timer, and no
//! packet waits for the next batch, so coalescing adds no latency.

use arrayvec::ArrayVec;

use super::candidate::{Candidate, Class, checksum_is_right, classify};
use super::chain::{Chain, ChainEntry, ChainState, END, Sink};
use super::close::CloseReason;
use crate::offload::Limits;
use crate::packet::flow::FlowKey;
use crate::packet::ip;

/// The packets of one batch, in chains.
///
/// Chains leave in the order in which their first packets arrived. Only the newest chain of a flow can
/// be open, so the packets of a flow leave in order.
#[derive(Debug)]
pub struct Window<'b> {
    limits: Limits,
    entries: ArrayVec<ChainEntry<'b>, CAPACITY>,
    chains: ArrayVec<Chain, CAPACITY>,
    /// Flow hashes of the chains, stored contiguously so that a search touches few cache lines.
    hashes: ArrayVec<u32, CAPACITY>,
    /// Index of the most recently used chain, tried first: most batches carry a single flow.
    latest: usize,
}

/// Maximum packets in a window: four superpackets of 64 segments.
pub const CAPACITY: usize = 256;
const _: () = assert!(CAPACITY < END as usize, "an entry index must differ from the end mark");

impl<'b> Window<'b> {
    /// Creates an empty window.
    pub fn new(limits: Limits) -> Window<'b> {
        Window {
            limits,
            entries: ArrayVec::new(),
            chains: ArrayVec::new(),
            hashes: ArrayVec::new(),
            latest: 0,
        }
    }

    /// Returns the number of packets in the window.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns whether the window holds no packets.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Returns whether the window must be flushed before the next [`push`](Self::push).
    pub fn is_full(&self) -> bool {
        self.entries.is_full()
    }

    /// Adds a packet, trimmed to its IP length. Bytes that are not an IP packet are passed on unchanged:
    /// the window never drops packets.
    ///
    /// # Panics
    /// If the window is full.
    #[inline]
    pub fn push(&mut self, packet: &'b [u8]) {
        let Some(packet) = ip::trimmed(packet) else {
            self.close_where(CloseReason::Unparsable, |_| true);
            self.add_verbatim(packet);
            return;
        };
        match classify(packet, &self.limits) {
            Class::Candidate(candidate) => {
                self.add_candidate(packet, &candidate);
                return;
            }
            Class::ClosesFlow(key, reason) => {
                if let Some(chain) = self.find(&key) {
                    self.chains[chain].close(reason);
                }
            }
            Class::ClosesAddresses(key) => {
                self.close_where(CloseReason::Ineligible, |chain| chain.same_addresses(&key));
            }
            Class::Alone => {}
            Class::ClosesAll => self.close_where(CloseReason::Unparsable, |_| true),
        }
        self.add_verbatim(packet);
    }

    /// Passes all chains to `sink` and empties the window.
    pub fn flush(&mut self, sink: &mut impl Sink) {
        for chain in &self.chains {
            match chain.state {
                ChainState::Open => sink.closed(CloseReason::BatchEnd),
                ChainState::Closed(reason) => sink.closed(reason),
                ChainState::Verbatim => {}
            }
            match chain.coalesced(&self.entries) {
                Some(coalesced) => sink.superpacket(&coalesced),
                None => sink.packet(self.entries[usize::from(chain.first)].packet),
            }
        }
        self.entries.clear();
        self.chains.clear();
        self.hashes.clear();
        self.latest = 0;
    }

    /// Appends the packet to the open chain of its flow, or starts a new chain.
    #[inline]
    fn add_candidate(&mut self, packet: &'b [u8], candidate: &Candidate) {
        if self.limits.segments(candidate.kind) <= 1 {
            // Chains of this kind are never started, so there is none to close.
            self.add_verbatim(packet);
            return;
        }
        if let Some(found) = self.find(&candidate.key)
            && self.chains[found].state == ChainState::Open
        {
            let chain = &mut self.chains[found];
            let head = self.entries[usize::from(chain.first)].packet;
            match chain.admits(head, packet, candidate, &self.limits) {
                Ok(()) if checksum_is_right(packet, candidate) => {
                    let entry = self.entries.len() as u16;
                    let before = chain.append(entry, candidate, &self.limits);
                    self.entries[usize::from(before)].next = entry;
                    self.entries.push(ChainEntry { packet, next: END });
                    self.latest = found;
                    return;
                }
                Ok(()) => {
                    chain.close(CloseReason::Checksum);
                    self.add_verbatim(packet);
                    return;
                }
                Err(reason) => chain.close(reason),
            }
        }
        self.latest = self.chains.len();
        self.chains.push(Chain::start(self.entries.len() as u16, candidate));
        self.hashes.push(candidate.key.hash());
        self.entries.push(ChainEntry { packet, next: END });
    }

    fn add_verbatim(&mut self, packet: &'b [u8]) {
        self.chains.push(Chain::verbatim(self.entries.len() as u16));
        self.hashes.push(0);
        self.entries.push(ChainEntry { packet, next: END });
    }

    /// Returns the index of the newest chain of a flow.
    #[inline]
    fn find(&self, key: &FlowKey) -> Option<usize> {
        // The most recently used chain is the newest of its flow: a newer one would be more recent.
        if self.chains.get(self.latest).is_some_and(|chain| chain.key == *key) {
            return Some(self.latest);
        }
        let hash = key.hash();
        let same = |&at: &usize| self.hashes[at] == hash && self.chains[at].key == *key;
        (0..self.hashes.len()).rev().find(same)
    }

    fn close_where(&mut self, reason: CloseReason, matches: impl Fn(&FlowKey) -> bool) {
        for chain in self.chains.iter_mut().filter(|chain| matches(&chain.key)) {
            chain.close(reason);
        }
    }
}
