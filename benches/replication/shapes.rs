//! The kinds of load whose cost is compared, as bytes made before the clock runs.
//!
//! Owns how many connections and how deep a pipeline each has. Never counts anything.

use crate::common::requests::Batch;

/// Keys of the working set.
pub const KEYS: u64 = 100_000;
/// Different batches of a shape; they are sent round and round.
const BATCHES: u64 = 20_000;

/// One kind of load.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Its line in the table.
    pub name: &'static str,
    /// Gets instead of sets.
    pub gets: bool,
    /// Connections at once.
    pub connections: usize,
    /// Requests per write.
    pub pipeline: u64,
    /// Length of the values.
    pub value: usize,
    /// So many requests of it are as much work as one where each has its own system calls.
    pub light: u64,
}

const fn sets(
    name: &'static str,
    connections: usize,
    pipeline: u64,
    value: usize,
    light: u64,
) -> Shape {
    Shape { name, gets: false, connections, pipeline, value, light }
}

/// The table's lines.
pub const ALL: [Shape; 9] = [
    sets("set, one at a time", 1, 1, 100, 1),
    sets("set, 50 connections", 50, 1, 100, 2),
    sets("set, pipelined 20", 4, 20, 100, 8),
    sets("set, pipelined 100", 4, 100, 100, 12),
    sets("set 1 KB, one at a time", 1, 1, 1024, 1),
    sets("set 1 KB, pipelined 20", 4, 20, 1024, 6),
    sets("set 1 KB, pipelined 100", 4, 100, 1024, 8),
    Shape { gets: true, ..sets("get, 50 connections", 50, 1, 100, 2) },
    Shape { gets: true, ..sets("get, pipelined 100", 4, 100, 100, 12) },
];

impl Shape {
    /// The batches, in an order that has no pattern and is always the same.
    pub fn batches(&self) -> Vec<Batch> {
        let mut random = 0u64;
        (0..(BATCHES / self.pipeline).max(200))
            .map(|_| {
                let mut batch = Batch::default();
                for _ in 0..self.pipeline {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let n = (random >> 33) % KEYS;
                    match self.gets {
                        true => batch.push_get(std::iter::once(n), self.value),
                        false => batch.push_set(n, self.value),
                    }
                }
                batch
            })
            .collect()
    }
}
