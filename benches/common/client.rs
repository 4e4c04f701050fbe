//! The load generator: one thread, one poll, many connections.
//!
//! Owns its sockets. A connection has one batch under way; its reply is counted, not parsed, and
//! its end is compared. Never allocates while it runs.

use super::requests::Batch;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Connections of one run.
pub const CONNECTIONS: usize = 50;
/// A run without any answer for so long has failed.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// How often a paced run sends.
const TICK: Duration = Duration::from_millis(1);
/// Bytes read at once.
const READ: usize = 256 * 1024;
/// The longest end of a reply that is compared.
const END_MAX: usize = 8;

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Requests answered.
    pub requests: u64,
    /// Seconds from the first to the last.
    pub wall: Duration,
    /// Latency of each batch, in nanoseconds, sorted.
    pub latencies: Vec<u64>,
}

impl Outcome {
    /// The latency that this share of all batches did not exceed.
    pub fn percentile(&self, share: f64) -> u64 {
        let at = (self.latencies.len() as f64 * share) as usize;
        self.latencies.get(at.min(self.latencies.len().saturating_sub(1))).copied().unwrap_or(0)
    }
}

struct Connection<'b> {
    stream: TcpStream,
    batch: Option<&'b Batch>,
    written: usize,
    received: usize,
    /// The last bytes received.
    end: [u8; END_MAX],
    began: Instant,
}

/// A set of open connections to one server.
pub struct Client {
    poll: Poll,
    events: Events,
    streams: Vec<TcpStream>,
    buffer: Vec<u8>,
}

impl Client {
    /// Connects to 127.0.0.1:`port`, [`CONNECTIONS`] times.
    pub fn connect(port: u16) -> Result<Client, String> {
        Client::connect_times(port, CONNECTIONS)
    }

    /// Connects to 127.0.0.1:`port` so many times.
    pub fn connect_times(port: u16, times: usize) -> Result<Client, String> {
        let context = |error: std::io::Error| format!("connect: {error}");
        let poll = Poll::new().map_err(context)?;
        let mut streams = Vec::new();
        for index in 0..times {
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            let stream = std::net::TcpStream::connect(address).map_err(context)?;
            stream.set_nodelay(true).map_err(context)?;
            stream.set_nonblocking(true).map_err(context)?;
            let mut stream = TcpStream::from_std(stream);
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut stream, Token(index), interest).map_err(context)?;
            streams.push(stream);
        }
        let events = Events::with_capacity(times * 2);
        Ok(Client { poll, events, streams, buffer: vec![0; READ] })
    }

    /// Sends `batches` as fast as they are answered, each connection the next one when it is free.
    pub fn run<'b>(
        &mut self,
        mut batches: impl Iterator<Item = &'b Batch>,
        expected: usize,
    ) -> Result<Outcome, String> {
        let mut run = Run::new(std::mem::take(&mut self.streams), expected);
        for index in 0..run.connections.len() {
            let Some(batch) = batches.next() else { break };
            run.start(index, batch, Instant::now())?;
        }
        while run.busy > 0 {
            self.wait(SILENCE_MAX)?;
            if self.events.is_empty() {
                return Err(format!("no answer in {SILENCE_MAX:?}"));
            }
            for event in &self.events {
                if run.go_on(event.token().0, &mut self.buffer)? {
                    if let Some(batch) = batches.next() {
                        run.start(event.token().0, batch, Instant::now())?;
                    }
                }
            }
        }
        let (outcome, streams) = run.finish();
        self.streams = streams;
        Ok(outcome)
    }

    /// Sends `per_second` batches a second, whether or not the earlier ones are answered: a batch
    /// that finds no free connection waits, and its latency counts from when it was due.
    pub fn run_paced<'b>(
        &mut self,
        mut batches: impl Iterator<Item = &'b Batch>,
        expected: usize,
        per_second: f64,
    ) -> Result<Outcome, String> {
        let mut run = Run::new(std::mem::take(&mut self.streams), expected);
        let mut free: Vec<usize> = (0..run.connections.len()).collect();
        let began = Instant::now();
        let mut sent = 0u64;
        let mut next = batches.next();
        while next.is_some() || run.busy > 0 {
            let due = (began.elapsed().as_secs_f64() * per_second) as u64;
            while sent < due {
                let (Some(batch), Some(&index)) = (next, free.last()) else { break };
                let when = began + Duration::from_secs_f64(sent as f64 / per_second);
                // Batches go out in ticks; one that is due within this tick is not late.
                let late = when.elapsed() > TICK * 2;
                run.start(index, batch, if late { when } else { Instant::now() })?;
                free.pop();
                sent += 1;
                next = batches.next();
            }
            self.wait(TICK)?;
            for event in &self.events {
                if run.go_on(event.token().0, &mut self.buffer)? {
                    free.push(event.token().0);
                }
            }
            if began.elapsed().as_secs_f64() > expected as f64 / per_second + 30.0 {
                return Err("the server does not keep up with the rate".to_owned());
            }
        }
        let (outcome, streams) = run.finish();
        self.streams = streams;
        Ok(outcome)
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), String> {
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(format!("poll: {error}")),
        }
    }
}

