//! Many nodes: who tells whom what, and what happens when somebody stops telling.
//!
//! Owns what the peers answer for ([`Claim`]), what this node answers for towards them ([`Said`])
//! and the relaying between links. Never dials and never ends a link: `node` does.
//!
//! ```text
//!   W --change--> X          W has said "linked to Y": W tells Y, X does not
//!    \           /           W has not:                X tells Y
//!     `--> Y <--'            W said it, and takes it back, or is lost: X scans for what Y may lack
//! ```
//!
//! The invariant: *a change that X got from W reaches Y by W while W claims Y, and by X otherwise.*
//! By induction along the way that the change took, somebody answers for it towards every node:
//! its maker, or one on the way whose giver does not claim the node. What keeps it true:
//!
//! - W claims Y only while their link is live, Y is heard, and what Y has of W is known (`told`,
//!   lowered by what is owed). When that ends, W says `unlinked` with it, at the latest when the
//!   link is found to be dead, and X scans above it if it is linked to Y itself. If it is not, X
//!   owes it to Y, and as somebody else may rely on X, X passes the word on where that is news.
//! - W may die instead, and then X knows `told` from W's last claim, at most a second old, and the
//!   lowest version that has come from W since.
//! - What is not claimed is relayed, also while nobody is there: then it is owed ([`Records`]).
//! - Gossip overtakes changes on its link, so it is taken as if all that came with it in one
//!   reading had come before it, or after it, whichever sends more.
//! - A node that was filled by A asks B only for what A did not have of B. What B owes A it then
//!   owes the new node as well ([`Footing::filler`]), and if A is to be caught up later, so is the
//!   new node (`basis`).
//!
//! Where it is uncertain who answers, both do: a change that comes twice costs its bytes.
//!
//! [`Records`]: super::Records
//! [`Footing::filler`]: super::events::Footing::filler

use super::action::LinkId;
use super::link::Link;
use super::node::Node;
use super::stream::Debt;
use super::wire::native::Mesh;
use super::NodeId;
use crate::base::clock::Now;
use crate::store::Version;

/// Third nodes that one peer may answer for: as many as it can be linked to. It may say more, and
/// is then believed less.
const CLAIMS_MAX: usize = super::node::LINKS_MAX;
/// Nodes from which something came that was news here, as far as that is remembered.
const SOURCES_MAX: usize = CLAIMS_MAX;
/// How soon a peer is told again how far another one is. It bounds what has to be sent twice when
/// this node dies.
const SAY_AGAIN_US: u64 = 1_000_000;
/// The same where it turned out that that one has less than was said.
const SAY_LESS_US: u64 = 50_000;

/// A peer answers for a third node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim {
    /// What that one has of the peer.
    told: Version,
    /// The lowest version that has come from the peer since it said so.
    lowest: Option<Version>,
}

impl Claim {
    /// From where on the third node may lack what the peer has told us.
    fn since(&self) -> Version {
        let below = self.lowest.map(|version| Version(version.0.saturating_sub(1)));
        below.map_or(self.told, |below| self.told.min(below))
    }
}

/// What a peer was told about a third node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Said {
    have: Version,
    /// 0: that this node does not answer for it.
    told: Version,
    /// Changes sent to the peer by then.
    sent: u64,
    at_us: u64,
}

impl Link {
    fn claims(&self, node: Option<NodeId>) -> bool {
        node.is_some_and(|node| self.claims.contains_key(&node))
    }

    /// What came in one reading has won down to this version.
    fn note_won(&mut self, lowest: Option<Version>) {
        self.chunk_low = lowest;
        for claim in self.claims.values_mut() {
            claim.lowest = [claim.lowest, lowest].into_iter().flatten().min();
        }
    }
}

