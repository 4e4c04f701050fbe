//! Deletes that are forgotten while a peer is away, and nodes too small for what their peers have.
//!
//! The rules that are checked: the nodes end equal; what nobody deleted is not lost; what all nodes
//! had and one of them deleted stays deleted, however long ago that is forgotten, while its epitaph
//! is kept. Without epitaphs it may live again, on all nodes. A node that evicts or refuses takes
//! nothing from one that has the room.

use super::plan::{neighbours, seeds, topology, trouble, Dangers, Edges};
use super::world::World;
use std::collections::BTreeSet;
use twincached::base::counters::Counter;
use twincached::store::{Config, Exptime, Mode, Stored};

fn set(world: &mut World, machine: usize, key: &str, len: usize) -> bool {
    world.work(machine, |handle, now| {
        let value = vec![b'v'; len];
        let stored = handle.store(Mode::Set, key.as_bytes(), 0, Exptime::Never, &value, now);
        matches!(stored, Stored::Stored(_))
    })
}

fn delete(world: &mut World, machine: usize, key: &str) -> bool {
    world.work(machine, |handle, now| handle.delete(key.as_bytes(), now))
}

fn has(world: &mut World, machine: usize, key: &str) -> bool {
    world.work(machine, |handle, now| handle.peek(key.as_bytes(), now, |_| ()).is_some())
}

/// Lets the world go on, with housekeeping twice a second.
fn run(world: &mut World, secs: u64) {
    for _ in 0..2 * secs {
        world.run_secs(0.5);
        (0..world.machines.len()).for_each(|machine| world.maintain(machine));
    }
}

fn tombstones(world: &mut World, machine: usize) -> u64 {
    world.up(machine).store.stats().tombstones
}

/// A linked pair whose deletes live for so long.
fn pair(seed: u64, config: Config) -> (World, usize, usize) {
    let mut world = World::new(seed);
    world.store = Config { replicated: true, feed_max: 64, ..config };
    let (a, b) = (world.add(1, &[2]), world.add(2, &[1]));
    world.start(a);
    world.run_secs(0.5);
    world.start(b);
    world.run_secs(0.5);
    assert!(world.is_linked(a) && world.is_linked(b));
    (world, a, b)
}

fn forgetful(secs: u32) -> Config {
    Config { tombstone_secs: secs, memory_limit: 2 << 20, ..Config::default() }
}

#[test]
fn a_delete_that_is_forgotten_while_the_peer_is_away_holds() {
    let (mut world, a, b) = pair(1, forgetful(2));
    for n in 0..50 {
        assert!(set(&mut world, a, &format!("old{n}"), 10));
    }
    run(&mut world, 2);
    world.cut_both(1, 2);
    run(&mut world, 8);
    for n in 0..25 {
        assert!(delete(&mut world, b, &format!("old{n}")));
    }
    for n in 0..50 {
        assert!(set(&mut world, a, &format!("new{n}"), 10));
    }
    run(&mut world, 30);
    assert_eq!(tombstones(&mut world, b), 0);
    world.heal();
    run(&mut world, 10);
    for machine in [a, b] {
        for n in 0..50 {
            assert_eq!(has(&mut world, machine, &format!("old{n}")), n >= 25, "{machine} old{n}");
            assert!(has(&mut world, machine, &format!("new{n}")));
        }
    }
}

#[test]
fn a_long_break_without_deletes_resumes() {
    let (mut world, a, b) = pair(2, forgetful(2));
    for n in 0..50 {
        assert!(set(&mut world, a, &format!("old{n}"), 10));
    }
    run(&mut world, 2);
    world.cut_both(1, 2);
    run(&mut world, 100);
    assert!(set(&mut world, a, "new", 10));
    world.log(a);
    world.heal();
    run(&mut world, 5);
    assert!(has(&mut world, b, "new"));
    assert!(world.log(a).contains(&"resumed, newer items sent: 1".to_owned()));
}

#[test]
fn deletes_that_found_no_memory_hold_as_well() {
    let config = Config { memory_limit: 1 << 20, ..Config::default() };
    let (mut world, a, b) = pair(3, config);
    for n in 0..200 {
        assert!(set(&mut world, a, &format!("old{n}"), 100));
    }
    run(&mut world, 2);
    world.cut_both(1, 2);
    run(&mut world, 8);
    for n in 0..100 {
        assert!(delete(&mut world, b, &format!("old{n}")));
    }
    for n in 0..9000 {
        set(&mut world, b, &format!("junk{n}"), 1);
        delete(&mut world, b, &format!("junk{n}"));
    }
    run(&mut world, 60);
    assert!(tombstones(&mut world, b) < 9000);
    assert_eq!(world.up(b).store.stats().sums.get(Counter::Evictions), 0);
    world.heal();
    run(&mut world, 10);
    for machine in [a, b] {
        for n in 0..200 {
            assert_eq!(has(&mut world, machine, &format!("old{n}")), n >= 100, "{machine} {n}");
        }
    }
}

