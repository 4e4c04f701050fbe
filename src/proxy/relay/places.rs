//! Places, their members, and the connections that lead there.
//!
//! Owns which backend stands for which member of which place, and what a reload changes. Ids of
//! places and backends stay good for as long as a request may name them: what a reload removes is
//! taken apart when nothing is in flight. Never decides what a request means.
//!
//! ```text
//!   Routes: key -> index of a place --> PlaceId --> members: BackendId, BackendId ...
//!                                                            |
//!                                        Backend (shared connection), lanes
//! ```

use std::collections::HashSet;
use std::sync::Arc;

use super::super::backend::{Backend, News, Usable};
use super::super::cold::{Reason, Slot};
use super::super::config::Endpoint;
use super::super::route::Routes;
use super::{LinkId, Relay, LANES};
use crate::base::clock::Now;

/// A place in this relay. Not its index on the ring: that one changes with a reload.
pub type PlaceId = usize;
/// A server in this relay.
pub type BackendId = usize;

/// Where one key goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Reads and writes go here first.
    pub server: PlaceId,
    /// Writes are copied here, and reads fall back to it.
    pub backup: Option<PlaceId>,
}

/// Whether a place holds the keys or their copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Server,
    Backup,
}

#[derive(Debug)]
pub(super) struct Place {
    pub role: Role,
    pub members: Vec<BackendId>,
    /// The index of the nearest of them: see [`super::group`].
    pub nearest: usize,
    /// What it has lost; all workers know.
    pub slot: Arc<Slot>,
}

/// A server and how it is reached.
#[derive(Debug)]
pub(super) struct Seat {
    role: Role,
    pub endpoint: Endpoint,
    /// No place names it any more: it goes when nobody waits on it.
    retired: bool,
}

/// The present routes, in terms of this relay's places.
#[derive(Debug)]
pub(super) struct Router {
    pub routes: Arc<Routes>,
    /// By index on the ring.
    pub servers: Vec<PlaceId>,
    pub backups: Vec<PlaceId>,
    /// When what a reload has left is looked at, if it has left anything.
    leftovers: Option<u64>,
}

/// Under load there is always something in flight: what of it names a place that has gone is
/// looked for at most so often, in microseconds.
const TIDY_US: u64 = 100_000;

/// Places and backends that something in flight names.
#[derive(Debug, Default)]
pub(super) struct Named {
    pub places: HashSet<PlaceId>,
    pub backends: HashSet<BackendId>,
}

impl Named {
    pub(super) fn route(&mut self, route: &Route) {
        self.places.insert(route.server);
        self.places.extend(route.backup);
    }
}

impl Router {
    pub(super) fn new(routes: Arc<Routes>) -> Router {
        Router { routes, servers: Vec::new(), backups: Vec::new(), leftovers: None }
    }

    /// When [`Relay::tidy_up`] has something to look at.
    pub(super) fn tidy_due(&self) -> Option<u64> {
        self.leftovers
    }
}

impl Relay {
    /// The key's route, or `None` where there is no server at all.
    pub(super) fn route(&self, key: &[u8]) -> Option<Route> {
        let router = &self.router;
        let server = router.servers[router.routes.server(key)?];
        let backup = router.routes.backup(key).map(|index| router.backups[index]);
        Some(Route { server, backup })
    }

    /// Whether a place takes requests.
    pub(super) fn usable(&self, place: PlaceId) -> Usable {
        self.backends[self.writer(place)].usable()
    }

    /// Whether `key` is to be left alone on `place` for now: another worker has a write of it to
    /// make good there, and what the place has may be old.
    pub(super) fn is_behind(&self, place: PlaceId, key: &[u8]) -> bool {
        self.places[place].slot.behind().by_another(key, self.worker)
    }

    /// Whether `key` is to be read and written on its backup instead, for that reason.
    pub(super) fn must_pass_by(&self, route: Route, key: &[u8]) -> bool {
        route.backup.is_some_and(|backup| {
            self.is_behind(route.server, key) && self.usable(backup) == Usable::Yes
        })
    }

    /// A write of `key` did not reach this place, or may not have.
    pub(super) fn missed_key(&mut self, place: PlaceId, key: &[u8]) {
        let now = self.last_now;
        // Whatever was read for a fill before is old.
        self.guard.missed(key);
        let Relay { places, backends, .. } = self;
        for &id in &places[place].members {
            backends[id].missed_key(key);
        }
        if !self.router.backups.is_empty() {
            places[place].slot.owe(now, key);
            places[place].slot.behind().add(key, self.worker);
        }
    }

    /// Takes in what a server has told about what it holds.
    pub(super) fn hear(&mut self, id: BackendId, now: Now) {
        let news = self.backends[id].take_news();
        if news.is_empty() {
            return;
        }
        let places = self.places.iter().filter(|(_, place)| place.members.contains(&id));
        for (_, Place { slot, .. }) in places {
            for one in &news {
                match one {
                    News::Met { who, was_lost } => {
                        slot.met(now, self.backends[id].name(), *who, *was_lost);
                    }
                    News::Deleted(key) => {
                        slot.owe(now, key);
                        slot.behind().done(key, self.worker);
                    }
                    News::Flushed => {
                        slot.chill(now, Reason::Missed);
                        slot.behind().clear(self.worker);
                    }
                }
            }
        }
    }

