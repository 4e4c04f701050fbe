//! What `stats` answers.
//!
//! Owns the names, order and shapes of memcached's statistics, as memcached-tool, phpMemcachedAdmin
//! and the Prometheus exporter read them. Reads counters that others keep; never changes one,
//! except that `stats reset` takes the present sums as the new zero.
//!
//! memcached's slab classes do not exist here: items of all sizes share one arena. `stats items`
//! and `stats slabs` show it as one class, number 1, whose pages are the arena's segments.

use std::fmt::Display;
use std::io::Write;
use std::sync::atomic::Ordering;

use crate::base::clock::Now;
use crate::base::counters::Counter;
use crate::base::num;
use crate::platform;
use crate::protocol::classic::encode;
use crate::protocol::reject;
use crate::server::config::Protocol;
use crate::server::shared::Shared;
use crate::store::StoreStats;

/// The one slab class that `stats items` and `stats slabs` show.
const CLASS: u32 = 1;

/// memcached's answer to `stats detail` with another word than on, off or dump.
const DETAIL_USAGE: &[u8] = b"CLIENT_ERROR usage: stats detail on|off|dump\r\n";
/// Statistics by key prefix are not kept.
const DETAIL_OFF: &[u8] = b"CLIENT_ERROR stats detail not allowed\r\n";
/// memcached's answer to `stats cachedump` without a class.
const DUMP_USAGE: &[u8] = b"CLIENT_ERROR bad command line\r\n";
/// memcached's answer where dumping is disabled, as it is here.
const DUMP_OFF: &[u8] = b"CLIENT_ERROR stats cachedump not allowed\r\n";

/// Appends `STAT name value`.
fn stat(out: &mut Vec<u8>, name: impl Display, value: impl Display) {
    // Writing to a Vec cannot fail.
    let _ = write!(out, "STAT {name} {value}\r\n");
}

/// Answers `stats` with what follows it on the line.
pub fn stats(shared: &Shared, args: &[u8], now: Now, out: &mut Vec<u8>) {
    let mut words = args.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    match (words.next().unwrap_or_default(), words.next()) {
        (b"", _) => general(shared, now, out),
        (b"settings", _) => settings(shared, out),
        (b"items", _) => items(&shared.store.stats(), out),
        (b"slabs", _) => slabs(&shared.store.stats(), out),
        // What `stats sizes` would count costs a pass over all items; memcached keeps it off too.
        (b"sizes", _) => stat(out, "sizes_status", "disabled"),
        (b"conns", _) => conns(shared, now, out),
        (b"replication", _) => {
            if let Some(replication) = shared.replication.get() {
                for (name, value) in replication.stats_replication() {
                    stat(out, name, value);
                }
            }
        }
        (b"reset", _) => {
            shared.reset_stats();
            out.extend_from_slice(encode::RESET);
            return;
        }
        (b"detail", mode) => {
            let known = matches!(mode, Some(b"on" | b"off" | b"dump"));
            out.extend_from_slice(if known { DETAIL_OFF } else { DETAIL_USAGE });
            return;
        }
        (b"cachedump", class) => {
            let number = |word: Option<&[u8]>| word.and_then(num::parse_u32).is_some();
            out.extend_from_slice(match (class, number(class) && number(words.next())) {
                (None, _) => DUMP_USAGE,
                (Some(_), false) => reject::BAD_FORMAT,
                (Some(_), true) => DUMP_OFF,
            });
            return;
        }
        _ => {
            out.extend_from_slice(reject::ERROR);
            return;
        }
    }
    out.extend_from_slice(encode::END);
}

fn general(shared: &Shared, now: Now, out: &mut Vec<u8>) {
    let store = shared.store.stats();
    process(shared, now, out);
    commands(&store, out);
    threads(shared, &store, out);
    memory(&store, out);
    if let Some(replication) = shared.replication.get() {
        for (name, value) in replication.stats() {
            stat(out, name, value);
        }
    }
}

/// The process and its connections.
fn process(shared: &Shared, now: Now, out: &mut Vec<u8>) {
    let usage = platform::usage();
    stat(out, "pid", shared.pid);
    stat(out, "uptime", (now.mono_us - shared.started.mono_us.min(now.mono_us)) / 1_000_000);
    stat(out, "time", now.unix_secs());
    stat(out, "version", &shared.version);
    stat(out, "pointer_size", usize::BITS);
    for (name, us) in [("rusage_user", usage.user_us), ("rusage_system", usage.system_us)] {
        stat(out, name, format_args!("{}.{:06}", us / 1_000_000, us % 1_000_000));
    }
    stat(out, "max_connections", shared.config.max_conns);
    stat(out, "curr_connections", shared.curr_connections.load(Ordering::Relaxed));
    stat(out, "total_connections", shared.total_connections());
    if shared.config.maxconns_fast {
        stat(out, "rejected_connections", shared.rejected_connections());
    }
    stat(out, "connection_structures", shared.conns().len());
    stat(out, "response_obj_oom", 0);
    stat(out, "read_buf_bytes", shared.reserved_data());
    stat(out, "read_buf_oom", shared.data_refused.load(Ordering::Relaxed));
    stat(out, "reserved_fds", super::shared::RESERVED_FDS);
}

