//! Values too large to be held: they pass through lanes, a window at a time.
//!
//! Owns who waits for a lane, which keys are known to be large, and when a client is too slow for a
//! lane that others want. The two directions are in [`get`] and [`put`].
//!
//! ```text
//!   get: server == lane ==> [window] ==> client        paused while the client does not take it
//!   set: client ==> [window] == lane ==> server        not read while the server does not take it
//!                            \= lane ==> backup
//! ```
//!
//! A value that turns out to be large on the pipelined connection is dropped there and fetched
//! again on a lane; its key is remembered, so that the next time it is fetched there at once.

pub(super) mod get;
pub(super) mod put;

use std::collections::VecDeque;

use super::lanes::Job;
use super::places::{BackendId, Named};
use super::{Client, Completion, Relay};
use crate::base::clock::Now;
use crate::base::hash::hash_key;
use crate::base::replies::Ticket;
use crate::proxy::fanout::Verdict;

/// Values of more bytes than this are not held: memcached's default of `-I`, which few change.
pub const HOLD_MAX: usize = 1 << 20;
/// The same for what must be seen as a whole, since it is done again elsewhere or put back: an add
/// or a cas with a backup, a fill.
pub const HOLD_WHOLE_MAX: usize = 16 << 20;
/// Bytes of one value that are on their way in the proxy: what a socket takes at once, twice.
pub(super) const WINDOW: usize = 256 * 1024;
/// How long a client may take nothing of a value while another one waits for the lane, in
/// microseconds.
const STALL_US: u64 = 5_000_000;
/// Keys remembered to be large (16 KiB); more of them only cost a second fetch now and then.
const BIG_KEYS: usize = 4096;

/// Who waits for a lane, in the order of their coming.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiter {
    Get(u32),
    Put(u32),
}

/// Somebody's place in the line.
#[derive(Clone, Copy, Debug)]
pub(super) struct InLine {
    pub who: Waiter,
    /// Whose lanes he waits for; `None`: for his turn to write.
    pub lane_of: Option<BackendId>,
}

/// Keys whose values were large when they were last seen. May forget; a wrong entry costs nothing
/// but a lane.
#[derive(Debug)]
pub(super) struct BigKeys(Vec<u32>);

impl BigKeys {
    pub(super) fn new() -> BigKeys {
        BigKeys(Vec::new())
    }

    fn place(key: &[u8]) -> (usize, u32) {
        let hash = hash_key(0, key);
        // Never 0, which is an empty place.
        (hash as usize % BIG_KEYS, (hash >> 32) as u32 | 1)
    }

    /// Says whether the value of `key` is large.
    pub(super) fn note(&mut self, key: &[u8], large: bool) {
        let (at, print) = BigKeys::place(key);
        if self.0.is_empty() {
            if !large {
                return;
            }
            self.0 = vec![0; BIG_KEYS];
        }
        if large {
            self.0[at] = print;
        } else if self.0[at] == print {
            self.0[at] = 0;
        }
    }

    pub(super) fn has(&self, key: &[u8]) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let (at, print) = BigKeys::place(key);
        self.0[at] == print
    }
}

/// What the lanes are used and waited for.
#[derive(Debug)]
pub(super) struct Bulk {
    pub gets: slab::Slab<get::Get>,
    pub puts: slab::Slab<put::Put>,
    pub waiting: VecDeque<InLine>,
    pub big_keys: BigKeys,
    /// A lane has become free since the waiting ones were looked at.
    pub freed: bool,
}

