//! Replies and requests as bytes, appended to a `Vec`.
//!
//! Owns the exact form of every reply line of memcached 1.6 and of every request the proxy sends
//! on. Never decides what to answer.

use super::reply::is_plain_key;
use crate::base::clock::ClockMove;
use crate::base::num::push_u64;
use crate::protocol::meta::encode_base64;
use crate::protocol::{ArithVerb, GetVerb, Request, StoreHead, StoreVerb, KEY_MAX};

/// Ends a list of values or statistics.
pub const END: &[u8] = b"END\r\n";
/// A storage command did its work.
pub const STORED: &[u8] = b"STORED\r\n";
/// The condition of an add, replace, append or prepend does not hold.
pub const NOT_STORED: &[u8] = b"NOT_STORED\r\n";
/// cas: somebody changed the item.
pub const EXISTS: &[u8] = b"EXISTS\r\n";
/// cas, delete, incr, decr, touch: there is no such item.
pub const NOT_FOUND: &[u8] = b"NOT_FOUND\r\n";
/// delete did its work.
pub const DELETED: &[u8] = b"DELETED\r\n";
/// touch did its work.
pub const TOUCHED: &[u8] = b"TOUCHED\r\n";
/// flush_all, verbosity.
pub const OK: &[u8] = b"OK\r\n";
/// `stats reset`.
pub const RESET: &[u8] = b"RESET\r\n";
/// Answer to `mn`.
pub const META_NOOP: &[u8] = b"MN\r\n";
/// Ends a line and a data block.
pub const CRLF: &[u8] = b"\r\n";
/// Ends the last data block of a get, and the get.
pub const CRLF_END: &[u8] = b"\r\nEND\r\n";

/// The longest head of a value: two numbers of 32 bits and one of 64.
const VALUE_HEAD_MAX: usize = 6 + KEY_MAX + 1 + 10 + 1 + 10 + 1 + 20 + 2;

/// `VALUE key flags len[ cas]\r\n`. The data block and its [`CRLF`] are the caller's to add. A key
/// of more than [`KEY_MAX`] bytes is cut off there.
#[inline]
pub fn value_head(out: &mut Vec<u8>, key: &[u8], flags: u32, len: usize, cas: Option<u64>) {
    // Put together here first: appending so many little pieces would cost more than copying them.
    let mut head = [0; VALUE_HEAD_MAX];
    head[..6].copy_from_slice(b"VALUE ");
    let key = &key[..key.len().min(KEY_MAX)];
    head[6..][..key.len()].copy_from_slice(key);
    let mut at = put_number(&mut head, 6 + key.len(), u64::from(flags));
    at = put_number(&mut head, at, len as u64);
    if let Some(cas) = cas {
        at = put_number(&mut head, at, cas);
    }
    head[at..at + 2].copy_from_slice(CRLF);
    out.extend_from_slice(&head[..at + 2]);
}

/// Writes a blank and a number at `at`; returns where it ends.
#[inline]
fn put_number(head: &mut [u8; VALUE_HEAD_MAX], at: usize, n: u64) -> usize {
    head[at] = b' ';
    if n < 10 {
        head[at + 1] = b'0' + n as u8;
        return at + 2;
    }
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(n).as_bytes();
    head[at + 1..][..digits.len()].copy_from_slice(digits);
    at + 1 + digits.len()
}

/// A whole value of a get.
pub fn value(out: &mut Vec<u8>, key: &[u8], flags: u32, data: &[u8], cas: Option<u64>) {
    value_head(out, key, flags, data.len(), cas);
    out.extend_from_slice(data);
    out.extend_from_slice(CRLF);
}

/// The answer to incr and decr.
pub fn number(out: &mut Vec<u8>, n: u64) {
    push_u64(out, n);
    out.extend_from_slice(CRLF);
}

/// `VERSION version\r\n`
pub fn version(out: &mut Vec<u8>, version: &str) {
    out.extend_from_slice(b"VERSION ");
    out.extend_from_slice(version.as_bytes());
    out.extend_from_slice(CRLF);
}

/// `STAT name value\r\n`
pub fn stat(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(b"STAT ");
    out.extend_from_slice(name.as_bytes());
    out.push(b' ');
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(CRLF);
}

