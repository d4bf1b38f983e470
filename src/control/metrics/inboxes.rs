//! How many batches wait in each worker's inbox at the moment of the scrape. Asking the rings costs the
//! workers nothing; a number that they published themselves would mostly be that of their last, empty look.

use std::sync::Arc;

use crate::lane::batch::{InboundBatch, OutboundBatch};
use crate::lane::inbox::Inbox;
use crate::lane::telemetry::{Collector, Page};

/// The inboxes of one lane.
#[derive(Debug)]
pub struct LaneInboxes {
    /// The inside worker's.
    pub inside: Arc<Inbox<InboundBatch>>,
    /// The outside worker's.
    pub outside: Arc<Inbox<OutboundBatch>>,
}

/// The inboxes of every lane, in their order.
#[derive(Debug)]
pub struct InboxMetrics(pub Vec<LaneInboxes>);

impl Collector for InboxMetrics {
    fn collect(&self, page: &mut Page) {
        for (queue, inboxes) in self.0.iter().enumerate() {
            let queue = queue.to_string();
            for (worker, depth) in [("inside", inboxes.inside.len()), ("outside", inboxes.outside.len())] {
                page.sample("laneway_inbox_depth", &[("queue", &queue), ("worker", worker)], depth);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::exposition::Exposition;
    use crate::lane::doorbell::Doorbell;
    use crate::lane::telemetry::Registry;

    #[test]
    fn a_scrape_tells_how_many_batches_wait_for_each_worker() {
        let bell = Arc::new(Doorbell::new().unwrap());
        let inside = Arc::new(Inbox::new(4, Arc::clone(&bell)));
        let outside = Arc::new(Inbox::new(4, bell));
        let registry = Registry::new();
        let inboxes = LaneInboxes { inside: Arc::clone(&inside), outside: Arc::clone(&outside) };
        registry.collect_from(InboxMetrics(vec![inboxes]));
        for _ in 0..3 {
            inside.push(Box::new(InboundBatch::new(0))).unwrap();
        }
        outside.push(Box::new(OutboundBatch::new())).unwrap();
        let _ = inside.pop();
        let scrape = Exposition::parse(&registry.render()).unwrap();
        for (worker, depth) in [("inside", 2.0), ("outside", 1.0)] {
            let shown = scrape.sum("laneway_inbox_depth", &[("queue", "0"), ("worker", worker)]);
            assert!((shown - depth).abs() < 0.5, "{worker}: {shown}");
        }
    }
}
