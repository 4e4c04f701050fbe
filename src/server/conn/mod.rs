//! One client connection, without its socket.
//!
//! Owns the bytes received and not yet executed, the replies not yet sent, and where in a command
//! the client is. Bytes come in through [`Conn::input`], replies go out through
//! [`Conn::replies`]; the worker does the I/O, [`Executor`] the commands. Never touches a socket,
//! a thread or a clock, so that a test is a client with two byte strings.
//!
//! ```text
//!              +----------- end of data / of keys -----------+
//!              v                                             |
//!   --> Command --(head of a storage command)--> Data -------+
//!          |  \---(get line, output full)------> Keys -------+
//!          |  \---(data not wanted)------------> Swallow ----+
//!          |  \---(a long answer)--------------> Stream -----+
//!          +------(quit, refused for good)-----> (Drain) -> Closing
//! ```
//!
//! The first byte says for good whether the client speaks text or binary, unless `-B` does.

mod auth;
mod binary;
mod data;
pub mod datagram;
mod hold;
mod plain;
mod text;

#[cfg(test)]
mod binary_tests;
#[cfg(test)]
mod data_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::base::buf::Buf;
use crate::base::clock::Now;
use crate::base::replies::Replies;
use crate::protocol::binary::REQUEST;
use crate::protocol::reject::Reject;
use crate::protocol::GetVerb;
use crate::server::auth::Login;
use crate::server::config::Protocol;
use crate::server::execute::Executor;
use crate::server::shared::{ConnInfo, ConnState};
use crate::server::watch::CloseReason;
use crate::store::Incoming;
use data::{next_read, to_reserve, Arriving, First, READ_HEAD, READ_MORE};

/// Replies that may wait in memory before no further command is executed, and that one portion of a
/// get may add: enough for a write of full size, little enough that a thousand slow readers stay
/// under half a gigabyte. One value may go over it by its own size.
const OUT_HIGH: usize = 256 * 1024;

/// What a step of a long answer or of a long get takes of the budget of a turn: it does more than a
/// command does, and the others are not to wait for many of them.
const STREAM_COST: u32 = 10;

/// A buffer up to so many times as large as the command it holds is kept for it.
const KEEP_FACTOR: usize = 4;

/// What the worker is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Everything received is executed, as far as it is complete: read more.
    Read,
    /// Too many replies wait: write, then process on.
    Write,
    /// Nothing can be done until peers have acknowledged what replies are held back for.
    Hold,
    /// The budget is used up and there is more to do: let others go first.
    Yield,
    /// Send what is sendable, then close.
    Close,
}

/// What a step of a long answer has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Produced {
    /// There is more: again, when the output has room.
    More,
    /// That was all; the next command is executed.
    Done,
    /// There is nothing to say until somebody calls again.
    Wait,
}

/// An answer that is too long for one piece, or has no end: a command leaves one behind
/// ([`crate::server::execute::After::Stream`]), and the connection asks it for more as the client
/// takes it.
pub trait Producer: Send + std::fmt::Debug {
    /// Appends the next part of the answer to `out`, in a step of bounded time: not much more than
    /// a portion of a get adds.
    fn produce(&mut self, exec: &mut Executor, now: Now, out: &mut Vec<u8>) -> Produced;

    /// Whether it goes on until the client leaves: then nothing is done with what the client still
    /// sends.
    fn is_endless(&self) -> bool {
        false
    }

    /// Whether it has more to say since it said [`Produced::Wait`].
    fn is_called(&self) -> bool {
        false
    }

    /// Whether the answer may also go out as datagrams. Not where it has no end, or where a few
    /// bytes from a forged sender would make everything in the cache go there.
    fn may_go_by_datagram(&self) -> bool {
        false
    }
}

/// Bytes of a command line that are shown at `-vv`.
const LOGGED_LINE: usize = 512;

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    /// It has said nothing yet.
    Unknown,
    /// Classic and meta commands.
    Text,
    /// Packets.
    Binary,
}

#[derive(Debug)]
enum State {
    Command,
    /// In the middle of a get line: the keys before the input's head are answered.
    Keys {
        verb: GetVerb,
        exptime: i64,
    },
    /// The command at the input's head needs this many bytes, data block included; so many of them
    /// are counted by [`crate::server::shared::Shared::reserve_data`].
    Data {
        need: usize,
        reserved: u64,
    },
    /// The command at the input's head has a value that is read into its place in the store.
    Value(Box<Arriving>),
    /// Bytes of an unwanted data block that are still to come.
    Swallow(u64),
    /// Bytes of a refused request that are still to come; then the connection closes.
    Drain(u64),
    /// A long answer is under way: no command is executed until its producer is done.
    Stream(Box<dyn Producer>),
    /// The next command is executed in a turn of its own, which has a time of its own.
    NextTurn,
    Closing,
}

