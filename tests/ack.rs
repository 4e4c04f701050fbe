//! Synchronous writes (`-o repl_ack`) with real processes: what a client was told is on the peers,
//! whoever dies; and what it is told when too few peers are there.

mod common;

use common::{eventually, free_port, node_of_pair, pair, Client, Node};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const NOT_ACKNOWLEDGED: &str = "SERVER_ERROR not acknowledged by enough peers";
/// So long that no test sees its end.
const PATIENT: &[&str] = &["-o", "repl_ack=1,repl_ack_timeout=60,repl_timeout=60"];
/// Short enough to be waited for.
const HASTY: &[&str] = &["-o", "repl_ack=1,repl_ack_timeout=200ms,repl_timeout=60"];
const HASTY_MS: u64 = 200;

fn figure(client: &mut Client, name: &str) -> u64 {
    client.stat(name).and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name}"))
}

/// Waits until so many replies wait for peers.
fn await_waiting(client: &mut Client, count: u64) {
    eventually(&format!("{count} replies wait"), || {
        (figure(client, "repl_ack_waiting") == count).then_some(())
    });
}

/// A set of `key` with its own name for a value.
fn set_of(key: &str) -> String {
    format!("set {key} 0 0 {}\r\n{key}\r\n", key.len())
}

/// Writers that go on until they are stopped or their server is gone.
struct Load {
    stop: AtomicBool,
    count: AtomicUsize,
    /// Keys of which a client was told that they are stored.
    stored: Mutex<BTreeSet<String>>,
}

/// Writes batches of `batch` keys of its own.
fn write(load: &Load, port: u16, name: &str, batch: usize) {
    let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) else { return };
    let mut stream = BufReader::new(stream);
    for round in 0.. {
        if load.stop.load(Ordering::Relaxed) {
            return;
        }
        let keys: Vec<String> = (0..batch).map(|n| format!("{name}-{round}-{n}")).collect();
        let sets: String = keys.iter().map(|key| set_of(key)).collect();
        if stream.get_mut().write_all(sets.as_bytes()).is_err() {
            return;
        }
        for key in keys {
            let mut line = String::new();
            match stream.read_line(&mut line) {
                Ok(_) if line == "STORED\r\n" => {
                    load.stored.lock().expect("keys").insert(key);
                    load.count.fetch_add(1, Ordering::Relaxed);
                }
                // It may be there or not: nothing was promised.
                Ok(_) if line.trim_end() == NOT_ACKNOWLEDGED => {}
                Ok(_) if line.is_empty() => return,
                Ok(_) => panic!("answered {line:?}"),
                Err(_) => return,
            }
        }
    }
}

/// Connections of a load.
const CONNECTIONS: usize = 50;

/// Writes to nodes until `end` says that it is enough; gives the keys of which clients were told
/// that they are stored.
fn under_load(round: usize, ports: &[u16], end: impl FnOnce()) -> BTreeSet<String> {
    let load = Arc::new(Load {
        stop: AtomicBool::new(false),
        count: AtomicUsize::new(0),
        stored: Mutex::default(),
    });
    let writers: Vec<_> = (0..CONNECTIONS)
        .map(|n| {
            let (load, port) = (Arc::clone(&load), ports[n % ports.len()]);
            let batch = if n % 4 < 2 { 1 } else { 20 };
            std::thread::spawn(move || write(&load, port, &format!("r{round}w{n}"), batch))
        })
        .collect();
    eventually("the load is on", || (load.count.load(Ordering::Relaxed) >= 2000).then_some(()));
    end();
    load.stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.join().expect("a writer");
    }
    let stored = std::mem::take(&mut *load.stored.lock().expect("keys"));
    stored
}

