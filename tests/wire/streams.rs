//! Whole streams of classic commands, cut anywhere, to our connection code and to the real
//! memcached: every byte of every answer is the same, and so are the counts at the end.
//!
//! differential.rs asks one command at a time; here they come in batches, with what it leaves out:
//! CAS uniques that somebody has (each server's own: compared as a one-to-one relation), control
//! and 8-bit bytes in keys and lines, values with every byte, gets of thousands of keys and of
//! keys of any length, lines that end the connection.
//!
//! What legitimately differs, and is kept out of the streams:
//!
//! - a number that gets shorter behind a get of it in one batch: memcached pads it in place only
//!   while nobody is being sent it
//! - a number in an empty value, or with NUL in it: memcached's incr reads on behind the value
//! - a line of over 2 KiB that is no get: memcached closes where the newline is not in what it
//!   has read so far
//! - an exptime after January 2038: a time like any other here
//! - a wrong key in a get behind other commands: memcached loses what it has answered to those in
//!   the same read
//! - a NUL in a line: ends it here and in 1.6.18, but not in 1.6.45
//! - a tab or a lone CR for a number: 1.6.45 reads it as a zero
//! - bget, and a blank before a command: still understood here; 1.6.45 knows neither
//! - lines that 1.6.18 reads otherwise than 1.6.45: we follow the latter: nothing is damaged
//!   beside an old one
//! - the counts cmd_set, cmd_flush: memcached counts a block that does not end where it should,
//!   and a flush it refuses
//! - the counts get_expired, get_flushed: what is stored with a time that has passed is never
//!   there to be found; the clock here stands still
//! - lengths of which the data never comes: both wait for it: too-large.txt
//! - a get of over 64 KiB with a wrong key far behind: answered in portions here; the keys before
//!   it are out by then

use crate::differential::{command, damage, in_plain_words};
use crate::script::Link;
use crate::Rng;
use std::collections::HashMap;

/// Batches of one conversation.
const BATCHES: usize = 12;
/// Most commands of a batch.
const COMMANDS: usize = 10;
/// Most cuts of a batch.
const CUTS: usize = 12;
/// Stands for a unique in a command: this, and two digits.
const UNIQUE: &[u8] = b"\x01unique";
/// Nothing else here is answered so.
const MARK: &[u8] = b"zz\r\nmn\r\n";
const MARK_ANSWER: &[u8] = b"ERROR\r\nMN\r\n";

/// Counters that both servers must agree on after a conversation.
const COUNTED: [&str; 13] = [
    "cmd_get",
    "cmd_touch",
    "get_hits",
    "get_misses",
    "delete_misses",
    "delete_hits",
    "incr_misses",
    "incr_hits",
    "cas_misses",
    "cas_hits",
    "cas_badval",
    "touch_hits",
    "touch_misses",
];

/// Bytes that damage a line, besides those of differential.rs.
const ODD: &[u8] = b"\x01\x7f\x80\xc3\xff";

/// A key of a value that no incr ever sees.
fn key(rng: &mut Rng) -> Vec<u8> {
    match rng.below(10) {
        0 => vec![b'v'; 250],
        1 => vec![b'v'; 251 + rng.below(1000)],
        2 => b"v\xff\x80\xd0\xba".to_vec(),
        3 => b"v\x01\x7f".to_vec(),
        n => vec![b'v', b'0' + (n % 4) as u8],
    }
}

/// Data with any byte, and with a newline so often that it can be read as lines.
fn data(rng: &mut Rng) -> Vec<u8> {
    let mut data = vec![0; [0, 1, 2, 30, 1000, 20_000][rng.below(6)] + rng.below(3)];
    for (at, byte) in data.iter_mut().enumerate() {
        *byte = if at % 900 == 899 { b'\n' } else { rng.below(256) as u8 };
        // A stray line is to be no command, and to name no length.
        if byte.is_ascii_alphanumeric() {
            *byte = b'#';
        }
    }
    data
}

