//! One request datagram and its replies, without the socket.
//!
//! Owns how a [`Conn`] serves datagrams, one after the other, none knowing of another: where a
//! reply begins and ends, what a datagram cannot ask for, and how much one may cause. Never touches
//! a socket and never waits for the rest of a command: what is not in the datagram does not come.
//!
//! ```text
//!   space, begin --> [ Conn ] --advance--> one reply --datagram, sent--> 1400 bytes at a time
//!                       ^                                   |
//!                       +-------- the next command ---------+        ... Turn::Done
//! ```
//!
//! Every command has a reply of its own, numbered from 0, as in memcached; only a get of several
//! keys is answered as protocol.txt says, by one reply, where memcached 1.6 sends one for every
//! item and no client could tell when it has them all.

use std::sync::Arc;

use super::{Conn, Dialect, State, Step, OUT_HIGH};
use crate::base::buf::Buf;
use crate::base::clock::Now;
use crate::protocol::binary::REQUEST;
use crate::protocol::classic;
use crate::protocol::reject;
use crate::protocol::udp::{self, DATAGRAM_MAX, HEADER, MESSAGE_MAX, PAYLOAD_MAX, REQUEST_MAX};
use crate::protocol::{Parsed, Request};
use crate::server::execute::Executor;
use crate::server::shared::{ConnInfo, ConnState};

/// Reply bytes after which no further command of a datagram is executed, and a long get ends: more
/// than receive buffers hold, and a forged sender cannot turn 64 KiB into gigabytes. One portion
/// and one value may go over it.
const REPLY_MAX: usize = 8 << 20;

/// A reply is over what the header can count, or a request asks for more than [`REPLY_MAX`].
const TOO_MUCH: &[u8] = b"SERVER_ERROR reply too large for UDP\r\n";

/// The command has an answer without an end, or a dump of everything.
const NOT_HERE: &[u8] = b"SERVER_ERROR not available over UDP\r\n";

/// What is to be done next for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Send what [`Exchange::datagram`] writes.
    Send,
    /// The budget is used up: let others go first.
    Yield,
    /// The request is answered: the next may come.
    Done,
}

/// Serves the requests of one socket.
#[derive(Debug)]
pub struct Exchange {
    conn: Conn,
    info: Arc<ConnInfo>,
    /// The client's number of the request.
    id: u16,
    /// Datagrams of the present reply that are sent.
    sequence: u16,
    /// Reply bytes that the request may still cause.
    left: usize,
    /// There may be more to execute.
    open: bool,
    /// The present reply is not whole yet: its command goes on.
    growing: bool,
}

impl Exchange {
    /// Nothing has been asked yet. `id` is the socket's number in log lines.
    pub fn new(id: u64, info: Arc<ConnInfo>) -> Exchange {
        let mut conn = Conn::new(id, Arc::clone(&info));
        // A datagram that may get lost promises nothing, and its socket has other clients.
        conn.holds = false;
        Exchange { conn, info, id: 0, sequence: 0, left: 0, open: false, growing: false }
    }

