//! Segments: who owns which part of the arena, and what is in it.
//!
//! Owns the free list, the two queues of sealed segments, and per segment the bytes that are alive,
//! the pins and the next expiry. Takes no stripe lock and never interprets a record.
//!
//! ```text
//!            take                 seal                    claim                free
//!   Free ----------> Open -----------------> Small|Main ---------> Victim -----------> Free
//!                    one writer appends       immutable shapes,     reclaim walks it
//!                                             in a FIFO queue
//! ```
//! `-m` is kept here: segments may take what the index does not. Where the index has grown, fewer
//! segments are [allowed](Segments::allowed); memory of free ones above that goes back to the
//! kernel. Another limit means more segments of the same size, or fewer allowed ones; on the way
//! down the budget is lowered one segment at a time, so that reclaim can choose what goes.

use super::arena::Arena;
use super::banks::{self, Banks};
use super::item::{ALIGN, HEADER};
use super::version::Version;
use crate::base::sync::{self, lock};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Segments in a small arena: enough for queues to be fine grained, few enough for each to hold
/// hundreds of items.
const SEGMENTS: u64 = 256;
/// Segments in a large one, whose segments are large enough with so many: what is free ahead of
/// demand and what is open but not full yet is so much less of it.
const SEGMENTS_MANY: u64 = 1024;
const LARGE_ENOUGH: u64 = 256 << 10;
/// Smallest segment: `-m 1` still has 64 of them.
const SEGMENT_MIN: u64 = 16 << 10;
/// Largest segment: reclaiming one takes a millisecond or two of a background thread.
const SEGMENT_MAX: u64 = 1 << 20;
/// Fewest segments that a lowered limit leaves, whatever it says: one to write into, two for
/// survivors, the reserve, and some that hold items.
const LEAST: u64 = 8;
/// Segments of a bank: what is added at once when the limit is raised.
const BANK_SHIFT: u32 = 5;
const BANK: u32 = 1 << BANK_SHIFT;
/// Records start here, so that no location is 0.
const FIRST: u32 = 8;
/// Free segments that only reclaim may take: one per queue, for what survives.
pub(crate) const RESERVE: u32 = 2;
/// Segments that are looked at for one in which everything is dead: some hundred nanoseconds, once
/// for every segment that is filled.
const DEAD_WINDOW: u32 = 256;
/// How long a writer waits for a segment before it looks again what it can do itself.
const WAIT: Duration = Duration::from_millis(1);
/// Memory that locations of 4-byte units reach; beyond it they count 8 bytes.
const SMALL_UNITS_MAX: u64 = (ALIGN as u64) << super::index::LOCATION_BITS;

/// Which queue a sealed segment waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// New items.
    Small,
    /// Items that were used since.
    Main,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    Open,
    Sealed(Class),
    Victim,
}

/// One segment's facts. Atomics, because writers of other segments change them too.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    /// Bytes of records that are alive.
    live: AtomicU32,
    /// Where the records end, once it is sealed; 0 while it is free.
    used: AtomicU32,
    /// Bytes at its end that were too few for the next record. They come back with the segment, but
    /// moving what is alive elsewhere would only leave them there instead.
    waste: AtomicU32,
    /// Readers and builders of large values that are inside.
    pub(super) pins: AtomicU32,
    /// A lower bound of the unix second in which the next record expires.
    due: AtomicU32,
    /// When it was opened or swept last, in seconds of the monotonic clock.
    pub swept_at: AtomicU32,
    /// The flush watermark up to which it is known to hold nothing flushed.
    pub swept: AtomicU64,
}

impl Segment {
    /// Adds bytes of a record; before it is published.
    pub fn add_live(&self, bytes: usize) {
        self.live.fetch_add(bytes as u32, Ordering::Relaxed);
    }

    /// Takes bytes of a record off; after it became unreachable.
    pub fn sub_live(&self, bytes: usize) {
        let before = self.live.fetch_sub(bytes as u32, Ordering::Release);
        debug_assert!(before as usize >= bytes, "more died than lived");
    }

    /// Bytes that are alive.
    pub fn live(&self) -> u32 {
        self.live.load(Ordering::Acquire)
    }

