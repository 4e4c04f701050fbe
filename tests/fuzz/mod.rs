//! What the fuzzer runs: one entry function a target, shared with `tests/fuzz_corpus.rs`, so that
//! what a fuzzer once found is checked on every toolchain.
//!
//! An entry takes any bytes, never needs a file, a thread or a clock, and panics when something is
//! wrong. `fuzz/` holds the wrappers for libFuzzer and the corpora.

#![allow(dead_code)] // each fuzz target uses its part

pub mod auth;
pub mod binary;
pub mod classic;
pub mod conn;
pub mod front;
pub mod meta;
pub mod node;
pub mod udp;
pub mod wire;

/// Takes `bytes` in pieces whose lengths follow from `seed`: single bytes, a few, or many at once.
pub fn pieces(seed: u16, bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut state = u64::from(seed) << 1 | 1;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let most = [1, 3, 16, 100, 2000][(state % 5) as usize];
        let len = (1 + (state >> 8) as usize % most).min(rest.len());
        let (piece, behind) = rest.split_at(len);
        rest = behind;
        Some(piece)
    })
}

/// Splits the first two bytes off, as a number.
pub fn seed(data: &[u8]) -> Option<(u16, &[u8])> {
    let (seed, rest) = data.split_first_chunk::<2>()?;
    Some((u16::from_be_bytes(*seed), rest))
}
