//! Commands of one key that are not plain reads: storage, delete, incr, decr, touch, and meta.
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
//!   it is absent, to append prepend  get; what it has is put back on the  the second answer,
//!     replace incr decr touch cas      server, which is then asked again    EXISTS to cas
//!   (cold) add                       get, as above, before the server is  the server's answer
//!                                      asked
//!   NOT_STORED to add, EXISTS, ...   nothing                              the server's answer
//!   SERVER_ERROR to set              delete (memcached drops the old      the server's answer
//!                                    value when it cannot take the new)
//!   nothing (down, or lost on        the command itself, once             the backup's answer
//!     the way)
//! ```
//!
//! The meta commands. A key in text goes to the backup in classic words where they can say it, so
//! that a backup of any age understands them; a key in base64 goes in base64.
//!
//! ```text
//!   HD to ms (S E R)                 set with F and T (and E)             the server's answer
//!   HD to ms with A or P             append, prepend; with N as ms        the server's answer
//!   HD to ms with C and I            delete: whether it is stale now the  the server's answer
//!                                      server does not say
//!   HD to md                         delete                               the server's answer
//!   HD to md with I or x             the same md without C                the server's answer
//!   HD, VA to ma                     incr, decr; with T N E as ma         the server's answer
//!   HD, VA to mg with T, or with     the same mg with only T N R E        the server's answer
//!     W in the answer
//!   NF to md                         md, delete                           the backup's answer
//!   it is absent, to mg ma, ms with  as above; with N it is asked         the last answer
//!     A P R or C, md with C I x        (cold) without N before, so that
//!                                      nothing hides what the backup has
//!   EX, NS to add, me, ...           nothing                              the server's answer
//!   nothing (down, or lost on        the command itself, once; a unique   the backup's answer,
//!     the way)                         must have come from the backup       uniques marked
//! ```
//!
//! The client's answer waits for the backup (at most its request timeout): an answered write is on
//! both. Only what does the same when it is done twice is ever sent to one backend twice (after a
//! lost connection): append and incr are applied at most once.

mod greet;
mod meta;
mod old;
mod verb;

use super::super::backend::{Dialect, Expect, Usable};
use super::super::fanout::{Piece, Verdict};
use super::places::{BackendId, Named, PlaceId, Route};
use super::{
    Call, Client, Completion, Relay, BACKUP_UNIQUE, CAN_NOT_CONNECT, LOST, NO_ROOM,
    OUT_OF_CONNECTION,
};
use crate::base::clock::Now;
use crate::base::replies::Ticket;
use crate::protocol::classic::{encode, parse_reply, Reply};
use crate::protocol::meta::Key;
use crate::protocol::reject::Reject;
use crate::protocol::{ArithVerb, Parsed, Request};
use meta::{How, MetaLine, MetaVerb, Mirror};
pub(super) use old::TOO_OLD;
use verb::{Outcome, Verb};

/// Fills that a command waits for: the server may lose what was put back before it gets the
/// command. A miss is then final.
const ROUNDS_MAX: u8 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Another worker is writing the key.
    Turn,
    /// Which protocol the server speaks is being asked.
    Greet,
    /// Asked first.
    Server,
    /// The server has done it, and the backup is doing it too.
    Mirror,
    /// The server did not have what is to be deleted.
    DeleteBackup,
    /// The server cannot be reached, and the backup's protocol is being asked.
    GreetBackup,
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
    /// It is counted in the guard.
    guarded: bool,
    /// It has its turn to write the key.
    turn: bool,
    /// A member of its backup was lost, and another has been asked.
    mirrored: bool,
    /// Members of its place that were lost with it, as bits.
    tried: u16,
    /// How often the server was asked again after a fill.
    rounds: u8,
    key: Box<[u8]>,
    flags: u32,
    exptime: i64,
    /// The delta of incr and decr.
    delta: u64,
    /// The data block.
    data: Box<[u8]>,
    /// The words of a meta command.
    line: MetaLine,
    /// It was asked in classic words, of a server that is older than 1.6.
    translated: bool,
    /// From such a server: it came before the end of its answer.
    value: Option<old::Value>,
    /// The server's answer, once known.
    answer: Vec<u8>,
    /// Bytes of it that count as held.
    answer_held: usize,
    /// Length of the value in it.
    largest: usize,
    /// Of an mg: whether the item was found.
    found: Option<bool>,
}

