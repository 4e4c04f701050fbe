//! The operations on items.
//!
//! Owns [`Store`] and [`Handle`]. This first form keeps all items in one map behind one lock.

use super::feed::{ChangeSignal, Drained, Feed};
use super::version::VersionClock;
use super::*;
use crate::base::clock::Now;
use crate::base::counters::{Counter, Counters};
use crate::base::hash::hash_key;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Clone, Debug)]
struct Entry {
    version: Version,
    flags: u32,
    exptime: Exptime,
    value: Vec<u8>,
    fetched: bool,
    used: u32,
    deleted: bool,
}

impl Entry {
    fn what(&self) -> What<'_> {
        if self.deleted {
            return What::Deleted;
        }
        What::Item { flags: self.flags, exptime: self.exptime, value: Value::from(&self.value[..]) }
    }
}

#[derive(Debug, Default)]
struct Map {
    entries: BTreeMap<(u64, Vec<u8>), Entry>,
    bytes: u64,
    flush: FlushState,
}

const ENTRY_OVERHEAD: u64 = 32;

impl Map {
    fn take(&mut self, at: &(u64, Vec<u8>)) -> Option<Entry> {
        let entry = self.entries.remove(at)?;
        self.bytes -= ENTRY_OVERHEAD + (at.1.len() + entry.value.len()) as u64;
        Some(entry)
    }

    fn put(&mut self, at: (u64, Vec<u8>), entry: Entry) {
        self.take(&at);
        self.bytes += ENTRY_OVERHEAD + (at.1.len() + entry.value.len()) as u64;
        self.entries.insert(at, entry);
    }

    fn settle_flush(&mut self, now: Now) {
        self.flush = self.flush.settled(now);
    }
}

/// The cache of this node.
#[derive(Debug)]
pub struct Store {
    config: Config,
    clock: VersionClock,
    changed: ChangeSignal,
    map: Mutex<Map>,
    handles: Mutex<Vec<(Arc<Counters>, Arc<Feed>)>>,
    base: Mutex<Sums>,
}

impl Store {
    /// An empty store.
    pub fn new(config: Config, _now: Now) -> Arc<Store> {
        Arc::new(Store {
            clock: VersionClock::new(config.node_tag),
            config,
            changed: ChangeSignal::default(),
            map: Mutex::default(),
            handles: Mutex::default(),
            base: Mutex::default(),
        })
    }

    /// One thread's access to the store: its counters, its feed, its open segments.
    pub fn handle(self: &Arc<Store>) -> Handle {
        let (counters, feed) = (Arc::new(Counters::new()), Arc::new(Feed::default()));
        self.handles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((Arc::clone(&counters), Arc::clone(&feed)));
        Handle { store: Arc::clone(self), counters, feed, fed: false }
    }

    /// What the store was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn lock(&self) -> MutexGuard<'_, Map> {
        self.map.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sums(&self) -> Sums {
        let mut sums = Sums::default();
        for (counters, _) in self.handles.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            counters.sum_into(&mut sums);
        }
        sums
    }

    /// Gauges, and the sums of all handles' counters since the last reset.
    pub fn stats(&self) -> StoreStats {
        let base = self.base.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let sums = self.sums().since(&base);
        let feed_queued = self
            .handles
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .map(|(_, feed)| feed.len() as u64)
            .sum();
        let map = self.lock();
        let tombstones = map.entries.values().filter(|entry| entry.deleted).count() as u64;
        StoreStats {
            curr_items: map.entries.len() as u64 - tombstones,
            bytes: map.bytes,
            limit_maxbytes: self.config.memory_limit,
            tombstones,
            feed_queued,
            sums,
            ..StoreStats::default()
        }
    }

    /// `stats reset`: counters count from here. Gauges stay.
    pub fn reset_stats(&self) {
        *self.base.lock().unwrap_or_else(PoisonError::into_inner) = self.sums();
    }

    /// Appends to `out` the hashes of keys that were changed here since the last drain.
    pub fn drain_feeds(&self, out: &mut Vec<u64>) -> Drained {
        let upto = self.clock.newest();
        let mut overflowed = false;
        for (_, feed) in self.handles.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            overflowed |= feed.drain(out);
        }
        Drained { upto, overflowed }
    }

    /// The signal between writers and the replication thread: a worker whose
    /// [`Handle::take_fed`] is true raises it, and wakes the thread if it was down.
    pub fn changed(&self) -> &ChangeSignal {
        &self.changed
    }

    /// The newest version issued or observed.
    pub fn newest(&self) -> Version {
        self.clock.newest()
    }

    /// What has been flushed.
    pub fn flush_state(&self) -> FlushState {
        self.lock().flush
    }
}

