//! The text wire of repcached 2.x.
//!
//! Owns its bytes, in both directions, and what of ours cannot travel on it. Never applies a line,
//! keeps no state between lines, and never takes a value for lines: whoever reads a [`Line::Rep`]
//! has to take `len` bytes and a line end off before the next line.
//!
//! ```text
//!   rep <key> <flags> <exptime> <bytes> <cas>\r\n<data>\r\n   store, whatever was there
//!   delete <key>\r\n
//!   flush_all \r\n                                            with the blank
//!   flush_all <unix seconds>\r\n                              deferred
//!   marugoto_end\r\n                                          end of the full copy
//! ```
//! Nobody greets, answers or acknowledges; a line that is not known is ignored. The reader at the
//! other end splits lines at blanks and ends them at a line feed or NUL; it takes flags of 32 bits
//! without a sign only; it takes an exptime over 31 bits for a past one; and **where it cannot take
//! an item, it takes the value for commands**. So nothing is sent that it could not take.

use super::line::MAGIC;
use crate::base::num;
use crate::store::{memcached_size, Exptime, KEY_MAX};
use std::fmt;

/// Longest line that is read, its end included: a key and five numbers take 350 bytes, and what is
/// ignored must not cost memory.
pub const LINE_MAX: usize = 2048;
/// What memcached 1.2 and 1.4 keep of an item beside what 1.6 does: flags and length as text.
const SUFFIX_MAX: usize = 24;
/// The latest exptime that is read as a time to come.
const EXPTIME_MAX: u32 = i32::MAX as u32;
/// What ends a line and a value.
pub const END: &[u8] = b"\r\n";
const REP: &[u8] = b"rep ";
const DELETE: &[u8] = b"delete ";
/// What a repcached can open with.
const OPENINGS: [&[u8]; 4] = [REP, DELETE, b"flush_all", b"marugoto_end"];

/// What `rep` says before its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rep<'a> {
    /// 1 to [`KEY_MAX`] bytes.
    pub key: &'a [u8],
    /// The client's. A negative number stands for its 32 bits.
    pub flags: u32,
    /// Absolute.
    pub exptime: Exptime,
    /// Length of the value that follows, without its line end.
    pub len: usize,
    /// The CAS unique: what repcached sends has 32 bits. 0: it has none (`-C`).
    pub cas: u64,
}

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// An item; its value and a line end follow.
    Rep(Rep<'a>),
    /// An item that nobody could store; so many bytes and a line end follow.
    Skip(usize),
    /// A key was deleted, or evicted.
    Delete(&'a [u8]),
    /// Everything is to go: at a unix second, or now.
    Flush(Option<u32>),
    /// The full copy is complete.
    MarugotoEnd,
    /// A node of ours has introduced itself.
    Twincached,
    /// Anything else.
    Unknown,
}

/// Why nothing behind can be trusted: the link must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextError {
    /// A line without an end.
    TooLong,
    /// A `rep` that does not say how long its value is.
    BadRep,
    /// A value that is longer or shorter than was said.
    BadValue,
}

impl fmt::Display for TextError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            TextError::TooLong => "the repcached sent a line without an end",
            TextError::BadRep => "the repcached sent a damaged rep",
            TextError::BadValue => "the repcached sent a value of another length than announced",
        })
    }
}

/// Whether `bytes` are what a repcached opens with; `None` while they may become so.
pub fn is_opening(bytes: &[u8]) -> Option<bool> {
    let starts = |opening: &&[u8]| bytes.starts_with(opening);
    if OPENINGS.iter().any(starts) {
        return Some(true);
    }
    let may = OPENINGS.iter().any(|opening| opening.starts_with(bytes));
    if may {
        None
    } else {
        Some(false)
    }
}

