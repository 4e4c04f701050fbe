//! An extra connection to a server, for one long transfer at a time.
//!
//! Owns the bytes in both directions of one transfer and its deadlines. What is short shares a
//! server's pipelined connection ([`super::backend`]); what is long has a lane, where it can be
//! slow without anybody waiting behind it. Never touches a socket and never knows what is
//! transferred.
//!
//! ```text
//!   begin --> Connecting --connected--> Up: one transfer ... end --> idle, for the next one
//!                 |                      |                             |
//!                 +-- refused, too slow -+-- lost, stuck --------------+-- unused --> closed
//! ```

use super::backend::Why;
use crate::base::buf::Buf;
use crate::base::clock::Now;

/// How long a lane without a transfer is kept, in microseconds: long values come in bunches.
const IDLE_US: u64 = 10_000_000;
/// A server may take a second more for each so many bytes that move (64 KiB): a slow link is no
/// failure, single bytes at long intervals are one, or a few such servers would have all lanes.
const SLOWEST_BYTES_PER_SEC: u64 = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// `open` once the socket was asked for.
    Connecting {
        since: u64,
        open: bool,
    },
    Up,
}

/// One lane.
#[derive(Debug)]
pub struct Lane {
    state: State,
    connect_us: u64,
    /// Longest time without any byte, in microseconds.
    patience_us: u64,
    /// What was received and not yet understood.
    pub input: Buf,
    out: Vec<u8>,
    sent: usize,
    paused: bool,
    /// A client is still to bring more of what is sent.
    fed: bool,
    busy: bool,
    /// When the last byte moved, or the transfer began or went on.
    moved_at: u64,
    /// Bytes that have moved since `since`, when the server was last waited for anew.
    moved: u64,
    since: u64,
    /// The server must keep [`SLOWEST_BYTES_PER_SEC`].
    hurried: bool,
}

impl Lane {
    /// A lane to be connected, with a transfer that gives up after `patience_us` without a byte.
    pub fn new(now: Now, connect_us: u64, patience_us: u64) -> Lane {
        Lane {
            state: State::Connecting { since: now.mono_us, open: false },
            connect_us,
            patience_us,
            input: Buf::new(),
            out: Vec::new(),
            sent: 0,
            paused: false,
            fed: false,
            busy: true,
            moved_at: now.mono_us,
            moved: 0,
            since: now.mono_us,
            hurried: false,
        }
    }

    /// Says whether the server must be quick.
    pub fn hurry(&mut self, hurried: bool) {
        self.hurried = hurried;
    }

    /// Whether there ever was a connection.
    pub fn was_up(&self) -> bool {
        self.state == State::Up
    }

    /// From now on the server is waited for.
    fn wait_anew(&mut self, now: Now) {
        self.moved_at = now.mono_us;
        (self.moved, self.since) = (0, now.mono_us);
    }

    fn progress(&mut self, now: Now, n: usize) {
        self.moved_at = now.mono_us;
        self.moved += n as u64;
    }

    /// Whether a new transfer could begin on it.
    pub fn is_idle(&self) -> bool {
        !self.busy
    }

    /// Takes the next transfer.
    pub fn begin(&mut self, now: Now, patience_us: u64) {
        debug_assert!(self.is_idle() && self.input.is_empty());
        self.busy = true;
        self.paused = false;
        self.fed = false;
        self.patience_us = patience_us;
        self.wait_anew(now);
    }

    /// The transfer has ended and left nothing on the way. `false`: something is left, and the lane
    /// is of no further use.
    pub fn end(&mut self, now: Now) -> bool {
        self.busy = false;
        self.paused = false;
        self.moved_at = now.mono_us;
        self.input.shrink_idle(0);
        self.input.is_empty() && self.sent == self.out.len() && self.state == State::Up
    }

