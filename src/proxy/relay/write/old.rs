//! Meta commands for servers that are older than memcached 1.6.
//!
//! Owns the way there and back. What classic commands can say is asked in them and answered as
//! memcached 1.6 would; anything else is refused in words that name the flag, and no server is
//! asked.
//!
//! ```text
//!   mg              get; with c or C gets; with T gat and gats, or touch where nothing is shown
//!   ms              set add replace append prepend; with C cas
//!   md              delete
//!   ma              incr decr
//!   not possible    t l h (mg); c (ms, ma); t (ma); N R E I x; C of md, ma, append, prepend;
//!                   s of append and prepend; me; a key that is no word
//! ```
//!
//! gat came with memcached 1.5.3 and touch with 1.4.8. A server that does not know them says
//! `ERROR`, and the client is told why ([`TOO_OLD`]).

use super::super::super::backend::Kind;
use super::super::BACKUP_UNIQUE;
use super::meta::{kind, MetaLine, MetaVerb};
use crate::protocol::classic::{encode, reply::is_plain_key, Keys, Reply};
use crate::protocol::meta::{ArithMode, Hit, Meta, Number, SetMode, Status};
use crate::protocol::{ArithVerb, GetVerb, Request, StoreHead, StoreVerb};

/// What the client is told where a server does not know the command that its request needs.
pub(in super::super) const TOO_OLD: &[u8] =
    b"SERVER_ERROR the server is too old for this command\r\n";

/// A value that such a server has sent.
#[derive(Debug)]
pub(super) struct Value {
    pub flags: u32,
    pub cas: Option<u64>,
    pub data: Vec<u8>,
}

/// A command in classic words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Classic<'a> {
    request: Request<'a>,
    data: &'a [u8],
}

impl Classic<'_> {
    pub(super) fn kind(&self) -> Kind {
        kind(&self.request)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        match self.request {
            Request::Store(ref head) => encode::store(out, head, self.data),
            ref request => encode::request(out, request),
        }
    }
}

/// The command in classic words, or what the client is told where there are none. `backup`: a
/// unique is the backup's, and marked.
pub(super) fn translate<'a>(
    line: &'a MetaLine,
    verb: MetaVerb,
    key: &'a [u8],
    data: &'a [u8],
    backup: bool,
) -> Result<Classic<'a>, Vec<u8>> {
    if verb == MetaVerb::Debug {
        return Err(b"CLIENT_ERROR me: the server is older than memcached 1.6\r\n".to_vec());
    }
    let meta = line.read(verb, key).map_err(|reject| reject.line.to_vec())?;
    if !is_plain_key(key) {
        return Err(b"CLIENT_ERROR key: the server is older than memcached 1.6\r\n".to_vec());
    }
    if let Some(word) = meta.words().find(|word| !can_say(verb, &meta, word[0])) {
        let mut text = b"CLIENT_ERROR flag ".to_vec();
        text.push(word[0]);
        text.extend_from_slice(b": the server is older than memcached 1.6\r\n");
        return Err(text);
    }
    let noreply = false;
    let request = match verb {
        MetaVerb::Get => get(&meta, key),
        MetaVerb::Set => {
            let verb = match (meta.compare, meta.set_mode()) {
                (Some(unique), _) if backup => StoreVerb::Cas(unique & !BACKUP_UNIQUE),
                (Some(unique), _) => StoreVerb::Cas(unique),
                (None, SetMode::Set) => StoreVerb::Set,
                (None, SetMode::Add) => StoreVerb::Add,
                (None, SetMode::Append) => StoreVerb::Append,
                (None, SetMode::Prepend) => StoreVerb::Prepend,
                (None, SetMode::Replace) => StoreVerb::Replace,
            };
            let (flags, exptime) = (meta.client_flags, meta.touch.unwrap_or(0));
            let len = data.len() as u32;
            Request::Store(StoreHead { verb, key, flags, exptime, len, noreply })
        }
        MetaVerb::Delete => Request::Delete { key, noreply },
        _ => {
            let verb = match meta.arith_mode() {
                ArithMode::Incr => ArithVerb::Incr,
                ArithMode::Decr => ArithVerb::Decr,
            };
            Request::Arith { verb, key, delta: meta.delta, noreply }
        }
    };
    Ok(Classic { request, data })
}

/// Whether a flag has a meaning in classic words, or none at all for this command.
fn can_say(verb: MetaVerb, meta: &Meta<'_>, flag: u8) -> bool {
    let plain = matches!(meta.set_mode(), SetMode::Set | SetMode::Replace);
    let grows =
        verb == MetaVerb::Set && matches!(meta.set_mode(), SetMode::Append | SetMode::Prepend);
    !match verb {
        MetaVerb::Get => b"tlhNRE".contains(&flag),
        MetaVerb::Set => {
            b"cEI".contains(&flag) || flag == b'C' && !plain || grows && b"sN".contains(&flag)
        }
        MetaVerb::Delete => b"CIxE".contains(&flag),
        _ => b"tcTNCE".contains(&flag),
    }
}

