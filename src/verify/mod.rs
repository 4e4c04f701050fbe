//! `twincached verify`: do these nodes hold the same?
//!
//! ```text
//!   every node   stats digest ---------> ranges whose digests differ
//!                stats digest RANGE... -> keys in them that differ         (pending)
//!                stats digest key=...  -> looked at again until they are equal,
//!                                         or have differed for too long   (different)
//! ```
//! Owns the course of a comparison and the exit status. Never changes a node: what it asks for is
//! marked as used nowhere. What is merely on its way between nodes under load is not called
//! different (`compare` has the rule); what could not be compared is never called equal.

mod client;
mod compare;
mod report;

use std::collections::{HashMap, VecDeque};
use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::base::address::Address;
use crate::base::digest::{range_of, Ranges, RANGES, SCHEME};
use crate::base::num::{parse_u32, parse_u64};
use crate::base::uri;
use client::{Client, Login, Options};
use compare::{Key, Pending, State};

/// All nodes hold the same.
pub const EQUAL: i32 = 0;
/// They do not.
pub const DIFFERENT: i32 = 1;
/// A node could not be reached or cannot be compared (sysexits' EX_UNAVAILABLE).
pub const UNAVAILABLE: i32 = 69;

/// Items listed at once, per node: some fifty megabytes while they are compared.
const BATCH_ITEMS: u64 = 250_000;
/// Keys that may wait to become equal before no further range is listed.
const PENDING_MAX: usize = 250_000;
/// Pause between two looks at the keys that wait, while there are few: a key that is written a
/// thousand times a second has to be caught in one state on all nodes.
const PAUSE_MIN: Duration = Duration::from_millis(2);
/// A pause lasts so many times as long as the look before it, so that many keys that wait do not
/// keep the nodes busy.
const PAUSE_FACTOR: u32 = 3;
/// Bytes of keys in one command line.
const KEYS_ROOM: usize = 1500;

/// What `verify` was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The nodes' client ports: at least two.
    pub nodes: Vec<Address>,
    /// `-w`: for how long keys that differ are looked at again, in milliseconds.
    pub wait_ms: u64,
    /// `-n`: most differing keys that are named.
    pub names_max: usize,
    /// `-t`: a node that says nothing for this long is given up, in milliseconds.
    pub timeout_ms: u64,
    /// `-Y`: a file whose first line is `user:password`.
    pub auth_file: Option<PathBuf>,
    /// `-S`: speak the binary protocol. Without it, only where a node speaks nothing else.
    pub binary: bool,
    /// `-v`: say what is going on, on standard error.
    pub verbose: bool,
}

impl Config {
    /// Default of `-w`: many times the lag of healthy nodes.
    pub const DEFAULT_WAIT_MS: u64 = 3000;
    /// Default of `-n`.
    pub const DEFAULT_NAMES_MAX: usize = 10;
    /// Default of `-t`.
    pub const DEFAULT_TIMEOUT_MS: u64 = 10_000;
}

impl Default for Config {
    fn default() -> Config {
        Config {
            nodes: Vec::new(),
            wait_ms: Config::DEFAULT_WAIT_MS,
            names_max: Config::DEFAULT_NAMES_MAX,
            timeout_ms: Config::DEFAULT_TIMEOUT_MS,
            auth_file: None,
            binary: false,
            verbose: false,
        }
    }
}

/// What stands in the way: one line for standard error each.
type Obstacles = Vec<String>;

/// Compares, says what came of it, and gives the process's exit status.
pub fn run(config: &Config) -> i32 {
    let compared = connect(config).and_then(|nodes| {
        let start = Instant::now();
        Comparison { config, nodes, start, pending: Pending::default() }.run()
    });
    match compared {
        Ok(report::Outcome { text, equal }) => {
            // A reader that has seen enough is no error; the status says it as well.
            let _ = std::io::stdout().write_all(text.as_bytes());
            if equal {
                EQUAL
            } else {
                DIFFERENT
            }
        }
        Err(obstacles) => {
            for obstacle in obstacles {
                complain(obstacle);
            }
            UNAVAILABLE
        }
    }
}

/// A line on standard error, where there is one.
fn complain(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "twincached verify: {line}");
}

