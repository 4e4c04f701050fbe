//! From a validated command line to a running server, and back to an exit status.
//!
//! Owns the order of things: bind, become a daemon, drop privileges, start threads, open the client
//! port, accept, stop. The client port is bound early (it may need root) but listens only when
//! replication says that this node is filled. Never serves a request itself.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::base::clock::{Clock, RealClock};
use crate::base::log as sink;
use crate::net::listen::{self, Bound, Listener};
use crate::net::mailbox::{mailbox, Mailbox, Sender};
use crate::net::udp as datagrams;
use crate::platform::daemon::{self, Keep};
use crate::platform::logging::Logging;
use crate::platform::pidfile::PidFile;
use crate::platform::signals::{Signal, Signals};
use crate::platform::user::User;
use crate::platform::{heap, image, limits, user, EX_OSERR};
use crate::server::accept::{Acceptor, Again};
use crate::server::auth::{Auth, Format};
use crate::server::config::{Config, Port};
use crate::server::execute::Executor;
use crate::server::maintenance::{self, Bell};
use crate::server::peer::{self, Peer, PeerConfig};
use crate::server::secret_file::{self, Keys};
use crate::server::shared::{Shared, Shutdown};
use crate::server::udp;
use crate::server::worker::{Message, Worker};
use crate::store::{self, Store};

const SIGNALS: Token = Token(0);
const CONTROL: Token = Token(1);
/// Listeners have the tokens from here on.
const LISTENERS: usize = 2;

/// How long the main thread waits before it tries again when places or descriptors ran out:
/// memcached's retry of a disabled listener.
const ACCEPT_RETRY: Duration = Duration::from_millis(10);

/// How long a graceful stop waits for connections in the middle of a command.
const GRACE: Duration = Duration::from_secs(10);

/// What `-k` locks beside `-m`, in bytes: the program, the threads' stacks, buffers.
const LOCKED_BESIDE_ITEMS: u64 = 64 << 20;

/// Names the file of users of `-S` without `-Y`, as memcached's build with a password database.
const SASL_FILE_VARIABLE: &str = "MEMCACHED_SASL_PWDB";

/// memcached's exit status where the file of users is no good.
const EXIT_FAILURE: i32 = 1;

/// What reaches the main thread besides signals.
enum Control {
    /// Replication: this node may open its client port.
    Serve,
    /// A client's `shutdown`.
    Shutdown(Shutdown),
}

/// An error that ends the start: a line for stderr and an exit status.
struct Failure(String, i32);

impl Failure {
    fn os(text: impl std::fmt::Display) -> Failure {
        Failure(text.to_string(), EX_OSERR)
    }
}

/// Runs a server until it is told to stop. The result is the process's exit status.
pub fn run(config: Config) -> i32 {
    match start(config) {
        Ok(status) => status,
        Err(Failure(text, status)) => {
            log::error!("{text}");
            status
        }
    }
}

fn start(mut config: Config) -> Result<i32, Failure> {
    for path in [&mut config.log_file, &mut config.pid_file].into_iter().flatten() {
        // A daemon changes its directory: the names must go on meaning the same files.
        *path = std::path::absolute(&*path).map_err(Failure::os)?;
    }
    let logging = Logging {
        ident: c"twincached",
        file: config.log_file.clone(),
        daemon: config.daemon,
        verbose: config.verbose,
    };
    let no_log = |error| Failure::os(format!("cannot open the log file: {error}"));
    logging.open(false).map_err(no_log)?;
    heap::set_up();
    let user = user::find(config.user.as_deref(), None)
        .map_err(|error| Failure(error.to_string(), error.exit_status()))?;
    if !Store::is_possible(config.memory_limit) {
        let megabytes = config.memory_limit >> 20;
        return Err(Failure::os(format!("cannot allocate {megabytes} megabytes of memory (-m)")));
    }
    if config.core_dumps {
        limits::raise_core().map_err(|_| Failure::os("failed to ensure corefile creation"))?;
    }
    limits::raise_open_files(config.max_conns, 1)
        .map_err(|_| Failure::os(limits::FILES_REFUSED))?;
    if config.lock_memory {
        limits::raise_locked_memory();
    }
    let auth = find_users(&config)?;
    let keys =
        secret_file::find(config.replication.as_ref()).map_err(|why| Failure(why, EXIT_FAILURE))?;
    let bound = bind(&config).map_err(Failure::os)?;
    if let (Some(path), Some(user)) = (&config.unix_path, &user) {
        // Clients get in by the permission bits of -a, which are about the user of -u.
        user.give(path).map_err(|error| {
            Failure::os(format!("cannot give {} to the user of -u: {error}", path.display()))
        })?;
    }
    if config.daemon {
        let keep = Keep { directory: config.core_dumps, stderr: logging.keeps_stderr() };
        daemon::daemonize(keep)
            .map_err(|error| Failure::os(format!("failed to daemonize: {error}")))?;
    }
    logging.open(true).map_err(no_log)?;
    if let Some(pid) = config.pid_file.as_deref().and_then(PidFile::running) {
        log::warn!("WARNING: The pid file contained the following (running) pid: {pid}");
    }
    let pid_file = config
        .pid_file
        .as_deref()
        .and_then(|path| PidFile::create(path).map_err(|why| log::error!("{why}")).ok());
    if let Some(user) = user {
        become_user(&user, &config, auth.as_ref())?;
    }
    for note in &config.notes {
        log::info!("{note}");
    }
    for warning in &config.warnings {
        log::warn!("{warning}");
    }
    for warning in keys.as_ref().map(Keys::warnings).unwrap_or_default() {
        log::warn!("{warning}");
    }
    if config.lock_memory {
        if let Err(error) = lock_memory(config.memory_limit) {
            log::warn!("warning: -k invalid, mlockall() failed: {error}");
        }
    }
    let status = serve(config, bound, auth, keys).map_err(Failure::os)?;
    if let Some(file) = pid_file {
        if let Err(error) = file.remove() {
            log::warn!("Could not remove the pid file: {error}");
        }
    }
    Ok(status)
}

