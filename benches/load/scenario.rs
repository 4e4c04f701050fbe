//! What is asked of a server: requests as bytes, made before the clock runs.
//!
//! Owns keys, values and the length of every reply. All keys are there, so that a reply has a known
//! length and the client has only to count.

/// Length of every key.
pub const KEY_LEN: usize = 32;
/// Length of every value.
pub const VALUE_LEN: usize = 100;
/// Keys of the working set.
pub const KEYS: u64 = 100_000;
/// Different batches of a scenario; they are sent round and round.
const BATCHES: u64 = 50_000;

/// One write to a server, and what it must answer.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The bytes, one or more requests.
    pub bytes: Vec<u8>,
    /// Requests in it.
    pub requests: u64,
    /// Length of all replies together.
    pub reply_len: usize,
    /// What the last of them ends with.
    pub reply_end: &'static [u8],
}

/// A kind of load.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its line in the table.
    pub name: &'static str,
    /// Gets in a hundred requests; the rest are sets.
    gets_percent: u64,
    /// Keys of one get.
    keys: u64,
    /// Requests per write.
    pipeline: u64,
    /// A request of it costs so many times what a plain get costs: so many fewer are sent.
    pub weight: u64,
}

/// The table's lines.
pub const ALL: [Scenario; 6] = [
    Scenario { name: "get", gets_percent: 100, keys: 1, pipeline: 1, weight: 1 },
    Scenario { name: "set", gets_percent: 0, keys: 1, pipeline: 1, weight: 1 },
    Scenario { name: "90/10", gets_percent: 90, keys: 1, pipeline: 1, weight: 1 },
    Scenario { name: "multi-get 50", gets_percent: 100, keys: 50, pipeline: 1, weight: 10 },
    Scenario { name: "pipelined 20 get", gets_percent: 100, keys: 1, pipeline: 20, weight: 1 },
    Scenario { name: "pipelined 20 set", gets_percent: 0, keys: 1, pipeline: 20, weight: 1 },
];

/// The mixed load at a fixed rate, for latencies.
pub const PACED: Scenario =
    Scenario { name: "90/10 paced", gets_percent: 90, keys: 1, pipeline: 1, weight: 1 };

/// splitmix64: spreads consecutive numbers, the same on every machine.
fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Key number `n`: 32 bytes that do not look alike.
pub fn push_key(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(format!("{:016x}:load:{n:010}", mix(n)).as_bytes());
}

/// A set of key number `n`.
pub fn push_set(out: &mut Vec<u8>, n: u64) {
    out.extend_from_slice(b"set ");
    push_key(out, n);
    out.extend_from_slice(b" 0 0 100\r\n");
    out.extend(std::iter::repeat_n(b'a' + (n % 26) as u8, VALUE_LEN));
    out.extend_from_slice(b"\r\n");
}

/// Sets of the keys `from..to`, `per_batch` at a time.
pub fn sets(from: u64, to: u64, per_batch: u64) -> impl Iterator<Item = Batch> {
    (from..to).step_by(per_batch as usize).map(move |first| {
        let last = (first + per_batch).min(to);
        let mut bytes = Vec::new();
        for n in first..last {
            push_set(&mut bytes, n);
        }
        let requests = last - first;
        let reply_len = requests as usize * b"STORED\r\n".len();
        Batch { bytes, requests, reply_len, reply_end: b"STORED\r\n" }
    })
}

impl Scenario {
    /// The batches, in an order that has no pattern and is always the same.
    pub fn batches(&self) -> Vec<Batch> {
        let count = (BATCHES / self.weight / self.pipeline).max(1000);
        let mut random = 0;
        let mut next = move || {
            random += 1;
            mix(random)
        };
        (0..count)
            .map(|_| {
                let mut batch =
                    Batch { bytes: Vec::new(), requests: 0, reply_len: 0, reply_end: b"" };
                for _ in 0..self.pipeline {
                    if next() % 100 < self.gets_percent {
                        batch.push_get((0..self.keys).map(|_| next() % KEYS));
                    } else {
                        batch.push_set(next() % KEYS);
                    }
                }
                batch
            })
            .collect()
    }
}

impl Batch {
    fn push_get(&mut self, keys: impl Iterator<Item = u64>) {
        self.bytes.extend_from_slice(b"get");
        for n in keys {
            self.bytes.push(b' ');
            push_key(&mut self.bytes, n);
            self.reply_len += b"VALUE  0 100\r\n\r\n".len() + KEY_LEN + VALUE_LEN;
        }
        self.bytes.extend_from_slice(b"\r\n");
        self.reply_len += b"END\r\n".len();
        self.reply_end = b"END\r\n";
        self.requests += 1;
    }

    fn push_set(&mut self, n: u64) {
        push_set(&mut self.bytes, n);
        self.reply_len += b"STORED\r\n".len();
        self.reply_end = b"STORED\r\n";
        self.requests += 1;
    }
}
