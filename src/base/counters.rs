//! Counters that one thread writes and any thread reads.
//!
//! Owns the names of memcached's per-thread statistics. A worker adds to its own set without a
//! locked instruction; `stats` sums all sets. Never resets another thread's set in place: a reset
//! keeps the sum seen so far and subtracts it.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($(#[$what:meta])* $kind:ident, $many:ident, $all:ident: $($(#[$doc:meta])* $name:ident,)*) => {
        $(#[$what])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum $kind { $($(#[$doc])* $name,)* }

        /// All of them, in order.
        pub const $all: [$kind; $many] = [$($kind::$name),*];

        /// How many there are.
        pub const $many: usize = [$($kind::$name),*].len();
    };
}

counters! {
    /// What is counted. The variants are memcached's `stats` names in camel case.
    Counter, COUNTERS, ALL_COUNTERS:
    /// Keys asked for by get, gets and mg (memcached counts gat and gats as touches only).
    CmdGet,
    /// Storage commands that reached the store.
    CmdSet,
    /// `flush_all` commands.
    CmdFlush,
    /// touch, gat and gats.
    CmdTouch,
    /// Meta commands.
    CmdMeta,
    /// Keys that a get found.
    GetHits,
    /// Keys that a get did not find, for whatever reason.
    GetMisses,
    /// Misses because the item had expired.
    GetExpired,
    /// Misses because the item had been flushed.
    GetFlushed,
    /// Keys that a touch or gat found.
    TouchHits,
    /// Keys that a touch or gat did not find.
    TouchMisses,
    /// delete of a key that was there.
    DeleteHits,
    /// delete of a key that was not there.
    DeleteMisses,
    /// incr of a key that was there.
    IncrHits,
    /// incr of a key that was not there.
    IncrMisses,
    /// decr of a key that was there.
    DecrHits,
    /// decr of a key that was not there.
    DecrMisses,
    /// cas with the right unique.
    CasHits,
    /// cas of a key that was not there.
    CasMisses,
    /// cas with an old unique.
    CasBadval,
    /// Items stored since the start.
    TotalItems,
    /// Bytes read from clients.
    BytesRead,
    /// Bytes written to clients.
    BytesWritten,
    /// Connections accepted since the start.
    TotalConnections,
    /// Connections refused or closed because of `-c`.
    RejectedConnections,
    /// Times a connection used up its `-R` budget and had to let others go first.
    ConnYields,
    /// Connections closed because of `-o idle_timeout`.
    IdleKicks,
    /// Live items that were dropped for room.
    Evictions,
    /// Of these, items that no get had ever found.
    EvictedUnfetched,
    /// Of these, items that had been used recently.
    EvictedActive,
    /// Items that expired and that no get had ever found.
    ExpiredUnfetched,
    /// Items whose memory came back because they had expired.
    Reclaimed,
    /// Items moved on by a reclaim because they had been used.
    Moved,
    /// Attempts to log in.
    AuthCmds,
    /// Of these, the ones that failed.
    AuthErrors,
    /// Storage commands refused for lack of memory.
    OutOfMemory,
    /// Storage commands refused because the value is over `-I`.
    TooLarge,
    /// Changes of peers that won and were applied.
    ReplApplied,
    /// Changes of peers that lost against a newer local version.
    ReplStale,
    /// Items that became reachable; with the next, a gauge that is never reset.
    ItemsLinked,
    /// Items that became unreachable, for whatever reason.
    ItemsUnlinked,
    /// Bytes of items that became reachable.
    BytesLinked,
    /// Bytes of items that became unreachable.
    BytesUnlinked,
}

