//! UDP, as clients of the whole program see it.
//!
//! Every wait is for a datagram or a line, with a deadline that only a failure reaches.

mod common;

use common::{eventually, free_port, peer_program, Node, DEADLINE};
use std::collections::HashMap;
use std::net::UdpSocket;
use std::path::PathBuf;

/// Bytes of a reply in one datagram.
const PAYLOAD: usize = 1392;

struct Peer {
    socket: UdpSocket,
    id: u16,
}

impl Peer {
    fn new(port: u16) -> Peer {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.connect(("127.0.0.1", port)).expect("connected");
        socket.set_read_timeout(Some(DEADLINE)).expect("timeout");
        Peer { socket, id: 1000 }
    }

    fn send(&mut self, total: u16, commands: &[u8]) {
        self.id += 1;
        let mut bytes = Vec::new();
        for field in [self.id, 0, total, 0] {
            bytes.extend_from_slice(&field.to_be_bytes());
        }
        bytes.extend_from_slice(commands);
        self.socket.send(&bytes).expect("sent");
    }

    /// One whole reply to the last request.
    fn reply(&mut self) -> Vec<u8> {
        let mut parts = HashMap::new();
        loop {
            let mut bytes = [0; 2000];
            let len = self.socket.recv(&mut bytes).expect("a datagram");
            let field = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
            assert_eq!((field(0), field(6)), (self.id, 0));
            let (sequence, total) = (field(2), field(4));
            assert!(sequence < total, "{sequence} of {total}");
            assert!(sequence + 1 == total || len == 8 + PAYLOAD, "{len} bytes");
            parts.insert(sequence, bytes[8..len].to_vec());
            if parts.len() == usize::from(total) {
                return (0..total).flat_map(|n| parts.remove(&n).expect("each part")).collect();
            }
        }
    }

    fn ask(&mut self, commands: &str) -> String {
        self.send(1, commands.as_bytes());
        String::from_utf8(self.reply()).expect("text")
    }
}

/// A node that serves UDP on a port of its own choice.
fn node(more: &[&str]) -> (Node, u16) {
    start(env!("CARGO_BIN_EXE_twincached"), more)
}

/// `program` with UDP, and its UDP port.
fn start(program: &str, more: &[&str]) -> (Node, u16) {
    let port = free_port();
    let path = std::env::temp_dir().join(format!("twincached-udp-{}-{port}", std::process::id()));
    let mut command = std::process::Command::new(program);
    let text = port.to_string();
    command.args(["-u", "root", "-l", "127.0.0.1", "-p", &text, "-U", "-1"]).args(more);
    let node = Node::spawn(command.env("MEMCACHED_PORT_FILENAME", &path), port);
    let udp = eventually("the ports are written", || udp_port(&path));
    std::fs::remove_file(&path).expect("removed");
    (node, udp)
}

fn udp_port(path: &PathBuf) -> Option<u16> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix("UDP INET: ")?.parse().ok())
}

#[test]
fn many_clients_are_served_by_all_workers_and_see_one_cache() {
    let (node, port) = node(&["-t", "4"]);
    let mut peers: Vec<Peer> = (0..32).map(|_| Peer::new(port)).collect();
    for (n, peer) in peers.iter_mut().enumerate() {
        assert_eq!(peer.ask(&format!("set key{n} 0 0 2\r\nv{}\r\n", n % 10)), "STORED\r\n");
    }
    for peer in &mut peers {
        assert_eq!(peer.ask("get key7 none\r\n"), "VALUE key7 0 2\r\nv7\r\nEND\r\n");
    }
    let mut client = node.client();
    assert_eq!(client.get("key31").as_deref(), Some("v1"));
    let conns = client.stats("conns");
    let addr = format!("udp:127.0.0.1:{port}");
    assert_eq!(conns.iter().filter(|(name, _)| name.ends_with(":UDP")).count(), 4);
    assert_eq!(conns.iter().filter(|(_, value)| *value == addr).count(), 4);
    assert_eq!(client.stat("curr_connections").as_deref(), Some("5"));
    let settings = client.stats("settings");
    let setting = |name: &str| settings.iter().find(|(have, _)| have == name).map(|(_, v)| &v[..]);
    assert_eq!(setting("udpport"), Some(&port.to_string()[..]));
    assert_eq!(setting("num_threads_per_udp"), Some("4"));
}

#[test]
fn large_values_arrive_whole_and_in_order() {
    let (node, port) = node(&["-t", "1"]);
    let mut client = node.client();
    let value: String = (0..60_000).map(|n| char::from(b'a' + (n / 1000 % 26) as u8)).collect();
    assert_eq!(client.set("large", &value), "STORED");
    let expected = format!("VALUE large 0 60000\r\n{value}\r\nEND\r\n");
    let mut peer = Peer::new(port);
    for _ in 0..20 {
        assert_eq!(peer.ask("get large\r\n"), expected);
    }
    // A datagram also takes a value in, as long as it is one datagram.
    let set = format!("set other 0 0 {}\r\n{}\r\n", 30_000, &value[..30_000]);
    assert_eq!(peer.ask(&set), "STORED\r\n");
    assert_eq!(client.get("other").as_deref(), Some(&value[..30_000]));
}

