use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{Aead, KeyInit};
use proptest::prelude::*;

use super::*;
use crate::wireguard::messages::write_data_header;

fn portable(key: u8) -> TransportKey {
    TransportKey::new(&[key; 32], Suite::ChaCha20Poly1305, Backend::Portable)
}

/// Every way there is on this machine to do a suite.
fn backends() -> Vec<Backend> {
    let mut backends = vec![Backend::Portable, Backend::fastest()];
    backends.dedup();
    backends
}

/// Datagrams of `stride` bytes, the last one of `last`, with `headers` from `first` on.
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
    for backend in backends() {
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
    for backend in backends() {
        let key = TransportKey::new(&[3; 32], Suite::ChaCha20Poly1305, backend);
        for len in [1, 16, 100, 300, 1420] {
            let stride = len + DATA_OVERHEAD;
            let mut run = unsealed(11, stride, stride, 7, 0x55);
            key.seal_run(7, &mut run, stride);
            // A bit of the third's tag, and one of the last's payload.
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
        // Lots that are full, begun and left over, a shorter last one, and a counter of 64 bits.
        let (count, stride) = (1 + len % 27, len + DATA_OVERHEAD);
        let last = DATA_OVERHEAD + len * (len % 3) / 2;
        let (last, first) = (last.min(stride), u64::MAX / 3 + len as u64);
        let key: [u8; 32] = std::array::from_fn(|i| (len >> (i % 8)) as u8 ^ i as u8);
        let plain = unsealed(count, stride, last, first, len as u8);
        let [mut expected, mut run] = [plain.clone(), plain.clone()];
        let [portable, fastest] = [Backend::Portable, Backend::fastest()]
            .map(|backend| TransportKey::new(&key, Suite::ChaCha20Poly1305, backend));
        portable.seal_run(first, &mut expected, stride);
        fastest.seal_run(first, &mut run, stride);
        assert!(run == expected, "sealing {count} datagrams of {len} bytes");
        assert_eq!(fastest.open_run(&mut run, stride), Verdicts::MAX >> (MAX_RUN - count));
        for (opened, plain) in run.chunks(stride).zip(plain.chunks(stride)) {
            assert!(opened[..opened.len() - TAG] == plain[..plain.len() - TAG], "opening {len} bytes");
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
        let mut run = unsealed(count, stride, (stride - short % stride).max(DATA_OVERHEAD), first, 0xa5);
        let mut one_by_one = run.clone();
        let [portable, fastest] = [Backend::Portable, Backend::fastest()]
            .map(|backend| TransportKey::new(&key, Suite::ChaCha20Poly1305, backend));
        fastest.seal_run(first, &mut run, stride);
        for (i, datagram) in one_by_one.chunks_mut(stride).enumerate() {
            portable.seal_run(first + i as u64, datagram, stride);
        }
        prop_assert!(run == one_by_one);

        for (at, bit) in forged {
            let at = at.index(run.len());
            run[at] ^= 1 << bit;
        }
        let expected: Verdicts = run
            .clone()
            .chunks_mut(stride)
            .enumerate()
            .map(|(i, datagram)| portable.open_run(datagram, stride) << i)
            .sum();
        prop_assert_eq!(fastest.open_run(&mut run, stride), expected);
    }
}
