//! Replies in request order, some of them not known yet.
//!
//! Owns the bytes that a connection has still to send. A request whose answer must wait (the proxy
//! waits for a backend, a synchronous write for a peer) takes a [`Ticket`]; what is answered after
//! it queues behind it and leaves when the ticket is resolved, or released where the answer was
//! only held back. Never blocks, never drops a reply, and never touches a socket. Callers bound it
//! through [`Replies::deferred`] and [`Replies::queued_bytes`].

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io::IoSlice;

/// Sent bytes that may stand before unsent ones: moving the rest costs less than it saves only when
/// there are many.
const COMPACT_MIN: usize = 64 * 1024;
/// Places that stay allocated when no reply is waited for any more.
const SLOTS_KEEP: usize = 16;

/// The place of one deferred reply in its connection's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

#[derive(Debug)]
struct Slot {
    /// The deferred reply, once it is known; the one that is held back.
    reply: Vec<u8>,
    /// It may leave.
    settled: bool,
    /// Replies that were made after this one and before the next deferred one.
    behind: Vec<u8>,
}

/// Bytes of somebody else's memory that are to be sent from where they are.
pub trait Lent: Send + Debug {
    /// One of their slices, counted from 0.
    fn part(&self, nth: usize) -> Option<&[u8]>;
}

/// Lent bytes within the sendable ones.
#[derive(Debug)]
struct Inset {
    /// In front of this one of the sendable bytes.
    at: usize,
    left: usize,
    /// The slice that is next, and how much of it was sent.
    part: usize,
    sent: usize,
    bytes: Box<dyn Lent>,
}

impl Inset {
    /// What of it was not sent yet.
    fn parts(&self) -> impl Iterator<Item = &[u8]> {
        let rest = |nth: usize| {
            let part = self.bytes.part(nth)?;
            Some(if nth == self.part { part.get(self.sent..).unwrap_or_default() } else { part })
        };
        (self.part..).map_while(rest)
    }

    /// So many bytes of it are gone.
    fn sent(&mut self, mut n: usize) {
        self.left -= n;
        while let Some(part) = self.bytes.part(self.part) {
            let rest = part.len().saturating_sub(self.sent);
            if n < rest {
                self.sent += n;
                break;
            }
            n -= rest;
            (self.part, self.sent) = (self.part + 1, 0);
        }
    }
}

/// The output side of a connection.
#[derive(Debug, Default)]
pub struct Replies {
    ready: Vec<u8>,
    sent: usize,
    /// By their place, first to last.
    insets: VecDeque<Inset>,
    /// Bytes of the insets that were not sent yet.
    lent: usize,
    first: u64,
    slots: VecDeque<Slot>,
    /// Bytes in the slots, but for those behind the last one, which still grow.
    queued: usize,
}

impl Replies {
    /// No replies, no memory.
    pub const fn new() -> Replies {
        Replies {
            ready: Vec::new(),
            sent: 0,
            insets: VecDeque::new(),
            lent: 0,
            first: 0,
            slots: VecDeque::new(),
            queued: 0,
        }
    }

    /// Where the next immediate reply is to be written, behind everything that came before.
    pub fn out(&mut self) -> &mut Vec<u8> {
        match self.slots.back_mut() {
            Some(slot) => &mut slot.behind,
            None => &mut self.ready,
        }
    }

    /// Takes a place for a reply that is not known yet.
    pub fn defer(&mut self) -> Ticket {
        self.take_place(Vec::new())
    }

    /// Holds back what was written to [`Replies::out`] since it had `from` bytes, until
    /// [`Replies::release`], or [`Replies::resolve`] with another reply.
    pub fn hold(&mut self, from: usize) -> Ticket {
        let out = self.out();
        let from = from.min(out.len());
        let reply = out[from..].to_vec();
        out.truncate(from);
        self.take_place(reply)
    }

    fn take_place(&mut self, reply: Vec<u8>) -> Ticket {
        self.queued += reply.len() + self.growing();
        self.slots.push_back(Slot { reply, settled: false, behind: Vec::new() });
        Ticket(self.first + self.slots.len() as u64 - 1)
    }

    /// Gives a deferred reply its bytes (none at all for a quiet request). Returns whether
    /// something became sendable. A ticket that was resolved before is ignored.
    pub fn resolve(&mut self, ticket: Ticket, reply: Vec<u8>) -> bool {
        let Some(slot) = self.waiting(ticket) else { return false };
        let (before, after) = (slot.reply.len(), reply.len());
        slot.reply = reply;
        slot.settled = true;
        self.queued = self.queued - before + after;
        self.advance()
    }

