//! How far a repcached has been told, by what has reached its machine.
//!
//! Owns a short history of what had been said at which byte of the link. A repcached acknowledges
//! nothing, but its kernel does: when the link ends the system says how many bytes it still holds,
//! and the history tells which changes those were.

use crate::store::{FlushState, Version};
use std::collections::VecDeque;

/// Entries that are kept. When they are too many every second one goes: the last ones are all
/// there, and at 50 marks a second the coarse ones reach back for 20 seconds, longer than a machine
/// can be gone before that is noticed.
const ENTRIES_MAX: usize = 256;

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
}

impl Ledger {
    pub fn new(before: Told) -> Ledger {
        Ledger { before, entries: VecDeque::new() }
    }

    /// With the first `bytes` of the link it has been told so much.
    pub fn note(&mut self, bytes: u64, told: Told) {
        if self.entries.back().is_some_and(|&(at, _)| at == bytes) {
            self.entries.pop_back();
        }
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

    #[test]
    fn what_has_not_arrived_was_not_told() {
        let mut ledger = Ledger::new(told(5));
        assert_eq!(ledger.at(1000), told(5));
        ledger.note(100, told(7));
        ledger.note(100, told(8));
        ledger.note(200, told(9));
        assert_eq!(ledger.at(99), told(5));
        assert_eq!(ledger.at(100), told(8));
        assert_eq!(ledger.at(199), told(8));
        assert_eq!(ledger.at(10_000), told(9));
    }

    #[test]
    fn a_long_history_gets_coarse_but_never_wrong() {
        let mut ledger = Ledger::new(told(0));
        for n in 1..100_000 {
            ledger.note(10 * n, told(n));
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
