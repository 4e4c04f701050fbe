//! The conversation with one repcached.
//!
//! Owns its states, and which side's word holds in each (see `old`). Never decides whether the link
//! should be: it waits for [`TextSession::start`].
//!
//! ```text
//!   Vetting --start()--> Filling --marugoto_end--> Live      connector: its copy comes first
//!                 `--------------------------------^         listener: ours goes out
//! ```

use super::super::events::{CloseReason, Event, Relays, SessionStats};
use super::super::stream::Stream;
use super::super::Role;
use super::ledger::{Ledger, Told};
use super::receive::{Heard, Receiver, Rule};
use super::send::Outgoing;
use crate::base::buf::Buf;
use crate::base::clock::Now;
use crate::store::{Drained, Handle, Version};
use std::collections::VecDeque;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Vetting,
    Filling,
    Live,
    Closed,
}

/// The state machine of a link to a repcached.
#[derive(Debug)]
pub(in crate::replication) struct TextSession {
    role: Role,
    state: State,
    queue_max: usize,
    /// While its copy is awaited it may not be silent for longer. Later it may be, for ever.
    silence_us: u64,
    heard_us: u64,
    rule: Rule,
    receiver: Receiver,
    outgoing: Outgoing,
    events: VecDeque<Event>,
    relays: Vec<(u64, Version)>,
    covered: Version,
    before: Told,
    ledger: Ledger,
    /// Bytes said so far, and those that the system still held when the link ended.
    said: u64,
    unsent: u64,
    /// The log has been told of what cannot be sent.
    warned: bool,
}

impl TextSession {
    /// A repcached is at the other end; `input` is what it has said already.
    pub fn new(role: Role, queue_max: usize, silence_us: u64, input: Buf, now: Now) -> TextSession {
        TextSession {
            role,
            state: State::Vetting,
            queue_max,
            silence_us,
            heard_us: now.mono_us,
            rule: Rule::Newest,
            receiver: Receiver::new(input),
            outgoing: Outgoing::new(
                role,
                Stream::new(queue_max, Version(0)),
                Version(0),
                Default::default(),
            ),
            events: VecDeque::new(),
            relays: Vec::new(),
            covered: Version(0),
            before: Told::default(),
            ledger: Ledger::new(Told::default()),
            said: 0,
            unsent: 0,
            warned: false,
        }
    }

    /// The link may live. `before`: what that repcached was told by an earlier link; `covered`:
    /// everything changed here up to it has left the feeds.
    pub fn start(&mut self, before: Told, covered: Version, handle: &mut Handle, now: Now) {
        if self.state != State::Vetting {
            return;
        }
        self.heard_us = now.mono_us;
        self.covered = covered;
        self.before = before;
        self.ledger = Ledger::new(before);
        let store = handle.store_ref();
        let started = store.newest();
        let (flushed, _) = Outgoing::flush_due(before.flush, store.flush_state());
        let known = before != Told::default();
        self.rule = if known && flushed { Rule::Flushed } else { Rule::Since(before.upto) };
        match self.role {
            Role::Connector => {
                self.state = State::Filling;
                self.outgoing = self.fresh(started, before);
            }
            Role::Listener => {
                self.rule = Rule::Newest;
                self.open(started, Told::default(), handle);
            }
        }
        self.advance(handle, now);
    }

    fn fresh(&self, started: Version, before: Told) -> Outgoing {
        let stream = Stream::new(self.queue_max, self.covered);
        Outgoing::new(self.role, stream, started, before.flush)
    }

    /// From here on this side speaks.
    fn open(&mut self, started: Version, before: Told, handle: &Handle) {
        self.state = State::Live;
        self.rule = Rule::Newest;
        self.outgoing = self.fresh(started, before);
        if before == Told::default() {
            // Nothing of ours was ever there to be flushed, but what is still to come is.
            let mut state = handle.store_ref().flush_state();
            state.pending = state.pending.filter(|_| state.deferred().is_none());
            self.outgoing.heard_flush(state);
        }
    }

    pub fn is_live(&self) -> bool {
        matches!(self.state, State::Filling | State::Live)
    }

    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Whether all that it had to give has come.
    pub fn is_filled(&self) -> bool {
        self.state == State::Live || self.role == Role::Listener
    }

    pub fn handle_bytes(&mut self, bytes: &[u8], handle: &mut Handle, now: Now) {
        if self.is_closed() {
            return;
        }
        self.heard_us = now.mono_us;
        self.receiver.extend(bytes);
        self.advance(handle, now);
    }

    fn advance(&mut self, handle: &mut Handle, now: Now) {
        while self.is_live() {
            match self.receiver.next(self.rule, handle, now) {
                Ok(Some(heard)) => self.on_heard(heard, handle, now),
                Ok(None) => return,
                Err(error) => self.close(CloseReason::Text(error)),
            }
        }
    }

    fn on_heard(&mut self, heard: Heard, handle: &Handle, now: Now) {
        match heard {
            Heard::Change(hash, version) => {
                self.relays.extend(version.map(|version| (hash, version)));
                if self.state == State::Live {
                    let crossing = self.outgoing.is_scanning();
                    self.outgoing.echo.heard(hash, crossing, now);
                }
            }
            Heard::Nothing => {}
            Heard::Flush => {
                let state = handle.store_ref().flush_state();
                self.outgoing.heard_flush(state);
                self.before.flush = state;
            }
            Heard::MarugotoEnd if self.state == State::Filling => {
                let started = self.outgoing.started();
                self.open(started, self.before, handle);
                self.events.push_back(Event::CopyDone { full: true });
            }
            Heard::MarugotoEnd => {}
            Heard::Twincached => {
                self.close(CloseReason::Lost("it is a twincached after all".to_owned()));
            }
        }
    }