    /// Lets a reply go that was held back. Returns whether something became sendable.
    pub fn release(&mut self, ticket: Ticket) -> bool {
        let Some(slot) = self.waiting(ticket) else { return false };
        slot.settled = true;
        self.advance()
    }

    /// Whether everything before this reply is known: its own bytes would be sendable.
    pub fn is_next(&self, ticket: Ticket) -> bool {
        !self.slots.is_empty() && ticket.0 == self.first
    }

    /// Sends the first bytes of the reply that is next ([`Replies::is_next`]); more may follow, and
    /// [`Replies::resolve`] brings the last of it.
    pub fn begin(&mut self, ticket: Ticket, bytes: &[u8]) {
        debug_assert!(self.is_next(ticket));
        self.ready.extend_from_slice(bytes);
    }

    /// The place of a ticket that is not resolved yet.
    fn waiting(&mut self, ticket: Ticket) -> Option<&mut Slot> {
        let index = usize::try_from(ticket.0.checked_sub(self.first)?).ok()?;
        self.slots.get_mut(index).filter(|slot| !slot.settled)
    }

    /// Moves what stands at the front and is complete to the sendable bytes.
    fn advance(&mut self) -> bool {
        let mut moved = false;
        while self.slots.front().is_some_and(|slot| slot.settled) {
            let Some(Slot { reply, behind, .. }) = self.slots.pop_front() else { break };
            self.queued -= reply.len() + if self.slots.is_empty() { 0 } else { behind.len() };
            if self.ready.is_empty() {
                self.ready = reply;
            } else {
                self.ready.extend_from_slice(&reply);
            }
            self.ready.extend_from_slice(&behind);
            self.first += 1;
            moved = true;
        }
        if self.slots.is_empty() && self.slots.capacity() > SLOTS_KEEP {
            self.slots = VecDeque::new();
        }
        moved
    }

    /// Memory of the sendable bytes.
    pub fn capacity(&self) -> usize {
        self.ready.capacity()
    }

    /// Memory of the places of deferred replies.
    pub fn places(&self) -> usize {
        self.slots.capacity() * std::mem::size_of::<Slot>()
    }

    /// What may be sent now, up to the first lent bytes.
    pub fn sendable(&self) -> &[u8] {
        let end = self.insets.front().map_or(self.ready.len(), |inset| inset.at);
        &self.ready[self.sent..end]
    }

    /// Whether something may be sent now.
    #[inline]
    pub fn has_sendable(&self) -> bool {
        self.sent < self.ready.len() || self.lent > 0
    }

    /// Number of bytes that may be sent now.
    pub fn sendable_bytes(&self) -> usize {
        self.ready.len() - self.sent + self.lent
    }

    /// Whether some of what may be sent now is lent: see [`Replies::slices`].
    #[inline]
    pub fn has_lent(&self) -> bool {
        self.lent > 0
    }

    /// Puts lent bytes in front of what [`Replies::out`] has had from `at` on. Not behind a reply
    /// that is deferred.
    pub fn lend_bytes(&mut self, at: usize, bytes: Box<dyn Lent>, len: usize) {
        debug_assert!(self.slots.is_empty() && (self.sent..=self.ready.len()).contains(&at));
        self.insets.push_back(Inset { at, left: len, part: 0, sent: 0, bytes });
        self.lent += len;
    }

    /// The first of what may be sent now, lent bytes in their places, as far as `slices` goes.
    /// Returns how many of them it are.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut from = self.sent;
        let own = |from: &mut usize, to: usize| {
            let bytes = &self.ready[*from..to];
            *from = to;
            bytes
        };
        let insets = self
            .insets
            .iter()
            .flat_map(|inset| std::iter::once(own(&mut from, inset.at)).chain(inset.parts()));
        let last = std::iter::once_with(|| {
            &self.ready[self.insets.back().map_or(self.sent, |inset| inset.at)..]
        });
        let mut count = 0;
        let all = insets.chain(last).filter(|bytes| !bytes.is_empty());
        for (slice, bytes) in slices.iter_mut().zip(all) {
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        count
    }

    /// Copies what is lent and not sent yet, so that its owner has it back.
    pub fn keep_copies(&mut self) {
        if self.insets.is_empty() {
            return;
        }
        let mut own = Vec::with_capacity(self.ready.len() - self.sent + self.lent);
        for inset in self.insets.drain(..) {
            own.extend_from_slice(&self.ready[self.sent..inset.at]);
            self.sent = inset.at;
            for part in inset.parts() {
                own.extend_from_slice(part);
            }
        }
        own.extend_from_slice(&self.ready[self.sent..]);
        (self.ready, self.sent, self.lent) = (own, 0, 0);
    }

