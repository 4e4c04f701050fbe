//! Where magent fails, and what comes instead; and how many there may be of everything.
//!
//! Each test is the program itself in front of real servers, or of listeners that do one odd thing.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use common::{eventually, free_port, Node};

const NO_SERVER: &str = "SERVER_ERROR CAN NOT CONNECT TO BACKEND SERVER";
/// Where magent waits for minutes or for ever, an answer comes within this time, on a slow machine
/// too.
const PROMPT: Duration = Duration::from_secs(10);

/// The program as a proxy, with `-s` and `-b` in front of these ports.
fn proxy(servers: &[u16], backups: &[u16], more: &[&str]) -> Node {
    let port = free_port();
    let mut command = Command::new(env!("CARGO_BIN_EXE_twincached"));
    command.args(["proxy", "-D", "-u", "root", "-l", "127.0.0.1", "-p", &port.to_string()]);
    for (flag, ports) in [("-s", servers), ("-b", backups)] {
        for port in ports {
            command.args([flag, &format!("127.0.0.1:{port}")]);
        }
    }
    command.args(more);
    let node = Node::spawn(&mut command, port);
    node.await_port();
    node
}

fn server() -> Node {
    Node::plain(free_port(), &["-m", "64"])
}

/// A server, a backup, and the proxy in front of them.
fn pair() -> (Node, Node, Node) {
    let (server, backup) = (server(), server());
    let proxy = proxy(&[server.port], &[backup.port], &[]);
    (server, backup, proxy)
}

#[test]
fn command_lines_of_many_kilobytes() {
    let (_server, _backup, proxy) = pair();
    let mut client = proxy.client();
    let keys: Vec<String> = (0..200).map(|n| format!("{n:0>200}")).collect();
    for key in keys.iter().step_by(2) {
        assert_eq!(client.set(key, &key[190..]), "STORED");
    }
    client.send(format!("get {}\r\n", keys.join(" ")));
    for key in keys.iter().step_by(2) {
        assert_eq!(client.line(), format!("VALUE {key} 0 10"));
        assert_eq!(client.line(), key[190..]);
    }
    assert_eq!(client.line(), "END");
}

#[test]
fn pipelined_requests_need_no_further_bytes() {
    let (_server, _backup, proxy) = pair();
    let mut client = proxy.client();
    client.send("set a 0 0 1\r\n1\r\nget a\r\nincr a 1\r\ndelete b\r\nget a\r\nversion\r\n");
    let answers =
        ["STORED", "VALUE a 0 1", "1", "END", "2", "NOT_FOUND", "VALUE a 0 1", "2", "END"];
    for answer in answers {
        assert_eq!(client.line(), answer);
    }
    assert_eq!(client.line(), "VERSION memcached agent v0.6");
}

/// A server that answers a get only when it is told to, and tells when it was asked.
fn reluctant(asked: mpsc::Sender<u16>) -> (u16, mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("address").port();
    let (go, gone) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a proxy");
        let lines = BufReader::new(stream.try_clone().expect("cloned")).lines();
        for line in lines.map_while(Result::ok) {
            let answer = match line.strip_prefix("get ") {
                None => "VERSION 1.4.0\r\n",
                Some(_) => {
                    if asked.send(port).is_err() {
                        return;
                    }
                    if gone.recv().is_err() {
                        return;
                    }
                    "END\r\n"
                }
            };
            stream.write_all(answer.as_bytes()).expect("sent");
        }
    });
    (port, go)
}

#[test]
fn a_multi_get_asks_all_servers_at_once() {
    let (asked, heard) = mpsc::channel();
    let (servers, go): (Vec<_>, Vec<_>) = (0..3).map(|_| reluctant(asked.clone())).unzip();
    let proxy = proxy(&servers, &[], &["-o", "request_timeout=20000"]);
    let mut client = proxy.client();
    let keys: Vec<String> = (0..60).map(|n| format!("key{n}")).collect();
    client.send(format!("get {}\r\n", keys.join(" ")));
    // All have been asked before any has answered.
    let mut all: Vec<u16> = (0..3).map(|_| heard.recv_timeout(PROMPT).expect("asked")).collect();
    all.sort_unstable();
    let mut expected = servers.clone();
    expected.sort_unstable();
    assert_eq!(all, expected);
    go.iter().for_each(|go| go.send(()).expect("it waits"));
    assert_eq!(client.line(), "END");
}

