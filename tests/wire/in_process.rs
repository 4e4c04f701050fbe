//! Our connection code without sockets, threads or a real clock.
//!
//! Owns a store, one worker's executor and a clock that moves only when told to. Bytes that are
//! sent are executed at once, so that the order of what happens on several connections is the
//! transcript's.

use crate::script::{Link, Transport};
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;
use twincached::base::clock::{Clock, ManualClock, Now};
use twincached::server::auth::{Auth, Format};
use twincached::server::config::{Config, Protocol, Replication};
use twincached::server::conn::{Conn, Step};
use twincached::server::execute::Executor;
use twincached::server::shared::{ConnInfo, ConnState, Shared};
use twincached::store::{self, Handle, Maintained, Store};

/// Where the clock starts: a day in 2026, so that absolute times mean what they mean elsewhere.
const START_UNIX_SECS: u64 = 1_780_000_000;
/// `-R` of the real program.
const BUDGET: u32 = 20;
/// Replies are taken in pieces of this size, as a socket would.
const WRITE: usize = 16 * 1024;
/// Items looked at in one step of maintenance.
const MAINTAIN: usize = 1000;

struct World {
    clock: ManualClock,
    exec: Executor,
    maintenance: Handle,
    opened: u64,
}

/// A server that is a value.
pub struct Server {
    world: Rc<RefCell<World>>,
}

impl Server {
    /// A server with the arguments of a transcript; only those that change what a connection sees
    /// are known.
    pub fn start(args: &[String]) -> Server {
        let config = config(args);
        let start = Now { unix_us: START_UNIX_SECS * 1_000_000, mono_us: 0 };
        let store = Store::new(
            store::Config {
                memory_limit: config.memory_limit,
                item_max: config.store_item_max(),
                evict: config.evict,
                replicated: config.replication.is_some(),
                ..store::Config::default()
            },
            start,
        );
        let maintenance = store.handle();
        let users = config.auth_file.clone().map(|path| (path, Format::AuthFile));
        let auth = users.map(|file| Auth::load(Some(file)).unwrap_or_else(|why| panic!("{why}")));
        let shared = Shared::with_auth(config, store, start, 1, auth);
        let exec = Executor::new(shared);
        let clock = ManualClock::at(start);
        Server { world: Rc::new(RefCell::new(World { clock, exec, maintenance, opened: 0 })) }
    }
}

fn config(args: &[String]) -> Config {
    let mut config = Config::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut megabytes = || -> u64 {
            let text = args.next().map(|text| text.trim_end_matches('m')).unwrap_or_default();
            text.parse::<u64>().unwrap_or_else(|_| panic!("{arg} wants megabytes")) << 20
        };
        match arg.as_str() {
            "-U" => drop(args.next()),
            "-Y" => {
                config.auth_file = args.next().map(PathBuf::from);
                config.protocol = Protocol::Ascii;
            }
            "-S" => {
                config.sasl = true;
                config.protocol = Protocol::Binary;
            }
            "-B" => {
                config.protocol = match args.next().map(String::as_str) {
                    Some("ascii") => Protocol::Ascii,
                    Some("binary") => Protocol::Binary,
                    other => panic!("-B {other:?}"),
                }
            }
            "-x" => {
                let peers = args.next().into_iter().cloned().collect();
                config.replication =
                    Some(Replication { peers, port: 0, queue_max: 1, ..Replication::default() });
            }
            "-A" => config.shutdown_command = true,
            "-F" => config.flush_command = false,
            "-M" => config.evict = false,
            "-C" => config.cas = false,
            "-o" => match args.next().map(String::as_str) {
                Some("track_sizes") => config.track_sizes = true,
                other => panic!("-o {other:?} means nothing in-process: add it here"),
            },
            "-m" => config.memory_limit = megabytes(),
            "-I" => config.item_max = u32::try_from(megabytes()).expect("up to 1 GB"),
            other => panic!("{other} means nothing in-process: add it here"),
        }
    }
    config
}

impl Transport for Server {
    fn open(&mut self) -> Box<dyn Link> {
        let mut world = self.world.borrow_mut();
        let now = world.clock.now();
        world.opened += 1;
        let id = world.opened;
        assert!(world.exec.shared.admit(), "over -c");
        let info = ConnInfo::new(
            format!("tcp:127.0.0.1:{}", 40_000 + id),
            "tcp:127.0.0.1:11211".to_owned(),
            ConnState::NewCmd,
            now,
        );
        world.exec.shared.conns().insert(id, info.clone());
        Box::new(Connection {
            id,
            world: Rc::clone(&self.world),
            conn: Conn::new(id, info),
            replies: Vec::new(),
            closed: false,
        })
    }

    fn advance(&mut self, by: Duration) -> bool {
        let mut world = self.world.borrow_mut();
        world.clock.advance_us(u64::try_from(by.as_micros()).expect("some seconds"));
        let now = world.clock.now();
        while world.maintenance.maintain(now, MAINTAIN) == Maintained::More {}
        true
    }
}

struct Connection {
    id: u64,
    world: Rc<RefCell<World>>,
    conn: Conn,
    replies: Vec<u8>,
    closed: bool,
}

impl Connection {
    fn run(&mut self) {
        let mut world = self.world.borrow_mut();
        let now = world.clock.now();
        loop {
            let mut budget = BUDGET;
            let step = self.conn.process(&mut world.exec, now, &mut budget);
            let replies = self.conn.replies();
            while !replies.sendable().is_empty() {
                let piece = replies.sendable().len().min(WRITE);
                self.replies.extend_from_slice(&replies.sendable()[..piece]);
                replies.sent(piece, 0);
            }
            match step {
                Step::Yield | Step::Write => {}
                Step::Read => return,
                Step::Hold => unreachable!("replies wait for peers without -o repl_ack"),
                Step::Close => {
                    self.closed = true;
                    return;
                }
            }
        }
    }
}

impl Link for Connection {
    fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.closed {
            return Err(std::io::ErrorKind::BrokenPipe.into());
        }
        self.conn.input().extend(bytes);
        self.run();
        Ok(())
    }

    fn receive(&mut self, into: &mut Vec<u8>) -> Result<bool, String> {
        if self.replies.is_empty() {
            return if self.closed { Ok(false) } else { Err("nothing more comes".to_owned()) };
        }
        into.append(&mut self.replies);
        Ok(true)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut world = self.world.borrow_mut();
        self.conn.release(&mut world.exec);
        world.exec.shared.conns().remove(&self.id);
        world.exec.shared.leave();
    }
}
