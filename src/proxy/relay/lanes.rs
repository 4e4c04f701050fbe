//! The relay's lanes: who has which, and what is done with what comes in there.
//!
//! Owns the lanes of one worker. To the worker a lane is a connection like a backend's, with a
//! number from [`LANES`] on. Each has one job at a time; the job's own file knows what the bytes
//! mean. Numbers are never used twice: what is left of a lane (a socket, an event, a byte) must not
//! be taken for something of the next one.

use std::collections::BTreeMap;
use std::ops::{Index, IndexMut};

use super::super::backend::{Usable, Why};
use super::super::lane::Lane;
use super::places::BackendId;
use super::{GetId, PutId, Relay};
use crate::base::clock::Now;

/// A lane in this relay.
pub(super) type LaneId = usize;
/// A connection as the worker sees it: a backend's, or a lane's from [`LANES`] on.
pub type LinkId = usize;
/// Lanes have the link numbers from here on: more backends than a ring can have points for.
pub const LANES: LinkId = 1 << 20;
/// Lanes to one server in one worker: as many long values under way as saturate a link, and few
/// enough that they leave the server its connections for others.
const LANES_PER_SERVER: usize = 4;

/// What a lane is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Job {
    /// Nothing.
    Idle,
    /// The keys of a server, for those that have lost them.
    Dump,
    /// A value on its way to a client.
    Get(GetId),
    /// A value on its way from a client: to the server, or the backup.
    Put { put: PutId, leg: u8 },
}

#[derive(Debug)]
pub(super) struct Seat {
    pub backend: BackendId,
    pub job: Job,
    pub lane: Lane,
}

/// The lanes of a worker, in the order of their beginning.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    seats: BTreeMap<LaneId, Seat>,
    /// The next lane's number.
    next: LaneId,
}

impl Lanes {
    fn insert(&mut self, seat: Seat) -> LaneId {
        let id = self.next;
        self.next += 1;
        self.seats.insert(id, seat);
        id
    }

    pub fn contains(&self, id: LaneId) -> bool {
        self.seats.contains_key(&id)
    }

    pub fn get_mut(&mut self, id: LaneId) -> Option<&mut Seat> {
        self.seats.get_mut(&id)
    }

    pub fn iter(&self) -> impl Iterator<Item = (LaneId, &Seat)> {
        self.seats.iter().map(|(&id, seat)| (id, seat))
    }

    pub fn retain(&mut self, mut stays: impl FnMut(LaneId, &Seat) -> bool) {
        self.seats.retain(|&id, seat| stays(id, seat));
    }
}

impl Index<LaneId> for Lanes {
    type Output = Seat;

    fn index(&self, id: LaneId) -> &Seat {
        &self.seats[&id]
    }
}

impl IndexMut<LaneId> for Lanes {
    fn index_mut(&mut self, id: LaneId) -> &mut Seat {
        self.seats.get_mut(&id).expect("a lane that is there")
    }
}

impl Relay {
    /// A lane to `backend` for `job`, which gives up after `patience_us` without a byte. `None`:
    /// all are taken, or the server is down.
    pub(super) fn begin_lane(
        &mut self,
        now: Now,
        backend: BackendId,
        job: Job,
        patience_us: u64,
    ) -> Option<LaneId> {
        if self.backends[backend].usable() == Usable::Down {
            return None;
        }
        // Whoever has just got what he wanted and wants more would overtake them all.
        if job != Job::Dump && self.bulk.waiting.iter().any(|one| one.lane_of == Some(backend)) {
            return None;
        }
        let mut taken = 0;
        for (&id, seat) in self.lanes.seats.iter_mut().filter(|(_, seat)| seat.backend == backend) {
            if seat.lane.is_idle() {
                seat.lane.begin(now, patience_us);
                seat.job = job;
                seat.lane.hurry(job != Job::Dump);
                return Some(id);
            }
            taken += 1;
        }
        if taken >= LANES_PER_SERVER {
            return None;
        }
        let mut lane = Lane::new(now, self.limits.connect_us, patience_us);
        lane.hurry(job != Job::Dump);
        Some(self.lanes.insert(Seat { backend, job, lane }))
    }

    /// The job of a lane has ended as it should.
    pub(super) fn end_lane(&mut self, now: Now, id: LaneId) {
        let Some(seat) = self.lanes.get_mut(id) else { return };
        seat.job = Job::Idle;
        self.bulk.freed = true;
        if !seat.lane.end(now) {
            self.drop_lane(id);
        }
    }

    /// Closes a lane whatever is on its way there. Its job hears nothing of it.
    pub(super) fn drop_lane(&mut self, id: LaneId) {
        if self.lanes.seats.remove(&id).is_some() {
            self.bulk.freed = true;
            self.gone.push(LANES + id);
        }
    }

    /// Something was received on a lane. `false`: it is to be closed.
    pub(super) fn lane_received(&mut self, now: Now, id: LaneId) -> bool {
        let Some(seat) = self.lanes.seats.get(&id) else { return false };
        match seat.job {
            // Nobody asked for anything.
            Job::Idle => self.drop_lane(id),
            Job::Dump => self.dump_received(now, id),
            Job::Get(get) => self.get_received(now, id, get),
            Job::Put { put, leg } => self.put_received(now, id, put, leg),
        }
        self.lanes.contains(id)
    }

    /// The backend to which a connection leads.
    pub fn backend_of(&self, id: LinkId) -> BackendId {
        id.checked_sub(LANES).map_or(id, |lane| self.lanes[lane].backend)
    }

    /// A lane's connection is over.
    pub(super) fn lane_failed(&mut self, now: Now, id: LaneId, why: &Why) {
        let Some(seat) = self.lanes.seats.remove(&id) else { return };
        self.bulk.freed = true;
        if !seat.lane.was_up() {
            // The server's own connection finds out whether it is down, for all who come next.
            self.backends[seat.backend].wake(now);
        }
        if seat.job != Job::Idle {
            log::debug!("proxy: a lane to {}: {why}", self.backends[seat.backend].name());
        }
        match seat.job {
            Job::Idle => {}
            Job::Dump => self.dump_lost(now, id, why),
            Job::Get(get) => self.get_failed(now, get),
            Job::Put { put, leg } => self.put_failed(put, leg),
        }
    }
}
