//! How far a full copy is, for the log and for `stats`.
//!
//! Owns when a line is due and what it says. A copy that is over within a second has none: the log
//! is then repcached's, line by line.
//!
//! ```text
//!   replication: marugoto start                                    (the sender)
//!   replication: copy to the peer: 40 %, 400000 items
//!   replication: copy from the peer: 30 %, 300000 items            (the receiver)
//!   replication: marugoto 1000000
//!   replication: marugoto owari
//! ```

use crate::base::clock::Now;

/// Shortest time before the first line, and between two.
const PAUSE_US: u64 = 1_000_000;
/// Percents between two lines.
const STEP: u32 = 10;
/// All of it, in millionths.
const ALL: u32 = 1_000_000;

/// When the log hears of a copy.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// When it began, or the last line was due; none before it begins.
    said_us: Option<u64>,
    said_percent: u32,
}

impl Progress {
    /// The line that is due at `done` millionths, `items` so far; `way` is `to` or `from`.
    pub fn line(&mut self, way: &str, done: u32, items: u64, now: Now) -> Option<String> {
        let said_us = *self.said_us.get_or_insert(now.mono_us);
        let percent = done / (ALL / 100) / STEP * STEP;
        if percent <= self.said_percent || now.mono_us.saturating_sub(said_us) < PAUSE_US {
            return None;
        }
        self.said_us = Some(now.mono_us);
        self.said_percent = percent;
        Some(format!("replication: copy {way} the peer: {percent} %, {items} items"))
    }
}

/// The copy that comes in on a link.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Receiving {
    /// One is under way.
    on: bool,
    /// Items that the peer said it would send, about; 0: it has not said.
    total: u64,
    /// Items that had come on the link before.
    before: u64,
    progress: Progress,
}

impl Receiving {
    /// The peer says that a copy begins.
    pub fn begin(&mut self, total: u64, before: u64, now: Now) {
        *self = Receiving { on: true, total, before, progress: Progress::default() };
        self.progress.said_us = Some(now.mono_us);
    }

    /// It is complete.
    pub fn end(&mut self) {
        self.on = false;
    }

    /// How far it is, in millionths, with so many items of the link; a million when none is under
    /// way. Live changes count as well, so that it may run ahead, but never to the end.
    pub fn done(&self, items: u64) -> u32 {
        if !self.on {
            return ALL;
        }
        let come = u128::from(items.saturating_sub(self.before));
        let part = (come * u128::from(ALL)).checked_div(u128::from(self.total)).unwrap_or(0);
        part.min(u128::from(ALL) / 100 * 99) as u32
    }

    /// The line for the log that is due.
    pub fn line(&mut self, items: u64, now: Now) -> Option<String> {
        if !self.on || self.total == 0 {
            return None;
        }
        let (done, come) = (self.done(items), items.saturating_sub(self.before));
        self.progress.line("from", done, come, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Now {
        Now { unix_us: 0, mono_us: 7_000_000 + ms * 1000 }
    }

    #[test]
    fn a_line_is_due_every_ten_percent_and_no_more_than_once_a_second() {
        let mut progress = Progress::default();
        let mut line = |done, ms| progress.line("to", done, 5, at(ms));
        assert_eq!(line(100_000, 0), None, "it has just begun");
        assert_eq!(line(300_000, 999), None);
        let text = "replication: copy to the peer: 30 %, 5 items";
        assert_eq!(line(399_999, 1000).as_deref(), Some(text));
        assert_eq!(line(399_999, 5000), None, "nothing new");
        assert!(line(500_000, 5000).is_some_and(|line| line.contains("50 %")));
        assert_eq!(line(700_000, 5999), None);
    }

    #[test]
    fn what_comes_in_is_measured_by_what_was_announced() {
        let mut receiving = Receiving::default();
        assert_eq!((receiving.done(5), receiving.line(5, at(9000))), (ALL, None));
        receiving.begin(200, 1000, at(0));
        assert_eq!((receiving.done(1000), receiving.done(1050)), (0, 250_000));
        assert_eq!(receiving.done(9999), 990_000, "it is over when the peer says so");
        let text = "replication: copy from the peer: 20 %, 50 items";
        assert_eq!(receiving.line(1050, at(1000)).as_deref(), Some(text));
        receiving.end();
        assert_eq!((receiving.done(1050), receiving.line(1199, at(9000))), (ALL, None));
        receiving.begin(0, 0, at(0));
        assert_eq!((receiving.done(5), receiving.line(5, at(9000))), (0, None), "not announced");
    }
}
