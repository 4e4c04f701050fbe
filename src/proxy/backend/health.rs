//! Whether a server is usable, and when to try it again.
//!
//! Owns the state of one connection and what its failures have taught. Never sees a byte.
//!
//! ```text
//!          ask                    connected            lost, idle
//!   Idle ------> Connecting ------------------> Up ----------------------> Idle
//!    ^            |  ^                          |  |
//!    |            |  +--------------------------+  | too slow, no sense,
//!    |            |    lost, and it had worked:    | lost a second time
//!    |  refused,  |    what may be asked twice     |
//!    |  too slow  v    is asked again              v
//!    +--------- a failure <------------------------+
//!      below      |  failure_limit in a row
//!      the limit  v
//!               Down <------------------------+      in Down and Probing ask says no:
//!    backoff is over |                        |      the caller fails over at once
//!                    v      failed again      |
//!                  Probing -------------------+
//!                    |
//!                    +--- version answered ---> Up
//! ```

use super::{Limits, Why};
use crate::base::clock::Now;

/// First wait before a server that failed is tried again, in microseconds: a restart is noticed at
/// once, and twenty attempts a second cost nothing.
const BACKOFF_MIN_US: u64 = 50_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Idle,
    /// With the time it began; `open` once the socket was asked for.
    Connecting {
        since: u64,
        open: bool,
    },
    Up,
    /// Until the next attempt.
    Down {
        until: u64,
    },
    /// Trying again without load. With the time it began.
    Probing {
        since: u64,
        connected: bool,
    },
}

/// What the end of a connection means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing: nobody waited.
    Quiet,
    /// What may be asked twice is asked again.
    Again,
    /// Everything that was asked has failed, but the server stays in use.
    Failed,
    /// The same, and now nothing is asked but probes.
    Ejected,
    /// A probe failed.
    StillDown,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Health {
    pub state: State,
    backoff_us: u64,
    /// Failures since a caller was answered.
    failures: u32,
    /// The server has spoken on this connection.
    worked: bool,
    /// A connection was lost, and no caller has been answered since.
    lost: bool,
}

impl Health {
    pub fn new() -> Health {
        let (state, backoff_us) = (State::Idle, BACKOFF_MIN_US);
        Health { state, backoff_us, failures: 0, worked: false, lost: false }
    }

    pub fn is_ejected(&self) -> bool {
        matches!(self.state, State::Down { .. } | State::Probing { .. })
    }

    /// Somebody wants to ask. Whether that begins a connection.
    pub fn wanted(&mut self, now: Now) -> bool {
        let idle = self.state == State::Idle;
        if idle {
            self.state = State::Connecting { since: now.mono_us, open: false };
        }
        idle
    }

    pub fn wants_connect(&self, now: Now) -> bool {
        match self.state {
            State::Connecting { open, .. } => !open,
            State::Down { until } => now.mono_us >= until,
            _ => false,
        }
    }

    /// The caller has begun to connect. Whether it is a probe.
    pub fn connecting(&mut self, now: Now) -> bool {
        self.worked = false;
        let probe = !matches!(self.state, State::Connecting { .. });
        self.state = match self.state {
            State::Connecting { since, .. } => State::Connecting { since, open: true },
            _ => State::Probing { since: now.mono_us, connected: false },
        };
        probe
    }

    pub fn connected(&mut self) {
        self.state = match self.state {
            State::Connecting { .. } => State::Up,
            State::Probing { since, .. } => State::Probing { since, connected: true },
            state => state,
        };
    }

    pub fn may_send(&self) -> bool {
        matches!(self.state, State::Up | State::Probing { connected: true, .. })
    }

    /// Whether the server has said who it is on this connection.
    pub fn has_worked(&self) -> bool {
        self.worked
    }

    /// The server has said who it is. Whether that ends a probe.
    pub fn greeted(&mut self) -> bool {
        self.worked = true;
        let probe = matches!(self.state, State::Probing { .. });
        if probe {
            self.state = State::Up;
        }
        probe
    }

    /// A caller has been answered.
    pub fn answered(&mut self) {
        self.worked = true;
        self.lost = false;
        self.failures = 0;
        self.backoff_us = BACKOFF_MIN_US;
    }

    /// The connection has ended. `waiting`: somebody waits for an answer.
    pub fn ended(&mut self, now: Now, limits: &Limits, why: &Why, waiting: bool) -> End {
        let was = self.state;
        let lost = matches!(why, Why::Lost(_) | Why::Idle);
        if was == State::Up && lost && !waiting {
            self.state = State::Idle;
            return End::Quiet;
        }
        if was == State::Up && lost && self.worked && !self.lost {
            // Servers close connections, and restart. If the new connection cannot be made, or
            // gives no answer either, it is a failure.
            self.lost = true;
            self.state = State::Connecting { since: now.mono_us, open: false };
            return End::Again;
        }
        self.lost = false;
        self.failures = self.failures.saturating_add(1);
        if !self.is_ejected() && self.failures < limits.failure_limit {
            self.state = State::Idle;
            return End::Failed;
        }
        let end = if self.is_ejected() { End::StillDown } else { End::Ejected };
        self.state = State::Down { until: now.mono_us + self.backoff_us.min(limits.retry_us) };
        self.backoff_us = self.backoff_us.saturating_mul(2).min(limits.retry_us);
        end
    }
}
