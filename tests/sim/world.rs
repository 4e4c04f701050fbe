//! A world of nodes on virtual time over a virtual network.
//!
//! Owns machines, their clocks (skewed), connections, cuts and delays. Each machine runs the real
//! `Node`, `Session` and `Store`; only sockets and time are made up. The same seed gives the same
//! world, step by step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use twincached::base::clock::Now;
use twincached::replication::{Action, LinkId, ListenError, Node, NodeConfig, NodeId, Origin};
use twincached::store::{Config, Handle, Store};

/// 2024-01-01 in unix microseconds: where virtual time begins.
pub const EPOCH_US: u64 = 1_704_067_200_000_000;
/// Most output asked for at once.
const OUT_MAX: usize = 16 * 1024;
/// How soon a packet that was lost is sent again the first time; then after twice as long, as TCP
/// does it.
const RESEND_US: u64 = 200_000;

/// xorshift64*.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

pub struct Running {
    pub node: Node,
    pub store: Arc<Store>,
    pub worker: Handle,
    pub repl: Handle,
    links: BTreeMap<LinkId, (usize, usize)>,
    pub listening: bool,
    pub serving: bool,
    run: u64,
}

pub struct Machine {
    pub host: usize,
    pub peers: Vec<String>,
    pub up: Option<Running>,
    /// The whole host is gone: nobody answers, not even a refusal.
    pub dark: bool,
    /// Stopped (SIGSTOP): its kernel accepts, it does nothing.
    pub stopped: bool,
    pub skew_us: i64,
    pub log: Vec<String>,
    /// Lines at level debug.
    pub debug: Vec<String>,
}

enum Packet {
    Data(Vec<u8>),
    Fin,
}

struct End {
    machine: usize,
    run: u64,
    link: Option<LinkId>,
    open: bool,
}

struct Conn {
    ends: [End; 2],
    /// `pipes[n]` goes to `ends[n]`.
    pipes: [VecDeque<(u64, Packet)>; 2],
    flying: [usize; 2],
    /// Times that the head of each pipe was lost.
    losses: [u32; 2],
    delay_us: u64,
}

struct Dial {
    machine: usize,
    run: u64,
    link: LinkId,
    peer: String,
    next_us: u64,
    deadline_us: u64,
}

pub struct World {
    pub now_us: u64,
    pub machines: Vec<Machine>,
    pub rng: Rng,
    /// Hosts that do not hear each other: (from, to).
    pub cut: BTreeSet<(usize, usize)>,
    pub queue_max: usize,
    /// Bytes that may be under way in one direction of a connection.
    pub pipe_max: usize,
    pub store: Config,
    conns: Vec<Conn>,
    dials: Vec<Dial>,
    runs: u64,
    /// Bytes and connections so far, for tests that count.
    pub bytes: u64,
    pub connections: u64,
}

/// `h2:11111`.
pub fn name(host: usize) -> String {
    format!("h{host}:11111")
}

impl World {
    pub fn new(seed: u64) -> World {
        let store =
            Config { memory_limit: 8 << 20, replicated: true, feed_max: 64, ..Config::default() };
        World {
            now_us: 1_000_000,
            machines: Vec::new(),
            rng: Rng::new(seed),
            cut: BTreeSet::new(),
            queue_max: 64,
            pipe_max: 64 * 1024,
            store,
            conns: Vec::new(),
            dials: Vec::new(),
            runs: 0,
            bytes: 0,
            connections: 0,
        }
    }

    /// A machine that is not started yet.
    pub fn add(&mut self, host: usize, peers: &[usize]) -> usize {
        self.machines.push(Machine {
            host,
            peers: peers.iter().map(|&peer| name(peer)).collect(),
            up: None,
            dark: false,
            stopped: false,
            skew_us: 0,
            log: Vec::new(),
            debug: Vec::new(),
        });
        self.machines.len() - 1
    }

    pub fn now(&self, machine: usize) -> Now {
        let unix = (EPOCH_US + self.now_us) as i64 + self.machines[machine].skew_us;
        Now { unix_us: unix as u64, mono_us: self.now_us }
    }

    /// Starts a process with an empty store and a new id.
    pub fn start(&mut self, machine: usize) {
        self.runs += 1;
        let run = self.runs;
        let now = self.now(machine);
        let config = Config {
            node_tag: (run % 250) as u8 + 1,
            hash_seed: self.rng.next(),
            ..self.store.clone()
        };
        let id = NodeId(u128::from(self.rng.next()) << 64 | u128::from(self.rng.next()));
        let m = &mut self.machines[machine];
        let store = Store::new(config, now);
        m.up = Some(Running {
            node: Node::new(NodeConfig::new(id, m.peers.clone(), self.queue_max)),
            worker: store.handle(),
            repl: store.handle(),
            store,
            links: BTreeMap::new(),
            listening: false,
            serving: false,
            run,
        });
        m.dark = false;
        m.stopped = false;
        m.log.clear();
        self.pump(machine);
    }

