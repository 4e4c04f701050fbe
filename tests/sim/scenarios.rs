//! One event after the other: the log lines word for word, and what a link guarantees.

use super::world::World;
use twincached::replication::Role;
use twincached::store::{DeleteTerms, Exptime, GetTerms, Handle, Item, Marks, Mode, Stored, Terms};

pub fn set(world: &mut World, machine: usize, key: &str, value: &[u8]) {
    world.work(machine, |handle, now| {
        let stored = handle.store(Mode::Set, key.as_bytes(), 3, Exptime::Never, value, now);
        assert!(matches!(stored, Stored::Stored(_)), "{stored:?}");
    });
}

pub fn get(world: &mut World, machine: usize, key: &str) -> Option<Vec<u8>> {
    world.work(machine, |handle, now| handle.peek(key.as_bytes(), now, |i| i.value.to_vec()))
}

fn pair(world: &mut World) {
    let (a, b) = (world.add(1, &[2]), world.add(2, &[1]));
    world.start(a);
    world.run_secs(0.5);
    world.start(b);
    world.run_secs(0.5);
    assert!(world.is_linked(a) && world.is_linked(b));
    world.log(a);
    world.log(b);
}

const ALONE: [&str; 4] = ["connect (peer=h2:11111)", "marugoto copying", "close", "listen"];

#[test]
fn the_first_node_listens_and_the_second_is_filled_before_it_serves() {
    let mut world = World::new(1);
    let (a, b) = (world.add(1, &[2]), world.add(2, &[1]));
    world.start(a);
    assert!(!world.serving(a));
    world.run_secs(0.1);
    assert_eq!(world.log(a), ALONE);
    assert!(world.serving(a));
    for n in 0..1000 {
        set(&mut world, a, &format!("key{n}"), &[b'x'; 500]);
    }
    world.start(b);
    for _ in 0..10_000 {
        if world.serving(b) {
            break;
        }
        world.run_secs(0.001);
    }
    for n in 0..1000 {
        assert!(get(&mut world, b, &format!("key{n}")).is_some(), "served without key{n}");
    }
    world.run_secs(0.1);
    assert_eq!(world.log(b), ["connect (peer=h1:11111)", "marugoto copying", "start"]);
    let expected = ["accept", "marugoto start", "marugoto 1000", "marugoto owari"];
    assert_eq!(world.log(a), expected);
    assert_eq!(world.up(a).node.role(), Role::Listener);
    assert_eq!(world.up(b).node.role(), Role::Connector);
    set(&mut world, a, "ab", b"1");
    set(&mut world, b, "ba", b"2");
    world.run_secs(0.1);
    assert_eq!(get(&mut world, b, "ab").unwrap(), b"1");
    assert_eq!(get(&mut world, a, "ba").unwrap(), b"2");
}

#[test]
fn an_empty_full_copy_has_no_start_line() {
    let mut world = World::new(2);
    let (a, b) = (world.add(1, &[2]), world.add(2, &[1]));
    world.start(a);
    world.run_secs(0.1);
    world.log(a);
    world.start(b);
    world.run_secs(0.2);
    assert_eq!(world.log(a), ["accept", "marugoto 0", "marugoto owari"]);
    assert_eq!(world.log(b), ["connect (peer=h1:11111)", "marugoto copying", "start"]);
}

#[test]
fn after_a_kill_the_other_listens_and_roles_change() {
    let mut world = World::new(3);
    pair(&mut world);
    let (a, b) = (0, 1);
    set(&mut world, a, "k", b"v");
    world.run_secs(0.1);
    world.kill(a);
    world.run_secs(0.5);
    assert_eq!(world.log(b), ["close", "listen"]);
    assert_eq!(get(&mut world, b, "k").unwrap(), b"v");
    world.start(a);
    world.run_secs(0.5);
    assert_eq!(world.log(a), ["connect (peer=h2:11111)", "marugoto copying", "start"]);
    assert_eq!(world.log(b), ["accept", "marugoto start", "marugoto 1", "marugoto owari"]);
    assert_eq!(get(&mut world, a, "k").unwrap(), b"v");
    assert_eq!(world.up(b).node.role(), Role::Listener);
}

