//! Session rotation: the up to three sessions of a peer and how they replace each other (whitepaper,
//! section 6.2; the kernel's `add_new_keypair` and `wg_noise_received_with_keypair`).
//!
//! *current* is used to send. *previous* still opens datagrams in flight. *next* was created as
//! responder: it becomes current when the first authentic message on it proves that the initiator
//! has its keys. The worker that receives this message sends with the session at once
//! ([`Session::promote`]); the rotation follows.

use std::sync::Arc;

use arrayvec::ArrayVec;

use super::session::Session;
use crate::units::Nanos;

/// The sessions of one peer.
#[derive(Default)]
pub(super) struct Rotation {
    previous: Option<Arc<Session>>,
    current: Option<Arc<Session>>,
    next: Option<Arc<Session>>,
}

/// Sessions that are no longer used.
pub(super) type Retired = ArrayVec<Arc<Session>, 3>;

/// What [`Rotation::answered`] changed.
pub(super) struct Answered {
    /// The session before, if a worker promoted it at the last moment: it is current now.
    pub(super) promoted: Option<Arc<Session>>,
    /// The sessions that the new one retires.
    pub(super) retired: Retired,
}

impl Rotation {
    /// Returns the session to send with, regardless of its age.
    pub(super) fn current(&self) -> Option<&Arc<Session>> {
        self.current.as_ref()
    }

    /// Returns the sessions by place: previous, current and next. One that a worker has promoted is current.
    pub(super) fn places(&self) -> [Option<&Arc<Session>>; 3] {
        match &self.next {
            Some(next) if next.is_promoted() => [self.current.as_ref(), Some(next), None],
            next => [self.previous.as_ref(), self.current.as_ref(), next.as_ref()],
        }
    }

    /// Creates the rotation of these sessions: previous, current and next.
    pub(super) fn of_places([previous, current, next]: [Option<Arc<Session>>; 3]) -> Self {
        Rotation { previous, current, next }
    }

    /// Returns when the youngest session was created.
    pub(super) fn youngest(&self) -> Option<Nanos> {
        [&self.previous, &self.current, &self.next]
            .into_iter()
            .flatten()
            .map(|session| session.created())
            .max()
    }

    /// Adds a session as initiator and returns the sessions it retires. The new session becomes current
    /// immediately, because the response proves that the responder has its keys.
    pub(super) fn initiated(&mut self, session: Arc<Session>) -> Retired {
        let replaced = self.current.replace(session);
        // Both ends started a handshake at once. The peer may already be sending with `next`, so it is
        // kept instead of the session used so far.
        let (kept, retired) = match self.next.take() {
            Some(next) => {
                next.settle();
                (Some(next), replaced)
            }
            None => (replaced, None),
        };
        let previous = std::mem::replace(&mut self.previous, kept);
        retired.into_iter().chain(previous).collect()
    }

    /// Adds a session as responder. The new session awaits confirmation.
    pub(super) fn answered(&mut self, session: Arc<Session>) -> Answered {
        let mut retired = Retired::new();
        let mut promoted = None;
        if let Some(next) = self.next.replace(session) {
            // Settled first, so that a worker cannot promote it after it was found unpromoted.
            if next.settle() {
                promoted = Some(Arc::clone(&next));
                retired.extend(std::mem::replace(&mut self.previous, self.current.replace(next)));
            } else {
                retired.push(next);
            }
        }
        retired.extend(self.previous.take());
        Answered { promoted, retired }
    }

    /// Confirms `session` after its first authentic message. If that makes it current, returns it and
    /// the session it retires. Compares by pointer, because the index may belong to another session
    /// by now.
    pub(super) fn confirmed(&mut self, session: &Session) -> Option<(Arc<Session>, Retired)> {
        let session = self.next.take_if(|next| std::ptr::eq(&raw const **next, session))?;
        Some(self.use_next(session))
    }

