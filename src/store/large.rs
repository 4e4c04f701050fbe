//! Large values: chunks in many segments, their places in the item's record.
//!
//! Owns building and reading of values that do not fit a fraction of a segment. Never publishes:
//! the commands do, with the head record that comes out of here.
//!
//! ```text
//!  index slot --> head record: key | total length, places of chunks
//!                                      |          |          |
//!                      segment 7  [chunk 0]       |          |
//!                      segment 9  [ ........chunk 1........] |
//!                      segment 12                       [chunk 2]
//! ```
//! A chunk names the hash of its key, so that reclaim, which meets chunks in the order of segments,
//! finds the head and moves the chunk or drops the item. While a value is built its segments are
//! pinned; so they are while it is read, which happens without the stripe's lock.

use super::core::{Local, Store, Writer};
use super::held::Held;
use super::item::{begin_chunk, chunk_size, Extras, Record, HEADER, VALUE_MAX};
use super::pins::Pins;
use super::{Exptime, Item, Value};
use crate::base::clock::Now;

/// A record may take this part of a segment; what is longer is cut into chunks. So no more than
/// that part is lost at the end of a segment.
const RECORD_SHARE: usize = 8;
/// A chunk at the end of an open segment is worth its header when it has this part of a segment.
pub(super) const CHUNK_SHARE: usize = 32;
/// A chunk has at most this part of a segment, for the same reason: it moves in one piece.
pub(super) const CHUNK_MOST: usize = 4;
/// Values over this part of the arena are built one at a time: two at once could each hold what
/// the other one needs.
const BIG_SHARE: u64 = 16;
/// Bytes of one chunk's place.
pub(super) const PLACE: usize = 8;
/// Bytes of the total length in front of the places.
const TOTAL: usize = 4;

/// A value that is complete but for its head: chunks that nothing leads to yet.
#[derive(Debug)]
pub(super) struct Built<'a> {
    /// The head's value area.
    pub extents: Vec<u8>,
    chunks: Vec<Record>,
    pins: Pins<'a>,
}

/// Copies from a list of slices, front to back.
struct Source<'a> {
    parts: &'a [&'a [u8]],
    part: usize,
    at: usize,
}

impl<'a> Source<'a> {
    /// The next bytes, at most `max`, from one slice.
    fn next(&mut self, max: usize) -> &'a [u8] {
        while let Some(&part) = self.parts.get(self.part) {
            let rest = &part[self.at..];
            if !rest.is_empty() {
                let take = rest.len().min(max);
                self.at += take;
                return &rest[..take];
            }
            self.part += 1;
            self.at = 0;
        }
        &[]
    }
}

/// What a read of a large item needs once the stripe is unlocked.
#[derive(Debug)]
pub(super) struct Snapshot<'a> {
    pub key: Vec<u8>,
    pub flags: u32,
    pub exptime: Exptime,
    pub version: super::Version,
    pub extras: Extras,
    pub fetched: bool,
    pub idle_secs: u32,
    parts: Vec<&'a [u8]>,
    /// Where the parts are.
    places: Vec<(usize, usize)>,
    pins: Pins<'a>,
    store: &'a Store,
}

impl Snapshot<'_> {
    /// The value.
    pub fn value(&self) -> Value<'_> {
        Value::pinned(&self.parts, self)
    }

    /// The value, for longer than this lasts. None where too much is held already.
    pub fn hold(&self) -> Option<Held> {
        let store = self.store.myself.upgrade()?;
        let may = store.segments.may_pin(store.off_arena());
        may.then(|| Held::new(store, self.pins.list(), &self.places))
    }

    /// The item, as it was when it was pinned.
    pub fn item(&self) -> Item<'_> {
        Item {
            key: &self.key,
            flags: self.flags,
            exptime: self.exptime,
            version: self.version,
            cas: self.extras.unique(self.version),
            marks: self.extras.marks,
            fetched: self.fetched,
            last_access_secs: self.idle_secs,
            value: self.value(),
        }
    }

    /// The slices of the value.
    pub fn parts(&self) -> &[&[u8]] {
        &self.parts
    }
}

impl Store {
    /// Whether a record of this size is kept in one piece.
    pub(super) fn is_small(&self, record_size: usize, vlen: usize) -> bool {
        record_size <= self.segments.capacity() / RECORD_SHARE && vlen <= VALUE_MAX
    }