    /// Goes over what was sent of and before lent bytes. Returns what is left of `n`.
    fn sent_insets(&mut self, mut n: usize) -> usize {
        while let Some(inset) = self.insets.front_mut() {
            let own = n.min(inset.at - self.sent);
            self.sent += own;
            n -= own;
            let lent = n.min(inset.left);
            inset.sent(lent);
            self.lent -= lent;
            n -= lent;
            if inset.left > 0 {
                break;
            }
            self.insets.pop_front();
        }
        n
    }

    /// Says that the first `n` sendable bytes are gone. The memory stays for the next reply unless
    /// it is more than `keep` bytes.
    pub fn sent(&mut self, n: usize, keep: usize) {
        self.sent += if self.insets.is_empty() { n } else { self.sent_insets(n) };
        debug_assert!(self.sent <= self.ready.len());
        if !self.insets.is_empty() {
            return;
        }
        if self.sent >= self.ready.len() {
            self.sent = 0;
            self.ready.clear();
            if self.ready.capacity() > keep {
                self.ready = Vec::new();
            }
        } else if self.sent >= COMPACT_MIN && self.sent >= self.ready.len() / 2 {
            // A client that never reads everything must not make what it has read pile up.
            self.ready.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Lends an empty connection `scratch` to write into, so that idle connections own no memory.
    pub fn lend(&mut self, scratch: &mut Vec<u8>) {
        if self.is_empty() {
            std::mem::swap(&mut self.ready, scratch);
        }
    }

    /// Takes back what [`Replies::lend`] lent, where all that may be sent has been; a connection
    /// that is idle, or waits for replies that are not known yet, owns no sendable memory
    /// afterwards.
    pub fn reclaim(&mut self, scratch: &mut Vec<u8>) {
        if !self.has_sendable() {
            if scratch.capacity() < self.ready.capacity() {
                std::mem::swap(&mut self.ready, scratch);
                scratch.clear();
            }
            self.ready = Vec::new();
            self.sent = 0;
        }
    }

    /// Replies that are waited for.
    pub fn deferred(&self) -> usize {
        self.slots.len()
    }

    /// Tickets that are neither resolved nor released.
    pub fn unsettled(&self) -> usize {
        self.slots.iter().filter(|slot| !slot.settled).count()
    }

    /// Bytes that wait to be sent, sendable or queued behind a deferred reply.
    pub fn queued_bytes(&self) -> usize {
        self.load(0)
    }

    /// The same, where every deferred reply counts for so many bytes more.
    #[inline]
    pub fn load(&self, ticket: usize) -> usize {
        let ready = self.sendable_bytes();
        match self.slots.back() {
            None => ready,
            Some(slot) => ready + self.queued + slot.behind.len() + self.slots.len() * ticket,
        }
    }

    /// Bytes behind the last deferred reply.
    fn growing(&self) -> usize {
        self.slots.back().map_or(0, |slot| slot.behind.len())
    }

    /// Whether nothing waits at all.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty() && !self.has_sendable()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deferred_replies_hold_back_what_comes_after() {
        let mut replies = Replies::new();
        replies.out().extend_from_slice(b"1");
        let second = replies.defer();
        replies.out().extend_from_slice(b"3");
        let fourth = replies.defer();
        replies.out().extend_from_slice(b"5");
        assert_eq!(replies.sendable(), b"1");
        assert!(!replies.resolve(fourth, b"4".to_vec()));
        assert_eq!(replies.queued_bytes(), 4);
        assert!(replies.resolve(second, b"2".to_vec()));
        assert_eq!(replies.sendable(), b"12345");
        assert!(!replies.resolve(second, b"x".to_vec()));
        replies.sent(5, 0);
        assert!(replies.is_empty());
    }

    #[test]
    fn a_reply_may_begin_when_it_is_next() {
        let mut replies = Replies::new();
        let first = replies.defer();
        let second = replies.defer();
        assert!(replies.is_next(first) && !replies.is_next(second));
        replies.begin(first, b"1");
        assert_eq!(replies.sendable(), b"1");
        replies.resolve(first, b"2".to_vec());
        assert!(replies.is_next(second));
        replies.begin(second, b"3");
        assert_eq!(replies.sendable(), b"123");
    }

    #[test]
    fn held_replies_leave_as_they_are_or_as_something_else() {
        let mut replies = Replies::new();
        replies.out().extend_from_slice(b"1");
        let from = replies.out().len();
        replies.out().extend_from_slice(b"two");
        let second = replies.hold(from);
        replies.out().extend_from_slice(b"3");
        let nothing = replies.hold(1);
        replies.out().extend_from_slice(b"four");
        let fourth = replies.hold(0);
        assert_eq!((replies.sendable(), replies.queued_bytes()), (&b"1"[..], 9));
        assert_eq!(replies.deferred(), 3);
        // The worker's memory goes back as soon as the first byte is out.
        replies.sent(1, usize::MAX);
        let mut scratch = Vec::new();
        replies.reclaim(&mut scratch);
        assert!(scratch.capacity() > 0 && scratch.is_empty() && replies.capacity() == 0);
        assert!(!replies.resolve(fourth, b"no".to_vec()));
        assert!(replies.release(second));
        assert_eq!((replies.sendable(), replies.queued_bytes()), (&b"two3"[..], 6));
        assert!(!replies.release(second));
        assert!(replies.release(nothing));
        assert_eq!((replies.sendable(), replies.queued_bytes()), (&b"two3no"[..], 6));
        assert_eq!(replies.deferred(), 0);
    }

    #[derive(Debug)]
    struct Parts(&'static [&'static [u8]]);

