//! The requests that most requests are: a get of one key, and a write of a key without a backup.
//!
//! Owns them for as long as nothing goes wrong. One key has one server and one answer, so nothing
//! of what makes a [`Read`] or a [`super::write::Write`] large is needed: the answer is written
//! where the client will be sent it from, and there is nothing to be done elsewhere afterwards. A
//! get that meets a miss which a backup may cure, an error, or a lost server becomes a read that
//! stands where it would stand had it always been one.
//!
//! ```text
//!   get   hit, or a miss without a backup ---> the client's reply
//!         anything else, a large value ------> Read (`read`)
//!   write any answer ------------------------> the client's reply
//!         no answer -------------------------> CAN NOT CONNECT
//! ```

use super::super::backend::{Expect, Kind, Usable};
use super::super::fanout::{Fanout, Verdict};
use super::super::figures::Figure;
use super::places::BackendId;
use super::read::{Portion, Read};
use super::write::TOO_OLD;
use super::{Call, Client, Completion, Relay, CAN_NOT_CONNECT, HELD_MAX};
use crate::base::clock::Now;
use crate::base::replies::Ticket;
use crate::protocol::classic::{encode, Reply};
use crate::protocol::{GetVerb, Request, StoreHead, StoreVerb};

/// What stands before the key in a value's line.
const VALUE: &[u8] = b"VALUE ";
/// Room for what stands behind the key: numbers, ends of lines and `END`.
const REST: usize = 64;
/// Values up to so many bytes find room in the reply without its being moved.
const EXPECTED_MAX: usize = 4096;

/// How far a get has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// `reply` is [`VALUE`] and the key.
    Waiting,
    /// `reply` is the value.
    Hit,
    /// The value is to be fetched by other means: it is too large, or too much is held already.
    Large,
    /// It is no get.
    Write,
}

/// One request in flight.
#[derive(Debug)]
pub(super) struct Single {
    client: Client,
    ticket: Option<Ticket>,
    cost: usize,
    state: State,
    verb: GetVerb,
    reply: Vec<u8>,
    /// Of the value, in bytes.
    largest: usize,
}

impl Single {
    fn key(&self) -> &[u8] {
        &self.reply[VALUE.len()..]
    }
}

/// How a write is asked, and its key, where it is one that a place without a backup just answers.
fn kind<'a>(request: &Request<'a>) -> Option<(Kind, &'a [u8])> {
    Some(match *request {
        Request::Store(StoreHead { verb: StoreVerb::Set | StoreVerb::Replace, key, .. }) => {
            (Expect::Stored.again(), key)
        }
        Request::Store(StoreHead { key, .. }) => (Expect::Stored.once(), key),
        Request::Delete { key, .. } => (Expect::Deleted.again(), key),
        Request::Arith { key, .. } => (Expect::Number.once(), key),
        Request::Touch { key, .. } => (Expect::Touched.again(), key),
        _ => return None,
    })
}

/// The request as a server gets it: with an answer, by which those behind it are counted.
fn encode_answered(out: &mut Vec<u8>, request: &Request<'_>, data: &[u8]) {
    let noreply = false;
    match *request {
        Request::Store(head) => encode::store(out, &StoreHead { noreply, ..head }, data),
        Request::Delete { key, .. } => encode::request(out, &Request::Delete { key, noreply }),
        Request::Arith { verb, key, delta, .. } => {
            encode::request(out, &Request::Arith { verb, key, delta, noreply });
        }
        Request::Touch { key, exptime, .. } => {
            encode::request(out, &Request::Touch { key, exptime, noreply });
        }
        _ => {}
    }
}

impl Relay {
    /// Submits a get or gets of one key. `expected` is how long its value may be. Whether it is
    /// fetched later, as in [`Relay::submit_get`].
    #[allow(clippy::too_many_arguments)]
    pub fn submit_get_one(
        &mut self,
        now: Now,
        client: Client,
        ticket: Ticket,
        cost: usize,
        verb: GetVerb,
        key: &[u8],
        expected: usize,
    ) -> bool {
        let plain = matches!(verb, GetVerb::Get | GetVerb::Gets) && !self.is_big(key);
        let route = self.route(key).filter(|&route| plain && !self.must_pass_by(route, key));
        if let Some(route) = route {
            let reader = self.reader(route.server, key);
            let entry = self.singles.vacant_entry();
            let call = Call::Single { single: entry.key() as u32 };
            let write = |out: &mut Vec<u8>| encode::get(out, verb, 0, [key]);
            if self.backends[reader].ask(now, call, Expect::Values, write) == Usable::Yes {
                let room = VALUE.len() + key.len() + REST + expected.min(EXPECTED_MAX);
                let mut reply = Vec::with_capacity(room);
                reply.extend_from_slice(VALUE);
                reply.extend_from_slice(key);
                let (state, ticket, largest) = (State::Waiting, Some(ticket), 0);
                entry.insert(Single { client, ticket, cost, state, verb, reply, largest });
                return false;
            }
        }
        let mut fan = Fanout::new();
        fan.push(key);
        self.submit_get(now, client, ticket, cost, verb, 0, fan, Portion::Whole)
    }

