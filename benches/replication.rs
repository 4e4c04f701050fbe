//! The replication bench: what a link costs its node and the clients.
//!
//! `cargo bench --bench replication` starts a node alone and a linked pair, asks the same of the
//! lone node and of one of the pair, in turns, and prints the pair's processor time per request
//! divided by the lone node's (the whole process, the replication thread included, until the peer
//! has everything). Then a node of a million items fills a starting one, and clients of the sender
//! tell how long they waited: quietly before, during the copy, and during a copy under writes.
//!
//! ```text
//!   load --> [ alone ]          load --> [ a ]--link--[ b ]        cpu(a) / cpu(alone)
//!   probe -> [ sender ] --copy--> [ starts ]                       waits, seconds, memory
//! ```
//!
//! Owns the order of things; the load generator is the load bench's.

mod common;
#[path = "replication/options.rs"]
mod options;
#[path = "replication/shapes.rs"]
mod shapes;

use common::client::Client;
use common::figures::{median, quantile};
use common::frame;
use common::probe::{Probe, Waits};
use common::requests::{self, Batch};
use common::server::{self, Server};
use options::Options;
use shapes::{Shape, KEYS};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long to wait for a link, or for a peer to have everything.
const PATIENCE: Duration = Duration::from_secs(60);
/// The name of the replication thread.
const THREAD: &str = "replication";
/// Memory of the nodes whose cost is compared: room for the working set.
const LOAD_MB: u32 = 512;
/// Length of the values of a copy.
const VALUE_LEN: usize = 100;
/// How long the probe asks before the copy begins.
const QUIET: Duration = Duration::from_millis(1500);
/// repcached's time for the same copy on the reference machine, and the share that is ours.
const REPCACHED_SECONDS: f64 = 9.6;

fn main() -> ExitCode {
    frame::main("replication", options::parse, run)
}

fn run(options: &Options) -> Result<(), String> {
    let shapes: Vec<Shape> =
        shapes::ALL.iter().copied().filter(|shape| shape.name.contains(&options.only)).collect();
    if !shapes.is_empty() {
        cost(&shapes, options)?;
    }
    if options.items > 0 && "copy".contains(&options.only) {
        copies(options)?;
    }
    Ok(())
}

