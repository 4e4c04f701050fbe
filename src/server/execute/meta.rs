//! Meta commands.
//!
//! Owns what their flags mean to the store. Never reads a line: [`Meta`] is what came of it.

use std::sync::atomic::Ordering;

use super::{exptime, Executor};
use crate::base::clock::Now;
use crate::base::counters::Counter;
use crate::protocol::classic::encode::CRLF;
use crate::protocol::meta::{
    debug_key, encode_debug, ArithMode, Debugged, Hit, Meta, Number, SetMode, Status as Code, Verb,
};
use crate::protocol::reject::{self, Reject};
use crate::server::watch::Status;
use crate::store::{
    memcached_size, Arith, ArithTerms, DeleteTerms, Deleted, Exptime, GetTerms, Given, Mode,
    Stored, Terms,
};

/// An ms: its flags and the length of its data block.
pub struct MetaSet<'a> {
    /// Key and flags.
    pub meta: Meta<'a>,
    /// Length of the data block without its `\r\n`.
    pub len: u32,
}

impl<'a> MetaSet<'a> {
    /// Reads the flags of an ms. A refusal covers its data block.
    pub fn parse(key: &'a [u8], len: u32, flags: &'a [u8]) -> Result<MetaSet<'a>, Reject> {
        match Meta::parse(Verb::Set, key, flags) {
            Ok(meta) => Ok(MetaSet { meta, len }),
            Err(reject) => Err(Reject { swallow: u64::from(len) + 2, ..reject }),
        }
    }

    /// A refusal that covers the data block.
    pub fn refused(&self, line: &'static [u8]) -> Reject {
        Reject { swallow: u64::from(self.len) + 2, ..Reject::line(line) }
    }
}

/// Seconds to live; None for ever.
fn ttl(exptime: Exptime, now: Now) -> Option<u32> {
    match exptime {
        Exptime::Never => None,
        Exptime::At(secs) => Some(secs.saturating_sub(now.unix_secs())),
    }
}

/// The exptime that `T` gives.
fn touched(meta: &Meta<'_>, now: Now) -> Option<Exptime> {
    meta.touch.filter(|_| meta.reaches(b'T')).map(|raw| exptime(raw, now))
}

/// The exptime of an item that `N` makes: a `T` behind it is the last to have a say.
fn vivified(meta: &Meta<'_>, now: Now) -> Option<Exptime> {
    let made = Some(exptime(meta.vivify?, now)).filter(|_| meta.reaches(b'N'));
    let touched = touched(meta, now);
    let last = if meta.in_order(b'N', b'T') { touched.or(made) } else { made.or(touched) };
    Some(last.unwrap_or(Exptime::Never))
}

/// What an ms does with what is there.
fn mode(meta: &Meta<'_>, cas_enabled: bool) -> Mode {
    match (meta.set_mode(), meta.compare) {
        // With -C nobody was shown a unique, so none is right.
        (SetMode::Set | SetMode::Replace, Some(cas)) => {
            Mode::Cas(if cas_enabled { cas } else { 0 })
        }
        (SetMode::Set, None) => Mode::Set,
        (SetMode::Replace, None) => Mode::Replace,
        (SetMode::Add, _) => Mode::Add,
        (SetMode::Append, _) => Mode::Append,
        (SetMode::Prepend, _) => Mode::Prepend,
    }
}

impl Executor {
    /// The CAS unique that an item is to have. With `-C` all items have 0.
    fn compare(&self, meta: &Meta<'_>) -> Option<u64> {
        meta.compare.filter(|&cas| cas != 0 || self.shared.config.cas)
    }

    /// The CAS unique that an item is to get.
    fn explicit(&self, meta: &Meta<'_>) -> Option<u64> {
        meta.cas.filter(|_| self.shared.config.cas)
    }

