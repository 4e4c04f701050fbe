//! Highest random weight (Thaler and Ravishankar, 1998): every server draws a lot with the key, and
//! the best lot has it.
//!
//! Owns the lots. Keys move only to a server that is new, or away from one that is gone, wherever
//! it stands in the list; a server's share is its weight. Costs a few nanoseconds a server and key.
//!
//! A server with weight w draws `-ln(u) / w` with u between 0 and 1 and the smallest wins
//! (Schindelhauer and Schomaker, 2005). The logarithm is computed here, from operations that are
//! the same on every machine: `f64::ln` may differ in its last digit, and proxies must agree.

use super::xxh3::xxh3;
use crate::proxy::config::ServerAddr;

/// What the servers draw with.
#[derive(Clone, Debug)]
pub struct Rendezvous {
    /// Their seeds, in the order given.
    seeds: Vec<u64>,
    /// Their weights; empty where all are alike.
    weights: Vec<f64>,
}

impl Rendezvous {
    /// A server is known by its name, or else by its address.
    pub fn new(servers: &[ServerAddr]) -> Rendezvous {
        let label = |server: &ServerAddr| match &server.name {
            Some(name) => xxh3(name.as_bytes()),
            None => xxh3(server.to_string().as_bytes()),
        };
        let alike = servers.windows(2).all(|pair| pair[0].weight == pair[1].weight);
        let weights = servers.iter().map(|server| f64::from(server.weight));
        Rendezvous {
            seeds: servers.iter().map(label).collect(),
            weights: if alike { Vec::new() } else { weights.collect() },
        }
    }

    /// The index of the best; of equal ones the first. 0 where there is nobody.
    pub fn pick(&self, hash: u64) -> usize {
        let draws = self.seeds.iter().map(|seed| draw(hash, *seed));
        if self.weights.is_empty() {
            let best = draws.enumerate().reduce(|a, b| if b.1 > a.1 { b } else { a });
            return best.map_or(0, |(index, _)| index);
        }
        let lots = draws.zip(&self.weights).map(|(draw, weight)| lot(draw) / weight);
        let best = lots.enumerate().reduce(|a, b| if b.1 < a.1 { b } else { a });
        best.map_or(0, |(index, _)| index)
    }
}

/// The finaliser of splitmix64 over both: 64 bits of which each depends on all.
#[inline]
fn draw(hash: u64, seed: u64) -> u64 {
    let x = hash ^ seed;
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// `-ln(u)` for u = (the top 52 bits of `draw` + 1/2) / 2^52, which is never 0 or 1.
fn lot(draw: u64) -> f64 {
    // u = m / 2^n with m from 1 to 2; s = (m - 1) / (m + 1) is at most 1/3, and
    // ln(m) = 2 (s + s^3/3 + s^5/5 + ...), of which 18 terms are exact to the last digit or two.
    let odd = draw >> 12 << 1 | 1;
    let n = odd.leading_zeros();
    let m = (odd << n) as f64 / (1u64 << 63) as f64;
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let series = (0..18).rev().fold(0.0, |sum, k| sum * square + 1.0 / f64::from(2 * k + 1));
    // odd = m * 2^(63 - n), and u = odd / 2^53.
    (f64::from(n) - 10.0) * std::f64::consts::LN_2 - 2.0 * s * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lots_are_logarithms() {
        for draw in [0, 1 << 12, 12345 << 20, u64::MAX / 3, 1 << 63, u64::MAX - 5000, u64::MAX] {
            let u = ((draw >> 12) as f64 + 0.5) / (1u64 << 52) as f64;
            assert!((lot(draw) + u.ln()).abs() < 1e-12 * (1.0 - u.ln()), "{draw}");
            assert!(lot(draw) > 0.0);
        }
    }
}
