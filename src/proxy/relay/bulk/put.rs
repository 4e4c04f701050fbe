//! One large value on its way from a client to a server, and to its backup.
//!
//! Owns the transfers from clients. The front feeds one transfer at a time; both legs get the same
//! bytes, and the client is not read while either of them does not take more.
//!
//! ```text
//!   front: begin, data ... data, end
//!                   |
//!                   +==> leg 0: server: command, data, \r\n --> answer ---+--> the client's answer
//!                   \==> leg 1: backup: the same ------------> answer ---/
//! ```
//!
//! The server's answer is the client's; the backup's where the server was lost. A leg that failed,
//! or stored what the other one refused, has its key deleted before it is trusted again.

use super::super::lanes::{Job, LaneId};
use super::super::places::{Named, PlaceId};
use super::super::{Client, Relay, CAN_NOT_CONNECT};
use super::{Waiter, WINDOW};
use crate::base::clock::Now;
use crate::base::replies::Ticket;
use crate::protocol::classic::{parse_reply, Reply};
use crate::protocol::Parsed;
use crate::proxy::backend::Usable;
use crate::proxy::fanout::Verdict;

/// A transfer in this relay.
pub type PutId = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// For a lane.
    Waiting,
    Open(LaneId),
    /// It has answered; whether it has the value.
    Answered {
        stored: bool,
    },
    /// It could not be reached.
    Failed,
}

#[derive(Debug)]
struct Leg {
    place: PlaceId,
    state: State,
    answer: Vec<u8>,
}

#[derive(Debug)]
pub(in super::super) struct Put {
    client: Client,
    ticket: Option<Ticket>,
    key: Box<[u8]>,
    quiet: bool,
    /// The command line.
    line: Box<[u8]>,
    /// One or two.
    legs: Vec<Leg>,
    /// Not sent to the backup, which forgets the key where the server takes the value.
    bypassed: Option<PlaceId>,
    /// The key has a backup.
    mirrored: bool,
    /// It has its turn to write the key.
    turn: bool,
    /// There was no room, and the front has not been told that there is again.
    starved: bool,
    /// All data has come.
    ended: bool,
}

/// What is to be transferred.
#[derive(Debug, Default)]
pub struct Transfer {
    /// Decoded.
    pub key: Box<[u8]>,
    /// The command line with its end, without noreply: every transfer has its answer.
    pub line: Vec<u8>,
    /// Its effect on the backup is the same, whatever the server answers: plain sets.
    pub both: bool,
    /// Success is not told.
    pub quiet: bool,
}

impl Put {
    pub(super) fn name(&self, named: &mut Named) {
        named.places.extend(self.legs.iter().map(|leg| leg.place));
        named.places.extend(self.bypassed);
    }
}

impl Relay {
    /// Begins to take a large value, which [`Relay::put_data`] brings. No other request of the
    /// client may be in flight.
    pub fn begin_put(
        &mut self,
        now: Now,
        client: Client,
        ticket: Option<Ticket>,
        transfer: Transfer,
    ) -> PutId {
        let Transfer { key, line, both, quiet } = transfer;
        self.count.cmd_set.add(1);
        self.count.cmd_meta.add(u64::from(line.starts_with(b"ms")));
        let leg = |place| Leg { place, state: State::Waiting, answer: Vec::new() };
        let route = self.route(&key);
        let backup = route.and_then(|route| route.backup);
        let mut legs: Vec<Leg> = route.iter().map(|route| leg(route.server)).collect();
        legs.extend(backup.filter(|_| both).map(leg));
        let bypassed = backup.filter(|_| !both);
        self.bulk.big_keys.note(&key, true);
        let id = self.bulk.puts.insert(Put {
            client,
            ticket,
            key,
            quiet,
            line: line.into(),
            legs,
            bypassed,
            mirrored: backup.is_some(),
            turn: false,
            starved: true,
            ended: false,
        }) as PutId;
        self.start_put(now, id);
        id
    }

