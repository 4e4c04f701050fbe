//! Data blocks that come in behind a command, counted before they are read.
//!
//! Owns the rule how much of a long block may be read at once and what of it is counted. A long
//! value of a plain set is read into its place in the store, as far as there is one; every other
//! block stays in the connection's input until it is complete. Never holds a byte itself.
//!
//! ```text
//!   input    | head of the command | \r\n | next command ...
//!                                   ^
//!   store                   [ value ]   chunk by chunk, pinned while the client goes on sending
//! ```

use std::io::IoSliceMut;

use super::{Conn, State};
use crate::base::buf::Buf;
use crate::base::clock::Now;
use crate::protocol::reject::Reject;
use crate::server::execute::Executor;
use crate::store::Incoming;

/// Read size for a connection that already has a part of a command, as memcached's read buffers.
/// Commands up to this length are not counted: `-c` bounds them.
pub(super) const READ_MORE: usize = 16 * 1024;

/// Read size for a long data block of which much is here. Up to it each read may double what is
/// here, so that a client has to send what it makes us hold.
const READ_MOST: usize = 16 * READ_MORE;

/// Values from this length on are read into their place: a shorter one has mostly come in together
/// with its command.
const PLACE_MIN: usize = 48 * 1024;

/// What is set aside first for a value, and at most at once. In between it is twice what is here. A
/// client that has just sent a value may have as much again at once.
const ASIDE_FIRST: usize = 64 * 1024;
const ASIDE_MOST: usize = 512 * 1024;

/// Read size for what stands around values that are read into their place: what comes in of the
/// value with its command has to be copied.
pub(super) const READ_HEAD: usize = 2048;

/// A value of which nothing has come in for so many microseconds is moved out of the store: longer
/// than a client that is still sending takes between two packets, and a short time for memory that
/// nobody else may have.
const STALLED_US: u64 = 1_000_000;

/// What became of a storage command's data block.
pub(super) enum Data<'a> {
    /// It is here, and took `used` bytes behind the head.
    Here { value: &'a [u8], used: usize },
    /// It has still to come.
    Missing { reserved: u64 },
    /// It has still to come, and is to be read into its place. So many bytes of it are there.
    Arriving { arriving: Box<Arriving>, copied: usize },
    /// It is not wanted, or it is not what its length says; `used` bytes of it are dropped now.
    Refused { reject: Reject, used: usize },
}

/// A value that is being read into its place. The head of its command stays in the input.
#[derive(Debug)]
pub(super) struct Arriving {
    /// Bytes of the head, and of the line end behind the value.
    head: usize,
    tail: usize,
    pub value: Box<Incoming>,
    /// What may be set aside at once without more of it being here.
    trust: usize,
    /// How much was here when [`Conn::check_arriving`] last saw more, and when that was.
    seen: (usize, u64),
}

impl Arriving {
    /// Whether all is here when the input has so many bytes.
    pub fn is_here(&self, input: usize) -> bool {
        self.value.here() == self.value.total() && input >= self.head + self.tail
    }

    /// Makes certain that there is room for the next bytes.
    pub fn ensure_room(&mut self, exec: &mut Executor, now: Now) -> bool {
        let here = self.value.here();
        if self.value.room() > 0 || here == self.value.total() {
            return true;
        }
        let more = (2 * here).clamp(ASIDE_FIRST, ASIDE_MOST).max(self.trust);
        exec.store.set_aside(&mut self.value, more, now)
    }
}

/// The largest read for a command of which `here` bytes have come in.
pub(super) fn next_read(here: usize) -> usize {
    here.clamp(READ_MORE, READ_MOST)
}

/// How much of a command of `need` bytes is to be counted before more than `here` bytes are read.
pub(super) fn to_reserve(here: usize, need: usize) -> u64 {
    if need <= READ_MORE {
        return 0;
    }
    need.min(here + next_read(here)) as u64
}

/// Counts the next part of a command of `need` bytes of which `here` are here, and makes room for
/// it. None when there is no room: the command is to be refused.
pub(super) fn reserve(here: usize, need: usize, exec: &mut Executor, now: Now) -> Option<u64> {
    let reserved = to_reserve(here, need);
    exec.make_room(reserved, now).then_some(reserved)
}

/// A command whose value may be read into its place.
pub(super) struct Placeable<'a> {
    /// The key of a plain set; None for commands that look at what is there.
    pub key: Option<&'a [u8]>,
    /// Bytes of the value, and of the line end behind it.
    pub len: usize,
    pub tail: usize,
}

