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
/// One worker, as magent is one process. It moves about as much as two memcached workers serve;
/// with more of them writes of keys that have a backup take turns ([`super::turns`]).
pub const DEFAULT_THREADS: usize = 1;
/// A connect on a local network takes under a millisecond; one lost SYN costs a second, and then it
/// is better to read from the backup now and to try the server again in the background.
pub const DEFAULT_CONNECT_TIMEOUT_MS: u64 = 300;
/// memcached answers in well under a millisecond; a second without an answer is a dead server, and
/// still inside the timeouts that clients use (libmemcached 5 s, spymemcached 2.5 s).
pub const DEFAULT_REQUEST_TIMEOUT_MS: u64 = 1000;
/// Largest value that passes, in bytes: memcached's limit of `-I`. Servers say themselves what is
/// too large for them; what is long is not held here.
pub const DEFAULT_VALUE_MAX: usize = 1 << 30;

/// How long connections to a server may be idle before they are closed, in seconds: longer than
/// any probe or refill pauses, shorter than the half hour after which firewalls forget them.
pub const DEFAULT_SERVER_IDLE_SECS: u64 = 600;
/// Failures in a row after which a server is ejected. A second try costs the client another
/// timeout.
pub const DEFAULT_FAILURE_LIMIT: u32 = 1;
/// Longest wait between two probes of an ejected server, in milliseconds: how long a server that is
/// back may stay unused.
pub const DEFAULT_RETRY_MS: u64 = 500;
/// Requests that may wait on one server and worker. Reached only when a server has stopped
/// answering under full load; what comes then is refused at once instead of after a timeout.
pub const DEFAULT_IN_FLIGHT: usize = 65_536;
/// How often names of servers are resolved again, in seconds: the usual lifetime of a record that
/// is meant to change.
pub const DEFAULT_RESOLVE_SECS: u64 = 30;
/// How long a server counts as cold whose backup cannot list its keys (older than memcached
/// 1.4.31), in seconds: most sessions are read again within the hour.
pub const DEFAULT_COLD_SECS: u64 = 3600;

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// An address or a name as it was written (it is part of ring labels), and a port.
    Tcp {
        /// Without brackets.
        host: String,
        /// [`DEFAULT_PORT`] when it was not written.
        port: u16,
    },
    /// The path of a unix socket.
    Unix(PathBuf),
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Endpoint::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Endpoint::Tcp { host, port } => write!(f, "{host}:{port}"),
            Endpoint::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// One server, see [`super::places`]. Shown as `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerAddr {
    /// What twemproxy's labels and sorting use in place of the address.
    pub name: Option<String>,
    /// Where it listens.
    pub endpoint: Endpoint,
    /// Its share of the keys, at least 1, where the distribution has weights.
    pub weight: u32,
}

impl ServerAddr {
    /// A TCP server without a name, of weight 1.
    pub fn tcp(host: impl Into<String>, port: u16) -> ServerAddr {
        ServerAddr { name: None, endpoint: Endpoint::Tcp { host: host.into(), port }, weight: 1 }
    }

    /// What libmemcached puts before the number of a point: the host alone where the port is the
    /// default one; a unix socket has port 0.
    pub fn libmemcached_host(&self) -> String {
        match &self.endpoint {
            Endpoint::Tcp { host, port: DEFAULT_PORT } => host.clone(),
            Endpoint::Tcp { host, port } => format!("{host}:{port}"),
            Endpoint::Unix(path) => format!("{}:0", path.display()),
        }
    }

    /// What twemproxy knows the server by: its name, or else what comes before its weight, with the
    /// default port taken off; of a unix socket, the path and the colon behind it.
    pub fn twemproxy_name(&self) -> String {
        match (&self.name, &self.endpoint) {
            (Some(name), _) => name.clone(),
            (None, Endpoint::Unix(path)) => format!("{}:", path.display()),
            (None, Endpoint::Tcp { .. }) => self.libmemcached_host(),
        }
    }
}

impl std::fmt::Display for ServerAddr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.endpoint.fmt(f)
    }
}

/// One `-s` or `-b`: one place among which keys are spread. Several members (`-s a,b`) are a group
/// of twincached nodes that replicate to each other and hold the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// At least one. The first one's name, address and weight decide which keys the place has.
    pub members: Vec<ServerAddr>,
}

