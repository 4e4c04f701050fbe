//! Which keys of groups were written a moment ago, and on which member.
//!
//! Owns a fixed table that all workers share. The members of a group tell each other what was
//! written, but not before the client is answered: within [`WINDOW_MS`] a key is read where it was
//! written, so that whoever wrote it finds it. Never waits, never locks, never grows.
//!
//! ```text
//!   hash --> one of 16384 rows of 4 entries:  [ tag 32 | member 4 | written at, ms 28 ]
//! ```
//!
//! A row that has no room for one more fresh key says so for all: until the next moment has passed,
//! every key counts as written where writes go now.

use std::sync::atomic::{AtomicU64, Ordering};

/// How long a key is read where it was written, in milliseconds: members that are up tell each
/// other within a few.
pub const WINDOW_MS: u64 = 1000;
/// Entries of a row.
const WAYS: usize = 4;
/// Rows (512 KiB): as many writes within the window fit as one worker can pass on.
const ROWS: usize = 16_384;
const MEMBER_BITS: u32 = 4;
const TIME_BITS: u32 = 28;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// Where a key is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// Anywhere: it has not been written within the window.
    No,
    /// On this member of its group.
    On(usize),
    /// Where a write would go now.
    Somewhere,
}

/// The table.
#[derive(Debug)]
pub struct Recent {
    entries: Vec<AtomicU64>,
    /// Until this time, in milliseconds, the table does not know all.
    crowded: AtomicU64,
}

impl Default for Recent {
    fn default() -> Recent {
        let entries = (0..ROWS * WAYS).map(|_| AtomicU64::new(0)).collect();
        Recent { entries, crowded: AtomicU64::new(0) }
    }
}

/// Milliseconds since an entry was written; none for one from the future: workers read the clock
/// once a turn, and not at the same moment. The time wraps after three days: an entry of half of
/// that may seem fresh, which only means that its key is read where it was written.
fn age(entry: u64, now_ms: u64) -> u64 {
    let age = now_ms.wrapping_sub(entry) & TIME_MASK;
    match entry {
        0 => TIME_MASK,
        _ if age > TIME_MASK / 2 => 0,
        _ => age,
    }
}

fn tag(hash: u64) -> u64 {
    hash >> 32
}

impl Recent {
    fn row(&self, hash: u64) -> &[AtomicU64] {
        let at = hash as usize % ROWS * WAYS;
        &self.entries[at..at + WAYS]
    }

    /// A key with this hash is being written, or has been, on `member` of its group (below 16).
    pub fn wrote(&self, now_us: u64, hash: u64, member: usize) {
        let now_ms = now_us / 1000;
        let time = (now_ms & TIME_MASK).max(1);
        let entry = tag(hash) << 32 | (member as u64 & 15) << TIME_BITS | time;
        let row = self.row(hash);
        // Each round somebody else has got in: more than so many is a crowd.
        for _ in 0..2 * WAYS {
            let read = |place: &AtomicU64| place.load(Ordering::Acquire);
            let mine = row.iter().find(|place| {
                let old = read(place);
                old != 0 && old >> 32 == tag(hash)
            });
            let oldest = || row.iter().max_by_key(|place| age(read(place), now_ms));
            let Some(place) = mine.or_else(oldest) else { return };
            let old = read(place);
            if old >> 32 != tag(hash) && age(old, now_ms) < WINDOW_MS {
                break;
            }
            let put = place.compare_exchange(old, entry, Ordering::AcqRel, Ordering::Acquire);
            if put.is_ok() {
                return;
            }
        }
        self.crowded.fetch_max(now_ms + WINDOW_MS, Ordering::AcqRel);
    }

    /// Where a key with this hash is to be read.
    pub fn written(&self, now_us: u64, hash: u64) -> Written {
        let now_ms = now_us / 1000;
        for place in self.row(hash) {
            let entry = place.load(Ordering::Acquire);
            if entry != 0 && entry >> 32 == tag(hash) && age(entry, now_ms) < WINDOW_MS {
                return Written::On((entry >> TIME_BITS) as usize & ((1 << MEMBER_BITS) - 1));
            }
        }
        if now_ms < self.crowded.load(Ordering::Acquire) {
            return Written::Somewhere;
        }
        Written::No
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1000;

    #[test]
    fn for_a_second_where_it_was_written_last() {
        let recent = Recent::default();
        let key = 0xabcd_ef01_0000_0007;
        assert_eq!(recent.written(5 * MS, key), Written::No);
        recent.wrote(5 * MS, key, 0);
        assert_eq!(recent.written(5 * MS, key), Written::On(0));
        recent.wrote(500 * MS, key, 15);
        assert_eq!(recent.written(1499 * MS, key), Written::On(15));
        assert_eq!(recent.written(1500 * MS, key), Written::No);
        assert_eq!(recent.written(499 * MS, key), Written::On(15), "another worker's clock");
        assert_eq!(recent.written(600 * MS, key ^ 1 << 40), Written::No, "another key of that row");
    }

    #[test]
    fn a_crowded_row_forgets_nothing() {
        let recent = Recent::default();
        let key = |n: u64| n << 32 | 9;
        for n in 1..=5 {
            recent.wrote(n * MS, key(n), 1);
        }
        for n in 1..=4 {
            assert_eq!(recent.written(10 * MS, key(n)), Written::On(1));
        }
        assert_eq!(recent.written(10 * MS, key(5)), Written::Somewhere);
        assert_eq!(recent.written(1005 * MS, key(5)), Written::No);
        recent.wrote(2000 * MS, key(6), 2);
        assert_eq!(recent.written(2000 * MS, key(6)), Written::On(2), "the old make room");
    }

    #[test]
    fn what_one_thread_wrote_another_finds() {
        let recent = Recent::default();
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let recent = &recent;
                scope.spawn(move || {
                    for n in 0..20_000u64 {
                        let hash = (thread * 20_000 + n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                        recent.wrote(n, hash, 3);
                        let found = recent.written(n, hash);
                        assert!(matches!(found, Written::On(3) | Written::Somewhere), "{found:?}");
                    }
                });
            }
        });
    }
}
