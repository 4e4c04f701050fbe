//! A proxy that goes on: other servers without losing a client, files that are wrong, and a stop
//! that answers what was asked.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use common::{eventually, free_port, Client, Node, Scratch};
use twincached::proxy::places::place;
use twincached::proxy::ring::Ring;
use twincached::proxy::{Config, Distribution, ServerAddr};

/// Keys that are looked at.
const KEYS: usize = 60;

fn start_proxy(args: &[&str]) -> Node {
    let port = free_port();
    let mut command = Command::new(env!("CARGO_BIN_EXE_twincached"));
    command.args(["proxy", "-D", "-l", "127.0.0.1", "-p", &port.to_string()]).args(args);
    let node = Node::spawn(&mut command, port);
    node.await_port();
    node
}

/// A server that holds every key, with its own number as the value.
fn numbered(number: usize) -> Node {
    let node = Node::plain(free_port(), &[]);
    let mut client = node.client();
    for n in 0..KEYS {
        assert_eq!(client.set(&format!("key{n}"), &number.to_string()), "STORED");
    }
    node
}

/// Which server each key is read from through the proxy.
fn seen(client: &mut Client) -> Vec<usize> {
    let mut number = |n: usize| client.get(&format!("key{n}")).and_then(|value| value.parse().ok());
    (0..KEYS).map(|n| number(n).expect("a number")).collect()
}

/// Which of `nodes`, by index, each key should be on.
fn expected(nodes: &[(&Node, usize)]) -> Vec<usize> {
    let config = Config { distribution: Distribution::MagentKetama, ..Config::default() };
    let addr = |node: &Node| ServerAddr::tcp("127.0.0.1", node.port);
    let servers: Vec<ServerAddr> = nodes.iter().map(|(node, _)| addr(node)).collect();
    let ring = Ring::new(&config, &servers);
    (0..KEYS).map(|n| nodes[ring.pick(format!("key{n}").as_bytes()).unwrap()].1).collect()
}

/// Replaces a file as careful people do: at once.
fn replace(path: &str, text: &str) {
    let new = format!("{path}.new");
    std::fs::write(&new, text).expect("written");
    std::fs::rename(new, path).expect("renamed");
}

fn await_line(node: &Node, parts: &[&str]) {
    eventually(&format!("{parts:?} in the log"), || {
        let log = node.log();
        log.lines().any(|line| parts.iter().all(|part| line.contains(part))).then_some(())
    });
}

#[test]
fn the_servers_file_is_read_again() {
    let scratch = Scratch::new("living");
    let file = scratch.path("servers");
    let nodes: Vec<Node> = (0..3).map(numbered).collect();
    let line = |n: usize| format!("-s 127.0.0.1:{}\n", nodes[n].port);
    let first = format!("127.0.0.1:{}", nodes[0].port);
    std::fs::write(&file, line(1)).expect("written");
    let proxy =
        start_proxy(&["-k", "-t", "2", "-s", &first, "-o", &format!("servers_file={file}")]);
    // One client on each worker, from the first to the last line.
    let mut clients = [proxy.client(), proxy.client()];
    let mut all_see = |wanted: Vec<usize>| {
        for client in &mut clients {
            eventually("keys are where they belong", || (seen(client) == wanted).then_some(()));
        }
    };
    let two = expected(&[(&nodes[0], 0), (&nodes[1], 1)]);
    all_see(two.clone());

    // By a change alone. Only keys of the new server move.
    replace(&file, &(line(1) + "# the new one\n" + &line(2)));
    await_line(&proxy, &["added server", &nodes[2].port.to_string()]);
    let three = expected(&[(&nodes[0], 0), (&nodes[1], 1), (&nodes[2], 2)]);
    all_see(three.clone());
    assert!(two.iter().zip(&three).all(|(old, new)| old == new || *new == 2));

    // Wrong lines change nothing, however they are come upon.
    replace(&file, &(line(1) + "\n-s 127.0.0.1:x\n"));
    await_line(&proxy, &["servers:3: server: Invalid port number", "stay as they were"]);
    all_see(three.clone());
    for (text, why) in [
        ("", "servers: it names no server"),
        ("-s 127.0.0.1:1:7", "knows no weights"),
        ("-s no-such-host.invalid", "cannot resolve no-such-host.invalid"),
    ] {
        replace(&file, text);
        proxy.signal("HUP");
        await_line(&proxy, &[why, "stay as they were"]);
    }
    std::fs::remove_file(&file).expect("removed");
    await_line(&proxy, &["servers: No such file", "stay as they were"]);
    all_see(three);

    // By a signal.
    replace(&file, &line(2));
    proxy.signal("HUP");
    await_line(&proxy, &["removed server", &nodes[1].port.to_string()]);
    all_see(expected(&[(&nodes[0], 0), (&nodes[2], 2)]));
    proxy.signal("HUP");
    await_line(&proxy, &["nothing has changed"]);
}

