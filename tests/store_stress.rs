//! The store within its memory: what fits into `-m`, what becomes of memory when sizes change, when
//! items expire or are flushed, and what stays when there is too little of it. Threads are in
//! `store_threads.rs`.

use std::sync::Arc;
use twincached::base::clock::Now;
use twincached::store::{Config, Exptime, Handle, Maintained, Mode, Store, Stored};

const START: u64 = 1_700_000_000_000_000;

fn at(ms: u64) -> Now {
    Now { unix_us: START + ms * 1000, mono_us: ms * 1000 }
}

fn store_of(mib: u64) -> Arc<Store> {
    Store::new(Config { memory_limit: mib << 20, ..Config::default() }, at(0))
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
