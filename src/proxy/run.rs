//! From a validated command line to a running proxy, and back to an exit status.
//!
//! Owns the order of things: resolve, bind, become a daemon, drop privileges, start workers,
//! accept, stop. Accepts on the main thread and hands clients to the workers in turns, and hands
//! them other servers when there are ([`super::renew`]). Never serves a client.

use std::io::{self, ErrorKind, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token, Waker};

use super::config::Config;
use super::figures::Figures;
use super::front::Shared;
use super::guard::Guard;
use super::relay::{Relay, OUT_OF_CONNECTION};
use super::renew::{first_setup, Renewal};
use super::servers_file::{self, Look};
use super::worker::{Common, Message, Setup, Worker};
use crate::base::clock::RealClock;
use crate::base::log as sink;
use crate::net::listen::{self, Bound, Listener};
use crate::net::mailbox::{SendError, Sender};
use crate::net::stream::Stream;
use crate::platform::daemon::{self, Keep};
use crate::platform::logging::Logging;
use crate::platform::pidfile::PidFile;
use crate::platform::signals::{Signal, Signals};
use crate::platform::{heap, limits, user, EX_OSERR, EX_USAGE};

const SIGNALS: Token = Token(0);
/// Other servers, or other addresses of them, were found.
const RENEWED: Token = Token(1);
/// Listeners have the tokens from here on.
const LISTENERS: usize = 2;
/// Clients that may wait to be accepted: memcached's default.
const BACKLOG: u32 = 1024;
/// Connections taken per visit to a listener: signals and other listeners get their turn.
const ACCEPTS_PER_TURN: usize = 256;
/// Wait before another accept when descriptors ran out.
const ACCEPT_RETRY: Duration = Duration::from_millis(10);
/// What a stop waits for more than two timeouts, in milliseconds: answers are on their way.
const STOP_SLACK_MS: u64 = 500;
/// Longest that a stop waits, in milliseconds: init systems kill after a minute or two.
const STOP_MAX_MS: u64 = 30_000;
/// Memory of connections that have gone is given back at most so often.
const TRIM_PERIOD: Duration = Duration::from_secs(2);
/// Permission bits of the unix socket, memcached's default of `-a`.
const UNIX_MODE: u32 = 0o700;

/// An error that ends the start: a line for stderr and an exit status.
struct Failure(String, i32);

impl Failure {
    fn os(text: impl std::fmt::Display) -> Failure {
        Failure(text.to_string(), EX_OSERR)
    }
}

/// Runs a proxy until it is told to stop. The result is the process's exit status.
pub fn run(config: Config) -> i32 {
    match start(&config) {
        Ok(()) => 0,
        Err(Failure(text, status)) => {
            log::error!("{text}");
            status
        }
    }
}

fn start(config: &Config) -> Result<(), Failure> {
    heap::set_up();
    // A daemon changes its directory: the names must go on meaning the same files.
    let absolute = |path: &Option<PathBuf>| path.as_ref().map(std::path::absolute).transpose();
    let pid_path = absolute(&config.pid_file).map_err(Failure::os)?;
    let logging = Logging {
        ident: c"magent",
        file: absolute(&config.log_file).map_err(Failure::os)?,
        daemon: !(config.foreground || config.verbose > 0),
        verbose: config.verbose,
    };
    let no_log = |error| Failure::os(format!("cannot open the log file: {error}"));
    logging.open(false).map_err(no_log)?;
    // magent runs as root when it is started as root; only a user that was named is assumed.
    let user = match (&config.user, &config.group) {
        (None, None) => None,
        (user, group) => user::find(user.as_deref().or(Some("root")), group.as_deref())
            .map_err(|error| Failure(error.to_string(), error.exit_status()))?,
    };
    let max_conns = u32::try_from(config.max_conns).unwrap_or(u32::MAX);
    if limits::raise_open_files(max_conns, 1).is_err() {
        log::warn!("{}", limits::FILES_REFUSED);
    }
    let mut base = config.clone();
    base.servers_file = absolute(&config.servers_file).map_err(Failure::os)?;
    let look = base.servers_file.as_deref().map(Look::at);
    let full = servers_file::load(&base).map_err(|why| Failure(why, EX_USAGE))?;
    let setup = Arc::new(first_setup(&full).map_err(Failure::os)?);
    let mut bound = bind_tcp(config).map_err(Failure::os)?;
    if let Some(path) = &config.unix {
        bound.push(listen::bind_unix(path, UNIX_MODE).map_err(Failure::os)?);
        if let Some(user) = &user {
            // The permission bits are about the user that the proxy runs as.
            user.give(path).map_err(|error| {
                Failure::os(format!("cannot give {} to the user of -u: {error}", path.display()))
            })?;
        }
    }
    if logging.daemon {
        let keep = Keep { directory: false, stderr: logging.keeps_stderr() };
        daemon::daemonize(keep)
            .map_err(|error| Failure::os(format!("failed to daemonize: {error}")))?;
    }
    logging.open(true).map_err(no_log)?;
    // As root: a file of a stopped predecessor may belong to it, and /run is root's.
    let pid_file =
        pid_path.and_then(|path| PidFile::create(&path).map_err(|why| log::error!("{why}")).ok());
    if let Some(user) = user {
        user.assume().map_err(Failure::os)?;
    }
    let servers = Servers { base, look, full, setup };
    let outcome = serve(servers, bound).map_err(Failure::os);
    if let Some(Err(error)) = pid_file.map(PidFile::remove) {
        log::warn!("Could not remove the pid file: {error}");
    }
    outcome
}

