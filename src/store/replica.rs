//! What replication asks of the store: taking in changes of peers, and telling them ours.
//!
//! Owns `flush_all`, [`Handle::apply`], [`Handle::changes_of`], [`Handle::scan`], and what is asked
//! of the horizon of forgotten deletes. The store is
//! the replication log: what is told is always the present state of a key, never a history.
//!
//! ```text
//!   peer --apply--> highest version wins        feed --changes_of(hash)--> link
//!                                               scan(since) ------------> link
//! ```

use super::core::{Local, Status, Store};
use super::handle::Look;
use super::horizon::{Absence, Horizon};
use super::index::Locked;
use super::item::{Extras, Record, Shape};
use super::large::Snapshot;
use super::popular::Popularity;
use super::write::{Ask, New, Put};
use super::{
    Applied, Change, Exptime, FlushState, Handle, ScanCursor, Value, Version, What, KEY_MAX,
};
use crate::base::clock::Now;
use crate::base::counters::Counter;
use std::cmp::Ordering;

/// Items that a scan looks at under one hold of a stripe's lock.
const SCAN_HOLD: usize = 64;
/// Records that a scan asks the memory for ahead of the one it looks at: about what a processor
/// fetches at once.
const AHEAD: usize = 8;
/// Cache lines asked for where most records will be handed out: a small item.
const LINES: usize = 3;

impl Store {
    /// How a change stands to what is here.
    fn compare(&self, change: &Change<'_>, old: Option<&Record>) -> Ordering {
        let arena = &self.segments.arena;
        let Some(old) = old else { return Ordering::Greater };
        let (version, deleted) = old.version(arena);
        change.version.cmp(&version).then_with(|| {
            if deleted {
                return change.what.tie_order(&What::Deleted);
            }
            let mut parts: Vec<&[u8]> = Vec::new();
            if old.is_large() {
                self.each_chunk(old, |chunk| parts.push(chunk.value(arena)));
            } else {
                parts.push(old.value(arena));
            }
            let value = Value::from_parts(&parts);
            let (flags, exptime) = (old.flags(arena), old.exptime(arena));
            let Extras { marks, cas } = old.extras(arena);
            change.what.tie_order(&What::Item { flags, exptime, cas, marks, value })
        })
    }

    /// The outcome when a change does not win.
    fn verdict(&self, change: &Change<'_>, old: Option<&Record>) -> Result<(), Applied> {
        if change.version <= self.watermark() {
            return Err(Applied::Stale);
        }
        match self.compare(change, old) {
            Ordering::Less => Err(Applied::Stale),
            Ordering::Equal => Err(Applied::Same),
            Ordering::Greater => Ok(()),
        }
    }

    /// Whether a delete of a key of which nothing is known is to be remembered: not an old one that
    /// was forgotten here before, or nodes in a ring would tell each other of it for ever.
    fn is_worth_remembering(&self, hash: u64, version: Version, now: Now) -> bool {
        let news = |horizon: &Horizon| {
            let news = !self.is_too_old(version, now) || !horizon.is_forgotten(hash, version);
            if !news {
                horizon.pass_over(hash, version);
            }
            news
        };
        self.horizon.as_ref().is_some_and(news)
    }

    /// Applies a state that leaves no item: what is here and older goes, the version stays known.
    /// `again`: also one that was forgotten before.
    fn apply_deleted(&self, me: &mut Local, change: &Change<'_>, again: bool, now: Now) -> Applied {
        let (key, hash) = (change.key, self.hash(change.key));
        let applied = self.look(me, hash, now, |me, stripe, place, open| {
            let old = self.find(stripe, place, key);
            if let Err(verdict) = self.verdict(change, old.as_ref().map(|old| &old.1)) {
                return Look::Done(verdict);
            }
            if let Some((slot, old)) = old {
                self.remove(stripe, slot, &old, change.version, &me.counters);
            } else if again || self.is_worth_remembering(hash, change.version, now) {
                let shape = Shape::tombstone(key);
                let Some(open) = self.with_room(open, shape.size()) else {
                    return Look::NeedsRoom(shape.size());
                };
                let record = self.begin(open, &shape, now);
                record.set_version(&self.segments.arena, change.version, true);
                self.seal_record(open, &record);
                self.link(stripe, place, Popularity::NEW, &record, &me.counters);
            }
            Look::Done(Applied::Won)
        });
        applied.unwrap_or_else(|| {
            if let Some(horizon) = &self.horizon {
                horizon.pass_over(hash, change.version);
            }
            Applied::OutOfMemory
        })
    }

