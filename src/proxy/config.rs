//! What the proxy is told to do: plain data, made by `cli`, read by [`super::run()`].
//!
//! Owns the defaults and their reasons. Never parses a command line, never resolves a name.

use std::path::PathBuf;

/// magent's and memcached's default port, for `-p`, `-s` and `-b`.
pub const DEFAULT_PORT: u16 = 11211;
/// magent's default of `-n`.
pub const DEFAULT_MAX_CONNS: usize = 4096;
/// magent's default of `-i`.
pub const DEFAULT_IDLE_CONNS: usize = 20;
/// One worker, as in magent: every write of a key then passes one place, so that server and backup
/// see the writes of all clients in the same order. One worker moves about as much as two memcached
/// workers serve; more are for those whose clients do not write the same key at the same moment.
pub const DEFAULT_THREADS: usize = 1;
/// A connect on a local network takes under a millisecond; one lost SYN costs a second, and then it
/// is better to read from the backup now and to try the server again in the background.
pub const DEFAULT_CONNECT_TIMEOUT_MS: u64 = 300;
/// memcached answers in well under a millisecond; a second without an answer is a dead server, and
/// still inside the timeouts that clients use (libmemcached 5 s, spymemcached 2.5 s).
pub const DEFAULT_REQUEST_TIMEOUT_MS: u64 = 1000;
/// Largest value that passes, in bytes. Servers usually refuse more than 1 MiB (`-I`) themselves:
/// this bounds what one client can make the proxy hold.
pub const DEFAULT_VALUE_MAX: usize = 16 << 20;

/// One `-s` or `-b`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerAddr {
    /// As it was written, an address or a name: it is part of the `-k` labels.
    pub host: String,
    /// [`DEFAULT_PORT`] when it was not written.
    pub port: u16,
}

impl std::fmt::Display for ServerAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// How keys are spread over servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Distribution {
    /// magent's default: DJB hash modulo the number of servers.
    #[default]
    Magent,
    /// magent's `-k`, without the error of 0.6: 2000 points a server, md5.
    MagentKetama,
}

/// Everything the proxy is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `-l`: addresses or names to listen on. Empty: every IPv4 address (magent's default).
    pub listen: Vec<String>,
    /// `-p`. 0: no TCP (then `unix` is set).
    pub port: u16,
    /// `-f`: path of a unix socket to listen on.
    pub unix: Option<PathBuf>,
    /// `-s`, in the order given, at least one. The order decides which server has a key.
    pub servers: Vec<ServerAddr>,
    /// `-b`, in the order given.
    pub backups: Vec<ServerAddr>,
    /// `-n`: clients at a time, at least 1.
    pub max_conns: usize,
    /// `-i`: idle connections kept per server. Requests share few pipelined connections here, so
    /// this only bounds their number.
    pub idle_conns: usize,
    /// `-k` or the default.
    pub distribution: Distribution,
    /// `-D` or `-v`: do not become a daemon.
    pub foreground: bool,
    /// `-u`: user to become, a name or a number.
    pub user: Option<String>,
    /// `-g`: group to become, a name or a number.
    pub group: Option<String>,
    /// `-P`: the pid is written there.
    pub pid_file: Option<PathBuf>,
    /// `-o log_file`: where the log goes; reopened on SIGHUP.
    pub log_file: Option<PathBuf>,
    /// How many `-v` there are.
    pub verbose: u8,
    /// `-t`: workers, at least 1.
    pub threads: usize,
    /// Milliseconds a connect may take before the server counts as down.
    pub connect_timeout_ms: u64,
    /// Milliseconds a server may take to answer before it counts as down.
    pub request_timeout_ms: u64,
    /// Largest value that passes, in bytes.
    pub value_max: usize,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            listen: Vec::new(),
            port: DEFAULT_PORT,
            unix: None,
            servers: Vec::new(),
            backups: Vec::new(),
            max_conns: DEFAULT_MAX_CONNS,
            idle_conns: DEFAULT_IDLE_CONNS,
            distribution: Distribution::default(),
            foreground: false,
            user: None,
            group: None,
            pid_file: None,
            log_file: None,
            verbose: 0,
            threads: DEFAULT_THREADS,
            connect_timeout_ms: DEFAULT_CONNECT_TIMEOUT_MS,
            request_timeout_ms: DEFAULT_REQUEST_TIMEOUT_MS,
            value_max: DEFAULT_VALUE_MAX,
        }
    }
}
