//! What a request means when there are servers and backups: who is asked, in which order, and
//! which answer the client gets.
//!
//! Owns one worker's backends and every request in flight. Sans-IO: the worker moves bytes and
//! tells the time; each request that was submitted ends in exactly one [`Completion`].
//!
//! ```text
//!   front --submit--> Relay --ask--> Backend (server) --answer--+
//!     ^                 ^  \                                    |
//!     |                 |   +-ask--> Backend (backup) --answer--+
//!     +---Completion----+---------------------------------------+
//! ```
//!
//! - **Writes** go to the server. What it did is then done on the backup, and when both have it the
//!   client gets the server's answer. A write that the server refuses never reaches the backup, so
//!   both see the same writes of a key in the same order (`write`).
//! - **Reads** go to the server, and to the backup when the server cannot be reached or does not
//!   have the key (`read`).
//! - **What only the backup has** is put back on the server by `add`, with its remaining lifetime,
//!   unless the key is being written meanwhile (`fill`).
//! - A write that a backend may have missed is remembered, and the key deleted there before it is
//!   trusted again ([`super::missed`]).

mod all;
mod bulk;
mod fill;
mod group;
mod lanes;
mod places;
mod read;
mod single;
mod walk;
mod write;

use std::collections::HashMap;
use std::sync::Arc;

use slab::Slab;

use super::backend::{Backend, Kind, Limits, Step, Usable, Why};
use super::config::Config;
use super::fanout::{Piece, Verdict};
use super::figures::{self, Figures};
use super::guard::Guard;
use super::lane::Lane;
use super::route::Routes;
use crate::base::clock::Now;
use crate::base::replies::Ticket;
use crate::protocol::classic::Reply;

pub use all::VERSION;
pub use bulk::get::GetId;
pub use bulk::put::{PutId, Transfer};
pub use bulk::{HOLD_MAX, HOLD_WHOLE_MAX};
pub use group::LOST;
pub use lanes::{LinkId, LANES};
pub use places::{BackendId, PlaceId};
pub use read::Portion;

/// magent's answer when neither the server nor its backup can be reached.
pub const CAN_NOT_CONNECT: &[u8] = b"SERVER_ERROR CAN NOT CONNECT TO BACKEND SERVER\r\n";
/// magent's answer when there are too many clients; here also when too many requests wait for one
/// server.
pub const OUT_OF_CONNECTION: &[u8] = b"SERVER_ERROR OUT OF CONNECTION\r\n";

/// memcached's answer when it has no room to answer a get.
pub const NO_ROOM: &[u8] = b"SERVER_ERROR out of memory writing get response\r\n";
/// Bytes of values that one worker holds for all its clients: being received, on their way to a
/// server, or waiting to be sent. What a client can make the proxy hold is bounded for each client,
/// but there may be thousands of them. What finds no room has to wait for a lane.
pub const HELD_MAX: usize = 64 << 20;

/// Replies with smaller values after which a large one counts for little.
const USUAL_FADES: usize = 64;

/// Room for completions that is kept between two turns: as many as a busy turn has.
const COMPLETIONS_KEEP: usize = 4096;

/// Set in the CAS uniques of values that came from a backup. Server and backup count their uniques
/// separately, and nearly alike: without the mark, a `cas` after a failover could match another
/// version of the item by accident. memcached's uniques count from 1, twincached's reach this bit
/// in 2089, and signed 64-bit clients can still read it.
pub const BACKUP_UNIQUE: u64 = 1 << 62;

/// A client connection: its slot in the worker's slab and how often that slot was used before, so
/// that an answer never reaches whoever has the slot next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    /// Slab key.
    pub slot: u32,
    /// Use count of the slot.
    pub generation: u32,
}

/// The end of one submitted request.
#[derive(Debug)]
pub struct Completion {
    /// Whose it was.
    pub client: Client,
    /// The place of the reply; `None` for noreply.
    pub ticket: Option<Ticket>,
    /// The reply, whole.
    pub reply: Vec<u8>,
    /// What [`Relay`] was given as the request's cost.
    pub cost: usize,
    /// Length of the largest value in the reply, in bytes.
    pub largest: usize,
    /// Of a get: whether anybody could be asked.
    pub verdict: Verdict,
    /// Bytes of values in the reply, still counted as held: for [`Relay::release`].
    pub held: usize,
    /// What comes before `reply` where some of it is still to be fetched ([`Relay::begin_get`]).
    pub pieces: Vec<Piece>,
    /// This is not the end, but more of the reply of [`Relay::begin_get`], or word that
    /// [`Relay::put_room`] has grown.
    pub more: bool,
}

