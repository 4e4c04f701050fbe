//! `twincached verify` against real nodes: when they are equal, what is named when they are not,
//! and who cannot be compared.

mod common;

use std::fs;
use std::net::TcpListener;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use common::{eventually, free_port, pair, peer_program, Client, Node, Scratch};

/// Runs it; exit status, standard output, standard error.
fn verify(args: &[&str]) -> (i32, String, String) {
    let program = env!("CARGO_BIN_EXE_twincached");
    let Output { status, stdout, stderr } =
        Command::new(program).arg("verify").args(args).output().expect("it runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (status.code().expect("an exit status"), text(stdout), text(stderr))
}

fn at(node: &Node) -> String {
    format!("127.0.0.1:{}", node.port)
}

/// Stores by `ms` with a CAS unique of our choice, so that nodes that do not know of each other
/// come to hold the same.
fn put(node: &Node, key: &str, value: &str, flags: &str) {
    let line = format!("ms {key} {} {flags}\r\n{value}", value.len());
    assert_eq!(node.client().ask(&line), "HD", "{line}");
}

fn plain(more: &[&str]) -> Node {
    Node::plain(free_port(), more)
}

#[test]
fn a_pair_is_equal_whatever_it_holds() {
    let (a, b, _) = pair(&["-m", "32"]);
    let (mut on_a, mut on_b) = (a.client(), b.client());
    assert_eq!(verify(&[&at(&a), &at(&b)]).1, "equal: 2 nodes, 0 items\n");
    for n in 0..300 {
        let client = if n % 2 == 0 { &mut on_a } else { &mut on_b };
        assert_eq!(client.ask(&format!("set key{n} {n} 0 3\r\nabc")), "STORED");
    }
    // A large value, a key that is no text, marks, a unique of its own, another exptime.
    assert_eq!(on_a.set("large", &"x".repeat(1_000_000)), "STORED");
    assert_eq!(on_a.ask("ms /wAgQQ== 2 b\r\nhi"), "HD");
    assert_eq!(on_b.ask("ms stale 2 T0 E77\r\nhi"), "HD");
    assert_eq!(on_b.ask("md stale I T100"), "HD");
    assert_eq!(on_a.ask("touch key5 1000"), "TOUCHED");
    // Gone at once, and gone soon: they are not there.
    assert_eq!(on_a.ask("set gone 0 -1 1\r\nx"), "STORED");
    assert_eq!(on_a.ask("delete key7"), "DELETED");
    assert_eq!(on_a.ask("set soon 0 1 1\r\nx"), "STORED");
    on_a.await_value("soon", None);
    let (status, text, errors) = verify(&[&at(&a), &at(&b)]);
    assert_eq!((status, text.as_str()), (0, "equal: 2 nodes, 302 items\n"), "{errors}");
}

#[test]
fn each_difference_is_named() {
    let (a, b) = (plain(&["-m", "2"]), plain(&["-m", "16", "-t", "2"]));
    for node in [&a, &b] {
        for n in 0..200 {
            put(node, &format!("same{n}"), "v", "E5 T0");
        }
    }
    let both = [at(&a), at(&b)];
    let run = || verify(&["-w", "0", &both[0], &both[1]]);
    assert_eq!(run(), (0, "equal: 2 nodes, 200 items\n".to_owned(), String::new()));
    for (flags_a, flags_b, value_b, what) in [
        ("E5 F1", "E5 F1", "w", "value"),
        ("E5 F1", "E5 F2", "v", "flags"),
        ("E5 T2000000000", "E5 T2000000001", "v", "exptime"),
        ("E5", "E6", "v", "cas"),
    ] {
        put(&a, "one", "v", flags_a);
        put(&b, "one", value_b, flags_b);
        let (status, text, _) = run();
        assert_eq!(status, 1, "{text}");
        assert!(
            text.starts_with(&format!("one: differs in {what}\n  {}: 1 bytes", both[0])),
            "{text}"
        );
        let last = format!("different: 1 key of 201 items: 1 in {what}\n");
        assert!(text.ends_with(&last), "{text}");
    }
    // Marks: one is stale. (An invalidation makes a unique of its own, too.)
    put(&b, "one", "v", "E5");
    assert_eq!(b.client().ask("md one I E5"), "HD");
    let (status, text, _) = run();
    assert!(status == 1 && text.starts_with("one: differs in marks\n"), "{text}");
    assert!(text.contains(", cas 5, stale\n"), "{text}");
    // Missing, under a key that is no text.
    assert_eq!(b.client().ask("delete one"), "DELETED");
    assert_eq!(a.client().ask("delete one"), "DELETED");
    put(&b, "/wAgQQ==", "v", "b");
    let (status, text, _) = run();
    assert_eq!(status, 1);
    assert!(text.starts_with(&format!("%FF%00%20A: missing on {}\n", both[0])), "{text}");
    let last = format!("different: 1 key of 200 and 201 items: 1 missing on {}\n", both[0]);
    assert!(text.ends_with(&last), "{text}");
    // As many names as asked for, and the number of all.
    b.client().ask("flush_all");
    let (status, text, _) = verify(&["-w", "0", "-n", "3", &both[0], &both[1]]);
    assert_eq!((status, text.matches(": missing on").count()), (1, 3), "{text}");
    let last = format!("different: 200 keys of 200 and 0 items: 200 missing on {}\n", both[1]);
    assert!(text.ends_with(&last), "{text}");
}

#[test]
fn a_third_node_that_differs_is_found() {
    let nodes = [plain(&[]), plain(&[]), plain(&[])];
    let names: Vec<String> = nodes.iter().map(at).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for node in &nodes {
        put(node, "key", "v", "E5");
    }
    assert_eq!(verify(&names).1, "equal: 3 nodes, 1 items\n");
    assert_eq!(nodes[2].client().ask("delete key"), "DELETED");
    let (status, text, _) = verify(&[&["-w0.05"], &names[..]].concat());
    assert_eq!(status, 1);
    assert!(text.starts_with(&format!("key: missing on {}\n", names[2])), "{text}");
    let mut lines = text.lines().skip(1);
    for name in &names[..2] {
        assert!(lines.next().is_some_and(|line| line.starts_with(&format!("  {name}: 1 bytes"))));
    }
}

#[test]
fn who_cannot_be_compared_is_said_and_is_never_equal() {
    let a = plain(&[]);
    let (here, nowhere) = (at(&a), format!("127.0.0.1:{}", free_port()));
    let other = format!("127.0.0.1:{}", free_port());
    let (status, text, errors) = verify(&[&here, &nowhere, &other]);
    assert_eq!((status, text.as_str()), (69, ""));
    for name in [&nowhere, &other] {
        let line = format!("twincached verify: cannot connect to {name}: ");
        assert!(errors.lines().any(|have| have.starts_with(&line)), "{errors}");
    }
    assert_eq!(errors.lines().count(), 2, "{errors}");

    let (status, _, errors) = verify(&[&here, &format!("localhost:{}", a.port)]);
    assert_eq!(status, 69);
    assert!(errors.contains("are one and the same node"), "{errors}");

    // It accepts and says nothing.
    let mute = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mute = mute.local_addr().expect("address").to_string();
    let (status, _, errors) = verify(&["-t", "200ms", &here, &mute]);
    assert_eq!((status, errors), (69, format!("twincached verify: {mute} does not answer\n")));

    for (args, why) in [
        (&[here.as_str()][..], "name at least two nodes"),
        (&[&here, &here], "is named twice"),
        (&[&here, "[::1"], "Invalid IPV6 address"),
        (&["-w", "x", &here, &nowhere], "-w: time to wait"),
        (&["-Q"], "invalid option"),
    ] {
        let (status, _, errors) = verify(args);
        assert!(status == 64 && errors.contains(why), "{args:?}: {status} {errors}");
    }
    let (status, help, _) = verify(&["-h"]);
    assert!(status == 0 && help.contains("-w, --wait=<secs>"), "{help}");
}

#[test]
fn a_real_memcached_tells_no_digests() {
    let Some(program) = peer_program("memcached") else { return };
    let (port, a) = (free_port(), plain(&[]));
    let mut command = Command::new(program);
    command.args(["-l", "127.0.0.1", "-U", "0", "-u", "root", "-p", &port.to_string()]);
    let memcached = Node::spawn(&mut command, port);
    memcached.await_port();
    let (status, _, errors) = verify(&[&at(&a), &at(&memcached)]);
    assert_eq!(status, 69, "{errors}");
    let line = format!("twincached verify: {} cannot be compared", at(&memcached));
    assert!(errors.starts_with(&line) && errors.contains("digests"), "{errors}");
}

#[test]
fn users_and_protocols_and_families() {
    let scratch = Scratch::new("verify-auth");
    let (users, wrong) = (scratch.path("users"), scratch.path("wrong"));
    fs::write(&users, "foo:b r\nmore:users\n").expect("users");
    fs::write(&wrong, "foo:bar\n").expect("users");
    let open = plain(&["-l", "::1"]);
    let text = plain(&["-Y", &users]);
    let packets = plain(&["-S", "-Y", &users]);
    let binary = plain(&["-B", "binary"]);
    let no_dump = plain(&["--disable-dumping"]);
    let v6 = format!("[::1]:{}", open.port);
    let named = format!("localhost:{}", no_dump.port);
    let all = [v6.clone(), at(&text), at(&packets), at(&binary), named.clone()];
    let all = all.each_ref().map(String::as_str);
    let with = |more: &[&str]| verify(&[more, &all[..]].concat());
    assert_eq!(with(&["-Y", &users]), (0, "equal: 5 nodes, 0 items\n".to_owned(), String::new()));
    let (status, _, errors) = with(&[]);
    assert_eq!(status, 69);
    assert_eq!(errors.matches("wants to know a user and password").count(), 2, "{errors}");
    let (status, _, errors) = with(&["-Y", &wrong]);
    assert_eq!(status, 69);
    assert_eq!(errors.matches("does not take the user and password").count(), 2, "{errors}");
    let (status, _, errors) = with(&["-Y", &scratch.path("none")]);
    assert!(status == 69 && errors.contains("No such file"), "{errors}");
    // In packets, too, whatever a key needs.
    put(&open, "/wAgQQ==", "v", "b E5");
    put(&open, &"k".repeat(250), "v", "E5");
    let (status, out, errors) = verify(&["-w", "0.05", &v6, &at(&binary)]);
    assert_eq!((status, out.matches(": missing on").count()), (1, 2), "{out}{errors}");
    // Its keys are not shown; that its digests differ is all that can be said.
    let (status, _, errors) = verify(&["-w", "0", &v6, &named]);
    assert!(status == 69 && errors.contains("not allowed"), "{status} {errors}");
}

/// Writes to keys of a node until told to stop: many keys now and then, one all the time.
fn write(mut client: Client, stop: &AtomicBool, mut seed: u64) {
    while !stop.load(Ordering::Relaxed) {
        let mut batch = String::new();
        for _ in 0..50 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let n = (seed >> 33) % 5000;
            match n % 10 {
                0 => batch += &format!("delete key{n}\r\n"),
                _ => batch += &format!("set key{n} 0 0 10\r\n{:010}\r\n", seed % 1_000_000_000),
            }
            batch += "incr hot 1\r\n";
        }
        client.send(batch);
        (0..100).for_each(|_| drop(client.line()));
    }
}

