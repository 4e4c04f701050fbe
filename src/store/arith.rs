//! incr and decr.
//!
//! Owns how a number becomes another one: in place where it is not longer, which keeps the item and
//! its marks, else as a new item. What counts as a number is `number`'s to say.

use super::core::{Local, Store};
use super::handle::Look;
use super::index::{Locked, Place};
use super::item::{Extras, Record, Shape};
use super::number;
use super::segment::Open;
use super::{Arith, ArithTerms, Exptime, Handle, Version, Written};
use crate::base::clock::Now;
use crate::base::counters::{ClassCounter, Counter};

/// One incr or decr.
struct Step<'a> {
    store: &'a Store,
    key: &'a [u8],
    hash: u64,
    terms: &'a ArithTerms,
    now: Now,
}

impl Step<'_> {
    /// What the terms make of a number that is stored anew.
    fn extras(&self) -> Extras {
        Extras::of_new(self.terms.binary_key, self.terms.cas)
    }

    /// Writes an item of its own for a number, in the place of what has the key's slot.
    fn write(
        &self,
        me: &mut Local,
        (stripe, place): (&mut Locked<'_>, Place),
        old: Option<(usize, Record)>,
        (flags, exptime, text): (u32, Exptime, &[u8]),
        open: Option<&mut Open>,
    ) -> Look<Version> {
        let (store, arena) = (self.store, &self.store.segments.arena);
        let extras = self.extras();
        let shape = Shape { key: self.key, flags, exptime, extras, vlen: text.len(), large: false };
        let Some(open) = store.with_room(open, shape.size()) else {
            return Look::NeedsRoom(shape.size());
        };
        let record = store.begin(open, &shape, self.now);
        arena.put(record.value_at(), text);
        let version = store.issue(me, self.hash, self.now);
        record.set_version(arena, version, false);
        store.seal_record(open, &record);
        // memcached makes a new item of a number that has grown, and counts it.
        me.counters.add(Counter::TotalItems, 1);
        store.publish(stripe, place, old, &record, &me.counters);
        Look::Done(version)
    }

    /// Nothing is there.
    fn create(
        &self,
        me: &mut Local,
        at: (&mut Locked<'_>, Place),
        open: Option<&mut Open>,
    ) -> Look<Option<Arith>> {
        let Some((exptime, value)) = self.terms.vivify else { return Look::Done(None) };
        let mut digits = itoa::Buffer::new();
        let text = digits.format(value).as_bytes();
        // A remembered delete (or something dead) may still have the slot.
        let old = self.store.find(at.0, at.1, self.key);
        match self.write(me, at, old, (0, exptime, text), open) {
            Look::NeedsRoom(size) => Look::NeedsRoom(size),
            Look::Done(version) => Look::Done(Some(Arith::Value {
                value,
                written: Written { version, cas: self.extras().unique(version), len: text.len() },
                exptime,
                exptime_before: Exptime::Never,
                created: true,
            })),
        }
    }

    /// Writes a number that fits into the place of the old one, with blanks behind it.
    fn overwrite(
        &self,
        me: &mut Local,
        stripe: &mut Locked<'_>,
        found: (usize, Record),
        (exptime, text): (Exptime, &[u8]),
        open: Option<&mut Open>,
    ) -> Look<Version> {
        let (store, arena) = (self.store, &self.store.segments.arena);
        let extras = Extras { cas: self.terms.cas, ..found.1.extras(arena) };
        let to = (exptime, extras);
        let record = match store.amend(stripe, found, to, open, self.now, &me.counters) {
            Look::Done(record) => record,
            Look::NeedsRoom(size) => return Look::NeedsRoom(size),
        };
        let version = store.issue(me, self.hash, self.now);
        arena.put(record.value_at(), text);
        arena.fill(record.value_at() + text.len(), b' ', record.value_len() - text.len());
        record.set_version(arena, version, false);
        stripe.note_use(found.0);
        Look::Done(version)
    }

    /// Something is there.
    fn add(
        &self,
        me: &mut Local,
        (stripe, place): (&mut Locked<'_>, Place),
        found: (usize, Record),
        (incr, delta): (bool, u64),
        open: Option<&mut Open>,
    ) -> Look<Arith> {
        let arena = &self.store.segments.arena;
        let (_, old) = found;
        let (class, _) = self.store.class_of(&old);
        // In memcached's order: nothing is no number, the unique, the digits.
        if old.value_len() == 0 {
            return Look::Done(Arith::NonNumeric);
        }
        let refuses = |compare| compare != 0 && compare != old.cas(arena);
        if self.terms.compare.is_some_and(refuses) {
            return Look::Done(Arith::Exists);
        }
        let number = if old.is_large() { None } else { number::parse(old.value(arena)) };
        let Some(number) = number else { return Look::Done(Arith::NonNumeric) };
        let value = number::add(number, incr, delta);
        let mut digits = itoa::Buffer::new();
        let text = digits.format(value).as_bytes();
        let exptime_before = old.exptime(arena);
        let exptime = self.terms.touch.unwrap_or(exptime_before);
        let len = old.value_len().max(text.len());
        let done = if text.len() <= old.value_len() {
            self.overwrite(me, stripe, found, (exptime, text), open)
        } else {
            let new = (old.flags(arena), exptime, text);
            self.write(me, (stripe, place), Some(found), new, open)
        };
        let version = match done {
            Look::Done(version) => version,
            Look::NeedsRoom(size) => return Look::NeedsRoom(size),
        };
        let (hits, class_hits) = match incr {
            true => (Counter::IncrHits, ClassCounter::IncrHits),
            false => (Counter::DecrHits, ClassCounter::DecrHits),
        };
        me.counters.add(hits, 1);
        me.counters.add_class(class, class_hits, 1);
        let written = Written { version, cas: self.terms.cas.unwrap_or(version.0), len };
        Look::Done(Arith::Value { value, written, exptime, exptime_before, created: false })
    }
}

impl Store {
    /// Makes a record that was written under the stripe's lock reachable, instead of what is at its
    /// key now.
    pub(super) fn publish(
        &self,
        stripe: &mut Locked<'_>,
        place: Place,
        old: Option<(usize, Record)>,
        record: &Record,
        counters: &crate::base::counters::Counters,
    ) {
        match old {
            Some((slot, old)) => {
                let popularity = stripe.popularity(slot);
                self.replace(stripe, slot, popularity, &old, record, counters);
            }
            None => {
                let popularity = stripe.popularity_of_new(place.tag);
                self.link(stripe, place, popularity, record, counters);
            }
        }
    }
}

impl Handle {
    /// `incr` and `decr` by memcached's rules: the result replaces the number in place where it is
    /// not longer, with blanks behind it; flags and exptime stay.
    pub fn arith(&mut self, key: &[u8], incr: bool, delta: u64, now: Now) -> Arith {
        self.arith_with(key, incr, delta, &ArithTerms::default(), now)
    }

    /// `incr` and `decr` with terms that only meta commands (and binary ones) know.
    pub fn arith_with(
        &mut self,
        key: &[u8],
        incr: bool,
        delta: u64,
        terms: &ArithTerms,
        now: Now,
    ) -> Arith {
        let (store, me) = self.split();
        store.settle(now);
        let hash = store.hash(key);
        let step = Step { store, key, hash, terms, now };
        let done = store.look(me, hash, now, |me, stripe, place, open| {
            if let Some(found) = store.fetch(stripe, place, key, now, &me.counters) {
                return step.add(me, (stripe, place), found, (incr, delta), open);
            }
            match step.create(me, (stripe, place), open) {
                Look::NeedsRoom(size) => Look::NeedsRoom(size),
                Look::Done(Some(created)) => Look::Done(created),
                Look::Done(None) => {
                    let misses = if incr { Counter::IncrMisses } else { Counter::DecrMisses };
                    me.counters.add(misses, 1);
                    Look::Done(Arith::NotFound)
                }
            }
        });
        done.unwrap_or_else(|| {
            me.counters.add(Counter::OutOfMemory, 1);
            Arith::OutOfMemory
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Config, Mode};

    const NOW: Now = Now { unix_us: 1_700_000_000_000_000, mono_us: 0 };

    fn handle() -> Handle {
        Store::new(Config { memory_limit: 1 << 20, ..Config::default() }, NOW).handle()
    }

    fn set(handle: &mut Handle, key: &[u8], value: &[u8]) {
        handle.store(Mode::Set, key, 0, Exptime::Never, value, NOW);
    }

    fn value(handle: &mut Handle, key: &[u8]) -> Option<String> {
        let text = handle.get(key, NOW, |item| item.value.to_vec())?;
        String::from_utf8(text).ok()
    }

    fn number(arith: Arith) -> Option<u64> {
        match arith {
            Arith::Value { value, .. } => Some(value),
            _ => None,
        }
    }

    #[test]
    fn numbers_stay_as_long_as_they_were() {
        let mut handle = handle();
        set(&mut handle, b"n", b"100");
        assert_eq!(number(handle.arith(b"n", false, 1, NOW)), Some(99));
        assert_eq!(value(&mut handle, b"n").as_deref(), Some("99 "));
        assert_eq!(number(handle.arith(b"n", true, 901, NOW)), Some(1000));
        assert_eq!(value(&mut handle, b"n").as_deref(), Some("1000"));
        assert_eq!(number(handle.arith(b"n", false, 5000, NOW)), Some(0));
        assert_eq!(value(&mut handle, b"n").as_deref(), Some("0   "));
        assert_eq!(handle.arith(b"none", true, 1, NOW), Arith::NotFound);
        set(&mut handle, b"n", b"ten");
        assert_eq!(handle.arith(b"n", true, 1, NOW), Arith::NonNumeric);
    }
}
