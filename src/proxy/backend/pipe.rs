//! What was asked of one server, in order, and its bytes for as long as it may be asked again.
//!
//! Owns the bytes and the queue of who waits for what. Never decides whether something is asked
//! again: see [`super::health`].
//!
//! ```text
//!   out:    [ answered | sent, waits for its answer | not sent yet ]
//!           0          done                         sent           len
//!   queue:             W    W      W       W          W     W
//! ```
//!
//! When the connection is lost, [`Pipe::rewind`] makes everything unsent again that may be sent
//! twice. What may not stays in its place as [`Asked::Gone`], with nothing to send, and nothing
//! behind it is sent before the caller has it back: what it does instead (on another server, say)
//! goes before what was asked after it.

use std::collections::VecDeque;

use super::super::missed::Amends;
use super::Expect;
use crate::base::clock::Now;

/// A request may take a second more for each so many bytes that move meanwhile (1 MiB): large
/// values on a slow link are no failure, single bytes at long intervals are one.
const SLOWEST_BYTES_PER_SEC: u64 = 1 << 20;
/// Memory that an idle direction keeps.
const KEEP: usize = 64 * 1024;
/// Requests that may go back to the caller one by one, each after an answer. A lost connection with
/// more of them is not made good: all go back at once.
pub(super) const GONE_MAX: usize = 1024;

#[derive(Debug)]
pub(super) enum Asked<C> {
    Version,
    /// The general `stats`.
    Who,
    Amends(Amends),
    Caller(C, Expect),
    /// Sent on a connection that was lost, and not to be sent again.
    Gone(C),
}

#[derive(Debug)]
pub(super) struct Waiting<C> {
    pub asked: Asked<C>,
    /// When it was asked, in microseconds.
    pub since: u64,
    /// [`Pipe::moved`] at that time.
    moved: u64,
    /// Its bytes in `out`.
    len: u32,
    /// It may be sent again on another connection. How often is bounded: one connection must
    /// answer somebody before the next can be lost without being a failure.
    again: bool,
    /// Some of it was sent on a connection that was lost.
    pub sent: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pipe<C> {
    out: Vec<u8>,
    done: usize,
    /// An answer may come before all of its request has been sent (a value that is too large).
    sent: usize,
    queue: VecDeque<Waiting<C>>,
    /// Where in `out` sending stops because of the first [`Asked::Gone`].
    hold: Option<usize>,
    /// A part of the head's answer has been handed on.
    pub heard: bool,
    /// Bytes moved in both directions.
    moved: u64,
    /// When the last of them did.
    pub moved_at: u64,
}

impl<C: Copy> Pipe<C> {
    pub fn new() -> Pipe<C> {
        Pipe {
            out: Vec::new(),
            done: 0,
            sent: 0,
            queue: VecDeque::new(),
            hold: None,
            heard: false,
            moved: 0,
            moved_at: 0,
        }
    }

    /// Requests without an answer.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Bytes of requests without an answer.
    pub fn bytes(&self) -> usize {
        self.out.len() - self.done.min(self.sent)
    }

    pub fn push(
        &mut self,
        now: Now,
        asked: Asked<C>,
        again: bool,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let before = self.out.len();
        write(&mut self.out);
        let len = (self.out.len() - before) as u32;
        let (since, moved) = (now.mono_us, self.moved);
        self.queue.push_back(Waiting { asked, since, moved, len, again, sent: false });
    }

    pub fn front(&self) -> Option<&Waiting<C>> {
        self.queue.front()
    }

    /// Whether the head can have an answer: some of it has been sent.
    pub fn front_is_sent(&self) -> bool {
        self.sent > self.done || self.queue.front().is_some_and(|head| head.len == 0)
    }

    /// The head has been answered.
    pub fn pop(&mut self) -> Option<Waiting<C>> {
        let head = self.queue.pop_front()?;
        self.done += head.len as usize;
        self.heard = false;
        self.tidy();
        Some(head)
    }

    pub fn sendable(&self) -> &[u8] {
        &self.out[self.sent..self.hold.unwrap_or(self.out.len()).max(self.sent)]
    }

    pub fn sent(&mut self, now: Now, n: usize) {
        self.sent += n;
        self.moved(now, n);
        self.tidy();
    }

    /// `n` bytes came or went.
    pub fn moved(&mut self, now: Now, n: usize) {
        self.moved += n as u64;
        self.moved_at = now.mono_us;
    }

