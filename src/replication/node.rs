//! The node: whom to dial and when, which links live, what the log says, when clients may come.
//!
//! Owns the links (one [`Session`] each), the targets named by `-x` and the memory of peers. Never
//! opens a socket: it hands out [`Action`]s and is told what became of them. Who is told what is
//! `mesh`'s part of it, how a node that starts is filled `fill`'s.
//!
//! ```text
//!             start                    link lost
//!               v                          |
//!   connect --dial--> marugoto copying --filled--> start ............ linked, as connector
//!     ^                 |                                              |
//!     | -x              | nobody there, broken                         | lost
//!     |                 v                                              v
//!     +--quietly--    close --> listen --accept--> (copy to the peer)  linked, as listener
//! ```
//!
//! A node listens whenever it can, also while it is linked as connector, and dials quietly the
//! targets that it is not linked to, by whichever side's doing. Who answers at a target is known
//! when it has been dialled once; where that node is linked already, the try goes no further than
//! its line. Both ends dialling at once settle on the link that the lower node id dialled.

use super::action::{Action, LinkId, ListenError, NodeConfig, Origin};
use super::complaints::Complaints;
use super::dial::{Outcome, Target};
use super::events::{CloseReason, Event, Footing};
use super::fill::STAGGER_US;
use super::graves::Graves;
use super::link::Link;
use super::report::PeerErrors;
use super::secret::{Nonce, Nonces};
use super::session::Session;
use super::wire::native::{Bye, Hello, HOPE_FILLED, HOPE_NONE};
use super::{NodeId, Records, Role};
use crate::base::clock::Now;
use crate::store::{Drained, Handle, Told, Version};
use std::collections::{BTreeMap, VecDeque};

#[path = "old/links.rs"]
mod old_links;

/// Live links of one node.
pub(super) const LINKS_MAX: usize = 16;
/// How much of the silence after which a peer is given up a starting node is patient with one that
/// has no place for it.
const PATIENCE_PERCENT: u64 = 80;
/// Two links between the same nodes that came up within this time were dialled at once, by both.
const CROSSED_US: u64 = 1_000_000;
/// First wait before the replication port is tried again. On one host the peer that died holds it
/// until its last descriptor is closed; each further try waits twice as long.
const LISTEN_RETRY_FIRST_US: u64 = 5_000;
/// Longest wait before the replication port is tried again.
const LISTEN_RETRY_MAX_US: u64 = 500_000;
/// A link that lived this long was a good one: after it, waits start short again. Links that keep
/// breaking sooner are made again no more than about once a second.
const LIVED_US: u64 = 1_000_000;
/// Times that a starting node dials again because somebody else holds the replication port.
const IN_USE_MAX: u32 = 10;
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listening {
    Off,
    Asked,
    On,
}

/// The decisions of one node.
#[derive(Debug)]
pub struct Node {
    pub(super) config: NodeConfig,
    pub(super) links: BTreeMap<LinkId, Link>,
    pub(super) next_link: u64,
    pub(super) targets: Vec<Target>,
    pub(super) records: Records,
    pub(super) graves: Graves,
    pub(super) actions: VecDeque<Action>,
    pub(super) listening: Listening,
    pub(super) listen_retry_us: Option<u64>,
    /// How long the next wait will be.
    listen_wait_us: u64,
    /// Say `listen` when the port is open.
    listen_log: bool,
    in_use: u32,
    listen_error: String,
    pub(super) serving: bool,
    /// A filled peer has given this node all it had.
    pub(super) filled: bool,
    /// The link that does so.
    pub(super) filling: Option<LinkId>,
    /// What that peer had of others when its copy began.
    pub(super) fill_haves: BTreeMap<NodeId, Version>,
    /// Who filled this node.
    pub(super) filler: Option<NodeId>,
    /// When a node that waits to be filled may try the next target.
    pub(super) stagger_us: u64,
    pub(super) stopping: bool,
    covered: Version,
    /// Nothing was changed here up to this version.
    pub(super) made: Version,
    pub(super) made_any: bool,
    /// From whom something came that was news here. Where each of them is linked to a third node,
    /// that one needs nothing of this node but what was made here.
    pub(super) sources: Vec<NodeId>,
    /// From more than can be remembered.
    pub(super) mixed: bool,
    random: u64,
    pub(super) last_error: String,
    pub(super) errors: PeerErrors,
    pub(super) links_made: u64,
    /// Who was told "already connected" last: it will ask again each second, the log hears once.
    refused: Option<NodeId>,
    pub(super) nonces: Nonces,
    /// What peers told on links that ended, oldest first.
    pub(super) passes: Vec<(NodeId, Nonce)>,
    pub(super) complaints: Complaints,
    /// Incoming connections that ended before they were links.
    pub(super) strays: u64,
    /// Of these and of those we made: links that ended for want of the same secret.
    pub(super) distrusted: u64,
}

