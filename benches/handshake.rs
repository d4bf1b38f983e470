//! Cost of a handshake message for the peer actor, by how far it gets. The load threshold in
//! `wireguard::limiter` is based on it.

use laneway::wireguard::settings::{LoadLimits, Settings};
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use laneway::units::{Nanos, PeerId};
use laneway::wireguard::keys::{OsEntropy, PrivateKey, PublicKey};
use laneway::wireguard::outputs::{Output, Outputs};
use laneway::wireguard::protocol::Protocol;
use laneway::wireguard::table::SessionTable;

const START: Nanos = Nanos(1_000_000_000);
const UNIX: Duration = Duration::from_secs(1_700_000_000);

/// One end of a tunnel with one peer.
struct End {
    protocol: Protocol,
    peer: PeerId,
    entropy: OsEntropy,
    out: Outputs,
}

impl End {
    fn new(private: &PrivateKey, remote: PublicKey, load: LoadLimits) -> Self {
        let settings = Settings { load, ..Settings::default() };
        let mut protocol =
            Protocol::new(Some(private.clone()), Arc::new(SessionTable::new(&[7; 8])), settings);
        let peer = protocol.add_peer(remote).expect("room for a peer");
        let entropy = OsEntropy::new().expect("the system's randomness");
        End { protocol, peer, entropy, out: Outputs::new() }
    }

    /// Handles a datagram and returns the reply.
    fn receive(&mut self, now: Nanos, datagram: &[u8]) -> Option<Vec<u8>> {
        let from = SocketAddr::from(([192, 0, 2, 1], 51820));
        self.protocol.handle_datagram(now, UNIX, &mut self.entropy, from, datagram, &mut self.out);
        self.sent()
    }

    /// Begins a handshake and returns message 1.
    fn initiate(&mut self, now: Nanos) -> Vec<u8> {
        self.protocol.data_waits(now, UNIX, &mut self.entropy, self.peer, &mut self.out);
        self.sent().expect("a handshake begins")
    }

    fn sent(&mut self) -> Option<Vec<u8>> {
        let sent = self.out.drain().filter_map(|output| match output {
            Output::Send { datagram, .. } => Some(datagram.to_vec()),
            _ => None,
        });
        sent.last()
    }
}

fn messages(c: &mut Criterion) {
    let calm = LoadLimits { begins_over: u32::MAX, ends_at: u32::MAX };
    let loaded = LoadLimits { begins_over: 0, ends_at: 0 };
    let mut entropy = OsEntropy::new().expect("the system's randomness");
    let [us, peer, stranger] = [(); 3].map(|()| PrivateKey::generate(&mut entropy));
    let initiation = |from: &PrivateKey| End::new(from, us.public_key(), calm).initiate(START);
    let mut group = c.benchmark_group("a handshake message");

    let mut end = End::new(&us, peer.public_key(), calm);
    let mut wrong = initiation(&stranger);
    wrong[120] ^= 1;
    group.bench_function("with a wrong first MAC", |b| b.iter(|| end.receive(START, black_box(&wrong))));

    let mut end = End::new(&us, peer.public_key(), loaded);
    let right = initiation(&stranger);
    assert!(end.receive(START, &right).is_some());
    group.bench_function("that gets a cookie", |b| b.iter(|| end.receive(START, black_box(&right))));

    let mut end = End::new(&us, peer.public_key(), calm);
    assert!(end.receive(START, &right).is_none());
    group.bench_function("from a stranger", |b| b.iter(|| end.receive(START, black_box(&right))));

    group.bench_function("that is answered", |bencher| {
        bencher.iter_batched_ref(
            || (End::new(&us, peer.public_key(), calm), initiation(&peer)),
            |(end, message)| assert!(end.receive(START, black_box(message)).is_some()),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("that begins one", |bencher| {
        bencher.iter_batched_ref(
            || End::new(&us, peer.public_key(), calm),
            |end| black_box(end.initiate(START)),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(benches, messages);
criterion_main!(benches);
