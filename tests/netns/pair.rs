//! Two nodes and all that can go wrong between them.

use crate::common::{eventually, DEADLINE};
use crate::compare::{await_equal, logs, nothing_is_missing};
use crate::lab::{Host, Lab};
use crate::load::{burst, trickle, writer};
use std::time::Duration;

/// Silence after which a peer is dropped here: short, so that tests are.
const TIMEOUT: &str = "repl_timeout=1500ms";
/// Shorter than that.
const SHORTER: Duration = Duration::from_millis(600);

/// A linked pair.
fn pair(lab: &Lab, more: &[&str]) -> (Host, Host) {
    let mut args = vec!["-o", TIMEOUT];
    args.extend_from_slice(more);
    let a = lab.start(0, &args);
    a.await_port();
    let b = lab.start(1, &args);
    b.await_port();
    b.await_linked(1);
    a.await_linked(1);
    (a, b)
}

/// How often a node has logged the loss of a link.
fn closes(host: &Host) -> usize {
    host.node.log_lines("replication: close").len()
}

/// Waits until a node has lost a link once more than `before`.
fn await_close(host: &Host, before: usize, others: &[&Host]) {
    let begin = std::time::Instant::now();
    while closes(host) <= before {
        let late = begin.elapsed() > DEADLINE;
        assert!(!late, "host {} does not notice\n{}", host.number, logs(others));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_pair_through_cuts_of_every_kind() {
    let Some(lab) = Lab::new(2) else { return };
    let (a, b) = pair(&lab, &[]);
    // Both have acknowledged something: without that a link has nothing to resume from, and under
    // load the first cut can come before it.
    for (host, peer, key) in [(&a, &b, "of-a"), (&b, &a, "of-b")] {
        assert_eq!(host.client().set(key, "1"), "STORED");
        peer.client().await_value(key, Some("1"));
        eventually("acknowledged", || {
            (host.client().stat("repl_lag_us").as_deref() == Some("0")).then_some(())
        });
    }
    let before = [&a, &b].map(closes);
    let writers = [trickle(&a, "a", 50), trickle(&b, "b", 50)];
    // Silent and short: nobody notices, TCP makes it good.
    lab.cut(0, 1);
    std::thread::sleep(SHORTER);
    lab.heal(0, 1);
    // One way, long: the deaf side drops the link, then the other one.
    lab.cut_one_way(0, 1);
    await_close(&b, before[1], &[&a, &b]);
    std::thread::sleep(SHORTER);
    lab.heal(0, 1);
    a.await_linked(1);
    b.await_linked(1);
    // Both ways, long.
    let before = [&a, &b].map(closes);
    lab.unplug(1);
    for (host, before) in [&a, &b].into_iter().zip(before) {
        await_close(host, before, &[&a, &b]);
    }
    lab.replug(1);
    b.await_linked(1);
    // An end that knows: the interface is down, connecting fails at once.
    let before = closes(&a);
    lab.interface(0, false);
    await_close(&a, before, &[&a, &b]);
    lab.interface(0, true);
    a.await_linked(1);
    let before = closes(&b);
    lab.unroute(1, 0);
    await_close(&b, before, &[&a, &b]);
    lab.reroute(1, 0);
    a.await_linked(1);
    let told = writers.map(|writer| writer.stop());
    let content = await_equal(&[&a, &b]);
    nothing_is_missing(&content, &told, 50);
    println!("{} items through five cuts", content.len());
    assert!(told.iter().all(|told| told.refused == 0 && !told.broke), "clients saw none of it");
    let full = |host: &Host| {
        let stats = host.client().stats("replication");
        let copies = stats.iter().find(|(name, _)| name.ends_with(":full_copies_in"));
        copies.expect("a figure").1.clone()
    };
    assert_eq!((full(&a), full(&b)), ("0".into(), "0".into()), "{}", logs(&[&a, &b]));
}

#[test]
fn a_pair_on_a_bad_wire() {
    let Some(lab) = Lab::new(2) else { return };
    let (a, b) = pair(&lab, &[]);
    for (round, percent) in [(0, 5), (1, 20)] {
        lab.lossy(0, percent);
        lab.lossy(1, percent);
        let names = [format!("a{round}"), format!("b{round}")];
        let writers = [writer(&a, &names[0], 3000, 100), writer(&b, &names[1], 3000, 100)];
        let mut told = writers.map(|writer| writer.join());
        let content = await_equal(&[&a, &b]);
        nothing_is_missing(&content, &told, 100);
        println!("{percent} % lost: waits {:?}", told[0].percentiles());
    }
    lab.slow(0);
    lab.slow(1);
    let writers = [writer(&a, "sa", 10_000, 100), writer(&b, "sb", 10_000, 100)];
    let mut told = writers.map(|writer| writer.join());
    let content = await_equal(&[&a, &b]);
    nothing_is_missing(&content, &told, 100);
    println!("a slow wire: waits {:?}", told[0].percentiles());
}

/// What a stopped peer may cost beside the items themselves: 256 KiB of output twice, a step of a
/// scan, the queue, and what the heap keeps of it; generous.
const STOPPED_PEER_KIB: u64 = 24 * 1024;

#[test]
fn a_stopped_peer_costs_neither_memory_nor_time() {
    let Some(lab) = Lab::new(2) else { return };
    let (a, b) = pair(&lab, &["-m", "64"]);
    // The memory for items is in use before, so that what is measured is the peer's.
    burst(&a, "warm", 500_000, 4, 60);
    let before = a.resident_kib();
    let closed = closes(&a);
    b.node.signal("STOP");
    let prober = trickle(&a, "probe", 50);
    burst(&a, "burst", 500_000, 50, 60);
    let during = a.resident_kib();
    await_close(&a, closed, &[&a, &b]);
    let mut told = prober.stop();
    b.node.signal("CONT");
    b.await_linked(1);
    assert_eq!(a.client().set("last", "1"), "STORED");
    b.client().await_value("last", Some("1"));
    let after = a.resident_kib();
    println!("RSS {before} {during} {after} KiB, waits {:?}", told.percentiles());
    assert!(during < before + STOPPED_PEER_KIB, "{during} KiB, {before} before");
    assert!(after < before + STOPPED_PEER_KIB, "{after} KiB, {before} before");
    assert_eq!((told.refused, told.broke), (0, false));
}
