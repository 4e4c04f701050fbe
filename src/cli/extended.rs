//! The keys of `-o` of a server.
//!
//! Owns the table: ours, memcached's that mean something here, and every other key of memcached
//! 1.6, so that a command line that worked keeps working.

use std::ops::RangeInclusive;

use super::memcached::{set_personality, Draft};
use super::table::{Key, KeyTakes};
use super::values::{number, path, time_ms};
use crate::base::network::Network;
use crate::server::config::ITEM_MAX_MAX;

/// Most that `-o watcher_logbuf_size` and `-o worker_logbuf_size` take, in kilobytes: a gigabyte,
/// which nobody fills.
const LOGBUF_MAX_KB: usize = 1 << 20;

/// memcached's `slab_chunk_max` where none is given: half of its slab pages.
const SLAB_CHUNK_MAX: u32 = 512 * 1024;

/// Silence that `-o repl_timeout` may set, in milliseconds: not so short that a busy moment of a
/// peer breaks its link, not so long that nobody notices.
const REPL_TIMEOUT_MS: RangeInclusive<u64> = 100..=600_000;

/// Peers that `-o repl_ack` may ask for: more links than that no node has.
const REPL_ACK_MAX: u32 = 15;

/// Waits that `-o repl_ack_timeout` may set, in milliseconds: a round trip at least, and no longer
/// than any client waits.
const REPL_ACK_TIMEOUT_MS: RangeInclusive<u64> = 1..=60_000;

/// Longest memory of deletes, in seconds: a week.
const REPL_TOMBSTONE_MAX: u32 = 7 * 24 * 3600;

const fn meaningless(name: &'static str) -> Key<Draft> {
    Key { name, takes: KeyTakes::Meaningless(note), help: "" }
}

/// Where memcached insists on a number, and which ones it takes.
const fn number_of_memcached(
    name: &'static str,
    range: RangeInclusive<f64>,
    why: &'static str,
) -> Key<Draft> {
    Key { name, takes: KeyTakes::MeaninglessNumber(note, range, why), help: "" }
}

/// The smallest number above zero that anybody would write.
const ABOVE_ZERO: f64 = f64::MIN_POSITIVE;
/// Where memcached has no limit, or one of 32 bits.
const BITS_32: RangeInclusive<f64> = 0.0..=4_294_967_295.0;
const ANY: RangeInclusive<f64> = f64::MIN..=f64::MAX;

const fn refused(name: &'static str, why: &'static str) -> Key<Draft> {
    Key { name, takes: KeyTakes::Refused(why), help: "" }
}

fn note(draft: &mut Draft, name: &str) {
    draft.note(&format!("-o {name}"));
}

