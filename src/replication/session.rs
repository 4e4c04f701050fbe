//! One link: bytes in, bytes out, timers.
//!
//! Owns the conversation with one peer, from the opening line to the last frame. Never decides
//! whether the link should be: it reports the line and the hello and goes on when the owner says
//! [`Session::start`]. Never blocks, and buffers no more output than it is asked for.
//!
//! ```text
//!   Opening --line--> (Proving --proof-->) Greeting --hello--> Vetting --start()--> Live
//!      |                 |                    |                   |                   |
//!      +-----------------+--------------------+- fail, Bye, silence, refuse() --------+-> Closed
//!
//!   connector                          listener
//!     line                     ->
//!                              <-      line                       only to a line it knows
//!     proof                    ->                                 where there is a secret;
//!                              <-      proof                      nothing else counts before
//!     hello                    ->
//!                              <-      hello, want(since)         its consent
//!     want(since)              ->
//!     linked...                <->     linked...                  who else is linked to whom
//!     copy of what is wanted  <->      copy of what is wanted     both directions at once,
//!     changes, marks, acks    <->      changes, marks, acks       changes from the first moment
//! ```

use super::conflict::Incoming;
use super::events::{bye_text, CloseReason, Event, Footing, Relays, SessionConfig, SessionStats};
use super::handshake::Reached;
use super::old::TextSession;
use super::outgoing::Outgoing;
use super::progress::Receiving;
use super::quorum::Applied;
use super::secret::{End, Gate, Nonce, Proof};
use super::stream::{Debt, Stream};
use super::wire::line;
use super::wire::native::{self, Bye, Frame, Hello, Mesh, WireError};
use super::{NodeId, Role};
use crate::base::buf::Buf;
use crate::base::clock::Now;
use crate::store::{Drained, FlushState, Handle, Told, Version};
use std::collections::{BTreeMap, VecDeque};

/// Longest time from a connection to a hello that is accepted, whatever comes in between: who is
/// slower than that is no peer, and must not hold a place. With a shorter `repl_timeout` it is
/// that, but no less than [`HANDSHAKE_MIN_US`].
const HANDSHAKE_MAX_US: u64 = 5_000_000;
/// Shortest such time: a few round trips and a busy moment of either machine.
const HANDSHAKE_MIN_US: u64 = 1_000_000;
/// Longest payload of a frame before the link lives: a hello with room for what later versions
/// append. A stranger cannot make us hold more.
const EARLY_FRAME_MAX: u32 = 1024;
#[path = "feeding.rs"]
mod feeding;
#[path = "old/takeover.rs"]
mod takeover;

/// An emptied input buffer larger than this is given back.
const KEEP_INPUT: usize = 16 * 1024;

/// What is to be said about a third node: first that it is not answered for, then that it is.
#[derive(Clone, Copy, Debug, Default)]
struct Gossip {
    unlinked: Option<Version>,
    linked: Option<(Version, Version)>,
}

/// Third nodes that may be talked about and have not been yet: more than a node can know.
const GOSSIP_MAX: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Opening,
    Proving,
    Greeting,
    Vetting,
    Live,
    Closed,
}

