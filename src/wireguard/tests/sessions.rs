//! Sessions for tests that do not seal or open.

use crate::wireguard::settings::MessageLimits;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::units::{Nanos, PeerId};
use crate::wireguard::aead::Backend;
use crate::wireguard::replay::WINDOW;
use crate::wireguard::session::{Role, Session, SessionKeys, SessionParts};
use crate::wireguard::suite::Suite;

/// Returns a session with `peer` whose keys are zero.
pub(crate) fn session(peer: PeerId, role: Role, local_index: u32, created: Nanos) -> Arc<Session> {
    let key = || Zeroizing::new([0; 32]);
    Arc::new(Session::new(SessionParts {
        peer,
        activity: Arc::default(),
        role,
        local_index,
        remote_index: 0,
        created,
        keys: SessionKeys { suite: Suite::default(), send: key(), receive: key() },
        limits: MessageLimits::default(),
        backend: Backend::default(),
        window: WINDOW,
    }))
}
