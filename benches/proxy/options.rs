//! What the proxy bench was asked to do.
//!
//! Owns its command line and its limits: whatever is given, a run is bounded in requests and time.

use getopts::Options as Flags;

/// Most requests one scenario may send to one proxy in one round.
const REQUESTS_MAX: u64 = 50_000_000;
/// Most rounds: each round costs every scenario once per proxy.
const ROUNDS_MAX: u64 = 100;
/// How our proxy is told what it needs to know.
const OURS: &str = "proxy -D -u root -l 127.0.0.1 -n 1024 -p {port} -t {t} \
                    -s 127.0.0.1:{a} -s 127.0.0.1:{b}";

/// A checked command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Requests of one scenario, to one proxy, in one round.
    pub requests: u64,
    /// Times that every scenario is run, in turns.
    pub rounds: u32,
    /// Our command, with `{port}`, `{t}`, and `{a}` and `{b}` for the ports of the servers.
    pub ours: String,
    /// The peer's program.
    pub peer: String,
    /// The servers' command, with `{port}`, `{m}` and `{t}`; empty: memcached, or else our own.
    pub server: String,
    /// Only scenarios whose name contains this.
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
        .optopt("", "requests", "requests per scenario, proxy and round (200000)", "N")
        .optopt("", "rounds", "rounds, in turns (7)", "N")
        .optopt("", "ours", "our proxy, instead of the one just built", "CMD")
        .optopt("", "ours-flags", "more flags for our proxy", "FLAGS")
        .optopt("", "peer", "the program of the peer, instead of nutcracker", "PROGRAM")
        .optopt("", "server", "the servers behind both, instead of memcached", "CMD")
        .optopt("", "only", "only scenarios whose name contains this", "TEXT");
    let brief = "cargo bench --bench proxy -- [options]\n\n\
        A CMD is split at blanks; {port} and {t} (threads) are filled in, for a proxy {a} and {b} \
        (the ports of both servers), for a server {m} (megabytes).";
    let given = flags.parse(args).map_err(|error| Stop::Usage(error.to_string()))?;
    if given.opt_present("help") {
        return Err(Stop::Help(flags.usage(brief)));
    }
    if let Some(odd) = given.free.first() {
        return Err(Stop::Usage(format!("what is \"{odd}\"?")));
    }
    let quick = given.opt_present("quick");
    let number = |name: &str, default: u64, most: u64| match given.opt_get::<u64>(name) {
        Ok(n) if n.is_none_or(|n| n <= most) => Ok(n.unwrap_or(default)),
        Ok(_) => Err(Stop::Usage(format!("--{name} is at most {most}"))),
        Err(_) => Err(Stop::Usage(format!("--{name} wants a number"))),
    };
    let more = given.opt_str("ours-flags").unwrap_or_default();
    let own = format!("{} {OURS} {more}", env!("CARGO_BIN_EXE_twincached"));
    let rounds = number("rounds", if quick { 3 } else { 7 }, ROUNDS_MAX)?.max(1);
    Ok(Options {
        requests: number("requests", if quick { 50_000 } else { 200_000 }, REQUESTS_MAX)?.max(1000),
        rounds: u32::try_from(rounds).unwrap_or(1),
        ours: given.opt_str("ours").unwrap_or(own),
        peer: given.opt_str("peer").unwrap_or_else(|| "nutcracker".to_owned()),
        server: given.opt_str("server").unwrap_or_default(),
        only: given.opt_str("only").unwrap_or_default(),
    })
}
