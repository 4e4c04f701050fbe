//! The node: whom to dial and when, which links live, what the log says, when clients may come.
//!
//! Owns the links (one [`Session`] each), the targets named by `-x` and the memory of peers. Never
//! opens a socket: it hands out [`Action`]s and is told what became of them.
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
//! A node listens whenever it can, also while it is linked as connector, and dials quietly whenever
//! it is not linked. Both ends dialling at once settle on the link that the lower node id dialled.

use super::action::{Action, LinkId, ListenError, NodeConfig, Origin};
use super::complaints::Complaints;
use super::dial::{Outcome, Target};
use super::report::PeerErrors;
use super::secret::{Mismatch, Nonces};
use super::session::{CloseReason, Event, Session, SessionConfig};
use super::wire::native::{Bye, Hello};
use super::{NodeId, Records, Role};
use crate::base::clock::Now;
use crate::store::{Drained, Handle, Version};
use std::collections::{BTreeMap, VecDeque};

#[path = "old/links.rs"]
mod old_links;

/// Incoming connections of one [`Standing`] that wait to become links: each costs a descriptor and
/// a small buffer for as long as a handshake may take. One more takes the place of the oldest, as a
/// peer speaks at once and a stranger who waits must not keep it out.
const PENDING_MAX: usize = 16;
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
enum Listening {
    Off,
    Asked,
    On,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) role: Role,
    /// The target that was dialled.
    pub(super) target: Option<usize>,
    /// None while the connection is being made.
    pub(super) session: Option<Session>,
    /// When it went live.
    pub(super) live_us: Option<u64>,
    /// Dialled in the background: the log hears of it only when it succeeds.
    quiet: bool,
    /// The other end's address.
    pub(super) address: String,
    /// Where it came from, if it came.
    origin: Origin,
    /// The target whose repcached is at the other end.
    pub(super) text: Option<usize>,
}

/// How far an incoming connection has come that is no link yet. Those of one standing compete for
/// places with each other only: what strangers can do never takes the place of one who can do more.
type Standing = (bool, bool, bool);

impl Link {
    pub(super) fn is_live(&self) -> bool {
        self.live_us.is_some()
    }

    pub(super) fn peer(&self) -> Option<NodeId> {
        self.session.as_ref().and_then(Session::peer)
    }

    /// When the peer was last heard, monotonic microseconds.
    fn heard_us(&self) -> u64 {
        self.session.as_ref().map_or(0, Session::heard_us)
    }

    /// The standing of a connection that waits: from an address of `-x`, with a line, trusted.
    fn pending(&self) -> Option<Standing> {
        let session = self.session.as_ref()?;
        let waits = self.role == Role::Listener && !self.is_live();
        let named = self.origin != Origin::Other;
        waits.then_some((named, session.knows_line(), session.peer().is_some()))
    }
}

/// The decisions of one node.
#[derive(Debug)]
pub struct Node {
    pub(super) config: NodeConfig,
    pub(super) links: BTreeMap<LinkId, Link>,
    next_link: u64,
    pub(super) targets: Vec<Target>,
    records: Records,
    actions: VecDeque<Action>,
    listening: Listening,
    listen_retry_us: Option<u64>,
    /// How long the next wait will be.
    listen_wait_us: u64,
    /// Say `listen` when the port is open.
    listen_log: bool,
    in_use: u32,
    listen_error: String,
    serving: bool,
    filled: bool,
    stopping: bool,
    covered: Version,
    random: u64,
    pub(super) last_error: String,
    pub(super) errors: PeerErrors,
    pub(super) links_made: u64,
    /// Who was told "already connected" last: it will ask again each second, the log hears once.
    refused: Option<NodeId>,
    nonces: Nonces,
    complaints: Complaints,
    /// Incoming connections that ended before they were links.
    pub(super) strays: u64,
    /// Of these and of those we made: links that ended for want of the same secret.
    pub(super) distrusted: u64,
}

