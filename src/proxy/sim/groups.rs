//! Groups: twins that tell each other what was written, with a delay, and a proxy that must not
//! show it.
//!
//! What a twin has done when it dies reaches the other one; when it returns it first learns what it
//! missed. So for a client the two are one map, but that a command which may not be repeated can
//! end in doubt: then it was done once or not at all, never twice.

use std::collections::VecDeque;

use super::super::config::Place;
use super::super::relay::LOST;
use super::*;

/// When it arrives, at whom, the key, what it is then, and when it was made.
type Change = (u64, usize, Vec<u8>, Option<Item>, u64);

/// Two servers of one group, and what is under way between them.
struct Twins {
    world: World,
    known: [HashMap<Vec<u8>, Item>; 2],
    /// When each twin's version of a key was made.
    made: [HashMap<Vec<u8>, u64>; 2],
    count: u64,
    under_way: VecDeque<Change>,
    delay_us: u64,
}

fn group() -> Config {
    let members = (0..2).map(|port| ServerAddr::tcp("10.0.0.1", port)).collect();
    Config { servers: vec![Place { members }], ..Config::default() }
}

impl Twins {
    fn new(seed: u64, clients: usize, delay_us: u64) -> Twins {
        let mut world = World::new(seed, &group(), clients, true);
        world.step();
        Twins {
            world,
            known: Default::default(),
            made: Default::default(),
            count: 0,
            under_way: VecDeque::new(),
            delay_us,
        }
    }

    /// What each twin has done since the last call sets out for the other one.
    fn notice(&mut self) {
        for id in 0..2 {
            let items = &self.world.servers[id].items;
            if *items == self.known[id] {
                continue;
            }
            let mut keys: Vec<Vec<u8>> =
                items.keys().chain(self.known[id].keys()).cloned().collect();
            keys.sort();
            keys.dedup();
            keys.retain(|key| items.get(key) != self.known[id].get(key));
            let due = self.world.now.mono_us + self.delay_us;
            for key in keys {
                self.count += 1;
                self.made[id].insert(key.clone(), self.count);
                let item = items.get(&key).cloned();
                self.under_way.push_back((due, 1 - id, key, item, self.count));
            }
            self.known[id] = items.clone();
        }
    }

    fn arrive(&mut self, everything: bool) {
        while let Some((due, ..)) = self.under_way.front() {
            if *due > self.world.now.mono_us && !everything {
                return;
            }
            let Some((_, to, key, item, made)) = self.under_way.pop_front() else { return };
            if self.made[to].get(&key).is_some_and(|&own| own > made) {
                continue;
            }
            self.made[to].insert(key.clone(), made);
            for items in [&mut self.world.servers[to].items, &mut self.known[to]] {
                match &item {
                    Some(item) => items.insert(key.clone(), item.clone()),
                    None => items.remove(&key),
                };
            }
        }
    }

    fn step(&mut self) {
        self.world.step();
        self.notice();
        self.arrive(false);
    }

    fn settle(&mut self, what: &str) {
        for _ in 0..100_000 {
            self.step();
            let world = &mut self.world;
            let idle = world.fronts.iter().all(|front| front.input.is_empty());
            if idle && world.relay.in_flight() == 0 {
                self.step();
                return;
            }
            world.pass_us(997);
        }
        panic!("{what}: no end after a hundred simulated seconds");
    }

    fn ask(&mut self, bytes: &str) -> String {
        self.world.send(0, bytes);
        self.settle(bytes);
        String::from_utf8(std::mem::take(&mut self.world.outputs[0])).expect("text")
    }

    fn kill(&mut self, id: usize) {
        self.world.servers[id].dead = true;
        self.world.cut(id);
        self.notice();
        self.arrive(true);
    }

    fn revive(&mut self, id: usize) {
        self.notice();
        self.arrive(true);
        self.world.servers[id].dead = false;
        self.world.servers[id].frozen = false;
    }

    fn pass(&mut self, us: u64) {
        for _ in 0..us / 10_000 {
            self.world.pass_us(10_000);
            self.step();
        }
    }

    fn has(&self, id: usize, key: &str) -> Option<String> {
        let item = self.world.servers[id].items.get(key.as_bytes())?;
        Some(String::from_utf8_lossy(&item.value).into_owned())
    }
}

