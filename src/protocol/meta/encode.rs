//! Replies of the meta commands.
//!
//! Owns their exact form: return flags stand in the order in which they were asked for, and flags
//! that change something act in that order too, so that `t T30` tells the old time to live and
//! `T30 t` the new one. Never decides what to answer.

use super::key::is_word;
use super::{encode_base64, Meta};
use crate::base::num::push_u64;
use crate::protocol::classic::encode::CRLF;

/// The outcome of an ms, md or ma, where it is no number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// `HD`: done.
    Done,
    /// `NS`: the condition of the mode does not hold.
    NotStored,
    /// `EX`: the item has another CAS unique.
    Exists,
    /// `NF`: there is no such item.
    NotFound,
}

/// What a meta get may tell of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The item was stored with a key in base64.
    pub binary_key: bool,
    /// The client's flags.
    pub flags: u32,
    /// The CAS unique.
    pub cas: u64,
    /// Length of the value.
    pub len: usize,
    /// Seconds to live before this command; None for ever.
    pub ttl: Option<u32>,
    /// Whether a get had found it before this command.
    pub fetched: bool,
    /// Seconds since it was last used, before this command.
    pub last_access_secs: u32,
    /// This command has made the item (`N`).
    pub created: bool,
    /// Somebody was told to renew it before this command (`Z`).
    pub sent: bool,
    /// It is stale (`X`).
    pub stale: bool,
    /// This command is told to renew it (`W`).
    pub won: bool,
}

/// What a meta arithmetic tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number {
    /// The new value.
    pub value: u64,
    /// The CAS unique it has now.
    pub cas: u64,
    /// Seconds to live before this command; None for ever.
    pub ttl: Option<u32>,
    /// This command has made the item (`N`).
    pub created: bool,
}

/// What a meta debug tells of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Debugged<'k> {
    /// The key.
    pub key: &'k [u8],
    /// The item was stored with a key in base64.
    pub binary_key: bool,
    /// Seconds to live; None for ever.
    pub ttl: Option<u32>,
    /// Seconds since it was last used.
    pub last_access_secs: u32,
    /// The CAS unique.
    pub cas: u64,
    /// Whether a get has found it.
    pub fetched: bool,
    /// The slab class it would have in memcached.
    pub class: u8,
    /// Bytes it takes in memcached, overhead included.
    pub size: usize,
}

