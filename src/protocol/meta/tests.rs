//! Tests of the meta commands: what is understood, what is refused and how, what is answered.

use super::*;
use crate::protocol::classic;
use crate::protocol::reject::{self, Reject};
use crate::protocol::{Parsed, Request};

fn whole(line: &[u8]) -> Result<Request<'_>, Reject> {
    match classic::parse(line) {
        Parsed::Done { value, used } => {
            assert_eq!(used, line.len());
            Ok(value)
        }
        Parsed::Reject { reject, used } => {
            assert_eq!(used, line.len());
            Err(reject)
        }
        Parsed::Incomplete => panic!("{:?} is not whole", line.escape_ascii().to_string()),
    }
}

fn refused(line: &[u8]) -> &'static [u8] {
    whole(line).unwrap_err().line
}

fn get(flags: &[u8]) -> Meta<'_> {
    Meta::parse(Verb::Get, b"foo", flags).unwrap()
}

fn fault(verb: Verb, flags: &[u8]) -> &'static [u8] {
    Meta::parse(verb, b"foo", flags).unwrap_err().line
}

#[test]
fn lines_have_a_key_and_flags() {
    assert_eq!(whole(b"mn\r\n"), Ok(Request::MetaNoop));
    assert_eq!(whole(b"mn x\n"), Ok(Request::MetaNoop));
    let get = |key, flags| Ok(Request::MetaGet { key, flags });
    assert_eq!(whole(b"mg k v  t \r\n"), get(b"k", b"v  t"));
    assert_eq!(whole(b"mg  a\rb\r\n"), get(b"a\rb", b""));
    assert_eq!(whole(b"mg a\0b k\r\n"), get(b"a\0b", b"k"));
    let set = |len, flags| Ok(Request::MetaSet { key: b"k", len, flags });
    assert_eq!(whole(b"ms k 2 T0\r\n"), set(2, b"T0"));
    assert_eq!(whole(b"ms k 002\r\n"), set(2, b""));
    assert_eq!(whole(b"ms k -\r\n"), set(0, b""));
    assert_eq!(whole(b"ms k 2147483645\r\n"), set(2_147_483_645, b""));
    assert_eq!(whole(b"md k q\r\n"), Ok(Request::MetaDelete { key: b"k", flags: b"q" }));
    assert_eq!(whole(b"ma k 1\r\n"), Ok(Request::MetaArith { key: b"k", flags: b"1" }));
    assert_eq!(whole(b"me k b\r\n"), Ok(Request::MetaDebug { key: b"k", flags: b"b" }));
}

#[test]
fn lines_are_refused_as_memcached_does() {
    for line in ["mg\r\n", "md \r\n", "ma\r\n", "me\r\n", "ms\r\n", "ms k\r\n", "mn\n", "\r\n"] {
        assert_eq!(refused(line.as_bytes()), reject::BAD_FORMAT, "{line:?}");
    }
    for line in ["mx k\r\n", " mg k\r\n", "mgg k\r\n", "mg\tk\r\n", "mn\t\r\n"] {
        assert_eq!(refused(line.as_bytes()), reject::ERROR, "{line:?}");
    }
    // What the tokenizer takes for no flag, as far as it looks.
    for flag in [&b"!"[..], b"{", b"\xff", b"\x7f", b"\0", b"-"] {
        let line = [b"mg k v ", flag, b"\r\n"].concat();
        assert_eq!(refused(&line), reject::BAD_FORMAT, "{flag:?}");
    }
    assert!(whole(&[&b"mg k"[..], &b" v".repeat(21), b" !\r\n"].concat()).is_ok());
    let last = [&b"mg k"[..], &b" v".repeat(20), b" !\r\n"].concat();
    assert_eq!(refused(&last), reject::BAD_FORMAT);
    // Of an ms the block is dropped where its length is known and believed.
    let set = |line: &[u8]| whole(line).unwrap_err();
    for line in ["ms k x\r\n", "ms k -1\r\n", "ms k +2\r\n", "ms k S2\r\n", "ms k 2 !\r\n"] {
        assert_eq!(set(line.as_bytes()), Reject::line(reject::BAD_FORMAT), "{line:?}");
    }
    for len in ["2147483646", "2147483648", "4294967297", "000000000002"] {
        assert_eq!(set(format!("ms k {len}\r\n").as_bytes()), Reject::line(reject::BAD_FORMAT));
    }
    let long = "k".repeat(251);
    let reject = Reject { swallow: 4, ..Reject::line(reject::BAD_FORMAT) };
    assert_eq!(set(format!("ms {long} 2\r\n").as_bytes()), reject);
    assert_eq!(refused(format!("mg {long}\r\n").as_bytes()), reject::BAD_FORMAT);
    assert_eq!(refused(format!("ma {long}\r\n").as_bytes()), reject::META_ANY);
    assert_eq!(refused(format!("ma {long} !\r\n").as_bytes()), reject::BAD_FORMAT);
}

