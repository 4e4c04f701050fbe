//! What a server is told to be: every option of its command line, checked, as plain data.
//!
//! Owns the names, units, ranges and defaults. Never parses text (`cli` does) and never acts: the
//! `server` reads it once at the start.

use std::path::PathBuf;

use crate::base::network::Network;
use crate::store::MEMCACHED_CAS;

/// memcached's version whose protocol and statistics we speak.
pub const MEMCACHED_VERSION: &str = "1.6.45";

/// Default of `-p`.
pub const DEFAULT_PORT: u16 = 11211;

/// Default of `-o watcher_logbuf_size`, memcached's.
pub const DEFAULT_WATCHER_LOGBUF: usize = 256 * 1024;

/// Default of `-o worker_logbuf_size`, memcached's.
pub const DEFAULT_WORKER_LOGBUF: usize = 64 * 1024;

/// Most that `-t` takes: a worker costs a poll, a stack and its open segments of `-m`.
pub const THREADS_MAX: usize = 256;

/// Least that `-I` takes, memcached's.
pub const ITEM_MAX_MIN: u32 = 1024;

/// Most that `-I` takes, memcached's.
pub const ITEM_MAX_MAX: u32 = 1024 * 1024 * 1024;

/// Who the program says it is, in the first line of `-h`, in `-V` and to a client's `version`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Personality {
    /// `twincached 0.1.0 (memcached 1.6.45)`.
    #[default]
    Twincached,
    /// `memcached 1.6.45`: for programs that look for that word.
    Memcached,
}

impl Personality {
    /// The line of `-V`, without a line end.
    pub fn version_line(self) -> String {
        match self {
            Personality::Twincached => {
                format!("twincached {} (memcached {MEMCACHED_VERSION})", env!("CARGO_PKG_VERSION"))
            }
            Personality::Memcached => format!("memcached {MEMCACHED_VERSION}"),
        }
    }
}

/// A TCP port of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// `-p 0`: do not listen.
    Off,
    /// `-p -1`: whatever port is free; written to the file named by MEMCACHED_PORT_FILENAME.
    Any,
    /// This one.
    Number(u16),
}

/// Which protocols a client may speak (`-B`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Protocol {
    /// Whatever the first byte says.
    #[default]
    Auto,
    /// Text only.
    Ascii,
    /// The binary protocol only.
    Binary,
}

/// Replication: `-x`, `-X`, `-q`. Without `-x` and `-X` there is none, and no port is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replication {
    /// `-x`: `host`, `host:port` or `[v6]:port`, in the order given. Empty: only listen.
    pub peers: Vec<String>,
    /// `-X`: the port to listen on, and to dial where a peer names none.
    pub port: u16,
    /// `-q`: changes queued for one peer before it is caught up by a scan instead; at least 1.
    pub queue_max: usize,
    /// `-o repl_timeout`: silence after which a peer is given up, in milliseconds.
    pub timeout_ms: u64,
    /// `-o repl_ack`: peers that must have applied a change before its client is answered; 0: none.
    pub ack: u32,
    /// `-o repl_ack_timeout`: how long such an answer waits at most, in milliseconds.
    pub ack_timeout_ms: u64,
    /// `-o repl_ack_degrade`: where too few peers are there, answer at once and count it.
    pub ack_degrade: bool,
    /// `-o repl_allow`: who may connect besides the peers of `-x` and this host.
    pub allow: Vec<Network>,
    /// `-o repl_secret_file`: its first line is what both ends of a link must know.
    pub secret_file: Option<PathBuf>,
    /// `-o repl_tombstone`: for how long a delete is remembered, in seconds.
    pub tombstone_secs: u32,
}

impl Replication {
    /// Default of `-X`, repcached's.
    pub const DEFAULT_PORT: u16 = 11212;
    /// Default of `-q`, repcached's.
    pub const DEFAULT_QUEUE_MAX: usize = 8192;
    /// Silence after which a peer is given up: longer than any pause of a healthy node, shorter
    /// than an operator's patience. The node tries a new connection long before.
    pub const DEFAULT_TIMEOUT_MS: u64 = 5000;
    /// Wait for peers that a client bears: many times a network's round trip, and less than the
    /// timeouts that clients usually have.
    pub const DEFAULT_ACK_TIMEOUT_MS: u64 = 1000;
    /// Deletes are remembered for an hour: what a peer that was away for longer still has is
    /// compared instead.
    pub const DEFAULT_TOMBSTONE_SECS: u32 = 3600;
}

impl Default for Replication {
    fn default() -> Replication {
        Replication {
            peers: Vec::new(),
            port: Replication::DEFAULT_PORT,
            queue_max: Replication::DEFAULT_QUEUE_MAX,
            timeout_ms: Replication::DEFAULT_TIMEOUT_MS,
            ack: 0,
            ack_timeout_ms: Replication::DEFAULT_ACK_TIMEOUT_MS,
            ack_degrade: false,
            allow: Vec::new(),
            secret_file: None,
            tombstone_secs: Replication::DEFAULT_TOMBSTONE_SECS,
        }
    }
}

