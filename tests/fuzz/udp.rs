//! Datagrams of any content, good requests and bad ones, from one socket.
//!
//! Every reply is framed right, nothing of one datagram reaches the next, and what is answered is
//! what a connection answers.

use super::conn;
use twincached::base::clock::Now;
use twincached::protocol::udp::{self, DATAGRAM_MAX, HEADER, PAYLOAD_MAX};
use twincached::server::conn::datagram::{Exchange, Turn};
use twincached::server::conn::{Conn, Step};
use twincached::server::execute::Executor;
use twincached::server::shared::{ConnInfo, ConnState};

const NOW: Now = Now { unix_us: 1_800_000_000_000_000, mono_us: 5_000_000 };

/// What may stand behind the answers that a connection would give: it would wait for more.
const CUT_SHORT: &[u8] = b"CLIENT_ERROR bad data chunk\r\n";
/// Where it stands, a connection answers more.
const ONLY_HERE: &[u8] = b"SERVER_ERROR not available over UDP\r\n";

/// Cuts `data` into datagrams: a length, so many bytes. A length of 0 stands for all the rest.
pub fn run(mut data: &[u8]) {
    let (mut exec, mut twin) = (conn::executor(), conn::executor());
    let info = ConnInfo::new("udp:fuzz".into(), String::new(), ConnState::Read, NOW);
    let mut exchange = Exchange::new(1, info);
    while let [len, rest @ ..] = data {
        let len = if *len == 0 { rest.len() } else { rest.len().min(usize::from(*len)) };
        let (datagram, behind) = rest.split_at(len);
        data = behind;
        exchange.space()[..len].copy_from_slice(datagram);
        let Some((id, commands)) = udp::request(datagram) else {
            assert!(!exchange.begin(len));
            continue;
        };
        assert!(exchange.begin(len));
        let replies = answer(&mut exchange, &mut exec, id);
        let expected = stream(&mut twin, commands);
        let has = |bytes: &[u8], what: &[u8]| bytes.windows(what.len()).any(|w| w == what);
        if has(&replies, ONLY_HERE) || conn::may_differ(&replies) || conn::may_differ(&expected) {
            continue;
        }
        let more = replies.strip_prefix(&expected[..]);
        assert!(
            more.is_some_and(|more| more.is_empty() || more == CUT_SHORT),
            "{:?} for {:?}, and over a connection {:?}",
            replies.escape_ascii().to_string(),
            commands.escape_ascii().to_string(),
            expected.escape_ascii().to_string(),
        );
    }
}

/// The replies to one request, joined.
fn answer(exchange: &mut Exchange, exec: &mut Executor, id: u16) -> Vec<u8> {
    let (mut joined, mut bytes) = (Vec::new(), [0; DATAGRAM_MAX]);
    // Datagrams of the present reply that came, and how many there are.
    let (mut came, mut total) = (0, 0);
    loop {
        match exchange.advance(exec, NOW, &mut 3) {
            Turn::Done => break,
            Turn::Yield => continue,
            Turn::Send => {}
        }
        let len = exchange.datagram(&mut bytes).expect("a datagram");
        let field = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        if came == total {
            (came, total) = (0, field(4));
        }
        assert_eq!((field(0), field(2), field(4), field(6)), (id, came, total, 0));
        came += 1;
        assert!(came == total || len == HEADER + PAYLOAD_MAX);
        joined.extend_from_slice(&bytes[HEADER..len]);
        exchange.sent(0);
    }
    assert_eq!(came, total, "a reply without its end");
    assert_eq!(exec.shared.reserved_data(), 0, "something stays counted");
    joined
}

/// What a connection answers to the same commands.
fn stream(exec: &mut Executor, commands: &[u8]) -> Vec<u8> {
    let info = ConnInfo::new("tcp:fuzz".into(), String::new(), ConnState::NewCmd, NOW);
    let (mut conn, mut out) = (Conn::new(1, info), Vec::new());
    conn.input().extend(commands);
    loop {
        let step = conn.process(exec, NOW, &mut 20);
        let waiting = conn.replies().queued_bytes();
        out.extend_from_slice(conn.replies().sendable());
        conn.replies().sent(waiting, 0);
        if matches!(step, Step::Read | Step::Close) {
            break;
        }
    }
    conn.release(exec);
    out
}