/// Whom an answer of a backend belongs to. Every call of a live request returns once, so that the
/// slab keys in it stay good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    /// A chunk of a read.
    Read { read: u32, chunk: u32 },
    /// A get of one key, or a write without a backup.
    Single { single: u32 },
    /// A single-key command, at whatever stage it is.
    Write { write: u32 },
    /// A value asked from a backup to be put back.
    FillAsk { fill: u32 },
    /// The same value being put back.
    FillAdd { fill: u32 },
    /// A hit of a gat being repeated on the backup.
    Touch { touch: u32 },
    /// flush_all or verbosity.
    All { all: u32 },
    /// A key that may have to be put back.
    Walk { step: u32 },
    /// Nobody needs to know.
    Forget,
}

/// One worker's backends and requests.
#[derive(Debug)]
pub struct Relay {
    limits: Limits,
    router: places::Router,
    places: Slab<places::Place>,
    /// By [`BackendId`], as `backends`.
    seats: Slab<places::Seat>,
    backends: Slab<Backend<Call>>,
    lanes: lanes::Lanes,
    /// Backends and lanes that were removed and may still have a socket.
    gone: Vec<LinkId>,
    guard: Arc<Guard>,
    worker: u32,
    reads: Slab<read::Read>,
    singles: Slab<single::Single>,
    writes: Slab<write::Write>,
    fills: Slab<fill::Fill>,
    fill_by_key: HashMap<Box<[u8]>, u32>,
    touches: Slab<(PlaceId, Box<[u8]>)>,
    alls: Slab<all::All>,
    completions: Vec<Completion>,
    /// When the members of groups are looked at again, if there are groups.
    look_at: Option<u64>,
    figures: Arc<Figures>,
    /// This worker's.
    count: Arc<figures::Worker>,
    held: usize,
    /// See [`Relay::usual_value`].
    usual: Option<usize>,
    walker: walk::Walker,
    bulk: bulk::Bulk,
    /// The time of the present turn.
    last_now: Now,
    /// Writes that wait for another worker's to end.
    turns_wanted: Vec<u32>,
    /// Writes that wait until their backup has said what it understands, in order. They are writes
    /// in flight, and so bounded by them.
    mirrors: Vec<(BackendId, u32)>,
    /// A turn has ended that somebody waits for.
    turn_ended: bool,
    /// The ends of turns that have been looked at.
    turns_seen: u32,
}

impl Relay {
    /// The relay of worker number `worker` (from 0). All workers share `guard`.
    pub fn new(config: &Config, guard: Arc<Guard>, worker: u32) -> Relay {
        let figures = Arc::new(Figures::new(worker as usize + 1));
        Relay::with_routes(config, Arc::new(Routes::new(config)), guard, figures, worker)
    }

    /// The same, with routes and figures that others use too. Of `config` only the limits are
    /// looked at.
    pub fn with_routes(
        config: &Config,
        routes: Arc<Routes>,
        guard: Arc<Guard>,
        figures: Arc<Figures>,
        worker: u32,
    ) -> Relay {
        let limits = Limits::from(config);
        let mut relay = Relay {
            limits,
            router: places::Router::new(Arc::clone(&routes)),
            places: Slab::new(),
            seats: Slab::new(),
            backends: Slab::new(),
            lanes: lanes::Lanes::default(),
            gone: Vec::new(),
            guard,
            worker,
            reads: Slab::new(),
            singles: Slab::new(),
            writes: Slab::new(),
            fills: Slab::new(),
            fill_by_key: HashMap::new(),
            touches: Slab::new(),
            alls: Slab::new(),
            completions: Vec::new(),
            look_at: None,
            count: figures.worker(worker),
            figures,
            held: 0,
            usual: None,
            walker: walk::Walker::new(config.cold_secs),
            bulk: bulk::Bulk::new(),
            last_now: Now { unix_us: 0, mono_us: 0 },
            turns_wanted: Vec::new(),
            mirrors: Vec::new(),
            turn_ended: false,
            turns_seen: 0,
        };
        relay.reload(routes);
        relay
    }

