//! A server that lies.
//!
//! What a key's value, unique and number are is fixed, so that whoever gets an answer can tell
//! whether it is his. On every connection it misbehaves in a way of its own, sooner or later.
//!
//! ```text
//!   connection: answers, answers, ... (whole, or in pieces down to single bytes, or late)
//!               then: half an answer and the end | nonsense | somebody else's value | one too many
//!                     | one too few | silence
//! ```

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// xorshift64*
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

/// A number that is the key's own.
pub fn number_of(key: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish() >> 8
}

/// What a key's value is, everywhere and always: some are long.
pub fn value_of(key: &str) -> String {
    let times = match number_of(key) % 40 {
        0 => 3000,
        1..=4 => 100,
        n => n % 4 + 1,
    };
    format!("<{key}>").repeat(times as usize)
}

/// The switch and the counts of all liars of a test.
#[derive(Default)]
pub struct Mood {
    /// From now on everybody tells the truth.
    pub calm: AtomicBool,
    /// Connections that have ended badly.
    pub ends: AtomicU64,
}

/// Starts a liar and returns its port. It lives as long as the process.
pub fn start(seed: u64, mood: &Arc<Mood>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("address").port();
    let mood = Arc::clone(mood);
    std::thread::spawn(move || {
        for (n, stream) in (1..).zip(listener.incoming().map_while(Result::ok)) {
            let (mood, random) = (Arc::clone(&mood), Random::new(seed.wrapping_add(n)));
            // An end by the other side is an end.
            std::thread::spawn(move || Liar::new(stream, random, mood)?.serve());
        }
    });
    port
}

struct Liar {
    input: BufReader<TcpStream>,
    out: TcpStream,
    random: Random,
    mood: Arc<Mood>,
    /// Only answers in single bytes.
    dribbles: bool,
    version: &'static str,
}

impl Liar {
    fn new(stream: TcpStream, mut random: Random, mood: Arc<Mood>) -> io::Result<Liar> {
        stream.set_nodelay(true)?;
        let out = stream.try_clone()?;
        let dribbles = random.below(8) == 0;
        let version = ["1.4.15", "1.6.18", "1.6.18"][random.below(3) as usize];
        Ok(Liar { input: BufReader::new(stream), out, random, mood, dribbles, version })
    }

    fn serve(mut self) -> io::Result<()> {
        let mut left = [3, 20, 100, 500][self.random.below(4) as usize];
        loop {
            let mut line = String::new();
            if self.input.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let answer = self.answer(line.trim_end())?;
            left -= 1;
            if left > 0 || self.mood.calm.load(Ordering::Relaxed) {
                self.send(answer.as_bytes())?;
                continue;
            }
            self.mood.ends.fetch_add(1, Ordering::Relaxed);
            if !self.misbehave(answer.as_bytes())? {
                return Ok(());
            }
            left = 40;
        }
    }

    fn is_missing(&mut self) -> bool {
        self.random.below(5) == 0
    }

    fn answer(&mut self, line: &str) -> io::Result<String> {
        let words: Vec<&str> = line.split(' ').filter(|word| *word != "noreply").collect();
        Ok(match words[..] {
            ["get", ref keys @ ..] => self.values(keys, false),
            ["gets", ref keys @ ..] => self.values(keys, true),
            ["set" | "add" | "replace" | "append" | "prepend", _, _, _, len] => {
                self.block(len)?;
                "STORED\r\n".into()
            }
            ["cas", _, _, _, len, _] => {
                self.block(len)?;
                "EXISTS\r\n".into()
            }
            ["ms", _, len, ..] => {
                self.block(len)?;
                "HD\r\n".into()
            }
            ["incr" | "decr", key, _] => format!("{}\r\n", number_of(key)),
            ["touch", ..] => "TOUCHED\r\n".into(),
            ["delete", _] => "DELETED\r\n".into(),
            ["mg", key, ref flags @ ..] => self.meta(key, flags),
            ["md", ..] => "HD\r\n".into(),
            ["mn"] => "MN\r\n".into(),
            ["version"] => format!("VERSION {}\r\n", self.version),
            ["stats", ..] => "STAT pid 1\r\nSTAT uptime 1\r\nEND\r\n".into(),
            ["lru_crawler", ..] => "END\r\n".into(),
            ["flush_all" | "verbosity", ..] => "OK\r\n".into(),
            _ => "ERROR\r\n".into(),
        })
    }

    fn block(&mut self, len: &str) -> io::Result<()> {
        let len: usize = len.parse().map_err(|_| io::Error::other("not a length"))?;
        self.input.read_exact(&mut vec![0; len + 2])
    }

    fn values(&mut self, keys: &[&str], unique: bool) -> String {
        let mut out = String::new();
        for key in keys {
            if self.is_missing() {
                continue;
            }
            let value = value_of(key);
            let unique = if unique { format!(" {}", number_of(key)) } else { String::new() };
            out += &format!("VALUE {key} 0 {}{unique}\r\n{value}\r\n", value.len());
        }
        out + "END\r\n"
    }

    fn meta(&mut self, key: &str, flags: &[&str]) -> String {
        if self.is_missing() {
            return "EN\r\n".into();
        }
        let (mut words, mut value) = (String::new(), None);
        for flag in flags {
            match *flag {
                "v" => value = Some(value_of(key)),
                "k" => words += &format!(" k{key}"),
                "f" => words += " f0",
                "c" => words += &format!(" c{}", number_of(key)),
                "t" => words += " t-1",
                flag if flag.starts_with('O') => words += &format!(" {flag}"),
                _ => {}
            }
        }
        match value {
            Some(value) => format!("VA {}{words}\r\n{value}\r\n", value.len()),
            None => format!("HD{words}\r\n"),
        }
    }

    /// Whole, in pieces, or late.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.random.below(60) == 0 {
            std::thread::sleep(Duration::from_millis(self.random.below(8)));
        }
        let piece = match self.random.below(12) {
            _ if self.dribbles && bytes.len() < 400 => 1,
            0 => 1 + self.random.below(900) as usize,
            _ => bytes.len(),
        };
        bytes.chunks(piece.max(1)).try_for_each(|piece| self.out.write_all(piece))
    }

    /// Whether it goes on afterwards as if nothing had happened.
    fn misbehave(&mut self, answer: &[u8]) -> io::Result<bool> {
        let foreign = b"VALUE somebody-elses 0 3\r\nlie\r\nEND\r\n";
        match self.random.below(8) {
            0 => self.out.write_all(&answer[..self.random.below(answer.len() as u64) as usize])?,
            1 => self.out.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")?,
            2 => self.out.write_all(&[0xff; 5000])?,
            3 => self.out.write_all(b"VALUE x 0 99999999999\r\n")?,
            4 => {
                self.out.write_all(foreign)?;
                return Ok(true);
            }
            5 => {
                self.out.write_all(answer)?;
                self.out.write_all(foreign)?;
                return Ok(true);
            }
            // One too few, where the next one shows it: it must not be taken for this one.
            6 if answer.starts_with(b"VALUE ") => return Ok(true),
            // Silence until the proxy has had enough.
            _ => while self.input.read(&mut [0; 4096])? > 0 {},
        }
        Ok(false)
    }
}
