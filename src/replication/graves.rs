//! What a node does about deletes that it has forgotten.
//!
//! Owns the memory of what was agreed on with each peer, the decision to ask a peer for everything
//! because of a forgotten delete, and the answers to items that had been deleted here. Never looks
//! at an item: the store's horizon says what is forgotten.
//!
//! ```text
//!   version ->     told                    forgotten
//!   ---------------|-----------------------|------------->
//!    the peer has   ^ a delete in here may be lost: the peer is asked for everything, and what
//!    had all this     it has from below `told` that is not here any more goes there, too
//! ```

use super::action::LinkId;
use super::node::Node;
use super::stream::Debt;
use super::NodeId;
use crate::base::clock::Now;
use crate::store::{Handle, Version};

/// Peers whose agreement is remembered, as many as `Records` remembers.
const PEERS_MAX: usize = 64;
/// A live link is made anew, for everything to be compared, no sooner than this after it was made:
/// where deletes find no memory that would not help for long, and costs a copy each time.
const COMPARE_AGAIN_US: u64 = 60_000_000;

#[derive(Clone, Copy, Debug)]
struct Agreement {
    peer: NodeId,
    /// All that this node had up to here, the peer has had, too.
    told: Version,
    /// A delete was forgotten that the peer had still to be told of.
    missed: bool,
    seen_us: u64,
}

/// The memory of agreements.
#[derive(Debug, Default)]
pub(super) struct Graves {
    agreements: Vec<Agreement>,
    /// How many deletes the store had missed at the last look.
    missed: u64,
}

impl Graves {
    fn of(&self, peer: NodeId) -> Option<&Agreement> {
        self.agreements.iter().find(|agreement| agreement.peer == peer)
    }

    fn put(&mut self, new: Agreement) {
        self.agreements.retain(|agreement| agreement.peer != new.peer);
        if self.agreements.len() >= PEERS_MAX {
            let oldest = (0..PEERS_MAX).min_by_key(|&at| self.agreements[at].seen_us);
            self.agreements.swap_remove(oldest.unwrap_or(0));
        }
        self.agreements.push(new);
    }
}

impl Node {
    /// What a peer that was linked before has had of this node, but for what it is owed; 0 where
    /// nothing is known of it. And whether a delete that it may lack is forgotten here: then it has
    /// to be asked for everything.
    pub(super) fn agreed_with(&self, peer: NodeId, debt: Debt, handle: &Handle) -> (Version, bool) {
        match self.graves.of(peer).filter(|_| self.records.knows(peer)) {
            Some(known) => {
                let told = debt.lower(known.told);
                (told, known.missed || handle.forgotten() > told)
            }
            None => (Version(0), false),
        }
    }

    /// A live link has ended.
    pub(super) fn remember_agreed(&mut self, peer: NodeId, told: Version, missed: bool, now: Now) {
        self.graves.put(Agreement { peer, told, missed, seen_us: now.mono_us });
    }

    /// Items of a link's peer that had been deleted here were not taken: everybody is told of the
    /// delete, the peer as well.
    pub(super) fn tell_buried(&mut self, link: LinkId, now: Now) {
        let Some(session) = self.links.get_mut(&link).and_then(|link| link.session.as_mut()) else {
            return;
        };
        for (hash, version) in session.take_unheard() {
            session.push_relay(hash, version, now);
        }
        let buried = session.take_buried();
        if buried.is_empty() {
            return;
        }
        let linked: Vec<NodeId> = self.live().filter_map(|(_, link)| link.peer()).collect();
        for (hash, version) in buried {
            for link in self.links.values_mut() {
                if let Some(session) = &mut link.session {
                    session.push_relay(hash, version, now);
                }
            }
            self.records.owe_others(version, |id| linked.contains(&id));
        }
    }

    /// Has the store keep deletes that a linked peer has still to be told of, and notes where it
    /// could not.
    pub(super) fn watch_deletes(&mut self, handle: &Handle) {
        let missed = handle.missed_deletes();
        let more = std::mem::replace(&mut self.graves.missed, missed) != missed;
        let forgotten = handle.forgotten();
        let mut above: Option<Version> = None;
        let live = self.links.values_mut().filter(|link| link.is_live());
        for session in live.filter_map(|link| link.session.as_mut()) {
            let agreed = session.agreed();
            above = Some(above.map_or(agreed, |above| above.min(agreed)));
            if more && agreed < forgotten {
                session.note_missed();
            }
            session.check_caught_up(forgotten);
        }
        handle.keep_deletes(above);
    }

    /// The link over which a peer was not told of a delete that is forgotten by now, if it has
    /// lived long enough to be made anew.
    pub(super) fn comparing_due(&self) -> Option<(LinkId, u64)> {
        let due = self.live().filter_map(|(id, link)| {
            let session = link.session.as_ref().filter(|session| session.has_missed())?;
            session.is_copied().then_some((id, link.live_us? + COMPARE_AGAIN_US))
        });
        due.min_by_key(|&(_, at)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agreement_longest_not_renewed_is_forgotten_first() {
        let mut graves = Graves::default();
        for n in 0..=PEERS_MAX as u64 {
            let (peer, told) = (NodeId(u128::from(n)), Version(n));
            graves.put(Agreement { peer, told, missed: false, seen_us: n });
            graves.put(Agreement { peer, told, missed: true, seen_us: n });
        }
        assert_eq!(graves.agreements.len(), PEERS_MAX);
        assert!(graves.of(NodeId(0)).is_none());
        assert!(graves.of(NodeId(1)).is_some_and(|known| known.missed));
    }
}
