//! Where log lines go, behind the `log` facade.
//!
//! Owns the one logger of the process: its level (`-v`, the `verbosity` command) and its sinks
//! (stderr, a file that can be opened again, a function such as syslog's). Lines go out as they
//! are, one a write, without time or level before them: repcached's lines are read by programs.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};

/// A sink that is not a file: gets the level and the line without its end.
pub type LineFn = fn(Level, &str);

/// Which sinks a line goes to. None at all is allowed.
#[derive(Clone, Debug, Default)]
pub struct Sinks {
    /// Standard error.
    pub stderr: bool,
    /// This file, appended to.
    pub file: Option<PathBuf>,
    /// Whatever this does with it.
    pub function: Option<LineFn>,
}

struct State {
    sinks: Sinks,
    file: Option<File>,
}

struct Logger(Mutex<State>);

static LOGGER: Logger = Logger(Mutex::new(State {
    sinks: Sinks { stderr: true, file: None, function: None },
    file: None,
}));

impl Logger {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut line = record.args().to_string();
        let mut state = self.lock();
        if let Some(function) = state.sinks.function {
            function(record.level(), &line);
        }
        line.push('\n');
        // A full disk or a closed pipe must not stop a cache, and there is nowhere to say it.
        if state.sinks.stderr {
            let _ = io::stderr().write_all(line.as_bytes());
        }
        if let Some(file) = &mut state.file {
            let _ = file.write_all(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

fn open(path: &Path) -> io::Result<File> {
    let opened = OpenOptions::new().create(true).append(true).open(path);
    opened.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Sends lines to `sinks` from now on, and what is at most `verbose` loud (see [`set_verbose`]).
/// May be called again, e.g. after daemonizing. A file's path should be absolute when the working
/// directory will change.
///
/// # Errors
/// The file cannot be opened; lines go on to where they went, at first to standard error.
pub fn init(sinks: Sinks, verbose: u8) -> io::Result<()> {
    // First, so that the caller can log the error. Fails only when this logger is in place already.
    let _ = log::set_logger(&LOGGER);
    set_verbose(verbose);
    let file = sinks.file.as_deref().map(open).transpose()?;
    *LOGGER.lock() = State { sinks, file };
    Ok(())
}

/// Changes how much is logged: 0 warnings and errors, 1 what happens (`-v`), 2 also commands and
/// replies (`-vv`), 3 and more everything.
pub fn set_verbose(verbose: u8) {
    log::set_max_level(match verbose {
        0 => LevelFilter::Warn,
        1 => LevelFilter::Info,
        2 => LevelFilter::Debug,
        _ => LevelFilter::Trace,
    });
}

/// Opens the file again, after a log rotation has moved it away (SIGHUP).
///
/// # Errors
/// The file cannot be opened; lines go on into the old one.
pub fn reopen() -> io::Result<()> {
    let mut state = LOGGER.lock();
    if let Some(path) = &state.sinks.file {
        state.file = Some(open(path)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    // The only test of the process that touches the global logger.
    #[test]
    fn lines_are_raw_filtered_and_survive_rotation() {
        static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());
        fn remember(level: Level, line: &str) {
            if line.starts_with("replication: ") || line == "quiet" {
                SEEN.lock().unwrap().push(format!("{level} {line}"));
            }
        }
        let dir = std::env::temp_dir().join(format!("twincached-log-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (path, old) = (dir.join("log"), dir.join("log.1"));
        let bad = Sinks { file: Some(dir.join("no/such")), ..Sinks::default() };
        assert!(init(bad, 1).is_err());
        let sinks = Sinks { stderr: false, file: Some(path.clone()), function: Some(remember) };
        init(sinks, 1).unwrap();
        log::info!("replication: listen");
        log::debug!("quiet");
        fs::rename(&path, &old).unwrap();
        log::info!("replication: accept");
        reopen().unwrap();
        set_verbose(0);
        log::info!("quiet");
        log::warn!("replication: close");
        let ours = |path: &Path| {
            let text = fs::read_to_string(path).unwrap();
            text.lines().filter(|l| l.starts_with("replication") || *l == "quiet").count()
        };
        assert_eq!((ours(&old), ours(&path)), (2, 1));
        assert_eq!(
            *SEEN.lock().unwrap(),
            ["INFO replication: listen", "INFO replication: accept", "WARN replication: close"]
        );
        init(Sinks { stderr: true, ..Sinks::default() }, 0).unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }
}
