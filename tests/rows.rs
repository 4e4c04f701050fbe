//! Where repcached fails, row by row: what our program does there.
//!
//! Each test is a row of the table of repcached's failures as they were observed. Real processes on
//! loopback; `netns.rs` repeats the harder ones on a network that loses packets.
//!
//! | row | test |
//! |---|---|
//! | the link breaks | [`a_broken_link_heals_and_loses_neither_sides_writes`] |
//! | burst | [`a_burst_of_fifty_connections_over_a_stopped_peer_breaks_nothing`] |
//! | the peer hangs without closing | [`a_hung_peer_is_noticed_and_keeps_nobody_from_serving`] |
//! | binary protocol | `process.rs`, `binary_writes_reach_the_other_node_both_ways` |
//! | an eviction | [`an_eviction_stays_local`] |
//! | full copy | [`a_full_copy_under_load_is_complete_before_the_port_opens`], `benches/` |
//! | flags of 2147483648 and more | [`high_flags_arrive_and_no_value_is_run_as_a_command`] |
//! | both started in the same instant | [`both_started_in_the_same_instant_link`] |
//! | concurrent writers | [`concurrent_writers_converge_and_cas_never_goes_back`] |
//! | 6000 incr split over both | [`increments_on_both_sides_converge`] |
//! | `flush_all 0` | [`flush_all_0_empties_the_peer`] |
//! | cost of a replicated set | `benches/` |
//! | anyone who connects to `-X` | [`strangers_hear_nothing_and_displace_nobody`] |
//! | a third node | [`a_third_node_joins`] |

mod common;

use common::{eventually, free_port, node_of_pair as node, pair, Client, Node, DEADLINE};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use twincached::demo::Cable;

/// What `stats` says of a node's part.
fn role(node: &Node) -> String {
    node.client().stat("replication").expect("a role")
}

/// Waits until a node has so many live links.
fn await_linked(node: &Node, links: usize) {
    let mut client = node.client();
    let wanted = links.to_string();
    eventually(&format!("{links} links of {}; log:\n{}", node.port, node.log()), || {
        (client.stat("repl_peers_linked").as_deref() == Some(&wanted)).then_some(())
    });
}

/// Waits until nothing is under way between nodes.
fn await_settled(nodes: &[&Node]) {
    for node in nodes {
        let mut client = node.client();
        eventually("all is acknowledged", || {
            (client.stat("repl_lag_us").as_deref() == Some("0")).then_some(())
        });
    }
}

/// Two nodes whose only link runs over cables.
fn cabled(more: &[&str]) -> ([Node; 2], [Cable; 2]) {
    let repl = [free_port(), free_port()];
    let cables = repl.map(|port| Cable::to(port).expect("a cable"));
    let start = |own: usize| {
        let port = free_port();
        let peer = format!("127.0.0.1:{}", cables[1 - own].port());
        let numbers = [port.to_string(), repl[own].to_string()];
        let mut args = vec!["-v", "-u", "root", "-l", "127.0.0.1", "-p", &numbers[0]];
        args.extend(["-x", &peer, "-X", &numbers[1]]);
        args.extend_from_slice(more);
        let node = Node::start(port, &args);
        node.await_port();
        node
    };
    let first = start(0);
    let nodes = [first, start(1)];
    for node in &nodes {
        await_linked(node, 1);
    }
    (nodes, cables)
}

