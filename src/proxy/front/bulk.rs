//! Values too large to be held, as the client's side sees them.
//!
//! Owns which of a client's replies is still to be fetched, and the data block that is being passed
//! on. At most one large value goes in each direction of a client at a time: a reply is fetched
//! when everything before it has left, and a block is read when everything before it has ended.

use std::collections::VecDeque;

use super::{Front, State, Then, CAN_NOT_CONNECT};
use crate::base::clock::Now;
use crate::base::replies::Ticket;
use crate::protocol::classic::{encode, parse_data};
use crate::protocol::meta::{BinaryKey, Key};
use crate::protocol::{Parsed, Request, StoreHead, StoreVerb};
use crate::proxy::fanout::{Piece, Verdict};
use crate::proxy::relay::{
    Client, Completion, GetId, PutId, Relay, Transfer, HOLD_MAX, HOLD_WHOLE_MAX,
};

/// A reply of which some is still to be fetched.
#[derive(Debug)]
pub(super) struct Parked {
    ticket: Ticket,
    cost: usize,
    pieces: VecDeque<Piece>,
    /// What ends the reply.
    tail: Vec<u8>,
    /// Something of it has been sent.
    begun: bool,
    /// The piece that is being fetched.
    active: Option<GetId>,
}

/// Largest block of such a command that is waited for as a whole.
pub(super) fn hold_max(relay: &Relay, request: &Request<'_>) -> usize {
    let as_it_comes = match request {
        Request::Store(head) => head.verb == StoreVerb::Set || !relay.has_backups(),
        // It may have to be said in classic words, or differently to the backup.
        _ => false,
    };
    if as_it_comes {
        HOLD_MAX
    } else {
        HOLD_WHOLE_MAX
    }
}

/// A data block on its way to a server.
#[derive(Debug)]
pub(super) enum Upload {
    /// Everything before it must end first.
    Waiting {
        ticket: Option<Ticket>,
        transfer: Transfer,
        len: u64,
        /// Say nothing of a bad block.
        noreply: bool,
    },
    Open {
        put: PutId,
        /// Bytes of the value still to come.
        left: u64,
        /// Where the reply to a bad block goes.
        ticket: Option<Ticket>,
        noreply: bool,
    },
}

impl Front {
    /// A request has ended whose reply is still to be fetched in part.
    pub(super) fn park(&mut self, completion: Completion) {
        let Some(ticket) = completion.ticket else { return };
        // Tickets are taken in order, but end in any.
        let at = self.parked.partition_point(|parked| parked.ticket < ticket);
        let parked = Parked {
            ticket,
            cost: completion.cost,
            pieces: completion.pieces.into(),
            tail: completion.reply,
            begun: false,
            active: None,
        };
        self.parked.insert(at, parked);
    }

    /// More of what is being fetched, its end, or word that a block can go on. `false`: it is no
    /// such thing.
    pub(super) fn take_part(&mut self, completion: &mut Completion) -> bool {
        if completion.verdict == Verdict::Broken {
            // What it was about is gone: nothing is to be cancelled.
            self.parked.clear();
            self.state = State::Command;
            self.broken = true;
            return true;
        }
        let Some(ticket) = completion.ticket else { return completion.more };
        let parked = self.parked.front_mut().filter(|parked| parked.ticket == ticket);
        let Some(parked) = parked.filter(|parked| parked.active.is_some()) else {
            return completion.more;
        };
        if completion.verdict == Verdict::Reached {
            parked.begun |= !completion.reply.is_empty();
            self.reached = true;
            self.replies.begin(ticket, &completion.reply);
            self.reply_held += completion.held;
        } else if !parked.begun && parked.pieces.is_empty() && !parked.tail.is_empty() {
            // Nothing else was asked for: an error, instead of values and their end.
            parked.tail = CAN_NOT_CONNECT.to_vec();
        }
        if !completion.more {
            parked.active = None;
        }
        true
    }

    /// Fetches what is next.
    pub(super) fn fetch(&mut self, now: Now, me: Client, relay: &mut Relay) {
        while let Some(parked) = self.parked.front_mut() {
            if parked.active.is_some() || !self.replies.is_next(parked.ticket) || self.closing {
                return;
            }
            match parked.pieces.pop_front() {
                Some(Piece::Bytes(bytes)) => {
                    parked.begun = true;
                    self.replies.begin(parked.ticket, &bytes);
                }
                Some(piece) => {
                    parked.active = Some(relay.begin_get(now, me, parked.ticket, piece));
                }
                None => {
                    let Some(parked) = self.parked.pop_front() else { return };
                    self.in_flight -= 1;
                    self.cost -= parked.cost;
                    self.replies.resolve(parked.ticket, parked.tail);
                }
            }
        }
    }

    /// Tells the relay how much of what is being fetched has not left yet.
    pub(super) fn tell_level(&mut self, relay: &mut Relay) {
        let active = self.parked.front().and_then(|parked| parked.active);
        if let (Some(get), Some(me)) = (active, self.me) {
            relay.get_level(get, me, self.replies.sendable().len());
        }
    }

