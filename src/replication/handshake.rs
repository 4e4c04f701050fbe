//! What a node remembers of its peers, so that a link that returns need not start over.
//!
//! Owns one record per node id, bounded. Decides from where on a peer is asked to send. Never
//! outlives the process: a restarted node has a new id and an empty memory, and both sides start
//! with everything.

use super::stream::Debt;
use super::NodeId;
use crate::base::clock::Now;
use crate::store::Version;

/// Peers that are remembered; the one not heard of for longest is forgotten first. Each restart of
/// a peer is a new id, so this is also how many restarts back we remember.
const RECORDS_MAX: usize = 64;

#[derive(Clone, Copy, Debug)]
struct Record {
    id: NodeId,
    /// The peer's last mark: everything it made up to there is applied here.
    have: Version,
    /// What we owe it, below what it says it has.
    debt: Debt,
    /// When the link was last up.
    seen_us: u64,
}

/// The memory of peers.
#[derive(Debug)]
pub struct Records {
    records: Vec<Record>,
    /// Longest absence after which a link may resume. Deletes are remembered that long; after it,
    /// "only what is newer" could leave a deleted item alive.
    resume_us: u64,
}

impl Records {
    /// Remembers nothing yet. `resume_us`: the lifetime of tombstones.
    pub fn new(resume_us: u64) -> Records {
        Records { records: Vec::new(), resume_us }
    }

    /// From where on the peer is to send (0: everything), and what we owe it.
    pub fn resume(&mut self, id: NodeId, now: Now) -> (Version, Debt) {
        match self.records.iter().find(|record| record.id == id) {
            Some(record) if now.mono_us.saturating_sub(record.seen_us) < self.resume_us => {
                (record.have, record.debt)
            }
            _ => (Version(0), Debt::default()),
        }
    }

    /// A link has ended: remembers what it had reached.
    pub fn remember(&mut self, id: NodeId, have: Version, debt: Debt, now: Now) {
        let seen_us = now.mono_us;
        let record = Record { id, have, debt, seen_us };
        if let Some(known) = self.records.iter_mut().find(|known| known.id == id) {
            *known = record;
            return;
        }
        if self.records.len() >= RECORDS_MAX {
            let oldest = (0..self.records.len()).min_by_key(|&at| self.records[at].seen_us);
            self.records.swap_remove(oldest.unwrap_or(0));
        }
        self.records.push(record);
    }

    /// A change that came from another peer was applied while these were not linked: what they are
    /// owed then reaches down to it.
    pub fn owe_all_but(&mut self, linked: &[NodeId], version: Version) {
        for record in self.records.iter_mut().filter(|record| !linked.contains(&record.id)) {
            record.debt.add(version);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_us: u64) -> Now {
        Now { unix_us: 0, mono_us }
    }

    #[test]
    fn remembers_marks_for_as_long_as_deletes_are_remembered() {
        let mut records = Records::new(1000);
        let id = NodeId(1);
        assert_eq!(records.resume(id, at(0)).0, Version(0));
        records.remember(id, Version(5), Debt::default(), at(100));
        assert_eq!(records.resume(id, at(1099)).0, Version(5));
        assert_eq!(records.resume(id, at(1100)).0, Version(0));
        assert_eq!(records.resume(NodeId(2), at(100)).0, Version(0));
    }

    #[test]
    fn what_arrives_late_from_others_is_owed_to_the_absent() {
        let mut records = Records::new(1000);
        records.remember(NodeId(1), Version(9), Debt::default(), at(0));
        records.remember(NodeId(2), Version(9), Debt::default(), at(0));
        records.owe_all_but(&[NodeId(2)], Version(4));
        assert_eq!(records.resume(NodeId(1), at(1)).1.lower(Version(9)), Version(3));
        assert_eq!(records.resume(NodeId(2), at(1)).1.lower(Version(9)), Version(9));
    }

    #[test]
    fn forgets_the_longest_absent_first() {
        let mut records = Records::new(1_000_000);
        for n in 0..=RECORDS_MAX as u64 {
            records.remember(NodeId(u128::from(n)), Version(n + 1), Debt::default(), at(n));
        }
        assert_eq!(records.resume(NodeId(0), at(99)).0, Version(0));
        assert_eq!(records.resume(NodeId(1), at(99)).0, Version(2));
    }
}
