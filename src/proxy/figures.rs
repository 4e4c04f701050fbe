//! What is counted about the proxy, and how it is shown.
//!
//! Owns the figures of every worker and of every server as each worker sees it. Each is written by
//! one thread, without a lock and without a locked instruction, and read by whoever answers
//! `stats`; the lock here is taken only by those readers and when servers come and go. Never asks
//! the time.
//!
//! ```text
//!   worker 0:  Worker   Server a   Server b          a row is one thread's,
//!   worker 1:  Worker   Server a   Server b          a column is summed for `stats`
//! ```

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::config::Endpoint;
use super::route::Routes;
use crate::base::clock::Now;
use crate::base::num::push_u64;

mod latency;

pub use latency::Latency;

/// One figure. Only its owner may change it.
#[derive(Debug, Default)]
pub struct Figure(AtomicU64);

impl Figure {
    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Takes `n` off a gauge.
    #[inline]
    pub fn sub(&self, n: u64) {
        self.add(n.wrapping_neg());
    }

    /// Sets a gauge.
    #[inline]
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The figure now, from any thread.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! figures {
    ($(#[$what:meta])* $kind:ident, $count:ident:
        $($(#[$doc:meta])* $name:ident $sort:ident,)*;
        $($(#[$other_doc:meta])* $other:ident: $type:ty,)*
    ) => {
        $(#[$what])*
        #[derive(Debug, Default)]
        pub struct $kind {
            $($(#[$doc])* pub $name: Figure,)*
            $($(#[$other_doc])* pub $other: $type,)*
        }

        const $count: usize = [$(stringify!($name)),*].len();

        impl $kind {
            /// Names, whether they only grow (and `stats reset` begins them anew), and figures.
            fn all(&self) -> [(&'static str, bool, u64); $count] {
                [$((stringify!($name), figures!(@$sort), self.$name.get())),*]
            }
        }
    };
    (@count) => { true };
    (@gauge) => { false };
}

figures! {
    /// What one worker counts.
    Worker, WORKER_FIGURES:
    /// Clients now.
    curr_connections gauge,
    /// Clients since the start.
    total_connections count,
    /// Clients closed because of `-o idle_timeout`.
    idle_kicks count,
    /// Keys asked for by get, gets and mg.
    cmd_get count,
    /// Storage commands, ms among them.
    cmd_set count,
    /// touch, and keys asked for by gat and gats.
    cmd_touch count,
    /// delete and md.
    cmd_delete count,
    /// incr, decr and ma.
    cmd_arith count,
    /// flush_all.
    cmd_flush count,
    /// Meta commands.
    cmd_meta count,
    /// Keys of get, gets, gat, gats and mg that were found.
    get_hits count,
    /// Keys of theirs that were not.
    get_misses count,
    /// Bytes read from clients.
    bytes_read count,
    /// Bytes written to clients.
    bytes_written count,
    /// Requests answered by SERVER_ERROR of the proxy's own.
    errors count,
    /// Requests that went to a backup because the server could not be reached.
    failovers count,
    /// Keys asked from a backup because the server did not have them.
    second_lookups count,
    /// Values put back on a server.
    fill_backs count,
    /// Requests of clients that have not ended.
    in_flight gauge,
    /// Bytes of values held for clients.
    held_bytes gauge,
    ;
}

/// What a server's state is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is used.
    Up,
    /// It is used, and may lack what its backup has.
    Cold,
    /// It failed, and is being tried.
    Probing,
    /// It failed.
    Down,
}

impl State {
    const ALL: [(State, &'static str); 4] = [
        (State::Up, "up"),
        (State::Cold, "cold"),
        (State::Probing, "probing"),
        (State::Down, "down"),
    ];
}

figures! {
    /// What one worker counts about one server.
    Server, SERVER_FIGURES:
    /// Requests of clients that were sent, or wait to be.
    requests count,
    /// Answers that were errors.
    errors count,
    /// Connections that failed or were lost with somebody waiting.
    failures count,
    /// Of these, for lack of an answer, or of a connection, in time.
    timeouts count,
    /// Times after which nothing was asked any more but probes.
    ejections count,
    /// Attempts to find out whether it is back.
    probes count,
    /// Lost connections whose requests were asked again.
    retries count,
    /// Connections begun.
    connects count,
    /// Values put back on it.
    fill_backs count,
    /// Bytes sent to it.
    bytes_sent count,
    /// Bytes received from it.
    bytes_received count,
    /// Requests that wait for its answers now.
    in_flight gauge,
    ;
    /// Times from a request to the end of its answer.
    latency: Latency,
    /// A [`State`] as a number, but for [`State::Cold`].
    state: Figure,
    /// Whether it is cold: [`super::relay`] knows.
    cold: Figure,
    /// When the state changed, on the monotonic clock in microseconds.
    since: Figure,
}

impl Server {
    /// The worker sees the server in another state.
    pub fn turned(&self, now: Now, state: State) {
        self.state.set(state as u64);
        self.since.set(now.mono_us);
    }

    fn seen(&self) -> State {
        let (state, _) = State::ALL[self.state.get() as usize % State::ALL.len()];
        if state == State::Up && self.cold.get() != 0 {
            return State::Cold;
        }
        state
    }
}

/// Servers and backups are counted apart, even at one address.
#[derive(Debug)]
struct Column {
    backup: bool,
    endpoint: Endpoint,
    workers: Vec<Arc<Server>>,
    /// The sums at the last `stats reset`.
    before: [u64; SERVER_FIGURES],
    latency_before: latency::Sum,
}

#[derive(Debug, Default)]
struct Shown {
    columns: Vec<Column>,
    before: [u64; WORKER_FIGURES],
}

/// The figures of a whole proxy.
#[derive(Debug)]
pub struct Figures {
    workers: Vec<Arc<Worker>>,
    shown: Mutex<Shown>,
}

fn line(out: &mut Vec<u8>, name: &[&str], value: &str) {
    out.extend_from_slice(b"STAT ");
    name.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    out.push(b' ');
    out.extend_from_slice(value.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn number(out: &mut Vec<u8>, name: &[&str], value: u64) {
    out.extend_from_slice(b"STAT ");
    name.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    out.push(b' ');
    push_u64(out, value);
    out.extend_from_slice(b"\r\n");
}

impl Figures {
    /// All zero, for so many workers.
    pub fn new(workers: usize) -> Figures {
        let workers = (0..workers.max(1)).map(|_| Arc::default()).collect();
        Figures { workers, shown: Mutex::default() }
    }

    fn shown(&self) -> std::sync::MutexGuard<'_, Shown> {
        // Nothing here can be left half done.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The figures of worker `n`.
    pub fn worker(&self, n: u32) -> Arc<Worker> {
        Arc::clone(&self.workers[n as usize % self.workers.len()])
    }

    /// The figures of worker `n` about one server; the same ones each time.
    pub fn server(&self, n: u32, backup: bool, endpoint: &Endpoint) -> Arc<Server> {
        let mut shown = self.shown();
        let n = n as usize % self.workers.len();
        let is = |column: &&Column| column.backup == backup && column.endpoint == *endpoint;
        if let Some(column) = shown.columns.iter().find(is) {
            return Arc::clone(&column.workers[n]);
        }
        let workers: Vec<Arc<Server>> = self.workers.iter().map(|_| Arc::default()).collect();
        let server = Arc::clone(&workers[n]);
        shown.columns.push(Column {
            backup,
            endpoint: endpoint.clone(),
            workers,
            before: [0; SERVER_FIGURES],
            latency_before: latency::Sum::default(),
        });
        server
    }

    /// Forgets servers that no worker knows any more.
    pub fn sweep(&self) {
        let known = |server: &Arc<Server>| Arc::strong_count(server) > 1;
        self.shown().columns.retain(|column| column.workers.iter().any(known));
    }

    /// `stats reset`: what only grows begins anew.
    pub fn reset(&self) {
        let mut shown = self.shown();
        shown.before = self.sum();
        for column in &mut shown.columns {
            column.before = column.sum();
            column.latency_before = column.latency();
        }
    }

    fn sum(&self) -> [u64; WORKER_FIGURES] {
        let mut sum = [0u64; WORKER_FIGURES];
        for worker in &self.workers {
            add_up(&mut sum, worker.all());
        }
        sum
    }

    /// The proxy's own lines of `stats`, without an end. `now` is since the proxy started. Of the
    /// servers, those that `routes` names are counted.
    pub fn stats(&self, out: &mut Vec<u8>, now: Now, routes: &Routes) {
        number(out, &["pid"], u64::from(std::process::id()));
        number(out, &["uptime"], now.mono_us / 1_000_000);
        number(out, &["time"], u64::from(now.unix_secs()));
        line(out, &["version"], env!("CARGO_PKG_VERSION"));
        number(out, &["threads"], self.workers.len() as u64);
        let shown = self.shown();
        let names = self.workers[0].all();
        for ((name, counts, _), (sum, before)) in
            names.iter().zip(self.sum().iter().zip(shown.before))
        {
            let value = if *counts { sum.wrapping_sub(before) } else { *sum };
            number(out, &[name], value);
        }
        for (name, backup, places) in
            [("servers_up", false, routes.servers()), ("backups_up", true, routes.backups())]
        {
            let named: HashSet<&Endpoint> =
                places.iter().flat_map(|p| &p.members).map(|member| &member.endpoint).collect();
            let up = |c: &&Column| c.is_among(backup, &named) && c.state().0 <= State::Cold as u64;
            number(out, &[name], shown.columns.iter().filter(up).count() as u64);
        }
    }

    /// The lines of `stats servers`, without an end: of every member of every place of `routes`, in
    /// order.
    pub fn servers(&self, out: &mut Vec<u8>, now: Now, routes: &Routes) {
        let shown = self.shown();
        for (role, backup, places) in
            [("server", false, routes.servers()), ("backup", true, routes.backups())]
        {
            for (n, place) in (1..).zip(places) {
                for (m, member) in (1..).zip(&place.members) {
                    let label = match place.members.len() {
                        1 => format!("{role}:{n}:"),
                        _ => format!("{role}:{n}.{m}:"),
                    };
                    line(out, &[&label, "name"], &member.to_string());
                    if let Some(label_of) = &member.name {
                        line(out, &[&label, "label"], label_of);
                    }
                    let is = |c: &&Column| c.backup == backup && c.endpoint == member.endpoint;
                    if let Some(column) = shown.columns.iter().find(is) {
                        column.show(out, now, &label);
                    }
                }
            }
        }
    }
}

fn add_up<const N: usize>(sum: &mut [u64; N], figures: [(&'static str, bool, u64); N]) {
    for (sum, (_, _, value)) in sum.iter_mut().zip(figures) {
        *sum = sum.wrapping_add(value);
    }
}

impl Column {
    fn is_among(&self, backup: bool, named: &HashSet<&Endpoint>) -> bool {
        self.backup == backup && named.contains(&self.endpoint)
    }

    fn sum(&self) -> [u64; SERVER_FIGURES] {
        let mut sum = [0u64; SERVER_FIGURES];
        for worker in &self.workers {
            add_up(&mut sum, worker.all());
        }
        sum
    }

    fn latency(&self) -> latency::Sum {
        let mut sum = latency::Sum::default();
        self.workers.iter().for_each(|server| sum.add(&server.latency));
        sum
    }

    /// The worst that any worker sees, and since when one does.
    fn state(&self) -> (u64, u64) {
        let worst = self.workers.iter().map(|server| server.seen() as u64).max().unwrap_or(0);
        let seen = self.workers.iter().filter(|server| server.seen() as u64 == worst);
        (worst, seen.map(|server| server.since.get()).min().unwrap_or(0))
    }

    fn show(&self, out: &mut Vec<u8>, now: Now, label: &str) {
        let (state, since) = self.state();
        let names = State::ALL.map(|(_, name)| name);
        line(out, &[label, "state"], names[state as usize % names.len()]);
        let secs = now.mono_us.saturating_sub(since) / 1_000_000;
        number(out, &[label, "state_seconds"], secs);
        let names = self.workers[0].all();
        for ((name, counts, _), (sum, before)) in
            names.iter().zip(self.sum().iter().zip(self.before))
        {
            let value = if *counts { sum.wrapping_sub(before) } else { *sum };
            number(out, &[label, name], value);
        }
        let mut latency = self.latency();
        latency.take_off(&self.latency_before);
        for (name, value) in latency.figures() {
            number(out, &[label, name], value);
        }
    }
}

#[cfg(test)]
mod tests;
