//! Told step by step: what each verb does when server, backup or both are away.

use super::*;

/// One server (0), one backup (1), two clients.
fn pair(meta: bool) -> World {
    World::new(1, &config(1, 1), 2, meta)
}

fn value(world: &World, id: usize, key: &str) -> Option<String> {
    let item = world.servers[id].items.get(key.as_bytes())?;
    Some(String::from_utf8_lossy(&item.value).into_owned())
}

fn both(world: &World, key: &str) -> (Option<String>, Option<String>) {
    (value(world, 0, key), value(world, 1, key))
}

fn some(a: &str, b: &str) -> (Option<String>, Option<String>) {
    (Some(a.into()), Some(b.into()))
}

/// The server dies and is back, empty, and the proxy has noticed both.
fn lose_server(world: &mut World) {
    world.servers[0].restart();
    // Nobody lists what it had: whoever wants a key has to ask for it.
    world.servers[1].busy = usize::MAX;
    world.heal(0);
}

fn kill(world: &mut World, id: usize) {
    world.servers[id].dead = true;
    world.servers[id].restart();
    world.cut(id);
}

#[test]
fn every_write_reaches_both_and_refused_ones_neither() {
    let mut world = pair(true);
    assert_eq!(world.ask(0, "set k 5 0 1\r\na\r\n"), "STORED\r\n");
    assert_eq!(both(&world, "k"), some("a", "a"));
    assert_eq!(world.ask(0, "add k 0 0 1\r\nb\r\n"), "NOT_STORED\r\n");
    assert_eq!(both(&world, "k"), some("a", "a"));
    assert_eq!(world.ask(0, "add n 0 0 1\r\n7\r\n"), "STORED\r\n");
    assert_eq!(world.ask(0, "incr n 5\r\ndecr n 2\r\n"), "12\r\n10\r\n");
    assert_eq!(both(&world, "n"), some("10", "10"));
    assert_eq!(
        world.ask(0, "append k 0 0 1\r\nx\r\nprepend k 0 0 1\r\n<\r\n"),
        "STORED\r\nSTORED\r\n"
    );
    assert_eq!(both(&world, "k"), some("<ax", "<ax"));
    assert_eq!(world.ask(0, "replace k 6 0 2\r\nrr\r\n"), "STORED\r\n");
    assert_eq!(world.servers[1].items[&b"k"[..]].flags, 6);
    assert_eq!(world.ask(0, "touch k 77\r\n"), "TOUCHED\r\n");
    assert_eq!(world.servers[1].items[&b"k"[..]].exptime, 77);
    assert_eq!(world.ask(0, "gat 88 k\r\n"), "VALUE k 6 2\r\nrr\r\nEND\r\n");
    world.step();
    assert_eq!(world.servers[1].items[&b"k"[..]].exptime, 88);
    assert_eq!(world.ask(0, "delete k\r\ndelete k\r\n"), "DELETED\r\nNOT_FOUND\r\n");
    assert_eq!(both(&world, "k"), (None, None));
    assert_eq!(
        world.ask(0, "append no 0 0 1\r\nx\r\nincr no 1\r\ntouch no 1\r\n"),
        "NOT_STORED\r\nNOT_FOUND\r\nNOT_FOUND\r\n"
    );
    assert_eq!(world.ask(0, "flush_all\r\nget n\r\n"), "OK\r\nEND\r\n");
    assert_eq!(both(&world, "n"), (None, None));
}

#[test]
fn cas_follows_the_server_and_its_new_value_reaches_the_backup() {
    let mut world = pair(true);
    // The backup's uniques run ahead of the server's.
    world.servers[1].next_cas = 40;
    world.ask(0, "set k 0 0 1\r\na\r\n");
    let cas = world.servers[0].items[&b"k"[..]].cas;
    assert_eq!(world.ask(0, "gets k\r\n"), format!("VALUE k 0 1 {cas}\r\na\r\nEND\r\n"));
    assert_eq!(world.ask(0, &format!("cas k 3 0 1 {cas}\r\nb\r\n")), "STORED\r\n");
    assert_eq!(both(&world, "k"), some("b", "b"));
    assert_eq!(world.ask(0, &format!("cas k 3 0 1 {cas}\r\nc\r\n")), "EXISTS\r\n");
    assert_eq!(both(&world, "k"), some("b", "b"));
    assert_eq!(world.ask(0, "cas no 3 0 1 9\r\nc\r\n"), "NOT_FOUND\r\n");
}

