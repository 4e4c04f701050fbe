//! One client connection, without its socket.
//!
//! Owns the bytes received and not yet executed, the replies not yet sent, and where in a command
//! the client is. Bytes come in through [`Conn::input`], replies go out through
//! [`Conn::replies`]; the worker does the I/O, [`Executor`] the commands. Never touches a socket,
//! a thread or a clock, so that a test is a client with two byte strings.
//!
//! ```text
//!              +----------- end of data / of keys -----------+
//!              v                                             |
//!   --> Command --(head of a storage command)--> Data -------+
//!          |  \---(get line, output full)------> Keys -------+
//!          |  \---(data not wanted)------------> Swallow ----+
//!          +------(quit, refused for good)-----> Closing
//! ```

use std::sync::Arc;

use crate::base::buf::Buf;
use crate::base::clock::Now;
use crate::base::replies::Replies;
use crate::protocol::classic::{encode, Keys, MoreKeys};
use crate::protocol::reject::Reject;
use crate::protocol::{classic, GetVerb, Parsed, Request, StoreHead};
use crate::server::execute::{After, Executor};
use crate::server::shared::{ConnInfo, ConnState};

/// Replies that may wait in memory before no further command is executed, and that one portion of a
/// get may add: enough for a write of full size, little enough that a thousand slow readers stay
/// under half a gigabyte. One value may go over it by its own size.
const OUT_HIGH: usize = 256 * 1024;

/// Read size for a connection that already has a part of a command, as memcached's read buffers.
/// Commands up to this length are not counted: `-c` bounds them.
const READ_MORE: usize = 16 * 1024;

/// Read size for a long data block of which much is here. Up to it each read may double what is
/// here, so that a client has to send what it makes us hold.
const READ_MOST: usize = 16 * READ_MORE;

/// A buffer up to so many times as large as the command it holds is kept for it.
const KEEP_FACTOR: usize = 4;

/// What the worker is to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Everything received is executed, as far as it is complete: read more.
    Read,
    /// Too many replies wait: write, then process on.
    Write,
    /// The budget is used up and there is more to do: let others go first.
    Yield,
    /// Send what is sendable, then close.
    Close,
}

/// Bytes of a command line that are shown at `-vv`.
const LOGGED_LINE: usize = 512;

#[derive(Debug)]
enum State {
    Command,
    /// In the middle of a get line: the keys before the input's head are answered.
    Keys {
        verb: GetVerb,
        exptime: i64,
    },
    /// The command at the input's head needs this many bytes, data block included; so many of them
    /// are counted by [`crate::server::shared::Shared::reserve_data`].
    Data {
        need: usize,
        reserved: u64,
    },
    /// Bytes of an unwanted data block that are still to come.
    Swallow(u64),
    Closing,
}

/// A connection.
#[derive(Debug)]
pub struct Conn {
    id: u64,
    info: Arc<ConnInfo>,
    input: Buf,
    replies: Replies,
    state: State,
}

impl Conn {
    /// A connection that has said nothing yet. `id` is its number in log lines.
    pub fn new(id: u64, info: Arc<ConnInfo>) -> Conn {
        Conn { id, info, input: Buf::new(), replies: Replies::new(), state: State::Command }
    }

    /// Where received bytes go.
    pub fn input(&mut self) -> &mut Buf {
        &mut self.input
    }

    /// What is to be sent.
    pub fn replies(&mut self) -> &mut Replies {
        &mut self.replies
    }

    /// Lends the worker's buffers to a connection that has none of its own.
    pub fn lend(&mut self, input: &mut Buf, out: &mut Vec<u8>) {
        if self.input.is_empty() {
            std::mem::swap(&mut self.input, input);
        }
        self.replies.lend(out);
    }

    /// Gives the worker's buffers back; a partial command moves to memory of its own, of its size,
    /// unless it is a long one that will fill the buffer that it has.
    pub fn reclaim(&mut self, exec: &mut Executor, now: Now, input: &mut Buf, out: &mut Vec<u8>) {
        let (rest, larger) = (self.input.len(), input.capacity() < self.input.capacity());
        if rest == 0 {
            if larger {
                std::mem::swap(&mut self.input, input);
            }
            // The smaller one had a partial command; the connection may be idle for long now.
            self.input = Buf::new();
        } else if larger && !self.grows_into_buffer(exec, now) && rest <= self.input.capacity() / 4
        {
            let mut own = Buf::new();
            own.extend(self.input.data());
            self.input.consume(rest);
            std::mem::swap(&mut self.input, input);
            self.input = own;
        }
        self.replies.reclaim(out);
    }

