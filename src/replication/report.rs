//! What `stats` says of a node's links.
//!
//! Reads figures; changes nothing.

use super::node::{Link, Node};
use super::session::{Session, SessionStats};
use super::{NodeId, Role};
use crate::base::clock::Now;

/// One line of `stats replication`.
#[derive(Clone, Debug)]
pub struct LinkStats {
    /// The peer.
    pub id: Option<NodeId>,
    /// Which end we are.
    pub role: Role,
    /// Its address.
    pub address: String,
    /// `dialing`, `hello`, `copying` or `live`.
    pub state: &'static str,
    /// The peer is a repcached: it never says how far it is.
    pub text: bool,
    /// Microseconds since the oldest change that the peer has not acknowledged.
    pub lag_us: u64,
    /// Hashes that wait.
    pub queue: usize,
    /// Progress of the copy we send, in millionths.
    pub progress: u32,
    /// Everything else.
    pub figures: SessionStats,
}

impl Node {
    /// The role that `stats` shows: of the live link, or else of the last one (a node that waits
    /// for a peer is one that listens).
    pub fn role(&self) -> Role {
        self.live().next().map_or(Role::Listener, |(_, link)| link.role)
    }

    /// Least room in any link's queue.
    pub fn queue_free(&self) -> usize {
        let free = |link: &Link| link.session.as_ref().map(|session| session.stream().free());
        self.live().filter_map(|(_, link)| free(link)).min().unwrap_or(self.config.queue_max)
    }

    /// Microseconds since the oldest change that a peer has not acknowledged; 0 when all are. None
    /// when nobody is linked.
    pub fn lag_us(&self, now: Now) -> Option<u64> {
        self.live().filter_map(|(_, link)| Some(link.session.as_ref()?.stream().lag_us(now))).max()
    }

    /// Links that went live so far.
    pub fn links_made(&self) -> u64 {
        self.links_made
    }

    /// Incoming connections so far that ended before they were links.
    pub fn strays(&self) -> u64 {
        self.strays
    }

    /// Links so far that did not come about for want of the same secret.
    pub fn distrusted(&self) -> u64 {
        self.distrusted
    }

    /// Why the last live link ended, or was not trusted; empty when none has.
    pub fn last_error(&self) -> &str {
        &self.last_error
    }

    /// Each target's name and what went wrong there last.
    pub fn target_errors(&self) -> impl Iterator<Item = (&str, &str)> {
        self.targets.iter().map(|target| (target.name.as_str(), target.last_error.as_str()))
    }

    /// Figures of every link there is.
    pub fn link_stats(&self, now: Now) -> Vec<LinkStats> {
        let state = |link: &Link| match &link.session {
            None => "dialing",
            Some(_) if !link.is_live() => "hello",
            Some(session) if !session.is_filled() || session.copy_progress() < 1_000_000 => {
                "copying"
            }
            Some(_) => "live",
        };
        self.links
            .values()
            .map(|link| LinkStats {
                id: link.peer(),
                role: link.role,
                address: link.address.clone(),
                state: state(link),
                text: link.text.is_some(),
                lag_us: link.session.as_ref().map_or(0, |s| s.stream().lag_us(now)),
                queue: link.session.as_ref().map_or(0, |s| s.stream().len()),
                progress: link.session.as_ref().map_or(0, Session::copy_progress),
                figures: link.session.as_ref().map(Session::stats).unwrap_or_default(),
            })
            .collect()
    }
}
