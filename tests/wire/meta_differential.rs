//! Random meta commands, cut anywhere, to our connection code and to the real memcached.
//!
//! Owns their generator, and what is made alike before replies are compared: CAS uniques (the same
//! one twice must be the same one twice on the other side, too) and times (seconds pass). Stays
//! away from what differs on purpose; `meta-*.txt` name that. Against memcached 1.6.18, which knows
//! less than the 1.6.45 that we follow, it keeps to what both know.

use crate::script::{Kind, Link};
use crate::Rng;
use std::collections::HashMap;

/// Batches of one conversation.
const BATCHES: usize = 30;
/// Commands of one batch at most.
const BATCH: usize = 5;
/// The keys: as they are, and in base64 (the last one is no ASCII).
const KEYS: [(&str, &str); 3] =
    [("a", "YQ=="), ("n", "bg=="), ("\u{30c6}\u{30b9}\u{30c8}", "44OG44K544OI")];
/// Stands for the CAS unique that this server told last.
const LAST: &str = "{last}";

/// Makes commands.
struct Maker<'a> {
    rng: &'a mut Rng,
    /// Which memcached is on the other side.
    real: Kind,
    /// An ms may be refused after its line was read; then there are no classic storage commands:
    /// memcached 1.6.45 gives the next of these the CAS unique that was meant for the ms.
    refused_sets: bool,
}