/// A connection.
#[derive(Debug)]
pub struct Conn {
    id: u64,
    info: Arc<ConnInfo>,
    input: Buf,
    replies: Replies,
    state: State,
    reason: CloseReason,
    dialect: Dialect,
    login: Login,
    /// Replies to changes are held back where peers are waited for.
    holds: bool,
    /// Large values may be sent from where they are. Then what is left of them when the socket
    /// blocks is to be copied ([`Replies::keep_copies`]).
    lends: bool,
    /// The value of the command at the input's head, which is complete.
    arrived: Option<Box<Incoming>>,
    /// The length of the value that came in last, while values come in one after the other.
    trust: usize,
    /// The get line under way has made changes.
    touched: bool,
}

impl Conn {
    /// A connection that has said nothing yet. `id` is its number in log lines.
    pub fn new(id: u64, info: Arc<ConnInfo>) -> Conn {
        Conn {
            id,
            info,
            input: Buf::new(),
            replies: Replies::new(),
            state: State::Command,
            reason: CloseReason::Error,
            dialect: Dialect::Unknown,
            login: Login::default(),
            holds: true,
            lends: false,
            arrived: None,
            trust: 0,
            touched: false,
        }
    }

    /// From now on large values are sent from where they are, and read into their place: whoever
    /// sends the replies takes [`Replies::slices`], and calls [`Replies::keep_copies`] before it
    /// waits for anything; whoever reads asks [`Conn::is_arriving`].
    pub fn lend_values(&mut self) {
        self.lends = true;
    }

    /// Where received bytes go.
    pub fn input(&mut self) -> &mut Buf {
        &mut self.input
    }

    /// What is to be sent.
    pub fn replies(&mut self) -> &mut Replies {
        &mut self.replies
    }

    /// Bytes of the buffers it has.
    pub fn held(&self) -> usize {
        self.input.capacity() + self.replies.capacity() + self.replies.places()
    }

    /// Lends the worker's buffers to a connection that has none of its own.
    pub fn lend(&mut self, input: &mut Buf, out: &mut Vec<u8>) {
        self.lend_input(input);
        self.replies.lend(out);
    }

    /// Whether reading is all that can be done for it now.
    #[inline]
    pub fn wants_reading(&self) -> bool {
        matches!(self.state, State::Command) && self.input.is_empty() && self.replies.is_empty()
    }

    /// Lends the worker's input buffer ahead of [`Conn::lend`], to be read into.
    pub fn lend_input(&mut self, input: &mut Buf) {
        if self.input.is_empty() {
            std::mem::swap(&mut self.input, input);
        }
    }

    /// Gives the worker's buffers back; a partial command moves to memory of its own, of its size,
    /// unless it is a long one that will fill the buffer that it has.
    pub fn reclaim(&mut self, exec: &mut Executor, now: Now, input: &mut Buf, out: &mut Vec<u8>) {
        let (rest, larger) = (self.input.len(), input.capacity() < self.input.capacity());
        if rest == 0 {
            if larger {
                std::mem::swap(&mut self.input, input);
            }
            // The smaller one had a partial command; the connection may be idle for long now.
            self.input = Buf::new();
        } else if larger && !self.grows_into_buffer(exec, now) && rest <= self.input.capacity() / 4
        {
            let mut own = Buf::new();
            own.extend(self.input.data());
            self.input.consume(rest);
            std::mem::swap(&mut self.input, input);
            self.input = own;
        }
        self.replies.reclaim(out);
    }

    /// Whether a long data block under way may keep the buffer it is in: then all of it is counted,
    /// and the block comes in without growing or moving.
    fn grows_into_buffer(&mut self, exec: &mut Executor, now: Now) -> bool {
        let capacity = self.input.capacity();
        let State::Data { need, reserved } = &mut self.state else { return false };
        if *need <= READ_MORE || capacity / KEEP_FACTOR > *need {
            return false;
        }
        let more = (capacity as u64).saturating_sub(*reserved);
        let kept = exec.make_room(more, now);
        *reserved += if kept { more } else { 0 };
        kept
    }

