//! Watchers: connections that read what the server does (`watch`).
//!
//! Owns the classes of lines, the list of watchers and the bounded buffers on the way to them. Never
//! makes a worker wait for a watcher: what finds no room is skipped, counted, and the watcher is told
//! how many lines it has missed.
//!
//! ```text
//!  worker: Door --line--> [ Recorder ] --end of turn--> [ Watcher's lines ] --its worker--> socket
//!                         worker_logbuf_size            watcher_logbuf_size
//!  any thread: eviction --------------------------------------^
//! ```
//! While nobody watches, a command costs one look at [`Hub::wants`]. What a peer changes here is not
//! a command of a client and makes no lines; an eviction that it causes does.

mod door;
mod lines;

pub use door::Door;
pub use lines::{CloseReason, Fetched, Status};

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use crate::base::clock::Now;
use crate::server::conn::{Produced, Producer};
use crate::server::execute::Executor;
use crate::store::{Evicted, Witness};
use lines::LINE_MAX;

/// Most watchers, memcached's WATCHER_LIMIT: each costs its buffer, and a copy of every line.
pub const WATCHERS_MAX: usize = 20;
/// Room that a watcher's buffer keeps for the line that tells of skipped ones, memcached's.
const SKIPPED_MAX: usize = 128;

/// Every look at a key.
pub const FETCHERS: u32 = 1;
/// Storage commands.
pub const MUTATIONS: u32 = 1 << 1;
/// Items that are dropped for room.
pub const EVICTIONS: u32 = 1 << 2;
/// Connections that come and go.
pub const CONNEVENTS: u32 = 1 << 3;
/// Items that are deleted by command.
pub const DELETIONS: u32 = 1 << 4;
/// Classes that memcached takes too, and that nothing here (or there) belongs to.
const SILENT: u32 = 1 << 5;

/// memcached's names, in the order in which it compares them.
const NAMES: [(&[u8], u32); 10] = [
    (b"rawcmds", SILENT),
    (b"evictions", EVICTIONS),
    (b"fetchers", FETCHERS),
    (b"mutations", MUTATIONS),
    (b"sysevents", SILENT),
    (b"connevents", CONNEVENTS),
    (b"proxyreqs", SILENT),
    (b"proxyevents", SILENT),
    (b"proxyuser", SILENT),
    (b"deletions", DELETIONS),
];

