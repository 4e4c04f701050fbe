//! Connections that come in: how many may wait, and what is said of those that are not trusted.
//!
//! Owns the node's part in them until their hello. Who may connect at all is the driver's matter,
//! what becomes of a hello the node's.

use super::action::{Action, LinkId, Origin};
use super::events::SessionConfig;
use super::link::Link;
use super::node::{Node, LINKS_MAX};
use super::secret::{Mismatch, Nonce};
use super::session::Session;
use super::{NodeId, Role};
use crate::base::clock::Now;

/// Incoming connections of one `link::Standing` that wait to become links: each costs a descriptor
/// and a small buffer for as long as a handshake may take. One more takes the place of the oldest,
/// as a peer speaks at once and a stranger who waits must not keep it out.
const PENDING_MAX: usize = 16;
/// Passes that are remembered: as many as there are links, and again as many of peers that went.
const PASSES_MAX: usize = 32;

impl Node {
    /// A connection came in from an address that may connect. `None`: close it at once.
    pub fn on_accepted(&mut self, address: String, from: Origin, now: Now) -> Option<LinkId> {
        if self.stopping {
            return None;
        }
        let config = self.session_config();
        let mut link = Link::new(Role::Listener, None, true, address, from);
        link.session = Some(Session::new(Role::Listener, config, now));
        let link = self.add_link(link);
        self.make_room(link);
        Some(link)
    }

    /// Where too many connections of one standing wait, the oldest gives way to this one.
    pub(super) fn make_room(&mut self, newcomer: LinkId) {
        let standing = self.links.get(&newcomer).and_then(Link::pending);
        let alike = |(_, link): &(&LinkId, &Link)| standing.is_some() && link.pending() == standing;
        if self.links.iter().filter(alike).count() <= PENDING_MAX {
            return;
        }
        let oldest = self.links.iter().filter(alike).map(|(&id, _)| id).find(|&id| id != newcomer);
        if let Some(oldest) = oldest {
            self.links.remove(&oldest);
            self.strays += 1;
            self.actions.push_back(Action::Close { link: oldest, last: Vec::new() });
        }
    }

    /// How many links there may be beside a new one. Who connects from elsewhere leaves the places
    /// that the peers of `-x` may need: however many come, those find room.
    pub(super) fn places_for(&self, id: LinkId) -> usize {
        let kept = if self.is_from_elsewhere(id) { self.unlinked_targets() } else { 0 };
        LINKS_MAX - kept.min(LINKS_MAX - 1)
    }

    /// Whether a new link may take the place of a silent one: who connects from elsewhere never
    /// that of a peer of `-x`.
    pub(super) fn may_oust(&self, id: LinkId, old: &Link) -> bool {
        !self.is_from_elsewhere(id) || !self.is_known_target(old.peer())
    }

    fn is_from_elsewhere(&self, id: LinkId) -> bool {
        self.links.get(&id).is_some_and(|link| {
            let elsewhere = link.role == Role::Listener && link.origin == Origin::Other;
            elsewhere && !self.is_known_target(link.peer())
        })
    }

    /// Whether that node has answered at a target.
    fn is_known_target(&self, peer: Option<NodeId>) -> bool {
        peer.is_some() && self.targets.iter().any(|target| target.known == peer)
    }

    fn unlinked_targets(&self) -> usize {
        let unlinked = |&at: &usize| !self.targets[at].itself && self.link_of(at).is_none();
        (0..self.targets.len()).filter(unlinked).count()
    }

    pub(super) fn session_config(&mut self) -> SessionConfig {
        let secret = self.config.secret.clone();
        SessionConfig {
            id: self.config.id,
            queue_max: self.config.queue_max,
            heartbeat_us: self.config.heartbeat_us,
            silence_us: self.config.silence_us,
            auth: secret.map(|secret| (secret, self.nonces.draw())),
            pass: self.nonces.draw(),
        }
    }

