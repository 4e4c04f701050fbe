//! Many keys asked of several backends, one reply in the client's order.
//!
//! Owns the keys of one portion of a get, and what came back for each of them. Never knows whom it
//! was asked from.
//!
//! ```text
//!   get a b c     a -> server 1     c arrives first   values: [c][a]      VALUE a ..
//!                 b -> server 2     then a            slots:  a=1 b=- c=0 VALUE c ..
//!                 c -> server 2     b: miss                               (END follows)
//! ```

use crate::base::num::push_u64;

/// One key and its result.
#[derive(Clone, Copy, Debug)]
struct Slot {
    key_at: u32,
    key_len: u8,
    state: State,
    /// The encoded value, in [`Fanout::values`].
    at: usize,
    len: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    Hit,
    Miss,
    Failed,
    /// There is a value, and it is fetched when its turn comes.
    Large,
}

/// How a portion ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Somebody could be asked about at least one key.
    Reached,
    /// Nobody could be asked about any of them.
    Unreachable,
    /// A value was lost after its first bytes had left: the client's connection must end.
    Broken,
}

/// A part of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// It is here.
    Bytes(Vec<u8>),
    /// A large value that must be fetched when its turn has come: as a get would.
    Value {
        /// Its key.
        key: Box<[u8]>,
        /// Show its CAS unique.
        cas: bool,
    },
    /// The same as an mg would.
    Meta {
        /// Its key, decoded.
        key: Box<[u8]>,
        /// The command line with its end, without `q`.
        line: Box<[u8]>,
    },
}

/// Keys in the client's order, and their answers as they come.
#[derive(Debug, Default)]
pub struct Fanout {
    keys: Vec<u8>,
    slots: Vec<Slot>,
    values: Vec<u8>,
    waiting: usize,
    /// Values arrived in the order of their keys so far: the reply needs no sorting.
    sorted: bool,
    last_hit: usize,
    largest: usize,
    some_large: bool,
    hits: usize,
    misses: usize,
}

impl Fanout {
    /// No keys.
    pub fn new() -> Fanout {
        Fanout { sorted: true, ..Fanout::default() }
    }

    /// Adds a key (at most 255 bytes), and returns its slot.
    pub fn push(&mut self, key: &[u8]) -> usize {
        debug_assert!(key.len() <= 255);
        self.slots.push(Slot {
            key_at: self.keys.len() as u32,
            key_len: key.len() as u8,
            state: State::Waiting,
            at: 0,
            len: 0,
        });
        self.keys.extend_from_slice(key);
        self.waiting += 1;
        self.slots.len() - 1
    }