    /// Whether a long data block under way may keep the buffer it is in: then all of it is counted,
    /// and the block comes in without growing or moving.
    fn grows_into_buffer(&mut self, exec: &mut Executor, now: Now) -> bool {
        let capacity = self.input.capacity();
        let State::Data { need, reserved } = &mut self.state else { return false };
        if *need <= READ_MORE || capacity / KEEP_FACTOR > *need {
            return false;
        }
        let more = (capacity as u64).saturating_sub(*reserved);
        let kept = exec.make_room(more, now);
        *reserved += if kept { more } else { 0 };
        kept
    }

    /// How much to read at once: `fresh` for a new command, else up to what the data block that is
    /// coming in needs, as far as it is counted.
    pub fn wanted(&self, fresh: usize) -> usize {
        let here = self.input.len();
        match self.state {
            State::Data { need, .. } => (need.max(here) - here).clamp(READ_MORE, next_read(here)),
            _ if here == 0 => fresh,
            _ => READ_MORE,
        }
    }

    /// Between two commands with nothing to send.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Command) && self.input.is_empty() && self.replies.is_empty()
    }

    /// Ends the connection as far as commands go: gives back what it reserved, keeps the replies
    /// that wait to be sent.
    pub fn release(&mut self, exec: &mut Executor) {
        if let State::Data { reserved, .. } = self.state {
            exec.shared.release_data(reserved);
        }
        self.state = State::Closing;
    }

    /// Executes what has been received. `budget` is the number of commands that may still run in
    /// this turn (`-R`).
    pub fn process(&mut self, exec: &mut Executor, now: Now, budget: &mut u32) -> Step {
        let before = *budget;
        let step = self.advance(exec, now, budget);
        let state = match self.state {
            State::Closing => ConnState::Closing,
            _ if step == Step::Write => ConnState::Mwrite,
            State::Data { .. } => ConnState::Nread,
            State::Swallow(_) => ConnState::Swallow,
            State::Keys { .. } => ConnState::Read,
            State::Command if self.input.is_empty() => ConnState::NewCmd,
            State::Command => ConnState::Read,
        };
        self.info.note(state, before != *budget, now);
        step
    }

    fn advance(&mut self, exec: &mut Executor, now: Now, budget: &mut u32) -> Step {
        loop {
            if self.replies.queued_bytes() >= OUT_HIGH {
                return Step::Write;
            }
            match self.state {
                State::Closing => return Step::Close,
                State::Swallow(left) => {
                    let here = self.input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    self.input.consume(here);
                    let left = left - here as u64;
                    if left > 0 {
                        self.state = State::Swallow(left);
                        return Step::Read;
                    }
                    self.state = State::Command;
                }
                State::Data { need, reserved } if self.input.len() < need => {
                    // The next read may only take what is counted. This does not finish a command.
                    let enough = reserved >= to_reserve(self.input.len(), need);
                    if enough || !self.command(exec, now) {
                        return Step::Read;
                    }
                }
                State::Keys { verb, exptime } => {
                    match classic::parse_more_keys(self.input.data()) {
                        Parsed::Incomplete => return Step::Read,
                        Parsed::Reject { reject, used } => self.refuse(reject, used),
                        Parsed::Done { value: MoreKeys { keys, more }, used } => {
                            let (data, out) = (self.input.data(), self.replies.out());
                            let answered = answer_keys(exec, out, verb, exptime, keys, data, now);
                            self.end_of_keys(answered, verb, exptime, more, used);
                        }
                    }
                }
                State::Command | State::Data { .. } => {
                    if self.input.is_empty() {
                        return Step::Read;
                    }
                    if *budget == 0 {
                        return Step::Yield;
                    }
                    if !self.command(exec, now) {
                        return Step::Read;
                    }
                    *budget -= 1;
                }
            }
        }
    }

    /// Executes the command at the input's head. False when it is not complete.
    fn command(&mut self, exec: &mut Executor, now: Now) -> bool {
        if let State::Data { reserved, .. } = self.state {
            exec.shared.release_data(reserved);
            self.state = State::Command;
        }
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
                let outcome = take_data(&head, self.input.data(), used, exec, now);
                match outcome {
                    Data::Here { value, used: data } => {
                        log_line(self.id, self.input.data(), used);
                        let out = self.replies.out();
                        let mark = out.len();
                        exec.store_item(&head, value, now, out);
                        log_reply(self.id, &out[mark..]);
                        self.input.consume(used + data);
                    }
                    Data::Missing { reserved } => {
                        let need = used + head.len as usize + 2;
                        self.state = State::Data { need, reserved };
                    }
                    Data::Refused { reject, used: data } => {
                        log_line(self.id, self.input.data(), used);
                        self.refuse(reject, used + data);
                    }
                }
            }
            Request::Get { verb, exptime, keys, more } => {
                log_line(self.id, self.input.data(), used);
                let out = self.replies.out();
                let mark = out.len();
                let data = self.input.data();
                let answered = answer_keys(exec, out, verb, exptime, keys, data, now);
                if matches!(answered, Answered::Refused(_)) {
                    // memcached answers a get with a bad key by the error alone.
                    out.truncate(mark);
                }
                self.end_of_keys(answered, verb, exptime, more, used);
            }
            other => {
                log_line(self.id, self.input.data(), used);
                let out = self.replies.out();
                let mark = out.len();
                let after = exec.execute(&other, now, out);
                log_reply(self.id, &out[mark..]);
                self.input.consume(used);
                if after == After::Close {
                    self.state = State::Closing;
                }
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

    /// Answers a refusal and drops what it covers.
    fn refuse(&mut self, reject: Reject, used: usize) {
        log_reply(self.id, reject.line);
        self.replies.out().extend_from_slice(reject.line);
        self.input.consume(used);
        self.state = match reject {
            Reject { close: true, .. } => State::Closing,
            Reject { swallow: 0, .. } => State::Command,
            Reject { swallow, .. } => State::Swallow(swallow),
        };
    }
}

