//! Child processes that do not outlive us.
//!
//! Owns one system call between fork and exec. Linux only, as is the rest of the program's daemon
//! side.

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

/// Makes the kernel kill the child of `command` when the thread that starts it ends, however it
/// ends.
pub fn tie_to_parent(command: &mut Command) {
    let tie = || set_pdeathsig(Signal::SIGKILL).map_err(std::io::Error::from);
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; `tie` makes the one
    // system call prctl and allocates nothing.
    unsafe {
        command.pre_exec(tie);
    }
}
