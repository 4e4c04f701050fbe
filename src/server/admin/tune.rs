//! The commands that tune a memcached, answered by a server that needs none of them.
//!
//! Owns what was set, which `stats settings` shows, and the answers. Memory here needs no slab
//! mover and no queues with shares of their own, so nothing follows from most of it: what does is
//! said where it is done. `lru_crawler crawl` sweeps expired items now instead of soon;
//! `lru_crawler disable` refuses dumps, as in memcached.

use super::classes::PAGE;
use super::dump::{self, Kind};
use crate::base::counters::ClassCounter;
use crate::protocol::classic::admin::{self, Admin};
use crate::protocol::classic::encode;
use crate::protocol::reject;
use crate::server::config::Config;
use crate::server::execute::{After, Executor};
use crate::server::shared::Shared;
use crate::store::Store;

const CRAWLER_OFF: &[u8] = b"CLIENT_ERROR lru crawler disabled\r\n";
const CRAWLER_ON: &[u8] = b"ERROR failed to start lru crawler thread\r\n";
const CRAWL_CLASS: &[u8] = b"BADCLASS invalid class id\r\n";
const CRAWL_NONE: &[u8] = b"NOTSTARTED no items to crawl\r\n";
const CRAWL_ERROR: &[u8] = b"ERROR an unknown error happened\r\n";
const METADUMP_OFF: &[u8] = b"ERROR metadump not allowed\r\n";
const METADUMP_ALONE: &[u8] = b"ERROR cannot pipeline other commands before metadump\r\n";
const MGDUMP_OFF: &[u8] = b"ERROR key dump not allowed\r\n";
const MGDUMP_ALONE: &[u8] = b"ERROR cannot pipeline other commands before mgdump\r\n";
const MOVE_SAME: &[u8] = b"SAME src and dst class are identical\r\n";
const MOVE_CLASS: &[u8] = b"BADCLASS invalid src or dst class id\r\n";
const MOVE_SPARE: &[u8] = b"NOSPARE source class has no spare pages\r\n";
const MEMLIMIT_FAILED: &[u8] = b"MEMLIMIT_ADJUST_FAILED out of bounds or unable to adjust\r\n";

/// memcached's `temporary_ttl` where none was set, in seconds.
pub(super) const TEMP_TTL: u32 = 61;

/// What was set, by memcached's names and with its defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Tuning {
    /// `lru_crawler enable|disable`: whether crawls and dumps are allowed.
    pub lru_crawler: bool,
    /// `lru_crawler sleep`, in microseconds.
    pub crawler_sleep: u32,
    /// `lru_crawler tocrawl`.
    pub crawler_tocrawl: u32,
    /// Crawls and dumps so far.
    pub crawler_starts: u64,
    /// `slabs automove`.
    pub automove: u32,
    /// `slabs automove ratio`.
    pub automove_ratio: f64,
    /// `slabs automove window`.
    pub automove_window: u32,
    /// `lru mode segmented`.
    pub segmented: bool,
    /// `lru tune`: shares in percent and factors of hot, then warm.
    pub tune: (u32, u32, f64, f64),
    /// `lru temp_ttl`.
    pub temp_ttl: Option<u32>,
}

impl Tuning {
    /// What holds at the start.
    pub fn new(config: &Config) -> Tuning {
        Tuning {
            lru_crawler: config.lru_crawler,
            crawler_sleep: 100,
            crawler_tocrawl: 0,
            crawler_starts: 0,
            automove: 1,
            automove_ratio: 0.8,
            automove_window: 10,
            segmented: config.lru_maintainer,
            tune: (20, 40, 0.2, 2.0),
            temp_ttl: config.temporary_ttl,
        }
    }
}

/// Answers a line of [`crate::protocol::Request::Admin`].
pub fn run(exec: &Executor, line: &[u8], out: &mut Vec<u8>) -> After {
    let noreply = admin::is_noreply(line);
    let alone = out.is_empty();
    let answer = match admin::parse(line) {
        Ok(Admin::Metadump(classes)) => dump(exec, Kind::Metadump, classes, alone),
        Ok(Admin::Mgdump(classes)) => dump(exec, Kind::Mgdump, classes, alone),
        Ok(other) => Err(apply(exec, &other)),
        Err(reject) => Err(reject.line),
    };
    match answer {
        Ok(stream) => return stream,
        Err(line) => out.extend_from_slice(if noreply { b"" } else { line }),
    }
    After::Next
}

