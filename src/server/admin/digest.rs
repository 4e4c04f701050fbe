//! `stats digest`: what this node holds, in a form by which nodes can be compared.
//!
//! Owns its lines, which `twincached verify` reads. Walks the store in bounded steps as the client
//! reads ([`crate::store::Handle::dump_read`]): holds no lock for long, keeps no client waiting,
//! marks nothing as used. Only what is alive is counted: expired and flushed items are not there.
//!
//! ```text
//!   stats digest               STAT digest_scheme 1          of crate::base::digest
//!                              STAT digest_ranges 4096
//!                              STAT digest_node 812-1700000000000000     this process
//!                              STAT digest_percent 10        one in a while, as a sign of life
//!                              STAT 17 244 9e3779b97f4a7c15  range, items, digest; not empty ones
//!                              END
//!   stats digest 17 30-40      STAT key bytes crc flags exptime cas marks    per item of them
//!   stats digest key=a key=b   the same of these keys, as far as they are there
//! ```
//! Keys are percent-encoded, the CRC-32 of the value is hexadecimal, marks are the bits 1 stale,
//! 2 won, 4 key in base64. Large sets of ranges are written `mask=HEX@FIRST`.

use std::io::Write;

use super::stat;
use crate::base::clock::Now;
use crate::base::digest::{self, Noted, Range, Ranges, RANGES, SCHEME};
use crate::base::uri;
use crate::protocol::classic::encode;
use crate::server::conn::{Produced, Producer};
use crate::server::execute::Executor;
use crate::store::{Item, ScanCursor, KEY_MAX};

/// Items that one step looks at: some fifty microseconds where values are small.
const ITEMS_PER_STEP: usize = 256;
/// Bytes of values that one step reads: some fifty microseconds as well.
const BYTES_PER_STEP: usize = 256 * 1024;
/// Keys asked for by name that one step looks at.
const KEYS_PER_STEP: usize = 64;
/// Lines of ranges that one step writes.
const LINES_PER_STEP: usize = 512;
/// Percents between two signs of life.
const PERCENTS: u32 = 10;

/// What follows `stats digest` on the line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// Nothing: the digests of all ranges.
    Digests,
    /// The items of some ranges.
    Items(Box<Ranges>),
    /// The items with these keys, if they are there.
    Keys(Vec<Vec<u8>>),
}

impl Asked {
    /// Reads the words. None where one makes no sense, or ranges and keys are mixed.
    pub fn parse<'a>(words: impl Iterator<Item = &'a [u8]>) -> Option<Asked> {
        let (mut ranges, mut keys) = (Box::<Ranges>::default(), Vec::new());
        for word in words {
            if let Some(key) = word.strip_prefix(b"key=") {
                let key = uri::decode(key).filter(|key| (1..=KEY_MAX).contains(&key.len()))?;
                keys.push(key);
            } else if !ranges.add_word(std::str::from_utf8(word).ok()?) {
                return None;
            }
        }
        match (ranges.is_empty(), keys.is_empty()) {
            (true, true) => Some(Asked::Digests),
            (false, true) => Some(Asked::Items(ranges)),
            (true, false) => Some(Asked::Keys(keys)),
            (false, false) => None,
        }
    }
}

/// The answer.
pub(super) fn answer(asked: Asked) -> Box<dyn Producer> {
    let cursor = ScanCursor::default();
    match asked {
        Asked::Digests => Box::new(Digests { cursor, said: None, ranges: Vec::new(), shown: None }),
        Asked::Items(ranges) => Box::new(Items { cursor, ranges }),
        Asked::Keys(keys) => Box::new(Keys { keys: keys.into_iter() }),
    }
}

/// CRC-32 of an item's value.
fn crc(item: &Item<'_>) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    item.value.chunks().for_each(|chunk| crc.update(chunk));
    crc.finalize()
}

fn noted(item: &Item<'_>) -> Noted {
    Noted {
        flags: item.flags,
        exptime: item.exptime.secs(),
        cas: item.cas,
        marks: item.marks.bits(),
    }
}

#[derive(Debug)]
struct Digests {
    cursor: ScanCursor,
    /// The last sign of life, in percent.
    said: Option<u32>,
    /// 64 KiB, from the first step on.
    ranges: Vec<Range>,
    /// The first range that is not written yet, once the walk is over.
    shown: Option<usize>,
}

