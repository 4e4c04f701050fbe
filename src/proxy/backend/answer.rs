//! Which answers can belong to which questions.
//!
//! Owns the matching of a server's bytes to the head of the queue. What does not fit ends the
//! connection: nobody gets what might be another's.

use super::super::figures;
use super::super::missed::Amends;
use super::pipe::Asked;
use super::{Backend, Dialect, Expect, News, Step, SILENT_MAX};
use crate::base::clock::Now;
use crate::protocol::classic::{parse_data, parse_reply, Reply};
use crate::protocol::Parsed;

impl<C: Copy> Backend<C> {
    /// Understands the next thing in `input` (which the caller has taken out of
    /// [`Backend::input`]).
    pub fn step<'a>(&mut self, now: Now, input: &'a [u8]) -> Step<'a, C> {
        if self.swallow > 0 && !input.is_empty() {
            let used = input.len().min(usize::try_from(self.swallow).unwrap_or(usize::MAX));
            self.swallow -= used as u64;
            return Step::Own { used };
        }
        if let Some(call) = self.next_gone(now) {
            return Step::Gone { call };
        }
        if input.is_empty() {
            return Step::Wait;
        }
        let Some(head) = self.pipe.front() else { return Step::Garbage };
        if !self.pipe.front_is_sent() {
            return Step::Garbage;
        }
        if let Asked::Who = head.asked {
            return self.who_answer(now, input);
        }
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
        let Some(head) = self.pipe.pop() else { return Step::Garbage };
        match (head.asked, reply) {
            (Asked::Version, Reply::Version(_) | Reply::Error(_)) => {
                self.dialect = match reply {
                    Reply::Version(text) if speaks_meta(text) => Dialect::Meta,
                    _ => Dialect::Classic,
                };
                if self.health.has_worked() {
                    // The first answer took a connect as well.
                    let took = now.mono_us.saturating_sub(head.since) + 1;
                    let old = if self.distance_us == 0 { took } else { self.distance_us };
                    self.distance_us = (old - old / 4 + took / 4).max(1);
                }
                self.greeted = true;
                if self.who.wanted && self.who.silent >= SILENT_MAX {
                    self.tell_who();
                }
                if self.health.greeted() {
                    self.returned_at = Some(now.mono_us);
                    log::info!("proxy: {} is up", self.name);
                    self.figures.turned(now, figures::State::Up);
                }
            }
            (
                Asked::Amends(amends),
                Reply::Deleted
                | Reply::NotFound
                | Reply::Ok
                | Reply::Error(_)
                // Of a key that no classic line can have.
                | Reply::MetaHit { .. }
                | Reply::MetaOther(_),
            ) => {
                if self.who.wanted {
                    self.news.push(match amends {
                        Amends::Delete(key) => News::Deleted(key),
                        Amends::Flush => News::Flushed,
                    });
                }
            }
            _ => return Step::Garbage,
        }
        self.go_on(now);
        Step::Own { used }
    }

    /// The answer to `stats`. Lines that are no statistics are passed over: a magent's begins with
    /// its name.
    fn who_answer<'a>(&mut self, now: Now, input: &'a [u8]) -> Step<'a, C> {
        let (reply, used) = match parse_reply(input) {
            Parsed::Incomplete => return Step::Wait,
            Parsed::Reject { used, .. } if input[used - 1] != b'\n' => return Step::Garbage,
            Parsed::Reject { used, .. } => (None, used),
            Parsed::Done { value, used } => (Some(value), used),
        };
        match reply {
            None => {}
            Some(Reply::Stat { name, value }) => self.who.identity.stat(name, value),
            Some(Reply::End | Reply::Error(_)) => {
                self.pipe.pop();
                self.who.silent = 0;
                self.tell_who();
                self.go_on(now);
            }
            Some(_) => return Step::Garbage,
        }
        Step::Own { used }
    }

    fn tell_who(&mut self) {
        let who = std::mem::take(&mut self.who.identity);
        let was_lost = std::mem::take(&mut self.who.was_lost);
        self.news.push(News::Met { who, was_lost });
    }

    /// Largest value that is taken whole from such an answer, in bytes.
    fn hold_max(&self, expect: Expect) -> usize {
        match expect {
            Expect::WholeValues | Expect::WholeMeta => self.limits.whole_max,
            _ => self.limits.hold_max,
        }
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
            (Expect::Values | Expect::WholeValues, Reply::Value { key, flags, len, cas }) => {
                if len as usize > self.hold_max(expect) {
                    self.swallow = u64::from(len) + 2;
                    self.pipe.heard = true;
                    return Step::Value { call, key, flags, cas, data: None, used: head };
                }
                match parse_data(&input[head..], len) {
                    Parsed::Incomplete => Step::Wait,
                    Parsed::Reject { .. } => Step::Garbage,
                    Parsed::Done { value, used } => {
                        self.pipe.heard = true;
                        let data = Some(value);
                        Step::Value { call, key, flags, cas, data, used: head + used }
                    }
                }
            }
            (Expect::Meta | Expect::WholeMeta, Reply::MetaValue { len, .. }) => {
                if len as usize > self.hold_max(expect) {
                    self.swallow = u64::from(len) + 2;
                    self.finish(now);
                    return Step::Large { call, used: head };
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
                if let Reply::Error(_) = reply {
                    self.figures.errors.add(1);
                }
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
        (Expect::Values | Expect::WholeValues, r) => matches!(r, End),
        (Expect::Meta | Expect::WholeMeta, r) => {
            matches!(r, MetaHit { .. } | MetaMiss { .. } | MetaOther(_) | MetaDebug(_))
        }
        (Expect::Version, r) => matches!(r, Version(_)),
    }
}

/// The meta commands have their final grammar since memcached 1.6; late 1.5 has a draft of them.
pub(super) fn speaks_meta(version: &[u8]) -> bool {
    let mut parts = version.split(|byte| !byte.is_ascii_digit());
    let mut number = || parts.next().and_then(crate::base::num::parse_u32);
    matches!((number(), number()), (Some(major), Some(minor)) if (major, minor) >= (1, 6))
}
