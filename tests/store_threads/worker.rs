//! A thread that does to the store what workers do: every command in turn, by dice.
//!
//! Owns what each operation tells the ledger, and what it asks of it. Never decides what is right:
//! the ledger does.

use super::ledger::Known;
use super::{Mix, World};
use std::sync::atomic::Ordering;
use twincached::base::clock::Now;
use twincached::base::hash::hash_key;
use twincached::store::{
    Applied, Arith, ArithTerms, Change, DeleteTerms, Deleted, Exptime, GetTerms, Given, Handle,
    Incoming, Marks, Mode, Stored, Terms, Value, Version, What,
};

pub struct Worker<'w> {
    world: &'w World,
    me: usize,
    handle: Handle,
    block: Vec<u8>,
    scratch: Vec<u8>,
    stored: usize,
    /// Values whose clients have stopped in the middle.
    stuck: Vec<Incoming>,
}

/// One operation: on which key, by which dice, when.
#[derive(Clone, Copy)]
struct Turn<'a> {
    nth: usize,
    number: usize,
    key: &'a [u8],
    dice: u64,
    now: Now,
    known: Known,
}

impl Turn<'_> {
    fn exptime(&self) -> Exptime {
        match self.dice >> 59 & 1 {
            0 => Exptime::Never,
            _ => Exptime::At(self.now.unix_secs() + (self.dice >> 40) as u32 % 4),
        }
    }
}

