//! Hashes that other systems place keys with, bit for bit.
//!
//! Owns pure functions of bytes, and which of them a word means in a distribution. They decide
//! where keys of existing clusters are, so none of them may ever change.
//!
//! Most take the bytes of a key as C's plain `char`, signed on the machines they run on: a byte
//! over 127 then fills the bits above it with ones.

use md5::{Digest, Md5};

use super::xxh3::xxh3;
use crate::proxy::config::{Distribution, HashName};

/// A hash of a key, as a distribution of 32 bits uses it.
pub type KeyHash = fn(&[u8]) -> u32;
/// The same of 64 bits.
pub type WideHash = fn(&[u8]) -> u64;

/// What `name`, or the default, means in `distribution`. A name that it does not know is taken as
/// its default: the command line has refused it before.
pub fn key_hash(distribution: Distribution, name: Option<HashName>) -> KeyHash {
    let known = distribution.hashes();
    let name = name.filter(|name| known.contains(name)).unwrap_or(known[0]);
    match name {
        HashName::Djb => magent_djb,
        HashName::OneAtATime => one_at_a_time,
        HashName::Md5 => md5_first,
        HashName::Crc | HashName::Crc32 => crc_half,
        HashName::Crc16 => crc16,
        HashName::Crc32a => crc32fast::hash,
        HashName::Fnv1_64 => fnv1_64,
        HashName::Fnv1a64 => fnv1a_64,
        HashName::Fnv1_32 => fnv1_32,
        HashName::Fnv1a32 => fnv1a_32,
        HashName::Hsieh => hsieh,
        HashName::Murmur => murmur2,
        HashName::Murmur3 => murmur3,
        HashName::Jenkins => jenkins,
        HashName::Xxh3 => |key| xxh3(key) as u32,
    }
}

/// The same for a distribution that uses 64 bits: of a shorter hash it takes what there is.
pub fn wide_hash(distribution: Distribution, name: Option<HashName>) -> WideHash {
    let known = distribution.hashes();
    match name.filter(|name| known.contains(name)).unwrap_or(known[0]) {
        HashName::Md5 => |key| u64::from(md5_first(key)),
        HashName::Murmur3 => |key| u64::from(murmur3(key)),
        HashName::Crc32a => |key| u64::from(crc32fast::hash(key)),
        HashName::Fnv1a32 => |key| u64::from(fnv1a_32(key)),
        _ => xxh3,
    }
}

/// A byte as a signed `char` in 32 bits.
#[inline]
fn signed(byte: u8) -> u32 {
    i32::from(byte as i8) as u32
}

/// magent without `-k`: Bernstein's hash over *signed* bytes in 32 bits, the sign bit cut off.
pub fn magent_djb(key: &[u8]) -> u32 {
    let hash = key.iter().fold(5381u32, |h, &byte| h.wrapping_mul(33).wrapping_add(signed(byte)));
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

/// Jenkins' hash of 1997, over signed bytes.
pub fn one_at_a_time(key: &[u8]) -> u32 {
    let mut hash = 0u32;
    for &byte in key {
        hash = hash.wrapping_add(signed(byte));
        hash = hash.wrapping_add(hash << 10);
        hash ^= hash >> 6;
    }
    hash = hash.wrapping_add(hash << 3);
    hash ^= hash >> 11;
    hash.wrapping_add(hash << 15)
}

/// libmemcached's `crc` and twemproxy's `crc32`: 15 bits of CRC-32.
pub fn crc_half(key: &[u8]) -> u32 {
    crc32fast::hash(key) >> 16 & 0x7fff
}

/// twemproxy's `crc16`: CRC-16/XMODEM in a register of 32 bits that is never cut to 16, so that
/// what was shifted out stays.
pub fn crc16(key: &[u8]) -> u32 {
    key.iter().fold(0, |crc, &byte| crc << 8 ^ crc16_step((crc >> 8) as u8 ^ byte))
}

/// The table of CRC-16/XMODEM, as its bits fall.
fn crc16_step(index: u8) -> u32 {
    const TABLE: [u16; 256] = {
        let mut table = [0u16; 256];
        let mut index = 0;
        while index < 256 {
            let mut crc = (index as u16) << 8;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
                bit += 1;
            }
            table[index] = crc;
            index += 1;
        }
        table
    };
    u32::from(TABLE[usize::from(index)])
}