/// What became of an attempt to send.
enum Sent {
    Yes,
    /// The backend's protocol is being asked first.
    Greeting,
    Busy,
    Down,
    /// It cannot be said to this backend; what the client is told.
    Refused(Vec<u8>),
}

/// A request taken to pieces.
struct Parts<'a> {
    verb: Verb,
    key: Key<'a>,
    flags: u32,
    exptime: i64,
    delta: u64,
    line: MetaLine,
}

impl<'a> Parts<'a> {
    /// None for a request that is no write.
    fn of(request: &Request<'a>) -> Option<Result<Parts<'a>, Reject>> {
        let plain = |verb, key| Parts {
            verb,
            key: Key::Text(key),
            flags: 0,
            exptime: 0,
            delta: 0,
            line: MetaLine::default(),
        };
        let meta = |verb, key, flags| {
            let (line, key) = MetaLine::new(verb, key, flags)?;
            Ok(Parts { line, key, ..plain(Verb::Meta(verb), b"") })
        };
        Some(match *request {
            Request::Store(head) => Ok(Parts {
                flags: head.flags,
                exptime: head.exptime,
                ..plain(Verb::Store(head.verb), head.key)
            }),
            Request::Delete { key, .. } => Ok(plain(Verb::Delete, key)),
            Request::Arith { verb, key, delta, .. } => {
                let verb = if verb == ArithVerb::Incr { Verb::Incr } else { Verb::Decr };
                Ok(Parts { delta, ..plain(verb, key) })
            }
            Request::Touch { key, exptime, .. } => Ok(Parts { exptime, ..plain(Verb::Touch, key) }),
            Request::MetaGet { key, flags } => meta(MetaVerb::Get, key, flags),
            Request::MetaSet { key, flags, .. } => meta(MetaVerb::Set, key, flags),
            Request::MetaDelete { key, flags } => meta(MetaVerb::Delete, key, flags),
            Request::MetaArith { key, flags } => meta(MetaVerb::Arith, key, flags),
            Request::MetaDebug { key, flags } => meta(MetaVerb::Debug, key, flags),
            _ => return None,
        })
    }
}

impl Relay {
    /// Submits a storage command or ms (`data` is its block), delete, incr, decr, touch, mg, md, ma
    /// or me. `ticket` is `None` for noreply. Other requests are ignored. True: it waits to learn
    /// what its server understands, or may be asked twice; the client's next request must wait.
    pub fn submit_write(
        &mut self,
        now: Now,
        client: Client,
        ticket: Option<Ticket>,
        cost: usize,
        request: &Request<'_>,
        data: &[u8],
    ) -> bool {
        if self.write_alone(now, client, ticket, cost, request, data) {
            return false;
        }
        let parts = match Parts::of(request) {
            Some(Ok(parts)) => parts,
            Some(Err(reject)) => {
                self.complete(client, ticket, cost, reject.line.to_vec());
                return false;
            }
            None => return false,
        };
        let Parts { verb, key, flags, exptime, delta, line } = parts;
        verb.count(&self.count);
        let key = key.as_bytes();
        let Some(route) = self.route(key) else {
            self.complete(client, ticket, cost, CAN_NOT_CONNECT.to_vec());
            return false;
        };
        self.held += data.len();
        let id = self.writes.insert(Write {
            client,
            ticket,
            cost,
            verb,
            route,
            stage: Stage::Server,
            guarded: false,
            turn: false,
            mirrored: false,
            tried: 0,
            rounds: 0,
            key: key.into(),
            flags,
            exptime,
            delta,
            data: data.into(),
            line,
            translated: false,
            value: None,
            answer: Vec::new(),
            answer_held: 0,
            largest: 0,
            found: None,
        });
        self.begin_write(now, id);
        self.writes.get(id).is_some_and(|write| {
            let unsent = [Stage::Turn, Stage::Greet, Stage::GreetBackup, Stage::Fill];
            // It will be asked twice, and nothing may come between.
            let twice = write.vivifies() && write.stage == Stage::Server && self.may_be_filled(id);
            write.client == client && (unsent.contains(&write.stage) || twice)
        })
    }

