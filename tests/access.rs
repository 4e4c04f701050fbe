//! Who may connect: secrets, strangers, names, silence. Real processes, as an operator starts them.

mod common;

use common::{eventually, free_port, node_of_pair, skipped, Client, Node, Scratch};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// A node with a replication port of its own and whatever `more` says.
fn node(repl: u16, more: &[&str]) -> Node {
    let (port, repl) = (free_port(), repl.to_string());
    let text = port.to_string();
    let mut args = vec!["-v", "-u", "root", "-l", "127.0.0.1", "-p", &text, "-X", &repl];
    args.extend_from_slice(more);
    Node::start(port, &args)
}

fn secret(scratch: &Scratch, name: &str, text: &str) -> String {
    let path = scratch.path(name);
    fs::write(&path, text).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("mode");
    format!("repl_secret_file={path}")
}

fn lines_with(node: &Node, text: &str) -> usize {
    node.log().lines().filter(|line| line.contains(text)).count()
}

fn number(client: &mut Client, name: &str) -> u64 {
    client.stat(name).and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no {name}"))
}

const WITHOUT_SECRET: &str = "works without a secret";

#[test]
fn nodes_that_share_a_secret_link_and_are_not_warned() {
    let scratch = Scratch::new("access-same");
    let option = secret(&scratch, "s", "a shared secret\n");
    let (first, second, _) = common::pair(&["-o", &option]);
    assert_eq!(first.client().set("k", "v"), "STORED");
    second.client().await_value("k", Some("v"));
    assert_eq!(second.client().set("l", "w"), "STORED");
    first.client().await_value("l", Some("w"));
    for node in [&first, &second] {
        assert_eq!(lines_with(node, WITHOUT_SECRET) + lines_with(node, "no link"), 0);
        assert!(!node.log().contains("a shared secret"));
    }
}

#[test]
fn without_a_secret_one_warning_says_what_it_would_add() {
    let (first, second, _) = common::pair(&[]);
    assert_eq!([&first, &second].map(|node| lines_with(node, WITHOUT_SECRET)), [1, 1]);
    let alone = Node::plain(free_port(), &["-v"]);
    assert_eq!(lines_with(&alone, WITHOUT_SECRET), 0, "nothing replicates");
}

#[test]
fn other_secrets_and_none_are_refused_in_words_on_both_sides() {
    let scratch = Scratch::new("access-other");
    let ours = secret(&scratch, "ours", "ours");
    let theirs = secret(&scratch, "theirs", "theirs");
    let (differ, none, asks) =
        ("the peer has another secret", "the peer has no secret", "the peer asks for a secret");
    let cases: [(&[&str], &str, &str); 2] = [(&["-o", &theirs], differ, differ), (&[], none, asks)];
    for (more, here, there) in cases {
        let repl = free_port();
        let listener = node(repl, &["-o", &ours]);
        listener.await_port();
        assert_eq!(listener.client().set("secret", "treasure"), "STORED");
        let peer = format!("127.0.0.1:{repl}");
        let dialler = node(free_port(), &[&["-x", &peer], more].concat());
        dialler.await_port();
        for (node, why) in [(&listener, here), (&dialler, there)] {
            let mut client = node.client();
            eventually(&format!("{why:?} in stats; log:\n{}", node.log()), || {
                let error = client.stat("repl_last_error")?;
                error.starts_with(why).then_some(())
            });
            // It is tried again and again, and said once.
            eventually("tried again", || {
                (number(&mut client, "repl_secret_mismatches") >= 3).then_some(())
            });
            assert_eq!(lines_with(node, why), 1, "{}", node.log());
            assert_eq!(number(&mut client, "repl_links_made"), 0);
        }
        let errors = dialler.client().stats("replication");
        let said = |(name, error): &(String, String)| {
            name.ends_with("last_error") && error.starts_with(there)
        };
        assert!(errors.iter().any(said), "{errors:?}");
        assert_eq!(dialler.client().get("secret"), None);
    }
}

#[test]
fn a_secret_that_cannot_be_read_ends_the_start_in_words() {
    let scratch = Scratch::new("access-bad");
    let empty = secret(&scratch, "empty", "\nnot the first line");
    let long = secret(&scratch, "long", &"x".repeat(2000));
    let missing = format!("repl_secret_file={}", scratch.path("missing"));
    let folder = format!("repl_secret_file={}", scratch.path("."));
    for (option, why) in [
        (&empty, "first line is empty"),
        (&long, "longer than 1024"),
        (&missing, "No such file"),
        (&folder, "not a regular file"),
    ] {
        let mut refused = node(free_port(), &["-o", option]);
        assert_eq!(refused.exit_code(), Some(1));
        assert!(refused.whole_log().contains(why), "{}", refused.log());
    }
    let open = secret(&scratch, "open", "s");
    fs::set_permissions(scratch.path("open"), fs::Permissions::from_mode(0o644)).expect("mode");
    let node = node(free_port(), &["-o", &open]);
    node.await_port();
    assert_eq!(lines_with(&node, "all users of this machine can read"), 1);
}

