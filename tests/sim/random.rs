//! Random histories: operations, cuts, delays, crashes, skewed clocks, then peace, then equality.
//!
//! The rule that is checked: when the network has healed, the highest version of every key that any
//! living node held holds on all of them, in bytes, flags, exptime, version, CAS unique and marks,
//! unless a flush that any of them knew has reached it. Deletes are versions too.

use super::world::{World, EPOCH_US};
use std::collections::{BTreeMap, BTreeSet};
use twincached::base::clock::Now;
use twincached::store::{
    ArithTerms, DeleteTerms, Exptime, FlushState, GetTerms, Handle, Marks, Mode, ScanCursor, Terms,
    Version, What,
};

/// Few keys, so that they collide.
const KEYS: u64 = 24;
/// Virtual seconds of trouble.
const TROUBLE_SECS: u64 = 30;
/// More than any skew and any short exptime: afterwards everything is either expired on all clocks
/// or on none.
const PEACE_SECS: f64 = 700.0;
const LONG_SECS: u32 = 1_000_000;

#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    version: Version,
    /// None: deleted.
    item: Option<Held>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Held {
    flags: u32,
    exptime: u32,
    /// The unique that clients see.
    cas: u64,
    marks: Marks,
    value: Vec<u8>,
}

type Dump = BTreeMap<Vec<u8>, State>;

/// All that a node would tell a peer who knows nothing.
fn dump(handle: &mut Handle, now: Now) -> Dump {
    let mut states = Dump::new();
    let mut cursor = ScanCursor::default();
    let mut sink = |change: &twincached::store::Change<'_>| {
        let item = match change.what {
            What::Item { flags, exptime, cas, marks, value } => Some(Held {
                flags,
                exptime: exptime.secs(),
                cas: cas.unwrap_or(change.version.0),
                marks,
                value: value.to_vec(),
            }),
            What::Deleted => None,
        };
        states.insert(change.key.to_vec(), State { version: change.version, item });
    };
    while !handle.scan(&mut cursor, Version(0), 16, now, &mut sink) {}
    states
}

/// What clients can see.
fn visible(handle: &mut Handle, now: Now) -> Dump {
    let mut states = Dump::new();
    for n in 0..KEYS {
        let key = format!("key{n}").into_bytes();
        handle.peek(&key, now, |i| {
            let (flags, exptime, value) = (i.flags, i.exptime.secs(), i.value.to_vec());
            let held = Held { flags, exptime, cas: i.cas, marks: i.marks, value };
            states.insert(key.clone(), State { version: i.version, item: Some(held) });
        });
    }
    states
}

fn operation(world: &mut World, machine: usize) {
    let key = format!("key{}", world.rng.below(KEYS)).into_bytes();
    let (what, random) = (world.rng.below(100), world.rng.next());
    let true_secs = ((EPOCH_US + world.now_us) / 1_000_000) as u32;
    world.work(machine, |handle, now| {
        let secs = now.unix_secs();
        let exptime = match random % 6 {
            0 => Exptime::At(secs + 1 + (random >> 8) as u32 % 20),
            1 => Exptime::At(true_secs + LONG_SECS + (random >> 8) as u32 % 1000),
            _ => Exptime::Never,
        };
        let flags = (random >> 20) as u32;
        let len = if random % 50 == 0 { 40_000 } else { (random >> 4) as usize % 40 };
        let value = vec![b'a' + (random % 26) as u8; len];
        let mut store = |mode| handle.store(mode, &key, flags, exptime, &value, now);
        match what {
            0..=19 => drop(store(Mode::Set)),
            20..=39 => meta(handle, &key, what, random, exptime, &value, now),
            40..=44 => drop(store(Mode::Add)),
            45..=49 => drop(store(Mode::Replace)),
            50..=54 => drop(store(Mode::Append)),
            55..=57 => drop(store(Mode::Prepend)),
            58..=62 => {
                let cas = handle.get(&key, now, |item| item.cas);
                let mode = Mode::Cas(cas.unwrap_or_default());
                handle.store(mode, &key, flags, exptime, &value, now);
            }
            63..=70 => {
                handle.store(Mode::Add, &key, 0, Exptime::Never, b"5", now);
                handle.arith(&key, random % 3 > 0, random % 100, now);
            }
            71..=78 => drop(handle.touch(&key, exptime, now)),
            79..=96 => drop(handle.delete(&key, now)),
            97 => handle.flush_all(None, now),
            98 => handle.flush_all(Some(secs + (random >> 8) as u32 % 20), now),
            _ => handle.flush_all(Some(secs.saturating_sub(1)), now),
        }
    });
}

