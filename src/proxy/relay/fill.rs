//! Values that a server has lost and its backup has: read there once, put back, handed out.
//!
//! Owns the fills in flight, one per key: whoever misses the same key meanwhile waits with the
//! others. A value is put back by `add`, which never overwrites a newer one, with the lifetime it
//! has left, and not at all while the key is being written ([`crate::proxy::guard`]).
//!
//! ```text
//!   server: miss --> backup: mg k f c t v  --miss, unreachable--> everybody: miss
//!                        | value
//!                        +--> server: add    (pipelined: the add goes first)
//!                        +--> get: the value;  gets gat incr append ...: the server again
//! ```
//!
//! A get ends when the add has been answered: whoever was given the value finds it on its server.
//! If the server has a value after all, that one is handed out instead.

use super::super::backend::{Expect, Usable};
use super::super::guard::Stamp;
use super::places::{BackendId, Named, PlaceId};
use super::walk::Outcome;
use super::{Call, Relay};
use crate::base::clock::Now;
use crate::base::num::parse_i64;
use crate::protocol::classic::reply::{is_plain_key, meta_flag};
use crate::protocol::classic::{encode, Reply};
use crate::protocol::meta::{encode_base64, BinaryKey, Key};
use crate::protocol::{GetVerb, StoreHead, StoreVerb};

/// Lifetime, in seconds, of a value put back from a backup that cannot tell how long it has left
/// (older than 1.6). When it ends, the value is read from the backup again if it is still there: so
/// nothing outlives its expiry by more than this.
const UNKNOWN_LIFETIME_SECS: i64 = 60;
/// Longest exptime that counts from now (protocol.txt): 30 days.
const RELATIVE_MAX_SECS: i64 = 60 * 60 * 24 * 30;

/// Who waits for a value.
#[derive(Clone, Copy, Debug)]
enum Waiter {
    Slot { read: usize, slot: usize },
    Write { write: usize },
    Walk { step: u32, expires: i64 },
}

#[derive(Debug)]
pub(super) struct Fill {
    key: Box<[u8]>,
    /// Where it is put.
    server: PlaceId,
    /// Who is asked for it.
    source: BackendId,
    /// It was not known whether that one has meta commands.
    guess: bool,
    /// From before the backup was asked; `None` when a write was on its way.
    stamp: Option<Stamp>,
    waiters: Vec<Waiter>,
    /// Reads, and their slots, that have the value and wait for the add.
    readers: Vec<(usize, usize)>,
    /// Those of the walk that wait for the add.
    steps: Vec<u32>,
    /// It is found by its key ([`Relay::fill_by_key`]).
    shared: bool,
    /// From a backup without meta commands: the value came before the end of its answer.
    value: Option<(u32, u64, Vec<u8>)>,
    /// There is a value, and it is too large to be held.
    large: bool,
}

/// What the backup has.
struct Found<'a> {
    flags: u32,
    cas: u64,
    /// Seconds left, -1 for ever.
    ttl: i64,
    /// It was stored with a key in base64.
    binary: bool,
    /// It is marked as stale.
    stale: bool,
    data: &'a [u8],
}

impl Relay {
    /// Whom the fills in flight name.
    pub(super) fn name_fills(&self, named: &mut Named) {
        for (_, fill) in &self.fills {
            named.places.insert(fill.server);
            named.backends.insert(fill.source);
        }
    }

    /// A read's server does not have the key in `slot`.
    pub(super) fn fill_slot(
        &mut self,
        now: Now,
        read: usize,
        slot: usize,
        server: PlaceId,
        backup: PlaceId,
    ) {
        if self.places[server].slot.is_warm() {
            return self.fill_missed(read, slot);
        }
        let key: Box<[u8]> = self.reads[read].fan_key(slot).into();
        if !self.places[server].slot.may_be_elsewhere(&key) {
            return self.fill_missed(read, slot);
        }
        if !self.join_fill(now, &key, server, backup, Waiter::Slot { read, slot }) {
            self.fill_missed(read, slot);
        }
    }

    /// A command's server does not have the key.
    pub(super) fn fill_write(
        &mut self,
        now: Now,
        write: usize,
        key: &[u8],
        server: PlaceId,
        backup: PlaceId,
    ) {
        let cold = self.places[server].slot.may_be_elsewhere(key);
        if !cold || !self.join_fill(now, key, server, backup, Waiter::Write { write }) {
            self.write_filled(now, write, false);
        }
    }

    /// The walk has found that `target` lacks a key that `source` lists, and until when it lives
    /// there, in seconds since 1970: -1 for ever, 0 where that was not said.
    pub(super) fn fill_walk(
        &mut self,
        now: Now,
        key: &[u8],
        places: (PlaceId, PlaceId),
        step: u32,
        expires: i64,
    ) {
        let (target, source) = places;
        if !self.join_fill(now, key, target, source, Waiter::Walk { step, expires }) {
            self.walk_done(now, step, Outcome::Lost);
        }
    }

