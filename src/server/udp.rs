//! UDP sockets of a worker: datagrams between the kernel and an [`Exchange`].
//!
//! Owns the sockets (one for every address that this worker serves), whom the present reply goes
//! to, and how much a turn may read and send. Never executes anything itself and keeps nothing of a
//! client but the request it is answering.
//!
//! ```text
//!   recv_from -> Exchange::begin -> advance -> datagram -> send_to (again until all are sent)
//! ```
//!
//! A socket that takes no more is waited for with the rest of the reply at hand, as in memcached:
//! it waits for the network card and not for a client. Meanwhile the kernel keeps requests, as many
//! as it has room for, and drops the others. A reply that cannot be sent at all is dropped.

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering;
use std::sync::Arc;

use mio::net::UdpSocket;
use mio::{Interest, Registry, Token};

use crate::base::buf::Buf;
use crate::base::clock::Now;
use crate::base::counters::Counter;
use crate::net::mailbox::{SendError, Sender};
use crate::net::udp;
use crate::protocol::udp::{DATAGRAM_MAX, HEADER};
use crate::server::config::Config;
use crate::server::conn::datagram::{Exchange, Turn};
use crate::server::execute::Executor;
use crate::server::shared::{ConnInfo, ConnState, Shared};
use crate::server::worker::Message;

/// Datagrams taken from one socket in a turn, good and bad ones, so that a flood lets the worker's
/// connections go in between.
const READS_PER_TURN: u32 = 256;

/// Datagrams sent by one socket in a turn: the largest value of the default `-I`.
const SENDS_PER_TURN: u32 = 768;

/// What became of one visit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// Nothing to do until the next event.
    Wait,
    /// There is more to do, but others go first.
    Again,
}

/// One socket of one worker.
pub struct Endpoint {
    id: u64,
    socket: UdpSocket,
    exchange: Exchange,
    /// Whom the present reply goes to.
    peer: SocketAddr,
    /// The socket would not take more; a writable event comes when it does.
    pub blocked: bool,
    /// Stands in the worker's ready list already.
    pub queued: bool,
}

/// How many sockets every address gets: one for each worker, or a single one where there are
/// several addresses, by memcached's rule.
pub fn sockets_per_address(config: &Config) -> usize {
    if config.listen.len() > 1 {
        1
    } else {
        config.threads
    }
}

/// Gives the sockets of every address to the workers, in turn, and says where they are bound.
pub fn open(groups: Vec<Vec<UdpSocket>>, workers: &[Sender<Message>]) -> Vec<SocketAddr> {
    let addr = |group: &Vec<UdpSocket>| group.first().and_then(|one| one.local_addr().ok());
    let addrs = groups.iter().filter_map(addr).collect();
    for (socket, worker) in groups.into_iter().flatten().zip(workers.iter().cycle()) {
        udp::discard(&socket);
        match worker.send(Message::Datagrams(socket)) {
            Ok(()) => {}
            // Nobody has been served yet, so that there is room.
            Err(SendError::Full(_)) => log::error!("a worker takes no UDP socket"),
            Err(SendError::NotWoken(error)) => log::warn!("cannot wake a worker: {error}"),
        }
    }
    addrs
}

impl Endpoint {
    /// Takes over a socket, whose events will carry `token`.
    ///
    /// # Errors
    /// It cannot be watched.
    pub fn new(
        mut socket: UdpSocket,
        registry: &Registry,
        token: Token,
        shared: &Shared,
        now: Now,
    ) -> io::Result<Endpoint> {
        registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        let id = u64::try_from(socket.as_raw_fd()).unwrap_or_default();
        log::debug!("<{id} server listening (udp)");
        let info = ConnInfo::new(udp::name(&socket), String::new(), ConnState::Read, now);
        shared.conns().insert(id, Arc::clone(&info));
        shared.udp_sockets.fetch_add(1, Ordering::Relaxed);
        let peer = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let exchange = Exchange::new(id, info);
        Ok(Endpoint { id, socket, exchange, peer, blocked: false, queued: false })
    }

    /// Takes its line out of `stats conns`, before the descriptor is closed.
    pub fn close(self, shared: &Shared) {
        shared.conns().remove(&self.id);
        shared.udp_sockets.fetch_sub(1, Ordering::Relaxed);
    }

    /// Lends the worker's buffers, as [`crate::server::conn::Conn::lend`].
    pub fn lend(&mut self, input: &mut Buf, out: &mut Vec<u8>) {
        self.exchange.lend(input, out);
    }

    /// Gives them back.
    pub fn reclaim(&mut self, exec: &mut Executor, now: Now, input: &mut Buf, out: &mut Vec<u8>) {
        self.exchange.reclaim(exec, now, input, out);
    }

    /// Answers what has come in, until there is nothing, the budget is used up or the socket would
    /// block. A reply's memory of more than `keep` bytes is given back.
    pub fn serve(&mut self, exec: &mut Executor, now: Now, keep: usize) -> Visit {
        let mut budget = exec.shared.config.reqs_per_event;
        let (mut reads, mut sends) = (READS_PER_TURN, SENDS_PER_TURN);
        while !self.blocked {
            match self.exchange.advance(exec, now, &mut budget) {
                Turn::Send if sends == 0 => return Visit::Again,
                Turn::Send => {
                    sends -= 1;
                    self.send(exec, keep);
                }
                Turn::Yield => {
                    exec.store.counters().add(Counter::ConnYields, 1);
                    return Visit::Again;
                }
                Turn::Done if reads == 0 => return Visit::Again,
                Turn::Done => {
                    reads -= 1;
                    if !self.receive(exec) {
                        return Visit::Wait;
                    }
                }
            }
        }
        Visit::Wait
    }

    /// Takes one datagram. False when there is none.
    fn receive(&mut self, exec: &Executor) -> bool {
        match self.socket.recv_from(self.exchange.space()) {
            Ok((len, peer)) => {
                self.peer = peer;
                if len > HEADER {
                    exec.store.counters().add(Counter::BytesRead, len as u64);
                }
                if !self.exchange.begin(len) {
                    log::debug!("<{} a datagram that is no request", self.id);
                }
                true
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            // An earlier reply could not be delivered, or a signal came: the next may be good.
            Err(error) => {
                log::debug!("<{} receive: {error}", self.id);
                true
            }
        }
    }

    /// Sends the next datagram of the reply.
    fn send(&mut self, exec: &Executor, keep: usize) {
        let mut bytes = [0; DATAGRAM_MAX];
        let Some(len) = self.exchange.datagram(&mut bytes) else { return };
        match self.socket.send_to(&bytes[..len], self.peer) {
            Ok(sent) => {
                exec.store.counters().add(Counter::BytesWritten, sent as u64);
                self.exchange.sent(keep);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.blocked = true,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => {
                log::debug!(">{} cannot send to {}: {error}", self.id, self.peer);
                self.exchange.abandon();
            }
        }
    }
}
