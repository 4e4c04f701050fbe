//! Stories of a binary client, told to our connection code, to our program and to the real
//! memcached: what each packet is answered, status and body, in order.
//!
//! Owns what we believe of memcached 1.6's binary protocol beyond what random packets find out.

use crate::packet::{opcode::*, Answer, Packet, Side};
use crate::script::{Link, Transport};

/// A client in the middle of its story.
struct Client<'a> {
    server: &'a mut dyn Transport,
    link: Box<dyn Link>,
    marks: u32,
}

/// `(opcode, status, extras and key and value)`.
type Said = (u8, u16, Vec<u8>);

fn said(opcode: u8, status: u16, body: &[u8]) -> Said {
    (opcode, status, body.to_vec())
}

impl Client<'_> {
    fn new(server: &mut dyn Transport) -> Client<'_> {
        let link = server.open();
        Client { server, link, marks: 0 }
    }

    fn side(&mut self) -> Side<'_> {
        Side::new(&mut *self.link)
    }

    /// Sends packets and a noop in one piece; all answers before the noop's.
    #[track_caller]
    fn answers(&mut self, packets: &[Packet]) -> Vec<Answer> {
        self.marks += 1;
        let mark = self.marks | 0xaa00_0000;
        let mut bytes: Vec<u8> =
            packets.iter().flat_map(|packet| packet.bytes(packet.unique)).collect();
        bytes.extend(Packet { opaque: mark, ..Packet::new(NOOP, b"") }.bytes(0));
        let mut side = self.side();
        side.send(&bytes, &[]).expect("sent");
        let mut answers = side.answers(mark).expect("whole answers");
        assert!(!side.closed, "closed after {answers:?}");
        answers.pop();
        answers
    }

    /// The same, as what is said.
    #[track_caller]
    fn all(&mut self, packets: &[Packet]) -> Vec<Said> {
        self.answers(packets).iter().map(Answer::said).collect()
    }

    /// Sends one packet that has one answer.
    #[track_caller]
    fn one(&mut self, packet: Packet) -> Answer {
        let mut answers = self.answers(&[packet]);
        assert_eq!(answers.len(), 1, "{answers:?}");
        answers.remove(0)
    }

    /// Sends one packet that has one answer: that one.
    #[track_caller]
    fn is(&mut self, packet: Packet, status: u16, body: &[u8]) -> u64 {
        let opcode = packet.opcode;
        let answer = self.one(packet);
        assert_eq!(answer.said(), said(opcode, status, body));
        answer.cas
    }

    /// Sends bytes after which the server says `last` and closes. The story goes on over a new
    /// connection.
    #[track_caller]
    fn ends(&mut self, bytes: &[u8], last: &[Said]) {
        let mut side = self.side();
        side.send(bytes, &[]).expect("sent");
        let answers = side.answers(u32::MAX).expect("whole answers");
        assert!(side.closed);
        let got: Vec<Said> = answers.iter().map(Answer::said).collect();
        assert_eq!(got, last);
        self.link = self.server.open();
    }
}

fn set(key: &[u8], value: &[u8]) -> Packet {
    Packet::with(SET, &[0, 0, 0, 9, 0, 0, 0, 0], key, value)
}

fn get(key: &[u8]) -> Packet {
    Packet::new(GET, key)
}

fn arith(opcode: u8, key: &[u8], delta: u64, initial: u64, exptime: u32) -> Packet {
    let numbers = [delta.to_be_bytes(), initial.to_be_bytes()].concat();
    Packet::with(opcode, &[&numbers[..], &exptime.to_be_bytes()].concat(), key, b"")
}

fn touch(opcode: u8, key: &[u8], exptime: u32) -> Packet {
    Packet::with(opcode, &exptime.to_be_bytes(), key, b"")
}

const NOT_FOUND: &[u8] = b"Not found";
const EXISTS: &[u8] = b"Data exists for key.";
const NOT_STORED: &[u8] = b"Not stored.";
const INVALID: &[u8] = b"Invalid arguments";
const UNKNOWN: &[u8] = b"Unknown command";
const NON_NUMERIC: &[u8] = b"Non-numeric server-side value for incr or decr";

