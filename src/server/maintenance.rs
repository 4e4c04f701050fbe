//! The maintenance thread: memory is made free ahead of demand, off the request path.
//!
//! Owns the thread that calls [`Handle::maintain`] in bounded steps, when a worker rings or a
//! quarter of a second has passed. Never holds a lock for longer than one step and never talks to
//! a socket.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::base::clock::{Clock, RealClock};
use crate::store::{Handle, Maintained};

/// How often the store is looked over when nobody rings: expired memory comes back well within ten
/// seconds, and an idle server wakes only four times a second.
const IDLE_PERIOD: Duration = Duration::from_millis(250);

/// Items looked at per step, a few hundred microseconds of work.
const STEP_BUDGET: usize = 2048;

/// How workers call for maintenance: a flag first, so that ringing twice costs one atomic load.
#[derive(Debug, Default)]
pub struct Bell {
    rung: AtomicBool,
    stop: AtomicBool,
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
) -> std::io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name("maintenance".into()).spawn(move || {
        while bell.wait() {
            while store.maintain(clock.now(), STEP_BUDGET) == Maintained::More {
                if bell.stop.load(Ordering::Acquire) {
                    return;
                }
                std::thread::yield_now();
            }
        }
    })
}
