//! Numbers as the protocol writes them.
//!
//! Owns strict decimal parsing (memcached's `safe_strto*` without the white space that its tokens
//! cannot hold) and decimal output. Never allocates.

/// Parses an unsigned decimal of 64 bits: digits only, no sign, no blank.
pub fn parse_u64(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 20 {
        return None;
    }
    text.iter().try_fold(0u64, |n, &byte| {
        let digit = byte.wrapping_sub(b'0');
        (digit < 10).then(|| n.checked_mul(10)?.checked_add(u64::from(digit)))?
    })
}

/// Parses an unsigned decimal of 32 bits.
pub fn parse_u32(text: &[u8]) -> Option<u32> {
    u32::try_from(parse_u64(text)?).ok()
}

/// Parses a signed decimal of 64 bits: an optional `-` or `+`, then digits.
pub fn parse_i64(text: &[u8]) -> Option<i64> {
    match text.split_first()? {
        (b'-', digits) => 0i64.checked_sub_unsigned(parse_u64(digits)?),
        (b'+', digits) => i64::try_from(parse_u64(digits)?).ok(),
        _ => i64::try_from(parse_u64(text)?).ok(),
    }
}

/// Appends `n` in decimal.
pub fn push_u64(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_only_whole_numbers_in_range() {
        assert_eq!(parse_u64(b"18446744073709551615"), Some(u64::MAX));
        for bad in [&b""[..], b"18446744073709551616", b"-1", b"1 ", b"0x1", b"1a", b"+1"] {
            assert_eq!(parse_u64(bad), None, "{bad:?}");
        }
        assert_eq!(parse_u32(b"4294967295"), Some(u32::MAX));
        assert_eq!(parse_u32(b"4294967296"), None);
        assert_eq!(parse_i64(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(parse_i64(b"-"), None);
        assert_eq!(parse_i64(b"+5"), Some(5));
    }

    #[test]
    fn writes_decimals() {
        let mut out = b"n=".to_vec();
        push_u64(&mut out, u64::MAX);
        assert_eq!(out, b"n=18446744073709551615");
    }
}
