//! Transcripts: their format (see README.md beside) and how one is played.
//!
//! Owns the parser of the files and the comparison of what was expected with what came. Knows no
//! server: it talks through [`Transport`] and [`Link`].

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long a `~` line is repeated.
const REPEAT_FOR: Duration = Duration::from_secs(10);
/// How far the clock moves between two tries of a `~` line, where it can be moved.
const REPEAT_STEP: Duration = Duration::from_millis(100);
/// Longest piece of a list (`<*`) before it counts as endless.
const LIST_MAX: usize = 1 << 20;

/// One connection to a server.
pub trait Link {
    /// Sends all of `bytes`. An error means that the server has closed.
    fn send(&mut self, bytes: &[u8]) -> std::io::Result<()>;
    /// Appends what comes next to `into`. False: closed. An error: nothing came in a long time.
    fn receive(&mut self, into: &mut Vec<u8>) -> Result<bool, String>;
}

/// A running server.
pub trait Transport {
    /// One more connection.
    fn open(&mut self) -> Box<dyn Link>;
    /// Moves the server's clock, where that is possible.
    fn advance(&mut self, by: Duration) -> bool;
}

/// Which server a file is played against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    InProcess,
    Ours,
    /// memcached 1.6.45 or what comes after it.
    Real,
    /// memcached before 1.6.45.
    Old,
}

#[derive(Debug, Default)]
pub struct Script {
    pub name: String,
    pub args: Vec<String>,
    pub real_args: Vec<String>,
    pub needs_clock: bool,
    skip: Vec<String>,
    steps: Vec<Step>,
}

#[derive(Debug)]
struct Step {
    line: usize,
    only: Option<String>,
    what: What,
}

#[derive(Debug)]
enum What {
    Send(Vec<Piece>),
    Expect(Vec<Piece>),
    Listed(Vec<Piece>),
    Closed,
    Repeat(Vec<Piece>),
    Switch(String),
    Clock(Duration),
}

#[derive(Debug, PartialEq)]
enum Piece {
    Bytes(Vec<u8>),
    Number(Option<String>),
    Recall(String, u64),
    /// Any bytes, up to the end of the line or also up to a blank.
    Any {
        word: bool,
    },
}

impl Script {
    /// Reads a file. Panics with its line on nonsense: a transcript is source code.
    pub fn parse(name: &str, text: &str) -> Script {
        let mut script = Script { name: name.to_owned(), ..Script::default() };
        let mut only = None;
        for (index, line) in text.lines().enumerate() {
            let number = index + 1;
            let nonsense = |what: &str| -> ! { panic!("{name}:{number}: {what}: {line}") };
            let head = |key: &str| line.strip_prefix(key).map(str::trim);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(args) = head("args:") {
                script.args.extend(args.split_whitespace().map(str::to_owned));
                continue;
            }
            if let Some(args) = head("args real:") {
                script.real_args = args.split_whitespace().map(str::to_owned).collect();
                continue;
            }
            if line == "needs: clock" {
                script.needs_clock = true;
                continue;
            }
            if let Some(skip) = head("skip:") {
                let Some((who, _why)) = skip.split_once(" - ") else { nonsense("no reason") };
                script.skip.push(who.to_owned());
                continue;
            }
            if let Some(who) = head("only:") {
                let Some((who, _why)) = who.split_once(" - ") else { nonsense("no reason") };
                only = Some(who.to_owned());
                continue;
            }
            let Some(what) = What::parse(line) else { nonsense("what is this") };
            script.steps.push(Step { line: number, only: only.take(), what });
        }
        script
    }

    /// Whether it is played against `kind` at all.
    pub fn plays(&self, kind: Kind) -> bool {
        !self.skip.iter().any(|who| is(kind, who)) && (!self.needs_clock || kind == Kind::InProcess)
    }

