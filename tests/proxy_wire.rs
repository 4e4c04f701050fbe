//! The same conversation with a server and with the proxy before a server like it: the same bytes.
//!
//! Owns a generator of classic and meta commands, sent pipelined and cut anywhere to the real
//! binary, in front of our own server and of the real memcached where it is installed. What differs
//! on purpose is left out: `version`, `stats`, unknown commands (magent's words) and, behind
//! 1.6.18, lines that it reads otherwise than the 1.6.45 we follow. CAS uniques are compared as a
//! one-to-one relation, times within two seconds. With a backup, server and backup must hold the
//! same afterwards. A failure names its seed; `WIRE_SEED=n` starts there.

mod common;
#[path = "wire/rng.rs"]
mod rng;

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use common::{free_port, peer_program, Node};
use rng::Rng;

/// Batches of one conversation.
const BATCHES: usize = 25;
/// Commands of one batch at most.
const BATCH: usize = 8;
/// Conversations of each kind.
const CONVERSATIONS: u64 = 12;
/// The keys as they are, and in base64 (the last is no text).
const KEYS: [(&str, &str); 4] = [("a", "YQ=="), ("n", "bg=="), ("b", "Yg=="), ("", "AP8gCg==")];
/// Stands for the CAS unique that this side told last.
const LAST: &str = "{last}";

/// What follows a batch: it ends a block that was announced too long, and its answer is the end.
const END_MARK: &str = "zzzz\r\nzzzz\r\nms zz 1 Oend\r\nx\r\n";

fn server(program: Option<&str>) -> Node {
    match program {
        None => Node::plain(free_port(), &["-m", "16"]),
        Some(program) => memcached(program, free_port()),
    }
}

fn memcached(program: &str, port: u16) -> Node {
    let text = port.to_string();
    let mut command = Command::new(program);
    command.args(["-u", "root", "-l", "127.0.0.1", "-U", "0", "-m", "64", "-p", &text]);
    let node = Node::spawn(&mut command, port);
    node.await_port();
    node
}

fn proxy(servers: &[&Node], backups: &[&Node]) -> Node {
    let port = free_port();
    let text = port.to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_twincached"));
    command.args(["proxy", "-D", "-u", "root", "-l", "127.0.0.1", "-p", &text]);
    for (flag, nodes) in [("-s", servers), ("-b", backups)] {
        for node in nodes {
            command.args([flag, &format!("127.0.0.1:{}", node.port)]);
        }
    }
    let node = Node::spawn(&mut command, port);
    node.await_port();
    node
}

fn one<'t>(rng: &mut Rng, from: &[&'t str]) -> &'t str {
    from[rng.below(from.len())]
}

/// What is left out of a conversation.
#[derive(Clone, Copy)]
struct Manner {
    /// The server is ours.
    ours: bool,
    /// The server is a memcached of before 1.6.45.
    old: bool,
    /// Values are appended to and counted, and then nothing is marked as stale or to be renewed:
    /// whether memcached does it in place, and so keeps the mark, depends on who still reads the
    /// value. `None`: both.
    appends: Option<bool>,
    /// CAS uniques can be told apart: those of two memcached are the same numbers.
    uniques: bool,
}

fn exptime(rng: &mut Rng) -> &'static str {
    one(rng, &["0", "0", "100", "1000", "2000000000"])
}

/// The last one leaves a shorter number behind when it is counted on: see [`meta`].
fn data(rng: &mut Rng, manner: Manner) -> &'static str {
    let data = ["0", "7", "x", "12", "199", "x7 y", "abc\r\ndef", "18446744073709551615"];
    one(rng, if manner.ours { &data } else { &data[..7] })
}

