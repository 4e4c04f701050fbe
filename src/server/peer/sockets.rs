//! The sockets of the replication thread.
//!
//! Owns how the replication port is opened and what one connection holds: a socket and a bounded
//! output. Knows no frames.

use super::dial::Dialing;
use super::resolve;
use crate::base::address::Address;
use crate::platform::socket::unacknowledged;
use crate::replication::{LinkId, ListenError};
use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Connections that may wait to be accepted: there are few peers, and who comes in crowds must not
/// keep their place.
const BACKLOG: i32 = 1024;

/// Steps in which the silence of a machine without heartbeats is measured.
const KEEPALIVE_PROBES: u32 = 5;

/// Opens the replication port on all addresses, or on none.
pub(super) fn listen(listen: &[String], port: u16) -> Result<Vec<TcpListener>, ListenError> {
    let mut addresses = Vec::new();
    for name in listen {
        let found = resolve::local(name);
        addresses.extend(found.map_err(|error| other(&error, name, port))?);
    }
    addresses.sort_unstable();
    addresses.dedup();
    if !addresses.is_empty() {
        return addresses.into_iter().map(|ip| bind(ip, port, true)).collect();
    }
    let any = bind(Ipv6Addr::UNSPECIFIED.into(), port, false);
    match any {
        // A machine without IPv6.
        Err(ListenError::Other(_)) => Ok(vec![bind(Ipv4Addr::UNSPECIFIED.into(), port, true)?]),
        any => Ok(vec![any?]),
    }
}

fn other(error: &io::Error, host: &str, port: u16) -> ListenError {
    let at = Address { host: host.to_owned(), port: Some(port) };
    ListenError::Other(format!("{at}: {error}"))
}

fn bind(ip: IpAddr, port: u16, only_v6: bool) -> Result<TcpListener, ListenError> {
    let open = || {
        let domain = if ip.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        if ip.is_ipv6() {
            socket.set_only_v6(only_v6)?;
        }
        // The port of a peer that has just died on this host is free at once.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::new(ip, port).into())?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from_std(socket.into()))
    };
    open().map_err(|error: io::Error| match error.kind() {
        ErrorKind::AddrInUse => ListenError::InUse,
        _ => other(&error, &ip.to_string(), port),
    })
}

/// One connection, or the attempt at one.
#[derive(Debug)]
pub(super) struct Conn {
    pub link: LinkId,
    /// None while the connection is being made.
    pub stream: Option<TcpStream>,
    pub dialing: Option<Dialing>,
    pub readable: bool,
    pub writable: bool,
    /// The other end has closed: reading goes on to the end.
    pub eof: bool,
    /// The node has more to send than the output had room for.
    pub more: bool,
    out: Vec<u8>,
    sent: usize,
    /// Most bytes that have waited since [`Conn::calm`].
    peak: usize,
}

/// How a read or a write ended.
pub(super) enum Io {
    /// It did what there was to do; there may be more.
    Some(usize),
    /// The socket would block.
    Blocked,
    /// The connection is over.
    Over(String),
}

impl Conn {
    pub fn new(link: LinkId, stream: Option<TcpStream>, dialing: Option<Dialing>) -> Conn {
        let readable = dialing.is_none();
        let writable = readable;
        let (out, sent, more, eof) = (Vec::new(), 0, false, false);
        Conn { link, stream, dialing, readable, writable, eof, more, out, sent, peak: 0 }
    }

    /// Reads once.
    pub fn read(&mut self, into: &mut [u8]) -> Io {
        let Some(stream) = &mut self.stream else { return Io::Blocked };
        match stream.read(into) {
            Ok(0) => Io::Over("closed by the peer".to_owned()),
            Ok(n) => {
                // A short read has emptied the socket.
                self.readable = n == into.len() || self.eof;
                Io::Some(n)
            }
            Err(error) => self.failed(&error, true),
        }
    }

    /// The output, where it may be filled: empty of what was sent.
    pub fn output(&mut self) -> &mut Vec<u8> {
        if self.sent > 0 {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
        &mut self.out
    }

    /// Bytes that were put out and have not reached the other machine.
    pub fn unsent(&self) -> u64 {
        self.waiting() as u64 + self.stream.as_ref().map_or(0, unacknowledged)
    }

    /// Lets the system end the connection when the other machine has not been heard for about this
    /// long. Where it cannot, a machine that has vanished is noticed later.
    pub fn watch(&self, timeout: Duration) {
        let Some(stream) = &self.stream else { return };
        let socket = SockRef::from(stream);
        let probe = (timeout / KEEPALIVE_PROBES).max(Duration::from_secs(1));
        let keepalive = TcpKeepalive::new().with_time(probe).with_interval(probe);
        let _ = socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_PROBES - 1));
        let _ = socket.set_tcp_user_timeout(Some(timeout));
    }

    /// Bytes that wait.
    pub fn waiting(&self) -> usize {
        self.out.len() - self.sent
    }

    /// Gives memory over `keep` back if less was needed since the last call.
    pub fn calm(&mut self, keep: usize) {
        if std::mem::take(&mut self.peak) <= keep && self.out.is_empty() {
            self.out.shrink_to(keep);
        }
    }

    /// Writes once what waits.
    pub fn write(&mut self) -> Io {
        self.peak = self.peak.max(self.out.len());
        let Some(stream) = &mut self.stream else { return Io::Blocked };
        if self.sent == self.out.len() {
            return Io::Some(0);
        }
        match stream.write(&self.out[self.sent..]) {
            Ok(n) => {
                self.sent += n;
                if self.sent == self.out.len() {
                    self.sent = 0;
                    self.out.clear();
                }
                Io::Some(n)
            }
            Err(error) => self.failed(&error, false),
        }
    }

    fn failed(&mut self, error: &io::Error, reading: bool) -> Io {
        match error.kind() {
            ErrorKind::WouldBlock => {
                if reading {
                    self.readable = false;
                } else {
                    self.writable = false;
                }
                Io::Blocked
            }
            ErrorKind::Interrupted => Io::Some(0),
            _ => Io::Over(error.to_string()),
        }
    }
}
