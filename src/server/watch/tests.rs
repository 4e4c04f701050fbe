//! Watchers without sockets: what they are told, what they miss, what they cost.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::server::config::Config;
use crate::server::shared::Shared;
use crate::store::{self, Exptime, Mode, Store};

const NOW: Now = Now { unix_us: 1_800_000_000_000_000, mono_us: 5_000_000 };

fn world() -> (Executor, Arc<Hub>) {
    let config = Config {
        memory_limit: 1 << 20,
        watcher_logbuf: 4096,
        worker_logbuf: 4096,
        ..Config::default()
    };
    let store = Store::new(store::Config { memory_limit: 1 << 20, ..Default::default() }, NOW);
    let shared = Shared::new(config, store, NOW, 1);
    let hub = Arc::clone(&shared.watch);
    (Executor::new(shared), hub)
}

fn watch(hub: &Arc<Hub>, args: &[u8]) -> (Lines, Arc<AtomicUsize>) {
    let woken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&woken);
    let wake = Arc::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let classes = classes(args).expect("known classes");
    (hub.watch(classes, wake).expect("a place"), woken)
}

/// The lines that wait for a watcher, without time and number.
fn told(exec: &mut Executor, lines: &mut Lines) -> Vec<String> {
    exec.store.hand_over();
    let mut out = Vec::new();
    assert_eq!(lines.produce(exec, NOW, &mut out), Produced::Wait);
    let text = String::from_utf8(out).expect("ASCII");
    text.lines().map(|line| line.split("type=").last().unwrap_or_default().to_owned()).collect()
}

#[test]
fn the_beginning_of_a_name_is_enough() {
    assert_eq!(classes(b""), Some(FETCHERS));
    assert_eq!(classes(b" f  m"), Some(FETCHERS | MUTATIONS));
    assert_eq!(classes(b"evictions connevents deletion"), Some(EVICTIONS | CONNEVENTS | DELETIONS));
    assert_eq!(classes(b"proxy rawcmds"), Some(SILENT));
    assert_eq!(classes(b"fetchersx"), None);
    assert_eq!(classes(b"fetchers noreply"), None);
}

#[test]
fn commands_make_the_lines_that_memcached_makes() {
    let (mut exec, hub) = world();
    let (mut lines, woken) = watch(&hub, b"fetchers mutations deletions");
    exec.store.serve(28);
    let store = &mut exec.store;
    store.store(Mode::Set, b"k", 1, Exptime::Never, b"hello", NOW);
    store.get(b"k", NOW, |_| ());
    store.store(Mode::Append, b"k", 0, Exptime::Never, b"abc", NOW);
    store.store(Mode::Add, b"k", 0, Exptime::At(NOW.unix_secs() + 9), b"a", NOW);
    store.touch(b"k", Exptime::At(NOW.unix_secs() + 1), NOW);
    store.get(b"k", NOW.plus_us(2_000_000), |_| ());
    store.arith(b"none", true, 1, NOW);
    store.note_refused(Mode::Set, b"big", Status::TooLarge, NOW);
    store.store(Mode::Set, b"d", 1, Exptime::Never, b"x", NOW);
    store.delete(b"d", NOW);
    store.delete(b"d", NOW);
    assert_eq!(
        told(&mut exec, &mut lines),
        [
            "item_get key=k status=not_found clsid=0 cfd=28 size=0",
            "item_store key=k status=stored cmd=set ttl=0 clsid=1 cfd=28 size=5",
            "item_get key=k status=found clsid=1 cfd=28 size=5",
            "item_get key=k status=found clsid=1 cfd=28 size=5",
            "item_store key=k status=stored cmd=append ttl=0 clsid=1 cfd=28 size=8",
            "item_get key=k status=found clsid=1 cfd=28 size=8",
            "item_store key=k status=not_stored cmd=add ttl=9 clsid=1 cfd=28 size=1",
            "item_get key=k status=found clsid=1 cfd=28 size=8",
            "item_get key=k status=expired clsid=0 cfd=28 size=0",
            "item_get key=none status=not_found clsid=0 cfd=28 size=0",
            "item_store key=big status=too_large cmd=set ttl=0 clsid=0 cfd=28 size=0",
            "item_get key=d status=not_found clsid=0 cfd=28 size=0",
            "item_store key=d status=stored cmd=set ttl=0 clsid=1 cfd=28 size=1",
            "item_get key=d status=found clsid=1 cfd=28 size=1",
            "deleted key=d cmd=delete clsid=1 size=1",
            "item_get key=d status=not_found clsid=0 cfd=28 size=0",
        ]
    );
    assert_eq!(woken.load(Ordering::Relaxed), 1, "one wake for the batch");
}

