//! Members of a place: which one is written, which one is read, and who is next when one is lost.
//!
//! Owns the choice. A place with several members is a group of twincached nodes that hold the same
//! and tell each other what is written.
//!
//! ```text
//!   write:  the first living member, in the order of the list: all workers choose alike (but for
//!           a key that another one was given while that one was away, a moment ago)
//!   read:   written within the last second?  where it was written
//!           else                             the nearest living member
//!   lost:   what does the same when it is done twice, and what was never sent: the next living
//!           member, at once; what may have been done: an error that says so
//! ```
//!
//! Of one client's requests that are under way at once, a read and a later write of the same key
//! may be at different members: the read may then show what the write did. Whoever waits for the
//! answer before he writes never sees that, and reads behind a write always show it.
//!
//! The nearest is who answers `version` soonest: every member is asked once a second, so that one
//! that nobody reads from is known too. Another becomes the nearest only when it is clearly nearer.

use super::super::backend::Usable;
use super::super::recent::Written;
use super::places::{BackendId, PlaceId, Role};
use super::Relay;
use crate::base::clock::Now;
use crate::base::hash::hash_key;

/// The client's answer when a member was lost that may have done it, and another may not do it too.
pub const LOST: &[u8] =
    b"SERVER_ERROR the server was lost, it is not known whether it did this\r\n";
/// Wait between two looks at the members of groups, in microseconds.
const LOOK_US: u64 = 1_000_000;
/// The same while the distance of some living member is not known.
const FIRST_LOOK_US: u64 = 100_000;
/// How long after a member's return a key that is being written elsewhere stays there, in
/// microseconds: most keys rest for the second in which members tell each other, and then change
/// over without a write being overtaken. Longer would keep proxies that saw the loss apart from
/// those that did not.
const CHANGE_OVER_US: u64 = 10_000_000;
/// A member is nearer only by more than this, in microseconds: below is noise.
const NEARER_US: u64 = 300;

impl Relay {
    /// Whether a place has several members.
    pub(super) fn is_group(&self, place: PlaceId) -> bool {
        self.places[place].members.len() > 1
    }

    fn lives(&self, id: BackendId) -> bool {
        self.backends[id].usable() != Usable::Down
    }

    /// The member of a place that writes go to.
    pub(super) fn writer(&self, place: PlaceId) -> BackendId {
        let members = &self.places[place].members;
        members.iter().copied().find(|&id| self.lives(id)).unwrap_or(members[0])
    }

    /// The member of a place that `key` is written on.
    pub(super) fn key_writer(&self, place: PlaceId, key: &[u8]) -> BackendId {
        let first = self.writer(place);
        let members = &self.places[place].members;
        let now_us = self.last_now.mono_us;
        let back = self.backends[first].returned_at();
        if members.len() == 1 || back.is_none_or(|at| now_us >= at + CHANGE_OVER_US) {
            return first;
        }
        match self.guard.recent().written(now_us, hash(self.places[place].role, key)) {
            Written::On(n) if n < members.len() && self.lives(members[n]) => members[n],
            _ => first,
        }
    }

    /// The first living member of a place that is not among `tried`, by their numbers in it.
    pub(super) fn next_writer(&self, place: PlaceId, tried: u16) -> Option<BackendId> {
        let mut members = self.places[place].members.iter().copied().enumerate();
        members.find(|&(n, id)| tried & 1 << n == 0 && self.lives(id)).map(|(_, id)| id)
    }

    /// A member as a bit, for [`Relay::next_writer`].
    pub(super) fn member_bit(&self, place: PlaceId, id: BackendId) -> u16 {
        let at = self.places[place].members.iter().position(|&member| member == id);
        at.map_or(0, |n| 1 << n)
    }