impl Node {
    /// A node that starts: dials its peers, or listens where it has none.
    pub fn new(config: NodeConfig) -> Node {
        let targets = config.peers.iter().cloned().map(Target::new).collect();
        let mut node = Node {
            records: Records::new(config.resume_us),
            random: config.seed | 1,
            nonces: Nonces::new(config.nonce_key),
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
            stopping: false,
            covered: Version(0),
            last_error: String::new(),
            errors: PeerErrors::default(),
            links_made: 0,
            refused: None,
            complaints: Complaints::default(),
            strays: 0,
            distrusted: 0,
        };
        for target in 0..node.targets.len() {
            node.log_connect(target);
            node.dial(target, false, 0);
        }
        if node.targets.is_empty() {
            node.listen(true);
        }
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
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    fn dial(&mut self, target: usize, quiet: bool, now_us: u64) {
        let id = self.add_link(Link {
            role: Role::Connector,
            target: Some(target),
            session: None,
            live_us: None,
            quiet,
            address: self.targets[target].name.clone(),
            origin: Origin::Peer(target),
            text: None,
        });
        self.targets[target].dialing = Some(id);
        self.targets[target].begins(now_us);
        let config = &self.config;
        let timeout_us = if quiet { config.dial_again_us() } else { config.dial_first_us() };
        self.actions.push_back(Action::Dial { link: id, peer: target, timeout_us });
    }

    fn add_link(&mut self, link: Link) -> LinkId {
        let id = LinkId(self.next_link);
        self.next_link += 1;
        self.links.insert(id, link);
        id
    }

    /// Opens the port, or says that it is open already.
    fn listen(&mut self, log: bool) {
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
        }
    }

    /// A connection came in from an address that may connect. `None`: close it at once.
    pub fn on_accepted(&mut self, address: String, from: Origin, now: Now) -> Option<LinkId> {
        if self.stopping {
            return None;
        }
        let config = self.session_config();
        let link = self.add_link(Link {
            role: Role::Listener,
            target: None,
            session: Some(Session::new(Role::Listener, config, now)),
            live_us: None,
            quiet: true,
            address,
            origin: from,
            text: None,
        });
        self.make_room(link);
        Some(link)
    }

