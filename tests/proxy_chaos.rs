//! The proxy between thousands of pipelined requests and servers that lie.
//!
//! Every value, unique and number carries its key, so an answer that reaches somebody else shows
//! at once. All requests must end, the proxy must live, and when the servers come to their senses
//! everything is as it was, memory included.

#[path = "proxy_chaos/backend.rs"]
mod backend;
mod common;

use std::collections::VecDeque;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use backend::{number_of, value_of, Mood, Random};
use common::{eventually, free_port, Client, Node};

/// Threads of clients, and connections of each.
const THREADS: u64 = 4;
const CONNECTIONS: u64 = 150;
/// How long new requests are made.
const LASTS: Duration = Duration::from_secs(3);
/// Set in uniques that come from a backup.
const BACKUP_UNIQUE: u64 = 1 << 62;

fn seed() -> u64 {
    let given = std::env::var("SEED").ok().and_then(|text| text.parse().ok());
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |t| t.as_nanos() as u64);
    let seed = given.unwrap_or_else(now);
    println!("SEED={seed}");
    seed
}

fn proxy(servers: &[u16], backups: &[u16], more: &[&str]) -> Node {
    let port = free_port();
    let mut command = Command::new(env!("CARGO_BIN_EXE_twincached"));
    command.args(["proxy", "-D", "-u", "root", "-l", "127.0.0.1", "-p", &port.to_string()]);
    for (flag, ports) in [("-s", servers), ("-b", backups)] {
        for port in ports {
            command.args([flag, &format!("127.0.0.1:{port}")]);
        }
    }
    command.args(more);
    let node = Node::spawn(&mut command, port);
    node.await_port();
    node
}

