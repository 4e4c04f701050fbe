//! One pipelined connection to a server: requests out, answers matched to them in order.
//!
//! Owns the bytes in both directions, the queue of who waits for what, and whether the server is
//! usable. Never touches a socket and never decides what an answer means: the caller connects when
//! [`Backend::wants_connect`] says so, moves the bytes, and hands each [`Step`] on. Whoever waits
//! gets exactly one end: his answer, or his place in what [`Backend::failed`] returns.
//! What was asked stays in `pipe` until it is answered, so that most of it can be asked again when
//! a connection is lost; `health` says whether, and when the server is tried again; `answer` knows
//! which bytes can answer what.

mod answer;
mod health;
mod pipe;

use std::sync::Arc;

use super::cold::Identity;
use super::config::Config;
use super::figures::{self, Server};
use super::missed::{Amends, Missed};
use super::relay::{HOLD_MAX, HOLD_WHOLE_MAX};
use crate::base::buf::Buf;
use crate::base::clock::Now;
use crate::protocol::classic::{encode, Reply};
use crate::protocol::Request;
use health::{End, Health, State};
use pipe::{Asked, Pipe};

/// Bytes of requests that may wait for one server's answers: what comes when a server has stopped
/// answering under full load is refused at once instead of waiting for a timeout.
pub const OUT_MAX: usize = 64 << 20;
/// Missed writes made good at a time, so that they cannot fill the queue.
const AMENDS_AT_ONCE: usize = 4096;

/// Which protocol a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// It has not said yet on this connection.
    Unknown,
    /// Older than memcached 1.6.
    Classic,
    /// The meta commands too.
    Meta,
}

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
    /// As `Values`, of somebody who needs them whole.
    WholeValues,
    /// As `Meta`, of somebody who needs the value whole.
    WholeMeta,
    /// Of version.
    Version,
}

/// What is asked: the kind of its answer, and whether it may be asked twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    expect: Expect,
    again: bool,
}

impl Kind {
    /// Whether it may be asked twice.
    pub fn may_repeat(self) -> bool {
        self.again
    }
}

impl Expect {
    /// Of a request that does the same when it is done twice.
    pub fn again(self) -> Kind {
        Kind { expect: self, again: true }
    }

    /// Of a request that may not be done twice.
    pub fn once(self) -> Kind {
        Kind { expect: self, again: false }
    }
}

impl From<Expect> for Kind {
    /// As the commands of that answer are: `set` is one of many that are answered by STORED, so
    /// that one has to be said.
    fn from(expect: Expect) -> Kind {
        match expect {
            Expect::Deleted
            | Expect::Touched
            | Expect::Ok
            | Expect::Values
            | Expect::WholeValues
            | Expect::WholeMeta
            | Expect::Version => expect.again(),
            Expect::Stored | Expect::Number | Expect::Meta => expect.once(),
        }
    }
}

/// Limits, from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For a connect, in microseconds.
    pub connect_us: u64,
    /// For an answer, in microseconds.
    pub request_us: u64,
    /// For an unused connection, in microseconds. 0: for ever.
    pub idle_us: u64,
    /// Longest wait between two probes, in microseconds.
    pub retry_us: u64,
    /// Failures in a row after which nothing is asked any more, at least 1.
    pub failure_limit: u32,
    /// Requests that may wait for answers.
    pub in_flight: usize,
    /// Largest value that is taken from a server as one, in bytes; larger ones have lanes.
    pub hold_max: usize,
    /// The same where it is needed whole.
    pub whole_max: usize,
}

impl From<&Config> for Limits {
    fn from(config: &Config) -> Limits {
        Limits {
            connect_us: config.connect_timeout_ms * 1000,
            request_us: config.request_timeout_ms * 1000,
            idle_us: config.server_idle_secs * 1_000_000,
            retry_us: config.retry_ms * 1000,
            failure_limit: config.failure_limit.max(1),
            in_flight: config.in_flight.max(1),
            hold_max: HOLD_MAX.min(config.value_max),
            whole_max: HOLD_WHOLE_MAX.min(config.value_max),
        }
    }
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
    /// Nobody has asked anything for long.
    Idle,
}

