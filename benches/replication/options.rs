//! What the replication bench was asked to do.

use crate::common::frame::{Given, Stop};
use getopts::Options as Flags;

/// Most items of a copy, rounds and requests: a run ends within the hour.
const ITEMS_MAX: u64 = 100_000_000;
const ROUNDS_MAX: usize = 200;
const REQUESTS_MAX: u64 = 10_000_000;

/// A checked command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Requests of one shape, to one server, in one round, where each has its own system calls.
    pub requests: u64,
    /// Times that every shape is run, in turns.
    pub rounds: usize,
    /// `-t` of all servers.
    pub threads: u32,
    /// Items of the full copy; 0 leaves it out.
    pub items: u64,
    /// Copies made.
    pub copies: usize,
    /// Sets a second to the sender during the copy under load.
    pub load: f64,
    /// Our program.
    pub program: String,
    /// The program of the unlinked node.
    pub alone: String,
    /// Only shapes (or `copy`) whose name contains this.
    pub only: String,
}

/// Reads the arguments behind the program's name.
pub fn parse(args: &[String]) -> Result<Options, Stop> {
    let mut flags = Flags::new();
    flags
        .optopt("", "requests", "requests per shape, server and round (40000)", "N")
        .optopt("", "rounds", "rounds, in turns (11)", "N")
        .optopt("", "threads", "threads of all servers (4)", "T")
        .optopt("", "items", "items of the full copy (1000000), 0 for none", "N")
        .optopt("", "copies", "full copies of each kind (5)", "N")
        .optopt("", "load", "sets a second during the copy under load (20000)", "N")
        .optopt("", "program", "our program, instead of the one just built", "PATH")
        .optopt("", "alone", "the unlinked node's program, where it is another one", "PATH");
    let given = Given::read("replication", "", args, flags)?;
    let program = given.text("program", env!("CARGO_BIN_EXE_twincached"));
    Ok(Options {
        requests: given.number("requests", (20_000, 40_000), 1000..=REQUESTS_MAX)?,
        rounds: given.number("rounds", (5, 11), 1..=ROUNDS_MAX)?,
        threads: given.number("threads", (4, 4), 1..=256)?,
        items: given.number("items", (1_000_000, 1_000_000), 0..=ITEMS_MAX)?,
        copies: given.number("copies", (1, 5), 1..=ROUNDS_MAX)?,
        load: given.number("load", (20_000.0, 20_000.0), 100.0..=REQUESTS_MAX as f64)?,
        alone: given.text("alone", &program),
        program,
        only: given.only(),
    })
}