    /// `false`: the backup cannot be asked.
    fn join_fill(
        &mut self,
        now: Now,
        key: &[u8],
        server: PlaceId,
        backup: PlaceId,
        waiter: Waiter,
    ) -> bool {
        // What a walk puts back on a backup is nothing that a client could wait for.
        let shared = self.router.servers.contains(&server);
        if let Some(&fill) = self.fill_by_key.get(key).filter(|_| shared) {
            let fill = &mut self.fills[fill as usize];
            // What was asked for before a write of the key is no answer to who comes behind it.
            if fill.stamp.is_some_and(|stamp| self.guard.holds(key, stamp)) {
                fill.waiters.push(waiter);
                return true;
            }
        }
        if self.is_behind(backup, key) {
            // What it has may be old.
            return false;
        }
        let stamp = self.guard.stamp(key);
        let source = self.writer(backup);
        let fill = self.fills.insert(Fill {
            key: key.into(),
            server,
            source,
            guess: !self.backends[source].is_greeted(),
            shared,
            stamp,
            waiters: vec![waiter],
            readers: Vec::new(),
            steps: Vec::new(),
            value: None,
            large: false,
        });
        if !self.ask_source(now, fill as u32) {
            self.fills.remove(fill);
            return false;
        }
        self.count.second_lookups.add(1);
        if shared {
            self.fill_by_key.insert(key.into(), fill as u32);
        }
        true
    }

    /// `false`: it cannot be asked. One that has not yet said what it can do is asked as if it
    /// could do everything: the answer may be an error, but is never without the lifetime.
    fn ask_source(&mut self, now: Now, id: u32) -> bool {
        let Relay { fills, backends, .. } = self;
        let Fill { key, source, guess, .. } = &fills[id as usize];
        let meta = backends[*source].speaks_meta() || *guess;
        let plain = is_plain_key(key);
        if !plain && !meta {
            // Nobody can have put it there.
            return false;
        }
        let expect = if meta { Expect::WholeMeta } else { Expect::WholeValues };
        let usable = backends[*source].ask(now, Call::FillAsk { fill: id }, expect, |out| {
            if meta {
                let flags = if plain { &b"k f c t v"[..] } else { b"f c t v" };
                encode::meta_any(out, b"mg ", key, None, flags);
            } else {
                encode::get(out, GetVerb::Gets, 0, [&key[..]]);
            }
        });
        usable == Usable::Yes
    }

    /// The value, from a backup without meta commands. `false`: it is another key's.
    pub(super) fn fill_value(
        &mut self,
        fill: u32,
        key: &[u8],
        flags: u32,
        cas: Option<u64>,
        data: Option<&[u8]>,
    ) -> bool {
        let Some(fill) = self.fills.get_mut(fill as usize) else { return false };
        if *fill.key != *key || fill.value.is_some() {
            return false;
        }
        fill.large = data.is_none();
        fill.value = data.map(|data| (flags, cas.unwrap_or(0), data.to_vec()));
        true
    }

    /// What the backup has is too large to be put back: readers have it from there.
    pub(super) fn fill_large(&mut self, now: Now, id: u32) {
        self.unshare(id);
        let Some(fill) = self.fills.try_remove(id as usize) else { return };
        for waiter in fill.waiters {
            match waiter {
                Waiter::Slot { read, slot } => self.read_large(read, slot),
                Waiter::Write { write } => self.write_filled(now, write, false),
                Waiter::Walk { step, .. } => self.walk_done(now, step, Outcome::Refused),
            }
        }
    }

    /// Nobody joins this fill any more.
    fn unshare(&mut self, id: u32) {
        if let Some(fill) = self.fills.get(id as usize) {
            // A later one of the key may have its place.
            if self.fill_by_key.get(&fill.key) == Some(&id) {
                self.fill_by_key.remove(&fill.key);
            }
        }
    }

    /// The backup is asked again.
    pub(super) fn fill_restarted(&mut self, fill: u32) {
        if let Some(fill) = self.fills.get_mut(fill as usize) {
            fill.value = None;
        }
    }

