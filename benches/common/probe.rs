//! Clients that ask now and then and note how long each answer takes.
//!
//! Owns one thread and its connections. Never sends as fast as it can: it is there to wait, not to
//! load. An answer that is late makes the next request late: what that one waits counts from when
//! it was due.

use super::requests::Batch;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Connections that take turns, so that every worker is asked.
const CONNECTIONS: usize = 8;
/// Length of the values that it sets.
const VALUE_LEN: usize = 100;
/// A request is due so long after the one before: one at a time has to keep up beside clients that
/// leave no processor idle, or it would wait for itself.
const PAUSE: Duration = Duration::from_millis(1);
/// An answer that takes longer ends the bench.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// Requests whose times are kept at most: minutes of them.
const KEPT_MAX: usize = 2_000_000;

/// A running probe.
pub struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<u64>, String>>,
}

/// What clients waited, in nanoseconds, sorted.
pub struct Waits(Vec<u64>);

impl Waits {
    /// What this share of all requests did not exceed, in milliseconds.
    pub fn ms(&self, share: f64) -> f64 {
        let at = ((self.0.len() as f64 * share) as usize).min(self.0.len().saturating_sub(1));
        self.0.get(at).copied().unwrap_or(0) as f64 / 1e6
    }

    /// One line: percentiles and the longest.
    pub fn line(&self) -> String {
        let [p50, p99, p999, most] = [0.5, 0.99, 0.999, 1.0].map(|share| self.ms(share));
        let count = self.0.len();
        format!("p50 {p50:6.2}  p99 {p99:6.2}  p99.9 {p999:6.2}  max {most:6.2} ms  ({count})")
    }

    /// Both together.
    pub fn with(mut self, others: Option<Waits>) -> Waits {
        self.0.extend(others.into_iter().flat_map(|others| others.0));
        self.0.sort_unstable();
        self
    }
}

impl Probe {
    /// Starts to ask the server on 127.0.0.1:`port` for keys below `keys`: three gets and a set in
    /// turns.
    pub fn start(port: u16, keys: u64) -> Probe {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            run(port, keys, &until).map_err(|error| format!("a waiting client: {error}"))
        });
        Probe { stop, thread }
    }

    /// Ends it and hands out what it saw.
    pub fn stop(self) -> Result<Waits, String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut waits =
            self.thread.join().map_err(|_| "a waiting client panicked".to_owned())??;
        waits.sort_unstable();
        Ok(Waits(waits))
    }
}

fn run(port: u16, keys: u64, stop: &AtomicBool) -> std::io::Result<Vec<u64>> {
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        streams.push(stream);
    }
    let (mut waits, mut answer) = (Vec::new(), [0; 4096]);
    let (mut n, mut due) = (0u64, Instant::now());
    while !stop.load(Ordering::Relaxed) && waits.len() < KEPT_MAX {
        n += 1;
        let mut batch = Batch::default();
        let key = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % keys.max(1);
        match n % 4 {
            0 => batch.push_set(key, VALUE_LEN),
            _ => batch.push_get(std::iter::once(key), VALUE_LEN),
        }
        let stream = &mut streams[n as usize % CONNECTIONS];
        due += PAUSE;
        let early = due.saturating_duration_since(Instant::now());
        let began = match early.is_zero() {
            true => due,
            false => {
                std::thread::sleep(early);
                Instant::now()
            }
        };
        stream.write_all(&batch.bytes)?;
        let mut got = 0;
        while !answer[..got].ends_with(batch.reply_end) {
            match stream.read(&mut answer[got..])? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                more => got += more,
            }
        }
        waits.push(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(waits)
}
