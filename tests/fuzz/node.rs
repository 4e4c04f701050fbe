//! What a whole node makes of whoever reaches its replication port, or answers where it dials.
//!
//! The input is a row of steps: connections come, say lines, proofs, hellos, frames and rubbish,
//! break; time passes; clients write. A node with and without a secret, with and without peers.
//! Whatever they do: no item goes to who has not said hello (and proven the secret), what waits is
//! bounded, and clients can write what other nodes will believe.

use std::collections::BTreeMap;
use std::sync::Arc;
use twincached::base::clock::Now;
use twincached::replication::secret::{proof, End, Nonce, Secret};
use twincached::replication::wire::line::{self, Line};
use twincached::replication::wire::native::{self, Frame, Hello, ItemHead, Mesh};
use twincached::replication::{Action, LinkId, Node, NodeConfig, NodeId, Origin, Role};
use twincached::store::{Config, Exptime, FlushState, Handle, Marks, Mode, PendingFlush};
use twincached::store::{Store, Version};

const START_US: u64 = 1_800_000_000_000_000;
const OURS: NodeId = NodeId(1);
const SECRET: &[u8] = b"they do not know it";
/// Steps of one input.
const STEPS: usize = 300;
/// Output is taken in portions of this size; one step of a scan and a large value may come on top.
const OUT: usize = 64 << 10;
const OUT_MOST: usize = OUT + (3 << 20);
/// Links of all kinds: 16 that live, and 16 each of the kinds that wait.
const LINKS_MOST: usize = 16 + 8 * 16;
/// What one step can make a node ask of its driver.
const ACTIONS_MOST: usize = 4 * LINKS_MOST + 64;

/// One connection, as the other end sees it.
#[derive(Default)]
struct Wire {
    out: Vec<u8>,
    dialled: bool,
    named: bool,
    /// Said a line; gave a right proof; said hello.
    line: bool,
    proven: bool,
    hello: bool,
    id: u128,
    nonce: Nonce,
    /// Of the node's line.
    their_nonce: Option<Nonce>,
    read_line: bool,
    /// It is spoken to as a repcached.
    text: bool,
}

struct World {
    store: Arc<Store>,
    handle: Handle,
    node: Node,
    now: Now,
    wires: BTreeMap<LinkId, Wire>,
    secret: bool,
    served: bool,
    written: u64,
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn take(&mut self, n: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        head
    }
}

/// Runs a node over `data`.
pub fn run(data: &[u8]) {
    let Some((&kind, steps)) = data.split_first() else { return };
    let mut world = World::new(kind);
    let mut input = Input(steps);
    for _ in 0..STEPS {
        if input.0.is_empty() {
            break;
        }
        world.step(&mut input);
        world.settle();
    }
    world.end();
}

impl World {
    fn new(kind: u8) -> World {
        let now = Now { unix_us: START_US, mono_us: 5_000_000 };
        let config = Config {
            memory_limit: 1 << 20,
            item_max: 70_000,
            replicated: true,
            ..Config::default()
        };
        let store = Store::new(config, now);
        let mut handle = store.handle();
        handle.store(Mode::Set, b"treasure", 0, Exptime::Never, b"gold", now);
        let peers = ["a:1", "a:2", "b:1"].map(str::to_owned);
        let mut config = NodeConfig::new(OURS, peers[..usize::from(kind >> 1 & 3)].to_vec(), 8);
        let secret = kind & 1 == 1;
        config.secret = Secret::new(SECRET.to_vec()).filter(|_| secret).map(Arc::new);
        config.nonce_key = [kind; 32];
        let (wires, node) = (BTreeMap::new(), Node::new(config));
        let mut world =
            World { store, handle, node, now, wires, secret, served: false, written: 0 };
        world.settle();
        world
    }

    fn link(&self, at: u8) -> Option<LinkId> {
        self.wires.keys().nth(usize::from(at) % self.wires.len().max(1)).copied()
    }

