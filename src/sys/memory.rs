//! Returning freed memory to the kernel.

/// Returns the free pages of the heap to the kernel. Costs up to some milliseconds, and threads that allocate meanwhile
/// wait; the data path does not. Does nothing without glibc: musl returns memory by itself.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes the allocator's locks like malloc and free do, and touches only free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}
