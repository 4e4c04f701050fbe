//! The frame of every bench: its command line, and how it ends.
//!
//! Owns the flags that all have (`--quick`, `--only`), those of benches that compare two servers
//! (`--ours`, `--peer`), and the words for a wrong command line. A number always has a range: a run
//! is bounded, whatever is asked for.

use getopts::{Matches, Options as Flags};
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::str::FromStr;

/// How a memcached, or ours, is told what it needs to know; see [`crate::common::server`].
pub const SERVER: &str = "-u root -l 127.0.0.1 -p {port} -m {m} -t {t} -c 1024";

/// Why there are no options.
pub enum Stop {
    /// Print this and leave with success.
    Help(String),
    /// Print this and leave with EX_USAGE.
    Usage(String),
}

/// Runs a bench: `parse` makes its options of the arguments, `run` does it.
pub fn main<O>(
    name: &str,
    parse: impl FnOnce(&[String]) -> Result<O, Stop>,
    run: impl FnOnce(&O) -> Result<(), String>,
) -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if !args.iter().any(|arg| arg == "--bench" || arg == "--help" || arg == "-h") {
        // `cargo test --all-targets` starts benches too; they are not tests.
        println!("{name}: run it with `cargo bench --bench {name}`");
        return ExitCode::SUCCESS;
    }
    let result = match parse(&args) {
        Ok(options) => run(&options),
        Err(Stop::Help(text)) => {
            println!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(Stop::Usage(text)) => {
            eprintln!("{name}: {text}");
            return ExitCode::from(64);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The flags of two servers that are compared, ours and another.
pub fn compared(flags: &mut Flags) -> &mut Flags {
    flags.optopt("", "ours", "our server, instead of the one just built", "CMD").optopt(
        "",
        "peer",
        "the server to compare with, instead of memcached",
        "CMD",
    )
}

/// What was given on the command line.
pub struct Given {
    matches: Matches,
    /// A first look was asked for.
    pub quick: bool,
}

impl Given {
    /// Reads `args` by the bench's own `flags` and those that all benches have. `more` is what the
    /// help says besides.
    pub fn read(name: &str, more: &str, args: &[String], mut flags: Flags) -> Result<Given, Stop> {
        flags
            .optflag("h", "help", "print this")
            .optflag("", "bench", "given by cargo bench")
            .optflag("", "quick", "less of everything: a first look")
            .optopt("", "only", "only lines whose name contains this", "TEXT");
        let matches = flags.parse(args).map_err(|error| Stop::Usage(error.to_string()))?;
        if matches.opt_present("help") {
            let brief = format!("cargo bench --bench {name} -- [options]");
            let blank = if more.is_empty() { "" } else { "\n\n" };
            return Err(Stop::Help(flags.usage(&format!("{brief}{blank}{more}"))));
        }
        if let Some(odd) = matches.free.first() {
            return Err(Stop::Usage(format!("what is \"{odd}\"?")));
        }
        let quick = matches.opt_present("quick");
        Ok(Given { matches, quick })
    }

    /// A number in `range`; where none was given, the first of `defaults` for a quick run, else the
    /// second.
    pub fn number<T: FromStr + PartialOrd + Display + Copy>(
        &self,
        name: &str,
        defaults: (T, T),
        range: RangeInclusive<T>,
    ) -> Result<T, Stop> {
        let default = if self.quick { defaults.0 } else { defaults.1 };
        let given = self.matches.opt_get::<T>(name);
        match given.map(|given| given.unwrap_or(default)) {
            Ok(n) if range.contains(&n) => Ok(n),
            Ok(_) => {
                let (least, most) = (range.start(), range.end());
                Err(Stop::Usage(format!("--{name} is {least} to {most}")))
            }
            Err(_) => Err(Stop::Usage(format!("--{name} wants a number"))),
        }
    }

    /// A text, or `default`.
    pub fn text(&self, name: &str, default: &str) -> String {
        self.matches.opt_str(name).unwrap_or_else(|| default.to_owned())
    }

    /// Whether a flag without argument is there.
    pub fn flag(&self, name: &str) -> bool {
        self.matches.opt_present(name)
    }

    /// What a line's name must contain; empty for all.
    pub fn only(&self) -> String {
        self.text("only", "")
    }

    /// Our server's command: the program just built, or `--ours`.
    pub fn ours(&self) -> String {
        self.text("ours", &format!("{} {SERVER}", env!("CARGO_BIN_EXE_twincached")))
    }

    /// The command of the server to compare with: memcached, or `--peer`.
    pub fn peer(&self) -> String {
        self.text("peer", &format!("memcached {SERVER} -U 0"))
    }
}
