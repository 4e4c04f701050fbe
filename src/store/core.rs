//! The store as all threads share it, and what every operation is built from.
//!
//! Owns [`Store`]: finding a record, linking and unlinking it with all its accounting, versions and
//! flush state, statistics. Commands are in `read`, `write`, `replica`; keeping memory free is in
//! `evict` and `expire`.
//!
//! ```text
//! Order of locks:
//! resizing | big build -> writer -> reclaimer -> stripe (one) -> feed | queues of segments
//! ```
//! Nobody ever waits for a lock further to the left than one it holds, and for no second stripe.

use super::evict::Reclaimer;
use super::feed::{ChangeSignal, Drained, Feed};
use super::horizon::Horizon;
use super::index::{Index, Locked, Place};
use super::item::{Record, Shape};
use super::popular::Popularity;
use super::segment::{Open, Segments};
use super::told::{self, Told};
use super::version::VersionClock;
use super::write::New;
use super::{Config, FlushState, Handle, StoreStats, Version, Witness};
use crate::base::clock::Now;
use crate::base::counters::{ClassSums, Counter, Counters, Sums};
use crate::base::hash::hash_key;
pub(super) use crate::base::sync::{lock, try_lock};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

/// Most open segments that writers have between them; more threads share.
const WRITERS_MAX: usize = 64;
/// One writer per this many segments, so that half filled ones are a small part of the arena.
const SEGMENTS_PER_WRITER: u32 = 16;
/// The part of the arena that remembered deletes may take before the oldest are forgotten.
const TOMBSTONE_SHARE: u64 = 8;
/// The seconds of the monotonic clock.
pub(super) fn mono_secs(now: Now) -> u32 {
    (now.mono_us / 1_000_000) as u32
}

/// How many writers share so many segments.
fn writers_for(segments: u32) -> usize {
    ((segments / SEGMENTS_PER_WRITER) as usize).clamp(1, WRITERS_MAX)
}

/// Where new records go: one open segment, used by one thread at a time.
#[derive(Debug, Default)]
pub(super) struct Writer {
    pub open: Option<Open>,
}

/// What belongs to one handle.
#[derive(Debug)]
pub(super) struct Local {
    pub counters: Arc<Counters>,
    pub feed: Arc<Feed>,
    pub fed: bool,
    /// Its feed has become so full that it should be drained soon.
    pub full: bool,
    /// The last version that a change of this handle got, where peers hear of it.
    pub issued: Version,
    pub writer: usize,
    /// Bytes that it has stored since it last looked whether it has to reclaim for them.
    pub owed: usize,
}

#[derive(Debug)]
struct Member {
    counters: Arc<Counters>,
    feed: Arc<Feed>,
}

/// The cache of this node.
#[derive(Debug)]
pub struct Store {
    /// For what outlives the call that makes it.
    pub(super) myself: Weak<Store>,
    pub(super) config: Config,
    pub(super) clock: VersionClock,
    changed: ChangeSignal,
    telling: AtomicBool,
    /// Bytes of changes that may wait in each feed.
    told_max: AtomicUsize,
    pub(super) index: Index,
    pub(super) segments: Segments,
    /// Bytes of the arena's budget that the server uses for data blocks under way.
    lent: AtomicU64,
    writers: Box<[Mutex<Writer>]>,
    /// How many of the writers are used.
    writers_used: AtomicUsize,
    /// `-m`, as `cache_memlimit` last set it.
    limit: AtomicU64,
    /// Held while the limit is changed.
    pub(super) resizing: Mutex<()>,
    pub(super) reclaimer: Mutex<Reclaimer>,
    /// Held while a value that takes a large part of the arena is built.
    pub(super) big: Mutex<()>,
    flush: Mutex<FlushState>,
    /// The flush watermark, to be read without a lock.
    watermark: AtomicU64,
    /// The unix second of a deferred flush, or `u32::MAX`.
    flush_due: AtomicU32,
    pub(super) tombstones: AtomicU64,
    pub(super) tombstone_bytes: AtomicU64,
    /// How many seconds deletes are remembered at present: fewer than configured while they are
    /// more than their share of the arena.
    pub(super) tombstone_life: AtomicU32,
    /// Which deletes are not remembered any more. Only where replicated.
    pub(super) horizon: Option<Horizon>,
    /// The last step of maintenance found nothing to reclaim.
    pub(super) exhausted: AtomicBool,
    /// Segments that a sweep which was asked for has still to look at.
    pub(super) crawl_left: AtomicU32,
    members: Mutex<Vec<Member>>,
    pub(super) witness: OnceLock<Box<dyn Witness>>,
    base: Mutex<Sums>,
    pub(super) class_base: Mutex<ClassSums>,
}

