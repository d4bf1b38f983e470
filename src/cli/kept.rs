//! Interfaces that a router has left shut: it was killed, crashed, or ended with `LANEWAY_KEEP=on`.

use std::path::Path;

use crate::netlink::{self, Remains};
use crate::uapi::client;

/// Returns what to say about `interface` if it is kept shut; `None` if it is not, or that cannot be found out.
pub(super) fn notice(interface: &str) -> Option<String> {
    let found = netlink::remains(interface).ok()?;
    is_shut(&found).then(|| {
        format!(
            "{interface} is kept shut, as its router has ended without being stopped or with LANEWAY_KEEP=on: packets \
             for the tunnel go nowhere; `laneway run` takes it over, and `laneway down {interface}` removes it, after \
             which they leave unencrypted"
        )
    })
}

/// Returns whether no process has the interface, but it or its routes are there.
fn is_shut(found: &Remains) -> bool {
    match found.device {
        Some(Some(state)) => state.persistent && state.queues == 0,
        Some(None) => false,
        None => !found.is_empty(),
    }
}

/// Returns what to say about interfaces whose control sockets in `directory` no process serves.
pub(super) fn notices(directory: &Path) -> Vec<String> {
    client::unserved_interfaces(directory).iter().filter_map(|interface| notice(interface)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{Route, Setup, TunState};

    #[test]
    fn an_interface_without_a_process_is_shut() {
        let route = Route { net: "0.0.0.0/0".parse().unwrap(), table: 51820 };
        let shut = Setup { unreachable: vec![route], ..Setup::default() };
        for (device, setup, expected) in [
            (Some(Some(TunState { persistent: true, queues: 0 })), Setup::default(), true),
            (Some(Some(TunState { persistent: true, queues: 1 })), shut.clone(), false),
            (Some(None), shut.clone(), false),
            (None, shut, true),
            (None, Setup::default(), false),
        ] {
            let found = Remains { device, setup, port_rules: Vec::new() };
            assert_eq!(is_shut(&found), expected, "{found:?}");
        }
    }
}
