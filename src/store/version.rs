//! Versions: one clock that orders every write of every node.
//!
//! Owns the hybrid logical clock. A version is the CAS unique of an item and, between nodes, what
//! decides which write of a key wins. Never reads a real clock: the caller's [`Now`] comes in.
//!
//! ```text
//!  63  62                                            8 7        0
//! +---+-----------------------------------------------+----------+
//! | 0 |       microseconds since 2020-01-01 UTC       | node tag |
//! +---+-----------------------------------------------+----------+
//! ```
//! The microseconds are the counter too: whoever writes twice in one of them, or has observed a
//! peer's version that lies in its future, counts on from there, and so runs a little ahead of the
//! wall clock until that has caught up. Whole milliseconds with a counter below them would order
//! two nodes' writes of one millisecond by how much each had written, which surprises.

use crate::base::clock::Now;
use std::sync::atomic::{AtomicU64, Ordering};

/// 2020-01-01 00:00:00 UTC in microseconds since 1970.
const EPOCH_US: u64 = 1_577_836_800_000_000;
/// Bits of the node tag, below the microseconds.
const TAG_BITS: u32 = 8;
/// How far ahead of our clock a version from elsewhere may be: 50 years, so that a clock that was
/// set to another year, or never (it shows 1970), keeps nobody apart. What is believed moves our own
/// versions along, so without such a bound one item would take the room to count on for ever: what
/// is then written here would be above [`Version::MAX`], and believed by no peer.
const AHEAD_MAX_US: u64 = 50 * 366 * 86_400 * 1_000_000;

/// A version: a hybrid logical clock of 63 bits, the CAS unique and the replication version of an
/// item. 55 bits of microseconds since 2020-01-01 UTC, 8 bits of node tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version(pub u64);

impl Version {
    /// The largest version that is believed when it comes from elsewhere (the year 2590). A damaged
    /// or hostile version above it would leave this node no room to count on from there.
    pub const MAX: Version = Version((1 << 62) - 1);

    /// Whether a version that comes from elsewhere is to be believed: it is no further ahead of our
    /// clock than clocks are ever wrong.
    pub fn is_believable(self, now: Now) -> bool {
        self <= Version::MAX && self.0 >> TAG_BITS <= micros(now.unix_us) + AHEAD_MAX_US
    }

    /// The lowest version of the unix second `secs`, whatever the node.
    pub fn at_unix_secs(secs: u32) -> Version {
        Version(micros(u64::from(secs) * 1_000_000) << TAG_BITS)
    }

    /// The highest version that loses against this one. A node that cannot keep an item, or finds
    /// it expired, remembers a delete just below it: older copies cannot come back, and the item
    /// itself is not deleted where it still lives.
    pub(crate) fn just_below(self) -> Version {
        Version(self.0.saturating_sub(1))
    }

    /// This version with the tag that no node has: for a change that came from a peer without
    /// versions, and was given one on its arrival. It is still above all that was issued before.
    pub(crate) fn foreign(self) -> Version {
        Version(self.0 >> TAG_BITS << TAG_BITS)
    }

    /// Whether it was given to a change of a peer without versions.
    pub fn is_foreign(self) -> bool {
        self.foreign() == self
    }

    /// When it was issued, in microseconds since 1970 (by the clock of the issuing node).
    pub fn unix_us(self) -> u64 {
        (self.0 >> TAG_BITS) + EPOCH_US
    }

    /// When it was issued, in whole seconds since 1970 (by the clock of the issuing node).
    pub fn unix_secs(self) -> u32 {
        u32::try_from(self.unix_us() / 1_000_000).unwrap_or(u32::MAX)
    }
}

/// Microseconds since the epoch of versions; 0 for a machine whose clock is not set yet.
fn micros(unix_us: u64) -> u64 {
    unix_us.saturating_sub(EPOCH_US).min(Version::MAX.0 >> TAG_BITS)
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
        let wall = micros(now.unix_us) << TAG_BITS | self.tag;
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

    fn at(unix_us: u64) -> Now {
        Now { unix_us, mono_us: 0 }
    }

    #[test]
    fn counts_within_a_microsecond_and_never_goes_back() {
        let clock = VersionClock::new(9);
        let first = clock.next(at(EPOCH_US + 5));
        assert_eq!(first, Version(5 << 8 | 9));
        assert_eq!(clock.next(at(EPOCH_US + 5)), Version(6 << 8 | 9));
        assert_eq!(clock.next(at(0)), Version(7 << 8 | 9));
        clock.observe(Version(10 << 8 | 200));
        assert_eq!(clock.next(at(EPOCH_US + 9)), Version(11 << 8 | 9));
        assert_eq!(clock.newest().unix_us(), EPOCH_US + 11);
    }

    #[test]
    fn a_clock_that_was_never_set_still_counts() {
        let clock = VersionClock::new(0);
        assert!(clock.next(at(0)) > Version(0));
        assert!(clock.next(at(0)) < clock.next(at(0)));
    }

    #[test]
    fn what_is_believed_leaves_room_that_peers_believe_in() {
        let now = at(EPOCH_US + 7 * 365 * 86_400 * 1_000_000);
        let unset = at(0);
        let clock = VersionClock::new(1);
        let written = clock.next(now);
        assert!(written.is_believable(now) && written.is_believable(unset));
        let years = |n: u64| Version(written.0 + ((n * 366 * 86_400 * 1_000_000) << TAG_BITS));
        assert!(years(49).is_believable(now) && !years(51).is_believable(now));
        assert!(!Version::MAX.is_believable(now) && !Version(u64::MAX >> 1).is_believable(now));
        clock.observe(years(49));
        assert!(clock.next(now).is_believable(now));
    }

    #[test]
    fn a_hostile_version_leaves_room_to_count_on() {
        let clock = VersionClock::new(1);
        clock.observe(Version(u64::MAX));
        let next = clock.next(at(EPOCH_US));
        assert!(next > Version::MAX && next.0 < 1 << 63);
    }
}
