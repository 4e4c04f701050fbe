//! The memory bench: what our server and a peer hold at equal `-m`, and what they take for it.
//!
//! `cargo bench --bench memory` counts items before the first eviction and resident memory then,
//! looks at idle servers, changes the sizes of all values under a full memory, lets half of the
//! items expire untouched, and strips the program. Each line shows ours, the peer's, the figure
//! that the goal is about, and whether it is met.
//!
//! Owns the order of things. Nothing is timed here but how long memory takes to come back and how
//! long clients wait meanwhile; processor time is the load bench's.

mod common;
#[path = "memory/items.rs"]
mod items;
#[path = "memory/lines.rs"]
mod lines;
#[path = "memory/options.rs"]
mod options;
#[path = "memory/table.rs"]
mod table;

use common::frame;
use options::Options;
use std::process::ExitCode;

fn main() -> ExitCode {
    frame::main("memory", options::parse, run)
}

fn run(options: &Options) -> Result<(), String> {
    println!("ours: {}", options.ours);
    println!("peer: {}", options.peer);
    let mut rows = Vec::new();
    lines::held(options, &mut rows)?;
    lines::idle(options, &mut rows)?;
    lines::sizes(options, &mut rows)?;
    lines::expire(options, &mut rows)?;
    lines::program(options, &mut rows)?;
    table::print(&rows);
    Ok(())
}

impl Options {
    /// The same with our command and with the peer's.
    fn both<T>(&self, mut run: impl FnMut(&str) -> Result<T, String>) -> Result<[T; 2], String> {
        Ok([run(&self.ours)?, run(&self.peer)?])
    }
}