    /// Bytes that moving its live records elsewhere would win, of `capacity`.
    pub fn dead(&self, capacity: usize) -> usize {
        let kept = self.live() + self.waste.load(Ordering::Relaxed);
        capacity.saturating_sub(kept as usize)
    }

    /// Where its records end (sealed segments).
    pub fn used(&self) -> u32 {
        self.used.load(Ordering::Acquire)
    }

    /// Whether somebody is inside.
    pub fn is_pinned(&self) -> bool {
        self.pins.load(Ordering::Acquire) != 0
    }

    /// Notes that a record expires at `unix_secs`.
    pub fn expires(&self, unix_secs: u32) {
        if unix_secs < self.due.load(Ordering::Relaxed) {
            self.due.fetch_min(unix_secs, Ordering::Relaxed);
        }
    }

    /// Nothing in it expires before this unix second.
    pub fn due(&self) -> u32 {
        self.due.load(Ordering::Relaxed)
    }

    /// Forgets when records expire; a sweep notes them again.
    pub fn forget_due(&self) {
        self.due.store(u32::MAX, Ordering::Relaxed);
    }
}

/// An open segment and the place of its next record.
#[derive(Debug)]
pub(crate) struct Open {
    pub segment: u32,
    at: u32,
}

#[derive(Debug)]
struct Queues {
    state: Vec<State>,
    /// Counts how often a segment was sealed: an entry of a queue with an old count is stale.
    sealed: Vec<u32>,
    small: VecDeque<(u32, u32)>,
    main: VecDeque<(u32, u32)>,
    small_len: u32,
    main_len: u32,
    /// Free segments whose memory was used and is still committed.
    warm: Vec<u32>,
    /// Free segments without memory, the first to be used at the end.
    cold: VecDeque<u32>,
    /// Who waits for a segment to be freed: nobody is told where nobody waits.
    waiting: u32,
}

impl Queues {
    fn queue(&mut self, class: Class) -> (&mut VecDeque<(u32, u32)>, &mut u32) {
        match class {
            Class::Small => (&mut self.small, &mut self.small_len),
            Class::Main => (&mut self.main, &mut self.main_len),
        }
    }

    fn is_current(&self, entry: (u32, u32)) -> bool {
        let (segment, sealed) = (entry.0 as usize, entry.1);
        matches!(self.state[segment], State::Sealed(_)) && self.sealed[segment] == sealed
    }

    /// Drops stale entries once they are as many as there are segments.
    fn tidy(&mut self, class: Class) {
        let limit = 2 * self.state.len();
        if self.queue(class).0.len() > limit {
            let mut queue = std::mem::take(self.queue(class).0);
            queue.retain(|&entry| self.is_current(entry));
            *self.queue(class).0 = queue;
        }
    }
}

/// What a limit leaves for segments and the index's tables, when there are `count` segments of
/// `size` bytes.
fn budget_of(memory_limit: u64, fixed_bytes: u64, size: u64, count: u64) -> u64 {
    let each = (std::mem::size_of::<Segment>() + 48) as u64;
    let fixed = fixed_bytes + (memory_limit / size).max(count) * each;
    memory_limit.saturating_sub(fixed).max(LEAST * size)
}

/// All segments.
#[derive(Debug)]
pub(crate) struct Segments {
    pub arena: Arena,
    metas: Box<[Segment]>,
    /// Facts of segments that were added later.
    more: Banks<Box<[Segment]>>,
    count: AtomicU32,
    /// For how many there is address space.
    reserved: AtomicU32,
    shift: u32,
    unit_shift: u32,
    /// Bytes for segments and index together, at present.
    budget: AtomicU64,
    /// What they are to become: lower, when the limit was lowered and not all is reclaimed yet.
    target: AtomicU64,
    allocated: AtomicU32,
    /// Segments with a pin on them.
    pub(super) pinned: AtomicU32,
    /// Where to look next for segments that are dead.
    dead_cursor: AtomicU32,
    queues: Mutex<Queues>,
    /// Told, under the queues' lock, when a segment was freed.
    freed: Condvar,
}

