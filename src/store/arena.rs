//! The memory of all items: one zeroed allocation, and banks of a store that was grown, read and
//! written at byte offsets.
//!
//! Owns the allocations, and is the only file of the store with `unsafe` in it. Every access is
//! checked against the arena's bounds. What cannot be checked here is who accesses which bytes
//! when; that is the protocol below, which `segment`, `item`, `evict` and `large` keep. Never
//! interprets a byte.
//!
//! ```text
//!  base                                                                  base + size
//!   v                                                                         v
//!   +--------------+--------------+--------------+--------------+-- ... ------+
//!   | segment 0    | segment 1    | segment 2    | segment 3    |             |
//!   +--------------+--------------+--------------+--------------+-- ... ------+
//!
//!   offsets go on: size, size + bank, ...
//!   +--------------+-- ... -----+   +--------------+-- ... -----+
//!   | segment n    |     bank 0 |   |              |     bank 1 |
//!   +--------------+-- ... -----+   +--------------+-- ... -----+
//! ```
//! Nothing is reserved ahead for growing: address space that is not used would be refused where it
//! is limited (`ulimit -v`, strict overcommit) and locked by `-k`. What is added at once is one
//! allocation, cut into banks. A bank stays once it was made; its pages go back to the kernel like
//! any others. Nothing lies across the ends of banks, and what lies in the first allocation is
//! found without looking at them.
//!
//! # Who may touch which bytes
//! 1. **Open segment, behind its end**: only the thread that holds the lock of the writer (or of
//!    the reclaimer) that owns the segment. Nobody else knows a location in there. The same holds
//!    for the bytes of a chunk that was set aside (`incoming`): its head is written and counted, so
//!    that others go on behind it, but only the value on its way in knows where its bytes are. Its
//!    pin keeps the segment until they are published or given up.
//! 2. **A published record, the mutable bytes** (version, access, flags, exptime, extras, small
//!    values, extents of large ones): only under the lock of the stripe that the record's key
//!    hashes to.
//! 3. **A published record, the immutable bytes** (kind, lengths, key, chunks of large values, and
//!    values that are too long to be written over in place): anybody, until the segment is freed.
//!    Nobody writes them.
//! 4. **Freeing**: only when no index slot leads into the segment and no pin is on it. Slots are
//!    read under stripe locks only, and pins are taken under them, so that nobody can be inside.
//!
//! Publishing (a slot set under a stripe lock) and sealing (a state set under the queues' lock) are
//! the release operations that make rule 1's writes visible to readers by rules 2 and 3.
#![allow(unsafe_code)]

use std::alloc::{alloc_zeroed, dealloc, handle_alloc_error, Layout};
use std::ops::Range;
use std::ptr::NonNull;

use super::banks::{Banks, MOST};

/// The arena's base is aligned to this, so that whole segments can be given back to the kernel.
const PAGE: usize = 4096;

/// What `-L` asks for: large pages where the kernel has any. The base is aligned to this then.
const LARGE_PAGE: usize = 2 << 20;

/// Gives back locked memory too (`-k`), which MADV_DONTNEED refuses. From Linux 5.18 on; not in
/// libc's list yet.
#[cfg(all(target_os = "linux", not(miri)))]
const MADV_DONTNEED_LOCKED: nix::libc::c_int = 24;

/// Bytes that a prefetch fetches.
const CACHE_LINE: usize = 64;

/// Asks for the cache line at an address ahead of its use. A hint: any address will do.
#[inline]
pub(super) fn prefetch(address: usize) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use std::arch::x86_64::{_mm_prefetch, _MM_HINT_T0};
        // SAFETY: a prefetch reads nothing that a program sees, and faults nowhere.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::without_provenance(address)) }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = address;
}

/// Zeroed, page-aligned bytes: an allocation, or a part of the one that another block owns.
#[derive(Debug)]
struct Block {
    base: NonNull<u8>,
    owned: Option<(NonNull<u8>, Layout)>,
}

// SAFETY: a block is plain bytes; who accesses which bytes when is the protocol above, which uses
// locks and atomics for every hand-over between threads.
unsafe impl Send for Block {}
// SAFETY: as for `Send`.
unsafe impl Sync for Block {}

impl Block {
    /// An alignment above malloc's own would make the allocator write every zero itself, and so
    /// commit all memory at once. One page more, and aligning by hand, keeps it lazy.
    fn layout(size: usize, page: usize) -> Option<Layout> {
        size.checked_add(page).and_then(|n| Layout::from_size_align(n, 16).ok())
    }

    /// Allocates `size` bytes. The kernel commits them as they are touched: a `page` at a time, if
    /// it can.
    fn new(size: usize, page: usize) -> Option<Block> {
        let layout = Self::layout(size, page)?;
        // SAFETY: the layout's size is at least `page`, so not zero.
        let allocation = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let skip = allocation.as_ptr().align_offset(page).min(page);
        // SAFETY: skip <= page, and the allocation has size + page bytes.
        let base = unsafe { allocation.add(skip) };
        #[cfg(all(target_os = "linux", not(miri)))]
        if page > PAGE {
            // SAFETY: the bytes are our own; the advice changes nothing that a program sees. A
            // kernel without large pages refuses it, and small ones do.
            unsafe { nix::libc::madvise(base.as_ptr().cast(), size, nix::libc::MADV_HUGEPAGE) };
        }
        Some(Block { base, owned: Some((allocation, layout)) })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some((allocation, layout)) = self.owned {
            // SAFETY: allocated in `new` with this layout, and nothing borrows from it any more:
            // the blocks that are parts of it go with the same arena.
            unsafe { dealloc(allocation.as_ptr(), layout) }
        }
    }
}

