//! A whole connection over a small store, without a socket: whatever pieces the bytes come in, the
//! answers are the same, memory stays bounded and everything that was counted is given back. The
//! seed chooses what server it is: see [`World`].

use std::collections::BTreeMap;
use std::sync::Arc;

use twincached::base::clock::Now;
use twincached::base::counters::Counter;
use twincached::server::auth::{Auth, Format};
use twincached::server::config::{Config, Protocol};
use twincached::server::conn::{Conn, Step};
use twincached::server::execute::Executor;
use twincached::server::shared::{ConnInfo, ConnState, Shared};
use twincached::store::{self, Change, Exptime, Handle, ScanCursor, Store, Value, What};

const NOW: Now = Now { unix_us: 1_800_000_000_000_000, mono_us: 5_000_000 };
/// `-I`: small, so that the fuzzer can go beyond it.
const ITEM_MAX: u32 = 2048;
/// A line that is longer may be answered before its end is here: then the pieces show.
const LINE: usize = 2000;
/// Replies are taken when so many bytes wait, and a value and the largest answer may be on top.
const REPLIES_MAX: usize = 2 * (256 << 10);
/// The longest line that is waited for is 64 KiB; a buffer may be twice its contents.
const INPUT_MAX: usize = 256 << 10;

/// Bytes of a watcher's lines: its buffer and what is behind the last write.
const LINES_MAX: usize = 512 << 10;

/// What the connection meets. Three bits of the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    Plain,
    /// Somebody watches everything.
    Watched,
    /// `-Y`, with the user `u` and the password `p`.
    TextAuth,
    /// `-S`, with the same.
    Sasl,
    /// A node of a pair: what it tells makes the other one equal.
    Replicated,
    /// Some thousand items, counted by prefix, and everything allowed that an option allows.
    Filled,
}

impl World {
    fn of(seed: u16) -> World {
        match seed >> 13 {
            0 => World::Watched,
            1 => World::TextAuth,
            2 => World::Sasl,
            3 => World::Replicated,
            4 => World::Filled,
            _ => World::Plain,
        }
    }

    fn executor(self) -> Executor {
        let (memory_limit, item_max) = (1 << 20, ITEM_MAX);
        let replicated = self == World::Replicated;
        let store =
            store::Config { memory_limit, item_max, replicated, ..store::Config::default() };
        let mut config = Config { memory_limit, item_max, ..Config::default() };
        let users = match self {
            World::TextAuth => {
                config.protocol = Protocol::Ascii;
                true
            }
            World::Sasl => {
                (config.protocol, config.sasl) = (Protocol::Binary, true);
                true
            }
            World::Filled => {
                config.track_sizes = true;
                config.detail_enabled = true;
                config.debug_clock = true;
                config.shutdown_command = true;
                false
            }
            World::Plain | World::Watched | World::Replicated => false,
        };
        let auth = users.then(|| {
            Auth::of(b"u:p\n", Format::AuthFile).unwrap_or_else(|why| panic!("users: {why}"))
        });
        let shared = Shared::with_auth(config, Store::new(store, NOW), NOW, 1, auth);
        let mut exec = Executor::new(shared);
        exec.wake = Some(Arc::new(|| {}));
        if self == World::Filled {
            for n in 0..1500u32 {
                let key = format!("{}:{n}", n % 40);
                let expires =
                    if n % 3 == 0 { Exptime::At(NOW.unix_secs() + n) } else { Exptime::Never };
                let value = vec![b'v'; n as usize % 200];
                exec.store.store(store::Mode::Set, key.as_bytes(), n % 2, expires, &value, NOW);
            }
        }
        exec
    }

    /// Nobody has done anything that only somebody may do, unless the right words were among it.
    fn check_login(self, exec: &Executor, bytes: &[u8]) {
        let words: &[u8] = match self {
            World::TextAuth => b"u p",
            World::Sasl => b"\0u\0p",
            _ => return,
        };
        if bytes.windows(words.len()).any(|window| window == words) {
            return;
        }
        let stats = exec.shared.store.stats();
        for counter in [Counter::CmdGet, Counter::CmdSet, Counter::CmdTouch, Counter::CmdFlush] {
            assert_eq!(stats.sums.get(counter), 0, "{counter:?} for {:?}", bytes.escape_ascii());
        }
        assert!(!exec.shared.detail.is_on() && exec.shared.watch.stats().watchers == 0);
    }
}

/// An executor over an empty store of its own.
pub fn executor() -> Executor {
    World::Plain.executor()
}

/// Feeds the same bytes whole and in pieces to two servers.
pub fn run(data: &[u8]) {
    if let Some((seed, bytes)) = super::seed(data) {
        compare_in(World::of(seed), seed, bytes);
    }
}

/// [`run`] of a server without anything, with the pieces that follow from `seed`.
pub fn compare(seed: u16, bytes: &[u8]) {
    compare_in(World::Plain, seed, bytes);
}

fn compare_in(world: World, seed: u16, bytes: &[u8]) {
    let whole = converse(world, bytes, std::iter::once(bytes));
    let cut = converse(world, bytes, super::pieces(seed, bytes));
    let long_lines = bytes.split(|&byte| byte == b'\n').any(|line| line.len() > LINE);
    if !long_lines && !may_differ(&whole) && !may_differ(&cut) {
        assert_eq!(
            whole.escape_ascii().to_string(),
            cut.escape_ascii().to_string(),
            "for {:?}",
            bytes.escape_ascii()
        );
    }
}

