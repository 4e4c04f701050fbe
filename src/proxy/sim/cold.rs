//! Cold places: what was lost is looked up, walked, put back; then a miss is a miss.

use super::*;

/// One server (0), one backup (1), two clients, all warm.
fn pair(meta: bool) -> World {
    let mut world = World::new(1, &config(1, 1), 2, meta);
    world.servers.iter_mut().for_each(|server| server.lists = true);
    world.warm_up();
    world
}

fn count(world: &World, id: usize) -> usize {
    world.servers[id].items.len()
}

/// Seconds pass.
fn pass(world: &mut World, secs: u64) {
    for _ in 0..secs * 20 {
        world.pass_us(50_000);
        world.step();
    }
    world.settle("time passes");
}

fn store(world: &mut World, keys: usize) {
    let sets: String = (0..keys).map(|n| format!("set key:{n} 7 900 3\r\nabc\r\n")).collect();
    world.ask(0, &sets);
}

fn restart(world: &mut World, id: usize) {
    world.servers[id].restart();
    world.cut(id);
}

#[test]
fn at_the_start_the_backup_is_walked_and_then_a_miss_costs_one_lookup() {
    let mut world = World::new(1, &config(1, 1), 2, true);
    for n in 0..1000 {
        world.servers[1].item(format!("key:{n}").as_bytes(), 7, 900, b"abc".to_vec());
    }
    world.servers[1].item(b"odd \xff key", 3, 0, b"no text".to_vec());
    assert_eq!(world.ask(0, "get key:5\r\n"), "VALUE key:5 7 3\r\nabc\r\nEND\r\n");
    assert_eq!(world.servers[0].items[&b"key:5"[..]].exptime, 900, "asked before it was greeted");
    world.warm_up();
    assert_eq!(count(&world, 0), 1001);
    let odd = &world.servers[0].items[&b"odd \xff key"[..]];
    assert_eq!((odd.flags, &odd.value[..]), (3, &b"no text"[..]));
    let item = &world.servers[0].items[&b"key:7"[..]];
    assert_eq!((item.flags, item.exptime, &item.value[..]), (7, 900, &b"abc"[..]));
    let asked = world.servers[1].gets;
    assert_eq!(world.ask(0, "get no such keys\r\n"), "END\r\n");
    assert_eq!(world.servers[1].gets, asked, "the backup is not asked");
    assert_eq!(world.servers[1].dumps, 2, "one walk, and one that finds nothing more to do");
}

#[test]
fn a_restarted_server_is_noticed_and_filled_without_anybody_asking() {
    for meta in [true, false] {
        let mut world = pair(meta);
        store(&mut world, 3000);
        restart(&mut world, 0);
        assert_eq!(count(&world, 0), 0);
        pass(&mut world, 1);
        assert!(!world.relay.is_warm());
        world.warm_up();
        assert_eq!(count(&world, 0), 3000, "meta {meta}");
        let exptime = world.servers[0].items[&b"key:7"[..]].exptime;
        // Without meta commands the dump tells the lifetime; time has passed meanwhile.
        assert!((800..=900).contains(&exptime), "{exptime}, meta {meta}");
        assert_eq!(world.relay.count().fill_backs.get(), 3000);
    }
}

#[test]
fn a_restarted_backup_is_filled_from_its_servers() {
    let mut world = World::new(1, &config(3, 1), 1, true);
    world.warm_up();
    store(&mut world, 2000);
    assert_eq!(count(&world, 3), 2000);
    restart(&mut world, 3);
    pass(&mut world, 15);
    assert!(world.relay.is_warm());
    assert_eq!(count(&world, 3), 2000);
    assert_eq!([0, 1, 2].map(|id| world.servers[id].dumps), [2, 2, 2]);
    // So a second failure loses nothing.
    (0..3).for_each(|id| restart(&mut world, id));
    let answer = world.ask(0, "get key:0 key:1 key:2 key:1999\r\n");
    assert_eq!(answer.matches("VALUE ").count(), 4);
}