    /// Submits a write if its place is one server without a backup, which leaves nothing to be
    /// done but to wait for the answer. False: it was not submitted.
    pub(super) fn write_alone(
        &mut self,
        now: Now,
        client: Client,
        ticket: Option<Ticket>,
        cost: usize,
        request: &Request<'_>,
        data: &[u8],
    ) -> bool {
        let Some((kind, key)) = kind(request) else { return false };
        let Some(route) = self.route(key) else { return false };
        let [server] = self.places[route.server].members[..] else { return false };
        if route.backup.is_some() {
            return false;
        }
        let entry = self.singles.vacant_entry();
        let call = Call::Single { single: entry.key() as u32 };
        let write = |out: &mut Vec<u8>| encode_answered(out, request, data);
        if self.backends[server].ask(now, call, kind, write) != Usable::Yes {
            return false;
        }
        let (state, verb, reply, largest) = (State::Write, GetVerb::Get, Vec::new(), 0);
        entry.insert(Single { client, ticket, cost, state, verb, reply, largest });
        self.figure_of(request).add(1);
        true
    }

    fn figure_of(&self, request: &Request<'_>) -> &Figure {
        match request {
            Request::Store(_) => &self.count.cmd_set,
            Request::Delete { .. } => &self.count.cmd_delete,
            Request::Arith { .. } => &self.count.cmd_arith,
            _ => &self.count.cmd_touch,
        }
    }

    /// The value. `false`: it is not what was asked for.
    pub(super) fn single_value(
        &mut self,
        single: u32,
        key: &[u8],
        flags: u32,
        cas: Option<u64>,
        data: Option<&[u8]>,
    ) -> bool {
        let Relay { singles, held, bulk, .. } = self;
        let Some(single) = singles.get_mut(single as usize) else { return false };
        if cas.is_some() != matches!(single.verb, GetVerb::Gets) {
            return false;
        }
        match (single.state, data) {
            (State::Waiting, _) if single.key() != key => return false,
            (State::Waiting, Some(data)) if *held + data.len() + REST <= HELD_MAX => {
                single.reply.clear();
                encode::value(&mut single.reply, key, flags, data, cas);
                *held += single.reply.len();
                (single.state, single.largest) = (State::Hit, data.len());
            }
            (State::Waiting, data) => {
                if data.is_none() {
                    bulk.big_keys.note(key, true);
                }
                single.state = State::Large;
            }
            // The answer began anew on another connection, and what was heard counts.
            (State::Hit, _) => {
                let start = single.reply.get(VALUE.len()..).unwrap_or_default();
                return start.strip_prefix(key).is_some_and(|rest| rest.first() == Some(&b' '));
            }
            (State::Large, _) => {}
            (State::Write, _) => return false,
        }
        true
    }

    /// The end of the answer.
    pub(super) fn single_done(
        &mut self,
        now: Now,
        id: u32,
        by: BackendId,
        reply: Reply<'_>,
        raw: &[u8],
    ) {
        let Some(single) = self.singles.get(id as usize) else { return };
        match (single.state, reply) {
            // What is sent here is never malformed.
            (State::Write, Reply::Error(b"ERROR")) => self.end_single(id, TOO_OLD),
            (State::Write, _) => self.end_single(id, raw),
            (State::Large, _) => self.single_large(id, by),
            (State::Hit, _) => self.end_single(id, encode::END),
            (State::Waiting, Reply::End)
                if self.route(single.key()).is_none_or(|route| route.backup.is_none()) =>
            {
                self.end_single(id, encode::END);
            }
            (State::Waiting, _) => {
                if let Some(read) = self.single_as_read(id, by) {
                    self.read_done(now, read as u32, 0, reply, raw);
                }
            }
        }
    }

    /// There will be no answer, or not all of it.
    pub(super) fn single_failed(&mut self, now: Now, id: u32, by: BackendId) {
        let Some(single) = self.singles.get(id as usize) else { return };
        match single.state {
            State::Write => {
                self.count.errors.add(1);
                self.end_single(id, CAN_NOT_CONNECT);
            }
            State::Large => self.single_large(id, by),
            State::Hit => self.end_single(id, encode::END),
            State::Waiting => {
                if let Some(read) = self.single_as_read(id, by) {
                    self.read_failed(now, read as u32, 0);
                }
            }
        }
    }

    /// The request ends with `last`, behind its value if it has one.
    fn end_single(&mut self, id: u32, last: &[u8]) {
        let Some(single) = self.singles.try_remove(id as usize) else { return };
        let Single { client, ticket, cost, state, mut reply, largest, .. } = single;
        let held = if state == State::Hit { reply.len() } else { 0 };
        self.saw_value(largest);
        match state {
            State::Hit => {
                self.count.cmd_get.add(1);
                self.count.get_hits.add(1);
            }
            State::Write => reply.clear(),
            State::Waiting | State::Large => {
                self.count.cmd_get.add(1);
                self.count.get_misses.add(1);
                reply.clear();
            }
        }
        reply.extend_from_slice(last);
        self.completions.push(Completion {
            client,
            ticket,
            reply,
            cost,
            largest,
            verdict: Verdict::Reached,
            held,
            pieces: Vec::new(),
            more: false,
        });
    }

    /// The same get as a read whose only chunk is open.
    fn single_as_read(&mut self, id: u32, by: BackendId) -> Option<usize> {
        let single = self.singles.try_remove(id as usize)?;
        let mut fan = Fanout::new();
        fan.push(single.key());
        let Single { client, ticket, cost, verb, .. } = single;
        let read = Read::asked(client, ticket?, cost, verb, fan, by);
        Some(self.reads.insert(read))
    }

    fn single_large(&mut self, id: u32, by: BackendId) {
        if let Some(read) = self.single_as_read(id, by) {
            self.read_is_large(read);
        }
    }
}