impl Maker<'_> {
    fn pick(&mut self, from: &[&str]) -> String {
        from[self.rng.below(from.len())].to_owned()
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.rng.below(n) == 0
    }

    fn exptime(&mut self) -> String {
        self.pick(&["0", "100", "200", "1000", "-1"])
    }

    fn unique(&mut self) -> String {
        // One that is newer than any, one that is older than any, none.
        self.pick(&[LAST, LAST, LAST, "18446744073709551615", "1", "0"])
    }

    /// A flag that is some command's, good or bad.
    fn any_flag(&mut self) -> String {
        let old = ["z", "v", "v", "Tx", "Nx", "Rx", "Cx", "T", "O"];
        let new = [
            "_",
            "5",
            "S2",
            "!",
            "x",
            "I",
            "J",
            "Dx",
            "F",
            "M",
            "MX",
            "E",
            "T+5",
            "T99999999999",
            "C-1",
            "F4294967296",
            "h",
            "l",
            "u",
            "L9",
            "P8",
            "T-",
        ];
        if self.real != Kind::Old && self.one_in(2) {
            self.pick(&new)
        } else {
            self.pick(&old)
        }
    }

    /// Flags that all commands know.
    fn common(&mut self) -> String {
        match self.rng.below(6) {
            0 => "k".to_owned(),
            1 => format!("O{}", self.rng.below(1000)),
            2 => "q".to_owned(),
            3 if self.refused_sets => format!("O{}", "o".repeat(30 + self.rng.below(4))),
            3 => "c".to_owned(),
            _ => String::new(),
        }
    }

    fn get_flag(&mut self) -> String {
        match self.rng.below(14) {
            0..=3 => self.pick(&["v", "s", "f", "t", "h", "l"]),
            4 => "t".to_owned(),
            5 => "u".to_owned(),
            6 => format!("N{}", self.exptime()),
            7 => format!("T{}", self.exptime()),
            8 => format!("R{}", self.pick(&["150", "500", "0", "5000", "-1"])),
            9 if self.real != Kind::Old => format!("C{}", self.unique()),
            10 if self.real != Kind::Old => format!("E{}", 1u64 << 63 | self.rng.below(3) as u64),
            _ => self.common(),
        }
    }

    fn set_flag(&mut self) -> String {
        let new = self.real != Kind::Old;
        match self.rng.below(14) {
            0 => format!("T{}", self.exptime()),
            1 => format!("F{}", self.rng.below(5)),
            2 | 3 => format!("C{}", self.unique()),
            4 | 5 => "I".to_owned(),
            6 => format!("M{}", self.pick(&["S", "E", "A", "P", "R", "R"])),
            7 if new => format!("M{}", self.pick(&["A", "P", "a", "I", "\0"])),
            8 if new => format!("N{}", self.exptime()),
            9 if new => format!("E{}", 1u64 << 63 | self.rng.below(3) as u64),
            10 if new => "s".to_owned(),
            _ => self.common(),
        }
    }

    fn delete_flag(&mut self) -> String {
        let new = self.real != Kind::Old;
        match self.rng.below(10) {
            0 | 1 => "I".to_owned(),
            2 => format!("T{}", self.exptime()),
            3 => format!("C{}", self.unique()),
            4 if new => "x".to_owned(),
            5 if new => format!("E{}", 1u64 << 63 | self.rng.below(3) as u64),
            6 if new => format!("F{}", self.rng.below(5)),
            _ => self.common(),
        }
    }

    /// E and T come with a delta of 0: memcached loses them where the number grows.
    fn arith_flag(&mut self, grows: bool) -> String {
        let new = self.real != Kind::Old;
        match self.rng.below(12) {
            0 => format!("N{}", self.exptime()),
            1 => format!("J{}", self.pick(&["0", "7", "18446744073709551615"])),
            2 if grows => format!("D{}", self.pick(&["1", "5", "90", "18446744073709551615"])),
            2 | 3 if !grows => format!("T{}", self.exptime()),
            4 if !grows && new => format!("E{}", 1u64 << 63 | self.rng.below(3) as u64),
            3 | 5 => format!("M{}", self.pick(&["I", "D", "+", "-"])),
            6 => format!("C{}", self.unique()),
            7 => "v".to_owned(),
            8 => "t".to_owned(),
            _ => self.common(),
        }
    }

    /// A line without its end. Of a flag that is there twice the second one is left out, mostly.
    fn line(
        &mut self,
        verb: &str,
        middle: &str,
        mut flag: impl FnMut(&mut Self) -> String,
    ) -> String {
        let (key, base64) = KEYS[self.rng.below(KEYS.len())];
        let binary = self.one_in(4);
        let mut flags = vec![if binary { "b".to_owned() } else { String::new() }];
        if verb == "ma" && middle == " D0" {
            flags.push("D0".to_owned());
        }
        for _ in 0..self.rng.below(6) {
            let next = if self.one_in(40) { self.any_flag() } else { flag(self) };
            let twice = flags.iter().any(|one| one.bytes().next() == next.bytes().next());
            if !next.is_empty() && (!twice || self.one_in(60)) {
                let at = self.rng.below(flags.len() + 1);
                flags.insert(at, next);
            }
        }
        let mut line = format!("{verb} {}", if binary { base64 } else { key });
        if verb == "ms" {
            line += middle;
        }
        // An mg with such an opaque counts as a use of the item for memcached, sometimes.
        flags.retain(|flag| verb != "mg" || flag.len() <= 32 || !flag.starts_with('O'));
        // Quiet only where it counts, before 1.6.45.
        flags.retain(|flag| verb != "ma" || self.real != Kind::Old || flag != "q");
        // A time that has passed has no length.
        let past = flags.iter().any(|flag| flag == "T-1" || flag == "N-1");
        flags.retain(|flag| !flag.is_empty() && (flag != "t" || !past));
        for flag in &flags {
            line += if self.one_in(20) { "  " } else { " " };
            line += flag;
        }
        line
    }

    fn set(&mut self) -> String {
        // Never empty and never blank: memcached's incr reads on behind such a value.
        let mut data = self.pick(&["0", "7", "x", "12", "199"]);
        for _ in 0..[0, 0, 1, 3][self.rng.below(4)] {
            data += &self.pick(&["0", "7", " ", "x", "\r", "\n"]);
        }
        let len = match self.rng.below(16) {
            0 if self.real != Kind::Old => self.pick(&["x", "-1", "+2", "S2", "2147483646"]),
            1 if self.refused_sets => (data.len() + 1).to_string(),
            2 if self.refused_sets => (data.len() - 1).to_string(),
            3 if self.refused_sets && self.real != Kind::Old => "-".to_owned(),
            _ => data.len().to_string(),
        };
        let append_with_unique = |line: &str| {
            // Before 1.6.45 these did not go together.
            (line.contains(" MA") || line.contains(" MP")) && line.contains(" C")
        };
        let line = loop {
            let line = self.line("ms", &format!(" {len}"), Self::set_flag);
            if self.real != Kind::Old || !append_with_unique(&line) {
                break line;
            }
        };
        format!("{line}\r\n{data}")
    }

    fn classic(&mut self) -> String {
        let (key, _) = KEYS[self.rng.below(KEYS.len())];
        let exptime = self.exptime();
        match self.rng.below(if self.refused_sets { 4 } else { 7 }) {
            0 => format!("touch {key} {exptime}"),
            1 => format!("gats {exptime} {key}"),
            2 => format!("delete {key}"),
            3 => format!("gets {key}"),
            4 => format!("set {key} 3 {exptime} 2\r\n10"),
            5 => format!("cas {key} 0 {exptime} 1 {}\r\n5", self.unique()),
            _ => format!("append {key} 0 0 1\r\n7"),
        }
    }

    /// Numbers are counted first in a batch only: memcached writes one in place (and keeps what it
    /// knows of the item) unless a reply that holds it still waits to be sent.
    fn command(&mut self, first: bool) -> String {
        let mut command = match self.rng.below(if first { 26 } else { 17 }) {
            0..=5 => self.line("mg", "", Self::get_flag),
            6..=10 => self.set(),
            11..=13 => self.line("md", "", Self::delete_flag),
            14 => format!("me {}", KEYS[self.rng.below(KEYS.len())].0),
            15 | 16 => self.classic(),
            17..=20 => self.line("ma", "", |me| me.arith_flag(true)),
            21 | 22 => self.line("ma", " D0", |me| me.arith_flag(false)),
            23 => format!("incr {} 5", KEYS[self.rng.below(KEYS.len())].0),
            _ => format!("decr {} 60", KEYS[self.rng.below(KEYS.len())].0),
        };
        if self.one_in(100) {
            let bad = ["mg", "ms a", "ma", "md", "mx a", "mg {k}", "ms {k} 2", "ma {k} v"];
            command = self.pick(&bad[..if self.real != Kind::Old { 8 } else { 6 }]);
            command = command.replace("{k}", &"k".repeat(251));
        }
        // A data block must not end so.
        let bare = !command.contains('\n') && self.one_in(20);
        command + if bare { "\n" } else { "\r\n" }
    }
}