#[test]
fn all_flags_are_understood() {
    let meta = get(b"v q u I x T-1 N30 R0 C18446744073709551615 E0 F4294967295 J7 D9 MZ k P L");
    assert!(meta.value && meta.quiet && meta.no_update && meta.stale && meta.remove_value);
    assert_eq!((meta.touch, meta.vivify, meta.recache), (Some(-1), Some(30), Some(0)));
    assert_eq!((meta.compare, meta.cas), (Some(u64::MAX), Some(0)));
    assert_eq!((meta.client_flags, meta.initial, meta.delta), (u32::MAX, 7, 9));
    assert!(meta.has(b'k') && !meta.has(b'b'));
    assert!(meta.in_order(b'T', b'R') && !meta.in_order(b'R', b'T') && meta.in_order(b'k', b'O'));
    assert_eq!((get(b"").delta, get(b"T-").touch), (1, Some(0)));
    // Words behind a flag that takes none are read over.
    assert!(get(b"vv k9").value);
    assert_eq!(Meta::parse(Verb::Get, b"Zm9v", b"k b").unwrap().key.as_bytes(), b"foo");
    assert_eq!(debug_key(b"Zm9v", b"b").unwrap().as_bytes(), b"foo");
    assert_eq!(debug_key(b"Zm9v", b"bb b").unwrap().as_bytes(), b"Zm9v");
    assert_eq!(debug_key(b"foo", b"b").unwrap_err().line, reject::BAD_FORMAT);
}

#[test]
fn modes_are_single_capital_letters() {
    let set = |flags| Meta::parse(Verb::Set, b"k", flags).map(|meta| meta.set_mode());
    assert_eq!(set(b""), Ok(SetMode::Set));
    assert_eq!(set(b"M\0"), Ok(SetMode::Set));
    for (flag, mode) in [
        (&b"MS"[..], SetMode::Set),
        (b"ME", SetMode::Add),
        (b"MAppend", SetMode::Append),
        (b"MP", SetMode::Prepend),
        (b"MR", SetMode::Replace),
    ] {
        assert_eq!(set(flag), Ok(mode));
    }
    for flag in [&b"M"[..], b"Ms", b"Ma", b"MI", b"M+"] {
        assert_eq!(set(flag).unwrap_err().line, reject::META_SET_MODE, "{flag:?}");
    }
    let arith = |flags| Meta::parse(Verb::Arith, b"k", flags).map(|meta| meta.arith_mode());
    for (flag, mode) in [
        (&b""[..], ArithMode::Incr),
        (b"MI", ArithMode::Incr),
        (b"M+", ArithMode::Incr),
        (b"MD", ArithMode::Decr),
        (b"M-", ArithMode::Decr),
    ] {
        assert_eq!(arith(flag), Ok(mode));
    }
    for flag in [&b"M"[..], b"Mi", b"Md", b"MS"] {
        assert_eq!(arith(flag).unwrap_err().line, reject::META_ARITH_MODE, "{flag:?}");
    }
    assert!(Meta::parse(Verb::Delete, b"k", b"M").is_ok());
}

