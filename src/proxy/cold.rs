//! Which places have lost what they held, and what has been done about it; all workers share it.
//!
//! Owns, for every place, whether it is cold (a miss there may be in its counterpart: a server's
//! backups, a backup's servers), since when and why, the single keys that it lost, and who its
//! processes were when they were last met. Never asks anybody anything ([`super::relay`] does),
//! never reads a clock. A warm place costs a hit nothing and a miss one relaxed load.
//!
//! ```text
//!   proxy starts, another process answers,    walked from every counterpart,
//!   too much was missed                       and 10 s are over
//!        ------------> cold --------------------------------------> warm
//!                       ^                                            |
//!                       |  too many to remember        missed writes |
//!                       +------------------------- owed keys <-------+
//!                                                   each read and put back --> warm
//! ```

use std::collections::{BTreeSet, HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use super::behind::Behind;
use crate::base::clock::Now;
use crate::base::hash::hash_key;
use crate::base::num::{parse_i64, parse_u64};

/// How long a place is cold at least, in microseconds: what was under way when it was lost, on any
/// worker, has long ended then.
pub const COLD_MIN_US: u64 = 10_000_000;
/// Keys that one place may owe: as many as missed writes are remembered for it.
const OWED_MAX: usize = 65_536;
/// Bytes of these keys.
const OWED_BYTES_MAX: usize = 4 << 20;
/// Keys that server and backup are known to lack, in all (1 MiB). One that has lost its place is
/// asked for once more.
const LACKED: usize = 131_072;

/// Why a place is cold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The proxy has just begun to use it.
    New,
    /// Another process answers there than before.
    Restarted,
    /// It was away, and does not say whether it is the same process.
    Unknown,
    /// It has missed more writes than could be remembered, or a `flush_all`.
    Missed,
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Reason::New => "nothing is known of it yet",
            Reason::Restarted => "it was restarted",
            Reason::Unknown => "it was away, and may have been restarted",
            Reason::Missed => "it has missed too much",
        })
    }
}

/// Which process answers, by `stats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    pid: Option<u64>,
    uptime: Option<i64>,
    time: Option<i64>,
}

impl Identity {
    /// Takes in one line of `stats`.
    pub fn stat(&mut self, name: &[u8], value: &[u8]) {
        match name {
            b"pid" => self.pid = parse_u64(value),
            b"uptime" => self.uptime = parse_i64(value),
            b"time" => self.time = parse_i64(value),
            _ => {}
        }
    }

    /// When the process began, in seconds of its own wall clock.
    fn started(&self) -> Option<i64> {
        self.time?.checked_sub(self.uptime?)
    }

    /// Whether `later`, met `elapsed_us` afterwards, is the same process. `None`: it does not say.
    /// Process ids alone tell little: in a container they are all 1. Wall clocks may be set, so
    /// that it is enough if one of the two ways to know the beginning agrees. Both are rounded to
    /// seconds.
    fn same(&self, later: &Identity, elapsed_us: u64) -> Option<bool> {
        let (before, after) = (self.started()?, later.started()?);
        let aged = later.uptime?.checked_sub(self.uptime?)?;
        let elapsed = i64::try_from(elapsed_us / 1_000_000).ok()?;
        let same_start = before.abs_diff(after) <= 1 || aged.abs_diff(elapsed) <= 1;
        Some(self.pid == later.pid && same_start)
    }
}

/// What a place's counterparts have done to warm it.
#[derive(Debug)]
struct Chill {
    since: u64,
    reason: Reason,
    /// The counterparts whose keys have all been looked at.
    walked: HashSet<String>,
    /// One of them cannot list its keys.
    unlisted: bool,
}

#[derive(Debug, Default)]
struct Inner {
    cold: Option<Chill>,
    period: u64,
    owed: BTreeSet<Box<[u8]>>,
    owed_bytes: usize,
    /// By member: who it was, and when it was met.
    met: HashMap<String, (Identity, u64)>,
}

/// One place's state.
#[derive(Debug)]
pub struct Slot {
    name: String,
    warm: AtomicBool,
    lacked: Arc<Lacked>,
    behind: Behind,
    inner: Mutex<Inner>,
}