    /// mg
    pub(super) fn meta_get(&mut self, key: &[u8], flags: &[u8], now: Now, out: &mut Vec<u8>) {
        let get = match Meta::parse(Verb::Get, key, flags) {
            Ok(get) => get,
            Err(reject) => return out.extend_from_slice(reject.line),
        };
        if get.opaque_too_long {
            self.get_unanswered(&get, now);
            return out.extend_from_slice(reject::META_OPAQUE);
        }
        let recache = get.recache.and_then(|raw| match exptime(raw, now) {
            Exptime::Never => None,
            Exptime::At(secs) => Some(secs),
        });
        let terms = GetTerms {
            touch: touched(&get, now),
            vivify: vivified(&get, now),
            recache,
            recache_first: get.in_order(b'R', b'T'),
            no_update: get.no_update,
            cas: self.explicit(&get),
            // As in memcached; where the key is no word its reply is in base64 all the same.
            binary_key: false,
        };
        let cas_enabled = self.shared.config.cas;
        let lending = &mut self.lending;
        let found = self.store.meta_get(get.key.as_bytes(), &terms, now, |item, found| {
            let hit = Hit {
                binary_key: item.marks.binary_key,
                flags: item.flags,
                cas: if cas_enabled { item.cas } else { 0 },
                len: item.value.len(),
                ttl: ttl(found.exptime_before, now),
                fetched: item.fetched,
                last_access_secs: item.last_access_secs,
                created: found.created,
                sent: item.marks.won,
                stale: item.marks.stale,
                won: found.won,
            };
            if get.encode_hit(out, &hit, |raw| ttl(exptime(raw, now), now)) {
                lending.put(&item.value, out);
                out.extend_from_slice(CRLF);
            }
        });
        if found.is_none() {
            get.encode_miss(out);
        }
    }

    /// An mg whose opaque is too long: memcached finds that out when it writes the answer, flag by
    /// flag, and has done by then what the flags before it ask for.
    fn get_unanswered(&mut self, get: &Meta<'_>, now: Now) {
        let key = get.key.as_bytes();
        if let Some(expires) = vivified(get, now) {
            if let Stored::Stored(_) = self.store.store(Mode::Add, key, 0, expires, b"", now) {
                return;
            }
        }
        if let Some(exptime) = touched(get, now) {
            self.store.touch(key, exptime, now);
        }
        // Without any of these the item was fetched before the flags were gone through.
        if !b"hlNRTu".iter().any(|&flag| get.has(flag)) {
            self.store.get(key, now, |_| ());
        }
    }

    /// md
    pub(super) fn meta_delete(&mut self, key: &[u8], flags: &[u8], now: Now, out: &mut Vec<u8>) {
        let delete = match Meta::parse(Verb::Delete, key, flags) {
            Ok(delete) => delete,
            Err(reject) => return out.extend_from_slice(reject.line),
        };
        let terms = DeleteTerms {
            compare: self.compare(&delete),
            uncounted_mismatch: false,
            stale: delete.stale,
            exptime: delete.touch.map(|raw| exptime(raw, now)),
            remove_value: delete.remove_value,
            flags: delete.client_flags,
            cas: self.explicit(&delete),
            binary_key: false,
        };
        let status = match self.store.delete_with(delete.key.as_bytes(), &terms, now) {
            Deleted::Deleted => Code::Done,
            Deleted::NotFound => Code::NotFound,
            Deleted::Exists => Code::Exists,
            Deleted::OutOfMemory => return out.extend_from_slice(reject::NO_MEMORY_ARITH),
        };
        delete.encode_status(out, status);
    }

    /// ma
    pub(super) fn meta_arith(&mut self, key: &[u8], flags: &[u8], now: Now, out: &mut Vec<u8>) {
        let arith = match Meta::parse(Verb::Arith, key, flags) {
            Ok(arith) => arith,
            Err(reject) => return out.extend_from_slice(reject.line),
        };
        let terms = ArithTerms {
            compare: arith.compare,
            cas: self.explicit(&arith),
            touch: touched(&arith, now),
            vivify: vivified(&arith, now).map(|exptime| (exptime, arith.initial)),
            binary_key: false,
        };
        let incr = arith.arith_mode() == ArithMode::Incr;
        let done = self.store.arith_with(arith.key.as_bytes(), incr, arith.delta, &terms, now);
        match done {
            Arith::NonNumeric => out.extend_from_slice(reject::NON_NUMERIC),
            Arith::OutOfMemory => out.extend_from_slice(reject::NO_MEMORY_ARITH),
            // Found out too late, as in mg.
            _ if arith.opaque_too_long => out.extend_from_slice(reject::META_OPAQUE),
            Arith::NotFound => arith.encode_status(out, Code::NotFound),
            Arith::Exists => arith.encode_status(out, Code::Exists),
            Arith::Value { value, written, exptime_before, created, .. } => {
                let cas = self.shown(written.cas);
                let number = Number { value, cas, ttl: ttl(exptime_before, now), created };
                arith.encode_number(out, &number, |raw| ttl(exptime(raw, now), now));
            }
        }
    }