    pub fn close(&mut self, reason: CloseReason) {
        if !self.is_closed() {
            self.state = State::Closed;
            self.events.push_back(Event::Closed(reason));
        }
    }

    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What won here. `named`: others are to hear of it key by key.
    pub fn take_relays(&mut self, named: bool) -> Relays {
        let changes = std::mem::take(&mut self.relays);
        let lowest = changes.iter().map(|&(_, version)| version).min();
        Relays { changes: if named { changes } else { Vec::new() }, lowest, lowest_item: None }
    }

    /// What is newer than `since` may be unknown there. Before this side speaks all of it is.
    pub fn catch_up(&mut self, since: Version, now: Now) {
        if self.state == State::Live {
            self.outgoing.stream.catch_up(since, now);
        }
    }

    /// What was drained from the feeds.
    pub fn push(&mut self, hashes: &[u64], drained: Drained, now: Now) {
        self.covered = self.covered.max(drained.upto);
        if self.state == State::Live {
            self.outgoing.stream.push(hashes, drained, now);
        }
    }

    /// Changes that were drained as they were made: here they are looked up, as all are.
    pub fn tell(&mut self, told: &crate::store::Told, now: Now) {
        if self.state == State::Live {
            told.iter().for_each(|(hash, _)| self.outgoing.stream.push_one(hash, now));
        }
    }

    /// A change that came over another link. Before this side speaks, the scan will find it.
    pub fn push_relay(&mut self, hash: u64, version: Version, now: Now) {
        if self.state == State::Live {
            self.outgoing.stream.relay(hash, version, now);
        }
    }

    pub fn next_timeout(&self) -> Option<u64> {
        match self.state {
            State::Filling => Some(self.heard_us + self.silence_us),
            State::Live => {
                let mark = self.outgoing.stream.mark_due().filter(|_| self.outgoing.is_between());
                let lost = self.outgoing.stream.lost_due_us();
                mark.into_iter().chain(lost).chain(self.outgoing.echo.next_timeout()).min()
            }
            _ => None,
        }
    }

    pub fn handle_timeout(&mut self, now: Now) {
        let silent = now.mono_us.saturating_sub(self.heard_us);
        if self.state == State::Filling && silent >= self.silence_us {
            self.close(CloseReason::Silent(silent));
        }
        if self.state != State::Live {
            return;
        }
        while let Some(hash) = self.outgoing.echo.due(now) {
            self.outgoing.stream.push_one(hash, now);
        }
        self.mark(now);
    }

    /// Appends what is to be sent now, until `out` holds about `limit` bytes.
    pub fn poll_transmit(
        &mut self,
        out: &mut Vec<u8>,
        limit: usize,
        handle: &mut Handle,
        now: Now,
    ) {
        if self.state != State::Live {
            return;
        }
        let before = out.len();
        self.outgoing.stream.look(now);
        self.outgoing.transmit(out, limit, handle, now);
        self.said += (out.len() - before) as u64;
        self.mark(now);
        while let Some(line) = self.outgoing.lines.pop_front() {
            self.events.push_back(Event::Log(line));
        }
        if self.outgoing.writer.unsaid > 0 && !std::mem::replace(&mut self.warned, true) {
            let line = "replication: some keys or values cannot be told to a repcached \
                        (see stats replication)";
            self.events.push_back(Event::Log(line.to_owned()));
        }
    }

    /// Nobody acknowledges: what was handed out counts as told, unless the system says at the end
    /// that it still holds it.
    fn mark(&mut self, now: Now) {
        self.outgoing.stream.look(now);
        if !self.outgoing.is_between() {
            return;
        }
        let flush = self.outgoing.said();
        if let Some(upto) = self.outgoing.stream.take_mark() {
            self.outgoing.stream.ack(upto);
            self.ledger.note(self.said, Told { upto, flush }, now);
        }
        if self.is_settled() {
            // Nothing waits: no mark is needed to know.
            self.ledger.note(self.said, Told { upto: self.covered, flush }, now);
        }
    }

    /// So many bytes of what was said have not reached the other machine.
    pub fn unsent(&mut self, bytes: u64) {
        self.unsent = bytes;
    }

    /// What the repcached knows, now that the link is over.
    pub fn told(&self) -> Told {
        self.ledger.at(self.said.saturating_sub(self.unsent))
    }

    pub fn has_more(&self) -> bool {
        self.state == State::Live && self.outgoing.has_more()
    }

    pub fn is_settled(&self) -> bool {
        self.state == State::Live && !self.outgoing.has_more() && self.outgoing.stream.is_level()
    }

    pub fn stream(&self) -> &Stream {
        &self.outgoing.stream
    }

    /// Whether much is being sent or taken in.
    pub fn is_copying(&self) -> bool {
        match self.state {
            State::Filling => true,
            State::Live => self.outgoing.is_scanning(),
            _ => false,
        }
    }

    pub fn copy_progress(&self) -> u32 {
        if self.state == State::Live {
            self.outgoing.progress()
        } else {
            1_000_000
        }
    }

    /// Figures so far; bytes are counted elsewhere.
    pub fn stats(&self) -> SessionStats {
        SessionStats {
            tally: self.receiver.tally,
            items_out: self.outgoing.writer.items,
            deletes_out: self.outgoing.writer.deletes,
            unsaid: self.outgoing.writer.unsaid,
            copies_out: u64::from(self.state == State::Live) * self.outgoing.copies,
            copies_in: u64::from(self.role == Role::Connector && self.state == State::Live),
            overflows: self.outgoing.stream.overflows,
            ..SessionStats::default()
        }
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
