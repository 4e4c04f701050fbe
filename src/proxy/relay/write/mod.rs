//! Commands of one key that are not plain reads: storage, delete, incr, decr, touch, and mg.
//!
//! Owns the writes in flight. What is done where, and what the client gets:
//!
//! ```text
//!   server says                      the backup then gets                 the client gets
//!   STORED to set add replace cas    set, same flags, exptime and value   STORED
//!   STORED to append prepend         the same command                     STORED
//!   a number, TOUCHED                the same command                     the server's answer
//!   DELETED                          delete                               DELETED
//!   NOT_FOUND to delete              delete                               the backup's answer
//!   it is absent, to append prepend  get; what it has is put back on the  the second answer
//!     replace incr decr touch mg     server, which is then asked again
//!   NOT_STORED to add, EXISTS, ...   nothing                              the server's answer
//!   SERVER_ERROR to set              delete (memcached drops the old      the server's answer
//!                                    value when it cannot take the new)
//!   nothing (down, or lost on        the command itself, once             the backup's answer
//!     the way)
//! ```
//!
//! The client's answer waits for the backup (at most its request timeout): an answered write is on
//! both. Only what does the same when it is done twice is ever sent to one backend twice (after a
//! lost connection): append and incr are applied at most once.

use super::super::backend::{Expect, Kind, Usable};
use super::super::fanout::{Piece, Verdict};
use super::places::{BackendId, PlaceId, Route};
use super::{Call, Client, Completion, Relay, BACKUP_UNIQUE, CAN_NOT_CONNECT, OUT_OF_CONNECTION};
use crate::base::clock::Now;
use crate::base::replies::Ticket;
use crate::protocol::classic::{encode, Reply};
use crate::protocol::{ArithVerb, Request, StoreHead, StoreVerb};

/// Fills that a command waits for: the server may lose what was put back before it gets the
/// command. A miss is then final.
const ROUNDS_MAX: u8 = 3;

/// What kind of command it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verb {
    Store(StoreVerb),
    Delete,
    Incr,
    Decr,
    Touch,
    MetaGet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Asked first.
    Server,
    /// The server has done it, and the backup is doing it too.
    Mirror,
    /// The server did not have what is to be deleted.
    DeleteBackup,
    /// The server cannot be reached.
    Failover,
    /// The server does not have it; the backup's copy is being put back.
    Fill,
}

#[derive(Debug)]
pub(super) struct Write {
    client: Client,
    ticket: Option<Ticket>,
    cost: usize,
    verb: Verb,
    route: Route,
    stage: Stage,
    /// Answer nothing to a miss (mg with `q`).
    quiet: bool,
    /// It was counted in the guard.
    guarded: bool,
    /// How often the server was asked again after a fill.
    rounds: u8,
    key: Box<[u8]>,
    flags: u32,
    exptime: i64,
    /// The delta of incr and decr.
    delta: u64,
    /// The data block, or the flags of mg.
    data: Box<[u8]>,
    /// The server's answer, once known.
    answer: Vec<u8>,
}

/// What an answer of the server means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It was done: the backup must do it too.
    Done,
    /// There was nothing to delete: the backup must still not have it.
    Gone,
    /// There is nothing to work on: the backup may have it.
    Absent,
    /// It changed nothing, or was only read.
    Final,
    /// The old value was dropped and the new one refused.
    Dropped,
}

fn outcome(verb: Verb, reply: &Reply<'_>) -> Outcome {
    use StoreVerb::{Append, Prepend, Replace, Set};
    match (verb, reply) {
        (Verb::Store(Set), Reply::Error(line)) if line.starts_with(b"SERVER_ERROR") => {
            Outcome::Dropped
        }
        (_, Reply::Error(_)) => Outcome::Final,
        (Verb::Store(_), Reply::Stored) => Outcome::Done,
        (Verb::Store(Append | Prepend | Replace), Reply::NotStored) => Outcome::Absent,
        (Verb::Delete, Reply::Deleted) => Outcome::Done,
        (Verb::Delete, Reply::NotFound) => Outcome::Gone,
        (Verb::Incr | Verb::Decr, Reply::Number(_)) => Outcome::Done,
        (Verb::Touch, Reply::Touched) => Outcome::Done,
        (Verb::Incr | Verb::Decr | Verb::Touch, Reply::NotFound) => Outcome::Absent,
        (Verb::MetaGet, Reply::MetaMiss { .. }) => Outcome::Absent,
        _ => Outcome::Final,
    }
}

