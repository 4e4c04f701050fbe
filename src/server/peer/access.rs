//! Who may connect to the replication port.
//!
//! ```text
//!   address ---- of a peer of -x (as its name was looked up last) ----> Origin::Peer
//!           ---- loopback, or in -o repl_allow -----------------------> Origin::Other
//!           ---- any other -------------------------> closed, counted, said once a second
//! ```
//!
//! Owns the list and what is said of those who are not on it. Never opens or closes anything, never
//! asks a name server: it says when to ask.

use crate::base::clock::Now;
use crate::base::network::Network;
use crate::replication::Origin;
use std::net::{IpAddr, SocketAddr};

/// At most one line per this time about strangers.
const SAY_US: u64 = 1_000_000;
/// After a stranger the names of `-x` are looked up anew, at most once per this time: a peer whose
/// address has changed gets in at its next try, and strangers cannot keep a name server busy.
const ASK_US: u64 = 5_000_000;

/// What is to be done about one who was refused, besides closing the connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// For the log.
    pub line: Option<String>,
    /// Look up the names of `-x`.
    pub ask: bool,
}

/// The list of who may connect.
#[derive(Debug)]
pub(super) struct Access {
    /// What the name of each peer meant when it was looked up last, as canonical addresses.
    named: Vec<Vec<IpAddr>>,
    allow: Vec<Network>,
    refused: u64,
    /// Refused since the last line.
    unsaid: u64,
    said_us: Option<u64>,
    asked_us: Option<u64>,
}

impl Access {
    /// For so many peers, whose addresses are not known yet.
    pub fn new(peers: usize, allow: Vec<Network>) -> Access {
        let named = vec![Vec::new(); peers];
        Access { named, allow, refused: 0, unsaid: 0, said_us: None, asked_us: None }
    }

    /// What a peer's name means now. Where a lookup fails, what it meant before goes on to count.
    pub fn learn(&mut self, peer: usize, addresses: &[SocketAddr]) {
        if let Some(named) = self.named.get_mut(peer) {
            *named = addresses.iter().map(|address| address.ip().to_canonical()).collect();
        }
    }

    /// Where a connection from this address comes from; `None`: from a stranger.
    pub fn admits(&self, address: IpAddr) -> Option<Origin> {
        let ip = address.to_canonical();
        if let Some(peer) = self.named.iter().position(|named| named.contains(&ip)) {
            return Some(Origin::Peer(peer));
        }
        let may = ip.is_loopback() || self.allow.iter().any(|network| network.contains(ip));
        may.then_some(Origin::Other)
    }

    /// One was refused.
    pub fn refuse(&mut self, address: SocketAddr, now: Now) -> Refusal {
        let lately = |at: Option<u64>, wait| at.is_some_and(|at| now.mono_us < at + wait);
        self.refused += 1;
        let ask = !lately(self.asked_us, ASK_US);
        if ask {
            self.asked_us = Some(now.mono_us);
        }
        if lately(self.said_us, SAY_US) {
            self.unsaid += 1;
            return Refusal { line: None, ask };
        }
        self.said_us = Some(now.mono_us);
        let more = match std::mem::take(&mut self.unsaid) {
            0 => String::new(),
            n => format!(" (and {n} more since this was said last)"),
        };
        let who = SocketAddr::new(address.ip().to_canonical(), address.port());
        let why = "not a peer of -x, nor in -o repl_allow";
        let line = format!("replication: refused a connection from {who}: {why}{more}");
        Refusal { line: Some(line), ask }
    }

    /// Connections refused so far.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn peers_loopback_and_named_networks_may_connect() {
        let allow =
            vec![Network::parse("10.1.0.0/16").unwrap(), Network::parse("fd00::/8").unwrap()];
        let mut access = Access::new(2, allow);
        access.learn(0, &["192.0.2.1:1".parse().unwrap(), "[2001:db8::1]:1".parse().unwrap()]);
        access.learn(1, &["[::ffff:192.0.2.7]:1".parse().unwrap()]);
        for (address, origin) in [
            ("192.0.2.1", Some(Origin::Peer(0))),
            ("::ffff:192.0.2.1", Some(Origin::Peer(0))),
            ("2001:db8::1", Some(Origin::Peer(0))),
            ("192.0.2.7", Some(Origin::Peer(1))),
            ("127.0.0.1", Some(Origin::Other)),
            ("127.9.9.9", Some(Origin::Other)),
            ("::1", Some(Origin::Other)),
            ("::ffff:127.0.0.1", Some(Origin::Other)),
            ("10.1.2.3", Some(Origin::Other)),
            ("::ffff:10.1.2.3", Some(Origin::Other)),
            ("fd12::1", Some(Origin::Other)),
            ("10.2.0.1", None),
            ("192.0.2.2", None),
            ("2001:db8::2", None),
            ("0.0.0.0", None),
        ] {
            assert_eq!(access.admits(ip(address)), origin, "{address}");
        }
        // The peer has moved; its old address is a stranger's now.
        access.learn(0, &["192.0.2.2:1".parse().unwrap()]);
        assert_eq!(access.admits(ip("192.0.2.2")), Some(Origin::Peer(0)));
        assert_eq!(access.admits(ip("192.0.2.1")), None);
    }

    #[test]
    fn strangers_are_counted_and_said_once_a_second() {
        let mut access = Access::new(0, Vec::new());
        let stranger: SocketAddr = "[::ffff:192.0.2.9]:77".parse().unwrap();
        let (mut lines, mut asks) = (Vec::new(), 0);
        for ms in 0..10_000 {
            let refusal = access.refuse(stranger, Now { unix_us: 0, mono_us: 7 + ms * 1000 });
            lines.extend(refusal.line);
            asks += u64::from(refusal.ask);
        }
        assert_eq!((access.refused(), lines.len(), asks), (10_000, 10, 2));
        assert!(lines[0].contains("from 192.0.2.9:77: not a peer"), "{}", lines[0]);
        assert!(!lines[0].contains("more"), "{}", lines[0]);
        assert!(lines[1].ends_with("(and 999 more since this was said last)"), "{}", lines[1]);
    }
}