/// Reads one line: it and how many bytes it took, or `None` while incomplete.
///
/// # Errors
/// What follows could be a value and could be lines.
pub fn decode(bytes: &[u8]) -> Result<Option<(Line<'_>, usize)>, TextError> {
    let within = &bytes[..bytes.len().min(LINE_MAX)];
    let Some(mut end) = memchr::memchr(b'\n', within) else { return incomplete(bytes) };
    if bytes.starts_with(REP) {
        // A line end of a binary client's key: without the CR that ends what repcached writes.
        while !bytes[..end].ends_with(b"\r") && rep(&bytes[REP.len()..end]).is_err() {
            let Some(more) = memchr::memchr(b'\n', &within[end + 1..]) else {
                return incomplete(bytes);
            };
            end += 1 + more;
        }
    }
    let line = &bytes[..end];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    let line = match words.next().unwrap_or_default() {
        b"rep" => rep(line.strip_prefix(REP).ok_or(TextError::BadRep)?)?,
        b"delete" => {
            line.strip_prefix(DELETE).and_then(deleted).map_or(Line::Unknown, Line::Delete)
        }
        b"flush_all" => match words.next() {
            None => Line::Flush(None),
            Some(secs) => num::parse_u64(secs).map_or(Line::Unknown, |secs| {
                Line::Flush(Some(u32::try_from(secs).unwrap_or(u32::MAX)))
            }),
        },
        b"marugoto_end" => Line::MarugotoEnd,
        b"twincached" if line.starts_with(MAGIC) => Line::Twincached,
        _ => Line::Unknown,
    };
    Ok(Some((line, end + 1)))
}

fn incomplete(bytes: &[u8]) -> Result<Option<(Line<'_>, usize)>, TextError> {
    if bytes.len() >= LINE_MAX {
        Err(TextError::TooLong)
    } else {
        Ok(None)
    }
}

/// The key of a `delete`: it may have blanks in it, as those of binary clients can.
fn deleted(rest: &[u8]) -> Option<&[u8]> {
    let key = match rest.iter().position(|&byte| byte == b' ') {
        // 1.2 may say a time behind it, for which the key is to stay away.
        Some(at) if num::parse_u64(&rest[at + 1..]).is_some() => &rest[..at],
        _ => rest,
    };
    Some(key).filter(|key| !key.is_empty() && key.len() <= KEY_MAX)
}

/// Takes the last word off: what is before it, and it.
fn last_word(text: &[u8]) -> Result<(&[u8], &[u8]), TextError> {
    let text = text.trim_ascii_end();
    let at = text.iter().rposition(|&byte| byte == b' ').ok_or(TextError::BadRep)?;
    Ok((&text[..at], &text[at + 1..]))
}

/// What is behind `rep `. The numbers are at its end; in the key of a binary client may be blanks.
fn rep(rest: &[u8]) -> Result<Line<'_>, TextError> {
    let words = rest.split(|&byte| byte == b' ').filter(|word| !word.is_empty()).count();
    let (rest, cas) = if words == 4 { (rest, &b"0"[..]) } else { last_word(rest)? };
    let (rest, len) = last_word(rest)?;
    let (rest, exptime) = last_word(rest)?;
    let (key, flags) = last_word(rest)?;
    let cas = num::parse_u64(cas).unwrap_or(0);
    let len = num::parse_u32(len).ok_or(TextError::BadRep)? as usize;
    let bits = |number: i64| match number {
        0.. => u32::try_from(number).ok(),
        // How a repcached shows the top bit; as 64 bits where its flags were read as such.
        _ => i32::try_from(number).ok().map(|number| number as u32),
    };
    let (flags, exptime) = (num::parse_i64(flags).and_then(bits), num::parse_i64(exptime));
    let exptime = exptime.map(|secs| match secs {
        0 => Exptime::Never,
        ..0 => Exptime::At(1),
        _ => Exptime::At(u32::try_from(secs).unwrap_or(u32::MAX)),
    });
    Ok(match (flags, exptime) {
        (Some(flags), Some(exptime)) if (1..=KEY_MAX).contains(&key.len()) => {
            Line::Rep(Rep { key, flags, exptime, len, cas })
        }
        _ => Line::Skip(len),
    })
}

/// Whether a key stays one word of one line. Keys of binary clients need not.
pub fn can_carry(key: &[u8]) -> bool {
    let splits = |byte: &u8| matches!(byte, b' ' | b'\n' | b'\r' | 0);
    !key.is_empty() && key.len() <= KEY_MAX && !key.iter().any(splits)
}