impl Verb {
    fn kind(self) -> Kind {
        match self {
            Verb::Store(StoreVerb::Set | StoreVerb::Replace) => Expect::Stored.again(),
            Verb::Store(_) => Expect::Stored.once(),
            Verb::Delete => Expect::Deleted.again(),
            Verb::Incr | Verb::Decr => Expect::Number.once(),
            Verb::Touch => Expect::Touched.again(),
            Verb::MetaGet => Expect::Meta.again(),
        }
    }

    /// Whether it can make a key that was not there, or remove one.
    fn makes_or_removes(self) -> bool {
        matches!(self, Verb::Store(StoreVerb::Set | StoreVerb::Add) | Verb::Delete)
    }
}

impl Write {
    /// The command as it is sent, as verb `verb`.
    fn encode(&self, out: &mut Vec<u8>, verb: Verb) {
        let (key, noreply) = (&self.key[..], false);
        let request = match verb {
            Verb::Store(verb) => {
                let (flags, exptime, len) = (self.flags, self.exptime, self.data.len() as u32);
                let head = StoreHead { verb, key, flags, exptime, len, noreply };
                return encode::store(out, &head, &self.data);
            }
            Verb::Delete => Request::Delete { key, noreply },
            Verb::Incr => Request::Arith { verb: ArithVerb::Incr, key, delta: self.delta, noreply },
            Verb::Decr => Request::Arith { verb: ArithVerb::Decr, key, delta: self.delta, noreply },
            Verb::Touch => Request::Touch { key, exptime: self.exptime, noreply },
            Verb::MetaGet => Request::MetaGet { key, flags: &self.data },
        };
        encode::request(out, &request);
    }

    /// What the backup does once the server has done its part.
    fn mirror(&self) -> Verb {
        match self.verb {
            Verb::Store(StoreVerb::Add | StoreVerb::Replace | StoreVerb::Cas(_)) => {
                Verb::Store(StoreVerb::Set)
            }
            verb => verb,
        }
    }
}

/// The flags of an mg without `q`, and whether it was there: every request has its answer here, so
/// that answers can be matched; a quiet miss is silenced on the way to the client.
fn without_quiet(flags: &[u8]) -> (Box<[u8]>, bool) {
    let words = flags.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    let mut kept = Vec::with_capacity(flags.len());
    let mut quiet = false;
    for word in words {
        if word == b"q" {
            quiet = true;
            continue;
        }
        if !kept.is_empty() {
            kept.push(b' ');
        }
        kept.extend_from_slice(word);
    }
    (kept.into(), quiet)
}

impl Relay {
    /// Submits a storage command (`data` is its block), delete, incr, decr, touch or mg. `ticket`
    /// is `None` for noreply. Other requests are ignored.
    pub fn submit_write(
        &mut self,
        now: Now,
        client: Client,
        ticket: Option<Ticket>,
        cost: usize,
        request: &Request<'_>,
        data: &[u8],
    ) {
        if self.write_alone(now, client, ticket, cost, request, data) {
            return;
        }
        let (mut flags, mut exptime, mut delta, mut quiet) = (0, 0, 0, false);
        let mut data: Box<[u8]> = data.into();
        let (verb, key) = match *request {
            Request::Store(head) => {
                (flags, exptime) = (head.flags, head.exptime);
                (Verb::Store(head.verb), head.key)
            }
            Request::Delete { key, .. } => (Verb::Delete, key),
            Request::Arith { verb, key, delta: by, .. } => {
                delta = by;
                (if verb == ArithVerb::Incr { Verb::Incr } else { Verb::Decr }, key)
            }
            Request::Touch { key, exptime: until, .. } => {
                exptime = until;
                (Verb::Touch, key)
            }
            Request::MetaGet { key, flags } => {
                (data, quiet) = without_quiet(flags);
                (Verb::MetaGet, key)
            }
            _ => return,
        };
        let Some(route) = self.route(key) else {
            return self.complete(client, ticket, cost, CAN_NOT_CONNECT.to_vec());
        };
        let guarded = verb.makes_or_removes() && route.backup.is_some();
        if guarded {
            self.guard.begin(key, self.worker);
        }
        self.held += data.len();
        let id = self.writes.insert(Write {
            client,
            ticket,
            cost,
            verb,
            route,
            stage: Stage::Server,
            quiet,
            guarded,
            rounds: 0,
            key: key.into(),
            flags,
            exptime,
            delta,
            data,
            answer: Vec::new(),
        });
        self.write_to_server(now, id);
    }

