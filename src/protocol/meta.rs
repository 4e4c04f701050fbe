//! The meta get of the text protocol (`mg`): the one command that tells an item's remaining
//! lifetime.
//!
//! Owns its flags, its base64 keys and its replies. It reads, and touches with `T`; flags that
//! would create an item or hand out a recache token (`N`, `R`) are refused as unknown. Never
//! allocates, except that replies are appended to the `Vec` they are given.

use super::classic::encode::CRLF;
use super::reject::{self, Reject};
use super::KEY_MAX;
use crate::base::num::push_u64;

/// Flags one command may carry (memcached: 20 words with the command, the key and its own end
/// mark).
const FLAGS_MAX: usize = 17;

/// Longest opaque, with its `O` (memcached's MFLAG_MAX_OPAQUE_LENGTH).
const OPAQUE_MAX: usize = 32;

/// Longest binary key that fits 250 bytes of base64.
const BINARY_KEY_MAX: usize = KEY_MAX / 4 * 3;

/// A meta get, understood.
#[derive(Clone, Debug)]
pub struct MetaGet<'a> {
    /// `v`: the value is wanted; its data block follows [`MetaGet::encode_hit`].
    pub value: bool,
    /// `q`: say nothing on a miss.
    pub quiet: bool,
    /// `u`: the item does not become more recent and does not count as fetched.
    pub no_update: bool,
    /// `T`: the exptime to give the item, as the client wrote it (like gat's). It happens before
    /// `t` is answered.
    pub touch: Option<i64>,
    flags: &'a [u8],
    raw_key: &'a [u8],
    /// `b`: the key, decoded into the array, and its length.
    binary: Option<([u8; BINARY_KEY_MAX], usize)>,
}

/// What a meta get may ask of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MetaItem<'k> {
    /// Its key.
    pub key: &'k [u8],
    /// The client's flags.
    pub flags: u32,
    /// The CAS unique.
    pub cas: u64,
    /// Length of the value.
    pub len: usize,
    /// Seconds to live; None for ever.
    pub ttl: Option<u32>,
    /// Whether a get had found it before this command.
    pub fetched: bool,
    /// Seconds since it was last used, before this command.
    pub last_access_secs: u32,
}

impl<'a> MetaGet<'a> {
    /// Reads the flags and, with `b` among them, decodes the key. `key` and `flags` are those of
    /// [`super::Request::MetaGet`]. Errors are found in memcached's order and have its words.
    pub fn parse(key: &'a [u8], flags: &'a [u8]) -> Result<MetaGet<'a>, Reject> {
        let mut get = MetaGet {
            value: false,
            quiet: false,
            no_update: false,
            touch: None,
            flags,
            raw_key: key,
            binary: None,
        };
        if words(flags).count() > FLAGS_MAX {
            return Err(Reject::line(reject::META_TOO_MANY));
        }
        let mut seen = 0u128;
        // A flag that cannot be read is reported only when no later one is worse.
        let mut failed = None;
        for word in words(flags) {
            let flag = word[0];
            if flag >= 127 || seen >> flag & 1 == 1 {
                return Err(Reject::line(reject::META_DUPLICATE));
            }
            seen |= 1 << flag;
            match flag {
                b'v' => get.value = true,
                b'q' => get.quiet = true,
                b'u' => get.no_update = true,
                b'b' => match decode(key) {
                    Some(binary) => get.binary = Some(binary),
                    None => failed = Some(reject::META_KEY),
                },
                b'T' => match super::classic::signed64(&word[1..]) {
                    Some(exptime) => get.touch = Some(exptime),
                    None => failed = Some(reject::META_TOKEN),
                },
                // P and L are for proxies; a server passes them over.
                b'c' | b'f' | b'h' | b'k' | b'l' | b'O' | b's' | b't' | b'P' | b'L' => {}
                _ => return Err(Reject::line(reject::META_FLAG)),
            }
        }
        if failed.is_none() && words(flags).any(|w| w[0] == b'O' && w.len() > OPAQUE_MAX) {
            failed = Some(reject::META_OPAQUE);
        }
        match failed {
            Some(line) => Err(Reject::line(line)),
            None => Ok(get),
        }
    }

    /// The key to look up: 1 to 250 bytes, any bytes when it came in base64.
    pub fn key(&self) -> &[u8] {
        match &self.binary {
            Some((key, len)) => &key[..*len],
            None => self.raw_key,
        }
    }

    /// Whether the command has `flag`.
    pub fn has(&self, flag: u8) -> bool {
        words(self.flags).any(|word| word[0] == flag)
    }

    /// `HD flags\r\n`, or `VA len flags\r\n` when the value is wanted: then the caller adds the
    /// data block and its `\r\n`.
    pub fn encode_hit(&self, out: &mut Vec<u8>, item: &MetaItem<'_>) {
        if self.value {
            out.extend_from_slice(b"VA ");
            push_u64(out, item.len as u64);
        } else {
            out.extend_from_slice(b"HD");
        }
        for word in words(self.flags) {
            match word[0] {
                b's' => number(out, b" s", item.len as u64),
                b'c' => number(out, b" c", item.cas),
                b'f' => number(out, b" f", u64::from(item.flags)),
                b'l' => number(out, b" l", u64::from(item.last_access_secs)),
                b'h' => number(out, b" h", u64::from(item.fetched)),
                b't' => match item.ttl {
                    Some(secs) => number(out, b" t", u64::from(secs)),
                    None => out.extend_from_slice(b" t-1"),
                },
                b'O' => opaque(out, word),
                // memcached sends the key as it was stored: a text key comes back as text even
                // when it was asked for in base64.
                b'k' => key(out, item.key, !is_text(item.key)),
                _ => {}
            }
        }
        out.extend_from_slice(CRLF);
    }

    /// `EN flags\r\n`, or nothing when the command is quiet.
    pub fn encode_miss(&self, out: &mut Vec<u8>) {
        if self.quiet {
            return;
        }
        out.extend_from_slice(b"EN");
        for word in words(self.flags) {
            match word[0] {
                b'O' => opaque(out, word),
                b'k' => key(out, self.key(), self.binary.is_some()),
                _ => {}
            }
        }
        out.extend_from_slice(CRLF);
    }
}

