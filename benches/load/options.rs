//! What the bench was asked to do.
//!
//! Owns its command line and its limits: whatever is given, a run is bounded in requests and time.

use getopts::Options as Flags;

/// Most requests one scenario may send to one server in one round.
const REQUESTS_MAX: u64 = 50_000_000;
/// Most rounds: each round costs every scenario once per server.
const ROUNDS_MAX: u32 = 50;

/// A checked command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Requests of one scenario, to one server, in one round.
    pub requests: u64,
    /// Times that every scenario is run, in turns.
    pub rounds: u32,
    /// `-t` of both servers.
    pub threads: u32,
    /// `-m` of both servers where they are filled, in megabytes.
    pub fill_mb: u32,
    /// Items that a starting node copies from its peer; 0 leaves the measurement out.
    pub copy_items: u64,
    /// Our command, with `{port}`, `{m}` and `{t}`.
    pub ours: String,
    /// The peer's command, with `{port}`, `{m}` and `{t}`.
    pub peer: String,
    /// Only scenarios whose name contains this.
    pub only: String,
    /// Show what the ratios were made of.
    pub absolute: bool,
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
        .optflag("", "quick", "a tenth of the requests, one round")
        .optopt("", "requests", "requests per scenario, server and round (300000)", "N")
        .optopt("", "rounds", "rounds, in turns (3)", "N")
        .optopt("", "threads", "threads of both servers (4)", "T")
        .optopt("", "fill", "memory of both servers where they are filled (64)", "MB")
        .optopt("", "copy", "items copied to a starting node (1000000), 0 for none", "N")
        .optopt("", "ours", "our server, instead of the one just built", "CMD")
        .optopt("", "peer", "the server to compare with, instead of memcached", "CMD")
        .optopt("", "only", "only scenarios whose name contains this", "TEXT")
        .optflag("", "absolute", "show the figures behind the ratios too");
    let brief = "cargo bench --bench load -- [options]\n\n\
        A CMD is split at blanks; {port}, {m} (megabytes) and {t} (threads) are filled in.";
    let given = flags.parse(args).map_err(|error| Stop::Usage(error.to_string()))?;
    if given.opt_present("help") {
        return Err(Stop::Help(flags.usage(brief)));
    }
    if let Some(odd) = given.free.first() {
        return Err(Stop::Usage(format!("what is \"{odd}\"?")));
    }
    let quick = given.opt_present("quick");
    let number = |name: &str, default: u64, most: u64| -> Result<u64, Stop> {
        match given.opt_get::<u64>(name) {
            Ok(n) => Ok(n.unwrap_or(default)),
            Err(_) => Err(Stop::Usage(format!("--{name} wants a number"))),
        }
        .and_then(|n| {
            if n <= most {
                Ok(n)
            } else {
                Err(Stop::Usage(format!("--{name} is at most {most}")))
            }
        })
    };
    let small = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
    let own = format!("{} {SERVER}", env!("CARGO_BIN_EXE_twincached"));
    let peer = format!("memcached {SERVER} -U 0");
    Ok(Options {
        requests: number("requests", if quick { 50_000 } else { 300_000 }, REQUESTS_MAX)?.max(1000),
        rounds: small(number("rounds", if quick { 1 } else { 3 }, u64::from(ROUNDS_MAX))?).max(1),
        threads: small(number("threads", 4, 256)?).max(1),
        fill_mb: small(number("fill", if quick { 16 } else { 64 }, 1 << 20)?).max(1),
        copy_items: number("copy", if quick { 100_000 } else { 1_000_000 }, 100_000_000)?,
        ours: given.opt_str("ours").unwrap_or(own),
        peer: given.opt_str("peer").unwrap_or(peer),
        only: given.opt_str("only").unwrap_or_default(),
        absolute: given.opt_present("absolute"),
    })
}

/// How a memcached is told what it needs to know.
const SERVER: &str = "-u root -l 127.0.0.1 -p {port} -m {m} -t {t} -c 1024";
