//! Looking ahead in a segment whose records are walked one by one.
//!
//! Owns the order in which the index is asked for what will be needed of it: records lie side by
//! side, but each one's slot is somewhere else, and waiting for one after the other is most of what
//! reclaim and the sweep would do. Changes nothing.
//!
//! ```text
//!  segment  | record | record | record | record | record | record | ...
//!             ^ looked at now            ^ its slot has been asked for
//!               '------ at most AHEAD -----'
//! ```

use super::core::Store;
use super::item::Record;

/// Records that are asked for ahead: as many misses as a processor has under way.
const AHEAD: usize = 8;

/// How far the index was asked.
#[derive(Debug)]
pub(super) struct Ahead {
    segment: u32,
    at: u32,
    /// Records between the one that is looked at and `at`.
    records: usize,
    /// How many will be looked at and have not been asked for.
    left: usize,
}

impl Ahead {
    /// `records` from `at` on will be looked at, or fewer.
    pub fn new(segment: u32, at: u32, records: usize) -> Ahead {
        Ahead { segment, at, records: 0, left: records }
    }
}

impl Store {
    /// The next record is about to be looked at. Those are asked for that `wanted` picks, up to
    /// `end`. The segment is one that nobody frees or writes to.
    #[inline]
    pub(super) fn look_ahead(&self, ahead: &mut Ahead, end: u32, wanted: impl Fn(&Record) -> bool) {
        let arena = &self.segments.arena;
        // By halves: the misses of one half are under way while the other is worked on.
        if ahead.records <= AHEAD / 2 {
            while ahead.records < AHEAD && ahead.left > 0 && ahead.at < end {
                let offset = self.segments.offset_in(ahead.segment, ahead.at);
                let record = Record::read(arena, offset);
                if !record.is_chunk() && wanted(&record) {
                    self.index.ask_for(self.index.place(self.hash(record.key(arena))));
                }
                ahead.at = self.segments.next(ahead.at, record.size());
                ahead.records += 1;
                ahead.left -= 1;
            }
        }
        ahead.records = ahead.records.saturating_sub(1);
    }
}