/// Whether a repcached with the same `-I` as ours has room for a value: a little less than we have.
pub fn can_hold(key: &[u8], len: usize, item_max: usize) -> bool {
    memcached_size(key.len(), true, len) + SUFFIX_MAX <= item_max
}

/// Appends the line before a value; [`END`] has to follow the value. The CAS unique is told in 32
/// bits, as a repcached does.
pub fn encode_rep(out: &mut Vec<u8>, rep: &Rep<'_>) {
    out.extend_from_slice(b"rep ");
    out.extend_from_slice(rep.key);
    let exptime = rep.exptime.secs().min(EXPTIME_MAX);
    for number in [u64::from(rep.flags), u64::from(exptime), rep.len as u64, rep.cas as u32 as u64]
    {
        out.push(b' ');
        num::push_u64(out, number);
    }
    out.extend_from_slice(END);
}

/// Appends a delete.
pub fn encode_delete(out: &mut Vec<u8>, key: &[u8]) {
    out.extend_from_slice(b"delete ");
    out.extend_from_slice(key);
    out.extend_from_slice(END);
}

/// Appends a `flush_all`, for a unix second or for now.
pub fn encode_flush(out: &mut Vec<u8>, at: Option<u32>) {
    out.extend_from_slice(b"flush_all ");
    at.iter().for_each(|&secs| num::push_u64(out, u64::from(secs.min(EXPTIME_MAX))));
    out.extend_from_slice(END);
}

