//! What an operator asks of a server: `stats` in all its forms, and the commands that tune it.
//!
//! Owns the names, order and shapes of memcached's statistics, as memcached-tool, phpMemcachedAdmin
//! and the Prometheus exporter read them, and the answers of `slabs`, `lru`, `lru_crawler` and
//! `cache_memlimit`. Reads counters that others keep; never changes one, except that `stats reset`
//! takes the present sums as the new zero.
//!
//! memcached's slab classes do not exist here: items of all sizes share one arena. `stats items`
//! and `stats slabs` sort the items into those classes all the same ([`crate::store::Classes`]).

mod classes;
mod conns;
pub mod detail;
mod digest;
mod dump;
mod general;
mod settings;
pub mod tune;

use std::fmt::Display;
use std::io::Write;

use crate::base::clock::Now;
use crate::protocol::classic::admin::{is_word, unsigned32};
use crate::protocol::classic::encode;
use crate::protocol::reject;
use crate::server::execute::{After, Executor};

pub use tune::run;

/// memcached's answer to `stats detail` with another word than on, off or dump.
const DETAIL_USAGE: &[u8] = b"CLIENT_ERROR usage: stats detail on|off|dump\r\n";
/// Where dumping is disabled.
const DETAIL_OFF: &[u8] = b"CLIENT_ERROR stats detail not allowed\r\n";
/// memcached's answer to `stats cachedump` without a class or a limit.
const DUMP_USAGE: &[u8] = b"CLIENT_ERROR bad command line\r\n";
/// Where dumping is disabled.
const DUMP_OFF: &[u8] = b"CLIENT_ERROR stats cachedump not allowed\r\n";
/// `stats digest` with a word that is no range and no key.
const DIGEST_USAGE: &[u8] = b"CLIENT_ERROR usage: stats digest [range...|key=...]\r\n";
/// Keys are not shown where dumping is disabled; digests of ranges tell none.
const DIGEST_OFF: &[u8] = b"CLIENT_ERROR stats digest not allowed\r\n";
/// A class that no memcached has.
const DUMP_CLASS: &[u8] = b"CLIENT_ERROR Illegal slab id\r\n";

/// Appends `STAT name value`.
fn stat(out: &mut Vec<u8>, name: impl Display, value: impl Display) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "STAT {name} {value}\r\n");
}

fn yes_no(yes: bool) -> &'static str {
    if yes {
        "yes"
    } else {
        "no"
    }
}

/// Answers `stats` with what follows it on the line. As in memcached the words that its text
/// protocol knows may be cut short (`stats set`), those of the store (items, slabs, sizes) not.
pub fn stats(exec: &mut Executor, args: &[u8], now: Now, out: &mut Vec<u8>) -> After {
    let mut words = args.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    let word = words.next().unwrap_or_default();
    let shared = &exec.shared;
    let is = |name: &[u8]| is_word(word, name);
    match word {
        b"" => general::stats(shared, now, out),
        b"replication" => {
            if let Some(replication) = shared.replication.get() {
                for (name, value) in replication.stats_replication() {
                    stat(out, name, value);
                }
            }
        }
        _ if is(b"reset") => {
            shared.reset_stats();
            out.extend_from_slice(encode::RESET);
            return After::Next;
        }
        _ if is(b"detail") => return detail(exec, words.next().unwrap_or_default(), out),
        _ if is(b"settings") => settings::stats(shared, out),
        _ if is(b"cachedump") => return cachedump(exec, words.next(), words.next(), out),
        _ if is(b"conns") => return After::Stream(conns::stats()),
        b"digest" => return digest(exec, words, out),
        b"items" => classes::items(shared, out),
        b"slabs" => classes::slabs(shared, out),
        b"sizes" if shared.config.track_sizes => return After::Stream(dump::sizes()),
        b"sizes" => stat(out, "sizes_status", "disabled"),
        _ => {
            out.extend_from_slice(reject::ERROR);
            return After::Next;
        }
    }
    out.extend_from_slice(encode::END);
    After::Next
}

/// `stats detail on|off|dump`.
fn detail(exec: &Executor, word: &[u8], out: &mut Vec<u8>) -> After {
    let shared = &exec.shared;
    if !shared.config.dump_command {
        out.extend_from_slice(DETAIL_OFF);
    } else if is_word(word, b"on") {
        shared.detail.turn(true);
        out.extend_from_slice(encode::OK);
    } else if is_word(word, b"off") {
        shared.detail.turn(false);
        out.extend_from_slice(encode::OK);
    } else if is_word(word, b"dump") {
        return After::Stream(detail::dump());
    } else {
        out.extend_from_slice(DETAIL_USAGE);
    }
    After::Next
}

/// `stats digest [RANGE...|key=KEY...]`.
fn digest<'a>(exec: &Executor, words: impl Iterator<Item = &'a [u8]>, out: &mut Vec<u8>) -> After {
    let refusal = match digest::Asked::parse(words) {
        Some(asked @ digest::Asked::Digests) => return After::Stream(digest::answer(asked)),
        Some(_) if !exec.shared.config.dump_command => DIGEST_OFF,
        Some(asked) => return After::Stream(digest::answer(asked)),
        None => DIGEST_USAGE,
    };
    out.extend_from_slice(refusal);
    After::Next
}

/// `stats cachedump CLASS LIMIT`.
fn cachedump(
    exec: &Executor,
    class: Option<&[u8]>,
    limit: Option<&[u8]>,
    out: &mut Vec<u8>,
) -> After {
    let refusal = match (class, limit) {
        _ if !exec.shared.config.dump_command => DUMP_OFF,
        (Some(class), Some(limit)) => match (unsigned32(class), unsigned32(limit)) {
            (Some(class), Some(limit)) => match dump::cachedump(class, limit) {
                Some(producer) => return After::Stream(producer),
                None => DUMP_CLASS,
            },
            _ => reject::BAD_FORMAT,
        },
        _ => DUMP_USAGE,
    };
    out.extend_from_slice(refusal);
    After::Next
}
