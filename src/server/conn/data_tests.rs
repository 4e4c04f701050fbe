//! A client that sends long values, and a worker that reads them where they belong: what is stored,
//! given back, or goes on in the input.

use std::io::IoSliceMut;

use super::tests::{world, NOW};
use super::*;
use crate::server::config::Config;
use crate::server::shared::Shared;
use crate::store::{self, Store};

/// As [`super::tests::world`], with a connection whose values are read into their place.
fn placing(item_max: u32) -> (Executor, Conn) {
    let (exec, mut conn) = world(item_max);
    conn.lend_values();
    (exec, conn)
}

/// A worker: reads `bytes` where the connection wants them, never more than `most` at once, and
/// collects the replies.
fn feed(conn: &mut Conn, exec: &mut Executor, mut bytes: &[u8], most: usize) -> (Step, Vec<u8>) {
    let mut out = Vec::new();
    loop {
        let step = conn.process(exec, NOW, &mut 20);
        conn.replies().keep_copies();
        let sendable = conn.replies().sendable().to_vec();
        conn.replies().sent(sendable.len(), 0);
        out.extend(sendable);
        if step == Step::Close || step == Step::Read && bytes.is_empty() {
            return (step, out);
        }
        if step == Step::Read {
            let n = read(conn, bytes, most);
            assert!(n > 0, "nothing wanted, and nothing done");
            bytes = &bytes[n..];
        }
    }
}

fn read(conn: &mut Conn, bytes: &[u8], most: usize) -> usize {
    if !conn.is_arriving() {
        let n = conn.wanted(65_536).min(bytes.len()).min(most);
        conn.input().space(n)[..n].copy_from_slice(&bytes[..n]);
        conn.input().filled(n);
        return n;
    }
    let mut slices: [_; 8] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
    let count = conn.windows(most, &mut slices);
    let mut copied = 0;
    for slice in &mut slices[..count] {
        let n = slice.len().min(bytes.len() - copied);
        slice[..n].copy_from_slice(&bytes[copied..copied + n]);
        copied += n;
    }
    assert!(copied <= most);
    conn.filled(copied);
    copied
}

fn value(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 253) as u8).collect()
}

fn set(key: &str, value: &[u8], more: &str) -> Vec<u8> {
    let line = format!("set {key} 5 0 {}{more}\r\n", value.len());
    [line.as_bytes(), value, b"\r\n"].concat()
}

fn stored(exec: &mut Executor, key: &str) -> Option<Vec<u8>> {
    exec.store.peek(key.as_bytes(), NOW, |item| item.value.to_vec())
}

#[test]
fn a_long_value_comes_in_whole_however_it_is_cut() {
    for most in [997, 5000, 65_536, 1 << 20] {
        for len in [50_000, 100_000, 300_001] {
            let (mut exec, mut conn) = placing(1 << 20);
            let value = value(len);
            let ms = format!("ms m {len} c\r\n");
            let all = [
                &set("k", &value, "")[..],
                &set("quiet", &value, " noreply"),
                &[ms.as_bytes(), &value, b"\r\n"].concat(),
                b"mn\r\n",
            ]
            .concat();
            let (step, out) = feed(&mut conn, &mut exec, &all, most);
            let said = String::from_utf8_lossy(&out);
            assert!(said.starts_with("STORED\r\nHD c") && said.ends_with("MN\r\n"), "{said}");
            assert_eq!(step, Step::Read);
            for key in ["k", "quiet", "m"] {
                assert!(stored(&mut exec, key).as_ref() == Some(&value), "{key}: {len}, {most}");
            }
            let (_, out) = feed(&mut conn, &mut exec, b"get k\r\n", most);
            let head = format!("VALUE k 5 {len}\r\n");
            assert!(out == [head.as_bytes(), &value, b"\r\nEND\r\n"].concat());
            assert_eq!(exec.shared.reserved_data(), 0);
        }
    }
}

#[test]
fn every_byte_of_the_seams_may_be_the_last_of_a_read() {
    let value = value(60_000);
    let all = [&set("k", &value, "")[..], b"mn\r\n"].concat();
    let edges = (15..40).chain(60_010..=all.len());
    for first in edges {
        let (mut exec, mut conn) = placing(1 << 20);
        let mut out = feed(&mut conn, &mut exec, &all[..first], 1 << 20).1;
        out.extend(feed(&mut conn, &mut exec, &all[first..], 1 << 20).1);
        assert_eq!(out, b"STORED\r\nMN\r\n", "cut behind {first}");
        assert!(stored(&mut exec, "k").as_ref() == Some(&value));
    }
}

#[test]
fn a_wrong_line_end_costs_the_value_and_nothing_else() {
    let (mut exec, mut conn) = placing(1 << 20);
    feed(&mut conn, &mut exec, b"set k 0 0 3\r\nold\r\n", 100);
    let mut wrong = set("k", &value(100_000), "");
    let end = wrong.len();
    wrong[end - 2..].copy_from_slice(b"xy");
    let (_, out) = feed(&mut conn, &mut exec, &[&wrong[..], b"get k\r\n"].concat(), 4096);
    assert_eq!(out, b"CLIENT_ERROR bad data chunk\r\nVALUE k 0 3\r\nold\r\nEND\r\n");
    let all = exec.shared.store.stats();
    assert_eq!(all.curr_items, 1);
}

