//! Another `-m` while the store runs (`cache_memlimit`).
//!
//! Owns the change of the limit. Segments keep the size they were made with: a higher limit adds
//! segments, in banks of memory of their own; a lower one is reached step by step.
//!
//! ```text
//!  limit ----.                         resize: the target falls at once
//!            |     budget .__
//!            |               |__       maintenance: one segment less, ordinary reclaim makes it
//!            '- target ........ |__    free again, one segment less ...
//!                                  '---------------------------------
//! ```
//! So what goes is what would have gone had the server been busy, and nobody waits. Where nothing
//! may be evicted (`-M`) the budget falls as far as what is dead allows; from the start nothing new
//! is stored above the target. The index has as many stripes as at the start: in a store that was
//! grown a lot their tables are longer.

use super::core::{lock, Store};
use super::segment::Class;

/// A limit that the store cannot have: too high for the locations of items, or for the address
/// space of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CannotResize;

impl Store {
    /// Makes `memory_limit` bytes the limit, at least 1 MiB. A higher one counts at once. On the
    /// way to a lower one [`super::Handle::maintain`] gives the memory back; meanwhile the store
    /// is used as always. Eight segments are left at least, of the size that the limit at the
    /// start gave them (at most 1 MiB each).
    ///
    /// # Errors
    /// [`CannotResize`]: nothing was changed.
    pub fn resize(&self, memory_limit: u64) -> Result<(), CannotResize> {
        let _one = lock(&self.resizing);
        if !self.segments.set_limit(memory_limit, self.index.fixed_bytes()) {
            return Err(CannotResize);
        }
        self.note_limit(memory_limit);
        self.set_writers();
        // Half-filled segments of writers that are one too many now would only take room. Those
        // that are being written to are sealed by maintenance.
        for (writer, used) in self.each_writer() {
            if used {
                continue;
            }
            let Ok(mut writer) = writer.try_lock() else { continue };
            if let Some(open) = writer.open.take() {
                self.segments.seal(open, Class::Small, false);
            }
        }
        Ok(())
    }

    /// Whether a lowered limit is not reached yet.
    pub fn is_shrinking(&self) -> bool {
        self.segments.is_lowering()
    }

    /// One step towards a lowered limit. False when it is reached.
    pub(super) fn lower_limit(&self) -> bool {
        if !self.segments.lower(self.off_arena()) {
            return false;
        }
        // The tables shrink with the items, or what they no longer need is missed by the items.
        self.shrink_index(&mut lock(&self.reclaimer));
        true
    }

