//! Reclaim: making free segments out of used ones.
//!
//! Owns the choice of a victim and its walk; what becomes of each of its records is in `fate`. Runs
//! in steps of so many records, under one lock, mostly on the maintenance thread; a writer that
//! finds nothing free runs it itself. Never touches an open segment, nor one that somebody has
//! pinned.
//!
//! ```text
//!  new items             used since, or             used often enough: to its end
//!                        evicted lately
//!  -----------> [ small: FIFO ] --------------> [ main: FIFO ] ---+
//!                     | no                            ^     |     |
//!                     v                               +-----|-----+
//!                   dropped                                 v no: dropped
//! ```
//! After S3-FIFO (SOSP'23), with segments in the place of objects: what is never asked for again
//! leaves by the small queue, after a tenth of the memory, and cannot push out what is in use. A
//! key that comes back soon after it was evicted (`store/ghosts.rs`) passes into main the first
//! time. In main, items are compared by their uses over many rounds and their size
//! (`store/popular.rs`).
//! Segments with many dead bytes (overwritten, deleted, expired) go first, whatever their age:
//! what is alive in them moves on, and nobody loses anything.

use super::core::{lock, mono_secs, try_lock, Local, Store, Writer};
use super::expire::Sweep;
use super::item::Record;
use super::popular::Bar;
use super::segment::{Class, Open, RESERVE};
use crate::base::clock::Now;
use crate::base::counters::Counters;
use std::sync::atomic::Ordering;
use std::sync::Mutex;

/// The small queue gives up its oldest segment when it has more than this part of all (S3-FIFO).
const SMALL_SHARE: u32 = 10;
/// Dead bytes that make a segment worth compacting before anything is evicted: moving seven bytes
/// to win one is the most that is paid.
const DEAD_SHARE: usize = 8;
/// The same where nothing may be evicted (`-M`): memory is scarcer than time there.
const DEAD_SHARE_NO_EVICT: usize = 64;
/// How many segments are compared when looking for the one with the most dead bytes. A large arena
/// is looked at in windows that go round.
const WINDOW: u32 = 256;
/// How often a writer that finds nothing free reclaims for one record, or waits for who does,
/// before it gives up. The bound is for races that others keep winning.
const INLINE_TRIES: usize = 512;
/// Steps of a writer that reclaims a whole segment: more than one of the smallest records takes.
const INLINE_STEPS: usize = 1024;
/// Records of one of them: the lock is let go in between.
const INLINE_STEP: usize = 128;
/// Bytes that a writer stores before it looks whether it has to pay for them.
const OWED_MIN: usize = 1024;
/// Most records that it looks at to pay: some twenty microseconds.
const PAY_MAX: usize = 64;
/// Records of one step of that.
const PAY_STEP: usize = 16;

/// Why a segment is being emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// It has the most dead bytes: everything alive moves on.
    Compact,
    /// It is the oldest of its queue: what was used moves on.
    Evict,
}

#[derive(Debug)]
pub(super) struct Victim {
    pub segment: u32,
    pub class: Class,
    pub why: Why,
    /// Where the next record lies.
    at: u32,
    /// Bytes that moved on.
    pub kept: usize,
    /// Bytes that were held against the bar, and those that reached it.
    pub seen: usize,
    pub worthy: usize,
}

/// The state of reclaim between its steps.
#[derive(Debug)]
pub(super) struct Reclaimer {
    victim: Option<Victim>,
    /// A victim that was put back half done, and how often it had been sealed then: where to go on.
    resting: Option<(Victim, u32)>,
    /// Where survivors go, per queue.
    open: [Option<Open>; 2],
    /// Emptied, but still read from.
    waiting: Vec<u32>,
    /// Evicted segments since one segment's worth of bytes was gained, and what was gained since.
    pub run: u32,
    gained: usize,
    /// Bytes that were dropped, or found dead, ever.
    won: u64,
    /// What items of main must be used to stay.
    pub bar: Bar,
    cursor: u32,
    window: Vec<u32>,
    pub(super) sweep: Sweep,
}

/// What a step brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A segment became free.
    Freed,
    /// The budget ran out before that.
    More,
    /// There is nothing to reclaim.
    Nothing,
}

impl Reclaimer {
    /// Nothing under way.
    pub fn new(now: Now) -> Reclaimer {
        Reclaimer {
            victim: None,
            resting: None,
            open: [None, None],
            waiting: Vec::new(),
            run: 0,
            gained: 0,
            won: 0,
            bar: Bar::default(),
            cursor: 0,
            window: Vec::new(),
            sweep: Sweep::new(now),
        }
    }

