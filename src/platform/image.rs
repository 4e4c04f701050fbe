//! The program's own pages: what only the start needed is let go.
//!
//! Code and constants are mapped from the program's file, sixteen pages around each that is
//! touched. What the command line, the users and the start of the threads touched is not asked for
//! again, and would count as resident for ever: a third of what an idle server takes. What is
//! needed after all comes back from the page cache, in a microsecond. Never touches what can be
//! written.

/// Lets go of the pages of code and constants, once, when the start is done. Where they are locked
/// (`-k`) they stay.
pub fn let_go() {
    #[cfg(target_os = "linux")]
    {
        use nix::libc::{madvise, sysconf, _SC_PAGESIZE, MADV_DONTNEED};
        extern "C" {
            static __executable_start: u8;
            static etext: u8;
        }
        // SAFETY: the linker puts both symbols into every program; only their addresses are taken.
        // Between them lie headers, constants and code, which are mapped privately from the file
        // and never written, so that the kernel reads the same bytes when they are touched next.
        // Addresses that need relocation lie behind `etext`.
        unsafe {
            let page = usize::try_from(sysconf(_SC_PAGESIZE)).unwrap_or(4096).max(1);
            let start = (&raw const __executable_start as usize).next_multiple_of(page);
            let end = &raw const etext as usize / page * page;
            // What cannot be let go stays, and nothing is lost but memory.
            let _ = madvise(start as *mut _, end.saturating_sub(start), MADV_DONTNEED);
        }
    }
}
