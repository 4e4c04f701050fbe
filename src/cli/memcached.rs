//! The flags of a server: memcached's, and repcached's `-x`, `-X`, `-q`.
//!
//! Owns the table, the checks between flags, and the defaults that follow from others. The
//! sentences about wrong values are memcached's where it has one.

use super::extended::KEYS;
use super::table::{Flag, Page, Takes};
use super::values::{addresses, listeners, number, path, size};
use crate::server::config::{
    Config, Personality, Port, Protocol, Replication, ITEM_MAX_MAX, ITEM_MAX_MIN, THREADS_MAX,
};

/// Most that `-m` takes, in megabytes: 512 GB, which is what the 36 bits of a location in the index
/// reach in units of 8 bytes. Beyond it, a location would run into the bits beside it.
const MEMORY_MAX_MB: u64 = 512 << 10;
const MB: u64 = 1 << 20;
/// Most that `-q` takes: a queued change costs some 16 bytes, so this is a gigabyte.
const QUEUE_MAX: usize = 64 << 20;
/// From here on memcached calls the number of threads high.
const MANY_THREADS: usize = 64;

/// A server's command line while it is being read.
#[derive(Default)]
pub struct Draft {
    /// What is final already.
    pub config: Config,
    /// Becomes final where `-x` or `-X` is given.
    pub replication: Replication,
    port_given: bool,
    item_max: Option<u64>,
    replicated: bool,
    /// The first flag that means nothing without `-x` or `-X`.
    needs_replication: Option<String>,
    refused: Option<&'static str>,
    protocol: Option<Protocol>,
}

impl Draft {
    /// Notes that `what` was accepted and means nothing here; once, however often it is given.
    pub fn note(&mut self, what: &str) {
        let note = format!("{what} has no meaning here and is ignored");
        if !self.config.notes.contains(&note) {
            self.config.notes.push(note);
        }
    }

    /// The settings of replication, for a flag that means nothing without it.
    pub fn replication(&mut self, flag: &str) -> &mut Replication {
        self.needs_replication.get_or_insert_with(|| flag.to_owned());
        &mut self.replication
    }

    fn warn(&mut self, text: String) {
        self.config.warnings.push(text);
    }

    /// Remembers that a flag without a value was given that cannot be had.
    fn refuse(&mut self, why: &'static str) {
        self.refused = self.refused.or(Some(why));
    }

    /// Checks what depends on several flags and fills in what was left out.
    ///
    /// # Errors
    /// One sentence.
    pub fn finish(mut self) -> Result<Config, String> {
        if let Some(why) = self.refused {
            return Err(why.into());
        }
        let half = self.config.memory_limit / 2;
        let default_max = u64::from(Config::default().item_max);
        let item_max = match self.item_max {
            None => default_max.min(half),
            Some(given) if given < u64::from(ITEM_MAX_MIN) => {
                return Err(format!("Item max size cannot be less than {ITEM_MAX_MIN} bytes."));
            }
            Some(given) if given > u64::from(ITEM_MAX_MAX) => {
                return Err("Cannot set item size limit higher than a gigabyte.".into());
            }
            Some(given) if given > half => {
                return Err("Cannot set item size limit higher than 1/2 of memory max.".into());
            }
            Some(given) => given,
        };
        self.config.item_max = u32::try_from(item_max).unwrap_or(ITEM_MAX_MAX);
        if self.config.temporary_ttl.is_some() && !self.config.lru_maintainer {
            return Err("temporary_ttl requires lru_maintainer to be enabled".into());
        }
        self.config.protocol = self.settle_protocol()?;
        if !self.port_given && self.config.udp_port != Port::Off {
            self.config.port = self.config.udp_port;
        }
        if self.config.unix_path.is_some() {
            self.config.port = Port::Off;
            self.config.udp_port = Port::Off;
        }
        if self.replicated {
            self.config.replication = Some(self.replication);
        } else if let Some(flag) = self.needs_replication.take() {
            self.note(&format!("{flag} without -x or -X"));
        }
        Ok(self.config)
    }
}

impl Draft {
    /// `-B`, or what follows from `-S` and `-Y`. With both of them and without `-B`, each protocol
    /// has its own login.
    fn settle_protocol(&self) -> Result<Protocol, String> {
        let Config { sasl, udp_port, ref auth_file, .. } = self.config;
        let (users, udp) = (auth_file.is_some(), udp_port != Port::Off);
        Err(match (sasl, users, self.protocol) {
            (true, false, Some(Protocol::Auto | Protocol::Ascii))
            | (true, true, Some(Protocol::Ascii)) => {
                "ERROR: You cannot allow the ASCII protocol while using SASL."
            }
            (true, _, _) if udp => {
                "ERROR: Cannot enable UDP while using binary SASL authentication."
            }
            (false, true, Some(Protocol::Auto | Protocol::Binary)) => {
                "ERROR: You cannot allow the BINARY protocol while using ascii authentication \
                 tokens."
            }
            (false, true, _) if udp => {
                "Cannot use UDP with ascii authentication enabled (-U 0 to disable)"
            }
            (true, false, _) => return Ok(Protocol::Binary),
            (false, true, _) => return Ok(Protocol::Ascii),
            (_, _, given) => return Ok(given.unwrap_or_default()),
        }
        .into())
    }
}

