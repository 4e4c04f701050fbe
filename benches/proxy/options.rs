//! What the proxy bench was asked to do.

use crate::common::frame::{Given, Stop};
use getopts::Options as Flags;

/// Most requests one scenario may send to one proxy in one round.
const REQUESTS_MAX: u64 = 50_000_000;
/// Most rounds: each round costs every scenario once per proxy.
const ROUNDS_MAX: u32 = 100;
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

/// Reads the arguments behind the program's name.
pub fn parse(args: &[String]) -> Result<Options, Stop> {
    let mut flags = Flags::new();
    flags
        .optopt("", "requests", "requests per scenario, proxy and round (200000)", "N")
        .optopt("", "rounds", "rounds, in turns (7)", "N")
        .optopt("", "ours", "our proxy, instead of the one just built", "CMD")
        .optopt("", "ours-flags", "more flags for our proxy", "FLAGS")
        .optopt("", "peer", "the program of the peer, instead of nutcracker", "PROGRAM")
        .optopt("", "server", "the servers behind both, instead of memcached", "CMD");
    let more = "A CMD is split at blanks; {port} and {t} (threads) are filled in, for a proxy {a} \
                and {b} (the ports of both servers), for a server {m} (megabytes).";
    let given = Given::read("proxy", more, args, flags)?;
    let flags = given.text("ours-flags", "");
    let own = format!("{} {OURS} {flags}", env!("CARGO_BIN_EXE_twincached"));
    Ok(Options {
        requests: given.number("requests", (50_000, 200_000), 1000..=REQUESTS_MAX)?,
        rounds: given.number("rounds", (3, 7), 1..=ROUNDS_MAX)?,
        ours: given.text("ours", &own),
        peer: given.text("peer", "nutcracker"),
        server: given.text("server", ""),
        only: given.only(),
    })
}