impl std::fmt::Display for Why {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Why::Refused(text) | Why::Lost(text) => f.write_str(text),
            Why::ConnectTimeout => f.write_str("no connection in time"),
            Why::RequestTimeout => f.write_str("no answer in time"),
            Why::Garbage => f.write_str("the answer makes no sense"),
            Why::Idle => f.write_str("it was not used"),
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
    /// The answer to a request is a value too large to be held; its bytes are dropped.
    Large {
        /// Who asked.
        call: C,
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
    /// The server was lost after this was sent, and it may not be sent twice. Nothing that was
    /// asked later has been sent.
    Gone {
        /// Who asked.
        call: C,
    },
    /// This is no answer: call [`Backend::failed`].
    Garbage,
}

/// One server's connection.
#[derive(Debug)]
pub struct Backend<C> {
    name: String,
    limits: Limits,
    health: Health,
    pipe: Pipe<C>,
    /// What was received and not yet understood; the caller fills it.
    pub input: Buf,
    /// Bytes of a too large value that are still to be dropped.
    swallow: u64,
    missed: Missed,
    dialect: Dialect,
    /// [`Backend::resume`] is due.
    paused: bool,
    restarted: Option<C>,
    /// Smoothed time from `version` to its answer, in microseconds; 0: not known.
    distance_us: u64,
    /// When a probe last found it back.
    returned_at: Option<u64>,
    /// It has said who it is on this connection.
    greeted: bool,
    who: Who,
    news: Vec<News>,
    figures: Arc<Server>,
}

/// What is being found out about the process that answers.
#[derive(Debug, Default)]
struct Who {
    /// Somebody wants to know it.
    wanted: bool,
    /// Connections in a row that ended at the question.
    silent: u8,
    /// What the lines so far say.
    identity: Identity,
    /// The connection before this one was lost.
    was_lost: bool,
}

/// Connections that may end at the question who it is, before it is not asked any more: there are
/// servers that close at a command they do not know.
const SILENT_MAX: u8 = 2;

/// What a server's own answers tell about what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A connection has begun. `was_lost`: the one before it had not been closed by us.
    Met {
        /// Who answers, as far as it says so.
        who: Identity,
        /// See above.
        was_lost: bool,
    },
    /// This key was deleted there, because a write of it had been missed.
    Deleted(Box<[u8]>),
    /// Everything was flushed there, because too much had been missed.
    Flushed,
}

impl<C: Copy> Backend<C> {
    /// A server that nobody has tried yet. `name` is for the log.
    pub fn new(name: String, limits: Limits, figures: Arc<Server>) -> Backend<C> {
        Backend {
            name,
            limits,
            health: Health::new(),
            pipe: Pipe::new(),
            input: Buf::new(),
            swallow: 0,
            missed: Missed::default(),
            dialect: Dialect::Unknown,
            paused: false,
            restarted: None,
            distance_us: 0,
            returned_at: None,
            greeted: false,
            who: Who::default(),
            news: Vec::new(),
            figures,
        }
    }

    /// `host:port`, as in the log.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What is counted about it.
    pub fn figures(&self) -> &Server {
        &self.figures
    }

    /// Whether the server is known to speak the meta protocol of memcached 1.6.
    pub fn speaks_meta(&self) -> bool {
        self.dialect == Dialect::Meta
    }

    /// What the server said it speaks.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// It has a counterpart: [`Backend::take_news`] will be asked.
    pub fn watch(&mut self, wanted: bool) {
        self.who.wanted = wanted;
    }

    /// Whether it has said on this connection what it can do.
    pub fn is_greeted(&self) -> bool {
        self.greeted
    }

    /// Connects, if nobody else has a reason to.
    pub fn wake(&mut self, now: Now) {
        if self.health.wanted(now) {
            self.greet(now);
        }
    }

    /// Requests without an answer.
    #[cfg(test)]
    pub fn waiting(&self) -> usize {
        self.pipe.len()
    }

    /// What it has told since the last call.
    pub fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// Whether [`Backend::ask`] takes a request now.
    pub fn usable(&self) -> Usable {
        if self.health.is_ejected() {
            Usable::Down
        } else if self.pipe.len() >= self.limits.in_flight || self.pipe.bytes() >= OUT_MAX {
            Usable::Busy
        } else {
            Usable::Yes
        }
    }

