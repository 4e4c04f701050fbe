//! `-Y` and `-S` on a running server: who gets in, what everybody else is told, and how the file of
//! users is read.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use common::{free_port, Client, Node, Scratch};

/// Sends the login of `-Y` and gives its answer.
fn log_in(client: &mut Client, user: &str, password: &str) -> String {
    let data = format!("{user} {password}");
    client.ask(&format!("set x 0 0 {}\r\n{data}", data.len()))
}

const DENIED: &str = "CLIENT_ERROR authentication failure";

#[test]
fn users_are_read_again_on_sighup_unless_the_file_is_bad() {
    let scratch = Scratch::new("opt-auth");
    let users = scratch.path("users");
    fs::write(&users, "foo:bar\n").expect("users");
    let node = Node::plain(free_port(), &["-v", "-Y", &users]);
    let mut early = node.client();
    assert_eq!(early.ask("get a"), "CLIENT_ERROR unauthenticated");
    assert_eq!(log_in(&mut early, "foo", "bar"), "STORED");

    fs::write(&users, "foo:new\nmore:users\n").expect("users");
    node.signal("HUP");
    node.await_log("the users were read again: 2", 1);
    let mut late = node.client();
    assert_eq!(log_in(&mut late, "foo", "bar"), DENIED);
    assert_eq!(log_in(&mut late, "foo", "new"), "STORED");
    // Who is in stays in.
    assert_eq!(early.set("a", "1"), "STORED");
    assert_eq!(early.stat("auth_cmds").as_deref(), Some("3"));
    assert_eq!(early.stat("auth_errors").as_deref(), Some("1"));

    for (bad, why) in [
        (Some("no colon\n"), "has a malformed entry in line 1. Should be 'user:password'"),
        (None, "for reading, error No such file or directory (os error 2)"),
    ] {
        match bad {
            Some(text) => fs::write(&users, text).expect("users"),
            None => fs::remove_file(&users).expect("users"),
        }
        node.signal("HUP");
        let start = if bad.is_some() { "Authfile" } else { "Could not open authfile" };
        node.await_log(&format!("{start} [{users}] {why}: the users stay as they were"), 1);
        assert_eq!(log_in(&mut node.client(), "more", "users"), "STORED");
    }
}

#[test]
fn a_bad_file_of_users_ends_the_start() {
    let scratch = Scratch::new("opt-bad-auth");
    let users = scratch.path("users");
    let run = |args: &[&str], pwdb: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_twincached"));
        command.args(["-u", "root", "-p", "0", "-l", "127.0.0.1"]).args(args);
        if let Some(path) = pwdb {
            command.env("MEMCACHED_SASL_PWDB", path);
        }
        let output = command.output().expect("runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let missing = format!(
        "Could not open authfile [{users}] for reading, error No such file or directory (os error \
         2)\n"
    );
    assert_eq!(run(&["-Y", &users], None), (Some(1), missing.clone()));
    assert_eq!(run(&["-S"], Some(&users)), (Some(1), missing));
    fs::write(&users, "foo:bar\nfoobar\n").expect("users");
    let malformed =
        format!("Authfile [{users}] has a malformed entry in line 2. Should be 'user:password'\n");
    assert_eq!(run(&["-S", "-Y", &users], None), (Some(1), malformed));
}

#[test]
fn users_that_the_server_cannot_read_again_are_said_at_the_start() {
    if !twincached::platform::user::is_root() {
        eprintln!("SKIPPED: not root");
        return;
    }
    let scratch = Scratch::new("opt-root-auth");
    let users = scratch.path("users");
    fs::write(&users, "foo:bar\n").expect("users");
    fs::set_permissions(&users, fs::Permissions::from_mode(0o600)).expect("mode");
    let port = free_port();
    let port_text = port.to_string();
    let args = ["-u", "nobody", "-l", "127.0.0.1", "-p", &port_text, "-Y", &users];
    let node = Node::start(port, &args);
    node.await_log(
        &format!(
            "Could not open authfile [{users}] for reading, error Permission denied (os error 13): \
             SIGHUP will not change the users"
        ),
        1,
    );
    node.await_port();
    assert_eq!(log_in(&mut node.client(), "foo", "bar"), "STORED");
}

/// Opcodes and statuses of the binary protocol.
const GET: u8 = 0x00;
const SET: u8 = 0x01;
const VERSION: u8 = 0x0b;
const LIST: u8 = 0x20;
const LOGIN: u8 = 0x21;
const STEP: u8 = 0x22;
const OK: u16 = 0;
const INVALID: u16 = 4;
const AUTH_ERROR: u16 = 0x20;
const AUTH_CONTINUE: u16 = 0x21;
const UNKNOWN: u16 = 0x81;

fn packet(opcode: u8, extras: &[u8], key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x80, opcode, 0, key.len() as u8, extras.len() as u8, 0, 0, 0];
    packet.extend(((extras.len() + key.len() + value.len()) as u32).to_be_bytes());
    packet.extend([0; 12]);
    for part in [extras, key, value] {
        packet.extend(part);
    }
    packet
}

/// Sends a packet; gives the status and the body of the response.
fn ask(client: &mut Client, packet: &[u8]) -> (u16, Vec<u8>) {
    client.send(packet);
    let head = client.bytes(24);
    let len = u32::from_be_bytes(head[8..12].try_into().expect("four bytes"));
    (u16::from_be_bytes([head[6], head[7]]), client.bytes(len as usize))
}

