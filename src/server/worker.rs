//! A worker: one thread, one poll, its own connections.
//!
//! Owns the sockets of the connections that were handed to it and moves bytes between them and
//! their [`Conn`]. One turn: wait, read the clock once, serve what is ready, serve again who used
//! up its budget, then tell the replication and maintenance threads if there is work for them.
//! Never accepts connections and never parses or executes anything itself.
//!
//! ```text
//!   event -> read (a short read means the socket is drained) -> Conn::process -> one write
//! ```

mod ahead;

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token, Waker};
use slab::Slab;

use crate::base::buf::Buf;
use crate::base::clock::{Clock, Now, RealClock};
use crate::base::counters::Counter;
use crate::net::mailbox::{mailbox, Mailbox, Sender};
use crate::net::stream::Stream;
use crate::server::conn::{Conn, Step};
use crate::server::execute::Executor;
use crate::server::maintenance::Bell;
use crate::server::shared::{ConnInfo, ConnState, Shared};
use crate::server::udp::{self, Endpoint};
use crate::server::waits::{self, Outcome, Wait};
use crate::server::watch::{CloseReason, Wake};
use ahead::ReadAhead;

/// What the main thread tells a worker.
pub enum Message {
    /// A connection to serve from now on.
    Serve {
        /// The socket, non-blocking.
        stream: Stream,
        /// Its line in `stats conns`.
        info: Arc<ConnInfo>,
    },
    /// A UDP socket to serve from now on.
    Datagrams(UdpSocket),
    /// Leave now.
    Stop,
    /// Close idle connections, let busy ones finish, then leave.
    Drain,
}

/// Where the mailbox rings; connections use their slab key.
const MAILBOX: Token = Token(usize::MAX);

/// UDP sockets have the tokens from here on: far above any slab key.
const UDP: usize = usize::MAX / 2;

/// Events taken per turn: as many as a busy worker can have ready without the first of them
/// waiting for a second poll.
const EVENTS_PER_TURN: usize = 1024;

/// Read size: a pipelined batch comes in with one system call.
const READ_SIZE: usize = 64 * 1024;

/// Most that one connection may read in one turn, so that a fast sender of large values lets the
/// others go in between.
const READ_PER_TURN: usize = 1024 * 1024;

/// Replies that one connection may send in one turn before the others go, and one write above it: a
/// client that reads as fast as it is answered would be the only one who is.
const WRITE_PER_TURN: usize = 512 * 1024;

/// Slices of one write, or read: a megabyte in chunks of 64 KiB, with what stands around it, or 256
/// KiB of pipelined values of 10 KB.
const SLICES: usize = 56;

/// Memory of each buffer that an idle worker keeps.
const SCRATCH_KEEP: usize = 256 * 1024;

/// Memory of each buffer that a busy worker keeps for the next connection: enough for values of the
/// default `-I`, whose pages would otherwise be made and unmade by the kernel for every one of
/// them.
const SCRATCH_MAX: usize = 5 << 19;

/// Buffers of connections that are freed before the heap is asked to give memory back.
const FREED_MANY: usize = 1 << 20;

/// Connections that may wait to be adopted: a flood is held back at the accepting thread, which
/// serves the others' `-c` places first.
const HANDOVER_MAX: usize = 4096;

/// How often a worker looks for connections that `-o idle_timeout` closes: its unit is a second.
const IDLE_SWEEP: Duration = Duration::from_secs(1);

/// Bytes of stalled values that are moved in one turn: some hundred microseconds.
const MOVED_PER_TURN: usize = 1 << 20;

/// Places of settled waits that are kept for the next time: a busy moment's, 64 KiB.
const SETTLED_KEEP: usize = 1024;

struct Client {
    stream: Stream,
    /// Tells it from a later one with the same key.
    serial: u64,
    conn: Conn,
    info: Arc<ConnInfo>,
    /// The socket would not take more; a writable event comes when it does.
    blocked: bool,
    /// The client has said its last word: no further event will tell of it, so a short read does
    /// not mean that there is nothing more to find out.
    ended: bool,
    /// Stands in the ready list already.
    queued: bool,
}

impl Client {
    /// Whether the socket had no more after what was read.
    fn take_in(&mut self, filled: Filled, exec: &mut Executor) -> bool {
        if let Filled::Closed = filled {
            // What was asked before the end still gets its answer.
            self.conn.hung_up(exec);
        }
        matches!(filled, Filled::Drained)
    }
}

