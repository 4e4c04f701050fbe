//! The short way for nearly all traffic: a get of one key, and a set, as clients write them.
//!
//! Owns no rule of the grammar: it knows the usual form of two lines and takes nothing else. What
//! has a second blank, a NUL, a bare newline, a long number or any other oddity goes the way of
//! every line ([`super::parse`]), with the same result; the tests hold the two together. Never
//! refuses anything and never waits for more.
//!
//! ```text
//! get KEY\r\n                                   KEY: 1 to 250 bytes, no blank, no newline, no NUL
//! set KEY FLAGS EXPTIME LENGTH[ noreply]\r\n    numbers: 1 to 9 digits
//! ```

use super::request::plain_numbers;
use crate::protocol::{StoreHead, StoreVerb, KEY_MAX};

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plain<'a> {
    /// `get` of this key alone.
    Get(&'a [u8]),
    /// `set`, or another storage command but cas; its data block follows.
    Store(StoreHead<'a>),
}

/// The plain line that `input` begins with, and its length with its end. None for everything else.
#[inline]
pub fn plain(input: &[u8]) -> Option<(Plain<'_>, usize)> {
    let rest = input.get(4..)?;
    match &input[..4] {
        b"get " => {
            let key = &rest[..word_before(rest, b'\n')?].strip_suffix(b"\r")?;
            let fits = !key.is_empty() && key.len() <= KEY_MAX;
            fits.then_some((Plain::Get(key), 4 + key.len() + 2))
        }
        b"set " => {
            let (key, numbers) = rest.split_at(word_before(rest, b' ')?);
            if key.is_empty() || key.len() > KEY_MAX {
                return None;
            }
            let (head, behind) = plain_numbers(StoreVerb::Set, key, numbers)?;
            let (noreply, behind) = match behind.strip_prefix(b" noreply") {
                Some(behind) => (true, behind),
                None => (false, behind),
            };
            let behind = behind.strip_prefix(b"\r\n")?;
            Some((Plain::Store(StoreHead { noreply, ..head }), input.len() - behind.len()))
        }
        _ => None,
    }
}

/// Length of the word in front of the first blank, newline or NUL, where that is `end`.
#[inline]
fn word_before(text: &[u8], end: u8) -> Option<usize> {
    memchr::memchr3(b' ', b'\n', 0, text).filter(|&at| text[at] == end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{classic, GetVerb, Parsed, Request};

    /// What [`classic::parse`] makes of the same line, where it has one of the two forms.
    fn long_way(input: &[u8]) -> Option<(Plain<'_>, usize)> {
        match classic::parse(input) {
            Parsed::Done { value: Request::Get { verb: GetVerb::Get, keys, more, .. }, used } => {
                assert!(!more);
                Some((Plain::Get(keys.single()?), used))
            }
            Parsed::Done { value: Request::Store(head), used } => Some((Plain::Store(head), used)),
            _ => None,
        }
    }

    #[test]
    fn the_usual_lines_are_plain() {
        let set = |noreply| StoreHead {
            verb: StoreVerb::Set,
            key: b"k\r1",
            flags: 7,
            exptime: 60,
            len: 3,
            noreply,
        };
        assert_eq!(plain(b"get key\r\nget"), Some((Plain::Get(b"key"), 9)));
        assert_eq!(plain(b"set k\r1 7 60 3\r\nabc"), Some((Plain::Store(set(false)), 16)));
        assert_eq!(plain(b"set k\r1 7 60 3 noreply\r\n"), Some((Plain::Store(set(true)), 24)));
        let longest = [&b"get "[..], &[b'k'; KEY_MAX], b"\r\n"].concat();
        assert_eq!(plain(&longest), Some((Plain::Get(&[b'k'; KEY_MAX]), 6 + KEY_MAX)));
    }

    #[test]
    fn everything_else_is_left_to_the_parser() {
        let long = [&b"get "[..], &[b'k'; KEY_MAX + 1], b"\r\n"].concat();
        for input in [
            &b""[..],
            b"get",
            b"get ",
            b"get a",
            b"get a\r",
            b"get a\n",
            b"get \r\n",
            b"get a b\r\n",
            b"get  a\r\n",
            b"get a\0\r\n",
            b"gets a\r\n",
            b"set a 0 0 1",
            b"set a 0 0 1\r",
            b"set a 0 0 1\n",
            b"set a 0 0 1 \r\n",
            b"set a 0 0\r\n",
            b"set a 0 0 -1\r\n",
            b"set a 0 -1 1\r\n",
            b"set a 0 0 1234567890\r\n",
            b"set a\n0 0 1\r\n",
            b"set a 0 0 1 noreplyx\r\n",
            b"add a 0 0 1\r\n",
            &long,
        ] {
            assert_eq!(plain(input), None, "{:?}", String::from_utf8_lossy(input));
        }
    }

    #[test]
    fn the_short_way_says_what_the_long_way_says() {
        let words: [&[u8]; 16] = [
            b"get ",
            b"set ",
            b"k",
            b"key\xff",
            b" ",
            b"  ",
            b"0",
            b"12",
            b"999999999",
            b"-1",
            b"\r\n",
            b"\n",
            b"\0",
            b"\r",
            b" noreply",
            b"get a\r\n",
        ];
        let seed = 20u64;
        let mut random = seed;
        let mut plains = 0;
        for _ in 0..200_000 {
            let mut input = Vec::new();
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let mut bits = random >> 8;
            input.extend_from_slice(words[bits as usize & 1]);
            for _ in 0..1 + (random >> 60) {
                bits = bits.rotate_right(4).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                input.extend_from_slice(words[(bits >> 60) as usize]);
            }
            if random & 1 == 0 {
                input.extend_from_slice(b" 1 2 3\r\n");
            }
            let short = plain(&input);
            plains += u32::from(short.is_some());
            let told = String::from_utf8_lossy(&input);
            assert!(short.is_none() || short == long_way(&input), "seed {seed}: {told:?}");
        }
        assert!(plains > 1000, "seed {seed}: only {plains} were plain");
    }
}
