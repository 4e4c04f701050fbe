//! What only meta commands ask for: gets that touch, make or win an item; deletes that leave some
//! of it.
//!
//! Owns the rules of stale items and of wins: of all who ask for an item that is stale (or soon
//! will be, or was never there), one is told to make it anew. Winning is a change: peers hear of
//! it, so that of two clients of a pair one wins once the nodes have told each other.
//!
//! ```text
//!              delete, stale                 meta get                  store
//!   item ---------------------> stale item ----------> stale, won ------------> item
//!     |  meta get, soon to expire                           ^
//!     +-----------------------> won    ---- (as it is) -----'
//! ```

use super::core::{Local, Store, FREQ_MAX};
use super::handle::{Look, Seen};
use super::index::{Locked, Place};
use super::item::{Extras, Record, Shape};
use super::segment::Open;
use super::{DeleteTerms, Deleted, Exptime, Found, GetTerms, Handle, Item, Marks};
use crate::base::clock::Now;
use crate::base::counters::{ClassCounter, Counter};

/// One meta get.
struct Get<'a> {
    store: &'a Store,
    key: &'a [u8],
    hash: u64,
    terms: &'a GetTerms,
    now: Now,
}

/// What it came upon (or made).
struct Hit {
    /// Where it has a slot: one that was made is too new to be popular.
    slot: Option<usize>,
    record: Record,
    /// The marks before this call.
    marks: Marks,
    found: Found,
    /// It was given a past exptime, and goes once it was read.
    gone: bool,
}

impl<'a> Get<'a> {
    /// Makes an empty item, and wins it.
    fn create(
        &self,
        me: &mut Local,
        (stripe, place): (&mut Locked<'_>, Place),
        exptime: Exptime,
        open: Option<&mut Open>,
    ) -> Look<Hit> {
        let (store, arena) = (self.store, &self.store.segments.arena);
        let before = Extras::of_new(self.terms.binary_key, self.terms.cas);
        let extras = Extras { marks: Marks { won: true, ..before.marks }, ..before };
        let shape = Shape { key: self.key, flags: 0, exptime, extras, vlen: 0, large: false };
        let Some(open) = store.with_room(open, shape.size()) else {
            return Look::NeedsRoom(shape.size());
        };
        let record = store.begin(open, &shape, self.now);
        let version = store.issue(me, self.hash, self.now);
        record.set_version(arena, version, false);
        store.seal_record(open, &record);
        // A remembered delete (or something dead) may still have the slot.
        let old = store.find(stripe, place, self.key);
        store.publish(stripe, place, old, &record, &me.counters);
        me.counters.add(Counter::TotalItems, 1);
        let found = Found { created: true, won: true, exptime_before: Exptime::Never };
        Look::Done(Hit { slot: None, record, marks: before.marks, found, gone: false })
    }

    /// Whether an item with these marks and this exptime is won by who asks now.
    fn wins(&self, marks: Marks, (before, after): (Exptime, Exptime)) -> bool {
        let exptime = if self.terms.recache_first { before } else { after };
        let soon = |recache: u32| matches!(exptime, Exptime::At(secs) if secs < recache);
        !marks.won && (marks.stale || self.terms.recache.is_some_and(soon))
    }

    /// Touches and marks an item that is there, as far as that is asked for.
    fn update(
        &self,
        me: &mut Local,
        stripe: &mut Locked<'_>,
        (slot, record): (usize, Record),
        open: Option<&mut Open>,
    ) -> Look<Hit> {
        let (store, arena) = (self.store, &self.store.segments.arena);
        let marks = record.extras(arena).marks;
        let exptime_before = record.exptime(arena);
        let exptime = self.terms.touch.unwrap_or(exptime_before);
        let won = self.wins(marks, (exptime_before, exptime));
        let found = Found { created: false, won, exptime_before };
        let gone = self.terms.touch.is_some() && exptime.is_past(self.now.unix_secs());
        let mut hit = Hit { slot: Some(slot), record, marks, found, gone };
        if gone {
            record.set_exptime(arena, exptime);
        } else if won || self.terms.touch.is_some() {
            let mut extras = store.keeping_cas(&record);
            extras.marks.won |= won;
            let to = (exptime, extras);
            hit.record = match store.amend(stripe, (slot, record), to, open, self.now, &me.counters)
            {
                Look::Done(record) => record,
                Look::NeedsRoom(size) => return Look::NeedsRoom(size),
            };
            store.tell_peers(me, self.hash, &hit.record, self.now);
        }
        Look::Done(hit)
    }

    /// Reads a hit, marks it as used, and lets it go where that was asked for.
    fn read<R, F: FnOnce(&Item<'_>, Found) -> R>(
        &self,
        me: &mut Local,
        stripe: &mut Locked<'_>,
        hit: &Hit,
        read: &mut Option<F>,
    ) -> Option<Seen<'a, R>> {
        let store = self.store;
        let seen = if hit.record.is_large() {
            let mut snapshot = store.snapshot(&hit.record, self.now);
            snapshot.extras.marks = hit.marks;
            Seen::Large(snapshot)
        } else {
            let item = Item { marks: hit.marks, ..store.item(&hit.record, self.now) };
            Seen::Read(read.take()?(&item, hit.found))
        };
        if !self.terms.no_update {
            hit.record.set_used(&store.segments.arena, self.now.unix_secs(), true);
            if let Some(slot) = hit.slot {
                stripe.bump(slot, FREQ_MAX);
            }
        }
        if let (true, Some(slot)) = (hit.gone, hit.slot) {
            let version = store.issue(me, self.hash, self.now);
            store.remove(stripe, slot, &hit.record, version, &me.counters);
        }
        Some(seen)
    }
}

