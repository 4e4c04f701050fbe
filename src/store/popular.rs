//! How popular an item is, and who stays.
//!
//! Owns the six bits that a slot has for it, what a round of reclaim makes of them, and the bar
//! that items must reach to stay. Knows no segment and no index. Integer arithmetic only.
//!
//! ```text
//! popularity   5      4       0
//!            | used | level     |     used: asked for since reclaim came by last
//!
//! level 0: never asked for again; else uses per round, those of long ago counting less:
//!       1 = 1/2, 6 = 1, 11 = 2, 16 = 4, ... five levels double it
//!
//! a round:  uses = uses * 0.87 + (1 if used)        so an unused item loses one level
//! stays:    uses / bytes >= bar                     the bar goes where four fifths do
//! ```
//! A level outlives the item: it is remembered with its key for a while (`store/ghosts.rs`). Uses
//! between two rounds count as one, since they say little more: what is asked for several times in
//! a row is often not asked for again.

/// The bit that a use sets.
const USED: u8 = 1 << 5;
/// The bits of the level.
const LEVEL: u8 = USED - 1;
/// The level of one use.
const ONE: u8 = 6;
/// Levels that a doubling of the uses is worth.
const PER_DOUBLE: i32 = 5;
/// The level after a round with a use, by the level before: of `uses * 2^(-1/5) + 1`.
const AFTER_USE: [u8; LEVEL as usize + 1] = [
    6, 9, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 15, 15, 16, 17, 18, 18, 19, 20, 21, 22, 23, 24,
    25, 26, 26, 27, 28, 29, 30,
];

/// What a slot says about how popular its item is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Popularity(pub u8);

impl Popularity {
    /// An item that nobody has asked for again.
    pub const NEW: Popularity = Popularity(0);

    /// An item whose key is stored again after it was evicted at this level.
    pub fn back(level: u8) -> Popularity {
        Popularity(AFTER_USE[usize::from(level & LEVEL)])
    }

    /// With a use noted.
    #[inline]
    pub fn used(self) -> Popularity {
        Popularity(self.0 | USED)
    }

    /// Whether it was used since reclaim came by last.
    #[inline]
    pub fn is_used(self) -> bool {
        self.0 & USED != 0
    }

    /// How often it is used, apart from that.
    pub fn level(self) -> u8 {
        self.0 & LEVEL
    }

    /// What it is after a round.
    pub fn aged(self) -> Popularity {
        let level = self.level();
        let aged =
            if self.is_used() { AFTER_USE[usize::from(level)] } else { level.saturating_sub(1) };
        Popularity(aged)
    }

    /// What it is in the main queue, when it leaves the small one: its uses count whole.
    pub fn promoted(self) -> Popularity {
        match (self.is_used(), self.level()) {
            (true, 0) => Popularity(ONE),
            (true, _) => self.aged(),
            (false, level) => Popularity(level),
        }
    }
}

/// Fractions of a level that the bar knows.
const UNIT: i32 = 256;
/// An item this many times as large, or as small, as others are counts as if it were no larger or
/// smaller: sizes are to matter, but not to decide alone.
const SIZE_FACTOR_LOG2: i32 = 3 * UNIT / 2;
/// The part of the main queue that is to stay at each round, in [`UNIT`]s: high enough for items to
/// be seen often and in time, low enough for a freed segment to cost no more than five.
const STAY: i32 = 4 * UNIT / 5;
/// By how many levels the bar rises when a whole segment stays above that.
const GAIN: i32 = 2;
/// How fast what is known of sizes follows: one in so many.
const SIZE_MEMORY: i32 = 256;
/// The bar's bounds: the range of levels, and what sizes add to them.
const BAR: std::ops::RangeInclusive<i32> = -12 * UNIT..=40 * UNIT;

/// The bar that items of the main queue must reach to stay.
#[derive(Debug, Default)]
pub(crate) struct Bar {
    /// In [`UNIT`]s of a level.
    height: i32,
    /// The usual size: log2, in [`UNIT`]s, times [`SIZE_MEMORY`].
    usual: i32,
}

