//! ChaCha20-Poly1305 for transport data: many datagrams, one key, one call (whitepaper, section
//! 5.4.6; RFC 8439).
//!
//! The interface takes a whole run so that a faster back end (one that works on several datagrams
//! at a time) can come in here and nowhere else.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use super::messages::{DATA_HEADER, DATA_OVERHEAD, TAG, data_counter};

/// The most datagrams that one call takes.
pub const MAX_RUN: usize = 128;

/// Which datagrams of a run are authentic: bit i stands for datagram i.
pub(super) type Verdicts = u128;

const _: () = assert!(MAX_RUN == Verdicts::BITS as usize, "one verdict per datagram");

/// The key of one direction of a session.
///
/// The key schedule lives on the heap of AWS-LC, which wipes what it frees.
pub struct TransportKey(LessSafeKey);

impl TransportKey {
    /// The key these bytes are. Wiping the argument is up to the caller.
    ///
    /// # Panics
    /// If memory runs out: no other failure is left for a key of the right length.
    pub fn new(key: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("the key has the length of the cipher");
        TransportKey(LessSafeKey::new(key))
    }

    /// Seals the payloads of `run` in place and writes their tags. The datagrams lie back to back,
    /// each `stride` bytes, the last one maybe shorter; datagram i is sealed under counter
    /// `first + i`. Headers are not touched.
    ///
    /// # Panics
    /// If `stride` or the last datagram is under [`DATA_OVERHEAD`].
    pub(super) fn seal_run(&self, first: u64, run: &mut [u8], stride: usize) {
        for (counter, datagram) in (first..).zip(run.chunks_mut(stride)) {
            assert!(datagram.len() >= DATA_OVERHEAD, "a datagram has room for header and tag");
            let (payload, tag) =
                datagram[DATA_HEADER..].split_last_chunk_mut::<TAG>().expect("checked above");
            let sealed = self
                .0
                .seal_in_place_separate_tag(nonce(counter), Aad::empty(), payload)
                .expect("a datagram is far shorter than what the cipher can seal");
            tag.copy_from_slice(sealed.as_ref());
        }
    }

    /// Opens the datagrams of `run` in place, under the counters in their headers, and says which
    /// are authentic. Datagrams under [`DATA_OVERHEAD`] bytes are not. What is in the place of a
    /// datagram that is not authentic afterwards is undefined.
    pub(super) fn open_run(&self, run: &mut [u8], stride: usize) -> Verdicts {
        let mut authentic = 0;
        for (i, datagram) in run.chunks_mut(stride).enumerate() {
            if datagram.len() < DATA_OVERHEAD {
                continue;
            }
            let nonce = nonce(data_counter(datagram));
            let opened = self.0.open_in_place(nonce, Aad::empty(), &mut datagram[DATA_HEADER..]);
            authentic |= Verdicts::from(opened.is_ok()) << i;
        }
        authentic
    }
}

/// 32 bits of zeros, then the counter, little-endian (section 5.4.6).
#[inline]
fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(nonce)
}

#[cfg(test)]
mod tests {
    use super::super::messages::write_data_header;
    use super::*;
    use chacha20poly1305::ChaCha20Poly1305;
    use chacha20poly1305::aead::{Aead, KeyInit};

    /// Three datagrams of 48, 48 and 40 bytes, counters from 7.
    fn sealed_run(key: &TransportKey) -> Vec<u8> {
        let mut run = vec![0x55; 48 + 48 + 40];
        for (i, datagram) in run.chunks_mut(48).enumerate() {
            write_data_header(datagram, 1, 7 + i as u64);
        }
        key.seal_run(7, &mut run, 48);
        run
    }

    #[test]
    fn another_implementation_opens_what_is_sealed() {
        let run = sealed_run(&TransportKey::new(&[3; 32]));
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
        let key = TransportKey::new(&[3; 32]);
        for at in DATA_HEADER..48 {
            let mut run = sealed_run(&key);
            run[48 + at] ^= 1;
            assert_eq!(key.open_run(&mut run, 48), 0b101);
            assert_eq!(run[DATA_HEADER..48 - TAG], [0x55; 16]);
        }
        let mut run = sealed_run(&key);
        assert_eq!(key.open_run(&mut run, 48), 0b111);
        assert_eq!(TransportKey::new(&[4; 32]).open_run(&mut sealed_run(&key), 48), 0);
    }
}
