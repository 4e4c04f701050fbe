//! Many clients, random commands, random faults: every answer is checked against what its client
//! knows.
//!
//! While only servers fail, the backup makes good for everything: the pair must answer exactly like
//! one map. While only backups fail, too; and when then a server is lost as well, a key may be
//! missing, but never have a value that it had before.

use super::*;

/// What a client knows of its own keys.
struct Model {
    client: usize,
    values: Vec<Option<String>>,
    uniques: Vec<u64>,
    next: u64,
}

/// One command's text and what must be answered.
struct Asked {
    text: String,
    answer: Answer,
}

enum Answer {
    Exactly(String),
    /// gets of a present key: the unique is read from it.
    Unique {
        key: usize,
        value: String,
    },
    /// cas: EXISTS is always allowed (a failover forgets uniques), STORED makes this the value.
    Cas {
        key: usize,
        value: String,
    },
}

const KEYS: usize = 6;

impl Model {
    fn new(client: usize) -> Model {
        Model { client, values: vec![None; KEYS], uniques: vec![0; KEYS], next: 0 }
    }

    fn name(&self, key: usize) -> String {
        format!("c{}k{key}", self.client)
    }

    /// A value that names its key, and that nobody ever wrote before.
    fn fresh(&mut self, key: usize) -> String {
        self.next += 1;
        if key == 0 {
            return self.next.to_string();
        }
        format!("{}#{};", self.name(key), self.next)
    }

    fn shown(&self, key: usize) -> String {
        let name = self.name(key);
        match &self.values[key] {
            Some(value) => format!("VALUE {name} {key} {}\r\n{value}\r\n", value.len()),
            None => String::new(),
        }
    }

    /// A command on `key`; key 0 holds numbers, the others text.
    fn command(&mut self, random: &mut Random, key: usize) -> Asked {
        let name = self.name(key);
        let old = self.values[key].clone();
        let exactly = |text: String, answer: &str| Asked {
            text,
            answer: Answer::Exactly(format!("{answer}\r\n")),
        };
        let fresh = self.fresh(key);
        let block = |verb: &str| format!("{verb} {name} {key} 0 {}\r\n{fresh}\r\n", fresh.len());
        match (random.below(if key == 0 { 8 } else { 11 }), old) {
            (0 | 1, _) => {
                self.values[key] = Some(fresh.clone());
                exactly(block("set"), "STORED")
            }
            (2, old) => {
                self.values[key] = None;
                let answer = if old.is_some() { "DELETED" } else { "NOT_FOUND" };
                exactly(format!("delete {name}\r\n"), answer)
            }
            (3, Some(_)) => {
                self.values[key] = Some(fresh.clone());
                exactly(block("replace"), "STORED")
            }
            (3, None) => exactly(block("replace"), "NOT_STORED"),
            (4, Some(_)) => exactly(format!("touch {name} 0\r\n"), "TOUCHED"),
            (4, None) => exactly(format!("touch {name} 0\r\n"), "NOT_FOUND"),
            (5, Some(value)) => {
                Asked { text: format!("gets {name}\r\n"), answer: Answer::Unique { key, value } }
            }
            (6, Some(_)) => {
                let text = format!(
                    "cas {name} {key} 0 {} {}\r\n{fresh}\r\n",
                    fresh.len(),
                    self.uniques[key]
                );
                Asked { text, answer: Answer::Cas { key, value: fresh } }
            }
            (7, Some(value)) if key == 0 => {
                let sum = value.parse::<u64>().expect("a number") + 3;
                self.values[key] = Some(sum.to_string());
                exactly(format!("incr {name} 3\r\n"), &sum.to_string())
            }
            (7, None) if key == 0 => exactly(format!("incr {name} 3\r\n"), "NOT_FOUND"),
            (7 | 8, Some(value)) => {
                self.values[key] = Some(value + &fresh);
                exactly(block("append"), "STORED")
            }
            (9, Some(value)) => {
                self.values[key] = Some(fresh.clone() + &value);
                exactly(block("prepend"), "STORED")
            }
            (7..=9, None) => exactly(block("append"), "NOT_STORED"),
            _ => exactly(format!("get {name}\r\n"), &format!("{}END", self.shown(key))),
        }
    }

