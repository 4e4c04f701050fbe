//! The horizon: up to where deletes are forgotten.
//!
//! Owns, for each bucket of keys, the newest version of a remembered delete that was dropped, and
//! the newest version of an item that was dropped for room. Never holds a key, and never grows;
//! what is known of single deletes is in `epitaphs`. Only a replicated store has one.
//!
//! ```text
//!  a peer has an item of a version that it and this node once agreed on, and it is not here:
//!
//!  version ->      above the bucket's forgotten deletes     no delete can have been the reason
//!                  above its evicted items                  a delete was the reason
//!                  below both                               either may have been
//! ```
//! Buckets are shared by keys, so what is read from them is a "perhaps"; what is not in them is
//! certain. All of it is atomics that only grow, raised before a record becomes unreachable.

use super::epitaphs::Epitaphs;
use super::version::Version;
use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets of keys, by the hash of the key: 8 KiB for deletes and as much for evictions. More would
/// make fewer mistakes on a node that forgets many deletes while a peer is away.
const BUCKETS: usize = 1024;
const _: () = assert!(BUCKETS.is_power_of_two());
/// The bits of the hash that name the bucket are taken from here on.
const BUCKET_SHIFT: u32 = 20;

/// What became of a key that is not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absence {
    /// It was not deleted here since.
    NotDeleted,
    /// A delete of it may be forgotten, and no eviction explains it.
    Deleted,
    /// It may have been deleted, or evicted.
    Unclear,
}

/// The horizon of a replicated store.
#[derive(Debug)]
pub(super) struct Horizon {
    deleted: Box<[AtomicU64]>,
    evicted: Box<[AtomicU64]>,
    newest: AtomicU64,
    epitaphs: Epitaphs,
    /// Deletes above this are still to be told to somebody who is linked.
    wanted_above: AtomicU64,
    /// How many of those were dropped nevertheless.
    missed: AtomicU64,
}

fn raise(place: &AtomicU64, version: Version) {
    if place.load(Ordering::Relaxed) < version.0 {
        place.fetch_max(version.0, Ordering::AcqRel);
    }
}

fn bucket(hash: u64) -> usize {
    (hash >> BUCKET_SHIFT) as usize & (BUCKETS - 1)
}

impl Horizon {
    /// Nothing is forgotten yet.
    pub fn new(epitaphs_max: u32, memory_limit: u64) -> Horizon {
        let buckets = || (0..BUCKETS).map(|_| AtomicU64::new(0)).collect();
        Horizon {
            deleted: buckets(),
            evicted: buckets(),
            newest: AtomicU64::new(0),
            epitaphs: Epitaphs::new(epitaphs_max, memory_limit),
            wanted_above: AtomicU64::new(u64::MAX),
            missed: AtomicU64::new(0),
        }
    }

    /// A remembered delete is about to be forgotten.
    pub fn forget(&self, hash: u64, version: Version) {
        self.epitaphs.write(hash, version);
        raise(&self.deleted[bucket(hash)], version);
        raise(&self.newest, version);
        if version.0 > self.wanted_above.load(Ordering::Acquire) {
            self.missed.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// A peer's delete is not remembered at all: whoever is to hear of it will not.
    pub fn pass_over(&self, hash: u64, version: Version) {
        self.epitaphs.write(hash, version);
        raise(&self.deleted[bucket(hash)], version);
        raise(&self.newest, version);
        self.missed.fetch_add(1, Ordering::AcqRel);
    }

    /// An item is about to be dropped for room, or finds none.
    pub fn evict(&self, hash: u64, version: Version) {
        raise(&self.evicted[bucket(hash)], version);
    }

    /// Whether a delete of this key at this version may be forgotten.
    pub fn is_forgotten(&self, hash: u64, version: Version) -> bool {
        version.0 <= self.deleted[bucket(hash)].load(Ordering::Acquire)
    }

    /// The forgotten delete that an item of this version does not survive, where it is known.
    pub fn deleted_by(&self, hash: u64, version: Version) -> Option<Version> {
        let known = || self.epitaphs.read(hash).filter(|&deleted| deleted >= version);
        self.is_forgotten(hash, version).then(known).flatten()
    }

    /// Why an item of this version may not be here.
    pub fn absence(&self, hash: u64, version: Version) -> Absence {
        if !self.is_forgotten(hash, version) {
            Absence::NotDeleted
        } else if version.0 > self.evicted[bucket(hash)].load(Ordering::Acquire) {
            Absence::Deleted
        } else {
            Absence::Unclear
        }
    }

    /// The newest delete that is forgotten.
    pub fn newest(&self) -> Version {
        Version(self.newest.load(Ordering::Acquire))
    }

    /// Whether somebody who is linked has still to hear of a delete of this version.
    pub fn is_wanted(&self, version: Version) -> bool {
        version.0 > self.wanted_above.load(Ordering::Acquire)
    }

    /// Says so: of all deletes above `version`; none where nobody is linked.
    pub fn want_above(&self, version: Option<Version>) {
        self.wanted_above.store(version.map_or(u64::MAX, |version| version.0), Ordering::Release);
    }

    /// Deletes that were dropped although they were wanted, so far.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_delete_can_explain_was_not_deleted() {
        let horizon = Horizon::new(0, 0);
        let (here, elsewhere) = (7 << BUCKET_SHIFT, 8 << BUCKET_SHIFT);
        assert_eq!(horizon.absence(here, Version(1)), Absence::NotDeleted);
        horizon.forget(here, Version(50));
        horizon.forget(here, Version(40));
        assert_eq!(horizon.newest(), Version(50));
        assert_eq!(horizon.absence(here, Version(50)), Absence::Deleted);
        assert_eq!(horizon.absence(here, Version(51)), Absence::NotDeleted);
        assert_eq!(horizon.absence(elsewhere, Version(50)), Absence::NotDeleted);
        horizon.evict(here, Version(30));
        assert_eq!(horizon.absence(here, Version(30)), Absence::Unclear);
        assert_eq!(horizon.absence(here, Version(31)), Absence::Deleted);
    }

    #[test]
    fn a_delete_that_a_link_waits_for_is_missed() {
        let horizon = Horizon::new(0, 0);
        horizon.forget(1, Version(9));
        assert!(horizon.missed() == 0 && !horizon.is_wanted(Version(9)));
        horizon.want_above(Some(Version(20)));
        assert!(horizon.is_wanted(Version(21)) && !horizon.is_wanted(Version(20)));
        horizon.forget(1, Version(20));
        assert_eq!(horizon.missed(), 0);
        horizon.forget(1, Version(21));
        horizon.pass_over(1, Version(2));
        assert_eq!(horizon.missed(), 2);
        horizon.want_above(None);
        assert!(!horizon.is_wanted(Version(u64::MAX)));
    }
}
