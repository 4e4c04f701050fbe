//! Classic and meta lines: one command of a text connection.
//!
//! Owns the way from a command line to the executor, and the portions of a long get. Never reads
//! more than it is given, and never keeps a parsed line: a command whose data block is not here yet
//! is parsed again when it is.

use super::data::{self, Arriving, Data, First, Placeable};
use super::{log_line, log_reply, Conn, State, OUT_HIGH};
use crate::base::clock::Now;
use crate::protocol::classic::{self, encode, Keys, MoreKeys, Plain};
use crate::protocol::reject::{self, Reject};
use crate::protocol::{GetVerb, Parsed, Request, StoreHead, StoreVerb};
use crate::server::execute::{After, Executor, MetaSet};
use crate::server::watch::CloseReason;
use crate::store::{Given, Incoming};

impl Conn {
    /// Executes the command at the input's head. False when it is not complete.
    pub(super) fn text_command(&mut self, exec: &mut Executor, first: First, now: Now) -> bool {
        if !self.login.authenticated && exec.shared.auth.is_some() {
            return self.text_login(exec, now);
        }
        match classic::plain(self.input.data()) {
            Some((Plain::Get(key), used)) => {
                log_line(self.id, self.input.data(), used);
                exec.get_alone(key, now, self.replies.out());
                log_reply(self.id, encode::END);
                self.input.consume(used);
                true
            }
            Some((Plain::Store(head), line)) if self.arrived.is_none() => {
                let (input, out) = (self.input.data(), self.replies.out());
                let behind = Behind { input, line, first, arrived: None };
                let next = plain_store(self.id, &head, behind, exec, now, out);
                self.after_storage(next);
                true
            }
            _ => self.any_command(exec, first, now),
        }
    }

    /// The same for every other line than the plain ones.
    fn any_command(&mut self, exec: &mut Executor, first: First, now: Now) -> bool {
        let (request, used) = match classic::parse(self.input.data()) {
            Parsed::Incomplete => return false,
            Parsed::Reject { reject, used } => {
                log_line(self.id, self.input.data(), used);
                self.refuse(reject, used);
                return true;
            }
            Parsed::Done { value, used } => (value, used),
        };
        match request {
            Request::Store(head) => {
                let arrived = self.arrived.take();
                let (input, out) = (self.input.data(), self.replies.out());
                let block = Behind { input, line: used, first, arrived };
                let next = storage(self.id, &head, block, exec, now, out);
                self.after_storage(next);
            }
            Request::MetaSet { key, len, flags } => {
                let next = match MetaSet::parse(key, len, flags) {
                    Ok(set) => {
                        let arrived = self.arrived.take();
                        let (input, out) = (self.input.data(), self.replies.out());
                        let block = Behind { input, line: used, first, arrived };
                        storage(self.id, &set, block, exec, now, out)
                    }
                    Err(reject) => {
                        log_line(self.id, self.input.data(), used);
                        Storage::Refused { reject, used }
                    }
                };
                self.after_storage(next);
            }
            Request::Get { verb, exptime, keys, more } => {
                log_line(self.id, self.input.data(), used);
                let out = self.replies.out();
                let mark = out.len();
                let data = self.input.data();
                let answered =
                    answer_keys(exec, out, verb, exptime, keys.clone(), data, now).or_refused(keys);
                if matches!(answered, Answered::Refused(_)) {
                    // memcached answers a get with a bad key by the error alone.
                    out.truncate(mark);
                    exec.lending.truncate(mark);
                }
                self.end_of_keys(answered, verb, exptime, more, used);
            }
            other => {
                log_line(self.id, self.input.data(), used);
                let out = self.replies.out();
                let mark = out.len();
                let after = exec.execute(&other, now, out);
                let shutdown = matches!(other, Request::Shutdown { .. });
                log_reply(self.id, &out[mark..]);
                self.input.consume(used);
                match after {
                    After::Next => {}
                    After::NextTurn => self.state = State::NextTurn,
                    After::Close if shutdown => self.finish(CloseReason::Shutdown),
                    After::Close => self.finish(CloseReason::Normal),
                    After::Stream(producer) => self.state = State::Stream(producer),
                }
            }
        }
        true
    }

    /// Goes on behind a storage command.
    #[inline]
    fn after_storage(&mut self, next: Storage) {
        match next {
            Storage::Done { used } => self.input.consume(used),
            Storage::Missing { need, reserved } => self.state = State::Data { need, reserved },
            Storage::Arriving { arriving, line, copied } => {
                self.input.cut(line, copied);
                self.state = State::Value(arriving);
            }
            Storage::Refused { reject, used } => self.refuse(reject, used),
        }
    }

    /// Answers the next portion of a get line. False when its keys are not complete.
    pub(super) fn more_keys(
        &mut self,
        exec: &mut Executor,
        verb: GetVerb,
        exptime: i64,
        now: Now,
    ) -> bool {
        match classic::parse_more_keys(self.input.data()) {
            Parsed::Incomplete => return false,
            Parsed::Reject { reject, used } => self.refuse(reject, used),
            Parsed::Done { value: MoreKeys { keys, more }, used } => {
                let (data, out) = (self.input.data(), self.replies.out());
                let answered = answer_keys(exec, out, verb, exptime, keys, data, now);
                self.end_of_keys(answered, verb, exptime, more, used);
            }
        }
        true
    }

