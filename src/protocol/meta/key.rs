//! Keys of meta commands: text, or base64 for keys that are no text.
//!
//! Owns base64 as memcached 1.6 reads and writes it. Never allocates.

use crate::protocol::KEY_MAX;

/// Longest binary key that fits 250 bytes of base64.
const BINARY_KEY_MAX: usize = KEY_MAX / 4 * 3;

/// The key of a meta command.
#[derive(Clone, Debug)]
pub enum Key<'a> {
    /// As it stands in the line.
    Text(&'a [u8]),
    /// It came in base64 (flag `b`).
    Binary(BinaryKey),
}

/// A key that came in base64, decoded.
#[derive(Clone, Debug)]
pub struct BinaryKey {
    bytes: [u8; BINARY_KEY_MAX],
    len: usize,
}

impl Key<'_> {
    /// The key to look up: 1 to 250 bytes, any bytes when it came in base64.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Key::Text(key) => key,
            Key::Binary(key) => &key.bytes[..key.len],
        }
    }

    /// Whether it came in base64.
    pub fn is_binary(&self) -> bool {
        matches!(self, Key::Binary(_))
    }
}

impl BinaryKey {
    /// Base64 as memcached 1.6 reads it: what is no base64 digit is passed over, the digits and
    /// their padding come in fours, and the first group with padding is the last. None for anything
    /// else.
    pub fn decode(text: &[u8]) -> Option<BinaryKey> {
        let digits = text.iter().filter(|&&byte| byte == b'=' || digit(byte).is_some()).count();
        if digits == 0 || digits % 4 != 0 {
            return None;
        }
        let mut key = BinaryKey { bytes: [0; BINARY_KEY_MAX], len: 0 };
        let (mut bits, mut count, mut padding) = (0u32, 0, 0);
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
            key.bytes.get_mut(key.len..key.len + 3)?.copy_from_slice(&bits.to_be_bytes()[1..]);
            bits = 0;
            key.len += 3 - padding.min(3);
            match padding {
                0 => {}
                1 | 2 => break,
                _ => return None,
            }
        }
        Some(key)
    }
}

/// Whether a key can be a word of a reply line as it is.
pub(super) fn is_word(key: &[u8]) -> bool {
    memchr::memchr2(b' ', b'\n', key).is_none()
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Appends `bytes` in base64 with padding.
pub fn encode_base64(out: &mut Vec<u8>, bytes: &[u8]) {
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

    fn decoded(text: &[u8]) -> Option<Vec<u8>> {
        BinaryKey::decode(text).map(|key| Key::Binary(key).as_bytes().to_vec())
    }

    #[test]
    fn base64_goes_both_ways() {
        for (text, bytes) in
            [(&b"Zg=="[..], &b"f"[..]), (b"Zm8=", b"fo"), (b"Zm9v", b"foo"), (b"AP8K", b"\0\xff\n")]
        {
            assert_eq!(decoded(text).as_deref(), Some(bytes));
            let mut out = Vec::new();
            encode_base64(&mut out, bytes);
            assert_eq!(out, text);
        }
        assert_eq!(decoded(&b"Zm9v".repeat(62)), Some(b"foo".repeat(62)));
        assert_eq!(decoded(&b"Zm9v".repeat(63)), None);
    }

    #[test]
    fn base64_is_read_as_memcached_reads_it() {
        // Not nice, but memcached's: noise is passed over, padding ends the key.
        for (text, bytes) in [(&b"\rYQ=="[..], &b"a"[..]), (b"Zm9=Zm9v", b"fo"), (b"-Zg==", b"f")] {
            assert_eq!(decoded(text).as_deref(), Some(bytes));
        }
        for bad in [&b""[..], b"=", b"====", b"Z===", b"Zm9", b"Zm9-", b"Zm9vZg", b"\xff\xff=="] {
            assert_eq!(decoded(bad), None, "{bad:?}");
        }
    }
}