/// Storing, reading, deleting, and the CAS uniques that go with it.
pub fn uniques(server: &mut dyn Transport) {
    let mut client = Client::new(server);
    let first = client.is(set(b"k", b"one"), 0, b"");
    assert_eq!(client.is(get(b"k"), 0, b"\0\0\0\x09one"), first);
    assert_eq!(client.is(Packet::new(GETK, b"k"), 0, b"\0\0\0\x09kone"), first);
    assert_eq!(client.is(get(b"none"), 1, NOT_FOUND), 0);
    client.is(Packet::new(GETK, b"none"), 1, b"none");
    let add = Packet { opcode: ADD, ..set(b"k", b"two") };
    client.is(add.clone(), 2, EXISTS);
    client.is(Packet { opcode: REPLACE, ..set(b"none", b"two") }, 1, NOT_FOUND);
    // A unique makes the three of them the same.
    client.is(set(b"k", b"two").unique(first + 1), 2, EXISTS);
    let second = client.is(add.clone().unique(first), 0, b"");
    assert_ne!(second, first);
    client.is(Packet { key: b"none".to_vec(), ..add }.unique(second), 1, NOT_FOUND);
    let append = Packet::with(APPEND, b"", b"k", b"+");
    client.is(append.clone().unique(first), 2, EXISTS);
    let third = client.is(append.clone().unique(second), 0, b"");
    let fourth = client.is(Packet::with(PREPEND, b"", b"k", b"-"), 0, b"");
    assert!(third != second && fourth != third);
    // Flags stay.
    assert_eq!(client.is(get(b"k"), 0, b"\0\0\0\x09-two+"), fourth);
    client.is(Packet::with(APPEND, b"", b"none", b"+"), 5, NOT_STORED);
    client.is(Packet::new(DELETE, b"k").unique(third), 2, EXISTS);
    assert_eq!(client.is(Packet::new(DELETE, b"k").unique(fourth), 0, b""), 0);
    client.is(Packet::new(DELETE, b"k"), 1, NOT_FOUND);
}

/// Numbers: made, counted, wrapped, stopped at zero.
pub fn numbers(server: &mut dyn Transport) {
    let mut client = Client::new(server);
    let number = |n: u64| n.to_be_bytes();
    client.is(arith(INCREMENT, b"n", 1, 5, u32::MAX), 1, NOT_FOUND);
    let made = client.is(arith(INCREMENT, b"n", 1, 5, 0), 0, &number(5));
    assert_eq!(client.is(get(b"n"), 0, b"\0\0\0\x005"), made);
    let next = client.is(arith(INCREMENT, b"n", 10, 0, 0), 0, &number(15));
    assert_ne!(next, made);
    client.is(arith(INCREMENT, b"n", 1, 0, 0).unique(made), 2, EXISTS);
    client.is(arith(DECREMENT, b"n", 6, 0, 0).unique(next), 0, &number(9));
    client.is(get(b"n"), 0, b"\0\0\0\x009 ");
    client.is(arith(DECREMENT, b"n", 10, 0, 0), 0, &number(0));
    client.is(arith(INCREMENT, b"n", u64::MAX, 0, 0), 0, &number(u64::MAX));
    client.is(arith(INCREMENT, b"n", 2, 0, 0), 0, &number(1));
    client.is(set(b"n", b"x"), 0, b"");
    client.is(arith(INCREMENT, b"n", 2, 0, 0), 6, NON_NUMERIC);
    client.is(arith(DECREMENT, b"m", 2, 1 << 40, 100), 0, &number(1 << 40));
    client.is(get(b"m"), 0, b"\0\0\0\x001099511627776");
    // Already over when it is made.
    client.is(arith(INCREMENT, b"past", 1, 1, 3_000_000), 0, &number(1));
    client.is(get(b"past"), 1, NOT_FOUND);
}

