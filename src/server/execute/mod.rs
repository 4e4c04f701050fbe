//! Where a request meets the store.
//!
//! Owns the meaning of every command: what it does to the store, what it counts, what it answers.
//! One [`Executor`] per worker. Never reads or writes a socket; replies are appended to the bytes
//! it is given.

mod binary;
mod lending;
mod meta;

pub use lending::Lending;
pub use meta::MetaSet;

use std::sync::atomic::Ordering;
use std::sync::Arc;

use crate::base::clock::Now;
use crate::base::counters::Counter;
use crate::protocol::classic::{self, encode};
use crate::protocol::reject::{self, Reject};
use crate::protocol::{ArithVerb, GetVerb, Request, StoreHead, StoreVerb};
use crate::server::admin;
use crate::server::conn::Producer;
use crate::server::shared::{Shared, Shutdown};
use crate::server::waits::Waits;
use crate::server::watch::{self, Door, Status, Wake};
use crate::store::{Arith, Exptime, Given, Item, Mode, Stored, Terms};

/// Up to this many seconds an exptime is relative, beyond it is unix time (protocol.txt: 30 days).
const RELATIVE_MAX: i64 = 60 * 60 * 24 * 30;

/// Most that `verbosity` sets, memcached's.
const VERBOSITY_MAX: u32 = 2;

/// What becomes of the connection after a command.
#[derive(Debug)]
pub enum After {
    /// The next command.
    Next,
    /// The next command, in a turn of its own: the clock was moved.
    NextTurn,
    /// Send what waits, then close.
    Close,
    /// The answer goes on: the connection asks this for more of it.
    Stream(Box<dyn Producer>),
}

/// Executes the commands of one worker's connections.
pub struct Executor {
    /// This worker's door to the store.
    pub store: Door,
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// Makes this worker look at its watching connections. None where it cannot have any.
    pub wake: Option<Wake>,
    /// This worker's replies that wait for peers.
    pub waits: Waits,
    /// The hash of the key that the next connection asks for first, if that is known already.
    pub upcoming: Option<u64>,
    /// Values that are to be sent from where they are.
    pub lending: Lending,
}

/// Turns an exptime as a client writes it into an absolute one, by memcached's rule: 0 never,
/// negative at once, up to 30 days from now, else unix seconds.
pub fn exptime(raw: i64, now: Now) -> Exptime {
    match raw {
        0 => Exptime::Never,
        i64::MIN..=-1 => Exptime::At(1),
        1..=RELATIVE_MAX => Exptime::At(now.unix_secs().saturating_add(raw as u32)),
        _ => Exptime::At(u32::try_from(raw).unwrap_or(u32::MAX)),
    }
}

impl Executor {
    /// An executor with a store handle of its own.
    pub fn new(shared: Arc<Shared>) -> Executor {
        let store = Door::new(shared.store.handle(), Arc::clone(&shared.watch));
        let waits = Waits::new(Arc::clone(&shared.acks));
        Executor { store, shared, wake: None, waits, upcoming: None, lending: Lending::default() }
    }

    /// Whether a value of the announced size may be stored at all (`-I`).
    pub fn fits(&self, head: &StoreHead<'_>) -> bool {
        self.shared.store.config().fits(head.key.len(), head.flags, head.len as usize)
    }

    /// A storage command failed for its data. As in memcached, a `set` that fails takes the old
    /// item with it: better a miss than a value that the client believes it has replaced.
    fn drop_refused(&mut self, head: &StoreHead<'_>, now: Now) {
        if head.verb == StoreVerb::Set {
            self.store.refuse(head.key, now);
        }
    }

    /// Refuses a value over `-I` before its data block is read.
    pub fn too_large(&mut self, head: &StoreHead<'_>, now: Now) -> Reject {
        self.shared.detail.set(head.key);
        self.store.counters().add(Counter::TooLarge, 1);
        self.store.note_refused(mode(head.verb, false), head.key, Status::TooLarge, now);
        self.drop_refused(head, now);
        classic::too_large(head)
    }

    /// Refuses a value whose data block may not come in, see [`Executor::make_room`].
    pub fn no_memory(&mut self, head: &StoreHead<'_>, now: Now) -> Reject {
        self.shared.detail.set(head.key);
        self.store.counters().add(Counter::OutOfMemory, 1);
        self.shared.data_refused.fetch_add(1, Ordering::Relaxed);
        self.store.note_refused(mode(head.verb, false), head.key, Status::NoMemory, now);
        self.drop_refused(head, now);
        classic::no_memory(head)
    }

    /// Counts `bytes` of a long data block that is about to come in, and makes room for them in
    /// `-m`. False, and nothing is counted, when there is none.
    pub fn make_room(&mut self, bytes: u64, now: Now) -> bool {
        if bytes == 0 {
            return true;
        }
        if !self.shared.reserve_data(bytes) {
            return false;
        }
        let room = self.store.make_way(now);
        if !room {
            self.shared.release_data(bytes);
        }
        room
    }