impl Segments {
    /// Cuts `memory_limit` less `fixed_bytes` into segments.
    /// `large`: ask for large pages.
    pub fn new(memory_limit: u64, fixed_bytes: u64, large: bool) -> Segments {
        let many = (memory_limit / SEGMENTS_MANY).max(LARGE_ENOUGH);
        let near = (memory_limit / SEGMENTS).min(many).clamp(SEGMENT_MIN, SEGMENT_MAX);
        let size = 1u64 << near.ilog2();
        let budget = budget_of(memory_limit, fixed_bytes, size, 0);
        let count = (budget / size) as usize;
        let shift = size.ilog2();
        Segments {
            arena: Arena::with_banks(count << shift, shift + BANK_SHIFT, large),
            metas: (0..count).map(|_| Segment::default()).collect(),
            more: Banks::new(),
            count: AtomicU32::new(count as u32),
            reserved: AtomicU32::new(count as u32),
            shift,
            unit_shift: if memory_limit > SMALL_UNITS_MAX { 3 } else { 2 },
            budget: AtomicU64::new(budget),
            target: AtomicU64::new(budget),
            allocated: AtomicU32::new(0),
            pinned: AtomicU32::new(0),
            dead_cursor: AtomicU32::new(0),
            queues: Mutex::new(Queues {
                state: vec![State::Free; count],
                sealed: vec![0; count],
                small: VecDeque::new(),
                main: VecDeque::new(),
                small_len: 0,
                main_len: 0,
                warm: Vec::new(),
                cold: (0..count as u32).rev().collect(),
                waiting: 0,
            }),
            freed: Condvar::new(),
        }
    }

    /// Makes `memory_limit` less `fixed_bytes` the budget: at once when it is higher, else as
    /// [`Segments::lower`] gets there. One caller at a time. False, and nothing is changed, when
    /// locations do not reach so far or the address space cannot be had.
    pub fn set_limit(&self, memory_limit: u64, fixed_bytes: u64) -> bool {
        let size = self.size() as u64;
        let budget = budget_of(memory_limit, fixed_bytes, size, u64::from(self.reserved()));
        if budget / size > self.count_max() || !self.reserve((budget / size) as u32) {
            return false;
        }
        self.target.store(budget, Ordering::Relaxed);
        self.budget.fetch_max(budget, Ordering::Relaxed);
        true
    }

    /// Most segments that there may ever be.
    fn count_max(&self) -> u64 {
        let reach = 1u64 << (super::index::LOCATION_BITS + self.unit_shift - self.shift);
        reach.min((self.metas.len() + banks::MOST * BANK as usize) as u64)
    }

    /// Reserves address space for `wanted` segments, by whole banks. They are made when they are
    /// needed: so many at once would take milliseconds.
    fn reserve(&self, wanted: u32) -> bool {
        let (first, reserved) = (self.metas.len() as u32, self.reserved());
        if wanted <= reserved {
            return true;
        }
        let bank = |segments: u32| (segments - first).div_ceil(BANK) as usize;
        let banks = bank(reserved)..bank(wanted);
        let end = first + banks.end as u32 * BANK;
        let done = self.arena.add_banks(banks);
        if done {
            self.reserved.store(end, Ordering::Release);
        }
        done
    }

    /// For how many segments there is address space.
    fn reserved(&self) -> u32 {
        self.reserved.load(Ordering::Acquire)
    }

    /// Makes the segments of one more bank, where there is address space for it.
    fn grow(&self, queues: &mut Queues) -> bool {
        let count = self.count();
        if count >= self.reserved() {
            return false;
        }
        let nth = (count - self.metas.len() as u32) >> BANK_SHIFT;
        self.more.add(nth as usize, (0..BANK).map(|_| Segment::default()).collect());
        let all = (count + BANK) as usize;
        queues.state.resize(all, State::Free);
        queues.sealed.resize(all, 0);
        for segment in count..count + BANK {
            queues.cold.push_front(segment);
        }
        self.count.store(count + BANK, Ordering::Release);
        true
    }

    /// Whether a lowered limit is not reached yet.
    pub fn is_lowering(&self) -> bool {
        self.budget.load(Ordering::Relaxed) > self.target.load(Ordering::Relaxed)
    }

