//! How a node that starts is filled, and when clients may come.
//!
//! Owns the choice of the peer that fills this node, and the hope of nodes that wait for each
//! other. Never dials by itself: it says when and whom.
//!
//! ```text
//!   targets in order, the next one when the one before has answered or has not for a while
//!      |
//!      +-- nobody, hung, broken ---> the next
//!      +-- cold, too --------------> stays linked, and the next
//!      `-- filled -----------------> the one copy; the others later
//!
//!   cold nodes:   d --waits for--> c --> b --copy--> a (filled)
//!                   hope: 3         2     1
//! ```
//!
//! A node serves when it has had a copy from a filled peer, or when a cold peer that it has copied
//! says that it is filled now, or when there is no hope: nobody to try, and no cold peer with any
//! hope of its own. Hope is a distance. Cold nodes in a ring that have nobody but each other count
//! it up to [`HOPE_MAX`] within a few turns, and then serve, all of them.

use super::action::{Action, LinkId};
use super::dial::Outcome;
use super::link::Link;
use super::mesh::Claim;
use super::node::{Listening, Node};
use super::wire::native::{HOPE_FILLED, HOPE_MAX, HOPE_NONE};
use super::{NodeId, Role};
use crate::base::clock::Now;
use crate::store::Version;
use std::collections::BTreeMap;

/// How long a target has to answer before a node that waits to be filled tries the next as well.
pub(super) const STAGGER_US: u64 = 250_000;

impl Node {
    /// Whether this node waits to be filled and is being filled.
    pub(super) fn is_filling(&self) -> bool {
        !self.serving && self.filling.is_some()
    }

    /// Whether a filled peer has come too soon: this node is being filled, or has dialled, and what
    /// it is given over its own links comes first.
    pub(super) fn has_better(&self, role: Role) -> bool {
        let tries = |link: &Link| link.role == Role::Connector && !link.quiet && !link.is_live();
        let dialled = role == Role::Listener && self.links.values().any(tries);
        self.is_filling() || (!self.serving && dialled)
    }

    /// Something may yet come of what this node tries itself.
    fn own_hope(&self) -> bool {
        let settled = |target: usize| {
            let linked = self.link_of(target);
            linked.is_some_and(|(_, link)| link.hope != HOPE_FILLED && link.is_copied())
        };
        self.filling.is_some()
            || self.listening == Listening::Asked
            || (0..self.targets.len()).any(|at| !self.targets[at].hopeless && !settled(at))
    }

    /// How far this node is from being filled, as a peer on that link is told.
    pub(super) fn hope(&self, except: Option<LinkId>) -> u8 {
        if self.serving {
            return HOPE_FILLED;
        }
        if self.own_hope() {
            return 1;
        }
        let others = self.live().filter(|(id, _)| Some(*id) != except);
        let nearest = others.map(|(_, link)| link.hope).filter(|&hope| hope != HOPE_FILLED).min();
        nearest.filter(|&hope| hope < HOPE_MAX).map_or(HOPE_NONE, |hope| hope + 1)
    }

    /// Tells a peer of this node's hope, where that has changed.
    pub(super) fn say_hope(&mut self, id: LinkId) {
        let hope = self.hope(Some(id));
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.speaks_mesh && link.hope_said != hope {
            link.hope_said = hope;
            if let Some(session) = &mut link.session {
                session.say_hope(hope);
            }
        }
    }

    /// A peer tells of its hope.
    pub(super) fn on_hope(&mut self, id: LinkId, hope: u8) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.hope = hope;
        // All it holds has been sent before: its copy, and behind that what it was filled with.
        if hope == HOPE_FILLED && link.is_copied() {
            self.filled = true;
        }
        self.maybe_serve();
    }

    /// A filled peer is linked: it is the one that fills this node. Other tries are given up.
    pub(super) fn fill_from(&mut self, id: LinkId, now: Now) {
        self.filling = Some(id);
        self.fill_haves.clear();
        let filler = self.links.get(&id).and_then(|link| link.peer());
        // Where both ends have dialled, which of the links stays is decided at the second hello.
        let given_up = |link: &Link| {
            link.target.is_some()
                && !link.is_live()
                && (link.peer().is_none() || link.peer() != filler)
        };
        let tries: Vec<LinkId> =
            self.links.iter().filter(|(_, link)| given_up(link)).map(|(&id, _)| id).collect();
        for other in tries.into_iter().filter(|&other| other != id) {
            let Some(link) = self.links.remove(&other) else { continue };
            self.actions.push_back(Action::Close { link: other, last: Vec::new() });
            self.dial_ended(&link, Outcome::Duplicate, "", now);
        }
    }

    /// All that was wanted of a peer has come.
    pub(super) fn copied(&mut self, id: LinkId, now: Now) {
        if self.filling == Some(id) {
            self.filling = None;
            self.filled = true;
            self.filler = self.links.get(&id).and_then(|link| link.peer());
            if let Some(filler) = self.filler {
                for (node, have) in std::mem::take(&mut self.fill_haves) {
                    self.records.vouch(node, have, filler, now);
                }
            }
            let claims = self.links.get(&id).map(|link| link.claims.clone()).unwrap_or_default();
            self.tell_filled(id, &claims, now);
            let random = self.random();
            self.targets.iter_mut().for_each(|target| target.soon(now.mono_us, random));
        }
        self.maybe_serve();
    }

    /// The copy is over, complete or not: others that are linked hear of it, unless the one that
    /// gave it answers for them.
    pub(super) fn tell_filled(&mut self, from: LinkId, claims: &BTreeMap<NodeId, Claim>, now: Now) {
        for (_, link) in self.links.iter_mut().filter(|(&id, link)| id != from && link.is_live()) {
            let claimed = link.peer().is_some_and(|peer| claims.contains_key(&peer));
            if let Some(session) = link.session.as_mut().filter(|_| !claimed) {
                session.catch_up(Version(0), now);
            }
        }
    }

    /// Clients may come when this node is filled, or when there is no hope that it will be.
    pub(super) fn maybe_serve(&mut self) {
        if self.serving || self.stopping || (!self.filled && self.hope(None) != HOPE_NONE) {
            return;
        }
        self.serving = true;
        self.actions.push_back(Action::Serve);
    }

    /// The target that a node that waits to be filled tries next, in their order.
    pub(super) fn next_untried(&self) -> Option<usize> {
        self.targets.iter().position(|target| !target.tried)
    }

    /// The target before the next one has been tried for long enough.
    pub(super) fn next_target_now(&mut self, now: Now) {
        self.stagger_us = self.stagger_us.min(now.mono_us);
    }
}