/// What clients asked, by memcached's names.
fn commands(store: &StoreStats, out: &mut Vec<u8>) {
    use Counter::*;
    for (name, counter) in [
        ("cmd_get", CmdGet),
        ("cmd_set", CmdSet),
        ("cmd_flush", CmdFlush),
        ("cmd_touch", CmdTouch),
        ("cmd_meta", CmdMeta),
        ("get_hits", GetHits),
        ("get_misses", GetMisses),
        ("get_expired", GetExpired),
        ("get_flushed", GetFlushed),
        ("delete_misses", DeleteMisses),
        ("delete_hits", DeleteHits),
        ("incr_misses", IncrMisses),
        ("incr_hits", IncrHits),
        ("decr_misses", DecrMisses),
        ("decr_hits", DecrHits),
        ("cas_misses", CasMisses),
        ("cas_hits", CasHits),
        ("cas_badval", CasBadval),
        ("touch_hits", TouchHits),
        ("touch_misses", TouchMisses),
        ("store_too_large", TooLarge),
        ("store_no_memory", OutOfMemory),
        ("auth_cmds", AuthCmds),
        ("auth_errors", AuthErrors),
    ] {
        stat(out, name, store.sums.get(counter));
    }
    stat(out, "bytes_read", store.sums.get(BytesRead));
    stat(out, "bytes_written", store.sums.get(BytesWritten));
    stat(out, "limit_maxbytes", store.limit_maxbytes);
}

/// Accepting, workers, index.
fn threads(shared: &Shared, store: &StoreStats, out: &mut Vec<u8>) {
    stat(out, "accepting_conns", u8::from(shared.accepting.load(Ordering::Relaxed)));
    stat(out, "listen_disabled_num", shared.listen_disabled.load(Ordering::Relaxed));
    let disabled_us = shared.listen_disabled_us.load(Ordering::Relaxed);
    stat(out, "time_in_listen_disabled_us", disabled_us);
    stat(out, "threads", shared.config.threads);
    if shared.config.idle_timeout_secs > 0 {
        stat(out, "idle_kicks", store.sums.get(Counter::IdleKicks));
    }
    stat(out, "conn_yields", store.sums.get(Counter::ConnYields));
    stat(out, "hash_power_level", store.index_slots.max(1).ilog2());
    stat(out, "hash_bytes", store.index_bytes);
    stat(out, "hash_is_expanding", 0);
    stat(out, "slab_reassign_running", 0);
    stat(out, "slabs_moved", 0);
    stat(out, "lru_crawler_running", 0);
    stat(out, "malloc_fails", 0);
}

/// Items, and why they left.
fn memory(store: &StoreStats, out: &mut Vec<u8>) {
    stat(out, "bytes", store.bytes);
    stat(out, "curr_items", store.curr_items);
    stat(out, "total_items", store.sums.get(Counter::TotalItems));
    stat(out, "slab_global_page_pool", store.segments_free);
    for (name, counter) in [
        ("expired_unfetched", Counter::ExpiredUnfetched),
        ("evicted_unfetched", Counter::EvictedUnfetched),
        ("evicted_active", Counter::EvictedActive),
        ("evictions", Counter::Evictions),
        ("reclaimed", Counter::Reclaimed),
        ("moves_within_lru", Counter::Moved),
    ] {
        stat(out, name, store.sums.get(counter));
    }
}

fn on_off(on: bool) -> &'static str {
    if on {
        "on"
    } else {
        "off"
    }
}

fn yes_no(yes: bool) -> &'static str {
    if yes {
        "yes"
    } else {
        "no"
    }
}

