//! Values too large to be held: they pass in windows, in order, and whole or not at all.

use super::*;

const MIB: usize = 1 << 20;

fn value(n: usize, with: u8) -> Vec<u8> {
    (0..n).map(|at| with.wrapping_add((at / 7 % 26) as u8)).collect()
}

fn set(verb: &str, key: &str, value: &[u8], more: &str) -> Vec<u8> {
    let head = format!("{verb} {key} 5 0 {}{more}\r\n", value.len());
    [head.as_bytes(), value, b"\r\n"].concat()
}

fn shown(key: &str, value: &[u8]) -> Vec<u8> {
    [format!("VALUE {key} 5 {}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
}

fn take(world: &mut World, client: usize) -> Vec<u8> {
    std::mem::take(&mut world.outputs[client])
}

fn stored(world: &World, server: usize, key: &str) -> Option<Vec<u8>> {
    world.servers[server].items.get(key.as_bytes()).map(|item| item.value.clone())
}

#[test]
fn a_large_set_reaches_server_and_backup_and_is_read_in_order() {
    let mut world = World::new(5, &config(1, 1), 2, true);
    let big = value(3 * MIB + 17, b'a');
    world.send(0, "set s 5 0 1\r\nx\r\n");
    world.send(0, set("set", "big", &big, ""));
    world.send(0, "get s big s\r\nget s\r\n");
    world.settle("a large set");
    let expected = [
        &b"STORED\r\nSTORED\r\n"[..],
        &shown("s", b"x"),
        &shown("big", &big),
        &shown("s", b"x"),
        b"END\r\n",
        &shown("s", b"x"),
        b"END\r\n",
    ];
    assert!(take(&mut world, 0) == expected.concat());
    assert!(stored(&world, 0, "big") == stored(&world, 1, "big"));
    assert!(stored(&world, 0, "big") == Some(big.clone()));
    // Nobody has to have set it here: it is found to be large, and fetched again.
    let other = value(2 * MIB, b'A');
    world.servers[0].item(b"other", 5, 0, other.clone());
    world.send(1, "get s other\r\n");
    world.settle("an unknown large value");
    assert!(
        take(&mut world, 1)
            == [&shown("s", b"x")[..], &shown("other", &other), b"END\r\n"].concat()
    );
}

#[test]
fn an_add_reaches_the_backup_too_and_noreply_says_nothing() {
    let mut world = World::new(6, &config(1, 1), 1, true);
    let big = value(2 * MIB, b'a');
    world.send(0, set("add", "k", &big, ""));
    world.send(0, set("set", "q", &big, " noreply"));
    world.send(0, set("add", "k", b"no", ""));
    world.settle("adds");
    assert_eq!(take(&mut world, 0), b"STORED\r\nNOT_STORED\r\n");
    assert!(stored(&world, 1, "k") == Some(big.clone()) && stored(&world, 1, "q") == Some(big));
}

#[test]
fn a_bad_end_of_a_block_stores_nothing() {
    let mut world = World::new(7, &config(1, 1), 1, true);
    let big = value(2 * MIB, b'a');
    world.ask(0, "set k 5 0 3\r\nold\r\n");
    world.send(0, [format!("set k 5 0 {}\r\n", big.len()).as_bytes(), &big, b"xx"].concat());
    world.send(0, "\r\nget k\r\n");
    world.settle("a bad block");
    let answer = String::from_utf8(take(&mut world, 0)).expect("text");
    assert!(answer.starts_with("CLIENT_ERROR bad data chunk\r\n"), "{answer}");
    assert!(answer.ends_with("VALUE k 5 3\r\nold\r\nEND\r\n"), "{answer}");
}

#[test]
fn slow_clients_are_waited_for_with_little_memory() {
    let clients = 12;
    let mut world = World::new(8, &config(1, 0), clients, true);
    let big = value(2 * MIB, b'a');
    world.servers[0].item(b"big", 5, 0, big.clone());
    world.takes = 10_000;
    for client in 0..clients {
        world.send(client, "get big\r\n");
    }
    let expected = [&shown("big", &big)[..], b"END\r\n"].concat();
    let mut most = 0;
    for _ in 0..20_000 {
        world.step();
        world.pass_us(100);
        most = most.max(world.relay.held());
        if world.outputs.iter().all(|output| output.len() == expected.len()) {
            break;
        }
    }
    assert!(world.outputs.iter().all(|output| *output == expected));
    assert!(most < 4 * MIB, "{most} bytes were held for 24 MiB");
    world.settle("quiet again");
}

#[test]
fn a_server_lost_in_the_middle_breaks_its_readers_only() {
    let mut world = World::new(9, &config(2, 0), 2, true);
    let big = value(4 * MIB, b'a');
    let key = (0..)
        .map(|n| format!("k{n}"))
        .find(|key| Routes::new(&config(2, 0)).server(key.as_bytes()) == Some(0));
    let key = key.expect("a key of the first server");
    world.servers[0].item(key.as_bytes(), 5, 0, big.clone());
    world.send(0, format!("get {key}\r\n"));
    while world.outputs[0].len() < 2 * MIB {
        world.step();
    }
    world.servers[0].dead = true;
    for _ in 0..10 {
        world.step();
        world.pass_us(1000);
    }
    assert!(world.fronts[0].is_finished(), "half a value has left");
    assert!(!world.fronts[1].is_finished());
}

#[test]
fn a_server_lost_before_the_first_byte_is_passed_over() {
    let mut world = World::new(10, &config(1, 1), 1, true);
    let big = value(2 * MIB, b'a');
    world.send(0, set("set", "k", &big, ""));
    world.settle("set");
    take(&mut world, 0);
    world.servers[0].dead = true;
    world.cut(0);
    world.send(0, "get k\r\n");
    world.settle("get");
    assert!(take(&mut world, 0) == [&shown("k", &big)[..], b"END\r\n"].concat());
    let next = value(2 * MIB, b'n');
    world.send(0, set("set", "k", &next, ""));
    world.settle("set on the backup");
    assert_eq!(take(&mut world, 0), b"STORED\r\n");
    assert!(stored(&world, 1, "k") == Some(next));
}

/// Large values on the first server, known to be large, and everybody taking `takes` bytes a step.
fn known(world: &mut World, keys: &[&str], takes: usize) -> Vec<Vec<u8>> {
    let mut values = Vec::new();
    for (with, key) in (b'a'..).zip(keys) {
        let value = value(2 * MIB + usize::from(with), with);
        world.servers[0].item(key.as_bytes(), 5, 0, value.clone());
        world.send(0, format!("get {key}\r\n"));
        values.push([&shown(key, &value)[..], b"END\r\n"].concat());
    }
    world.settle("they are found to be large");
    world.outputs.iter_mut().for_each(Vec::clear);
    world.takes = takes;
    values
}

fn steps(world: &mut World, count: usize, us: u64) {
    for _ in 0..count {
        world.step();
        world.pass_us(us);
    }
}

#[test]
fn whoever_left_the_line_is_not_mistaken_for_the_next() {
    let mut world = World::new(11, &config(1, 0), 6, true);
    let values = known(&mut world, &["big", "other"], 0);
    for client in 0..5 {
        world.send(client, "get big\r\n");
        steps(&mut world, 20, 100);
    }
    // The fifth waits for a lane, and leaves; another has its place, and gets a value of its own.
    world.fronts[4].abandon(&mut world.relay);
    world.fronts[4] = Front::new(Shared::new(&config(1, 0)));
    world.send(5, "get other\r\n");
    steps(&mut world, 20, 100);
    world.takes = usize::MAX;
    world.settle("the lanes become free");
    for client in 0..4 {
        assert!(take(&mut world, client) == values[0], "client {client}");
    }
    assert!(take(&mut world, 5) == values[1]);
}

#[test]
fn what_is_left_on_a_lane_is_not_read_by_the_next_one() {
    let mut world = World::new(12, &config(1, 0), 1, true);
    known(&mut world, &["big"], 0);
    world.send(0, "get big\r\n");
    world.relay.tick(world.now);
    world.fronts[0].process(world.now, World::client_id(0), &mut world.relay);
    let mut links = Vec::new();
    world.relay.links(&mut links);
    let lane = links.into_iter().find(|&link| link >= LANES).expect("a lane");
    let lie = b"NONSENSE\r\nVALUE big 5 3\r\nlie\r\nEND\r\n";
    let mut connection = world.relay.connection(lane);
    connection.space(lie.len())[..lie.len()].copy_from_slice(lie);
    connection.received(world.now, lie.len());
    drop(connection);
    // It is asked again, but on another connection.
    assert!(!world.relay.received(lane, world.now) && !world.relay.has_link(lane));
}

#[test]
fn only_those_are_cut_whose_lanes_are_wanted() {
    let two = config(2, 0);
    let routes = Routes::new(&two);
    let of = |server| {
        let mut keys = (0..).map(|n| format!("k{n}"));
        keys.find(|key| routes.server(key.as_bytes()) == Some(server)).expect("a key")
    };
    let mut world = World::new(13, &two, 10, true);
    let keys = [of(0), of(1)];
    for (server, key) in keys.iter().enumerate() {
        world.servers[server].item(key.as_bytes(), 5, 0, value(2 * MIB, b'a'));
        world.send(0, format!("get {key}\r\n"));
    }
    world.settle("they are found to be large");
    world.takes = 0;
    // All lanes to both are taken, but only the second's is waited for.
    for client in 0..9 {
        world.send(client, format!("get {}\r\n", keys[usize::from(client >= 4)]));
        steps(&mut world, 20, 100);
    }
    steps(&mut world, 600, 10_000);
    let cut = |from: usize| (from..from + 4).filter(|&n| world.fronts[n].is_finished()).count();
    assert_eq!((cut(0), cut(4)), (0, 1));
}

#[test]
fn whoever_waits_for_the_backups_lane_is_not_called_slow() {
    let mut world = World::new(14, &config(1, 1), 5, true);
    let big = value(2 * MIB, b'a');
    world.servers[1].item(b"big", 5, 0, big.clone());
    world.takes = 0;
    for client in 0..4 {
        world.send(client, "get big\r\n");
        steps(&mut world, 60, 100);
    }
    world.send(4, set("set", "k", &big, ""));
    world.takes = 1;
    steps(&mut world, 700, 10_000);
    assert!(!world.fronts[4].is_finished() && take(&mut world, 4) == b"STORED\r\n");
    assert!(stored(&world, 1, "k") == Some(big));
}

#[test]
fn a_block_goes_on_while_others_hold_much() {
    let mut world = World::new(15, &config(1, 1), 1, true);
    let big = value(3 * MIB, b'a');
    assert!(world.relay.hold(60 * MIB));
    world.send(0, set("set", "k", &big, ""));
    steps(&mut world, 2000, 100);
    assert_eq!(take(&mut world, 0), b"STORED\r\n");
    world.relay.release(60 * MIB);
    world.settle("all of it");
}

#[test]
fn a_client_that_leaves_out_the_end_of_a_block_is_done() {
    for missing in 1..3 {
        let mut world = World::new(16, &config(1, 1), 1, true);
        let all = set("set", "k", &value(2 * MIB, b'a'), "");
        world.send(0, &all[..all.len() - missing]);
        world.fronts[0].input_ended();
        steps(&mut world, 1000, 100);
        assert!(world.fronts[0].is_finished(), "{missing} bytes are missing");
        world.fronts[0].abandon(&mut world.relay);
        assert_eq!(world.relay.in_flight(), 0);
        assert!(stored(&world, 0, "k").is_none());
    }
}

#[test]
fn a_write_behind_a_large_get_does_not_overtake_it() {
    let mut world = World::new(17, &config(1, 1), 1, true);
    let values = known(&mut world, &["big", "too"], usize::MAX);
    world.send(0, "get big\r\nset big 5 0 3\r\nnew\r\nget too big\r\ndelete too\r\nget big\r\n");
    world.settle("a pipeline");
    let expected = [
        &values[0][..],
        b"STORED\r\n",
        values[1].strip_suffix(b"END\r\n").expect("its end"),
        b"VALUE big 5 3\r\nnew\r\nEND\r\nDELETED\r\nVALUE big 5 3\r\nnew\r\nEND\r\n",
    ];
    assert!(take(&mut world, 0) == expected.concat());
}
