//! Storage commands: set, add, replace, cas.
//!
//! Owns their rules, and the way every new item goes. What builds on an old value is in `concat`
//! and `arith`. A new record is written to the writer's open segment, a long one before the stripe
//! is locked, and only becomes an item when its condition holds under the lock; otherwise the next
//! record is written over it.
//!
//! ```text
//!  lock writer -> room for the record -> lock stripe -> condition? -> version, write it, link
//!                    ^ reclaim if need be      ^           '- no: leave it unpublished
//!                             a long one is written here
//! ```

use super::core::{lock, Local, Status, Store, Writer};
use super::incoming::{Given, Incoming};
use super::item::{Extras, Record, Shape};
use super::segment::Open;
use super::{memcached_size, Exptime, Handle, Marks, Mode, Stored, Terms, Version, Written};
use crate::base::clock::Now;
use crate::base::counters::{ClassCounter, Counter};

/// A value up to this length that takes the place of one with the same length is written over it:
/// no dead bytes, and the copy under the stripe's lock stays below a microsecond.
const IN_PLACE_MAX: usize = 4096;
/// How often a command that looks first and stores then starts again because somebody else changed
/// the item in between. It waits for nobody: it fails only if others win as often in a row.
pub(super) const CHANGED_TRIES: usize = 64;

/// A new item, before it is one.
#[derive(Clone, Copy)]
pub(super) struct New<'a> {
    pub key: &'a [u8],
    pub flags: u32,
    pub exptime: Exptime,
    pub extras: Extras,
    /// The value, in order, where it is not `placed`.
    pub parts: &'a [&'a [u8]],
    /// The value, where it is in the store already.
    pub placed: Option<&'a Incoming>,
}

impl New<'_> {
    /// What it is once it has been stored at `version`.
    pub fn written(&self, version: Version) -> Written {
        Written { version, cas: self.extras.unique(version), len: self.len() }
    }

    pub fn len(&self) -> usize {
        match self.placed {
            Some(value) => value.total(),
            None => self.parts.iter().map(|part| part.len()).sum(),
        }
    }
}

/// Outcome of putting a new item in place.
pub(super) enum Put<E> {
    Done(Version),
    /// The condition does not hold.
    Refused(E),
    NoRoom,
}

/// Whether a condition is only looked at, or holds from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Nothing may be changed or counted but a refusal.
    Before,
    /// The item is stored if the answer is a version.
    Commit,
}

impl Store {
    /// Puts a new item in place if `decide` gives it a version. `decide` sees what is there under
    /// the stripe's lock: when reclaim may be needed also once before that.
    pub(super) fn put<E>(
        &self,
        me: &mut Local,
        hash: u64,
        new: New<'_>,
        now: Now,
        mut decide: impl FnMut(&mut Local, Option<&Record>, Ask) -> Result<Version, E>,
    ) -> Put<E> {
        let vlen = new.len();
        let New { key, flags, exptime, extras, .. } = new;
        let mut shape = Shape { key, flags, exptime, extras, vlen, large: false };
        let size = shape.size();
        let small = new.placed.is_none() && self.is_small(size, vlen);
        let alone = !small && new.placed.is_none() && self.is_big(vlen);
        let _alone = alone.then(|| lock(&self.big));
        let mut writer = lock(self.writer(me));
        let roomy = writer.open.as_ref().is_some_and(|open| self.segments.room(open) >= size);
        let at_once = roomy && small;
        if !at_once {
            // Do not evict for what will be refused.
            let (stripe, place) = self.lock(hash);
            let old = self.find(&stripe, place, new.key);
            if let Err(refused) = decide(me, old.as_ref().map(|old| &old.1), Ask::Before) {
                return Put::Refused(refused);
            }
        }
        let (mut built, mut extents) = (None, Vec::new());
        if let Some(placed) = new.placed {
            extents = placed.extents();
        } else if !small {
            let Some(chunks) = self.build(me, &mut writer, hash, new.parts, now) else {
                return Put::NoRoom;
            };
            extents = chunks.extents.clone();
            built = Some(chunks);
        }
        if !small {
            shape = Shape { vlen: extents.len(), large: true, ..shape };
        }
        let parts = if small { new.parts } else { &[&extents[..]] };
        if !at_once && !self.ensure(me, &mut writer, shape.size(), now) {
            if let Some(built) = built {
                self.abandon(built);
            }
            return Put::NoRoom;
        }
        let put = self.commit(me, &mut writer, hash, &shape, parts, now, decide);
        drop(writer);
        self.pay(me, vlen + key.len(), now);
        // Where it was stored, the pins go with `built`: its chunks are reachable now.
        if let (Put::Refused(_) | Put::NoRoom, Some(built)) = (&put, built) {
            self.abandon(built);
        }
        put
    }