counters! {
    /// What is counted by size class, by memcached's names in `stats items` and `stats slabs`.
    ClassCounter, CLASS_COUNTERS, ALL_CLASS_COUNTERS:
    /// Items that became reachable; with the next, a gauge that is never reset.
    Linked,
    /// Items that became unreachable, for whatever reason.
    Unlinked,
    /// Bytes of the items that are here, as memcached would count them: goes up and down, and is
    /// never reset.
    MemRequested,
    /// Live items that were dropped for room.
    Evicted,
    /// Of these, items that had an exptime.
    EvictedNonzero,
    /// Of these, items that no get had ever found.
    EvictedUnfetched,
    /// Of these, items that had been used recently.
    EvictedActive,
    /// Items that expired and that no get had ever found.
    ExpiredUnfetched,
    /// Items whose memory came back because they had expired.
    Reclaimed,
    /// Of these, items that the background sweep found.
    CrawlerReclaimed,
    /// Items moved on by a reclaim because they had been used.
    Moved,
    /// Storage commands refused for lack of memory.
    OutOfMemory,
    /// Keys that a get found.
    GetHits,
    /// Storage commands.
    CmdSet,
    /// delete of a key that was there.
    DeleteHits,
    /// incr of a key that was there.
    IncrHits,
    /// decr of a key that was there.
    DecrHits,
    /// cas with the right unique.
    CasHits,
    /// cas with an old unique.
    CasBadval,
    /// Keys that a touch or gat found.
    TouchHits,
}

/// Size classes that are told apart: memcached's most, its class 0 included.
pub const CLASSES: usize = 64;

/// One thread's counters.
#[derive(Debug)]
#[repr(align(128))]
pub struct Counters {
    values: [AtomicU64; COUNTERS],
    classes: [[AtomicU64; CLASS_COUNTERS]; CLASSES],
}

impl Counters {
    /// All zero.
    pub const fn new() -> Counters {
        Counters {
            values: [const { AtomicU64::new(0) }; COUNTERS],
            classes: [const { [const { AtomicU64::new(0) }; CLASS_COUNTERS] }; CLASSES],
        }
    }

    /// Adds `n`. Only the owning thread may call this.
    #[inline]
    pub fn add(&self, counter: Counter, n: u64) {
        add(&self.values[counter as usize], n);
    }

    /// Adds `n` to a counter of one size class. Only the owning thread may call this.
    #[inline]
    pub fn add_class(&self, class: u8, counter: ClassCounter, n: u64) {
        add(&self.classes[usize::from(class) % CLASSES][counter as usize], n);
    }

    /// Takes `n` off a gauge of one size class. Only the owning thread may call this.
    #[inline]
    pub fn sub_class(&self, class: u8, counter: ClassCounter, n: u64) {
        self.add_class(class, counter, n.wrapping_neg());
    }

    /// The count so far, from any thread.
    pub fn get(&self, counter: Counter) -> u64 {
        let own = |counter: Counter| self.values[counter as usize].load(Ordering::Relaxed);
        own(counter).wrapping_add(match counter {
            // What is counted by class is not counted once more: a get or a set adds once.
            Counter::GetHits => self.sum_of_classes(ClassCounter::GetHits),
            Counter::CmdSet => self.sum_of_classes(ClassCounter::CmdSet),
            Counter::ItemsLinked => self.sum_of_classes(ClassCounter::Linked),
            Counter::ItemsUnlinked => self.sum_of_classes(ClassCounter::Unlinked),
            // A key that is asked for is there or is not.
            Counter::CmdGet => self.get(Counter::GetHits).wrapping_add(own(Counter::GetMisses)),
            _ => 0,
        })
    }

    fn sum_of_classes(&self, counter: ClassCounter) -> u64 {
        let values = self.classes.iter().map(|class| &class[counter as usize]);
        values.fold(0, |sum, value| sum.wrapping_add(value.load(Ordering::Relaxed)))
    }

    /// Adds this thread's counts to `sums`.
    pub fn sum_into(&self, sums: &mut Sums) {
        for (sum, counter) in sums.0.iter_mut().zip(ALL_COUNTERS) {
            *sum = sum.wrapping_add(self.get(counter));
        }
    }

    /// Adds this thread's counts by class to `sums`.
    pub fn sum_classes_into(&self, sums: &mut ClassSums) {
        for (sums, values) in sums.0.iter_mut().zip(&self.classes) {
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum = sum.wrapping_add(value.load(Ordering::Relaxed));
            }
        }
    }
}

