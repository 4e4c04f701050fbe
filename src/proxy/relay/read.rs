//! get, gets, gat and gats.
//!
//! Owns the reads in flight. A read is cut into chunks, one command line each, all sent at once.
//!
//! ```text
//!            hit ------------------------------------------------------> value
//!   server < miss --> fill (asks the backup) --> value, or server again
//!            unreachable --> backup < hit -----------------------------> value
//!                                     miss ----------------------------> miss
//!                                     unreachable ---------------------> failed
//! ```

use super::super::backend::{Expect, Usable};
use super::super::fanout::{Fanout, Verdict};
use super::places::{BackendId, Named, PlaceId, Route};
use super::{
    Call, Client, Completion, Relay, BACKUP_UNIQUE, CAN_NOT_CONNECT, HELD_MAX, OUT_OF_CONNECTION,
};
use crate::base::clock::Now;
use crate::base::replies::Ticket;
use crate::protocol::classic::{encode, Reply};
use crate::protocol::{GetVerb, Request};

/// Longest line of a gat: memcached takes longer lines only for get and gets.
const GAT_LINE_MAX: usize = 1900;
/// Longest line of a get. Longer ones would only make a server answer in larger pieces.
const GET_LINE_MAX: usize = 16 * 1024;

/// Values that may be looked for once more in one get because the server has lost them again after
/// they were put back.
const EXTRA_MAX: u8 = 64;

/// Which part of a client's get this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Portion {
    /// All of it: the reply has its END, or the error.
    Whole,
    /// A part: the reply has values only; the front ends the get.
    Part,
}

#[derive(Debug)]
pub(super) struct Read {
    client: Client,
    ticket: Ticket,
    cost: usize,
    portion: Portion,
    verb: GetVerb,
    exptime: i64,
    fan: Fanout,
    chunks: Vec<Chunk>,
    /// Chunks whose answers have not ended, and values on their way back to a server. The read must
    /// not end before them: they name it.
    open: usize,
    /// Counts up to [`EXTRA_MAX`].
    extra: u8,
    /// The first error that a backend answered.
    error: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Asked first.
    Server,
    /// Asked again, after the value was put back.
    Again,
    /// The server cannot be reached.
    Backup,
}

#[derive(Debug)]
struct Chunk {
    stage: Stage,
    slots: Vec<u32>,
    /// Index in `slots` of the first that no value has passed yet.
    next: usize,
    /// Whom it was asked.
    from: BackendId,
    /// How many members of the group were asked before.
    hops: usize,
}

/// Slots by the backend that is to be asked. Few backends: a list is faster than a map.
type Groups = Vec<(BackendId, Stage, Vec<u32>)>;

fn group(groups: &mut Groups, backend: BackendId, stage: Stage, slot: usize) {
    let slot = slot as u32;
    match groups.iter_mut().find(|(b, s, _)| (*b, *s) == (backend, stage)) {
        Some((_, _, slots)) => slots.push(slot),
        None => groups.push((backend, stage, vec![slot])),
    }
}

impl Read {
    /// A get of one key that has been asked of `from`, in chunk 0.
    pub(super) fn asked(
        client: Client,
        ticket: Ticket,
        cost: usize,
        verb: GetVerb,
        fan: Fanout,
        from: BackendId,
    ) -> Read {
        Read {
            client,
            ticket,
            cost,
            portion: Portion::Whole,
            verb,
            exptime: 0,
            fan,
            chunks: vec![Chunk { stage: Stage::Server, slots: vec![0], next: 0, from, hops: 0 }],
            open: 1,
            extra: 0,
            error: None,
        }
    }

    pub(super) fn fan_key(&self, slot: usize) -> &[u8] {
        self.fan.key(slot)
    }

    /// A value was put back, and is not there: whether it is looked for once more.
    fn another_round(&mut self, stage: Stage) -> bool {
        let again = stage == Stage::Again && self.extra < EXTRA_MAX;
        self.extra += u8::from(again);
        again
    }

    /// One thing more to end before the read does; [`Relay::read_let_go`] tells of it.
    pub(super) fn hold_open(&mut self) {
        self.open += 1;
    }
}

fn is_gat(verb: GetVerb) -> bool {
    matches!(verb, GetVerb::Gat | GetVerb::Gats)
}

