//! Values that stay readable after the call that found them.
//!
//! Owns the pins of a value that is sent from where it lies. Never copies a byte. Whoever holds one
//! lets go of it soon: while it lives, reclaim passes the value's segments over.

use std::sync::Arc;

use super::core::Store;

/// A value, as it was when it was found. It does not change, and its memory is not used for
/// anything else, until this is dropped.
#[derive(Debug)]
pub struct Held {
    store: Arc<Store>,
    segments: Vec<u32>,
    /// Places and lengths of its slices.
    parts: Vec<(usize, usize)>,
}

impl Held {
    /// Pins segments that nobody can free at this moment.
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

impl Store {
    /// Holds the value of a record that is under the caller's stripe lock.
    pub(super) fn hold_record(&self, at: usize, len: usize) -> Option<Held> {
        let store = self.myself.upgrade()?;
        let may = store.segments.may_pin(store.off_arena());
        may.then(|| {
            let segment = store.segments.segment_at(at);
            Held::new(store, &[segment], &[(at, len)])
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for &segment in &self.segments {
            self.store.segments.unpin(segment);
        }
    }
}
