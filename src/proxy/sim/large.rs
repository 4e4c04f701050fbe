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
