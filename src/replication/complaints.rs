//! What the log hears of peers that are not trusted.
//!
//! Owns when to say it again: such a peer tries again each second, for as long as nobody changes
//! its secret. Never logs by itself.

use super::secret::Mismatch;
use crate::base::clock::Now;
use std::collections::BTreeMap;

/// The same reason is said again after this time, as a reminder.
const AGAIN_US: u64 = 60_000_000;
/// Another reason is said after this time: strangers must not fill the log by taking turns.
const OTHER_US: u64 = 1_000_000;

#[derive(Debug)]
struct Said {
    why: Mismatch,
    at_us: u64,
    unsaid: u64,
}

/// What was said last, of each target that is dialled and (`None`) of all who connect.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    said: BTreeMap<Option<usize>, Said>,
}

impl Complaints {
    /// Whether to say it now, and how often it was not said since the last time.
    pub fn complain(&mut self, target: Option<usize>, why: Mismatch, now: Now) -> Option<u64> {
        let mut unsaid = 0;
        if let Some(said) = self.said.get_mut(&target) {
            let wait = if said.why == why { AGAIN_US } else { OTHER_US };
            if now.mono_us.saturating_sub(said.at_us) < wait {
                said.unsaid += 1;
                return None;
            }
            unsaid = said.unsaid;
        }
        self.said.insert(target, Said { why, at_us: now.mono_us, unsaid: 0 });
        Some(unsaid)
    }

    /// It is linked: what comes next is news.
    pub fn settled(&mut self, target: Option<usize>) {
        self.said.remove(&target);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_reason_and_minute() {
        let mut complaints = Complaints::default();
        let at = |mono_us| Now { unix_us: 0, mono_us };
        let mut say = |target, why, us| complaints.complain(target, why, at(us));
        assert_eq!(say(None, Mismatch::Differ, 0), Some(0));
        assert_eq!(say(Some(0), Mismatch::Differ, 0), Some(0));
        for second in 1..60 {
            assert_eq!(say(None, Mismatch::Differ, second * 1_000_000), None);
        }
        assert_eq!(say(None, Mismatch::Differ, AGAIN_US), Some(59));
        assert_eq!(say(None, Mismatch::PeerHasNone, AGAIN_US + 1), None, "taking turns");
        assert_eq!(say(None, Mismatch::PeerHasNone, AGAIN_US + OTHER_US), Some(1));
        complaints.settled(None);
        assert_eq!(complaints.complain(None, Mismatch::PeerHasNone, at(AGAIN_US)), Some(0));
    }
}