/// The classes that the words behind `watch` name; none is `fetchers`. As in memcached the beginning
/// of a name is enough. None where a word names nothing.
pub fn classes(args: &[u8]) -> Option<u32> {
    let mut words = args.split(|&byte| byte == b' ').filter(|word| !word.is_empty()).peekable();
    if words.peek().is_none() {
        return Some(FETCHERS);
    }
    words.try_fold(0, |sum, word| {
        let found = NAMES.iter().find(|(name, _)| name.starts_with(word))?;
        Some(sum | found.1)
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic elsewhere leaves a line too few.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes the worker that has a watcher's connection.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

struct Watcher {
    classes: u32,
    /// Lines with a lower number were made before it watched.
    min_gid: u64,
    lines: Mutex<Waiting>,
    /// Its worker knows that there are lines.
    told: AtomicBool,
    wake: Wake,
}

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    /// Lines that found no room since the last one that did.
    skipped: u64,
}

impl Watcher {
    /// Appends a line, or skips it. True when it was taken.
    fn offer(&self, line: &[u8], max: usize) -> bool {
        let mut waiting = lock(&self.lines);
        if waiting.bytes.len() + line.len() + SKIPPED_MAX > max {
            waiting.skipped += 1;
            return false;
        }
        if waiting.skipped > 0 {
            let told = format!("skipped={}\n", waiting.skipped);
            waiting.bytes.extend_from_slice(told.as_bytes());
            waiting.skipped = 0;
        }
        waiting.bytes.extend_from_slice(line);
        true
    }

    fn tell(&self) {
        if !lock(&self.lines).bytes.is_empty() && !self.told.swap(true, Ordering::AcqRel) {
            (self.wake)();
        }
    }
}

/// What `stats` says of watchers, by memcached's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchStats {
    /// `log_worker_dropped`
    pub worker_dropped: u64,
    /// `log_worker_written`
    pub worker_written: u64,
    /// `log_watcher_skipped`
    pub watcher_skipped: u64,
    /// `log_watcher_sent`
    pub watcher_sent: u64,
    /// `log_watchers`
    pub watchers: u64,
}

/// All watchers of a server.
pub struct Hub {
    /// The classes that anybody watches.
    wanted: AtomicU32,
    gid: AtomicU64,
    watchers: Mutex<Vec<Arc<Watcher>>>,
    watcher_buf: usize,
    worker_buf: usize,
    /// Lines were left for watchers without waking anybody.
    untold: AtomicBool,
    dropped: AtomicU64,
    written: AtomicU64,
    skipped: AtomicU64,
    sent: AtomicU64,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Hub {
    /// A hub whose buffers have so many bytes, but never less than some lines need.
    pub fn new(watcher_buf: usize, worker_buf: usize) -> Arc<Hub> {
        Arc::new(Hub {
            wanted: AtomicU32::new(0),
            gid: AtomicU64::new(1),
            watchers: Mutex::default(),
            watcher_buf: watcher_buf.max(2 * LINE_MAX),
            worker_buf: worker_buf.max(2 * LINE_MAX),
            untold: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            written: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        })
    }

    /// Whether anybody watches one of these classes.
    #[inline]
    pub fn wants(&self, classes: u32) -> bool {
        self.wanted.load(Ordering::Relaxed) & classes != 0
    }

    /// A new watcher. None when there are [`WATCHERS_MAX`] already.
    pub fn watch(self: &Arc<Hub>, classes: u32, wake: Wake) -> Option<Lines> {
        let mut watchers = lock(&self.watchers);
        if watchers.len() >= WATCHERS_MAX {
            return None;
        }
        let watcher = Arc::new(Watcher {
            classes,
            min_gid: self.next_gid(),
            lines: Mutex::default(),
            told: AtomicBool::new(false),
            wake,
        });
        watchers.push(Arc::clone(&watcher));
        self.note(&watchers);
        drop(watchers);
        Some(Lines { hub: Arc::clone(self), watcher })
    }

    fn note(&self, watchers: &[Arc<Watcher>]) {
        let wanted = watchers.iter().fold(0, |sum, watcher| sum | watcher.classes);
        self.wanted.store(wanted, Ordering::SeqCst);
    }

    fn leave(&self, watcher: &Arc<Watcher>) {
        let mut watchers = lock(&self.watchers);
        watchers.retain(|other| !Arc::ptr_eq(other, watcher));
        self.note(&watchers);
    }

    fn next_gid(&self) -> u64 {
        self.gid.fetch_add(1, Ordering::Relaxed)
    }

    /// Hands a line to those who watch its class.
    fn offer(&self, watchers: &[Arc<Watcher>], mark: Mark, line: &[u8]) {
        for watcher in watchers {
            if watcher.classes & mark.class != 0 && mark.gid >= watcher.min_gid {
                let taken = watcher.offer(line, self.watcher_buf);
                let count = if taken { &self.sent } else { &self.skipped };
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Wakes who has lines that nobody told him of. To be called now and then by threads that are
    /// in no hurry.
    pub fn tell_untold(&self) {
        if self.untold.load(Ordering::Relaxed) && self.untold.swap(false, Ordering::AcqRel) {
            lock(&self.watchers).iter().for_each(|watcher| watcher.tell());
        }
    }

    /// What `stats` says.
    pub fn stats(&self) -> WatchStats {
        WatchStats {
            worker_dropped: self.dropped.load(Ordering::Relaxed),
            worker_written: self.written.load(Ordering::Relaxed),
            watcher_skipped: self.skipped.load(Ordering::Relaxed),
            watcher_sent: self.sent.load(Ordering::Relaxed),
            watchers: lock(&self.watchers).len() as u64,
        }
    }
}

impl Witness for Arc<Hub> {
    fn is_listening(&self) -> bool {
        self.wants(EVICTIONS)
    }

    fn evicted(&self, item: &Evicted<'_>) {
        let watchers = lock(&self.watchers);
        let mark = Mark { class: EVICTIONS, gid: self.next_gid(), end: 0 };
        let mut line = Vec::with_capacity(LINE_MAX);
        lines::head(&mut line, item.at, mark.gid);
        lines::eviction(&mut line, item);
        self.written.fetch_add(1, Ordering::Relaxed);
        self.offer(&watchers, mark, &line);
        // A stripe is locked: somebody else does the waking.
        self.untold.store(true, Ordering::Release);
    }
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    class: u32,
    gid: u64,
    /// Where the line ends in the recorder's text.
    end: usize,
}

/// The lines of one worker that are not handed over yet.
#[derive(Debug)]
pub struct Recorder {
    hub: Arc<Hub>,
    text: Vec<u8>,
    marks: Vec<Mark>,
    /// The number of the connection that is being served.
    cfd: u64,
}

impl Recorder {
    fn new(hub: Arc<Hub>) -> Recorder {
        Recorder { hub, text: Vec::new(), marks: Vec::new(), cfd: 0 }
    }

    #[inline]
    fn wants(&self, classes: u32) -> bool {
        self.hub.wants(classes)
    }

    fn line(&mut self, class: u32, now: Now, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.wants(class) {
            return;
        }
        if self.text.len() + LINE_MAX > self.hub.worker_buf {
            // Before the turn's end only if nobody else is at it.
            match self.hub.watchers.try_lock() {
                Ok(watchers) => hand_over(&self.hub, &watchers, &mut self.text, &mut self.marks),
                Err(TryLockError::Poisoned(_) | TryLockError::WouldBlock) => {
                    self.hub.dropped.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
        }
        let gid = self.hub.next_gid();
        lines::head(&mut self.text, now, gid);
        write(&mut self.text);
        self.marks.push(Mark { class, gid, end: self.text.len() });
        self.hub.written.fetch_add(1, Ordering::Relaxed);
    }

    /// Gives the turn's lines to the watchers, and wakes their workers.
    fn hand_over(&mut self) {
        if !self.marks.is_empty() {
            let watchers = lock(&self.hub.watchers);
            hand_over(&self.hub, &watchers, &mut self.text, &mut self.marks);
            if watchers.is_empty() {
                self.text = Vec::new();
                self.marks = Vec::new();
            }
        }
        self.hub.tell_untold();
    }
}

fn hand_over(hub: &Hub, watchers: &[Arc<Watcher>], text: &mut Vec<u8>, marks: &mut Vec<Mark>) {
    let mut at = 0;
    for mark in marks.drain(..) {
        hub.offer(watchers, mark, &text[at..mark.end]);
        at = mark.end;
    }
    text.clear();
    watchers.iter().for_each(|watcher| watcher.tell());
}

/// The answer of `watch`: lines until the client leaves. Dropping it ends the watch.
pub struct Lines {
    hub: Arc<Hub>,
    watcher: Arc<Watcher>,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("classes", &self.watcher.classes).finish_non_exhaustive()
    }
}

impl Producer for Lines {
    /// The output takes at most one buffer of a watcher at a time: the worker asks again when it
    /// could write.
    fn produce(&mut self, _: &mut Executor, _: Now, out: &mut Vec<u8>) -> Produced {
        // First: a line that comes now wakes again.
        self.watcher.told.store(false, Ordering::Release);
        out.append(&mut lock(&self.watcher.lines).bytes);
        Produced::Wait
    }

    fn is_endless(&self) -> bool {
        true
    }

    fn is_called(&self) -> bool {
        self.watcher.told.load(Ordering::Acquire)
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.hub.leave(&self.watcher);
    }
}

#[cfg(test)]
mod tests;
