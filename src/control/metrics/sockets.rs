//! Datagrams that the kernel dropped at the UDP sockets.

use std::sync::{Arc, Weak};

use crate::lane::telemetry::{Collector, Page};
use crate::underlay::DropWatch;

/// Collector for the socket drops of every lane. It does not keep sockets open after the workers end.
#[derive(Debug)]
pub struct SocketMetrics(Vec<Weak<DropWatch>>);

impl SocketMetrics {
    /// Creates a collector for these lanes, in lane order.
    pub fn new<'a>(lanes: impl IntoIterator<Item = &'a Arc<DropWatch>>) -> Self {
        SocketMetrics(lanes.into_iter().map(Arc::downgrade).collect())
    }
}

impl Collector for SocketMetrics {
    fn collect(&self, page: &mut Page) {
        for (queue, watch) in self.0.iter().enumerate() {
            if let Some(watch) = watch.upgrade() {
                let queue = queue.to_string();
                page.sample("laneway_udp_socket_drops_total", &[("queue", &queue)], watch.total());
            }
        }
    }
}