/// Troubles without deaths, in which settled keys are deleted and new ones set. `exact`: deletes
/// leave epitaphs; otherwise they are forgotten whole.
fn forgetting(seed: u64, nodes: usize, exact: bool) -> Result<(), String> {
    const KEYS: u64 = 60;
    let mut world = World::new(seed);
    let edges: Edges = topology(&mut world.rng, nodes);
    world.store = Config {
        replicated: true,
        feed_max: 4 + world.rng.below(40) as usize,
        epitaphs_max: if exact { 1 << 16 } else { 0 },
        ..forgetful(1 + world.rng.below(6) as u32)
    };
    world.queue_max = 1 + world.rng.below(40) as usize;
    for host in 0..nodes {
        let machine = world.add(host, &neighbours(&edges, host));
        world.start(machine);
    }
    run(&mut world, 2);
    for n in 0..KEYS {
        let machine = world.rng.below(nodes as u64) as usize;
        set(&mut world, machine, &format!("old{n}"), 10);
    }
    run(&mut world, 5);
    let (mut deleted, mut new) = (BTreeSet::new(), 0);
    let dangers = Dangers { death: false, clocks: false };
    for _ in 0..120 {
        if world.rng.chance(3) {
            trouble(&mut world, dangers);
        }
        let machine = world.rng.below(nodes as u64) as usize;
        if world.answers(machine) {
            let key = world.rng.below(2 * KEYS);
            if key < KEYS / 2 && delete(&mut world, machine, &format!("old{key}")) {
                deleted.insert(key);
            }
            if world.rng.chance(4) && set(&mut world, machine, &format!("new{new}"), 10) {
                new += 1;
            }
        }
        run(&mut world, 1);
    }
    world.heal();
    (0..nodes).for_each(|machine| world.go_on(machine));
    run(&mut world, 150);
    let old: Vec<String> = (0..KEYS).map(|n| format!("old{n}")).collect();
    let added: Vec<String> = (0..new).map(|n| format!("new{n}")).collect();
    for key in old.iter().chain(&added) {
        let with: Vec<bool> = (0..nodes).map(|machine| has(&mut world, machine, key)).collect();
        if with.contains(&true) && with.contains(&false) {
            return Err(format!("the nodes differ: {key} {with:?}"));
        }
    }
    for (n, key) in old.iter().enumerate() {
        let deleted = deleted.contains(&(n as u64));
        let wrong = if has(&mut world, 0, key) { deleted && exact } else { !deleted };
        if wrong {
            return Err(format!("{key}, deleted: {deleted}"));
        }
    }
    match added.iter().find(|key| !has(&mut world, 0, key)) {
        Some(key) => Err(format!("{key} is lost")),
        None => Ok(()),
    }
}

#[test]
fn two_nodes_that_forget_deletes() {
    seeds("forget", 2, 40, |seed| forgetting(seed, 2, true));
}

#[test]
fn three_nodes_that_forget_deletes() {
    seeds("forget", 3, 40, |seed| forgetting(seed, 3, true));
}

#[test]
fn four_nodes_that_forget_deletes() {
    seeds("forget", 4, 20, |seed| forgetting(seed, 4, true));
}

#[test]
fn two_nodes_that_forget_deletes_whole() {
    seeds("forget whole", 2, 20, |seed| forgetting(seed, 2, false));
}

#[test]
fn three_nodes_that_forget_deletes_whole() {
    seeds("forget whole", 3, 40, |seed| forgetting(seed, 3, false));
}

/// A large node and one that can hold a part of it, through cuts.
fn small_beside_large(seed: u64) -> Result<(), String> {
    let mut world = World::new(seed);
    world.pipe_max = 4000 + world.rng.below(60_000) as usize;
    let forgetful = world.rng.chance(2);
    world.store.tombstone_secs = if forgetful { 2 } else { 3600 };
    let small = Config { memory_limit: 1 << 20, evict: world.rng.chance(2), ..world.store.clone() };
    let (a, b) = (world.add(1, &[2]), world.add(2, &[1]));
    world.machines[b].store = Some(small);
    world.start(a);
    run(&mut world, 1);
    world.start(b);
    run(&mut world, 1);
    let (mut here, mut deleted, mut next) = (BTreeSet::new(), BTreeSet::new(), 0);
    let dangers = Dangers { death: false, clocks: false };
    for _ in 0..40 {
        if world.rng.chance(4) {
            trouble(&mut world, dangers);
        }
        if world.answers(a) {
            for _ in 0..world.rng.below(100) {
                let len = 200 + world.rng.below(800) as usize;
                if set(&mut world, a, &format!("key{next}"), len) {
                    here.insert(next);
                    next += 1;
                }
            }
        }
        let at = if world.rng.chance(2) { a } else { b };
        for _ in 0..world.rng.below(10) {
            let n = world.rng.below(next.max(1));
            if world.answers(at) && delete(&mut world, at, &format!("key{n}")) {
                here.remove(&n);
                deleted.insert(n);
            }
        }
        run(&mut world, 1);
    }
    world.heal();
    world.go_on(a);
    world.go_on(b);
    run(&mut world, 100);
    if world.up(a).store.stats().sums.get(Counter::Evictions) > 0 {
        return Err("the large node is too small".to_owned());
    }
    for &n in &here {
        if !has(&mut world, a, &format!("key{n}")) {
            return Err(format!("the small node has taken key{n}"));
        }
    }
    for &n in deleted.iter().filter(|_| !forgetful) {
        if has(&mut world, a, &format!("key{n}")) || has(&mut world, b, &format!("key{n}")) {
            return Err(format!("key{n} was deleted"));
        }
    }
    Ok(())
}

#[test]
fn a_small_node_never_empties_a_large_one() {
    seeds("small", 2, 60, small_beside_large);
}