    /// kill -9: the kernel closes the connections.
    pub fn kill(&mut self, machine: usize) {
        if let Some(running) = self.machines[machine].up.take() {
            for (conn, side) in running.links.into_values() {
                self.shut(conn, side, &[]);
            }
        }
    }

    /// Power loss: nobody is told.
    pub fn power_off(&mut self, machine: usize) {
        if let Some(running) = self.machines[machine].up.take() {
            for (conn, side) in running.links.into_values() {
                self.conns[conn].ends[side].open = false;
            }
        }
        self.machines[machine].dark = true;
    }

    /// One machine's side of all its connections breaks; the other sides hear nothing of it.
    pub fn forget_connections(&mut self, machine: usize) {
        let Some(running) = &mut self.machines[machine].up else { return };
        let links = std::mem::take(&mut running.links);
        for (link, (conn, side)) in links {
            self.conns[conn].ends[side].open = false;
            self.lost(machine, link, "reset");
        }
        self.pump(machine);
    }

    pub fn cut_both(&mut self, a: usize, b: usize) {
        self.cut.insert((a, b));
        self.cut.insert((b, a));
    }

    pub fn heal(&mut self) {
        self.cut.clear();
    }

    /// Loses what is still under way from processes (or connections) that are gone: the last words
    /// of the dead may arrive or not.
    pub fn lose_last_words(&mut self) {
        for conn in &mut self.conns {
            for side in 0..2 {
                if !conn.ends[1 - side].open {
                    conn.pipes[side].retain(|(_, packet)| matches!(packet, Packet::Fin));
                    conn.flying[side] = 0;
                }
            }
        }
    }

    fn is_cut(&self, from: usize, to: usize) -> bool {
        from != to && self.cut.contains(&(from, to))
    }

    pub fn up(&mut self, machine: usize) -> &mut Running {
        self.machines[machine].up.as_mut().expect("the machine is up")
    }

    /// Runs something on a machine as one of its workers would.
    pub fn work<R>(&mut self, machine: usize, f: impl FnOnce(&mut Handle, Now) -> R) -> R {
        let now = self.now(machine);
        let result = f(&mut self.up(machine).worker, now);
        self.pump(machine);
        result
    }

    fn lost(&mut self, machine: usize, link: LinkId, why: &str) {
        let now = self.now(machine);
        if let Some(Running { node, repl, links, .. }) = &mut self.machines[machine].up {
            links.remove(&link);
            node.on_lost(link, why, repl, now);
        }
    }

    /// One side closes its end; the other hears of it behind the last data.
    fn shut(&mut self, conn: usize, side: usize, last: &[u8]) {
        let at = self.now_us + self.conns[conn].delay_us;
        let conn = &mut self.conns[conn];
        if std::mem::take(&mut conn.ends[side].open) {
            conn.pipes[1 - side].push_back((at, Packet::Data(last.to_vec())));
            conn.pipes[1 - side].push_back((at, Packet::Fin));
        }
    }

    /// Lets a machine do all it can do now.
    fn pump(&mut self, machine: usize) {
        for _ in 0..10_000 {
            if self.machines[machine].stopped || !self.turn(machine) {
                return;
            }
        }
        panic!("machine {machine} never comes to rest");
    }

    fn turn(&mut self, machine: usize) -> bool {
        let now = self.now(machine);
        let Some(running) = &mut self.machines[machine].up else { return false };
        let Running { node, store, repl, .. } = running;
        let mut hashes = Vec::new();
        store.changed().take();
        let drained = store.drain_feeds(&mut hashes);
        node.on_feed(&hashes, drained, now);
        if node.next_timeout().is_some_and(|at| at <= now.mono_us) {
            node.on_timeout(repl, now);
        }
        let mut worked = false;
        while let Some(action) =
            self.machines[machine].up.as_mut().and_then(|running| running.node.poll_action())
        {
            self.act(machine, action);
            worked = true;
        }
        let Some(running) = &mut self.machines[machine].up else { return false };
        let Running { node, repl, links, .. } = running;
        for (&link, &(conn, side)) in &*links {
            let conn = &mut self.conns[conn];
            let room = self.pipe_max.saturating_sub(conn.flying[1 - side]).min(OUT_MAX);
            if room == 0 {
                continue;
            }
            let mut out = Vec::new();
            let more = node.poll_transmit(link, &mut out, room, repl, now);
            worked |= more || !out.is_empty();
            if !out.is_empty() {
                self.bytes += out.len() as u64;
                conn.flying[1 - side] += out.len();
                let at = self.now_us + conn.delay_us;
                conn.pipes[1 - side].push_back((at, Packet::Data(out)));
            }
        }
        worked
    }

