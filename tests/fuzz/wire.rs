//! What a peer, or whoever claims to be one, can send on a replication link.
//!
//! Raw bytes go to the decoder and to a session. Since nobody guesses a checksum, the same bytes
//! are also cut into frames with right ones.

use twincached::base::clock::Now;
use twincached::replication::old::Told;
use twincached::replication::wire::line::{self, Line};
use twincached::replication::wire::native::{self, Frame, HEAD};
use twincached::replication::wire::repcached::{self, Line as Text, Rep};
use twincached::replication::{Event, Footing, NodeId, Role, Session, SessionConfig};
use twincached::store::{Config, Exptime, FlushState, Store, Version};

const NOW: Now = Now { unix_us: 1_800_000_000_000_000, mono_us: 5_000_000 };
/// Output is taken in portions of this size.
const OUT: usize = 64 << 10;
/// Turns of one session: every one moves bytes, so that more would only repeat.
const TURNS: usize = 200;

/// Runs the decoder and two sessions over `data`.
pub fn run(data: &[u8]) {
    decode(data);
    lines(data);
    let framed = frames(data);
    decode(&framed);
    let Some((seed, bytes)) = super::seed(data) else { return };
    let mut greeting = Vec::new();
    line::encode(&mut greeting, &Line { id: NodeId(77), nonce: None });
    session(Role::Listener, super::pieces(seed, bytes));
    session(Role::Connector, super::pieces(seed, &[&greeting[..], &framed].concat()));
    let hello = native::Hello {
        id: NodeId(77),
        newest: Version(u64::from(seed)),
        cold: seed & 1 != 0,
        unix_us: NOW.unix_us,
        flush: FlushState::default(),
        mesh: (seed & 2 != 0).then_some(native::Mesh {
            made: Version(u64::from(seed >> 2)),
            filler: None,
            hope: seed as u8,
        }),
    };
    native::encode(&mut greeting, &Frame::Hello(hello));
    session(Role::Listener, super::pieces(seed, &[&greeting[..], &framed].concat()));
    // A repcached that is still copying, and one that has done so.
    for opening in [&b"rep key 0 0 3 1\r\nabc\r\n"[..], b"marugoto_end\r\n"] {
        session(Role::Connector, super::pieces(seed, &[opening, bytes].concat()));
    }
}

/// `data` as what a repcached says, values left out.
fn lines(mut data: &[u8]) {
    while let Ok(Some((line, used))) = repcached::decode(data) {
        assert!(used <= repcached::LINE_MAX);
        if let Text::Rep(rep) = line {
            let mut again = Vec::new();
            let exptime = Exptime::At(rep.exptime.secs().min(i32::MAX as u32));
            let exptime = if rep.exptime == Exptime::Never { rep.exptime } else { exptime };
            let rep = Rep { cas: u64::from(rep.cas as u32), exptime, ..rep };
            repcached::encode_rep(&mut again, &rep);
            assert_eq!(repcached::decode(&again), Ok(Some((Text::Rep(rep), again.len()))));
        }
        data = &data[used..];
    }
}

fn decode(mut data: &[u8]) {
    if let Ok(Some((_, used))) = line::decode(data) {
        data = &data[used..];
    }
    while let Ok(Some((frame, used))) = native::decode(data) {
        let mut again = Vec::new();
        native::encode(&mut again, &frame);
        // Only we cut what we say at the end; what a peer says is never shown.
        if !matches!(frame, Frame::Bye { text, .. } if text.len() > native::BYE_TEXT_MAX) {
            assert_eq!(native::decode(&again), Ok(Some((frame, again.len()))));
        }
        for cut in (0..used).step_by(7) {
            assert!(matches!(native::decode(&data[..cut]), Ok(None)), "cut at {cut}");
        }
        data = &data[used..];
    }
}

/// `data` as frames: a kind, a length, so many bytes.
fn frames(mut data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let [kind, len, rest @ ..] = data {
        let (payload, behind) = rest.split_at(rest.len().min(usize::from(*len)));
        let len = (payload.len() as u32).to_le_bytes();
        let crc = crc32fast::hash(&[&[*kind][..], &len, payload].concat());
        out.extend([&len[..], &[*kind], &crc.to_le_bytes(), payload].concat());
        data = behind;
    }
    assert!(out.is_empty() || out.len() >= HEAD);
    out
}

/// A session that hears `pieces`, accepts its peer and says what it has to.
fn session<'a>(role: Role, pieces: impl Iterator<Item = &'a [u8]>) {
    let config =
        Config { memory_limit: 1 << 20, item_max: 4096, replicated: true, ..Config::default() };
    let store = Store::new(config, NOW);
    let mut handle = store.handle();
    let config = SessionConfig {
        id: NodeId(1),
        queue_max: 16,
        heartbeat_us: 1_000_000,
        silence_us: 5_000_000,
        auth: None,
        pass: [7; 16],
    };
    let mut session = Session::new(role, config, NOW);
    let mut out = Vec::new();
    for piece in pieces.take(TURNS) {
        session.handle_bytes(piece, &mut handle, NOW);
        while let Some(event) = session.poll_event() {
            match event {
                Event::Hello(hello) => {
                    session.start(&hello, Footing::default(), &mut handle, NOW);
                }
                Event::Repcached => {
                    session.start_text(Told::default(), Version(0), &mut handle, NOW);
                }
                _ => {}
            }
        }
        session.take_relays();
        let mut hashes = Vec::new();
        let drained = store.drain_feeds(&mut hashes);
        session.push(&hashes, drained, NOW);
        session.poll_transmit(&mut out, OUT, &mut handle, NOW);
        assert!(out.len() <= 4 * OUT, "{} bytes at once", out.len());
        out.clear();
    }
    session.lost("end");
}