/// What a proxy starts with.
struct Servers {
    /// The command line.
    base: Config,
    /// What the servers file looked like.
    look: Option<Look>,
    /// The same with what is in it.
    full: Config,
    setup: Arc<Setup>,
}

fn bind_tcp(config: &Config) -> Result<Vec<Bound>, listen::BindError> {
    if config.port == 0 {
        return Ok(Vec::new());
    }
    let any = ["0.0.0.0".to_string()];
    let addrs = if config.listen.is_empty() { &any[..] } else { &config.listen };
    listen::bind_tcp(addrs, config.port)
}

fn serve(servers: Servers, bound: Vec<Bound>) -> io::Result<()> {
    let Servers { base, look, full, setup } = servers;
    let config = &full;
    let clock = RealClock::new();
    let poll = Poll::new()?;
    let mut signals = Signals::new()?;
    poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
    let shared = Shared::new(config);
    let common = Arc::new(Common {
        shared,
        live: AtomicUsize::new(0),
        freed: AtomicBool::new(false),
        workers: OnceLock::new(),
        grace_us: grace_us(config),
        idle_us: config.idle_timeout_secs * 1_000_000,
    });
    let waker = Arc::new(Waker::new(poll.registry(), RENEWED)?);
    let guard = Arc::new(Guard::new());
    let figures = Arc::new(Figures::new(config.threads));
    let mut workers = Vec::new();
    for number in 0..config.threads.max(1) {
        let routes = Arc::clone(&setup.routes);
        let (guard, figures) = (Arc::clone(&guard), Arc::clone(&figures));
        let relay = Relay::with_routes(config, routes, guard, figures, number as u32);
        let (worker, sender) =
            Worker::new(relay, Arc::clone(&setup), Arc::clone(&common), clock.clone())?;
        let thread = Builder::new().name(format!("proxy {number}")).spawn(|| worker.run())?;
        workers.push((sender, thread));
    }
    let senders = workers.iter().map(|(sender, _): &(Sender<Message>, _)| sender.clone()).collect();
    // Nobody else sets it.
    let _ = common.workers.set(senders);
    let mut listeners = Vec::new();
    for (bound, index) in bound.into_iter().zip(LISTENERS..) {
        let mut listener = bound.listen(BACKLOG)?;
        poll.registry().register(&mut listener, Token(index), Interest::READABLE)?;
        log::info!("proxy: listening on {}", listener.name());
        listeners.push((listener, true));
    }
    let max_conns = config.max_conns.max(1);
    let renewal = Renewal::new(base, look, full, setup, waker, Instant::now());
    Proxy { poll, signals, listeners, workers, next: 0, common, max_conns, renewal }.run()
}

/// A little over the time in which every request in flight has failed over and been answered.
fn grace_us(config: &Config) -> u64 {
    let once_ms = config.connect_timeout_ms + config.request_timeout_ms;
    (2 * once_ms + STOP_SLACK_MS).min(STOP_MAX_MS) * 1000
}

