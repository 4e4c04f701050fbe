//! Held replies of one client, as two byte strings; peers are what the test says they are.

use super::super::tests::NOW;
use super::*;
use crate::replication::Quorum;
use crate::server::config::{Config, Replication};
use crate::server::conn::datagram::{Exchange, Turn};
use crate::server::conn::OUT_HIGH;
use crate::server::shared::{ConnInfo, ConnState, Shared};
use crate::store::{self, Store, Version};
use std::sync::Arc;

struct World {
    exec: Executor,
    conn: Conn,
}

fn info() -> Arc<ConnInfo> {
    ConnInfo::new("test".into(), String::new(), ConnState::NewCmd, NOW)
}

impl World {
    fn new() -> World {
        let config = store::Config { replicated: true, ..store::Config::default() };
        let replication = Replication { ack: 1, ..Replication::default() };
        let memory_limit = 64 << 20;
        let settings = Config { memory_limit, ..Config::default() };
        let settings = Config { replication: Some(replication), ..settings };
        let shared = Shared::new(settings, Store::new(config, NOW), NOW, 1);
        World { exec: Executor::new(shared), conn: Conn::new(1, info()) }
    }

    /// Sends, and gives what can be read now.
    fn ask(&mut self, bytes: &[u8]) -> String {
        self.conn.input().extend(bytes);
        self.go_on().1
    }

    fn go_on(&mut self) -> (Step, String) {
        let mut out = Vec::new();
        loop {
            let step = self.conn.process(&mut self.exec, NOW, &mut 1000);
            let sendable = self.conn.replies().sendable().to_vec();
            self.conn.replies().sent(sendable.len(), 0);
            out.extend(sendable);
            if matches!(step, Step::Read | Step::Close | Step::Hold) {
                return (step, String::from_utf8_lossy(&out).into_owned());
            }
        }
    }

    /// A peer has it all (or not, for as long as anybody waits); then goes on.
    fn peers(&mut self, acknowledge: bool) -> (Step, String) {
        let mut now = NOW;
        if acknowledge {
            let newest = self.exec.shared.store.newest();
            let live = (Version(0), newest);
            self.exec.shared.acks.publish(Quorum { upto: newest, live, enough: true });
        } else {
            now = NOW.plus_us(1_000_000);
        }
        let mut settled = Vec::new();
        self.exec.waits.settle(now, &mut settled);
        for (wait, outcome) in settled {
            self.conn.settle(&wait, outcome);
        }
        self.go_on()
    }
}

#[test]
fn changes_wait_and_what_changes_nothing_does_not() {
    let mut world = World::new();
    assert_eq!(world.ask(b"get k\r\nset k 0 0 1\r\n5\r\nget k\r\nquit\r\n"), "END\r\n");
    let (step, rest) = world.peers(true);
    assert_eq!((step, rest.as_str()), (Step::Close, "STORED\r\nVALUE k 0 1\r\n5\r\nEND\r\n"));

    let mut world = World::new();
    world.ask(b"set k 0 0 1\r\n5\r\n");
    world.peers(true);
    for (changes, nothing) in [
        ("add new 0 0 1\r\n1\r\n", "add new 0 0 1\r\n1\r\n"),
        ("replace k 0 0 1\r\n1\r\n", "replace no 0 0 1\r\n1\r\n"),
        ("append k 0 0 1\r\n1\r\n", "append no 0 0 1\r\n1\r\n"),
        ("incr k 1\r\n", "incr no 1\r\n"),
        ("touch k 100\r\n", "touch no 100\r\n"),
        ("gat 100 k\r\n", "gat 100 no\r\n"),
        ("mg k T100\r\n", "mg k t v\r\n"),
        ("mg won N30 v\r\n", "mg k N30 v\r\n"),
        ("ms k 1\r\n1\r\n", "ms k 1 C1\r\n1\r\n"),
        ("ms k 1 MS q\r\n1\r\nmn\r\n", "mn\r\n"),
        ("ma k\r\n", "ma no\r\n"),
        ("md won\r\n", "md won\r\n"),
        ("delete k\r\n", "delete k\r\n"),
        ("flush_all 100\r\n", "verbosity 1\r\n"),
        ("flush_all\r\n", "version\r\n"),
    ] {
        let before = world.ask(changes.as_bytes());
        assert!(!before.contains("END\r\n") && !before.contains("HD"), "{changes:?}: {before:?}");
        assert!(world.conn.is_held(), "{changes:?}");
        assert_ne!(world.peers(true).1, "", "{changes:?}");
        assert_ne!(world.ask(nothing.as_bytes()), "", "{nothing:?}");
        assert!(!world.conn.is_held(), "{nothing:?}");
    }
    assert_eq!(world.ask(b"set k 0 0 1 noreply\r\n5\r\nmn\r\n"), "MN\r\n");
}

