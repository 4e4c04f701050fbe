//! The command line of the proxy and of `where`, first through the parser and then through the
//! binary itself.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::process::{Command as Process, Output, Stdio};

use twincached::cli::{self, magent, Command};
use twincached::proxy::config::{Config as ProxyConfig, Distribution, HashName};

/// Words as a shell would split them (no quoting).
fn parse(line: &str) -> Command {
    cli::parse(line.split_whitespace())
}

fn proxy(line: &str) -> ProxyConfig {
    match parse(&format!("twincached proxy {line}")) {
        Command::Proxy(config) => *config,
        other => panic!("{line:?} gives {other:?}"),
    }
}

fn wrong(line: &str) -> String {
    match parse(line) {
        Command::Usage { line, .. } => line,
        other => panic!("{line:?} gives {other:?}"),
    }
}

fn page(line: &str) -> String {
    match parse(line) {
        Command::Print(text) => text,
        other => panic!("{line:?} gives {other:?}"),
    }
}

/// Runs the binary to its end.
fn run(args: &[&str]) -> Output {
    Process::new(env!("CARGO_BIN_EXE_twincached"))
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

#[test]
fn proxy_flags() {
    type Check = fn(&ProxyConfig) -> bool;
    let rows: &[(&str, Check)] = &[
        ("", |c| c.port == 11211 && c.listen.is_empty() && !c.foreground && c.threads == 1),
        ("-s b:5,[::1]:6 -s c", |c| {
            c.servers.len() == 3 && c.servers[1].to_string() == "b:5,[::1]:6"
        }),
        ("-b x,y", |c| c.backups.len() == 1 && c.backups[0].to_string() == "x:11211,y:11211"),
        ("-u 99 -g nogroup", |c| {
            c.user.as_deref() == Some("99") && c.group.as_deref() == Some("nogroup")
        }),
        ("-p 0 -f /run/m.sock", |c| c.port == 0 && c.unix == Some(PathBuf::from("/run/m.sock"))),
        ("-l 127.0.0.1,::1", |c| c.listen.len() == 2),
        ("-n 10 -i 0", |c| (c.max_conns, c.idle_conns) == (10, 0)),
        ("-D", |c| c.foreground && c.verbose == 0),
        ("-vv", |c| c.foreground && c.verbose == 2),
        ("-k", |c| c.distribution == Distribution::MagentKetama),
        ("-t 4 -P /x", |c| c.threads == 4 && c.pid_file == Some(PathBuf::from("/x"))),
        ("-o log_file=/l,connect_timeout=5,request_timeout=6,value_max=2m", |c| {
            c.log_file == Some(PathBuf::from("/l"))
                && (c.connect_timeout_ms, c.request_timeout_ms, c.value_max) == (5, 6, 2 << 20)
        }),
        ("-k -o distribution=magent-ketama,hash=md5", |c| {
            c.distribution == Distribution::MagentKetama && c.hash == Some(HashName::Md5)
        }),
        ("-o distribution=twemproxy-modula,hash=fnv1a_64,hash_tag={}", |c| {
            c.distribution == Distribution::TwemproxyModula
                && (c.hash, c.hash_tag) == (Some(HashName::Fnv1a64), Some((b'{', b'}')))
        }),
        ("-o servers_file=/f,idle_timeout=1,server_idle_timeout=2", |c| {
            c.servers_file == Some(PathBuf::from("/f"))
                && (c.idle_timeout_secs, c.server_idle_secs) == (1, 2)
        }),
        ("-o server_failure_limit=4,server_retry_timeout=5,in_flight=6", |c| {
            (c.failure_limit, c.retry_ms, c.in_flight) == (4, 5, 6)
        }),
        ("-o resolve_interval=0,cold_time=8", |c| (c.resolve_secs, c.cold_secs) == (0, 8)),
        ("-o distribution=jump -s n=[::1]:5:7,/run/m.sock", |c| {
            let group = &c.servers[1];
            (group.first().name.as_deref(), group.first().weight) == (Some("n"), 7)
                && group.to_string() == "[::1]:5,/run/m.sock"
        }),
    ];
    for (line, check) in rows {
        let config = proxy(&format!("-s a {line}"));
        assert!(check(&config), "{line:?} gives {config:?}");
        let as_magent = parse(&format!("/usr/local/bin/magent -s a {line}"));
        assert_eq!(as_magent, Command::Proxy(Box::new(config)));
    }
    for (line, why) in [
        ("", "no server: name at least one with -s host[:port]"),
        ("-s a -p 0", "-p 0 needs a unix socket to listen on: -f file"),
        ("-s a:x", "-s: Invalid port number: \"x\""),
        ("-b a:0 -s a", "-b: Invalid port number: \"0\""),
        ("-s a -n 0", "-n: connections must be a number from 1 to 1073741824, not \"0\""),
        ("-s a -m 64", "invalid option -- 'm'"),
        (
            "-s a -o request_timeout=0",
            "-o request_timeout must be a number from 1 to 3600000, not \"0\"",
        ),
        (
            "-s a -k -o distribution=jump",
            "-k is -o distribution=magent-ketama, not jump: leave one of them out",
        ),
        ("-s a -o hash=md5", "-o hash with the distribution magent is djb, not \"md5\""),
        (
            "-s a -o hash=crc16,distribution=libmemcached-modula",
            "-o hash with the distribution libmemcached-modula must be one of one_at_a_time, md5, \
             crc, fnv1_64, fnv1a_64, fnv1_32, fnv1a_32, hsieh, murmur, murmur3, jenkins, not \
             \"crc16\"",
        ),
        (
            "-s a -o distribution=ketama",
            "-o distribution must be one of magent, magent-ketama, libmemcached-modula, \
             libmemcached-ketama, libmemcached-ketama_weighted, twemproxy-ketama, \
             twemproxy-modula, jump, rendezvous, not \"ketama\"",
        ),
        ("-s a -o hash_tag={", "-o hash_tag must be two characters such as {}, not \"{\""),
        ("-s a -o hash_tag=é", "-o hash_tag must be two characters such as {}, not \"é\""),
        ("-s a -o hash_tag", "Missing argument for suboption \"hash_tag\""),
        ("-s a -o server_connections=2", "Illegal suboption \"server_connections\""),
        ("-s a -o in_flight=0", "-o in_flight must be a number from 1 to 1000000, not \"0\""),
        ("-s a:1:2", "-s a:1: the distribution magent knows no weights; see -o distribution"),
        ("-s a:1:x", "-s: a weight is a number from 1 to 1000000, not \"x\""),
        (
            "-s a -s a:11211 -o distribution=twemproxy-ketama",
            "-s: two servers are called a, which twemproxy-ketama cannot tell apart",
        ),
    ] {
        assert_eq!(wrong(&format!("twincached proxy {line}")), format!("twincached: {why}"));
        assert_eq!(wrong(&format!("magent {line}")), format!("magent: {why}"));
    }
}

#[test]
fn every_distribution_and_hash_has_a_word() {
    for distribution in Distribution::ALL {
        for hash in distribution.hashes() {
            let words = format!("-o distribution={},hash={}", distribution.word(), hash.word());
            let config = proxy(&format!("-s a {words}"));
            assert_eq!((config.distribution, config.hash), (distribution, Some(*hash)), "{words}");
        }
    }
}

#[test]
fn keys_to_look_up() {
    let look = |line: &str| match parse(line) {
        Command::Where { config, keys } => (config, keys),
        other => panic!("{line:?} gives {other:?}"),
    };
    for start in ["twincached where", "twincached proxy where"] {
        let (config, keys) = look(&format!("{start} -s a:1 k1 -b b k2 -- -k"));
        assert_eq!(*config, proxy("-s a:1 -b b"));
        assert_eq!(keys, [&b"k1"[..], b"k2", b"-k"]);
        assert!(look(&format!("{start} -k -s a -p 0")).1.is_empty(), "nobody listens");
        assert_eq!(page(&format!("{start} -h")), page("twincached help where"));
    }
    let help = page("twincached where -h");
    for flag in magent::FLAGS {
        let title = flag.title();
        assert!(help.lines().any(|line| line.starts_with(&title)), "help lacks {title}");
    }
    let raw = |word: &[u8]| OsString::from_vec(word.to_vec());
    let parsed =
        cli::parse(["twincached", "where", "-s", "a"].map(OsString::from).into_iter().chain([
            raw(b"\xff\xfe"),
            raw(b""),
            raw(b" "),
        ]));
    let Command::Where { keys, .. } = parsed else { panic!("{parsed:?}") };
    assert_eq!(keys, [&b"\xff\xfe"[..], b"", b" "]);
    let parsed = cli::parse([raw(b"twincached"), raw(b"where"), raw(b"-s"), raw(b"\xff")]);
    let Command::Usage { line, .. } = parsed else { panic!("{parsed:?}") };
    assert_eq!(line, "twincached: the value of a flag is blank or not UTF-8");
    assert!(wrong("twincached where").contains("no server"));
    assert!(wrong("magent where -s a").contains("unexpected argument 'where'"));
}

/// Where the vectors say keys are, through the program: a whole list through a pipe, answers that
/// come before the next key is asked, and a reader that has seen enough.
#[test]
fn the_binary_knows_where_keys_are() {
    let start = |args: &[&str]| {
        Process::new(env!("CARGO_BIN_EXE_twincached"))
            .arg("where")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts")
    };
    let table = include_str!("vectors/magent.tsv");
    let rows: Vec<Vec<&str>> =
        table.lines().skip(1).map(|line| line.split('\t').collect()).collect();
    let list: Vec<&str> = rows[0][0].split(',').collect();
    let mut args: Vec<&str> = list.iter().flat_map(|server| ["-s", server]).collect();
    args.extend(["-b", "x", "-k"]);
    let rows = rows.iter().filter(|row| row[0] == list.join(","));
    let keys: String = rows.clone().map(|row| format!("{}\r\n", row[1])).collect();
    let expected: String = rows
        .map(|row| format!("{}\t{}\tx:11211\n", row[1], list[row[3].parse::<usize>().unwrap()]))
        .collect();
    let mut program = start(&args);
    program.stdin.take().unwrap().write_all(keys.as_bytes()).unwrap();
    let out = program.wait_with_output().unwrap();
    assert_eq!((out.status.code(), String::from_utf8(out.stdout).unwrap()), (Some(0), expected));

    let mut program = start(&["-s", "a", "-s", "b:5"]);
    let (mut input, output) = (program.stdin.take().unwrap(), program.stdout.take().unwrap());
    let mut lines = BufReader::new(output).lines();
    for (key, answer) in [("key1", "key1\tb:5\t"), ("key2", "key2\ta:11211\t")] {
        writeln!(input, "{key}").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), answer);
    }
    drop(lines);
    // Nobody reads any more: whatever it is asked now, it ends without a word.
    while input.write_all(&b"key1\n".repeat(1000)).is_ok() {}
    let out = program.wait_with_output().unwrap();
    assert_eq!((out.status.code(), out.stderr), (Some(0), Vec::new()));

    let out = run(&["where", "-s", "a", "a b", "key"]);
    assert_eq!((out.status.code(), &out.stdout[..]), (Some(1), &b"key\ta:11211\t\n"[..]));
    assert_eq!(out.stderr, b"twincached: key \"a b\" has a blank in it\n");
    let out = run(&["where", "-o", "servers_file=/nonexistent", "key"]);
    assert_eq!((out.status.code(), out.stdout), (Some(64), Vec::new()));
}