#[test]
fn the_first_reading_must_succeed() {
    let scratch = Scratch::new("living-first");
    let file = scratch.path("servers");
    let run = |text: Option<&str>| {
        if let Some(text) = text {
            std::fs::write(&file, text).expect("written");
        }
        let out = Command::new(env!("CARGO_BIN_EXE_twincached"))
            .args(["proxy", "-D", "-l", "127.0.0.1", "-p", "1"])
            .args(["-o", &format!("servers_file={file}")])
            .output()
            .expect("it runs");
        (out.status.code(), String::from_utf8(out.stderr).expect("text"))
    };
    for (text, why) in [
        (None, "servers: No such file"),
        (Some("-b a\n"), "servers: no server: name at least one"),
        (Some("-s a\n-s\n"), "servers:2: no address after \"-s\""),
    ] {
        let (status, errors) = run(text);
        assert_eq!(status, Some(64), "{errors}");
        assert!(errors.contains(why) && errors.lines().count() == 1, "{errors}");
    }
}

/// A stop in the middle of a request: it is answered, the next client is not taken.
#[test]
fn a_stop_answers_what_was_asked() {
    for signal in ["TERM", "USR1"] {
        let server = TcpListener::bind("127.0.0.1:0").expect("bound");
        let address = server.local_addr().expect("address").to_string();
        let mut proxy = start_proxy(&["-s", &address, "-o", "request_timeout=20000"]);
        let mut client = proxy.client();
        client.send("get slow\r\n");
        let mut link: TcpStream = server.accept().expect("the proxy connects").0;
        let mut asked = Vec::new();
        eventually("the request arrives", || {
            let mut some = [0; 1024];
            let n = link.read(&mut some).expect("read");
            asked.extend_from_slice(&some[..n]);
            asked.windows(4).any(|word| word == b"slow").then_some(())
        });
        proxy.signal(signal);
        eventually("new clients are refused", || (!proxy.port_open()).then_some(()));
        // It may have asked first what it talks to.
        if asked.starts_with(b"version\r\n") {
            link.write_all(b"VERSION 1.6.18\r\n").expect("answered");
        }
        link.write_all(b"VALUE slow 0 4\r\nhere\r\nEND\r\n").expect("answered");
        assert_eq!(client.rest(), b"VALUE slow 0 4\r\nhere\r\nEND\r\n", "{signal}");
        assert_eq!(proxy.exit_code(), Some(0), "{signal}");
    }
}

/// A server that we play.
struct Played(TcpListener);

impl Played {
    fn new() -> Played {
        Played(TcpListener::bind("127.0.0.1:0").expect("bound"))
    }

    fn address(&self) -> String {
        self.0.local_addr().expect("address").to_string()
    }

    /// Accepts, and reads until `word` has come, after a greeting perhaps.
    fn asked(&self, word: &str) -> TcpStream {
        let mut link = self.0.accept().expect("the proxy connects").0;
        let mut asked = String::new();
        while !asked.contains(word) {
            let mut some = [0; 1024];
            let n = link.read(&mut some).expect("read");
            asked.push_str(std::str::from_utf8(&some[..n]).expect("text"));
        }
        if asked.starts_with("version") {
            link.write_all(b"VERSION 1.6.18\r\n").expect("answered");
        }
        link
    }
}

/// What is in flight to another server does not keep the connections of a server that has gone, and
/// what such a server was asked it may still be asked again.
#[test]
fn a_removed_server_goes_when_it_has_answered() {
    let scratch = Scratch::new("living-removed");
    let file = scratch.path("servers");
    let servers = [Played::new(), Played::new(), Played::new()];
    let list = |some: &[usize]| {
        some.iter().map(|&n| format!("-s {}\n", servers[n].address())).collect::<String>()
    };
    // The first key of each server.
    let addr = |n: usize| ServerAddr::tcp("127.0.0.1", servers[n].0.local_addr().unwrap().port());
    let ring = Ring::new(&Config::default(), &[addr(0), addr(1), addr(2)]);
    let keys = [0, 1, 2].map(|n| {
        let mut all = (0..KEYS).map(|n| format!("key{n}"));
        all.find(|key| ring.pick(key.as_bytes()) == Some(n)).expect("a key")
    });
    let answer = |key: &str| format!("VALUE {key} 0 2\r\nhi\r\nEND\r\n");
    replace(&file, &list(&[0, 1, 2]));
    let option = format!("servers_file={file},request_timeout=60000,resolve_interval=0");
    let proxy = start_proxy(&["-o", &option]);
    let mut clients = [proxy.client(), proxy.client(), proxy.client()];
    let mut links = [0, 1, 2].map(|n| {
        clients[n].send(format!("get {}\r\n", keys[n]));
        servers[n].asked(&keys[n])
    });
    links[1].write_all(answer(&keys[1]).as_bytes()).expect("answered");
    assert_eq!(clients[1].bytes(answer(&keys[1]).len()), answer(&keys[1]).as_bytes());
    replace(&file, &list(&[0]));
    proxy.signal("HUP");
    await_line(&proxy, &["removed server", &servers[2].address()]);
    assert_eq!(links[1].read(&mut [0; 100]).expect("its end"), 0, "nobody waits for it");
    // The other one is lost with a question that may be asked again.
    drop(links);
    let mut again = servers[2].asked(&keys[2]);
    again.write_all(answer(&keys[2]).as_bytes()).expect("answered");
    assert_eq!(clients[2].bytes(answer(&keys[2]).len()), answer(&keys[2]).as_bytes());
    assert_eq!(again.read(&mut [0; 100]).expect("its end"), 0);
    let stats = clients[2].ask("stats");
    assert_eq!(stats, "memcached agent v0.6");
}

