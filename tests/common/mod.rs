//! What tests with real processes share: nodes that are killed with the test, and a plain client.
//!
//! Everything listens on loopback, on ports the system chose. Waiting is always for an event,
//! with a deadline that only a failure reaches.

#![allow(dead_code)] // each test binary uses its part

use std::fmt::Debug;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an awaited event may take before the test fails. Generous: machines are shared.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A loopback port that is free now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("address").port()
}

/// A folder of our own that any user may write to, removed at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new folder whose name has `name` in it.
    pub fn new(name: &str) -> Scratch {
        let dir = std::env::temp_dir().join(format!("twincached-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("scratch folder");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("mode");
        Scratch(dir)
    }

    /// The path of a file in it.
    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Waits until `condition` gives a value.
pub fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < DEADLINE, "waited {DEADLINE:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A running twincached (or another program); killed when dropped.
pub struct Node {
    pub child: Child,
    pub port: u16,
    log: Arc<Mutex<String>>,
    /// Collects the log until the program's standard error ends.
    collector: JoinHandle<()>,
}

impl Node {
    /// Starts our program with `args`; `port` is where a client is to connect.
    pub fn start(port: u16, args: &[&str]) -> Node {
        Node::spawn(Command::new(env!("CARGO_BIN_EXE_twincached")).args(args), port)
    }

    /// Starts `command`, collecting its standard error.
    pub fn spawn(command: &mut Command, port: u16) -> Node {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stderr = child.stderr.take().expect("piped");
        let log = Arc::new(Mutex::new(String::new()));
        let sink = Arc::clone(&log);
        let collector = std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = sink.lock().expect("log");
                log.push_str(&line);
                log.push('\n');
            }
        });
        Node { child, port, log, collector }
    }

    /// A plain server with `-m 1` and whatever `more` says, ready to answer.
    pub fn plain(port: u16, more: &[&str]) -> Node {
        let port_text = port.to_string();
        let mut args = vec!["-u", "root", "-l", "127.0.0.1", "-p", &port_text, "-m", "1"];
        args.extend_from_slice(more);
        let node = Node::start(port, &args);
        node.await_port();
        node
    }

    /// What it has written to standard error so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("log").clone()
    }

    /// All that it has written, once it has ended.
    pub fn whole_log(&self) -> String {
        eventually("the end of the log", || self.collector.is_finished().then_some(()));
        self.log()
    }

    /// The lines of its log that start with `prefix`.
    pub fn log_lines(&self, prefix: &str) -> Vec<String> {
        self.log().lines().filter(|line| line.starts_with(prefix)).map(str::to_owned).collect()
    }

    /// Waits until its log has the line `line` at least `times` times.
    pub fn await_log(&self, line: &str, times: usize) {
        let wanted = format!("{times} x {line:?} in the log of {}", self.port);
        let start = Instant::now();
        while self.log().lines().filter(|have| *have == line).count() < times {
            assert!(start.elapsed() < DEADLINE, "no {wanted}; it has:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until its client port accepts.
    pub fn await_port(&self) {
        eventually(&format!("port {} opens; log:\n{}", self.port, self.log()), || {
            TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
    }

    /// Whether its client port accepts.
    pub fn port_open(&self) -> bool {
        TcpStream::connect(("127.0.0.1", self.port)).is_ok()
    }

    pub fn client(&self) -> Client {
        Client::connect(self.port)
    }

    /// kill -9, and wait until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("reaped");
    }

    /// Sends a signal by name. A process that is told to stop has stopped: one thread takes the
    /// signal, and the others may go on until it has had the processor.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([format!("-{name}"), self.child.id().to_string()])
            .status()
            .expect("kill runs");
        assert!(status.success(), "kill -{name}");
        if name == "STOP" {
            eventually("all threads have stopped", || self.has_stopped().then_some(()));
        }
    }

    fn has_stopped(&self) -> bool {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("threads");
        tasks.map_while(Result::ok).all(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_none_or(|rest| rest.starts_with(['T', 'Z', 'X']))
        })
    }

    /// Waits for its end and gives its exit status.
    pub fn exit_code(&mut self) -> Option<i32> {
        eventually("the process ends", || self.child.try_wait().expect("waited")).code()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that speaks lines.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn connect(port: u16) -> Client {
        Client::at(("127.0.0.1", port))
    }

    pub fn at(address: impl ToSocketAddrs + Copy + Debug) -> Client {
        let stream =
            eventually(&format!("connect to {address:?}"), || TcpStream::connect(address).ok());
        stream.set_read_timeout(Some(DEADLINE)).expect("timeout");
        stream.set_nodelay(true).expect("nodelay");
        Client { stream: BufReader::new(stream) }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).expect("sent");
    }

    /// Sends, and says whether that went well.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.get_mut().write_all(bytes.as_ref()).is_ok()
    }

    /// One line with its end, or what came of it before the connection was lost.
    pub fn read_line(&mut self, line: &mut String) {
        let _ = self.stream.read_line(line);
    }

    /// One line without its end.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).expect("a line");
        assert!(line.ends_with(b"\n"), "closed after {:?}", String::from_utf8_lossy(&line));
        String::from_utf8_lossy(&line).trim_end().to_owned()
    }

    /// Sends nothing more; answers can still come.
    pub fn hang_up(&mut self) {
        self.stream.get_ref().shutdown(Shutdown::Write).expect("shut down");
    }

    /// A batch that is long enough for its end to reach the server well before it has read it all,
    /// then the end. Returns what the server says until it closes.
    pub fn long_batch(&mut self) -> String {
        let set = format!("set key 0 0 1000 noreply\r\n{}\r\n", "x".repeat(1000));
        self.send(set.repeat(5000) + "get nothing\r\n");
        self.hang_up();
        String::from_utf8(self.rest()).expect("text")
    }

    /// Everything until the server closes.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest).expect("closed by the server");
        rest
    }

    /// So many bytes.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).expect("bytes");
        bytes
    }

    /// Sends a line and reads one.
    pub fn ask(&mut self, line: &str) -> String {
        self.send(format!("{line}\r\n"));
        self.line()
    }

    pub fn set(&mut self, key: &str, value: &str) -> String {
        self.ask(&format!("set {key} 0 0 {}\r\n{value}", value.len()))
    }

    /// The value of a key: flags, cas and bytes.
    pub fn gets(&mut self, key: &str) -> Option<(u32, u64, Vec<u8>)> {
        let head = self.ask(&format!("gets {key}"));
        if head == "END" {
            return None;
        }
        let words: Vec<&str> = head.split(' ').collect();
        assert!(words.len() == 5 && words[0] == "VALUE", "answered {head:?}");
        let mut value = vec![0; words[3].parse::<usize>().expect("length") + 2];
        self.stream.read_exact(&mut value).expect("the value");
        value.truncate(value.len() - 2);
        assert_eq!(self.line(), "END");
        Some((words[2].parse().expect("flags"), words[4].parse().expect("cas"), value))
    }

    pub fn get(&mut self, key: &str) -> Option<String> {
        let head = self.ask(&format!("get {key}"));
        if head == "END" {
            return None;
        }
        assert!(head.starts_with("VALUE "), "answered {head:?}");
        let len: usize = head.rsplit(' ').next().and_then(|n| n.parse().ok()).expect("length");
        let mut value = vec![0; len + 2];
        self.stream.read_exact(&mut value).expect("the value");
        value.truncate(len);
        assert_eq!(self.line(), "END");
        Some(String::from_utf8_lossy(&value).into_owned())
    }

    /// The lines of a `stats` answer as pairs.
    pub fn stats(&mut self, args: &str) -> Vec<(String, String)> {
        self.send(format!("stats {args}\r\n"));
        let mut out = Vec::new();
        loop {
            let line = self.line();
            if line == "END" {
                return out;
            }
            let mut words = line.splitn(3, ' ');
            assert_eq!(words.next(), Some("STAT"), "answered {line:?}");
            let name = words.next().expect("a name").to_owned();
            out.push((name, words.next().unwrap_or_default().to_owned()));
        }
    }

    pub fn stat(&mut self, name: &str) -> Option<String> {
        self.stats("").into_iter().find(|(have, _)| have == name).map(|(_, value)| value)
    }

    /// Waits until a key reads as `value`.
    pub fn await_value(&mut self, key: &str, value: Option<&str>) {
        eventually(&format!("{key} reads {value:?}"), || {
            (self.get(key).as_deref() == value).then_some(())
        });
    }
}

