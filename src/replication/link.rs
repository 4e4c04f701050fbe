//! One link, as its node sees it.
//!
//! Plain data and a few looks at it: decides nothing.

use super::action::Origin;
use super::mesh::{Claim, Said};
use super::session::Session;
use super::{NodeId, Role};
use crate::base::clock::Now;
use crate::store::Version;
use std::collections::BTreeMap;

/// A connection that was asked for, is being made, or carries.
#[derive(Debug)]
pub(super) struct Link {
    pub role: Role,
    /// The target that was dialled.
    pub target: Option<usize>,
    /// None while the connection is being made.
    pub session: Option<Session>,
    /// When it went live.
    pub live_us: Option<u64>,
    /// Dialled in the background: the log hears of it only when it succeeds.
    pub quiet: bool,
    /// The other end's address.
    pub address: String,
    /// Where it came from, if it came.
    pub origin: Origin,
    /// The other end is a process of this host. This node's replication port.
    pub neighbour: Option<u16>,
    /// The target whose repcached is at the other end.
    pub text: Option<usize>,
    /// How far from being filled the peer is, as it says (`native::HOPE_*`).
    pub hope: u8,
    /// What it was told of ours.
    pub hope_said: u8,
    /// It understands frames of version 1.2.
    pub speaks_mesh: bool,
    /// Third nodes that the peer answers for. At most `CLAIMS_MAX`.
    pub claims: BTreeMap<NodeId, Claim>,
    /// What the peer was told about third nodes: at most one per link.
    pub said: BTreeMap<NodeId, Said>,
    /// The lowest version that won in the bytes read last.
    pub chunk_low: Option<Version>,
    /// What the peer has of us came by that node.
    pub basis: Option<NodeId>,
}

/// How far an incoming connection has come that is no link yet. Those of one standing compete for
/// places with each other only: what strangers can do never takes the place of one who can do more.
pub(super) type Standing = (bool, bool, bool);

impl Link {
    pub fn new(
        role: Role,
        target: Option<usize>,
        quiet: bool,
        address: String,
        origin: Origin,
    ) -> Link {
        Link {
            role,
            target,
            session: None,
            live_us: None,
            quiet,
            address,
            origin,
            neighbour: None,
            text: None,
            hope: 0,
            hope_said: 0,
            speaks_mesh: false,
            claims: BTreeMap::new(),
            said: BTreeMap::new(),
            chunk_low: None,
            basis: None,
        }
    }

    pub fn is_live(&self) -> bool {
        self.live_us.is_some()
    }

    pub fn peer(&self) -> Option<NodeId> {
        self.session.as_ref().and_then(Session::peer)
    }

    /// When the peer was last heard, monotonic microseconds.
    pub fn heard_us(&self) -> u64 {
        self.session.as_ref().map_or(0, Session::heard_us)
    }

    /// The standing of a connection that waits: from an address of `-x`, with a line, trusted.
    pub fn pending(&self) -> Option<Standing> {
        let session = self.session.as_ref()?;
        let waits = self.role == Role::Listener && !self.is_live();
        let named = self.origin != Origin::Other;
        waits.then_some((named, session.knows_line(), session.peer().is_some()))
    }

    pub fn is_suspect(&self, now: Now, after_us: u64) -> bool {
        // A repcached has no heartbeats.
        self.text.is_none() && now.mono_us.saturating_sub(self.heard_us()) >= after_us
    }

    /// All that was wanted of the peer at the start has come.
    pub fn is_copied(&self) -> bool {
        self.session.as_ref().is_some_and(Session::is_copied)
    }
}