/// A storage command of some data, with a unique that somebody may have.
fn store(rng: &mut Rng, old: bool) -> Vec<u8> {
    let verb = rng.pick(&["set", "set", "add", "replace", "append", "prepend", "cas", "cas"]);
    let exptime = rng.pick(&["0", "0", "0", "100", "-1", "2592000", "2592001"]);
    let flags = rng.pick(&["0", "1", "65536", "4294967295"]);
    let data = data(rng);
    let len = data.len() - [0, 0, 0, 0, 0, 0, 1][rng.below(7)].min(data.len());
    let mut key = key(rng);
    if old {
        key.truncate(250);
    }
    let mut bytes = [verb.as_bytes(), b" ", &key].concat();
    bytes.extend_from_slice(format!(" {flags} {exptime} {len}").as_bytes());
    if verb == "cas" {
        bytes.push(b' ');
        bytes.extend_from_slice(UNIQUE);
        bytes.extend_from_slice(format!("{:02}", rng.below(100)).as_bytes());
    }
    bytes.extend_from_slice(rng.pick(&["", "", "", " noreply"]).as_bytes());
    [&bytes[..], b"\r\n", &data[..], b"\r\n"].concat()
}

/// A get of up to thousands of keys, 64 KiB and more of them, now and then with a wrong one.
fn get(rng: &mut Rng, first: bool) -> Vec<u8> {
    let mut bytes = rng.pick(&["get", "gets"]).into_bytes();
    let wrong = first && rng.below(4) == 0;
    let most = [1, 3, 30, 3000, 20_000][rng.below(5)];
    for number in 0..1 + rng.below(most) {
        bytes.push(b' ');
        let mut key = key(rng);
        if wrong && bytes.len() > 60_000 {
            break;
        }
        if !wrong {
            key.truncate(250);
        }
        // So many long ones would only be slow.
        if number > 300 {
            key.truncate(3);
        }
        bytes.extend_from_slice(&key);
    }
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// Commands that name one key, and a few words.
fn short(rng: &mut Rng, old: bool) -> Vec<u8> {
    let mut key = key(rng);
    let (verb, rest) = match rng.below(5) {
        0 => ("delete", rng.pick(&["", " 0", " noreply", if old { " 1" } else { "" }])),
        1 => (
            "touch",
            rng.pick(&[" 0", " 100", " -1", " 5 noreply", if old { " x" } else { " noreply" }]),
        ),
        2 => ("gat 0", String::new()),
        3 => ("gats 100", String::new()),
        _ => return number(rng),
    };
    if verb.starts_with("gat") {
        // Some room for damage.
        key.truncate(240);
    }
    [verb.as_bytes(), b" ", &key, rest.as_bytes(), b"\r\n"].concat()
}

/// Arithmetic whose result never gets shorter.
fn number(rng: &mut Rng) -> Vec<u8> {
    let line = match rng.below(3) {
        0 => "set m 0 0 3\r\n500".to_owned(),
        _ => format!("incr m {}", rng.pick(&["1", "7", "-1", "x", "18446744073709551616"])),
    };
    (line + "\r\n").into_bytes()
}

/// One command, damaged or not.
fn any(rng: &mut Rng, old: bool, first: bool) -> Vec<u8> {
    let mut bytes = match rng.below(8) {
        0 | 1 => store(rng, old),
        2 => return get(rng, first),
        3..=5 => short(rng, old),
        _ => loop {
            let bytes = command(rng, old);
            // Numbers get shorter and keys are too long, see above; mn is the mark; and a wrong
            // length makes other lines of what follows, which may be too long.
            let kept_out = [&b"incr"[..], b"decr", b"g", b"m"];
            let block = bytes.iter().filter(|&&byte| byte == b'\n').count() > 1;
            if !kept_out.iter().any(|verb| bytes.starts_with(verb)) && !block {
                break bytes;
            }
        },
    };
    let line = bytes.iter().position(|&byte| byte == b'\n').unwrap_or(0);
    // A unique is shorter there than here, and another number is a long wait for data, if it
    // comes to stand where the length is. A gat without its end has a wrong key. What stands
    // behind the key of a delete is looked at here, as by all before 1.6.45.
    let numbers = [UNIQUE, b"2592", b"65536", b"42949", b"gat", b"delete"];
    let long = |part: &&[u8]| bytes[..line].windows(part.len()).any(|here| here == *part);
    if !old && line < 1500 && !numbers.iter().any(long) {
        damage(rng, &mut bytes);
        if rng.below(8) == 0 && line > 0 {
            let (at, odd) = (rng.below(line), ODD[rng.below(ODD.len())]);
            bytes.insert(at.min(bytes.len()), odd);
        }
        // Joined with a long get behind it, it would be a long line that is none.
        if !bytes.ends_with(b"\n") {
            bytes.push(b'\n');
        }
    }
    bytes
}

/// The two servers' names for the same uniques.
#[derive(Default)]
struct Uniques {
    pairs: Vec<(u64, u64)>,
    real_of: HashMap<u64, u64>,
    ours_of: HashMap<u64, u64>,
}

impl Uniques {
    /// Notes that the two name the same. False where one of them has been another's name.
    fn note(&mut self, ours: u64, real: u64) -> bool {
        if !self.real_of.contains_key(&ours) {
            self.pairs.push((ours, real));
        }
        *self.real_of.entry(ours).or_insert(real) == real
            && *self.ours_of.entry(real).or_insert(ours) == ours
    }

    /// A command with the uniques of both in it: ours, real.
    fn filled(&self, command: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let (mut ours, mut real) = (Vec::new(), Vec::new());
        let mut rest = command;
        while let Some(at) = rest.windows(UNIQUE.len()).position(|part| part == UNIQUE) {
            let digits = &rest[at + UNIQUE.len()..][..2];
            let number = usize::from(digits[0] - b'0') * 10 + usize::from(digits[1] - b'0');
            let nobodys = (u64::MAX - 7, u64::MAX - 7);
            // The newest are the likeliest to be right.
            let pair = *self.pairs.iter().rev().nth(number % 12).unwrap_or(&nobodys);
            ours.extend_from_slice(&rest[..at]);
            real.extend_from_slice(&rest[..at]);
            ours.extend_from_slice(pair.0.to_string().as_bytes());
            real.extend_from_slice(pair.1.to_string().as_bytes());
            rest = &rest[at + UNIQUE.len() + 2..];
        }
        ours.extend_from_slice(rest);
        real.extend_from_slice(rest);
        (ours, real)
    }
}

/// An answer in two parts: the bytes without uniques, and the uniques in their order.
fn parted(mut answer: &[u8]) -> (Vec<u8>, Vec<u64>) {
    let (mut bytes, mut uniques) = (Vec::new(), Vec::new());
    while let Some(end) = answer.iter().position(|&byte| byte == b'\n') {
        let (line, rest) = answer.split_at(end + 1);
        answer = rest;
        // A key may be of any bytes, so the words are counted from behind.
        let words: Vec<&[u8]> = line.trim_ascii_end().split(|&byte| byte == b' ').collect();
        let number = |at: usize| std::str::from_utf8(words[at]).ok()?.parse::<u64>().ok();
        if words[0] != b"VALUE" || words.len() < 4 {
            bytes.extend_from_slice(line);
            continue;
        }
        let len = number(3).unwrap_or(0) as usize;
        match words.get(4).and(number(words.len() - 1)) {
            Some(unique) => {
                uniques.push(unique);
                bytes.extend_from_slice(&words[..4].join(&b' '));
                bytes.extend_from_slice(b" unique\r\n");
            }
            None => bytes.extend_from_slice(line),
        }
        let (data, rest) = answer.split_at(answer.len().min(len + 2));
        bytes.extend_from_slice(data);
        answer = rest;
    }
    bytes.extend_from_slice(answer);
    (bytes, uniques)
}

/// Sends in pieces and reads up to the mark. True: it closed before.
fn ask(link: &mut dyn Link, bytes: &[u8], rng: &mut Rng) -> Result<(Vec<u8>, bool), String> {
    let mut cuts: Vec<usize> = (0..rng.below(CUTS)).map(|_| rng.below(bytes.len())).collect();
    cuts.sort_unstable();
    cuts.push(bytes.len());
    let (mut answer, mut from) = (Vec::new(), 0);
    for to in cuts {
        // One that has closed meanwhile is found out by reading.
        if link.send(&bytes[from..to]).is_err() {
            break;
        }
        from = to;
    }
    while !answer.ends_with(MARK_ANSWER) {
        if !link.receive(&mut answer)? {
            return Ok((answer, true));
        }
    }
    Ok((answer, false))
}

/// The counters of a server, by name.
fn counts(link: &mut dyn Link) -> Result<Vec<String>, String> {
    link.send(b"stats\r\n").map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"END\r\n") {
        if !link.receive(&mut answer)? {
            return Err("closed at stats".into());
        }
    }
    let text = String::from_utf8_lossy(&answer).into_owned();
    Ok(text
        .lines()
        .filter_map(|line| line.strip_prefix("STAT "))
        .filter(|line| COUNTED.iter().any(|name| line.split(' ').next() == Some(name)))
        .map(str::to_owned)
        .collect())
}