impl Slot {
    fn new(name: String, lacked: Arc<Lacked>) -> Slot {
        let (behind, inner) = (Behind::default(), Mutex::default());
        Slot { name, warm: AtomicBool::new(true), lacked, behind, inner }
    }

    /// Keys that some worker has still to delete there.
    pub fn behind(&self) -> &Behind {
        &self.behind
    }

    /// As it is called in the log.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // No code below can panic with the state half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn settle(&self, inner: &Inner) {
        self.warm.store(inner.cold.is_none() && inner.owed.is_empty(), Ordering::Relaxed);
    }

    /// Whether a miss here is a miss.
    pub fn is_warm(&self) -> bool {
        self.warm.load(Ordering::Relaxed)
    }

    /// Whether a miss of `key` here may be a hit at the counterpart.
    pub fn may_be_elsewhere(&self, key: &[u8]) -> bool {
        if self.is_warm() {
            return false;
        }
        let inner = self.inner();
        inner.owed.contains(key) || inner.cold.is_some() && !self.lacked.has(key)
    }

    /// The number of the present cold period, if it is cold.
    pub fn period(&self) -> Option<u64> {
        let inner = self.inner();
        inner.cold.as_ref().map(|_| inner.period)
    }

    /// It counts as empty from now on.
    pub fn chill(&self, now: Now, reason: Reason) {
        let mut inner = self.inner();
        self.chill_inner(&mut inner, now, reason);
    }

    fn chill_inner(&self, inner: &mut Inner, now: Now, reason: Reason) {
        inner.period += 1;
        inner.owed = BTreeSet::new();
        inner.owed_bytes = 0;
        let (since, walked) = (now.mono_us, HashSet::new());
        inner.cold = Some(Chill { since, reason, walked, unlisted: false });
        self.lacked.renew();
        self.settle(inner);
        match reason {
            Reason::New => log::debug!("proxy: {} is cold: {reason}", self.name),
            _ => log::info!("proxy: {} is cold: {reason}", self.name),
        }
    }

    /// A process has said who it is. `was_lost`: the connection before this one was lost.
    pub fn met(&self, now: Now, member: &str, who: Identity, was_lost: bool) {
        let mut inner = self.inner();
        let before = inner.met.insert(member.to_owned(), (who, now.mono_us));
        let Some((before, at)) = before else { return };
        match before.same(&who, now.mono_us.saturating_sub(at)) {
            Some(true) => {}
            Some(false) => self.chill_inner(&mut inner, now, Reason::Restarted),
            None if was_lost => self.chill_inner(&mut inner, now, Reason::Unknown),
            None => {}
        }
    }

    /// It lost `key`, or never got it: a write of it was missed.
    pub fn owe(&self, now: Now, key: &[u8]) {
        let mut inner = self.inner();
        if inner.owed.contains(key) {
            return;
        }
        if inner.owed.len() >= OWED_MAX || inner.owed_bytes + key.len() > OWED_BYTES_MAX {
            return self.chill_inner(&mut inner, now, Reason::Missed);
        }
        inner.owed_bytes += key.len();
        inner.owed.insert(key.into());
        self.settle(&inner);
    }

    /// `key` is back, or nobody has it.
    pub fn paid(&self, key: &[u8]) {
        let mut inner = self.inner();
        if inner.owed.remove(key) {
            inner.owed_bytes -= key.len();
            if inner.owed.is_empty() {
                inner.owed = BTreeSet::new();
            }
            self.settle(&inner);
        }
    }

    /// At most `max` keys that it owes.
    pub fn owed(&self, max: usize) -> Vec<Box<[u8]>> {
        if self.is_warm() {
            return Vec::new();
        }
        self.inner().owed.iter().take(max).cloned().collect()
    }

    /// Whether it is cold and the keys of `source` have not been walked since it is.
    pub fn needs(&self, source: &str) -> bool {
        if self.is_warm() {
            return false;
        }
        self.inner().cold.as_ref().is_some_and(|cold| !cold.walked.contains(source))
    }

    /// All keys of `source` have been looked at, if it is still in that period. `listed`: whether
    /// it could list them.
    pub fn walked(&self, period: u64, source: &str, listed: bool) {
        let mut inner = self.inner();
        if inner.period == period {
            if let Some(cold) = &mut inner.cold {
                cold.walked.insert(source.to_owned());
                cold.unlisted |= !listed;
            }
        }
    }

    /// Ends the cold period when it is time. `cold_us`: how long it lasts when a counterpart cannot
    /// list its keys.
    pub fn warm_up(&self, now: Now, cold_us: u64) {
        if self.is_warm() {
            return;
        }
        let mut inner = self.inner();
        let Some(cold) = &inner.cold else { return };
        let least = if cold.unlisted { cold_us.max(COLD_MIN_US) } else { COLD_MIN_US };
        if now.mono_us.saturating_sub(cold.since) < least {
            return;
        }
        if cold.reason != Reason::New {
            log::info!("proxy: {} is warm again", self.name);
        }
        inner.cold = None;
        self.settle(&inner);
    }
}