    /// Gives memory back that nobody needs.
    fn tidy(&mut self) {
        let over = self.done.min(self.sent);
        if over >= self.out.len() {
            self.out.clear();
            if self.out.capacity() > KEEP {
                self.out = Vec::new();
            }
        } else if over > KEEP && over * 2 > self.out.len() {
            self.out.drain(..over);
        } else {
            return;
        }
        self.done -= over;
        self.sent -= over;
        self.hold = self.hold.map(|hold| hold - over);
    }

    /// When the head has waited too long, if it may take `request_us`.
    pub fn deadline(&self, request_us: u64) -> Option<u64> {
        self.queue.front().map(|head| {
            let moved = (self.moved - head.moved).saturating_mul(1_000_000);
            let slow = head.since + moved / SLOWEST_BYTES_PER_SEC;
            // However much has moved: nothing at all for so long is the end.
            let stuck = head.since.max(self.moved_at);
            request_us + slow.min(stuck)
        })
    }

    /// Whether the server is being asked who it is.
    pub fn waits_for_version(&self) -> bool {
        self.queue.iter().any(|waiting| matches!(waiting.asked, Asked::Version))
    }

    /// Whether somebody outside waits.
    pub fn has_callers(&self) -> bool {
        self.queue.iter().any(|w| matches!(w.asked, Asked::Caller(..) | Asked::Gone(_)))
    }

    /// The connection is over, and so is everything that was asked.
    pub fn abandon(&mut self) -> VecDeque<Waiting<C>> {
        let Pipe { moved, moved_at, .. } = *self;
        let mut old = std::mem::replace(self, Pipe { moved, moved_at, ..Pipe::new() });
        let mut at = old.done;
        for waiting in &mut old.queue {
            waiting.sent |= at < old.sent;
            at += waiting.len as usize;
        }
        old.queue
    }

    /// The connection is over: makes unsent what may be sent again. Returns who need not wait for
    /// anybody to have his request back, and the head if a part of its answer has been handed on.
    /// `None`, and nothing has changed: there are too many who would have to wait.
    pub fn rewind(&mut self) -> Option<(Vec<C>, Option<C>)> {
        let mut at = self.done;
        let mut gone = 0;
        for waiting in &self.queue {
            let lost = !waiting.again && at < self.sent;
            gone += usize::from(lost || matches!(waiting.asked, Asked::Gone(_)));
            at += waiting.len as usize;
        }
        if gone > GONE_MAX {
            return None;
        }
        let (old, heard) = (std::mem::take(&mut self.out), std::mem::take(&mut self.heard));
        let (mut at, sent) = (self.done, self.sent);
        let (mut back, mut restarted) = (Vec::new(), None);
        let queue = std::mem::take(&mut self.queue);
        for (n, mut waiting) in queue.into_iter().enumerate() {
            let bytes = &old[at..at + waiting.len as usize];
            let was_sent = at < sent;
            at += bytes.len();
            match waiting.asked {
                Asked::Version | Asked::Who => continue,
                Asked::Caller(call, _) if was_sent && !waiting.again => {
                    (waiting.asked, waiting.len) = (Asked::Gone(call), 0);
                }
                Asked::Caller(call, _) if heard && n == 0 => restarted = Some(call),
                _ => {}
            }
            match waiting.asked {
                Asked::Gone(call) if self.queue.is_empty() => {
                    back.push(call);
                    continue;
                }
                Asked::Gone(_) => {}
                _ => self.out.extend_from_slice(bytes),
            }
            waiting.sent |= was_sent;
            self.queue.push_back(waiting);
        }
        (self.done, self.sent) = (0, 0);
        self.find_hold();
        Some((back, restarted))
    }

    /// Puts `first` before everything that has not been sent. Nothing may wait for an answer.
    pub fn insert(&mut self, now: Now, first: impl FnOnce(&mut Pipe<C>)) {
        debug_assert!(self.sent <= self.done);
        let since = self.queue.front().map_or(now.mono_us, |head| head.since);
        let queue = std::mem::take(&mut self.queue);
        let mut out = std::mem::take(&mut self.out);
        let rest = out.split_off(self.done);
        out.drain(..self.sent);
        (self.done, self.sent, self.out) = (out.len(), 0, out);
        first(self);
        for waiting in &mut self.queue {
            // They may not give those behind them more time.
            waiting.since = waiting.since.min(since);
        }
        self.out.extend_from_slice(&rest);
        self.queue.extend(queue);
        self.find_hold();
    }

    fn find_hold(&mut self) {
        self.hold = None;
        let mut at = self.done;
        for waiting in &self.queue {
            if let Asked::Gone(_) = waiting.asked {
                self.hold = Some(at);
                return;
            }
            at += waiting.len as usize;
        }
    }
}