/// What only meta commands do.
fn meta(
    handle: &mut Handle,
    key: &[u8],
    what: u64,
    random: u64,
    exptime: Exptime,
    value: &[u8],
    now: Now,
) {
    let bit = |n: u64| random >> n & 1 == 1;
    let cas = bit(30).then_some(random >> 40);
    let binary_key = bit(31);
    match what {
        20..=24 => {
            let terms = Terms { cas, binary_key, ..Terms::default() };
            handle.store_with(Mode::Set, key, 0, exptime, value, &terms, now);
        }
        25 | 26 => {
            // Often with a unique that is out of date.
            let seen = handle.peek(key, now, |item| item.cas).unwrap_or(1);
            let mode = Mode::Cas(seen.saturating_sub(random >> 60));
            let terms = Terms { stale_if_older: true, cas, ..Terms::default() };
            handle.store_with(mode, key, 1, exptime, value, &terms, now);
        }
        27..=31 => {
            let terms = GetTerms {
                touch: bit(32).then_some(exptime),
                vivify: bit(33).then_some(exptime),
                recache: bit(34).then_some(now.unix_secs() + 10),
                no_update: bit(35),
                cas,
                ..GetTerms::default()
            };
            handle.meta_get(key, &terms, now, |_, _| ());
        }
        32..=36 => {
            let remove_value = bit(32);
            let exptime = bit(33).then_some(exptime);
            let terms =
                DeleteTerms { stale: true, exptime, remove_value, cas, ..DeleteTerms::default() };
            handle.delete_with(key, &terms, now);
        }
        _ => {
            let vivify = Some((exptime, random >> 58));
            let touch = bit(32).then_some(exptime);
            let terms = ArithTerms { vivify, touch, cas, binary_key, ..ArithTerms::default() };
            handle.arith_with(key, true, 1, &terms, now);
        }
    }
}

fn trouble(world: &mut World, hosts: u64) {
    let machine = world.rng.below(hosts) as usize;
    let other = (machine + 1 + world.rng.below(hosts - 1) as usize) % hosts as usize;
    let (a, b) = (world.machines[machine].host, world.machines[other].host);
    let up = world.machines[machine].up.is_some();
    match world.rng.below(12) {
        0 => world.cut_both(a, b),
        1 => drop(world.cut.insert((a, b))),
        2..=4 => world.heal(),
        5 if up => world.kill(machine),
        6 if up => world.power_off(machine),
        7 if up => world.forget_connections(machine),
        8 if up => world.stop(machine),
        9 => {
            // Clocks of machines are off by minutes, and jump.
            let minutes = world.rng.below(9) as i64 - 4;
            world.machines[machine].skew_us = minutes * 60_000_000;
        }
        _ if !up => world.start(machine),
        _ => world.go_on(machine),
    }
}

/// What is flushed at least when all of these have told each other. More is possible: a deferred
/// flush that was called off elsewhere may come to pass before its node hears of that.
fn flushed(states: &[FlushState]) -> Version {
    let watermark = states.iter().map(|state| state.watermark).max().unwrap_or_default();
    let last = states.iter().filter_map(|s| s.pending).max_by_key(|p| (p.issued, p.at));
    watermark.max(last.map(|pending| pending.at).unwrap_or_default())
}

