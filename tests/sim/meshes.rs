//! Three nodes and more: how often a change travels, who fills whom, what a torn mesh does.

use super::scenarios::{get, set};
use super::world::World;
use twincached::replication::LinkStats;

/// Nodes on hosts 1 to `nodes`, each pointed at all others, all filled and linked.
fn mesh(world: &mut World, nodes: usize) -> Vec<usize> {
    let all: Vec<usize> = (1..=nodes).map(|host| add(world, host, nodes)).collect();
    for &machine in &all {
        world.start(machine);
        world.run_secs(0.3);
    }
    world.run_secs(3.0);
    assert_full(world, &all);
    all
}

/// A machine that is pointed at all others.
fn add(world: &mut World, host: usize, nodes: usize) -> usize {
    let peers: Vec<usize> = (1..=nodes).filter(|&peer| peer != host).collect();
    world.add(host, &peers)
}

fn links(world: &mut World, machine: usize) -> Vec<LinkStats> {
    let now = world.now(machine);
    world.up(machine).node.link_stats(now)
}

fn live(world: &mut World, machine: usize) -> usize {
    links(world, machine).iter().filter(|link| link.state == "live").count()
}

fn assert_full(world: &mut World, all: &[usize]) {
    for &machine in all {
        let links = links(world, machine);
        let live = links.iter().filter(|link| link.state == "live").count();
        assert_eq!(live, all.len() - 1, "{machine}: {links:?} {:?}", world.log(machine));
        assert!(world.serving(machine));
    }
}

/// Items and deletes sent over all live links of these.
fn sent(world: &mut World, all: &[usize]) -> u64 {
    let of = |link: &LinkStats| link.figures.items_out + link.figures.deletes_out;
    all.iter().map(|&machine| links(world, machine).iter().map(of).sum::<u64>()).sum()
}

fn sum(world: &mut World, machine: usize, figure: impl Fn(&LinkStats) -> u64) -> u64 {
    links(world, machine).iter().map(figure).sum()
}

fn holds(world: &mut World, machine: usize, prefix: &str, count: usize) -> bool {
    (0..count).all(|n| get(world, machine, &format!("{prefix}{n}")).is_some())
}

fn fill(world: &mut World, machine: usize, prefix: &str, count: usize, len: usize) {
    for n in 0..count {
        set(world, machine, &format!("{prefix}{n}"), &vec![b'x'; len]);
        if n % 16 == 15 {
            world.run_secs(0.002);
        }
    }
}

#[test]
fn each_change_travels_once_per_link() {
    for nodes in 3..=5 {
        let mut world = World::new(100 + nodes as u64);
        let all = mesh(&mut world, nodes);
        let before = sent(&mut world, &all);
        for &machine in &all {
            fill(&mut world, machine, &format!("of {machine}: "), 50, 10);
        }
        world.run_secs(1.0);
        for (&here, &there) in all.iter().flat_map(|a| all.iter().map(move |b| (a, b))) {
            assert!(
                holds(&mut world, here, &format!("of {there}: "), 50),
                "{here} lacks {there}'s"
            );
        }
        let travelled = sent(&mut world, &all) - before;
        assert_eq!(travelled, (nodes * (nodes - 1) * 50) as u64, "{nodes} nodes");
    }
}