    /// Whether what the server lacks may be on the backup.
    fn may_be_filled(&self, id: usize) -> bool {
        let Write { route, key, .. } = &self.writes[id];
        route.backup.is_some() && self.places[route.server].slot.may_be_elsewhere(key)
    }

    /// Sends it, if nobody else is writing the key.
    fn begin_write(&mut self, now: Now, id: usize) {
        let cold = self.may_be_filled(id);
        let write = &mut self.writes[id];
        let reads = write.only_reads();
        if cold || write.route.backup.is_some() && !reads {
            // What may have to wait for the backup's copy must not be overtaken at the server.
            write.turn = self.guard.turns().begin(&write.key, self.worker, cold && !reads);
            if !write.turn {
                write.stage = Stage::Turn;
                return self.turns_wanted.push(id as u32);
            }
        }
        if cold && write.only_adds() {
            let Route { server, backup } = write.route;
            write.stage = Stage::Fill;
            let key = write.key.clone();
            return backup.into_iter().for_each(|it| self.fill_write(now, id, &key, server, it));
        }
        write.stage = Stage::Server;
        self.begin_guard(id);
        self.write_to_server(now, id);
    }

    /// A turn to write has ended somewhere: who waits for one tries again.
    pub(super) fn try_turns(&mut self, now: Now) {
        for id in std::mem::take(&mut self.turns_wanted) {
            self.begin_write(now, id as usize);
        }
    }

    /// Ends the turn of writing `key`; others may wait for it.
    pub(super) fn end_turn(&mut self, key: &[u8]) {
        self.turn_ended |= self.guard.turns().end(key);
    }

    fn begin_guard(&mut self, id: usize) {
        let write = &mut self.writes[id];
        if !write.guarded && write.route.backup.is_some() && write.makes_or_removes() {
            write.guarded = true;
            self.guard.begin(&write.key, self.worker);
        }
    }

