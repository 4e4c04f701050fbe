//! Nodes that start where not all is well, and peers that are known by a name.

use crate::common::Scratch;
use crate::compare::await_equal;
use crate::lab::{Host, Lab};
use crate::load::burst;
use std::net::Ipv4Addr;

const ARGS: [&str; 4] = ["-o", "repl_timeout=1500ms", "-m", "128"];

fn await_pair(a: &Host, b: &Host) {
    for host in [a, b] {
        host.await_port();
        host.await_linked(1);
    }
}

#[test]
fn an_empty_node_that_starts_behind_a_cut_takes_nothing_away() {
    let Some(lab) = Lab::new(2) else { return };
    let full = lab.start(0, &ARGS);
    full.await_port();
    burst(&full, "full", 20_000, 2, 50);
    lab.cut(0, 1);
    // Nobody answers, nobody refuses: it serves after a while, empty.
    let empty = lab.start(1, &ARGS);
    empty.await_port();
    assert_eq!(empty.client().get("full-7"), None);
    burst(&empty, "new", 1000, 1, 50);
    assert_eq!(empty.client().set("full-1", "changed"), "STORED");
    assert_eq!(empty.client().ask("delete full-2"), "NOT_FOUND");
    lab.heal(0, 1);
    await_pair(&full, &empty);
    let content = await_equal(&[&full, &empty]);
    assert_eq!(content.len(), 21_000);
    empty.client().await_value("full-1", Some("changed"));
    assert!(content.contains_key("full-2"), "what a node never had it cannot have deleted");
}

#[test]
fn a_peer_that_moves_is_found_by_its_name_again() {
    let Some(lab) = Lab::new(2) else { return };
    let folder = Scratch::new("names");
    let path = folder.path("hosts");
    // In place, as the file that the node sees is this very one.
    let names = |at: Ipv4Addr| std::fs::write(&path, format!("{at} twin.example\n"));
    names(Lab::address(1)).expect("written");
    let shell = format!("mount --bind {path} /etc/hosts && exec \"$@\"");
    // Each is to dial: the one that is known by a name, too.
    let first = lab.start_in(0, &["twin.example".to_owned()], &ARGS, &shell);
    let second = lab.start(1, &ARGS);
    await_pair(&first, &second);
    drop(second);
    first.await_fewer(1);
    let elsewhere = Ipv4Addr::new(10, 199, 0, 77);
    lab.moves(1, elsewhere);
    names(elsewhere).expect("written");
    assert_eq!(first.client().set("kept", "1"), "STORED");
    // It lets the first one in, and looks for it at a wrong port: the first one finds it.
    let wrong = format!("{}:9", Lab::address(0));
    let second = lab.start_in(1, &[wrong], &ARGS, "exec \"$@\"");
    second.await_port();
    first.await_linked(1);
    second.client().await_value("kept", Some("1"));
}

#[test]
fn peers_are_reached_by_ipv6_too() {
    let Some(lab) = Lab::new(2) else { return };
    let names = [format!("[{}]:11212", Lab::address6(1)), Lab::address6(0).to_string()];
    let start = |host: usize| {
        let host = lab.start_in(host, &names[host..=host], &ARGS, "exec \"$@\"");
        host.await_port();
        host
    };
    let (first, second) = (start(0), start(1));
    await_pair(&first, &second);
    assert_eq!(first.client().set("six", "6"), "STORED");
    second.client().await_value("six", Some("6"));
    // IPv4 is not what they speak.
    lab.cut(0, 1);
    assert_eq!(second.client().set("seven", "7"), "STORED");
    first.client().await_value("seven", Some("7"));
}
