//! Feeds: what each thread changed, for the replication thread.
//!
//! Owns one bounded buffer of key hashes per handle, and the signal that something waits in one of
//! them. Never holds a value: the replication thread looks up what a key holds when it sends it, so
//! a key that is written a hundred times may be sent once.
//!
//! ```text
//! worker 1 --(hash)--> feed 1 --+
//! worker 2 --(hash)--> feed 2 --+--drain--> replication thread --changes_of(hash)--> links
//! worker n --(hash)--> feed n --+
//! ```
//! A version is issued inside the lock of the feed that its hash goes into. So a drain that reads
//! the newest version first and then takes each lock has every change up to that version.

use super::version::{Version, VersionClock};
use crate::base::clock::Now;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

#[derive(Debug, Default)]
struct Pending {
    hashes: Vec<u64>,
    overflowed: bool,
}

/// The changes of one handle.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    pending: Mutex<Pending>,
}

impl Feed {
    /// Issues a version for a change of the key with this hash and notes the change. Where `max`
    /// changes wait already the feed overflows: it forgets them all and asks for a scan.
    pub fn issue(&self, clock: &VersionClock, now: Now, hash: u64, max: usize) -> Version {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let version = clock.next(now);
        if !pending.overflowed {
            if pending.hashes.len() < max {
                pending.hashes.push(hash);
            } else {
                pending.overflowed = true;
                pending.hashes = Vec::new();
            }
        }
        version
    }

    /// Moves what waits to `out`; returns whether it overflowed.
    pub fn drain(&self, out: &mut Vec<u64>) -> bool {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        out.append(&mut pending.hashes);
        std::mem::take(&mut pending.overflowed)
    }

    /// Whether a drain would bring anything.
    pub fn waits(&self) -> bool {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        pending.overflowed || !pending.hashes.is_empty()
    }

    /// Changes that wait.
    pub fn len(&self) -> usize {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).hashes.len()
    }
}

/// What a drain of all feeds brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Every local change up to this version was handed out by this drain or an earlier one,
    /// unless one of them overflowed.
    pub upto: Version,
    /// Changes were forgotten: a scan since the last acknowledged version is needed.
    pub overflowed: bool,
}

/// "Something waits in a feed": raised by workers, taken by the replication thread, so that it is
/// woken once for many changes.
#[derive(Debug, Default)]
pub struct ChangeSignal(AtomicBool);

impl ChangeSignal {
    /// Raises the signal. True when it was down: the caller is the one who wakes the thread.
    pub fn raise(&self) -> bool {
        !self.0.load(Ordering::Relaxed) && !self.0.swap(true, Ordering::AcqRel)
    }

    /// Takes the signal down; to be called before draining. True when it was up.
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_feed_forgets_and_says_so_once() {
        let (feed, clock) = (Feed::default(), VersionClock::new(1));
        for hash in 0..3 {
            feed.issue(&clock, Now::default(), hash, 2);
        }
        let mut out = Vec::new();
        assert!(feed.waits() && feed.drain(&mut out));
        assert!(out.is_empty() && !feed.waits());
        feed.issue(&clock, Now::default(), 7, 2);
        assert_eq!(feed.len(), 1);
        assert!(!feed.drain(&mut out));
        assert_eq!(out, [7]);
    }

    #[test]
    fn only_the_first_raise_wakes() {
        let signal = ChangeSignal::default();
        assert!(signal.raise());
        assert!(!signal.raise());
        assert!(signal.take());
        assert!(!signal.take());
        assert!(signal.raise());
    }
}