    /// How much to read at once: `fresh` for a new command, else up to what the data block that is
    /// coming in needs, as far as it is counted.
    pub fn wanted(&self, fresh: usize) -> usize {
        let here = self.input.len();
        match self.state {
            State::Data { need, .. } => (need.max(here) - here).clamp(READ_MORE, next_read(here)),
            State::Command if self.trust > 0 => READ_HEAD,
            _ if here == 0 => fresh,
            _ => READ_MORE,
        }
    }

    /// Between two commands with nothing to send; or in an answer without an end.
    pub fn is_idle(&self) -> bool {
        let between = matches!(self.state, State::Command);
        self.is_endless() || between && self.input.is_empty() && self.replies.is_empty()
    }

    /// Whether it reads what others make, until it leaves.
    pub fn is_endless(&self) -> bool {
        matches!(&self.state, State::Stream(producer) if producer.is_endless())
    }

    /// Whether what it reads has something new.
    pub fn is_called(&self) -> bool {
        matches!(&self.state, State::Stream(producer) if producer.is_called())
    }

    /// Why it is closing.
    pub fn reason(&self) -> CloseReason {
        self.reason
    }

    /// No further command is executed; what waits is sent.
    pub(super) fn finish(&mut self, reason: CloseReason) {
        self.reason = reason;
        self.state = State::Closing;
    }

    /// The client has said its last word. As in memcached, a watcher's end is no normal one.
    pub fn hung_up(&mut self, exec: &mut Executor) {
        if !self.is_endless() && !matches!(self.state, State::Closing) {
            self.reason = CloseReason::Normal;
        }
        self.release(exec);
    }

    /// Ends the connection as far as commands go: gives back what it reserved, keeps the replies
    /// that wait to be sent.
    pub fn release(&mut self, exec: &mut Executor) {
        if let State::Data { reserved, .. } = self.state {
            exec.shared.release_data(reserved);
        }
        self.state = State::Closing;
    }

    /// Executes what has been received. `budget` is the number of commands that may still run in
    /// this turn (`-R`).
    pub fn process(&mut self, exec: &mut Executor, now: Now, budget: &mut u32) -> Step {
        let before = *budget;
        exec.store.serve(self.id);
        self.info.note(ConnState::ParseCmd, false, now);
        exec.lending.allow(self.lends && !exec.waits.is_on());
        let step = self.advance(exec, now, budget);
        let state = match self.state {
            State::Closing => ConnState::Closing,
            _ if matches!(step, Step::Write | Step::Hold) => ConnState::Mwrite,
            State::Data { .. } | State::Value(_) => ConnState::Nread,
            State::Swallow(_) | State::Drain(_) => ConnState::Swallow,
            State::Stream(_) => ConnState::Watch,
            State::Keys { .. } => ConnState::Read,
            State::Command | State::NextTurn => ConnState::Read,
        };
        self.info.note(state, before != *budget, now);
        step
    }

    fn advance(&mut self, exec: &mut Executor, now: Now, budget: &mut u32) -> Step {
        loop {
            if self.replies.load(hold::cost(&exec.waits)) >= OUT_HIGH {
                return self.wait_or(Step::Write);
            }
            match self.state {
                State::Closing => return self.wait_or(Step::Close),
                State::NextTurn => {
                    self.state = State::Command;
                    return Step::Yield;
                }
                State::Swallow(left) => {
                    let left = self.drop_input(left);
                    if left > 0 {
                        self.state = State::Swallow(left);
                        return Step::Read;
                    }
                    self.state = State::Command;
                }
                State::Drain(left) => {
                    let left = self.drop_input(left);
                    if left > 0 {
                        self.state = State::Drain(left);
                        return Step::Read;
                    }
                    self.state = State::Closing;
                }
                State::Data { need, reserved } if self.input.len() < need => {
                    // The next read may only take what is counted. This does not finish a command.
                    let enough = reserved >= to_reserve(self.input.len(), need);
                    if enough || !self.command(exec, now) {
                        return Step::Read;
                    }
                }
                State::Value(ref mut arriving) if !arriving.is_here(self.input.len()) => {
                    if arriving.ensure_room(exec, now) {
                        return Step::Read;
                    }
                    self.move_to_input(exec, now);
                }
                State::Keys { verb, exptime } => {
                    if *budget == 0 {
                        return Step::Yield;
                    }
                    *budget = budget.saturating_sub(STREAM_COST);
                    let holds = exec.waits.is_on() && self.holds;
                    let step = if holds { Conn::more_keys_held } else { Conn::more_keys };
                    let done = step(self, exec, verb, exptime, now);
                    exec.lending.hand_to(&mut self.replies);
                    if !done {
                        return Step::Read;
                    }
                }
                State::Stream(ref mut producer) => {
                    if *budget == 0 {
                        return Step::Yield;
                    }
                    *budget = budget.saturating_sub(STREAM_COST);
                    match producer.produce(exec, now, self.replies.out()) {
                        Produced::More => {}
                        Produced::Done => self.state = State::Command,
                        Produced::Wait => {
                            if producer.is_endless() {
                                self.input.consume(self.input.len());
                            }
                            return Step::Read;
                        }
                    }
                }
                State::Command | State::Data { .. } | State::Value(_) => {
                    if self.input.is_empty() {
                        return Step::Read;
                    }
                    if *budget == 0 {
                        return Step::Yield;
                    }
                    let plain = self.may_be_plain(exec);
                    let ran = if plain { self.plain_run(exec, now, *budget) } else { 0 };
                    let done = ran > 0 || self.command(exec, now);
                    exec.lending.hand_to(&mut self.replies);
                    if !done {
                        return Step::Read;
                    }
                    *budget -= ran.max(1);
                }
            }
        }
    }