    /// The member of a place that `key` is read from.
    pub(super) fn reader(&self, place: PlaceId, key: &[u8]) -> BackendId {
        let members = &self.places[place].members;
        if let [only] = members[..] {
            return only;
        }
        let recent = self.guard.recent();
        match recent.written(self.last_now.mono_us, hash(self.places[place].role, key)) {
            Written::On(n) if n < members.len() && self.lives(members[n]) => members[n],
            Written::Somewhere => self.writer(place),
            _ => self.nearest(place, None),
        }
    }

    /// A living member of the same group as one that was lost: later in the list, so that whoever
    /// goes on from there comes to an end.
    pub(super) fn other_member(&self, lost: BackendId) -> Option<BackendId> {
        let members = self.places.iter().map(|(_, place)| &place.members);
        let group = members.filter(|members| members.len() > 1).find(|m| m.contains(&lost))?;
        let after = group.iter().skip_while(|&&id| id != lost).skip(1);
        after.copied().find(|&id| self.lives(id))
    }

    /// The nearest living member but `but`.
    pub(super) fn nearest(&self, place: PlaceId, but: Option<BackendId>) -> BackendId {
        let place = &self.places[place];
        let near = place.members[place.nearest];
        if self.lives(near) && Some(near) != but {
            return near;
        }
        let living = place.members.iter().copied().filter(|&id| self.lives(id) && Some(id) != but);
        living.min_by_key(|&id| self.backends[id].distance_us()).unwrap_or(near)
    }

    /// Who is read from after `from` was lost, when so many were before.
    pub(super) fn next_reader(
        &self,
        place: PlaceId,
        from: BackendId,
        hops: usize,
    ) -> Option<BackendId> {
        let members = self.places[place].members.len();
        if members == 1 || hops + 1 >= members {
            return None;
        }
        let next = self.nearest(place, Some(from));
        (next != from && self.lives(next)).then_some(next)
    }

    /// `key` is being written on a member of a place, or has been.
    pub(super) fn wrote(&self, place: PlaceId, key: &[u8], id: BackendId) {
        if self.look_at.is_none() {
            return;
        }
        let Some(members) = self.places.get(place).map(|place| &place.members) else { return };
        if let (true, Some(n)) = (members.len() > 1, members.iter().position(|&m| m == id)) {
            self.guard.recent().wrote(self.last_now.mono_us, hash(self.places[place].role, key), n);
        }
    }

    /// A turn begins.
    pub(super) fn tick_groups(&mut self, now: Now) {
        if self.look_at.is_some_and(|at| now.mono_us >= at) {
            self.look_at_members(now);
        }
    }

    /// Asks every member how near it is, and chooses among those that have answered before.
    fn look_at_members(&mut self, now: Now) {
        let mut unknown = false;
        let groups: Vec<PlaceId> =
            self.places.iter().filter(|(_, p)| p.members.len() > 1).map(|(id, _)| id).collect();
        for &place in &groups {
            for n in 0..self.places[place].members.len() {
                let id = self.places[place].members[n];
                self.backends[id].measure(now);
                unknown |= self.lives(id) && self.backends[id].distance_us() == u64::MAX;
            }
            self.choose_nearest(place);
        }
        let wait = if unknown { FIRST_LOOK_US } else { LOOK_US };
        self.look_at = (!groups.is_empty()).then_some(now.mono_us + wait);
    }

    fn choose_nearest(&mut self, place: PlaceId) {
        let Self { places, backends, .. } = self;
        let place = &mut places[place];
        let distance = |n: usize| match &backends[place.members[n]] {
            member if member.usable() == Usable::Down => u64::MAX,
            member => member.distance_us(),
        };
        let best = (0..place.members.len()).min_by_key(|&n| distance(n)).unwrap_or(0);
        let present = distance(place.nearest);
        let margin = NEARER_US.max(present / 4);
        if distance(best).saturating_add(margin) < present {
            place.nearest = best;
        }
    }
}

/// One place in the table for servers, and another for backups.
fn hash(role: Role, key: &[u8]) -> u64 {
    let hash = hash_key(0, key);
    match role {
        Role::Server => hash,
        Role::Backup => !hash,
    }
}
