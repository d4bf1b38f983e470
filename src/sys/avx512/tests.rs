//! The vectors of RFC 8439 that match WireGuard's use, and cases they do not cover: sums of many large
//! numbers, and messages with a long middle. The tests are skipped, with a note, on CPUs that cannot
//! run this code.

use core::arch::x86_64::{__m512i, _mm512_set1_epi32, _mm512_set1_epi64};

use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::{Aead as _, KeyInit as _};

use super::chacha20::{Streams, split, squares};
use super::messages::Tags;
use super::poly1305::{Authenticators, Block};
use super::{Avx512, LANES, Messages, TAG, store};

fn is_there() -> bool {
    let there = Avx512::detect().is_some();
    if !there {
        crate::testing::report("this CPU does not support the AVX-512 implementation");
    }
    there
}

fn hex<const N: usize>(text: &str) -> [u8; N] {
    assert_eq!(text.len(), 2 * N);
    std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
}

/// Two consecutive key stream blocks of every lane, from block `number` on.
#[target_feature(enable = "avx512f")]
fn blocks(key: &[u32; 8], counters: [u64; LANES], number: u32) -> [[[u8; 64]; LANES]; 2] {
    split(&squares(&Streams::new(key, counters).blocks(number)))
        .map(|blocks| blocks.map(|block| bytes(block)))
}

#[target_feature(enable = "avx512f")]
fn bytes(register: __m512i) -> [u8; 64] {
    let mut bytes = [0; 64];
    store(&mut bytes, register);
    bytes
}

/// The tags of `text`, authenticated `step` blocks at a time.
#[target_feature(enable = "avx512f,avx512bw,avx512ifma,avx512vbmi2")]
fn authenticated(key: [u8; 32], text: &[[u8; TAG]], step: usize) -> Tags {
    let mut words = [_mm512_set1_epi32(0); 16];
    for (word, bytes) in words.iter_mut().zip(key.as_chunks().0) {
        *word = _mm512_set1_epi32(i32::from_le_bytes(*bytes));
    }
    let mut authenticators = Authenticators::new(&words);
    let blocks: Vec<Block> = text
        .iter()
        .map(|block| [0, 8].map(|at| i64::from_le_bytes(block[at..at + 8].try_into().unwrap())))
        .map(|[low, high]| [_mm512_set1_epi64(low), _mm512_set1_epi64(high)])
        .collect();
    for blocks in blocks.chunks(step) {
        authenticators.blocks(blocks);
    }
    authenticators.finish()
}

#[test]
fn the_key_stream_is_that_of_rfc_8439_appendix_a_1() {
    if !is_there() {
        return;
    }
    let (mut last_bit, mut second_byte) = ([0; 8], [0; 8]);
    last_bit[7] = 1 << 24;
    second_byte[0] = 0xff00;
    let vectors = [
        (
            [0; 8],
            0,
            0,
            "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586",
        ),
        (
            [0; 8],
            0,
            1,
            "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f",
        ),
        (
            last_bit,
            0,
            1,
            "3aeb5224ecf849929b9d828db1ced4dd832025e8018b8160b82284f3c949aa5a8eca00bbb4a73bdad192b5c42f73f2fd4e273644c8b36125a64addeb006c13a0",
        ),
        (
            second_byte,
            0,
            2,
            "72d54dfbf12ec44b362692df94137f328fea8da73990265ec1bbbea1ae9af0ca13b25aa26cb4a648cb9b9d1be65b2c0924a66c54d545ec1b7374f4872e99f096",
        ),
        (
            [0; 8],
            0x0200_0000_0000_0000,
            0,
            "c2c64d378cd536374ae204b9ef933fcd1a8b2288b3dfa49672ab765b54ee27c78a970e0e955c14f3a88e741b97c286f75f8fc299e8148362fa198a39531bed6d",
        ),
    ];
    for (key, counter, number, expected) in vectors {
        // SAFETY: `is_there` checked that the CPU has the features the functions enable.
        let [first, _] = unsafe { blocks(&key, [counter; LANES], number) };
        assert_eq!(first, [hex(expected); LANES]);
        if number > 0 {
            // SAFETY: as above.
            let [_, second] = unsafe { blocks(&key, [counter; LANES], number - 1) };
            assert_eq!(second, [hex(expected); LANES]);
        }
    }
}

