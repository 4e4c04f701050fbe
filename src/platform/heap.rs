//! The process's heap: memory that was used once is given back.
//!
//! Buffers of clients come and go in thousands and in megabytes. Left alone, glibc raises the size
//! from which a block is a mapping of its own with every such block that is freed, keeps what it
//! gets back in the heaps of its threads, and a burst stays resident for ever. Never allocates.

/// From this size on a block is a mapping of its own, which is given back when it is freed.
#[cfg(target_env = "gnu")]
const MAPPED_FROM: nix::libc::c_int = 128 * 1024;

/// Sets the heap up, once, before the threads start.
pub fn set_up() {
    #[cfg(target_env = "gnu")]
    {
        use nix::libc::{mallopt, M_MMAP_THRESHOLD, M_TRIM_THRESHOLD};
        // SAFETY: mallopt only sets parameters of the allocator and takes its lock for that; to
        // name a threshold also keeps it from being moved.
        unsafe {
            mallopt(M_MMAP_THRESHOLD, MAPPED_FROM);
            mallopt(M_TRIM_THRESHOLD, MAPPED_FROM);
        }
    }
}

/// Gives free pages back to the kernel. Takes the time of a walk through the free blocks.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim touches only memory that the allocator owns and holds its locks.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}