/// `STAT name value\r\n` with a number.
pub fn stat_u64(out: &mut Vec<u8>, name: &str, value: u64) {
    out.extend_from_slice(b"STAT ");
    out.extend_from_slice(name.as_bytes());
    out.push(b' ');
    push_u64(out, value);
    out.extend_from_slice(CRLF);
}

/// One request as its command line. A storage command's data block is the caller's to add (see
/// [`store`]); of a get with `more` the keys at hand are sent as one whole get, whose END is then
/// one of several.
pub fn request(out: &mut Vec<u8>, request: &Request<'_>) {
    match *request {
        Request::Get { verb, exptime, ref keys, .. } => {
            let keys = keys.clone().map_while(Result::ok);
            get(out, verb, exptime, keys);
        }
        Request::Store(ref head) => store_head(out, head),
        Request::Delete { key, noreply } => keyed(out, b"delete ", key, None, noreply),
        Request::Arith { verb, key, delta, noreply } => {
            let verb = match verb {
                ArithVerb::Incr => &b"incr "[..],
                ArithVerb::Decr => b"decr ",
            };
            keyed(out, verb, key, Some((false, delta)), noreply);
        }
        Request::Touch { key, exptime, noreply } => {
            keyed(out, b"touch ", key, Some(sign(exptime)), noreply);
        }
        Request::FlushAll { delay, noreply } => {
            out.extend_from_slice(b"flush_all");
            if delay != 0 {
                out.push(b' ');
                push_i64(out, delay);
            }
            end(out, noreply);
        }
        // Any word that is no number.
        Request::BadFlush { noreply } => {
            out.extend_from_slice(b"flush_all ?");
            end(out, noreply);
        }
        Request::Version => out.extend_from_slice(b"version\r\n"),
        Request::Verbosity { level, noreply } => {
            out.extend_from_slice(b"verbosity ");
            push_u64(out, u64::from(level));
            end(out, noreply);
        }
        Request::Stats { args } => {
            out.extend_from_slice(b"stats");
            if !args.is_empty() {
                out.push(b' ');
                out.extend_from_slice(args);
            }
            out.extend_from_slice(CRLF);
        }
        Request::Watch { args } => {
            out.extend_from_slice(b"watch");
            if !args.is_empty() {
                out.push(b' ');
                out.extend_from_slice(args);
            }
            out.extend_from_slice(CRLF);
        }
        Request::Quit => out.extend_from_slice(b"quit\r\n"),
        Request::Shutdown { graceful, noreply } => {
            out.extend_from_slice(match graceful {
                Some(true) => b"shutdown graceful",
                Some(false) => b"shutdown",
                // Any word that is no mode: what was refused must not become a shutdown.
                None => b"shutdown ?",
            });
            end(out, noreply);
        }
        Request::DebugTime(what) => {
            out.extend_from_slice(b"debugtime ");
            match what {
                ClockMove::Pause => out.push(b'p'),
                ClockMove::Resume => out.push(b'r'),
                ClockMove::Seconds(secs) => push_i64(out, secs),
            }
            out.extend_from_slice(CRLF);
        }
        Request::Admin { line } => {
            out.extend_from_slice(line);
            out.extend_from_slice(CRLF);
        }
        Request::MetaNoop => out.extend_from_slice(b"mn\r\n"),
        Request::MetaGet { key, flags } => meta(out, b"mg ", key, None, flags),
        Request::MetaSet { key, len, flags } => meta(out, b"ms ", key, Some(len), flags),
        Request::MetaDelete { key, flags } => meta(out, b"md ", key, None, flags),
        Request::MetaArith { key, flags } => meta(out, b"ma ", key, None, flags),
        Request::MetaDebug { key, flags } => meta(out, b"me ", key, None, flags),
    }
}

/// Longest key that fits 250 bytes of base64.
const BASE64_KEY_MAX: usize = KEY_MAX / 4 * 3;