/// How far a portion of a get line was answered.
enum Answered {
    All,
    /// The output is full; the keys from this offset of the input on are left.
    Paused {
        at: usize,
    },
    Refused(Reject),
}

/// Answers the keys of a get, as long as there is room for replies.
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
    loop {
        if out.len() >= full && !keys.as_bytes().is_empty() {
            let at = keys.as_bytes().as_ptr() as usize - input.as_ptr() as usize;
            return Answered::Paused { at };
        }
        match keys.next() {
            None => return Answered::All,
            Some(Ok(key)) => exec.get(verb, exptime, key, now, out),
            Some(Err(reject)) => return Answered::Refused(reject),
        }
    }
}

/// What became of a storage command's data block.
enum Data<'a> {
    /// It is here, and took `used` bytes behind the head.
    Here { value: &'a [u8], used: usize },
    /// It has still to come.
    Missing { reserved: u64 },
    /// It is not wanted, or it is not what its length says; `used` bytes of it are dropped now.
    Refused { reject: Reject, used: usize },
}

/// The largest read for a command of which `here` bytes have come in.
fn next_read(here: usize) -> usize {
    here.clamp(READ_MORE, READ_MOST)
}

/// How much of a command of `need` bytes is to be counted before more than `here` bytes are read.
fn to_reserve(here: usize, need: usize) -> u64 {
    if need <= READ_MORE {
        return 0;
    }
    need.min(here + next_read(here)) as u64
}

/// Takes the data block behind `head`, a line of `line` bytes, from `input`.
fn take_data<'a>(
    head: &StoreHead<'_>,
    input: &'a [u8],
    line: usize,
    exec: &mut Executor,
    now: Now,
) -> Data<'a> {
    if !exec.fits(head) {
        return Data::Refused { reject: exec.too_large(head, now), used: 0 };
    }
    match classic::parse_data(&input[line..], head.len) {
        Parsed::Done { value, used } => Data::Here { value, used },
        Parsed::Reject { reject, used } => {
            Data::Refused { reject: reject.quiet_if(head.noreply), used }
        }
        Parsed::Incomplete => {
            let reserved = to_reserve(input.len(), line + head.len as usize + 2);
            if exec.make_room(reserved, now) {
                return Data::Missing { reserved };
            }
            Data::Refused { reject: exec.no_memory(head, now), used: 0 }
        }
    }
}