/// Every option of a server.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Called `memcached`, or `-o personality=memcached`.
    pub personality: Personality,

    /// `-l`: `host`, `host:port` or `[v6]:port`; empty = all addresses.
    pub listen: Vec<String>,
    /// `-p`. Off when `-s` is given.
    pub port: Port,
    /// `-U`. Off when `-s` is given.
    pub udp_port: Port,
    /// `-s`: a unix socket instead of TCP.
    pub unix_path: Option<PathBuf>,
    /// `-a`: the permission bits of that socket.
    pub unix_mode: u32,
    /// `-b`: connections the kernel may queue before they are accepted.
    pub backlog: u32,
    /// `-c`: clients at once.
    pub max_conns: u32,
    /// Clients over `-c` are told so and closed. `-o no_maxconns_fast` clears it: they wait.
    pub maxconns_fast: bool,
    /// `-o idle_timeout`: seconds a client may be silent; 0 = for ever.
    pub idle_timeout_secs: u32,
    /// `-t`: worker threads, 1 to [`THREADS_MAX`].
    pub threads: usize,
    /// `-R`: requests of one connection in a row before others have their turn.
    pub reqs_per_event: u32,
    /// `-B`; `-Y` makes it text, `-S` binary.
    pub protocol: Protocol,
    /// `-S`: binary clients say who they are (SASL PLAIN) before anything else.
    pub sasl: bool,
    /// `-Y`: users and their passwords, of text clients and with `-S` of binary ones.
    pub auth_file: Option<PathBuf>,

    /// `-m`, in bytes; a multiple of 1 MiB, at least that.
    pub memory_limit: u64,
    /// `-I`, in bytes; at most half of `memory_limit`.
    pub item_max: u32,
    /// `-M` clears it.
    pub evict: bool,
    /// `-C` clears it.
    pub cas: bool,
    /// `-L`. Nothing here depends on it; `stats settings` shows it.
    pub large_pages: bool,
    /// `-f`. Nothing here depends on it but the classes of `stats slabs`.
    pub growth_factor: f64,
    /// `-n`. Nothing here depends on it but the classes of `stats slabs`.
    pub chunk_size: u32,
    /// `-o slab_chunk_max`, in bytes. Nothing here depends on it but the classes of `stats slabs`.
    pub slab_chunk_max: u32,
    /// `-o no_lru_crawler` clears it: `lru_crawler` crawls and dumps, unless a client disables it.
    pub lru_crawler: bool,
    /// `-o no_lru_maintainer` clears it. Nothing here depends on it but rows of `stats`.
    pub lru_maintainer: bool,
    /// `-o temporary_ttl`, in seconds. Nothing here depends on it; `stats settings` shows it.
    pub temporary_ttl: Option<u32>,

    /// `-A`: the `shutdown` command works.
    pub shutdown_command: bool,
    /// `-F` clears it: the `flush_all` command works.
    pub flush_command: bool,
    /// `--disable-dumping` clears it: `stats cachedump` and `lru_crawler metadump` work.
    pub dump_command: bool,
    /// `-W` clears it: the `watch` command is allowed.
    pub watchers_allowed: bool,
    /// `-o watcher_logbuf_size`: bytes that may wait for one watcher.
    pub watcher_logbuf: usize,
    /// `-o worker_logbuf_size`: bytes of lines that one worker may make in one turn.
    pub worker_logbuf: usize,
    /// `-o track_sizes`: `stats sizes` counts items by size.
    pub track_sizes: bool,
    /// `-D` sets the delimiter and turns `detail` on.
    pub prefix_delimiter: u8,
    /// `stats detail` is on from the start.
    pub detail_enabled: bool,
    /// `-o debug_clock`, or called `memcached-debug`: the `debugtime` command works.
    pub debug_clock: bool,

    /// `-v` counted: 0 warnings, 1 what happens, 2 commands and replies, 3 and more everything.
    pub verbose: u8,
    /// `-o log_file`: reopened on SIGHUP.
    pub log_file: Option<PathBuf>,
    /// `-d`.
    pub daemon: bool,
    /// `-P`.
    pub pid_file: Option<PathBuf>,
    /// `-u`: name or number.
    pub user: Option<String>,
    /// `-r`.
    pub core_dumps: bool,
    /// `-k`.
    pub lock_memory: bool,

    /// `-x`, `-X`, `-q`.
    pub replication: Option<Replication>,

    /// What was accepted and has no meaning here, one sentence each: said once, at `-v`.
    pub notes: Vec<String>,
    /// What was accepted and will surprise, one sentence each: always said, once.
    pub warnings: Vec<String>,
}

impl Config {
    /// `-I` as the store compares it, which counts a CAS unique in every item: with `-C`
    /// memcached's items have none, and room for as much more.
    pub fn store_item_max(&self) -> u32 {
        let spared = if self.cas { 0 } else { MEMCACHED_CAS };
        self.item_max.saturating_add(spared)
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            personality: Personality::Twincached,
            listen: Vec::new(),
            port: Port::Number(DEFAULT_PORT),
            udp_port: Port::Off,
            unix_path: None,
            unix_mode: 0o700,
            backlog: 1024,
            max_conns: 1024,
            maxconns_fast: true,
            idle_timeout_secs: 0,
            threads: 4,
            reqs_per_event: 20,
            protocol: Protocol::Auto,
            sasl: false,
            auth_file: None,
            memory_limit: 64 * 1024 * 1024,
            item_max: 1024 * 1024,
            evict: true,
            cas: true,
            large_pages: false,
            growth_factor: 1.25,
            chunk_size: 48,
            slab_chunk_max: 512 * 1024,
            lru_crawler: true,
            lru_maintainer: true,
            temporary_ttl: None,
            shutdown_command: false,
            flush_command: true,
            dump_command: true,
            watchers_allowed: true,
            watcher_logbuf: DEFAULT_WATCHER_LOGBUF,
            worker_logbuf: DEFAULT_WORKER_LOGBUF,
            track_sizes: false,
            prefix_delimiter: b':',
            detail_enabled: false,
            debug_clock: false,
            verbose: 0,
            log_file: None,
            daemon: false,
            pid_file: None,
            user: None,
            core_dumps: false,
            lock_memory: false,
            replication: None,
            notes: Vec::new(),
            warnings: Vec::new(),
        }
    }
}