    /// Gets lanes for the legs that have none, the server's first: so nobody can wait for the other
    /// one's lane in a circle.
    pub(super) fn start_put(&mut self, now: Now, id: PutId) {
        let Some(put) = self.bulk.puts.get_mut(id as usize) else { return };
        if put.mirrored && !put.turn {
            // Its connections are its own: nothing else may keep the order for it.
            put.turn = self.guard.turns().begin(&put.key, self.worker, true);
            if !put.turn {
                return self.bulk.wait(Waiter::Put(id), None);
            }
            self.guard.begin(&put.key, self.worker);
        }
        let put = &self.bulk.puts[id as usize];
        for leg in 0..put.legs.len() {
            let Leg { place, state, .. } = self.bulk.puts[id as usize].legs[leg];
            if state != State::Waiting {
                continue;
            }
            let backend = self.writer(place);
            if self.backends[backend].usable() == Usable::Down {
                self.bulk.puts[id as usize].legs[leg].state = State::Failed;
                continue;
            }
            let job = Job::Put { put: id, leg: leg as u8 };
            let Some(lane) = self.begin_lane(now, backend, job, self.limits.request_us) else {
                return self.bulk.wait(Waiter::Put(id), Some(backend));
            };
            self.wrote(place, &self.bulk.puts[id as usize].key, backend);
            let put = &mut self.bulk.puts[id as usize];
            put.legs[leg].state = State::Open(lane);
            let seat = &mut self.lanes[lane];
            seat.lane.out().extend_from_slice(&put.line);
            seat.lane.feed(now, true);
        }
    }

    /// Whether one of its legs still waits for a lane, while the other one's client is not read.
    pub(super) fn is_put_waiting(&self, id: PutId) -> bool {
        let put = self.bulk.puts.get(id as usize);
        put.is_some_and(|put| put.legs.iter().any(|leg| leg.state == State::Waiting))
    }

    /// How many bytes of data may be brought now. Where nobody takes them any more they are
    /// dropped.
    pub fn put_room(&mut self, id: PutId) -> usize {
        let Relay { bulk, lanes, .. } = self;
        let Some(put) = bulk.puts.get_mut(id as usize) else { return 0 };
        let room = put.legs.iter().map(|leg| match leg.state {
            State::Waiting => 0,
            State::Open(lane) => WINDOW.saturating_sub(lanes[lane].lane.queued()),
            State::Answered { .. } | State::Failed => WINDOW,
        });
        let room = room.min().unwrap_or(WINDOW);
        put.starved = room == 0;
        room
    }

    /// Brings so much of the data.
    pub fn put_data(&mut self, id: PutId, data: &[u8]) {
        let now = self.last_now;
        let Relay { bulk, lanes, .. } = self;
        let Some(put) = bulk.puts.get_mut(id as usize) else { return };
        for leg in &put.legs {
            if let State::Open(lane) = leg.state {
                lanes[lane].lane.bring(now, data);
            }
        }
    }

    /// All data has come, its `\r\n` included.
    pub fn put_end(&mut self, id: PutId) {
        let now = self.last_now;
        let Relay { bulk, lanes, .. } = self;
        let Some(put) = bulk.puts.get_mut(id as usize) else { return };
        put.ended = true;
        for leg in &put.legs {
            if let State::Open(lane) = leg.state {
                lanes[lane].lane.feed(now, false);
            }
        }
        self.finish_put(id);
    }

    /// The data will not come to its end: nothing is stored. No completion follows.
    pub fn cancel_put(&mut self, id: PutId, client: Client) {
        // It may have ended, and its number be another's.
        if self.bulk.puts.get(id as usize).is_none_or(|put| put.client != client) {
            return;
        }
        let put = self.bulk.puts.remove(id as usize);
        self.bulk.leave_line(Waiter::Put(id));
        for leg in &put.legs {
            if let State::Open(lane) = leg.state {
                self.drop_lane(lane);
            }
        }
        if put.turn {
            self.guard.end(&put.key);
            self.end_turn(&put.key);
        }
    }

