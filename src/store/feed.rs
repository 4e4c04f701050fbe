//! Feeds: what each thread changed, for the replication thread.
//!
//! Owns one bounded buffer of key hashes per handle, and the signal that something waits in one of
//! them. Holds small new items themselves (`told`) while somebody is linked, as far as there is
//! room; of everything else the replication thread looks up what a key holds when it sends it.
//!
//! ```text
//! worker 1 --(hash | change)--> feed 1 --+
//! worker 2 --(hash | change)--> feed 2 --+--drain--> replication thread ----> links
//! worker n --(hash | change)--> feed n --+               changes_of(hash)
//! ```
//! A version is issued inside the lock of the feed that its hash goes into. So a drain that reads
//! the newest version first and then takes each lock has every change up to that version.

use super::told::{self, Told};
use super::version::{Version, VersionClock};
use super::write::New;
use crate::base::clock::Now;
use crate::base::sync::lock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};

#[derive(Debug, Default)]
struct Pending {
    hashes: Vec<u64>,
    /// Small new items, and how many there are.
    told: Vec<u8>,
    told_count: usize,
    overflowed: bool,
}

impl Pending {
    fn len(&self) -> usize {
        self.hashes.len() + self.told_count
    }
}

/// The changes of one handle.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    pending: Mutex<Pending>,
}

impl Feed {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        lock(&self.pending)
    }

    /// Issues a version for a change of the key with this hash and notes the change: `new` itself
    /// where that is given, with the bytes that may wait, and there is room. Where `max` changes
    /// wait already the feed overflows: it forgets them all and asks for a scan. Also says whether
    /// the room for bytes has just become half full, so that a drain should not be put off.
    pub fn issue(
        &self,
        clock: &VersionClock,
        now: Now,
        hash: u64,
        max: usize,
        new: Option<(&New<'_>, usize)>,
    ) -> (Version, bool) {
        let mut pending = self.lock();
        let version = clock.next(now);
        if pending.overflowed {
            return (version, false);
        }
        if pending.len() >= max {
            *pending = Pending { overflowed: true, ..Pending::default() };
            return (version, true);
        }
        let told = pending.told.len();
        let Some((new, room)) = new.filter(|&(new, room)| told + told::size(new) <= room) else {
            pending.hashes.push(hash);
            return (version, false);
        };
        told::push(&mut pending.told, version, new);
        pending.told_count += 1;
        (version, told <= room / 2 && pending.told.len() > room / 2)
    }

    /// Moves what waits to `out` and `told`; returns whether it overflowed.
    pub fn drain(&self, out: &mut Vec<u64>, told: &mut Told) -> bool {
        let mut pending = self.lock();
        out.append(&mut pending.hashes);
        told.take(&mut pending.told);
        pending.told_count = 0;
        std::mem::take(&mut pending.overflowed)
    }

    /// Whether a drain would bring anything.
    pub fn waits(&self) -> bool {
        let pending = self.lock();
        pending.overflowed || pending.len() > 0
    }

    /// Changes that wait.
    pub fn len(&self) -> usize {
        self.lock().len()
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
    use super::super::item::Extras;
    use super::super::{Exptime, Marks};
    use super::*;

    #[test]
    fn a_full_feed_forgets_and_says_so_once() {
        let (feed, clock) = (Feed::default(), VersionClock::new(1));
        for hash in 0..3 {
            feed.issue(&clock, Now::default(), hash, 2, None);
        }
        let (mut out, mut told) = (Vec::new(), Told::default());
        assert!(feed.waits() && feed.drain(&mut out, &mut told));
        assert!(out.is_empty() && !feed.waits());
        feed.issue(&clock, Now::default(), 7, 2, None);
        assert_eq!(feed.len(), 1);
        assert!(!feed.drain(&mut out, &mut told));
        assert_eq!(out, [7]);
        assert!(told.is_empty());
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

    #[test]
    fn a_feed_whose_bytes_are_half_its_room_says_so_once() {
        let (feed, clock) = (Feed::default(), VersionClock::new(1));
        let extras = Extras { marks: Marks::default(), cas: None };
        let (exptime, placed) = (Exptime::Never, None);
        let new = New { key: b"key", flags: 0, exptime, extras, parts: &[b"v"], placed };
        let (room, mut out, mut told) = (20 * told::size(&new), Vec::new(), Told::default());
        for _ in 0..2 {
            let issue = || feed.issue(&clock, Now::default(), 7, 100, Some((&new, room))).1;
            let said: Vec<bool> = (0..40).map(|_| issue()).collect();
            assert_eq!(said.iter().filter(|&&half| half).count(), 1);
            assert!(said[9..15].contains(&true));
            assert!(!feed.drain(&mut out, &mut told) && !out.is_empty());
        }
    }
}
