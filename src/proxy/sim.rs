//! Seeded worlds: clients, the proxy and its servers in one thread, on a clock that is moved by
//! hand. Bytes arrive in pieces, servers die, come back empty, freeze, or lose their connections.
//!
//! Every client keeps its own record of what each of its keys must hold, and checks every answer.

use std::collections::HashMap;
use std::sync::Arc;

use super::config::{Config, ServerAddr};
use super::front::{Front, Shared};
use super::guard::Guard;
use super::relay::{Client, Connection, LinkId, Relay, LANES};
use super::route::Routes;
use crate::base::buf::Buf;
use crate::base::clock::Now;
use crate::protocol::classic::{self, encode};
use crate::protocol::meta::{BinaryKey, Key};
use crate::protocol::{ArithVerb, GetVerb, Parsed, Request, StoreHead, StoreVerb};

/// xorshift64*: enough randomness for tests, repeatable from a seed.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    flags: u32,
    value: Vec<u8>,
    cas: u64,
    exptime: i64,
}

/// A small memcached: enough of its grammar to be a proxy's backend.
#[derive(Default)]
struct Server {
    items: HashMap<Vec<u8>, Item>,
    next_cas: u64,
    /// Speaks meta commands, as 1.6 does.
    meta: bool,
    /// Is a 1.2, which knows neither touch nor gat.
    ancient: bool,
    input: Buf,
    output: Vec<u8>,
    connected: bool,
    /// Refuses connections.
    dead: bool,
    /// Takes bytes and connections, and does nothing.
    frozen: bool,
    /// Answers of gets that were asked for, by key: how often the server was asked.
    gets: usize,
    /// Which process it is: `stats` says so, unless `silent`.
    process: u64,
    silent: bool,
    /// Lists its keys, as 1.4.31 and later do.
    lists: bool,
    /// So many times it is busy when it is to list them.
    busy: usize,
    dumps: usize,
}

impl Server {
    fn item(&mut self, key: &[u8], flags: u32, exptime: i64, value: Vec<u8>) {
        self.next_cas += 1;
        if exptime < 0 {
            self.items.remove(key);
            return;
        }
        self.items.insert(key.to_vec(), Item { flags, value, cas: self.next_cas, exptime });
    }

    fn work(&mut self) {
        if self.frozen {
            return;
        }
        let mut input = std::mem::take(&mut self.input);
        loop {
            let used = match classic::parse(input.data()) {
                Parsed::Incomplete => break,
                Parsed::Reject { reject, used } => {
                    self.output.extend(reject.line);
                    used
                }
                Parsed::Done { value: Request::Store(head), used } => {
                    match classic::parse_data(&input.data()[used..], head.len) {
                        Parsed::Incomplete => break,
                        Parsed::Reject { .. } => panic!("the proxy sent a bad block"),
                        Parsed::Done { value, used: data } => {
                            let answer = self.store(&head, value);
                            self.output.extend(answer);
                            used + data
                        }
                    }
                }
                Parsed::Done { value: Request::MetaSet { key, len, flags }, used } => {
                    match classic::parse_data(&input.data()[used..], len) {
                        Parsed::Incomplete => break,
                        Parsed::Reject { .. } => panic!("the proxy sent a bad block"),
                        Parsed::Done { value, used: data } => {
                            let verb = match flags {
                                b"b ME F3 T0" => StoreVerb::Add,
                                _ => StoreVerb::Set,
                            };
                            assert_eq!(flags[0], b'b', "a binary key");
                            let key = &decoded(key);
                            let (flags, exptime, noreply) = (3, 0, false);
                            let head = StoreHead { verb, key, flags, exptime, len, noreply };
                            let stored = self.store(&head, value) == encode::STORED;
                            self.output.extend(if stored { b"HD\r\n" } else { b"NS\r\n" });
                            used + data
                        }
                    }
                }
                Parsed::Done { value, used } => {
                    self.command(&value);
                    used
                }
            };
            input.consume(used);
        }
        self.input = input;
    }

