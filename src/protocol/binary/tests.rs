//! Packets as bytes: what is taken, what is refused and how, what goes out.

use super::*;

/// A request, with the lengths that belong to it.
fn packet(opcode: u8, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    let body = extras.len() + key.len() + value.len();
    let mut out = header(opcode, extras.len() as u8, key.len() as u16, body as u32);
    out.extend([extras, key, value].concat());
    out
}

fn header(opcode: u8, extras: u8, key: u16, body: u32) -> Vec<u8> {
    let mut out = vec![REQUEST, opcode];
    out.extend(key.to_be_bytes());
    out.extend([extras, 0, 0, 0]);
    out.extend(body.to_be_bytes());
    out.extend(b"mark");
    out.extend(0x0102_0304_0506_0708u64.to_be_bytes());
    out
}

fn frame(bytes: &[u8]) -> Frame<'_> {
    match parse(bytes) {
        Framed::Frame(frame) => frame,
        other => panic!("{other:?}"),
    }
}

/// All refusals, in the order in which a server looks for them.
fn ask(bytes: &[u8]) -> Result<Request<'_>, Refusal> {
    let frame = frame(bytes);
    frame.check()?;
    frame.request()
}

#[test]
fn a_frame_waits_for_header_extras_and_key_but_not_for_the_value() {
    let whole = packet(opcode::SET, &[0; 8], b"key", b"value");
    for end in 0..HEADER + 11 {
        assert_eq!(parse(&whole[..end]), Framed::Incomplete, "{end}");
    }
    let short = &whole[..HEADER + 11];
    let request = ask(short).expect("a request");
    assert_eq!(frame(short).used, short.len());
    assert_eq!(request.head.opaque, *b"mark");
    assert_eq!(request.head.cas, 0x0102_0304_0506_0708);
    let Command::Store(head) = request.command else { panic!("{request:?}") };
    assert_eq!((head.verb, head.key, head.len), (StoreVerb::Set, &b"key"[..], 5));
}

#[test]
fn another_first_byte_is_no_request() {
    let mut bytes = packet(opcode::NOOP, b"", b"", b"");
    bytes[0] = RESPONSE;
    assert_eq!(parse(&bytes[..23]), Framed::Incomplete);
    assert_eq!(parse(&bytes), Framed::BadMagic);
}

#[test]
fn extras_are_read_in_network_order() {
    let set = packet(opcode::REPLACE, &[1, 2, 3, 4, 0xff, 0xff, 0xff, 0xff], b"k", b"");
    let Ok(Request { command: Command::Store(head), quiet: false, .. }) = ask(&set) else {
        panic!("a replace")
    };
    assert_eq!((head.flags, head.exptime), (0x0102_0304, 0xffff_ffff));

    let extras = [0u64.to_be_bytes(), 7u64.to_be_bytes()].concat();
    let create = [&extras[..], &9u32.to_be_bytes()].concat();
    let arith = packet(opcode::DECREMENTQ, &create, b"k", b"");
    let wanted =
        Command::Arith { verb: ArithVerb::Decr, key: b"k", delta: 0, create: Some((7, 9)) };
    let got = ask(&arith).expect("a decrement");
    assert!(got.quiet);
    assert_eq!(got.command, wanted);
    let none = [&extras[..], &u32::MAX.to_be_bytes()].concat();
    let arith = packet(opcode::INCREMENT, &none, b"k", b"");
    let wanted = Command::Arith { verb: ArithVerb::Incr, key: b"k", delta: 0, create: None };
    assert_eq!(ask(&arith).expect("an increment").command, wanted);
}

