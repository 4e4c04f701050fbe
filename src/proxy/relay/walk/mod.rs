//! Warms cold places: looks at every key of their counterparts, and has put back what they lack.
//!
//! Owns one walk at a time, in one worker of the proxy; what it has done is told to all in
//! [`super::super::cold`]. A walk reads the keys of one source on a lane, never holding more than a
//! few of them, and shares the pipelined connections with the clients for everything else. What it
//! puts back goes the way of every fill ([`super::fill`]): a client's write meanwhile always wins.
//!
//! ```text
//!   source --lru_crawler metadump all--> keys that route to a cold target, a few ahead
//!                                          |
//!   target <-- mg key u (there?) ----------+-- hit: done
//!                                          miss: fill: mg on the source, add on the target
//!
//!   owed keys (single ones that were missed) take the same way, without a dump
//! ```
//!
//! A walk that is interrupted begins again later, and ever later; what it has put back stays.

mod dump;

use std::collections::VecDeque;
use std::sync::Arc;

use slab::Slab;

use super::super::backend::{Expect, Usable, Why};
use super::super::cold::Slot;
use super::lanes::{Job, LaneId};
use super::places::{BackendId, Named, PlaceId, Role, Route};
use super::{Call, Relay};
use crate::base::clock::Now;
use crate::protocol::classic::reply::is_plain_key;
use crate::protocol::classic::{encode, Reply};
use crate::protocol::{GetVerb, KEY_MAX};
use dump::{Item, Line};

/// Keys that are looked at in a second: about a twentieth of what one worker and one server can do,
/// so that clients do not notice. A million keys take 40 seconds.
const KEYS_PER_SEC: u64 = 25_000;
/// A value that is copied counts as another key for each so many bytes: 64 MiB a second, half of
/// what a link of 1 Gbit/s carries.
const BYTES_PER_KEY: usize = 2684;
/// Keys under way at once: enough for the pace above at round trips of 5 ms.
const STEPS: usize = 128;
/// Bytes of values under way at once, unless it is one alone.
const STEP_BYTES: usize = 4 << 20;
/// Keys read ahead of their turn. The rest of a dump waits in the sockets and in its server.
const AHEAD: usize = 128;
/// Single keys that are looked at in one go.
const OWED_AT_ONCE: usize = 1024;
/// How often it is looked whether there is something to do, in microseconds. Also the shortest time
/// between two greetings of a server that keeps closing its connection.
const LOOK_US: u64 = 500_000;
/// How soon after something is expected to have changed, in microseconds.
const SOON_US: u64 = 1000;
/// First and longest wait after a walk that was interrupted, in microseconds: whoever flaps does
/// not have his neighbour list all its keys again and again.
const AGAIN_MIN_US: u64 = 1_000_000;
const AGAIN_MAX_US: u64 = 60_000_000;
/// Longest time without a byte of a dump, in microseconds: a crawler may pass over many items that
/// it does not show.
const PATIENCE_US: u64 = 10_000_000;
/// Longest time for which a dump is not read on, in microseconds: a memcached has all others wait
/// who want its crawler.
const STALLED_US: u64 = 10_000_000;
/// A key that is being written at the moment is looked at again after so long, in microseconds,
const LATER_US: u64 = 20_000;
/// so many times (a write takes no longer than its timeouts),
const TRIES: u8 = 250;
/// and so many keys at once: as many as can share their stripe of the guard with a busy client.
const LATER_MAX: usize = 4096;

/// Longest key that can be asked for in base64.
const BASE64_KEY_MAX: usize = KEY_MAX / 4 * 3;

/// A key on its way.
#[derive(Debug)]
struct Key {
    item: Item,
    target: PlaceId,
    tries: u8,
}

/// A key that somebody has been asked for.
#[derive(Debug)]
struct Step {
    key: Key,
    source: PlaceId,
    slot: Arc<Slot>,
    /// The number of the walk: an answer may come after its end.
    run: u64,
    /// The target has shown a value.
    seen: bool,
}

/// What became of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The target has it, or has a newer one, or nobody has it.
    Fine,
    /// It was put back.
    Copied,
    /// It cannot be put back: the target refuses it.
    Refused,
    /// It is being written: not now.
    Later,
    /// Somebody cannot be reached.
    Lost,
}