/// What became of one visit to a connection.
enum Visit {
    /// Nothing to do until the next event.
    Wait,
    /// There is more to do, but others go first.
    Again,
    /// The connection is over.
    Close,
}

/// One worker's state; [`Worker::run`] is the thread.
pub struct Worker {
    poll: Poll,
    mailbox: Mailbox<Message>,
    clients: Slab<Client>,
    endpoints: Vec<Endpoint>,
    ready: VecDeque<usize>,
    /// Connections that read what others make (`watch`).
    watching: Vec<usize>,
    exec: Executor,
    shared: Arc<Shared>,
    clock: RealClock,
    bell: Arc<Bell>,
    scratch_in: Buf,
    /// The other one, while one of them is lent to a connection that was read ahead.
    spare_in: Buf,
    scratch_out: Vec<u8>,
    /// A connection that was read from while another one was still to be served.
    read_ahead: Option<ReadAhead>,
    /// Connections adopted so far.
    serials: u64,
    /// What [`waits::Waits::settle`] brings.
    settled: Vec<(Wait, Outcome)>,
    /// Bytes of connections' own buffers that were freed, and not taken again, since maintenance
    /// was told.
    freed: usize,
    draining: bool,
    stopping: bool,
    /// Monotonic microsecond of the next look for idle connections.
    next_sweep_us: u64,
    /// There may be connections with values that are read into their place, and the monotonic
    /// microsecond of the next look whether they still come.
    arriving: bool,
    next_look_us: u64,
}

