//! Accepting connections, for the main thread.
//!
//! Owns the listeners, the `-c` limit and the round robin over workers. Never reads from a client:
//! a connection over the limit is told so and closed, or left in the kernel's queue, as memcached
//! does with and without `maxconns_fast`.

use std::io::{self, ErrorKind, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use mio::{Interest, Registry, Token};
use nix::libc::{EMFILE, ENFILE};

use crate::base::clock::Now;
use crate::net::listen::Listener;
use crate::net::mailbox::{SendError, Sender};
use crate::net::stream::{PeerName, Stream};
use crate::server::shared::{ConnInfo, ConnState, Shared};
use crate::server::worker::Message;

/// Connections taken per visit to a listener: signals and other listeners get their turn in a
/// flood.
const ACCEPTS_PER_TURN: usize = 256;

/// What memcached says to a client over `-c`.
const TOO_MANY: &[u8] = b"ERROR Too many open connections\r\n";

struct Source {
    listener: Listener,
    name: String,
    /// There may be connections waiting: no event will come for them.
    ready: bool,
}

/// The listeners of a server and where their connections go.
pub struct Acceptor {
    sources: Vec<Source>,
    workers: Vec<Sender<Message>>,
    next_worker: usize,
    shared: Arc<Shared>,
    /// Monotonic microsecond since which nothing is accepted for lack of places or descriptors.
    suspended_us: Option<u64>,
}

impl Acceptor {
    /// An acceptor that feeds `workers`; it listens nowhere yet.
    pub fn new(workers: Vec<Sender<Message>>, shared: Arc<Shared>) -> Acceptor {
        Acceptor { sources: Vec::new(), workers, next_worker: 0, shared, suspended_us: None }
    }

    /// Starts to accept from `listeners`; their events carry the tokens from `first` on.
    ///
    /// # Errors
    /// A listener cannot be watched.
    pub fn open(
        &mut self,
        listeners: Vec<Listener>,
        registry: &Registry,
        first: usize,
        now: Now,
    ) -> io::Result<()> {
        for mut listener in listeners {
            let token = Token(first + self.sources.len());
            registry.register(&mut listener, token, Interest::READABLE)?;
            let name = listener.name();
            let info = ConnInfo::new(name.clone(), String::new(), ConnState::Listening, now);
            let id = u64::try_from(listener.as_raw_fd()).unwrap_or_default();
            self.shared.conns().insert(id, info);
            log::debug!("<{id} server listening (auto-negotiate)");
            self.sources.push(Source { listener, name, ready: true });
        }
        Ok(())
    }

    /// Closes all listeners: new clients are refused from now on.
    pub fn close(&mut self) {
        for source in self.sources.drain(..) {
            let id = u64::try_from(source.listener.as_raw_fd()).unwrap_or_default();
            self.shared.conns().remove(&id);
        }
    }

    /// Says that a listener had an event.
    pub fn ready(&mut self, index: usize) {
        if let Some(source) = self.sources.get_mut(index) {
            source.ready = true;
        }
    }

    /// Whether [`Acceptor::accept`] wants to be called again without an event: at once, or after a
    /// pause while it is suspended.
    pub fn waiting(&self) -> Option<Again> {
        if !self.sources.iter().any(|source| source.ready) {
            None
        } else if self.suspended_us.is_some() {
            Some(Again::Later)
        } else {
            Some(Again::Now)
        }
    }

    /// Accepts what waits, within the limits.
    pub fn accept(&mut self, now: Now) {
        for index in 0..self.sources.len() {
            for _ in 0..ACCEPTS_PER_TURN {
                if !self.sources[index].ready || !self.accept_one(index, now) {
                    break;
                }
            }
        }
    }

    /// Accepts one connection. False when this listener has to wait.
    fn accept_one(&mut self, index: usize, now: Now) -> bool {
        let fast = self.shared.config.maxconns_fast;
        if !fast && !self.shared.has_room() {
            self.suspend(now);
            return false;
        }
        let source = &mut self.sources[index];
        match source.listener.accept() {
            Ok((stream, peer)) => {
                self.resume(now);
                self.place(index, stream, &peer, now);
                true
            }
            Err(error) => match (error.kind(), error.raw_os_error()) {
                (ErrorKind::WouldBlock, _) => {
                    source.ready = false;
                    self.resume(now);
                    false
                }
                (_, Some(EMFILE | ENFILE)) => {
                    if self.suspended_us.is_none() {
                        log::warn!("Too many open connections");
                    }
                    self.suspend(now);
                    false
                }
                // The client gave up before we looked: not our failure.
                _ => {
                    log::debug!("accept: {error}");
                    true
                }
            },
        }
    }

    /// Gives a new connection to the next worker, or refuses it.
    fn place(&mut self, index: usize, mut stream: Stream, peer: &PeerName, now: Now) {
        if !self.shared.admit() {
            self.shared.rejected_connections.fetch_add(1, Ordering::Relaxed);
            // One short write into an empty socket buffer; if it fails the client is gone.
            let _ = stream.write(TOO_MANY);
            return;
        }
        self.shared.total_connections.fetch_add(1, Ordering::Relaxed);
        let listen_addr = self.sources[index].name.clone();
        let info = ConnInfo::new(peer.to_string(), listen_addr, ConnState::NewCmd, now);
        let worker = &self.workers[self.next_worker % self.workers.len()];
        self.next_worker = (self.next_worker + 1) % self.workers.len();
        match worker.send(Message::Serve { stream, info }) {
            Ok(()) => {}
            Err(SendError::Full(_)) => {
                // The worker is thousands of connections behind: this one is better off elsewhere.
                log::warn!("a worker does not keep up with new connections");
                self.shared.rejected_connections.fetch_add(1, Ordering::Relaxed);
                self.shared.leave();
            }
            Err(SendError::NotWoken(error)) => log::warn!("cannot wake a worker: {error}"),
        }
    }

    fn suspend(&mut self, now: Now) {
        if self.suspended_us.is_none() {
            self.suspended_us = Some(now.mono_us);
            self.shared.accepting.store(false, Ordering::Relaxed);
            self.shared.listen_disabled.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn resume(&mut self, now: Now) {
        if let Some(since) = self.suspended_us.take() {
            let us = now.mono_us.saturating_sub(since);
            self.shared.listen_disabled_us.fetch_add(us, Ordering::Relaxed);
            self.shared.accepting.store(true, Ordering::Relaxed);
        }
    }
}

/// When to accept again without an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// More may wait: after the other events.
    Now,
    /// Places or descriptors ran out: after a pause.
    Later,
}
