//! Opening as a job: authenticates and decrypts the data messages of a batch, and notes what the
//! receiving worker needs to judge them (replay, source, flow) without touching the packets again.

use std::net::IpAddr;
use std::sync::Arc;

use arrayvec::ArrayVec;

use crate::lane::bounds::BATCH_SEGMENTS;
use crate::packet::{flow, ip};
use crate::wireguard::aead::MAX_RUN;
use crate::wireguard::messages::{DATA_HEADER, DATA_OVERHEAD, TAG, data_counter};
use crate::wireguard::session::Session;

/// Maximum number of runs of one opening. A message usually is one run; the datagrams behind this many
/// are opened afterwards.
pub const OPENING_RUNS: usize = 4;

/// The data messages of a batch, before and after they are opened.
#[derive(Debug, Default)]
pub struct Opening {
    /// The runs, in order.
    pub runs: ArrayVec<OpeningRun, OPENING_RUNS>,
    /// The authentic payloads of all runs, in order.
    pub payloads: ArrayVec<Payload, BATCH_SEGMENTS>,
    /// Number of datagrams in `runs`, which bounds `payloads`.
    datagrams: usize,
    is_open: bool,
}

/// Consecutive data messages of one session.
#[derive(Debug)]
pub struct OpeningRun {
    /// The session that opens them.
    pub session: Arc<Session>,
    start: u32,
    len: u32,
    stride: u32,
    /// The number of authentic payloads.
    pub payloads: u16,
    /// The number of datagrams that are too short for a data message.
    pub too_short: u16,
    /// The number of datagrams that are not authentic.
    pub forged: u16,
}

/// One authentic payload.
#[derive(Clone, Copy, Debug)]
pub struct Payload {
    /// The message's counter.
    pub counter: u64,
    /// Offset of the plaintext in the slab, in bytes.
    pub start: u32,
    /// The flow's hash ([`flow::flow_hash`]).
    pub flow: u32,
    /// Length of the datagram in bytes.
    pub datagram: u16,
    /// Length of the packet in bytes, without padding.
    pub len: u16,
    /// What the payload is.
    pub content: Content,
    /// Whether the payload is replayed, as found by the receiving worker.
    pub refused: bool,
}

/// What a payload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A keepalive.
    Nothing,
    /// Not an IP packet.
    Invalid,
    /// An IP packet.
    Packet {
        /// Whether its source is that of the packet before it in the run.
        same_source: bool,
    },
}

const _: () = assert!(MAX_RUN <= BATCH_SEGMENTS);

impl Opening {
    /// Adds the run of `len` bytes at `start`, with datagrams of `stride` bytes. Returns whether there was
    /// room: a run of [`MAX_RUN`] datagrams fits an empty opening.
    #[must_use]
    pub fn push(&mut self, session: Arc<Session>, start: usize, len: usize, stride: usize) -> bool {
        let datagrams = len.div_ceil(stride);
        if self.runs.is_full() || self.datagrams + datagrams > BATCH_SEGMENTS {
            return false;
        }
        self.datagrams += datagrams;
        self.runs.push(OpeningRun {
            session,
            start: start as u32,
            len: len as u32,
            stride: stride as u32,
            payloads: 0,
            too_short: 0,
            forged: 0,
        });
        true
    }

    /// Opens all runs in place, in `data`.
    pub fn open(&mut self, data: &mut [u8]) {
        self.is_open = true;
        for run in &mut self.runs {
            let bytes = &mut data[run.start as usize..(run.start + run.len) as usize];
            let stride = run.stride as usize;
            let authentic = run.session.authenticate(bytes, stride);
            let mut source = None;
            for (i, datagram) in bytes.chunks(stride).enumerate() {
                if datagram.len() < DATA_OVERHEAD {
                    run.too_short += 1;
                } else if authentic >> i & 1 == 0 {
                    run.forged += 1;
                } else {
                    run.payloads += 1;
                    let start = run.start as usize + i * stride + DATA_HEADER;
                    self.payloads.push(Payload::new(datagram, start, &mut source));
                }
            }
        }
    }

    /// Forgets all runs and payloads.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.payloads.clear();
        self.datagrams = 0;
        self.is_open = false;
    }

    /// Returns whether the runs have been opened.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Returns the number of datagrams in the runs.
    pub fn datagrams(&self) -> usize {
        self.datagrams
    }
}

impl Payload {
    /// Describes the payload of an opened `datagram`, which begins at `start` in the slab. `source` is
    /// that of the packet before.
    #[inline]
    fn new(datagram: &[u8], start: usize, source: &mut Option<IpAddr>) -> Self {
        let plaintext = &datagram[DATA_HEADER..datagram.len() - TAG];
        let mut payload = Payload {
            counter: data_counter(datagram),
            start: start as u32,
            flow: 0,
            datagram: datagram.len() as u16,
            len: 0,
            content: Content::Nothing,
            refused: false,
        };
        if plaintext.is_empty() {
            return payload;
        }
        payload.content = Content::Invalid;
        if let Some(packet) = ip::trimmed(plaintext)
            && let Some(from) = ip::source(packet)
        {
            payload.len = packet.len() as u16;
            payload.flow = flow::flow_hash(packet);
            payload.content = Content::Packet { same_source: *source == Some(from) };
            *source = Some(from);
        }
        payload
    }
}
