//! Real processes: pairs that are killed, cut and healed.
//!
//! The program is started as an operator starts it; what is asserted is what its clients and its
//! log see.

mod common;

use common::{eventually, free_port, node_of_pair as node, pair, Client, Node};
use twincached::demo::Cable;

fn replication_log(node: &Node) -> Vec<String> {
    node.log_lines("replication: ")
}

#[test]
fn log_lines_are_those_of_repcached() {
    let repl = free_port();
    let first = node(free_port(), repl, &[]);
    first.await_port();
    let alone = [
        format!("replication: connect (peer=127.0.0.1:{repl})"),
        "replication: marugoto copying".into(),
        "replication: close".into(),
        "replication: listen".into(),
    ];
    assert_eq!(replication_log(&first), alone);
    let mut client = first.client();
    for n in 0..1000 {
        assert_eq!(client.set(&format!("key{n}"), "value"), "STORED");
    }
    let second = node(free_port(), repl, &[]);
    second.await_log("replication: start", 1);
    assert_eq!(
        replication_log(&second),
        [alone[0].clone(), alone[1].clone(), "replication: start".into()]
    );
    first.await_log("replication: marugoto owari", 1);
    assert_eq!(
        replication_log(&first)[4..],
        [
            "replication: accept",
            "replication: marugoto start",
            "replication: marugoto 1000",
            "replication: marugoto owari"
        ]
    );
}

#[test]
fn every_write_reaches_the_other_node_both_ways() {
    let (first, second, _) = pair(&[]);
    for (from, to) in [(&first, &second), (&second, &first)] {
        let (mut a, mut b) = (from.client(), to.client());
        assert_eq!(a.set("key1", "aa"), "STORED");
        b.await_value("key1", Some("aa"));
        assert_eq!(a.gets("key1"), b.gets("key1"), "flags, cas and bytes agree");
        assert_eq!(a.ask("append key1 0 0 2\r\nbb"), "STORED");
        b.await_value("key1", Some("aabb"));
        assert_eq!(a.ask("prepend key1 0 0 2\r\n00"), "STORED");
        b.await_value("key1", Some("00aabb"));
        assert_eq!(a.ask("replace key1 7 0 2\r\n41"), "STORED");
        b.await_value("key1", Some("41"));
        assert_eq!(b.gets("key1").expect("there").0, 7, "flags travel");
        assert_eq!(a.ask("incr key1 1"), "42");
        b.await_value("key1", Some("42"));
        assert_eq!(a.ask("decr key1 40"), "2");
        b.await_value("key1", Some("2 "));
        let unique = b.gets("key1").expect("there").1;
        assert_eq!(b.ask(&format!("cas key1 1 0 3 {unique}\r\ncas")), "STORED");
        a.await_value("key1", Some("cas"));
        assert_eq!(a.ask(&format!("cas key1 1 0 3 {unique}\r\nold")), "EXISTS");
        assert_eq!(a.ask("touch key1 1000"), "TOUCHED");
        assert_eq!(a.ask("add key1 0 0 1\r\nx"), "NOT_STORED");
        eventually("touch gives both the same cas", || {
            (a.gets("key1") == b.gets("key1")).then_some(())
        });
        a.send("gat -1 key1\r\n");
        assert!(a.line().starts_with("VALUE key1 1 3"));
        assert_eq!((a.line(), a.line()), ("cas".into(), "END".into()));
        b.await_value("key1", None);
        assert_eq!(a.ask("add key1 0 0 1\r\nx"), "STORED");
        b.await_value("key1", Some("x"));
        assert_eq!(a.ask("delete key1"), "DELETED");
        b.await_value("key1", None);
        for n in 0..10 {
            assert_eq!(a.set(&format!("f{n}"), "v"), "STORED");
        }
        b.await_value("f9", Some("v"));
        assert_eq!(a.ask("flush_all"), "OK");
        for n in 0..10 {
            b.await_value(&format!("f{n}"), None);
        }
        assert_eq!(b.set("after", "flush"), "STORED");
        a.await_value("after", Some("flush"));
    }
}