fn meta_flag(rng: &mut Rng, verb: &str, manner: Manner) -> String {
    let time = exptime(rng);
    let text = match (verb, rng.below(10)) {
        (_, 0) => "k".into(),
        (_, 1) => format!("O{}", rng.below(1000)),
        (_, 2) => "q".into(),
        ("mg", 3) => format!("T{time}"),
        ("mg", 4) if manner.appends != Some(true) && rng.below(3) == 0 => format!("N{time}"),
        ("mg", 5) if manner.appends != Some(true) && rng.below(3) == 0 => {
            format!("R{}", one(rng, &["30", "500", "5000"]))
        }
        ("mg", 6) => one(rng, &["t", "s", "f", "u", "h", "c"]).into(),
        ("mg", _) => "v".into(),
        ("ms", 3) => format!("T{time}"),
        ("ms", 4) => format!("F{}", rng.below(5)),
        ("ms", 5) if manner.uniques => format!("C{LAST}"),
        ("ms", 6 | 7) => {
            let modes = ["S", "E", "R", "A", "P"];
            let modes = if manner.appends == Some(false) { &modes[..3] } else { &modes };
            format!("M{}", one(rng, modes))
        }
        ("ms", 8) => "c".into(),
        ("md", 3) if manner.uniques => format!("C{LAST}"),
        ("md", 4) if manner.appends != Some(true) => "I".into(),
        ("md", 5) if !manner.old => "x".into(),
        ("md", 6) => format!("T{time}"),
        ("ma", 3) => format!("N{time}"),
        ("ma", 4) => format!("J{}", rng.below(30)),
        ("ma", 5) => format!("D{}", rng.below(30)),
        ("ma", 6) => {
            let modes = ["I", "+", "D", "-"];
            format!("M{}", one(rng, if manner.ours { &modes } else { &modes[..2] }))
        }
        ("ma", 7) => "v".into(),
        ("ma", 8) => one(rng, &["t", "c"]).into(),
        _ => String::new(),
    };
    if rng.below(80) == 0 {
        return one(rng, &["z", "Tx", "Cx", "MZ", "v v", "k k"]).into();
    }
    text
}

/// `counts`: numbers may be counted. memcached writes one in place, with blanks behind a shorter
/// one, unless a reply that holds it still waits to be sent: so its numbers only grow, and are
/// counted first in a batch only.
fn meta(rng: &mut Rng, manner: Manner, counts: bool) -> String {
    let verb = one(rng, &["mg", "mg", "mg", "ms", "ms", "md", "ma", "me"]);
    let verb = if verb == "ma" && !counts { "mg" } else { verb };
    let (key, base64) = KEYS[rng.below(KEYS.len())];
    let binary = key.is_empty() || rng.below(4) == 0;
    let mut flags: Vec<String> = vec![if binary { "b".into() } else { String::new() }];
    for _ in 0..rng.below(5) {
        let flag = meta_flag(rng, verb, manner);
        // Before 1.6.45 some that stand together are refused, or told otherwise.
        let has = |first: &str| flags.iter().any(|one| one.starts_with(first));
        let clash = manner.old
            && (verb == "ms"
                && (flag.starts_with('C') && has("M") || flag.starts_with('M') && has("C"))
                || verb == "ma" && (flag == "q" && has("N") || flag.starts_with('N') && has("q")));
        // It shows a key raw where it has forgotten that it came in base64.
        let clash = clash || !manner.ours && verb == "mg" && binary && flag == "k";
        if !clash && !flags.iter().any(|one| one.bytes().next() == flag.bytes().next()) {
            flags.push(flag);
        }
    }
    if verb == "me" {
        // memcached 1.6.45 wants one more word behind the b before it believes it.
        flags.clear();
        return if binary { "mn".into() } else { format!("me {key}") };
    }
    let mut line = format!("{verb} {}", if binary { base64 } else { key });
    let block = data(rng, manner);
    if verb == "ms" {
        line += &format!(" {}", block.len());
    }
    for flag in flags.iter().filter(|flag| !flag.is_empty()) {
        line += &format!(" {flag}");
    }
    if verb == "ms" {
        line += &format!("\r\n{block}");
    }
    line
}

