//! Taking a mutex, in the one way that all of us do.
//!
//! Owns what becomes of a mutex whose holder has panicked, and how locks are taken where the thread
//! sanitizer watches (`--cfg tsan`, see HACKING.md). Never holds a lock itself.
//!
//! The sanitizer knows only what is compiled for it, and `std` comes compiled. What `std` inlines
//! into us, it sees: the compare-and-swap that takes a free mutex, the swap that lets it go. What
//! waits for one that is taken it does not see, and would take every hand-over between two threads
//! that met for a race. So under `tsan` nobody waits inside of `std`: a mutex is tried until it is
//! free.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

/// Locks a mutex. A panic elsewhere left nothing half done that matters here (release builds
/// abort).
#[cfg(not(tsan))]
#[inline]
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The same, in the sight of the thread sanitizer. Now and then it lets others run first, so that
/// what can happen between two locks does happen.
#[cfg(tsan)]
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    thread_local!(static DICE: std::cell::Cell<u32> = const { std::cell::Cell::new(1) });
    DICE.set(DICE.get().wrapping_mul(0x915f_77f5).wrapping_add(0x85eb_ca6b));
    if DICE.get() >> 28 == 0 {
        std::thread::yield_now();
    }
    loop {
        match try_lock(mutex) {
            Some(guard) => return guard,
            None => std::thread::yield_now(),
        }
    }
}

/// Locks a mutex unless somebody else has it.
#[inline]
pub fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

/// Lets the mutex go and waits until `told` or for `most`, whatever comes first.
#[cfg(not(tsan))]
pub fn wait<T>(told: &Condvar, guard: MutexGuard<'_, T>, most: Duration) {
    drop(told.wait_timeout(guard, most));
}

/// The same, in the sight of the thread sanitizer.
#[cfg(tsan)]
pub fn wait<T>(_: &Condvar, guard: MutexGuard<'_, T>, _: Duration) {
    drop(guard);
    std::thread::yield_now();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_holder_that_panicked_leaves_the_mutex_usable() {
        let mutex = Mutex::new(1);
        let holder = std::panic::AssertUnwindSafe(|| {
            let _guard = lock(&mutex);
            panic!("as tests do");
        });
        assert!(std::panic::catch_unwind(holder).is_err());
        *lock(&mutex) += 1;
        assert_eq!(try_lock(&mutex).as_deref(), Some(&2));
    }
}
