//! The store under threads: many writers, readers, deletes, expiry, eviction, flushes, another
//! `-m`, a peer's changes and walks, all at once, on an arena that is too small for them.
//!
//! Every value says its own key and version; `store_threads/ledger.rs` judges what is read: torn,
//! of another key, refused, or older than what somebody has been told. A second test counts that no
//! update is lost, a third that one of many wins. `.ci/run` runs this file as it is, and under the
//! thread sanitizer; under Miri a little has to be enough.

#[path = "store_threads/ledger.rs"]
mod ledger;

use ledger::{Known, Ledger};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::{Scope, ScopedJoinHandle};
use twincached::base::clock::Now;
use twincached::base::hash::hash_key;
use twincached::store::{
    Applied, Arith, ArithTerms, Change, Config, DeleteTerms, Deleted, Exptime, GetTerms, Given,
    Handle, Incoming, Maintained, Marks, Mode, ScanCursor, Store, Stored, Terms, Told, Value,
    Version, What,
};

const START: u64 = 1_700_000_000_000_000;
/// Operations of all threads together in a millisecond of their clock.
const OPERATIONS_PER_MS: u64 = 4;

fn at(ms: u64) -> Now {
    Now { unix_us: START + ms * 1000, mono_us: ms * 1000 }
}

/// So many as they are; a twentieth of them where each costs as much more.
fn scaled(count: usize) -> usize {
    if cfg!(miri) {
        count.min(60)
    } else if cfg!(tsan) {
        count / 8
    } else {
        count
    }
}

#[derive(Clone, Copy)]
struct Mix {
    mib: u64,
    threads: usize,
    replicated: bool,
    keys: usize,
    /// Longest value; most have up to 900 bytes.
    value_max: usize,
    /// Of each thread.
    steps: usize,
    /// What the memory limit becomes, in MiB, again and again.
    limits: &'static [u64],
}

struct World {
    mix: Mix,
    store: Arc<Store>,
    ledger: Ledger,
    ticks: AtomicU64,
    stop: AtomicBool,
}

impl World {
    fn new(mix: Mix) -> World {
        let Mix { mib, threads, replicated, keys, steps, .. } = mix;
        let config = Config { memory_limit: mib << 20, replicated, ..Config::default() };
        World {
            mix,
            store: Store::new(config, at(0)),
            ledger: Ledger::new(keys, threads, steps, !replicated),
            ticks: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        }
    }

    fn now(&self) -> Now {
        at(self.ticks.load(Ordering::Relaxed) / OPERATIONS_PER_MS)
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }
}

/// The number of a key that the ledger knows.
fn number_of(key: &[u8]) -> Option<usize> {
    std::str::from_utf8(key).ok()?.strip_prefix("key:")?.parse().ok()
}