fn classic(rng: &mut Rng, manner: Manner, counts: bool) -> String {
    let (key, _) = KEYS[rng.below(3)];
    let (time, block) = (exptime(rng), data(rng, manner));
    let tail = one(rng, &["", "", "", " noreply"]);
    let len = block.len();
    match rng.below(if manner.old { 13 } else { 16 }) {
        0 | 1 => {
            let verbs = ["set", "set", "add", "replace", "append", "prepend"];
            let verbs = if manner.appends == Some(false) { &verbs[..4] } else { &verbs };
            let verb = one(rng, verbs);
            format!("{verb} {key} {} {time} {len}{tail}\r\n{block}", rng.below(9))
        }
        2 if manner.uniques => format!("cas {key} 3 {time} {len} {LAST}{tail}\r\n{block}"),
        3 => format!("delete {key}{tail}"),
        4 if counts => {
            let verb = if manner.ours { one(rng, &["incr", "decr"]) } else { "incr" };
            format!("{verb} {key} {}{tail}", rng.below(50))
        }
        5 => format!("touch {key} {time}{tail}"),
        6 => format!("gat {time} {key} b"),
        7 => format!("gats {time} n {key}"),
        8 => "gets a n".into(),
        9 => format!("get {key} nothing b {key}"),
        10 => format!("get {}", "k".repeat(250)),
        // Alone: to a server the keys before it were asked for. memcached loses what it had not
        // sent, or says too much.
        11 if manner.ours => format!("get {}", "k".repeat(251)),
        // What memcached flushes depends on the second.
        12 if manner.ours && rng.below(6) == 0 => format!("flush_all{tail}"),
        12 | 13 => format!("set n 0 {time} 1{tail}\r\n{}", rng.below(10)),
        2 | 4 | 11 => "get a n".into(),
        _ => one(
            rng,
            &[
                "set a",
                "set a 0 0 x",
                "set a 0 0 -1",
                "incr a",
                "incr a x",
                "touch a x",
                "touch a",
                "gat x a",
                "cas a 0 0 1\r\nx",
                "flush_all x",
                "set a 0 0 1\r\nwxyzw",
                "verbosity x",
                "mg a !",
                "ms a",
                "ms a x",
                // Of two faults the first one is told.
                "ms a 1 Tx\r\nwxyzw",
                "ms a 1 F1 F2\r\nwxyzw",
            ],
        )
        .into(),
    }
}

/// One side of a conversation.
struct Side {
    stream: TcpStream,
    uniques: HashMap<u64, usize>,
    last: u64,
}

impl Side {
    fn new(port: u16) -> Side {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        Side { stream, uniques: HashMap::new(), last: 1 }
    }

    /// Sends a batch in pieces that end at `cuts`, and gives all it answers.
    fn ask(&mut self, batch: &str, cuts: &[usize]) -> Vec<u8> {
        let text = batch.replace(LAST, &self.last.to_string()) + END_MARK;
        let mut rest = text.as_bytes();
        for &cut in cuts {
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            self.stream.write_all(piece).expect("sent");
            rest = after;
        }
        self.stream.write_all(rest).expect("sent");
        let mut answer = Vec::new();
        let mut buffer = [0; 65536];
        while !answer.ends_with(b"HD Oend\r\n") {
            match self.stream.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(n) if n > 0 => answer.extend_from_slice(&buffer[..n]),
                end => {
                    answer.extend_from_slice(format!("<{end:?}>").as_bytes());
                    break;
                }
            }
        }
        answer
    }

    /// The same text as the other side's, if all is well.
    fn alike(&mut self, answer: &[u8], manner: Manner) -> String {
        let text = answer.escape_ascii().to_string().replace("\\r\\n", "\r\n");
        let mut out = String::new();
        for line in text.split("\r\n") {
            // Unknown commands have magent's answer.
            let line = if line == "UNSUPPORTED COMMAND" { "ERROR" } else { line };
            let words: Vec<&str> = line.split(' ').collect();
            let meta = ["VA", "HD", "ME"].contains(&words[0]);
            for (at, word) in words.iter().enumerate() {
                // What is kept in place keeps more than what is stored anew.
                let kept = word.starts_with(['k', 'h', 'b']) || word.starts_with("fetch=");
                if meta && !manner.ours && at > 0 && kept {
                    continue;
                }
                let number = |prefix: &str| word.strip_prefix(prefix)?.parse::<u64>().ok();
                let unique = match words[0] {
                    "VALUE" if at == 4 => number(""),
                    _ if meta && at > 0 => number("cas=").or(number("c")),
                    _ => None,
                };
                out += &match unique {
                    Some(0) => "c0".into(),
                    Some(_) if !manner.uniques => "c".into(),
                    Some(unique) => {
                        let next = self.uniques.len();
                        self.last = unique;
                        format!("c#{}", self.uniques.entry(unique).or_insert(next))
                    }
                    None => {
                        match number("t").or(number("exp=")).or(number("exp=-")).filter(|_| meta) {
                            Some(secs) => format!("t{}", secs.div_ceil(10) * 10),
                            None if meta
                                && (word.starts_with("la=") || word.starts_with("size=")) =>
                            {
                                "-".into()
                            }
                            None => (*word).into(),
                        }
                    }
                };
                out.push(' ');
            }
            out.push('\n');
        }
        out
    }
}