#[test]
fn a_cas_never_matches_the_other_ones_unique() {
    let mut world = pair(true);
    world.ask(0, "set k 0 0 1\r\na\r\n");
    // The same unique by accident: what the client read is not what it would replace.
    world.servers[0].items.get_mut(&b"k"[..]).expect("k").cas = 9;
    world.servers[1].items.get_mut(&b"k"[..]).expect("k").cas = 9;
    kill(&mut world, 0);
    assert_eq!(world.ask(0, "cas k 0 0 1 9\r\nb\r\n"), "EXISTS\r\n");
    let marked = 9 | super::super::relay::BACKUP_UNIQUE;
    assert_eq!(world.ask(0, "gets k\r\n"), format!("VALUE k 0 1 {marked}\r\na\r\nEND\r\n"));
    assert_eq!(world.ask(0, &format!("cas k 0 0 1 {marked}\r\nb\r\n")), "STORED\r\n");
    assert_eq!(value(&world, 1, "k").as_deref(), Some("b"));
    lose_server(&mut world);
    assert_eq!(world.ask(0, &format!("cas k 0 0 1 {marked}\r\nc\r\n")), "EXISTS\r\n");
}

#[test]
fn what_the_server_lost_is_read_from_the_backup_and_put_back() {
    for meta in [true, false] {
        let mut world = pair(meta);
        world.ask(0, "set k 5 900 1\r\na\r\n");
        lose_server(&mut world);
        world.send(0, "get k\r\n");
        while world.outputs[0].is_empty() {
            assert!(world.relay.count().fill_backs.get() == 0, "the client waits for nothing else");
            world.step();
        }
        assert!(world.servers[0].items.contains_key(&b"k"[..]), "whoever looks now finds it");
        assert_eq!(world.ask(0, ""), "VALUE k 5 1\r\na\r\nEND\r\n");
        let item = world.servers[0].items[&b"k"[..]].clone();
        assert_eq!((item.value, item.flags), (b"a".to_vec(), 5));
        assert_eq!(item.exptime, if meta { 900 } else { 60 }, "what is left, where it is known");
        assert_eq!(world.relay.count().fill_backs.get(), 1);
        let asked = world.servers[1].gets;
        assert_eq!(world.ask(0, "get k\r\n"), "VALUE k 5 1\r\na\r\nEND\r\n");
        assert_eq!(world.servers[1].gets, asked, "the backup is not needed any more");
        // gets must show the server's own unique.
        lose_server(&mut world);
        world.servers[0].next_cas = 1000;
        assert_eq!(world.ask(0, "gets k\r\n"), "VALUE k 5 1 1001\r\na\r\nEND\r\n");
        assert_eq!(world.ask(0, "cas k 5 0 1 1001\r\nb\r\n"), "STORED\r\n");
    }
}

#[test]
fn derived_writes_continue_from_what_the_backup_has() {
    let mut world = pair(true);
    world.ask(0, "set n 0 0 2\r\n10\r\n");
    world.ask(0, "set k 0 0 1\r\na\r\n");
    lose_server(&mut world);
    assert_eq!(
        world.ask(0, "incr n 1\r\nincr n 1\r\nget n\r\n"),
        "11\r\n12\r\nVALUE n 0 2\r\n12\r\nEND\r\n"
    );
    assert_eq!(both(&world, "n"), some("12", "12"));
    assert_eq!(world.ask(0, "append k 0 0 1\r\nb\r\n"), "STORED\r\n");
    assert_eq!(both(&world, "k"), some("ab", "ab"));
    lose_server(&mut world);
    assert_eq!(world.ask(0, "touch k 55\r\nreplace n 0 0 1\r\n3\r\n"), "TOUCHED\r\nSTORED\r\n");
    assert_eq!(both(&world, "n"), some("3", "3"));
    lose_server(&mut world);
    assert_eq!(world.ask(0, "gat 99 k\r\n"), "VALUE k 0 2\r\nab\r\nEND\r\n");
    world.step();
    assert_eq!([0, 1].map(|id| world.servers[id].items[&b"k"[..]].exptime), [99, 99]);
}