/// Quiet twins say only what is unusual, in order, before the noop behind them.
pub fn quiet(server: &mut dyn Transport) {
    let mut client = Client::new(server);
    let quiet = |opcode: u8, packet: Packet| Packet { opcode, ..packet };
    let packets = [
        quiet(SETQ, set(b"k", b"one")),
        quiet(ADDQ, set(b"k", b"two")),
        quiet(ADDQ, set(b"new", b"1")),
        quiet(REPLACEQ, set(b"none", b"two")),
        quiet(REPLACEQ, set(b"k", b"three")),
        Packet::with(APPENDQ, b"", b"k", b"+"),
        Packet::with(PREPENDQ, b"", b"none", b"+"),
        Packet::new(GETQ, b"k"),
        Packet::new(GETQ, b"none"),
        Packet::new(GETKQ, b"k"),
        Packet::new(GETKQ, b"none"),
        arith(INCREMENTQ, b"new", 1, 0, 0),
        arith(DECREMENTQ, b"none", 1, 0, u32::MAX),
        touch(GATQ, b"new", 100),
        touch(GATQ, b"none", 100),
        touch(GATKQ, b"new", 0),
        touch(GATKQ, b"none", 0),
        Packet::new(DELETEQ, b"k"),
        Packet::new(DELETEQ, b"k"),
        Packet::new(FLUSHQ, b""),
        Packet::new(GETQ, b"new"),
    ];
    let wanted = [
        said(ADDQ, 2, EXISTS),
        said(REPLACEQ, 1, NOT_FOUND),
        said(PREPENDQ, 5, NOT_STORED),
        said(GETQ, 0, b"\0\0\0\x09three+"),
        said(GETKQ, 0, b"\0\0\0\x09kthree+"),
        said(DECREMENTQ, 1, NOT_FOUND),
        said(GATQ, 0, b"\0\0\0\x092"),
        said(GATKQ, 0, b"\0\0\0\x09new2"),
        said(DELETEQ, 1, NOT_FOUND),
    ];
    assert_eq!(client.all(&packets), wanted);
    client.is(touch(TOUCH, b"none", 100), 1, NOT_FOUND);
    client.is(touch(GATK, b"none", 100), 1, b"none");
    let unique = client.is(set(b"k", b"v"), 0, b"");
    assert_eq!(client.is(touch(TOUCH, b"k", 100), 0, b"\0\0\0\x09"), unique);
    client.is(touch(GAT, b"k", 3_000_000), 0, b"\0\0\0\x09v");
    client.is(get(b"k"), 1, NOT_FOUND);
    client.ends(&Packet::new(QUITQ, b"").bytes(0), &[]);
    client.ends(&Packet::new(QUIT, b"").bytes(0), &[said(QUIT, 0, b"")]);
}

/// A value over -I: refused before it comes in, dropped, and nothing old is left.
pub fn too_large(server: &mut dyn Transport) {
    let mut client = Client::new(server);
    client.is(set(b"k", b"old"), 0, b"");
    let large = vec![b'v'; 2 << 20];
    for opcode in [ADD, REPLACE, APPEND] {
        let extras: &[u8] = if opcode == APPEND { b"" } else { &[0; 8] };
        client.is(Packet::with(opcode, extras, b"k", &large), 3, b"Too large.");
    }
    client.is(get(b"k"), 0, b"\0\0\0\x09old");
    assert_eq!(
        client.all(&[Packet { opcode: SETQ, ..set(b"k", &large) }]),
        [said(SETQ, 3, b"Too large.")]
    );
    client.is(get(b"k"), 1, NOT_FOUND);
    // Growing beyond it.
    client.is(set(b"k", &large[..1_000_000]), 0, b"");
    client.is(Packet::with(APPEND, b"", b"k", &large[..60_000]), 5, NOT_STORED);
    let got = client.one(get(b"k"));
    assert_eq!(got.said().2.len(), 1_000_004);
}

/// What is no request, or none that can be.
pub fn nonsense(server: &mut dyn Transport) {
    let mut client = Client::new(server);
    // Its whole body is dropped behind its key: the value and whole noops, if the key is so long.
    let key = [b'k'; 24];
    let swallows = [Packet::with(0x25, b"", &key, b"12345"), Packet::new(NOOP, b""), get(b"none")];
    let wanted = [said(0x25, 0x81, UNKNOWN), said(GET, 1, NOT_FOUND)];
    assert_eq!(client.all(&swallows), wanted);
    client.is(Packet::new(0xff, b""), 0x81, UNKNOWN);
    for opcode in [SASL_LIST_MECHS, SASL_AUTH, SASL_STEP] {
        let key: &[u8] = if opcode == SASL_LIST_MECHS { b"" } else { b"PLAIN" };
        let value: &[u8] = if opcode == SASL_LIST_MECHS { b"" } else { b"\0user\0pass" };
        client.is(Packet::with(opcode, b"", key, value), 0x81, UNKNOWN);
    }
    let invalid = |opcode| [said(opcode, 4, INVALID)];
    client.ends(&get(&[b'k'; 251]).bytes(0), &invalid(GET));
    client.ends(&Packet { opcode: SETQ, ..get(b"k") }.bytes(0), &invalid(SETQ));
    client.ends(&Packet::with(NOOP, b"", b"", b"v").bytes(0), &invalid(NOOP));
    client.ends(&Packet::with(FLUSH, b"xx", b"", b"").bytes(0), &invalid(FLUSH));
    client.ends(&Packet::new(SASL_AUTH, b"").bytes(0), &invalid(SASL_AUTH));
    let mut short = get(b"key").bytes(0);
    short[11] = 2;
    client.ends(&short, &[said(GET, 0x81, UNKNOWN)]);
    let mut magic = Packet::new(NOOP, b"").bytes(0);
    assert_eq!(client.all(&[]), []);
    magic[0] = 0x81;
    client.ends(&magic, &[]);
    // What was asked before it is answered.
    let good = Packet::new(VERSION, b"");
    let version = client.one(good.clone()).said();
    let bytes = [good.bytes(0), Packet::with(DELETE, b"", b"k", b"v").bytes(0)].concat();
    client.ends(&bytes, &[version, said(DELETE, 4, INVALID)]);
}

