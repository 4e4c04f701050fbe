//! Keys whose writes a backend did not get.
//!
//! Owns a bounded set of keys. A backend that was cut off, and not restarted, comes back with what
//! it held before: whatever was written or deleted meanwhile would be read from it as if nothing
//! had happened. So these keys are deleted on it before it is asked anything else; what the other
//! side of the pair holds then counts again. Where they are too many, everything is.

use std::collections::HashSet;

/// Keys remembered for one backend. A backend that misses more has been away for long, and is then
/// nearly always a restarted, empty one.
const KEYS_MAX: usize = 65_536;
/// Bytes of keys remembered for one backend.
const BYTES_MAX: usize = 4 << 20;

/// What one backend has missed.
#[derive(Debug, Default)]
pub struct Missed {
    keys: HashSet<Box<[u8]>>,
    bytes: usize,
    flush: bool,
    lost: u64,
}

/// One thing to make good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Amends {
    /// Delete this key.
    Delete(Box<[u8]>),
    /// Flush everything.
    Flush,
}

impl Missed {
    /// A write of `key` did not arrive, or may not have.
    pub fn key(&mut self, key: &[u8]) {
        if self.flush || self.keys.contains(key) {
            return;
        }
        if self.keys.len() >= KEYS_MAX || self.bytes + key.len() > BYTES_MAX {
            // Old values are worse than none.
            let lost = self.lost + self.keys.len() as u64 + 1;
            *self = Missed { flush: true, lost, ..Missed::default() };
            return;
        }
        self.bytes += key.len();
        self.keys.insert(key.into());
    }

    /// A `flush_all` did not arrive; it covers all keys.
    pub fn flush(&mut self) {
        *self = Missed { flush: true, lost: self.lost, ..Missed::default() };
    }

    /// Something that was taken and did not arrive either.
    pub fn again(&mut self, amends: Amends) {
        match amends {
            Amends::Delete(key) => self.key(&key),
            Amends::Flush => self.flush(),
        }
    }

    /// Whether there is nothing to make good.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && !self.flush
    }

    /// Takes at most `max` things out.
    pub fn take(&mut self, max: usize) -> Vec<Amends> {
        if std::mem::take(&mut self.flush) {
            return vec![Amends::Flush];
        }
        let taken: Vec<Box<[u8]>> = if self.keys.len() <= max {
            std::mem::take(&mut self.keys).into_iter().collect()
        } else {
            let some: Vec<Box<[u8]>> = self.keys.iter().take(max).cloned().collect();
            some.iter().for_each(|key| {
                self.keys.remove(key);
            });
            some
        };
        self.bytes = self.bytes.saturating_sub(taken.iter().map(|key| key.len()).sum());
        taken.into_iter().map(Amends::Delete).collect()
    }

    /// Writes that were too many to remember one by one since the last call: everything is flushed
    /// because of them.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_once_flush_over_all_and_bounded() {
        let mut missed = Missed::default();
        missed.key(b"a");
        missed.key(b"a");
        missed.key(b"b");
        assert_eq!(missed.take(1).len(), 1);
        assert_eq!(missed.take(10).len(), 1);
        assert!(missed.is_empty());
        missed.key(b"c");
        missed.flush();
        missed.key(b"d");
        assert_eq!(missed.take(10), [Amends::Flush]);
        assert!(missed.is_empty());
        for n in 0..KEYS_MAX + 5 {
            missed.key(format!("{n}").as_bytes());
        }
        assert_eq!(missed.take(usize::MAX), [Amends::Flush], "instead of too many");
        assert_eq!(missed.take_lost(), KEYS_MAX as u64 + 1, "and what came later is covered");
        assert!(missed.is_empty());
    }
}