/// The state machine of one link.
#[derive(Debug)]
pub struct Session {
    pub(super) config: SessionConfig,
    pub(super) role: Role,
    pub(super) state: State,
    input: Buf,
    pub(super) events: VecDeque<Event>,
    pub(super) peer: Option<NodeId>,
    /// The peer has sent a line: it knows frames.
    pub(super) knows_frames: bool,
    pub(super) gate: Option<Gate>,
    begun_us: u64,
    /// Monotonic times of the last received and the last sent byte.
    heard_us: u64,
    said_us: u64,
    // What is to be said next; each at most once, so that control never queues up.
    pub(super) line_due: bool,
    pub(super) proof_due: Option<Proof>,
    pub(super) hello_due: bool,
    /// A pass to show before our hello, or to tell once the link lives.
    pub(super) pass_due: Option<Nonce>,
    /// What the peer has told, and what it has shown.
    pub(super) pass_told: Option<Nonce>,
    pub(super) shown: Option<Nonce>,
    mesh: Mesh,
    want_due: Option<(Version, Option<NodeId>)>,
    gossip_due: BTreeMap<NodeId, Gossip>,
    hope_due: Option<u8>,
    ack_due: Option<Version>,
    ping_due: bool,
    bye_due: Option<(Bye, String)>,
    flush_said: Option<FlushState>,
    // Outgoing changes.
    footing: Footing,
    outgoing: Outgoing,
    // Incoming changes.
    incoming: Incoming,
    have: Version,
    filling_full: bool,
    missed: bool,
    /// Something was to be told that others had answered for, since the last look.
    caught_up: bool,
    receiving: Receiving,
    copy_begun: bool,
    copy_done: bool,
    /// Whether others are to hear of what wins here, key by key.
    relay: bool,
    relays: Relays,
    peer_newest: Version,
    stats: SessionStats,
    /// The rest of the conversation, where the other end is a repcached: nothing here is live then.
    text: Option<Box<TextSession>>,
}

impl Session {
    /// A link that was just made.
    pub fn new(role: Role, config: SessionConfig, now: Now) -> Session {
        let gate = config.auth.clone().map(|(secret, nonce)| {
            let ours = End { id: config.id, nonce };
            Gate::new(secret, role, ours)
        });
        Session {
            role,
            state: State::Opening,
            input: Buf::new(),
            events: VecDeque::new(),
            peer: None,
            knows_frames: false,
            gate,
            begun_us: now.mono_us,
            heard_us: now.mono_us,
            said_us: now.mono_us,
            line_due: role == Role::Connector,
            proof_due: None,
            hello_due: false,
            pass_due: None,
            pass_told: None,
            shown: None,
            mesh: Mesh { made: Version(0), filler: None, hope: native::HOPE_NONE },
            want_due: None,
            gossip_due: BTreeMap::new(),
            hope_due: None,
            ack_due: None,
            ping_due: false,
            bye_due: None,
            flush_said: None,
            footing: Footing::default(),
            outgoing: Outgoing::new(role, config.queue_max, Version(0)),
            incoming: Incoming::default(),
            have: Version(0),
            filling_full: false,
            missed: false,
            caught_up: false,
            receiving: Receiving::default(),
            copy_begun: false,
            copy_done: false,
            relay: true,
            relays: Relays::default(),
            peer_newest: Version(0),
            stats: SessionStats::default(),
            text: None,
            config,
        }
    }

    /// Which end this is.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The peer, once its line has come, and its proof where there is a secret.
    pub fn peer(&self) -> Option<NodeId> {
        self.peer
    }

    /// Whether the peer has sent a line that we know, whoever it may be.
    pub fn knows_line(&self) -> bool {
        self.knows_frames
    }

    /// Whether changes flow, in frames.
    pub fn is_live(&self) -> bool {
        self.state == State::Live
    }

    /// Whether the link is over.
    pub fn is_closed(&self) -> bool {
        self.text.as_ref().map_or(self.state == State::Closed, |text| text.is_closed())
    }

    /// When something was last heard, monotonic microseconds.
    pub fn heard_us(&self) -> u64 {
        self.heard_us
    }

    /// Takes in received bytes, in any pieces, and applies what is complete.
    pub fn handle_bytes(&mut self, bytes: &[u8], handle: &mut Handle, now: Now) {
        if self.is_closed() {
            return;
        }
        self.heard_us = now.mono_us;
        self.stats.bytes_in += bytes.len() as u64;
        if let Some(text) = &mut self.text {
            return text.handle_bytes(bytes, handle, now);
        }
        self.input.extend(bytes);
        self.advance(handle, now);
        if let Some(line) = self.receiving.line(self.incoming.tally.items, now) {
            self.log(line);
        }
    }

    /// What our hello is to say. To be called before it is sent: when the peer's line has come, or
    /// with [`Session::start`].
    pub fn introduce(&mut self, mesh: Mesh) {
        self.mesh = mesh;
    }

