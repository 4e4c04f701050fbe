//! Whose turn it is to write a key that has a backup.
//!
//! Owns a fixed table of stripes that all workers share. A write goes to the server and then to the
//! backup; two workers that write one key at once could reach the two in different orders, and each
//! would keep another value for good. So a key's stripe belongs to one worker at a time. That
//! worker's writes follow each other on its connections, and need no further order; a large value,
//! which has a connection of its own, has the stripe alone. Never waits and never locks: who is
//! refused asks again when he is told that a turn has ended.
//!
//! ```text
//!   31        22 21      20       19      0
//!   [ worker + 1 | alone | wanted | writes ]     all 0: nobody's
//! ```

use std::sync::atomic::{AtomicU32, Ordering};

use crate::base::hash::hash_key;

/// Stripes of the table (64 KiB). Two keys that share one only wait for each other.
const STRIPES: usize = 16_384;
const COUNT: u32 = (1 << 20) - 1;
/// Somebody was refused: nobody is let in until all have left, or he would wait for ever.
const WANTED: u32 = 1 << 20;
const ALONE: u32 = 1 << 21;
const OWNER: u32 = 0x3ff << 22;

/// The table.
#[derive(Debug)]
pub struct Turns {
    stripes: Vec<AtomicU32>,
    /// Ends that somebody waited for.
    ended: AtomicU32,
}

impl Default for Turns {
    fn default() -> Self {
        Self::new()
    }
}

impl Turns {
    /// A table in which nobody writes.
    pub fn new() -> Turns {
        Turns {
            stripes: (0..STRIPES).map(|_| AtomicU32::new(0)).collect(),
            ended: AtomicU32::new(0),
        }
    }

    fn stripe(&self, key: &[u8]) -> &AtomicU32 {
        &self.stripes[hash_key(0, key) as usize % STRIPES]
    }

    /// Takes a turn to write `key` for worker number `worker` (below 1023). `alone`: nobody else
    /// may write it meanwhile, not even the same worker. `false`: not now; the end of somebody's
    /// turn will be told.
    pub fn begin(&self, key: &[u8], worker: u32, alone: bool) -> bool {
        let mine = ((worker % 1023) + 1) << 22;
        let mut granted = false;
        let next = |now: u32| {
            let count = now & COUNT;
            let shared = now & OWNER == mine && now & (ALONE | WANTED) == 0 && !alone;
            granted = count == 0 || (shared && count < COUNT);
            Some(match (granted, alone) {
                (true, true) => mine | ALONE | 1,
                (true, false) => mine | (count + 1),
                (false, _) => now | WANTED,
            })
        };
        // The closure never refuses, so neither does the update.
        let _ = self.stripe(key).fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
        granted
    }

    /// A turn has ended. `true`: somebody was refused and is to be told.
    pub fn end(&self, key: &[u8]) -> bool {
        let left = |now: u32| Some(if now & COUNT <= 1 { 0 } else { now - 1 });
        let before = self.stripe(key).fetch_update(Ordering::SeqCst, Ordering::SeqCst, left);
        let before = before.unwrap_or_default();
        debug_assert!(before & COUNT > 0, "a turn that nobody had");
        let waited = before & COUNT == 1 && before & WANTED != 0;
        if waited {
            self.ended.fetch_add(1, Ordering::SeqCst);
        }
        waited
    }

    /// Changes with every end that somebody waited for: who was refused since he last looked here
    /// need not try again before it does.
    pub fn ended(&self) -> u32 {
        self.ended.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_at_a_time_and_nobody_is_passed_over() {
        let turns = Turns::new();
        assert!(turns.begin(b"k", 0, false) && turns.begin(b"k", 0, false));
        assert!(!turns.begin(b"k", 1, false), "another worker waits");
        assert!(!turns.begin(b"k", 0, false), "and is not overtaken");
        assert!(!turns.end(b"k"));
        assert!(turns.end(b"k"), "the last one tells him");
        assert!(turns.begin(b"k", 1, false));
        assert!(!turns.end(b"k"));
    }

    #[test]
    fn alone_is_alone() {
        let turns = Turns::new();
        assert!(turns.begin(b"k", 0, true));
        assert!(!turns.begin(b"k", 0, false) && !turns.begin(b"k", 0, true));
        assert!(turns.end(b"k"));
        assert!(turns.begin(b"k", 0, false));
        assert!(!turns.begin(b"k", 0, true));
        assert!(turns.end(b"k"));
    }

    #[test]
    fn many_threads_never_write_at_once() {
        let turns = Turns::new();
        let inside = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for worker in 0..4u32 {
                let (turns, inside) = (&turns, &inside);
                scope.spawn(move || {
                    let mut done = 0;
                    while done < 2000 {
                        if turns.begin(b"k", worker, worker == 3) {
                            let before = inside.swap(worker + 1, Ordering::SeqCst);
                            assert!(before == 0, "{before} was inside");
                            inside.store(0, Ordering::SeqCst);
                            turns.end(b"k");
                            done += 1;
                        } else {
                            std::hint::spin_loop();
                        }
                    }
                });
            }
        });
    }
}