#[test]
fn faults_are_found_in_the_order_of_memcached() {
    let of_get = |flags: &[u8]| fault(Verb::Get, flags);
    assert_eq!(of_get(b"v v"), reject::META_DUPLICATE);
    assert_eq!(of_get(b"b z"), reject::META_FLAG);
    for flag in ["S2", "5", "_", "z"] {
        assert_eq!(of_get(flag.as_bytes()), reject::META_FLAG, "{flag}");
    }
    for flag in ["T", "Tx", "T+5", "T2147483648", "N", "R", "C", "C-1", "E", "Ex"] {
        assert_eq!(of_get(flag.as_bytes()), reject::META_TOKEN, "{flag}");
    }
    assert_eq!(of_get(b"b"), b"CLIENT_ERROR error decoding key\r\n".as_slice());
    // Of those that can be told last, the last one is, but F has no text of its own.
    assert_eq!(of_get(b"b Jx"), reject::META_INITIAL);
    assert_eq!(of_get(b"Jx D"), reject::META_DELTA);
    assert_eq!(of_get(b"Dx b"), reject::META_KEY);
    assert_eq!(of_get(b"F"), reject::BAD_FORMAT);
    assert_eq!(of_get(b"F4294967296 Tx"), reject::META_TOKEN);
    assert_eq!(of_get(b"Tx Fx"), reject::META_TOKEN);
    assert_eq!(fault(Verb::Arith, b"v v"), reject::META_ANY);
    assert_eq!(fault(Verb::Arith, b"Tx MX"), reject::META_ANY);
    assert_eq!(fault(Verb::Set, b"T0 T0 MX"), reject::META_DUPLICATE);
    let eighteen = b"v k s t c f l h u q O P L T0 N1 R1 I x";
    assert!(Meta::parse(Verb::Get, b"k", eighteen).is_ok());
    assert_eq!(fault(Verb::Set, eighteen), reject::META_TOO_MANY);
    assert_eq!(of_get(&[&eighteen[..], b" v"].concat()), reject::META_TOO_MANY);
    let (longest, long) = ([b'O'; 32], [b'O'; 33]);
    assert!(!get(&longest).opaque_too_long && get(&long).opaque_too_long);
    assert_eq!(fault(Verb::Delete, &long), reject::META_OPAQUE);
}

const HIT: Hit = Hit {
    binary_key: false,
    flags: 7,
    cas: 22,
    len: 3,
    ttl: None,
    fetched: true,
    last_access_secs: 4,
    created: false,
    sent: false,
    stale: false,
    won: false,
};

fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    String::from_utf8(out).unwrap()
}

/// An exptime as it is: 0 for ever.
fn ttl(raw: i64) -> Option<u32> {
    u32::try_from(raw).ok().filter(|&secs| secs > 0)
}

fn hit(key: &[u8], flags: &[u8], hit: &Hit) -> String {
    let meta = Meta::parse(Verb::Get, key, flags).unwrap();
    written(|out| {
        meta.encode_hit(out, hit, ttl);
    })
}

#[test]
fn a_hit_tells_what_was_asked_in_the_order_it_was_asked() {
    let all = b"s t c f l  h k O123 v";
    assert_eq!(hit(b"foo", all, &HIT), "VA 3 s3 t-1 c22 f7 l4 h1 kfoo O123\r\n");
    assert_eq!(hit(b"foo", b"", &HIT), "HD\r\n");
    let item = Hit { ttl: Some(99), flags: u32::MAX, ..HIT };
    assert_eq!(hit(b"foo", b"q t f u P1 L2", &item), "HD t99 f4294967295\r\n");
    assert_eq!(hit(b"foo", b"t T30", &item), "HD t99\r\n");
    assert_eq!(hit(b"foo", b"T30 t", &item), "HD t30\r\n");
    assert_eq!(hit(b"foo", b"T0 t", &item), "HD t-1\r\n");
    assert_eq!(hit(b"foo", b"N30 t", &item), "HD t99\r\n");
    let made = Hit { created: true, won: true, ..HIT };
    assert_eq!(hit(b"foo", b"N30 t", &made), "HD t30 W\r\n");
    assert_eq!(hit(b"foo", b"t N30", &made), "HD t-1 W\r\n");
    assert_eq!(hit(b"foo", b"T5 N30 t", &made), "HD t30 W\r\n");
    assert_eq!(hit(b"foo", b"v c C22", &HIT), "HD c22\r\n");
    assert_eq!(hit(b"foo", b"v c C21", &HIT), "VA 3 c22\r\n");
    let stale = Hit { sent: true, stale: true, ..HIT };
    assert_eq!(hit(b"foo", b"h", &stale), "HD h1 Z X\r\n");
    assert_eq!(hit(b"foo", b"", &Hit { stale: true, won: true, ..HIT }), "HD X W\r\n");
}

