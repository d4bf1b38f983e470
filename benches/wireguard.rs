//! Cost of sealing and opening a superpacket: one run of 45 segments of 1,420 bytes.

use laneway::wireguard::settings::MessageLimits;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use laneway::drops::DropTally;
use laneway::units::{Nanos, PeerId};
use laneway::wireguard::aead::Backend;
use laneway::wireguard::messages::DATA_OVERHEAD;
use laneway::wireguard::replay::WINDOW;
use laneway::wireguard::session::{OpenedRun, Role, Session, SessionKeys, SessionParts};
use laneway::wireguard::suite::Suite;
use zeroize::Zeroizing;

const SEGMENTS: usize = 45;
const STRIDE: usize = 1420 + DATA_OVERHEAD;

fn end(role: Role, suite: Suite, backend: Backend) -> Session {
    let (send, receive) = if role == Role::Initiator { (1, 2) } else { (2, 1) };
    Session::new(SessionParts {
        peer: PeerId(0),
        activity: Arc::default(),
        role,
        local_index: 1,
        remote_index: 1,
        created: Nanos(1),
        keys: SessionKeys { suite, send: Zeroizing::new([send; 32]), receive: Zeroizing::new([receive; 32]) },
        limits: MessageLimits::default(),
        backend,
        window: WINDOW,
    })
}

fn superpacket(c: &mut Criterion) {
    for backend in Backend::all() {
        superpacket_by(c, &format!("{backend}"), Suite::ChaCha20Poly1305, backend);
    }
    superpacket_by(c, "aes256gcm", Suite::Aes256Gcm, Backend::Portable);
}

fn superpacket_by(c: &mut Criterion, name: &str, suite: Suite, backend: Backend) {
    let (a, b) = (end(Role::Initiator, suite, backend), end(Role::Responder, suite, backend));
    let mut group = c.benchmark_group("superpacket of 45 x 1420 bytes");
    group.throughput(Throughput::Bytes((SEGMENTS * 1420) as u64));

    let mut run = vec![0x5a; SEGMENTS * STRIDE];
    group.bench_function(format!("seal, {name}"), |bencher| {
        bencher.iter(|| {
            let first = a.reserve(SEGMENTS as u32).expect("counters are left");
            a.seal_run(first, black_box(&mut run), STRIDE);
        });
    });

    // Each run is opened once: a second time it would be a replay, and cheaper.
    let (mut opened, mut drops) = (OpenedRun::new(), DropTally::default());
    group.bench_function(format!("open, {name}"), |bencher| {
        bencher.iter_batched_ref(
            || {
                let mut run = vec![0x5a; SEGMENTS * STRIDE];
                a.seal_run(a.reserve(SEGMENTS as u32).expect("counters are left"), &mut run, STRIDE);
                run
            },
            |run| {
                b.open_run(black_box(run), STRIDE, &mut opened, &mut drops);
                assert_eq!(opened.len(), SEGMENTS);
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, superpacket);
criterion_main!(benches);
