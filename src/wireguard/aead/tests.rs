use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{Aead, KeyInit};
use proptest::prelude::*;

use crate::wireguard::aead::*;
use crate::wireguard::messages::write_data_header;

fn portable(key: u8) -> TransportKey {
    TransportKey::new(&[key; 32], Suite::ChaCha20Poly1305, Backend::Portable)
}

/// The backends that run on this machine, without the portable one.
fn others() -> impl Iterator<Item = Backend> {
    Backend::all().skip(1)
}

/// `count` datagrams of `stride` bytes, the last one of `last` bytes, with counters from `first` on.
fn unsealed(count: usize, stride: usize, last: usize, first: u64, fill: u8) -> Vec<u8> {
    let mut run = vec![fill; (count - 1) * stride + last];
    for (counter, datagram) in (first..).zip(run.chunks_mut(stride)) {
        write_data_header(datagram, 1, counter);
    }
    run
}

/// Three datagrams of 48, 48 and 40 bytes, counters from 7.
fn sealed_run(key: &TransportKey) -> Vec<u8> {
    let mut run = unsealed(3, 48, 40, 7, 0x55);
    key.seal_run(7, &mut run, 48);
    run
}

#[test]
fn another_implementation_opens_what_is_sealed() {
    let run = sealed_run(&portable(3));
    let oracle = ChaCha20Poly1305::new(&[3; 32].into());
    for (i, datagram) in run.chunks(48).enumerate() {
        let mut nonce = [0; 12];
        nonce[4] = 7 + i as u8;
        let payload = oracle.decrypt(&nonce.into(), &datagram[DATA_HEADER..]).unwrap();
        assert_eq!(payload, vec![0x55; datagram.len() - DATA_OVERHEAD]);
    }
}

#[test]
fn one_forged_datagram_does_not_spoil_its_neighbours() {
    let key = portable(3);
    for at in DATA_HEADER..48 {
        let mut run = sealed_run(&key);
        run[48 + at] ^= 1;
        assert_eq!(key.open_run(&mut run, 48), 0b101);
        assert_eq!(run[DATA_HEADER..48 - TAG], [0x55; 16]);
    }
    let mut run = sealed_run(&key);
    assert_eq!(key.open_run(&mut run, 48), 0b111);
    assert_eq!(portable(4).open_run(&mut sealed_run(&key), 48), 0);
}

#[test]
fn the_suites_do_not_open_each_others_datagrams() {
    for backend in Backend::all() {
        let keys = Suite::ALL.map(|suite| TransportKey::new(&[3; 32], suite, backend));
        for (sealing, opening) in [(0, 1), (1, 0)] {
            let mut run = sealed_run(&keys[sealing]);
            assert_eq!(keys[opening].open_run(&mut run, 48), 0);
        }
        for key in keys {
            assert_eq!(key.open_run(&mut sealed_run(&key), 48), 0b111);
        }
    }
}

#[test]
fn nothing_is_left_of_the_payload_of_a_forged_datagram() {
    for backend in Backend::all() {
        let key = TransportKey::new(&[3; 32], Suite::ChaCha20Poly1305, backend);
        for len in [1, 16, 100, 300, 1420] {
            let stride = len + DATA_OVERHEAD;
            let mut run = unsealed(11, stride, stride, 7, 0x55);
            key.seal_run(7, &mut run, stride);
            // One bit in the tag of the third datagram and one in the payload of the last.
            run[3 * stride - 1] ^= 0x80;
            run[10 * stride + DATA_HEADER] ^= 1;
            assert_eq!(key.open_run(&mut run, stride), 0b011_1111_1011);
            for (i, datagram) in run.chunks(stride).enumerate() {
                let fill = if i == 2 || i == 10 { 0 } else { 0x55 };
                assert!(
                    datagram[DATA_HEADER..stride - TAG] == vec![fill; len],
                    "{backend}, {i}, {len} bytes"
                );
            }
        }
    }
}