    /// Whether a value of this length is to be built alone.
    pub(super) fn is_big(&self, vlen: usize) -> bool {
        vlen as u64 > self.segments.target() / BIG_SHARE
    }

    /// Length of a large item's value (rule 2).
    pub(super) fn total_len(&self, head: &Record) -> usize {
        let mut le = [0u8; TOTAL];
        le.copy_from_slice(&head.value(&self.segments.arena)[..TOTAL]);
        u32::from_le_bytes(le) as usize
    }

    /// Calls `each` with every chunk record of a large item, in order (rule 2).
    pub(super) fn each_chunk(&self, head: &Record, mut each: impl FnMut(Record)) {
        let places = &head.value(&self.segments.arena)[TOTAL..];
        for place in places.chunks_exact(PLACE) {
            let mut le = [0u8; PLACE];
            le.copy_from_slice(place);
            each(self.record(u64::from_le_bytes(le)));
        }
    }

    /// Changes the place of one chunk of a large item. False when it is not one of its chunks.
    pub(super) fn move_extent(&self, head: &Record, from: &Record, to: &Record) -> bool {
        let arena = &self.segments.arena;
        let from = self.segments.location(from.at).to_le_bytes();
        let places = &head.value(arena)[TOTAL..];
        let Some(nth) = places.chunks_exact(PLACE).position(|place| place == from) else {
            return false;
        };
        let to = self.segments.location(to.at).to_le_bytes();
        arena.put(head.value_at() + TOTAL + nth * PLACE, &to);
        true
    }

    /// Whether `chunk` is one of this large item's chunks.
    pub(super) fn owns(&self, head: &Record, chunk: &Record) -> bool {
        let place = self.segments.location(chunk.at).to_le_bytes();
        let places = &head.value(&self.segments.arena)[TOTAL..];
        places.chunks_exact(PLACE).any(|found| found == place)
    }

