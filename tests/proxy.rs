//! The proxy over real sockets, in front of real `memcached` processes and of servers that lie.
//!
//! Servers are killed, restarted empty, cut off and hushed; whatever the proxy answers meanwhile
//! must be a value of the key that was asked, and must come.

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use common::{eventually, free_port, peer_program, Client, Node};
use twincached::demo::Cable;
use twincached::proxy::{self, Config, ServerAddr};

/// A proxy in this process, for as long as the process lives. Returns its port.
fn proxy_with(servers: &[u16], backups: &[u16], more: impl FnOnce(&mut Config)) -> u16 {
    let addr = |&port: &u16| ServerAddr::tcp("127.0.0.1", port).into();
    let port = free_port();
    let mut config = Config {
        listen: vec!["127.0.0.1".into()],
        port,
        servers: servers.iter().map(addr).collect(),
        backups: backups.iter().map(addr).collect(),
        foreground: true,
        ..Config::default()
    };
    more(&mut config);
    std::thread::spawn(move || {
        let status = proxy::run(config);
        panic!("the proxy ended with status {status}");
    });
    eventually("the proxy listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    port
}

fn proxy_port(servers: &[u16], backups: &[u16]) -> u16 {
    proxy_with(servers, backups, |_| {})
}

/// A real memcached.
fn memcached(program: &str, port: u16) -> Node {
    let port_text = port.to_string();
    let mut command = Command::new(program);
    command.args(["-u", "root", "-l", "127.0.0.1", "-U", "0", "-m", "64", "-p", &port_text]);
    let node = Node::spawn(&mut command, port);
    node.await_port();
    node
}

/// Two servers and a backup behind a proxy.
struct Site {
    program: &'static str,
    servers: Vec<Node>,
    backup: Node,
    proxy: u16,
}

impl Site {
    fn start() -> Option<Site> {
        let program = peer_program("memcached")?;
        let servers: Vec<Node> = [0, 1].iter().map(|_| memcached(program, free_port())).collect();
        let backup = memcached(program, free_port());
        let proxy = proxy_port(&[servers[0].port, servers[1].port], &[backup.port]);
        Some(Site { program, servers, backup, proxy })
    }

    fn client(&self) -> Client {
        Client::connect(self.proxy)
    }

    fn kill_servers(&mut self) {
        self.servers.iter_mut().for_each(Node::kill);
    }

    /// Empty servers on the old ports.
    fn restart_servers(&mut self) {
        for server in &mut self.servers {
            *server = memcached(self.program, server.port);
        }
    }
}

#[test]
fn the_transcript_of_the_seed() {
    let Some(mut site) = Site::start() else { return };
    let mut client = site.client();
    assert_eq!(client.set("key1", "aa"), "STORED");
    assert_eq!(client.set("key2", "bb"), "STORED");
    let at = |node: &Node, key: &str| node.client().get(key);
    assert_eq!(at(&site.servers[1], "key1").as_deref(), Some("aa"));
    assert_eq!(at(&site.servers[0], "key2").as_deref(), Some("bb"));
    assert_eq!(at(&site.servers[0], "key1"), None);
    assert_eq!(at(&site.servers[1], "key2"), None);
    for (key, value) in [("key1", "aa"), ("key2", "bb")] {
        assert_eq!(at(&site.backup, key).as_deref(), Some(value));
    }
    site.kill_servers();
    for (key, value) in [("key1", "aa"), ("key2", "bb")] {
        assert_eq!(client.get(key).as_deref(), Some(value), "from the backup");
    }
    site.restart_servers();
    for (key, value) in [("key1", "aa"), ("key2", "bb")] {
        assert_eq!(client.get(key).as_deref(), Some(value), "servers are back, and empty");
    }
    for (server, key, value) in [(1, "key1", "aa"), (0, "key2", "bb")] {
        let mut direct = site.servers[server].client();
        eventually("the value is put back", || {
            assert_eq!(client.get(key).as_deref(), Some(value));
            (direct.get(key).as_deref() == Some(value)).then_some(())
        });
    }
}

/// The program's own commands, unchanged from the seed: nodes with one megabyte, the proxy as
/// `twincached proxy` and under the name `magent`.
#[test]
fn the_transcript_with_our_own_program() {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_twincached"));
    let folder = std::env::temp_dir().join(format!("twincached-proxy-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let magent = folder.join("magent");
    std::os::unix::fs::symlink(program, &magent).expect("a link");
    let magent_text = magent.to_string_lossy().into_owned();
    let starts: [&[&str]; 2] = [&[&program.to_string_lossy(), "proxy"], &[&magent_text]];
    for start in starts {
        let ports = [free_port(), free_port(), free_port()];
        let mut nodes = ports.map(|port| Node::plain(port, &[]));
        let front = free_port();
        let addr = |n: usize| format!("127.0.0.1:{}", ports[n]);
        let mut command = Command::new(start[0]);
        command.args(&start[1..]).args(["-D", "-u", "root", "-n", "51200", "-l", "127.0.0.1"]);
        command.args(["-p", &front.to_string()]);
        command.args(["-s", &addr(0), "-s", &addr(1), "-b", &addr(2)]);
        let mut proxy = Node::spawn(&mut command, front);
        proxy.await_port();
        let mut client = proxy.client();
        client.send("stats\r\n");
        assert_eq!(client.line(), "memcached agent v0.6");
        assert_eq!(client.line(), format!("matrix 1 -> {}, pool size 0", addr(0)));
        assert_eq!(client.line(), format!("matrix 2 -> {}, pool size 0", addr(1)));
        assert!(client.line().starts_with("STAT pid "));
        while client.line() != "END" {}
        for (key, homes) in [("key1", [1, 2]), ("key2", [0, 2])] {
            assert_eq!(client.set(key, key), "STORED");
            for (n, node) in nodes.iter().enumerate() {
                let there = node.client().get(key).is_some();
                assert_eq!(there, homes.contains(&n), "{key} on node {n}");
            }
        }
        nodes[..2].iter_mut().for_each(Node::kill);
        for key in ["key1", "key2"] {
            assert_eq!(client.get(key).as_deref(), Some(key), "both servers are dead");
        }
        for (node, port) in nodes.iter_mut().zip(&ports[..2]) {
            *node = Node::plain(*port, &[]);
        }
        for (key, home) in [("key1", 1), ("key2", 0)] {
            let mut direct = nodes[home].client();
            eventually("it is put back", || {
                assert_eq!(client.get(key).as_deref(), Some(key), "the servers are back, empty");
                (direct.get(key).as_deref() == Some(key)).then_some(())
            });
        }
        proxy.signal("TERM");
        assert_eq!(proxy.exit_code(), Some(0));
    }
    std::fs::remove_dir_all(&folder).expect("removed");
}

/// A server that misbehaves in a way of its own on every connection, and otherwise answers every
/// get with a value that names its key, and every set with STORED.
mod chaos {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    /// xorshift64*
    pub struct Random(pub u64);

    impl Random {
        pub fn below(&mut self, n: u64) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
        }
    }

    /// What a key's value is, everywhere and always.
    pub fn value_of(key: &str) -> String {
        format!("<{key}>").repeat(1 + key.len() % 5)
    }

    pub fn start(seed: u64) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("address").port();
        std::thread::spawn(move || {
            for (n, stream) in (1..).zip(listener.incoming().map_while(Result::ok)) {
                let mut random =
                    Random(seed.wrapping_add(n).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
                std::thread::spawn(move || {
                    // An end by the other side is an end.
                    let _ = serve(stream, &mut random);
                });
            }
        });
        port
    }

    fn serve(stream: TcpStream, random: &mut Random) -> std::io::Result<()> {
        let mut out = stream.try_clone()?;
        let mut input = BufReader::new(stream);
        // Some connections die soon, some live long.
        let mut left = [3, 30, 300, 3000][random.below(4) as usize];
        loop {
            let mut line = String::new();
            if input.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            let answer = match words[..] {
                ["get", ref keys @ ..] => {
                    let values = keys.iter().map(|key| {
                        let value = value_of(key);
                        format!("VALUE {key} 0 {}\r\n{value}\r\n", value.len())
                    });
                    values.collect::<String>() + "END\r\n"
                }
                ["set", .., len] => {
                    let mut block = vec![0; len.parse::<usize>().expect("a length") + 2];
                    input.read_exact(&mut block)?;
                    "STORED\r\n".into()
                }
                ["version"] => "VERSION 1.4.15\r\n".into(),
                ["delete", _] => "DELETED\r\n".into(),
                _ => "ERROR\r\n".into(),
            };
            left -= 1;
            if left > 0 {
                send(&mut out, answer.as_bytes(), random)?;
                continue;
            }
            return misbehave(&mut out, &mut input, answer.as_bytes(), random);
        }
    }

    /// Whole, in pieces, or slowly.
    fn send(out: &mut TcpStream, bytes: &[u8], random: &mut Random) -> std::io::Result<()> {
        match random.below(40) {
            0 => {
                for byte in bytes.iter().take(20) {
                    out.write_all(&[*byte])?;
                    std::thread::sleep(Duration::from_micros(200));
                }
                out.write_all(&bytes[bytes.len().min(20)..])
            }
            1..=5 => bytes.chunks(7).try_for_each(|piece| out.write_all(piece)),
            _ => out.write_all(bytes),
        }
    }

    fn misbehave(
        out: &mut TcpStream,
        input: &mut impl Read,
        answer: &[u8],
        random: &mut Random,
    ) -> std::io::Result<()> {
        match random.below(6) {
            // Half an answer, then nothing more.
            0 => out.write_all(&answer[..answer.len() / 2]),
            // Nonsense instead of an answer.
            1 => out.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            2 => out.write_all(&[0xff; 5000]),
            // Another key's value.
            3 => out.write_all(b"VALUE somebody-elses 0 3\r\nlie\r\nEND\r\n"),
            // An answer too many.
            4 => {
                out.write_all(answer)?;
                out.write_all(b"VALUE somebody-elses 0 3\r\nlie\r\nEND\r\n")
            }
            // Silence until the proxy has enough.
            _ => {
                let mut sink = [0; 4096];
                while input.read(&mut sink)? > 0 {}
                Ok(())
            }
        }
    }
}

#[test]
fn no_answer_reaches_the_wrong_client_and_none_is_missing() {
    let seed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |since| since.as_nanos() as u64);
    println!("seed {seed}");
    let ports: Vec<u16> = (0..3).map(|n| chaos::start(seed.wrapping_add(n * 1000))).collect();
    let proxy = proxy_with(&ports[..2], &ports[2..], |config| {
        config.request_timeout_ms = 150;
        config.threads = 2;
    });
    let threads: Vec<_> =
        (0..12u64).map(|n| std::thread::spawn(move || one_client(proxy, n, seed))).collect();
    let mut found = 0;
    for thread in threads {
        found += thread.join().expect("every answer was right");
    }
    assert!(found > 2000, "only {found} values came through");
}

/// Pipelined gets and sets; returns how many values came.
fn one_client(proxy: u16, n: u64, seed: u64) -> usize {
    let mut random = chaos::Random((seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1);
    let mut client = Client::connect(proxy);
    let mut found = 0;
    let mut line = String::new();
    for round in 0..80 {
        let keys: Vec<String> =
            (0..1 + random.below(20)).map(|k| format!("c{n}r{round}k{k}")).collect();
        let single = format!("c{n}r{round}s");
        client.send(format!(
            "get {}\r\nset {single} 0 0 1\r\nx\r\nget {single}\r\nversion\r\n",
            keys.join(" ")
        ));
        let mut expected = keys.iter();
        loop {
            line.clear();
            line += &client.line();
            if line == "END" || line.starts_with("SERVER_ERROR ") {
                break;
            }
            let words: Vec<&str> = line.split(' ').collect();
            assert!(words.len() == 4 && words[0] == "VALUE", "seed {seed}: {line:?}");
            assert!(expected.any(|key| key == words[1]), "seed {seed}: not asked: {line:?}");
            assert_eq!(client.line(), chaos::value_of(words[1]), "seed {seed}");
            found += 1;
        }
        let stored = client.line();
        assert!(stored == "STORED" || stored.starts_with("SERVER_ERROR "), "{seed}: {stored:?}");
        let head = client.line();
        if head.starts_with("VALUE ") {
            assert!(head.starts_with(&format!("VALUE {single} ")), "seed {seed}: {head:?}");
            assert_eq!(client.line(), chaos::value_of(&single), "seed {seed}");
            assert_eq!(client.line(), "END");
        } else {
            assert!(head == "END" || head.starts_with("SERVER_ERROR "), "{seed}: {head:?}");
        }
        assert_eq!(client.line(), "VERSION memcached agent v0.6");
    }
    found
}

#[test]
fn a_black_hole_costs_one_timeout_and_then_nothing() {
    let Some(program) = peer_program("memcached") else { return };
    let (mut server, backup) = (memcached(program, free_port()), memcached(program, free_port()));
    let cable = Cable::to(server.port).expect("a cable");
    let proxy = proxy_with(&[cable.port()], &[backup.port], |config| {
        config.request_timeout_ms = 200;
    });
    let mut client = Client::connect(proxy);
    assert_eq!(client.set("k", "a"), "STORED");
    cable.hush();
    assert_eq!(client.get("k").as_deref(), Some("a"), "after a timeout, from the backup");
    // From now on nobody waits: hundreds of requests, with less than a timeout each.
    let start = Instant::now();
    for n in 0..300 {
        assert_eq!(client.ask("append k 0 0 1\r\nx"), "STORED");
        assert_eq!(client.get("k").map(|value| value.len()), Some(2 + n));
    }
    assert!(start.elapsed() < Duration::from_secs(30), "300 requests waited for a timeout");
    assert_eq!(backup.client().get("k").map(|value| value.len()), Some(301), "each append once");
    // The server was only cut off: what it still has is old, and must not be read again.
    assert_eq!(client.ask("delete k"), "DELETED");
    cable.cut();
    cable.mend();
    let mut direct = server.client();
    eventually("the server is corrected", || (direct.get("k").is_none()).then_some(()));
    assert_eq!(client.get("k"), None);
    server.kill();
}

#[test]
fn writes_in_a_killed_server_are_applied_at_most_once() {
    let Some(mut site) = Site::start() else { return };
    let mut client = site.client();
    assert_eq!(client.set("key1", "0"), "STORED");
    assert_eq!(client.set("n", "0"), "STORED");
    // Many in flight when the servers die.
    let mut commands = String::new();
    for _ in 0..500 {
        commands += "incr n 1\r\nappend key1 0 0 1\r\nx\r\n";
    }
    client.send(&commands);
    site.kill_servers();
    let mut last = 0;
    for _ in 0..500 {
        let number: u64 = client.line().parse().expect("a number");
        assert_eq!(number, last + 1, "each once, in order");
        last = number;
        assert_eq!(client.line(), "STORED");
    }
    assert_eq!(client.get("n").as_deref(), Some("500"));
    assert_eq!(client.get("key1").map(|value| value.len()), Some(501));
    site.restart_servers();
    eventually("counters go on from the backup", || {
        (client.ask("incr n 1").parse::<u64>().expect("a number") > 502).then_some(())
    });
    assert_eq!(client.get("key1").map(|value| value.len()), Some(501));
    let (n, copy) = (client.get("n"), site.backup.client().get("n"));
    assert_eq!(n, copy, "server and backup agree");
}

#[test]
fn both_down_is_an_error_and_no_hang() {
    let Some(mut site) = Site::start() else { return };
    let mut client = site.client();
    assert_eq!(client.set("key1", "aa"), "STORED");
    site.kill_servers();
    site.backup.kill();
    let error = "SERVER_ERROR CAN NOT CONNECT TO BACKEND SERVER";
    for command in ["get key1", "set key1 0 0 1\r\na", "incr key1 1", "delete key1", "gats 0 key1"]
    {
        assert_eq!(client.ask(command), error, "{command}");
    }
    client.send("set key1 0 0 1 noreply\r\na\r\nset key1 0 0 1 noreply\r\nb\r\nversion\r\n");
    assert_eq!(client.line(), "VERSION memcached agent v0.6");
    site.restart_servers();
    eventually("it works again", || (client.set("key1", "b") == "STORED").then_some(()));
    assert_eq!(client.get("key1").as_deref(), Some("b"));
}

#[test]
fn too_many_clients_are_told_so() {
    let proxy = proxy_with(&[free_port()], &[], |config| config.max_conns = 2);
    // The harness's own probe may still count as a client.
    let (mut first, mut second) = eventually("two places", || {
        let (mut a, mut b) = (Client::connect(proxy), Client::connect(proxy));
        let fine = "VERSION memcached agent v0.6";
        a.send("version\r\n");
        b.send("version\r\n");
        (a.line() == fine && b.line() == fine).then_some((a, b))
    });
    assert_eq!(Client::connect(proxy).line(), "SERVER_ERROR OUT OF CONNECTION");
    assert_eq!(first.ask("version"), "VERSION memcached agent v0.6");
    second.send("quit\r\n");
    eventually("a place is free again", || {
        let mut next = Client::connect(proxy);
        next.send("version\r\n");
        next.line().starts_with("VERSION").then_some(())
    });
}

#[test]
fn against_real_servers_big_and_many() {
    let Some(site) = Site::start() else { return };
    let mut client = site.client();
    let big = "v".repeat(900_000);
    assert_eq!(client.set("big", &big), "STORED");
    assert_eq!(client.get("big"), Some(big.clone()));
    let over = "v".repeat(1_100_000);
    assert_eq!(client.set("big", &over), "SERVER_ERROR object too large for cache");
    assert_eq!(client.get("big"), None, "as memcached: the old value is gone, on both");
    let mut commands = String::new();
    let mut line = String::from("get");
    for n in 0..20_000 {
        commands += &format!("set key:{n} 0 0 5 noreply\r\n{n:05}\r\n");
        line += &format!(" key:{n}");
    }
    client.send(commands + "mn\r\n");
    assert_eq!(client.line(), "MN");
    client.send(line + "\r\n");
    for n in 0..20_000 {
        assert_eq!(client.line(), format!("VALUE key:{n} 0 5"));
        assert_eq!(client.line(), format!("{n:05}"));
    }
    assert_eq!(client.line(), "END");
    assert_eq!(client.ask("mg key:7 v t f k"), "VA 5 t-1 f0 kkey:7");
    assert_eq!(client.line(), "00007");
    assert_eq!(client.ask("mg nothing v"), "EN");
    client.send("mg nothing v q\r\nmn\r\n");
    assert_eq!(client.line(), "MN");
    assert_eq!(client.ask("verbosity 0"), "OK");
    assert_eq!(client.ask("flush_all"), "OK");
    assert_eq!(client.get("key:7"), None);
    // Remaining lifetimes survive the way over the backup.
    assert_eq!(client.ask("set key1 9 500 2\r\naa"), "STORED");
    let mut direct = site.servers[1].client();
    assert_eq!(direct.ask("delete key1"), "DELETED");
    assert_eq!(client.get("key1").as_deref(), Some("aa"));
    let meta = eventually("put back", || {
        let meta = direct.ask("mg key1 t f");
        (meta != "EN").then_some(meta)
    });
    assert!(["HD t500 f9", "HD t499 f9", "HD t498 f9"].contains(&&*meta), "{meta}");
}