    /// How far the present victim is, in bytes.
    fn progress(&self) -> u32 {
        let resting = || self.resting.as_ref().map(|(victim, _)| victim.at);
        self.victim.as_ref().map(|victim| victim.at).or_else(resting).unwrap_or(0)
    }

    /// The segments that survivors go to.
    pub(super) fn survivors(&mut self) -> impl Iterator<Item = (Class, &mut Option<Open>)> {
        [Class::Small, Class::Main].into_iter().zip(&mut self.open)
    }

    /// Keeps the account of what evicting gains.
    fn count_gain(&mut self, capacity: usize, victim: &Victim) {
        self.run += u32::from(victim.why == Why::Evict);
        self.gained += capacity.saturating_sub(victim.kept);
        if self.gained >= capacity {
            self.gained = 0;
            self.run = 0;
        }
    }

    pub(super) fn slot(&mut self, class: Class) -> &mut Option<Open> {
        &mut self.open[usize::from(class == Class::Main)]
    }
}

impl Store {
    /// Makes certain that the writer's open segment has room for `size` bytes. False when there is
    /// no memory. No stripe may be locked.
    pub(super) fn ensure(&self, me: &Local, writer: &mut Writer, size: usize, now: Now) -> bool {
        if writer.open.as_ref().is_some_and(|open| self.segments.room(open) >= size) {
            return true;
        }
        if size > self.segments.capacity() {
            return false;
        }
        if let Some(open) = writer.open.take() {
            self.segments.seal(open, Class::Small, true);
        }
        // Nobody walks through a segment while it is freed.
        if let Ok(_reclaimer) = self.reclaimer.try_lock() {
            self.segments.reuse_dead(self.off_arena());
        }
        for _ in 0..INLINE_TRIES {
            let bytes = self.off_arena();
            // Where nothing may be evicted, nothing comes beside what a lowered limit leaves.
            if self.config.evict || self.segments.free_at_target(bytes) > RESERVE {
                writer.open = self.segments.take(bytes, RESERVE, self.watermark(), mono_secs(now));
            }
            if writer.open.is_some() {
                return true;
            }
            if !self.reclaim_inline(me, now) {
                return false;
            }
        }
        false
    }

    /// Reclaims until no more segments are used than may be, after [`Store::lend`]: who takes
    /// memory pays for it, so that it is not used twice until the maintenance thread comes. False
    /// when nothing gives way (`-M`).
    pub(super) fn shrink_arena(&self, me: &Local, now: Now) -> bool {
        for _ in 0..INLINE_TRIES {
            if self.segments.allocated() <= self.segments.allowed(self.off_arena()) {
                return true;
            }
            if !self.reclaim_inline(me, now) {
                return false;
            }
        }
        false
    }

    /// Has a segment freed, by this thread or by who is at it already. False when there is nothing
    /// to reclaim.
    fn reclaim_inline(&self, me: &Local, now: Now) -> bool {
        for _ in 0..INLINE_STEPS {
            let Some(mut reclaimer) = try_lock(&self.reclaimer) else {
                self.segments.wait_for_free(self.off_arena(), RESERVE);
                return true;
            };
            let mut budget = INLINE_STEP;
            match self.reclaim(&mut reclaimer, &mut budget, now, &me.counters) {
                Step::Freed => return true,
                Step::More => {}
                Step::Nothing => return false,
            }
        }
        true
    }

    /// Where maintenance does not keep up with what is written: who writes reclaims a little more
    /// than that itself, a few records at a time, so that nobody ever has to wait for a whole
    /// segment. `size` bytes have just been stored. Waits for nobody: where somebody else reclaims
    /// it is not needed.
    #[inline]
    pub(super) fn pay(&self, me: &mut Local, size: usize, now: Now) {
        me.owed += size;
        if me.owed >= OWED_MIN {
            self.pay_now(me, now);
        }
    }

