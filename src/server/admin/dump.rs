//! Answers that show every item: `lru_crawler metadump` and `mgdump`, `stats cachedump`, `stats
//! sizes`.
//!
//! Owns their lines. Each is a [`Producer`] that walks the store in bounded steps
//! ([`crate::store::Handle::dump`]) as the client reads, so that a dump of millions of items holds
//! neither memory nor the worker, and any number of them may be under way.

use std::collections::BTreeMap;

use super::stat;
use crate::base::clock::Now;
use crate::base::num::push_u64;
use crate::base::uri;
use crate::protocol::classic::{admin, encode};
use crate::protocol::meta::encode_base64 as push_base64;
use crate::server::conn::{Produced, Producer};
use crate::server::execute::Executor;
use crate::store::{memcached_size, Classes, Exptime, Item, ScanCursor};

/// Items that one step looks at: about a tenth of a millisecond. Of the longest keys, all of them
/// percent-encoded, their lines take 115 KB.
const ITEMS_PER_STEP: usize = 128;

/// Items that one step looks at where few or none of them make a line.
const COUNTED_PER_STEP: usize = 512;

/// Most bytes of an answer to `stats cachedump`, memcached's.
const CACHEDUMP_MAX: usize = 2 << 20;

/// Size classes that a memcached may have; its class 0 is nobody's.
const CLASS_IDS: u32 = 64;

/// Width of the buckets of `stats sizes`, in bytes.
const SIZES_BUCKET: usize = 32;

/// The two forms of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `metadump`: what is known of an item.
    Metadump,
    /// `mgdump`: a meta get for it.
    Mgdump,
}

/// The classes that a dump or a crawl is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chosen {
    /// `all`.
    All,
    /// `hash`: all, by memcached's hash table.
    Hash,
    /// These: one bit each.
    These(u64),
}

impl Chosen {
    /// `all`, `hash`, or numbers from 1 to 63 parted by commas. None for anything else.
    pub fn parse(text: &[u8]) -> Option<Chosen> {
        match text {
            b"all" => return Some(Chosen::All),
            b"hash" => return Some(Chosen::Hash),
            _ => {}
        }
        let mut bits = 0;
        for number in text.split(|&byte| byte == b',').filter(|number| !number.is_empty()) {
            match admin::unsigned32(number)? {
                class @ 1..CLASS_IDS => bits |= 1 << class,
                _ => return None,
            }
        }
        Some(Chosen::These(bits))
    }

    pub fn is_empty(&self) -> bool {
        *self == Chosen::These(0)
    }

    pub fn is_hash(&self) -> bool {
        *self == Chosen::Hash
    }

    fn holds(&self, class: u8) -> bool {
        match self {
            Chosen::All | Chosen::Hash => true,
            Chosen::These(bits) => bits >> class & 1 == 1,
        }
    }
}

fn size_of(item: &Item<'_>) -> usize {
    memcached_size(item.key.len(), item.flags != 0, item.value.len())
}

/// A dump of items.
pub(super) fn items(kind: Kind, chosen: Chosen) -> Box<dyn Producer> {
    Box::new(Items { kind, chosen, cursor: ScanCursor::default(), begun: false })
}

#[derive(Debug)]
struct Items {
    kind: Kind,
    chosen: Chosen,
    cursor: ScanCursor,
    begun: bool,
}

impl Producer for Items {
    fn produce(&mut self, exec: &mut Executor, now: Now, out: &mut Vec<u8>) -> Produced {
        if !std::mem::replace(&mut self.begun, true) {
            out.extend_from_slice(encode::OK);
        }
        let cas_enabled = exec.shared.config.cas;
        let store = exec.store.store_ref().clone();
        let (classes, chosen, kind) = (&store.config().classes, self.chosen, self.kind);
        let done = exec.store.dump(&mut self.cursor, ITEMS_PER_STEP, now, &mut |item| {
            let class = classes.of(size_of(item));
            match kind {
                _ if !chosen.holds(class) => {}
                Kind::Metadump => metadump(item, class, cas_enabled, now, out),
                Kind::Mgdump => mgdump(item, out),
            }
        });
        if !done {
            return Produced::More;
        }
        out.extend_from_slice(match self.kind {
            Kind::Metadump => encode::END,
            Kind::Mgdump => b"EN\r\n",
        });
        Produced::Done
    }
}

/// One line of `metadump`. It ends with a blank and a bare newline, as memcached's does.
fn metadump(item: &Item<'_>, class: u8, cas_enabled: bool, now: Now, out: &mut Vec<u8>) {
    out.extend_from_slice(b"key=");
    uri::push(out, item.key);
    out.extend_from_slice(b" exp=");
    match item.exptime {
        Exptime::Never => out.extend_from_slice(b"-1"),
        Exptime::At(secs) => push_u64(out, u64::from(secs)),
    }
    out.extend_from_slice(b" la=");
    push_u64(out, u64::from(now.unix_secs().saturating_sub(item.last_access_secs)));
    out.extend_from_slice(b" cas=");
    push_u64(out, if cas_enabled { item.cas } else { 0 });
    out.extend_from_slice(if item.fetched { b" fetch=yes cls=" } else { b" fetch=no cls=" });
    push_u64(out, u64::from(class));
    out.extend_from_slice(b" size=");
    push_u64(out, size_of(item) as u64);
    out.extend_from_slice(b" flags=");
    push_u64(out, u64::from(item.flags));
    out.extend_from_slice(b" \n");
}