fn connect(config: &Config) -> Result<Vec<Client>, Obstacles> {
    let login = match config.auth_file.as_deref().map(Login::read) {
        None => None,
        Some(Ok(login)) => Some(login),
        Some(Err(why)) => return Err(vec![why]),
    };
    let options = Options {
        timeout: Duration::from_millis(config.timeout_ms.max(1)),
        login,
        binary: config.binary,
    };
    each(config.nodes.iter().collect(), |address| Client::connect(address, &options))
}

/// Does the same with everyone at once. All obstacles, or what came of it, in order.
fn each<T: Send, R: Send>(
    all: Vec<T>,
    work: impl Fn(T) -> Result<R, String> + Sync,
) -> Result<Vec<R>, Obstacles> {
    let work = &work;
    let results: Vec<Result<R, String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = all.into_iter().map(|one| scope.spawn(move || work(one))).collect();
        let failed = |_| Err("a thread of this program has failed".to_owned());
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(failed)).collect()
    });
    if results.iter().all(Result::is_ok) {
        return Ok(results.into_iter().filter_map(Result::ok).collect());
    }
    Err(results.into_iter().filter_map(Result::err).collect())
}

/// A node's digests.
#[derive(Debug)]
struct Summary {
    /// What tells this process from all others.
    process: Vec<u8>,
    /// Items and digest of each range.
    ranges: Vec<(u64, u64)>,
}

impl Summary {
    fn items(&self) -> u64 {
        self.ranges.iter().map(|(items, _)| items).sum()
    }

    /// Asks a node.
    fn of(node: &mut Client) -> Result<Summary, String> {
        let mut summary = Summary { process: Vec::new(), ranges: vec![(0, 0); RANGES] };
        let (mut scheme, mut ranges, mut wrong) = (None, None, false);
        node.ask(&["stats digest".to_owned()], &mut |name, rest| match name {
            b"digest_scheme" => scheme = parse_u32(rest),
            b"digest_ranges" => ranges = parse_u64(rest),
            b"digest_node" => summary.process = rest.to_vec(),
            b"digest_percent" => {}
            _ => match read_range(name, rest) {
                Some((range, found)) => summary.ranges[range] = found,
                None => wrong = true,
            },
        })?;
        let name = node.name();
        match (scheme, ranges) {
            (Some(SCHEME), Some(n)) if n == RANGES as u64 && !wrong => Ok(summary),
            (Some(_), Some(_)) => {
                Err(format!("{name} makes other digests than this program: its version differs"))
            }
            _ => Err(format!("{name} cannot be compared: it does not know 'stats digest'")),
        }
    }
}

fn read_range(name: &[u8], rest: &[u8]) -> Option<(usize, (u64, u64))> {
    let range = usize::try_from(parse_u64(name)?).ok().filter(|&range| range < RANGES)?;
    let (items, digest) = std::str::from_utf8(rest).ok()?.split_once(' ')?;
    Some((range, (parse_u64(items.as_bytes())?, u64::from_str_radix(digest, 16).ok()?)))
}

/// One run over connected nodes.
struct Comparison<'a> {
    config: &'a Config,
    nodes: Vec<Client>,
    start: Instant,
    pending: Pending,
}