impl Bar {
    /// Whether an item of `size` bytes that is so popular stays. One that nobody uses never does.
    pub fn lets_stay(&mut self, popularity: Popularity, size: usize) -> bool {
        let log2 = log2(size);
        if self.usual == 0 {
            self.usual = log2 * SIZE_MEMORY;
        }
        let beside = log2 - self.usual / SIZE_MEMORY;
        self.usual += beside;
        let cost = beside.clamp(-SIZE_FACTOR_LOG2, SIZE_FACTOR_LOG2) * PER_DOUBLE;
        popularity.level() > 0 && i32::from(popularity.level()) * UNIT - cost >= self.height
    }

    /// Moves the bar: of a segment with `all` bytes, `kept` have stayed.
    pub fn adjust(&mut self, kept: usize, all: usize) {
        if let Some(stayed) = (kept.min(all) * UNIT as usize).checked_div(all) {
            let stayed = stayed as i32;
            self.height = (self.height + (stayed - STAY) * GAIN).clamp(*BAR.start(), *BAR.end());
        }
    }
}

/// The binary logarithm in [`UNIT`]s, straight between powers of two.
fn log2(size: usize) -> i32 {
    let size = size.max(1) as u64;
    let whole = size.ilog2();
    let rest = ((size << 8) >> whole) as i32 - UNIT;
    whole as i32 * UNIT + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses(level: u8) -> f64 {
        if level == 0 {
            0.0
        } else {
            ((f64::from(level) - f64::from(ONE)) / 5.0).exp2()
        }
    }

    #[test]
    fn a_round_forgets_an_eighth_of_the_uses_and_adds_one() {
        for level in 0..=LEVEL {
            let after = uses(level) * (-0.2f64).exp2() + 1.0;
            let nearest = (1..=LEVEL)
                .min_by(|&a, &b| {
                    let off = |level| (uses(level) / after).log2().abs();
                    off(a).total_cmp(&off(b))
                })
                .expect("levels");
            assert_eq!(AFTER_USE[usize::from(level)], nearest, "level {level}");
            assert_eq!(Popularity(level).used().aged(), Popularity(nearest));
            assert_eq!(Popularity(level).aged(), Popularity(level.saturating_sub(1)));
        }
        assert_eq!(Popularity::back(0), Popularity::NEW.used().promoted());
    }

    #[test]
    fn logarithms_are_near() {
        for size in [1usize, 2, 3, 90, 1000, 1024, 65_000, 1 << 30] {
            let off = f64::from(log2(size)) / 256.0 - (size as f64).log2();
            assert!(off.abs() < 0.1, "{size}: {off}");
        }
    }

    #[test]
    fn the_bar_goes_where_four_fifths_stay() {
        let mut bar = Bar::default();
        let mut random = 1u64;
        let mut stayed = 0;
        for segment in 0..400 {
            let mut kept = 0;
            for _ in 0..100 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let (level, size) = ((random >> 33) % 20 + 3, 500 + (random >> 40) % 1000);
                if bar.lets_stay(Popularity(level as u8), size as usize) {
                    kept += size as usize;
                }
            }
            bar.adjust(kept, 100_000);
            stayed += if segment >= 200 { kept } else { 0 };
        }
        let share = stayed as f64 / 200.0 / 100_000.0;
        assert!((0.75..0.85).contains(&share), "{share}");
    }

    #[test]
    fn small_items_stay_at_fewer_uses_but_none_without_any() {
        let mut bar = Bar::default();
        for _ in 0..40 {
            assert!(bar.lets_stay(Popularity(20), 1000));
            bar.adjust(100, 100);
        }
        let least = |bar: &mut Bar, size| (0..=LEVEL).find(|&l| bar.lets_stay(Popularity(l), size));
        let usual = least(&mut bar, 1000).expect("the highest level reaches every bar");
        assert!(least(&mut bar, 500) < Some(usual) && least(&mut bar, 100) < least(&mut bar, 500));
        assert_eq!(least(&mut bar, 100), least(&mut bar, 10), "beyond three times it is all one");
        for _ in 0..1000 {
            bar.adjust(0, 100);
        }
        assert_eq!(least(&mut bar, 10), Some(1));
    }
}
