//! Keys that one worker has still to delete on a place, so that others do not read them there.
//!
//! Owns a bounded set that all workers share, one per place. A write that a server missed is made
//! good by the worker that knows of it, on its own connection, before it asks that server anything
//! else ([`super::missed`]). The connections of other workers may be back before: until the delete
//! has been answered they go to the other side of the pair. Where nothing was missed a look is one
//! relaxed load.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Keys in the set: as many as a server's missed writes ([`super::missed`]). Beyond them a server
/// is flushed by each worker that has missed too much.
const KEYS_MAX: usize = 65_536;

/// The set of one place.
#[derive(Debug, Default)]
pub struct Behind {
    count: AtomicUsize,
    /// By key, which workers have to see to it.
    keys: Mutex<HashMap<Box<[u8]>, Vec<u32>>>,
}

impl Behind {
    fn keys(&self) -> MutexGuard<'_, HashMap<Box<[u8]>, Vec<u32>>> {
        // No code below can panic with the map half changed.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `worker` has `key` to delete.
    pub fn add(&self, key: &[u8], worker: u32) {
        let mut keys = self.keys();
        if let Some(workers) = keys.get_mut(key) {
            if !workers.contains(&worker) {
                workers.push(worker);
            }
        } else if keys.len() < KEYS_MAX {
            keys.insert(key.into(), vec![worker]);
        }
        self.count.store(keys.len(), Ordering::Release);
    }

    /// `worker` has deleted it.
    pub fn done(&self, key: &[u8], worker: u32) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut keys = self.keys();
        if let Some(workers) = keys.get_mut(key) {
            workers.retain(|&other| other != worker);
            if workers.is_empty() {
                keys.remove(key);
            }
        }
        self.count.store(keys.len(), Ordering::Release);
    }

    /// `worker` has nothing to delete any more: it has flushed the place, or left it.
    pub fn clear(&self, worker: u32) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut keys = self.keys();
        keys.retain(|_, workers| {
            workers.retain(|&other| other != worker);
            !workers.is_empty()
        });
        self.count.store(keys.len(), Ordering::Release);
    }

    /// Whether a worker other than `worker` has still to delete `key`. What `worker` itself has to
    /// delete goes first on its connection, and needs no care.
    #[inline]
    pub fn by_another(&self, key: &[u8], worker: u32) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        self.keys().get(key).is_some_and(|workers| workers.iter().any(|&other| other != worker))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_behind_until_every_worker_has_seen_to_it() {
        let behind = Behind::default();
        assert!(!behind.by_another(b"k", 0));
        behind.add(b"k", 0);
        behind.add(b"k", 0);
        behind.add(b"k", 1);
        assert!(behind.by_another(b"k", 0) && behind.by_another(b"k", 2));
        behind.done(b"k", 1);
        assert!(!behind.by_another(b"k", 0), "its own comes first on its connection");
        assert!(behind.by_another(b"k", 1) && !behind.by_another(b"other", 1));
        behind.clear(0);
        assert!(!behind.by_another(b"k", 1));
        assert_eq!(behind.count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_a_client_can_make_it_hold_is_bounded() {
        let behind = Behind::default();
        for n in 0..KEYS_MAX + 10 {
            behind.add(n.to_string().as_bytes(), 3);
        }
        assert_eq!(behind.keys().len(), KEYS_MAX);
    }
}
