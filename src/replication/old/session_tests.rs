//! A session with a repcached, in both roles.

use super::super::super::events::SessionConfig;
use super::super::super::{NodeId, Session};
use super::*;
use crate::store::{Config, Exptime, Mode, Store};
use std::sync::Arc;

const NOW: Now = Now { unix_us: 1_704_067_200_000_000, mono_us: 1_000_000 };
const NEVER: Exptime = Exptime::Never;

fn store() -> (Arc<Store>, Handle) {
    let config = Config { replicated: true, memory_limit: 4 << 20, ..Config::default() };
    let store = Store::new(config, NOW);
    let handle = store.handle();
    (store, handle)
}

fn session(role: Role) -> Session {
    let config = SessionConfig {
        id: NodeId(1),
        queue_max: 16,
        heartbeat_us: 1_000_000,
        silence_us: 5_000_000,
        auth: None,
        pass: [7; 16],
    };
    Session::new(role, config, NOW)
}

/// What a session has to say now, after its own changes were pushed.
fn said(session: &mut Session, store: &Store, handle: &mut Handle, now: Now) -> String {
    let mut hashes = Vec::new();
    let drained = store.drain_feeds(&mut hashes);
    session.push(&hashes, drained, now);
    let mut out = Vec::new();
    session.poll_transmit(&mut out, 1 << 16, handle, now);
    String::from_utf8(out).unwrap()
}

fn events(session: &mut Session) -> Vec<Event> {
    std::iter::from_fn(|| session.poll_event()).collect()
}

fn get(handle: &mut Handle, key: &str) -> Option<String> {
    handle.peek(key.as_bytes(), NOW, |item| {
        format!("{} {} {}", item.flags, item.cas, String::from_utf8_lossy(&item.value.to_vec()))
    })
}

const LINE: &str = "twincached replication ";

/// A connector's session that a repcached has answered with `bytes`, accepted.
fn connected(before: Told, bytes: &[u8], store: &Store, handle: &mut Handle) -> Session {
    let mut session = session(Role::Connector);
    assert!(said(&mut session, store, handle, NOW).starts_with(LINE));
    session.handle_bytes(&bytes[..2], handle, NOW);
    assert_eq!(events(&mut session), []);
    session.handle_bytes(&bytes[2..], handle, NOW);
    assert_eq!(events(&mut session), [Event::Repcached]);
    assert!(!session.is_text_live());
    session.start_text(before, Version(0), handle, NOW);
    assert!(session.is_text_live() || session.is_closed());
    session
}

#[test]
fn a_cold_node_is_filled_and_says_nothing_before() {
    let (store, mut handle) = store();
    let copy = b"rep k 7 0 5 42\r\nvalue\r\nrep n -1 0 1 43\r\n1\r\n";
    let mut session = connected(Told::default(), copy, &store, &mut handle);
    assert!(!session.is_copied());
    assert_eq!(said(&mut session, &store, &mut handle, NOW), "");
    session.handle_bytes(b"unknown words\r\nmarugoto_end\r\n", &mut handle, NOW);
    assert_eq!(events(&mut session), [Event::CopyDone { full: true }]);
    assert!(session.is_copied());
    assert_eq!(get(&mut handle, "k").as_deref(), Some("7 42 value"));
    assert_eq!(get(&mut handle, "n").as_deref(), Some("4294967295 43 1"));
    assert_eq!(session.take_relays().changes.len(), 2);
    // It shows nothing back of what it was shown.
    assert_eq!(said(&mut session, &store, &mut handle, NOW), "");
    handle.store(Mode::Set, b"mine", 3, Exptime::At(1_704_067_300), b"m", NOW);
    let cas = handle.peek(b"mine", NOW, |item| item.cas).unwrap() as u32;
    let live = said(&mut session, &store, &mut handle, NOW);
    assert_eq!(live, format!("rep mine 3 1704067300 1 {cas}\r\nm\r\n"));
    handle.delete(b"mine", NOW);
    assert_eq!(said(&mut session, &store, &mut handle, NOW), "delete mine\r\n");
    // A second copy's end changes nothing.
    session.handle_bytes(b"marugoto_end\r\ndelete k\r\n", &mut handle, NOW);
    assert_eq!(events(&mut session), []);
    assert_eq!(get(&mut handle, "k"), None);
}