#[derive(Debug)]
struct Target {
    place: PlaceId,
    slot: Arc<Slot>,
    period: Option<u64>,
    /// A key of it could not be looked at.
    hurt: bool,
}

#[derive(Debug)]
struct Run {
    number: u64,
    source: PlaceId,
    /// Which list the targets are of.
    role: Role,
    targets: Vec<Target>,
    /// Of a dump that has not ended.
    lane: Option<LaneId>,
    dump: bool,
    listed: bool,
    keys: VecDeque<Key>,
    /// With the time when they are due.
    later: VecDeque<(u64, Key)>,
    began: u64,
    looked_at: u64,
    copied: u64,
    refused: u64,
}

/// Walks that follow each other because the one before has put something back. The second finds
/// what the first did not see; more than a few would follow a full server round and round.
const REPEATS_MAX: u8 = 3;

/// See the module.
#[derive(Debug)]
pub(super) struct Walker {
    /// When [`Relay::walk`] has something to do.
    due: u64,
    begun: bool,
    /// Walks in a row that followed one which had put something back.
    repeats: u8,
    not_before: u64,
    again_us: u64,
    /// How long a place is cold whose counterpart cannot list its keys, in microseconds.
    cold_us: u64,
    /// Servers that closed an idle connection: perhaps they were restarted.
    closed: Vec<BackendId>,
    closed_due: u64,
    budget: i64,
    budget_at: u64,
    bytes: usize,
    runs: u64,
    run: Option<Run>,
    steps: Slab<Step>,
}

impl Walker {
    pub(super) fn new(cold_secs: u64) -> Walker {
        Walker {
            due: 0,
            begun: false,
            repeats: 0,
            not_before: 0,
            again_us: AGAIN_MIN_US,
            cold_us: cold_secs.saturating_mul(1_000_000),
            closed: Vec::new(),
            closed_due: 0,
            budget: 0,
            budget_at: 0,
            bytes: 0,
            runs: 0,
            run: None,
            steps: Slab::new(),
        }
    }

    /// When it has something to do, on the monotonic clock in microseconds.
    pub(super) fn deadline(&self) -> Option<u64> {
        (self.due < u64::MAX).then_some(self.due)
    }

    /// Whether nothing of it names a place.
    pub(super) fn is_quiet(&self) -> bool {
        self.run.is_none() && self.steps.is_empty()
    }

    /// The places that it names.
    pub(super) fn name(&self, named: &mut Named) {
        for (_, step) in &self.steps {
            named.places.extend([step.key.target, step.source]);
        }
        if let Some(run) = &self.run {
            named.places.insert(run.source);
            named.places.extend(run.targets.iter().map(|target| target.place));
        }
    }

    fn earn(&mut self, now: Now) {
        let since = now.mono_us.saturating_sub(self.budget_at);
        let earned = since.saturating_mul(KEYS_PER_SEC) / 1_000_000;
        if earned > 0 {
            self.budget_at = now.mono_us;
            let earned = i64::try_from(earned).unwrap_or(i64::MAX);
            self.budget = self.budget.saturating_add(earned).min(STEPS as i64);
        }
    }
}

impl Relay {
    /// Does what is due without anybody asking.
    pub(super) fn walk(&mut self, now: Now) {
        if now.mono_us < self.walker.due {
            return;
        }
        if self.router.backups.is_empty() {
            self.walker.due = u64::MAX;
            return;
        }
        if !std::mem::replace(&mut self.walker.begun, true) {
            // They say what they can do before the first client wants to know it.
            self.backends.iter_mut().for_each(|(_, backend)| backend.wake(now));
        }
        if self.worker != 0 {
            self.walker.due = u64::MAX;
            return;
        }
        self.walker.due = now.mono_us + LOOK_US;
        self.greet_closed(now);
        self.walker.earn(now);
        if self.walker.run.is_none() && now.mono_us >= self.walker.not_before {
            self.begin_run(now);
        }
        self.go_on_walking(now);
        self.warm_up(now);
    }

    /// Whether nothing is cold.
    #[cfg(test)]
    pub fn is_warm(&self) -> bool {
        let Relay { router, places, .. } = self;
        router.servers.iter().chain(&router.backups).all(|&place| places[place].slot.is_warm())
    }

