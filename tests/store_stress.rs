//! The store under threads, and within its memory: values that say what they are, on an arena that
//! is too small for them; what fits into `-m`; what becomes of memory when sizes change.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use twincached::base::clock::Now;
use twincached::base::hash::hash_key;
use twincached::store::{
    Config, DeleteTerms, Exptime, GetTerms, Handle, Maintained, Mode, ScanCursor, Store, Stored,
    Terms, Value, Version, What,
};

const START: u64 = 1_700_000_000_000_000;

fn at(ms: u64) -> Now {
    Now { unix_us: START + ms * 1000, mono_us: ms * 1000 }
}

fn store_of(mib: u64) -> Arc<Store> {
    Store::new(Config { memory_limit: mib << 20, ..Config::default() }, at(0))
}

/// A value that says whose it is: key, length and a stream that follows from both.
fn fill(out: &mut Vec<u8>, key: &[u8], salt: u64, len: usize) {
    out.clear();
    out.extend_from_slice(&salt.to_le_bytes());
    let mut word = hash_key(salt, key);
    while out.len() < len.max(8) {
        word = word.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.truncate(len.max(8));
}

fn check(key: &[u8], value: Value<'_>, scratch: &mut Vec<u8>, got: &mut Vec<u8>) {
    got.clear();
    value.copy_to(got);
    let mut salt = [0u8; 8];
    salt.copy_from_slice(&got[..8]);
    fill(scratch, key, u64::from_le_bytes(salt), got.len());
    assert!(scratch == got, "the value of another key, or a torn one: {:?}", key);
}

struct Mix {
    keys: u64,
    value_max: u64,
    steps: u64,
}

fn one_thread(mut handle: Handle, seed: u64, mix: &Mix, stored: &mut u64) {
    let (mut value, mut got, mut random) = (Vec::new(), Vec::new(), seed);
    for step in 0..mix.steps {
        random = hash_key(random, &step.to_le_bytes());
        let now = at(step / 4);
        let key = format!("key:{}", (random >> 8) % mix.keys).into_bytes();
        match random % 20 {
            16 => {
                let terms = DeleteTerms { stale: true, ..DeleteTerms::default() };
                handle.delete_with(&key, &terms, now);
            }
            17 => {
                fill(&mut value, &key, random, (random >> 30) as usize % 900);
                let terms = Terms { cas: Some(random), binary_key: true, ..Terms::default() };
                handle.store_with(Mode::Set, &key, 0, Exptime::Never, &value, &terms, now);
            }
            18 | 19 => {
                let touch = (random >> 60 == 0).then_some(Exptime::At(now.unix_secs() + 3));
                let terms = GetTerms { touch, ..GetTerms::default() };
                handle.meta_get(&key, &terms, now, |item, _| {
                    assert_eq!(item.key, key);
                    check(&key, item.value, &mut value, &mut got);
                });
            }
            0..=5 => {
                let top = if random >> 60 == 0 { mix.value_max } else { 900 };
                fill(&mut value, &key, random, (random >> 30) as usize % top as usize);
                let exptime = match random >> 59 & 1 {
                    0 => Exptime::Never,
                    _ => Exptime::At(now.unix_secs() + (random >> 40) as u32 % 4),
                };
                let got = handle.store(Mode::Set, &key, step as u32, exptime, &value, now);
                *stored += u64::from(matches!(got, Stored::Stored(_)));
            }
            6 => drop(handle.delete(&key, now)),
            7 => drop(handle.touch(&key, Exptime::At(now.unix_secs() + 2), now)),
            8 => drop(handle.arith(b"counter", true, 1, now)),
            9 if step % 64 == 0 => drop(handle.maintain(now, 300)),
            10 if step % 512 == 0 => {
                let mut cursor = ScanCursor::default();
                for _ in 0..20 {
                    handle.scan(&mut cursor, Version(0), 100, now, &mut |change| {
                        if let What::Item { value: found, .. } = change.what {
                            if change.key != b"counter" {
                                check(change.key, found, &mut value, &mut got);
                            }
                        }
                    });
                }
            }
            _ => {
                handle.get(&key, now, |item| {
                    assert_eq!(item.key, key);
                    check(&key, item.value, &mut value, &mut got);
                });
            }
        }
    }
}

/// `limits`: what the memory limit becomes, in MiB, again and again while the threads run.
fn stress(mib: u64, threads: u64, replicated: bool, mix: &Mix, limits: &[u64]) {
    // Under Miri a little has to be enough; every access of it is looked at.
    let small = Mix { keys: 20, value_max: mix.value_max.min(5000), steps: 40 };
    let (mix, threads) = if cfg!(miri) { (&small, 3) } else { (mix, threads) };
    let config = Config { memory_limit: mib << 20, replicated, ..Config::default() };
    let store = Store::new(config, at(0));
    let stop = AtomicBool::new(false);
    let stored = std::thread::scope(|scope| {
        let mut keeper = store.handle();
        let stop = &stop;
        scope.spawn(move || {
            let mut turns = if cfg!(miri) { 5 } else { u64::MAX };
            while !stop.load(Ordering::Relaxed) && turns > 0 {
                turns -= 1;
                keeper.maintain(at(1), 200);
                std::thread::yield_now();
            }
        });
        let resized = &store;
        scope.spawn(move || {
            for limit in limits.iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                resized.resize(limit << 20).expect("a limit that can be had");
                for _ in 0..100 {
                    std::thread::yield_now();
                }
            }
        });
        let workers: Vec<_> = (0..threads)
            .map(|n| {
                let handle = store.handle();
                scope.spawn(move || {
                    let mut stored = 0;
                    one_thread(handle, n + 1, mix, &mut stored);
                    stored
                })
            })
            .collect();
        let stored: u64 = workers.into_iter().map(|worker| worker.join().expect("worker")).sum();
        stop.store(true, Ordering::Relaxed);
        stored
    });
    assert!(stored > threads * mix.steps / 4, "most sets find room: {stored}");
    if let Some(last) = limits.last() {
        store.resize(last << 20).expect("a limit that can be had");
        while store.handle().maintain(at(1), 10_000) == Maintained::More {}
    }
    let stats = store.stats();
    assert!(stats.bytes + stats.index_bytes <= stats.limit_maxbytes);
    assert!(stats.segments_committed * stats.segment_bytes <= stats.limit_maxbytes);
    // What is left is consistent: everything can be deleted, and then nothing is accounted for.
    let mut handle = store.handle();
    let late = at(100_000_000);
    for n in 0..mix.keys {
        handle.delete(format!("key:{n}").as_bytes(), late);
    }
    handle.delete(b"counter", late);
    for round in 0..if cfg!(miri) { 3 } else { 40 } {
        while handle.maintain(at(200_000_000 + round * 5000), 100_000) == Maintained::More {}
    }
    let stats = store.stats();
    assert_eq!((stats.curr_items, stats.bytes, stats.tombstones), (0, 0, 0));
}

