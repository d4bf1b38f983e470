//! TUN check: briefly creates a device with two queues, in a new network namespace if permitted, otherwise in
//! the current one.

use std::sync::Arc;

use super::check::{Check, Verdict};
use super::remedies;
use crate::netns::Namespace;
use crate::offload::{Offloads, OpenError, open_queues};
use crate::shutdown::Shutdown;

/// Interface name; the kernel replaces `%d` with a number.
const NAME: &str = "lwdoctor%d";

/// Queues to open: a second one proves multiqueue support.
const QUEUES: usize = 2;

pub(super) fn check() -> Vec<Check> {
    let apart = Namespace::create().and_then(|namespace| namespace.run(make));
    let (made, place) = match apart {
        Ok(made) => (made, "in a new network namespace"),
        // Without CAP_SYS_ADMIN, as in most containers.
        Err(_) => (make(), "in the current network namespace"),
    };
    match made {
        Ok((offloads, writes_tunnels)) => {
            let found = format!("created with {QUEUES} queues and virtio headers {place}, then removed");
            let mut checks =
                vec![Check::good("TUN device", found), tso(offloads), uso(offloads), udp_tunnel(offloads)];
            checks.extend(offloads.udp_tunnel.then(|| written_tunnels(writes_tunnels)));
            checks
        }
        Err(error) => vec![refused(&error)],
    }
}

/// Returns the offloads, and whether superpackets inside UDP tunnels are written.
fn make() -> Result<(Offloads, bool), OpenError> {
    let shutdown = Shutdown::new().map_err(|source| OpenError::Os { operation: "eventfd", source })?;
    let device = open_queues(NAME, QUEUES, true, &Arc::new(shutdown))?;
    Ok((device.offloads, device.writes_tunnels))
}

fn refused(error: &OpenError) -> Check {
    let (found, remedy) = match error {
        OpenError::NoDevice => ("/dev/net/tun is missing".to_owned(), remedies::TUN_DEVICE),
        OpenError::NotTun => (
            "/dev/net/tun is not the TUN device but a file, a folder or another device".to_owned(),
            remedies::NOT_TUN,
        ),
        OpenError::Forbidden => {
            ("/dev/net/tun: its mode denies this user access".to_owned(), remedies::TUN_MODE)
        }
        OpenError::NoPermission => ("creating one requires CAP_NET_ADMIN".to_owned(), remedies::NET_ADMIN),
        other => (other.to_string(), remedies::NEWER_KERNEL),
    };
    Check::missing("TUN device", found, remedy)
}

fn tso(offloads: Offloads) -> Check {
    let found = "TCP superpackets are read and written (TSO)";
    if offloads.tcp {
        Check::good("TUN offload, TCP", found)
    } else {
        Check::limited("TUN offload, TCP", "the kernel does not support TSO on a TUN", remedies::NEWER_KERNEL)
    }
}

fn uso(offloads: Offloads) -> Check {
    let found = "UDP superpackets are read and written (USO)";
    if offloads.udp {
        Check::good("TUN offload, UDP", found)
    } else {
        let found = "the kernel does not support USO on a TUN (Linux 6.2 and later do)";
        Check {
            remedy: Some(remedies::NEWER_KERNEL),
            ..Check::new("TUN offload, UDP", Verdict::Limited, found)
        }
    }
}

fn udp_tunnel(offloads: Offloads) -> Check {
    let found = "superpackets inside UDP tunnels (VXLAN, Geneve) are read";
    if offloads.udp_tunnel {
        Check::good("TUN offload, tunnels", found)
    } else {
        let found = "the kernel does not support UDP tunnel GSO on a TUN (Linux 6.17 and later do): overlays such as VXLAN are slower";
        Check {
            remedy: Some(remedies::NEWER_KERNEL),
            ..Check::new("TUN offload, tunnels", Verdict::Limited, found)
        }
    }
}

/// Reports the direction to the kernel. Good in any case: there is nothing to fix.
fn written_tunnels(written: bool) -> Check {
    let found = if written {
        "superpackets inside UDP tunnels are written"
    } else {
        "superpackets inside UDP tunnels are not written: the kernel refuses them on a TUN (as Linux 6.18 does). \
         Received datagrams of overlays are merged as UDP (USO)"
    };
    Check::good("TUN tunnel writes", found)
}