/// One line of the proxy's `stats`.
fn figure(client: &mut Client, name: &str) -> String {
    client.send("stats\r\n");
    let mut found = None;
    loop {
        let line = client.line();
        if line == "END" {
            return found.unwrap_or_else(|| panic!("{name} is not there"));
        }
        let value = line.strip_prefix("STAT ").and_then(|line| line.strip_prefix(name));
        found = value.and_then(|value| value.strip_prefix(' ')).map(str::to_owned).or(found);
    }
}

#[test]
fn meta_commands_are_counted_as_what_they_do() {
    let node = Node::plain(free_port(), &[]);
    let proxy = start_proxy(&["-s", &format!("127.0.0.1:{}", node.port)]);
    let mut client = proxy.client();
    client.send("ms m 1\r\n5\r\nmg m v\r\nmg none v\r\nmg none v q\r\nma m\r\nget m none\r\n");
    client.send("me m\r\nmd m\r\nmn\r\n");
    while client.line() != "MN" {}
    for (name, value) in [
        ("cmd_get", "5"),
        ("get_hits", "2"),
        ("get_misses", "3"),
        ("cmd_set", "1"),
        ("cmd_arith", "1"),
        ("cmd_delete", "1"),
        ("cmd_meta", "7"),
    ] {
        assert_eq!(figure(&mut client, name), value, "{name}");
    }
}

/// As memcached's: silent clients are closed, and those that wait for an answer are not.
#[test]
fn silent_clients_are_closed_after_idle_timeout() {
    let server = Played::new();
    let option = "idle_timeout=1,request_timeout=60000";
    let proxy = start_proxy(&["-s", &server.address(), "-o", option]);
    let mut waiting = proxy.client();
    waiting.send("get slow\r\n");
    let mut link = server.asked("slow");
    let mut silent = [proxy.client(), proxy.client()];
    silent[1].send("get unfinished");
    for client in &mut silent {
        assert_eq!(client.rest(), b"");
    }
    link.write_all(b"VALUE slow 0 4\r\nhere\r\nEND\r\n").expect("answered");
    let answer = b"VALUE slow 0 4\r\nhere\r\nEND\r\n";
    assert_eq!(waiting.bytes(answer.len()), answer);
    assert_eq!(figure(&mut proxy.client(), "idle_kicks"), "2");
    assert_eq!(waiting.rest(), b"");
}

/// A value that is on its way to a slow reader arrives whole.
#[test]
fn a_stop_lets_answers_leave() {
    const LEN: usize = 24 << 20;
    let node = Node::plain(free_port(), &["-m", "256", "-I", "64m"]);
    let mut writer = node.client();
    writer.send(format!("set big 0 0 {LEN}\r\n{}\r\n", "x".repeat(LEN)));
    assert_eq!(writer.line(), "STORED");
    let server = format!("127.0.0.1:{}", node.port);
    let mut proxy = start_proxy(&["-s", &server, "-o", "request_timeout=10000"]);
    let mut client = proxy.client();
    client.send("get big\r\n");
    assert_eq!(client.line(), format!("VALUE big 0 {LEN}"));
    proxy.signal("TERM");
    eventually("new clients are refused", || (!proxy.port_open()).then_some(()));
    assert_eq!(client.rest().len(), LEN + "\r\nEND\r\n".len());
    assert_eq!(proxy.exit_code(), Some(0));
}

#[test]
fn places_are_shown_as_they_are_read() {
    for text in ["127.0.0.1:5", "[::1]:5", "/run/m.sock", "a:1,b:2"] {
        assert_eq!(place("-s", text).expect(text).to_string(), text);
    }
}
