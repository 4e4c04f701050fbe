//! Writers that remember what they were told, and how long each answer took.
//!
//! Owns the load on nodes and the bookkeeping of promises. Each key is written once, by one writer,
//! so that what was promised is there or is lost: nothing can have overwritten it.

use crate::common::Client;
use crate::lab::Host;
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Requests that are sent together.
const BATCH: usize = 20;

/// A writer's orders.
#[derive(Clone)]
pub struct Order {
    pub name: String,
    pub door: SocketAddrV4,
    /// Writes at most so many keys.
    pub most: usize,
    pub value: usize,
    /// The pause between two batches.
    pub pace: Duration,
}

/// What a writer was told.
#[derive(Default)]
pub struct Told {
    pub name: String,
    /// Numbers of the keys that were answered STORED.
    pub stored: Vec<usize>,
    /// How many were answered otherwise.
    pub refused: usize,
    /// How long each batch waited for its answers.
    pub waits: Vec<Duration>,
    /// The connection ended.
    pub broke: bool,
}

impl Told {
    pub fn key(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    /// Longest waits: half of them, 99 of 100, all.
    pub fn percentiles(&mut self) -> [Duration; 3] {
        self.waits.sort();
        let at = |share: usize| {
            let last = self.waits.len().saturating_sub(1);
            self.waits.get(last * share / 100).copied().unwrap_or_default()
        };
        [at(50), at(99), at(100)]
    }
}

/// The value that belongs to a key.
pub fn value_of(number: usize, len: usize) -> String {
    format!("{number:0>len$}")
}

/// A writer at work.
pub struct Writer {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    thread: JoinHandle<Told>,
}

impl Writer {
    pub fn start(order: Order) -> Writer {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicUsize::new(0));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&done));
        let thread = std::thread::spawn(move || write(&order, &stopped, &count));
        Writer { stop, done, thread }
    }

    /// Waits until so many of its keys have been answered.
    pub fn await_done(&self, keys: usize) {
        crate::common::eventually(&format!("{keys} keys are answered"), || {
            let done = self.done.load(Ordering::Relaxed) >= keys || self.thread.is_finished();
            done.then_some(())
        });
    }

    /// Lets it finish what it was asked for.
    pub fn join(self) -> Told {
        self.thread.join().expect("a writer that ends")
    }

    /// Ends it early.
    pub fn stop(self) -> Told {
        self.stop.store(true, Ordering::Relaxed);
        self.join()
    }
}

fn write(order: &Order, stop: &AtomicBool, done: &AtomicUsize) -> Told {
    let mut told = Told { name: order.name.clone(), ..Told::default() };
    let mut client = Client::at(order.door);
    let mut next = 0;
    while next < order.most && !stop.load(Ordering::Relaxed) {
        let batch = next..(next + BATCH).min(order.most);
        next = batch.end;
        let mut text = String::new();
        for number in batch.clone() {
            let value = value_of(number, order.value);
            let key = told.key(number);
            text.push_str(&format!("set {key} {} 0 {}\r\n{value}\r\n", number % 7, value.len()));
        }
        let begin = Instant::now();
        if !client.try_send(text) {
            told.broke = true;
            break;
        }
        for number in batch {
            let mut line = String::new();
            client.read_line(&mut line);
            match line.trim_end() {
                "STORED" => told.stored.push(number),
                "" => {
                    told.broke = true;
                    return told;
                }
                _ => told.refused += 1,
            }
        }
        told.waits.push(begin.elapsed());
        std::thread::sleep(order.pace);
        done.store(next, Ordering::Relaxed);
    }
    told
}

/// Starts a writer on a host that writes as fast as it is answered.
pub fn writer(host: &Host, name: &str, most: usize, value: usize) -> Writer {
    let pace = Duration::ZERO;
    Writer::start(Order { name: name.to_owned(), door: host.door, most, value, pace })
}

/// Starts a writer on a host that takes some seconds for `most` keys.
pub fn paced(host: &Host, name: &str, most: usize, value: usize) -> Writer {
    let pace = Duration::from_micros(1200);
    Writer::start(Order { name: name.to_owned(), door: host.door, most, value, pace })
}

/// Starts a writer on a host that goes on until it is stopped, with some thousands of sets a
/// second.
pub fn trickle(host: &Host, name: &str, value: usize) -> Writer {
    let (most, pace) = (usize::MAX, Duration::from_millis(4));
    Writer::start(Order { name: name.to_owned(), door: host.door, most, value, pace })
}

/// Sends `sets` sets without waiting for answers, over `connections` connections; all were executed
/// when this returns. Returns the longest time that one connection's last answer took.
pub fn burst(host: &Host, name: &str, sets: usize, connections: usize, value: usize) -> Duration {
    let threads: Vec<JoinHandle<Duration>> = (0..connections)
        .map(|connection| {
            let (door, name) = (host.door, name.to_owned());
            std::thread::spawn(move || {
                let mut client = Client::at(door);
                let mut text = String::new();
                for number in (connection..sets).step_by(connections) {
                    let value = value_of(number, value);
                    let len = value.len();
                    text.push_str(&format!("set {name}-{number} 0 0 {len} noreply\r\n{value}\r\n"));
                    if text.len() > 60_000 {
                        client.send(&text);
                        text.clear();
                    }
                }
                client.send(&text);
                let begin = Instant::now();
                assert_eq!(client.ask("mn"), "MN");
                begin.elapsed()
            })
        })
        .collect();
    threads.into_iter().map(|t| t.join().expect("a burst")).max().unwrap_or_default()
}