const FNV_32_INIT: u32 = 0x811c_9dc5;
const FNV_32_PRIME: u32 = 0x0100_0193;
/// The lower halves of FNV's numbers of 64 bits: all that is left of them in 32.
const FNV_64_INIT: u32 = 0x8422_2325;
const FNV_64_PRIME: u32 = 0x1b3;

fn fnv1(key: &[u8], init: u32, prime: u32) -> u32 {
    key.iter().fold(init, |hash, &byte| hash.wrapping_mul(prime) ^ signed(byte))
}

fn fnv1a(key: &[u8], init: u32, prime: u32) -> u32 {
    key.iter().fold(init, |hash, &byte| (hash ^ signed(byte)).wrapping_mul(prime))
}

/// Named after 64 bits, of which 32 are kept.
pub fn fnv1_64(key: &[u8]) -> u32 {
    fnv1(key, FNV_64_INIT, FNV_64_PRIME)
}

/// The same: twemproxy's default.
pub fn fnv1a_64(key: &[u8]) -> u32 {
    fnv1a(key, FNV_64_INIT, FNV_64_PRIME)
}

/// FNV-1 over signed bytes.
pub fn fnv1_32(key: &[u8]) -> u32 {
    fnv1(key, FNV_32_INIT, FNV_32_PRIME)
}

/// FNV-1a over signed bytes.
pub fn fnv1a_32(key: &[u8]) -> u32 {
    fnv1a(key, FNV_32_INIT, FNV_32_PRIME)
}

/// Four bytes, little-endian.
#[inline]
fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// Hsieh's SuperFastHash; only the last byte of three that are left over is signed.
pub fn hsieh(key: &[u8]) -> u32 {
    let pair = |bytes: &[u8]| u32::from(bytes[0]) | u32::from(bytes[1]) << 8;
    let mut hash = 0u32;
    let mut quads = key.chunks_exact(4);
    for quad in &mut quads {
        hash = hash.wrapping_add(pair(quad));
        let high = pair(&quad[2..]) << 11 ^ hash;
        hash = hash << 16 ^ high;
        hash = hash.wrapping_add(hash >> 11);
    }
    match quads.remainder() {
        [] => {}
        [one] => {
            hash = hash.wrapping_add(u32::from(*one));
            hash ^= hash << 10;
            hash = hash.wrapping_add(hash >> 1);
        }
        two @ [_, _] => {
            hash = hash.wrapping_add(pair(two));
            hash ^= hash << 11;
            hash = hash.wrapping_add(hash >> 17);
        }
        three => {
            hash = hash.wrapping_add(pair(three));
            hash ^= hash << 16;
            hash ^= signed(three[2]) << 18;
            hash = hash.wrapping_add(hash >> 11);
        }
    }
    hash ^= hash << 3;
    hash = hash.wrapping_add(hash >> 5);
    hash ^= hash << 4;
    hash = hash.wrapping_add(hash >> 17);
    hash ^= hash << 25;
    hash.wrapping_add(hash >> 6)
}

/// What libmemcached and twemproxy seed Murmur hashes with.
fn murmur_seed(key: &[u8]) -> u32 {
    (key.len() as u32).wrapping_mul(0xdead_beef)
}