/// Every one of `keys` that a node has not.
fn missing<'a>(node: &Node, keys: &'a BTreeSet<String>) -> Vec<&'a String> {
    let mut client = node.client();
    let keys: Vec<&String> = keys.iter().collect();
    let mut missing = Vec::new();
    for some in keys.chunks(200) {
        let gets: String = some.iter().map(|key| format!("mg {key} v\r\n")).collect();
        client.send(gets);
        for key in some {
            match client.line().as_str() {
                "EN" => missing.push(*key),
                head if head.starts_with("VA ") => assert_eq!(client.line(), **key),
                other => panic!("answered {other:?}"),
            }
        }
    }
    missing
}

/// The claim: whoever is killed under load, the other one has all that clients were told is stored,
/// and so has the killed one when it has come back.
#[test]
fn no_write_that_was_acknowledged_is_lost() {
    let (first, second, repl) = pair(HASTY);
    let mut nodes = [first, second];
    let mut stored = BTreeSet::new();
    // Whom the clients write to, and who is killed: both roles, both sides.
    let rounds = [([0, 0], 0), ([0, 0], 1), ([1, 1], 1), ([0, 1], 0), ([0, 1], 1)];
    for (round, (targets, victim)) in rounds.into_iter().enumerate() {
        let ports = targets.map(|target| nodes[target].port);
        stored.append(&mut under_load(round, &ports, || nodes[victim].kill()));
        let survivor = &nodes[1 - victim];
        let lost = missing(survivor, &stored);
        assert!(lost.is_empty(), "round {round}: {} lost: {:?}", lost.len(), lost.first());
        let port = nodes[victim].port;
        nodes[victim] = node_of_pair(port, repl, HASTY);
        nodes[victim].await_log("replication: start", 1);
        nodes[victim].await_port();
        let lost = missing(&nodes[victim], &stored);
        assert!(lost.is_empty(), "round {round}: {} not filled in", lost.len());
        // The next round may count on its peer.
        in_step(&nodes);
    }
}

/// Three nodes, each of which knows the other two by ports of their own.
fn three(more: &[&str]) -> ([Node; 3], impl Fn(usize) -> Node) {
    let ports = [free_port(), free_port(), free_port()];
    let peers = [free_port(), free_port(), free_port()];
    let more: Vec<String> = more.iter().map(|&word| word.to_owned()).collect();
    let start = move |own: usize| {
        let numbers = [ports[own].to_string(), peers[own].to_string()];
        let others: Vec<String> =
            (0..3).filter(|&n| n != own).map(|n| format!("127.0.0.1:{}", peers[n])).collect();
        let mut args = vec!["-v", "-u", "root", "-l", "127.0.0.1", "-p", &numbers[0]];
        args.extend(["-X", &numbers[1], "-x", &others[0], "-x", &others[1]]);
        args.extend(more.iter().map(String::as_str));
        Node::start(ports[own], &args)
    };
    let nodes = [start(0), start(1), start(2)];
    in_step(&nodes);
    (nodes, start)
}

/// Waits until writes on every one of these nodes are acknowledged by as many as they ask for.
fn in_step(nodes: &[Node]) {
    for node in nodes {
        node.await_port();
        let mut client = node.client();
        eventually("in step", || (client.set("probe", "1") == "STORED").then_some(()));
    }
}

/// Where two peers are asked for, two nodes may die at once: the third one has everything.
#[test]
fn no_write_that_two_acknowledged_is_lost_with_two_nodes() {
    let (mut nodes, start) = three(&["-o", "repl_ack=2,repl_ack_timeout=200ms,repl_timeout=60"]);
    let mut stored = BTreeSet::new();
    for survivor in 0..3 {
        let ports = [nodes[0].port, nodes[1].port, nodes[2].port];
        let victims = [(survivor + 1) % 3, (survivor + 2) % 3];
        let kill = || victims.into_iter().for_each(|victim| nodes[victim].kill());
        stored.append(&mut under_load(survivor, &ports, kill));
        let lost = missing(&nodes[survivor], &stored);
        assert!(lost.is_empty(), "{survivor}: {} lost: {:?}", lost.len(), lost.first());
        nodes[victims[0]] = start(victims[0]);
        nodes[victims[0]].await_port();
        // One peer is not two.
        let mut client = nodes[survivor].client();
        assert_eq!(client.set("one", "1"), NOT_ACKNOWLEDGED);
        nodes[victims[1]] = start(victims[1]);
        in_step(&nodes);
        for node in &nodes {
            let lost = missing(node, &stored);
            assert!(lost.is_empty(), "{survivor}: {} not filled in", lost.len());
            assert_eq!(node.client().get("one").as_deref(), Some("1"), "it travels later");
        }
    }
}

