//! Housekeeping: memory of expired, flushed and forgotten items comes back without being touched.
//!
//! Owns the background sweep and [`Handle::maintain`], which also keeps segments free ahead of
//! demand and the index small. Every step is bounded by a number of records. Never moves an item:
//! it makes the bytes of dead ones known, and reclaim does the rest.
//!
//! A sealed segment knows when its next record expires. The sweep goes round, and walks a segment
//! when that moment has passed, but not the same one twice within [`SWEEP_EVERY_SECS`]: memory is
//! back within twice of that. Apart from that it walks all segments every [`AGE_EVERY_SECS`], so
//! that items keep to know how long ago they were used.

use super::ahead::Ahead;
use super::core::{lock, mono_secs, Status, Store};
use super::evict::{Reclaimer, Step};
use super::item::{Record, COARSE_AFTER};
use super::segment::Class;
use super::{Handle, Maintained, Version};
use crate::base::clock::Now;
use crate::base::counters::{ClassCounter, Counters};
use std::sync::atomic::Ordering;

/// A segment is walked at most once in this time, however many of its items expire one by one.
const SWEEP_EVERY_SECS: u32 = 2;
/// How often all items are looked at for when they were used. An item that is just too young for
/// [`COARSE_AFTER`] must be seen again before its time runs over, with a quarter of an hour to
/// spare.
const AGE_EVERY_SECS: u32 = 6000;
const _: () = assert!(COARSE_AFTER + AGE_EVERY_SECS + 900 < 15 << 10);
/// Records that the sweep may walk in a second: about 2 % of a core.
const SWEEP_PER_SEC: u64 = 1_000_000;
/// What has expired pays for looking at it, and at so many others: memory that can be had comes
/// back as fast as the processor allows.
const EXPIRED_PAYS: u64 = 4;
/// Records that it may walk at once after a rest.
const SWEEP_BURST: u64 = 1_000_000;
/// Segments whose due time is looked at in one step.
const LOOK: u32 = 1024;
/// Stripes that are looked at for a table that became too large in one step: this part of all, and
/// within these bounds. A step then takes less than a millisecond, and ten in a second see them all
/// in ten where memory is below 32 GB.
const SHRINK_SHARE: usize = 64;
const SHRINK_MIN: usize = 64;
const SHRINK_MAX: usize = 1024;
/// Records of one hold of the reclaim lock, which no writer waits for while anything is free.
const HOLD: usize = 128;

/// A segment that is being walked.
#[derive(Clone, Copy, Debug)]
struct Walk {
    segment: u32,
    /// How often it had been sealed then: another number means other contents.
    sealing: u32,
    at: u32,
    /// The flush watermark when the walk began.
    watermark: Version,
    /// All of its records are looked at, not only those that may be dead.
    ages: bool,
}

/// Where the sweep stands.
#[derive(Debug)]
pub(super) struct Sweep {
    walking: Option<Walk>,
    cursor: u32,
    /// When the last walk for ages began, and the segment that it goes on with.
    aged_at: u32,
    age_cursor: u32,
    stripe: usize,
    tokens: u64,
    filled_us: u64,
}

impl Sweep {
    /// A sweep that starts at the first segment.
    pub fn new(now: Now) -> Sweep {
        Sweep {
            walking: None,
            cursor: 0,
            aged_at: mono_secs(now),
            age_cursor: u32::MAX,
            stripe: 0,
            tokens: SWEEP_BURST,
            filled_us: now.mono_us,
        }
    }

    fn refill(&mut self, now: Now) {
        let us = now.mono_us.saturating_sub(self.filled_us).min(1_000_000);
        let earned = us * SWEEP_PER_SEC / 1_000_000;
        if earned > 0 {
            self.tokens = (self.tokens + earned).min(SWEEP_BURST);
            self.filled_us = now.mono_us;
        }
    }
}

