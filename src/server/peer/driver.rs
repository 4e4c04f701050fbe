//! The loop of the replication thread.
//!
//! Owns the poll, the sockets and the store handle of this thread; carries bytes between sockets
//! and [`Node`], and does what its actions say. Decides nothing, and does a bounded amount of
//! work per link and turn, so that no link keeps another one (or a heartbeat) waiting.

use super::access::Access;
use super::figures::Stats;
use super::resolve::{self, Resolver};
use super::sockets::{Conn, Io};
use super::{PeerConfig, Serve, Shared};
use crate::base::address::Address;
use crate::base::clock::{Clock, Now, RealClock};
use crate::replication::{Action, LinkId, Node, NodeConfig};
use crate::store::{Handle, Store, Told};
use mio::event::Event;
use mio::net::TcpListener;
use mio::{Events, Poll, Token};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Token of the waker.
pub(super) const WAKER: Token = Token(0);
/// Tokens below are listeners; from there on, even ones are links and odd ones dials.
pub(super) const FIRST_LINK: usize = 1 << 16;
/// Bytes read and applied per link and turn: about a millisecond of applying small items.
const READ_MAX: usize = 256 * 1024;
/// Output that may wait per link. A peer that does not read costs this much, and no more.
const OUT_MAX: usize = 256 * 1024;
/// Output buffers over this are given back when they are empty and were not needed for a while.
const OUT_KEEP: usize = 64 * 1024;
/// Bytes of a copy that are sent, or read and applied, in one turn: about a quarter of a
/// millisecond's work.
const COPY_SLICE: usize = 128 * 1024;
/// How long the thread sleeps while it copies: a worker that waits for the processor gets it.
/// Without this the kernel lets a busy thread have it for milliseconds.
const COPY_PAUSE: Duration = Duration::from_micros(50);
/// How long it works between two such sleeps while clients ask, and while none does. On a busy
/// machine each sleep costs a turn of whoever wants the processor too, so there must be few.
const COPY_WORK_US: u64 = 500;
const COPY_ALONE_US: u64 = 4000;
/// Clients that have sent nothing for this long do not ask.
const ASKED_US: u64 = 20_000;
/// Bytes written per link and turn.
const WRITE_TURN: usize = 1024 * 1024;
/// While changes keep coming they are collected for this long: a turn and its system calls then
/// serve many. The first change after a pause is sent at once.
const BATCH_US: u64 = 2000;
/// What `stats` shows is at most this old.
const STATS_US: u64 = 50_000;
/// Longest time that an ending process gives its peers to take what is queued.
const STOP_WAIT_US: u64 = 2_000_000;
/// Longest sleep: a bound on what a lost wake-up could cost.
const SLEEP_MAX_US: u64 = 1_000_000;

/// Token of a link's socket.
pub(super) fn link_token(link: LinkId) -> Token {
    Token(FIRST_LINK + 2 * link.0 as usize)
}

/// What is known of a peer of `-x`.
#[derive(Debug)]
pub(super) struct Named {
    pub host: Address,
    /// What its name meant when it was looked up last.
    pub known: Vec<SocketAddr>,
    /// Connections to it that came to nothing: where to begin among its addresses.
    pub turn: usize,
    /// When a connection to it was made last.
    pub made_us: Option<u64>,
    /// It was said that its name is not found.
    pub lost: bool,
}

pub(super) struct Driver {
    pub(super) config: PeerConfig,
    /// The peers, each with its port.
    pub(super) peers: Vec<Named>,
    pub(super) access: Access,
    store: Arc<Store>,
    pub(super) handle: Handle,
    clock: RealClock,
    pub(super) poll: Poll,
    shared: Arc<Shared>,
    serve: Serve,
    pub(super) resolver: Resolver,
    pub(super) node: Node,
    pub(super) listeners: Vec<TcpListener>,
    pub(super) accept_again: bool,
    pub(super) conns: BTreeMap<LinkId, Conn>,
    /// Addresses dialled so far: each has a token of its own.
    pub(super) attempts: usize,
    buffer: Vec<u8>,
    hashes: Vec<u64>,
    told: Told,
    batch_until_us: u64,
    published_us: u64,
    pub(super) dirty: bool,
    stop_at_us: Option<u64>,
    /// A slice of a copy was done in this turn.
    sliced: bool,
    /// Until when it may work on during a copy.
    pause_due_us: u64,
    /// What clients had sent when it slept last, and when that had grown.
    asked: u64,
    asked_us: u64,
    /// When a peer counts as out of step, if nothing is heard of it.
    quorum_due_us: Option<u64>,
}