/// MurmurHash2.
pub fn murmur2(key: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = murmur_seed(key) ^ key.len() as u32;
    let mut words = key.chunks_exact(4);
    for bytes in &mut words {
        let mut k = word(bytes).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (&byte, at) in rest.iter().zip([0, 8, 16]) {
            hash ^= u32::from(byte) << at;
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

/// MurmurHash3 of 32 bits.
pub fn murmur3(key: &[u8]) -> u32 {
    let scramble = |k: u32| k.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let mut hash = murmur_seed(key);
    let mut words = key.chunks_exact(4);
    for bytes in &mut words {
        hash ^= scramble(word(bytes));
        hash = hash.rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    let rest = words.remainder().iter().zip([0, 8, 16]);
    hash ^= scramble(rest.fold(0, |k, (&byte, at)| k | u32::from(byte) << at));
    hash ^= key.len() as u32;
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x85eb_ca6b);
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

/// Jenkins' lookup3 of 2006, with 13 as the value to begin with.
pub fn jenkins(key: &[u8]) -> u32 {
    let start = 0xdead_beefu32.wrapping_add(key.len() as u32).wrapping_add(13);
    let mut state = [start; 3];
    let mut rest = key;
    // The last twelve bytes are for the end, even where they are whole.
    while rest.len() > 12 {
        jenkins_add(&mut state, &rest[..12]);
        jenkins_mix(&mut state);
        rest = &rest[12..];
    }
    if rest.is_empty() {
        return state[2];
    }
    let mut last = [0; 12];
    last[..rest.len()].copy_from_slice(rest);
    jenkins_add(&mut state, &last);
    jenkins_end(&mut state)
}

fn jenkins_add(state: &mut [u32; 3], bytes: &[u8]) {
    for (one, bytes) in state.iter_mut().zip(bytes.chunks_exact(4)) {
        *one = one.wrapping_add(word(bytes));
    }
}

fn jenkins_mix([a, b, c]: &mut [u32; 3]) {
    *a = a.wrapping_sub(*c) ^ c.rotate_left(4);
    *c = c.wrapping_add(*b);
    *b = b.wrapping_sub(*a) ^ a.rotate_left(6);
    *a = a.wrapping_add(*c);
    *c = c.wrapping_sub(*b) ^ b.rotate_left(8);
    *b = b.wrapping_add(*a);
    *a = a.wrapping_sub(*c) ^ c.rotate_left(16);
    *c = c.wrapping_add(*b);
    *b = b.wrapping_sub(*a) ^ a.rotate_left(19);
    *a = a.wrapping_add(*c);
    *c = c.wrapping_sub(*b) ^ b.rotate_left(4);
    *b = b.wrapping_add(*a);
}

fn jenkins_end([a, b, c]: &mut [u32; 3]) -> u32 {
    *c = (*c ^ *b).wrapping_sub(b.rotate_left(14));
    *a = (*a ^ *c).wrapping_sub(c.rotate_left(11));
    *b = (*b ^ *a).wrapping_sub(a.rotate_left(25));
    *c = (*c ^ *b).wrapping_sub(b.rotate_left(16));
    *a = (*a ^ *c).wrapping_sub(c.rotate_left(4));
    *b = (*b ^ *a).wrapping_sub(a.rotate_left(14));
    *c = (*c ^ *b).wrapping_sub(b.rotate_left(24));
    *c
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

    /// What libhashkit 1.1.4 answers for keys in hex, of every length and with every byte.
    #[test]
    fn every_row_of_the_hash_vectors() {
        let table = include_str!("../../../tests/vectors/libhashkit.tsv");
        let by_word = |word: &str| {
            let known = Distribution::LibmemcachedModula.hashes();
            known.iter().copied().find(|name| name.word() == word).expect(word)
        };
        let mut rows = 0;
        let mut columns: Vec<KeyHash> = Vec::new();
        for line in table.lines() {
            let mut fields = line.trim_start_matches("# ").split('\t');
            let key = fields.next().expect("a key");
            if line.starts_with('#') {
                let hash = |word| key_hash(Distribution::LibmemcachedModula, Some(by_word(word)));
                columns = fields.map(hash).collect();
                continue;
            }
            let key: Vec<u8> = (0..key.len() / 2)
                .map(|at| u8::from_str_radix(&key[at * 2..at * 2 + 2], 16).expect("hex"))
                .collect();
            for (hash, value) in columns.iter().zip(fields) {
                assert_eq!(format!("{:08x}", hash(&key)), value, "{line}");
                rows += 1;
            }
        }
        assert_eq!(rows, 10 * 300, "the whole table was read");
    }
}