    /// The end of the backup's answer; any but a value counts as a miss.
    pub(super) fn fill_asked(&mut self, now: Now, id: u32, reply: Reply<'_>, data: &[u8]) {
        let Some(fill) = self.fills.get_mut(id as usize) else { return };
        if fill.large {
            return self.fill_large(now, id);
        }
        let source = &self.backends[fill.source];
        let too_old = source.is_greeted() && !source.speaks_meta();
        let refused = matches!(reply, Reply::Error(_));
        if refused && too_old && std::mem::take(&mut fill.guess) && self.ask_source(now, id) {
            return;
        }
        self.unshare(id);
        let fill = &mut self.fills[id as usize];
        let waiters = std::mem::take(&mut fill.waiters);
        let value = fill.value.take();
        let found = match (&reply, &value) {
            (Reply::MetaValue { flags, .. }, _) => meta_found(&fill.key, flags, data),
            (Reply::End, Some((flags, cas, data))) => {
                let (flags, cas, ttl) = (*flags, *cas, lifetime(now, &waiters));
                Some(Found { flags, cas, ttl, binary: false, stale: false, data })
            }
            _ => None,
        };
        let Some(found) = found else {
            let fill = self.fills.remove(id as usize);
            if matches!(reply, Reply::MetaMiss { .. } | Reply::End) {
                self.is_lacked(&fill);
            }
            return self.not_found(now, waiters, refused);
        };
        let server = fill.server;
        let put = self.put_back(now, id, &found);
        self.hand_out(now, server, put.then_some(id), &found, waiters);
    }

    /// Neither has it: that need not be found out again before it is written.
    fn is_lacked(&self, fill: &Fill) {
        let holds = |stamp| self.guard.holds(&fill.key, stamp);
        if fill.shared && fill.stamp.is_some_and(holds) {
            let lacked = self.guard.cold().lacked();
            lacked.add(&fill.key);
            if !fill.stamp.is_some_and(holds) {
                lacked.forget(&fill.key);
            }
        }
    }

    /// `lost`: the backup has not answered.
    fn not_found(&mut self, now: Now, waiters: Vec<Waiter>, lost: bool) {
        for waiter in waiters {
            match waiter {
                Waiter::Slot { read, slot } => self.fill_missed(read, slot),
                Waiter::Write { write } => self.write_filled(now, write, false),
                Waiter::Walk { step, .. } => {
                    let outcome = if lost { Outcome::Lost } else { Outcome::Fine };
                    self.walk_done(now, step, outcome);
                }
            }
        }
    }

    /// `put`: the fill whose add is on its way.
    fn hand_out(
        &mut self,
        now: Now,
        server: PlaceId,
        put: Option<u32>,
        found: &Found<'_>,
        waiters: Vec<Waiter>,
    ) {
        // Behind a command that changes the value, a get must see what it did.
        let mut changed = false;
        for waiter in waiters {
            match waiter {
                Waiter::Slot { read, slot } => {
                    if put.is_some() && (changed || self.read_verb(read) != GetVerb::Get) {
                        self.read_again(now, read, slot, server);
                    } else {
                        if let Some(fill) = put {
                            self.reads[read].hold_open();
                            self.fills[fill as usize].readers.push((read, slot));
                        }
                        self.fill_hit(read, slot, found.flags, found.cas, found.data);
                    }
                }
                Waiter::Write { write } => {
                    changed = true;
                    self.write_filled(now, write, put.is_some());
                }
                Waiter::Walk { step, .. } => match put {
                    Some(fill) => self.fills[fill as usize].steps.push(step),
                    None if found.ttl == 0 => self.walk_done(now, step, Outcome::Fine),
                    None if self.usable(server) != Usable::Down => {
                        self.walk_done(now, step, Outcome::Later);
                    }
                    None => self.walk_done(now, step, Outcome::Lost),
                },
            }
        }
    }

    /// Sends the add, if it may be sent. Ends the fill if not.
    fn put_back(&mut self, now: Now, id: u32, found: &Found<'_>) -> bool {
        let server = self.writer(self.fills[id as usize].server);
        let Relay { fills, backends, guard, .. } = self;
        let fill = &fills[id as usize];
        let holds = fill.stamp.is_some_and(|stamp| guard.holds(&fill.key, stamp));
        let mut put = false;
        if holds && found.ttl != 0 {
            let exptime = match found.ttl {
                ..0 => 0,
                ttl if ttl > RELATIVE_MAX_SECS => ttl + i64::from(now.unix_secs()),
                ttl => ttl,
            };
            let call = Call::FillAdd { fill: id };
            let meta = found.binary || found.stale || !is_plain_key(&fill.key);
            // Twice does no harm, but what is asked behind it needs it done.
            put = match (meta, backends[server].speaks_meta()) {
                (false, _) => backends[server].ask(now, call, Expect::Stored.again(), |out| {
                    let len = found.data.len() as u32;
                    let (verb, key, flags) = (StoreVerb::Add, &fill.key[..], found.flags);
                    let head = StoreHead { verb, key, flags, exptime, len, noreply: false };
                    encode::store(out, &head, found.data);
                }),
                (true, true) => backends[server].ask(now, call, Expect::Meta.again(), |out| {
                    found.add(out, &fill.key, exptime);
                }),
                (true, false) => Usable::Down,
            } == Usable::Yes;
            if put && found.stale {
                backends[server].ask(now, Call::Forget, Expect::Meta.again(), |out| {
                    encode::meta_any(out, b"md ", &fill.key, None, b"I");
                });
            }
        }
        if !put {
            self.fills.remove(id as usize);
        }
        put
    }

