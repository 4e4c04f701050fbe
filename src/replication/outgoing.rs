//! What goes out on one link: a copy and live changes, in turns, and marks behind them.
//!
//! Owns the order in which `copy`, `stream` and `send` get their say. Never holds more output than
//! it is asked for but for [`READY_MAX`], and lets neither a copy starve changes nor changes a
//! copy.
//!
//! ```text
//!   told --(nothing waits)--> [ ready ] ----------------------------> out
//!   told, hashes -----------> [ stream: hashes ] --changes_of--> ---> out
//!                             [ copy: a scan ]   -------------------> out
//! ```

use super::copy::Copy;
use super::send::Sender;
use super::stream::Stream;
use super::wire::native::{self, Frame};
use super::{count_line, Role};
use crate::base::clock::Now;
use crate::store::{Handle, Told, Version};
use std::collections::VecDeque;

/// Changes sent from the queue before a copy under way gets a turn, so that neither starves.
const TURN: usize = 32;
/// Bytes of changes that are frames already and wait for the output to have room: what a busy node
/// writes in one turn of the thread. What is told beyond that waits as a hash, and is looked up.
const READY_MAX: usize = 512 * 1024;
/// Bytes of told changes in one frame: the costs of a frame do not show any more, and the checksum
/// finds what was just copied in the processor's nearest cache.
const TOLD_FRAME: usize = 16 * 1024;

/// The sending side of one link.
#[derive(Debug)]
pub(super) struct Outgoing {
    role: Role,
    pub sender: Sender,
    pub stream: Stream,
    /// Frames that go out before anything else.
    ready: Vec<u8>,
    /// The peer knows [`Frame::Told`].
    pub knows_told: bool,
    copy: Option<Copy>,
    /// Everything changed here up to it had left the feeds when the link began.
    base: Version,
    /// What the peer had had of this node when the link began.
    pub agreed: Version,
    /// That was lowered while a copy was under way, and the peer is to hear of it.
    disagreed: bool,
    /// The peer has said what it wants: changes may flow.
    wanted: bool,
    /// When the link went live there was nothing here: all that came since is live, or the peer's.
    pub nothing: bool,
    /// From where on the copy that was asked for scans: the peer has what is below.
    asked: Version,
    /// Where in the stream "all before this was sent" is to be said.
    filled_at: Option<u64>,
    /// For the log. At most three per copy and one a second, taken after each transmit.
    pub lines: VecDeque<String>,
    /// Full copies and partial ones that were asked for.
    pub copies: u64,
    pub resumes: u64,
}

impl Outgoing {
    /// Sends nothing yet. `covered`: everything changed here up to it has left the feeds.
    pub fn new(role: Role, queue_max: usize, covered: Version) -> Outgoing {
        Outgoing {
            role,
            sender: Sender::default(),
            stream: Stream::new(queue_max, covered),
            ready: Vec::new(),
            knows_told: false,
            copy: None,
            base: covered,
            agreed: Version(0),
            disagreed: false,
            wanted: false,
            nothing: false,
            asked: Version(0),
            filled_at: None,
            lines: VecDeque::new(),
            copies: 0,
            resumes: 0,
        }
    }

    /// The peer wants what is newer than `since`. False when it has said so before.
    pub fn want(&mut self, since: Version) -> bool {
        if std::mem::replace(&mut self.wanted, true) {
            return false;
        }
        self.asked = self.stream.debt().lower(since);
        let mut base = self.base;
        // The scan that begins now finds that as well.
        if !self.nothing && self.stream.lose_nothing_above(self.asked) {
            base = self.stream.covered();
        }
        self.copy = Some(if self.nothing { Copy::nothing() } else { Copy::new(self.asked, true) });
        self.stream.scan_begins(base);
        true
    }

    /// When the oldest change was made that the peer has not acknowledged; none at all where it has
    /// not even said what it wants.
    pub fn late_since(&self) -> Option<Option<u64>> {
        self.wanted.then(|| self.stream.late_since())
    }

