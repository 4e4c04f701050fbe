//! Large values that stay readable after the call that found them.
//!
//! Owns the pins of a value that is sent from where it lies. Never copies a byte. Whoever holds one
//! lets go of it soon: while it lives, reclaim passes the value's segments over.

use std::sync::Arc;

use super::core::Store;
use super::segment::Segments;

/// At most this part of all segments is kept from reclaim by values on their way in or out; what
/// comes beyond that is copied. The rest is enough to go on with, whatever clients do.
const PINNED_SHARE: u32 = 2;

/// A large value, as it was when it was found. It does not change, and its memory is not used for
/// anything else, until this is dropped.
#[derive(Debug)]
pub struct Held {
    store: Arc<Store>,
    segments: Vec<u32>,
    /// Places and lengths of its slices.
    parts: Vec<(usize, usize)>,
}

impl Held {
    /// Pins segments that the caller has pinned already.
    pub(super) fn new(store: Arc<Store>, segments: &[u32], parts: &[(usize, usize)]) -> Held {
        for &segment in segments {
            store.segments.pin(segment);
        }
        Held { store, segments: segments.to_vec(), parts: parts.to_vec() }
    }

    /// One of its slices, counted from 0.
    pub fn part(&self, nth: usize) -> Option<&[u8]> {
        let &(at, len) = self.parts.get(nth)?;
        Some(self.store.segments.arena.bytes(at, len))
    }

    /// Length of all slices.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|(_, len)| len).sum()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for &segment in &self.segments {
            self.store.segments.unpin(segment);
        }
    }
}

impl Segments {
    /// Whether one more segment may be kept from reclaim by something that lasts longer than a
    /// call.
    pub fn may_pin(&self, off_arena: u64) -> bool {
        self.pinned() < self.allowed(off_arena).min(self.count()) / PINNED_SHARE
    }
}
