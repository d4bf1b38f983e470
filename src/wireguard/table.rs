//! Maps receiver indices to sessions. Workers look up a session once per run, without a lock; the
//! protocol inserts and removes sessions on its own thread.
//!
//! An index is the image, under a secret permutation, of a number whose low 20 bits are a place in the
//! table. The upper 12 are random and distinguish sessions that use the same place one after the other.
//! The permutation hides the places, which are allocated in order. Chunks of places are allocated on
//! first use, so a router with few peers uses little memory.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwapOption, Guard};

use super::permutation::Permutation;
use super::session::Session;

/// Number of low bits of a number, before its permutation, that hold the place.
pub(super) const PLACE_BITS: u32 = 20;

/// Maximum number of indices in use at one time.
pub const PLACES: usize = 1 << PLACE_BITS;

const CHUNK: usize = 1024;

type Chunk = [ArcSwapOption<Session>; CHUNK];

/// Sessions by local index.
pub struct SessionTable {
    chunks: Box<[OnceLock<Box<Chunk>>]>,
    numbers: Permutation,
}

/// A session found in the table. Hold it for one run at most; use [`SessionGuard::to_arc`] to keep
/// the session.
pub struct SessionGuard(Guard<Option<Arc<Session>>>);

impl SessionTable {
    /// Creates an empty table whose indices are permuted by `secret`, random bytes that nobody else
    /// knows.
    pub fn new(secret: &[u8; 8]) -> Self {
        let chunks = (0..PLACES / CHUNK).map(|_| OnceLock::new()).collect();
        SessionTable { chunks, numbers: Permutation::new(*secret) }
    }

    /// Returns the index of `number`: a place, and random bits above it.
    pub(crate) fn index(&self, number: u32) -> u32 {
        self.numbers.apply(number)
    }

    /// Returns the place of `index`.
    #[inline]
    pub(super) fn place(&self, index: u32) -> usize {
        self.numbers.invert(index) as usize % PLACES
    }

    /// Returns the session with the local index `index`.
    #[inline]
    pub fn get(&self, index: u32) -> Option<SessionGuard> {
        let (chunk, slot) = split(self.place(index));
        let found = self.chunks[chunk].get()?[slot].load();
        // The random bits distinguish the session from earlier ones in the same place.
        (found.as_ref()?.local_index() == index).then_some(SessionGuard(found))
    }

    /// Inserts `session` under its local index, replacing any session in the same place.
    pub(crate) fn install(&self, session: Arc<Session>) {
        let (chunk, slot) = split(self.place(session.local_index()));
        let chunk = self.chunks[chunk].get_or_init(|| {
            let slots: Vec<_> = (0..CHUNK).map(|_| ArcSwapOption::empty()).collect();
            slots.into_boxed_slice().try_into().expect("the vector has the length of a chunk")
        });
        chunk[slot].store(Some(session));
    }

    /// Removes the session in the place of `index`. Workers that hold it finish their run with it. Returns whether there
    /// was one.
    pub(super) fn remove(&self, index: u32) -> bool {
        let (chunk, slot) = split(self.place(index));
        self.chunks[chunk].get().is_some_and(|chunk| chunk[slot].swap(None).is_some())
    }
}

impl fmt::Debug for SessionTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chunks = self.chunks.iter().filter(|chunk| chunk.get().is_some()).count();
        f.debug_struct("SessionTable").field("chunks", &chunks).finish_non_exhaustive()
    }
}

impl Deref for SessionGuard {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.0.as_deref().expect("a guard always holds a session")
    }
}

impl SessionGuard {
    /// Returns the session for longer use.
    ///
    /// # Panics
    /// Never panics: a guard always holds a session.
    pub fn to_arc(&self) -> Arc<Session> {
        self.0.clone().expect("a guard always holds a session")
    }
}

/// Returns the chunk of a place and the slot within it.
fn split(place: usize) -> (usize, usize) {
    (place / CHUNK, place % CHUNK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Nanos, PeerId};
    use crate::wireguard::session::Role;
    use crate::wireguard::tests::sessions;

    fn session(local_index: u32) -> Arc<Session> {
        sessions::session(PeerId(0), Role::Initiator, local_index, Nanos(1))
    }

    #[test]
    fn a_session_is_found_by_its_whole_index() {
        let table = SessionTable::new(&[7; 8]);
        for number in [0, 0xabc0_0000 | 1023, 0xabc0_0000 | 1024, u32::MAX] {
            let index = table.index(number);
            assert!(table.get(index).is_none());
            table.install(session(index));
            assert_eq!(table.get(index).unwrap().local_index(), index);
            assert!(
                table.get(table.index(number ^ 1 << PLACE_BITS)).is_none(),
                "same place, other random bits"
            );
            table.remove(index);
            assert!(table.get(index).is_none());
        }
    }

    #[test]
    fn a_session_lives_as_long_as_someone_holds_it() {
        let table = SessionTable::new(&[7; 8]);
        table.install(session(7));
        let held = table.get(7).unwrap();
        let kept = held.to_arc();
        table.remove(7);
        assert_eq!((held.local_index(), kept.local_index()), (7, 7));
    }
}
