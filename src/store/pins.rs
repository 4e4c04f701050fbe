//! Pins: what keeps segments from being freed while somebody is inside.
//!
//! Owns a list of pinned segments that are let go together. Never looks at what is in them.

use super::segment::Segments;

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