#[test]
fn what_is_on_its_way_is_not_reported() {
    let (a, b, _) = pair(&["-m", "16"]);
    assert_eq!(a.client().set("hot", "0"), "STORED");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| write(a.client(), &stop, 1));
        scope.spawn(|| write(b.client(), &stop, 2));
        let mut busy = a.client();
        eventually("the load has begun", || busy.get("hot").filter(|count| count != "0"));
        let outcomes: Vec<_> = (0..2).map(|_| verify(&["-v", &at(&a), &at(&b)])).collect();
        stop.store(true, Ordering::Relaxed);
        for (status, text, errors) in outcomes {
            assert_eq!(status, 0, "{text}{errors}");
            // There was something on its way, or the load was none.
            assert!(errors.contains("keys listed"), "{errors}");
        }
    });
    let (status, text, _) = verify(&[&at(&a), &at(&b)]);
    assert_eq!(status, 0, "{text}");
}

#[test]
fn nothing_is_marked_as_used() {
    let (a, b) = (plain(&[]), plain(&[]));
    put(&a, "key", "v", "E5");
    put(&b, "key", "w", "E5");
    put(&b, "other", "w", "E5");
    let before = a.client().stats("");
    assert_eq!(verify(&["-w", "0.05", &at(&a), &at(&b)]).0, 1);
    let mut client = a.client();
    assert!(client.ask("me key").contains(" fetch=no "), "shown as fetched");
    let after = client.stats("");
    for name in ["cmd_get", "get_hits", "get_misses", "cmd_touch"] {
        let of = |stats: &[(String, String)]| {
            stats.iter().find(|(have, _)| have == name).map(|(_, value)| value.clone())
        };
        assert!(of(&before).is_some() && of(&before) == of(&after), "{name}");
    }
}
