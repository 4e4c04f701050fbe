//! A key that both sides change at once.
//!
//! Owns the memory of what was told lately, and the keys whose two states may have crossed on the
//! way: without versions each side would keep the other's word, for ever. This node decides: when
//! the repcached has been quiet about such a key for a moment it is told what holds here, which is
//! the last that it said itself, or what was changed here since.
//!
//! ```text
//!   ours      k = a -----\ /---- k = b      theirs
//!             k = b  <----X---->  k = a                both have taken the other's
//!             k = b  ---- told again -->  k = b
//! ```
//! Never tells at once: of a counter that is being counted there, the echo would be an old state.

use crate::base::clock::Now;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// What was told may be under way for so long: longer than a link that is not broken takes.
const UNDER_WAY_US: u64 = 2_000_000;
/// The repcached has to be quiet about a key for so long before it is told again. An echo that
/// crosses with a further change within this time is one more case.
const QUIET_US: u64 = 200_000;
/// A key in conflict that changes again is put off in steps, so that a busy one costs little.
const STEP_US: u64 = QUIET_US / 4;
/// Places for what was told lately, one per hash (a power of two): 128 KiB.
const PLACES: usize = 8192;
/// Keys in conflict that are kept. What is beyond stays as the two sides have it.
const CONFLICTS_MAX: usize = 4096;

/// The conflicts of one link.
#[derive(Debug)]
pub(super) struct Echo {
    /// Hash, and until when it may be under way. The last of a place has it.
    told: Vec<(u64, u64)>,
    /// Hashes in conflict, and when each is due.
    conflicts: BTreeMap<u64, u64>,
    /// The same by time, with entries that were put off since.
    order: VecDeque<(u64, u64)>,
    /// Told again, and not on the wire yet.
    again: BTreeSet<u64>,
}

impl Echo {
    pub fn new() -> Echo {
        Echo {
            told: Vec::new(),
            conflicts: BTreeMap::new(),
            order: VecDeque::new(),
            again: BTreeSet::new(),
        }
    }

    /// The state of a key goes out.
    pub fn told(&mut self, hash: u64, now: Now) {
        if self.told.is_empty() {
            // Only a link that is used takes the memory.
            self.told = vec![(0, 0); PLACES];
        }
        let under_way = if self.again.remove(&hash) { QUIET_US } else { UNDER_WAY_US };
        self.told[hash as usize % PLACES] = (hash, now.mono_us + under_way);
    }

    /// The repcached has changed a key. `crossing`: everything may be under way to it.
    pub fn heard(&mut self, hash: u64, crossing: bool, now: Now) {
        let place = self.told.get(hash as usize % PLACES);
        let under_way = place.is_some_and(|&(at, until)| at == hash && now.mono_us < until);
        let known = self.conflicts.get(&hash);
        let soon = known.is_some_and(|&due| now.mono_us + QUIET_US < due + STEP_US);
        let room = known.is_some() || self.conflicts.len() < CONFLICTS_MAX;
        if soon || !room || !(crossing || under_way || known.is_some()) {
            return;
        }
        let due = now.mono_us + QUIET_US;
        self.conflicts.insert(hash, due);
        self.order.push_back((due, hash));
    }

    /// When [`Echo::due`] wants to be asked, monotonic microseconds.
    pub fn next_timeout(&self) -> Option<u64> {
        self.order.front().map(|&(due, _)| due)
    }

    /// The next key to be told again.
    pub fn due(&mut self, now: Now) -> Option<u64> {
        while let Some(&(due, hash)) = self.order.front().filter(|(due, _)| *due <= now.mono_us) {
            self.order.pop_front();
            if self.conflicts.get(&hash) == Some(&due) {
                self.conflicts.remove(&hash);
                self.again.insert(hash);
                return Some(hash);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now { unix_us: 0, mono_us: 1000 * ms }
    }

    #[test]
    fn what_may_have_crossed_is_told_again_when_it_is_quiet() {
        let mut echo = Echo::new();
        echo.heard(5, false, at(0));
        assert_eq!(echo.next_timeout(), None, "nothing was under way");
        echo.told(7, at(0));
        echo.heard(7, false, at(10));
        echo.heard(7, false, at(20));
        echo.heard(7, false, at(150));
        assert_eq!(echo.due(at(349)), None);
        assert_eq!(echo.due(at(350)), Some(7));
        assert_eq!(echo.due(at(1000)), None);
        // The echo can cross, too, but not for long: it is no reason for ever.
        echo.told(7, at(350));
        echo.heard(7, false, at(360));
        assert_eq!(echo.due(at(560)), Some(7));
        echo.told(7, at(560));
        echo.heard(7, false, at(800));
        assert_eq!(echo.next_timeout(), None);
    }

    #[test]
    fn a_busy_key_and_many_keys_cost_little() {
        let mut echo = Echo::new();
        for hash in 0..100_000u64 {
            echo.heard(hash, true, at(0));
        }
        assert_eq!(echo.conflicts.len(), CONFLICTS_MAX);
        for ms in 0..10_000 {
            echo.heard(1, false, at(ms));
            while echo.due(at(ms)).is_some() {}
            assert!(echo.order.len() <= CONFLICTS_MAX + 8);
        }
        assert_eq!(echo.due(at(11_000)), Some(1));
    }
}