#[test]
fn a_broken_link_heals_and_loses_neither_sides_writes() {
    let ([a, b], cables) = cabled(&[]);
    for round in 0..2 {
        cables.iter().for_each(Cable::cut);
        for node in [&a, &b] {
            await_linked(node, 0);
            assert_eq!(role(node), "MASTER", "nobody is linked");
        }
        let (mut on_a, mut on_b) = (a.client(), b.client());
        assert_eq!(on_a.set(&format!("a{round}"), "from a"), "STORED");
        assert_eq!(on_b.set(&format!("b{round}"), "from b"), "STORED");
        assert_eq!(on_a.set("both", "first"), "STORED");
        assert_eq!(on_b.set("both", &format!("last {round}")), "STORED");
        cables.iter().for_each(Cable::mend);
        on_a.await_value(&format!("b{round}"), Some("from b"));
        on_b.await_value(&format!("a{round}"), Some("from a"));
        on_a.await_value("both", Some(&format!("last {round}")));
        assert_eq!(on_a.gets("both"), on_b.gets("both"));
        let mut roles = [&a, &b].map(role);
        roles.sort();
        assert_eq!(roles, ["MASTER", "SLAVE"], "one connected, one was connected to");
        for node in [&a, &b] {
            let last = node.log_lines("replication: ").into_iter().rev().find(|line| {
                ["replication: accept", "replication: marugoto copying"].contains(&&line[..])
            });
            let expected = if role(node) == "SLAVE" { "marugoto copying" } else { "accept" };
            assert_eq!(last, Some(format!("replication: {expected}")), "the log says the same");
        }
    }
}

/// Connections of the burst, and what each of them sets.
const BURST: (usize, usize) = (50, 600);

#[test]
fn a_burst_of_fifty_connections_over_a_stopped_peer_breaks_nothing() {
    let (first, second, _) = pair(&[]);
    await_linked(&first, 1);
    second.signal("STOP");
    let mut clients: Vec<Client> = (0..BURST.0).map(|_| first.client()).collect();
    for (at, client) in clients.iter_mut().enumerate() {
        let sets = (0..BURST.1).map(|n| format!("set b{at}-{n} 0 0 5 noreply\r\n{n:05}\r\n"));
        client.send(sets.collect::<String>());
    }
    for client in &mut clients {
        assert_eq!(client.ask("mn"), "MN", "the burst is executed while the peer is stopped");
    }
    second.signal("CONT");
    await_linked(&first, 1);
    assert_eq!(clients[0].set("last", "one"), "STORED");
    let mut reader = second.client();
    reader.await_value("last", Some("one"));
    await_settled(&[&first]);
    for at in 0..BURST.0 {
        let keys: Vec<String> = (0..BURST.1).map(|n| format!("b{at}-{n}")).collect();
        assert_eq!(values(&mut reader, &keys).len(), BURST.1, "all of connection {at} is there");
    }
    assert_eq!(first.log_lines("replication: can't"), Vec::<String>::new());
}

/// The values of keys, by one command.
fn values(client: &mut Client, keys: &[String]) -> HashMap<String, Vec<u8>> {
    client.send(format!("get {}\r\n", keys.join(" ")));
    let mut found = HashMap::new();
    loop {
        let line = client.line();
        if line == "END" {
            return found;
        }
        let words: Vec<&str> = line.split(' ').collect();
        let mut value = client.bytes(words[3].parse::<usize>().expect("a length") + 2);
        value.truncate(value.len() - 2);
        found.insert(words[1].to_owned(), value);
    }
}

#[test]
fn a_hung_peer_is_noticed_and_keeps_nobody_from_serving() {
    const TIMEOUT: [&str; 2] = ["-o", "repl_timeout=1"];
    let (first, second, repl) = pair(&TIMEOUT);
    await_linked(&first, 1);
    first.signal("STOP");
    second.await_log("replication: close", 1);
    assert_eq!(second.client().set("while", "hung"), "STORED");
    // The port of the link is held by the stopped one: it connects, and nobody answers.
    let third = node(free_port(), repl, &TIMEOUT);
    third.await_port();
    assert_eq!(third.client().set("third", "serves"), "STORED");
    first.signal("CONT");
    first.client().await_value("while", Some("hung"));
}