/// What strangers on this host may try. Each is let stand as long as the node lets it.
fn besiege(repl: u16) -> Vec<TcpStream> {
    let line = b"twincached replication 1.2 00000000000000000000000000000005\r\n";
    let auth = b"twincached replication 1.2 00000000000000000000000000000005 \
        auth=00112233445566778899aabbccddeeff\r\n";
    let huge = [&line[..], &[0xff, 0xff, 0xff, 0x7f, 1, 0, 0, 0, 0]].concat();
    let early = [&line[..], &[0x00, 0x80, 0, 0, 5, 0, 0, 0, 0]].concat();
    let openings: [&[u8]; 9] = [
        b"",
        b"\r\n",
        b"get a\r\nrep a 0 0 1 1\r\nx\r\nflush_all\r\n",
        &[0x80; 300],
        b"twincached repl",
        line,
        auth,
        &huge,
        &early,
    ];
    let mut held = Vec::new();
    for round in 0..40 {
        for opening in openings {
            let Ok(mut stream) = TcpStream::connect(("127.0.0.1", repl)) else { continue };
            let _ = stream.write_all(opening);
            if round % 2 == 0 {
                held.push(stream);
            }
        }
    }
    held
}

#[test]
fn strangers_in_crowds_cost_a_linked_peer_nothing_and_keep_none_out() {
    let scratch = Scratch::new("access-crowd");
    let option = secret(&scratch, "s", "s");
    for more in [&[][..], &["-o", &option][..]] {
        let (first, second, repl) = common::pair(more);
        let mut client = first.client();
        assert_eq!(client.set("secret", "treasure"), "STORED");
        second.client().await_value("secret", Some("treasure"));
        let before = number(&mut client, "repl_handshakes_failed");
        let mut held = besiege(repl);
        eventually("they are dealt with", || {
            (number(&mut client, "repl_handshakes_failed") > before + 200).then_some(())
        });
        assert_eq!(number(&mut client, "repl_links_made"), 1, "{}", first.log());
        assert_eq!(number(&mut client, "repl_peers_linked"), 1);
        assert_eq!(client.set("still", "linked"), "STORED");
        second.client().await_value("still", Some("linked"));
        // While they stand there, the peer dies and comes back.
        drop(second);
        first.await_log("replication: close", 2);
        let again = node_of_pair(free_port(), repl, more);
        again.await_port();
        assert_eq!(again.client().get("secret").as_deref(), Some("treasure"));
        for stranger in &mut held {
            stranger.set_read_timeout(Some(common::DEADLINE)).expect("timeout");
            let mut heard = Vec::new();
            let _ = stranger.read_to_end(&mut heard);
            assert!(heard.len() < 400, "{} bytes", heard.len());
            assert!(!heard.windows(8).any(|w| w == b"treasure"), "a stranger read an item");
        }
    }
}

#[test]
fn a_stopped_peer_is_noticed_within_repl_timeout() {
    let (first, second, _) = common::pair(&["-o", "repl_timeout=300ms"]);
    second.signal("STOP");
    first.await_log("replication: close", 2);
    let mut client = first.client();
    let error = eventually("an error in stats", || {
        client.stat("repl_last_error").filter(|error| error != "none")
    });
    let words: Vec<&str> = error.split(' ').collect();
    let ms: u64 = words[words.len() - 2].parse().unwrap_or_else(|_| panic!("{error}"));
    assert!(error.starts_with("nothing heard for") && (300..5000).contains(&ms), "{error}");
    assert_eq!(first.client().set("meanwhile", "v"), "STORED");
    second.signal("CONT");
    second.client().await_value("meanwhile", Some("v"));
}

#[test]
fn peers_are_named_in_all_forms_and_twice_and_one_is_nobody() {
    let (repl, own) = (free_port(), free_port());
    let first = node(repl, &[]);
    first.await_port();
    assert_eq!(first.client().set("k", "v"), "STORED");
    let peers = format!(
        "no-such-host.invalid,127.0.0.1:{own},localhost:{repl},127.0.0.1:{repl},127.0.0.1:{repl}"
    );
    let second = node(own, &["-x", &peers, "-x", &format!("localhost:{repl}")]);
    second.await_port();
    second.client().await_value("k", Some("v"));
    eventually("the name that is nobody's is said", || {
        (lines_with(&second, "no address for no-such-host.invalid") == 1).then_some(())
    });
    // Twice named is once dialled: the same name once, the same node once linked.
    let stats = second.client().stats("replication");
    let errors = stats.iter().filter(|(name, _)| name.ends_with(":last_error")).count();
    assert_eq!(errors, 4, "{stats:?}");
    for node in [&first, &second] {
        let mut client = node.client();
        eventually("linked, once", || {
            (number(&mut client, "repl_peers_linked") == 1).then_some(())
        });
    }
}