/// The main thread.
struct Proxy {
    poll: Poll,
    signals: Signals,
    /// With whether connections may be waiting.
    listeners: Vec<(Listener, bool)>,
    workers: Vec<(Sender<Message>, JoinHandle<()>)>,
    next: usize,
    common: Arc<Common>,
    max_conns: usize,
    renewal: Renewal,
}

impl Proxy {
    fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        let mut timeout = None;
        let mut trimmed = Instant::now();
        loop {
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            let mut stop = false;
            for event in &events {
                match event.token() {
                    SIGNALS => stop |= self.take_signals(),
                    RENEWED => self.renew(),
                    Token(index) => {
                        if let Some((_, ready)) = self.listeners.get_mut(index - LISTENERS) {
                            *ready = true;
                        }
                    }
                }
            }
            if stop {
                break;
            }
            let again = self.accept();
            let now = Instant::now();
            self.renewal.tick(now);
            if now.duration_since(trimmed) >= TRIM_PERIOD {
                trimmed = now;
                if self.common.freed.swap(false, Ordering::Relaxed) {
                    heap::trim();
                }
            }
            let waits = [again, self.renewal.timeout(now), Some(TRIM_PERIOD)];
            timeout = waits.into_iter().flatten().min();
        }
        self.listeners.clear();
        for (sender, thread) in self.workers {
            tell(&sender, || Message::Stop);
            if thread.join().is_err() {
                log::error!("a worker had panicked");
            }
        }
        Ok(())
    }

    /// Hands the workers what was found.
    fn renew(&mut self) {
        while let Some((_, setup)) = self.renewal.take(Instant::now()) {
            for (sender, _) in &self.workers {
                tell(sender, || Message::Reload(Arc::clone(&setup)));
            }
        }
    }

    fn take_signals(&mut self) -> bool {
        let mut stop = false;
        for signal in self.signals.pending() {
            match signal {
                Signal::Hangup => {
                    if let Err(error) = sink::reopen() {
                        log::error!("cannot open the log file again: {error}");
                    }
                    self.renewal.read_now();
                }
                Signal::Interrupt | Signal::Terminate | Signal::Graceful => {
                    log::info!("got signal {}", signal.number());
                    stop = true;
                }
            }
        }
        stop
    }

    /// Accepts what waits. Returns when to come back without an event.
    fn accept(&mut self) -> Option<Duration> {
        let mut again = None;
        for index in 0..self.listeners.len() {
            for _ in 0..ACCEPTS_PER_TURN {
                let (listener, ready) = &mut self.listeners[index];
                if !*ready {
                    break;
                }
                match listener.accept() {
                    Ok((stream, _)) => self.place(stream),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => *ready = false,
                    // The client gave up before we looked: not our failure.
                    Err(error) if is_clients(&error) => {}
                    Err(error) => {
                        log::warn!("proxy: accept: {error}");
                        again = Some(ACCEPT_RETRY);
                        break;
                    }
                }
            }
            if self.listeners[index].1 {
                again = again.or(Some(Duration::ZERO));
            }
        }
        again
    }

    /// Gives a new client to the next worker, or refuses it.
    fn place(&mut self, mut stream: Stream) {
        if self.common.live.fetch_add(1, Ordering::Relaxed) >= self.max_conns {
            self.common.live.fetch_sub(1, Ordering::Relaxed);
            // One short write into an empty socket buffer; if it fails the client is gone.
            let _ = stream.write(OUT_OF_CONNECTION);
            return;
        }
        let worker = &self.workers[self.next % self.workers.len()].0;
        self.next = self.next.wrapping_add(1);
        match worker.send(Message::Serve(stream)) {
            Ok(()) => {}
            Err(SendError::Full(_)) => {
                log::warn!("proxy: a worker does not keep up with new connections");
                self.common.live.fetch_sub(1, Ordering::Relaxed);
            }
            Err(SendError::NotWoken(error)) => log::warn!("proxy: cannot wake a worker: {error}"),
        }
    }
}

/// Tells a worker what it has to hear. A full mailbox is emptied by a live worker at once.
fn tell(worker: &Sender<Message>, message: impl Fn() -> Message) {
    while let Err(SendError::Full(_)) = worker.send(message()) {
        std::thread::yield_now();
    }
}

fn is_clients(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted
    )
}