impl Store {
    /// Whether the segment has something to sweep, and was not swept just now.
    fn wants_sweep(&self, segment: u32, now: Now) -> bool {
        let meta = self.segments.meta(segment);
        let flushed = meta.swept.load(Ordering::Relaxed) < self.watermark().0;
        let rested = self.rested(segment, SWEEP_EVERY_SECS, now);
        let rested = rested || self.is_crawling();
        // The lifetime of deletes was cut short: segments do not know that from their due time.
        let cut = self.too_many_tombstones();
        flushed || (rested && (cut || meta.due() <= now.unix_secs()))
    }

    /// Whether so many seconds have passed since the segment was opened or swept.
    fn rested(&self, segment: u32, secs: u32, now: Now) -> bool {
        let since = self.segments.meta(segment).swept_at.load(Ordering::Relaxed);
        mono_secs(now).wrapping_sub(since) >= secs
    }

    /// Once per round: halves the lifetime of remembered deletes while they are too many, and gives
    /// it back while they are few. So the oldest go first.
    fn adapt_tombstones(&self) {
        let life = self.tombstone_life.load(Ordering::Relaxed);
        let changed = if self.too_many_tombstones() {
            life / 2
        } else if self.few_tombstones() {
            life.saturating_mul(2).saturating_add(1).min(self.config.tombstone_secs)
        } else {
            life
        };
        self.tombstone_life.store(changed, Ordering::Relaxed);
    }

    /// The next segment of a walk for ages, if there is one among the next few.
    fn next_aging(&self, sweep: &mut Sweep, now: Now) -> Option<(u32, u32)> {
        if mono_secs(now).wrapping_sub(sweep.aged_at) >= AGE_EVERY_SECS {
            sweep.aged_at = mono_secs(now);
            sweep.age_cursor = 0;
        }
        for _ in 0..LOOK {
            let segment = sweep.age_cursor;
            if segment >= self.segments.count() {
                return None;
            }
            sweep.age_cursor += 1;
            if let Some(sealing) = self.segments.sealing(segment) {
                return Some((segment, sealing));
            }
        }
        None
    }

    /// Has the sweep go round once more, now and however lately it was anywhere.
    pub fn crawl(&self) {
        // One more than there are: a segment is walked before the next one is looked at.
        self.crawl_left.store(self.segments.count() + 1, Ordering::Relaxed);
    }

    /// Whether a sweep that [`Store::crawl`] asked for is under way.
    pub fn is_crawling(&self) -> bool {
        self.crawl_left.load(Ordering::Relaxed) > 0
    }

    /// Frees a sealed segment in which nothing is alive any more: what died was perhaps found from
    /// elsewhere, as chunks are. False when it is not one. Under the reclaimer's lock.
    fn free_dead(&self, segment: u32) -> bool {
        let meta = self.segments.meta(segment);
        let dead = meta.live() == 0 && self.segments.claim_dead(segment);
        if dead {
            self.segments.free(segment, self.off_arena());
        }
        dead
    }

    /// The next segment to sweep, if there is one among the next few.
    fn next_sweep(&self, sweep: &mut Sweep, now: Now) -> Option<(u32, u32)> {
        for _ in 0..LOOK.min(self.segments.count()) {
            let segment = sweep.cursor;
            sweep.cursor = (sweep.cursor + 1) % self.segments.count();
            if self.is_crawling() {
                self.crawl_left.fetch_sub(1, Ordering::Relaxed);
            }
            if sweep.cursor == 0 {
                self.adapt_tombstones();
            }
            if self.free_dead(segment) {
                continue;
            }
            if self.wants_sweep(segment, now) {
                if let Some(sealing) = self.segments.sealing(segment) {
                    return Some((segment, sealing));
                }
            }
        }
        None
    }

