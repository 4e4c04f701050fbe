//! The replication thread: all peer links over real sockets.
//!
//! Owns the thread, what other threads may ask of it ([`Peer`]) and its settings. Decides nothing
//! about replication: `replication::Node` does, `driver` moves its bytes. Never blocks a
//! worker: a worker raises `Store::changed` and wakes the thread, that is all.
//!
//! ```text
//!   workers --(feeds, Waker)--> +--------------------+ <--(sockets)--> peers
//!   stats   <--(snapshot)------ | replication thread |
//!   main    --(stop, serving)-> +--------------------+ <--(names)----> resolver thread
//! ```

mod access;
mod connect;
mod dial;
mod driver;
mod figures;
mod resolve;
mod sockets;

use super::config;
use super::secret_file::Keys;
use super::shared::Replication;
use super::waits::Acks;
use crate::base::clock::{Clock, Now, RealClock};
use crate::replication::secret::Secret;
use crate::replication::NodeId;
use crate::store::Store;
use driver::Driver;
use figures::Stats;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Settings of the replication thread.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// What the command line says.
    pub settings: config::Replication,
    /// `-l`: addresses to listen on (a port in them is ignored). Empty: all.
    pub listen: Vec<String>,
    /// Who this process is: drawn at random at its start.
    pub id: NodeId,
    /// What peers have to know.
    pub secret: Option<Arc<Secret>>,
    /// Makes the nonces of the challenge and the passes of links: drawn at random.
    pub nonce_key: [u8; 32],
    /// Who waits for what peers acknowledge.
    pub acks: Arc<Acks>,
}

impl PeerConfig {
    /// What the command line says. `random` brings 64 random bits each time.
    pub fn from_settings(
        settings: &config::Replication,
        listen: &[String],
        random: fn() -> u64,
    ) -> PeerConfig {
        let id = NodeId(u128::from(random()) << 64 | u128::from(random()));
        let (secret, nonce_key) = (None, [0; 32]);
        let (settings, listen) = (settings.clone(), listen.to_vec());
        let acks = Acks::new(Some(&settings));
        PeerConfig { settings, listen, id, secret, nonce_key, acks }
    }

    /// The same with what was found of a secret.
    pub fn with_keys(self, keys: Keys) -> PeerConfig {
        PeerConfig { secret: keys.secret, nonce_key: keys.nonce_key, ..self }
    }
}

/// What other threads share with the replication thread.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    stats: Mutex<Stats>,
    /// When the oldest change was made that a peer has not acknowledged, monotonic microseconds.
    /// [`SETTLED`], or [`ALONE`].
    oldest_us: AtomicU64,
}

/// All that has left the feeds is acknowledged.
const SETTLED: u64 = 0;
/// Nobody is linked.
const ALONE: u64 = u64::MAX;

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn publish(&self, stats: Stats) {
        *lock(&self.stats) = stats;
    }

    /// What leaves the feeds from now on is not settled, until the next [`Shared::settled`].
    fn unsettle(&self, now: Now) {
        let made = now.mono_us.max(1);
        let _ = self.oldest_us.compare_exchange(SETTLED, made, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Takes down how far peers are, see [`Node::lag_us`](crate::replication::Node::lag_us).
    fn settled(&self, lag_us: Option<u64>, now: Now) {
        let oldest_us = match lag_us {
            None => ALONE,
            Some(0) => SETTLED,
            Some(lag) => now.mono_us.saturating_sub(lag).max(1),
        };
        self.oldest_us.store(oldest_us, Ordering::Release);
    }

    /// The lag at this moment: never 0 while a peer lacks a change that a client has an answer to.
    fn lag_us(&self, store: &Store, now: Now) -> u64 {
        // Looked at first: what has left the feeds by then is in `oldest_us`.
        let waits = store.has_fed();
        match self.oldest_us.load(Ordering::Acquire) {
            ALONE => 0,
            SETTLED => u64::from(waits),
            made => now.mono_us.saturating_sub(made).max(1),
        }
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// Called once, when clients may come: this node is filled, or there is nobody to fill it.
type Serve = Box<dyn Fn() + Send>;

/// The running replication thread.
#[derive(Debug)]
pub struct Peer {
    shared: Arc<Shared>,
    waker: Arc<mio::Waker>,
    thread: Mutex<Option<JoinHandle<()>>>,
    store: Arc<Store>,
    clock: RealClock,
    acks: Arc<Acks>,
}

/// Starts the replication thread: it dials its peers at once, and calls `serve` when clients may
/// come.
///
/// # Errors
/// The system gives no poll or no thread. A port that cannot be opened is not an error here: it is
/// logged and tried again, as the peer of a shared host may hold it.
pub fn spawn(
    config: PeerConfig,
    store: Arc<Store>,
    clock: RealClock,
    serve: Serve,
) -> io::Result<Peer> {
    let poll = mio::Poll::new()?;
    let waker = Arc::new(mio::Waker::new(poll.registry(), driver::WAKER)?);
    let shared = Arc::new(Shared::default());
    let (kept, ticks) = (Arc::clone(&store), clock.clone());
    let acks = Arc::clone(&config.acks);
    let driver = Driver::new(config, store, clock, poll, &waker, &shared, serve);
    let builder = std::thread::Builder::new().name("replication".to_owned());
    let thread = builder.spawn(move || driver.run())?;
    let thread = Mutex::new(Some(thread));
    Ok(Peer { shared, waker, thread, store: kept, clock: ticks, acks })
}

impl Peer {
    /// Sends what is queued (for a bounded time), says good-bye and ends the thread.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        // Without a wake-up the thread looks by itself within a second.
        let _ = self.waker.wake();
        if let Some(thread) = lock(&self.thread).take() {
            if thread.join().is_err() {
                log::error!("the replication thread had panicked");
            }
        }
    }
}

impl Replication for Arc<Peer> {
    fn wake(&self) {
        // A thread that cannot be woken looks by itself within a second.
        let _ = self.waker.wake();
    }

    fn stats(&self) -> Vec<(String, String)> {
        let lag = self.shared.lag_us(&self.store, self.clock.now());
        let mut stats = lock(&self.shared.stats).general(lag);
        stats.extend(self.acks.stats().map(|(name, value)| (name.to_owned(), value.to_string())));
        stats
    }

    fn stats_replication(&self) -> Vec<(String, String)> {
        lock(&self.shared.stats).peers(self.clock.now())
    }
}

#[cfg(test)]
mod tests;
