//! One large value on its way from a server to a client.
//!
//! Owns the transfers to clients. The front asks for one when everything before it has left, so a
//! client has at most one at a time. Until its first byte is with the client a transfer may fail
//! over; afterwards the client's connection breaks with it, as its server's would have.

use super::super::lanes::{Job, LaneId};
use super::super::places::{Named, Route};
use super::super::{Client, Relay, BACKUP_UNIQUE};
use super::{Waiter, WINDOW};
use crate::base::buf::Buf;
use crate::base::clock::Now;
use crate::base::replies::Ticket;
use crate::protocol::classic::{encode, parse_reply, Reply};
use crate::protocol::{GetVerb, Parsed};
use crate::proxy::backend::Usable;
use crate::proxy::fanout::{Piece, Verdict};

/// A transfer in this relay.
pub type GetId = u32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Server,
    /// The server was lost with the question on the way.
    ServerAgain,
    Backup,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// For a lane.
    Waiting,
    /// For the line before the value.
    Head,
    /// So many bytes are still to come, `\r\n` included.
    Body(u64),
    /// For `END`.
    End,
}

#[derive(Debug)]
pub(in super::super) struct Get {
    client: Client,
    ticket: Ticket,
    piece: Piece,
    /// `None`: there is no server at all.
    route: Option<Route>,
    stage: Stage,
    state: State,
    lane: Option<LaneId>,
    /// Bytes that the client has not taken yet.
    unsent: usize,
}

enum Next {
    /// More bytes are needed.
    Wait,
    Part {
        bytes: Vec<u8>,
        used: usize,
    },
    /// It is over, and this is the last of it.
    Done(Vec<u8>, usize),
    /// This server does not have it.
    Miss,
    Garbage,
}

impl Relay {
    /// Begins to fetch the large value that `piece` names, for `ticket`, which is the next to be
    /// answered. Parts come as completions with `more`, then one without.
    pub fn begin_get(&mut self, now: Now, client: Client, ticket: Ticket, piece: Piece) -> GetId {
        let (Piece::Value { key, .. } | Piece::Meta { key, .. }) = &piece else {
            unreachable!("bytes are not fetched")
        };
        let route = self.route(key);
        let (stage, state, lane, unsent) = (Stage::Server, State::Waiting, None, 0);
        let get = Get { client, ticket, piece, route, stage, state, lane, unsent };
        let id = self.bulk.gets.insert(get) as GetId;
        self.start_get(now, id);
        id
    }

    /// The client has so many bytes of the value still to take.
    pub fn get_level(&mut self, id: GetId, client: Client, unsent: usize) {
        let now = self.last_now;
        let get = self.bulk.gets.get_mut(id as usize).filter(|get| get.client == client);
        let Some(get) = get else { return };
        get.unsent = unsent;
        if let Some(seat) = get.lane.and_then(|lane| self.lanes.get_mut(lane)) {
            seat.lane.pause(now, unsent >= WINDOW);
        }
    }

    /// The client is gone.
    pub fn cancel_get(&mut self, id: GetId, client: Client) {
        // It may have ended, and its number be another's.
        if self.bulk.gets.get(id as usize).is_none_or(|get| get.client != client) {
            return;
        }
        let get = self.bulk.gets.remove(id as usize);
        self.bulk.leave_line(Waiter::Get(id));
        if let Some(lane) = get.lane {
            self.drop_lane(lane);
        }
    }