    /// Plays it. The error names the line and what was there instead.
    pub fn play(&self, kind: Kind, server: &mut dyn Transport) -> Result<(), String> {
        let mut player = Player { server, links: HashMap::new(), numbers: HashMap::new() };
        let steps: Vec<&Step> = self
            .steps
            .iter()
            .filter(|step| step.only.as_ref().is_none_or(|who| is(kind, who)))
            .collect();
        let mut on = "1".to_owned();
        let mut at = 0;
        while at < steps.len() {
            let place = |error: String| format!("{}:{}: {error}", self.name, steps[at].line);
            let mut taken = 1;
            match &steps[at].what {
                What::Switch(name) => on.clone_from(name),
                What::Send(text) => player.send(&on, text).map_err(place)?,
                What::Expect(text) => player.expect(&on, text).map_err(place)?,
                What::Closed => player.closed(&on).map_err(place)?,
                What::Clock(by) => {
                    if !player.server.advance(*by) {
                        return Err(place("this clock cannot be moved".to_owned()));
                    }
                }
                What::Listed(_) => {
                    let list = player.list(&on).map_err(place)?;
                    taken = 0;
                    for step in &steps[at..] {
                        let What::Listed(text) = &step.what else { break };
                        taken += 1;
                        player
                            .listed(&list, text)
                            .map_err(|error| format!("{}:{}: {error}", self.name, step.line))?;
                    }
                }
                What::Repeat(text) => {
                    let wanted: Vec<&[Piece]> = steps[at + 1..]
                        .iter()
                        .map_while(|step| match &step.what {
                            What::Expect(text) => Some(&text[..]),
                            _ => None,
                        })
                        .collect();
                    taken += wanted.len();
                    player.repeat(&on, text, &wanted).map_err(place)?;
                }
            }
            at += taken;
        }
        player.finish().map_err(|error| format!("{}: at the end: {error}", self.name))
    }
}

fn is(kind: Kind, who: &str) -> bool {
    match who {
        "real" => matches!(kind, Kind::Real | Kind::Old),
        "old" => kind == Kind::Old,
        "new" => kind != Kind::Old,
        "in-process" => kind == Kind::InProcess,
        "ours" => matches!(kind, Kind::InProcess | Kind::Ours),
        other => panic!("who is {other}?"),
    }
}

impl What {
    fn parse(line: &str) -> Option<What> {
        if let Some(name) = line.strip_prefix('@') {
            return Some(What::Switch(name.trim().to_owned()));
        }
        if let Some(secs) = line.strip_prefix("clock ") {
            return Some(What::Clock(Duration::try_from_secs_f64(secs.trim().parse().ok()?).ok()?));
        }
        let (sign, text) = line.split_once(' ').unwrap_or((line, ""));
        Some(match sign {
            ">" => What::Send(pieces(text, true)?),
            ">>" => What::Send(pieces(text, false)?),
            "<" if text == "closed" => What::Closed,
            "<" => What::Expect(pieces(text, true)?),
            "<<" => What::Expect(pieces(text, false)?),
            "<*" => What::Listed(pieces(text, true)?),
            "~" => What::Repeat(pieces(text, true)?),
            _ => return None,
        })
    }
}

/// Text with escapes and braces, `\r\n` behind it when it is a line.
fn pieces(text: &str, line: bool) -> Option<Vec<Piece>> {
    let mut out = Vec::new();
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        rest = &rest[first.len_utf8()..];
        match first {
            '\\' => {
                let escape = rest.chars().next()?;
                rest = &rest[escape.len_utf8()..];
                bytes.push(match escape {
                    'r' => b'\r',
                    'n' => b'\n',
                    't' => b'\t',
                    '0' => 0,
                    '\\' => b'\\',
                    '{' => b'{',
                    'x' => {
                        let hex = rest.get(..2)?;
                        rest = &rest[2..];
                        u8::from_str_radix(hex, 16).ok()?
                    }
                    _ => return None,
                });
            }
            '{' => {
                let (inside, after) = rest.split_once('}')?;
                rest = after;
                if let Some((count, what)) = inside.split_once('*').filter(|(n, _)| !n.is_empty()) {
                    let [Piece::Bytes(what)] = &pieces(what, false)?[..] else { return None };
                    bytes.extend(what.repeat(count.parse().ok()?));
                    continue;
                }
                out.push(Piece::Bytes(std::mem::take(&mut bytes)));
                out.push(match inside {
                    "n" => Piece::Number(None),
                    "*" => Piece::Any { word: false },
                    "w" => Piece::Any { word: true },
                    _ => match (inside.strip_prefix("n:"), inside.split_once('+')) {
                        (Some(name), _) => Piece::Number(Some(name.to_owned())),
                        (_, Some((name, n))) => Piece::Recall(name.to_owned(), n.parse().ok()?),
                        _ => Piece::Recall(inside.to_owned(), 0),
                    },
                });
            }
            other => bytes.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    if line {
        bytes.extend_from_slice(b"\r\n");
    }
    out.push(Piece::Bytes(bytes));
    Some(out)
}

/// A connection and what it has received so far.
struct Line {
    link: Box<dyn Link>,
    received: Vec<u8>,
    closed: bool,
}

struct Player<'s> {
    server: &'s mut dyn Transport,
    links: HashMap<String, Line>,
    numbers: HashMap<String, u64>,
}