impl Handle {
    /// Meta get: finds an item and does to it what `terms` ask for. `read` gets it with the new
    /// exptime, but with the marks and the use from before this call; it runs at once, under a lock
    /// for small items, and should copy and return. Where there is no memory for a win or a touch
    /// the item is read without it.
    ///
    /// Counts as memcached does: with a touch that hits as a touch, else as a get.
    pub fn meta_get<R>(
        &mut self,
        key: &[u8],
        terms: &GetTerms,
        now: Now,
        read: impl FnOnce(&Item<'_>, Found) -> R,
    ) -> Option<R> {
        let (store, me) = self.split();
        store.settle(now);
        let hash = store.hash(key);
        let get = Get { store, key, hash, terms, now };
        let mut read = Some(read);
        let mut found = None;
        let seen = store.look(me, hash, now, |me, stripe, place, open| {
            let hit = match (store.fetch(stripe, place, key, now, &me.counters), terms.vivify) {
                (Some(live), _) => get.update(me, stripe, live, open),
                (None, Some(exptime)) => get.create(me, (stripe, place), exptime, open),
                (None, None) => return Look::Done(None),
            };
            match hit {
                Look::NeedsRoom(size) => Look::NeedsRoom(size),
                Look::Done(hit) => {
                    found = Some(hit.found);
                    let hits = match terms.touch {
                        Some(_) => ClassCounter::TouchHits,
                        None => ClassCounter::GetHits,
                    };
                    store.class_counts(&hit.record, hits, &me.counters);
                    Look::Done(get.read(me, stripe, &hit, &mut read))
                }
            }
        });
        let Some(seen) = seen else {
            // No memory for what was asked.
            let read = read?;
            return store.get(me, store.hash(key), key, now, |item| {
                let exptime_before = item.exptime;
                read(item, Found { created: false, won: false, exptime_before })
            });
        };
        match (found, terms.touch) {
            (Some(_), Some(_)) => {
                me.counters.add(Counter::CmdTouch, 1);
                me.counters.add(Counter::TouchHits, 1);
            }
            // Counted by its class.
            (Some(_), None) => {}
            (None, _) => me.counters.add(Counter::GetMisses, 1),
        }
        match (seen?, read, found) {
            (Seen::Read(result), ..) => Some(result),
            (Seen::Large(snapshot), Some(read), Some(found)) => Some(read(&snapshot.item(), found)),
            (Seen::Large(_), ..) => None,
        }
    }

    /// A delete with terms that only meta commands know: it may compare, and leave a stale or an
    /// empty item behind.
    pub fn delete_with(&mut self, key: &[u8], terms: &DeleteTerms, now: Now) -> Deleted {
        let (store, me) = self.split();
        store.settle(now);
        let hash = store.hash(key);
        let arena = &store.segments.arena;
        let done = store.look(me, hash, now, |me, stripe, place, open| {
            let Some((slot, old)) = store.fetch(stripe, place, key, now, &me.counters) else {
                me.counters.add(Counter::DeleteMisses, 1);
                return Look::Done(Deleted::NotFound);
            };
            if terms.compare.is_some_and(|compare| compare != old.cas(arena)) {
                let missed = u64::from(!terms.uncounted_mismatch);
                me.counters.add(Counter::DeleteMisses, missed);
                return Look::Done(Deleted::Exists);
            }
            let (class, _) = store.class_of(&old);
            if terms.remove_value {
                let shape = terms.remains(key, old.cas(arena));
                let Some(open) = store.with_room(open, shape.size()) else {
                    return Look::NeedsRoom(shape.size());
                };
                let record = store.begin(open, &shape, now);
                record.set_version(arena, store.issue(me, hash, now), false);
                store.seal_record(open, &record);
                store.publish(stripe, place, Some((slot, old)), &record, &me.counters);
                me.counters.add(Counter::TotalItems, 1);
            } else if terms.stale {
                let Extras { marks, .. } = old.extras(arena);
                let marks = Marks { stale: true, won: false, ..marks };
                let exptime = terms.exptime.unwrap_or(old.exptime(arena));
                let to = (exptime, Extras { marks, cas: terms.cas });
                let record = match store.amend(stripe, (slot, old), to, open, now, &me.counters) {
                    Look::Done(record) => record,
                    Look::NeedsRoom(size) => return Look::NeedsRoom(size),
                };
                record.set_version(arena, store.issue(me, hash, now), false);
            } else {
                let version = store.issue(me, hash, now);
                store.remove(stripe, slot, &old, version, &me.counters);
            }
            if !terms.stale {
                me.counters.add(Counter::DeleteHits, 1);
                me.counters.add_class(class, ClassCounter::DeleteHits, 1);
            }
            Look::Done(Deleted::Deleted)
        });
        done.unwrap_or(Deleted::OutOfMemory)
    }
}

impl DeleteTerms {
    /// The empty item that is left of one with this CAS unique.
    fn remains<'k>(&self, key: &'k [u8], cas: u64) -> Shape<'k> {
        let keep = if self.stale { None } else { Some(cas) };
        let mut extras = Extras::of_new(self.binary_key, self.cas.or(keep));
        extras.marks.stale = self.stale;
        let exptime = self.exptime.unwrap_or(Exptime::Never);
        Shape { key, flags: self.flags, exptime, extras, vlen: 0, large: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Arith, ArithTerms, Config, Mode, Stored, Terms, Written};

