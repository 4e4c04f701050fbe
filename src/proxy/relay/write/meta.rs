//! What the relay has to know of a meta command: its key, what it may change, and what its answer
//! means.
//!
//! Owns the words of one meta line on their way to a server and to its backup. They go on as they
//! came, but for `q`: every request has its answer here, so that answers can be matched, and what
//! memcached would have kept to itself is kept here, by [`MetaLine::keeps_silent`]. Never decides
//! who is asked.

use super::super::super::backend::{Expect, Kind};
use super::super::BACKUP_UNIQUE;
use super::Outcome;
use crate::base::num::{parse_u64, push_u64};
use crate::protocol::classic::{encode, reply::is_plain_key, Reply};
use crate::protocol::meta::{self, Key, Meta, SetMode, Status};
use crate::protocol::reject::Reject;
use crate::protocol::{ArithVerb, Request, StoreHead, StoreVerb};

/// Which meta command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MetaVerb {
    Get,
    Set,
    Delete,
    Arith,
    Debug,
}

/// The words of one meta command.
#[derive(Debug, Default)]
pub(super) struct MetaLine {
    /// The key in base64, where it came so.
    base64: Box<[u8]>,
    /// The flags without `q`.
    flags: Box<[u8]>,
    /// `q` was among them.
    quiet: bool,
    /// Some flag does more than to show what there is.
    acts: bool,
    /// `k` was taken out of an mg whose key is no word: memcached shows such a key as it is, with
    /// whatever ends a line, where it has forgotten that it came in base64. How many return flags
    /// stand before it in a hit, and in a miss.
    key_behind: Option<(u8, u8)>,
}

/// How a line is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct How {
    /// Without `N`: where it finds nothing, the backup is asked before anything is made.
    pub no_vivify: bool,
    /// To a backup in the server's place: uniques are its own, and come marked.
    pub backup: bool,
}

impl MetaVerb {
    fn name(self) -> &'static [u8] {
        match self {
            MetaVerb::Get => b"mg ",
            MetaVerb::Set => b"ms ",
            MetaVerb::Delete => b"md ",
            MetaVerb::Arith => b"ma ",
            MetaVerb::Debug => b"me ",
        }
    }

    /// The verb that has such flags; a debug line has none.
    pub(super) fn with_flags(self) -> meta::Verb {
        match self {
            MetaVerb::Get | MetaVerb::Debug => meta::Verb::Get,
            MetaVerb::Set => meta::Verb::Set,
            MetaVerb::Delete => meta::Verb::Delete,
            MetaVerb::Arith => meta::Verb::Arith,
        }
    }
}

fn words(flags: &[u8]) -> impl Iterator<Item = &[u8]> {
    flags.split(|&byte| byte == b' ').filter(|word| !word.is_empty())
}