enum Found {
    None,
    Expired,
    Flushed,
    Live,
}

/// One thread's access to the store. Counts what memcached counts per key: commands (`CmdGet`,
/// `CmdSet`, `CmdTouch`, `CmdFlush`), hits and misses of all kinds, items, evictions.
#[derive(Debug)]
pub struct Handle {
    store: Arc<Store>,
    counters: Arc<Counters>,
    feed: Arc<Feed>,
    fed: bool,
}

impl Handle {
    /// This thread's counters; the server adds its own counts to them.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// The store behind it.
    pub fn store_ref(&self) -> &Arc<Store> {
        &self.store
    }

    /// The hash that feeds carry for this key.
    pub fn hash(&self, key: &[u8]) -> u64 {
        hash_key(self.store.config.hash_seed, key)
    }

    /// Whether this handle changed something (an item or the flush state) since the last call that
    /// a peer should hear of. A worker asks once per turn of its loop, then raises
    /// [`Store::changed`].
    pub fn take_fed(&mut self) -> bool {
        std::mem::take(&mut self.fed)
    }

    fn at(&self, key: &[u8]) -> (u64, Vec<u8>) {
        (self.hash(key), key.to_vec())
    }

    fn issue(&mut self, hash: u64, now: Now) -> Version {
        let store = &self.store;
        if !store.config.replicated {
            return store.clock.next(now);
        }
        self.fed = true;
        self.feed.issue(&store.clock, now, hash, store.config.feed_max)
    }

    fn found(map: &Map, at: &(u64, Vec<u8>), now: Now) -> Found {
        match map.entries.get(at) {
            None => Found::None,
            Some(entry) if entry.deleted => Found::None,
            Some(entry) if entry.version <= map.flush.watermark => Found::Flushed,
            Some(entry) if entry.exptime.is_past(now.unix_secs()) => Found::Expired,
            Some(_) => Found::Live,
        }
    }