#[test]
fn written_on_the_first_and_read_there_for_a_second() {
    let mut twins = Twins::new(1, 1, 300_000);
    // The second is nearer.
    twins.pass(300_000);
    assert_eq!(twins.ask("set k 0 0 1\r\na\r\nget k\r\n"), "STORED\r\nVALUE k 0 1\r\na\r\nEND\r\n");
    assert_eq!((twins.has(0, "k").as_deref(), twins.has(1, "k")), (Some("a"), None));
    for _ in 0..50 {
        twins.pass(10_000);
        assert_eq!(twins.ask("get k\r\n"), "VALUE k 0 1\r\na\r\nEND\r\n");
    }
    assert_eq!(twins.has(1, "k").as_deref(), Some("a"));
    twins.kill(0);
    assert_eq!(twins.ask("get k\r\nincr n 1\r\n"), "VALUE k 0 1\r\na\r\nEND\r\nNOT_FOUND\r\n");
    assert_eq!(twins.ask("set n 0 0 1\r\n5\r\n"), "STORED\r\n");
    assert_eq!(twins.has(1, "n").as_deref(), Some("5"));
    // The first returns while the second still tells it: what was just written there stays there.
    twins.revive(0);
    twins.pass(100_000);
    assert_eq!(twins.ask("set n 0 0 1\r\n6\r\n"), "STORED\r\n");
    twins.pass(700_000);
    assert_eq!(twins.ask("incr n 1\r\nget n\r\n"), "7\r\nVALUE n 0 1\r\n7\r\nEND\r\n");
    twins.pass(2_000_000);
    let before = twins.world.servers[1].next_cas;
    assert_eq!(twins.ask("incr n 1\r\n"), "8\r\n");
    assert_eq!(twins.has(0, "n").as_deref(), Some("8"), "and then the first has it again");
    assert_eq!(twins.world.servers[1].next_cas, before);
}

#[test]
fn a_lost_member_is_replaced_at_once_or_said_to_be_lost() {
    let mut twins = Twins::new(2, 1, 1000);
    assert_eq!(twins.ask("set n 0 0 1\r\n1\r\nset t 0 0 1\r\nx\r\n"), "STORED\r\nSTORED\r\n");
    twins.pass(20_000);
    twins.world.servers[0].frozen = true;
    twins.world.send(0, "get t\r\nset t 0 0 1\r\ny\r\nincr n 1\r\nappend t 0 0 1\r\nz\r\n");
    twins.world.send(0, "touch t 9\r\nget n t\r\ndelete t\r\nflush_all\r\n");
    for _ in 0..5 {
        twins.step();
    }
    twins.kill(0);
    twins.settle("the first is dead");
    let lost = String::from_utf8_lossy(LOST);
    let output = String::from_utf8(std::mem::take(&mut twins.world.outputs[0])).expect("text");
    assert_eq!(
        output,
        format!(
            "VALUE t 0 1\r\nx\r\nEND\r\nSTORED\r\n{lost}{lost}TOUCHED\r\nVALUE n 0 1\r\n1\r\n\
             VALUE t 0 1\r\ny\r\nEND\r\nDELETED\r\nOK\r\n"
        )
    );
    // Now it is known to be down: nothing is in doubt.
    assert_eq!(twins.ask("set n 0 0 1\r\n1\r\nincr n 1\r\n"), "STORED\r\n2\r\n");
    twins.kill(1);
    let none = "SERVER_ERROR CAN NOT CONNECT TO BACKEND SERVER\r\n";
    assert_eq!(twins.ask("get n\r\nset n 0 0 1\r\n1\r\n"), format!("{none}{none}"));
    twins.revive(1);
    twins.pass(2_000_000);
    assert_eq!(twins.ask("get n\r\n"), "VALUE n 0 1\r\n2\r\nEND\r\n");
}

#[test]
fn the_nearest_is_read_and_small_differences_change_nothing() {
    let mut twins = Twins::new(3, 1, 1000);
    twins.ask("set k 0 0 1\r\na\r\n");
    twins.pass(1_500_000);
    let reads = |twins: &mut Twins| {
        let before = [twins.world.servers[0].gets, twins.world.servers[1].gets];
        for _ in 0..10 {
            assert_eq!(twins.ask("get k\r\n"), "VALUE k 0 1\r\na\r\nEND\r\n");
        }
        [twins.world.servers[0].gets - before[0], twins.world.servers[1].gets - before[1]]
    };
    assert_eq!(reads(&mut twins), [10, 0], "alike: the order of the list");
    // The first takes its time with every answer.
    for _ in 0..3 {
        twins.world.servers[0].frozen = true;
        twins.pass(900_000);
        twins.world.servers[0].frozen = false;
        twins.pass(300_000);
    }
    assert_eq!(reads(&mut twins)[1], 10, "the other one is nearer");
}

/// What a key may hold, as far as its client can know.
type Possible = Vec<Option<String>>;

fn lines<'a>(rest: &mut &'a str) -> &'a str {
    let (line, after) = rest.split_once("\r\n").expect("a line");
    *rest = after;
    line
}

