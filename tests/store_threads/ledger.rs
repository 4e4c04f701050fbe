//! What threads know of a store that they share, and what none of them may see from then on.
//!
//! Owns values that say what they are, and the judgement over what a reader finds. Never touches
//! the store.
//!
//! ```text
//! value  [ block | block | ... ]     one from set, add, replace, cas; one more for each append
//! block  key's hash 8 | id 8 (writer, number) | begun 8 | length 4 | 0 4 | checksum 8 | filling
//!
//!  tickets  ... 17        18          19        20          21 ...       one counter for all
//!          write A begins  A is stored  B begins  B is stored  a reader who begins here
//!                                                             may see B, or nothing; never A
//! ```
//! Every operation draws a ticket when it begins, a write draws another when it was stored. For
//! each key the ledger keeps the latest beginning of an operation that is known to have come to
//! pass: a write that was acknowledged or seen, a delete, a flush, a get that found nothing. What
//! was stored before that beginning has been replaced, or is gone, and nobody may see it again.
//! What was refused nobody may ever see. Versions of a key never go back either.

use std::sync::atomic::{AtomicU64, Ordering};
use twincached::base::hash::hash_key;
use twincached::store::{Value, Version};

/// Strict where threads learn from each other by these atomics. Not under the sanitizer: there the
/// store's own locks are to be all that orders its accesses. (In practice no processor of ours
/// moves these operations across a lock.)
pub const ORDER: Ordering = if cfg!(tsan) { Ordering::Relaxed } else { Ordering::SeqCst };

const HEAD: usize = 40;
/// How often a reader of a large value lets others run and looks again.
const LINGERS: usize = 3;
/// In the place of the ticket that says when a write was stored.
const NOT_YET: u64 = 0;
const REFUSED: u64 = u64::MAX;

/// What a thread knows of a key before it looks.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    pub begun: u64,
    since: u64,
    version: u64,
}

pub struct Ledger {
    tickets: AtomicU64,
    /// By writer and number: when it was stored.
    stored: Vec<Vec<AtomicU64>>,
    /// By key: the latest beginning of what has come to pass.
    since: Vec<AtomicU64>,
    versions: Vec<AtomicU64>,
    flushed: AtomicU64,
    /// Whether versions never go back. They may where a peer's older item comes after an eviction.
    strict: bool,
}

fn word(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn atomics(count: usize) -> Vec<AtomicU64> {
    (0..count).map(|_| AtomicU64::new(NOT_YET)).collect()
}

impl Ledger {
    pub fn new(keys: usize, writers: usize, writes: usize, strict: bool) -> Ledger {
        Ledger {
            tickets: AtomicU64::new(1),
            stored: (0..writers).map(|_| atomics(writes)).collect(),
            since: atomics(keys),
            versions: atomics(keys),
            flushed: AtomicU64::new(0),
            strict,
        }
    }

    fn ticket(&self) -> u64 {
        self.tickets.fetch_add(1, ORDER)
    }

    /// Before an operation begins.
    pub fn know(&self, key: usize) -> Known {
        let since = self.since[key].load(ORDER).max(self.flushed.load(ORDER));
        Known { begun: self.ticket(), since, version: self.versions[key].load(ORDER) }
    }

    /// Makes `out` the block of a write that begins now.
    pub fn block(&self, out: &mut Vec<u8>, key: &[u8], (writer, nth): (usize, usize), len: usize) {
        let id = (writer as u64) << 32 | nth as u64;
        let len = len.max(HEAD);
        out.clear();
        out.extend_from_slice(&hash_key(1, key).to_le_bytes());
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(&self.ticket().to_le_bytes());
        out.extend_from_slice(&(len as u64).to_le_bytes());
        out.extend_from_slice(&[0; 8]);
        let mut filling = hash_key(id, key);
        while out.len() < len {
            filling = filling.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
            out.extend_from_slice(&filling.to_le_bytes());
        }
        out.truncate(len);
        let sum = hash_key(2, out).to_le_bytes();
        out[32..HEAD].copy_from_slice(&sum);
    }

    /// A write of this block, under `known`, was stored or refused.
    pub fn answered(&self, key: usize, known: &Known, block: &[u8], version: Option<Version>) {
        let id = word(block, 8);
        let place = &self.stored[(id >> 32) as usize][id as u32 as usize];
        let Some(version) = version else { return place.store(REFUSED, ORDER) };
        self.take_version(key, known, version);
        place.store(self.ticket(), ORDER);
        self.came_to_pass(key, word(block, 16));
    }

    /// What was here before this beginning is not any more.
    pub fn came_to_pass(&self, key: usize, begun: u64) {
        self.since[key].fetch_max(begun, ORDER);
    }

    /// The same for all keys.
    pub fn flush(&self, begun: u64) {
        self.flushed.fetch_max(begun, ORDER);
    }

    /// A version that a key has, or has had meanwhile.
    pub fn take_version(&self, key: usize, known: &Known, version: Version) {
        assert!(!self.strict || version.0 >= known.version, "key {key} went back to {version:?}");
        self.versions[key].fetch_max(version.0, ORDER);
    }

    /// Judges what was found under a key, and remembers that it was.
    pub fn judge(
        &self,
        (number, key): (usize, &[u8]),
        known: &Known,
        version: Version,
        value: Value<'_>,
        scratch: &mut Vec<u8>,
    ) {
        self.take_version(number, known, version);
        scratch.clear();
        value.copy_to(scratch);
        if value.chunks().nth(1).is_some() {
            // A large one: it is held without a lock, and stays what it is for that long.
            for _ in 0..LINGERS {
                std::thread::yield_now();
                let mut rest = &scratch[..];
                for part in value.chunks() {
                    let (same, behind) = rest.split_at(part.len());
                    assert!(part == same, "{key:?}: changed while it was read");
                    rest = behind;
                }
            }
        }
        let (mut rest, mut latest, mut fresh) = (&mut scratch[..], 0, value.is_empty());
        while !rest.is_empty() {
            let (begun, stored, len) = self.judge_block(key, rest);
            latest = latest.max(begun);
            fresh |= stored == NOT_YET || stored >= known.since;
            rest = &mut rest[len..];
        }
        assert!(fresh, "{:?}: stale, as was known from {} on", key, known.since);
        self.came_to_pass(number, latest);
    }

    /// The first block of `bytes`: when it was begun, when it was stored, and its length.
    fn judge_block(&self, key: &[u8], bytes: &mut [u8]) -> (u64, u64, usize) {
        assert!(bytes.len() >= HEAD, "{key:?}: the end of a block is missing");
        assert_eq!(word(bytes, 0), hash_key(1, key), "{key:?}: the value of another key");
        let len = word(bytes, 24) as usize;
        assert!((HEAD..=bytes.len()).contains(&len), "{key:?}: torn, {len} of {}", bytes.len());
        let (id, begun, sum) = (word(bytes, 8), word(bytes, 16), word(bytes, 32));
        bytes[32..HEAD].fill(0);
        assert_eq!(hash_key(2, &bytes[..len]), sum, "{key:?}: torn");
        let stored = self.stored[(id >> 32) as usize][id as u32 as usize].load(ORDER);
        assert_ne!(stored, REFUSED, "{key:?}: {id:x} was refused, and is there");
        (begun, stored, len)
    }
}
