//! Commands for every server: flush_all and verbosity.
//!
//! Owns those in flight. Servers are asked first and backups when all servers have answered: a
//! write that a server did before its flush is then on its way to the backup before the backup's
//! flush. The client gets OK when somebody did it; whoever could not be reached does a flush before
//! it is trusted again.

use super::super::backend::{Expect, Usable};
use super::super::fanout::Verdict;
use super::places::{BackendId, PlaceId};
use super::{Call, Client, Completion, Relay, CAN_NOT_CONNECT};
use crate::base::clock::Now;
use crate::base::replies::Ticket;
use crate::protocol::classic::{encode, Reply};
use crate::protocol::Request;

#[derive(Debug)]
pub(super) struct All {
    client: Client,
    ticket: Option<Ticket>,
    cost: usize,
    command: Command,
    backups_asked: bool,
    waiting: usize,
    done: bool,
    error: Option<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Flush { delay: i64 },
    Verbosity { level: u32 },
}

/// What magent calls itself.
pub const VERSION: &str = "memcached agent v0.6";

impl Relay {
    /// The answer to `stats`: magent's lines, then the proxy's own; `stats servers`: one by one;
    /// `stats reset`: the counts begin anew. Any other argument is passed over, as in magent.
    pub fn answer_stats(&self, now: Now, args: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match args {
            b"reset" => {
                self.stats_reset();
                return encode::RESET.to_vec();
            }
            b"servers" => self.stats_servers(&mut out, now),
            _ => {
                let mut head = format!("{VERSION}\r\n");
                for (place, n) in self.routes().servers().iter().zip(1..) {
                    head += &format!("matrix {n} -> {place}, pool size 0\r\n");
                }
                out.extend_from_slice(head.as_bytes());
                self.stats(&mut out, now);
            }
        }
        out.extend_from_slice(encode::END);
        out
    }

    /// Submits flush_all or verbosity. Other requests are ignored. No other request of the client
    /// should be submitted before its end.
    pub fn submit_all(
        &mut self,
        now: Now,
        client: Client,
        ticket: Option<Ticket>,
        cost: usize,
        request: &Request<'_>,
    ) {
        let command = match *request {
            Request::FlushAll { delay, .. } => Command::Flush { delay },
            Request::Verbosity { level, .. } => Command::Verbosity { level },
            _ => return,
        };
        if matches!(command, Command::Flush { .. }) {
            self.count.cmd_flush.add(1);
            self.guard.begin_all(self.worker);
        }
        let id = self.alls.insert(All {
            client,
            ticket,
            cost,
            command,
            backups_asked: false,
            waiting: 0,
            done: false,
            error: None,
        });
        let servers = self.everybody(command, &self.router.servers);
        self.ask_all(now, id, servers);
        self.go_on_all(now, id);
    }

    /// Who is to be asked in these places: all, but that the members of a group tell each other of
    /// a flush.
    fn everybody(&self, command: Command, places: &[PlaceId]) -> Vec<BackendId> {
        let mut all = Vec::new();
        for &place in places {
            match command {
                Command::Flush { .. } => all.push(self.writer(place)),
                Command::Verbosity { .. } => all.extend(&self.places[place].members),
            }
        }
        all.sort_unstable();
        all.dedup();
        all
    }

    fn ask_all(&mut self, now: Now, id: usize, whom: Vec<BackendId>) {
        let request = match self.alls[id].command {
            Command::Flush { delay } => Request::FlushAll { delay, noreply: false },
            Command::Verbosity { level } => Request::Verbosity { level, noreply: false },
        };
        for backend in whom {
            if matches!(request, Request::FlushAll { .. }) {
                self.mirrors_missed(backend);
            }
            let call = Call::All { all: id as u32 };
            let write = |out: &mut Vec<u8>| encode::request(out, &request);
            if self.ask(backend, now, call, Expect::Ok, write) == Usable::Yes {
                self.alls[id].waiting += 1;
            } else {
                self.missed_all(id, backend);
            }
        }
    }

    fn missed_all(&mut self, id: usize, backend: BackendId) {
        if matches!(self.alls[id].command, Command::Flush { .. }) {
            self.backends[backend].missed_flush();
        }
    }

    pub(super) fn all_done(&mut self, now: Now, id: u32, reply: Reply<'_>, raw: &[u8]) {
        let Some(all) = self.alls.get_mut(id as usize) else { return };
        all.waiting -= 1;
        match reply {
            Reply::Ok => all.done = true,
            _ => {
                all.error.get_or_insert_with(|| raw.to_vec());
            }
        }
        self.go_on_all(now, id as usize);
    }

    pub(super) fn all_failed(&mut self, now: Now, id: u32, backend: BackendId) {
        let Some(all) = self.alls.get_mut(id as usize) else { return };
        all.waiting -= 1;
        match self.other_member(backend) {
            // Whoever is flushed in a group tells the others.
            Some(other) => self.ask_all(now, id as usize, vec![other]),
            None => self.missed_all(id as usize, backend),
        }
        self.go_on_all(now, id as usize);
    }

    fn go_on_all(&mut self, now: Now, id: usize) {
        let all = &mut self.alls[id];
        if all.waiting == 0 && !all.backups_asked {
            all.backups_asked = true;
            if matches!(all.command, Command::Flush { .. }) {
                // Fills that began since the servers flushed may have read the backup before it.
                self.guard.begin_all(self.worker);
                self.guard.end_all();
            }
            let command = all.command;
            let backups = self.everybody(command, &self.router.backups);
            self.ask_all(now, id, backups);
        }
        if self.alls[id].waiting > 0 {
            return;
        }
        let all = self.alls.remove(id);
        if matches!(all.command, Command::Flush { .. }) {
            self.guard.end_all();
        }
        let reply = match (all.done, all.error) {
            (_, Some(error)) => error,
            (true, None) => encode::OK.to_vec(),
            (false, None) => CAN_NOT_CONNECT.to_vec(),
        };
        self.completions.push(Completion {
            client: all.client,
            ticket: all.ticket,
            reply,
            cost: all.cost,
            largest: 0,
            verdict: Verdict::Reached,
            held: 0,
            pieces: Vec::new(),
            more: false,
        });
    }
}
