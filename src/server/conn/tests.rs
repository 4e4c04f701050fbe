//! A client as two byte strings: what a connection answers, holds and gives back.

use super::*;
use crate::base::counters::Counter;
use crate::server::config::Config;
use crate::server::shared::Shared;
use crate::store::{self, Store};

pub(super) const NOW: Now = Now { unix_us: 1_800_000_000_000_000, mono_us: 5_000_000 };

pub(super) fn world(item_max: u32) -> (Executor, Conn) {
    let store_config = store::Config { item_max, ..store::Config::default() };
    let config = Config { item_max, memory_limit: 64 << 20, ..Config::default() };
    let shared = Shared::new(config, Store::new(store_config, NOW), NOW, 1);
    let info = ConnInfo::new("test".into(), String::new(), ConnState::NewCmd, NOW);
    (Executor::new(shared), Conn::new(1, info))
}

/// Runs until nothing is left to do; gives the last step and all replies.
pub(super) fn run(conn: &mut Conn, exec: &mut Executor, bytes: &[u8]) -> (Step, Vec<u8>) {
    conn.input().extend(bytes);
    let mut out = Vec::new();
    loop {
        let step = conn.process(exec, NOW, &mut 20);
        let sendable = conn.replies().sendable().to_vec();
        conn.replies().sent(sendable.len(), 0);
        out.extend(sendable);
        if matches!(step, Step::Read | Step::Close) {
            return (step, out);
        }
    }
}

#[test]
fn a_get_larger_than_the_output_bound_is_answered_in_portions() {
    let (mut exec, mut conn) = world(1 << 20);
    let value = vec![b'v'; 100_000];
    let mut line = b"get".to_vec();
    for n in 0..20 {
        let mut set = format!("set key{n} 0 0 100000\r\n").into_bytes();
        set.extend_from_slice(&value);
        set.extend_from_slice(b"\r\n");
        assert_eq!(run(&mut conn, &mut exec, &set).1, b"STORED\r\n");
        line.extend_from_slice(format!(" key{n}").as_bytes());
    }
    line.extend_from_slice(b"\r\nversion\r\n");
    conn.input().extend(&line);
    let (mut out, mut writes) = (Vec::new(), 0);
    loop {
        let step = conn.process(&mut exec, NOW, &mut 20);
        let waiting = conn.replies().queued_bytes();
        assert!(waiting <= 2 * OUT_HIGH + value.len() + 300, "{waiting} bytes wait");
        // A socket that takes a part only, as far as it can.
        let part = if step == Step::Read { waiting } else { waiting - waiting / 3 };
        out.extend_from_slice(&conn.replies().sendable()[..part]);
        conn.replies().sent(part, 0);
        writes += 1;
        if step == Step::Read {
            break;
        }
        assert_eq!(step, Step::Write);
    }
    assert!(writes > 5, "only {writes} portions");
    assert_eq!(out.windows(6).filter(|w| w == b"VALUE ").count(), 20);
    let end = format!("END\r\nVERSION {}\r\n", exec.shared.version);
    assert!(out.ends_with(end.as_bytes()));
}

#[test]
fn a_get_of_many_keys_takes_of_the_budget_as_it_goes() {
    let (mut exec, mut conn) = world(1 << 20);
    run(&mut conn, &mut exec, b"set k 0 0 1\r\nv\r\n");
    const KEYS: usize = 32_000;
    conn.input().extend(&[&b"get"[..], &b" k".repeat(KEYS), b"\r\nmn\r\n"].concat());
    let (mut out, mut turns) = (Vec::new(), 0);
    loop {
        let before = exec.store.counters().get(Counter::CmdGet);
        let step = conn.process(&mut exec, NOW, &mut 20);
        let looked = exec.store.counters().get(Counter::CmdGet) - before;
        assert!(looked <= 3 * text::KEYS_PER_STEP as u64, "{looked} keys in a turn");
        out.extend_from_slice(conn.replies().sendable());
        let sent = conn.replies().queued_bytes();
        conn.replies().sent(sent, 0);
        turns += 1;
        match step {
            Step::Read => break,
            step => assert!(matches!(step, Step::Yield | Step::Write), "{step:?}"),
        }
    }
    assert!(turns > 20, "{turns} turns");
    assert_eq!(out, [&b"VALUE k 0 1\r\nv\r\n".repeat(KEYS)[..], b"END\r\nMN\r\n"].concat());
}

#[test]
fn a_bad_key_far_behind_in_a_get_is_answered_by_the_error_alone() {
    let (mut exec, mut conn) = world(1 << 20);
    run(&mut conn, &mut exec, b"set k 0 0 1\r\nv\r\n");
    let keys = b" k".repeat(2 * text::KEYS_PER_STEP);
    let line = [&b"get"[..], &keys, b" ", &[b'x'; 251], b"\r\nmn\r\n"].concat();
    let error = &b"CLIENT_ERROR bad command line format\r\nMN\r\n"[..];
    let (_, out) = run(&mut conn, &mut exec, &line);
    assert_eq!(out.escape_ascii().to_string(), error.escape_ascii().to_string());
}