    /// me
    pub(super) fn meta_debug(&mut self, key: &[u8], flags: &[u8], now: Now, out: &mut Vec<u8>) {
        let key = match debug_key(key, flags) {
            Ok(key) => key,
            Err(reject) => return out.extend_from_slice(reject.line),
        };
        // memcached 1.6.45 counts no other command here.
        self.store.counters().add(Counter::CmdMeta, 1);
        let cas_enabled = self.shared.config.cas;
        let classes = &self.shared.store.config().classes;
        let found = self.store.peek(key.as_bytes(), now, |item| {
            let size = memcached_size(item.key.len(), item.flags != 0, item.value.len());
            let debugged = Debugged {
                key: item.key,
                binary_key: item.marks.binary_key,
                ttl: ttl(item.exptime, now),
                last_access_secs: item.last_access_secs,
                cas: if cas_enabled { item.cas } else { 0 },
                fetched: item.fetched,
                class: classes.of(size),
                size,
            };
            encode_debug(out, &debugged);
        });
        if found.is_none() {
            out.extend_from_slice(b"EN\r\n");
        }
    }

    /// Whether the value of an ms may be stored at all (`-I`).
    pub fn meta_fits(&self, set: &MetaSet<'_>) -> bool {
        let (key, flags) = (set.meta.key.as_bytes(), set.meta.client_flags);
        self.shared.store.config().fits(key.len(), flags, set.len as usize)
    }

    /// Refuses an ms whose value is over `-I`. Unlike with classic commands, the old item goes
    /// whatever the mode.
    pub fn meta_too_large(&mut self, set: &MetaSet<'_>, now: Now) -> Reject {
        self.store.counters().add(Counter::TooLarge, 1);
        self.meta_drop(set, Status::TooLarge, now);
        set.refused(reject::TOO_LARGE)
    }

    /// Refuses an ms whose data block may not come in, see [`Executor::make_room`].
    pub fn meta_no_memory(&mut self, set: &MetaSet<'_>, now: Now) -> Reject {
        self.store.counters().add(Counter::OutOfMemory, 1);
        self.shared.data_refused.fetch_add(1, Ordering::Relaxed);
        self.meta_drop(set, Status::NoMemory, now);
        set.refused(reject::NO_MEMORY)
    }

    /// Tells watchers of an ms that is refused, and lets the old item go.
    fn meta_drop(&mut self, set: &MetaSet<'_>, why: Status, now: Now) {
        let key = set.meta.key.as_bytes();
        self.store.note_refused(mode(&set.meta, false), key, why, now);
        self.store.refuse(key, now);
    }

    /// ms with its data.
    pub fn meta_set(&mut self, set: &MetaSet<'_>, value: Given<'_>, now: Now, out: &mut Vec<u8>) {
        let (meta, given) = (&set.meta, value.len());
        let cas_enabled = self.shared.config.cas;
        let mode = mode(meta, cas_enabled);
        let terms = Terms {
            compare: meta.compare.filter(|_| cas_enabled),
            stale_if_older: meta.stale,
            // To ms, and to no other command, a unique of 0 is none.
            cas: self.explicit(meta).filter(|&cas| cas != 0),
            binary_key: meta.key.is_binary(),
            vivify: meta.vivify.map(|raw| exptime(raw, now)),
        };
        let expires = exptime(meta.touch.unwrap_or(0), now);
        let (key, flags) = (meta.key.as_bytes(), meta.client_flags);
        let (status, cas, len) =
            match self.store.store_given(mode, key, flags, expires, value, &terms, now) {
                Stored::Stored(done) => (Code::Done, self.shown(done.cas), done.len),
                Stored::NotStored => (Code::NotStored, 0, given),
                Stored::Exists => (Code::Exists, 0, given),
                Stored::NotFound => (Code::NotFound, 0, given),
                // As in memcached: growing over the limit is not an error, and changes nothing.
                Stored::TooLarge if matches!(mode, Mode::Append | Mode::Prepend) => {
                    (Code::NotStored, 0, given)
                }
                failed => {
                    let too_large = failed == Stored::TooLarge;
                    self.store.refuse(key, now);
                    let line = if too_large { reject::TOO_LARGE } else { reject::NO_MEMORY };
                    return out.extend_from_slice(line);
                }
            };
        meta.encode_set(out, status, cas, len);
    }
}
