//! One pipelined connection to a server: requests out, answers matched to them in order.
//!
//! Owns the bytes in both directions, the queue of who waits for what, and whether the server is
//! usable. Never touches a socket and never decides what an answer means: the caller connects when
//! [`Backend::wants_connect`] says so, moves the bytes, and hands each [`Step`] on. Whoever waits
//! gets exactly one end: his answer, or his place in what [`Backend::failed`] returns.
//!
//! ```text
//!          ask                    connected            lost, idle or after answers
//!   Idle ------> Connecting ------------------> Up ----------------------> Idle
//!                    |                          |
//!                    | refused, too slow        | lost, too slow, no sense
//!                    v                          v
//!                  Down <---------------------- +        in Down and Probing ask says no:
//!                    |  ^                                the caller fails over at once
//!    backoff is over v  | again
//!                  Probing --- version answered ---> Up
//! ```

use std::collections::VecDeque;

use super::missed::{Amends, Missed};
use crate::base::buf::Buf;
use crate::base::clock::Now;
use crate::protocol::classic::{encode, parse_data, parse_reply, Reply};
use crate::protocol::{reject, Parsed, Request};

/// Requests that may wait on one connection. Reached only when a server has stopped answering under
/// full load; what comes then is refused at once instead of waiting for a timeout.
pub const QUEUE_MAX: usize = 65_536;
/// Bytes that may wait to be sent to one server, for the same reason.
pub const OUT_MAX: usize = 64 << 20;
/// First wait before a server that failed is tried again, in microseconds: a restart is noticed at
/// once, and twenty attempts a second cost nothing.
const BACKOFF_MIN_US: u64 = 50_000;
/// Longest wait between two attempts, in microseconds: how long a server that is back may stay
/// unused.
const BACKOFF_MAX_US: u64 = 500_000;
/// A request may take a second more for each so many bytes that move meanwhile (1 MiB): large
/// values on a slow link are no failure, single bytes at long intervals are one.
const SLOWEST_BYTES_PER_SEC: u64 = 1 << 20;
/// Missed writes made good at a time, so that they cannot fill the queue.
const AMENDS_AT_ONCE: usize = 4096;
/// Memory that an idle direction keeps.
const KEEP: usize = 64 * 1024;

/// The kinds of answer a request can have; anything else means that the connection has lost its
/// place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Of a storage command.
    Stored,
    /// Of delete.
    Deleted,
    /// Of incr and decr.
    Number,
    /// Of touch.
    Touched,
    /// `OK`.
    Ok,
    /// Values, then `END`.
    Values,
    /// Of a meta command.
    Meta,
    /// Of version.
    Version,
}

/// Which protocol a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// It has not answered yet on this connection.
    Unknown,
    /// Older than memcached 1.6.
    Classic,
    /// The meta commands too.
    Meta,
}

/// Time and size limits, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a connect, in microseconds.
    pub connect_us: u64,
    /// For an answer, in microseconds.
    pub request_us: u64,
    /// Largest value taken from a server, in bytes.
    pub value_max: usize,
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The connect failed.
    Refused(String),
    /// The server closed, or the network broke.
    Lost(String),
    /// No connection in time.
    ConnectTimeout,
    /// No answer in time.
    RequestTimeout,
    /// What came is no answer to what was asked.
    Garbage,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Why::Refused(text) | Why::Lost(text) => f.write_str(text),
            Why::ConnectTimeout => f.write_str("no connection in time"),
            Why::RequestTimeout => f.write_str("no answer in time"),
            Why::Garbage => f.write_str("the answer makes no sense"),
        }
    }
}

/// Whether requests are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usable {
    /// They are.
    Yes,
    /// Too many wait already.
    Busy,
    /// The server has failed and not come back.
    Down,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    /// With the time it began; `open` once the socket was asked for.
    Connecting {
        since: u64,
        open: bool,
    },
    Up,
    /// Until the next attempt.
    Down {
        until: u64,
    },
    /// Trying again without load. With the time it began.
    Probing {
        since: u64,
        connected: bool,
    },
}

