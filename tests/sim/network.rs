//! The virtual network: connections with delays, narrow pipes and lost packets, and what comes
//! next.
//!
//! Owns the queue of events and the bytes under way. Knows no node: it says what arrives when, and
//! the world hands it over.
//!
//! ```text
//!   end 0  --send--> [ packet packet packet ] --head arrives--> end 1
//!          <-------- [ packet               ] <--send---------
//! ```
//! A pipe keeps its order, as TCP does; connections have delays of their own, so that what goes
//! over two of them comes in any order.

use super::rng::Rng;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use twincached::replication::LinkId;

/// How soon a packet that was lost is sent again the first time; then after twice as long, as TCP
/// does it.
const RESEND_US: u64 = 200_000;
/// Times that the wait doubles.
const RESEND_DOUBLES: u32 = 9;

/// What happens at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// The head of a pipe arrives: connection, and the end that it goes to.
    Arrival(usize, usize),
    /// A dial goes on or gives up.
    Dial(usize),
    /// A machine has something to do by its clock.
    Timer(usize),
    /// A system looks whether the other end of a connection is still there: connection and the end
    /// that asks, and whether it was in vain before.
    Probe(usize, usize, bool),
}

/// What travels.
#[derive(Debug)]
pub enum Packet {
    Data(Vec<u8>),
    Fin,
}

/// One end of a connection.
#[derive(Debug)]
pub struct End {
    pub machine: usize,
    /// Which process of the machine.
    pub run: u64,
    /// None until the process has accepted it.
    pub link: Option<LinkId>,
    pub open: bool,
}

/// One direction of a connection.
#[derive(Debug, Default)]
pub struct Pipe {
    packets: VecDeque<(u64, Packet)>,
    /// Bytes in it.
    pub flying: usize,
    losses: u32,
    last_us: u64,
    /// An event of its head is in the queue.
    scheduled: bool,
}

/// A connection between two machines.
#[derive(Debug)]
pub struct Conn {
    pub ends: [End; 2],
    /// `pipes[n]` goes to `ends[n]`.
    pub pipes: [Pipe; 2],
    pub delay_us: u64,
}

/// All connections, and the queue of events.
#[derive(Debug, Default)]
pub struct Network {
    pub conns: Vec<Conn>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    count: u64,
    /// Bytes and connections so far, for tests that count.
    pub bytes: u64,
    pub connections: u64,
    /// Cut what is sent into packets that arrive one by one.
    pub packets: bool,
}

impl Network {
    /// Has something happen at a moment.
    pub fn at(&mut self, us: u64, event: Event) {
        self.count += 1;
        self.events.push(Reverse((us, self.count, event)));
    }

    /// The next thing to happen, until `until`.
    pub fn next(&mut self, until: u64) -> Option<(u64, Event)> {
        let &Reverse((us, _, event)) = self.events.peek().filter(|next| next.0 .0 <= until)?;
        self.events.pop();
        Some((us, event))
    }

    /// Makes a connection; its number.
    pub fn connect(&mut self, ends: [End; 2], delay_us: u64) -> usize {
        self.connections += 1;
        self.conns.push(Conn { ends, pipes: Default::default(), delay_us });
        self.conns.len() - 1
    }

    fn schedule(&mut self, conn: usize, side: usize, now_us: u64) {
        let pipe = &mut self.conns[conn].pipes[side];
        let Some(&(at, _)) = pipe.packets.front().filter(|_| !pipe.scheduled) else { return };
        pipe.scheduled = true;
        self.at(at.max(now_us), Event::Arrival(conn, side));
    }

    fn push(&mut self, conn: usize, side: usize, packet: Packet, now_us: u64, late_us: u64) {
        let Conn { pipes, delay_us, .. } = &mut self.conns[conn];
        let pipe = &mut pipes[side];
        pipe.last_us = pipe.last_us.max(now_us + *delay_us + late_us);
        pipe.packets.push_back((pipe.last_us, packet));
        self.schedule(conn, side, now_us);
    }

    /// Sends bytes to an end.
    pub fn send(&mut self, conn: usize, side: usize, bytes: &[u8], now_us: u64, rng: &mut Rng) {
        self.bytes += bytes.len() as u64;
        self.conns[conn].pipes[side].flying += bytes.len();
        let mut rest = bytes;
        while self.packets && rest.len() > 1 && rng.chance(2) {
            let (packet, more) = rest.split_at(1 + rng.below(rest.len() as u64 - 1) as usize);
            self.push(conn, side, Packet::Data(packet.to_vec()), now_us, rng.below(3000));
            rest = more;
        }
        self.push(conn, side, Packet::Data(rest.to_vec()), now_us, 0);
    }

    /// Closes an end, with these last bytes; the other one hears of it behind the last data.
    pub fn shut(&mut self, conn: usize, side: usize, last: &[u8], now_us: u64) {
        if std::mem::take(&mut self.conns[conn].ends[side].open) {
            self.push(conn, 1 - side, Packet::Data(last.to_vec()), now_us, 0);
            self.push(conn, 1 - side, Packet::Fin, now_us, 0);
        }
    }

    /// The head of a pipe, if it has arrived by now. Where it has not, it will.
    pub fn arrive(&mut self, conn: usize, side: usize, now_us: u64) -> bool {
        let pipe = &mut self.conns[conn].pipes[side];
        pipe.scheduled = false;
        let here = pipe.packets.front().is_some_and(|&(at, _)| at <= now_us);
        if !here {
            self.schedule(conn, side, now_us);
        }
        here
    }

    /// Takes the head of a pipe out, and has the next one come.
    pub fn take(&mut self, conn: usize, side: usize, now_us: u64) -> Option<Packet> {
        let pipe = &mut self.conns[conn].pipes[side];
        let (_, packet) = pipe.packets.pop_front()?;
        pipe.losses = 0;
        if let Packet::Data(bytes) = &packet {
            pipe.flying -= bytes.len().min(pipe.flying);
        }
        self.schedule(conn, side, now_us);
        Some(packet)
    }

    /// The head of a pipe was lost: it is sent again, later and later.
    pub fn lose(&mut self, conn: usize, side: usize, now_us: u64) {
        let Conn { pipes, ends, .. } = &mut self.conns[conn];
        let pipe = &mut pipes[side];
        let wait = RESEND_US << pipe.losses.min(RESEND_DOUBLES);
        pipe.losses += 1;
        if !ends[0].open && !ends[1].open {
            pipe.packets.clear();
        } else if let Some(head) = pipe.packets.front_mut() {
            head.0 = now_us + wait;
        }
        self.schedule(conn, side, now_us);
    }

    /// What was kept from an end may come to it now.
    pub fn resume(&mut self, conn: usize, side: usize, now_us: u64) {
        self.schedule(conn, side, now_us);
    }

    /// Nobody is there any more: a reset goes back.
    pub fn reset(&mut self, conn: usize, side: usize, now_us: u64) {
        self.conns[conn].pipes[side].packets.clear();
        if self.conns[conn].ends[1 - side].open {
            self.push(conn, 1 - side, Packet::Fin, now_us, 0);
        }
    }

    /// Loses what is still under way from ends that are closed: the last words of the dead may
    /// arrive or not.
    pub fn lose_last_words(&mut self) {
        for conn in &mut self.conns {
            for side in 0..2 {
                if !conn.ends[1 - side].open {
                    let pipe = &mut conn.pipes[side];
                    pipe.packets.retain(|(_, packet)| matches!(packet, Packet::Fin));
                    pipe.flying = 0;
                }
            }
        }
    }
}