    fn store(&mut self, head: &StoreHead<'_>, value: &[u8]) -> &'static [u8] {
        let old = self.items.get(head.key).cloned();
        let (mut flags, mut exptime, mut new) = (head.flags, head.exptime, value.to_vec());
        match (head.verb, old) {
            (StoreVerb::Set, _) | (StoreVerb::Add, None) | (StoreVerb::Replace, Some(_)) => {}
            (StoreVerb::Append, Some(old)) => {
                (flags, exptime) = (old.flags, old.exptime);
                new = [old.value, new].concat();
            }
            (StoreVerb::Prepend, Some(old)) => {
                (flags, exptime) = (old.flags, old.exptime);
                new.extend(old.value);
            }
            (StoreVerb::Cas(_), None) => return encode::NOT_FOUND,
            (StoreVerb::Cas(unique), Some(old)) if old.cas != unique => return encode::EXISTS,
            (StoreVerb::Cas(_), Some(_)) => {}
            _ => return encode::NOT_STORED,
        }
        self.item(head.key, flags, exptime, new);
        encode::STORED
    }

    fn command(&mut self, request: &Request<'_>) {
        match request {
            Request::Touch { .. } | Request::Get { verb: GetVerb::Gat | GetVerb::Gats, .. }
                if self.ancient =>
            {
                self.output.extend(b"ERROR\r\n");
            }
            Request::Get { verb, exptime, keys, .. } => {
                let cas = matches!(verb, GetVerb::Gets | GetVerb::Gats);
                for key in keys.clone() {
                    let key = key.expect("a good key");
                    self.gets += 1;
                    let Some(item) = self.items.get_mut(key) else { continue };
                    if matches!(verb, GetVerb::Gat | GetVerb::Gats) {
                        item.exptime = *exptime;
                    }
                    let unique = cas.then_some(item.cas);
                    encode::value(&mut self.output, key, item.flags, &item.value, unique);
                }
                self.output.extend(encode::END);
            }
            Request::Delete { key, .. } => {
                let had = self.items.remove(*key).is_some();
                self.output.extend(if had { encode::DELETED } else { encode::NOT_FOUND });
            }
            Request::Arith { verb, key, delta, .. } => match self.items.get_mut(*key) {
                None => self.output.extend(encode::NOT_FOUND),
                Some(item) => {
                    let old: u64 = String::from_utf8_lossy(&item.value).parse().expect("a number");
                    let new = match verb {
                        ArithVerb::Incr => old.wrapping_add(*delta),
                        ArithVerb::Decr => old.saturating_sub(*delta),
                    };
                    item.value = new.to_string().into_bytes();
                    encode::number(&mut self.output, new);
                }
            },
            Request::Touch { key, exptime, .. } => match self.items.get_mut(*key) {
                None => self.output.extend(encode::NOT_FOUND),
                Some(item) => {
                    item.exptime = *exptime;
                    self.output.extend(encode::TOUCHED);
                }
            },
            Request::FlushAll { .. } => {
                self.items.clear();
                self.output.extend(encode::OK);
            }
            Request::Version => self.output.extend(match self.meta {
                true => &b"VERSION 1.6.18\r\n"[..],
                false if self.ancient => b"VERSION 1.2.8\r\n",
                false => b"VERSION 1.4.15\r\n",
            }),
            Request::Stats { .. } if !self.silent => {
                let uptime = 1000 - self.process as i64;
                for (name, value) in [("pid", 1), ("uptime", uptime), ("time", 1_700_000_000)] {
                    encode::stat(&mut self.output, name, &value.to_string());
                }
                self.output.extend(encode::END);
            }
            Request::Admin { line } if self.lists => {
                assert_eq!(*line, b"lru_crawler metadump all");
                self.dump();
            }
            Request::MetaGet { key, flags: flags @ (b"u" | b"b u") } if self.meta => {
                let key = if flags.starts_with(b"b") { decoded(key) } else { key.to_vec() };
                let there = self.items.contains_key(&key);
                self.output.extend(if there { &b"HD\r\n"[..] } else { b"EN\r\n" });
            }
            Request::MetaNoop if self.meta => self.output.extend(encode::META_NOOP),
            Request::MetaGet { key, flags } if self.meta => {
                let binary = flags.starts_with(b"b ");
                assert_eq!(*flags, if binary { &b"b f c t v"[..] } else { b"k f c t v" });
                let name = if binary { decoded(key) } else { key.to_vec() };
                match self.items.get(&name) {
                    None => self.output.extend(b"EN\r\n"),
                    Some(item) => {
                        let ttl = if item.exptime == 0 { -1 } else { item.exptime };
                        let key = String::from_utf8_lossy(key);
                        let shown = if binary { "b".to_owned() } else { format!("k{key}") };
                        let (len, flags, cas) = (item.value.len(), item.flags, item.cas);
                        let head = format!("VA {len} {shown} f{flags} c{cas} t{ttl}\r\n");
                        self.output.extend(head.as_bytes());
                        self.output.extend(&item.value);
                        self.output.extend(b"\r\n");
                    }
                }
            }
            _ => self.output.extend(b"ERROR\r\n"),
        }
    }

    fn dump(&mut self) {
        if self.busy > 0 {
            self.busy -= 1;
            return self.output.extend(b"BUSY currently processing crawler request\r\n");
        }
        self.dumps += 1;
        let mut keys: Vec<_> = self.items.iter().collect();
        keys.sort_by(|a, b| a.0.cmp(b.0));
        for (key, item) in keys {
            self.output.extend(b"key=");
            crate::base::uri::push(&mut self.output, key);
            let exp = if item.exptime == 0 { -1 } else { 1_700_000_000 + item.exptime };
            let rest = format!(" exp={exp} la=1 cas=1 fetch=no cls=1 size={}\n", item.value.len());
            self.output.extend(rest.as_bytes());
        }
        self.output.extend(encode::END);
    }

    /// Another process takes its place, and has nothing.
    fn restart(&mut self) {
        self.items.clear();
        self.process += 10;
    }

    /// Loses its connection.
    fn hang_up(&mut self) {
        self.connected = false;
        self.input = Buf::new();
        self.output.clear();
    }
}

/// A key that came in base64.
fn decoded(text: &[u8]) -> Vec<u8> {
    Key::Binary(BinaryKey::decode(text).expect("base64")).as_bytes().to_vec()
}

/// Everything at once.
struct World {
    random: Random,
    now: Now,
    relay: Relay,
    servers: Vec<Server>,
    fronts: Vec<Front>,
    outputs: Vec<Vec<u8>>,
    /// Bytes to and from servers on lanes.
    lanes: HashMap<LinkId, (Buf, Vec<u8>)>,
    /// Bytes that a client takes in a step.
    takes: usize,
}

fn config(servers: u16, backups: u16) -> Config {
    let addr = |port| ServerAddr::tcp("10.0.0.1", port).into();
    Config {
        servers: (0..servers).map(addr).collect(),
        backups: (100..100 + backups).map(addr).collect(),
        ..Config::default()
    }
}

impl World {
    fn new(seed: u64, config: &Config, clients: usize, meta: bool) -> World {
        let places = config.servers.iter().chain(&config.backups);
        let count = places.map(|place| place.members.len()).sum();
        let shared = Shared::new(config);
        World {
            random: Random::new(seed),
            now: Now { unix_us: 1_700_000_000_000_000, mono_us: 1 },
            relay: Relay::new(config, Arc::new(Guard::new()), 0),
            servers: (0..count)
                .map(|_| Server { meta, lists: meta, ..Server::default() })
                .collect(),
            fronts: (0..clients).map(|_| Front::new(shared.clone())).collect(),
            outputs: vec![Vec::new(); clients],
            lanes: HashMap::new(),
            takes: usize::MAX,
        }
    }

