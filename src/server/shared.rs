//! What all threads of one server share besides the store.
//!
//! Owns the settings, the table of open connections, the `-c` accounting and the requests that a
//! client can make of the whole process (shutdown, verbosity). Never does I/O.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::base::clock::{DebugClock, Now};
use crate::base::log;
use crate::server::admin::detail::Detail;
use crate::server::admin::tune::Tuning;
use crate::server::auth::Auth;
use crate::server::config::{Config, Personality, MEMCACHED_VERSION};
use crate::server::waits::Acks;
use crate::server::watch::Hub;
use crate::store::Store;

/// Descriptors that the process needs for itself (listeners, polls, wakers, log, replication),
/// taken off `-c` the way memcached does; reported as `reserved_fds`.
pub const RESERVED_FDS: usize = 20;

/// Bytes of long data blocks under way that are not taken off `-m`: nearly always all there are, so
/// that the memory for items does not come and go. At least two values of `-I` fit.
const DATA_BESIDE: u64 = 4 << 20;

/// What the replication thread offers to the rest of the server.
pub trait Replication: Send + Sync {
    /// Says that a local change was made since the replication thread last looked.
    fn wake(&self);
    /// The lines that `stats` gains, repcached's three first.
    fn stats(&self) -> Vec<(String, String)>;
    /// The lines of `stats replication`.
    fn stats_replication(&self) -> Vec<(String, String)>;
}

/// What a connection is doing, as `stats conns` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ConnState {
    /// A socket that accepts connections.
    Listening,
    /// Waiting for a command.
    NewCmd,
    /// Between two commands, or in the middle of a command line.
    Read,
    /// Executing commands.
    ParseCmd,
    /// Taking in a data block.
    Nread,
    /// Dropping a data block that is not wanted.
    Swallow,
    /// Sending replies.
    Mwrite,
    /// Sending an answer that goes on by itself: a dump, or the log to a watcher.
    Watch,
    /// Sending the last replies.
    Closing,
}

impl ConnState {
    /// memcached's name of the state.
    pub fn name(self) -> &'static str {
        match self {
            ConnState::Listening => "conn_listening",
            ConnState::NewCmd => "conn_new_cmd",
            ConnState::Read => "conn_read",
            ConnState::ParseCmd => "conn_parse_cmd",
            ConnState::Nread => "conn_nread",
            ConnState::Swallow => "conn_swallow",
            ConnState::Mwrite => "conn_mwrite",
            ConnState::Watch => "conn_watch",
            ConnState::Closing => "conn_closing",
        }
    }

    fn from_u8(byte: u8) -> ConnState {
        const ALL: [ConnState; 9] = [
            ConnState::Listening,
            ConnState::NewCmd,
            ConnState::Read,
            ConnState::ParseCmd,
            ConnState::Nread,
            ConnState::Swallow,
            ConnState::Mwrite,
            ConnState::Watch,
            ConnState::Closing,
        ];
        ALL.get(usize::from(byte)).copied().unwrap_or(ConnState::NewCmd)
    }
}

/// One line group of `stats conns`. Its worker writes it, anyone reads it.
#[derive(Debug)]
pub struct ConnInfo {
    /// Who is connected, as `tcp:ADDRESS:PORT` or `unix:PATH`; for a listener, where it listens.
    pub addr: String,
    /// Where the connection came in; empty for a listener itself and for a UDP socket.
    pub listen_addr: String,
    state: AtomicU8,
    /// Monotonic second of the last command.
    last_cmd: AtomicU32,
}

impl ConnInfo {
    /// A connection that was opened at `now`.
    pub fn new(addr: String, listen_addr: String, state: ConnState, now: Now) -> Arc<ConnInfo> {
        Arc::new(ConnInfo {
            addr,
            listen_addr,
            state: AtomicU8::new(state as u8),
            last_cmd: AtomicU32::new(mono_secs(now)),
        })
    }

    /// Notes what the connection is doing; `active` when it just ran a command.
    pub fn note(&self, state: ConnState, active: bool, now: Now) {
        self.state.store(state as u8, Ordering::Relaxed);
        if active {
            self.last_cmd.store(mono_secs(now), Ordering::Relaxed);
        }
    }

    /// Whether it is a UDP socket, which serves many clients.
    pub fn is_udp(&self) -> bool {
        self.addr.starts_with("udp")
    }