struct Worker<'w> {
    world: &'w World,
    me: usize,
    handle: Handle,
    block: Vec<u8>,
    scratch: Vec<u8>,
    stored: usize,
    /// Values whose clients have stopped in the middle.
    stuck: Vec<Box<Incoming>>,
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
    fn new(world: &'w World, me: usize) -> Worker<'w> {
        let handle = world.store.handle();
        let (block, scratch, stuck) = (Vec::new(), Vec::new(), Vec::new());
        Worker { world, me, handle, block, scratch, stored: 0, stuck }
    }

    /// Returns how many writes were stored.
    fn run(mut self) -> usize {
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
        let rare = turn.dice >> 60 == 0;
        let top = if rare { self.world.mix.value_max } else { 900 };
        let len = (turn.dice >> 30) as usize % top;
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
                self.stuck.push(value);
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

/// The maintenance thread.
fn keep(world: &World, mut handle: Handle) {
    let mut turns = if cfg!(miri) { 20 } else { u64::MAX };
    while world.goes_on() && turns > 0 {
        turns -= 1;
        handle.maintain(world.now(), 200);
        std::thread::yield_now();
    }
}

/// `cache_memlimit`, and memory that is lent for a while.
fn resize(world: &World, mut handle: Handle) {
    for (nth, limit) in world.mix.limits.iter().cycle().enumerate() {
        if !world.goes_on() || (cfg!(miri) && nth > 3) {
            break;
        }
        world.store.resize(limit << 20).expect("a limit that can be had");
        let lent = (nth as u64 % 3) << 17;
        if world.store.lend(lent) {
            handle.make_way(world.now());
            world.store.take_back(lent);
        }
        (0..100).for_each(|_| std::thread::yield_now());
    }
}

/// Copies to peers, digests, dumps, and the replication thread's drains.
fn watch(world: &World, mut handle: Handle) {
    let (mut scan, mut dump) = (ScanCursor::default(), ScanCursor::default());
    let (mut hashes, mut told, mut scratch) = (Vec::new(), Told::default(), Vec::new());
    world.store.set_telling(true);
    let mut turns = if cfg!(miri) { 10 } else { u64::MAX };
    while world.goes_on() && turns > 0 {
        turns -= 1;
        // What is known now of each key is known when the step comes to it.
        let known: Vec<Known> = (0..world.mix.keys).map(|n| world.ledger.know(n)).collect();
        let mut judge = |key: &[u8], version: Version, value: Value<'_>| {
            if let Some(number) = number_of(key) {
                let known = &known[number];
                world.ledger.judge((number, key), known, version, value, &mut scratch);
            }
        };
        let now = world.now();
        let ended = handle.scan(&mut scan, Version(0), 300, now, &mut |change| {
            if let What::Item { value, .. } = change.what {
                judge(change.key, change.version, value);
            }
        });
        if ended {
            scan = ScanCursor::default();
        }
        let ended = handle.dump_read(&mut dump, 300, 1 << 20, now, &mut |item| {
            assert!(!item.exptime.is_past(now.unix_secs()), "expired, and dumped");
            judge(item.key, item.version, item.value);
            item.value.len()
        });
        if ended {
            dump = ScanCursor::default();
        }
        hashes.clear();
        world.store.drain_told(&mut hashes, &mut told);
        for (hash, change) in told.iter() {
            assert_eq!(hash, handle.hash(change.key), "told of another key");
        }
        std::thread::yield_now();
    }
}

/// What is left is consistent: everything can be deleted, and then nothing is accounted for.
fn settle(world: &World) {
    let Mix { keys, limits, .. } = world.mix;
    let (store, mut handle) = (&world.store, world.store.handle());
    if let Some(last) = limits.last() {
        store.resize(last << 20).expect("a limit that can be had");
        while handle.maintain(world.now(), 10_000) == Maintained::More {}
    }
    let stats = store.stats();
    assert!(stats.bytes + stats.index_bytes <= stats.limit_maxbytes);
    assert!(stats.segments_committed * stats.segment_bytes <= stats.limit_maxbytes);
    let late = at(100_000_000);
    for n in 0..keys {
        handle.delete(format!("key:{n}").as_bytes(), late);
    }
    for n in 0..4 {
        handle.delete(format!("counter:{n}").as_bytes(), late);
    }
    for round in 0..if cfg!(miri) { 3 } else { 40 } {
        while handle.maintain(at(200_000_000 + round * 5000), 100_000) == Maintained::More {}
    }
    let stats = store.stats();
    assert_eq!((stats.curr_items, stats.bytes, stats.tombstones), (0, 0, 0));
}

/// Threads are joined one by one: the end of a scope alone is nothing that the sanitizer sees.
fn join<T>(threads: Vec<ScopedJoinHandle<'_, T>>) -> Vec<T> {
    let join = |thread: ScopedJoinHandle<'_, T>| match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    threads.into_iter().map(join).collect()
}

fn stress(mix: Mix) {
    let steps = scaled(mix.steps);
    let mix = if cfg!(miri) {
        Mix { keys: 20, value_max: mix.value_max.min(5000), threads: 3, steps, ..mix }
    } else {
        Mix { steps, ..mix }
    };
    let world = &World::new(mix);
    let stored: usize = std::thread::scope(|scope| {
        let beside = beside(scope, world);
        let workers = (0..mix.threads).map(|me| {
            let worker = Worker::new(world, me);
            scope.spawn(move || {
                let _stop = StopsOnPanic(&world.stop);
                worker.run()
            })
        });
        let stored = join(workers.collect()).into_iter().sum();
        world.stop.store(true, Ordering::Relaxed);
        join(beside);
        stored
    });
    let share = mix.threads * mix.steps / 8;
    assert!(cfg!(miri) || stored > share, "{stored} writes found room, of {share} at least");
    settle(world);
}

/// The threads that run beside the workers until they are told to stop.
fn beside<'s>(scope: &'s Scope<'s, '_>, world: &'s World) -> Vec<ScopedJoinHandle<'s, ()>> {
    let roles: [fn(&World, Handle); 3] = [keep, resize, watch];
    let spawn = |role: fn(&World, Handle)| {
        let handle = world.store.handle();
        scope.spawn(move || role(world, handle))
    };
    roles.into_iter().map(spawn).collect()
}

/// Lets the other threads end when one of them has failed.
struct StopsOnPanic<'a>(&'a AtomicBool);