/// The statistics that both have, and those that neither has.
pub fn statistics(server: &mut dyn Transport) {
    let mut client = Client::new(server);
    client.is(set(b"k", b"v"), 0, b"");
    for key in [&b""[..], b"items", b"slabs", b"sizes", b"settings", b"settingsx", b"reset"] {
        let answers = client.all(&[Packet::new(STAT, key)]);
        let (end, rows) = answers.split_last().expect("an end");
        assert_eq!(*end, said(STAT, 0, b""), "{}", key.escape_ascii());
        assert_eq!(rows.is_empty(), key == b"reset", "{}", key.escape_ascii());
        assert!(rows.iter().all(|row| row.0 == STAT && row.1 == 0 && !row.2.is_empty()));
    }
    let general = client.answers(&[Packet::new(STAT, b"")]);
    assert!(general.iter().any(|row| row.named().0 == b"pointer_size" && row.named().1 == b"64"));
    for key in [&b"x"[..], b"items x", b"conns", b"cachedump 1 1", b"detail", b"detail x"] {
        client.is(Packet::new(STAT, key), 1, NOT_FOUND);
    }
}

/// Counts by prefix.
pub fn detail(server: &mut dyn Transport) {
    let mut client = Client::new(server);
    let stat = |key: &str| Packet::new(STAT, key.as_bytes());
    client.is(stat("detail on"), 0, b"");
    client.is(set(b"a:1", b"v"), 0, b"");
    client.is(get(b"a:1"), 0, b"\0\0\0\x09v");
    client.is(get(b"a:2"), 1, NOT_FOUND);
    client.is(touch(TOUCH, b"a:1", 0), 0, b"\0\0\0\x09");
    client.is(Packet::with(APPEND, b"", b"a:none", b"v"), 5, NOT_STORED);
    client.is(Packet::new(DELETE, b"a:3"), 1, NOT_FOUND);
    client.is(Packet::new(DELETE, b"a:1"), 0, b"");
    client.is(arith(INCREMENT, b"a:4", 1, 1, 0), 0, &1u64.to_be_bytes());
    client.is(stat("detail off"), 0, b"");
    client.is(get(b"a:1"), 1, NOT_FOUND);
    let dump = b"detailedPREFIX a get 3 hit 2 set 2 del 2\r\nEND\r\n";
    assert_eq!(client.all(&[stat("detail dump")]), [said(STAT, 0, dump), said(STAT, 0, b"")]);
}

/// `-C`: no uniques are shown. Whoever asks for one stores all the same, but neither counts nor
/// deletes.
pub fn without_cas(server: &mut dyn Transport) {
    let mut client = Client::new(server);
    assert_eq!(client.is(set(b"k", b"1").unique(77), 0, b""), 0);
    assert_eq!(client.is(get(b"k"), 0, b"\0\0\0\x091"), 0);
    client.is(arith(INCREMENT, b"k", 1, 0, 0).unique(78), 2, EXISTS);
    assert_eq!(client.is(arith(INCREMENT, b"k", 1, 0, 0), 0, &2u64.to_be_bytes()), 0);
    assert_eq!(client.is(Packet::with(APPEND, b"", b"k", b"0").unique(79), 0, b""), 0);
    assert_eq!(client.is(touch(TOUCH, b"k", 0), 0, b"\0\0\0\x09"), 0);
    client.is(Packet::new(DELETE, b"k").unique(80), 2, EXISTS);
    client.is(Packet::new(DELETE, b"k"), 0, b"");
}

/// `-F`.
pub fn without_flush(server: &mut dyn Transport) {
    let mut client = Client::new(server);
    client.is(set(b"k", b"1"), 0, b"");
    client.is(Packet::new(FLUSH, b""), 0x20, b"Auth failure.");
    assert_eq!(client.all(&[Packet::new(FLUSHQ, b"")]), [said(FLUSHQ, 0x20, b"Auth failure.")]);
    client.is(get(b"k"), 0, b"\0\0\0\x091");
}

