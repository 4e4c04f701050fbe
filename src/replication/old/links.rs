//! Which links of a node are to repcacheds.
//!
//! Owns the decisions: who is taken for a repcached, which of them is linked, and that a twincached
//! in its place is spoken to natively. Never speaks: `old::session` does.
//!
//! ```text
//!   we dialled      its first bytes are those of a repcached             -> Event::Repcached
//!   it dialled us   from an address that -x names, nobody linked there,
//!                   not a byte for OLD_SILENCE_US, and we serve          -> greet_mute
//! ```
//! A connection from anywhere else hears nothing, as ever.

use super::{Bye, Handle, Link, LinkId, Listening, Node, NodeId, Now, Origin, Role, Session};
use crate::replication::wire::native::HOPE_FILLED;
use crate::replication::Action;

/// How long a connection from a peer's address is silent before it is taken for a repcached that
/// waits for its copy: one of ours sends its line at once. A slow one of ours sees what it was
/// taken for, and makes a new connection.
const OLD_SILENCE_US: u64 = 500_000;

/// A repcached of this host, whose link has ended, listens at once, or never again. It has so long
/// before this node takes the port that they share.
const PORT_GRACE_US: u64 = 150_000;

impl Node {
    /// The other end of a connection is a process of this host; `port`: our replication port.
    pub fn on_neighbour(&mut self, link: LinkId, port: u16) {
        self.links.entry(link).and_modify(|link| link.neighbour = Some(port));
    }

    /// Whether a repcached that has shown itself as one listens, or will, on this node's port.
    fn shares_port(&self, link: &Link) -> bool {
        let heard = link.session.as_ref().is_none_or(Session::has_heard);
        let named = link.text.and_then(|at| self.targets[at].name.rsplit_once(':'));
        let ours = |port: &str| link.neighbour.is_some_and(|ours| port == ours.to_string());
        heard && named.is_some_and(|(_, port)| ours(port))
    }

    pub(super) fn is_text(&self, link: LinkId) -> bool {
        self.links.get(&link).is_some_and(|link| link.text.is_some())
    }

    /// Whether the replication port is to stay closed, as that of a linked repcached does: it wants
    /// it when the link ends, and tries once. Where a node of ours is linked, others may come.
    pub(super) fn yields_port(&self) -> bool {
        let natives = self.live().any(|(_, link)| link.text.is_none());
        !natives && self.live().any(|(_, link)| self.shares_port(link))
    }

    /// Closes or opens the replication port, as the links have it now.
    pub(super) fn mind_port(&mut self) {
        if !self.yields_port() {
            let idle = self.listening == Listening::Off && self.listen_retry_us.is_none();
            if idle && !self.stopping {
                self.listen(false);
            }
            return;
        }
        if std::mem::replace(&mut self.listening, Listening::Off) == Listening::On {
            self.actions.push_back(Action::Unlisten);
        }
        self.listen_retry_us = None;
        self.listen_log = false;
    }

    /// A link has ended for which the port was left: it stays so for a moment. False: it was not.
    pub(super) fn has_left_port(&mut self, link: &Link, now: Now) -> bool {
        let left = self.listening == Listening::Off && self.shares_port(link);
        if left {
            self.listen_log |= !self.is_linked();
            self.listen_retry_us = Some(now.mono_us + PORT_GRACE_US);
        }
        left
    }

    /// Whether a target has answered as a repcached and is linked: it accepts nobody else then. One
    /// that has dialled us is only taken for it, so that we go on dialling.
    pub(super) fn is_dialled_text(&self, target: usize) -> bool {
        self.live().any(|(_, link)| link.text == Some(target) && link.target == Some(target))
    }

    /// Whether a target is known to be linked. Who dialled us says only its node id: where that was
    /// never met at a target, the address has to do, unless a repcached was met there.
    fn is_target_linked(&self, target: usize) -> bool {
        let met =
            |peer: Option<NodeId>| peer.is_some() && self.targets.iter().any(|t| t.known == peer);
        self.live().any(|(_, link)| match link.peer() {
            None => link.text == Some(target),
            peer if link.target.is_some() || met(peer) => {
                link.target == Some(target) || self.targets[target].known == peer
            }
            _ => self.may_be(link.origin, target) && self.targets[target].text.is_none(),
        })
    }

    /// Whether a connection may be one of a target: its address is. The targets of one host share
    /// it, and whoever connects has a port that says nothing.
    fn may_be(&self, origin: Origin, target: usize) -> bool {
        let host = |at: usize| self.targets.get(at)?.name.rsplit_once(':').map(|(host, _)| host);
        match origin {
            Origin::Peer(at) => at == target || host(at) == host(target),
            Origin::Other => false,
        }
    }