#[test]
fn a_long_data_block_is_counted_as_it_comes_in() {
    let (mut exec, mut conn) = world(1 << 20);
    let (step, out) = run(&mut conn, &mut exec, b"set k 0 0 200000\r\nxxx");
    assert_eq!((step, out.as_slice()), (Step::Read, &b""[..]));
    let few = exec.shared.reserved_data();
    assert!((1..20_000).contains(&few), "{few} bytes for what is only announced");
    assert!(conn.wanted(1) as u64 <= few);
    let mut here = 21;
    while here < 200_000 {
        let part = conn.wanted(1).min(200_018 - here);
        here += part;
        assert!(here as u64 <= exec.shared.reserved_data(), "read more than was counted");
        assert_eq!(run(&mut conn, &mut exec, &vec![b'x'; part]).1, b"");
    }
    assert_eq!(exec.shared.reserved_data(), 200_020);
    let (_, out) = run(&mut conn, &mut exec, b"\r\nget nothing\r\n");
    assert_eq!(out, b"STORED\r\nEND\r\n");
    assert_eq!(exec.shared.reserved_data(), 0);
    run(&mut conn, &mut exec, b"set k 0 0 300000\r\n");
    conn.release(&mut exec);
    assert_eq!(exec.shared.reserved_data(), 0, "a closed connection gives it back");
}

#[test]
fn a_data_block_that_finds_no_memory_is_swallowed_from_where_it_is() {
    let (mut exec, mut conn) = world(1 << 20);
    assert!(run(&mut conn, &mut exec, b"set k 0 0 100000\r\nxxx").1.is_empty());
    // Somebody else takes all there is.
    let mut other = 0;
    while exec.shared.reserve_data(10_000) {
        other += 10_000;
    }
    let (_, out) = run(&mut conn, &mut exec, &vec![b'x'; 90_000]);
    assert_eq!(out, b"SERVER_ERROR out of memory storing object\r\n");
    assert_eq!(exec.shared.reserved_data(), other);
    exec.shared.release_data(other);
    let mut rest = vec![b'x'; 9_997];
    rest.extend(b"\r\nget k\r\n");
    assert_eq!(run(&mut conn, &mut exec, &rest).1, b"END\r\n");
}

#[test]
fn a_refused_value_takes_the_old_one_with_it_and_keeps_the_connection() {
    let (mut exec, mut conn) = world(2048);
    assert_eq!(run(&mut conn, &mut exec, b"set k 0 0 1\r\nx\r\n").1, b"STORED\r\n");
    let mut set = b"set k 0 0 5000\r\n".to_vec();
    set.extend(vec![b'y'; 5000]);
    set.extend(b"\r\nget k\r\n");
    let (_, out) = run(&mut conn, &mut exec, &set);
    assert_eq!(out, b"SERVER_ERROR object too large for cache\r\nEND\r\n");
    assert_eq!(exec.store.counters().get(Counter::TooLarge), 1);
}

#[test]
fn the_budget_lets_others_in_between() {
    let (mut exec, mut conn) = world(2048);
    conn.input().extend(&b"version\r\n".repeat(50));
    let mut budget = 20;
    assert_eq!(conn.process(&mut exec, NOW, &mut budget), Step::Yield);
    let replies = conn.replies().sendable().split(|&b| b == b'\n').count() - 1;
    assert_eq!((budget, replies), (0, 20));
}

#[test]
fn lent_buffers_come_back_and_a_partial_command_keeps_its_own() {
    let (mut exec, mut conn) = world(2048);
    let (mut input, mut out) = (Buf::new(), Vec::new());
    input.space(65_536);
    conn.lend(&mut input, &mut out);
    run(&mut conn, &mut exec, b"get k\r\nget hal");
    conn.reclaim(&mut exec, NOW, &mut input, &mut out);
    assert!(input.capacity() >= 65_536 && input.is_empty());
    assert_eq!(conn.input().data(), b"get hal");
    assert!(conn.input().capacity() < 1024);
    assert!(!conn.is_idle());
    conn.lend(&mut input, &mut out);
    assert_eq!(run(&mut conn, &mut exec, b"f\r\n").1, b"END\r\n");
    conn.reclaim(&mut exec, NOW, &mut input, &mut out);
    assert!(conn.is_idle());
    assert!(conn.input().capacity() == 0 && input.capacity() >= 65_536);
}

#[test]
fn quit_answers_what_came_before_and_nothing_after() {
    let (mut exec, mut conn) = world(2048);
    let (step, out) = run(&mut conn, &mut exec, b"get k\r\nquit\r\nget k\r\n");
    assert_eq!((step, out.as_slice()), (Step::Close, &b"END\r\n"[..]));
    assert_eq!(conn.process(&mut exec, NOW, &mut 20), Step::Close);
}