#[test]
fn each_watcher_gets_its_classes_from_its_beginning_on() {
    let (mut exec, hub) = world();
    let (mut first, _) = watch(&hub, b"fetchers");
    exec.store.get(b"before", NOW, |_| ());
    let (mut second, woken) = watch(&hub, b"connevents fetchers");
    exec.store.get(b"after", NOW, |_| ());
    exec.store.opened("unix:/s", 7, NOW);
    assert_eq!(told(&mut exec, &mut first).len(), 2);
    let lines = told(&mut exec, &mut second);
    assert!(lines[0].contains("key=after") && lines[1].starts_with("conn_new "), "{lines:?}");
    drop(second);
    assert!(hub.wants(FETCHERS) && !hub.wants(CONNEVENTS));
    drop(first);
    assert!(!hub.wants(u32::MAX));
    exec.store.get(b"nobody", NOW, |_| ());
    exec.store.hand_over();
    assert_eq!((hub.stats().watchers, woken.load(Ordering::Relaxed)), (0, 1));
}

#[test]
fn who_does_not_read_misses_lines_and_is_told_how_many() {
    let (mut exec, hub) = world();
    let (mut lines, woken) = watch(&hub, b"fetchers");
    for n in 0..200 {
        exec.store.get(format!("key{n}").as_bytes(), NOW, |_| ());
    }
    let here = told(&mut exec, &mut lines).len();
    assert!(here > 20 && here < 60, "{here} lines in 4 KiB");
    exec.store.get(b"again", NOW, |_| ());
    let next = told(&mut exec, &mut lines);
    assert_eq!(next[0], format!("skipped={}", 200 - here));
    assert!(next[1].contains("key=again"));
    let stats = hub.stats();
    assert_eq!(stats.worker_written + stats.worker_dropped, 201);
    assert_eq!((stats.watcher_sent, stats.watcher_skipped), (here as u64 + 1, 200 - here as u64));
    assert_eq!(woken.load(Ordering::Relaxed), 2);
}

#[test]
fn evictions_are_told_by_whoever_evicts() {
    let (mut exec, hub) = world();
    let (mut lines, woken) = watch(&hub, b"evictions");
    let mut other = exec.shared.store.handle();
    for n in 0..1200 {
        other.store(Mode::Set, format!("k{n}").as_bytes(), 0, Exptime::Never, &[b'v'; 1000], NOW);
    }
    assert_eq!(woken.load(Ordering::Relaxed), 0);
    hub.tell_untold();
    assert_eq!(woken.load(Ordering::Relaxed), 1);
    let lines = told(&mut exec, &mut lines);
    assert!(lines[0].starts_with("eviction key=k"), "{lines:?}");
    assert!(lines[0].ends_with(" fetch=no ttl=-1 la=0 clsid=12 size=1000"), "{lines:?}");
}

#[test]
fn there_are_twenty_places() {
    let (_, hub) = world();
    let mut all: Vec<Lines> = (0..WATCHERS_MAX).map(|_| watch(&hub, b"").0).collect();
    assert!(hub.watch(FETCHERS, Arc::new(|| ())).is_none());
    all.pop();
    assert!(hub.watch(FETCHERS, Arc::new(|| ())).is_some());
}
