//! The loop of the replication thread.
//!
//! Owns the poll, the sockets and the store handle of this thread; carries bytes between sockets
//! and [`Node`], and does what its actions say. Decides nothing, and does a bounded amount of
//! work per link and turn, so that no link keeps another one (or a heartbeat) waiting.

use super::resolve::{self, Answer, Resolver};
use super::sockets::{self, Conn, Dialing, Io};
use super::{PeerConfig, Serve, Shared, Stats, LAG, REPCACHED_VERSION};
use crate::base::address::Address;
use crate::base::clock::{Clock, Now, RealClock};
use crate::replication::{Action, LinkId, Node, NodeConfig, Origin};
use crate::store::{Handle, Store};
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Token of the waker.
pub(super) const WAKER: Token = Token(0);
/// Tokens below are listeners, above are links.
const FIRST_LINK: usize = 1 << 16;
/// Bytes read and applied per link and turn: about a millisecond of applying small items.
const READ_MAX: usize = 256 * 1024;
/// Output that may wait per link. A peer that does not read costs this much, and no more.
const OUT_MAX: usize = 256 * 1024;
/// Output buffers over this are given back when they are empty.
const OUT_KEEP: usize = 64 * 1024;
/// Bytes written per link and turn.
const WRITE_TURN: usize = 1024 * 1024;
/// Connections accepted per turn.
const ACCEPT_MAX: usize = 16;
/// While changes keep coming they are collected for this long: a turn and its system calls then
/// serve many. The first change after a pause is sent at once.
const BATCH_US: u64 = 2000;
/// What `stats` shows is at most this old.
const STATS_US: u64 = 50_000;
/// Longest time that an ending process gives its peers to take what is queued.
const STOP_WAIT_US: u64 = 2_000_000;
/// At most one line per this time about strangers.
const STRANGER_LOG_US: u64 = 1_000_000;
/// Longest sleep: a bound on what a lost wake-up could cost.
const SLEEP_MAX_US: u64 = 1_000_000;

