//! The flags of the proxy: magent's, and a few beside them.
//!
//! Owns the table and the checks between flags.

use super::table::{Flag, Key, KeyTakes, Page, Takes};
use super::values::{addresses, number, path, size};
use crate::proxy::config::{Config, Distribution, HashName};
use crate::proxy::places::{check, place};

/// Most that `-t` takes.
const THREADS_MAX: usize = 256;
/// Most that `-n` and `-i` take: more descriptors than Linux gives a process.
const CONNS_MAX: usize = 1 << 30;
/// Most that a timeout takes, in milliseconds: an hour.
const TIMEOUT_MAX_MS: u64 = 3_600_000;
/// Most that the keys in seconds take: a week.
const SECONDS_MAX: u64 = 7 * 24 * 3600;
/// Most that `-o server_failure_limit` takes: each costs some client a timeout.
const FAILURE_LIMIT_MAX: u32 = 1000;
/// Most that `-o in_flight` takes: answers to so many are a gigabyte already.
const IN_FLIGHT_MAX: usize = 1_000_000;
/// memcached's limit of `-I`: no server stores more.
const VALUE_MAX: u64 = 1 << 30;

/// A proxy's command line while it is being read.
#[derive(Default)]
pub struct Draft {
    config: Config,
    /// `-k`.
    ketama: bool,
    distribution: Option<Distribution>,
    hash: Option<String>,
    /// Words that belong to no flag: the keys of `where`.
    pub(super) words: Vec<String>,
}

impl Draft {
    /// Checks what depends on several flags.
    ///
    /// # Errors
    /// One sentence.
    pub fn finish(self) -> Result<Config, String> {
        let config = self.spread()?;
        if config.port == 0 && config.unix.is_none() {
            return Err("-p 0 needs a unix socket to listen on: -f file".into());
        }
        Ok(config)
    }

    /// The same where nobody is going to listen.
    ///
    /// # Errors
    /// One sentence.
    pub fn spread(self) -> Result<Config, String> {
        let mut config = self.config;
        config.distribution = match (self.ketama, self.distribution) {
            (true, Some(other)) if other != Distribution::MagentKetama => {
                return Err(format!(
                    "-k is -o distribution=magent-ketama, not {}: leave one of them out",
                    other.word()
                ));
            }
            (true, _) => Distribution::MagentKetama,
            (false, chosen) => chosen.unwrap_or_default(),
        };
        config.hash = self.hash.map(|word| hash_of(config.distribution, &word)).transpose()?;
        // More may be named in the file, and what is there is checked when it is read.
        if config.servers_file.is_none() || !config.servers.is_empty() {
            check(&config)?;
        }
        Ok(config)
    }
}

fn distribution(word: &str) -> Result<Distribution, String> {
    Distribution::ALL.into_iter().find(|one| one.word() == word).ok_or_else(|| {
        let all = Distribution::ALL.map(Distribution::word).join(", ");
        format!("-o distribution must be one of {all}, not \"{word}\"")
    })
}

fn hash_of(distribution: Distribution, word: &str) -> Result<HashName, String> {
    let known = distribution.hashes();
    known.iter().copied().find(|one| one.word() == word).ok_or_else(|| {
        let words: Vec<&str> = known.iter().map(|one| one.word()).collect();
        let which = if words.len() == 1 { "is" } else { "must be one of" };
        format!(
            "-o hash with the distribution {} {which} {}, not \"{word}\"",
            distribution.word(),
            words.join(", ")
        )
    })
}