    /// An item that this node and its sender have agreed on is not here. Where a delete was the
    /// reason, that is remembered again; none where there is nothing against taking the item.
    fn apply_absent(&self, me: &mut Local, change: &Change<'_>, now: Now) -> Option<Applied> {
        let hash = self.hash(change.key);
        let absence = self.horizon.as_ref()?.absence(hash, change.version);
        if absence == Absence::NotDeleted {
            return None;
        }
        let (stripe, place) = self.lock(hash);
        let here = self.find(&stripe, place, change.key).is_some();
        drop(stripe);
        if here || change.version <= self.watermark() {
            return None;
        }
        let version = Version(change.version.0 + 1);
        if absence == Absence::Unclear || version > Version::MAX {
            return Some(Applied::Left);
        }
        let gone = Change { what: What::Deleted, version, ..*change };
        match self.apply_deleted(me, &gone, true, now) {
            Applied::Won => Some(Applied::Buried(version)),
            // There is no room to say so.
            Applied::OutOfMemory => Some(Applied::Left),
            other => Some(other),
        }
    }

    /// An item that a forgotten delete is known to have beaten: that is remembered again, as the
    /// sender has never heard of it. None where no such delete is known.
    fn apply_buried(&self, me: &mut Local, change: &Change<'_>, now: Now) -> Option<Applied> {
        let horizon = self.horizon.as_ref()?;
        let version = horizon.deleted_by(self.hash(change.key), change.version)?;
        let gone = Change { what: What::Deleted, version, ..*change };
        match self.apply_deleted(me, &gone, true, now) {
            Applied::Won => Some(Applied::Buried(version)),
            Applied::OutOfMemory => Some(Applied::Left),
            other => Some(other),
        }
    }

    fn apply(&self, me: &mut Local, change: &Change<'_>, now: Now) -> Applied {
        if change.version > Version::MAX || change.key.is_empty() || change.key.len() > KEY_MAX {
            return Applied::Stale;
        }
        self.clock.observe(change.version);
        let What::Item { flags, exptime, cas, marks, value } = change.what else {
            return self.apply_deleted(me, change, false, now);
        };
        // Only here: other nodes may have the room, or another idea of the time.
        let gone = Change { what: What::Deleted, version: change.version.just_below(), ..*change };
        if exptime.is_past(now.unix_secs()) {
            return self.apply_deleted(me, &gone, false, now);
        }
        if let Some(buried) = self.apply_buried(me, change, now) {
            return buried;
        }
        let refused = if self.config.fits(change.key.len(), flags, value.len()) {
            let parts: Vec<&[u8]> = value.chunks().collect();
            let extras = Extras { marks, cas };
            let new = New { key: change.key, flags, exptime, extras, parts: &parts, placed: None };
            let put = self.put(me, self.hash(change.key), new, now, |_, old, _: Ask| {
                self.verdict(change, old).map(|()| change.version)
            });
            match put {
                Put::Done(_) => return Applied::Won,
                Put::Refused(verdict) => return verdict,
                Put::NoRoom => Applied::OutOfMemory,
            }
        } else {
            Applied::TooLarge
        };
        // What is here is older than what cannot be kept: it must not be served any more.
        if let Some(horizon) = &self.horizon {
            horizon.evict(self.hash(change.key), change.version);
        }
        match self.apply_deleted(me, &gone, false, now) {
            Applied::Won | Applied::OutOfMemory => refused,
            verdict => verdict,
        }
    }

