//! The command line: every flag of every table, getopt's habits, and the sentences about what is
//! wrong, first through the parser and then through the binary itself.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Output, Stdio};

use twincached::cli::table::{Flag, KeyTakes, Takes};
use twincached::cli::{self, extended, magent, man, memcached, verify as verify_flags, Command};
use twincached::demo::DemoConfig;
use twincached::proxy::config::Config as ProxyConfig;
use twincached::server::config::{Config, Personality, Port, Protocol, Replication};

/// Words as a shell would split them (no quoting).
fn parse(line: &str) -> Command {
    cli::parse(line.split_whitespace())
}

fn server(line: &str) -> Config {
    match parse(&format!("twincached {line}")) {
        Command::Server(config) => *config,
        other => panic!("{line:?} gives {other:?}"),
    }
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

#[test]
fn defaults_are_memcacheds() {
    let config = server("");
    assert_eq!(config, Config::default());
    assert_eq!((config.port, config.max_conns, config.threads), (Port::Number(11211), 1024, 4));
    assert_eq!((config.memory_limit, config.item_max), (64 << 20, 1 << 20));
    assert_eq!((config.backlog, config.reqs_per_event, config.unix_mode), (1024, 20, 0o700));
    assert_eq!(config.replication, None);
}

#[test]
fn replication_keys() {
    let r = |words: &str| server(&format!("-x peer {words}")).replication.unwrap();
    assert_eq!(r(""), Replication { peers: vec!["peer".into()], ..Replication::default() });
    let all = r(
        "-o repl_ack=2,repl_ack_timeout=250ms,repl_ack_degrade,repl_timeout=2,\
         repl_allow=10.0.0.0/8,fd00::/8,192.168.1.7,repl_secret_file=/etc/secret,repl_tombstone=60",
    );
    let networks: Vec<String> = all.allow.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "fd00::/8", "192.168.1.7/32"]);
    assert_eq!((all.ack, all.ack_timeout_ms, all.ack_degrade), (2, 250, true));
    assert_eq!((all.timeout_ms, all.tombstone_secs), (2000, 60));
    assert_eq!(all.secret_file.as_deref(), Some(std::path::Path::new("/etc/secret")));
    for (time, ms) in [("0.5", 500), ("2s", 2000), ("60", 60_000), ("61", 61), ("1500", 1500)] {
        assert_eq!(r(&format!("-o repl_ack_timeout={time}")).ack_timeout_ms, ms, "{time}");
    }
    for wrong in [
        "repl_ack=x",
        "repl_ack_timeout=0",
        "repl_ack_timeout=1m",
        "repl_timeout=0.05",
        "repl_allow=somewhere",
        "repl_allow=10.0.0.0/33",
        "repl_allow=10.0.0.0/8,10.0.0.0/40",
        "repl_secret_file=",
        "10.0.0.0/8",
    ] {
        let why = self::wrong(&format!("twincached -x a -o {wrong}"));
        assert!(why.contains("repl_") || why.contains("suboption"), "{wrong}: {why}");
    }
    let alone = server("-o repl_ack=1");
    assert!(alone.replication.is_none());
    assert!(alone.notes[0].starts_with("-o repl_ack without -x or -X"), "{:?}", alone.notes);
}