impl Node {
    /// A node that starts: it listens, and dials its first peer at the first
    /// [`Node::on_timeout`].
    pub fn new(config: NodeConfig) -> Node {
        let patience_us = config.silence_us / 100 * PATIENCE_PERCENT;
        let target = |name: &String| Target::new(name.clone(), patience_us);
        let targets = config.peers.iter().map(target).collect();
        let mut node = Node {
            records: Records::default(),
            graves: Graves::default(),
            random: config.seed | 1,
            nonces: Nonces::new(config.nonce_key),
            passes: Vec::new(),
            config,
            links: BTreeMap::new(),
            next_link: 0,
            targets,
            actions: VecDeque::new(),
            listening: Listening::Off,
            listen_retry_us: None,
            listen_wait_us: LISTEN_RETRY_FIRST_US,
            listen_log: false,
            in_use: 0,
            listen_error: String::new(),
            serving: false,
            filled: false,
            filling: None,
            fill_haves: BTreeMap::new(),
            filler: None,
            stagger_us: 0,
            stopping: false,
            covered: Version(0),
            made: Version(0),
            made_any: false,
            sources: Vec::new(),
            mixed: false,
            last_error: String::new(),
            errors: PeerErrors::default(),
            links_made: 0,
            refused: None,
            complaints: Complaints::default(),
            strays: 0,
            distrusted: 0,
        };
        // At once, so that nodes that start together find each other.
        let alone = node.targets.is_empty();
        node.listen(alone);
        node
    }

