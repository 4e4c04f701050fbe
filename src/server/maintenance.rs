//! The maintenance thread: memory is made free ahead of demand, off the request path.
//!
//! Owns the thread that calls [`Handle::maintain`] in bounded steps, when a worker rings or a
//! tenth of a second has passed, and that has the heap give back what clients' buffers left. Never
//! holds a lock for longer than one step and never talks to a socket.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::base::clock::{Clock, RealClock};
use crate::platform::{self, heap};
use crate::server::watch::Hub;
use crate::store::{Handle, Maintained};

/// How often the store is looked over when nobody rings: expired memory comes back well within ten
/// seconds, and an idle server wakes only ten times a second.
const IDLE_PERIOD: Duration = Duration::from_millis(100);

/// Items looked at per step, about a hundred microseconds of work: so long may a worker that has
/// become ready wait for the processor, if the thread runs where it was.
const STEP_BUDGET: usize = 256;

/// The heap is looked through no more often than this.
const TRIM_PERIOD: Duration = Duration::from_secs(1);

/// Bytes that the index's tables must have shrunk by until the heap is asked for them: what it
/// keeps of them is memory beside `-m`.
const SHRUNK_MANY: u64 = 4 << 20;

/// How workers call for maintenance: a flag first, so that ringing twice costs one atomic load.
#[derive(Debug, Default)]
pub struct Bell {
    rung: AtomicBool,
    stop: AtomicBool,
    freed: AtomicBool,
    lock: Mutex<()>,
    wake: Condvar,
}

impl Bell {
    /// A bell that nobody has rung.
    pub fn new() -> Arc<Bell> {
        Arc::new(Bell::default())
    }

    /// Calls for maintenance.
    pub fn ring(&self) {
        if !self.rung.load(Ordering::Relaxed) && !self.rung.swap(true, Ordering::AcqRel) {
            let _guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            self.wake.notify_one();
        }
    }

    /// Says that much memory was freed that the heap may keep.
    pub fn freed(&self) {
        self.freed.store(true, Ordering::Relaxed);
    }

    /// Ends the maintenance thread.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.rung.store(false, Ordering::Release);
        self.ring();
    }

    /// Waits for a ring or the period's end. False when the thread is to end.
    fn wait(&self) -> bool {
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.rung.load(Ordering::Acquire) {
            let waited = self.wake.wait_timeout(guard, IDLE_PERIOD);
            drop(waited);
        }
        self.rung.store(false, Ordering::Release);
        !self.stop.load(Ordering::Acquire)
    }
}

/// Starts the thread. Fails when the system refuses a thread.
pub fn spawn(
    mut store: Handle,
    clock: RealClock,
    bell: Arc<Bell>,
    watch: Arc<Hub>,
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("maintenance".into()).spawn(move || {
        platform::run_behind();
        // Bytes of the index's tables: at the last look, and the most since the heap was asked.
        let (mut next_trim_us, mut last, mut most) = (0, 0u64, 0u64);
        while bell.wait() {
            let now = clock.now();
            if now.mono_us >= next_trim_us && bell.freed.swap(false, Ordering::Relaxed) {
                next_trim_us = now.mono_us + TRIM_PERIOD.as_micros() as u64;
                heap::trim();
            }
            // Tables of the index go with the items: once it has come to rest, the heap is asked.
            let tables = store.store_ref().index_bytes();
            if tables == last && tables + SHRUNK_MANY < most {
                most = tables;
                bell.freed();
            }
            (last, most) = (tables, most.max(tables));
            while store.maintain(clock.now(), STEP_BUDGET) == Maintained::More {
                if bell.stop.load(Ordering::Acquire) {
                    return;
                }
                watch.tell_untold();
                std::thread::yield_now();
            }
            watch.tell_untold();
        }
    })
}
