//! Requests as bytes, made before the clock runs.
//!
//! Owns keys, values and the length of every reply. All keys that are asked for are there, so that
//! a reply has a known length and the client has only to count.

use super::client::Client;

/// Length of every key.
pub const KEY_LEN: usize = 32;
/// Sets per write where a server is filled with small values.
const FILL_BATCH: u64 = 100;
/// Bytes of values in one write where it is filled with large ones, and made at once at most.
const FILL_BATCH_BYTES: usize = 64 * 1024;
const FILL_BYTES: usize = 16 * 1024 * 1024;

/// One write to a server, and what it must answer.
#[derive(Clone, Debug, Default)]
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

/// splitmix64: spreads consecutive numbers, the same on every machine.
pub fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Key number `n`, below ten thousand million: 32 bytes that do not look alike.
pub fn key(n: u64) -> String {
    format!("{:016x}:load:{n:010}", mix(n))
}

/// A set, whose value says which one it is of its neighbours.
fn push_set(out: &mut Vec<u8>, key: &str, n: u64, len: usize, exptime: u64, noreply: &str) {
    out.extend_from_slice(format!("set {key} 0 {exptime} {len}{noreply}\r\n").as_bytes());
    out.extend(std::iter::repeat_n(b'a' + (n % 26) as u8, len));
    out.extend_from_slice(b"\r\n");
}

impl Batch {
    /// Appends a get of these keys, which are there with values of `len` bytes.
    pub fn push_get(&mut self, keys: impl Iterator<Item = u64>, len: usize) {
        self.bytes.extend_from_slice(b"get");
        let one = format!("VALUE  0 {len}\r\n\r\n").len() + KEY_LEN + len;
        for n in keys {
            self.bytes.push(b' ');
            self.bytes.extend_from_slice(key(n).as_bytes());
            self.reply_len += one;
        }
        self.bytes.extend_from_slice(b"\r\n");
        self.reply_len += b"END\r\n".len();
        self.reply_end = b"END\r\n";
        self.requests += 1;
    }

    /// Appends a set of key number `n` with a value of `len` bytes.
    pub fn push_set(&mut self, n: u64, len: usize) {
        self.push_set_of(&key(n), n, len, 0);
    }

    /// The same of another key, with an exptime as the protocol has it.
    pub fn push_set_of(&mut self, key: &str, n: u64, len: usize, exptime: u64) {
        push_set(&mut self.bytes, key, n, len, exptime, "");
        self.reply_len += b"STORED\r\n".len();
        self.reply_end = b"STORED\r\n";
        self.requests += 1;
    }

    /// Appends a set that is not answered.
    pub fn push_quiet_set(&mut self, n: u64, len: usize) {
        self.push_quiet_set_of(&key(n), n, len, 0);
    }

    /// The same of another key, with an exptime as the protocol has it.
    pub fn push_quiet_set_of(&mut self, key: &str, n: u64, len: usize, exptime: u64) {
        push_set(&mut self.bytes, key, n, len, exptime, " noreply");
        self.requests += 1;
    }

    /// Appends what is always answered, and shortest: how the end of a batch of quiet sets is seen.
    /// It counts as no request.
    pub fn push_end_mark(&mut self) {
        self.bytes.extend_from_slice(b"mn\r\n");
        self.reply_len += b"MN\r\n".len();
        self.reply_end = b"MN\r\n";
    }
}

/// Sets of the keys `from..to`, in batches that are worth a write.
pub fn sets(from: u64, to: u64, len: usize) -> impl Iterator<Item = Batch> {
    let per_batch = ((FILL_BATCH_BYTES / len.max(1)) as u64).clamp(1, FILL_BATCH);
    (from..to).step_by(per_batch as usize).map(move |first| {
        let mut batch = Batch::default();
        (first..(first + per_batch).min(to)).for_each(|n| batch.push_set(n, len));
        batch
    })
}

/// Sets the keys `from..to`, in portions: the bytes of all of them could be more than the server's
/// memory.
pub fn fill(client: &mut Client, from: u64, to: u64, len: usize) -> Result<(), String> {
    let portion = (FILL_BYTES / (len + KEY_LEN)).max(1) as u64;
    for first in (from..to).step_by(portion as usize) {
        let batches: Vec<Batch> = sets(first, (first + portion).min(to), len).collect();
        client.run(batches.iter(), batches.len())?;
    }
    Ok(())
}