fn words(flags: &[u8]) -> impl Iterator<Item = &[u8]> {
    flags.split(|&byte| byte == b' ').filter(|word| !word.is_empty())
}

fn number(out: &mut Vec<u8>, name: &[u8], n: u64) {
    out.extend_from_slice(name);
    push_u64(out, n);
}

fn opaque(out: &mut Vec<u8>, word: &[u8]) {
    out.push(b' ');
    out.extend_from_slice(word);
}

fn key(out: &mut Vec<u8>, key: &[u8], binary: bool) {
    out.extend_from_slice(b" k");
    if binary {
        encode(out, key);
        out.extend_from_slice(b" b");
    } else {
        out.extend_from_slice(key);
    }
}

/// Whether a key can have come in as a word of a text line.
fn is_text(key: &[u8]) -> bool {
    !key.iter().any(|byte| matches!(byte, b' ' | b'\r' | b'\n' | 0))
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends `bytes` in base64 with padding.
pub fn encode(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            out.push(if digit <= chunk.len() {
                ALPHABET[(bits >> (18 - 6 * digit) & 63) as usize]
            } else {
                b'='
            });
        }
    }
}

/// Base64 as memcached 1.6 reads it: what is no base64 digit is passed over, the digits and their
/// padding come in fours, and the first group with padding is the last. None for anything else.
fn decode(text: &[u8]) -> Option<([u8; BINARY_KEY_MAX], usize)> {
    let digits = text.iter().filter(|&&byte| byte == b'=' || digit(byte).is_some()).count();
    if digits == 0 || digits % 4 != 0 {
        return None;
    }
    let mut out = [0; BINARY_KEY_MAX];
    let (mut len, mut bits, mut count, mut padding) = (0, 0u32, 0, 0);
    for &byte in text {
        let value = match digit(byte) {
            Some(value) => value,
            None if byte == b'=' => {
                padding += 1;
                0
            }
            None => continue,
        };
        bits = bits << 6 | u32::from(value);
        count += 1;
        if count % 4 != 0 {
            continue;
        }
        // Room for a whole group, or the key was longer than a key may be.
        out.get_mut(len..len + 3)?.copy_from_slice(&bits.to_be_bytes()[1..]);
        bits = 0;
        len += 3 - padding.min(3);
        match padding {
            0 => {}
            1 | 2 => break,
            _ => return None,
        }
    }
    Some((out, len))
}

