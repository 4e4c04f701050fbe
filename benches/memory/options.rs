//! What the memory bench was asked to do.

use crate::common::frame::{compared, Given, Stop};
use getopts::Options as Flags;

/// A checked command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// `-m` where items are counted until the first eviction.
    pub held_mb: u32,
    /// `-m` where the sizes of the values change.
    pub sizes_mb: u32,
    /// `-m` where half of the items expire.
    pub expire_mb: u32,
    /// `-t` of both servers.
    pub threads: u32,
    /// Our command, with `{port}`, `{m}` and `{t}`.
    pub ours: String,
    /// The peer's command, with `{port}`, `{m}` and `{t}`.
    pub peer: String,
    /// Only lines whose name contains this.
    pub only: String,
}

/// Most megabytes of one server: two run at once.
const MEGABYTES_MAX: u32 = 1 << 16;

/// Reads the arguments behind the program's name.
pub fn parse(args: &[String]) -> Result<Options, Stop> {
    let mut flags = Flags::new();
    flags
        .optopt("", "held", "-m while items are counted (256)", "MB")
        .optopt("", "sizes", "-m while sizes change (128; quick: 64)", "MB")
        .optopt("", "expire", "-m while half of the items expire (256; quick: 64)", "MB")
        .optopt("", "threads", "threads of both servers (4)", "T");
    compared(&mut flags);
    let more = "A CMD is split at blanks; {port}, {m} (megabytes) and {t} (threads) are filled in.";
    let given = Given::read("memory", more, args, flags)?;
    let megabytes =
        |name: &str, quick, usual| given.number(name, (quick, usual), 16..=MEGABYTES_MAX);
    Ok(Options {
        held_mb: megabytes("held", 256, 256)?,
        sizes_mb: megabytes("sizes", 64, 128)?,
        expire_mb: megabytes("expire", 64, 256)?,
        threads: given.number("threads", (4, 4), 1..=256)?,
        ours: given.ours(),
        peer: given.peer(),
        only: given.only(),
    })
}