impl Bulk {
    pub(super) fn new() -> Bulk {
        Bulk {
            gets: slab::Slab::new(),
            puts: slab::Slab::new(),
            waiting: VecDeque::new(),
            big_keys: BigKeys::new(),
            freed: false,
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.gets.len() + self.puts.len()
    }

    /// Puts somebody to the end of the line.
    pub(super) fn wait(&mut self, who: Waiter, lane_of: Option<BackendId>) {
        self.waiting.push_back(InLine { who, lane_of });
    }

    /// He is gone: whoever has his number next must not be taken for him.
    pub(super) fn leave_line(&mut self, who: Waiter) {
        self.waiting.retain(|one| one.who != who);
    }

    /// Where the values on their way come from and go to.
    pub(super) fn name(&self, named: &mut Named) {
        self.gets.iter().for_each(|(_, get)| get.name(named));
        self.puts.iter().for_each(|(_, put)| put.name(named));
    }
}

impl Relay {
    /// To be called once in a turn: lets those go on who waited for a lane, or for room,
    /// and the walk over cold places' keys.
    pub fn tick(&mut self, now: Now) {
        self.last_now = now;
        let ended = self.guard.turns().ended();
        if std::mem::replace(&mut self.turns_seen, ended) != ended {
            self.bulk.freed = true;
            self.try_turns(now);
        }
        self.tick_groups(now);
        self.walk(now);
        if self.bulk.in_flight() == 0 {
            return;
        }
        self.cut_the_stalled(now);
        self.admit(now);
        self.nudge_puts();
    }

    /// Lets those go on who waited for a lane, if any has become free.
    pub fn admit(&mut self, now: Now) {
        if !std::mem::take(&mut self.bulk.freed) {
            return;
        }
        for InLine { who, .. } in std::mem::take(&mut self.bulk.waiting) {
            match who {
                Waiter::Get(id) => self.start_get(now, id),
                Waiter::Put(id) => self.start_put(now, id),
            }
        }
    }

    /// Whether a turn to write has ended for which somebody waits, here or in another worker: all
    /// are to be woken, so that [`Relay::tick`] lets him go on.
    pub fn take_turn_ended(&mut self) -> bool {
        std::mem::take(&mut self.turn_ended)
    }

    /// When [`Relay::tick`] has something to do without anything else happening.
    pub(super) fn tick_due(&self) -> Option<u64> {
        if self.bulk.waiting.is_empty() {
            return None;
        }
        let wait = if self.bulk.freed { 0 } else { STALL_US / 4 };
        Some(self.last_now.mono_us + wait)
    }

    fn cut_the_stalled(&mut self, now: Now) {
        if self.bulk.waiting.is_empty() {
            return;
        }
        let wanted = |backend| self.bulk.waiting.iter().any(|one| one.lane_of == Some(backend));
        let stalled = self.lanes.iter().find(|(_, seat)| {
            let by_client = match seat.job {
                Job::Put { put, .. } => !self.is_put_waiting(put),
                _ => true,
            };
            by_client && seat.lane.stalled_us(now) > STALL_US && wanted(seat.backend)
        });
        let Some((_, seat)) = stalled else { return };
        // One at a time: it may be enough.
        match seat.job {
            Job::Get(id) => self.break_get(id),
            Job::Put { put, .. } => self.break_put(put),
            _ => {}
        }
    }

    /// Whether the value of `key` is known to be too large to share a connection.
    pub(super) fn is_big(&self, key: &[u8]) -> bool {
        self.bulk.big_keys.has(key)
    }

    pub(super) fn tell(
        &mut self,
        client: Client,
        ticket: Option<Ticket>,
        reply: Vec<u8>,
        verdict: Verdict,
        more: bool,
    ) {
        let held = if more { reply.len() } else { 0 };
        self.held += held;
        self.completions.push(Completion {
            client,
            ticket,
            reply,
            cost: 0,
            largest: 0,
            verdict,
            held,
            pieces: Vec::new(),
            more,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_keys_are_known_until_they_are_small() {
        let mut keys = BigKeys::new();
        assert!(!keys.has(b"a"));
        keys.note(b"a", false);
        keys.note(b"a", true);
        assert!(keys.has(b"a") && !keys.has(b"b"));
        keys.note(b"b", false);
        assert!(keys.has(b"a"));
        keys.note(b"a", false);
        assert!(!keys.has(b"a"));
    }
}
