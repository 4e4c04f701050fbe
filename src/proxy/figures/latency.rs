//! How long answers took: a histogram of fixed size.
//!
//! Owns the buckets. Up to 32 microseconds each microsecond has its own; above, each doubling is
//! cut into sixteen, so that what is read from it is at most a sixteenth too high.
//!
//! ```text
//!   us:      0 1 2 .. 31 | 32 34 .. 62 | 64 68 .. 124 | 128 .. | ... 33 s, and more
//!   bucket:  0 1 2 .. 31 | 32 33 .. 47 | 48 49 ..  63 |  64 .. | ...
//! ```

use std::sync::atomic::{AtomicU64, Ordering};

/// Buckets of one doubling, as a power of two.
const FINE_BITS: u32 = 4;
const FINE: usize = 1 << FINE_BITS;
/// Doublings above the first two rows: the last begins at 33 s, longer than any timeout in use.
const DOUBLINGS: usize = 21;
const BUCKETS: usize = 2 * FINE + DOUBLINGS * FINE;

/// One thread's histogram.
#[derive(Debug)]
pub struct Latency {
    buckets: [AtomicU64; BUCKETS],
}

impl Default for Latency {
    fn default() -> Latency {
        Latency { buckets: [const { AtomicU64::new(0) }; BUCKETS] }
    }
}

fn bucket(us: u64) -> usize {
    let Some(shift) = (us >> FINE_BITS).checked_ilog2() else { return us as usize };
    (((shift as usize) << FINE_BITS) + (us >> shift) as usize).min(BUCKETS - 1)
}

/// The largest time in a bucket.
fn top(bucket: usize) -> u64 {
    if bucket < 2 * FINE {
        return bucket as u64;
    }
    let shift = bucket / FINE - 1;
    (((bucket % FINE + FINE + 1) as u64) << shift) - 1
}

impl Latency {
    /// Something took `us` microseconds. Only the owning thread may call this.
    #[inline]
    pub fn took(&self, us: u64) {
        let bucket = &self.buckets[bucket(us)];
        bucket.store(bucket.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }
}

/// Several threads' histograms together.
#[derive(Debug)]
pub(super) struct Sum([u64; BUCKETS]);

impl Default for Sum {
    fn default() -> Sum {
        Sum([0; BUCKETS])
    }
}

impl Sum {
    pub fn add(&mut self, latency: &Latency) {
        for (sum, bucket) in self.0.iter_mut().zip(&latency.buckets) {
            *sum = sum.wrapping_add(bucket.load(Ordering::Relaxed));
        }
    }

    pub fn take_off(&mut self, before: &Sum) {
        for (sum, before) in self.0.iter_mut().zip(before.0) {
            *sum = sum.saturating_sub(before);
        }
    }

    /// The time within which so many of a thousand were answered, in microseconds.
    fn per_mille(&self, share: u64) -> u64 {
        let count: u64 = self.0.iter().sum();
        let mut rest = (count * share).div_ceil(1000);
        for (bucket, &n) in self.0.iter().enumerate() {
            if n > 0 && n >= rest {
                return top(bucket);
            }
            rest -= n;
        }
        0
    }

    pub fn figures(&self) -> [(&'static str, u64); 5] {
        [
            ("latency_p50_us", self.per_mille(500)),
            ("latency_p90_us", self.per_mille(900)),
            ("latency_p99_us", self.per_mille(990)),
            ("latency_p999_us", self.per_mille(999)),
            ("latency_max_us", self.per_mille(1000)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_has_a_bucket_that_is_hardly_wider() {
        let mut last = 0;
        for bucket in 0..BUCKETS - 1 {
            assert_eq!(super::bucket(top(bucket)), bucket);
            assert_eq!(super::bucket(top(bucket) + 1), bucket + 1);
            assert!(top(bucket) - last <= 1 + last / 16, "{bucket}");
            last = top(bucket);
        }
        assert!(last > 30_000_000, "{last}");
        assert_eq!(super::bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn shares_of_a_thousand() {
        let latency = Latency::default();
        let mut sum = Sum::default();
        assert_eq!(sum.figures().map(|(_, us)| us), [0; 5]);
        for us in 1..=1000 {
            latency.took(us);
        }
        sum.add(&latency);
        for (figure, exact) in sum.figures().iter().zip([500, 900, 990, 999, 1000]) {
            let (name, us) = *figure;
            assert!((exact..=exact + exact / 16).contains(&us), "{name} {us}");
        }
        let mut none = Sum::default();
        none.add(&latency);
        none.take_off(&sum);
        assert_eq!(none.figures()[4].1, 0);
    }
}
