//! XXH3 of 64 bits without a seed, as memcached's own proxy uses it under its jump hash.
//!
//! Owns one pure function of bytes, written after the specification (xxHash 0.8). Where keys are
//! depends on it: it may never change.

const P32_1: u64 = 0x9e37_79b1;
const P32_2: u64 = 0x85eb_ca77;
const P32_3: u64 = 0xc2b2_ae3d;
const P64_1: u64 = 0x9e37_79b1_85eb_ca87;
const P64_2: u64 = 0xc2b2_ae3d_27d4_eb4f;
const P64_3: u64 = 0x1656_67b1_9e37_79f9;
const P64_4: u64 = 0x85eb_ca77_c2b2_ae63;
const P64_5: u64 = 0x27d4_eb2f_1656_67c5;

/// The specification's secret.
#[rustfmt::skip]
const SECRET: [u8; 192] = [
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
];

/// Bytes taken at a time from a long input.
const STRIPE: usize = 64;
/// Stripes between two scrambles: as often as the secret can be moved on by 8.
const STRIPES_PER_BLOCK: usize = (SECRET.len() - STRIPE) / 8;
/// Longest input that is not cut into stripes.
const MID_MAX: usize = 240;

#[inline]
fn word(bytes: &[u8], at: usize) -> u64 {
    let mut le = [0; 8];
    le.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(le)
}

#[inline]
fn half(bytes: &[u8], at: usize) -> u64 {
    let mut le = [0; 4];
    le.copy_from_slice(&bytes[at..at + 4]);
    u64::from(u32::from_le_bytes(le))
}

#[inline]
fn secret(at: usize) -> u64 {
    word(&SECRET, at)
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    wide as u64 ^ (wide >> 64) as u64
}

#[inline]
fn avalanche(hash: u64) -> u64 {
    let hash = (hash ^ hash >> 37).wrapping_mul(0x1656_6791_9e37_79f9);
    hash ^ hash >> 32
}

/// The avalanche of XXH64.
fn old_avalanche(hash: u64) -> u64 {
    let hash = (hash ^ hash >> 33).wrapping_mul(P64_2);
    let hash = (hash ^ hash >> 29).wrapping_mul(P64_3);
    hash ^ hash >> 32
}

/// Sixteen bytes of input against sixteen of the secret.
#[inline]
fn mix16(input: &[u8], at: usize, key: usize) -> u64 {
    fold(word(input, at) ^ secret(key), word(input, at + 8) ^ secret(key + 8))
}

/// XXH3_64bits.
pub fn xxh3(input: &[u8]) -> u64 {
    match input.len() {
        0 => old_avalanche(secret(56) ^ secret(64)),
        1..=3 => up_to_3(input),
        4..=8 => up_to_8(input),
        9..=16 => up_to_16(input),
        17..=128 => up_to_128(input),
        129..=MID_MAX => up_to_240(input),
        _ => long(input),
    }
}

fn up_to_3(input: &[u8]) -> u64 {
    let len = input.len();
    let [first, middle, last] = [input[0], input[len / 2], input[len - 1]].map(u64::from);
    let all = first << 16 | middle << 24 | last | (len as u64) << 8;
    old_avalanche(all ^ half(&SECRET, 0) ^ half(&SECRET, 4))
}

fn up_to_8(input: &[u8]) -> u64 {
    const M: u64 = 0x9fb2_1c65_1e98_df25;
    let len = input.len();
    let all = half(input, len - 4) | half(input, 0) << 32;
    let mut hash = all ^ secret(8) ^ secret(16);
    hash ^= hash.rotate_left(49) ^ hash.rotate_left(24);
    hash = hash.wrapping_mul(M);
    hash ^= (hash >> 35).wrapping_add(len as u64);
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 28
}

fn up_to_16(input: &[u8]) -> u64 {
    let len = input.len();
    let low = word(input, 0) ^ secret(24) ^ secret(32);
    let high = word(input, len - 8) ^ secret(40) ^ secret(48);
    let sum = (len as u64).wrapping_add(low.swap_bytes()).wrapping_add(high);
    avalanche(sum.wrapping_add(fold(low, high)))
}

fn up_to_128(input: &[u8]) -> u64 {
    let len = input.len();
    let mut acc = (len as u64).wrapping_mul(P64_1);
    // From both ends towards the middle.
    for pair in 0..(len - 1) / 32 + 1 {
        acc = acc.wrapping_add(mix16(input, 16 * pair, 32 * pair));
        acc = acc.wrapping_add(mix16(input, len - 16 * (pair + 1), 32 * pair + 16));
    }
    avalanche(acc)
}

fn up_to_240(input: &[u8]) -> u64 {
    let len = input.len();
    let mut acc = (len as u64).wrapping_mul(P64_1);
    for n in 0..8 {
        acc = acc.wrapping_add(mix16(input, 16 * n, 16 * n));
    }
    acc = avalanche(acc);
    for n in 8..len / 16 {
        acc = acc.wrapping_add(mix16(input, 16 * n, 16 * (n - 8) + 3));
    }
    avalanche(acc.wrapping_add(mix16(input, len - 16, 136 - 17)))
}

fn accumulate(acc: &mut [u64; 8], stripe: &[u8], key: usize) {
    for lane in 0..8 {
        let value = word(stripe, 8 * lane);
        let keyed = value ^ secret(key + 8 * lane);
        acc[lane ^ 1] = acc[lane ^ 1].wrapping_add(value);
        acc[lane] = acc[lane].wrapping_add((keyed & 0xffff_ffff).wrapping_mul(keyed >> 32));
    }
}

fn long(input: &[u8]) -> u64 {
    let len = input.len();
    let end = SECRET.len() - STRIPE;
    let mut acc = [P32_3, P64_1, P64_2, P64_3, P64_4, P32_2, P64_5, P32_1];
    // All stripes but the last, which ends with the input and may overlap the one before it.
    for (n, stripe) in input[..len - 1].chunks_exact(STRIPE).enumerate() {
        let turn = n % STRIPES_PER_BLOCK;
        accumulate(&mut acc, stripe, 8 * turn);
        if turn == STRIPES_PER_BLOCK - 1 {
            for (lane, one) in acc.iter_mut().enumerate() {
                *one = (*one ^ *one >> 47 ^ secret(end + 8 * lane)).wrapping_mul(P32_1);
            }
        }
    }
    accumulate(&mut acc, &input[len - STRIPE..], end - 7);
    let mut hash = (len as u64).wrapping_mul(P64_1);
    for n in 0..4 {
        let at = 11 + 16 * n;
        hash = hash.wrapping_add(fold(acc[2 * n] ^ secret(at), acc[2 * n + 1] ^ secret(at + 8)));
    }
    avalanche(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_as_in_libxxhash() {
        let mut rows = 0;
        for line in include_str!("../../../tests/vectors/xxh3.tsv").lines().skip(1) {
            let fields: Vec<&str> = line.split('\t').collect();
            let (len, seed): (u64, u64) = (fields[0].parse().unwrap(), fields[1].parse().unwrap());
            let input: Vec<u8> = (0..len).map(|n| (7 * n + seed) as u8).collect();
            assert_eq!(format!("{:016x}", xxh3(&input)), fields[2], "{len} bytes");
            rows += 1;
        }
        assert_eq!(rows, 276, "the whole table was read");
    }
}