    fn act(&mut self, machine: usize, action: Action) {
        match action {
            Action::Log(line) | Action::Warn(line) => self.machines[machine].log.push(line),
            Action::Debug(line) => self.machines[machine].debug.push(line),
            Action::Serve => self.up(machine).serving = true,
            // What vanishes here is noticed by its silence.
            Action::Watch { .. } => {}
            Action::Dial { link, peer, timeout_us } => {
                let delay = 100 + self.rng.below(5000);
                let m = &self.machines[machine];
                self.dials.push(Dial {
                    machine,
                    run: m.up.as_ref().map_or(0, |running| running.run),
                    link,
                    peer: m.peers[peer].clone(),
                    next_us: self.now_us + delay,
                    deadline_us: self.now_us + timeout_us,
                });
            }
            Action::Listen => {
                let now = self.now(machine);
                let taken = self.listener(self.machines[machine].host).is_some();
                let running = self.up(machine);
                if taken {
                    running.node.on_listen_failed(ListenError::InUse, now);
                } else {
                    running.listening = true;
                    running.node.on_listening();
                }
            }
            Action::Close { link, last } => {
                if let Some((conn, side)) = self.up(machine).links.remove(&link) {
                    self.shut(conn, side, &last);
                }
            }
        }
    }

    fn listener(&self, host: usize) -> Option<usize> {
        let listens = |m: &Machine| m.host == host && m.up.as_ref().is_some_and(|r| r.listening);
        self.machines.iter().position(listens)
    }

    fn dial_due(&mut self, at: usize) {
        let dial = &self.dials[at];
        let (machine, link, run) = (dial.machine, dial.link, dial.run);
        let from = self.machines[machine].host;
        let gone = self.machines[machine].up.as_ref().is_none_or(|running| running.run != run);
        let to = (0..16).find(|&host| name(host) == dial.peer).expect("a host");
        let dark = self.machines.iter().any(|m| m.host == to && m.dark);
        let unheard = dark || self.is_cut(from, to) || self.is_cut(to, from);
        if unheard && self.now_us < dial.deadline_us && !gone {
            self.dials[at].next_us = (self.now_us + 1_000_000).min(self.dials[at].deadline_us);
            return;
        }
        self.dials.swap_remove(at);
        if gone {
            return;
        }
        let now = self.now(machine);
        let target = self.listener(to).filter(|_| !unheard);
        let Some(target) = target else {
            let why = if unheard { "timed out" } else { "refused" };
            self.up(machine).node.on_dial_failed(link, why, now);
            return self.pump(machine);
        };
        let index = self.conns.len();
        self.connections += 1;
        let other_run = self.up(target).run;
        let delay_us = 100 + self.rng.below(20_000);
        self.conns.push(Conn {
            ends: [
                End { machine, run, link: Some(link), open: true },
                End { machine: target, run: other_run, link: None, open: true },
            ],
            pipes: Default::default(),
            flying: [0, 0],
            losses: [0, 0],
            delay_us,
        });
        let running = self.up(machine);
        running.links.insert(link, (index, 0));
        running.node.on_dialed(link, format!("h{to}"), now);
        self.pump(machine);
        self.accept(index);
    }

    /// Hands a made connection to the listening node (at once, or when it is continued).
    fn accept(&mut self, index: usize) {
        let machine = self.conns[index].ends[1].machine;
        let address = format!("h{}", self.machines[self.conns[index].ends[0].machine].host);
        if self.machines[machine].stopped || self.conns[index].ends[1].link.is_some() {
            return;
        }
        let now = self.now(machine);
        let from = name(self.machines[self.conns[index].ends[0].machine].host);
        let m = &mut self.machines[machine];
        let peer = m.peers.iter().position(|peer| *peer == from);
        let origin = peer.map_or(Origin::Other, Origin::Peer);
        let Some(running) = &mut m.up else { return };
        match running.node.on_accepted(address, origin, now) {
            Some(link) => {
                running.links.insert(link, (index, 1));
                self.conns[index].ends[1].link = Some(link);
                self.pump(machine);
            }
            None => self.shut(index, 1, &[]),
        }
    }

    pub fn stop(&mut self, machine: usize) {
        self.machines[machine].stopped = true;
    }