    fn end_guard(&mut self, id: usize) {
        let write = &mut self.writes[id];
        if std::mem::take(&mut write.guarded) {
            self.guard.end(&write.key);
        }
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

    /// Sends command `id` to `backend` as the client sent it.
    fn send_write(&mut self, now: Now, id: usize, backend: BackendId, backup: bool) -> Sent {
        self.wrote_now(id, backend);
        let first = !backup && self.writes[id].rounds == 0;
        let no_vivify = first && self.writes[id].vivifies() && self.may_be_filled(id);
        let Relay { writes, backends, .. } = self;
        let write = &mut writes[id];
        let how = How { no_vivify, backup };
        let call = Call::Write { write: id as u32 };
        let dialect = backends[backend].dialect();
        write.value = None;
        write.translated = dialect == Dialect::Classic;
        let usable = match write.verb {
            Verb::Meta(verb) if dialect == Dialect::Classic => {
                match old::translate(&write.line, verb, &write.key, &write.data, backup) {
                    Ok(classic) => {
                        let put = |out: &mut Vec<u8>| classic.encode(out);
                        backends[backend].ask(now, call, classic.kind(), put)
                    }
                    Err(text) => return Sent::Refused(text),
                }
            }
            Verb::Meta(_) if dialect == Dialect::Unknown => {
                let greet = |out: &mut Vec<u8>| encode::request(out, &Request::Version);
                let usable = backends[backend].ask(now, call, Expect::Version.again(), greet);
                if usable == Usable::Yes {
                    write.stage = if backup { Stage::GreetBackup } else { Stage::Greet };
                    return Sent::Greeting;
                }
                usable
            }
            _ => backends[backend].ask(now, call, write.kind(), |out| write.encode(out, how)),
        };
        match usable {
            Usable::Yes => Sent::Yes,
            Usable::Busy => Sent::Busy,
            Usable::Down => Sent::Down,
        }
    }

    fn write_to_server(&mut self, now: Now, id: usize) {
        let write = &mut self.writes[id];
        write.stage = Stage::Server;
        let server = write.route.server;
        if let (Some(unique), Some(_)) = (write.compare(), write.route.backup) {
            if unique & BACKUP_UNIQUE != 0
                && !write.line.has_own_uniques()
                && self.usable(server) == Usable::Yes
            {
                // The unique is the backup's: the client must read the server's first.
                let answer = self.writes[id].exists();
                return self.finish_write(id, &answer);
            }
        }
        if self.must_pass_by(self.writes[id].route, &self.writes[id].key) {
            return self.fail_over(now, id, false);
        }
        let to = self.write_member(id);
        match self.send_write(now, id, to, false) {
            Sent::Yes | Sent::Greeting => {}
            Sent::Busy => self.finish_write(id, OUT_OF_CONNECTION),
            Sent::Refused(text) => self.finish_write(id, &text),
            Sent::Down => self.fail_over(now, id, false),
        }
    }

    /// Whom a command is for among the members of its place.
    fn write_member(&self, id: usize) -> BackendId {
        let write = &self.writes[id];
        let server = write.route.server;
        if write.tried == 0 && write.only_reads() {
            return self.reader(server, &write.key);
        }
        if write.tried == 0 {
            return self.key_writer(server, &write.key);
        }
        self.next_writer(server, write.tried).unwrap_or_else(|| self.writer(server))
    }

    /// A member of a group was lost: another does it, if it may. `false`: nobody else is there.
    fn next_member(&mut self, now: Now, id: usize, lost: BackendId, sent: bool) -> bool {
        let bit = self.member_bit(self.writes[id].route.server, lost);
        let write = &mut self.writes[id];
        write.tried |= bit;
        let sent = sent && write.stage == Stage::Server;
        let once = sent && !write.kind().may_repeat();
        let (server, backup, tried) = (write.route.server, write.route.backup, write.tried);
        let another = self.next_writer(server, tried).is_some();
        if once && (another || backup.is_none()) {
            self.finish_write(id, LOST);
        } else if another {
            self.write_to_server(now, id);
        } else {
            return false;
        }
        true
    }

    /// The server cannot be reached: the backup does it, once. `sent`: the server may have done it.
    fn fail_over(&mut self, now: Now, id: usize, sent: bool) {
        let write = &mut self.writes[id];
        let Route { server, backup } = write.route;
        let Some(backup) = backup else { return self.finish_write(id, CAN_NOT_CONNECT) };
        let theirs = |unique| unique & BACKUP_UNIQUE == 0 && !write.line.has_own_uniques();
        if write.compare().is_some_and(theirs) {
            if sent {
                self.write_missed(id, server);
            }
            let there = self.usable(backup) != Usable::Down;
            let answer = if there { self.writes[id].exists() } else { CAN_NOT_CONNECT.to_vec() };
            return self.finish_write(id, &answer);
        }
        write.stage = Stage::Failover;
        let reads_only = write.only_reads();
        let went = self.send_write(now, id, self.writer(backup), true);
        if let Sent::Refused(text) = went {
            if sent && !reads_only {
                self.write_missed(id, server);
                self.write_missed(id, backup);
            }
            return self.finish_write(id, &text);
        }
        let went = matches!(went, Sent::Yes | Sent::Greeting);
        if !reads_only && (sent || went) {
            self.write_missed(id, server);
        }
        if went {
            self.count.failovers.add(1);
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
    fn mirror_write(&mut self, now: Now, id: usize, stage: Stage) {
        let Some(backup) = self.writes[id].route.backup else { return self.finish_with_answer(id) };
        self.writes[id].stage = stage;
        let to = self.key_writer(backup, &self.writes[id].key);
        self.wrote(backup, &self.writes[id].key, to);
        if self.must_greet(id, to) {
            self.backends[to].wake(now);
            return self.mirrors.push((to, id as u32));
        }
        let Relay { writes, backends, .. } = self;
        let write = &writes[id];
        let backend = &mut backends[to];
        let call = Call::Write { write: id as u32 };
        let usable = match write.mirror(backend.dialect() == Dialect::Meta) {
            Mirror::Nothing => return self.finish_with_answer(id),
            Mirror::Forget => Usable::Down,
            Mirror::Classic(Request::Store(head)) => {
                let put = |out: &mut Vec<u8>| encode::store(out, &head, &write.data);
                backend.ask(now, call, meta::kind(&Request::Store(head)), put)
            }
            Mirror::Classic(request) => {
                let put = |out: &mut Vec<u8>| encode::request(out, &request);
                backend.ask(now, call, meta::kind(&request), put)
            }
            Mirror::Meta(flags) => {
                let Verb::Meta(verb) = write.verb else { return self.finish_with_answer(id) };
                backend.ask(now, call, write.kind(), |out| {
                    write.line.encode_mirror(out, verb, &write.key, &write.data, &flags);
                })
            }
        };
        if usable != Usable::Yes {
            self.write_missed(id, backup);
            self.finish_with_answer(id);
        }
    }

    /// The value of a get or gets that was asked in an mg's place. `false`: it is another key's.
    pub(super) fn write_value(
        &mut self,
        id: u32,
        key: &[u8],
        flags: u32,
        cas: Option<u64>,
        data: Option<&[u8]>,
    ) -> bool {
        let Some(write) = self.writes.get_mut(id as usize) else { return false };
        if *write.key != *key || write.value.is_some() {
            return false;
        }
        // Too large to be taken: as if it was not there.
        write.value = data.map(|data| old::Value { flags, cas, data: data.to_vec() });
        true
    }

    /// The answer of [`Relay::write_value`] begins anew.
    pub(super) fn write_restarted(&mut self, id: u32) {
        if let Some(write) = self.writes.get_mut(id as usize) {
            write.value = None;
        }
    }

    pub(super) fn write_done(
        &mut self,
        now: Now,
        id: u32,
        by: BackendId,
        reply: Reply<'_>,
        raw: &[u8],
    ) {
        self.wrote_now(id as usize, by);
        let Some(write) = self.writes.get_mut(id as usize) else { return };
        let asked_here = matches!(write.stage, Stage::Server | Stage::Failover);
        let told = match write.verb {
            Verb::Meta(verb) if asked_here && write.translated && old::is_classic(&reply) => {
                let value = write.value.take();
                let len = write.data.len();
                old::answer(&write.line, verb, &write.key, len, &reply, value.as_ref())
            }
            Verb::Touch if asked_here && reply == Reply::Error(b"ERROR") => old::TOO_OLD.to_vec(),
            _ => return self.write_answered(now, id, reply, raw),
        };
        let Parsed::Done { value: reply, .. } = parse_reply(&told) else {
            return self.finish_write(id as usize, old::TOO_OLD);
        };
        self.write_answered(now, id, reply, &told);
    }

    /// A command is being done, or has been, by a member of one of its places.
    fn wrote_now(&self, id: usize, by: BackendId) {
        let Some(write) = self.writes.get(id).filter(|write| !write.only_reads()) else { return };
        self.wrote(write.route.server, &write.key, by);
        if let Some(backup) = write.route.backup {
            self.wrote(backup, &write.key, by);
        }
    }

    fn write_answered(&mut self, now: Now, id: u32, reply: Reply<'_>, raw: &[u8]) {
        let id = id as usize;
        let Some(write) = self.writes.get(id) else { return };
        match write.stage {
            Stage::Greet => self.write_to_server(now, id),
            Stage::GreetBackup => self.fail_over(now, id, false),
            Stage::Server => {
                let outcome = write.outcome(&reply);
                self.keep_answer(id, &reply, raw);
                self.server_answered(now, id, outcome);
            }
            Stage::Mirror => {
                let refused = matches!(reply, Reply::Error(_))
                    && !matches!(write.verb, Verb::Touch | Verb::Meta(MetaVerb::Get));
                if let (true, Some(backup)) = (refused, write.route.backup) {
                    // It could not do it (no memory, say), and must not keep the old value.
                    self.write_missed(id, backup);
                }
                self.finish_with_answer(id);
            }
            Stage::DeleteBackup => {
                let there = matches!(reply, Reply::Deleted | Reply::MetaHit { .. });
                let answer = match write.verb {
                    Verb::Meta(_) if !matches!(reply, Reply::Error(_)) => {
                        write.line.deleted(&write.key, there)
                    }
                    _ => raw.to_vec(),
                };
                self.finish_write(id, &answer);
            }
            Stage::Failover => {
                if matches!(write.verb, Verb::Meta(_)) {
                    self.keep_answer(id, &reply, &meta::marked(raw));
                } else {
                    self.keep_answer(id, &reply, raw);
                }
                self.finish_with_answer(id);
            }
            Stage::Turn | Stage::Fill => {}
        }
    }

    /// Remembers what the client will be told.
    fn keep_answer(&mut self, id: usize, reply: &Reply<'_>, raw: &[u8]) {
        let write = &self.writes[id];
        let with_key = write.line.with_key(reply, raw);
        let raw = with_key.as_deref().unwrap_or(raw);
        let silent = match write.verb {
            Verb::Meta(verb) => write.line.keeps_silent(verb, reply),
            _ => false,
        };
        let value = match *reply {
            Reply::MetaValue { len, .. } if !silent => len as usize,
            _ => 0,
        };
        let found = match reply {
            Reply::MetaMiss { .. } => Some(false),
            Reply::MetaHit { .. } | Reply::MetaValue { .. } => Some(true),
            _ => None,
        };
        let held = if value > 0 { raw.len() } else { 0 };
        let fits = self.hold(held);
        let write = &mut self.writes[id];
        let before = std::mem::replace(&mut write.answer_held, if fits { held } else { 0 });
        write.largest = value;
        write.found = found;
        write.answer = match (silent, fits) {
            (true, _) => Vec::new(),
            (false, true) => raw.to_vec(),
            (false, false) => NO_ROOM.to_vec(),
        };
        self.release(before);
    }

    fn server_answered(&mut self, now: Now, id: usize, outcome: Outcome) {
        let write = &self.writes[id];
        let Some(backup) = write.route.backup else { return self.finish_with_answer(id) };
        match outcome {
            Outcome::Done => self.mirror_write(now, id, Stage::Mirror),
            Outcome::Gone => self.mirror_write(now, id, Stage::DeleteBackup),
            Outcome::Dropped => {
                self.write_missed(id, backup);
                self.finish_with_answer(id);
            }
            Outcome::Absent if write.rounds < ROUNDS_MAX => {
                // Its own fill must not wait for it.
                self.end_guard(id);
                let write = &mut self.writes[id];
                write.stage = Stage::Fill;
                let (server, key) = (write.route.server, write.key.clone());
                self.fill_write(now, id, &key, server, backup);
            }
            Outcome::Absent | Outcome::Final => self.finish_with_answer(id),
        }
    }

    /// `by` will not answer; `sent`: it may have done it.
    pub(super) fn write_failed(&mut self, now: Now, id: u32, by: BackendId, sent: bool) {
        let id = id as usize;
        let Some(write) = self.writes.get(id) else { return };
        let (stage, Route { server, .. }) = (write.stage, write.route);
        let first = matches!(stage, Stage::Server | Stage::Greet);
        if first && self.is_group(server) && self.next_member(now, id, by, sent) {
            return;
        }
        let write = &self.writes[id];
        match (write.stage, write.route.backup) {
            (Stage::Greet, _) => self.fail_over(now, id, false),
            (Stage::GreetBackup, _) => self.finish_write(id, CAN_NOT_CONNECT),
            (Stage::Server, _) => self.fail_over(now, id, true),
            (Stage::Mirror | Stage::DeleteBackup, Some(backup))
                if !write.mirrored
                    && (!sent || write.kind().may_repeat())
                    && self.next_writer(backup, self.member_bit(backup, by)).is_some() =>
            {
                self.writes[id].mirrored = true;
                self.mirror_write(now, id, stage);
            }
            (Stage::Mirror | Stage::DeleteBackup, Some(backup)) => {
                self.write_missed(id, backup);
                self.finish_with_answer(id);
            }
            (Stage::Failover, Some(backup)) => {
                if !write.only_reads() {
                    self.write_missed(id, backup);
                }
                self.finish_write(id, CAN_NOT_CONNECT);
            }
            _ => self.finish_with_answer(id),
        }
    }

    /// The end of a fill. `put`: the value is back on the server. If the server has gone meanwhile,
    /// the command fails over like any other; else its first answer stands, unless it would now
    /// make the item.
    pub(super) fn write_filled(&mut self, now: Now, id: usize, put: bool) {
        let write = &self.writes[id];
        let unasked = write.rounds == 0 && (write.vivifies() || write.only_adds());
        if put && !unasked && write.compare().is_some() && !write.line.has_own_uniques() {
            // What was put back has a unique that no client can have seen, and is not to be taken
            // for another.
            let answer = write.exists();
            return self.finish_write(id, &answer);
        }
        if put || unasked || self.usable(write.route.server) != Usable::Yes {
            self.writes[id].rounds += 1;
            self.begin_guard(id);
            self.write_to_server(now, id);
        } else {
            self.finish_with_answer(id);
        }
    }

    /// Where the writes in flight go.
    pub(super) fn name_writes(&self, named: &mut Named) {
        self.writes.iter().for_each(|(_, write)| named.route(&write.route));
    }

    fn finish_with_answer(&mut self, id: usize) {
        let mut write = self.writes.remove(id);
        let answer = std::mem::take(&mut write.answer);
        self.end_write(write, answer);
    }

    fn finish_write(&mut self, id: usize, answer: &[u8]) {
        self.count.errors.add(u64::from(answer.starts_with(b"SERVER_ERROR")));
        let mut write = self.writes.remove(id);
        self.release(std::mem::take(&mut write.answer_held));
        write.largest = 0;
        self.end_write(write, answer.to_vec());
    }

    /// The value that an mg asked for is too large to be held.
    pub(super) fn write_large(&mut self, id: u32) {
        let Some(write) = self.writes.get_mut(id as usize) else { return };
        let mut line = Vec::new();
        write.encode(&mut line, How { no_vivify: false, backup: false });
        let piece = Piece::Meta { key: write.key.clone(), line: line.into() };
        write.found = Some(true);
        self.finish_write(id as usize, b"");
        if let Some(completion) = self.completions.last_mut() {
            completion.pieces.push(piece);
        }
    }

    fn end_write(&mut self, write: Write, reply: Vec<u8>) {
        self.release(write.data.len());
        if let (Verb::Meta(MetaVerb::Get), Some(found)) = (write.verb, write.found) {
            self.count.cmd_get.add(1);
            self.count.get_hits.add(u64::from(found));
            self.count.get_misses.add(u64::from(!found));
        }
        if write.guarded {
            self.guard.end(&write.key);
        }
        if write.turn {
            self.end_turn(&write.key);
        }
        let Write { client, ticket, cost, largest, answer_held: held, .. } = write;
        let verdict = Verdict::Reached;
        self.completions.push(Completion {
            client,
            ticket,
            reply,
            cost,
            largest,
            verdict,
            held,
            pieces: Vec::new(),
            more: false,
        });
    }
}
