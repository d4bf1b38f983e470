//! Metrics of the peer actor: handshakes and drops.

use super::registry::Registry;
use super::samples::DropDirection;
use super::tally::{LabelledTally, PublishedDrops, Tally};

/// Metrics of the peer actor. Add to the fields, then call [`publish`](Self::publish).
pub struct ActorMetrics {
    /// Handshakes we initiated that established a session.
    pub initiated: Tally,
    /// Handshakes we initiated and gave up.
    pub given_up: Tally,
    /// Handshakes the peer initiated that established a session.
    pub responded: Tally,
    /// Dropped handshake messages, by index of the reason.
    pub messages_dropped: LabelledTally,
    /// Messages from the actor that did not fit the channel to an outside worker.
    pub outbound_drops: PublishedDrops,
    /// Datagrams for the peer actor that were dropped.
    pub inbound_drops: PublishedDrops,
}

impl ActorMetrics {
    /// Registers the peer actor's metrics. `drop_reasons` are the label values of
    /// [`messages_dropped`](Self::messages_dropped), in index order.
    pub fn register(registry: &Registry, drop_reasons: &[&'static str]) -> Self {
        let handshakes = |role, result| {
            Tally::register(registry, "laneway_handshakes_total", &[("role", role), ("result", result)])
        };
        ActorMetrics {
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
            outbound_drops: PublishedDrops::register(registry, DropDirection::Outbound, &[]),
            inbound_drops: PublishedDrops::register(registry, DropDirection::Inbound, &[]),
        }
    }

    /// Adds the counts since the last call to the counters that a scrape reads.
    pub fn publish(&mut self) {
        self.initiated.publish();
        self.given_up.publish();
        self.responded.publish();
        self.messages_dropped.publish();
        self.outbound_drops.publish();
        self.inbound_drops.publish();
    }
}
