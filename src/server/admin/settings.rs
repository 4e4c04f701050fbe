//! `stats settings`: what the server was told to be.
//!
//! Owns the rows of memcached 1.6.45, in its order; those of external storage and TLS are left out,
//! as by a memcached that is built without. What has no meaning here shows what memcached would
//! show for the same command line, or what was set since ([`super::tune`]).

use std::sync::atomic::Ordering;

use super::{stat, yes_no};
use crate::server::config::{Protocol, Replication};
use crate::server::shared::Shared;
use crate::server::udp;

/// All rows.
pub(super) fn stats(shared: &Shared, out: &mut Vec<u8>) {
    network(shared, out);
    limits(shared, out);
    tuning(shared, out);
    let config = &shared.config;
    stat(out, "idle_timeout", config.idle_timeout_secs);
    stat(out, "watcher_logbuf_size", config.watcher_logbuf);
    stat(out, "worker_logbuf_size", config.worker_logbuf);
    stat(out, "read_buf_mem_limit", 0);
    stat(out, "track_sizes", yes_no(config.track_sizes));
    stat(out, "inline_ascii_response", "no");
    stat(out, "num_napi_ids", 0);
    stat(out, "memory_file", "(null)");
    stat(out, "client_flags_size", size_of::<u32>());
    if let Some(settings) = &config.replication {
        replication(settings, out);
    }
}

/// What a memcached has not: the keys of `-o` and their values, as they could be given.
fn replication(settings: &Replication, out: &mut Vec<u8>) {
    let secs = |ms: u64| ms as f64 / 1000.0;
    stat(out, "repl_timeout", secs(settings.timeout_ms));
    stat(out, "repl_ack", settings.ack);
    stat(out, "repl_ack_timeout", secs(settings.ack_timeout_ms));
    stat(out, "repl_ack_degrade", yes_no(settings.ack_degrade));
    let allow: Vec<String> = settings.allow.iter().map(ToString::to_string).collect();
    stat(out, "repl_allow", if allow.is_empty() { "no".into() } else { allow.join(",") });
    match &settings.secret_file {
        Some(path) => stat(out, "repl_secret_file", path.display()),
        None => stat(out, "repl_secret_file", "no"),
    }
    stat(out, "repl_tombstone", settings.tombstone_secs);
}

fn network(shared: &Shared, out: &mut Vec<u8>) {
    let config = &shared.config;
    stat(out, "maxbytes", shared.store.stats().limit_maxbytes);
    stat(out, "maxconns", config.max_conns);
    stat(out, "tcpport", shared.tcp_port.load(Ordering::Relaxed));
    stat(out, "udpport", shared.udp_port.load(Ordering::Relaxed));
    let inter = if config.listen.is_empty() { "NULL".into() } else { config.listen.join(",") };
    stat(out, "inter", inter);
    stat(out, "verbosity", shared.verbosity.load(Ordering::Relaxed));
    // The second since the start up to which everything was flushed.
    let flushed = shared.store.flush_state().watermark.unix_secs();
    stat(out, "oldest", flushed.saturating_sub(shared.started.unix_secs()));
    stat(out, "evictions", if config.evict { "on" } else { "off" });
    match &config.unix_path {
        Some(path) => stat(out, "domain_socket", path.display()),
        None => stat(out, "domain_socket", "NULL"),
    }
    stat(out, "umask", format_args!("{:o}", config.unix_mode));
}

fn limits(shared: &Shared, out: &mut Vec<u8>) {
    let config = &shared.config;
    stat(out, "shutdown_command", yes_no(config.shutdown_command));
    stat(out, "growth_factor", format_args!("{:.2}", config.growth_factor));
    stat(out, "chunk_size", config.chunk_size);
    stat(out, "num_threads", config.threads);
    stat(out, "num_threads_per_udp", udp::sockets_per_address(config));
    stat(out, "stat_key_prefix", char::from(config.prefix_delimiter));
    stat(out, "detail_enabled", yes_no(shared.detail.is_on()));
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
}

fn tuning(shared: &Shared, out: &mut Vec<u8>) {
    let config = &shared.config;
    let tuning = shared.tuning().clone();
    let (hot_pct, warm_pct, hot_factor, warm_factor) = tuning.tune;
    stat(out, "slab_reassign", "yes");
    stat(out, "slab_automove", tuning.automove);
    stat(out, "slab_automove_ratio", format_args!("{:.2}", tuning.automove_ratio));
    stat(out, "slab_automove_window", tuning.automove_window);
    stat(out, "slab_chunk_max", config.slab_chunk_max);
    stat(out, "lru_crawler", yes_no(tuning.lru_crawler));
    stat(out, "lru_crawler_sleep", tuning.crawler_sleep);
    stat(out, "lru_crawler_tocrawl", tuning.crawler_tocrawl);
    stat(out, "tail_repair_time", 0);
    stat(out, "flush_enabled", yes_no(config.flush_command));
    stat(out, "dump_enabled", yes_no(config.dump_command));
    stat(out, "hash_algorithm", "wyhash");
    stat(out, "lru_maintainer_thread", yes_no(config.lru_maintainer));
    stat(out, "lru_segmented", yes_no(tuning.segmented));
    stat(out, "hot_lru_pct", hot_pct);
    stat(out, "warm_lru_pct", warm_pct);
    stat(out, "hot_max_factor", format_args!("{hot_factor:.2}"));
    stat(out, "warm_max_factor", format_args!("{warm_factor:.2}"));
    stat(out, "temp_lru", yes_no(tuning.temp_ttl.is_some()));
    // memcached keeps the last one when it is turned off.
    stat(out, "temporary_ttl", tuning.temp_ttl.unwrap_or(super::tune::TEMP_TTL));
}
