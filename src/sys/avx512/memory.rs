//! Tests that the AVX-512 code stays within its buffers and leaves no keys on the stack.

use std::ffi::c_void;

use super::{Avx512, LANES, Messages};

/// A buffer between two inaccessible guard pages.
struct Fenced {
    /// Start of the first guard page.
    start: *mut u8,
    len: usize,
}

const PAGE: usize = 4096;

impl Fenced {
    fn new(len: usize) -> Self {
        let len = len.next_multiple_of(PAGE);
        // SAFETY: the mapping is new, and `mprotect` only changes pages inside it.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let start = libc::mmap(std::ptr::null_mut(), len + 2 * PAGE, libc::PROT_NONE, flags, -1, 0);
            assert_ne!(start, libc::MAP_FAILED);
            let start = start.cast::<u8>();
            assert_eq!(libc::mprotect(start.add(PAGE).cast(), len, libc::PROT_READ | libc::PROT_WRITE), 0);
            Fenced { start, len }
        }
    }

    /// Returns `len` bytes that start right after the first guard page, or end right before the
    /// second.
    fn bytes(&mut self, len: usize, at_the_end: bool) -> &mut [u8] {
        assert!(len <= self.len);
        let from = PAGE + if at_the_end { self.len - len } else { 0 };
        // SAFETY: the bytes are inside the accessible pages, which live as long as `self`, and `&mut self`
        // makes the borrow exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(from), len) }
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        // SAFETY: `new` mapped exactly this range, and it is unmapped once.
        unsafe { libc::munmap(self.start.cast(), self.len + 2 * PAGE) };
    }
}

#[test]
fn nothing_in_front_of_the_first_or_behind_the_last_message_is_touched() {
    let Some(avx512) = Avx512::detect() else {
        eprintln!("skipped: this CPU does not support the AVX-512 implementation");
        return;
    };
    let key = std::array::from_fn(|i| 0x0101_0101 * i as u32);
    let counters = std::array::from_fn(|lane| lane as u64);
    let mut fenced = Fenced::new(LANES * 700);
    for len in (0..400).chain(570..580).chain(638..645) {
        for count in 1..=LANES {
            let stride = len + len % 7;
            let plain: Vec<u8> = (0..(count - 1) * stride + len).map(|i| i as u8).collect();
            let mut expected = plain.clone();
            let right = avx512.seal(&key, counters, Messages::new(&mut expected, stride, len, count));
            for at_the_end in [false, true] {
                let text = fenced.bytes(plain.len(), at_the_end);
                text.copy_from_slice(&plain);
                let tags = avx512.seal(&key, counters, Messages::new(text, stride, len, count));
                assert_eq!(tags[..count], right[..count], "{count} of {len} bytes");
                assert!(*text == expected, "{count} of {len} bytes");
                let tags = avx512.open(&key, counters, Messages::new(text, stride, len, count));
                assert_eq!(tags[..count], right[..count], "{count} of {len} bytes");
                assert!(*text == plain, "{count} of {len} bytes");
            }
        }
    }
}

/// Arguments of a thread that runs on a stack of the test.
struct Errand {
    avx512: Avx512,
    key: [u32; 8],
    text: Vec<u8>,
    wipes: bool,
}

extern "C" fn run_errand(errand: *mut c_void) -> *mut c_void {
    // SAFETY: the pointer is to the `Errand` in `left_on_the_stack`, which joins this thread.
    let Errand { avx512, key, text, wipes } = unsafe { &mut *errand.cast::<Errand>() };
    avx512.seal(key, [7; LANES], Messages::new(text, 1424, 1424, LANES));
    if *wipes {
        avx512.wipe();
    }
    std::ptr::null_mut()
}

/// Returns how many words of the key are left on the stack of a thread that sealed with it. Looks for four
/// copies in a row, as the cipher holds them in its registers.
fn left_on_the_stack(mut errand: Errand) -> usize {
    let mut stack = Fenced::new(256 * 1024);
    let len = stack.len;
    // SAFETY: the stack and the errand outlive the thread, which is joined.
    unsafe {
        let mut attributes = std::mem::zeroed();
        assert_eq!(libc::pthread_attr_init(&raw mut attributes), 0);
        let start = stack.bytes(len, false).as_mut_ptr();
        assert_eq!(libc::pthread_attr_setstack(&raw mut attributes, start.cast(), len), 0);
        let mut thread = 0;
        let argument = (&raw mut errand).cast();
        assert_eq!(libc::pthread_create(&raw mut thread, &raw const attributes, run_errand, argument), 0);
        assert_eq!(libc::pthread_join(thread, std::ptr::null_mut()), 0);
        libc::pthread_attr_destroy(&raw mut attributes);
    }
    let words = stack.bytes(len, false).as_chunks::<4>().0;
    let is_left = |word: &u32| words.windows(4).any(|four| four == [word.to_le_bytes(); 4]);
    errand.key.iter().filter(|word| is_left(word)).count()
}

#[test]
fn the_stack_keeps_nothing_of_a_key_once_it_is_wiped() {
    let Some(avx512) = Avx512::detect() else {
        eprintln!("skipped: this CPU does not support the AVX-512 implementation");
        return;
    };
    let key = std::array::from_fn(|i| 0x9e37_79b9_u32.wrapping_mul(i as u32 + 1));
    let left = |wipes| left_on_the_stack(Errand { avx512, key, text: vec![0x55; LANES * 1424], wipes });
    assert_ne!(left(false), 0, "without the wipe, the test finds the key");
    assert_eq!(left(true), 0);
}