/// Only one thread writes: no locked instruction is needed.
#[inline]
fn add(value: &AtomicU64, n: u64) {
    value.store(value.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

impl Default for Counters {
    fn default() -> Self {
        Self::new()
    }
}

/// The counts of several threads together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sums([u64; COUNTERS]);

impl Default for Sums {
    fn default() -> Self {
        Sums([0; COUNTERS])
    }
}

impl Sums {
    /// One sum.
    pub fn get(&self, counter: Counter) -> u64 {
        self.0[counter as usize]
    }

    /// What came on top of `base` (a sum taken earlier, at `stats reset`).
    #[must_use]
    pub fn since(&self, base: &Sums) -> Sums {
        let mut out = self.clone();
        for (value, before) in out.0.iter_mut().zip(&base.0) {
            *value = value.wrapping_sub(*before);
        }
        out
    }
}

/// The counts of several threads together, by size class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassSums(Vec<[u64; CLASS_COUNTERS]>);

impl Default for ClassSums {
    fn default() -> Self {
        ClassSums(vec![[0; CLASS_COUNTERS]; CLASSES])
    }
}

impl ClassSums {
    /// One sum.
    pub fn get(&self, class: u8, counter: ClassCounter) -> u64 {
        let sum = self.0[usize::from(class) % CLASSES][counter as usize];
        // Its threads are not read at one moment: less than nothing is nothing.
        match counter {
            ClassCounter::MemRequested => u64::try_from(sum as i64).unwrap_or(0),
            _ => sum,
        }
    }

    /// Items of a class that are here.
    pub fn number(&self, class: u8) -> u64 {
        let get = |counter| self.get(class, counter);
        get(ClassCounter::Linked).saturating_sub(get(ClassCounter::Unlinked))
    }

    /// What came on top of `base` (sums taken earlier, at `stats reset`). Gauges stay.
    #[must_use]
    pub fn since(&self, base: &ClassSums) -> ClassSums {
        let mut out = self.clone();
        let gauges = [ClassCounter::Linked, ClassCounter::Unlinked, ClassCounter::MemRequested]
            .map(|counter| counter as usize);
        for (values, before) in out.0.iter_mut().zip(&base.0) {
            for (at, (value, before)) in values.iter_mut().zip(before).enumerate() {
                if !gauges.contains(&at) {
                    *value = value.wrapping_sub(*before);
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_threads_and_resets_by_subtraction() {
        let (a, b) = (Counters::new(), Counters::new());
        a.add(Counter::CmdGet, 3);
        b.add(Counter::CmdGet, 4);
        let mut base = Sums::default();
        a.sum_into(&mut base);
        b.sum_into(&mut base);
        assert_eq!(base.get(Counter::CmdGet), 7);
        b.add(Counter::CmdGet, 1);
        let mut later = Sums::default();
        a.sum_into(&mut later);
        b.sum_into(&mut later);
        assert_eq!(later.since(&base).get(Counter::CmdGet), 1);
        assert_eq!(later.get(Counter::ReplStale), 0);
    }

    #[test]
    fn classes_have_gauges_that_a_reset_leaves_alone() {
        let (a, b) = (Counters::new(), Counters::new());
        a.add_class(3, ClassCounter::Linked, 2);
        a.add_class(3, ClassCounter::MemRequested, 20);
        a.add_class(3, ClassCounter::GetHits, 5);
        // What one thread linked another one may unlink.
        b.add_class(3, ClassCounter::Unlinked, 1);
        b.sub_class(3, ClassCounter::MemRequested, 10);
        let mut base = ClassSums::default();
        a.sum_classes_into(&mut base);
        assert_eq!(base.number(3), 2);
        b.sum_classes_into(&mut base);
        let later = base.since(&base);
        assert_eq!((later.number(3), later.get(3, ClassCounter::MemRequested)), (1, 10));
        assert_eq!(later.get(3, ClassCounter::GetHits), 0);
        let mut one = ClassSums::default();
        b.sum_classes_into(&mut one);
        assert_eq!((one.number(3), one.get(3, ClassCounter::MemRequested)), (0, 0));
    }
}