    /// Room for the longest request, to be received into before [`Exchange::begin`].
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.conn.input.space(REQUEST_MAX)[..REQUEST_MAX]
    }

    /// Takes the request of `len` bytes that was received into [`Exchange::space`]. False when it
    /// is none: it is dropped.
    pub fn begin(&mut self, len: usize) -> bool {
        self.conn.input.filled(len);
        match udp::request(self.conn.input.data()) {
            Some((id, commands)) => {
                // As in memcached: every datagram may speak as it likes, whatever -B says.
                let binary = commands.first() == Some(&REQUEST);
                self.conn.dialect = if binary { Dialect::Binary } else { Dialect::Text };
                self.conn.input.consume(HEADER);
                (self.id, self.sequence, self.left, self.open) = (id, 0, REPLY_MAX, true);
            }
            None => self.conn.input.consume(len),
        }
        self.open
    }

    /// Executes commands until there is a reply to send. `budget` is the number of commands that
    /// may still run in this turn.
    pub fn advance(&mut self, exec: &mut Executor, now: Now, budget: &mut u32) -> Turn {
        loop {
            if !self.growing && !self.conn.replies.sendable().is_empty() {
                return Turn::Send;
            }
            if !self.growing && !self.open {
                self.end(exec, now);
                return Turn::Done;
            }
            if !self.growing && self.left == 0 {
                self.conn.replies.out().extend_from_slice(TOO_MUCH);
                self.open = false;
                continue;
            }
            if !self.reply(exec, now, budget) {
                return Turn::Yield;
            }
        }
    }

    /// Executes one command, and the rest of it where its answer comes in portions: up to the
    /// bound of a connection's output they make one reply. False when the budget ended before.
    fn reply(&mut self, exec: &mut Executor, now: Now, budget: &mut u32) -> bool {
        self.growing = true;
        loop {
            if *budget == 0 {
                return false;
            }
            *budget -= 1;
            let step = self.conn.process(exec, now, &mut 1);
            match &self.conn.state {
                State::Stream(producer) if !producer.may_go_by_datagram() => {
                    self.conn.replies.out().clear();
                    self.conn.replies.out().extend_from_slice(NOT_HERE);
                    self.conn.state = State::Command;
                }
                State::Stream(_) | State::Keys { .. } if step == Step::Yield => continue,
                _ => {}
            }
            match step {
                Step::Yield | Step::Write => {}
                Step::Read => self.cut_short(),
                Step::Close | Step::Hold => self.open = false,
            }
            break;
        }
        self.growing = false;
        if self.conn.replies.queued_bytes() > MESSAGE_MAX {
            *self.conn.replies.out() = TOO_MUCH.to_vec();
            self.open = false;
        }
        true
    }

    /// The datagram is at its end. Whoever announced a data block that is not all there hears what
    /// memcached would say of it when it has taken the next datagram for the rest. A binary request
    /// is dropped.
    fn cut_short(&mut self) {
        self.open = false;
        let data = matches!(self.conn.state, State::Data { .. });
        if !data || self.conn.dialect == Dialect::Binary {
            return;
        }
        let quiet = match classic::parse(self.conn.input.data()) {
            Parsed::Done { value: Request::Store(head), .. } => head.noreply,
            _ => false,
        };
        if !quiet {
            self.conn.replies.out().extend_from_slice(reject::BAD_CHUNK);
        }
    }

    /// Forgets the request.
    fn end(&mut self, exec: &mut Executor, now: Now) {
        self.conn.release(exec);
        let rest = self.conn.input.len();
        self.conn.input.consume(rest);
        self.conn.state = State::Command;
        self.info.note(ConnState::Read, false, now);
    }

    /// Writes the next datagram of the reply and says how long it is.
    pub fn datagram(&self, out: &mut [u8; DATAGRAM_MAX]) -> Option<usize> {
        udp::datagram(self.id, self.sequence, self.conn.replies.sendable(), out)
    }

    /// Says that the datagram is gone. A reply's memory of more than `keep` bytes is given back
    /// behind its last one.
    pub fn sent(&mut self, keep: usize) {
        self.sequence = self.sequence.saturating_add(1);
        let reply = self.conn.replies.sendable().len();
        if usize::from(self.sequence) * PAYLOAD_MAX >= reply {
            self.conn.replies.sent(reply, keep);
            self.sequence = 0;
            self.left = self.left.saturating_sub(reply);
        }
    }

    /// Gives up: the client cannot be reached.
    pub fn abandon(&mut self) {
        let rest = self.conn.replies.sendable().len();
        self.conn.replies.sent(rest, 0);
        self.sequence = 0;
        (self.open, self.growing) = (false, false);
    }

    /// Lends the worker's buffers, as [`Conn::lend`].
    pub fn lend(&mut self, input: &mut Buf, out: &mut Vec<u8>) {
        self.conn.lend(input, out);
    }

    /// Gives them back, as [`Conn::reclaim`].
    pub fn reclaim(&mut self, exec: &mut Executor, now: Now, input: &mut Buf, out: &mut Vec<u8>) {
        self.conn.reclaim(exec, now, input, out);
    }
}