/// Does what follows from a command, and returns its answer.
fn apply(exec: &Executor, command: &Admin<'_>) -> &'static [u8] {
    let shared = &exec.shared;
    match *command {
        Admin::SlabsReassign { src, dst } => return reassign(shared, src, dst),
        Admin::Crawl(classes) => return crawl(shared, classes),
        Admin::Memlimit(megabytes) => return memlimit(shared, megabytes),
        _ => {}
    }
    let tuning = &mut *shared.tuning();
    match *command {
        Admin::SlabsAutomove(level) => tuning.automove = level,
        Admin::AutomoveRatio(ratio) => tuning.automove_ratio = ratio,
        Admin::AutomoveWindow(window) => tuning.automove_window = window,
        Admin::LruSegmented(_) | Admin::LruTempTtl(_) if !shared.config.lru_maintainer => {
            return reject::ERROR;
        }
        Admin::LruSegmented(segmented) => tuning.segmented = segmented,
        Admin::LruTempTtl(ttl) => tuning.temp_ttl = ttl,
        Admin::LruTune { hot_pct, warm_pct, hot_factor, warm_factor } => {
            tuning.tune = (hot_pct, warm_pct, hot_factor, warm_factor);
        }
        Admin::Crawler(true) if tuning.lru_crawler => return CRAWLER_ON,
        Admin::Crawler(on) => tuning.lru_crawler = on,
        Admin::CrawlerSleep(sleep) => tuning.crawler_sleep = sleep,
        Admin::CrawlerTocrawl(tocrawl) => tuning.crawler_tocrawl = tocrawl,
        // Of a build with external storage; or answered above.
        _ => {}
    }
    encode::OK
}

/// Changes `-m`. The maintenance thread does the work of a lower one.
fn memlimit(shared: &Shared, megabytes: u32) -> &'static [u8] {
    let bytes = u64::from(megabytes) << 20;
    let more = bytes.saturating_sub(shared.store.memory_limit());
    // A trial of all that is new at once, as at the start; with -k it would be committed.
    let had = shared.config.lock_memory || more == 0 || Store::is_possible(more);
    if !had || shared.store.resize(bytes).is_err() {
        return MEMLIMIT_FAILED;
    }
    log::info!("maxbytes adjusted to {megabytes}m");
    encode::OK
}

/// `slabs reassign`: there are no pages to move, so all is well as it is, where memcached would
/// have found something to move.
fn reassign(shared: &Shared, src: i32, dst: i32) -> &'static [u8] {
    let last = i32::from(shared.store.config().classes.last());
    // Class 0 is memcached's pool of free pages; -1 leaves the choice to the server.
    let any = src == -1;
    if src == dst {
        return MOVE_SAME;
    }
    if !(any || (0..=last).contains(&src)) || !(0..=last).contains(&dst) {
        return MOVE_CLASS;
    }
    let (stats, sizes) = (shared.store.class_stats(), &shared.store.config().classes);
    // A class of memcached keeps the pages that its items once took.
    let spare = |class: i32| {
        let class = u8::try_from(class).unwrap_or(0);
        let ever = stats.get(class, ClassCounter::Linked);
        ever.saturating_mul(u64::from(sizes.size(class))) > PAGE
    };
    match any {
        true if (1..=last).any(|class| class != dst && spare(class)) => encode::OK,
        true => MOVE_CLASS,
        false if spare(src) => encode::OK,
        false => MOVE_SPARE,
    }
}

/// `lru_crawler crawl`: expired items of all classes are swept now.
fn crawl(shared: &Shared, classes: &[u8]) -> &'static [u8] {
    if !shared.tuning().lru_crawler {
        return CRAWLER_OFF;
    }
    match dump::Chosen::parse(classes) {
        None => CRAWL_CLASS,
        // memcached walks its hash table for dumps only.
        Some(chosen) if chosen.is_hash() => CRAWL_ERROR,
        Some(chosen) if chosen.is_empty() => CRAWL_NONE,
        Some(_) => {
            shared.tuning().crawler_starts += 1;
            shared.store.crawl();
            encode::OK
        }
    }
}

/// `lru_crawler metadump` and `mgdump`. `alone`: nothing waits to be sent before the answer.
fn dump(exec: &Executor, kind: Kind, classes: &[u8], alone: bool) -> Result<After, &'static [u8]> {
    let shared = &exec.shared;
    let (off, pipelined) = match kind {
        Kind::Metadump => (METADUMP_OFF, METADUMP_ALONE),
        Kind::Mgdump => (MGDUMP_OFF, MGDUMP_ALONE),
    };
    if !shared.tuning().lru_crawler {
        return Err(CRAWLER_OFF);
    }
    if !shared.config.dump_command {
        return Err(off);
    }
    if !alone {
        return Err(pipelined);
    }
    let chosen = dump::Chosen::parse(classes).ok_or(CRAWL_CLASS)?;
    if chosen.is_empty() {
        return Err(CRAWL_NONE);
    }
    shared.tuning().crawler_starts += 1;
    Ok(After::Stream(dump::items(kind, chosen)))
}