/// Every flag of a server, in the order of help.
pub static FLAGS: &[Flag<Draft>] = &[
    Flag {
        short: Some('p'),
        longs: &["port"],
        takes: Takes::Value("num", |d, v| {
            d.config.port = port(v).ok_or_else(|| format!("ERROR: Invalid port number {v}."))?;
            d.port_given = true;
            Ok(())
        }),
        help: "TCP port to listen on (default: 11211; 0: none, -1: any free one)",
    },
    Flag {
        short: Some('U'),
        longs: &["udp-port"],
        takes: Takes::Value("num", |d, v| {
            d.config.udp_port =
                port(v).ok_or_else(|| format!("ERROR: Invalid UDP port number {v}."))?;
            Ok(())
        }),
        help: "UDP port to listen on; without -p also the TCP port (default: 0, off; -1: any free \
               one)",
    },
    Flag {
        short: Some('s'),
        longs: &["unix-socket"],
        takes: Takes::Value("file", |d, v| {
            d.config.unix_path = Some(path("-s", v)?);
            Ok(())
        }),
        help: "unix socket to listen on (disables TCP for clients)",
    },
    Flag {
        short: Some('a'),
        longs: &["unix-mask"],
        takes: Takes::Value("mask", |d, v| {
            let mode = u32::from_str_radix(v, 8).ok().filter(|mode| *mode <= 0o777);
            let octal = v.bytes().all(|b| b.is_ascii_digit());
            d.config.unix_mode = mode.filter(|_| octal).ok_or_else(|| {
                format!("-a must be an octal access mask from 0 to 777, not \"{v}\"")
            })?;
            Ok(())
        }),
        help: "access mask of the unix socket, in octal (default: 700)",
    },
    Flag {
        short: Some('A'),
        longs: &["enable-shutdown"],
        takes: Takes::Nothing(|d| d.config.shutdown_command = true),
        help: "enable the \"shutdown\" command",
    },
    Flag {
        short: Some('l'),
        longs: &["listen"],
        takes: Takes::Value("addr", |d, v| {
            let all = listeners(v)?;
            d.config.listen.extend(all.iter().map(ToString::to_string));
            Ok(())
        }),
        help: "address or host name to listen on, with :port if it differs from -p; IPv6 as \
               [::1]:port; repeatable, or a comma list (default: all addresses)",
    },
    Flag {
        short: Some('d'),
        longs: &["daemon"],
        takes: Takes::Nothing(|d| d.config.daemon = true),
        help: "run as a daemon; log to syslog or to -o log_file, and with -v also to the standard \
               error it was started with",
    },
    Flag {
        short: Some('r'),
        longs: &["enable-coredumps"],
        takes: Takes::Nothing(|d| d.config.core_dumps = true),
        help: "maximize core file limit",
    },
    Flag {
        short: Some('u'),
        longs: &["user"],
        takes: Takes::Value("user", |d, v| {
            d.config.user = Some(v.to_string());
            Ok(())
        }),
        help: "assume identity of <user>, a name or a number (only when run as root)",
    },
    Flag {
        short: Some('m'),
        longs: &["memory-limit"],
        takes: Takes::Value("num", |d, v| {
            d.config.memory_limit = size(v, MB)
                .filter(|bytes| (MB..=MEMORY_MAX_MB * MB).contains(bytes))
                .map(|bytes| bytes / MB * MB)
                .ok_or_else(|| format!("-m must be 1 to {MEMORY_MAX_MB} megabytes, not \"{v}\""))?;
            Ok(())
        }),
        help: "memory in megabytes for items and everything about them (default: 64)",
    },
    Flag {
        short: Some('M'),
        longs: &["disable-evictions"],
        takes: Takes::Nothing(|d| d.config.evict = false),
        help: "return error on memory exhausted instead of evicting",
    },
    Flag {
        short: Some('c'),
        longs: &["conn-limit"],
        takes: Takes::Value("num", |d, v| {
            d.config.max_conns = match v.parse::<i64>() {
                Ok(n) if n <= 0 => return Err("Maximum connections must be greater than 0".into()),
                _ => number("-c: connections", v, 1..=u32::MAX / 4)?,
            };
            Ok(())
        }),
        help: "max simultaneous connections (default: 1024)",
    },
    Flag {
        short: Some('k'),
        longs: &["lock-memory"],
        takes: Takes::Nothing(|d| d.config.lock_memory = true),
        help: "lock down all paged memory",
    },
    Flag {
        short: Some('v'),
        longs: &["verbose"],
        takes: Takes::Count(|d| d.config.verbose = d.config.verbose.saturating_add(1)),
        help: "verbose: what happens; -vv also client commands and responses; -vvv everything",
    },
    Flag {
        short: Some('h'),
        longs: &["help"],
        takes: Takes::Print(Page::Help),
        help: "print this help and exit",
    },
    Flag {
        short: Some('i'),
        longs: &["license"],
        takes: Takes::Print(Page::License),
        help: "print the license and exit",
    },
    Flag {
        short: Some('V'),
        longs: &["version"],
        takes: Takes::Print(Page::Version),
        help: "print version and exit",
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
        short: Some('t'),
        longs: &["threads"],
        takes: Takes::Value("num", |d, v| {
            if v.parse::<i64>().is_ok_and(|n| n <= 0) {
                return Err("Number of threads must be greater than 0".into());
            }
            d.config.threads = number("-t: threads", v, 1..=THREADS_MAX)?;
            if d.config.threads > MANY_THREADS {
                d.warn(
                    "WARNING: Setting a high number of worker threads is not recommended. Set \
                     this value to the number of cores in your machine or less."
                        .into(),
                );
            }
            Ok(())
        }),
        help: "number of threads to use (default: 4)",
    },
    Flag {
        short: Some('R'),
        longs: &["max-reqs-per-event"],
        takes: Takes::Value("num", |d, v| {
            if v.parse::<i64>().is_ok_and(|n| n <= 0) {
                return Err("Number of requests per event must be greater than 0".into());
            }
            d.config.reqs_per_event = number("-R: requests per event", v, 1..=u32::MAX)?;
            Ok(())
        }),
        help: "maximum number of requests per event, limits the requests processed per connection \
               to prevent starvation (default: 20)",
    },
    Flag {
        short: Some('C'),
        longs: &["disable-cas"],
        takes: Takes::Nothing(|d| d.config.cas = false),
        help: "disable use of CAS",
    },
    Flag {
        short: Some('b'),
        longs: &["listen-backlog"],
        takes: Takes::Value("num", |d, v| {
            d.config.backlog = number("-b: backlog", v, 0..=i32::MAX.unsigned_abs())?;
            Ok(())
        }),
        help: "set the backlog queue limit (default: 1024)",
    },
    Flag {
        short: Some('B'),
        longs: &["protocol"],
        takes: Takes::Value("name", |d, v| {
            d.protocol = Some(match v {
                "auto" => Protocol::Auto,
                "ascii" => Protocol::Ascii,
                "binary" => Protocol::Binary,
                _ => {
                    return Err(format!(
                        "Invalid value for binding protocol: {v} -- should be one of auto, \
                         binary, or ascii"
                    ));
                }
            });
            Ok(())
        }),
        help: "protocol: ascii, binary or auto, by the first byte of a connection (default: auto)",
    },
    Flag {
        short: Some('S'),
        longs: &["enable-sasl"],
        takes: Takes::Nothing(|d| d.config.sasl = true),
        help: "turn on Sasl authentication (PLAIN): clients speak the binary protocol and name a \
               user of the file of -Y, or else of MEMCACHED_SASL_PWDB, before anything else",
    },
    Flag {
        short: Some('Y'),
        longs: &["auth-file"],
        takes: Takes::Value("file", |d, v| {
            d.config.auth_file = Some(path("-Y", v)?);
            Ok(())
        }),
        help:
            "ask text clients for a user of this file, one user:password a line, before anything \
               else: as the data of a \"set\", \"user password\"; read again on SIGHUP",
    },
    Flag {
        short: Some('I'),
        longs: &["max-item-size"],
        takes: Takes::Value("num", |d, v| {
            let bytes = size(v, 1);
            d.item_max = Some(bytes.ok_or_else(|| {
                format!("-I must be a size such as 1048576, 512k or 2m, not \"{v}\"")
            })?);
            Ok(())
        }),
        help: "adjusts max item size (default: 1m, min: 1k, max: 1024m or half of -m)",
    },
    Flag {
        short: Some('F'),
        longs: &["disable-flush-all"],
        takes: Takes::Nothing(|d| d.config.flush_command = false),
        help: "disable flush_all command",
    },
    Flag {
        short: None,
        longs: &["disable-dumping"],
        takes: Takes::Nothing(|d| d.config.dump_command = false),
        help:
            "disable stats cachedump, stats detail and lru_crawler metadump (short: -X without a \
               number)",
    },
    Flag {
        short: Some('W'),
        longs: &["disable-watch"],
        takes: Takes::Nothing(|d| d.config.watchers_allowed = false),
        help: "",
    },
    Flag {
        short: Some('D'),
        longs: &[],
        takes: Takes::Value("char", |d, v| {
            let first = v.bytes().next().ok_or("No delimiter specified")?;
            d.config.prefix_delimiter = first;
            d.config.detail_enabled = true;
            Ok(())
        }),
        help: "delimiter between key prefixes and IDs, for per-prefix stats reporting (default: \
               \":\"); turns stats collection on, as \"stats detail on\" does",
    },
    Flag {
        short: Some('x'),
        longs: &["peer"],
        takes: Takes::Value("host", |d, v| {
            let all = addresses("-x", v)?;
            d.replication.peers.extend(all.iter().map(ToString::to_string));
            d.replicated = true;
            Ok(())
        }),
        help: "replicate with this peer, host[:port]; repeatable, or a comma list",
    },
    Flag {
        short: Some('X'),
        longs: &["replication-port"],
        takes: Takes::ValueOrAlone(
            "num",
            |d, v| {
                d.replication.port = number("-X: replication port", v, 1..=65535)?;
                d.replicated = true;
                Ok(())
            },
            |d| d.config.dump_command = false,
        ),
        help: "TCP port for replication, ours and the peers' (default: 11212; without -x and -X \
               there is no replication); a -X without a number is memcached's: --disable-dumping",
    },
    Flag {
        short: Some('q'),
        longs: &["replication-queue"],
        takes: Takes::Value("num", |d, v| {
            d.replication("-q").queue_max = number("-q: queue length", v, 1..=QUEUE_MAX)?;
            Ok(())
        }),
        help: "changes queued for a peer before it is caught up by a scan (default: 8192)",
    },
    Flag {
        short: Some('f'),
        longs: &["slab-growth-factor", "factor"],
        takes: Takes::Value("num", |d, v| {
            let factor = v.parse::<f64>().ok().filter(|f| f.is_finite() && *f > 1.0);
            d.config.growth_factor = factor.ok_or("Factor must be greater than 1")?;
            d.note("-f");
            Ok(())
        }),
        help: "accepted for compatibility: memory has no slab classes here",
    },
    Flag {
        short: Some('n'),
        longs: &["slab-min-size"],
        takes: Takes::Value("bytes", |d, v| {
            let bytes = number("", v, 1..=u32::MAX);
            d.config.chunk_size = bytes.map_err(|_| "Chunk size must be greater than 0")?;
            d.note("-n");
            Ok(())
        }),
        help: "accepted for compatibility: memory has no slab classes here",
    },
    Flag {
        short: Some('L'),
        longs: &["enable-largepages"],
        takes: Takes::Nothing(|d| {
            d.config.large_pages = true;
            d.note("-L");
        }),
        help: "keep items in large memory pages, if the kernel has any",
    },
    // What memcached has and this server does not: a sentence instead of "invalid option".
    Flag {
        short: Some('Z'),
        longs: &["enable-ssl"],
        takes: Takes::Nothing(|d| d.refuse("-Z: TLS is not supported")),
        help: "",
    },
    Flag {
        short: Some('e'),
        longs: &["memory-file"],
        takes: Takes::Value("file", |_, _| Err("-e: a memory file is not supported".into())),
        help: "",
    },
    Flag {
        short: Some('N'),
        longs: &["napi_ids", "napi-ids"],
        takes: Takes::Value("num", |d, v| {
            if !v.parse::<i64>().is_ok_and(|n| n > 0) {
                return Err("Maximum number of NAPI IDs must be greater than 0".into());
            }
            d.note("-N");
            Ok(())
        }),
        help: "",
    },
    Flag {
        short: Some('o'),
        longs: &["extended"],
        takes: Takes::Keys(KEYS),
        help: "comma separated list of extended options; those of memcached that are about slabs, \
               its LRU threads or its hash table are accepted and have no meaning here",
    },
];

/// A port of `-p` or `-U`: none, any free one, or this one.
fn port(text: &str) -> Option<Port> {
    match text {
        "-1" => Some(Port::Any),
        "0" => Some(Port::Off),
        _ => number("", text, 1..=65535).ok().map(Port::Number),
    }
}

/// Sets who the program says it is.
///
/// # Errors
/// Not one of the two names.
pub fn set_personality(draft: &mut Draft, name: &str) -> Result<(), String> {
    draft.config.personality = match name {
        "memcached" => Personality::Memcached,
        "twincached" => Personality::Twincached,
        _ => return Err(format!("personality must be memcached or twincached, not \"{name}\"")),
    };
    Ok(())
}