#[test]
fn commands_that_are_unsupported_there() {
    let (server, backup, proxy) = pair();
    let mut client = proxy.client();
    assert_eq!(client.set("k", "v"), "STORED");
    assert_eq!(client.ask("touch k 100"), "TOUCHED");
    assert_eq!(client.ask("touch nothing 100"), "NOT_FOUND");
    assert_eq!(client.ask("gat 200 k"), "VALUE k 0 1");
    assert_eq!((client.line(), client.line()), ("v".into(), "END".into()));
    assert!(client.ask("gats 300 k").starts_with("VALUE k 0 1 "));
    assert_eq!((client.line(), client.line()), ("v".into(), "END".into()));
    for node in [&server, &backup] {
        let mut direct = node.client();
        eventually("the lifetime of both", || {
            ["HD t300", "HD t299", "HD t298"].contains(&&*direct.ask("mg k t")).then_some(())
        });
    }
    assert_eq!(client.ask("verbosity 1"), "OK");
    assert_eq!(client.ask("mg k v"), "VA 1");
    assert_eq!(client.line(), "v");
    assert_eq!(client.ask("ms m 2\r\nxy"), "HD");
    assert_eq!(client.get("m").as_deref(), Some("xy"));
    assert_eq!(client.ask("mn"), "MN");
    assert_eq!(client.ask("flush_all"), "OK");
    for node in [&server, &backup] {
        assert_eq!(node.client().get("k"), None);
    }
}

#[test]
fn a_write_while_the_server_is_down_is_applied_once() {
    let (mut server, backup, proxy) = pair();
    let mut client = proxy.client();
    assert_eq!(client.set("text", "a"), "STORED");
    assert_eq!(client.set("number", "5"), "STORED");
    server.kill();
    assert_eq!(client.ask("append text 0 0 1\r\nb"), "STORED");
    assert_eq!(client.ask("prepend text 0 0 1\r\nc"), "STORED");
    assert_eq!(client.ask("incr number 1"), "6");
    assert_eq!(client.ask("decr number 3"), "3");
    let mut direct = backup.client();
    assert_eq!(direct.get("text").as_deref(), Some("cab"));
    assert_eq!(direct.get("number").as_deref(), Some("3"));
}

/// Processor time of a process so far, in hundredths of a second.
fn ticks(node: &Node) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", node.child.id())).expect("stat");
    let fields: Vec<&str> = stat.rsplit(") ").next().expect("fields").split(' ').collect();
    fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
}

#[test]
fn with_both_down_there_is_an_error_and_no_spinning() {
    let (mut server, mut backup, proxy) = pair();
    let mut client = proxy.client();
    assert_eq!(client.set("k", "v"), "STORED");
    server.kill();
    backup.kill();
    let start = Instant::now();
    for _ in 0..50 {
        assert_eq!(client.ask("get k"), NO_SERVER);
        assert_eq!(client.ask("get k l m"), NO_SERVER);
        assert_eq!(client.set("k", "v"), NO_SERVER);
    }
    assert!(start.elapsed() < PROMPT, "took {:?}", start.elapsed());
    // Nobody asks for anything: what it does now it does on its own account.
    let before = ticks(&proxy);
    std::thread::sleep(Duration::from_secs(1));
    let used = ticks(&proxy) - before;
    assert!(used < 30, "used {used} % of a processor while nothing was asked");
}

#[test]
fn noreply_as_often_as_one_likes() {
    let (_server, backup, proxy) = pair();
    let mut client = proxy.client();
    for n in 0..100 {
        client.send(format!("set k{n} 0 0 1 noreply\r\nx\r\ndelete d{n} noreply\r\n"));
    }
    assert_eq!(client.ask("incr k0 1 noreply\r\nversion"), "VERSION memcached agent v0.6");
    assert_eq!(client.get("k99").as_deref(), Some("x"));
    backup.client().await_value("k99", Some("x"));
}

/// A listener whose queue is full: whoever connects hears nothing at all.
struct Clogged {
    _listener: socket2::Socket,
    _queue: Vec<TcpStream>,
    port: u16,
}

impl Clogged {
    fn start() -> Clogged {
        let kind = socket2::Type::STREAM;
        let listener = socket2::Socket::new(socket2::Domain::IPV4, kind, None).expect("a socket");
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("bound");
        listener.listen(0).expect("listening");
        let address = listener.local_addr().expect("address").as_socket().expect("IPv4");
        let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok();
        let queue: Vec<TcpStream> = std::iter::from_fn(connect).take(1000).collect();
        assert!(queue.len() < 1000, "its queue never filled");
        Clogged { _listener: listener, _queue: queue, port: address.port() }
    }
}

