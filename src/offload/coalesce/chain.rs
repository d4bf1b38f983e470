//! Chains: consecutive packets of one flow that leave as one superpacket.

use super::candidate::{Candidate, checksum_is_right, same_header};
use super::close::CloseReason;
use crate::offload::Limits;
use crate::offload::superpacket::SuperpacketKind;
use crate::packet::flow::FlowKey;
use crate::packet::{Flags, Tcp};

/// Longest header of a chain in bytes. In a tunnel there is room for IPv6 (40), UDP (8), Geneve with 16 bytes of
/// options (24), Ethernet with a VLAN tag (18), IPv6 (40) and TCP with all options (60).
pub(super) const MAX_HEADER: usize = 192;

/// Marks the last entry of a chain.
pub(super) const END: u16 = u16::MAX;

/// Whether a chain accepts further segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChainState {
    /// Accepts the next segment of its flow.
    Open,
    /// Closed for this reason.
    Closed(CloseReason),
    /// A single packet that is never merged.
    Verbatim,
}

/// One packet and the index of the next entry in its chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChainEntry<'b> {
    pub(super) packet: &'b [u8],
    pub(super) next: u16,
}

/// Packets linked through the window's entries. Their headers differ only in lengths, identifications,
/// sequence number, PSH and checksums.
#[derive(Clone, Copy, Debug)]
pub(super) struct Chain {
    pub(super) key: FlowKey,
    pub(super) state: ChainState,
    pub(super) first: u16,
    last: u16,
    segments: usize,
    kind: SuperpacketKind,
    transport: usize,
    header_len: usize,
    gso_size: usize,
    /// Bytes of one header and all payloads.
    bytes: usize,
    next_sequence: u32,
    next_id: Option<u16>,
    /// Offset of the inner IP header in a tunnel; otherwise zero.
    inner: u16,
    next_inner_id: Option<u16>,
    push: bool,
    /// Whether the checksum of the first packet was verified. Verified only when a second packet could
    /// join: a chain of one leaves unchanged.
    verified: bool,
}

impl Chain {
    /// Creates a chain of one packet that is never merged. Its default key matches no packet, so lookups
    /// do not find it.
    pub(super) fn verbatim(entry: u16) -> Chain {
        Chain {
            key: FlowKey::default(),
            state: ChainState::Verbatim,
            first: entry,
            last: entry,
            segments: 1,
            kind: SuperpacketKind::None,
            transport: 0,
            header_len: 0,
            gso_size: 0,
            bytes: 0,
            next_sequence: 0,
            next_id: None,
            inner: 0,
            next_inner_id: None,
            push: false,
            verified: false,
        }
    }

    /// Creates a chain that starts with `candidate`.
    pub(super) fn start(entry: u16, candidate: &Candidate) -> Chain {
        Chain {
            key: candidate.key,
            state: if candidate.push { ChainState::Closed(CloseReason::Push) } else { ChainState::Open },
            kind: candidate.kind,
            transport: candidate.transport,
            header_len: candidate.header_len,
            gso_size: candidate.payload_len,
            bytes: candidate.header_len + candidate.payload_len,
            next_sequence: candidate.sequence.wrapping_add(candidate.payload_len as u32),
            next_id: candidate.id.map(|id| id.wrapping_add(1)),
            inner: candidate.inner,
            next_inner_id: candidate.inner_id.map(|id| id.wrapping_add(1)),
            push: candidate.push,
            ..Chain::verbatim(entry)
        }
    }

    /// Closes the chain for this reason, if it is open.
    pub(super) fn close(&mut self, reason: CloseReason) {
        if self.state == ChainState::Open {
            self.state = ChainState::Closed(reason);
        }
    }

    /// Checks whether `packet` can be the next segment, but not its checksum. Verifies the checksum of
    /// `head`, the first packet, if that was not done before.
    ///
    /// # Errors
    /// Returns the reason to close the chain if `packet` cannot join.
    #[inline]
    pub(super) fn admits(
        &mut self,
        head: &[u8],
        packet: &[u8],
        candidate: &Candidate,
        limits: &Limits,
    ) -> Result<(), CloseReason> {
        // A flow of datagrams can have packets with and without TCP inside.
        if candidate.kind != self.kind {
            return Err(CloseReason::Header);
        }
        if candidate.is_tcp() && candidate.sequence != self.next_sequence {
            return Err(CloseReason::Sequence);
        }
        let layout = (candidate.header_len, candidate.inner);
        if layout != (self.header_len, self.inner) || !same_header(head, packet, candidate) {
            return Err(CloseReason::Header);
        }
        if candidate.id != self.next_id || candidate.inner_id != self.next_inner_id {
            return Err(CloseReason::Identification);
        }
        if candidate.payload_len > self.gso_size {
            return Err(CloseReason::Long);
        }
        if self.bytes + candidate.payload_len > limits.bytes {
            return Err(CloseReason::Bytes);
        }
        self.verified = self.verified || checksum_is_right(head, candidate);
        if !self.verified {
            return Err(CloseReason::Checksum);
        }
        Ok(())
    }

