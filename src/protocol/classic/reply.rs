//! Reply lines to [`Reply`]s: what a proxy hears from its servers.
//!
//! Owns the grammar of replies, classic and meta get. Never reads the data block behind a value
//! (see [`super::parse_data`]) and never knows which request a reply answers.

use super::token;
use crate::protocol::reject::Reject;
use crate::protocol::{Parsed, KEY_MAX};

/// Longest reply line that is waited for. The longest proper ones are `STAT` lines with a path and
/// error texts; memcached writes every line into a buffer of 2 KiB.
pub const REPLY_LINE_MAX: usize = 4096;

/// One reply line, without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// `VALUE key flags len[ cas]`; `len` bytes and `\r\n` follow.
    Value {
        /// The key that was asked for.
        key: &'a [u8],
        /// The client's flags.
        flags: u32,
        /// Length of the data block.
        len: u32,
        /// The CAS unique, in answers to gets and gats.
        cas: Option<u64>,
    },
    /// `END`
    End,
    /// `STORED`
    Stored,
    /// `NOT_STORED`
    NotStored,
    /// `EXISTS`
    Exists,
    /// `NOT_FOUND`
    NotFound,
    /// `DELETED`
    Deleted,
    /// `TOUCHED`
    Touched,
    /// `OK`
    Ok,
    /// The new value of an incr or decr. Old servers pad it with blanks.
    Number(u64),
    /// `VERSION text`
    Version(&'a [u8]),
    /// `STAT name value`
    Stat {
        /// The first word.
        name: &'a [u8],
        /// The rest of the line; may be empty or hold blanks.
        value: &'a [u8],
    },
    /// `RESET`
    Reset,
    /// `ERROR...`, `CLIENT_ERROR...` or `SERVER_ERROR...`, the whole line.
    Error(&'a [u8]),
    /// `MN`
    MetaNoop,
    /// `HD flags`: a meta get without `v` found the item.
    MetaHit {
        /// The return flags, separated by blanks ([`meta_flag`]).
        flags: &'a [u8],
    },
    /// `VA len flags`; `len` bytes and `\r\n` follow.
    MetaValue {
        /// Length of the data block.
        len: u32,
        /// The return flags, separated by blanks ([`meta_flag`]).
        flags: &'a [u8],
    },
    /// `EN flags`: a meta get did not find the item.
    MetaMiss {
        /// The return flags, separated by blanks ([`meta_flag`]).
        flags: &'a [u8],
    },
    /// `NS`, `EX` or `NF` with flags, the whole line: other outcomes of meta commands.
    MetaOther(&'a [u8]),
    /// `ME key name=value*`: what me tells of an item, the whole line.
    MetaDebug(&'a [u8]),
}

/// Whether a key can stand in a classic command line: no blank, nothing that ends a line. Any other
/// goes in base64 to servers that speak meta.
pub fn is_plain_key(key: &[u8]) -> bool {
    !key.is_empty() && !key.iter().any(|byte| matches!(byte, 0 | b'\n' | b'\r' | b' '))
}

/// The argument of return flag `flag` in the flags of a meta reply; empty for a flag without one.
pub fn meta_flag(flags: &[u8], flag: u8) -> Option<&[u8]> {
    let mut rest = flags;
    while let Some((word, after)) = token::next_word(rest) {
        if word[0] == flag {
            return Some(&word[1..]);
        }
        rest = after;
    }
    None
}

/// Parses one reply line from the front of `input`. What is no reply is refused with `close`: the
/// connection has lost its place and cannot be trusted with further requests.
pub fn parse_reply(input: &[u8]) -> Parsed<Reply<'_>> {
    // Not one byte further than the limit is looked at, or the outcome would depend on how the
    // bytes happened to arrive.
    let window = &input[..input.len().min(REPLY_LINE_MAX)];
    let Some(newline) = memchr::memchr(b'\n', window) else {
        if input.len() < REPLY_LINE_MAX {
            return Parsed::Incomplete;
        }
        return Parsed::Reject { reject: Reject::close(b""), used: input.len() };
    };
    let line = &input[..newline];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let used = newline + 1;
    match reply(line) {
        Some(value) => Parsed::Done { value, used },
        None => Parsed::Reject { reject: Reject::close(b""), used },
    }
}

fn reply(line: &[u8]) -> Option<Reply<'_>> {
    let (name, rest) = token::next_word(line)?;
    // A reply starts at the first byte of its line.
    if line[0] == b' ' {
        return None;
    }
    match name {
        b"VALUE" => return value(rest),
        b"VERSION" => return Some(Reply::Version(rest)),
        b"STAT" => {
            let (name, value) = token::next_word(rest)?;
            return Some(Reply::Stat { name, value });
        }
        b"HD" => return Some(Reply::MetaHit { flags: rest }),
        b"EN" => return Some(Reply::MetaMiss { flags: rest }),
        b"VA" => {
            let (len, flags) = token::next_word(rest)?;
            return Some(Reply::MetaValue { len: number32(len)?, flags });
        }
        b"NS" | b"EX" | b"NF" => return Some(Reply::MetaOther(line)),
        b"ME" => return Some(Reply::MetaDebug(line)),
        _ => {}
    }
    if ["ERROR", "CLIENT_ERROR", "SERVER_ERROR"].iter().any(|e| line.starts_with(e.as_bytes())) {
        return Some(Reply::Error(line));
    }
    if rest.iter().any(|&byte| byte != b' ') {
        return None;
    }
    Some(match name {
        b"END" => Reply::End,
        b"STORED" => Reply::Stored,
        b"NOT_STORED" => Reply::NotStored,
        b"EXISTS" => Reply::Exists,
        b"NOT_FOUND" => Reply::NotFound,
        b"DELETED" => Reply::Deleted,
        b"TOUCHED" => Reply::Touched,
        b"OK" => Reply::Ok,
        b"RESET" => Reply::Reset,
        b"MN" => Reply::MetaNoop,
        _ => Reply::Number(crate::base::num::parse_u64(name)?),
    })
}

fn value(rest: &[u8]) -> Option<Reply<'_>> {
    let (key, rest) = token::next_word(rest)?;
    let (flags, rest) = token::next_word(rest)?;
    let (len, rest) = token::next_word(rest)?;
    if key.len() > KEY_MAX {
        return None;
    }
    let flags = number32(flags)?;
    let len = number32(len)?;
    let Some((cas, rest)) = token::next_word(rest) else {
        return Some(Reply::Value { key, flags, len, cas: None });
    };
    let cas = Some(crate::base::num::parse_u64(cas)?);
    token::next_word(rest).is_none().then_some(Reply::Value { key, flags, len, cas })
}

