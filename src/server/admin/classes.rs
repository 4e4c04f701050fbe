//! `stats items` and `stats slabs`: what is here, by memcached's size classes.
//!
//! Owns the shape of both. A class here is a way to sort items, not memory of its own: its pages
//! are as many as memcached would need for its items, none of its chunks is free, and what
//! memcached's queues would tell of it is 0.

use super::stat;
use crate::base::counters::ClassCounter::{self, *};
use crate::base::counters::CLASSES;
use crate::server::shared::Shared;

/// Bytes of memcached's slab pages.
pub(super) const PAGE: u64 = 1 << 20;

/// What memcached keeps and we do not: rows that tools expect all the same.
const NONE: u64 = 0;

fn classes() -> std::ops::Range<u8> {
    1..CLASSES as u8
}

/// `stats items`: every class that holds items.
pub(super) fn items(shared: &Shared, out: &mut Vec<u8>) {
    let stats = shared.store.class_stats();
    let segmented = shared.config.lru_maintainer;
    for class in classes() {
        let get = |counter: ClassCounter| stats.get(class, counter);
        let number = stats.number(class);
        if number == 0 {
            continue;
        }
        let mut row = |name: &str, value: u64| {
            stat(out, format_args!("items:{class}:{name}"), value);
        };
        row("number", number);
        if segmented {
            row("number_hot", NONE);
            row("number_warm", NONE);
            row("number_cold", number);
            if shared.tuning().temp_ttl.is_some() {
                row("number_temp", NONE);
            }
            row("age_hot", NONE);
            row("age_warm", NONE);
        }
        row("age", NONE);
        row("mem_requested", get(MemRequested));
        row("evicted", get(Evicted));
        row("evicted_nonzero", get(EvictedNonzero));
        row("evicted_time", NONE);
        row("outofmemory", get(OutOfMemory));
        row("tailrepairs", NONE);
        row("reclaimed", get(Reclaimed));
        row("expired_unfetched", get(ExpiredUnfetched));
        row("evicted_unfetched", get(EvictedUnfetched));
        if segmented {
            row("evicted_active", get(EvictedActive));
        }
        row("crawler_reclaimed", get(CrawlerReclaimed));
        row("crawler_items_checked", NONE);
        row("lrutail_reflocked", NONE);
        if segmented {
            row("moves_to_cold", NONE);
            row("moves_to_warm", NONE);
            row("moves_within_lru", get(Moved));
            row("direct_reclaims", NONE);
            row("hits_to_hot", NONE);
            row("hits_to_warm", NONE);
            row("hits_to_cold", get(GetHits));
            row("hits_to_temp", NONE);
        }
    }
}

/// `stats slabs`: every class that has had items, and the memory of all.
pub(super) fn slabs(shared: &Shared, out: &mut Vec<u8>) {
    let stats = shared.store.class_stats();
    let sizes = &shared.store.config().classes;
    let mut active = 0;
    for class in classes() {
        let get = |counter: ClassCounter| stats.get(class, counter);
        // A class that ever had items stays, as in memcached it keeps a page.
        if get(Linked) == 0 {
            continue;
        }
        let items = stats.number(class);
        active += 1;
        let chunk_size = u64::from(sizes.size(class)).max(1);
        let per_page = (PAGE / chunk_size).max(1);
        // Of the largest class an item may take several.
        let used = items.max(get(MemRequested).div_ceil(chunk_size));
        for (name, value) in [
            ("chunk_size", chunk_size),
            ("chunks_per_page", per_page),
            ("total_pages", used.div_ceil(per_page)),
            ("total_chunks", used),
            ("used_chunks", used),
            ("free_chunks", NONE),
            ("free_chunks_end", NONE),
            ("get_hits", get(GetHits)),
            ("cmd_set", get(CmdSet)),
            ("delete_hits", get(DeleteHits)),
            ("incr_hits", get(IncrHits)),
            ("decr_hits", get(DecrHits)),
            ("cas_hits", get(CasHits)),
            ("cas_badval", get(CasBadval)),
            ("touch_hits", get(TouchHits)),
        ] {
            stat(out, format_args!("{class}:{name}"), value);
        }
    }
    let store = shared.store.stats();
    stat(out, "active_slabs", active);
    // Of segments, as memcached of pages: the index is `hash_bytes`.
    stat(out, "total_malloced", store.segments_committed * store.segment_bytes);
}