    fn read<R>(key: &[u8], entry: &Entry, now: Now, read: impl FnOnce(&Item<'_>) -> R) -> R {
        read(&Item {
            key,
            flags: entry.flags,
            exptime: entry.exptime,
            version: entry.version,
            fetched: entry.fetched,
            last_access_secs: now.unix_secs().saturating_sub(entry.used),
            value: Value::from(&entry.value[..]),
        })
    }

    /// Finds an item for a client: counts a hit or a miss, marks it as used.
    pub fn get<R>(&mut self, key: &[u8], now: Now, read: impl FnOnce(&Item<'_>) -> R) -> Option<R> {
        let at = self.at(key);
        let mut map = self.store.lock();
        map.settle_flush(now);
        self.counters.add(Counter::CmdGet, 1);
        match Self::found(&map, &at, now) {
            Found::Live => {}
            miss => {
                self.counters.add(Counter::GetMisses, 1);
                match miss {
                    Found::Expired => self.counters.add(Counter::GetExpired, 1),
                    Found::Flushed => self.counters.add(Counter::GetFlushed, 1),
                    _ => {}
                }
                return None;
            }
        }
        self.counters.add(Counter::GetHits, 1);
        let entry = map.entries.get_mut(&at)?;
        let result = Self::read(key, entry, now, read);
        entry.fetched = true;
        entry.used = now.unix_secs();
        Some(result)
    }

    /// `gat` and `gats`: gives the item a new exptime and reads it as it is then. Counts as a touch.
    pub fn get_and_touch<R>(
        &mut self,
        key: &[u8],
        exptime: Exptime,
        now: Now,
        read: impl FnOnce(&Item<'_>) -> R,
    ) -> Option<R> {
        let at = self.at(key);
        let store = Arc::clone(&self.store);
        let mut map = store.lock();
        map.settle_flush(now);
        self.counters.add(Counter::CmdTouch, 1);
        if !matches!(Self::found(&map, &at, now), Found::Live) {
            self.counters.add(Counter::TouchMisses, 1);
            return None;
        }
        self.counters.add(Counter::TouchHits, 1);
        let version = self.issue(at.0, now);
        let mut entry = map.take(&at)?;
        entry.version = version;
        entry.exptime = exptime;
        let result = Self::read(key, &entry, now, read);
        entry.fetched = true;
        entry.used = now.unix_secs();
        self.leave(&mut map, at, entry, now);
        Some(result)
    }

    /// Finds an item without counting or marking anything.
    pub fn peek<R>(
        &mut self,
        key: &[u8],
        now: Now,
        read: impl FnOnce(&Item<'_>) -> R,
    ) -> Option<R> {
        let at = self.at(key);
        let mut map = self.store.lock();
        map.settle_flush(now);
        if !matches!(Self::found(&map, &at, now), Found::Live) {
            return None;
        }
        map.entries.get(&at).map(|entry| Self::read(key, entry, now, read))
    }

    /// Puts a new state in place: an expired item becomes a tombstone, or nothing.
    fn leave(&self, map: &mut Map, at: (u64, Vec<u8>), mut entry: Entry, now: Now) {
        if entry.exptime.is_past(now.unix_secs()) {
            entry.deleted = true;
        }
        if entry.deleted {
            entry.value = Vec::new();
            if !self.store.config.replicated {
                map.take(&at);
                return;
            }
        }
        map.put(at, entry);
    }

    fn make_room(&self, map: &mut Map, need: u64) -> bool {
        while map.bytes + need > self.store.config.memory_limit {
            let victim = map.entries.keys().next().cloned();
            match victim {
                Some(victim) if self.store.config.evict => map.take(&victim),
                _ => return false,
            };
            self.counters.add(Counter::Evictions, 1);
        }
        true
    }

    /// A storage command. An exptime that is past stores nothing and answers `Stored`.
    pub fn store(
        &mut self,
        mode: Mode,
        key: &[u8],
        flags: u32,
        exptime: Exptime,
        value: &[u8],
        now: Now,
    ) -> Stored {
        let at = self.at(key);
        let store = Arc::clone(&self.store);
        let mut map = store.lock();
        map.settle_flush(now);
        self.counters.add(Counter::CmdSet, 1);
        let live = matches!(Self::found(&map, &at, now), Found::Live);
        let old = map.entries.get(&at).filter(|_| live);
        let refused = match (mode, old) {
            (Mode::Add, Some(_)) => Some(Stored::NotStored),
            (Mode::Replace | Mode::Append | Mode::Prepend, None) => Some(Stored::NotStored),
            (Mode::Cas(_), None) => {
                self.counters.add(Counter::CasMisses, 1);
                Some(Stored::NotFound)
            }
            (Mode::Cas(version), Some(old)) if old.version != version => {
                self.counters.add(Counter::CasBadval, 1);
                Some(Stored::Exists)
            }
            _ => None,
        };
        if let Some(refused) = refused {
            return refused;
        }
        let (flags, exptime, value) = match (mode, old) {
            (Mode::Append, Some(old)) => (old.flags, old.exptime, [&old.value, value].concat()),
            (Mode::Prepend, Some(old)) => (old.flags, old.exptime, [value, &old.value].concat()),
            _ => (flags, exptime, value.to_vec()),
        };
        if !store.config.fits(key.len(), flags, value.len()) {
            self.counters.add(Counter::TooLarge, 1);
            return Stored::TooLarge;
        }
        if !self.make_room(&mut map, ENTRY_OVERHEAD + (key.len() + value.len()) as u64) {
            self.counters.add(Counter::OutOfMemory, 1);
            return Stored::OutOfMemory;
        }
        if matches!(mode, Mode::Cas(_)) {
            self.counters.add(Counter::CasHits, 1);
        }
        self.counters.add(Counter::TotalItems, 1);
        let version = self.issue(at.0, now);
        let used = now.unix_secs();
        let entry = Entry { version, flags, exptime, value, fetched: false, used, deleted: false };
        self.leave(&mut map, at, entry, now);
        Stored::Stored(version)
    }

    /// Gives an item a new exptime (a past one deletes it). Returns its new version.
    pub fn touch(&mut self, key: &[u8], exptime: Exptime, now: Now) -> Option<Version> {
        self.get_and_touch(key, exptime, now, |item| item.version)
    }

    /// Deletes an item. False when it was not there.
    pub fn delete(&mut self, key: &[u8], now: Now) -> bool {
        let at = self.at(key);
        let store = Arc::clone(&self.store);
        let mut map = store.lock();
        map.settle_flush(now);
        if !matches!(Self::found(&map, &at, now), Found::Live) {
            self.counters.add(Counter::DeleteMisses, 1);
            return false;
        }
        self.counters.add(Counter::DeleteHits, 1);
        let version = self.issue(at.0, now);
        if let Some(mut entry) = map.take(&at) {
            entry.version = version;
            entry.deleted = true;
            self.leave(&mut map, at, entry, now);
        }
        true
    }

    /// `incr` and `decr` by memcached's rules: the result replaces the number in place where it is
    /// not longer, with blanks behind it; flags and exptime stay.
    pub fn arith(&mut self, key: &[u8], incr: bool, delta: u64, now: Now) -> Arith {
        let at = self.at(key);
        let store = Arc::clone(&self.store);
        let mut map = store.lock();
        map.settle_flush(now);
        let (hits, misses) = if incr {
            (Counter::IncrHits, Counter::IncrMisses)
        } else {
            (Counter::DecrHits, Counter::DecrMisses)
        };
        if !matches!(Self::found(&map, &at, now), Found::Live) {
            self.counters.add(misses, 1);
            return Arith::NotFound;
        }
        let Some(old) = map.entries.get(&at) else { return Arith::NotFound };
        let Some(number) = number::parse(&old.value) else { return Arith::NonNumeric };
        self.counters.add(hits, 1);
        let result = number::add(number, incr, delta);
        let mut value = result.to_string().into_bytes();
        value.resize(value.len().max(old.value.len()), b' ');
        let version = self.issue(at.0, now);
        if let Some(mut entry) = map.take(&at) {
            entry.value = value;
            entry.version = version;
            map.put(at, entry);
        }
        Arith::Value(result, version)
    }

    /// `flush_all`: everything that is here now is gone (`at` none), or will be at that unix
    /// second. A later call replaces one that is still in the future.
    pub fn flush_all(&mut self, at: Option<u32>, now: Now) {
        self.counters.add(Counter::CmdFlush, 1);
        let mut map = self.store.lock();
        map.settle_flush(now);
        let issued = self.store.clock.next(now);
        map.flush = map.flush.ordered(at, issued, now);
        self.fed |= self.store.config.replicated;
    }

    /// Takes in a peer's change. The highest version wins; applying twice changes nothing. Does not
    /// enter the feeds.
    pub fn apply(&mut self, change: &Change<'_>, now: Now) -> Applied {
        let at = self.at(change.key);
        let store = Arc::clone(&self.store);
        let mut map = store.lock();
        map.settle_flush(now);
        if change.version > Version::MAX || change.key.is_empty() || change.key.len() > KEY_MAX {
            return Applied::Stale;
        }
        store.clock.observe(change.version);
        if change.version <= map.flush.watermark {
            return Applied::Stale;
        }
        let order = map.entries.get(&at).map(|old| {
            change.version.cmp(&old.version).then_with(|| change.what.tie_order(&old.what()))
        });
        match order {
            Some(std::cmp::Ordering::Less) => return Applied::Stale,
            Some(std::cmp::Ordering::Equal) => return Applied::Same,
            _ => {}
        }
        let mut entry = Entry {
            version: change.version,
            flags: 0,
            exptime: Exptime::Never,
            value: Vec::new(),
            fetched: false,
            used: now.unix_secs(),
            deleted: true,
        };
        let mut outcome = Applied::Won;
        if let What::Item { flags, exptime, value } = change.what {
            if !store.config.fits(change.key.len(), flags, value.len()) {
                outcome = Applied::TooLarge;
            } else if !self.make_room(&mut map, (change.key.len() + value.len()) as u64 + 32) {
                outcome = Applied::OutOfMemory;
            } else {
                let value = value.to_vec();
                entry = Entry { flags, exptime, value, deleted: false, ..entry };
            }
        }
        self.leave(&mut map, at, entry, now);
        outcome
    }

    /// Merges a peer's flush state into ours: the higher watermark holds, and of two pending
    /// flushes the one that was ordered last. True when ours changed.
    pub fn apply_flush(&mut self, flush: FlushState, now: Now) -> bool {
        let mut map = self.store.lock();
        map.settle_flush(now);
        let before = map.flush;
        map.flush = map.flush.merged(flush);
        self.store.clock.observe(map.flush.watermark);
        if let Some(pending) = map.flush.pending {
            self.store.clock.observe(pending.issued);
        }
        map.settle_flush(now);
        map.flush != before
    }

    /// Hands the present state of the keys with this hash to `sink`: item, or remembered delete.
    pub fn changes_of(&mut self, hash: u64, now: Now, sink: &mut dyn FnMut(&Change<'_>)) {
        let mut map = self.store.lock();
        map.settle_flush(now);
        let from = (hash, Vec::new());
        for ((_, key), entry) in map.entries.range(from..).take_while(|(at, _)| at.0 == hash) {
            if entry.version > map.flush.watermark && !entry.exptime.is_past(now.unix_secs()) {
                sink(&Change { key, version: entry.version, what: entry.what() });
            }
        }
    }

    /// Walks the whole store in steps of about `budget` items and hands what is newer than `since`
    /// to `sink`. True when it has come to the end. What is there during the whole scan is handed
    /// out; what is changed meanwhile is in the feeds.
    pub fn scan(
        &mut self,
        cursor: &mut ScanCursor,
        since: Version,
        budget: usize,
        now: Now,
        sink: &mut dyn FnMut(&Change<'_>),
    ) -> bool {
        let mut map = self.store.lock();
        map.settle_flush(now);
        let from = (cursor.tag, Vec::new());
        let mut left = budget.max(1);
        let mut last = cursor.tag;
        for ((hash, key), entry) in map.entries.range(from..) {
            if left == 0 && *hash != last {
                cursor.tag = *hash;
                cursor.progress = ((u128::from(*hash) * 1_000_000) >> 64) as u32;
                return false;
            }
            last = *hash;
            left = left.saturating_sub(1);
            let visible =
                entry.version > map.flush.watermark && !entry.exptime.is_past(now.unix_secs());
            if visible && entry.version > since {
                sink(&Change { key, version: entry.version, what: entry.what() });
            }
        }
        cursor.progress = 1_000_000;
        true
    }

    /// One bounded step of housekeeping: about `budget` items are looked at.
    pub fn maintain(&mut self, now: Now, _budget: usize) -> Maintained {
        let mut map = self.store.lock();
        map.settle_flush(now);
        Maintained::Idle
    }

    /// Whether the maintenance thread should run now rather than at its next turn.
    pub fn needs_maintenance(&self) -> bool {
        false
    }
}