impl Driver {
    pub fn new(
        config: PeerConfig,
        store: Arc<Store>,
        clock: RealClock,
        poll: Poll,
        waker: &Arc<mio::Waker>,
        shared: &Arc<Shared>,
        serve: Serve,
    ) -> Driver {
        let mut hosts: Vec<Address> = Vec::new();
        for peer in &config.settings.peers {
            let host = resolve::peer(peer, config.settings.port);
            // The same peer named twice is one peer.
            if !hosts.contains(&host) {
                hosts.push(host);
            }
        }
        let names = hosts.iter().map(Address::to_string).collect();
        let named = |host| Named { host, known: Vec::new(), turn: 0, made_us: None, lost: false };
        let peers: Vec<Named> = hosts.into_iter().map(named).collect();
        let mut settings = NodeConfig::new(config.id, names, config.settings.queue_max);
        settings.silence_us = config.settings.timeout_ms.max(1) * 1000;
        settings.heartbeat_us = (settings.silence_us / 8).clamp(1000, 600_000);
        settings.secret = config.secret.clone();
        settings.nonce_key = config.nonce_key;
        let mut driver = Driver {
            access: Access::new(peers.len(), config.settings.allow.clone()),
            peers,
            handle: store.handle(),
            store,
            clock,
            poll,
            shared: Arc::clone(shared),
            serve,
            resolver: Resolver::new(Arc::clone(waker)),
            node: Node::new(settings),
            listeners: Vec::new(),
            accept_again: false,
            conns: BTreeMap::new(),
            attempts: 0,
            buffer: vec![0; READ_MAX],
            hashes: Vec::new(),
            told: Told::default(),
            batch_until_us: 0,
            published_us: 0,
            dirty: true,
            stop_at_us: None,
            sliced: false,
            pause_due_us: 0,
            asked: 0,
            asked_us: 0,
            quorum_due_us: None,
            config,
        };
        let now = driver.clock.now();
        // Who may connect is known before the first one does, also of peers that are dialled later.
        driver.look_up_all(now);
        driver.publish(now);
        driver
    }

    /// Runs until the process stops.
    pub fn run(mut self) {
        if let Err(error) = self.turns() {
            log::error!("replication: {error}: this node goes on alone");
            // Clients must not wait for a copy that will never come.
            (self.serve)();
        }
    }

    fn turns(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(256);
        let mut busy = true;
        loop {
            let timeout = if busy { Duration::ZERO } else { self.sleep() };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            let now = self.clock.now();
            for event in &events {
                self.note(event, now);
            }
            busy = self.turn(now);
            if self.stopping(now) {
                return Ok(());
            }
            if std::mem::take(&mut self.sliced) && busy {
                self.make_way();
            }
        }
    }

    /// Lets workers that wait for the processor have it now and then during a copy.
    fn make_way(&mut self) {
        let now_us = self.clock.now().mono_us;
        if now_us < self.pause_due_us {
            return;
        }
        let asked = self.store.bytes_asked();
        if std::mem::replace(&mut self.asked, asked) != asked {
            self.asked_us = now_us;
        }
        std::thread::sleep(COPY_PAUSE);
        let works = if now_us < self.asked_us + ASKED_US { COPY_WORK_US } else { COPY_ALONE_US };
        self.pause_due_us = self.clock.now().mono_us + works;
    }

