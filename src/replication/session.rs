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
//!     copy of what is wanted  <->      copy of what is wanted     both directions at once,
//!     changes, marks, acks    <->      changes, marks, acks       changes from the first moment
//! ```

use super::conflict::{Incoming, Tally};
use super::old::TextSession;
use super::outgoing::Outgoing;
use super::progress::Receiving;
use super::quorum::Applied;
use super::secret::{End, Gate, Mismatch, Nonce, Proof, Secret};
use super::stream::{Debt, Stream};
use super::wire::line::{self, Line};
use super::wire::native::{self, Bye, Frame, Hello, WireError};
use super::wire::repcached::TextError;
use super::{NodeId, Role};
use crate::base::buf::Buf;
use crate::base::clock::Now;
use crate::store::{Drained, FlushState, Handle, Version};
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// Longest time from a connection to a hello that is accepted, whatever comes in between: who is
/// slower than that is no peer, and must not hold a place. With a shorter `repl_timeout` it is that,
/// but no less than [`HANDSHAKE_MIN_US`].
const HANDSHAKE_MAX_US: u64 = 5_000_000;
/// Shortest such time: a few round trips and a busy moment of either machine.
const HANDSHAKE_MIN_US: u64 = 1_000_000;
/// Longest payload of a frame before the link lives: a hello with room for what later versions
/// append. A stranger cannot make us hold more.
const EARLY_FRAME_MAX: u32 = 1024;
#[path = "old/takeover.rs"]
mod takeover;

/// An emptied input buffer larger than this is given back.
const KEEP_INPUT: usize = 16 * 1024;

/// What a session is made with.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// This node.
    pub id: NodeId,
    /// This node waits to be filled.
    pub cold: bool,
    /// Hashes that may wait in the queue (`-q`).
    pub queue_max: usize,
    /// Longest time without saying anything, in microseconds.
    pub heartbeat_us: u64,
    /// Longest time without hearing anything, in microseconds.
    pub silence_us: u64,
    /// Report won changes in [`Session::take_relays`], for other links.
    pub relay: bool,
    /// The secret that the peer has to know, and our nonce for this link.
    pub auth: Option<(Arc<Secret>, Nonce)>,
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

fn bye_text(bye: Bye) -> &'static str {
    match bye {
        Bye::Stopping => "stopping",
        Bye::AlreadyConnected => "already connected",
        Bye::Duplicate => "another link between the same nodes stays",
        Bye::Itself => "both ends are the same node",
        Bye::Protocol => "protocol error",
        Bye::Secret => "not the same secret (-o repl_secret_file)",
        Bye::Other(_) => "for a reason this version does not know",
    }
}