#[test]
fn a_black_hole_holds_nobody_up() {
    let clogged = Clogged::start();
    // Accepts through the kernel, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent_port = silent.local_addr().expect("address").port();
    for hole in [clogged.port, silent_port] {
        let backup = server();
        assert_eq!(backup.client().set("k", "v"), "STORED");
        let with_backup = proxy(&[hole], &[backup.port], &[]);
        let start = Instant::now();
        let mut client = with_backup.client();
        assert_eq!(client.get("k").as_deref(), Some("v"));
        assert_eq!(client.set("l", "w"), "STORED");
        for _ in 0..50 {
            assert_eq!(client.get("l").as_deref(), Some("w"));
        }
        let alone = proxy(&[hole], &[], &[]);
        let mut client = alone.client();
        for _ in 0..20 {
            assert!(client.ask("get k").starts_with("SERVER_ERROR "));
            assert!(client.set("k", "v").starts_with("SERVER_ERROR "));
        }
        assert!(start.elapsed() < PROMPT * 2, "took {:?}", start.elapsed());
    }
}

#[test]
fn many_writes() {
    let (server, backup, proxy) = pair();
    let mut client = proxy.client();
    let count = 20_000;
    let writer = std::thread::spawn(move || {
        for n in 0..count {
            assert_eq!(client.set(&format!("k{}", n % 1000), &n.to_string()), "STORED");
            if n == 2000 {
                break;
            }
        }
        let sets: String = (0..count).map(|n| format!("set p{n} 0 0 1\r\nx\r\n")).collect();
        client.send(sets);
        (0..count).for_each(|_| assert_eq!(client.line(), "STORED"));
    });
    writer.join().expect("all were answered");
    for node in [&server, &backup] {
        assert_eq!(node.client().stat("cmd_set"), Some((count + 2001).to_string()));
    }
}

#[test]
fn a_hundred_thousand_keys_in_one_get() {
    let (a, b) = (server(), server());
    let proxy = proxy(&[a.port, b.port], &[], &[]);
    let mut client = proxy.client();
    let there = |n: usize| n % 10 == 3;
    let sets: String = (0..100_000)
        .filter(|&n| there(n))
        .map(|n| format!("set key:{n} 0 0 {} noreply\r\n{n}\r\n", n.to_string().len()))
        .collect();
    client.send(sets + "mn\r\n");
    assert_eq!(client.line(), "MN");
    let line: String = (0..100_000).map(|n| format!(" key:{n}")).collect();
    client.send(format!("get{line}\r\n"));
    for n in (0..100_000).filter(|&n| there(n)) {
        assert_eq!(client.line(), format!("VALUE key:{n} 0 {}", n.to_string().len()));
        assert_eq!(client.line(), n.to_string());
    }
    assert_eq!(client.line(), "END");
}

/// Resident memory, in bytes.
fn resident(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.child.id()));
    let status = status.expect("a status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// So many connections that have asked something and are idle now.
fn idle_connections(port: u16, count: usize) -> Vec<TcpStream> {
    let mut streams = Vec::with_capacity(count);
    for _ in 0..count {
        let connect = || TcpStream::connect(("127.0.0.1", port)).ok();
        let mut stream = eventually("a connection", connect);
        stream.set_read_timeout(Some(common::DEADLINE)).expect("timeout");
        stream.write_all(b"get k\r\n").expect("sent");
        streams.push(stream);
    }
    let mut answer = [0; b"VALUE k 0 1000\r\n".len() + 1000 + b"\r\nEND\r\n".len()];
    for stream in &mut streams {
        stream.read_exact(&mut answer).expect("an answer");
        assert!(answer.starts_with(b"VALUE k 0 1000\r\n") && answer.ends_with(b"END\r\n"));
    }
    streams
}

#[test]
fn ten_thousand_idle_connections() {
    use nix::sys::resource::{getrlimit, setrlimit, Resource};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("the hard limit is allowed");
    let count = 10_000.min(usize::try_from(hard).unwrap_or(usize::MAX).saturating_sub(500));
    if count < 10_000 {
        eprintln!("\n*** only {count} connections: the limit of open files is {hard} ***\n");
    }
    let server = server();
    let proxy = proxy(&[server.port], &[], &["-n", "12000"]);
    let mut client = proxy.client();
    assert_eq!(client.set("k", &"x".repeat(1000)), "STORED");
    let before = resident(&proxy);
    let streams = idle_connections(proxy.port, count);
    let peak = resident(&proxy);
    let each = (peak - before) / count as u64;
    println!("{count} idle connections: {each} bytes resident each");
    assert!(each < 4096, "an idle connection takes {each} bytes");
    assert_eq!(client.get("k").map(|value| value.len()), Some(1000), "somebody in between");
    drop(streams);
    eventually("all are gone", || {
        let open = std::fs::read_dir(format!("/proc/{}/fd", proxy.child.id())).expect("files");
        (open.count() < 100).then_some(())
    });
    let after = resident(&proxy);
    drop(idle_connections(proxy.port, count));
    let again = resident(&proxy);
    println!("resident: {before} before, {peak} with them, {after} after, {again} the second time");
    assert!(again < peak + peak / 10 + (1 << 20), "a second crowd needs more than the first");
}