    /// The two ends of a link do not know the same secret.
    pub(super) fn on_distrust(&mut self, link: &Link, why: Mismatch, now: Now) {
        self.distrusted += 1;
        self.last_error = why.to_string();
        let Some(unsaid) = self.complaints.complain(link.target, why, now) else { return };
        let way = if link.target.is_some() { "to" } else { "from" };
        let mut line = format!("replication: no link {way} {}: {why}", link.address);
        if unsaid > 0 {
            line.push_str(&format!(" (and {unsaid} times since this was said last)"));
        }
        self.actions.push_back(Action::Warn(line));
    }

    /// A link has ended: its pass is what its peer will believe us by.
    pub(super) fn keep_pass(&mut self, peer: NodeId, pass: Option<Nonce>) {
        let Some(pass) = pass else { return };
        self.passes.retain(|&(known, _)| known != peer);
        if self.passes.len() >= PASSES_MAX {
            self.passes.remove(0);
        }
        self.passes.push((peer, pass));
    }

    /// What a peer told on the link to it that there is, or was last.
    pub(super) fn pass_for(&self, peer: NodeId) -> Option<Nonce> {
        let live = self.live().find(|(_, link)| link.peer() == Some(peer));
        let told = live.and_then(|(_, link)| link.session.as_ref()?.pass_told());
        let kept = self.passes.iter().find(|&&(known, _)| known == peer);
        told.or(kept.map(|&(_, pass)| pass))
    }

