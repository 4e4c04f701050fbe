//! A session against peers that break the rules.

use super::*;
use crate::replication::wire::line::Line;
use crate::replication::wire::native::ItemHead;
use crate::store::{Config, Exptime, Marks, Mode, Store};
use std::sync::Arc;

const PEER: NodeId = NodeId(77);

fn config() -> SessionConfig {
    SessionConfig {
        id: NodeId(1),
        queue_max: 16,
        heartbeat_us: 1_000_000,
        silence_us: 5_000_000,
        auth: None,
        pass: [7; 16],
    }
}

fn hello() -> Hello {
    let (newest, flush) = (Version(5), FlushState::default());
    Hello { id: PEER, newest, cold: false, unix_us: 0, flush, mesh: None }
}

fn now() -> Now {
    Now { unix_us: 1_704_067_200_000_000, mono_us: 1_000_000 }
}

fn store() -> (Arc<Store>, Handle) {
    let config = Config { replicated: true, memory_limit: 4 << 20, ..Config::default() };
    let store = Store::new(config, now());
    let handle = store.handle();
    (store, handle)
}

/// A listener's session whose peer has said line and hello and was accepted.
fn live(handle: &mut Handle) -> Session {
    live_with(hello(), handle)
}

fn live_with(hello: Hello, handle: &mut Handle) -> Session {
    let mut session = Session::new(Role::Listener, config(), now());
    let mut bytes = Vec::new();
    line::encode(&mut bytes, &Line { id: PEER, nonce: None });
    native::encode(&mut bytes, &Frame::Hello(hello));
    session.handle_bytes(&bytes, handle, now());
    assert_eq!(session.poll_event(), Some(Event::Line(PEER)));
    assert_eq!(session.poll_event(), Some(Event::Hello(hello)));
    session.start(&hello, Footing::default(), handle, now());
    session
}

fn frames(bytes: &[u8]) -> Vec<Frame<'_>> {
    let (_, mut at) = line::decode(bytes).unwrap().unwrap();
    let mut frames = Vec::new();
    while let Some((frame, used)) = native::decode(&bytes[at..]).unwrap() {
        frames.push(frame);
        at += used;
    }
    assert_eq!(at, bytes.len());
    frames
}

#[test]
fn the_listener_consents_then_copies_then_marks() {
    let (store, mut handle) = store();
    handle.store(Mode::Set, b"k", 7, Exptime::Never, b"value", now());
    let mut session = live(&mut handle);
    let mut bytes = Vec::new();
    native::encode(&mut bytes, &Frame::Want { since: Version(0), via: None });
    session.handle_bytes(&bytes, &mut handle, now());
    let mut hashes = Vec::new();
    let drained = store.drain_feeds(&mut hashes);
    session.push(&[], drained, now());
    let mut out = Vec::new();
    session.poll_transmit(&mut out, 1 << 16, &mut handle, now());
    let upto = drained.upto;
    let head = ItemHead {
        key: b"k",
        version: upto,
        flags: 7,
        exptime: Exptime::Never,
        cas: None,
        marks: Marks::default(),
    };
    let ours = match frames(&out)[0] {
        Frame::Hello(hello) => hello,
        other => panic!("{other:?}"),
    };
    assert_eq!(ours.id, NodeId(1));
    assert_eq!(
        frames(&out)[1..],
        [
            Frame::Pass([7; 16]),
            Frame::Want { since: Version(0), via: None },
            Frame::CopyBegin { full: true, items: 1, agreed: Version(0) },
            Frame::Item { head, value: b"value" },
            Frame::CopyEnd { items: 1 },
            Frame::Mark { upto },
        ]
    );
    // Silence is broken by a heartbeat, and ends the link after five seconds of the peer's.
    assert_eq!(session.next_timeout(), Some(2_000_000));
    session.handle_timeout(now().plus_us(1_000_000));
    out.clear();
    session.poll_transmit(&mut out, 1 << 16, &mut handle, now().plus_us(1_000_000));
    let ping = native::decode(&out).unwrap().unwrap().0;
    assert_eq!(ping, Frame::Ping { newest: store.newest() });
    session.handle_timeout(now().plus_us(4_999_999));
    assert!(!session.is_closed());
    session.handle_timeout(now().plus_us(5_000_000));
    assert!(session.is_closed());
}

