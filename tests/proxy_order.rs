//! Several workers and a backup: whoever writes a key, and through whichever worker, the server and
//! the backup see its writes in one order.

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;

use common::{eventually, free_port, peer_program, Client, Node};
use twincached::proxy::{self, Config, ServerAddr};

const WORKERS: usize = 4;
const CLIENTS: u64 = 12;
const ROUNDS: u64 = 120;
/// Few keys, so that many clients write each of them at once.
const KEYS: u64 = 3;
/// Larger than what is held: these go over connections of their own.
const LARGE: usize = 1_200_000;

fn memcached(program: &str) -> Node {
    let port = free_port();
    let mut command = Command::new(program);
    command.args(["-u", "root", "-l", "127.0.0.1", "-U", "0", "-m", "256", "-I", "8m", "-p"]);
    command.arg(port.to_string());
    let node = Node::spawn(&mut command, port);
    node.await_port();
    node
}

/// A stream of writes in pipelines of eight; every answer is read.
fn write_for_a_while(port: u16, client: u64, seed: u64) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("a connection");
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(client) | 1;
    let mut below = |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) % n
    };
    for round in 0..ROUNDS {
        let mut batch = Vec::new();
        for _ in 0..8 {
            let key = below(KEYS);
            match below(6) {
                0 | 1 => {
                    batch.extend(format!("set k{key} 1 0 4\r\n{:04}\r\n", below(9999)).bytes())
                }
                2 => batch.extend(format!("append k{key} 0 0 1\r\n{}\r\n", below(9)).bytes()),
                3 => batch.extend(format!("incr k{key} {}\r\n", below(5)).bytes()),
                4 => batch.extend(format!("delete k{key}\r\n").bytes()),
                _ => batch.extend(format!("add k{key} 2 0 2\r\n{:02}\r\n", below(99)).bytes()),
            }
        }
        if round % 40 == client % 40 {
            let key = below(KEYS);
            batch.extend(format!("set k{key} 3 0 {LARGE}\r\n").bytes());
            batch.extend(std::iter::repeat_n(b'a' + client as u8, LARGE));
            batch.extend(b"\r\n");
        }
        batch.extend(b"mn\r\n");
        stream.write_all(&batch).expect("sent");
        let mut answer = Vec::new();
        let mut piece = [0; 4096];
        while !answer.ends_with(b"MN\r\n") {
            let n = stream.read(&mut piece).expect("an answer");
            assert!(n > 0, "closed after {:?}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&piece[..n]);
        }
    }
}

#[test]
fn server_and_backup_end_alike_whoever_wrote() {
    let Some(program) = peer_program("memcached") else { return };
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("SEED={seed}");
    let (server, backup) = (memcached(program), memcached(program));
    let port = free_port();
    let place = |port| ServerAddr::tcp("127.0.0.1", port).into();
    let config = Config {
        listen: vec!["127.0.0.1".into()],
        port,
        servers: vec![place(server.port)],
        backups: vec![place(backup.port)],
        threads: WORKERS,
        foreground: true,
        ..Config::default()
    };
    std::thread::spawn(move || proxy::run(config));
    eventually("the proxy listens", || TcpStream::connect(("127.0.0.1", port)).ok());
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            scope.spawn(move || write_for_a_while(port, client, seed));
        }
    });
    let mut through = Client::connect(port);
    let (mut there, mut copy) = (server.client(), backup.client());
    for key in (0..KEYS).map(|key| format!("k{key}")) {
        let (there, copy) = (there.get(&key), copy.get(&key));
        assert!(there == copy, "seed {seed}: {key} differs: {} and {}", len(&there), len(&copy));
        assert!(through.get(&key) == there, "seed {seed}: {key}");
    }
}

fn len(value: &Option<String>) -> String {
    match value {
        Some(value) if value.len() > 40 => format!("{} bytes", value.len()),
        value => format!("{value:?}"),
    }
}