    /// Cuts a value into chunks. None when there is no room for them.
    pub(super) fn build(
        &self,
        me: &mut Local,
        writer: &mut Writer,
        hash: u64,
        parts: &[&[u8]],
        now: Now,
    ) -> Option<Built<'_>> {
        let total: usize = parts.iter().map(|part| part.len()).sum();
        if self.is_over_half(total) {
            return None;
        }
        let mut source = Source { parts, part: 0, at: 0 };
        let mut built = Built {
            extents: (total as u32).to_le_bytes().to_vec(),
            chunks: Vec::new(),
            pins: Pins::new(&self.segments),
        };
        let worth = chunk_size(self.segments.capacity() / CHUNK_SHARE);
        let mut left = total;
        while left > 0 {
            if !self.ensure(me, writer, worth.min(chunk_size(left)), now) {
                self.abandon(built);
                return None;
            }
            let Some(open) = writer.open.as_mut() else { break };
            let room = (self.segments.room(open) - HEADER) & !3;
            let len = left.min(room).min(self.segments.capacity() / CHUNK_MOST);
            let arena = &self.segments.arena;
            let at = self.segments.next_at(open);
            let mut to = begin_chunk(arena, at, hash, len);
            let end = to + len;
            while to < end {
                let bytes = source.next(end - to);
                arena.put(to, bytes);
                to += bytes.len();
            }
            let chunk = Record::read(arena, at);
            built.pins.add(open.segment);
            self.segments.advance(open, chunk.size());
            built.extents.extend_from_slice(&self.segments.location(at).to_le_bytes());
            built.chunks.push(chunk);
            left -= len;
            if built.extents.len() > VALUE_MAX {
                self.abandon(built);
                return None;
            }
        }
        Some(built)
    }

    /// Gives up a value that was not published.
    pub(super) fn abandon(&self, built: Built<'_>) {
        for chunk in &built.chunks {
            self.segments.meta_at(chunk.at).sub_live(chunk.size());
        }
        drop(built.pins);
    }

    /// Pins a large item, for reading it without the stripe's lock.
    pub(super) fn snapshot(&self, head: &Record, now: Now) -> Snapshot<'_> {
        let arena = &self.segments.arena;
        let mut pins = Pins::new(&self.segments);
        let (mut parts, mut places) = (Vec::new(), Vec::new());
        self.each_chunk(head, |chunk| {
            pins.add(self.segments.segment_at(chunk.at));
            parts.push(chunk.value(arena));
            places.push((chunk.value_at(), chunk.value_len()));
        });
        Snapshot {
            key: head.key(arena).to_vec(),
            flags: head.flags(arena),
            exptime: head.exptime(arena),
            version: head.version(arena).0,
            extras: head.extras(arena),
            fetched: head.fetched(arena),
            idle_secs: head.idle_secs(arena, now.unix_secs()),
            parts,
            places,
            pins,
            store: self,
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::base::clock::Now;
    use crate::store::{Config, Exptime, Handle, Mode, Store, Stored};

    const NOW: Now = Now { unix_us: 1_700_000_000_000_000, mono_us: 0 };

    fn handle(mib: u64, item_max: u32) -> Handle {
        let config = Config { memory_limit: mib << 20, item_max, ..Config::default() };
        Store::new(config, NOW).handle()
    }

    fn value(len: usize, salt: usize) -> Vec<u8> {
        (0..len).map(|n| (n * 31 + n / 251 + salt) as u8).collect()
    }

    fn set(handle: &mut Handle, key: &[u8], value: &[u8]) -> Stored {
        handle.store(Mode::Set, key, 9, Exptime::Never, value, NOW)
    }

    fn get(handle: &mut Handle, key: &[u8]) -> Option<Vec<u8>> {
        handle.get(key, NOW, |item| {
            assert_eq!((item.key, item.flags), (key, 9));
            item.value.to_vec()
        })
    }

    #[test]
    fn values_up_to_the_limits_go_in_and_come_out_again_and_again() {
        let rounds = if cfg!(miri) { 2 } else { 12 };
        let cases: &[(u64, usize)] = if cfg!(miri) {
            &[(1, 100_000)]
        } else {
            &[(1, 512 << 10), (2, (1 << 20) - 100), (16, 8 << 20)]
        };
        for &(mib, len) in cases {
            let mut handle = handle(mib, 128 << 20);
            for round in 0..rounds {
                let key = [b"key", &[b'a' + (round % 3) as u8][..]].concat();
                let value = value(len - round, round);
                let stored = set(&mut handle, &key, &value);
                assert!(matches!(stored, Stored::Stored(_)), "-m {mib} round {round}: {stored:?}");
                assert!(get(&mut handle, &key).as_deref() == Some(&value[..]), "-m {mib}");
                for n in 0..20 {
                    assert!(matches!(set(&mut handle, &[n], b"small"), Stored::Stored(_)));
                }
            }
        }
    }

    #[test]
    fn too_large_and_too_much_are_refused_and_leave_nothing_behind() {
        let mut handle = handle(1, 4 << 20);
        assert!(matches!(set(&mut handle, b"k", b"old"), Stored::Stored(_)));
        assert_eq!(set(&mut handle, b"k", &value(5 << 20, 0)), Stored::TooLarge);
        assert_eq!(get(&mut handle, b"k"), None, "a refused set takes the old value along");
        assert_eq!(set(&mut handle, b"k", &value(1 << 20, 0)), Stored::OutOfMemory);
        let value = value(400_000, 1);
        assert!(matches!(set(&mut handle, b"k", &value), Stored::Stored(_)));
        assert!(get(&mut handle, b"k").as_deref() == Some(&value[..]));
    }

    #[test]
    fn appending_grows_a_small_value_into_a_large_one() {
        let mut handle = handle(2, 1 << 20);
        set(&mut handle, b"k", b"");
        let mut expected = Vec::new();
        let rounds = if cfg!(miri) { 4 } else { 60 };
        for round in 0..rounds {
            let piece = value(1700, round);
            let mode = if round % 2 == 0 { Mode::Append } else { Mode::Prepend };
            let stored = handle.store(mode, b"k", 1, Exptime::At(7), &piece, NOW);
            assert!(matches!(stored, Stored::Stored(_)));
            let at = if round % 2 == 0 { expected.len() } else { 0 };
            expected.splice(at..at, piece);
            assert!(get(&mut handle, b"k").as_deref() == Some(&expected[..]), "round {round}");
        }
        let later = Exptime::At(NOW.unix_secs() + 10);
        assert!(handle.touch(b"k", later, NOW).is_some());
        assert_eq!(handle.get(b"k", NOW, |item| item.exptime), Some(later));
        assert!(get(&mut handle, b"k").as_deref() == Some(&expected[..]));
        assert!(handle.delete(b"k", NOW));
        let stats = handle.store_ref().stats();
        assert_eq!((stats.curr_items, stats.bytes), (0, 0));
    }
}
