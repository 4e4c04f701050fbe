//! Random histories: operations, cuts, delays, crashes, skewed clocks, then peace, then equality.
//!
//! The rule that is checked: when the network has healed, the highest version of every key that any
//! living node held holds on all of them, in bytes, flags, exptime, version, CAS unique and marks,
//! unless a flush that any of them knew has reached it. Deletes are versions too. Where no node has
//! lost its memory, it is the highest version that there ever was. Meanwhile, what a client of a
//! node reads never becomes older; afterwards, equal nodes have nothing to tell each other.

use super::ops::{operation, Dice};
use super::plan::{is_connected, neighbours, seeds, topology, trouble, Dangers, Edges};
use super::state::{dump, flushed, raise, told, visible, Dump, Held};
use super::world::{World, EPOCH_US};
use std::collections::{BTreeMap, BTreeSet};
use twincached::base::counters::Counter;
use twincached::store::Version;

/// Few keys, so that they collide.
const KEYS: u64 = 24;
/// Virtual seconds of trouble.
const TROUBLE_SECS: u64 = 30;
/// How soon all is well after it.
const PEACE_SECS: f64 = 30.0;
/// More than any skew and any short exptime: after a jump of all clocks by this, everything is
/// either expired on all of them or on none.
const JUMP_SECS: i64 = 700;

struct History {
    world: World,
    edges: Edges,
    dangers: Dangers,
    keys: Vec<Vec<u8>>,
    /// The highest version of each key that there ever was.
    best: Dump,
    /// Per process and key: what its clients have read is at least as new.
    floors: BTreeMap<(u64, Vec<u8>), Version>,
    /// What flushes were ordered for.
    ordered: BTreeSet<Version>,
    large: usize,
    /// Gone for good when peace comes.
    removed: Option<usize>,
}

impl History {
    fn new(seed: u64, nodes: usize) -> History {
        let mut world = World::new(seed);
        let edges = topology(&mut world.rng, nodes);
        world.queue_max = 1 + world.rng.below(40) as usize;
        if world.rng.chance(2) {
            // A network so narrow that queues stay full.
            world.pipe_max = 200 + world.rng.below(2000) as usize;
        }
        world.network.packets = world.rng.chance(2);
        world.store.feed_max = 4 + world.rng.below(40) as usize;
        let large = if world.rng.chance(4) { 100_000 } else { 5000 };
        world.store.memory_limit = if large > 5000 { 8 << 20 } else { 2 << 20 };
        let dangers = Dangers { death: world.rng.chance(2), clocks: !world.rng.chance(4) };
        let removed = world.rng.below(4 * nodes as u64) as usize;
        let removed = Some(removed)
            .filter(|&node| dangers.death && node < nodes && nodes > 2)
            .filter(|&node| is_connected(&edges, nodes, node));
        for host in 0..nodes {
            let machine = world.add(host, &neighbours(&edges, host));
            if dangers.clocks {
                world.machines[machine].skew_us = (world.rng.below(601) as i64 - 300) * 1_000_000;
            }
            // Some come late.
            if !world.rng.chance(5) {
                world.start(machine);
            }
            if world.rng.chance(2) {
                world.run_secs(0.3);
            }
        }
        let keys = (0..KEYS).map(|n| format!("key{n}").into_bytes()).collect();
        let (best, floors, ordered) = Default::default();
        History { world, edges, dangers, keys, best, floors, ordered, large, removed }
    }

    /// One operation of a client, with a look at the key before and after.
    fn operation(&mut self, machine: usize) -> Result<(), String> {
        let world = &mut self.world;
        let key = self.keys[world.rng.below(KEYS) as usize].clone();
        let (what, random) = (world.rng.below(100), world.rng.next());
        let true_secs = ((EPOCH_US + world.now_us) / 1_000_000) as u32;
        let dice = Dice { what, random, true_secs, large: self.large };
        let run = world.up(machine).run;
        let floor = self.floors.entry((run, key.clone())).or_default();
        let (before, after, told) = world.work(machine, |handle, now| {
            let before = handle.peek(&key, now, |item| item.version);
            operation(handle, &key, dice, now);
            (before, handle.peek(&key, now, |item| item.version), told(handle, &key, now))
        });
        for seen in [before, after].into_iter().flatten() {
            if seen < *floor {
                return Err(format!("node {machine} read {key:?} of {seen:?} after {floor:?}"));
            }
            *floor = seen;
        }
        if let (Some(gone), None) = (before, after) {
            *floor = Version(gone.0 + 1);
        }
        if let Some(state) = told {
            raise(&mut self.best, key, state);
        }
        let flush = world.up(machine).store.flush_state();
        self.ordered.extend(flush.pending.map(|pending| pending.at));
        Ok(())
    }

    fn trouble(&mut self) -> Result<(), String> {
        let nodes = self.world.machines.len() as u64;
        let end = self.world.now_us + TROUBLE_SECS * 1_000_000;
        let busy = 3000 + self.world.rng.below(100_000);
        while self.world.now_us < end {
            let machine = self.world.rng.below(nodes) as usize;
            if self.world.answers(machine) {
                for _ in 0..1 + self.world.rng.below(8) {
                    self.operation(machine)?;
                }
            }
            if self.world.rng.chance(20) {
                trouble(&mut self.world, self.dangers);
            }
            let pause = self.world.rng.below(busy * 4);
            self.world.run_until(self.world.now_us + pause);
        }
        Ok(())
    }