fn settings(shared: &Shared, out: &mut Vec<u8>) {
    let config = &shared.config;
    stat(out, "maxbytes", config.memory_limit);
    stat(out, "maxconns", config.max_conns);
    stat(out, "tcpport", shared.tcp_port.load(Ordering::Relaxed));
    stat(out, "udpport", 0);
    let inter = if config.listen.is_empty() { "NULL".into() } else { config.listen.join(",") };
    stat(out, "inter", inter);
    stat(out, "verbosity", shared.verbosity.load(Ordering::Relaxed));
    stat(out, "oldest", 0);
    stat(out, "evictions", on_off(config.evict));
    match &config.unix_path {
        Some(path) => stat(out, "domain_socket", path.display()),
        None => stat(out, "domain_socket", "NULL"),
    }
    stat(out, "umask", format_args!("{:o}", config.unix_mode));
    stat(out, "shutdown_command", yes_no(config.shutdown_command));
    stat(out, "growth_factor", format_args!("{:.2}", config.growth_factor));
    stat(out, "chunk_size", config.chunk_size);
    stat(out, "num_threads", config.threads);
    stat(out, "num_threads_per_udp", config.threads);
    stat(out, "stat_key_prefix", char::from(config.prefix_delimiter));
    stat(out, "detail_enabled", "no");
    stat(out, "reqs_per_event", config.reqs_per_event);
    stat(out, "cas_enabled", yes_no(config.cas));
    stat(out, "tcp_backlog", config.backlog);
    stat(
        out,
        "binding_protocol",
        match config.protocol {
            Protocol::Auto => "auto-negotiate",
            Protocol::Ascii => "ascii",
            Protocol::Binary => "binary",
        },
    );
    stat(out, "auth_enabled_sasl", yes_no(config.sasl));
    match &config.auth_file {
        Some(path) => stat(out, "auth_enabled_ascii", path.display()),
        None => stat(out, "auth_enabled_ascii", "no"),
    }
    stat(out, "item_size_max", config.item_max);
    stat(out, "maxconns_fast", yes_no(config.maxconns_fast));
    stat(out, "hashpower_init", 0);
    stat(out, "slab_reassign", "no");
    stat(out, "slab_automove", 0);
    stat(out, "slab_chunk_max", config.item_max / 2);
    stat(out, "lru_crawler", "yes");
    stat(out, "flush_enabled", yes_no(config.flush_command));
    stat(out, "dump_enabled", yes_no(config.dump_command));
    stat(out, "hash_algorithm", "wyhash");
    stat(out, "lru_maintainer_thread", "yes");
    stat(out, "lru_segmented", "yes");
    stat(out, "idle_timeout", config.idle_timeout_secs);
    stat(out, "track_sizes", "no");
    stat(out, "inline_ascii_response", "no");
    stat(out, "ssl_enabled", "no");
    stat(out, "memory_file", "(null)");
}

fn items(store: &StoreStats, out: &mut Vec<u8>) {
    if store.curr_items == 0 {
        return;
    }
    let sum = |counter| store.sums.get(counter);
    for (name, value) in [
        ("number", store.curr_items),
        ("number_hot", 0),
        ("number_warm", 0),
        ("number_cold", store.curr_items),
        ("age_hot", 0),
        ("age_warm", 0),
        ("age", 0),
        ("mem_requested", store.bytes),
        ("evicted", sum(Counter::Evictions)),
        ("evicted_nonzero", 0),
        ("evicted_time", 0),
        ("outofmemory", sum(Counter::OutOfMemory)),
        ("tailrepairs", 0),
        ("reclaimed", sum(Counter::Reclaimed)),
        ("expired_unfetched", sum(Counter::ExpiredUnfetched)),
        ("evicted_unfetched", sum(Counter::EvictedUnfetched)),
        ("evicted_active", sum(Counter::EvictedActive)),
        ("crawler_reclaimed", 0),
        ("crawler_items_checked", 0),
        ("lrutail_reflocked", 0),
        ("moves_to_cold", 0),
        ("moves_to_warm", 0),
        ("moves_within_lru", sum(Counter::Moved)),
        ("direct_reclaims", 0),
    ] {
        stat(out, format_args!("items:{CLASS}:{name}"), value);
    }
}

fn slabs(store: &StoreStats, out: &mut Vec<u8>) {
    let sum = |counter| store.sums.get(counter);
    if store.curr_items > 0 {
        for (name, value) in [
            ("chunk_size", store.segment_bytes),
            ("chunks_per_page", 1),
            ("total_pages", store.segments),
            ("total_chunks", store.segments),
            ("used_chunks", store.segments - store.segments_free.min(store.segments)),
            ("free_chunks", store.segments_free),
            ("free_chunks_end", 0),
            ("get_hits", sum(Counter::GetHits)),
            ("cmd_set", sum(Counter::CmdSet)),
            ("delete_hits", sum(Counter::DeleteHits)),
            ("incr_hits", sum(Counter::IncrHits)),
            ("decr_hits", sum(Counter::DecrHits)),
            ("cas_hits", sum(Counter::CasHits)),
            ("cas_badval", sum(Counter::CasBadval)),
            ("touch_hits", sum(Counter::TouchHits)),
        ] {
            stat(out, format_args!("{CLASS}:{name}"), value);
        }
    }
    stat(out, "active_slabs", u8::from(store.curr_items > 0));
    stat(out, "total_malloced", store.segments * store.segment_bytes + store.index_bytes);
}

fn conns(shared: &Shared, now: Now, out: &mut Vec<u8>) {
    for (id, info) in shared.conns().iter() {
        stat(out, format_args!("{id}:addr"), &info.addr);
        if !info.listen_addr.is_empty() {
            stat(out, format_args!("{id}:listen_addr"), &info.listen_addr);
        }
        stat(out, format_args!("{id}:state"), info.state().name());
        stat(out, format_args!("{id}:secs_since_last_cmd"), info.idle_secs(now));
    }
}