/// What a record is at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Live,
    Expired,
    Flushed,
    Deleted,
}

impl Store {
    /// Whether the address space for a store of `memory_limit` bytes can be had at present.
    pub fn is_possible(memory_limit: u64) -> bool {
        usize::try_from(memory_limit).is_ok_and(super::arena::Arena::is_possible)
    }

    /// An empty store. Aborts when `-m` bytes of address space cannot be had, which
    /// [`Store::is_possible`] tells before.
    pub fn new(config: Config, now: Now) -> Arc<Store> {
        let index = Index::new(config.memory_limit);
        let segments = Segments::new(config.memory_limit, index.fixed_bytes());
        let writers_used = AtomicUsize::new(writers_for(segments.count()));
        Arc::new_cyclic(|myself| Store {
            myself: Weak::clone(myself),
            clock: VersionClock::new(config.node_tag),
            changed: ChangeSignal::default(),
            telling: AtomicBool::new(false),
            told_max: AtomicUsize::new(told::share(1)),
            index,
            segments,
            lent: AtomicU64::new(0),
            writers: (0..WRITERS_MAX).map(|_| Mutex::default()).collect(),
            writers_used,
            limit: AtomicU64::new(config.memory_limit),
            resizing: Mutex::default(),
            reclaimer: Mutex::new(Reclaimer::new(now)),
            big: Mutex::new(()),
            flush: Mutex::default(),
            watermark: AtomicU64::new(0),
            flush_due: AtomicU32::new(u32::MAX),
            tombstones: AtomicU64::new(0),
            tombstone_bytes: AtomicU64::new(0),
            tombstone_life: AtomicU32::new(config.tombstone_secs),
            horizon: config
                .replicated
                .then(|| Horizon::new(config.epitaphs_max, config.memory_limit)),
            exhausted: AtomicBool::new(false),
            crawl_left: AtomicU32::new(0),
            members: Mutex::default(),
            witness: OnceLock::new(),
            base: Mutex::default(),
            class_base: Mutex::default(),
            config,
        })
    }

    /// One thread's access to the store: its counters, its feed, its open segment.
    pub fn handle(self: &Arc<Store>) -> Handle {
        let (counters, feed) = (Arc::new(Counters::new()), Arc::new(Feed::default()));
        let mut members = lock(&self.members);
        let writer = members.len() % self.writers.len();
        members.push(Member { counters: Arc::clone(&counters), feed: Arc::clone(&feed) });
        self.told_max.store(told::share(members.len()), Ordering::Relaxed);
        drop(members);
        Handle::new(
            Arc::clone(self),
            Local { counters, feed, fed: false, full: false, issued: Version(0), writer, owed: 0 },
        )
    }

    /// The writer that this handle uses.
    #[inline]
    pub(super) fn writer(&self, me: &Local) -> &Mutex<Writer> {
        let used = self.writers_used.load(Ordering::Relaxed);
        &self.writers[if me.writer < used { me.writer } else { me.writer % used }]
    }

    /// All writers, with whether each is in use.
    pub(super) fn each_writer(&self) -> impl Iterator<Item = (&Mutex<Writer>, bool)> {
        let used = self.writers_used.load(Ordering::Relaxed);
        self.writers.iter().enumerate().map(move |(nth, writer)| (writer, nth < used))
    }

    /// Fits the number of writers to the number of segments.
    pub(super) fn set_writers(&self) {
        let segments = self.segments.target() / self.segments.size() as u64;
        let used = writers_for(u32::try_from(segments).unwrap_or(u32::MAX));
        self.writers_used.store(used, Ordering::Relaxed);
    }

