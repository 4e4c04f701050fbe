//! What an operator sees of replication: the three lines of repcached in `stats`, and `stats
//! replication`, through the life of a pair.

mod common;

use std::collections::BTreeMap;

use common::{eventually, free_port, node_of_pair, pair, Client, Node};

/// `stats replication` by peer: its figures by name.
fn peers(client: &mut Client) -> Vec<BTreeMap<String, String>> {
    let mut peers: Vec<BTreeMap<String, String>> = Vec::new();
    for (name, value) in client.stats("replication") {
        let (at, name) = name.split_once(':').expect("N:name");
        let at: usize = at.parse().expect("a number");
        peers.resize(peers.len().max(at + 1), BTreeMap::new());
        assert_eq!(peers[at].insert(name.to_owned(), value), None, "{name} twice");
    }
    peers
}

/// The three lines of repcached.
fn three(client: &mut Client) -> [String; 3] {
    ["replication", "repcached_version", "repcached_qi_free"]
        .map(|name| client.stat(name).unwrap_or_else(|| panic!("no {name}")))
}

const MASTER: [&str; 3] = ["MASTER", "2.3.1", "8191"];
const SLAVE: [&str; 3] = ["SLAVE", "2.3.1", "8191"];

fn await_three(client: &mut Client, expected: [&str; 3]) {
    eventually(&format!("{expected:?}"), || (three(client) == expected).then_some(()));
}

#[test]
fn repcacheds_three_lines_are_true_alone_linked_and_after_a_loss() {
    let repl = free_port();
    let mut first = node_of_pair(free_port(), repl, &[]);
    first.await_port();
    let mut on_first = first.client();
    assert_eq!(three(&mut on_first), MASTER);
    let second = node_of_pair(free_port(), repl, &[]);
    second.await_log("replication: start", 1);
    second.await_port();
    let mut on_second = second.client();
    await_three(&mut on_first, MASTER);
    await_three(&mut on_second, SLAVE);
    first.kill();
    await_three(&mut on_second, MASTER);
    let third = node_of_pair(free_port(), repl, &[]);
    third.await_port();
    await_three(&mut third.client(), SLAVE);
    await_three(&mut on_second, MASTER);
}

#[test]
fn a_linked_peer_is_shown_once_with_its_figures() {
    let (first, second, _) = pair(&[]);
    let (mut on_first, mut on_second) = (first.client(), second.client());
    for n in 0..100 {
        assert_eq!(on_first.set(&format!("key{n}"), "value"), "STORED");
    }
    assert_eq!(on_first.ask("delete key0"), "DELETED");
    on_second.await_value("key99", Some("value"));
    on_second.await_value("key0", None);
    let first_of =
        |client: &mut Client, what: &str, of: &dyn Fn(&BTreeMap<String, String>) -> bool| {
            eventually(what, || {
                let all = peers(client);
                let linked: Vec<_> = all.iter().filter(|peer| peer["state"] == "live").collect();
                (linked.len() == 1 && of(linked[0])).then(|| linked[0].clone())
            })
        };
    let there = first_of(&mut on_second, "what came in", &|peer| peer["items_in"] == "100");
    for (name, value) in [
        ("role", "SLAVE"),
        ("deletes_in", "1"),
        ("applied", "101"),
        ("full_copies_in", "1"),
        ("copy_percent", "100"),
        ("copy_in_percent", "100"),
        ("conflicts", "0"),
        ("overflows", "0"),
        ("queue", "0"),
        ("last_error", "none"),
    ] {
        assert_eq!(there[name], value, "{name} of {there:?}");
    }
    let here = first_of(&mut on_first, "all acknowledged", &|peer| {
        peer["items_out"] == "100" && peer["lag_us"] == "0"
    });
    assert_eq!((here["role"].as_str(), here["full_copies_out"].as_str()), ("MASTER", "1"));
    assert!(here["address"].starts_with("127.0.0.1:") && here["node"].len() == 32, "{here:?}");
    assert!(here["linked_secs"].parse::<u64>().is_ok_and(|secs| secs < 60), "{here:?}");
    // A peer that does not take what it is sent: its lag grows, while nothing else happens here.
    second.signal("STOP");
    assert_eq!(on_first.set("late", "value"), "STORED");
    let mut lags = Vec::new();
    eventually("the lag grows", || {
        let peer = peers(&mut on_first).into_iter().find(|peer| peer["state"] == "live")?;
        lags.push(peer["lag_us"].parse::<u64>().expect("a number"));
        (lags.iter().max() > Some(&200_000)).then_some(())
    });
    second.signal("CONT");
    first_of(&mut on_first, "all acknowledged again", &|peer| peer["lag_us"] == "0");
}

/// Nodes that settle who connects to whom have not failed.
#[test]
fn a_pair_that_is_well_shows_no_failures() {
    let ports = [free_port(), free_port()];
    let peers_of = [free_port(), free_port()];
    let start = |own: usize| {
        let numbers = [ports[own].to_string(), peers_of[own].to_string()];
        let peer = format!("127.0.0.1:{}", peers_of[1 - own]);
        let common = ["-v", "-u", "root", "-l", "127.0.0.1", "-x", &peer, "-X", &numbers[1]];
        let node = Node::start(ports[own], &[&common[..], &["-p", &numbers[0]]].concat());
        node.await_port();
        node
    };
    let (first, second) = (start(0), start(1));
    let (mut on_first, mut on_second) = (first.client(), second.client());
    // It has dialled the linked peer once, to learn who is behind the name.
    let name = format!("127.0.0.1:{}", peers_of[1]);
    eventually("the name is known", || {
        let all = peers(&mut on_first);
        (all.len() == 1 && all[0]["name"] == name && all[0]["state"] == "live").then_some(())
    });
    let seen = eventually("the try has ended", || {
        let all = peers(&mut on_second);
        (all.len() == 1 && all[0]["state"] == "live").then(|| all[0].clone())
    });
    assert_eq!(seen["last_error"], "none");
    // On a shared port the one who holds it has met itself.
    let (third, _fourth, _) = pair(&[]);
    for node in [&first, &second, &third] {
        let mut client = node.client();
        assert_eq!(client.stat("repl_handshakes_failed").as_deref(), Some("0"));
        assert_eq!(client.stat("repl_last_error").as_deref(), Some("none"));
    }
}

#[test]
fn a_peer_that_is_away_is_shown_with_the_reason() {
    let (here, away, listen) = (free_port(), free_port(), free_port());
    let (away, listen) = (format!("127.0.0.1:{away}"), listen.to_string());
    let text = here.to_string();
    let args = ["-u", "root", "-l", "127.0.0.1", "-p", &text, "-x", &away, "-X", &listen];
    let node = Node::start(here, &args);
    node.await_port();
    let mut client = node.client();
    let peer = eventually("its error", || {
        let all = peers(&mut client);
        assert_eq!(all.len(), 1, "{all:?}");
        let known = all[0]["last_error"].contains("refused") && all[0]["state"] == "waiting";
        known.then(|| all[0].clone())
    });
    assert_eq!((peer["name"].as_str(), peer["node"].as_str()), (away.as_str(), "unknown"));
    assert_eq!(client.stat("repl_peers_linked").as_deref(), Some("0"));
}