/// From here on the process has the rights of `-u`.
fn become_user(user: &User, config: &Config, auth: Option<&Auth>) -> Result<(), Failure> {
    user.assume().map_err(Failure::os)?;
    if config.core_dumps {
        limits::allow_core_of_other_user();
    }
    if let Some(Err(why)) = auth.map(Auth::reload) {
        log::warn!("{why}: SIGHUP will not change the users");
    }
    Ok(())
}

/// Reads who may log in, where clients have to.
fn find_users(config: &Config) -> Result<Option<Auth>, Failure> {
    if !config.sasl && config.auth_file.is_none() {
        return Ok(None);
    }
    let pwdb = std::env::var_os(SASL_FILE_VARIABLE).filter(|path| !path.is_empty());
    let file = match (&config.auth_file, pwdb) {
        (Some(path), _) => Some((path.clone(), Format::AuthFile)),
        (None, Some(path)) => Some((PathBuf::from(path), Format::Pwdb)),
        (None, None) => None,
    };
    // A daemon changes its directory before it reads the file again.
    let absolute = |(path, format)| Ok((std::path::absolute(path)?, format));
    let file = file.map(absolute).transpose().map_err(|why: io::Error| Failure::os(why))?;
    if file.is_none() {
        log::warn!(
            "-S: nobody can log in: name a file of users with -Y, or in {SASL_FILE_VARIABLE}"
        );
    }
    let auth = Auth::load(file).map_err(|why| Failure(why.to_string(), EXIT_FAILURE))?;
    Ok(Some(auth))
}

/// The client addresses, bound and not served yet.
struct Sockets {
    streams: Vec<Bound>,
    /// The sockets of each address.
    datagrams: Vec<Vec<UdpSocket>>,
}

/// Takes the client addresses, without listening yet.
/// Locks all memory, if it can be had locked: otherwise the first allocation over the limit would
/// end the process.
fn lock_memory(memory_limit: u64) -> io::Result<()> {
    limits::lock_memory()?;
    let wanted = memory_limit.saturating_add(LOCKED_BESIDE_ITEMS);
    if limits::locks_less_than(wanted) && !Store::is_possible(wanted) {
        limits::unlock_memory();
        return Err(io::Error::from(io::ErrorKind::OutOfMemory));
    }
    Ok(())
}

fn bind(config: &Config) -> Result<Sockets, listen::BindError> {
    if let Some(path) = &config.unix_path {
        let streams = vec![listen::bind_unix(path, config.unix_mode)?];
        return Ok(Sockets { streams, datagrams: Vec::new() });
    }
    let number = |port| match port {
        Port::Off => None,
        Port::Any => Some(0),
        Port::Number(port) => Some(port),
    };
    let streams = match number(config.port) {
        Some(port) => listen::bind_tcp(&config.listen, port)?,
        None => Vec::new(),
    };
    let datagrams = match number(config.udp_port) {
        Some(port) => datagrams::bind(&config.listen, port, udp::sockets_per_address(config))?,
        None => Vec::new(),
    };
    Ok(Sockets { streams, datagrams })
}

/// Names the ports where a test suite asked for it.
fn write_ports(tcp: &[SocketAddr], udp: &[SocketAddr]) {
    if let Some(path) = std::env::var_os(listen::PORT_FILE_VARIABLE) {
        if let Err(error) = listen::write_port_file(Path::new(&path), tcp, udp) {
            log::warn!("cannot write the port file: {error}");
        }
    }
}

