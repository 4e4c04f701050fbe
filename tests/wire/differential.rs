//! The same random commands to our connection code and to the real memcached: the same answers.
//!
//! Owns a generator that likes edge cases (wrong lengths, odd numbers, long keys, damaged lines)
//! and stays away from the few places where we differ on purpose; the transcripts name those. Bad
//! lines are ours as 1.6.45 reads them: a real one of before its parser is asked without them.

use crate::script::Link;
use crate::Rng;

/// Commands of one conversation.
const COMMANDS: usize = 40;

impl Rng {
    /// One of them.
    pub fn pick(&mut self, from: &[&str]) -> String {
        from[self.below(from.len())].to_owned()
    }

    fn key(&mut self) -> String {
        match self.below(9) {
            0 => "k".repeat(250),
            1 => "k".repeat(251),
            2 => self.pick(&["noreply", "0", "x\ty"]),
            _ => self.pick(&["a", "b", "n"]),
        }
    }

    fn number(&mut self, old: bool) -> String {
        if old {
            return self.pick(&["0", "1", "5", "10", "-1", "x", "1x", "007", "99", "--1"]);
        }
        self.pick(&[
            "0",
            "1",
            "5",
            "10",
            "-1",
            "+3",
            "18446744073709551615",
            "18446744073709551616",
            "x",
            "1x",
            "007",
            "99",
            "\t2",
            "3\t",
            "-0",
            "--1",
        ])
    }

    fn tail(&mut self, old: bool) -> String {
        if old {
            return self.pick(&["", "", "", " noreply", " "]);
        }
        self.pick(&["", "", "", "", "", " noreply", " noreply", " x", " noreply x", " "])
    }
}

/// A command, with its data block if it has one.
pub fn command(rng: &mut Rng, old: bool) -> Vec<u8> {
    let (key, other, tail) = (rng.key(), rng.key(), rng.tail(old));
    // A key that is also the last word is both to 1.6.45.
    let key = if old && key == "noreply" { "a".to_owned() } else { key };
    let odd = if old { "0" } else { "x" };
    let exptime = rng.pick(&["0", "0", "0", "0", "0", "-1", "100", odd]);
    let line = match rng.below(11) {
        0..=4 => return store(rng, old, &key, &exptime, &tail),
        // A wrong key is passed over in silence where the last one is "noreply", in 1.6.45.
        5 => format!("{} {key} {}", rng.pick(&["get", "get "]), other.replace("noreply", "b")),
        6 => format!("{} {key} {}{tail}", rng.pick(&["incr", "decr"]), rng.number(old)),
        // Behind a key we refuse what memcached did before 1.6.45 (see errors.txt).
        7 => format!(
            "delete {key}{}",
            rng.pick(&["", " 0", " noreply", " 0 noreply", if old { " 1" } else { "" }])
        ),
        8 => format!("touch {key} {exptime}{tail}"),
        9 => format!("gat {exptime} {key} {other}"),
        _ => rng.pick(&[
            "",
            " ",
            "x",
            "\0",
            if old { "x" } else { "get" },
            if old { "x" } else { "set" },
            "mn",
            "mn x",
            "mx",
            "flush_all",
            "flush_all 0",
            "flush_all x",
            "flush_all noreply",
            "flush_all noreply noreply",
            "verbosity x",
            "verbosity 0 noreply",
            "stat",
            "lru_crawler",
        ]),
    };
    (line + "\r\n").into_bytes()
}

