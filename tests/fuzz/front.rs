//! The proxy between clients and servers that say anything: nothing panics, what is held stays
//! bounded, and when all have gone nothing is held and nothing waits.

use std::sync::Arc;
use twincached::base::clock::Now;
use twincached::proxy::backend::Why;
use twincached::proxy::config::{Config, ServerAddr};
use twincached::proxy::front::{Front, Shared};
use twincached::proxy::guard::Guard;
use twincached::proxy::relay::{Client, Connection, Relay, LANES};

/// Two servers and a backup each.
const SERVERS: usize = 2;
const CLIENTS: usize = 2;
/// No input comes near it: values are 255 bytes at most, and replies short.
const HELD_MAX: usize = 1 << 20;
/// Turns until the last request is given up, of which each lets a second pass.
const TURNS: usize = 100;

struct World {
    now: Now,
    relay: Relay,
    fronts: Vec<Front>,
    connected: Vec<bool>,
}

/// `data` is what they say: a byte that says who, a length, so many bytes.
pub fn run(mut data: &[u8]) {
    let addr = |port| ServerAddr::tcp("host", port).into();
    let config = Config {
        servers: (0..SERVERS).map(|n| addr(1 + n as u16)).collect(),
        backups: (0..SERVERS).map(|n| addr(100 + n as u16)).collect(),
        ..Config::default()
    };
    let shared = Shared::new(&config);
    let mut world = World {
        now: Now { unix_us: 1_800_000_000_000_000, mono_us: 1 },
        relay: Relay::new(&config, Arc::new(Guard::new()), 0),
        fronts: (0..CLIENTS).map(|_| Front::new(shared.clone())).collect(),
        connected: vec![false; 2 * SERVERS],
    };
    while let [who, len, rest @ ..] = data {
        let (bytes, behind) = rest.split_at(rest.len().min(usize::from(*len)));
        data = behind;
        match usize::from(who % 16) {
            client if client < CLIENTS => world.fronts[client].input.extend(bytes),
            server @ 4..8 => world.tell(server - 4, bytes),
            server @ 8..12 => world.hang_up(server - 8),
            12 => world.now = world.now.plus_us(u64::from(*len) * 10_000),
            _ => {}
        }
        world.step();
    }
    for front in &mut world.fronts {
        front.input_ended();
    }
    for _ in 0..TURNS {
        world.now = world.now.plus_us(1_000_000);
        world.step();
    }
    assert_eq!(world.relay.in_flight(), 0, "a request without an end");
}

impl World {
    /// One turn of everything.
    fn step(&mut self) {
        self.relay.tick(self.now);
        for (slot, front) in self.fronts.iter_mut().enumerate() {
            front.process(self.now, Client { slot: slot as u32, generation: 1 }, &mut self.relay);
        }
        for id in 0..self.connected.len() {
            let late = self.relay.connection(id).check(self.now);
            if let Some(why) = late {
                self.connected[id] = false;
                self.relay.failed(id, self.now, &why);
            }
            let mut connection = self.relay.connection(id);
            if connection.wants_connect(self.now) {
                connection.connecting(self.now);
                connection.connected(self.now);
                self.connected[id] = true;
            }
            let sendable = connection.sendable().len();
            if self.connected[id] && sendable > 0 {
                connection.sent(self.now, sendable);
            }
        }
        // Lanes lead nowhere: what wants one hears of it in time.
        let mut links = Vec::new();
        self.relay.links(&mut links);
        for link in links.into_iter().filter(|&link| link >= LANES) {
            if !self.relay.has_link(link) {
                continue;
            }
            if self.relay.connection(link).wants_connect(self.now) {
                self.relay.connection(link).connecting(self.now);
            }
            let late = self.relay.connection(link).check(self.now);
            if let Some(why) = late {
                self.relay.failed(link, self.now, &why);
            }
        }
        for completion in self.relay.take_completions() {
            self.fronts[completion.client.slot as usize].complete(completion);
        }
        for front in &mut self.fronts {
            front.sent(front.sendable().len());
            front.settle(&mut self.relay);
            if front.is_finished() {
                front.abandon(&mut self.relay);
            }
        }
        let held = self.relay.held();
        assert!(held <= HELD_MAX, "{held} bytes are held");
    }

    fn tell(&mut self, id: usize, bytes: &[u8]) {
        if !self.connected[id] || bytes.is_empty() {
            return;
        }
        let mut connection = self.relay.connection(id);
        connection.space(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        connection.received(self.now, bytes.len());
        drop(connection);
        if !self.relay.received(id, self.now) {
            self.connected[id] = false;
        }
    }

    fn hang_up(&mut self, id: usize) {
        if std::mem::take(&mut self.connected[id]) {
            self.relay.failed(id, self.now, &Why::Lost("reset".into()));
        }
    }
}
