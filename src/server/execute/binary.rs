//! Where a binary request meets the store.
//!
//! Owns the meaning of every binary command: which rules of the store it asks for, what it answers.
//! What the text commands do as well is done by the same code. Never reads or writes a socket.

use super::{exptime, After, Executor};
use crate::base::clock::Now;
use crate::protocol::binary::{self, encode, sasl, Command, Head, Refusal, Request, Status};
use crate::protocol::{ArithVerb, StoreHead, StoreVerb};
use crate::server::admin;
use crate::server::auth::Login;
use crate::server::conn::{Produced, Producer};
use crate::server::watch;
use crate::store::{Arith, ArithTerms, DeleteTerms, Deleted, Given, Item, Mode, Stored, Terms};

/// Longest message of a SASL step, in bytes. The longest that memcached takes is half of `-I`; this
/// is more than any user with its password, and is not counted as a data block.
const SASL_MAX: usize = 4096;

/// A CAS unique that no item has: versions are times, and this is the end of it.
const NO_ITEMS: u64 = u64::MAX;

/// memcached's words when there is no room for a value.
const NO_ROOM: &[u8] = b"Out of memory allocating item";
/// memcached's words when there is no room for a longer number.
const NO_ROOM_ARITH: &[u8] = b"Out of memory incrementing value";

impl Executor {
    /// How many bytes of value are to be taken in behind this request.
    ///
    /// # Errors
    ///
    /// The value is not wanted: it is to be dropped unread.
    pub fn binary_value(&mut self, request: &Request<'_>, now: Now) -> Result<usize, Refusal> {
        match &request.command {
            Command::Store(head) => {
                if self.fits(head) {
                    return Ok(head.len as usize);
                }
                self.shared.detail.set(head.key);
                // Watchers hear nothing of what is to be joined to an item, as in memcached.
                if !matches!(head.verb, StoreVerb::Append | StoreVerb::Prepend) {
                    let mode = super::mode(head.verb, false);
                    self.store.note_refused(mode, head.key, watch::Status::TooLarge, now);
                }
                self.drop_refused(head, now);
                Err(Refusal::status(Status::TooLarge).swallow(u64::from(head.len)))
            }
            Command::Sasl { mechanism, len, .. } => {
                let status = if !self.shared.config.sasl {
                    Status::UnknownCommand
                } else if mechanism.len() > binary::MECHANISM_MAX {
                    Status::Invalid
                } else if *len as usize > SASL_MAX {
                    Status::NoMemory
                } else {
                    return Ok(*len as usize);
                };
                Err(Refusal::status(status).swallow(u64::from(*len)))
            }
            _ => Ok(0),
        }
    }

    /// Refuses a request for whose value there is no memory, see [`Executor::make_room`].
    pub fn binary_no_memory(&mut self, request: &Request<'_>, now: Now) -> Refusal {
        if let Command::Store(head) = &request.command {
            let _ = self.no_memory(head, now);
        }
        Refusal { text: NO_ROOM, ..Refusal::status(Status::NoMemory) }
    }

    /// Executes a request with its value.
    pub fn binary(
        &mut self,
        login: &mut Login,
        request: &Request<'_>,
        value: Given<'_>,
        now: Now,
        out: &mut Vec<u8>,
    ) -> After {
        let Request { ref head, quiet, command } = *request;
        let done = match command {
            Command::Get { key, with_key, touch } => {
                self.binary_get(request, (key, with_key), touch, now, out);
                return After::Next;
            }
            Command::Touch { key, exptime } => {
                return self.binary_touch(head, key, exptime, now, out)
            }
            Command::Arith { verb, key, delta, create } => {
                self.binary_arith(request, verb, key, (delta, create), now, out);
                return After::Next;
            }
            Command::Store(ref store) => self.binary_store(head.cas, store, value, now),
            Command::Delete { key } => self.binary_delete(head.cas, key, now),
            Command::Flush { exptime } => match self.flush(i64::from(exptime), now) {
                true => Ok(0),
                false => Err(Refusal::status(Status::AuthError)),
            },
            Command::Noop | Command::Quit => Ok(0),
            Command::Verbosity { level } => {
                self.shared.set_verbosity(level);
                Ok(0)
            }
            Command::Version => {
                encode::text(out, head, self.shared.version.as_bytes());
                return After::Next;
            }
            Command::Stat { key } => return self.binary_stat(head, key, now, out),
            Command::SaslList if !self.shared.config.sasl => {
                Err(Refusal::status(Status::UnknownCommand))
            }
            Command::SaslList => {
                // As in memcached, which begins its SASL library anew.
                login.authenticated = false;
                encode::text(out, head, sasl::MECHANISMS);
                return After::Next;
            }
            Command::Sasl { start, mechanism, .. } => {
                // Its message is never long enough to be read into the store.
                let Given::Bytes(message) = value else { return After::Close };
                return self.binary_login(login, head, (start, mechanism), message, out);
            }
        };
        match done {
            Ok(cas) if !quiet => encode::done(out, head, cas),
            Ok(_) => {}
            Err(refusal) => encode::error(out, head, refusal.status, refusal.text),
        }
        if command == Command::Quit {
            After::Close
        } else {
            After::Next
        }
    }