impl Node {
    /// Before bytes of a link are worked through: whether each change has to be named.
    pub(super) fn relays_from(&self, id: LinkId) -> bool {
        let Some(link) = self.links.get(&id) else { return false };
        // What fills this node is told to the others in one scan, when it is complete.
        self.filling != Some(id)
            && self.live().any(|(other, to)| other != id && !link.claims(to.peer()))
    }

    /// What has won is told to those that the peer does not answer for.
    pub(super) fn relay(&mut self, id: LinkId, now: Now) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let relays = link.session.as_mut().map(|session| session.take_relays()).unwrap_or_default();
        link.note_won(relays.lowest);
        let Some(lowest) = relays.lowest else { return };
        // What a repcached has told is a change of this node's making.
        self.made_any |= link.text.is_some();
        let claimed: Vec<NodeId> = link.claims.keys().copied().collect();
        if let Some(peer) = link.peer().filter(|peer| !self.sources.contains(peer)) {
            match self.sources.len() < SOURCES_MAX {
                true => self.sources.push(peer),
                false => self.mixed = true,
            }
        }
        let told: Vec<NodeId> = self.live().filter_map(|(_, l)| l.peer()).chain(claimed).collect();
        self.records.owe_others(lowest, |node| told.contains(&node));
        if relays.changes.is_empty() {
            return;
        }
        let Some(from) = self.links.remove(&id) else { return };
        for other in self.links.values_mut().filter(|link| link.is_live()) {
            if from.claims(other.peer()) {
                continue;
            }
            if let Some(session) = &mut other.session {
                if let Some(lowest) = relays.lowest_item {
                    session.disagree(lowest);
                }
                for &(hash, version) in &relays.changes {
                    session.push_relay(hash, version, now);
                }
            }
        }
        self.links.insert(id, from);
    }

    /// A peer answers for a third node.
    pub(super) fn on_linked(
        &mut self,
        id: LinkId,
        node: NodeId,
        (have, told): (Version, Version),
        early: bool,
    ) {
        let filling = self.filling == Some(id);
        let Some(link) = self.links.get_mut(&id) else { return };
        if node == self.config.id || Some(node) == link.peer() {
            return;
        }
        if early && filling && have > Version(0) && self.fill_haves.len() < CLAIMS_MAX {
            self.fill_haves.entry(node).or_insert(have);
        }
        let room = link.claims.len() < CLAIMS_MAX || link.claims.contains_key(&node);
        if told > Version(0) && room {
            link.claims.insert(node, Claim { told, lowest: link.chunk_low });
        }
    }

    /// A peer does not answer for a third node any more.
    pub(super) fn on_unlinked(&mut self, id: LinkId, node: NodeId, since: Version, now: Now) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let from = link.peer();
        let claim = link.claims.remove(&node);
        let lowest =
            link.chunk_low.map_or(since, |low| since.min(Version(low.0.saturating_sub(1))));
        let since = claim.map_or(lowest, |claim| claim.since().min(lowest));
        let live = self.live().any(|(_, link)| link.peer() == Some(node));
        // Of nodes that were never heard of nothing can be owed.
        if node != self.config.id && (claim.is_some() || live || self.records.knows(node)) {
            self.answer_for(node, since, from, now);
        }
    }

    /// A peer is lost, and answers for nobody any more.
    pub(super) fn lost_claims(&mut self, link: &Link, now: Now) {
        for (&node, claim) in &link.claims {
            self.answer_for(node, claim.since(), link.peer(), now);
        }
    }

    /// A node may lack what is newer than `since`, and nobody else may know: sends it, or owes it
    /// and says so.
    fn answer_for(&mut self, node: NodeId, since: Version, from: Option<NodeId>, now: Now) {
        let mut linked = false;
        for link in self.links.values_mut().filter(|link| link.is_live()) {
            let is_it = link.peer() == Some(node);
            linked |= is_it;
            if is_it || link.basis == Some(node) {
                if let Some(session) = &mut link.session {
                    session.catch_up(since, now);
                }
            }
        }
        if linked || !self.records.owe(node, since, now) {
            return;
        }
        for link in self.links.values_mut().filter(|link| link.is_live()) {
            if link.peer() != from && link.speaks_mesh {
                if let Some(session) = &mut link.session {
                    session.say_unlinked(node, since);
                }
            }
        }
    }

    /// Tells peers about each other and about this node's hope, as far as that is news. To be
    /// called when something has happened, and by time.
    pub(super) fn gossip(&mut self, now: Now) {
        let suspect_us = self.config.suspect_us();
        let mut third: Vec<(NodeId, Version, Version)> = self
            .live()
            .filter(|(_, link)| !link.is_suspect(now, suspect_us))
            .filter_map(|(_, link)| Some((link.peer()?, link.session.as_ref()?.have(), Version(0))))
            .collect();
        for (node, _, told) in &mut third {
            *told = self.told(*node);
        }
        let ids: Vec<LinkId> = self.live().map(|(id, _)| id).collect();
        for id in ids {
            self.gossip_on(id, &third, now);
            self.say_hope(id);
        }
    }

    fn gossip_on(&mut self, id: LinkId, third: &[(NodeId, Version, Version)], now: Now) {
        let Some(link) = self.links.get(&id).filter(|link| link.speaks_mesh) else { return };
        let gone = |node: &NodeId| !third.iter().any(|(other, ..)| other == node);
        let gone: Vec<NodeId> = link.said.keys().copied().filter(gone).collect();
        let ends: Vec<(NodeId, Version)> =
            gone.into_iter().map(|node| (node, self.told(node))).collect();
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(session) = &mut link.session else { return };
        for (node, since) in ends {
            if link.said.remove(&node).is_some_and(|said| said.told > Version(0)) {
                session.say_unlinked(node, since);
            }
        }
        let sent = session.sent();
        for &(node, have, told) in third {
            if session.peer() == Some(node) {
                continue;
            }
            let (at_us, said) = (now.mono_us, link.said.get(&node));
            // What has been said stands until it is taken back, even where nothing is certain.
            let least = said.is_some_and(|said| said.told > Version(0));
            let told = told.max(Version(u64::from(least)));
            let news = Said { have, told, sent, at_us };
            let due = said.is_none_or(|said| {
                let pause = match said.told {
                    Version(0) if told > Version(0) => 0,
                    before if told < before => SAY_LESS_US,
                    _ => SAY_AGAIN_US,
                };
                Said { at_us, ..*said } != news && at_us - said.at_us >= pause
            });
            if due {
                link.said.insert(node, news);
                session.say_linked(node, have, told);
            }
        }
    }

    /// What a node has of us, linked or not.
    fn told(&mut self, node: NodeId) -> Version {
        let live = self.live().find(|(_, link)| link.peer() == Some(node));
        let told = live.and_then(|(_, link)| link.session.as_ref()?.told());
        told.or_else(|| self.records.told(node)).unwrap_or_default()
    }

    /// What the hello to a peer says.
    pub(super) fn introduction(&self, to: NodeId, id: LinkId) -> Mesh {
        let answers = |source: &NodeId| {
            let link = self.live().find(|(_, link)| link.peer() == Some(*source));
            *source == to || link.is_some_and(|(_, link)| link.claims(Some(to)))
        };
        let answered = !self.mixed && self.sources.iter().all(answers);
        let made = if answered { self.made } else { Version(0) };
        Mesh { made, filler: self.filler, hope: self.hope(Some(id)) }
    }

    /// What this node owes the one that filled a peer, before it has said what it has of us.
    pub(super) fn filler_debt(&mut self, filler: Option<NodeId>) -> Option<(NodeId, Debt)> {
        let filler = filler?;
        let live = self.live().find(|(_, link)| link.peer() == Some(filler));
        let debt = match live {
            Some((_, link)) => link.session.as_ref().map(|session| session.debt()),
            None => self.records.debt(filler),
        };
        debt.map(|debt| (filler, debt))
    }
}
