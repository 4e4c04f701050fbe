//! Demand fill over one connection: get, and set what was missing.
//!
//! Owns what a key's item is, and the order of requests: a batch asks for different keys at once,
//! and what it missed is stored ahead of the next batch. So every key is stored before it is asked
//! for again. Values that come back are checked for their length.

use crate::reader::Trace;
use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Keys asked for at once: a small part of the smallest memory, so that the order is the trace's.
const BATCH: usize = 16;
/// Values have so many bytes at least, and less than twice as many more.
const VALUE_MIN: u64 = 512;
const VALUE_SPREAD: u64 = 1025;
/// Bytes of a key.
const KEY: u64 = 16;
/// How long a server may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// What came of a trace.
#[derive(Clone, Copy, Debug, Default)]
pub struct Played {
    hits: u64,
    requests: u64,
}

impl Played {
    /// Requests that found nothing.
    pub fn misses(self) -> u64 {
        self.requests - self.hits
    }

    /// Hits, of 1.
    pub fn share(self) -> f64 {
        self.hits as f64 / self.requests.max(1) as f64
    }
}

fn mix(key: u64) -> u64 {
    // A step of a multiplicative generator: any order of keys becomes a spread of lengths.
    let mixed = key.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93) >> 32
}

/// Bytes of a key's value.
fn length(key: u64) -> usize {
    (VALUE_MIN + mix(key) % VALUE_SPREAD) as usize
}

/// Bytes of all keys of a trace and their values.
pub fn bytes(trace: &Trace) -> u64 {
    let keys: HashSet<u64> = trace.requests.iter().copied().collect();
    keys.iter().map(|&key| KEY + length(key) as u64).sum()
}

/// Plays a trace against the server on a port of 127.0.0.1.
pub fn play(trace: &Trace, port: u16) -> Result<Played, String> {
    let context = |error: std::io::Error| format!("{}: {error}", trace.name);
    let stream = TcpStream::connect(("127.0.0.1", port)).map_err(context)?;
    stream.set_nodelay(true).map_err(context)?;
    stream.set_read_timeout(Some(SILENCE_MAX)).map_err(context)?;
    let mut from = BufReader::with_capacity(64 << 10, stream.try_clone().map_err(context)?);
    let mut to = stream;
    let (mut asked, mut missing) = (Vec::with_capacity(BATCH), Vec::new());
    let mut played = Played::default();
    let mut out = Vec::new();
    let value = vec![b'v'; (VALUE_MIN + VALUE_SPREAD) as usize];
    let mut at = 0;
    while at < trace.requests.len() {
        out.clear();
        for key in missing.drain(..) {
            let len = length(key);
            let line = format!("set {key:016x} 0 0 {len} noreply\r\n");
            out.extend_from_slice(line.as_bytes());
            out.extend_from_slice(&value[..len]);
            out.extend_from_slice(b"\r\n");
        }
        asked.clear();
        out.extend_from_slice(b"get");
        while asked.len() < BATCH && trace.requests.get(at).is_some_and(|key| !asked.contains(key))
        {
            out.extend_from_slice(format!(" {:016x}", trace.requests[at]).as_bytes());
            asked.push(trace.requests[at]);
            at += 1;
        }
        out.extend_from_slice(b"\r\n");
        to.write_all(&out).map_err(context)?;
        let hits = answer(&mut from, &asked, &mut missing)?;
        played.hits += hits;
        played.requests += asked.len() as u64;
    }
    Ok(played)
}

/// Reads what a get of these keys brings, and notes which are missing. How many are not.
fn answer(from: &mut impl BufRead, asked: &[u64], missing: &mut Vec<u64>) -> Result<u64, String> {
    let mut line = String::new();
    let mut value = [0; (VALUE_MIN + VALUE_SPREAD) as usize + 2];
    let mut expected = asked.iter().copied();
    let mut hits = 0;
    loop {
        line.clear();
        from.read_line(&mut line).map_err(|error| error.to_string())?;
        if line == "END\r\n" {
            missing.extend(expected);
            return Ok(hits);
        }
        let mut words = line.trim_end().split(' ');
        let (Some("VALUE"), Some(key), Some(_), Some(len)) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            return Err(format!("an unexpected answer: {line:?}"));
        };
        let key = u64::from_str_radix(key, 16).map_err(|_| format!("asked for no {key:?}"))?;
        if len.parse() != Ok(length(key)) {
            return Err(format!("{key:016x} has {len} bytes, not {}", length(key)));
        }
        let value = &mut value[..length(key) + 2];
        from.read_exact(value).map_err(|error| error.to_string())?;
        missing.extend(expected.by_ref().take_while(|&other| other != key));
        hits += 1;
    }
}
