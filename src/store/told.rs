//! Changes told at once: what was stored, word for word, on its way to the replication thread.
//!
//! Owns the layout in which a writer leaves a small new item in its feed, while its bytes are at
//! hand: to look it up later would cost the replication thread several cache misses, more than the
//! whole write did. The layout is fit to be sent as it is, many changes in one piece, so that no
//! thread takes it apart before the peer does. Never holds a delete or a large value, for which the
//! hash in the feed is enough.
//!
//! ```text
//! feed  [ change | change | ... ]    <= its share, then hashes only
//! change  version 8 | flags 4 | exptime 4 | value's length 4 | key's length 1 | bits 1 |
//!         cas 8, where a bit says so | key | value            all numbers little-endian
//! ```

use super::item::Extras;
use super::write::New;
use super::{Change, Exptime, Marks, Value, Version, What, KEY_MAX};
use crate::base::hash::hash_key;

/// Bytes that wait in all feeds together at most, and in one of them at most and at least. One is
/// what a busy thread writes between two drains; what finds no room is looked up by its hash.
const TOTAL_MAX: usize = 2 * 1024 * 1024;
const FEED_MAX: usize = 256 * 1024;
const FEED_MIN: usize = 16 * 1024;
/// Longest value that is told: above it a copy costs more than a look-up.
pub(crate) const VALUE_MAX: usize = 2048;
/// Bytes before the key, and an explicit CAS unique where there is one.
const HEAD: usize = 22;
const CAS_LEN: usize = 8;
/// An explicit CAS unique is there.
const CAS: u8 = 0x80;
/// It never expires.
const NEVER: u8 = 0x40;
/// After so many drains in a row that brought little, memory is given back.
const QUIET_DRAINS: u32 = 64;
/// "Little", in bytes, and what a buffer may keep then.
const QUIET_BYTES: usize = 4096;

/// Bytes that may wait in each of so many feeds.
pub(super) fn share(feeds: usize) -> usize {
    (TOTAL_MAX / feeds.max(1)).clamp(FEED_MIN, FEED_MAX)
}

/// Bytes that a change takes at most.
pub(super) fn size(new: &New<'_>) -> usize {
    HEAD + CAS_LEN + new.key.len() + new.len()
}

/// Appends a new item. The caller has seen to the limits.
pub(super) fn push(out: &mut Vec<u8>, version: Version, new: &New<'_>) {
    let Extras { marks, cas } = new.extras;
    let never = matches!(new.exptime, Exptime::Never);
    let bits = marks.bits() | if cas.is_some() { CAS } else { 0 } | if never { NEVER } else { 0 };
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(&version.0.to_le_bytes());
    head[8..12].copy_from_slice(&new.flags.to_le_bytes());
    head[12..16].copy_from_slice(&new.exptime.secs().to_le_bytes());
    head[16..20].copy_from_slice(&(new.len() as u32).to_le_bytes());
    head[20] = new.key.len() as u8;
    head[21] = bits;
    out.reserve(size(new));
    out.extend_from_slice(&head);
    if let Some(cas) = cas {
        out.extend_from_slice(&cas.to_le_bytes());
    }
    out.extend_from_slice(new.key);
    for part in new.parts {
        out.extend_from_slice(part);
    }
}

fn number<const N: usize>(head: &[u8; HEAD], at: usize) -> [u8; N] {
    head.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
}

/// Bytes that the change at the beginning of `bytes` takes, if all are there.
fn span(bytes: &[u8]) -> Option<usize> {
    let head = bytes.first_chunk::<HEAD>()?;
    let cas = if head[21] & CAS != 0 { CAS_LEN } else { 0 };
    let value = u32::from_le_bytes(number(head, 16)) as usize;
    let span = HEAD + cas + usize::from(head[20]) + value;
    (span <= bytes.len()).then_some(span)
}

/// Reads the change at the beginning of `bytes`: itself, and how many bytes it takes. `None` where
/// that is nothing a node says: a peer may have sent it.
pub fn read_told(bytes: &[u8]) -> Option<(Change<'_>, usize)> {
    let size = span(bytes)?;
    let (head, rest) = bytes[..size].split_first_chunk::<HEAD>()?;
    let bits = head[21];
    let (cas, rest) = match bits & CAS {
        0 => (None, rest),
        _ => rest.split_first_chunk().map(|(cas, rest)| (Some(u64::from_le_bytes(*cas)), rest))?,
    };
    let (key, value) = rest.split_at_checked(usize::from(head[20]))?;
    let version = Version(u64::from_le_bytes(number(head, 0)));
    // The top bit of a version is spare, and one that has it set would never be beaten.
    if key.is_empty() || key.len() > KEY_MAX || value.len() > VALUE_MAX || version.0 >> 63 != 0 {
        return None;
    }
    let what = What::Item {
        flags: u32::from_le_bytes(number(head, 8)),
        exptime: match bits & NEVER {
            0 => Exptime::At(u32::from_le_bytes(number(head, 12))),
            _ => Exptime::Never,
        },
        cas,
        marks: Marks::from_bits(bits),
        value: Value::from(value),
    };
    Some((Change { key, version, what }, size))
}

/// Changes in one piece.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// In the layout of this file.
    pub bytes: &'a [u8],
    /// How many they are.
    pub count: usize,
    seed: u64,
}

impl<'a> Batch<'a> {
    /// The changes, each with the hash of its key.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Change<'a>)> {
        let (mut rest, seed) = (self.bytes, self.seed);
        std::iter::from_fn(move || {
            let (change, size) = read_told(rest)?;
            rest = &rest[size..];
            Some((hash_key(seed, change.key), change))
        })
    }
}

