//! A proxy worker: one thread, one poll, its clients and its connections to the servers.
//!
//! Owns the sockets, and moves bytes between them, the fronts and the relay. One turn: wait, read
//! the clock, take in what servers and clients sent, write once to every client that has a reply,
//! look whether more requests have come meanwhile, then write once to every server that has
//! something. Never decides what a request means.
//!
//! ```text
//!   clients: read -> Front::process -> Relay ---+        servers: read -> Relay::received
//!               Front::complete <- Completion --+--<--------------------------+
//! ```

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;

use super::backend::Why;
use super::config::Endpoint;
use super::front::{Front, Shared};
use super::relay::{self, Connection, LinkId, Relay};
use super::route::Routes;
use crate::base::buf::Buf;
use crate::base::clock::{Clock, Now, RealClock};
use crate::net::listen::plain;
use crate::net::mailbox::{mailbox, Mailbox, Sender};
use crate::net::stream::Stream;

/// What the main thread tells a worker.
pub enum Message {
    /// A client to serve from now on.
    Serve(Stream),
    /// Other servers, or other addresses of them.
    Reload(Arc<Setup>),
    /// Wake up: a turn to write has ended that a request may wait for.
    TurnOver,
    /// Read nothing more, let what is in flight end, then leave.
    Stop,
}

/// The addresses of servers that have names or addresses: of all of a name, in the resolver's
/// order.
pub type Addresses = HashMap<Endpoint, Vec<SocketAddr>>;

/// Which servers there are and where.
#[derive(Debug)]
pub struct Setup {
    /// The keys' places.
    pub routes: Arc<Routes>,
    /// Addresses of every TCP endpoint in `routes`.
    pub addrs: Addresses,
}

/// Where the mailbox rings. Clients have the tokens from 0, by their slots.
const MAILBOX: Token = Token(usize::MAX);
/// Connections to servers have the tokens from here on.
const LINKS: usize = 1 << 30;
/// Events taken per turn: as many as a busy worker can have ready.
const EVENTS_PER_TURN: usize = 1024;
/// Read size from a server: a pipelined batch of answers comes in with one system call.
const READ_SIZE: usize = 64 * 1024;
/// Most that is read from one connection in one turn, so that large values let others go between.
const READ_PER_TURN: usize = 1 << 20;
/// How often a turn looks for more requests before it writes to the servers.
const GATHER_POLLS: usize = 2;
/// Requests in flight from which on it does: fewer clients would only wait longer.
const GATHER_FROM: usize = 4;
/// Bytes for one server that are enough for a write.
const GATHER_BYTES: usize = 16 * 1024;
const NO_WAIT: Option<Duration> = Some(Duration::ZERO);
/// Clients that may wait to be adopted.
const HANDOVER_MAX: usize = 4096;

/// How often a worker looks for clients that `-o idle_timeout` closes: its unit is a second.
const IDLE_SWEEP_US: u64 = 1_000_000;

const BOTH: Interest = Interest::READABLE.add(Interest::WRITABLE);

struct Client {
    stream: Stream,
    front: Front,
    generation: u32,
    /// When it last sent or took something, on the monotonic clock in microseconds.
    active_us: u64,
    /// The socket may have more to read.
    readable: bool,
    /// The socket may take more.
    writable: bool,
    /// It has said its last word. No further event tells of it, so a short read is not the end of
    /// what can be found out.
    ended: bool,
    /// It is in the list of those to visit.
    queued: bool,
}

/// The socket to one backend.
struct Link {
    stream: Stream,
    connected: bool,
    readable: bool,
    writable: bool,
    /// As of a client.
    ended: bool,
    /// Where it leads, if not to a unix socket.
    addr: Option<SocketAddr>,
    /// The server's name has other addresses now: it is left when nobody waits for an answer.
    moved: bool,
}

/// One backend's socket; its addresses are tried in turns.
#[derive(Default)]
struct Target {
    next: usize,
    link: Option<Link>,
}

