//! The file of `-o servers_file`: servers and backups beside those of the command line.
//!
//! ```text
//!   # a line each; what is behind a # at the start of a word is a comment
//!   -s 10.0.0.1:11211          or: server 10.0.0.1:11211, or the server alone
//!   -b 10.0.0.9:11211          or: backup 10.0.0.9:11211
//! ```
//!
//! Owns its syntax, the sentences about what is wrong with it, and when a change of it counts.
//! Never decides what a change means.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::path::Path;
use std::time::SystemTime;

use super::config::{Config, Place};
use super::places;
use crate::net::listen::plain;

/// Longest file, in bytes: as many places as there may be, of 250 characters each.
const FILE_MAX: u64 = 2 << 20;

/// Servers and backups of a file, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// Behind those of `-s`.
    pub servers: Vec<Place>,
    /// Behind those of `-b`.
    pub backups: Vec<Place>,
}

impl Listed {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// `LINE: what is wrong`, or a sentence about the whole.
    pub fn parse(text: &[u8]) -> Result<Listed, String> {
        let mut listed = Listed::default();
        for (line, number) in text.split(|&byte| byte == b'\n').zip(1..) {
            let line = std::str::from_utf8(line).map_err(|_| format!("{number}: not UTF-8"))?;
            listed.add(line).map_err(|why| format!("{number}: {why}"))?;
        }
        match listed.servers.is_empty() && listed.backups.is_empty() {
            true => Err(" it names no server".to_owned()),
            false => Ok(listed),
        }
    }

    fn add(&mut self, line: &str) -> Result<(), String> {
        let mut words = line.split_whitespace().take_while(|word| !word.starts_with('#'));
        let Some(first) = words.next() else { return Ok(()) };
        let (is_backup, place) = match first {
            "-s" | "--server" | "server" => (false, words.next()),
            "-b" | "--backup" | "backup" => (true, words.next()),
            _ if first.starts_with('-') => return Err(format!("unknown word \"{first}\"")),
            _ => (false, Some(first)),
        };
        let place = place.ok_or_else(|| format!("no address after \"{first}\""))?;
        if let Some(more) = words.next() {
            return Err(format!("one place a line: unexpected \"{more}\""));
        }
        let (what, list) = match is_backup {
            true => ("backup", &mut self.backups),
            false => ("server", &mut self.servers),
        };
        list.push(places::place(what, place)?);
        Ok(())
    }
}

/// `config`, with what its servers file names behind what the command line did.
///
/// # Errors
/// `FILE:LINE: what is wrong`, or a sentence about both together.
pub fn load(config: &Config) -> Result<Config, String> {
    let mut all = config.clone();
    if let Some(path) = &config.servers_file {
        let name = path.display();
        let text = read(path).map_err(|error| format!("{name}: {}", plain(&error)))?;
        let listed = Listed::parse(&text).map_err(|why| format!("{name}:{why}"))?;
        all.servers.extend(listed.servers);
        all.backups.extend(listed.backups);
    }
    match (places::check(&all), &config.servers_file) {
        (Err(why), Some(path)) => Err(format!("{}: {why}", path.display())),
        (Err(why), None) => Err(why),
        (Ok(()), _) => Ok(all),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(path)?.take(FILE_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > FILE_MAX {
        return Err(io::Error::other("it is too large"));
    }
    Ok(text)
}

/// What a look at the file shows without reading it: its length, when it was written, and which
/// file it is. `None` where there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look(Option<(u64, Option<SystemTime>, u64)>);

impl Look {
    /// Looks.
    pub fn at(path: &Path) -> Look {
        use std::os::unix::fs::MetadataExt;
        let seen = |meta: Metadata| (meta.len(), meta.modified().ok(), meta.ino());
        Look(std::fs::metadata(path).ok().map(seen))
    }
}

/// Tells when the file has changed and rests. Two looks in a row must show the same: a file that is
/// still being written is not taken.
#[derive(Debug)]
pub struct Watch {
    /// What was read, or found wrong.
    known: Look,
    last: Look,
}

impl Watch {
    /// A file that was read when it looked like this.
    pub fn new(look: Look) -> Watch {
        Watch { last: look.clone(), known: look }
    }

    /// Another look. `true`: read it now.
    pub fn look(&mut self, look: Look) -> bool {
        let rests = look == self.last;
        let read = rests && look != self.known;
        if read {
            self.known = look.clone();
        }
        self.last = look;
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(places: &[Place]) -> Vec<String> {
        places.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn lines_in_all_forms() {
        let text =
            b"# the site\r\n-s a:1 # one\r\n\n  server\tb=c:2:3\n d \n--backup e,f:5\nbackup /g";
        let listed = Listed::parse(text).unwrap();
        assert_eq!(shown(&listed.servers), ["a:1", "c:2", "d:11211"]);
        assert_eq!(shown(&listed.backups), ["e:11211,f:5", "/g"]);
        assert_eq!(listed.servers[1].first().weight, 3);
    }

    #[test]
    fn a_wrong_line_is_named() {
        for (text, why) in [
            ("", " it names no server"),
            ("# -s a\n\n", " it names no server"),
            ("a\nb:x\n", "2: server: Invalid port number: \"x\""),
            ("-s a\n-b", "2: no address after \"-b\""),
            ("\n\n-x a", "3: unknown word \"-x\""),
            ("sever a:1", "1: one place a line: unexpected \"a:1\""),
            ("-s a -s b", "1: one place a line: unexpected \"-s\""),
            ("-b a:1:0", "1: backup: a weight is a number from 1 to 1000000, not \"0\""),
            ("backup ,", "1: backup must name at least one address"),
        ] {
            assert_eq!(Listed::parse(text.as_bytes()), Err(why.to_owned()), "{text:?}");
        }
        assert_eq!(Listed::parse(b"a\n\xff"), Err("2: not UTF-8".to_owned()));
    }

    #[test]
    fn a_change_counts_when_it_rests() {
        let look = |len| Look(Some((len, None, 1)));
        let mut watch = Watch::new(look(5));
        let seen = [5, 5, 6, 7, 7, 7, 5, 7, 7].map(|len| watch.look(look(len)));
        assert_eq!(seen, [false, false, false, false, true, false, false, false, false]);
        // It is gone: read (and found wrong) once; then it is back as it was.
        let seen = [Look(None), Look(None), Look(None), look(7), look(7)];
        assert_eq!(seen.map(|look| watch.look(look)), [false, true, false, false, true]);
    }
}
