//! Synchronous writes in simulated clusters: what a node says is acknowledged by N peers is on N
//! other nodes at that moment, through cuts, crashes, full copies and queues that run over.

use super::world::{Running, World};
use twincached::base::clock::Now;
use twincached::store::{Exptime, Handle, Mode, Version};

/// Few, so that they collide; some large, so that copies take their time.
const KEYS: u64 = 40;
/// Virtual seconds of trouble, and of the peace in which all that was promised is kept.
const TROUBLE_SECS: u64 = 20;
const PEACE_SECS: f64 = 60.0;

/// A change whose client waits.
#[derive(Debug)]
pub struct Promise {
    machine: usize,
    run: u64,
    version: Version,
    key: Vec<u8>,
}

/// Whether a process holds this version of a key, or a newer one.
fn holds(running: &mut Running, promise: &Promise, now: Now) -> bool {
    let hash = running.repl.hash(&promise.key);
    let mut newest = Version(0);
    running.repl.changes_of(hash, now, &mut |change| {
        if change.key == promise.key {
            newest = newest.max(change.version);
        }
    });
    newest >= promise.version
}

impl World {
    /// Keeps the memory of a process that died: what it had when it acknowledged counts.
    pub fn bury(&mut self, machine: usize, running: Running) {
        if self.ack > 0 {
            self.graves.push((machine, running));
        }
    }

    /// Looks at what `machine` takes for acknowledged now.
    pub fn check_acks(&mut self, machine: usize) {
        let now = self.now(machine);
        let Some(running) = self.machines[machine].up.as_ref().filter(|_| self.ack > 0) else {
            return;
        };
        let (quorum, _) = running.node.quorum(self.ack, 1_000_000, now);
        let run = running.run;
        let (kept, left): (Vec<_>, Vec<_>) = std::mem::take(&mut self.promises)
            .into_iter()
            .filter(|promise| promise.machine != machine || promise.run == run)
            .partition(|promise| promise.machine == machine && quorum.has(promise.version));
        self.promises = left;
        for promise in kept {
            let others = (0..self.machines.len()).filter(|&other| other != machine);
            let holders: usize = others.map(|other| self.having(other, &promise)).sum();
            assert!(holders >= self.ack, "{holders} have {promise:?}, {quorum:?} says otherwise");
            self.kept += 1;
        }
    }

    /// How many processes of a machine have, or had before they died, what was promised.
    /// One that was started anew is another peer than the one before, which has acknowledged what
    /// it had.
    fn having(&mut self, machine: usize, promise: &Promise) -> usize {
        let now = self.now(machine);
        let up = self.machines[machine].up.as_mut();
        let graves = self.graves.iter_mut().filter(|(of, _)| *of == machine);
        up.into_iter()
            .chain(graves.map(|(_, running)| running))
            .filter_map(|running| holds(running, promise, now).then_some(()))
            .count()
    }
}

/// Some change by a client of `machine`, who waits for peers.
fn change(world: &mut World, machine: usize) {
    let key = format!("key{}", world.rng.below(KEYS)).into_bytes();
    let (random, small) = (world.rng.next(), world.rng.chance(20));
    let len = if small { 60_000 } else { (random >> 8) as usize % 2000 };
    let run = world.up(machine).run;
    let before = world.up(machine).worker.issued();
    // Noted before anybody else can hear of it.
    let now = world.now(machine);
    let handle: &mut Handle = &mut world.up(machine).worker;
    let value = vec![b'v'; len];
    match random % 4 {
        0 => drop(handle.delete(&key, now)),
        1 => drop(handle.store(Mode::Append, &key, 0, Exptime::Never, b"more", now)),
        _ => drop(handle.store(Mode::Set, &key, 0, Exptime::Never, &value, now)),
    }
    let version = handle.issued();
    if version > before {
        world.promises.push(Promise { machine, run, version, key });
    }
    // One in three changes finds others in the feed.
    if random >> 4 & 3 > 0 {
        world.work(machine, |_, _| ());
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
        _ if !up => world.start(machine),
        _ => world.go_on(machine),
    }
}

/// One history; gives how many promises were kept.
fn history(seed: u64, nodes: usize, ack: usize) -> u64 {
    let mut world = World::new(seed);
    world.ack = ack;
    // Queues that run over, and pipes that make a copy wait.
    world.queue_max = [4, 64, 4096][world.rng.below(3) as usize];
    world.pipe_max = [8 * 1024, 64 * 1024][world.rng.below(2) as usize];
    for host in 0..nodes {
        let peers: Vec<usize> = (0..nodes).filter(|&peer| peer != host).collect();
        world.add(host, &peers);
    }
    (0..nodes).for_each(|machine| world.start(machine));
    world.run_secs(5.0);
    let end = world.now_us + TROUBLE_SECS * 1_000_000;
    while world.now_us < end {
        let step = 1 + world.rng.below(100_000);
        world.run_until(world.now_us + step);
        for _ in 0..world.rng.below(8) {
            let machine = world.rng.below(nodes as u64) as usize;
            let can = |running: &Running| running.serving;
            let able = world.machines[machine].up.as_ref().is_some_and(can);
            if able && !world.machines[machine].stopped {
                change(&mut world, machine);
            }
        }
        if world.rng.chance(12) {
            trouble(&mut world, nodes as u64);
        }
    }
    world.heal();
    for machine in 0..nodes {
        if world.machines[machine].up.is_none() {
            world.start(machine);
        }
        world.go_on(machine);
    }
    world.run_secs(PEACE_SECS);
    let left = &world.promises;
    assert!(left.is_empty(), "{} are still waited for: {:?}", left.len(), left.first());
    world.kept
}

fn histories(nodes: usize, ack: usize, default: u64) {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SEEDS").unwrap_or(default),
    };
    let mut kept = 0;
    for seed in seeds {
        match std::panic::catch_unwind(|| history(seed, nodes, ack)) {
            Ok(some) => kept += some,
            Err(_) => panic!("{nodes} nodes, {ack} acknowledge, SEED={seed}"),
        }
    }
    assert!(kept > 0, "nothing was acknowledged");
}

#[test]
fn what_one_peer_has_acknowledged_is_there() {
    histories(2, 1, 30);
}

#[test]
fn what_one_of_two_peers_has_acknowledged_is_there() {
    histories(3, 1, 10);
}

#[test]
fn what_both_peers_have_acknowledged_is_there() {
    histories(3, 2, 10);
}