impl MetaLine {
    /// The line of a request, and its key decoded. Flags are not looked into further than routing
    /// needs it: what is wrong with them the server says in its own words.
    pub(super) fn new<'a>(
        verb: MetaVerb,
        key: &'a [u8],
        flags: &'a [u8],
    ) -> Result<(MetaLine, Key<'a>), Reject> {
        let (mut quiet, mut acts, mut binary) = (0, false, false);
        for word in words(flags) {
            match word[0] {
                b'q' => quiet += 1,
                b'b' => binary = true,
                b'C' | b'E' | b'I' | b'M' | b'N' | b'R' | b'T' | b'x' => acts = true,
                _ => {}
            }
        }
        if quiet > 1 && verb != MetaVerb::Debug {
            // It must not reach a server, not even to be refused.
            Meta::parse(verb.with_flags(), key, flags)?;
        }
        let decoded = match binary {
            true if verb == MetaVerb::Debug => meta::debug_key(key, flags).ok(),
            true => meta::BinaryKey::decode(key).map(Key::Binary),
            false => None,
        };
        let odd = |key: &Key<'_>| key.is_binary() && !is_plain_key(key.as_bytes());
        let odd = verb == MetaVerb::Get && decoded.as_ref().is_some_and(odd);
        let once = words(flags).filter(|word| word[0] == b'k').count() == 1;
        let at = words(flags).position(|word| word == b"k").filter(|_| odd && once);
        let key_behind = at.map(|at| {
            let shown = |which: &[u8]| {
                words(flags).take(at).filter(|word| which.contains(&word[0])).count() as u8
            };
            (shown(b"stcflhO"), shown(b"O"))
        });
        let dropped = |word: &[u8]| word[0] == b'q' || word == b"k" && key_behind.is_some();
        let plain = match quiet > 0 || key_behind.is_some() {
            false => flags.into(),
            true => {
                let mut kept = Vec::with_capacity(flags.len());
                put_words(&mut kept, words(flags).filter(|word| !dropped(word)));
                kept.drain(..usize::from(!kept.is_empty()));
                kept.into()
            }
        };
        let base64 = if decoded.as_ref().is_some_and(Key::is_binary) { key } else { &[] };
        let quiet = quiet > 0 && verb != MetaVerb::Debug;
        let line = MetaLine { base64: base64.into(), flags: plain, quiet, acts, key_behind };
        Ok((line, decoded.unwrap_or(Key::Text(key))))
    }

    /// Whether the key came in base64.
    pub(super) fn is_binary(&self) -> bool {
        !self.base64.is_empty()
    }

    /// The key as it stands in the line; `key` is the decoded one.
    fn word<'a>(&'a self, key: &'a [u8]) -> &'a [u8] {
        if self.base64.is_empty() {
            key
        } else {
            &self.base64
        }
    }

    /// The flags, understood. None when they are not: the server will say why.
    pub(super) fn parse<'a>(&'a self, verb: MetaVerb, key: &'a [u8]) -> Option<Meta<'a>> {
        self.read(verb, key).ok()
    }

    /// The same, with the reason why not.
    pub(super) fn read<'a>(&'a self, verb: MetaVerb, key: &'a [u8]) -> Result<Meta<'a>, Reject> {
        Meta::parse(verb.with_flags(), self.word(key), &self.flags)
    }

    fn has(&self, flag: u8) -> bool {
        words(&self.flags).any(|word| word[0] == flag)
    }

    /// Whether it may make an item where there is none, or remove one.
    pub(super) fn makes_or_removes(&self, verb: MetaVerb) -> bool {
        match verb {
            MetaVerb::Set | MetaVerb::Delete => true,
            MetaVerb::Get | MetaVerb::Arith => self.acts && self.has(b'N'),
            MetaVerb::Debug => false,
        }
    }

    /// Whether it makes an item where there is none, and so would hide what the backup has.
    pub(super) fn vivifies(&self, verb: MetaVerb) -> bool {
        match verb {
            MetaVerb::Get | MetaVerb::Arith => self.acts && self.has(b'N'),
            MetaVerb::Set => self.acts && self.has(b'N') && self.has(b'M'),
            MetaVerb::Delete | MetaVerb::Debug => false,
        }
    }

    /// Whether it does nothing where there is an item.
    pub(super) fn only_adds(&self, verb: MetaVerb) -> bool {
        let mode = |word: &[u8]| matches!(word, [b'M', b'E' | b'e', ..]);
        verb == MetaVerb::Set && self.acts && words(&self.flags).any(mode)
    }

    /// Whether it leaves every item as it is, but for its place in the LRU.
    pub(super) fn only_reads(&self, verb: MetaVerb) -> bool {
        match verb {
            MetaVerb::Get => !self.acts || !(self.has(b'T') || self.has(b'N')),
            MetaVerb::Debug => true,
            _ => false,
        }
    }

    /// Whether it does the same when it is done twice.
    pub(super) fn is_idempotent(&self, verb: MetaVerb) -> bool {
        let has = |flags: &[u8]| self.acts && flags.iter().any(|&flag| self.has(flag));
        match verb {
            MetaVerb::Get => !has(b"NR"),
            MetaVerb::Debug => true,
            MetaVerb::Set => !has(b"CIM"),
            MetaVerb::Delete => !has(b"CIx"),
            MetaVerb::Arith => false,
        }
    }

    /// The unique that the item must have, where that is a condition.
    pub(super) fn compare(&self, verb: MetaVerb) -> Option<u64> {
        if !self.acts || matches!(verb, MetaVerb::Get | MetaVerb::Debug) {
            return None;
        }
        words(&self.flags).find(|word| word[0] == b'C').and_then(|word| parse_u64(&word[1..]))
    }

    /// Whether the client numbers versions itself (`E`): then server and backup have the same ones.
    pub(super) fn has_own_uniques(&self) -> bool {
        self.acts && self.has(b'E')
    }

    /// The command as the client sent it, as far as `how` lets it.
    pub(super) fn encode(
        &self,
        out: &mut Vec<u8>,
        verb: MetaVerb,
        key: &[u8],
        data: &[u8],
        how: How,
    ) {
        self.head(out, verb, key, data);
        if !self.acts {
            put_words(out, words(&self.flags));
        } else {
            let own = self.has_own_uniques();
            for word in words(&self.flags) {
                match word[0] {
                    b'N' if how.no_vivify => {}
                    b'C' if how.backup && !own => match parse_u64(&word[1..]) {
                        Some(unique) if unique & BACKUP_UNIQUE != 0 => {
                            out.extend_from_slice(b" C");
                            push_u64(out, unique & !BACKUP_UNIQUE);
                        }
                        // An mg whose unique is the server's is sent the value.
                        _ if verb == MetaVerb::Get => {}
                        _ => put_words(out, [word]),
                    },
                    _ => put_words(out, [word]),
                }
            }
        }
        tail(out, verb, data);
    }

    fn head(&self, out: &mut Vec<u8>, verb: MetaVerb, key: &[u8], data: &[u8]) {
        out.extend_from_slice(verb.name());
        out.extend_from_slice(self.word(key));
        if verb == MetaVerb::Set {
            out.push(b' ');
            push_u64(out, data.len() as u64);
        }
    }

    /// The answer with the key, where [`MetaLine::key_behind`] has kept it from the server.
    pub(super) fn with_key(&self, reply: &Reply<'_>, raw: &[u8]) -> Option<Vec<u8>> {
        let (hit, miss) = self.key_behind?;
        let before = match reply {
            // `VA` has its length in front.
            Reply::MetaValue { .. } => hit + 2,
            Reply::MetaHit { .. } => hit + 1,
            Reply::MetaMiss { .. } => miss + 1,
            _ => return None,
        };
        let end = memchr::memchr2(b'\r', b'\n', raw)?;
        let mut blanks = memchr::memchr_iter(b' ', &raw[..end]).skip(usize::from(before) - 1);
        let (head, rest) = raw.split_at(blanks.next().unwrap_or(end));
        Some([head, b" k", &self.base64, b" b", rest].concat())
    }

    /// Whether memcached would have said nothing. `q` hides a miss of mg and the success of the
    /// others, and nothing else: an md that finds nothing says so.
    pub(super) fn keeps_silent(&self, verb: MetaVerb, reply: &Reply<'_>) -> bool {
        self.quiet
            && match verb {
                MetaVerb::Get => matches!(reply, Reply::MetaMiss { .. }),
                MetaVerb::Debug => false,
                _ => matches!(reply, Reply::MetaHit { .. } | Reply::MetaValue { .. }),
            }
    }

    /// What the server's answer means.
    pub(super) fn outcome(&self, verb: MetaVerb, key: &[u8], reply: &Reply<'_>) -> Outcome {
        let done = matches!(reply, Reply::MetaHit { .. } | Reply::MetaValue { .. });
        let code = match reply {
            Reply::MetaOther(line) => &line[..2],
            _ => b"",
        };
        match verb {
            MetaVerb::Get => match reply {
                Reply::MetaMiss { .. } => Outcome::Absent,
                Reply::MetaHit { flags } | Reply::MetaValue { flags, .. }
                    if self.changed(flags) =>
                {
                    Outcome::Done
                }
                _ => Outcome::Final,
            },
            MetaVerb::Set => {
                let mode = self.parse(verb, key).map(|meta| meta.set_mode());
                let needs_item =
                    matches!(mode, Some(SetMode::Append | SetMode::Prepend | SetMode::Replace));
                match (reply, code) {
                    _ if done => Outcome::Done,
                    (_, b"NS") if needs_item => Outcome::Absent,
                    (_, b"NF") => Outcome::Absent,
                    (Reply::Error(line), _) if line.starts_with(b"SERVER_ERROR") => {
                        Outcome::Dropped
                    }
                    _ => Outcome::Final,
                }
            }
            MetaVerb::Delete if done => Outcome::Done,
            MetaVerb::Delete if code == b"NF" && self.acts => Outcome::Absent,
            MetaVerb::Delete if code == b"NF" => Outcome::Gone,
            MetaVerb::Arith if done => Outcome::Done,
            MetaVerb::Arith if code == b"NF" => Outcome::Absent,
            _ => Outcome::Final,
        }
    }

    /// Whether an mg with such return flags has changed the item: its time, or who renews it.
    fn changed(&self, flags: &[u8]) -> bool {
        self.acts && self.has(b'T') || words(flags).any(|word| word == b"W")
    }

    /// What the client gets when the unique it gave cannot be the item's.
    pub(super) fn exists(&self, verb: MetaVerb, key: &[u8], len: usize) -> Vec<u8> {
        let mut out = Vec::new();
        match self.parse(verb, key) {
            Some(meta) if verb == MetaVerb::Set => {
                meta.encode_set(&mut out, Status::Exists, 0, len);
            }
            Some(meta) => meta.encode_status(&mut out, Status::Exists),
            None => out.extend_from_slice(b"EX\r\n"),
        }
        out
    }

    /// The answer to an md, where a delete was asked instead.
    pub(super) fn deleted(&self, key: &[u8], there: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let status = if there { Status::Done } else { Status::NotFound };
        match self.parse(MetaVerb::Delete, key) {
            Some(_) if there && self.quiet => {}
            Some(meta) => meta.encode_status(&mut out, status),
            None => {}
        }
        out
    }
}

