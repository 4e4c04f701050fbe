//! The flags of `verify`.
//!
//! Owns the table and the checks between flags.

use super::table::{Flag, Page, Takes};
use super::values::{addresses, number, path, time_ms};
use crate::verify::Config;

/// Most that `-w` takes, in milliseconds: an hour.
const WAIT_MAX_MS: u64 = 3_600_000;
/// Most that `-t` takes, in milliseconds: an hour.
const TIMEOUT_MAX_MS: u64 = 3_600_000;
/// Most that `-n` takes: as many as are kept.
const NAMES_MAX: usize = 250_000;
/// Most nodes: as many as may be linked, and some.
const NODES_MAX: usize = 64;

/// What it does, for `-h`.
pub const ABOUT: &str = "\
Compares what nodes hold, through their client ports: keys, values, flags,
expiry times, CAS uniques, marks. Names keys that differ. Exits with 0 when all
nodes hold the same, with 1 when they do not, and with 69 when one cannot be
reached or compared.
";

/// A command line of `verify` while it is being read.
#[derive(Default)]
pub struct Draft {
    config: Config,
}

impl Draft {
    /// Checks what depends on several words.
    ///
    /// # Errors
    /// One sentence.
    pub fn finish(self) -> Result<Config, String> {
        let nodes = &self.config.nodes;
        if nodes.len() < 2 {
            return Err("name at least two nodes: host[:port] host[:port]".into());
        }
        if nodes.len() > NODES_MAX {
            return Err(format!("at most {NODES_MAX} nodes can be compared"));
        }
        if let Some(twice) = nodes.iter().find(|a| nodes.iter().filter(|b| b == a).count() > 1) {
            return Err(format!("{twice} is named twice"));
        }
        Ok(self.config)
    }
}

/// A word that belongs to no flag: a node, or a comma list of them.
///
/// # Errors
/// It is none.
pub fn node(draft: &mut Draft, word: &str) -> Result<(), String> {
    draft.config.nodes.extend(addresses("a node", word)?);
    Ok(())
}

/// Every flag of `verify`, in the order of help.
pub static FLAGS: &[Flag<Draft>] = &[
    Flag {
        short: Some('w'),
        longs: &["wait"],
        takes: Takes::Value("secs", |d, v| {
            d.config.wait_ms = match v {
                "0" => 0,
                _ => time_ms("-w: time to wait", v, 1..=WAIT_MAX_MS)?,
            };
            Ok(())
        }),
        help: "look again at what differs for this long before it is called different, as it may \
               be on its way (default: 3; 0: do not wait)",
    },
    Flag {
        short: Some('n'),
        longs: &["names"],
        takes: Takes::Value("num", |d, v| {
            d.config.names_max = number("-n: keys", v, 0..=NAMES_MAX)?;
            Ok(())
        }),
        help: "max differing keys to name (default: 10)",
    },
    Flag {
        short: Some('t'),
        longs: &["timeout"],
        takes: Takes::Value("secs", |d, v| {
            d.config.timeout_ms = time_ms("-t: timeout", v, 1..=TIMEOUT_MAX_MS)?;
            Ok(())
        }),
        help: "give up on a node that does not accept, or says nothing, for this long \
               (default: 10)",
    },
    Flag {
        short: Some('Y'),
        longs: &["auth-file"],
        takes: Takes::Value("file", |d, v| {
            d.config.auth_file = Some(path("-Y", v)?);
            Ok(())
        }),
        help: "say the user and password of this file's first line, user:password, to nodes that \
               ask who is there",
    },
    Flag {
        short: Some('S'),
        longs: &["enable-sasl"],
        takes: Takes::Nothing(|d| d.config.binary = true),
        help:
            "speak the binary protocol, and log in by SASL where that is asked; without it, only \
               to nodes that speak nothing else",
    },
    Flag {
        short: Some('v'),
        longs: &["verbose"],
        takes: Takes::Nothing(|d| d.config.verbose = true),
        help: "verbose: say on standard error what is going on",
    },
    Flag {
        short: Some('h'),
        longs: &["help"],
        takes: Takes::Print(Page::Help),
        help: "print this help and exit",
    },
];
