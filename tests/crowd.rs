//! Many clients at once, whose requests come in the same turns of one worker: everybody gets the
//! answers to what they asked, whole or in pieces, until they leave.
//!
//! Owns the mix and its seed (`CROWD_SEED`). Nothing here is timed.

mod common;

use common::{free_port, Node};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

/// Clients; a worker reads one ahead while it serves another.
const CLIENTS: usize = 40;
const ROUNDS: usize = 150;
/// How long an answer may take before the test fails: a deadline, not a measurement.
const PATIENCE: Duration = Duration::from_secs(20);

struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (self.0 >> 33) as usize % below
    }
}

/// A client of its own keys, and what it is owed.
struct One {
    stream: TcpStream,
    name: usize,
    values: [Option<String>; 4],
    /// The rest of a request whose beginning was sent.
    rest: Vec<u8>,
    owed: Vec<u8>,
}

impl One {
    fn new(node: &Node, name: usize) -> One {
        let stream = TcpStream::connect(("127.0.0.1", node.port)).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("nodelay");
        let values = [const { None }; 4];
        One { stream, name, values, rest: Vec::new(), owed: Vec::new() }
    }

    fn get(&self, nth: usize) -> String {
        let value = self.values[nth].as_ref();
        value.map_or(String::new(), |value| {
            format!("VALUE k{}.{nth} 0 {}\r\n{value}\r\n", self.name, value.len())
        })
    }

    /// One request, and what it owes the client.
    fn request(&mut self, random: &mut Random) -> Vec<u8> {
        let nth = random.next(4);
        let key = format!("k{}.{nth}", self.name);
        let (request, answer) = match random.next(8) {
            0..=2 => (format!("get {key}\r\n"), format!("{}END\r\n", self.get(nth))),
            3 => {
                let request = format!("get k{0}.0 k{0}.1 k{0}.2 k{0}.3\r\n", self.name);
                let found: String = (0..4).map(|nth| self.get(nth)).collect();
                (request, format!("{found}END\r\n"))
            }
            4 => {
                let here = self.values[nth].take().is_some();
                let answer = if here { "DELETED\r\n" } else { "NOT_FOUND\r\n" };
                (format!("delete {key}\r\n"), answer.to_owned())
            }
            5 => ("no such thing\r\n".to_owned(), "ERROR\r\n".to_owned()),
            _ => {
                let len = [3, 30, 700, 20_000][random.next(4)];
                let value = format!("{}-{}-", self.name, random.next(1 << 20)).repeat(len / 4);
                let request = format!("set {key} 0 0 {}\r\n{value}\r\n", value.len());
                self.values[nth] = Some(value);
                (request, "STORED\r\n".to_owned())
            }
        };
        self.owed.extend_from_slice(answer.as_bytes());
        request.into_bytes()
    }

    /// Sends a few requests, the last one perhaps in part.
    fn ask(&mut self, random: &mut Random) {
        let mut bytes = std::mem::take(&mut self.rest);
        for _ in 0..[1, 1, 1, 3, 12][random.next(5)] {
            bytes.extend(self.request(random));
        }
        if random.next(4) == 0 {
            let cut = bytes.len() - random.next(bytes.len().min(200));
            self.rest = bytes.split_off(cut);
        }
        self.stream.write_all(&bytes).expect("sent");
    }

    /// Sends what is left and reads everything that is owed.
    fn hear(&mut self) -> bool {
        self.stream.write_all(&std::mem::take(&mut self.rest)).expect("sent");
        let mut heard = vec![0; self.owed.len()];
        self.stream.read_exact(&mut heard).expect("all that is owed");
        heard == std::mem::take(&mut self.owed)
    }

    /// Asks, says that this was all, and reads to the end.
    fn leave(mut self, random: &mut Random) -> bool {
        let bytes = self.request(random);
        self.stream.write_all(&bytes).expect("sent");
        self.stream.shutdown(Shutdown::Write).expect("said");
        let mut heard = Vec::new();
        self.stream.read_to_end(&mut heard).expect("to the end");
        heard == self.owed
    }
}

#[test]
fn everybody_in_a_crowd_gets_their_own_answers() {
    let seed = std::env::var("CROWD_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    let node = Node::plain(free_port(), &["-m", "64", "-t", "1"]);
    let mut random = Random(seed);
    let mut crowd: Vec<One> = (0..CLIENTS).map(|name| One::new(&node, name)).collect();
    for round in 0..ROUNDS {
        crowd.iter_mut().for_each(|one| one.ask(&mut random));
        for one in &mut crowd {
            assert!(one.hear(), "client {}, round {round}, CROWD_SEED={seed}", one.name);
        }
        // Somebody goes, somebody comes.
        let gone = crowd.swap_remove(random.next(CLIENTS));
        assert!(gone.leave(&mut random), "who left in round {round}, CROWD_SEED={seed}");
        crowd.push(One::new(&node, CLIENTS + round));
    }
}
