//! `stats`: the process, what clients asked, and what became of the items.
//!
//! Owns the rows of memcached 1.6.45, all of them and in its order, since tools and its own tests
//! count them. What does not exist here is 0: no such thing has ever happened.

use std::sync::atomic::Ordering;

use super::stat;
use crate::base::clock::Now;
use crate::base::counters::{ClassCounter, Counter, CLASSES};
use crate::platform;
use crate::server::shared::{Shared, RESERVED_FDS};
use crate::store::StoreStats;

/// `stats` without a word behind it.
pub(super) fn stats(shared: &Shared, now: Now, out: &mut Vec<u8>) {
    let store = shared.store.stats();
    process(shared, now, out);
    commands(&store, out);
    threads(shared, &store, out);
    background(shared, out);
    memory(shared, &store, out);
    if let Some(replication) = shared.replication.get() {
        for (name, value) in replication.stats() {
            stat(out, name, value);
        }
    }
}

fn zeros(names: &[&str], out: &mut Vec<u8>) {
    for name in names {
        stat(out, name, 0);
    }
}

/// The process and its connections.
fn process(shared: &Shared, now: Now, out: &mut Vec<u8>) {
    let usage = platform::usage();
    stat(out, "pid", shared.pid);
    stat(out, "uptime", (now.mono_us - shared.started.mono_us.min(now.mono_us)) / 1_000_000);
    stat(out, "time", now.unix_secs());
    stat(out, "version", &shared.version);
    // There is none; tools expect the row.
    stat(out, "libevent", "none");
    stat(out, "pointer_size", usize::BITS);
    for (name, us) in [("rusage_user", usage.user_us), ("rusage_system", usage.system_us)] {
        stat(out, name, format_args!("{}.{:06}", us / 1_000_000, us % 1_000_000));
    }
    stat(out, "max_connections", shared.config.max_conns);
    // As in memcached, where every UDP socket of a worker is a connection that never ends.
    let udp = shared.udp_sockets.load(Ordering::Relaxed);
    stat(out, "curr_connections", shared.curr_connections.load(Ordering::Relaxed) + udp);
    stat(out, "total_connections", shared.total_connections() + udp);
    if shared.config.maxconns_fast {
        stat(out, "rejected_connections", shared.rejected_connections());
    }
    stat(out, "connection_structures", shared.conns().len());
    // memcached's pools of response objects and read buffers: what stands for the latter here are
    // the data blocks under way.
    zeros(&["response_obj_oom", "response_obj_count", "response_obj_bytes", "read_buf_count"], out);
    stat(out, "read_buf_bytes", shared.reserved_data());
    stat(out, "read_buf_bytes_free", 0);
    stat(out, "read_buf_oom", shared.data_refused.load(Ordering::Relaxed));
    stat(out, "reserved_fds", RESERVED_FDS);
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
}

/// Traffic, accepting, workers, index.
fn threads(shared: &Shared, store: &StoreStats, out: &mut Vec<u8>) {
    if shared.config.idle_timeout_secs > 0 {
        stat(out, "idle_kicks", store.sums.get(Counter::IdleKicks));
    }
    stat(out, "bytes_read", store.sums.get(Counter::BytesRead));
    stat(out, "bytes_written", store.sums.get(Counter::BytesWritten));
    stat(out, "limit_maxbytes", store.limit_maxbytes);
    stat(out, "accepting_conns", u8::from(shared.accepting.load(Ordering::Relaxed)));
    stat(out, "listen_disabled_num", shared.listen_disabled.load(Ordering::Relaxed));
    let disabled_us = shared.listen_disabled_us.load(Ordering::Relaxed);
    stat(out, "time_in_listen_disabled_us", disabled_us);
    stat(out, "threads", shared.config.threads);
    stat(out, "conn_yields", store.sums.get(Counter::ConnYields));
    stat(out, "hash_power_level", store.index_slots.max(1).ilog2());
    stat(out, "hash_bytes", store.index_bytes);
    stat(out, "hash_is_expanding", 0);
}

/// memcached's background threads: the page mover, the crawler, the queues' maintainer, the logger.
fn background(shared: &Shared, out: &mut Vec<u8>) {
    zeros(
        &[
            "slab_reassign_rescues",
            "slab_reassign_chunk_rescues",
            "slab_reassign_inline_reclaim",
            "slab_reassign_busy_items",
            "slab_reassign_busy_deletes",
            "slab_reassign_busy_nomem",
        ],
        out,
    );
    stat(out, "slab_reassign_last_busy_status", "none");
    zeros(&["slab_reassign_running", "slabs_moved"], out);
    let tuning = shared.tuning().clone();
    if tuning.lru_crawler {
        stat(out, "lru_crawler_running", u8::from(shared.store.is_crawling()));
        stat(out, "lru_crawler_starts", tuning.crawler_starts);
    }
    if shared.config.lru_maintainer {
        stat(out, "lru_maintainer_juggles", 0);
    }
    zeros(&["malloc_fails"], out);
    let watch = shared.watch.stats();
    for (name, value) in [
        ("log_worker_dropped", watch.worker_dropped),
        ("log_worker_written", watch.worker_written),
        ("log_watcher_skipped", watch.watcher_skipped),
        ("log_watcher_sent", watch.watcher_sent),
        ("log_watchers", watch.watchers),
    ] {
        stat(out, name, value);
    }
    zeros(&["unexpected_napi_ids", "round_robin_fallback"], out);
}

/// Items, and why they left.
fn memory(shared: &Shared, store: &StoreStats, out: &mut Vec<u8>) {
    let sum = |counter| store.sums.get(counter);
    let segmented = shared.config.lru_maintainer;
    stat(out, "bytes", store.bytes);
    stat(out, "curr_items", store.curr_items);
    stat(out, "total_items", sum(Counter::TotalItems));
    stat(out, "slab_global_page_pool", store.segments_free);
    stat(out, "expired_unfetched", sum(Counter::ExpiredUnfetched));
    stat(out, "evicted_unfetched", sum(Counter::EvictedUnfetched));
    if segmented {
        stat(out, "evicted_active", sum(Counter::EvictedActive));
    }
    stat(out, "evictions", sum(Counter::Evictions));
    stat(out, "reclaimed", sum(Counter::Reclaimed));
    let classes = shared.store.class_stats();
    let crawled = |class| classes.get(class, ClassCounter::CrawlerReclaimed);
    stat(out, "crawler_reclaimed", (0..CLASSES as u8).map(crawled).sum::<u64>());
    zeros(&["crawler_items_checked", "lrutail_reflocked"], out);
    if segmented {
        zeros(&["moves_to_cold", "moves_to_warm"], out);
        stat(out, "moves_within_lru", sum(Counter::Moved));
        zeros(&["direct_reclaims", "lru_bumps_dropped"], out);
    }
}