/// `-B binary`: text is not understood.
pub fn binary_only(server: &mut dyn Transport) {
    let mut client = Client::new(server);
    client.is(set(b"k", b"1"), 0, b"");
    client.ends(b"version\r\nversion\r\nversion\r\n", &[]);
}

/// `-B ascii`: packets are not understood.
pub fn text_only(server: &mut dyn Transport) {
    let mut link = server.open();
    let mut bytes = Packet::new(NOOP, b"").bytes(0);
    bytes.extend(b"\r\nmn\r\n");
    link.send(&bytes).expect("sent");
    let mut received = Vec::new();
    while !received.ends_with(b"MN\r\n") {
        assert!(link.receive(&mut received).expect("an answer"), "closed");
    }
    // A noop's opcode ends a line: two wrong ones, in whatever words.
    let text = String::from_utf8(received).expect("no packet");
    assert_eq!(text.lines().filter(|line| line.contains("ERROR")).count(), 2, "{text}");
}

/// `-S`: nothing before a login but logins and the version.
pub fn logins(server: &mut dyn Transport) {
    const FAILURE: &[u8] = b"Auth failure.";
    let mut client = Client::new(server);
    let auth = |message: &[u8]| Packet::with(SASL_AUTH, b"", b"PLAIN", message);
    let step = |message: &[u8]| Packet { opcode: SASL_STEP, ..auth(message) };
    let refused = |opcode| [said(opcode, 0x20, FAILURE)];
    client.ends(&get(b"k").bytes(0), &refused(GET));
    client.ends(&set(b"k", b"v").bytes(0), &refused(SET));
    client.ends(&Packet::new(NOOP, b"").bytes(0), &refused(NOOP));
    client.ends(&[Packet::new(VERSION, b"x").bytes(0)].concat(), &[said(VERSION, 4, INVALID)]);
    let mut client = Unmarked(client);
    client.is(Packet::new(SASL_LIST_MECHS, b""), 0, b"PLAIN");
    let wrong: [&[u8]; 5] = [b"\0foo\0ba", b"\0nobody\0bar", b"bar\0foo\0bar", b"foo", b"\0\0"];
    for message in wrong {
        client.is(auth(message), 0x20, FAILURE);
    }
    client.is(step(b"\0foo\0bar"), 0x20, FAILURE);
    client.is(Packet { key: b"CRAM-MD5".to_vec(), ..auth(b"\0foo\0bar") }, 0x20, FAILURE);
    client.is(Packet { key: vec![b'm'; 33], ..auth(b"\0foo\0bar") }, 4, INVALID);
    client.is(auth(&[b'x'; 5000]), 0x82, b"Out of memory");
    client.is(auth(b"\0foo\0bar"), 0, b"Authenticated");
    client.is(set(b"k", b"v"), 0, b"");
    // A wrong login takes the right one back.
    client.is(auth(b"\0foo\0"), 0x20, FAILURE);
    client.0.ends(&get(b"k").bytes(0), &refused(GET));
    // In two steps.
    client.is(auth(b""), 0x21, b"");
    client.is(step(b"foo\0foo\0bar"), 0, b"Authenticated");
    client.is(get(b"k"), 0, b"\0\0\0\x09v");
    client.is(Packet::new(STAT, b"x"), 1, NOT_FOUND);
    let rows = client.0.answers(&[Packet::new(STAT, b"")]);
    let count =
        |name: &[u8]| rows.iter().find(|row| row.named().0 == name).map(|row| row.named().1);
    assert_eq!(count(b"auth_cmds"), Some(&b"10"[..]));
    assert_eq!(count(b"auth_errors"), Some(&b"8"[..]));
    client.is(Packet::new(SASL_LIST_MECHS, b""), 0, b"PLAIN");
    client.0.ends(&get(b"k").bytes(0), &refused(GET));
}

/// A client that may not send noops yet.
struct Unmarked<'a>(Client<'a>);

impl Unmarked<'_> {
    #[track_caller]
    fn is(&mut self, packet: Packet, status: u16, body: &[u8]) {
        let mut side = self.0.side();
        side.send(&packet.bytes(0), &[]).expect("sent");
        let answer = side.next().expect("an answer").expect("not closed");
        assert_eq!(answer.said(), said(packet.opcode, status, body));
    }
}
