//! Capabilities that a router keeps (capabilities(7)), and that it can never gain more.

use std::fs::File;
use std::path::Path;

use caps::errors::CapsError;
use caps::{CapSet, Capability, CapsHashSet};

/// What a router needs as long as it runs, if it had it at the start.
///
/// `CAP_NET_ADMIN`: addresses, routes and MTU follow the file on SIGHUP; sockets are opened anew when the
/// port changes, with a mark and with buffers above the host's limit. `CAP_NET_BIND_SERVICE`: that port may
/// be below 1024.
const KEPT: [Capability; 2] = [Capability::CAP_NET_ADMIN, Capability::CAP_NET_BIND_SERVICE];

/// To read files whatever their mode says. Kept only if `files` are not readable without, which is so where
/// root runs a router whose file belongs to another user: SIGHUP reads it again.
const READS: Capability = Capability::CAP_DAC_READ_SEARCH;

/// Gives up all capabilities of the calling thread but the needed ones, and the means to gain any. To be
/// called before there are other threads. `files` must stay readable.
///
/// # Errors
/// The kernel refuses, or there is no `/proc`. What was given up until then is gone.
pub fn give_up<'a>(files: impl IntoIterator<Item = &'a Path>) -> Result<(), CapsError> {
    let had = caps::read(None, CapSet::Permitted)?;
    let mut kept: CapsHashSet = KEPT.into_iter().filter(|capability| had.contains(capability)).collect();
    let bounding = caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP)?;
    let could_read: Vec<_> = files.into_iter().filter(|file| File::open(file).is_ok()).collect();

    // While the permitted set is whole, what turns out to be needed can be taken back.
    let before = caps::read(None, CapSet::Effective)?;
    caps::set(None, CapSet::Effective, &kept)?;
    if had.contains(&READS) && could_read.iter().any(|file| File::open(file).is_err()) {
        kept.insert(READS);
    }
    if bounding {
        // The right to drop from the bounding set is one of those that are given up.
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

/// The capabilities that the calling thread can use, by name, sorted.
///
/// # Errors
/// There is no `/proc`, or the kernel refuses.
pub fn effective() -> Result<Vec<String>, CapsError> {
    let mut names: Vec<_> = caps::read(None, CapSet::Effective)?.iter().map(ToString::to_string).collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_keeps_what_a_router_needs_and_can_gain_no_more() {
        // Capabilities are a thread's own, so the other tests lose nothing.
        let thread = std::thread::spawn(|| {
            let had = caps::read(None, CapSet::Permitted).unwrap();
            give_up([Path::new("/proc/self/stat")]).unwrap();
            let needed: CapsHashSet = KEPT.into_iter().filter(|kept| had.contains(kept)).collect();
            for set in [CapSet::Effective, CapSet::Permitted] {
                assert_eq!(caps::read(None, set).unwrap(), needed, "{set:?}");
            }
            assert!(caps::read(None, CapSet::Inheritable).unwrap().is_empty());
            assert!(nix::sys::prctl::get_no_new_privs().unwrap());
            // A second time, as for a process that was started with little, changes nothing.
            give_up([]).unwrap();
            assert_eq!(caps::read(None, CapSet::Permitted).unwrap(), needed);
        });
        thread.join().unwrap();
    }
}
