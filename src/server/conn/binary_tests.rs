//! A binary client as two byte strings: what a connection holds, refuses and gives back.

use super::tests::{run, world, NOW};
use super::*;
use crate::base::counters::Counter;
use crate::protocol::binary::{opcode, HEADER};

/// A request whose body is longer than what is given by `missing` bytes.
fn packet(opcode: u8, extras: &[u8], key: &[u8], value: &[u8], missing: u32) -> Vec<u8> {
    let body = (extras.len() + key.len() + value.len()) as u32 + missing;
    let mut out = vec![REQUEST, opcode];
    out.extend((key.len() as u16).to_be_bytes());
    out.extend([extras.len() as u8, 0, 0, 0]);
    out.extend(body.to_be_bytes());
    out.extend([0; 12]);
    out.extend([extras, key, value].concat());
    out
}

fn set(key: &[u8], value: &[u8], missing: u32) -> Vec<u8> {
    packet(opcode::SET, &[0; 8], key, value, missing)
}

fn get(key: &[u8]) -> Vec<u8> {
    packet(opcode::GETKQ, b"", key, b"", 0)
}

/// Statuses and bodies of whole responses.
fn said(mut bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    let mut all = Vec::new();
    while !bytes.is_empty() {
        let (header, rest) = bytes.split_at(HEADER);
        let body = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
        let (body, rest) = rest.split_at(body as usize);
        all.push((u16::from_be_bytes([header[6], header[7]]), body.to_vec()));
        bytes = rest;
    }
    all
}

const NOOP: &[u8] = b"\x80\x0a\0\0\0\0\0\0\0\0\0\0noop\0\0\0\0\0\0\0\0";

#[test]
fn a_long_value_is_counted_as_it_comes_in() {
    let (mut exec, mut conn) = world(1 << 20);
    let (step, out) = run(&mut conn, &mut exec, &set(b"k", b"xxx", 199_997));
    assert_eq!((step, out.as_slice()), (Step::Read, &b""[..]));
    let few = exec.shared.reserved_data();
    assert!((1..20_000).contains(&few), "{few} bytes for what is only announced");
    assert!(conn.wanted(1) as u64 <= few);
    let mut here = 3;
    while here < 199_999 {
        let part = conn.wanted(1).min(199_999 - here);
        here += part;
        assert_eq!(run(&mut conn, &mut exec, &vec![b'x'; part]).1, b"");
        assert!(here as u64 <= exec.shared.reserved_data(), "read more than was counted");
    }
    assert_eq!(exec.shared.reserved_data(), HEADER as u64 + 9 + 200_000);
    let (_, out) = run(&mut conn, &mut exec, &[b"x", NOOP].concat());
    assert_eq!(said(&out), [(0, vec![]), (0, vec![])]);
    assert_eq!(exec.shared.reserved_data(), 0);
    run(&mut conn, &mut exec, &set(b"k", b"", 300_000));
    conn.release(&mut exec);
    assert_eq!(exec.shared.reserved_data(), 0, "a closed connection gives it back");
}

#[test]
fn a_value_that_finds_no_memory_is_swallowed_from_where_it_is() {
    let (mut exec, mut conn) = world(1 << 20);
    run(&mut conn, &mut exec, &set(b"k", b"old", 0));
    assert!(run(&mut conn, &mut exec, &set(b"k", b"xxx", 99_997)).1.is_empty());
    // Somebody else takes all there is.
    let mut other = 0;
    while exec.shared.reserve_data(10_000) {
        other += 10_000;
    }
    let (_, out) = run(&mut conn, &mut exec, &vec![b'x'; 90_000]);
    assert_eq!(said(&out), [(0x82, b"Out of memory allocating item".to_vec())]);
    assert_eq!(exec.shared.reserved_data(), other);
    exec.shared.release_data(other);
    let rest = [&[b'x'; 9_997][..], &get(b"k"), NOOP].concat();
    assert_eq!(said(&run(&mut conn, &mut exec, &rest).1), [(0, vec![])]);
}

#[test]
fn what_is_refused_is_never_held() {
    let (mut exec, mut conn) = world(2048);
    let (step, out) = run(&mut conn, &mut exec, &set(b"k", b"xxx", 900_000_000));
    assert_eq!((step, said(&out)), (Step::Read, vec![(3, b"Too large.".to_vec())]));
    // Not counted either: it is not a value of text's `store_too_large`.
    assert_eq!(exec.store.counters().get(Counter::TooLarge), 0);
    for _ in 0..100 {
        assert_eq!(run(&mut conn, &mut exec, &vec![b'x'; 100_000]).1, b"");
        assert_eq!(conn.input().len(), 0);
    }
    assert_eq!(exec.shared.reserved_data(), 0);

    // The longest key there can be, a piece at a time.
    let (mut exec, mut conn) = world(2048);
    let mut header = packet(opcode::GET, b"", &[b'k'; u16::MAX as usize], b"", 0);
    let key = header.split_off(HEADER);
    let (step, out) = run(&mut conn, &mut exec, &header);
    assert_eq!((step, said(&out)), (Step::Read, vec![(4, b"Invalid arguments".to_vec())]));
    let (head, tail) = key.split_at(60_000);
    assert_eq!(run(&mut conn, &mut exec, head), (Step::Read, vec![]));
    assert_eq!(conn.input().len(), 0);
    // Nothing behind it is executed.
    let (step, out) = run(&mut conn, &mut exec, &[tail, NOOP].concat());
    assert_eq!((step, out.as_slice()), (Step::Close, &b""[..]));
}

#[test]
fn many_gets_wait_for_the_client_to_read() {
    let (mut exec, mut conn) = world(1 << 20);
    let value = vec![b'v'; 100_000];
    run(&mut conn, &mut exec, &set(b"k", &value, 0));
    conn.input().extend(&[get(b"k").repeat(50), NOOP.to_vec()].concat());
    let (mut sent, mut writes) = (0, 0);
    loop {
        let step = conn.process(&mut exec, NOW, &mut 100);
        let waiting = conn.replies().queued_bytes();
        assert!(waiting <= OUT_HIGH + value.len() + 300, "{waiting} bytes wait");
        conn.replies().sent(waiting, 0);
        sent += waiting;
        if step == Step::Read {
            break;
        }
        assert_eq!(step, Step::Write);
        writes += 1;
    }
    assert!(writes > 10, "only {writes} portions");
    assert_eq!(sent, 50 * (HEADER + 4 + 1 + 100_000) + HEADER);
}

#[test]
fn the_first_byte_decides_for_good() {
    let (mut exec, mut conn) = world(2048);
    assert_eq!(run(&mut conn, &mut exec, NOOP).1.len(), HEADER);
    let text = b"version\r\nversion\r\nversion\r\n";
    assert_eq!(run(&mut conn, &mut exec, text), (Step::Close, vec![]));
    let (mut exec, mut conn) = world(2048);
    assert_eq!(run(&mut conn, &mut exec, b"mn\r\n").1, b"MN\r\n");
    assert!(run(&mut conn, &mut exec, NOOP).1.starts_with(b"CLIENT_ERROR "));
}

#[test]
fn verbosity_is_taken_in_the_form_that_was_described() {
    let (mut exec, mut conn) = world(2048);
    let level = packet(opcode::VERBOSITY, &[0, 0, 0, 0], b"", b"", 0);
    assert_eq!(said(&run(&mut conn, &mut exec, &level).1), [(0, vec![])]);
    let other = packet(opcode::VERBOSITY, b"", b"", b"", 0);
    assert_eq!(said(&run(&mut conn, &mut exec, &other).1)[0].0, 0x81);
}
