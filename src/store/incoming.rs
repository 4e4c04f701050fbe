//! Large values that are read into their place.
//!
//! Owns memory that was set aside for a value which is still to come: chunks that nothing leads to
//! yet, written by whoever reads the value's bytes. Never publishes: a storage command does, with
//! the complete value; one that is dropped before leaves only dead bytes behind.
//!
//! ```text
//!            here             room                 total
//!              v                v                    v
//!  [ chunk 0 ][ chunk 1 ][ chunk 2 ]     (not set aside yet)
//!  <-- filled ->-- windows ----->
//! ```
//! Set aside is, bit by bit, what the client has earned by sending. The segments are pinned
//! meanwhile; how many may be, [`Segments::may_pin`](super::segment::Segments) says.

use std::sync::Arc;

use super::core::{lock, Store};
use super::item::{begin_chunk, chunk_size, HEADER, VALUE_MAX};
use super::large::{CHUNK_MOST, CHUNK_SHARE, PLACE};
use super::Handle;
use crate::base::clock::Now;

/// A value's bytes, when they are given to a storage command.
#[derive(Debug)]
pub enum Given<'a> {
    /// To be copied.
    Bytes(&'a [u8]),
    /// In the store already.
    Placed(Box<Incoming>),
}

impl Given<'_> {
    /// Length in bytes.
    pub fn len(&self) -> usize {
        match self {
            Given::Bytes(bytes) => bytes.len(),
            Given::Placed(value) => value.total,
        }
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<'a> From<&'a [u8]> for Given<'a> {
    fn from(bytes: &'a [u8]) -> Given<'a> {
        Given::Bytes(bytes)
    }
}

/// A value on its way in.
#[derive(Debug)]
pub struct Incoming {
    store: Arc<Store>,
    hash: u64,
    total: usize,
    here: usize,
    room: usize,
    /// Where the bytes of each chunk are, and how many.
    chunks: Vec<(usize, usize)>,
    /// The pinned segments; one may be there several times.
    pinned: Vec<u32>,
    published: bool,
}

impl Incoming {
    /// Bytes that are here.
    pub fn here(&self) -> usize {
        self.here
    }

    /// Bytes that it is to have.
    pub fn total(&self) -> usize {
        self.total
    }

    /// Bytes that may be read into it now.
    pub fn room(&self) -> usize {
        self.room - self.here
    }

    /// Hands `each` the memory that the next bytes belong in, at most `most` of them, in order.
    /// Then [`Incoming::filled`] says how many came.
    pub fn windows<'a>(&'a mut self, most: usize, mut each: impl FnMut(&'a mut [u8])) {
        let (mut skip, mut left) = (self.here, most);
        for &(at, len) in &self.chunks {
            if skip >= len {
                skip -= len;
                continue;
            }
            let window = (len - skip).min(left);
            if window == 0 {
                break;
            }
            each(self.store.segments.arena.window(at + skip, window));
            left -= window;
            skip = 0;
        }
    }

    /// The first `n` bytes of the windows are in.
    pub fn filled(&mut self, n: usize) {
        debug_assert!(n <= self.room());
        self.here = self.room.min(self.here + n);
    }

    /// Copies bytes in, as far as there is room; returns how many that were.
    pub fn extend(&mut self, mut bytes: &[u8]) -> usize {
        let mut copied = 0;
        self.windows(bytes.len(), |window| {
            let (now, rest) = bytes.split_at(window.len().min(bytes.len()));
            window[..now.len()].copy_from_slice(now);
            (copied, bytes) = (copied + now.len(), rest);
        });
        self.filled(copied);
        copied
    }

    /// What is here, in its slices.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let mut left = self.here;
        self.chunks.iter().map_while(move |&(at, len)| {
            let part = len.min(left);
            left -= part;
            (part > 0).then(|| self.store.segments.arena.bytes(at, part))
        })
    }

    /// The value area of the record that leads to the chunks.
    pub(super) fn extents(&self) -> Vec<u8> {
        let mut extents = (self.total as u32).to_le_bytes().to_vec();
        for &(at, _) in &self.chunks {
            let place = self.store.segments.location(at - HEADER);
            extents.extend_from_slice(&place.to_le_bytes());
        }
        extents
    }

    /// An item leads to it from now on.
    pub(super) fn publish(mut self) {
        self.published = true;
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let segments = &self.store.segments;
        if !self.published {
            for &(at, len) in &self.chunks {
                segments.meta_at(at).sub_live(chunk_size(len));
            }
        }
        for &segment in &self.pinned {
            segments.unpin(segment);
        }
    }
}

impl Handle {
    /// Begins to take in a value of `total` bytes, to be stored under `key` by a plain set. None
    /// where it is too short for chunks, or so long that it is to be built alone.
    pub fn take_in(&self, key: &[u8], total: usize) -> Option<Box<Incoming>> {
        let store = self.store_ref();
        if store.is_small(HEADER + key.len() + total, total) || store.is_big(total) {
            return None;
        }
        Some(Box::new(Incoming {
            store: Arc::clone(store),
            hash: store.hash(key),
            total,
            here: 0,
            room: 0,
            chunks: Vec::new(),
            pinned: Vec::new(),
            published: false,
        }))
    }

    /// Sets memory aside for at least `more` bytes of what is still to come, or for all of it.
    /// False when there is none at present; the value stays as it is.
    pub fn set_aside(&mut self, value: &mut Incoming, more: usize, now: Now) -> bool {
        let (store, me) = self.split();
        let segments = &store.segments;
        let worth = chunk_size(segments.capacity() / CHUNK_SHARE);
        let wanted = value.total.min(value.here.saturating_add(more));
        let mut writer = lock(store.writer(me));
        while value.room < wanted {
            let left = wanted - value.room;
            let may = segments.may_pin(store.off_arena())
                && (value.chunks.len() + 2) * PLACE <= VALUE_MAX;
            if !may || !store.ensure(me, &mut writer, worth.min(chunk_size(left)), now) {
                return false;
            }
            let Some(open) = writer.open.as_mut() else { return false };
            let room = (segments.room(open) - HEADER) & !3;
            let len = left.min(room).min(segments.capacity() / CHUNK_MOST);
            let to = begin_chunk(&segments.arena, segments.next_at(open), value.hash, len);
            if value.pinned.last() != Some(&open.segment) {
                segments.pin(open.segment);
                value.pinned.push(open.segment);
            }
            segments.advance(open, chunk_size(len));
            value.chunks.push((to, len));
            value.room += len;
        }
        true
    }
}
