//! Meta command lines to requests.
//!
//! Owns the grammar: which words a line must have, and what memcached's tokenizer takes for a flag.
//! Never looks into the flags.

use super::{words, BinaryKey, Key};
use crate::protocol::classic::admin::signed32;
use crate::protocol::classic::{next_word, trim, DATA_MAX};
use crate::protocol::reject::{self, Reject};
use crate::protocol::{Request, KEY_MAX};

/// Words of a line that memcached's tokenizer looks at (MCMC_PARSER_MAX_TOKENS less its end mark).
const TOKENS_MAX: usize = 23;

/// Longest 64-bit number that memcached reads (MCMC_TOKTO64_MAX).
const DIGITS64_MAX: usize = 22;

const BAD_FORMAT: Reject = Reject::line(reject::BAD_FORMAT);

/// Reads a line whose first word is a meta command; None for any other line. Unlike classic lines,
/// a meta line may not begin with blanks, and does not end at a NUL.
#[inline]
pub(in crate::protocol) fn parse_line(line: &[u8]) -> Option<Result<Request<'_>, Reject>> {
    let [b'm', verb, rest @ ..] = line else { return None };
    if !matches!(rest, [] | [b' ', ..]) {
        return None;
    }
    match verb {
        b'n' => Some(Ok(Request::MetaNoop)),
        b'g' | b'd' | b'a' | b'e' => Some(keyed(*verb, rest)),
        b's' => Some(set(rest)),
        _ => None,
    }
}

/// `m? key flags*`
fn keyed(verb: u8, rest: &[u8]) -> Result<Request<'_>, Reject> {
    let Some((key, flags)) = next_word(rest) else { return Err(BAD_FORMAT) };
    if !are_flags(flags, TOKENS_MAX - 2) {
        return Err(BAD_FORMAT);
    }
    let flags = trim(flags);
    if key.len() > KEY_MAX {
        // ma has one text for everything that is wrong with its words.
        return Err(if verb == b'a' { Reject::line(reject::META_ANY) } else { BAD_FORMAT });
    }
    Ok(match verb {
        b'g' => Request::MetaGet { key, flags },
        b'd' => Request::MetaDelete { key, flags },
        b'a' => Request::MetaArith { key, flags },
        _ => Request::MetaDebug { key, flags },
    })
}

/// `ms key len flags*`. Where the length is known, a refusal covers the data block too.
fn set(rest: &[u8]) -> Result<Request<'_>, Reject> {
    let Some((key, rest)) = next_word(rest) else { return Err(BAD_FORMAT) };
    let Some((len, flags)) = next_word(rest) else { return Err(BAD_FORMAT) };
    if !are_flags(flags, TOKENS_MAX - 3) {
        return Err(BAD_FORMAT);
    }
    let len = signed32(len).and_then(|len| u32::try_from(len).ok()).filter(|&n| n <= DATA_MAX);
    let Some(len) = len else { return Err(BAD_FORMAT) };
    if key.len() > KEY_MAX {
        return Err(Reject { swallow: u64::from(len) + 2, ..BAD_FORMAT });
    }
    Ok(Request::MetaSet { key, len, flags: trim(flags) })
}

/// The key of a meta debug line: in base64 when its first flag is `b`. memcached 1.6.45 wants one
/// more word behind the `b` before it believes it; that is not imitated.
pub fn debug_key<'a>(key: &'a [u8], flags: &[u8]) -> Result<Key<'a>, Reject> {
    match words(flags).next() {
        Some(b"b") => BinaryKey::decode(key).map(Key::Binary).ok_or(BAD_FORMAT),
        _ => Ok(Key::Text(key)),
    }
}

/// Whether each of the first `most` words begins with a letter, a digit or one of ``[\]^_` ``.
fn are_flags(flags: &[u8], most: usize) -> bool {
    words(flags).take(most).all(|word| matches!(word[0], b'A'..=b'z' | b'0'..=b'9'))
}

/// An unsigned 64-bit number: digits only.
pub(super) fn unsigned64(word: &[u8]) -> Option<u64> {
    if word.is_empty() || word.len() > DIGITS64_MAX {
        return None;
    }
    word.iter().try_fold(0u64, |n, &byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 10).then(|| n.checked_mul(10)?.checked_add(u64::from(digit)))?
    })
}
