//! A server that comes back empty, in front of real processes: everything it lost is put back, and
//! then a miss is a miss.

mod common;

use std::process::Command;

use common::{eventually, free_port, peer_program, Client, Node};
use twincached::proxy::{self, Config, ServerAddr};

const KEYS: usize = 100_000;

/// A proxy in this process, for as long as the process lives. Returns its port.
fn proxy_port(server: u16, backup: u16) -> u16 {
    let addr = |port: u16| vec![ServerAddr::tcp("127.0.0.1", port).into()];
    let port = free_port();
    let config = Config {
        listen: vec!["127.0.0.1".into()],
        port,
        servers: addr(server),
        backups: addr(backup),
        threads: 2,
        foreground: true,
        ..Config::default()
    };
    std::thread::spawn(move || {
        let status = proxy::run(config);
        panic!("the proxy ended with status {status}");
    });
    eventually("the proxy listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    port
}

/// A real memcached, or our own server where there is no name.
fn server(program: Option<&str>, port: u16) -> Node {
    let text = port.to_string();
    let mut command = Command::new(program.unwrap_or(env!("CARGO_BIN_EXE_twincached")));
    command.args(["-u", "root", "-l", "127.0.0.1", "-m", "64", "-p", &text]);
    let node = Node::spawn(&mut command, port);
    node.await_port();
    node
}

fn number(node: &Node, name: &str) -> usize {
    let text = node.client().stat(name).unwrap_or_else(|| panic!("no {name}"));
    text.parse().expect("a number")
}

fn lookups(node: &Node) -> usize {
    number(node, "cmd_get")
}

/// Stores through the proxy; every tenth with a lifetime.
fn store(client: &mut Client, keys: usize) {
    for part in (0..keys).collect::<Vec<_>>().chunks(1000) {
        let sets: String = part
            .iter()
            .map(|n| {
                let exptime = if n % 10 == 0 { 5000 } else { 0 };
                format!("set key:{n} {} {exptime} 6 noreply\r\n{n:06}\r\n", n % 7)
            })
            .collect();
        client.send(sets + "mn\r\n");
        assert_eq!(client.line(), "MN");
    }
}

/// Misses cost the other side nothing any more.
fn await_warm(client: &mut Client, other: &Node) {
    let mut n = 0;
    eventually("a miss is a miss", || {
        n += 1;
        let before = lookups(other);
        for k in 0..20 {
            assert_eq!(client.get(&format!("nowhere:{n}:{k}")), None);
        }
        (lookups(other) == before).then_some(())
    });
}

fn killed_and_refilled(program: Option<&str>) {
    let (mut first, mut second) = (server(program, free_port()), server(program, free_port()));
    let mut client = Client::connect(proxy_port(first.port, second.port));
    store(&mut client, KEYS);
    eventually("both have all", || (number(&second, "curr_items") == KEYS).then_some(()));
    first.kill();
    assert_eq!(client.get("key:5").as_deref(), Some("000005"), "from the backup");
    // Written while it is away.
    assert_eq!(client.set("key:6", "newer!"), "STORED");
    assert_eq!(client.ask("delete key:7"), "DELETED");
    first = server(program, first.port);
    eventually("everything is back", || (number(&first, "curr_items") == KEYS - 1).then_some(()));
    let mut direct = first.client();
    for n in (8..KEYS).step_by(997) {
        let ask = format!("mg key:{n} f t v");
        let head = direct.ask(&ask);
        assert_eq!(direct.line(), format!("{n:06}"));
        let words: Vec<&str> = head.split(' ').collect();
        assert_eq!(words[..3], ["VA", "6", &format!("f{}", n % 7)], "{head}");
        let left: i64 = words[3][1..].parse().expect("a lifetime");
        let right = if n % 10 == 0 { (4000..=5000).contains(&left) } else { left == -1 };
        assert!(right, "key:{n} lives for {left} s");
    }
    assert_eq!(direct.get("key:6").as_deref(), Some("newer!"));
    assert_eq!(client.get("key:7"), None, "deleted while it was away");
    await_warm(&mut client, &second);

    // And the other way round: then a second failure loses nothing.
    second.kill();
    second = server(program, second.port);
    eventually("the backup has all", || (number(&second, "curr_items") == KEYS - 1).then_some(()));
    first.kill();
    for n in (8..KEYS).step_by(9973) {
        assert_eq!(client.get(&format!("key:{n}")), Some(format!("{n:06}")));
    }
}

#[test]
fn a_killed_memcached_gets_back_what_it_had() {
    let Some(program) = peer_program("memcached") else { return };
    killed_and_refilled(Some(program));
}

#[test]
fn a_killed_twincached_gets_back_what_it_had() {
    killed_and_refilled(None);
}
