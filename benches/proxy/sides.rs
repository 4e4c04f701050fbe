//! What is measured: two servers, and the proxies in front of them.
//!
//! Owns how each is started and what its configuration says, and the folder with the peer's. Both
//! proxies stand in front of the same two servers.
//!
//! ```text
//!            +--> ours (-t 1) --+--> server a
//!   client --+                  |
//!            +--> twemproxy   --+--> server b
//! ```

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::common::scenario::SMALL;
use crate::common::server::{self, Failed, Server};
use crate::common::side::Side;
use crate::options::Options;

/// `-m` of the servers: room for the working set several times over.
const SERVER_MB: u32 = 256;
/// Threads of each server: one serves the few connections of a proxy as well as many.
const SERVER_THREADS: u32 = 1;
/// Ports tried: somebody else may take one before the program does.
const PORTS_TRIED: u32 = 3;
/// How long a program may take until it listens.
const START_MAX: Duration = Duration::from_secs(10);

/// The servers behind the proxies.
pub struct Servers {
    /// Both, in the order in which the proxies name them.
    pub both: [Server; 2],
    /// What they are, for people.
    pub what: String,
}

impl Servers {
    /// Two of what was asked for.
    pub fn start(options: &Options) -> Result<Servers, String> {
        let arguments = "-u root -l 127.0.0.1 -p {port} -m {m} -t {t} -c 1024";
        let command = match (&*options.server, is_installed("memcached")) {
            ("", true) => format!("memcached {arguments} -U 0"),
            ("", false) => {
                eprintln!("*** memcached is not installed: the servers are our own ***");
                format!("{} {arguments}", env!("CARGO_BIN_EXE_twincached"))
            }
            (command, _) => command.to_owned(),
        };
        let start = || Server::start(&command, SERVER_MB, SERVER_THREADS);
        Ok(Servers { both: [start()?, start()?], what: command })
    }
}

/// Whether a program can be found.
pub fn is_installed(program: &str) -> bool {
    let mut command = Command::new("sh");
    command.args(["-c", "command -v \"$0\"", program]).stdout(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// A folder of our own, removed at the end.
pub struct Folder(PathBuf);

impl Folder {
    /// A new one.
    pub fn new() -> Result<Folder, String> {
        let path = std::env::temp_dir().join(format!("twincached-bench-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(Folder(path))
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Our proxy with so many workers, and the working set behind it.
pub fn ours(options: &Options, servers: &Servers, threads: u32) -> Result<Side, String> {
    let [a, b] = servers.both.each_ref().map(|server| server.port.to_string());
    let command = options.ours.replace("{a}", &a).replace("{b}", &b);
    filled(Server::start(&command, SERVER_MB, threads)?)
}

/// The peer: one pool, ketama with fnv1a_64, one connection per server, opened at once.
pub fn peer(options: &Options, servers: &Servers, folder: &Folder) -> Result<Side, String> {
    let mut last = String::new();
    for _ in 0..PORTS_TRIED {
        let (port, stats) = (server::free_port()?, server::free_port()?);
        let (file, log, pid) = (folder.file("yml"), folder.file("log"), folder.file("pid"));
        let mut text = format!(
            "bench:\n  listen: 127.0.0.1:{port}\n  hash: fnv1a_64\n  distribution: ketama\n  \
             preconnect: true\n  auto_eject_hosts: false\n  server_connections: 1\n  servers:\n"
        );
        for server in &servers.both {
            text += &format!("   - 127.0.0.1:{}:1\n", server.port);
        }
        fs::write(&file, text).map_err(|error| format!("{file}: {error}"))?;
        let command = format!(
            "{} -c {file} -o {log} -p {pid} -a 127.0.0.1 -s {stats} -m 16384 -v 0",
            options.peer
        );
        match Server::start_on(port, &command, SERVER_MB, 1, START_MAX) {
            Ok((server, _)) => return filled(server),
            Err(Failed::Ended(error)) => last = error,
            Err(Failed::Fatal(error)) => return Err(error),
        }
    }
    Err(last)
}

fn filled(server: Server) -> Result<Side, String> {
    let mut side = Side::new(server)?;
    side.fill(SMALL)?;
    Ok(side)
}
