//! A whole connection over a small store, without a socket: whatever pieces the bytes come in, the
//! answers are the same, memory stays bounded and everything that was counted is given back.

use twincached::base::clock::Now;
use twincached::server::config::Config;
use twincached::server::conn::{Conn, Step};
use twincached::server::execute::Executor;
use twincached::server::shared::{ConnInfo, ConnState, Shared};
use twincached::store::{self, Store};

const NOW: Now = Now { unix_us: 1_800_000_000_000_000, mono_us: 5_000_000 };
/// `-I`: small, so that the fuzzer can go beyond it.
const ITEM_MAX: u32 = 2048;
/// A line that is longer may be answered before its end is here: then the pieces show.
const LINE: usize = 2000;
/// Replies are taken when so many bytes wait, and a value and the largest answer may be on top.
const REPLIES_MAX: usize = 2 * (256 << 10);
/// The longest line that is waited for is 64 KiB; a buffer may be twice its contents.
const INPUT_MAX: usize = 256 << 10;

/// An executor over an empty store of its own.
pub fn executor() -> Executor {
    let limit = 1 << 20;
    let store_config =
        store::Config { memory_limit: limit, item_max: ITEM_MAX, ..store::Config::default() };
    let config = Config { memory_limit: limit, item_max: ITEM_MAX, ..Config::default() };
    Executor::new(Shared::new(config, Store::new(store_config, NOW), NOW, 1))
}

/// Feeds the same bytes whole and in pieces to two servers.
pub fn run(data: &[u8]) {
    if let Some((seed, bytes)) = super::seed(data) {
        compare(seed, bytes);
    }
}

/// [`run`] with the pieces that follow from `seed`.
pub fn compare(seed: u16, bytes: &[u8]) {
    let whole = converse(std::iter::once(bytes));
    let cut = converse(super::pieces(seed, bytes));
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

/// Everything a new server answers to `pieces` on one connection.
fn converse<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut exec = executor();
    let info = ConnInfo::new("tcp:fuzz".into(), String::new(), ConnState::NewCmd, NOW);
    let mut conn = Conn::new(1, info);
    let mut out = Vec::new();
    for piece in pieces {
        conn.input().extend(piece);
        if !answer(&mut conn, &mut exec, &mut out) {
            break;
        }
    }
    conn.release(&mut exec);
    assert_eq!(exec.shared.reserved_data(), 0, "something stays counted");
    out
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
            Step::Write | Step::Yield => {}
        }
    }
}
