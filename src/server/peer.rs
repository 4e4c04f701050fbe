//! The replication thread: all peer links over real sockets.
//!
//! Owns the thread, what other threads may ask of it ([`Peer`]) and its settings. Decides nothing
//! about replication: `replication::Node` does, [`driver`](self) moves its bytes. Never blocks a
//! worker: a worker raises `Store::changed` and wakes the thread, that is all.
//!
//! ```text
//!   workers --(feeds, Waker)--> +--------------------+ <--(sockets)--> peers
//!   stats   <--(snapshot)------ | replication thread |
//!   main    --(stop, serving)-> +--------------------+ <--(names)----> resolver thread
//! ```

mod driver;
mod resolve;
mod sockets;

use crate::base::clock::RealClock;
use crate::replication::NodeId;
use crate::store::Store;
use driver::Driver;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// repcached's default replication port.
pub const DEFAULT_PORT: u16 = 11212;
/// The version of repcached whose behaviour `stats` promises.
const REPCACHED_VERSION: &str = "2.3.1";

/// Settings of the replication thread.
#[derive(Clone, Debug)]
pub struct PeerConfig {
    /// `-x`: peers, as `host`, `host:port`, an address, or `[v6]:port`. Empty: only listen.
    pub peers: Vec<String>,
    /// `-X`: the port to listen on, and to connect to where a peer names none.
    pub port: u16,
    /// `-l`: addresses to listen on (a port in them is ignored). Empty: all.
    pub listen: Vec<String>,
    /// `-q`: changes that may wait per link.
    pub queue_max: usize,
    /// Silence after which a peer is given up, in milliseconds.
    pub timeout_ms: u64,
    /// For how long a broken link may resume, in seconds: the lifetime of tombstones.
    pub resume_secs: u32,
    /// Who this process is; see [`random_id`].
    pub id: NodeId,
}

impl PeerConfig {
    /// repcached's defaults, a five-second timeout, and a new identity.
    pub fn new(peers: Vec<String>, port: u16) -> PeerConfig {
        PeerConfig {
            peers,
            port,
            listen: Vec::new(),
            queue_max: 8192,
            timeout_ms: 5000,
            resume_secs: 3600,
            id: random_id(),
        }
    }
}

/// A new identity: 128 random bits from the system.
pub fn random_id() -> NodeId {
    let mut bytes = [0; 16];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    if read.is_ok() {
        return NodeId(u128::from_le_bytes(bytes));
    }
    // The standard library's hash keys come from the system as well.
    let half = || u128::from(RandomState::new().build_hasher().finish());
    NodeId(half() << 64 | half())
}

/// What other threads share with the replication thread.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    serving: Mutex<bool>,
    served: Condvar,
    stop: AtomicBool,
    stats: Mutex<Stats>,
}

/// What `stats` shows, as of the last turn or so.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stats {
    pub general: Vec<(String, String)>,
    pub links: Vec<(String, String)>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn serve(&self) {
        *lock(&self.serving) = true;
        self.served.notify_all();
    }

    fn publish(&self, stats: Stats) {
        *lock(&self.stats) = stats;
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }
}

/// The running replication thread.
#[derive(Debug)]
pub struct Peer {
    shared: Arc<Shared>,
    waker: Arc<mio::Waker>,
    thread: JoinHandle<()>,
}

/// Starts the replication thread: it dials its peers at once.
///
/// # Errors
/// The system gives no poll or no thread. A port that cannot be opened is not an error here: it is
/// logged and tried again, as the peer of a shared host may hold it.
pub fn spawn(config: PeerConfig, store: Arc<Store>, clock: RealClock) -> io::Result<Peer> {
    let poll = mio::Poll::new()?;
    let waker = Arc::new(mio::Waker::new(poll.registry(), driver::WAKER)?);
    let shared = Arc::new(Shared::default());
    let driver =
        Driver::new(config, store, clock, poll, Arc::clone(&waker), Arc::clone(&shared))?;
    let ending = Arc::clone(&shared);
    let thread = std::thread::Builder::new().name("replication".to_owned()).spawn(move || {
        if let Err(error) = driver.run() {
            log::error!("replication: {error}: this node goes on alone");
        }
        // A node whose replication has ended must not keep its clients waiting.
        ending.serve();
    })?;
    Ok(Peer { shared, waker, thread })
}

impl Peer {
    /// Returns once the client port may open: this node is filled, or there is nobody to fill it.
    pub fn wait_until_serving(&self) {
        let serving = lock(&self.shared.serving);
        let _serving = self
            .shared
            .served
            .wait_while(serving, |serving| !*serving)
            .unwrap_or_else(PoisonError::into_inner);
    }

    /// The same, for at most `limit`: whether the client port may open. For a caller that has to
    /// look at signals meanwhile.
    pub fn wait_until_serving_for(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut serving = lock(&self.shared.serving);
        while !*serving {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            serving = match self.shared.served.wait_timeout(serving, left) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        true
    }

    /// What a worker wakes after changes, when `Store::changed().raise()` says so.
    pub fn waker(&self) -> Arc<mio::Waker> {
        Arc::clone(&self.waker)
    }

    /// Lines for `stats`: repcached's three first.
    pub fn stats(&self) -> Vec<(String, String)> {
        lock(&self.shared.stats).general.clone()
    }

    /// Lines for `stats replication`.
    pub fn stats_replication(&self) -> Vec<(String, String)> {
        lock(&self.shared.stats).links.clone()
    }

    /// Sends what is queued (for a bounded time), says good-bye and ends the thread.
    pub fn stop(self) {
        self.shared.stop.store(true, Ordering::Release);
        // Without a wake-up the thread looks by itself within a second; a panicked one has ended.
        let _ = self.waker.wake();
        let _ = self.thread.join();
    }
}
