//! How connections come to be: those we dial, and those that come in.
//!
//! Owns the replication thread's part in names, dials, the listening port and who may come in.
//! What becomes of a connection is the node's decision; moving its bytes is the driver's.

use super::dial::{Dialing, Outcome};
use super::driver::{link_token, Driver, FIRST_LINK};
use super::resolve::Answer;
use super::sockets::{self, Conn};
use crate::base::clock::Now;
use crate::replication::{LinkId, ListenError};
use mio::net::TcpStream;
use mio::{Interest, Token};
use socket2::SockRef;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

/// Connections accepted per listener and turn: links are served between them.
const ACCEPT_MAX: usize = 16;
/// Two connections to a peer within this time: the first came to nothing, and another address of
/// its name may do better.
const CAME_TO_NOTHING_US: u64 = 5_000_000;

impl Driver {
    /// Asks anew what all names of `-x` mean.
    pub(super) fn look_up_all(&mut self, now: Now) {
        for peer in 0..self.peers.len() {
            self.look_up(peer, now);
        }
    }

    fn look_up(&mut self, peer: usize, now: Now) {
        if let Some(answer) = self.resolver.ask(peer, &self.peers[peer].host) {
            self.resolved(answer, now);
        }
    }

    /// A lookup has ended: who may connect is known anew, and a dial that waits for it goes on.
    pub(super) fn resolved(&mut self, answer: Answer, now: Now) {
        let Answer { peer, result } = answer;
        let Some(named) = self.peers.get_mut(peer) else { return };
        let failed = result.is_err();
        match &result {
            Ok(addresses) => {
                self.access.learn(peer, addresses);
                named.known.clone_from(addresses);
            }
            Err(error) if !named.lost => {
                log::warn!(
                    "replication: no address for {}: {error}; it is looked up again at each try",
                    named.host
                );
            }
            Err(_) => {}
        }
        named.lost = failed;
        let turn = named.turn;
        // The try may have ended before its name was found.
        let waits = |dialing: &&mut Dialing| dialing.peer == peer && dialing.waits_for_name();
        let dialing = self.conns.values_mut().filter_map(|conn| conn.dialing.as_mut()).find(waits);
        if let Some(dialing) = dialing {
            dialing.resolved(&result, turn, now.mono_us);
        }
    }

    /// Begins a dial.
    pub(super) fn dial(&mut self, link: LinkId, peer: usize, timeout_us: u64, now: Now) {
        let known = self.peers[peer].known.clone();
        let dialing = Dialing::new(peer, known, now.mono_us, timeout_us);
        self.conns.insert(link, Conn::new(link, None, Some(dialing)));
        self.look_up(peer, now);
        self.dial_goes_on(link, now);
    }

    /// Goes on with all dials that are due.
    pub(super) fn go_on_dialing(&mut self, now: Now) {
        let due = |conn: &&Conn| {
            conn.dialing.as_ref().is_some_and(|dialing| now.mono_us >= dialing.due_us())
        };
        let due: Vec<LinkId> = self.conns.values().filter(due).map(|conn| conn.link).collect();
        for link in due {
            self.dial_goes_on(link, now);
        }
    }

    fn dial_goes_on(&mut self, link: LinkId, now: Now) {
        let attempts = &mut self.attempts;
        let token = || {
            *attempts += 1;
            Token(FIRST_LINK + 2 * *attempts + 1)
        };
        let Some(conn) = self.conns.get_mut(&link) else { return };
        let Some(dialing) = &mut conn.dialing else { return };
        if let Outcome::Failed(why) = dialing.go_on(self.poll.registry(), token, now.mono_us) {
            self.conns.remove(&link);
            self.node.on_dial_failed(link, &why, now);
        }
    }

