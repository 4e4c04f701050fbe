//! A backend told byte by byte.

use super::*;

const LIMITS: Limits = Limits {
    connect_us: 300,
    request_us: 1000,
    idle_us: 0,
    retry_us: 500_000,
    failure_limit: 1,
    in_flight: 65_536,
    hold_max: 100,
    whole_max: 100,
};

fn at(us: u64) -> Now {
    Now::default().plus_us(us)
}

fn with(limits: Limits) -> Backend<u32> {
    Backend::new("s:1".into(), limits, Arc::default())
}

/// Whose requests a lost connection took along.
fn fail(backend: &mut Backend<u32>, now: Now, why: &Why) -> Vec<u32> {
    backend.failed(now, why).into_iter().map(|(call, _)| call).collect()
}

fn up() -> Backend<u32> {
    let mut backend = with(LIMITS);
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
            Step::Large { call, used } => {
                heard.push(format!("{call} large"));
                used
            }
            Step::Garbage => {
                heard.push("garbage".into());
                break;
            }
            Step::Own { used } => used,
            Step::Gone { call } => {
                heard.push(format!("{call} gone"));
                0
            }
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
        assert_eq!(fail(&mut backend, at(1), &Why::Garbage), [2]);
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
    assert_eq!(heard, ["2 k None", "2 END", "3 large"]);
}

#[test]
fn down_probe_up_with_growing_waits() {
    let mut backend = up();
    backend.missed_key(b"k");
    assert_eq!(backend.deadline(), Some(1011), "12 bytes moved buy 11 us");
    assert_eq!(backend.check(at(1010)), None);
    assert_eq!(backend.check(at(1011)), Some(Why::RequestTimeout));
    assert_eq!(fail(&mut backend, at(2000), &Why::RequestTimeout), [1]);
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
        assert!(fail(&mut backend, at(now), &Why::Refused("no".into())).is_empty());
    }
    assert_eq!(waits, [50_000, 100_000, 200_000, 400_000, 500_000, 500_000]);
    backend.connecting(at(now));
    backend.connected();
    assert_eq!(backend.sendable(), b"version\r\ndelete k\r\n", "missed writes go first");
    assert_eq!(backend.usable(), Usable::Down, "it has not spoken yet");
    backend.sent(at(now), 19);
    assert!(feed(&mut backend, b"VERSION 1.6.0\r\n").is_empty());
    assert_eq!(backend.usable(), Usable::Yes);
    assert_eq!(fail(&mut backend, at(now), &Why::Lost("closed".into())), []);
    assert!(!backend.wants_connect(at(now)), "an idle close is no failure");
    assert_eq!(backend.ask(at(now), 3, Expect::Ok, |_| {}), Usable::Yes, "it connects again");
    backend.connecting(at(now));
    backend.connected();
    assert_eq!(fail(&mut backend, at(now), &Why::Lost("closed".into())), [3]);
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
        assert_eq!(answer::speaks_meta(version.as_bytes()), meta, "{version}");
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

/// Asks, and writes the call's number as the request.
fn ask(backend: &mut Backend<u32>, now: u64, call: u32, kind: impl Into<Kind>) {
    let text = format!("{call}\n");
    let usable = backend.ask(at(now), call, kind, |out| out.extend(text.as_bytes()));
    assert_eq!(usable, Usable::Yes);
}

/// A connection that has answered somebody, with nobody waiting.
fn worked() -> Backend<u32> {
    let mut backend = up();
    assert_eq!(feed(&mut backend, b"VERSION 1.6.0\r\nSTORED\r\n"), ["1 STORED"]);
    backend
}

fn lose(backend: &mut Backend<u32>, now: u64) -> Vec<u32> {
    let back = fail(backend, at(now), &Why::Lost("closed".into()));
    backend.resume(at(now));
    back
}

/// Connects again. Returns what is sent then.
fn reconnect(backend: &mut Backend<u32>, now: u64) -> String {
    assert!(backend.wants_connect(at(now)));
    backend.connecting(at(now));
    backend.connected();
    sendable(backend, now)
}

fn sendable(backend: &mut Backend<u32>, now: u64) -> String {
    let text = String::from_utf8(backend.sendable().to_vec()).expect("text");
    backend.sent(at(now), text.len());
    text
}