impl Drop for StopsOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

#[test]
fn small_values_in_too_little_memory() {
    let (replicated, limits) = (false, &[][..]);
    let mix =
        Mix { mib: 1, threads: 6, keys: 3000, value_max: 3000, steps: 60_000, replicated, limits };
    stress(mix);
    stress(Mix { mib: 2, threads: 4, replicated: true, value_max: 100_000, steps: 40_000, ..mix });
    // Few keys: threads meet.
    stress(Mix { mib: 1, threads: 4, keys: 40, ..mix });
}

#[test]
fn large_values_are_read_while_they_are_replaced() {
    let (replicated, limits) = (true, &[][..]);
    let mix =
        Mix { mib: 8, threads: 4, keys: 100, value_max: 900_000, steps: 6_000, replicated, limits };
    stress(mix);
    stress(Mix { mib: 4, keys: 12, value_max: 200_000, replicated: false, ..mix });
}

#[test]
fn the_limit_moves_up_and_down() {
    let (replicated, limits) = (false, &[3, 1, 8, 2][..]);
    let mix =
        Mix { mib: 1, threads: 4, keys: 6000, value_max: 3000, steps: 30_000, replicated, limits };
    stress(mix);
    stress(Mix { mib: 8, replicated: true, value_max: 100_000, limits: &[2, 20, 4], ..mix });
    let limits = &[64, 8, 32, 16];
    stress(Mix { mib: 16, keys: 400, value_max: 900_000, steps: 4000, limits, ..mix });
}

/// What one thread has done to the three keys of [`no_update_is_lost`].
#[derive(Default)]
struct Done {
    swapped: u64,
    listed: Vec<[u8; 8]>,
}

fn number(handle: &mut Handle, key: &[u8]) -> (u64, u64) {
    let found = handle.get(key, at(0), |item| (item.value.to_vec(), item.cas));
    let (text, unique) = found.expect("nothing may go");
    let text = String::from_utf8(text).expect("a number");
    (text.trim_end().parse().expect("a number"), unique)
}

fn update(store: &Arc<Store>, me: usize, steps: usize) -> Done {
    let (mut handle, mut done, mut last) = (store.handle(), Done::default(), 0);
    let noise = vec![b'n'; 3000];
    for nth in 0..steps {
        match handle.arith(b"sum", true, 1, at(0)) {
            Arith::Value { value, .. } if value > last => last = value,
            other => panic!("{other:?} after {last}"),
        }
        let (before, unique) = number(&mut handle, b"swapped");
        let next = (before + 1).to_string();
        let mut store = |mode, key: &[u8], value: &[u8]| {
            let stored = handle.store(mode, key, 0, Exptime::Never, value, at(0));
            matches!(stored, Stored::Stored(_))
        };
        done.swapped += u64::from(store(Mode::Cas(unique), b"swapped", next.as_bytes()));
        let entry = ((me as u64) << 32 | nth as u64).to_le_bytes();
        if store(Mode::Append, b"list", &entry) {
            done.listed.push(entry);
        }
        // What makes segments that have to be emptied.
        let key = format!("noise:{}", nth % 50 + me * 50);
        store(Mode::Set, key.as_bytes(), &noise[..hash_key(1, &entry) as usize % 3000]);
    }
    done
}

