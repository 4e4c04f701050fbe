//! What `-o repl_ack` promises: a write that was answered STORED outlives the node that said so.

use crate::chaos;
use crate::compare::{await_equal, nothing_is_missing};
use crate::lab::{Host, Lab};
use crate::load::{trickle, Told, Writer};

const ARGS: [&str; 4] =
    ["-o", "repl_ack=1,repl_ack_timeout=300ms,repl_timeout=1500ms", "-m", "256"];
/// Keys that are promised by each node before one of them is killed.
const BEFORE: usize = 1000;
/// Packets of a hundred that are lost meanwhile: what is not waited for is late, and would be lost
/// with the node.
const LOSS: u32 = 10;

fn start(lab: &Lab, host: usize) -> Host {
    let host = lab.start(host, &ARGS);
    host.await_port();
    host
}

/// Kills each node once, at the height of the load.
fn kill_each(nodes: usize) {
    let Some(lab) = Lab::new(nodes) else { return };
    let mut hosts: Vec<Host> = (0..nodes).map(|host| start(&lab, host)).collect();
    let mut told: Vec<Told> = Vec::new();
    for victim in 0..nodes {
        for host in &hosts {
            host.await_linked(nodes - 1);
        }
        (0..nodes).for_each(|host| lab.lossy(host, LOSS));
        let writers: Vec<Writer> = hosts
            .iter()
            .map(|host| trickle(host, &format!("r{victim}w{}", host.number), 80))
            .collect();
        writers.iter().for_each(|writer| writer.await_done(BEFORE));
        hosts[victim].node.kill();
        (0..nodes).for_each(|host| lab.clear(host));
        hosts[victim] = start(&lab, victim);
        for host in &hosts {
            host.await_linked(nodes - 1);
        }
        told.extend(writers.into_iter().map(Writer::stop));
        let content = await_equal(&hosts.iter().collect::<Vec<_>>());
        nothing_is_missing(&content, &told, 80);
        let dead = &told[told.len() - nodes + victim];
        assert!(dead.broke && !dead.stored.is_empty(), "it was killed under load");
    }
    let (stored, refused): (usize, usize) =
        told.iter().fold((0, 0), |sum, t| (sum.0 + t.stored.len(), sum.1 + t.refused));
    println!("{nodes} nodes, each killed once: {stored} promised, {refused} refused, none lost");
}

#[test]
fn kill_9_of_either_node_of_a_pair_loses_no_promised_write() {
    kill_each(2);
}

#[test]
fn kill_9_of_any_of_three_nodes_loses_no_promised_write() {
    kill_each(3);
}

#[test]
fn one_node_dies_again_and_again_among_cuts_and_no_promise_is_broken() {
    chaos::run_promises(3, 12, &ARGS);
}