#[derive(Debug)]
enum Asked<C> {
    Version,
    Amends(Amends),
    Caller(C, Expect),
}

#[derive(Debug)]
struct Waiting<C> {
    asked: Asked<C>,
    since: u64,
    /// [`Backend::moved`] at that time.
    moved: u64,
}

/// What has been counted about a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Requests sent.
    pub requests: u64,
    /// Connections that failed or were lost with somebody waiting.
    pub failures: u64,
    /// Of these, for lack of an answer in time.
    pub timeouts: u64,
}

/// The next thing that the input holds.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a, C> {
    /// More bytes are needed.
    Wait,
    /// The first `used` bytes concerned nobody outside.
    Own {
        /// Bytes to drop.
        used: usize,
    },
    /// One value of several.
    Value {
        /// Who asked.
        call: C,
        /// Its key.
        key: &'a [u8],
        /// Its flags.
        flags: u32,
        /// Its CAS unique, when it was asked for.
        cas: Option<u64>,
        /// Its bytes, or `None` when there are too many to hold.
        data: Option<&'a [u8]>,
        /// Bytes to drop.
        used: usize,
    },
    /// The last, or only, answer to a request.
    Done {
        /// Who asked.
        call: C,
        /// The line.
        reply: Reply<'a>,
        /// The data block of a meta value.
        data: &'a [u8],
        /// All of it as it came.
        raw: &'a [u8],
        /// Bytes to drop.
        used: usize,
    },
    /// This is no answer: call [`Backend::failed`].
    Garbage,
}

/// One server's connection.
#[derive(Debug)]
pub struct Backend<C> {
    name: String,
    limits: Limits,
    state: State,
    backoff_us: u64,
    /// What was received and not yet understood; the caller fills it.
    pub input: Buf,
    out: Vec<u8>,
    sent: usize,
    queue: VecDeque<Waiting<C>>,
    /// Bytes moved in both directions.
    moved: u64,
    /// When the last of them did.
    moved_at: u64,
    /// Bytes of a too large value that are still to be dropped.
    swallow: u64,
    missed: Missed,
    dialect: Dialect,
    /// Somebody had an answer on this connection.
    answered: bool,
    tally: Tally,
}

impl<C: Copy> Backend<C> {
    /// A server that nobody has tried yet. `name` is for the log.
    pub fn new(name: String, limits: Limits) -> Backend<C> {
        Backend {
            name,
            limits,
            state: State::Idle,
            backoff_us: BACKOFF_MIN_US,
            input: Buf::new(),
            out: Vec::new(),
            sent: 0,
            queue: VecDeque::new(),
            moved: 0,
            moved_at: 0,
            swallow: 0,
            missed: Missed::default(),
            dialect: Dialect::Unknown,
            answered: false,
            tally: Tally::default(),
        }
    }

    /// `host:port`, as in the log.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counts so far.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Whether the server is known to speak the meta protocol of memcached 1.6.
    pub fn speaks_meta(&self) -> bool {
        self.dialect == Dialect::Meta
    }

    /// What the server said it speaks.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Whether [`Backend::ask`] takes a request now.
    pub fn usable(&self) -> Usable {
        match self.state {
            State::Down { .. } | State::Probing { .. } => Usable::Down,
            _ if self.queue.len() >= QUEUE_MAX || self.out.len() - self.sent >= OUT_MAX => {
                Usable::Busy
            }
            _ => Usable::Yes,
        }
    }

