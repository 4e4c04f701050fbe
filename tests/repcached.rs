//! Nodes of ours beside a repcached: replaced node by node, filled, healed, and never harmed.
//!
//! Real processes of ours; the repcached is a double of its wire.

mod common;
#[path = "repcached/double.rs"]
mod double;

use common::{eventually, free_port, node_of_pair, Client, Node, Scratch};
use double::Double;
use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;
use twincached::demo::Cable;

/// A node of ours: its replication port and whom it dials.
fn node(repl: u16, peers: &[u16], more: &[&str]) -> Node {
    let port = free_port();
    let (port_text, repl) = (port.to_string(), repl.to_string());
    let mut args = vec!["-vv", "-u", "root", "-l", "127.0.0.1", "-p", &port_text, "-X", &repl];
    let peers: Vec<String> = peers.iter().map(|peer| format!("127.0.0.1:{peer}")).collect();
    peers.iter().for_each(|peer| args.extend(["-x", peer]));
    args.extend(more);
    Node::start(port, &args)
}

fn lines(node: &Node) -> Vec<String> {
    let lines = node.log_lines("replication: ");
    let lines = lines.iter().map(|line| line["replication: ".len()..].to_owned());
    lines.filter(|line| !line.starts_with("some keys or values cannot be told")).collect()
}

/// Waits until the double reads as told.
fn await_double(double: &Double, key: &str, value: Option<&str>) {
    eventually(&format!("the repcached reads {key} as {value:?}"), || {
        (double.value(key).as_deref() == value).then_some(())
    });
}

fn is_quiet(double: &Double) {
    assert_eq!(double.accidents(), Vec::<String>::new(), "ran as commands");
}

#[test]
fn a_pair_is_replaced_node_by_node_without_losing_a_key() {
    let repl = free_port();
    let a = Double::alone(repl);
    eventually("a listens", || a.log().contains(&"listen".to_owned()).then_some(()));
    for n in 0..2000 {
        a.set(&format!("key{n}"), n, 0, format!("value {n}").as_bytes());
    }
    let b = Double::against(repl, repl);
    eventually("b is filled", || b.is_serving().then_some(()));
    assert_eq!(b.len(), 2000);
    b.set("flags", u32::MAX, 0, b"negative on the wire");
    await_double(&a, "flags", None); // as with two repcacheds: it cannot take them
    drop(a);
    eventually("b listens", || b.log().ends_with(&["listen".to_owned()]).then_some(()));
    b.set("flags", 1 << 31, 0, b"negative on the wire");

    let new_a = node_of_pair(free_port(), repl, &[]);
    new_a.await_log("replication: start", 1);
    new_a.await_port();
    let connect = format!("connect (peer=127.0.0.1:{repl})");
    assert_eq!(lines(&new_a), [connect.as_str(), "marugoto copying", "start"]);
    let mut on_a = new_a.client();
    for n in 0..2000 {
        assert_eq!(on_a.get(&format!("key{n}")), Some(format!("value {n}")));
    }
    let (flags, cas, value) = on_a.gets("flags").expect("there");
    assert_eq!(
        (flags, cas, value),
        (1 << 31, b.get("flags").unwrap().cas, "negative on the wire".into())
    );
    eventually("its role", || (on_a.stat("replication").as_deref() == Some("SLAVE")).then_some(()));
    // Both take writes.
    assert_eq!(on_a.ask("set flags 4294967295 0 1\r\nx"), "STORED");
    await_double(&b, "flags", Some("x"));
    assert_eq!(b.get("flags").unwrap().flags, u32::MAX);
    b.set("key1", 0, 0, b"from b");
    on_a.await_value("key1", Some("from b"));
    b.delete("key2");
    on_a.await_value("key2", None);
    assert_eq!(on_a.ask("delete key3"), "DELETED");
    await_double(&b, "key3", None);
    assert_eq!(on_a.ask("append key4 0 0 1\r\n!"), "STORED");
    await_double(&b, "key4", Some("value 4!"));
    b.mumble("what is this\r\nrepcached\r\n");
    b.set("number", 0, 0, b"10");
    on_a.await_value("number", Some("10"));
    assert_eq!(on_a.ask("incr number 5"), "15");
    await_double(&b, "number", Some("15"));
    is_quiet(&b);
    drop(b);
    new_a.await_log("replication: listen", 1);

    let new_b = node_of_pair(free_port(), repl, &[]);
    new_b.await_log("replication: start", 1);
    new_b.await_port();
    let mut on_b = new_b.client();
    for n in (0..2000).filter(|n| !(1..=4).contains(n)) {
        assert_eq!(on_b.get(&format!("key{n}")), Some(format!("value {n}")));
    }
    assert_eq!(on_b.get("key1").as_deref(), Some("from b"));
    assert_eq!(on_b.gets("flags"), on_a.gets("flags"));
    assert_eq!(on_b.gets("number"), on_a.gets("number"));
    assert_eq!(on_b.set("native", "1"), "STORED");
    on_a.await_value("native", Some("1"));
}

