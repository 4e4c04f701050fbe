//! What a node remembers of its peers, so that a link that returns need not start over.
//!
//! Owns one record per node id, bounded: what it had to tell us, what we owe it. Says from where on
//! a peer is asked to send. Never
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
    /// That came by a copy from this node.
    via: Option<NodeId>,
    /// There was a link to it: what we owe it is known.
    met: bool,
    /// What we owe it, below what it says it has.
    debt: Debt,
    /// What it has of us.
    told: Option<Version>,
    /// When the link was last up.
    seen_us: u64,
}

/// What is remembered of a peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// From where on it is to send (0: everything).
    pub since: Version,
    /// What is below came by a copy from this node.
    pub via: Option<NodeId>,
    /// There was a link to it, so that it may say from where on we are to send.
    pub met: bool,
    /// What we owe it.
    pub debt: Debt,
}

/// What a link had reached when it ended.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reached {
    /// The peer's last mark.
    pub have: Version,
    /// The peer's copy was not complete, and what is here came by a copy from this node.
    pub via: Option<NodeId>,
    /// What is still owed.
    pub debt: Debt,
    /// What the peer has of us.
    pub told: Option<Version>,
    /// The peer has asked for something: it has believed in the link as well.
    pub met: bool,
}

/// The memory of peers.
#[derive(Debug, Default)]
pub struct Records {
    records: Vec<Record>,
}

impl Records {
    fn find(&mut self, id: NodeId) -> Option<&mut Record> {
        self.records.iter_mut().find(|record| record.id == id)
    }

    /// What is remembered of a peer that comes back. A debt to a node that was never linked counts,
    /// too.
    pub fn resume(&mut self, id: NodeId) -> Memory {
        self.find(id).map_or(Memory::default(), |record| Memory {
            since: record.have,
            via: record.via,
            met: record.met,
            debt: record.debt,
        })
    }

    /// A link has ended: remembers what it had reached.
    pub fn remember(&mut self, id: NodeId, reached: &Reached, now: Now) {
        let &Reached { have, via, debt, told, met } = reached;
        let seen_us = now.mono_us;
        if met {
            return self.put(Record { id, have, via, met, debt, told, seen_us });
        }
        // The other side may never have believed in this link: what was known is still true.
        match self.find(id) {
            Some(record) => record.debt.merge(debt),
            None => {
                self.put(Record { id, have: Version(0), via: None, met, debt, told: None, seen_us })
            }
        }
    }

    /// A copy from `filler` has brought all that a node had to tell up to `have`.
    pub fn vouch(&mut self, id: NodeId, have: Version, filler: NodeId, now: Now) {
        let debt = self.find(id).map_or(Debt::default(), |record| record.debt);
        let (via, met, told, seen_us) = (Some(filler), false, None, now.mono_us);
        self.put(Record { id, have, via, met, debt, told, seen_us });
    }

    fn put(&mut self, record: Record) {
        if let Some(known) = self.find(record.id) {
            *known = record;
            return;
        }
        if self.records.len() >= RECORDS_MAX {
            let oldest = (0..self.records.len()).min_by_key(|&at| self.records[at].seen_us);
            self.records.swap_remove(oldest.unwrap_or(0));
        }
        self.records.push(record);
    }

    /// What a peer that is not linked has of us.
    pub fn told(&mut self, id: NodeId) -> Option<Version> {
        self.find(id)?.told
    }

    /// What we owe a peer that is not linked; none where nothing is known of it.
    pub fn debt(&mut self, id: NodeId) -> Option<Debt> {
        self.find(id).filter(|record| record.met).map(|record| record.debt)
    }

    /// Whether anything is known of a node.
    pub fn knows(&self, id: NodeId) -> bool {
        self.records.iter().any(|record| record.id == id)
    }

    /// A change that came from a peer was applied: those that are not linked here, and that this
    /// peer does not answer for, are owed it.
    pub fn owe_others(&mut self, version: Version, told: impl Fn(NodeId) -> bool) {
        for record in self.records.iter_mut().filter(|record| !told(record.id)) {
            record.debt.add(version);
        }
    }

    /// Nobody answers for a node any more, above `since`. True when that is owed from now on, and
    /// was not before.
    pub fn owe(&mut self, id: NodeId, since: Version, now: Now) -> bool {
        if !self.knows(id) {
            let (have, via, met, debt) = (Version(0), None, false, Debt::default());
            self.put(Record { id, have, via, met, debt, told: None, seen_us: now.mono_us });
        }
        let Some(record) = self.find(id) else { return false };
        let before = record.debt;
        record.debt.add(Version(since.0.saturating_add(1)));
        record.debt != before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_us: u64) -> Now {
        Now { unix_us: 0, mono_us }
    }

    fn met(have: Version) -> Reached {
        Reached { have, met: true, ..Reached::default() }
    }

    #[test]
    fn remembers_marks() {
        let mut records = Records::default();
        let id = NodeId(1);
        assert_eq!(records.resume(id).since, Version(0));
        records.remember(id, &met(Version(5)), at(100));
        assert_eq!(records.resume(id).since, Version(5));
        assert_eq!(records.resume(NodeId(2)).since, Version(0));
    }

    #[test]
    fn what_arrives_late_from_others_is_owed_to_the_absent() {
        let mut records = Records::default();
        records.remember(NodeId(1), &met(Version(9)), at(0));
        records.remember(NodeId(2), &met(Version(9)), at(0));
        records.owe_others(Version(4), |id| id == NodeId(2));
        assert_eq!(records.resume(NodeId(1)).debt.lower(Version(9)), Version(3));
        assert_eq!(records.resume(NodeId(2)).debt.lower(Version(9)), Version(9));
    }

    #[test]
    fn forgets_the_longest_absent_first() {
        let mut records = Records::default();
        for n in 0..=RECORDS_MAX as u64 {
            let id = NodeId(u128::from(n));
            records.remember(id, &met(Version(n + 1)), at(n));
        }
        assert_eq!(records.resume(NodeId(0)).since, Version(0));
        assert_eq!(records.resume(NodeId(1)).since, Version(2));
    }
}