    /// Where too many connections of one standing wait, the oldest gives way to this one.
    fn make_room(&mut self, newcomer: LinkId) {
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

    fn session_config(&mut self) -> SessionConfig {
        let secret = self.config.secret.clone();
        SessionConfig {
            id: self.config.id,
            cold: !self.serving,
            queue_max: self.config.queue_max,
            heartbeat_us: self.config.heartbeat_us,
            silence_us: self.config.silence_us,
            relay: self.targets.len() > 1,
            auth: secret.map(|secret| (secret, self.nonces.draw())),
        }
    }

    /// Bytes came in.
    pub fn on_bytes(&mut self, link: LinkId, bytes: &[u8], handle: &mut Handle, now: Now) {
        let Some(session) = self.session_mut(link) else { return };
        let knew = session.knows_line();
        session.handle_bytes(bytes, handle, now);
        let news = session.knows_line() != knew;
        let relays = session.take_relays();
        if !relays.is_empty() {
            let linked: Vec<NodeId> = self.live().filter_map(|(_, l)| l.peer()).collect();
            for (hash, version) in relays {
                for (_, other) in self.links.iter_mut().filter(|(&id, _)| id != link) {
                    if let Some(session) = &mut other.session {
                        session.push_relay(hash, version, now);
                    }
                }
                self.records.owe_all_but(&linked, version);
            }
        }
        self.pump(link, handle, now);
        if news {
            self.make_room(link);
        }
    }

    /// A connection broke or was closed by the other end.
    pub fn on_lost(&mut self, link: LinkId, why: &str, handle: &mut Handle, now: Now) {
        if let Some(session) = self.session_mut(link) {
            session.lost(why);
            self.pump(link, handle, now);
        }
    }

    /// What was drained from the feeds.
    pub fn on_feed(&mut self, hashes: &[u64], drained: Drained, now: Now) {
        self.covered = self.covered.max(drained.upto);
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

    fn is_suspect(&self, link: &Link, now: Now) -> bool {
        // A repcached has no heartbeats.
        let silent_us = now.mono_us.saturating_sub(link.heard_us());
        link.text.is_none() && silent_us >= self.config.suspect_us()
    }

    pub(super) fn live(&self) -> impl Iterator<Item = (LinkId, &Link)> {
        self.links.iter().filter(|(_, link)| link.is_live()).map(|(&id, link)| (id, link))
    }

    /// Whether any link is live.
    pub fn is_linked(&self) -> bool {
        self.live().next().is_some()
    }

    /// Links that may be live at once: one per peer named.
    fn links_max(&self) -> usize {
        self.targets.len().max(1)
    }

    /// When [`Node::on_timeout`] wants to be called, monotonic microseconds.
    pub fn next_timeout(&self) -> Option<u64> {
        let sessions = self.links.values().filter_map(|l| l.session.as_ref()?.next_timeout());
        let dials = (0..self.targets.len()).filter_map(|target| self.dial_due(target));
        let listen = self.listen_retry_us.filter(|_| !self.is_linked() && !self.stopping);
        let mute = self.mute_due().map(|(due, ..)| due);
        sessions.chain(dials).chain(listen).chain(mute).min()
    }

    /// When a target is to be dialled: when its time has come and it is not linked, or when its
    /// linked peer has become suspect.
    fn dial_due(&self, target: usize) -> Option<u64> {
        let Target { dialing: None, known, next_us, .. } = self.targets[target] else {
            return None;
        };
        if self.stopping || self.is_dialled_text(target) {
            return None;
        }
        let suspect_us = self.config.suspect_us();
        let only = self.targets.len() == 1;
        let mut live = self.live();
        let linked = live.find(|(_, link)| only || (known.is_some() && link.peer() == known));
        Some(linked.map_or(next_us, |(_, link)| next_us.max(link.heard_us() + suspect_us)))
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
        for target in 0..self.targets.len() {
            if self.dial_due(target).is_some_and(|due| now.mono_us >= due) {
                self.dial(target, true, now.mono_us);
            }
        }
        let retry = self.listen_retry_us.is_some_and(|at| now.mono_us >= at);
        if retry && !self.is_linked() && !self.stopping {
            self.listen(false);
        }
    }

    /// Works through what a session reports.
    fn pump(&mut self, id: LinkId, handle: &mut Handle, now: Now) {
        while let Some(event) = self.session_mut(id).and_then(Session::poll_event) {
            match event {
                Event::Line(peer) => self.on_line(id, peer, now),
                Event::Hello(hello) => self.on_hello(id, &hello, handle, now),
                Event::Repcached => self.on_repcached(id, handle, now),
                Event::Log(line) => self.log(line),
                Event::CopyDone { .. } => {
                    if self.links[&id].role == Role::Connector {
                        self.log("replication: start");
                    }
                    self.filled = true;
                    self.maybe_serve();
                }
                Event::Closed(reason) => self.on_closed(id, reason, now),
            }
        }
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
        let Some(target) = self.links[&id].target else { return };
        if self.live().any(|(_, link)| link.peer() == Some(peer) && !self.is_suspect(link, now)) {
            self.targets[target].known = Some(peer);
            self.refuse(id, Bye::Duplicate);
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
            } else {
                self.on_lost(old, "the peer has made a new connection", handle, now);
            }
        } else if self.live().count() >= self.links_max() {
            let suspect = self.live().find(|(_, link)| self.is_suspect(link, now));
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
        let (since, debt) = self.records.resume(hello.id, now);
        let covered = self.covered;
        let Some(link) = self.links.get_mut(&id) else { return };
        link.live_us = Some(now.mono_us);
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
        if self.listening == Listening::Off {
            self.listen(false);
        }
        if let Some(session) = self.session_mut(id) {
            session.start(hello, since, debt, covered, handle, now);
        }
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
            if let Some(target) = link.text {
                self.targets[target].text = session.told();
            }
            self.errors.note(session.peer(), &self.last_error);
            if let Some(peer) = session.peer() {
                self.records.remember(peer, session.have(), session.debt(), now);
            }
            if !swapped {
                self.log("replication: close");
                self.listen_wait_us = LISTEN_RETRY_FIRST_US;
                if !self.stopping {
                    self.listen(true);
                }
            }
            let lived = link.live_us.is_some_and(|at| now.mono_us - at >= LIVED_US);
            let random = self.random();
            for target in &mut self.targets {
                target.broke(lived, now.mono_us, random);
            }
        }
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

    /// The two ends of a link do not know the same secret.
    fn on_distrust(&mut self, link: &Link, why: Mismatch, now: Now) {
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

    /// A try to link as connector is over, or the link that came of it.
    fn dial_ended(&mut self, link: &Link, outcome: Outcome, why: &str, now: Now) {
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
        if !link.quiet && !link.is_live() {
            self.log("replication: close");
            self.listen(true);
        }
    }

    /// Clients may come when this node is filled, or when there is nobody to fill it.
    fn maybe_serve(&mut self) {
        if self.serving || self.stopping {
            return;
        }
        let filling = self.live().any(|(_, link)| {
            link.role == Role::Connector && !link.session.as_ref().is_some_and(Session::is_filled)
        });
        let hopeless = self.targets.iter().all(|target| target.hopeless);
        let alone = hopeless && !filling && self.listening != Listening::Asked;
        if self.filled || alone {
            self.serving = true;
            self.actions.push_back(Action::Serve);
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
