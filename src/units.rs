//! Units that cross module borders: time, identities and the sizes everything else is built from.

use std::fmt;
use std::time::Duration;

/// The longest IP packet, and the longest superpacket a TUN hands over, in bytes.
pub const MAX_PACKET: usize = 65_535;

/// A moment on the clock that never steps back and that counts suspended time (`CLOCK_BOOTTIME`),
/// in nanoseconds since an origin of its own. Zero is before every moment that a clock returns,
/// so atomics use it for "never".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// A configured peer, as a small index that is stable for the peer's life. An index is not used
/// again while a session or a batch can still name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u32);

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peer {}", self.0)
    }
}