/// One side of a conversation.
struct Side<'a> {
    link: &'a mut dyn Link,
    /// The CAS uniques it told, numbered as they came.
    uniques: HashMap<u64, usize>,
    last: u64,
    /// Whether an item was asked for before counts here: not where each node of a pair has its own
    /// answer.
    fetched: bool,
}

/// What follows a batch: it feeds a block that was announced too long, and its answer is the end.
const MARK: &str = "zzzz\r\nzzzz\r\nzzzz\r\nmn\r\n";

impl Side<'_> {
    /// Sends a batch in pieces that end at `cuts`, gives all it answers.
    fn ask(&mut self, batch: &str, cuts: &[usize]) -> Result<Vec<u8>, String> {
        let text = batch.replace(LAST, &self.last.to_string()) + MARK;
        let mut rest = text.as_bytes();
        for &cut in cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            self.link.send(piece).map_err(|error| error.to_string())?;
            rest = after;
        }
        self.link.send(rest).map_err(|error| error.to_string())?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"MN\r\n") {
            if !self.link.receive(&mut answer)? {
                return Err(format!("closed after \"{}\"", answer.escape_ascii()));
            }
        }
        Ok(answer)
    }

    /// The same answer as the other side's, if all is well.
    fn alike(&mut self, answer: &[u8], real: Kind) -> String {
        let mut out = String::new();
        let mut rest = answer;
        while let Some(end) = rest.windows(2).position(|two| two == b"\r\n") {
            let line = String::from_utf8_lossy(&rest[..end]).into_owned();
            rest = &rest[end + 2..];
            if real == Kind::Old && line.starts_with("CLIENT_ERROR ") {
                // The texts have changed since, and shorter lines have got one.
                out += "ERROR \n";
                continue;
            }
            let words: Vec<&str> = line.split(' ').collect();
            let block = match words[..] {
                ["VA", len, ..] | ["VALUE", _, _, len, ..] => len.parse::<usize>().ok(),
                _ => None,
            };
            for (at, word) in words.iter().enumerate() {
                out += &if words[0] == "VALUE" && at == 4 {
                    self.word(&format!("c{word}"))
                } else if at > 0 && ["VA", "HD", "EN", "EX", "NF", "NS", "ME"].contains(&words[0]) {
                    self.word(word)
                } else {
                    (*word).to_owned()
                };
                out.push(' ');
            }
            out.push('\n');
            if let Some(len) = block {
                let block = &rest[..(len + 2).min(rest.len())];
                out += &block.escape_ascii().to_string();
                out.push('\n');
                rest = &rest[block.len()..];
            }
        }
        out
    }

    /// A word of a reply with its CAS unique or time made alike.
    fn word(&mut self, word: &str) -> String {
        if word == "exp=-1" {
            return word.to_owned();
        }
        if !self.fetched && ["h0", "h1", "fetch=yes", "fetch=no"].contains(&word) {
            return "h".to_owned();
        }
        let number = |prefix: &str| word.strip_prefix(prefix).and_then(|n| n.parse::<u64>().ok());
        if let Some(unique) = number("cas=").or(number("c")) {
            if unique == 0 || unique >> 63 == 1 {
                return format!("c{unique}");
            }
            let next = self.uniques.len();
            self.last = unique;
            return format!("c#{}", self.uniques.entry(unique).or_insert(next));
        }
        // memcached 1.6.18 counts it backwards in an me.
        if let Some(secs) = number("exp=").or(number("exp=-")).or(number("t")) {
            return format!("t{}", secs.div_ceil(50) * 50);
        }
        if let Some(secs) = number("la=").or(number("l")) {
            return format!("l{}", secs / 50);
        }
        word.to_owned()
    }
}