#[test]
fn the_seeds_command_line() {
    let config = server("-v -u root -d -l 127.0.0.1 -p 11211 -x 127.0.0.1 -X 11111");
    assert!(config.daemon && config.verbose == 1 && config.notes.is_empty());
    assert_eq!(config.user.as_deref(), Some("root"));
    assert_eq!(config.listen, ["127.0.0.1"]);
    assert_eq!(
        config.replication,
        Some(Replication {
            peers: vec!["127.0.0.1".into()],
            port: 11111,
            ..Replication::default()
        })
    );
    let config = proxy(
        "-u root -n 51200 -l 127.0.0.1 -p 12000 -s 127.0.0.1:11211 -s 127.0.0.1:11212 \
         -b 127.0.0.1:11213",
    );
    let names = |all: &[twincached::proxy::config::Place]| {
        all.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(names(&config.servers), ["127.0.0.1:11211", "127.0.0.1:11212"]);
    assert_eq!(names(&config.backups), ["127.0.0.1:11213"]);
    assert_eq!((config.max_conns, config.port, config.foreground), (51200, 12000, false));
}

/// What one flag does, for every spelling of it.
#[test]
fn every_server_flag_does_its_work() {
    type Check = fn(&Config) -> bool;
    let rows: &[(&str, Check)] = &[
        ("-p 1234", |c| c.port == Port::Number(1234)),
        ("-p1234", |c| c.port == Port::Number(1234)),
        ("--port=1234", |c| c.port == Port::Number(1234)),
        ("--port 1234", |c| c.port == Port::Number(1234)),
        ("--po 1234", |c| c.port == Port::Number(1234)),
        ("-p 1 -p 2", |c| c.port == Port::Number(2)),
        ("-p -1", |c| c.port == Port::Any),
        ("-p 0", |c| c.port == Port::Off),
        ("-U 0", |c| c.warnings.is_empty() && c.udp_port == Port::Off),
        ("-U 11222", |c| c.udp_port == Port::Number(11222) && c.port == Port::Number(11222)),
        ("-U -1", |c| c.udp_port == Port::Any && c.port == Port::Any),
        ("-p 1 -U 2", |c| c.udp_port == Port::Number(2) && c.port == Port::Number(1)),
        ("-U 2 -p -1", |c| c.udp_port == Port::Number(2) && c.port == Port::Any),
        ("-s /run/x.sock", |c| {
            c.unix_path == Some(PathBuf::from("/run/x.sock")) && c.port == Port::Off
        }),
        ("-a 0770", |c| c.unix_mode == 0o770),
        ("--unix-mask=600", |c| c.unix_mode == 0o600),
        ("-A", |c| c.shutdown_command),
        ("-l 127.0.0.1,::1 -l host:5", |c| c.listen == ["127.0.0.1", "::1", "host:5"]),
        ("-l 127.0.0.1:0,[::1]:-1", |c| c.listen == ["127.0.0.1:0", "[::1]:0"]),
        ("--listen=[::1]:7", |c| c.listen == ["[::1]:7"]),
        ("-d", |c| c.daemon),
        ("-r", |c| c.core_dumps),
        ("-u nobody", |c| c.user.as_deref() == Some("nobody")),
        ("-m 1", |c| c.memory_limit == 1 << 20 && c.item_max == 512 << 10),
        ("-m 2", |c| c.memory_limit == 2 << 20 && c.item_max == 1 << 20),
        ("-m 2048 -I 1g", |c| c.item_max == 1 << 30),
        ("-M", |c| !c.evict),
        ("-c 51200", |c| c.max_conns == 51200),
        ("-k", |c| c.lock_memory),
        ("-v", |c| c.verbose == 1),
        ("-vv", |c| c.verbose == 2),
        ("-v -vv --verbose", |c| c.verbose == 4),
        ("-P /run/x.pid", |c| c.pid_file == Some(PathBuf::from("/run/x.pid"))),
        ("-t 8", |c| c.threads == 8),
        ("-t 128", |c| c.threads == 128 && c.warnings.len() == 1),
        ("-R 100", |c| c.reqs_per_event == 100),
        ("-C", |c| !c.cas),
        ("-b 4096", |c| c.backlog == 4096),
        ("-b 0", |c| c.backlog == 0),
        ("-B ascii", |c| c.protocol == Protocol::Ascii),
        ("-B binary", |c| c.protocol == Protocol::Binary),
        ("-S", |c| c.sasl && c.auth_file.is_none() && c.protocol == Protocol::Binary),
        ("-S -B binary", |c| c.sasl && c.protocol == Protocol::Binary),
        ("-Y /x", |c| !c.sasl && c.protocol == Protocol::Ascii),
        ("--auth-file=/x -B ascii", |c| c.auth_file == Some(PathBuf::from("/x"))),
        ("-S -Y /x", |c| c.sasl && c.auth_file.is_some() && c.protocol == Protocol::Auto),
        ("-S -Y /x -B binary", |c| c.protocol == Protocol::Binary),
        ("-B auto", |c| c.protocol == Protocol::Auto),
        ("-I 2m", |c| c.item_max == 2 << 20),
        ("-I 1024", |c| c.item_max == 1024),
        ("-I 512k", |c| c.item_max == 512 << 10),
        ("-F", |c| !c.flush_command),
        ("--disable-dumping", |c| !c.dump_command),
        ("--disable-watch", |c| !c.watchers_allowed),
        ("-D :", |c| c.detail_enabled && c.prefix_delimiter == b':'),
        ("-D|", |c| c.detail_enabled && c.prefix_delimiter == b'|'),
        ("-x a,b:5 -x [::1]:6", |c| {
            c.replication.as_ref().is_some_and(|r| {
                r.peers == ["a", "b:5", "[::1]:6"] && r.port == 11212 && r.queue_max == 8192
            })
        }),
        ("-X 11111", |c| {
            c.replication.as_ref().is_some_and(|r| r.peers.is_empty() && r.port == 11111)
        }),
        ("-X", |c| c.replication.is_none() && !c.dump_command),
        ("-vX -d", |c| !c.dump_command && c.daemon && c.verbose == 1),
        ("-X -X 11111", |c| !c.dump_command && c.replication.is_some()),
        ("--replication-port=11111 -X11112", |c| {
            c.dump_command && c.replication.as_ref().is_some_and(|r| r.port == 11112)
        }),
        ("--replication-port 11111", |c| c.replication.is_some()),
        ("--verbose=2 --verb", |c| c.verbose == 2),
        ("-U 5 -s /x", |c| c.udp_port == Port::Off && c.port == Port::Off),
        ("-l 127.0.0.1;tag_b_:[::1]:7", |c| c.listen == ["127.0.0.1", "[::1]:7"]),
        ("-x a -q 10", |c| c.replication.as_ref().is_some_and(|r| r.queue_max == 10)),
        ("-q 10", |c| c.replication.is_none() && c.notes.len() == 1),
        ("-f 1.05", |c| c.growth_factor == 1.05 && c.notes.len() == 1),
        ("--factor=2", |c| c.growth_factor == 2.0),
        ("-n 96", |c| c.chunk_size == 96 && c.notes.len() == 1),
        ("-L", |c| c.large_pages && c.notes.len() == 1),
        ("-L -L -f 1.1 -f 1.2", |c| c.notes.len() == 2),
        ("-N 4", |c| c.notes.len() == 1),
        ("-o log_file=/var/log/x", |c| c.log_file == Some(PathBuf::from("/var/log/x"))),
        ("-o personality=memcached", |c| c.personality == Personality::Memcached),
        ("-o no_maxconns_fast", |c| !c.maxconns_fast && c.notes.is_empty()),
        ("-o no_maxconns_fast=1,", |c| !c.maxconns_fast),
        ("-o maxconns_fast,idle_timeout=60", |c| c.maxconns_fast && c.idle_timeout_secs == 60),
        ("-o watcher_logbuf_size=64", |c| c.watcher_logbuf == 64 << 10),
        ("-o worker_logbuf_size=8", |c| c.worker_logbuf == 8 << 10),
        ("-o track_sizes,debug_clock", |c| c.track_sizes && c.debug_clock),
        ("-o slab_chunk_max=16,temporary_ttl=61", |c| {
            c.slab_chunk_max == 16 << 10 && c.temporary_ttl == Some(61) && c.notes.is_empty()
        }),
        ("-o slab_chunk_max=0", |c| c.slab_chunk_max == 512 << 10),
        ("-o no_lru_crawler,no_lru_maintainer", |c| !c.lru_crawler && !c.lru_maintainer),
        ("-o no_modern,lru_crawler", |c| c.lru_crawler && !c.lru_maintainer),
        ("-o relaxed_privileges", |c| *c == Config { notes: c.notes.clone(), ..server("") }),
        ("-o slab_reassign,slab_automove=1 -o hashpower=20,tail_repair_time=60", |c| {
            c.notes.len() == 4
                && c.notes[0] == "-o slab_reassign has no meaning here and is ignored"
        }),
    ];
    let mut seen = BTreeSet::new();
    for (line, check) in rows {
        let config = server(line);
        assert!(check(&config), "{line:?} gives {config:?}");
        for flag in memcached::FLAGS {
            let spelled = |word: &str| {
                flag.short.is_some_and(|c| word.starts_with(&format!("-{c}")))
                    || flag.longs.iter().any(|l| word.starts_with(&format!("--{l}")))
            };
            if line.split_whitespace().any(spelled) {
                seen.insert(flag.title());
            }
        }
    }
    for (program, debug_clock) in
        [("memcached", false), ("/usr/bin/memcached-debug", true), ("twincached", false)]
    {
        let Command::Server(config) = cli::parse([program]) else { panic!("{program}") };
        assert_eq!(config.debug_clock, debug_clock, "{program}");
        assert_eq!(config.personality == Personality::Memcached, program != "twincached");
    }
    // Pages and refusals are checked by other tests of this file.
    for flag in memcached::FLAGS {
        let elsewhere =
            matches!(flag.takes, Takes::Print(_)) || flag.short.is_some_and(|c| "Ze".contains(c));
        assert!(elsewhere || seen.contains(&flag.title()), "no row for {}", flag.title());
    }
}

#[test]
fn every_flag_the_world_uses_is_in_a_table() {
    let shorts = |flags: Vec<Option<char>>| flags.into_iter().flatten().collect::<BTreeSet<_>>();
    let ours = shorts(memcached::FLAGS.iter().map(|f| f.short).collect());
    for c in "pUsaldruPmMckvhVitRCbBILFADfnoxXqSWYeZN".chars() {
        assert!(ours.contains(&c), "-{c}");
    }
    let ours = shorts(magent::FLAGS.iter().map(|f| f.short).collect());
    for c in "hugpsblnDkfiv".chars() {
        assert!(ours.contains(&c), "magent -{c}");
    }
    let longs: BTreeSet<&str> = memcached::FLAGS.iter().flat_map(|f| f.longs).copied().collect();
    // The long names of memcached 1.6's -h.
    for long in [
        "port",
        "udp-port",
        "unix-socket",
        "unix-mask",
        "enable-shutdown",
        "listen",
        "daemon",
        "enable-coredumps",
        "user",
        "memory-limit",
        "disable-evictions",
        "conn-limit",
        "lock-memory",
        "verbose",
        "help",
        "license",
        "version",
        "pidfile",
        "slab-growth-factor",
        "slab-min-size",
        "enable-largepages",
        "threads",
        "max-reqs-per-event",
        "disable-cas",
        "listen-backlog",
        "protocol",
        "max-item-size",
        "enable-sasl",
        "disable-flush-all",
        "disable-dumping",
        "disable-watch",
        "auth-file",
        "memory-file",
        "enable-ssl",
        "extended",
        "napi_ids",
    ] {
        assert!(longs.contains(long), "--{long}");
    }
}

#[test]
fn every_extended_key_is_accepted_or_refused_in_words() {
    for key in extended::KEYS {
        let name = key.name.trim_end_matches('*');
        let line = match key.takes {
            KeyTakes::Value(..) | KeyTakes::Values(..) => continue, // has a row above
            KeyTakes::MeaninglessNumber(_, ref range, _) => format!("-o {name}={}", range.end()),
            KeyTakes::MeaninglessWord(_, words, _) => format!("-o {name}={}", words[0]),
            _ => format!("-o {name}"),
        };
        match key.takes {
            KeyTakes::Refused(why) => {
                assert_eq!(wrong(&format!("twincached {line}")), format!("twincached: {why}"));
            }
            KeyTakes::Meaningless(_)
            | KeyTakes::MeaninglessNumber(..)
            | KeyTakes::MeaninglessWord(..) => {
                assert_eq!(server(&line).notes.len(), 1, "{line}");
            }
            // Some are remembered, and still mean nothing.
            _ => assert!(server(&line).notes.len() <= 1, "{line}"),
        }
    }
}

#[test]
fn what_is_wrong_gets_one_sentence() {
    for (line, why) in [
        ("-z", "invalid option -- 'z'"),
        ("-dz", "invalid option -- 'z'"),
        ("-p", "option requires an argument -- 'p'"),
        ("--port", "option '--port' requires an argument"),
        ("--foo", "unrecognized option '--foo'"),
        ("--daemon=yes", "option '--daemon' doesn't allow an argument"),
        ("--un x", "option '--un' is ambiguous: '--unix-socket' or '--unix-mask'"),
        (
            "extra",
            "unknown command 'extra'; there is proxy, where, verify, demo and help, or flags for a \
             server",
        ),
        ("-d extra", "unexpected argument 'extra'"),
        ("-d -- -v", "unexpected argument '-v'"),
        ("-p abc", "ERROR: Invalid port number abc."),
        ("-p 99999", "ERROR: Invalid port number 99999."),
        ("-p -2", "ERROR: Invalid port number -2."),
        ("-p 12x", "ERROR: Invalid port number 12x."),
        ("-U abc", "ERROR: Invalid UDP port number abc."),
        ("-c 0", "Maximum connections must be greater than 0"),
        ("-c -1", "Maximum connections must be greater than 0"),
        ("-c abc", "-c: connections must be a number from 1 to 1073741823, not \"abc\""),
        ("-t 0", "Number of threads must be greater than 0"),
        ("-t 1000", "-t: threads must be a number from 1 to 256, not \"1000\""),
        ("-R 0", "Number of requests per event must be greater than 0"),
        ("-b abc", "-b: backlog must be a number from 0 to 2147483647, not \"abc\""),
        ("-m 0", "-m must be 1 to 524288 megabytes, not \"0\""),
        ("-m 524289", "-m must be 1 to 524288 megabytes, not \"524289\""),
        ("-m abc", "-m must be 1 to 524288 megabytes, not \"abc\""),
        (
            "-m 18446744073709551615",
            "-m must be 1 to 524288 megabytes, not \"18446744073709551615\"",
        ),
        ("-I 1023", "Item max size cannot be less than 1024 bytes."),
        ("-I 64m", "Cannot set item size limit higher than 1/2 of memory max."),
        ("-m 1 -I 1m", "Cannot set item size limit higher than 1/2 of memory max."),
        ("-m 8192 -I 1025m", "Cannot set item size limit higher than a gigabyte."),
        ("-I x", "-I must be a size such as 1048576, 512k or 2m, not \"x\""),
        ("-a 999", "-a must be an octal access mask from 0 to 777, not \"999\""),
        ("-a 7777", "-a must be an octal access mask from 0 to 777, not \"7777\""),
        (
            "-B foo",
            "Invalid value for binding protocol: foo -- should be one of auto, binary, or ascii",
        ),
        ("-f 0.5", "Factor must be greater than 1"),
        ("-f nan", "Factor must be greater than 1"),
        ("-n 0", "Chunk size must be greater than 0"),
        ("-l 127.0.0.1:abc", "-l: Invalid port number: \"abc\""),
        ("-l [::1", "-l: Invalid IPV6 address: \"[::1\""),
        ("-x a:0", "-x: Invalid port number: \"0\""),
        ("-x ,", "-x must name at least one address"),
        ("-X 0", "-X: replication port must be a number from 1 to 65535, not \"0\""),
        ("-q 0", "-q: queue length must be a number from 1 to 67108864, not \"0\""),
        ("-o foo", "Illegal suboption \"foo\""),
        ("-o modern,foo=1", "Illegal suboption \"foo=1\""),
        ("-o hashpower", "Missing numeric argument for hashpower"),
        ("-o hashpower=11", "Initial hashtable multiplier must be from 12 to 32"),
        ("-o hash_algorithm=md5", "Unknown hash_algorithm option (jenkins, murmur3, xxh3)"),
        ("-o hash_algorithm", "Missing hash_algorithm argument"),
        ("-o tail_repair_time=9", "Cannot set tail_repair_time to less than 10 seconds"),
        ("-o hot_lru_pct=80", "hot_lru_pct must be > 1 and < 80"),
        ("-o warm_max_factor=0", "warm_max_factor must be > 0"),
        ("-N 0", "Maximum number of NAPI IDs must be greater than 0"),
        ("-l notls:127.0.0.1", "-l: 'notls' option is valid only when SSL is enabled"),
        (
            "-l proto[ascii]:127.0.0.1",
            "-l: all addresses speak one protocol (-B): proto[...] is not supported",
        ),
        ("-X -d 5", "unexpected argument '5'"),
        ("-o hashpower=x", "Suboption \"hashpower\" wants a number, not \"x\""),
        ("-o log_file", "Missing argument for suboption \"log_file\""),
        ("-o log_file=", "Missing argument for suboption \"log_file\""),
        ("-o no_modern,temporary_ttl=61", "temporary_ttl requires lru_maintainer to be enabled"),
        ("-o personality=redis", "personality must be memcached or twincached, not \"redis\""),
        ("-o ssl_key=/x", "TLS is not supported"),
        ("-o ext_path=/x:1G", "external storage (extstore) is not supported"),
        ("-S -B auto", "ERROR: You cannot allow the ASCII protocol while using SASL."),
        ("-S -B ascii", "ERROR: You cannot allow the ASCII protocol while using SASL."),
        ("-S -Y /x -B ascii", "ERROR: You cannot allow the ASCII protocol while using SASL."),
        ("-S -U 1", "ERROR: Cannot enable UDP while using binary SASL authentication."),
        (
            "-Y /x -B binary",
            "ERROR: You cannot allow the BINARY protocol while using ascii authentication tokens.",
        ),
        (
            "-Y /x -B auto",
            "ERROR: You cannot allow the BINARY protocol while using ascii authentication tokens.",
        ),
        ("-Y /x -s /y -U -1", "Cannot use UDP with ascii authentication enabled (-U 0 to disable)"),
        ("-Y", "option requires an argument -- 'Y'"),
        ("-Z", "-Z: TLS is not supported"),
        ("-e /x", "-e: a memory file is not supported"),
        ("help me", "no help for 'me'; there is proxy, where, verify and demo"),
        ("demo -x", "invalid option -- 'x'"),
    ] {
        assert_eq!(wrong(&format!("twincached {line}")), format!("twincached: {why}"), "{line}");
        assert!(!why.contains('\n'));
    }
    assert!(matches!(cli::parse(["twincached", "-D", ""]), Command::Usage { line, status: 1 }
        if line == "twincached: No delimiter specified"));
    let not_utf8 = std::ffi::OsString::from_vec(b"-P\xff".to_vec());
    assert!(matches!(
        cli::parse(["twincached".into(), not_utf8]),
        Command::Usage { status: 64, .. }
    ));
}

/// Words that a confused or hostile caller may put together: flags, values, pieces of both.
#[test]
fn any_words_give_a_command_or_one_sentence() {
    let mut pieces: Vec<String> =
        ["", "-", "--", "=", "-p", "-1", "é", "\u{0}", "a\nb", "99999999999999999999"]
            .map(str::to_owned)
            .to_vec();
    for word in
        ["proxy", "verify", "demo", "help", "man-page", "127.0.0.1", "[::1]:5", "a,b", "1g", ","]
    {
        pieces.push(word.into());
    }
    for flag in memcached::FLAGS {
        pieces.extend(flag.short.map(|c| format!("-{c}")));
        pieces.extend(flag.longs.iter().map(|long| format!("--{long}")));
    }
    pieces.extend(extended::KEYS.iter().map(|key| format!("-o{}", key.name)));
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_261_122u64);
    let mut state = seed;
    let mut random = |below: usize| {
        // Knuth's MMIX generator; its high bits are the good ones.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut usage = 0;
    for round in 0..20_000 {
        let mut argv = vec![["twincached", "memcached", "magent"][random(3)].to_string()];
        for _ in 0..random(6) {
            let mut word = pieces[random(pieces.len())].clone();
            for _ in 0..random(3) {
                word.push_str(["=", ":", ",", "0", "v", "k", "-"][random(7)]);
            }
            if random(4) == 0 {
                word.push_str(&pieces[random(pieces.len())]);
            }
            argv.push(word);
        }
        if let Command::Usage { line: why, .. } = cli::parse(&argv) {
            usage += 1;
            assert!(
                !why.contains(char::is_control),
                "SEED={seed} round {round}: {argv:?} gives {why:?}"
            );
        }
    }
    assert!((1000..19_900).contains(&usage), "the words are too tame or too wild: {usage}");
}

#[test]
fn getopts_habits() {
    let config = server("-dvvM -m64 -p 11311 -lhost -vuroot");
    assert!(config.daemon && config.verbose == 3 && !config.evict);
    assert_eq!(
        (config.port, config.listen.as_slice()),
        (Port::Number(11311), &["host".into()][..])
    );
    assert_eq!(config.user.as_deref(), Some("root"));
    // A value that looks like an option is a value.
    assert_eq!(server("-P --port -p 5").pid_file, Some(PathBuf::from("--port")));
    assert_eq!(server("-P -- -p 5").port, Port::Number(5));
    assert_eq!(server("-- ").port, Port::Number(11211));
    // An init script's empty "$OPTIONS", and a line of a conf file as one word.
    let words = ["twincached", "-p", "5", "", "-m 32", " "];
    let Command::Server(config) = cli::parse(words) else { panic!("not a server") };
    assert_eq!((config.port, config.memory_limit), (Port::Number(5), 32 << 20));
    // Nothing at all, not even a program's name.
    assert!(matches!(cli::parse(Vec::<String>::new()), Command::Server(_)));
}

#[test]
fn init_scripts_of_distributions_parse() {
    // Debian's memcached.conf after its start script, and RPM's sysconfig after its unit.
    let config = server(
        "-m 64 -p 11211 -u memcache -l 127.0.0.1 -l ::1 -P /run/memcached/memcached.pid -c 1024 \
         -k -M -r",
    );
    assert_eq!(config.listen, ["127.0.0.1", "::1"]);
    let config = server("-p 11211 -u memcached -m 64 -c 1024 -l 127.0.0.1,::1 -U 0");
    assert_eq!((config.listen.len(), config.warnings.len()), (2, 0));
    let config =
        server("-d -p 11211 -u memcached -m 64 -c 1024 -P /var/run/memcached/memcached.pid");
    assert!(config.daemon);
    let Command::Server(config) =
        parse("/usr/bin/memcached -l 127.0.0.1 -p 22122 -U 0 -u root -t 2")
    else {
        panic!("not a server");
    };
    assert_eq!(config.personality, Personality::Memcached);
}

#[test]
fn demo_flags() {
    assert_eq!(parse("twincached demo"), Command::Demo(DemoConfig { stay: false }));
    assert_eq!(parse("twincached demo --stay"), Command::Demo(DemoConfig { stay: true }));
    assert!(page("twincached demo -h").contains("--stay"));
}

fn lists_every_flag<D>(help: &str, flags: &[Flag<D>]) {
    for flag in flags.iter().filter(|flag| !flag.help.is_empty()) {
        let title = flag.title();
        assert!(help.lines().any(|line| line.starts_with(&title)), "help lacks {title}");
    }
    for line in help.lines() {
        assert!(line.len() <= 80 && line.trim_end() == line, "{line:?}");
    }
}

#[test]
fn help_lists_what_is_there_and_nothing_else() {
    let help = page("twincached -h");
    assert!(help.starts_with("twincached 0.1.0 (memcached 1.6."), "{help}");
    assert_eq!(help, page("twincached --help"));
    assert_eq!(help, page("twincached help"));
    lists_every_flag(&help, memcached::FLAGS);
    // Test suites look for these words.
    for present in ["unix-socket", "no_maxconns_fast", "sasl"] {
        assert!(help.contains(present), "{present}");
    }
    for absent in ["no_drop_privileges", "enable-ssl", "proxy_config", "ext_path"] {
        assert!(!help.contains(absent), "help must not promise {absent}");
    }
    for line in
        ["memcached -h", "twincached -h -o personality=memcached", "/opt/memcached-debug -h"]
    {
        let first = page(line).lines().next().map(str::to_owned);
        assert_eq!(first.as_deref(), Some("memcached 1.6.45"), "{line}");
    }
    assert_eq!(page("memcached -V"), "memcached 1.6.45\n");
    assert_eq!(page("twincached --version"), page("twincached -V"));
    assert_eq!(page("twincached version"), page("twincached -V"));
    assert!(page("twincached -i").contains("Redistribution and use"));
    let help = page("magent -h");
    assert!(help.starts_with("memcached agent v0.6"), "{help}");
    lists_every_flag(&help, magent::FLAGS);
    assert_eq!(page("twincached help proxy"), page("twincached proxy -h"));
    // A page wins over other flags.
    assert!(page("twincached -d -p 5 -h").contains("--port"));
}

#[test]
fn nodes_to_verify() {
    use twincached::verify::Config as VerifyConfig;
    let verify = |line: &str| match parse(&format!("twincached verify {line}")) {
        Command::Verify(config) => config,
        other => panic!("{line:?} gives {other:?}"),
    };
    let names = |config: &VerifyConfig| -> Vec<String> {
        config.nodes.iter().map(ToString::to_string).collect()
    };
    let plain = verify("a:1 [::1]:2,c");
    assert_eq!(names(&plain), ["a:1", "[::1]:2", "c"]);
    assert_eq!(plain, VerifyConfig { nodes: plain.nodes.clone(), ..VerifyConfig::default() });
    let all = verify("a:1 -w 0.5 -n3 b:2 -t 2s -Y users -Sv");
    assert_eq!(names(&all), ["a:1", "b:2"]);
    assert_eq!((all.wait_ms, all.names_max, all.timeout_ms), (500, 3, 2000));
    assert_eq!(all.auth_file.as_deref(), Some(Path::new("users")));
    assert!(all.binary && all.verbose);
    assert_eq!(verify("a b -w0").wait_ms, 0);
    for (line, why) in [
        ("", "name at least two nodes"),
        ("a", "name at least two nodes"),
        ("a a", "a is named twice"),
        ("a b:0", "Invalid port number"),
        ("a b -n x", "-n: keys must be a number"),
        ("a b -Z", "invalid option -- 'Z'"),
    ] {
        let Command::Usage { line: said, status } = parse(&format!("twincached verify {line}"))
        else {
            panic!("{line}");
        };
        assert!(said.starts_with("twincached: ") && said.contains(why), "{said}");
        assert_eq!(status, 64, "{line}");
    }
    lists_every_flag(&page("twincached verify -h"), verify_flags::FLAGS);
    assert_eq!(page("twincached help verify"), page("twincached verify -h"));
}

#[test]
fn the_manual_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/twincached.1");
    let packaged = std::fs::read_to_string(&path).expect("packaging/twincached.1");
    assert!(
        packaged == man::page(),
        "the flags have changed: cargo run -- man-page > packaging/twincached.1"
    );
    assert_eq!(page("twincached man-page"), man::page());
}

