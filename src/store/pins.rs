//! Pins: who keeps segments from being freed.
//!
//! Owns the count of pins on each segment and of segments with any, and how many of them there may
//! be. Never frees anything: reclaim looks for pins before it does, and passes over what is pinned.

use std::sync::atomic::Ordering;

use super::segment::Segments;

/// At most this part of all segments is kept from reclaim by values on their way in or out; what
/// comes beyond that is copied. The rest is enough to go on with, whatever clients do.
const PINNED_SHARE: u32 = 2;

impl Segments {
    /// Keeps a segment from being freed. Nobody can free it at this moment: it is open, pinned
    /// already, or a slot that leads into it is under the caller's stripe lock.
    pub fn pin(&self, segment: u32) {
        if self.meta(segment).pins.fetch_add(1, Ordering::Relaxed) == 0 {
            self.pinned.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Undoes one pin.
    pub fn unpin(&self, segment: u32) {
        if self.meta(segment).pins.fetch_sub(1, Ordering::Release) == 1 {
            self.pinned.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Segments that somebody keeps from being freed.
    pub fn pinned(&self) -> u32 {
        self.pinned.load(Ordering::Relaxed)
    }

    /// Whether one more segment may be kept from reclaim by something that lasts longer than a
    /// call.
    pub fn may_pin(&self, off_arena: u64) -> bool {
        self.pinned() < self.allowed(off_arena).min(self.count()) / PINNED_SHARE
    }
}

/// Pins on segments, let go when dropped.
#[derive(Debug)]
pub(crate) struct Pins<'a> {
    segments: &'a Segments,
    pinned: Vec<u32>,
}

impl<'a> Pins<'a> {
    /// No pins yet.
    pub fn new(segments: &'a Segments) -> Pins<'a> {
        Pins { segments, pinned: Vec::new() }
    }

    /// Pins a segment, see [`Segments::pin`].
    pub fn add(&mut self, segment: u32) {
        if self.pinned.last() != Some(&segment) {
            self.segments.pin(segment);
            self.pinned.push(segment);
        }
    }

    /// The pinned segments; one may be there several times.
    pub fn list(&self) -> &[u32] {
        &self.pinned
    }
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        for &segment in &self.pinned {
            self.segments.unpin(segment);
        }
    }
}
