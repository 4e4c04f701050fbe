//! How a text client says who it is: a `set` whose data block is `user password` (`-Y`).
//!
//! Owns the form of it, and memcached's words for everything else that a client says before. Never
//! decides whether a password is right.

use super::LINE_MAX;
use crate::base::num;
use crate::protocol::reject::{self, Reject};
use crate::protocol::Parsed;

/// Longest data block of a login, in bytes: memcached's.
const LOGIN_MAX: u32 = 16384;

/// Shortest line that is answered at all, its `\r` included: memcached's.
const LINE_MIN: usize = 6;

/// The words of the line up to the length of its data block.
const WORDS: usize = 5;

/// Parses the command line of a login; gives the length of its data block, `\r\n` included. The
/// first word begins with `set`; key, flags and exptime may be anything.
///
/// Like memcached, takes the last byte of a line for its `\r` whatever it is, and hangs up on lines
/// that are too short or too long for a login.
pub fn parse_login(input: &[u8]) -> Parsed<usize> {
    let hang_up = Parsed::Reject { reject: Reject::close(b""), used: input.len() };
    // memcached waits for three bytes before it looks for the end of a line.
    if input.len() < 3 {
        return Parsed::Incomplete;
    }
    let Some(newline) = memchr::memchr(b'\n', input) else {
        return if input.len() > LINE_MAX { hang_up } else { Parsed::Incomplete };
    };
    if newline < LINE_MIN {
        return hang_up;
    }
    let used = newline + 1;
    let line = match &input[..newline] {
        [line @ .., b'\r', _] | [line @ .., _] => line,
        [] => &[],
    };
    let length = line.split(|&byte| byte == b' ').filter(|word| !word.is_empty()).nth(WORDS - 1);
    let length = length.filter(|_| line.starts_with(b"set")).and_then(num::parse_u32);
    match length {
        None => Parsed::Reject { reject: Reject::line(reject::UNAUTHENTICATED), used },
        Some(length) if length > LOGIN_MAX => {
            Parsed::Reject { reject: Reject::line(reject::LOGIN_TOO_LONG), used }
        }
        Some(length) => Parsed::Done { value: length as usize + 2, used },
    }
}

/// Parses the data block of a login, its `\r\n` included: user and password. The user ends at the
/// first blank.
///
/// # Errors
/// There is no blank, or no `\r\n` at the end.
pub fn parse_login_data(data: &[u8]) -> Result<(&[u8], &[u8]), Reject> {
    let data = data.strip_suffix(b"\r\n").ok_or(Reject::line(reject::LOGIN_UNENDED))?;
    let blank = memchr::memchr(b' ', data).ok_or(Reject::line(reject::LOGIN_FORMAT))?;
    Ok((&data[..blank], &data[blank + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_set_is_a_login() {
        for (line, length) in [
            ("set foo 0 0 7\r\n", 9),
            ("set foo 0 0 7\r\nfoo bar\r\n", 9),
            ("set a b c 0 noreply\r\n", 2),
            ("settle  a b  c 16384 and more words than any command has\r\n", 16386),
            ("set foo 0 0 7x\n", 9),
            ("set foo 0 0 7\r\r\n", 9),
        ] {
            let used = line.find('\n').expect("ended") + 1;
            assert_eq!(
                parse_login(line.as_bytes()),
                Parsed::Done { value: length, used },
                "{line}"
            );
        }
        for (line, reply) in [
            ("get foo\r\n", reject::UNAUTHENTICATED),
            ("version\r\n", reject::UNAUTHENTICATED),
            (" set foo 0 0 7\r\n", reject::UNAUTHENTICATED),
            ("set foo 0 0 -7\r\n", reject::UNAUTHENTICATED),
            ("set foo 0 0 7\n", reject::UNAUTHENTICATED),
            ("set foo 0 0 4294967296\r\n", reject::UNAUTHENTICATED),
            ("set foo 0 0\r\n", reject::UNAUTHENTICATED),
            ("set foo 0 0 16385\r\n", reject::LOGIN_TOO_LONG),
            ("set foo 0 0 2147483646\r\n", reject::LOGIN_TOO_LONG),
        ] {
            let reject = Reject::line(reply);
            let expected = Parsed::Reject { reject, used: line.len() };
            assert_eq!(parse_login(line.as_bytes()), expected, "{line}");
        }
        for hung_up in ["quit\r\n", "mn\r\n", "hi\n", "\r\n\r\n", &"x".repeat(LINE_MAX + 1)] {
            let expected = Parsed::Reject { reject: Reject::close(b""), used: hung_up.len() };
            assert_eq!(parse_login(hung_up.as_bytes()), expected, "{hung_up}");
        }
        for wait in ["", "\r\n", "quit\r", &"x".repeat(LINE_MAX)] {
            assert_eq!(parse_login(wait.as_bytes()), Parsed::Incomplete, "{wait}");
        }
    }

    #[test]
    fn its_data_are_a_user_and_a_password() {
        assert_eq!(parse_login_data(b"foo bar\r\n"), Ok((&b"foo"[..], &b"bar"[..])));
        assert_eq!(parse_login_data(b"foo b r\r\n"), Ok((&b"foo"[..], &b"b r"[..])));
        assert_eq!(parse_login_data(b" \r\n"), Ok((&b""[..], &b""[..])));
        for (data, reply) in [
            (&b"foo bar\nx"[..], reject::LOGIN_UNENDED),
            (b"foobar\r\n", reject::LOGIN_FORMAT),
            (b"\r\n", reject::LOGIN_FORMAT),
        ] {
            assert_eq!(parse_login_data(data), Err(Reject::line(reply)));
        }
    }
}