#[test]
fn a_cut_without_a_restart_costs_the_missed_keys_only() {
    let mut world = pair(true);
    store(&mut world, 500);
    world.servers[0].frozen = true;
    assert_eq!(
        world.ask(0, "set key:1 0 0 3\r\nnew\r\ndelete key:2\r\nset fresh 0 0 1\r\nx\r\n"),
        "STORED\r\nDELETED\r\nSTORED\r\n"
    );
    let dumps = world.servers[1].dumps;
    world.servers[0].frozen = false;
    // Its first answers come at once, before anybody could have put anything back.
    world.cut(0);
    while !world.relay.usable_for_tests(0) {
        world.pass_us(1000);
        world.step();
    }
    assert_eq!(
        world.ask(0, "get key:1 key:2 fresh key:3\r\n"),
        "VALUE key:1 0 3\r\nnew\r\nVALUE fresh 0 1\r\nx\r\nVALUE key:3 7 3\r\nabc\r\nEND\r\n"
    );
    pass(&mut world, 2);
    assert!(world.relay.is_warm(), "as soon as the keys are back");
    assert_eq!(world.servers[0].items[&b"key:1"[..]].value, b"new");
    assert!(world.servers[0].items.contains_key(&b"fresh"[..]));
    assert_eq!(world.servers[1].dumps, dumps, "nobody had to list anything");
    let asked = world.servers[1].gets;
    assert_eq!(world.ask(0, "get nothing\r\n"), "END\r\n");
    assert_eq!(world.servers[1].gets, asked);
}

#[test]
fn what_a_client_does_during_the_walk_is_not_undone() {
    for seed in 0..20 {
        let mut world = World::new(seed, &config(1, 1), 2, true);
        world.warm_up();
        store(&mut world, 400);
        restart(&mut world, 0);
        let mut gone = Vec::new();
        for n in (0..400).step_by(3) {
            world.send(0, format!("delete key:{n}\r\nset key:{} 1 0 1\r\nn\r\n", n + 1));
            gone.push(n);
            for _ in 0..world.random.below(4) {
                world.step();
                world.pass_us(200);
            }
        }
        world.settle("the walk");
        world.warm_up();
        for n in 0..400 {
            let key = format!("key:{n}").into_bytes();
            let value = |id: usize| world.servers[id].items.get(&key).map(|item| &item.value[..]);
            let expected = match n % 3 {
                0 => None,
                1 => Some(&b"n"[..]),
                _ => Some(&b"abc"[..]),
            };
            assert_eq!((value(0), value(1)), (expected, expected), "seed {seed}, key {n}");
        }
    }
}

#[test]
fn repeated_true_misses_are_looked_up_once_while_it_is_cold() {
    let mut world = pair(true);
    // Listing is refused again and again: it stays cold.
    world.servers[1].busy = usize::MAX;
    restart(&mut world, 0);
    pass(&mut world, 1);
    let asked = world.relay.count().second_lookups.get();
    for _ in 0..5 {
        assert_eq!(world.ask(0, "get a b c\r\nincr d 1\r\n"), "END\r\nNOT_FOUND\r\n");
    }
    assert_eq!(world.relay.count().second_lookups.get(), asked + 4, "four keys, once each");
    // Written: it is not nowhere any more, wherever it is.
    assert_eq!(world.ask(0, "set a 0 0 1\r\n1\r\n"), "STORED\r\n");
    world.servers[0].items.clear();
    assert_eq!(world.ask(0, "get a\r\n"), "VALUE a 0 1\r\n1\r\nEND\r\n");
    // And in the next period everything is asked for anew.
    world.servers[1].item(b"b", 0, 0, b"2".to_vec());
    restart(&mut world, 0);
    pass(&mut world, 1);
    assert_eq!(world.ask(0, "get b\r\n"), "VALUE b 0 1\r\n2\r\nEND\r\n");
}