#[test]
fn a_stale_connection_costs_nothing() {
    let mut backend = worked();
    // The server closes it just when these are on their way.
    ask(&mut backend, 10, 2, Expect::Values);
    ask(&mut backend, 10, 3, Expect::Stored.again());
    ask(&mut backend, 10, 4, Expect::Deleted);
    backend.sent(at(10), 6);
    ask(&mut backend, 10, 5, Expect::Number);
    assert_eq!(lose(&mut backend, 20), [], "nothing of 5 was sent");
    assert_eq!(backend.usable(), Usable::Yes);
    ask(&mut backend, 20, 6, Expect::Values);
    assert_eq!(reconnect(&mut backend, 20), "version\r\n2\n3\n4\n5\n6\n");
    let answers = b"VERSION 1.6.0\r\nEND\r\nSTORED\r\nDELETED\r\n7\r\nEND\r\n";
    assert_eq!(feed(&mut backend, answers), ["2 END", "3 STORED", "4 DELETED", "5 7", "6 END"]);
    let figures = backend.figures();
    assert_eq!((figures.retries.get(), figures.failures.get(), figures.connects.get()), (1, 1, 2));
    assert_eq!((figures.requests.get(), figures.in_flight.get()), (6, 0));
}

#[test]
fn what_may_not_be_done_twice_comes_back_in_its_place() {
    let mut backend = worked();
    ask(&mut backend, 10, 2, Expect::Number);
    ask(&mut backend, 10, 3, Expect::Values);
    ask(&mut backend, 10, 4, Expect::Number);
    ask(&mut backend, 10, 5, Expect::Stored.once());
    ask(&mut backend, 10, 6, Expect::Values);
    backend.sent(at(10), 7);
    backend.missed_key(b"before");
    let back = fail(&mut backend, at(20), &Why::Lost("closed".into()));
    assert_eq!(back, [2], "nobody is before it");
    backend.missed_key(b"two");
    backend.resume(at(20));
    // One byte of 5 was sent: it may have been done, as far as the proxy can know.
    assert_eq!(reconnect(&mut backend, 20), "version\r\ndelete two\r\n3\n", "6 must wait for 4");
    ask(&mut backend, 30, 7, Expect::Values);
    assert_eq!(sendable(&mut backend, 30), "");
    assert!(feed(&mut backend, b"VERSION 1.6.0\r\nDELETED\r\n").is_empty());
    backend.input.extend(b"END\r\n");
    let mut input = std::mem::take(&mut backend.input);
    assert!(matches!(backend.step(at(30), input.data()), Step::Done { call: 3, used: 5, .. }));
    input.consume(5);
    for call in [4, 5] {
        assert_eq!(backend.step(at(30), input.data()), Step::Gone { call });
        backend.missed_key(format!("k{call}").as_bytes());
        assert_eq!(backend.sendable(), b"");
    }
    assert_eq!(backend.step(at(30), input.data()), Step::Wait);
    let mut sent = sendable(&mut backend, 30);
    for key in ["k4", "k5"] {
        let line = format!("delete {key}\r\n");
        assert!(sent.contains(&line), "{sent}");
        sent = sent.replace(&line, "");
    }
    assert_eq!(sent, "6\ndelete before\r\n7\n");
    let answers = b"DELETED\r\nDELETED\r\nEND\r\nDELETED\r\nEND\r\n";
    assert_eq!(feed(&mut backend, answers), ["6 END", "7 END"]);
}

#[test]
fn a_second_loss_without_an_answer_is_a_failure() {
    let mut backend = worked();
    ask(&mut backend, 10, 2, Expect::Values);
    ask(&mut backend, 10, 3, Expect::Number);
    backend.sent(at(10), 3);
    assert_eq!(lose(&mut backend, 20), []);
    assert_eq!(reconnect(&mut backend, 20), "version\r\n2\n");
    assert!(feed(&mut backend, b"VERSION 1.6.0\r\n").is_empty());
    assert_eq!(lose(&mut backend, 30), [2, 3], "in their order");
    assert_eq!(backend.usable(), Usable::Down);
    // And a connection that cannot be made is one too.
    let mut backend = worked();
    ask(&mut backend, 10, 2, Expect::Values);
    assert_eq!(lose(&mut backend, 20), []);
    backend.connecting(at(20));
    assert_eq!(fail(&mut backend, at(20), &Why::Refused("no".into())), [2]);
    assert_eq!(backend.usable(), Usable::Down);
    // The time of a request goes on when it is asked again.
    let mut backend = worked();
    ask(&mut backend, 10, 2, Expect::Values);
    backend.sent(at(10), 2);
    assert_eq!(lose(&mut backend, 900), []);
    backend.connecting(at(900));
    assert_eq!(backend.deadline(), Some(1010), "not 1200, though it connects since 900");
    backend.connected();
    assert_eq!(backend.check(at(1009)), None);
    assert!(backend.check(at(1020)).is_some());
}

