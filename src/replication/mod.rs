//! Keeps nodes equal: what to tell a peer, when, and what to make of what it tells.
//!
//! Owns the link's state machine ([`Session`]), the node's decisions ([`Node`]) and the wires.
//! Never touches a socket, a thread or a clock: bytes, outcomes of dialling and the time come in as
//! arguments; bytes, events and actions are polled out. `server::peer` drives it over real sockets,
//! `tests/sim.rs` over virtual ones.
//!
//! ```text
//!              Action: Dial Listen Close Log Serve
//!   Node <----------------------------------------> driver (sockets, clock)
//!    |--- dial, fill    whom to try when; who fills a node that starts
//!    |--- mesh          who answers for whom: relays, claims, what is owed
//!    | one per link
//!   Session --- handshake   line, hello, who wants what from when on
//!    |--------- secret      proofs, where there is a shared secret
//!    |--------- copy        a scan of the store: full, or what is newer than the peer has
//!    |--------- quorum      what so many peers have acknowledged
//!    |--------- stream      live changes: bounded queue of key hashes, marks and acks
//!    |--------- send        changes -> frames, large values in parts
//!    |--------- conflict    frames -> changes: the highest version wins
//!    |--------- old         the same with a real repcached, which has no versions
//!    `--------- wire        frames <-> bytes
//! ```

pub mod action;
mod admit;
mod complaints;
pub mod conflict;
pub mod copy;
mod dial;
mod events;
mod fill;
mod graves;
pub mod handshake;
mod link;
mod mesh;
pub mod node;
pub mod old;
mod opening;
mod outgoing;
mod progress;
pub mod quorum;
mod report;
pub mod secret;
pub mod send;
pub mod session;
pub mod stream;
pub mod wire;

pub use action::{Action, LinkId, ListenError, NodeConfig, Origin};
pub use events::{CloseReason, Event, Footing, SessionConfig, SessionStats};
pub use handshake::Records;
pub use node::Node;
pub use quorum::Quorum;
pub use report::LinkStats;
pub use session::Session;

use crate::base::num;
use std::fmt;

/// Who a node is: drawn at random when its process starts, so that a process that was restarted
/// (and has forgotten everything) is not mistaken for the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u128);

impl NodeId {
    /// Reads 32 hexadecimal digits.
    pub fn parse(text: &[u8]) -> Option<NodeId> {
        if text.len() != 32 || !text.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        u128::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok().map(NodeId)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:032x}", self.0)
    }
}

/// Which end of a link this node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The peer connected to us: repcached's MASTER.
    Listener,
    /// We connected to the peer: repcached's SLAVE.
    Connector,
}

impl Role {
    /// As `stats` names it.
    pub fn name(self) -> &'static str {
        match self {
            Role::Listener => "MASTER",
            Role::Connector => "SLAVE",
        }
    }
}

/// `replication: marugoto 1000` and its kin: the count in a line.
pub(crate) fn count_line(prefix: &str, count: u64) -> String {
    let mut line = prefix.as_bytes().to_vec();
    num::push_u64(&mut line, count);
    String::from_utf8(line).unwrap_or_default()
}
