//! The index: from a key's hash to the place of its record.
//!
//! Owns striped tables of 8-byte slots. Never looks at a record: the caller compares keys. Safe
//! code.
//!
//! ```text
//! hash   63         46 45            24 23        0
//!        | stripe ... | tag (22 bits)  | not used |
//!
//! slot   63          42 41   36 35                 0
//!        | tag         | popul.| location          |      0: empty
//!
//! table  sorted by tag; home = tag * homes >> 22; a slot lies at its home or right behind it
//!        +---+---+---+---+---+---+---+---+---+---+---+---+-------+
//!        | 2 | 7 | 8 |   | a | c | c |   |   | f |   |   | spare |     no wrap-around
//!        +---+---+---+---+---+---+---+---+---+---+---+---+-------+
//! ```
//! Linear probing that keeps the order of tags: a search ends at the first larger tag, a removal
//! shifts back, and a table is rebuilt from its own slots in one pass without touching an item. A
//! stripe has a few thousand slots, so growing it takes microseconds, and there is never a moment
//! when the whole index grows. The order also makes a scan robust: "from this tag on" means the
//! same before and after a rebuild.

use super::arena::{self, prefetch};
use super::ghosts::Ghosts;
use super::popular::Popularity;
use crate::base::sync::{lock, try_lock};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// Bits of a slot's location.
pub(crate) const LOCATION_BITS: u32 = 36;
const LOCATION_MASK: u64 = (1 << LOCATION_BITS) - 1;
const POPULARITY_SHIFT: u32 = LOCATION_BITS;
const POPULARITY_MASK: u64 = 0x3f << POPULARITY_SHIFT;
const TAG_SHIFT: u32 = 42;
const TAG_BITS: u32 = 22;
/// Where the tag lies in the hash.
const HASH_TAG_SHIFT: u32 = 24;

/// Fewest and most stripes: enough for threads not to meet, and 2^18 is what the hash has bits for.
const STRIPES_MIN: u64 = 64;
const STRIPES_MAX: u64 = 1 << 18;
/// One stripe per this many bytes of `-m`: about 2500 slots in each when items are small.
const BYTES_PER_STRIPE: u64 = 256 << 10;
/// A table grows when it is fuller than 9/10: about 6 slots are looked at then.
const LOAD_NUM: usize = 9;
const LOAD_DEN: usize = 10;
/// It grows by a sixteenth, so that a table is 87 % full on average.
const GROW_SHIFT: u32 = 4;
/// Bits of a hint that say how many homes there are; an address has no more than the others.
const HINT_BITS: u32 = 16;
/// Most ghosts per slot.
pub(super) const GHOSTS_MAX: usize = 2;
/// Smallest table.
const HOMES_MIN: usize = 8;

/// Where the slots of a tag begin in a table of so many homes.
#[inline]
fn home(tag: u32, homes: usize) -> usize {
    ((u64::from(tag) * homes as u64) >> TAG_BITS) as usize
}

#[inline]
fn tag_of(slot: u64) -> u32 {
    (slot >> TAG_SHIFT) as u32
}

fn make(tag: u32, popularity: Popularity, location: u64) -> u64 {
    debug_assert!(location != 0 && location <= LOCATION_MASK && tag >> TAG_BITS == 0);
    let popularity = u64::from(popularity.0) << POPULARITY_SHIFT & POPULARITY_MASK;
    u64::from(tag) << TAG_SHIFT | popularity | location
}

/// One table.
#[derive(Debug, Default)]
pub(crate) struct Stripe {
    slots: Box<[u64]>,
    homes: usize,
    len: usize,
    ghosts: Ghosts,
}

impl Stripe {
    #[inline]
    fn home(&self, tag: u32) -> usize {
        home(tag, self.homes)
    }

    /// The position of the slot with this tag for whose location `matches` says yes.
    #[inline]
    pub fn find(&self, tag: u32, mut matches: impl FnMut(u64) -> bool) -> Option<usize> {
        let home = self.home(tag);
        for (from_home, &slot) in self.slots.get(home..)?.iter().enumerate() {
            if slot == 0 || tag_of(slot) > tag {
                return None;
            }
            if tag_of(slot) == tag && matches(slot & LOCATION_MASK) {
                return Some(home + from_home);
            }
        }
        None
    }

    /// The location at a position that `find` or `slots_from` gave.
    pub fn location(&self, at: usize) -> u64 {
        self.slots[at] & LOCATION_MASK
    }