    /// What our hello said, or will say.
    pub fn introduced(&self) -> Mesh {
        self.mesh
    }

    /// Accepts the peer whose hello was reported.
    pub fn start(&mut self, hello: &Hello, footing: Footing, handle: &mut Handle, now: Now) {
        if self.state != State::Vetting {
            return;
        }
        self.state = State::Live;
        self.hello_due |= self.role == Role::Listener;
        self.pass_due = Some(self.config.pass);
        // Who waits to be filled wants everything.
        let filled = self.mesh.hope == native::HOPE_FILLED;
        let offered = hello.mesh.filter(|_| filled).map_or(Version(0), |mesh| mesh.made);
        let since = if footing.all { Version(0) } else { footing.since.max(offered) };
        let via = footing.via.filter(|_| since == footing.since && !footing.all);
        self.have = since;
        self.want_due = Some((since, via));
        self.peer_newest = hello.newest;
        self.footing = footing;
        self.outgoing = Outgoing::new(self.role, self.config.queue_max, footing.covered);
        self.outgoing.agreed = footing.agreed;
        // Who knows meshes is of version 1.2 or newer.
        self.outgoing.knows_told = hello.mesh.is_some();
        self.outgoing.nothing = handle.store_ref().newest() == Version(0);
        self.outgoing.stream.owe(footing.debt);
        handle.apply_flush(hello.flush, now);
        self.advance(handle, now);
    }

    /// What the peer has had of us by now.
    pub fn agreed(&self) -> Version {
        let stream = &self.outgoing.stream;
        stream.debt().lower(self.outgoing.agreed.max(stream.acked()))
    }

    /// Notes that a delete was forgotten before the peer was told of it.
    pub fn note_missed(&mut self) {
        self.missed = true;
    }

    /// Others have answered for the peer, and what they had still to tell it of deletes up to
    /// `forgotten` may be forgotten here as well: notes that, once.
    pub fn check_caught_up(&mut self, forgotten: Version) {
        if std::mem::take(&mut self.caught_up) && self.agreed() < forgotten {
            self.missed = true;
        }
    }

    /// Whether that happened.
    pub fn has_missed(&self) -> bool {
        self.missed
    }

    /// Items of the peer that were deleted here long ago and are remembered as deleted again: hash
    /// of the key, version of the delete. To be told to everybody, the peer included.
    pub fn take_buried(&mut self) -> Vec<(u64, Version)> {
        std::mem::take(&mut self.incoming.buried)
    }

    /// Deletes that are remembered here and that the peer has forgotten, to be told to it again.
    pub fn take_unheard(&mut self) -> Vec<(u64, Version)> {
        std::mem::take(&mut self.incoming.unheard)
    }

    /// Ends the link and tells the peer why.
    pub fn refuse(&mut self, bye: Bye) {
        self.close(CloseReason::Refused(bye), Some((bye, bye_text(bye).to_owned())));
    }

    /// The connection is gone.
    pub fn lost(&mut self, why: &str) {
        self.close(CloseReason::Lost(why.to_owned()), None);
    }

    pub(super) fn close(&mut self, reason: CloseReason, bye: Option<(Bye, String)>) {
        if self.is_closed() {
            return;
        }
        if let Some(text) = &mut self.text {
            return text.close(reason);
        }
        // A frame would mean nothing to a peer that has not shown that it knows frames.
        self.bye_due = bye.filter(|_| self.knows_frames);
        self.state = State::Closed;
        self.events.push_back(Event::Closed(reason));
    }

    /// What a closed link has still to say, for the owner to send where that costs no waiting.
    pub fn last_words(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some((reason, text)) = self.bye_due.take() {
            if std::mem::take(&mut self.line_due) {
                line::encode(&mut out, &self.line());
            }
            native::encode(&mut out, &Frame::Bye { reason, text: text.as_bytes() });
        }
        out
    }