/// What the workers of a proxy have in common.
pub struct Common {
    /// For the fronts.
    pub shared: Arc<Shared>,
    /// Clients connected to any worker.
    pub live: AtomicUsize,
    /// How long a stop waits for requests in flight, in microseconds.
    pub grace_us: u64,
    /// For how long a client may be silent, in microseconds. 0: for ever.
    pub idle_us: u64,
    /// Connections have gone, and their memory may be given back.
    pub freed: AtomicBool,
    /// Every worker, once all are there.
    pub workers: OnceLock<Vec<Sender<Message>>>,
}

/// One worker's state; [`Worker::run`] is the thread.
pub struct Worker {
    poll: Poll,
    mailbox: Mailbox<Message>,
    common: Arc<Common>,
    clock: RealClock,
    relay: Relay,
    setup: Arc<Setup>,
    /// Addresses of servers that a reload has removed and that still have something to answer.
    leaving: Addresses,
    /// By link.
    targets: HashMap<LinkId, Target>,
    /// The links of this turn.
    links: Vec<LinkId>,
    /// In boxes, so that the memory of a crowd can be given back when it has gone.
    clients: Slab<Box<Client>>,
    /// How often slots of `clients` were used, all together.
    generation: u32,
    /// Clients to visit in this turn.
    queue: VecDeque<usize>,
    /// Lent to the client that is being visited, so that an idle one owns no memory, and all read
    /// into the same warm bytes.
    scratch: Buf,
    /// A server's socket may have more to read than was read in the last turn.
    busy: bool,
    /// When a stop gives up waiting.
    stop_at: Option<u64>,
    /// When silent clients are looked for again.
    sweep_at: u64,
}