#[test]
fn a_long_get_that_touches_keeps_only_its_end() {
    let mut world = World::new();
    world.ask(b"set k 0 0 1\r\n5\r\n");
    world.peers(true);
    let keys = " k".repeat(1000);
    let line = format!("gat 100{keys} no\r\nmn\r\n");
    // The line comes in pieces: its last portion changes nothing.
    let (first, second) = line.split_at(line.len() - 100);
    let mut out = world.ask(first.as_bytes());
    out += &world.ask(second.as_bytes());
    assert_eq!(out.matches("VALUE k 0 1\r\n5\r\n").count(), 1000);
    assert!(!out.contains("END") && world.conn.replies.deferred() == 1);
    assert_eq!(world.peers(false).1, "SERVER_ERROR not acknowledged by enough peers\r\nMN\r\n");
}

#[test]
fn one_connection_holds_back_only_so_much() {
    let mut world = World::new();
    world.conn.input().extend(&b"set k 0 0 1\r\n5\r\n".repeat(10_000));
    assert_eq!(world.go_on(), (Step::Hold, String::new()));
    let held = world.conn.replies.deferred();
    assert!((1000..=OUT_HIGH / HELD_COST).contains(&held), "{held}");
    assert_eq!(world.go_on(), (Step::Hold, String::new()));
    let mut stored = 0;
    for _ in 0..10_000 / held + 1 {
        stored += world.peers(true).1.matches("STORED").count();
    }
    assert_eq!((stored, world.conn.is_held()), (10_000, false));
    // One of a crowd holds back a few, and yet goes on.
    let mut world = World::new();
    let mut crowd = crate::base::replies::Replies::new();
    while !world.exec.waits.is_crowded() {
        let ticket = crowd.defer();
        let version = world.exec.store.issued();
        world.exec.waits.push(ticket, version, Asked::Text, NOW);
    }
    world.conn.input().extend(&b"set k 0 0 1\r\n5\r\n".repeat(100));
    assert_eq!(world.go_on(), (Step::Hold, String::new()));
    assert_eq!(world.conn.replies.deferred(), 16);
    let mut stored = 0;
    for _ in 0..100 / 16 + 1 {
        stored += world.peers(true).1.matches("STORED").count();
    }
    assert_eq!((stored, world.conn.is_held()), (100, false));
    // So it is with long replies behind one that waits.
    let mut world = World::new();
    let value = "v".repeat(100_000);
    world.ask(format!("set k 0 0 100000\r\n{value}\r\n").as_bytes());
    world.conn.input().extend(&b"get k\r\n".repeat(100));
    assert_eq!(world.go_on(), (Step::Hold, String::new()));
    assert!(world.conn.replies.queued_bytes() < OUT_HIGH + value.len() + 100);
    let (step, rest) = world.peers(true);
    assert_eq!((step, rest.matches("END\r\n").count()), (Step::Read, 100));
}

#[test]
fn a_watcher_is_not_let_in_behind_a_reply_that_waits() {
    let mut world = World::new();
    assert_eq!(world.ask(b"set k 0 0 1\r\n5\r\nwatch\r\n"), "");
    let (step, rest) = world.peers(true);
    assert!(rest.starts_with("STORED\r\n") && rest.contains("ERROR"), "{step:?} {rest:?}");
}

#[test]
fn a_datagram_waits_for_nobody() {
    let mut world = World::new();
    let mut exchange = Exchange::new(1, info());
    let request = b"\0\x07\0\0\0\x01\0\0set k 0 0 1\r\n5\r\n";
    exchange.space()[..request.len()].copy_from_slice(request);
    assert!(exchange.begin(request.len()));
    assert_eq!(exchange.advance(&mut world.exec, NOW, &mut 20), Turn::Send);
    assert_eq!(world.exec.waits.deadline_us(), None);
}