    /// How popular it is.
    #[inline]
    pub fn popularity(&self, at: usize) -> Popularity {
        Popularity(((self.slots[at] & POPULARITY_MASK) >> POPULARITY_SHIFT) as u8)
    }

    /// Notes a use.
    #[inline]
    pub fn note_use(&mut self, at: usize) {
        let popularity = self.popularity(at);
        // What is used all the time is not written all the time.
        if !popularity.is_used() {
            self.slots[at] |= u64::from(popularity.used().0) << POPULARITY_SHIFT;
        }
    }

    /// Changes location and popularity of a slot.
    pub fn set(&mut self, at: usize, popularity: Popularity, location: u64) {
        self.slots[at] = make(tag_of(self.slots[at]), popularity, location);
    }

    /// Adds a slot.
    pub fn insert(&mut self, tag: u32, popularity: Popularity, location: u64) {
        if (self.len + 1) * LOAD_DEN > self.homes * LOAD_NUM {
            self.grow();
        }
        let slot = make(tag, popularity, location);
        while !self.try_insert(tag, slot) {
            self.grow();
        }
        self.len += 1;
    }

    fn try_insert(&mut self, tag: u32, slot: u64) -> bool {
        let end = self.slots.len();
        let mut at = self.home(tag);
        while at < end && self.slots[at] != 0 && tag_of(self.slots[at]) <= tag {
            at += 1;
        }
        let Some(gap) = self.slots[at.min(end)..].iter().position(|&slot| slot == 0) else {
            return false;
        };
        self.slots.copy_within(at..at + gap, at + 1);
        self.slots[at] = slot;
        true
    }

    /// Removes a slot.
    pub fn remove(&mut self, at: usize) {
        let mut next = at + 1;
        while next < self.slots.len() {
            let slot = self.slots[next];
            if slot == 0 || self.home(tag_of(slot)) == next {
                break;
            }
            self.slots[next - 1] = slot;
            next += 1;
        }
        self.slots[next - 1] = 0;
        self.len -= 1;
    }

    /// Remembers that the key of a slot is about to be evicted, and how popular it was; so long as
    /// up to `per_slot` times as many others are as there are slots.
    pub fn haunt(&mut self, at: usize, level: u8, per_slot: usize, size: usize) {
        let keys = self.homes * per_slot;
        self.ghosts.add(tag_of(self.slots[at]), TAG_BITS, level, keys, size);
    }

    /// How popular a new item with this tag is: more than others where its key was evicted lately.
    /// That is forgotten with it.
    pub fn popularity_of_new(&mut self, tag: u32) -> Popularity {
        self.ghosts.take(tag, TAG_BITS).map_or(Popularity::NEW, Popularity::back)
    }

    fn grow(&mut self) {
        self.rebuild(self.homes + (self.homes >> GROW_SHIFT).max(HOMES_MIN));
    }

    /// Makes the table smaller when less than 5/8 of it is used. True when it did.
    pub fn shrink(&mut self) -> bool {
        if self.homes <= HOMES_MIN || self.len * 8 >= self.homes * 5 {
            return false;
        }
        if self.len == 0 {
            *self = Stripe::default();
        } else {
            self.rebuild((self.len * 5 / 4).max(HOMES_MIN));
            self.ghosts.shrink(self.homes * GHOSTS_MAX);
        }
        true
    }

    fn rebuild(&mut self, homes: usize) {
        let old = std::mem::take(&mut self.slots);
        self.homes = homes;
        let mut places = Vec::with_capacity(homes + homes / 64 + 8);
        for &slot in old.iter().filter(|&&slot| slot != 0) {
            let home = self.home(tag_of(slot));
            if places.len() < home {
                places.resize(home, 0);
            }
            places.push(slot);
        }
        let len = (homes + homes / 64 + 8).max(places.len() + 8);
        places.resize(len, 0);
        self.slots = places.into_boxed_slice();
    }

