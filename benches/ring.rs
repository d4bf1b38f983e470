//! Cost of handing a batch to another worker and getting it back, while that worker spins and while it sleeps.
//! Throughput counts one superpacket per batch.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use laneway::lane::bounds::{RING_DEPTH, outbound_pool};
use laneway::lane::ring::batch::OutboundBatch;
use laneway::lane::ring::doorbell::{Awaited, Doorbell};
use laneway::lane::ring::{Pool, Ring};
use laneway::lane::wait::sleep::Sleeper;
use laneway::shutdown::Shutdown;

/// A superpacket: 45 segments of 1,420 bytes.
const BYTES: u64 = 45 * 1420;

/// What the other worker does while idle.
#[derive(Clone, Copy, PartialEq)]
enum Idle {
    Looks,
    Sleeps,
}

/// A worker that only returns batches, and the ring to it.
struct Bench {
    pool: Pool<OutboundBatch>,
    ring: Arc<Ring<OutboundBatch>>,
    sleeper: Sleeper,
    shutdown: Arc<Shutdown>,
    worker: Option<thread::JoinHandle<()>>,
}

impl Bench {
    fn new(idle: Idle) -> Self {
        let shutdown = Arc::new(Shutdown::new().expect("an eventfd"));
        let bells = [(); 2].map(|()| Arc::new(Doorbell::new().expect("an eventfd")));
        let [near, far] = bells.each_ref().map(|bell| Sleeper::new(Arc::clone(bell), Arc::clone(&shutdown)));
        let pool = Pool::new(outbound_pool(RING_DEPTH, false), Arc::clone(&bells[0]), OutboundBatch::new);
        let ring = Arc::new(Ring::new(RING_DEPTH, Arc::clone(&bells[1])));
        let worker = thread::spawn({
            let (ring, returns) = (Arc::clone(&ring), Arc::clone(pool.returns()));
            move || {
                while !far.stopped() {
                    if let Some(batch) = ring.pop() {
                        returns.push(batch).expect("a return ring holds every batch of its pool");
                    } else if idle == Idle::Looks {
                        std::hint::spin_loop();
                    } else if far.sleep(Awaited::WORK, None, None, || ring.is_empty()).is_err() {
                        return;
                    }
                }
            }
        });
        Self { pool, ring, sleeper: near, shutdown, worker: Some(worker) }
    }

    /// Hands over `batches`, as many at once as the pool holds.
    fn stream(&mut self, batches: u64) -> Duration {
        let start = Instant::now();
        for _ in 0..batches {
            let batch = loop {
                if let Some(batch) = self.pool.take() {
                    break batch;
                }
                std::hint::spin_loop();
            };
            self.ring.push(batch).expect("an outbox holds every batch of its pool");
        }
        while self.pool.available() < self.pool.size() {
            std::hint::spin_loop();
        }
        start.elapsed()
    }

    /// Hands over `batches` one at a time, sleeping until each is returned.
    fn round_trips(&mut self, batches: u64) -> Duration {
        let start = Instant::now();
        for _ in 0..batches {
            let batch = self.pool.take().expect("all slabs are home");
            self.ring.push(batch).expect("an outbox holds every batch of its pool");
            while self.pool.available() < self.pool.size() {
                let (pool, sleeper) = (&self.pool, &self.sleeper);
                let woken = sleeper.sleep(Awaited::ANY, None, None, || pool.available() < pool.size());
                woken.expect("nobody stops the bench");
            }
        }
        start.elapsed()
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.shutdown.signal();
        if let Some(worker) = self.worker.take() {
            worker.join().expect("the worker ends cleanly");
        }
    }
}

fn hops(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("inbox");
    group.throughput(Throughput::Bytes(BYTES));

    let bell = Arc::new(Doorbell::new().expect("an eventfd"));
    let ring = Ring::new(RING_DEPTH, bell);
    let mut kept = Some(Box::new(OutboundBatch::new()));
    group.bench_function("push and pop on one thread", |bencher| {
        bencher.iter(|| {
            ring.push(kept.take().expect("one batch")).expect("an empty inbox");
            kept = ring.pop();
        });
    });

    let mut bench = Bench::new(Idle::Looks);
    group.bench_function("stream to a worker that looks", |bencher| {
        bencher.iter_custom(|batches| bench.stream(batches));
    });
    drop(bench);

    let mut bench = Bench::new(Idle::Sleeps);
    group.bench_function("stream to a worker that may sleep", |bencher| {
        bencher.iter_custom(|batches| bench.stream(batches));
    });
    group.bench_function("there and back, both asleep", |bencher| {
        bencher.iter_custom(|batches| bench.round_trips(batches));
    });
    group.finish();
}

criterion_group!(benches, hops);
criterion_main!(benches);
