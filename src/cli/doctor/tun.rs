//! The TUN device: made for a moment, with two queues, in a network namespace of its own where that may
//! be made, or else here.

use std::sync::Arc;

use super::check::{Check, Verdict};
use super::remedies;
use crate::offload::{Offloads, OpenError, Shutdown, open_queues};
use crate::sys::netns::Namespace;

/// The kernel puts a number for the `%d`.
const NAME: &str = "lwdoctor%d";

/// A router with one lane needs one queue; a second one shows that there can be more.
const QUEUES: usize = 2;

pub(super) fn check() -> Vec<Check> {
    let apart = Namespace::create().and_then(|namespace| namespace.run(make));
    let (made, place) = match apart {
        Ok(made) => (made, "in a network namespace of its own"),
        // Without CAP_SYS_ADMIN, as in most containers.
        Err(_) => (make(), "here"),
    };
    match made {
        Ok(offloads) => {
            let found = format!("made with {QUEUES} queues and virtio headers, {place}, and removed again");
            vec![Check::good("TUN device", found), tso(offloads), uso(offloads)]
        }
        Err(error) => vec![refused(&error)],
    }
}

fn make() -> Result<Offloads, OpenError> {
    let shutdown = Shutdown::new().map_err(|source| OpenError::Os { operation: "eventfd", source })?;
    Ok(open_queues(NAME, QUEUES, true, &Arc::new(shutdown))?.offloads)
}

fn refused(error: &OpenError) -> Check {
    let (found, remedy) = match error {
        OpenError::NoDevice => ("/dev/net/tun is missing".to_owned(), remedies::TUN_DEVICE),
        OpenError::Forbidden => {
            ("the mode of /dev/net/tun keeps this user out".to_owned(), remedies::TUN_MODE)
        }
        OpenError::NoPermission => {
            ("it may not be made without CAP_NET_ADMIN".to_owned(), remedies::NET_ADMIN)
        }
        other => (other.to_string(), remedies::NEWER_KERNEL),
    };
    Check::missing("TUN device", found, remedy)
}

fn tso(offloads: Offloads) -> Check {
    let found = "TCP superpackets in and out of the TUN (TSO)";
    if offloads.tcp {
        Check::good("TUN offload, TCP", found)
    } else {
        Check::limited("TUN offload, TCP", "the kernel does not take TSO on a TUN", remedies::NEWER_KERNEL)
    }
}

fn uso(offloads: Offloads) -> Check {
    let found = "UDP superpackets in and out of the TUN (USO)";
    if offloads.udp {
        Check::good("TUN offload, UDP", found)
    } else {
        let found = "the kernel does not take USO on a TUN: Linux 6.2 does";
        Check {
            remedy: Some(remedies::NEWER_KERNEL),
            ..Check::new("TUN offload, UDP", Verdict::Limited, found)
        }
    }
}
