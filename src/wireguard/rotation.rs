//! The up to three sessions a peer has at a time, and how they take over from each other
//! (whitepaper, section 6.2; the kernel's `add_new_keypair` and `wg_noise_received_with_keypair`).
//!
//! *current* is the one we send with. *previous* still opens what was on its way. *next* is one we
//! answered for as responder: it becomes current when the first authentic packet on it proves that
//! the initiator has it too.

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

/// Sessions that are out of use now.
pub(super) type Retired = ArrayVec<Arc<Session>, 3>;

impl Rotation {
    /// The session to send with, whatever its age.
    pub(super) fn current(&self) -> Option<&Arc<Session>> {
        self.current.as_ref()
    }

    /// When the youngest session was made.
    pub(super) fn youngest(&self) -> Option<Nanos> {
        [&self.previous, &self.current, &self.next]
            .into_iter()
            .flatten()
            .map(|session| session.created())
            .max()
    }

    /// Takes up a session that we initiated. It can be used at once: its response proves that the
    /// responder has it.
    pub(super) fn initiated(&mut self, session: Arc<Session>) -> Retired {
        let replaced = self.current.replace(session);
        // Both ends started at once and the peer may be sending with `next` already: that one is
        // worth more than what we used until now.
        let (kept, retired) = match self.next.take() {
            Some(next) => {
                next.set_confirmed();
                (Some(next), replaced)
            }
            None => (replaced, None),
        };
        let previous = std::mem::replace(&mut self.previous, kept);
        retired.into_iter().chain(previous).collect()
    }

    /// Takes up a session that we answered for. It waits for its confirmation.
    pub(super) fn answered(&mut self, session: Arc<Session>) -> Retired {
        self.next.replace(session).into_iter().chain(self.previous.take()).collect()
    }

    /// The first authentic packet came in on the session of this index. If that makes it the
    /// current one, returns it and what it drove out.
    pub(super) fn confirmed(&mut self, local_index: u32) -> Option<(Arc<Session>, Retired)> {
        let session = self.next.take_if(|next| next.local_index() == local_index)?;
        session.set_confirmed();
        let replaced = self.current.replace(Arc::clone(&session));
        let retired = std::mem::replace(&mut self.previous, replaced).into_iter().collect();
        Some((session, retired))
    }

    /// Gives all sessions up.
    pub(super) fn clear(&mut self) -> Retired {
        [self.previous.take(), self.current.take(), self.next.take()].into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::aead::Backend;
    use super::super::replay::WINDOW;
    use super::super::session::{MessageLimits, Role, SessionKeys, SessionParts};
    use super::super::suite::Suite;
    use super::*;
    use crate::units::PeerId;
    use zeroize::Zeroizing;

    fn session(local_index: u32, role: Role) -> Arc<Session> {
        Arc::new(Session::new(SessionParts {
            peer: PeerId(0),
            activity: Arc::default(),
            role,
            local_index,
            remote_index: 0,
            created: Nanos(u64::from(local_index)),
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

    const NONE: [u32; 0] = [];

    fn initiate(rotation: &mut Rotation, index: u32) -> Vec<u32> {
        indices(&rotation.initiated(session(index, Role::Initiator)))
    }

    fn answer(rotation: &mut Rotation, index: u32) -> Vec<u32> {
        indices(&rotation.answered(session(index, Role::Responder)))
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
        assert_eq!(answer(&mut rotation, 2), NONE);
        assert_eq!(current(&rotation), Some(1));
        assert!(rotation.confirmed(1).is_none(), "not the one that waits");
        let (promoted, retired) = rotation.confirmed(2).unwrap();
        assert_eq!((promoted.local_index(), indices(&retired)), (2, vec![]));
        assert!(!promoted.awaits_confirmation());
        assert_eq!(current(&rotation), Some(2));
        assert!(rotation.confirmed(2).is_none(), "once is enough");
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