    fn complete(&mut self, client: Client, ticket: Option<Ticket>, cost: usize, reply: Vec<u8>) {
        let verdict = Verdict::Reached;
        self.completions.push(Completion {
            client,
            ticket,
            reply,
            cost,
            largest: 0,
            verdict,
            held: 0,
            pieces: Vec::new(),
            more: false,
        });
    }

    /// Sends command `id` to `backend` as verb `verb`.
    fn send_write(&mut self, now: Now, id: usize, backend: BackendId, verb: Verb) -> Usable {
        let Relay { writes, backends, .. } = self;
        let write = &writes[id];
        let call = Call::Write { write: id as u32 };
        backends[backend].ask(now, call, verb.kind(), |out| write.encode(out, verb))
    }

    fn write_to_server(&mut self, now: Now, id: usize) {
        let write = &mut self.writes[id];
        write.stage = Stage::Server;
        let (verb, server) = (write.verb, write.route.server);
        if let (Verb::Store(StoreVerb::Cas(unique)), Some(_)) = (verb, write.route.backup) {
            if unique & BACKUP_UNIQUE != 0 && self.usable(server) == Usable::Yes {
                // The unique is the backup's: the client must read the server's first.
                return self.finish_write(id, encode::EXISTS);
            }
        }
        match self.send_write(now, id, self.writer(server), verb) {
            Usable::Yes => {}
            Usable::Busy => self.finish_write(id, OUT_OF_CONNECTION),
            Usable::Down => self.fail_over(now, id, false),
        }
    }

    /// The server cannot be reached: the backup does it, once. `sent`: the server may have done it.
    fn fail_over(&mut self, now: Now, id: usize, sent: bool) {
        let write = &mut self.writes[id];
        let Route { server, backup } = write.route;
        let Some(backup) = backup else { return self.finish_write(id, CAN_NOT_CONNECT) };
        let mut verb = write.verb;
        if let Verb::Store(StoreVerb::Cas(unique)) = verb {
            if unique & BACKUP_UNIQUE == 0 {
                if sent {
                    self.write_missed(id, server);
                }
                let there = self.usable(backup) != Usable::Down;
                return self.finish_write(id, if there { encode::EXISTS } else { CAN_NOT_CONNECT });
            }
            verb = Verb::Store(StoreVerb::Cas(unique & !BACKUP_UNIQUE));
        }
        write.stage = Stage::Failover;
        let reads_only = verb == Verb::MetaGet;
        let usable = self.send_write(now, id, self.writer(backup), verb);
        if !reads_only && (sent || usable == Usable::Yes) {
            self.write_missed(id, server);
        }
        if usable == Usable::Yes {
            self.tally.failovers += 1;
            return;
        }
        if sent && !reads_only {
            self.write_missed(id, backup);
        }
        self.finish_write(id, CAN_NOT_CONNECT);
    }

    /// Write `id` did not reach `place`, or may not have.
    fn write_missed(&mut self, id: usize, place: PlaceId) {
        let key = std::mem::take(&mut self.writes[id].key);
        self.missed_key(place, &key);
        self.writes[id].key = key;
    }

    /// The backup does what the server has done.
    fn mirror_write(&mut self, now: Now, id: usize, stage: Stage, verb: Verb) {
        let write = &mut self.writes[id];
        let Some(backup) = write.route.backup else {
            let answer = std::mem::take(&mut write.answer);
            return self.finish_write(id, &answer);
        };
        write.stage = stage;
        if self.send_write(now, id, self.writer(backup), verb) != Usable::Yes {
            self.write_missed(id, backup);
            self.finish_with_answer(id);
        }
    }