#[test]
fn an_eviction_stays_local() {
    const ITEMS: usize = 30_000;
    let repl = free_port();
    for small_first in [true, false] {
        let sizes = if small_first { ["2", "64"] } else { ["64", "2"] };
        let [a, b] = sizes.map(|size| {
            let node = node(free_port(), repl, &["-m", size]);
            node.await_port();
            node
        });
        await_linked(&a, 1);
        let (small, large) = if small_first { (&a, &b) } else { (&b, &a) };
        for writer in [small, large] {
            let mut client = writer.client();
            // In portions that the small node holds: what it has evicted before it could tell of it
            // is on no node.
            for from in (0..ITEMS).step_by(2000) {
                let sets = (from..from + 2000)
                    .map(|n| format!("set e{n} 0 0 100 noreply\r\n{n:0100}\r\n"));
                client.send(sets.collect::<String>());
                assert_eq!(client.ask("mn"), "MN");
                await_settled(&[small, large]);
            }
            let evicted = small.client().stat("evictions").expect("a figure");
            assert_ne!(evicted, "0", "the small node is too small");
            let keys: Vec<String> = (0..ITEMS).map(|n| format!("e{n}")).collect();
            let mut reader = large.client();
            let found: usize = keys.chunks(1000).map(|some| values(&mut reader, some).len()).sum();
            assert_eq!(found, ITEMS, "the large node holds all");
        }
        assert_eq!(large.client().stat("evictions").as_deref(), Some("0"));
    }
}

#[test]
fn a_full_copy_under_load_is_complete_before_the_port_opens() {
    const ITEMS: usize = 100_000;
    let (port, repl) = (free_port(), free_port());
    let first = node(port, repl, &["-m", "128"]);
    first.await_port();
    let mut client = first.client();
    let sets = (0..ITEMS).map(|n| format!("set c{n} 0 0 100 noreply\r\n{n:0100}\r\n"));
    client.send(sets.collect::<String>());
    assert_eq!(client.ask("mn"), "MN");
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let load = std::thread::spawn(move || {
        let (mut client, mut written) = (Client::connect(port), 0);
        while !stopped.load(Ordering::Relaxed) {
            assert_eq!(client.set(&format!("l{written}"), "load"), "STORED");
            written += 1;
        }
        written
    });
    let second = node(free_port(), repl, &["-m", "128"]);
    second.await_port();
    let mut reader = second.client();
    let keys: Vec<String> = (0..ITEMS).rev().map(|n| format!("c{n}")).collect();
    for some in keys.chunks(1000) {
        assert_eq!(values(&mut reader, some).len(), some.len(), "no client sees a cold node");
    }
    stop.store(true, Ordering::Relaxed);
    let written = load.join().expect("the load");
    await_settled(&[&first]);
    let keys: Vec<String> = (0..written).map(|n| format!("l{n}")).collect();
    let found: usize = keys.chunks(1000).map(|some| values(&mut reader, some).len()).sum();
    assert_eq!(found, written, "what was written during the copy is there");
}

#[test]
fn high_flags_arrive_and_no_value_is_run_as_a_command() {
    let (first, second, _) = pair(&[]);
    for (from, to) in [(&first, &second), (&second, &first)] {
        let (mut a, mut b) = (from.client(), to.client());
        assert_eq!(a.set("victim", "alive"), "STORED");
        for flags in [0x7fff_ffff_u32, 0x8000_0000, u32::MAX] {
            let value = "x\r\ndelete victim";
            assert_eq!(a.ask(&format!("set f{flags} {flags} 0 16\r\n{value}")), "STORED");
            let key = format!("f{flags}");
            eventually("it arrives", || (a.gets(&key) == b.gets(&key)).then_some(()));
            assert_eq!(b.gets(&key).expect("there").0, flags);
        }
        b.await_value("victim", Some("alive"));
    }
}

#[test]
fn both_started_in_the_same_instant_link() {
    for round in 0..15 {
        let repl = free_port();
        let nodes = [node(free_port(), repl, &[]), node(free_port(), repl, &[])];
        for node in &nodes {
            node.await_port();
            await_linked(node, 1);
        }
        let [a, b] = &nodes;
        assert_eq!(a.client().set("round", &round.to_string()), "STORED");
        b.client().await_value("round", Some(&round.to_string()));
        let mut roles = [a, b].map(role);
        roles.sort();
        assert_eq!(roles, ["MASTER", "SLAVE"], "round {round}");
    }
}