/// The place where two answers part, for a person.
fn parting(ours: &[u8], real: &[u8]) -> String {
    let at = ours.iter().zip(real).take_while(|(a, b)| a == b).count();
    let show = |bytes: &[u8]| {
        let part = &bytes[at.saturating_sub(80).min(bytes.len())..bytes.len().min(at + 120)];
        part.escape_ascii().to_string()
    };
    format!("at {at}:\n  ours {}\n  real {}", show(ours), show(real))
}

/// A way to open a connection to each of both.
pub type Open<'a> = &'a mut dyn FnMut() -> (Box<dyn Link>, Box<dyn Link>);

/// Holds one conversation with both. The error shows the first batch they answer differently.
pub fn converse(seed: u64, old: bool, open: Open) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let (mut ours_cut, mut real_cut) = (Rng::new(!seed), Rng::new(seed << 7));
    let mut uniques = Uniques::default();
    let (mut ours, mut real) = open();
    for link in [&mut *ours, &mut *real] {
        let start = [b"flush_all\r\nstats reset\r\n", MARK].concat();
        ask(link, &start, &mut Rng::new(0))?;
    }
    for number in 0..BATCHES {
        let commands: Vec<_> =
            (0..1 + rng.below(COMMANDS)).map(|n| any(&mut rng, old, n == 0)).collect();
        let mut batch = commands.concat();
        batch.extend_from_slice(b"\r\n");
        batch.extend_from_slice(&b"zz\r\n".repeat(60));
        batch.extend_from_slice(MARK);
        let (to_ours, to_real) = uniques.filled(&batch);
        let (our_answer, our_end) = ask(&mut *ours, &to_ours, &mut ours_cut)?;
        let (real_answer, real_end) = ask(&mut *real, &to_real, &mut real_cut)?;
        let (our_bytes, our_uniques) = parted(&our_answer);
        let (real_bytes, real_uniques) = parted(&real_answer);
        let mut our_bytes = in_plain_words(&our_bytes);
        let mut real_bytes = in_plain_words(&real_bytes);
        let place = || {
            let shown = |command: &Vec<u8>| {
                let start = command[..command.len().min(200)].escape_ascii();
                format!("\n  {:6} {start}", command.len())
            };
            let shown: String = commands.iter().map(shown).collect();
            format!("seed {seed}, batch {number}:{shown}\n ")
        };
        if our_end && real_end {
            // What one of them had not yet sent is lost.
            let common = our_bytes.len().min(real_bytes.len());
            our_bytes.truncate(common);
            real_bytes.truncate(common);
        }
        if our_bytes != real_bytes || our_end != real_end {
            let parting = parting(&our_bytes, &real_bytes);
            return Err(format!("{} {parting}\n  closed {our_end} {real_end}", place()));
        }
        if !our_uniques.iter().zip(&real_uniques).all(|(&a, &b)| uniques.note(a, b)) {
            return Err(format!("{}\n  uniques {our_uniques:?} {real_uniques:?}", place()));
        }
        if our_end {
            (ours, real) = open();
        }
    }
    let (ours, real) = (counts(&mut *ours)?, counts(&mut *real)?);
    assert_eq!(real.len(), COUNTED.len(), "memcached counts them all: {real:?}");
    if ours != real {
        return Err(format!("seed {seed}, the counts:\n  ours {ours:?}\n  real {real:?}"));
    }
    Ok(())
}