/// When the answer to a change is there, the peer has it: whatever the command.
#[test]
fn every_kind_of_change_waits_for_the_peer() {
    let (first, second, _) = pair(PATIENT);
    let (mut here, mut there) = (first.client(), second.client());
    let mut check = |ask: &str, answer: &str, key: &str, value: Option<&str>| {
        assert_eq!(here.ask(ask), answer, "{ask:?}");
        assert_eq!(there.get(key).as_deref(), value, "after {ask:?}");
    };
    check("set k 0 0 1\r\n5", "STORED", "k", Some("5"));
    check("add new 0 0 1\r\na", "STORED", "new", Some("a"));
    check("replace new 0 0 1\r\nb", "STORED", "new", Some("b"));
    check("append new 0 0 1\r\nc", "STORED", "new", Some("bc"));
    check("prepend new 0 0 1\r\na", "STORED", "new", Some("abc"));
    check("incr k 3", "8", "k", Some("8"));
    check("decr k 1", "7", "k", Some("7"));
    check("delete new", "DELETED", "new", None);
    check("ms m 2 T0\r\nhi", "HD", "m", Some("hi"));
    check("ms m 1 MA\r\n!", "HD", "m", Some("hi!"));
    check("ma k D10", "HD", "k", Some("17"));
    check("mg made N60 t", "HD t60 W", "made", Some(""));
    check("md m", "HD", "m", None);
    check("flush_all", "OK", "k", None);
    // What peers show only as an expiry time, a win or a mark.
    let ttl = |client: &mut Client| client.ask("mg k t s v");
    assert_eq!(here.set("k", "v"), "STORED");
    for (ask, answer) in [
        ("touch k 1000", "TOUCHED"),
        ("gat 2000 k", "VALUE k 0 1"),
        ("mg k T3000", "HD"),
        ("mg k N60 T4000", "HD"),
    ] {
        assert_eq!(here.ask(ask), answer, "{ask:?}");
        if answer.starts_with("VALUE") {
            assert_eq!((here.line(), here.line()), ("v".to_owned(), "END".to_owned()));
        }
        let (ours, theirs) = (ttl(&mut here), ttl(&mut there));
        assert_eq!((here.line(), there.line()), ("v".to_owned(), "v".to_owned()));
        let secs = |line: &str| {
            let t = line.split(' ').find_map(|word| word.strip_prefix('t'));
            t.and_then(|t| t.parse::<i64>().ok()).expect("a time to live")
        };
        assert!((secs(&ours) - secs(&theirs)).abs() <= 1, "{ask:?}: {ours} and {theirs}");
    }
    assert_eq!(here.ask("md k I T30"), "HD");
    assert!(there.ask("mg k v").contains(" W"), "the mark of staleness is there");
}

