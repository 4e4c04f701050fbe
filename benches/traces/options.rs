//! What the traces bench was asked to do.
//!
//! Owns its command line and its limits.

use getopts::Options as Flags;
use std::path::PathBuf;

/// Most requests of a trace that are played.
const REQUESTS_MAX: u64 = 100_000_000;

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
        .optopt("", "traces", "folder of *.trace, *.trace.xz, *.lis, *.lis.zst", "DIR")
        .optopt("", "requests", "at most so many requests of each (5000000)", "N")
        .optopt("", "shares", "memory, in percent of all keys' items (10,30)", "LIST")
        .optopt("", "threads", "threads of both servers (1)", "T")
        .optopt("", "ours", "our server, instead of the one just built", "CMD")
        .optopt("", "peer", "the server to compare with, instead of memcached", "CMD")
        .optopt("", "only", "only traces whose name contains this", "TEXT");
    let brief = "cargo bench --bench traces -- --traces DIR [options]\n\n\
        A CMD is split at blanks; {port}, {m} (megabytes) and {t} (threads) are filled in.";
    let given = flags.parse(args).map_err(|error| Stop::Usage(error.to_string()))?;
    if given.opt_present("help") {
        return Err(Stop::Help(flags.usage(brief)));
    }
    if let Some(odd) = given.free.first() {
        return Err(Stop::Usage(format!("what is \"{odd}\"?")));
    }
    let number = |name: &str, default: u64, most: u64| match given.opt_get::<u64>(name) {
        Ok(n) => Ok(n.unwrap_or(default).clamp(1, most)),
        Err(_) => Err(Stop::Usage(format!("--{name} wants a number"))),
    };
    let Some(folder) = given.opt_str("traces") else {
        return Err(Stop::Usage("--traces DIR says where the traces are".to_owned()));
    };
    let shares = given.opt_str("shares").unwrap_or_else(|| "10,30".to_owned());
    let shares: Result<Vec<u64>, _> = shares.split(',').map(str::parse).collect();
    let Ok(shares) = shares else {
        return Err(Stop::Usage("--shares wants numbers, like 10,30".to_owned()));
    };
    let own = format!("{} {SERVER}", env!("CARGO_BIN_EXE_twincached"));
    let peer = format!("memcached {SERVER} -U 0");
    Ok(Options {
        folder: folder.into(),
        requests: number("requests", 5_000_000, REQUESTS_MAX)? as usize,
        shares: shares.into_iter().map(|share| share.clamp(1, 1000)).collect(),
        threads: number("threads", 1, 256)? as u32,
        ours: given.opt_str("ours").unwrap_or(own),
        peer: given.opt_str("peer").unwrap_or(peer),
        only: given.opt_str("only").unwrap_or_default(),
    })
}

/// How a memcached is told what it needs to know.
const SERVER: &str = "-u root -l 127.0.0.1 -p {port} -m {m} -t {t}";