    /// The client is too slow: its connection ends.
    pub(super) fn break_put(&mut self, id: PutId) {
        let Some(put) = self.bulk.puts.get(id as usize) else { return };
        let (client, ticket) = (put.client, put.ticket);
        self.cancel_put(id, client);
        self.tell(client, ticket, Vec::new(), Verdict::Broken, false);
    }

    /// Has the clients visited whose data can go on. To be called after sending: room grows by that
    /// and no event tells of it.
    pub fn nudge_puts(&mut self) {
        let starved = self.bulk.puts.iter().filter(|(_, put)| put.starved && !put.ended);
        let ids: Vec<usize> = starved.map(|(id, _)| id).collect();
        for id in ids {
            if self.put_room(id as PutId) > 0 {
                let put = &self.bulk.puts[id];
                let (client, ticket) = (put.client, put.ticket);
                self.tell(client, ticket, Vec::new(), Verdict::Reached, true);
            }
        }
    }

    pub(in super::super) fn put_received(&mut self, now: Now, lane: LaneId, id: PutId, leg: u8) {
        let input = std::mem::take(&mut self.lanes[lane].lane.input);
        let Some(put) = self.bulk.puts.get_mut(id as usize) else { return };
        let (reply, used) = match parse_reply(input.data()) {
            Parsed::Incomplete => {
                self.lanes[lane].lane.input = input;
                return;
            }
            Parsed::Reject { .. } => {
                self.drop_lane(lane);
                return self.put_failed(id, leg);
            }
            Parsed::Done { value, used } => (value, used),
        };
        let stored = matches!(reply, Reply::Stored | Reply::MetaHit { .. });
        let leg = &mut put.legs[usize::from(leg)];
        leg.answer = input.data()[..used].to_vec();
        leg.state = State::Answered { stored };
        let clean = put.ended && used == input.len();
        if clean {
            self.end_lane(now, lane);
        } else {
            // It refused before it had everything, and reads on or not: nobody can tell.
            self.drop_lane(lane);
        }
        self.finish_put(id);
    }

    /// The lane of a leg is gone.
    pub(in super::super) fn put_failed(&mut self, id: PutId, leg: u8) {
        let Some(put) = self.bulk.puts.get_mut(id as usize) else { return };
        put.legs[usize::from(leg)].state = State::Failed;
        self.finish_put(id);
    }

    fn finish_put(&mut self, id: PutId) {
        let put = &self.bulk.puts[id as usize];
        let open = |leg: &Leg| matches!(leg.state, State::Open(_) | State::Waiting);
        if !put.ended || put.legs.iter().any(open) {
            return;
        }
        let mut put = self.bulk.puts.remove(id as usize);
        let answered = |leg: &&mut Leg| matches!(leg.state, State::Answered { .. });
        let first = put.legs.iter_mut().find(answered);
        let first = first.map(|leg| (leg.state, std::mem::take(&mut leg.answer)));
        let (outcome, answer) = first.unwrap_or_else(|| (State::Failed, CAN_NOT_CONNECT.to_vec()));
        let stored = outcome == State::Answered { stored: true };
        let answer = if stored && put.quiet { Vec::new() } else { answer };
        for leg in &put.legs {
            // Each leg must have what the client was told, or nothing.
            let agrees = match leg.state {
                State::Answered { stored: has } => has == stored && has,
                _ => false,
            };
            if !agrees && put.mirrored {
                self.missed_key(leg.place, &put.key);
            }
        }
        if let Some(backup) = put.bypassed.filter(|_| stored) {
            self.missed_key(backup, &put.key);
        }
        if put.turn {
            self.guard.end(&put.key);
            self.end_turn(&put.key);
        }
        self.tell(put.client, put.ticket, answer, Verdict::Reached, false);
    }
}