/// Sends binary requests, quit behind them, and reads the statuses of the answers.
fn binary(node: &Node, requests: &[(u8, &[u8], &str, &str)]) -> Vec<u16> {
    const QUIT: (u8, &[u8], &str, &str) = (0x07, b"", "", "");
    let mut bytes = Vec::new();
    for (opcode, extras, key, value) in requests.iter().chain([&QUIT]) {
        let body = (extras.len() + key.len() + value.len()) as u32;
        bytes.extend([0x80, *opcode, 0, key.len() as u8, extras.len() as u8, 0, 0, 0]);
        bytes.extend(body.to_be_bytes());
        bytes.extend([0; 12]);
        bytes.extend([*extras, key.as_bytes(), value.as_bytes()].concat());
    }
    let mut client = node.client();
    client.send(bytes);
    let (mut rest, mut statuses) = (&client.rest()[..], Vec::new());
    while let Some(header) = rest.get(..24) {
        assert_eq!(header[0], 0x81, "a response");
        statuses.push(u16::from_be_bytes([header[6], header[7]]));
        let body = u32::from_be_bytes(header[8..12].try_into().expect("4 bytes"));
        rest = &rest[24 + body as usize..];
    }
    assert!(rest.is_empty() && statuses.pop() == Some(0), "quit is answered last");
    statuses
}

#[test]
fn binary_writes_reach_the_other_node_both_ways() {
    // flags 7, never; delta 2, initial 40, never; never; flush at once
    const SET: &[u8] = &[0, 0, 0, 7, 0, 0, 0, 0];
    const ONE_TO_40: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 40, 0, 0, 0, 0];
    let (first, second, _) = pair(&[]);
    for (from, to) in [(&first, &second), (&second, &first)] {
        let (mut a, mut b) = (from.client(), to.client());
        let done = |requests: &[(u8, &[u8], &str, &str)]| {
            assert_eq!(binary(from, requests), vec![0; requests.len()]);
        };
        done(&[(0x01, SET, "bin", "set")]);
        b.await_value("bin", Some("set"));
        assert_eq!(a.gets("bin"), b.gets("bin"), "flags, cas and bytes agree");
        assert_eq!(b.gets("bin").expect("there").0, 7, "flags travel");
        done(&[(0x0e, b"", "bin", "+"), (0x0f, b"", "bin", "-")]);
        b.await_value("bin", Some("-set+"));
        done(&[(0x03, SET, "bin", "replaced"), (0x02, SET, "added", "a")]);
        b.await_value("bin", Some("replaced"));
        b.await_value("added", Some("a"));
        done(&[(0x05, ONE_TO_40, "number", ""), (0x05, ONE_TO_40, "number", "")]);
        b.await_value("number", Some("42"));
        done(&[(0x06, ONE_TO_40, "number", "")]);
        b.await_value("number", Some("40"));
        // The quiet ones say nothing.
        assert_eq!(
            binary(from, &[(0x11, SET, "bin", "quiet"), (0x16, ONE_TO_40, "number", "")]),
            []
        );
        b.await_value("bin", Some("quiet"));
        b.await_value("number", Some("38"));
        done(&[(0x1c, &[0, 0, 4, 0], "bin", "")]);
        eventually("touch gives both the same cas", || {
            (a.gets("bin") == b.gets("bin")).then_some(())
        });
        // A month and a day after 1970.
        done(&[(0x1d, &[0, 0x28, 0xde, 0x80], "bin", "")]);
        b.await_value("bin", None);
        done(&[(0x04, b"", "added", "")]);
        b.await_value("added", None);
        done(&[(0x08, b"", "", "")]);
        b.await_value("number", None);
    }
}

#[test]
fn a_killed_node_comes_back_filled_and_roles_change() {
    let (mut first, second, repl) = pair(&[]);
    let mut survivor = second.client();
    for n in 0..5000 {
        assert_eq!(survivor.set(&format!("key{n}"), &format!("value {n}")), "STORED");
    }
    assert_eq!(first.client().stat("replication").as_deref(), Some("MASTER"));
    assert_eq!(survivor.stat("replication").as_deref(), Some("SLAVE"));
    first.kill();
    second.await_log("replication: listen", 1);
    assert_eq!(survivor.set("while", "alone"), "STORED");
    let again = node(first.port, repl, &[]);
    again.await_port();
    // The port is open: everything must be there already.
    let mut client = Client::connect(first.port);
    for n in (0..5000).rev() {
        let value = format!("value {n}");
        assert_eq!(client.get(&format!("key{n}")).as_deref(), Some(value.as_str()));
    }
    assert_eq!(client.get("while").as_deref(), Some("alone"));
    assert_eq!(client.stat("replication").as_deref(), Some("SLAVE"));
    assert_eq!(survivor.stat("replication").as_deref(), Some("MASTER"));
}

