//! The traces bench: hit ratios of our server and a peer on recorded traces, at equal `-m`.
//!
//! `cargo bench --bench traces -- --traces DIR` plays every trace in a directory against both by
//! demand fill: a key is asked for, and stored where it is missing. Values have 512 to 1536 bytes,
//! always the same for a key. `-m` has room for a tenth of what all keys of a trace would take,
//! and then for three tenths. What counts is the quotient of the misses.
//!
//! Owns the order of things and the table. The two sides of a trace run at the same time, a
//! thread for each: nothing of it depends on time.

mod common;
#[path = "traces/options.rs"]
mod options;
#[path = "traces/reader.rs"]
mod reader;
#[path = "traces/replay.rs"]
mod replay;

use common::frame;
use common::server::Server;
use options::Options;
use reader::Trace;
use replay::Played;
use std::process::ExitCode;

/// Misses beside the peer's that are to be reached.
const GOAL: f64 = 0.85;

fn main() -> ExitCode {
    frame::main("traces", options::parse, run)
}

fn run(options: &Options) -> Result<(), String> {
    let files = reader::files(&options.folder, &options.only)?;
    println!("ours: {}", options.ours);
    println!("peer: {}", options.peer);
    println!();
    println!(
        "{:16} {:>9} {:>8} {:>5} {:>10} {:>10} {:>10} {:>10}   goal {GOAL}",
        "trace", "requests", "keys", "-m", "our hits", "its hits", "our items", "our misses"
    );
    for file in files {
        let trace = Trace::read(&file, options.requests)?;
        let bytes = replay::bytes(&trace);
        for &percent in &options.shares {
            let megabytes = ((bytes * percent / 100) as f64 / f64::from(1 << 20)).round() as u32;
            let megabytes = megabytes.max(1);
            let ((ours, held), (peer, its)) = both(options, &trace, megabytes)?;
            let quotient = ours.misses() as f64 / peer.misses().max(1) as f64;
            let items = held as f64 / its.max(1) as f64;
            println!(
                "{:16} {:>9} {:>8} {megabytes:>5} {:>9.2}% {:>9.2}% \
                 {items:>10.3} {quotient:>10.3}   {}",
                trace.name,
                trace.requests.len(),
                trace.keys,
                ours.share() * 100.0,
                peer.share() * 100.0,
                if quotient <= GOAL { "yes" } else { "no" }
            );
        }
    }
    Ok(())
}

/// What came of a trace, and how many items were held in the end.
type Side = (Played, u64);

/// Plays a trace against a fresh server of each kind.
fn both(options: &Options, trace: &Trace, megabytes: u32) -> Result<(Side, Side), String> {
    // One after the other, so that they do not try the same port.
    let ours = Server::start(&options.ours, megabytes, options.threads)?;
    let peer = Server::start(&options.peer, megabytes, options.threads)?;
    std::thread::scope(|scope| {
        let its = scope.spawn(|| replay::play(trace, peer.port));
        let own = replay::play(trace, ours.port);
        let its = its.join().map_err(|_| "the peer's side gave up".to_owned())?;
        let held = |server: &Server| server.stat("curr_items");
        Ok(((own?, held(&ours)?), (its?, held(&peer)?)))
    })
}