/// What the backup is sent after the server has done a meta command.
pub(super) enum Mirror<'a> {
    /// Nothing to do.
    Nothing,
    /// What was done cannot be told to this backup: the key must not be read from it any more.
    Forget,
    /// The same in the classic protocol.
    Classic(Request<'a>),
    /// The same meta command without its conditions, with these flags.
    Meta(Vec<u8>),
}

impl MetaLine {
    /// What a backup does once the server has done it. `speaks_meta`: whether it would understand.
    pub(super) fn mirror<'a>(
        &'a self,
        verb: MetaVerb,
        key: &'a [u8],
        data: &[u8],
        speaks_meta: bool,
    ) -> Mirror<'a> {
        let Some(meta) = self.parse(verb, key) else { return Mirror::Forget };
        if verb == MetaVerb::Set && meta.stale && meta.compare.is_some() {
            // Whether it was stored as stale the server does not tell.
            return Mirror::Forget;
        }
        if let Some(request) = self.classic_mirror(&meta, verb, key, data) {
            return Mirror::Classic(request);
        }
        if !speaks_meta {
            let harmless = verb == MetaVerb::Get || self.is_binary() && !is_plain_key(key);
            return if harmless { Mirror::Nothing } else { Mirror::Forget };
        }
        let in_place = matches!(meta.set_mode(), SetMode::Append | SetMode::Prepend);
        let kept = |flag: u8| match verb {
            MetaVerb::Set => b"bFTE".contains(&flag) || in_place && b"MN".contains(&flag),
            MetaVerb::Delete => b"bIxTEF".contains(&flag),
            MetaVerb::Arith => b"bDMTENJ".contains(&flag),
            MetaVerb::Get => b"bTNREu".contains(&flag),
            MetaVerb::Debug => false,
        };
        let mut flags = Vec::new();
        put_words(&mut flags, meta.words().filter(|word| kept(word[0])));
        Mirror::Meta(flags)
    }

    /// Nearly everything can be said in words that a backup of any age knows.
    fn classic_mirror<'a>(
        &self,
        meta: &Meta<'_>,
        verb: MetaVerb,
        key: &'a [u8],
        data: &[u8],
    ) -> Option<Request<'a>> {
        if self.is_binary() || !is_plain_key(key) || meta.cas.is_some() {
            return None;
        }
        let noreply = false;
        let made = meta.vivify.is_some() && self.vivifies(verb);
        match verb {
            MetaVerb::Set if !made => {
                let verb = match meta.set_mode() {
                    SetMode::Append => StoreVerb::Append,
                    SetMode::Prepend => StoreVerb::Prepend,
                    _ => StoreVerb::Set,
                };
                let (flags, exptime) = (meta.client_flags, meta.touch.unwrap_or(0));
                let len = data.len() as u32;
                Some(Request::Store(StoreHead { verb, key, flags, exptime, len, noreply }))
            }
            MetaVerb::Delete if !meta.stale && !meta.remove_value => {
                Some(Request::Delete { key, noreply })
            }
            MetaVerb::Arith if !made && meta.touch.is_none() => {
                let verb = match meta.arith_mode() {
                    meta::ArithMode::Incr => ArithVerb::Incr,
                    meta::ArithMode::Decr => ArithVerb::Decr,
                };
                Some(Request::Arith { verb, key, delta: meta.delta, noreply })
            }
            _ => None,
        }
    }

    /// Sends a [`Mirror::Meta`].
    pub(super) fn encode_mirror(
        &self,
        out: &mut Vec<u8>,
        verb: MetaVerb,
        key: &[u8],
        data: &[u8],
        flags: &[u8],
    ) {
        self.head(out, verb, key, data);
        out.extend_from_slice(flags);
        tail(out, verb, data);
    }
}

