//! The proxy bench: ours and twemproxy side by side, in front of the same two servers.
//!
//! `cargo bench --bench proxy` starts two memcached (our own server where there is none), our proxy
//! with one worker and nutcracker, asks the same of both in turns, and prints the processor time
//! of each per million requests, their ratio beside the goal, and the latencies. Then it shows how
//! throughput grows with `-t`.
//!
//! Owns the order of things; the load generator is the load bench's.

#[path = "load/client.rs"]
#[allow(dead_code)]
mod client;
#[path = "proxy/options.rs"]
mod options;
#[path = "load/report.rs"]
#[allow(dead_code)]
mod report;
#[path = "load/scenario.rs"]
mod scenario;
#[path = "load/server.rs"]
#[allow(dead_code)]
mod server;
#[path = "proxy/sides.rs"]
mod sides;
#[path = "proxy/table.rs"]
mod table;

use options::{Options, Stop};
use report::Line;
use scenario::{Batch, Scenario};
use sides::{Folder, Servers, Side};
use std::process::ExitCode;

/// A paced run sends at this share of what the slower proxy can do.
const PACE: f64 = 0.3;
/// A paced run is at least so long in seconds, and so are its tails worth something.
const PACED_SECONDS: f64 = 2.0;
/// Workers that are compared.
const WORKERS: [u32; 2] = [1, 2];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if !args.iter().any(|arg| arg == "--bench" || arg == "--help" || arg == "-h") {
        // `cargo test --all-targets` starts benches too; this one is not a test.
        println!("proxy: run it with `cargo bench --bench proxy`");
        return ExitCode::SUCCESS;
    }
    let options = match options::parse(&args) {
        Ok(options) => options,
        Err(Stop::Help(text)) => {
            println!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(Stop::Usage(text)) => {
            eprintln!("proxy: {text}");
            return ExitCode::from(64);
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("proxy: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let wanted = |name: &str| name.contains(&options.only);
    let servers = Servers::start(options)?;
    let folder = Folder::new()?;
    println!("servers: {}", servers.what);
    println!("ours: {}", options.ours);
    let peer = if sides::is_installed(&options.peer) {
        println!("peer: {}", options.peer);
        Some(Side::peer(options, &servers, &folder)?)
    } else {
        eprintln!();
        eprintln!("*** {} is not installed: there is nothing to compare with ***", options.peer);
        eprintln!("*** (Debian, Ubuntu: apt-get install nutcracker)          ***");
        None
    };
    let mut sides = vec![Side::ours(options, &servers, 1)?];
    sides.extend(peer);
    let mut lines = Vec::new();
    for scenario in scenario::ALL.iter().filter(|s| wanted(s.name)) {
        lines.push(in_turns(scenario, &mut sides, options)?);
    }
    let mut tails = Vec::new();
    if wanted(scenario::PACED.name) {
        tails.push(paced(&mut sides, options)?);
    }
    if sides.len() == 1 {
        tails.extend(lines);
        table::alone(&tails);
    } else {
        table::cpu(&lines);
        tails.extend(lines);
        table::latency(&tails);
    }
    drop(sides);
    if wanted("workers") {
        workers(options, &servers)?;
    }
    Ok(())
}

/// Who is measured first changes with each round: neither always has the warmer machine.
fn order(round: u32, sides: usize) -> impl Iterator<Item = usize> {
    (0..sides).map(move |index| (index + round as usize) % sides)
}

fn in_turns(scenario: &Scenario, sides: &mut [Side], options: &Options) -> Result<Line, String> {
    eprintln!("{} ...", scenario.name);
    let batches = scenario.batches();
    let per_batch = batches[0].requests;
    let count = (options.requests / scenario.weight / per_batch).max(1000) as usize;
    rounds(scenario.name, sides, options, &batches, |client, batches| {
        client.run(batches.iter().cycle().take(count), count)
    })
}

/// Latencies at equal load: the same rate for both, well below what either can do.
fn paced(sides: &mut [Side], options: &Options) -> Result<Line, String> {
    let scenario = scenario::PACED;
    eprintln!("{} ...", scenario.name);
    let batches = scenario.batches();
    let probe = (options.requests / 5).max(1000) as usize;
    let mut slowest = f64::INFINITY;
    for side in sides.iter_mut() {
        let run = side.measure(|client| client.run(batches.iter().cycle().take(probe), probe))?;
        slowest = slowest.min(run.rate());
    }
    let rate = slowest * PACE;
    let count = (options.requests as f64 / 5.0).max(rate * PACED_SECONDS) as usize;
    eprintln!("  at {rate:.0} requests a second");
    rounds(scenario.name, sides, options, &batches, |client, batches| {
        client.run_paced(batches.iter().cycle().take(count), count, rate)
    })
}

fn rounds(
    name: &'static str,
    sides: &mut [Side],
    options: &Options,
    batches: &[Batch],
    run: impl Fn(&mut client::Client, &[Batch]) -> Result<client::Outcome, String>,
) -> Result<Line, String> {
    let mut line = Line { name, ours: Vec::new(), peer: Vec::new() };
    for round in 0..options.rounds {
        for index in order(round, sides.len()) {
            let measured = sides[index].measure(|client| run(client, batches))?;
            if index == 0 { &mut line.ours } else { &mut line.peer }.push(measured);
        }
    }
    Ok(line)
}

/// Throughput of ours with few and many workers.
fn workers(options: &Options, servers: &Servers) -> Result<(), String> {
    let [few, many] = WORKERS;
    let mut sides = [Side::ours(options, servers, few)?, Side::ours(options, servers, many)?];
    let mut lines = Vec::new();
    for scenario in scenario::ALL.iter().filter(|s| ["get", "pipelined 20 get"].contains(&s.name)) {
        lines.push(in_turns(scenario, &mut sides, options)?);
    }
    table::workers(&lines, WORKERS);
    Ok(())
}
