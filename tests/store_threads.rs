//! The store under threads: many writers, readers, deletes, expiry, eviction, flushes, another
//! `-m`, a peer's changes and walks, all at once, on an arena that is too small for them.
//!
//! Every value says its own key and version; `store_threads/ledger.rs` judges what is read: torn,
//! of another key, refused, or older than what somebody has been told. A second test counts that no
//! update is lost, a third that one of many wins. `.ci/run` runs this file as it is, and under the
//! thread sanitizer; under Miri a little has to be enough.

#[path = "store_threads/ledger.rs"]
mod ledger;
#[path = "store_threads/worker.rs"]
mod worker;

use ledger::{Known, Ledger};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::thread::{Scope, ScopedJoinHandle};
use twincached::base::clock::Now;
use twincached::base::hash::hash_key;
use twincached::store::{
    Arith, Config, DeleteTerms, Exptime, GetTerms, Handle, Maintained, Mode, ScanCursor, Store,
    Stored, Told, Value, Version, What,
};
use worker::Worker;

const START: u64 = 1_700_000_000_000_000;
/// Operations of all threads together in a millisecond of their clock.
const OPERATIONS_PER_MS: u64 = 4;

fn at(ms: u64) -> Now {
    Now { unix_us: START + ms * 1000, mono_us: ms * 1000 }
}

/// So many as they are; an eighth of them where each costs many times as much.
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