#[test]
fn every_quiet_opcode_asks_what_its_loud_twin_asks() {
    use opcode::*;
    let twins: &[(u8, u8, usize, usize)] = &[
        (GET, GETQ, 0, 3),
        (GETK, GETKQ, 0, 3),
        (GAT, GATQ, 4, 3),
        (GATK, GATKQ, 4, 3),
        (SET, SETQ, 8, 3),
        (ADD, ADDQ, 8, 3),
        (REPLACE, REPLACEQ, 8, 3),
        (APPEND, APPENDQ, 0, 3),
        (PREPEND, PREPENDQ, 0, 3),
        (DELETE, DELETEQ, 0, 3),
        (INCREMENT, INCREMENTQ, 20, 3),
        (DECREMENT, DECREMENTQ, 20, 3),
        (FLUSH, FLUSHQ, 4, 0),
        (QUIT, QUITQ, 0, 0),
    ];
    for &(loud, quiet, extras, key) in twins {
        let bytes = |opcode| packet(opcode, &vec![1; extras], &vec![b'k'; key], b"");
        let (a, b) = (bytes(loud), bytes(quiet));
        let (a, b) = (ask(&a).expect("the loud one"), ask(&b).expect("the quiet one"));
        assert_eq!((a.quiet, b.quiet), (false, true), "{loud:#x}");
        let same = match (a.command, b.command) {
            (Command::Store(a), Command::Store(b)) => a == StoreHead { noreply: false, ..b },
            (a, b) => a == b,
        };
        assert!(same, "{loud:#x}");
    }
}