    /// The server will not answer the add.
    pub(super) fn fill_not_added(&mut self, now: Now, id: u32) {
        let Some(fill) = self.fills.try_remove(id as usize) else { return };
        self.let_go(&fill.readers);
        for step in fill.steps {
            self.walk_done(now, step, Outcome::Lost);
        }
    }

    fn let_go(&mut self, readers: &[(usize, usize)]) {
        for &(read, _) in readers {
            self.read_let_go(read);
        }
    }

    /// The server has answered the add.
    pub(super) fn fill_added(&mut self, now: Now, id: u32, reply: Reply<'_>) {
        let Some(fill) = self.fills.try_remove(id as usize) else { return };
        let there_already = matches!(reply, Reply::NotStored | Reply::MetaOther(_));
        if there_already && self.usable(fill.server) == Usable::Yes {
            // Somebody has written it since the server was asked: what the backup had is old.
            for &(read, slot) in &fill.readers {
                self.read_again(now, read, slot, fill.server);
            }
        }
        self.let_go(&fill.readers);
        if matches!(reply, Reply::Stored | Reply::MetaHit { .. }) {
            self.count.fill_backs.add(1);
            let server = self.writer(fill.server);
            self.backends[server].figures().fill_backs.add(1);
        }
        for &step in &fill.steps {
            let outcome = match reply {
                Reply::Stored | Reply::MetaHit { .. } => Outcome::Copied,
                Reply::Error(_) => Outcome::Refused,
                _ => Outcome::Fine,
            };
            self.walk_done(now, step, outcome);
        }
        // Whatever the answer: after a lost connection it may be the second.
        let overtaken = |stamp| self.guard.overtaken(&fill.key, stamp, self.worker);
        if fill.stamp.is_some_and(overtaken) {
            // Another worker's write may have come just before: what was put back may be older.
            // The backup has the newer state, and this server is told to ask it again.
            let plain = is_plain_key(&fill.key);
            let expect = if plain { Expect::Deleted.again() } else { Expect::Meta.again() };
            let write = |out: &mut Vec<u8>| encode::delete_any(out, &fill.key);
            self.places[fill.server].slot.owe(now, &fill.key);
            self.ask(self.writer(fill.server), now, Call::Forget, expect, write);
        }
    }
}

impl Found<'_> {
    /// Puts back what no classic add can.
    fn add(&self, out: &mut Vec<u8>, key: &[u8], exptime: i64) {
        let mut flags = format!("ME F{} T{exptime}", self.flags);
        let mut base64 = Vec::new();
        let len = Some(self.data.len() as u32);
        if self.binary && is_plain_key(key) {
            encode_base64(&mut base64, key);
            flags += " b";
        }
        let key = if base64.is_empty() { key } else { &base64 };
        encode::meta_any(out, b"ms ", key, len, flags.as_bytes());
        out.extend_from_slice(self.data);
        out.extend_from_slice(encode::CRLF);
    }
}

/// Seconds that a value without a known lifetime may live where it is put: what the dump said of
/// it, if a walk asks for it too.
fn lifetime(now: Now, waiters: &[Waiter]) -> i64 {
    let told = waiters.iter().find_map(|waiter| match waiter {
        Waiter::Walk { expires, .. } if *expires != 0 => Some(*expires),
        _ => None,
    });
    match told {
        None => UNKNOWN_LIFETIME_SECS,
        Some(..0) => -1,
        Some(at) => (at - i64::from(now.unix_secs())).max(0),
    }
}

/// A meta value, if it is this key's and says what was asked. A place that was kept for a value
/// (`mg` with `N`) is none.
fn meta_found<'a>(key: &[u8], flags: &[u8], data: &'a [u8]) -> Option<Found<'a>> {
    let plain = is_plain_key(key);
    let binary = !plain || meta_flag(flags, b'b').is_some();
    if plain {
        let said = meta_flag(flags, b'k')?;
        let same = match binary {
            true => BinaryKey::decode(said).is_some_and(|said| Key::Binary(said).as_bytes() == key),
            false => said == key,
        };
        if !same {
            return None;
        }
    }
    let (stale, waited_for) = (meta_flag(flags, b'X'), meta_flag(flags, b'Z'));
    if data.is_empty() && waited_for.is_some() {
        return None;
    }
    let number = |flag| meta_flag(flags, flag).and_then(parse_i64);
    Some(Found {
        flags: u32::try_from(number(b'f')?).ok()?,
        cas: u64::try_from(number(b'c').unwrap_or(0)).unwrap_or(0),
        ttl: number(b't')?,
        binary,
        stale: stale.is_some(),
        data,
    })
}