/// Appends the end of a full copy.
pub fn encode_marugoto_end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"marugoto_end\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(bytes: &[u8]) -> Line<'_> {
        let (line, used) = decode(bytes).unwrap().unwrap();
        assert_eq!(used, bytes.len());
        for cut in 0..used {
            assert_eq!(decode(&bytes[..cut]), Ok(None), "cut at {cut}");
        }
        line
    }

    const ITEM: Rep<'static> =
        Rep { key: b"key", flags: 7, exptime: Exptime::At(1_800_000_000), len: 5, cas: 42 };

    #[test]
    fn reads_what_repcached_writes() {
        assert_eq!(one(b"rep key 7 1800000000 5 42\r\n"), Line::Rep(ITEM));
        let never = Rep { exptime: Exptime::Never, flags: 0, ..ITEM };
        assert_eq!(one(b"rep key 0 0 5 42\r\n"), Line::Rep(never));
        assert_eq!(one(b"delete key\r\n"), Line::Delete(b"key"));
        assert_eq!(one(b"delete key 1800000000\r\n"), Line::Delete(b"key"));
        assert_eq!(one(b"flush_all \r\n"), Line::Flush(None));
        assert_eq!(one(b"flush_all\r\n"), Line::Flush(None));
        assert_eq!(one(b"flush_all 1800000000\r\n"), Line::Flush(Some(1_800_000_000)));
        assert_eq!(one(b"marugoto_end\r\n"), Line::MarugotoEnd);
    }

    #[test]
    fn keys_of_binary_clients_are_read_whole() {
        // Its copy has them as they are; a link that ended there would end there each time.
        for key in ["a b", "two  blanks", " lead", "n 0 0 1 1", "a\tb", "cr\r", "nl\nkey", "\n"] {
            let key = key.as_bytes();
            let line = [b"rep ", key, b" 7 1800000000 5 42\r\n"].concat();
            assert_eq!(one(&line), Line::Rep(Rep { key, ..ITEM }), "{key:?}");
        }
        assert_eq!(one(b"delete a b\r\n"), Line::Delete(b"a b"));
        assert_eq!(one(b"delete a 5 \r\n"), Line::Delete(b"a 5 "));
        let endless = [&b"rep "[..], &[b'\n'; LINE_MAX]].concat();
        assert_eq!(decode(&endless), Err(TextError::TooLong));
    }

    #[test]
    fn negative_flags_are_their_bits() {
        for (text, flags) in
            [("-2147483648", 1 << 31), ("-1", u32::MAX), ("4294967295", u32::MAX), ("0", 0)]
        {
            let line = format!("rep key {text} 1800000000 5 42\r\n");
            assert_eq!(one(line.as_bytes()), Line::Rep(Rep { flags, ..ITEM }));
        }
        assert_eq!(one(b"rep key 4294967296 0 5 42\r\n"), Line::Skip(5));
        assert_eq!(one(b"rep key x 0 5 42\r\n"), Line::Skip(5));
    }

    #[test]
    fn what_nobody_could_store_is_skipped_with_its_value() {
        let long = "k".repeat(KEY_MAX + 1);
        assert_eq!(one(format!("rep {long} 0 0 9 1\r\n").as_bytes()), Line::Skip(9));
        assert_eq!(one(format!("delete {long}\r\n").as_bytes()), Line::Unknown);
        let past = Rep { exptime: Exptime::At(1), cas: 0, ..ITEM };
        assert_eq!(one(b"rep key 7 -5 5\r\n"), Line::Rep(past));
        for bad in ["rep key 0 0 x 1\r\n", "rep key 0 0 -2 1\r\n", "rep key 0\r\n", "rep\r\n"] {
            assert_eq!(decode(bad.as_bytes()), Err(TextError::BadRep), "{bad}");
        }
    }

    #[test]
    fn unknown_lines_are_read_and_bounded() {
        for line in ["\r\n", "ERROR\r\n", "repp k 0 0 1 1\r\n", "flush_all soon\r\n", "delete \r\n"]
        {
            assert_eq!(one(line.as_bytes()), Line::Unknown, "{line}");
        }
        let ours = b"twincached replication 1.2 00000000000000000000000000000001\r\n";
        assert_eq!(one(ours), Line::Twincached);
        let endless = vec![b'x'; LINE_MAX];
        assert_eq!(decode(&endless[1..]), Ok(None));
        assert_eq!(decode(&endless), Err(TextError::TooLong));
    }

    #[test]
    fn writes_what_repcached_writes() {
        let mut out = Vec::new();
        encode_rep(&mut out, &ITEM);
        out.extend_from_slice(b"value");
        out.extend_from_slice(END);
        encode_delete(&mut out, b"key");
        encode_flush(&mut out, None);
        encode_flush(&mut out, Some(1_800_000_000));
        encode_marugoto_end(&mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "rep key 7 1800000000 5 42\r\nvalue\r\ndelete key\r\nflush_all \r\n\
             flush_all 1800000000\r\nmarugoto_end\r\n"
        );
    }

    #[test]
    fn numbers_are_such_that_repcached_takes_them() {
        let mut out = Vec::new();
        let exptime = Exptime::At(u32::MAX);
        encode_rep(&mut out, &Rep { flags: 1 << 31, exptime, cas: (9 << 32) + 8, ..ITEM });
        assert_eq!(String::from_utf8_lossy(&out), "rep key 2147483648 2147483647 5 8\r\n");
    }

    #[test]
    fn keys_stay_one_word() {
        for key in [&b"k"[..], b"\xc3\xa4", b"a\tb", b"\x80\xff", &[b'k'; 250]] {
            assert!(can_carry(key), "{key:?}");
        }
        for key in [&b""[..], b"a b", b"a\r\nflush_all", b"a\nb", b"a\0b", b"a\r", &[b'k'; 251]] {
            assert!(!can_carry(key), "{key:?}");
        }
        assert!(can_hold(b"k", 1000, 1 << 20));
        // The largest that fits here has no room for what 1.4 adds.
        let ours = (1 << 20) - memcached_size(1, true, 0);
        assert!(!can_hold(b"k", ours, 1 << 20) && can_hold(b"k", ours - SUFFIX_MAX, 1 << 20));
    }

    #[test]
    fn a_repcached_is_known_by_its_first_word() {
        for bytes in [&b"rep k 0 0"[..], b"delete k", b"flush_all \r\n", b"marugoto_end\r\n"] {
            assert_eq!(is_opening(bytes), Some(true));
            assert_eq!(is_opening(&bytes[..3]), None);
        }
        assert_eq!(is_opening(b""), None);
        for bytes in [&b"ERROR\r\n"[..], b"reply", b"get k\r\n", b"\x80"] {
            assert_eq!(is_opening(bytes), Some(false), "{bytes:?}");
        }
    }
}
