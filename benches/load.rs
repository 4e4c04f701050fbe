//! The load bench: our server and a peer side by side, as ratios.
//!
//! `cargo bench --bench load` starts both on loopback ports and asks the same of them, in turns
//! (ours, peer, ours, peer), so that whatever disturbs the machine disturbs both. What it prints
//! is ours divided by the peer's: server processor seconds per million requests and latencies,
//! items held and resident memory at equal `-m`, and how fast a starting node copies its peer.
//!
//! Owns the order of things. The load generator is in load/client.rs; it runs on one thread and
//! shows its own processor share, so that one sees when it is the limit.

#[path = "load/client.rs"]
mod client;
#[path = "load/options.rs"]
mod options;
#[path = "load/report.rs"]
mod report;
#[path = "load/scenario.rs"]
mod scenario;
#[path = "load/server.rs"]
mod server;

use client::Client;
use options::{Options, Stop};
use report::{Line, Measured};
use scenario::{Batch, Scenario, KEYS};
use server::Server;
use std::process::ExitCode;
use std::time::Duration;

/// `-m` of the servers under load: room for the working set several times over.
const LOAD_MB: u32 = 128;
/// Sets per write where servers are filled.
const FILL_BATCH: u64 = 100;
/// A paced run sends at this share of what the slower server can do.
const PACE: f64 = 0.3;
/// A paced run is at least so long in seconds, and so are its tails worth something.
const PACED_SECONDS: f64 = 3.0;
/// How long a node may take to copy its peer.
const COPY_MAX: Duration = Duration::from_secs(120);
/// Bytes that an item of the fill takes at least: more than this many items do not fit.
const FILL_ITEM_MIN: u64 = 132;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if !args.iter().any(|arg| arg == "--bench" || arg == "--help" || arg == "-h") {
        // `cargo test --all-targets` starts benches too; this one is not a test.
        println!("load: run it with `cargo bench --bench load`");
        return ExitCode::SUCCESS;
    }
    let options = match options::parse(&args) {
        Ok(options) => options,
        Err(Stop::Help(text)) => {
            println!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(Stop::Usage(text)) => {
            eprintln!("load: {text}");
            return ExitCode::from(64);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    println!("ours: {}", options.ours);
    println!("peer: {}", options.peer);
    let wanted = |name: &str| name.contains(&options.only);
    let mut lines = Vec::new();
    if scenario::ALL.iter().any(|s| wanted(s.name)) || wanted(scenario::PACED.name) {
        // The peer first: where it is missing, nothing has been waited for.
        let peer = Side::start(&options.peer, options)?;
        let ours = Side::start(&options.ours, options)?;
        let mut sides = [ours, peer];
        for scenario in scenario::ALL.iter().filter(|s| wanted(s.name)) {
            lines.push(in_turns(scenario, &mut sides, options)?);
        }
        if wanted(scenario::PACED.name) {
            lines.push(paced(&mut sides, options)?);
        }
        report::print(&lines, options.absolute);
    }
    if wanted("fill") {
        fill(options)?;
    }
    if wanted("copy") && options.copy_items > 0 {
        copy(options)?;
    }
    Ok(())
}

/// A server with the working set in it, and connections to it.
struct Side {
    server: Server,
    client: Client,
}

impl Side {
    fn start(command: &str, options: &Options) -> Result<Side, String> {
        let server = Server::start(command, LOAD_MB, options.threads)?;
        let mut client = Client::connect(server.port)?;
        let batches: Vec<Batch> = scenario::sets(0, KEYS, FILL_BATCH).collect();
        client.run(batches.iter(), batches.len())?;
        Ok(Side { server, client })
    }

    fn measure(
        &mut self,
        run: impl FnOnce(&mut Client) -> Result<client::Outcome, String>,
    ) -> Result<Measured, String> {
        let (server_before, client_before) = (self.server.cpu()?, server::own_cpu()?);
        let outcome = run(&mut self.client)?;
        Ok(Measured {
            outcome,
            server_cpu: self.server.cpu()?.saturating_sub(server_before),
            client_cpu: server::own_cpu()?.saturating_sub(client_before),
        })
    }
}

/// Who is measured first changes with each round: neither always has the warmer machine.
fn order(round: u32) -> [usize; 2] {
    match round % 2 {
        0 => [0, 1],
        _ => [1, 0],
    }
}

fn in_turns(scenario: &Scenario, sides: &mut [Side; 2], options: &Options) -> Result<Line, String> {
    eprintln!("{} ...", scenario.name);
    let batches = scenario.batches();
    let per_batch = batches[0].requests;
    let count = (options.requests / scenario.weight / per_batch).max(1000) as usize;
    let mut line = Line { name: scenario.name, ours: Vec::new(), peer: Vec::new() };
    for round in 0..options.rounds {
        for index in order(round) {
            let run = |client: &mut Client| client.run(batches.iter().cycle().take(count), count);
            let measured = sides[index].measure(run)?;
            if index == 0 { &mut line.ours } else { &mut line.peer }.push(measured);
        }
    }
    Ok(line)
}

/// Latencies at equal load: the same rate for both, well below what either can do.
fn paced(sides: &mut [Side; 2], options: &Options) -> Result<Line, String> {
    let scenario = scenario::PACED;
    eprintln!("{} ...", scenario.name);
    let batches = scenario.batches();
    let probe = (options.requests / 5).max(1000) as usize;
    let mut slowest = f64::INFINITY;
    for side in sides.iter_mut() {
        let outcome =
            side.measure(|client| client.run(batches.iter().cycle().take(probe), probe))?;
        slowest = slowest.min(outcome.rate());
    }
    let rate = slowest * PACE;
    let count = (options.requests as f64 / 5.0).max(rate * PACED_SECONDS) as usize;
    eprintln!("  at {rate:.0} requests a second");
    let mut line = Line { name: scenario.name, ours: Vec::new(), peer: Vec::new() };
    for round in 0..options.rounds {
        for index in order(round) {
            let measured = sides[index].measure(|client| {
                client.run_paced(batches.iter().cycle().take(count), count, rate)
            })?;
            if index == 0 { &mut line.ours } else { &mut line.peer }.push(measured);
        }
    }
    Ok(line)
}

/// Fills a fresh server of each kind with more than it can hold.
fn fill(options: &Options) -> Result<(), String> {
    eprintln!("fill ...");
    let most = u64::from(options.fill_mb) * 1024 * 1024 / FILL_ITEM_MIN;
    let mut held = Vec::new();
    for command in [&options.ours, &options.peer] {
        let server = Server::start(command, options.fill_mb, options.threads)?;
        let mut client = Client::connect(server.port)?;
        let empty = server.resident()?;
        let step = (most / 200).max(FILL_BATCH);
        let (mut sent, mut before_evictions) = (0, None);
        // Until evictions start, and then half as much again: some evict early, some late.
        while sent < most + most / 2 {
            let batches: Vec<Batch> = scenario::sets(sent, sent + step, FILL_BATCH).collect();
            client.run(batches.iter(), batches.len())?;
            sent += step;
            if before_evictions.is_none() && server.stat("evictions")? > 0 {
                before_evictions = Some(sent);
            }
        }
        let (items, resident) = (server.stat("curr_items")?, server.resident()?);
        held.push((before_evictions.unwrap_or(sent), items, resident, empty));
    }
    let [(first, items, resident, empty), (peer_first, peer_items, peer_resident, peer_empty)] =
        held[..]
    else {
        return Err("two servers were to be filled".to_owned());
    };
    let ratio = |a: u64, b: u64| a as f64 / b.max(1) as f64;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    println!();
    println!(
        "filled at -m {}, keys of {} and values of {} bytes; ours / peer:",
        options.fill_mb,
        scenario::KEY_LEN,
        scenario::VALUE_LEN
    );
    println!("  items when evictions start  {:>6.2}", ratio(first, peer_first));
    println!("  items held in the end       {:>6.2}", ratio(items, peer_items));
    println!("  resident memory             {:>6.2}", ratio(resident, peer_resident));
    if options.absolute {
        for (who, first, items, resident, empty) in [
            ("ours", first, items, resident, empty),
            ("peer", peer_first, peer_items, peer_resident, peer_empty),
        ] {
            let per_item = (resident.saturating_sub(empty)) as f64 / items.max(1) as f64;
            println!(
                "  {who}: {first} until evictions, {items} held, {:.1} MiB resident \
                 ({:.1} when empty), {per_item:.0} bytes an item",
                mib(resident),
                mib(empty)
            );
        }
    }
    Ok(())
}

/// How long a node of ours that finds its peer takes until it lets clients in.
fn copy(options: &Options) -> Result<(), String> {
    eprintln!("copy ...");
    let megabytes = (options.copy_items * 256 / (1024 * 1024)).max(64);
    let megabytes = u32::try_from(megabytes).unwrap_or(u32::MAX);
    let link = server::free_port()?;
    let command = format!("{} -x 127.0.0.1 -X {link}", options.ours);
    let first = Server::start(&command, megabytes, options.threads)?;
    let mut client = Client::connect(first.port)?;
    let batches: Vec<Batch> = scenario::sets(0, options.copy_items, FILL_BATCH).collect();
    client.run(batches.iter(), batches.len())?;
    let (items, before) = (first.stat("curr_items")?, first.cpu()?);
    let (second, took) =
        Server::start_on(server::free_port()?, &command, megabytes, options.threads, COPY_MAX)?;
    let copied = second.stat("curr_items")?;
    let sender = first.cpu()?.saturating_sub(before).as_secs_f64();
    let receiver = second.cpu()?.as_secs_f64();
    let seconds = took.as_secs_f64().max(1e-9);
    println!();
    println!("full copy of {items} items to a starting node of ours:");
    println!("  {copied} there when its port opened, {seconds:.2} s after its start");
    println!("  {:.0} items a second", copied as f64 / seconds);
    println!("  processor seconds: sender {sender:.2}, receiver {receiver:.2}");
    if copied < items {
        return Err(format!("the port opened with {copied} of {items} items"));
    }
    Ok(())
}