    /// Until when there is nothing to do.
    fn sleep(&self) -> Duration {
        let now = self.clock.now().mono_us;
        let dials = self.conns.values().filter_map(|c| Some(c.dialing.as_ref()?.due_us()));
        let next = dials
            .chain(self.node.next_timeout())
            .chain(self.stop_at_us)
            .chain(self.quorum_due_us)
            .chain((self.batch_until_us > now).then_some(self.batch_until_us))
            .chain(self.dirty.then_some(self.published_us + STATS_US))
            .min()
            .unwrap_or(u64::MAX);
        Duration::from_micros(next.saturating_sub(now).min(SLEEP_MAX_US))
    }

    /// Takes down what a socket is ready for.
    fn note(&mut self, event: &Event, now: Now) {
        let Token(token) = event.token();
        if event.token() == WAKER {
            return;
        }
        if token < FIRST_LINK {
            self.accept_again = true;
            return;
        }
        if token % 2 == 1 {
            return self.dial_ready(event.token(), now);
        }
        let link = LinkId(((token - FIRST_LINK) / 2) as u64);
        let Some(conn) = self.conns.get_mut(&link) else { return };
        conn.eof |= event.is_read_closed() || event.is_error();
        conn.readable |= event.is_readable() || conn.eof;
        conn.writable |= event.is_writable();
    }

    /// One turn of the loop. True when there is more to do at once.
    fn turn(&mut self, now: Now) -> bool {
        while let Some(answer) = self.resolver.answer() {
            self.resolved(answer, now);
        }
        self.drain(now);
        let mut busy = self.accept(now);
        let links: Vec<LinkId> = self.conns.keys().copied().collect();
        for &link in &links {
            busy |= self.read(link, now);
        }
        // After reading, so that what has arrived while this thread slept counts as heard.
        if self.node.next_timeout().is_some_and(|at| at <= now.mono_us) {
            self.node.on_timeout(&mut self.handle, now);
        }
        self.go_on_dialing(now);
        self.act(now);
        for &link in &links {
            busy |= self.write(link, now);
        }
        self.act(now);
        if let Some((peers, timeout_us)) = self.config.acks.terms() {
            let (quorum, due_us) = self.node.quorum(peers, timeout_us, now);
            self.quorum_due_us = due_us;
            self.config.acks.publish(quorum);
        }
        self.shared.settled(self.node.lag_us(now), now);
        if self.dirty && now.mono_us >= self.published_us + STATS_US {
            self.publish(now);
        }
        busy
    }

    /// Hands the workers' changes to the links.
    fn drain(&mut self, now: Now) {
        if now.mono_us >= self.batch_until_us {
            // From here on a worker wakes us again. Before draining, so that nothing slips between.
            self.store.changed().take();
        }
        if self.config.acks.terms().is_some() {
            // Before draining too: what clients wait for is drained now.
            self.node.hurry(self.config.acks.take_wanted());
        }
        self.hashes.clear();
        if self.store.has_fed() {
            self.shared.unsettle(now);
        }
        self.store.set_telling(self.node.takes_told());
        let drained = self.store.drain_told(&mut self.hashes, &mut self.told);
        self.node.on_told(&self.told, now);
        self.node.on_feed(&self.hashes, drained, now);
        if !self.hashes.is_empty() || !self.told.is_empty() || drained.overflowed {
            self.dirty = true;
            if now.mono_us >= self.batch_until_us {
                self.batch_until_us = now.mono_us + BATCH_US;
                // Workers need not wake us meanwhile: we come back by ourselves.
                self.store.changed().raise();
            }
        }
    }