/// Every flag of the proxy, in the order of help.
pub static FLAGS: &[Flag<Draft>] = &[
    Flag {
        short: Some('h'),
        longs: &["help"],
        takes: Takes::Print(Page::Help),
        help: "print this help and exit",
    },
    Flag {
        short: Some('u'),
        longs: &["user"],
        takes: Takes::Value("uid", |d, v| {
            d.config.user = Some(v.to_string());
            Ok(())
        }),
        help: "run as this user, a name or a number (only when run as root)",
    },
    Flag {
        short: Some('g'),
        longs: &["group"],
        takes: Takes::Value("gid", |d, v| {
            d.config.group = Some(v.to_string());
            Ok(())
        }),
        help: "run as this group, a name or a number (default: the user's)",
    },
    Flag {
        short: Some('p'),
        longs: &["port"],
        takes: Takes::Value("num", |d, v| {
            d.config.port = number("-p: port", v, 0..=65535)?;
            Ok(())
        }),
        help: "TCP port to listen on (default: 11211; 0: none, then -f is needed)",
    },
    Flag {
        short: Some('s'),
        longs: &["server"],
        takes: Takes::Value("[name=]host[:port[:weight]]", |d, v| {
            d.config.servers.push(place("-s", v)?);
            Ok(())
        }),
        help: "a memcached server (default port: 11211), or /path[:weight] of its unix socket; \
               repeatable, their order decides which one has a key; a comma list is one group of \
               twincached nodes that hold the same",
    },
    Flag {
        short: Some('b'),
        longs: &["backup"],
        takes: Takes::Value("[name=]host[:port[:weight]]", |d, v| {
            d.config.backups.push(place("-b", v)?);
            Ok(())
        }),
        help: "a backup server: has a copy of what is written, and is read when the server is \
               down or has lost it; repeatable, a comma list as for -s",
    },
    Flag {
        short: Some('l'),
        longs: &["listen"],
        takes: Takes::Value("addr", |d, v| {
            let all = addresses("-l", v)?;
            d.config.listen.extend(all.iter().map(ToString::to_string));
            Ok(())
        }),
        help: "address to listen on; repeatable, or a comma list (default: 0.0.0.0)",
    },
    Flag {
        short: Some('n'),
        longs: &["max-conns"],
        takes: Takes::Value("num", |d, v| {
            d.config.max_conns = number("-n: connections", v, 1..=CONNS_MAX)?;
            Ok(())
        }),
        help: "max simultaneous connections of clients (default: 4096)",
    },
    Flag {
        short: Some('D'),
        longs: &["foreground"],
        takes: Takes::Nothing(|d| d.config.foreground = true),
        help: "do not become a daemon",
    },
    Flag {
        short: Some('k'),
        longs: &["ketama"],
        takes: Takes::Nothing(|d| d.ketama = true),
        help: "spread keys by consistent hashing (ketama): -o distribution=magent-ketama",
    },
    Flag {
        short: Some('f'),
        longs: &["unix-socket"],
        takes: Takes::Value("file", |d, v| {
            d.config.unix = Some(path("-f", v)?);
            Ok(())
        }),
        help: "unix socket to listen on",
    },
    Flag {
        short: Some('i'),
        longs: &["idle-conns"],
        takes: Takes::Value("num", |d, v| {
            d.config.idle_conns = number("-i: idle connections", v, 0..=CONNS_MAX)?;
            Ok(())
        }),
        help: "idle connections kept per server (default: 20)",
    },
    Flag {
        short: Some('v'),
        longs: &["verbose"],
        takes: Takes::Nothing(|d| {
            d.config.verbose = d.config.verbose.saturating_add(1);
            d.config.foreground = true;
        }),
        help: "verbose, and do not become a daemon; -vv and -vvv say more",
    },
    Flag {
        short: Some('t'),
        longs: &["threads"],
        takes: Takes::Value("num", |d, v| {
            d.config.threads = number("-t: threads", v, 1..=THREADS_MAX)?;
            Ok(())
        }),
        help:
            "number of threads to use (default: 1); whatever their number, server and backup see \
               the writes of a key in one order",
    },
    Flag {
        short: Some('P'),
        longs: &["pidfile"],
        takes: Takes::Value("file", |d, v| {
            d.config.pid_file = Some(path("-P", v)?);
            Ok(())
        }),
        help: "save PID in <file>, removed again at the end",
    },
    Flag {
        short: Some('V'),
        longs: &["version"],
        takes: Takes::Print(Page::Version),
        help: "print version and exit",
    },
    Flag {
        short: Some('o'),
        longs: &["extended"],
        takes: Takes::Keys(KEYS),
        help: "comma separated list of extended options",
    },
];

