//! The state that a router leaves to its successor, as bytes in a memfd.
//!
//! After [`MAGIC`] and the version comes [`State`], or what contains it ([`restart`](super::restart)), in the encoding of the
//! `postcard` crate. Any change of it or of what it consists of is a new version.

use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::faults;
use crate::lane::staging::StagedPacket;
use crate::peers::state::ActorState;
use crate::units::Nanos;

/// The first bytes of a state.
const MAGIC: &[u8; 8] = b"laneway\0";

/// The version of the state that this program writes, and the only one that it understands.
pub const VERSION: u32 = 2;

/// Bytes before the encoded state.
const HEADER: usize = MAGIC.len() + 4;

/// What a successor needs to go on with the sessions.
#[derive(Serialize, Deserialize)]
pub struct State {
    /// When the workers were paused.
    pub paused: Nanos,
    /// The peer actor.
    pub actor: ActorState,
    /// The staged packets of each lane, with the peers' ids in the predecessor.
    pub staged: Vec<Vec<StagedPacket>>,
}

impl fmt::Debug for State {
    /// Tells when the workers were paused, and no key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("paused", &self.paused).finish_non_exhaustive()
    }
}

/// A state in memory. Dropping it wipes it.
#[derive(Debug)]
pub(super) struct Memory(pub(super) File);

impl Drop for Memory {
    fn drop(&mut self) {
        // Nothing else can be done: the kernel frees the memory in any case.
        let _ = wipe(&self.0);
    }
}

/// A state that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It has another version, or none.
    #[error("the state has version {0}, and this program understands version {VERSION}")]
    Version(u32),
    /// It is not what its version promises.
    #[error("the state is damaged: {0}")]
    Damaged(String),
    /// It cannot be read or written.
    #[error("cannot read or write the state: {0}")]
    Os(#[from] io::Error),
}

/// Encodes a state into a new memfd that cannot grow.
///
/// # Errors
/// See [`StateError`].
pub fn write(state: &impl Serialize) -> Result<File, StateError> {
    let damaged = |error: postcard::Error| StateError::Damaged(error.to_string());
    let length = postcard::experimental::serialized_size(state).map_err(damaged)?;
    // Of the right size, so that no copies of keys are left by reallocations.
    let mut bytes = Zeroizing::new(vec![0; HEADER + length]);
    bytes[..MAGIC.len()].copy_from_slice(MAGIC);
    bytes[MAGIC.len()..HEADER].copy_from_slice(&VERSION.to_le_bytes());
    postcard::to_slice(state, &mut bytes[HEADER..]).map_err(damaged)?;
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create(c"laneway-state", flags).map_err(io::Error::from)?);
    file.write_all(&bytes)?;
    // It can be wiped, so it can be written and cut.
    let seals = SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).map_err(io::Error::from)?;
    Ok(file)
}

/// Reads a state and wipes it, so that nobody else can use it.
///
/// # Errors
/// See [`StateError`]. It is wiped in any case.
pub fn take<T: DeserializeOwned>(file: &File) -> Result<T, StateError> {
    let read = || {
        let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let mut bytes = Zeroizing::new(vec![0; length]);
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    let bytes: io::Result<Zeroizing<Vec<u8>>> = read();
    wipe(file)?;
    let bytes = bytes?;
    let (header, body) = bytes.split_at_checked(HEADER).ok_or(StateError::Version(0))?;
    let (magic, version) = header.split_at(MAGIC.len());
    let version = version.try_into().map_or(0, u32::from_le_bytes);
    if magic != MAGIC || version != faults::understood_version(VERSION) {
        return Err(StateError::Version(version));
    }
    postcard::from_bytes(body).map_err(|error| StateError::Damaged(error.to_string()))
}

/// Overwrites the state with zeros and frees its memory, whoever else has it open.
///
/// # Errors
/// The kernel's error.
pub fn wipe(file: &File) -> io::Result<()> {
    const ZEROS: [u8; 4096] = [0; 4096];
    let length = file.metadata()?.len();
    for at in (0..length).step_by(ZEROS.len()) {
        let part = ZEROS.len().min((length - at) as usize);
        file.write_all_at(&ZEROS[..part], at)?;
    }
    file.set_len(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::PeerId;
    use crate::wireguard::state::ProtocolState;

    fn state() -> State {
        let protocol = ProtocolState { private_key: Some(Zeroizing::new([7; 32])), peers: Vec::new() };
        let packet = StagedPacket { peer: PeerId(1), attempt: 2, bytes: vec![3; 1000] };
        State {
            paused: Nanos(4),
            actor: ActorState { fwmark: 5, protocol, records: Vec::new() },
            staged: vec![vec![packet], Vec::new()],
        }
    }

    #[test]
    fn a_state_is_taken_once_and_wiped() {
        let file = write(&state()).unwrap();
        let other = file.try_clone().unwrap();
        let taken: State = take(&file).unwrap();
        assert_eq!((taken.paused, taken.actor.fwmark, taken.staged), (Nanos(4), 5, state().staged));
        assert_eq!(other.metadata().unwrap().len(), 0);
        assert!(matches!(take::<State>(&other), Err(StateError::Version(0))));
    }

    #[test]
    fn another_version_is_named_and_damage_is_noticed() {
        let file = write(&state()).unwrap();
        file.write_all_at(&9_u32.to_le_bytes(), MAGIC.len() as u64).unwrap();
        assert!(matches!(take::<State>(&file), Err(StateError::Version(9))));
        let file = write(&state()).unwrap();
        file.set_len(HEADER as u64 + 3).unwrap();
        assert!(matches!(take::<State>(&file), Err(StateError::Damaged(_))));
        let file = write(&state()).unwrap();
        assert!(file.set_len(1 << 20).is_err(), "it cannot grow");
    }
}