impl<'w> Worker<'w> {
    pub fn new(world: &'w World, me: usize) -> Worker<'w> {
        let handle = world.store.handle();
        let (block, scratch, stuck) = (Vec::new(), Vec::new(), Vec::new());
        Worker { world, me, handle, block, scratch, stored: 0, stuck }
    }

    /// Returns how many writes were stored.
    pub fn run(mut self) -> usize {
        let Mix { keys, steps, .. } = self.world.mix;
        let mut dice = self.me as u64 + 1;
        for nth in 0..steps {
            dice = hash_key(dice, &nth.to_le_bytes());
            self.world.ticks.fetch_add(1, Ordering::Relaxed);
            let number = (dice >> 8) as usize % keys;
            let key = format!("key:{number}").into_bytes();
            let (now, known) = (self.world.now(), self.world.ledger.know(number));
            self.turn(Turn { nth, number, key: &key, dice, now, known });
        }
        self.stored
    }

    fn turn(&mut self, turn: Turn<'_>) {
        match turn.dice % 32 {
            0..=5 => self.store(turn, Mode::Set, Terms::PLAIN),
            6 => self.store(turn, Mode::Add, Terms::PLAIN),
            7 => self.store(turn, Mode::Replace, Terms::PLAIN),
            8 => self.store(turn, Mode::Append, Terms::PLAIN),
            9 => self.store(turn, Mode::Prepend, Terms::PLAIN),
            10 => {
                let unique = self.get(turn).unwrap_or(1);
                self.store(turn, Mode::Cas(unique), Terms::PLAIN);
            }
            11 => {
                let terms = Terms { cas: Some(turn.dice), binary_key: true, ..Terms::PLAIN };
                self.store(turn, Mode::Set, terms);
            }
            12 => drop(self.handle.touch(turn.key, turn.exptime(), turn.now)),
            13 => self.delete(turn),
            14 => self.delete_with(turn),
            15 => self.arith(turn),
            16 if turn.nth % 64 == 7 => {
                self.handle.flush_all(None, turn.now);
                self.world.ledger.flush(turn.known.begun);
            }
            17 if self.world.mix.replicated => self.apply(turn),
            18 => self.meta_get(turn),
            19 => self.changes(turn),
            _ => drop(self.get(turn)),
        }
    }

    fn begin_block(&mut self, turn: &Turn<'_>) {
        let any = (turn.dice >> 30) as usize;
        let len = match turn.dice >> 60 {
            0 => any % self.world.mix.value_max,
            // As long as another one: it is written over that.
            1..=9 => 200,
            _ => any % 900,
        };
        self.world.ledger.block(&mut self.block, turn.key, (self.me, turn.nth), len);
    }

    fn store(&mut self, turn: Turn<'_>, mode: Mode, terms: Terms) {
        self.begin_block(&turn);
        let (flags, exptime) = (turn.dice as u32 & 0x100, turn.exptime());
        let (key, now) = (turn.key, turn.now);
        let placed = match turn.dice >> 55 & 1 {
            0 if mode == Mode::Set => self.place(key, turn.dice, now),
            _ => None,
        };
        let value = placed.map_or(Given::Bytes(&self.block), Given::Placed);
        let stored = self.handle.store_given(mode, key, flags, exptime, value, &terms, now);
        let version = match stored {
            Stored::Stored(written) => Some(written.version),
            _ => None,
        };
        self.stored += usize::from(version.is_some());
        self.world.ledger.answered(turn.number, &turn.known, &self.block, version);
    }

    /// The block in its place, as it comes from a client; of some only a part comes.
    fn place(&mut self, key: &[u8], dice: u64, now: Now) -> Option<Box<Incoming>> {
        let mut value = self.handle.take_in(key, self.block.len())?;
        while value.here() < self.block.len() {
            if value.room() == 0 && !self.handle.set_aside(&mut value, 5000, now) {
                return None;
            }
            let rest = &self.block[value.here()..];
            value.extend(&rest[..rest.len().min(3000)]);
            if dice >> 48 & 63 == 0 {
                self.stuck.push(*value);
                self.stuck.drain(..self.stuck.len().saturating_sub(2));
                return None;
            }
        }
        Some(value)
    }

    /// A peer's change.
    fn apply(&mut self, turn: Turn<'_>) {
        self.begin_block(&turn);
        // Its clock is about as ours; a tag of its own.
        let version = Version(self.world.store.newest().0.wrapping_add(turn.dice >> 50 << 8) ^ 2);
        let deletes = turn.dice >> 58 & 3 == 0;
        let what = if deletes {
            What::Deleted
        } else {
            let (flags, exptime, value) = (7, turn.exptime(), Value::from(&self.block[..]));
            What::Item { flags, exptime, cas: None, marks: Marks::default(), value }
        };
        let applied = self.handle.apply(&Change { key: turn.key, version, what }, turn.now);
        let won = applied == Applied::Won;
        if deletes && won {
            self.world.ledger.came_to_pass(turn.number, turn.known.begun);
        }
        let stored = (won && !deletes).then_some(version);
        self.world.ledger.answered(turn.number, &turn.known, &self.block, stored);
    }

    fn delete(&mut self, turn: Turn<'_>) {
        if self.handle.delete(turn.key, turn.now) {
            self.world.ledger.came_to_pass(turn.number, turn.known.begun);
        }
    }

    fn delete_with(&mut self, turn: Turn<'_>) {
        let empties = turn.dice >> 58 & 1 == 0;
        let terms =
            DeleteTerms { stale: !empties, remove_value: empties, ..DeleteTerms::default() };
        let deleted = self.handle.delete_with(turn.key, &terms, turn.now);
        if empties && deleted == Deleted::Deleted {
            self.world.ledger.came_to_pass(turn.number, turn.known.begun);
        }
    }

    fn arith(&mut self, turn: Turn<'_>) {
        let key = format!("counter:{}", turn.number % 4).into_bytes();
        let terms = ArithTerms { vivify: Some((turn.exptime(), 7)), ..ArithTerms::default() };
        let arith = self.handle.arith_with(&key, true, turn.dice >> 40, &terms, turn.now);
        assert!(matches!(arith, Arith::Value { .. } | Arith::OutOfMemory), "{arith:?}");
    }

    /// Returns the CAS unique of what it finds.
    fn get(&mut self, turn: Turn<'_>) -> Option<u64> {
        let Worker { world, handle, scratch, .. } = self;
        let Turn { number, key, now, known, .. } = turn;
        let found = handle.get(key, now, |item| {
            assert_eq!(item.key, key);
            assert!(!item.exptime.is_past(now.unix_secs()), "expired, and seen");
            world.ledger.judge((number, key), &known, item.version, item.value, scratch);
            (item.cas, item.version, item.value.hold())
        });
        match &found {
            None => world.ledger.came_to_pass(number, known.begun),
            // What is held does not change, whoever replaces or evicts it.
            Some((_, version, Some(held))) => {
                std::thread::yield_now();
                let parts: Vec<&[u8]> = (0..).map_while(|nth| held.part(nth)).collect();
                let value = Value::from_parts(&parts);
                world.ledger.judge((number, key), &known, *version, value, scratch);
            }
            Some((_, _, None)) => {}
        }
        found.map(|(cas, _, _)| cas)
    }

    fn meta_get(&mut self, turn: Turn<'_>) {
        let Worker { world, handle, scratch, .. } = self;
        let Turn { number, key, dice, now, known, .. } = turn;
        let terms = GetTerms {
            touch: (dice >> 58 & 1 == 0).then(|| turn.exptime()),
            vivify: (dice >> 57 & 1 == 0).then(|| turn.exptime()),
            ..GetTerms::default()
        };
        handle.meta_get(key, &terms, now, |item, _| {
            assert_eq!(item.key, key);
            world.ledger.judge((number, key), &known, item.version, item.value, scratch);
        });
    }

    /// What a link asks for a key.
    fn changes(&mut self, turn: Turn<'_>) {
        let Worker { world, handle, scratch, .. } = self;
        let hash = handle.hash(turn.key);
        handle.changes_of(hash, turn.now, &mut |change| {
            if let What::Item { value, .. } = change.what {
                let key = (turn.number, change.key);
                world.ledger.judge(key, &turn.known, change.version, value, scratch);
            }
        });
    }
}