pub(super) struct Driver {
    config: PeerConfig,
    /// The peers, each with its port.
    hosts: Vec<Address>,
    /// What each peer's name meant when it was asked last: who may connect.
    allowed: Vec<Vec<IpAddr>>,
    store: Arc<Store>,
    handle: Handle,
    clock: RealClock,
    poll: Poll,
    shared: Arc<Shared>,
    serve: Serve,
    resolver: Resolver,
    node: Node,
    listeners: Vec<TcpListener>,
    accept_again: bool,
    conns: BTreeMap<LinkId, Conn>,
    buffer: Vec<u8>,
    hashes: Vec<u64>,
    batch_until_us: u64,
    published_us: u64,
    dirty: bool,
    strangers: u64,
    stranger_log_us: Option<u64>,
    stop_at_us: Option<u64>,
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
        let hosts: Vec<Address> = {
            let (peers, port) = (&config.settings.peers, config.settings.port);
            peers.iter().map(|peer| resolve::peer(peer, port)).collect()
        };
        let names = hosts.iter().map(Address::to_string).collect();
        let mut settings = NodeConfig::new(config.id, names, config.settings.queue_max);
        settings.silence_us = config.settings.timeout_ms.max(1) * 1000;
        settings.heartbeat_us = (settings.silence_us / 8).clamp(1000, 600_000);
        settings.resume_us = u64::from(store.config().tombstone_secs) * 1_000_000;
        let mut driver = Driver {
            allowed: vec![Vec::new(); hosts.len()],
            hosts,
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
            buffer: vec![0; READ_MAX],
            hashes: Vec::new(),
            batch_until_us: 0,
            published_us: 0,
            dirty: true,
            strangers: 0,
            stranger_log_us: None,
            stop_at_us: None,
            config,
        };
        driver.publish(driver.clock.now());
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
        }
    }

    /// Until when there is nothing to do.
    fn sleep(&self) -> Duration {
        let now = self.clock.now().mono_us;
        let dials = self.conns.values().filter_map(|c| Some(c.dialing.as_ref()?.deadline_us));
        let next = dials
            .chain(self.node.next_timeout())
            .chain(self.stop_at_us)
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
        let link = LinkId((token - FIRST_LINK) as u64);
        let Some(conn) = self.conns.get_mut(&link) else { return };
        if conn.dialing.is_some() {
            return self.connected(link, now);
        }
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
        self.expire_dials(now);
        self.act(now);
        for &link in &links {
            busy |= self.write(link, now);
        }
        self.act(now);
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
        self.hashes.clear();
        if self.store.has_fed() {
            self.shared.unsettle(now);
        }
        let drained = self.store.drain_feeds(&mut self.hashes);
        self.node.on_feed(&self.hashes, drained, now);
        if !self.hashes.is_empty() || drained.overflowed {
            self.dirty = true;
            if now.mono_us >= self.batch_until_us {
                self.batch_until_us = now.mono_us + BATCH_US;
                // Workers need not wake us meanwhile: we come back by ourselves.
                self.store.changed().raise();
            }
        }
    }

    fn act(&mut self, now: Now) {
        while let Some(action) = self.node.poll_action() {
            self.dirty = true;
            match action {
                Action::Log(line) => log::info!("{line}"),
                Action::Debug(line) => log::debug!("{line}"),
                Action::Warn(line) => log::warn!("{line}"),
                Action::Serve => (self.serve)(),
                Action::Listen => self.listen(now),
                Action::Watch { link, timeout_us } => {
                    if let Some(conn) = self.conns.get(&link) {
                        conn.watch(Duration::from_micros(timeout_us));
                    }
                }
                Action::Dial { link, peer, timeout_us } => {
                    let deadline_us = now.mono_us + timeout_us;
                    let dialing = Dialing {
                        peer,
                        deadline_us,
                        rest: Vec::new(),
                        last_error: "timed out".to_owned(),
                    };
                    self.conns.insert(link, Conn::new(link, None, Some(dialing)));
                    if let Some(answer) = self.resolver.ask(peer, &self.hosts[peer]) {
                        self.resolved(answer, now);
                    }
                }
                Action::Close { link, last } => {
                    if let Some(mut conn) = self.conns.remove(&link) {
                        conn.output().extend_from_slice(&last);
                        // As much as goes without waiting; the link is over either way.
                        let _ = conn.write(0);
                    }
                }
            }
        }
    }

    fn listen(&mut self, now: Now) {
        match sockets::listen(&self.config.listen, self.config.settings.port) {
            Ok(mut listeners) => {
                for (at, listener) in listeners.iter_mut().enumerate() {
                    let token = Token(1 + at % (FIRST_LINK - 1));
                    if let Err(error) =
                        self.poll.registry().register(listener, token, Interest::READABLE)
                    {
                        let error = crate::replication::ListenError::Other(error.to_string());
                        return self.node.on_listen_failed(error, now);
                    }
                }
                self.listeners = listeners;
                self.accept_again = true;
                self.node.on_listening();
            }
            Err(error) => self.node.on_listen_failed(error, now),
        }
    }

    /// A peer's name has become addresses: tries the first one.
    fn resolved(&mut self, answer: Answer, now: Now) {
        let waiting = |conn: &&Conn| {
            let dialing = conn.dialing.as_ref();
            conn.stream.is_none() && dialing.is_some_and(|dialing| dialing.peer == answer.peer)
        };
        let link = self.conns.values().find(waiting).map(|conn| conn.link);
        let result = answer.result.map(|mut addresses| {
            self.allowed[answer.peer] = addresses.iter().map(|a| a.ip().to_canonical()).collect();
            addresses.reverse();
            addresses
        });
        // The try may have ended before its name was found.
        let Some(conn) = link.and_then(|link| self.conns.get_mut(&link)) else { return };
        let Some(dialing) = &mut conn.dialing else { return };
        let link = conn.link;
        match result {
            Ok(addresses) => dialing.rest = addresses,
            Err(error) => dialing.last_error = error,
        }
        self.try_next(link, now);
    }

    /// Tries the next address of a peer, or gives up.
    fn try_next(&mut self, link: LinkId, now: Now) {
        let Some(conn) = self.conns.get_mut(&link) else { return };
        let Some(dialing) = &mut conn.dialing else { return };
        conn.stream = None;
        while let Some(address) = dialing.rest.pop() {
            let token = Token(FIRST_LINK + link.0 as usize);
            let interest = Interest::READABLE | Interest::WRITABLE;
            let opened = TcpStream::connect(address).and_then(|mut stream| {
                self.poll.registry().register(&mut stream, token, interest)?;
                Ok(stream)
            });
            match opened {
                Ok(stream) => {
                    conn.stream = Some(stream);
                    return;
                }
                Err(error) => dialing.last_error = error.to_string(),
            }
        }
        let why = std::mem::take(&mut dialing.last_error);
        self.conns.remove(&link);
        self.node.on_dial_failed(link, &why, now);
    }

    /// Something has happened to a connection that is being made.
    fn connected(&mut self, link: LinkId, now: Now) {
        let Some(conn) = self.conns.get_mut(&link) else { return };
        let (Some(stream), Some(dialing)) = (&conn.stream, &mut conn.dialing) else { return };
        let peer = match stream.take_error() {
            Ok(None) => stream.peer_addr(),
            Ok(Some(error)) | Err(error) => Err(error),
        };
        match peer {
            Ok(address) => {
                // A frame must not wait for the acknowledgement of the one before it.
                let _ = stream.set_nodelay(true);
                conn.dialing = None;
                conn.readable = true;
                conn.writable = true;
                self.node.on_dialed(link, address.to_string(), now);
            }
            Err(error) if error.kind() == ErrorKind::NotConnected => {}
            Err(error) => {
                dialing.last_error = error.to_string();
                self.try_next(link, now);
            }
        }
    }

    fn expire_dials(&mut self, now: Now) {
        let over = |conn: &&Conn| {
            conn.dialing.as_ref().is_some_and(|dialing| now.mono_us >= dialing.deadline_us)
        };
        while let Some(link) = self.conns.values().find(over).map(|conn| conn.link) {
            self.conns.remove(&link);
            self.node.on_dial_failed(link, "timed out", now);
        }
    }

    /// Takes in connections. True when there may be more.
    fn accept(&mut self, now: Now) -> bool {
        if !std::mem::take(&mut self.accept_again) {
            return false;
        }
        let mut budget = ACCEPT_MAX;
        let mut arrived = Vec::new();
        for listener in &self.listeners {
            while budget > 0 {
                budget -= 1;
                match listener.accept() {
                    Ok(connection) => arrived.push(connection),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // Gone again, or no descriptor left: the next turn tries again.
                    Err(_) => self.accept_again = true,
                }
            }
        }
        self.accept_again |= budget == 0;
        for (stream, address) in arrived {
            self.arrived(stream, address.ip().to_canonical(), address.to_string(), now);
        }
        self.accept_again && budget == 0
    }

    fn arrived(&mut self, mut stream: TcpStream, ip: IpAddr, address: String, now: Now) {
        if !ip.is_loopback() && !self.allowed.iter().flatten().any(|&allowed| allowed == ip) {
            self.strangers += 1;
            let quiet = |at: u64| now.mono_us.saturating_sub(at) < STRANGER_LOG_US;
            if !self.stranger_log_us.is_some_and(quiet) {
                self.stranger_log_us = Some(now.mono_us);
                log::warn!("replication: refused a connection from {address}: not a peer (-x)");
            }
            return;
        }
        let peer = self.allowed.iter().position(|allowed| allowed.contains(&ip));
        let origin = peer.map_or(Origin::Other, Origin::Peer);
        let Some(link) = self.node.on_accepted(address, origin, now) else { return };
        let token = Token(FIRST_LINK + link.0 as usize);
        let interest = Interest::READABLE | Interest::WRITABLE;
        let _ = stream.set_nodelay(true);
        match self.poll.registry().register(&mut stream, token, interest) {
            Ok(()) => {
                self.conns.insert(link, Conn::new(link, Some(stream), None));
            }
            Err(error) => {
                self.node.on_lost(link, &error.to_string(), &mut self.handle, now);
            }
        }
    }

    /// Reads and applies a slice. True when there may be more.
    fn read(&mut self, link: LinkId, now: Now) -> bool {
        let Some(conn) = self.conns.get_mut(&link) else { return false };
        if !conn.readable || conn.dialing.is_some() {
            return false;
        }
        let result = conn.read(&mut self.buffer);
        let more = conn.readable;
        match result {
            Io::Some(n) => {
                self.dirty = true;
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
        let mut budget = WRITE_TURN;
        loop {
            let Some(conn) = self.conns.get_mut(&link) else { return false };
            if conn.dialing.is_some() {
                return false;
            }
            if conn.waiting() < OUT_MAX / 2 {
                let out = conn.output();
                let more = self.node.poll_transmit(link, out, OUT_MAX, &mut self.handle, now);
                conn.more = more;
            }
            if conn.waiting() == 0 {
                return conn.more;
            }
            if !conn.writable {
                return false;
            }
            match conn.write(OUT_KEEP) {
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
        // A repcached acknowledges nothing: what it is told has to have left.
        let waits = |conn: &Conn| conn.dialing.is_none() && conn.waiting() > 0;
        let settled = self.node.is_settled() && self.hashes.is_empty();
        let settled = settled && !self.conns.values().any(waits);
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
        let mut stats = Stats::default();
        let mut general = |name: &str, value: String| stats.general.push((name.to_owned(), value));
        let links = self.node.link_stats(now);
        let live: Vec<_> =
            links.iter().filter(|link| matches!(link.state, "copying" | "live")).collect();
        general("replication", self.node.role().name().to_owned());
        general("repcached_version", REPCACHED_VERSION.to_owned());
        // repcached keeps one item of its queue in hand: an idle node with -q 8192 says 8191.
        general("repcached_qi_free", self.node.queue_free().saturating_sub(1).to_string());
        general("repl_peers_linked", live.len().to_string());
        let lag = live.iter().map(|link| link.lag_us).max().unwrap_or(0);
        general(LAG, lag.to_string());
        general("repl_links_made", self.node.links_made().to_string());
        general("repl_strangers", self.strangers.to_string());
        general("repl_last_error", or_none(self.node.last_error()));
        for (at, link) in links.iter().enumerate() {
            let mut line =
                |name: &str, value: String| stats.links.push((format!("{at}:{name}"), value));
            let figures = &link.figures;
            line("state", link.state.to_owned());
            line("role", link.role.name().to_owned());
            line("address", link.address.clone());
            line("wire", if link.text { "repcached" } else { "native" }.to_owned());
            let lag_us = if link.text { "unknown".to_owned() } else { link.lag_us.to_string() };
            line("lag_us", lag_us);
            line("node", link.id.map_or_else(|| "unknown".to_owned(), |id| id.to_string()));
            for (name, value) in [
                ("queue", link.queue as u64),
                ("copy_percent", u64::from(link.progress) / 10_000),
                ("bytes_in", figures.bytes_in),
                ("bytes_out", figures.bytes_out),
                ("items_in", figures.tally.items),
                ("items_out", figures.items_out),
                ("deletes_in", figures.tally.deletes),
                ("deletes_out", figures.deletes_out),
                ("applied", figures.tally.won),
                ("duplicates", figures.tally.same),
                ("conflicts", figures.tally.stale),
                ("refused", figures.tally.refused),
                ("unsaid", figures.unsaid),
                ("full_copies_in", figures.copies_in),
                ("full_copies_out", figures.copies_out),
                ("resumes", figures.resumes),
                ("overflows", figures.overflows),
            ] {
                line(name, value.to_string());
            }
        }
        for (name, error) in self.node.target_errors() {
            stats.links.push((format!("{name}:last_error"), or_none(error)));
        }
        self.shared.publish(stats);
    }
}

fn or_none(text: &str) -> String {
    if text.is_empty() {
        "none".to_owned()
    } else {
        text.to_owned()
    }
}