/// A plain 32-bit number. Lengths are bounded by the caller, who knows how much it wants to hold.
fn number32(word: &[u8]) -> Option<u32> {
    crate::base::num::parse_u32(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(input: &[u8]) -> Reply<'_> {
        match parse_reply(input) {
            Parsed::Done { value, used } => {
                assert_eq!(used, input.len());
                value
            }
            other => panic!("{:?}: {other:?}", String::from_utf8_lossy(input)),
        }
    }

    #[test]
    fn reads_every_reply() {
        assert_eq!(
            done(b"VALUE k\x01 4294967295 3\r\n"),
            Reply::Value { key: b"k\x01", flags: u32::MAX, len: 3, cas: None }
        );
        assert_eq!(
            done(b"VALUE k 0 0 18446744073709551615\n"),
            Reply::Value { key: b"k", flags: 0, len: 0, cas: Some(u64::MAX) }
        );
        assert_eq!(done(b"END\r\n"), Reply::End);
        assert_eq!(done(b"17  \r\n"), Reply::Number(17));
        assert_eq!(done(b"VERSION 1.6.18\r\n"), Reply::Version(b"1.6.18"));
        assert_eq!(done(b"STAT a b c\r\n"), Reply::Stat { name: b"a", value: b"b c" });
        assert_eq!(done(b"STAT a \r\n"), Reply::Stat { name: b"a", value: b"" });
        assert_eq!(done(b"ERROR: shutdown\r\n"), Reply::Error(b"ERROR: shutdown"));
        assert_eq!(done(b"SERVER_ERROR x y\r\n"), Reply::Error(b"SERVER_ERROR x y"));
        assert_eq!(done(b"HD\r\n"), Reply::MetaHit { flags: b"" });
        assert_eq!(done(b"VA 5 t-1 f7\r\n"), Reply::MetaValue { len: 5, flags: b"t-1 f7" });
        assert_eq!(done(b"EN kfoo\r\n"), Reply::MetaMiss { flags: b"kfoo" });
        assert_eq!(done(b"NF\r\n"), Reply::MetaOther(b"NF"));
        assert_eq!(meta_flag(b"t-1 f7 W", b'f'), Some(&b"7"[..]));
        assert_eq!(meta_flag(b"t-1 f7 W", b'W'), Some(&b""[..]));
        assert_eq!(meta_flag(b"t-1 f7 W", b'c'), None);
    }

    #[test]
    fn refuses_what_is_no_reply() {
        let bad: [&[u8]; 12] = [
            b"\r\n",
            b" END\r\n",
            b"hello\r\n",
            b"END x\r\n",
            b"VALUE k 0\r\n",
            b"VALUE k 0 -1\r\n",
            b"VALUE k 0 1 2 3\r\n",
            b"VALUE k 4294967296 1\r\n",
            b"VA x\r\n",
            b"12a\r\n",
            b"STAT\r\n",
            b"18446744073709551616\r\n",
        ];
        for input in bad {
            let parsed = parse_reply(input);
            let Parsed::Reject { reject, used } = parsed else { panic!("{input:?}: {parsed:?}") };
            assert!(reject.close);
            assert_eq!(used, input.len());
        }
        assert!(matches!(parse_reply(&[b'x'; REPLY_LINE_MAX]), Parsed::Reject { .. }));
        assert_eq!(parse_reply(&[b'x'; REPLY_LINE_MAX - 1]), Parsed::Incomplete);
        assert_eq!(parse_reply(b"EN"), Parsed::Incomplete);
    }
}