    /// Whether the peer has said what it wants.
    pub fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// What the peer has, so that others need to tell it only what is newer, should this link end.
    /// None while that would be everything.
    pub fn told(&self) -> Option<Version> {
        let told = self.stream.debt().lower(self.asked.max(self.stream.acked()));
        let known = self.stream.has_carried() || told > Version(0);
        Some(told.max(Version(1))).filter(|_| self.wanted && known)
    }

    /// Has it said, behind all that waits now, that this node is filled.
    pub fn say_filled(&mut self) {
        self.filled_at = Some(self.stream.position());
    }

    /// How far the copy under way is, in millionths; a million when there is none.
    pub fn progress(&self) -> u32 {
        self.copy.as_ref().map_or(1_000_000, Copy::progress)
    }

    /// Whether a scan is under way.
    pub fn is_scanning(&self) -> bool {
        self.copy.is_some()
    }

    /// When a mark or a scan is due that waits for nothing but time.
    pub fn next_timeout(&self) -> Option<u64> {
        let due = self.stream.mark_due().into_iter().chain(self.stream.lost_due_us()).min();
        due.filter(|_| self.wanted)
    }

    /// Looks at the time.
    pub fn handle_timeout(&mut self, now: Now) {
        if self.wanted {
            self.stream.look(now);
        }
    }

    /// Whether there is more to send now.
    pub fn has_more(&self) -> bool {
        let waiting = !self.ready.is_empty() || !self.stream.is_empty();
        let waiting = waiting || self.stream.is_lost_due() || self.filled_at.is_some();
        self.wanted && (waiting || self.copy.is_some() || self.sender.is_busy())
    }

    /// Whether the peer has acknowledged everything.
    pub fn is_settled(&self) -> bool {
        self.wanted && !self.has_more() && self.stream.is_settled()
    }

    /// Takes in changes as they were made. They become frames at once, while their bytes are at
    /// hand, unless something older waits. To be called before [`Stream::push`] of the same drain.
    pub fn tell(&mut self, told: &Told, now: Now) {
        let direct = self.takes_told();
        for batch in told.batches(TOLD_FRAME) {
            if !direct || self.ready.len() >= READY_MAX {
                batch.iter().for_each(|(hash, _)| self.stream.push_one(hash, now));
                continue;
            }
            if self.knows_told {
                native::encode(&mut self.ready, &Frame::Told(batch.bytes));
                self.sender.items += batch.count as u64;
            } else {
                batch.iter().for_each(|(_, change)| self.sender.change(&change, &mut self.ready));
            }
            self.stream.passed(batch.count, now);
        }
    }

    /// An item of this version has only now come from another peer. Where this one was thought to
    /// have had all that is as old, it is told better.
    pub fn disagree(&mut self, version: Version) {
        if version <= self.agreed && self.copy.as_ref().is_some_and(|copy| copy.asked) {
            self.agreed = version.just_below();
            self.disagreed = true;
        }
    }

    /// Whether changes are worth telling as they are: only while nothing older waits.
    pub fn takes_told(&self) -> bool {
        self.wanted && self.stream.is_level() && !self.sender.is_busy()
    }

    /// Gives back memory that a burst needed. For quiet moments.
    pub fn shrink(&mut self) {
        if self.ready.is_empty() {
            self.ready = Vec::new();
        }
    }

    /// Moves what is ready to the output. False when that is full.
    fn flush_ready(&mut self, out: &mut Vec<u8>, limit: usize) -> bool {
        if self.ready.is_empty() {
            return true;
        }
        if out.is_empty() {
            std::mem::swap(out, &mut self.ready);
        } else if out.len() < limit {
            out.append(&mut self.ready);
        }
        self.ready.is_empty()
    }