#[test]
fn a_client_that_leaves_in_the_middle_leaves_nothing() {
    let (mut exec, mut conn) = placing(1 << 20);
    let set = set("k", &value(500_000), "");
    feed(&mut conn, &mut exec, &set[..300_000], 1 << 20);
    assert!(conn.is_arriving() && conn.input().len() < 100);
    conn.hung_up(&mut exec);
    assert!(!conn.is_arriving());
    assert_eq!(conn.process(&mut exec, NOW, &mut 20), Step::Close);
    assert_eq!(stored(&mut exec, "k"), None);
}

#[test]
fn a_value_that_stalls_goes_on_in_the_input() {
    let (mut exec, mut conn) = placing(1 << 20);
    let value = value(500_000);
    let set = [&set("k", &value, "")[..], b"mn\r\n"].concat();
    feed(&mut conn, &mut exec, &set[..300_000], 1 << 20);
    let later = |ms: u64| NOW.plus_us(1000 * ms);
    assert_eq!(conn.check_arriving(&mut exec, later(100)), 0, "more has come since");
    assert_eq!(conn.check_arriving(&mut exec, later(900)), 0, "not yet");
    assert!(conn.is_arriving());
    assert!(conn.check_arriving(&mut exec, later(1200)) > 290_000);
    assert!(!conn.is_arriving() && conn.input().len() == 300_000);
    assert!(exec.shared.reserved_data() >= 300_000);
    let (_, out) = feed(&mut conn, &mut exec, &set[300_000..], 1 << 20);
    assert_eq!(out, b"STORED\r\nMN\r\n");
    assert!(stored(&mut exec, "k") == Some(value));
    assert_eq!(exec.shared.reserved_data(), 0);
}

#[test]
fn commands_that_look_at_what_is_there_stay_in_the_input() {
    let (mut exec, mut conn) = placing(1 << 20);
    let value = value(100_000);
    let mut expected = Vec::new();
    for verb in ["add", "append", "prepend", "replace"] {
        let line = format!("{verb} k 0 0 {}\r\n", value.len());
        let all = [line.as_bytes(), &value, b"\r\n"].concat();
        assert_eq!(feed(&mut conn, &mut exec, &all[..70_000], 1 << 20).1, b"");
        assert!(!conn.is_arriving());
        assert_eq!(feed(&mut conn, &mut exec, &all[70_000..], 1 << 20).1, b"STORED\r\n");
        match verb {
            "append" | "prepend" => expected.extend_from_slice(&value),
            _ => expected = value.clone(),
        }
        assert!(stored(&mut exec, "k").as_ref() == Some(&expected), "{verb}");
    }
}

#[test]
fn many_half_sent_values_are_all_served_or_refused() {
    let store_config = store::Config { memory_limit: 8 << 20, ..store::Config::default() };
    let config = Config { memory_limit: 8 << 20, ..Config::default() };
    let shared = Shared::new(config, Store::new(store_config, NOW), NOW, 1);
    let mut exec = Executor::new(shared);
    let set = [&set("k", &value(400_000), "")[..], b"mn\r\n"].concat();
    let mut conns: Vec<Conn> = (0..60)
        .map(|n| {
            let info = ConnInfo::new("test".into(), String::new(), ConnState::NewCmd, NOW);
            let mut conn = Conn::new(n, info);
            conn.lend_values();
            conn
        })
        .collect();
    let mut early = Vec::new();
    for conn in &mut conns {
        early.push(feed(conn, &mut exec, &set[..200_000], 1 << 20).1);
    }
    let placed = conns.iter().filter(|conn| conn.is_arriving()).count();
    assert!((5..30).contains(&placed), "{placed} of 60 in 8 MB");
    let small = b"set small 0 0 1\r\nx\r\n";
    assert_eq!(feed(&mut conns[0], &mut exec, b"", 1).1, b"");
    let info = ConnInfo::new("test".into(), String::new(), ConnState::NewCmd, NOW);
    let mut other = Conn::new(99, info);
    assert_eq!(feed(&mut other, &mut exec, small, 100).1, b"STORED\r\n");
    let mut done = 0;
    for (conn, early) in conns.iter_mut().zip(early) {
        let out = [early, feed(conn, &mut exec, &set[200_000..], 1 << 20).1].concat();
        let refused = b"SERVER_ERROR out of memory storing object\r\nMN\r\n";
        assert!(out == b"STORED\r\nMN\r\n" || out == refused, "{}", out.escape_ascii());
        done += usize::from(out.starts_with(b"STORED"));
    }
    assert!(done >= placed, "{done} of {placed}");
    assert_eq!(exec.shared.reserved_data(), 0);
}
