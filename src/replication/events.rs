//! What a session is made with, and what it reports.
//!
//! Plain data, and its words for the log: decides nothing.

use super::conflict::Tally;
use super::secret::{Mismatch, Nonce, Secret};
use super::stream::Debt;
use super::wire::native::{Bye, Hello, WireError};
use super::wire::repcached::TextError;
use super::NodeId;
use crate::store::Version;
use std::fmt;
use std::sync::Arc;

/// What a session is made with.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// This node.
    pub id: NodeId,
    /// Hashes that may wait in the queue (`-q`).
    pub queue_max: usize,
    /// Longest time without saying anything, in microseconds.
    pub heartbeat_us: u64,
    /// Longest time without hearing anything, in microseconds.
    pub silence_us: u64,
    /// The secret that the peer has to know, and our nonce for this link.
    pub auth: Option<(Arc<Secret>, Nonce)>,
    /// What the peer is told when the link lives, see `Session::replaces`.
    pub pass: Nonce,
}

/// What both sides know of each other when a link goes live.
#[derive(Clone, Copy, Debug, Default)]
pub struct Footing {
    /// What we have of the peer: it is asked for what is newer.
    pub since: Version,
    /// We have that by a copy from this node.
    pub via: Option<NodeId>,
    /// A delete that the peer may lack is forgotten here: it is asked for everything.
    pub all: bool,
    /// What this node had up to here the peer has had, too.
    pub agreed: Version,
    /// What we owe the peer below what it will say it has.
    pub debt: Debt,
    /// We remember the peer (and so what we owe it): it may say what it has of us.
    pub known: bool,
    /// What we owe the node that filled the peer, if we remember that one: what came by it reaches
    /// no further.
    pub filler: Option<(NodeId, Debt)>,
    /// Everything changed here up to this version has left the feeds.
    pub covered: Version,
}

/// Why a link ended. Logs and stats share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The connection broke or was closed, with what the system said.
    Lost(String),
    /// Nothing was heard for this many microseconds.
    Silent(u64),
    /// The peer broke the protocol.
    Wire(WireError),
    /// The peer, a repcached, broke its protocol.
    Text(TextError),
    /// The peer said so.
    Bye(Bye),
    /// We said so.
    Refused(Bye),
    /// The two ends do not know the same secret.
    Secret(Mismatch),
}

impl CloseReason {
    /// It is how nodes that are well settle who links to whom: nothing went wrong.
    pub fn is_agreed(&self) -> bool {
        let (CloseReason::Bye(why) | CloseReason::Refused(why)) = self else { return false };
        matches!(why, Bye::Duplicate | Bye::Itself | Bye::Filling)
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CloseReason::Lost(text) => write!(out, "connection lost: {text}"),
            CloseReason::Silent(us) => write!(out, "nothing heard for {} ms", us / 1000),
            CloseReason::Wire(error) => write!(out, "{error}"),
            CloseReason::Text(error) => write!(out, "{error}"),
            CloseReason::Bye(reason) => write!(out, "ended by the peer: {}", bye_text(*reason)),
            CloseReason::Refused(reason) => write!(out, "ended here: {}", bye_text(*reason)),
            CloseReason::Secret(why) => write!(out, "{why}"),
        }
    }
}

pub(super) fn bye_text(bye: Bye) -> &'static str {
    match bye {
        Bye::Stopping => "stopping",
        Bye::AlreadyConnected => "already connected",
        Bye::Duplicate => "another link between the same nodes stays",
        Bye::Itself => "both ends are the same node",
        Bye::Protocol => "protocol error",
        Bye::Filling => "it is being filled by another node",
        Bye::Secret => "not the same secret (-o repl_secret_file)",
        Bye::Other(_) => "for a reason this version does not know",
    }
}

/// What came over one link and won, for the others.
#[derive(Clone, Debug, Default)]
pub struct Relays {
    /// Hash of the key and version of each, where that was asked for.
    pub changes: Vec<(u64, Version)>,
    /// The lowest version among all of them.
    pub lowest: Option<Version>,
    /// The lowest among those named that are items of a peer with versions.
    pub lowest_item: Option<Version>,
}

/// What a session reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer's opening line has come, and its proof where there is a secret.
    Line(NodeId),
    /// Its hello has come; nothing more happens until the owner says `start` or `refuse`.
    Hello(Hello),
    /// The other end opens as a repcached; nothing more happens until `Session::start_text` or
    /// `Session::refuse`.
    Repcached,
    /// A line for the log, at level info.
    Log(String),
    /// The peer answers for a third node, see `native::Frame::Linked`.
    Linked {
        /// The third node.
        node: NodeId,
        /// What the peer has of it.
        have: Version,
        /// What it has of the peer.
        told: Version,
        /// The peer's copy to us had not begun: it brings what the peer has.
        early: bool,
    },
    /// The peer does not answer for a third node any more.
    Unlinked {
        /// The third node.
        node: NodeId,
        /// What it has of the peer.
        since: Version,
    },
    /// Whether the peer is filled or may yet be.
    Hope(u8),
    /// The peer has sent all that we wanted at the start.
    CopyDone {
        /// It was everything, not only what was newer.
        full: bool,
    },
    /// The link is over. The last bytes may still be sent.
    Closed(CloseReason),
}

/// Figures of one link, for `stats replication`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionStats {
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// What came in, and how it fared.
    pub tally: Tally,
    /// Items sent.
    pub items_out: u64,
    /// Deletes sent.
    pub deletes_out: u64,
    /// Keys and values that a repcached cannot be told.
    pub unsaid: u64,
    /// Full copies sent.
    pub copies_out: u64,
    /// Full copies received.
    pub copies_in: u64,
    /// Copies of only what was newer, sent or received.
    pub resumes: u64,
    /// Times that the queue ran over.
    pub overflows: u64,
}
