//! Time, as a value that is handed in.
//!
//! Owns the two clocks of the program (wall and monotonic) and their manual twin for tests. Nothing
//! below `server` and `proxy` asks for the time: it is given a [`Now`].

use std::cell::Cell;
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
}

/// Where a [`Now`] comes from.
pub trait Clock {
    /// Reads both clocks.
    fn now(&self) -> Now;
}

/// The machine's clocks.
#[derive(Clone, Copy, Debug)]
pub struct RealClock {
    started: Instant,
}

impl RealClock {
    /// A clock whose monotonic side starts at zero now.
    pub fn new() -> RealClock {
        RealClock { started: Instant::now() }
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
        Now {
            unix_us: u64::try_from(unix.as_micros()).unwrap_or(u64::MAX),
            mono_us: u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
        }
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
