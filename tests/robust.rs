//! Clients that misbehave, against the real program: its memory stays within bounds that are named,
//! and another client is served meanwhile.
//!
//! Nothing here is timed: a client that is not served ends in the deadline of tests/common.

mod common;

use common::{eventually, free_port, Client, Node};
use std::io::{Read, Write};
use std::net::TcpStream;

const MIB: u64 = 1 << 20;
/// `-m` of all servers here.
const LIMIT: u64 = 32 * MIB;
/// Beside `-m` and a tenth of it: code, stacks, index, the workers' own buffers.
const PROGRAM: u64 = 24 * MIB;
/// What a connection may cost: 256 KiB of replies and a portion and a value above it, its line.
const CONNECTION: u64 = 640 << 10;

fn server(more: &[&str]) -> Node {
    let mut args = vec!["-m", "32", "-t", "2"];
    args.extend_from_slice(more);
    Node::plain(free_port(), &args)
}

fn connect(node: &Node) -> TcpStream {
    TcpStream::connect(("127.0.0.1", node.port)).expect("connected")
}

/// Sends what can be sent: the server may have stopped reading, or closed.
fn offer(stream: &mut TcpStream, bytes: &[u8]) {
    stream.set_nonblocking(true).expect("nonblocking");
    let _ = stream.write_all(bytes);
}

/// Resident bytes of the server's process.
fn resident(node: &Node) -> u64 {
    let path = format!("/proc/{}/status", node.child.id());
    let text = std::fs::read_to_string(path).expect("the server runs");
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("KiB") << 10
}

/// Talks as a client that wants its answers, and looks at the memory each time.
fn served(node: &Node, client: &mut Client, connections: u64) {
    let bound = LIMIT + LIMIT / 10 + PROGRAM + connections * CONNECTION;
    for round in 0..50 {
        let value = format!("value {round}");
        assert_eq!(client.set("served", &value), "STORED");
        assert_eq!(client.get("served"), Some(value));
        let have = resident(node);
        assert!(have <= bound, "{} MiB resident, allowed {} MiB", have / MIB, bound / MIB);
    }
}

#[test]
fn readers_that_never_read() {
    let node = server(&[]);
    let mut client = node.client();
    assert_eq!(client.set("big", &"x".repeat(200_000)), "STORED");
    // Each asks for 100 MB.
    let ask = b"get big\r\n".repeat(500);
    let mut readers: Vec<TcpStream> = (0..150).map(|_| connect(&node)).collect();
    for reader in &mut readers {
        offer(reader, &ask);
    }
    served(&node, &mut client, 150);
    // One that does read after all gets every byte of what it asked for.
    let reader = &mut readers[7];
    reader.set_nonblocking(false).expect("blocking");
    let value = [b"VALUE big 0 200000\r\n", &[b'x'; 200_000][..], b"\r\nEND\r\n"].concat();
    let mut have = vec![0; value.len()];
    for _ in 0..500 {
        reader.read_exact(&mut have).expect("the next value");
        assert!(have == value, "a value is damaged");
    }
}

#[test]
fn commands_that_never_end() {
    let node = server(&["-I", "4m"]);
    let mut client = node.client();
    let mut half: Vec<TcpStream> = (0..300).map(|_| connect(&node)).collect();
    let key_line = [b"get ".to_vec(), b"key ".repeat(16_000)].concat();
    let long_key = [b"gets ".to_vec(), vec![b'k'; 64 << 10]].concat();
    for (number, stream) in half.iter_mut().enumerate() {
        match number % 5 {
            0 => offer(stream, b"set half 0 0 4000000\r\nand no more"),
            1 => offer(stream, &[b"set half 0 0 4000000\r\n", &[b'y'; 300_000][..]].concat()),
            2 => offer(stream, &key_line),
            3 => offer(stream, &long_key),
            _ => offer(stream, b"\x80\x01\x00\x04\x08\x00\x00\x00\x00\x3d\x09"),
        }
    }
    served(&node, &mut client, 300);
    drop(half);
    served(&node, &mut client, 300);
}

#[test]
fn a_hundred_thousand_commands_at_once() {
    let node = server(&[]);
    let mut client = node.client();
    let mut stream = connect(&node);
    let mut reader = stream.try_clone().expect("a second handle");
    const COMMANDS: usize = 100_000;
    let sender = std::thread::spawn(move || {
        for number in 0..COMMANDS {
            let key = number % 1000;
            let command = format!("set p{key} 0 0 5\r\n{number:05}\r\nget p{key}\r\n");
            stream.write_all(command.as_bytes()).expect("sent");
        }
        stream
    });
    served(&node, &mut client, 2);
    let mut have = Vec::new();
    for number in 0..COMMANDS {
        let key = number % 1000;
        let answer = format!("STORED\r\nVALUE p{key} 0 5\r\n{number:05}\r\nEND\r\n");
        have.resize(answer.len(), 0);
        reader.read_exact(&mut have).expect("an answer");
        assert_eq!(have, answer.as_bytes(), "answer {number}");
    }
    drop(sender.join().expect("all sent"));
}

/// Opens far more connections than there are places, some of which say something.
fn flood(node: &Node) {
    for round in 0..20 {
        let mut flood = Vec::new();
        for number in 0..200 {
            // The backlog may be full: that is an answer, too.
            let Ok(mut stream) = TcpStream::connect(("127.0.0.1", node.port)) else { continue };
            if number % 3 == round % 3 {
                offer(&mut stream, b"get flood\r\nset flood 0 0 3\r\nab");
            }
            flood.push(stream);
        }
    }
}

#[test]
fn floods_of_connections_are_told_so() {
    let node = server(&["-c", "64", "-o", "maxconns_fast"]);
    let mut client = node.client();
    flood(&node);
    served(&node, &mut client, 64);
    // Whoever comes when the flood is over is served, too.
    let mut late = eventually("a place is free", || {
        let mut late = node.client();
        late.send("mn\r\n");
        let mut line = String::new();
        late.read_line(&mut line);
        (line == "MN\r\n").then_some(late)
    });
    served(&node, &mut late, 64);
}

#[test]
fn floods_of_connections_wait() {
    let node = server(&["-c", "64", "-o", "no_maxconns_fast"]);
    let mut client = node.client();
    flood(&node);
    served(&node, &mut client, 64);
    let mut late = node.client();
    served(&node, &mut late, 64);
}