    /// `-m` in bytes, or what [`Store::resize`] has made of it.
    pub fn memory_limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    pub(super) fn note_limit(&self, memory_limit: u64) {
        self.limit.store(memory_limit, Ordering::Relaxed);
    }

    /// What the store was made with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn raw_sums(&self) -> Sums {
        let mut sums = Sums::default();
        for member in lock(&self.members).iter() {
            member.counters.sum_into(&mut sums);
        }
        sums
    }

    /// Bytes of `-m` that are not for segments at present: the index, and what is lent.
    pub(super) fn off_arena(&self) -> u64 {
        self.index.bytes() + self.lent.load(Ordering::Relaxed)
    }

    /// Takes `bytes` off the memory for items, for a use outside of the store that `-m` is to
    /// cover; [`super::Handle::make_way`] then makes room. False, and nothing is lent, when more
    /// than half of the memory would be.
    pub fn lend(&self, bytes: u64) -> bool {
        let limit = self.memory_limit() / 2;
        let more = |lent: u64| lent.checked_add(bytes).filter(|&sum| bytes == 0 || sum <= limit);
        self.lent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Gives back what [`Store::lend`] gave.
    pub fn take_back(&self, bytes: u64) {
        self.lent.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Gauges, and the sums of all handles' counters since the last reset.
    pub fn stats(&self) -> StoreStats {
        let raw = self.raw_sums();
        let gauge = |plus, minus| raw.get(plus).saturating_sub(raw.get(minus));
        let (index_bytes, off_arena) = (self.index.bytes(), self.off_arena());
        StoreStats {
            curr_items: gauge(Counter::ItemsLinked, Counter::ItemsUnlinked),
            bytes: gauge(Counter::BytesLinked, Counter::BytesUnlinked),
            limit_maxbytes: self.memory_limit(),
            index_bytes: index_bytes + self.index.fixed_bytes(),
            index_slots: index_bytes / 8,
            segment_bytes: self.segments.size() as u64,
            segments: u64::from(self.segments.usable(off_arena)),
            segments_committed: u64::from(self.segments.committed()),
            segments_free: u64::from(self.segments.free_count(off_arena)),
            tombstones: self.tombstones.load(Ordering::Relaxed),
            feed_queued: lock(&self.members).iter().map(|member| member.feed.len() as u64).sum(),
            sums: raw.since(&lock(&self.base)),
        }
    }

    /// `stats reset`: counters count from here. Gauges stay.
    pub fn reset_stats(&self) {
        let raw = self.raw_sums();
        *lock(&self.base) = raw;
        self.reset_classes();
    }

    /// Shows every handle's counters.
    pub(super) fn each_counters(&self, mut each: impl FnMut(&Counters)) {
        for member in lock(&self.members).iter() {
            each(&member.counters);
        }
    }

    /// Appends to `out` the hashes of keys that were changed here since the last drain.
    pub fn drain_feeds(&self, out: &mut Vec<u64>) -> Drained {
        let mut told = Told::default();
        let drained = self.drain_told(out, &mut told);
        out.extend(told.iter().map(|(hash, _)| hash));
        drained
    }

    /// Replaces what is in `told` by the items that were stored here since the last drain, and
    /// appends to `out` the hashes of other keys that were changed. Only hashes come unless
    /// [`Store::set_telling`] has asked for more.
    pub fn drain_told(&self, out: &mut Vec<u64>, told: &mut Told) -> Drained {
        told.begin(self.config.hash_seed);
        // Read first: a version up to this was issued and pushed under its feed's lock before.
        let upto = self.clock.newest();
        let mut overflowed = false;
        for member in lock(&self.members).iter() {
            overflowed |= member.feed.drain(out, told);
        }
        Drained { upto, overflowed }
    }

    /// Whether writers leave small items in their feeds as they are, not only their hashes: worth
    /// it while somebody is linked.
    pub fn set_telling(&self, on: bool) {
        if self.telling.load(Ordering::Relaxed) != on {
            self.telling.store(on, Ordering::Relaxed);
        }
    }

    /// Bytes that clients have sent, through all handles that live.
    pub fn bytes_asked(&self) -> u64 {
        lock(&self.members).iter().map(|member| member.counters.get(Counter::BytesRead)).sum()
    }

    /// Whether changes wait for the next drain.
    pub fn has_fed(&self) -> bool {
        lock(&self.members).iter().any(|member| member.feed.waits())
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
        *lock(&self.flush)
    }

    /// Changes the flush state. True when the change made a difference.
    pub(super) fn change_flush(&self, change: impl FnOnce(FlushState) -> FlushState) -> bool {
        let mut flush = lock(&self.flush);
        let before = *flush;
        *flush = change(before);
        // The clock first: what is written once the watermark is visible must be above it.
        self.clock.observe(flush.watermark);
        if let Some(pending) = flush.pending {
            self.clock.observe(pending.issued);
        }
        self.watermark.fetch_max(flush.watermark.0, Ordering::AcqRel);
        let due = flush.deferred().map_or(u32::MAX, |pending| pending.at.unix_secs());
        self.flush_due.store(due, Ordering::Release);
        *flush != before
    }

    /// Lets a deferred flush come to pass. Called at the start of every operation.
    #[inline]
    pub(super) fn settle(&self, now: Now) {
        if now.unix_secs() >= self.flush_due.load(Ordering::Acquire) {
            self.settle_now(now);
        }
    }

    #[cold]
    fn settle_now(&self, now: Now) {
        self.change_flush(|flush| flush.settled(now));
    }

    /// The flush watermark.
    #[inline]
    pub(super) fn watermark(&self) -> Version {
        Version(self.watermark.load(Ordering::Acquire))
    }

    #[inline]
    pub(super) fn hash(&self, key: &[u8]) -> u64 {
        hash_key(self.config.hash_seed, key)
    }

    /// Locks the stripe of `hash`.
    #[inline]
    pub(super) fn lock(&self, hash: u64) -> (Locked<'_>, Place) {
        let place = self.index.place(hash);
        (self.index.lock(place.stripe), place)
    }

    /// The record at a location that a slot holds.
    #[inline]
    pub(super) fn record(&self, location: u64) -> Record {
        Record::read(&self.segments.arena, self.segments.offset(location))
    }

    /// The slot and record of a key, whatever its status.
    #[inline]
    pub(super) fn find(
        &self,
        stripe: &Locked<'_>,
        place: Place,
        key: &[u8],
    ) -> Option<(usize, Record)> {
        let mut found = None;
        let at = stripe.find(place.tag, |location| {
            let record = self.record(location);
            found = Some(record);
            record.key(&self.segments.arena) == key
        })?;
        found.map(|record| (at, record))
    }

    /// The slot and record of a key that a client may see.
    pub(super) fn find_live(
        &self,
        stripe: &Locked<'_>,
        place: Place,
        key: &[u8],
        now: Now,
    ) -> Option<(usize, Record)> {
        self.find(stripe, place, key).filter(|(_, record)| self.status(record, now) == Status::Live)
    }

    /// What a record is now. Flushed wins, so that memory swept late counts as flushed.
    #[inline]
    pub(super) fn status(&self, record: &Record, now: Now) -> Status {
        let arena = &self.segments.arena;
        let (version, deleted) = record.version(arena);
        if version <= self.watermark() {
            Status::Flushed
        } else if deleted {
            Status::Deleted
        } else if record.exptime(arena).is_past(now.unix_secs()) {
            Status::Expired
        } else {
            Status::Live
        }
    }

    /// Issues the version of a local change. Under the stripe lock, before it becomes visible.
    pub(super) fn issue(&self, me: &mut Local, hash: u64, now: Now) -> Version {
        if !self.config.replicated {
            return self.clock.next(now);
        }
        let (version, _) = me.feed.issue(&self.clock, now, hash, self.config.feed_max, None);
        (me.fed, me.issued) = (true, version);
        version
    }

    /// The same for a new item that is certain to be stored with this version.
    pub(super) fn issue_new(&self, me: &mut Local, hash: u64, new: &New<'_>, now: Now) -> Version {
        if !self.config.replicated {
            return self.clock.next(now);
        }
        let copied = new.placed.is_none() && new.len() <= told::VALUE_MAX;
        let tell = copied && self.telling.load(Ordering::Relaxed);
        let new = tell.then(|| (new, self.told_max.load(Ordering::Relaxed)));
        let (version, full) = me.feed.issue(&self.clock, now, hash, self.config.feed_max, new);
        (me.fed, me.issued) = (true, version);
        me.full |= full;
        version
    }

    /// All bytes of an item: its record and its chunks.
    pub(super) fn item_bytes(&self, record: &Record) -> usize {
        let mut bytes = record.size();
        if record.is_large() {
            self.each_chunk(record, |chunk| bytes += chunk.size());
        }
        bytes
    }

    fn segment_of(&self, record: &Record) -> &super::segment::Segment {
        self.segments.meta_at(record.at)
    }

    /// Notes when a record that was just written or changed is to be looked at by the sweep.
    #[inline]
    pub(super) fn note_due(&self, record: &Record) {
        let arena = &self.segments.arena;
        let (version, deleted) = record.version(arena);
        if deleted {
            self.segment_of(record).expires(self.forgotten_at(version));
        } else if let super::Exptime::At(secs) = record.exptime(arena) {
            self.segment_of(record).expires(secs);
        }
    }

    /// Accounts for a complete record that becomes reachable. Its bytes were counted as alive by
    /// the writer.
    fn account_new(&self, record: &Record, counters: &Counters) {
        self.note_due(record);
        let (_, deleted) = record.version(&self.segments.arena);
        if deleted {
            self.tombstones.fetch_add(1, Ordering::Relaxed);
            self.tombstone_bytes.fetch_add(record.size() as u64, Ordering::Relaxed);
        } else {
            counters.add(Counter::BytesLinked, self.item_bytes(record) as u64);
            self.class_gains(record, counters);
        }
    }

    /// Accounts for a record that becomes unreachable.
    fn account_old(&self, record: &Record, counters: &Counters) {
        let (_, deleted) = record.version(&self.segments.arena);
        if deleted {
            let size = record.tombstone_size();
            self.tombstones.fetch_sub(1, Ordering::Relaxed);
            self.tombstone_bytes.fetch_sub(size as u64, Ordering::Relaxed);
            self.segment_of(record).sub_live(size);
        } else {
            self.account_gone(record, counters);
            self.segment_of(record).sub_live(record.size());
        }
    }

    /// Makes a complete record of a new key reachable.
    pub(super) fn link(
        &self,
        stripe: &mut Locked<'_>,
        place: Place,
        popularity: Popularity,
        record: &Record,
        counters: &Counters,
    ) {
        self.account_new(record, counters);
        stripe.insert(place.tag, popularity, self.segments.location(record.at));
    }

    /// Makes an item's or a remembered delete's record unreachable: its bytes are dead.
    pub(super) fn unlink(
        &self,
        stripe: &mut Locked<'_>,
        slot: usize,
        record: &Record,
        counters: &Counters,
    ) {
        stripe.remove(slot);
        self.account_old(record, counters);
    }

    /// Puts a complete record in the place of the old one of the same key.
    pub(super) fn replace(
        &self,
        stripe: &mut Locked<'_>,
        slot: usize,
        popularity: Popularity,
        old: &Record,
        new: &Record,
        counters: &Counters,
    ) {
        self.account_new(new, counters);
        stripe.set(slot, popularity, self.segments.location(new.at));
        self.account_old(old, counters);
    }

    /// Puts a record in the place of one with the same value area: a large item keeps its chunks.
    pub(super) fn replace_head(
        &self,
        stripe: &mut Locked<'_>,
        slot: usize,
        old: &Record,
        new: &Record,
        counters: &Counters,
    ) {
        counters.add(Counter::BytesLinked, new.size() as u64);
        counters.add(Counter::BytesUnlinked, old.size() as u64);
        let popularity = stripe.popularity(slot);
        stripe.set(slot, popularity, self.segments.location(new.at));
        self.segment_of(old).sub_live(old.size());
        self.note_due(new);
    }

    /// Accounts for an item that stops being one, and for its chunks; not for its record's bytes.
    fn account_gone(&self, record: &Record, counters: &Counters) {
        counters.add(Counter::BytesUnlinked, self.item_bytes(record) as u64);
        self.class_loses(record, counters);
        if record.is_large() {
            self.each_chunk(record, |chunk| self.segment_of(&chunk).sub_live(chunk.size()));
        }
    }

    /// Turns a record into a remembered delete, in place: needs no memory, so it cannot fail. The
    /// bytes of the value are dead from then on.
    pub(super) fn bury(&self, record: &Record, version: Version, counters: &Counters) {
        let arena = &self.segments.arena;
        let (_, deleted) = record.version(arena);
        if !deleted {
            let size = record.tombstone_size();
            self.account_gone(record, counters);
            self.segment_of(record).sub_live(record.size() - size);
            self.tombstones.fetch_add(1, Ordering::Relaxed);
            self.tombstone_bytes.fetch_add(size as u64, Ordering::Relaxed);
        }
        record.set_version(arena, version, true);
        self.note_due(record);
    }

    /// Deletes what is found at `version`: remembered on a replicated node, else forgotten.
    pub(super) fn remove(
        &self,
        stripe: &mut Locked<'_>,
        slot: usize,
        record: &Record,
        version: Version,
        counters: &Counters,
    ) {
        if self.config.replicated {
            self.bury(record, version, counters);
        } else {
            self.unlink(stripe, slot, record, counters);
        }
    }

    /// Takes the memory of an expired item back. On a replicated node its version stays known for
    /// as long as a delete would be: a peer that missed it must not bring an older one back.
    pub(super) fn drop_expired(
        &self,
        stripe: &mut Locked<'_>,
        slot: usize,
        record: &Record,
        now: Now,
        counters: &Counters,
    ) {
        let (version, _) = record.version(&self.segments.arena);
        let version = version.just_below();
        if self.config.replicated && !self.is_too_old(version, now) {
            self.bury(record, version, counters);
        } else {
            self.forget(record, version);
            self.unlink(stripe, slot, record, counters);
        }
    }

    /// Notes that a remembered delete is about to be dropped. Before it becomes unreachable.
    pub(super) fn forget(&self, record: &Record, version: Version) {
        if let Some(horizon) = &self.horizon {
            horizon.forget(self.hash(record.key(&self.segments.arena)), version);
        }
    }

    /// The unix second in which a delete of this version is forgotten.
    pub(super) fn forgotten_at(&self, version: Version) -> u32 {
        version.unix_secs().saturating_add(self.tombstone_life.load(Ordering::Relaxed))
    }

    /// Whether a delete of this version need not be remembered any longer: its time is over, and
    /// nobody waits for it.
    pub(super) fn is_too_old(&self, version: Version, now: Now) -> bool {
        let wanted = || self.horizon.as_ref().is_some_and(|horizon| horizon.is_wanted(version));
        self.forgotten_at(version) <= now.unix_secs() && (self.too_many_tombstones() || !wanted())
    }

    /// Whether remembered deletes take more than their share.
    pub(super) fn too_many_tombstones(&self) -> bool {
        self.tombstone_bytes.load(Ordering::Relaxed) > self.tombstone_limit()
    }

    /// Whether remembered deletes take less than half of their share.
    pub(super) fn few_tombstones(&self) -> bool {
        self.tombstone_bytes.load(Ordering::Relaxed) < self.tombstone_limit() / 2
    }

    fn tombstone_limit(&self) -> u64 {
        self.segments.target() / TOMBSTONE_SHARE
    }

    /// Finishes a record that `shape` wrote at the end of the writer's open segment.
    pub(super) fn seal_record(&self, open: &mut Open, record: &Record) {
        debug_assert_eq!(self.segments.next_at(open), record.at);
        self.segments.advance(open, record.size());
    }

    /// Writes a record's head at the end of an open segment that has room for it.
    #[inline]
    pub(super) fn begin(&self, open: &Open, shape: &Shape<'_>, now: Now) -> Record {
        shape.write(&self.segments.arena, self.segments.next_at(open), now.unix_secs())
    }
}