    /// The state of a record as a change. None for a large item, which is to be pinned instead.
    fn tell_small(&self, record: &Record, sink: &mut dyn FnMut(&Change<'_>)) {
        let arena = &self.segments.arena;
        let (version, deleted) = record.version(arena);
        let what = if deleted {
            What::Deleted
        } else {
            let Extras { marks, cas } = record.extras(arena);
            What::Item {
                flags: record.flags(arena),
                exptime: record.exptime(arena),
                cas,
                marks,
                value: Value::from(record.value(arena)),
            }
        };
        sink(&Change { key: record.key(arena), version, what });
    }

    fn tell_large(snapshot: &Snapshot<'_>, sink: &mut dyn FnMut(&Change<'_>)) {
        let &Snapshot { flags, exptime, extras: Extras { marks, cas }, .. } = snapshot;
        let what = What::Item { flags, exptime, cas, marks, value: snapshot.value() };
        sink(&Change { key: &snapshot.key, version: snapshot.version, what });
    }

    /// Tells one record's state, unless it was flushed; a large item comes back pinned. An expired
    /// item is told as it is: its version must beat older ones elsewhere too.
    fn tell(
        &self,
        record: &Record,
        since: Version,
        now: Now,
        sink: &mut dyn FnMut(&Change<'_>),
    ) -> Option<Snapshot<'_>> {
        let arena = &self.segments.arena;
        let (version, deleted) = record.version(arena);
        if version <= since || self.status(record, now) == Status::Flushed {
            return None;
        }
        if record.is_large() && !deleted {
            return Some(self.snapshot(record, now));
        }
        self.tell_small(record, sink);
        None
    }

    /// Tells the items of a stripe from a tag on, until about `budget` were looked at or a large
    /// one was found. Returns the tag to go on from, or none at the stripe's end.
    fn scan_stripe<'s>(
        &'s self,
        stripe: &Locked<'_>,
        from: u32,
        budget: usize,
        lines: usize,
        mut each: impl FnMut(&Record) -> Option<Snapshot<'s>>,
    ) -> (Option<u32>, usize, Vec<Snapshot<'s>>) {
        let (mut looked, mut last) = (0, from);
        let mut large = Vec::new();
        let ask = |at| {
            let at = self.segments.offset(stripe.location(at));
            self.segments.arena.prefetch(at, lines);
        };
        let mut ahead = stripe.slots_from(from).map(|(at, _)| at);
        ahead.by_ref().take(AHEAD.min(budget)).for_each(ask);
        for (at, tag) in stripe.slots_from(from) {
            // Slots of one tag stay together: the next call starts at a tag, not inside of one.
            if tag != last && (looked >= budget || !large.is_empty()) {
                return (Some(tag), looked, large);
            }
            last = tag;
            looked += 1;
            if looked + AHEAD <= budget {
                ahead.next().into_iter().for_each(ask);
            }
            large.extend(each(&self.record(stripe.location(at))));
        }
        (None, looked, large)
    }
}

impl Handle {
    /// `flush_all`: everything that is here now is gone (`at` none), or will be at that unix
    /// second. A later call replaces one that is still in the future.
    pub fn flush_all(&mut self, at: Option<u32>, now: Now) {
        let (store, me) = self.split();
        store.settle(now);
        me.counters.add(Counter::CmdFlush, 1);
        let issued = store.clock.next(now);
        store.change_flush(|flush| flush.ordered(at, issued, now));
        if store.config.replicated {
            // A change of no key, behind the flush: what peers acknowledge then covers it.
            store.issue(me, store.hash(b""), now);
        }
    }

    /// A version for a change that a peer without versions has told: newer than everything known
    /// here, see [`Version::is_foreign`]. It enters no feed.
    pub fn stamp_foreign(&mut self, now: Now) -> Version {
        let (store, _) = self.split();
        store.clock.next(now).foreign()
    }

    /// Takes in a peer's change. The highest version wins; applying twice changes nothing. Does not
    /// enter the feeds.
    pub fn apply(&mut self, change: &Change<'_>, now: Now) -> Applied {
        let (store, me) = self.split();
        store.settle(now);
        let applied = store.apply(me, change, now);
        match applied {
            Applied::Stale => me.counters.add(Counter::ReplStale, 1),
            Applied::Same => {}
            _ => me.counters.add(Counter::ReplApplied, 1),
        }
        applied
    }

