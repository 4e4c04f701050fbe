//! Changes to frames.
//!
//! Owns the large values that are on their way out in parts. Never decides what is sent: `stream`
//! and `copy` do. Holds at most the values of one key's hash at a time; the caller asks
//! [`Sender::is_busy`] before it hands in the next change.

use super::wire::native::{self, Frame, ItemHead};
use crate::store::{Change, Exptime, Marks, Version, What};
use std::collections::VecDeque;

#[derive(Debug)]
struct Large {
    key: Vec<u8>,
    version: Version,
    flags: u32,
    exptime: Exptime,
    cas: Option<u64>,
    marks: Marks,
    value: Vec<u8>,
    /// Bytes that are out; none until the head is.
    sent: Option<usize>,
}

/// The writer of one link.
#[derive(Debug, Default)]
pub struct Sender {
    large: VecDeque<Large>,
    /// Items that were sent.
    pub items: u64,
    /// Deletes that were sent.
    pub deletes: u64,
}

impl Sender {
    /// Whether a large value is still on its way: nothing else but control frames may be sent.
    pub fn is_busy(&self) -> bool {
        !self.large.is_empty()
    }

    /// Whether a change is sent in parts, and so costs a copy of its value.
    pub fn is_large(change: &Change<'_>) -> bool {
        matches!(&change.what, What::Item { value, .. } if value.len() > native::WHOLE_MAX)
    }

    /// Sends a change, or the promise of its parts.
    pub fn change(&mut self, change: &Change<'_>, out: &mut Vec<u8>) {
        match change.what {
            What::Deleted => {
                self.deletes += 1;
                let frame = Frame::Deleted { key: change.key, version: change.version };
                native::encode(out, &frame);
            }
            What::Item { flags, exptime, cas, marks, value } => {
                self.items += 1;
                let Change { key, version, .. } = *change;
                let head = ItemHead { key, version, flags, exptime, cas, marks };
                if value.len() <= native::WHOLE_MAX {
                    native::encode_item(out, &head, value.len(), value.chunks());
                } else {
                    self.large.push_back(Large {
                        key: key.to_vec(),
                        version,
                        flags,
                        exptime,
                        cas,
                        marks,
                        value: value.to_vec(),
                        sent: None,
                    });
                }
            }
        }
    }

    /// Sends parts until `out` holds `limit` bytes or nothing is left.
    pub fn parts(&mut self, out: &mut Vec<u8>, limit: usize) {
        while out.len() < limit {
            let Some(large) = self.large.front_mut() else { return };
            match large.sent {
                None => {
                    let Large { ref key, version, flags, exptime, cas, marks, ref value, .. } =
                        *large;
                    let head = ItemHead { key, version, flags, exptime, cas, marks };
                    native::encode(out, &Frame::Large { head, len: value.len() as u32 });
                    large.sent = Some(0);
                }
                Some(sent) => {
                    let end = (sent + native::PART).min(large.value.len());
                    native::encode(out, &Frame::Part(&large.value[sent..end]));
                    large.sent = Some(end);
                    if end == large.value.len() {
                        self.large.pop_front();
                    }
                }
            }
        }
    }
}
