//! What only meta commands ask for: gets that touch, make or win an item; deletes that leave some
//! of it.
//!
//! Owns the rules of stale items and of wins: of all who ask for an item that is stale (or soon
//! will be, or was never there), one is told to make it anew. Winning is a change: peers hear of
//! it, so that of two clients of a pair one wins once the nodes have told each other.
//!
//! ```text
//!              delete, stale                 meta get                  store
//!   item ---------------------> stale item ----------> stale, won ------------> item
//!     |  meta get, soon to expire                           ^
//!     +-----------------------> won    ---- (as it is) -----'
//! ```

use super::core::{Local, Store, FREQ_MAX};
use super::handle::{Look, Seen};
use super::index::{Locked, Place};
use super::item::{Extras, Record, Shape};
use super::segment::Open;
use super::{DeleteTerms, Deleted, Exptime, Found, GetTerms, Handle, Item, Marks};
use crate::base::clock::Now;
use crate::base::counters::Counter;

/// One meta get.
struct Get<'a> {
    store: &'a Store,
    key: &'a [u8],
    hash: u64,
    terms: &'a GetTerms,
    now: Now,
}

/// What it came upon (or made).
struct Hit {
    /// Where it has a slot: one that was made is too new to be popular.
    slot: Option<usize>,
    record: Record,
    /// The marks before this call.
    marks: Marks,
    found: Found,
    /// It was given a past exptime, and goes once it was read.
    gone: bool,
}

impl<'a> Get<'a> {
    /// Makes an empty item, and wins it.
    fn create(
        &self,
        me: &mut Local,
        (stripe, place): (&mut Locked<'_>, Place),
        exptime: Exptime,
        open: Option<&mut Open>,
    ) -> Look<Hit> {
        let (store, arena) = (self.store, &self.store.segments.arena);
        let before = Extras::of_new(self.terms.binary_key, self.terms.cas);
        let extras = Extras { marks: Marks { won: true, ..before.marks }, ..before };
        let shape = Shape { key: self.key, flags: 0, exptime, extras, vlen: 0, large: false };
        let Some(open) = store.with_room(open, shape.size()) else {
            return Look::NeedsRoom(shape.size());
        };
        let record = store.begin(open, &shape, self.now);
        let version = store.issue(me, self.hash, self.now);
        record.set_version(arena, version, false);
        store.seal_record(open, &record);
        // A remembered delete (or something dead) may still have the slot.
        let old = store.find(stripe, place, self.key);
        store.publish(stripe, place, old, &record, &me.counters);
        me.counters.add(Counter::TotalItems, 1);
        let found = Found { created: true, won: true, exptime_before: Exptime::Never };
        Look::Done(Hit { slot: None, record, marks: before.marks, found, gone: false })
    }

    /// Whether an item with these marks and this exptime is won by who asks now.
    fn wins(&self, marks: Marks, (before, after): (Exptime, Exptime)) -> bool {
        let exptime = if self.terms.recache_first { before } else { after };
        let soon = |recache: u32| matches!(exptime, Exptime::At(secs) if secs < recache);
        !marks.won && (marks.stale || self.terms.recache.is_some_and(soon))
    }

    /// Touches and marks an item that is there, as far as that is asked for.
    fn update(
        &self,
        me: &mut Local,
        stripe: &mut Locked<'_>,
        (slot, record): (usize, Record),
        open: Option<&mut Open>,
    ) -> Look<Hit> {
        let (store, arena) = (self.store, &self.store.segments.arena);
        let marks = record.extras(arena).marks;
        let exptime_before = record.exptime(arena);
        let exptime = self.terms.touch.unwrap_or(exptime_before);
        let won = self.wins(marks, (exptime_before, exptime));
        let found = Found { created: false, won, exptime_before };
        let gone = self.terms.touch.is_some() && exptime.is_past(self.now.unix_secs());
        let mut hit = Hit { slot: Some(slot), record, marks, found, gone };
        if gone {
            record.set_exptime(arena, exptime);
        } else if won || self.terms.touch.is_some() {
            let mut extras = store.keeping_cas(&record);
            extras.marks.won |= won;
            let to = (exptime, extras);
            hit.record = match store.amend(stripe, (slot, record), to, open, self.now, &me.counters)
            {
                Look::Done(record) => record,
                Look::NeedsRoom(size) => return Look::NeedsRoom(size),
            };
            store.tell_peers(me, self.hash, &hit.record, self.now);
        }
        Look::Done(hit)
    }

    /// Reads a hit, marks it as used, and lets it go where that was asked for.
    fn read<R, F: FnOnce(&Item<'_>, Found) -> R>(
        &self,
        me: &mut Local,
        stripe: &mut Locked<'_>,
        hit: &Hit,
        read: &mut Option<F>,
    ) -> Option<Seen<'a, R>> {
        let store = self.store;
        let seen = if hit.record.is_large() {
            let mut snapshot = store.snapshot(&hit.record, self.now);
            snapshot.extras.marks = hit.marks;
            Seen::Large(snapshot)
        } else {
            let item = Item { marks: hit.marks, ..store.item(&hit.record, self.now) };
            Seen::Read(read.take()?(&item, hit.found))
        };
        if !self.terms.no_update {
            hit.record.set_used(&store.segments.arena, self.now.unix_secs(), true);
            if let Some(slot) = hit.slot {
                stripe.bump(slot, FREQ_MAX);
            }
        }
        if let (true, Some(slot)) = (hit.gone, hit.slot) {
            let version = store.issue(me, self.hash, self.now);
            store.remove(stripe, slot, &hit.record, version, &me.counters);
        }
        Some(seen)
    }
}