impl Placeable<'_> {
    /// Begins to read the value into its place: what of it is in `input`, behind a head of `head`
    /// bytes, is copied there. None where it has to stay in the input.
    pub fn place(
        &self,
        input: &[u8],
        head: usize,
        first: &First,
        exec: &mut Executor,
        now: Now,
    ) -> Option<(Box<Arriving>, usize)> {
        let key = self.key.filter(|_| first.may_place && self.len >= PLACE_MIN)?;
        let mut value = exec.store.take_in(key, self.len)?;
        let here = &input[head..input.len().min(head + self.len)];
        let more = here.len() + ASIDE_FIRST.max(first.trust);
        if !exec.store.set_aside(&mut value, more, now) {
            return None;
        }
        let copied = value.extend(here);
        let (tail, trust) = (self.tail, first.trust);
        let seen = (0, now.mono_us);
        Some((Box::new(Arriving { head, tail, value, trust, seen }), copied))
    }
}

/// What is known of a command when it is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct First {
    /// Its value may be read into its place: it has not been looked at before.
    pub may_place: bool,
    /// The length of the value that the client sent before.
    pub trust: usize,
}

impl Conn {
    /// Whether the next bytes belong where [`Conn::windows`] says, and not in the input alone.
    pub fn is_arriving(&self) -> bool {
        matches!(self.state, State::Value(_))
    }

    /// Fills `slices` with the memory that the next bytes belong in, at most `most` of them.
    /// Returns how many slices that are. Then [`Conn::filled`] says how many bytes came.
    pub fn windows<'a>(&'a mut self, most: usize, slices: &mut [IoSliceMut<'a>]) -> usize {
        let State::Value(arriving) = &mut self.state else { return 0 };
        let value = &mut arriving.value;
        let room = value.room();
        let ends = value.here() + room == value.total() && room < most;
        let (mut left, mut count) = (slices.len(), 0);
        let mut lent = 0;
        value.windows(most, |window| {
            if left > 0 {
                lent += window.len();
                slices[count] = IoSliceMut::new(window);
                (left, count) = (left - 1, count + 1);
            }
        });
        if ends && left > 0 && lent == room {
            let more = READ_HEAD.min(most - room);
            slices[count] = IoSliceMut::new(&mut self.input.space(more)[..more]);
            count += 1;
        }
        count
    }

    /// The first `n` bytes of the windows are in.
    pub fn filled(&mut self, n: usize) {
        let State::Value(arriving) = &mut self.state else { return };
        let of_value = n.min(arriving.value.room());
        arriving.value.filled(of_value);
        self.input.filled(n - of_value);
    }

    /// To be called about once a second while a value is arriving: one that has stopped to come is
    /// moved to the input, so that its place is not kept from others. Returns how many bytes that
    /// were.
    pub fn check_arriving(&mut self, exec: &mut Executor, now: Now) -> usize {
        let State::Value(arriving) = &mut self.state else { return 0 };
        let (here, (before, since)) = (arriving.value.here(), arriving.seen);
        if here != before {
            arriving.seen = (here, now.mono_us);
        } else if now.mono_us.saturating_sub(since) >= STALLED_US {
            self.move_to_input(exec, now);
            return here;
        }
        0
    }

    /// Goes on with the value in the input, counted like any other.
    pub(super) fn move_to_input(&mut self, exec: &mut Executor, now: Now) {
        let State::Value(arriving) = std::mem::replace(&mut self.state, State::Command) else {
            return;
        };
        let Arriving { head, tail, value, .. } = *arriving;
        let need = head + value.total() + tail;
        let here = self.input.len() + value.here();
        // Without a reservation the next look at the command refuses it.
        let reserved = reserve(here, need, exec, now).unwrap_or(0);
        let mut input = Buf::new();
        input.space(here);
        let (first, rest) = self.input.data().split_at(head);
        input.extend(first);
        for part in value.parts() {
            input.extend(part);
        }
        input.extend(rest);
        self.input = input;
        self.state = State::Data { need, reserved };
    }

    /// Takes up a command that was looked at before: gives back what was counted for its data
    /// block, or has its value at hand.
    #[cold]
    pub(super) fn take_up(&mut self, exec: &mut Executor) {
        match std::mem::replace(&mut self.state, State::Command) {
            State::Data { reserved, .. } => exec.shared.release_data(reserved),
            State::Value(arriving) => {
                self.trust = arriving.value.total();
                self.arrived = Some(arriving.value);
            }
            other => self.state = other,
        }
    }
}
