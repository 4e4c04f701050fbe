//! One thread's door to the store: reading, touching and deleting.
//!
//! Owns [`Handle`] and the classic commands that write no value. Storing is in `write`, `concat`
//! and `arith`, what only meta commands ask for in `meta`, what peers ask for in `replica`,
//! housekeeping in `expire`. Small values are read under the lock of their stripe; large ones are
//! pinned and read without it.

use super::core::{Local, Status, Store};
use super::index::{Locked, Place};
use super::item::{Extras, Record, Shape};
use super::large::Snapshot;
use super::segment::Open;
use super::write::IN_PLACE_MAX;
use super::{Exptime, Item, Value, Version};
use crate::base::clock::Now;
use crate::base::counters::{ClassCounter, Counter, Counters};
use std::sync::Arc;

/// How often an operation that needs room for a longer record looks again. It waits for nobody: it
/// fails only if others change the record's length between every two looks.
const ROOM_TRIES: usize = 64;

/// One thread's access to the store. Counts what memcached counts per key: commands (`CmdGet`,
/// `CmdSet`, `CmdTouch`, `CmdFlush`), hits and misses of all kinds, items, evictions. Two handles
/// may be used at the same time; the closures that `get` and others run must not use a handle of
/// the same store.
#[derive(Debug)]
pub struct Handle {
    store: Arc<Store>,
    local: Local,
}

/// What came of reading an item.
pub(super) enum Seen<'a, R> {
    /// Read under the lock.
    Read(R),
    /// To be read once the stripe is unlocked.
    Large(Snapshot<'a>),
}

/// What came of one look at a key.
pub(super) enum Look<R> {
    Done(R),
    /// A record of this size has to be written first.
    NeedsRoom(usize),
}

impl Store {
    /// What a client finds under a key. What is dead there goes, and counts as memcached counts it
    /// whatever the command.
    #[inline(always)]
    pub(super) fn fetch(
        &self,
        stripe: &mut Locked<'_>,
        place: Place,
        key: &[u8],
        now: Now,
        counters: &Counters,
    ) -> Option<(usize, Record)> {
        let found = self.find(stripe, place, key)?;
        match self.status(&found.1, now) {
            Status::Live => Some(found),
            dead => {
                self.drop_dead(stripe, found, dead, now, counters);
                None
            }
        }
    }

    /// Off the way of what is alive.
    #[cold]
    fn drop_dead(
        &self,
        stripe: &mut Locked<'_>,
        (slot, record): (usize, Record),
        status: Status,
        now: Now,
        counters: &Counters,
    ) {
        match status {
            Status::Live | Status::Deleted => {}
            Status::Expired => {
                counters.add(Counter::GetExpired, 1);
                self.drop_expired(stripe, slot, &record, now, counters);
            }
            Status::Flushed => {
                if !record.version(&self.segments.arena).1 {
                    counters.add(Counter::GetFlushed, 1);
                }
                self.unlink(stripe, slot, &record, counters);
            }
        }
    }

