//! What the admin thread follows while it serves: the interface, the underlay, ports and signals.

use std::convert::Infallible;
use std::future::pending;
use std::panic;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use tokio::task;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::{FollowedPaths, FollowedPorts, Heard, Link, OnAddresses, OnLoss, WatchedInterface};
use crate::netlink::{AddressWatch, LinkEvent, LinkWatch, LossWatch, NetlinkError, OtherNamespaces};
use crate::offload::{Lifetime, TunnelsSeen};
use crate::peers::handle::ActorHandle;
use crate::router::port_watch::PortWatch;
use crate::router::readiness::Readiness;
use crate::uapi::Device;
use crate::{netlink, uapi};

/// Pause before what was removed is restored, and thus the shortest time between two attempts. Long enough to handle
/// the events of one command together, short enough for a program not to notice.
const SETTLE: Duration = Duration::from_millis(20);

/// Pause before another attempt, if restoring failed.
const AGAIN: Duration = Duration::from_secs(1);

/// How often the state of an interface in another network namespace is asked for. The kernel does not report it.
const ELSEWHERE: Duration = Duration::from_secs(1);

/// Interval between looks for an overlay.
const OVERLAY_CHECKS: Duration = Duration::from_millis(500);

/// Reloads on request. Requests that arrive during a reload cause one further reload. Never returns.
pub(super) async fn follow_hangups(hangups: Option<Heard>) {
    let Some(Heard { orders, mut reload }) = hangups else { return pending().await };
    // If the descriptor fails, no more requests can arrive.
    while let Ok(mut ready) = orders.readable().await {
        if nix::unistd::read(orders.get_ref(), &mut [0; 8]).is_err() {
            ready.clear_ready();
            continue;
        }
        let reloaded = task::spawn_blocking(move || {
            reload();
            reload
        });
        reload = returned(reloaded.await);
    }
    pending::<()>().await;
}

/// Returns the result of work on another thread, and propagates its panic.
pub(super) fn returned<T>(work: Result<T, task::JoinError>) -> T {
    work.unwrap_or_else(|failed| panic::resume_unwind(failed.into_panic()))
}

/// Follows the routes to the peers. Never returns.
pub(super) async fn follow_paths(paths: Option<FollowedPaths>) {
    if let Some(FollowedPaths { paths, watch, on_mtu }) = paths {
        paths.follow(watch, on_mtu).await;
    }
    pending::<()>().await;
}

/// Passes changes of the router's ports and of the network to the callback. Never returns.
pub(super) async fn follow_ports(ports: Option<FollowedPorts>) {
    let Some(FollowedPorts { changed, mut listening, mut on_ports }) = ports else { return pending().await };
    loop {
        tokio::select! {
            // Fails if the peer actor is gone; then the router is stopping.
            told = listening.changed() => if told.is_err() { return pending().await },
            () = changed.notified() => {}
        }
        let followed = task::spawn_blocking(move || {
            on_ports();
            on_ports
        });
        on_ports = returned(followed.await);
    }
}

/// Passes changes of the interface to the callbacks and to `readiness`. Never returns.
pub(super) async fn follow(link: Option<WatchedInterface>, readiness: &Readiness) {
    if let Some(WatchedInterface { mut link, state, addresses, losses }) = link {
        let on_loss = link.on_loss.take();
        tokio::join!(
            follow_state(state, &link, readiness),
            follow_addresses(addresses, &link.on_addresses),
            follow_losses(losses, on_loss, readiness),
            follow_tunnels(&link.interface, &link.tunnels)
        );
    }
    pending::<()>().await;
}

/// Watches the UDP port. Never returns.
pub(super) async fn watch_port(port: Option<PortWatch>) -> Infallible {
    match port {
        Some(port) => port.run().await,
        None => pending().await,
    }
}