/// Whether there is something in the replies that may differ from one time to the next: what the
/// process has used, and a refusal that depends on whether earlier answers were sent.
pub fn may_differ(replies: &[u8]) -> bool {
    let has = |what: &[u8]| replies.windows(what.len()).any(|bytes| bytes == what);
    has(b"rusage") || has(b"ERROR cannot pipeline other commands before ")
}

/// Everything a new server answers to `pieces` of `bytes` on one connection.
fn converse<'a>(world: World, bytes: &[u8], pieces: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut exec = world.executor();
    let mut conn = connection(1);
    let mut watcher = connection(2);
    let mut lines = Vec::new();
    if world == World::Watched {
        watcher.input().extend(b"watch fetchers mutations evictions connevents deletions\r\n");
        assert!(answer(&mut watcher, &mut exec, &mut lines) && watcher.is_endless());
        assert_eq!(lines, b"OK\r\n");
        lines.clear();
    }
    let mut out = Vec::new();
    for piece in pieces {
        conn.input().extend(piece);
        let open = answer(&mut conn, &mut exec, &mut out);
        exec.store.hand_over();
        if watcher.is_called() {
            assert!(answer(&mut watcher, &mut exec, &mut lines));
            check_lines(&mut lines);
        }
        if !open {
            break;
        }
    }
    conn.release(&mut exec);
    watcher.release(&mut exec);
    assert_eq!(exec.shared.reserved_data(), 0, "something stays counted");
    assert_eq!(exec.shared.watch.stats().watchers, 0, "somebody stays a watcher");
    world.check_login(&exec, bytes);
    if world == World::Replicated {
        check_replica(&mut exec);
    }
    out
}

fn connection(id: u64) -> Conn {
    Conn::new(id, ConnInfo::new("tcp:fuzz".into(), String::new(), ConnState::NewCmd, NOW))
}

/// A watcher has whole lines, each of them with its head, whatever keys there are.
fn check_lines(lines: &mut Vec<u8>) {
    assert!(lines.len() <= LINES_MAX && lines.ends_with(b"\n"));
    for line in lines.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let begins = line.starts_with(b"ts=") || line.starts_with(b"skipped=");
        assert!(begins && line.is_ascii(), "{}", line.escape_ascii());
    }
    lines.clear();
}

/// What an item is to a client: flags, exptime, unique, value.
type Shown = (u32, Exptime, u64, Vec<u8>);

fn items(handle: &mut Handle) -> BTreeMap<Vec<u8>, Shown> {
    let (mut all, mut cursor) = (BTreeMap::new(), ScanCursor::default());
    while !handle.dump(&mut cursor, 50, NOW, &mut |item| {
        let shown = (item.flags, item.exptime, item.cas, item.value.to_vec());
        assert_eq!(all.insert(item.key.to_vec(), shown), None, "an item twice");
    }) {}
    all
}

/// Tells another node what was fed, as the replication thread does, and compares.
fn check_replica(exec: &mut Executor) {
    let config = store::Config {
        memory_limit: 64 << 20,
        replicated: true,
        node_tag: 2,
        hash_seed: 7,
        ..store::Config::default()
    };
    let mut other = Store::new(config, NOW).handle();
    let mut hashes = Vec::new();
    let overflowed = exec.shared.store.drain_feeds(&mut hashes).overflowed;
    other.apply_flush(exec.shared.store.flush_state(), NOW);
    let evicted = exec.shared.store.stats().sums.get(Counter::Evictions) > 0;
    for hash in hashes {
        let mut told = Vec::new();
        exec.store.changes_of(hash, NOW, &mut |change| {
            let what = match change.what {
                What::Item { flags, exptime, cas, marks, ref value } => {
                    Some((flags, exptime, cas, marks, value.to_vec()))
                }
                What::Deleted => None,
            };
            told.push((change.key.to_vec(), change.version, what));
        });
        for (key, version, what) in &told {
            let what = match what {
                &Some((flags, exptime, cas, marks, ref value)) => {
                    What::Item { flags, exptime, cas, marks, value: Value::from(&value[..]) }
                }
                None => What::Deleted,
            };
            other.apply(&Change { key, version: *version, what }, NOW);
        }
    }
    if !overflowed && !evicted {
        assert_eq!(items(&mut exec.store), items(&mut other), "two nodes differ");
    }
}

/// Executes what is there. False when the connection is to be closed.
fn answer(conn: &mut Conn, exec: &mut Executor, out: &mut Vec<u8>) -> bool {
    loop {
        let step = conn.process(exec, NOW, &mut 20);
        let waiting = conn.replies().queued_bytes();
        assert!(waiting <= REPLIES_MAX, "{waiting} bytes of replies");
        out.extend_from_slice(conn.replies().sendable());
        conn.replies().sent(waiting, 0);
        let held = conn.input().capacity();
        assert!(held <= INPUT_MAX, "{held} bytes of input");
        match step {
            Step::Read => return true,
            Step::Close => return false,
            Step::Hold => panic!("replies wait for peers without -o repl_ack"),
            Step::Write | Step::Yield => {}
        }
    }
}