impl Worker {
    /// A worker that is ready to run, and the way to talk to it. Fails when the process is out of
    /// descriptors.
    pub fn new(
        mut exec: Executor,
        clock: RealClock,
        bell: Arc<Bell>,
    ) -> io::Result<(Worker, Sender<Message>)> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), MAILBOX)?);
        let (sender, mailbox) = mailbox(waker, HANDOVER_MAX);
        let watched = sender.clone();
        let wake: Wake = Arc::new(move || {
            if let Err(error) = watched.wake() {
                log::debug!("cannot wake a worker: {error}");
            }
        });
        exec.waits.join(Arc::clone(&wake));
        exec.wake = Some(wake);
        let shared = Arc::clone(&exec.shared);
        let worker = Worker {
            poll,
            mailbox,
            clients: Slab::new(),
            endpoints: Vec::new(),
            ready: VecDeque::new(),
            watching: Vec::new(),
            exec,
            shared,
            clock,
            bell,
            scratch_in: Buf::new(),
            spare_in: Buf::new(),
            read_ahead: None,
            scratch_out: Vec::new(),
            serials: 0,
            settled: Vec::new(),
            freed: 0,
            draining: false,
            stopping: false,
            next_sweep_us: 0,
            arriving: false,
            next_look_us: 0,
        };
        Ok((worker, sender))
    }

    /// Serves until told to stop.
    pub fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_PER_TURN);
        while !(self.stopping || self.draining && self.clients.is_empty()) {
            let large = self.scratch_held() > SCRATCH_KEEP;
            let looks = large || self.arriving || self.may_idle_out();
            let timeout = match self.ready.is_empty() {
                false => Some(Duration::ZERO),
                true => self.until_deadline(looks.then_some(IDLE_SWEEP)),
            };
            if let Err(error) = self.poll.poll(&mut events, timeout) {
                if error.kind() != ErrorKind::Interrupted {
                    log::error!("poll: {error}");
                    break;
                }
            }
            if large && events.is_empty() && self.ready.is_empty() {
                keep_at_most(SCRATCH_KEEP, &mut self.scratch_in, &mut self.scratch_out);
                self.spare_in.shrink_idle(SCRATCH_KEEP);
            }
            let now = self.clock.now();
            self.answer_waiting(now);
            // Who waits since the last turn goes after the new events, once each.
            let waiting = self.ready.len();
            for event in &events {
                match event.token() {
                    MAILBOX => {
                        self.serve_read_ahead(now);
                        self.take_messages(now);
                    }
                    Token(key) if key >= UDP => {
                        self.serve_read_ahead(now);
                        if let Some(endpoint) = self.endpoint(key) {
                            endpoint.blocked &= !event.is_writable();
                        }
                        self.visit_endpoint(key, self.moved(now));
                    }
                    Token(key) => {
                        if let Some(client) = self.clients.get_mut(key) {
                            client.blocked &= !event.is_writable();
                            client.ended |= event.is_read_closed();
                        }
                        self.visit_ahead(key, now);
                    }
                }
            }
            self.serve_read_ahead(now);
            for _ in 0..waiting {
                if let Some(key) = self.ready.pop_front() {
                    if let Some(client) = self.clients.get_mut(key) {
                        client.queued = false;
                        self.visit(key, None, self.moved(now));
                    } else if let Some(endpoint) = self.endpoint(key) {
                        endpoint.queued = false;
                        self.visit_endpoint(key, self.moved(now));
                    }
                }
            }
            self.close_idle(now);
            self.check_arriving(now);
            self.serve_watchers(now);
            self.tell_others();
            // What was acknowledged before that wakes nobody.
            self.answer_waiting(now);
        }
        self.close_all();
    }

    /// Memory of the largest buffer that connections borrow.
    fn scratch_held(&self) -> usize {
        let input = self.scratch_in.capacity().max(self.spare_in.capacity());
        input.max(self.scratch_out.capacity())
    }

    /// How long to sleep: for `timeout`, and no longer than the first reply may wait for peers.
    fn until_deadline(&self, timeout: Option<Duration>) -> Option<Duration> {
        let Some(deadline_us) = self.exec.waits.deadline_us() else { return timeout };
        let left = deadline_us.saturating_sub(self.clock.now().mono_us);
        let left = Duration::from_micros(left);
        Some(timeout.map_or(left, |timeout| timeout.min(left)))
    }

    /// Answers those who wait for peers no longer: they are visited in this turn or the next.
    fn answer_waiting(&mut self, now: Now) {
        self.exec.waits.settle(now, &mut self.settled);
        for (wait, outcome) in self.settled.drain(..) {
            let waits::Client { key, serial } = wait.client;
            let client = self.clients.get_mut(key).filter(|client| client.serial == serial);
            let Some(client) = client else {
                self.exec.waits.was_gone();
                continue;
            };
            let held = client.conn.held();
            let sendable = client.conn.settle(&wait, outcome);
            self.freed += held.saturating_sub(client.conn.held());
            if sendable && !client.queued {
                client.queued = true;
                self.ready.push_back(key);
            }
        }
        if self.settled.capacity() > SETTLED_KEEP {
            self.settled = Vec::new();
        }
    }

    /// The time for the next visit: the turn's, unless a client may have moved the clock since.
    fn moved(&self, now: Now) -> Now {
        match self.clock.can_be_moved() {
            false => now,
            true => self.clock.now(),
        }
    }

    /// Lets those write who wait for others' lines.
    fn serve_watchers(&mut self, now: Now) {
        for nth in 0..self.watching.len() {
            let Some(&key) = self.watching.get(nth) else { break };
            if self.clients.get(key).is_some_and(|client| client.conn.is_called()) {
                self.visit(key, None, now);
            }
        }
    }

    fn may_idle_out(&self) -> bool {
        self.shared.config.idle_timeout_secs > 0 && !self.clients.is_empty()
    }

    /// Closes who has said nothing for longer than `-o idle_timeout`, once a second.
    fn close_idle(&mut self, now: Now) {
        // A clock that was moved back must not make the next look a late one.
        let next = self.next_sweep_us.min(now.mono_us + IDLE_SWEEP.as_micros() as u64);
        if !self.may_idle_out() || now.mono_us < next {
            return;
        }
        self.next_sweep_us = now.mono_us + IDLE_SWEEP.as_micros() as u64;
        let limit = self.shared.config.idle_timeout_secs;
        // As memcached: only between commands, or in the middle of a command line.
        let waits = |info: &ConnInfo| matches!(info.state(), ConnState::NewCmd | ConnState::Read);
        let idle: Vec<usize> = self
            .clients
            .iter()
            .filter(|(_, client)| waits(&client.info) && client.info.idle_secs(now) > limit)
            // Whoever waits for an answer is not idle.
            .filter(|(_, client)| !client.conn.is_held())
            .map(|(key, _)| key)
            .collect();
        self.exec.store.counters().add(Counter::IdleKicks, idle.len() as u64);
        for key in idle {
            self.close(key, Some(CloseReason::IdleTimeout), now);
        }
    }

    /// Gives the memory of values back that have stopped to come in, about once a second.
    fn check_arriving(&mut self, now: Now) {
        let next = self.next_look_us.min(now.mono_us + IDLE_SWEEP.as_micros() as u64);
        if !self.arriving || now.mono_us < next {
            return;
        }
        self.next_look_us = now.mono_us + IDLE_SWEEP.as_micros() as u64;
        self.arriving = false;
        let mut moved = 0;
        for (_, client) in &mut self.clients {
            moved += client.conn.check_arriving(&mut self.exec, now);
            self.arriving |= client.conn.is_arriving();
            if moved > MOVED_PER_TURN {
                self.arriving = true;
                self.next_look_us = now.mono_us;
                break;
            }
        }
    }

    /// Wakes the threads that have work because of this turn; nobody is woken for nothing.
    fn tell_others(&mut self) {
        self.exec.store.hand_over();
        if let Some(replication) = self.shared.replication.get() {
            let fed = self.exec.store.take_fed() && self.shared.store.changed().raise();
            let full = self.exec.store.take_full();
            if self.exec.waits.hand_over() || fed || full {
                replication.wake();
            }
        }
        if self.freed >= FREED_MANY {
            self.freed = 0;
            self.bell.freed();
        }
        if self.exec.store.needs_maintenance() {
            self.bell.ring();
        }
    }

    fn take_messages(&mut self, now: Now) {
        while let Some(message) = self.mailbox.pop() {
            match message {
                Message::Serve { stream, info } => self.adopt(stream, info, now),
                Message::Datagrams(socket) => self.adopt_endpoint(socket, now),
                Message::Stop => self.stopping = true,
                Message::Drain => {
                    self.draining = true;
                    self.close_endpoints();
                    let idle: Vec<usize> = self
                        .clients
                        .iter()
                        .filter(|(_, client)| client.conn.is_idle())
                        .map(|(key, _)| key)
                        .collect();
                    for key in idle {
                        self.close(key, None, now);
                    }
                }
            }
        }
    }

    fn adopt(&mut self, mut stream: Stream, info: Arc<ConnInfo>, now: Now) {
        let id = conn_id(&stream);
        let entry = self.clients.vacant_entry();
        let key = entry.key();
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut stream, Token(key), interest) {
            log::warn!("cannot watch a connection: {error}");
            self.shared.leave();
            return;
        }
        log::debug!("<{id} new auto-negotiating client connection");
        self.shared.conns().insert(id, Arc::clone(&info));
        self.exec.store.opened(&info.addr, id, now);
        let mut conn = Conn::new(id, Arc::clone(&info));
        conn.lend_values();
        self.serials += 1;
        let (serial, blocked, ended, queued) = (self.serials, false, false, false);
        entry.insert(Client { stream, serial, conn, info, blocked, ended, queued });
        self.visit(key, None, now);
    }

    fn adopt_endpoint(&mut self, socket: UdpSocket, now: Now) {
        let key = UDP + self.endpoints.len();
        match Endpoint::new(socket, self.poll.registry(), Token(key), &self.shared, now) {
            Ok(endpoint) => {
                self.endpoints.push(endpoint);
                self.visit_endpoint(key, now);
            }
            Err(error) => log::error!("cannot watch a UDP socket: {error}"),
        }
    }

    /// The UDP socket with this token; none for a connection's key.
    fn endpoint(&mut self, key: usize) -> Option<&mut Endpoint> {
        self.endpoints.get_mut(key.checked_sub(UDP)?)
    }

    /// Does what can be done for one UDP socket now. `key` is its token.
    fn visit_endpoint(&mut self, key: usize, now: Now) {
        let at = key.wrapping_sub(UDP);
        let Some(endpoint) = self.endpoints.get_mut(at) else { return };
        endpoint.lend(&mut self.scratch_in, &mut self.scratch_out);
        let visit = endpoint.serve(&mut self.exec, now, SCRATCH_MAX);
        let (input, out) = (&mut self.scratch_in, &mut self.scratch_out);
        endpoint.reclaim(&mut self.exec, now, input, out);
        keep_at_most(SCRATCH_MAX, &mut self.scratch_in, &mut self.scratch_out);
        if visit == udp::Visit::Again && !endpoint.queued {
            endpoint.queued = true;
            self.ready.push_back(key);
        }
    }

    fn close_endpoints(&mut self) {
        for endpoint in self.endpoints.drain(..) {
            endpoint.close(&self.shared);
        }
    }

    /// Does what can be done for one connection now.
    fn visit(&mut self, key: usize, read: Option<ReadAhead>, now: Now) {
        let Some(client) = self.clients.get_mut(key) else { return };
        self.exec.waits.client = waits::Client { key, serial: client.serial };
        let owned = if read.is_some() { 0 } else { client.conn.held() };
        client.conn.lend(&mut self.scratch_in, &mut self.scratch_out);
        let visit = serve(client, &mut self.exec, read, now);
        let (input, out) = (&mut self.scratch_in, &mut self.scratch_out);
        client.conn.reclaim(&mut self.exec, now, input, out);
        keep_at_most(SCRATCH_MAX, &mut self.scratch_in, &mut self.scratch_out);
        // What others take again the heap need not give back.
        self.freed = (self.freed + owned).saturating_sub(client.conn.held());
        self.arriving |= client.conn.is_arriving();
        match visit {
            Visit::Wait if self.draining && client.conn.is_idle() => self.close(key, None, now),
            Visit::Wait if client.conn.is_endless() && !self.watching.contains(&key) => {
                self.watching.push(key);
            }
            Visit::Wait => {}
            Visit::Again => {
                if !client.queued {
                    client.queued = true;
                    self.ready.push_back(key);
                }
            }
            Visit::Close => self.close(key, None, now),
        }
    }

    /// Ends a connection, for its own reason where none is given.
    fn close(&mut self, key: usize, reason: Option<CloseReason>, now: Now) {
        let Some(mut client) = self.clients.try_remove(key) else { return };
        self.watching.retain(|&other| other != key);
        let id = conn_id(&client.stream);
        if let Err(error) = self.poll.registry().deregister(&mut client.stream) {
            log::debug!("<{id} deregister: {error}");
        }
        let reason = reason.unwrap_or(client.conn.reason());
        self.exec.store.closed(&client.info.addr, id, reason, now);
        client.conn.release(&mut self.exec);
        if self.exec.waits.left(client.conn.replies().unsettled()) {
            let lives = |client: &Client, serial| client.serial == serial;
            self.exec.waits.retain(|waits::Client { key, serial }| {
                self.clients.get(key).is_some_and(|client| lives(client, serial))
            });
        }
        self.freed += client.conn.held();
        // The line goes before the descriptor does: its number may be given out again at once.
        self.shared.conns().remove(&id);
        drop(client);
        self.shared.leave();
        log::debug!("<{id} connection closed.");
    }

    fn close_all(&mut self) {
        self.close_endpoints();
        let keys: Vec<usize> = self.clients.iter().map(|(key, _)| key).collect();
        let now = self.clock.now();
        for key in keys {
            self.close(key, None, now);
        }
    }
}

