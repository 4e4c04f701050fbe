//! Lines to the system's log, for a daemon whose stderr nobody reads.
//!
//! Owns the name it logs under. Where no syslog runs, lines are lost without an error or a delay:
//! the C library drops them.

use std::ffi::CStr;

use nix::syslog::{openlog, syslog, Facility, LogFlags, Severity};

/// Says that lines come from the daemon `ident`, with its pid.
pub fn open(ident: &'static CStr) {
    let _ = openlog(Some(ident), LogFlags::LOG_PID, Facility::LOG_DAEMON);
}

/// Writes one line, with the severity that fits `level`.
pub fn write(level: log::Level, line: &str) {
    let severity = match level {
        log::Level::Error => Severity::LOG_ERR,
        log::Level::Warn => Severity::LOG_WARNING,
        log::Level::Info => Severity::LOG_INFO,
        log::Level::Debug | log::Level::Trace => Severity::LOG_DEBUG,
    };
    // A NUL byte would end the line early; nothing of ours has one.
    let _ = syslog(severity, line);
}
