//! Flags whose effect only a running server shows: sockets, files, signals, users.

mod common;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use common::{eventually, free_port, Client, Node, Scratch};

fn read_when_there(path: &str) -> String {
    eventually(path, || fs::read_to_string(path).ok().filter(|text| !text.is_empty()))
}

#[test]
fn a_unix_socket_serves_with_its_mode_and_goes_away() {
    let scratch = Scratch::new("opt-unix");
    let path = scratch.path("sock");
    let mut node = Node::start(0, &["-u", "nobody", "-s", &path, "-a", "620", "-p", "11211"]);
    let mut client = eventually("the socket accepts", || UnixStream::connect(&path).ok());
    client.write_all(b"set a 0 0 1\r\n1\r\nget a\r\n").expect("sent");
    let mut lines = BufReader::new(client.try_clone().expect("clone")).lines();
    let answers: Vec<String> = lines.by_ref().take(4).map(|l| l.expect("line")).collect();
    assert_eq!(answers, ["STORED", "VALUE a 0 1", "1", "END"]);
    let meta = fs::metadata(&path).expect("the socket");
    assert_eq!(meta.permissions().mode() & 0o777, 0o620);
    if twincached::platform::user::is_root() {
        let status = fs::read_to_string(format!("/proc/{}/status", node.child.id())).expect("proc");
        let uid = format!("Uid:\t{0}\t{0}\t{0}\t{0}", meta.uid());
        assert!(meta.uid() != 0 && status.contains(&uid), "socket of {}: {status}", meta.uid());
    }
    node.signal("TERM");
    assert_eq!(node.exit_code(), Some(0));
    assert!(!Path::new(&path).exists());
}

#[test]
fn an_ephemeral_port_is_written_to_the_file_asked_for() {
    let scratch = Scratch::new("opt-ports");
    let path = scratch.path("ports");
    let mut command = Command::new(env!("CARGO_BIN_EXE_twincached"));
    command.args(["-u", "root", "-p", "-1", "-U", "0", "-l", "127.0.0.1"]);
    let node = Node::spawn(command.env("MEMCACHED_PORT_FILENAME", &path), 0);
    let text = read_when_there(&path);
    let port = text.strip_prefix("TCP INET: ").and_then(|p| p.strip_suffix('\n')).expect("a line");
    assert_eq!(Client::connect(port.parse().expect("a port")).set("a", "1"), "STORED");
    drop(node);
}

#[test]
fn pid_file_and_log_file_live_as_long_as_the_server() {
    let scratch = Scratch::new("opt-files");
    let (pid, log) = (scratch.path("pid"), scratch.path("log"));
    let log_file = format!("log_file={log}");
    let port = free_port();
    let port_text = port.to_string();
    let mut node = Node::start(
        port,
        &[
            "-v",
            "-u",
            "root",
            "-l",
            "127.0.0.1",
            "-p",
            &port_text,
            "-P",
            &pid,
            "-o",
            &log_file,
            "-L",
        ],
    );
    node.await_port();
    assert_eq!(read_when_there(&pid), format!("{}\n", node.child.id()));
    let note = "-L has no meaning here and is ignored\n";
    assert_eq!(read_when_there(&log), note);
    // A rotation: the old file keeps its lines, the new one gets the next.
    fs::rename(&log, scratch.path("log.1")).expect("rotated");
    node.signal("HUP");
    eventually("the log is opened again", || Path::new(&log).exists().then_some(()));
    node.signal("INT");
    assert_eq!(node.exit_code(), Some(0));
    assert_eq!(fs::read_to_string(&log).expect("log"), "got signal 2\n");
    assert_eq!(fs::read_to_string(scratch.path("log.1")).expect("old log"), note);
    assert!(!Path::new(&pid).exists());
    assert_eq!(node.log(), "", "with a log file nothing goes to standard error");
}

#[test]
fn shutdown_and_flush_all_are_switched_by_flags() {
    let mut node = Node::plain(free_port(), &["-A", "-F"]);
    let mut client = node.client();
    assert_eq!(client.ask("flush_all"), "CLIENT_ERROR flush_all not allowed");
    client.send("shutdown\r\n");
    assert_eq!(node.exit_code(), Some(0));
    let node = Node::plain(free_port(), &[]);
    assert_eq!(node.client().ask("shutdown"), "SERVER_ERROR: shutdown not enabled");
}

#[test]
fn over_the_limit_a_client_is_told_or_waits() {
    let full = Node::plain(free_port(), &["-c", "2"]);
    let mut kept = Vec::new();
    // The probe that saw the port open may still hold a place for a moment.
    eventually("two are served and a third is told", || {
        let mut client = full.client();
        client.send("version\r\n");
        let answer = client.line();
        let told = answer == "ERROR Too many open connections";
        if !told {
            assert!(answer.starts_with("VERSION "), "{answer}");
            kept.push(client);
        }
        assert!(kept.len() <= 2, "a third one was served");
        (told && kept.len() == 2).then_some(())
    });
    let queue = Node::plain(free_port(), &["-c", "1", "-o", "no_maxconns_fast"]);
    let mut first = queue.client();
    assert!(first.ask("version").starts_with("VERSION "));
    let mut second = queue.client();
    second.send("version\r\n");
    drop(first);
    assert!(second.line().starts_with("VERSION "), "it had to wait and was served");
}

#[test]
fn a_silent_client_is_closed_after_idle_timeout() {
    let node = Node::plain(free_port(), &["-o", "idle_timeout=1"]);
    let mut client = node.client();
    assert_eq!(client.set("a", "1"), "STORED");
    // Ends when the server closes; the deadline of the stream is far above.
    assert_eq!(client.rest(), b"");
    let kicks = node.client().stat("idle_kicks").expect("idle_kicks");
    assert!(kicks.parse::<u64>().expect("a number") >= 1, "{kicks}");
}

#[test]
fn bound_early_but_open_only_when_it_serves() {
    // Two servers on one port: the second says so and ends, whatever else it waits for.
    let node = Node::plain(free_port(), &[]);
    let port = node.port.to_string();
    let args = ["-u", "root", "-l", "127.0.0.1", "-p", &port, "-x", "192.0.2.1", "-X", "1"];
    let mut second = Node::start(0, &args);
    assert_eq!(second.exit_code(), Some(71));
    eventually("its reason", || {
        (second.log() == "failed to listen on 127.0.0.1: Address already in use\n").then_some(())
    });
}

#[test]
fn memory_that_cannot_be_had_is_said_and_not_a_crash() {
    // Under a limit of 2 GB of address space, as `ulimit -v` sets it.
    let mut command = Command::new("sh");
    let server = env!("CARGO_BIN_EXE_twincached");
    command.args(["-c", "ulimit -v 2000000 && exec \"$0\" \"$@\"", server]);
    command.args(["-u", "root", "-l", "127.0.0.1", "-p", "0", "-U", "0", "-m", "60000"]);
    let mut node = Node::spawn(&mut command, 0);
    assert_eq!(node.exit_code(), Some(71));
    eventually("its reason", || {
        (node.log() == "cannot allocate 60000 megabytes of memory (-m)\n").then_some(())
    });
}