#[test]
fn a_server_that_is_down_is_passed_over_and_each_write_done_once() {
    let mut world = pair(true);
    world.ask(0, "set k 0 0 1\r\na\r\n");
    world.ask(0, "set n 0 0 1\r\n1\r\n");
    kill(&mut world, 0);
    assert_eq!(
        world.ask(0, "append k 0 0 1\r\nb\r\nincr n 1\r\nget k n\r\n"),
        "STORED\r\n2\r\nVALUE k 0 2\r\nab\r\nVALUE n 0 1\r\n2\r\nEND\r\n"
    );
    assert_eq!(world.ask(0, "set k 0 0 1\r\nc\r\ndelete n\r\n"), "STORED\r\nDELETED\r\n");
    assert_eq!((value(&world, 1, "k").as_deref(), value(&world, 1, "n")), (Some("c"), None));
}

#[test]
fn nobody_there_is_an_error_at_once_and_not_a_hang() {
    let mut world = pair(true);
    kill(&mut world, 0);
    kill(&mut world, 1);
    let error = "SERVER_ERROR CAN NOT CONNECT TO BACKEND SERVER\r\n";
    for command in [
        "get k",
        "gets a b",
        "set k 0 0 1\r\na",
        "append k 0 0 1\r\na",
        "delete k",
        "incr k 1",
        "touch k 1",
        "gat 1 k",
        "flush_all",
        "verbosity 1",
        "mg k v",
        "cas k 0 0 1 5\r\na",
    ] {
        let before = world.now.mono_us;
        assert_eq!(world.ask(0, &format!("{command}\r\n")), error, "{command}");
        assert!(world.now.mono_us - before < 20_000, "{command}");
    }
    assert_eq!(
        world.ask(0, "set k 0 0 1 noreply\r\na\r\nversion\r\n"),
        "VERSION memcached agent v0.6\r\n"
    );
}

#[test]
fn a_delete_is_not_undone_by_a_reader_that_was_under_way() {
    let mut world = pair(true);
    world.ask(0, "set k 0 0 1\r\na\r\n");
    lose_server(&mut world);
    // The backup is slow: the reader's question waits there while the delete overtakes it.
    world.servers[1].frozen = true;
    world.send(0, "get k\r\n");
    for _ in 0..50 {
        world.step();
    }
    assert!(world.relay.count().second_lookups.get() > 0, "the reader is under way");
    world.send(1, "delete k\r\n");
    for _ in 0..50 {
        world.step();
    }
    world.servers[1].frozen = false;
    world.settle("both end");
    assert_eq!(world.outputs[1], b"DELETED\r\n", "it was there, on the backup");
    world.outputs.iter_mut().for_each(Vec::clear);
    assert_eq!(both(&world, "k"), (None, None));
    assert_eq!(world.ask(0, "get k\r\n"), "END\r\n");
}

#[test]
fn a_server_that_comes_back_with_old_values_is_corrected_first() {
    let mut world = pair(true);
    world.ask(0, "set k 0 0 1\r\na\r\n");
    world.ask(0, "set gone 0 0 1\r\na\r\n");
    world.ask(0, "set same 0 0 1\r\na\r\n");
    // Frozen, not dead: it keeps what it has.
    world.servers[0].frozen = true;
    assert_eq!(world.ask(0, "set k 0 0 1\r\nb\r\ndelete gone\r\n"), "STORED\r\nDELETED\r\n");
    assert_eq!(value(&world, 0, "k").as_deref(), Some("a"), "it has missed both");
    world.heal(0);
    assert_eq!(
        world.ask(0, "get k gone same\r\n"),
        "VALUE k 0 1\r\nb\r\nVALUE same 0 1\r\na\r\nEND\r\n"
    );
    // And a backup that missed writes does not bring old values back either.
    world.servers[1].frozen = true;
    assert_eq!(world.ask(0, "set k 0 0 1\r\nc\r\nflush_all\r\n"), "STORED\r\nOK\r\n");
    world.heal(1);
    lose_server(&mut world);
    assert_eq!(world.ask(0, "get k same\r\n"), "END\r\n");
}

