//! Synchronous writes (`-o repl_ack=N`): replies that wait until N peers have the change.
//!
//! Owns what workers and the replication thread tell each other about it ([`Acks`]), and the line
//! of waiting replies of one worker ([`Waits`]). Never touches a socket or a connection, never
//! blocks, and never holds a reply itself: that stays in its connection, behind a [`Ticket`].
//!
//! ```text
//!   worker: change, reply held --wanted, wake--> replication thread: change and mark sent at once
//!      ^                                                  |
//!      +--- wake, only a worker in whose line replies wait +--- quorum, when acks have moved it
//!
//!   line:   | version, deadline | version, deadline | ...    in order of both
//!             acknowledged? its connection lets it go; deadline over? it says so instead
//! ```
//!
//! Bounded by the connections: each holds back so many replies and no more, and fewer where the
//! line is crowded (`server/conn/hold.rs`); what connections that went leave behind is at most as
//! much again.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::clock::Now;
use crate::base::replies::Ticket;
use crate::replication::Quorum;
use crate::server::config::Replication;
use crate::server::watch::Wake;
use crate::store::Version;

/// Places of replies whose connections went that may stay in a line, before it is looked through
/// for them: so many cost nothing.
const GONE_KEEP: usize = 1024;
/// With so many replies the line of a worker is crowded: some fifteen megabytes of them.
const CROWD: usize = 64 * 1024;
/// Places of a line that stay allocated when they are not needed any more.
const LINE_KEEP: usize = 4096;

/// What the workers and the replication thread share.
pub struct Acks {
    /// N; 0: nobody waits.
    peers: usize,
    timeout_us: u64,
    degrade: bool,
    quorum: Mutex<Quorum>,
    /// Times that it changed.
    changes: AtomicU64,
    /// [`Quorum::enough`], to be read without the lock.
    enough: AtomicBool,
    /// The highest version that a reply waits for.
    wanted: AtomicU64,
    /// It has moved since the replication thread looked.
    asked: AtomicBool,
    workers: Mutex<Vec<Arc<Member>>>,
    timeouts: AtomicU64,
    degraded: AtomicU64,
}

/// One worker, as the replication thread sees it.
struct Member {
    wake: Wake,
    /// Replies wait, and it is to be woken when the quorum changes.
    sleeps: AtomicBool,
    waiting: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Acks {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Acks").field("peers", &self.peers).finish_non_exhaustive()
    }
}

impl Acks {
    /// As the command line says. Without replication nobody waits.
    pub fn new(settings: Option<&Replication>) -> Arc<Acks> {
        let settings = settings.cloned().unwrap_or_default();
        Arc::new(Acks {
            peers: settings.ack as usize,
            timeout_us: settings.ack_timeout_ms.saturating_mul(1000),
            degrade: settings.ack_degrade,
            quorum: Mutex::default(),
            changes: AtomicU64::new(0),
            enough: AtomicBool::new(false),
            wanted: AtomicU64::new(0),
            asked: AtomicBool::new(false),
            workers: Mutex::default(),
            timeouts: AtomicU64::new(0),
            degraded: AtomicU64::new(0),
        })
    }

    /// Peers that must have applied a change, and how long its reply waits for them at most, in
    /// microseconds. None: no reply waits.
    pub fn terms(&self) -> Option<(usize, u64)> {
        (self.peers > 0).then_some((self.peers, self.timeout_us))
    }

    /// The highest version that a reply waits for. Later ones wake the replication thread again;
    /// to be called before the feeds are drained, so that the drain has the change.
    pub fn take_wanted(&self) -> Version {
        self.asked.store(false, Ordering::SeqCst);
        Version(self.wanted.load(Ordering::SeqCst))
    }

    /// What peers have acknowledged has changed: wakes the workers in whose lines replies wait.
    pub fn publish(&self, quorum: Quorum) {
        {
            let mut shared = lock(&self.quorum);
            if *shared == quorum {
                return;
            }
            *shared = quorum;
        }
        self.enough.store(quorum.enough, Ordering::SeqCst);
        self.changes.fetch_add(1, Ordering::SeqCst);
        for worker in &*lock(&self.workers) {
            if worker.sleeps.swap(false, Ordering::SeqCst) {
                (worker.wake)();
            }
        }
    }