impl Player<'_> {
    fn on(&mut self, name: &str) -> &mut Line {
        if !self.links.contains_key(name) {
            let link = self.server.open();
            let line = Line { link, received: Vec::new(), closed: false };
            self.links.insert(name.to_owned(), line);
        }
        self.links.get_mut(name).expect("just inserted")
    }

    fn send(&mut self, on: &str, text: &[Piece]) -> Result<(), String> {
        let mut bytes = Vec::new();
        for piece in text {
            match piece {
                Piece::Bytes(literal) => bytes.extend_from_slice(literal),
                Piece::Recall(name, more) => {
                    bytes.extend_from_slice((self.recall(name)? + more).to_string().as_bytes());
                }
                other => return Err(format!("{other:?} cannot be sent")),
            }
        }
        self.on(on).link.send(&bytes).map_err(|error| format!("cannot send: {error}"))
    }

    fn recall(&self, name: &str) -> Result<u64, String> {
        self.numbers.get(name).copied().ok_or_else(|| format!("no number {name} yet"))
    }

    /// Compares what comes with `text`, byte for byte, reading no more than needed.
    fn expect(&mut self, on: &str, text: &[Piece]) -> Result<(), String> {
        let mut at = 0;
        for piece in text {
            let wanted = match piece {
                Piece::Bytes(literal) => literal.clone(),
                Piece::Recall(name, more) => (self.recall(name)? + more).to_string().into_bytes(),
                Piece::Number(name) => {
                    let digits = self.on(on).take_while(at, |byte| byte.is_ascii_digit())?;
                    let text =
                        String::from_utf8_lossy(&self.on(on).received[at..][..digits]).into_owned();
                    let number: u64 = text
                        .parse()
                        .map_err(|_| format!("a number wanted; {}", self.on(on).show()))?;
                    if let Some(name) = name {
                        self.numbers.insert(name.clone(), number);
                    }
                    at += digits;
                    continue;
                }
                &Piece::Any { word } => {
                    at += self.on(on).take_while(at, |byte| {
                        byte != b'\r' && byte != b'\n' && !(word && byte == b' ')
                    })?;
                    continue;
                }
            };
            let line = self.on(on);
            while line.received.len() < at + wanted.len() {
                // A wrong start is told at once, without waiting for the rest.
                let common = line.received.len() - at;
                if line.received[at..] != wanted[..common] || !line.more()? {
                    break;
                }
            }
            if !line.received[at..].starts_with(&wanted) {
                let wanted = show(&wanted);
                return Err(format!("wanted {wanted} at {at}; {}", line.show()));
            }
            at += wanted.len();
        }
        self.on(on).received.drain(..at);
        Ok(())
    }

    /// Reads a list up to and with `END`.
    fn list(&mut self, on: &str) -> Result<Vec<Vec<u8>>, String> {
        let line = self.on(on);
        loop {
            let end = line.received.windows(5).position(|five| five == b"END\r\n");
            if let Some(end) = end.filter(|&at| at == 0 || line.received[at - 1] == b'\n') {
                let list = line.received.drain(..end + 5).collect::<Vec<u8>>();
                return Ok(list.split_inclusive(|&b| b == b'\n').map(<[u8]>::to_vec).collect());
            }
            if line.received.len() > LIST_MAX || !line.more()? {
                return Err(format!("no END; {}", line.show()));
            }
        }
    }

    fn listed(&mut self, list: &[Vec<u8>], text: &[Piece]) -> Result<(), String> {
        /// A line of the list, as a connection that sends just this and closes.
        struct Once;
        impl Link for Once {
            fn send(&mut self, _: &[u8]) -> std::io::Result<()> {
                Ok(())
            }
            fn receive(&mut self, _: &mut Vec<u8>) -> Result<bool, String> {
                Ok(false)
            }
        }
        for entry in list {
            let line = Line { link: Box::new(Once), received: entry.clone(), closed: false };
            self.links.insert("the list".to_owned(), line);
            let matched =
                self.expect("the list", text).is_ok() && self.on("the list").received.is_empty();
            self.links.remove("the list");
            if matched {
                return Ok(());
            }
        }
        let list: Vec<String> = list.iter().map(|entry| show(entry)).collect();
        Err(format!("{text:?} is not in the list:\n  {}", list.join("\n  ")))
    }

    fn repeat(&mut self, on: &str, text: &[Piece], wanted: &[&[Piece]]) -> Result<(), String> {
        let deadline = Instant::now() + REPEAT_FOR;
        loop {
            self.send(on, text)?;
            let mut outcome = Ok(());
            for text in wanted {
                outcome = outcome.and_then(|()| self.expect(on, text));
            }
            if outcome.is_ok() || Instant::now() > deadline {
                return outcome;
            }
            // Whatever else this try answered is dropped, up to a mark that cannot be missed.
            self.on(on).link.send(b"mn\r\n").map_err(|error| error.to_string())?;
            let line = self.on(on);
            while !line.received.ends_with(b"MN\r\n") {
                if !line.more()? {
                    return Err(format!("closed while repeating; {}", line.show()));
                }
            }
            line.received.clear();
            if !self.server.advance(REPEAT_STEP) {
                std::thread::sleep(REPEAT_STEP / 5);
            }
        }
    }

    fn closed(&mut self, on: &str) -> Result<(), String> {
        let line = self.on(on);
        if !line.received.is_empty() || line.more()? {
            return Err(format!("not closed; {}", line.show()));
        }
        Ok(())
    }

    /// Every connection that is still open answers `mn`, and has nothing else to say.
    fn finish(&mut self) -> Result<(), String> {
        let names: Vec<String> = self.links.keys().cloned().collect();
        for name in names {
            if self.on(&name).closed {
                continue;
            }
            let context = |error: String| format!("@{name}: {error}");
            self.send(&name, &[Piece::Bytes(b"mn\r\n".to_vec())]).map_err(context)?;
            self.expect(&name, &[Piece::Bytes(b"MN\r\n".to_vec())]).map_err(context)?;
        }
        Ok(())
    }
}

impl Line {
    /// Waits for more bytes. False: closed.
    fn more(&mut self) -> Result<bool, String> {
        if !self.closed {
            let open = self.link.receive(&mut self.received);
            self.closed = !open.map_err(|error| format!("{error}; {}", self.show()))?;
        }
        Ok(!self.closed)
    }

    /// How many bytes from `at` on are `wanted`; a byte that is not must come.
    fn take_while(&mut self, at: usize, wanted: impl Fn(u8) -> bool) -> Result<usize, String> {
        loop {
            if let Some(len) = self.received[at..].iter().position(|&byte| !wanted(byte)) {
                return Ok(len);
            }
            if !self.more()? {
                return Err(format!("closed; {}", self.show()));
            }
        }
    }

    fn show(&self) -> String {
        let closed = if self.closed { ", then closed" } else { "" };
        format!("received {}{closed}", show(&self.received))
    }
}

fn show(bytes: &[u8]) -> String {
    const SHOWN: usize = 300;
    let cut = &bytes[..bytes.len().min(SHOWN)];
    let dots = if bytes.len() > SHOWN { "..." } else { "" };
    format!("\"{}\"{dots} ({} bytes)", cut.escape_ascii(), bytes.len())
}
