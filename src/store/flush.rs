//! `flush_all`: a watermark, and what will become the watermark.
//!
//! Owns the pure rules of [`FlushState`] and how the states of two nodes merge. Touches no item:
//! an item at or below the watermark is simply not there any more, and its memory is taken back
//! later, in steps.
//!
//! ```text
//!   versions ->   ....a....b....|....c....d....|....e....
//!                           watermark       pending.at
//!                 a, b: gone    c, d: gone once the clock passes `at`    e: stays
//! ```
//! Both parts merge in any order and any number of times to the same result: the watermark by
//! maximum, the order by "issued last".

use super::version::Version;
use crate::base::clock::Now;

/// Which items `flush_all` has made invisible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FlushState {
    /// Items up to this version are gone.
    pub watermark: Version,
    /// The `flush_all` that was ordered last. It stays here when it has come to pass, as the stamp
    /// that decides which order is the last one; [`FlushState::deferred`] says whether it is still
    /// to come.
    pub pending: Option<PendingFlush>,
}

/// One `flush_all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingFlush {
    /// When it was ordered: of two orders, the one issued last holds.
    pub issued: Version,
    /// What it makes the watermark, once the wall clock gets there.
    pub at: Version,
}

impl FlushState {
    /// The flush that is still to come.
    pub fn deferred(&self) -> Option<PendingFlush> {
        self.pending.filter(|pending| pending.at > self.watermark)
    }

    /// The state at `now`: a deferred flush whose second has begun is the watermark.
    pub(crate) fn settled(mut self, now: Now) -> FlushState {
        if let Some(pending) = self.deferred() {
            if Version::at_unix_secs(now.unix_secs()) >= pending.at {
                self.watermark = pending.at;
            }
        }
        self
    }

    /// The state after a `flush_all` for the unix second `at` (none: for now), ordered at `issued`.
    pub(crate) fn ordered(mut self, at: Option<u32>, issued: Version, now: Now) -> FlushState {
        match at {
            Some(secs) if secs > now.unix_secs() => {
                self.pending = Some(PendingFlush { issued, at: Version::at_unix_secs(secs) });
            }
            _ => {
                self.watermark = issued;
                self.pending = Some(PendingFlush { issued, at: issued });
            }
        }
        self
    }

    /// The state of two nodes that have told each other.
    pub(crate) fn merged(mut self, theirs: FlushState) -> FlushState {
        if theirs.watermark <= Version::MAX {
            self.watermark = self.watermark.max(theirs.watermark);
        }
        if let Some(pending) = theirs.pending {
            let believable = pending.issued <= Version::MAX && pending.at <= Version::MAX;
            let later = |ours: PendingFlush| (ours.issued, ours.at) < (pending.issued, pending.at);
            if believable && self.pending.is_none_or(later) {
                self.pending = Some(pending);
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Now {
        Now { unix_us: secs * 1_000_000, mono_us: 0 }
    }

    #[test]
    fn a_deferred_flush_comes_to_pass_in_its_second() {
        let secs = 1_700_000_000;
        let start = FlushState::default();
        let issued = Version::at_unix_secs(secs);
        let state = start.ordered(Some(secs + 10), issued, at(u64::from(secs)));
        assert_eq!(state.settled(at(u64::from(secs) + 9)), state);
        assert!(state.deferred().is_some());
        let passed = state.settled(at(u64::from(secs) + 10));
        assert_eq!(passed.watermark, Version::at_unix_secs(secs + 10));
        assert_eq!(passed.deferred(), None);
    }

    #[test]
    fn merging_is_the_same_in_any_order() {
        let now = at(1_700_000_000);
        let v = |n: u64| Version(Version::at_unix_secs(1_700_000_000).0 + n);
        let states = [
            FlushState::default().ordered(Some(1_700_000_100), v(1), now),
            FlushState::default().ordered(None, v(2), now),
            FlushState::default().ordered(Some(1_700_000_050), v(3), now),
        ];
        let [a, b, c] = states;
        let all = a.merged(b).merged(c);
        assert_eq!(all, c.merged(b).merged(a));
        assert_eq!(all, b.merged(c).merged(a).merged(b));
        assert_eq!(all.watermark, v(2));
        assert_eq!(all.deferred().map(|pending| pending.issued), Some(v(3)));
        // An immediate flush calls off one that was deferred before it.
        assert_eq!(a.merged(b).deferred(), None);
    }
}