#[test]
fn later_commands_go_on_and_their_replies_keep_their_order() {
    let (first, second, _) = pair(PATIENT);
    let (mut held, mut other) = (first.client(), first.client());
    assert_eq!(held.set("old", "o"), "STORED");
    second.signal("STOP");
    held.send("get old\r\nset new 0 0 1\r\nn\r\nget new\r\nset quiet 0 0 1 noreply\r\nq\r\nmn\r\n");
    assert_eq!(held.line(), "VALUE old 0 1");
    assert_eq!((held.line(), held.line()), ("o".to_owned(), "END".to_owned()));
    await_waiting(&mut other, 1);
    // The worker goes on; so does the connection, but what it answers has to wait its turn.
    assert_eq!(other.get("new").as_deref(), Some("n"));
    other.await_value("quiet", Some("q"));
    assert_eq!(other.ask("set quiet 0 0 1 noreply\r\nr\r\nmn"), "MN");
    // Nothing that was not changed waits.
    assert_eq!(other.ask("add old 0 0 1\r\nx"), "NOT_STORED");
    assert_eq!(other.ask("delete nothing"), "NOT_FOUND");
    assert_eq!(other.ask("touch nothing 10"), "NOT_FOUND");
    // A get that touches shows what it found, and keeps its end.
    other.send("gat 100 nothing old\r\nversion\r\n");
    assert_eq!((other.line(), other.line()), ("VALUE old 0 1".to_owned(), "o".to_owned()));
    let mut third = first.client();
    await_waiting(&mut third, 2);
    second.signal("CONT");
    let lines: Vec<String> = (0..5).map(|_| held.line()).collect();
    assert_eq!(lines, ["STORED", "VALUE new 0 1", "n", "END", "MN"]);
    assert_eq!(other.line(), "END");
    assert!(other.line().starts_with("VERSION "));
    assert_eq!(figure(&mut third, "repl_ack_timeouts"), 0);
}

/// Goodbyes: each gets what it was promised, and nobody gets what another one waited for.
#[test]
fn clients_that_leave_and_places_that_are_used_again() {
    let (first, second, _) = pair(PATIENT);
    let mut watch = first.client();
    second.signal("STOP");
    let (mut quits, mut half) = (first.client(), first.client());
    quits.send(set_of("quits") + "quit\r\n");
    half.send(set_of("half"));
    half.hang_up();
    await_waiting(&mut watch, 2);
    for n in 0..100 {
        let mut gone = TcpStream::connect(("127.0.0.1", first.port)).expect("connected");
        gone.write_all(set_of(&format!("gone{n}")).as_bytes()).expect("sent");
        // It is executed before its client goes.
        watch.await_value(&format!("gone{n}"), Some(&format!("gone{n}")));
        // A mere end might be that of a client who still reads.
        socket2::SockRef::from(&gone).set_linger(Some(Duration::ZERO)).expect("linger");
    }
    eventually("they are gone", || (figure(&mut watch, "curr_connections") <= 3).then_some(()));
    let mut next: Vec<Client> = (0..20).map(|_| first.client()).collect();
    for client in &mut next {
        assert_eq!(client.ask("mn"), "MN");
    }
    // More than a connection may hold back: it is read no further, and then it is.
    let many: String = (0..5000).map(|n| set_of(&format!("many{n}"))).collect();
    next[0].send(many);
    eventually("the line is full", || {
        (figure(&mut watch, "repl_ack_waiting") >= 1500).then_some(())
    });
    assert_eq!(watch.get("many4999"), None);
    second.signal("CONT");
    assert_eq!(quits.rest(), b"STORED\r\n");
    assert_eq!(half.rest(), b"STORED\r\n");
    for _ in 0..5000 {
        assert_eq!(next[0].line(), "STORED");
    }
    for client in &mut next {
        assert_eq!(client.ask("mn"), "MN");
    }
    await_waiting(&mut watch, 0);
    assert_eq!(second.client().get("many4999").as_deref(), Some("many4999"));
}

/// A binary request without extras but those given.
fn packet(opcode: u8, opaque: u8, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    let body = (extras.len() + key.len() + value.len()) as u32;
    let mut out = vec![0x80, opcode, 0, key.len() as u8, extras.len() as u8, 0, 0, 0];
    out.extend_from_slice(&body.to_be_bytes());
    out.extend_from_slice(&[0, 0, 0, opaque, 0, 0, 0, 0, 0, 0, 0, 0]);
    [&out[..], extras, key, value].concat()
}

