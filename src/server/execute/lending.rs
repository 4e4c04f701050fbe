//! Which values are sent from where they are.
//!
//! Owns the choice between copying a value to the replies and lending it to them. Never sends
//! anything: the connection takes what is lent, and the worker writes it or has it copied.

use crate::base::replies::{Lent, Replies};
use crate::store::{Held, Value};

/// Values from this length on are lent: below it a copy costs less than another slice to write.
const LEND_MIN: usize = 16 * 1024;

/// Values that a command has lent to its reply.
#[derive(Debug, Default)]
pub struct Lending {
    /// Whether the connection that is served takes any.
    on: bool,
    /// In front of which of the reply's bytes.
    values: Vec<(usize, Held)>,
}

impl Lent for Held {
    fn part(&self, nth: usize) -> Option<&[u8]> {
        Held::part(self, nth)
    }
}

impl Lending {
    /// From now on values are lent, or all are copied.
    pub fn allow(&mut self, on: bool) {
        self.on = on;
    }

    /// Appends a value to `out`, or lends it.
    #[inline]
    pub fn put(&mut self, value: &Value<'_>, out: &mut Vec<u8>) {
        if self.on && value.len() >= LEND_MIN && self.lend(value, out.len()) {
            return;
        }
        value.copy_to(out);
    }

    #[inline(never)]
    fn lend(&mut self, value: &Value<'_>, at: usize) -> bool {
        let Some(held) = value.hold() else { return false };
        self.values.push((at, held));
        true
    }

    /// Forgets what was lent behind the first `len` bytes of the output.
    pub fn truncate(&mut self, len: usize) {
        self.values.retain(|(at, _)| *at < len);
    }

    /// Hands what was lent to the replies that it belongs to.
    #[inline]
    pub fn hand_to(&mut self, replies: &mut Replies) {
        if !self.values.is_empty() {
            for (at, held) in self.values.drain(..) {
                let len = held.len();
                replies.lend_bytes(at, Box::new(held), len);
            }
        }
    }
}