/// Reads keys over and over until told to stop: no unique may ever be lower than one seen before.
fn watch(port: u16, keys: usize, stop: &AtomicBool) -> usize {
    let mut client = Client::connect(port);
    let mut seen: HashMap<String, u64> = HashMap::new();
    let mut looks = 0;
    let names: Vec<String> = (0..keys).map(|n| format!("w{n}")).collect();
    while !stop.load(Ordering::Relaxed) {
        client.send(format!("gets {}\r\n", names.join(" ")));
        loop {
            let line = client.line();
            if line == "END" {
                break;
            }
            let words: Vec<&str> = line.split(' ').collect();
            client.bytes(words[3].parse::<usize>().expect("a length") + 2);
            let unique = words[4].parse().expect("a unique");
            let before = seen.insert(words[1].to_owned(), unique).unwrap_or(0);
            assert!(unique >= before, "{} went from {before} to {unique}", words[1]);
        }
        looks += 1;
    }
    looks
}

#[test]
fn concurrent_writers_converge_and_cas_never_goes_back() {
    const KEYS: usize = 1000;
    const WRITES: usize = 20_000;
    let (first, second, _) = pair(&[]);
    let stop = Arc::new(AtomicBool::new(false));
    let ports = [first.port, second.port];
    let watchers = ports.map(|port| {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || watch(port, KEYS, &stop))
    });
    let writers = ports.map(|port| {
        std::thread::spawn(move || {
            let mut client = Client::connect(port);
            for batch in 0..WRITES / 50 {
                let sets = (0..50).map(|n| {
                    let (key, value) = ((batch * 50 + n) * 7 % KEYS, format!("{port} {batch}"));
                    format!("set w{key} 0 0 {} noreply\r\n{value}\r\n", value.len())
                });
                client.send(sets.collect::<String>() + "mn\r\n");
                assert_eq!(client.line(), "MN");
            }
        })
    });
    writers.into_iter().for_each(|writer| writer.join().expect("a writer"));
    await_settled(&[&first, &second]);
    stop.store(true, Ordering::Relaxed);
    for watcher in watchers {
        assert!(watcher.join().expect("a watcher that saw no unique go back") > 0);
    }
    let (mut a, mut b) = (first.client(), second.client());
    for n in 0..KEYS {
        let key = format!("w{n}");
        assert!(a.gets(&key).is_some() && a.gets(&key) == b.gets(&key), "{key} differs");
    }
}

/// An increment is a read and a write on the node that is asked. Of two that two nodes do before
/// they have heard of each other the later one stays, and the other one is lost; no node ever
/// disagrees in the end. Who counts sends a counter's increments to one node.
#[test]
fn increments_on_both_sides_converge() {
    const EACH: usize = 3000;
    let (first, second, _) = pair(&[]);
    assert_eq!(first.client().set("split", "0"), "STORED");
    assert_eq!(first.client().set("whole", "0"), "STORED");
    second.client().await_value("whole", Some("0"));
    let [a, b] = [first.port, second.port].map(|port| {
        std::thread::spawn(move || {
            let mut client = Client::connect(port);
            for _ in 0..EACH {
                assert!(client.ask("incr split 1").parse::<usize>().expect("a number") > 0);
            }
        })
    });
    let mut one = Client::connect(first.port);
    for at in 1..=EACH {
        assert_eq!(one.ask("incr whole 1"), at.to_string(), "one node loses nothing");
    }
    a.join().expect("incremented");
    b.join().expect("incremented");
    await_settled(&[&first, &second]);
    let (mut a, mut b) = (first.client(), second.client());
    assert_eq!(a.gets("split"), b.gets("split"), "every node says the same");
    assert_eq!(a.gets("whole"), b.gets("whole"));
    b.await_value("whole", Some(&EACH.to_string()));
    let split: usize = a.get("split").and_then(|text| text.parse().ok()).expect("a number");
    println!("{} increments split over both nodes gave {split}", 2 * EACH);
    assert!((1..=2 * EACH).contains(&split), "{split}");
    assert_eq!(a.ask("incr split 5"), (split + 5).to_string());
    b.await_value("split", Some(&(split + 5).to_string()));
}

