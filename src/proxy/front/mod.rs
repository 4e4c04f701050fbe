//! One client: its requests to the relay, its replies in order.
//!
//! Owns the client's bytes in both directions and how much it may have in flight. Never touches a
//! socket: the worker fills [`Front::input`], calls [`Front::process`], and sends
//! [`Front::sendable`].
//!
//! ```text
//!   input --parse--> submit (takes a ticket) ... complete (resolves it) --> sendable
//!            |                                                   ^
//!            +-- version, stats, mn, errors: answered here ------+  in request order
//! ```
//!
//! A get of many keys is submitted in portions, as many keys at a time as the client's share of
//! memory allows; its END follows when all of them have ended.

mod bulk;
mod keys;

use std::collections::VecDeque;
use std::sync::Arc;

use super::config::Config;
use super::fanout::Verdict;
use super::relay::{Client, Completion, Relay, CAN_NOT_CONNECT, VERSION};
use crate::base::buf::Buf;
use crate::base::clock::Now;
use crate::base::replies::Replies;
use crate::protocol::binary::{self, Status};
use crate::protocol::classic::{self, encode};
use crate::protocol::meta::{Meta, SetMode, Verb};
use crate::protocol::reject::{self, Reject};
use crate::protocol::{Parsed, Request, StoreHead, StoreVerb};

/// magent's answer to what it does not know.
pub const UNSUPPORTED: &[u8] = b"UNSUPPORTED COMMAND\r\n";
/// The words for a client that speaks the binary protocol.
const NO_BINARY: &[u8] = b"This proxy speaks the ASCII protocols only";
/// Requests of one client that may wait for servers. Clients pipeline tens; more only wait in our
/// memory instead of theirs.
const IN_FLIGHT_MAX: usize = 1024;
/// Bytes that one client's requests in flight, and the values expected for them, may take.
const COST_MAX: usize = 4 << 20;
/// Bytes of replies that wait for a slow client before no more of its requests are taken.
const OUT_MAX: usize = 1 << 20;
/// Unparsed input kept: two of the longest get lines that are collected.
const INPUT_MAX: usize = 2 * classic::GET_LINE_MAX;
/// Keys of a get that are submitted at once.
const PORTION_KEYS: usize = 4096;
/// What a request costs besides its bytes: its place in queues and slabs.
const REQUEST_COST: usize = 256;
/// What a key of a get costs besides its value.
const KEY_COST: usize = 64;
/// The value size that is expected of a client that has read nothing yet, where nobody else has
/// read small ones: 16 keys at once. If they are large, many clients that come at the same moment
/// must not have gigabytes fetched.
const FIRST_HINT: usize = 256 * 1024;
/// What is at least expected of a client that has met no value: 480 keys at once.
const MISSES_HINT: usize = 8 * 1024;
/// Memory that an idle direction keeps.
const KEEP: usize = 16 * 1024;

/// What all clients of a proxy share.
#[derive(Debug)]
pub struct Shared {
    /// Largest value taken, in bytes.
    value_max: usize,
}

impl Shared {
    /// From the configuration.
    pub fn new(config: &Config) -> Arc<Shared> {
        Arc::new(Shared { value_max: config.value_max })
    }
}

/// What the next bytes are.
#[derive(Debug)]
enum State {
    Command,
    /// A get of more keys than may be in flight at once.
    Keys(keys::LongGet),
    /// Everything in flight must end before the next command.
    Barrier(Then),
    /// The data block of a large value is being passed on.
    Upload(bulk::Upload),
}

/// What is said when everything in flight has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Nothing,
    /// The END of a long get.
    EndGet,
    /// MN
    Noop,
}

/// What is done where the data block of `request` cannot be taken. As memcached does it: no stale
/// value stays where a newer one was refused.
fn instead<'a>(request: &Request<'a>) -> Option<Request<'a>> {
    match *request {
        Request::Store(StoreHead { verb: StoreVerb::Set, key, .. }) => {
            Some(Request::Delete { key, noreply: true })
        }
        Request::MetaSet { key, flags, .. } => {
            let meta = Meta::parse(Verb::Set, key, flags).ok()?;
            let flags = if meta.key.is_binary() { &b"b"[..] } else { b"" };
            (meta.set_mode() == SetMode::Set).then_some(Request::MetaDelete { key, flags })
        }
        _ => None,
    }
}