    /// Ends a portion of a get line: all keys are answered, or the output is full, or a key is bad.
    fn end_of_keys(
        &mut self,
        answered: Answered,
        verb: GetVerb,
        exptime: i64,
        more: bool,
        used: usize,
    ) {
        match answered {
            Answered::All if more => {
                self.state = State::Keys { verb, exptime };
                self.input.consume(used);
            }
            Answered::All => {
                log_reply(self.id, encode::END);
                self.replies.out().extend_from_slice(encode::END);
                self.state = State::Command;
                self.input.consume(used);
            }
            Answered::Paused { at } => {
                // The keys that are left and the line's end stay, as a portion of their own.
                self.state = State::Keys { verb, exptime };
                self.input.consume(at);
            }
            Answered::Refused(reject) => {
                // Where the line's end is known, the next command is too.
                let close = reject.close && more;
                self.refuse(Reject { close, ..reject }, used);
            }
        }
    }
}

/// Keys that are looked for in one step of a get, found or not: some twenty microseconds. The rest
/// of a longer line is answered in steps that take of the turn's budget.
pub(super) const KEYS_PER_STEP: usize = 256;

/// How far a portion of a get line was answered.
enum Answered {
    All,
    /// That was one step; the keys from this offset of the input on are left.
    Paused {
        at: usize,
    },
    Refused(Reject),
}

impl Answered {
    /// The refusal of the first bad key of a line of which only the first keys are answered: before
    /// any of it is sent.
    fn or_refused(self, mut keys: Keys<'_>) -> Answered {
        match self {
            Answered::Paused { .. } => match keys.find_map(Result::err) {
                Some(reject) => Answered::Refused(reject),
                None => self,
            },
            Answered::All | Answered::Refused(_) => self,
        }
    }
}

/// Answers the keys of a get, as long as there is room for replies and the step goes on.
fn answer_keys(
    exec: &mut Executor,
    out: &mut Vec<u8>,
    verb: GetVerb,
    exptime: i64,
    mut keys: Keys<'_>,
    input: &[u8],
    now: Now,
) -> Answered {
    // What the output holds already is under the bound: the caller has just looked.
    let full = out.len() + OUT_HIGH;
    let mut left = KEYS_PER_STEP;
    loop {
        if (out.len() >= full || left == 0) && !keys.as_bytes().is_empty() {
            let at = keys.as_bytes().as_ptr() as usize - input.as_ptr() as usize;
            return Answered::Paused { at };
        }
        left = left.saturating_sub(1);
        match keys.next() {
            None => return Answered::All,
            Some(Ok(key)) => exec.get(verb, exptime, key, now, out),
            Some(Err(reject)) => return Answered::Refused(reject),
        }
    }
}

/// A command with a data block behind its line.
trait Block {
    /// Length of the block, without its `\r\n`.
    fn len(&self) -> u32;
    /// The key, where what is there does not matter.
    fn plain_key(&self) -> Option<&[u8]>;
    /// Whether a value of that length may be stored at all. If not, says why and what is dropped.
    fn accept(&self, exec: &mut Executor, now: Now) -> Result<(), Reject>;
    /// There is no memory to take the block in.
    fn no_memory(&self, exec: &mut Executor, now: Now) -> Reject;
    /// The block does not end where it should.
    fn bad_chunk(&self, reject: Reject) -> Reject;
    /// Does the command.
    fn store(&self, exec: &mut Executor, value: Given<'_>, now: Now, out: &mut Vec<u8>);
}

impl Block for StoreHead<'_> {
    fn len(&self) -> u32 {
        self.len
    }

    fn plain_key(&self) -> Option<&[u8]> {
        (self.verb == StoreVerb::Set).then_some(self.key)
    }

    fn accept(&self, exec: &mut Executor, now: Now) -> Result<(), Reject> {
        if exec.fits(self) {
            Ok(())
        } else {
            Err(exec.too_large(self, now))
        }
    }

    fn no_memory(&self, exec: &mut Executor, now: Now) -> Reject {
        exec.no_memory(self, now)
    }

    fn bad_chunk(&self, reject: Reject) -> Reject {
        reject.quiet_if(self.noreply)
    }

    fn store(&self, exec: &mut Executor, value: Given<'_>, now: Now, out: &mut Vec<u8>) {
        exec.store_item(self, value, now, out);
    }
}