    pub fn go_on(&mut self, machine: usize) {
        self.machines[machine].stopped = false;
        for index in 0..self.conns.len() {
            if self.conns[index].ends[1].machine == machine && self.conns[index].ends[1].open {
                self.accept(index);
            }
        }
        self.pump(machine);
    }

    /// The head of a pipe has arrived, or has to be sent again.
    fn deliver(&mut self, index: usize, side: usize) {
        let conn = &mut self.conns[index];
        let (to, from) = (conn.ends[side].machine, conn.ends[1 - side].machine);
        let (link, run, open) = (conn.ends[side].link, conn.ends[side].run, conn.ends[side].open);
        let hosts = (self.machines[from].host, self.machines[to].host);
        let m = &self.machines[to];
        if m.stopped || self.is_cut(hosts.0, hosts.1) || (m.dark && !open) {
            let Conn { pipes, losses, .. } = &mut self.conns[index];
            if let Some(head) = pipes[side].front_mut() {
                head.0 = self.now_us + (RESEND_US << losses[side].min(9));
                losses[side] += 1;
            }
            return;
        }
        let conn = &mut self.conns[index];
        conn.losses[side] = 0;
        let Some((_, packet)) = conn.pipes[side].pop_front() else { return };
        let alive = open && m.up.as_ref().is_some_and(|running| running.run == run);
        let Some(link) = link.filter(|_| alive) else {
            // Nobody there any more: a reset goes back.
            conn.pipes[side].clear();
            if conn.ends[1 - side].open {
                let at = self.now_us + conn.delay_us;
                conn.pipes[1 - side].push_back((at, Packet::Fin));
            }
            return;
        };
        let now = self.now(to);
        match packet {
            Packet::Data(bytes) => {
                let flying = &mut self.conns[index].flying[side];
                *flying -= bytes.len().min(*flying);
                let pieces = 1 + self.rng.below(3) as usize;
                let Running { node, repl, .. } = self.up(to);
                for piece in bytes.chunks(bytes.len().div_ceil(pieces).max(1)) {
                    node.on_bytes(link, piece, repl, now);
                }
            }
            Packet::Fin => {
                self.conns[index].ends[side].open = false;
                self.lost(to, link, "closed by the peer");
            }
        }
        self.pump(to);
        self.pump(from);
    }

    fn next_event(&self) -> Option<u64> {
        let pipes = self.conns.iter().flat_map(|c| &c.pipes).filter_map(|p| Some(p.front()?.0));
        let dials = self.dials.iter().map(|dial| dial.next_us);
        let nodes = self
            .machines
            .iter()
            .filter(|machine| !machine.stopped)
            .filter_map(|machine| machine.up.as_ref()?.node.next_timeout());
        pipes.chain(dials).chain(nodes).min()
    }

    /// Lets the world go on until `until`.
    pub fn run_until(&mut self, until: u64) {
        while let Some(at) = self.next_event().filter(|&at| at <= until) {
            self.now_us = self.now_us.max(at);
            for index in (0..self.dials.len()).rev() {
                if self.dials.get(index).is_some_and(|dial| dial.next_us <= self.now_us) {
                    self.dial_due(index);
                }
            }
            for index in 0..self.conns.len() {
                for side in 0..2 {
                    let due = |c: &Conn| c.pipes[side].front().is_some_and(|p| p.0 <= at);
                    if due(&self.conns[index]) {
                        self.deliver(index, side);
                    }
                }
            }
            for machine in 0..self.machines.len() {
                let now = self.now_us;
                let due = |r: &Running| r.node.next_timeout().is_some_and(|at| at <= now);
                if self.machines[machine].up.as_ref().is_some_and(due) {
                    self.pump(machine);
                }
            }
            let dead = |c: &Conn| !c.ends[0].open && !c.ends[1].open && c.pipes[0].is_empty();
            while self.conns.last().is_some_and(|c| dead(c) && c.pipes[1].is_empty()) {
                self.conns.pop();
            }
        }
        self.now_us = self.now_us.max(until);
    }

    pub fn run_secs(&mut self, secs: f64) {
        self.run_until(self.now_us + (secs * 1e6) as u64);
    }

    /// The log lines since the last call, without their `replication: `.
    pub fn log(&mut self, machine: usize) -> Vec<String> {
        let lines = std::mem::take(&mut self.machines[machine].log);
        lines.iter().map(|l| l.trim_start_matches("replication: ").to_owned()).collect()
    }

    pub fn serving(&mut self, machine: usize) -> bool {
        self.up(machine).serving
    }

    pub fn is_linked(&self, machine: usize) -> bool {
        self.machines[machine].up.as_ref().is_some_and(|running| running.node.is_linked())
    }
}