/// Runs the binary to its end.
fn run(name: &str, args: &[&str]) -> Output {
    Process::new(env!("CARGO_BIN_EXE_twincached"))
        .arg0(name)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

#[test]
fn the_binary_prints_pages_and_exits_0() {
    for (name, args) in [
        ("twincached", &["-h"][..]),
        ("memcached", &["-V"]),
        ("memcached", &["-i"]),
        ("magent", &["-h"]),
        ("twincached", &["proxy", "-h"]),
        ("twincached", &["demo", "-h"]),
    ] {
        let out = run(name, args);
        assert_eq!(out.status.code(), Some(0), "{name} {args:?}");
        assert!(out.stderr.is_empty() && !out.stdout.is_empty(), "{name} {args:?}: {out:?}");
    }
}

#[test]
fn the_binary_says_one_line_and_exits_as_memcached_does() {
    for (name, args, status) in [
        ("twincached", &["-z"][..], 1),
        ("twincached", &["--foo"], 1),
        ("twincached", &["-p"], 1),
        ("twincached", &["-c", "0"], 1),
        ("twincached", &["-o", "foo"], 1),
        ("twincached", &["-p", "abc"], 64),
        ("twincached", &["-I", "1000"], 64),
        ("twincached", &["-B", "http"], 64),
        ("twincached", &["-S", "-B", "ascii"], 64),
        ("twincached", &["-u", "root", "-l", "lo", "-p", "1"], 71),
        ("magent", &[], 64),
        ("twincached", &["proxy", "-q"], 64),
        ("twincached", &["-u", "root", "-p", "0", "-c", "1000000000"], 71),
        ("twincached", &["-u", "root", "-l", "192.0.2.1", "-p", "1"], 71),
        ("twincached", &["-u", "root", "-s", "/nonexistent/dir/socket"], 71),
        ("twincached", &["-u", "root", "-d", "-s", "/nonexistent/dir/socket"], 71),
        ("twincached", &["-u", "root", "-p", "0", "-o", "log_file=/nonexistent/log"], 71),
        ("magent", &["-s", "127.0.0.1", "-p", "0", "-f", "/nonexistent/dir/socket"], 71),
        ("magent", &["-s", "127.0.0.1", "-p", "1", "-l", "192.0.2.1"], 71),
    ] {
        let out = run(name, args);
        let text = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(status), "{name} {args:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{name} {args:?}: {text}");
        assert!(out.stdout.is_empty(), "{name} {args:?}");
    }
}

#[test]
fn root_has_to_say_whom_to_become() {
    if !twincached::platform::user::is_root() {
        eprintln!("SKIPPED: not root");
        return;
    }
    let out = run("twincached", &["-p", "0"]);
    assert_eq!(out.status.code(), Some(64));
    assert_eq!(out.stderr, b"can't run as root without the -u switch\n");
    let out = run("twincached", &["-p", "0", "-u", "no-such-user"]);
    assert_eq!(out.status.code(), Some(67));
    assert_eq!(out.stderr, b"can't find the user no-such-user to switch to\n");
}