    fn living(&self) -> Vec<usize> {
        let nodes = 0..self.world.machines.len();
        nodes.filter(|&machine| Some(machine) != self.removed).collect()
    }

    /// All up, no cuts, one time for all. What the living know then is returned, and what of it is
    /// flushed at least.
    fn peace(&mut self) -> (Dump, Version) {
        if let Some(removed) = self.removed {
            if self.world.rng.chance(2) {
                self.world.kill(removed);
            } else {
                self.world.power_off(removed);
            }
        }
        let (mut expected, mut flushes) = (Dump::new(), Vec::new());
        let living = self.living();
        for &machine in &living {
            self.world.machines[machine].skew_us = 0;
            if self.world.machines[machine].up.is_some() {
                self.world.go_on(machine);
            }
        }
        self.world.network.lose_last_words();
        for &machine in &living {
            let now = self.world.now(machine);
            let Some(running) = &mut self.world.machines[machine].up else { continue };
            flushes.push(running.store.flush_state());
            for (key, state) in dump(&mut running.worker, now) {
                raise(&mut expected, key, state);
            }
        }
        self.world.heal();
        for &machine in &living {
            if self.world.machines[machine].up.is_none() {
                self.world.start(machine);
            }
        }
        (expected, flushed(&flushes))
    }

    /// All nodes are linked as they should be, and hold the same.
    fn check(&mut self, expected: &Dump, least: Version) -> Result<(), String> {
        let living = self.living();
        let now = self.world.now(living[0]);
        // A look at each store makes the flushes that are due come to pass.
        for &machine in &living {
            drop(visible(&mut self.world.up(machine).worker, self.keys.iter(), now));
        }
        let watermark = self.world.up(living[0]).store.flush_state().watermark;
        if watermark < least || (watermark > least && !self.ordered.contains(&watermark)) {
            return Err(format!("flushed up to {watermark:?}, at least {least:?} was ordered"));
        }
        let alive = |item: &Held| item.exptime == 0 || item.exptime > now.unix_secs();
        for &machine in &living {
            let log = self.world.log(machine);
            let running = self.world.up(machine);
            if !running.serving {
                return Err(format!("node {machine} never serves: {log:?}"));
            }
            if running.store.flush_state().watermark != watermark {
                return Err(format!("node {machine} has flushed up to something else"));
            }
            if running.store.stats().sums.get(Counter::Evictions) > 0 {
                return Err("the history is too large for its memory".to_owned());
            }
            let here = visible(&mut running.worker, self.keys.iter(), now);
            for key in &self.keys {
                let should = expected.get(key).filter(|state| {
                    state.version > watermark && state.item.as_ref().is_some_and(alive)
                });
                let is = here.get(key);
                if is != should {
                    let told = told(&mut running.worker, key, now);
                    return Err(format!(
                        "node {machine}, {}: {is:?}, should be {should:?}\nit tells: {told:?}\n\
                         flush: {:?}\nlinks: {:?}\nlog: {log:?}",
                        String::from_utf8_lossy(key),
                        running.store.flush_state(),
                        running.node.link_stats(now),
                    ));
                }
            }
            let links = running.node.link_stats(now);
            let live = links.iter().filter(|link| link.state == "live" && link.lag_us == 0).count();
            let peers = neighbours(&self.edges, machine);
            let peers = peers.iter().filter(|&&peer| Some(peer) != self.removed).count();
            if live != peers {
                return Err(format!("node {machine} has {live} links: {links:?} {log:?}"));
            }
        }
        Ok(())
    }

    /// Items and deletes that were sent so far.
    fn sent(&mut self) -> u64 {
        let mut sent = 0;
        for machine in self.living() {
            let now = self.world.now(machine);
            let links = self.world.up(machine).node.link_stats(now);
            sent += links.iter().map(|l| l.figures.items_out + l.figures.deletes_out).sum::<u64>();
        }
        sent
    }
}

fn history(seed: u64, nodes: usize) -> Result<(), String> {
    let mut history = History::new(seed, nodes);
    history.trouble()?;
    let (mut expected, least) = history.peace();
    if !history.dangers.death {
        for (key, state) in &history.best {
            raise(&mut expected, key.clone(), state.clone());
        }
    }
    history.world.run_secs(PEACE_SECS);
    for machine in &mut history.world.machines {
        machine.skew_us += JUMP_SECS * 1_000_000;
    }
    history.world.run_secs(2.0);
    let sent = history.sent();
    history.world.run_secs(4.0);
    history.check(&expected, least)?;
    if history.sent() != sent {
        return Err("equal nodes go on telling each other".to_owned());
    }
    Ok(())
}

#[test]
fn two_nodes_converge_through_anything() {
    seeds("converge", 2, 2000, |seed| history(seed, 2));
}

#[test]
fn three_nodes_converge_through_anything() {
    seeds("converge", 3, 1000, |seed| history(seed, 3));
}

#[test]
fn four_nodes_converge_through_anything() {
    seeds("converge", 4, 300, |seed| history(seed, 4));
}

#[test]
fn five_nodes_converge_through_anything() {
    seeds("converge", 5, 300, |seed| history(seed, 5));
}
