//! What `stats` says of a node's peers.
//!
//! Reads figures; changes nothing.

use super::events::SessionStats;
use super::link::Link;
use super::node::Node;
use super::session::Session;
use super::{NodeId, Role};
use crate::base::clock::Now;
use std::collections::VecDeque;

/// Peers whose last error is remembered, linked or not.
const ERRORS_MAX: usize = 64;

/// Why the last link to each peer ended.
#[derive(Debug, Default)]
pub(super) struct PeerErrors(VecDeque<(NodeId, String)>);

impl PeerErrors {
    /// A live link to this peer has ended.
    pub fn note(&mut self, peer: Option<NodeId>, why: &str) {
        let Some(peer) = peer else { return };
        self.0.retain(|(id, _)| *id != peer);
        if self.0.len() == ERRORS_MAX {
            self.0.pop_front();
        }
        self.0.push_back((peer, why.to_owned()));
    }

    fn of(&self, peer: Option<NodeId>) -> Option<&str> {
        let (_, why) = self.0.iter().find(|(id, _)| Some(*id) == peer)?;
        Some(why)
    }
}

/// Figures of one link.
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
    /// When it went live, monotonic microseconds.
    pub since_us: Option<u64>,
    /// Microseconds since the oldest change that the peer has not acknowledged.
    pub lag_us: u64,
    /// Hashes that wait.
    pub queue: usize,
    /// Progress of the copy we send, in millionths.
    pub progress: u32,
    /// Progress of the copy we receive, in millionths.
    pub received: u32,
    /// Everything else.
    pub figures: SessionStats,
}

impl LinkStats {
    fn of(link: &Link, now: Now) -> LinkStats {
        let session = link.session.as_ref();
        let state = match session {
            None => "dialing",
            Some(_) if !link.is_live() => "hello",
            Some(session) if !session.is_copied() || session.copy_progress() < 1_000_000 => {
                "copying"
            }
            Some(_) => "live",
        };
        LinkStats {
            id: link.peer(),
            role: link.role,
            address: link.address.clone(),
            state,
            text: link.text.is_some(),
            since_us: link.live_us,
            lag_us: session.map_or(0, |s| s.stream().lag_us(now)),
            queue: session.map_or(0, |s| s.stream().len()),
            progress: session.map_or(0, Session::copy_progress),
            received: session.map_or(0, Session::receive_progress),
            figures: session.map(Session::stats).unwrap_or_default(),
        }
    }
}

/// What `stats replication` says of a peer: one that is linked, or one that `-x` names and that is
/// not.
#[derive(Clone, Debug)]
pub struct PeerStats {
    /// `copying` or `live`; `dialing`, `waiting` (for the next try), `refused` (it has no place) or
    /// `itself` (the name means this node).
    pub state: &'static str,
    /// The names by which `-x` knows it.
    pub names: Vec<String>,
    /// Who it is, or was.
    pub id: Option<NodeId>,
    /// What went wrong last.
    pub last_error: String,
    /// Where it is linked.
    pub link: Option<LinkStats>,
}

impl Node {
    /// The role that `stats` shows. With several links: a listener where any peer has connected to
    /// us, as a repcached that can still be connected to says MASTER; a connector where we made all
    /// of them. A node that waits for a peer is one that listens.
    pub fn role(&self) -> Role {
        let mut roles = self.live().map(|(_, link)| link.role).peekable();
        if roles.peek().is_some() && roles.all(|role| role == Role::Connector) {
            Role::Connector
        } else {
            Role::Listener
        }
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

    /// Figures of every link there is.
    pub fn link_stats(&self, now: Now) -> Vec<LinkStats> {
        self.links.values().map(|link| LinkStats::of(link, now)).collect()
    }

    /// Every peer that is linked, then those that `-x` names and that are not.
    pub fn peer_stats(&self, now: Now) -> Vec<PeerStats> {
        let mut peers: Vec<PeerStats> = Vec::new();
        let mut shown = vec![false; self.targets.len()];
        for (_, link) in self.live() {
            let peer = link.peer();
            let mut names = Vec::new();
            let mut last_error = self.errors.of(peer).unwrap_or_default();
            for (at, target) in self.targets.iter().enumerate() {
                let there = link.target == Some(at) || link.text == Some(at);
                if there || (peer.is_some() && target.known == peer) {
                    shown[at] = true;
                    names.push(target.name.clone());
                    if last_error.is_empty() {
                        last_error = &target.last_error;
                    }
                }
            }
            let last_error = last_error.to_owned();
            let link = LinkStats::of(link, now);
            peers.push(PeerStats {
                state: link.state,
                names,
                id: peer,
                last_error,
                link: Some(link),
            });
        }
        let unlinked = self.targets.iter().zip(shown).filter(|(_, shown)| !shown);
        peers.extend(unlinked.map(|(target, _)| PeerStats {
            state: target.state(),
            names: vec![target.name.clone()],
            id: target.known,
            last_error: target.last_error.clone(),
            link: None,
        }));
        peers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::{LinkId, NodeConfig};
    use crate::store::{Config, Store};

    const NOW: Now = Now { unix_us: 0, mono_us: 5 };

    #[test]
    fn a_target_that_is_not_linked_is_shown_with_its_error() {
        let config = NodeConfig::new(NodeId(7), vec!["a:1".into(), "b:2".into()], 10);
        let store = Store::new(Config { memory_limit: 1 << 20, ..Config::default() }, NOW);
        let mut node = Node::new(config);
        node.on_timeout(&mut store.handle(), NOW);
        let states = |node: &Node| -> Vec<(&str, String)> {
            let peers = node.peer_stats(NOW);
            assert!(peers.iter().all(|peer| peer.link.is_none()));
            peers.iter().map(|peer| (peer.state, peer.last_error.clone())).collect()
        };
        assert_eq!(states(&node)[0], ("dialing", String::new()));
        node.on_dial_failed(LinkId(0), "nobody there", NOW);
        assert_eq!(states(&node)[0], ("waiting", "nobody there".to_owned()));
        assert_eq!(node.peer_stats(NOW)[1].names, ["b:2"]);
        assert_eq!(node.role(), Role::Listener);
    }

    #[test]
    fn errors_of_peers_are_bounded() {
        let mut errors = PeerErrors::default();
        errors.note(None, "nobody");
        for id in 0..100 {
            errors.note(Some(NodeId(id)), "lost");
        }
        errors.note(Some(NodeId(99)), "lost again");
        assert_eq!(errors.0.len(), ERRORS_MAX);
        assert_eq!(errors.of(Some(NodeId(99))), Some("lost again"));
        assert_eq!((errors.of(Some(NodeId(0))), errors.of(None)), (None, None));
    }
}