#[test]
fn a_broken_link_heals_and_sends_only_what_is_newer() {
    let mut world = World::new(4);
    pair(&mut world);
    let (a, b) = (0, 1);
    for n in 0..500 {
        set(&mut world, a, &format!("key{n}"), &[b'x'; 1000]);
        world.run_secs(0.001);
    }
    world.run_secs(0.5);
    world.cut_both(1, 2);
    world.run_secs(7.0);
    assert_eq!(world.log(a), ["close", "listen"]);
    assert_eq!(world.log(b), ["close", "listen"]);
    set(&mut world, a, "key7", b"newer on a");
    set(&mut world, b, "key8", b"newer on b");
    world.work(a, |handle, now| assert!(handle.delete(b"key9", now)));
    world.heal();
    let bytes = world.network.bytes;
    world.run_secs(2.0);
    for machine in [a, b] {
        assert_eq!(get(&mut world, machine, "key7").unwrap(), b"newer on a");
        assert_eq!(get(&mut world, machine, "key8").unwrap(), b"newer on b");
        assert_eq!(get(&mut world, machine, "key9"), None);
    }
    assert!(
        world.network.bytes - bytes < 5000,
        "{} bytes for three changes",
        world.network.bytes - bytes
    );
    let logs = [world.log(a), world.log(b)];
    let listener = logs.iter().find(|log| log[0] == "accept").expect("somebody accepted");
    let connector = logs.iter().find(|log| log[0].starts_with("connect")).expect("and connected");
    assert!(connector.contains(&"start".to_owned()), "{connector:?}");
    assert!(!listener.iter().any(|line| line.contains("marugoto")), "{listener:?}");
}

#[test]
fn a_peer_that_leaves_in_order_sends_everything_first() {
    let mut world = World::new(5);
    pair(&mut world);
    let (a, b) = (0, 1);
    for n in 0..50 {
        set(&mut world, a, &format!("key{n}"), b"v");
    }
    world.up(a).node.stop();
    for _ in 0..1000 {
        if world.up(a).node.is_settled() {
            break;
        }
        world.run_secs(0.001);
    }
    let now = world.now(a);
    let running = world.up(a);
    running.node.finish(&mut running.repl, now);
    world.work(a, |_, _| ());
    world.run_secs(0.1);
    assert_eq!(world.log(a), ["close", "cleanup complete"]);
    world.kill(a);
    world.run_secs(0.1);
    assert_eq!(world.log(b), ["close", "listen"]);
    assert_eq!(get(&mut world, b, "key49").unwrap(), b"v");
}

#[test]
fn a_third_node_joins_a_pair() {
    let mut world = World::new(6);
    pair(&mut world);
    set(&mut world, 1, "k", b"v");
    let c = world.add(3, &[1]);
    world.start(c);
    world.run_secs(0.5);
    assert!(world.serving(c));
    assert_eq!(get(&mut world, c, "k").unwrap(), b"v");
    assert_eq!(world.log(c), ["connect (peer=h1:11111)", "marugoto copying", "start"]);
    assert_eq!(world.log(0), ["accept", "marugoto start", "marugoto 1", "marugoto owari"]);
    // Only the node in the middle is linked to both.
    set(&mut world, c, "from c", b"1");
    set(&mut world, 1, "from b", b"2");
    world.run_secs(0.2);
    assert_eq!(get(&mut world, 1, "from c").unwrap(), b"1");
    assert_eq!(get(&mut world, c, "from b").unwrap(), b"2");
    // A link less, but not the last one: nobody has to wait for a peer.
    world.kill(c);
    world.run_secs(0.2);
    assert_eq!(world.log(0), ["close"]);
    world.kill(1);
    world.run_secs(0.2);
    assert_eq!(world.log(0), ["close", "listen"]);
}

#[test]
fn a_node_that_reaches_itself_notices_and_keeps_calm() {
    let mut world = World::new(7);
    let a = world.add(1, &[1]);
    world.start(a);
    world.run_secs(60.0);
    let lines = ["connect (peer=h1:11111)", "marugoto copying", "close", "listen"];
    assert_eq!(world.log(a), lines);
    let itself = "replication: h1:11111 is this node itself";
    assert_eq!(world.machines[a].debug, [itself], "said once");
    assert!(world.serving(a) && !world.is_linked(a));
    assert!(
        world.network.connections <= 3,
        "{} connections in a minute",
        world.network.connections
    );
}