    /// The lines that `stats` gains.
    pub fn stats(&self) -> [(&'static str, u64); 4] {
        let waiting = |worker: &Arc<Member>| worker.waiting.load(Ordering::Relaxed);
        [
            ("repl_ack", self.peers as u64),
            ("repl_ack_waiting", lock(&self.workers).iter().map(waiting).sum()),
            ("repl_ack_timeouts", self.timeouts.load(Ordering::Relaxed)),
            ("repl_ack_degraded", self.degraded.load(Ordering::Relaxed)),
        ]
    }

    /// `stats reset`.
    pub fn reset(&self) {
        self.timeouts.store(0, Ordering::Relaxed);
        self.degraded.store(0, Ordering::Relaxed);
    }
}

/// How the client asked, for the answer where not enough peers acknowledge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// By a line.
    Text,
    /// By a packet.
    Binary {
        /// The request's, which the answer repeats.
        opcode: u8,
        /// The request's, which the answer repeats.
        opaque: [u8; 4],
    },
}

/// One reply that waits.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    version: Version,
    deadline_us: u64,
    /// Its place in its connection.
    pub ticket: Ticket,
    /// Whom it goes to.
    pub client: Client,
    /// How it was asked.
    pub asked: Asked,
}

/// A worker's connection. The serial tells it from a later one in the same place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// Its place.
    pub key: usize,
    /// Its number among all connections of the worker.
    pub serial: u64,
}

/// What became of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The reply may leave: enough peers have the change, or enough are not asked for.
    Answer,
    /// Too few peers have acknowledged it in time.
    Refuse,
}

/// The waiting replies of one worker.
pub struct Waits {
    acks: Arc<Acks>,
    on: bool,
    member: Option<Arc<Member>>,
    line: VecDeque<Wait>,
    /// How many of them have no connection any more.
    gone: usize,
    /// [`Acks::changes`] when the line was looked through last.
    seen: u64,
    /// The highest version that the replication thread was asked for.
    told: Version,
    /// Whose commands are executed now.
    pub client: Client,
    /// Earlier replies of this connection wait.
    pub behind: bool,
}

impl Waits {
    /// An empty line.
    pub fn new(acks: Arc<Acks>) -> Waits {
        let (client, told) = (Client::default(), Version(0));
        let (on, line) = (acks.peers > 0, VecDeque::new());
        Waits { acks, on, member: None, line, gone: 0, seen: 0, told, client, behind: false }
    }

    /// From here on `wake` is called when a look at the line is due.
    pub fn join(&mut self, wake: Wake) {
        if self.on {
            let (sleeps, waiting) = (AtomicBool::new(false), AtomicU64::new(0));
            let member = Arc::new(Member { wake, sleeps, waiting });
            lock(&self.acks.workers).push(Arc::clone(&member));
            self.member = Some(member);
        }
    }

