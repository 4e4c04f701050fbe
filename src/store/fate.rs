//! Fates: what becomes of each record of a segment that is reclaimed.
//!
//! Owns the decision, and the moving, dropping and forgetting of single records, each under its
//! key's stripe lock. Which segment it is, and when, is decided in `evict`; what an item must be
//! used to stay, in `popular`.
//!
//! ```text
//!                 dead: nothing leads here          -> passed over
//!                 flushed, expired, old tombstone   -> unlinked
//!  a record of    young tombstone                   -> moves, without a value
//!  the victim     compacted                         -> moves, as popular as it was
//!                 small queue: used, or a ghost     -> moves to main
//!                 main queue: reaches the bar       -> moves to main's end, a round older
//!                 any other                         -> evicted, and remembered as a ghost
//! ```

use super::core::{mono_secs, Status, Store};
use super::evict::{Reclaimer, Victim, Why};
use super::index::{Locked, GHOSTS_MAX};
use super::item::{Record, Shape};
use super::popular::Popularity;
use super::segment::{Class, Open};
use crate::base::clock::Now;
use crate::base::counters::{ClassCounter, Counter, Counters};

/// So many segments in a row may move on whole because everything in them is in use. That is the
/// most that is copied before a segment becomes free.
const KEEP_RUN: u32 = 24;
/// From then on at most this part (in eighths) of each moves on, until a whole segment was gained.
const KEEP_EIGHTHS: usize = 6;

/// Bytes per slot from which two ghosts for each are less than a hundredth of the memory.
const LARGE_ENOUGH: u64 = 400;

/// What becomes of a live record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It moves, and is then as popular as this.
    Move(Popularity),
    /// It goes, and this popular it is remembered.
    Drop(Popularity),
}

impl Store {
    /// Makes certain that survivors of a queue have room for `size` bytes.
    fn survivor_room(
        &self,
        reclaimer: &mut Reclaimer,
        class: Class,
        size: usize,
        now: Now,
    ) -> bool {
        let slot = reclaimer.slot(class);
        if slot.as_ref().is_some_and(|open| self.segments.room(open) >= size) {
            return true;
        }
        if let Some(open) = slot.take() {
            self.segments.seal(open, class, true);
        }
        *slot = self.segments.take(self.off_arena(), 0, self.watermark(), mono_secs(now));
        slot.is_some()
    }

    /// The queue that survivors of this victim go to.
    fn target(victim: &Victim) -> Class {
        match victim.why {
            Why::Compact => victim.class,
            Why::Evict => Class::Main,
        }
    }

    /// What becomes of an item of `size` bytes that is alive, or of that many bytes of it.
    fn fate(
        &self,
        reclaimer: &mut Reclaimer,
        victim: &mut Victim,
        room: bool,
        popularity: Popularity,
        (item, size): (usize, usize),
    ) -> Fate {
        let capacity = self.segments.capacity();
        let limit = if reclaimer.run < KEEP_RUN { capacity } else { capacity / 8 * KEEP_EIGHTHS };
        let fits = room && victim.kept + size <= limit;
        let (stays, popularity) = match (victim.why, victim.class) {
            (Why::Compact, _) => {
                return if room { Fate::Move(popularity) } else { Fate::Drop(popularity) };
            }
            (Why::Evict, Class::Small) => (popularity != Popularity::NEW, popularity.promoted()),
            (Why::Evict, Class::Main) => {
                let aged = popularity.aged();
                let stays = reclaimer.bar.lets_stay(aged, item);
                victim.seen += size;
                victim.worthy += if stays { size } else { 0 };
                (stays, aged)
            }
        };
        if stays && fits {
            Fate::Move(popularity)
        } else {
            Fate::Drop(popularity)
        }
    }

    /// Evicted keys that are remembered for each slot of the index. Twice as many win a hundredth
    /// of the hits on recorded traces; where items are small they would cost as many.
    fn ghosts_per_slot(&self) -> usize {
        let items = u64::from(self.segments.allocated()) * self.segments.size() as u64;
        let slots = self.index.bytes() / 8;
        if items >= slots * LARGE_ENOUGH {
            GHOSTS_MAX
        } else {
            1
        }
    }