    /// Sends until `out` holds `limit` bytes or this turn is over.
    pub fn transmit(&mut self, out: &mut Vec<u8>, limit: usize, handle: &mut Handle, now: Now) {
        if !self.flush_ready(out, limit) {
            return;
        }
        if self.wanted {
            self.stream.look(now);
        }
        let mut worked = self.wanted;
        while out.len() < limit && worked {
            worked = false;
            for _ in 0..TURN {
                self.sender.parts(out, limit);
                if out.len() >= limit || self.sender.is_busy() {
                    return;
                }
                self.say_disagreed(out);
                let Some(hash) = self.stream.pop() else { break };
                let sender = &mut self.sender;
                handle.changes_of(hash, now, &mut |change| sender.change(change, out));
                worked = true;
            }
            if self.sender.is_busy() {
                worked = true;
                continue;
            }
            self.mark(out);
            worked |= self.copy_turn(out, limit, handle, now);
        }
        if self.wanted && !self.sender.is_busy() {
            let at = self.filled_at.filter(|_| self.copy.is_none());
            if at.is_some_and(|position| self.stream.is_past(position)) {
                self.filled_at = None;
                native::encode(out, &Frame::Hope(native::HOPE_FILLED));
            }
            self.stream.look(now);
            self.mark(out);
        }
    }

    /// Sends the mark whose turn has come. During a copy it can only be a live one.
    fn mark(&mut self, out: &mut Vec<u8>) {
        if let Some(upto) = self.stream.take_mark() {
            native::encode(out, &Frame::Mark { upto });
        }
    }

    /// Says once more, and less, what the peer has had, see [`Outgoing::disagree`].
    fn say_disagreed(&mut self, out: &mut Vec<u8>) {
        if !self.disagreed {
            return;
        }
        self.disagreed = false;
        // Where it has not begun, it begins with that.
        if let Some(copy) = self.copy.as_ref().filter(|copy| copy.asked && copy.begun) {
            let (full, agreed) = (copy.is_full(), self.agreed);
            native::encode(out, &Frame::CopyBegin { full, items: 0, agreed });
        }
    }

    /// One turn of the copy under way, or of the one that has to begin. False when there is none or
    /// it had nothing to send this time.
    fn copy_turn(
        &mut self,
        out: &mut Vec<u8>,
        limit: usize,
        handle: &mut Handle,
        now: Now,
    ) -> bool {
        let Some(mut copy) = self.copy.take() else {
            let Some(since) = self.stream.take_lost() else { return false };
            self.stream.scan_begins(self.stream.covered());
            self.copy = Some(Copy::new(since, false));
            return true;
        };
        let before = (out.len(), copy.items);
        if copy.asked && !copy.begun {
            copy.begun = true;
            let full = copy.is_full();
            self.copies += u64::from(full);
            self.resumes += u64::from(!full);
            let agreed = self.agreed;
            let items = if full { handle.store_ref().stats().curr_items } else { 0 };
            native::encode(out, &Frame::CopyBegin { full, items, agreed });
        }
        let done = copy.send(&mut self.sender, out, limit, handle, now);
        if copy.asked && copy.is_full() && before.1 == 0 && copy.items > 0 {
            self.lines.push_back("replication: marugoto start".to_owned());
        }
        if done {
            self.stream.scan_ends();
            self.copied(&copy, out);
            return true;
        }
        if copy.asked && copy.is_full() && copy.items > 0 {
            let line = copy.log.line("to", copy.progress(), copy.items, now);
            self.lines.extend(line);
        }
        self.copy = Some(copy);
        out.len() > before.0
    }

    /// A copy is complete.
    fn copied(&mut self, copy: &Copy, out: &mut Vec<u8>) {
        if !copy.asked {
            return;
        }
        native::encode(out, &Frame::CopyEnd { items: copy.items });
        if !copy.is_full() {
            let line = count_line("replication: resumed, newer items sent: ", copy.items);
            self.lines.push_back(line);
        } else if copy.items > 0 || self.role == Role::Listener {
            // A connector that has nothing to give says nothing, as repcached's never gives.
            self.lines.push_back(count_line("replication: marugoto ", copy.items));
            self.lines.push_back("replication: marugoto owari".to_owned());
        }
    }
}