    /// One step of the sweep. True when there is more to do right away.
    fn sweep(
        &self,
        reclaimer: &mut Reclaimer,
        budget: &mut usize,
        now: Now,
        counters: &Counters,
    ) -> bool {
        reclaimer.sweep.refill(now);
        // What was walked half may have been reclaimed meanwhile, or is about to be and then comes
        // back: what it has not been looked at for is still due.
        let current = |walk: &Walk| self.segments.sealing(walk.segment) == Some(walk.sealing);
        let mut walk = match reclaimer.sweep.walking.take() {
            Some(walk) if current(&walk) => walk,
            lost => {
                if let Some(Walk { segment, .. }) = lost {
                    self.segments.meta(segment).expires(0);
                }
                let aging = self.next_aging(&mut reclaimer.sweep, now);
                let ages = aging.is_some();
                let next = aging.or_else(|| self.next_sweep(&mut reclaimer.sweep, now));
                let Some((segment, sealing)) = next else { return false };
                self.segments.meta(segment).forget_due();
                let (at, watermark) = (self.segments.first(), self.watermark());
                Walk { segment, sealing, at, watermark, ages }
            }
        };
        let Walk { segment, watermark, .. } = walk;
        let meta = self.segments.meta(segment);
        let all =
            walk.ages || self.config.replicated || meta.swept.load(Ordering::Relaxed) < watermark.0;
        let mut ahead = Ahead::new(segment, walk.at, *budget);
        while walk.at < meta.used() && meta.live() > 0 {
            if *budget == 0 || reclaimer.sweep.tokens == 0 {
                reclaimer.sweep.walking = Some(walk);
                return *budget == 0;
            }
            *budget -= 1;
            reclaimer.sweep.tokens -= 1;
            self.look_ahead(&mut ahead, meta.used(), |record| all || record.has_exptime());
            let offset = self.segments.offset_in(segment, walk.at);
            let record = Record::read(&self.segments.arena, offset);
            if !record.is_chunk() && (all || record.has_exptime()) {
                let expired = self.sweep_record(&record, now, counters);
                let paid = if expired { EXPIRED_PAYS } else { 0 };
                reclaimer.sweep.tokens = (reclaimer.sweep.tokens + paid).min(SWEEP_BURST);
            }
            walk.at = self.segments.next(walk.at, record.size());
        }
        meta.swept_at.store(mono_secs(now), Ordering::Relaxed);
        meta.swept.fetch_max(watermark.0, Ordering::Relaxed);
        self.free_dead(segment);
        true
    }

    /// Unlinks a record if it is dead by now, else notes when it will be. True when it had expired.
    fn sweep_record(&self, record: &Record, now: Now, counters: &Counters) -> bool {
        let arena = &self.segments.arena;
        let (mut stripe, place) = self.lock(self.hash(record.key(arena)));
        let location = self.segments.location(record.at);
        let Some(slot) = stripe.find(place.tag, |found| found == location) else { return false };
        let status = self.status(record, now);
        match status {
            Status::Flushed => self.reclaim_flushed(&mut stripe, slot, record, now, counters),
            Status::Expired => {
                self.class_counts(record, ClassCounter::CrawlerReclaimed, counters);
                self.reclaim_expired(&mut stripe, slot, record, now, counters);
            }
            Status::Live => {
                record.age(arena, now.unix_secs());
                self.note_due(record);
            }
            Status::Deleted => {
                let (version, _) = record.version(arena);
                if self.is_too_old(version, now) {
                    self.forget(record, version);
                    self.unlink(&mut stripe, slot, record, counters);
                } else {
                    self.note_due(record);
                }
            }
        }
        status == Status::Expired
    }

    /// Closes open segments in which something has expired, or that have been open for very long:
    /// nobody may write there for a long time.
    fn close_idle(&self, now: Now) {
        let idle = |segment: u32| {
            self.wants_sweep(segment, now) || self.rested(segment, AGE_EVERY_SECS, now)
        };
        for (writer, used) in self.each_writer() {
            let Ok(mut writer) = writer.try_lock() else { continue };
            if let Some(open) = writer.open.take_if(|open| !used || idle(open.segment)) {
                self.segments.seal(open, Class::Small, false);
            }
        }
        for (class, slot) in lock(&self.reclaimer).survivors() {
            if let Some(open) = slot.take_if(|open| idle(open.segment)) {
                self.segments.seal(open, class, false);
            }
        }
    }