    fn version(&self, n: u8) -> Version {
        let base = self.store.newest().0;
        Version(match n & 15 {
            0 => 0,
            1 => 1,
            2 => u64::MAX >> 1,
            3 => Version::MAX.0,
            4 => Version::MAX.0 - 1,
            5 => base + (60 << 28),
            6 => base - 1,
            7 => u64::MAX,
            8 => base + (1 << 60),
            _ => base + u64::from(n),
        })
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let (what, a, b) = (input.byte(), input.byte(), input.byte());
        let link = self.link(a);
        match what % 16 {
            0 => {
                let from =
                    if b & 1 == 1 { Origin::Peer(usize::from(b >> 1 & 3)) } else { Origin::Other };
                if let Some(link) = self.node.on_accepted("x".to_owned(), from, self.now) {
                    let named = from != Origin::Other;
                    self.wires.insert(link, Wire { named, ..Wire::default() });
                }
            }
            1 => self.pass_time(u64::from(a) << (b % 16)),
            2 => {
                let bytes = input.take(usize::from(b)).to_vec();
                self.say(link, &bytes);
            }
            3 => {
                let kind = input.byte();
                let payload = input.take(usize::from(b)).to_vec();
                self.say(link, &framed(kind, &payload));
            }
            4 | 5 => self.say_line(link, b, what % 16 == 5),
            6 => self.prove(link, b),
            7 | 8 => self.say_hello(link, b, input.byte()),
            9..=11 => self.say_frame(link, b, input),
            12 => {
                if let Some(link) = link {
                    self.node.on_lost(link, "lost", &mut self.handle, self.now);
                }
            }
            13 => self.write(b),
            14 => drop(self.node.quorum(1 + usize::from(a & 1), 1000, self.now)),
            _ => {
                self.node.hurry(self.store.newest());
                self.node.on_listening();
            }
        }
    }

    fn pass_time(&mut self, ms: u64) {
        let us = ms.min(20_000) * 1000;
        self.now = self.now.plus_us(us);
        if self.node.next_timeout().is_some_and(|at| at <= self.now.mono_us) {
            self.node.on_timeout(&mut self.handle, self.now);
        }
    }

    fn write(&mut self, key: u8) {
        self.written += 1;
        let len = if key == 7 { 60_000 } else { usize::from(key) };
        let value = vec![b'v'; len];
        self.handle.store(Mode::Set, &[b'k', key & 31], 0, Exptime::Never, &value, self.now);
    }

    fn say(&mut self, link: Option<LinkId>, bytes: &[u8]) {
        if let Some(link) = link {
            self.node.on_bytes(link, bytes, &mut self.handle, self.now);
        }
    }

    fn say_line(&mut self, link: Option<LinkId>, n: u8, auth: bool) {
        let Some(wire) = link.and_then(|link| self.wires.get_mut(&link)) else { return };
        wire.id = u128::from(n & 31);
        // Sometimes the node's own nonce is sent back.
        wire.nonce = wire.their_nonce.filter(|_| n & 32 != 0).unwrap_or([n; 16]);
        wire.line = true;
        let mut bytes = Vec::new();
        let nonce = auth.then_some(wire.nonce);
        line::encode(&mut bytes, &Line { id: NodeId(wire.id), nonce });
        self.say(link, &bytes);
    }

    fn prove(&mut self, link: Option<LinkId>, n: u8) {
        let Some(wire) = link.and_then(|link| self.wires.get_mut(&link)) else { return };
        let theirs = End { id: OURS, nonce: wire.their_nonce.unwrap_or_default() };
        let ours = End { id: NodeId(wire.id), nonce: wire.nonce };
        let mut role = if wire.dialled { Role::Listener } else { Role::Connector };
        if n & 1 == 1 {
            role = if wire.dialled { Role::Connector } else { Role::Listener };
        }
        let right = n & 15 == 0;
        let secret = Secret::new(if right { SECRET } else { b"guess" }.to_vec());
        let Some(secret) = secret else { return };
        let (connector, listener) = if wire.dialled { (theirs, ours) } else { (ours, theirs) };
        wire.proven |= right && wire.their_nonce.is_some();
        let mut bytes = Vec::new();
        native::encode(&mut bytes, &Frame::Proof(proof(&secret, role, connector, listener)));
        self.say(link, &bytes);
    }