/// What a session reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer's opening line has come, and its proof where there is a secret.
    Line(NodeId),
    /// Its hello has come; nothing more happens until [`Session::start`] or [`Session::refuse`].
    Hello(Hello),
    /// The other end opens as a repcached; nothing more happens until [`Session::start_text`] or
    /// [`Session::refuse`].
    Repcached,
    /// A line for the log, at level info.
    Log(String),
    /// The peer has sent all that we wanted at the start.
    CopyDone {
        /// It was everything, not only what was newer.
        full: bool,
    },
    /// The link is over. The last bytes may still be sent.
    Closed(CloseReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Opening,
    Proving,
    Greeting,
    Vetting,
    Live,
    Closed,
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

/// The state machine of one link.
#[derive(Debug)]
pub struct Session {
    config: SessionConfig,
    role: Role,
    state: State,
    input: Buf,
    events: VecDeque<Event>,
    peer: Option<NodeId>,
    /// The peer has sent a line: it knows frames.
    knows_frames: bool,
    gate: Option<Gate>,
    begun_us: u64,
    /// Monotonic times of the last received and the last sent byte.
    heard_us: u64,
    said_us: u64,
    // What is to be said next; each at most once, so that control never queues up.
    line_due: bool,
    proof_due: Option<Proof>,
    hello_due: bool,
    want_due: Option<Version>,
    ack_due: Option<Version>,
    ping_due: bool,
    bye_due: Option<(Bye, String)>,
    flush_said: Option<FlushState>,
    // Outgoing changes.
    outgoing: Outgoing,
    // Incoming changes.
    incoming: Incoming,
    have: Version,
    filling_full: bool,
    receiving: Receiving,
    copy_done: bool,
    relays: Vec<(u64, Version)>,
    peer_newest: Version,
    stats: SessionStats,
    /// The rest of the conversation, where the other end is a repcached.
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
            want_due: None,
            ack_due: None,
            ping_due: false,
            bye_due: None,
            flush_said: None,
            outgoing: Outgoing::new(role, config.queue_max, Version(0)),
            incoming: Incoming::default(),
            have: Version(0),
            filling_full: false,
            receiving: Receiving::default(),
            copy_done: false,
            relays: Vec::new(),
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

    /// Whether changes flow.
    pub fn is_live(&self) -> bool {
        self.text.as_ref().map_or(self.state == State::Live, |text| text.is_live())
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

    /// Accepts the peer whose hello was reported. `since`: what we have of it already; `debt`: what
    /// we owe it; `covered`: everything changed here up to this version has left the feeds.
    pub fn start(
        &mut self,
        hello: &Hello,
        since: Version,
        debt: Debt,
        covered: Version,
        handle: &mut Handle,
        now: Now,
    ) {
        if self.state != State::Vetting {
            return;
        }
        self.state = State::Live;
        self.hello_due |= self.role == Role::Listener;
        self.have = since;
        self.want_due = Some(since);
        self.peer_newest = hello.newest;
        self.outgoing = Outgoing::new(self.role, self.config.queue_max, covered);
        self.outgoing.stream.owe(debt);
        handle.apply_flush(hello.flush, now);
        self.advance(handle, now);
    }

    /// Ends the link and tells the peer why.
    pub fn refuse(&mut self, bye: Bye) {
        self.close(CloseReason::Refused(bye), Some((bye, bye_text(bye).to_owned())));
    }

    /// The connection is gone.
    pub fn lost(&mut self, why: &str) {
        self.close(CloseReason::Lost(why.to_owned()), None);
    }

    fn close(&mut self, reason: CloseReason, bye: Option<(Bye, String)>) {
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
        let event = self.events.pop_front();
        event.or_else(|| self.text.as_mut()?.poll_event())
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

    fn line(&self) -> Line {
        Line { id: self.config.id, nonce: self.gate.as_ref().map(Gate::nonce) }
    }

    fn on_line(&mut self, line: &Line) {
        self.knows_frames = true;
        // The listener answers a line that it knows: a stranger hears nothing at all.
        self.line_due |= self.role == Role::Listener;
        match (&mut self.gate, line.nonce) {
            (None, None) => self.trust(line.id),
            (Some(_), None) => self.distrust(Mismatch::PeerHasNone),
            (None, Some(_)) => self.distrust(Mismatch::WeHaveNone),
            (Some(gate), Some(nonce)) => {
                gate.claims(End { id: line.id, nonce });
                // The connector proves first: the listener tells a stranger nothing it can use.
                self.proof_due = gate.proof().filter(|_| self.role == Role::Connector);
                self.state = State::Proving;
            }
        }
    }

    /// The peer is taken for who it says it is.
    fn trust(&mut self, id: NodeId) {
        self.peer = Some(id);
        self.state = State::Greeting;
        // The listener's hello follows when it has accepted the connector's: it is the consent.
        self.hello_due = self.role == Role::Connector;
        self.events.push_back(Event::Line(id));
    }

    fn distrust(&mut self, why: Mismatch) {
        let bye = (Bye::Secret, why.to_string());
        self.close(CloseReason::Secret(why), Some(bye));
    }

    fn on_bye(&mut self, reason: Bye) {
        let why = match reason {
            Bye::Secret => CloseReason::Secret(Mismatch::Differ),
            reason => CloseReason::Bye(reason),
        };
        self.close(why, None);
    }

    fn on_proof(&mut self, frame: Frame<'_>) -> Result<(), WireError> {
        match frame {
            Frame::Proof(proof) => {
                let Some(gate) = &self.gate else { return Ok(()) };
                match gate.check(&proof) {
                    Some(id) => {
                        self.proof_due = gate.proof().filter(|_| self.role == Role::Listener);
                        self.trust(id);
                    }
                    None => self.distrust(Mismatch::Differ),
                }
                Ok(())
            }
            Frame::Bye { reason, .. } => {
                self.on_bye(reason);
                Ok(())
            }
            _ => Err(WireError::OutOfPlace { what: "another frame before its proof" }),
        }
    }

    fn on_frame(
        &mut self,
        frame: Frame<'_>,
        handle: &mut Handle,
        now: Now,
    ) -> Result<(), WireError> {
        if self.state == State::Proving {
            return self.on_proof(frame);
        }
        if self.state == State::Greeting {
            return match frame {
                Frame::Hello(hello) if self.peer == Some(hello.id) => {
                    self.state = State::Vetting;
                    self.events.push_back(Event::Hello(hello));
                    Ok(())
                }
                Frame::Bye { reason, .. } => {
                    self.on_bye(reason);
                    Ok(())
                }
                Frame::Unknown(_) => Ok(()),
                _ => Err(WireError::OutOfPlace { what: "another frame before its hello" }),
            };
        }
        match frame {
            Frame::Hello(_) => return Err(WireError::OutOfPlace { what: "a second hello" }),
            Frame::Want { since } => self.on_want(since, handle)?,
            Frame::CopyBegin { full, items } => {
                self.filling_full = full;
                self.receiving.begin(items, self.incoming.tally.items, now);
                self.stats.copies_in += u64::from(full);
                self.stats.resumes += u64::from(!full);
            }
            Frame::CopyEnd { .. } => {
                self.receiving.end();
                if !std::mem::replace(&mut self.copy_done, true) {
                    self.events.push_back(Event::CopyDone { full: self.filling_full });
                }
            }
            Frame::Item { head, value } => {
                if self.incoming.item(&head, value, handle, now) {
                    self.relay(head.key, head.version, handle);
                }
            }
            Frame::Large { head, len } => self.incoming.large(&head, len, handle, now)?,
            Frame::Part(bytes) => {
                if let Some((key, version)) = self.incoming.part(bytes, handle, now)? {
                    self.relay(&key, version, handle);
                }
            }
            Frame::Deleted { key, version } => {
                if self.incoming.deleted(key, version, handle, now) {
                    self.relay(key, version, handle);
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
            Frame::Bye { reason, .. } => self.on_bye(reason),
            Frame::Proof(_) => return Err(WireError::OutOfPlace { what: "a proof too late" }),
            Frame::Unknown(_) => {}
        }
        Ok(())
    }

    fn on_want(&mut self, since: Version, handle: &Handle) -> Result<(), WireError> {
        // A peer can only have what we have made: a mark beyond that is of nobody we were.
        let since = if since > handle.store_ref().newest() { Version(0) } else { since };
        if self.outgoing.want(since) {
            Ok(())
        } else {
            Err(WireError::OutOfPlace { what: "its wishes twice" })
        }
    }

    fn relay(&mut self, key: &[u8], version: Version, handle: &Handle) {
        if self.config.relay {
            self.relays.push((handle.hash(key), version));
        }
    }

    /// Changes of the peer that won here and that other links must hear of. At most as many as
    /// there were frames in the bytes last handed in.
    pub fn take_relays(&mut self) -> Vec<(u64, Version)> {
        if let Some(text) = &mut self.text {
            return text.take_relays();
        }
        std::mem::take(&mut self.relays)
    }

    /// What was drained from the feeds.
    pub fn push(&mut self, hashes: &[u64], drained: Drained, now: Now) {
        if let Some(text) = &mut self.text {
            return text.push(hashes, drained, now);
        }
        if self.is_live() {
            self.outgoing.stream.push(hashes, drained, now);
        }
    }

    /// A change that came over another link.
    pub fn push_relay(&mut self, hash: u64, version: Version, now: Now) {
        if let Some(text) = &mut self.text {
            return text.push_relay(hash, version, now);
        }
        if self.is_live() {
            self.outgoing.stream.relay(hash, version, now);
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
        let mark = self.outgoing.mark_due().filter(|_| self.is_live());
        speak.into_iter().chain(mark).chain([silent]).min()
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
        self.ping_due |= now.mono_us.saturating_sub(self.said_us) >= self.config.heartbeat_us;
        if self.outgoing.mark_due().is_some() {
            self.outgoing.stream.place_mark(now);
        }
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

    fn transmit_control(&mut self, out: &mut Vec<u8>, handle: &Handle, now: Now) {
        let store = handle.store_ref();
        if std::mem::take(&mut self.line_due) {
            line::encode(out, &self.line());
        }
        if let Some(proof) = self.proof_due.take() {
            native::encode(out, &Frame::Proof(proof));
        }
        if std::mem::take(&mut self.hello_due) {
            let flush = store.flush_state();
            self.flush_said = Some(flush);
            native::encode(
                out,
                &Frame::Hello(Hello {
                    id: self.config.id,
                    newest: store.newest(),
                    cold: self.config.cold,
                    unix_us: now.unix_us,
                    flush,
                }),
            );
        }
        if let Some(since) = self.want_due.take() {
            native::encode(out, &Frame::Want { since });
        }
        if self.state == State::Live {
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

    /// Our last mark that the peer acknowledged.
    pub fn acked(&self) -> Version {
        self.outgoing.stream.acked()
    }

    /// Clients wait for the peer's acknowledgement of what was changed here up to `wanted`.
    pub fn hurry(&mut self, wanted: Version) {
        self.outgoing.stream.hurry(wanted);
    }

    /// What the peer has for certain. None where it acknowledges nothing (yet).
    pub fn applied(&self) -> Option<Applied> {
        let late_us = self.outgoing.late_since().filter(|_| self.state == State::Live)?;
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
    pub fn is_filled(&self) -> bool {
        self.text.as_ref().map_or(self.copy_done, |text| text.is_filled())
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