#[test]
fn magents_own_answers() {
    let mut world = World::new(1, &config(2, 1), 1, true);
    let stats = world.ask(0, "stats\r\n");
    let head = "memcached agent v0.6\r\nmatrix 1 -> 10.0.0.1:0, pool size 0\r\n\
                matrix 2 -> 10.0.0.1:1, pool size 0\r\nSTAT pid ";
    assert!(stats.starts_with(head) && stats.ends_with("\r\nEND\r\n"), "{stats}");
    assert!(world.ask(0, "stats items\r\n").starts_with(head));
    assert!(stats[head.len()..].lines().skip(1).all(|l| l == "END" || l.starts_with("STAT ")));
    let servers = world.ask(0, "stats servers\r\n");
    assert!(servers.contains("STAT server:2:name 10.0.0.1:1\r\n"), "{servers}");
    assert_eq!(world.ask(0, "stats reset\r\n"), "RESET\r\n");
    assert_eq!(world.ask(0, "version\r\nmn\r\n"), "VERSION memcached agent v0.6\r\nMN\r\n");
    assert_eq!(world.ask(0, "nonsense\r\nx\r\nshutdown\r\n"), "UNSUPPORTED COMMAND\r\n".repeat(3));
    assert_eq!(world.ask(0, "verbosity 1\r\n"), "ERROR\r\n", "what the servers say");
    let long = "k".repeat(251);
    assert_eq!(
        world.ask(0, &format!("get a {long} b\r\n")),
        "CLIENT_ERROR bad command line format\r\n"
    );
    assert_eq!(
        world.ask(0, "set k 0 0 1\r\nabc\r\nversion\r\n"),
        "CLIENT_ERROR bad data chunk\r\nUNSUPPORTED COMMAND\r\nVERSION memcached agent v0.6\r\n"
    );
    world.send(0, "version\r\nquit\r\nversion\r\n");
    world.settle("quit");
    assert_eq!(world.outputs[0], b"VERSION memcached agent v0.6\r\n");
    assert!(world.fronts[0].is_finished());
}

#[test]
fn a_binary_client_is_told_so_once_and_left() {
    let mut world = pair(true);
    let mut packet = [0; 24];
    (packet[0], packet[1], packet[15]) = (0x80, 0x0b, 7);
    for byte in &packet[..23] {
        world.send(0, [*byte]);
        world.step();
    }
    assert!(world.outputs[0].is_empty() && !world.fronts[0].is_finished());
    world.send(0, [packet[23], 0x80, 0x0b, 0x00]);
    world.settle("refused");
    let answer = &world.outputs[0];
    assert_eq!((answer[0], answer[1], answer[7], answer[15]), (0x81, 0x0b, 0x83, 7));
    let text = b"This proxy speaks the ASCII protocols only";
    assert_eq!((&answer[24..], usize::from(answer[11])), (&text[..], text.len()));
    assert!(world.fronts[0].is_finished());
}

