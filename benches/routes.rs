//! Cost of finding the peer of an address among 10 to 50,000 allowed IPs, and of changing such a table.
//!
//! Workers do one look-up per superpacket out and one per packet in. A configuration change copies the table
//! once.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use ipnet::IpNet;
use laneway::routes::Routes;

const SIZES: [u32; 3] = [10, 1_000, 50_000];

/// Number of addresses looked up in turn, so that the cache does not hold a single path through the tree.
const ASKED: u32 = 1024;

/// Returns the address with this number, scattered over `10.0.0.0/8` or `fd00::/8`.
fn address(number: u32, six: bool) -> IpAddr {
    // An odd factor maps numbers one to one (Knuth, "The Art of Computer Programming", section 6.4).
    let scattered = number.wrapping_mul(2_654_435_761);
    if six {
        let [a, b] = [(scattered >> 16) as u16, scattered as u16];
        Ipv6Addr::new(0xfd00, a, b, 0, 0, 0, 0, 1).into()
    } else {
        Ipv4Addr::from_bits(10 << 24 | scattered >> 8).into()
    }
}

/// Returns a table of `size` prefixes, one in four a network and the others single addresses.
fn table(size: u32, six: bool) -> Routes<u32> {
    let mut routes = Routes::default();
    for number in 0..size {
        let whole = if six { 128 } else { 32 };
        let network = if six { 48 } else { 24 };
        let length = if number % 4 == 0 { network } else { whole };
        routes.insert(IpNet::new(address(number, six), length).expect("a prefix"), number);
    }
    routes
}

fn lookup(c: &mut Criterion) {
    for (family, six) in [("v4", false), ("v6", true)] {
        let mut group = c.benchmark_group(format!("lookup {family}"));
        for size in SIZES {
            let routes = table(size, six);
            let asked: Vec<IpAddr> =
                (0..ASKED).map(|n| address(n * ((size / ASKED) | 1) % size, six)).collect();
            assert!(asked.iter().all(|address| routes.lookup(*address).is_some()));
            let mut turn = asked.iter().cycle();
            group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
                bencher.iter(|| routes.lookup(black_box(*turn.next().expect("it never ends"))));
            });
        }
        group.finish();
    }
}

fn change(c: &mut Criterion) {
    let mut group = c.benchmark_group("copy and change one prefix");
    for size in SIZES {
        let routes = table(size, false);
        let net = IpNet::from(IpAddr::from([192, 0, 2, 1]));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            let copy = || {
                let mut copy = routes.clone();
                copy.insert(net, 0);
                copy
            };
            bencher.iter_batched(|| (), |()| copy(), BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group!(benches, lookup, change);
criterion_main!(benches);
