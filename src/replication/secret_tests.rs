//! Two sessions and a man in the middle.

use super::*;
use crate::base::clock::Now;
use crate::replication::wire::line::{self, Line};
use crate::replication::wire::native::{self, Bye, Frame};
use crate::replication::{CloseReason, Event, Session, SessionConfig};
use crate::store::{Config, Handle, Store};

const CONNECTOR: NodeId = NodeId(11);
const LISTENER: NodeId = NodeId(22);

fn now() -> Now {
    Now { unix_us: 1_704_067_200_000_000, mono_us: 1_000_000 }
}

fn handle() -> Handle {
    let config = Config { replicated: true, memory_limit: 4 << 20, ..Config::default() };
    Store::new(config, now()).handle()
}

fn session(role: Role, secret: Option<&str>, nonce: u8) -> Session {
    let id = if role == Role::Connector { CONNECTOR } else { LISTENER };
    let secret = secret.map(|text| Arc::new(Secret::new(text.as_bytes().to_vec()).unwrap()));
    let config = SessionConfig {
        id,
        queue_max: 16,
        heartbeat_us: 600_000,
        silence_us: 5_000_000,
        auth: secret.map(|secret| (secret, [nonce; NONCE_LEN])),
        pass: [nonce; NONCE_LEN],
    };
    Session::new(role, config, now())
}

fn says(session: &mut Session) -> Vec<u8> {
    let mut out = Vec::new();
    session.poll_transmit(&mut out, 1 << 16, &mut handle(), now());
    out.extend_from_slice(&session.last_words());
    out
}

fn hears(session: &mut Session, bytes: &[u8]) {
    session.handle_bytes(bytes, &mut handle(), now());
}

/// What a session has reported: whom it trusts, and why it has ended.
fn verdict(session: &mut Session) -> (Option<NodeId>, Option<CloseReason>) {
    let (mut trusted, mut closed) = (None, None);
    while let Some(event) = session.poll_event() {
        match event {
            Event::Line(id) => trusted = Some(id),
            Event::Closed(reason) => closed = Some(reason),
            _ => {}
        }
    }
    (trusted, closed)
}

/// Lets two sessions talk until both are silent; what each said, as the man in the middle let it
/// through.
fn talk(
    connector: &mut Session,
    listener: &mut Session,
    mut middle: impl FnMut(Role, Vec<u8>) -> Vec<u8>,
) {
    for _ in 0..8 {
        let said = middle(Role::Connector, says(connector));
        hears(listener, &said);
        let said = middle(Role::Listener, says(listener));
        hears(connector, &said);
    }
}

fn has_hello(mut bytes: &[u8]) -> bool {
    if let Ok(Some((_, used))) = line::decode(bytes) {
        bytes = &bytes[used..];
    }
    while let Ok(Some((frame, used))) = native::decode(bytes) {
        if matches!(frame, Frame::Hello(_) | Frame::Item { .. }) {
            return true;
        }
        bytes = &bytes[used..];
    }
    false
}

#[test]
fn who_knows_the_same_secret_is_trusted_on_both_sides() {
    for secret in [None, Some("s")] {
        let mut connector = session(Role::Connector, secret, 1);
        let mut listener = session(Role::Listener, secret, 2);
        talk(&mut connector, &mut listener, |_, bytes| {
            assert!(!bytes.windows(2).any(|w| w == b"s\r"), "the secret is on the wire");
            bytes
        });
        assert_eq!(verdict(&mut connector), (Some(LISTENER), None));
        assert_eq!(verdict(&mut listener), (Some(CONNECTOR), None));
        assert_eq!(connector.peer(), Some(LISTENER));
    }
}

#[test]
fn both_sides_say_in_words_what_does_not_match() {
    use Mismatch::{Differ, PeerHasNone, WeHaveNone};
    for (ours, theirs, here, there) in [
        (Some("s"), Some("t"), Differ, Differ),
        (Some("s"), None, PeerHasNone, WeHaveNone),
        (None, Some("s"), WeHaveNone, PeerHasNone),
    ] {
        let mut connector = session(Role::Connector, ours, 1);
        let mut listener = session(Role::Listener, theirs, 2);
        talk(&mut connector, &mut listener, |_, bytes| {
            assert!(!has_hello(&bytes), "a hello before the proofs");
            bytes
        });
        assert_eq!(verdict(&mut connector), (None, Some(CloseReason::Secret(here))));
        assert_eq!(verdict(&mut listener), (None, Some(CloseReason::Secret(there))));
        assert_eq!((connector.peer(), listener.peer()), (None, None));
    }
}

#[test]
fn a_nonce_that_is_stripped_on_the_way_ends_the_link() {
    for stripped in [Role::Connector, Role::Listener] {
        let mut connector = session(Role::Connector, Some("s"), 1);
        let mut listener = session(Role::Listener, Some("s"), 2);
        talk(&mut connector, &mut listener, |role, bytes| match line::decode(&bytes) {
            Ok(Some((said, used))) if role == stripped => {
                let mut out = Vec::new();
                line::encode(&mut out, &Line { nonce: None, ..said });
                out.extend_from_slice(&bytes[used..]);
                out
            }
            _ => bytes,
        });
        assert_eq!((connector.peer(), listener.peer()), (None, None));
        assert!(connector.is_closed() && listener.is_closed());
    }
}