    /// Whether replies wait at all (`-o repl_ack`).
    #[inline]
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// Whether the reply to a change has to wait. If not, it is one that is answered although too
    /// few peers are there (`-o repl_ack_degrade`).
    pub fn must_wait(&self) -> bool {
        if self.acks.degrade && !self.acks.enough.load(Ordering::SeqCst) {
            self.acks.degraded.fetch_add(1, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// Whether so many replies wait that no connection should have many of them.
    #[inline]
    pub fn is_crowded(&self) -> bool {
        self.line.len() >= CROWD
    }

    /// Gives back what a line that was long does not need any more.
    fn shrink(&mut self) {
        if self.line.capacity() > LINE_KEEP && self.line.len() < self.line.capacity() / 4 {
            self.line.shrink_to((2 * self.line.len()).max(LINE_KEEP));
        }
    }

    /// Puts a reply of the present connection into the line: it waits for `version`, which is not
    /// lower than any before.
    pub fn push(&mut self, ticket: Ticket, version: Version, asked: Asked, now: Now) {
        let deadline_us = now.mono_us.saturating_add(self.acks.timeout_us);
        self.line.push_back(Wait { version, deadline_us, ticket, client: self.client, asked });
    }

    /// When the first reply has waited for long enough, monotonic microseconds.
    pub fn deadline_us(&self) -> Option<u64> {
        Some(self.line.front()?.deadline_us)
    }

    /// Takes those out of the line whose waiting is over, into `out`.
    pub fn settle(&mut self, now: Now, out: &mut Vec<(Wait, Outcome)>) {
        if self.line.is_empty() {
            return;
        }
        let changes = self.acks.changes.load(Ordering::SeqCst);
        if changes != self.seen {
            self.seen = changes;
            let quorum = *lock(&self.acks.quorum);
            self.acknowledged(&quorum, out);
            if self.acks.degrade && !quorum.enough {
                self.degrade(self.line.len(), out);
            }
        }
        let over = self.line.iter().take_while(|wait| wait.deadline_us <= now.mono_us).count();
        if over > 0 && self.acks.degrade {
            self.degrade(over, out);
        } else if over > 0 {
            self.acks.timeouts.fetch_add(over as u64, Ordering::Relaxed);
            out.extend(self.line.drain(..over).map(|wait| (wait, Outcome::Refuse)));
        }
        self.shrink();
    }

    fn acknowledged(&mut self, quorum: &Quorum, out: &mut Vec<(Wait, Outcome)>) {
        let behind = |wait: &Wait, upto: Version| wait.version <= upto;
        let upto = self.line.partition_point(|wait| behind(wait, quorum.upto));
        out.extend(self.line.drain(..upto).map(|wait| (wait, Outcome::Answer)));
        let (from, upto) = quorum.live;
        let from = self.line.partition_point(|wait| behind(wait, from));
        let upto = self.line.partition_point(|wait| behind(wait, upto));
        if from < upto {
            out.extend(self.line.drain(from..upto).map(|wait| (wait, Outcome::Answer)));
        }
    }

    /// The first `count` are answered although too few peers have acknowledged them.
    fn degrade(&mut self, count: usize, out: &mut Vec<(Wait, Outcome)>) {
        self.acks.degraded.fetch_add(count as u64, Ordering::Relaxed);
        out.extend(self.line.drain(..count).map(|wait| (wait, Outcome::Answer)));
    }

    /// A connection went with so many replies waiting. True when the line has so many of such that
    /// [`Waits::retain`] is due.
    pub fn left(&mut self, replies: usize) -> bool {
        self.gone += replies;
        self.gone > GONE_KEEP && self.gone > self.line.len() / 2
    }

    /// One that was taken out had no connection any more.
    pub fn was_gone(&mut self) {
        self.gone = self.gone.saturating_sub(1);
    }

    /// Drops those whose connections went.
    pub fn retain(&mut self, lives: impl Fn(Client) -> bool) {
        self.line.retain(|wait| lives(wait.client));
        self.gone = 0;
        self.shrink();
    }

    /// The end of a turn: asks for acknowledgements of what came into the line in it. True when the
    /// replication thread is to be woken. The line is to be looked through once more before the
    /// worker sleeps: from here on changes wake it.
    pub fn hand_over(&mut self) -> bool {
        let Some(member) = self.member.as_ref().filter(|_| self.on) else { return false };
        let waiting = self.line.len().saturating_sub(self.gone) as u64;
        member.waiting.store(waiting, Ordering::Relaxed);
        let Some(last) = self.line.back() else { return false };
        member.sleeps.store(true, Ordering::SeqCst);
        if last.version <= self.told {
            return false;
        }
        self.told = last.version;
        self.acks.wanted.fetch_max(last.version.0, Ordering::SeqCst);
        !self.acks.asked.swap(true, Ordering::SeqCst)
    }
}

#[cfg(test)]
#[path = "waits_tests.rs"]
mod tests;