#[test]
fn told_items_travel_in_one_frame_to_who_knows_it_and_one_by_one_to_an_older_peer() {
    let mesh = Some(Mesh { made: Version(0), filler: None, hope: native::HOPE_FILLED });
    for (mesh, kinds) in [(mesh, &[native::TOLD][..]), (None, &[5, 5, 5])] {
        let (store, mut handle) = store();
        let mut session = live_with(Hello { mesh, ..hello() }, &mut handle);
        let (mut bytes, mut out) = (Vec::new(), Vec::new());
        native::encode(&mut bytes, &Frame::Want { since: Version(0), via: None });
        session.handle_bytes(&bytes, &mut handle, now());
        session.poll_transmit(&mut out, 1 << 16, &mut handle, now());
        out.clear();
        assert!(session.takes_told());
        store.set_telling(true);
        for key in [&b"a"[..], b"b", b"c"] {
            handle.store(Mode::Set, key, 7, Exptime::At(1_800_000_000), key, now());
        }
        let (mut hashes, mut told) = (Vec::new(), Told::default());
        let drained = store.drain_told(&mut hashes, &mut told);
        assert!(hashes.is_empty());
        session.tell(&told, now());
        session.push(&hashes, drained, now());
        session.poll_transmit(&mut out, 1 << 16, &mut handle, now());
        let (mut at, mut seen) = (0, Vec::new());
        while let Some((frame, used)) = native::decode(&out[at..]).unwrap() {
            seen.push(out[at + 4]);
            at += used;
            assert!(!matches!(frame, Frame::Unknown(_)));
        }
        seen.retain(|kind| [5, native::TOLD].contains(kind));
        assert_eq!((seen, session.sent()), (kinds.to_vec(), 3));
        // The other end finds in them what was stored.
        let (theirs, mut their_handle) = self::store();
        let mut peer = live(&mut their_handle);
        peer.handle_bytes(&out, &mut their_handle, now());
        assert_eq!((peer.stats().tally.won, theirs.stats().curr_items), (3, 3));
        let read = |item: &crate::store::Item<'_>| (item.value.to_vec(), item.flags, item.exptime);
        let found = their_handle.peek(b"b", now(), read);
        assert_eq!(found, Some((b"b".to_vec(), 7, Exptime::At(1_800_000_000))));
        assert_eq!(peer.take_relays().changes.len(), 3, "others hear of each");
    }
}

#[test]
fn nothing_is_said_before_a_line_and_no_item_before_consent() {
    let (_, mut handle) = store();
    handle.store(Mode::Set, b"k", 0, Exptime::Never, b"v", now());
    let mut session = Session::new(Role::Listener, config(), now());
    let mut out = Vec::new();
    session.handle_timeout(now().plus_us(2_000_000));
    session.poll_transmit(&mut out, 1 << 16, &mut handle, now());
    assert_eq!(out, b"");
    let mut bytes = Vec::new();
    line::encode(&mut bytes, &Line { id: PEER, nonce: None });
    native::encode(&mut bytes, &Frame::Want { since: Version(0), via: None });
    session.handle_bytes(&bytes, &mut handle, now());
    assert!(session.is_closed(), "a wish before a hello");
    session.poll_transmit(&mut out, 1 << 16, &mut handle, now());
    assert_eq!(out, b"");
}

