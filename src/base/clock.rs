//! Time, as a value that is handed in.
//!
//! Owns the two clocks of the program (wall and monotonic), their manual twin for tests, and the
//! shift that `-o debug_clock` allows a client to put on both. Nothing below `server` and `proxy`
//! asks for the time: it is given a [`Now`].

use std::cell::Cell;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// One reading of both clocks. An event loop takes it once per turn and passes it down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Now {
    /// Wall clock: microseconds since 1970-01-01 UTC. May jump, so it is used only for expiry times
    /// and versions, never for timeouts.
    pub unix_us: u64,
    /// Monotonic clock: microseconds since the process started. For timeouts and latencies.
    pub mono_us: u64,
}

impl Now {
    /// Wall clock in whole seconds since 1970, as expiry times count (valid until 2106).
    pub fn unix_secs(self) -> u32 {
        u32::try_from(self.unix_us / 1_000_000).unwrap_or(u32::MAX)
    }

    /// Wall clock in whole milliseconds since 1970.
    pub fn unix_ms(self) -> u64 {
        self.unix_us / 1000
    }

    /// Both clocks moved forward by `us` microseconds.
    #[must_use]
    pub fn plus_us(self, us: u64) -> Now {
        Now { unix_us: self.unix_us + us, mono_us: self.mono_us + us }
    }

    /// Both clocks moved by `us` microseconds, backwards too, as far as they go.
    #[must_use]
    pub fn shifted_us(self, us: i64) -> Now {
        Now {
            unix_us: self.unix_us.saturating_add_signed(us),
            mono_us: self.mono_us.saturating_add_signed(us),
        }
    }
}

/// Where a [`Now`] comes from.
pub trait Clock {
    /// Reads both clocks.
    fn now(&self) -> Now;
}

/// The machine's clocks, shifted by [`DebugClock`] where there is one.
#[derive(Clone, Debug)]
pub struct RealClock {
    started: Instant,
    debug: Option<Arc<DebugClock>>,
    real_timers: bool,
}

impl RealClock {
    /// A clock whose monotonic side starts at zero now.
    pub fn new() -> RealClock {
        RealClock { started: Instant::now(), debug: None, real_timers: false }
    }

    /// The same clock, that clients may move by `debug`.
    #[must_use]
    pub fn with_debug(self, debug: Option<Arc<DebugClock>>) -> RealClock {
        RealClock { debug, ..self }
    }

    /// The same clock for a thread with timers of its own: only its wall clock can be moved, so
    /// that a link to a peer neither times out nor hangs because a test has moved the time.
    #[must_use]
    pub fn with_real_timers(self) -> RealClock {
        RealClock { real_timers: true, ..self }
    }

    /// Whether a client may have moved the clock since the last reading.
    #[inline]
    pub fn can_be_moved(&self) -> bool {
        self.debug.is_some()
    }
}

impl Default for RealClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for RealClock {
    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let real = Now {
            unix_us: u64::try_from(unix.as_micros()).unwrap_or(u64::MAX),
            mono_us: u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
        };
        match &self.debug {
            None => real,
            Some(debug) if self.real_timers => Now { mono_us: real.mono_us, ..debug.apply(real) },
            Some(debug) => debug.apply(real),
        }
    }
}

/// What a client does to the clock by `debugtime`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockMove {
    /// `p`: it stands still.
    Pause,
    /// `r`: it goes on, from where it would be without the pause.
    Resume,
    /// Seconds forward, or backward. While it stands still it moves by all seconds told so far,
    /// as in memcached.
    Seconds(i64),
}

/// Furthest that a clock is moved from the machine's: 142 years, beyond all expiry times, and far
/// from where sums of microseconds would overflow.
const SHIFT_MAX_US: i64 = 1 << 52;

/// The shift that all threads' clocks share under `-o debug_clock`.
#[derive(Debug, Default)]
pub struct DebugClock {
    shift: Mutex<Shift>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Shift {
    us: i64,
    /// Where the clock stands while it is paused.
    paused: Option<Now>,
}

impl DebugClock {
    /// A shift of nothing.
    pub fn new() -> DebugClock {
        DebugClock::default()
    }

    /// Moves the clock of a client that sees `now`. Every later reading shows it.
    pub fn make(&self, what: ClockMove, now: Now) {
        let mut shift = self.shift.lock().unwrap_or_else(PoisonError::into_inner);
        match what {
            ClockMove::Pause => {
                shift.paused.get_or_insert(now);
            }
            ClockMove::Resume => shift.paused = None,
            ClockMove::Seconds(secs) => {
                let us = shift.us.saturating_add(secs.saturating_mul(1_000_000));
                shift.us = us.clamp(-SHIFT_MAX_US, SHIFT_MAX_US);
                shift.paused = shift.paused.map(|paused| paused.shifted_us(shift.us));
            }
        }
    }

    fn apply(&self, real: Now) -> Now {
        let shift = *self.shift.lock().unwrap_or_else(PoisonError::into_inner);
        shift.paused.unwrap_or_else(|| real.shifted_us(shift.us))
    }
}

/// A clock that moves only when told to, for tests and simulations.
#[derive(Debug, Default)]
pub struct ManualClock {
    now: Cell<Now>,
}

impl ManualClock {
    /// A clock that stands at `now`.
    pub fn at(now: Now) -> ManualClock {
        ManualClock { now: Cell::new(now) }
    }

    /// Moves both clocks forward by `us` microseconds.
    pub fn advance_us(&self, us: u64) {
        self.now.set(self.now.get().plus_us(us));
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Now {
        self.now.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debug_clock_is_moved_paused_and_resumed() {
        let real = |secs: u64| Now { unix_us: secs * 1_000_000, mono_us: secs * 1_000_000 };
        let clock = DebugClock::new();
        assert_eq!(clock.apply(real(100)), real(100));
        clock.make(ClockMove::Seconds(7), real(100));
        assert_eq!(clock.apply(real(101)), real(108));
        clock.make(ClockMove::Pause, real(108));
        clock.make(ClockMove::Pause, real(109));
        assert_eq!(clock.apply(real(500)), real(108));
        clock.make(ClockMove::Seconds(-3), real(108));
        assert_eq!(clock.apply(real(501)), real(112), "all seconds told so far: 7 - 3");
        clock.make(ClockMove::Seconds(0), real(112));
        assert_eq!(clock.apply(real(501)), real(116));
        clock.make(ClockMove::Resume, real(116));
        assert_eq!(clock.apply(real(502)), real(506));
        // Further than a clock goes: it stops at its end.
        clock.make(ClockMove::Seconds(i64::MIN), real(506));
        assert_eq!(clock.apply(real(503)).unix_us, 0);
    }

    #[test]
    fn threads_share_a_shift_and_timers_may_ignore_it() {
        let debug = Arc::new(DebugClock::new());
        let clock = RealClock::new().with_debug(Some(Arc::clone(&debug)));
        let timers = clock.clone().with_real_timers();
        let before = (clock.now(), timers.now());
        debug.make(ClockMove::Seconds(1000), before.0);
        let after = (clock.now(), timers.now());
        assert!(after.0.mono_us >= before.0.mono_us + 1_000_000_000);
        assert!(after.1.unix_us >= before.1.unix_us + 1_000_000_000);
        assert!(after.1.mono_us < before.1.mono_us + 1_000_000_000);
        assert!(clock.can_be_moved() && !RealClock::new().can_be_moved());
    }
}
