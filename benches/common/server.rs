//! The servers under test: starting them, asking them, and asking the kernel about them.
//!
//! Owns child processes, which end with their value, and the reading of /proc. Never counts the
//! time of anybody else.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take until it listens, where nothing is to be copied.
const START_MAX: Duration = Duration::from_secs(10);
/// How long a server may take to answer a line.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Free ports tried: somebody else may take one before the server does.
const PORTS_TRIED: u32 = 3;

/// A running server.
pub struct Server {
    child: Child,
    /// Where clients come in, on 127.0.0.1.
    pub port: u16,
}

/// A loopback port that is free at the moment.
pub fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind(("127.0.0.1", 0));
    let address = listener.and_then(|listener| listener.local_addr());
    Ok(address.map_err(|error| format!("no free port: {error}"))?.port())
}

impl Server {
    /// Starts `command` with its placeholders filled in and waits until it accepts connections.
    pub fn start(command: &str, megabytes: u32, threads: u32) -> Result<Server, String> {
        let mut last = String::new();
        for _ in 0..PORTS_TRIED {
            let port = free_port()?;
            match Server::start_on(port, command, megabytes, threads, START_MAX) {
                Ok((server, _)) => return Ok(server),
                Err(Failed::Ended(error)) => last = error,
                Err(Failed::Fatal(error)) => return Err(error),
            }
        }
        Err(last)
    }

    /// The same on a port of the caller's, and how long it took until a client could connect.
    pub fn start_on(
        port: u16,
        command: &str,
        megabytes: u32,
        threads: u32,
        patience: Duration,
    ) -> Result<(Server, Duration), Failed> {
        let command = command
            .replace("{port}", &port.to_string())
            .replace("{m}", &megabytes.to_string())
            .replace("{t}", &threads.to_string());
        let mut words = command.split_whitespace();
        let program = words.next().ok_or_else(|| Failed::Fatal("an empty command".to_owned()))?;
        let began = Instant::now();
        let child = Command::new(program)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| {
                Failed::Fatal(format!(
                    "{program} cannot be started ({error}). Install it, or name another one: \
                     -- --peer \"CMD with {{port}}, {{m}} and {{t}}\""
                ))
            })?;
        let mut server = Server { child, port };
        while began.elapsed() < patience {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Ok((server, began.elapsed()));
            }
            if let Ok(Some(status)) = server.child.try_wait() {
                return Err(Failed::Ended(format!("\"{command}\" ended at once: {status}")));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Err(Failed::Fatal(format!("\"{command}\" does not listen after {patience:?}")))
    }

    /// Processor time it has used so far, all threads, user and system.
    pub fn cpu(&self) -> Result<Duration, String> {
        cpu_of(&self.child.id().to_string())
    }

    /// Processor time of its threads of this name so far, in nanoseconds; 0 where the kernel keeps
    /// no schedstat.
    pub fn thread_cpu(&self, name: &str) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let paths = tasks.into_iter().flatten().flatten().map(|task| task.path());
        let of_name = paths.filter(|path| {
            fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        });
        let used = of_name.filter_map(|path| {
            let text = fs::read_to_string(path.join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        });
        used.sum()
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> Result<u64, String> {
        let path = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok());
        kilobytes.map(|n: u64| n * 1024).ok_or_else(|| format!("no VmRSS in {path}"))
    }

    /// One figure of `stats`; 0 when the server does not have it.
    pub fn stat(&self, name: &str) -> Result<u64, String> {
        let context = |error: std::io::Error| format!("stats: {error}");
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).map_err(context)?;
        stream.set_read_timeout(Some(ANSWER_MAX)).map_err(context)?;
        stream.write_all(b"stats\r\n").map_err(context)?;
        let mut value = 0;
        for line in BufReader::new(stream).lines() {
            let line = line.map_err(context)?;
            if line == "END" {
                return Ok(value);
            }
            let mut words = line.split(' ').skip(1);
            if words.next() == Some(name) {
                value = words.next().and_then(|text| text.parse().ok()).unwrap_or(0);
            }
        }
        Err("stats ended without END".to_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be gone already; there is nothing to be done about either failing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Why a server did not start.
pub enum Failed {
    /// It ended: perhaps somebody took its port.
    Ended(String),
    /// Trying again is of no use.
    Fatal(String),
}

impl From<Failed> for String {
    fn from(failed: Failed) -> String {
        match failed {
            Failed::Ended(error) | Failed::Fatal(error) => error,
        }
    }
}

/// Processor time of this process.
pub fn own_cpu() -> Result<Duration, String> {
    cpu_of("self")
}

/// The sum over all threads: exact where the kernel keeps schedstat, else in clock ticks.
fn cpu_of(pid: &str) -> Result<Duration, String> {
    exact_cpu(pid).map_or_else(|| ticks(pid), Ok)
}

/// Nanoseconds on a processor, summed over /proc/PID/task/*/schedstat. None where there are none.
fn exact_cpu(pid: &str) -> Option<Duration> {
    let mut nanoseconds = 0u64;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        // A thread may end while we look.
        let Ok(text) = fs::read_to_string(task.ok()?.path().join("schedstat")) else { continue };
        nanoseconds += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    (nanoseconds > 0).then(|| Duration::from_nanos(nanoseconds))
}

/// utime and stime of /proc/PID/stat, in hundredths of a second as on every Linux.
fn ticks(pid: &str) -> Result<Duration, String> {
    let path = format!("/proc/{pid}/stat");
    let stat = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    // The name in parentheses may hold blanks; what follows it does not.
    let fields: Vec<&str> =
        stat.rsplit(") ").next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok());
    match (ticks(11), ticks(12)) {
        (Some(user), Some(system)) => Ok(Duration::from_millis((user + system) * 10)),
        _ => Err(format!("{path} is not understood")),
    }
}