    /// Looks at some stripes whether their tables are too large.
    pub(super) fn shrink_index(&self, reclaimer: &mut Reclaimer) {
        let all = self.index.stripes();
        for _ in 0..(all / SHRINK_SHARE).clamp(SHRINK_MIN, SHRINK_MAX).min(all) {
            let stripe = reclaimer.sweep.stripe;
            reclaimer.sweep.stripe = (stripe + 1) % all;
            self.index.lock(stripe).shrink();
        }
        self.segments.trim(self.off_arena());
    }

    /// Keeps segments free ahead of demand. True when it used its budget up.
    fn free_ahead(&self, budget: &mut usize, now: Now, counters: &Counters) -> bool {
        while self.is_low() || self.lower_limit() {
            if *budget == 0 {
                return true;
            }
            if !self.is_low() {
                *budget = budget.saturating_sub(1);
                continue;
            }
            let mut hold = HOLD.min(*budget);
            *budget -= hold;
            let step = self.reclaim(&mut lock(&self.reclaimer), &mut hold, now, counters);
            *budget += hold;
            if step == Step::Nothing {
                self.exhausted.store(true, Ordering::Relaxed);
                return false;
            }
            // A segment that was empty costs nothing but must count for something.
            *budget = budget.saturating_sub(1);
        }
        false
    }
}

impl Handle {
    /// One bounded step of housekeeping: about `budget` records are looked at. To be called about
    /// ten times a second, and at once when [`Handle::needs_maintenance`] or when it said
    /// [`Maintained::More`].
    pub fn maintain(&mut self, now: Now, budget: usize) -> Maintained {
        let (store, me) = self.split();
        store.settle(now);
        let mut left = budget.max(1);
        store.exhausted.store(false, Ordering::Relaxed);
        if store.free_ahead(&mut left, now, &me.counters) {
            return Maintained::More;
        }
        store.close_idle(now);
        store.keep_pace(HOLD, now, &me.counters);
        store.rest(&mut lock(&store.reclaimer));
        loop {
            let mut hold = HOLD.min(left);
            let held = hold;
            let mut reclaimer = lock(&store.reclaimer);
            let more = store.sweep(&mut reclaimer, &mut hold, now, &me.counters);
            left -= (held - hold).max(1).min(left);
            if !more {
                store.shrink_index(&mut reclaimer);
                return Maintained::Idle;
            }
            if left == 0 {
                return Maintained::More;
            }
        }
    }

