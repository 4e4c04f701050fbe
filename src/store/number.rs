//! The decimal numbers that `incr` and `decr` work on.
//!
//! Owns memcached's idea of which stored bytes are a number, which is `strtoull` followed by its
//! own check of what comes behind (util.c, `safe_strtoull`). Never allocates.

/// Blanks as C's `isspace` has them.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

/// The number that `value` starts with: leading blanks, a sign, digits, and then the end, a blank
/// or a NUL, which ends a text in C (whatever comes behind those). None where memcached answers
/// "non-numeric".
pub(crate) fn parse(value: &[u8]) -> Option<u64> {
    let start = value.iter().position(|&byte| !is_space(byte))?;
    let (negative, digits) = match value[start] {
        b'-' => (true, &value[start + 1..]),
        b'+' => (false, &value[start + 1..]),
        _ => (false, &value[start..]),
    };
    let len = digits.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(digits.len());
    if len == 0 || digits.get(len).is_some_and(|&byte| byte != 0 && !is_space(byte)) {
        return None;
    }
    let number = digits[..len].iter().try_fold(0u64, |number, &digit| {
        number.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    })?;
    if !negative {
        return Some(number);
    }
    // strtoull negates; memcached refuses what is then too big for a signed number.
    let negated = number.wrapping_neg();
    (negated >> 63 == 0).then_some(negated)
}

/// The result of `incr` (wraps at 64 bits) or `decr` (stops at zero).
pub(crate) fn add(number: u64, incr: bool, delta: u64) -> u64 {
    if incr {
        number.wrapping_add(delta)
    } else {
        number.saturating_sub(delta)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_what_memcached_takes() {
        for (text, number) in [
            (&b"12"[..], 12),
            (b"12  ", 12),
            (b" \t12", 12),
            (b"5 x", 5),
            (b"999\0\xff ", 999),
            (b"+5", 5),
            (b"000000000000000000001", 1),
            (b"18446744073709551615", u64::MAX),
            (b"-0", 0),
        ] {
            assert_eq!(parse(text), Some(number), "{text:?}");
        }
        for text in
            [&b""[..], b"\0", b"  ", b"-1", b"5x", b"x", b"18446744073709551616", b"+", b"1.5"]
        {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn incr_wraps_and_decr_stops() {
        assert_eq!(add(u64::MAX, true, 1), 0);
        assert_eq!(add(5, false, 7), 0);
    }
}
