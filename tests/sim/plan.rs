//! The shapes of clusters, the troubles that befall them, and how seeds are run.
//!
//! Owns who names whom by `-x`, and one random trouble. Judges nothing.

use super::rng::Rng;
use super::world::World;
use std::collections::BTreeSet;

/// Who is linked to whom: pairs, the lower number first.
pub type Edges = BTreeSet<(usize, usize)>;

/// A connected graph of `nodes`: full mesh, chain, star, ring or anything.
pub fn topology(rng: &mut Rng, nodes: usize) -> Edges {
    let mut edges = Edges::new();
    let kind = rng.below(6);
    for node in 1..nodes {
        match kind {
            0 | 1 => edges.extend((0..node).map(|other| (other, node))),
            2 => drop(edges.insert((node - 1, node))),
            3 => drop(edges.insert((0, node))),
            4 => edges.extend([(node - 1, node), (0, node)]),
            _ => drop(edges.insert((rng.below(node as u64) as usize, node))),
        }
    }
    if kind == 4 {
        // A ring: of the spokes, only the last one closes it.
        edges.retain(|&(a, b)| b == a + 1 || (a, b + 1) == (0, nodes));
    }
    if kind == 5 {
        for _ in 0..rng.below(nodes as u64) {
            let (a, b) = (rng.below(nodes as u64) as usize, rng.below(nodes as u64) as usize);
            if a != b {
                edges.insert((a.min(b), a.max(b)));
            }
        }
    }
    edges
}

/// The neighbours of a node.
pub fn neighbours(edges: &Edges, node: usize) -> Vec<usize> {
    let other = |&(a, b): &(usize, usize)| match (a == node, b == node) {
        (true, _) => Some(b),
        (_, true) => Some(a),
        _ => None,
    };
    edges.iter().filter_map(other).collect()
}

/// Whether all of `nodes` but `without` still reach each other.
pub fn is_connected(edges: &Edges, nodes: usize, without: usize) -> bool {
    let first = usize::from(without == 0);
    let (mut seen, mut next) = (BTreeSet::from([first]), vec![first]);
    while let Some(node) = next.pop() {
        for other in neighbours(edges, node) {
            if other != without && seen.insert(other) {
                next.push(other);
            }
        }
    }
    seen.len() == nodes - 1
}

/// Which troubles there are.
#[derive(Debug, Clone, Copy)]
pub struct Dangers {
    /// Processes and machines die, and with them what they held.
    pub death: bool,
    /// Clocks are off, and jump.
    pub clocks: bool,
}

/// One trouble, or the end of one.
pub fn trouble(world: &mut World, dangers: Dangers) {
    let hosts = world.machines.len() as u64;
    let machine = world.rng.below(hosts) as usize;
    let other = (machine + 1 + world.rng.below(hosts - 1) as usize) % hosts as usize;
    let (a, b) = (world.machines[machine].host, world.machines[other].host);
    let up = world.machines[machine].up.is_some();
    match world.rng.below(14) {
        0 => world.cut_both(a, b),
        1 => drop(world.cut.insert((a, b))),
        2..=4 => world.heal(),
        5 if up && dangers.death => world.kill(machine),
        6 if up && dangers.death => world.power_off(machine),
        7 if up => world.forget_connections(machine),
        8 if up => world.stop(machine),
        9 if dangers.clocks => {
            let minutes = world.rng.below(9) as i64 - 4;
            world.machines[machine].skew_us = minutes * 60_000_000;
        }
        10 if up => world.sleep(machine),
        11 => {
            // The way of each connection is another one now.
            let World { network, rng, .. } = world;
            for conn in &mut network.conns {
                conn.delay_us = 100 + rng.below(1 + rng.clone().below(400_000));
            }
        }
        _ if !up => world.start(machine),
        _ => world.go_on(machine),
    }
}

/// Runs a history for each seed: `SEED` (and `NODES`) from the environment, or `SEEDS`, or so many.
pub fn seeds(what: &str, nodes: usize, default: u64, one: impl Fn(u64) -> Result<(), String>) {
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    if number("NODES").is_some_and(|wanted| wanted != nodes as u64) {
        return;
    }
    let from = number("FROM").unwrap_or(0);
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => from..from + number("SEEDS").unwrap_or(default),
    };
    for seed in seeds {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| one(seed)));
        let failure = match result {
            Ok(Ok(())) => continue,
            Ok(Err(failure)) => failure,
            Err(_) => "panicked".to_owned(),
        };
        panic!("{what}: SEED={seed} NODES={nodes}: {failure}");
    }
}