impl Place {
    /// The member that stands for the place on the ring.
    pub fn first(&self) -> &ServerAddr {
        &self.members[0]
    }
}

impl From<ServerAddr> for Place {
    fn from(server: ServerAddr) -> Place {
        Place { members: vec![server] }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (n, member) in self.members.iter().enumerate() {
            write!(f, "{}{member}", if n > 0 { "," } else { "" })?;
        }
        Ok(())
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
    /// libmemcached's default: a hash modulo the number of servers.
    LibmemcachedModula,
    /// libmemcached's consistent hashing, without weights.
    LibmemcachedKetama,
    /// The same with weights, as `LIBKETAMA_COMPATIBLE`.
    LibmemcachedKetamaWeighted,
    /// twemproxy's default.
    TwemproxyKetama,
    /// twemproxy's modula.
    TwemproxyModula,
    /// Jump consistent hash (Lamping and Veach, 2014): for new sites whose list only grows at its
    /// end.
    Jump,
    /// Highest random weight (Thaler and Ravishankar, 1998): for new sites; any server may go.
    Rendezvous,
}

impl Distribution {
    /// Every one, in the order of help.
    pub const ALL: [Distribution; 9] = [
        Distribution::Magent,
        Distribution::MagentKetama,
        Distribution::LibmemcachedModula,
        Distribution::LibmemcachedKetama,
        Distribution::LibmemcachedKetamaWeighted,
        Distribution::TwemproxyKetama,
        Distribution::TwemproxyModula,
        Distribution::Jump,
        Distribution::Rendezvous,
    ];

    /// As it is written after `-o distribution=`.
    pub fn word(self) -> &'static str {
        match self {
            Distribution::Magent => "magent",
            Distribution::MagentKetama => "magent-ketama",
            Distribution::LibmemcachedModula => "libmemcached-modula",
            Distribution::LibmemcachedKetama => "libmemcached-ketama",
            Distribution::LibmemcachedKetamaWeighted => "libmemcached-ketama_weighted",
            Distribution::TwemproxyKetama => "twemproxy-ketama",
            Distribution::TwemproxyModula => "twemproxy-modula",
            Distribution::Jump => "jump",
            Distribution::Rendezvous => "rendezvous",
        }
    }

    /// The hashes it knows, its own default first.
    pub fn hashes(self) -> &'static [HashName] {
        match self {
            Distribution::Magent => &[HashName::Djb],
            Distribution::MagentKetama => &[HashName::Md5],
            Distribution::LibmemcachedModula | Distribution::LibmemcachedKetama => LIBMEMCACHED,
            Distribution::LibmemcachedKetamaWeighted => LIBMEMCACHED_MD5_FIRST,
            Distribution::TwemproxyKetama | Distribution::TwemproxyModula => TWEMPROXY,
            Distribution::Jump | Distribution::Rendezvous => NEW,
        }
    }
}

/// A hash of the key, in the words of libmemcached and twemproxy. What a word means depends on the
/// distribution: theirs differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum HashName {
    Djb,
    OneAtATime,
    Md5,
    Crc,
    Crc16,
    Crc32,
    Crc32a,
    Fnv1_64,
    Fnv1a64,
    Fnv1_32,
    Fnv1a32,
    Hsieh,
    Murmur,
    Murmur3,
    Jenkins,
    Xxh3,
}

impl HashName {
    /// As it is written after `-o hash=`.
    pub fn word(self) -> &'static str {
        match self {
            HashName::Djb => "djb",
            HashName::OneAtATime => "one_at_a_time",
            HashName::Md5 => "md5",
            HashName::Crc => "crc",
            HashName::Crc16 => "crc16",
            HashName::Crc32 => "crc32",
            HashName::Crc32a => "crc32a",
            HashName::Fnv1_64 => "fnv1_64",
            HashName::Fnv1a64 => "fnv1a_64",
            HashName::Fnv1_32 => "fnv1_32",
            HashName::Fnv1a32 => "fnv1a_32",
            HashName::Hsieh => "hsieh",
            HashName::Murmur => "murmur",
            HashName::Murmur3 => "murmur3",
            HashName::Jenkins => "jenkins",
            HashName::Xxh3 => "xxh3_64",
        }
    }
}

