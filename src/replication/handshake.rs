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
#[derive(Debug, Default)]
pub struct Records {
    records: Vec<Record>,
}

impl Records {
    /// From where on the peer is to send (0: everything), and what we owe it.
    pub fn resume(&mut self, id: NodeId) -> (Version, Debt) {
        match self.records.iter().find(|record| record.id == id) {
            Some(record) => (record.have, record.debt),
            None => (Version(0), Debt::default()),
        }
    }

    /// Whether anything is known of a node.
    pub fn knows(&self, id: NodeId) -> bool {
        self.records.iter().any(|record| record.id == id)
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
    fn remembers_marks() {
        let mut records = Records::default();
        let id = NodeId(1);
        assert_eq!(records.resume(id).0, Version(0));
        records.remember(id, Version(5), Debt::default(), at(100));
        assert_eq!(records.resume(id).0, Version(5));
        assert_eq!(records.resume(NodeId(2)).0, Version(0));
    }

    #[test]
    fn what_arrives_late_from_others_is_owed_to_the_absent() {
        let mut records = Records::default();
        records.remember(NodeId(1), Version(9), Debt::default(), at(0));
        records.remember(NodeId(2), Version(9), Debt::default(), at(0));
        records.owe_all_but(&[NodeId(2)], Version(4));
        assert_eq!(records.resume(NodeId(1)).1.lower(Version(9)), Version(3));
        assert_eq!(records.resume(NodeId(2)).1.lower(Version(9)), Version(9));
    }

    #[test]
    fn forgets_the_longest_absent_first() {
        let mut records = Records::default();
        for n in 0..=RECORDS_MAX as u64 {
            records.remember(NodeId(u128::from(n)), Version(n + 1), Debt::default(), at(n));
        }
        assert_eq!(records.resume(NodeId(0)).0, Version(0));
        assert_eq!(records.resume(NodeId(1)).0, Version(2));
    }
}
