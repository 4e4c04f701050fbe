//! Three and five nodes, each linked to each.

use crate::chaos;
use crate::compare::{await_equal, nothing_is_missing};
use crate::lab::{Host, Lab};
use crate::load::{paced, trickle};
use std::time::Duration;

const ARGS: [&str; 6] = ["-o", "repl_timeout=1500ms", "-m", "256", "-I", "2m"];

#[test]
fn three_nodes_in_random_trouble() {
    chaos::run(3, 12, &ARGS);
}

#[test]
fn five_nodes_in_random_trouble() {
    chaos::run(5, 12, &ARGS);
}

/// Starts all nodes of a laboratory, one after the other, and waits until all are linked.
fn mesh(lab: &Lab, args: &[&str]) -> Vec<Host> {
    let hosts: Vec<Host> = (0..lab.hosts)
        .map(|host| {
            let host = lab.start(host, args);
            host.await_port();
            host
        })
        .collect();
    for host in &hosts {
        host.await_linked(lab.hosts - 1);
    }
    hosts
}

#[test]
fn five_nodes_started_in_the_same_instant() {
    let Some(lab) = Lab::new(5) else { return };
    for round in 0..2 {
        let hosts: Vec<Host> = (0..5).map(|host| lab.start(host, &ARGS)).collect();
        for host in &hosts {
            host.await_port();
        }
        for host in &hosts {
            host.await_linked(4);
        }
        for from in &hosts {
            let (key, value) = (format!("k{round}-{}", from.number), round.to_string());
            assert_eq!(from.client().set(&key, &value), "STORED");
        }
        assert_eq!(await_equal(&hosts.iter().collect::<Vec<_>>()).len(), 5);
    }
}

#[test]
fn five_nodes_through_a_partition() {
    let Some(lab) = Lab::new(5) else { return };
    let hosts = mesh(&lab, &ARGS);
    let writers: Vec<_> = hosts.iter().map(|h| trickle(h, &format!("w{}", h.number), 60)).collect();
    // Two against three, for longer than silence is borne.
    for a in [0, 1] {
        for b in [2, 3, 4] {
            lab.cut(a, b);
        }
    }
    for (host, links) in hosts.iter().zip([1, 1, 2, 2, 2]) {
        host.await_linked(links);
    }
    // It moves while it heals: a ring whose links each lead one way.
    for a in [0, 1] {
        for b in [2, 3, 4] {
            lab.heal(a, b);
        }
    }
    for a in 0..5 {
        lab.cut_one_way(a, (a + 1) % 5);
    }
    std::thread::sleep(Duration::from_millis(2500));
    for a in 0..5 {
        lab.heal(a, (a + 1) % 5);
    }
    for host in &hosts {
        host.await_linked(4);
    }
    let told: Vec<_> = writers.into_iter().map(|w| w.stop()).collect();
    let content = await_equal(&hosts.iter().collect::<Vec<_>>());
    nothing_is_missing(&content, &told, 60);
    assert!(told.iter().all(|told| told.refused == 0 && !told.broke), "clients saw none of it");
    println!("{} items through a partition", content.len());
}

/// Keys of the combined run.
const MANY: usize = 200_000;

#[test]
fn three_nodes_and_everything_at_once() {
    let Some(lab) = Lab::new(3) else { return };
    let mut hosts = mesh(&lab, &ARGS);
    let share = MANY / 3 + 1;
    let writers: Vec<_> =
        hosts.iter().map(|h| paced(h, &format!("w{}", h.number), share, 100)).collect();
    lab.lossy(0, 5);
    lab.slow(1);
    writers[0].await_done(share / 8);
    hosts[1].node.signal("STOP");
    lab.cut(0, 2);
    std::thread::sleep(Duration::from_millis(2000));
    hosts[1].node.signal("CONT");
    lab.heal(0, 2);
    lab.clear(0);
    writers[2].await_done(share / 4);
    // What it was told last may be lost, not what came before.
    hosts[2].node.kill();
    hosts[2] = lab.start(2, &ARGS);
    hosts[2].await_port();
    let again = paced(&hosts[2], "again", share / 2, 100);
    lab.clear(1);
    let mut told: Vec<_> = writers.into_iter().map(|w| w.join()).collect();
    told.push(again.join());
    assert!(told[2].broke, "its node was killed");
    for host in &hosts {
        host.await_linked(2);
    }
    let content = await_equal(&hosts.iter().collect::<Vec<_>>());
    for (at, told) in told.iter_mut().enumerate() {
        println!("writer {at}: {} stored, waits {:?}", told.stored.len(), told.percentiles());
    }
    told.remove(2);
    nothing_is_missing(&content, &told, 100);
    println!("{} items through everything", content.len());
}