/// What a server of 1.4 makes of meta commands, and what the client is told.
#[test]
fn meta_commands_to_old_servers() {
    let mut world = pair(false);
    for (asked, answered) in [
        (
            "ms k 2 T900 F5 c\r\nab\r\n",
            "CLIENT_ERROR flag c: the server is older than memcached 1.6\r\n",
        ),
        ("ms k 2 T900 F5 k O7\r\nab\r\n", "HD kk O7\r\n"),
        ("mg k v f s k\r\nmg k q\r\nmg no q\r\nmn\r\n", "VA 2 f5 s2 kk\r\nab\r\nHD\r\nMN\r\n"),
        ("ms k 1 ME\r\nx\r\n", "NS\r\n"),
        ("ms k 1 MA q\r\nc\r\nmg k v O1\r\n", "VA 3 O1\r\nabc\r\n"),
        ("mg aw== b k v\r\n", "VA 3 kaw== b\r\nabc\r\n"),
        ("mg k t\r\n", "CLIENT_ERROR flag t: the server is older than memcached 1.6\r\n"),
        ("mg k T77\r\n", "HD\r\n"),
        ("ms n 2\r\n10\r\nma n v D5\r\nma n MD q\r\nma nn k\r\n", "HD\r\nVA 2\r\n15\r\nNF knn\r\n"),
        ("ms n 1 C999\r\n1\r\nms nn 1 C9 O3\r\n1\r\n", "EX\r\nNF O3\r\n"),
        ("md k\r\nmd k\r\nmg k v\r\n", "HD\r\nNF\r\nEN\r\n"),
        ("me k\r\n", "CLIENT_ERROR me: the server is older than memcached 1.6\r\n"),
        ("mg AP8K b v\r\n", "CLIENT_ERROR key: the server is older than memcached 1.6\r\n"),
    ] {
        assert_eq!(world.ask(0, asked), answered, "{asked}");
    }
    assert_eq!(both(&world, "n"), some("14", "14"));
    let unique = world.servers[0].items[&b"n"[..]].cas;
    assert_eq!(world.ask(0, "mg n c\r\n"), format!("HD c{unique}\r\n"));
    assert_eq!(world.ask(0, &format!("ms n 1 C{unique}\r\n3\r\n")), "HD\r\n");
    assert_eq!(both(&world, "n"), some("3", "3"));
    // A server that is cold: its backup is old, too.
    lose_server(&mut world);
    assert_eq!(world.ask(0, "mg n v\r\n"), "VA 1\r\n3\r\n");
    assert_eq!(both(&world, "n"), some("3", "3"));
    kill(&mut world, 0);
    assert_eq!(world.ask(0, "mg n v\r\nma n v\r\n"), "VA 1\r\n3\r\nVA 1\r\n4\r\n");
    assert_eq!(value(&world, 1, "n").as_deref(), Some("4"));
}

#[test]
fn a_server_that_knows_no_touch_is_named_as_the_reason() {
    for backups in [0, 1] {
        let mut world = World::new(1, &config(1, backups), 1, false);
        world.servers.iter_mut().for_each(|server| server.ancient = true);
        let too_old = "SERVER_ERROR the server is too old for this command\r\n";
        assert_eq!(world.ask(0, "set k 0 0 1\r\na\r\n"), "STORED\r\n");
        for asked in ["touch k 9", "gat 9 k", "gats 9 k", "mg k v T9", "mg k T9"] {
            assert_eq!(world.ask(0, &format!("{asked}\r\n")), too_old, "{asked}");
        }
        let known = "ms k 1\r\nb\r\nmg k v\r\nmd k\r\n";
        assert_eq!(world.ask(0, known), "HD\r\nVA 1\r\nb\r\nHD\r\n");
    }
}

#[test]
fn too_large_values_are_swallowed_and_the_old_one_dropped() {
    let mut small = config(1, 1);
    small.value_max = 1000;
    let mut world = World::new(1, &small, 1, true);
    world.ask(0, "set k 0 0 1\r\na\r\n");
    let big = "x".repeat(5000);
    assert_eq!(
        world.ask(0, &format!("set k 0 0 5000\r\n{big}\r\nget k\r\n")),
        "SERVER_ERROR object too large for cache\r\nEND\r\n"
    );
    assert_eq!(both(&world, "k"), (None, None));
    assert_eq!(world.ask(0, &format!("set k 0 0 5000 noreply\r\n{big}\r\nmn\r\n")), "MN\r\n");
    // One that somebody else stored there passes, as does what comes after it.
    world.servers[0].item(b"k", 0, 0, vec![b'x'; 5000]);
    world.ask(0, "set after 0 0 1\r\na\r\n");
    assert_eq!(
        world.ask(0, "get k after\r\n"),
        format!("VALUE k 0 5000\r\n{big}\r\nVALUE after 0 1\r\na\r\nEND\r\n")
    );
}

