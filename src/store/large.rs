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
use super::item::{begin_chunk, chunk_size, Record, Shape, CHUNK_MAX, HEADER, VALUE_MAX};
use super::segment::Pins;
use super::{Exptime, Value};
use crate::base::clock::Now;

/// A record may take this part of a segment; what is longer is cut into chunks. So no more than
/// that part is lost at the end of a segment.
const RECORD_SHARE: usize = 8;
/// A chunk at the end of an open segment is worth its header when it has this part of a segment.
const CHUNK_SHARE: usize = 32;
/// Values over this part of the arena are built one at a time: two at once could each hold what
/// the other one needs.
const BIG_SHARE: usize = 16;
/// Bytes of one chunk's place.
const PLACE: usize = 8;
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
pub(super) struct Snapshot<'a> {
    pub key: Vec<u8>,
    pub flags: u32,
    pub exptime: Exptime,
    pub version: super::Version,
    pub fetched: bool,
    pub idle_secs: u32,
    parts: Vec<&'a [u8]>,
    _pins: Pins<'a>,
}

impl Snapshot<'_> {
    /// The value.
    pub fn value(&self) -> Value<'_> {
        Value::from_parts(&self.parts)
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
        vlen > self.segments.arena.size() / BIG_SHARE
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
            let len = left.min(room).min(CHUNK_MAX);
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

    /// The shape of the head of a built value.
    pub(super) fn head_shape<'k>(
        key: &'k [u8],
        flags: u32,
        exptime: Exptime,
        extents: &[u8],
    ) -> Shape<'k> {
        Shape { key, flags, exptime, vlen: extents.len(), large: true }
    }

    /// Pins a large item, for reading it without the stripe's lock.
    pub(super) fn snapshot(&self, head: &Record, now: Now) -> Snapshot<'_> {
        let arena = &self.segments.arena;
        let mut pins = Pins::new(&self.segments);
        let mut parts = Vec::new();
        self.each_chunk(head, |chunk| {
            pins.add(self.segments.segment_at(chunk.at));
            parts.push(chunk.value(arena));
        });
        Snapshot {
            key: head.key(arena).to_vec(),
            flags: head.flags(arena),
            exptime: head.exptime(arena),
            version: head.version(arena).0,
            fetched: head.fetched(arena),
            idle_secs: head.idle_secs(arena, now.unix_secs()),
            parts,
            _pins: pins,
        }
    }
}