/// Keys that server and backup were seen to lack, by what is left of a keyed hash: who has the
/// place of a key is no guess of a client's.
#[derive(Debug)]
pub struct Lacked {
    seed: u64,
    /// In the hash of every entry, so that all of them can be made void at once.
    epoch: AtomicU64,
    /// Something may be in the table.
    used: AtomicBool,
    table: OnceLock<Box<[AtomicU64]>>,
}

impl Lacked {
    fn new() -> Lacked {
        let seed = std::collections::hash_map::RandomState::new().hash_one(0);
        let (epoch, used) = (AtomicU64::new(0), AtomicBool::new(false));
        Lacked { seed, epoch, used, table: OnceLock::new() }
    }

    fn renew(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
        self.used.store(false, Ordering::SeqCst);
    }

    /// The key's place, and what is there if it is in the table.
    fn place(&self, key: &[u8]) -> (usize, u64) {
        let epoch = self.epoch.load(Ordering::SeqCst);
        let hash = hash_key(self.seed.wrapping_add(epoch), key);
        (hash as usize % LACKED, hash | 1)
    }

    /// Both lack `key`.
    pub fn add(&self, key: &[u8]) {
        let (at, mark) = self.place(key);
        let table = self.table.get_or_init(|| (0..LACKED).map(|_| AtomicU64::new(0)).collect());
        self.used.store(true, Ordering::SeqCst);
        table[at].store(mark, Ordering::SeqCst);
    }

    /// `key` is being written.
    pub fn forget(&self, key: &[u8]) {
        if !self.used.load(Ordering::Relaxed) {
            return;
        }
        let Some(table) = self.table.get() else { return };
        let (at, mark) = self.place(key);
        // Whoever has this place meanwhile is asked for once more.
        let _ = table[at].compare_exchange(mark, 0, Ordering::SeqCst, Ordering::SeqCst);
    }

    fn has(&self, key: &[u8]) -> bool {
        let Some(table) = self.table.get() else { return false };
        let (at, mark) = self.place(key);
        table[at].load(Ordering::SeqCst) == mark
    }
}

/// All places.
#[derive(Debug)]
pub struct Cold {
    slots: Mutex<Vec<Weak<Slot>>>,
    lacked: Arc<Lacked>,
}

impl Default for Cold {
    fn default() -> Cold {
        Cold { slots: Mutex::default(), lacked: Arc::new(Lacked::new()) }
    }
}