    /// The next connection that will be taken for a repcached: when, which, and of what target.
    pub(super) fn mute_due(&self) -> Option<(u64, LinkId, usize)> {
        let one_already = self.live().any(|(_, link)| link.text.is_some());
        // None of them can prove that it knows a secret.
        let secret = self.config.secret.is_some();
        if secret || !self.serving || self.stopping || one_already {
            return None;
        }
        let mute = self.links.iter().filter_map(|(&id, link)| {
            let session = link.session.as_ref().filter(|session| session.is_mute())?;
            let free = |&target: &usize| {
                self.may_be(link.origin, target) && !self.is_target_linked(target)
            };
            let mut targets = (0..self.targets.len()).filter(|_| link.role == Role::Listener);
            Some((session.heard_us() + OLD_SILENCE_US, id, targets.find(free)?))
        });
        mute.min()
    }

    /// Takes those for repcacheds that have been silent for long enough.
    pub(super) fn greet_mute(&mut self, handle: &mut Handle, now: Now) {
        while let Some((due, id, target)) = self.mute_due() {
            if now.mono_us < due {
                return;
            }
            if let Some(session) = self.session_mut(id) {
                session.take_for_repcached(now);
            }
            self.accept_text(id, target, handle, now);
        }
    }

    /// A target has answered as a repcached.
    pub(super) fn on_repcached(&mut self, id: LinkId, handle: &mut Handle, now: Now) {
        let Some(target) = self.links.get(&id).and_then(|link| link.target) else { return };
        let known = self.targets[target].known;
        let native = self.live().any(|(_, link)| {
            let there = link.target == Some(target) || (known.is_some() && link.peer() == known);
            there && link.text.is_none()
        });
        if native || self.stopping {
            return self.refuse(id, Bye::Duplicate);
        }
        if self.is_filling() {
            return self.refuse(id, Bye::Filling);
        }
        let text = self.live().find(|(_, link)| link.text.is_some());
        if let Some((old, link)) = text {
            if link.text != Some(target) {
                // A repcached is one of two; more than one of them at once is not to be.
                self.log("replication: already connected");
                return self.refuse(id, Bye::AlreadyConnected);
            }
            self.on_lost(old, "the peer has made a new connection", handle, now);
        }
        self.accept_text(id, target, handle, now);
    }

    fn accept_text(&mut self, id: LinkId, target: usize, handle: &mut Handle, now: Now) {
        let before = self.targets[target].linked_text();
        let (covered, timeout_us) = (self.covered, self.config.silence_us);
        let Some(link) = self.links.get_mut(&id) else { return };
        link.live_us = Some(now.mono_us);
        link.text = Some(target);
        link.hope = HOPE_FILLED;
        let (role, quiet, near) = (link.role, link.quiet, link.neighbour.is_some());
        self.links_made += 1;
        self.in_use = 0;
        match role {
            Role::Listener => self.log("replication: accept"),
            Role::Connector if quiet => self.log_connect(target),
            Role::Connector => {}
        }
        let name = &self.targets[target].name;
        let line = format!("replication: {name} is a repcached: spoken to in its own wire");
        self.actions.push_back(Action::Debug(line));
        if !near {
            // A process of this host cannot vanish unnoticed, only stop for a while.
            self.actions.push_back(Action::Watch { link: id, timeout_us });
        }
        self.mind_port();
        if self.serving {
            self.next_target_now(now);
        } else {
            self.fill_from(id, now);
        }
        if let Some(session) = self.session_mut(id) {
            session.start_text(before, covered, handle, now);
        }
        // What it has sent already.
        self.relay(id, now);
        self.gossip(now);
    }

    /// A twincached has said hello: if it stands where a repcached was, that one is gone. By its
    /// address only where the repcached, too, is known by no more.
    pub(super) fn displace_text(&mut self, id: LinkId, handle: &mut Handle, now: Now) {
        let Some(link) = self.links.get(&id) else { return };
        let Link { target, role, origin, .. } = *link;
        let gone = self.live().find(|(_, old)| {
            let by_address = role == Role::Listener && old.role == Role::Listener;
            let there = |at| target == Some(at) || (by_address && self.may_be(origin, at));
            old.text.is_some_and(there)
        });
        if let Some(old) = gone.map(|(old, _)| old) {
            self.on_lost(old, "a twincached is there now", handle, now);
        }
    }

    /// A connection has ended, and the system still held so many bytes of what was said on it. To
    /// be told before [`Node::on_lost`].
    pub fn on_unsent(&mut self, link: LinkId, bytes: u64) {
        if let Some(session) = self.session_mut(link) {
            session.unsent(bytes);
        }
    }
}