    /// A small item, to be read under its stripe's lock.
    #[inline(always)]
    pub(super) fn item(&self, record: &Record, now: Now) -> Item<'_> {
        let arena = &self.segments.arena;
        let (version, access) = record.version_and_access(arena);
        let extras = record.extras(arena);
        let (key, value) = record.key_and_value(arena);
        // What is longer is never written over.
        let value = match value.len() > IN_PLACE_MAX {
            true => Value::placed(value, self, record.value_at()),
            false => Value::from(value),
        };
        Item {
            key,
            flags: record.flags(arena),
            exptime: record.exptime(arena),
            version,
            cas: extras.unique(version),
            marks: extras.marks,
            fetched: access.fetched(),
            last_access_secs: access.idle_secs(now.unix_secs()),
            value,
        }
    }

    /// Reads a small item, or pins a large one. Takes `read` only for a small one.
    pub(super) fn see<R, F: FnOnce(&Item<'_>) -> R>(
        &self,
        record: &Record,
        now: Now,
        read: &mut Option<F>,
    ) -> Option<Seen<'_, R>> {
        if record.is_large() {
            return Some(Seen::Large(self.snapshot(record, now)));
        }
        let read = read.take()?;
        Some(Seen::Read(read(&self.item(record, now))))
    }

    /// A get, see [`Handle::get`].
    #[inline]
    pub(super) fn get<R>(
        &self,
        me: &Local,
        hash: u64,
        key: &[u8],
        now: Now,
        read: impl FnOnce(&Item<'_>) -> R,
    ) -> Option<R> {
        let (mut stripe, place) = self.lock(hash);
        let found = self.fetch(&mut stripe, place, key, now, &me.counters);
        let Some((slot, record)) = found else {
            me.counters.add(Counter::GetMisses, 1);
            return None;
        };
        self.class_counts(&record, ClassCounter::GetHits, &me.counters);
        stripe.note_use(slot);
        if record.is_large() {
            return Some(self.get_large(stripe, &record, now, read));
        }
        let result = read(&self.item(&record, now));
        record.set_used(&self.segments.arena, now.unix_secs(), true);
        Some(result)
    }

    /// Reads a large item without the lock of its stripe.
    #[inline(never)]
    fn get_large<R>(
        &self,
        stripe: Locked<'_>,
        record: &Record,
        now: Now,
        read: impl FnOnce(&Item<'_>) -> R,
    ) -> R {
        let snapshot = self.snapshot(record, now);
        record.set_used(&self.segments.arena, now.unix_secs(), true);
        drop(stripe);
        read(&snapshot.item())
    }

    /// Finishes what [`Store::see`] began, without any lock.
    pub(super) fn finish<R, F: FnOnce(&Item<'_>) -> R>(
        seen: Seen<'_, R>,
        read: Option<F>,
    ) -> Option<R> {
        match seen {
            Seen::Read(result) => Some(result),
            Seen::Large(snapshot) => read.map(|read| read(&snapshot.item())),
        }
    }

    /// Looks at a key under its lock; where that needs room for a new record, finds the room with
    /// no stripe locked and looks again. None when there is no memory.
    pub(super) fn look<R>(
        &self,
        me: &mut Local,
        hash: u64,
        now: Now,
        mut look: impl FnMut(&mut Local, &mut Locked<'_>, Place, Option<&mut Open>) -> Look<R>,
    ) -> Option<R> {
        let (mut stripe, place) = self.lock(hash);
        let mut need = match look(me, &mut stripe, place, None) {
            Look::Done(result) => return Some(result),
            Look::NeedsRoom(size) => size,
        };
        drop(stripe);
        let mut writer = super::core::lock(self.writer(me));
        for _ in 0..ROOM_TRIES {
            if !self.ensure(me, &mut writer, need, now) {
                return None;
            }
            let (mut stripe, place) = self.lock(hash);
            match look(me, &mut stripe, place, writer.open.as_mut()) {
                Look::Done(result) => return Some(result),
                Look::NeedsRoom(size) => need = size,
            }
        }
        None
    }

    /// The open segment, if it has room for `size` bytes.
    pub(super) fn with_room<'o>(
        &self,
        open: Option<&'o mut Open>,
        size: usize,
    ) -> Option<&'o mut Open> {
        open.filter(|open| self.segments.room(open) >= size)
    }

    /// Gives a live record another exptime and other extras, in a new record where the old one has
    /// no room for them. The version stays.
    pub(super) fn amend(
        &self,
        stripe: &mut Locked<'_>,
        (slot, record): (usize, Record),
        (exptime, extras): (Exptime, Extras),
        open: Option<&mut Open>,
        now: Now,
        counters: &Counters,
    ) -> Look<Record> {
        let arena = &self.segments.arena;
        if record.has_room(exptime, extras) {
            record.set_exptime(arena, exptime);
            record.set_extras(arena, extras);
            self.note_due(&record);
            return Look::Done(record);
        }
        let shape = Shape {
            key: record.key(arena),
            flags: record.flags(arena),
            exptime,
            extras,
            vlen: record.value_len(),
            large: record.is_large(),
        };
        let Some(open) = self.with_room(open, shape.size()) else {
            return Look::NeedsRoom(shape.size());
        };
        let to = self.begin(open, &shape, now);
        arena.put(to.value_at(), record.value(arena));
        to.set_version(arena, record.version(arena).0, false);
        to.copy_access(arena, &record);
        self.seal_record(open, &to);
        self.replace_head(stripe, slot, &record, &to, counters);
        Look::Done(to)
    }

    /// The extras that a record needs to be changed and yet keep the CAS unique that clients have
    /// seen: between nodes every change needs a version of its own.
    pub(super) fn keeping_cas(&self, record: &Record) -> Extras {
        let arena = &self.segments.arena;
        let mut extras = record.extras(arena);
        if self.config.replicated {
            extras.cas = Some(extras.unique(record.version(arena).0));
        }
        extras
    }

    /// Makes a change known that is none to clients ([`Store::keeping_cas`]): only peers hear of
    /// it.
    pub(super) fn tell_peers(&self, me: &mut Local, hash: u64, record: &Record, now: Now) {
        if self.config.replicated {
            let version = self.issue(me, hash, now);
            record.set_version(&self.segments.arena, version, false);
        }
    }
}

