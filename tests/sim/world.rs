//! A world of nodes on virtual time over a virtual network.
//!
//! Owns machines, their clocks (skewed, some of them asleep), cuts, and the order of events. Each
//! machine runs the real `Node`, `Session` and `Store`; only sockets and time are made up. The same
//! seed gives the same world, step by step.

use super::network::{End, Event, Network, Packet};
use super::rng::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use twincached::base::clock::Now;
use twincached::replication::{Action, LinkId, ListenError, Node, NodeConfig, NodeId, Origin};
use twincached::store::{Config, Handle, Maintained, Store, Told};

/// 2024-01-01 in unix microseconds: where virtual time begins.
pub const EPOCH_US: u64 = 1_704_067_200_000_000;
/// Most output asked for at once.
const OUT_MAX: usize = 16 * 1024;
/// Turns that a machine may take without coming to rest.
const TURNS_MAX: usize = 10_000;
/// How long a dial waits before it knocks again where nothing answers.
const KNOCK_US: u64 = 1_000_000;

pub struct Running {
    pub node: Node,
    pub store: Arc<Store>,
    pub worker: Handle,
    pub repl: Handle,
    links: BTreeMap<LinkId, (usize, usize)>,
    /// Connections that the kernel has accepted and the process has not.
    backlog: Vec<usize>,
    pub listening: bool,
    pub serving: bool,
    pub run: u64,
}

pub struct Machine {
    pub host: usize,
    pub peers: Vec<String>,
    pub up: Option<Running>,
    /// The whole host is gone or asleep: nobody answers, not even a refusal.
    pub dark: bool,
    /// Stopped (SIGSTOP): its kernel accepts, it does nothing.
    pub stopped: bool,
    pub skew_us: i64,
    /// What this machine's store is made with, where that is not the world's.
    pub store: Option<Config>,
    /// How long its monotonic clock has stood still, and since when it does.
    slept_us: u64,
    asleep_us: Option<u64>,
    /// The earliest timer event that is in the queue.
    timer_us: Option<u64>,
    pub log: Vec<String>,
    /// Lines at level debug.
    pub debug: Vec<String>,
}

struct Dial {
    machine: usize,
    run: u64,
    link: LinkId,
    peer: String,
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
    pub network: Network,
    dials: BTreeMap<usize, Dial>,
    dialed: usize,
    runs: u64,
    /// Peers that a change is to be acknowledged by; 0: nobody waits. See `acks`.
    pub ack: usize,
    pub promises: Vec<super::acks::Promise>,
    /// Promises that were found kept.
    pub kept: u64,
    /// Processes that died, where `ack` is set.
    pub graves: Vec<(usize, Running)>,
}