/// Gives a worker's buffers back where they are larger than `keep` bytes.
fn keep_at_most(keep: usize, input: &mut Buf, out: &mut Vec<u8>) {
    if out.capacity() > keep {
        *out = Vec::new();
    }
    input.shrink_idle(keep);
}

/// Reads, processes and writes one connection until it has nothing ready, its budget is used up, or
/// its socket would block.
fn serve(client: &mut Client, exec: &mut Executor, read: Option<ReadAhead>, now: Now) -> Visit {
    let mut budget = exec.shared.config.reqs_per_event;
    let mut read_left = READ_PER_TURN;
    let (mut written, mut drained) = (0, false);
    if let Some(ReadAhead { filled, left, .. }) = read {
        read_left = left;
        match filled {
            Ok(filled) => drained = client.take_in(filled, exec),
            Err(_) => return Visit::Close,
        }
    }
    loop {
        if client.blocked {
            return Visit::Wait;
        }
        match client.conn.process(exec, now, &mut budget) {
            Step::Read if drained => {
                return match flush(client, exec) {
                    Ok(_) => Visit::Wait,
                    Err(_) => Visit::Close,
                };
            }
            Step::Read if read_left == 0 => {
                return if flush(client, exec).is_ok() { Visit::Again } else { Visit::Close };
            }
            Step::Read => match fill(client, exec, &mut read_left) {
                Ok(filled) => drained = client.take_in(filled, exec),
                Err(_) => return Visit::Close,
            },
            Step::Write => {
                written += client.conn.replies().sendable_bytes();
                match flush(client, exec) {
                    Ok(true) if written >= WRITE_PER_TURN => return Visit::Again,
                    Ok(true) => {}
                    Ok(false) => return Visit::Wait,
                    Err(_) => return Visit::Close,
                }
            }
            Step::Yield => {
                exec.store.counters().add(Counter::ConnYields, 1);
                return match flush(client, exec) {
                    Ok(true) => Visit::Again,
                    Ok(false) => Visit::Wait,
                    Err(_) => Visit::Close,
                };
            }
            Step::Hold => {
                return if flush(client, exec).is_ok() { Visit::Wait } else { Visit::Close };
            }
            Step::Close => {
                return match flush(client, exec) {
                    Ok(false) => Visit::Wait,
                    _ => Visit::Close,
                };
            }
        }
    }
}