    /// Queues one request, which `write` appends, for `call`. Refuses where [`Backend::usable`] is
    /// not [`Usable::Yes`]; `write` is not called then.
    pub fn ask(
        &mut self,
        now: Now,
        call: C,
        expect: Expect,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Usable {
        let usable = self.usable();
        if usable != Usable::Yes {
            return usable;
        }
        if self.state == State::Idle {
            self.state = State::Connecting { since: now.mono_us, open: false };
            self.greet(now);
        }
        // Before anything else is asked: a key that is to be deleted must not be read first.
        self.go_on(now);
        self.tally.requests += 1;
        self.push(now, Asked::Caller(call, expect));
        write(&mut self.out);
        Usable::Yes
    }

    fn push(&mut self, now: Now, asked: Asked<C>) {
        self.queue.push_back(Waiting { asked, since: now.mono_us, moved: self.moved });
    }

    /// What goes first on every new connection: who are you, and what you have missed.
    fn greet(&mut self, now: Now) {
        self.dialect = Dialect::Unknown;
        self.answered = false;
        self.push(now, Asked::Version);
        encode::request(&mut self.out, &Request::Version);
        let lost = self.missed.take_lost();
        if lost > 0 {
            log::warn!("proxy: {}: {lost} missed writes were too many to remember", self.name);
        }
        self.amend(now);
    }

    fn amend(&mut self, now: Now) {
        for amends in self.missed.take(AMENDS_AT_ONCE) {
            let request = match &amends {
                Amends::Delete(key) => Request::Delete { key, noreply: false },
                Amends::Flush => Request::FlushAll { delay: 0, noreply: false },
            };
            encode::request(&mut self.out, &request);
            self.push(now, Asked::Amends(amends));
        }
    }

    /// A write of `key` did not reach this server, or may not have: it is deleted there as soon as
    /// possible.
    pub fn missed_key(&mut self, key: &[u8]) {
        self.missed.key(key);
    }

    /// A `flush_all` did not reach this server: it is made good as soon as possible.
    pub fn missed_flush(&mut self) {
        self.missed.flush();
    }

    /// Whether the caller should open a connection now; it then calls [`Backend::connecting`].
    pub fn wants_connect(&self, now: Now) -> bool {
        match self.state {
            State::Connecting { open, .. } => !open,
            State::Down { until } => now.mono_us >= until,
            _ => false,
        }
    }

    /// The caller has begun to connect.
    pub fn connecting(&mut self, now: Now) {
        match self.state {
            State::Connecting { since, .. } => {
                self.state = State::Connecting { since, open: true };
            }
            _ => {
                self.state = State::Probing { since: now.mono_us, connected: false };
                self.greet(now);
            }
        }
    }

    /// The connection stands.
    pub fn connected(&mut self) {
        match self.state {
            State::Connecting { .. } => self.state = State::Up,
            State::Probing { since, .. } => {
                self.state = State::Probing { since, connected: true };
            }
            _ => {}
        }
    }

    /// What is to be sent now.
    pub fn sendable(&self) -> &[u8] {
        match self.state {
            State::Up | State::Probing { connected: true, .. } => &self.out[self.sent..],
            _ => &[],
        }
    }

    /// The first `n` sendable bytes have been sent.
    pub fn sent(&mut self, now: Now, n: usize) {
        self.sent += n;
        self.moved += n as u64;
        self.moved_at = now.mono_us;
        if self.sent >= self.out.len() {
            self.sent = 0;
            self.out.clear();
            if self.out.capacity() > KEEP {
                self.out = Vec::new();
            }
        } else if self.sent > KEEP && self.sent * 2 > self.out.len() {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// `n` bytes were received into [`Backend::input`].
    pub fn received(&mut self, now: Now, n: usize) {
        self.input.filled(n);
        self.moved += n as u64;
        self.moved_at = now.mono_us;
    }

    /// When [`Backend::check`] is due, on the monotonic clock in microseconds.
    pub fn deadline(&self) -> Option<u64> {
        match self.state {
            State::Idle => None,
            State::Connecting { since, .. } | State::Probing { since, connected: false } => {
                Some(since + self.limits.connect_us)
            }
            State::Down { until } => Some(until),
            State::Up | State::Probing { .. } => self.queue.front().map(|head| {
                let moved = (self.moved - head.moved).saturating_mul(1_000_000);
                let slow = head.since + moved / SLOWEST_BYTES_PER_SEC;
                // However much has moved: nothing at all for so long is the end.
                let stuck = head.since.max(self.moved_at);
                self.limits.request_us + slow.min(stuck)
            }),
        }
    }

    /// Whether a deadline has passed. The caller then calls [`Backend::failed`].
    pub fn check(&self, now: Now) -> Option<Why> {
        if self.deadline().is_none_or(|at| now.mono_us < at) {
            return None;
        }
        match self.state {
            State::Connecting { .. } | State::Probing { connected: false, .. } => {
                Some(Why::ConnectTimeout)
            }
            State::Up | State::Probing { .. } => Some(Why::RequestTimeout),
            State::Idle | State::Down { .. } => None,
        }
    }

    /// The connection is over. Returns who waited on it, in order: none of them will get an answer.
    pub fn failed(&mut self, now: Now, why: &Why) -> Vec<C> {
        let was = self.state;
        let mut orphans = Vec::new();
        for waiting in std::mem::take(&mut self.queue) {
            match waiting.asked {
                Asked::Caller(call, _) => orphans.push(call),
                Asked::Amends(amends) => self.missed.again(amends),
                Asked::Version => {}
            }
        }
        self.input = Buf::new();
        self.out = Vec::new();
        self.sent = 0;
        self.swallow = 0;
        let idle = orphans.is_empty() || self.answered;
        if was == State::Up && idle && matches!(why, Why::Lost(_)) {
            // Servers close connections, and restart: the next request connects at once. If that
            // fails, or the new connection gives no answer, the server counts as down.
            log::debug!("proxy: {}: {why}", self.name);
            self.tally.failures += u64::from(!orphans.is_empty());
            self.state = State::Idle;
            return orphans;
        }
        if !matches!(was, State::Down { .. } | State::Probing { .. }) {
            self.backoff_us = BACKOFF_MIN_US;
            self.tally.failures += 1;
            log::info!("proxy: {} is down: {why}", self.name);
        }
        self.tally.timeouts += u64::from(*why == Why::RequestTimeout);
        self.state = State::Down { until: now.mono_us + self.backoff_us };
        self.backoff_us = (self.backoff_us * 2).min(BACKOFF_MAX_US);
        orphans
    }

    /// Understands the next thing in `input` (which the caller has taken out of
    /// [`Backend::input`]).
    pub fn step<'a>(&mut self, now: Now, input: &'a [u8]) -> Step<'a, C> {
        if self.swallow > 0 && !input.is_empty() {
            let used = input.len().min(usize::try_from(self.swallow).unwrap_or(usize::MAX));
            self.swallow -= used as u64;
            return Step::Own { used };
        }
        if input.is_empty() {
            return Step::Wait;
        }
        let Some(head) = self.queue.front() else { return Step::Garbage };
        let (reply, used) = match parse_reply(input) {
            Parsed::Incomplete => return Step::Wait,
            Parsed::Reject { .. } => return Step::Garbage,
            Parsed::Done { value, used } => (value, used),
        };
        match head.asked {
            Asked::Caller(call, expect) => self.answer(now, call, expect, reply, used, input),
            _ => self.own_answer(now, reply, used),
        }
    }

    fn own_answer<'a>(&mut self, now: Now, reply: Reply<'_>, used: usize) -> Step<'a, C> {
        let Some(head) = self.queue.pop_front() else { return Step::Garbage };
        match (head.asked, reply) {
            (Asked::Version, Reply::Version(_) | Reply::Error(_)) => {
                self.dialect = match reply {
                    Reply::Version(text) if speaks_meta(text) => Dialect::Meta,
                    _ => Dialect::Classic,
                };
                if let State::Probing { .. } = self.state {
                    log::info!("proxy: {} is up", self.name);
                    self.state = State::Up;
                }
                self.backoff_us = BACKOFF_MIN_US;
            }
            (Asked::Amends(_), Reply::Deleted | Reply::NotFound | Reply::Ok | Reply::Error(_)) => {}
            _ => return Step::Garbage,
        }
        self.go_on(now);
        Step::Own { used }
    }

    /// Sends what is to be made good, as long as there is room.
    fn go_on(&mut self, now: Now) {
        if !self.missed.is_empty() && self.queue.len() < QUEUE_MAX / 2 {
            self.amend(now);
        }
    }

    fn finish(&mut self, now: Now) {
        self.queue.pop_front();
        self.answered = true;
        self.go_on(now);
    }

    fn answer<'a>(
        &mut self,
        now: Now,
        call: C,
        expect: Expect,
        reply: Reply<'a>,
        head: usize,
        input: &'a [u8],
    ) -> Step<'a, C> {
        let raw = &input[..head];
        match (expect, reply) {
            (Expect::Values, Reply::Value { key, flags, len, cas }) => {
                if len as usize > self.limits.value_max {
                    self.swallow = u64::from(len) + 2;
                    return Step::Value { call, key, flags, cas, data: None, used: head };
                }
                match parse_data(&input[head..], len) {
                    Parsed::Incomplete => Step::Wait,
                    Parsed::Reject { .. } => Step::Garbage,
                    Parsed::Done { value, used } => {
                        let data = Some(value);
                        Step::Value { call, key, flags, cas, data, used: head + used }
                    }
                }
            }
            (Expect::Meta, Reply::MetaValue { len, .. }) => {
                if len as usize > self.limits.value_max {
                    self.swallow = u64::from(len) + 2;
                    self.finish(now);
                    let line = reject::TOO_LARGE;
                    let reply = Reply::Error(&line[..line.len() - 2]);
                    return Step::Done { call, reply, data: &[], raw: line, used: head };
                }
                match parse_data(&input[head..], len) {
                    Parsed::Incomplete => Step::Wait,
                    Parsed::Reject { .. } => Step::Garbage,
                    Parsed::Done { value: data, used } => {
                        self.finish(now);
                        let used = head + used;
                        Step::Done { call, reply, data, raw: &input[..used], used }
                    }
                }
            }
            _ if fits(expect, &reply) => {
                self.finish(now);
                Step::Done { call, reply, data: &[], raw, used: head }
            }
            _ => Step::Garbage,
        }
    }
}

