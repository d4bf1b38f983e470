//! Follows the routes to the peers. When the route to a peer moves to another interface, its source address is
//! dropped, as the kernel's WireGuard does (`send4` and `send6` in `drivers/net/wireguard/socket.c`): the sends would
//! succeed, but a network rarely lets another network's addresses out (BCP 38).
//!
//! The kernel's WireGuard compares routes on each send. Here the admin thread compares them when the kernel reports a
//! change of the network, so a send costs nothing.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::panic;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use tokio::sync::Notify;
use tokio::task;

use crate::lane::peers::{PeerRecord, Peers};
use crate::netlink::{SelectedRoute, UnderlayWatch};
use crate::peers::handle::{ActorHandle, Listening};
use crate::underlay::LocalSource;
use crate::units::PeerId;

/// The peers whose paths are followed, and who is told of changes.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The peers.
    pub peers: Arc<Peers>,
    /// The peer actor.
    pub actor: ActorHandle,
    /// Notified of each change of the network.
    pub changed: Arc<Notify>,
}

/// Receives the largest MTU of the routes to the peers, in bytes. Never called concurrently.
pub type OnPathMtu = Box<dyn FnMut(u32) + Send>;

/// What was last known of the path to a peer.
#[derive(Debug)]
struct PeerPath {
    address: SocketAddr,
    route: Result<SelectedRoute, Errno>,
    /// The source that was dropped and whose interface is avoided.
    avoided: Option<LocalSource>,
}

impl Paths {
    /// Follows changes of the network and of endpoints until `watch` fails. Returns then. Calls `on_mtu` with the largest MTU of the
    /// routes to the peers, in bytes, after each change, on a thread that may block.
    pub(super) async fn follow(self, mut watch: UnderlayWatch, mut on_mtu: Option<OnPathMtu>) {
        let mut known = HashMap::new();
        while watch.next(self.actor.located()).await.is_some() {
            self.changed.notify_one();
            let listening = *self.actor.listening().borrow();
            let rerouted = self.compare(&watch, listening, &mut known).await;
            let mtu = |path: &PeerPath| watch.outer_mtu(path.route.as_ref().ok()?);
            if let Some(mtu) = known.values().filter_map(mtu).max()
                && let Some(mut tell) = on_mtu.take()
            {
                let told = task::spawn_blocking(move || {
                    tell(mtu);
                    tell
                });
                on_mtu = Some(told.await.unwrap_or_else(|failed| panic::resume_unwind(failed.into_panic())));
            }
            if !rerouted.is_empty() {
                tracing::debug!("the network has changed: new routes to {} peers", rerouted.len());
            }
            // Also without rerouted peers, because a host name without an address may have one now.
            if !self.actor.rerouted(rerouted) {
                tracing::debug!("the peer actor is busy; it does not hear of a change of the network");
            }
        }
        tracing::warn!("changes of the network are no longer followed: the netlink socket failed");
    }

    /// Compares the routes to all peers with those in `known`, and drops sources that the new routes do not allow.
    /// Returns the peers whose routes have changed.
    async fn compare(
        &self,
        watch: &UnderlayWatch,
        listening: Listening,
        known: &mut HashMap<PeerId, PeerPath>,
    ) -> Vec<PeerId> {
        let snapshot = self.peers.load_full();
        known.retain(|peer, _| snapshot.peer(*peer).is_some());
        let mut rerouted = Vec::new();
        for record in snapshot.peers.iter().flatten() {
            let before = known.remove(&record.id);
            if let Some((path, changed)) = look(watch, listening, record, before).await {
                known.insert(record.id, path);
                if changed == Some(true) {
                    rerouted.push(record.id);
                }
                if changed != Some(false) {
                    record.path_limit.forget();
                }
            }
        }
        rerouted
    }
}

/// Looks up the path to one peer. Returns the path and whether it has changed, if that is known, or `None` if the
/// peer has no endpoint.
async fn look(
    watch: &UnderlayWatch,
    Listening { port, mark, .. }: Listening,
    record: &PeerRecord,
    before: Option<PeerPath>,
) -> Option<(PeerPath, Option<bool>)> {
    let endpoint = record.endpoint()?;
    let to = endpoint.address;
    let lookup = async |source| watch.route(to, source, port, mark).await;
    let route = lookup(None).await;
    let before = before.filter(|before| before.address.ip() == to.ip());
    let mut avoided = before.as_ref().and_then(|before| before.avoided);
    if let Some(source) = avoided
        && lookup(Some(source.ip)).await.is_ok_and(|route| route.ifindex == source.ifindex)
    {
        avoided = None;
        record.avoided.store(0, Ordering::Relaxed);
    }
    let mut changed = before.as_ref().map(|before| before.route != route);
    // A route that has not changed allows what it allowed before.
    if let Some(source) = endpoint.source.filter(|_| changed != Some(false)) {
        let elsewhere = match lookup(Some(source.ip)).await {
            Ok(route) => route.ifindex != source.ifindex,
            // The address is gone.
            Err(errno) => errno == Errno::EINVAL,
        };
        if elsewhere {
            // Datagrams that are still on their way over the old path must not bring the source back.
            record.avoided.store(source.ifindex, Ordering::Relaxed);
            avoided = Some(source);
        }
        let preferred =
            |route: &Result<SelectedRoute, Errno>| route.as_ref().ok().and_then(|route| route.source);
        let replaced = was_replaced(
            source.ip,
            before.as_ref().and_then(|before| preferred(&before.route)),
            preferred(&route),
        );
        if elsewhere || replaced {
            record.drop_source();
            changed = Some(true);
        }
    }
    Some((PeerPath { address: to, route, avoided }, changed))
}

/// Returns whether the kernel selected `source` before and selects another address now.
fn was_replaced(source: IpAddr, before: Option<IpAddr>, now: Option<IpAddr>) -> bool {
    before == Some(source) && now.is_some_and(|now| now != source)
}