    /// Counts `n` bytes as held, if there is room for them ([`HELD_MAX`]).
    pub fn hold(&mut self, n: usize) -> bool {
        let fits = self.held + n <= HELD_MAX;
        if fits {
            self.held += n;
        }
        fits
    }

    /// `n` bytes are not held any more.
    pub fn release(&mut self, n: usize) {
        debug_assert!(n <= self.held);
        self.held = self.held.saturating_sub(n);
    }

    /// Whether so much is held that everybody should wait until his last answer has left, instead
    /// of having values fetched that find no room.
    pub fn is_tight(&self) -> bool {
        self.held > HELD_MAX / 2
    }

    /// How large the values of all clients were lately, in bytes: the largest one, and less with
    /// each reply that has smaller ones. `None`: there were none yet.
    pub fn usual_value(&self) -> Option<usize> {
        self.usual
    }

    /// The largest value of a reply had so many bytes.
    fn saw_value(&mut self, largest: usize) {
        if largest > 0 {
            let rest = self.usual.map_or(0, |usual| usual - usual.div_ceil(USUAL_FADES));
            self.usual = Some(largest.max(rest));
        }
    }

    /// Bytes of values held now.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Appends every connection there is, or should be, to `links`.
    pub fn links(&self, links: &mut Vec<LinkId>) {
        links.extend(self.backends.iter().map(|(id, _)| id));
        links.extend(self.lanes.iter().map(|(id, _)| LANES + id));
    }

    /// Whether there is such a connection.
    pub fn has_link(&self, id: LinkId) -> bool {
        match id.checked_sub(LANES) {
            Some(lane) => self.lanes.contains(lane),
            None => self.backends.contains(id),
        }
    }

