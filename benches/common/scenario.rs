//! Kinds of load, and the batches that each is made of.
//!
//! Owns how batches are put together of requests. Never knows what a bench compares, nor goals.

use super::requests::{mix, Batch};

/// Most different batches of a scenario; they are sent round and round.
const BATCHES: u64 = 50_000;
/// Fewest of them, where memory allows it.
const BATCHES_MIN: u64 = 1000;
/// Most bytes of all batches of a scenario: the load generator shares the machine's caches.
const BATCH_BYTES: u64 = 32 * 1024 * 1024;

/// Keys, and the length of their values.
#[derive(Clone, Copy, Debug)]
pub struct Items {
    /// Number of the first key.
    pub first: u64,
    /// Keys.
    pub keys: u64,
    /// Bytes of each value.
    pub len: usize,
}

/// The usual ones.
pub const SMALL: Items = Items { first: 0, keys: 100_000, len: 100 };

/// A kind of load.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its line in the table.
    pub name: &'static str,
    /// What is asked for and set.
    pub items: Items,
    /// Gets in a hundred requests; the rest are sets.
    pub gets_percent: u64,
    /// Keys of one get.
    pub keys: u64,
    /// Requests per write.
    pub pipeline: u64,
    /// Sets are not answered, and a batch ends with `mn`, which is.
    pub noreply: bool,
    /// A request of it costs so many times what a plain get costs: so many fewer are sent.
    pub weight: u64,
}

/// Gets, one at a time, of small values: what the others differ from.
pub const GET: Scenario = Scenario {
    name: "get",
    items: SMALL,
    gets_percent: 100,
    keys: 1,
    pipeline: 1,
    noreply: false,
    weight: 1,
};
/// Sets, one at a time.
pub const SET: Scenario = Scenario { name: "set", gets_percent: 0, ..GET };
/// Nine gets and a set.
pub const MIXED: Scenario = Scenario { name: "90/10", gets_percent: 90, ..GET };
/// Twenty gets in a write.
pub const PIPELINED_GET: Scenario = Scenario { name: "pipelined 20 get", pipeline: 20, ..GET };
/// Twenty sets in a write.
pub const PIPELINED_SET: Scenario = Scenario { name: "pipelined 20 set", pipeline: 20, ..SET };
/// Fifty keys in a get.
pub const MULTI_GET: Scenario = Scenario { name: "multi-get 50", keys: 50, weight: 10, ..GET };

impl Scenario {
    /// The batches, in an order that has no pattern and is always the same.
    pub fn batches(&self) -> Vec<Batch> {
        let sets = self.pipeline * (100 - self.gets_percent).min(1);
        let fit = BATCH_BYTES / (sets * self.items.len as u64).max(1);
        let count = (BATCHES / self.weight / self.pipeline).max(BATCHES_MIN).min(fit.max(1));
        let mut random = 0;
        let mut next = move || {
            random += 1;
            mix(random)
        };
        (0..count).map(|_| self.batch(&mut next)).collect()
    }

    fn batch(&self, next: &mut impl FnMut() -> u64) -> Batch {
        let Items { first, keys, len } = self.items;
        let mut batch = Batch::default();
        for _ in 0..self.pipeline {
            if next() % 100 < self.gets_percent {
                batch.push_get((0..self.keys).map(|_| first + next() % keys), len);
            } else if self.noreply {
                batch.push_quiet_set(first + next() % keys, len);
            } else {
                batch.push_set(first + next() % keys, len);
            }
        }
        if self.noreply {
            batch.push_end_mark();
        }
        batch
    }

    /// Batches of a round that is as much work as so many plain gets.
    pub fn count(&self, requests: u64) -> usize {
        (requests / self.weight / self.pipeline).max(BATCHES_PER_ROUND_MIN) as usize
    }
}

/// Fewest batches of a round: each connection sends several.
const BATCHES_PER_ROUND_MIN: u64 = 200;
