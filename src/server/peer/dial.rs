//! A dial: from a peer's name to a connection.
//!
//! ```text
//!   name --lookup--> v6 a, v4 b, v6 c, v4 d       families take turns
//!   a |=========X refused: the next one at once
//!     b |===================== no answer: others begin beside it, each after its share of time
//!         c |======> made: the others are dropped
//! ```
//!
//! Owns the attempts at one peer's addresses and their sockets. A black hole among them costs the
//! others a share of the dial's time and no more. Decides nothing about when to dial.

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::net::SocketAddr;

/// An address that has not answered for this long has the next one tried beside it: RFC 8305's
/// "connection attempt delay".
const STAGGER_US: u64 = 250_000;

/// Most addresses of one name that are tried: each may hold a socket until the dial ends.
pub(super) const ADDRESSES_MAX: usize = 16;

/// One address that is being tried.
#[derive(Debug)]
struct Attempt {
    token: Token,
    stream: TcpStream,
    address: SocketAddr,
}

/// A dial under way.
#[derive(Debug)]
pub(super) struct Dialing {
    pub peer: usize,
    pub deadline_us: u64,
    /// Addresses that were not tried yet.
    rest: VecDeque<SocketAddr>,
    attempts: Vec<Attempt>,
    /// The name has been looked up.
    resolved: bool,
    /// What the name meant last time, and when to go on with that: a name server that is gone keeps
    /// nobody from a peer that is there.
    known: Vec<SocketAddr>,
    patience_us: u64,
    /// When the next address is tried, whatever became of those before.
    next_us: u64,
    last_error: String,
}

/// What has come of a dial so far.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Nothing yet.
    Waits,
    /// A connection.
    Made(TcpStream, SocketAddr),
    /// No address is left, and this is why.
    Failed(String),
}

/// IPv6 and IPv4 in turns, the family that the system named first at the beginning; after `turn`
/// connections that came to nothing the list begins elsewhere, as one name may stand for several
/// machines.
fn in_turns(addresses: &[SocketAddr], turn: usize) -> VecDeque<SocketAddr> {
    let first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut a, mut b): (VecDeque<_>, VecDeque<_>) =
        addresses.iter().copied().partition(|address| address.is_ipv6() == first);
    let mut all = VecDeque::with_capacity(addresses.len());
    while !(a.is_empty() && b.is_empty()) {
        all.extend(a.pop_front());
        all.extend(b.pop_front());
    }
    all.truncate(ADDRESSES_MAX);
    if !all.is_empty() {
        let turn = turn % all.len();
        all.rotate_left(turn);
    }
    all
}

/// How long an address is tried alone, where `addresses` (it among them) and a last wait share what
/// is left of the time.
fn share_us(addresses: usize, left_us: u64) -> u64 {
    STAGGER_US.min(left_us / (addresses as u64 + 1))
}

impl Dialing {
    /// A dial whose peer's name is being looked up; it meant `known` when that was done last.
    pub fn new(peer: usize, known: Vec<SocketAddr>, now_us: u64, timeout_us: u64) -> Dialing {
        Dialing {
            peer,
            deadline_us: now_us + timeout_us,
            known,
            patience_us: now_us + timeout_us / 2,
            rest: VecDeque::new(),
            attempts: Vec::new(),
            resolved: false,
            next_us: u64::MAX,
            last_error: "the name was not found in time".to_owned(),
        }
    }

    /// Whether the name has still to be looked up.
    pub fn waits_for_name(&self) -> bool {
        !self.resolved
    }

    /// The lookup has ended.
    pub fn resolved(&mut self, result: &Result<Vec<SocketAddr>, String>, turn: usize, now_us: u64) {
        self.resolved = true;
        self.next_us = now_us;
        match result {
            Ok(addresses) => {
                self.rest = in_turns(addresses, turn);
                self.last_error = "the name has no address".to_owned();
            }
            Err(error) => {
                self.rest = in_turns(&self.known, turn);
                self.last_error.clone_from(error);
            }
        }
    }