/// What a drain brought besides hashes. Its buffers change places with those of the feeds, so that
/// nothing is copied and nothing is allocated while writing goes on.
#[derive(Debug, Default)]
pub struct Told {
    buffers: Vec<Vec<u8>>,
    used: usize,
    quiet: u32,
    /// By which the store hashes keys.
    seed: u64,
}

impl Told {
    /// Forgets everything; memory is kept as long as it is needed. What comes next is of a store
    /// with this seed.
    pub(super) fn begin(&mut self, seed: u64) {
        self.seed = seed;
        let bytes: usize = self.buffers[..self.used].iter().map(Vec::len).sum();
        self.quiet = if bytes > QUIET_BYTES { 0 } else { self.quiet.saturating_add(1) };
        for buffer in &mut self.buffers[..self.used] {
            buffer.clear();
            if self.quiet > QUIET_DRAINS {
                buffer.shrink_to(QUIET_BYTES);
            }
        }
        self.used = 0;
    }

    /// Takes what is in `from` and leaves an empty buffer.
    pub(super) fn take(&mut self, from: &mut Vec<u8>) {
        if from.is_empty() {
            return;
        }
        if self.used == self.buffers.len() {
            self.buffers.push(Vec::new());
        }
        std::mem::swap(&mut self.buffers[self.used], from);
        self.used += 1;
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// All changes, in pieces of at most `max` bytes, or of one change.
    pub fn batches(&self, max: usize) -> impl Iterator<Item = Batch<'_>> {
        self.buffers[..self.used].iter().flat_map(move |buffer| {
            let mut rest = &buffer[..];
            std::iter::from_fn(move || {
                let (mut end, mut count) = (0, 0);
                while let Some(size) = span(&rest[end..]) {
                    if count > 0 && end + size > max {
                        break;
                    }
                    (end, count) = (end + size, count + 1);
                }
                let (bytes, behind) = rest.split_at(end);
                rest = behind;
                (count > 0).then_some(Batch { bytes, count, seed: self.seed })
            })
        })
    }

    /// All changes, each with the hash of its key.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Change<'_>)> {
        self.batches(usize::MAX).flat_map(|batch| batch.iter())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_pushed_is_read_back() {
        let marks = Marks { stale: true, won: false, binary_key: true };
        let plain = Extras { marks: Marks::default(), cas: None };
        let news = [
            (&b"k"[..], 0, Exptime::Never, plain, &[&b""[..]][..]),
            (b"key", 7, Exptime::At(0), Extras { marks, cas: Some(0) }, &[b"ab", b"", b"cde"]),
            (&[b'x'; 250], u32::MAX, Exptime::At(u32::MAX), plain, &[&[b'v'; VALUE_MAX]]),
        ];
        let (mut told, mut feed) = (Told { seed: 5, ..Told::default() }, Vec::new());
        for (at, &(key, flags, exptime, extras, parts)) in news.iter().enumerate() {
            let new = New { key, flags, exptime, extras, parts, placed: None };
            let before = feed.len();
            push(&mut feed, Version(90 + at as u64), &new);
            let cas = if extras.cas.is_some() { 0 } else { CAS_LEN };
            assert_eq!(feed.len() - before, size(&new) - cas);
        }
        told.take(&mut feed);
        assert!(feed.is_empty() && !told.is_empty());
        let read: Vec<_> = told.iter().collect();
        assert_eq!(read.len(), news.len());
        for (at, (&(hash, change), new)) in read.iter().zip(&news).enumerate() {
            let &(key, flags, exptime, Extras { marks, cas }, parts) = new;
            assert_eq!((hash, change.key), (hash_key(5, key), key));
            assert_eq!(change.version.0, 90 + at as u64);
            let value = Value::from_parts(parts);
            assert_eq!(change.what, What::Item { flags, exptime, cas, marks, value });
        }
        for (max, counts) in [(0, &[1, 1, 1][..]), (100, &[2, 1]), (usize::MAX, &[3])] {
            let cut: Vec<usize> = told.batches(max).map(|batch| batch.count).collect();
            assert_eq!(cut, counts, "at {max}");
            let joined: Vec<u8> =
                told.batches(max).flat_map(|batch| batch.bytes.to_vec()).collect();
            assert_eq!(joined, told.buffers[0]);
        }
        told.begin(5);
        assert!(told.is_empty() && told.iter().next().is_none());
    }

    #[test]
    fn what_no_node_says_is_not_read() {
        let none = Extras { marks: Marks::default(), cas: Some(1) };
        let new = New {
            key: b"k",
            flags: 0,
            exptime: Exptime::Never,
            extras: none,
            parts: &[b"v"],
            placed: None,
        };
        let mut good = Vec::new();
        push(&mut good, Version(9), &new);
        assert_eq!(read_told(&good).map(|(_, size)| size), Some(good.len()));
        for cut in 0..good.len() {
            assert_eq!(read_told(&good[..cut]), None, "cut at {cut}");
        }
        // The spare bit of the version, no key, a key and a value that are too long.
        for (at, byte) in [(7, 0x80), (20, 0), (20, 251), (17, 0x10), (19, 0xff)] {
            let mut bad = good.clone();
            bad[at] = byte;
            bad.resize(10_000, b'x');
            assert_eq!(read_told(&bad), None, "{byte} at {at}");
        }
    }

    #[test]
    fn memory_of_a_burst_is_given_back() {
        let (mut told, mut feed) = (Told::default(), vec![0; FEED_MAX]);
        told.take(&mut feed);
        for _ in 0..2 * QUIET_DRAINS {
            told.begin(0);
            feed.push(0);
            told.take(&mut feed);
        }
        told.begin(0);
        assert!(told.buffers[0].capacity() + feed.capacity() <= 2 * QUIET_BYTES);
    }
}