    const NOW: Now = Now { unix_us: 1_700_000_000_000_000, mono_us: 0 };
    const SECS: u32 = 1_700_000_000;

    fn handle(replicated: bool) -> Handle {
        let config = Config { memory_limit: 1 << 20, replicated, ..Config::default() };
        Store::new(config, NOW).handle()
    }

    fn set(handle: &mut Handle, exptime: Exptime, value: &[u8]) -> Written {
        store(handle, Mode::Set, exptime, value, Terms::default())
    }

    fn store(
        handle: &mut Handle,
        mode: Mode,
        exptime: Exptime,
        value: &[u8],
        terms: Terms,
    ) -> Written {
        match handle.store_with(mode, b"k", 7, exptime, value, &terms, NOW) {
            Stored::Stored(written) => written,
            other => panic!("{other:?}"),
        }
    }

    /// What a client is told: marks before, whether it won, the unique.
    fn ask(handle: &mut Handle, terms: GetTerms) -> Option<(Marks, bool, u64)> {
        handle.meta_get(b"k", &terms, NOW, |item, found| (item.marks, found.won, item.cas))
    }

    fn cas(handle: &mut Handle) -> Option<u64> {
        handle.peek(b"k", NOW, |item| item.cas)
    }

    fn count(handle: &Handle, counter: Counter) -> u64 {
        handle.counters().get(counter)
    }

