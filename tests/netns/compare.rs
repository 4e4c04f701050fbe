//! Whether nodes are equal, seen from outside: every key, its flags, expiry, CAS and bytes.
//!
//! Owns the comparison and what is said of a difference. It asks the nodes by means that any client
//! has, so that it does not rest on the program's own digests.

use crate::common::{Client, DEADLINE};
use crate::lab::Host;
use crate::load::{value_of, Told};
use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

/// Keys asked for at once.
const AT_ONCE: usize = 200;

/// One item: expiry, CAS unique, flags, bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    expiry: String,
    cas: u64,
    flags: u32,
    bytes: Vec<u8>,
}

/// All that a node holds.
pub type Content = BTreeMap<String, Item>;

/// Reads a node.
pub fn content(client: &mut Client) -> Content {
    assert_eq!(client.ask("lru_crawler metadump all"), "OK");
    let mut dump = Vec::new();
    loop {
        let line = client.line();
        if line == "END" {
            break;
        }
        let word = |name: &str| {
            let mut words = line.split(' ').filter_map(|word| word.split_once('='));
            let found = words.find(|(have, _)| *have == name);
            found.unwrap_or_else(|| panic!("a dump's line {line:?}")).1.to_owned()
        };
        dump.push((word("key"), word("exp")));
    }
    let mut all = Content::new();
    for chunk in dump.chunks(AT_ONCE) {
        let expiries: BTreeMap<&str, &str> =
            chunk.iter().map(|(key, exp)| (key.as_str(), exp.as_str())).collect();
        let keys: Vec<&str> = chunk.iter().map(|(key, _)| key.as_str()).collect();
        client.send(format!("gets {}\r\n", keys.join(" ")));
        loop {
            let line = client.line();
            if line == "END" {
                break;
            }
            let words: Vec<&str> = line.split(' ').collect();
            let mut bytes = client.bytes(words[3].parse::<usize>().expect("a length") + 2);
            bytes.truncate(bytes.len() - 2);
            let item = Item {
                expiry: expiries[words[1]].to_owned(),
                cas: words[4].parse().expect("a unique"),
                flags: words[2].parse().expect("flags"),
                bytes,
            };
            all.insert(words[1].to_owned(), item);
        }
    }
    all
}

/// The first few differences between two nodes.
fn differences(a: &Content, b: &Content) -> Vec<String> {
    let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
    let differ = keys.filter(|key| a.get(*key) != b.get(*key));
    let short = |item: Option<&Item>| {
        item.map(|item| {
            let head = &item.bytes[..item.bytes.len().min(24)];
            (&item.expiry, item.cas, item.flags, String::from_utf8_lossy(head).into_owned())
        })
        .map_or("nothing".to_owned(), |item| format!("{item:?}"))
    };
    differ
        .take(5)
        .map(|k| format!("{k}: {} against {}", short(a.get(k)), short(b.get(k))))
        .collect()
}

/// Waits until all nodes are equal, and returns what they hold.
pub fn await_equal(hosts: &[&Host]) -> Content {
    let mut clients: Vec<Client> = hosts.iter().map(|host| host.client()).collect();
    let begin = Instant::now();
    loop {
        let settled = clients.iter_mut().all(|client| {
            let lag = client.stat("repl_lag_us").expect("a figure");
            lag == "0"
        });
        let late = begin.elapsed() > DEADLINE;
        if settled || late {
            let contents: Vec<Content> = clients.iter_mut().map(content).collect();
            let (first, rest) = contents.split_first().expect("nodes");
            let differ: Vec<String> = rest
                .iter()
                .enumerate()
                .filter(|(_, other)| *other != first)
                .map(|(at, other)| {
                    let (a, b) = (hosts[0].number, hosts[at + 1].number);
                    let lens = (first.len(), other.len());
                    let found = differences(first, other).join("\n  ");
                    format!("hosts {a} and {b} hold {lens:?} items:\n  {found}")
                })
                .collect();
            if differ.is_empty() {
                verify(hosts);
                return contents.into_iter().next().expect("nodes");
            }
            assert!(!late, "not equal:\n{}\n{}", differ.join("\n"), logs(hosts));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The program's own comparison says the same.
fn verify(hosts: &[&Host]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_twincached"));
    command.arg("verify").args(hosts.iter().map(|host| host.door.to_string()));
    let output = command.output().expect("verify runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{said}\n{}", logs(hosts));
}

/// What the nodes have said and what they know of their links, for a failure's report.
pub fn logs(hosts: &[&Host]) -> String {
    let mut out = String::new();
    for host in hosts {
        let log = host.node.log();
        let tail: Vec<&str> = log.lines().rev().take(40).collect();
        out.push_str(&format!("--- log of host {}, its end:\n", host.number));
        for line in tail.iter().rev() {
            out.push_str(&format!("{line}\n"));
        }
        for (name, value) in host.client().stats("replication") {
            out.push_str(&format!("{name} {value}\n"));
        }
    }
    out
}

/// Asserts that everything that was promised is there.
pub fn nothing_is_missing(content: &Content, told: &[Told], len: usize) {
    for writer in told {
        for &number in &writer.stored {
            let key = writer.key(number);
            let item = content.get(&key);
            let item = item.unwrap_or_else(|| panic!("{key} was answered STORED and is lost"));
            assert_eq!(item.bytes, value_of(number, len).as_bytes(), "{key}");
            assert_eq!(item.flags as usize, number % 7, "{key}");
        }
    }
}