impl Comparison<'_> {
    fn now_us(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    fn tell(&self, line: impl Display) {
        if self.config.verbose {
            complain(format_args!("{:.3} s: {line}", self.start.elapsed().as_secs_f64()));
        }
    }

    fn names(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.name().to_owned()).collect()
    }

    fn run(mut self) -> Result<report::Outcome, Obstacles> {
        let summaries = each(self.nodes.iter_mut().collect(), Summary::of)?;
        self.must_be_different_nodes(&summaries)?;
        let items: Vec<u64> = summaries.iter().map(Summary::items).collect();
        let mut todo = differing(&summaries);
        let ranges = todo.len();
        self.tell(format_args!("items: {items:?}; {ranges} of {RANGES} ranges differ"));
        let mut different = Vec::new();
        let mut moving = 0;
        while !todo.is_empty() || !self.pending.is_empty() {
            while self.pending.len() < PENDING_MAX && !todo.is_empty() {
                let batch = next_batch(&mut todo, &summaries);
                self.list(&batch)?;
            }
            let verdict = self.watch()?;
            moving += verdict.moving;
            different.extend(verdict.different);
            if different.len() >= self.config.names_max.max(1) {
                break;
            }
        }
        let found =
            report::Found { names: self.names(), items, different, moving, left: todo.len() };
        Ok(found.report(self.config.names_max))
    }

    /// A node compared with itself would be equal, and prove nothing.
    fn must_be_different_nodes(&self, summaries: &[Summary]) -> Result<(), Obstacles> {
        for (at, one) in summaries.iter().enumerate() {
            if let Some(twin) = summaries[..at].iter().position(|s| s.process == one.process) {
                let (a, b) = (self.nodes[twin].name(), self.nodes[at].name());
                return Err(vec![format!("{a} and {b} are one and the same node")]);
            }
        }
        Ok(())
    }

    /// Lists the items of these ranges on all nodes; what differs becomes pending.
    fn list(&mut self, batch: &Ranges) -> Result<(), Obstacles> {
        let lists = each(self.nodes.iter_mut().collect(), |node: &mut Client| {
            let room = node.room() - "stats digest ".len();
            let lines: Vec<String> =
                batch.masks(room).iter().map(|mask| format!("stats digest {mask}")).collect();
            states(node, &lines, &|_| true)
        })?;
        let nodes = lists.len();
        let mut all: HashMap<Key, Vec<Option<State>>> = HashMap::new();
        for (at, list) in lists.into_iter().enumerate() {
            for (key, state) in list {
                all.entry(key).or_insert_with(|| vec![None; nodes])[at] = Some(state);
            }
        }
        let (now, listed) = (self.now_us(), all.len());
        for (key, states) in all {
            self.pending.look(key, states, now);
        }
        let pending = self.pending.len();
        self.tell(format_args!("{listed} keys listed; {pending} are to be looked at again"));
        Ok(())
    }

    /// Looks at the pending keys until there are none: each is equal by then, or has had its time.
    fn watch(&mut self) -> Result<compare::Verdict, Obstacles> {
        let wait_us = self.config.wait_ms * 1000;
        let mut total = self.pending.verdict(self.now_us(), wait_us);
        while !self.pending.is_empty() {
            let begun = Instant::now();
            self.look_again()?;
            let verdict = self.pending.verdict(self.now_us(), wait_us);
            total.moving += verdict.moving;
            total.different.extend(verdict.different);
            if !self.pending.is_empty() {
                let pause = (begun.elapsed() * PAUSE_FACTOR).max(PAUSE_MIN);
                let due = self.pending.next_due(wait_us).saturating_sub(self.now_us());
                std::thread::sleep(pause.min(Duration::from_micros(due)));
            }
        }
        Ok(total)
    }

    /// One look at all pending keys.
    fn look_again(&mut self) -> Result<(), Obstacles> {
        let keys: Vec<Key> = self.pending.keys().cloned().collect();
        let wanted = &keys;
        let looks = each(self.nodes.iter_mut().collect(), |node: &mut Client| {
            let (lines, long) = key_lines(wanted, node.room());
            let mut found: HashMap<Key, State> =
                states(node, &lines, &|_| true)?.into_iter().collect();
            // Keys that fit into no line of this node are found in the lists of their ranges.
            if !long.is_empty() {
                let ranges = ranges_of(&long);
                let lines: Vec<String> =
                    ranges.masks(200).iter().map(|mask| format!("stats digest {mask}")).collect();
                found.extend(states(node, &lines, &|key| long.iter().any(|&l| **l == *key))?);
            }
            Ok(found)
        })?;
        let now = self.now_us();
        for key in keys {
            let states = looks.iter().map(|look| look.get(&key).copied()).collect();
            self.pending.look(key, states, now);
        }
        Ok(())
    }
}

/// The ranges in which not all nodes agree, in order.
fn differing(summaries: &[Summary]) -> VecDeque<usize> {
    let first = &summaries[0];
    let differs = |&range: &usize| summaries.iter().any(|s| s.ranges[range] != first.ranges[range]);
    (0..RANGES).filter(differs).collect()
}

/// Takes the next ranges to be listed, by what they held when they were counted.
fn next_batch(todo: &mut VecDeque<usize>, summaries: &[Summary]) -> Ranges {
    let mut batch = Ranges::default();
    let mut items = 0;
    while let Some(&range) = todo.front() {
        items += summaries.iter().map(|s| s.ranges[range].0).max().unwrap_or(0);
        if !batch.is_empty() && items > BATCH_ITEMS {
            break;
        }
        batch.insert(range);
        todo.pop_front();
    }
    batch
}