/// What a server holds of the keys, without its uniques.
fn holdings(port: u16) -> Vec<String> {
    let mut side = Side::new(port);
    let of = |(_, base64): &(&str, &str)| {
        let answer = side.ask(&format!("mg {base64} b v f t s u\r\n"), &[]);
        side.alike(&answer, Manner { ours: true, old: false, uniques: false, appends: None })
    };
    KEYS.iter().map(of).collect()
}

fn seeds() -> std::ops::Range<u64> {
    let first = std::env::var("WIRE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    first..first + CONVERSATIONS
}

/// Holds conversations over `through` and with `direct`; `check` looks after each of them.
fn converse(through: u16, direct: u16, manner: Manner, check: impl Fn(u64)) {
    for seed in seeds() {
        let mut rng = Rng::new(seed);
        let manner = Manner { appends: (!manner.ours).then_some(seed % 2 == 0), ..manner };
        let (mut ours, mut real) = (Side::new(through), Side::new(direct));
        for side in [&mut ours, &mut real] {
            // Nothing is there, and nothing will have the CAS unique 1.
            let clear = |(_, key): &(&str, &str)| format!("ms {key} 1 b\r\nx\r\nmd {key} b\r\n");
            side.ask(&KEYS.iter().map(clear).collect::<String>(), &[]);
        }
        for number in 0..BATCHES {
            let mut batch = String::new();
            for at in 0..=rng.below(BATCH) {
                let counts = manner.ours || at == 0 && manner.appends == Some(true);
                let meta_next = rng.below(3) > 0;
                batch += &if meta_next {
                    meta(&mut rng, manner, counts)
                } else {
                    classic(&mut rng, manner, counts)
                };
                batch += "\r\n";
            }
            let cuts: Vec<usize> =
                (0..rng.below(4)).map(|_| rng.below(batch.len() / 2 + 1)).collect();
            let (a, b) = (ours.ask(&batch, &cuts), real.ask(&batch, &cuts));
            let (a, b) = (ours.alike(&a, manner), real.alike(&b, manner));
            assert_eq!(a, b, "seed {seed}, batch {number}: {}", batch.escape_debug());
        }
        check(seed);
    }
}

/// Ours, and the real memcached where there is one.
fn programs() -> Vec<Option<&'static str>> {
    [None].into_iter().chain(peer_program("memcached").map(Some)).collect()
}

/// Whether it is a memcached of before 1.6.45.
fn is_old(program: Option<&str>) -> bool {
    let Some(program) = program else { return false };
    let output = Command::new(program).arg("-V").output().expect("its version");
    !String::from_utf8_lossy(&output.stdout).contains("1.6.45")
}

#[test]
fn over_the_proxy_everything_is_answered_as_by_the_server_itself() {
    for program in programs() {
        let (behind, beside) = (server(program), server(program));
        let through = proxy(&[&behind], &[]);
        let manner =
            Manner { ours: program.is_none(), old: is_old(program), uniques: true, appends: None };
        converse(through.port, beside.port, manner, |seed| {
            assert_eq!(holdings(behind.port), holdings(beside.port), "seed {seed}");
        });
    }
}