fn history(seed: u64, nodes: usize) -> Result<(), String> {
    let mut world = World::new(seed);
    world.queue_max = 1 + world.rng.below(40) as usize;
    if world.rng.chance(2) {
        // A network so narrow that queues stay full.
        world.pipe_max = 200 + world.rng.below(2000) as usize;
    }
    world.store.feed_max = 4 + world.rng.below(40) as usize;
    for host in 0..nodes {
        let peers: Vec<usize> = (0..nodes).filter(|&peer| peer != host).collect();
        let machine = world.add(host, &peers);
        world.machines[machine].skew_us = (world.rng.below(601) as i64 - 300) * 1_000_000;
        world.start(machine);
        if world.rng.chance(2) {
            world.run_secs(0.3);
        }
    }
    let end = world.now_us + TROUBLE_SECS * 1_000_000;
    let mut ordered = BTreeSet::new();
    let busy = 1 + world.rng.below(100_000);
    while world.now_us < end {
        let machine = world.rng.below(nodes as u64) as usize;
        let running = &world.machines[machine];
        if running.up.as_ref().is_some_and(|up| up.serving) && !running.stopped {
            for _ in 0..1 + world.rng.below(8) {
                operation(&mut world, machine);
                let flush = world.up(machine).store.flush_state();
                ordered.extend(flush.pending.map(|pending| pending.at));
            }
        }
        if world.rng.chance(20) {
            trouble(&mut world, nodes as u64);
        }
        let pause = world.rng.below(busy * 4);
        world.run_until(world.now_us + pause);
    }
    // Peace: all up, no cuts, one time for all.
    for machine in 0..nodes {
        if world.machines[machine].up.is_some() {
            world.machines[machine].skew_us = 0;
            world.go_on(machine);
        }
    }
    world.network.lose_last_words();
    let mut expected = Dump::new();
    let mut flushes = Vec::new();
    for machine in 0..nodes {
        let now = world.now(machine);
        let Some(running) = &mut world.machines[machine].up else { continue };
        flushes.push(running.store.flush_state());
        for (key, state) in dump(&mut running.worker, now) {
            let best = expected.entry(key).or_insert_with(|| state.clone());
            if best.version < state.version {
                *best = state;
            }
        }
    }
    world.heal();
    for machine in 0..nodes {
        if world.machines[machine].up.is_none() {
            world.start(machine);
        }
    }
    world.run_secs(PEACE_SECS);
    let least = flushed(&flushes);
    let now = world.now(0);
    // A look at each store makes the flushes that are due come to pass.
    (0..nodes).for_each(|machine| drop(visible(&mut world.up(machine).worker, now)));
    let watermark = world.up(0).store.flush_state().watermark;
    if watermark < least || (watermark > least && !ordered.contains(&watermark)) {
        return Err(format!("flushed up to {watermark:?}, at least {least:?} was ordered"));
    }
    expected.retain(|_, state| {
        let alive = |item: &Held| item.exptime == 0 || item.exptime > now.unix_secs();
        state.version > watermark && state.item.as_ref().is_some_and(alive)
    });
    for machine in 0..nodes {
        let log = world.log(machine);
        let running = world.up(machine);
        if !running.serving {
            return Err(format!("node {machine} never serves: {log:?}"));
        }
        if running.store.flush_state().watermark != watermark {
            return Err(format!("node {machine} has flushed up to something else"));
        }
        let here = visible(&mut running.worker, now);
        for n in 0..KEYS {
            let key = format!("key{n}").into_bytes();
            let (is, should) = (here.get(&key), expected.get(&key));
            if is != should {
                let told = dump(&mut running.worker, now).get(&key).cloned();
                return Err(format!(
                    "node {machine}, key{n}: {is:?}, should be {should:?}\nit tells: {told:?}\n\
                     flushes before: {flushes:?}\nflush now: {:?}\nlinks: {:?}\nlog: {log:?}",
                    running.store.flush_state(),
                    running.node.link_stats(now),
                ));
            }
        }
        let links = running.node.link_stats(now);
        let live = links.iter().filter(|link| link.state == "live" && link.lag_us == 0).count();
        if live + 1 != nodes {
            return Err(format!("node {machine} has {live} links: {links:?} {log:?}"));
        }
    }
    Ok(())
}

fn histories(nodes: usize, default: u64) {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(default),
    };
    for seed in seeds {
        let result = std::panic::catch_unwind(|| history(seed, nodes));
        let failure = match result {
            Ok(Ok(())) => continue,
            Ok(Err(failure)) => failure,
            Err(_) => "panicked".to_owned(),
        };
        panic!("{nodes} nodes, SEED={seed}: {failure}");
    }
}

#[test]
fn two_nodes_converge_through_anything() {
    histories(2, 200);
}

#[test]
fn three_nodes_converge_through_anything() {
    histories(3, 100);
}
