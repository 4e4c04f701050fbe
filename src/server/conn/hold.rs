//! Replies that wait for peers (`-o repl_ack`).
//!
//! Owns which reply is held back: that of a command that made a change, in all protocols, and of a
//! long get only its end. A classic `noreply` is told nothing and waits for nothing; a quiet
//! command of the meta and binary protocols has no reply, but waits for the right to have none.
//! Never waits itself: later commands go on being executed, their replies queue up behind.
//!
//! ```text
//!   replies   | sent | STORED held | VALUE ... END | STORED held | ...
//!                      ^ its ticket in the worker's line (`server/waits.rs`)
//! ```

use super::{Conn, Dialect, State, Step};
use crate::base::clock::Now;
use crate::protocol::binary::{self, Head, Status};
use crate::protocol::classic::encode::END;
use crate::protocol::{reject, GetVerb};
use crate::server::execute::Executor;
use crate::server::waits::{Asked, Outcome, Wait, Waits};

/// What a reply that is held back counts for beside its bytes, in bytes: the memory of its places
/// here and in the worker's line. With [`super::OUT_HIGH`] it bounds how many there can be, to
/// about 2000 per connection: more than are under way within a round trip to a peer.
const HELD_COST: usize = 128;
/// The same where the worker's line is crowded: 16 per connection. So thousands of clients cannot
/// fill the memory with replies while a peer hangs, and yet each of them goes on.
const CROWDED_COST: usize = super::OUT_HIGH / 16;

/// Bytes of a request that say what it is.
const HEAD: usize = 16;

/// What each reply that is held back counts for now.
#[inline]
pub(super) fn cost(waits: &Waits) -> usize {
    if waits.is_crowded() {
        CROWDED_COST
    } else {
        HELD_COST
    }
}

impl Conn {
    /// What is to be done when too much waits, or nothing more is to be executed.
    pub(super) fn wait_or(&self, step: Step) -> Step {
        match step {
            Step::Close if self.replies.deferred() > 0 => Step::Hold,
            Step::Write if !self.replies.has_sendable() => Step::Hold,
            step => step,
        }
    }

    /// Whether replies are held back.
    pub fn is_held(&self) -> bool {
        self.replies.deferred() > 0
    }

    /// Executes the command at the input's head, and holds its reply back if it made a change.
    #[inline(never)]
    pub(super) fn command_held(&mut self, exec: &mut Executor, now: Now) -> bool {
        if !self.holds {
            return self.run_command(exec, now);
        }
        let mut head = [0; HEAD];
        let here = self.input.len().min(HEAD);
        head[..here].copy_from_slice(&self.input.data()[..here]);
        let before = exec.store.issued();
        let from = self.replies.out().len();
        exec.waits.behind = self.is_held();
        let done = self.run_command(exec, now);
        if exec.store.issued() == before {
            return done;
        }
        match (self.dialect, &self.state) {
            (Dialect::Binary, _) => {
                let opaque = [head[12], head[13], head[14], head[15]];
                self.hold(exec, from, Asked::Binary { opcode: head[1], opaque }, now);
            }
            (_, State::Keys { .. }) => self.touched = true,
            _ if head.starts_with(b"gat") => self.hold_end(exec, from, now),
            _ => {
                let meta = head[0] == b'm' && head[2] == b' ';
                if meta || self.replies.out().len() > from {
                    self.hold(exec, from, Asked::Text, now);
                }
            }
        }
        done
    }

    /// Answers the next portion of a get line, and holds its end back if it made changes.
    #[inline(never)]
    pub(super) fn more_keys_held(
        &mut self,
        exec: &mut Executor,
        verb: GetVerb,
        exptime: i64,
        now: Now,
    ) -> bool {
        let before = exec.store.issued();
        let from = self.replies.out().len();
        let done = self.more_keys(exec, verb, exptime, now);
        self.touched |= exec.store.issued() != before;
        if self.touched && !matches!(self.state, State::Keys { .. }) {
            self.touched = false;
            self.hold_end(exec, from, now);
        }
        done
    }

    /// Holds back the end of a get's answer; what was found may be sent.
    fn hold_end(&mut self, exec: &mut Executor, from: usize, now: Now) {
        let out = self.replies.out();
        let end = out.len().saturating_sub(END.len());
        let from = if out.ends_with(END) { end.max(from) } else { from };
        self.hold(exec, from, Asked::Text, now);
    }

    fn hold(&mut self, exec: &mut Executor, from: usize, asked: Asked, now: Now) {
        if exec.waits.must_wait() {
            let ticket = self.replies.hold(from);
            // Not lower than the command's own version, and never lower than one before.
            let version = exec.store.issued();
            exec.waits.push(ticket, version, asked, now);
        }
    }

    /// Ends a wait. Returns whether something became sendable.
    pub fn settle(&mut self, wait: &Wait, outcome: Outcome) -> bool {
        if outcome == Outcome::Answer {
            return self.replies.release(wait.ticket);
        }
        let mut refusal = Vec::new();
        match wait.asked {
            Asked::Text => refusal.extend_from_slice(reject::NOT_ACKNOWLEDGED),
            Asked::Binary { opcode, opaque } => {
                let head = Head::answering(opcode, opaque);
                let status = Status::Temporary;
                binary::encode::error(&mut refusal, &head, status, status.text());
            }
        }
        super::log_reply(self.id, &refusal);
        self.replies.resolve(wait.ticket, refusal)
    }
}

#[cfg(test)]
#[path = "hold_tests.rs"]
mod tests;
