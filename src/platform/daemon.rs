//! Becoming a daemon (`-d`).
//!
//! Owns the two forks and the standard streams. Must run before any thread is started: only the
//! forking thread lives on in the child.

use std::fs::OpenOptions;
use std::io;

use nix::unistd::{chdir, dup2_stderr, dup2_stdin, dup2_stdout, fork, setsid, ForkResult};

/// What a daemon keeps of its parent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Keep {
    /// The working directory, so that a core file lands where it was started (`-r`); otherwise `/`.
    pub directory: bool,
    /// Standard error, so that `-v` still shows something there, as memcached's `-d -v` does.
    pub stderr: bool,
}

/// Leaves the terminal and the shell: returns in a grandchild of the caller, in its own session,
/// with stdin and stdout (and stderr, unless kept) on /dev/null. The calling process exits with
/// status 0 at once, as memcached's does.
///
/// # Errors
/// A fork, `setsid` or `chdir` failed; the caller is still in the foreground if it was the first
/// fork.
pub fn daemonize(keep: Keep) -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    leave_parent()?;
    setsid()?;
    // A session leader could get a controlling terminal again by opening one; its child cannot.
    leave_parent()?;
    if !keep.directory {
        chdir("/")?;
    }
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    if !keep.stderr {
        dup2_stderr(&null)?;
    }
    Ok(())
}

fn leave_parent() -> io::Result<()> {
    // SAFETY: called before any thread is started (see the module's doc), so the child's copy of
    // memory is not in the middle of another thread's work and may be used freely.
    match unsafe { fork() }? {
        ForkResult::Child => Ok(()),
        // SAFETY: `_exit` only ends the process. It runs no exit handlers and flushes no buffers,
        // which belong to the child now, and no destructors, so files stay (sockets, pid file).
        ForkResult::Parent { .. } => unsafe { nix::libc::_exit(0) },
    }
}
