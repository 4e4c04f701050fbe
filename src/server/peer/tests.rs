//! The replication thread over real sockets, on loopback.

use super::*;
use crate::base::clock::{Clock, RealClock};
use crate::store::{Config, Exptime, Handle, Mode};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

/// No test waits longer; none waits this long unless it fails.
const PATIENCE: Duration = Duration::from_secs(20);

struct TestNode {
    peer: Arc<Peer>,
    store: Arc<Store>,
    worker: Handle,
    clock: RealClock,
    served: Receiver<()>,
}

fn node(port: u16, peers: &[String], id: u128) -> TestNode {
    let clock = RealClock::new();
    let config =
        Config { replicated: true, node_tag: id as u8, hash_seed: id as u64, ..Config::default() };
    let store = Store::new(config, clock.now());
    let config = PeerConfig {
        settings: config::Replication {
            peers: peers.to_vec(),
            port,
            ..config::Replication::default()
        },
        listen: vec!["127.0.0.1".to_owned()],
        id: NodeId(id),
        secret: None,
        nonce_key: [0; 32],
        acks: Acks::new(None),
    };
    let (serve, served) = mpsc::channel();
    let tell = Box::new(move || serve.send(()).unwrap_or(()));
    let peer = Arc::new(spawn(config, Arc::clone(&store), clock.clone(), tell).unwrap());
    TestNode { peer, worker: store.handle(), store, clock, served }
}

/// A port that nobody has right now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never came about: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl TestNode {
    fn set(&mut self, key: &str, value: &[u8]) {
        let now = self.clock.now();
        self.worker.store(Mode::Set, key.as_bytes(), 0, Exptime::Never, value, now);
        self.tell();
    }

    fn tell(&mut self) {
        if self.worker.take_fed() && self.store.changed().raise() {
            self.peer.wake();
        }
    }

    fn get(&mut self, key: &str) -> Option<Vec<u8>> {
        let now = self.clock.now();
        self.worker.peek(key.as_bytes(), now, |item| item.value.to_vec())
    }

    fn wait_serving(&self) {
        self.served.recv_timeout(PATIENCE).unwrap();
    }

    fn stat(&self, name: &str) -> String {
        let stats = self.peer.stats();
        stats.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone()).unwrap_or_default()
    }
}

#[test]
fn a_pair_on_one_host_fills_follows_heals_and_leaves() {
    let port = free_port();
    let peers = ["127.0.0.1".to_owned()];
    let mut a = node(port, &peers, 1);
    a.wait_serving();
    let large = vec![b'l'; 700_000];
    a.set("large", &large);
    for n in 0..2000 {
        a.set(&format!("key{n}"), b"value");
    }
    let mut b = node(port, &peers, 2);
    b.wait_serving();
    assert_eq!(b.get("large").unwrap(), large, "served before it was filled");
    assert!((0..2000).all(|n| b.get(&format!("key{n}")).is_some()));
    b.set("from b", b"1");
    until("a write of the connector arrives", || a.get("from b").is_some());
    a.set("from a", b"2");
    until("a write of the listener arrives", || b.get("from a").is_some());
    until("roles", || a.stat("replication") == "MASTER" && b.stat("replication") == "SLAVE");
    assert_eq!(a.peer.stats()[1], ("repcached_version".to_owned(), "2.3.1".to_owned()));
    assert_eq!(a.stat("repcached_qi_free"), "8191");
    // In order: what was written last is there before the process ends.
    for n in 0..500 {
        b.set(&format!("last{n}"), b"v");
    }
    b.peer.stop();
    assert!(a.get("last499").is_some());
    let b = node(port, &peers, 3);
    b.wait_serving();
    until("linked again", || a.stat("repl_links_made") == "2");
    a.peer.stop();
    until("roles change", || b.stat("repl_peers_linked") == "0");
    assert_eq!(b.stat("replication"), "MASTER");
    b.peer.stop();
}

#[test]
fn where_the_lag_is_none_the_peer_has_it_all() {
    let port = free_port();
    let peers = ["127.0.0.1".to_owned()];
    let mut nodes = [1, 2].map(|id| {
        let node = node(port, &peers, id);
        node.wait_serving();
        node
    });
    for node in &nodes {
        until("linked", || node.stat("repl_peers_linked") == "1");
    }
    for n in 0..60 {
        let [a, b] = &mut nodes;
        let (from, to) = if n % 3 == 0 { (b, a) } else { (a, b) };
        // Asked at once: what waits in a feed is not there yet, either.
        from.set("key", n.to_string().as_bytes());
        until("no lag", || from.stat("repl_lag_us") == "0");
        assert_eq!(to.get("key"), Some(n.to_string().into_bytes()));
        if n % 4 == 0 {
            from.worker.flush_all(None, from.clock.now());
            from.tell();
            until("no lag", || from.stat("repl_lag_us") == "0");
            assert_eq!(to.get("key"), None);
        }
    }
    for node in nodes {
        node.peer.stop();
    }
}

#[test]
fn a_stranger_hears_nothing_and_harms_nothing() {
    let port = free_port();
    let mut a = node(port, &[format!("127.0.0.1:{}", free_port())], 1);
    a.wait_serving();
    a.set("secret", b"value");
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let other_major = b"twincached replication 9.0 00000000000000000000000000000005\r\n";
    let garbage: [&[u8]; 4] =
        [b"get secret\r\n", b"\x80\x00\x00\x03", b"rep a 0 0 1 1\r\n", other_major];
    for opening in garbage {
        let mut stranger = TcpStream::connect(address).unwrap();
        stranger.write_all(opening).unwrap();
        stranger.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut heard = Vec::new();
        // Closed, perhaps by a reset; and nothing was said.
        let _ = stranger.read_to_end(&mut heard);
        assert_eq!(heard, b"", "to {opening:?}");
    }
    // One that knows the line but sends no hello gets the line and no item.
    let mut stranger = TcpStream::connect(address).unwrap();
    let line = b"twincached replication 1.0 00000000000000000000000000000005\r\n";
    stranger.write_all(line).unwrap();
    stranger.write_all(&[0xff; 64]).unwrap();
    stranger.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut heard = Vec::new();
    let _ = stranger.read_to_end(&mut heard);
    assert!(heard.len() < 400 && !heard.windows(6).any(|w| w == b"secret"), "{heard:?}");
    // Idle strangers take the places of those who have not said who they are, not of the peer.
    let idle: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(address).unwrap()).collect();
    assert_eq!(a.stat("repl_peers_linked"), "0");
    let mut b = node(free_port(), &[address.to_string()], 2);
    b.wait_serving();
    assert!(b.get("secret").is_some(), "serves before it is filled");
    drop(idle);
    a.peer.stop();
    b.peer.stop();
}

#[test]
fn a_name_that_does_not_resolve_keeps_nobody_waiting() {
    let a = node(free_port(), &["no-such-host.invalid".to_owned()], 1);
    a.wait_serving();
    assert!(a.peer.stats_replication().iter().any(|(name, _)| name.ends_with("last_error")));
    a.peer.stop();
}