    /// Whether a new link takes the place of an old one with the same id at its other end. A peer
    /// that cannot show that it is the same one gets in when the old link has been silent.
    pub(super) fn may_replace(&self, old: LinkId, new: LinkId, now: Now) -> bool {
        let (Some(old), Some(new)) = (self.links.get(&old), self.links.get(&new)) else {
            return true;
        };
        match (&old.session, &new.session) {
            (Some(was), Some(is)) => is.replaces(was) || self.is_suspect(old, now),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replication::wire::line::{self, Line};
    use crate::replication::wire::native::{self, Frame, Hello};
    use crate::replication::NodeConfig;
    use crate::store::{Config, FlushState, Handle, Store, Version};

    const PEER: NodeId = NodeId(77);

    fn at(ms: u64) -> Now {
        Now { unix_us: 1_704_067_200_000_000 + ms * 1000, mono_us: 1_000_000 + ms * 1000 }
    }

    struct World {
        node: Node,
        handle: Handle,
    }

    impl World {
        fn new() -> World {
            let config = Config { replicated: true, memory_limit: 4 << 20, ..Config::default() };
            let handle = Store::new(config, at(0)).handle();
            World::with_peers(handle, Vec::new())
        }

        fn with_peers(handle: Handle, peers: Vec<String>) -> World {
            let mut node = Node::new(NodeConfig::new(NodeId(1), peers, 16));
            node.on_listening();
            World { node, handle }
        }

        fn line() -> Vec<u8> {
            let mut bytes = Vec::new();
            line::encode(&mut bytes, &Line { id: PEER, nonce: None });
            bytes
        }

        /// A connection that says line, pass and hello.
        fn connect(&mut self, pass: Option<Nonce>, now: Now) -> LinkId {
            self.connect_as(PEER, Origin::Other, pass, now)
        }

        fn connect_as(
            &mut self,
            id: NodeId,
            from: Origin,
            pass: Option<Nonce>,
            now: Now,
        ) -> LinkId {
            let link = self.node.on_accepted("a".to_owned(), from, now).unwrap();
            let (newest, flush) = (Version(5), FlushState::default());
            let hello = Hello { id, newest, cold: false, unix_us: 0, flush, mesh: None };
            let mut bytes = Vec::new();
            line::encode(&mut bytes, &Line { id, nonce: None });
            pass.iter().for_each(|&pass| native::encode(&mut bytes, &Frame::Pass(pass)));
            native::encode(&mut bytes, &Frame::Hello(hello));
            self.node.on_bytes(link, &bytes, &mut self.handle, now);
            link
        }

        /// The pass that the node tells on a link.
        fn pass(&mut self, link: LinkId, now: Now) -> Nonce {
            let mut out = Vec::new();
            self.node.poll_transmit(link, &mut out, 1 << 16, &mut self.handle, now);
            let (_, mut from) = line::decode(&out).unwrap().unwrap();
            while let Some((frame, used)) = native::decode(&out[from..]).unwrap() {
                if let Frame::Pass(pass) = frame {
                    return pass;
                }
                from += used;
            }
            panic!("no pass in {out:?}");
        }

        fn live(&self) -> Vec<LinkId> {
            self.node.live().map(|(id, _)| id).collect()
        }
    }

    #[test]
    fn who_only_claims_to_be_a_linked_peer_does_not_displace_it() {
        let mut world = World::new();
        let peer = world.connect(None, at(0));
        assert_eq!(world.live(), [peer]);
        let pass = world.pass(peer, at(1));
        // It does not matter how fresh the link is, nor which wrong number is shown.
        for (ms, shown) in [(2, None), (500, Some([9; 16])), (1500, None)] {
            world.connect(shown, at(ms));
            assert_eq!(world.live(), [peer], "at {ms}");
        }
        // The peer itself, whose connection broke without our hearing of it.
        let again = world.connect(Some(pass), at(1600));
        assert_eq!(world.live(), [again]);
        assert_ne!(world.pass(again, at(1601)), pass, "a pass is good for one link");
        world.connect(Some(pass), at(1700));
        assert_eq!(world.live(), [again], "a pass of long ago");
        // One that has forgotten its pass gets in when the old link has been silent.
        let heir = world.connect(None, at(1600 + 1800));
        assert_eq!(world.live(), [heir]);
    }

    #[test]
    fn who_comes_from_elsewhere_leaves_places_for_peers() {
        let handle = World::new().handle;
        let mut world = World::with_peers(handle, vec!["a:1".to_owned(), "b:1".to_owned()]);
        for peer in 0..2 {
            // Nobody there yet: the node serves, and listens.
            world.node.on_timeout(&mut world.handle, at(peer));
            world.node.on_dial_failed(LinkId(peer), "nobody", at(peer));
        }
        for n in 0..2 * LINKS_MAX as u128 {
            world.connect_as(NodeId(1000 + n), Origin::Other, None, at(10));
        }
        assert_eq!(world.live().len(), LINKS_MAX - 2);
        for peer in 0..2 {
            let id = NodeId(100 + peer as u128);
            let link = world.connect_as(id, Origin::Peer(peer), None, at(20));
            assert!(world.live().contains(&link));
        }
        assert_eq!(world.live().len(), LINKS_MAX);
    }

    #[test]
    fn connections_that_wait_compete_with_their_like_only() {
        let mut world = World::new();
        let accept =
            |world: &mut World, from| world.node.on_accepted("a".to_owned(), from, at(0)).unwrap();
        let named = accept(&mut world, Origin::Peer(0));
        let first = accept(&mut world, Origin::Other);
        let said = accept(&mut world, Origin::Other);
        world.node.on_bytes(said, &World::line(), &mut world.handle, at(0));
        for _ in 0..100 {
            accept(&mut world, Origin::Other);
        }
        assert_eq!(world.node.links.len(), PENDING_MAX + 2);
        assert!(!world.node.links.contains_key(&first), "the oldest of the crowd");
        assert!([named, said].iter().all(|link| world.node.links.contains_key(link)));
        assert_eq!(world.node.strays(), 101 - PENDING_MAX as u64);
        for _ in 0..100 {
            let link = accept(&mut world, Origin::Other);
            world.node.on_bytes(link, &World::line(), &mut world.handle, at(0));
        }
        assert!(world.node.links.len() <= 3 * PENDING_MAX);
        assert!(world.node.links.contains_key(&named), "whatever strangers do");
    }
}
