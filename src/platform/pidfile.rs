//! The pid file (`-P`).
//!
//! Owns writing it whole, telling of a running predecessor, and removing it at the end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::sys::signal::kill;
use nix::unistd::Pid;

/// A pid file of ours, removed when dropped.
#[derive(Debug)]
pub struct PidFile {
    path: PathBuf,
    pid: u32,
}

impl PidFile {
    /// Writes this process's pid to `path`, under another name first so that no reader finds half
    /// of it. Relative paths keep their meaning when the directory changes later.
    ///
    /// # Errors
    /// The sentence for the log: memcached warns and goes on without one.
    pub fn create(path: &Path) -> Result<PidFile, String> {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        let pid = std::process::id();
        fs::write(&temporary, format!("{pid}\n")).map_err(|error| {
            format!("Could not open the pid file {} for writing: {error}", temporary.display())
        })?;
        fs::rename(&temporary, &path).map_err(|error| {
            let _ = fs::remove_file(&temporary);
            format!("Could not rename the pid file to {}: {error}", path.display())
        })?;
        Ok(PidFile { path, pid })
    }

    /// The pid in `path`, if a process of that number is alive: a predecessor, most likely.
    pub fn running(path: &Path) -> Option<i32> {
        let pid: i32 = fs::read_to_string(path).ok()?.trim().parse().ok().filter(|pid| *pid > 0)?;
        let alive = match kill(Pid::from_raw(pid), None) {
            Ok(()) | Err(nix::errno::Errno::EPERM) => true,
            Err(_) => false,
        };
        alive.then_some(pid)
    }

    /// Removes it, unless a successor has written its own there.
    ///
    /// # Errors
    /// The directory does not let us.
    pub fn remove(self) -> io::Result<()> {
        self.unlink()
    }

    fn unlink(&self) -> io::Result<()> {
        let ours =
            fs::read_to_string(&self.path).is_ok_and(|text| text.trim() == self.pid.to_string());
        if ours {
            fs::remove_file(&self.path)?;
        }
        Ok(())
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        let _ = self.unlink();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_found_and_removed() {
        let path = std::env::temp_dir().join(format!("twincached-pid-{}", std::process::id()));
        let file = PidFile::create(&path).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        assert_eq!(PidFile::running(&path), i32::try_from(std::process::id()).ok());
        file.remove().unwrap();
        assert!(!path.exists());
        assert_eq!(PidFile::running(&path), None);
        fs::write(&path, "-1\n").unwrap();
        assert_eq!(PidFile::running(&path), None, "would have asked for every process");
        fs::remove_file(&path).unwrap();
        assert!(PidFile::create(Path::new("/nonexistent/x"))
            .unwrap_err()
            .contains("/nonexistent/x"));
    }
}