    /// Writes the record and publishes it. The writer has room for it.
    #[allow(clippy::too_many_arguments)]
    fn commit<E>(
        &self,
        me: &mut Local,
        writer: &mut Writer,
        hash: u64,
        shape: &Shape<'_>,
        parts: &[&[u8]],
        now: Now,
        mut decide: impl FnMut(&mut Local, Option<&Record>, Ask) -> Result<Version, E>,
    ) -> Put<E> {
        let arena = &self.segments.arena;
        let Some(open) = writer.open.as_mut() else { return Put::NoRoom };
        let put_parts = |mut to: usize| {
            for part in parts {
                arena.put(to, part);
                to += part.len();
            }
        };
        let write = |open: &Open| {
            let record = self.begin(open, shape, now);
            put_parts(record.value_at());
            record
        };
        // What is quickly copied is written when it is known where to.
        let brief = shape.vlen <= IN_PLACE_MAX;
        let written = if brief { None } else { Some(write(open)) };
        let (mut stripe, place) = self.lock(hash);
        let old = self.find(&stripe, place, shape.key);
        let version = match decide(me, old.as_ref().map(|old| &old.1), Ask::Commit) {
            Ok(version) => version,
            Err(refused) => return Put::Refused(refused),
        };
        if let Some((slot, old)) = &old {
            if brief && old.fits_in_place(shape) && self.status(old, now) == Status::Live {
                put_parts(old.value_at());
                old.set_flags(arena, shape.flags);
                old.set_exptime(arena, shape.exptime);
                old.set_extras(arena, shape.extras);
                old.set_version(arena, version, false);
                old.set_used(arena, now.unix_secs(), false);
                if let Exptime::At(secs) = shape.exptime {
                    self.segments.meta_at(old.at).expires(secs);
                }
                stripe.note_use(*slot);
                return Put::Done(version);
            }
        }
        let record = written.unwrap_or_else(|| write(open));
        match old {
            Some((slot, old)) => {
                record.set_version(arena, version, false);
                self.seal_record(open, &record);
                let popularity = stripe.popularity(slot);
                self.count_reclaimed(&old, now, &me.counters);
                self.replace(&mut stripe, slot, popularity, &old, &record, &me.counters);
            }
            None => {
                record.set_version(arena, version, false);
                self.seal_record(open, &record);
                let popularity = stripe.popularity_of_new(place.tag);
                self.link(&mut stripe, place, popularity, &record, &me.counters);
            }
        }
        Put::Done(version)
    }

