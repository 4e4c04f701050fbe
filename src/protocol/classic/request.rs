//! Command lines to [`Request`]s.
//!
//! Owns the grammar of every command and the order in which memcached 1.6.45 finds fault with a
//! line. Never reads a data block and never asks what a server is configured to allow.

use super::token::{self, Words};
use super::{admin, Keys, DATA_MAX, GET_LINE_MAX, LINE_MAX};
use crate::base::clock::ClockMove;
use crate::base::num;
use crate::protocol::reject::{self, Reject};
use crate::protocol::{meta, ArithVerb, GetVerb, Parsed, Request, StoreHead, StoreVerb, KEY_MAX};

/// Blanks memcached takes before the `get` of a long line.
const LEADING_BLANKS_MAX: usize = 100;

/// Bytes of a line that memcached reads at once: a longer one has no end there, and is too long
/// however it comes in here.
const LINE_READ: usize = 16 * 1024;

/// The shortest line, its end included: memcached 1.6.45 calls anything shorter a bad line, even
/// `mn` without its `\r`.
pub const SHORTEST: usize = 4;

/// A further portion of a get line that began with [`Request::Get`] and `more`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoreKeys<'a> {
    /// The next keys.
    pub keys: Keys<'a>,
    /// The line has still not ended.
    pub more: bool,
}

/// Parses one command line from the front of `input`.
///
/// Lines end with `\r\n` or `\n`. Like memcached 1.6.18, a classic line ends for its parser at a
/// NUL byte.
/// [`Parsed::Incomplete`] never holds back more than [`GET_LINE_MAX`] bytes.
pub fn parse(input: &[u8]) -> Parsed<Request<'_>> {
    let first = memchr::memchr2(b'\n', 0, input);
    let newline = match first {
        Some(nul) if input[nul] == 0 => memchr::memchr(b'\n', &input[nul..]).map(|n| nul + n),
        newline => newline,
    };
    let Some(newline) = newline else {
        return parse_unended(input);
    };
    if newline >= LINE_READ && !may_be_long(input) {
        return hang_up(input);
    }
    let used = newline + 1;
    let line = without_return(&input[..newline]);
    let parsed = match line {
        _ if used < SHORTEST => Err(BAD_FORMAT),
        [b'm', ..] => meta_or_classic(line),
        _ if first != Some(newline) => command(without_nul(line)),
        _ => command(line),
    };
    match parsed {
        Ok(value) => Parsed::Done { value, used },
        Err(reject) => Parsed::Reject { reject, used },
    }
}

/// A line that may be one of a meta command.
fn meta_or_classic(line: &[u8]) -> Outcome<'_> {
    match meta::parse_line(line) {
        Some(parsed) => parsed,
        None => command(without_nul(line)),
    }
}

/// Parses the next portion of a get line whose beginning was answered with `more`.
pub fn parse_more_keys(input: &[u8]) -> Parsed<MoreKeys<'_>> {
    if let Some(newline) = memchr::memchr(b'\n', input) {
        let keys = Keys::new(without_nul(without_return(&input[..newline])));
        return Parsed::Done { value: MoreKeys { keys, more: false }, used: newline + 1 };
    }
    if input.len() <= GET_LINE_MAX {
        return Parsed::Incomplete;
    }
    match whole_words(input) {
        Some(used) => {
            let keys = Keys::portion(&input[..used]);
            Parsed::Done { value: MoreKeys { keys, more: true }, used }
        }
        None => too_long_key(input),
    }
}

/// A line without its end: wait, unless it is too long to be one.
fn parse_unended(input: &[u8]) -> Parsed<Request<'_>> {
    if input.len() <= LINE_MAX {
        return Parsed::Incomplete;
    }
    if !may_be_long(input) {
        return hang_up(input);
    }
    if input.len() <= GET_LINE_MAX {
        return Parsed::Incomplete;
    }
    let Some(used) = whole_words(input) else { return too_long_key(input) };
    match command(&input[..used]) {
        Ok(Request::Get { verb, exptime, keys, .. }) => {
            let keys = Keys::portion(keys.rest);
            Parsed::Done { value: Request::Get { verb, exptime, keys, more: true }, used }
        }
        // The portion ends before the first key: only blanks can fill it so.
        Ok(_) => too_long_key(input),
        Err(reject) => {
            Parsed::Reject { reject: Reject { close: true, ..reject }, used: input.len() }
        }
    }
}