    #[inline(never)]
    fn pay_now(&self, me: &mut Local, now: Now) {
        let off_arena = self.off_arena();
        let (free, spare) =
            (self.segments.free_count(off_arena), self.segments.low_mark(off_arena));
        if !self.config.evict || free > RESERVE + (spare - RESERVE) / 2 {
            me.owed = 0;
            return;
        }
        // What was not paid when others were at it need not be made good.
        let owed = std::mem::take(&mut me.owed).min(self.segments.capacity());
        let Some(mut reclaimer) = try_lock(&self.reclaimer) else { return };
        let enough = reclaimer.won + (owed + owed / 4) as u64;
        let mut left = PAY_MAX;
        while reclaimer.won < enough && left > 0 {
            let mut budget = PAY_STEP;
            let step = self.reclaim(&mut reclaimer, &mut budget, now, &me.counters);
            left = left.saturating_sub((PAY_STEP - budget).max(1));
            if step == Step::Nothing {
                return;
            }
        }
        me.owed = enough.saturating_sub(reclaimer.won) as usize;
    }

    /// Whether fewer segments are free than should be.
    pub(super) fn is_low(&self) -> bool {
        let off_arena = self.off_arena();
        self.segments.free_count(off_arena) <= self.segments.low_mark(off_arena)
    }

    /// One step of reclaim.
    pub(super) fn reclaim(
        &self,
        reclaimer: &mut Reclaimer,
        budget: &mut usize,
        now: Now,
        counters: &Counters,
    ) -> Step {
        let meta = |segment: u32| self.segments.meta(segment);
        if let Some(at) = reclaimer.waiting.iter().position(|&seg| !meta(seg).is_pinned()) {
            let segment = reclaimer.waiting.swap_remove(at);
            self.segments.free(segment, self.off_arena());
            return Step::Freed;
        }
        let victim = reclaimer.victim.take().or_else(|| self.resume(reclaimer));
        let Some(mut victim) = victim.or_else(|| self.choose(reclaimer, now)) else {
            return Step::Nothing;
        };
        let used = meta(victim.segment).used();
        while victim.at < used && meta(victim.segment).live() > 0 {
            if *budget == 0 {
                reclaimer.victim = Some(victim);
                return Step::More;
            }
            *budget -= 1;
            let kept = victim.kept;
            let offset = self.segments.offset_in(victim.segment, victim.at);
            let record = Record::read(&self.segments.arena, offset);
            let moved = if record.is_chunk() {
                self.reclaim_chunk(reclaimer, &mut victim, &record, now, counters)
            } else {
                self.reclaim_item(reclaimer, &mut victim, &record, now, counters)
            };
            if !moved {
                self.segments.give_back(victim.segment, victim.class);
                return Step::Nothing;
            }
            victim.at = self.segments.next(victim.at, record.size());
            reclaimer.won += record.size().saturating_sub(victim.kept - kept) as u64;
        }
        reclaimer.won += u64::from(used.saturating_sub(victim.at));
        reclaimer.count_gain(self.segments.capacity(), &victim);
        reclaimer.bar.adjust(victim.worthy, victim.seen);
        if meta(victim.segment).is_pinned() {
            reclaimer.waiting.push(victim.segment);
            return Step::More;
        }
        self.segments.free(victim.segment, self.off_arena());
        Step::Freed
    }

    /// Nothing needs to be reclaimed for now: what a writer has begun goes back to its queue, where
    /// the sweep finds what expires in it.
    pub(super) fn rest(&self, reclaimer: &mut Reclaimer) {
        if let Some(victim) = reclaimer.victim.take() {
            self.segments.give_back(victim.segment, victim.class);
            if let Some(sealing) = self.segments.sealing(victim.segment) {
                reclaimer.resting = Some((victim, sealing));
            }
        }
    }

    /// The victim that was put back, if it still is what it was.
    fn resume(&self, reclaimer: &mut Reclaimer) -> Option<Victim> {
        let (victim, sealing) = reclaimer.resting.take()?;
        let same = self.segments.claim_front(victim.segment, sealing, victim.class);
        same.then_some(victim)
    }

    /// Where memory is full: reclaims as much of the next segment as has been written to the
    /// fullest open one, at most `budget` records. So what a write pushes out goes soon after it,
    /// and not in bursts of a segment.
    pub(super) fn keep_pace(&self, mut budget: usize, now: Now, counters: &Counters) {
        let off_arena = self.off_arena();
        let spare = self.segments.low_mark(off_arena) + 1;
        if !self.config.evict || self.segments.free_count(off_arena) > spare {
            return;
        }
        let filled = |(writer, _): (&Mutex<Writer>, bool)| {
            let writer = writer.try_lock().ok()?;
            writer.open.as_ref().map(|open| self.segments.filled(open))
        };
        let filled = self.each_writer().filter_map(filled).max().unwrap_or(0);
        let mut reclaimer = lock(&self.reclaimer);
        while budget > 0 && reclaimer.progress() < filled {
            budget -= 1;
            if self.reclaim(&mut reclaimer, &mut 1, now, counters) != Step::More {
                break;
            }
        }
    }