    /// The positions of slots whose tag is `tag` or larger, in the order of tags, as (position,
    /// tag).
    pub fn slots_from(&self, tag: u32) -> impl Iterator<Item = (usize, u32)> + '_ {
        let from = self.home(tag).min(self.slots.len());
        (from..self.slots.len())
            .filter(|&at| self.slots[at] != 0)
            .map(|at| (at, tag_of(self.slots[at])))
            .filter(move |&(_, found)| found >= tag)
    }

    /// The location in the first slot of this tag: most likely that of the only key that has it.
    #[inline]
    pub fn first(&self, tag: u32) -> Option<u64> {
        let mut first = 0;
        self.find(tag, |location| {
            first = location;
            true
        })?;
        Some(first)
    }

    /// The table's address, and in the low [`HINT_BITS`] its homes; 0 where they are too many.
    fn hint(&self) -> u64 {
        let fits = self.homes < 1 << HINT_BITS;
        let address = self.slots.as_ptr().addr() as u64;
        if fits {
            address << HINT_BITS | self.homes as u64
        } else {
            0
        }
    }

    fn bytes(&self) -> usize {
        std::mem::size_of_val(&*self.slots) + self.ghosts.bytes()
    }
}

/// A stripe with a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Padded {
    stripe: Mutex<Stripe>,
    /// Where its table is and how many homes that has ([`Stripe::hint`]).
    hint: AtomicU64,
}

/// Where a hash belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub stripe: usize,
    pub tag: u32,
}

/// All stripes.
#[derive(Debug)]
pub(crate) struct Index {
    stripes: Box<[Padded]>,
    bits: u32,
    bytes: AtomicU64,
}

/// A locked stripe, which tells the index when its size changes.
pub(crate) struct Locked<'a> {
    guard: MutexGuard<'a, Stripe>,
    hint: &'a AtomicU64,
    index: &'a Index,
    before: usize,
}

impl std::ops::Deref for Locked<'_> {
    type Target = Stripe;
    fn deref(&self) -> &Stripe {
        &self.guard
    }
}

impl std::ops::DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut Stripe {
        &mut self.guard
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let after = self.guard.bytes();
        if after != self.before {
            self.hint.store(self.guard.hint(), Ordering::Relaxed);
            let change = (after as u64).wrapping_sub(self.before as u64);
            self.index.bytes.fetch_add(change, Ordering::Relaxed);
        }
    }
}

impl Index {
    /// An empty index for a store of `memory_limit` bytes.
    pub fn new(memory_limit: u64) -> Index {
        let count = (memory_limit / BYTES_PER_STRIPE)
            .clamp(STRIPES_MIN, STRIPES_MAX)
            .next_power_of_two()
            .min(STRIPES_MAX);
        let stripes = (0..count).map(|_| Padded::default()).collect();
        Index { stripes, bits: count.trailing_zeros(), bytes: AtomicU64::new(0) }
    }

    /// Where `hash` belongs.
    #[inline]
    pub fn place(&self, hash: u64) -> Place {
        Place {
            stripe: (hash >> (64 - self.bits)) as usize,
            tag: (hash >> HASH_TAG_SHIFT) as u32 & ((1 << TAG_BITS) - 1),
        }
    }