/// One command on a key, and what its answer says about it.
fn check(
    verb: usize,
    fresh: &str,
    possible: &mut Possible,
    rest: &mut &str,
    context: &str,
) -> bool {
    let line = lines(rest);
    let lost = format!("{line}\r\n").as_bytes() == LOST;
    let done: fn(&str, &str) -> String = match verb {
        2 => |old, _| (old.parse::<u64>().expect("a number") + 1).to_string(),
        _ => |old, fresh| format!("{old}{fresh}"),
    };
    match verb {
        0 => {
            assert_eq!(line, "STORED", "{context}");
            *possible = vec![Some(fresh.to_owned())];
        }
        1 => {
            assert!(line == "DELETED" || line == "NOT_FOUND", "{context}: {line}");
            *possible = vec![None];
        }
        2 | 3 if lost => {
            let more: Possible =
                possible.iter().map(|old| old.as_ref().map(|old| done(old, fresh))).collect();
            possible.extend(more);
        }
        2 | 3 if line == "NOT_FOUND" || line == "NOT_STORED" => {
            assert!(possible.contains(&None), "{context}: {line}, not {possible:?}");
            *possible = vec![None];
        }
        2 | 3 => {
            possible.retain(Option::is_some);
            possible.iter_mut().flatten().for_each(|old| *old = done(old, fresh));
            if verb == 2 {
                possible.retain(|new| new.as_deref() == Some(line));
            } else {
                assert_eq!(line, "STORED", "{context}");
            }
            assert!(!possible.is_empty(), "{context}: {line}");
        }
        _ => {
            let mut found = None;
            if line != "END" {
                assert!(line.starts_with("VALUE "), "{context}: {line}");
                found = Some(lines(rest).to_owned());
                assert_eq!(lines(rest), "END", "{context}");
            }
            assert!(possible.contains(&found), "{context}: {found:?}, not {possible:?}");
            *possible = vec![found];
        }
    }
    lost
}

#[test]
fn random_worlds_of_twins_look_like_one_map_and_nothing_is_done_twice() {
    let (mut doubts, mut deaths) = (0, 0);
    for seed in 3000..3100 {
        let clients = 3;
        let delay = [1000, 30_000, 300_000][seed as usize % 3];
        let mut twins = Twins::new(seed, clients, delay);
        let mut possible: HashMap<(usize, usize), Possible> = HashMap::new();
        let mut next = 0;
        for round in 0..40 {
            let mut asked = Vec::new();
            for client in 0..clients {
                // A read may be under way to another member than a write that was sent after it,
                // so nobody writes what he has not been told yet.
                let mut read = [false; 3];
                for _ in 0..=twins.world.random.below(5) {
                    let key = twins.world.random.below(3);
                    // Key 0 holds numbers.
                    let verb =
                        [0, 1, if key == 0 { 2 } else { 3 }, if key == 0 { 2 } else { 3 }, 4];
                    let verb = verb[twins.world.random.below(5)];
                    if verb < 4 && read[key] {
                        continue;
                    }
                    read[key] |= verb == 4;
                    next += 1;
                    let name = format!("c{client}k{key}");
                    let fresh = if key == 0 { next.to_string() } else { format!("[{next}]") };
                    let len = fresh.len();
                    twins.world.send(
                        client,
                        match verb {
                            0 => format!("set {name} 0 0 {len}\r\n{fresh}\r\n"),
                            1 => format!("delete {name}\r\n"),
                            2 => format!("incr {name} 1\r\n"),
                            3 => format!("append {name} 0 0 {len}\r\n{fresh}\r\n"),
                            _ => format!("get {name}\r\n"),
                        },
                    );
                    asked.push((client, key, verb, fresh));
                }
            }
            for _ in 0..twins.world.random.below(8) {
                twins.step();
                twins.world.pass_us(100);
            }
            let id = twins.world.random.below(2);
            let both = twins.world.servers.iter().all(|server| !server.dead && !server.frozen);
            match twins.world.random.below(5) {
                0 if both => {
                    twins.kill(id);
                    deaths += 1;
                }
                1 if both => twins.world.servers[id].frozen = true,
                2 if both => twins.world.cut(id),
                _ => {}
            }
            let context = format!("seed {seed}, round {round}");
            twins.settle(&context);
            let mut outputs: Vec<String> = Vec::new();
            for output in &mut twins.world.outputs {
                outputs.push(String::from_utf8(std::mem::take(output)).expect("text"));
            }
            for (client, output) in outputs.iter().enumerate() {
                let mut rest = &output[..];
                for (_, key, verb, fresh) in asked.iter().filter(|asked| asked.0 == client) {
                    let at = possible.entry((client, *key)).or_insert_with(|| vec![None]);
                    let context = format!("{context}, c{client}k{key} verb {verb} {fresh}");
                    doubts += usize::from(check(*verb, fresh, at, &mut rest, &context));
                }
                assert_eq!(rest, "", "{context}");
            }
            if twins.world.random.below(3) == 0 {
                for id in 0..2 {
                    if twins.world.servers[id].dead || twins.world.servers[id].frozen {
                        twins.revive(id);
                    }
                }
                // The proxy must know that both are there before one of them goes.
                let pause = [600_000, 900_000, 1_500_000][twins.world.random.below(3)];
                twins.pass(pause);
            }
        }
    }
    assert!(doubts > 20 && deaths > 200, "{doubts} in doubt, {deaths} died");
}
