//! The tails bench: what the unluckiest clients wait while a store is put through the worst.
//!
//! `cargo bench --bench tails` fills our server and a peer, one after the other: millions of items,
//! so that the index grows all the way; then `flush_all`; then sets until everything has been
//! evicted; then half of new items expire. Meanwhile clients that load nothing ask a thousand
//! times a second on connections of their own, and note how long each answer took, counted from
//! when its request was due. What they wait when nothing else happens stands beside it.
//!
//! ```text
//!   idle    fill -------------> flush    refill -------> storm ------>  expire
//!                  growing       |         into what      100 % sets,    half, untouched
//!                  index         '- at     was flushed    100 % evicted
//!                                   once
//! ```
//! Owns the order of things. The longest wait of all is also the scheduler's doing: run it on a
//! machine that is quiet, or with a priority (`nice -n -10`), and more than once.

mod common;
#[path = "tails/options.rs"]
mod options;
#[path = "tails/phases.rs"]
mod phases;
#[path = "tails/table.rs"]
mod table;

use common::frame;
use options::Options;
use std::process::ExitCode;

fn main() -> ExitCode {
    frame::main("tails", options::parse, run)
}

fn run(options: &Options) -> Result<(), String> {
    println!("ours: {}", options.ours);
    println!("peer: {}", options.peer);
    // The peer first: where it is missing, nothing has been waited for.
    let peer = phases::run(&options.peer, options)?;
    let ours = phases::run(&options.ours, options)?;
    table::print(&ours, &peer, options.memory_mb);
    Ok(())
}
