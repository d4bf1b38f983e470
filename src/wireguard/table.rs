//! Which session a receiver index names. Workers look up without a lock, once per run; the
//! protocol, on its own thread, puts sessions in and takes them out.
//!
//! An index is 20 bits of place and 12 random bits above. The place finds the session at once, the
//! random bits tell apart those that use a place one after the other. Places come in chunks that
//! are made when first needed, so a router with few peers stays small.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use arc_swap::{ArcSwapOption, Guard};

use super::session::Session;

/// Bits of an index that name its place.
pub(super) const PLACE_BITS: u32 = 20;

/// How many indices can be in use at one time.
pub const PLACES: usize = 1 << PLACE_BITS;

const CHUNK: usize = 1024;

type Chunk = [ArcSwapOption<Session>; CHUNK];

/// The sessions by local index.
pub struct SessionTable {
    chunks: Box<[OnceLock<Box<Chunk>>]>,
}

/// A session that was looked up. Short-lived: hold it for a run, not longer.
pub struct SessionGuard(Guard<Option<Arc<Session>>>);

impl SessionTable {
    /// An empty table.
    pub fn new() -> Self {
        SessionTable { chunks: (0..PLACES / CHUNK).map(|_| OnceLock::new()).collect() }
    }

    /// The session that `index` names.
    #[inline]
    pub fn get(&self, index: u32) -> Option<SessionGuard> {
        let (chunk, slot) = place(index);
        let found = self.chunks[chunk].get()?[slot].load();
        // Twelve random bits decide between the session that is here and one that was.
        (found.as_ref()?.local_index() == index).then_some(SessionGuard(found))
    }

    /// Puts `session` where its local index says.
    pub(super) fn install(&self, session: Arc<Session>) {
        let (chunk, slot) = place(session.local_index());
        let chunk = self.chunks[chunk].get_or_init(|| {
            let slots: Vec<_> = (0..CHUNK).map(|_| ArcSwapOption::empty()).collect();
            slots.into_boxed_slice().try_into().expect("made with the length of a chunk")
        });
        chunk[slot].store(Some(session));
    }

    /// Takes the session at `index` out. Workers that hold it finish their run with it.
    pub(super) fn remove(&self, index: u32) {
        let (chunk, slot) = place(index);
        if let Some(chunk) = self.chunks[chunk].get() {
            chunk[slot].store(None);
        }
    }
}

impl Default for SessionTable {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for SessionTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let chunks = self.chunks.iter().filter(|chunk| chunk.get().is_some()).count();
        f.debug_struct("SessionTable").field("chunks", &chunks).finish()
    }
}

impl Deref for SessionGuard {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.0.as_deref().expect("a guard is made of a session that was found")
    }
}

impl SessionGuard {
    /// The session, to be kept.
    ///
    /// # Panics
    /// Never: a guard is made of a session that was found.
    pub fn to_arc(&self) -> Arc<Session> {
        self.0.clone().expect("a guard is made of a session that was found")
    }
}

fn place(index: u32) -> (usize, usize) {
    let place = index as usize % PLACES;
    (place / CHUNK, place % CHUNK)
}

#[cfg(test)]
mod tests {
    use super::super::aead::Backend;
    use super::super::replay::WINDOW;
    use super::super::session::{MessageLimits, Role, SessionKeys, SessionParts};
    use super::super::suite::Suite;
    use super::*;
    use crate::units::{Nanos, PeerId};
    use zeroize::Zeroizing;

    fn session(local_index: u32) -> Arc<Session> {
        Arc::new(Session::new(SessionParts {
            peer: PeerId(0),
            activity: Arc::default(),
            role: Role::Initiator,
            local_index,
            remote_index: 0,
            created: Nanos(1),
            keys: SessionKeys {
                suite: Suite::default(),
                send: Zeroizing::new([0; 32]),
                receive: Zeroizing::new([0; 32]),
            },
            backend: Backend::default(),
            window: WINDOW,
            limits: MessageLimits::default(),
        }))
    }

    #[test]
    fn a_session_is_found_by_its_whole_index() {
        let table = SessionTable::new();
        for index in [0, 0xabc0_0000 | 1023, 0xabc0_0000 | 1024, u32::MAX] {
            assert!(table.get(index).is_none());
            table.install(session(index));
            assert_eq!(table.get(index).unwrap().local_index(), index);
            assert!(table.get(index ^ 1 << PLACE_BITS).is_none(), "same place, other random bits");
            table.remove(index);
            assert!(table.get(index).is_none());
        }
    }

    #[test]
    fn a_session_lives_as_long_as_someone_holds_it() {
        let table = SessionTable::new();
        table.install(session(7));
        let held = table.get(7).unwrap();
        let kept = held.to_arc();
        table.remove(7);
        assert_eq!((held.local_index(), kept.local_index()), (7, 7));
    }
}