    /// Bytes of an item, near enough to compare it with others.
    fn weight(&self, record: &Record) -> usize {
        if record.is_large() {
            self.total_len(record)
        } else {
            record.size()
        }
    }

    /// Moves, drops or forgets one item. False when it must stay but cannot move.
    pub(super) fn reclaim_item(
        &self,
        reclaimer: &mut Reclaimer,
        victim: &mut Victim,
        record: &Record,
        now: Now,
        counters: &Counters,
    ) -> bool {
        let arena = &self.segments.arena;
        let class = Self::target(victim);
        let room = self.survivor_room(reclaimer, class, record.size(), now);
        let (mut stripe, place) = self.lock(self.hash(record.key(arena)));
        let location = self.segments.location(record.at);
        let Some(slot) = stripe.find(place.tag, |found| found == location) else {
            return true;
        };
        match self.status(record, now) {
            Status::Flushed => self.reclaim_flushed(&mut stripe, slot, record, now, counters),
            Status::Expired => self.reclaim_expired(&mut stripe, slot, record, now, counters),
            Status::Live | Status::Deleted => {}
        }
        // An expired item may have become a remembered delete, which lives on.
        let Some(slot) = stripe.find(place.tag, |found| found == location) else {
            return true;
        };
        let (version, deleted) = record.version(arena);
        if deleted {
            if self.is_too_old(version, now) || !room || self.too_many_tombstones() {
                self.forget(record, version);
                self.unlink(&mut stripe, slot, record, counters);
                return true;
            }
            return self.move_tombstone(reclaimer, class, &mut stripe, slot, record, now);
        }
        let popularity = stripe.popularity(slot);
        let sizes = (self.weight(record), record.size());
        match self.fate(reclaimer, victim, room, popularity, sizes) {
            Fate::Drop(_) if !self.config.evict => return false,
            Fate::Drop(was) => self.evict(&mut stripe, slot, was, record, now, counters),
            Fate::Move(popularity) => {
                let Some(open) = reclaimer.slot(class) else { return false };
                // It may move to where the sweep has been already.
                record.age(arena, now.unix_secs());
                let to = self.copy_record(open, record);
                stripe.set(slot, popularity, self.segments.location(to.at));
                self.note_due(&to);
                self.segments.meta(victim.segment).sub_live(record.size());
                victim.kept += record.size();
                counters.add(Counter::Moved, 1);
                self.class_counts(record, ClassCounter::Moved, counters);
            }
        }
        true
    }

    /// Drops a live item for room.
    fn evict(
        &self,
        stripe: &mut Locked<'_>,
        slot: usize,
        was: Popularity,
        record: &Record,
        now: Now,
        counters: &Counters,
    ) {
        let (class, _) = self.class_of(record);
        counters.add(Counter::Evictions, 1);
        counters.add_class(class, ClassCounter::Evicted, 1);
        if record.has_exptime() {
            counters.add_class(class, ClassCounter::EvictedNonzero, 1);
        }
        if !record.fetched(&self.segments.arena) {
            counters.add(Counter::EvictedUnfetched, 1);
            counters.add_class(class, ClassCounter::EvictedUnfetched, 1);
        }
        if stripe.popularity(slot).is_used() {
            counters.add(Counter::EvictedActive, 1);
            counters.add_class(class, ClassCounter::EvictedActive, 1);
        }
        self.tell_evicted(record, now);
        if let Some(horizon) = &self.horizon {
            let arena = &self.segments.arena;
            horizon.evict(self.hash(record.key(arena)), record.version(arena).0);
        }
        stripe.haunt(slot, was.level(), self.ghosts_per_slot(), record.size());
        self.unlink(stripe, slot, record, counters);
    }

    /// Counts a dead item whose memory is taken back, or whose place a new one takes.
    pub(super) fn count_reclaimed(&self, record: &Record, now: Now, counters: &Counters) {
        if matches!(self.status(record, now), Status::Expired | Status::Flushed)
            && !record.version(&self.segments.arena).1
        {
            counters.add(Counter::Reclaimed, 1);
            self.class_counts(record, ClassCounter::Reclaimed, counters);
        }
    }