/// Two nodes whose links run over cables: `(a, b, cable to a, cable to b)`.
fn cabled() -> (Node, Node, Cable, Cable) {
    let (repl_a, repl_b) = (free_port(), free_port());
    let cable = |port| Cable::to(port).expect("a cable");
    let (to_a, to_b) = (cable(repl_a), cable(repl_b));
    let start = |repl: u16, peer: u16| {
        let port = free_port();
        let (port_text, repl, peer) =
            (port.to_string(), repl.to_string(), format!("127.0.0.1:{peer}"));
        let args = ["-v", "-u", "root", "-l", "127.0.0.1", "-p", &port_text];
        let args: Vec<&str> = args.into_iter().chain(["-x", &peer, "-X", &repl]).collect();
        Node::start(port, &args)
    };
    let a = start(repl_a, to_b.port());
    a.await_port();
    let b = start(repl_b, to_a.port());
    b.await_port();
    (a, b, to_a, to_b)
}

#[test]
fn a_cut_link_heals_and_both_sides_agree() {
    let (a, b, to_a, to_b) = cabled();
    let (mut on_a, mut on_b) = (a.client(), b.client());
    assert_eq!(on_a.set("old", "1"), "STORED");
    on_b.await_value("old", Some("1"));
    for cable in [&to_a, &to_b] {
        cable.cut();
    }
    eventually("both notice the cut", || {
        let noticed = |node: &Node| node.log().contains("replication: close\nreplication: listen");
        (noticed(&a) && noticed(&b)).then_some(())
    });
    // Both live on, both write, one deletes what the other still has.
    assert_eq!(on_a.set("a", "from a"), "STORED");
    assert_eq!(on_b.set("b", "from b"), "STORED");
    assert_eq!(on_b.ask("delete old"), "DELETED");
    assert_eq!(on_a.set("both", "first"), "STORED");
    assert_eq!(on_b.set("both", "second"), "STORED");
    assert_eq!(on_a.get("old").as_deref(), Some("1"));
    for cable in [&to_a, &to_b] {
        cable.mend();
    }
    on_a.await_value("b", Some("from b"));
    on_b.await_value("a", Some("from a"));
    on_a.await_value("old", None);
    on_a.await_value("both", Some("second"));
    assert_eq!(on_a.gets("both"), on_b.gets("both"));
    assert_eq!(on_b.get("old"), None);
}

#[test]
fn a_silent_link_is_noticed() {
    let (a, b, to_a, to_b) = cabled();
    let closed = |node: &Node| node.log_lines("replication: close").len();
    let before = [&a, &b].map(closed);
    for cable in [&to_a, &to_b] {
        cable.hush();
    }
    for (node, before) in [&a, &b].into_iter().zip(before) {
        eventually("a silent peer is dropped", || (closed(node) > before).then_some(()));
    }
    assert_eq!(a.client().set("k", "v"), "STORED");
    // The silent connections are gone for good: cut them, as a rebooted switch would.
    for cable in [&to_a, &to_b] {
        cable.cut();
        cable.mend();
    }
    b.client().await_value("k", Some("v"));
}

#[test]
fn a_burst_over_the_queue_arrives_whole() {
    let (first, second, _) = pair(&["-q", "64"]);
    second.signal("STOP");
    let mut writer = first.client();
    for n in 0..40_000 {
        writer.send(format!("set burst{n} 0 0 5 noreply\r\n{:05}\r\n", n % 100_000));
    }
    assert_eq!(writer.set("last", "one"), "STORED");
    second.signal("CONT");
    let mut reader = second.client();
    reader.await_value("last", Some("one"));
    for n in (0..40_000).step_by(7) {
        let value = format!("{:05}", n % 100_000);
        reader.await_value(&format!("burst{n}"), Some(&value));
    }
}