#[test]
fn no_update_is_lost() {
    let (threads, steps) = (4, scaled(4000));
    for replicated in [false, true] {
        let config = Config { memory_limit: 4 << 20, replicated, ..Config::default() };
        let store = &Store::new(config, at(0));
        let mut handle = store.handle();
        for (key, value) in [(&b"sum"[..], &b"0"[..]), (b"swapped", b"0"), (b"list", b"")] {
            let stored = handle.store(Mode::Set, key, 0, Exptime::Never, value, at(0));
            assert!(matches!(stored, Stored::Stored(_)));
        }
        let stop = &AtomicBool::new(false);
        let done = std::thread::scope(|scope| {
            let mut keeper = store.handle();
            let beside = scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    keeper.maintain(at(0), 200);
                    std::thread::yield_now();
                }
            });
            let workers = (0..threads).map(|me| scope.spawn(move || update(store, me, steps)));
            let workers: Vec<_> = workers.collect();
            let done = workers.into_iter().map(|worker| worker.join());
            let done: Vec<_> = done.collect();
            stop.store(true, Ordering::Relaxed);
            join(vec![beside]);
            done.into_iter().map(|done| done.expect("worker")).collect::<Vec<Done>>()
        });
        assert_eq!(number(&mut handle, b"sum").0, (threads * steps) as u64);
        let swapped = done.iter().map(|done| done.swapped).sum();
        assert_eq!(number(&mut handle, b"swapped").0, swapped);
        let list = handle.get(b"list", at(0), |item| item.value.to_vec()).expect("nothing may go");
        for (me, done) in done.iter().enumerate() {
            let mine = |entry: &&[u8]| entry[4] == me as u8;
            let found: Vec<&[u8]> = list.chunks(8).filter(mine).collect();
            assert_eq!(found, done.listed, "what thread {me} has appended");
        }
    }
}

#[test]
fn of_many_threads_that_ask_at_once_one_wins() {
    let rounds = if cfg!(miri) { 5 } else { 3000 };
    for (replicated, len) in [(false, 10), (true, 10), (true, 100_000)] {
        let config = Config { memory_limit: 4 << 20, replicated, ..Config::default() };
        let store = Store::new(config, at(0));
        let stale = DeleteTerms { stale: true, ..DeleteTerms::default() };
        let value = vec![b'v'; len];
        let (winner, wins) = (AtomicBool::new(false), AtomicU64::new(0));
        let renew = |handle: &mut Handle| {
            let stored = handle.store(Mode::Set, b"k", 0, Exptime::Never, &value, at(0));
            assert!(matches!(stored, Stored::Stored(_)), "{stored:?}");
            winner.store(false, ledger::ORDER);
            handle.delete_with(b"k", &stale, at(0));
        };
        renew(&mut store.handle());
        let ask = || {
            let mut handle = store.handle();
            while wins.load(ledger::ORDER) < rounds {
                let terms = GetTerms::default();
                let found = handle.meta_get(b"k", &terms, at(0), |_, found| found.won);
                if found == Some(true) {
                    assert!(!winner.swap(true, ledger::ORDER), "two have won");
                    wins.fetch_add(1, ledger::ORDER);
                    renew(&mut handle);
                }
            }
        };
        std::thread::scope(|scope| join((0..4).map(|_| scope.spawn(ask)).collect()));
    }
}