/// What is wrong with the line of an ms whose data block is bad, too: of that its server would have
/// spoken.
fn line_fault(request: &Request<'_>) -> Option<&'static [u8]> {
    match *request {
        Request::MetaSet { key, flags, .. } => {
            Meta::parse(Verb::Set, key, flags).err().map(|reject| reject.line)
        }
        _ => None,
    }
}

/// Whether an administrator's line asks for a dump of all keys. Whoever does waits for its END,
/// which cannot come, and reads no other answer as one.
fn asks_for_dump(line: &[u8]) -> bool {
    use classic::admin::{parse, Admin};
    matches!(parse(line), Ok(Admin::Metadump(_) | Admin::Mgdump(_)))
}

/// One client connection.
#[derive(Debug)]
pub struct Front {
    shared: Arc<Shared>,
    /// What was received; the worker fills it.
    pub input: Buf,
    replies: Replies,
    state: State,
    in_flight: usize,
    /// Those of them that the client is told nothing about.
    unanswered: usize,
    cost: usize,
    /// The value size that is expected, for the cost of a get.
    hint: usize,
    /// Something was read: `hint` is this client's own.
    learned: bool,
    /// Whether a server could be asked in the present long get.
    reached: bool,
    /// Refused data still to be dropped.
    swallow: u64,
    /// Input that is needed before parsing goes on.
    want: usize,
    /// Bytes of replies that the relay counts as held for this client.
    reply_held: usize,
    /// Bytes of input that the relay counts as held for this client.
    input_held: usize,
    /// Enough output waits.
    full: bool,
    /// All clients together hold so much that this one waits for its answers to leave.
    tight: bool,
    /// [`Front::process`] stopped for lack of input, not because it was blocked.
    starved: bool,
    /// The client will send nothing more; what it has sent is still done.
    ended: bool,
    /// Nothing more is read or done; what is being answered still leaves.
    closing: bool,
    /// Half of a value has left, and the rest will not come: close at once.
    broken: bool,
    /// Replies of which some is still to be fetched, in order.
    parked: VecDeque<bulk::Parked>,
    /// As the relay knows it.
    me: Option<Client>,
}

impl Front {
    /// A client that has said nothing yet.
    pub fn new(shared: Arc<Shared>) -> Front {
        Front {
            shared,
            input: Buf::new(),
            replies: Replies::new(),
            state: State::Command,
            in_flight: 0,
            unanswered: 0,
            cost: 0,
            hint: FIRST_HINT,
            learned: false,
            reached: false,
            swallow: 0,
            want: 0,
            reply_held: 0,
            input_held: 0,
            full: false,
            tight: false,
            starved: true,
            ended: false,
            closing: false,
            broken: false,
            parked: VecDeque::new(),
            me: None,
        }
    }

    /// Requests that have not been answered.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Whether more input is wanted now.
    pub fn wants_input(&self) -> bool {
        !self.closing
            && !self.ended
            && !self.blocked()
            && self.input.len() < INPUT_MAX.max(self.want)
    }

    /// How many bytes are worth reading at once.
    pub fn input_room(&self) -> usize {
        if matches!(self.state, State::Upload(_)) {
            return INPUT_MAX;
        }
        self.want.saturating_sub(self.input.len()).clamp(KEEP, INPUT_MAX)
    }

    /// The client will send nothing more. What it has sent is done and answered.
    pub fn input_ended(&mut self) {
        self.ended = true;
    }

    /// Everything has been said: close.
    pub fn is_finished(&self) -> bool {
        if self.broken {
            return true;
        }
        let done = self.ended && self.starved && matches!(self.state, State::Command);
        self.replies.is_empty() && (self.closing || done)
    }

    /// Whether it is between two commands, or in a command line, and waits for nothing.
    pub fn is_idle(&self) -> bool {
        let command = matches!(self.state, State::Command) && self.want == 0;
        command && self.in_flight == 0 && self.replies.is_empty()
    }

    /// What may be sent now.
    pub fn sendable(&self) -> &[u8] {
        self.replies.sendable()
    }

    /// The first `n` sendable bytes are gone.
    pub fn sent(&mut self, n: usize) {
        // The next reply brings its own memory.
        self.replies.sent(n, 0);
    }

    fn blocked(&self) -> bool {
        // A block that is passed on has its own limit, and nothing in flight whose end would let it
        // go on.
        let passes = matches!(self.state, State::Upload(_));
        let held_back = self.full || self.tight;
        !passes && (held_back || self.in_flight >= IN_FLIGHT_MAX || self.cost >= COST_MAX)
    }

    /// A request of this client has ended. [`Front::process`] should follow.
    pub fn complete(&mut self, mut completion: Completion) {
        if self.take_part(&mut completion) {
            return;
        }
        if !completion.pieces.is_empty() {
            self.reply_held += completion.held;
            return self.park(completion);
        }
        self.in_flight -= 1;
        self.cost -= completion.cost;
        self.reply_held += completion.held;
        self.reached |= completion.verdict == Verdict::Reached;
        if completion.largest > 0 {
            let rest = if self.learned { self.hint - self.hint / 4 } else { MISSES_HINT };
            self.hint = completion.largest.max(rest);
            self.learned = true;
        } else if !self.learned {
            self.hint = (self.hint / 2).max(MISSES_HINT);
        }
        match completion.ticket {
            Some(ticket) => {
                self.replies.resolve(ticket, completion.reply);
            }
            None => self.unanswered -= 1,
        }
    }

    /// Tells the relay what of the replies has left. To be called after sending.
    pub fn settle(&mut self, relay: &mut Relay) {
        self.tell_level(relay);
        let queued = self.replies.queued_bytes();
        if self.reply_held > queued {
            relay.release(self.reply_held - queued);
            self.reply_held = queued;
        }
    }

    /// The client is gone: nothing is held for it any more.
    pub fn abandon(&mut self, relay: &mut Relay) {
        self.abandon_bulk(relay);
        relay.release(std::mem::take(&mut self.reply_held));
        relay.release(std::mem::take(&mut self.input_held));
    }

    /// Takes as many requests from the input as may be in flight.
    pub fn process(&mut self, now: Now, me: Client, relay: &mut Relay) {
        self.me = Some(me);
        self.fetch(now, me, relay);
        self.look(relay);
        self.starved = false;
        if let (false, Some(usual)) = (self.learned, relay.usual_value()) {
            self.hint = self.hint.min(usual.max(MISSES_HINT));
        }
        while !self.closing && !self.blocked() {
            let went_on = match self.state {
                State::Command => self.command(now, me, relay),
                State::Keys(_) => self.long_get(now, me, relay),
                State::Barrier(then) => self.pass_barrier(then),
                State::Upload(_) => self.upload(now, me, relay),
            };
            self.look_at_memory(relay);
            if !went_on {
                self.starved = self.in_flight == 0 || matches!(self.state, State::Command);
                break;
            }
        }
        self.input.shrink_idle(KEEP);
    }

    /// Whether [`Front::process`] stopped because of output that has left since: nothing else will
    /// tell that it can go on.
    pub fn can_go_on(&mut self, relay: &Relay) -> bool {
        let held_back = (self.full || self.tight) && self.blocked();
        self.look(relay);
        held_back && !self.closing && !self.blocked()
    }

    /// Looks whether output or memory bids to wait.
    fn look(&mut self, relay: &Relay) {
        self.check_full();
        self.look_at_memory(relay);
    }

    fn look_at_memory(&mut self, relay: &Relay) {
        // With nothing in flight and nothing to send there is nothing to wait for.
        self.tight = relay.is_tight() && (self.in_flight > 0 || !self.replies.is_empty());
    }

    fn pass_barrier(&mut self, then: Then) -> bool {
        if self.in_flight > 0 {
            return false;
        }
        self.state = State::Command;
        match then {
            Then::Nothing => {}
            Then::EndGet => self.say(if self.reached { encode::END } else { CAN_NOT_CONNECT }),
            Then::Noop => self.say(encode::META_NOOP),
        }
        true
    }

    fn check_full(&mut self) {
        self.full = self.replies.queued_bytes() >= OUT_MAX;
    }

    fn say(&mut self, line: &[u8]) {
        self.replies.out().extend_from_slice(line);
        self.check_full();
    }

    fn refuse(&mut self, reject: Reject) {
        let unknown = reject.line == reject::ERROR;
        self.say(if unknown { UNSUPPORTED } else { reject.line });
        self.swallow = reject.swallow;
        if reject.close {
            self.close();
        }
    }

    fn close(&mut self) {
        self.closing = true;
        self.input = Buf::new();
    }

    /// A client that speaks the binary protocol is told in it that nobody here does. `false`: its
    /// first header is not whole yet.
    fn refuse_binary(&mut self) -> bool {
        let Some(header) = self.input.data().get(..binary::HEADER) else { return false };
        let head = binary::Head::of(header);
        binary::encode::error(self.replies.out(), &head, Status::NotSupported, NO_BINARY);
        self.close();
        true
    }

    /// One command. `false`: nothing more can be done with the input.
    fn command(&mut self, now: Now, me: Client, relay: &mut Relay) -> bool {
        if self.swallow > 0 {
            let used = self.input.len().min(usize::try_from(self.swallow).unwrap_or(usize::MAX));
            self.input.consume(used);
            self.swallow -= used as u64;
        }
        if self.input.is_empty() || self.input.len() < self.want {
            return false;
        }
        if self.input.data()[0] == binary::REQUEST {
            return self.refuse_binary();
        }
        self.want = 0;
        // Taken out, so that the request may borrow from it while the rest of `self` changes.
        let mut input = std::mem::take(&mut self.input);
        let used = match classic::parse(input.data()) {
            Parsed::Incomplete => None,
            Parsed::Reject { reject, used } => {
                // memcached calls whatever is so short a bad line; to magent it is no command.
                let unknown = used < classic::SHORTEST && reject.line == reject::BAD_FORMAT;
                let line = if unknown { reject::ERROR } else { reject.line };
                self.refuse(Reject { line, ..reject });
                Some(used)
            }
            Parsed::Done { value, used } => {
                let rest = &input.data()[used..];
                let data = self.request(now, me, relay, value, rest);
                if data.is_none() {
                    self.want += used;
                }
                data.map(|data| used + data)
            }
        };
        if !self.closing {
            input.consume(used.unwrap_or(0));
            self.input = input;
        }
        used.is_some()
    }

    /// Does one request; `rest` is what follows its line. Returns how much of that it used, or
    /// `None` when its data block is not complete.
    fn request(
        &mut self,
        now: Now,
        me: Client,
        relay: &mut Relay,
        request: Request<'_>,
        rest: &[u8],
    ) -> Option<usize> {
        match request {
            Request::Get { verb, exptime, keys, more } => {
                self.get(now, me, relay, verb, exptime, keys, more);
            }
            Request::Store(StoreHead { len, noreply, .. }) => {
                return self.store(now, me, relay, &request, (len, noreply), rest);
            }
            Request::Delete { noreply, .. }
            | Request::Arith { noreply, .. }
            | Request::Touch { noreply, .. } => self.submit(now, me, relay, &request, &[], noreply),
            Request::MetaGet { .. }
            | Request::MetaDelete { .. }
            | Request::MetaArith { .. }
            | Request::MetaDebug { .. } => self.submit(now, me, relay, &request, &[], false),
            Request::FlushAll { noreply, .. } | Request::Verbosity { noreply, .. } => {
                let ticket = (!noreply).then(|| self.replies.defer());
                self.unanswered += usize::from(noreply);
                self.in_flight += 1;
                self.cost += REQUEST_COST;
                self.state = State::Barrier(Then::Nothing);
                relay.submit_all(now, me, ticket, REQUEST_COST, &request);
            }
            Request::BadFlush { noreply } => {
                self.refuse(Reject::line(reject::BAD_EXPTIME).quiet_if(noreply));
            }
            Request::Version => {
                encode::version(self.replies.out(), VERSION);
                self.check_full();
            }
            Request::Stats { args } => {
                let stats = relay.answer_stats(now, args);
                self.say(&stats);
            }
            // Answers leave in order anyway; what has no answer must be waited for.
            Request::MetaNoop if self.unanswered == 0 => self.say(encode::META_NOOP),
            Request::MetaNoop => self.state = State::Barrier(Then::Noop),
            Request::MetaSet { len, .. } => {
                return self.store(now, me, relay, &request, (len, false), rest);
            }
            Request::Shutdown { .. } | Request::DebugTime(_) | Request::Watch { .. } => {
                self.say(UNSUPPORTED);
            }
            Request::Admin { line } => {
                self.say(UNSUPPORTED);
                if asks_for_dump(line) {
                    self.close();
                }
            }
            Request::Quit => {
                self.close();
            }
        }
        Some(0)
    }

    fn submit(
        &mut self,
        now: Now,
        me: Client,
        relay: &mut Relay,
        request: &Request<'_>,
        data: &[u8],
        noreply: bool,
    ) {
        let ticket = (!noreply).then(|| self.replies.defer());
        // An mg may bring a value.
        let expected = if matches!(request, Request::MetaGet { .. }) { self.hint } else { 0 };
        let cost = REQUEST_COST + data.len() + expected;
        self.in_flight += 1;
        self.cost += cost;
        self.unanswered += usize::from(noreply);
        if relay.submit_write(now, me, ticket, cost, request, data) {
            self.state = State::Barrier(Then::Nothing);
        }
    }

    fn store(
        &mut self,
        now: Now,
        me: Client,
        relay: &mut Relay,
        request: &Request<'_>,
        (len, noreply): (u32, bool),
        rest: &[u8],
    ) -> Option<usize> {
        if len as usize > self.shared.value_max {
            self.refuse_block(now, me, relay, request, reject::TOO_LARGE);
            return Some(0);
        }
        let parsed = classic::parse_data(rest, len);
        if parsed != Parsed::Incomplete {
            relay.release(std::mem::take(&mut self.input_held));
        }
        match parsed {
            Parsed::Incomplete
                if len as usize > bulk::hold_max(relay, request)
                    || !self.reserve(relay, len as usize) =>
            {
                self.begin_upload(request);
                Some(0)
            }
            Parsed::Incomplete => {
                self.want = len as usize + 2;
                None
            }
            Parsed::Reject { reject, used } => {
                let reject = Reject { line: line_fault(request).unwrap_or(reject.line), ..reject };
                self.refuse(reject.quiet_if(noreply));
                Some(used)
            }
            Parsed::Done { value, used } => {
                self.submit(now, me, relay, request, value, noreply);
                Some(used)
            }
        }
    }

    /// Refuses a block before it was read.
    fn refuse_block(
        &mut self,
        now: Now,
        me: Client,
        relay: &mut Relay,
        request: &Request<'_>,
        line: &'static [u8],
    ) {
        if let Some(delete) = instead(request) {
            self.submit(now, me, relay, &delete, &[], true);
        }
        let (len, noreply) = match *request {
            Request::Store(head) => (head.len, head.noreply),
            Request::MetaSet { len, .. } => (len, false),
            _ => return,
        };
        let swallow = u64::from(len) + 2;
        self.refuse(Reject { line, swallow, close: false }.quiet_if(noreply));
    }

    /// Whether there is room to wait for a block of `len` bytes. Small ones fit into what every
    /// client may have unparsed.
    fn reserve(&mut self, relay: &mut Relay, len: usize) -> bool {
        if len <= INPUT_MAX || self.input_held > 0 {
            return true;
        }
        let fits = relay.hold(len);
        if fits {
            self.input_held = len;
        }
        fits
    }
}
