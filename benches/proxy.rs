//! The proxy bench: ours and twemproxy side by side, in front of the same two servers.
//!
//! `cargo bench --bench proxy` starts two memcached (our own server where there is none), our proxy
//! with one worker and nutcracker, asks the same of both in turns, and prints the processor time
//! of each per million requests, their ratio beside the goal, and the latencies. Then it shows how
//! throughput grows with `-t`.
//!
//! Owns the order of things; the load generator is the load bench's.

mod common;
#[path = "proxy/options.rs"]
mod options;
#[path = "proxy/sides.rs"]
mod sides;
#[path = "proxy/table.rs"]
mod table;

use common::figures::Line;
use common::frame;
use common::scenario::{Scenario, GET, MIXED, MULTI_GET, PIPELINED_GET, PIPELINED_SET, SET};
use common::side::{self, Side};
use options::Options;
use sides::{Folder, Servers};
use std::process::ExitCode;

/// The table's lines.
const ALL: [Scenario; 6] = [GET, SET, MIXED, MULTI_GET, PIPELINED_GET, PIPELINED_SET];
/// The mixed load at a fixed rate, for latencies.
const PACED: Scenario = Scenario { name: "90/10 paced", ..MIXED };
/// A paced run is at least so long in seconds, and so are its tails worth something.
const PACED_SECONDS: f64 = 2.0;
/// Workers that are compared.
const WORKERS: [u32; 2] = [1, 2];

fn main() -> ExitCode {
    frame::main("proxy", options::parse, run)
}

fn run(options: &Options) -> Result<(), String> {
    let wanted = |name: &str| name.contains(&options.only);
    let servers = Servers::start(options)?;
    let folder = Folder::new()?;
    println!("servers: {}", servers.what);
    println!("ours: {}", options.ours);
    let peer = if sides::is_installed(&options.peer) {
        println!("peer: {}", options.peer);
        Some(sides::peer(options, &servers, &folder)?)
    } else {
        eprintln!();
        eprintln!("*** {} is not installed: there is nothing to compare with ***", options.peer);
        eprintln!("*** (Debian, Ubuntu: apt-get install nutcracker)          ***");
        None
    };
    let mut sides = vec![sides::ours(options, &servers, 1)?];
    sides.extend(peer);
    let mut lines = Vec::new();
    for scenario in ALL.iter().filter(|s| wanted(s.name)) {
        lines.push(in_turns(scenario, &mut sides, options)?);
    }
    let mut tails = Vec::new();
    if wanted(PACED.name) {
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

fn in_turns(scenario: &Scenario, sides: &mut [Side], options: &Options) -> Result<Line, String> {
    eprintln!("{} ...", scenario.name);
    let (batches, count) = (scenario.batches(), scenario.count(options.requests));
    let sides = side::flat_out(sides, options.rounds, &batches, count)?;
    Ok(Line { name: scenario.name.to_owned(), sides })
}

fn paced(sides: &mut [Side], options: &Options) -> Result<Line, String> {
    eprintln!("{} ...", PACED.name);
    let requests = options.requests / 5;
    let sides = side::paced(&PACED, sides, options.rounds, requests, PACED_SECONDS)?;
    Ok(Line { name: PACED.name.to_owned(), sides })
}

/// Throughput of ours with few and many workers.
fn workers(options: &Options, servers: &Servers) -> Result<(), String> {
    let [few, many] = WORKERS;
    let mut sides = [sides::ours(options, servers, few)?, sides::ours(options, servers, many)?];
    let mut lines = Vec::new();
    for scenario in ALL.iter().filter(|s| ["get", "pipelined 20 get"].contains(&s.name)) {
        lines.push(in_turns(scenario, &mut sides, options)?);
    }
    table::workers(&lines, WORKERS);
    Ok(())
}