/// Shows a command line at `-vv`, as memcached does.
fn log_line(id: u64, input: &[u8], used: usize) {
    if log::log_enabled!(log::Level::Debug) {
        let line = String::from_utf8_lossy(&input[..used.min(LOGGED_LINE)]);
        log::debug!("<{id} {}", line.trim_end());
    }
}

/// Shows the first line of a reply at `-vv`, as memcached does.
fn log_reply(id: u64, reply: &[u8]) {
    if log::log_enabled!(log::Level::Debug) {
        let line = reply.split(|&byte| byte == b'\r').next().unwrap_or_default();
        let line = &line[..line.len().min(LOGGED_LINE)];
        let line = if line.is_empty() { b"NOREPLY" } else { line };
        log::debug!(">{id} {}", String::from_utf8_lossy(line));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::counters::Counter;
    use crate::server::config::Config;
    use crate::server::shared::Shared;
    use crate::store::{self, Store};

    const NOW: Now = Now { unix_us: 1_800_000_000_000_000, mono_us: 5_000_000 };

    fn world(item_max: u32) -> (Executor, Conn) {
        let store_config = store::Config { item_max, ..store::Config::default() };
        let config = Config { item_max, memory_limit: 64 << 20, ..Config::default() };
        let shared = Shared::new(config, Store::new(store_config, NOW), NOW, 1);
        let info = ConnInfo::new("test".into(), String::new(), ConnState::NewCmd, NOW);
        (Executor::new(shared), Conn::new(1, info))
    }

    /// Runs until nothing is left to do; gives the last step and all replies.
    fn run(conn: &mut Conn, exec: &mut Executor, bytes: &[u8]) -> (Step, Vec<u8>) {
        conn.input().extend(bytes);
        let mut out = Vec::new();
        loop {
            let step = conn.process(exec, NOW, &mut 20);
            let sendable = conn.replies().sendable().to_vec();
            conn.replies().sent(sendable.len(), 0);
            out.extend(sendable);
            if matches!(step, Step::Read | Step::Close) {
                return (step, out);
            }
        }
    }

    #[test]
    fn a_get_larger_than_the_output_bound_is_answered_in_portions() {
        let (mut exec, mut conn) = world(1 << 20);
        let value = vec![b'v'; 100_000];
        let mut line = b"get".to_vec();
        for n in 0..20 {
            let mut set = format!("set key{n} 0 0 100000\r\n").into_bytes();
            set.extend_from_slice(&value);
            set.extend_from_slice(b"\r\n");
            assert_eq!(run(&mut conn, &mut exec, &set).1, b"STORED\r\n");
            line.extend_from_slice(format!(" key{n}").as_bytes());
        }
        line.extend_from_slice(b"\r\nversion\r\n");
        conn.input().extend(&line);
        let (mut out, mut writes) = (Vec::new(), 0);
        loop {
            let step = conn.process(&mut exec, NOW, &mut 20);
            let waiting = conn.replies().queued_bytes();
            assert!(waiting <= 2 * OUT_HIGH + value.len() + 300, "{waiting} bytes wait");
            // A socket that takes a part only, as far as it can.
            let part = if step == Step::Read { waiting } else { waiting - waiting / 3 };
            out.extend_from_slice(&conn.replies().sendable()[..part]);
            conn.replies().sent(part, 0);
            writes += 1;
            if step == Step::Read {
                break;
            }
            assert_eq!(step, Step::Write);
        }
        assert!(writes > 5, "only {writes} portions");
        assert_eq!(out.windows(6).filter(|w| w == b"VALUE ").count(), 20);
        let end = format!("END\r\nVERSION {}\r\n", exec.shared.version);
        assert!(out.ends_with(end.as_bytes()));
    }

    #[test]
    fn a_long_data_block_is_counted_as_it_comes_in() {
        let (mut exec, mut conn) = world(1 << 20);
        let (step, out) = run(&mut conn, &mut exec, b"set k 0 0 200000\r\nxxx");
        assert_eq!((step, out.as_slice()), (Step::Read, &b""[..]));
        let few = exec.shared.reserved_data();
        assert!((1..20_000).contains(&few), "{few} bytes for what is only announced");
        assert!(conn.wanted(1) as u64 <= few);
        let mut here = 21;
        while here < 200_000 {
            let part = conn.wanted(1).min(200_018 - here);
            here += part;
            assert!(here as u64 <= exec.shared.reserved_data(), "read more than was counted");
            assert_eq!(run(&mut conn, &mut exec, &vec![b'x'; part]).1, b"");
        }
        assert_eq!(exec.shared.reserved_data(), 200_020);
        let (_, out) = run(&mut conn, &mut exec, b"\r\nget nothing\r\n");
        assert_eq!(out, b"STORED\r\nEND\r\n");
        assert_eq!(exec.shared.reserved_data(), 0);
        run(&mut conn, &mut exec, b"set k 0 0 300000\r\n");
        conn.release(&mut exec);
        assert_eq!(exec.shared.reserved_data(), 0, "a closed connection gives it back");
    }

    #[test]
    fn a_data_block_that_finds_no_memory_is_swallowed_from_where_it_is() {
        let (mut exec, mut conn) = world(1 << 20);
        assert!(run(&mut conn, &mut exec, b"set k 0 0 100000\r\nxxx").1.is_empty());
        // Somebody else takes all there is.
        let mut other = 0;
        while exec.shared.reserve_data(10_000) {
            other += 10_000;
        }
        let (_, out) = run(&mut conn, &mut exec, &vec![b'x'; 90_000]);
        assert_eq!(out, b"SERVER_ERROR out of memory storing object\r\n");
        assert_eq!(exec.shared.reserved_data(), other);
        exec.shared.release_data(other);
        let mut rest = vec![b'x'; 9_997];
        rest.extend(b"\r\nget k\r\n");
        assert_eq!(run(&mut conn, &mut exec, &rest).1, b"END\r\n");
    }

    #[test]
    fn a_refused_value_takes_the_old_one_with_it_and_keeps_the_connection() {
        let (mut exec, mut conn) = world(2048);
        assert_eq!(run(&mut conn, &mut exec, b"set k 0 0 1\r\nx\r\n").1, b"STORED\r\n");
        let mut set = b"set k 0 0 5000\r\n".to_vec();
        set.extend(vec![b'y'; 5000]);
        set.extend(b"\r\nget k\r\n");
        let (_, out) = run(&mut conn, &mut exec, &set);
        assert_eq!(out, b"SERVER_ERROR object too large for cache\r\nEND\r\n");
        assert_eq!(exec.store.counters().get(Counter::TooLarge), 1);
    }

    #[test]
    fn the_budget_lets_others_in_between() {
        let (mut exec, mut conn) = world(2048);
        conn.input().extend(&b"version\r\n".repeat(50));
        let mut budget = 20;
        assert_eq!(conn.process(&mut exec, NOW, &mut budget), Step::Yield);
        let replies = conn.replies().sendable().split(|&b| b == b'\n').count() - 1;
        assert_eq!((budget, replies), (0, 20));
    }

    #[test]
    fn lent_buffers_come_back_and_a_partial_command_keeps_its_own() {
        let (mut exec, mut conn) = world(2048);
        let (mut input, mut out) = (Buf::new(), Vec::new());
        input.space(65_536);
        conn.lend(&mut input, &mut out);
        run(&mut conn, &mut exec, b"get k\r\nget hal");
        conn.reclaim(&mut exec, NOW, &mut input, &mut out);
        assert!(input.capacity() >= 65_536 && input.is_empty());
        assert_eq!(conn.input().data(), b"get hal");
        assert!(conn.input().capacity() < 1024);
        assert!(!conn.is_idle());
        conn.lend(&mut input, &mut out);
        assert_eq!(run(&mut conn, &mut exec, b"f\r\n").1, b"END\r\n");
        conn.reclaim(&mut exec, NOW, &mut input, &mut out);
        assert!(conn.is_idle());
        assert!(conn.input().capacity() == 0 && input.capacity() >= 65_536);
    }

    #[test]
    fn quit_answers_what_came_before_and_nothing_after() {
        let (mut exec, mut conn) = world(2048);
        let (step, out) = run(&mut conn, &mut exec, b"get k\r\nquit\r\nget k\r\n");
        assert_eq!((step, out.as_slice()), (Step::Close, &b"END\r\n"[..]));
        assert_eq!(conn.process(&mut exec, NOW, &mut 20), Step::Close);
    }
}
