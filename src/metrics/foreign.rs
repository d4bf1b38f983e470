//! Metrics of the watch on the UDP port.

use super::registry::Registry;
use super::tally::Tally;

/// Count of other processes' sockets found on the router's UDP port.
pub struct ForeignSockets(Tally);

impl ForeignSockets {
    /// Registers the counter.
    pub fn register(registry: &Registry) -> Self {
        ForeignSockets(Tally::register(registry, "laneway_foreign_sockets_total", &[]))
    }

    /// Adds `found` sockets.
    pub fn add(&mut self, found: u64) {
        self.0.add(found);
        self.0.publish();
    }
}