    /// Something has happened to an address that is being dialled.
    pub(super) fn dial_ready(&mut self, token: Token, now: Now) {
        let has = |conn: &&mut Conn| conn.dialing.as_ref().is_some_and(|d| d.has(token));
        let Some(conn) = self.conns.values_mut().find(has) else { return };
        let link = conn.link;
        let Some(dialing) = &mut conn.dialing else { return };
        let Outcome::Made(mut stream, address) = dialing.ready(token) else {
            return self.dial_goes_on(link, now);
        };
        let peer = dialing.peer;
        let interest = Interest::READABLE | Interest::WRITABLE;
        // Reports anew what the socket is ready for.
        let again = self.poll.registry().reregister(&mut stream, link_token(link), interest);
        if let Err(error) = again {
            self.conns.remove(&link);
            return self.node.on_dial_failed(link, &error.to_string(), now);
        }
        // A frame must not wait for the acknowledgement of the one before it.
        let _ = stream.set_nodelay(true);
        *conn = Conn::new(link, Some(stream), None);
        if let Some(named) = self.peers.get_mut(peer) {
            let lately = |at: u64| now.mono_us.saturating_sub(at) < CAME_TO_NOTHING_US;
            named.turn =
                if named.made_us.is_some_and(lately) { named.turn + 1 } else { named.turn };
            named.made_us = Some(now.mono_us);
        }
        self.node.on_dialed(link, address.to_string(), now);
    }

    /// Opens the replication port.
    pub(super) fn listen(&mut self, now: Now) {
        match sockets::listen(&self.config.listen, self.config.settings.port) {
            Ok(mut listeners) => {
                for (at, listener) in listeners.iter_mut().enumerate() {
                    let token = Token(1 + at % (FIRST_LINK - 1));
                    if let Err(error) =
                        self.poll.registry().register(listener, token, Interest::READABLE)
                    {
                        let error = ListenError::Other(error.to_string());
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

    /// Takes in connections. True when there may be more.
    pub(super) fn accept(&mut self, now: Now) -> bool {
        if !std::mem::take(&mut self.accept_again) {
            return false;
        }
        let mut arrived = Vec::new();
        let mut more = false;
        for listener in &self.listeners {
            let mut budget = ACCEPT_MAX;
            while budget > 0 {
                match listener.accept() {
                    Ok(connection) => {
                        budget -= 1;
                        arrived.push(connection);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    // Gone again.
                    Err(error)
                        if matches!(
                            error.kind(),
                            ErrorKind::ConnectionAborted | ErrorKind::Interrupted
                        ) => {}
                    // No descriptor left: who waits is let in when the next turn comes, and nothing
                    // is done for it at once, or this thread would never sleep.
                    Err(_) => {
                        self.accept_again = true;
                        break;
                    }
                }
            }
            more |= budget == 0;
        }
        self.accept_again |= more;
        for (stream, address) in arrived {
            self.arrived(stream, address, now);
        }
        more
    }

    fn arrived(&mut self, mut stream: TcpStream, address: SocketAddr, now: Now) {
        let Some(origin) = self.access.admits(address.ip()) else {
            let refusal = self.access.refuse(address, now);
            self.dirty = true;
            if let Some(line) = refusal.line {
                log::warn!("{line}");
            }
            if refusal.ask {
                self.look_up_all(now);
            }
            // Reset, so that nothing stays behind here: a stranger costs no more than its packets.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            return;
        };
        // A listener for both families shows IPv4 as IPv6.
        let shown = SocketAddr::new(address.ip().to_canonical(), address.port()).to_string();
        let Some(link) = self.node.on_accepted(shown, origin, now) else { return };
        let interest = Interest::READABLE | Interest::WRITABLE;
        let _ = stream.set_nodelay(true);
        match self.poll.registry().register(&mut stream, link_token(link), interest) {
            Ok(()) => {
                self.conns.insert(link, Conn::new(link, Some(stream), None));
            }
            Err(error) => {
                self.node.on_lost(link, &error.to_string(), &mut self.handle, now);
            }
        }
    }
}
