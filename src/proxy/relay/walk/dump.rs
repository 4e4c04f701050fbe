//! The answer to `lru_crawler metadump all`, line by line.
//!
//! Owns its grammar. Never holds more than the line it looks at: the bytes stay with the caller.
//!
//! ```text
//!   key=a%20b exp=1795381481 la=1795381381 cas=3 fetch=yes cls=1 size=67
//!   key=...
//!   END
//! ```
//!
//! Instead of all this a server may be `BUSY` with another one's dump, have nothing to list
//! (`NOTSTARTED`), or not know the command (before 1.4.31) or not be allowed to do it.

use crate::base::num::{parse_i64, parse_u64};
use crate::base::uri;
use crate::protocol::KEY_MAX;

/// The command.
pub(super) const COMMAND: &[u8] = b"lru_crawler metadump all\r\n";
/// Longest line that is waited for: 250 bytes of key at three characters each, and what is known of
/// it.
pub(super) const LINE_MAX: usize = 2048;

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// An item.
    Item(Item),
    /// Nothing that matters.
    Other,
    /// That was all.
    End,
    /// Somebody else's dump is under way.
    Busy,
    /// This server does not list its keys.
    Refused,
    /// This is no dump.
    Garbage,
}

/// What is said of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// Decoded.
    pub key: Box<[u8]>,
    /// When it expires, in seconds since 1970; -1 for never.
    pub exp: i64,
    /// Its bytes, roughly.
    pub size: usize,
}

/// The first line of `input` and its length. `None`: it is not all there yet.
pub(super) fn line(input: &[u8]) -> Option<(Line, usize)> {
    let window = &input[..input.len().min(LINE_MAX)];
    let Some(newline) = memchr::memchr(b'\n', window) else {
        return (input.len() >= LINE_MAX).then_some((Line::Garbage, input.len()));
    };
    let text = &input[..newline];
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    let line = match text {
        b"END" => Line::End,
        // memcached 1.6 says nothing, twincached OK, before the first item.
        b"OK" => Line::Other,
        _ if text.starts_with(b"key=") => item(text).map_or(Line::Other, Line::Item),
        _ if text.starts_with(b"BUSY") => Line::Busy,
        _ if text.starts_with(b"NOTSTARTED") => Line::End,
        _ if [&b"ERROR"[..], b"CLIENT_ERROR", b"SERVER_ERROR", b"UNSUPPORTED"]
            .iter()
            .any(|word| text.starts_with(word)) =>
        {
            Line::Refused
        }
        _ => Line::Garbage,
    };
    Some((line, newline + 1))
}

fn item(text: &[u8]) -> Option<Item> {
    let (mut key, mut exp, mut size) = (None, -1, 0);
    for word in text.split(|&byte| byte == b' ') {
        if let Some(coded) = word.strip_prefix(b"key=") {
            key = uri::decode(coded);
        } else if let Some(number) = word.strip_prefix(b"exp=") {
            exp = parse_i64(number)?;
        } else if let Some(number) = word.strip_prefix(b"size=") {
            size = usize::try_from(parse_u64(number)?).ok()?;
        }
    }
    let key = key.filter(|key| !key.is_empty() && key.len() <= KEY_MAX)?;
    Some(Item { key: key.into(), exp, size })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: &[u8]) -> Vec<Line> {
        let (mut lines, mut rest) = (Vec::new(), input);
        while let Some((one, used)) = line(rest) {
            lines.push(one);
            rest = &rest[used..];
        }
        assert!(rest.is_empty(), "{}", rest.escape_ascii());
        lines
    }

    fn an(key: &[u8], exp: i64, size: usize) -> Line {
        Line::Item(Item { key: key.into(), exp, size })
    }

    #[test]
    fn items_of_memcached_and_of_twincached() {
        assert_eq!(
            all(b"key=a%20b exp=-1 la=17 cas=3 fetch=yes cls=1 size=67\n\
                  key=%FF%00%25 exp=1795381481 la=1 cas=1 fetch=no cls=1 size=5\nEND\r\n"),
            [an(b"a b", -1, 67), an(b"\xff\0%", 1_795_381_481, 5), Line::End]
        );
        assert_eq!(all(b"OK\r\nkey=k exp=0 \nEND\r\n"), [Line::Other, an(b"k", 0, 0), Line::End]);
    }

    #[test]
    fn what_is_no_list() {
        for (text, what) in [
            ("BUSY currently processing crawler request\r\n", Line::Busy),
            ("NOTSTARTED no items to crawl\r\n", Line::End),
            ("ERROR\r\n", Line::Refused),
            ("CLIENT_ERROR lru crawler not allowed\r\n", Line::Refused),
            ("UNSUPPORTED COMMAND\r\n", Line::Refused),
            ("HTTP/1.1 400\r\n", Line::Garbage),
            ("\r\n", Line::Garbage),
            // One bad item is not the end of the list.
            ("key=%G0 exp=-1\n", Line::Other),
            ("key= exp=-1\n", Line::Other),
            ("key=a exp=x\n", Line::Other),
        ] {
            assert_eq!(all(text.as_bytes()), [what], "{text:?}");
        }
        assert_eq!(line(&[b'k'; LINE_MAX]), Some((Line::Garbage, LINE_MAX)));
        assert_eq!(line(&[b'k'; LINE_MAX - 1]), None);
        let long =
            [b"key=".to_vec(), b"%41".repeat(KEY_MAX), b" exp=-1 size=9\n".to_vec()].concat();
        assert_eq!(all(&long), [an(&[b'A'; KEY_MAX], -1, 9)]);
    }

    #[test]
    fn however_the_bytes_arrive() {
        let text = b"key=a exp=-1 size=1\nkey=b exp=5 size=2\nEND\r\n";
        for cut in 0..text.len() {
            let mut found = Vec::new();
            let mut buffer = text[..cut].to_vec();
            for more in [&text[cut..], b""] {
                while let Some((one, used)) = line(&buffer) {
                    found.push(one);
                    buffer.drain(..used);
                }
                buffer.extend_from_slice(more);
            }
            assert_eq!(found, [an(b"a", -1, 1), an(b"b", 5, 2), Line::End], "cut at {cut}");
        }
    }
}