    /// The segment with the most dead bytes among the next few, with these bytes.
    fn most_dead(&self, reclaimer: &mut Reclaimer, now: Now) -> Option<(usize, u32)> {
        let mut window = std::mem::take(&mut reclaimer.window);
        window.clear();
        self.segments.sealed_window(reclaimer.cursor, WINDOW, &mut window);
        reclaimer.cursor = (reclaimer.cursor + WINDOW) % self.segments.count();
        let watermark = self.watermark().0;
        let best = window
            .iter()
            .map(|&segment| (segment, self.segments.meta(segment)))
            .filter(|(_, meta)| !meta.is_pinned())
            .map(|(segment, meta)| {
                // What was flushed is dead, although nobody has counted it yet. Something expired
                // is worth a walk where nothing may be evicted.
                let flushed = meta.swept.load(Ordering::Relaxed) < watermark;
                let expired = !self.config.evict && meta.due() <= now.unix_secs();
                let capacity = self.segments.capacity();
                let dead = if flushed || expired { capacity } else { meta.dead(capacity) };
                (dead, segment)
            })
            .max();
        reclaimer.window = window;
        best
    }

    /// The segment that pays best.
    fn choose(&self, reclaimer: &mut Reclaimer, now: Now) -> Option<Victim> {
        let first = self.segments.first();
        let victim = |segment, class, why| Victim {
            segment,
            class,
            why,
            at: first,
            kept: 0,
            seen: 0,
            worthy: 0,
        };
        let (share, windows) = if self.config.evict {
            (DEAD_SHARE, 1)
        } else {
            (DEAD_SHARE_NO_EVICT, self.segments.count().div_ceil(WINDOW))
        };
        for _ in 0..windows {
            let Some((dead, segment)) = self.most_dead(reclaimer, now) else { continue };
            if dead >= self.segments.capacity() / share {
                if let Some(class) = self.segments.claim(segment) {
                    return Some(victim(segment, class, Why::Compact));
                }
            }
        }
        if !self.config.evict {
            return None;
        }
        let small = self.segments.sealed(Class::Small);
        let order = if small * SMALL_SHARE > self.segments.usable(self.off_arena()) {
            [Class::Small, Class::Main]
        } else {
            [Class::Main, Class::Small]
        };
        order.into_iter().find_map(|class| {
            let segment = self.segments.claim_oldest(class)?;
            Some(victim(segment, class, Why::Evict))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::counters::Counter;
    use crate::store::{Config, Exptime, Handle, Mode, Stored};

    const NOW: Now = Now { unix_us: 1_700_000_000_000_000, mono_us: 0 };

    fn handle(evict: bool) -> Handle {
        let config = Config { memory_limit: 1 << 20, evict, ..Config::default() };
        Store::new(config, NOW).handle()
    }

    fn set(handle: &mut Handle, key: &str, len: usize) -> Stored {
        let value = vec![b'v'; len];
        handle.store(Mode::Set, key.as_bytes(), 0, Exptime::Never, &value, NOW)
    }

    #[test]
    fn what_is_lent_comes_off_the_items_and_goes_back_to_them() {
        let mut handle = handle(true);
        let fill = |handle: &mut Handle| {
            for n in 0..3000 {
                assert!(matches!(set(handle, &format!("k{n}"), 1000), Stored::Stored(_)));
            }
            handle.store_ref().stats().curr_items
        };
        let all = fill(&mut handle);
        assert!(handle.store_ref().lend(400 << 10));
        assert!(!handle.store_ref().lend(200 << 10), "more than half");
        assert!(handle.make_way(NOW));
        let left = handle.store_ref().stats();
        assert!(left.bytes <= 624 << 10, "{} bytes left", left.bytes);
        assert!((all / 2..all * 2 / 3).contains(&fill(&mut handle)));
        handle.store_ref().take_back(400 << 10);
        assert!(fill(&mut handle) + 20 >= all);
    }

    #[test]
    fn without_evicting_it_is_full_at_some_point_and_deletes_make_room() {
        let mut handle = handle(false);
        let mut held = 0;
        while matches!(set(&mut handle, &format!("k{held}"), 1000), Stored::Stored(_)) {
            held += 1;
        }
        // The item whose set was refused is the only one that is not there.
        assert!(held > 850, "{held} items of 1 KB in 1 MB");
        let now = NOW;
        assert!((0..held).all(|n| handle.get(format!("k{n}").as_bytes(), now, |_| ()).is_some()));
        for n in (0..held).step_by(2) {
            assert!(handle.delete(format!("k{n}").as_bytes(), now));
        }
        for n in 0..held / 2 - 60 {
            let stored = set(&mut handle, &format!("new{n}"), 1000);
            assert!(matches!(stored, Stored::Stored(_)), "{n} of {held}: {stored:?}");
        }
        // Nothing may give way to what is under way outside.
        assert!(handle.store_ref().lend(500 << 10) && !handle.make_way(now));
        assert!((1..held)
            .step_by(2)
            .all(|n| handle.get(format!("k{n}").as_bytes(), now, |_| ()).is_some()));
        assert_eq!(handle.counters().get(Counter::Evictions), 0);
    }

    #[test]
    fn what_is_evicted_is_counted_by_what_it_was() {
        let mut handle = handle(true);
        for n in 0..3000 {
            set(&mut handle, &format!("k{n}"), 1000);
        }
        let counters = handle.counters();
        let (all, unfetched) =
            (counters.get(Counter::Evictions), counters.get(Counter::EvictedUnfetched));
        assert_eq!(all, unfetched);
        assert_eq!(3000 - all, handle.store_ref().stats().curr_items);
        assert_eq!(counters.get(Counter::OutOfMemory), 0);
    }

    #[test]
    fn a_key_that_comes_back_soon_after_its_eviction_stays() {
        let mut handle = handle(true);
        // More than fits, and never asked for.
        let pass = |handle: &mut Handle, name: &str| {
            for n in 0..1000 {
                set(handle, &format!("{name}{n}"), 1000);
            }
        };
        for n in 0..50 {
            set(&mut handle, &format!("back{n}"), 1000);
        }
        pass(&mut handle, "first");
        let held = |handle: &mut Handle| {
            let keys = (0..50).map(|n| format!("back{n}"));
            keys.filter(|key| handle.peek(key.as_bytes(), NOW, |_| ()).is_some()).count()
        };
        assert!(held(&mut handle) < 5, "a pass should have pushed them out");
        for n in 0..50 {
            set(&mut handle, &format!("back{n}"), 1000);
        }
        pass(&mut handle, "second");
        let kept = held(&mut handle);
        assert!(kept > 40, "only {kept} of 50 stayed although they had come back");
    }

    #[test]
    fn overwriting_costs_nobody_an_item() {
        let mut handle = handle(true);
        // Half of the memory is in use; the lengths change, so that records die.
        for round in 0..30 {
            for n in 0..400 {
                set(&mut handle, &format!("k{n}"), 1000 + (n + round) % 200);
            }
        }
        assert_eq!(handle.counters().get(Counter::Evictions), 0);
        assert_eq!(handle.store_ref().stats().curr_items, 400);
    }

    #[test]
    fn a_full_store_gives_up_as_much_as_it_takes() {
        let mut handle = handle(true);
        let settle = |handle: &mut Handle| {
            while handle.maintain(NOW, 1000) == crate::store::Maintained::More {}
        };
        for n in 0..3000 {
            set(&mut handle, &format!("k{n}"), 1000);
        }
        settle(&mut handle);
        for n in 0..50 {
            let before = handle.counters().get(Counter::Evictions);
            for part in 0..4 {
                set(&mut handle, &format!("new{n}.{part}"), 1000);
                settle(&mut handle);
            }
            let gone = handle.counters().get(Counter::Evictions) - before;
            assert!((2..=8).contains(&gone), "the fours number {n} pushed out {gone}");
        }
    }

    #[test]
    fn a_pinned_segment_stays_until_it_is_let_go() {
        let mut reader = handle(true);
        let mut writer = reader.store_ref().handle();
        let value: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        reader.store(Mode::Set, b"large", 0, Exptime::Never, &value, NOW);
        reader.get(b"large", NOW, |item| {
            // While it is being read, memory goes round several times.
            for n in 0..8000 {
                set(&mut writer, &format!("k{n}"), 1000);
            }
            assert!(item.value.to_vec() == value);
        });
        for n in 0..4000 {
            set(&mut writer, &format!("l{n}"), 1000);
        }
        assert!(lock(&writer.store_ref().reclaimer).waiting.is_empty());
    }
}