#[test]
fn a_get_of_a_hundred_thousand_keys() {
    let mut world = World::new(3, &config(3, 1), 2, true);
    let mut expected = String::new();
    let mut line = String::from("get");
    for n in 0..100_000 {
        line += &format!(" key:{n}");
        if n % 7 == 0 {
            let id = Routes::new(&config(3, 1)).server(format!("key:{n}").as_bytes());
            let id = id.expect("a server");
            world.servers[id].item(format!("key:{n}").as_bytes(), n, 0, n.to_string().into());
            expected += &format!("VALUE key:{n} {n} {}\r\n{n}\r\n", n.to_string().len());
        }
    }
    expected += "END\r\nMN\r\n";
    line += "\r\nmn\r\n";
    assert!(world.ask(0, &line) == expected, "values in the client's order, one END");
    assert_eq!(world.ask(0, "get key:7\r\n"), "VALUE key:7 7 1\r\n7\r\nEND\r\n");
    assert!(world.fronts[0].input.capacity() < 300_000, "the memory is given back");
}

#[test]
fn noreply_and_quiet_keep_the_order() {
    let mut world = pair(true);
    assert_eq!(
        world.ask(0, "set a 0 0 1 noreply\r\n1\r\nincr a 1 noreply\r\nget a\r\nmn\r\n"),
        "VALUE a 0 1\r\n2\r\nEND\r\nMN\r\n"
    );
    assert_eq!(
        world.ask(0, "delete a noreply\r\nflush_all noreply\r\nverbosity 1 noreply\r\nget a\r\n"),
        "END\r\n"
    );
}

#[test]
fn one_worker_keeps_the_order_of_a_pipeline_over_a_failover() {
    let mut world = pair(true);
    world.ask(0, "set k 0 0 1\r\na\r\n");
    // All of it is on its way when the server goes, none of it answered.
    world.servers[0].frozen = true;
    world.send(
        0,
        "append k 0 0 1\r\nb\r\nget k\r\ndelete k\r\nget k\r\nset k 0 0 1\r\nz\r\nget k\r\n",
    );
    for _ in 0..5 {
        world.step();
    }
    kill(&mut world, 0);
    world.settle("failover");
    let answer = String::from_utf8(std::mem::take(&mut world.outputs[0])).expect("text");
    assert_eq!(
        answer,
        "STORED\r\nVALUE k 0 2\r\nab\r\nEND\r\nDELETED\r\nEND\r\nSTORED\r\n\
         VALUE k 0 1\r\nz\r\nEND\r\n"
    );
}

#[test]
fn a_client_that_goes_leaves_nothing_behind() {
    let mut world = pair(true);
    let big = "x".repeat(400_000);
    world.ask(0, &format!("set k 0 0 400000\r\n{big}\r\n"));
    // A block that never ends, and a reply that nobody reads.
    world.send(0, "set open 0 0 500000\r\nabc");
    world.send(1, "get k\r\n");
    world.step();
    assert!(world.relay.held() >= 500_000, "the block is reserved");
    for front in &mut world.fronts {
        front.abandon(&mut world.relay);
    }
    let shared = Shared::new(&config(1, 1));
    world.fronts = vec![Front::new(shared.clone()), Front::new(shared)];
    for _ in 0..10_000 {
        world.step_without_clients();
    }
    assert_eq!((world.relay.held(), world.relay.in_flight()), (0, 0));
}

#[test]
fn output_that_left_at_once_lets_the_rest_of_the_input_be_done() {
    let mut world = pair(true);
    // Answers of more than one client may have waiting, and a socket that takes all of it.
    let commands = 60_000;
    world.send(0, "version\r\n".repeat(commands));
    let me = World::client_id(0);
    let mut answered = 0;
    loop {
        world.fronts[0].process(world.now, me, &mut world.relay);
        let sendable = world.fronts[0].sendable().len();
        world.fronts[0].sent(sendable);
        answered += sendable;
        if !world.fronts[0].can_go_on(&world.relay) {
            break;
        }
    }
    assert_eq!(answered, commands * "VERSION memcached agent v0.6\r\n".len());
}

