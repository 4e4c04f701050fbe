//! What the bench was asked to do.
//!
//! Owns its command line and its limits: whatever is given, a run is bounded.

use getopts::Options as Flags;

/// Most items of a copy, rounds and requests: a run ends within the hour.
const ITEMS_MAX: u64 = 100_000_000;
const ROUNDS_MAX: u64 = 200;
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

/// Why there are no options.
pub enum Stop {
    /// Print this and leave with success.
    Help(String),
    /// Print this and leave with EX_USAGE.
    Usage(String),
}

/// Reads the arguments behind the program's name.
pub fn parse(args: &[String]) -> Result<Options, Stop> {
    let mut flags = Flags::new();
    flags
        .optflag("h", "help", "print this")
        .optflag("", "bench", "given by cargo bench")
        .optflag("", "quick", "fewer requests and rounds: less than a minute")
        .optopt("", "requests", "requests per shape, server and round (40000)", "N")
        .optopt("", "rounds", "rounds, in turns (11)", "N")
        .optopt("", "threads", "threads of all servers (4)", "T")
        .optopt("", "items", "items of the full copy (1000000), 0 for none", "N")
        .optopt("", "copies", "full copies of each kind (5)", "N")
        .optopt("", "load", "sets a second during the copy under load (20000)", "N")
        .optopt("", "program", "our program, instead of the one just built", "PATH")
        .optopt("", "alone", "the unlinked node's program, where it is another one", "PATH")
        .optopt("", "only", "only shapes whose name contains this, or \"copy\"", "TEXT");
    let given = flags.parse(args).map_err(|error| Stop::Usage(error.to_string()))?;
    if given.opt_present("help") {
        let brief = "cargo bench --bench replication -- [options]";
        return Err(Stop::Help(flags.usage(brief)));
    }
    if let Some(odd) = given.free.first() {
        return Err(Stop::Usage(format!("what is \"{odd}\"?")));
    }
    let quick = given.opt_present("quick");
    let number = |name: &str, default: u64, most: u64| match given.opt_get::<u64>(name) {
        Ok(n) if n.unwrap_or(default) <= most => Ok(n.unwrap_or(default)),
        Ok(_) => Err(Stop::Usage(format!("--{name} is at most {most}"))),
        Err(_) => Err(Stop::Usage(format!("--{name} wants a number"))),
    };
    let program =
        given.opt_str("program").unwrap_or_else(|| env!("CARGO_BIN_EXE_twincached").to_owned());
    Ok(Options {
        requests: number("requests", if quick { 20_000 } else { 40_000 }, REQUESTS_MAX)?.max(1000),
        rounds: number("rounds", if quick { 5 } else { 11 }, ROUNDS_MAX)?.max(1) as usize,
        threads: number("threads", 4, 256)?.max(1) as u32,
        items: number("items", 1_000_000, ITEMS_MAX)?,
        copies: number("copies", if quick { 1 } else { 5 }, ROUNDS_MAX)?.max(1) as usize,
        load: number("load", 20_000, REQUESTS_MAX)?.max(100) as f64,
        alone: given.opt_str("alone").unwrap_or_else(|| program.clone()),
        program,
        only: given.opt_str("only").unwrap_or_default(),
    })
}