    /// Queues one request, which `write` appends, for `call`. Refuses where [`Backend::usable`] is
    /// not [`Usable::Yes`]; `write` is not called then.
    pub fn ask(
        &mut self,
        now: Now,
        call: C,
        kind: impl Into<Kind>,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Usable {
        let usable = self.usable();
        if usable != Usable::Yes {
            return usable;
        }
        if self.health.wanted(now) {
            self.greet(now);
        }
        // Before anything else is asked: a key that is to be deleted must not be read first.
        self.go_on(now);
        let Kind { expect, again } = kind.into();
        self.pipe.push(now, Asked::Caller(call, expect), again, write);
        self.figures.requests.add(1);
        self.figures.in_flight.set(self.pipe.len() as u64);
        Usable::Yes
    }

    /// Asks how near the server is, and connects for that if it must; not where the answer to an
    /// earlier question is still due.
    pub fn measure(&mut self, now: Now) {
        if self.usable() != Usable::Yes || self.pipe.waits_for_version() {
            return;
        }
        if self.health.wanted(now) {
            self.greet(now);
        } else {
            self.pipe.push(now, Asked::Version, true, |out| {
                encode::request(out, &Request::Version);
            });
        }
    }

    /// When it was last found to be back after it had been down, on the monotonic clock.
    pub fn returned_at(&self) -> Option<u64> {
        self.returned_at
    }

    /// How long its answers take, in microseconds: the largest number where that is not known.
    pub fn distance_us(&self) -> u64 {
        self.distance_us.checked_sub(1).unwrap_or(u64::MAX)
    }

    /// What goes first on every new connection: who are you, and what you have missed.
    fn greet(&mut self, now: Now) {
        self.dialect = Dialect::Unknown;
        introduce(&mut self.pipe, &self.who, now);
        let lost = self.missed.take_lost();
        if lost > 0 {
            log::warn!("proxy: {}: {lost} missed writes are too many: it is flushed", self.name);
        }
        amend(&mut self.pipe, &mut self.missed, now);
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
        self.health.wants_connect(now)
    }

    /// The caller has begun to connect.
    pub fn connecting(&mut self, now: Now) {
        self.resume(now);
        self.figures.connects.add(1);
        if self.health.connecting(now) {
            self.figures.probes.add(1);
            self.figures.state.set(figures::State::Probing as u64);
            self.greet(now);
        }
    }

    /// The connection stands.
    pub fn connected(&mut self) {
        self.health.connected();
    }

    /// What is to be sent now.
    pub fn sendable(&self) -> &[u8] {
        if self.health.may_send() {
            self.pipe.sendable()
        } else {
            &[]
        }
    }

    /// The first `n` sendable bytes have been sent.
    pub fn sent(&mut self, now: Now, n: usize) {
        self.pipe.sent(now, n);
        self.figures.bytes_sent.add(n as u64);
    }

    /// `n` bytes were received into [`Backend::input`].
    pub fn received(&mut self, now: Now, n: usize) {
        self.input.filled(n);
        self.pipe.moved(now, n);
        self.figures.bytes_received.add(n as u64);
    }

    /// When [`Backend::check`] is due, on the monotonic clock in microseconds.
    pub fn deadline(&self) -> Option<u64> {
        let Limits { connect_us, request_us, idle_us, .. } = self.limits;
        let answer = self.pipe.deadline(request_us);
        match self.health.state {
            State::Idle => None,
            State::Connecting { since, .. } | State::Probing { since, connected: false } => {
                Some(answer.unwrap_or(u64::MAX).min(since + connect_us))
            }
            State::Down { until } => Some(until),
            State::Up if self.pipe.len() == 0 && idle_us > 0 => Some(self.pipe.moved_at + idle_us),
            State::Up | State::Probing { .. } => answer,
        }
    }

    /// Whether nothing that was sent is without an answer.
    pub fn is_quiet(&self) -> bool {
        self.pipe.len() == 0
    }

    /// Whether a deadline has passed. The caller then calls [`Backend::failed`].
    pub fn check(&self, now: Now) -> Option<Why> {
        if self.deadline().is_none_or(|at| now.mono_us < at) {
            return None;
        }
        match self.health.state {
            State::Connecting { .. } | State::Probing { connected: false, .. } => {
                Some(Why::ConnectTimeout)
            }
            State::Up if self.pipe.len() == 0 => Some(Why::Idle),
            State::Up | State::Probing { .. } => Some(Why::RequestTimeout),
            State::Idle | State::Down { .. } => None,
        }
    }

    /// The connection is over. Returns whose requests it took along, in order, and whether any of
    /// them was sent: none of them will get an answer. When they have been seen to,
    /// [`Backend::resume`] goes on with those that can be asked again;
    /// [`Backend::take_restarted`] is asked before.
    pub fn failed(&mut self, now: Now, why: &Why) -> Vec<(C, bool)> {
        self.greeted = false;
        self.who.was_lost |= *why != Why::Idle;
        if let Some(Asked::Who) = self.pipe.front().map(|head| &head.asked) {
            self.who.silent = self.who.silent.saturating_add(1);
        }
        self.who.identity = Identity::default();
        self.input = Buf::new();
        self.swallow = 0;
        let waiting = self.pipe.has_callers();
        let end = self.health.ended(now, &self.limits, why, waiting);
        self.count_end(now, end, why);
        if end == End::Again {
            // In their places: what is missed from now on goes before all of them.
            amend(&mut self.pipe, &mut self.missed, now);
            if let Some((back, restarted)) = self.pipe.rewind() {
                self.figures.retries.add(1);
                (self.paused, self.restarted) = (true, restarted);
                return back.into_iter().map(|call| (call, true)).collect();
            }
            self.health.state = State::Idle;
        }
        self.paused = false;
        self.abandon()
    }

    fn count_end(&mut self, now: Now, end: End, why: &Why) {
        let figures = &self.figures;
        if end != End::Quiet && end != End::StillDown {
            figures.failures.add(1);
            let late = matches!(why, Why::ConnectTimeout | Why::RequestTimeout);
            figures.timeouts.add(u64::from(late));
        }
        match end {
            End::Quiet => log::debug!("proxy: {}: {why}", self.name),
            End::Again => log::debug!("proxy: {}: {why}, asking again", self.name),
            End::Failed => log::info!("proxy: {}: {why}", self.name),
            End::Ejected => {
                log::info!("proxy: {} is down: {why}", self.name);
                figures.ejections.add(1);
                figures.turned(now, figures::State::Down);
            }
            // Since the first of these attempts, that is.
            End::StillDown => figures.state.set(figures::State::Down as u64),
        }
    }

    fn abandon(&mut self) -> Vec<(C, bool)> {
        let mut orphans = Vec::new();
        for waiting in self.pipe.abandon() {
            match waiting.asked {
                Asked::Caller(call, _) | Asked::Gone(call) => orphans.push((call, waiting.sent)),
                Asked::Amends(amends) => self.missed.again(amends),
                Asked::Version | Asked::Who => {}
            }
        }
        self.figures.in_flight.set(0);
        orphans
    }

    /// Whose answer begins anew, of which a part had been given out before the connection was lost.
    pub fn take_restarted(&mut self) -> Option<C> {
        self.restarted.take()
    }

    /// Goes on after those that [`Backend::failed`] returned have been seen to.
    pub fn resume(&mut self, now: Now) {
        if !std::mem::take(&mut self.paused) {
            return;
        }
        let (missed, who) = (&mut self.missed, &self.who);
        let greet = matches!(self.health.state, State::Connecting { .. });
        if greet {
            self.dialect = Dialect::Unknown;
        }
        self.pipe.insert(now, |pipe| {
            if greet {
                introduce(pipe, who, now);
            }
            amend(pipe, missed, now);
        });
    }

    /// The head, if it will not be answered.
    fn next_gone(&mut self, now: Now) -> Option<C> {
        if let Some(Asked::Gone(call)) = self.pipe.front().map(|head| &head.asked) {
            let call = *call;
            if !self.paused {
                amend(&mut self.pipe, &mut self.missed, now);
            }
            self.paused = true;
            self.pipe.pop();
            return Some(call);
        }
        self.resume(now);
        None
    }

    /// Sends what is to be made good, as long as there is room.
    fn go_on(&mut self, now: Now) {
        if !self.missed.is_empty() && self.pipe.len() < self.limits.in_flight / 2 {
            amend(&mut self.pipe, &mut self.missed, now);
        }
    }

    fn finish(&mut self, now: Now) {
        if let Some(head) = self.pipe.pop() {
            self.figures.latency.took(now.mono_us.saturating_sub(head.since));
            self.figures.in_flight.set(self.pipe.len() as u64);
        }
        self.health.answered();
        self.go_on(now);
    }
}

/// Asks who it is.
fn introduce<C: Copy>(pipe: &mut Pipe<C>, who: &Who, now: Now) {
    pipe.push(now, Asked::Version, true, |out| encode::request(out, &Request::Version));
    if who.wanted && who.silent < SILENT_MAX {
        pipe.push(now, Asked::Who, true, |out| encode::request(out, &Request::Stats { args: b"" }));
    }
}

/// Asks for what was missed, a bounded part of it.
fn amend<C: Copy>(pipe: &mut Pipe<C>, missed: &mut Missed, now: Now) {
    for amends in missed.take(AMENDS_AT_ONCE) {
        let again = amends.clone();
        pipe.push(now, Asked::Amends(again), true, |out| match &amends {
            Amends::Delete(key) => encode::delete_any(out, key),
            Amends::Flush => {
                encode::request(out, &Request::FlushAll { delay: 0, noreply: false });
            }
        });
    }
}

#[cfg(test)]
mod tests;