fn get<'a>(meta: &Meta<'_>, key: &'a [u8]) -> Request<'a> {
    let shows = meta.value || [b's', b'f', b'c', b'C'].iter().any(|&flag| meta.has(flag));
    let unique = meta.has(b'c') || meta.compare.is_some();
    let (verb, exptime) = match (meta.touch, unique) {
        (Some(exptime), _) if !shows => return Request::Touch { key, exptime, noreply: false },
        (Some(exptime), false) => (GetVerb::Gat, exptime),
        (Some(exptime), true) => (GetVerb::Gats, exptime),
        (None, false) => (GetVerb::Get, 0),
        (None, true) => (GetVerb::Gets, 0),
    };
    Request::Get { verb, exptime, keys: Keys::new(key), more: false }
}

/// Whether a reply is one of those that classic commands have.
pub(super) fn is_classic(reply: &Reply<'_>) -> bool {
    use Reply::{Deleted, End, Exists, NotFound, NotStored, Stored, Touched};
    matches!(reply, Stored | NotStored | Exists | NotFound | Deleted | Touched | End)
        || matches!(reply, Reply::Number(_))
        || *reply == Reply::Error(b"ERROR")
}

/// The answer of a memcached 1.6 to the meta command, from an older one's to its translation.
pub(super) fn answer(
    line: &MetaLine,
    verb: MetaVerb,
    key: &[u8],
    len: usize,
    reply: &Reply<'_>,
    value: Option<&Value>,
) -> Vec<u8> {
    let mut out = Vec::new();
    let Ok(meta) = line.read(verb, key) else { return TOO_OLD.to_vec() };
    let status = match reply {
        Reply::NotStored => Status::NotStored,
        Reply::Exists => Status::Exists,
        Reply::NotFound => Status::NotFound,
        Reply::Error(_) => return TOO_OLD.to_vec(),
        _ => Status::Done,
    };
    match (verb, reply) {
        (MetaVerb::Get, Reply::Touched) => hit(&meta, line, &mut out, None),
        (MetaVerb::Get, _) => match value {
            Some(value) => hit(&meta, line, &mut out, Some(value)),
            None => meta.encode_miss(&mut out),
        },
        (MetaVerb::Set, _) => meta.encode_set(&mut out, status, 0, len),
        (_, Reply::Number(value)) => {
            let number = Number { value: *value, cas: 0, ttl: None, created: false };
            meta.encode_number(&mut out, &number, |_| None);
        }
        _ => meta.encode_status(&mut out, status),
    }
    out
}

fn hit(meta: &Meta<'_>, line: &MetaLine, out: &mut Vec<u8>, value: Option<&Value>) {
    let hit = Hit {
        binary_key: line.is_binary(),
        flags: value.map_or(0, |value| value.flags),
        cas: value.and_then(|value| value.cas).unwrap_or(0),
        len: value.map_or(0, |value| value.data.len()),
        ttl: None,
        fetched: false,
        last_access_secs: 0,
        created: false,
        sent: false,
        stale: false,
        won: false,
    };
    if meta.encode_hit(out, &hit, |_| None) {
        out.extend_from_slice(value.map_or(&[], |value| &value.data));
        out.extend_from_slice(encode::CRLF);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(verb: MetaVerb, flags: &[u8]) -> String {
        let (line, key) = MetaLine::new(verb, b"k", flags).expect("a line");
        let mut out = Vec::new();
        match translate(&line, verb, key.as_bytes(), b"12", false) {
            Ok(classic) => classic.encode(&mut out),
            Err(text) => out = text,
        }
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn what_can_be_said_in_classic_words_is() {
        use MetaVerb::{Arith, Delete, Get, Set};
        for (verb, flags, line) in [
            (Get, &b"v k O1 q"[..], "get k\r\n"),
            (Get, b"s f c", "gets k\r\n"),
            (Get, b"v T30", "gat 30 k\r\n"),
            (Get, b"v T30 C7", "gats 30 k\r\n"),
            (Get, b"k T-1", "touch k -1\r\n"),
            (Set, b"F5 T9 q", "set k 5 9 2\r\n12\r\n"),
            (Set, b"ME", "add k 0 0 2\r\n12\r\n"),
            (Set, b"MA", "append k 0 0 2\r\n12\r\n"),
            (Set, b"MP", "prepend k 0 0 2\r\n12\r\n"),
            (Set, b"MR s", "replace k 0 0 2\r\n12\r\n"),
            (Set, b"C77", "cas k 0 0 2 77\r\n12\r\n"),
            (Delete, b"q k", "delete k\r\n"),
            (Arith, b"v", "incr k 1\r\n"),
            (Arith, b"MD D7", "decr k 7\r\n"),
        ] {
            assert_eq!(asked(verb, flags), line, "{verb:?} {}", flags.escape_ascii());
        }
        for (verb, flags, bad) in [
            (Get, &b"v t"[..], 't'),
            (Get, b"h v", 'h'),
            (Get, b"N30", 'N'),
            (Get, b"R30", 'R'),
            (Set, b"c", 'c'),
            (Set, b"C1 I", 'I'),
            (Set, b"MA s", 's'),
            (Delete, b"I T3", 'I'),
            (Delete, b"x", 'x'),
            (Arith, b"N0", 'N'),
            (Arith, b"v t", 't'),
        ] {
            let line =
                format!("CLIENT_ERROR flag {bad}: the server is older than memcached 1.6\r\n");
            assert_eq!(asked(verb, flags), line);
        }
        assert_eq!(asked(Get, b"!v"), "CLIENT_ERROR invalid flag\r\n");
        assert_eq!(asked(MetaVerb::Debug, b"")[..16], *"CLIENT_ERROR me:");
    }
}
