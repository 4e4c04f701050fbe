//! The keys of `-o` of a server.
//!
//! Owns the table: ours, memcached's that mean something here, and every other key of memcached
//! 1.6, so that a command line that worked keeps working.

use super::memcached::{set_personality, Draft};
use super::table::{Key, KeyTakes};
use super::values::{number, path};
use crate::server::config::ITEM_MAX_MAX;

/// Most that `-o watcher_logbuf_size` takes, in kilobytes: a gigabyte, which no watcher fills.
const WATCHER_LOGBUF_MAX_KB: usize = 1 << 20;

/// memcached's `slab_chunk_max` where none is given: half of its slab pages.
const SLAB_CHUNK_MAX: u32 = 512 * 1024;

const fn meaningless(name: &'static str) -> Key<Draft> {
    Key { name, takes: KeyTakes::Meaningless(note), help: "" }
}

const fn meaningless_number(name: &'static str) -> Key<Draft> {
    Key { name, takes: KeyTakes::MeaninglessNumber(note), help: "" }
}

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
    meaningless_number("hashpower"),
    meaningless("no_hashexpand"),
    meaningless("hash_algorithm"),
    meaningless("slab_reassign"),
    meaningless("no_slab_reassign"),
    meaningless("slab_automove"),
    meaningless("no_slab_automove"),
    meaningless_number("slab_automove_ratio"),
    meaningless_number("slab_automove_window"),
    meaningless_number("slab_automove_freeratio"),
    Key {
        name: "slab_chunk_max",
        takes: KeyTakes::Value("kb", |d, v| {
            let kb = number("-o slab_chunk_max", v, 0..=ITEM_MAX_MAX / 1024)?;
            // As in memcached: half of a slab page where it is 0.
            d.config.slab_chunk_max = if kb == 0 { SLAB_CHUNK_MAX } else { kb * 1024 };
            note(d, "slab_chunk_max");
            Ok(())
        }),
        help: "",
    },
    meaningless("slab_sizes"),
    meaningless("no_chunked_items"),
    meaningless_number("tail_repair_time"),
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
    meaningless_number("lru_crawler_sleep"),
    meaningless_number("lru_crawler_tocrawl"),
    Key {
        name: "lru_maintainer",
        takes: KeyTakes::Nothing(|d| {
            d.config.lru_maintainer = true;
            note(d, "lru_maintainer");
        }),
        help: "",
    },
    Key {
        name: "no_lru_maintainer",
        takes: KeyTakes::Nothing(|d| {
            d.config.lru_maintainer = false;
            note(d, "no_lru_maintainer");
        }),
        help: "",
    },
    meaningless_number("hot_lru_pct"),
    meaningless_number("warm_lru_pct"),
    meaningless_number("hot_max_factor"),
    meaningless_number("warm_max_factor"),
    Key {
        name: "temporary_ttl",
        takes: KeyTakes::Value("secs", |d, v| {
            d.config.temporary_ttl = Some(number("-o temporary_ttl", v, 0..=u32::MAX)?);
            note(d, "temporary_ttl");
            Ok(())
        }),
        help: "",
    },
    Key {
        name: "watcher_logbuf_size",
        takes: KeyTakes::Value("kb", |d, v| {
            let kb: usize = number("-o watcher_logbuf_size", v, 1..=WATCHER_LOGBUF_MAX_KB)?;
            d.config.watcher_logbuf = kb * 1024;
            Ok(())
        }),
        help: "size in kilobytes of per-watcher write buffer (default: 256)",
    },
    meaningless_number("worker_logbuf_size"),
    meaningless_number("read_buf_mem_limit"),
    meaningless_number("resp_obj_mem_limit"),
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
            note(d, "modern");
        }),
        help: "",
    },
    Key {
        name: "no_modern",
        takes: KeyTakes::Nothing(|d| {
            d.config.lru_crawler = false;
            d.config.lru_maintainer = false;
            note(d, "no_modern");
        }),
        help: "",
    },
    meaningless("drop_privileges"),
    meaningless("no_drop_privileges"),
    meaningless("relaxed_privileges"),
    meaningless_number("sock_cookie_id"),
    meaningless("no_ext_*"),
    refused("ext_*", "external storage (extstore) is not supported"),
    refused("ssl_*", "TLS is not supported"),
    refused("proxy_*", "memcached's proxy is not supported; see \"twincached proxy -h\""),
];
