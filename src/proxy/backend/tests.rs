//! A backend told byte by byte.

use super::*;

const LIMITS: Limits = Limits { connect_us: 300, request_us: 1000, value_max: 100 };

fn at(us: u64) -> Now {
    Now::default().plus_us(us)
}

fn up() -> Backend<u32> {
    let mut backend = Backend::new("s:1".into(), LIMITS);
    assert_eq!(backend.ask(at(0), 1, Expect::Stored, |out| out.extend(b"one")), Usable::Yes);
    assert!(backend.wants_connect(at(0)));
    assert_eq!(backend.sendable(), b"");
    backend.connecting(at(0));
    assert!(!backend.wants_connect(at(0)));
    backend.connected();
    assert_eq!(backend.sendable(), b"version\r\none");
    backend.sent(at(500), 12);
    backend
}

/// Feeds bytes and returns what was heard, as text.
fn feed(backend: &mut Backend<u32>, bytes: &[u8]) -> Vec<String> {
    backend.input.extend(bytes);
    let mut heard = Vec::new();
    let mut input = std::mem::take(&mut backend.input);
    loop {
        let used = match backend.step(at(1), input.data()) {
            Step::Wait => break,
            Step::Garbage => {
                heard.push("garbage".into());
                break;
            }
            Step::Own { used } => used,
            Step::Value { call, key, data, used, .. } => {
                let key = String::from_utf8_lossy(key);
                heard.push(format!("{call} {key} {:?}", data.map(<[u8]>::len)));
                used
            }
            Step::Done { call, raw, used, .. } => {
                heard.push(format!("{call} {}", String::from_utf8_lossy(raw).trim_end()));
                used
            }
        };
        input.consume(used);
    }
    backend.input = input;
    heard
}

#[test]
fn greets_and_matches_answers_in_order() {
    let mut backend = up();
    assert!(feed(&mut backend, b"VERSION 1.6.18\r").is_empty());
    assert!(!backend.speaks_meta());
    backend.ask(at(1), 2, Expect::Values, |_| {});
    assert_eq!(feed(&mut backend, b"\nSTORED\r\nVALUE k 0 2\r\nab"), ["1 STORED"]);
    assert!(backend.speaks_meta());
    assert_eq!(feed(&mut backend, b"\r\nEND\r\n"), ["2 k Some(2)", "2 END"]);
    assert_eq!(feed(&mut backend, b"END\r\n"), ["garbage"], "nobody waits");
}

#[test]
fn an_answer_to_another_question_is_garbage() {
    for (expect, answer) in [
        (Expect::Stored, &b"DELETED\r\n"[..]),
        (Expect::Values, b"STORED\r\n"),
        (Expect::Values, b"VALUE k 0 2\r\nabc\r\n"),
        (Expect::Number, b"END\r\n"),
        (Expect::Touched, b"HTTP/1.1 400 Bad Request\r\n"),
    ] {
        let mut backend = up();
        feed(&mut backend, b"VERSION 1.4.0\r\nSTORED\r\n");
        assert!(!backend.speaks_meta());
        backend.ask(at(1), 2, expect, |_| {});
        assert_eq!(feed(&mut backend, answer), ["garbage"], "{expect:?}");
        assert_eq!(backend.failed(at(1), &Why::Garbage), [2]);
        assert_eq!(backend.usable(), Usable::Down);
    }
}

#[test]
fn too_large_values_are_dropped_without_losing_the_place() {
    let mut backend = up();
    feed(&mut backend, b"VERSION 1.6.0\r\nSTORED\r\n");
    backend.ask(at(1), 2, Expect::Values, |_| {});
    backend.ask(at(1), 3, Expect::Meta, |_| {});
    let big = [b'x'; 101];
    let mut bytes = b"VALUE k 0 101\r\n".to_vec();
    bytes.extend(big);
    bytes.extend(b"\r\nEND\r\nVA 101 t-1\r\n");
    bytes.extend(big);
    bytes.extend(b"\r\n");
    let mut heard = Vec::new();
    for piece in bytes.chunks(7) {
        heard.extend(feed(&mut backend, piece));
    }
    assert_eq!(heard, ["2 k None", "2 END", "3 SERVER_ERROR object too large for cache"]);
}

#[test]
fn down_probe_up_with_growing_waits() {
    let mut backend = up();
    backend.missed_key(b"k");
    assert_eq!(backend.deadline(), Some(1011), "12 bytes moved buy 11 us");
    assert_eq!(backend.check(at(1010)), None);
    assert_eq!(backend.check(at(1011)), Some(Why::RequestTimeout));
    assert_eq!(backend.failed(at(2000), &Why::RequestTimeout), [1]);
    assert_eq!(backend.ask(at(2000), 9, Expect::Ok, |_| panic!("written")), Usable::Down);
    let mut now = 2000;
    let mut waits = Vec::new();
    for _ in 0..6 {
        let until = backend.deadline().expect("a time to try again");
        waits.push(until - now);
        now = until;
        assert!(!backend.wants_connect(at(now - 1)) && backend.wants_connect(at(now)));
        backend.connecting(at(now));
        assert_eq!(backend.usable(), Usable::Down, "a probe carries no load");
        assert!(backend.failed(at(now), &Why::Refused("no".into())).is_empty());
    }
    assert_eq!(waits, [50_000, 100_000, 200_000, 400_000, 500_000, 500_000]);
    backend.connecting(at(now));
    backend.connected();
    assert_eq!(backend.sendable(), b"version\r\ndelete k\r\n", "missed writes go first");
    assert_eq!(backend.usable(), Usable::Down, "it has not spoken yet");
    assert!(feed(&mut backend, b"VERSION 1.6.0\r\n").is_empty());
    assert_eq!(backend.usable(), Usable::Yes);
    assert_eq!(backend.failed(at(now), &Why::Lost("closed".into())), []);
    assert!(!backend.wants_connect(at(now)), "an idle close is no failure");
    assert_eq!(backend.ask(at(now), 3, Expect::Ok, |_| {}), Usable::Yes, "it connects again");
    backend.connecting(at(now));
    backend.connected();
    assert_eq!(backend.failed(at(now), &Why::Lost("closed".into())), [3]);
    assert_eq!(backend.usable(), Usable::Down, "it closes without an answer");
}

#[test]
fn meta_is_for_16_and_later() {
    for (version, meta) in [
        ("1.6.18", true),
        ("1.5.22", false),
        ("1.2.8", false),
        ("1.6.45-twincached-0.1.0", true),
        ("2.0", true),
        ("?", false),
    ] {
        assert_eq!(speaks_meta(version.as_bytes()), meta, "{version}");
    }
}

#[test]
fn large_values_may_take_longer_but_silence_is_the_end() {
    let mut backend = up();
    backend.input.space(4 << 20);
    backend.received(at(900), 4 << 20);
    assert_eq!(backend.deadline(), Some(1900), "four seconds more, had it gone on");
    backend.input.space(1);
    backend.received(at(1_000_000), 1);
    assert_eq!(backend.check(at(1_000_900)), None);
    assert_eq!(backend.check(at(1_001_000)), Some(Why::RequestTimeout));
}
