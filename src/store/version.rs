//! Versions: one clock that orders every write of every node.
//!
//! Owns the hybrid logical clock. A version is the CAS unique of an item and, between nodes, what
//! decides which write of a key wins. Never reads a real clock: the caller's [`Now`] comes in.
//!
//! ```text
//!  63  62                                21 20         8 7        0
//! +---+------------------------------------+------------+----------+
//! | 0 | milliseconds since 2020-01-01 UTC  |  counter   | node tag |
//! +---+------------------------------------+------------+----------+
//! ```
//! A counter that runs over carries into the milliseconds: the clock then runs a little ahead of
//! the wall clock until that has caught up. The same happens after a peer's version was observed
//! that lies in this node's future.

use crate::base::clock::Now;
use std::sync::atomic::{AtomicU64, Ordering};

/// 2020-01-01 00:00:00 UTC in milliseconds since 1970.
const EPOCH_MS: u64 = 1_577_836_800_000;
/// Bits below the milliseconds.
const MS_SHIFT: u32 = 21;
/// Bits of the node tag.
const TAG_BITS: u32 = 8;

/// A version: a hybrid logical clock of 63 bits, the CAS unique and the replication version of an
/// item. 42 bits of milliseconds since 2020-01-01 UTC, 13 bits of counter, 8 bits of node tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version(pub u64);

impl Version {
    /// The largest version that is believed when it comes from elsewhere (the year 2089). A damaged
    /// or hostile version above it would leave this node no room to count on from there.
    pub const MAX: Version = Version((1 << 62) - 1);

    /// The lowest version of the unix second `secs`, whatever the node.
    pub fn at_unix_secs(secs: u32) -> Version {
        Version(millis(u64::from(secs) * 1000) << MS_SHIFT)
    }

    /// When it was issued, in milliseconds since 1970 (by the clock of the issuing node).
    pub fn unix_ms(self) -> u64 {
        (self.0 >> MS_SHIFT) + EPOCH_MS
    }

    /// When it was issued, in whole seconds since 1970 (by the clock of the issuing node).
    pub fn unix_secs(self) -> u32 {
        u32::try_from(self.unix_ms() / 1000).unwrap_or(u32::MAX)
    }
}

/// Milliseconds since the epoch of versions; 0 for a machine whose clock is not set yet.
fn millis(unix_ms: u64) -> u64 {
    unix_ms.saturating_sub(EPOCH_MS).min(Version::MAX.0 >> MS_SHIFT)
}

/// Issues versions, each higher than everything issued or observed before.
#[derive(Debug)]
pub(crate) struct VersionClock {
    last: AtomicU64,
    tag: u64,
}

impl VersionClock {
    /// A clock that has seen nothing yet.
    pub fn new(tag: u8) -> VersionClock {
        VersionClock { last: AtomicU64::new(0), tag: u64::from(tag) }
    }

    /// A new version.
    pub fn next(&self, now: Now) -> Version {
        let wall = millis(now.unix_ms()) << MS_SHIFT | self.tag;
        let mut last = self.last.load(Ordering::Relaxed);
        loop {
            let counted = ((last >> TAG_BITS) + 1) << TAG_BITS | self.tag;
            let next = wall.max(counted);
            match self.last.compare_exchange_weak(last, next, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return Version(next),
                Err(seen) => last = seen,
            }
        }
    }

    /// Moves the clock past a version that came from elsewhere.
    pub fn observe(&self, version: Version) {
        if version.0 > self.last.load(Ordering::Relaxed) {
            self.last.fetch_max(version.min(Version::MAX).0, Ordering::AcqRel);
        }
    }

    /// The newest version issued or observed.
    pub fn newest(&self) -> Version {
        Version(self.last.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(unix_ms: u64) -> Now {
        Now { unix_us: unix_ms * 1000, mono_us: 0 }
    }

    #[test]
    fn counts_within_a_millisecond_and_never_goes_back() {
        let clock = VersionClock::new(9);
        let first = clock.next(at(EPOCH_MS + 5));
        assert_eq!(first, Version(5 << 21 | 9));
        assert_eq!(clock.next(at(EPOCH_MS + 5)), Version(5 << 21 | 1 << 8 | 9));
        assert_eq!(clock.next(at(0)), Version(5 << 21 | 2 << 8 | 9));
        clock.observe(Version(7 << 21 | 3 << 8 | 200));
        assert_eq!(clock.next(at(EPOCH_MS + 6)), Version(7 << 21 | 4 << 8 | 9));
        assert_eq!(clock.newest().unix_ms(), EPOCH_MS + 7);
    }

    #[test]
    fn a_clock_that_was_never_set_still_counts() {
        let clock = VersionClock::new(0);
        assert!(clock.next(at(0)) > Version(0));
        assert!(clock.next(at(0)) < clock.next(at(0)));
    }

    #[test]
    fn a_hostile_version_leaves_room_to_count_on() {
        let clock = VersionClock::new(1);
        clock.observe(Version(u64::MAX));
        let next = clock.next(at(EPOCH_MS));
        assert!(next > Version::MAX && next.0 < 1 << 63);
    }
}
