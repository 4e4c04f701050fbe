//! The program's own pages: what only the start needed is let go.
//!
//! Code and constants of the program and its libraries are mapped from their files, sixteen pages
//! around each that is touched. What the loader, the command line and the start of the threads
//! touched is not asked for again, and would count as resident for ever: a third of what an idle
//! server takes. What is needed after all comes back from the page cache, in a microsecond. Never
//! touches what can be written.

/// Lets go of the pages of code and constants, once, when the start is done. Where they are locked
/// (`-k`) they stay.
pub fn let_go() {
    #[cfg(all(target_os = "linux", target_pointer_width = "64"))]
    // SAFETY: the function is made for this, and wants no data.
    unsafe {
        nix::libc::dl_iterate_phdr(Some(linux::let_go_of), std::ptr::null_mut());
    }
}

#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod linux {
    use nix::libc::{c_int, c_void, dl_phdr_info, madvise};
    use nix::libc::{MADV_DONTNEED, PF_W, PT_DYNAMIC, PT_LOAD};

    /// The usual page. Where pages are larger the kernel refuses what is not made of whole ones.
    const PAGE: u64 = 4096;
    /// Tags of a dynamic section (ELF): its end; code that the loader writes to; flags, one of
    /// which says the same.
    const DT_NULL: u64 = 0;
    const DT_TEXTREL: u64 = 22;
    const DT_FLAGS: u64 = 30;
    const DF_TEXTREL: u64 = 4;

    /// One loaded object.
    ///
    /// # Safety
    /// For `dl_iterate_phdr`, which hands out an object with its program headers and keeps both as
    /// they are meanwhile.
    pub unsafe extern "C" fn let_go_of(
        object: *mut dl_phdr_info,
        _size: usize,
        _data: *mut c_void,
    ) -> c_int {
        // SAFETY: as the caller promises.
        let (base, headers) = unsafe {
            let object = &*object;
            let count = usize::from(object.dlpi_phnum);
            (object.dlpi_addr, std::slice::from_raw_parts(object.dlpi_phdr, count))
        };
        let of_type = |wanted| headers.iter().filter(move |header| header.p_type == wanted);
        // SAFETY: the loader has mapped the section there, and read it to its end.
        let is_written = |at| unsafe { is_written(at as *const [u64; 2]) };
        if of_type(PT_DYNAMIC).any(|header| is_written(base + header.p_vaddr)) {
            return 0;
        }
        for header in of_type(PT_LOAD).filter(|header| header.p_flags & PF_W == 0) {
            let start = base + header.p_vaddr;
            // Pages that are shared with another segment stay.
            let (first, end) =
                (start.next_multiple_of(PAGE), (start + header.p_memsz) / PAGE * PAGE);
            if first < end {
                // What cannot be let go stays, and nothing is lost but memory.
                // SAFETY: mapped privately from a file and never written, so that the kernel reads
                // the same bytes when they are touched next.
                let _ =
                    unsafe { madvise(first as *mut c_void, (end - first) as usize, MADV_DONTNEED) };
            }
        }
        0
    }

    /// Whether the loader wrote to the code of the object with this dynamic section.
    ///
    /// # Safety
    /// The section is mapped and has an end.
    unsafe fn is_written(mut entry: *const [u64; 2]) -> bool {
        loop {
            // SAFETY: no entry behind the end is looked at.
            let [tag, value] = unsafe { *entry };
            if tag == DT_NULL {
                return false;
            }
            if tag == DT_TEXTREL || tag == DT_FLAGS && value & DF_TEXTREL != 0 {
                return true;
            }
            entry = entry.wrapping_add(1);
        }
    }
}