    /// When [`Dialing::go_on`] wants to be called.
    pub fn due_us(&self) -> u64 {
        let next = match self.resolved {
            true if self.rest.is_empty() && self.attempts.is_empty() => 0,
            true if self.rest.is_empty() => self.deadline_us,
            true => self.next_us,
            false if self.known.is_empty() => self.deadline_us,
            false => self.patience_us,
        };
        next.min(self.deadline_us)
    }

    /// Begins what is due. `token` gives each attempt one of its own.
    pub fn go_on(
        &mut self,
        registry: &Registry,
        mut token: impl FnMut() -> Token,
        now_us: u64,
    ) -> Outcome {
        if now_us >= self.deadline_us {
            return Outcome::Failed(match self.attempts.as_slice() {
                [] => std::mem::take(&mut self.last_error),
                [.., last] => format!("{}: timed out", last.address),
            });
        }
        if !self.resolved && now_us >= self.patience_us && !self.known.is_empty() {
            self.resolved(&Ok(self.known.clone()), 0, now_us);
        }
        while !self.rest.is_empty() && (now_us >= self.next_us || self.attempts.is_empty()) {
            self.next_us = now_us + share_us(self.rest.len(), self.deadline_us - now_us);
            let Some(address) = self.rest.pop_front() else { break };
            let token = token();
            let interest = Interest::READABLE | Interest::WRITABLE;
            let opened = TcpStream::connect(address).and_then(|mut stream| {
                registry.register(&mut stream, token, interest)?;
                Ok(stream)
            });
            match opened {
                Ok(stream) => self.attempts.push(Attempt { token, stream, address }),
                Err(error) => self.last_error = format!("{address}: {error}"),
            }
        }
        if self.resolved && self.attempts.is_empty() {
            return Outcome::Failed(std::mem::take(&mut self.last_error));
        }
        Outcome::Waits
    }

    /// Whether one of its sockets has this token.
    pub fn has(&self, token: Token) -> bool {
        self.attempts.iter().any(|attempt| attempt.token == token)
    }

    /// Something has happened to one of its sockets. Where that was the last one, `go_on` says what
    /// becomes of the dial.
    pub fn ready(&mut self, token: Token) -> Outcome {
        let Some(at) = self.attempts.iter().position(|attempt| attempt.token == token) else {
            return Outcome::Waits;
        };
        let stream = &self.attempts[at].stream;
        let peer = match stream.take_error() {
            Ok(None) => stream.peer_addr(),
            Ok(Some(error)) | Err(error) => Err(error),
        };
        match peer {
            Ok(address) => Outcome::Made(self.attempts.swap_remove(at).stream, address),
            Err(error) if error.kind() == ErrorKind::NotConnected => Outcome::Waits,
            Err(error) => {
                let failed = self.attempts.swap_remove(at);
                self.last_error = format!("{}: {error}", failed.address);
                Outcome::Waits
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll};
    use std::net::TcpListener;
    use std::time::Duration;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns_and_the_list_begins_elsewhere_next_time() {
        let mixed = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "10.0.0.1:1", "10.0.0.2:1"]);
        let turns: Vec<String> = in_turns(&mixed, 0).iter().map(ToString::to_string).collect();
        assert_eq!(turns, ["[::1]:1", "10.0.0.1:1", "[::2]:1", "10.0.0.2:1", "[::3]:1"]);
        assert_eq!(in_turns(&mixed, 6)[0].to_string(), "10.0.0.1:1");
        assert!(in_turns(&[], 3).is_empty());
    }