/// Holds one conversation with both. The error shows the first batch they answer differently.
/// `pair`: ours are two nodes.
pub fn converse(
    seed: u64,
    real_is: Kind,
    pair: bool,
    ours: &mut dyn Link,
    real: &mut dyn Link,
) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    let new = |link| Side { link, uniques: HashMap::new(), last: 1, fetched: !pair };
    let (mut ours, mut real) = (new(ours), new(real));
    // Nothing is there, and nothing will have the CAS unique 1.
    let clear = |(key, _): &(&str, &str)| format!("ms {key} 1 q\r\nx\r\nmd {key} q\r\n");
    let mut batch: String = KEYS.iter().map(clear).collect();
    ours.ask(&batch, &[])?;
    real.ask(&batch, &[])?;
    for number in 0..BATCHES {
        batch.clear();
        for at in 0..=rng.below(BATCH) {
            let refused_sets = seed % 2 == 0;
            batch += &Maker { rng: &mut rng, real: real_is, refused_sets }.command(at == 0);
        }
        let cuts: Vec<usize> = (0..rng.below(4)).map(|_| rng.below(batch.len() / 2 + 1)).collect();
        let shown = batch.replace(LAST, &format!("[{} {}]", ours.last, real.last));
        let (a, b) = (ours.ask(&batch, &cuts)?, real.ask(&batch, &cuts)?);
        let (a, b) = (ours.alike(&a, real_is), real.alike(&b, real_is));
        if a != b {
            return Err(format!(
                "seed {seed}, batch {number}: \"{}\"\nours:\n{a}real:\n{b}",
                shown.escape_debug()
            ));
        }
    }
    Ok(())
}