    fn send(&mut self, client: usize, bytes: impl AsRef<[u8]>) {
        self.fronts[client].input.extend(bytes.as_ref());
    }

    fn client_id(client: usize) -> Client {
        Client { slot: client as u32, generation: 7 }
    }

    /// The servers go on while all clients are gone: what ends is dropped, as a worker does it.
    fn step_without_clients(&mut self) {
        for id in 0..self.servers.len() {
            self.connect(id);
            self.move_bytes(id);
        }
        self.move_lanes();
        for completion in self.relay.take_completions() {
            self.relay.release(completion.held);
        }
    }

    /// One turn of everything, in random pieces.
    fn step(&mut self) {
        let (now, relay) = (self.now, &mut self.relay);
        relay.tick(now);
        for (client, front) in self.fronts.iter_mut().enumerate() {
            front.process(now, World::client_id(client), relay);
        }
        relay.tick(now);
        for id in 0..self.servers.len() {
            let late = self.relay.connection(id).check(self.now);
            if let Some(why) = late {
                self.servers[id].hang_up();
                self.relay.failed(id, self.now, &why);
            }
            self.connect(id);
            self.move_bytes(id);
        }
        self.move_lanes();
        for completion in self.relay.take_completions() {
            assert_eq!(completion.client.generation, 7);
            self.fronts[completion.client.slot as usize].complete(completion);
        }
        for (front, output) in self.fronts.iter_mut().zip(&mut self.outputs) {
            let n = front.sendable().len().min(self.takes);
            output.extend(&front.sendable()[..n]);
            front.sent(n);
            front.settle(&mut self.relay);
        }
    }