    /// Confirms `next` if a worker has promoted it, before the worker's notice is handled. Returns as
    /// [`confirmed`](Self::confirmed).
    pub(super) fn promoted(&mut self) -> Option<(Arc<Session>, Retired)> {
        let session = self.next.take_if(|next| next.is_promoted())?;
        Some(self.use_next(session))
    }

    fn use_next(&mut self, session: Arc<Session>) -> (Arc<Session>, Retired) {
        session.settle();
        let replaced = self.current.replace(Arc::clone(&session));
        let retired = std::mem::replace(&mut self.previous, replaced).into_iter().collect();
        (session, retired)
    }

    /// Removes and returns all sessions.
    pub(super) fn clear(&mut self) -> Retired {
        [self.previous.take(), self.current.take(), self.next.take()].into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::PeerId;
    use crate::wireguard::session::Role;
    use crate::wireguard::tests::sessions;

    fn session(local_index: u32, role: Role) -> Arc<Session> {
        sessions::session(PeerId(0), role, local_index, Nanos(u64::from(local_index)))
    }

    const NONE: [u32; 0] = [];

    fn initiate(rotation: &mut Rotation, index: u32) -> Vec<u32> {
        indices(&rotation.initiated(session(index, Role::Initiator)))
    }

    fn answer(rotation: &mut Rotation, index: u32) -> Vec<u32> {
        indices(&rotation.answered(session(index, Role::Responder)).retired)
    }

    fn indices(retired: &Retired) -> Vec<u32> {
        retired.iter().map(|session| session.local_index()).collect()
    }

    fn current(rotation: &Rotation) -> Option<u32> {
        rotation.current().map(|session| session.local_index())
    }

    #[test]
    fn an_initiator_keeps_one_session_behind() {
        let mut rotation = Rotation::default();
        assert_eq!(initiate(&mut rotation, 1), NONE);
        assert_eq!(initiate(&mut rotation, 2), NONE);
        assert_eq!(initiate(&mut rotation, 3), [1]);
        assert_eq!((current(&rotation), rotation.youngest()), (Some(3), Some(Nanos(3))));
    }

    #[test]
    fn a_responder_goes_on_with_the_old_session_until_the_new_one_is_confirmed() {
        let mut rotation = Rotation::default();
        assert_eq!(initiate(&mut rotation, 1), NONE);
        let next = session(2, Role::Responder);
        assert_eq!(indices(&rotation.answered(Arc::clone(&next)).retired), NONE);
        assert_eq!(current(&rotation), Some(1));
        let namesake = session(2, Role::Responder);
        assert!(rotation.confirmed(&namesake).is_none(), "another session of the same index");
        let used = Arc::clone(rotation.current().unwrap());
        assert!(rotation.confirmed(&used).is_none(), "only `next` can be confirmed");
        let (promoted, retired) = rotation.confirmed(&next).unwrap();
        assert_eq!((promoted.local_index(), indices(&retired)), (2, vec![]));
        assert!(!promoted.awaits_confirmation());
        assert_eq!(current(&rotation), Some(2));
        assert!(rotation.confirmed(&next).is_none(), "a session is confirmed once");
        assert_eq!(indices(&rotation.clear()), [1, 2]);
    }

    #[test]
    fn an_answer_that_was_never_used_gives_way_to_the_next() {
        let mut rotation = Rotation::default();
        assert_eq!(answer(&mut rotation, 1), NONE);
        assert_eq!(answer(&mut rotation, 2), [1]);
        assert_eq!(current(&rotation), None);
    }

    #[test]
    fn when_both_start_at_once_both_new_sessions_are_kept() {
        let mut rotation = Rotation::default();
        initiate(&mut rotation, 1);
        answer(&mut rotation, 2);
        assert_eq!(initiate(&mut rotation, 3), [1]);
        assert_eq!(current(&rotation), Some(3));
        assert_eq!(indices(&rotation.clear()), [2, 3]);
    }
}
