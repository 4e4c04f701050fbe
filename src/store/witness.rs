//! Who wants to know of evictions.
//!
//! Owns what is told of an item that is dropped for room, and to whom. Costs a look at one pointer
//! per eviction while nobody listens, and nothing per request.

use super::core::Store;
use super::item::Record;
use super::Exptime;
use crate::base::clock::Now;
use std::fmt::Debug;

/// An item at the moment of its eviction.
#[derive(Clone, Copy, Debug)]
pub struct Evicted<'a> {
    /// Its key.
    pub key: &'a [u8],
    /// Whether a get has ever found it.
    pub fetched: bool,
    /// When it would have expired.
    pub exptime: Exptime,
    /// Seconds since it was used last.
    pub idle_secs: u32,
    /// Length of its value, in bytes.
    pub len: usize,
    /// The class that memcached would have it in.
    pub class: u8,
    /// When that is.
    pub at: Now,
}

/// Is told of evictions, by whichever thread makes room.
pub trait Witness: Debug + Send + Sync {
    /// Whether it wants to be told at present.
    fn is_listening(&self) -> bool;
    /// An item goes. Called under the lock of its stripe: it must return soon, and must not use the
    /// store.
    fn evicted(&self, item: &Evicted<'_>);
}

impl Store {
    /// Who is to be told of evictions. The first one stays.
    pub fn tell_evictions(&self, witness: Box<dyn Witness>) {
        let _ = self.witness.set(witness);
    }

    /// Tells of a record that is about to be unlinked for room.
    pub(super) fn tell_evicted(&self, record: &Record, now: Now) {
        let Some(witness) = self.witness.get().filter(|witness| witness.is_listening()) else {
            return;
        };
        let arena = &self.segments.arena;
        let len = match record.is_large() {
            true => self.total_len(record),
            false => record.value_len(),
        };
        witness.evicted(&Evicted {
            key: record.key(arena),
            fetched: record.fetched(arena),
            exptime: record.exptime(arena),
            idle_secs: record.idle_secs(arena, now.unix_secs()),
            len,
            class: self.class_of(record).0,
            at: now,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::counters::Counter;
    use crate::store::{Config, Mode};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::Arc;

    const NOW: Now = Now { unix_us: 1_700_000_000_000_000, mono_us: 0 };

    #[derive(Debug, Default)]
    struct Seen {
        items: AtomicUsize,
        bytes: AtomicUsize,
    }

    impl Witness for Arc<Seen> {
        fn is_listening(&self) -> bool {
            true
        }
        fn evicted(&self, item: &Evicted<'_>) {
            assert!(item.key.starts_with(b"k") && !item.fetched && item.exptime == Exptime::Never);
            assert_eq!(item.at, NOW);
            self.items.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(item.len, Ordering::Relaxed);
        }
    }

    #[test]
    fn every_eviction_is_told_with_the_length_of_the_value() {
        let store = Store::new(Config { memory_limit: 1 << 20, ..Config::default() }, NOW);
        let seen = Arc::new(Seen::default());
        store.tell_evictions(Box::new(Arc::clone(&seen)));
        let mut handle = store.handle();
        for (len, count) in [(1000, 2000), (20_000, 200)] {
            let value = vec![b'v'; len];
            for n in 0..count {
                let key = format!("k{len}:{n}");
                handle.store(Mode::Set, key.as_bytes(), 0, Exptime::Never, &value, NOW);
            }
        }
        let items = seen.items.load(Ordering::Relaxed);
        assert_eq!(items as u64, handle.counters().get(Counter::Evictions));
        let bytes = seen.bytes.load(Ordering::Relaxed);
        let small = (bytes - items * 1000) / 19_000;
        assert_eq!(bytes, (items - small) * 1000 + small * 20_000);
        assert!(items > 1000 && small > 100, "{items} evictions, {small} of them large");
    }
}