    fn make_stale(handle: &mut Handle) {
        let terms = DeleteTerms { stale: true, ..DeleteTerms::default() };
        assert_eq!(handle.delete_with(b"k", &terms, NOW), Deleted::Deleted);
    }

    #[test]
    fn of_all_who_ask_for_a_stale_item_one_wins() {
        for (replicated, len) in [(false, 5), (true, 5), (true, 100_000)] {
            let mut handle = handle(replicated);
            let before = set(&mut handle, Exptime::Never, &vec![b'v'; len]);
            make_stale(&mut handle);
            assert_eq!(count(&handle, Counter::DeleteHits), 0);
            let (stale, won) = (Marks { stale: true, ..Marks::default() }, true);
            let unique = cas(&mut handle).expect("it is still there");
            assert!(unique > before.cas);
            let newest = handle.store_ref().newest();
            assert_eq!(ask(&mut handle, GetTerms::default()), Some((stale, won, unique)));
            let taken = Marks { won, ..stale };
            assert_eq!(ask(&mut handle, GetTerms::default()), Some((taken, false, unique)));
            // Peers hear of the win.
            assert_eq!(handle.store_ref().newest() > newest, replicated);
            // Who comes late stores something stale; who has won stores something new.
            let terms = Terms { stale_if_older: true, ..Terms::default() };
            let late = Mode::Cas(before.cas);
            let written = store(&mut handle, late, Exptime::Never, b"late", terms);
            assert_eq!(ask(&mut handle, GetTerms::default()), Some((taken, false, written.cas)));
            let won = Mode::Cas(written.cas);
            let written = store(&mut handle, won, Exptime::Never, b"new", terms);
            let fresh = Some((Marks::default(), false, written.cas));
            assert_eq!(ask(&mut handle, GetTerms::default()), fresh);
        }
    }

    #[test]
    fn an_item_that_expires_soon_is_won_once() {
        let mut handle = handle(true);
        set(&mut handle, Exptime::At(SECS + 20), b"v");
        let won = |handle: &mut Handle, terms| ask(handle, terms).is_some_and(|asked| asked.1);
        let recache = |secs| GetTerms { recache: Some(SECS + secs), ..GetTerms::default() };
        assert!(!won(&mut handle, recache(20)));
        // A touch counts if it was written first.
        let touch = Some(Exptime::At(SECS + 100));
        assert!(!won(&mut handle, GetTerms { touch, ..recache(30) }));
        let first = GetTerms { recache_first: true, touch, ..recache(101) };
        assert!(won(&mut handle, first));
        assert!(!won(&mut handle, recache(101)));
        set(&mut handle, Exptime::Never, b"v");
        assert!(!won(&mut handle, recache(10_000)), "what never expires is not won");
    }