    fn connect(&mut self, id: usize) {
        if !self.relay.connection(id).wants_connect(self.now) {
            return;
        }
        self.relay.connection(id).connecting(self.now);
        if self.servers[id].dead {
            let why = super::backend::Why::Refused("connection refused".into());
            self.relay.failed(id, self.now, &why);
        } else {
            self.servers[id].connected = true;
            self.relay.connection(id).connected(self.now);
        }
    }

    fn move_bytes(&mut self, id: usize) {
        let server = &mut self.servers[id];
        if !server.connected {
            return;
        }
        let mut connection = self.relay.connection(id);
        let n = connection.sendable().len();
        if n > 0 {
            let n = self.random.below(n) + 1;
            server.input.extend(&connection.sendable()[..n]);
            connection.sent(self.now, n);
        }
        server.work();
        let n = server.output.len();
        if n > 0 && !server.frozen {
            let n = self.random.below(n) + 1;
            let piece: Vec<u8> = server.output.drain(..n).collect();
            drop(connection);
            self.tell(id, &piece);
        }
    }

    /// One step of every lane.
    fn move_lanes(&mut self) {
        let mut links = Vec::new();
        for id in self.relay.take_gone() {
            self.lanes.remove(&id);
        }
        self.relay.links(&mut links);
        for link in links.into_iter().filter(|&link| link >= LANES) {
            if !self.relay.has_link(link) {
                continue;
            }
            let endpoint = self.relay.endpoint(link).clone();
            let same = |id: &usize| *self.relay.endpoint(*id) == endpoint;
            let server = (0..self.servers.len()).find(same).expect("a lane to a server");
            if self.relay.connection(link).wants_connect(self.now) {
                self.relay.connection(link).connecting(self.now);
                if self.servers[server].dead {
                    let why = super::backend::Why::Refused("connection refused".into());
                    self.relay.failed(link, self.now, &why);
                    continue;
                }
                self.relay.connection(link).connected(self.now);
                self.lanes.insert(link, Default::default());
            }
            let late = self.relay.connection(link).check(self.now);
            if let Some(why) = late.or(self.broken_lane(server)) {
                self.lanes.remove(&link);
                self.relay.failed(link, self.now, &why);
            } else {
                self.move_lane(link, server);
            }
        }
    }

    fn broken_lane(&mut self, server: usize) -> Option<super::backend::Why> {
        let lost = super::backend::Why::Lost("reset".into());
        self.servers[server].dead.then_some(lost)
    }