/// libmemcached's, its default first.
const LIBMEMCACHED: &[HashName] = &[
    HashName::OneAtATime,
    HashName::Md5,
    HashName::Crc,
    HashName::Fnv1_64,
    HashName::Fnv1a64,
    HashName::Fnv1_32,
    HashName::Fnv1a32,
    HashName::Hsieh,
    HashName::Murmur,
    HashName::Murmur3,
    HashName::Jenkins,
];

/// The same; `LIBKETAMA_COMPATIBLE` and `KETAMA_WEIGHTED` set md5.
const LIBMEMCACHED_MD5_FIRST: &[HashName] = &[
    HashName::Md5,
    HashName::OneAtATime,
    HashName::Crc,
    HashName::Fnv1_64,
    HashName::Fnv1a64,
    HashName::Fnv1_32,
    HashName::Fnv1a32,
    HashName::Hsieh,
    HashName::Murmur,
    HashName::Murmur3,
    HashName::Jenkins,
];

/// twemproxy's, its default first.
const TWEMPROXY: &[HashName] = &[
    HashName::Fnv1a64,
    HashName::OneAtATime,
    HashName::Md5,
    HashName::Crc16,
    HashName::Crc32,
    HashName::Crc32a,
    HashName::Fnv1_64,
    HashName::Fnv1_32,
    HashName::Fnv1a32,
    HashName::Hsieh,
    HashName::Murmur,
    HashName::Jenkins,
];

/// For new sites: all 64 bits of a good hash, which memcached's own proxy uses with jump as well,
/// or one that another program of the site can compute.
const NEW: &[HashName] =
    &[HashName::Xxh3, HashName::Md5, HashName::Murmur3, HashName::Crc32a, HashName::Fnv1a32];

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
    pub servers: Vec<Place>,
    /// `-b`, in the order given.
    pub backups: Vec<Place>,
    /// `-o servers_file`: more servers and backups, read again on SIGHUP and when it changes.
    pub servers_file: Option<PathBuf>,
    /// `-n`: clients at a time, at least 1.
    pub max_conns: usize,
    /// `-i`: idle connections kept per server. Requests share few pipelined connections here, so
    /// this only bounds their number.
    pub idle_conns: usize,
    /// `-o distribution`, `-k` or the default.
    pub distribution: Distribution,
    /// `-o hash`. `None`: the distribution's own default.
    pub hash: Option<HashName>,
    /// `-o hash_tag`: only what a key has between the first of the one and the next of the other is
    /// hashed, if there is any.
    pub hash_tag: Option<(u8, u8)>,
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
    /// `-o idle_timeout`: seconds after which a silent client is closed, as memcached's. 0: never.
    pub idle_timeout_secs: u64,
    /// `-o server_idle_timeout`: seconds after which an unused connection to a server is closed. 0:
    /// never.
    pub server_idle_secs: u64,
    /// `-o server_failure_limit`: failures in a row after which a server is ejected, at least 1.
    pub failure_limit: u32,
    /// `-o server_retry_timeout`: milliseconds, the longest wait between probes.
    pub retry_ms: u64,
    /// `-o in_flight`: requests of one worker that may wait on one server, at least 1.
    pub in_flight: usize,
    /// `-o resolve_interval`: seconds between two resolutions of servers' names. 0: never again.
    pub resolve_secs: u64,
    /// `-o cold_time`: seconds for which a server counts as cold whose backup cannot list its keys.
    pub cold_secs: u64,
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
            servers_file: None,
            max_conns: DEFAULT_MAX_CONNS,
            idle_conns: DEFAULT_IDLE_CONNS,
            distribution: Distribution::default(),
            hash: None,
            hash_tag: None,
            foreground: false,
            user: None,
            group: None,
            pid_file: None,
            log_file: None,
            verbose: 0,
            threads: DEFAULT_THREADS,
            connect_timeout_ms: DEFAULT_CONNECT_TIMEOUT_MS,
            request_timeout_ms: DEFAULT_REQUEST_TIMEOUT_MS,
            idle_timeout_secs: 0,
            server_idle_secs: DEFAULT_SERVER_IDLE_SECS,
            failure_limit: DEFAULT_FAILURE_LIMIT,
            retry_ms: DEFAULT_RETRY_MS,
            in_flight: DEFAULT_IN_FLIGHT,
            resolve_secs: DEFAULT_RESOLVE_SECS,
            cold_secs: DEFAULT_COLD_SECS,
            value_max: DEFAULT_VALUE_MAX,
        }
    }
}