    /// Whether clients' requests go there.
    #[cfg(test)]
    pub fn usable_for_tests(&self, id: BackendId) -> bool {
        self.backends[id].usable() == Usable::Yes && self.backends[id].is_greeted()
    }

    /// Requests without an answer at a server.
    #[cfg(test)]
    pub fn waiting(&self, id: BackendId) -> usize {
        self.backends[id].waiting()
    }

    /// The routes have changed: what is under way ends, and begins again where it must.
    pub(super) fn walk_reloaded(&mut self) {
        self.walker.begun = false;
        self.walker.due = 0;
        if let Some(lane) = self.walker.run.take().and_then(|run| run.lane) {
            self.drop_lane(lane);
        }
    }

    /// A connection on which nobody waited was closed by its server.
    pub(super) fn noticed_close(&mut self, now: Now, id: BackendId) {
        if self.worker != 0 || self.router.backups.is_empty() {
            return;
        }
        let walker = &mut self.walker;
        if !walker.closed.contains(&id) {
            walker.closed.push(id);
        }
        walker.due = walker.due.min(walker.closed_due.max(now.mono_us));
    }

    fn greet_closed(&mut self, now: Now) {
        let walker = &mut self.walker;
        if walker.closed.is_empty() {
            return;
        }
        if now.mono_us < walker.closed_due {
            walker.due = walker.due.min(walker.closed_due);
            return;
        }
        walker.closed_due = now.mono_us + LOOK_US;
        for id in std::mem::take(&mut walker.closed) {
            if let Some(backend) = self.backends.get_mut(id) {
                backend.wake(now);
            }
        }
    }

    /// Ends the cold periods that are over.
    fn warm_up(&self, now: Now) {
        let Relay { router, places, walker, .. } = self;
        for (targets, sources) in
            [(&router.servers, &router.backups), (&router.backups, &router.servers)]
        {
            for &target in targets.iter() {
                let slot = &places[target].slot;
                let done = |source: &PlaceId| !slot.needs(places[*source].slot.name());
                if !slot.is_warm() && sources.iter().all(done) {
                    slot.warm_up(now, walker.cold_us);
                }
            }
        }
    }

    /// Whether a place can be asked, and has said what it can do.
    fn is_ready(&mut self, now: Now, place: PlaceId) -> bool {
        let id = self.writer(place);
        let backend = &mut self.backends[id];
        if backend.usable() != Usable::Yes {
            return false;
        }
        backend.wake(now);
        if !backend.is_greeted() {
            self.walker.due = self.walker.due.min(now.mono_us + 10 * SOON_US);
        }
        self.backends[id].is_greeted()
    }

    fn begin_run(&mut self, now: Now) {
        for role in [Role::Server, Role::Backup] {
            let (targets, sources) = match role {
                Role::Server => (self.router.servers.clone(), self.router.backups.clone()),
                Role::Backup => (self.router.backups.clone(), self.router.servers.clone()),
            };
            for &target in &targets {
                if self.begin_owed(now, role, target) {
                    return;
                }
            }
            // Not always the same one first: it may be the one that cannot.
            let first = self.walker.runs as usize % sources.len().max(1);
            for &source in sources[first..].iter().chain(&sources[..first]) {
                if self.begin_dump(now, role, source, &targets) {
                    return;
                }
            }
        }
    }

    fn counterpart(&self, role: Role, key: &[u8]) -> Option<(PlaceId, PlaceId)> {
        let Route { server, backup } = self.route(key)?;
        let backup = backup?;
        Some(match role {
            Role::Server => (server, backup),
            Role::Backup => (backup, server),
        })
    }

    fn begin_owed(&mut self, now: Now, role: Role, target: PlaceId) -> bool {
        let slot = Arc::clone(&self.places[target].slot);
        let mut keys = VecDeque::new();
        let mut from = None;
        for key in slot.owed(OWED_AT_ONCE) {
            match self.counterpart(role, &key) {
                Some((place, source)) if place == target => {
                    if *from.get_or_insert(source) == source {
                        let item = Item { key, exp: 0, size: 0 };
                        keys.push_back(Key { item, target, tries: 0 });
                    }
                }
                // A reload has given it to somebody else.
                _ => slot.paid(&key),
            }
        }
        let Some(source) = from else { return false };
        if !self.is_ready(now, target) || !self.is_ready(now, source) {
            return false;
        }
        let targets = vec![Target { place: target, slot, period: None, hurt: false }];
        self.start(now, Run { keys, ..Run::new(now, role, source, targets) });
        true
    }