    /// Runs a dial on a clock of its own, a microsecond a turn; real events bring what they bring.
    fn dial(addresses: Vec<SocketAddr>, turns: u64) -> Outcome {
        let mut poll = Poll::new().unwrap();
        let mut tokens = (1..).map(Token);
        // All shares are over at once.
        let mut dialing = Dialing::new(0, Vec::new(), 0, turns);
        dialing.resolved(&Ok(addresses), 0, 0);
        let mut events = Events::with_capacity(64);
        for now_us in 0..=turns {
            let outcome = dialing.go_on(poll.registry(), || tokens.next().unwrap(), now_us);
            if !matches!(outcome, Outcome::Waits) {
                return outcome;
            }
            poll.poll(&mut events, Some(Duration::from_millis(20))).unwrap();
            for event in &events {
                assert!(dialing.has(event.token()));
                if let made @ Outcome::Made(..) = dialing.ready(event.token()) {
                    return made;
                }
            }
        }
        panic!("no end at the deadline");
    }

    #[test]
    fn a_refusal_goes_on_to_the_next_address_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let all = vec![closed, closed, listener.local_addr().unwrap()];
        let Outcome::Made(_, address) = dial(all, 1000) else { panic!() };
        assert_eq!(address, listener.local_addr().unwrap());
        let Outcome::Failed(why) = dial(vec![closed], 1000) else { panic!() };
        assert!(why.contains("refused") && why.contains(&closed.to_string()), "{why}");
        let Outcome::Failed(why) = dial(Vec::new(), 1000) else { panic!() };
        assert_eq!(why, "the name has no address");
    }

    /// An address that accepts nothing and refuses nothing, and what keeps it so.
    fn black_hole() -> (SocketAddr, Vec<socket2::Socket>) {
        use socket2::{Domain, Socket, Type};
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let listener = socket();
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap().as_socket().unwrap();
        let mut held = vec![listener];
        for _ in 0..8 {
            let filler = socket();
            filler.set_nonblocking(true).unwrap();
            let _ = filler.connect(&address.into());
            held.push(filler);
        }
        (address, held)
    }

    #[test]
    fn a_black_hole_costs_its_share_and_no_more() {
        let (hole, _held) = black_hole();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let all = vec![hole, hole, listener.local_addr().unwrap()];
        let Outcome::Made(_, address) = dial(all, 50) else { panic!("the hole took all") };
        assert_eq!(address, listener.local_addr().unwrap());
        let Outcome::Failed(why) = dial(vec![hole, hole], 4) else { panic!() };
        assert_eq!(why, format!("{hole}: timed out"));
    }

    #[test]
    fn shares_leave_time_for_the_last_address() {
        for (addresses, timeout_us) in [(1, 3_000_000), (2, 1_000_000), (16, 1_000_000)] {
            let mut now_us = 0;
            for rest in (1..=addresses).rev() {
                let share = share_us(rest, timeout_us - now_us);
                assert!((1..=STAGGER_US).contains(&share));
                now_us += share;
            }
            assert!(timeout_us - now_us >= timeout_us / (addresses as u64 + 1), "{addresses}");
        }
    }

    #[test]
    fn a_name_server_that_is_gone_leaves_what_was_known() {
        let poll = Poll::new().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let known = vec![listener.local_addr().unwrap()];
        let token = || Token(5);
        let mut dialing = Dialing::new(0, known.clone(), 1000, 100);
        assert_eq!(dialing.due_us(), 1050);
        assert!(matches!(dialing.go_on(poll.registry(), token, 1049), Outcome::Waits));
        assert!(!dialing.has(Token(5)) && dialing.waits_for_name());
        assert!(matches!(dialing.go_on(poll.registry(), token, 1050), Outcome::Waits));
        assert!(dialing.has(Token(5)), "tried without the name server");
        let mut dialing = Dialing::new(0, known, 1000, 100);
        dialing.resolved(&Err("no answer".to_owned()), 0, 1001);
        assert!(matches!(dialing.go_on(poll.registry(), token, 1001), Outcome::Waits));
        assert!(dialing.has(Token(5)));
        let mut dialing = Dialing::new(0, Vec::new(), 1000, 100);
        dialing.resolved(&Err("no answer".to_owned()), 0, 1001);
        let Outcome::Failed(why) = dialing.go_on(poll.registry(), token, 1001) else { panic!() };
        assert_eq!(why, "no answer");
    }
}