#[test]
fn threads_never_see_a_torn_or_foreign_value() {
    stress(1, 8, false, &Mix { keys: 3000, value_max: 3000, steps: 40_000 }, &[]);
    stress(2, 4, true, &Mix { keys: 3000, value_max: 100_000, steps: 30_000 }, &[]);
    stress(8, 4, true, &Mix { keys: 400, value_max: 900_000, steps: 6_000 }, &[]);
}

#[test]
fn nor_while_the_limit_moves_up_and_down() {
    stress(1, 4, false, &Mix { keys: 6000, value_max: 3000, steps: 30_000 }, &[3, 1, 8, 2]);
    stress(8, 4, true, &Mix { keys: 3000, value_max: 100_000, steps: 20_000 }, &[2, 20, 4]);
    stress(16, 3, true, &Mix { keys: 400, value_max: 900_000, steps: 4_000 }, &[64, 8, 32, 16]);
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
            winner.store(false, Ordering::SeqCst);
            handle.delete_with(b"k", &stale, at(0));
        };
        renew(&mut store.handle());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut handle = store.handle();
                    while wins.load(Ordering::SeqCst) < rounds {
                        let terms = GetTerms::default();
                        let found = handle.meta_get(b"k", &terms, at(0), |_, found| found.won);
                        if found == Some(true) {
                            assert!(!winner.swap(true, Ordering::SeqCst), "two have won");
                            wins.fetch_add(1, Ordering::SeqCst);
                            renew(&mut handle);
                        }
                    }
                });
            }
        });
    }
}

fn fill_until_evicting(handle: &mut Handle, key_len: usize, value_len: usize) -> u64 {
    let value = vec![b'v'; value_len];
    let mut n = 0u64;
    loop {
        let key = format!("{n:0key_len$}");
        let got = handle.store(Mode::Set, key.as_bytes(), 0, Exptime::Never, &value, at(0));
        assert!(matches!(got, Stored::Stored(_)), "{got:?}");
        if handle.store_ref().stats().sums.get(twincached::base::counters::Counter::Evictions) > 0 {
            return n;
        }
        n += 1;
    }
}

#[test]
fn small_items_cost_at_most_25_bytes_more() {
    for mib in [8u64, 64] {
        let store = store_of(mib);
        let held = fill_until_evicting(&mut store.handle(), 20, 50);
        // Free segments kept ahead and open ones are not counted against the items.
        let each = (mib << 20) as f64 * 0.97 / held as f64;
        println!("-m {mib}: {held} items of 20 + 50 bytes, {each:.1} bytes each");
        assert!(each <= 95.0, "-m {mib}: {each:.1} bytes per item");
    }
}