#[test]
fn a_repcached_that_starts_is_filled_and_followed() {
    let repl = free_port();
    let ours = node_of_pair(free_port(), repl, &[]);
    ours.await_port();
    let mut client = ours.client();
    let large = "0123456789abcdef".repeat(60_000);
    assert_eq!(client.set("large", &large), "STORED");
    // Values that would do harm as commands, at the edge of what a repcached can hold.
    let trap = "\r\nflush_all\r\ndelete k0\r\n".repeat(43_688);
    let trap = &trap[..(1 << 20) - 66];
    assert_eq!(client.set("trap", trap), "STORED");
    assert_eq!(
        client.ask("set trap2 4000000000 0 25\r\n\r\nflush_all\r\ndelete k0\r\n "),
        "STORED"
    );
    // "a b" and "a\r\nflush_all" as meta keys in base64.
    for key in ["YSBi", "YQ0KZmx1c2hfYWxs"] {
        assert_eq!(client.ask(&format!("ms {key} 1 b\r\nx")), "HD");
    }
    let later = 2_000_000_000;
    for n in 0..500 {
        assert_eq!(client.ask(&format!("set k{n} {n} {later} 1\r\nv")), "STORED");
    }
    let cas = client.gets("k7").expect("there").1;

    let double = Double::against(repl, free_port());
    eventually("it is filled", || double.is_serving().then_some(()));
    ours.await_log("replication: marugoto owari", 1);
    assert_eq!(lines(&ours)[4..8], ["accept", "marugoto start", "marugoto 502", "marugoto owari"]);
    assert_eq!(double.log(), ["connect", "marugoto copying", "start"]);
    assert_eq!(double.len(), 502);
    let k7 = double.get("k7").expect("there");
    assert_eq!((k7.flags, k7.exptime, k7.cas), (7, later, u64::from(cas as u32)));
    assert_eq!(double.value("large").as_deref(), Some(large.as_str()));
    assert_eq!(double.get("trap2").expect("there").flags, 4_000_000_000);
    assert_eq!(client.stat("replication").as_deref(), Some("MASTER"));
    eventually("it counts as linked", || {
        (client.stat("repl_peers_linked").as_deref() == Some("1")).then_some(())
    });

    // An expiry time in the past, touch, a flush, now and later.
    assert_eq!(client.ask("set k1 0 -1 1\r\nx"), "STORED");
    await_double(&double, "k1", None);
    assert_eq!(client.ask(&format!("touch k2 {}", later + 1)), "TOUCHED");
    eventually("touch arrives", || (double.get("k2")?.exptime == later + 1).then_some(()));
    assert_eq!(client.ask("flush_all"), "OK");
    assert_eq!(client.set("behind", "1"), "STORED");
    await_double(&double, "behind", Some("1"));
    assert_eq!((double.flushes(), double.len()), (vec!["flush_all ".to_owned()], 1));
    double.mumble(&format!("flush_all {later}\r\n"));
    double.flush_all();
    client.await_value("behind", None);
    assert_eq!(client.ask(&format!("flush_all {}", later + 9)), "OK");
    let told = format!("flush_all {}", later + 9);
    eventually("a deferred flush arrives", || double.flushes().contains(&told).then_some(()));
    assert_eq!(double.flushes().len(), 2, "its own are not told back");
    is_quiet(&double);
    ours.await_log(
        "replication: some keys or values cannot be told to a repcached (see stats replication)",
        1,
    );
    let wire = client.stats("replication").into_iter().find(|(name, _)| name.ends_with(":wire"));
    assert_eq!(wire.map(|(_, wire)| wire).as_deref(), Some("repcached"));
}

