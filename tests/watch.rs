//! Watchers and a limit that moves, in real processes: who is told what, who misses what, and what
//! becomes of the memory.

mod common;

use common::{eventually, free_port, pair, Client, Node};

fn counted(node: &Node, name: &str) -> u64 {
    let text = node.client().stat(name).expect("a line of stats");
    text.parse().expect("a number")
}

/// The line without its time and number.
fn told(line: &str) -> &str {
    line.split_once("type=").map_or(line, |(_, rest)| rest)
}

/// Reads until a line begins so; others may be of connections that the test does not know.
fn await_told(watcher: &mut Client, begin: &str) -> String {
    eventually(begin, || Some(watcher.line()).filter(|line| told(line).starts_with(begin)))
}

#[test]
fn a_watcher_reads_what_other_connections_do_until_it_leaves() {
    let node = Node::plain(free_port(), &["-t", "4"]);
    let mut watcher = node.client();
    assert_eq!(watcher.ask("watch fetchers mutations connevents"), "OK");
    // On whichever worker they are.
    for n in 0..8 {
        let mut client = node.client();
        await_told(&mut watcher, "conn_new rip=127.0.0.1 rport=");
        assert_eq!(client.set(&format!("k{n}"), "abc"), "STORED");
        await_told(&mut watcher, &format!("item_get key=k{n} status=not_found clsid=0 cfd="));
        let stored = format!("item_store key=k{n} status=stored cmd=set ttl=0 clsid=1 cfd=");
        let line = await_told(&mut watcher, &stored);
        assert!(line.ends_with(" size=3"), "{line}");
        client.send("quit\r\n");
        let line = await_told(&mut watcher, "conn_close rip=127.0.0.1 rport=");
        assert!(line.contains(" transport=tcp reason=normal cfd="), "{line}");
    }
    // What a watcher still says is of no interest.
    watcher.send("get k1\r\n");
    let mut client = node.client();
    await_told(&mut watcher, "conn_new ");
    let states = client.stats("conns");
    assert!(states.iter().any(|(_, state)| state == "conn_watch"), "{states:?}");
    assert_eq!(counted(&node, "log_watchers"), 1);
    drop(watcher);
    eventually("the watcher's place is free", || {
        (counted(&node, "log_watchers") == 0).then_some(())
    });
}

#[test]
fn a_watcher_that_does_not_read_holds_nobody_up() {
    let node = Node::plain(free_port(), &["-o", "watcher_logbuf_size=8"]);
    let mut watcher = node.client();
    assert_eq!(watcher.ask("watch"), "OK");
    let mut client = node.client();
    let key = "x".repeat(200);
    let batch = format!("get {key}\r\n").repeat(1000);
    eventually("lines are skipped", || {
        client.send(&batch);
        for _ in 0..1000 {
            assert_eq!(client.line(), "END");
        }
        (counted(&node, "log_watcher_skipped") > 0).then_some(())
    });
    eventually("the watcher is told", || {
        assert_eq!(client.ask("get again"), "END");
        watcher.line().starts_with("skipped=").then_some(())
    });
}

#[test]
fn what_a_peer_changes_makes_no_lines() {
    let (a, b, _) = pair(&[]);
    let mut watcher = b.client();
    assert_eq!(watcher.ask("watch fetchers mutations deletions"), "OK");
    assert_eq!(a.client().set("from-peer", "1"), "STORED");
    eventually("it has come", || (counted(&b, "curr_items") == 1).then_some(()));
    assert_eq!(b.client().set("from-client", "1"), "STORED");
    assert!(watcher.line().contains(" key=from-client "));
}

#[test]
fn a_binary_value_over_the_limit_makes_a_line() {
    let node = Node::plain(free_port(), &[]);
    let mut watcher = node.client();
    assert_eq!(watcher.ask("watch mutations"), "OK");
    let mut client = node.client();
    // A set, and an append, of which memcached says nothing; then one that fits.
    for (opcode, extras, len) in [(0x01, 8_u8, 9_000_000_u32), (0x0e, 0, 9_000_000), (0x01, 8, 1)] {
        let mut request = vec![0x80, opcode, 0, 3, extras, 0, 0, 0];
        request.extend((u32::from(extras) + 3 + len).to_be_bytes());
        request.extend([0; 12]);
        request.extend(vec![0; usize::from(extras)]);
        request.extend(b"big");
        request.extend(vec![b'x'; len as usize]);
        client.send(&request);
    }
    for status in ["too_large", "stored"] {
        let line = watcher.line();
        let begin = format!("item_store key=big status={status} cmd=set ttl=0 clsid=");
        assert!(told(&line).starts_with(&begin), "{line}");
    }
}

fn resident_kib(node: &Node) -> u64 {
    let pid = node.client().stat("pid").expect("pid");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

#[test]
fn the_limit_of_a_running_server_goes_up_and_down() {
    let node = Node::plain(free_port(), &["-m", "16"]);
    let mut client = node.client();
    assert_eq!(client.ask("cache_memlimit 128"), "OK");
    let value = "v".repeat(10_000);
    let fill = |client: &mut Client, megabytes: usize| {
        for n in 0..megabytes * 100 {
            client.send(format!("set k{n} 0 0 10000 noreply\r\n{value}\r\n"));
        }
        assert_eq!(client.ask("mn"), "MN");
    };
    fill(&mut client, 100);
    assert_eq!(counted(&node, "evictions"), 0);
    assert_eq!(counted(&node, "limit_maxbytes"), 128 << 20);
    assert_eq!(client.ask("cache_memlimit 16"), "OK");
    eventually("the memory is given back", || (resident_kib(&node) < 28 << 10).then_some(()));
    assert!(counted(&node, "bytes") > 10 << 20, "more went than had to");
    fill(&mut client, 50);
    assert!(resident_kib(&node) < 28 << 10);
    assert_eq!(
        client.ask("cache_memlimit 7"),
        "MEMLIMIT_TOO_SMALL cannot set maxbytes to less than 8m"
    );
}