    fn act(&mut self, now: Now) {
        let mut told = false;
        while let Some(action) = self.node.poll_action() {
            self.dirty = true;
            if matches!(action, Action::Log(_)) && !std::mem::replace(&mut told, true) {
                // Who reads of an event in the log finds `stats` to be true already.
                self.publish(now);
            }
            match action {
                Action::Log(line) => log::info!("{line}"),
                Action::Debug(line) => log::debug!("{line}"),
                Action::Warn(line) => log::warn!("{line}"),
                Action::Serve => (self.serve)(),
                Action::Listen => self.listen(now),
                Action::Unlisten => self.listeners.clear(),
                Action::Watch { link, timeout_us } => {
                    if let Some(conn) = self.conns.get(&link) {
                        conn.watch(Duration::from_micros(timeout_us));
                    }
                }
                Action::Dial { link, peer, timeout_us } => self.dial(link, peer, timeout_us, now),
                Action::Close { link, last } => {
                    if let Some(mut conn) = self.conns.remove(&link) {
                        conn.output().extend_from_slice(&last);
                        // As much as goes without waiting; the link is over either way.
                        let _ = conn.write();
                    }
                }
            }
        }
    }

    /// Reads and applies a slice. True when there may be more.
    fn read(&mut self, link: LinkId, now: Now) -> bool {
        let Some(conn) = self.conns.get_mut(&link) else { return false };
        if !conn.readable || conn.dialing.is_some() {
            return false;
        }
        let copying = self.node.is_copying(link);
        let slice = if copying { COPY_SLICE } else { READ_MAX };
        let result = conn.read(&mut self.buffer[..slice]);
        let more = conn.readable;
        match result {
            Io::Some(n) => {
                self.dirty = true;
                self.sliced |= copying && more;
                self.node.on_bytes(link, &self.buffer[..n], &mut self.handle, now);
                more
            }
            Io::Blocked => false,
            Io::Over(why) => {
                self.lost(link, &why, now);
                true
            }
        }
    }

    fn lost(&mut self, link: LinkId, why: &str, now: Now) {
        if let Some(conn) = self.conns.get(&link) {
            self.node.on_unsent(link, conn.unsent());
        }
        self.node.on_lost(link, why, &mut self.handle, now);
    }

    /// Fills the output and writes, in turns. True when the budget ended it.
    fn write(&mut self, link: LinkId, now: Now) -> bool {
        let copying = self.node.is_copying(link);
        let (mut budget, limit) =
            if copying { (COPY_SLICE, COPY_SLICE) } else { (WRITE_TURN, OUT_MAX) };
        self.sliced |= copying;
        loop {
            let Some(conn) = self.conns.get_mut(&link) else { return false };
            if conn.dialing.is_some() {
                return false;
            }
            if conn.waiting() < limit / 2 {
                let out = conn.output();
                let more = self.node.poll_transmit(link, out, limit, &mut self.handle, now);
                conn.more = more;
            }
            if conn.waiting() == 0 {
                return conn.more;
            }
            if !conn.writable {
                return false;
            }
            match conn.write() {
                Io::Some(n) => budget = budget.saturating_sub(n.max(1)),
                Io::Blocked => return false,
                Io::Over(why) => {
                    self.lost(link, &why, now);
                    return true;
                }
            }
            self.dirty = true;
            if budget == 0 {
                return true;
            }
        }
    }

    /// Whether the thread has to end: everything is sent, or the time for it is over.
    fn stopping(&mut self, now: Now) -> bool {
        if !self.shared.stopping() {
            return false;
        }
        let until = *self.stop_at_us.get_or_insert_with(|| now.mono_us + STOP_WAIT_US);
        self.node.stop();
        // What workers changed last may still be in their feeds.
        self.drain(now);
        let fed = !self.hashes.is_empty() || !self.told.is_empty();
        // A repcached acknowledges nothing: what it is told has to have left.
        let waits = |conn: &Conn| conn.dialing.is_none() && conn.waiting() > 0;
        let settled = self.node.is_settled() && !fed && !self.conns.values().any(waits);
        if !settled && now.mono_us < until {
            return false;
        }
        self.node.finish(&mut self.handle, now);
        self.act(now);
        self.publish(now);
        true
    }

    fn publish(&mut self, now: Now) {
        self.dirty = false;
        self.published_us = now.mono_us;
        self.conns.values_mut().for_each(|conn| conn.calm(OUT_KEEP));
        let stats = Stats::of(&self.node, self.access.refused(), now);
        self.shared.publish(stats);
    }
}