#[test]
fn ids_and_nonces_cannot_be_changed_on_the_way() {
    for (role, change) in [
        (Role::Connector, Line { id: NodeId(99), nonce: Some([1; NONCE_LEN]) }),
        (Role::Connector, Line { id: CONNECTOR, nonce: Some([9; NONCE_LEN]) }),
        (Role::Listener, Line { id: NodeId(99), nonce: Some([2; NONCE_LEN]) }),
        (Role::Listener, Line { id: LISTENER, nonce: Some([9; NONCE_LEN]) }),
    ] {
        let mut connector = session(Role::Connector, Some("s"), 1);
        let mut listener = session(Role::Listener, Some("s"), 2);
        talk(&mut connector, &mut listener, |who, bytes| match line::decode(&bytes) {
            Ok(Some((_, used))) if who == role => {
                let mut out = Vec::new();
                line::encode(&mut out, &change);
                out.extend_from_slice(&bytes[used..]);
                out
            }
            _ => bytes,
        });
        assert_eq!((connector.peer(), listener.peer()), (None, None), "{change:?}");
    }
}

/// A stranger who knows everything but the secret: what was said on an earlier link, and what the
/// node itself says now.
#[test]
fn reflected_and_replayed_proofs_are_worth_nothing() {
    let (mut from_connector, mut from_listener) = (Vec::new(), Vec::new());
    let mut connector = session(Role::Connector, Some("s"), 1);
    let mut listener = session(Role::Listener, Some("s"), 2);
    talk(&mut connector, &mut listener, |role, bytes| {
        let log = if role == Role::Connector { &mut from_connector } else { &mut from_listener };
        log.extend_from_slice(&bytes);
        bytes
    });
    assert_eq!(listener.peer(), Some(CONNECTOR));

    // Replayed: the nonce of the other end is another one this time.
    let mut listener = session(Role::Listener, Some("s"), 3);
    hears(&mut listener, &from_connector);
    assert_eq!(verdict(&mut listener), (None, Some(CloseReason::Secret(Mismatch::Differ))));
    assert!(!has_hello(&says(&mut listener)));
    let mut connector = session(Role::Connector, Some("s"), 3);
    assert!(!says(&mut connector).is_empty());
    hears(&mut connector, &from_listener);
    assert_eq!(verdict(&mut connector), (None, Some(CloseReason::Secret(Mismatch::Differ))));
    assert!(!has_hello(&says(&mut connector)));

    // Reflected: a connector hears itself, proof and all.
    let mut connector = session(Role::Connector, Some("s"), 1);
    for _ in 0..4 {
        let said = says(&mut connector);
        hears(&mut connector, &said);
    }
    assert_eq!(verdict(&mut connector), (None, Some(CloseReason::Secret(Mismatch::Differ))));

    // Roles swapped: what a connector has proven is given to a connector.
    let mut victim = session(Role::Connector, Some("s"), 1);
    let mut helper = session(Role::Connector, Some("s"), 2);
    for _ in 0..4 {
        let (a, b) = (says(&mut victim), says(&mut helper));
        hears(&mut victim, &b);
        hears(&mut helper, &a);
    }
    assert_eq!((victim.peer(), helper.peer()), (None, None));
}

#[test]
fn nothing_but_a_proof_counts_before_it() {
    let line = |nonce| {
        let mut bytes = Vec::new();
        line::encode(&mut bytes, &Line { id: CONNECTOR, nonce });
        bytes
    };
    for frame in [
        Frame::Want { since: crate::store::Version(0), via: None },
        Frame::Ping { newest: crate::store::Version(1) },
        Frame::Unknown(77),
        Frame::Part(&[0; 4000]),
    ] {
        let mut listener = session(Role::Listener, Some("s"), 2);
        let mut bytes = line(Some([1; NONCE_LEN]));
        native::encode(&mut bytes, &frame);
        hears(&mut listener, &bytes);
        let closed = verdict(&mut listener);
        assert!(matches!(closed, (None, Some(CloseReason::Wire(_)))), "{frame:?}: {closed:?}");
        assert!(!has_hello(&says(&mut listener)));
    }
    // A listener gives its proof to nobody who has not proven first; a bye is understood.
    let mut listener = session(Role::Listener, Some("s"), 2);
    hears(&mut listener, &line(Some([1; NONCE_LEN])));
    let said = says(&mut listener);
    let (_, used) = line::decode(&said).unwrap().unwrap();
    assert_eq!(used, said.len(), "its line and nothing else");
    let mut bytes = Vec::new();
    native::encode(&mut bytes, &Frame::Bye { reason: Bye::Stopping, text: b"" });
    hears(&mut listener, &bytes);
    assert_eq!(verdict(&mut listener), (None, Some(CloseReason::Bye(Bye::Stopping))));
}

#[test]
fn a_handshake_has_one_deadline_however_slowly_it_goes_on() {
    let mut listener = session(Role::Listener, None, 2);
    let mut bytes = Vec::new();
    line::encode(&mut bytes, &Line { id: CONNECTOR, nonce: None });
    for (at, byte) in bytes.iter().enumerate() {
        let now = now().plus_us(100_000 * at as u64);
        listener.handle_bytes(&[*byte], &mut handle(), now);
        listener.handle_timeout(now);
        assert_eq!(listener.is_closed(), at >= 50, "byte {at}");
    }
}
