//! Counters that one thread writes and any thread reads.
//!
//! Owns the names of memcached's per-thread statistics. A worker adds to its own set without a
//! locked instruction; `stats` sums all sets. Never resets another thread's set in place: a reset
//! keeps the sum seen so far and subtracts it.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What is counted. The variants are memcached's `stats` names in camel case.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Counter { $($(#[$doc])* $name,)* }

        /// How many counters there are.
        pub const COUNTERS: usize = [$(Counter::$name),*].len();
    };
}

counters! {
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

/// One thread's counters.
#[derive(Debug)]
#[repr(align(128))]
pub struct Counters {
    values: [AtomicU64; COUNTERS],
}

impl Counters {
    /// All zero.
    pub const fn new() -> Counters {
        Counters { values: [const { AtomicU64::new(0) }; COUNTERS] }
    }

    /// Adds `n`. Only the owning thread may call this.
    #[inline]
    pub fn add(&self, counter: Counter, n: u64) {
        let value = &self.values[counter as usize];
        value.store(value.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The count so far, from any thread.
    pub fn get(&self, counter: Counter) -> u64 {
        self.values[counter as usize].load(Ordering::Relaxed)
    }

    /// Adds this thread's counts to `sums`.
    pub fn sum_into(&self, sums: &mut Sums) {
        for (sum, value) in sums.0.iter_mut().zip(&self.values) {
            *sum = sum.wrapping_add(value.load(Ordering::Relaxed));
        }
    }
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
}
