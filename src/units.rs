//! Units that cross module borders: time, identities and the sizes everything else is built from.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest IP packet, and the longest superpacket a TUN hands over, in bytes.
pub const MAX_PACKET: usize = 65_535;

/// A moment on the clock that never steps back and that counts suspended time (`CLOCK_BOOTTIME`),
/// in nanoseconds since an origin of its own. Zero is before every moment that a clock returns,
/// so atomics use it for "never".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Nanos(pub u64);

impl Nanos {
    /// Before every moment a clock returns.
    pub const NEVER: Nanos = Nanos(0);

    /// The time from `earlier` to here; zero if `earlier` is later.
    pub const fn since(self, earlier: Nanos) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The moment `span` after this one; the last moment there is if that would overflow.
    #[must_use]
    pub const fn after(self, span: Duration) -> Nanos {
        Nanos(self.0.saturating_add(span.as_nanos() as u64))
    }
}

/// The identity of a configured peer. An identity names one peer for as long as the process lives: a
/// peer that is removed and added again has another one, so nothing that outlives the removal (a
/// staged packet, a batch, an event) can be taken for the new peer's.
///
/// The low [`SLOT_BITS`](Self::SLOT_BITS) bits are a slot, which is reused and indexes tables; the bits
/// above count how many peers the slot held before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerId(pub u64);

impl PeerId {
    /// Bits of the slot. The 40 bits above it last for 10^12 removals of one slot.
    pub const SLOT_BITS: u32 = 24;

    /// The identity of the peer that is number `generation` in `slot`.
    ///
    /// # Panics
    /// If either does not fit.
    pub fn new(slot: usize, generation: u64) -> Self {
        assert!(slot < 1 << Self::SLOT_BITS && generation < 1 << (u64::BITS - Self::SLOT_BITS));
        PeerId(generation << Self::SLOT_BITS | slot as u64)
    }

    /// The index of this peer in tables. Another peer may have used it before: compare the whole
    /// identity of what is found there.
    #[inline]
    pub const fn slot(self) -> usize {
        (self.0 & ((1 << Self::SLOT_BITS) - 1)) as usize
    }

    /// How many peers had the slot before.
    pub const fn generation(self) -> u64 {
        self.0 >> Self::SLOT_BITS
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer {}.{}", self.slot(), self.generation())
    }
}
