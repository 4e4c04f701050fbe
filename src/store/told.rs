//! Changes told at once: what was stored, word for word, on its way to the replication thread.
//!
//! Owns the layout in which a writer leaves a small new item in its feed, while its bytes are at
//! hand: to look it up later would cost the replication thread several cache misses, more than the
//! whole write did. Never leaves the process; never holds a delete or a large value, for which the
//! hash in the feed is enough.
//!
//! ```text
//! feed  [ change | change | ... ]    <= its share, then hashes only
//! change  hash 8 | version 8 | cas 8 | flags 4 | exptime 4 | value's length 4 | key's length 1 |
//!         bits 1 | key | value
//! ```

use super::item::Extras;
use super::write::New;
use super::{Change, Exptime, Marks, Value, Version, What};

/// Bytes that wait in all feeds together at most, and in one of them at most and at least. One is
/// what a busy thread writes between two drains; what finds no room is looked up by its hash.
const TOTAL_MAX: usize = 2 * 1024 * 1024;
const FEED_MAX: usize = 256 * 1024;
const FEED_MIN: usize = 16 * 1024;
/// Longest value that is told: above it a copy costs more than a look-up.
pub(crate) const VALUE_MAX: usize = 2048;
/// Bytes before the key.
const HEAD: usize = 38;
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

/// Bytes that a change takes.
pub(super) fn size(new: &New<'_>) -> usize {
    HEAD + new.key.len() + new.len()
}

/// Appends a new item. The caller has seen to the limits.
pub(super) fn push(out: &mut Vec<u8>, hash: u64, version: Version, new: &New<'_>) {
    let Extras { marks, cas } = new.extras;
    let never = matches!(new.exptime, Exptime::Never);
    let bits = marks.bits() | if cas.is_some() { CAS } else { 0 } | if never { NEVER } else { 0 };
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(&hash.to_ne_bytes());
    head[8..16].copy_from_slice(&version.0.to_ne_bytes());
    head[16..24].copy_from_slice(&cas.unwrap_or(0).to_ne_bytes());
    head[24..28].copy_from_slice(&new.flags.to_ne_bytes());
    head[28..32].copy_from_slice(&new.exptime.secs().to_ne_bytes());
    head[32..36].copy_from_slice(&(new.len() as u32).to_ne_bytes());
    head[36] = new.key.len() as u8;
    head[37] = bits;
    out.reserve(size(new));
    out.extend_from_slice(&head);
    out.extend_from_slice(new.key);
    for part in new.parts {
        out.extend_from_slice(part);
    }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
}

/// Reads the change at the beginning of `bytes`: the hash of its key, itself, its size.
fn read(bytes: &[u8]) -> Option<(u64, Change<'_>, usize)> {
    let (head, rest) = bytes.split_at_checked(HEAD)?;
    let bits = head[37];
    let (key, rest) = rest.split_at_checked(usize::from(head[36]))?;
    let value = rest.get(..u32::from_ne_bytes(number(head, 32)) as usize)?;
    let what = What::Item {
        flags: u32::from_ne_bytes(number(head, 24)),
        exptime: match bits & NEVER {
            0 => Exptime::At(u32::from_ne_bytes(number(head, 28))),
            _ => Exptime::Never,
        },
        cas: (bits & CAS != 0).then(|| u64::from_ne_bytes(number(head, 16))),
        marks: Marks::from_bits(bits),
        value: Value::from(value),
    };
    let version = Version(u64::from_ne_bytes(number(head, 8)));
    let size = HEAD + key.len() + value.len();
    Some((u64::from_ne_bytes(number(head, 0)), Change { key, version, what }, size))
}

/// What a drain brought besides hashes. Its buffers change places with those of the feeds, so that
/// nothing is copied and nothing is allocated while writing goes on.
#[derive(Debug, Default)]
pub struct Told {
    buffers: Vec<Vec<u8>>,
    used: usize,
    quiet: u32,
}

impl Told {
    /// Forgets everything; memory is kept as long as it is needed.
    pub fn clear(&mut self) {
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

    /// All changes, each with the hash of its key.
    pub fn iter(&self) -> impl Iterator<Item = (u64, Change<'_>)> {
        self.buffers[..self.used].iter().flat_map(|buffer| {
            let mut rest = &buffer[..];
            std::iter::from_fn(move || {
                let (hash, change, size) = read(rest)?;
                rest = &rest[size..];
                Some((hash, change))
            })
        })
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
        let (mut told, mut feed) = (Told::default(), Vec::new());
        for (at, &(key, flags, exptime, extras, parts)) in news.iter().enumerate() {
            let new = New { key, flags, exptime, extras, parts };
            let before = feed.len();
            push(&mut feed, at as u64, Version(90 + at as u64), &new);
            assert_eq!(feed.len() - before, size(&new));
        }
        told.take(&mut feed);
        assert!(feed.is_empty() && !told.is_empty());
        let read: Vec<_> = told.iter().collect();
        assert_eq!(read.len(), news.len());
        for (at, (&(hash, change), new)) in read.iter().zip(&news).enumerate() {
            let &(key, flags, exptime, Extras { marks, cas }, parts) = new;
            assert_eq!((hash, change.version.0, change.key), (at as u64, 90 + at as u64, key));
            let value = Value::from_parts(parts);
            assert_eq!(change.what, What::Item { flags, exptime, cas, marks, value });
        }
        told.clear();
        assert!(told.is_empty() && told.iter().next().is_none());
    }

    #[test]
    fn memory_of_a_burst_is_given_back() {
        let (mut told, mut feed) = (Told::default(), vec![0; FEED_MAX]);
        told.take(&mut feed);
        for _ in 0..2 * QUIET_DRAINS {
            told.clear();
            feed.push(0);
            told.take(&mut feed);
        }
        told.clear();
        assert!(told.buffers[0].capacity() + feed.capacity() <= 2 * QUIET_BYTES);
    }
}
