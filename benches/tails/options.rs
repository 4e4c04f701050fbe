//! What the tails bench was asked to do.

use crate::common::frame::{compared, Given, Stop};
use getopts::Options as Flags;

/// A checked command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Items of the fill; the storm sets as many again twice.
    pub items: u64,
    /// Bytes of a value.
    pub value: usize,
    /// `-m`: room for the items of the fill and little more.
    pub memory_mb: u32,
    /// `-t` of both servers.
    pub threads: u32,
    /// Sets that one connection has under way.
    pub pipelined: u64,
    /// Our command, with `{port}`, `{m}` and `{t}`.
    pub ours: String,
    /// The peer's command, with `{port}`, `{m}` and `{t}`.
    pub peer: String,
}

/// Bytes that an item of ours takes beside its value: key, header, its share of the index, and what
/// the segments that are kept free come to.
const BESIDE_VALUE: u64 = 62;

/// Reads the arguments behind the program's name.
pub fn parse(args: &[String]) -> Result<Options, Stop> {
    let mut flags = Flags::new();
    flags
        .optopt("", "items", "items of the fill (20 million; quick: 2 million)", "N")
        .optopt("", "value", "bytes of a value (10)", "N")
        .optopt("", "memory", "-m of both servers (what the items take in ours)", "MB")
        .optopt("", "threads", "threads of both servers (1)", "T")
        .optopt("", "pipelined", "sets that a filling connection sends at once (25)", "N");
    compared(&mut flags);
    let more = "A CMD is split at blanks; {port}, {m} (megabytes) and {t} (threads) are filled in.";
    let given = Given::read("tails", more, args, flags)?;
    let items = given.number("items", (2_000_000, 20_000_000), 100_000..=200_000_000)?;
    let value = given.number("value", (10, 10), 1..=10_000)?;
    let fitting = items * (BESIDE_VALUE + value as u64) >> 20;
    let fitting = u32::try_from(fitting).unwrap_or(u32::MAX).max(8);
    Ok(Options {
        items,
        value,
        memory_mb: given.number("memory", (fitting, fitting), 8..=1 << 18)?,
        threads: given.number("threads", (1, 1), 1..=256)?,
        pipelined: given.number("pipelined", (25, 25), 1..=1000)?,
        ours: given.ours(),
        peer: given.peer(),
    })
}