#[test]
fn a_peer_is_reached_by_ipv6() {
    if TcpListener::bind("[::1]:0").is_err() {
        return skipped("IPv6");
    }
    for form in ["[::1]:PORT", "::1"] {
        let (port, repl) = (free_port().to_string(), free_port().to_string());
        let args = ["-v", "-u", "root", "-l", "::1", "-l", "127.0.0.1", "-p", &port, "-X", &repl];
        let first = Node::start(port.parse().expect("a port"), &args);
        first.await_port();
        assert_eq!(first.client().set("k", "v"), "STORED");
        let peer = form.replace("PORT", &repl);
        let port = free_port().to_string();
        let args = ["-v", "-u", "root", "-l", "127.0.0.1", "-p", &port, "-X", &repl, "-x", &peer];
        let second = Node::start(port.parse().expect("a port"), &args);
        second.await_log("replication: start", 1);
        second.await_port();
        assert_eq!(second.client().get("k").as_deref(), Some("v"), "{form}");
    }
}

/// A network namespace joined to this machine by a cable; removed at the end.
struct Elsewhere {
    name: String,
    subnet: String,
}

fn ip(args: &str) -> bool {
    let run = Command::new("ip").args(args.split(' ')).output();
    run.is_ok_and(|output| output.status.success())
}

impl Elsewhere {
    /// `None` where this user or this machine cannot make one.
    fn make() -> Option<Elsewhere> {
        let id = std::process::id();
        let name = format!("tca{}", id % 1_000_000);
        let made = Elsewhere { subnet: format!("10.213.{}", id % 250), name };
        let (name, subnet) = (&made.name, &made.subnet);
        let all = ip(&format!("netns add {name}"))
            && ip(&format!("link add {name} type veth peer name far netns {name}"))
            && ip(&format!("addr add {subnet}.1/24 dev {name}"))
            && ip(&format!("link set {name} up"))
            && ip(&format!("-n {name} addr add {subnet}.2/24 dev far"))
            && ip(&format!("-n {name} link set far up"))
            && ip(&format!("-n {name} link set lo up"));
        all.then_some(made)
    }

    /// A node there that dials the replication port `repl` here.
    fn node(&self, repl: u16) -> Node {
        let port = free_port();
        let peer = format!("{}.1:{repl}", self.subnet);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, env!("CARGO_BIN_EXE_twincached")]);
        command.args(["-v", "-u", "root", "-p", &port.to_string(), "-x", &peer]);
        command.args(["-X", &free_port().to_string()]);
        Node::spawn(&mut command, port)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        ip(&format!("link del {}", self.name));
        ip(&format!("netns del {}", self.name));
    }
}

#[test]
fn a_true_stranger_is_refused_and_a_named_network_is_not() {
    let Some(elsewhere) = Elsewhere::make() else {
        return skipped("a network namespace (ip netns, as root)");
    };
    let subnet = &elsewhere.subnet;
    let (network, address) = (format!("repl_allow={subnet}.0/24"), format!("{subnet}.2"));
    let cases: [(&[&str], bool); 4] = [
        (&[], false),
        (&["-x", "127.0.0.1:1", "-o", "repl_allow=10.214.0.0/16,fd00::/8"], false),
        (&["-o", &network], true),
        (&["-x", &address], true),
    ];
    for (more, may) in cases {
        let (port, repl) = (free_port().to_string(), free_port());
        let repl_text = repl.to_string();
        let args = ["-v", "-u", "root", "-p", &port, "-X", &repl_text];
        let here = Node::start(port.parse().expect("a port"), &[&args, more].concat());
        here.await_port();
        let mut client = here.client();
        assert_eq!(client.set("secret", "treasure"), "STORED");
        let there = elsewhere.node(repl);
        if may {
            there.await_log("replication: start", 1);
            here.await_log("replication: accept", 1);
            assert_eq!(number(&mut client, "repl_strangers"), 0);
        } else {
            eventually("refused, and again", || {
                (number(&mut client, "repl_strangers") >= 3).then_some(())
            });
            let line = format!("refused a connection from {subnet}.2:");
            assert!(lines_with(&here, &line) >= 1, "{}", here.log());
            assert_eq!(there.log_lines("replication: start"), Vec::<String>::new());
            assert_eq!(number(&mut client, "repl_peers_linked"), 0);
        }
    }
}