    fn say_hello(&mut self, link: Option<LinkId>, n: u8, m: u8) {
        let newest = self.version(m);
        let Some(wire) = link.and_then(|link| self.wires.get_mut(&link)) else { return };
        wire.hello |= wire.line;
        let id = NodeId(if n & 1 == 1 { u128::from(m & 31) } else { wire.id });
        let mesh = (n & 2 != 0).then_some(Mesh {
            made: Version(newest.0 & (u64::MAX >> 1)),
            filler: (n & 4 != 0).then_some(NodeId(u128::from(m >> 3))),
            hope: n,
        });
        let flush =
            FlushState { watermark: if n & 8 != 0 { newest } else { Version(0) }, pending: None };
        let hello = Hello { id, newest, cold: n & 16 != 0, unix_us: u64::MAX, flush, mesh };
        let mut bytes = Vec::new();
        native::encode(&mut bytes, &Frame::Hello(hello));
        self.say(link, &bytes);
    }

    fn say_frame(&mut self, link: Option<LinkId>, n: u8, input: &mut Input<'_>) {
        let (v, w, k) = (input.byte(), input.byte(), input.byte());
        let (version, other) = (self.version(v), self.version(w));
        let node = NodeId(u128::from(w & 31) + 1);
        let key = [b'k', k & 31];
        let exptime = if k & 64 == 0 { Exptime::Never } else { Exptime::At(u32::from(w) << 23) };
        let (cas, marks) = ((k & 32 != 0).then_some(u64::MAX), Marks::from_bits(w));
        let head = ItemHead { key: &key, version, flags: 9, exptime, cas, marks };
        let value = vec![w; usize::from(w) << (k % 8)];
        let pending = (k & 1 == 1).then_some(PendingFlush { issued: other, at: version });
        let frame = match n % 17 {
            0 => Frame::Want { since: version, via: (w & 1 == 1).then_some(node) },
            1 => Frame::CopyBegin { full: w & 1 == 1, items: other.0, agreed: version },
            2 => Frame::CopyEnd { items: other.0 },
            3 | 4 => Frame::Item { head, value: &value },
            5 => Frame::Large { head, len: if k == 255 { u32::MAX } else { u32::from(w) << 9 } },
            6 => Frame::Part(&value),
            7 => Frame::Deleted { key: &key, version },
            8 => Frame::Flush(FlushState { watermark: other, pending }),
            9 => Frame::Mark { upto: version },
            10 => Frame::Ack { upto: version },
            11 => Frame::Ping { newest: version },
            12 => Frame::Linked { node, have: version, told: other },
            13 => Frame::Unlinked { node, since: version },
            14 => Frame::Hope(w),
            15 => Frame::Pass([w; 16]),
            _ => Frame::Bye { reason: native::Bye::Stopping, text: b"" },
        };
        let mut bytes = Vec::new();
        // Many of them at once.
        for _ in 0..=(k >> 5) {
            native::encode(&mut bytes, &frame);
        }
        self.say(link, &bytes);
    }

    /// What a driver does after each event.
    fn settle(&mut self) {
        let mut hashes = Vec::new();
        let drained = self.store.drain_feeds(&mut hashes);
        self.node.on_feed(&hashes, drained, self.now);
        self.act();
        let links: Vec<LinkId> = self.wires.keys().copied().collect();
        for link in links {
            let mut out = Vec::new();
            self.node.poll_transmit(link, &mut out, OUT, &mut self.handle, self.now);
            assert!(out.len() <= OUT_MOST, "{} bytes at once", out.len());
            self.heard(link, &out);
        }
        self.act();
        let links = self.node.link_stats(self.now).len();
        assert!(links <= LINKS_MOST, "{links} links");
        assert_eq!(self.node.is_serving(), self.served);
        if self.secret && !self.wires.values().any(|wire| wire.proven) {
            assert_eq!(self.node.links_made(), 0, "without any proof");
        }
    }