    /// One key of a get, gets, gat or gats. `hash` is the key's.
    pub fn get(
        &mut self,
        verb: GetVerb,
        raw: i64,
        (hash, key): (u64, &[u8]),
        now: Now,
        out: &mut Vec<u8>,
    ) {
        let cas_enabled = self.shared.config.cas;
        let with_cas = matches!(verb, GetVerb::Gets | GetVerb::Gats);
        let lending = &mut self.lending;
        let answer = |item: &Item<'_>| {
            let cas = with_cas.then_some(if cas_enabled { item.cas } else { 0 });
            value(lending, out, item, cas, encode::CRLF);
        };
        let found = match verb {
            GetVerb::Get | GetVerb::Gets => self.store.get_hashed(hash, key, now, answer),
            GetVerb::Gat | GetVerb::Gats => {
                self.store.get_and_touch(key, exptime(raw, now), now, answer)
            }
        };
        self.shared.detail.get(key, found.is_some());
    }

    /// A get of one key, with everything that is answered. `hash` is the key's.
    #[inline]
    pub fn get_alone(&mut self, hash: u64, key: &[u8], now: Now, out: &mut Vec<u8>) {
        let lending = &mut self.lending;
        let answer = |item: &Item<'_>| value(lending, out, item, None, encode::CRLF_END);
        let found = self.store.get_hashed(hash, key, now, answer).is_some();
        if !found {
            out.extend_from_slice(encode::END);
        }
        self.shared.detail.get(key, found);
    }

    /// A `set` with its data, by the short way if that leads. `hash` is the key's.
    #[inline]
    pub fn set_plain(
        &mut self,
        hash: u64,
        head: &StoreHead<'_>,
        value: &[u8],
        now: Now,
        out: &mut Vec<u8>,
    ) {
        let expires = exptime(head.exptime, now);
        if !self.store.set_hashed(hash, head.key, head.flags, expires, value, now) {
            return self.store_item(head, value.into(), now, out);
        }
        self.shared.detail.set(head.key);
        say(out, encode::STORED, head.noreply);
    }

    /// A storage command with its data.
    pub fn store_item(
        &mut self,
        head: &StoreHead<'_>,
        value: Given<'_>,
        now: Now,
        out: &mut Vec<u8>,
    ) {
        self.shared.detail.set(head.key);
        let mode = mode(head.verb, self.shared.config.cas);
        let expires = exptime(head.exptime, now);
        let (key, flags, terms) = (head.key, head.flags, &Terms::PLAIN);
        let stored = self.store.store_given(mode, key, flags, expires, value, terms, now);
        let reply = match stored {
            Stored::Stored(_) => encode::STORED,
            Stored::NotStored => encode::NOT_STORED,
            Stored::Exists => encode::EXISTS,
            Stored::NotFound => encode::NOT_FOUND,
            // As in memcached: growing over the limit is not an error, and leaves what is there.
            Stored::TooLarge if matches!(mode, Mode::Append | Mode::Prepend) => encode::NOT_STORED,
            Stored::TooLarge => {
                self.drop_refused(head, now);
                reject::TOO_LARGE
            }
            Stored::OutOfMemory => {
                self.drop_refused(head, now);
                reject::NO_MEMORY
            }
        };
        say(out, reply, head.noreply);
    }

    /// Every command that is a line alone.
    pub fn execute(&mut self, request: &Request<'_>, now: Now, out: &mut Vec<u8>) -> After {
        match *request {
            Request::Delete { key, noreply } => {
                self.shared.detail.delete(key);
                let found = self.store.delete(key, now);
                say(out, if found { encode::DELETED } else { encode::NOT_FOUND }, noreply);
            }
            Request::Arith { verb, key, delta, noreply } => {
                self.arith(verb, key, delta, noreply, now, out);
            }
            Request::Touch { key, exptime: raw, noreply } => {
                let found = self.store.touch(key, exptime(raw, now), now).is_some();
                say(out, if found { encode::TOUCHED } else { encode::NOT_FOUND }, noreply);
            }
            Request::FlushAll { delay, noreply } => self.flush_all(delay, noreply, now, out),
            Request::BadFlush { noreply } => {
                let allowed = self.shared.config.flush_command;
                say(out, if allowed { reject::BAD_EXPTIME } else { reject::FLUSH_OFF }, noreply);
            }
            Request::Version => encode::version(out, &self.shared.version),
            Request::Verbosity { level, noreply } => {
                self.shared.set_verbosity(level.min(VERBOSITY_MAX));
                say(out, encode::OK, noreply);
            }
            Request::Stats { args } => return admin::stats(self, args, now, out),
            Request::Watch { args } => return self.watch(args, out),
            Request::Admin { line } => return admin::run(self, line, out),
            Request::Quit => return After::Close,
            Request::Shutdown { graceful, noreply } => {
                return self.shutdown(graceful, noreply, out);
            }
            Request::DebugTime(what) => match &self.shared.debug_clock {
                Some(clock) => {
                    clock.make(what, now);
                    out.extend_from_slice(encode::OK);
                    return After::NextTurn;
                }
                None => out.extend_from_slice(reject::ERROR),
            },
            Request::MetaNoop => out.extend_from_slice(encode::META_NOOP),
            Request::MetaGet { key, flags } => self.meta_get(key, flags, now, out),
            Request::MetaDelete { key, flags } => self.meta_delete(key, flags, now, out),
            Request::MetaArith { key, flags } => self.meta_arith(key, flags, now, out),
            Request::MetaDebug { key, flags } => self.meta_debug(key, flags, now, out),
            // They need the connection: a get its output's bound, a storage command its data.
            Request::Get { .. } | Request::Store(_) | Request::MetaSet { .. } => {}
        }
        After::Next
    }

    fn arith(
        &mut self,
        verb: ArithVerb,
        key: &[u8],
        delta: u64,
        noreply: bool,
        now: Now,
        out: &mut Vec<u8>,
    ) {
        let reply = match self.store.arith(key, verb == ArithVerb::Incr, delta, now) {
            Arith::Value { value, .. } => {
                if !noreply {
                    encode::number(out, value);
                }
                return;
            }
            Arith::NotFound => encode::NOT_FOUND,
            Arith::Exists => encode::EXISTS,
            Arith::NonNumeric => reject::NON_NUMERIC,
            Arith::OutOfMemory => reject::NO_MEMORY_ARITH,
        };
        say(out, reply, noreply);
    }

    fn flush_all(&mut self, delay: i64, noreply: bool, now: Now, out: &mut Vec<u8>) {
        let reply = if self.flush(delay, now) { encode::OK } else { reject::FLUSH_OFF };
        say(out, reply, noreply);
    }

    /// Takes all items away, now or later. False when nobody may (`-F`).
    fn flush(&mut self, delay: i64, now: Now) -> bool {
        if !self.shared.config.flush_command {
            self.store.counters().add(Counter::CmdFlush, 1);
            return false;
        }
        // memcached counts the delay like an exptime; at once is also what a past time means.
        let at = match exptime(delay, now) {
            Exptime::At(secs) if secs > now.unix_secs() => Some(secs),
            _ => None,
        };
        self.store.flush_all(at, now);
        true
    }

    fn watch(&mut self, args: &[u8], out: &mut Vec<u8>) -> After {
        let refusal = match (watch::classes(args), &self.wake) {
            _ if !self.shared.config.watchers_allowed => reject::WATCH_OFF,
            _ if !out.is_empty() || self.waits.behind => reject::WATCH_PIPELINED,
            (None, _) => reject::ERROR,
            (_, None) => reject::WATCH_FAILED,
            (Some(classes), Some(wake)) => {
                match self.shared.watch.watch(classes, Arc::clone(wake)) {
                    None => reject::WATCH_TOO_MANY,
                    Some(lines) => {
                        out.extend_from_slice(encode::OK);
                        return After::Stream(Box::new(lines));
                    }
                }
            }
        };
        out.extend_from_slice(refusal);
        After::Next
    }

    fn shutdown(&mut self, graceful: Option<bool>, noreply: bool, out: &mut Vec<u8>) -> After {
        let refusal = match graceful {
            _ if !self.shared.config.shutdown_command => reject::SHUTDOWN_OFF,
            None => reject::BAD_SHUTDOWN,
            Some(graceful) => {
                if let Some(tell) = self.shared.on_shutdown.get() {
                    tell(if graceful { Shutdown::Graceful } else { Shutdown::Now });
                }
                return After::Close;
            }
        };
        say(out, refusal, noreply);
        After::Next
    }
}

/// What a storage command asks of the store. Without `cas` (`-C`) nobody was shown a unique, so
/// none is right.
fn mode(verb: StoreVerb, cas: bool) -> Mode {
    match verb {
        StoreVerb::Set => Mode::Set,
        StoreVerb::Add => Mode::Add,
        StoreVerb::Replace => Mode::Replace,
        StoreVerb::Append => Mode::Append,
        StoreVerb::Prepend => Mode::Prepend,
        StoreVerb::Cas(unique) => Mode::Cas(if cas { unique } else { 0 }),
    }
}

/// An item as a get shows it, and what comes behind it.
#[inline]
fn value(lending: &mut Lending, out: &mut Vec<u8>, item: &Item<'_>, cas: Option<u64>, end: &[u8]) {
    encode::value_head(out, item.key, item.flags, item.value.len(), cas);
    lending.put(&item.value, out);
    out.extend_from_slice(end);
}

fn say(out: &mut Vec<u8>, reply: &[u8], noreply: bool) {
    if !noreply {
        out.extend_from_slice(reply);
    }
}