    /// Where bytes to be sent are appended.
    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Bytes that wait to be sent.
    pub fn queued(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Stops and starts reading: back pressure from whoever the bytes go to.
    pub fn pause(&mut self, now: Now, paused: bool) {
        if self.paused && !paused {
            self.wait_anew(now);
        }
        self.paused = paused;
    }

    /// Says whether a client is still to bring more of what is sent.
    pub fn feed(&mut self, now: Now, fed: bool) {
        self.fed = fed;
        self.moved_at = now.mono_us;
    }

    /// More of what is sent.
    pub fn bring(&mut self, now: Now, data: &[u8]) {
        if self.waits_for_client() {
            self.wait_anew(now);
        }
        self.out.extend_from_slice(data);
        self.moved_at = now.mono_us;
    }

    fn waits_for_client(&self) -> bool {
        self.paused || (self.fed && self.queued() == 0)
    }

    /// How long the client's end has not taken or brought anything, in microseconds.
    pub fn stalled_us(&self, now: Now) -> u64 {
        if self.busy && self.waits_for_client() {
            now.mono_us.saturating_sub(self.moved_at)
        } else {
            0
        }
    }

    /// See [`super::relay::Connection::wants_connect`].
    pub fn wants_connect(&self) -> bool {
        matches!(self.state, State::Connecting { open: false, .. })
    }

    /// See [`super::relay::Connection::connecting`].
    pub fn connecting(&mut self) {
        if let State::Connecting { open, .. } = &mut self.state {
            *open = true;
        }
    }

    /// See [`super::relay::Connection::connected`].
    pub fn connected(&mut self, now: Now) {
        self.state = State::Up;
        self.wait_anew(now);
    }

    /// See [`super::relay::Connection::sendable`].
    pub fn sendable(&self) -> &[u8] {
        match self.state {
            State::Up => &self.out[self.sent..],
            State::Connecting { .. } => &[],
        }
    }

    /// See [`super::relay::Connection::sent`].
    pub fn sent(&mut self, now: Now, n: usize) {
        self.sent += n;
        self.progress(now, n);
        if self.sent >= self.out.len() {
            self.sent = 0;
            self.out.clear();
        }
    }

    /// See [`super::relay::Connection::received`].
    pub fn received(&mut self, now: Now, n: usize) {
        self.input.filled(n);
        self.progress(now, n);
    }

    /// See [`super::relay::Connection::wants_read`].
    pub fn wants_read(&self) -> bool {
        !self.paused
    }

    /// When [`Lane::check`] is due, on the monotonic clock in microseconds.
    pub fn deadline(&self) -> Option<u64> {
        match self.state {
            State::Connecting { since, open: false } => Some(since),
            State::Connecting { since, open: true } => Some(since + self.connect_us),
            State::Up if !self.busy => Some(self.moved_at + IDLE_US),
            State::Up if self.waits_for_client() => None,
            State::Up => {
                let stuck = self.moved_at;
                let slow =
                    self.since + self.moved.saturating_mul(1_000_000) / SLOWEST_BYTES_PER_SEC;
                Some(self.patience_us + if self.hurried { stuck.min(slow) } else { stuck })
            }
        }
    }

    /// Whether a deadline has passed: the lane is to be closed.
    pub fn check(&self, now: Now) -> Option<Why> {
        if self.wants_connect() || self.deadline().is_none_or(|at| now.mono_us < at) {
            return None;
        }
        Some(match self.state {
            State::Connecting { .. } => Why::ConnectTimeout,
            State::Up if self.busy => Why::RequestTimeout,
            State::Up => Why::Idle,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(mono_us: u64) -> Now {
        Now { unix_us: 1_700_000_000_000_000, mono_us }
    }

    #[test]
    fn connects_transfers_and_is_used_again() {
        let mut lane = Lane::new(at(0), 300, 1000);
        assert!(lane.wants_connect() && !lane.is_idle());
        lane.out().extend_from_slice(b"get k\r\n");
        lane.connecting();
        assert!(!lane.wants_connect() && lane.sendable().is_empty());
        assert_eq!(lane.check(at(300)), Some(Why::ConnectTimeout));
        lane.connected(at(200));
        assert_eq!(lane.sendable(), b"get k\r\n");
        lane.sent(at(200), 7);
        assert_eq!(lane.check(at(1199)), None);
        assert_eq!(lane.check(at(1200)), Some(Why::RequestTimeout));
        lane.input.space(3);
        lane.received(at(1100), 3);
        assert_eq!(lane.check(at(2099)), None);
        lane.input.consume(3);
        assert!(lane.end(at(2100)) && lane.is_idle());
        lane.begin(at(2200), 500);
        assert_eq!(lane.check(at(2700)), Some(Why::RequestTimeout));
        lane.input.space(1);
        lane.received(at(2300), 1);
        assert!(!lane.end(at(2300)), "an answer without a question is left");
    }

    #[test]
    fn a_slow_receiver_is_no_fault_of_the_server() {
        let mut lane = Lane::new(at(0), 300, 1000);
        lane.connecting();
        lane.connected(at(0));
        lane.pause(at(10), true);
        assert!(!lane.wants_read() && lane.deadline().is_none());
        assert_eq!(lane.stalled_us(at(5000)), 5000);
        lane.pause(at(5000), false);
        assert!(lane.wants_read());
        assert_eq!((lane.stalled_us(at(5500)), lane.deadline()), (0, Some(6000)));
    }

    #[test]
    fn a_server_that_trickles_has_an_end_but_a_slow_client_has_not() {
        let mut lane = Lane::new(at(0), 300, 1_000_000);
        lane.hurry(true);
        lane.connecting();
        lane.connected(at(0));
        let trickle = |lane: &mut Lane, from: u64| {
            let mut times = (from..).step_by(100_000);
            let late = |lane: &mut Lane, now: u64| {
                lane.input.space(1);
                lane.received(at(now), 1);
                lane.input.consume(1);
                lane.check(at(now)).is_some()
            };
            times.find(|&now| late(lane, now)).expect("an end") - from
        };
        let end = trickle(&mut lane, 0);
        assert!((1_000_000..1_200_000).contains(&end), "{end}");
        // Megabytes give it more time, and a client's rest is not counted.
        let mut lane = Lane::new(at(0), 300, 1_000_000);
        lane.hurry(true);
        lane.connecting();
        lane.connected(at(0));
        for n in 1..100 {
            lane.input.space(10_000);
            lane.received(at(n * 100_000), 10_000);
            lane.input.consume(10_000);
            assert_eq!(lane.check(at(n * 100_000 + 99_999)), None);
        }
        lane.pause(at(10_000_000), true);
        lane.pause(at(900_000_000), false);
        let end = trickle(&mut lane, 900_000_000);
        assert!((1_000_000..1_200_000).contains(&end), "{end}");
    }
}