/// What was asked, and so what may come.
enum Asked {
    Get { keys: VecDeque<String>, unique: bool },
    Meta(String),
    Number(String),
    Line(&'static str),
    Noop,
}

/// A batch of requests.
fn batch(random: &mut Random, prefix: &str) -> (String, Vec<Asked>) {
    let (mut text, mut asked) = (String::new(), Vec::new());
    for n in 0..1 + random.below(8) {
        let key = format!("{prefix}n{n}");
        let set = |verb: &str| format!("{verb} {key} 0 0 {}\r\n{}\r\n", key.len(), key);
        let (line, answer) = match random.below(12) {
            0..=3 => {
                let verb = ["get", "gets"][random.below(2) as usize];
                let keys = VecDeque::from([key.clone()]);
                (format!("{verb} {key}\r\n"), Asked::Get { keys, unique: verb == "gets" })
            }
            4 | 5 => {
                let keys: VecDeque<_> =
                    (0..2 + random.below(30)).map(|k| format!("{key}k{k}")).collect();
                let words = Vec::from(keys.clone()).join(" ");
                (format!("get {words}\r\n"), Asked::Get { keys, unique: false })
            }
            6 => (format!("mg {key} k v\r\n"), Asked::Meta(key)),
            7 => (format!("incr {key} 1\r\n"), Asked::Number(key)),
            8 => (set("set"), Asked::Line("STORED")),
            9 => (set("append"), Asked::Line("STORED")),
            10 => (format!("touch {key} 0\r\n"), Asked::Line("TOUCHED")),
            _ => (format!("delete {key}\r\n"), Asked::Line("DELETED")),
        };
        text += &line;
        asked.push(answer);
    }
    text += "mn\r\n";
    asked.push(Asked::Noop);
    (text, asked)
}

fn is_error(line: &str) -> bool {
    line.starts_with("SERVER_ERROR ") || line == "ERROR"
}

/// Reads one answer, and says how many values there were in it.
fn check(client: &mut Client, asked: Asked) -> usize {
    match asked {
        Asked::Get { mut keys, unique } => {
            let mut found = 0;
            loop {
                let line = client.line();
                if line == "END" || is_error(&line) {
                    return found;
                }
                let words: Vec<&str> = line.split(' ').collect();
                assert!(words.len() == 4 + usize::from(unique) && words[0] == "VALUE", "{line:?}");
                // In the order of the keys, each at most once.
                let theirs = std::iter::from_fn(|| keys.pop_front()).any(|key| key == words[1]);
                assert!(theirs, "was not asked for: {line:?}");
                if unique {
                    let unique: u64 = words[4].parse().expect("a unique");
                    assert_eq!(unique & !BACKUP_UNIQUE, number_of(words[1]), "{line:?}");
                }
                assert_eq!(client.line(), value_of(words[1]), "the value of another key");
                found += 1;
            }
        }
        Asked::Meta(key) => {
            let line = client.line();
            if line == "EN" || line == format!("EN k{key}") || is_error(&line) {
                return 0;
            }
            let value = value_of(&key);
            assert_eq!(line, format!("VA {} k{key}", value.len()));
            assert_eq!(client.line(), value);
            1
        }
        Asked::Number(key) => {
            let line = client.line();
            let fits = line == number_of(&key).to_string() || line == "NOT_FOUND";
            assert!(fits || is_error(&line), "incr {key}: {line:?}");
            0
        }
        Asked::Line(expected) => {
            let line = client.line();
            let fits = line == expected || ["NOT_FOUND", "NOT_STORED"].contains(&&*line);
            assert!(fits || is_error(&line), "{expected}: {line:?}");
            0
        }
        Asked::Noop => {
            assert_eq!(client.line(), "MN");
            0
        }
    }
}

/// Many connections on one thread: all are asked before the first is heard. Returns requests and
/// values.
fn clients(port: u16, thread: u64, seed: u64) -> (usize, usize) {
    let mut random = Random::new(seed ^ thread);
    let mut clients: Vec<Client> = (0..CONNECTIONS).map(|_| Client::connect(port)).collect();
    let (start, mut requests, mut found) = (Instant::now(), 0, 0);
    for round in 0.. {
        if start.elapsed() > LASTS {
            break;
        }
        let mut waiting = Vec::new();
        for (n, client) in clients.iter_mut().enumerate() {
            let (text, asked) = batch(&mut random, &format!("t{thread}c{n}r{round}"));
            client.send(&text);
            waiting.push(asked);
        }
        for (client, asked) in clients.iter_mut().zip(waiting) {
            requests += asked.len();
            found += asked.into_iter().map(|asked| check(client, asked)).sum::<usize>();
        }
    }
    (requests, found)
}

/// Runs the clients, and gives their sums.
fn run(port: u16, seed: u64) -> (usize, usize) {
    let threads: Vec<_> =
        (0..THREADS).map(|n| std::thread::spawn(move || clients(port, n, seed))).collect();
    let sums = threads.into_iter().map(|thread| thread.join().expect("every answer was right"));
    sums.fold((0, 0), |(a, b), (requests, found)| (a + requests, b + found))
}

fn among_liars(backups: u64, threads: &str) {
    let seed = seed();
    let mood = Arc::new(Mood::default());
    let ports: Vec<u16> =
        (0..2 + backups).map(|n| backend::start(seed.wrapping_add(n << 32), &mood)).collect();
    let limits = "request_timeout=100,connect_timeout=100,server_retry_timeout=20";
    let more = ["-t", threads, "-o", limits];
    let proxy = proxy(&ports[..2], &ports[2..], &more);
    let (requests, found) = run(proxy.port, seed);
    let ends = mood.ends.load(Ordering::Relaxed);
    println!("{requests} requests, {found} values, {ends} connections ended badly");
    assert!(requests > 1000 && found > 100 && ends > 2, "{requests} {found} {ends}");
    // Whoever is good again is used again, and nobody has an answer left over.
    mood.calm.store(true, Ordering::Relaxed);
    let mut client = proxy.client();
    for n in 0..20 {
        let key = format!("after{n}");
        eventually("a value after the chaos", || {
            client.send(format!("get {key}\r\n"));
            let asked = Asked::Get { keys: VecDeque::from([key.clone()]), unique: false };
            (check(&mut client, asked) == 1).then_some(())
        });
    }
}

#[test]
fn answers_reach_whoever_asked_though_servers_lie() {
    among_liars(0, "1");
}

#[test]
fn answers_reach_whoever_asked_though_servers_and_backups_lie() {
    among_liars(2, "2");
}

/// Resident memory, in KiB.
fn resident(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.child.id()));
    let status = status.expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn servers_that_come_and_go_leave_nothing_behind() {
    let seed = seed();
    let mood = Arc::new(Mood::default());
    let ports: Vec<u16> =
        (0..3).map(|n| backend::start(seed.wrapping_add(n << 32), &mood)).collect();
    let cables: Vec<_> =
        ports.iter().map(|&port| twincached::demo::Cable::to(port).expect("a cable")).collect();
    mood.calm.store(true, Ordering::Relaxed);
    let through: Vec<u16> = cables.iter().map(|cable| cable.port()).collect();
    let more = ["-o", "request_timeout=150,connect_timeout=150"];
    let proxy = proxy(&through[..2], &through[2..], &more);
    let flap = |rounds: u64| {
        let port = proxy.port;
        let load = std::thread::spawn(move || clients(port, rounds, seed));
        let mut random = Random::new(seed + rounds);
        while !load.is_finished() {
            let cable = &cables[random.below(3) as usize];
            cable.cut();
            std::thread::sleep(Duration::from_millis(random.below(60)));
            cable.mend();
            std::thread::sleep(Duration::from_millis(random.below(30)));
        }
        load.join().expect("every answer was right")
    };
    // The first time buffers and tables come to be; the second time must find them enough.
    let (first, _) = flap(1);
    let warm = resident(&proxy);
    let (second, _) = flap(2);
    let after = resident(&proxy);
    println!("{first} and {second} requests; resident: {warm} KiB, then {after} KiB");
    assert!(after < warm + warm / 4 + 8192, "memory grew from {warm} to {after} KiB");
}