/// The kind of answer that a classic request has, and whether it may be done twice.
pub(super) fn kind(request: &Request<'_>) -> Kind {
    match request {
        Request::Store(StoreHead { verb: StoreVerb::Set | StoreVerb::Replace, .. }) => {
            Expect::Stored.again()
        }
        Request::Store(_) => Expect::Stored.once(),
        Request::Delete { .. } => Expect::Deleted.again(),
        Request::Arith { .. } => Expect::Number.once(),
        Request::Touch { .. } => Expect::Touched.again(),
        _ => Expect::Values.again(),
    }
}

fn put_words<'w>(out: &mut Vec<u8>, words: impl IntoIterator<Item = &'w [u8]>) {
    for word in words {
        out.push(b' ');
        out.extend_from_slice(word);
    }
}

fn tail(out: &mut Vec<u8>, verb: MetaVerb, data: &[u8]) {
    out.extend_from_slice(encode::CRLF);
    if verb == MetaVerb::Set {
        out.extend_from_slice(data);
        out.extend_from_slice(encode::CRLF);
    }
}

/// A backup's answer with its CAS unique marked as such ([`BACKUP_UNIQUE`]).
pub(super) fn marked(raw: &[u8]) -> Vec<u8> {
    let end = memchr::memchr(b'\n', raw).unwrap_or(raw.len());
    let line = raw[..end].strip_suffix(b"\r").unwrap_or(&raw[..end]);
    let mut out = Vec::with_capacity(raw.len() + 20);
    for (n, word) in line.split(|&byte| byte == b' ').enumerate() {
        if n > 0 {
            out.push(b' ');
        }
        match word {
            [b'c', digits @ ..] if n > 0 && parse_u64(digits).is_some_and(|unique| unique > 0) => {
                out.push(b'c');
                push_u64(&mut out, parse_u64(digits).unwrap_or(0) | BACKUP_UNIQUE);
            }
            _ => out.extend_from_slice(word),
        }
    }
    out.extend_from_slice(&raw[line.len()..]);
    out
}