impl Handle {
    pub(super) fn new(store: Arc<Store>, local: Local) -> Handle {
        Handle { store, local }
    }

    /// The store, and what is this handle's own.
    pub(super) fn split(&mut self) -> (&Store, &mut Local) {
        (&self.store, &mut self.local)
    }

    /// This thread's counters; the server adds its own counts to them.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.local.counters
    }

    /// The store behind it.
    pub fn store_ref(&self) -> &Arc<Store> {
        &self.store
    }

    /// Makes items give way to what [`Store::lend`] has taken. False when they cannot (`-M`): then
    /// it is to be given back.
    pub fn make_way(&mut self, now: Now) -> bool {
        let (store, me) = self.split();
        store.shrink_arena(me, now)
    }

    /// The hash that feeds carry for this key.
    pub fn hash(&self, key: &[u8]) -> u64 {
        self.store.hash(key)
    }

    /// Whether this handle changed something (an item or the flush state) since the last call that
    /// a peer should hear of. A worker asks once per turn of its loop, then raises
    /// [`Store::changed`].
    pub fn take_fed(&mut self) -> bool {
        std::mem::take(&mut self.local.fed)
    }

    /// Whether what this handle left for the replication thread has become so much since the last
    /// call that the thread is to be woken whether or not the signal is up.
    pub fn take_full(&mut self) -> bool {
        std::mem::take(&mut self.local.full)
    }

    /// The version of the last change that this handle made and that a peer should hear of; 0 when
    /// there was none. Never goes back.
    pub fn issued(&self) -> Version {
        self.local.issued
    }

    /// Finds an item for a client: counts a hit or a miss, marks it as used. `read` runs at once,
    /// under a lock for small items: it should copy and return.
    pub fn get<R>(&mut self, key: &[u8], now: Now, read: impl FnOnce(&Item<'_>) -> R) -> Option<R> {
        self.get_hashed(self.hash(key), key, now, read)
    }

    /// Finds an item without counting or marking anything.
    pub fn peek<R>(
        &mut self,
        key: &[u8],
        now: Now,
        read: impl FnOnce(&Item<'_>) -> R,
    ) -> Option<R> {
        let (store, _) = self.split();
        store.settle(now);
        let (stripe, place) = store.lock(store.hash(key));
        let (_, record) = store.find_live(&stripe, place, key, now)?;
        let mut read = Some(read);
        let seen = store.see(&record, now, &mut read)?;
        drop(stripe);
        Store::finish(seen, read)
    }

    /// `gat` and `gats`: gives the item a new exptime and reads it as it is then; a past exptime
    /// deletes it. The CAS unique stays. Counts as a touch, not as a get, as memcached does. None
    /// also where, at the very limit of memory, it cannot be rewritten with room for the exptime.
    pub fn get_and_touch<R>(
        &mut self,
        key: &[u8],
        exptime: Exptime,
        now: Now,
        read: impl FnOnce(&Item<'_>) -> R,
    ) -> Option<R> {
        let (store, me) = self.split();
        store.settle(now);
        me.counters.add(Counter::CmdTouch, 1);
        let mut read = Some(read);
        let hash = store.hash(key);
        let arena = &store.segments.arena;
        let seen = store.look(me, hash, now, |me, stripe, place, open| {
            let Some(found) = store.fetch(stripe, place, key, now, &me.counters) else {
                me.counters.add(Counter::TouchMisses, 1);
                return Look::Done(None);
            };
            let (slot, mut record) = found;
            let gone = exptime.is_past(now.unix_secs());
            if gone {
                // It is read once more with the past exptime that it was given.
                record.set_exptime(arena, exptime);
            } else {
                let (to, counters) = ((exptime, store.keeping_cas(&record)), &me.counters);
                record = match store.amend(stripe, found, to, open, now, counters) {
                    Look::Done(record) => record,
                    Look::NeedsRoom(size) => return Look::NeedsRoom(size),
                };
                store.tell_peers(me, hash, &record, now);
            }
            me.counters.add(Counter::TouchHits, 1);
            store.class_counts(&record, ClassCounter::TouchHits, &me.counters);
            let seen = store.see(&record, now, &mut read);
            record.set_used(arena, now.unix_secs(), true);
            stripe.note_use(slot);
            if gone {
                let version = store.issue(me, hash, now);
                store.remove(stripe, slot, &record, version, &me.counters);
            }
            Look::Done(seen)
        });
        Store::finish(seen??, read)
    }

    /// Gives an item a new exptime (a past one deletes it). Returns its CAS unique, which stays as
    /// it was, or none where [`Handle::get_and_touch`] finds none.
    pub fn touch(&mut self, key: &[u8], exptime: Exptime, now: Now) -> Option<u64> {
        self.get_and_touch(key, exptime, now, |item| item.cas)
    }

    /// Deletes an item. False when it was not there.
    pub fn delete(&mut self, key: &[u8], now: Now) -> bool {
        let (store, me) = self.split();
        store.settle(now);
        let class = store.delete_live(me, key, now);
        match class {
            Some(class) => {
                me.counters.add(Counter::DeleteHits, 1);
                me.counters.add_class(class, ClassCounter::DeleteHits, 1);
            }
            None => me.counters.add(Counter::DeleteMisses, 1),
        }
        class.is_some()
    }

    /// What memcached does with the old item when a `set` cannot be taken (too large, no memory):
    /// it goes, so that no client takes it for the new one. Counts nothing.
    pub fn refuse(&mut self, key: &[u8], now: Now) {
        let (store, me) = self.split();
        store.settle(now);
        store.delete_live(me, key, now);
    }
}

impl Store {
    /// Deletes a live item, with a version of its own. Returns its size class.
    pub(super) fn delete_live(&self, me: &mut Local, key: &[u8], now: Now) -> Option<u8> {
        let hash = self.hash(key);
        let (mut stripe, place) = self.lock(hash);
        let found = self.fetch(&mut stripe, place, key, now, &me.counters);
        let (slot, record) = found?;
        let (class, _) = self.class_of(&record);
        let version = self.issue(me, hash, now);
        self.remove(&mut stripe, slot, &record, version, &me.counters);
        Some(class)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Config, Mode};

    const NOW: Now = Now { unix_us: 1_700_000_000_000_000, mono_us: 0 };

    fn handle() -> Handle {
        let config = Config { memory_limit: 1 << 20, ..Config::default() };
        let mut handle = Store::new(config, NOW).handle();
        handle.store(Mode::Set, b"k", 5, Exptime::Never, b"value", NOW);
        handle
    }

    #[test]
    fn a_get_marks_and_counts_and_a_peek_does_not() {
        let mut handle = handle();
        let later = NOW.plus_us(9_000_000);
        let look = |item: &Item<'_>| (item.fetched, item.last_access_secs);
        assert_eq!(handle.peek(b"k", later, look), Some((false, 9)));
        assert_eq!(handle.get(b"k", later, look), Some((false, 9)));
        assert_eq!(handle.get(b"k", later, look), Some((true, 0)));
        assert_eq!(handle.get(b"none", later, look), None);
        let count = |counter| handle.counters().get(counter);
        assert_eq!(count(Counter::CmdGet), 3);
        assert_eq!((count(Counter::GetHits), count(Counter::GetMisses)), (2, 1));
    }

    #[test]
    fn an_expired_item_is_a_miss_at_once_and_leaves() {
        let mut handle = handle();
        let soon = Exptime::At(NOW.unix_secs() + 1);
        assert!(handle.touch(b"k", soon, NOW).is_some());
        assert_eq!(handle.get(b"k", NOW, |item| (item.flags, item.exptime)), Some((5, soon)));
        let later = NOW.plus_us(1_000_000);
        assert_eq!(handle.get(b"k", later, |_| ()), None);
        assert_eq!(handle.counters().get(Counter::GetExpired), 1);
        assert_eq!(handle.store_ref().stats().curr_items, 0);
    }

    #[test]
    fn a_flushed_item_counts_as_flushed() {
        let mut handle = handle();
        handle.flush_all(None, NOW);
        assert_eq!(handle.get(b"k", NOW, |_| ()), None);
        assert_eq!(handle.counters().get(Counter::GetFlushed), 1);
    }

    #[test]
    fn a_past_exptime_reads_once_more_and_deletes() {
        let mut handle = handle();
        let past = Exptime::At(1);
        let got = handle.get_and_touch(b"k", past, NOW, |item| item.value.to_vec());
        assert_eq!(got.as_deref(), Some(&b"value"[..]));
        assert_eq!(handle.get(b"k", NOW, |_| ()), None);
        assert_eq!(handle.counters().get(Counter::TouchHits), 1);
    }
}
