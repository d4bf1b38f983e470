//! Number of batches in each worker's ring at the time of the scrape. Reading the rings costs the workers
//! nothing, whereas a worker that published the number itself would mostly report a ring it has just emptied.

use std::sync::Arc;

use crate::lane::ring::Ring;
use crate::lane::ring::batch::{InboundBatch, OutboundBatch};
use crate::metrics::{Collector, Page};

/// The rings of one lane.
#[derive(Debug)]
pub struct LaneRings {
    /// The inside worker's ring of inbound batches.
    pub inside: Arc<Ring<InboundBatch>>,
    /// The outside worker's ring of outbound batches.
    pub outside: Arc<Ring<OutboundBatch>>,
}

/// Collector for the rings of all lanes, in lane order.
#[derive(Debug)]
pub struct RingMetrics(pub Vec<LaneRings>);

impl Collector for RingMetrics {
    fn collect(&self, page: &mut Page) {
        for (queue, rings) in self.0.iter().enumerate() {
            let queue = queue.to_string();
            for (worker, depth) in [("inside", rings.inside.len()), ("outside", rings.outside.len())] {
                page.sample("laneway_inbox_depth", &[("queue", &queue), ("worker", worker)], depth);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lane::ring::doorbell::Doorbell;
    use crate::metrics::Registry;
    use crate::metrics::exposition::Exposition;

    #[test]
    fn a_scrape_tells_how_many_batches_wait_for_each_worker() {
        let bell = Arc::new(Doorbell::new().unwrap());
        let inside = Arc::new(Ring::new(4, Arc::clone(&bell)));
        let outside = Arc::new(Ring::new(4, bell));
        let registry = Registry::new();
        let rings = LaneRings { inside: Arc::clone(&inside), outside: Arc::clone(&outside) };
        registry.collect_from(RingMetrics(vec![rings]));
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