    /// Whether a value of this length would take more than half of the memory: too much, as with
    /// `-I` at the start.
    pub(super) fn is_over_half(&self, vlen: usize) -> bool {
        vlen as u64 > self.memory_limit() / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Now;
    use crate::base::counters::Counter;
    use crate::store::{Config, Exptime, Handle, Maintained, Mode, Stored};

    const NOW: Now = Now { unix_us: 1_700_000_000_000_000, mono_us: 0 };

    fn handle(mib: u64, evict: bool) -> Handle {
        let config = Config { memory_limit: mib << 20, evict, ..Config::default() };
        Store::new(config, NOW).handle()
    }

    fn set(handle: &mut Handle, key: &str, len: usize) -> bool {
        let value = vec![b'v'; len];
        let stored = handle.store(Mode::Set, key.as_bytes(), 0, Exptime::Never, &value, NOW);
        matches!(stored, Stored::Stored(_))
    }

    fn settle(handle: &mut Handle) {
        while handle.maintain(NOW, 500) == Maintained::More {}
    }

    fn here(handle: &mut Handle, keys: impl Iterator<Item = String>) -> usize {
        keys.filter(|key| handle.peek(key.as_bytes(), NOW, |_| ()).is_some()).count()
    }

    #[test]
    fn a_higher_limit_holds_more_at_once() {
        let mut handle = handle(1, true);
        for n in 0..900 {
            assert!(set(&mut handle, &format!("a{n}"), 1000));
        }
        let before = here(&mut handle, (0..900).map(|n| format!("a{n}")));
        assert_eq!(handle.store_ref().resize(8 << 20), Ok(()));
        assert_eq!(handle.store_ref().stats().limit_maxbytes, 8 << 20);
        for n in 0..6000 {
            assert!(set(&mut handle, &format!("b{n}"), 1000));
        }
        assert_eq!(here(&mut handle, (0..900).map(|n| format!("a{n}"))), before);
        assert_eq!(here(&mut handle, (0..6000).map(|n| format!("b{n}"))), 6000);
        // A value that the store it was could not have held, in banks.
        assert!(set(&mut handle, "large", 900_000));
        let same = handle.get(b"large", NOW, |item| item.value.to_vec() == vec![b'v'; 900_000]);
        assert_eq!(same, Some(true));
    }

    #[test]
    fn a_lower_limit_keeps_what_is_in_use() {
        let mut handle = handle(8, true);
        for n in 0..6000 {
            set(&mut handle, &format!("k{n}"), 1000);
        }
        for _ in 0..3 {
            for n in (0..6000).step_by(10) {
                handle.get(format!("k{n}").as_bytes(), NOW, |_| ());
            }
        }
        assert_eq!(handle.store_ref().resize(2 << 20), Ok(()));
        assert!(handle.needs_maintenance());
        settle(&mut handle);
        let stats = handle.store_ref().stats();
        assert!(!handle.store_ref().is_shrinking() && !handle.needs_maintenance());
        assert!(stats.segments_committed * stats.segment_bytes <= 2 << 20, "{stats:?}");
        assert!(stats.bytes > 1 << 20, "more went than had to: {stats:?}");
        let used = here(&mut handle, (0..6000).step_by(10).map(|n| format!("k{n}")));
        assert!(used > 550, "only {used} of 600 items in use are left");
        // And up again, into the segments that were given back.
        assert_eq!(handle.store_ref().resize(8 << 20), Ok(()));
        for n in 0..3000 {
            assert!(set(&mut handle, &format!("new{n}"), 1000));
        }
        let used = here(&mut handle, (0..6000).step_by(10).map(|n| format!("k{n}")));
        assert!(used > 550, "only {used} of 600 items in use outlived the growing");
    }

    #[test]
    fn without_evicting_a_lower_limit_refuses_and_keeps_all() {
        let mut handle = handle(8, false);
        for n in 0..6000 {
            assert!(set(&mut handle, &format!("k{n}"), 1000));
        }
        assert_eq!(handle.store_ref().resize(2 << 20), Ok(()));
        settle(&mut handle);
        assert!(here(&mut handle, (0..6000).map(|n| format!("k{n}"))) == 6000);
        let refused = (0..100).filter(|n| !set(&mut handle, &format!("new{n}"), 1000)).count();
        assert!(refused > 70, "only {refused} of 100 were refused over the limit");
        for n in 0..5000 {
            assert!(handle.delete(format!("k{n}").as_bytes(), NOW));
        }
        for _ in 0..50 {
            settle(&mut handle);
        }
        let stats = handle.store_ref().stats();
        assert!(stats.segments_committed * stats.segment_bytes <= 2 << 20, "{stats:?}");
        assert_eq!(here(&mut handle, (5000..6000).map(|n| format!("k{n}"))), 1000);
        assert!((0..100).all(|n| set(&mut handle, &format!("again{n}"), 1000)));
        assert_eq!(handle.counters().get(Counter::Evictions), 0);
    }

    #[test]
    fn what_a_lowered_limit_cannot_hold_is_refused() {
        let config = Config { memory_limit: 64 << 20, item_max: 16 << 20, ..Config::default() };
        let mut handle = Store::new(config, NOW).handle();
        assert!(set(&mut handle, "a", 6 << 20));
        assert_eq!(handle.store_ref().resize(8 << 20), Ok(()));
        settle(&mut handle);
        assert!(set(&mut handle, "small", 1000));
        assert!(!set(&mut handle, "b", 6 << 20));
        assert!(here(&mut handle, std::iter::once("small".into())) == 1, "gave way to nothing");
        assert!(set(&mut handle, "c", 2 << 20));
    }

    #[test]
    fn there_is_an_end_to_growing() {
        let handle = handle(1, true);
        assert_eq!(handle.store_ref().resize(1 << 60), Err(CannotResize));
        assert_eq!(handle.store_ref().memory_limit(), 1 << 20);
    }
}