#[test]
fn what_was_queued_is_sent_before_the_end() {
    let repl = free_port();
    let mut ours = node_of_pair(free_port(), repl, &[]);
    ours.await_port();
    let double = Double::against(repl, repl);
    eventually("linked", || double.is_serving().then_some(()));
    let mut client = ours.client();
    let value = "x".repeat(2000);
    for n in 0..5000 {
        client.send(format!("set q{n} 0 0 2000 noreply\r\n{value}\r\n"));
    }
    assert_eq!(client.set("last", "x"), "STORED");
    ours.signal("TERM");
    assert_eq!(ours.exit_code(), Some(0));
    let log = ours.whole_log();
    assert!(log.ends_with("got signal 15\nreplication: close\nreplication: cleanup complete\n"));
    eventually("it listens", || double.log().ends_with(&["listen".to_owned()]).then_some(()));
    assert_eq!(double.len(), 5001);
}

#[test]
fn a_broken_link_heals_and_nobody_loses_what_it_has() {
    let theirs = free_port();
    let double = Double::alone(theirs);
    for n in 0..50 {
        double.set(&format!("old{n}"), 0, 0, b"1");
    }
    let cable = Cable::to(theirs).expect("a cable");
    let ours = node(free_port(), &[cable.port()], &[]);
    ours.await_log("replication: start", 1);
    ours.await_port();
    let mut client = ours.client();
    assert_eq!(client.set("both", "before"), "STORED");
    await_double(&double, "both", Some("before"));
    cable.cut();
    ours.await_log("replication: listen", 1);
    assert_eq!(client.set("ours", "1"), "STORED");
    assert_eq!(client.set("old1", "ours"), "STORED");
    assert_eq!(client.ask("delete old2"), "DELETED");
    eventually("it notices", || (!double.is_linked()).then_some(()));
    double.set("theirs", 0, 0, b"1");
    double.set("both", 0, 0, b"theirs");
    double.set("old3", 0, 0, b"theirs");
    cable.mend();
    ours.await_log("replication: start", 2);
    await_double(&double, "ours", Some("1"));
    await_double(&double, "old1", Some("ours"));
    await_double(&double, "old2", None);
    client.await_value("theirs", Some("1"));
    client.await_value("both", Some("theirs"));
    client.await_value("old3", Some("theirs"));
    assert_eq!(client.get("old2"), None);
    for n in 4..50 {
        assert_eq!(client.get(&format!("old{n}")).as_deref(), Some("1"));
    }
    // Another one in its place, empty: it is filled, and empties nobody.
    cable.cut();
    drop(double);
    let double = Double::alone(theirs);
    ours.await_log("replication: listen", 2);
    cable.mend();
    await_double(&double, "both", Some("theirs"));
    await_double(&double, "old1", Some("ours"));
    eventually("it has all", || (double.len() == 52).then_some(()));
    assert_eq!(client.get("old9").as_deref(), Some("1"));
    is_quiet(&double);
}

#[test]
fn changes_pass_through_to_other_nodes() {
    let (theirs, hub, leaf) = (free_port(), free_port(), free_port());
    let double = Double::alone(theirs);
    double.set("old", 0, 0, b"1");
    let first = node(hub, &[theirs, leaf], &[]);
    first.await_log("replication: start", 1);
    let second = node(leaf, &[hub], &[]);
    second.await_log("replication: start", 1);
    second.await_port();
    let mut far = second.client();
    assert_eq!(far.get("old").as_deref(), Some("1"));
    double.set("new", 5, 0, b"2");
    far.await_value("new", Some("2"));
    assert_eq!(far.gets("new").expect("there").1, double.get("new").unwrap().cas);
    assert_eq!(far.set("far", "3"), "STORED");
    await_double(&double, "far", Some("3"));
    assert_eq!(far.ask("delete old"), "DELETED");
    await_double(&double, "old", None);
    double.delete("new");
    far.await_value("new", None);
    double.set("x", 0, 0, b"1");
    far.await_value("x", Some("1"));
    double.flush_all();
    far.await_value("x", None);
    far.await_value("far", None);
}