impl Meta<'_> {
    /// `HD flags\r\n`, or `VA len flags\r\n` when the value is sent: then the caller adds the data
    /// block and its `\r\n`. True for the latter. `ttl` turns an exptime as a client writes it into
    /// the seconds that are left.
    pub fn encode_hit(
        &self,
        out: &mut Vec<u8>,
        hit: &Hit,
        ttl: impl Fn(i64) -> Option<u32>,
    ) -> bool {
        let value = self.value && self.compare != Some(hit.cas);
        if value {
            out.extend_from_slice(b"VA ");
            push_u64(out, hit.len as u64);
        } else {
            out.extend_from_slice(b"HD");
        }
        let mut left = hit.ttl;
        for word in self.words() {
            match word[0] {
                b's' => number(out, b" s", hit.len as u64),
                b'c' => number(out, b" c", hit.cas),
                b'f' => number(out, b" f", u64::from(hit.flags)),
                b'l' => number(out, b" l", u64::from(hit.last_access_secs)),
                b'h' => number(out, b" h", u64::from(hit.fetched)),
                b'k' => self.key(out, hit.binary_key),
                flag => self.common(out, flag, word, &mut left, hit.created, &ttl),
            }
        }
        for (mark, set) in [(b" Z", hit.sent), (b" X", hit.stale), (b" W", hit.won)] {
            if set {
                out.extend_from_slice(mark);
            }
        }
        out.extend_from_slice(CRLF);
        value
    }

    /// `EN flags\r\n`, or nothing when the command is quiet: a meta get found nothing.
    pub fn encode_miss(&self, out: &mut Vec<u8>) {
        if !self.quiet {
            self.line(out, b"EN");
        }
    }

    /// `CD flags\r\n`, or nothing when a quiet command has done its work: md, and ma without a
    /// number.
    pub fn encode_status(&self, out: &mut Vec<u8>, status: Status) {
        if status != Status::Done || !self.quiet {
            self.line(out, status.code());
        }
    }

    /// The reply of an ms. `cas` and `len` are the item's now, or what was sent when nothing was
    /// stored: then memcached's `c` is 0.
    pub fn encode_set(&self, out: &mut Vec<u8>, status: Status, cas: u64, len: usize) {
        if status == Status::Done && self.quiet {
            return;
        }
        out.extend_from_slice(status.code());
        for word in self.words() {
            match word[0] {
                b'c' => number(out, b" c", if status == Status::Done { cas } else { 0 }),
                b's' => number(out, b" s", len as u64),
                b'O' => opaque(out, word),
                b'k' => self.key(out, self.key.is_binary()),
                _ => {}
            }
        }
        out.extend_from_slice(CRLF);
    }

    /// The reply of an ma that has counted, the number itself included. `ttl` as for
    /// [`Meta::encode_hit`].
    pub fn encode_number(
        &self,
        out: &mut Vec<u8>,
        reply: &Number,
        ttl: impl Fn(i64) -> Option<u32>,
    ) {
        if self.quiet {
            return;
        }
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(reply.value);
        if self.value {
            out.extend_from_slice(b"VA ");
            push_u64(out, digits.len() as u64);
        } else {
            out.extend_from_slice(b"HD");
        }
        let mut left = reply.ttl;
        for word in self.words() {
            match word[0] {
                b'c' => number(out, b" c", reply.cas),
                b'k' => self.key(out, self.key.is_binary()),
                flag => self.common(out, flag, word, &mut left, reply.created, &ttl),
            }
        }
        out.extend_from_slice(CRLF);
        if self.value {
            out.extend_from_slice(digits.as_bytes());
            out.extend_from_slice(CRLF);
        }
    }

    /// The flags that mg and ma answer alike. `left` is the time to live as far as the flags are
    /// gone through.
    fn common(
        &self,
        out: &mut Vec<u8>,
        flag: u8,
        word: &[u8],
        left: &mut Option<u32>,
        created: bool,
        ttl: &impl Fn(i64) -> Option<u32>,
    ) {
        match (flag, self.touch, self.vivify) {
            (b't', ..) => match *left {
                Some(secs) => number(out, b" t", u64::from(secs)),
                None => out.extend_from_slice(b" t-1"),
            },
            (b'O', ..) => opaque(out, word),
            (b'T', Some(exptime), _) => *left = ttl(exptime),
            (b'N', _, Some(exptime)) if created => *left = ttl(exptime),
            _ => {}
        }
    }

    /// A reply that tells nothing of an item.
    fn line(&self, out: &mut Vec<u8>, code: &[u8; 2]) {
        out.extend_from_slice(code);
        for word in self.words() {
            match word[0] {
                b'O' => opaque(out, word),
                b'k' => self.key(out, self.key.is_binary()),
                _ => {}
            }
        }
        out.extend_from_slice(CRLF);
    }

    fn key(&self, out: &mut Vec<u8>, binary: bool) {
        let key = self.key.as_bytes();
        out.extend_from_slice(b" k");
        // memcached sends a binary key raw where it has forgotten that it came in base64 (items
        // made by mg N, ma N or md x, or appended to). So do we while the line stays readable.
        if binary || !is_word(key) {
            encode_base64(out, key);
            out.extend_from_slice(b" b");
        } else {
            out.extend_from_slice(key);
        }
    }
}

impl Status {
    const fn code(self) -> &'static [u8; 2] {
        match self {
            Status::Done => b"HD",
            Status::NotStored => b"NS",
            Status::Exists => b"EX",
            Status::NotFound => b"NF",
        }
    }
}

/// `ME key exp=... la=... cas=... fetch=... cls=... size=...\r\n`
pub fn encode_debug(out: &mut Vec<u8>, item: &Debugged<'_>) {
    out.extend_from_slice(b"ME ");
    if item.binary_key || !is_word(item.key) {
        encode_base64(out, item.key);
    } else {
        out.extend_from_slice(item.key);
    }
    match item.ttl {
        Some(secs) => number(out, b" exp=", u64::from(secs)),
        None => out.extend_from_slice(b" exp=-1"),
    }
    number(out, b" la=", u64::from(item.last_access_secs));
    number(out, b" cas=", item.cas);
    out.extend_from_slice(if item.fetched { b" fetch=yes" } else { b" fetch=no" });
    number(out, b" cls=", u64::from(item.class));
    number(out, b" size=", item.size as u64);
    out.extend_from_slice(CRLF);
}

fn number(out: &mut Vec<u8>, name: &[u8], n: u64) {
    out.extend_from_slice(name);
    push_u64(out, n);
}

fn opaque(out: &mut Vec<u8>, word: &[u8]) {
    out.push(b' ');
    out.extend_from_slice(word);
}