    /// Whether the maintenance thread should run now rather than at its next turn: fewer segments
    /// are free than should be, or the limit was lowered, and the last step had not found that
    /// there are none to be had.
    /// Cheap enough for every turn of a worker's loop.
    pub fn needs_maintenance(&self) -> bool {
        let store = self.store_ref();
        let low = store.is_low() || store.is_shrinking();
        (low && !store.exhausted.load(Ordering::Relaxed)) || store.is_crawling()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::counters::Counter;
    use crate::store::{Config, Exptime, Mode};

    fn at(secs: u64) -> Now {
        Now { unix_us: (1_700_000_000 + secs) * 1_000_000, mono_us: secs * 1_000_000 }
    }

    fn handle(replicated: bool) -> Handle {
        let config = Config { memory_limit: 1 << 20, replicated, ..Config::default() };
        Store::new(config, at(0)).handle()
    }

    fn settle(handle: &mut Handle, from: u64, to: u64) {
        for secs in from..to {
            while handle.maintain(at(secs), 1000) == Maintained::More {}
        }
    }

    #[test]
    fn a_lone_expired_item_goes_within_ten_seconds() {
        let mut handle = handle(false);
        handle.store(Mode::Set, b"a", 0, Exptime::At(1_700_000_002), b"v", at(0));
        handle.store(Mode::Set, b"b", 0, Exptime::Never, b"v", at(0));
        settle(&mut handle, 0, 2);
        assert_eq!(handle.store_ref().stats().curr_items, 2);
        settle(&mut handle, 2, 12);
        assert_eq!(handle.store_ref().stats().curr_items, 1);
        assert_eq!(handle.counters().get(Counter::ExpiredUnfetched), 1);
    }

    #[test]
    fn what_a_sweep_had_to_leave_is_still_due() {
        let mut handle = handle(false);
        for n in 0..200u8 {
            handle.store(Mode::Set, &[n], 0, Exptime::At(1_700_000_002), b"v", at(0));
        }
        // A step that ends in the middle of the segment, which is then taken for a victim.
        while handle.store_ref().stats().curr_items == 200 {
            handle.maintain(at(5), 50);
        }
        let store = std::sync::Arc::clone(handle.store_ref());
        let walk = lock(&store.reclaimer).sweep.walking.expect("half way");
        let class = store.segments.claim(walk.segment).expect("it is sealed");
        handle.maintain(at(5), 1000);
        store.segments.give_back(walk.segment, class);
        assert!(store.stats().curr_items > 0, "all gone before it was given back");
        settle(&mut handle, 6, 16);
        assert_eq!(store.stats().curr_items, 0);
    }

    #[test]
    fn touch_keeps_an_item_from_the_sweep() {
        let mut handle = handle(false);
        handle.store(Mode::Set, b"a", 0, Exptime::At(1_700_000_003), b"v", at(0));
        assert!(handle.touch(b"a", Exptime::At(1_700_000_100), at(1)).is_some());
        settle(&mut handle, 1, 60);
        assert!(handle.get(b"a", at(60), |_| ()).is_some());
        settle(&mut handle, 60, 112);
        assert_eq!(handle.store_ref().stats().curr_items, 0);
    }

    #[test]
    fn items_know_for_days_when_they_were_used() {
        let mut handle = handle(false);
        // Some in a segment that is full, one where nobody writes any more.
        for n in 0..20u8 {
            handle.store(Mode::Set, &[n], 0, Exptime::Never, &[0; 1000], at(0));
        }
        handle.get(&[5], at(100), |_| ());
        let mut last = [0; 20];
        for secs in (100..1_000_000).step_by(500) {
            while handle.maintain(at(secs), 1000) == Maintained::More {}
            for n in 0..20u8 {
                let item =
                    handle.peek(&[n], at(secs), |item| (item.last_access_secs, item.fetched));
                let Some((idle, fetched)) = item else { panic!("{n} is gone") };
                let truth = secs as u32 - if n == 5 { 100 } else { 0 };
                assert!((truth..truth + 4096).contains(&idle), "{n}: {idle} for {truth}");
                assert!(idle >= last[usize::from(n)] && fetched == (n == 5));
                last[usize::from(n)] = idle;
            }
        }
    }

    #[test]
    fn an_expired_item_of_a_pair_is_remembered_as_long_as_a_delete() {
        let mut handle = handle(true);
        handle.store(Mode::Set, b"a", 0, Exptime::At(1_700_000_003), b"v", at(0));
        settle(&mut handle, 0, 20);
        let stats = handle.store_ref().stats();
        assert_eq!((stats.curr_items, stats.tombstones), (0, 1));
        settle(&mut handle, 3600, 3620);
        assert_eq!(handle.store_ref().stats().tombstones, 0);
    }

    #[test]
    fn segments_are_kept_free_ahead_of_demand() {
        let mut handle = handle(true);
        for n in 0..3000u32 {
            handle.store(Mode::Set, &n.to_le_bytes(), 0, Exptime::Never, &[0; 1000], at(0));
        }
        assert!(handle.needs_maintenance());
        while handle.maintain(at(0), 100) == Maintained::More {}
        assert!(!handle.needs_maintenance());
    }
}
