//! Words and numbers of a command line, cut and read as memcached does.
//!
//! Owns the tokenizer (words are parted by blanks only; a tab belongs to a word) and the numbers of
//! C's `strtol` family as memcached 1.6 uses them. Never allocates, never looks past the line.

/// Words kept of one line: the longest fixed command (`cas` with `noreply`) has seven.
const WORDS_MAX: usize = 8;

/// The words of a line. Words over [`WORDS_MAX`] are counted as one more and dropped: no command
/// looks at so many, but for a `noreply` at the end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words<'a> {
    words: [&'a [u8]; WORDS_MAX],
    count: usize,
    /// There are more, and the last one is `noreply`.
    quiet_end: bool,
}

impl<'a> Words<'a> {
    /// Cuts `line`.
    pub(super) fn cut(line: &'a [u8]) -> Words<'a> {
        let mut words = Words { words: [&[]; WORDS_MAX], count: 0, quiet_end: false };
        let mut rest = line;
        while let Some((word, after)) = next_word(rest) {
            if words.count == WORDS_MAX {
                words.count += 1;
                words.quiet_end = super::admin::is_noreply(line);
                break;
            }
            words.words[words.count] = word;
            words.count += 1;
            rest = after;
        }
        words
    }

    /// How many there are (the command included); more than [`WORDS_MAX`] means too many.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Word `index`, 0 being the command; empty when there is none.
    pub(super) fn get(&self, index: usize) -> &'a [u8] {
        self.words.get(index).copied().unwrap_or_default()
    }

    /// Whether the last word is `noreply`.
    pub(super) fn noreply(&self) -> bool {
        self.quiet_end || self.count > 0 && self.get(self.count - 1) == b"noreply"
    }
}

/// The first word of `line`, and what comes behind it.
#[inline]
pub(in crate::protocol) fn next_word(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = line.iter().position(|&byte| byte != b' ')?;
    let line = &line[start..];
    match memchr::memchr(b' ', line) {
        Some(end) => Some((&line[..end], &line[end + 1..])),
        None => Some((line, &[])),
    }
}

/// `line` without blanks around it.
pub(in crate::protocol) fn trim(line: &[u8]) -> &[u8] {
    let Some(first) = line.iter().position(|&byte| byte != b' ') else { return &[] };
    let last = line.iter().rposition(|&byte| byte != b' ').unwrap_or(first);
    &line[first..=last]
}

/// White space to `isspace`, which `strtol` skips and where memcached lets a number end.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

/// Sign and magnitude of the number that `word` starts with: white space, an optional sign, digits,
/// then the end or white space. None for anything else and over 64 bits.
#[inline]
fn magnitude(word: &[u8]) -> Option<(bool, u64)> {
    let mut rest = word;
    while let [first, tail @ ..] = rest {
        if !is_space(*first) {
            break;
        }
        rest = tail;
    }
    let negative = match rest {
        [b'-', tail @ ..] => {
            rest = tail;
            true
        }
        [b'+', tail @ ..] => {
            rest = tail;
            false
        }
        _ => false,
    };
    let mut value = 0u64;
    let mut digits = 0usize;
    for &byte in rest {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            if digits > 0 && is_space(byte) {
                break;
            }
            return None;
        }
        value = value.checked_mul(10)?.checked_add(u64::from(digit))?;
        digits += 1;
    }
    (digits > 0).then_some((negative, value))
}

/// memcached's `safe_strtoull`: an unsigned 64-bit number. A minus sign is accepted only where the
/// wrapped result looks positive (`-0`), as there.
#[inline]
pub(super) fn unsigned64(word: &[u8]) -> Option<u64> {
    let (negative, value) = magnitude(word)?;
    if !negative {
        return Some(value);
    }
    let wrapped = value.wrapping_neg();
    (wrapped >> 63 == 0).then_some(wrapped)
}

/// memcached's `safe_strtoul`: an unsigned number of which the low 32 bits count.
#[inline]
pub(super) fn unsigned32(word: &[u8]) -> Option<u32> {
    Some(unsigned64(word)? as u32)
}

/// A signed 64-bit number. memcached 1.6.18 keeps the low 32 bits of it, and so has times after
/// January 2038 expire at once; this one is not imitated.
#[inline]
pub(super) fn signed64(word: &[u8]) -> Option<i64> {
    let (negative, value) = magnitude(word)?;
    if negative {
        0i64.checked_sub_unsigned(value)
    } else {
        i64::try_from(value).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_parted_by_blanks_only() {
        let words = Words::cut(b"  set a\tb  0 noreply ");
        assert_eq!(words.count(), 4);
        assert_eq!(words.get(1), b"a\tb");
        assert!(words.noreply());
        assert_eq!(words.get(7), b"");
        assert_eq!(Words::cut(b"   ").count(), 0);
        assert!(!Words::cut(b"").noreply());
        assert_eq!(Words::cut(b"1 2 3 4 5 6 7 8 9 10 11").count(), WORDS_MAX + 1);
    }

    #[test]
    fn numbers_are_those_of_strtol() {
        assert_eq!(unsigned64(b"18446744073709551615"), Some(u64::MAX));
        assert_eq!(unsigned64(b"18446744073709551616"), None);
        assert_eq!(unsigned64(b"+7"), Some(7));
        assert_eq!(unsigned64(b"-1"), None);
        assert_eq!(unsigned64(b"-18446744073709551615"), Some(1));
        assert_eq!(unsigned64(b"\t7\tx"), Some(7));
        for bad in [&b""[..], b"x", b"7x", b"\t", b"-", b"+ 1", b"0x1"] {
            assert_eq!(unsigned64(bad), None, "{bad:?}");
            assert_eq!(signed64(bad), None, "{bad:?}");
        }
        assert_eq!(unsigned32(b"4294967297"), Some(1));
        assert_eq!(signed64(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(signed64(b"-9223372036854775809"), None);
        assert_eq!(signed64(b"9223372036854775808"), None);
    }
}