impl Handle {
    /// Meta get: finds an item and does to it what `terms` ask for. `read` gets it with the new
    /// exptime, but with the marks and the use from before this call; it runs at once, under a lock
    /// for small items, and should copy and return. Where there is no memory for a win or a touch
    /// the item is read without it.
    ///
    /// Counts as memcached does: with a touch that hits as a touch, else as a get.
    pub fn meta_get<R>(
        &mut self,
        key: &[u8],
        terms: &GetTerms,
        now: Now,
        read: impl FnOnce(&Item<'_>, Found) -> R,
    ) -> Option<R> {
        let (store, me) = self.split();
        store.settle(now);
        let hash = store.hash(key);
        let get = Get { store, key, hash, terms, now };
        let mut read = Some(read);
        let mut found = None;
        let seen = store.look(me, hash, now, |me, stripe, place, open| {
            let hit = match (store.fetch(stripe, place, key, now, &me.counters), terms.vivify) {
                (Some(live), _) => get.update(me, stripe, live, open),
                (None, Some(exptime)) => get.create(me, (stripe, place), exptime, open),
                (None, None) => return Look::Done(None),
            };
            match hit {
                Look::NeedsRoom(size) => Look::NeedsRoom(size),
                Look::Done(hit) => {
                    found = Some(hit.found);
                    Look::Done(get.read(me, stripe, &hit, &mut read))
                }
            }
        });
        let Some(seen) = seen else {
            // No memory for what was asked.
            let read = read?;
            return store.get(me, key, now, |item| {
                let exptime_before = item.exptime;
                read(item, Found { created: false, won: false, exptime_before })
            });
        };
        let (cmd, hits) = match (found, terms.touch) {
            (Some(_), Some(_)) => (Counter::CmdTouch, Counter::TouchHits),
            (Some(_), None) => (Counter::CmdGet, Counter::GetHits),
            (None, _) => (Counter::CmdGet, Counter::GetMisses),
        };
        me.counters.add(cmd, 1);
        me.counters.add(hits, 1);
        match (seen?, read, found) {
            (Seen::Read(result), ..) => Some(result),
            (Seen::Large(snapshot), Some(read), Some(found)) => Some(read(&snapshot.item(), found)),
            (Seen::Large(_), ..) => None,
        }
    }

    /// A delete with terms that only meta commands know: it may compare, and leave a stale or an
    /// empty item behind.
    pub fn delete_with(&mut self, key: &[u8], terms: &DeleteTerms, now: Now) -> Deleted {
        let (store, me) = self.split();
        store.settle(now);
        let hash = store.hash(key);
        let arena = &store.segments.arena;
        let done = store.look(me, hash, now, |me, stripe, place, open| {
            let Some((slot, old)) = store.fetch(stripe, place, key, now, &me.counters) else {
                me.counters.add(Counter::DeleteMisses, 1);
                return Look::Done(Deleted::NotFound);
            };
            if terms.compare.is_some_and(|compare| compare != old.cas(arena)) {
                me.counters.add(Counter::DeleteMisses, 1);
                return Look::Done(Deleted::Exists);
            }
            if terms.remove_value {
                let shape = terms.remains(key, old.cas(arena));
                let Some(open) = store.with_room(open, shape.size()) else {
                    return Look::NeedsRoom(shape.size());
                };
                let record = store.begin(open, &shape, now);
                record.set_version(arena, store.issue(me, hash, now), false);
                store.seal_record(open, &record);
                store.publish(stripe, place, Some((slot, old)), &record, &me.counters);
                me.counters.add(Counter::TotalItems, 1);
            } else if terms.stale {
                let Extras { marks, .. } = old.extras(arena);
                let marks = Marks { stale: true, won: false, ..marks };
                let exptime = terms.exptime.unwrap_or(old.exptime(arena));
                let to = (exptime, Extras { marks, cas: terms.cas });
                let record = match store.amend(stripe, (slot, old), to, open, now, &me.counters) {
                    Look::Done(record) => record,
                    Look::NeedsRoom(size) => return Look::NeedsRoom(size),
                };
                record.set_version(arena, store.issue(me, hash, now), false);
            } else {
                let version = store.issue(me, hash, now);
                store.remove(stripe, slot, &old, version, &me.counters);
            }
            if !terms.stale {
                me.counters.add(Counter::DeleteHits, 1);
            }
            Look::Done(Deleted::Deleted)
        });
        done.unwrap_or(Deleted::OutOfMemory)
    }
}

impl DeleteTerms {
    /// The empty item that is left of one with this CAS unique.
    fn remains<'k>(&self, key: &'k [u8], cas: u64) -> Shape<'k> {
        let keep = if self.stale { None } else { Some(cas) };
        let mut extras = Extras::of_new(self.binary_key, self.cas.or(keep));
        extras.marks.stale = self.stale;
        let exptime = self.exptime.unwrap_or(Exptime::Never);
        Shape { key, flags: self.flags, exptime, extras, vlen: 0, large: false }
    }
}