/// Whether a line may be longer than others. As in memcached only a get may, everything else is
/// noise from a stranger; here gat and gats may be long too.
fn may_be_long(input: &[u8]) -> bool {
    let blanks = input.iter().take_while(|&&byte| byte == b' ').count();
    let verbs = [&b"get "[..], b"gets ", b"gat ", b"gats "];
    blanks <= LEADING_BLANKS_MAX && verbs.iter().any(|verb| input[blanks..].starts_with(verb))
}

/// No command is so long: the connection closes without a word.
fn hang_up<T>(input: &[u8]) -> Parsed<T> {
    Parsed::Reject { reject: Reject::close(b""), used: input.len() }
}

/// Bytes up to and with the last blank: whatever stands before it is complete. None when there is
/// no blank near the end, or a NUL: a key can be no longer.
fn whole_words(input: &[u8]) -> Option<usize> {
    let used = memchr::memrchr(b' ', input)? + 1;
    (input.len() - used <= KEY_MAX && memchr::memchr(0, input).is_none()).then_some(used)
}

/// Where a key of an unended line is too long, the rest of the line cannot be told from commands.
fn too_long_key<T>(input: &[u8]) -> Parsed<T> {
    Parsed::Reject { reject: Reject::close(reject::BAD_FORMAT), used: input.len() }
}

/// `line` without its `\r`.
#[inline]
fn without_return(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// `line` up to its first NUL.
#[inline]
fn without_nul(line: &[u8]) -> &[u8] {
    match memchr::memchr(0, line) {
        Some(nul) => &line[..nul],
        None => line,
    }
}

const ERROR: Reject = Reject::line(reject::ERROR);
const BAD_FORMAT: Reject = Reject::line(reject::BAD_FORMAT);

type Outcome<'a> = Result<Request<'a>, Reject>;

/// One whole line. Words are counted first ("ERROR"), then read from left to right.
fn command(line: &[u8]) -> Outcome<'_> {
    let Some((name, rest)) = token::next_word(line) else { return Err(ERROR) };
    match name {
        b"get" | b"bget" => get(GetVerb::Get, rest),
        b"gets" => get(GetVerb::Gets, rest),
        b"gat" => get_and_touch(GetVerb::Gat, rest),
        b"gats" => get_and_touch(GetVerb::Gats, rest),
        b"set" => store(StoreVerb::Set, line, rest),
        b"add" => store(StoreVerb::Add, line, rest),
        b"replace" => store(StoreVerb::Replace, line, rest),
        b"append" => store(StoreVerb::Append, line, rest),
        b"prepend" => store(StoreVerb::Prepend, line, rest),
        b"cas" => store(StoreVerb::Cas(0), line, rest),
        b"delete" => delete(line),
        b"incr" => arith(ArithVerb::Incr, line),
        b"decr" => arith(ArithVerb::Decr, line),
        b"touch" => touch(line),
        b"flush_all" => Ok(flush_all(&Words::cut(line))),
        b"version" => Ok(Request::Version),
        b"verbosity" => verbosity(&Words::cut(line)),
        b"stats" => Ok(Request::Stats { args: token::trim(rest) }),
        b"watch" => Ok(Request::Watch { args: token::trim(rest) }),
        b"quit" => Ok(Request::Quit),
        b"shutdown" => Ok(shutdown(&Words::cut(line))),
        b"slabs" | b"lru" | b"lru_crawler" | b"cache_memlimit" => Ok(Request::Admin { line }),
        b"debugtime" => debug_time(&Words::cut(line)),
        // memcached hangs up on a browser, or whoever was led to speak HTTP to it.
        _ if is_http(&Words::cut(line)) => Err(Reject::close(b"")),
        // As 1.6.45: who wants no reply gets none, whatever it was.
        _ => Err(ERROR.quiet_if(Words::cut(line).noreply())),
    }
}

/// Whether the last word of a line says so.
fn is_http(words: &Words<'_>) -> bool {
    words.get(words.count().saturating_sub(1)).starts_with(b"HTTP/")
}

fn get(verb: GetVerb, rest: &[u8]) -> Outcome<'_> {
    if rest.iter().all(|&byte| byte == b' ') {
        return Err(BAD_FORMAT);
    }
    Ok(Request::Get { verb, exptime: 0, keys: Keys::new(rest), more: false })
}