/// The first allocation and the banks.
#[derive(Debug)]
pub(crate) struct Arena {
    base: NonNull<u8>,
    size: usize,
    bank_shift: u32,
    page: usize,
    banks: Banks<Block>,
    /// What `base` points into.
    _first: Block,
}

// SAFETY: as for `Block`, which `base` points into.
unsafe impl Send for Arena {}
// SAFETY: as for `Send`.
unsafe impl Sync for Arena {}

impl Arena {
    /// Allocates `size` zero bytes.
    #[cfg(test)]
    pub fn new(size: usize) -> Arena {
        Arena::with_banks(size, 13, false)
    }

    /// Allocates `size` zero bytes, to be grown by banks of `1 << bank_shift`. `large`: in large
    /// pages, where the kernel has some.
    pub fn with_banks(size: usize, bank_shift: u32, large: bool) -> Arena {
        let page = if large { LARGE_PAGE } else { PAGE };
        let Some(first) = Block::new(size, page) else {
            handle_alloc_error(Block::layout(size, page).unwrap_or(Layout::new::<u8>()))
        };
        Arena { base: first.base, size, bank_shift, page, banks: Banks::new(), _first: first }
    }

    /// Adds these banks, at the end of what there is, by one allocation: a mapping for each would
    /// take long, a page each for malloc, and more mappings than a process may have. False, and
    /// none is there, when the address space for them cannot be had. One caller at a time.
    pub fn add_banks(&self, banks: Range<usize>) -> bool {
        if banks.is_empty() || banks.end > MOST || self.banks.get(banks.start).is_some() {
            return false;
        }
        let Some(mut whole) = Block::new(banks.len() << self.bank_shift, self.page) else {
            return false;
        };
        for (at, nth) in banks.enumerate() {
            // SAFETY: at < the number of banks, and the block has room for all of them.
            let base = unsafe { whole.base.add(at << self.bank_shift) };
            // The first one owns the allocation.
            self.banks.add(nth, Block { base, owned: whole.owned.take() });
        }
        true
    }

    /// Whether an arena of this size can be had at present. Commits nothing.
    pub fn is_possible(size: usize) -> bool {
        // A trial whose result nobody looks at may be optimised away.
        std::hint::black_box(Block::new(size, PAGE)).is_some()
    }

    /// The address of `len` bytes at `at`, which are inside.
    #[inline]
    fn at(&self, at: usize, len: usize) -> NonNull<u8> {
        match at.checked_add(len) {
            // SAFETY: at <= end <= size, inside of the allocation or one past its end.
            Some(end) if end <= self.size => unsafe { self.base.add(at) },
            _ => self.at_bank(at, len),
        }
    }

    /// The same in a bank.
    #[inline(never)]
    fn at_bank(&self, at: usize, len: usize) -> NonNull<u8> {
        let behind = at.saturating_sub(self.size);
        let (nth, from) = (behind >> self.bank_shift, behind & ((1 << self.bank_shift) - 1));
        let bank = self.banks.get(nth).filter(|_| at >= self.size);
        let Some(bank) = bank.filter(|_| len <= (1 << self.bank_shift) - from) else {
            panic!("outside of the arena");
        };
        // SAFETY: from < the bank's size, so inside of its allocation.
        unsafe { bank.base.add(from) }
    }

    /// `len` bytes at `at`. By the protocol, they do not change while the slice is in use.
    #[inline]
    pub fn bytes(&self, at: usize, len: usize) -> &[u8] {
        let from = self.at(at, len);
        // SAFETY: in bounds and initialised (zeroed at first); not written meanwhile (rules 2, 3).
        unsafe { std::slice::from_raw_parts(from.as_ptr(), len) }
    }

    /// Asks for the cache lines at `at` ahead of their use. A hint: reads nothing, and any place
    /// will do.
    #[inline]
    pub fn prefetch(&self, at: usize, lines: usize) {
        let base = self.base.addr().get();
        let inside = (0..lines).map(|line| at + CACHE_LINE * line).take_while(|&at| at < self.size);
        inside.for_each(|at| prefetch(base + at));
    }

    /// Writes `bytes` at `at`, by rule 1 or 2.
    #[inline]
    pub fn put(&self, at: usize, bytes: &[u8]) {
        let to = self.at(at, bytes.len());
        // SAFETY: in bounds; the caller has these bytes to itself (rule 1 or 2). `bytes` may lie in
        // this arena too: `copy` allows that.
        unsafe { std::ptr::copy(bytes.as_ptr(), to.as_ptr(), bytes.len()) }
    }