#[test]
fn two_nodes_on_one_host_share_a_port() {
    let mut world = World::new(8);
    let (a, b) = (world.add(1, &[1]), world.add(1, &[1]));
    world.start(a);
    world.run_secs(3.0);
    set(&mut world, a, "k", b"v");
    world.start(b);
    world.run_secs(1.0);
    assert!(world.serving(b));
    assert_eq!(get(&mut world, b, "k").unwrap(), b"v");
    world.kill(a);
    world.run_secs(3.0);
    assert_eq!(world.log(b)[3..5], ["close", "listen"]);
    world.start(a);
    world.run_secs(1.0);
    assert_eq!(get(&mut world, a, "k").unwrap(), b"v");
    // The link breaks, both live: the one that holds the port waits, the other dials.
    world.forget_connections(a);
    world.run_secs(2.0);
    assert!(world.is_linked(a) && world.is_linked(b));
}

#[test]
fn nodes_started_in_the_same_instant_link() {
    for seed in 0..100 {
        let one_host = seed % 2 == 0;
        let mut world = World::new(seed);
        let (a, b) = match one_host {
            true => (world.add(1, &[1]), world.add(1, &[1])),
            false => (world.add(1, &[2]), world.add(2, &[1])),
        };
        world.start(a);
        world.start(b);
        world.run_secs(2.0);
        let linked = world.is_linked(a) && world.is_linked(b);
        assert!(linked, "seed {seed}: {:?} {:?}", world.log(a), world.log(b));
        assert!(world.serving(a) && world.serving(b));
        set(&mut world, a, "k", b"v");
        world.run_secs(0.2);
        assert_eq!(get(&mut world, b, "k").unwrap(), b"v");
        let links = world.network.connections;
        world.run_secs(60.0);
        // On one host the one that listens meets itself, each half minute.
        let links = links + if one_host { 3 } else { 0 };
        assert!(world.network.connections <= links, "seed {seed}: the links do not stay");
    }
}

#[test]
fn a_silent_peer_is_dropped_after_five_seconds() {
    let mut world = World::new(9);
    pair(&mut world);
    world.run_secs(60.0);
    assert!(world.is_linked(0) && world.is_linked(1), "heartbeats keep an idle link");
    world.stop(1);
    world.run_secs(3.8);
    assert!(world.is_linked(0));
    world.run_secs(1.4);
    assert!(!world.is_linked(0));
    assert_eq!(world.log(0), ["close", "listen"]);
    set(&mut world, 0, "k", b"v");
    world.go_on(1);
    world.run_secs(2.0);
    assert_eq!(get(&mut world, 1, "k").unwrap(), b"v");
}

#[test]
fn a_network_that_is_back_carries_soon_however_long_it_was_cut() {
    for tenths in 1..=90 {
        let mut world = World::new(500 + tenths);
        pair(&mut world);
        world.run_secs(3.0);
        world.cut_both(1, 2);
        world.run_secs(tenths as f64 / 10.0);
        set(&mut world, 0, "from a", b"v");
        set(&mut world, 1, "from b", b"v");
        world.heal();
        // Two seconds are promised; waiting for the end of the silence would take up to 2.1.
        world.run_secs(1.5);
        assert!(get(&mut world, 1, "from a").is_some(), "cut for {tenths} tenths of a second");
        assert!(get(&mut world, 0, "from b").is_some(), "cut for {tenths} tenths of a second");
    }
}

#[test]
fn a_node_that_starts_against_a_hung_peer_serves() {
    let mut world = World::new(10);
    let (a, b) = (world.add(1, &[2]), world.add(2, &[1]));
    world.start(a);
    world.run_secs(0.5);
    world.stop(a);
    world.start(b);
    world.run_secs(4.0);
    assert!(!world.serving(b));
    world.run_secs(1.5);
    assert!(world.serving(b));
    let lines = ["connect (peer=h1:11111)", "marugoto copying", "close", "listen"];
    assert_eq!(world.log(b), lines);
    world.go_on(a);
    world.run_secs(2.5);
    assert!(world.is_linked(a) && world.is_linked(b));
}