    /// Appends an admitted packet. Returns the index of the entry that must link to it.
    #[inline]
    pub(super) fn append(&mut self, entry: u16, candidate: &Candidate, limits: &Limits) -> u16 {
        self.segments += 1;
        self.bytes += candidate.payload_len;
        self.next_sequence = self.next_sequence.wrapping_add(candidate.payload_len as u32);
        self.next_id = self.next_id.map(|id| id.wrapping_add(1));
        self.next_inner_id = self.next_inner_id.map(|id| id.wrapping_add(1));
        self.push |= candidate.push;
        if candidate.push {
            self.close(CloseReason::Push);
        } else if candidate.payload_len < self.gso_size {
            self.close(CloseReason::Short);
        } else if self.segments >= limits.segments(self.kind) {
            self.close(CloseReason::Segments);
        }
        std::mem::replace(&mut self.last, entry)
    }

    /// Returns the chain as a superpacket, or `None` if it is a single packet.
    pub(super) fn coalesced<'w, 'b>(&self, entries: &'w [ChainEntry<'b>]) -> Option<Coalesced<'w, 'b>> {
        (self.segments > 1).then(|| Coalesced {
            kind: self.kind,
            header: self.header(entries[usize::from(self.first)].packet),
            header_len: self.header_len,
            inner: self.inner,
            gso_size: self.gso_size,
            bytes: self.bytes,
            segments: self.segments,
            packets: Packets { entries, next: self.first },
        })
    }

    /// Returns the header of the first packet, with PSH set if any packet has it.
    fn header(&self, head: &[u8]) -> [u8; MAX_HEADER] {
        let mut header = [0; MAX_HEADER];
        header[..self.header_len].copy_from_slice(&head[..self.header_len]);
        if self.push
            && let Some(mut tcp) = Tcp::new_checked(&mut header[self.transport..self.header_len])
        {
            let flags = tcp.flags().with(Flags::PSH);
            tcp.set_flags(flags);
        }
        header
    }
}

/// Two or more packets merged into a superpacket.
#[derive(Clone, Debug)]
pub struct Coalesced<'w, 'b> {
    kind: SuperpacketKind,
    header: [u8; MAX_HEADER],
    header_len: usize,
    inner: u16,
    gso_size: usize,
    bytes: usize,
    segments: usize,
    packets: Packets<'w, 'b>,
}

impl<'w, 'b> Coalesced<'w, 'b> {
    /// Returns the kind: never [`SuperpacketKind::None`].
    pub fn kind(&self) -> SuperpacketKind {
        self.kind
    }

    /// Returns the IP and transport header of the first packet, with PSH set if any packet has it. Length
    /// and checksum fields are unchanged, so they do not match the superpacket. In a tunnel, outer and inner
    /// headers, and all between them.
    pub fn header(&self) -> &[u8] {
        &self.header[..self.header_len]
    }

    /// Returns the offset of the inner IP header, in bytes from the start of the outer one. Zero without a tunnel.
    pub fn inner(&self) -> usize {
        self.inner.into()
    }

    /// Returns the payload bytes of every segment but the last, which can be shorter.
    pub fn gso_size(&self) -> usize {
        self.gso_size
    }

    /// Returns the number of segments: two or more.
    pub fn segments(&self) -> usize {
        self.segments
    }

    /// Returns the bytes of one header and all payloads.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Iterates over the payloads, in order.
    pub fn payloads(&self) -> impl Iterator<Item = &'b [u8]> + use<'w, 'b> {
        let header_len = self.header_len;
        self.packets().map(move |packet| &packet[header_len..])
    }

    /// Iterates over the original packets, in order.
    pub fn packets(&self) -> Packets<'w, 'b> {
        self.packets.clone()
    }
}

/// Iterator over the packets of a chain, in order.
#[derive(Clone, Debug)]
pub struct Packets<'w, 'b> {
    entries: &'w [ChainEntry<'b>],
    next: u16,
}

impl<'b> Iterator for Packets<'_, 'b> {
    type Item = &'b [u8];

    #[inline]
    fn next(&mut self) -> Option<&'b [u8]> {
        let entry = self.entries.get(usize::from(self.next))?;
        self.next = entry.next;
        Some(entry.packet)
    }
}

/// Receives the output of a window, in order. Its methods do not fail: a sink counts what it cannot
/// deliver.
pub trait Sink {
    /// Takes one packet, unchanged.
    fn packet(&mut self, packet: &[u8]);

    /// Takes two or more packets, merged.
    fn superpacket(&mut self, superpacket: &Coalesced<'_, '_>);

    /// Takes the reason why the next chain was closed. Called before the chain's packet or superpacket;
    /// not called for packets that cannot start a chain.
    fn closed(&mut self, reason: CloseReason);
}
