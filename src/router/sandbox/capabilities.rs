//! Drops all capabilities (capabilities(7)) that a running router does not need, for good.

use std::fs::File;
use std::path::Path;

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};

use crate::config::reading::is_pipe;

/// Capabilities that a running router keeps if it has them at startup.
///
/// - `CAP_NET_ADMIN`: to change addresses, routes and MTU on SIGHUP, and to reopen sockets with a mark and
///   with buffers above the host's limit when the port changes.
/// - `CAP_NET_BIND_SERVICE`: to bind a port below 1024 when the port changes.
const KEPT: [Capability; 2] = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_BIND_SERVICE];

/// Permits reading files regardless of their mode. Kept only if a configuration file is unreadable without
/// it, as when root runs a router whose file belongs to another user, because SIGHUP reads the file again.
const READS: Capability = Capability::CAP_DAC_READ_SEARCH;

/// Makes those of the capabilities that a router keeps effective that are only permitted, as in an image whose program
/// has them as file capabilities. Errors are ignored: what needs the capability says that it is missing.
pub fn raise() {
    for capability in KEPT {
        if caps::has_cap(None, CapSet::Permitted, capability).unwrap_or_default() {
            let _ = caps::raise(None, CapSet::Effective, capability);
        }
    }
}

/// Drops all capabilities of the calling thread that a router does not need, and sets `no_new_privs` so that
/// it cannot gain any. Those of `files` that are readable now remain readable. Call this before starting
/// other threads.
///
/// # Errors
/// Fails if the kernel refuses or `/proc` is not mounted. Capabilities dropped before the failure stay
/// dropped.
pub fn give_up<'a>(files: impl IntoIterator<Item = &'a Path>) -> Result<(), CapsError> {
    let had = caps::read(None, CapSet::Permitted)?;
    let mut kept: CapsHashSet = KEPT.into_iter().filter(|capability| had.contains(capability)).collect();
    let bounding = caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)?;
    // Pipes are not read again, and opening one waits for a writer.
    let files = files.into_iter().filter(|file| !is_pipe(file));
    let could_read: Vec<_> = files.filter(|file| File::open(file).is_ok()).collect();

    // The permitted set is still complete, so READS can be restored if it turns out to be needed.
    let before = caps::read(None, CapSet::Effective)?;
    caps::set(None, CapSet::Effective, &kept)?;
    if had.contains(&READS) && could_read.iter().any(|file| File::open(file).is_err()) {
        kept.insert(READS);
    }
    if bounding {
        // Dropping from the bounding set needs CAP_SETPCAP, which is not kept.
        caps::set(None, CapSet::Effective, &before)?;
        for capability in caps::runtime::thread_all_supported().difference(&kept) {
            caps::drop(None, CapSet::Bounding, *capability)?;
        }
    }
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Inheritable, &CapsHashSet::new())?;
    caps::set(None, CapSet::Permitted, &kept)?;
    nix::sys::prctl::set_no_new_privs().map_err(|errno| CapsError::from(errno.to_string()))
}

/// Returns the names of the calling thread's effective capabilities, sorted.
///
/// # Errors
/// Fails if the kernel refuses or `/proc` is not mounted.
pub fn effective() -> Result<Vec<String>, CapsError> {
    let mut names: Vec<_> = caps::read(None, CapSet::Effective)?.iter().map(ToString::to_string).collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permitted_capability_is_made_effective() {
        std::thread::spawn(|| {
            let permitted = caps::has_cap(None, CapSet::Permitted, Capability::CAP_NET_ADMIN).unwrap();
            caps::set(None, CapSet::Effective, &CapsHashSet::new()).unwrap();
            raise();
            assert_eq!(caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN).unwrap(), permitted);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_thread_keeps_what_a_router_needs_and_can_gain_no_more() {
        // Capabilities are per thread, so other tests are not affected.
        let thread = std::thread::spawn(|| {
            let had = caps::read(None, CapSet::Permitted).unwrap();
            give_up([Path::new("/proc/self/stat")]).unwrap();
            let needed: CapsHashSet = KEPT.into_iter().filter(|kept| had.contains(kept)).collect();
            for set in [CapSet::Effective, CapSet::Permitted] {
                assert_eq!(caps::read(None, set).unwrap(), needed, "{set:?}");
            }
            assert!(caps::read(None, CapSet::Inheritable).unwrap().is_empty());
            assert!(nix::sys::prctl::get_no_new_privs().unwrap());
            // A second call, as in a process started with few capabilities, changes nothing.
            give_up([]).unwrap();
            assert_eq!(caps::read(None, CapSet::Permitted).unwrap(), needed);
        });
        thread.join().unwrap();
    }
}