/// One reply is a portion of a connection's output at most, and one value above it.
const _: () = assert!(OUT_HIGH <= REPLY_MAX && REPLY_MAX <= MESSAGE_MAX);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::config::Config;
    use crate::server::shared::Shared;
    use crate::store::{self, Store};

    const NOW: Now = Now { unix_us: 1_800_000_000_000_000, mono_us: 5_000_000 };

    struct World {
        exec: Executor,
        exchange: Exchange,
    }

    impl World {
        fn new(item_max: u32) -> World {
            let memory_limit = 64 << 20;
            let store_config = store::Config { item_max, memory_limit, ..store::Config::default() };
            let config = Config { item_max, memory_limit, ..Config::default() };
            let shared = Shared::new(config, Store::new(store_config, NOW), NOW, 1);
            let info = ConnInfo::new("udp:test".into(), String::new(), ConnState::Read, NOW);
            World { exec: Executor::new(shared), exchange: Exchange::new(1, info) }
        }

        /// The replies to one request, joined, each with the number of its datagrams.
        fn ask(&mut self, commands: &[u8]) -> Vec<(Vec<u8>, usize)> {
            let request = [&[0, 7, 0, 0, 0, 1, 0, 0][..], commands].concat();
            self.exchange.space()[..request.len()].copy_from_slice(&request);
            assert!(self.exchange.begin(request.len()));
            let (mut replies, mut out) = (Vec::new(), [0; DATAGRAM_MAX]);
            loop {
                match self.exchange.advance(&mut self.exec, NOW, &mut 20) {
                    Turn::Yield => continue,
                    Turn::Done => break,
                    Turn::Send => {}
                }
                let len = self.exchange.datagram(&mut out).expect("something to send");
                let number = |at: usize| usize::from(u16::from_be_bytes([out[at], out[at + 1]]));
                assert_eq!((number(0), number(6)), (7, 0));
                if number(2) == 0 {
                    replies.push((Vec::new(), number(4)));
                }
                let (reply, total) = replies.last_mut().expect("a first datagram");
                assert_eq!((number(2), number(4)), (reply.len() / PAYLOAD_MAX, *total));
                reply.extend_from_slice(&out[HEADER..len]);
                self.exchange.sent(0);
            }
            for (reply, total) in &replies {
                assert_eq!(reply.len().div_ceil(PAYLOAD_MAX), *total);
            }
            assert!(self.exchange.conn.is_idle());
            assert_eq!(self.exec.shared.reserved_data(), 0);
            replies
        }

        fn texts(&mut self, commands: &[u8]) -> Vec<String> {
            let text = |(reply, _)| String::from_utf8(reply).expect("text");
            self.ask(commands).into_iter().map(text).collect()
        }
    }

    #[test]
    fn every_command_has_a_reply_of_its_own_and_a_get_one_for_all_keys() {
        let mut world = World::new(1 << 20);
        let sets = b"set a 0 0 1\r\nA\r\nset b 0 0 1 noreply\r\nB\r\nget a b\r\nget c\r\n";
        let both = "VALUE a 0 1\r\nA\r\nVALUE b 0 1\r\nB\r\nEND\r\n";
        assert_eq!(world.texts(sets), ["STORED\r\n", both, "END\r\n"]);
        assert_eq!(world.texts(&b"get a b\r\n".repeat(50)), vec![both; 50]);
        let many = world.texts(&[&b"get"[..], &b" a b".repeat(5000), b"\r\nget c\r\n"].concat());
        assert_eq!(many, [both.replace("END\r\n", "").repeat(5000) + "END\r\n", "END\r\n".into()]);
        assert_eq!(world.ask(b"set a 0 0 1 noreply\r\nC\r\n"), []);
    }

    #[test]
    fn a_large_value_goes_in_many_datagrams() {
        let mut world = World::new(1 << 20);
        world.ask(
            b"set a 0 0 60000\r\n"
                .iter()
                .chain(&[b'x'; 60000])
                .chain(b"\r\n")
                .copied()
                .collect::<Vec<u8>>()
                .as_slice(),
        );
        let value = [&b"VALUE a 0 60000\r\n"[..], &[b'x'; 60000], b"\r\n"].concat();
        let replies = world.ask(b"get a\r\nget a a\r\n");
        assert_eq!(replies[0], ([&value[..], b"END\r\n"].concat(), 44));
        assert_eq!(replies[1].0, [&value[..], &value, b"END\r\n"].concat());
    }

    #[test]
    fn what_is_cut_off_is_refused_and_not_taken_from_the_next_datagram() {
        let mut world = World::new(1 << 20);
        let bad = "CLIENT_ERROR bad data chunk\r\n";
        assert_eq!(world.texts(b"get a\r\nset a 0 0 9\r\nabc"), ["END\r\n", bad]);
        assert_eq!(world.texts(b"set a 0 0 99999\r\nabc"), [bad]);
        assert_eq!(world.ask(b"set a 0 0 9 noreply\r\nabc"), []);
        let large = "SERVER_ERROR object too large for cache\r\n";
        assert_eq!(world.texts(b"set a 0 0 9999999\r\nget a\r\n"), [large]);
        assert_eq!(world.ask(b"get a"), []);
        assert_eq!(world.texts(b" b\r\n"), ["ERROR\r\n"]);
        assert_eq!(world.texts(b"quit\r\nget a\r\n"), [""; 0]);
        assert_eq!(world.texts(b"get a\r\n"), ["END\r\n"]);
    }

    #[test]
    fn every_datagram_chooses_its_protocol_anew() {
        let mut world = World::new(1 << 20);
        let noop = [&[0x80, 0x0a][..], &[0; 22]].concat();
        let answer = [&[0x81, 0x0a][..], &[0; 22]].concat();
        assert_eq!(world.ask(&noop.repeat(2)), [(answer.clone(), 1), (answer.clone(), 1)]);
        assert_eq!(world.texts(b"get a\r\n"), ["END\r\n"]);
        // A set that is not all there: its value is not looked for in the next datagram.
        let set = [&[0x80, 1, 0, 1, 8, 0, 0, 0, 0, 0, 0, 90][..], &[0; 20], b"kvalue"].concat();
        assert_eq!(world.ask(&set), []);
        assert_eq!(world.ask(&[&noop[..], b"get a\r\n"].concat()), [(answer, 1)]);
        assert_eq!(world.ask(&noop[..20]), []);
        assert_eq!(world.texts(b"get k\r\n"), ["END\r\n"]);
    }

    #[test]
    fn answers_without_a_bound_are_refused_and_long_ones_stay_whole() {
        let mut world = World::new(1 << 20);
        let refused = String::from_utf8_lossy(NOT_HERE).into_owned();
        for n in 0..30_000 {
            let key = format!("key{n}").into_bytes();
            let (mode, never) = (crate::store::Mode::Set, crate::store::Exptime::Never);
            world.exec.store.store(mode, &key, 0, never, &vec![b'x'; n % 50], NOW);
        }
        for dump in ["lru_crawler metadump all", "lru_crawler mgdump all", "stats cachedump 1 0"] {
            let commands = format!("{dump}\r\nget none\r\n");
            assert_eq!(world.texts(commands.as_bytes()), [&refused[..], "END\r\n"], "{dump}");
        }
        // It takes many steps, and more commands than a turn has.
        let replies = world.texts(b"stats sizes\r\nget none\r\n");
        assert!(replies[0].starts_with("STAT ") && replies[0].ends_with("END\r\n"), "{replies:?}");
        assert_eq!(&replies[1..], ["END\r\n"]);
    }

    #[test]
    fn one_datagram_cannot_cause_more_than_the_bound() {
        let mut world = World::new(8 << 20);
        let exptime = crate::store::Exptime::Never;
        let value = vec![b'x'; 1 << 20];
        let mode = crate::store::Mode::Set;
        world.exec.store.store(mode, b"a", 0, exptime, &value, NOW);
        let keys = [&b"get"[..], &b" a".repeat(1000), b"\r\nget a\r\n"].concat();
        for request in [keys, b"get a\r\n".repeat(1000)] {
            let replies = world.ask(&request);
            let bytes: usize = replies.iter().map(|(reply, _)| reply.len()).sum();
            assert!(bytes < REPLY_MAX + OUT_HIGH + 2 * value.len(), "{bytes} bytes");
            assert_eq!(replies.last().map(|(reply, _)| reply.as_slice()), Some(TOO_MUCH));
        }
    }
}
