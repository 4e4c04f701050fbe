//! What the load bench was asked to do.

use crate::common::frame::{compared, Given, Stop};
use getopts::Options as Flags;

/// A checked command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Plain gets of one round, on one server; of costlier requests there are fewer.
    pub requests: u64,
    /// Times that every scenario is run, in turns.
    pub rounds: u32,
    /// Seconds that a round at a fixed rate takes.
    pub seconds: f64,
    /// `-t` of both servers, one table for each.
    pub threads: Vec<u32>,
    /// Our command, with `{port}`, `{m}` and `{t}`.
    pub ours: String,
    /// The peer's command, with `{port}`, `{m}` and `{t}`.
    pub peer: String,
    /// Only scenarios whose name contains this.
    pub only: String,
    /// `--pace`, `--no-pace`: only the tables of latencies, or all but them.
    pub paced: (bool, bool),
}

/// Reads the arguments behind the program's name.
pub fn parse(args: &[String]) -> Result<Options, Stop> {
    let mut flags = Flags::new();
    flags
        .optopt("", "requests", "plain gets per server and round (40000; quick: 20000)", "N")
        .optopt("", "rounds", "rounds, in turns (15; quick: 5)", "N")
        .optopt("", "seconds", "of a round at a fixed rate (1.5; quick: 1)", "S")
        .optopt("", "threads", "threads of both servers: 1, 4 or all (all)", "T")
        .optflag("", "pace", "only latencies at equal load")
        .optflag("", "no-pace", "no latencies at equal load");
    compared(&mut flags);
    let more = "A CMD is split at blanks; {port}, {m} (megabytes) and {t} (threads) are filled in.";
    let given = Given::read("load", more, args, flags)?;
    let threads = match given.text("threads", "all").as_str() {
        "all" => vec![1, 4],
        text => match text.parse() {
            Ok(threads @ 1..=256) => vec![threads],
            _ => return Err(Stop::Usage("--threads is a number up to 256, or all".to_owned())),
        },
    };
    Ok(Options {
        requests: given.number("requests", (20_000, 40_000), 1000..=50_000_000)?,
        rounds: given.number("rounds", (5, 15), 1..=100)?,
        seconds: given.number("seconds", (1.0, 1.5), 0.1..=600.0)?,
        threads,
        ours: given.ours(),
        peer: given.peer(),
        only: given.only(),
        paced: (given.flag("pace"), given.flag("no-pace")),
    })
}