#[test]
fn a_machine_that_lost_power_is_not_refused_when_it_returns() {
    let mut world = World::new(11);
    pair(&mut world);
    set(&mut world, 1, "k", b"v");
    world.run_secs(0.5);
    world.power_off(0);
    world.run_secs(1.0);
    world.start(0);
    world.run_secs(5.0);
    assert!(world.serving(0) && world.is_linked(0));
    assert_eq!(get(&mut world, 0, "k").unwrap(), b"v");
}

#[test]
fn a_copying_peer_that_dies_does_not_keep_clients_out() {
    let mut world = World::new(12);
    let (a, b) = (world.add(1, &[2]), world.add(2, &[1]));
    world.start(a);
    world.run_secs(0.5);
    for n in 0..1000 {
        set(&mut world, a, &format!("key{n}"), &[b'x'; 4000]);
    }
    world.start(b);
    world.run_secs(0.15);
    world.kill(a);
    assert!(!world.serving(b), "the copy should still be under way");
    world.run_secs(1.0);
    assert!(world.serving(b));
    let lines = ["connect (peer=h1:11111)", "marugoto copying", "close", "listen"];
    assert_eq!(world.log(b), lines);
}

#[test]
fn a_burst_over_the_queue_is_caught_up_without_breaking_the_link() {
    let mut world = World::new(13);
    pair(&mut world);
    world.stop(1);
    // Long enough to be more than what may wait as frames.
    let value = |n: u32| format!("{n:0500}").into_bytes();
    for n in 0..3000 {
        set(&mut world, 0, &format!("key{}", n % 1000), &value(n));
    }
    assert!(world.up(0).node.queue_free() == 0);
    world.go_on(1);
    world.run_secs(3.0);
    for n in 0..1000 {
        assert_eq!(get(&mut world, 1, &format!("key{n}")), Some(value(2000 + n)));
    }
    assert_eq!(world.log(0), [""; 0]);
    let now = world.now(0);
    let stats = &world.up(0).node.link_stats(now)[0];
    assert!(stats.figures.overflows > 0);
    assert_eq!((stats.lag_us, stats.queue), (0, 0));
}

#[test]
fn large_values_travel_in_parts_and_empty_ones_too() {
    let mut world = World::new(14);
    pair(&mut world);
    let large: Vec<u8> = (0..900_000u32).map(|n| (n / 7) as u8).collect();
    set(&mut world, 0, "large", &large);
    set(&mut world, 0, "empty", b"");
    set(&mut world, 1, "small", b"s");
    world.run_secs(3.0);
    assert_eq!(get(&mut world, 1, "large").unwrap(), large);
    assert_eq!(get(&mut world, 1, "empty").unwrap(), b"");
    assert_eq!(get(&mut world, 0, "small").unwrap(), b"s");
    world.kill(1);
    world.start(1);
    world.run_secs(3.0);
    assert_eq!(get(&mut world, 1, "large").unwrap(), large);
}

#[test]
fn what_a_small_node_cannot_hold_stays_on_the_large_one() {
    let mut world = World::new(15);
    pair(&mut world);
    world.kill(1);
    world.run_secs(0.2);
    world.store.item_max = 1024;
    world.start(1);
    world.run_secs(0.5);
    set(&mut world, 0, "k", b"fits");
    world.run_secs(0.2);
    assert_eq!(get(&mut world, 1, "k").unwrap(), b"fits");
    for len in [2000, 200_000] {
        set(&mut world, 0, "k", &vec![b'x'; len]);
        world.run_secs(1.0);
        assert_eq!(get(&mut world, 1, "k"), None, "an old value must not outlive a newer one");
        // A scan of the small node tells what it knows of the key.
        world.stop(0);
        for n in 0..1000 {
            set(&mut world, 1, &format!("other{n}"), b"v");
        }
        world.go_on(0);
        world.run_secs(2.0);
        assert_eq!(get(&mut world, 0, "other999").unwrap(), b"v");
        assert_eq!(get(&mut world, 0, "k").unwrap().len(), len);
    }
}

#[test]
fn both_directions_at_once_and_the_last_write_wins() {
    let mut world = World::new(16);
    pair(&mut world);
    for n in 0..200 {
        set(&mut world, n % 2, "contended", format!("{n}").as_bytes());
    }
    world.work(0, |handle: &mut Handle, now| handle.flush_all(None, now));
    set(&mut world, 1, "after", b"1");
    world.run_secs(1.0);
    let values = [get(&mut world, 0, "contended"), get(&mut world, 1, "contended")];
    assert_eq!(values[0], values[1]);
    let after = [get(&mut world, 0, "after"), get(&mut world, 1, "after")];
    assert_eq!(after[0], after[1]);
}

