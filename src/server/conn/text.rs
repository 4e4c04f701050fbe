//! Classic and meta lines: one command of a text connection.
//!
//! Owns the way from a command line to the executor, and the portions of a long get. Never reads
//! more than it is given, and never keeps a parsed line: a command whose data block is not here yet
//! is parsed again when it is.

use super::data::{self, Data};
use super::{log_line, log_reply, Conn, State, OUT_HIGH};
use crate::base::clock::Now;
use crate::protocol::classic::{self, encode, Keys, MoreKeys};
use crate::protocol::reject::Reject;
use crate::protocol::{GetVerb, Parsed, Request, StoreHead};
use crate::server::execute::{After, Executor};
use crate::server::watch::CloseReason;

impl Conn {
    /// Executes the command at the input's head. False when it is not complete.
    pub(super) fn text_command(&mut self, exec: &mut Executor, now: Now) -> bool {
        if !self.login.authenticated && exec.shared.auth.is_some() {
            return self.text_login(exec, now);
        }
        let (request, used) = match classic::parse(self.input.data()) {
            Parsed::Incomplete => return false,
            Parsed::Reject { reject, used } => {
                log_line(self.id, self.input.data(), used);
                self.refuse(reject, used);
                return true;
            }
            Parsed::Done { value, used } => (value, used),
        };
        match request {
            Request::Store(head) => {
                let outcome = take_data(&head, self.input.data(), used, exec, now);
                match outcome {
                    Data::Here { value, used: data } => {
                        log_line(self.id, self.input.data(), used);
                        let out = self.replies.out();
                        let mark = out.len();
                        exec.store_item(&head, value, now, out);
                        log_reply(self.id, &out[mark..]);
                        self.input.consume(used + data);
                    }
                    Data::Missing { reserved } => {
                        let need = used + head.len as usize + 2;
                        self.state = State::Data { need, reserved };
                    }
                    Data::Refused { reject, used: data } => {
                        log_line(self.id, self.input.data(), used);
                        self.refuse(reject, used + data);
                    }
                }
            }
            Request::Get { verb, exptime, keys, more } => {
                log_line(self.id, self.input.data(), used);
                let out = self.replies.out();
                let mark = out.len();
                let data = self.input.data();
                let answered = answer_keys(exec, out, verb, exptime, keys, data, now);
                if matches!(answered, Answered::Refused(_)) {
                    // memcached answers a get with a bad key by the error alone.
                    out.truncate(mark);
                }
                self.end_of_keys(answered, verb, exptime, more, used);
            }
            other => {
                log_line(self.id, self.input.data(), used);
                let out = self.replies.out();
                let mark = out.len();
                let after = exec.execute(&other, now, out);
                let shutdown = matches!(other, Request::Shutdown { .. });
                log_reply(self.id, &out[mark..]);
                self.input.consume(used);
                match after {
                    After::Next => {}
                    After::NextTurn => self.state = State::NextTurn,
                    After::Close if shutdown => self.finish(CloseReason::Shutdown),
                    After::Close => self.finish(CloseReason::Normal),
                    After::Stream(producer) => self.state = State::Stream(producer),
                }
            }
        }
        true
    }

    /// Answers the next portion of a get line. False when its keys are not complete.
    pub(super) fn more_keys(
        &mut self,
        exec: &mut Executor,
        verb: GetVerb,
        exptime: i64,
        now: Now,
    ) -> bool {
        match classic::parse_more_keys(self.input.data()) {
            Parsed::Incomplete => return false,
            Parsed::Reject { reject, used } => self.refuse(reject, used),
            Parsed::Done { value: MoreKeys { keys, more }, used } => {
                let (data, out) = (self.input.data(), self.replies.out());
                let answered = answer_keys(exec, out, verb, exptime, keys, data, now);
                self.end_of_keys(answered, verb, exptime, more, used);
            }
        }
        true
    }

    /// Ends a portion of a get line: all keys are answered, or the output is full, or a key is bad.
    fn end_of_keys(
        &mut self,
        answered: Answered,
        verb: GetVerb,
        exptime: i64,
        more: bool,
        used: usize,
    ) {
        match answered {
            Answered::All if more => {
                self.state = State::Keys { verb, exptime };
                self.input.consume(used);
            }
            Answered::All => {
                log_reply(self.id, encode::END);
                self.replies.out().extend_from_slice(encode::END);
                self.state = State::Command;
                self.input.consume(used);
            }
            Answered::Paused { at } => {
                // The keys that are left and the line's end stay, as a portion of their own.
                self.state = State::Keys { verb, exptime };
                self.input.consume(at);
            }
            Answered::Refused(reject) => {
                // Where the line's end is known, the next command is too.
                let close = reject.close && more;
                self.refuse(Reject { close, ..reject }, used);
            }
        }
    }
}

/// How far a portion of a get line was answered.
enum Answered {
    All,
    /// The output is full; the keys from this offset of the input on are left.
    Paused {
        at: usize,
    },
    Refused(Reject),
}

/// Answers the keys of a get, as long as there is room for replies.
fn answer_keys(
    exec: &mut Executor,
    out: &mut Vec<u8>,
    verb: GetVerb,
    exptime: i64,
    mut keys: Keys<'_>,
    input: &[u8],
    now: Now,
) -> Answered {
    // What the output holds already is under the bound: the caller has just looked.
    let full = out.len() + OUT_HIGH;
    loop {
        if out.len() >= full && !keys.as_bytes().is_empty() {
            let at = keys.as_bytes().as_ptr() as usize - input.as_ptr() as usize;
            return Answered::Paused { at };
        }
        match keys.next() {
            None => return Answered::All,
            Some(Ok(key)) => exec.get(verb, exptime, key, now, out),
            Some(Err(reject)) => return Answered::Refused(reject),
        }
    }
}

/// Takes the data block behind `head`, a line of `line` bytes, from `input`.
fn take_data<'a>(
    head: &StoreHead<'_>,
    input: &'a [u8],
    line: usize,
    exec: &mut Executor,
    now: Now,
) -> Data<'a> {
    if !exec.fits(head) {
        return Data::Refused { reject: exec.too_large(head, now), used: 0 };
    }
    match classic::parse_data(&input[line..], head.len) {
        Parsed::Done { value, used } => Data::Here { value, used },
        Parsed::Reject { reject, used } => {
            Data::Refused { reject: reject.quiet_if(head.noreply), used }
        }
        Parsed::Incomplete => {
            match data::reserve(input.len(), line + head.len as usize + 2, exec, now) {
                Some(reserved) => Data::Missing { reserved },
                None => Data::Refused { reject: exec.no_memory(head, now), used: 0 },
            }
        }
    }
}
