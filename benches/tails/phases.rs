//! What is done to one server, phase by phase, and what clients waited meanwhile.
//!
//! Owns the sets of each phase. A new probe waits through each.

use crate::common::client::Client;
use crate::common::probe::{Probe, Waits};
use crate::common::requests::{key, Batch};
use crate::common::server::Server;
use crate::options::Options;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Connections that set.
const CONNECTIONS: usize = 8;
/// Sets whose bytes are made at once.
const PORTION: u64 = 20_000;
/// Keys that the probes ask for.
const PROBED: u64 = 1000;
/// How long nothing happens, at the start and after `flush_all`.
const QUIET: Duration = Duration::from_secs(4);
/// How long expired items may stay, and how long they are waited for.
const EXPIRED_WAIT: Duration = Duration::from_secs(20);
/// Items that live and expire are this part of those of the fill, and set so many seconds before.
const EXPIRING_SHARE: u64 = 4;
const EXPIRING_SECS: u64 = 30;

/// One phase.
pub struct Phase {
    pub name: &'static str,
    /// Seconds that it took.
    pub seconds: f64,
    /// What clients waited.
    pub waits: Waits,
    /// Resident MiB at its end.
    pub resident: f64,
    /// Evictions by then.
    pub evictions: u64,
}

/// All phases, of one server.
pub fn run(command: &str, options: &Options) -> Result<Vec<Phase>, String> {
    let server = Server::start(command, options.memory_mb, options.threads)?;
    let mut one = One { server, options, client: None, set: PROBED, phases: Vec::new() };
    one.client = Some(Client::connect_times(one.server.port, CONNECTIONS)?);
    one.sets(0, PROBED, |_| 0)?;
    let items = options.items;
    one.phase("idle", |_| quiet())?;
    one.phase("fill", |one| one.more(items, |_| 0))?;
    one.phase("flush_all", |one| {
        ask(one.server.port, b"flush_all\r\n")?;
        quiet()
    })?;
    one.phase("refill", |one| one.more(items, |_| 0))?;
    one.phase("storm", |one| one.more(items, |_| 0))?;
    one.expire()?;
    Ok(one.phases)
}

struct One<'o> {
    server: Server,
    options: &'o Options,
    client: Option<Client>,
    /// Keys that were set so far.
    set: u64,
    phases: Vec<Phase>,
}

impl One<'_> {
    /// Runs a phase while a probe waits.
    fn phase(
        &mut self,
        name: &'static str,
        run: impl FnOnce(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        eprint!("{name} ");
        let probe = Probe::start(self.server.port, PROBED);
        let began = Instant::now();
        run(self)?;
        let (seconds, waits) = (began.elapsed().as_secs_f64(), probe.stop()?);
        let resident = self.server.resident()? as f64 / f64::from(1 << 20);
        let evictions = self.server.stat("evictions")?;
        eprintln!("{seconds:.1} s: {}", waits.line());
        self.phases.push(Phase { name, seconds, waits, resident, evictions });
        Ok(())
    }

    /// Sets keys that were never set before.
    fn more(&mut self, count: u64, exptime: impl Fn(u64) -> u64) -> Result<(), String> {
        let from = self.set;
        self.set += count;
        self.sets(from, from + count, exptime)
    }

    fn sets(&mut self, from: u64, to: u64, exptime: impl Fn(u64) -> u64) -> Result<(), String> {
        let client = self.client.as_mut().ok_or("no client")?;
        for first in (from..to).step_by(PORTION as usize) {
            let last = (first + PORTION).min(to);
            let batch = |first: u64| {
                let mut batch = Batch::default();
                for n in first..(first + self.options.pipelined).min(last) {
                    batch.push_set_of(&key(n), n, self.options.value, exptime(n));
                }
                batch
            };
            let batches: Vec<Batch> =
                (first..last).step_by(self.options.pipelined as usize).map(batch).collect();
            client.run(batches.iter(), batches.len())?;
        }
        Ok(())
    }

    /// Every other item expires, and nobody asks for any.
    fn expire(&mut self) -> Result<(), String> {
        ask(self.server.port, b"flush_all\r\n")?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|e| e.to_string())?;
        let at = now.as_secs() + EXPIRING_SECS;
        let due = Instant::now() + Duration::from_secs(EXPIRING_SECS)
            - Duration::from_nanos(u64::from(now.subsec_nanos()));
        let count = self.options.items / EXPIRING_SHARE;
        self.phase("half to expire", |one| {
            one.more(count, |n| at * (n % 2))?;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            Ok(())
        })?;
        let left = count / 2 + count / 50 + PROBED;
        self.phase("expire", |one| {
            let began = Instant::now();
            while began.elapsed() < EXPIRED_WAIT && one.server.stat("curr_items")? > left {
                std::thread::sleep(Duration::from_millis(100));
            }
            Ok(())
        })
    }
}

fn quiet() -> Result<(), String> {
    std::thread::sleep(QUIET);
    Ok(())
}

/// Sends a line and waits for the answer's.
fn ask(port: u16, line: &[u8]) -> Result<(), String> {
    let context = |error: std::io::Error| format!("flush_all: {error}");
    let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(context)?;
    stream.write_all(line).map_err(context)?;
    BufReader::new(stream).read_line(&mut String::new()).map_err(context)?;
    Ok(())
}
