//! Random trouble: a seeded hand that cuts, stops, kills and heals while every node is written to.
//!
//! Owns the trouble and the clients that keep on changing a small range of keys on all nodes. What
//! is asserted comes afterwards: everything is healed, and all nodes are equal. `SEED=N` runs one
//! seed, `ROUNDS=N` so many troubles, `SEEDS=N` so many seeds, `FORGET=1` nodes that forget
//! deletes.

use crate::common::Client;
use crate::compare::{await_equal, nothing_is_missing, Content};
use crate::lab::{Host, Lab};
use crate::load::{trickle, Told, Writer};
use crate::rng::Rng;
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// Keys that the clients change: few, so that nodes change the same ones at once.
const KEYS: usize = 3000;
/// Length of values that are promised.
const VALUE: usize = 60;
/// Commands between two looks at whether to go on.
const BATCH: usize = 40;

/// A number from the environment.
pub fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// A client that changes things at random until it is told to end, or its node ends.
struct Meddler {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Meddler {
    fn start(door: SocketAddrV4, seed: u64) -> Meddler {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || meddle(door, seed, &stopped));
        Meddler { stop, thread }
    }

    fn ask_to_end(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn meddle(door: SocketAddrV4, seed: u64, stop: &AtomicBool) {
    let mut rng = Rng::new(seed);
    let mut client = Client::at(door);
    while !stop.load(Ordering::Relaxed) {
        let mut text = String::new();
        for _ in 0..BATCH {
            text.push_str(&command(&mut rng));
        }
        text.push_str("mn\r\n");
        let mut line = String::new();
        if client.try_send(&text) {
            // Quiet marks of staleness that found nothing say so.
            while line.is_empty() || line == "NF\r\n" {
                line.clear();
                client.read_line(&mut line);
                if line.is_empty() {
                    break;
                }
            }
        }
        if line.is_empty() {
            return; // The node has ended.
        }
        assert_eq!(line, "MN\r\n");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn command(rng: &mut Rng) -> String {
    let key = rng.below(KEYS);
    let (number, len) = (rng.below(1_000_000), rng.below(200));
    let value = format!("{number:0>len$}");
    let len = value.len();
    match rng.below(1000) {
        0..500 => format!("set k{key} {} 0 {len} noreply\r\n{value}\r\n", rng.below(1 << 32)),
        500..600 => format!("set k{key} 0 {} {len} noreply\r\n{value}\r\n", 100 + rng.below(1000)),
        600..720 => format!("delete k{key} noreply\r\n"),
        720..780 => format!("incr k{key} 7 noreply\r\n"),
        780..840 => format!("append k{key} 0 0 1 noreply\r\n7\r\n"),
        840..900 => format!("touch k{key} {} noreply\r\n", 100 + rng.below(1000)),
        900..950 => format!("add k{key} 1 0 {len} noreply\r\n{value}\r\n"),
        950..970 => format!("ms k{key} {len} q E{number}\r\n{value}\r\n"),
        970..985 => format!("md k{key} q I T100\r\n"),
        985..999 => {
            let len = 40_000 + number / 10;
            format!("set k{key} 0 0 {len} noreply\r\n{}\r\n", "x".repeat(len))
        }
        _ if rng.below(10) == 0 => "flush_all noreply\r\n".to_owned(),
        _ => format!("set k{key} 0 1 {len} noreply\r\n{value}\r\n"),
    }
}

/// A cluster in trouble.
pub struct Chaos {
    lab: Lab,
    rng: Rng,
    hosts: Vec<Option<Host>>,
    stopped: Vec<bool>,
    meddlers: Vec<Meddler>,
    args: Vec<String>,
    said: Vec<String>,
    /// Only the first node ever dies, and each node makes promises instead of a mess.
    promises: bool,
    writers: Vec<Writer>,
}

impl Chaos {
    /// Nodes that are linked and are being written to. `None` where namespaces cannot be made.
    pub fn new(nodes: usize, seed: u64, promises: bool, args: &[&str]) -> Option<Chaos> {
        let lab = Lab::new(nodes)?;
        let mut chaos = Chaos {
            lab,
            rng: Rng::new(seed),
            hosts: (0..nodes).map(|_| None).collect(),
            stopped: vec![false; nodes],
            meddlers: Vec::new(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            said: Vec::new(),
            promises,
            writers: Vec::new(),
        };
        for host in 0..nodes {
            chaos.start(host);
        }
        for host in chaos.hosts.iter().flatten() {
            host.await_port();
        }
        Some(chaos)
    }

    fn start(&mut self, host: usize) {
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let started = self.lab.start(host, &args);
        let seed = self.rng.below(usize::MAX) as u64;
        // They wait until their node serves.
        if self.promises {
            let name = format!("p{host}-{}", self.writers.len());
            self.writers.push(trickle(&started, &name, VALUE));
        } else {
            self.meddlers.push(Meddler::start(started.door, seed));
        }
        self.hosts[host] = Some(started);
        self.stopped[host] = false;
    }

    /// One trouble.
    pub fn trouble(&mut self) {
        let nodes = self.hosts.len();
        let a = self.rng.below(nodes);
        let b = (a + 1 + self.rng.below(nodes - 1)) % nodes;
        let what = match self.rng.below(20) {
            0..3 => {
                self.lab.cut(a, b);
                "cut"
            }
            3..5 => {
                self.lab.cut_one_way(a, b);
                "cut one way"
            }
            5..9 => {
                self.lab.heal(a, b);
                "heal"
            }
            9 => {
                self.lab.unplug(a);
                "unplug"
            }
            10 | 11 => {
                self.lab.replug(a);
                "replug"
            }
            12 => self.signal(a, "STOP"),
            13 | 14 => self.signal(a, "CONT"),
            15 | 16 if self.promises => self.end(0, "KILL"),
            15 => self.end(a, "KILL"),
            16 => self.end(a, "TERM"),
            17 => {
                self.lab.lossy(a, 15);
                "lossy"
            }
            18 => {
                self.lab.clear(a);
                "clear"
            }
            _ if self.hosts[a].is_none() => {
                self.start(a);
                "start"
            }
            _ => "nothing",
        };
        let pause = self.rng.below(700);
        self.said.push(format!("{what} {a} {b}, then {pause} ms"));
        std::thread::sleep(Duration::from_millis(pause as u64));
    }

    fn signal(&mut self, host: usize, name: &'static str) -> &'static str {
        if let Some(node) = &self.hosts[host] {
            node.node.signal(name);
            self.stopped[host] = name == "STOP";
        }
        name
    }

    fn end(&mut self, host: usize, name: &'static str) -> &'static str {
        if self.hosts.iter().flatten().count() < 2 {
            return "nothing";
        }
        if let Some(mut node) = self.hosts[host].take() {
            if name == "KILL" || self.stopped[host] {
                node.node.kill();
            } else {
                node.node.signal(name);
                assert_eq!(node.node.exit_code(), Some(0), "a clean end:\n{}", node.node.log());
            }
        }
        self.start(host);
        name
    }

    /// Ends all trouble, waits until all nodes are linked, and returns what all of them hold.
    pub fn heal(mut self) -> Content {
        for meddler in &self.meddlers {
            meddler.ask_to_end();
        }
        let nodes = self.hosts.len();
        for a in 0..nodes {
            self.lab.replug(a);
            self.lab.clear(a);
            for b in 0..a {
                self.lab.heal(a, b);
            }
            self.signal(a, "CONT");
        }
        println!("{}", self.said.join("; "));
        let hosts: Vec<&Host> = self.hosts.iter().flatten().collect();
        for host in &hosts {
            host.await_port();
        }
        for meddler in std::mem::take(&mut self.meddlers) {
            meddler.thread.join().expect("a client that is content");
        }
        for host in &hosts {
            host.await_linked(nodes - 1);
        }
        let told: Vec<Told> = self.writers.drain(..).map(Writer::stop).collect();
        let content = await_equal(&hosts);
        nothing_is_missing(&content, &told, VALUE);
        if self.promises {
            let refused: usize = told.iter().map(|told| told.refused).sum();
            println!("{refused} writes were not promised");
        }
        content
    }
}

/// Runs seeds of a cluster of so many nodes, each of which is changed at random.
pub fn run(nodes: usize, rounds: u64, args: &[&str]) {
    seeds(nodes, rounds, false, args);
}

/// Runs seeds of a cluster in which the first node dies again and again, and each makes promises.
pub fn run_promises(nodes: usize, rounds: u64, args: &[&str]) {
    seeds(nodes, rounds, true, args);
}

fn seeds(nodes: usize, rounds: u64, promises: bool, args: &[&str]) {
    let one = std::env::var("SEED").ok().and_then(|text| text.parse().ok());
    let start = one.unwrap_or_else(|| u64::from(std::process::id()));
    let seeds = if one.is_some() { 1 } else { setting("SEEDS", 1) };
    for seed in start..start + seeds {
        let mut args = args.to_vec();
        if seed % 2 == 0 {
            // Queues run over all the time.
            args.extend(["-q", "16"]);
        }
        if setting("FORGET", 0) != 0 {
            // Deletes are forgotten before links heal.
            args.extend(["-o", "repl_tombstone=1"]);
        }
        println!("SEED={seed} with {nodes} nodes, {args:?}");
        let Some(mut chaos) = Chaos::new(nodes, seed, promises, &args) else { return };
        for _ in 0..setting("ROUNDS", rounds) {
            chaos.trouble();
        }
        let content = chaos.heal();
        println!("{} items, the same on {nodes} nodes", content.len());
    }
}