/// One line of `mgdump`: the command that reads the item.
fn mgdump(item: &Item<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"mg ");
    if is_binary(item) {
        push_base64(out, item.key);
        out.extend_from_slice(b" b\r\n");
    } else {
        out.extend_from_slice(item.key);
        out.extend_from_slice(encode::CRLF);
    }
}

/// Whether a key cannot be written as it is: it came in base64.
fn is_binary(item: &Item<'_>) -> bool {
    item.marks.binary_key
        || item.key.iter().any(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control())
}

/// `stats cachedump`: up to `limit` items of a class, 0 for as many as fit into the answer. None
/// for a class that no memcached has.
pub(super) fn cachedump(class: u32, limit: u32) -> Option<Box<dyn Producer>> {
    let class = u8::try_from(class).ok().filter(|&class| u32::from(class) < CLASS_IDS)?;
    let left = if limit == 0 { u32::MAX } else { limit };
    Some(Box::new(Cachedump { class, left, written: 0, cursor: ScanCursor::default() }))
}

#[derive(Debug)]
struct Cachedump {
    class: u8,
    left: u32,
    written: usize,
    cursor: ScanCursor,
}

impl Cachedump {
    /// Appends an item's line where there is still room for it, else ends the answer.
    fn show(&mut self, item: &Item<'_>, classes: &Classes, out: &mut Vec<u8>) {
        if self.left == 0 || classes.of(size_of(item)) != self.class || is_binary(item) {
            return;
        }
        let mark = out.len();
        out.extend_from_slice(b"ITEM ");
        out.extend_from_slice(item.key);
        out.extend_from_slice(b" [");
        push_u64(out, item.value.len() as u64);
        out.extend_from_slice(b" b; ");
        push_u64(out, u64::from(item.exptime.secs()));
        out.extend_from_slice(b" s]\r\n");
        let line = out.len() - mark;
        if self.written + line + encode::END.len() > CACHEDUMP_MAX {
            out.truncate(mark);
            self.left = 0;
        } else {
            self.written += line;
            self.left -= 1;
        }
    }
}

impl Producer for Cachedump {
    fn produce(&mut self, exec: &mut Executor, now: Now, out: &mut Vec<u8>) -> Produced {
        let store = exec.store.store_ref().clone();
        let classes = &store.config().classes;
        let mut cursor = self.cursor;
        let done = exec.store.dump(&mut cursor, COUNTED_PER_STEP, now, &mut |item| {
            self.show(item, classes, out);
        });
        self.cursor = cursor;
        if !done && self.left > 0 {
            return Produced::More;
        }
        out.extend_from_slice(encode::END);
        Produced::Done
    }
}

/// `stats sizes`: how many items there are of each size, in steps of 32 bytes. It is counted when
/// it is asked for: nobody pays for it before.
pub(super) fn sizes() -> Box<dyn Producer> {
    Box::new(Sizes { cursor: ScanCursor::default(), buckets: BTreeMap::new() })
}

#[derive(Debug)]
struct Sizes {
    cursor: ScanCursor,
    /// No more than `-I` has steps, and than there are items.
    buckets: BTreeMap<usize, u64>,
}

impl Producer for Sizes {
    fn produce(&mut self, exec: &mut Executor, now: Now, out: &mut Vec<u8>) -> Produced {
        let buckets = &mut self.buckets;
        let done = exec.store.dump(&mut self.cursor, COUNTED_PER_STEP, now, &mut |item| {
            *buckets.entry(size_of(item).div_ceil(SIZES_BUCKET)).or_default() += 1;
        });
        if !done {
            return Produced::More;
        }
        for (bucket, count) in std::mem::take(&mut self.buckets) {
            stat(out, bucket * SIZES_BUCKET, count);
        }
        out.extend_from_slice(encode::END);
        Produced::Done
    }

    /// A line for every size.
    fn may_go_by_datagram(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_all_or_some() {
        assert_eq!(Chosen::parse(b"all"), Some(Chosen::All));
        assert_eq!(Chosen::parse(b"1,,63"), Some(Chosen::These(1 << 63 | 2)));
        assert!(Chosen::parse(b",").is_some_and(|chosen| chosen.is_empty()));
        for bad in [&b"0"[..], b"64", b"-1", b"x", b"1,x", b"all,1", b"4294967297"] {
            assert_eq!(Chosen::parse(bad), None, "{}", bad.escape_ascii());
        }
        let some = Chosen::parse(b"2,39").expect("two classes");
        assert!(some.holds(2) && some.holds(39) && !some.holds(1) && Chosen::Hash.holds(1));
    }
}