#[test]
fn sigterm_sends_what_is_queued_and_leaves_with_zero() {
    let (mut first, second, _) = pair(&[]);
    let mut writer = first.client();
    for n in 0..2000 {
        writer.send(format!("set q{n} 0 0 1 noreply\r\nx\r\n"));
    }
    assert_eq!(writer.set("q-last", "x"), "STORED");
    first.signal("TERM");
    assert_eq!(first.exit_code(), Some(0));
    let lines: Vec<String> = first.log().lines().rev().take(3).map(str::to_owned).collect();
    assert_eq!(
        lines,
        ["replication: cleanup complete", "replication: close", "got signal 15"],
        "the last lines, last first"
    );
    let mut reader = second.client();
    for n in 0..2000 {
        assert_eq!(reader.get(&format!("q{n}")).as_deref(), Some("x"), "q{n}");
    }
    assert_eq!(reader.get("q-last").as_deref(), Some("x"));
}

#[test]
fn memory_that_cannot_be_locked_is_a_warning() {
    let port = free_port();
    let mut command = std::process::Command::new("sh");
    let script = "ulimit -l 4096; exec \"$0\" -u nobody -l 127.0.0.1 -k -p \"$1\"";
    command.args(["-c", script, env!("CARGO_BIN_EXE_twincached"), &port.to_string()]);
    let mut node = Node::spawn(&mut command, port);
    node.await_port();
    assert_eq!(node.client().set("k", "1"), "STORED");
    node.signal("TERM");
    // Who may lock all the same has nothing to say.
    assert_eq!(node.exit_code(), Some(0));
}

#[test]
fn a_graceful_stop_waits_for_a_half_sent_command_until_asked_again() {
    let mut node = Node::plain(free_port(), &["-v"]);
    let (mut idle, mut half) = (node.client(), node.client());
    assert_eq!(idle.ask("mn"), "MN");
    half.send("mn\r\nset half 0 0 100\r\nabc");
    assert_eq!(half.line(), "MN");
    node.signal("USR1");
    node.await_log("Gracefully stopping", 1);
    assert!(idle.rest().is_empty(), "who is in the middle of nothing is let go");
    assert!(!node.log().contains("got signal 15"));
    node.signal("TERM");
    assert_eq!(node.exit_code(), Some(0));
    assert!(node.whole_log().contains("got signal 15"), "{}", node.log());
}

#[test]
fn large_values_and_deferred_flushes_travel() {
    let (first, second, _) = pair(&["-m", "64"]);
    let (mut a, mut b) = (first.client(), second.client());
    let large = "0123456789abcdef".repeat(60_000);
    assert_eq!(a.set("large", &large), "STORED");
    b.await_value("large", Some(&large));
    assert_eq!(b.ask("flush_all 2"), "OK");
    assert_eq!(a.set("small", "s"), "STORED");
    a.await_value("large", None);
    b.await_value("small", None);
    assert_eq!(a.set("new", "n"), "STORED");
    b.await_value("new", Some("n"));
}

#[test]
fn without_replication_flags_no_replication_port_is_open() {
    let node = Node::plain(free_port(), &["-v"]);
    assert_eq!(replication_log(&node), Vec::<String>::new());
    assert_eq!(node.client().stat("replication"), None);
}

/// The end of what a client sends makes one event, and that event comes while there is still much
/// to read before it.
#[test]
fn a_client_that_ends_behind_a_long_batch_is_answered_and_let_go() {
    let node = Node::plain(free_port(), &["-t", "1", "-R", "1"]);
    for _ in 0..4 {
        assert_eq!(node.client().long_batch(), "END\r\n");
    }
    let proxy = free_port().to_string();
    let server = format!("127.0.0.1:{}", node.port);
    let args = ["proxy", "-D", "-u", "root", "-l", "127.0.0.1", "-p", &proxy, "-s", &server];
    let proxy = Node::start(proxy.parse().expect("a port"), &args);
    proxy.await_port();
    for _ in 0..4 {
        assert_eq!(proxy.client().long_batch(), "END\r\n");
    }
}