struct Run<'b> {
    connections: Vec<Connection<'b>>,
    busy: usize,
    requests: u64,
    latencies: Vec<u64>,
    began: Instant,
}

impl<'b> Run<'b> {
    fn new(streams: Vec<TcpStream>, expected: usize) -> Run<'b> {
        let began = Instant::now();
        let connection = |stream| Connection {
            stream,
            batch: None,
            written: 0,
            received: 0,
            end: [0; END_MAX],
            began,
        };
        let connections = streams.into_iter().map(connection).collect();
        Run { connections, busy: 0, requests: 0, latencies: Vec::with_capacity(expected), began }
    }

    fn start(&mut self, index: usize, batch: &'b Batch, when: Instant) -> Result<(), String> {
        let connection = &mut self.connections[index];
        connection.batch = Some(batch);
        connection.written = 0;
        connection.received = 0;
        connection.began = when;
        self.busy += 1;
        connection.write()
    }

    /// Moves a connection on; true when its batch has just been answered.
    fn go_on(&mut self, index: usize, buffer: &mut [u8]) -> Result<bool, String> {
        let connection = &mut self.connections[index];
        let Some(batch) = connection.batch else { return Ok(false) };
        if connection.written < batch.bytes.len() {
            connection.write()?;
        }
        if !connection.read(batch, buffer)? {
            return Ok(false);
        }
        let latency = connection.began.elapsed();
        connection.batch = None;
        self.busy -= 1;
        self.requests += batch.requests;
        self.latencies.push(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
        Ok(true)
    }

    fn finish(mut self) -> (Outcome, Vec<TcpStream>) {
        self.latencies.sort_unstable();
        let wall = self.began.elapsed();
        let outcome = Outcome { requests: self.requests, wall, latencies: self.latencies };
        (outcome, self.connections.into_iter().map(|connection| connection.stream).collect())
    }
}

impl Connection<'_> {
    fn write(&mut self) -> Result<(), String> {
        let Some(batch) = self.batch else { return Ok(()) };
        while self.written < batch.bytes.len() {
            match self.stream.write(&batch.bytes[self.written..]) {
                Ok(n) => self.written += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("write: {error}")),
            }
        }
        Ok(())
    }

    /// Reads what is there; true when the whole reply has come.
    fn read(&mut self, batch: &Batch, buffer: &mut [u8]) -> Result<bool, String> {
        while self.received < batch.reply_len {
            let n = match self.stream.read(buffer) {
                Ok(0) => return Err("the server closed a connection".to_owned()),
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(format!("read: {error}")),
            };
            let new = &buffer[n.saturating_sub(END_MAX)..n];
            self.end.rotate_left(new.len());
            self.end[END_MAX - new.len()..].copy_from_slice(new);
            self.received += n;
            if self.received < batch.reply_len && n < buffer.len() {
                // A short read has drained the socket: the next byte comes with an event.
                return Ok(false);
            }
        }
        if self.received > batch.reply_len || !self.end.ends_with(batch.reply_end) {
            return Err(format!(
                "not the expected answer: {} bytes instead of {}, ending \"{}\"",
                self.received,
                batch.reply_len,
                self.end.escape_ascii()
            ));
        }
        Ok(true)
    }
}