/// Every key.
pub static KEYS: &[Key<Draft>] = &[
    Key {
        name: "log_file",
        takes: KeyTakes::Value("path", |d, v| {
            d.config.log_file = Some(path("-o log_file", v)?);
            Ok(())
        }),
        help: "log to this file instead of standard error or syslog; opened again on SIGHUP",
    },
    Key {
        name: "repl_timeout",
        takes: KeyTakes::Value("time", |d, v| {
            let what = "-o repl_timeout";
            d.replication(what).timeout_ms = time_ms(what, v, REPL_TIMEOUT_MS)?;
            Ok(())
        }),
        help: "give up a peer that is silent for this long: 2, 0.5, 2s, 500ms (default: 5s)",
    },
    Key {
        name: "repl_ack",
        takes: KeyTakes::Value("num", |d, v| {
            d.replication("-o repl_ack").ack = number("-o repl_ack", v, 0..=REPL_ACK_MAX)?;
            Ok(())
        }),
        help: "answer a client's change when this many peers have applied it (default: 0, at once)",
    },
    Key {
        name: "repl_ack_timeout",
        takes: KeyTakes::Value("time", |d, v| {
            let what = "-o repl_ack_timeout";
            d.replication(what).ack_timeout_ms = time_ms(what, v, REPL_ACK_TIMEOUT_MS)?;
            Ok(())
        }),
        help: "longest wait for repl_ack: 2, 0.5, 2s, 500ms; then SERVER_ERROR (default: 1s)",
    },
    Key {
        name: "repl_ack_degrade",
        takes: KeyTakes::Nothing(|d| d.replication("-o repl_ack_degrade").ack_degrade = true),
        help: "where fewer peers than repl_ack are there, answer at once and count it",
    },
    Key {
        name: "repl_allow",
        takes: KeyTakes::Values(
            "network,...",
            |d, v| {
                let network = Network::parse(v).map_err(|e| format!("-o repl_allow: {e}"))?;
                d.replication("-o repl_allow").allow.push(network);
                Ok(())
            },
            |v| v.contains(['.', ':']),
        ),
        help: "who may link besides the peers of -x and this host: 10.0.0.0/8,fd00::/8,10.1.2.3",
    },
    Key {
        name: "repl_secret_file",
        takes: KeyTakes::Value("path", |d, v| {
            let what = "-o repl_secret_file";
            d.replication(what).secret_file = Some(path(what, v)?);
            Ok(())
        }),
        help: "link only with peers that know the secret in this file's first line",
    },
    Key {
        name: "repl_tombstone",
        takes: KeyTakes::Value("secs", |d, v| {
            let what = "-o repl_tombstone";
            d.replication(what).tombstone_secs = number(what, v, 1..=REPL_TOMBSTONE_MAX)?;
            Ok(())
        }),
        help: "remember a delete for this long for peers that are away (default: 3600)",
    },
    Key {
        name: "personality",
        takes: KeyTakes::Value("name", set_personality),
        help: "memcached: answer -V, -h and version as a memcached does (default when the program \
               is called memcached)",
    },
    Key {
        name: "maxconns_fast",
        takes: KeyTakes::Nothing(|d| d.config.maxconns_fast = true),
        help: "immediately close new connections after limit (default: enabled)",
    },
    Key {
        name: "no_maxconns_fast",
        takes: KeyTakes::Nothing(|d| d.config.maxconns_fast = false),
        help: "leave new connections waiting after limit",
    },
    Key {
        name: "idle_timeout",
        takes: KeyTakes::Value("secs", |d, v| {
            d.config.idle_timeout_secs = number("-o idle_timeout", v, 0..=u32::MAX)?;
            Ok(())
        }),
        help: "timeout for idle connections (default: 0, no timeout)",
    },
    number_of_memcached(
        "hashpower",
        12.0..=32.0,
        "Initial hashtable multiplier must be from 12 to 32",
    ),
    meaningless("no_hashexpand"),
    Key {
        name: "hash_algorithm",
        takes: KeyTakes::MeaninglessWord(
            note,
            &["jenkins", "murmur3", "xxh3"],
            "Unknown hash_algorithm option (jenkins, murmur3, xxh3)",
        ),
        help: "",
    },
    meaningless("slab_reassign"),
    meaningless("no_slab_reassign"),
    meaningless("slab_automove"),
    meaningless("no_slab_automove"),
    number_of_memcached(
        "slab_automove_ratio",
        ABOVE_ZERO..=1.0,
        "slab_automove_ratio must be > 0 and < 1",
    ),
    number_of_memcached(
        "slab_automove_window",
        3.0..=1800.0,
        "slab_automove_window must be > 2 and < 1800",
    ),
    number_of_memcached("slab_automove_freeratio", ANY, ""),
    Key {
        name: "slab_chunk_max",
        takes: KeyTakes::Value("kb", |d, v| {
            let kb = number("-o slab_chunk_max", v, 0..=ITEM_MAX_MAX / 1024)?;
            // As in memcached: half of a slab page where it is 0.
            d.config.slab_chunk_max = if kb == 0 { SLAB_CHUNK_MAX } else { kb * 1024 };
            Ok(())
        }),
        help: "",
    },
    meaningless("slab_sizes"),
    meaningless("no_chunked_items"),
    number_of_memcached(
        "tail_repair_time",
        10.0..=f64::MAX,
        "Cannot set tail_repair_time to less than 10 seconds",
    ),
    Key {
        name: "lru_crawler",
        takes: KeyTakes::Nothing(|d| d.config.lru_crawler = true),
        help: "allow lru_crawler crawl, metadump and mgdump (default: enabled)",
    },
    Key {
        name: "no_lru_crawler",
        takes: KeyTakes::Nothing(|d| d.config.lru_crawler = false),
        help: "refuse them until a client says lru_crawler enable",
    },
    number_of_memcached(
        "lru_crawler_sleep",
        0.0..=1_000_000.0,
        "LRU crawler sleep must be between 0 and 1 second",
    ),
    number_of_memcached(
        "lru_crawler_tocrawl",
        BITS_32,
        "lru_crawler_tocrawl takes a numeric 32bit value",
    ),
    Key {
        name: "lru_maintainer",
        takes: KeyTakes::Nothing(|d| {
            d.config.lru_maintainer = true;
        }),
        help: "",
    },
    Key {
        name: "no_lru_maintainer",
        takes: KeyTakes::Nothing(|d| {
            d.config.lru_maintainer = false;
        }),
        help: "",
    },
    number_of_memcached("hot_lru_pct", 1.0..=79.0, "hot_lru_pct must be > 1 and < 80"),
    number_of_memcached("warm_lru_pct", 1.0..=79.0, "warm_lru_pct must be > 1 and < 80"),
    number_of_memcached("hot_max_factor", ABOVE_ZERO..=f64::MAX, "hot_max_factor must be > 0"),
    number_of_memcached("warm_max_factor", ABOVE_ZERO..=f64::MAX, "warm_max_factor must be > 0"),
    Key {
        name: "temporary_ttl",
        takes: KeyTakes::Value("secs", |d, v| {
            d.config.temporary_ttl = Some(number("-o temporary_ttl", v, 0..=u32::MAX)?);
            Ok(())
        }),
        help: "",
    },
    Key {
        name: "watcher_logbuf_size",
        takes: KeyTakes::Value("kb", |d, v| {
            let kb: usize = number("-o watcher_logbuf_size", v, 1..=LOGBUF_MAX_KB)?;
            d.config.watcher_logbuf = kb * 1024;
            Ok(())
        }),
        help: "size in kilobytes of per-watcher write buffer (default: 256)",
    },
    Key {
        name: "worker_logbuf_size",
        takes: KeyTakes::Value("kb", |d, v| {
            let kb: usize = number("-o worker_logbuf_size", v, 1..=LOGBUF_MAX_KB)?;
            d.config.worker_logbuf = kb * 1024;
            Ok(())
        }),
        help: "size in kilobytes of per-worker-thread buffer read by watchers (default: 64)",
    },
    number_of_memcached(
        "read_buf_mem_limit",
        BITS_32,
        "could not parse argument to read_buf_mem_limit",
    ),
    meaningless("resp_obj_mem_limit"),
    Key {
        name: "track_sizes",
        takes: KeyTakes::Nothing(|d| d.config.track_sizes = true),
        help: "enable dynamic reports for \"stats sizes\"",
    },
    Key {
        name: "debug_clock",
        takes: KeyTakes::Nothing(|d| d.config.debug_clock = true),
        help: "for tests: clients may move the clock with \"debugtime p|r|<seconds>\" \
               (default when the program is called memcached-debug)",
    },
    meaningless("inline_ascii_resp"),
    meaningless("no_inline_ascii_resp"),
    meaningless("meta_response_old"),
    Key {
        name: "modern",
        takes: KeyTakes::Nothing(|d| {
            d.config.lru_crawler = true;
            d.config.lru_maintainer = true;
        }),
        help: "",
    },
    Key {
        name: "no_modern",
        takes: KeyTakes::Nothing(|d| {
            d.config.lru_crawler = false;
            d.config.lru_maintainer = false;
        }),
        help: "",
    },
    meaningless("drop_privileges"),
    meaningless("no_drop_privileges"),
    meaningless("relaxed_privileges"),
    meaningless("sock_cookie_id"),
    meaningless("no_ext_*"),
    refused("ext_*", "external storage (extstore) is not supported"),
    refused("ssl_*", "TLS is not supported"),
    refused("proxy_*", "memcached's proxy is not supported; see \"twincached proxy -h\""),
];