    pub(super) fn write_done(&mut self, now: Now, id: u32, reply: Reply<'_>, raw: &[u8]) {
        let id = id as usize;
        let Some(write) = self.writes.get_mut(id) else { return };
        match write.stage {
            Stage::Server => {
                let outcome = outcome(write.verb, &reply);
                let miss = matches!(reply, Reply::MetaMiss { .. });
                write.answer = if miss && write.quiet { Vec::new() } else { raw.to_vec() };
                self.server_answered(now, id, outcome);
            }
            Stage::Mirror => {
                let refused = matches!(reply, Reply::Error(_)) && write.verb != Verb::Touch;
                if let (true, Some(backup)) = (refused, write.route.backup) {
                    // It could not do it (no memory, say), and must not keep the old value.
                    self.write_missed(id, backup);
                }
                self.finish_with_answer(id);
            }
            Stage::DeleteBackup | Stage::Failover => {
                let miss = matches!(reply, Reply::MetaMiss { .. });
                let answer = if miss && write.quiet { &[][..] } else { raw };
                self.finish_write(id, answer);
            }
            Stage::Fill => {}
        }
    }

    fn server_answered(&mut self, now: Now, id: usize, outcome: Outcome) {
        let write = &self.writes[id];
        let Some(backup) = write.route.backup else { return self.finish_with_answer(id) };
        match outcome {
            Outcome::Done => {
                let verb = write.mirror();
                self.mirror_write(now, id, Stage::Mirror, verb);
            }
            Outcome::Gone => self.mirror_write(now, id, Stage::DeleteBackup, Verb::Delete),
            Outcome::Dropped => {
                self.write_missed(id, backup);
                self.finish_with_answer(id);
            }
            Outcome::Absent if write.rounds < ROUNDS_MAX && !self.is_base64(id) => {
                let (server, key) = (write.route.server, write.key.clone());
                self.writes[id].stage = Stage::Fill;
                self.fill_write(now, id, &key, server, backup);
            }
            Outcome::Absent | Outcome::Final => self.finish_with_answer(id),
        }
    }

    /// A key in base64 cannot be asked for in the classic protocol, so it is not put back.
    fn is_base64(&self, id: usize) -> bool {
        let write = &self.writes[id];
        write.verb == Verb::MetaGet && write.data.split(|&b| b == b' ').any(|word| word == b"b")
    }

    pub(super) fn write_failed(&mut self, now: Now, id: u32) {
        let id = id as usize;
        let Some(write) = self.writes.get(id) else { return };
        match (write.stage, write.route.backup) {
            (Stage::Server, _) => self.fail_over(now, id, true),
            (Stage::Mirror | Stage::DeleteBackup, Some(backup)) => {
                self.write_missed(id, backup);
                self.finish_with_answer(id);
            }
            (Stage::Failover, Some(backup)) => {
                if write.verb != Verb::MetaGet {
                    self.write_missed(id, backup);
                }
                self.finish_write(id, CAN_NOT_CONNECT);
            }
            _ => self.finish_with_answer(id),
        }
    }

    /// The end of a fill. `put`: the value is back on the server. If the server has gone meanwhile,
    /// the command fails over like any other; else its first answer stands.
    pub(super) fn write_filled(&mut self, now: Now, id: usize, put: bool) {
        let server = self.writes[id].route.server;
        if put || self.usable(server) != Usable::Yes {
            self.writes[id].rounds += 1;
            self.write_to_server(now, id);
        } else {
            self.finish_with_answer(id);
        }
    }

    fn finish_with_answer(&mut self, id: usize) {
        let answer = std::mem::take(&mut self.writes[id].answer);
        self.end_write(id, answer);
    }

    fn finish_write(&mut self, id: usize, answer: &[u8]) {
        self.end_write(id, answer.to_vec());
    }

    /// The value that an mg asked for is too large to be held.
    pub(super) fn write_large(&mut self, id: u32) {
        let Some(write) = self.writes.get_mut(id as usize) else { return };
        let (key, flags) = (write.key.clone(), write.data.clone());
        self.finish_write(id as usize, b"");
        if let Some(completion) = self.completions.last_mut() {
            completion.pieces.push(Piece::Meta { key, flags });
        }
    }

    fn end_write(&mut self, id: usize, answer: Vec<u8>) {
        let write = self.writes.remove(id);
        self.release(write.data.len());
        if write.guarded {
            self.guard.end(&write.key);
        }
        self.complete(write.client, write.ticket, write.cost, answer);
    }
}
