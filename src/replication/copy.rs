//! A copy to a peer: a scan of the store that goes out between the live changes.
//!
//! Owns the scan's cursor and how much of it is looked at per step. Never holds a value: a large
//! one is noted by its hash and read when its turn comes.
//!
//! ```text
//!   since = 0          full copy: a peer of whom nothing is known
//!   since = a mark     what is newer than the peer has: a link returned, a queue ran over
//! ```

use super::progress::Progress;
use super::send::Sender;
use crate::base::clock::Now;
use crate::store::{Change, Handle, ScanCursor, Version, What};
use std::collections::VecDeque;

/// Most items looked at in one step. With [`super::wire::native::WHOLE_MAX`] it bounds what one
/// step can add to the output, to 2 MiB.
const STEP_MAX: usize = 64;
/// Bytes that one step should add: a step that adds more is followed by a smaller one.
const STEP_BYTES: usize = 32 * 1024;
/// Steps that find nothing to send before the link's other work gets a turn: bounds how long a
/// catch-up over a large store keeps the thread.
const IDLE_STEPS: usize = 64;

/// A scan under way.
#[derive(Debug)]
pub struct Copy {
    cursor: ScanCursor,
    since: Version,
    step: usize,
    scanned: bool,
    /// Hashes of keys with large values, to be read one at a time. At most one step's worth.
    later: VecDeque<u64>,
    /// Items sent by it, without tombstones.
    pub items: u64,
    /// Asked for by the peer's hello (it is told the beginning and the end), not a catch-up.
    pub asked: bool,
    /// The peer has been told that it begins.
    pub begun: bool,
    /// What the log has heard of it.
    pub(super) log: Progress,
}

impl Copy {
    /// A scan for what is newer than `since`.
    pub fn new(since: Version, asked: bool) -> Copy {
        Copy {
            cursor: ScanCursor::default(),
            since,
            step: 4,
            scanned: false,
            later: VecDeque::new(),
            items: 0,
            asked,
            begun: false,
            log: Progress::default(),
        }
    }

    /// Everything, where that was nothing: what has come since the peer asked is not looked at.
    pub fn nothing() -> Copy {
        Copy { scanned: true, ..Copy::new(Version(0), true) }
    }

    /// Whether it is everything.
    pub fn is_full(&self) -> bool {
        self.since == Version(0)
    }

    /// How far it is, in millionths.
    pub fn progress(&self) -> u32 {
        self.cursor.progress()
    }

    /// Sends until `out` holds `limit` bytes, or for a bounded number of steps. True when complete
    /// but for the parts of a large value.
    pub fn send(
        &mut self,
        sender: &mut Sender,
        out: &mut Vec<u8>,
        limit: usize,
        handle: &mut Handle,
        now: Now,
    ) -> bool {
        for _ in 0..IDLE_STEPS {
            if out.len() >= limit || sender.is_busy() {
                return false;
            }
            if let Some(hash) = self.later.pop_front() {
                let since = self.since;
                let before = sender.items;
                handle.changes_of(hash, now, &mut |change| {
                    if change.version > since {
                        sender.change(change, out);
                    }
                });
                self.items += sender.items - before;
                continue;
            }
            if self.scanned {
                return true;
            }
            self.scan(sender, out, handle, now);
        }
        self.scanned && self.later.is_empty() && !sender.is_busy()
    }

    fn scan(&mut self, sender: &mut Sender, out: &mut Vec<u8>, handle: &mut Handle, now: Now) {
        let before = out.len();
        let (items, later) = (&mut self.items, &mut self.later);
        let mut large: Vec<Vec<u8>> = Vec::new();
        let mut sink = |change: &Change<'_>| {
            if Sender::is_large(change) {
                large.push(change.key.to_vec());
                return;
            }
            *items += u64::from(matches!(change.what, What::Item { .. }));
            sender.change(change, out);
        };
        self.scanned = handle.scan(&mut self.cursor, self.since, self.step, now, &mut sink);
        later.extend(large.iter().map(|key| handle.hash(key)));
        let added = out.len() - before;
        self.step =
            if added > STEP_BYTES { (self.step / 2).max(1) } else { (self.step * 2).min(STEP_MAX) };
    }
}