    /// Locks a stripe. Never lock two at once.
    #[inline]
    pub fn lock(&self, stripe: usize) -> Locked<'_> {
        let Padded { stripe, hint } = &self.stripes[stripe];
        let guard = lock(stripe);
        Locked { before: guard.bytes(), guard, hint, index: self }
    }

    /// Asks for the stripe of this hash ahead of its use.
    #[inline]
    pub fn prefetch_stripe(&self, hash: u64) {
        let stripe: *const Padded = &self.stripes[self.place(hash).stripe];
        prefetch(stripe.addr());
    }

    /// Asks for the slot at which a search for this hash begins. Takes no lock: where the table has
    /// just moved, nothing is won.
    #[inline]
    pub fn prefetch_slot(&self, hash: u64) {
        let Place { stripe, tag } = self.place(hash);
        let hint = self.stripes[stripe].hint.load(Ordering::Relaxed);
        let homes = (hint & ((1 << HINT_BITS) - 1)) as usize;
        let slots = (hint >> HINT_BITS) as usize;
        prefetch(slots.wrapping_add(home(tag, homes) * std::mem::size_of::<u64>()));
    }

    /// Waits for whoever has a stripe locked at present.
    pub fn pass_all(&self) {
        for stripe in self.stripes.iter() {
            drop(lock(&stripe.stripe));
        }
    }

    /// Asks for the cache lines that [`Stripe::find`] and [`Stripe::haunt`] will look at, ahead of
    /// that; not where somebody has the stripe.
    pub fn ask_for(&self, place: Place) {
        if let Some(stripe) = try_lock(&self.stripes[place.stripe].stripe) {
            arena::ask_for(&stripe.slots, stripe.home(place.tag));
            stripe.ghosts.ask_for(place.tag, TAG_BITS);
        }
    }

    /// Number of stripes.
    pub fn stripes(&self) -> usize {
        self.stripes.len()
    }

    /// Bytes of all tables.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes that it takes when it is empty.
    pub fn fixed_bytes(&self) -> u64 {
        (self.stripes.len() * std::mem::size_of::<Padded>()) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::hash::hash_key;

    fn check(stripe: &Stripe) {
        let slots: Vec<_> = stripe.slots.iter().copied().enumerate().filter(|s| s.1 != 0).collect();
        assert_eq!(slots.len(), stripe.len);
        assert!(slots.windows(2).all(|two| tag_of(two[0].1) <= tag_of(two[1].1)), "order");
        for &(at, slot) in &slots {
            let home = stripe.home(tag_of(slot));
            assert!(
                home <= at && stripe.slots[home..at].iter().all(|&slot| slot != 0),
                "reachable"
            );
        }
    }

    #[test]
    fn agrees_with_a_map() {
        // Miri runs a thousand times slower, and looks at every access.
        let (seeds, steps) = if cfg!(miri) { (1, 200u64) } else { (20, 3000) };
        for seed in 0..seeds {
            let mut stripe = Stripe::default();
            let mut model = std::collections::BTreeMap::<u64, (u32, Popularity)>::new();
            let mut random = seed;
            for step in 0..steps {
                random = hash_key(random, &step.to_le_bytes());
                // Few distinct tags, so that equal ones are common.
                let tag = (random >> 20) as u32 & 0x3f_f000 | (random as u32 & 1);
                let location = 1 + (random >> 50) % 700;
                let old = model.get(&location).copied();
                let find = |stripe: &Stripe, tag| stripe.find(tag, |found| found == location);
                match old {
                    None => {
                        assert_eq!(find(&stripe, tag), None, "seed {seed} step {step}");
                        let new = Popularity((random >> 8) as u8 & 0x1f);
                        stripe.insert(tag, new, location);
                        model.insert(location, (tag, new));
                    }
                    Some((tag, popularity)) => {
                        let at = find(&stripe, tag).expect("present");
                        assert_eq!(stripe.popularity(at), popularity, "seed {seed} step {step}");
                        if random & 6 == 0 {
                            stripe.note_use(at);
                            model.insert(location, (tag, popularity.used()));
                        } else {
                            stripe.remove(at);
                            model.remove(&location);
                        }
                    }
                }
                if random & 0x3f00 == 0 {
                    stripe.shrink();
                }
            }
            check(&stripe);
            assert_eq!(stripe.len, model.len(), "seed {seed}");
            for (location, (tag, popularity)) in model {
                let at = stripe.find(tag, |found| found == location).expect("still present");
                assert_eq!(stripe.popularity(at), popularity);
            }
        }
    }

    #[test]
    fn grows_and_shrinks_in_small_steps() {
        let mut stripe = Stripe::default();
        let tag = |n: u64| (hash_key(1, &n.to_le_bytes()) >> 42) as u32;
        for n in 0..2500 {
            stripe.insert(tag(n), Popularity::NEW, n + 1);
        }
        check(&stripe);
        assert!(stripe.bytes() < 2500 * 8 * 5 / 4, "{} bytes for 2500 slots", stripe.bytes());
        for n in 100..2500 {
            let at = stripe.find(tag(n), |location| location == n + 1).expect("present");
            stripe.remove(at);
        }
        assert!(stripe.shrink());
        check(&stripe);
        assert!(stripe.bytes() < 200 * 8);
        let tags: Vec<u32> = stripe.slots_from(0).map(|(_, tag)| tag).collect();
        assert_eq!(tags.len(), 100);
        let half = tags[50];
        assert_eq!(
            stripe.slots_from(half).count(),
            tags.iter().filter(|&&tag| tag >= half).count()
        );
    }

    #[test]
    fn knows_its_bytes() {
        let index = Index::new(1 << 20);
        assert_eq!(index.stripes(), 64);
        let place = index.place(u64::MAX);
        assert_eq!(place, Place { stripe: 63, tag: 0x3f_ffff });
        index.lock(place.stripe).insert(place.tag, Popularity::NEW, 1);
        assert!(index.bytes() > 0);
        let mut stripe = index.lock(place.stripe);
        let at = stripe.find(place.tag, |_| true).expect("present");
        stripe.remove(at);
        stripe.shrink();
        stripe.shrink();
        drop(stripe);
        assert!(index.bytes() <= 20 * 8);
    }
}
