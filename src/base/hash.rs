//! The hash of a key, as the store places it.
//!
//! Owns one keyed 64-bit hash. Never leaves the process: nodes seed it differently, so that nobody
//! outside can choose keys that collide. For that the seed goes into both factors of every product
//! that has bytes of the key in it: a factor that a client can make zero gives zero, whatever the
//! other one is. The proxy's distribution hashes are in `proxy::ring`.

const K0: u64 = 0x9e37_79b9_7f4a_7c15;
const K1: u64 = 0xd6e8_feb8_6659_fd93;
const K2: u64 = 0xa076_1d64_78bd_642f;

/// Multiplies to 128 bits and folds the halves: the mixing step of the wyhash family.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    (wide as u64) ^ ((wide >> 64) as u64)
}

#[inline]
fn word(bytes: &[u8]) -> u64 {
    let mut le = [0u8; 8];
    le.copy_from_slice(&bytes[..8]);
    u64::from_le_bytes(le)
}

#[inline]
fn half(bytes: &[u8]) -> u64 {
    let mut le = [0u8; 4];
    le.copy_from_slice(&bytes[..4]);
    u64::from(u32::from_le_bytes(le))
}

/// Hashes `key` under `seed`. Every bit of the result may be used.
#[inline]
pub fn hash_key(seed: u64, key: &[u8]) -> u64 {
    let len = key.len();
    // The length goes in multiplied, so that it cannot cancel against a byte of the key.
    let mut state = seed ^ K0 ^ (len as u64).wrapping_mul(K1);
    let other = seed.rotate_left(32) ^ K2;
    let mut rest = key;
    while rest.len() > 16 {
        state = fold(word(rest) ^ K1 ^ state, word(&rest[8..]) ^ other);
        rest = &rest[16..];
    }
    // The last 16 bytes (or fewer) as two words that overlap where the key is short.
    let (a, b) = if len >= 16 {
        (word(&key[len - 16..]), word(&key[len - 8..]))
    } else if len >= 8 {
        (word(key), word(&key[len - 8..]))
    } else if len >= 4 {
        (half(key), half(&key[len - 4..]))
    } else if len > 0 {
        (u64::from(key[0]) << 16 | u64::from(key[len / 2]) << 8 | u64::from(key[len - 1]), 0)
    } else {
        (0, 0)
    };
    let mixed = fold(a ^ K1 ^ state, b ^ other);
    fold(mixed ^ K0, state ^ K1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads_keys_over_every_bit() {
        let mut ones = [0u32; 64];
        let total = 20_000u32;
        for n in 0..total {
            let hash = hash_key(7, format!("key:{n}").as_bytes());
            for (bit, count) in ones.iter_mut().enumerate() {
                *count += u32::from(hash >> bit & 1 == 1);
            }
        }
        for (bit, &count) in ones.iter().enumerate() {
            assert!(count.abs_diff(total / 2) < total / 20, "bit {bit} is set {count} times");
        }
    }

    #[test]
    fn lengths_seeds_and_single_bits_matter() {
        let mut seen = std::collections::HashSet::new();
        for len in 0..64 {
            assert!(seen.insert(hash_key(1, &vec![0u8; len])), "length {len}");
            for at in 0..len {
                let mut key = vec![0u8; len];
                key[at] = 1;
                assert!(seen.insert(hash_key(1, &key)), "length {len}, byte {at}");
            }
        }
        assert_ne!(hash_key(1, b"a"), hash_key(2, b"a"));
    }

    #[test]
    fn no_word_of_a_key_silences_the_others() {
        for seed in [1, 2, 0x1234_5678_9abc_def0] {
            let mut seen = std::collections::HashSet::new();
            for word in [K0, K1, K2, K0 ^ K1, K0 ^ K2, K1 ^ K2, 0, u64::MAX] {
                for n in 0..50u64 {
                    let key = [n.to_le_bytes(), word.to_le_bytes()].concat();
                    let longer = [&key[..], b"and some more"].concat();
                    for key in [key, longer] {
                        let hash = hash_key(seed, &key);
                        assert!(seen.insert(hash), "seed {seed}, {}", key.escape_ascii());
                    }
                }
            }
        }
    }
}