    /// One connection, for moving its bytes. It must be there ([`Relay::has_link`]).
    pub fn connection(&mut self, id: LinkId) -> impl Connection + '_ {
        match id.checked_sub(LANES) {
            Some(lane) => Either::Lane(&mut self.lanes[lane].lane),
            None => Either::Backend(&mut self.backends[id]),
        }
    }

    /// What this worker counts.
    pub fn count(&self) -> &figures::Worker {
        &self.count
    }

    /// Appends the lines of `stats` that follow magent's, without an end.
    pub fn stats(&self, out: &mut Vec<u8>, now: Now) {
        self.publish();
        self.figures.stats(out, now, &self.router.routes);
    }

    /// Appends the lines of `stats servers`, without an end.
    pub fn stats_servers(&self, out: &mut Vec<u8>, now: Now) {
        self.figures.servers(out, now, &self.router.routes);
    }

    /// `stats reset`.
    pub fn stats_reset(&self) {
        self.figures.reset();
    }

    /// Lets others see what is not counted as it happens. Once a turn is enough.
    pub fn publish(&self) {
        self.count.in_flight.set(self.in_flight() as u64);
        self.count.held_bytes.set(self.held as u64);
    }

    /// The routes in use.
    pub fn routes(&self) -> &Routes {
        &self.router.routes
    }

    /// Requests that have not ended.
    pub fn in_flight(&self) -> usize {
        self.reads.len()
            + self.singles.len()
            + self.writes.len()
            + self.alls.len()
            + self.bulk.in_flight()
    }

    /// Whether nothing names a place or a backend any more.
    fn is_quiet(&self) -> bool {
        let calls = self.fills.is_empty() && self.touches.is_empty();
        self.in_flight() == 0 && calls && self.walker.is_quiet()
    }

    /// What has ended since the last call.
    pub fn take_completions(&mut self) -> Vec<Completion> {
        self.tidy_up();
        std::mem::take(&mut self.completions)
    }

    /// Takes back the memory that [`Relay::take_completions`] gave out.
    pub fn recycle(&mut self, mut completions: Vec<Completion>) {
        completions.clear();
        if self.completions.is_empty() && completions.capacity() <= COMPLETIONS_KEEP {
            self.completions = completions;
        }
    }

    /// The earliest deadline of all backends, on the monotonic clock in microseconds.
    pub fn deadline(&self) -> Option<u64> {
        let backends = self.backends.iter().filter_map(|(_, backend)| backend.deadline());
        let lanes = self.lanes.iter().filter_map(|(_, seat)| seat.lane.deadline());
        let own = [self.look_at, self.tick_due(), self.walker.deadline(), self.router.tidy_due()];
        backends.chain(lanes).chain(own.into_iter().flatten()).min()
    }

    /// Understands what was received from a server. `false`: its connection is to be closed, and
    /// everybody who waited on it has been failed over.
    pub fn received(&mut self, id: LinkId, now: Now) -> bool {
        if let Some(lane) = id.checked_sub(LANES) {
            return self.lane_received(now, lane);
        }
        let mut input = std::mem::take(&mut self.backends[id].input);
        loop {
            let used = match self.backends[id].step(now, input.data()) {
                Step::Wait => break,
                Step::Own { used } => {
                    self.hear(id, now);
                    self.mirrors_go_on(now, id);
                    used
                }
                Step::Gone { call } => {
                    self.call_failed(id, now, call, true);
                    0
                }
                Step::Value { call, key, flags, cas, data, used } => {
                    if !self.value(now, call, key, flags, cas, data) {
                        self.failed(id, now, &Why::Garbage);
                        return false;
                    }
                    used
                }
                Step::Large { call, used } => {
                    self.large(now, call);
                    used
                }
                Step::Done { call, reply, data, raw, used } => {
                    self.done(id, now, call, reply, data, raw);
                    used
                }
                Step::Garbage => {
                    self.failed(id, now, &Why::Garbage);
                    return false;
                }
            };
            input.consume(used);
        }
        input.shrink_idle(64 * 1024);
        self.backends[id].input = input;
        true
    }

    /// A backend's connection is over: everybody who waited on it goes elsewhere, in order.
    pub fn failed(&mut self, id: LinkId, now: Now, why: &Why) {
        if let Some(lane) = id.checked_sub(LANES) {
            return self.lane_failed(now, lane, why);
        }
        let orphans = self.backends[id].failed(now, why);
        if let Some(call) = self.backends[id].take_restarted() {
            self.call_restarted(call);
        }
        for (call, sent) in orphans {
            self.call_failed(id, now, call, sent);
        }
        self.mirrors_missed(id);
        self.backends[id].resume(now);
        if matches!(why, Why::Lost(_)) {
            self.noticed_close(now, id);
        }
    }

    fn value(
        &mut self,
        now: Now,
        call: Call,
        key: &[u8],
        flags: u32,
        cas: Option<u64>,
        data: Option<&[u8]>,
    ) -> bool {
        match call {
            Call::Read { read, chunk } => self.read_value(now, read, chunk, key, flags, cas, data),
            Call::Single { single } => self.single_value(single, key, flags, cas, data),
            Call::FillAsk { fill } => self.fill_value(fill, key, flags, cas, data),
            Call::Walk { step } => self.walk_value(step, key),
            Call::Write { write } => self.write_value(write, key, flags, cas, data),
            _ => false,
        }
    }

    fn done(
        &mut self,
        id: BackendId,
        now: Now,
        call: Call,
        reply: Reply<'_>,
        data: &[u8],
        raw: &[u8],
    ) {
        match call {
            Call::Read { read, chunk } => self.read_done(now, read, chunk, reply, raw),
            Call::Single { single } => self.single_done(now, single, id, reply, raw),
            Call::Write { write } => self.write_done(now, write, id, reply, raw),
            Call::FillAsk { fill } => self.fill_asked(now, fill, reply, data),
            Call::FillAdd { fill } => self.fill_added(now, fill, reply),
            Call::Touch { touch } => {
                self.touches.try_remove(touch as usize);
            }
            Call::All { all } => self.all_done(now, all, reply, raw),
            Call::Walk { step } => self.walk_checked(now, step, reply),
            Call::Forget => {}
        }
        let _ = id;
    }

    /// The answer begins anew: values that were heard come again.
    fn call_restarted(&mut self, call: Call) {
        match call {
            Call::Read { read, chunk } => self.read_restarted(read, chunk),
            Call::FillAsk { fill } => self.fill_restarted(fill),
            Call::Write { write } => self.write_restarted(write),
            _ => {}
        }
    }

    /// The answer is a value too large to be held.
    fn large(&mut self, now: Now, call: Call) {
        match call {
            Call::Write { write } => self.write_large(write),
            Call::FillAsk { fill } => self.fill_large(now, fill),
            _ => {}
        }
    }

    /// `sent`: some of the request was sent, so that the server may have done it.
    fn call_failed(&mut self, id: BackendId, now: Now, call: Call, sent: bool) {
        match call {
            Call::Read { read, chunk } => self.read_failed(now, read, chunk),
            Call::Single { single } => self.single_failed(now, single, id),
            Call::Write { write } => self.write_failed(now, write, id, sent),
            Call::FillAsk { fill } => self.fill_asked(now, fill, Reply::Error(b""), &[]),
            Call::FillAdd { fill } => self.fill_not_added(now, fill),
            Call::Touch { touch } => {
                if let Some((backup, key)) = self.touches.try_remove(touch as usize) {
                    self.missed_key(backup, &key);
                }
            }
            Call::All { all } => self.all_failed(now, all, id),
            Call::Walk { step } => self.walk_done(now, step, walk::Outcome::Lost),
            Call::Forget => {}
        }
    }

    fn ask(
        &mut self,
        id: BackendId,
        now: Now,
        call: Call,
        kind: impl Into<Kind>,
        write: impl FnOnce(&mut Vec<u8>),
    ) -> Usable {
        self.backends[id].ask(now, call, kind, write)
    }
}