impl Block for MetaSet<'_> {
    fn len(&self) -> u32 {
        self.len
    }

    fn plain_key(&self) -> Option<&[u8]> {
        self.meta.is_plain_set().then(|| self.meta.key.as_bytes())
    }

    fn accept(&self, exec: &mut Executor, now: Now) -> Result<(), Reject> {
        if !exec.meta_fits(self) {
            return Err(exec.meta_too_large(self, now));
        }
        if self.meta.opaque_too_long {
            return Err(self.refused(reject::META_OPAQUE));
        }
        Ok(())
    }

    fn no_memory(&self, exec: &mut Executor, now: Now) -> Reject {
        exec.meta_no_memory(self, now)
    }

    /// Errors are told even to a quiet ms.
    fn bad_chunk(&self, reject: Reject) -> Reject {
        reject
    }

    fn store(&self, exec: &mut Executor, value: Given<'_>, now: Now, out: &mut Vec<u8>) {
        exec.meta_set(self, value, now, out);
    }
}

/// What became of a storage command. `used` counts from the head of its line.
enum Storage {
    /// It is answered.
    Done { used: usize },
    /// Its data block has still to come: `need` bytes are to be there, line included.
    Missing { need: usize, reserved: u64 },
    /// Its value is read into its place; so many bytes of it are there, and not needed in the input
    /// behind the line any more.
    Arriving { arriving: Box<Arriving>, line: usize, copied: usize },
    /// It was not taken.
    Refused { reject: Reject, used: usize },
}

/// What stands behind a storage command's line, which is the first `line` bytes of `input`.
struct Behind<'a> {
    input: &'a [u8],
    line: usize,
    first: First,
    /// The value, where it is in its place; then only its line end is in the input.
    arrived: Option<Box<Incoming>>,
}

/// The same as [`storage`]; nearly always the data block is here and may be stored.
#[inline]
fn plain_store(
    id: u64,
    head: &StoreHead<'_>,
    behind: Behind<'_>,
    exec: &mut Executor,
    now: Now,
    out: &mut Vec<u8>,
) -> Storage {
    let Behind { input, line, .. } = behind;
    match classic::parse_data(&input[line..], head.len) {
        Parsed::Done { value, used } if exec.fits(head) => {
            log_line(id, input, line);
            let mark = out.len();
            exec.store_item(head, value.into(), now, out);
            log_reply(id, &out[mark..]);
            Storage::Done { used: line + used }
        }
        _ => storage(id, head, behind, exec, now, out),
    }
}

/// Does a storage command when all of it is here.
fn storage<B: Block>(
    id: u64,
    block: &B,
    behind: Behind<'_>,
    exec: &mut Executor,
    now: Now,
    out: &mut Vec<u8>,
) -> Storage {
    let Behind { input, line, first, arrived } = behind;
    if let Some(value) = arrived {
        return arrived_whole(id, block, &input[..line + 2], value, exec, now, out);
    }
    match take_data(block, input, line, first, exec, now) {
        Data::Here { value, used } => {
            log_line(id, input, line);
            let mark = out.len();
            block.store(exec, value.into(), now, out);
            log_reply(id, &out[mark..]);
            Storage::Done { used: line + used }
        }
        Data::Missing { reserved } => {
            Storage::Missing { need: line + block.len() as usize + 2, reserved }
        }
        Data::Arriving { arriving, copied } => Storage::Arriving { arriving, line, copied },
        Data::Refused { reject, used } => {
            log_line(id, input, line);
            Storage::Refused { reject, used: line + used }
        }
    }
}

/// Does a storage command whose value is in its place. `input` is its line and the two bytes that
/// came behind the value.
fn arrived_whole<B: Block>(
    id: u64,
    block: &B,
    input: &[u8],
    value: Box<Incoming>,
    exec: &mut Executor,
    now: Now,
    out: &mut Vec<u8>,
) -> Storage {
    let used = input.len();
    log_line(id, input, used - 2);
    if !input.ends_with(b"\r\n") {
        let reject = block.bad_chunk(Reject::line(reject::BAD_CHUNK));
        return Storage::Refused { reject, used };
    }
    let mark = out.len();
    block.store(exec, Given::Placed(value), now, out);
    log_reply(id, &out[mark..]);
    Storage::Done { used }
}

/// Takes the data block behind a line of `line` bytes from `input`.
fn take_data<'a, B: Block>(
    block: &B,
    input: &'a [u8],
    line: usize,
    first: First,
    exec: &mut Executor,
    now: Now,
) -> Data<'a> {
    if let Err(reject) = block.accept(exec, now) {
        return Data::Refused { reject, used: 0 };
    }
    match classic::parse_data(&input[line..], block.len()) {
        Parsed::Done { value, used } => Data::Here { value, used },
        Parsed::Reject { reject, used } => Data::Refused { reject: block.bad_chunk(reject), used },
        Parsed::Incomplete => {
            let len = block.len() as usize;
            let placeable = Placeable { key: block.plain_key(), len, tail: 2 };
            if let Some((arriving, copied)) = placeable.place(input, line, &first, exec, now) {
                return Data::Arriving { arriving, copied };
            }
            match data::reserve(input.len(), line + len + 2, exec, now) {
                Some(reserved) => Data::Missing { reserved },
                None => Data::Refused { reject: block.no_memory(exec, now), used: 0 },
            }
        }
    }
}
