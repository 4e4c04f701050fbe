//! Limits of the process: open files (`-c`), core files (`-r`), locked memory (`-k`).
//!
//! Owns the system calls; the texts are memcached's.

use std::io;

use nix::sys::mman::{mlockall, munlockall, MlockAllFlags};
use nix::sys::resource::{getrlimit, setrlimit, Resource, RLIM_INFINITY};

/// What does not come from clients: listeners, polls, wakers, logs, peers, some reserve.
const FILES_BESIDE_CLIENTS: u64 = 64;

/// memcached's sentence for a limit that cannot be raised.
pub const FILES_REFUSED: &str = "failed to set rlimit for open files. Try starting as root or \
                                 requesting smaller maxconns value.";

/// Makes room for `conns` clients, `per_conn` descriptors each, beside our own files. Lowers
/// nothing.
///
/// # Errors
/// The hard limit is lower and we may not raise it ([`FILES_REFUSED`] is what to tell).
pub fn raise_open_files(conns: u32, per_conn: u32) -> io::Result<()> {
    let wanted = u64::from(conns) * u64::from(per_conn.max(1)) + FILES_BESIDE_CLIENTS;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= wanted {
        return Ok(());
    }
    match setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted)) {
        Ok(()) => Ok(()),
        // With the default `-c` a small hard limit must not keep a server from starting, when the
        // clients themselves still fit: our own share is generous.
        Err(_) if hard > u64::from(conns) => Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?),
        Err(error) => Err(error.into()),
    }
}

/// Lets a crash leave as large a core file as is allowed.
///
/// # Errors
/// The limit is 0 and cannot be raised: "failed to ensure corefile creation" in memcached's words.
pub fn raise_core() -> io::Result<()> {
    if setrlimit(Resource::RLIMIT_CORE, RLIM_INFINITY, RLIM_INFINITY).is_ok() {
        return Ok(());
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_CORE)?;
    setrlimit(Resource::RLIMIT_CORE, hard, hard)?;
    if hard == 0 {
        return Err(io::Error::from(io::ErrorKind::PermissionDenied));
    }
    Ok(())
}

/// Lets a process that has given up root leave a core file all the same (`-r` with `-u`): the
/// kernel forbids it to any that has changed its user, whose memory may hold what only root may
/// read. Ours holds what its clients put there.
pub fn allow_core_of_other_user() {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = nix::sys::prctl::set_dumpable(true);
}

/// Lets the process lock memory after it has dropped root. Harmless where it is not allowed: the
/// lock itself will then tell.
pub fn raise_locked_memory() {
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
}

/// Locks all memory, present and future, into RAM. After daemonizing: a fork does not inherit it.
///
/// # Errors
/// Not allowed, or more than the limit. memcached warns and goes on.
pub fn lock_memory() -> io::Result<()> {
    Ok(mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE)?)
}

/// Whether less than `bytes` may be locked, by the limit that does not count for a privileged
/// process. Over it, an allocation of locked memory fails.
pub fn locks_less_than(bytes: u64) -> bool {
    getrlimit(Resource::RLIMIT_MEMLOCK).is_ok_and(|(soft, _)| soft < bytes)
}

/// Takes [`lock_memory`] back.
pub fn unlock_memory() {
    let _ = munlockall();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn enough_is_left_alone_and_too_much_is_refused() {
        let before = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        raise_open_files(1, 1).unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), before);
        // No kernel takes more than fs.nr_open, a billion descriptors at most.
        assert!(raise_open_files(u32::MAX, 2).is_err());
    }
}