    /// What the connection was last seen doing.
    pub fn state(&self) -> ConnState {
        ConnState::from_u8(self.state.load(Ordering::Relaxed))
    }

    /// Seconds since the last command.
    pub fn idle_secs(&self, now: Now) -> u32 {
        mono_secs(now).saturating_sub(self.last_cmd.load(Ordering::Relaxed))
    }
}

fn mono_secs(now: Now) -> u32 {
    u32::try_from(now.mono_us / 1_000_000).unwrap_or(u32::MAX)
}

/// What a client asked of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// `shutdown`: as SIGINT.
    Now,
    /// `shutdown graceful`: as SIGUSR1, connections finish first.
    Graceful,
}

/// The state that every worker, the main thread and `stats` see.
pub struct Shared {
    /// What the operator asked for.
    pub config: Config,
    /// The cache.
    pub store: Arc<Store>,
    /// Who watches, and what they wait for.
    pub watch: Arc<Hub>,
    /// When the process started.
    pub started: Now,
    /// What `version` answers.
    pub version: String,
    /// The TCP port clients come in by, 0 for none; known once it is bound.
    pub tcp_port: AtomicU32,
    /// The UDP port, 0 for none; known once this node serves.
    pub udp_port: AtomicU32,
    /// The process id, which `stats` shows.
    pub pid: u32,
    /// Client connections that are open now.
    pub curr_connections: AtomicU64,
    /// Client connections accepted since the start.
    pub total_connections: AtomicU64,
    /// UDP sockets that are served now. They count as connections, and not towards `-c`.
    pub udp_sockets: AtomicU64,
    /// Client connections refused because of `-c`.
    pub rejected_connections: AtomicU64,
    /// Times that accepting was suspended.
    pub listen_disabled: AtomicU64,
    /// Microseconds for which accepting was suspended.
    pub listen_disabled_us: AtomicU64,
    /// Whether connections are being accepted.
    pub accepting: AtomicBool,
    /// `-Y`, `-S`: who may log in. None: everybody may do everything.
    pub auth: Option<Auth>,
    /// `-o debug_clock`: how a client moves everyone's clock.
    pub debug_clock: Option<Arc<DebugClock>>,
    /// What peers have acknowledged, and who waits for it (`-o repl_ack`).
    pub acks: Arc<Acks>,
    /// Set once replication runs.
    pub replication: OnceLock<Box<dyn Replication>>,
    /// How a client's `shutdown` reaches the main thread.
    pub on_shutdown: OnceLock<Box<dyn Fn(Shutdown) + Send + Sync>>,
    /// `-v` given, as `verbosity` last set it.
    pub verbosity: AtomicU32,
    /// Data blocks refused because [`Shared::reserve_data`] had no room.
    pub data_refused: AtomicU64,
    /// The part of it over `data_beside` is lent by the store.
    data_reserved: Mutex<u64>,
    data_beside: u64,
    /// `stats detail`: counts by the prefix of keys.
    pub detail: Detail,
    tuning: Mutex<Tuning>,
    conns: Mutex<BTreeMap<u64, Arc<ConnInfo>>>,
    /// What `stats reset` subtracts from the connection counts: total, rejected.
    reset: [AtomicU64; 2],
}

impl Shared {
    /// The shared state of a server that starts at `started` and that everybody may use.
    pub fn new(config: Config, store: Arc<Store>, started: Now, pid: u32) -> Arc<Shared> {
        Shared::with_auth(config, store, started, pid, None)
    }

