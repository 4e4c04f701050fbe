//! What the traces bench was asked to do.

use crate::common::frame::{compared, Given, Stop};
use getopts::Options as Flags;
use std::path::PathBuf;

/// Most requests of a trace that are played.
const REQUESTS_MAX: usize = 100_000_000;
/// Most memory, in hundredths of what all keys take.
const SHARE_MAX: u64 = 1000;

/// A checked command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the traces are.
    pub folder: PathBuf,
    /// Requests of each trace that are played.
    pub requests: usize,
    /// Memory, in hundredths of what all keys of a trace take.
    pub shares: Vec<u64>,
    /// `-t` of both servers.
    pub threads: u32,
    /// Our command, with `{port}`, `{m}` and `{t}`.
    pub ours: String,
    /// The peer's command, with `{port}`, `{m}` and `{t}`.
    pub peer: String,
    /// Only traces whose name contains this.
    pub only: String,
}

/// Reads the arguments behind the program's name.
pub fn parse(args: &[String]) -> Result<Options, Stop> {
    let mut flags = Flags::new();
    flags
        .optopt("", "traces", "folder of *.trace, *.trace.xz, *.lis, *.lis.zst", "DIR")
        .optopt("", "requests", "at most so many requests of each (5000000; quick: 300000)", "N")
        .optopt("", "shares", "memory, in percent of all keys' items (10,30)", "LIST")
        .optopt("", "threads", "threads of both servers (1)", "T");
    compared(&mut flags);
    let more = "A CMD is split at blanks; {port}, {m} (megabytes) and {t} (threads) are filled in.";
    let given = Given::read("traces", more, args, flags)?;
    let folder = given.text("traces", "");
    if folder.is_empty() {
        return Err(Stop::Usage("--traces DIR says where the traces are".to_owned()));
    }
    let shares = given.text("shares", "10,30");
    let shares: Result<Vec<u64>, _> = shares.split(',').map(str::parse).collect();
    let shares = shares.ok().filter(|all| all.iter().all(|&n| (1..=SHARE_MAX).contains(&n)));
    let Some(shares) = shares else {
        return Err(Stop::Usage("--shares wants percents, like 10,30".to_owned()));
    };
    Ok(Options {
        folder: folder.into(),
        requests: given.number("requests", (300_000, 5_000_000), 1..=REQUESTS_MAX)?,
        shares,
        threads: given.number("threads", (1, 1), 1..=256)?,
        ours: given.ours(),
        peer: given.peer(),
        only: given.only(),
    })
}