#[test]
fn of_the_clients_of_a_pair_one_wins_a_stale_item() {
    for len in [10, 40_000] {
        let mut world = World::new(18);
        pair(&mut world);
        set(&mut world, 0, "k", &vec![b'v'; len]);
        world.run_secs(0.1);
        let seen = |world: &mut World, machine| {
            world.work(machine, |handle: &mut Handle, now| {
                let look = |item: &Item<'_>| (item.marks, item.cas, item.exptime);
                handle.peek(b"k", now, look).expect("it is there")
            })
        };
        let ask = |world: &mut World, machine| {
            let terms = GetTerms::default();
            world.work(machine, |handle, now| {
                handle.meta_get(b"k", &terms, now, |_, found| found.won).expect("it is there")
            })
        };
        world.work(0, |handle, now| {
            let terms = DeleteTerms { stale: true, cas: Some(5), ..DeleteTerms::default() };
            handle.delete_with(b"k", &terms, now)
        });
        world.run_secs(0.1);
        let stale = Marks { stale: true, ..Marks::default() };
        assert_eq!(seen(&mut world, 1), (stale, 5, Exptime::Never));
        assert!(ask(&mut world, 1));
        world.run_secs(0.1);
        assert!(!ask(&mut world, 0));
        let won = Marks { won: true, ..stale };
        assert_eq!(seen(&mut world, 0), (won, 5, Exptime::Never));
        // A touch keeps the unique and the marks, everywhere.
        let later = Exptime::At(1_800_000_000);
        assert_eq!(world.work(0, |handle, now| handle.touch(b"k", later, now)), Some(5));
        world.run_secs(0.1);
        assert_eq!(seen(&mut world, 1), (won, 5, later));
        set(&mut world, 1, "k", b"new");
        world.run_secs(0.1);
        let (marks, cas, _) = seen(&mut world, 0);
        assert!(marks == Marks::default() && cas > 5);
    }
}

#[test]
fn an_explicit_unique_decides_nothing_between_nodes() {
    let mut world = World::new(19);
    pair(&mut world);
    let put = |world: &mut World, machine, cas, value: &[u8]| {
        let terms = Terms { cas: Some(cas), ..Terms::default() };
        world.work(machine, |handle, now| {
            let exptime = Exptime::Never;
            handle.store_with(Mode::Set, b"k", 0, exptime, value, &terms, now);
        });
        world.run_secs(0.0001);
    };
    // Neither has heard of the other's write.
    put(&mut world, 0, u64::MAX, b"first");
    put(&mut world, 1, 1, b"last");
    world.run_secs(0.1);
    for machine in [0, 1] {
        let held = world.work(machine, |handle, now| {
            handle.peek(b"k", now, |item| (item.cas, item.value.to_vec()))
        });
        assert_eq!(held, Some((1, b"last".to_vec())));
    }
}

#[test]
fn what_arrived_late_from_a_third_node_is_passed_on_after_its_death() {
    let mut world = World::new(17);
    let all = [world.add(1, &[2, 3]), world.add(2, &[1, 3]), world.add(3, &[1, 2])];
    let [a, b, c] = all;
    world.machines[a].skew_us = -240_000_000;
    all.iter().for_each(|&machine| world.start(machine));
    world.run_secs(3.0);
    for machine in all {
        let now = world.now(machine);
        assert_eq!(world.up(machine).node.link_stats(now).len(), 2);
    }
    world.cut_both(1, 2);
    world.cut_both(1, 3);
    world.run_secs(7.0);
    set(&mut world, a, "late", b"old clock");
    set(&mut world, b, "b", b"b");
    set(&mut world, c, "c", b"c");
    world.run_secs(1.0);
    // Both marks are acknowledged, and higher than the version of `late`. Only b hears of it.
    world.heal();
    world.cut_both(1, 3);
    world.cut_both(2, 3);
    world.run_secs(7.0);
    assert_eq!(get(&mut world, b, "late").unwrap(), b"old clock");
    world.power_off(a);
    world.heal();
    world.run_secs(7.0);
    assert_eq!(get(&mut world, c, "late").unwrap(), b"old clock");
}
