//! Where a program logs, from its first line to its last.
//!
//! ```text
//!                     until it has started      afterwards
//!  foreground         stderr                    stderr
//!  daemon             stderr                    syslog; with -v also the stderr it was given
//!  -o log_file        stderr and the file       the file
//! ```
//!
//! Owns that choice. What is wrong at the start is always told on the user's terminal. A daemon
//! with `-v` keeps its standard error, as memcached's does: an init script may have pointed it to a
//! file.

use std::ffi::CStr;
use std::io;
use std::path::PathBuf;

use super::syslog;
use crate::base::log::{self as sink, LineFn, Sinks};

/// What the command line says about the log.
#[derive(Clone, Debug)]
pub struct Logging {
    /// The name in syslog.
    pub ident: &'static CStr,
    /// `-o log_file`, absolute if the directory will change.
    pub file: Option<PathBuf>,
    /// It becomes a daemon.
    pub daemon: bool,
    /// How many `-v` there are.
    pub verbose: u8,
}

impl Logging {
    /// Opens the log. Called first of all, and again when the program `has_started` (as a daemon,
    /// with its user).
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(&self, has_started: bool) -> io::Result<()> {
        let to_syslog = has_started && self.daemon && self.file.is_none();
        if to_syslog {
            syslog::open(self.ident);
        }
        let function = to_syslog.then_some(syslog::write as LineFn);
        let stderr = !has_started || self.keeps_stderr();
        sink::init(Sinks { stderr, file: self.file.clone(), function }, self.verbose)
    }

    /// Whether lines go to standard error once the program has started.
    pub fn keeps_stderr(&self) -> bool {
        self.file.is_none() && (!self.daemon || self.verbose > 0)
    }
}