/// Command lines that ask for these keys, and the keys that are too long for one.
fn key_lines(keys: &[Key], room: usize) -> (Vec<String>, Vec<&Key>) {
    const HEAD: &str = "stats digest";
    let (mut lines, mut long): (Vec<String>, _) = (Vec::new(), Vec::new());
    for key in keys {
        // Percent-encoded by the node that has shown it: ASCII.
        let word = format!(" key={}", String::from_utf8_lossy(key));
        if HEAD.len() + word.len() > room {
            long.push(key);
            continue;
        }
        match lines.last_mut().filter(|line| line.len() + word.len() <= room.min(KEYS_ROOM)) {
            Some(line) => line.push_str(&word),
            None => lines.push(format!("{HEAD}{word}")),
        }
    }
    (lines, long)
}

fn ranges_of(keys: &[&Key]) -> Ranges {
    let mut ranges = Ranges::default();
    for key in keys.iter().filter_map(|key| uri::decode(key)) {
        ranges.insert(range_of(&key));
    }
    ranges
}

/// The items that a node shows in answer to these lines, as far as they are wanted.
fn states(
    node: &mut Client,
    lines: &[String],
    wanted: &dyn Fn(&[u8]) -> bool,
) -> Result<Vec<(Key, State)>, String> {
    let mut found = Vec::new();
    let mut wrong = None;
    node.ask(lines, &mut |key, rest| match State::parse(rest) {
        Some(state) if wanted(key) => found.push((Key::from(key), state)),
        Some(_) => {}
        None => wrong = Some(String::from_utf8_lossy(rest).into_owned()),
    })?;
    match wrong {
        Some(rest) => Err(format!("{} shows an item as {rest:?}", node.name())),
        None => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(ranges: &[(usize, u64, u64)]) -> Summary {
        let mut summary = Summary { process: Vec::new(), ranges: vec![(0, 0); RANGES] };
        for &(range, items, digest) in ranges {
            summary.ranges[range] = (items, digest);
        }
        summary
    }

    #[test]
    fn ranges_that_differ_are_listed_in_batches() {
        let big = BATCH_ITEMS / 2 + 1;
        let one = summary(&[(1, 5, 5), (2, big, 1), (3, big, 1), (4, 9 * big, 1), (9, 1, 1)]);
        let two = summary(&[(1, 5, 5), (2, big, 2), (3, 0, 0), (4, 1, 1), (9, 1, 1), (4095, 1, 1)]);
        let all = [one, two];
        let mut todo = differing(&all);
        assert_eq!(todo, [2, 3, 4, 4095]);
        let mut batches = Vec::new();
        while !todo.is_empty() {
            batches.push(next_batch(&mut todo, &all).iter().collect::<Vec<_>>());
        }
        assert_eq!(batches, [vec![2], vec![3], vec![4], vec![4095]]);
        assert_eq!(all[0].items(), 6 + 11 * big);
    }

    #[test]
    fn lines_of_ranges_are_read_strictly() {
        assert_eq!(read_range(b"17", b"244 00ff"), Some((17, (244, 255))));
        for (name, rest) in
            [("4096", "1 0"), ("x", "1 0"), ("1", "1"), ("1", "x 0"), ("1", "1 g"), ("1", "")]
        {
            assert_eq!(read_range(name.as_bytes(), rest.as_bytes()), None, "{name} {rest}");
        }
    }

    #[test]
    fn keys_are_asked_for_in_lines_that_fit() {
        let keys: Vec<Key> = (0..500)
            .map(|n| Key::from(format!("{n}{}", "%FF".repeat(n % 250)).as_bytes()))
            .collect();
        for room in [250, 2000] {
            let (lines, long) = key_lines(&keys, room);
            assert!(lines.iter().all(|line| line.len() <= room), "{room}");
            let asked: usize = lines.iter().map(|line| line.matches("key=").count()).sum();
            assert_eq!(asked + long.len(), keys.len());
            assert_eq!(long.is_empty(), room == 2000);
            assert!(long.iter().all(|key| key.len() > 200));
        }
    }
}
