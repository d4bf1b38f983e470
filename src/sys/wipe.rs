//! Wipes memory that may have held keys: freed heap blocks, and the unused part of a stack.

use std::alloc::{GlobalAlloc, Layout, System};
use std::arch::asm;
use std::mem::MaybeUninit;

/// The system's allocator, except that blocks are wiped when they are freed or moved.
///
/// Libraries that handle keys, the handshake's among them, free memory without wiping it. This costs
/// nothing on the data path, which frees nothing.
#[derive(Debug)]
pub struct WipingAllocator;

// SAFETY: every method passes its arguments on to `System`, under the same contract. `realloc` is the
// provided one, which allocates, copies and then calls `dealloc` here.
unsafe impl GlobalAlloc for WipingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block has the size of its layout, and nobody else uses it any more.
        unsafe {
            block.write_bytes(0, layout.size());
            observe(block);
            System.dealloc(block, layout);
        }
    }
}

/// Overwrites `BYTES` of stack below the caller's frame. What functions called there before have left,
/// spilled registers and moved values, is gone, if they used no more than that.
#[inline(never)]
pub fn stack<const BYTES: usize>() {
    let mut area = MaybeUninit::<[u8; BYTES]>::uninit();
    // SAFETY: the array is on this stack and as large as what is written.
    unsafe {
        area.as_mut_ptr().write_bytes(0, 1);
        observe(area.as_mut_ptr().cast());
    }
}

/// Makes the compiler keep earlier writes to the memory at `place`.
#[inline]
unsafe fn observe(place: *mut u8) {
    // SAFETY: the assembly is only a comment. Without `nomem`, the compiler assumes that it reads memory.
    unsafe { asm!("/* {0} */", in(reg) place, options(nostack, preserves_flags, readonly)) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hint::black_box;

    const MARK: u64 = 0x7f4a_7c15_9e37_79b9;

    #[inline(never)]
    fn leave_marks() {
        black_box([MARK; 64]);
    }

    /// Returns how many of the marks are below the caller's frame. Reads what others left on the stack.
    #[inline(never)]
    fn marks() -> usize {
        let area = MaybeUninit::<[u64; 512]>::uninit();
        let area = black_box(&area);
        // SAFETY: volatile reads of this function's own frame; any bytes are a valid u64.
        (0..512).filter(|&i| unsafe { area.as_ptr().cast::<u64>().add(i).read_volatile() } == MARK).count()
    }

    #[test]
    fn what_a_function_left_on_the_stack_is_wiped() {
        leave_marks();
        let left = marks();
        leave_marks();
        stack::<8192>();
        assert!(left > 0, "nothing was left in the first place");
        assert_eq!(marks(), 0);
    }

    #[test]
    fn a_freed_block_is_wiped_and_a_grown_one_leaves_no_copy() {
        let layout = Layout::array::<u64>(4096).unwrap();
        // SAFETY: each block is used within its size while it is allocated. After it is freed, its middle is read
        // only in this test, whose allocator keeps blocks of this size mapped; the marks were overwritten before.
        unsafe {
            let block = WipingAllocator.alloc(layout);
            block.write_bytes(0x7f, layout.size());
            let grown = WipingAllocator.realloc(block, layout, 2 * layout.size());
            assert_eq!(grown.add(layout.size() - 1).read_volatile(), 0x7f);
            let twice = Layout::array::<u64>(8192).unwrap();
            WipingAllocator.dealloc(grown, twice);
            assert_ne!(grown.add(layout.size() / 2).read_volatile(), 0x7f);
        }
    }
}