    fn begin_dump(&mut self, now: Now, role: Role, source: PlaceId, among: &[PlaceId]) -> bool {
        let name = Arc::clone(&self.places[source].slot);
        let mut targets = Vec::new();
        for &place in among {
            let slot = Arc::clone(&self.places[place].slot);
            if slot.needs(name.name()) && self.is_ready(now, place) {
                let period = slot.period();
                targets.push(Target { place, slot, period, hurt: false });
            }
        }
        if targets.is_empty() || !self.is_ready(now, source) {
            return false;
        }
        let from = self.writer(source);
        let Some(lane) = self.begin_lane(now, from, Job::Dump, PATIENCE_US) else { return false };
        self.lanes[lane].lane.out().extend_from_slice(dump::COMMAND);
        let names: Vec<&str> = targets.iter().map(|target| target.slot.name()).collect();
        log::info!("proxy: looking at the keys of {} for {}", name.name(), names.join(" "));
        let run = Run::new(now, role, source, targets);
        self.start(now, Run { lane: Some(lane), dump: true, ..run });
        true
    }

    fn start(&mut self, now: Now, run: Run) {
        self.walker.runs += 1;
        self.walker.run = Some(Run { number: self.walker.runs, ..run });
        self.walker.due = now.mono_us;
    }

    /// Something was received on the lane of a dump.
    pub(super) fn dump_received(&mut self, now: Now, lane: LaneId) {
        let Some(run) = &self.walker.run else { return self.drop_lane(lane) };
        if run.lane != Some(lane) {
            return self.drop_lane(lane);
        }
        self.walker.due = self.walker.due.min(now.mono_us);
        let mut input = std::mem::take(&mut self.lanes[lane].lane.input);
        let mut end = None;
        while end.is_none() && !self.is_ahead() {
            let Some((line, used)) = dump::line(input.data()) else { break };
            match line {
                Line::Item(item) => self.take_item(now, item),
                Line::Other => {}
                other => end = Some(other),
            }
            input.consume(used);
        }
        let ahead = self.is_ahead();
        self.lanes[lane].lane.input = input;
        self.lanes[lane].lane.pause(now, ahead);
        let Some(end) = end else { return };
        let Some(run) = &mut self.walker.run else { return };
        match end {
            Line::End => {
                run.lane = None;
                return self.end_lane(now, lane);
            }
            Line::Refused => (run.lane, run.listed) = (None, false),
            Line::Busy => return self.interrupt(now, "it lists them for somebody else"),
            _ => return self.interrupt(now, "its answer makes no sense"),
        }
        self.drop_lane(lane);
    }

    fn is_ahead(&self) -> bool {
        self.walker.run.as_ref().is_none_or(|run| run.keys.len() >= AHEAD)
    }

    fn take_item(&mut self, now: Now, item: Item) {
        let Some(run) = &self.walker.run else { return };
        let expired = item.exp > 0 && item.exp <= i64::from(now.unix_secs());
        if expired {
            return;
        }
        let (role, source) = (run.role, run.source);
        let Some((target, from)) = self.counterpart(role, &item.key) else { return };
        let meta = |relay: &Relay, place| relay.backends[relay.writer(place)].speaks_meta();
        let fits = item.key.len() <= BASE64_KEY_MAX && meta(self, target) && meta(self, source);
        if !is_plain_key(&item.key) && !fits {
            // It came in a protocol that one of them, or the proxy, does not know.
            return;
        }
        let Some(run) = &mut self.walker.run else { return };
        if from == source && run.targets.iter().any(|t| t.place == target && !t.hurt) {
            run.keys.push_back(Key { item, target, tries: 0 });
        }
    }

    /// The lane of a dump is lost.
    pub(super) fn dump_lost(&mut self, now: Now, lane: LaneId, why: &Why) {
        if let Some(run) = &mut self.walker.run {
            if run.lane == Some(lane) {
                run.lane = None;
                self.interrupt(now, &why.to_string());
            }
        }
    }

