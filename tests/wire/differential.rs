//! The same random commands to our connection code and to the real memcached: the same answers.
//!
//! Owns a generator that likes edge cases (wrong lengths, odd numbers, long keys, damaged lines)
//! and stays away from the few places where we differ on purpose; the transcripts name those.

use crate::script::Link;
use crate::Rng;

/// Commands of one conversation.
const COMMANDS: usize = 40;

impl Rng {
    fn pick(&mut self, from: &[&str]) -> String {
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

    fn number(&mut self) -> String {
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
            "",
            "\t2",
            "3\t",
            "-0",
            "--1",
        ])
    }

    fn tail(&mut self) -> String {
        self.pick(&["", "", "", "", "", " noreply", " noreply", " x", " noreply x", " "])
    }
}

/// A command, with its data block if it has one.
fn command(rng: &mut Rng) -> Vec<u8> {
    let (key, other, tail) = (rng.key(), rng.key(), rng.tail());
    let exptime = rng.pick(&["0", "0", "0", "0", "0", "-1", "100", "x"]);
    let line = match rng.below(11) {
        0..=4 => return store(rng, &key, &exptime, &tail),
        5 => format!("{} {key} {other}", rng.pick(&["get", "get", "bget", "get "])),
        6 => format!("{} {key} {}{tail}", rng.pick(&["incr", "decr"]), rng.number()),
        7 => format!("delete {key}{}{tail}", rng.pick(&["", "", " 0", " 1", " noreply 0"])),
        8 => format!("touch {key} {exptime}{tail}"),
        9 => format!("gat {exptime} {key} {other}"),
        _ => rng.pick(&[
            "",
            " ",
            "x",
            "\0",
            "get",
            "set",
            "mn",
            "mn x",
            "mx",
            "flush_all",
            "flush_all 0",
            "flush_all x",
            "flush_all noreply",
            "flush_all noreply noreply",
            "verbosity",
            "verbosity x",
            "verbosity 0 noreply",
            "shutdown",
            "stat",
            "lru_crawler",
        ]),
    };
    (line + "\r\n").into_bytes()
}

fn store(rng: &mut Rng, key: &str, exptime: &str, tail: &str) -> Vec<u8> {
    let verb = rng.pick(&["set", "set", "set", "add", "replace", "append", "prepend", "cas"]);
    let flags = rng.pick(&["0", "0", "0", "5", "4294967295", "4294967296", "-1", "x"]);
    // Never empty and never blank: memcached's incr reads on behind such a value.
    let mut data = rng.pick(&["0", "7", "x", "12", "199"]);
    for _ in 0..[0, 0, 1, 3][rng.below(4)] {
        data += &rng.pick(&["0", "7", " ", "x", "\r", "\n"]);
    }
    let len = match rng.below(8) {
        0 => rng.pick(&["0", "-1", "x"]),
        1 => (data.len() + 1).to_string(),
        2 => data.len().saturating_sub(1).to_string(),
        _ => data.len().to_string(),
    };
    // A unique that nobody has.
    let unique = if verb == "cas" { " 18446744073709551615" } else { "" };
    format!("{verb} {key} {flags} {exptime} {len}{unique}{tail}\r\n{data}\r\n").into_bytes()
}

/// Damages a byte or two of the command line. No digits come in, and none that are there may become
/// a length beyond the marks below.
fn damage(rng: &mut Rng, bytes: &mut Vec<u8>) {
    // A NUL is left to the transcripts: in a value it ends a number for memcached's incr.
    const ODD: &[u8] = b"\r\n \t-+xz\xff";
    for _ in 0..[0, 0, 0, 0, 1, 2][rng.below(6)] {
        if bytes.is_empty() {
            return;
        }
        let line = bytes.iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len());
        let at = rng.below(line.max(1));
        let odd = ODD[rng.below(ODD.len())];
        match rng.below(3) {
            0 => bytes[at] = odd,
            1 => bytes.insert(at, odd),
            _ => drop(bytes.remove(at)),
        }
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

/// memcached 1.6.18 calls a line of under four bytes an `ERROR`; we follow 1.6.45. Where a command
/// may leave such a line, both texts count as one.
fn alike(command: &[u8], answer: Result<Vec<u8>, String>) -> Result<String, String> {
    let answer = answer?.escape_ascii().to_string();
    if command.len() >= 4 && command.iter().filter(|&&byte| byte == b'\n').count() == 1 {
        return Ok(answer);
    }
    Ok(answer.replace("CLIENT_ERROR bad command line format", "ERROR"))
}

/// Holds one conversation with both. The error shows the first command they answer differently.
pub fn converse(seed: u64, ours: &mut dyn Link, real: &mut dyn Link) -> Result<(), String> {
    let mut rng = Rng::new(seed);
    ask(ours, b"flush_all\r\n")?;
    ask(real, b"flush_all\r\n")?;
    for number in 0..COMMANDS {
        let mut command = command(&mut rng);
        damage(&mut rng, &mut command);
        let (ours, real) = (ask(ours, &command), ask(real, &command));
        let (ours, real) = (alike(&command, ours), alike(&command, real));
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