#[test]
fn a_warm_node_keeps_its_own_and_gives_what_is_missing() {
    let (store, mut handle) = store();
    handle.store(Mode::Set, b"both", 0, NEVER, b"ours", NOW);
    handle.store(Mode::Set, b"lacks", 0, NEVER, b"ours", NOW);
    let copy = b"rep both 0 0 6 1\r\ntheirs\r\nrep only 0 0 6 2\r\ntheirs\r\nmarugoto_end\r\n";
    let mut session = connected(Told::default(), copy, &store, &mut handle);
    let told = said(&mut session, &store, &mut handle, NOW);
    assert!(told.contains("rep both ") && told.contains("rep lacks "), "{told}");
    assert!(!told.contains("only"), "{told}");
    assert!(get(&mut handle, "only").is_some_and(|item| item.ends_with("theirs")));
    assert!(get(&mut handle, "both").is_some_and(|item| item.ends_with("ours")));
    // An empty one empties nobody.
    let mut session =
        connected(session.told_text().unwrap(), b"marugoto_end\r\n", &store, &mut handle);
    let told = said(&mut session, &store, &mut handle, NOW);
    for key in ["rep both ", "rep lacks ", "rep only "] {
        assert!(told.contains(key), "{key} in {told}");
    }
}

#[test]
fn a_link_that_returns_knows_which_side_is_newer() {
    let (store, mut handle) = store();
    let mut session = connected(Told::default(), b"marugoto_end\r\n", &store, &mut handle);
    for key in ["arrived", "deleted", "under-way"] {
        handle.store(Mode::Set, key.as_bytes(), 0, NEVER, b"1", NOW);
        let now = NOW.plus_us(1_000_000);
        session.handle_timeout(now);
        assert!(said(&mut session, &store, &mut handle, now).contains(key));
        session.handle_timeout(now.plus_us(100_000));
    }
    // The last one was still on its way.
    session.unsent(5);
    session.lost("cut");
    let before = session.told_text().unwrap();
    handle.store(Mode::Set, b"new", 0, NEVER, b"1", NOW);
    handle.delete(b"deleted", NOW);
    let copy = b"rep arrived 0 0 1 9\r\n2\r\nrep deleted 0 0 1 8\r\n2\r\nrep new 0 0 1 7\r\n2\r\n\
        rep under-way 0 0 1 6\r\n2\r\nmarugoto_end\r\n";
    let mut session = connected(before, copy, &store, &mut handle);
    let told = said(&mut session, &store, &mut handle, NOW);
    assert_eq!(get(&mut handle, "arrived").as_deref(), Some("0 9 2"));
    assert_eq!(get(&mut handle, "deleted"), None);
    assert!(get(&mut handle, "new").is_some_and(|item| item.ends_with(" 1")));
    assert!(get(&mut handle, "under-way").is_some_and(|item| item.ends_with(" 1")));
    assert!(told.contains("rep new ") && told.contains("rep under-way "), "{told}");
    assert!(told.contains("delete deleted\r\n") && !told.contains("arrived"), "{told}");
}

#[test]
fn a_flush_ordered_meanwhile_holds() {
    let (store, mut handle) = store();
    let copy = b"rep k 0 0 1 1\r\nv\r\nmarugoto_end\r\n";
    let mut session = connected(Told::default(), copy, &store, &mut handle);
    handle.store(Mode::Set, b"k2", 0, NEVER, b"v", NOW);
    said(&mut session, &store, &mut handle, NOW);
    session.handle_timeout(NOW.plus_us(1_000_000));
    session.lost("cut");
    let told = session.told_text().unwrap();
    assert!(told.upto > Version(0));
    handle.flush_all(None, NOW);
    handle.store(Mode::Set, b"behind", 0, NEVER, b"v", NOW);
    let mut session = connected(told, copy, &store, &mut handle);
    let told = said(&mut session, &store, &mut handle, NOW);
    assert_eq!(get(&mut handle, "k"), None);
    assert!(told.starts_with("flush_all \r\nrep behind "), "{told}");
    // A flush of its own is not told back to it.
    session.handle_bytes(b"flush_all \r\n", &mut handle, NOW);
    assert_eq!(get(&mut handle, "behind"), None);
    assert_eq!(said(&mut session, &store, &mut handle, NOW), "");
    session.handle_bytes(b"flush_all 1704067300\r\n", &mut handle, NOW);
    assert_eq!(said(&mut session, &store, &mut handle, NOW), "");
    let deferred = store.flush_state().deferred().unwrap();
    assert_eq!(deferred.at.unix_secs(), 1_704_067_300);
}