    /// The same for a server that only `auth`'s users may use.
    pub fn with_auth(
        config: Config,
        store: Arc<Store>,
        started: Now,
        pid: u32,
        auth: Option<Auth>,
    ) -> Arc<Shared> {
        let data_beside = DATA_BESIDE.max(2 * u64::from(config.item_max));
        let verbosity = AtomicU32::new(u32::from(config.verbose));
        // Clients parse three numbers and ignore what follows the dash.
        let version = match config.personality {
            Personality::Memcached => MEMCACHED_VERSION.to_owned(),
            Personality::Twincached => {
                format!("{MEMCACHED_VERSION}-twincached-{}", env!("CARGO_PKG_VERSION"))
            }
        };
        let watch = Hub::new(config.watcher_logbuf, config.worker_logbuf);
        store.tell_evictions(Box::new(Arc::clone(&watch)));
        let detail = Detail::new(config.prefix_delimiter, config.detail_enabled);
        let tuning = Mutex::new(Tuning::new(&config));
        Arc::new(Shared {
            watch,
            auth,
            detail,
            tuning,
            acks: Acks::new(config.replication.as_ref()),
            debug_clock: config.debug_clock.then(|| Arc::new(DebugClock::new())),
            config,
            store,
            version,
            tcp_port: AtomicU32::new(0),
            udp_port: AtomicU32::new(0),
            started,
            pid,
            curr_connections: AtomicU64::new(0),
            total_connections: AtomicU64::new(0),
            udp_sockets: AtomicU64::new(0),
            rejected_connections: AtomicU64::new(0),
            listen_disabled: AtomicU64::new(0),
            listen_disabled_us: AtomicU64::new(0),
            accepting: AtomicBool::new(true),
            replication: OnceLock::new(),
            on_shutdown: OnceLock::new(),
            verbosity,
            data_refused: AtomicU64::new(0),
            data_reserved: Mutex::new(0),
            data_beside,
            conns: Mutex::new(BTreeMap::new()),
            reset: [const { AtomicU64::new(0) }; 2],
        })
    }

    /// Open connections and listeners by descriptor.
    pub fn conns(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<ConnInfo>>> {
        self.conns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this user with this password may use a server that has users at all.
    pub fn credentials(&self, user: &[u8], password: &[u8]) -> bool {
        self.auth.as_ref().is_some_and(|auth| auth.check(user, password))
    }

    /// What the commands that tune a memcached have set. Never held while another lock is taken.
    pub fn tuning(&self) -> MutexGuard<'_, Tuning> {
        self.tuning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one place under `-c`, or says that there is none. As memcached counts: the descriptors
    /// it needs itself are on top.
    pub fn admit(&self) -> bool {
        let limit = u64::from(self.config.max_conns);
        self.curr_connections
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < limit).then_some(n + 1))
            .is_ok()
    }

    /// Whether [`Shared::admit`] would succeed now.
    pub fn has_room(&self) -> bool {
        self.curr_connections.load(Ordering::Relaxed) < u64::from(self.config.max_conns)
    }

    /// Gives a place back.
    pub fn leave(&self) {
        self.curr_connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts `bytes` of a long data block that are about to come in. False when too many are under
    /// way already, half of `-m` and a little: then the block is refused, as memcached refuses one
    /// that finds no memory.
    pub fn reserve_data(&self, bytes: u64) -> bool {
        let mut reserved = self.reserved();
        let sum = reserved.saturating_add(bytes);
        if !self.store.lend(self.over(sum) - self.over(*reserved)) {
            return false;
        }
        *reserved = sum;
        true
    }

    /// Gives back what [`Shared::reserve_data`] counted.
    pub fn release_data(&self, bytes: u64) {
        if bytes > 0 {
            let mut reserved = self.reserved();
            let rest = reserved.saturating_sub(bytes);
            self.store.take_back(self.over(*reserved) - self.over(rest));
            *reserved = rest;
        }
    }

    /// Bytes of long data blocks under way.
    pub fn reserved_data(&self) -> u64 {
        *self.reserved()
    }

    fn reserved(&self) -> MutexGuard<'_, u64> {
        self.data_reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The part of so many bytes under way that `-m` has to cover.
    fn over(&self, reserved: u64) -> u64 {
        reserved.saturating_sub(self.data_beside)
    }

    /// `verbosity LEVEL`: as many `-v`, for the whole process.
    pub fn set_verbosity(&self, level: u32) {
        self.verbosity.store(level, Ordering::Relaxed);
        log::set_verbose(u8::try_from(level).unwrap_or(u8::MAX));
    }

    /// `stats reset`.
    pub fn reset_stats(&self) {
        self.store.reset_stats();
        self.acks.reset();
        self.detail.clear();
        for (base, count) in
            self.reset.iter().zip([&self.total_connections, &self.rejected_connections])
        {
            base.store(count.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.listen_disabled.store(0, Ordering::Relaxed);
        self.listen_disabled_us.store(0, Ordering::Relaxed);
    }

    /// Connections accepted since the last `stats reset`.
    pub fn total_connections(&self) -> u64 {
        self.total_connections.load(Ordering::Relaxed) - self.reset[0].load(Ordering::Relaxed)
    }

    /// Connections refused since the last `stats reset`.
    pub fn rejected_connections(&self) -> u64 {
        self.rejected_connections.load(Ordering::Relaxed) - self.reset[1].load(Ordering::Relaxed)
    }
}
