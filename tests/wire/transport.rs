//! The servers that transcripts are played against.
//!
//! Owns starting and stopping them. A process is stopped by its id when its value is dropped, and
//! is waited for.

use crate::script::{Link, Transport};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a server may take to listen, or to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Ports tried before giving up: a free port may be taken by somebody else before the server binds.
const PORTS_TRIED: usize = 5;

/// Where a server listens.
#[derive(Clone, Debug)]
enum Address {
    Tcp(u16),
    Unix(PathBuf),
}

/// A server in a process of its own.
pub struct Process {
    child: Child,
    address: Address,
}

impl Process {
    /// Starts `program` on a free loopback port.
    pub fn tcp(program: &str, args: &[String]) -> Process {
        for _ in 0..PORTS_TRIED {
            let free = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
            let port = free.local_addr().expect("its number").port();
            drop(free);
            let listen =
                ["-l", "127.0.0.1", "-U", "0", "-p", &port.to_string()].map(str::to_owned).to_vec();
            if let Some(server) = Process::start(program, listen, args, Address::Tcp(port)) {
                return server;
            }
        }
        panic!("{program} found no port in {PORTS_TRIED} tries");
    }

    /// Starts `program` on a unix socket in the system's folder for temporary files.
    pub fn unix(program: &str, args: &[String]) -> Process {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("twincached-wire-{}-{count}.sock", std::process::id());
        let path = std::env::temp_dir().join(name);
        let listen = vec!["-s".to_owned(), path.to_string_lossy().into_owned()];
        Process::start(program, listen, args, Address::Unix(path))
            .unwrap_or_else(|| panic!("{program} did not start"))
    }

    /// Starts it and waits until it listens. None when it ends instead.
    fn start(
        program: &str,
        listen: Vec<String>,
        args: &[String],
        address: Address,
    ) -> Option<Process> {
        let child = Command::new(program)
            .args(["-u", "root"])
            .args(listen)
            .args(args)
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program} cannot be started: {error}"));
        let mut process = Process { child, address };
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if process.connect().is_some() {
                return Some(process);
            }
            if process.child.try_wait().expect("a child can be asked").is_some() {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        panic!("{program} does not listen at {:?}", process.address);
    }

    fn connect(&self) -> Option<Box<dyn Link>> {
        match &self.address {
            Address::Tcp(port) => {
                let stream = TcpStream::connect(("127.0.0.1", *port)).ok()?;
                stream.set_nodelay(true).expect("nodelay");
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                Some(Box::new(Socket(stream)))
            }
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).ok()?;
                stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                Some(Box::new(Socket(stream)))
            }
        }
    }
}

impl Transport for Process {
    fn open(&mut self) -> Box<dyn Link> {
        self.connect().expect("the server accepts connections")
    }

    fn advance(&mut self, _by: Duration) -> bool {
        false
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone is fine: `shutdown` may have been in the transcript.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Address::Unix(path) = &self.address {
            let _ = std::fs::remove_file(path);
        }
    }
}

struct Socket<S>(S);

impl<S: Read + Write> Link for Socket<S> {
    fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_all(bytes)
    }

    fn receive(&mut self, into: &mut Vec<u8>) -> Result<bool, String> {
        let mut chunk = [0; 64 * 1024];
        match self.0.read(&mut chunk) {
            Ok(0) => Ok(false),
            Ok(n) => {
                into.extend_from_slice(&chunk[..n]);
                Ok(true)
            }
            // A stopped and resumed test: nothing was read.
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            // The server closed with bytes of ours unread.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(false),
            Err(error) => Err(format!("nothing came: {error}")),
        }
    }
}
