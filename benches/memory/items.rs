//! What the memory bench stores, and how it finds out what is still there.
//!
//! Owns keys and values of any length, and a reader that counts what a server really returns: what
//! `stats` says of items is not taken on trust.

use crate::common::client::Client;
use crate::common::requests::{mix, Batch};
use crate::common::server::Server;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Bytes of one write, about.
const WRITE: usize = 16 * 1024;
/// Keys of one get.
const KEYS: usize = 100;
/// The longest line of an answer: a key and two numbers.
const LINE_MAX: u64 = 512;
/// An answer that takes longer ends the bench.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Items of one kind, by number.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Bytes of a key, 16 or more.
    pub key: usize,
    /// Bytes of a value, by the item's number.
    pub value: fn(u64) -> usize,
    /// When the item goes, in seconds since 1970, or 0; by the item's number and what is given for
    /// those that go.
    pub exptime: fn(u64, u64) -> u64,
}

/// No item expires.
pub fn never(_: u64, _: u64) -> u64 {
    0
}

impl Kind {
    fn key(&self, n: u64) -> String {
        format!("{:016x}{:->pad$}", mix(n), "", pad = self.key - 16)
    }

    /// Sets the items `from..to`, those that expire with `exptime`. A server may refuse some, and
    /// does not say so.
    pub fn set(&self, client: &mut Client, from: u64, to: u64, exptime: u64) -> Result<(), String> {
        let mut batches = Vec::new();
        let mut batch = Batch::default();
        for n in from..to {
            let exptime = (self.exptime)(n, exptime);
            batch.push_quiet_set_of(&self.key(n), n, (self.value)(n), exptime);
            if batch.bytes.len() > WRITE || n + 1 == to {
                batch.push_end_mark();
                batches.push(std::mem::take(&mut batch));
            }
        }
        client.run(batches.iter(), batches.len()).map(|_| ())
    }

    /// How many of every `step`th item of `from..to` are there.
    pub fn count(&self, server: &Server, from: u64, to: u64, step: usize) -> Result<u64, String> {
        let context = |error: std::io::Error| format!("reading back: {error}");
        let stream = TcpStream::connect(("127.0.0.1", server.port)).map_err(context)?;
        stream.set_read_timeout(Some(ANSWER_MAX)).map_err(context)?;
        let mut reader = BufReader::with_capacity(256 * 1024, stream);
        let numbers: Vec<u64> = (from..to).step_by(step).collect();
        let mut found = 0;
        for some in numbers.chunks(KEYS) {
            let mut line = "get".to_owned();
            some.iter().for_each(|&n| line += &format!(" {}", self.key(n)));
            line += "\r\n";
            reader.get_mut().write_all(line.as_bytes()).map_err(context)?;
            found += answered(&mut reader).map_err(context)?;
        }
        Ok(found)
    }
}

/// Values in the answer to one get.
fn answered(reader: &mut BufReader<TcpStream>) -> std::io::Result<u64> {
    let (mut found, mut line, mut value) = (0, String::new(), Vec::new());
    loop {
        line.clear();
        reader.take(LINE_MAX).read_line(&mut line)?;
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["END"] => return Ok(found),
            ["VALUE", _, _, len] => {
                value.resize(len.parse::<usize>().unwrap_or(0) + 2, 0);
                reader.read_exact(&mut value)?;
                found += 1;
            }
            _ => return Err(std::io::Error::other(format!("not an answer to a get: {line}"))),
        }
    }
}
