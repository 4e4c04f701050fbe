//! Which keys have been written while somebody was putting an old value back.
//!
//! Owns a fixed table of stripes that all workers share; a key's writes are counted in its stripe.
//! A value that was read from a backup may be put back on its server only if no write of its key
//! was on its way when the backup was asked, and none has begun since: otherwise a delete that
//! overtook the reader would be undone. Never waits, never locks.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::OnceLock;

use super::cold::Cold;
use super::recent::Recent;
use super::turns::Turns;
use crate::base::hash::hash_key;

/// Stripes of the table (512 KiB). Two keys that share one may lose a fill-back when both are busy
/// at the same moment: with 64 writes in flight, one in a thousand.
const STRIPES: usize = 65_536;
/// The worker that began the last write is kept in these low bits of a stripe's count.
const WORKER_BITS: u32 = 8;
/// In place of a worker's number: no worker may think that the write was its own.
const NOBODY: u32 = (1 << WORKER_BITS) - 1;

#[derive(Debug, Default)]
struct Stripe {
    /// Writes begun, above the number of the worker that began the last one.
    begun: AtomicU32,
    /// Writes begun and not ended.
    in_flight: AtomicU32,
}

/// The table.
#[derive(Debug)]
pub struct Guard {
    stripes: Vec<Stripe>,
    /// `flush_all` writes every key.
    all: Stripe,
    /// Whose turn it is to write.
    turns: Turns,
    recent: OnceLock<Recent>,
    /// What is known of keys that are nowhere ends when they are written.
    cold: Cold,
}

/// What a key's stripe showed at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    key: u32,
    all: u32,
}

impl Default for Guard {
    fn default() -> Self {
        Self::new()
    }
}

impl Stripe {
    fn begin(&self, worker: u32) {
        self.in_flight.fetch_add(1, Ordering::SeqCst);
        let step = |begun: u32| {
            let count = (begun >> WORKER_BITS).wrapping_add(1);
            Some(count << WORKER_BITS | (worker & ((1 << WORKER_BITS) - 1)))
        };
        // The closure never refuses, so neither does the update.
        let _ = self.begun.fetch_update(Ordering::SeqCst, Ordering::SeqCst, step);
    }

    fn end(&self) {
        self.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Guard {
    /// No write has happened.
    pub fn new() -> Guard {
        let stripes = (0..STRIPES).map(|_| Stripe::default()).collect();
        Guard {
            stripes,
            all: Stripe::default(),
            turns: Turns::new(),
            recent: OnceLock::new(),
            cold: Cold::default(),
        }
    }

    /// Whose turn it is to write a key that has a backup.
    pub fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Which keys of groups were written a moment ago. Made when there is a group.
    pub fn recent(&self) -> &Recent {
        self.recent.get_or_init(Recent::default)
    }

    /// Which places have lost what they held.
    pub fn cold(&self) -> &Cold {
        &self.cold
    }

    fn stripe(&self, key: &[u8]) -> &Stripe {
        &self.stripes[hash_key(0, key) as usize % STRIPES]
    }

    /// A write that can create or remove the key is about to be sent.
    pub fn begin(&self, key: &[u8], worker: u32) {
        self.stripe(key).begin(worker);
        self.cold.lacked().forget(key);
    }

    /// It has been answered by everybody, or given up.
    pub fn end(&self, key: &[u8]) {
        self.stripe(key).end();
    }

    /// A write of the key was missed: what was read of it so far is not to be put back, not even
    /// by the worker that did the write elsewhere.
    pub fn missed(&self, key: &[u8]) {
        self.begin(key, NOBODY);
        self.end(key);
    }

    /// A `flush_all` is about to be sent.
    pub fn begin_all(&self, worker: u32) {
        self.all.begin(worker);
    }

    /// It has been answered by everybody, or given up.
    pub fn end_all(&self) {
        self.all.end();
    }

    /// The key's stamp, or `None` while a write of it is on its way.
    pub fn stamp(&self, key: &[u8]) -> Option<Stamp> {
        let stripe = self.stripe(key);
        let stamp = Stamp {
            key: stripe.begun.load(Ordering::SeqCst),
            all: self.all.begun.load(Ordering::SeqCst),
        };
        let quiet = stripe.in_flight.load(Ordering::SeqCst) == 0
            && self.all.in_flight.load(Ordering::SeqCst) == 0;
        quiet.then_some(stamp)
    }

    /// Whether no write has begun since `stamp` was taken.
    pub fn holds(&self, key: &[u8], stamp: Stamp) -> bool {
        self.stripe(key).begun.load(Ordering::SeqCst) == stamp.key
            && self.all.begun.load(Ordering::SeqCst) == stamp.all
    }

    /// Whether another worker has begun a write since. What `worker` itself sent came behind its
    /// own fill-back on the same connection, and needs no care.
    pub fn overtaken(&self, key: &[u8], stamp: Stamp, worker: u32) -> bool {
        let foreign = |before: u32, stripe: &Stripe| {
            let begun = stripe.begun.load(Ordering::SeqCst);
            begun != before && begun & ((1 << WORKER_BITS) - 1) != worker
        };
        foreign(stamp.key, self.stripe(key)) || foreign(stamp.all, &self.all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_in_flight_or_begun_since_is_seen() {
        let guard = Guard::new();
        let stamp = guard.stamp(b"k").expect("quiet");
        assert!(guard.holds(b"k", stamp));
        guard.begin(b"k", 1);
        assert!(!guard.holds(b"k", stamp));
        assert_eq!(guard.stamp(b"k"), None);
        assert!(guard.overtaken(b"k", stamp, 0) && !guard.overtaken(b"k", stamp, 1));
        guard.end(b"k");
        assert!(!guard.holds(b"k", stamp), "it ended, but it has happened");
        let stamp = guard.stamp(b"k").expect("quiet again");
        guard.begin_all(3);
        assert_eq!(guard.stamp(b"other"), None);
        guard.end_all();
        assert!(!guard.holds(b"k", stamp));
    }
}
