//! What the peer actor counts: handshakes, and what it drops.

use super::registry::Registry;
use super::tally::{LabelledTally, PublishedDrops, Tally};

/// The counts of the peer actor. Add to the fields, then [`publish`](Self::publish).
pub struct PeerTelemetry {
    /// Handshakes that we began and that gave a session.
    pub initiated: Tally,
    /// Handshakes that we began and gave up.
    pub given_up: Tally,
    /// Handshakes that the other side began and that gave a session.
    pub responded: Tally,
    /// Handshake messages that were not acted on, by the index of their reason.
    pub messages_dropped: LabelledTally,
    /// Messages of the actor's own that were dropped before an outside worker had them.
    pub outbound_drops: PublishedDrops,
    /// Datagrams for the peer actor that were dropped.
    pub inbound_drops: PublishedDrops,
}

impl PeerTelemetry {
    /// Registers the peer actor's counts. `drop_reasons` are the label values of
    /// [`messages_dropped`](Self::messages_dropped), in the order of their indexes.
    pub fn register(registry: &Registry, drop_reasons: &[&'static str]) -> Self {
        let handshakes = |role, result| {
            Tally::register(registry, "laneway_handshakes_total", &[("role", role), ("result", result)])
        };
        PeerTelemetry {
            initiated: handshakes("initiator", "done"),
            given_up: handshakes("initiator", "failed"),
            responded: handshakes("responder", "done"),
            messages_dropped: LabelledTally::register(
                registry,
                "laneway_handshake_messages_dropped_total",
                &[],
                "reason",
                drop_reasons.iter().copied(),
            ),
            outbound_drops: PublishedDrops::register(registry, "outbound", &[]),
            inbound_drops: PublishedDrops::register(registry, "inbound", &[]),
        }
    }

    /// Adds everything counted since the last call to the counters that a scrape reads.
    pub fn publish(&mut self) {
        self.initiated.publish();
        self.given_up.publish();
        self.responded.publish();
        self.messages_dropped.publish();
        self.outbound_drops.publish();
        self.inbound_drops.publish();
    }
}