    pub(super) fn start_get(&mut self, now: Now, id: GetId) {
        let Some(get) = self.bulk.gets.get(id as usize) else { return };
        let Some(Route { server, backup }) = get.route else {
            return self.finish_get(id, Vec::new(), Verdict::Unreachable);
        };
        let place = match (get.stage, backup) {
            (Stage::Backup, Some(backup)) => backup,
            _ => server,
        };
        let (Piece::Value { key, .. } | Piece::Meta { key, .. }) = &get.piece else { return };
        let backend = self.reader(place, key);
        if self.backends[backend].usable() == Usable::Down {
            return self.next_stage(now, id);
        }
        let Some(lane) = self.begin_lane(now, backend, Job::Get(id), self.limits.request_us) else {
            return self.bulk.wait(Waiter::Get(id), Some(backend));
        };
        let get = &mut self.bulk.gets[id as usize];
        get.lane = Some(lane);
        get.state = State::Head;
        let out = self.lanes[lane].lane.out();
        match &get.piece {
            Piece::Value { key, cas } => {
                let verb = if *cas { GetVerb::Gets } else { GetVerb::Get };
                encode::get(out, verb, 0, [&key[..]]);
            }
            Piece::Meta { line, .. } => out.extend_from_slice(line),
            Piece::Bytes(_) => {}
        }
    }

    /// Asks elsewhere, or gives up.
    fn next_stage(&mut self, now: Now, id: GetId) {
        let get = &mut self.bulk.gets[id as usize];
        get.lane = None;
        get.state = State::Waiting;
        match (get.stage, get.route.and_then(|route| route.backup)) {
            (Stage::Server | Stage::ServerAgain, Some(_)) => {
                get.stage = Stage::Backup;
                self.start_get(now, id);
            }
            _ => self.finish_get(id, Vec::new(), Verdict::Unreachable),
        }
    }

    fn finish_get(&mut self, id: GetId, rest: Vec<u8>, verdict: Verdict) {
        let Some(get) = self.bulk.gets.try_remove(id as usize) else { return };
        self.tell(get.client, Some(get.ticket), rest, verdict, false);
    }

    /// Nobody can go on with it: the client's connection ends in the middle of the value.
    pub(super) fn break_get(&mut self, id: GetId) {
        if let Some(lane) = self.bulk.gets.get(id as usize).and_then(|get| get.lane) {
            self.drop_lane(lane);
        }
        self.finish_get(id, Vec::new(), Verdict::Broken);
    }

    pub(in super::super) fn get_received(&mut self, now: Now, lane: LaneId, id: GetId) {
        let mut input = std::mem::take(&mut self.lanes[lane].lane.input);
        loop {
            match self.get_step(id, &input) {
                Next::Wait => break,
                Next::Part { bytes, used } => {
                    input.consume(used);
                    let get = &mut self.bulk.gets[id as usize];
                    get.unsent += bytes.len();
                    let (client, ticket, full) = (get.client, get.ticket, get.unsent >= WINDOW);
                    self.lanes[lane].lane.pause(now, full);
                    self.tell(client, Some(ticket), bytes, Verdict::Reached, true);
                }
                Next::Done(rest, used) => {
                    input.consume(used);
                    self.lanes[lane].lane.input = input;
                    self.end_lane(now, lane);
                    return self.finish_get(id, rest, Verdict::Reached);
                }
                Next::Miss => {
                    input.consume(input.len());
                    self.lanes[lane].lane.input = input;
                    self.end_lane(now, lane);
                    return self.get_missed(now, id);
                }
                Next::Garbage => {
                    self.drop_lane(lane);
                    return self.get_failed(now, id);
                }
            }
        }
        input.shrink_idle(WINDOW);
        self.lanes[lane].lane.input = input;
    }

    fn get_missed(&mut self, now: Now, id: GetId) {
        let get = &self.bulk.gets[id as usize];
        let backup = get.route.and_then(|route| route.backup);
        if get.stage != Stage::Backup && backup.is_some() {
            return self.next_stage(now, id);
        }
        let rest = match &get.piece {
            Piece::Meta { .. } => b"EN\r\n".to_vec(),
            _ => Vec::new(),
        };
        self.finish_get(id, rest, Verdict::Reached);
    }