    /// The CAS unique that a client is shown: with `-C` there are none.
    pub(super) fn shown(&self, cas: u64) -> u64 {
        if self.shared.config.cas {
            cas
        } else {
            0
        }
    }

    /// The CAS unique that a client asks for, if it asks for one. With `-C` no item has any: as in
    /// memcached, storage commands do not look at it then, and all others find it wrong.
    fn compared(&self, cas: u64, stores: bool) -> Option<u64> {
        match self.shared.config.cas {
            true => (cas != 0).then_some(cas),
            false => (cas != 0 && !stores).then_some(NO_ITEMS),
        }
    }

    /// get, gat and their kind.
    fn binary_get(
        &mut self,
        request: &Request<'_>,
        (key, with_key): (&[u8], bool),
        touch: Option<u32>,
        now: Now,
        out: &mut Vec<u8>,
    ) {
        let head = &request.head;
        let cas_enabled = self.shared.config.cas;
        let lending = &mut self.lending;
        let answer = |item: &Item<'_>| {
            let key = if with_key { item.key } else { b"" };
            let cas = if cas_enabled { item.cas } else { 0 };
            encode::hit(out, head, item.flags, key, item.value.len(), cas);
            lending.put(&item.value, out);
        };
        let found = match touch {
            None => self.store.get(key, now, answer),
            Some(raw) => self.store.get_and_touch(key, exptime(raw.into(), now), now, answer),
        };
        self.shared.detail.get(key, found.is_some());
        match found {
            Some(()) => {}
            None if request.quiet => {}
            None if with_key => encode::missed_key(out, head, key),
            None => encode::error(out, head, Status::NotFound, Status::NotFound.text()),
        }
    }

    fn binary_touch(
        &mut self,
        head: &Head,
        key: &[u8],
        raw: u32,
        now: Now,
        out: &mut Vec<u8>,
    ) -> After {
        let read = |item: &Item<'_>| (item.flags, item.cas);
        let found = self.store.get_and_touch(key, exptime(raw.into(), now), now, read);
        self.shared.detail.get(key, found.is_some());
        match found {
            Some((flags, cas)) => encode::hit(out, head, flags, b"", 0, self.shown(cas)),
            None => encode::error(out, head, Status::NotFound, Status::NotFound.text()),
        }
        After::Next
    }

    /// set, add, replace, append, prepend: the new CAS unique.
    fn binary_store(
        &mut self,
        cas: u64,
        head: &StoreHead<'_>,
        value: Given<'_>,
        now: Now,
    ) -> Result<u64, Refusal> {
        self.shared.detail.set(head.key);
        let compare = self.compared(cas, true);
        let mode = match (head.verb, compare) {
            (StoreVerb::Append, _) => Mode::Append,
            (StoreVerb::Prepend, _) => Mode::Prepend,
            // With a CAS unique set, add and replace are the same to memcached.
            (_, Some(unique)) => Mode::Cas(unique),
            (StoreVerb::Add, None) => Mode::Add,
            (StoreVerb::Replace, None) => Mode::Replace,
            (StoreVerb::Set | StoreVerb::Cas(_), None) => Mode::Set,
        };
        let terms = match mode {
            Mode::Append | Mode::Prepend => Terms { compare, ..Terms::default() },
            _ => Terms::default(),
        };
        let (key, expires) = (head.key, exptime(head.exptime, now));
        let flags = head.flags;
        let stored = self.store.store_given(mode, key, flags, expires, value, &terms, now);
        let status = match stored {
            Stored::Stored(written) => return Ok(self.shown(written.cas)),
            Stored::Exists => Status::Exists,
            Stored::NotFound => Status::NotFound,
            Stored::NotStored | Stored::TooLarge => match mode {
                Mode::Add => Status::Exists,
                Mode::Replace => Status::NotFound,
                _ => Status::NotStored,
            },
            Stored::OutOfMemory => {
                self.drop_refused(head, now);
                return Err(Refusal { text: NO_ROOM, ..Refusal::status(Status::NoMemory) });
            }
        };
        Err(Refusal::status(status))
    }

    fn binary_delete(&mut self, cas: u64, key: &[u8], now: Now) -> Result<u64, Refusal> {
        self.shared.detail.delete(key);
        let compare = self.compared(cas, false);
        let terms = DeleteTerms { compare, uncounted_mismatch: true, ..DeleteTerms::default() };
        let status = match self.store.delete_silently(key, &terms, now) {
            Deleted::Deleted => return Ok(0),
            Deleted::NotFound => Status::NotFound,
            Deleted::Exists => Status::Exists,
            Deleted::OutOfMemory => Status::NoMemory,
        };
        Err(Refusal::status(status))
    }

    /// increment, decrement
    fn binary_arith(
        &mut self,
        request: &Request<'_>,
        verb: ArithVerb,
        key: &[u8],
        (delta, create): (u64, Option<(u64, u32)>),
        now: Now,
        out: &mut Vec<u8>,
    ) {
        let head = &request.head;
        let terms = ArithTerms {
            compare: self.compared(head.cas, false),
            vivify: create.map(|(initial, raw)| (exptime(raw.into(), now), initial)),
            ..ArithTerms::default()
        };
        let incr = verb == ArithVerb::Incr;
        let (status, text) = match self.store.arith_with(key, incr, delta, &terms, now) {
            Arith::Value { value, written, .. } => {
                if !request.quiet {
                    encode::number(out, head, value, self.shown(written.cas));
                }
                return;
            }
            Arith::NotFound => (Status::NotFound, Status::NotFound.text()),
            Arith::NonNumeric => (Status::NonNumeric, Status::NonNumeric.text()),
            Arith::Exists => (Status::Exists, Status::Exists.text()),
            Arith::OutOfMemory => (Status::NoMemory, NO_ROOM_ARITH),
        };
        encode::error(out, head, status, text);
    }

    /// The statistics of `stats`, one packet each, and an empty one behind them.
    fn binary_stat(&mut self, head: &Head, key: &[u8], now: Now, out: &mut Vec<u8>) -> After {
        // memcached looks at the beginning of these, and at the whole of the others.
        let known: [&[u8]; 3] = [b"reset", b"settings", b"detail"];
        let begins = known.into_iter().find(|name| key.starts_with(name));
        let (asked, detail) = match begins {
            Some(b"detail") => {
                let modes: [&[u8]; 3] = [b"detail dump", b"detail on", b"detail off"];
                let mode = modes.into_iter().find(|mode| key.starts_with(mode));
                (mode.filter(|_| self.shared.config.dump_command), mode == Some(modes[0]))
            }
            Some(name) => (Some(name), false),
            None => {
                let known: [&[u8]; 5] = [b"", b"items", b"slabs", b"sizes", b"replication"];
                let ours = key == b"digest" || key.starts_with(b"digest ");
                ((ours || known.contains(&key)).then_some(key), false)
            }
        };
        let mut text = Vec::new();
        if let Some(asked) = asked {
            match admin::stats(self, asked, now, &mut text) {
                // One packet for all of it, whose length comes first: it is bounded.
                After::Stream(mut lines) if detail => {
                    while lines.produce(self, now, &mut text) == Produced::More {}
                }
                After::Stream(lines) => {
                    return After::Stream(Box::new(StatStream { head: *head, lines }));
                }
                _ => {}
            }
        }
        if asked.is_none() || text.starts_with(b"CLIENT_ERROR") {
            encode::error(out, head, Status::NotFound, Status::NotFound.text());
            return After::Next;
        }
        if detail {
            encode::stat(out, head, b"detailed", &text);
        } else {
            stat_packets(head, &text, out);
        }
        encode::stat(out, head, b"", b"");
        After::Next
    }

    /// One step of SASL.
    fn binary_login(
        &mut self,
        login: &mut Login,
        head: &Head,
        (start, mechanism): (bool, &[u8]),
        message: &[u8],
        out: &mut Vec<u8>,
    ) -> After {
        let expected = (start || login.started) && sasl::is_plain(mechanism);
        *login = Login { authenticated: false, started: expected && start && message.is_empty() };
        if login.started {
            encode::error(out, head, Status::AuthContinue, b"");
            return After::Next;
        }

        let named = sasl::plain(message).filter(|_| expected);
        // A message that names nobody is an attempt, too.
        let (user, password) = named.unwrap_or_default();
        login.authenticated = self.log_in(user, password) && named.is_some();
        if login.authenticated {
            encode::text(out, head, b"Authenticated");
        } else {
            encode::error(out, head, Status::AuthError, Status::AuthError.text());
        }
        After::Next
    }
}

/// Statistics that take a while, as packets.
#[derive(Debug)]
struct StatStream {
    head: Head,
    lines: Box<dyn Producer>,
}

impl Producer for StatStream {
    fn produce(&mut self, exec: &mut Executor, now: Now, out: &mut Vec<u8>) -> Produced {
        let mut text = Vec::new();
        let produced = self.lines.produce(exec, now, &mut text);
        stat_packets(&self.head, &text, out);
        if produced == Produced::Done {
            encode::stat(out, &self.head, b"", b"");
        }
        produced
    }

    fn may_go_by_datagram(&self) -> bool {
        self.lines.may_go_by_datagram()
    }
}

/// Appends a packet for every `STAT name value` line.
fn stat_packets(head: &Head, text: &[u8], out: &mut Vec<u8>) {
    for line in text.split(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(stat) = line.strip_prefix(b"STAT ") else { continue };
        let name = stat.split(|&byte| byte == b' ').next().unwrap_or_default();
        let value = stat.get(name.len() + 1..).unwrap_or_default();
        if !name.is_empty() {
            encode::stat(out, head, name, value);
        }
    }
}