    #[test]
    fn a_miss_can_be_made_and_won() {
        let mut handle = handle(true);
        let exptime = Exptime::At(SECS + 30);
        let vivify = GetTerms { vivify: Some(exptime), cas: Some(9), ..GetTerms::default() };
        let made = |handle: &mut Handle| {
            handle.meta_get(b"k", &vivify, NOW, |item, found| {
                assert_eq!((item.value.len(), item.exptime, item.flags), (0, exptime, 0));
                (found.created, found.won, item.marks.won, item.cas)
            })
        };
        assert_eq!(made(&mut handle), Some((true, true, false, 9)));
        assert_eq!(made(&mut handle), Some((false, false, true, 9)));
        assert_eq!((count(&handle, Counter::GetHits), count(&handle, Counter::GetMisses)), (2, 0));
        assert_eq!(count(&handle, Counter::TotalItems), 1);
        // In the place of a remembered delete.
        assert!(handle.delete(b"k", NOW));
        assert_eq!(made(&mut handle), Some((true, true, false, 9)));
        assert_eq!(handle.store_ref().stats().tombstones, 0);
    }

    #[test]
    fn a_meta_get_counts_as_memcached_does() {
        let mut handle = handle(false);
        set(&mut handle, Exptime::Never, b"v");
        let seen = |handle: &mut Handle, terms: GetTerms| {
            let later = NOW.plus_us(5_000_000);
            handle.meta_get(b"k", &terms, later, |item, _| (item.fetched, item.last_access_secs))
        };
        let quiet = GetTerms { no_update: true, ..GetTerms::default() };
        assert_eq!(seen(&mut handle, quiet), Some((false, 5)));
        assert_eq!(seen(&mut handle, GetTerms::default()), Some((false, 5)));
        assert_eq!(seen(&mut handle, quiet), Some((true, 0)));
        let touch = Some(Exptime::At(SECS + 5));
        let touched = GetTerms { touch, ..GetTerms::default() };
        assert_eq!(ask(&mut handle, touched).map(|asked| asked.1), Some(false));
        assert_eq!(seen(&mut handle, touched), None, "it has expired");
        let counts = [Counter::CmdGet, Counter::GetHits, Counter::GetMisses, Counter::GetExpired];
        assert_eq!(counts.map(|counter| count(&handle, counter)), [4, 3, 1, 1]);
        let counts = [Counter::CmdTouch, Counter::TouchHits, Counter::TouchMisses];
        assert_eq!(counts.map(|counter| count(&handle, counter)), [1, 1, 0]);
    }

    #[test]
    fn a_delete_compares_and_may_leave_an_empty_item() {
        let mut handle = handle(true);
        let with = |terms: DeleteTerms, handle: &mut Handle| handle.delete_with(b"k", &terms, NOW);
        let plain = DeleteTerms::default();
        assert_eq!(with(plain, &mut handle), Deleted::NotFound);
        let written = set(&mut handle, Exptime::Never, b"v");
        for wrong in [0, 1, written.cas + 1] {
            let compare = Some(wrong);
            assert_eq!(with(DeleteTerms { compare, ..plain }, &mut handle), Deleted::Exists);
        }
        assert_eq!(count(&handle, Counter::DeleteMisses), 4);
        let empty = DeleteTerms { remove_value: true, flags: 3, ..plain };
        assert_eq!(with(empty, &mut handle), Deleted::Deleted);
        let read = |item: &Item<'_>| (item.value.len(), item.flags, item.exptime, item.cas);
        let left = handle.peek(b"k", NOW, read);
        assert_eq!(left, Some((0, 3, Exptime::Never, written.cas)), "the unique stays");
        let exptime = Some(Exptime::At(SECS + 9));
        let both = DeleteTerms { stale: true, exptime, cas: Some(5), ..empty };
        assert_eq!(with(both, &mut handle), Deleted::Deleted);
        let left = handle.peek(b"k", NOW, |item| (item.marks.stale, item.exptime, item.cas));
        assert_eq!(left, Some((true, Exptime::At(SECS + 9), 5)));
        assert_eq!(with(DeleteTerms { compare: Some(5), ..plain }, &mut handle), Deleted::Deleted);
        assert_eq!(handle.store_ref().stats().curr_items, 0);
        assert_eq!(count(&handle, Counter::DeleteHits), 2);
    }

