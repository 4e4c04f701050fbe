//! What a daemon asks of Unix.
//!
//! Owns becoming a daemon, the pid file, users, limits, signals and syslog. One of the two places
//! where `unsafe` is allowed; each use says why it is sound. Knows nothing of caches.
//!
//! The order that a server starts in, so that whatever can be wrong is told on the user's terminal,
//! low ports can be bound, and files belong to the user of `-u`:
//!
//! ```text
//! limits -> find user -> bind TCP -> become user -> bind unix -> daemonize -> log, pid file,
//! signals, mlockall -> threads
//! ```
#![allow(unsafe_code)]

pub mod child;
pub mod daemon;
pub mod heap;
pub mod image;
pub mod limits;
pub mod logging;
pub mod pidfile;
pub mod signals;
pub mod socket;
pub mod syslog;
pub mod user;

/// Exit status of a wrong command line (sysexits' EX_USAGE).
pub const EX_USAGE: i32 = 64;
/// Exit status of an unknown user (sysexits' EX_NOUSER).
pub const EX_NOUSER: i32 = 67;
/// Exit status of a system call that failed at the start (sysexits' EX_OSERR).
pub const EX_OSERR: i32 = 71;

/// This thread's work can wait: when it becomes ready it does not take the processor from a thread
/// that runs, as one that serves clients does.
pub fn run_behind() {
    #[cfg(target_os = "linux")]
    {
        use nix::libc::{sched_param, sched_setscheduler, SCHED_BATCH};
        let same = sched_param { sched_priority: 0 };
        // SAFETY: `same` outlives the call, which only reads it. A kernel that refuses leaves the
        // thread as it was.
        unsafe { sched_setscheduler(0, SCHED_BATCH, &same) };
    }
}

/// Processor time of this process, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// In user space.
    pub user_us: u64,
    /// In the kernel.
    pub system_us: u64,
}

/// What this process has used so far; zero where the system does not tell.
pub fn usage() -> Usage {
    use nix::sys::resource::{getrusage, UsageWho};
    use nix::sys::time::TimeValLike;
    let us = |time: nix::sys::time::TimeVal| u64::try_from(time.num_microseconds()).unwrap_or(0);
    match getrusage(UsageWho::RUSAGE_SELF) {
        Ok(usage) => Usage { user_us: us(usage.user_time()), system_us: us(usage.system_time()) },
        Err(_) => Usage::default(),
    }
}