    /// Whether there are backups at all.
    pub fn has_backups(&self) -> bool {
        !self.router.backups.is_empty()
    }

    /// Takes new routes. Servers that stay keep their connections and what is known about them;
    /// those that are gone answer what they have been asked, and nothing more.
    pub fn reload(&mut self, routes: Arc<Routes>) {
        if Arc::ptr_eq(&routes, &self.router.routes) && !self.places.is_empty() {
            return;
        }
        self.walk_reloaded();
        let leftovers = (!self.places.is_empty()).then_some(0);
        self.seats.iter_mut().for_each(|(_, seat)| seat.retired = true);
        let places = |relay: &mut Relay, role, list: &[super::super::config::Place]| {
            list.iter().map(|place| relay.take_place(role, place)).collect::<Vec<_>>()
        };
        let servers = places(self, Role::Server, routes.servers());
        let backups = places(self, Role::Backup, routes.backups());
        self.router = Router { routes, servers, backups, leftovers };
        let groups = self.places.iter().any(|(_, place)| place.members.len() > 1);
        self.look_at = groups.then_some(0);
        let paired = !self.router.backups.is_empty();
        self.backends.iter_mut().for_each(|(_, backend)| backend.watch(paired));
        self.tidy_up();
    }

    fn take_place(&mut self, role: Role, place: &super::super::config::Place) -> PlaceId {
        let members: Vec<BackendId> =
            place.members.iter().map(|m| self.take_seat(role, &m.endpoint)).collect();
        let same = self.places.iter().find(|(_, p)| p.role == role && p.members == members);
        match same {
            Some((id, _)) => id,
            None => {
                let name = match role {
                    Role::Server => place.to_string(),
                    Role::Backup => format!("backup {place}"),
                };
                // Whether a backup has lost anything is only known when it is seen to.
                let slot = self.guard.cold().slot(&name, role == Role::Server);
                self.places.insert(Place { role, members, nearest: 0, slot })
            }
        }
    }

    fn take_seat(&mut self, role: Role, endpoint: &Endpoint) -> BackendId {
        let mut seats = self.seats.iter_mut();
        if let Some((id, seat)) = seats.find(|(_, s)| s.role == role && s.endpoint == *endpoint) {
            seat.retired = false;
            return id;
        }
        let figures = self.figures.server(self.worker, role == Role::Backup, endpoint);
        let backend = Backend::new(endpoint.to_string(), self.limits, figures);
        let id = self.backends.insert(backend);
        let seat = Seat { role, endpoint: endpoint.clone(), retired: false };
        let beside = self.seats.insert(seat);
        debug_assert_eq!(id, beside, "both slabs are filled and emptied together");
        id
    }

    /// Takes apart what a reload has left, as soon as nothing can name it any more.
    pub(super) fn tidy_up(&mut self) {
        let Some(due) = self.router.leftovers else { return };
        let mut named = Named::default();
        if !self.is_quiet() {
            if self.last_now.mono_us < due {
                return;
            }
            self.router.leftovers = Some(self.last_now.mono_us + TIDY_US);
            named = self.named();
        }
        let Relay { places, seats, backends, lanes, router, gone, .. } = self;
        let busy = |id: &BackendId| named.backends.contains(id);
        let worker = self.worker;
        places.retain(|id, place| {
            let wanted = router.servers.contains(&id) || router.backups.contains(&id);
            let stays = wanted || named.places.contains(&id) || place.members.iter().any(busy);
            if !stays {
                place.slot.behind().clear(worker);
            }
            stays
        });
        let held: HashSet<BackendId> =
            places.iter().flat_map(|(_, place)| place.members.iter().copied()).collect();
        let goes = |id: BackendId, seat: &Seat| seat.retired && !held.contains(&id) && !busy(&id);
        lanes.retain(|id, lane| {
            let stays = !goes(lane.backend, &seats[lane.backend]);
            if !stays {
                gone.push(LANES + id);
            }
            stays
        });
        let mut left = false;
        seats.retain(|id, seat| {
            let goes = goes(id, seat);
            if goes {
                backends.remove(id);
                gone.push(id);
            }
            left |= seat.retired && !goes;
            !goes
        });
        let wanted = router.servers.iter().chain(&router.backups).collect::<HashSet<_>>().len();
        if !left && places.len() == wanted {
            router.leftovers = None;
        }
        self.figures.sweep();
    }

    /// What everything in flight names.
    fn named(&self) -> Named {
        let mut named = Named::default();
        self.name_reads(&mut named);
        self.name_writes(&mut named);
        self.name_fills(&mut named);
        self.bulk.name(&mut named);
        self.walker.name(&mut named);
        named.places.extend(self.touches.iter().map(|(_, (place, _))| place));
        let asked = self.backends.iter().filter(|(_, backend)| !backend.is_quiet());
        named.backends.extend(asked.map(|(id, _)| id));
        let busy = self.lanes.iter().filter(|(_, seat)| !seat.lane.is_idle());
        named.backends.extend(busy.map(|(_, seat)| seat.backend));
        named
    }

    /// Connections that are no more, since the last call: their sockets can be closed.
    pub fn take_gone(&mut self) -> Vec<LinkId> {
        std::mem::take(&mut self.gone)
    }

    /// Where a connection leads.
    pub fn endpoint(&self, id: LinkId) -> &Endpoint {
        &self.seats[self.backend_of(id)].endpoint
    }
}