    impl Lent for Parts {
        fn part(&self, nth: usize) -> Option<&[u8]> {
            self.0.get(nth).copied()
        }
    }

    /// Replies with lent bytes at the beginning, in the middle and at the end.
    fn mixed() -> (Replies, Vec<u8>) {
        let mut replies = Replies::new();
        let mut lend = |parts: &'static [&'static [u8]]| {
            let at = replies.out().len();
            replies.lend_bytes(at, Box::new(Parts(parts)), parts.concat().len());
            replies.out().extend_from_slice(b"-own");
        };
        lend(&[b"first", b"", b"second"]);
        lend(&[b"third"]);
        let at = replies.out().len();
        replies.lend_bytes(at, Box::new(Parts(&[b"end"])), 3);
        (replies, b"firstsecond-ownthird-ownend".to_vec())
    }

    fn all(replies: &Replies, most: usize) -> Vec<u8> {
        let mut slices = [IoSlice::new(b""); 8];
        let count = replies.slices(&mut slices[..most]);
        slices[..count].iter().flat_map(|slice| slice.to_vec()).collect()
    }

    #[test]
    fn lent_bytes_leave_in_their_places_however_they_are_cut() {
        let (replies, whole) = mixed();
        assert!(replies.queued_bytes() == whole.len() && replies.has_lent());
        assert_eq!((all(&replies, 8), all(&replies, 1)), (whole.clone(), b"first".to_vec()));
        for first in 0..=whole.len() {
            for second in 0..=whole.len() - first {
                let (mut replies, _) = mixed();
                replies.sent(first, 0);
                replies.sent(second, 0);
                let rest = &whole[first + second..];
                assert_eq!(all(&replies, 8), rest, "{first} and {second}");
                assert_eq!(replies.queued_bytes(), rest.len());
                assert_eq!(replies.is_empty(), rest.is_empty());
                replies.keep_copies();
                assert_eq!((replies.sendable(), replies.has_lent()), (rest, false));
                replies.out().extend_from_slice(b"more");
                assert_eq!(replies.sendable(), [rest, b"more"].concat());
            }
        }
    }

    #[test]
    fn what_was_sent_does_not_pile_up_behind_a_slow_reader() {
        let mut replies = Replies::new();
        for round in 0..1000u32 {
            replies.out().extend_from_slice(&[round as u8; 10_000]);
            let sendable = replies.sendable();
            assert_eq!(sendable.last(), Some(&(round as u8)));
            let most = sendable.len() - 1;
            replies.sent(most, usize::MAX);
        }
        assert!(replies.ready.capacity() < 4 * COMPACT_MIN, "{}", replies.ready.capacity());
    }

    #[test]
    fn places_of_many_replies_are_given_back() {
        let mut replies = Replies::new();
        let tickets: Vec<Ticket> = (0..1000).map(|_| replies.defer()).collect();
        assert!(replies.places() >= 1000);
        assert!(tickets.into_iter().all(|ticket| replies.resolve(ticket, b"x".to_vec())));
        assert_eq!((replies.places(), replies.sendable().len()), (0, 1000));
    }
}