#[test]
fn two_servers_answer_like_one() {
    for program in programs() {
        let (one, two, beside) = (server(program), server(program), server(program));
        let through = proxy(&[&one, &two], &[]);
        let manner = Manner {
            ours: program.is_none(),
            old: is_old(program),
            uniques: program.is_none(),
            appends: None,
        };
        converse(through.port, beside.port, manner, |_| {});
    }
}

#[test]
fn server_and_backup_hold_the_same_afterwards() {
    for program in programs() {
        let (behind, copy, beside) = (server(program), server(program), server(program));
        let through = proxy(&[&behind], &[&copy]);
        let manner =
            Manner { ours: program.is_none(), old: is_old(program), uniques: true, appends: None };
        converse(through.port, beside.port, manner, |seed| {
            let (server, backup) = (holdings(behind.port), holdings(copy.port));
            assert_eq!(server, backup, "seed {seed}");
        });
    }
}

/// What meta commands did on the server is found on the backup, base64 keys and marks included,
/// and comes back from there.
#[test]
fn meta_commands_survive_their_server() {
    for program in programs() {
        let (mut first, copy) = (server(program), server(program));
        let through = proxy(&[&first], &[&copy]);
        let mut client = through.client();
        assert_eq!(client.ask("ms k 1 T900 F5\r\na"), "HD");
        assert_eq!(client.ask("ms AP8K 2 b T900\r\nbb"), "HD");
        assert_eq!(client.ask("ms s 1 T900\r\ns"), "HD");
        assert_eq!(client.ask("md s I T800"), "HD");
        assert_eq!(client.ask("mg new N700 t"), "HD t700 W");
        assert_eq!(client.ask("ma n N600 J7"), "HD");
        assert_eq!(client.ask("ma n D3"), "HD");
        let unique = client.ask("mg k c");
        first.kill();
        assert_eq!(client.ask("mg k f v"), "VA 1 f5");
        assert_eq!(client.line(), "a");
        assert_eq!(client.ask("mg AP8K b v"), "VA 2");
        assert_eq!(client.line(), "bb");
        assert_eq!(client.ask("mg s v"), "VA 1 X W", "stale on the backup, too");
        assert_eq!(client.line(), "s");
        assert_eq!(client.ask("mg new N700"), "HD Z", "somebody makes it already");
        assert_eq!(client.ask("ma n v"), "VA 2");
        assert_eq!(client.line(), "11");
        // A unique of the server's is none of the backup's.
        let old = unique.strip_prefix("HD c").expect("a unique").to_owned();
        assert_eq!(client.ask(&format!("ms k 1 C{old} k\r\nx")), "EX kk");
        let unique = client.ask("mg k c");
        let marked = unique.strip_prefix("HD c").expect("a unique").to_owned();
        assert!(marked.parse::<u64>().expect("a number") >> 62 & 1 == 1, "{marked}");
        assert_eq!(client.ask(&format!("ms k 1 C{marked} T900\r\nb")), "HD");
        // It comes back with nothing, and gets what it is asked for from the backup.
        first = match program {
            None => Node::plain(first.port, &["-m", "16"]),
            Some(program) => memcached(program, first.port),
        };
        let mut direct = first.client();
        common::eventually("the server is used again", || {
            client.ask("mg k s");
            (direct.ask("mg k s") == "HD s1").then_some(())
        });
        assert_eq!(client.ask("mg AP8K b v k"), "VA 2 kAP8K b");
        assert_eq!(client.line(), "bb");
        assert_eq!(direct.ask("mg AP8K b k s"), "HD kAP8K b s2");
        assert_eq!(client.ask("ma n v N0 J1"), "VA 2", "N hides nothing that the backup has");
        assert_eq!(client.line(), "12");
        assert_eq!(direct.ask("mg n s"), "HD s2");
        assert_eq!(client.ask("md AP8K b"), "HD");
        assert_eq!(
            (direct.ask("mg AP8K b"), copy.client().ask("mg AP8K b")),
            ("EN".into(), "EN".into())
        );
    }
}
