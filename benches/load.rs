//! The load bench: our server, a peer, and the least that any server could take, side by side.
//!
//! `cargo bench --bench load` starts them on loopback ports and asks the same of them, in turns, so
//! that whatever disturbs the machine disturbs all. It prints the server's processor time per
//! million requests, ours divided by the peer's and by the floor's, beside the goals, and latencies
//! at equal load; once for one worker with a processor of its own, once for four workers that
//! share the machine with the load generator.
//!
//! ```text
//!   load generator --50 connections--+--> ours  (-t 1, first processor)
//!   (last processor)     in turns    +--> peer  (memcached, the same)
//!                                    +--> floor (canned bytes, the same)
//! ```
//!
//! Owns the order of things. The generator shows its own processor share, so that one sees when it
//! is the limit.

mod common;
#[path = "load/floor.rs"]
mod floor;
#[path = "load/options.rs"]
mod options;
#[path = "load/rows.rs"]
mod rows;
#[path = "load/table.rs"]
mod table;

use common::figures::Line;
use common::frame;
use common::pin::Processors;
use common::server::Server;
use common::side::{self, Side};
use options::Options;
use rows::Row;
use std::process::ExitCode;

/// `-m` of the servers under load: room for everything several times over, with the large values
/// that are on their way in.
const LOAD_MB: u32 = 512;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [argument, rest @ ..] = &args[..] {
        if argument == floor::ARGUMENT {
            let Err(error) = floor::serve(rest) else { return ExitCode::SUCCESS };
            eprintln!("floor: {error}");
            return ExitCode::FAILURE;
        }
    }
    frame::main("load", options::parse, run)
}

fn run(options: &Options) -> Result<(), String> {
    println!("ours: {}", options.ours);
    println!("peer: {}", options.peer);
    let processors = Processors::of_this_thread();
    for &threads in &options.threads {
        measure(options, &processors, threads)?;
    }
    Ok(())
}

/// Both tables for servers of so many threads.
fn measure(options: &Options, processors: &Processors, threads: u32) -> Result<(), String> {
    let start = |command: &str| match threads {
        1 => processors.apart(|| Server::start(command, LOAD_MB, threads)),
        _ => Server::start(command, LOAD_MB, threads),
    };
    processors.together();
    let how = match (threads, processors.count()) {
        (1, 1) => "1 worker, which shares the only processor".to_owned(),
        (1, _) => "1 worker with a processor of its own".to_owned(),
        (_, count) => format!("{threads} workers on {count} processors"),
    };
    // The peer first: where it is missing, nothing has been waited for.
    let peer = Side::new(start(&options.peer)?)?;
    let mut sides = vec![Side::new(start(&options.ours)?)?, peer];
    for side in &mut sides {
        rows::ITEMS.into_iter().try_for_each(|items| side.fill(items))?;
    }
    let wanted = |row: &&Row| row.scenario.name.contains(&options.only);
    let (only_paced, not_paced) = options.paced;
    let mut lines = Vec::new();
    for row in rows::ALL.iter().filter(wanted).filter(|_| !only_paced) {
        eprintln!("{}, {how} ...", row.scenario.name);
        let batches = row.scenario.batches();
        sides.push(Side::new(start(&floor::command(&batches)?)?)?);
        let count = row.scenario.count(options.requests);
        let measured = side::flat_out(&mut sides, options.rounds, &batches, count)?;
        sides.truncate(table::FLOOR);
        lines.push((row, Line { name: row.scenario.name.to_owned(), sides: measured }));
    }
    if !lines.is_empty() {
        table::cpu(&lines, &how);
    }
    lines.clear();
    for row in rows::ALL.iter().filter(wanted).filter(|row| row.is_paced && !not_paced) {
        eprintln!("{}, at a fixed rate, {how} ...", row.scenario.name);
        let (rounds, requests) = (options.rounds.div_ceil(2), options.requests / 3);
        let measured = side::paced(&row.scenario, &mut sides, rounds, requests, options.seconds)?;
        lines.push((row, Line { name: row.scenario.name.to_owned(), sides: measured }));
    }
    if !lines.is_empty() {
        table::latency(&lines, &how);
    }
    Ok(())
}
