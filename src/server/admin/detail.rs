//! `stats detail`: what is asked for by the prefix of the key.
//!
//! Owns the counts and their bound. Off, it costs a command one load that is never taken for
//! another value; on, a lock for the moment of counting.

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::clock::Now;
use crate::protocol::classic::encode;
use crate::server::conn::{Produced, Producer};
use crate::server::execute::Executor;

/// Prefixes that are counted; keys with further ones are not. A client chooses them, so this bounds
/// the memory: 4096 of the longest take two megabytes. Who has more has no prefixes but keys.
const PREFIXES_MAX: usize = 4096;

/// Rows of one step of a dump: up to 90 KB.
const ROWS_PER_STEP: usize = 256;

/// The counts of one prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    gets: u64,
    hits: u64,
    sets: u64,
    deletes: u64,
}

/// Counts by prefix, and whether they are kept.
#[derive(Debug)]
pub struct Detail {
    delimiter: u8,
    on: AtomicBool,
    prefixes: Mutex<BTreeMap<Box<[u8]>, Counts>>,
}

impl Detail {
    /// Counts nothing yet. A prefix is what stands before the first `delimiter` of a key.
    pub fn new(delimiter: u8, on: bool) -> Detail {
        Detail { delimiter, on: AtomicBool::new(on), prefixes: Mutex::default() }
    }

    fn prefixes(&self) -> MutexGuard<'_, BTreeMap<Box<[u8]>, Counts>> {
        self.prefixes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether counts are kept now.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// Starts or ends counting; what was counted stays.
    pub fn turn(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// Forgets everything, as `stats reset` does.
    pub fn clear(&self) {
        self.prefixes().clear();
    }

    /// Counts a key asked for by get, gets, gat or gats.
    #[inline]
    pub fn get(&self, key: &[u8], hit: bool) {
        if self.is_on() {
            self.count(key, |counts| {
                counts.gets += 1;
                counts.hits += u64::from(hit);
            });
        }
    }

    /// Counts a storage command, whatever becomes of it.
    #[inline]
    pub fn set(&self, key: &[u8]) {
        if self.is_on() {
            self.count(key, |counts| counts.sets += 1);
        }
    }

    /// Counts a delete, whether the key is there or not.
    #[inline]
    pub fn delete(&self, key: &[u8]) {
        if self.is_on() {
            self.count(key, |counts| counts.deletes += 1);
        }
    }

    #[cold]
    fn count(&self, key: &[u8], add: impl FnOnce(&mut Counts)) {
        // A binary key may hold a NUL, where memcached stops looking.
        let end = key.iter().position(|&byte| byte == self.delimiter || byte == 0);
        let Some(prefix) = end.filter(|&end| key[end] == self.delimiter).map(|end| &key[..end])
        else {
            return;
        };
        let mut prefixes = self.prefixes();
        if let Some(counts) = prefixes.get_mut(prefix) {
            add(counts);
        } else if prefixes.len() < PREFIXES_MAX {
            add(prefixes.entry(prefix.into()).or_default());
        }
    }

    /// Appends the rows behind `after`, as many as make a step. Returns the last one's prefix, or
    /// none at the end.
    fn rows(&self, after: Option<&[u8]>, out: &mut Vec<u8>) -> Option<Box<[u8]>> {
        let prefixes = self.prefixes();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut last: Option<&Box<[u8]>> = None;
        for (count, (prefix, counts)) in
            prefixes.range::<[u8], _>((from, Bound::Unbounded)).enumerate()
        {
            if count == ROWS_PER_STEP {
                return last.cloned();
            }
            out.extend_from_slice(b"PREFIX ");
            out.extend_from_slice(prefix);
            let Counts { gets, hits, sets, deletes } = counts;
            // Writing to a Vec cannot fail.
            let _ = write!(out, " get {gets} hit {hits} set {sets} del {deletes}\r\n");
            last = Some(prefix);
        }
        None
    }
}

/// The answer to `stats detail dump`, by the order of prefixes.
pub(super) fn dump() -> Box<dyn Producer> {
    Box::new(Dump { after: None })
}

#[derive(Debug)]
struct Dump {
    after: Option<Box<[u8]>>,
}

impl Producer for Dump {
    fn produce(&mut self, exec: &mut Executor, _now: Now, out: &mut Vec<u8>) -> Produced {
        self.after = exec.shared.detail.rows(self.after.as_deref(), out);
        if self.after.is_some() {
            return Produced::More;
        }
        out.extend_from_slice(encode::END);
        Produced::Done
    }

    /// There are only so many prefixes.
    fn may_go_by_datagram(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(detail: &Detail) -> String {
        let (mut out, mut after) = (Vec::new(), None);
        loop {
            after = detail.rows(after.as_deref(), &mut out);
            if after.is_none() {
                return String::from_utf8(out).expect("ASCII");
            }
        }
    }

    #[test]
    fn counts_by_what_stands_before_the_first_delimiter() {
        let detail = Detail::new(b':', true);
        detail.get(b"a:1:2", true);
        detail.get(b"a:2", false);
        detail.set(b"a:1");
        detail.delete(b"b:1");
        detail.set(b"none");
        detail.set(b"no\0ne:1");
        detail.set(b":x");
        detail.turn(false);
        detail.set(b"a:1");
        assert_eq!(
            dump(&detail),
            "PREFIX  get 0 hit 0 set 1 del 0\r\n\
             PREFIX a get 2 hit 1 set 1 del 0\r\n\
             PREFIX b get 0 hit 0 set 0 del 1\r\n"
        );
        detail.clear();
        assert_eq!(dump(&detail), "");
    }

    #[test]
    fn the_number_of_prefixes_is_bounded() {
        let detail = Detail::new(b'.', true);
        for n in 0..PREFIXES_MAX + 100 {
            detail.set(format!("p{n}.x").as_bytes());
        }
        detail.set(b"p0.x");
        let rows = dump(&detail);
        assert_eq!(rows.lines().count(), PREFIXES_MAX);
        assert!(rows.contains("PREFIX p0 get 0 hit 0 set 2 del 0\r\n"));
    }
}