#[test]
fn across_a_torn_edge_others_pass_on_until_it_is_mended() {
    for nodes in 3..=5 {
        let mut world = World::new(110 + nodes as u64);
        let all = mesh(&mut world, nodes);
        world.cut_both(1, 2);
        world.run_secs(9.0);
        let before = sent(&mut world, &all);
        fill(&mut world, all[0], "k", 20, 10);
        world.run_secs(1.0);
        assert!(all.iter().all(|&machine| holds(&mut world, machine, "k", 20)));
        // From the first to the others, and from each of those to the second.
        let travelled = sent(&mut world, &all) - before;
        assert_eq!(travelled, 20 * 2 * (nodes as u64 - 2), "{nodes} nodes");
        world.heal();
        world.run_secs(4.0);
        assert_full(&mut world, &all);
        for &machine in &all {
            let copies = sum(&mut world, machine, |link| link.figures.copies_out);
            assert!(copies <= nodes as u64, "resumed, not copied");
        }
        let before = sent(&mut world, &all);
        fill(&mut world, all[0], "after", 20, 10);
        world.run_secs(1.0);
        assert!(all.iter().all(|&machine| holds(&mut world, machine, "after", 20)));
        assert_eq!(sent(&mut world, &all) - before, 20 * (nodes as u64 - 1), "{nodes} nodes");
    }
}

#[test]
fn what_is_lost_in_a_cut_that_nobody_has_noticed_comes_by_others() {
    for one_way in [false, true] {
        for tenths in 0..10 {
            let mut world = World::new(120 + tenths);
            let all = mesh(&mut world, 3);
            world.run_secs(tenths as f64 / 10.0);
            match one_way {
                true => drop(world.cut.insert((1, 2))),
                false => world.cut_both(1, 2),
            }
            world.run_secs(0.2);
            set(&mut world, all[0], "in the dark", b"v");
            // Before the link is given up: who is suspect is not answered for.
            world.run_secs(if one_way { 6.0 } else { 3.0 });
            assert_eq!(get(&mut world, all[1], "in the dark").unwrap(), b"v", "{one_way} {tenths}");
        }
    }
}

#[test]
fn what_a_dying_node_told_one_peer_the_others_learn() {
    for clock in [-240, 0, 240] {
        let mut world = World::new(130);
        let all = mesh(&mut world, 4);
        world.machines[all[0]].skew_us = clock * 1_000_000;
        world.run_secs(2.0);
        world.cut_both(1, 2);
        world.cut_both(1, 3);
        world.run_secs(0.1);
        // All links are still believed in: the fourth leaves it to the first.
        set(&mut world, all[0], "last words", b"v");
        world.run_secs(0.1);
        assert!(get(&mut world, all[3], "last words").is_some());
        world.power_off(all[0]);
        world.heal();
        world.run_secs(8.0);
        for &machine in &all[1..] {
            assert_eq!(get(&mut world, machine, "last words").unwrap(), b"v", "clock {clock}");
        }
    }
}

#[test]
fn a_node_added_later_fills_itself_from_one_and_joins_the_rest() {
    for nodes in 3..=5 {
        let mut world = World::new(140 + nodes as u64);
        let mut all = mesh(&mut world, nodes);
        fill(&mut world, all[0], "k", 500, 100);
        fill(&mut world, all[1], "l", 500, 100);
        world.run_secs(2.0);
        let before = sent(&mut world, &all);
        let copies: Vec<u64> =
            all.iter().map(|&m| sum(&mut world, m, |link| link.figures.copies_in)).collect();
        let hosts: Vec<usize> = (1..=nodes).collect();
        let late = world.add(nodes + 1, &hosts);
        for &machine in &all {
            world.machines[machine].peers.push(super::world::name(nodes + 1));
        }
        world.start(late);
        world.run_secs(3.0);
        assert!(holds(&mut world, late, "k", 500) && holds(&mut world, late, "l", 500));
        let after: Vec<u64> =
            all.iter().map(|&m| sum(&mut world, m, |link| link.figures.items_out)).collect();
        let sums = (
            sum(&mut world, late, |link| link.figures.copies_in),
            sum(&mut world, late, |link| link.figures.items_out),
            sum(&mut world, late, |link| link.figures.tally.items),
        );
        assert_eq!(sums, (1, 0, 1000), "{after:?}");
        for (&machine, before) in all.iter().zip(copies) {
            let now = sum(&mut world, machine, |link| link.figures.copies_in);
            assert!(now <= before + 1, "the filler asks an empty node for what it has");
        }
        all.push(late);
        assert_full(&mut world, &all);
        assert_eq!(sent(&mut world, &all) - before, 1000);
        assert_eq!(world.log(late)[..3], ["connect (peer=h1:11111)", "marugoto copying", "start"]);
        // And now every change travels once, to and from it.
        let before = sent(&mut world, &all);
        set(&mut world, late, "mine", b"1");
        set(&mut world, all[0], "yours", b"2");
        world.run_secs(1.0);
        assert!(all.iter().all(|&m| get(&mut world, m, "mine").is_some()));
        assert!(all.iter().all(|&m| get(&mut world, m, "yours").is_some()));
        assert_eq!(sent(&mut world, &all) - before, 2 * nodes as u64);
    }
}