    /// The client is gone.
    pub(super) fn abandon_bulk(&mut self, relay: &mut Relay) {
        let Some(me) = self.me else { return };
        if let Some(get) = self.parked.front().and_then(|parked| parked.active) {
            relay.cancel_get(get, me);
        }
        self.parked.clear();
        if let State::Upload(Upload::Open { put, .. }) = self.state {
            relay.cancel_put(put, me);
        }
    }

    /// Goes on with a data block. `false`: more input, or room, is needed first.
    pub(super) fn upload(&mut self, now: Now, me: Client, relay: &mut Relay) -> bool {
        let State::Upload(upload) = &mut self.state else { return false };
        match upload {
            Upload::Waiting { ticket, transfer, len, noreply } => {
                // Its own place is among those in flight.
                if self.in_flight > 1 {
                    return false;
                }
                let put = relay.begin_put(now, me, *ticket, std::mem::take(transfer));
                *upload = Upload::Open { put, left: *len, ticket: *ticket, noreply: *noreply };
                true
            }
            Upload::Open { put, left, ticket, noreply } => {
                if *left > 0 {
                    let room = relay.put_room(*put).min(self.input.len());
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(room);
                    relay.put_data(*put, &self.input.data()[..n]);
                    self.input.consume(n);
                    *left -= n as u64;
                    // A client that leaves before the end has stored nothing.
                    self.broken |= n == 0 && self.ended && self.input.is_empty();
                    return n > 0;
                }
                let (put, ticket, noreply) = (*put, *ticket, *noreply);
                self.end_upload(relay, put, ticket, noreply)
            }
        }
    }

    /// The end of line behind the block.
    fn end_upload(
        &mut self,
        relay: &mut Relay,
        put: PutId,
        ticket: Option<Ticket>,
        noreply: bool,
    ) -> bool {
        let (reject, used) = match parse_data(self.input.data(), 0) {
            Parsed::Incomplete => {
                // The same of one that leaves out the end.
                self.broken |= self.ended;
                return false;
            }
            Parsed::Reject { reject, used } => (Some(reject), used),
            Parsed::Done { used, .. } => (None, used),
        };
        self.input.consume(used);
        match reject {
            None => {
                relay.put_data(put, b"\r\n");
                relay.put_end(put);
                self.state = State::Barrier(Then::Nothing);
            }
            Some(reject) => {
                if let Some(me) = self.me {
                    relay.cancel_put(put, me);
                }
                self.in_flight -= 1;
                self.unanswered -= usize::from(ticket.is_none());
                self.state = State::Command;
                if let Some(ticket) = ticket {
                    self.replies.resolve(ticket, Vec::new());
                }
                self.refuse(reject.quiet_if(noreply));
            }
        }
        true
    }

    /// Takes a large block in, when everything before it has ended.
    pub(super) fn begin_upload(&mut self, request: &Request<'_>) {
        let mut line = Vec::new();
        let (key, len, noreply, both, quiet) = match *request {
            Request::Store(head) => {
                encode::store_head(&mut line, &StoreHead { noreply: false, ..head });
                let both = head.verb == StoreVerb::Set;
                (head.key.into(), head.len, head.noreply, both, false)
            }
            Request::MetaSet { key, len, flags } => {
                let (decoded, flags, quiet) = loud(key, flags);
                encode::request(&mut line, &Request::MetaSet { key, len, flags: &flags });
                (decoded, len, false, is_plain_set(&flags), quiet)
            }
            _ => return,
        };
        let ticket = (!noreply).then(|| self.replies.defer());
        self.in_flight += 1;
        self.unanswered += usize::from(noreply);
        self.want = 0;
        let transfer = Transfer { key, line, both, quiet };
        let len = u64::from(len);
        self.state = State::Upload(Upload::Waiting { ticket, transfer, len, noreply });
    }
}

/// The key of an ms decoded, its flags without `q`, and whether there was one.
fn loud(key: &[u8], flags: &[u8]) -> (Box<[u8]>, Vec<u8>, bool) {
    let words = || flags.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    let quiet = words().any(|word| word == b"q");
    let kept: Vec<&[u8]> = words().filter(|word| *word != b"q").collect();
    let decoded = words().any(|word| word == b"b").then(|| BinaryKey::decode(key)).flatten();
    let decoded = decoded.map(Key::Binary).unwrap_or(Key::Text(key)).as_bytes().into();
    (decoded, kept.join(&b' '), quiet)
}

/// Whether an ms with these flags stores unconditionally, so that server and backup can have the
/// same command.
fn is_plain_set(flags: &[u8]) -> bool {
    let mut words = flags.split(|&byte| byte == b' ').filter(|word| !word.is_empty());
    words.all(|word| match word[0] {
        b'C' | b'E' | b'I' => false,
        b'M' => matches!(word.get(1), Some(b'S' | b's')),
        _ => true,
    })
}