/// A number that nobody can guess and that differs between any two starts.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

fn store_config(config: &Config) -> store::Config {
    let replication = config.replication.as_ref();
    let defaults = store::Config::default();
    store::Config {
        memory_limit: config.memory_limit,
        item_max: config.store_item_max(),
        evict: config.evict,
        large_pages: config.large_pages,
        replicated: replication.is_some(),
        // 0 is for changes of peers that have no versions.
        node_tag: (random() % 255) as u8 + 1,
        hash_seed: random(),
        feed_max: replication.map_or(defaults.feed_max, |r| r.queue_max),
        tombstone_secs: replication.map_or(defaults.tombstone_secs, |r| r.tombstone_secs),
        epitaphs_max: defaults.epitaphs_max,
        classes: store::Classes::new(
            config.chunk_size,
            config.growth_factor,
            config.slab_chunk_max,
        ),
    }
}

/// The running threads of a server.
struct Server {
    shared: Arc<Shared>,
    clock: RealClock,
    poll: Poll,
    signals: Signals,
    control: Mailbox<Control>,
    acceptor: Acceptor,
    bound: Sockets,
    workers: Vec<(Sender<Message>, JoinHandle<()>)>,
    maintenance: JoinHandle<()>,
    bell: Arc<Bell>,
    peer: Option<Arc<Peer>>,
}

fn serve(
    config: Config,
    bound: Sockets,
    auth: Option<Auth>,
    keys: Option<Keys>,
) -> io::Result<i32> {
    let clock = RealClock::new();
    let now = clock.now();
    let poll = Poll::new()?;
    let mut signals = Signals::new()?;
    poll.registry().register(&mut signals, SIGNALS, Interest::READABLE)?;
    let waker = Arc::new(Waker::new(poll.registry(), CONTROL)?);
    // At most one message of each kind is of use; more wait for nothing.
    let (control_in, control) = mailbox(waker, 64);

    let store = Store::new(store_config(&config), now);
    let shared = Shared::with_auth(config, Arc::clone(&store), now, std::process::id(), auth);
    let clock = clock.with_debug(shared.debug_clock.clone());
    let tell = control_in.clone();
    let tell_shutdown = Box::new(move |how| {
        // A full mailbox holds a shutdown already.
        let _ = tell.send(Control::Shutdown(how));
    });
    let _ = shared.on_shutdown.set(tell_shutdown);

    let bell = Bell::new();
    let maintenance = {
        let (bell, watch) = (Arc::clone(&bell), Arc::clone(&shared.watch));
        maintenance::spawn(store.handle(), clock.clone(), bell, watch)?
    };
    let mut workers = Vec::new();
    for number in 0..shared.config.threads {
        let executor = Executor::new(Arc::clone(&shared));
        let (worker, sender) = Worker::new(executor, clock.clone(), Arc::clone(&bell))?;
        let thread = Builder::new().name(format!("worker {number}")).spawn(|| worker.run())?;
        workers.push((sender, thread));
    }
    let senders = workers.iter().map(|(sender, _)| sender.clone()).collect();
    let acceptor = Acceptor::new(senders, Arc::clone(&shared));
    let peer = start_replication(&shared, keys, store, &clock, &control_in)?;
    let server = Server {
        shared,
        clock,
        poll,
        signals,
        control,
        acceptor,
        bound,
        workers,
        maintenance,
        bell,
        peer,
    };
    server.run()
}

/// Starts the replication thread, if there is one; without it the client port may open at once.
fn start_replication(
    shared: &Arc<Shared>,
    keys: Option<Keys>,
    store: Arc<Store>,
    clock: &RealClock,
    control: &Sender<Control>,
) -> io::Result<Option<Arc<Peer>>> {
    let open = control.clone();
    let serve = move || {
        // The mailbox has room: nothing else was sent yet but a shutdown, which matters more.
        let _ = open.send(Control::Serve);
    };
    let Some(replication) = &shared.config.replication else {
        serve();
        return Ok(None);
    };
    let acks = Arc::clone(&shared.acks);
    let settings = PeerConfig::from_settings(replication, &shared.config.listen, random);
    let mut peer_config = PeerConfig { acks, ..settings };
    if let Some(keys) = keys {
        peer_config = peer_config.with_keys(keys);
    }
    let clock = clock.clone().with_real_timers();
    let peer = Arc::new(peer::spawn(peer_config, store, clock, Box::new(serve))?);
    let _ = shared.replication.set(Box::new(Arc::clone(&peer)));
    Ok(Some(peer))
}