#[test]
fn one_of_five_is_restarted_under_load() {
    let mut world = World::new(150);
    let all = mesh(&mut world, 5);
    fill(&mut world, all[0], "k", 300, 100);
    world.run_secs(2.0);
    world.kill(all[2]);
    fill(&mut world, all[1], "meanwhile", 50, 10);
    world.run_secs(2.0);
    world.start(all[2]);
    for n in 0..200 {
        set(&mut world, all[3], &format!("load{n}"), b"v");
        world.run_secs(0.01);
    }
    world.run_secs(2.0);
    assert_full(&mut world, &all);
    for (prefix, count) in [("k", 300), ("meanwhile", 50), ("load", 200)] {
        assert!(all.iter().all(|&machine| holds(&mut world, machine, prefix, count)), "{prefix}");
    }
    let copies = sum(&mut world, all[2], |link| link.figures.copies_in);
    assert_eq!(copies, 1, "{:#?} {:?}", links(&mut world, all[2]), world.log(all[2]));
    let given = sum(&mut world, all[2], |link| link.figures.items_out);
    assert!(given < 250, "{given} items from a node that made none");
}

#[test]
fn nodes_on_one_host_are_a_star_that_survives_its_middle() {
    for seed in 0..10 {
        let mut world = World::new(160 + seed);
        let all: Vec<usize> = (0..4).map(|_| world.add(1, &[1])).collect();
        for &machine in &all {
            world.start(machine);
            if seed % 2 == 0 {
                world.run_secs(0.3);
            }
        }
        world.run_secs(3.0);
        let middle = *all.iter().max_by_key(|&&m| live(&mut world, m)).expect("four");
        assert_eq!(live(&mut world, middle), 3, "seed {seed}");
        for &machine in &all {
            fill(&mut world, machine, &format!("of {machine}: "), 10, 10);
        }
        world.run_secs(1.0);
        for (&here, &there) in all.iter().flat_map(|a| all.iter().map(move |b| (a, b))) {
            assert!(holds(&mut world, here, &format!("of {there}: "), 10), "seed {seed}");
        }
        world.kill(middle);
        world.run_secs(4.0);
        let rest: Vec<usize> = all.iter().copied().filter(|&machine| machine != middle).collect();
        set(&mut world, rest[0], "after", b"v");
        world.run_secs(1.0);
        for &machine in &rest {
            assert!(get(&mut world, machine, "after").is_some(), "seed {seed}: {machine}");
        }
        world.start(middle);
        world.run_secs(2.0);
        assert!(holds(&mut world, middle, &format!("of {middle}: "), 10));
        assert!(get(&mut world, middle, "after").is_some());
    }
}

#[test]
fn five_nodes_started_in_one_instant_serve_soon_and_link_fully() {
    for seed in 0..40 {
        let mut world = World::new(170 + seed);
        let all: Vec<usize> = (1..=5).map(|host| add(&mut world, host, 5)).collect();
        for &machine in &all {
            world.start(machine);
            if seed % 3 == 1 {
                world.run_secs(0.003);
            }
        }
        world.run_secs(1.0);
        for &machine in &all {
            let log = world.log(machine);
            assert!(world.serving(machine), "seed {seed}, {machine}: {log:?}");
        }
        world.run_secs(4.0);
        assert_full(&mut world, &all);
        let connections = world.network.connections;
        world.run_secs(30.0);
        assert_eq!(world.network.connections, connections, "seed {seed}: the links do not stay");
    }
}