pub(super) async fn follow_state(mut watch: LinkWatch, link: &Link, readiness: &Readiness) {
    let Link { tun, actor, on_mtu, .. } = link;
    let mut last = None;
    let mut tell = |event| {
        let LinkEvent::Changed { mtu, up } = event else { return };
        if last == Some(event) {
            return;
        }
        readiness.set_interface_up(up);
        if let Some(actor) = actor {
            actor.set_interface_up(up);
        }
        on_mtu(mtu as usize);
        if last.is_some() {
            let state = if up { "up" } else { "down" };
            tracing::info!("the interface changed: MTU {mtu}, {state}");
        }
        last = Some(event);
    };
    tell(watch.last());
    while let event @ LinkEvent::Changed { .. } = watch.next().await {
        tell(event);
    }
    tracing::info!("the interface has left this network namespace");
    let Some(tun) = tun else { return };
    if let Err(error) = follow_elsewhere(tun, actor.as_ref(), tell).await {
        tracing::info!("changes of the interface are no longer seen: {error}");
        if let Some(actor) = actor {
            actor.set_interface_up(true);
        }
    }
}

/// Follows an interface in another network namespace until it is deleted or the kernel refuses to tell of it.
pub(super) async fn follow_elsewhere(
    tun: &Lifetime,
    actor: Option<&ActorHandle>,
    mut tell: impl FnMut(LinkEvent),
) -> Result<(), NetlinkError> {
    let others = OtherNamespaces::open()?;
    let mut ticks = interval(ELSEWHERE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        match actor {
            Some(actor) => tokio::select! {
                _ = ticks.tick() => {}
                () = actor.interface_doubted() => {}
            },
            None => _ = ticks.tick().await,
        }
        let (namespace, name) = match tun.whereabouts() {
            Ok(found) => found,
            // Deleted. The workers notice, and stop the router.
            Err(Errno::EBADFD) => return Ok(()),
            Err(errno) => {
                let what = "find the interface's network namespace".to_owned();
                return Err(NetlinkError::Refused { what, errno });
            }
        };
        match others.state(namespace, &name).await {
            Ok(event) => tell(event),
            // Moved on, or renamed, since.
            Err(NetlinkError::Refused { errno: Errno::ENODEV, .. }) => {}
            Err(error) => return Err(error),
        }
    }
}

pub(super) async fn follow_addresses(mut watch: AddressWatch, on_addresses: &OnAddresses) {
    on_addresses(watch.last());
    while let Some(addresses) = watch.next().await {
        on_addresses(addresses);
    }
}

pub(super) async fn follow_losses(mut watch: LossWatch, on_loss: Option<OnLoss>, readiness: &Readiness) {
    let Some(mut restore) = on_loss else { return };
    let mut incomplete = readiness.incomplete();
    loop {
        let failed = async {
            let is_followed = incomplete.wait_for(|incomplete| *incomplete).await.is_ok();
            debug_assert!(is_followed, "the conditions for readiness outlive this");
            sleep(AGAIN).await;
        };
        tokio::select! {
            lost = watch.next() => match lost {
                Some(()) => sleep(SETTLE).await,
                None => return,
            },
            () = failed => {}
        }
        let restored = task::spawn_blocking(move || {
            restore();
            restore
        });
        restore = returned(restored.await);
    }
}

/// Lifts the interface's limit of segments while it carries an overlay. Never returns.
///
/// The limit makes superpackets of local TCP fit one UDP send. Those of an overlay come from pods, whose interfaces
/// have no such limit, and the kernel segments what exceeds it before we read it. Each reload sets the limit again.
pub(super) async fn follow_tunnels(interface: &str, tunnels: &TunnelsSeen) {
    let mut ticks = tokio::time::interval(OVERLAY_CHECKS);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if tunnels.take() {
            let name = interface.to_owned();
            let lifted = task::spawn_blocking(move || netlink::lift_segment_limit(&name));
            if let Err(error) = returned(lifted.await) {
                tracing::debug!("overlays over {interface} stay slow: {error}");
            }
        }
    }
}

pub(super) async fn socket_gone(uapi: Option<uapi::Server>, device: Arc<dyn Device>) {
    let Some(server) = uapi else { return pending().await };
    if let Err(error) = server.serve(device).await {
        tracing::error!("cannot serve the UAPI socket: {error}");
        pending::<()>().await;
    }
}