impl Relay {
    /// Submits a get of the keys in `fan` (at least one). Whether some of their values are known
    /// to be large, and so are fetched when the reply is due.
    #[allow(clippy::too_many_arguments)]
    pub fn submit_get(
        &mut self,
        now: Now,
        client: Client,
        ticket: Ticket,
        cost: usize,
        verb: GetVerb,
        exptime: i64,
        fan: Fanout,
        portion: Portion,
    ) -> bool {
        let id = self.reads.insert(Read {
            client,
            ticket,
            cost,
            portion,
            verb,
            exptime,
            fan,
            chunks: Vec::new(),
            open: 0,
            extra: 0,
            error: None,
        });
        let mut groups = Groups::new();
        for slot in 0..self.reads[id].fan.len() {
            if !is_gat(verb) && self.is_big(self.reads[id].fan.key(slot)) {
                self.reads[id].fan.large(slot);
                continue;
            }
            let Some(route) = self.slot_route(id, slot) else {
                self.reads[id].fan.fail(slot);
                continue;
            };
            match self.usable(route.server) {
                Usable::Yes if self.must_pass_by(route, self.reads[id].fan.key(slot)) => {
                    self.send_to_backup(&mut groups, id, slot, route);
                }
                Usable::Yes => {
                    let reader = self.slot_reader(id, slot, route.server);
                    group(&mut groups, reader, Stage::Server, slot);
                }
                Usable::Busy => self.refuse(id, slot, OUT_OF_CONNECTION),
                Usable::Down => self.send_to_backup(&mut groups, id, slot, route),
            }
        }
        let fetched = self.reads[id].fan.some_large();
        self.send_groups(now, id, groups, 0);
        self.finish_read(id);
        fetched
    }

    /// Whom a key is asked from: a gat is a write, too.
    fn slot_reader(&self, id: usize, slot: usize, place: PlaceId) -> BackendId {
        let read = &self.reads[id];
        if is_gat(read.verb) {
            self.writer(place)
        } else {
            self.reader(place, read.fan.key(slot))
        }
    }

    fn slot_route(&self, id: usize, slot: usize) -> Option<Route> {
        self.route(self.reads[id].fan.key(slot))
    }

    fn refuse(&mut self, id: usize, slot: usize, error: &[u8]) {
        let read = &mut self.reads[id];
        read.fan.fail(slot);
        read.error.get_or_insert_with(|| error.to_vec());
    }

    fn send_to_backup(&mut self, groups: &mut Groups, id: usize, slot: usize, route: Route) {
        let can_tell = |backup: &PlaceId| {
            let behind = self.is_behind(*backup, self.reads[id].fan.key(slot));
            self.usable(*backup) == Usable::Yes && !behind
        };
        match route.backup.filter(can_tell) {
            Some(backup) => {
                self.count.failovers.add(1);
                let reader = self.slot_reader(id, slot, backup);
                group(groups, reader, Stage::Backup, slot);
            }
            None => self.reads[id].fan.fail(slot),
        }
    }

    fn send_groups(&mut self, now: Now, id: usize, groups: Groups, hops: usize) {
        for (backend, stage, slots) in groups {
            let read = &self.reads[id];
            let max = if is_gat(read.verb) { GAT_LINE_MAX } else { GET_LINE_MAX };
            let mut rest = &slots[..];
            let mut pieces = Vec::with_capacity(1);
            while !rest.is_empty() {
                let mut bytes = 0;
                let fits = rest.iter().position(|&slot| {
                    bytes += read.fan.key(slot as usize).len() + 1;
                    bytes > max
                });
                let (piece, after) = rest.split_at(fits.unwrap_or(rest.len()).max(1));
                pieces.push(piece.to_vec());
                rest = after;
            }
            for piece in pieces {
                self.send_chunk(now, id, backend, stage, piece, hops);
            }
        }
    }

    fn send_chunk(
        &mut self,
        now: Now,
        id: usize,
        backend: BackendId,
        stage: Stage,
        slots: Vec<u32>,
        hops: usize,
    ) {
        let Relay { reads, backends, .. } = self;
        let read = &mut reads[id];
        let call = Call::Read { read: id as u32, chunk: read.chunks.len() as u32 };
        let usable = backends[backend].ask(now, call, Expect::Values, |out| {
            let keys = slots.iter().map(|&slot| read.fan.key(slot as usize));
            encode::get(out, read.verb, read.exptime, keys);
        });
        if usable == Usable::Yes {
            read.chunks.push(Chunk { stage, slots, next: 0, from: backend, hops });
            read.open += 1;
            return;
        }
        // It was usable when the groups were made, and has filled up since.
        for slot in slots {
            self.refuse(id, slot as usize, OUT_OF_CONNECTION);
        }
    }