    /// What is new; to be asked until there is nothing.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front().or_else(|| self.text.as_mut()?.poll_event())
    }

    fn log(&mut self, line: String) {
        self.events.push_back(Event::Log(line));
    }

    /// Works through the input as far as the state allows.
    fn advance(&mut self, handle: &mut Handle, now: Now) {
        let mut input = std::mem::take(&mut self.input);
        loop {
            let step = match self.state {
                State::Vetting | State::Closed => break,
                State::Opening => line::decode(input.data()).map(|line| {
                    line.map(|(line, used)| {
                        self.on_line(&line);
                        used
                    })
                }),
                state => {
                    let max = if state == State::Live { u32::MAX } else { EARLY_FRAME_MAX };
                    match native::decode_up_to(input.data(), max) {
                        Ok(Some((frame, used))) => {
                            self.on_frame(frame, handle, now).map(|()| Some(used))
                        }
                        Ok(None) => Ok(None),
                        Err(error) => Err(error),
                    }
                }
            };
            match step {
                Ok(Some(used)) => input.consume(used),
                Ok(None) => break,
                Err(_) if self.may_be_repcached(input.data()) => {
                    self.input = input;
                    return self.meet_repcached(now);
                }
                Err(_) if self.was_taken_for_repcached(input.data()) => {
                    let why = "the peer took this node for a repcached, it was so slow";
                    self.close(CloseReason::Lost(why.to_owned()), None);
                }
                Err(error) => {
                    let bye = (Bye::Protocol, error.to_string());
                    self.close(CloseReason::Wire(error), Some(bye));
                }
            }
        }
        input.shrink_idle(KEEP_INPUT);
        self.input = input;
    }

    fn on_frame(
        &mut self,
        frame: Frame<'_>,
        handle: &mut Handle,
        now: Now,
    ) -> Result<(), WireError> {
        if !frame.moves_clock_to().is_believable(now) {
            return Err(WireError::Future);
        }
        match self.state {
            State::Proving => return self.on_proof(frame),
            State::Greeting => return self.on_greeting(frame),
            _ => {}
        }
        match frame {
            Frame::Hello(_) => return Err(WireError::OutOfPlace { what: "a second hello" }),
            Frame::Want { since, via } => self.on_want(since, via, handle)?,
            // Once more: something was told meanwhile that this node may not have had.
            Frame::CopyBegin { agreed, .. } if self.copy_begun => {
                self.incoming.agreed = self.incoming.agreed.min(agreed);
            }
            Frame::CopyBegin { full, items, agreed } => {
                self.copy_begun = true;
                self.incoming.agreed = if full { agreed } else { Version(0) };
                self.filling_full = full;
                self.receiving.begin(items, self.incoming.tally.items, now);
                self.stats.copies_in += u64::from(full);
                self.stats.resumes += u64::from(!full);
            }
            Frame::CopyEnd { .. } => {
                self.receiving.end();
                // What comes from here on is news.
                self.incoming.agreed = Version(0);
                if !std::mem::replace(&mut self.copy_done, true) {
                    self.events.push_back(Event::CopyDone { full: self.filling_full });
                }
            }
            Frame::Item { head, value } => {
                if self.incoming.item(&head, value, handle, now) {
                    self.relay(head.key, head.version, true, handle);
                }
            }
            Frame::Told(bytes) => self.on_told(bytes, handle, now)?,
            Frame::Large { head, len } => self.incoming.large(&head, len, handle, now)?,
            Frame::Part(bytes) => {
                if let Some((key, version)) = self.incoming.part(bytes, handle, now)? {
                    self.relay(&key, version, true, handle);
                }
            }
            Frame::Deleted { key, version } => {
                if self.incoming.deleted(key, version, handle, now) {
                    self.relay(key, version, false, handle);
                }
            }
            Frame::Flush(flush) => {
                handle.apply_flush(flush, now);
            }
            Frame::Mark { upto } => {
                self.have = self.have.max(upto);
                self.ack_due = Some(upto);
                self.peer_newest = self.peer_newest.max(upto);
            }
            Frame::Ack { upto } => {
                self.outgoing.stream.ack(upto);
            }
            Frame::Ping { newest } => self.peer_newest = self.peer_newest.max(newest),
            Frame::Linked { node, have, told } => {
                let early = !self.copy_begun;
                self.events.push_back(Event::Linked { node, have, told, early });
            }
            Frame::Unlinked { node, since } => {
                self.events.push_back(Event::Unlinked { node, since });
            }
            Frame::Hope(hope) => self.events.push_back(Event::Hope(hope)),
            Frame::Bye { reason, .. } => self.on_bye(reason),
            Frame::Pass(pass) => self.pass_told = Some(pass),
            Frame::Proof(_) => return Err(WireError::OutOfPlace { what: "a proof too late" }),
            Frame::Unknown(_) => {}
        }
        Ok(())
    }

    fn on_want(
        &mut self,
        since: Version,
        via: Option<NodeId>,
        handle: &Handle,
    ) -> Result<(), WireError> {
        // A peer can only have what we have made: a mark beyond that is of nobody we were.
        let since = if since > handle.store_ref().newest() { Version(0) } else { since };
        let since = match (via, self.footing.filler) {
            // What it has came by a node that we were linked to, and may lack what that one lacks.
            (Some(via), Some((filler, debt))) if via == filler => {
                self.outgoing.stream.owe(debt);
                since
            }
            (None, _) if self.footing.known => since,
            // Nothing is known of what we owe it, but for what we offered ourselves.
            _ => since.min(self.mesh.made),
        };
        if self.outgoing.want(since) {
            Ok(())
        } else {
            Err(WireError::OutOfPlace { what: "its wishes twice" })
        }
    }

    fn relay(&mut self, key: &[u8], version: Version, item: bool, handle: &Handle) {
        let lower = |low: Option<Version>| Some(low.map_or(version, |low| low.min(version)));
        self.relays.lowest = lower(self.relays.lowest);
        if self.relay {
            if item {
                self.relays.lowest_item = lower(self.relays.lowest_item);
            }
            self.relays.changes.push((handle.hash(key), version));
        }
    }

    /// What the peer has of us, so that others need to tell it only what is newer, should this link
    /// end. None while that would be everything.
    pub fn told(&self) -> Option<Version> {
        self.outgoing.told()
    }

    /// Says that this node answers for a third one.
    pub fn say_linked(&mut self, node: NodeId, have: Version, told: Version) {
        if self.gossip_due.len() < GOSSIP_MAX {
            self.gossip_due.entry(node).or_default().linked = Some((have, told));
        }
    }

    /// Says that it does not any more.
    pub fn say_unlinked(&mut self, node: NodeId, since: Version) {
        if self.gossip_due.len() < GOSSIP_MAX || self.gossip_due.contains_key(&node) {
            let gossip = self.gossip_due.entry(node).or_default();
            gossip.linked = None;
            gossip.unlinked = Some(gossip.unlinked.map_or(since, |said| said.min(since)));
        }
    }

    /// Says how far from being filled this node is. That it is filled is said behind all changes
    /// that wait.
    pub fn say_hope(&mut self, hope: u8) {
        if hope == native::HOPE_FILLED {
            self.hope_due = None;
            self.outgoing.say_filled();
        } else {
            self.hope_due = Some(hope);
        }
    }

    /// When the link is given up: for silence, or because it came to nothing.
    fn silent_at_us(&self) -> u64 {
        if self.is_live() {
            return self.heard_us + self.config.silence_us;
        }
        self.begun_us + self.config.silence_us.clamp(HANDSHAKE_MIN_US, HANDSHAKE_MAX_US)
    }

    /// When [`Session::handle_timeout`] wants to be called, monotonic microseconds.
    pub fn next_timeout(&self) -> Option<u64> {
        if self.is_closed() {
            return None;
        }
        if let Some(text) = &self.text {
            return text.next_timeout();
        }
        let silent = self.silent_at_us();
        let speak = self.said_us + self.config.heartbeat_us;
        let speak = (self.is_live() && !self.ping_due).then_some(speak);
        let due = self.outgoing.next_timeout().filter(|_| self.is_live());
        speak.into_iter().chain(due).chain([silent]).min()
    }

    /// Looks at the time: drops a silent peer, owes a heartbeat.
    pub fn handle_timeout(&mut self, now: Now) {
        if let Some(text) = &mut self.text {
            return text.handle_timeout(now);
        }
        if now.mono_us >= self.silent_at_us() {
            let silent = now.mono_us.saturating_sub(self.heard_us);
            self.close(CloseReason::Silent(silent), None);
        }
        if !self.is_live() {
            return;
        }
        if now.mono_us.saturating_sub(self.said_us) >= self.config.heartbeat_us {
            self.ping_due = true;
            self.outgoing.shrink();
        }
        self.outgoing.handle_timeout(now);
    }

    /// Appends what is to be sent now, until `out` holds about `limit` bytes (the last step may add
    /// a little more, see `copy`). Control frames come first, so that a heartbeat waits for no more
    /// than what is in `out` already.
    pub fn poll_transmit(
        &mut self,
        out: &mut Vec<u8>,
        limit: usize,
        handle: &mut Handle,
        now: Now,
    ) {
        if self.is_closed() {
            return;
        }
        let before = out.len();
        self.transmit_control(out, handle, now);
        if let Some(text) = &mut self.text {
            text.poll_transmit(out, limit, handle, now);
        } else if self.is_live() {
            self.outgoing.transmit(out, limit, handle, now);
            while let Some(line) = self.outgoing.lines.pop_front() {
                self.log(line);
            }
        }
        if out.len() > before {
            self.said_us = now.mono_us;
            self.stats.bytes_out += (out.len() - before) as u64;
        }
    }

    fn transmit_pass(&mut self, out: &mut Vec<u8>) {
        if let Some(pass) = self.pass_due.take() {
            native::encode(out, &Frame::Pass(pass));
        }
    }

    fn transmit_control(&mut self, out: &mut Vec<u8>, handle: &Handle, now: Now) {
        let store = handle.store_ref();
        if std::mem::take(&mut self.line_due) {
            line::encode(out, &self.line());
        }
        if let Some(proof) = self.proof_due.take() {
            native::encode(out, &Frame::Proof(proof));
        }
        if !self.is_live() {
            // Shown before the hello, which it speaks for.
            self.transmit_pass(out);
        }
        if std::mem::take(&mut self.hello_due) {
            let flush = store.flush_state();
            self.flush_said = Some(flush);
            native::encode(
                out,
                &Frame::Hello(Hello {
                    id: self.config.id,
                    newest: store.newest(),
                    cold: self.mesh.hope != native::HOPE_FILLED,
                    unix_us: now.unix_us,
                    flush,
                    mesh: Some(self.mesh),
                }),
            );
        }
        // Told behind the hello: nothing may come before it.
        self.transmit_pass(out);
        if let Some((since, via)) = self.want_due.take() {
            native::encode(out, &Frame::Want { since, via });
        }
        if self.is_live() {
            self.transmit_gossip(out);
            let flush = store.flush_state();
            if self.flush_said != Some(flush) {
                self.flush_said = Some(flush);
                native::encode(out, &Frame::Flush(flush));
            }
        }
        if let Some(upto) = self.ack_due.take() {
            native::encode(out, &Frame::Ack { upto });
        }
        if std::mem::take(&mut self.ping_due) {
            native::encode(out, &Frame::Ping { newest: store.newest() });
        }
    }

    fn transmit_gossip(&mut self, out: &mut Vec<u8>) {
        for (node, gossip) in std::mem::take(&mut self.gossip_due) {
            if let Some(since) = gossip.unlinked {
                native::encode(out, &Frame::Unlinked { node, since });
            }
            if let Some((have, told)) = gossip.linked {
                native::encode(out, &Frame::Linked { node, have, told });
            }
        }
        if let Some(hope) = self.hope_due.take() {
            native::encode(out, &Frame::Hope(hope));
        }
    }

    /// Whether there is more to send than was asked for last time: changes, a copy under way.
    pub fn has_more(&self) -> bool {
        let more = || self.is_live() && self.outgoing.has_more();
        self.text.as_ref().map_or_else(more, |text| text.has_more())
    }

    /// Whether the peer has acknowledged everything that was changed here. A repcached never does:
    /// whether it has been told.
    pub fn is_settled(&self) -> bool {
        let settled = || self.outgoing.is_settled();
        self.text.as_ref().map_or_else(settled, |text| text.is_settled())
    }

    /// The peer's last mark: all that it made up to there is applied here.
    pub fn have(&self) -> Version {
        self.have
    }

    /// Changes sent so far.
    pub fn sent(&self) -> u64 {
        self.outgoing.sender.items + self.outgoing.sender.deletes
    }

    /// Our last mark that the peer acknowledged.
    pub fn acked(&self) -> Version {
        self.outgoing.stream.acked()
    }

    /// What is to be remembered of the peer when the link ends.
    pub fn reached(&self) -> Reached {
        Reached {
            have: self.have,
            via: self.footing.via.filter(|_| !self.copy_done),
            debt: self.debt(),
            told: self.told(),
            met: self.outgoing.is_wanted(),
        }
    }

    /// Clients wait for the peer's acknowledgement of what was changed here up to `wanted`.
    pub fn hurry(&mut self, wanted: Version) {
        self.outgoing.stream.hurry(wanted);
    }

    /// What the peer has for certain. None where it acknowledges nothing (yet).
    pub fn applied(&self) -> Option<Applied> {
        let late_us = self.outgoing.late_since().filter(|_| self.is_live())?;
        let (upto, from, live) = self.outgoing.stream.applied();
        let live = if live > upto { (from, live) } else { (Version(0), upto) };
        Some(Applied { upto, live, late_us })
    }

    /// What the peer may lack of other nodes' changes although it acknowledged higher ones.
    pub fn debt(&self) -> Debt {
        self.outgoing.stream.debt()
    }

    /// The outgoing queue.
    pub fn stream(&self) -> &Stream {
        self.text.as_ref().map_or(&self.outgoing.stream, |text| text.stream())
    }

    /// Whether all that we wanted at the start has come.
    pub fn is_copied(&self) -> bool {
        self.text.as_ref().map_or(self.copy_done, |text| text.is_filled())
    }

    /// Whether a copy goes either way, or a scan that catches up: more work than clients make.
    pub fn is_copying(&self) -> bool {
        let copying = || self.is_live() && (self.outgoing.is_scanning() || !self.copy_done);
        self.text.as_ref().map_or_else(copying, |text| text.is_copying())
    }

    /// How far the copy that we send is, in millionths; a million when none is under way.
    pub fn copy_progress(&self) -> u32 {
        self.text.as_ref().map_or(self.outgoing.progress(), |text| text.copy_progress())
    }

    /// How far the copy that we receive is, in millionths; a million when none is under way.
    pub fn receive_progress(&self) -> u32 {
        self.receiving.done(self.incoming.tally.items)
    }

    /// The newest version the peer has told of.
    pub fn peer_newest(&self) -> Version {
        self.peer_newest
    }

    /// Figures so far.
    pub fn stats(&self) -> SessionStats {
        if let Some(text) = &self.text {
            let SessionStats { bytes_in, bytes_out, .. } = self.stats;
            return SessionStats { bytes_in, bytes_out, ..text.stats() };
        }
        SessionStats {
            tally: self.incoming.tally,
            items_out: self.outgoing.sender.items,
            deletes_out: self.outgoing.sender.deletes,
            copies_out: self.outgoing.copies,
            resumes: self.stats.resumes + self.outgoing.resumes,
            overflows: self.outgoing.stream.overflows,
            ..self.stats
        }
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