#[test]
fn out_of_place_frames_end_the_link_and_say_why() {
    let head = ItemHead {
        key: b"k",
        version: Version(9),
        flags: 0,
        exptime: Exptime::Never,
        cas: None,
        marks: Marks::default(),
    };
    let large = Frame::Large { head, len: 100_000 };
    let bad: [&[Frame<'_>]; 6] = [
        &[Frame::Hello(hello())],
        &[
            Frame::Want { since: Version(0), via: None },
            Frame::Want { since: Version(0), via: None },
        ],
        &[Frame::Part(b"x")],
        &[Frame::Told(&[0; 30])],
        &[large, large],
        &[Frame::Large { head, len: 3 }, Frame::Part(b"four")],
    ];
    for wrong in bad {
        let (_, mut handle) = store();
        let mut session = live(&mut handle);
        let mut bytes = Vec::new();
        wrong.iter().for_each(|frame| native::encode(&mut bytes, frame));
        session.handle_bytes(&bytes, &mut handle, now());
        assert!(session.is_closed(), "{wrong:?}");
        let last = session.last_words();
        assert!(last.windows(8).any(|w| w == b"the peer"), "{wrong:?}");
    }
}

#[test]
fn random_frames_with_right_checksums_never_panic() {
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1u64);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..300 {
        let (_, mut handle) = store();
        let mut session = live(&mut handle);
        let mut time = now();
        for _ in 0..40 {
            let mut bytes = Vec::new();
            let mut payload: Vec<u8> =
                (0..random() % 60).map(|_| (random() % 256) as u8 & 0x7f).collect();
            // Often a plausible key length where an item's and a delete's are.
            for at in [8, 20] {
                if let Some(byte) = payload.get_mut(at) {
                    *byte %= 40;
                }
            }
            let mut frame = vec![0; native::HEAD];
            frame.extend_from_slice(&payload);
            let (len, kind) = (payload.len() as u32, 2 + (random() % 13) as u8);
            frame[..4].copy_from_slice(&len.to_le_bytes());
            frame[4] = kind;
            let mut summed = vec![kind];
            summed.extend_from_slice(&len.to_le_bytes());
            summed.extend_from_slice(&payload);
            frame[5..9].copy_from_slice(&crc32fast::hash(&summed).to_le_bytes());
            bytes.extend_from_slice(&frame);
            session.handle_bytes(&bytes, &mut handle, time);
            time = time.plus_us(random() % 300_000);
            session.handle_timeout(time);
            let mut out = Vec::new();
            session.poll_transmit(&mut out, 4096, &mut handle, time);
            assert!(out.len() < 100_000, "SEED={seed}");
            while session.poll_event().is_some() {}
        }
    }
}

#[test]
fn a_version_from_the_far_future_ends_the_link_and_moves_nothing() {
    let far = Version(Version::MAX.0 - 1);
    let head = ItemHead {
        key: b"k",
        version: far,
        flags: 0,
        exptime: Exptime::Never,
        cas: None,
        marks: Marks::default(),
    };
    let pending = Some(crate::store::PendingFlush { issued: far, at: Version(5) });
    let frames = [
        Frame::Item { head, value: b"v" },
        Frame::Large { head, len: 100_000 },
        Frame::Deleted { key: b"k", version: far },
        Frame::Flush(FlushState { watermark: far, pending: None }),
        Frame::Flush(FlushState { watermark: Version(0), pending }),
    ];
    for frame in frames {
        let (store, mut handle) = store();
        let mut session = live(&mut handle);
        let mut bytes = Vec::new();
        native::encode(&mut bytes, &frame);
        native::encode(&mut bytes, &Frame::Mark { upto: far });
        session.handle_bytes(&bytes, &mut handle, now());
        let closed = Event::Closed(CloseReason::Wire(WireError::Future));
        assert_eq!(session.poll_event(), Some(closed), "{frame:?}");
        handle.store(Mode::Set, b"k", 7, Exptime::Never, b"value", now());
        assert!(store.newest().is_believable(now()), "what is written now reaches peers");
        assert!(handle.get(b"k", now(), |_| ()).is_some());
    }
    let (_store, mut handle) = store();
    let mut session = Session::new(Role::Listener, config(), now());
    let mut bytes = Vec::new();
    line::encode(&mut bytes, &Line { id: PEER, nonce: None });
    let flush = FlushState { watermark: far, pending: None };
    native::encode(&mut bytes, &Frame::Hello(Hello { flush, ..hello() }));
    session.handle_bytes(&bytes, &mut handle, now());
    assert_eq!(session.poll_event(), Some(Event::Line(PEER)));
    let closed = Event::Closed(CloseReason::Wire(WireError::Future));
    assert_eq!(session.poll_event(), Some(closed));
}