#[test]
fn flush_all_0_empties_the_peer() {
    let (first, second, _) = pair(&[]);
    for (from, to) in [(&first, &second), (&second, &first)] {
        let (mut a, mut b) = (from.client(), to.client());
        for flush in ["flush_all 0", "flush_all", "flush_all -1"] {
            for n in 0..50 {
                assert_eq!(a.set(&format!("f{n}"), "v"), "STORED");
            }
            b.await_value("f49", Some("v"));
            assert_eq!(a.ask(flush), "OK", "{flush}");
            for n in 0..50 {
                b.await_value(&format!("f{n}"), None);
                assert_eq!(a.get(&format!("f{n}")), None, "{flush}");
            }
        }
    }
}

/// Strangers at the port of the link: silent ones, a client, a guess at the old wire.
const STRANGERS: [&[u8]; 4] = [b"", b"get secret\r\n", b"rep k 0 0 1 1\r\nx\r\n", b"\x16\x03\x01"];

#[test]
fn strangers_hear_nothing_and_displace_nobody() {
    // Who says nothing is closed after this.
    const TIMEOUT: [&str; 2] = ["-o", "repl_timeout=1"];
    let (first, mut second, repl) = pair(&TIMEOUT);
    assert_eq!(first.client().set("secret", "treasure"), "STORED");
    let mut strangers: Vec<TcpStream> = (0..40)
        .map(|at| {
            let mut stranger = TcpStream::connect(("127.0.0.1", repl)).expect("connects");
            let _ = stranger.write_all(STRANGERS[at % STRANGERS.len()]);
            stranger
        })
        .collect();
    assert_eq!(first.client().set("still", "linked"), "STORED");
    second.client().await_value("still", Some("linked"));
    assert_eq!(first.log_lines("replication: close").len(), 1, "the first try's only");
    // The peer ends and comes back, while strangers hold on.
    second.kill();
    second = node(second.port, repl, &TIMEOUT);
    second.await_log("replication: start", 1);
    second.await_port();
    second.client().await_value("secret", Some("treasure"));
    assert_eq!(first.log_lines("replication: already"), Vec::<String>::new());
    assert_eq!(first.client().get("k"), None, "nobody stores through that door");
    for stranger in &mut strangers {
        stranger.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        let mut heard = Vec::new();
        let _ = stranger.read_to_end(&mut heard);
        let text = String::from_utf8_lossy(&heard).into_owned();
        assert!(!text.contains("treasure") && !text.contains("linked"), "heard {text:?}");
    }
}

#[test]
fn a_third_node_joins() {
    let (first, second, repl) = pair(&[]);
    assert_eq!(first.client().set("before", "1"), "STORED");
    let third = node(free_port(), repl, &[]);
    third.await_port();
    assert_eq!(third.client().get("before").as_deref(), Some("1"), "it is filled first");
    let nodes = [&first, &second, &third];
    for (at, from) in nodes.into_iter().enumerate() {
        assert_eq!(from.client().set(&format!("from{at}"), "here"), "STORED");
        for to in nodes {
            to.client().await_value(&format!("from{at}"), Some("here"));
        }
    }
    assert_eq!(first.log_lines("replication: already"), Vec::<String>::new());
    // The one that holds the port dies; the other two find each other.
    drop(first);
    assert_eq!(second.client().set("after", "1"), "STORED");
    third.client().await_value("after", Some("1"));
}
