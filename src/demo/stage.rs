//! The stage of the demonstration: real child processes, plain clients, and what the reader sees.
//!
//! Owns the children (killed when dropped) and the printing. Never decides what is played.

use std::fmt::Display;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{mpsc, Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::platform::child::tie_to_parent;

/// How long an awaited event may take before the demonstration gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often an awaited event is looked for.
const GLANCE: Duration = Duration::from_millis(1);

/// Why the play stopped: an answer that is not what it must be, or the machine refused.
pub type Outcome<T> = Result<T, String>;

/// Tells what went wrong while doing `what`.
pub fn during<T>(what: impl Display, result: io::Result<T>) -> Outcome<T> {
    result.map_err(|error| format!("{what}: {error}"))
}

/// A loopback port that is free now.
pub fn free_port() -> Outcome<u16> {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map(|a| a.port());
    during("no free port", port)
}

/// Prints a heading.
pub fn heading(text: &str) {
    say!("\n{text}\n{}", "-".repeat(text.chars().count()));
}

/// Prints a sentence of the narrator.
pub fn tell(text: impl Display) {
    say!("\n  {text}");
}

/// Milliseconds with one decimal.
pub fn ms(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

/// A child process of our own program.
pub struct Node {
    name: String,
    args: Vec<String>,
    child: Child,
    /// Where clients connect.
    pub port: u16,
    log: Arc<Mutex<Vec<String>>>,
}

impl Node {
    /// Starts our own program with `args`, showing what is typed.
    pub fn start(name: &str, port: u16, args: &[String]) -> Outcome<Node> {
        say!("\n  $ twincached {}        # {name}", args.join(" "));
        let program = during("cannot find this program", std::env::current_exe())?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        tie_to_parent(&mut command);
        let mut child = during("cannot start a node", command.spawn())?;
        let log = Arc::new(Mutex::new(Vec::new()));
        if let Some(stderr) = child.stderr.take() {
            let log = Arc::clone(&log);
            let read = move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                }
            };
            during("no thread", thread::Builder::new().spawn(read))?;
        }
        Ok(Node { name: name.into(), args: args.to_vec(), child, port, log })
    }

    /// Starts it again as it was.
    pub fn restart(&self) -> Outcome<Node> {
        Node::start(&self.name, self.port, &self.args)
    }

    /// Its name in the story.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it has logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Shows its log lines from the `seen`-th on, and how many there are now.
    pub fn show_log(&self, seen: usize) -> usize {
        let log = self.log();
        for line in &log[seen.min(log.len())..] {
            say!("      {} logs   {line}", self.name);
        }
        log.len()
    }

    /// Waits until `line` is in the log behind the first `seen` lines.
    pub fn await_log(&mut self, line: &str, seen: usize) -> Outcome<Duration> {
        let what = format!("{} logs {line:?}", self.name);
        await_event(&what, || self.log().iter().skip(seen).any(|have| have == line))
    }

    /// Waits until it answers clients.
    pub fn await_port(&mut self) -> Outcome<Duration> {
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("{} ended with {status}: {:?}", self.name, self.log()));
            }
            if start.elapsed() > PATIENCE {
                return Err(format!("{} does not open port {}", self.name, self.port));
            }
            thread::sleep(GLANCE);
        }
        Ok(start.elapsed())
    }

    /// kill -9.
    pub fn kill(&mut self) -> Outcome<()> {
        say!("\n  $ kill -9 {}        # {}", self.child.id(), self.name);
        during("cannot kill", self.child.kill())?;
        during("cannot reap", self.child.wait()).map(drop)
    }

    /// A client of it.
    pub fn client(&self) -> Outcome<Client> {
        Client::connect(&self.name, self.port)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A child that is gone already refuses both, which is what we want of it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for something that is looked at, and says how long it took.
pub fn await_event(what: &str, mut happened: impl FnMut() -> bool) -> Outcome<Duration> {
    let start = Instant::now();
    while !happened() {
        if start.elapsed() > PATIENCE {
            return Err(format!("waited {PATIENCE:?} in vain: {what}"));
        }
        thread::sleep(GLANCE);
    }
    Ok(start.elapsed())
}

/// A plain client that shows what it types and what answers.
pub struct Client {
    name: String,
    stream: BufReader<TcpStream>,
}

impl Client {
    fn connect(name: &str, port: u16) -> Outcome<Client> {
        let stream = during(format!("connect to {name}"), TcpStream::connect(("127.0.0.1", port)))?;
        during("timeout", stream.set_read_timeout(Some(PATIENCE)))?;
        during("no delay", stream.set_nodelay(true))?;
        Ok(Client { name: name.into(), stream: BufReader::new(stream) })
    }

    /// Sends `lines` (parted by `\n`) and reads up to a line that ends a reply, without showing it.
    pub fn ask_quietly(&mut self, lines: &str) -> Outcome<String> {
        let name = self.name.clone();
        let sent =
            self.stream.get_mut().write_all((lines.replace('\n', "\r\n") + "\r\n").as_bytes());
        during(format!("send to {name}"), sent)?;
        let mut reply: Vec<String> = Vec::new();
        loop {
            let mut line = String::new();
            let read = self.stream.read_line(&mut line);
            if during(format!("{name} answers {lines:?}"), read)? == 0 {
                return Err(format!("{name} closed the connection after {lines:?}"));
            }
            let line = line.trim_end().to_owned();
            let data =
                line.strip_prefix("VALUE ").and_then(|rest| rest.split(' ').nth(2)?.parse().ok());
            let more = data.is_some() || line.starts_with("STAT ") || line.starts_with("matrix ");
            let more = more || line.starts_with("memcached agent");
            reply.push(line);
            if let Some(len) = data {
                let mut value = vec![0; len];
                during("a value", self.stream.read_exact(&mut value))?;
                let mut end = [0; 2];
                during("its end", self.stream.read_exact(&mut end))?;
                reply.push(String::from_utf8_lossy(&value).into_owned());
            }
            if !more {
                return Ok(reply.join(" / "));
            }
        }
    }

    /// Shows a request, its answer, and how long it took; the answer must be `expected`.
    pub fn ask(&mut self, lines: &str, expected: &str) -> Outcome<()> {
        let start = Instant::now();
        let reply = self.ask_quietly(lines)?;
        let typed = lines.replace('\n', " / ");
        say!("      {:<6} > {typed:<38} < {reply}   ({})", self.name, ms(start.elapsed()));
        if reply == expected {
            Ok(())
        } else {
            Err(format!("{} answered {reply:?} to {typed:?}, expected {expected:?}", self.name))
        }
    }

    /// Asks until the answer is `expected`, shows it, and says how long that took.
    pub fn ask_until(&mut self, lines: &str, expected: &str) -> Outcome<Duration> {
        let start = Instant::now();
        let mut reply = self.ask_quietly(lines)?;
        while reply != expected {
            if start.elapsed() > PATIENCE {
                let name = &self.name;
                return Err(format!(
                    "{name} still answers {reply:?} to {lines:?}, not {expected:?}"
                ));
            }
            thread::sleep(GLANCE / 10);
            reply = self.ask_quietly(lines)?;
        }
        let (took, typed) = (start.elapsed(), lines.replace('\n', " / "));
        say!("      {:<6} > {typed:<38} < {reply}   (there after {})", self.name, ms(took));
        Ok(took)
    }

    /// One statistic.
    pub fn stat(&mut self, name: &str) -> Outcome<String> {
        let stats = self.ask_quietly("stats")?;
        let prefix = format!("STAT {name} ");
        let found = stats.split(" / ").find_map(|line| line.strip_prefix(&prefix));
        found.map(str::to_owned).ok_or_else(|| format!("{} has no statistic {name}", self.name))
    }
}

/// Waits until the reader has had enough: Ctrl-C, SIGTERM or a closed terminal.
pub fn await_interrupt() -> Outcome<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP]);
    let mut signals = during("cannot wait for signals", signals)?;
    let _ = signals.forever().next();
    Ok(())
}

/// Ends the play, children first, when a signal asks for it: `play` runs on a thread of its own and
/// its children die with this process.
pub fn interruptible(play: impl FnOnce() -> Outcome<()> + Send + 'static) -> Outcome<()> {
    let (done, wait) = mpsc::channel();
    let signalled = done.clone();
    during(
        "no thread",
        thread::Builder::new().spawn(move || {
            if await_interrupt().is_ok() {
                let _ = signalled.send(Err("interrupted".into()));
            }
        }),
    )?;
    during("no thread", thread::Builder::new().spawn(move || done.send(play())))?;
    wait.recv().unwrap_or_else(|_| Err("the play ended without a word".into()))
}
