//! What `wireguard::aead`'s tests, which compare every length with AWS-LC, do not reach.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use libc::{MAP_ANONYMOUS, MAP_PRIVATE, PROT_NONE, PROT_READ, PROT_WRITE};

use super::*;

const PAGE: usize = 4096;

/// By AWS-LC: the tag.
fn sealed_by_aws_lc(key: &[u8; 32], nonce: [u8; 12], text: &mut [u8]) -> [u8; 16] {
    LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key).unwrap())
        .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), text)
        .unwrap()
        .as_ref()
        .try_into()
        .unwrap()
}

/// The text of RFC 8439, section 2.8.2. What it is sealed to depends on the associated data in the tag
/// only, which comes from AWS-LC.
#[test]
fn the_ciphertext_is_that_of_rfc_8439_section_2_8_2() {
    const SEALED: &str = "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69\
        da92728b1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc3f\
        f4def08e4b7a9de576d26586cec64b6116";
    let plain =
        *b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
        sunscreen would be it.";
    let key: [u8; 32] = std::array::from_fn(|i| 0x80 + i as u8);
    let nonce = [7, 0, 0, 0, 0x40, 0x41, 0x42, 0x43, 0x44, 0x45, 0x46, 0x47];

    let mut manager = Manager::new().unwrap();
    let mut text = plain;
    let mut messages = [Message::new(nonce, &mut text)];
    manager.seal(&key, &mut messages).unwrap();
    let tag = *messages[0].tag();
    let byte = |at: usize| u8::from_str_radix(&SEALED[2 * at..2 * at + 2], 16).unwrap();
    assert_eq!(text, std::array::from_fn(byte));
    assert_eq!(tag, sealed_by_aws_lc(&key, nonce, &mut plain.clone()));

    let mut messages = [Message::new(nonce, &mut text)];
    manager.open(&key, &mut messages).unwrap();
    assert_eq!(*messages[0].tag(), tag);
    assert_eq!(text, plain);
}

#[test]
fn more_messages_than_the_library_takes_are_sealed_all_the_same() {
    let mut texts = vec![[0x5a; 20]; 2 * MOST + 3];
    let mut expected = texts.clone();
    let nonce = |i: usize| [i as u8; 12];
    let mut messages: Vec<_> =
        texts.iter_mut().enumerate().map(|(i, text)| Message::new(nonce(i), text)).collect();
    Manager::new().unwrap().seal(&[1; 32], &mut messages).unwrap();
    for (i, (message, expected)) in messages.iter().zip(&mut expected).enumerate() {
        assert_eq!(*message.tag(), sealed_by_aws_lc(&[1; 32], nonce(i), expected));
    }
    assert_eq!(texts, expected);
}

/// Nothing is mapped beside the text, so to touch a byte too many would be the end.
#[test]
fn nothing_beside_a_text_is_touched() {
    // SAFETY: a mapping of its own, at a place that the kernel picks.
    let mapped = unsafe {
        libc::mmap(ptr::null_mut(), 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    };
    assert_ne!(mapped, libc::MAP_FAILED);
    let mapped = mapped.cast::<u8>();
    for page in [0, 2] {
        // SAFETY: a page of the mapping, which nobody has a reference to.
        assert_eq!(unsafe { libc::mprotect(mapped.add(page * PAGE).cast(), PAGE, PROT_NONE) }, 0);
    }
    // SAFETY: the middle page is mapped, zero, readable and writable, and nobody else has a reference to it.
    let page: &mut [u8] = unsafe { std::slice::from_raw_parts_mut(mapped.add(PAGE), PAGE) };

    let mut manager = Manager::new().unwrap();
    for len in 0..=2048 {
        for start in [0, PAGE - len] {
            page.fill(len as u8);
            let text = &mut page[start..start + len];
            let mut expected = text.to_vec();
            let mut messages = [Message::new([9; 12], text)];
            manager.seal(&[1; 32], &mut messages).unwrap();
            let tag = *messages[0].tag();
            assert_eq!(tag, sealed_by_aws_lc(&[1; 32], [9; 12], &mut expected), "{len} bytes");
            assert!(page[start..start + len] == expected[..], "{len} bytes");
            let mut messages = [Message::new([9; 12], &mut page[start..start + len])];
            manager.open(&[1; 32], &mut messages).unwrap();
            assert_eq!(*messages[0].tag(), tag, "{len} bytes");
            assert!(page.iter().all(|&byte| byte == len as u8), "{len} bytes");
        }
    }
    // SAFETY: the whole mapping, and `page` is not used any more.
    assert_eq!(unsafe { libc::munmap(mapped.cast(), 3 * PAGE) }, 0);
}