fn store(rng: &mut Rng, old: bool, key: &str, exptime: &str, tail: &str) -> Vec<u8> {
    let verb = rng.pick(&["set", "set", "set", "add", "replace", "append", "prepend", "cas"]);
    // Before 1.6.45 the block of a bad line was read as commands.
    let key = if old && key.len() > 250 { "a" } else { key };
    let (negative, word) = if old { ("0", "0") } else { ("-1", "x") };
    let flags = rng.pick(&["0", "0", "0", "5", "4294967295", "4294967296", negative, word]);
    // Never empty and never blank: memcached's incr reads on behind such a value.
    let mut data = rng.pick(&["0", "7", "x", "12", "199"]);
    for _ in 0..[0, 0, 1, 3][rng.below(4)] {
        data += &rng.pick(&["0", "7", " ", "x", "\r", "\n"]);
    }
    let len = match rng.below(8) {
        0 => rng.pick(&["0", if old { "0" } else { "-1" }, if old { "0" } else { "x" }]),
        1 => (data.len() + 1).to_string(),
        2 => data.len().saturating_sub(1).to_string(),
        _ => data.len().to_string(),
    };
    // A unique that nobody has.
    let unique = if verb == "cas" { " 18446744073709551615" } else { "" };
    format!("{verb} {key} {flags} {exptime} {len}{unique}{tail}\r\n{data}\r\n").into_bytes()
}

/// Damages a byte or two of the command line. No digits come in, and none that are there may become
/// a length beyond the marks below. The first byte stays: a blank before a command is borne with
/// here and in 1.6.18, and makes it another one in 1.6.45.
pub fn damage(rng: &mut Rng, bytes: &mut Vec<u8>) {
    // A NUL is left to the transcripts: in a value it ends a number for memcached's incr.
    const ODD: &[u8] = b"\r\n -+xz\xff";
    for _ in 0..[0, 0, 0, 0, 1, 2][rng.below(6)] {
        if bytes.len() < 3 {
            return;
        }
        let line = bytes.iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len());
        let at = 1 + rng.below(line.max(1));
        let odd = ODD[rng.below(ODD.len())];
        match rng.below(3) {
            0 if at < bytes.len() => bytes[at] = odd,
            1 if at < bytes.len() => drop(bytes.remove(at)),
            _ => bytes.insert(at.min(bytes.len()), odd),
        }
    }
    // A lone CR where a number should be is a zero to 1.6.45.
    while let Some(at) = bytes.windows(3).position(|part| part == b" \r ") {
        bytes[at + 1] = b'x';
    }
}

/// Sends one command and reads all it answers. A block that is longer than what was sent for it
/// eats some of the lines behind it, the same ones on both sides.
fn ask(link: &mut dyn Link, command: &[u8]) -> Result<Vec<u8>, String> {
    let mut bytes = command.to_vec();
    bytes.extend_from_slice(&b"zz\r\n".repeat(60));
    bytes.extend_from_slice(b"verbosity bye\r\n");
    link.send(&bytes).map_err(|error| error.to_string())?;
    // Only this mark is answered so.
    let mark = b"ERROR\r\nERROR\r\nERROR\r\nCLIENT_ERROR bad command line format\r\n";
    let mut answer = Vec::new();
    while !answer.ends_with(mark) {
        if !link.receive(&mut answer)? {
            return Err(format!("closed after \"{}\"", answer.escape_ascii()));
        }
    }
    Ok(answer)
}

/// Administrative lines that are answered alike by every memcached 1.6, and by us.
const ADMIN: &[&str] = &[
    "slabs",
    "slabs x",
    "slabs reassign",
    "slabs reassign 1",
    "slabs reassign 1 1",
    "slabs reassign 2 1",
    "slabs reassign x 2",
    "slabs reassign 1 x",
    "slabs reassign 1 70",
    "slabs reassign -2 1",
    "slabs reassign 1 2 3",
    "slabs automove",
    "slabs automove 0",
    "slabs automove 2",
    "slabs automove 3",
    "slabs automove x",
    "slabs automove -1",
    "slabs automove ratio 0.8",
    "slabs automove ratio",
    "lru",
    "lru x",
    "lru mode flat",
    "lru mode segmented",
    "lru mode x",
    "lru mode",
    "lru tune 10 20",
    "lru tune 10 25 0.1 2.0",
    "lru tune 50 40 0.1 2.0",
    "lru tune 10 25 0 2.0",
    "lru tune 10 25 -1 2.0",
    "lru tune x 25 0.1 2.0",
    "lru temp_ttl 30",
    "lru temp_ttl x",
    "lru_crawler",
    "lru_crawler x",
    "lru_crawler enable x",
    "lru_crawler sleep",
    "lru_crawler sleep 1000000",
    "lru_crawler sleep 1000001",
    "lru_crawler sleep x",
    "lru_crawler tocrawl 5",
    "lru_crawler tocrawl x",
    "lru_crawler crawl 0",
    "lru_crawler crawl 64",
    "lru_crawler crawl x",
    "lru_crawler metadump",
    "lru_crawler metadump x",
    "lru_crawler metadump all x",
    "cache_memlimit",
    "cache_memlimit x",
    "cache_memlimit 7",
    "cache_memlimit -1",
    "cache_memlimit 1000000001",
    "verbosity x",
    "verbosity 0 noreply",
    "stats nonsense",
    "stats detail",
    "stats detail x",
    "stats detail on",
    "stats detail off",
    "stats cachedump",
    "stats cachedump 1",
    "stats cachedump x 1",
    "stats cachedump 1 x",
    "stats cachedump 64 1",
    "stats cachedump 5 0",
    "stats reset",
    "stats sizesx",
    "stats itemsx",
    "flush_all x",
    "flush_all x noreply",
    "flush_all noreply noreply",
    "watch nonsense",
];