#[test]
fn a_get_that_was_answered_in_part_begins_anew() {
    let mut backend = worked();
    ask(&mut backend, 10, 2, Expect::Values);
    backend.sent(at(10), 2);
    assert_eq!(feed(&mut backend, b"VALUE a 0 1\r\nx\r\nVALUE b 0 1"), ["2 a Some(1)"]);
    assert_eq!(fail(&mut backend, at(20), &Why::Lost("closed".into())), []);
    assert_eq!(backend.take_restarted(), Some(2));
    assert_eq!(reconnect(&mut backend, 20), "version\r\n2\n");
    let answer = b"VERSION 1.6.0\r\nVALUE a 0 1\r\nx\r\nVALUE b 0 1\r\ny\r\nEND\r\n";
    assert_eq!(feed(&mut backend, answer), ["2 a Some(1)", "2 b Some(1)", "2 END"]);
    assert_eq!(backend.take_restarted(), None);
}

#[test]
fn an_answer_to_what_has_not_been_sent_is_garbage() {
    let mut backend = worked();
    ask(&mut backend, 10, 2, Expect::Values);
    assert_eq!(feed(&mut backend, b"VALUE a 0 1\r\nx\r\nEND\r\n"), ["garbage"]);
    assert_eq!(fail(&mut backend, at(10), &Why::Garbage), [2], "not asked again");
    assert_eq!(backend.usable(), Usable::Down);
    // But a refusal may come while a large value is still being sent.
    let mut backend = worked();
    ask(&mut backend, 10, 23, Expect::Stored.again());
    ask(&mut backend, 10, 4, Expect::Values);
    backend.sent(at(10), 1);
    assert_eq!(
        feed(&mut backend, b"SERVER_ERROR object too large for cache\r\n"),
        ["23 SERVER_ERROR object too large for cache"]
    );
    assert_eq!(sendable(&mut backend, 10), "3\n4\n", "the rest is sent all the same");
    assert_eq!(feed(&mut backend, b"END\r\n"), ["4 END"]);
}

#[test]
fn below_the_limit_a_failure_takes_only_its_own_along() {
    let mut backend = with(Limits { failure_limit: 3, idle_us: 5000, ..LIMITS });
    for round in 0..2 {
        ask(&mut backend, round, 2, Expect::Values);
        backend.connecting(at(round));
        assert_eq!(fail(&mut backend, at(round), &Why::Refused("no".into())), [2]);
        assert_eq!(backend.usable(), Usable::Yes);
    }
    ask(&mut backend, 2, 2, Expect::Values);
    assert_eq!(reconnect(&mut backend, 2), "version\r\n2\n");
    assert_eq!(feed(&mut backend, b"VERSION 1.6.0\r\nEND\r\n"), ["2 END"]);
    for round in 0..3 {
        assert_eq!(backend.usable(), Usable::Yes, "an answer begins the count anew");
        ask(&mut backend, 10, 2, Expect::Values);
        if round > 0 {
            assert_eq!(reconnect(&mut backend, 10), "version\r\n2\n");
        }
        assert_eq!(backend.check(at(1010)), Some(Why::RequestTimeout));
        assert_eq!(fail(&mut backend, at(1010), &Why::RequestTimeout), [2]);
    }
    assert_eq!(backend.usable(), Usable::Down);
    assert_eq!(backend.figures().timeouts.get(), 3);
}