    /// The walk has failed: again later.
    fn interrupt(&mut self, now: Now, why: &str) {
        let Some(run) = self.walker.run.take() else { return };
        if let Some(lane) = run.lane {
            self.drop_lane(lane);
        }
        let walker = &mut self.walker;
        walker.not_before = now.mono_us + walker.again_us;
        walker.again_us = (walker.again_us * 2).min(AGAIN_MAX_US);
        walker.due = walker.due.min(walker.not_before);
        let name = self.places[run.source].slot.name();
        log::info!(
            "proxy: the keys of {name} could not be looked at to the end ({why}): {} were, {} put \
             back",
            run.looked_at,
            run.copied
        );
    }

    /// Asks for as many keys as the pace allows, and ends the walk when all have been seen to.
    fn go_on_walking(&mut self, now: Now) {
        while let Some(key) = self.next_key(now) {
            if !self.check_key(now, key) {
                break;
            }
        }
        let Some(run) = &self.walker.run else { return };
        if let Some(lane) = run.lane {
            if self.lanes[lane].lane.stalled_us(now) > STALLED_US {
                return self.interrupt(now, "the pace is too slow");
            }
            if run.keys.len() <= AHEAD / 2 && !self.lanes[lane].lane.wants_read() {
                self.dump_received(now, lane);
            }
        }
        let Some(run) = &self.walker.run else { return };
        let waits = !run.keys.is_empty() || !run.later.is_empty();
        if waits && self.walker.steps.len() < STEPS {
            self.walker.due = self.walker.due.min(now.mono_us + SOON_US);
        }
        if run.lane.is_none() && !waits && self.walker.steps.is_empty() {
            self.end_run(now);
        }
    }

    fn next_key(&mut self, now: Now) -> Option<Key> {
        let walker = &mut self.walker;
        let run = walker.run.as_mut()?;
        if walker.budget <= 0 || walker.steps.len() >= STEPS {
            return None;
        }
        let is_due = run.later.front().is_some_and(|(at, _)| *at <= now.mono_us);
        let next = if is_due { run.later.front().map(|(_, key)| key) } else { run.keys.front() };
        if walker.bytes > 0 && walker.bytes + next?.item.size > STEP_BYTES {
            return None;
        }
        walker.budget -= 1;
        if is_due {
            return run.later.pop_front().map(|(_, key)| key);
        }
        run.looked_at += 1;
        run.keys.pop_front()
    }

    /// Asks the target whether it has the key. `false`: enough for now.
    fn check_key(&mut self, now: Now, key: Key) -> bool {
        let Some(run) = &mut self.walker.run else { return false };
        let target = run.targets.iter().find(|target| target.place == key.target && !target.hurt);
        let Some(target) = target else { return true };
        let (slot, number, source) = (Arc::clone(&target.slot), run.number, run.source);
        let id = self.writer(key.target);
        let step = Step { key, source, slot, run: number, seen: false };
        let call = Call::Walk { step: self.walker.steps.vacant_key() as u32 };
        let (backend, name) = (&mut self.backends[id], &step.key.item.key);
        let usable = if backend.speaks_meta() {
            // `u`: nobody has read it, so it moves nowhere in the LRU.
            backend.ask(now, call, Expect::Meta.again(), |out| {
                encode::meta_any(out, b"mg ", name, None, b"u");
            })
        } else {
            backend.ask(now, call, Expect::Values, |out| {
                encode::get(out, GetVerb::Get, 0, [&name[..]]);
            })
        };
        match usable {
            Usable::Yes => {
                self.walker.bytes += step.key.item.size;
                self.walker.steps.insert(step);
                true
            }
            Usable::Busy => {
                // Its clients need it more.
                if let Some(run) = &mut self.walker.run {
                    run.looked_at = run.looked_at.saturating_sub(1);
                    run.keys.push_front(step.key);
                }
                false
            }
            Usable::Down => {
                self.hurt(step.key.target);
                true
            }
        }
    }

    fn hurt(&mut self, place: PlaceId) {
        let Some(run) = &mut self.walker.run else { return };
        run.targets.iter_mut().filter(|t| t.place == place).for_each(|t| t.hurt = true);
        run.keys.retain(|key| key.target != place);
        run.later.retain(|(_, key)| key.target != place);
    }