    fn move_lane(&mut self, link: LinkId, server: usize) {
        let Some((input, output)) = self.lanes.get_mut(&link) else { return };
        let mut connection = self.relay.connection(link);
        let n = connection.sendable().len();
        if n > 0 {
            input.extend(connection.sendable());
            connection.sent(self.now, n);
        }
        let server = &mut self.servers[server];
        std::mem::swap(&mut server.input, input);
        std::mem::swap(&mut server.output, output);
        server.work();
        std::mem::swap(&mut server.input, input);
        std::mem::swap(&mut server.output, output);
        let n = output.len();
        if n > 0 && !server.frozen && connection.wants_read() {
            let n = (self.random.below(n) + 1).min(64 * 1024);
            let piece: Vec<u8> = output.drain(..n).collect();
            connection.space(n)[..n].copy_from_slice(&piece);
            connection.received(self.now, n);
            drop(connection);
            if !self.relay.received(link, self.now) {
                self.lanes.remove(&link);
            }
        }
    }

    /// The proxy receives `bytes` from a server.
    fn tell(&mut self, id: usize, bytes: &[u8]) {
        let mut connection = self.relay.connection(id);
        connection.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        connection.received(self.now, bytes.len());
        drop(connection);
        if !self.relay.received(id, self.now) {
            self.servers[id].hang_up();
        }
    }

    /// The connection breaks; `why` as the network would tell.
    fn cut(&mut self, id: usize) {
        let why = super::backend::Why::Lost("reset".into());
        let lanes: Vec<LinkId> = self.lanes.keys().copied().collect();
        for lane in lanes {
            let there = self.relay.has_link(lane);
            if there && self.relay.endpoint(lane) == self.relay.endpoint(id) {
                self.lanes.remove(&lane);
                self.relay.failed(lane, self.now, &why);
            }
        }
        if self.servers[id].connected {
            self.servers[id].hang_up();
            self.relay.failed(id, self.now, &why);
        }
    }

    fn pass_us(&mut self, us: u64) {
        self.now = self.now.plus_us(us);
    }

    /// Whether bytes are on their way to or from a server.
    fn is_moving(&mut self) -> bool {
        (0..self.servers.len()).any(|id| {
            let server = &self.servers[id];
            let idle = server.input.is_empty() && server.output.is_empty();
            server.connected
                && !server.frozen
                && !(idle && self.relay.connection(id).sendable().is_empty())
        })
    }

    /// Steps until every request has ended and all is quiet.
    fn settle(&mut self, what: &str) {
        for _ in 0..100_000 {
            self.step();
            let waiting =
                self.fronts.iter().any(|front| !front.input.is_empty() || front.in_flight() > 0)
                    || self.relay.in_flight() > 0
                    || self.is_moving();
            if !waiting {
                // A barrier is passed at the client's next turn. What nobody waits for must not be
                // left in the middle: time may be about to jump.
                self.step();
                while self.is_moving() {
                    self.step();
                }
                assert_eq!(self.relay.held(), 0, "{what}: nothing is held when all is quiet");
                return;
            }
            self.pass_us(997);
        }
        panic!("{what}: no end after a hundred simulated seconds");
    }

    /// The server works again and the proxy, told that its connection broke, has found it.
    fn heal(&mut self, id: usize) {
        self.servers[id].frozen = false;
        self.servers[id].dead = false;
        self.cut(id);
        for _ in 0..100 {
            self.pass_us(50_000);
            self.step();
        }
        self.settle("healing");
    }

    /// Time passes until nothing is cold any more.
    fn warm_up(&mut self) {
        for _ in 0..3000 {
            if self.relay.is_warm() {
                return self.settle("warming up");
            }
            self.pass_us(10_000);
            self.step();
        }
        panic!("still cold after 30 simulated seconds");
    }

    /// Sends, settles, and returns what `client` was answered.
    fn ask(&mut self, client: usize, bytes: &str) -> String {
        self.send(client, bytes);
        self.settle(bytes);
        String::from_utf8(std::mem::take(&mut self.outputs[client])).expect("text")
    }
}

mod cold;
mod groups;
mod large;
mod random_worlds;
mod stories;