/// Opcode, status and opaque of the next response.
fn response(client: &mut Client) -> (u8, u16, u8) {
    let head = client.bytes(24);
    let body = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
    client.bytes(body as usize);
    (head[1], u16::from_be_bytes([head[6], head[7]]), head[15])
}

#[test]
fn too_few_peers_are_told_in_every_protocol_and_the_change_travels_later() {
    const TEMPORARY: u16 = 0x86;
    let (first, second, _) = pair(HASTY);
    let (mut text, mut binary) = (first.client(), first.client());
    assert_eq!(text.set("t", "0"), "STORED");
    second.signal("STOP");
    assert_eq!(text.set("t", "1"), NOT_ACKNOWLEDGED);
    assert_eq!(text.ask("ms meta 1 q\r\n1\r\nmn"), NOT_ACKNOWLEDGED);
    assert_eq!(text.line(), "MN");
    assert_eq!(text.ask("set silent 0 0 1 noreply\r\n1\r\nmn"), "MN");
    text.send("gat 100 t\r\n");
    let lines: Vec<String> = (0..3).map(|_| text.line()).collect();
    assert_eq!(lines, ["VALUE t 0 1", "1", NOT_ACKNOWLEDGED]);
    let (set, setq, noop) = (0x01, 0x11, 0x0a);
    binary.send(packet(set, 7, &[0; 8], b"b", b"1"));
    assert_eq!(response(&mut binary), (set, TEMPORARY, 7));
    binary.send([packet(setq, 8, &[0; 8], b"bq", b"1"), packet(noop, 9, &[], b"", b"")].concat());
    assert_eq!(response(&mut binary), (setq, TEMPORARY, 8));
    assert_eq!(response(&mut binary), (noop, 0, 9));
    assert_eq!(figure(&mut text, "repl_ack_timeouts"), 5);
    // It is made here, and travels as soon as it can.
    assert_eq!(text.get("t").as_deref(), Some("1"));
    second.signal("CONT");
    let mut there = second.client();
    for key in ["t", "meta", "silent", "b", "bq"] {
        there.await_value(key, Some("1"));
    }
    eventually("in step again", || (text.set("t", "2") == "STORED").then_some(()));
    assert_eq!(there.get("t").as_deref(), Some("2"));
    binary.send([packet(setq, 1, &[0; 8], b"bq", b"2"), packet(noop, 2, &[], b"", b"")].concat());
    assert_eq!(response(&mut binary), (noop, 0, 2));
    assert_eq!(there.get("bq").as_deref(), Some("2"));
}

#[test]
fn degraded_writes_are_answered_and_counted() {
    let more = ["-o", "repl_ack=1,repl_ack_timeout=200ms,repl_ack_degrade,repl_timeout=60"];
    let (first, mut second, repl) = pair(&more);
    let mut client = first.client();
    assert_eq!(client.set("k", "1"), "STORED");
    assert_eq!(figure(&mut client, "repl_ack_degraded"), 0);
    second.signal("STOP");
    // The first one finds out; the others do not wait anew.
    let start = Instant::now();
    for n in 0..50 {
        assert_eq!(client.set("k", &n.to_string()), "STORED");
    }
    assert!(start.elapsed() < Duration::from_millis(50 * HASTY_MS), "each one has waited");
    assert_eq!(figure(&mut client, "repl_ack_degraded"), 50);
    second.signal("CONT");
    eventually("in step again", || {
        let before = figure(&mut client, "repl_ack_degraded");
        assert_eq!(client.set("k", "back"), "STORED");
        (figure(&mut client, "repl_ack_degraded") == before).then_some(())
    });
    assert_eq!(second.client().get("k").as_deref(), Some("back"));
    // Nobody there at all: at once.
    second.kill();
    eventually("the link is gone", || {
        (figure(&mut client, "repl_peers_linked") == 0).then_some(())
    });
    let before = figure(&mut client, "repl_ack_degraded");
    assert_eq!(client.set("k", "alone"), "STORED");
    assert_eq!(figure(&mut client, "repl_ack_degraded"), before + 1);
    assert_eq!(figure(&mut client, "repl_ack_timeouts"), 0);
    second = node_of_pair(second.port, repl, &more);
    second.await_log("replication: start", 1);
    second.client().await_value("k", Some("alone"));
}