impl Digests {
    fn walk(&mut self, exec: &mut Executor, now: Now, out: &mut Vec<u8>) {
        let ranges = &mut self.ranges;
        let (items, bytes) = (ITEMS_PER_STEP, BYTES_PER_STEP);
        let done = exec.store.dump_read(&mut self.cursor, items, bytes, now, &mut |item| {
            let len = item.value.len();
            let digest = digest::item(item.key, &noted(item), crc(item), len as u64);
            ranges[digest::range_of(item.key)].add(digest);
            len
        });
        let percent = self.cursor.progress() / 10_000;
        if done {
            self.shown = Some(0);
        } else if self.said.is_none_or(|said| percent >= said + PERCENTS) {
            self.said = Some(percent);
            stat(out, "digest_percent", percent);
        }
    }
}

impl Producer for Digests {
    fn produce(&mut self, exec: &mut Executor, now: Now, out: &mut Vec<u8>) -> Produced {
        if self.ranges.is_empty() {
            self.ranges = vec![Range::default(); RANGES];
            let shared = &exec.shared;
            stat(out, "digest_scheme", SCHEME);
            stat(out, "digest_ranges", RANGES);
            stat(out, "digest_node", format_args!("{}-{}", shared.pid, shared.started.unix_us));
        }
        let Some(from) = self.shown else {
            self.walk(exec, now, out);
            return Produced::More;
        };
        let to = RANGES.min(from + LINES_PER_STEP);
        for (at, range) in self.ranges.iter().enumerate().take(to).skip(from) {
            if range.items > 0 {
                stat(out, at, format_args!("{} {:016x}", range.items, range.digest));
            }
        }
        self.shown = Some(to);
        if to < RANGES {
            return Produced::More;
        }
        out.extend_from_slice(encode::END);
        Produced::Done
    }
}

/// The line of one item; how many bytes it has read for it.
fn line(item: &Item<'_>, out: &mut Vec<u8>) -> usize {
    let Noted { flags, exptime, cas, marks } = noted(item);
    let (len, crc) = (item.value.len(), crc(item));
    out.extend_from_slice(b"STAT ");
    uri::push(out, item.key);
    // Writing to a Vec cannot fail.
    let _ = write!(out, " {len} {crc:08x} {flags} {exptime} {cas} {marks}\r\n");
    len
}

#[derive(Debug)]
struct Items {
    cursor: ScanCursor,
    ranges: Box<Ranges>,
}

impl Producer for Items {
    fn produce(&mut self, exec: &mut Executor, now: Now, out: &mut Vec<u8>) -> Produced {
        let ranges = &self.ranges;
        let (items, bytes) = (ITEMS_PER_STEP, BYTES_PER_STEP);
        let done = exec.store.dump_read(&mut self.cursor, items, bytes, now, &mut |item| {
            let wanted = ranges.contains(digest::range_of(item.key));
            if wanted {
                line(item, out)
            } else {
                0
            }
        });
        if !done {
            return Produced::More;
        }
        out.extend_from_slice(encode::END);
        Produced::Done
    }
}

#[derive(Debug)]
struct Keys {
    /// No more than fit into a command line.
    keys: std::vec::IntoIter<Vec<u8>>,
}

impl Producer for Keys {
    fn produce(&mut self, exec: &mut Executor, now: Now, out: &mut Vec<u8>) -> Produced {
        let mut read = 0;
        for _ in 0..KEYS_PER_STEP {
            if read >= BYTES_PER_STEP {
                break;
            }
            let Some(key) = self.keys.next() else {
                out.extend_from_slice(encode::END);
                return Produced::Done;
            };
            // Behind the door's back: a watcher sees what clients ask, and no client asks this.
            read += crate::store::Handle::peek(&mut exec.store, &key, now, |item| line(item, out))
                .unwrap_or(0);
        }
        Produced::More
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Option<Asked> {
        Asked::parse(line.split(' ').filter(|word| !word.is_empty()).map(str::as_bytes))
    }

    #[test]
    fn words_are_ranges_or_keys() {
        assert_eq!(parse(""), Some(Asked::Digests));
        let Some(Asked::Items(ranges)) = parse("17  30-32 mask=a1@4") else { panic!("ranges") };
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [5, 7, 8, 17, 30, 31, 32]);
        let keys = vec![b"a b".to_vec(), vec![0xff]];
        assert_eq!(parse("key=a%20b key=%ff"), Some(Asked::Keys(keys)));
        let long = format!("key={}", "k".repeat(KEY_MAX + 1));
        for bad in ["x", "4096", "key=", "key=%", "key=a 5", "Key=a", long.as_str()] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
