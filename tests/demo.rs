//! `twincached demo` plays to its end, and leaves nothing behind.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

mod common;

fn demo(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_twincached"));
    command.arg("demo").args(args).stdin(Stdio::null());
    command
}

/// Processes whose command line holds `word`.
fn processes_with(word: &str) -> usize {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| String::from_utf8_lossy(line).contains(word)).count()
}

#[test]
fn the_whole_story_is_told_and_nothing_is_left() {
    let output = demo(&[]).output().expect("the demo runs");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}:\n{told}", output.status);
    for scene in [
        "replication: marugoto owari",
        "kill -9",
        "Roles have changed: A is SLAVE",
        "Healed by itself",
        "get key1                               < VALUE key1 0 3 / one / END",
        "Put back within",
        "memcached agent v0.6",
        "nothing is left behind",
    ] {
        assert!(told.contains(scene), "{scene:?} is missing in:\n{told}");
    }
    // Every node was given a free port of its own, which names it.
    let ports = told.split_whitespace().skip_while(|word| *word != "-X").nth(1);
    assert_eq!(processes_with(ports.expect("a replication port")), 0, "a node is left");
}

#[test]
fn stay_prints_where_to_connect_and_ends_with_its_parent() {
    let mut child = demo(&["--stay"]).stdout(Stdio::piped()).spawn().expect("the demo runs");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut ports = Vec::new();
    while ports.len() < 6 {
        let line = lines.next().expect("it goes on").expect("text");
        if let Some(rest) = line.trim().strip_prefix("telnet 127.0.0.1 ") {
            let port = rest.split(' ').next().and_then(|port| port.parse().ok());
            ports.push(port.expect("a port"));
        }
    }
    let mut on_a = common::Client::connect(ports[0]);
    assert_eq!(on_a.set("k", "v"), "STORED");
    common::Client::connect(ports[1]).await_value("k", Some("v"));
    let mut proxy = common::Client::connect(ports[2]);
    assert_eq!(proxy.set("p", "w"), "STORED");
    assert_eq!(proxy.get("p").as_deref(), Some("w"));
    child.kill().expect("killed");
    child.wait().expect("reaped");
    for port in ports {
        common::eventually("its nodes end with it", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).is_err().then_some(())
        });
    }
}
