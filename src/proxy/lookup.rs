//! `twincached where`: which server and which backup have a key, without asking anybody.
//!
//! Owns the lines that are read and printed. Never resolves a name and never connects.
//!
//! ```text
//!   arguments, or lines of the input --> Routes --> key TAB server TAB backup
//! ```

use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Write};

use super::config::{Config, Place};
use super::route::Routes;
use super::servers_file;
use crate::net::listen::plain;
use crate::platform::{EX_OSERR, EX_USAGE};
use crate::protocol::KEY_MAX;

/// Bytes kept of a line: a key, and enough to know that it is too long.
const LINE_MAX: usize = KEY_MAX + 2;
/// Of a refused key, this many bytes are shown.
const SHOWN_MAX: usize = 60;

/// Answers for `keys`, or where there are none for each line of `input`. The result is the exit
/// status: 1 where a key was refused. An output that nobody reads any more ends it quietly.
pub fn run(
    config: &Config,
    keys: &[Vec<u8>],
    input: impl Read,
    output: impl Write,
    mut errors: impl Write,
) -> i32 {
    let config = match servers_file::load(config) {
        Ok(config) => config,
        Err(why) => {
            // Where standard error is closed there is nowhere to say it; the status still does.
            let _ = writeln!(errors, "twincached: {why}");
            return EX_USAGE;
        }
    };
    let shown = |places: &[Place]| places.iter().map(|place| format!("\t{place}")).collect();
    let mut answers = Answers {
        routes: Routes::new(&config),
        servers: shown(&config.servers),
        backups: shown(&config.backups),
        output: BufWriter::new(output),
        errors,
        refused: false,
    };
    let done = match keys {
        [] => answers.lines(input),
        keys => keys.iter().try_for_each(|key| answers.key(key)),
    };
    match done.and_then(|()| answers.output.flush()) {
        Ok(()) => i32::from(answers.refused),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => i32::from(answers.refused),
        Err(error) => {
            let _ = writeln!(answers.errors, "twincached: {}", plain(&error));
            EX_OSERR
        }
    }
}

struct Answers<O: Write, E: Write> {
    routes: Routes,
    /// Each place as it is printed, behind its tab.
    servers: Vec<String>,
    backups: Vec<String>,
    output: BufWriter<O>,
    errors: E,
    refused: bool,
}

impl<O: Write, E: Write> Answers<O, E> {
    fn lines(&mut self, input: impl Read) -> io::Result<()> {
        let mut input = BufReader::new(input);
        let mut line = Vec::with_capacity(LINE_MAX);
        loop {
            // Whoever types, or pipes one key at a time, gets each answer before the next key.
            if input.buffer().is_empty() {
                self.output.flush()?;
            }
            let part = match input.fill_buf() {
                Ok(part) => part,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let end = memchr::memchr(b'\n', part);
            let fits = end.unwrap_or(part.len()).min(LINE_MAX - line.len());
            line.extend_from_slice(&part[..fits]);
            let (used, at_end) = (end.map_or(part.len(), |end| end + 1), part.is_empty());
            input.consume(used);
            if end.is_some() || at_end {
                let key = line.strip_suffix(b"\r").unwrap_or(&line);
                if !key.is_empty() {
                    self.key(key)?;
                }
                line.clear();
            }
            if at_end {
                return Ok(());
            }
        }
    }

    fn key(&mut self, key: &[u8]) -> io::Result<()> {
        if let Some(why) = trouble(key) {
            self.refused = true;
            let shown = key[..key.len().min(SHOWN_MAX)].escape_ascii();
            let more = if key.len() > SHOWN_MAX { "..." } else { "" };
            // What was answered before comes before it on a terminal.
            self.output.flush()?;
            let _ = writeln!(self.errors, "twincached: key \"{shown}{more}\" {why}");
            return Ok(());
        }
        self.output.write_all(key)?;
        let server = self.routes.server(key).map_or("\t", |index| &self.servers[index]);
        let backup = self.routes.backup(key).map_or("\t", |index| &self.backups[index]);
        writeln!(self.output, "{server}{backup}")
    }
}

/// Why memcached would refuse the key, or take it for another one.
fn trouble(key: &[u8]) -> Option<&'static str> {
    match key {
        [] => Some("is empty"),
        _ if key.len() > KEY_MAX => Some("is longer than 250 bytes"),
        _ if key.contains(&b' ') => Some("has a blank in it"),
        _ if key.contains(&b'\n') => Some("has a line end in it"),
        _ if key.contains(&0) => Some("has a zero byte in it"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::config::ServerAddr;

    fn config() -> Config {
        let addr = |port| ServerAddr::tcp("127.0.0.1", port).into();
        Config {
            servers: vec![addr(11211), addr(11212)],
            backups: vec![addr(11213)],
            ..Config::default()
        }
    }

    fn answer(keys: &[&[u8]], input: &[u8]) -> (i32, String, String) {
        let (mut out, mut errors) = (Vec::new(), Vec::new());
        let keys: Vec<Vec<u8>> = keys.iter().map(|key| key.to_vec()).collect();
        let status = run(&config(), &keys, input, &mut out, &mut errors);
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (status, text(out), text(errors))
    }

    const KEY1: &str = "key1\t127.0.0.1:11212\t127.0.0.1:11213\n";
    const KEY2: &str = "key2\t127.0.0.1:11211\t127.0.0.1:11213\n";

    #[test]
    fn arguments_and_lines() {
        let both = format!("{KEY1}{KEY2}");
        assert_eq!(answer(&[b"key1", b"key2"], b"other"), (0, both.clone(), String::new()));
        for lines in ["key1\nkey2\n", "key1\r\n\n\r\nkey2"] {
            assert_eq!(
                answer(&[], lines.as_bytes()),
                (0, both.clone(), String::new()),
                "{lines:?}"
            );
        }
        assert_eq!(answer(&[], b""), (0, String::new(), String::new()));
    }

    #[test]
    fn refused_keys_do_not_stop_the_others() {
        let long = [b'k'; 100_000];
        for (bad, why) in [
            (&long[..251], "is longer than 250 bytes"),
            (&long[..], "is longer than 250 bytes"),
            (b"a b", "has a blank in it"),
            (b"a\0b", "has a zero byte in it"),
        ] {
            let (status, out, errors) = answer(&[bad, b"key1"], b"");
            assert_eq!((status, out.as_str()), (1, KEY1));
            assert!(errors.starts_with("twincached: key \"") && errors.contains(why), "{errors}");
            let lines = [b"key1\n", bad, b"\r\nkey2"].concat();
            let (status, out, errors) = answer(&[], &lines);
            assert_eq!((status, out), (1, format!("{KEY1}{KEY2}")));
            assert!(errors.ends_with(&format!("{why}\n")) && errors.len() < 120, "{errors}");
        }
        assert_eq!(answer(&[b""], b"").0, 1);
        assert_eq!(answer(&[&long[..250]], b"").0, 0);
        // Bytes go in and out as they are.
        let mut out = Vec::new();
        assert_eq!(run(&config(), &[vec![0xff, b'\t']], &b""[..], &mut out, io::sink()), 0);
        assert!(out.starts_with(b"\xff\t\t127.0.0.1:"));
    }
}