fn digit(byte: u8) -> Option<u8> {
    Some(match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITEM: MetaItem<'_> = MetaItem {
        key: b"foo",
        flags: 7,
        cas: 22,
        len: 3,
        ttl: None,
        fetched: true,
        last_access_secs: 4,
    };

    fn hit(key: &[u8], flags: &[u8], item: &MetaItem<'_>) -> String {
        let mut out = Vec::new();
        MetaGet::parse(key, flags).unwrap().encode_hit(&mut out, item);
        String::from_utf8(out).unwrap()
    }

    fn miss(key: &[u8], flags: &[u8]) -> String {
        let mut out = Vec::new();
        MetaGet::parse(key, flags).unwrap().encode_miss(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn answers_flags_in_the_order_they_came() {
        let all = b"s t c f l  h k O123 v";
        assert_eq!(hit(b"foo", all, &ITEM), "VA 3 s3 t-1 c22 f7 l4 h1 kfoo O123\r\n");
        assert_eq!(hit(b"foo", b"", &ITEM), "HD\r\n");
        let item = MetaItem { ttl: Some(99), flags: u32::MAX, ..ITEM };
        assert_eq!(hit(b"foo", b"q t f u P1 L2", &item), "HD t99 f4294967295\r\n");
        assert_eq!(hit(b"Zm9v", b"b k", &ITEM), "HD kfoo\r\n");
        let item = MetaItem { key: b"a b", ..ITEM };
        assert_eq!(hit(b"YSBi", b"b k", &item), "HD kYSBi b\r\n");
        assert_eq!(miss(b"foo", b"v s t"), "EN\r\n");
        assert_eq!(miss(b"foo", b"k O1 v q"), "");
        assert_eq!(miss(b"foo", b"O1 k"), "EN O1 kfoo\r\n");
        assert_eq!(miss(b"Zh==", b"b k"), "EN kZg== b\r\n");
    }

    #[test]
    fn keys_come_in_base64() {
        for (text, bytes) in
            [(&b"Zg=="[..], &b"f"[..]), (b"Zm8=", b"fo"), (b"Zm9v", b"foo"), (b"AP8K", b"\0\xff\n")]
        {
            assert_eq!(MetaGet::parse(text, b"b").unwrap().key(), bytes);
            let mut out = Vec::new();
            encode(&mut out, bytes);
            assert_eq!(out, text);
        }
        let long = b"Zm9v".repeat(62);
        assert_eq!(MetaGet::parse(&long, b"b").unwrap().key(), b"foo".repeat(62));
        // Not nice, but memcached's: noise is passed over, padding ends the key.
        for (text, bytes) in [(&b"\rYQ=="[..], &b"a"[..]), (b"Zm9=Zm9v", b"fo"), (b"-Zg==", b"f")] {
            assert_eq!(MetaGet::parse(text, b"b").unwrap().key(), bytes);
        }
        for bad in [&b"="[..], b"====", b"Z===", b"Zm9", b"Zm9-", b"Zm9vZg", b"\xff\xff=="] {
            let refused = MetaGet::parse(bad, b"k b").unwrap_err();
            assert_eq!(refused.line, reject::META_KEY, "{bad:?}");
        }
    }

    #[test]
    fn refuses_in_the_words_of_memcached() {
        let refused = |flags: &[u8]| MetaGet::parse(b"foo", flags).unwrap_err().line;
        assert_eq!(refused(b"v v"), reject::META_DUPLICATE);
        assert_eq!(refused(b"\x7f"), reject::META_DUPLICATE);
        assert_eq!(refused(b"\xff"), reject::META_DUPLICATE);
        assert_eq!(refused(b"b x"), reject::META_FLAG);
        for flag in ["N30", "R30", "E1", "S2", "!"] {
            assert_eq!(refused(flag.as_bytes()), reject::META_FLAG, "{flag}");
        }
        assert_eq!(refused(b"T"), reject::META_TOKEN);
        assert_eq!(refused(&[b'O'; OPAQUE_MAX + 1]), reject::META_OPAQUE);
        assert!(MetaGet::parse(b"foo", &[b'O'; OPAQUE_MAX]).is_ok());
        assert_eq!(refused(b"v k s t c f l h u q O P L T1 b 1 2 3"), reject::META_TOO_MANY);
        assert_eq!(MetaGet::parse(b"foo", b"T-1").unwrap().touch, Some(-1));
        assert!(MetaGet::parse(b"foo", b"l u").unwrap().has(b'l'));
    }
}