#[test]
fn a_busy_lister_is_asked_again_and_one_that_cannot_list_leaves_it_cold_for_its_time() {
    let mut world = pair(true);
    store(&mut world, 100);
    world.servers[1].busy = 2;
    restart(&mut world, 0);
    pass(&mut world, 1);
    assert!(!world.relay.is_warm());
    world.warm_up();
    assert_eq!(count(&world, 0), 100);
    // Too old to list.
    let mut old = config(1, 1);
    old.cold_secs = 100;
    let mut world = World::new(1, &old, 1, false);
    pass(&mut world, 50);
    assert!(!world.relay.is_warm());
    store(&mut world, 10);
    restart(&mut world, 0);
    pass(&mut world, 90);
    assert!(world.ask(0, "get key:3\r\n").starts_with("VALUE"));
    assert!(!world.relay.is_warm(), "cold since the restart");
    pass(&mut world, 20);
    assert!(world.relay.is_warm());
}

#[test]
fn flapping_does_not_have_everything_listed_again_and_again() {
    let mut world = pair(true);
    store(&mut world, 2000);
    let before = world.servers[1].dumps;
    for _ in 0..60 {
        restart(&mut world, 0);
        for _ in 0..20 {
            world.pass_us(50_000);
            world.step();
        }
    }
    let dumps = world.servers[1].dumps - before;
    assert!((1..=61).contains(&dumps), "{dumps} dumps in a minute of restarts");
    // The network flaps, the process stays.
    pass(&mut world, 100);
    let before = world.servers[1].dumps;
    for n in 0..200 {
        world.cut(0);
        assert_eq!(world.ask(0, &format!("set x{n} 0 0 1\r\nx\r\n")), "STORED\r\n");
        pass(&mut world, 1);
    }
    assert_eq!(world.servers[1].dumps, before, "nothing was lost");
    pass(&mut world, 2);
    assert!(world.relay.is_warm());
    assert_eq!(count(&world, 0), count(&world, 1));
}

#[test]
fn a_source_that_goes_in_the_middle_is_walked_again() {
    let mut world = pair(true);
    store(&mut world, 3000);
    restart(&mut world, 0);
    while count(&world, 0) < 500 {
        world.pass_us(500);
        world.step();
    }
    world.cut(1);
    for _ in 0..100 {
        world.pass_us(500);
        world.step();
    }
    pass(&mut world, 10);
    world.warm_up();
    assert_eq!(count(&world, 0), 3000);
    let dumps = world.servers[1].dumps;
    assert_eq!(dumps, 2 + 2, "one at the start, one broken, one whole, one that found nothing");
}

#[test]
fn a_server_that_says_nothing_of_itself_is_cold_after_every_loss() {
    let mut world = pair(true);
    world.servers.iter_mut().for_each(|server| server.silent = true);
    store(&mut world, 50);
    for _ in 0..2 {
        world.servers[0].items.clear();
        world.cut(0);
        pass(&mut world, 1);
        assert!(world.ask(0, "get key:7\r\n").starts_with("VALUE"));
    }
    world.warm_up();
    assert_eq!(count(&world, 0), 50);
}

#[test]
fn too_many_missed_writes_make_it_cold_and_nothing_old_is_read() {
    let mut world = pair(true);
    world.ask(0, "set key 0 0 3\r\nold\r\nset other 0 0 1\r\nx\r\n");
    world.servers[0].frozen = true;
    world.ask(0, "set key 0 0 3\r\nnew\r\n");
    for n in 0..70 {
        let sets: String =
            (0..1000).map(|k| format!("set m:{n}:{k} 0 0 1 noreply\r\nx\r\n")).collect();
        world.ask(0, &sets);
    }
    world.heal(0);
    assert_eq!(
        world.ask(0, "get key other\r\n"),
        "VALUE key 0 3\r\nnew\r\nVALUE other 0 1\r\nx\r\nEND\r\n"
    );
    world.warm_up();
    assert_eq!(count(&world, 0), count(&world, 1));
}

