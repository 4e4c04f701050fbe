//! How far a repcached has been told, by what has reached its machine.
//!
//! Owns a short history of what had been said at which byte of the link. A repcached acknowledges
//! nothing, but its kernel does: when the link ends the system says how many bytes it still holds,
//! and the history tells which changes those were.

use crate::base::clock::Now;
use crate::store::{FlushState, Version};
use std::collections::VecDeque;

/// Entries that are kept. When they are too many every second one goes: the last ones are all
/// there, and the coarse ones reach back for ten seconds of steady change, longer than a machine
/// can be gone before that is noticed.
const ENTRIES_MAX: usize = 256;
/// Entries are no closer than this, but for the last one: it is always exact.
const APART_US: u64 = 10_000;

/// What a repcached has been told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// All that was changed here up to it.
    pub upto: Version,
    /// The `flush_all` state.
    pub flush: FlushState,
}

/// The history of one link.
#[derive(Debug)]
pub(super) struct Ledger {
    /// What it had been told before this link, by an earlier one.
    before: Told,
    /// Bytes that had been said by then, ascending.
    entries: VecDeque<(u64, Told)>,
    /// When the last but one was noted, monotonic microseconds.
    noted_us: u64,
    last_us: u64,
}

impl Ledger {
    pub fn new(before: Told) -> Ledger {
        Ledger { before, entries: VecDeque::new(), noted_us: 0, last_us: 0 }
    }

    /// With the first `bytes` of the link it has been told so much.
    pub fn note(&mut self, bytes: u64, told: Told, now: Now) {
        let same = self.entries.back().is_some_and(|&(at, _)| at == bytes);
        let close = self.entries.len() > 1 && now.mono_us - self.noted_us < APART_US;
        if same || close {
            self.entries.pop_back();
        } else {
            self.noted_us = self.last_us;
        }
        self.last_us = now.mono_us;
        if self.entries.len() >= ENTRIES_MAX {
            let mut keep = false;
            self.entries.retain(|_| {
                keep = !keep;
                keep
            });
        }
        self.entries.push_back((bytes, told));
    }

    /// What it knows when the first `bytes` have reached it.
    pub fn at(&self, bytes: u64) -> Told {
        let reached = self.entries.iter().rev().find(|&&(at, _)| at <= bytes);
        reached.map_or(self.before, |&(_, told)| told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(version: u64) -> Told {
        Told { upto: Version(version), flush: FlushState::default() }
    }

    fn at(ms: u64) -> Now {
        Now { unix_us: 0, mono_us: 1000 * ms }
    }

    #[test]
    fn what_has_not_arrived_was_not_told() {
        let mut ledger = Ledger::new(told(5));
        assert_eq!(ledger.at(1000), told(5));
        ledger.note(100, told(7), at(1000));
        ledger.note(100, told(8), at(2000));
        ledger.note(200, told(9), at(3000));
        assert_eq!(ledger.at(99), told(5));
        assert_eq!(ledger.at(100), told(8));
        assert_eq!(ledger.at(199), told(8));
        assert_eq!(ledger.at(10_000), told(9));
        // The last one is exact, however soon it comes.
        for n in 0..50 {
            ledger.note(300 + n, told(10 + n), at(4000 + n / 10));
            assert_eq!(ledger.at(300 + n), told(10 + n));
        }
        assert!(ledger.entries.len() < 8);
    }

    #[test]
    fn a_long_history_gets_coarse_but_never_wrong() {
        let mut ledger = Ledger::new(told(0));
        for n in 1..100_000 {
            ledger.note(10 * n, told(n), at(20 * n));
        }
        assert!(ledger.entries.len() <= ENTRIES_MAX);
        assert_eq!(ledger.at(999_990), told(99_999));
        for bytes in (0..1_000_000).step_by(9973) {
            assert!(ledger.at(bytes).upto.0 <= bytes / 10, "told more than had arrived");
        }
        let recent = ledger.at(999_990 - 4000).upto.0;
        assert!((99_500..=99_599).contains(&recent), "{recent} is of no use");
    }
}
