//! Recorded traces: which keys were asked for, in which order.
//!
//! Owns the file formats. Compressed files are read through `xz` and `zstd`, which have to be
//! there. Never keeps more than it was asked for.
//!
//! ```text
//! NAME.trace[.xz]   u32, big-endian: one key each
//! NAME.lis[.zst]    lines "start count - -": the keys start .. start + count, as the authors of
//!                   ARC (FAST'03) published theirs
//! ```

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One trace, or its beginning.
pub struct Trace {
    /// The file's name up to its first dot.
    pub name: String,
    /// The keys, in order.
    pub requests: Vec<u64>,
    /// How many different ones there are.
    pub keys: usize,
}

/// What a file's name says about it.
enum Format {
    Words,
    Ranges,
}

fn format_of(path: &Path) -> Option<(Format, Option<&'static str>)> {
    let name = path.file_name()?.to_str()?;
    let (plain, unpack) = match name.strip_suffix(".xz") {
        Some(plain) => (plain, Some("xz")),
        None => match name.strip_suffix(".zst") {
            Some(plain) => (plain, Some("zstd")),
            None => (name, None),
        },
    };
    match plain.rsplit_once('.')?.1 {
        "trace" => Some((Format::Words, unpack)),
        "lis" => Some((Format::Ranges, unpack)),
        _ => None,
    }
}

/// The traces in a folder whose names contain `only`, in order.
pub fn files(folder: &Path, only: &str) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(folder);
    let entries = entries.map_err(|error| format!("{}: {error}", folder.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut files: Vec<PathBuf> =
        paths.filter(|path| format_of(path).is_some() && name_of(path).contains(only)).collect();
    files.sort();
    if files.is_empty() {
        return Err(format!("no such traces in {}", folder.display()));
    }
    Ok(files)
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.split('.').next().unwrap_or_default().to_owned()
}

impl Trace {
    /// Reads at most `most` requests of a trace.
    pub fn read(path: &Path, most: usize) -> Result<Trace, String> {
        let context = |error: String| format!("{}: {error}", path.display());
        let Some((format, unpack)) = format_of(path) else {
            return Err(context("neither .trace nor .lis".to_owned()));
        };
        let file = File::open(path).map_err(|error| context(error.to_string()))?;
        let requests = match unpack {
            None => decode(&format, BufReader::new(file), most),
            Some(program) => {
                let mut child = Command::new(program)
                    .args(["-d", "-c"])
                    .stdin(file)
                    .stdout(Stdio::piped())
                    .spawn()
                    .map_err(|error| context(format!("it takes {program} to read it: {error}")))?;
                let decoded = match child.stdout.take() {
                    Some(out) => decode(&format, BufReader::new(out), most),
                    None => Ok(Vec::new()),
                };
                // It may have more to say than was asked for, and is not heard any more.
                let _ = child.wait();
                decoded
            }
        };
        let requests = requests.map_err(context)?;
        let keys = requests.iter().collect::<HashSet<_>>().len();
        Ok(Trace { name: name_of(path), requests, keys })
    }
}

fn decode(format: &Format, mut from: impl BufRead, most: usize) -> Result<Vec<u64>, String> {
    let mut keys = Vec::new();
    match format {
        Format::Words => {
            let mut word = [0; 4];
            while keys.len() < most {
                match from.read_exact(&mut word) {
                    Ok(()) => keys.push(u64::from(u32::from_be_bytes(word))),
                    Err(error) if error.kind() == ErrorKind::UnexpectedEof => break,
                    Err(error) => return Err(error.to_string()),
                }
            }
        }
        Format::Ranges => {
            for line in from.lines() {
                let line = line.map_err(|error| error.to_string())?;
                let mut numbers = line.split_whitespace().map(str::parse::<u64>);
                let (Some(Ok(start)), Some(Ok(count))) = (numbers.next(), numbers.next()) else {
                    return Err(format!("\"{line}\" is no range"));
                };
                let left = (most - keys.len()) as u64;
                keys.extend((0..count.min(left)).map(|nth| start.saturating_add(nth)));
                if keys.len() == most {
                    break;
                }
            }
        }
    }
    Ok(keys)
}