fn live(store: &Arc<Store>, size: usize) -> u64 {
    let mut handle = store.handle();
    let mut value = vec![b'v'; size];
    for n in 0..(12 << 20) / (size as u64 + 30) {
        if size == 0 {
            value.resize((n * 37 % 3000) as usize, b'v');
        }
        let key = format!("{size}:{n}");
        handle.store(Mode::Set, key.as_bytes(), 0, Exptime::Never, &value, at(n));
        if n % 100 == 0 {
            handle.maintain(at(n), 300);
        }
        let stats = store.stats();
        assert!(stats.bytes + stats.index_bytes <= stats.limit_maxbytes);
        if size == 0 && n > 20_000 {
            break;
        }
    }
    store.stats().bytes
}

#[test]
fn memory_follows_when_sizes_change() {
    let aged = store_of(8);
    for size in [100, 900, 30, 5000, 0] {
        let fresh = live(&store_of(8), size);
        let now = live(&aged, size);
        println!("size {size}: {now} bytes of items, {fresh} after a fresh start");
        assert!(now * 100 >= fresh * 95, "size {size}: {now} after {fresh}");
    }
}

#[test]
fn what_has_expired_comes_back_untouched() {
    let store = store_of(8);
    let mut handle = store.handle();
    for n in 0..20_000u32 {
        let exptime = if n % 4 == 0 { Exptime::Never } else { Exptime::At(1_700_000_005) };
        handle.store(Mode::Set, format!("k{n}").as_bytes(), 0, exptime, &[b'v'; 60], at(0));
    }
    let before = store.stats();
    assert_eq!(before.curr_items, 20_000);
    for ms in (0..15_000).step_by(100) {
        while handle.maintain(at(ms), 1000) == Maintained::More {}
    }
    let after = store.stats();
    assert_eq!(after.curr_items, 5_000);
    assert!(after.bytes * 3 < before.bytes);
    use twincached::base::counters::Counter::{ExpiredUnfetched, Reclaimed};
    assert_eq!((after.sums.get(Reclaimed), after.sums.get(ExpiredUnfetched)), (15_000, 15_000));
    assert!(after.index_bytes < before.index_bytes);
}

#[test]
fn what_was_flushed_comes_back_in_steps() {
    let store = store_of(8);
    let mut handle = store.handle();
    for n in 0..20_000u32 {
        handle.store(Mode::Set, format!("k{n}").as_bytes(), 0, Exptime::Never, b"value", at(0));
    }
    handle.flush_all(None, at(0));
    handle.store(Mode::Set, b"later", 0, Exptime::Never, b"value", at(0));
    assert!(handle.get(b"k1", at(0), |_| ()).is_none());
    assert!(handle.get(b"later", at(0), |_| ()).is_some());
    let mut steps = 0;
    while handle.maintain(at(5000), 500) == Maintained::More {
        steps += 1;
    }
    assert!(steps >= 30, "{steps} steps of 500 records");
    assert_eq!(store.stats().curr_items, 1);
}

#[test]
fn deletes_are_remembered_within_bounds() {
    let config = Config {
        memory_limit: 4 << 20,
        replicated: true,
        tombstone_secs: 1000,
        ..Config::default()
    };
    let store = Store::new(config, at(0));
    let mut handle = store.handle();
    let mut ms = 0;
    for n in 0..60_000u32 {
        ms += 1;
        let key = format!("some longer key {n}");
        handle.store(Mode::Set, key.as_bytes(), 0, Exptime::Never, b"", at(ms));
        assert!(handle.delete(key.as_bytes(), at(ms)));
        if n % 50 == 0 {
            handle.maintain(at(ms), 2000);
        }
    }
    for _ in 0..40 {
        ms += 5000;
        while handle.maintain(at(ms), 100_000) == Maintained::More {}
    }
    let stats = store.stats();
    assert_eq!(stats.curr_items, 0);
    assert!(stats.tombstones > 1000, "{}", stats.tombstones);
    assert!(stats.tombstones * 36 <= (4 << 20) / 8, "{}", stats.tombstones);
    ms += 1_000_000;
    for _ in 0..20 {
        ms += 5000;
        while handle.maintain(at(ms), 100_000) == Maintained::More {}
    }
    assert_eq!(store.stats().tombstones, 0);
}

#[test]
fn what_is_in_use_outlives_what_is_not() {
    let store = store_of(2);
    let mut handle = store.handle();
    let hot: Vec<String> = (0..2000).map(|n| format!("hot{n}")).collect();
    for key in &hot {
        handle.store(Mode::Set, key.as_bytes(), 0, Exptime::Never, &[b'h'; 200], at(0));
    }
    // A scan of ten times the memory, with the hot set read in between.
    for n in 0..80_000usize {
        handle.store(Mode::Set, format!("cold{n}").as_bytes(), 0, Exptime::Never, &[0; 200], at(1));
        handle.get(hot[n * 7 % hot.len()].as_bytes(), at(1), |_| ());
    }
    let kept = hot.iter().filter(|key| handle.get(key.as_bytes(), at(1), |_| ()).is_some()).count();
    assert!(kept * 100 >= hot.len() * 95, "{kept} of {} hot items are left", hot.len());
}
