//! The flags of the proxy: magent's, and a few beside them.
//!
//! Owns the table and the checks between flags.

use super::table::{Flag, Key, KeyTakes, Page, Takes};
use super::values::{addresses, number, path, size};
use crate::proxy::config::{Config, Distribution, Place, ServerAddr, DEFAULT_PORT};

/// Most that `-t` takes.
const THREADS_MAX: usize = 256;
/// Most that `-n` and `-i` take: more descriptors than Linux gives a process.
const CONNS_MAX: usize = 1 << 30;
/// Most that a timeout takes, in milliseconds: an hour.
const TIMEOUT_MAX_MS: u64 = 3_600_000;
/// memcached's limit of `-I`: no server stores more.
const VALUE_MAX: u64 = 1 << 30;

/// A proxy's command line while it is being read.
#[derive(Default)]
pub struct Draft {
    config: Config,
}

impl Draft {
    /// Checks what depends on several flags.
    ///
    /// # Errors
    /// One sentence.
    pub fn finish(self) -> Result<Config, String> {
        if self.config.servers.is_empty() {
            return Err("no server: name at least one with -s host[:port]".into());
        }
        if self.config.port == 0 && self.config.unix.is_none() {
            return Err("-p 0 needs a unix socket to listen on: -f file".into());
        }
        Ok(self.config)
    }
}

fn place(what: &str, list: &str) -> Result<Place, String> {
    let all = addresses(what, list)?;
    let member =
        |a: crate::base::address::Address| ServerAddr::tcp(a.host, a.port.unwrap_or(DEFAULT_PORT));
    Ok(Place { members: all.into_iter().map(member).collect() })
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
        takes: Takes::Value("host[:port]", |d, v| {
            d.config.servers.push(place("-s", v)?);
            Ok(())
        }),
        help:
            "a memcached server (default port: 11211); repeatable, their order decides which one \
               has a key; a comma list is one group of twincached nodes that hold the same",
    },
    Flag {
        short: Some('b'),
        longs: &["backup"],
        takes: Takes::Value("host[:port]", |d, v| {
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
        takes: Takes::Nothing(|d| d.config.distribution = Distribution::MagentKetama),
        help: "spread keys by consistent hashing (ketama)",
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
        help: "number of threads to use (default: 1, which keeps all clients' writes of a key in \
               one order on server and backup)",
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
static KEYS: &[Key<Draft>] = &[
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
        name: "value_max",
        takes: KeyTakes::Value("size", |d, v| {
            let bytes = size(v, 1).filter(|bytes| (1..=VALUE_MAX).contains(bytes));
            let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok());
            d.config.value_max = bytes.ok_or_else(|| {
                format!("-o value_max must be a size from 1 to 1024m, not \"{v}\"")
            })?;
            Ok(())
        }),
        help: "largest value that passes (default: 16m)",
    },
];