    /// What the driver is to do; to be asked until there is nothing.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn log(&mut self, line: impl Into<String>) {
        self.actions.push_back(Action::Log(line.into()));
    }

    fn log_connect(&mut self, target: usize) {
        self.log(format!("replication: connect (peer={})", self.targets[target].name));
        self.log("replication: marugoto copying");
    }

    /// xorshift64: jitter needs no better.
    pub(super) fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn dial(&mut self, target: usize, quiet: bool, now_us: u64) {
        if !quiet {
            self.log_connect(target);
        }
        let name = self.targets[target].name.clone();
        let from = Origin::Peer(target);
        let id = self.add_link(Link::new(Role::Connector, Some(target), quiet, name, from));
        self.targets[target].dialing = Some(id);
        self.targets[target].begins(now_us);
        let config = &self.config;
        let timeout_us = if quiet { config.dial_again_us() } else { config.dial_first_us() };
        self.actions.push_back(Action::Dial { link: id, peer: target, timeout_us });
    }

    pub(super) fn add_link(&mut self, link: Link) -> LinkId {
        let id = LinkId(self.next_link);
        self.next_link += 1;
        self.links.insert(id, link);
        id
    }

    /// Opens the port, or says that it is open already.
    pub(super) fn listen(&mut self, log: bool) {
        self.listen_log |= log;
        match self.listening {
            Listening::On => {
                if std::mem::take(&mut self.listen_log) {
                    self.log("replication: listen");
                }
            }
            Listening::Asked => {}
            Listening::Off => {
                self.listening = Listening::Asked;
                self.listen_retry_us = None;
                self.actions.push_back(Action::Listen);
            }
        }
    }

    /// The port is open.
    pub fn on_listening(&mut self) {
        self.listening = Listening::On;
        self.listen_error.clear();
        if std::mem::take(&mut self.listen_log) && !self.is_linked() {
            self.log("replication: listen");
        }
        self.maybe_serve();
    }

    /// The port could not be opened.
    pub fn on_listen_failed(&mut self, error: ListenError, now: Now) {
        self.listening = Listening::Off;
        self.listen_retry_us = Some(now.mono_us + self.listen_wait_us);
        self.listen_wait_us = (2 * self.listen_wait_us).min(LISTEN_RETRY_MAX_US);
        match error {
            ListenError::InUse => {
                // On one host the holder is the peer, which came up in the same moment.
                self.in_use += 1;
                let random = self.random();
                for target in &mut self.targets {
                    if !self.serving && self.in_use < IN_USE_MAX {
                        target.hopeless = false;
                    }
                    target.itself = false;
                    target.soon(now.mono_us, random);
                }
                // Without a peer to reach through that port, nobody will link to this node.
                if self.targets.is_empty() {
                    self.listen_failed("somebody else listens on it");
                }
            }
            ListenError::Other(text) => self.listen_failed(&text),
        }
        self.maybe_serve();
        self.gossip(now);
    }

    /// Says why the port cannot be opened, once per reason.
    fn listen_failed(&mut self, why: &str) {
        if self.listen_error != why {
            let line = format!("replication: can't open the replication port: {why}");
            self.actions.push_back(Action::Warn(line));
            self.listen_error = why.to_owned();
        }
    }

    /// A dialled connection is made.
    pub fn on_dialed(&mut self, link: LinkId, address: String, now: Now) {
        let config = self.session_config();
        if let Some(link) = self.links.get_mut(&link) {
            link.address = address;
            link.session = Some(Session::new(Role::Connector, config, now));
        }
    }

    /// A dialled connection could not be made.
    pub fn on_dial_failed(&mut self, link: LinkId, why: &str, now: Now) {
        if let Some(link) = self.links.remove(&link) {
            self.dial_ended(&link, Outcome::Nobody, why, now);
            self.maybe_serve();
            self.gossip(now);
        }
    }

    /// Bytes came in.
    pub fn on_bytes(&mut self, link: LinkId, bytes: &[u8], handle: &mut Handle, now: Now) {
        let relay = self.relays_from(link);
        let Some(session) = self.session_mut(link) else { return };
        session.set_relay(relay);
        let (told, knew) = (session.told().is_some(), session.knows_line());
        session.handle_bytes(bytes, handle, now);
        let news = session.told().is_some() != told;
        let line = session.knows_line() != knew;
        self.relay(link, now);
        self.tell_buried(link, now);
        if self.pump(link, handle, now) || news {
            self.gossip(now);
        }
        if line {
            self.make_room(link);
        }
    }

    /// A connection broke or was closed by the other end.
    pub fn on_lost(&mut self, link: LinkId, why: &str, handle: &mut Handle, now: Now) {
        if let Some(session) = self.session_mut(link) {
            session.lost(why);
            self.pump(link, handle, now);
            self.gossip(now);
        }
    }

    /// Whether a link has a copy to send or to take in, in slices between which clients get their
    /// turn. Not before there are clients.
    pub fn is_copying(&self, link: LinkId) -> bool {
        let session = self.links.get(&link).and_then(|link| link.session.as_ref());
        self.serving && session.is_some_and(Session::is_copying)
    }

    /// Whether a link would take changes as they are made, not only their hashes.
    pub fn takes_told(&self) -> bool {
        self.live().filter_map(|(_, link)| link.session.as_ref()).any(Session::takes_told)
    }

    /// What was drained from the feeds with its bytes. [`Node::on_feed`] follows.
    pub fn on_told(&mut self, told: &Told, now: Now) {
        if told.is_empty() {
            return;
        }
        self.made_any = true;
        for link in self.links.values_mut() {
            if let Some(session) = &mut link.session {
                session.tell(told, now);
            }
        }
    }

    /// What was drained from the feeds.
    pub fn on_feed(&mut self, hashes: &[u64], drained: Drained, now: Now) {
        self.covered = self.covered.max(drained.upto);
        self.made_any |= !hashes.is_empty() || drained.overflowed;
        if !self.made_any {
            self.made = self.covered;
        }
        for link in self.links.values_mut() {
            if let Some(session) = &mut link.session {
                session.push(hashes, drained, now);
            }
        }
    }

    /// Appends what a link has to send, see [`Session::poll_transmit`]. True when it has more.
    pub fn poll_transmit(
        &mut self,
        link: LinkId,
        out: &mut Vec<u8>,
        limit: usize,
        handle: &mut Handle,
        now: Now,
    ) -> bool {
        let Some(session) = self.session_mut(link) else { return false };
        session.poll_transmit(out, limit, handle, now);
        let more = session.has_more();
        self.pump(link, handle, now);
        more
    }

    fn session_mut(&mut self, link: LinkId) -> Option<&mut Session> {
        self.links.get_mut(&link)?.session.as_mut()
    }

    pub(super) fn is_suspect(&self, link: &Link, now: Now) -> bool {
        link.is_suspect(now, self.config.suspect_us())
    }

    pub(super) fn live(&self) -> impl Iterator<Item = (LinkId, &Link)> {
        self.links.iter().filter(|(_, link)| link.is_live()).map(|(&id, link)| (id, link))
    }

    /// Whether any link is live.
    pub fn is_linked(&self) -> bool {
        self.live().next().is_some()
    }

    /// When [`Node::on_timeout`] wants to be called, monotonic microseconds.
    pub fn next_timeout(&self) -> Option<u64> {
        let sessions = self.links.values().filter_map(|l| l.session.as_ref()?.next_timeout());
        let dials = (0..self.targets.len()).filter_map(|target| self.dial_due(target));
        let listen = self.listen_retry_us.filter(|_| !self.stopping);
        let compare = self.comparing_due().map(|(_, at)| at);
        let mute = self.mute_due().map(|(due, ..)| due);
        sessions.chain(dials).chain(listen).chain(compare).chain(mute).min()
    }

    /// The live link to the node that answered at a target.
    pub(super) fn link_of(&self, target: usize) -> Option<(LinkId, &Link)> {
        let known = self.targets[target].known;
        self.live().find(|(_, link)| known.is_some() && link.peer() == known)
    }

    /// When a target is to be dialled: when its time has come and it is not linked, or when its
    /// linked peer has become suspect.
    fn dial_due(&self, target: usize) -> Option<u64> {
        let Target { dialing: None, next_us, tried, .. } = self.targets[target] else {
            return None;
        };
        if self.stopping || self.is_dialled_text(target) {
            return None;
        }
        if let Some((_, link)) = self.link_of(target) {
            return Some(next_us.max(link.heard_us() + self.config.suspect_us()));
        }
        if self.is_filling() || self.live().count() >= LINKS_MAX {
            return None;
        }
        if !self.serving && !tried {
            return (self.next_untried() == Some(target)).then_some(self.stagger_us);
        }
        Some(next_us)
    }

    /// Looks at the time: heartbeats, silent peers, dials that are due.
    pub fn on_timeout(&mut self, handle: &mut Handle, now: Now) {
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            if let Some(session) = self.session_mut(id) {
                session.handle_timeout(now);
                self.pump(id, handle, now);
            }
        }
        self.greet_mute(handle, now);
        if let Some((id, _)) = self.comparing_due().filter(|&(_, at)| now.mono_us >= at) {
            self.on_lost(id, "a delete was forgotten too soon: all is compared anew", handle, now);
        }
        for target in 0..self.targets.len() {
            if self.dial_due(target).is_some_and(|due| now.mono_us >= due) {
                let first = !self.serving && !self.targets[target].tried;
                self.stagger_us = now.mono_us + STAGGER_US;
                self.dial(target, !first, now.mono_us);
            }
        }
        if self.listen_retry_us.is_some_and(|at| now.mono_us >= at) && !self.stopping {
            self.listen(false);
        }
        self.gossip(now);
    }

    /// Works through what a session reports. True when there was anything.
    fn pump(&mut self, id: LinkId, handle: &mut Handle, now: Now) -> bool {
        let mut any = false;
        while let Some(event) = self.session_mut(id).and_then(Session::poll_event) {
            any = true;
            match event {
                Event::Line(peer) => self.on_line(id, peer, now),
                Event::Hello(hello) => self.on_hello(id, &hello, handle, now),
                Event::Repcached => self.on_repcached(id, handle, now),
                Event::Log(line) => self.log(line),
                Event::CopyDone { .. } => {
                    if self.links[&id].role == Role::Connector {
                        self.log("replication: start");
                    }
                    self.copied(id, now);
                }
                Event::Linked { node, have, told, early } => {
                    self.on_linked(id, node, (have, told), early);
                }
                Event::Unlinked { node, since } => self.on_unlinked(id, node, since, now),
                Event::Hope(hope) => self.on_hope(id, hope),
                Event::Closed(reason) => self.on_closed(id, reason, now),
            }
        }
        self.watch_deletes(handle);
        any
    }

    fn refuse(&mut self, id: LinkId, bye: Bye) {
        if let Some(session) = self.session_mut(id) {
            session.refuse(bye);
        }
    }

    /// The peer has said who it is: some links need not go on to a hello.
    fn on_line(&mut self, id: LinkId, peer: NodeId, now: Now) {
        self.make_room(id);
        if peer == self.config.id {
            return self.refuse(id, Bye::Itself);
        }
        let mesh = self.introduction(peer, id);
        if let Some(session) = self.session_mut(id) {
            session.introduce(mesh);
        }
        let Some(target) = self.links[&id].target else { return };
        // Linked, or about to be by another name of the same node.
        let twin = self.links.iter().any(|(&other, link)| {
            let ours = link.role == Role::Connector && !link.is_live();
            other != id
                && link.peer() == Some(peer)
                && (ours || (link.is_live() && !self.is_suspect(link, now)))
        });
        if twin {
            self.targets[target].known = Some(peer);
            return self.refuse(id, Bye::Duplicate);
        }
        let pass = self.pass_for(peer);
        if let (Some(pass), Some(session)) = (pass, self.session_mut(id)) {
            session.show(pass);
        }
    }

    /// Decides whether a link may live.
    fn on_hello(&mut self, id: LinkId, hello: &Hello, handle: &mut Handle, now: Now) {
        let role = self.links[&id].role;
        self.displace_text(id, handle, now);
        let twin = self.live().find(|(_, link)| link.peer() == Some(hello.id));
        if let Some((old, link)) = twin {
            let crossed =
                link.role != role && link.live_us.is_some_and(|at| now.mono_us - at < CROSSED_US);
            let ours_stays = self.config.id < hello.id;
            let new_is_ours = role == Role::Connector;
            if crossed && ours_stays != new_is_ours {
                return self.refuse(id, Bye::Duplicate);
            }
            if crossed {
                self.refuse(old, Bye::Duplicate);
                self.pump(old, handle, now);
            } else if self.may_replace(old, id, now) {
                self.on_lost(old, "the peer has made a new connection", handle, now);
            } else {
                return self.refuse(id, Bye::Duplicate);
            }
        } else if !hello.cold && self.has_better(role) {
            return self.refuse(id, Bye::Filling);
        } else if self.live().count() >= self.places_for(id) {
            let gives_way = |link: &Link| self.is_suspect(link, now) && self.may_oust(id, link);
            let suspect = self.live().find(|(_, link)| gives_way(link));
            match suspect.map(|(id, _)| id) {
                Some(old) => self.on_lost(old, "silent, and another node is here", handle, now),
                None => {
                    let news = self.refused != Some(hello.id);
                    if role == Role::Listener && news {
                        self.refused = Some(hello.id);
                        self.log("replication: already connected");
                    }
                    return self.refuse(id, Bye::AlreadyConnected);
                }
            }
        }
        self.accept(id, hello, handle, now);
    }

    fn accept(&mut self, id: LinkId, hello: &Hello, handle: &mut Handle, now: Now) {
        let memory = self.records.resume(hello.id);
        let (agreed, all) = self.agreed_with(hello.id, memory.debt, handle);
        let filler = self.filler_debt(hello.mesh.and_then(|mesh| mesh.filler));
        let footing = Footing {
            since: memory.since,
            via: memory.via,
            all,
            agreed,
            debt: memory.debt,
            known: memory.met,
            filler,
            covered: self.covered,
        };
        let mesh = self.introduction(hello.id, id);
        let Some(link) = self.links.get_mut(&id) else { return };
        link.live_us = Some(now.mono_us);
        link.speaks_mesh = hello.mesh.is_some();
        link.basis = filler.map(|(filler, _)| filler).filter(|_| !memory.met);
        link.hope = match hello.mesh {
            _ if !hello.cold => HOPE_FILLED,
            Some(mesh) => mesh.hope.max(1),
            None => HOPE_NONE,
        };
        let (target, quiet) = (link.target, link.quiet);
        self.links_made += 1;
        self.in_use = 0;
        match target {
            Some(target) => {
                self.targets[target].linked(hello.id);
                self.complaints.settled(Some(target));
                if quiet {
                    self.log_connect(target);
                }
            }
            None => self.log("replication: accept"),
        }
        if !self.serving && !hello.cold {
            self.fill_from(id, now);
        } else {
            self.next_target_now(now);
        }
        if let Some(session) = self.session_mut(id) {
            if session.role() == Role::Listener {
                session.introduce(mesh);
            }
            session.start(hello, footing, handle, now);
            let said = session.introduced().hope;
            self.links.entry(id).and_modify(|link| link.hope_said = said);
        }
        self.gossip(now);
    }

    fn on_closed(&mut self, id: LinkId, reason: CloseReason, now: Now) {
        let Some(mut link) = self.links.remove(&id) else { return };
        let Some(mut session) = link.session.take() else { return };
        self.actions.push_back(Action::Close { link: id, last: session.last_words() });
        let swapped = matches!(
            reason,
            CloseReason::Bye(Bye::Duplicate) | CloseReason::Refused(Bye::Duplicate)
        );
        if link.is_live() {
            self.last_error = reason.to_string();
            self.errors.note(session.peer(), &self.last_error);
            if let Some(target) = link.text {
                self.targets[target].text = session.told_text();
            }
            if let Some(peer) = session.peer() {
                self.records.remember(peer, &session.reached(), now);
                self.remember_agreed(peer, session.agreed(), session.has_missed(), now);
                self.keep_pass(peer, session.pass_told());
            }
            if !swapped {
                self.log("replication: close");
                self.listen_wait_us = LISTEN_RETRY_FIRST_US;
                if !self.stopping && !self.is_linked() {
                    self.listen(true);
                }
            }
            self.broke(&link, session.peer(), now);
        }
        if self.filling == Some(id) {
            self.filling = None;
            self.tell_filled(id, &link.claims, now);
            self.next_target_now(now);
        }
        link.session = Some(session);
        self.lost_claims(&link, now);
        self.strays += u64::from(link.role == Role::Listener && !link.is_live());
        if let CloseReason::Secret(why) = reason {
            self.on_distrust(&link, why, now);
        }
        if link.role == Role::Connector {
            let outcome = match &reason {
                CloseReason::Lost(_) | CloseReason::Bye(Bye::Other(_)) => Outcome::Broken,
                CloseReason::Bye(Bye::AlreadyConnected) => Outcome::Refused,
                CloseReason::Refused(Bye::Itself) | CloseReason::Bye(Bye::Itself) => {
                    Outcome::Itself
                }
                _ if swapped => Outcome::Duplicate,
                CloseReason::Bye(Bye::Stopping) => Outcome::Nobody,
                _ => Outcome::Useless,
            };
            self.dial_ended(&link, outcome, &reason.to_string(), now);
        }
        self.maybe_serve();
    }

    /// A live link has ended: its target is tried again soon.
    fn broke(&mut self, link: &Link, peer: Option<NodeId>, now: Now) {
        let lived = link.live_us.is_some_and(|at| now.mono_us - at >= LIVED_US);
        let random = self.random();
        let is_it = |at: usize, target: &Target| {
            link.target == Some(at) || (peer.is_some() && target.known == peer)
        };
        // Where no target is known to be the peer any of them may be.
        let any = !self.targets.iter().enumerate().any(|(at, target)| is_it(at, target));
        for (at, target) in self.targets.iter_mut().enumerate() {
            if any || is_it(at, target) {
                target.broke(lived, now.mono_us, random);
            }
        }
    }

    /// A try to link as connector is over, or the link that came of it.
    pub(super) fn dial_ended(&mut self, link: &Link, outcome: Outcome, why: &str, now: Now) {
        let Some(at) = link.target else { return };
        let random = self.random();
        let was_itself = self.targets[at].itself;
        let target = &mut self.targets[at];
        target.ended(outcome, now.mono_us, random);
        target.last_error = why.to_owned();
        if outcome == Outcome::Itself && !was_itself {
            // Not for the usual log: on a shared host the node that holds the port meets itself.
            let line = format!("replication: {} is this node itself", target.name);
            self.actions.push_back(Action::Debug(line));
        }
        self.next_target_now(now);
        if !link.quiet && !link.is_live() {
            self.log("replication: close");
            if self.filling.is_none() {
                let first_tries = self.links.values().any(|l| !l.quiet && !l.is_live());
                let last = !first_tries && (self.serving || self.next_untried().is_none());
                self.listen(last && !self.is_linked());
            }
        }
    }

    /// Whether clients may come.
    pub fn is_serving(&self) -> bool {
        self.serving
    }

    /// The process is about to end: no new links; what is queued is still sent.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Whether every linked peer has acknowledged everything.
    pub fn is_settled(&self) -> bool {
        self.live().all(|(_, link)| link.session.as_ref().is_none_or(Session::is_settled))
    }

    /// The process ends: says good-bye on all links.
    pub fn finish(&mut self, handle: &mut Handle, now: Now) {
        self.stopping = true;
        let linked = self.is_linked();
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            self.refuse(id, Bye::Stopping);
            self.pump(id, handle, now);
        }
        if !linked {
            self.log("replication: close");
        }
        self.log("replication: cleanup complete");
    }
}