impl Worker {
    /// A worker that is ready to run, and the way to talk to it.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn new(
        relay: Relay,
        setup: Arc<Setup>,
        common: Arc<Common>,
        clock: RealClock,
    ) -> io::Result<(Worker, Sender<Message>)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), MAILBOX)?);
        let (sender, mailbox) = mailbox(waker, HANDOVER_MAX);
        let worker = Worker {
            poll,
            mailbox,
            common,
            clock,
            relay,
            setup,
            leaving: Addresses::new(),
            targets: HashMap::new(),
            links: Vec::new(),
            clients: Slab::new(),
            generation: 0,
            queue: VecDeque::new(),
            scratch: Buf::new(),
            busy: false,
            stop_at: None,
            sweep_at: 0,
        };
        Ok((worker, sender))
    }

    /// Serves until told to stop.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        loop {
            let now = self.clock.now();
            if self.stop_at.is_some_and(|at| now.mono_us >= at || self.is_done()) {
                return;
            }
            match self.poll.poll(&mut events, self.timeout(now)) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    log::error!("proxy: poll: {error}");
                    return;
                }
            }
            let mut now = self.clock.now();
            self.take_events(&events, now);
            self.take_in(now);
            for _ in 0..GATHER_POLLS {
                // An error shows again at the next poll.
                let more = self.gathers() && self.poll.poll(&mut events, NO_WAIT).is_ok();
                if !more || events.is_empty() {
                    break;
                }
                now = self.clock.now();
                self.take_events(&events, now);
                self.take_in(now);
            }
            self.give_out(now);
        }
    }

    /// Notes who is ready.
    fn take_events(&mut self, events: &Events, now: Now) {
        for event in events {
            match event.token() {
                MAILBOX => self.take_messages(now),
                Token(id) if id >= LINKS => self.backend_event(id - LINKS, event),
                Token(id) => self.client_event(id, event),
            }
        }
    }

    /// Whether the servers should wait for requests that may have come meanwhile: a look for them
    /// costs a tenth of the write to a sleeping server that it saves. Not where a few clients are
    /// all there is, and not where the write is large anyway.
    fn gathers(&mut self) -> bool {
        if self.relay.in_flight() < GATHER_FROM {
            return false;
        }
        let mut most = 0;
        for &id in &self.links {
            if self.relay.has_link(id) {
                most = most.max(self.relay.connection(id).sendable().len());
            }
        }
        (1..GATHER_BYTES).contains(&most)
    }

    /// Whether nobody waits for anything: what was asked is answered, and the answers have left.
    fn is_done(&self) -> bool {
        let told = |client: &Client| client.front.sendable().is_empty();
        self.relay.in_flight() == 0
            && self.queue.is_empty()
            && self.clients.iter().all(|(_, client)| told(client))
    }

    fn timeout(&self, now: Now) -> Option<Duration> {
        if self.busy || !self.queue.is_empty() {
            return NO_WAIT;
        }
        let sweep = self.may_idle_out().then_some(self.sweep_at);
        let deadlines = [self.relay.deadline(), self.stop_at, sweep];
        let deadline = deadlines.into_iter().flatten().min()?;
        // Rounded up: waking a little early would only mean waking twice.
        Some(Duration::from_micros(deadline.saturating_sub(now.mono_us)) + Duration::from_millis(1))
    }

    fn take_messages(&mut self, now: Now) {
        while let Some(message) = self.mailbox.pop() {
            match message {
                Message::Stop => self.stop_at = Some(now.mono_us + self.common.grace_us),
                Message::Serve(stream) => self.adopt(stream, now),
                Message::TurnOver => {}
                Message::Reload(setup) => {
                    // The new servers may have the numbers of those that went before.
                    self.close_gone();
                    self.relay.reload(Arc::clone(&setup.routes));
                    // The next one may give their numbers to others.
                    self.close_gone();
                    self.change_addresses(setup);
                }
            }
        }
    }

    /// Takes other addresses, and marks connections to those that their server's name does not have
    /// any more. Servers that are gone keep theirs until they have answered.
    fn change_addresses(&mut self, setup: Arc<Setup>) {
        let old = std::mem::replace(&mut self.setup, setup);
        self.list_links();
        let mut left = Addresses::new();
        for &id in &self.links {
            let endpoint = self.relay.endpoint(id);
            let link = self.targets.get_mut(&id).and_then(|target| target.link.as_mut());
            match (self.setup.addrs.get(endpoint), link) {
                (Some(addrs), Some(Link { addr: Some(addr), moved, .. })) => {
                    *moved = !addrs.contains(addr);
                }
                (Some(_), _) => {}
                (None, _) => {
                    let had = old.addrs.get(endpoint).or_else(|| self.leaving.get(endpoint));
                    left.extend(had.map(|addrs| (endpoint.clone(), addrs.clone())));
                }
            }
        }
        self.leaving = left;
    }

    fn close_gone(&mut self) {
        for id in self.relay.take_gone() {
            self.close_link(id);
            self.targets.remove(&id);
        }
    }

    fn adopt(&mut self, mut stream: Stream, now: Now) {
        let entry = self.clients.vacant_entry();
        let id = entry.key();
        let token = Token(id);
        if let Err(error) = self.poll.registry().register(&mut stream, token, BOTH) {
            log::warn!("proxy: cannot watch a client: {error}");
            self.common.live.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        self.generation = self.generation.wrapping_add(1);
        self.relay.count().curr_connections.add(1);
        self.relay.count().total_connections.add(1);
        entry.insert(Box::new(Client {
            stream,
            front: Front::new(self.common.shared.clone()),
            generation: self.generation,
            active_us: now.mono_us,
            readable: true,
            writable: true,
            ended: false,
            queued: true,
        }));
        self.queue.push_back(id);
    }

    fn client_event(&mut self, id: usize, event: &mio::event::Event) {
        let Some(client) = self.clients.get_mut(id) else { return };
        client.readable |= event.is_readable() || event.is_error();
        client.writable |= event.is_writable() || event.is_error();
        client.ended |= event.is_read_closed();
        if !client.queued {
            client.queued = true;
            self.queue.push_back(id);
        }
    }

    fn backend_event(&mut self, id: usize, event: &mio::event::Event) {
        let link = self.targets.get_mut(&id).and_then(|target| target.link.as_mut());
        let Some(link) = link else { return };
        link.readable |= event.is_readable() || event.is_error();
        link.writable |= event.is_writable() || event.is_error();
        link.ended |= event.is_read_closed();
    }

    /// Takes in what servers and clients have sent, and hands out what that ended.
    fn take_in(&mut self, now: Now) {
        self.relay.tick(now);
        self.list_links();
        for at in 0..self.links.len() {
            let id = self.links[at];
            if self.relay.has_link(id) {
                self.serve_backend(id, now);
            }
        }
        self.deliver();
        self.visit_clients(now);
        // Before anything else is read: a lane's number may soon be another's.
        self.close_gone();
    }

    /// Writes to the servers, and to clients what they can be told at once.
    fn give_out(&mut self, now: Now) {
        self.relay.admit(now);
        self.list_links();
        for at in 0..self.links.len() {
            let id = self.links[at];
            if self.relay.has_link(id) {
                self.flush_backend(id, now);
            }
        }
        self.relay.nudge_puts();
        // Requests that found no server end at once; what they free lets others in.
        self.deliver();
        self.flush_delivered(now);
        self.close_gone();
        self.close_idle(now);
        if self.relay.take_turn_ended() {
            for worker in self.common.workers.get().into_iter().flatten() {
                // One whose mailbox is full, or who was not woken, looks at his next turn.
                let _ = worker.send(Message::TurnOver);
            }
        }
        self.relay.publish();
        self.busy = self.is_busy();
    }

    fn list_links(&mut self) {
        self.links.clear();
        self.relay.links(&mut self.links);
    }

    /// Whether something can be read from a server without an event.
    fn is_busy(&mut self) -> bool {
        let Worker { targets, relay, .. } = self;
        targets.iter().any(|(&id, target)| {
            let link = target.link.as_ref();
            let wants = link.is_some_and(Link::wants_read) && relay.has_link(id);
            wants && relay.connection(id).wants_read()
        })
    }

    /// Hands ended requests to their clients, and those clients into the queue.
    fn deliver(&mut self) {
        let mut done = self.relay.take_completions();
        for completion in done.drain(..) {
            let relay::Client { slot, generation } = completion.client;
            let client = self.clients.get_mut(slot as usize);
            let Some(client) = client.filter(|client| client.generation == generation) else {
                self.relay.release(completion.held);
                continue;
            };
            client.front.complete(completion);
            if !client.queued {
                client.queued = true;
                self.queue.push_back(slot as usize);
            }
        }
        self.relay.recycle(done);
    }

    /// Visits everybody who is queued now; whoever is queued meanwhile waits for the next turn.
    fn visit_clients(&mut self, now: Now) {
        for _ in 0..self.queue.len() {
            let Some(id) = self.queue.pop_front() else { break };
            if !self.visit(id, now) {
                self.drop_client(id);
            }
        }
    }

    /// Replies that became ready after their clients' visit leave in the same turn.
    fn flush_delivered(&mut self, now: Now) {
        for id in 0..self.queue.len() {
            let id = self.queue[id];
            if let Some(client) = self.clients.get_mut(id) {
                // A failure shows again at the visit.
                let sent = client.flush().unwrap_or(0);
                client.moved(now, sent);
                self.relay.count().bytes_written.add(sent as u64);
            }
        }
    }

    /// Reads, processes and writes. `false`: the client is gone or done.
    fn visit(&mut self, id: usize, now: Now) -> bool {
        let stopping = self.stop_at.is_some();
        let Some(client) = self.clients.get_mut(id) else { return true };
        client.queued = false;
        let me = relay::Client { slot: id as u32, generation: client.generation };
        let mut read = 0;
        client.front.process(now, me, &mut self.relay);
        if client.front.input.is_empty() {
            std::mem::swap(&mut client.front.input, &mut self.scratch);
        }
        while client.readable && client.front.wants_input() && !stopping {
            if read >= READ_PER_TURN {
                client.queued = true;
                self.queue.push_back(id);
                break;
            }
            match client.read() {
                Ok(0) => {}
                Ok(n) => read += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
            client.front.process(now, me, &mut self.relay);
        }
        if client.front.input.is_empty() {
            self.scratch = std::mem::take(&mut client.front.input);
        }
        let sent = client.flush();
        client.moved(now, read + *sent.as_ref().unwrap_or(&0));
        self.relay.count().bytes_read.add(read as u64);
        self.relay.count().bytes_written.add(*sent.as_ref().unwrap_or(&0) as u64);
        client.front.settle(&mut self.relay);
        if !client.queued && !stopping && client.front.can_go_on(&self.relay) {
            client.queued = true;
            self.queue.push_back(id);
        }
        sent.is_ok() && !client.front.is_finished()
    }

    fn may_idle_out(&self) -> bool {
        self.common.idle_us > 0 && !self.clients.is_empty()
    }

    /// Closes who has been silent for longer than `-o idle_timeout`. As in memcached, that is
    /// between two commands or in a command line; whoever waits for an answer is not idle.
    fn close_idle(&mut self, now: Now) {
        if !self.may_idle_out() || now.mono_us < self.sweep_at {
            return;
        }
        self.sweep_at = now.mono_us + IDLE_SWEEP_US;
        let limit = self.common.idle_us;
        let silent = |client: &Client| now.mono_us.saturating_sub(client.active_us) > limit;
        let idle: Vec<usize> = self
            .clients
            .iter()
            .filter(|(_, client)| silent(client) && client.front.is_idle())
            .map(|(id, _)| id)
            .collect();
        self.relay.count().idle_kicks.add(idle.len() as u64);
        for id in idle {
            self.drop_client(id);
        }
    }

    fn drop_client(&mut self, id: usize) {
        let mut client = self.clients.remove(id);
        client.front.abandon(&mut self.relay);
        self.relay.count().curr_connections.sub(1);
        if client.queued {
            self.queue.retain(|&queued| queued != id);
        }
        // A socket that cannot be deregistered is closed all the same.
        let _ = self.poll.registry().deregister(&mut client.stream);
        self.common.freed.store(true, Ordering::Relaxed);
        self.common.live.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes in what a server sent, and looks at its deadline.
    fn serve_backend(&mut self, id: usize, now: Now) {
        if let Err(why) = self.read_backend(id, now) {
            return self.fail_backend(id, now, &why);
        }
        if !self.relay.has_link(id) {
            // What was received was the end of a lane.
            return;
        }
        let mut late = self.relay.connection(id).check(now);
        if late.is_none() && self.link(id).is_some_and(|link| link.moved) {
            let quiet = self.relay.connection(id).is_quiet();
            late = quiet.then(|| Why::Lost("its address has changed".into()));
        }
        if let Some(why) = late {
            self.fail_backend(id, now, &why);
        }
    }

    fn read_backend(&mut self, id: usize, now: Now) -> Result<(), Why> {
        let Some(link) = self.link(id) else { return Ok(()) };
        if !link.connected {
            let tried = link.writable || link.readable;
            match link.stream.take_error() {
                Ok(Some(error)) | Err(error) => return Err(Why::Refused(plain(&error))),
                Ok(None) if !tried => return Ok(()),
                Ok(None) => {}
            }
            link.connected = true;
            self.relay.connection(id).connected(now);
        }
        let mut total = 0;
        while total < READ_PER_TURN {
            let link = self.targets.get_mut(&id).and_then(|target| target.link.as_mut());
            let Some(link) = link.filter(|link| link.readable) else { return Ok(()) };
            let mut connection = self.relay.connection(id);
            if !connection.wants_read() {
                return Ok(());
            }
            let space = connection.space(READ_SIZE);
            let room = space.len();
            match link.stream.read(space) {
                Ok(0) => return Err(Why::Lost("it closed the connection".into())),
                Ok(n) => {
                    link.readable = n == room || link.ended;
                    total += n;
                    connection.received(now, n);
                    drop(connection);
                    if !self.relay.received(id, now) {
                        self.close_link(id);
                        return Ok(());
                    }
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => link.readable = false,
                    ErrorKind::Interrupted => {}
                    _ => return Err(Why::Lost(plain(&error))),
                },
            }
        }
        Ok(())
    }

    /// Connects where a server is wanted, and sends what it is to get.
    fn flush_backend(&mut self, id: usize, now: Now) {
        if self.relay.connection(id).wants_connect(now) {
            // A number may have been another server's until a moment ago.
            self.close_gone();
            self.relay.connection(id).connecting(now);
            if let Err(error) = self.connect(id) {
                return self.fail_backend(id, now, &Why::Refused(plain(&error)));
            }
        }
        if let Err(error) = self.write_backend(id, now) {
            self.fail_backend(id, now, &Why::Lost(plain(&error)));
        }
    }

    fn connect(&mut self, id: usize) -> io::Result<()> {
        // Lanes lead where the server's own connection does.
        let next = self.targets.get(&self.relay.backend_of(id)).map_or(0, |target| target.next);
        let endpoint = self.relay.endpoint(id);
        let (mut stream, addr) = match endpoint {
            Endpoint::Unix(path) => (Stream::connect_unix(path)?, None),
            Endpoint::Tcp { .. } => {
                let known = self.setup.addrs.get(endpoint).or_else(|| self.leaving.get(endpoint));
                let addrs = known.map_or(&[][..], Vec::as_slice);
                let addr = addrs.get(next % addrs.len().max(1));
                let addr = *addr.ok_or_else(|| io::Error::from(ErrorKind::AddrNotAvailable))?;
                (Stream::connect(addr)?, Some(addr))
            }
        };
        self.poll.registry().register(&mut stream, Token(LINKS + id), BOTH)?;
        let (connected, readable, writable, ended) = (false, false, false, false);
        let moved = false;
        self.targets.entry(id).or_default().link =
            Some(Link { stream, connected, readable, writable, ended, addr, moved });
        Ok(())
    }

    fn write_backend(&mut self, id: usize, now: Now) -> io::Result<()> {
        let link = self.targets.get_mut(&id).and_then(|target| target.link.as_mut());
        let Some(link) = link else { return Ok(()) };
        let mut connection = self.relay.connection(id);
        while link.writable && !connection.sendable().is_empty() {
            match link.stream.write(connection.sendable()) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => connection.sent(now, n),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => link.writable = false,
                    ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }

    fn fail_backend(&mut self, id: usize, now: Now, why: &Why) {
        self.close_link(id);
        // The next attempt is made at the next address of the name, if it has several.
        let backend = self.relay.backend_of(id);
        let target = self.targets.entry(backend).or_default();
        if target.link.is_none() {
            target.next = target.next.wrapping_add(1);
        }
        self.relay.failed(id, now, why);
        if !self.relay.has_link(id) {
            // A lane, which does not come back.
            self.targets.remove(&id);
        }
    }

    fn link(&mut self, id: LinkId) -> Option<&mut Link> {
        self.targets.get_mut(&id).and_then(|target| target.link.as_mut())
    }

    fn close_link(&mut self, id: LinkId) {
        if let Some(mut link) = self.targets.get_mut(&id).and_then(|target| target.link.take()) {
            // A socket that cannot be deregistered is closed all the same.
            let _ = self.poll.registry().deregister(&mut link.stream);
        }
    }
}

impl Link {
    fn wants_read(&self) -> bool {
        self.connected && self.readable
    }
}

impl Client {
    /// So many bytes came from it or went there.
    fn moved(&mut self, now: Now, bytes: usize) {
        if bytes > 0 {
            self.active_us = now.mono_us;
        }
    }

    /// One read. 0: the client sends nothing more.
    fn read(&mut self) -> io::Result<usize> {
        let space = self.front.input.space(self.front.input_room());
        let room = space.len();
        let result = self.stream.read(space);
        match &result {
            Ok(0) => {
                self.readable = false;
                self.front.input_ended();
            }
            Ok(n) => {
                // A short read means that the socket is drained.
                self.readable = *n == room || self.ended;
                self.front.input.filled(*n);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(0),
            Err(_) => self.readable = false,
        }
        result
    }

    fn flush(&mut self) -> io::Result<usize> {
        let mut total = 0;
        while self.writable && !self.front.sendable().is_empty() {
            match self.stream.write(self.front.sendable()) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.front.sent(n);
                    total += n;
                }
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock => self.writable = false,
                    ErrorKind::Interrupted => {}
                    _ => return Err(error),
                },
            }
        }
        Ok(total)
    }
}