/// Where clients of a server listen, and the rest of its command line.
fn command(program: &str, more: &str) -> String {
    format!("{program} {} {more}", frame::SERVER)
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> Result<bool, String>) -> Result<(), String> {
    let until = Instant::now() + PATIENCE;
    while !is_so()? {
        if Instant::now() > until {
            return Err(format!("{what}: not within {PATIENCE:?}"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Two linked nodes.
fn pair(options: &Options, megabytes: u32) -> Result<[Server; 2], String> {
    let link = server::free_port()?;
    let line = command(&options.program, &format!("-x 127.0.0.1 -X {link}"));
    let a = Server::start(&line, megabytes, options.threads)?;
    let b = Server::start(&line, megabytes, options.threads)?;
    wait_for("the link", || Ok(a.stat("repl_peers_linked")? == 1))?;
    Ok([a, b])
}

/// Nanoseconds of processor time per request: the whole process, its replication thread.
fn measure(
    server: &Server,
    shape: &Shape,
    batches: &[Batch],
    linked: bool,
    options: &Options,
) -> Result<[f64; 2], String> {
    let mut client = Client::connect_times(server.port, shape.connections)?;
    let count = (options.requests * shape.light / shape.pipeline).max(50) as usize;
    let before = (server.cpu()?, server.thread_cpu(THREAD));
    client.run(batches.iter().cycle().take(count), count)?;
    if linked {
        wait_for("the peer to have everything", || Ok(server.stat("repl_lag_us")? == 0))?;
    }
    let used = server.cpu()?.saturating_sub(before.0).as_nanos() as f64;
    let thread = server.thread_cpu(THREAD).saturating_sub(before.1) as f64;
    Ok([used, thread].map(|ns| ns / (count as u64 * shape.pipeline) as f64))
}

fn cost(shapes: &[Shape], options: &Options) -> Result<(), String> {
    let alone = Server::start(&command(&options.alone, ""), LOAD_MB, options.threads)?;
    let [a, _b] = pair(options, LOAD_MB)?;
    for server in [&alone, &a] {
        fill(server, KEYS, 100)?;
    }
    println!("processor time per request, linked / alone ({} rounds):", options.rounds);
    println!("  {:<24} median (25 % .. 75 %)   alone   linked  of it replication", "");
    for shape in shapes {
        let batches = shape.batches();
        if shape.gets {
            for server in [&alone, &a] {
                fill(server, KEYS, shape.value)?;
            }
        }
        let (mut ratios, mut figures) = (Vec::new(), [Vec::new(), Vec::new(), Vec::new()]);
        for round in 0..options.rounds {
            let linked_first = round % 2 == 1;
            let mut results = [[0.0; 2]; 2];
            for linked in [linked_first, !linked_first] {
                let server = if linked { &a } else { &alone };
                results[usize::from(linked)] = measure(server, shape, &batches, linked, options)?;
            }
            let [[theirs, _], [ours, thread]] = results;
            ratios.push(ours / theirs.max(1.0));
            figures.iter_mut().zip([theirs, ours, thread]).for_each(|(all, one)| all.push(one));
        }
        let [low, middle, high] = [0.25, 0.5, 0.75].map(|share| quantile(ratios.clone(), share));
        let [theirs, ours, thread] = figures.map(median);
        let spread = format!("{middle:>5.3}  ({low:.3} .. {high:.3})");
        println!("  {:<24} {spread}  {theirs:>6.0}  {ours:>6.0}  {thread:>6.0} ns", shape.name);
    }
    Ok(())
}

fn fill(server: &Server, items: u64, value: usize) -> Result<(), String> {
    requests::fill(&mut Client::connect(server.port)?, 0, items, value)
}

/// What came of full copies of one kind.
#[derive(Default)]
struct Copies {
    seconds: Vec<f64>,
    sender_cpu: Vec<f64>,
    resident: [u64; 2],
    before: Option<Waits>,
    during: Option<Waits>,
}

/// Full copies, and what the sender's clients notice of them.
fn copies(options: &Options) -> Result<(), String> {
    let megabytes = u32::try_from(((options.items * 256) >> 20).max(64)).unwrap_or(u32::MAX);
    let link = server::free_port()?;
    let line = command(&options.program, &format!("-x 127.0.0.1 -X {link}"));
    let sender = Server::start(&line, megabytes, options.threads)?;
    fill(&sender, options.items, VALUE_LEN)?;
    println!();
    println!("full copy of {} items of 100 bytes to a starting node:", options.items);
    for loaded in [false, true] {
        let mut all = Copies::default();
        for _ in 0..options.copies {
            let load = Load::start(sender.port, options, loaded);
            copy_once(&sender, &line, megabytes, options, &mut all)?;
            load.stop()?;
        }
        all.print(options, loaded);
    }
    Ok(())
}

/// One copy: quiet first, then a node starts, until it lets clients in.
fn copy_once(
    sender: &Server,
    line: &str,
    megabytes: u32,
    options: &Options,
    all: &mut Copies,
) -> Result<(), String> {
    wait_for("the link to be gone", || Ok(sender.stat("repl_peers_linked")? == 0))?;
    let probe = Probe::start(sender.port, options.items);
    std::thread::sleep(QUIET);
    all.before = Some(probe.stop()?.with(all.before.take()));
    let cpu = sender.cpu()?;
    all.resident[0] = sender.resident()?;
    let probe = Probe::start(sender.port, options.items);
    let port = server::free_port()?;
    let (receiver, took) = Server::start_on(port, line, megabytes, options.threads, PATIENCE)?;
    all.during = Some(probe.stop()?.with(all.during.take()));
    all.sender_cpu.push(sender.cpu()?.saturating_sub(cpu).as_secs_f64());
    all.resident[1] = sender.resident()?;
    all.seconds.push(took.as_secs_f64());
    let there = receiver.stat("curr_items")?;
    match there < options.items {
        true => Err(format!("the port opened with {there} of {} items", options.items)),
        false => Ok(()),
    }
}

impl Copies {
    fn print(&self, options: &Options, loaded: bool) {
        let [before, after] = self.resident.map(|bytes| bytes as f64 / f64::from(1 << 20));
        match loaded {
            false => println!("  nobody writes but the clients who wait"),
            true => println!("  and {:.0} sets a second", options.load),
        }
        println!(
            "    {:.2} s from its start to its first client (a tenth of repcached's: {:.2})",
            median(self.seconds.clone()),
            REPCACHED_SECONDS / 10.0
        );
        println!(
            "    sender: {:.2} s of processor time (clients' included), {before:.1} MiB resident, \
             then {after:.1}",
            median(self.sender_cpu.clone())
        );
        for (name, waits) in [("before", &self.before), ("during", &self.during)] {
            let waits = waits.as_ref().map(Waits::line).unwrap_or_default();
            println!("    clients wait, {name}  {waits}");
        }
    }
}

/// A client that writes at a fixed rate until it is stopped.
struct Load {
    stop: std::sync::Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<Result<(), String>>>,
}

impl Load {
    fn start(port: u16, options: &Options, wanted: bool) -> Load {
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let (until, rate, items) = (std::sync::Arc::clone(&stop), options.load, options.items);
        let thread = wanted.then(|| {
            std::thread::spawn(move || {
                let mut client = Client::connect_times(port, 8)?;
                let depth = 10;
                let mut n = 0u64;
                while !until.load(Ordering::Relaxed) {
                    // A tenth of a second at a time.
                    let count = (rate / 10.0 / depth as f64).max(1.0) as usize;
                    let batches: Vec<Batch> = (0..count)
                        .map(|_| {
                            let mut batch = Batch::default();
                            for _ in 0..depth {
                                n = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
                                batch.push_set(n % items, VALUE_LEN);
                            }
                            batch
                        })
                        .collect();
                    client.run_paced(batches.iter(), count, rate / depth as f64)?;
                }
                Ok(())
            })
        });
        Load { stop, thread }
    }

    fn stop(self) -> Result<(), String> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.map(|thread| thread.join()) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err("the writing client panicked".to_owned()),
            None => Ok(()),
        }
    }
}