    /// Lowers the budget by one segment where it is higher than it is to be. False when it is not.
    pub fn lower(&self, off_arena: u64) -> bool {
        let (size, target) = (self.size() as u64, self.target.load(Ordering::Relaxed));
        let less = |now: u64| (now > target).then(|| now.saturating_sub(size).max(target));
        let lowered = self.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok();
        if lowered {
            self.trim(off_arena);
        }
        lowered
    }

    fn queues(&self) -> MutexGuard<'_, Queues> {
        lock(&self.queues)
    }

    /// Number of segments that there are, allowed or not.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// Number of segments that may be used.
    pub fn usable(&self, off_arena: u64) -> u32 {
        self.allowed(off_arena).min(self.reserved())
    }

    /// Bytes for segments and index together, once a lowered limit is reached.
    pub fn target(&self) -> u64 {
        self.target.load(Ordering::Relaxed)
    }

    /// Bytes of one segment.
    pub fn size(&self) -> usize {
        1 << self.shift
    }

    /// Bytes of records that fit into one segment.
    pub fn capacity(&self) -> usize {
        self.size() - FIRST as usize
    }

    /// How many segments may hold something while so many bytes of the budget are used
    /// otherwise.
    pub fn allowed(&self, off_arena: u64) -> u32 {
        (self.budget.load(Ordering::Relaxed).saturating_sub(off_arena) >> self.shift) as u32
    }

    /// How many segments more may be taken once a lowered limit is reached.
    pub fn free_at_target(&self, off_arena: u64) -> u32 {
        let allowed = (self.target().saturating_sub(off_arena) >> self.shift) as u32;
        allowed.saturating_sub(self.allocated())
    }

    /// Segments that take memory: those in use, and free ones that were.
    pub fn committed(&self) -> u32 {
        let warm = self.queues().warm.len() as u32;
        self.allocated() + warm
    }

    /// Segments that hold something or are open.
    pub fn allocated(&self) -> u32 {
        self.allocated.load(Ordering::Relaxed)
    }

    /// How many segments may still be taken.
    pub fn free_count(&self, off_arena: u64) -> u32 {
        self.allowed(off_arena).saturating_sub(self.allocated())
    }

    /// Free segments that reclaim keeps ahead of demand: less than half a hundredth of all.
    pub fn low_mark(&self, off_arena: u64) -> u32 {
        RESERVE + (self.usable(off_arena) / 256).clamp(2, 32)
    }

    /// Facts of a segment.
    #[inline]
    pub fn meta(&self, segment: u32) -> &Segment {
        match self.metas.get(segment as usize) {
            Some(meta) => meta,
            None => self.meta_of_bank(segment),
        }
    }

    #[inline(never)]
    fn meta_of_bank(&self, segment: u32) -> &Segment {
        let behind = segment - self.metas.len() as u32;
        let Some(bank) = self.more.get((behind >> BANK_SHIFT) as usize) else {
            panic!("no such segment");
        };
        &bank[(behind % BANK) as usize]
    }

    /// Facts of the segment that the byte offset lies in.
    #[inline]
    pub fn meta_at(&self, at: usize) -> &Segment {
        self.meta((at >> self.shift) as u32)
    }

    /// The segment that the byte offset lies in.
    pub fn segment_at(&self, at: usize) -> u32 {
        (at >> self.shift) as u32
    }

    /// Location of a byte offset, as slots and extents hold it.
    pub fn location(&self, at: usize) -> u64 {
        (at >> self.unit_shift) as u64
    }

    /// Byte offset of a location.
    #[inline]
    pub fn offset(&self, location: u64) -> usize {
        (location as usize) << self.unit_shift
    }

    /// Offset of a record within its segment, to offset in the arena.
    pub fn offset_in(&self, segment: u32, at: u32) -> usize {
        ((segment as usize) << self.shift) + at as usize
    }

    /// Where the first record of a segment lies.
    pub fn first(&self) -> u32 {
        FIRST
    }

    /// Where the record behind one of `size` bytes at `at` starts.
    pub fn next(&self, at: u32, size: usize) -> u32 {
        let unit = 1u32 << self.unit_shift;
        (at + size as u32).div_ceil(unit) * unit
    }

    /// Bytes left in an open segment.
    pub fn room(&self, open: &Open) -> usize {
        self.size() - (open.at as usize).min(self.size())
    }

    /// Where the next record of an open segment will lie.
    pub fn next_at(&self, open: &Open) -> usize {
        self.offset_in(open.segment, open.at)
    }

    /// How much of an open segment is written.
    pub fn filled(&self, open: &Open) -> u32 {
        open.at
    }

    /// The record at the end of an open segment has `size` bytes and is alive.
    pub fn advance(&self, open: &mut Open, size: usize) {
        debug_assert!(size >= HEADER && size <= self.room(open));
        self.meta(open.segment).add_live(size);
        open.at = self.next(open.at, size);
    }

    /// Opens a free segment, but none of the last `reserve`.
    pub fn take(
        &self,
        off_arena: u64,
        reserve: u32,
        watermark: Version,
        mono_secs: u32,
    ) -> Option<Open> {
        let mut queues = self.queues();
        if self.free_count(off_arena) <= reserve {
            return None;
        }
        let segment = match queues.warm.pop().or_else(|| queues.cold.pop_back()) {
            Some(segment) => segment,
            None if self.grow(&mut queues) => queues.cold.pop_back()?,
            None => return None,
        };
        queues.state[segment as usize] = State::Open;
        self.allocated.fetch_add(1, Ordering::Relaxed);
        let meta = self.meta(segment);
        debug_assert!(meta.live() == 0 && !meta.is_pinned());
        meta.forget_due();
        meta.swept.store(watermark.0, Ordering::Relaxed);
        meta.swept_at.store(mono_secs, Ordering::Relaxed);
        Some(Open { segment, at: FIRST })
    }

    /// Closes an open segment: it joins the end of its queue. `full`: because the next record does
    /// not fit.
    pub fn seal(&self, open: Open, class: Class, full: bool) {
        let at = open.segment as usize;
        let waste = if full { self.room(&open) as u32 } else { 0 };
        let meta = self.meta(open.segment);
        meta.waste.store(waste, Ordering::Relaxed);
        meta.used.store(open.at, Ordering::Release);
        let mut queues = self.queues();
        queues.state[at] = State::Sealed(class);
        queues.sealed[at] = queues.sealed[at].wrapping_add(1);
        let entry = (open.segment, queues.sealed[at]);
        queues.tidy(class);
        let (queue, len) = queues.queue(class);
        queue.push_back(entry);
        *len += 1;
    }

    /// Takes a sealed, unpinned segment out of its queue, for reclaim.
    pub fn claim(&self, segment: u32) -> Option<Class> {
        let mut queues = self.queues();
        let State::Sealed(class) = queues.state[segment as usize] else { return None };
        if self.meta(segment).is_pinned() {
            return None;
        }
        queues.state[segment as usize] = State::Victim;
        *queues.queue(class).1 -= 1;
        Some(class)
    }

    /// Claims a sealed, unpinned segment if nothing in it is alive. Only what is sealed stays dead:
    /// an open one with nothing in it may be filled and sealed at any moment.
    pub fn claim_dead(&self, segment: u32) -> bool {
        let mut queues = self.queues();
        let State::Sealed(class) = queues.state[segment as usize] else { return false };
        let meta = self.meta(segment);
        // The pins last: who let a record die may know of readers that came before.
        if meta.live() > 0 || meta.is_pinned() {
            return false;
        }
        queues.state[segment as usize] = State::Victim;
        *queues.queue(class).1 -= 1;
        true
    }

    /// Puts a claimed segment back, as the oldest of its queue.
    pub fn give_back(&self, segment: u32, class: Class) {
        let mut queues = self.queues();
        queues.state[segment as usize] = State::Sealed(class);
        let entry = (segment, queues.sealed[segment as usize]);
        let (queue, len) = queues.queue(class);
        queue.push_front(entry);
        *len += 1;
    }

    /// Claims the oldest unpinned segment of a queue. Looks at no more than the queue has.
    pub fn claim_oldest(&self, class: Class) -> Option<u32> {
        let mut queues = self.queues();
        for _ in 0..queues.queue(class).0.len() {
            let entry = queues.queue(class).0.pop_front()?;
            if !queues.is_current(entry) {
                continue;
            }
            if self.meta(entry.0).is_pinned() {
                queues.queue(class).0.push_back(entry);
                continue;
            }
            queues.state[entry.0 as usize] = State::Victim;
            *queues.queue(class).1 -= 1;
            return Some(entry.0);
        }
        None
    }

    /// Claims a segment that was given back, if it is still the oldest of its queue, unpinned, and
    /// has been sealed as often as then.
    pub fn claim_front(&self, segment: u32, sealing: u32, class: Class) -> bool {
        let mut queues = self.queues();
        // An entry may have been left behind by a sealing that is over.
        let same = queues.is_current((segment, sealing))
            && queues.queue(class).0.front() == Some(&(segment, sealing))
            && queues.state[segment as usize] == State::Sealed(class)
            && !self.meta(segment).is_pinned();
        if same {
            queues.state[segment as usize] = State::Victim;
            let (queue, len) = queues.queue(class);
            queue.pop_front();
            *len -= 1;
        }
        same
    }

    /// Where the next segment to be taken would be one without memory: frees one in which all is
    /// dead, if there is one among the next few. A page that is touched for the first time costs
    /// more than the bytes that are written to it, and what was dead for long is in no cache.
    pub fn reuse_dead(&self, off_arena: u64) {
        if !self.queues().warm.is_empty() {
            return;
        }
        let (count, from) = (self.count(), self.dead_cursor.load(Ordering::Relaxed));
        for step in 0..count.min(DEAD_WINDOW) {
            let segment = (from + step) % count;
            let meta = self.meta(segment);
            if meta.used() > 0 && meta.live() == 0 && self.claim_dead(segment) {
                self.dead_cursor.store(segment, Ordering::Relaxed);
                return self.free(segment, off_arena);
            }
        }
        self.dead_cursor.store((from + DEAD_WINDOW) % count, Ordering::Relaxed);
    }

    /// Frees a claimed segment that nothing leads into.
    pub fn free(&self, segment: u32, off_arena: u64) {
        debug_assert!(self.meta(segment).live() == 0, "freed with live bytes");
        self.meta(segment).used.store(0, Ordering::Release);
        let mut queues = self.queues();
        queues.state[segment as usize] = State::Free;
        queues.warm.push(segment);
        self.allocated.fetch_sub(1, Ordering::Relaxed);
        let awaited = queues.waiting > 0;
        drop(queues);
        if awaited {
            self.freed.notify_one();
        }
        self.trim(off_arena);
    }

    /// Waits until somebody else frees a segment, and not for long, unless more than `reserve` are
    /// free.
    pub fn wait_for_free(&self, off_arena: u64, reserve: u32) {
        let mut queues = self.queues();
        if self.free_count(off_arena) <= reserve {
            queues.waiting += 1;
            sync::wait(&self.freed, queues, WAIT);
            self.queues().waiting -= 1;
        }
    }

    /// Gives the memory of free segments above what is allowed back to the kernel.
    pub fn trim(&self, off_arena: u64) {
        loop {
            let mut queues = self.queues();
            let committed = self.allocated() as usize + queues.warm.len();
            if committed <= self.allowed(off_arena) as usize {
                return;
            }
            let Some(segment) = queues.warm.pop() else { return };
            drop(queues);
            self.arena.release(self.offset_in(segment, 0), self.size());
            self.queues().cold.push_front(segment);
        }
    }

    /// How many sealed segments a queue has.
    pub fn sealed(&self, class: Class) -> u32 {
        *self.queues().queue(class).1
    }

    /// If a segment is sealed, how often it has been: another number means other contents.
    pub fn sealing(&self, segment: u32) -> Option<u32> {
        let queues = self.queues();
        let sealed = matches!(queues.state[segment as usize], State::Sealed(_));
        sealed.then(|| queues.sealed[segment as usize])
    }

    /// The sealed ones of `count` segments from `from` on, going round.
    pub fn sealed_window(&self, from: u32, count: u32, out: &mut Vec<u32>) {
        let queues = self.queues();
        let total = self.count();
        for step in 0..count.min(total) {
            let segment = (from + step) % total;
            if matches!(queues.state[segment as usize], State::Sealed(_)) {
                out.push(segment);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pins::Pins;
    use super::*;

    #[test]
    fn sizes_follow_the_limit() {
        for (limit, size, least) in [
            (1u64 << 20, 16 << 10, 62),
            (2 << 20, 16 << 10, 126),
            (64 << 20, 256 << 10, 254),
            (100 << 20, 256 << 10, 398),
        ] {
            let segments = Segments::new(limit, 4096, false);
            assert_eq!(segments.size(), size, "-m {limit}");
            assert!(segments.count() >= least, "-m {limit}: {} segments", segments.count());
            assert!(segments.target() <= limit);
        }
    }

    #[test]
    fn a_segment_goes_round() {
        let segments = Segments::new(1 << 20, 0, false);
        let mut open = segments.take(0, 0, Version(0), 0).expect("free");
        let segment = open.segment;
        assert!(segments.claim(segment).is_none(), "it is open");
        segments.advance(&mut open, 100);
        segments.seal(open, Class::Small, true);
        assert_eq!(segments.sealed(Class::Small), 1);
        let mut pins = Pins::new(&segments);
        pins.add(segment);
        assert!(segments.claim_oldest(Class::Small).is_none(), "it is pinned");
        drop(pins);
        assert_eq!(segments.claim_oldest(Class::Small), Some(segment));
        segments.meta(segment).sub_live(100);
        segments.free(segment, 0);
        assert_eq!(segments.allocated(), 0);
    }

    #[test]
    fn a_segment_that_was_used_again_is_not_taken_for_what_was_given_back() {
        let segments = Segments::new(1 << 20, 0, false);
        let fill = || {
            let mut open = segments.take(0, 0, Version(0), 0).expect("free");
            segments.advance(&mut open, 100);
            let segment = open.segment;
            segments.seal(open, Class::Small, true);
            segment
        };
        let segment = fill();
        let sealing = segments.sealing(segment).expect("it is sealed");
        assert!(segments.claim(segment).is_some());
        segments.give_back(segment, Class::Small);
        assert!(segments.claim_front(segment, sealing, Class::Small));
        segments.give_back(segment, Class::Small);
        // Found empty from elsewhere, freed and filled again; its entry is still in front.
        assert!(segments.claim(segment).is_some());
        segments.meta(segment).sub_live(100);
        segments.free(segment, 0);
        assert_eq!(fill(), segment);
        assert!(!segments.claim_front(segment, sealing, Class::Small));
    }

    #[test]
    fn only_what_is_sealed_is_dead_for_good() {
        let segments = Segments::new(1 << 20, 0, false);
        let mut open = segments.take(0, 0, Version(0), 0).expect("free");
        let segment = open.segment;
        assert_eq!(segments.meta(segment).live(), 0);
        assert!(!segments.claim_dead(segment), "it is about to be filled");
        segments.advance(&mut open, 100);
        segments.seal(open, Class::Small, true);
        assert!(!segments.claim_dead(segment), "something is alive");
        segments.meta(segment).sub_live(100);
        segments.pin(segment);
        assert!(!segments.claim_dead(segment), "somebody reads it");
        segments.unpin(segment);
        assert!(segments.claim_dead(segment));
        segments.free(segment, 0);
        assert!(!segments.claim_dead(segment), "it is free");
    }

    #[test]
    fn a_grown_index_takes_segments_away() {
        let segments = Segments::new(1 << 20, 0, false);
        let all = segments.free_count(0);
        let opens: Vec<_> = std::iter::from_fn(|| segments.take(0, 0, Version(0), 0)).collect();
        assert_eq!(opens.len(), all as usize);
        for open in opens {
            let segment = open.segment;
            segments.seal(open, Class::Main, true);
            assert!(segments.claim(segment).is_some());
            segments.free(segment, 64 << 10);
        }
        assert_eq!(segments.free_count(64 << 10), all - 4);
        assert!(segments.queues().cold.len() >= 4);
    }
}