/// What somebody hears who connects to a port and says nothing for a good while.
fn hears(port: u16) -> Vec<u8> {
    let mut stranger = TcpStream::connect(("127.0.0.1", port)).expect("connects");
    stranger.set_read_timeout(Some(Duration::from_millis(1500))).expect("timeout");
    let mut heard = Vec::new();
    let _ = stranger.read_to_end(&mut heard);
    heard
}

#[test]
fn only_a_peer_that_may_be_a_repcached_is_told_anything() {
    let scratch = Scratch::new("repcached");
    let secret = scratch.path("secret");
    std::fs::write(&secret, "a long and secret word of our own\n").expect("written");
    let option = format!("repl_secret_file={secret}");
    let silent = std::thread::scope(|scope| {
        // Not an address of -x; one, where a secret is needed; one, whose place is taken.
        let cases = [("127.0.0.2", vec![]), ("127.0.0.1", vec!["-o", option.as_str()])];
        let ports = cases.map(|(peer, more)| {
            let (port, repl) = (free_port(), free_port());
            let peer = format!("{peer}:{}", free_port());
            let (port_text, repl_text) = (port.to_string(), repl.to_string());
            let mut args = vec!["-u", "root", "-l", "127.0.0.1", "-p", &port_text];
            args.extend(["-x", &peer, "-X", &repl_text]);
            args.extend(more);
            let node = Node::start(port, &args);
            node.await_port();
            assert_eq!(node.client().set("treasure", "x"), "STORED");
            (node, repl)
        });
        let (first, second, repl) = common::pair(&[]);
        assert_eq!(first.client().set("treasure", "x"), "STORED");
        let repls = [ports[0].1, ports[1].1, repl];
        let heard = repls.map(|repl| scope.spawn(move || hears(repl)));
        let heard = heard.map(|thread| thread.join().expect("heard"));
        assert_eq!(second.client().get("treasure").as_deref(), Some("x"));
        heard
    });
    assert_eq!(silent, [b"", b"", b""]);
}

#[test]
fn a_twincached_in_its_place_is_spoken_to_natively() {
    let repl = free_port();
    let ours = node_of_pair(free_port(), repl, &[]);
    ours.await_port();
    assert_eq!(ours.client().set("k", "v"), "STORED");
    // A silent stranger at the peer's address is taken for a repcached.
    let stranger = TcpStream::connect(("127.0.0.1", repl)).expect("connects");
    ours.await_log("replication: accept", 1);
    let peer = node_of_pair(free_port(), repl, &[]);
    peer.await_log("replication: start", 1);
    peer.await_port();
    assert_eq!(peer.client().get("k").as_deref(), Some("v"));
    let mut client: Client = ours.client();
    eventually("the stranger is gone", || {
        (client.stat("repl_peers_linked").as_deref() == Some("1")).then_some(())
    });
    let mut heard = Vec::new();
    (&stranger).read_to_end(&mut heard).expect("closed");
    assert_eq!(peer.client().set("k", "w"), "STORED");
    client.await_value("k", Some("w"));
}

#[test]
fn a_repcached_of_the_same_host_gets_the_port_when_its_link_ends() {
    let repl = free_port();
    let ours = node_of_pair(free_port(), repl, &[]);
    ours.await_port();
    let double = Double::against(repl, repl);
    eventually("it is filled", || double.is_serving().then_some(()));
    let mut client = ours.client();
    double.set("k", 0, 0, b"1");
    client.await_value("k", Some("1"));
    // It listens from here on: it never connects again.
    double.overflow();
    ours.await_log("replication: start", 1);
    double.set("k", 0, 0, b"2");
    client.await_value("k", Some("2"));
    assert_eq!(client.set("k", "3"), "STORED");
    await_double(&double, "k", Some("3"));
    is_quiet(&double);
}
