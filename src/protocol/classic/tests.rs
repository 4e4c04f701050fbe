//! The request side against what memcached 1.6.18 answers, and against noise.

use super::*;
use crate::protocol::{ArithVerb, GetVerb, Request, StoreVerb};

/// Parses one whole line.
fn whole(input: &[u8]) -> Result<Request<'_>, Reject> {
    match parse(input) {
        Parsed::Done { value, used } => {
            assert_eq!(used, input.len());
            Ok(value)
        }
        Parsed::Reject { reject, used } => {
            assert_eq!(used, input.len());
            Err(reject)
        }
        Parsed::Incomplete => panic!("incomplete: {:?}", String::from_utf8_lossy(input)),
    }
}

fn refused(input: &[u8], line: &[u8]) {
    let reject = match whole(input) {
        Err(reject) => reject,
        Ok(request) => panic!("{:?} gave {request:?}", String::from_utf8_lossy(input)),
    };
    assert_eq!(reject.line, line, "{:?}", String::from_utf8_lossy(input));
    assert!(!reject.close);
}

fn keys<'a>(request: &Request<'a>) -> Vec<Result<&'a [u8], Reject>> {
    match request {
        Request::Get { keys, .. } => keys.clone().collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn gets_take_any_number_of_keys() {
    let get = whole(b"get a  bb ccc \r\n").unwrap();
    assert_eq!(keys(&get), [Ok(&b"a"[..]), Ok(b"bb"), Ok(b"ccc")]);
    assert!(matches!(get, Request::Get { verb: GetVerb::Get, more: false, .. }));
    let get = whole(b" gets a\n").unwrap();
    assert!(matches!(get, Request::Get { verb: GetVerb::Gets, .. }));
    let Request::Get { keys: one, .. } = get else { panic!() };
    assert_eq!(one.single(), Some(&b"a"[..]));
    let gat = whole(b"gats -1 a\0b c\r\n").unwrap();
    assert!(matches!(gat, Request::Get { verb: GetVerb::Gats, exptime: -1, .. }));
    assert_eq!(keys(&gat), [Ok(&b"a"[..])], "a line ends at a NUL");
    refused(b"gat 1\r\n", reject::BAD_FORMAT);
    refused(b"gets \r\n", reject::BAD_FORMAT);

    let long = [b'k'; KEY_MAX + 1];
    let line = [b"get a ", &long[..], b" b\r\n"].concat();
    let refusal = Err(Reject::line(reject::BAD_FORMAT));
    assert_eq!(keys(&whole(&line).unwrap()), [Ok(&b"a"[..]), refusal]);
    let line = [b"get ", &long[1..], b"\r\n"].concat();
    assert_eq!(keys(&whole(&line).unwrap()), [Ok(&long[1..])]);
}

#[test]
fn a_long_get_comes_in_portions() {
    let mut input = b"gat 7".to_vec();
    let mut sent = Vec::new();
    while input.len() < 3 * GET_LINE_MAX {
        let key = format!("key:{}", sent.len()).into_bytes();
        input.push(b' ');
        input.extend_from_slice(&key);
        sent.push(key);
    }
    assert_eq!(parse(&input[..GET_LINE_MAX]), Parsed::Incomplete);
    let Parsed::Done { value, mut used } = parse(&input[..GET_LINE_MAX + 1]) else { panic!() };
    let Request::Get { verb: GetVerb::Gat, exptime: 7, keys, more: true } = value else { panic!() };
    let mut seen: Vec<Vec<u8>> = keys.map(|key| key.unwrap().to_vec()).collect();
    input.extend_from_slice(b"\r\nversion\r\n");
    let mut bytes = GET_LINE_MAX + 1;
    loop {
        bytes = (bytes + 1000).min(input.len());
        match parse_more_keys(&input[used..bytes]) {
            Parsed::Incomplete => assert!(bytes < input.len()),
            Parsed::Reject { reject, .. } => panic!("{reject:?}"),
            Parsed::Done { value: MoreKeys { keys, more }, used: n } => {
                used += n;
                seen.extend(keys.map(|key| key.unwrap().to_vec()));
                if !more {
                    break;
                }
            }
        }
    }
    assert_eq!(seen, sent);
    assert_eq!(&input[used..], b"version\r\n");
}

#[test]
fn lines_that_never_end_close_the_connection() {
    let close = |reject: Reject| assert!(reject.close, "{reject:?}");
    for noise in [&b"x"[..], b" ", b"set ", b"mg "] {
        let mut input = noise.to_vec();
        input.resize(LINE_MAX, b'y');
        assert_eq!(parse(&input), Parsed::Incomplete);
        input.push(b'y');
        let Parsed::Reject { reject, used } = parse(&input) else { panic!() };
        assert_eq!((reject.line, used), (&b""[..], input.len()));
        close(reject);
    }
    // With its end at hand, too, where memcached would have read up to there.
    for (len, known) in [(16 * 1024, true), (16 * 1024 + 1, false)] {
        let mut input = b"set ".to_vec();
        input.resize(len - 1, b'y');
        input.extend(b"\nversion\r\n");
        let Parsed::Reject { reject, used } = parse(&input) else { panic!() };
        assert_eq!((reject.close, used), (!known, if known { len } else { input.len() }));
        input[..4].copy_from_slice(b"get ");
        let Parsed::Done { used, .. } = parse(&input) else { panic!() };
        assert_eq!(used, len);
    }
    for get in [&b"get "[..], b"get a "] {
        let mut input = get.to_vec();
        input.resize(GET_LINE_MAX, b'y');
        assert_eq!(parse(&input), Parsed::Incomplete);
        input.push(b'y');
        let Parsed::Reject { reject, .. } = parse(&input) else { panic!() };
        assert_eq!(reject.line, reject::BAD_FORMAT);
        close(reject);
        let Parsed::Reject { reject, .. } = parse_more_keys(&input) else { panic!() };
        close(reject);
    }
    let mut input = vec![b' '; LEADING];
    input.extend_from_slice(b"get ");
    input.resize(LINE_MAX + 1, b'y');
    assert!(matches!(parse(&input), Parsed::Reject { .. }));
    assert_eq!(parse(&input[1..]), Parsed::Incomplete);
}

/// One blank more than memcached takes before a long get.
const LEADING: usize = 101;

#[test]
fn storage_commands() {
    let head = StoreHead {
        verb: StoreVerb::Set,
        key: b"k",
        flags: 7,
        exptime: -3,
        len: 5,
        noreply: false,
    };
    assert_eq!(whole(b"set k 7 -3 5\r\n"), Ok(Request::Store(head)));
    assert_eq!(whole(b"set k 7 -3 5 other\r\n"), Ok(Request::Store(head)));
    let quiet = StoreHead { noreply: true, ..head };
    assert_eq!(whole(b"set k 7 -3 5 noreply\r\n"), Ok(Request::Store(quiet)));
    let cas = StoreHead { verb: StoreVerb::Cas(u64::MAX), ..quiet };
    let line = b"cas k 7 -3 5 18446744073709551615 noreply\r\n";
    assert_eq!(whole(line), Ok(Request::Store(cas)));
    for (name, verb) in [
        ("add", StoreVerb::Add),
        ("replace", StoreVerb::Replace),
        ("append", StoreVerb::Append),
        ("prepend", StoreVerb::Prepend),
    ] {
        let line = format!("{name} k 7 -3 5\n");
        assert_eq!(whole(line.as_bytes()), Ok(Request::Store(StoreHead { verb, ..head })));
    }
    let Ok(Request::Store(wrapped)) = whole(b"set k 4294967297 0 0\r\n") else { panic!() };
    assert_eq!(wrapped.flags, 1);
    assert_eq!(whole(b"set k 7 -3 5 a b c d noreply\r\n"), Ok(Request::Store(quiet)));
    refused(b"set k 0 0\r\n", reject::BAD_FORMAT);
    refused(b"set k 0 noreply\r\n", reject::BAD_FORMAT);
    for args in ["0 0 -1", "0 0 2147483646", "0 0 99999999999", "0 0 +1", "0 0 x"] {
        refused(format!("set k {args}\r\n").as_bytes(), reject::BAD_FORMAT);
        refused(format!("set k {args} noreply\r\n").as_bytes(), reject::BAD_FORMAT);
    }
    // Once the length is known its block is dropped, and noreply is heard.
    let swallow = |line| Err(Reject { line, swallow: 3, close: false });
    for args in ["set k -1 0 1", "set k 0 x 1", "set k 1x 0 1", "cas k 0 0 1", "cas k 0 0 1 x"] {
        assert_eq!(whole(format!("{args}\r\n").as_bytes()), swallow(reject::BAD_FORMAT));
        assert_eq!(whole(format!("{args} noreply\r\n").as_bytes()), swallow(b""));
    }
    let long = "k".repeat(KEY_MAX + 1);
    let line = format!("set {long} 0 0 1\r\n");
    assert_eq!(whole(line.as_bytes()), swallow(reject::BAD_FORMAT));
    assert_eq!(too_large(&head), Reject { line: reject::TOO_LARGE, swallow: 7, close: false });
    assert_eq!(no_memory(&quiet), Reject { line: b"", swallow: 7, close: false });
}

#[test]
fn data_blocks() {
    assert_eq!(parse_data(b"ab\r", 2), Parsed::Incomplete);
    assert_eq!(parse_data(b"\r\n\r\nx", 2), Parsed::Done { value: &b"\r\n"[..], used: 4 });
    assert_eq!(parse_data(b"\r\n", 0), Parsed::Done { value: &b""[..], used: 2 });
    let reject = Reject::line(reject::BAD_CHUNK);
    assert_eq!(parse_data(b"abc\r\n", 1), Parsed::Reject { reject, used: 3 });
    assert_eq!(reject.quiet_if(true).line, b"");
}

#[test]
fn commands_with_a_key_and_a_number() {
    let incr = |noreply| Request::Arith { verb: ArithVerb::Incr, key: b"k", delta: 1, noreply };
    assert_eq!(whole(b"incr k 1\r\n"), Ok(incr(false)));
    assert_eq!(whole(b"incr k 1 else\r\n"), Ok(incr(false)));
    assert_eq!(whole(b"incr k 1 noreply\r\n"), Ok(incr(true)));
    refused(b"incr k\r\n", reject::BAD_FORMAT);
    assert_eq!(whole(b"incr k 1 2 3\r\n"), Ok(incr(false)));
    refused(b"decr k -1\r\n", reject::BAD_DELTA);
    refused(b"decr k +1\r\n", reject::BAD_DELTA);
    refused(b"incr k noreply\r\n", b"");
    let touch = Request::Touch { key: b"k", exptime: -9, noreply: false };
    assert_eq!(whole(b"touch k -9\r\n"), Ok(touch));
    refused(b"touch k x\r\n", reject::BAD_EXPTIME);
    refused(b"gat x k\r\n", reject::BAD_EXPTIME);
    let long = "k".repeat(KEY_MAX + 1);
    for verb in ["incr", "decr", "touch"] {
        refused(format!("{verb} {long} 1\r\n").as_bytes(), reject::BAD_FORMAT);
        refused(format!("{verb} {long} 1 noreply\r\n").as_bytes(), b"");
    }
}

#[test]
fn delete_takes_the_old_zero() {
    let delete = |noreply| Ok(Request::Delete { key: b"k", noreply });
    assert_eq!(whole(b"delete k\r\n"), delete(false));
    assert_eq!(whole(b"delete k 0\r\n"), delete(false));
    assert_eq!(whole(b"delete k noreply\r\n"), delete(true));
    assert_eq!(whole(b"delete k 0 noreply\r\n"), delete(true));
    refused(b"delete k 1\r\n", reject::BAD_DELETE);
    refused(b"delete k 0 0\r\n", reject::BAD_DELETE);
    refused(b"delete k noreply 0\r\n", reject::BAD_DELETE);
    refused(b"delete k 1 noreply\r\n", b"");
    refused(b"delete\r\n", reject::BAD_FORMAT);
}

#[test]
fn the_other_commands() {
    let flush = |delay, noreply| Ok(Request::FlushAll { delay, noreply });
    assert_eq!(whole(b"flush_all\r\n"), flush(0, false));
    assert_eq!(whole(b"flush_all noreply\r\n"), flush(0, true));
    assert_eq!(whole(b"flush_all 5\r\n"), flush(5, false));
    assert_eq!(whole(b"flush_all 5 noreply\r\n"), flush(5, true));
    assert_eq!(whole(b"flush_all 5 else\r\n"), flush(5, false));
    let bad_flush = |noreply| Ok(Request::BadFlush { noreply });
    assert_eq!(whole(b"flush_all x\r\n"), bad_flush(false));
    assert_eq!(whole(b"flush_all noreply noreply\r\n"), bad_flush(true));
    assert_eq!(whole(b"flush_all 1 2 3\r\n"), flush(1, false));
    let verbosity = |level, noreply| Ok(Request::Verbosity { level, noreply });
    assert_eq!(whole(b"verbosity 1\r\n"), verbosity(1, false));
    assert_eq!(whole(b"verbosity 2 noreply\r\n"), verbosity(2, true));
    refused(b"verbosity\r\n", reject::BAD_FORMAT);
    refused(b"verbosity x\r\n", reject::BAD_FORMAT);
    assert_eq!(whole(b"version x\r\n"), Ok(Request::Version));
    assert_eq!(whole(b"quit x\r\n"), Ok(Request::Quit));
    assert_eq!(whole(b"stats\r\n"), Ok(Request::Stats { args: b"" }));
    assert_eq!(whole(b"stats  a  b \r\n"), Ok(Request::Stats { args: b"a  b" }));
    let shutdown = |graceful, noreply| Ok(Request::Shutdown { graceful, noreply });
    assert_eq!(whole(b"shutdown\r\n"), shutdown(Some(false), false));
    assert_eq!(whole(b"shutdown graceful\r\n"), shutdown(Some(true), false));
    assert_eq!(whole(b"shutdown noreply\r\n"), shutdown(None, true));
    assert_eq!(whole(b"lru  mode x\r\n"), Ok(Request::Admin { line: b"lru  mode x" }));
    assert_eq!(whole(b"mn\r\n"), Ok(Request::MetaNoop));
    for line in ["xy\r\n", " m\r\n", "\0\0\r\n", "GET a\r\n", "get\ta\r\n"] {
        refused(line.as_bytes(), reject::ERROR);
    }
    for line in ["\r\n", "\n", " \r\n", "\0\r\n", "x\r\n", "xy\n", "mn\n"] {
        refused(line.as_bytes(), reject::BAD_FORMAT);
    }
}

/// A small generator for the tests below: the same seed, the same run.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

const LINES: [&[u8]; 20] = [
    b"get a\r\n",
    b"gets key1 key2 key3\r\n",
    b"gat 10 a b\r\n",
    b"set a 1 2 3\r\nabc\r\n",
    b"add a 1 -2 0 noreply\r\n\r\n",
    b"cas k 0 0 2 99\r\nxy\r\n",
    b"append k 0 0 1\r\nabc\r\n",
    b"delete k\r\n",
    b"delete k 0 noreply\r\n",
    b"incr n 18446744073709551615\r\n",
    b"decr n 1 noreply\r\n",
    b"touch k 100\r\n",
    b"flush_all 1 noreply\r\n",
    b"verbosity 1\r\n",
    b"stats settings\r\n",
    b"version\r\n",
    b"mn\r\n",
    b"mg k v t O7\r\n",
    b"ms k 4 T0\r\nabcd\r\n",
    b"VALUE a 0 3\r\nabc\r\nEND\r\n",
];

/// Runs a stream through the parsers as a connection would, and writes down all that came out.
/// `cuts` says how many bytes arrive at a time.
fn stream(input: &[u8], mut cuts: impl FnMut() -> usize) -> Vec<String> {
    let mut events = Vec::new();
    let (mut at, mut arrived) = (0, 0);
    let mut waiting: Option<u32> = None;
    let mut swallow = 0u64;
    loop {
        let data = &input[at..arrived];
        let dropped = swallow.min(data.len() as u64);
        if dropped > 0 {
            swallow -= dropped;
            at += dropped as usize;
            continue;
        }
        // Progress, or the loop would not end: every event takes at least one byte.
        let (event, used, len, close) = match waiting {
            Some(len) => match parse_data(data, len) {
                Parsed::Incomplete => (None, 0, None, false),
                Parsed::Done { value, used } => (Some(format!("{value:?}")), used, None, false),
                Parsed::Reject { reject, used } => (Some(format!("{reject:?}")), used, None, false),
            },
            None => match parse(data) {
                Parsed::Incomplete => (None, 0, None, false),
                Parsed::Done { value, used } => {
                    let len = match &value {
                        Request::Store(head) => Some(head.len),
                        Request::MetaSet { len, .. } => Some(*len),
                        _ => None,
                    };
                    (Some(format!("{value:?}")), used, len, false)
                }
                Parsed::Reject { reject, used } => {
                    swallow = reject.swallow;
                    (Some(format!("{reject:?}")), used, None, reject.close)
                }
            },
        };
        if let Some(event) = event {
            assert!(used > 0 && used <= data.len());
            events.push(event);
            at += used;
            waiting = len;
            if close {
                return events;
            }
        } else if arrived == input.len() {
            return events;
        } else {
            arrived = (arrived + cuts().max(1)).min(input.len());
        }
    }
}

/// Some lines, some of them damaged.
fn noise(rng: &mut Rng) -> Vec<u8> {
    let mut input = Vec::new();
    for _ in 0..1 + rng.below(12) {
        let from = input.len();
        if rng.below(10) == 0 {
            input.extend((0..rng.below(60)).map(|_| 0).collect::<Vec<u8>>());
            input[from..].iter_mut().for_each(|byte| *byte = rng.next() as u8);
        } else {
            input.extend_from_slice(LINES[rng.below(LINES.len())]);
        }
        for _ in 0..rng.below(3) {
            let len = input.len() - from;
            if len == 0 {
                continue;
            }
            let at = from + rng.below(len);
            match rng.below(3) {
                0 => input[at] = b"\r\n \0\t-+9\xff"[rng.below(9)],
                1 => drop(input.remove(at)),
                _ => input.insert(at, rng.next() as u8),
            }
        }
    }
    input
}

#[test]
fn noise_makes_progress_and_cuts_do_not_matter() {
    for seed in 1..4000u64 {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let input = noise(&mut rng);
        let all = stream(&input, || usize::MAX / 2);
        let single = stream(&input, || 1);
        let random = stream(&input, || 1 + rng.below(20));
        assert_eq!(all, single, "seed {seed}");
        assert_eq!(all, random, "seed {seed}");
        for at in 0..input.len() {
            let _ = parse_reply(&input[at..]);
            let _ = parse_more_keys(&input[at..]);
        }
    }
}

#[test]
fn requests_survive_the_way_out_and_back() {
    let mut seen = 0;
    for seed in 1..4000u64 {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let input = noise(&mut rng);
        let Parsed::Done { value, .. } = parse(&input) else { continue };
        let mut bytes = Vec::new();
        encode::request(&mut bytes, &value);
        let Parsed::Done { value: again, used } = parse(&bytes) else {
            panic!("seed {seed}: {value:?} became {bytes:?}");
        };
        assert_eq!(used, bytes.len(), "seed {seed}");
        let mut twice = Vec::new();
        encode::request(&mut twice, &again);
        assert_eq!(bytes, twice, "seed {seed}");
        if let (Request::Get { .. }, Request::Get { .. }) = (&value, &again) {
            assert_eq!(keys(&value), keys(&again), "seed {seed}");
        } else {
            assert_eq!(value, again, "seed {seed}");
        }
        seen += 1;
    }
    assert!(seen > 1000, "only {seen} requests");
}

#[test]
fn a_shutdown_that_was_refused_is_not_written_as_one() {
    let unknown = Request::Shutdown { graceful: None, noreply: false };
    assert_eq!(whole(b"shutdown now\r\n"), Ok(unknown.clone()));
    let mut line = Vec::new();
    encode::request(&mut line, &unknown);
    assert_eq!(whole(&line), Ok(unknown));
}