/// A peer that dies while replies wait: who may degrade is answered at once.
#[test]
fn a_peer_that_dies_ends_degraded_waits() {
    let more = ["-o", "repl_ack=1,repl_ack_timeout=60,repl_ack_degrade,repl_timeout=60"];
    let (first, mut second, _) = pair(&more);
    let (mut client, mut other) = (first.client(), first.client());
    second.signal("STOP");
    client.send(set_of("k"));
    await_waiting(&mut other, 1);
    second.kill();
    assert_eq!(client.line(), "STORED");
    assert_eq!(figure(&mut other, "repl_ack_degraded"), 1);
}

#[test]
fn settings_say_what_was_asked_for() {
    let more = ["-o", "repl_ack=2,repl_ack_timeout=1500ms,repl_allow=10.0.0.0/8"];
    let node = node_of_pair(free_port(), free_port(), &more);
    node.await_port();
    let settings = node.client().stats("settings");
    for (name, value) in [
        ("repl_ack", "2"),
        ("repl_ack_timeout", "1.5"),
        ("repl_ack_degrade", "no"),
        ("repl_timeout", "5"),
        ("repl_allow", "10.0.0.0/8"),
        ("repl_secret_file", "no"),
        ("repl_tombstone", "3600"),
    ] {
        let have = settings.iter().find(|(have, _)| have == name);
        assert_eq!(have.map(|(_, value)| value.as_str()), Some(value), "{name}");
    }
    assert_eq!(figure(&mut node.client(), "repl_ack"), 2);
}

/// The ends of a process: a graceful one waits for the peer as its clients do, the other promises
/// nothing more.
#[test]
fn a_node_that_stops_keeps_its_promises() {
    let (mut first, second, _) = pair(PATIENT);
    let (mut held, mut watch) = (first.client(), first.client());
    second.signal("STOP");
    held.send(set_of("k"));
    await_waiting(&mut watch, 1);
    first.signal("USR1");
    eventually("the port is closed", || (!first.port_open()).then_some(()));
    assert_eq!(watch.rest(), b"", "whoever waits for nothing is closed at once");
    second.signal("CONT");
    assert_eq!(held.rest(), b"STORED\r\n");
    assert_eq!(first.exit_code(), Some(0));
    assert_eq!(second.client().get("k").as_deref(), Some("k"));

    let (mut first, second, _) = pair(PATIENT);
    let (mut held, mut watch) = (first.client(), first.client());
    second.signal("STOP");
    held.send(set_of("k"));
    await_waiting(&mut watch, 1);
    first.signal("TERM");
    assert_eq!(held.rest(), b"");
    assert_eq!(first.exit_code(), Some(0));
}

#[test]
fn whoever_waits_is_not_idle_and_a_login_does_not_wait() {
    let scratch = common::Scratch::new("ack");
    let users = scratch.path("users");
    std::fs::write(&users, "user:secret\n").expect("a file of users");
    let more = [PATIENT[0], PATIENT[1], "-o", "idle_timeout=1", "-Y", &users];
    let (first, second, _) = pair(&more);
    let login = |node: &Node| {
        let mut client = node.client();
        assert_eq!(client.ask("set login 0 0 11\r\nuser secret"), "STORED");
        client
    };
    let mut held = login(&first);
    second.signal("STOP");
    held.send(set_of("k"));
    // Opened later and idle: it goes first.
    let mut idle = login(&first);
    assert_eq!(idle.rest(), b"");
    assert_eq!(figure(&mut login(&first), "repl_ack_waiting"), 1);
    second.signal("CONT");
    assert_eq!(held.line(), "STORED");
    assert_eq!(login(&second).get("k").as_deref(), Some("k"));
}