/// How often a system looks after a connection that it watches; the second time in vain is one too
/// many.
const PROBE_US: u64 = 2_500_000;

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
            network: Network::default(),
            dials: BTreeMap::new(),
            dialed: 0,
            runs: 0,
            ack: 0,
            promises: Vec::new(),
            kept: 0,
            graves: Vec::new(),
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
            store: None,
            slept_us: 0,
            asleep_us: None,
            timer_us: None,
            log: Vec::new(),
            debug: Vec::new(),
        });
        self.machines.len() - 1
    }

    pub fn now(&self, machine: usize) -> Now {
        let m = &self.machines[machine];
        let unix = (EPOCH_US + self.now_us) as i64 + m.skew_us;
        let mono_us = m.asleep_us.unwrap_or(self.now_us) - m.slept_us;
        Now { unix_us: unix as u64, mono_us }
    }

    /// Starts a process with an empty store and a new id.
    pub fn start(&mut self, machine: usize) {
        self.runs += 1;
        let run = self.runs;
        let now = self.now(machine);
        let config = Config {
            node_tag: (run % 250) as u8 + 1,
            hash_seed: self.rng.next(),
            ..self.machines[machine].store.as_ref().unwrap_or(&self.store).clone()
        };
        let id = NodeId(u128::from(self.rng.next()) << 64 | u128::from(self.rng.next()));
        let m = &mut self.machines[machine];
        let node = NodeConfig::new(id, m.peers.clone(), self.queue_max);
        let store = Store::new(config, now);
        m.up = Some(Running {
            node: Node::new(node),
            worker: store.handle(),
            repl: store.handle(),
            store,
            links: BTreeMap::new(),
            backlog: Vec::new(),
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
        self.wake(machine);
        if let Some(mut running) = self.machines[machine].up.take() {
            for (conn, side) in std::mem::take(&mut running.links).into_values() {
                self.network.shut(conn, side, &[], self.now_us);
            }
            for conn in std::mem::take(&mut running.backlog) {
                self.network.shut(conn, 1, &[], self.now_us);
            }
            self.bury(machine, running);
        }
    }

    /// Power loss: nobody is told.
    pub fn power_off(&mut self, machine: usize) {
        self.wake(machine);
        if let Some(mut running) = self.machines[machine].up.take() {
            for (conn, side) in std::mem::take(&mut running.links).into_values() {
                self.network.conns[conn].ends[side].open = false;
            }
            for conn in std::mem::take(&mut running.backlog) {
                self.network.conns[conn].ends[1].open = false;
            }
            self.bury(machine, running);
        }
        self.machines[machine].dark = true;
    }

    /// One machine's side of all its connections breaks; the other sides hear nothing of it.
    pub fn forget_connections(&mut self, machine: usize) {
        let Some(running) = &mut self.machines[machine].up else { return };
        let links = std::mem::take(&mut running.links);
        for (link, (conn, side)) in links {
            self.network.conns[conn].ends[side].open = false;
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

    fn is_cut(&self, from: usize, to: usize) -> bool {
        from != to && self.cut.contains(&(from, to))
    }

    pub fn up(&mut self, machine: usize) -> &mut Running {
        self.machines[machine].up.as_mut().expect("the machine is up")
    }

    /// Whether a client would be answered.
    pub fn answers(&self, machine: usize) -> bool {
        let m = &self.machines[machine];
        !m.stopped && m.up.as_ref().is_some_and(|up| up.serving)
    }

    /// Runs something on a machine as one of its workers would.
    pub fn work<R>(&mut self, machine: usize, f: impl FnOnce(&mut Handle, Now) -> R) -> R {
        let now = self.now(machine);
        let result = f(&mut self.up(machine).worker, now);
        self.pump(machine);
        result
    }

    /// Housekeeping of a store, as its maintenance thread does it.
    pub fn maintain(&mut self, machine: usize) {
        let now = self.now(machine);
        if let Some(running) = self.machines[machine].up.as_mut() {
            for _ in 0..50 {
                if running.worker.maintain(now, 1000) == Maintained::Idle {
                    break;
                }
            }
        }
    }

    fn lost(&mut self, machine: usize, link: LinkId, why: &str) {
        let now = self.now(machine);
        if let Some(Running { node, repl, links, .. }) = &mut self.machines[machine].up {
            links.remove(&link);
            node.on_lost(link, why, repl, now);
        }
    }

    /// Lets a machine do all it can do now.
    fn pump(&mut self, machine: usize) {
        for _ in 0..TURNS_MAX {
            if self.machines[machine].stopped {
                return;
            }
            let more = self.turn(machine);
            self.check_acks(machine);
            if !more {
                return self.set_timer(machine);
            }
        }
        panic!("machine {machine} never comes to rest");
    }

    /// Sees to it that the machine is woken when its node wants to be.
    fn set_timer(&mut self, machine: usize) {
        let m = &mut self.machines[machine];
        let Some(at) = m.up.as_ref().and_then(|up| up.node.next_timeout()) else { return };
        let at = at.saturating_add(m.slept_us).max(self.now_us);
        if m.timer_us.is_none_or(|timer| at < timer) {
            m.timer_us = Some(at);
            self.network.at(at, Event::Timer(machine));
        }
    }

    fn turn(&mut self, machine: usize) -> bool {
        let now = self.now(machine);
        let Some(running) = &mut self.machines[machine].up else { return false };
        let Running { node, store, repl, worker, .. } = running;
        if self.ack > 0 {
            node.hurry(worker.issued());
        }
        let mut hashes = Vec::new();
        store.changed().take();
        let mut told = Told::default();
        // Not from the first moment of a link: both ways of telling are taken.
        store.set_telling(node.takes_told());
        let drained = store.drain_told(&mut hashes, &mut told);
        node.on_told(&told, now);
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
        let mut out = Vec::new();
        for (&link, &(conn, side)) in &*links {
            let flying = self.network.conns[conn].pipes[1 - side].flying;
            let room = self.pipe_max.saturating_sub(flying).min(OUT_MAX);
            if room == 0 {
                continue;
            }
            out.clear();
            let more = node.poll_transmit(link, &mut out, room, repl, now);
            worked |= more || !out.is_empty();
            if !out.is_empty() {
                self.network.send(conn, 1 - side, &out, self.now_us, &mut self.rng);
            }
        }
        worked
    }

    fn act(&mut self, machine: usize, action: Action) {
        match action {
            Action::Log(line) | Action::Warn(line) => self.machines[machine].log.push(line),
            Action::Debug(line) => self.machines[machine].debug.push(line),
            Action::Serve => self.up(machine).serving = true,
            Action::Watch { link, .. } => {
                if let Some(&(conn, side)) = self.up(machine).links.get(&link) {
                    self.network.at(self.now_us + PROBE_US, Event::Probe(conn, side, false));
                }
            }
            Action::Dial { link, peer, timeout_us } => {
                let delay = 100 + self.rng.below(5000);
                let m = &self.machines[machine];
                self.dialed += 1;
                let dial = Dial {
                    machine,
                    run: m.up.as_ref().map_or(0, |running| running.run),
                    link,
                    peer: m.peers[peer].clone(),
                    deadline_us: self.now_us + timeout_us,
                };
                self.dials.insert(self.dialed, dial);
                self.network.at(self.now_us + delay, Event::Dial(self.dialed));
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
            Action::Unlisten => self.up(machine).listening = false,
            Action::Close { link, last } => {
                let run = self.up(machine).run;
                self.dials.retain(|_, d| (d.machine, d.run, d.link) != (machine, run, link));
                if let Some((conn, side)) = self.up(machine).links.remove(&link) {
                    self.network.shut(conn, side, &last, self.now_us);
                }
            }
        }
    }

    fn listener(&self, host: usize) -> Option<usize> {
        let listens = |m: &Machine| m.host == host && m.up.as_ref().is_some_and(|r| r.listening);
        self.machines.iter().position(listens)
    }

    fn dial_due(&mut self, number: usize) {
        let Some(dial) = self.dials.get(&number) else { return };
        let (machine, link, run) = (dial.machine, dial.link, dial.run);
        let from = self.machines[machine].host;
        let gone = self.machines[machine].up.as_ref().is_none_or(|running| running.run != run);
        let to = (0..16).find(|&host| name(host) == dial.peer).expect("a host");
        let dark = self.machines.iter().any(|m| m.host == to && m.dark);
        let away = self.machines[machine].dark;
        let unheard = dark || away || self.is_cut(from, to) || self.is_cut(to, from);
        if !gone && (self.machines[machine].stopped || (unheard && self.now_us < dial.deadline_us))
        {
            let again = self.now_us + KNOCK_US;
            let at =
                if dial.deadline_us > self.now_us { dial.deadline_us.min(again) } else { again };
            return self.network.at(at, Event::Dial(number));
        }
        self.dials.remove(&number);
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
        let other_run = self.up(target).run;
        let delay_us = 100 + self.rng.below(20_000);
        let ends = [
            End { machine, run, link: Some(link), open: true },
            End { machine: target, run: other_run, link: None, open: true },
        ];
        let index = self.network.connect(ends, delay_us);
        let running = self.up(machine);
        running.links.insert(link, (index, 0));
        running.node.on_dialed(link, format!("h{to}"), now);
        self.up(target).backlog.push(index);
        self.pump(machine);
        self.accept(target);
    }

    /// Hands made connections to the listening node (at once, or when it is continued).
    fn accept(&mut self, machine: usize) {
        if self.machines[machine].stopped {
            return;
        }
        let now = self.now(machine);
        loop {
            let Some(running) = &mut self.machines[machine].up else { return };
            let Some(index) = running.backlog.pop() else { return };
            let from = self.network.conns[index].ends[0].machine;
            let address = format!("h{}", self.machines[from].host);
            let named = name(self.machines[from].host);
            let target = self.machines[machine].peers.iter().position(|peer| *peer == named);
            let origin = target.map_or(Origin::Other, Origin::Peer);
            let running = self.up(machine);
            match running.node.on_accepted(address, origin, now) {
                Some(link) => {
                    running.links.insert(link, (index, 1));
                    self.network.conns[index].ends[1].link = Some(link);
                    self.network.resume(index, 1, self.now_us);
                    self.pump(machine);
                }
                None => self.network.shut(index, 1, &[], self.now_us),
            }
        }
    }

    /// SIGSTOP: the kernel goes on, the process does not.
    pub fn stop(&mut self, machine: usize) {
        self.machines[machine].stopped = true;
    }

    /// SIGCONT, or the end of sleep: what has arrived meanwhile is read.
    pub fn go_on(&mut self, machine: usize) {
        self.wake(machine);
        self.machines[machine].stopped = false;
        let Some(running) = &self.machines[machine].up else { return };
        for (conn, side) in running.links.values().copied().collect::<Vec<_>>() {
            self.network.resume(conn, side, self.now_us);
        }
        self.accept(machine);
        self.pump(machine);
    }

    /// The machine sleeps: it does nothing, its network is down and its monotonic clock stands
    /// still. [`World::go_on`] wakes it.
    pub fn sleep(&mut self, machine: usize) {
        let m = &mut self.machines[machine];
        if m.asleep_us.is_none() {
            m.stopped = true;
            m.dark = true;
            m.asleep_us = Some(self.now_us);
        }
    }

    fn wake(&mut self, machine: usize) {
        let m = &mut self.machines[machine];
        if let Some(since) = m.asleep_us.take() {
            m.slept_us += self.now_us - since;
            m.dark = false;
        }
    }

    /// The head of a pipe has arrived, or has to be sent again.
    fn deliver(&mut self, index: usize, side: usize) {
        if !self.network.arrive(index, side, self.now_us) {
            return;
        }
        let ends = &self.network.conns[index].ends;
        let (to, from) = (ends[side].machine, ends[1 - side].machine);
        let (link, run, open) = (ends[side].link, ends[side].run, ends[side].open);
        let hosts = (self.machines[from].host, self.machines[to].host);
        let m = &self.machines[to];
        let asleep = m.asleep_us.is_some() || self.machines[from].asleep_us.is_some();
        if asleep || self.is_cut(hosts.0, hosts.1) || (m.dark && !open) {
            return self.network.lose(index, side, self.now_us);
        }
        let alive = open && m.up.as_ref().is_some_and(|running| running.run == run);
        if alive && (m.stopped || link.is_none()) {
            // The kernel keeps it: `go_on` or `accept` has it come.
            return;
        }
        let Some(link) = link.filter(|_| alive) else {
            return self.network.reset(index, side, self.now_us);
        };
        let now = self.now(to);
        let full = self.network.conns[index].pipes[side].flying >= self.pipe_max;
        match self.network.take(index, side, self.now_us) {
            Some(Packet::Data(bytes)) => {
                let pieces = 1 + self.rng.below(3) as usize;
                let Running { node, repl, .. } = self.up(to);
                for piece in bytes.chunks(bytes.len().div_ceil(pieces).max(1)) {
                    node.on_bytes(link, piece, repl, now);
                }
            }
            Some(Packet::Fin) => {
                self.network.conns[index].ends[side].open = false;
                self.lost(to, link, "closed by the peer");
            }
            None => {}
        }
        self.pump(to);
        if full {
            self.pump(from);
        }
    }

    /// The system tells a process of a connection whose other end has gone without a word.
    fn probe(&mut self, conn: usize, side: usize, in_vain: bool) {
        let ends = &self.network.conns[conn].ends;
        let (here, there) = (&ends[side], &ends[1 - side]);
        let (Some(link), true) = (here.link, here.open) else { return };
        let up = |end: &End| {
            let m = &self.machines[end.machine];
            m.up.as_ref().is_some_and(|running| running.run == end.run)
        };
        if !up(here) {
            return;
        }
        let (machine, hosts) =
            (here.machine, (self.machines[here.machine].host, self.machines[there.machine].host));
        let heard = there.open && up(there) && !self.is_cut(hosts.0, hosts.1);
        if !heard && in_vain {
            self.network.conns[conn].ends[side].open = false;
            self.lost(machine, link, "timed out");
            return self.pump(machine);
        }
        self.network.at(self.now_us + PROBE_US, Event::Probe(conn, side, !heard));
    }

    fn timer_due(&mut self, machine: usize) {
        let m = &mut self.machines[machine];
        if m.timer_us.is_some_and(|at| at <= self.now_us) {
            m.timer_us = None;
        }
        if !m.stopped {
            self.pump(machine);
        }
    }

    /// Lets the world go on until `until`.
    pub fn run_until(&mut self, until: u64) {
        while let Some((at, event)) = self.network.next(until) {
            self.now_us = self.now_us.max(at);
            match event {
                Event::Arrival(conn, side) => self.deliver(conn, side),
                Event::Dial(number) => self.dial_due(number),
                Event::Timer(machine) => self.timer_due(machine),
                Event::Probe(conn, side, in_vain) => self.probe(conn, side, in_vain),
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
