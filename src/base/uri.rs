//! Any bytes as one word of text: percent-encoding, as `lru_crawler metadump` shows keys.
//!
//! Owns the two directions. Never knows what the bytes are.

/// Appends `bytes` so that they are one word: everything but letters, digits and `-._~` becomes
/// `%XX`.
pub fn push(out: &mut Vec<u8>, bytes: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for &byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte);
        } else {
            let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
            out.extend_from_slice(&[b'%', HEX[high], HEX[low]]);
        }
    }
}

/// The bytes that such a word stands for. None where a `%` has no two hexadecimal digits behind it.
pub fn decode(word: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&byte, after)) = rest.split_first() {
        if byte != b'%' {
            out.push(byte);
            rest = after;
            continue;
        }
        let (digits, after) = after.split_at_checked(2)?;
        let digit = |at: usize| char::from(digits[at]).to_digit(16);
        out.push((digit(0)? << 4 | digit(1)?) as u8);
        rest = after;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_one_word_and_come_back() {
        let mut out = Vec::new();
        push(&mut out, b"a-b.c_d~9:\xff% ");
        assert_eq!(out, b"a-b.c_d~9%3A%FF%25%20");
        assert_eq!(decode(&out).as_deref(), Some(&b"a-b.c_d~9:\xff% "[..]));
        let all: Vec<u8> = (0..=255).collect();
        let mut word = Vec::new();
        push(&mut word, &all);
        assert_eq!(decode(&word), Some(all));
        for bad in [&b"%"[..], b"a%1", b"%G0", b"%0G", b"%+1", "%é".as_bytes()] {
            assert_eq!(decode(bad), None, "{}", bad.escape_ascii());
        }
    }
}