    /// Whether the mode's condition holds for what is there; counts what memcached counts, on a
    /// commit also what is dead and makes place.
    #[inline]
    fn check(
        &self,
        me: &Local,
        mode: Mode,
        old: Option<&Record>,
        ask: Ask,
        now: Now,
    ) -> Result<(), Stored> {
        let arena = &self.segments.arena;
        let status = old.map(|old| self.status(old, now));
        let live = old.filter(|_| status == Some(Status::Live));
        match (mode, live) {
            (Mode::Add, Some(old)) => {
                // A use, but no get, as in memcached.
                old.set_used(arena, now.unix_secs(), old.fetched(arena));
                return Err(Stored::NotStored);
            }
            (Mode::Replace | Mode::Append | Mode::Prepend, None) => {
                return Err(Stored::NotStored);
            }
            (Mode::Cas(_), None) => {
                me.counters.add(Counter::CasMisses, 1);
                return Err(Stored::NotFound);
            }
            (Mode::Cas(unique), Some(old)) if unique == 0 || old.cas(arena) != unique => {
                me.counters.add(Counter::CasBadval, 1);
                self.class_counts(old, ClassCounter::CasBadval, &me.counters);
                return Err(Stored::Exists);
            }
            _ => {}
        }
        if let (Some(old), None, Ask::Commit) = (old, live, ask) {
            match status {
                Some(Status::Expired) => me.counters.add(Counter::GetExpired, 1),
                Some(Status::Flushed) if !old.version(arena).1 => {
                    me.counters.add(Counter::GetFlushed, 1);
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn count_stored(&self, me: &Local, mode: Mode) {
        me.counters.add(Counter::TotalItems, 1);
        if matches!(mode, Mode::Cas(_)) {
            me.counters.add(Counter::CasHits, 1);
        }
    }

    /// set, add, replace, cas.
    pub(super) fn store_new(&self, me: &mut Local, mode: Mode, new: New<'_>, now: Now) -> Stored {
        let hash = self.hash(new.key);
        let put = self.put(me, hash, new, now, |me, old, ask| {
            self.check(me, mode, old, ask, now)?;
            Ok(match ask {
                Ask::Before => Version(0),
                Ask::Commit => self.issue_new(me, hash, &new, now),
            })
        });
        match put {
            Put::Done(version) => {
                self.count_stored(me, mode);
                Stored::Stored(new.written(version))
            }
            Put::Refused(refused) => {
                if matches!(mode, Mode::Replace | Mode::Cas(_)) && refused != Stored::Exists {
                    // What is dead there goes at once, and is counted, as in memcached.
                    let (mut stripe, place) = self.lock(hash);
                    self.fetch(&mut stripe, place, new.key, now, &me.counters);
                }
                refused
            }
            Put::NoRoom => Stored::OutOfMemory,
        }
    }

    /// What a look that is to be followed by a put has seen of a record.
    pub(super) fn state(&self, record: &Record) -> (Version, Exptime, Extras) {
        let arena = &self.segments.arena;
        (record.version(arena).0, record.exptime(arena), record.extras(arena))
    }

    /// Puts a new item in the place of one that is still in the state that was seen.
    pub(super) fn put_over(
        &self,
        me: &mut Local,
        new: New<'_>,
        seen: (Version, Exptime, Extras),
        now: Now,
    ) -> Put<()> {
        let hash = self.hash(new.key);
        self.put(me, hash, new, now, |me, old, ask| {
            let same =
                |old: &Record| self.status(old, now) == Status::Live && self.state(old) == seen;
            match (old.is_some_and(same), ask) {
                (false, _) => Err(()),
                (true, Ask::Before) => Ok(Version(0)),
                (true, Ask::Commit) => Ok(self.issue_new(me, hash, &new, now)),
            }
        })
    }

    /// cas that may store something out of date: where the unique is lower than the item's, what is
    /// stored takes over its exptime and win, and stays stale.
    fn store_stale(&self, me: &mut Local, unique: u64, new: New<'_>, now: Now) -> Stored {
        let arena = &self.segments.arena;
        for _ in 0..CHANGED_TRIES {
            let (mut stripe, place) = self.lock(self.hash(new.key));
            let old = self.fetch(&mut stripe, place, new.key, now, &me.counters);
            let older = old.filter(|(_, old)| unique != 0 && unique < old.cas(arena));
            let seen = older.map(|(_, old)| self.state(&old));
            drop(stripe);
            let Some(seen) = seen else { return self.store_new(me, Mode::Cas(unique), new, now) };
            let (_, exptime, Extras { marks: Marks { won, .. }, .. }) = seen;
            let marks = Marks { stale: true, won, ..new.extras.marks };
            let stale = New { exptime, extras: Extras { marks, ..new.extras }, ..new };
            match self.put_over(me, stale, seen, now) {
                Put::Done(version) => {
                    self.count_stored(me, Mode::Cas(unique));
                    return Stored::Stored(stale.written(version));
                }
                Put::NoRoom => return Stored::OutOfMemory,
                Put::Refused(()) => {}
            }
        }
        Stored::OutOfMemory
    }
}

impl Handle {
    /// A storage command. What has a past exptime is stored all the same, and found expired, as in
    /// memcached. Where a `Set` is refused the old item goes, as there.
    pub fn store(
        &mut self,
        mode: Mode,
        key: &[u8],
        flags: u32,
        exptime: Exptime,
        value: &[u8],
        now: Now,
    ) -> Stored {
        self.store_with(mode, key, flags, exptime, value, &Terms::PLAIN, now)
    }

    /// A storage command with terms that only meta commands know.
    #[allow(clippy::too_many_arguments)]
    pub fn store_with(
        &mut self,
        mode: Mode,
        key: &[u8],
        flags: u32,
        exptime: Exptime,
        value: &[u8],
        terms: &Terms,
        now: Now,
    ) -> Stored {
        self.store_value(mode, key, flags, exptime, value, None, terms, now)
    }

    /// The same with a value that may be in the store already: it was taken in for this key, and is
    /// complete. Where it is not stored its memory goes.
    #[allow(clippy::too_many_arguments)]
    pub fn store_given(
        &mut self,
        mode: Mode,
        key: &[u8],
        flags: u32,
        exptime: Exptime,
        value: Given<'_>,
        terms: &Terms,
        now: Now,
    ) -> Stored {
        let placed = match value {
            Given::Bytes(value) => {
                return self.store_value(mode, key, flags, exptime, value, None, terms, now);
            }
            Given::Placed(placed) => placed,
        };
        debug_assert_eq!(placed.here(), placed.total());
        if matches!(mode, Mode::Append | Mode::Prepend) {
            // A part of a value.
            let value: Vec<u8> = placed.parts().flatten().copied().collect();
            return self.store_value(mode, key, flags, exptime, &value, None, terms, now);
        }
        let stored = self.store_value(mode, key, flags, exptime, b"", Some(&*placed), terms, now);
        if let Stored::Stored(_) = stored {
            placed.publish();
        }
        stored
    }

    #[allow(clippy::too_many_arguments)]
    fn store_value(
        &mut self,
        mode: Mode,
        key: &[u8],
        flags: u32,
        exptime: Exptime,
        value: &[u8],
        placed: Option<&Incoming>,
        terms: &Terms,
        now: Now,
    ) -> Stored {
        let (store, me) = self.split();
        store.settle(now);
        let extras = Extras::of_new(terms.binary_key, terms.cas);
        let new = New { key, flags, exptime, extras, parts: &[value], placed };
        let size = memcached_size(key.len(), flags != 0, new.len());
        let class = store.config.classes.of(size);
        me.counters.add_class(class, ClassCounter::CmdSet, 1);
        let fits = size <= store.config.item_max as usize;
        let stored = if !fits {
            Stored::TooLarge
        } else {
            match mode {
                Mode::Append | Mode::Prepend => store.concat(me, mode, new, terms, now),
                Mode::Cas(unique) if terms.stale_if_older => {
                    store.store_stale(me, unique, new, now)
                }
                _ => store.store_new(me, mode, new, now),
            }
        };
        match stored {
            // As memcached: growing beyond the limit is not one that was sent too large.
            Stored::TooLarge => me.counters.add(Counter::TooLarge, u64::from(!fits)),
            Stored::OutOfMemory => {
                me.counters.add(Counter::OutOfMemory, 1);
                me.counters.add_class(class, ClassCounter::OutOfMemory, 1);
            }
            _ => {
                if let (Mode::Cas(_), Stored::Stored(_)) = (mode, stored) {
                    me.counters.add_class(class, ClassCounter::CasHits, 1);
                }
                return stored;
            }
        }
        if mode == Mode::Set {
            store.delete_live(me, key, now);
        }
        stored
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Config;

    const NOW: Now = Now { unix_us: 1_700_000_000_000_000, mono_us: 0 };

    fn handle() -> Handle {
        Store::new(Config { memory_limit: 1 << 20, ..Config::default() }, NOW).handle()
    }

    fn set(handle: &mut Handle, key: &[u8], value: &[u8]) -> Stored {
        handle.store(Mode::Set, key, 0, Exptime::Never, value, NOW)
    }

    fn value(handle: &mut Handle, key: &[u8]) -> Option<String> {
        let text = handle.get(key, NOW, |item| item.value.to_vec())?;
        String::from_utf8(text).ok()
    }

    #[test]
    fn a_value_of_the_same_length_is_written_over() {
        let mut handle = handle();
        set(&mut handle, b"k", b"one");
        let before = handle.store_ref().segments.allocated();
        for _ in 0..if cfg!(miri) { 10 } else { 100_000 } {
            set(&mut handle, b"k", b"two");
        }
        assert_eq!(handle.store_ref().segments.allocated(), before);
        assert_eq!(value(&mut handle, b"k").as_deref(), Some("two"));
    }

    #[test]
    fn what_is_stored_with_a_past_exptime_is_found_expired() {
        let mut handle = handle();
        set(&mut handle, b"k", b"old");
        let past = Exptime::At(NOW.unix_secs());
        let stored = handle.store(Mode::Set, b"k", 0, past, b"new", NOW);
        assert!(matches!(stored, Stored::Stored(_)));
        assert_eq!(value(&mut handle, b"k"), None);
        let stored = handle.store(Mode::Replace, b"k", 0, past, b"new", NOW);
        assert_eq!(stored, Stored::NotStored);
        assert_eq!(handle.store_ref().stats().curr_items, 0);
        assert_eq!(handle.counters().get(Counter::GetExpired), 1);
    }

    #[test]
    fn the_limit_on_items_is_memcacheds() {
        let mut handle = handle();
        // memcached 1.6.18 with -I 1m takes 1048576 - 59 - 1 bytes under a key of one byte.
        let store = Store::new(Config::default(), NOW);
        assert!(store.config().fits(1, 0, (1 << 20) - 60));
        assert!(!store.config().fits(1, 0, (1 << 20) - 59));
        assert_eq!(set(&mut handle, b"k", &vec![0; 1 << 20]), Stored::TooLarge);
    }
}
