//! Walking all items for an operator: `lru_crawler metadump`, `stats cachedump`, `stats sizes`,
//! `stats digest`.
//!
//! Owns [`Handle::dump`] and [`Handle::dump_read`]. A walk goes through the index in bounded steps
//! and holds one stripe's lock for a few dozen items at a time, so nobody waits for it; what is
//! there during the whole walk is shown once, what comes or goes meanwhile is shown or not.

use super::core::{Status, Store};
use super::handle::Seen;
use super::{Handle, Item, ScanCursor};
use crate::base::clock::Now;

/// Items that are looked at under one hold of a stripe's lock.
const HOLD: usize = 64;

/// Bytes of values that are read under one hold of a stripe's lock, give or take one value: some
/// ten microseconds.
const HOLD_BYTES: usize = 64 * 1024;

/// What a large item counts for under the lock: a hold has up to eight.
const LARGE_BYTES: usize = HOLD_BYTES / 8;

/// What is shown of each item; says how many bytes of its value it has read.
type Each<'a> = &'a mut dyn FnMut(&Item<'_>) -> usize;

/// What a hold or a step may look at, and what it has.
#[derive(Clone, Copy)]
struct Work {
    items: usize,
    bytes: usize,
}

impl Store {
    /// Shows the live items of one hold. Returns what was looked at.
    fn dump_hold(&self, cursor: &mut ScanCursor, hold: usize, now: Now, each: Each<'_>) -> Work {
        let stripe = self.index.lock(cursor.stripe as usize);
        let (mut looked, mut last) = (Work { items: 0, bytes: 0 }, cursor.tag as u32);
        let mut large = Vec::new();
        let mut next = None;
        for (at, tag) in stripe.slots_from(last) {
            // Slots of one tag stay together: the next hold starts at a tag, not inside of one.
            if tag != last && (looked.items >= hold || looked.bytes >= HOLD_BYTES) {
                next = Some(tag);
                break;
            }
            last = tag;
            looked.items += 1;
            let record = self.record(stripe.location(at));
            if self.status(&record, now) == Status::Live {
                let mut read = Some(|item: &Item<'_>| each(item));
                match self.see(&record, now, &mut read) {
                    Some(Seen::Read(bytes)) => looked.bytes += bytes,
                    // Read without the lock; few at a time, as each keeps segments in place.
                    Some(Seen::Large(snapshot)) => {
                        looked.bytes += LARGE_BYTES;
                        large.push(snapshot);
                    }
                    None => {}
                }
            }
        }
        drop(stripe);
        for snapshot in large {
            let read = Store::finish(Seen::Large(snapshot), Some(|item: &Item<'_>| each(item)));
            looked.bytes += read.unwrap_or(0);
        }
        match next {
            Some(tag) => cursor.tag = u64::from(tag),
            None => {
                cursor.stripe += 1;
                cursor.tag = 0;
            }
        }
        looked
    }
}

impl Handle {
    /// Shows live items to `each`, in a step of about `budget` of them. True when it has come to
    /// the end. Counts nothing and marks nothing as used. `each` may run under a lock: it should
    /// copy and return, and not use the store.
    pub fn dump(
        &mut self,
        cursor: &mut ScanCursor,
        budget: usize,
        now: Now,
        each: &mut dyn FnMut(&Item<'_>),
    ) -> bool {
        self.dump_read(cursor, budget, usize::MAX, now, &mut |item| {
            each(item);
            0
        })
    }

    /// The same for one who reads values: `each` says how many bytes of a value it has read, and
    /// the step ends after about `bytes` of them, too. One value may go over it by its own size.
    pub fn dump_read(
        &mut self,
        cursor: &mut ScanCursor,
        budget: usize,
        bytes: usize,
        now: Now,
        each: &mut dyn FnMut(&Item<'_>) -> usize,
    ) -> bool {
        let (store, _) = self.split();
        store.settle(now);
        let stripes = store.index.stripes() as u64;
        let mut left = Work { items: budget.max(1), bytes: bytes.max(1) };
        while cursor.stripe < stripes && left.items > 0 && left.bytes > 0 {
            let looked = store.dump_hold(cursor, left.items.min(HOLD), now, each);
            // An empty stripe costs a look, too.
            left.items = left.items.saturating_sub(looked.items.max(1));
            left.bytes = left.bytes.saturating_sub(looked.bytes);
        }
        cursor.progress = (cursor.stripe * 1_000_000 / stripes) as u32;
        cursor.stripe >= stripes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Config, Exptime, Mode};
    use std::collections::BTreeMap;

    const NOW: Now = Now { unix_us: 1_700_000_000_000_000, mono_us: 0 };

    fn walk(handle: &mut Handle, budget: usize, now: Now) -> BTreeMap<Vec<u8>, usize> {
        let (mut cursor, mut found) = (ScanCursor::default(), BTreeMap::new());
        let mut steps = 0;
        while !handle.dump(&mut cursor, budget, now, &mut |item| {
            assert_eq!(found.insert(item.key.to_vec(), item.value.len()), None, "shown twice");
        }) {
            steps += 1;
            assert!(steps < 100_000);
        }
        found
    }

    #[test]
    fn every_live_item_is_shown_once_in_steps_of_any_size() {
        let config = Config { memory_limit: 8 << 20, replicated: true, ..Config::default() };
        let mut handle = Store::new(config, NOW).handle();
        for n in 0..3000u32 {
            let key = format!("key {n}");
            let exptime =
                if n % 10 == 3 { Exptime::At(NOW.unix_secs() + 5) } else { Exptime::Never };
            let value = vec![0; if n % 500 == 7 { 70_000 } else { n as usize % 90 }];
            handle.store(Mode::Set, key.as_bytes(), 0, exptime, &value, NOW);
            if n % 10 == 4 {
                assert!(handle.delete(key.as_bytes(), NOW));
            }
        }
        for budget in [1, 63, 10_000] {
            let found = walk(&mut handle, budget, NOW);
            assert_eq!(found.len(), 2700);
            assert_eq!(found[&b"key 507"[..]], 70_000);
        }
        let later = NOW.plus_us(5_000_000);
        assert_eq!(walk(&mut handle, 100, later).len(), 2400);
        handle.flush_all(None, later);
        assert!(walk(&mut handle, 100, later).is_empty());
    }

    #[test]
    fn a_step_looks_at_no_more_than_it_may() {
        let config = Config { memory_limit: 8 << 20, ..Config::default() };
        let mut handle = Store::new(config, NOW).handle();
        for n in 0..3000u32 {
            handle.store(Mode::Set, &n.to_le_bytes(), 0, Exptime::Never, b"", NOW);
        }
        let (mut cursor, mut seen) = (ScanCursor::default(), 0);
        handle.dump(&mut cursor, 10, NOW, &mut |_| seen += 1);
        // Slots of one tag stay together: a few more may come.
        assert!(seen <= 16, "{seen}");
        let mut bytes = |each: usize| {
            let mut seen = 0;
            handle.dump_read(&mut ScanCursor::default(), 3000, 1 << 20, NOW, &mut |_| {
                seen += 1;
                each
            });
            seen
        };
        assert_eq!(bytes(0), 3000);
        assert!((1..=8).contains(&bytes(1 << 20)), "{}", bytes(1 << 20));
        assert!((32..=64).contains(&bytes(1 << 15)), "{}", bytes(1 << 15));
    }
}