    /// `len` bytes at `at` to be written to, by rule 1 in a chunk that was set aside. Nobody else
    /// reads or writes them while the slice is in use.
    #[allow(clippy::mut_from_ref)]
    pub fn window(&self, at: usize, len: usize) -> &mut [u8] {
        let to = self.at(at, len);
        // SAFETY: in bounds and initialised (zeroed at first). No slot leads to these bytes, and
        // the one `Incoming` that knows them borrows itself mutably for as long as it lends this.
        unsafe { std::slice::from_raw_parts_mut(to.as_ptr(), len) }
    }

    /// Writes `len` times `byte` at `at`, by rule 1 or 2.
    pub fn fill(&self, at: usize, byte: u8, len: usize) {
        let to = self.at(at, len);
        // SAFETY: in bounds; the caller has these bytes to itself (rule 1 or 2).
        unsafe { std::ptr::write_bytes(to.as_ptr(), byte, len) }
    }

    /// Reads `N` bytes at `at`, by rule 2 or 3.
    #[inline]
    pub fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let from = self.at(at, N);
        // SAFETY: in bounds; `[u8; N]` has no alignment; not written meanwhile (rules 2, 3).
        unsafe { from.cast::<[u8; N]>().read() }
    }

    /// Gives the memory of a free segment back to the kernel; it reads as anything afterwards.
    pub fn release(&self, at: usize, len: usize) {
        let from = self.at(at, len);
        #[cfg(all(target_os = "linux", not(miri)))]
        if at % PAGE == 0 && len % PAGE == 0 {
            // SAFETY: whole pages of our own private anonymous memory (the base is page aligned),
            // which nobody uses now (rule 4). They read as zeros when touched again. A refusal
            // costs memory, nothing else.
            let given = |advice| unsafe { nix::libc::madvise(from.as_ptr().cast(), len, advice) };
            if given(nix::libc::MADV_DONTNEED) != 0 {
                given(MADV_DONTNEED_LOCKED);
            }
        }
        let _ = (from, len);
    }
}

/// Asks for the cache line of `slice[at]` ahead of its use. A hint: reads nothing, and any place
/// will do.
#[inline]
pub(crate) fn ask_for<T>(slice: &[T], at: usize) {
    if let Some(place) = slice.get(at) {
        prefetch(std::ptr::from_ref(place).addr());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_was_written_at_any_alignment() {
        for large in [false, true] {
            reads_back(&Arena::with_banks(2 * PAGE, 13, large));
        }
    }

    fn reads_back(arena: &Arena) {
        arena.put(3, b"abcdef");
        assert_eq!(arena.bytes(3, 6), b"abcdef");
        assert_eq!(arena.array::<2>(4), *b"bc");
        arena.fill(4, b'-', 2);
        assert_eq!(arena.bytes(2, 8), b"\0a--def\0");
        arena.put(2 * PAGE - 1, b"z");
        arena.release(0, PAGE);
        arena.put(0, b"again");
        assert_eq!(arena.bytes(0, 5), b"again");
    }

    #[test]
    fn windows_are_written_while_others_read_beside_them() {
        let arena = Arena::new(PAGE);
        let before = arena.bytes(0, 8);
        let (first, second) = (arena.window(8, 4), arena.window(12, 4));
        std::thread::scope(|scope| {
            scope.spawn(|| first.copy_from_slice(b"1234"));
            scope.spawn(|| second.copy_from_slice(b"5678"));
            assert_eq!(before, [0; 8]);
            arena.put(16, b"9");
        });
        assert_eq!(arena.bytes(0, 17), b"\0\0\0\0\0\0\0\x00123456789");
    }

    #[test]
    #[should_panic(expected = "outside of the arena")]
    fn refuses_what_is_outside() {
        let arena = Arena::new(PAGE);
        let _ = arena.bytes(PAGE, 1);
    }

    #[test]
    fn goes_on_in_banks() {
        let arena = Arena::new(PAGE);
        assert!(arena.add_banks(0..2) && arena.add_banks(2..3));
        assert!(!arena.add_banks(1..4) && !arena.add_banks(3..3) && !arena.add_banks(3..MOST + 1));
        arena.put(PAGE, b"first");
        arena.put(PAGE + 8192, b"second");
        arena.put(PAGE + 8192 - 3, b"end");
        assert_eq!(arena.bytes(PAGE, 6), b"first\0");
        assert_eq!(arena.bytes(PAGE + 8192 - 3, 3), b"end");
        assert_eq!(arena.array::<6>(PAGE + 8192), *b"second");
        arena.release(PAGE, 8192);
        assert_eq!(arena.bytes(PAGE + 8192, 6), b"second");
        arena.put(PAGE + 3 * 8192 - 4, b"last");
        assert_eq!(arena.bytes(PAGE + 2 * 8192, 8192)[8188..], *b"last");
    }

    #[test]
    #[should_panic(expected = "outside of the arena")]
    fn nothing_lies_across_the_end_of_a_bank() {
        let arena = Arena::new(PAGE);
        assert!(arena.add_banks(0..2));
        let _ = arena.bytes(PAGE + 8190, 4);
    }
}