    /// Commands on different keys, pipelined, or one get of all.
    fn batch(&mut self, random: &mut Random) -> Vec<Asked> {
        if random.chance(20) {
            let names: Vec<String> = (0..KEYS).rev().map(|key| self.name(key)).collect();
            let shown: String = (0..KEYS).rev().map(|key| self.shown(key)).collect();
            let verb = if random.chance(50) { "get" } else { "gat 0" };
            let text = format!("{verb} {}\r\n", names.join(" "));
            return vec![Asked { text, answer: Answer::Exactly(shown + "END\r\n") }];
        }
        let first = random.below(KEYS);
        let count = random.below(KEYS) + 1;
        (0..count).map(|n| self.command(random, (first + n) % KEYS)).collect()
    }

    fn check(&mut self, asked: Vec<Asked>, output: &str, context: &str) {
        let mut rest = output;
        for Asked { text, answer } in asked {
            let fail = |expected: &str| -> ! {
                panic!(
                    "{context}: client {} asked\n{text}expected\n{expected}got\n{rest}",
                    self.client
                )
            };
            match answer {
                Answer::Exactly(expected) => match rest.strip_prefix(&expected) {
                    Some(after) => rest = after,
                    None => fail(&expected),
                },
                Answer::Unique { key, value } => {
                    let head = format!("VALUE {} {key} {} ", self.name(key), value.len());
                    let Some(after) = rest.strip_prefix(&head) else { fail(&head) };
                    let (unique, after) = after.split_once("\r\n").expect("a line");
                    self.uniques[key] = unique.parse().expect("a unique");
                    let tail = format!("{value}\r\nEND\r\n");
                    match after.strip_prefix(&tail) {
                        Some(after) => rest = after,
                        None => fail(&tail),
                    }
                }
                Answer::Cas { key, value } => {
                    // NOT_FOUND: the server is cold; the client reads again, which fills it.
                    if let Some(after) = rest.strip_prefix("STORED\r\n") {
                        self.values[key] = Some(value);
                        rest = after;
                    } else if let Some(after) =
                        rest.strip_prefix("EXISTS\r\n").or(rest.strip_prefix("NOT_FOUND\r\n"))
                    {
                        rest = after;
                    } else {
                        fail("STORED, EXISTS or NOT_FOUND");
                    }
                }
            }
        }
        assert_eq!(rest, "", "{context}: client {} was told too much", self.client);
    }
}

/// Fails one of the servers `0..n` or heals it; others stay as they are.
fn disturb(world: &mut World, whom: std::ops::Range<usize>) {
    let id = whom.start + world.random.below(whom.len());
    match world.random.below(6) {
        0 => {
            world.servers[id].dead = true;
            world.servers[id].restart();
            world.cut(id);
        }
        1 => {
            // Restarted, empty.
            world.servers[id].restart();
            world.servers[id].frozen = false;
            world.servers[id].dead = false;
            world.cut(id);
        }
        2 => world.servers[id].frozen = true,
        3 => world.cut(id),
        4 => {
            if world.servers[id].connected && !world.servers[id].frozen {
                let lies: [&[u8]; 4] =
                    [b"END\r\n", b"STORED\r\n", b"VALUE c0k1 0 3\r\nlie\r\n", b"\0\xff\r\n"];
                // Lies come only where nothing is asked: an answer that fits is no lie to anybody.
                if world.relay.waiting(id) == 0 {
                    let lie = lies[world.random.below(lies.len())];
                    world.tell(id, lie);
                }
            }
        }
        _ => {
            world.servers[id].frozen = false;
            world.servers[id].dead = false;
        }
    }
}