/// A meta command for any key: in base64, with the flag `b`, where the key is no word. `verb` ends
/// with a blank; `flags` are separated by blanks.
pub fn meta_any(out: &mut Vec<u8>, verb: &[u8], key: &[u8], len: Option<u32>, flags: &[u8]) {
    if is_plain_key(key) || key.len() > BASE64_KEY_MAX {
        return meta(out, verb, key, len, flags);
    }
    let mut base64 = Vec::with_capacity(KEY_MAX);
    encode_base64(&mut base64, key);
    let binary = [b"b ", flags].concat();
    meta(out, verb, &base64, len, binary.trim_ascii_end());
}

/// A delete of any key: an md where a classic line cannot have it.
pub fn delete_any(out: &mut Vec<u8>, key: &[u8]) {
    if is_plain_key(key) {
        keyed(out, b"delete ", key, None, false);
    } else {
        meta_any(out, b"md ", key, None, b"");
    }
}

/// A get of any number of keys. `exptime` goes out with gat and gats only.
pub fn get<'k>(
    out: &mut Vec<u8>,
    verb: GetVerb,
    exptime: i64,
    keys: impl IntoIterator<Item = &'k [u8]>,
) {
    out.extend_from_slice(match verb {
        GetVerb::Get => &b"get"[..],
        GetVerb::Gets => b"gets",
        GetVerb::Gat => b"gat",
        GetVerb::Gats => b"gats",
    });
    if matches!(verb, GetVerb::Gat | GetVerb::Gats) {
        out.push(b' ');
        push_i64(out, exptime);
    }
    for key in keys {
        out.push(b' ');
        out.extend_from_slice(key);
    }
    out.extend_from_slice(CRLF);
}

/// The command line of a storage command.
pub fn store_head(out: &mut Vec<u8>, head: &StoreHead<'_>) {
    out.extend_from_slice(match head.verb {
        StoreVerb::Set => &b"set "[..],
        StoreVerb::Add => b"add ",
        StoreVerb::Replace => b"replace ",
        StoreVerb::Append => b"append ",
        StoreVerb::Prepend => b"prepend ",
        StoreVerb::Cas(_) => b"cas ",
    });
    out.extend_from_slice(head.key);
    out.push(b' ');
    push_u64(out, u64::from(head.flags));
    out.push(b' ');
    push_i64(out, head.exptime);
    out.push(b' ');
    push_u64(out, u64::from(head.len));
    if let StoreVerb::Cas(unique) = head.verb {
        out.push(b' ');
        push_u64(out, unique);
    }
    end(out, head.noreply);
}

/// A whole storage command. `head.len` must be the length of `data`.
pub fn store(out: &mut Vec<u8>, head: &StoreHead<'_>, data: &[u8]) {
    debug_assert_eq!(head.len as usize, data.len());
    store_head(out, head);
    out.extend_from_slice(data);
    out.extend_from_slice(CRLF);
}

/// `verb key[ len][ flags]\r\n`
fn meta(out: &mut Vec<u8>, verb: &[u8], key: &[u8], len: Option<u32>, flags: &[u8]) {
    out.extend_from_slice(verb);
    out.extend_from_slice(key);
    if let Some(len) = len {
        out.push(b' ');
        push_u64(out, u64::from(len));
    }
    if !flags.is_empty() {
        out.push(b' ');
        out.extend_from_slice(flags);
    }
    out.extend_from_slice(CRLF);
}

/// `verb key[ number][ noreply]\r\n`
fn keyed(out: &mut Vec<u8>, verb: &[u8], key: &[u8], n: Option<(bool, u64)>, noreply: bool) {
    out.extend_from_slice(verb);
    out.extend_from_slice(key);
    if let Some((negative, magnitude)) = n {
        out.extend_from_slice(if negative { b" -" } else { b" " });
        push_u64(out, magnitude);
    }
    end(out, noreply);
}

fn end(out: &mut Vec<u8>, noreply: bool) {
    out.extend_from_slice(if noreply { b" noreply\r\n" } else { b"\r\n" });
}

fn sign(n: i64) -> (bool, u64) {
    (n < 0, n.unsigned_abs())
}

fn push_i64(out: &mut Vec<u8>, n: i64) {
    if n < 0 {
        out.push(b'-');
    }
    push_u64(out, n.unsigned_abs());
}
