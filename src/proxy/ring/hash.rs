//! Hashes that other systems place keys with, bit for bit.
//!
//! Owns pure functions of bytes. They decide where keys of existing clusters are, so none of them
//! may ever change.

use md5::{Digest, Md5};

/// A hash of a key, as a distribution uses it.
pub type KeyHash = fn(&[u8]) -> u32;

/// magent without `-k`: Bernstein's hash over *signed* bytes in 32 bits, the sign bit cut off.
pub fn magent_djb(key: &[u8]) -> u32 {
    let hash = key.iter().fold(5381u32, |h, &byte| {
        // magent's bytes are plain `char`s, signed on the machines it ran on.
        h.wrapping_mul(33).wrapping_add(i32::from(byte as i8) as u32)
    });
    hash & 0x7fff_ffff
}

/// ketama: the first four bytes of the md5, little-endian.
pub fn md5_first(key: &[u8]) -> u32 {
    md5_points(key)[0]
}

/// The md5 as four little-endian words: four ketama points.
pub fn md5_points(label: &[u8]) -> [u32; 4] {
    let digest = Md5::digest(label);
    let mut points = [0u32; 4];
    for (point, bytes) in points.iter_mut().zip(digest.chunks_exact(4)) {
        *point = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_over_127_are_signed() {
        assert_eq!(magent_djb(b""), 5381);
        assert_eq!(magent_djb(&[0xff]), 5381 * 33 - 1);
        assert!(magent_djb(&[0x80; 200]) <= 0x7fff_ffff);
    }

    #[test]
    fn md5_is_read_in_little_endian_words() {
        // md5("") = d41d8cd98f00b204e9800998ecf8427e
        assert_eq!(md5_points(b""), [0xd98c_1dd4, 0x04b2_008f, 0x9809_80e9, 0x7e42_f8ec]);
        assert_eq!(md5_first(b""), 0xd98c_1dd4);
    }
}