    /// The lane is gone.
    pub(in super::super) fn get_failed(&mut self, now: Now, id: GetId) {
        let Some(get) = self.bulk.gets.get_mut(id as usize) else { return };
        get.lane = None;
        match (get.state, get.stage) {
            (State::Body(_) | State::End, _) => self.break_get(id),
            (_, Stage::Server) => {
                // The lane may have been closed for idleness while the question was on its way.
                get.stage = Stage::ServerAgain;
                get.state = State::Waiting;
                self.start_get(now, id);
            }
            _ => self.next_stage(now, id),
        }
    }

    fn get_step(&mut self, id: GetId, input: &Buf) -> Next {
        let Some(get) = self.bulk.gets.get_mut(id as usize) else { return Next::Garbage };
        let data = input.data();
        if data.is_empty() {
            return Next::Wait;
        }
        match get.state {
            State::Waiting => Next::Garbage,
            State::Body(left) => get.body(left, data),
            State::Head | State::End => match parse_reply(data) {
                Parsed::Incomplete => Next::Wait,
                Parsed::Reject { .. } => Next::Garbage,
                Parsed::Done { value, used } if get.state == State::Head => {
                    get.head(&value, &data[..used])
                }
                Parsed::Done { value: Reply::End, used } => Next::Done(Vec::new(), used),
                Parsed::Done { .. } => Next::Garbage,
            },
        }
    }
}

impl Get {
    pub(super) fn name(&self, named: &mut Named) {
        self.route.iter().for_each(|route| named.route(route));
    }

    /// What comes before the value, or instead of it.
    fn head(&mut self, reply: &Reply<'_>, raw: &[u8]) -> Next {
        let used = raw.len();
        match (&self.piece, reply) {
            (Piece::Value { key, cas: wanted }, Reply::Value { key: named, flags, len, cas })
                if **key == **named && *wanted == cas.is_some() =>
            {
                let mark = if self.stage == Stage::Backup { BACKUP_UNIQUE } else { 0 };
                let mut bytes = Vec::with_capacity(used + 24);
                encode::value_head(
                    &mut bytes,
                    key,
                    *flags,
                    *len as usize,
                    cas.map(|cas| cas | mark),
                );
                self.state = State::Body(u64::from(*len) + 2);
                Next::Part { bytes, used }
            }
            (Piece::Value { .. }, Reply::End) => Next::Miss,
            (Piece::Meta { .. }, Reply::MetaValue { len, .. }) => {
                self.state = State::Body(u64::from(*len) + 2);
                Next::Part { bytes: raw.to_vec(), used }
            }
            (Piece::Meta { .. }, Reply::MetaMiss { .. }) => Next::Miss,
            (Piece::Meta { .. }, Reply::MetaHit { .. } | Reply::MetaOther(_) | Reply::Error(_)) => {
                Next::Done(raw.to_vec(), used)
            }
            // An error in the middle of a get is left out of it, as a key that is not there.
            (Piece::Value { .. }, Reply::Error(_)) => Next::Done(Vec::new(), used),
            _ => Next::Garbage,
        }
    }

    fn body(&mut self, left: u64, data: &[u8]) -> Next {
        let n = usize::try_from(left).unwrap_or(usize::MAX).min(data.len());
        let bytes = &data[..n];
        // The last two bytes of the block are its end of line.
        for (at, &byte) in bytes.iter().enumerate().skip(n.saturating_sub(2)) {
            let expected = match left - at as u64 {
                2 => b'\r',
                1 => b'\n',
                _ => continue,
            };
            if byte != expected {
                return Next::Garbage;
            }
        }
        if left > n as u64 {
            self.state = State::Body(left - n as u64);
            return Next::Part { bytes: bytes.to_vec(), used: n };
        }
        match self.piece {
            Piece::Meta { .. } => Next::Done(bytes.to_vec(), n),
            _ => {
                self.state = State::End;
                Next::Part { bytes: bytes.to_vec(), used: n }
            }
        }
    }
}