    fn act(&mut self) {
        let mut actions = 0;
        while let Some(action) = self.node.poll_action() {
            actions += 1;
            assert!(actions <= ACTIONS_MOST, "too many actions: {action:?}");
            match action {
                Action::Serve => {
                    assert!(!self.served, "serves twice");
                    self.served = true;
                }
                Action::Dial { link, .. } => {
                    if link.0 % 3 == 0 {
                        self.node.on_dial_failed(link, "nobody", self.now);
                    } else {
                        self.wires.insert(link, Wire { dialled: true, ..Wire::default() });
                        self.node.on_dialed(link, "y".to_owned(), self.now);
                    }
                }
                Action::Close { link, last } => {
                    self.heard(link, &last);
                    self.wires.get_mut(&link).iter_mut().for_each(|wire| wire.out.clear());
                    // Kept where it had proven the secret, for the count.
                    if !self.wires.get(&link).is_some_and(|wire| wire.proven) {
                        self.wires.remove(&link);
                    }
                }
                Action::Listen if self.now.mono_us % 2 == 1 => self.node.on_listening(),
                Action::Log(_) | Action::Debug(_) | Action::Warn(_) => {}
                Action::Listen | Action::Unlisten | Action::Watch { .. } => {}
            }
        }
    }

    /// Reads what the node says on a link.
    fn heard(&mut self, link: LinkId, bytes: &[u8]) {
        let Some(wire) = self.wires.get_mut(&link) else {
            assert!(bytes.is_empty(), "said to nobody");
            return;
        };
        wire.out.extend_from_slice(bytes);
        if !wire.read_line {
            if wire.out.is_empty() {
                return;
            }
            let mute = !self.secret && wire.named && self.served;
            assert!(wire.line || wire.dialled || mute, "a stranger hears nothing");
            match line::decode(&wire.out) {
                Ok(Some((said, used))) => {
                    (wire.their_nonce, wire.read_line) = (said.nonce, true);
                    assert_eq!(said.nonce.is_some(), self.secret);
                    wire.out.drain(..used);
                }
                other => panic!("no line: {other:?}"),
            }
        }
        let mut at = 0;
        if wire.text {
            return wire.out.clear();
        }
        loop {
            match native::decode(&wire.out[at..]) {
                Ok(Some((frame, used))) => {
                    at += used;
                    let trusted = wire.hello && (wire.proven || !self.secret);
                    let tells = matches!(
                        frame,
                        Frame::Item { .. }
                            | Frame::Large { .. }
                            | Frame::Part(_)
                            | Frame::Deleted { .. }
                            | Frame::Linked { .. }
                    );
                    assert!(trusted || !tells, "{frame:?} to a stranger");
                }
                Ok(None) => break,
                Err(error) => {
                    // The text of a repcached.
                    let text = &wire.out[at..];
                    let old = [&b"set "[..], b"rep ", b"delete ", b"flush_all", b"marugoto_end"];
                    let may = !self.secret && (wire.named || wire.dialled);
                    let is = old
                        .iter()
                        .any(|verb| text.starts_with(&verb[..verb.len().min(text.len())]));
                    assert!((may && is) || wire.text, "{error}: {}", text.escape_ascii());
                    wire.text = true;
                    at = wire.out.len();
                    break;
                }
            }
        }
        wire.out.drain(..at);
    }

    /// Whatever was said: what is written now is there, and other nodes believe it.
    fn end(&mut self) {
        self.handle.store(Mode::Set, b"last", 0, Exptime::Never, b"v", self.now);
        assert!(self.handle.get(b"last", self.now, |_| ()).is_some(), "the write is lost");
        assert!(self.store.newest().is_believable(self.now.plus_us(86_400_000_000)));
        self.node.stop();
        self.node.finish(&mut self.handle, self.now);
    }
}

/// A frame of any kind with a right checksum.
fn framed(kind: u8, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u32).to_le_bytes();
    let crc = crc32fast::hash(&[&[kind][..], &len, payload].concat()).to_le_bytes();
    [&len[..], &[kind], &crc, payload].concat()
}