    /// The target has the value, and its server is too old to say so without sending it.
    pub(super) fn walk_value(&mut self, step: u32, key: &[u8]) -> bool {
        let Some(step) = self.walker.steps.get_mut(step as usize) else { return false };
        step.seen = true;
        *step.key.item.key == *key
    }

    /// The target has answered whether it has the key.
    pub(super) fn walk_checked(&mut self, now: Now, id: u32, reply: Reply<'_>) {
        let Some(step) = self.walker.steps.get(id as usize) else { return };
        match reply {
            Reply::MetaMiss { .. } => {}
            Reply::End if !step.seen => {}
            Reply::Error(_) => return self.walk_done(now, id, Outcome::Refused),
            _ => return self.walk_done(now, id, Outcome::Fine),
        }
        let Item { size, exp, .. } = step.key.item;
        self.walker.budget -= i64::try_from(size / BYTES_PER_KEY).unwrap_or(i64::MAX / 4);
        let (key, target, source) = (step.key.item.key.clone(), step.key.target, step.source);
        self.fill_walk(now, &key, (target, source), id, exp);
    }

    /// A key has been seen to.
    pub(super) fn walk_done(&mut self, now: Now, id: u32, outcome: Outcome) {
        let Some(step) = self.walker.steps.try_remove(id as usize) else { return };
        let walker = &mut self.walker;
        walker.bytes -= step.key.item.size;
        walker.due = walker.due.min(now.mono_us);
        if matches!(outcome, Outcome::Fine | Outcome::Copied | Outcome::Refused) {
            step.slot.paid(&step.key.item.key);
        }
        let Some(run) = walker.run.as_mut().filter(|run| run.number == step.run) else { return };
        match outcome {
            Outcome::Fine => {}
            Outcome::Copied => run.copied += 1,
            Outcome::Refused => run.refused += 1,
            Outcome::Later if step.key.tries < TRIES && run.later.len() < LATER_MAX => {
                let mut key = step.key;
                key.tries += 1;
                run.later.push_back((now.mono_us + LATER_US, key));
            }
            Outcome::Later | Outcome::Lost => self.hurt(step.key.target),
        }
    }

    fn end_run(&mut self, now: Now) {
        let Some(run) = self.walker.run.take() else { return };
        let source = Arc::clone(&self.places[run.source].slot);
        // A memcached lists its items queue by queue, and one that changes queues meanwhile may be
        // in neither list: whoever put something back looks again.
        let again = run.dump && run.copied > 0 && self.walker.repeats < REPEATS_MAX;
        self.walker.repeats = if again { self.walker.repeats + 1 } else { 0 };
        for target in run.targets.iter().filter(|target| !target.hurt && !again) {
            if let Some(period) = target.period {
                target.slot.walked(period, source.name(), run.listed);
            }
        }
        let walker = &mut self.walker;
        let hurt = run.targets.iter().any(|target| target.hurt);
        let wait = if hurt { walker.again_us } else { 0 };
        walker.again_us = if hurt { (wait * 2).min(AGAIN_MAX_US) } else { AGAIN_MIN_US };
        walker.not_before = now.mono_us + wait;
        walker.due = walker.due.min(walker.not_before);
        let ms = now.mono_us.saturating_sub(run.began) / 1000;
        let name = source.name();
        let Run { looked_at, copied, refused, .. } = run;
        if !run.listed {
            let secs = walker.cold_us / 1_000_000;
            log::info!("proxy: {name} cannot list its keys: misses are asked of it for {secs} s");
        } else if run.dump {
            log::info!(
                "proxy: {looked_at} keys of {name} looked at in {ms} ms, {copied} put back, \
                 {refused} refused{}",
                if hurt { ", and somebody was lost on the way" } else { "" }
            );
        } else {
            log::debug!("proxy: {looked_at} missed keys, {copied} put back from {name}");
        }
    }
}

impl Run {
    fn new(now: Now, role: Role, source: PlaceId, targets: Vec<Target>) -> Run {
        Run {
            number: 0,
            source,
            role,
            targets,
            lane: None,
            dump: false,
            listed: true,
            keys: VecDeque::new(),
            later: VecDeque::new(),
            began: now.mono_us,
            looked_at: 0,
            copied: 0,
            refused: 0,
        }
    }
}
