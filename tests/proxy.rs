//! The proxy over real sockets, in front of real `memcached` processes and of servers that lie.
//!
//! Servers are killed, restarted empty, cut off and hushed; whatever the proxy answers meanwhile
//! must be a value of the key that was asked, and must come.

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use common::{eventually, free_port, peer_program, Cable, Client, Node};
use twincached::proxy::{self, Config, ServerAddr};

/// A proxy in this process, for as long as the process lives. Returns its port.
fn proxy_with(servers: &[u16], backups: &[u16], more: impl FnOnce(&mut Config)) -> u16 {
    let addr = |&port: &u16| ServerAddr { host: "127.0.0.1".into(), port };
    let port = free_port();
    let mut config = Config {
        listen: vec!["127.0.0.1".into()],
        port,
        servers: servers.iter().map(addr).collect(),
        backups: backups.iter().map(addr).collect(),
        foreground: true,
        ..Config::default()
    };
    more(&mut config);
    std::thread::spawn(move || {
        let status = proxy::run(config);
        panic!("the proxy ended with status {status}");
    });
    eventually("the proxy listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    port
}

fn proxy_port(servers: &[u16], backups: &[u16]) -> u16 {
    proxy_with(servers, backups, |_| {})
}

/// A real memcached.
fn memcached(program: &str, port: u16) -> Node {
    let port_text = port.to_string();
    let mut command = Command::new(program);
    command.args(["-u", "root", "-l", "127.0.0.1", "-U", "0", "-m", "64", "-p", &port_text]);
    let node = Node::spawn(&mut command, port);
    node.await_port();
    node
}

/// Two servers and a backup behind a proxy.
struct Site {
    program: &'static str,
    servers: Vec<Node>,
    backup: Node,
    proxy: u16,
}

impl Site {
    fn start() -> Option<Site> {
        let program = peer_program("memcached")?;
        let servers: Vec<Node> = [0, 1].iter().map(|_| memcached(program, free_port())).collect();
        let backup = memcached(program, free_port());
        let proxy = proxy_port(&[servers[0].port, servers[1].port], &[backup.port]);
        Some(Site { program, servers, backup, proxy })
    }

    fn client(&self) -> Client {
        Client::connect(self.proxy)
    }

    fn kill_servers(&mut self) {
        self.servers.iter_mut().for_each(Node::kill);
    }

    /// Empty servers on the old ports.
    fn restart_servers(&mut self) {
        for server in &mut self.servers {
            *server = memcached(self.program, server.port);
        }
    }
}

#[test]
fn the_transcript_of_the_seed() {
    let Some(mut site) = Site::start() else { return };
    let mut client = site.client();
    assert_eq!(client.set("key1", "aa"), "STORED");
    assert_eq!(client.set("key2", "bb"), "STORED");
    let at = |node: &Node, key: &str| node.client().get(key);
    assert_eq!(at(&site.servers[1], "key1").as_deref(), Some("aa"));
    assert_eq!(at(&site.servers[0], "key2").as_deref(), Some("bb"));
    assert_eq!(at(&site.servers[0], "key1"), None);
    assert_eq!(at(&site.servers[1], "key2"), None);
    for (key, value) in [("key1", "aa"), ("key2", "bb")] {
        assert_eq!(at(&site.backup, key).as_deref(), Some(value));
    }
    site.kill_servers();
    for (key, value) in [("key1", "aa"), ("key2", "bb")] {
        assert_eq!(client.get(key).as_deref(), Some(value), "from the backup");
    }
    site.restart_servers();
    for (key, value) in [("key1", "aa"), ("key2", "bb")] {
        assert_eq!(client.get(key).as_deref(), Some(value), "servers are back, and empty");
    }
    for (server, key, value) in [(1, "key1", "aa"), (0, "key2", "bb")] {
        let mut direct = site.servers[server].client();
        eventually("the value is put back", || {
            assert_eq!(client.get(key).as_deref(), Some(value));
            (direct.get(key).as_deref() == Some(value)).then_some(())
        });
    }
}
