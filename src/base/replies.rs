//! Replies in request order, some of them not known yet.
//!
//! Owns the bytes that a connection has still to send. A request whose answer must wait (the proxy
//! waits for a backend, a synchronous write for a peer) takes a [`Ticket`]; what is answered after
//! it queues behind it and leaves when the ticket is resolved. Never blocks, never drops a reply,
//! and never touches a socket. Callers bound it through [`Replies::deferred`] and
//! [`Replies::queued_bytes`].

use std::collections::VecDeque;

/// Sent bytes that may stand before unsent ones: moving the rest costs less than it saves only when
/// there are many.
const COMPACT_MIN: usize = 64 * 1024;

/// The place of one deferred reply in its connection's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

#[derive(Debug)]
struct Slot {
    /// The deferred reply, once it is known.
    reply: Option<Vec<u8>>,
    /// Replies that were made after this one and before the next deferred one.
    behind: Vec<u8>,
}

/// The output side of a connection.
#[derive(Debug, Default)]
pub struct Replies {
    ready: Vec<u8>,
    sent: usize,
    first: u64,
    slots: VecDeque<Slot>,
    queued: usize,
}

impl Replies {
    /// No replies, no memory.
    pub const fn new() -> Replies {
        Replies { ready: Vec::new(), sent: 0, first: 0, slots: VecDeque::new(), queued: 0 }
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
        self.slots.push_back(Slot { reply: None, behind: Vec::new() });
        Ticket(self.first + self.slots.len() as u64 - 1)
    }

    /// Gives a deferred reply its bytes (none at all for a quiet request). Returns whether
    /// something became sendable. A ticket that was resolved before is ignored.
    pub fn resolve(&mut self, ticket: Ticket, reply: Vec<u8>) -> bool {
        let Some(index) = ticket.0.checked_sub(self.first) else { return false };
        let Some(slot) = usize::try_from(index).ok().and_then(|i| self.slots.get_mut(i)) else {
            return false;
        };
        if slot.reply.is_none() {
            self.queued += reply.len();
            slot.reply = Some(reply);
        }
        self.advance()
    }

    /// Moves what stands at the front and is complete to the sendable bytes.
    fn advance(&mut self) -> bool {
        let mut moved = false;
        while self.slots.front().is_some_and(|slot| slot.reply.is_some()) {
            let Some(slot) = self.slots.pop_front() else { break };
            let reply = slot.reply.unwrap_or_default();
            self.queued -= reply.len();
            if self.ready.is_empty() {
                self.ready = reply;
            } else {
                self.ready.extend_from_slice(&reply);
            }
            self.ready.extend_from_slice(&slot.behind);
            self.first += 1;
            moved = true;
        }
        moved
    }

    /// Memory of the sendable bytes.
    pub fn capacity(&self) -> usize {
        self.ready.capacity()
    }

    /// What may be sent now.
    pub fn sendable(&self) -> &[u8] {
        &self.ready[self.sent..]
    }

    /// Says that the first `n` sendable bytes are gone. The memory stays for the next reply unless
    /// it is more than `keep` bytes.
    pub fn sent(&mut self, n: usize, keep: usize) {
        self.sent += n;
        debug_assert!(self.sent <= self.ready.len());
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

    /// Takes back what [`Replies::lend`] lent, where everything has been sent; an idle connection
    /// owns no memory afterwards.
    pub fn reclaim(&mut self, scratch: &mut Vec<u8>) {
        if self.is_empty() {
            if scratch.capacity() < self.ready.capacity() {
                std::mem::swap(&mut self.ready, scratch);
            }
            self.ready = Vec::new();
        }
    }

    /// Replies that are waited for.
    pub fn deferred(&self) -> usize {
        self.slots.len()
    }

    /// Bytes that wait to be sent, sendable or queued behind a deferred reply.
    pub fn queued_bytes(&self) -> usize {
        let behind: usize = self.slots.iter().map(|slot| slot.behind.len()).sum();
        self.ready.len() - self.sent + self.queued + behind
    }

    /// Whether nothing waits at all.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.sent == self.ready.len()
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
}