fn get_and_touch(verb: GetVerb, rest: &[u8]) -> Outcome<'_> {
    let Some((exptime, rest)) = token::next_word(rest) else { return Err(BAD_FORMAT) };
    if rest.iter().all(|&byte| byte == b' ') {
        return Err(BAD_FORMAT);
    }
    let Some(exptime) = admin::signed64(exptime) else {
        return Err(Reject::line(reject::BAD_EXPTIME));
    };
    Ok(Request::Get { verb, exptime, keys: Keys::new(rest), more: false })
}

/// Once the length of the data block is known, a refusal drops the block too.
fn store<'a>(verb: StoreVerb, line: &'a [u8], rest: &'a [u8]) -> Outcome<'a> {
    match store_plain(verb, rest) {
        Some(head) => Ok(Request::Store(head)),
        None => store_any(verb, line),
    }
}

/// The head of nearly every storage command: a key and three short numbers, one blank before each,
/// and nothing but `noreply` behind them. None for what has to be looked at more closely.
#[inline]
fn store_plain(verb: StoreVerb, rest: &[u8]) -> Option<StoreHead<'_>> {
    let key_len = memchr::memchr(b' ', rest)?;
    if key_len == 0 || key_len > KEY_MAX || matches!(verb, StoreVerb::Cas(_)) {
        return None;
    }
    let (key, numbers) = rest.split_at(key_len);
    let (head, behind) = plain_numbers(verb, key, numbers)?;
    let noreply = behind == b" noreply";
    (noreply || behind.is_empty()).then_some(StoreHead { noreply, ..head })
}

/// The head with the three short numbers that `text` starts with, one blank before each, and what
/// comes behind them.
#[inline]
pub(super) fn plain_numbers<'a>(
    verb: StoreVerb,
    key: &'a [u8],
    text: &'a [u8],
) -> Option<(StoreHead<'a>, &'a [u8])> {
    let (flags, at) = short_number(text, 0)?;
    let (exptime, at) = short_number(text, at)?;
    let (len, at) = short_number(text, at)?;
    let exptime = i64::from(exptime);
    Some((StoreHead { verb, key, flags, exptime, len, noreply: false }, &text[at..]))
}

/// The number behind the blank at `at`, if it has one to nine digits, and where it ends. It is
/// below [`DATA_MAX`].
#[inline(always)]
fn short_number(text: &[u8], at: usize) -> Option<(u32, usize)> {
    let digit = |at: usize| text.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|&n| n < 10);
    if text.get(at) != Some(&b' ') {
        return None;
    }
    let (from, mut end) = (at + 1, at + 2);
    let mut value = u32::from(digit(from)?);
    while let Some(next) = digit(end) {
        if end - from == 9 {
            return None;
        }
        value = value * 10 + u32::from(next);
        end += 1;
    }
    Some((value, end))
}

fn store_any(verb: StoreVerb, line: &[u8]) -> Outcome<'_> {
    let words = at_least(5, line)?;
    let len = admin::signed32(words.get(4)).and_then(|len| u32::try_from(len).ok());
    let len = len.filter(|&len| len <= DATA_MAX).ok_or(BAD_FORMAT)?;
    let noreply = words.noreply();
    let refused = Reject { swallow: u64::from(len) + 2, ..BAD_FORMAT }.quiet_if(noreply);
    let key = words.get(1);
    if key.len() > KEY_MAX {
        return Err(refused);
    }
    let flags = token::unsigned32(words.get(2)).ok_or(refused)?;
    let exptime = token::signed64(words.get(3)).ok_or(refused)?;
    let verb = match verb {
        StoreVerb::Cas(_) => StoreVerb::Cas(num::parse_u64(words.get(5)).ok_or(refused)?),
        other => other,
    };
    Ok(Request::Store(StoreHead { verb, key, flags, exptime, len, noreply }))
}

/// The words of a line that has to have so many, the command included. What comes behind those that
/// a command looks at does not matter, as in memcached 1.6.45.
fn at_least(count: usize, line: &[u8]) -> Result<Words<'_>, Reject> {
    let words = Words::cut(line);
    match words.count() < count {
        true => Err(BAD_FORMAT),
        false => Ok(words),
    }
}

/// The first argument as a key.
fn short_key<'a>(words: &Words<'a>, noreply: bool) -> Result<&'a [u8], Reject> {
    let key = words.get(1);
    if key.len() > KEY_MAX {
        return Err(BAD_FORMAT.quiet_if(noreply));
    }
    Ok(key)
}