#[test]
fn what_is_no_request_is_not_answered() {
    let (_node, port) = node(&["-t", "1"]);
    let mut peer = Peer::new(port);
    peer.send(2, b"get a\r\n");
    peer.send(0, b"get a\r\n");
    peer.send(1, b"");
    peer.send(1, b"get a");
    peer.send(1, b"ERROR\r\n");
    peer.socket.send(b"x").expect("sent");
    assert_eq!(peer.ask("version\r\n").split(' ').next(), Some("VERSION"));
    // Only what came last was answered: a first reply with another number would have failed.
    peer.send(1, b"set k 0 0 5 noreply\r\nhello\r\n");
    assert_eq!(peer.ask("get k\r\n"), "VALUE k 0 5\r\nhello\r\nEND\r\n");
}

#[test]
fn a_write_by_datagram_reaches_the_peer() {
    let (first, second) = (free_port(), free_port());
    let links = format!("127.0.0.1:{second}");
    let (one, port) = node(&["-X", &first.to_string(), "-x", &links, "-m", "2"]);
    let links = format!("127.0.0.1:{first}");
    let (two, _) = node(&["-X", &second.to_string(), "-x", &links, "-m", "2"]);
    let mut peer = Peer::new(port);
    assert_eq!(peer.ask("set k 3 0 5\r\nhello\r\n"), "STORED\r\n");
    two.client().await_value("k", Some("hello"));
    assert_eq!(peer.ask("delete k\r\n"), "DELETED\r\n");
    two.client().await_value("k", None);
    drop(one);
}

#[test]
fn a_taken_port_is_an_error_at_once() {
    let taken = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let port = taken.local_addr().expect("address").port();
    let args = ["-u", "root", "-l", "127.0.0.1", "-p", "-1", "-U", &port.to_string()];
    let mut node = Node::start(0, &args);
    assert_eq!(node.exit_code(), Some(71));
    eventually("it says why", || node.log().contains("failed to listen on").then_some(()));
}

/// Requests and how many replies each has. What memcached answers with one message for every item,
/// and what it takes from the next datagram, is left out.
fn requests() -> Vec<(Vec<u8>, usize)> {
    let noop = [&[0x80, 0x0a][..], &[0; 22]].concat();
    let getk = [&[0x80, 0x0c, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0; 12], b"a"].concat();
    let mut all = vec![
        (b"get a\r\n".to_vec(), 1),
        (b"set a 5 0 1\r\nA\r\nset b 0 0 1 noreply\r\nB\r\nget b\r\nget a\r\n".to_vec(), 3),
        (b"set n 0 0 2\r\n10\r\nincr n 5\r\ndecr n 20\r\nincr a 1\r\nincr c 1\r\n".to_vec(), 5),
        (b"add a 0 0 1\r\nx\r\nappend a 0 0 2\r\nBC\r\nget a\r\nget".to_vec(), 3),
        (b"delete n\r\ndelete n\r\ntouch a 0\r\ntouch c 0\r\n".to_vec(), 4),
        (b"mn\r\nmg a v\r\nmg c v q\r\nmg a f s v q\r\nmn\r\n".to_vec(), 4),
        (b"nonsense\r\nset a 0 0 1\r\nx\r\nget a\r\n".to_vec(), 3),
        (noop.repeat(3), 3),
        ([&getk[..], &getk, &noop[..20]].concat(), 2),
        (b"flush_all\r\nget a\r\n".to_vec(), 2),
    ];
    for len in [1368, 1369, 1370, 2 * PAYLOAD - 24, 2 * PAYLOAD - 23, 30_000, 60_000] {
        let set = format!("set k 0 0 {len}\r\n{}\r\nget k\r\n", "v".repeat(len));
        all.push((set.into_bytes(), 2));
    }
    all
}

#[test]
fn datagrams_are_memcacheds() {
    let Some(program) = peer_program("memcached") else { return };
    let answers = |program: &str| -> Vec<Vec<u8>> {
        let (node, port) = start(program, &["-t", "1"]);
        node.await_port();
        let mut peer = Peer::new(port);
        let mut answers = Vec::new();
        for (commands, replies) in requests() {
            peer.send(1, &commands);
            answers.extend((0..replies).map(|_| peer.reply()));
        }
        answers
    };
    let (ours, theirs) = (answers(env!("CARGO_BIN_EXE_twincached")), answers(program));
    for (number, (our, their)) in ours.iter().zip(&theirs).enumerate() {
        let text = |reply: &[u8]| reply.escape_ascii().to_string();
        // The clocks that make CAS uniques are not the same.
        let same = our == their || our[..16] == their[..16] && our[24..] == their[24..];
        assert!(same, "reply {number}: {} and memcached {}", text(our), text(their));
    }
}