#[test]
fn wrong_lengths_end_the_connection() {
    use opcode::*;
    let closing = Refusal { close: true, ..Refusal::status(Status::Invalid) };
    /// Opcode, extras, key and value.
    type Parts = (u8, &'static [u8], &'static [u8], &'static [u8]);
    let wrong: &[Parts] = &[
        (GET, b"", b"", b""),
        (GET, b"xxxx", b"k", b""),
        (GETKQ, b"", b"k", b"v"),
        (SET, b"", b"k", b"v"),
        (SET, &[0; 8], b"", b"v"),
        (ADD, &[0; 9], b"k", b"v"),
        (APPEND, &[0; 8], b"k", b"v"),
        (PREPEND, b"", b"", b"v"),
        (DELETE, b"", b"k", b"v"),
        (DELETE, b"xxxx", b"k", b""),
        (INCREMENT, &[0; 19], b"k", b""),
        (INCREMENT, &[0; 20], b"k", b"v"),
        (QUIT, b"", b"k", b""),
        (FLUSH, b"xx", b"", b""),
        (FLUSH, b"", b"k", b""),
        (NOOP, b"", b"", b"v"),
        (VERSION, b"", b"k", b""),
        (STAT, b"x", b"", b""),
        (TOUCH, b"", b"k", b""),
        (GAT, b"xxxx", b"", b""),
        (GATKQ, b"xxxxx", b"k", b""),
        (SASL_LIST_MECHS, b"", b"k", b""),
        (SASL_AUTH, b"", b"", b"v"),
        (SASL_STEP, b"x", b"k", b"v"),
    ];
    for (opcode, extras, key, value) in wrong {
        let bytes = packet(*opcode, extras, key, value);
        assert_eq!(ask(&bytes), Err(closing), "{opcode:#x} {extras:?} {key:?} {value:?}");
    }
    // memcached does not look at the value of these.
    assert!(ask(&packet(GAT, b"xxxx", b"k", b"v")).is_ok());
    assert!(ask(&packet(STAT, b"", b"", b"v")).is_ok());
}

#[test]
fn a_body_shorter_than_its_parts_or_longer_than_anything_ends_the_connection() {
    let refusal = |status| Err(Refusal { close: true, ..Refusal::status(status) });
    let mut short = header(opcode::GET, 0, 3, 2);
    short.extend(b"key");
    assert_eq!(ask(&short), refusal(Status::UnknownCommand));
    let mut short = header(opcode::SET, 8, 3, 10);
    short.extend(b"01234567key");
    assert_eq!(ask(&short), refusal(Status::UnknownCommand));
    let mut long = header(opcode::SET, 8, 1, BODY_MAX + 1);
    long.extend(b"01234567k");
    assert_eq!(ask(&long), refusal(Status::Invalid));
    long[8..12].copy_from_slice(&BODY_MAX.to_be_bytes());
    assert!(ask(&long).is_ok());
    long[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(ask(&long), refusal(Status::Invalid));
}

#[test]
fn a_key_too_long_is_dropped_unread() {
    let header = header(opcode::GET, 0, 251, 251);
    let refusal = Refusal { close: true, ..Refusal::status(Status::Invalid) };
    assert_eq!(ask(&header), Err(refusal.swallow(251)));
    assert_eq!(frame(&header).used, HEADER);
    let longest = packet(opcode::GET, b"", &[b'k'; 250], b"");
    assert!(ask(&longest).is_ok());
}

#[test]
fn an_unknown_command_costs_its_body_once_more_as_in_memcached() {
    for opcode in [opcode::VERBOSITY, 0x1f, 0x25, 0x30, 0xff] {
        let bytes = packet(opcode, b"xxxxx", b"key", b"value");
        let refusal = Refusal::status(Status::UnknownCommand).swallow(13);
        assert_eq!(ask(&bytes), Err(refusal), "{opcode:#x}");
    }
    let level = packet(opcode::VERBOSITY, &[0, 0, 0, 2], b"", b"");
    assert_eq!(ask(&level).expect("verbosity").command, Command::Verbosity { level: 2 });
}

#[test]
fn sasl_names_its_mechanism_and_leaves_its_data() {
    let auth = packet(opcode::SASL_AUTH, b"", b"PLAIN", b"\0user\0pass");
    let wanted = Command::Sasl { start: true, mechanism: b"PLAIN", len: 10 };
    assert_eq!(ask(&auth).expect("auth").command, wanted);
    assert!(frame(&auth).needs_no_login());
    let step = packet(opcode::SASL_STEP, b"", b"PLAIN", b"");
    let wanted = Command::Sasl { start: false, mechanism: b"PLAIN", len: 0 };
    assert_eq!(ask(&step).expect("step").command, wanted);
    assert!(!frame(&packet(opcode::NOOP, b"", b"", b"")).needs_no_login());
}

#[test]
fn responses_are_laid_out_as_memcached_lays_them_out() {
    let noop = packet(opcode::NOOP, b"", b"", b"");
    let head = Head { opcode: 0x0d, ..frame(&noop).head };
    let mut out = Vec::new();
    encode::hit(&mut out, &head, 0xdead_beef, b"key", 5, 0x1122);
    let wanted = b"\x81\x0d\0\x03\x04\0\0\0\0\0\0\x0cmark\0\0\0\0\0\0\x11\x22\xde\xad\xbe\xefkey";
    assert_eq!(out.as_slice(), wanted);
    out.clear();
    encode::missed_key(&mut out, &head, b"key");
    assert_eq!(out, b"\x81\x0d\0\x03\0\0\0\x01\0\0\0\x03mark\0\0\0\0\0\0\0\0key");
    out.clear();
    encode::error(&mut out, &head, Status::NoMemory, b"oh");
    assert_eq!(out, b"\x81\x0d\0\0\0\0\0\x82\0\0\0\x02mark\0\0\0\0\0\0\0\0oh");
    out.clear();
    encode::number(&mut out, &head, 10, 3);
    assert_eq!(out[8..12], [0, 0, 0, 8]);
    assert_eq!(out[16..], [0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 10]);
    out.clear();
    encode::stat(&mut out, &head, b"pid", b"17");
    encode::stat(&mut out, &head, b"", b"");
    assert_eq!(out.len(), 2 * HEADER + 5);
    assert_eq!(out[..HEADER + 5], *b"\x81\x10\0\x03\0\0\0\0\0\0\0\x05mark\0\0\0\0\0\0\0\0pid17");
}