/// Asks both every line of [`ADMIN`]. The error shows all that are answered differently.
pub fn administration(ours: &mut dyn Link, real: &mut dyn Link) -> Result<(), String> {
    let mut different = Vec::new();
    for line in ADMIN {
        let command = format!("{line}\r\n");
        let (ours, real) = (ask(ours, command.as_bytes())?, ask(real, command.as_bytes())?);
        if ours != real {
            let show = |answer: &[u8]| answer[..answer.len().min(80)].escape_ascii().to_string();
            different.push(format!("{line}\n  ours {}\n  real {}", show(&ours), show(&real)));
        }
    }
    match different.is_empty() {
        true => Ok(()),
        false => Err(different.join("\n")),
    }
}

/// An answer without the places where one memcached says the same in other words than another:
/// 1.6.45 has a wrong line where 1.6.18 has no command (lines of under four bytes), and an empty
/// line behind what it says of a wrong key in a get.
pub fn in_plain_words(answer: &[u8]) -> Vec<u8> {
    let text: String = answer.iter().map(|&byte| char::from(byte)).collect();
    let text = text.replace("CLIENT_ERROR bad command line format\r\n\r\n", "ERROR\r\n");
    let text = text.replace("CLIENT_ERROR bad command line format\r\n", "ERROR\r\n");
    text.chars().map(|c| c as u8).collect()
}

/// An answer as it is compared: in plain words where 1.6.45 is asked, or where a command may
/// leave a line of under four bytes behind.
fn alike(command: &[u8], old: bool, answer: Result<Vec<u8>, String>) -> Result<String, String> {
    let answer = answer?;
    let one_line = command.iter().filter(|&&byte| byte == b'\n').count() == 1;
    let as_it_is = old && command.len() >= 4 && one_line;
    let answer = if as_it_is { answer } else { in_plain_words(&answer) };
    Ok(answer.escape_ascii().to_string())
}

/// Holds one conversation with both. The error shows the first command they answer differently.
pub fn converse(
    seed: u64,
    old: bool,
    ours: &mut dyn Link,
    real: &mut dyn Link,
) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    ask(ours, b"flush_all\r\n")?;
    ask(real, b"flush_all\r\n")?;
    for number in 0..COMMANDS {
        let mut command = command(&mut rng, old);
        // What stands behind the key of a delete is looked at here; and half of a unique would be a
        // long wait for data, if it came to stand where the length is.
        let spared = [&b"delete"[..], b"cas"].iter().any(|verb| command.starts_with(verb));
        if !old && !spared {
            damage(&mut rng, &mut command);
        }
        let (ours, real) = (ask(ours, &command), ask(real, &command));
        let (ours, real) = (alike(&command, old, ours), alike(&command, old, real));
        if ours != real {
            let show = |answer: Result<String, String>| {
                answer.unwrap_or_else(|error| error).chars().take(300).collect::<String>()
            };
            return Err(format!(
                "seed {seed}, command {number}: \"{}\"\n  ours {}\n  real {}",
                command.escape_ascii(),
                show(ours),
                show(real)
            ));
        }
    }
    Ok(())
}