    /// Takes the memory of an item back that was flushed.
    pub(super) fn reclaim_flushed(
        &self,
        stripe: &mut Locked<'_>,
        slot: usize,
        record: &Record,
        now: Now,
        counters: &Counters,
    ) {
        self.count_reclaimed(record, now, counters);
        self.unlink(stripe, slot, record, counters);
    }

    /// Takes the memory of an item back that has expired, and counts it as memcached does.
    pub(super) fn reclaim_expired(
        &self,
        stripe: &mut Locked<'_>,
        slot: usize,
        record: &Record,
        now: Now,
        counters: &Counters,
    ) {
        let (class, _) = self.class_of(record);
        counters.add(Counter::Reclaimed, 1);
        counters.add_class(class, ClassCounter::Reclaimed, 1);
        if !record.fetched(&self.segments.arena) {
            counters.add(Counter::ExpiredUnfetched, 1);
            counters.add_class(class, ClassCounter::ExpiredUnfetched, 1);
        }
        self.drop_expired(stripe, slot, record, now, counters);
    }

    /// Copies a record to the end of an open segment that has room for it.
    fn copy_record(&self, open: &mut Open, record: &Record) -> Record {
        let arena = &self.segments.arena;
        let at = self.segments.next_at(open);
        arena.put(at, arena.bytes(record.at, record.size()));
        self.segments.advance(open, record.size());
        Record::read(arena, at)
    }

    /// A remembered delete moves without the bytes of what it deleted.
    fn move_tombstone(
        &self,
        reclaimer: &mut Reclaimer,
        class: Class,
        stripe: &mut Locked<'_>,
        slot: usize,
        record: &Record,
        now: Now,
    ) -> bool {
        let arena = &self.segments.arena;
        let Some(open) = reclaimer.slot(class) else { return false };
        let key = record.key(arena);
        let to = self.begin(open, &Shape::tombstone(key), now);
        to.set_version(arena, record.version(arena).0, true);
        self.seal_record(open, &to);
        self.note_due(&to);
        stripe.set(slot, Popularity::NEW, self.segments.location(to.at));
        self.segments.meta_at(record.at).sub_live(record.tombstone_size());
        true
    }

    /// Moves a chunk of a large value, or drops the item it belongs to.
    pub(super) fn reclaim_chunk(
        &self,
        reclaimer: &mut Reclaimer,
        victim: &mut Victim,
        chunk: &Record,
        now: Now,
        counters: &Counters,
    ) -> bool {
        let arena = &self.segments.arena;
        let class = Self::target(victim);
        let room = self.survivor_room(reclaimer, class, chunk.size(), now);
        let (mut stripe, place) = self.lock(chunk.owner(arena));
        let mut head = None;
        let slot = stripe.find(place.tag, |location| {
            let record = self.record(location);
            let (_, deleted) = record.version(arena);
            let owns = record.is_large() && !deleted && self.owns(&record, chunk);
            head = owns.then_some(record);
            owns
        });
        let (Some(slot), Some(head)) = (slot, head) else { return true };
        match self.status(&head, now) {
            Status::Flushed => self.reclaim_flushed(&mut stripe, slot, &head, now, counters),
            Status::Expired => self.reclaim_expired(&mut stripe, slot, &head, now, counters),
            Status::Live | Status::Deleted => {
                let popularity = stripe.popularity(slot);
                let sizes = (self.weight(&head), chunk.size());
                match self.fate(reclaimer, victim, room, popularity, sizes) {
                    Fate::Drop(_) if !self.config.evict => return false,
                    Fate::Drop(was) => self.evict(&mut stripe, slot, was, &head, now, counters),
                    Fate::Move(_) => {
                        let Some(open) = reclaimer.slot(class) else { return false };
                        let to = self.copy_record(open, chunk);
                        self.move_extent(&head, chunk, &to);
                        self.segments.meta(victim.segment).sub_live(chunk.size());
                        victim.kept += chunk.size();
                        counters.add(Counter::Moved, 1);
                    }
                }
            }
        }
        true
    }
}