    /// The key of a slot.
    pub fn key(&self, slot: usize) -> &[u8] {
        let Slot { key_at, key_len, .. } = self.slots[slot];
        &self.keys[key_at as usize..key_at as usize + usize::from(key_len)]
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no key.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Keys without a result yet.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Length of the largest value so far, in bytes.
    pub fn largest(&self) -> usize {
        self.largest
    }

    /// Keys that were found, and keys that are nowhere, so far.
    pub fn found(&self) -> (usize, usize) {
        (self.hits, self.misses)
    }

    /// Bytes of all values so far, as they will be sent.
    pub fn bytes(&self) -> usize {
        self.values.len()
    }

    /// Whether the slot still has no result.
    pub fn is_waiting(&self, slot: usize) -> bool {
        self.slots[slot].state == State::Waiting
    }

    fn close(&mut self, slot: usize, state: State) -> bool {
        if self.slots[slot].state != State::Waiting {
            return false;
        }
        self.slots[slot].state = state;
        self.waiting -= 1;
        true
    }

    /// The key has this value; `cas` is shown when given. A second result is ignored.
    pub fn hit(&mut self, slot: usize, flags: u32, cas: Option<u64>, data: &[u8]) {
        if !self.close(slot, State::Hit) {
            return;
        }
        self.hits += 1;
        self.sorted &= slot >= self.last_hit;
        self.last_hit = self.last_hit.max(slot);
        self.largest = self.largest.max(data.len());
        let Slot { key_at, key_len, .. } = self.slots[slot];
        let at = self.values.len();
        let out = &mut self.values;
        out.reserve(data.len() + usize::from(key_len) + 60);
        out.extend_from_slice(b"VALUE ");
        out.extend_from_slice(&self.keys[key_at as usize..key_at as usize + usize::from(key_len)]);
        out.push(b' ');
        push_u64(out, u64::from(flags));
        out.push(b' ');
        push_u64(out, data.len() as u64);
        if let Some(cas) = cas {
            out.push(b' ');
            push_u64(out, cas);
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
        self.slots[slot].at = at;
        self.slots[slot].len = self.values.len() - at;
    }

    /// The key has a value that is too large to be held.
    pub fn large(&mut self, slot: usize) {
        let closed = self.close(slot, State::Large);
        self.some_large |= closed;
        self.hits += usize::from(closed);
    }

    /// Whether some value is still to be fetched.
    pub fn some_large(&self) -> bool {
        self.some_large
    }

    /// The reply in pieces, without an `END`; `cas`: large values show their CAS uniques.
    pub fn into_pieces(self, cas: bool) -> Vec<Piece> {
        debug_assert_eq!(self.waiting, 0);
        let mut pieces = Vec::new();
        for (n, slot) in self.slots.iter().enumerate() {
            match (slot.state, pieces.last_mut()) {
                (State::Large, _) => pieces.push(Piece::Value { key: self.key(n).into(), cas }),
                (State::Hit, Some(Piece::Bytes(bytes))) => {
                    bytes.extend_from_slice(&self.values[slot.at..slot.at + slot.len]);
                }
                (State::Hit, _) => {
                    pieces.push(Piece::Bytes(self.values[slot.at..slot.at + slot.len].to_vec()));
                }
                _ => {}
            }
        }
        pieces
    }

    /// The key is nowhere.
    pub fn miss(&mut self, slot: usize) {
        self.misses += usize::from(self.close(slot, State::Miss));
    }

    /// The result is void: another follows.
    pub fn reopen(&mut self, slot: usize) {
        if self.slots[slot].state != State::Waiting {
            self.slots[slot].state = State::Waiting;
            self.waiting += 1;
            // The old value stays where it is, and is not copied into the reply.
            self.sorted = false;
        }
    }

    /// Nobody could be asked about the key.
    pub fn fail(&mut self, slot: usize) {
        self.close(slot, State::Failed);
    }

    /// The values in the order of their keys, without an `END`.
    pub fn into_reply(self) -> (Vec<u8>, Verdict) {
        debug_assert_eq!(self.waiting, 0);
        let failed = self.slots.iter().all(|slot| slot.state == State::Failed);
        let verdict =
            if failed && !self.slots.is_empty() { Verdict::Unreachable } else { Verdict::Reached };
        if self.sorted {
            return (self.values, verdict);
        }
        let mut reply = Vec::with_capacity(self.values.len());
        for slot in self.slots.iter().filter(|slot| slot.state == State::Hit) {
            reply.extend_from_slice(&self.values[slot.at..slot.at + slot.len]);
        }
        (reply, verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_leave_in_the_order_of_the_keys() {
        let mut fan = Fanout::new();
        let slots: Vec<usize> =
            ["a", "bb", "c", "a"].iter().map(|k| fan.push(k.as_bytes())).collect();
        fan.hit(slots[2], 5, None, b"C");
        fan.hit(slots[0], 0, Some(7), b"A");
        fan.hit(slots[0], 0, None, b"ignored");
        fan.miss(slots[1]);
        fan.miss(slots[1]);
        assert_eq!((fan.waiting(), fan.found()), (1, (2, 1)));
        assert!(fan.is_waiting(3) && !fan.is_waiting(1));
        fan.hit(slots[3], 1, None, b"");
        assert_eq!(fan.key(1), b"bb");
        let (reply, verdict) = fan.into_reply();
        assert_eq!(
            reply,
            b"VALUE a 0 1 7\r\nA\r\nVALUE c 5 1\r\nC\r\nVALUE a 1 0\r\n\r\n",
            "{}",
            String::from_utf8_lossy(&reply)
        );
        assert_eq!(verdict, Verdict::Reached);
    }

    #[test]
    fn unreachable_only_when_every_key_is() {
        let mut fan = Fanout::new();
        let (a, b) = (fan.push(b"a"), fan.push(b"b"));
        fan.fail(a);
        fan.miss(b);
        assert_eq!(fan.into_reply(), (Vec::new(), Verdict::Reached));
        let mut fan = Fanout::new();
        let a = fan.push(b"a");
        fan.fail(a);
        assert_eq!(fan.into_reply(), (Vec::new(), Verdict::Unreachable));
    }
}