/// A write of one of two keys, of which `l` is nowhere at first.
fn any_write(random: &mut Random) -> String {
    let key = ["k", "k", "l"][random.below(3)];
    let digit = random.below(10);
    match random.below(9) {
        0 => format!("set {key} 1 0 1\r\n{digit}\r\n"),
        1 => format!("add {key} 2 0 1\r\n{digit}\r\n"),
        2 => format!("replace {key} 3 0 1\r\n{digit}\r\n"),
        3 => format!("append {key} 0 0 1\r\n{digit}\r\n"),
        4 => format!("prepend {key} 0 0 1\r\n{}\r\n", digit.max(1)),
        5 => format!("incr {key} {digit}\r\n"),
        6 => format!("decr {key} {digit}\r\n"),
        7 => format!("touch {key} 500\r\n"),
        _ => format!("delete {key}\r\n"),
    }
}

#[test]
fn a_cold_server_answers_a_pipeline_as_one_that_has_lost_nothing() {
    for seed in 0..400 {
        let mut cold = World::new(seed, &config(1, 1), 1, seed % 3 > 0);
        let mut whole = World::new(seed, &config(1, 0), 1, true);
        cold.servers[1].busy = usize::MAX;
        cold.servers[1].item(b"k", 7, 0, b"10".to_vec());
        whole.servers[0].item(b"k", 7, 0, b"10".to_vec());
        // What is asked of a backup that has not said yet that it is old may be asked again, later.
        assert_eq!(cold.ask(0, "get other\r\n"), "END\r\n");
        let count = 2 + cold.random.below(7);
        let writes: String = (0..count).map(|_| any_write(&mut cold.random)).collect();
        // What the first get begins is of no use to those behind the writes. It may itself be
        // answered with what they did.
        let text = format!("get k l\r\n{writes}get k\r\nget k l\r\n");
        let behind_it = |answer: String| answer.split_once("END\r\n").map(|it| it.1.to_owned());
        let (have, expected) = (cold.ask(0, &text), whole.ask(0, &text));
        let (have, expected) = (behind_it(have), behind_it(expected));
        assert_eq!(have, expected, "seed {seed}: {text}");
        for key in [&b"k"[..], b"l"] {
            let of = |world: &World, id: usize| {
                world.servers[id].items.get(key).map(|item| (item.flags, item.value.clone()))
            };
            let expected = of(&whole, 0);
            assert_eq!(of(&cold, 1), expected, "the backup, seed {seed}: {text}");
            assert_eq!(of(&cold, 0), expected, "the server, seed {seed}: {text}");
        }
    }
}

#[test]
fn what_is_put_back_has_no_unique_that_a_client_knows() {
    let mut world = pair(true);
    assert_eq!(world.ask(0, "set k 0 0 1\r\na\r\n"), "STORED\r\n");
    let before = world.servers[0].items[&b"k"[..]].cas;
    world.servers[1].busy = usize::MAX;
    restart(&mut world, 0);
    // As memcached, which counts from the beginning again.
    world.servers[0].next_cas = before - 1;
    pass(&mut world, 1);
    assert_eq!(world.ask(0, &format!("cas k 0 0 1 {before}\r\nb\r\n")), "EXISTS\r\n");
    assert_eq!(world.servers[0].items[&b"k"[..]].cas, before, "the same, by accident");
    assert_eq!(world.ask(0, "cas nothing 0 0 1 5\r\nb\r\n"), "NOT_FOUND\r\n");
}

#[test]
fn what_a_backup_may_not_understand_waits_for_its_greeting_and_is_not_forgotten() {
    for seed in 0..100 {
        let mut world = World::new(seed, &config(1, 1), 2, true);
        world.warm_up();
        assert_eq!(world.ask(0, "set x 0 0 1\r\n1\r\n"), "STORED\r\n");
        world.cut(1);
        world.send(1, "ms AP8K 1 b\r\na\r\nms AP8K 1 b\r\nb\r\n");
        let answer = world.ask(0, "set x 0 0 1\r\n2\r\nms AP8K 2 b\r\nbb\r\nset x 0 0 1\r\n3\r\n");
        assert_eq!(answer, "STORED\r\nHD\r\nSTORED\r\n");
        for key in [&b"x"[..], b"\x00\xff\n"] {
            let value = |id: usize| world.servers[id].items.get(key).map(|item| &item.value[..]);
            assert!(value(0).is_some() && value(0) == value(1), "seed {seed}: {key:?}");
        }
    }
}