fn plain(user: &str, password: &str) -> Vec<u8> {
    packet(LOGIN, b"", b"PLAIN", format!("\0{user}\0{password}").as_bytes())
}

#[test]
fn a_binary_client_does_nothing_before_its_login() {
    let scratch = Scratch::new("sasl");
    let users = scratch.path("users");
    fs::write(&users, "foo:bar\nmore:a b\n").expect("users");
    let node = Node::plain(free_port(), &["-S", "-Y", &users]);
    for opcode in 0..=u8::MAX {
        let wanted = match opcode {
            VERSION | LIST => OK,
            LOGIN | STEP => INVALID,
            _ => AUTH_ERROR,
        };
        let mut client = node.client();
        let (status, _) = ask(&mut client, &packet(opcode, b"", b"", b""));
        assert_eq!(status, wanted, "{opcode:#x}");
        if wanted == AUTH_ERROR {
            assert_eq!(client.rest(), b"", "{opcode:#x} and it is over");
        }
    }
    let mut client = node.client();
    assert_eq!(ask(&mut client, &packet(LIST, b"", b"", b"")), (OK, b"PLAIN".to_vec()));
    for wrong in [
        plain("foo", "baz"),
        plain("foo", ""),
        plain("foo", "a b"),
        plain("", "bar"),
        packet(LOGIN, b"", b"CRAM-MD5", b"\0foo\0bar"),
        packet(LOGIN, b"", b"PLAIN", b"more\0foo\0bar"),
        packet(LOGIN, b"", b"PLAIN", b"\0foo\0bar\0"),
        packet(STEP, b"", b"PLAIN", b"\0foo\0bar"),
    ] {
        assert_eq!(ask(&mut client, &wrong), (AUTH_ERROR, b"Auth failure.".to_vec()));
    }
    assert_eq!(ask(&mut client, &plain("foo", "bar")), (OK, b"Authenticated".to_vec()));
    assert_eq!(ask(&mut client, &packet(SET, &[0; 8], b"k", b"v")).0, OK);
    assert_eq!(ask(&mut client, &packet(GET, b"", b"k", b"")), (OK, b"\0\0\0\0v".to_vec()));
    // In two steps, and what a new beginning means for who was in.
    assert_eq!(ask(&mut client, &packet(LOGIN, b"", b"PLAIN", b"")).0, AUTH_CONTINUE);
    assert_eq!(ask(&mut client, &packet(STEP, b"", b"PLAIN", b"\0more\0a b")).0, OK);
    assert_eq!(ask(&mut client, &packet(GET, b"", b"k", b"")).0, OK);
    assert_eq!(ask(&mut client, &packet(LIST, b"", b"", b"")).0, OK);
    assert_eq!(ask(&mut client, &packet(GET, b"", b"k", b"")).0, AUTH_ERROR);

    // Text clients have the same users.
    let mut text = node.client();
    assert_eq!(text.ask("get k"), "CLIENT_ERROR unauthenticated");
    assert_eq!(log_in(&mut text, "more", "a b"), "STORED");
    assert_eq!(text.get("k").as_deref(), Some("v"));
    let settings = text.stats("settings");
    for (name, value) in [("auth_enabled_sasl", "yes"), ("auth_enabled_ascii", users.as_str())] {
        assert!(settings.contains(&(name.into(), value.into())), "{name}");
    }
    // The malformed ones were not counted, as in memcached.
    assert_eq!(text.stat("auth_cmds").as_deref(), Some("11"));
    assert_eq!(text.stat("auth_errors").as_deref(), Some("8"));
}

#[test]
fn sasl_alone_speaks_binary_and_may_have_no_users() {
    let scratch = Scratch::new("pwdb");
    let users = scratch.path("users");
    fs::write(&users, "# users\nfoo:bar:\n").expect("users");
    let port = free_port();
    let port_text = port.to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_twincached"));
    command.args(["-u", "root", "-l", "127.0.0.1", "-m", "1", "-p", &port_text, "-S"]);
    let node = Node::spawn(command.env("MEMCACHED_SASL_PWDB", &users), port);
    node.await_port();
    let mut client = node.client();
    assert_eq!(ask(&mut client, &plain("foo", "bar")).0, OK);
    assert_eq!(ask(&mut client, &packet(GET, b"", b"k", b"")).0, 1);
    let mut text = node.client();
    text.send("set x 0 0 7\r\nfoo bar\r\nversion\r\n");
    assert_eq!(text.rest(), b"", "no magic, no answer");

    let nobody = Node::plain(free_port(), &["-S"]);
    nobody.await_log(
        "-S: nobody can log in: name a file of users with -Y, or in MEMCACHED_SASL_PWDB",
        1,
    );
    assert_eq!(ask(&mut nobody.client(), &plain("foo", "bar")).0, AUTH_ERROR);
    assert_eq!(ask(&mut nobody.client(), &plain("", "")).0, AUTH_ERROR);
    let open = Node::plain(free_port(), &[]);
    assert_eq!(ask(&mut open.client(), &plain("foo", "bar")).0, UNKNOWN);
}