impl Server {
    fn run(mut self) -> io::Result<i32> {
        let mut events = Events::with_capacity(256);
        image::let_go();
        let stop = loop {
            let timeout = self.acceptor.waiting().map(|again| match again {
                Again::Now => Duration::ZERO,
                Again::Later => ACCEPT_RETRY,
            });
            if let Err(error) = self.poll.poll(&mut events, timeout) {
                if error.kind() != ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            let now = self.clock.now();
            let mut stop = None;
            for event in &events {
                match event.token() {
                    SIGNALS => stop = stop.or(self.take_signals()),
                    CONTROL => stop = stop.or(self.take_control()?),
                    Token(token) => self.acceptor.ready(token - LISTENERS),
                }
            }
            if let Some(stop) = stop {
                break stop;
            }
            self.acceptor.accept(now);
        };
        self.stop(stop);
        Ok(0)
    }

    fn take_signals(&mut self) -> Option<Shutdown> {
        let mut stop = None;
        for signal in self.signals.pending() {
            match signal {
                Signal::Hangup => {
                    if let Err(error) = sink::reopen() {
                        log::error!("cannot open the log file again: {error}");
                    }
                    self.reload_users();
                }
                Signal::Interrupt | Signal::Terminate => {
                    log::info!("got signal {}", signal.number());
                    stop = Some(Shutdown::Now);
                }
                Signal::Graceful => {
                    log::info!("got signal {}", signal.number());
                    stop = stop.or(Some(Shutdown::Graceful));
                }
            }
        }
        stop
    }

    /// Reads the file of users again; a bad one leaves things as they are.
    fn reload_users(&self) {
        let Some(auth) = &self.shared.auth else { return };
        match auth.reload() {
            Ok(users) => log::info!("the users were read again: {users}"),
            Err(why) => log::error!("{why}: the users stay as they were"),
        }
    }

    fn take_control(&mut self) -> io::Result<Option<Shutdown>> {
        let mut stop = None;
        while let Some(message) = self.control.pop() {
            match message {
                Control::Serve => self.open_client_port()?,
                Control::Shutdown(how) => stop = Some(how),
            }
        }
        Ok(stop)
    }

    /// Listens where the start has bound.
    fn open_client_port(&mut self) -> io::Result<()> {
        let backlog = self.shared.config.backlog;
        let streams = std::mem::take(&mut self.bound.streams);
        let datagrams = std::mem::take(&mut self.bound.datagrams);
        let listeners: Vec<Listener> =
            streams.into_iter().map(|bound| bound.listen(backlog)).collect::<io::Result<_>>()?;
        let tcp: Vec<SocketAddr> = listeners.iter().filter_map(Listener::local_addr).collect();
        let now = self.clock.now();
        self.acceptor.open(listeners, self.poll.registry(), LISTENERS, now)?;
        let workers: Vec<_> = self.workers.iter().map(|(sender, _)| sender.clone()).collect();
        let udp = udp::open(datagrams, &workers);
        for (addrs, port) in [(&tcp, &self.shared.tcp_port), (&udp, &self.shared.udp_port)] {
            let number = addrs.first().map_or(0, |addr| u32::from(addr.port()));
            port.store(number, std::sync::atomic::Ordering::Relaxed);
        }
        write_ports(&tcp, &udp);
        Ok(())
    }

    /// Stops accepting, ends the workers, sends peers what is queued.
    fn stop(mut self, how: Shutdown) {
        self.acceptor.close();
        let message = |how| match how {
            Shutdown::Now => Message::Stop,
            Shutdown::Graceful => Message::Drain,
        };
        self.tell_workers(|| message(how));
        if how == Shutdown::Graceful {
            log::warn!("Gracefully stopping");
            // Not by the clock that a client may have stopped. Who asks again does not wait.
            let begun = Instant::now();
            while begun.elapsed() < GRACE
                && self.workers.iter().any(|(_, thread)| !thread.is_finished())
                && self.take_signals() != Some(Shutdown::Now)
            {
                std::thread::sleep(ACCEPT_RETRY);
            }
            self.tell_workers(|| Message::Stop);
        }
        for (_, thread) in self.workers {
            if thread.join().is_err() {
                log::error!("a worker had panicked");
            }
        }
        if let Some(peer) = self.peer.take() {
            peer.stop();
        }
        self.bell.stop();
        if self.maintenance.join().is_err() {
            log::error!("the maintenance thread had panicked");
        }
    }

    fn tell_workers(&self, message: impl Fn() -> Message) {
        for (sender, _) in &self.workers {
            // A full mailbox is emptied by a live worker at once; one that ended needs no message.
            while let Err(listen_again) = sender.send(message()) {
                match listen_again {
                    crate::net::mailbox::SendError::Full(_) => std::thread::yield_now(),
                    crate::net::mailbox::SendError::NotWoken(_) => break,
                }
            }
        }
    }
}
