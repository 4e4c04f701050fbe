//! The short way: gets and sets of keys that were hashed, and asked for, ahead.
//!
//! Owns what a batch of requests does to the caches before it is executed, and a set's way where
//! nothing stands in it. Decides nothing of its own: where the short way does not lead, it says so
//! with nothing changed or counted, and the ordinary one is taken.
//!
//! ```text
//!            hash 1..n        stripe 1..n       slot 1..n, locked        item 1..n
//!  ahead:    prefetch its  -> prefetch its   -> prefetch its record  -> get or set, locked
//!            stripe           slot
//! ```
//! Each of these is a look into memory that is rarely in a cache; one after the other they would be
//! waited for, side by side they cost little more than one.

use super::core::{lock, Local, Store};
use super::item::{Extras, Shape};
use super::segment::Open;
use super::write::{New, Settled, IN_PLACE_MAX};
use super::{memcached_size, Exptime, Handle, Item};
use crate::base::clock::Now;
use crate::base::counters::{ClassCounter, Counter};

/// Cache lines of a record that are asked for: the header, the key, and what is small of the value.
const LINES: usize = 3;

impl Store {
    fn ask_ahead(&self, hashes: &[u64]) {
        for &hash in hashes {
            self.index.prefetch_stripe(hash);
        }
        for &hash in hashes {
            self.index.prefetch_slot(hash);
        }
        hashes.iter().for_each(|&hash| self.ask_record(hash));
    }

    #[inline]
    fn ask_record(&self, hash: u64) {
        let (stripe, place) = self.lock(hash);
        if let Some(location) = stripe.first(place.tag) {
            self.segments.arena.prefetch(self.segments.offset(location), LINES);
        }
    }

    /// A set of a short value into an open segment that has room, over nothing or over what is
    /// alive. False where it is anything else.
    #[inline]
    fn set_short(&self, me: &mut Local, hash: u64, new: &New<'_>, now: Now) -> bool {
        let New { key, flags, exptime, extras, .. } = *new;
        let vlen = new.len();
        let shape = Shape { key, flags, exptime, extras, vlen, large: false };
        let size = shape.size();
        if vlen > IN_PLACE_MAX || !self.is_small(size, vlen) {
            return false;
        }
        let mut writer = lock(self.writer(me));
        let room = |open: &&mut Open| self.segments.room(open) >= size;
        let Some(open) = writer.open.as_mut().filter(room) else { return false };
        let (mut stripe, place) = self.lock(hash);
        let old = self.find(&stripe, place, key);
        if old.as_ref().is_some_and(|(_, old)| !self.is_live(old, now)) {
            return false;
        }
        let version = self.issue_new(me, hash, new, now);
        let (parts, at) = (new.parts, (&mut stripe, place));
        let settled = self.settle_in(me, open, at, old, &shape, None, parts, version, now);
        drop(stripe);
        drop(writer);
        if settled == Settled::Appended {
            self.pay(me, vlen + key.len(), now);
        }
        true
    }
}

impl Handle {
    /// Asks for the memory of what these hashes ([`Handle::hash`]) lead to, so that it is at hand
    /// when it is used soon. Changes nothing, counts nothing, and need not be right.
    pub fn ahead(&self, hashes: &[u64]) {
        self.store_ref().ask_ahead(hashes);
    }

    /// The first half of [`Handle::ahead`] of one hash, where there is something else to do before
    /// the second.
    #[inline]
    pub fn ahead_slot(&self, hash: u64) {
        self.store_ref().index.prefetch_slot(hash);
    }

    /// The second half.
    #[inline]
    pub fn ahead_record(&self, hash: u64) {
        self.store_ref().ask_record(hash);
    }

    /// As [`Handle::get`], of a key with this hash ([`Handle::hash`]).
    #[inline]
    pub fn get_hashed<R>(
        &mut self,
        hash: u64,
        key: &[u8],
        now: Now,
        read: impl FnOnce(&Item<'_>) -> R,
    ) -> Option<R> {
        let (store, me) = self.split();
        store.settle(now);
        store.get(me, hash, key, now, read)
    }

    /// As [`Handle::store`] of a `Set`, of a key with this hash ([`Handle::hash`]), by the short
    /// way. False where that does not lead: nothing was done or counted, and [`Handle::store`] does
    /// it.
    #[inline]
    pub fn set_hashed(
        &mut self,
        hash: u64,
        key: &[u8],
        flags: u32,
        exptime: Exptime,
        value: &[u8],
        now: Now,
    ) -> bool {
        let (store, me) = self.split();
        store.settle(now);
        let size = memcached_size(key.len(), flags != 0, value.len());
        let new =
            New { key, flags, exptime, extras: Extras::default(), parts: &[value], placed: None };
        let fits = size <= store.config.item_max as usize;
        if !fits || !store.set_short(me, hash, &new, now) {
            return false;
        }
        me.counters.add_class(store.config.classes.of(size), ClassCounter::CmdSet, 1);
        me.counters.add(Counter::TotalItems, 1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Config, Mode};

    const NOW: Now = Now { unix_us: 1_700_000_000_000_000, mono_us: 0 };

    /// Two stores, one of which is asked by the short way where it leads.
    #[test]
    fn the_short_way_does_what_the_ordinary_one_does() {
        let store = || Store::new(Config { memory_limit: 32 << 20, ..Config::default() }, NOW);
        let (mut short, mut long) = (store().handle(), store().handle());
        let (seed, turns) = (7u64, if cfg!(miri) { 300 } else { 60_000 });
        let (mut random, mut led) = (seed, 0);
        for turn in 0..turns {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let [pick, len, odd] = [random >> 33, random >> 41, random >> 49];
            let now = NOW.plus_us(turn * 1000);
            let key = format!("key{}", pick % 3000);
            let value = vec![pick as u8; [3, 30, 300, 9000][len as usize % 4]];
            let flags = if odd % 8 == 0 { 9 } else { 0 };
            let exptime = match odd % 5 {
                0 => Exptime::At(now.unix_secs() + 2),
                _ => Exptime::Never,
            };
            let hash = short.hash(key.as_bytes());
            short.ahead(&[hash]);
            if turn % 3 == 0 {
                let see = |item: &Item<'_>| (item.flags, item.exptime, item.value.to_vec());
                let one = short.get_hashed(hash, key.as_bytes(), now, see);
                let other = long.get(key.as_bytes(), now, see);
                assert!(one == other, "seed {seed}, turn {turn}: {key}");
                continue;
            }
            let set = |handle: &mut Handle| {
                handle.store(Mode::Set, key.as_bytes(), flags, exptime, &value, now);
            };
            match short.set_hashed(hash, key.as_bytes(), flags, exptime, &value, now) {
                true => led += 1,
                false => set(&mut short),
            }
            set(&mut long);
        }
        assert!(led > turns / 4, "only {led} by the short way");
        for counter in [Counter::TotalItems, Counter::GetHits, Counter::GetExpired] {
            let (one, other) = (short.counters().get(counter), long.counters().get(counter));
            assert_eq!(one, other, "{counter:?}, seed {seed}");
        }
        let (one, other) = (short.store_ref().stats(), long.store_ref().stats());
        assert_eq!((one.curr_items, one.bytes), (other.curr_items, other.bytes));
    }
}