    /// [`Handle::apply`] for a peer with which this node had agreed on everything up to `told`: an
    /// item of theirs that is as old as that and is not here has been deleted or evicted here. It
    /// does not come back where the delete may be forgotten ([`Applied::Buried`],
    /// [`Applied::Left`]).
    pub fn apply_known(&mut self, change: &Change<'_>, told: Version, now: Now) -> Applied {
        let (store, me) = self.split();
        store.settle(now);
        let lasts = |exptime: Exptime| !exptime.is_past(now.unix_secs());
        let known = change.version <= told
            && matches!(change.what, What::Item { exptime, .. } if lasts(exptime));
        let absent = |me: &mut Local| {
            let buried = store.apply_buried(me, change, now);
            buried.or_else(|| store.apply_absent(me, change, now))
        };
        match known.then(|| absent(me)).flatten() {
            Some(applied) => applied,
            None => self.apply(change, now),
        }
    }

    /// The delete that is remembered of a key, where that is so old that who does not know it may
    /// have forgotten it: half its life.
    pub fn old_delete(&mut self, key: &[u8], now: Now) -> Option<Version> {
        let (store, _) = self.split();
        let (stripe, place) = store.lock(store.hash(key));
        let (_, record) = store.find(&stripe, place, key)?;
        let (version, deleted) = record.version(&store.segments.arena);
        let life = store.forgotten_at(version).saturating_sub(version.unix_secs());
        let old = version.unix_secs().saturating_add(life / 2) <= now.unix_secs();
        Some(version).filter(|_| deleted && old)
    }

    /// The newest delete that this node has forgotten.
    pub fn forgotten(&self) -> Version {
        self.store_ref().horizon.as_ref().map(Horizon::newest).unwrap_or_default()
    }

    /// How many deletes were forgotten although [`Handle::keep_deletes`] had asked for them.
    pub fn missed_deletes(&self) -> u64 {
        self.store_ref().horizon.as_ref().map_or(0, Horizon::missed)
    }

    /// Asks the store not to forget deletes above this version for their age, as a peer has still
    /// to be told of them; `None`: nobody waits. Their share of memory holds as ever.
    pub fn keep_deletes(&self, above: Option<Version>) {
        if let Some(horizon) = &self.store_ref().horizon {
            horizon.want_above(above);
        }
    }

    /// Merges a peer's flush state into ours: the higher watermark holds, and of two pending
    /// flushes the one that was ordered last. True when ours changed.
    pub fn apply_flush(&mut self, flush: FlushState, now: Now) -> bool {
        let (store, _) = self.split();
        store.settle(now);
        let changed = store.change_flush(|ours| ours.merged(flush));
        store.settle(now);
        changed
    }