/// The path of an installed peer program, or a loud note (a failure where `.ci/run` asks for it).
pub fn peer_program(name: &str) -> Option<&'static str> {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {name}")])
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if found {
        return Some(Box::leak(name.to_owned().into_boxed_str()));
    }
    skipped(name);
    None
}

/// Says that something is missing: loudly, and where `.ci/run` asks for it as a failure.
pub fn skipped(name: &str) {
    assert!(
        std::env::var_os("TWINCACHED_REQUIRE_PEERS").is_none(),
        "{name} is not installed, and TWINCACHED_REQUIRE_PEERS asks for it"
    );
    eprintln!("\n*** SKIPPED: {name} is not installed, so nothing was compared with it ***\n");
}

/// A node of a pair on one host, as the seed transcript starts it (in the foreground).
pub fn node_of_pair(port: u16, repl: u16, more: &[&str]) -> Node {
    let (port_text, repl_text) = (port.to_string(), repl.to_string());
    let mut args = vec!["-v", "-u", "root", "-l", "127.0.0.1", "-p", &port_text];
    args.extend_from_slice(&["-x", "127.0.0.1", "-X", &repl_text]);
    args.extend_from_slice(more);
    Node::start(port, &args)
}

/// A linked pair, both serving, and the port of their link.
pub fn pair(more: &[&str]) -> (Node, Node, u16) {
    let repl = free_port();
    let first = node_of_pair(free_port(), repl, more);
    first.await_port();
    let second = node_of_pair(free_port(), repl, more);
    second.await_log("replication: start", 1);
    second.await_port();
    (first, second, repl)
}