impl Cold {
    /// The state of the place called `name`, the same for all workers. A new place is cold if
    /// `cold` says so.
    pub fn slot(&self, name: &str, cold: bool) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|slot| slot.strong_count() > 0);
        let same = slots.iter().filter_map(Weak::upgrade).find(|slot| slot.name == name);
        same.unwrap_or_else(|| {
            let slot = Arc::new(Slot::new(name.to_owned(), Arc::clone(&self.lacked)));
            if cold {
                // Time counts from the proxy's start, or from long before a reload: what matters
                // is that its keys are walked.
                slot.chill(Now { unix_us: 0, mono_us: 0 }, Reason::New);
            }
            slots.push(Arc::downgrade(&slot));
            slot
        })
    }

    /// The keys that are known to be nowhere.
    pub fn lacked(&self) -> &Lacked {
        &self.lacked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: u64) -> Now {
        Now { unix_us: (1_700_000_000 + secs) * 1_000_000, mono_us: secs * 1_000_000 }
    }

    fn who(pid: u64, uptime: i64, time: i64) -> Identity {
        let mut identity = Identity::default();
        for (name, value) in [(&b"pid"[..], pid as i64), (b"uptime", uptime), (b"time", time)] {
            identity.stat(name, value.to_string().as_bytes());
        }
        identity.stat(b"threads", b"4");
        identity
    }

    #[test]
    fn the_same_process_and_others() {
        let before = who(1, 100, 5000);
        for (after, elapsed, same) in [
            (who(1, 150, 5050), 50, Some(true)),
            (who(1, 151, 5050), 50, Some(true)),
            // Stopped for a while, its clock behind.
            (who(1, 101, 5001), 50, Some(true)),
            // The wall clock was set.
            (who(1, 150, 9999), 50, Some(true)),
            (who(2, 150, 5050), 50, Some(false)),
            (who(1, 2, 5050), 50, Some(false)),
            (who(1, 47, 5050), 50, Some(false)),
            (Identity::default(), 50, None),
        ] {
            assert_eq!(before.same(&after, elapsed * 1_000_000), same, "{after:?}");
        }
    }

    #[test]
    fn a_place_is_cold_until_walked_and_ten_seconds_old() {
        let cold = Cold::default();
        let slot = cold.slot("a", true);
        assert!(!slot.is_warm() && slot.may_be_elsewhere(b"k") && slot.needs("b"));
        assert!(Arc::ptr_eq(&slot, &cold.slot("a", true)), "all workers have the same");
        slot.met(at(5), "a", who(7, 1, 100), false);
        slot.met(at(20), "a", who(8, 1, 116), true);
        let period = slot.period().expect("cold");
        slot.walked(period - 1, "b", true);
        assert!(slot.needs("b"), "that was another time");
        slot.walked(period, "b", true);
        assert!(!slot.needs("b"));
        slot.warm_up(at(29), 1000);
        assert!(!slot.is_warm());
        slot.warm_up(at(30), 1000);
        assert!(slot.is_warm() && !slot.may_be_elsewhere(b"k"));
        // Somebody who cannot list.
        slot.chill(at(40), Reason::Missed);
        slot.walked(slot.period().expect("cold"), "b", false);
        slot.warm_up(at(60), 100_000_000);
        assert!(!slot.is_warm());
        slot.warm_up(at(140), 100_000_000);
        assert!(slot.is_warm());
        drop(slot);
        assert!(!cold.slot("a", false).may_be_elsewhere(b"k"), "forgotten with its last user");
    }

    #[test]
    fn single_keys_are_owed_and_too_many_are_all() {
        let cold = Cold::default();
        let slot = cold.slot("a", false);
        slot.owe(at(0), b"k");
        slot.owe(at(0), b"k");
        assert!(slot.may_be_elsewhere(b"k") && !slot.may_be_elsewhere(b"other"));
        assert_eq!(slot.owed(10), [(*b"k").into()]);
        slot.paid(b"k");
        assert!(slot.is_warm() && slot.owed(10).is_empty());
        for n in 0..=OWED_MAX {
            slot.owe(at(1), format!("{n}").as_bytes());
        }
        assert!(slot.may_be_elsewhere(b"anything") && slot.needs("b"));
        assert!(slot.owed(10).is_empty(), "the walk sees them all");
    }

    #[test]
    fn what_is_nowhere_is_known_until_it_is_written_or_all_begins_anew() {
        let cold = Cold::default();
        let slot = cold.slot("a", true);
        cold.lacked().add(b"k");
        assert!(!slot.may_be_elsewhere(b"k") && slot.may_be_elsewhere(b"l"));
        cold.lacked().forget(b"l");
        assert!(!slot.may_be_elsewhere(b"k"));
        cold.lacked().forget(b"k");
        assert!(slot.may_be_elsewhere(b"k"));
        cold.lacked().add(b"k");
        slot.owe(at(1), b"k");
        assert!(slot.may_be_elsewhere(b"k"), "it is known to be somewhere");
        slot.paid(b"k");
        slot.chill(at(2), Reason::Restarted);
        assert!(slot.may_be_elsewhere(b"k"));
    }
}