    /// One value of a chunk. `false`: it is not one of the keys that were asked, or not in order.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn read_value(
        &mut self,
        now: Now,
        id: u32,
        chunk: u32,
        key: &[u8],
        flags: u32,
        cas: Option<u64>,
        data: Option<&[u8]>,
    ) -> bool {
        let Relay { reads, held, bulk, .. } = self;
        let Some(read) = reads.get_mut(id as usize) else { return false };
        let Some(chunk) = read.chunks.get_mut(chunk as usize) else { return false };
        if cas.is_some() != matches!(read.verb, GetVerb::Gets | GetVerb::Gats) {
            return false;
        }
        let rest = &chunk.slots[chunk.next..];
        let fan = &mut read.fan;
        let Some(skipped) = rest.iter().position(|&slot| fan.key(slot as usize) == key) else {
            return false;
        };
        let slot = rest[skipped] as usize;
        chunk.next += skipped + 1;
        let mark = if chunk.stage == Stage::Backup { BACKUP_UNIQUE } else { 0 };
        match data {
            Some(data) if *held + data.len() <= HELD_MAX => {
                let before = fan.bytes();
                fan.hit(slot, flags, cas.map(|cas| cas | mark), data);
                *held += fan.bytes() - before;
            }
            // Too large, or too much is held already: it is fetched when its turn comes.
            Some(_) => fan.large(slot),
            None => {
                bulk.big_keys.note(key, true);
                fan.large(slot);
            }
        }
        let (gat, exptime, stage) = (is_gat(read.verb), read.exptime, chunk.stage);
        if gat && stage != Stage::Backup {
            self.touch_backup(now, key, exptime);
        }
        true
    }

    /// A gat found the key on its server: its backup's copy is to live as long.
    fn touch_backup(&mut self, now: Now, key: &[u8], exptime: i64) {
        let Some(backup) = self.route(key).and_then(|route| route.backup) else { return };
        let touch = self.touches.insert((backup, key.into()));
        let call = Call::Touch { touch: touch as u32 };
        let request = Request::Touch { key, exptime, noreply: false };
        let write = |out: &mut Vec<u8>| encode::request(out, &request);
        if self.ask(self.writer(backup), now, call, Expect::Touched, write) != Usable::Yes {
            self.touches.remove(touch);
            self.missed_key(backup, key);
        }
    }

    /// The end of a chunk's answer.
    pub(super) fn read_done(
        &mut self,
        now: Now,
        id: u32,
        chunk: u32,
        reply: Reply<'_>,
        raw: &[u8],
    ) {
        let id = id as usize;
        if let Reply::Error(_) = reply {
            if let Some(read) = self.reads.get_mut(id) {
                let too_old = is_gat(read.verb) && reply == Reply::Error(b"ERROR");
                let raw = if too_old { super::write::TOO_OLD } else { raw };
                read.error.get_or_insert_with(|| raw.to_vec());
            }
            return self.read_failed(now, id as u32, chunk);
        }
        let Some((stage, slots)) = self.open_slots(id, chunk) else { return };
        for slot in slots {
            let route = self.slot_route(id, slot);
            match (stage, route) {
                (stage, Some(Route { server, backup: Some(backup) }))
                    if stage == Stage::Server || self.reads[id].another_round(stage) =>
                {
                    self.fill_slot(now, id, slot, server, backup);
                }
                _ => self.reads[id].fan.miss(slot),
            }
        }
        self.reads[id].open -= 1;
        self.finish_read(id);
    }

    /// The only value of a get that was asked for elsewhere ([`super::single`]) is a large one.
    pub(super) fn read_is_large(&mut self, id: usize) {
        self.reads[id].fan.large(0);
        self.read_let_go(id);
    }

    /// The values of a chunk come from the first key on; those that were heard count.
    pub(super) fn read_restarted(&mut self, id: u32, chunk: u32) {
        let read = self.reads.get_mut(id as usize);
        if let Some(chunk) = read.and_then(|read| read.chunks.get_mut(chunk as usize)) {
            chunk.next = 0;
        }
    }

    /// The stage of a chunk and its slots without a result.
    fn open_slots(&self, id: usize, chunk: u32) -> Option<(Stage, Vec<usize>)> {
        let read = self.reads.get(id)?;
        let chunk = read.chunks.get(chunk as usize)?;
        let open = chunk.slots.iter().map(|&slot| slot as usize);
        Some((chunk.stage, open.filter(|&slot| read.fan.is_waiting(slot)).collect()))
    }

    /// A chunk will not be answered, or not to the end: another member of the group is asked, or
    /// the backup.
    pub(super) fn read_failed(&mut self, now: Now, id: u32, chunk: u32) {
        let id = id as usize;
        let Some((stage, slots)) = self.open_slots(id, chunk) else { return };
        let Chunk { from, hops, .. } = self.reads[id].chunks[chunk as usize];
        let (mut groups, mut members) = (Groups::new(), Groups::new());
        for slot in slots {
            let Some(route) = self.slot_route(id, slot) else {
                self.reads[id].fan.fail(slot);
                continue;
            };
            let place = if stage == Stage::Backup { route.backup } else { Some(route.server) };
            let next = place.and_then(|place| self.next_reader(place, from, hops));
            match (next, stage) {
                (Some(member), Stage::Backup) => group(&mut members, member, stage, slot),
                (Some(member), _) => group(&mut members, member, Stage::Server, slot),
                (None, Stage::Backup) => self.reads[id].fan.fail(slot),
                (None, _) => self.send_to_backup(&mut groups, id, slot, route),
            }
        }
        self.send_groups(now, id, members, hops + 1);
        self.send_groups(now, id, groups, 0);
        self.reads[id].open -= 1;
        self.finish_read(id);
    }

    /// The verb of a read.
    pub(super) fn read_verb(&self, id: usize) -> GetVerb {
        self.reads[id].verb
    }

    /// The backup had the value; a `cas` is the backup's.
    pub(super) fn fill_hit(&mut self, id: usize, slot: usize, flags: u32, cas: u64, data: &[u8]) {
        let read = &mut self.reads[id];
        let shown = matches!(read.verb, GetVerb::Gets | GetVerb::Gats);
        let before = read.fan.bytes();
        read.fan.hit(slot, flags, shown.then_some(cas | BACKUP_UNIQUE), data);
        self.held += read.fan.bytes() - before;
        self.finish_read(id);
    }

    /// The backup had a value that is too large to be held.
    pub(super) fn read_large(&mut self, id: usize, slot: usize) {
        self.reads[id].fan.large(slot);
        self.finish_read(id);
    }

    /// The backup has it neither.
    pub(super) fn fill_missed(&mut self, id: usize, slot: usize) {
        self.reads[id].fan.miss(slot);
        self.finish_read(id);
    }

    /// The value has been put back: the server is asked again.
    pub(super) fn read_again(&mut self, now: Now, id: usize, slot: usize, server: PlaceId) {
        // Where it was put back, and not another member of a group.
        let server = self.writer(server);
        self.reads[id].fan.reopen(slot);
        self.send_chunk(now, id, server, Stage::Again, vec![slot as u32], 0);
        self.finish_read(id);
    }

    /// The end of what [`Read::hold_open`] announced.
    pub(super) fn read_let_go(&mut self, id: usize) {
        self.reads[id].open -= 1;
        self.finish_read(id);
    }

    /// Whom the reads in flight name.
    pub(super) fn name_reads(&self, named: &mut Named) {
        let chunks = self.reads.iter().flat_map(|(_, read)| &read.chunks);
        named.backends.extend(chunks.map(|chunk| chunk.from));
    }

    fn count_read(&self, read: &Read) {
        let (hits, misses) = read.fan.found();
        let asked = if is_gat(read.verb) { &self.count.cmd_touch } else { &self.count.cmd_get };
        asked.add(read.fan.len() as u64);
        self.count.get_hits.add(hits as u64);
        self.count.get_misses.add(misses as u64);
    }

    /// Ends a read that waits for nothing more.
    fn finish_read(&mut self, id: usize) {
        if self.reads.get(id).is_none_or(|read| read.open > 0 || read.fan.waiting() > 0) {
            return;
        }
        let read = self.reads.remove(id);
        let (largest, held) = (read.fan.largest(), read.fan.bytes());
        self.saw_value(largest);
        self.count_read(&read);
        let (mut reply, pieces, verdict) = if read.fan.some_large() {
            let cas = matches!(read.verb, GetVerb::Gets | GetVerb::Gats);
            (Vec::new(), read.fan.into_pieces(cas), Verdict::Reached)
        } else {
            let (reply, verdict) = read.fan.into_reply();
            (reply, Vec::new(), verdict)
        };
        if read.portion == Portion::Whole {
            match verdict {
                Verdict::Reached => reply.extend_from_slice(encode::END),
                Verdict::Unreachable | Verdict::Broken => {
                    self.count.errors.add(1);
                    reply.extend_from_slice(read.error.as_deref().unwrap_or(CAN_NOT_CONNECT));
                }
            }
        }
        self.completions.push(Completion {
            client: read.client,
            ticket: Some(read.ticket),
            reply,
            cost: read.cost,
            largest,
            verdict,
            held,
            pieces,
            more: false,
        });
    }
}