#[test]
fn the_tags_are_those_of_rfc_8439_appendix_a_3() {
    if !is_there() {
        return;
    }
    let two = "02000000000000000000000000000000";
    let one = "01000000000000000000000000000000";
    let one_and_four = "01000000000000000400000000000000";
    let none = "00000000000000000000000000000000";
    let all = "ffffffffffffffffffffffffffffffff";
    let long = ["e33594d7505e43b90000000000000000", "3394d7505e4379cd0100000000000000", none, one];
    // r, s, text and tag of vectors 7 to 11, which test carries.
    let vectors: [(&str, &str, &[&str], &str); 6] = [
        (two, none, &[all], "03000000000000000000000000000000"),
        (two, all, &[two], "03000000000000000000000000000000"),
        (
            one,
            none,
            &[all, "f0ffffffffffffffffffffffffffffff", "11000000000000000000000000000000"],
            "05000000000000000000000000000000",
        ),
        (one, none, &[all, "fbfefefefefefefefefefefefefefefe", "01010101010101010101010101010101"], none),
        (one_and_four, none, &long, "14000000000000005500000000000000"),
        (one_and_four, none, &long[..3], "13000000000000000000000000000000"),
    ];
    for (r, s, text, tag) in vectors {
        let mut key = [0; 32];
        key[..16].copy_from_slice(&hex::<16>(r));
        key[16..].copy_from_slice(&hex::<16>(s));
        let text: Vec<[u8; 16]> = text.iter().map(|block| hex(block)).collect();
        for step in 1..=4 {
            // SAFETY: `is_there` checked that the CPU has the features the function enables.
            let tags = unsafe { authenticated(key, &text, step) };
            assert_eq!(tags, [hex(tag); LANES], "{r} {s} {text:x?}");
        }
    }
}

#[test]
fn four_blocks_at_a_time_are_as_one_by_one_even_if_every_limb_is_as_large_as_it_gets() {
    if !is_there() {
        return;
    }
    let largest_r = "ffffff0ffcffff0ffcffff0ffcffff0f";
    // The largest r (section 2.5) and two others, with the largest and the smallest text.
    for r in [largest_r, "fffbff0ffcffff0ffcfeff0ff8ffff0f", "00000000000000000000000000000001"] {
        for text in [[0xff; TAG], [0; TAG]] {
            let mut key = [0xff; 32];
            key[..16].copy_from_slice(&hex::<16>(r));
            let text = [text; 257];
            // SAFETY: `is_there` checked that the CPU has the features the function enables.
            let [one, rest @ ..] = [1, 2, 3, 4].map(|step| unsafe { authenticated(key, &text, step) });
            assert_eq!(rest, [one; 3], "{r} {:x?}", text[0]);
        }
    }
}

#[test]
fn messages_with_a_long_middle_are_sealed_and_opened_as_another_implementation_does() {
    let Some(avx512) = Avx512::detect() else {
        crate::testing::report("this CPU does not support the AVX-512 implementation");
        return;
    };
    let key: [u8; 32] = std::array::from_fn(|i| 7 * i as u8);
    let words = std::array::from_fn(|i| u32::from_le_bytes(key.as_chunks().0[i]));
    let other = ChaCha20Poly1305::new(&key.into());
    // Around the ends of chunks, and up to the length of a datagram.
    for len in (125..132).chain(189..196).chain(317..324).chain([4095, 8920, 9000, 65_472]) {
        for count in 1..=LANES {
            let stride = len + 5;
            let plain: Vec<u8> = (0..count * stride).map(|i| ((i * i) >> 5) as u8).collect();
            let counters = std::array::from_fn(|lane| u64::MAX / 9 * lane as u64 + len as u64);
            let mut buffer = plain.clone();
            let tags = avx512.seal(&words, counters, Messages::new(&mut buffer, stride, len, count));
            for lane in 0..count {
                let mut nonce = [0; 12];
                nonce[4..].copy_from_slice(&counters[lane].to_le_bytes());
                let (text, gap) = plain[lane * stride..][..stride].split_at(len);
                let sealed = other.encrypt(&nonce.into(), text).unwrap();
                let came = &buffer[lane * stride..][..stride];
                assert!(came[..len] == sealed[..len], "text {lane} of {count}, {len} bytes");
                assert_eq!(tags[lane], sealed[len..], "tag {lane} of {count}, {len} bytes");
                assert_eq!(&came[len..], gap, "bytes between messages are unchanged");
            }
            let right = avx512.open(&words, counters, Messages::new(&mut buffer, stride, len, count));
            assert_eq!(right[..count], tags[..count], "{count} of {len} bytes");
            assert!(buffer == plain, "opening {count} of {len} bytes");
        }
    }
}