#[test]
fn slow_readers_of_large_values_do_not_have_more_fetched_than_finds_room() {
    let mut world = World::new(1, &config(1, 0), 12, true);
    let value = "v".repeat(1_000_000);
    world.ask(0, &format!("set k 0 0 {}\r\n{value}\r\n", value.len()));
    let fetched = world.servers[0].gets;
    // The clients read nothing: what is answered stays with the fronts.
    for client in 0..12 {
        world.send(client, "get k\r\n".repeat(100));
    }
    for _ in 0..2000 {
        for client in 0..12 {
            world.fronts[client].process(world.now, World::client_id(client), &mut world.relay);
        }
        world.connect(0);
        world.move_bytes(0);
        for completion in world.relay.take_completions() {
            world.fronts[completion.client.slot as usize].complete(completion);
        }
    }
    assert!(world.servers[0].gets > fetched, "somebody was answered");
    let each = (world.servers[0].gets - fetched) / 12;
    assert!(each <= 20, "{each} values of a megabyte for each, with a first share of sixteen");
}

#[test]
fn a_new_client_is_expected_to_read_what_others_read() {
    let mut world = World::new(1, &config(1, 0), 3, true);
    world.ask(0, "set k 0 0 1\r\nv\r\n");
    let get = format!("get{}\r\n", " k".repeat(100));
    let asked_at_once = |world: &mut World, client: usize| {
        world.send(client, &get);
        world.fronts[client].process(world.now, World::client_id(client), &mut world.relay);
        let asked = world.relay.connection(0).sendable().len();
        assert!(world.ask(client, "").ends_with("END\r\n"));
        asked
    };
    // Sixteen keys at first: the values might be large.
    let first = asked_at_once(&mut world, 1);
    assert!((1..get.len() / 2).contains(&first), "{first} bytes");
    assert_eq!(asked_at_once(&mut world, 2), get.len(), "they are small");
}

#[test]
fn what_happens_is_counted() {
    let mut world = pair(true);
    world.ask(0, "set k 0 0 1\r\na\r\nset n 0 0 1\r\n1\r\nincr n 1\r\nget k none\r\ngat 5 k\r\n");
    lose_server(&mut world);
    world.ask(0, "get k\r\n");
    kill(&mut world, 0);
    world.ask(1, "get k\r\ndelete k\r\nflush_all\r\n");
    kill(&mut world, 1);
    world.ask(1, "get k\r\nset k 0 0 1\r\na\r\n");
    let mut out = Vec::new();
    world.relay.stats(&mut out, world.now);
    world.relay.stats_servers(&mut out, world.now);
    let text = String::from_utf8(out).expect("text");
    for line in [
        "cmd_set 3",
        "cmd_get 5",
        "cmd_touch 1",
        "cmd_arith 1",
        "cmd_delete 1",
        "cmd_flush 1",
        "get_hits 4",
        "get_misses 1",
        "fill_backs 1",
        "errors 2",
        "in_flight 0",
        "servers_up 0",
        "server:1:state down",
        "server:1:fill_backs 1",
        "server:1:ejections 1",
        "backup:1:state down",
        "backup:1:in_flight 0",
    ] {
        assert!(text.contains(&format!("STAT {line}\r\n")), "{line} is not in\n{text}");
    }
    world.relay.stats_reset();
    let mut out = Vec::new();
    world.relay.stats(&mut out, world.now);
    assert!(String::from_utf8_lossy(&out).contains("STAT cmd_set 0\r\n"));
}

#[test]
fn who_asks_for_a_dump_is_refused_and_does_not_wait_for_its_end() {
    let mut world = pair(true);
    let commands = "set k 0 0 1\r\na\r\nlru_crawler metadump all\r\nget k\r\n";
    assert_eq!(world.ask(0, commands), "STORED\r\nUNSUPPORTED COMMAND\r\n");
    assert!(world.fronts[0].is_finished());
    assert_eq!(
        world.ask(1, "lru_crawler enable\r\nget k\r\n").lines().next(),
        Some("UNSUPPORTED COMMAND")
    );
    assert!(!world.fronts[1].is_finished());
}