#[test]
fn every_length_is_sealed_and_opened_as_aws_lc_does() {
    for len in 0..=2048 {
        // Full groups, partial groups and remainders, a shorter last datagram, and a 64-bit counter.
        let (count, stride) = (1 + len % 27, len + DATA_OVERHEAD);
        let last = DATA_OVERHEAD + len * (len % 3) / 2;
        let (last, first) = (last.min(stride), u64::MAX / 3 + len as u64);
        let key: [u8; 32] = std::array::from_fn(|i| (len >> (i % 8)) as u8 ^ i as u8);
        let plain = unsealed(count, stride, last, first, len as u8);
        let mut expected = plain.clone();
        TransportKey::new(&key, Suite::ChaCha20Poly1305, Backend::Portable).seal_run(
            first,
            &mut expected,
            stride,
        );
        for backend in others() {
            let other = TransportKey::new(&key, Suite::ChaCha20Poly1305, backend);
            let mut run = plain.clone();
            other.seal_run(first, &mut run, stride);
            assert!(run == expected, "{backend}: sealing {count} datagrams of {len} bytes");
            assert_eq!(other.open_run(&mut run, stride), Verdicts::MAX >> (MAX_RUN - count), "{backend}");
            for (opened, plain) in run.chunks(stride).zip(plain.chunks(stride)) {
                let [opened, plain] = [opened, plain].map(|datagram| &datagram[..datagram.len() - TAG]);
                assert!(opened == plain, "{backend}: opening {len} bytes");
            }
        }
    }
}

proptest! {
    #[test]
    fn a_run_is_judged_as_datagram_by_datagram(
        key: [u8; 32],
        first in 0..u64::MAX - 200,
        count in 1..=MAX_RUN,
        len in 0..200_usize,
        short in 0..200_usize,
        forged in proptest::collection::vec((any::<prop::sample::Index>(), 0..8_u32), 0..6),
    ) {
        let stride = len + DATA_OVERHEAD;
        let plain = unsealed(count, stride, (stride - short % stride).max(DATA_OVERHEAD), first, 0xa5);
        let portable = TransportKey::new(&key, Suite::ChaCha20Poly1305, Backend::Portable);
        let mut sealed = plain.clone();
        for (i, datagram) in sealed.chunks_mut(stride).enumerate() {
            portable.seal_run(first + i as u64, datagram, stride);
        }
        let mut received = sealed.clone();
        for (at, bit) in forged {
            received[at.index(plain.len())] ^= 1 << bit;
        }
        let expected: Verdicts = received
            .clone()
            .chunks_mut(stride)
            .enumerate()
            .map(|(i, datagram)| portable.open_run(datagram, stride) << i)
            .sum();
        for backend in others() {
            let other = TransportKey::new(&key, Suite::ChaCha20Poly1305, backend);
            let mut run = plain.clone();
            other.seal_run(first, &mut run, stride);
            prop_assert!(run == sealed, "{}", backend);
            prop_assert_eq!(other.open_run(&mut received.clone(), stride), expected, "{}", backend);
        }
    }
}

#[test]
fn what_is_too_short_to_be_a_datagram_is_not_authentic() {
    for backend in Backend::all() {
        let key = TransportKey::new(&[3; 32], Suite::ChaCha20Poly1305, backend);
        let mut run = sealed_run(&key);
        run.truncate(2 * 48 + DATA_OVERHEAD - 1);
        assert_eq!(key.open_run(&mut run, 48), 0b11, "{backend}");
        assert_eq!(key.open_run(&mut [0; 5 * 31], 31), 0, "{backend}");
    }
}

#[test]
fn threads_that_seal_and_open_at_the_same_time_do_not_disturb_each_other() {
    const STRIDE: usize = 200;
    for backend in Backend::all() {
        std::thread::scope(|scope| {
            for fill in 1..=4 {
                scope.spawn(move || {
                    let key = TransportKey::new(&[fill; 32], Suite::ChaCha20Poly1305, backend);
                    for first in 0..500 {
                        let plain = unsealed(45, STRIDE, 120, first, fill);
                        let [mut run, mut expected] = [plain.clone(), plain];
                        key.seal_run(first, &mut run, STRIDE);
                        portable(fill).seal_run(first, &mut expected, STRIDE);
                        assert!(run == expected, "{backend}");
                        assert_eq!(
                            key.open_run(&mut run, STRIDE),
                            Verdicts::MAX >> (MAX_RUN - 45),
                            "{backend}"
                        );
                    }
                });
            }
        });
    }
}