#[test]
fn an_unused_connection_is_closed_and_a_full_one_says_so() {
    let limits = Limits { idle_us: 5000, in_flight: 2, ..LIMITS };
    let mut backend = with(limits);
    ask(&mut backend, 0, 1, Expect::Values);
    assert_eq!(backend.ask(at(0), 9, Expect::Values, |_| panic!("written")), Usable::Busy);
    assert_eq!(reconnect(&mut backend, 0), "version\r\n1\n");
    assert_eq!(feed(&mut backend, b"VERSION 1.6.0\r\n"), [""; 0]);
    ask(&mut backend, 0, 2, Expect::Values);
    assert_eq!(backend.ask(at(0), 9, Expect::Values, |_| panic!("written")), Usable::Busy);
    sendable(&mut backend, 100);
    assert_eq!(feed(&mut backend, b"END\r\nEND\r\n"), ["1 END", "2 END"]);
    assert_eq!(backend.deadline(), Some(5100));
    assert_eq!(backend.check(at(5099)), None);
    assert_eq!(backend.check(at(5100)), Some(Why::Idle));
    assert_eq!(fail(&mut backend, at(5100), &Why::Idle), []);
    assert_eq!((backend.usable(), backend.deadline()), (Usable::Yes, None));
    assert_eq!(backend.figures().failures.get(), 0);
}

#[test]
fn too_many_that_would_have_to_wait_all_fail() {
    let mut backend = worked();
    for call in 0..2 * pipe::GONE_MAX as u32 + 10 {
        let kind = if call % 2 == 0 { Expect::Number.once() } else { Expect::Values.again() };
        ask(&mut backend, 10, call, kind);
    }
    sendable(&mut backend, 10);
    let back = lose(&mut backend, 20);
    assert_eq!(back.len(), 2 * pipe::GONE_MAX + 10);
    assert!(back.is_sorted());
    assert_eq!((backend.usable(), backend.deadline()), (Usable::Yes, None));
}

/// Random losses at random places: every request ends once, in order, and what may not be done
/// twice is sent whole at most once.
#[test]
fn random_losses_end_every_request_once_and_in_order() {
    let mut retries = 0;
    for seed in 0..300 {
        let mut random = crate::proxy::sim::Random::new(seed);
        let mut backend = worked();
        let (mut next, mut ended) = (2u32, Vec::new());
        let mut sent: Vec<u8> = Vec::new();
        let mut whole = std::collections::HashMap::new();
        for now in 10..400 {
            if random.below(3) == 0 {
                let kind =
                    if random.below(3) == 0 { Expect::Ok.once() } else { Expect::Ok.again() };
                if backend.usable() == Usable::Yes {
                    ask(&mut backend, now, next * 2 + u32::from(kind.again), kind);
                    next += 1;
                }
            }
            if backend.wants_connect(at(now)) {
                backend.connecting(at(now));
                backend.connected();
            }
            let n = backend.sendable().len();
            if n > 0 {
                let n = random.below(n) + 1;
                sent.extend(&backend.sendable()[..n]);
                backend.sent(at(now), n);
            }
            // The server does whole lines, and sometimes goes before it says so.
            if random.below(2) == 0 {
                while let Some(end) = sent.iter().position(|&byte| byte == b'\n') {
                    let line: Vec<u8> = sent.drain(..=end).collect();
                    let line = String::from_utf8(line).expect("text");
                    if random.below(8) == 0 && line != "version\r\n" {
                        *whole.entry(line).or_insert(0) += 1;
                        sent.clear();
                        ended.extend(lose(&mut backend, now));
                        break;
                    }
                    let answer: &[u8] =
                        if line == "version\r\n" { b"VERSION 1.6.0\r\n" } else { b"OK\r\n" };
                    *whole.entry(line).or_insert(0) += 1;
                    for heard in feed(&mut backend, answer) {
                        let call = heard.split(' ').next().expect("a number");
                        assert_ne!(call, "garbage", "seed {seed}");
                        ended.push(call.parse::<u32>().expect("a number"));
                    }
                }
            }
        }
        ended.extend(fail(&mut backend, at(400), &Why::Garbage));
        retries += backend.figures().retries.get();
        let expected: Vec<u32> = (2..next).collect();
        let got: Vec<u32> = ended.iter().map(|call| call / 2).collect();
        assert_eq!(got, expected, "seed {seed}");
        for (line, count) in whole {
            if line.trim().parse::<u32>().is_ok_and(|call| call % 2 == 0) {
                assert_eq!(count, 1, "seed {seed}: {line}");
            }
        }
    }
    assert!(retries > 300, "{retries} connections were made good");
}