/// 1.6.45 no longer looks at what stands behind the key; every memcached before it refuses what is
/// neither the old form's time of zero nor `noreply`, and clients' test suites ask for that.
fn delete(line: &[u8]) -> Outcome<'_> {
    let words = at_least(2, line)?;
    let noreply = words.noreply();
    let hold_is_zero = words.get(2) == b"0";
    let valid = match words.count() {
        2 => true,
        3 => hold_is_zero || noreply,
        count => count == 4 && hold_is_zero && noreply,
    };
    if !valid {
        return Err(Reject::line(reject::BAD_DELETE).quiet_if(noreply));
    }
    Ok(Request::Delete { key: short_key(&words, noreply)?, noreply })
}

fn arith(verb: ArithVerb, line: &[u8]) -> Outcome<'_> {
    let words = at_least(3, line)?;
    let noreply = words.noreply();
    let key = short_key(&words, noreply)?;
    let refused = Reject::line(reject::BAD_DELTA).quiet_if(noreply);
    let delta = num::parse_u64(words.get(2)).ok_or(refused)?;
    Ok(Request::Arith { verb, key, delta, noreply })
}

fn touch(line: &[u8]) -> Outcome<'_> {
    let words = at_least(3, line)?;
    let noreply = words.noreply();
    let key = short_key(&words, noreply)?;
    let refused = Reject::line(reject::BAD_EXPTIME).quiet_if(noreply);
    let exptime = admin::signed64(words.get(2)).ok_or(refused)?;
    Ok(Request::Touch { key, exptime, noreply })
}

/// As memcached 1.6.45: words behind the delay do not matter.
fn flush_all<'a>(words: &Words<'a>) -> Request<'a> {
    let noreply = words.noreply();
    if words.count() == 1 + usize::from(noreply) {
        return Request::FlushAll { delay: 0, noreply };
    }
    match admin::signed32(words.get(1)) {
        Some(delay) => Request::FlushAll { delay: i64::from(delay), noreply },
        None => Request::BadFlush { noreply },
    }
}

fn verbosity<'a>(words: &Words<'a>) -> Outcome<'a> {
    let noreply = words.noreply();
    let level = admin::unsigned32(words.get(1)).ok_or(BAD_FORMAT.quiet_if(noreply))?;
    Ok(Request::Verbosity { level, noreply })
}

fn shutdown<'a>(words: &Words<'a>) -> Request<'a> {
    let graceful = match words.count() {
        1 => Some(false),
        2 if admin::is_word(words.get(1), b"graceful") => Some(true),
        _ => None,
    };
    Request::Shutdown { graceful, noreply: words.noreply() }
}

/// memcached's debug build looks at the first word only, and takes a lone minus sign for zero.
fn debug_time<'a>(words: &Words<'a>) -> Outcome<'a> {
    let word = words.get(1);
    let what = match word {
        b"" => return Err(ERROR),
        b"p" => ClockMove::Pause,
        b"r" => ClockMove::Resume,
        b"-" => ClockMove::Seconds(0),
        [b'+', ..] => return Err(ERROR),
        _ => ClockMove::Seconds(num::parse_i64(word).ok_or(ERROR)?),
    };
    Ok(Request::DebugTime(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_storage_head_is_read_like_any_other() {
        let long = "k".repeat(251);
        let keys = ["k", "", &long[..250], &long, "noreply"];
        let numbers =
            ["0", "", "7", "007", "-1", "+1", "999999999", "1234567890", "4294967296", "x1"];
        let ends = ["", " ", " noreply", "  noreply", " noreply ", " x", " 1 noreply"];
        let mut plain = 0;
        for verb in [StoreVerb::Set, StoreVerb::Append, StoreVerb::Cas(0)] {
            for key in keys {
                for n in 0..numbers.len() * numbers.len() * numbers.len() {
                    let number = |place: usize| numbers[n / numbers.len().pow(place as u32) % 10];
                    for end in ends {
                        let (flags, exptime, len) = (number(0), number(1), number(2));
                        let rest = format!("{key} {flags} {exptime} {len}{end}");
                        let line = format!("set {rest}");
                        let any = store_any(verb, line.as_bytes());
                        if let Some(head) = store_plain(verb, rest.as_bytes()) {
                            assert_eq!(any, Ok(Request::Store(head)), "{line}");
                            plain += 1;
                        }
                    }
                }
            }
        }
        assert_eq!(plain, 2 * 3 * 4 * 4 * 4 * 2);
    }
}
