//! What writers do for the room they need.
//!
//! Owns the way from a full segment to the next one, and what a writer reclaims itself where the
//! maintenance thread does not keep up. Never waits for more than a step of reclaim, or a
//! millisecond.
//!
//! ```text
//!  free segments   many         | half of what is kept ahead | none
//!  a writer        just writes  | pays: reclaims what it     | has one freed, or waits for who
//!                               | wrote, some at a time      | is at it
//! ```

use super::core::{mono_secs, try_lock, Local, Store, Writer};
use super::evict::Step;
use super::segment::{Class, RESERVE};
use crate::base::clock::Now;

/// How often a writer that finds nothing free reclaims for one record, or waits for who does,
/// before it gives up. The bound is for races that others keep winning.
const INLINE_TRIES: usize = 512;
/// Steps of a writer that reclaims a whole segment: more than one of the smallest records takes.
const INLINE_STEPS: usize = 1024;
/// Records of one of them: the lock is let go in between.
const INLINE_STEP: usize = 128;
/// Bytes that a writer stores before it looks whether it has to pay for them.
const OWED_MIN: usize = 1024;
/// Most records that it looks at to pay: some twenty microseconds; and where the last free segments
/// are about to go.
const PAY_MAX: usize = 64;
const PAY_MAX_SHORT: usize = 256;
/// Records of one step of that.
const PAY_STEP: usize = 16;

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
        // Who is at it may have lost the processor: what is not paid now is paid later, but no more
        // than a segment.
        me.owed = me.owed.min(self.segments.capacity());
        let Some(mut reclaimer) = try_lock(&self.reclaimer) else { return };
        // The index grows too, and something may move on: a quarter more.
        let enough = reclaimer.won + (me.owed + me.owed / 4) as u64;
        let mut left = if free <= RESERVE + 1 { PAY_MAX_SHORT } else { PAY_MAX };
        while reclaimer.won < enough && left > 0 {
            let mut budget = PAY_STEP;
            let step = self.reclaim(&mut reclaimer, &mut budget, now, &me.counters);
            left = left.saturating_sub((PAY_STEP - budget).max(1));
            if step == Step::Nothing {
                break;
            }
        }
        me.owed = enough.saturating_sub(reclaimer.won) as usize;
    }
}