#[test]
fn keys_come_back_as_they_were_stored() {
    assert_eq!(hit(b"Zm9v", b"b k", &HIT), "HD kfoo\r\n");
    assert_eq!(hit(b"Zm9v", b"b k", &Hit { binary_key: true, ..HIT }), "HD kZm9v b\r\n");
    assert_eq!(hit(b"YSBi", b"b k", &HIT), "HD kYSBi b\r\n");
    assert_eq!(hit(b"YQpi", b"b k", &HIT), "HD kYQpi b\r\n");
    let miss = |key, flags| {
        let meta = Meta::parse(Verb::Get, key, flags).unwrap();
        written(|out| meta.encode_miss(out))
    };
    assert_eq!(miss(b"foo", b"v s t"), "EN\r\n");
    assert_eq!(miss(b"foo", b"k O1 v q"), "");
    assert_eq!(miss(b"foo", b"O1 k"), "EN O1 kfoo\r\n");
    assert_eq!(miss(b"Zh==", b"b k"), "EN kZg== b\r\n");
}

#[test]
fn the_other_commands_answer() {
    let set = |flags: &'static [u8], status, cas, len| {
        let meta = Meta::parse(Verb::Set, b"foo", flags).unwrap();
        written(|out| meta.encode_set(out, status, cas, len))
    };
    assert_eq!(set(b"k c s O9", Status::Done, 5, 2), "HD kfoo c5 s2 O9\r\n");
    assert_eq!(set(b"q c", Status::Done, 5, 2), "");
    assert_eq!(set(b"q c s", Status::Exists, 5, 2), "EX c0 s2\r\n");
    assert_eq!(set(b"t f v", Status::NotStored, 5, 2), "NS\r\n");
    let delete = |flags: &'static [u8], status| {
        let meta = Meta::parse(Verb::Delete, b"Zm9v", flags).unwrap();
        written(|out| meta.encode_status(out, status))
    };
    assert_eq!(delete(b"k O1 c", Status::Done), "HD kZm9v O1\r\n");
    assert_eq!(delete(b"b k q", Status::NotFound), "NF kZm9v b\r\n");
    assert_eq!(delete(b"k q", Status::Done), "");
    let arith = |flags: &'static [u8], number: Number| {
        let meta = Meta::parse(Verb::Arith, b"foo", flags).unwrap();
        written(|out| meta.encode_number(out, &number, ttl))
    };
    let number = Number { value: 107, cas: 5, ttl: Some(9), created: false };
    assert_eq!(arith(b"", number), "HD\r\n");
    assert_eq!(arith(b"v t T0 c k O1 s", number), "VA 3 t9 c5 kfoo O1\r\n107\r\n");
    assert_eq!(arith(b"T0 t N8", number), "HD t-1\r\n");
    assert_eq!(arith(b"N8 t", Number { created: true, ..number }), "HD t8\r\n");
    assert_eq!(arith(b"v q", number), "");
    let item = Debugged {
        key: b"foo",
        binary_key: true,
        ttl: None,
        last_access_secs: 3,
        cas: 4,
        fetched: false,
        class: 2,
        size: 60,
    };
    let line = written(|out| encode_debug(out, &item));
    assert_eq!(line, "ME Zm9v exp=-1 la=3 cas=4 fetch=no cls=2 size=60\r\n");
    let item = Debugged { ttl: Some(8), fetched: true, binary_key: false, ..item };
    let line = written(|out| encode_debug(out, &item));
    assert_eq!(line, "ME foo exp=8 la=3 cas=4 fetch=yes cls=2 size=60\r\n");
}
