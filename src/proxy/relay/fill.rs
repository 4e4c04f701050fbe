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

use super::super::backend::{Expect, Usable};
use super::super::guard::Stamp;
use super::places::PlaceId;
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
}

#[derive(Debug)]
pub(super) struct Fill {
    key: Box<[u8]>,
    server: PlaceId,
    /// From before the backup was asked; `None` when a write was on its way.
    stamp: Option<Stamp>,
    waiters: Vec<Waiter>,
    /// Reads that have the value and wait for the add.
    readers: Vec<usize>,
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
    /// A read's server does not have the key in `slot`.
    pub(super) fn fill_slot(
        &mut self,
        now: Now,
        read: usize,
        slot: usize,
        server: PlaceId,
        backup: PlaceId,
    ) {
        let key: Box<[u8]> = self.reads[read].fan_key(slot).into();
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
        if !self.join_fill(now, key, server, backup, Waiter::Write { write }) {
            self.write_filled(now, write, false);
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
        if let Some(&fill) = self.fill_by_key.get(key) {
            self.fills[fill as usize].waiters.push(waiter);
            return true;
        }
        let stamp = self.guard.stamp(key);
        let backup = self.writer(backup);
        let meta = self.backends[backup].speaks_meta();
        let plain = is_plain_key(key);
        if !plain && !meta {
            // Nobody can have put it there.
            return false;
        }
        let expect = if meta { Expect::WholeMeta } else { Expect::WholeValues };
        let fill = self.fills.insert(Fill {
            key: key.into(),
            server,
            stamp,
            waiters: vec![waiter],
            readers: Vec::new(),
            value: None,
            large: false,
        });
        let call = Call::FillAsk { fill: fill as u32 };
        let usable = self.ask(backup, now, call, expect.again(), |out| {
            if meta {
                let flags = if plain { &b"k f c t v"[..] } else { b"f c t v" };
                encode::meta_any(out, b"mg ", key, None, flags);
            } else {
                encode::get(out, GetVerb::Gets, 0, [key]);
            }
        });
        if usable != Usable::Yes {
            self.fills.remove(fill);
            return false;
        }
        self.count.second_lookups.add(1);
        self.fill_by_key.insert(key.into(), fill as u32);
        true
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
        let Some(fill) = self.fills.try_remove(id as usize) else { return };
        self.fill_by_key.remove(&fill.key);
        for waiter in fill.waiters {
            match waiter {
                Waiter::Slot { read, slot } => self.read_large(read, slot),
                Waiter::Write { write } => self.write_filled(now, write, false),
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
        let waiters = std::mem::take(&mut fill.waiters);
        let value = fill.value.take();
        self.fill_by_key.remove(&fill.key);
        let found = match (&reply, &value) {
            (Reply::MetaValue { flags, .. }, _) => meta_found(&fill.key, flags, data),
            (Reply::End, Some((flags, cas, data))) => {
                let (flags, cas, ttl) = (*flags, *cas, UNKNOWN_LIFETIME_SECS);
                Some(Found { flags, cas, ttl, binary: false, stale: false, data })
            }
            _ => None,
        };
        let Some(found) = found else {
            self.fills.remove(id as usize);
            for waiter in waiters {
                match waiter {
                    Waiter::Slot { read, slot } => self.fill_missed(read, slot),
                    Waiter::Write { write } => self.write_filled(now, write, false),
                }
            }
            return;
        };
        let server = fill.server;
        let put = self.put_back(now, id, &found);
        self.hand_out(now, server, put.then_some(id), &found, waiters);
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
                            self.fills[fill as usize].readers.push(read);
                        }
                        self.fill_hit(read, slot, found.flags, found.cas, found.data);
                    }
                }
                Waiter::Write { write } => {
                    changed = true;
                    self.write_filled(now, write, put.is_some());
                }
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
    pub(super) fn fill_not_added(&mut self, id: u32) {
        let Some(fill) = self.fills.try_remove(id as usize) else { return };
        self.let_go(&fill.readers);
    }

    fn let_go(&mut self, readers: &[usize]) {
        for &read in readers {
            self.read_let_go(read);
        }
    }

    /// The server has answered the add.
    pub(super) fn fill_added(&mut self, now: Now, id: u32, reply: Reply<'_>) {
        let Some(fill) = self.fills.try_remove(id as usize) else { return };
        self.let_go(&fill.readers);
        if matches!(reply, Reply::Stored | Reply::MetaHit { .. }) {
            self.count.fill_backs.add(1);
            let server = self.writer(fill.server);
            self.backends[server].figures().fill_backs.add(1);
        }
        // Whatever the answer: after a lost connection it may be the second.
        let overtaken = |stamp| self.guard.overtaken(&fill.key, stamp, self.worker);
        if fill.stamp.is_some_and(overtaken) {
            // Another worker's write may have come just before: what was put back may be older.
            // The backup has the newer state, and this server is told to ask it again.
            let plain = is_plain_key(&fill.key);
            let expect = if plain { Expect::Deleted.again() } else { Expect::Meta.again() };
            let write = |out: &mut Vec<u8>| encode::delete_any(out, &fill.key);
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