    /// Hands the present state of the keys with this hash to `sink`: item, or remembered delete.
    /// `sink` may run under a lock: it should copy and return, and not use the store.
    pub fn changes_of(&mut self, hash: u64, now: Now, sink: &mut dyn FnMut(&Change<'_>)) {
        let (store, _) = self.split();
        store.settle(now);
        let (stripe, place) = store.lock(hash);
        let arena = &store.segments.arena;
        let mut large = Vec::new();
        for (at, tag) in stripe.slots_from(place.tag) {
            if tag != place.tag {
                break;
            }
            let record = store.record(stripe.location(at));
            if store.hash(record.key(arena)) == hash {
                large.extend(store.tell(&record, Version(0), now, sink));
            }
        }
        drop(stripe);
        for snapshot in &large {
            Store::tell_large(snapshot, sink);
        }
    }

    /// Walks the whole store in steps of about `budget` items and hands what is newer than `since`
    /// to `sink`, as [`Handle::changes_of`] does. True when it has come to the end. What is there
    /// during the whole scan is handed out; what is changed meanwhile is in the feeds.
    pub fn scan(
        &mut self,
        cursor: &mut ScanCursor,
        since: Version,
        budget: usize,
        now: Now,
        sink: &mut dyn FnMut(&Change<'_>),
    ) -> bool {
        let (store, _) = self.split();
        store.settle(now);
        let stripes = store.index.stripes() as u64;
        let mut left = budget.max(1);
        let lines = if since == Version(0) { LINES } else { 1 };
        while cursor.stripe < stripes {
            let stripe = store.index.lock(cursor.stripe as usize);
            let from = cursor.tag as u32;
            let hold = left.min(SCAN_HOLD);
            let (next, looked, large) = store.scan_stripe(&stripe, from, hold, lines, |record| {
                store.tell(record, since, now, sink)
            });
            drop(stripe);
            for snapshot in &large {
                Store::tell_large(snapshot, sink);
            }
            match next {
                Some(tag) => cursor.tag = u64::from(tag),
                None => {
                    cursor.stripe += 1;
                    cursor.tag = 0;
                }
            }
            cursor.progress = (cursor.stripe * 1_000_000 / stripes) as u32;
            // An empty stripe costs a look, too. Large values: one per call is a step.
            left = left.saturating_sub(looked.max(1));
            if cursor.stripe < stripes && (left == 0 || !large.is_empty()) {
                return false;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Config, Marks, Mode, Stored};

    const NOW: Now = Now { unix_us: 1_700_000_000_000_000, mono_us: 0 };

    fn handle(replicated: bool) -> Handle {
        let config = Config { memory_limit: 1 << 20, replicated, ..Config::default() };
        Store::new(config, NOW).handle()
    }

    fn item(version: u64, exptime: Exptime, value: &'static [u8]) -> Change<'static> {
        let (cas, marks, value) = (None, Marks::default(), Value::from(value));
        let what = What::Item { flags: 0, exptime, cas, marks, value };
        Change { key: b"k", version: Version(version), what }
    }

    fn value(handle: &mut Handle) -> Option<Vec<u8>> {
        handle.get(b"k", NOW, |item| item.value.to_vec())
    }

    /// A version of this very moment, plus a little.
    fn v(n: u64) -> u64 {
        Version::at_unix_secs(NOW.unix_secs()).0 + n
    }

    #[test]
    fn the_highest_version_wins_in_any_order() {
        let mut handle = handle(true);
        let deleted = Change { what: What::Deleted, ..item(v(5), Exptime::Never, b"") };
        assert_eq!(handle.apply(&item(v(3), Exptime::Never, b"three"), NOW), Applied::Won);
        assert_eq!(handle.apply(&item(v(3), Exptime::Never, b"three"), NOW), Applied::Same);
        assert_eq!(handle.apply(&item(v(2), Exptime::Never, b"two"), NOW), Applied::Stale);
        assert_eq!(handle.apply(&item(v(3), Exptime::Never, b"zz"), NOW), Applied::Won);
        assert_eq!(handle.apply(&item(v(3), Exptime::Never, b"a"), NOW), Applied::Stale);
        assert_eq!(value(&mut handle).as_deref(), Some(&b"zz"[..]));
        assert_eq!(handle.apply(&deleted, NOW), Applied::Won);
        assert_eq!(handle.apply(&deleted, NOW), Applied::Same);
        assert_eq!(handle.apply(&item(v(4), Exptime::Never, b"four"), NOW), Applied::Stale);
        assert_eq!(value(&mut handle), None);
        assert_eq!(handle.store_ref().stats().tombstones, 1);
        let stored = handle.store(Mode::Add, b"k", 0, Exptime::Never, b"new", NOW);
        assert!(matches!(stored, Stored::Stored(written) if written.version > Version(v(5))));
    }

    #[test]
    fn an_expired_item_beats_an_older_live_one_and_stays_away() {
        let mut handle = handle(true);
        let past = Exptime::At(NOW.unix_secs() - 1);
        handle.apply(&item(v(3), Exptime::Never, b"old"), NOW);
        assert_eq!(handle.apply(&item(v(4), past, b"gone"), NOW), Applied::Won);
        assert_eq!(value(&mut handle), None);
        assert_eq!(handle.apply(&item(v(3), Exptime::Never, b"old"), NOW), Applied::Stale);
        assert_eq!(value(&mut handle), None);
    }

    #[test]
    fn what_cannot_be_kept_takes_the_older_one_along() {
        let mut handle = handle(true);
        handle.apply(&item(v(3), Exptime::Never, b"old"), NOW);
        let huge: &'static [u8] = Box::leak(vec![0u8; 2 << 20].into_boxed_slice());
        assert_eq!(handle.apply(&item(v(4), Exptime::Never, huge), NOW), Applied::TooLarge);
        assert_eq!(value(&mut handle), None);
        assert_eq!(handle.apply(&item(v(3), Exptime::Never, b"old"), NOW), Applied::Stale);
        // What this node tells others must not delete the item where it fits.
        let hash = handle.hash(b"k");
        let mut told = Vec::new();
        handle.changes_of(hash, NOW, &mut |change| {
            told.push((change.what == What::Deleted, change.version));
        });
        assert_eq!(told.len(), 1);
        assert!(told[0].0 && told[0].1 < Version(v(4)) && told[0].1 >= Version(v(3)));
    }

    #[test]
    fn feeds_tell_local_changes_and_not_applied_ones() {
        let mut handle = handle(true);
        handle.apply(&item(v(3), Exptime::Never, b"theirs"), NOW);
        assert!(!handle.take_fed());
        assert!(handle.delete(b"k", NOW));
        assert!(!handle.delete(b"k", NOW));
        assert!(handle.take_fed());
        let mut hashes = Vec::new();
        let drained = handle.store_ref().drain_feeds(&mut hashes);
        assert_eq!(hashes, [handle.hash(b"k")]);
        assert!(!drained.overflowed && drained.upto == handle.store_ref().newest());
        let mut told = Vec::new();
        handle.changes_of(hashes[0], NOW, &mut |change| told.push(change.what == What::Deleted));
        assert_eq!(told, [true]);
    }

    #[test]
    fn a_flush_that_a_peer_ordered_hides_what_is_older() {
        let mut handle = handle(true);
        handle.apply(&item(v(3), Exptime::Never, b"old"), NOW);
        let flush = FlushState { watermark: Version(v(4)), pending: None };
        assert!(handle.apply_flush(flush, NOW));
        assert!(!handle.apply_flush(flush, NOW));
        assert_eq!(value(&mut handle), None);
        assert_eq!(handle.apply(&item(v(4), Exptime::Never, b"x"), NOW), Applied::Stale);
        assert_eq!(handle.apply(&item(v(5), Exptime::Never, b"y"), NOW), Applied::Won);
    }

    /// A node that has forgotten a delete of `k`, the time by then, and the version of the delete.
    fn forgotten(epitaphs_max: u32) -> (Handle, Now, u64) {
        let config = Config { memory_limit: 1 << 20, replicated: true, ..Config::default() };
        let mut handle = Store::new(Config { epitaphs_max, ..config }, NOW).handle();
        handle.apply(&item(v(3), Exptime::Never, b"old"), NOW);
        assert!(handle.delete(b"k", NOW));
        assert_eq!(handle.forgotten(), Version(0));
        let later = NOW.plus_us(3_700_000_000);
        while handle.maintain(later, 1000) == crate::store::Maintained::More {}
        while handle.maintain(later.plus_us(9_000_000), 1000) == crate::store::Maintained::More {}
        assert_eq!(handle.store_ref().stats().tombstones, 0);
        let forgotten = handle.forgotten().0;
        assert!(forgotten > v(3));
        (handle, later, forgotten)
    }

    #[test]
    fn an_item_whose_delete_is_forgotten_stays_deleted_everywhere() {
        let (mut handle, now, forgotten) = forgotten(0);
        let told = Version(forgotten);
        let stale = item(v(3), Exptime::Never, b"old");
        assert_eq!(handle.apply_known(&stale, told, now), Applied::Buried(Version(v(4))));
        assert_eq!(value(&mut handle), None);
        let mut answers = Vec::new();
        handle.changes_of(handle.hash(b"k"), now, &mut |change| {
            answers.push((change.what == What::Deleted, change.version));
        });
        // It beats the item that the peer has, and nothing that anybody has written since.
        assert_eq!(answers, [(true, Version(v(4)))]);
        assert_eq!(handle.apply_known(&stale, told, now), Applied::Stale);
        let new = item(v(5), Exptime::Never, b"new");
        assert_eq!(handle.apply_known(&new, told, now), Applied::Won);
    }

    #[test]
    fn an_epitaph_says_what_was_deleted_whoever_had_it_and_whatever_was_evicted() {
        let (mut handle, now, forgotten) = forgotten(1024);
        handle.store_ref().horizon.as_ref().unwrap().evict(handle.hash(b"k"), Version(v(9)));
        for told in [v(0), v(9)] {
            let stale = item(v(3), Exptime::Never, b"old");
            let buried = Applied::Buried(Version(forgotten));
            assert_eq!(handle.apply_known(&stale, Version(told), now), buried);
            assert_eq!((value(&mut handle), handle.store_ref().stats().tombstones), (None, 1));
            assert_eq!(handle.old_delete(b"k", now), Some(Version(forgotten)));
            // It is forgotten once more.
            let later = now.plus_us(20_000_000);
            while handle.maintain(later, 1000) == crate::store::Maintained::More {}
            while handle.maintain(later.plus_us(9_000_000), 1000) == crate::store::Maintained::More
            {
            }
            assert_eq!(handle.store_ref().stats().tombstones, 0);
        }
        let newer = item(forgotten + 1, Exptime::Never, b"newer");
        assert_eq!(handle.apply_known(&newer, Version(v(9)), now), Applied::Won);
    }

    #[test]
    fn what_both_had_not_agreed_on_is_taken() {
        let (mut handle, now, _) = forgotten(0);
        let theirs = item(v(3), Exptime::Never, b"theirs");
        assert_eq!(handle.apply_known(&theirs, Version(v(2)), now), Applied::Won);
        // The same moment, the same versions.
        let (mut handle, now, forgotten) = forgotten(0);
        let newer = item(forgotten + 1, Exptime::Never, b"newer");
        assert_eq!(handle.apply_known(&newer, Version(u64::MAX), now), Applied::Won);
    }

    #[test]
    fn what_may_have_been_evicted_is_not_deleted_elsewhere() {
        let (mut handle, now, forgotten) = forgotten(0);
        let hash = handle.hash(b"k");
        handle.store_ref().horizon.as_ref().unwrap().evict(hash, Version(v(3)));
        let stale = item(v(3), Exptime::Never, b"old");
        assert_eq!(handle.apply_known(&stale, Version(forgotten), now), Applied::Left);
        assert_eq!(handle.store_ref().stats().tombstones, 0);
        assert_eq!(value(&mut handle), None);
    }

    #[test]
    fn a_delete_is_kept_while_a_link_waits_and_an_old_one_is_taken_in_once() {
        let mut handle = handle(true);
        let much_later = NOW.plus_us(10_000_000_000);
        let sweep = |handle: &mut Handle, secs: u64| {
            let now = much_later.plus_us(secs * 1_000_000);
            while handle.maintain(now, 1000) == crate::store::Maintained::More {}
            handle.store_ref().stats().tombstones
        };
        handle.keep_deletes(Some(Version(v(1))));
        let delete = Change { what: What::Deleted, ..item(v(2), Exptime::Never, b"") };
        assert_eq!(handle.apply(&delete, much_later), Applied::Won);
        assert_eq!((sweep(&mut handle, 3), sweep(&mut handle, 6)), (1, 1));
        handle.keep_deletes(None);
        assert_eq!((sweep(&mut handle, 9), sweep(&mut handle, 12)), (0, 0));
        assert_eq!((handle.missed_deletes(), handle.forgotten()), (0, Version(v(2))));
        // It comes round once more.
        assert_eq!(handle.apply(&delete, much_later), Applied::Won);
        assert_eq!(handle.store_ref().stats().tombstones, 0);
        assert_eq!(handle.missed_deletes(), 1);
    }

    #[test]
    fn a_store_alone_remembers_no_deletes() {
        let mut handle = handle(false);
        handle.store(Mode::Set, b"k", 0, Exptime::Never, b"v", NOW);
        assert!(handle.delete(b"k", NOW));
        assert!(!handle.take_fed());
        assert_eq!(handle.store_ref().stats().tombstones, 0);
    }
}