#[test]
fn one_that_connects_is_given_everything() {
    let (store, mut handle) = store();
    handle.store(Mode::Set, b"k", 1 << 31, NEVER, b"v", NOW);
    handle.flush_all(Some(1_704_067_300), NOW);
    let mut session = session(Role::Listener);
    assert!(session.is_mute());
    assert_eq!(said(&mut session, &store, &mut handle, NOW), "");
    session.take_for_repcached(NOW);
    session.start_text(Told::default(), Version(0), &mut handle, NOW);
    let told = said(&mut session, &store, &mut handle, NOW);
    let (line, text) = told.split_once("\r\n").unwrap();
    assert!(line.starts_with(LINE));
    let cas = handle.peek(b"k", NOW, |item| item.cas).unwrap() as u32;
    let copy = format!("rep k 2147483648 0 1 {cas}\r\nv\r\nmarugoto_end\r\n");
    assert_eq!(text, format!("flush_all 1704067300\r\n{copy}"));
    assert!(session.is_settled());
    // It is never too silent, and a node of ours is told from it.
    assert!(session.next_timeout().is_none_or(|due| due > 1));
    session.handle_timeout(NOW.plus_us(3_600_000_000));
    assert!(session.is_text_live());
    session.handle_bytes(b"twincached replication 1.2 0\r\n", &mut handle, NOW);
    assert!(session.is_closed());
}

#[test]
fn one_that_hangs_in_its_copy_is_given_up() {
    let (store, mut handle) = store();
    let mut session = connected(Told::default(), b"rep k 0 0 1 1\r\n", &store, &mut handle);
    assert_eq!(session.next_timeout(), Some(NOW.mono_us + 5_000_000));
    session.handle_timeout(NOW.plus_us(4_999_999));
    assert!(session.is_text_live());
    session.handle_timeout(NOW.plus_us(5_000_000));
    assert!(session.is_closed());
}

#[test]
fn a_queue_that_runs_over_is_made_good_by_a_scan() {
    let (store, mut handle) = store();
    let mut session = connected(Told::default(), b"marugoto_end\r\n", &store, &mut handle);
    said(&mut session, &store, &mut handle, NOW);
    for n in 0..1000 {
        handle.store(Mode::Set, format!("key{n}").as_bytes(), 0, NEVER, b"v", NOW);
    }
    let mut told = said(&mut session, &store, &mut handle, NOW);
    for _ in 0..100 {
        told += &said(&mut session, &store, &mut handle, NOW);
    }
    assert!((0..1000).all(|n| told.contains(&format!("rep key{n} 0 0 1 "))));
    assert!(session.stats().overflows > 0 && session.is_settled());
}

#[test]
fn two_words_that_cross_end_as_one() {
    let (store, mut handle) = store();
    let mut session = connected(Told::default(), b"marugoto_end\r\n", &store, &mut handle);
    said(&mut session, &store, &mut handle, NOW);
    handle.store(Mode::Set, b"k", 0, NEVER, b"ours", NOW);
    assert!(said(&mut session, &store, &mut handle, NOW).starts_with("rep k "));
    // It has said this before it has heard ours, and has ours now.
    session.handle_bytes(b"rep k 0 0 6 9\r\ntheirs\r\n", &mut handle, NOW);
    assert_eq!(said(&mut session, &store, &mut handle, NOW), "");
    let due = (0..10).find_map(|_| {
        let now = NOW.plus_us(session.next_timeout()? - NOW.mono_us);
        session.handle_timeout(now);
        Some(said(&mut session, &store, &mut handle, now)).filter(|said| !said.is_empty())
    });
    assert_eq!(due.as_deref(), Some("rep k 0 0 6 9\r\ntheirs\r\n"));
}

#[test]
fn an_ordinary_memcached_is_no_repcached() {
    let (store, mut handle) = store();
    for answer in ["ERROR\r\n", "END\r\n", "VALUE k 0 1\r\n"] {
        let mut session = session(Role::Connector);
        said(&mut session, &store, &mut handle, NOW);
        session.handle_bytes(answer.as_bytes(), &mut handle, NOW);
        assert!(session.is_closed(), "{answer}");
    }
    // And nobody is, who dials us and speaks.
    let mut session = session(Role::Listener);
    session.handle_bytes(b"rep k 0 0 1 1\r\nx\r\n", &mut handle, NOW);
    assert!(session.is_closed());
}
