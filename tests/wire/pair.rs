//! Two nodes that replicate, as one server.
//!
//! Owns their processes, and a link that puts every piece of a conversation to one of them at
//! random, once the other one has been told of what came before: each reply must be what a single
//! server would give. What is seen of the keys must then be the same on both, byte for byte. What
//! a node alone knows (when an item was last asked for there) is not looked at.

use crate::script::{Link, Transport};
use crate::transport::Process;
use crate::Rng;
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// How long one node may take to hear of what the other one did.
const PATIENCE: Duration = Duration::from_secs(20);
/// Keys that conversations use.
const KEYS: [&str; 7] = ["a", "b", "c", "d", "n", "noreply", "\u{30c6}\u{30b9}\u{30c8}"];

/// A linked pair.
pub struct Pair {
    nodes: [Process; 2],
    rng: Rng,
}

impl Pair {
    /// Starts both, and waits until they are linked.
    pub fn start(seed: u64) -> Pair {
        let free = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = free.local_addr().expect("its number").port().to_string();
        drop(free);
        let args = ["-x", "127.0.0.1", "-X", &port].map(str::to_owned);
        let nodes = [(); 2].map(|()| Process::tcp(env!("CARGO_BIN_EXE_twincached"), &args));
        let mut pair = Pair { nodes, rng: Rng::new(seed) };
        for node in &mut pair.nodes {
            await_stat(&mut *node.open(), "repl_peers_linked", "1").expect("linked");
        }
        pair
    }
}

impl Transport for Pair {
    fn open(&mut self) -> Box<dyn Link> {
        let [a, b] = &mut self.nodes;
        let rng = Rng::new(self.rng.below(usize::MAX) as u64);
        let (links, beside) = ([a.open(), b.open()], [a.open(), b.open()]);
        Box::new(Either { links, beside, at: 0, answered: true, rng })
    }

    fn advance(&mut self, _by: Duration) -> bool {
        false
    }
}

/// A connection to each node, and one beside it to look at what the node holds.
struct Either {
    links: [Box<dyn Link>; 2],
    beside: [Box<dyn Link>; 2],
    at: usize,
    /// All that was sent has been answered: another node may be asked.
    answered: bool,
    rng: Rng,
}

/// The answer to `lines`, which must not have a data block.
fn ask(link: &mut dyn Link, lines: &str) -> Result<String, String> {
    link.send(format!("{lines}mn\r\n").as_bytes()).map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"MN\r\n") {
        if !link.receive(&mut answer)? {
            return Err(format!("closed after \"{}\"", answer.escape_ascii()));
        }
    }
    Ok(answer.escape_ascii().to_string())
}

fn await_stat(link: &mut dyn Link, name: &str, value: &str) -> Result<(), String> {
    let (line, start) = (format!("STAT {name} {value}\\r"), Instant::now());
    while !ask(link, "stats\r\n")?.contains(&line) {
        if start.elapsed() > PATIENCE {
            return Err(format!("{name} did not become {value}"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// What clients of a node see of all keys: values, flags, uniques, the forms of keys.
fn seen(link: &mut dyn Link) -> Result<String, String> {
    let debug: String = KEYS.iter().map(|key| format!("me {key}\r\n")).collect();
    let values = ask(link, &format!("gets {}\r\n", KEYS.join(" ")))?;
    let debugged = ask(link, &debug)?;
    let local = |word: &&str| !["exp=", "la=", "fetch="].iter().any(|one| word.starts_with(one));
    Ok(values + &debugged.split(' ').filter(local).collect::<Vec<_>>().join(" "))
}

impl Either {
    fn change_over(&mut self) -> Result<(), String> {
        // Of both: a connection before this one may have been to the other node.
        for node in &mut self.beside {
            await_stat(&mut **node, "repl_lag_us", "0")?;
        }
        let [a, b] = &mut self.beside;
        let (a, b) = (seen(&mut **a)?, seen(&mut **b)?);
        if a != b {
            let from = self.at;
            return Err(format!("after a batch on node {from} the nodes differ:\n{a}\n{b}"));
        }
        self.at = self.rng.below(2);
        Ok(())
    }
}

impl Link for Either {
    fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if std::mem::take(&mut self.answered) {
            self.change_over().unwrap_or_else(|error| panic!("{error}"));
        }
        self.links[self.at].send(bytes)
    }

    fn receive(&mut self, into: &mut Vec<u8>) -> Result<bool, String> {
        self.answered = true;
        self.links[self.at].receive(into)
    }
}