/// A connection's number in log lines and `stats conns`: its descriptor, as in memcached.
fn conn_id(stream: &Stream) -> u64 {
    u64::try_from(stream.as_raw_fd()).unwrap_or_default()
}

enum Filled {
    More,
    Drained,
    Closed,
}

/// Reads once into the connection.
fn fill(client: &mut Client, exec: &Executor, left: &mut usize) -> io::Result<Filled> {
    if client.conn.is_arriving() {
        return fill_value(client, exec, left);
    }
    let wanted = client.conn.wanted(READ_SIZE).min(*left);
    // Only what was asked for, however large the buffer is: what stays unexecuted stays in memory.
    let space = &mut client.conn.input().space(wanted)[..wanted];
    let room = space.len();
    loop {
        return match client.stream.read(&mut space[..room]) {
            Ok(0) => Ok(Filled::Closed),
            Ok(n) => {
                client.conn.input().filled(n);
                exec.store.counters().add(Counter::BytesRead, n as u64);
                *left -= n;
                // A short read means that the socket had no more; new bytes make a new event. The
                // end has made its event already, perhaps long before the bytes in front of it
                // were read.
                Ok(if n < room && !client.ended { Filled::Drained } else { Filled::More })
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Filled::Drained),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
    }
}

/// Reads once into a value's place in the store, and what comes behind it into the connection.
fn fill_value(client: &mut Client, exec: &Executor, left: &mut usize) -> io::Result<Filled> {
    loop {
        let mut slices: [_; SLICES] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
        let count = client.conn.windows(*left, &mut slices);
        let room: usize = slices[..count].iter().map(|slice| slice.len()).sum();
        return match client.stream.read_vectored(&mut slices[..count]) {
            Ok(0) => Ok(Filled::Closed),
            Ok(n) => {
                client.conn.filled(n);
                exec.store.counters().add(Counter::BytesRead, n as u64);
                *left -= n;
                Ok(if n < room && !client.ended { Filled::Drained } else { Filled::More })
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Filled::Drained),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
    }
}

/// Writes what is sendable. `Ok(true)`: all of it went out.
fn flush(client: &mut Client, exec: &mut Executor) -> io::Result<bool> {
    // The system call that follows takes longer than memory does.
    if let Some(hash) = exec.upcoming.take() {
        exec.store.ahead_record(hash);
    }
    while client.conn.replies().has_sendable() {
        match send(client) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(n) => {
                client.conn.replies().sent(n, SCRATCH_MAX);
                exec.store.counters().add(Counter::BytesWritten, n as u64);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                client.blocked = true;
                // Nobody knows for how long: lent memory must not wait.
                client.conn.replies().keep_copies();
                return Ok(false);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Writes once, large values from where they are.
#[inline]
fn send(client: &mut Client) -> io::Result<usize> {
    let replies = client.conn.replies();
    if !replies.has_lent() {
        return client.stream.write(replies.sendable());
    }
    let mut slices = [IoSlice::new(b""); SLICES];
    let count = replies.slices(&mut slices);
    client.stream.write_vectored(&slices[..count])
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Messages that were never taken still hold places under `-c`.
        while let Some(message) = self.mailbox.pop() {
            if let Message::Serve { .. } = message {
                self.shared.curr_connections.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}