fn run(seed: u64, victims: std::ops::Range<usize>, meta: bool) -> (World, Vec<Model>) {
    let clients = 5;
    let mut world = World::new(seed, &config(3, 2), clients, meta);
    let mut models: Vec<Model> = (0..clients).map(Model::new).collect();
    for round in 0..60 {
        let mut asked = Vec::new();
        for model in &mut models {
            let batch = model.batch(&mut world.random);
            let text: String = batch.iter().map(|asked| asked.text.as_str()).collect();
            world.send(model.client, text);
            asked.push(batch);
        }
        // Faults come in the middle of it.
        for _ in 0..world.random.below(4) {
            for _ in 0..world.random.below(8) {
                world.step();
                world.pass_us(100);
            }
            if world.random.chance(60) {
                disturb(&mut world, victims.clone());
            }
        }
        world.settle(&format!("seed {seed}, round {round}"));
        for (model, asked) in models.iter_mut().zip(asked) {
            let output = std::mem::take(&mut world.outputs[model.client]);
            let output = String::from_utf8(output).expect("text");
            model.check(asked, &output, &format!("seed {seed}, round {round}"));
        }
        let pause = [0, 10_000, 400_000, 3_000_000][world.random.below(4)];
        world.pass_us(pause);
    }
    (world, models)
}

#[test]
fn while_servers_fail_the_pair_answers_like_one_map() {
    for seed in 0..150 {
        let (mut world, models) = run(seed, 0..3, seed % 2 == 0);
        for id in 0..3 {
            world.heal(id);
        }
        for model in models {
            for key in 0..KEYS {
                let name = model.name(key);
                let expected = format!("{}END\r\n", model.shown(key));
                assert_eq!(world.ask(0, &format!("get {name}\r\n")), expected, "seed {seed}");
            }
        }
    }
}

#[test]
fn while_backups_fail_servers_answer_and_old_values_never_return() {
    for seed in 1000..1150 {
        let (mut world, models) = run(seed, 3..5, seed % 2 == 0);
        for id in 3..5 {
            world.heal(id);
        }
        // Now all servers are lost: only what the backups have is left.
        for id in 0..3 {
            world.servers[id].restart();
            world.heal(id);
        }
        let mut found = 0;
        for model in models {
            for key in 0..KEYS {
                let answer = world.ask(0, &format!("get {}\r\n", model.name(key)));
                let expected = format!("{}END\r\n", model.shown(key));
                found += usize::from(answer != "END\r\n");
                assert!(
                    answer == expected || answer == "END\r\n",
                    "seed {seed}: an old value of {}: {answer} instead of {expected}",
                    model.name(key)
                );
            }
        }
        let _ = found;
    }
}

/// Clients that write and read the same few keys, all at once, while the server is often cold.
#[test]
fn in_the_end_a_server_has_what_its_backup_has() {
    let (mut compared, mut cold) = (0, 0);
    for seed in 2000..2200 {
        let mut world = World::new(seed, &config(1, 1), 6, seed % 2 == 0);
        for round in 0..40 {
            for client in 0..6 {
                for _ in 0..world.random.below(3) {
                    let key = world.random.below(4);
                    let text = match world.random.below(9) {
                        0 | 1 => format!("set k{key} 0 0 2\r\n{:02}\r\n", world.random.below(100)),
                        2 => format!("add k{key} 0 0 2\r\n{:02}\r\n", world.random.below(100)),
                        3 => format!("delete k{key}\r\n"),
                        4 => format!("incr k{key} 1\r\n"),
                        5 => format!("append k{key} 0 0 1\r\n7\r\n"),
                        6 => format!("gets k{key}\r\n"),
                        7 if round % 10 == 0 => "flush_all\r\n".into(),
                        _ => format!("get k{key} k{}\r\n", (key + 1) % 4),
                    };
                    world.send(client, text);
                    for _ in 0..world.random.below(3) {
                        world.step();
                    }
                }
            }
            world.settle(&format!("seed {seed}, round {round}"));
            for key in 0..4 {
                let name = format!("k{key}").into_bytes();
                let value = |id: usize| world.servers[id].items.get(&name).map(|i| i.value.clone());
                match (value(0), value(1)) {
                    (None, _) => cold += 1,
                    (server, backup) => {
                        compared += 1;
                        assert_eq!(server, backup, "seed {seed}, round {round}, key {key}");
                    }
                }
            }
            if world.random.chance(50) {
                world.servers[0].restart();
                world.cut(0);
            }
        }
    }
    assert!(compared > 10_000 && cold > 1000, "{compared} compared, {cold} cold");
}