    /// Whether a run of plain requests may be next: between commands, of a client that may ask for
    /// items and whose replies nobody holds back.
    #[inline]
    fn may_be_plain(&self, exec: &Executor) -> bool {
        matches!((&self.state, self.dialect), (State::Command, Dialect::Text))
            && (self.login.authenticated || exec.shared.auth.is_none())
            && !exec.waits.is_on()
    }

    /// Executes the command at the input's head. False when it is not complete.
    fn command(&mut self, exec: &mut Executor, now: Now) -> bool {
        if exec.waits.is_on() {
            return self.command_held(exec, now);
        }
        self.run_command(exec, now)
    }

    #[inline]
    fn run_command(&mut self, exec: &mut Executor, now: Now) -> bool {
        let again = !matches!(self.state, State::Command);
        if again {
            self.take_up(exec);
        }
        let first = First { may_place: self.lends && !again, trust: self.trust };
        if self.dialect == Dialect::Unknown {
            self.dialect = match (exec.shared.config.protocol, self.input.data().first()) {
                (Protocol::Binary, _) | (Protocol::Auto, Some(&REQUEST)) => Dialect::Binary,
                (Protocol::Auto | Protocol::Ascii, _) => Dialect::Text,
            };
        }
        let done = match self.dialect {
            Dialect::Binary => self.binary_command(exec, first, now),
            Dialect::Text | Dialect::Unknown => self.text_command(exec, first, now),
        };
        if first.trust > 0 && done && !again && !self.is_arriving() {
            self.trust = 0;
        }
        done
    }

    /// Drops up to `left` bytes of what has come in; returns how many are still to come.
    fn drop_input(&mut self, left: u64) -> u64 {
        let here = self.input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.input.consume(here);
        left - here as u64
    }

    /// Answers a refusal and drops what it covers.
    fn refuse(&mut self, reject: Reject, used: usize) {
        log_reply(self.id, reject.line);
        self.replies.out().extend_from_slice(reject.line);
        self.input.consume(used);
        self.state = match reject {
            Reject { close: true, .. } => State::Closing,
            Reject { swallow: 0, .. } => State::Command,
            Reject { swallow, .. } => State::Swallow(swallow),
        };
    }
}

/// Shows a command line at `-vv`, as memcached does.
#[inline]
pub(super) fn log_line(id: u64, input: &[u8], used: usize) {
    if log::log_enabled!(log::Level::Debug) {
        show_line(id, input, used);
    }
}

/// Shows the first line of a reply at `-vv`, as memcached does.
#[inline]
pub(super) fn log_reply(id: u64, reply: &[u8]) {
    if log::log_enabled!(log::Level::Debug) {
        show_reply(id, reply);
    }
}

#[cold]
fn show_line(id: u64, input: &[u8], used: usize) {
    let line = String::from_utf8_lossy(&input[..used.min(LOGGED_LINE)]);
    log::debug!("<{id} {}", line.trim_end());
}

#[cold]
fn show_reply(id: u64, reply: &[u8]) {
    let line = reply.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let line = &line[..line.len().min(LOGGED_LINE)];
    let line = if line.is_empty() { b"NOREPLY" } else { line };
    log::debug!(">{id} {}", String::from_utf8_lossy(line));
}