/// A backend's connection as the worker sees it: bytes and deadlines, no meaning.
pub trait Connection {
    /// See [`Backend::wants_connect`].
    fn wants_connect(&self, now: Now) -> bool;
    /// See [`Backend::connecting`].
    fn connecting(&mut self, now: Now);
    /// See [`Backend::connected`].
    fn connected(&mut self, now: Now);
    /// See [`Backend::sendable`].
    fn sendable(&self) -> &[u8];
    /// See [`Backend::sent`].
    fn sent(&mut self, now: Now, n: usize);
    /// Room for at least `n` received bytes; then [`Connection::received`].
    fn space(&mut self, n: usize) -> &mut [u8];
    /// See [`Backend::received`].
    fn received(&mut self, now: Now, n: usize);
    /// Whether more should be read now: not while whoever it is for does not take it.
    fn wants_read(&self) -> bool;
    /// See [`Backend::check`].
    fn check(&self, now: Now) -> Option<Why>;
    /// Whether nobody waits for an answer.
    fn is_quiet(&self) -> bool;
}

/// The two kinds of connections.
enum Either<'a> {
    Backend(&'a mut Backend<Call>),
    Lane(&'a mut Lane),
}

macro_rules! each {
    ($self:expr, $c:ident => $body:expr) => {
        match $self {
            Either::Backend($c) => $body,
            Either::Lane($c) => $body,
        }
    };
}

impl Connection for Either<'_> {
    fn wants_connect(&self, now: Now) -> bool {
        match self {
            Either::Backend(backend) => backend.wants_connect(now),
            Either::Lane(lane) => lane.wants_connect(),
        }
    }

    fn connecting(&mut self, now: Now) {
        match self {
            Either::Backend(backend) => backend.connecting(now),
            Either::Lane(lane) => lane.connecting(),
        }
    }

    fn connected(&mut self, now: Now) {
        match self {
            Either::Backend(backend) => backend.connected(),
            Either::Lane(lane) => lane.connected(now),
        }
    }

    fn sendable(&self) -> &[u8] {
        each!(self, c => c.sendable())
    }

    fn sent(&mut self, now: Now, n: usize) {
        each!(self, c => c.sent(now, n));
    }

    fn space(&mut self, n: usize) -> &mut [u8] {
        each!(self, c => c.input.space(n))
    }

    fn received(&mut self, now: Now, n: usize) {
        each!(self, c => c.received(now, n));
    }

    fn is_quiet(&self) -> bool {
        match self {
            Either::Backend(backend) => backend.is_quiet(),
            Either::Lane(lane) => lane.is_idle(),
        }
    }

    fn wants_read(&self) -> bool {
        match self {
            Either::Backend(_) => true,
            Either::Lane(lane) => lane.wants_read(),
        }
    }

    fn check(&self, now: Now) -> Option<Why> {
        each!(self, c => c.check(now))
    }
}