#[test]
fn cold_nodes_in_a_chain_wait_for_the_filled_one_at_its_end() {
    for seed in 0..12 {
        let mut world = World::new(220 + seed);
        let warm = world.add(1, &[]);
        world.start(warm);
        world.run_secs(0.1);
        fill(&mut world, warm, "k", 600, 1000);
        // Each is pointed at the one before it.
        let chain: Vec<usize> = (2..=5).map(|host| world.add(host, &[host - 1])).collect();
        let mut order = chain.clone();
        if seed % 2 == 0 {
            order.reverse();
        }
        for &machine in &order {
            world.start(machine);
            if seed % 4 >= 2 {
                world.run_secs(0.02);
            }
        }
        let mut served = Vec::new();
        for _ in 0..8000 {
            world.run_secs(0.001);
            for &machine in &chain {
                if !served.contains(&machine) && world.serving(machine) {
                    let filled = holds(&mut world, machine, "k", 600);
                    assert!(filled || seed % 4 == 2, "seed {seed}: {machine} serves unfilled");
                    served.push(machine);
                }
            }
        }
        assert_eq!(served.len(), 4, "seed {seed}: all serve in the end");
        world.run_secs(10.0);
        for &machine in &chain {
            assert!(holds(&mut world, machine, "k", 600), "seed {seed}: {machine} is not filled");
        }
    }
}

#[test]
fn a_node_is_filled_by_the_first_that_can() {
    // The first target is dead, hangs, is cold itself, or dies in mid-copy.
    for trouble in 0..4 {
        let mut world = World::new(240 + trouble);
        let (a, b) = (world.add(1, &[2]), world.add(2, &[1]));
        world.start(a);
        world.run_secs(0.3);
        world.start(b);
        world.run_secs(1.0);
        fill(&mut world, b, "k", 500, 2000);
        world.run_secs(2.0);
        let c = world.add(3, &[1, 2]);
        match trouble {
            0 => world.kill(a),
            1 => world.stop(a),
            2 => {
                world.kill(a);
                // It tries somebody who does not answer.
                world.machines[a].peers = vec![super::world::name(9)];
                let nobody = world.add(9, &[]);
                world.start(nobody);
                world.power_off(nobody);
                world.start(a);
            }
            _ => {}
        }
        let wide = world.pipe_max;
        if trouble == 3 {
            // So narrow a network that the copy takes its time.
            world.pipe_max = 8 * 1024;
        }
        world.start(c);
        world.run_secs(0.12);
        if trouble == 3 {
            assert!(!world.serving(c), "the copy should still be under way");
            world.kill(a);
            world.pipe_max = wide;
        }
        world.run_secs(1.3);
        let log = world.log(c);
        assert!(world.serving(c), "trouble {trouble}: {log:?}");
        assert!(holds(&mut world, c, "k", 500), "trouble {trouble}: {log:?}");
    }
}

#[test]
fn several_names_of_one_node_and_its_own_settle_and_keep_calm() {
    let mut world = World::new(250);
    let (a, b) = (world.add(1, &[2, 2, 1]), world.add(2, &[1, 2, 1]));
    world.start(a);
    world.start(b);
    world.run_secs(5.0);
    for round in 0..3 {
        assert_eq!((live(&mut world, a), live(&mut world, b)), (1, 1), "round {round}");
        let connections = world.network.connections;
        world.run_secs(60.0);
        assert!(world.network.connections <= connections + 6, "round {round}: they do not settle");
        world.forget_connections(round % 2);
        world.run_secs(3.0);
    }
}