    #[test]
    fn an_explicit_unique_is_the_one_that_clients_see_until_the_next_write() {
        let mut handle = handle(true);
        let with = |cas| Terms { cas: Some(cas), ..Terms::default() };
        for unique in [u64::MAX, 0, 1] {
            let written = store(&mut handle, Mode::Set, Exptime::Never, b"v", with(unique));
            assert_eq!((written.cas, cas(&mut handle)), (unique, Some(unique)));
            assert_ne!(written.version.0, unique);
            // Touched and asked for, it stays; 0 is none that could be compared with.
            assert_eq!(handle.touch(b"k", Exptime::At(SECS + 9), NOW), Some(unique));
            let never = handle.store(Mode::Cas(0), b"k", 0, Exptime::Never, b"w", NOW);
            assert_eq!(never, Stored::Exists);
            if unique != 0 {
                store(&mut handle, Mode::Cas(unique), Exptime::Never, b"w", with(8));
                let compare = Terms { compare: Some(9), ..Terms::default() };
                let other =
                    handle.store_with(Mode::Append, b"k", 0, Exptime::Never, b"x", &compare, NOW);
                assert_eq!(other, Stored::Exists);
                let compare = Terms { compare: Some(8), ..with(6) };
                let written = store(&mut handle, Mode::Append, Exptime::Never, b"x", compare);
                assert_eq!((written.cas, written.len), (6, 2));
            }
            let written = set(&mut handle, Exptime::Never, b"v");
            assert_eq!((written.cas, cas(&mut handle)), (written.version.0, Some(written.cas)));
        }
    }

    #[test]
    fn appending_to_nothing_may_make_an_item() {
        let mut handle = handle(false);
        let exptime = Exptime::At(SECS + 9);
        let terms = Terms { vivify: Some(exptime), compare: Some(5), ..Terms::default() };
        store(&mut handle, Mode::Append, Exptime::Never, b"one", terms);
        let read = |item: &Item<'_>| (item.value.to_vec(), item.flags, item.exptime);
        assert_eq!(handle.peek(b"k", NOW, read), Some((b"one".to_vec(), 7, exptime)));
        let compare = Terms { compare: Some(0), ..terms };
        let written = store(&mut handle, Mode::Prepend, Exptime::Never, b"two", compare);
        assert_eq!(written.len, 6);
        assert_eq!(count(&handle, Counter::TotalItems), 2);
    }

    #[test]
    fn numbers_are_made_touched_and_keep_their_marks_while_they_fit() {
        let mut handle = handle(true);
        let step = |handle: &mut Handle, delta, terms: ArithTerms| match handle
            .arith_with(b"k", true, delta, &terms, NOW)
        {
            Arith::Value { value, written, exptime, created, .. } => {
                (value, written.cas, exptime, created)
            }
            other => panic!("{other:?}"),
        };
        let plain = ArithTerms::default();
        let exptime = Exptime::At(SECS + 9);
        let make = ArithTerms { vivify: Some((exptime, 13)), cas: Some(4), ..plain };
        assert_eq!(step(&mut handle, 1, make), (13, 4, exptime, true));
        assert_eq!(step(&mut handle, 1, make), (14, 4, exptime, false));
        assert_eq!(count(&handle, Counter::IncrMisses), 0);
        let compare = ArithTerms { compare: Some(5), ..plain };
        assert_eq!(handle.arith_with(b"k", true, 1, &compare, NOW), Arith::Exists);
        make_stale(&mut handle);
        let touch = Some(Exptime::Never);
        let (value, unique, exptime, _) = step(&mut handle, 1, ArithTerms { touch, ..plain });
        assert_eq!((value, exptime), (15, Exptime::Never));
        assert_eq!(cas(&mut handle), Some(unique));
        let stale = |handle: &mut Handle| handle.peek(b"k", NOW, |item| item.marks.stale);
        assert_eq!(stale(&mut handle), Some(true));
        step(&mut handle, 100, plain);
        assert_eq!(stale(&mut handle), Some(false), "a longer number is a new item");
    }
}