/// Whether `reply` can end the answer to such a request.
fn fits(expect: Expect, reply: &Reply<'_>) -> bool {
    use Reply::*;
    match (expect, reply) {
        (_, Error(_)) => true,
        (Expect::Stored, r) => matches!(r, Stored | NotStored | Exists | NotFound),
        (Expect::Deleted, r) => matches!(r, Deleted | NotFound),
        (Expect::Number, r) => matches!(r, Number(_) | NotFound),
        (Expect::Touched, r) => matches!(r, Touched | NotFound),
        (Expect::Ok, r) => matches!(r, Ok),
        (Expect::Values, r) => matches!(r, End),
        (Expect::Meta, r) => {
            matches!(r, MetaHit { .. } | MetaMiss { .. } | MetaOther(_) | MetaDebug(_))
        }
        (Expect::Version, r) => matches!(r, Version(_)),
    }
}

/// The meta commands have their final grammar since memcached 1.6; late 1.5 has a draft of them.
fn speaks_meta(version: &[u8]) -> bool {
    let mut parts = version.split(|byte| !byte.is_ascii_digit());
    let mut number = || parts.next().and_then(crate::base::num::parse_u32);
    matches!((number(), number()), (Some(major), Some(minor)) if (major, minor) >= (1, 6))
}

#[cfg(test)]
mod tests;