/// Every key of `-o`.
pub static KEYS: &[Key<Draft>] = &[
    Key {
        name: "distribution",
        takes: KeyTakes::Value("name", |d, v| {
            d.distribution = Some(distribution(v)?);
            Ok(())
        }),
        help: "how keys are spread: magent (default), magent-ketama, libmemcached-modula, \
               libmemcached-ketama, libmemcached-ketama_weighted, twemproxy-ketama, \
               twemproxy-modula, jump, rendezvous",
    },
    Key {
        name: "hash",
        takes: KeyTakes::Value("name", |d, v| {
            d.hash = Some(v.to_owned());
            Ok(())
        }),
        help: "hash of the key, in the words of libmemcached or twemproxy: one_at_a_time, md5, \
               fnv1a_64, ... (default: the distribution's own)",
    },
    Key {
        name: "hash_tag",
        takes: KeyTakes::Value("two characters", |d, v| {
            let (&[open, close], true) = (v.as_bytes(), v.is_ascii()) else {
                return Err(format!(
                    "-o hash_tag must be two characters such as {{}}, not \"{v}\""
                ));
            };
            d.config.hash_tag = Some((open, close));
            Ok(())
        }),
        help: "hash only what a key has between the first of the one and the next of the other, \
               if it has that: {}",
    },
    Key {
        name: "servers_file",
        takes: KeyTakes::Value("path", |d, v| {
            d.config.servers_file = Some(path("-o servers_file", v)?);
            Ok(())
        }),
        help: "more servers and backups, a line each as on this command line: -s host:port, \
               -b host:port; read again on SIGHUP and when it changes",
    },
    Key {
        name: "log_file",
        takes: KeyTakes::Value("path", |d, v| {
            d.config.log_file = Some(path("-o log_file", v)?);
            Ok(())
        }),
        help: "log to this file instead of standard error or syslog; opened again on SIGHUP",
    },
    Key {
        name: "connect_timeout",
        takes: KeyTakes::Value("ms", |d, v| {
            d.config.connect_timeout_ms = number("-o connect_timeout", v, 1..=TIMEOUT_MAX_MS)?;
            Ok(())
        }),
        help: "a server that does not accept within this time is down (default: 300)",
    },
    Key {
        name: "request_timeout",
        takes: KeyTakes::Value("ms", |d, v| {
            d.config.request_timeout_ms = number("-o request_timeout", v, 1..=TIMEOUT_MAX_MS)?;
            Ok(())
        }),
        help: "a server that does not answer within this time is down (default: 1000)",
    },
    Key {
        name: "idle_timeout",
        takes: KeyTakes::Value("secs", |d, v| {
            d.config.idle_timeout_secs = number("-o idle_timeout", v, 0..=SECONDS_MAX)?;
            Ok(())
        }),
        help: "close clients that are silent for this long (default: 0, never)",
    },
    Key {
        name: "server_idle_timeout",
        takes: KeyTakes::Value("secs", |d, v| {
            d.config.server_idle_secs = number("-o server_idle_timeout", v, 0..=SECONDS_MAX)?;
            Ok(())
        }),
        help: "close connections to servers that nobody used for this long (default: 600; 0: \
               never)",
    },
    Key {
        name: "server_failure_limit",
        takes: KeyTakes::Value("num", |d, v| {
            let what = "-o server_failure_limit";
            d.config.failure_limit = number(what, v, 1..=FAILURE_LIMIT_MAX)?;
            Ok(())
        }),
        help: "failures in a row after which a server is not asked any more until it is back \
               (default: 1)",
    },
    Key {
        name: "server_retry_timeout",
        takes: KeyTakes::Value("ms", |d, v| {
            d.config.retry_ms = number("-o server_retry_timeout", v, 1..=TIMEOUT_MAX_MS)?;
            Ok(())
        }),
        help: "longest pause between two looks whether a server is back (default: 500)",
    },
    Key {
        name: "in_flight",
        takes: KeyTakes::Value("num", |d, v| {
            d.config.in_flight = number("-o in_flight", v, 1..=IN_FLIGHT_MAX)?;
            Ok(())
        }),
        help: "requests of a thread that may wait on one server; more are refused at once \
               (default: 65536)",
    },
    Key {
        name: "resolve_interval",
        takes: KeyTakes::Value("secs", |d, v| {
            d.config.resolve_secs = number("-o resolve_interval", v, 0..=SECONDS_MAX)?;
            Ok(())
        }),
        help: "look names of servers up again this often (default: 30; 0: never)",
    },
    Key {
        name: "cold_time",
        takes: KeyTakes::Value("secs", |d, v| {
            d.config.cold_secs = number("-o cold_time", v, 0..=SECONDS_MAX)?;
            Ok(())
        }),
        help: "a server that may have lost its items is cold, so that misses are looked up on its \
               backup, for this long where the backup cannot list its keys (default: 3600)",
    },
    Key {
        name: "value_max",
        takes: KeyTakes::Value("size", |d, v| {
            let bytes = size(v, 1).filter(|bytes| (1..=VALUE_MAX).contains(bytes));
            let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok());
            d.config.value_max = bytes.ok_or_else(|| {
                format!("-o value_max must be a size from 1 to 1024m, not \"{v}\"")
            })?;
            Ok(())
        }),
        help: "largest value that passes (default: 1024m)",
    },
];
