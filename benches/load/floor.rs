//! The floor: what the kernel takes for the same bytes, whatever a server does with them.
//!
//! A bare loop: wait, read, write. It looks at the first byte of a batch, counts as many bytes as a
//! batch of that kind has, and answers with canned ones. No server on epoll can be cheaper by much.
//! The bench starts itself with [`ARGUMENT`], so that the floor is a process like the others.

use crate::common::requests::Batch;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::mpsc::{channel, Receiver};

/// What the bench's own program is told, before port, threads and rules, to be the floor.
pub const ARGUMENT: &str = "--floor";
/// Bytes read at once.
const READ: usize = 256 * 1024;
/// Events taken at once.
const EVENTS: usize = 64;

/// For the first byte of a batch: how long the batch is, and its answer.
#[derive(Clone, Default)]
struct Rule {
    request: usize,
    reply: Vec<u8>,
}

/// The command of a floor for these batches, as [`crate::common::server::Server`] wants it. All
/// batches that begin with the same byte have one length.
pub fn command(batches: &[Batch]) -> Result<String, String> {
    let program = std::env::current_exe().map_err(|error| format!("own program: {error}"))?;
    let mut rules = BTreeMap::new();
    for batch in batches {
        let end = String::from_utf8_lossy(batch.reply_end);
        let rule =
            format!("{}:{}:{}:{}", batch.bytes[0], batch.bytes.len(), batch.reply_len, end.trim());
        if *rules.entry(batch.bytes[0]).or_insert_with(|| rule.clone()) != rule {
            return Err("batches of one kind have several lengths".to_owned());
        }
    }
    let rules: Vec<String> = rules.into_values().collect();
    Ok(format!("{} {ARGUMENT} {{port}} {{t}} {}", program.display(), rules.join(" ")))
}

/// Serves until it is killed.
pub fn serve(args: &[String]) -> Result<(), String> {
    let number = |text: &str| text.parse::<usize>().map_err(|error| format!("{text}: {error}"));
    let [port, threads, given @ ..] = args else { return Err("port, threads, rules".to_owned()) };
    let mut rules = vec![Rule::default(); 256];
    for rule in given {
        let parts: Vec<&str> = rule.split(':').collect();
        let [first, request, reply, end] = parts[..] else { return Err(format!("rule {rule}")) };
        let mut answer = vec![b'x'; number(reply)? - end.len() - 2];
        answer.extend_from_slice(format!("{end}\r\n").as_bytes());
        rules[number(first)? % 256] = Rule { request: number(request)?, reply: answer };
    }
    accept(number(port)?, number(threads)?.max(1), &rules).map_err(|error| error.to_string())
}

/// Hands connections out to threads in turns. A connection's token is its place among its thread's.
fn accept(port: usize, threads: usize, rules: &[Rule]) -> io::Result<()> {
    let mut workers = Vec::new();
    for _ in 0..threads {
        let (poll, (to, from), rules) = (Poll::new()?, channel(), rules.to_vec());
        workers.push((poll.registry().try_clone()?, to));
        std::thread::spawn(move || work(poll, &from, &rules));
    }
    let listener = std::net::TcpListener::bind(("127.0.0.1", port as u16))?;
    for (count, stream) in listener.incoming().enumerate() {
        let stream = stream?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let mut stream = TcpStream::from_std(stream);
        let (registry, to) = &workers[count % threads];
        let both = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut stream, Token(count / threads), both)?;
        to.send(stream).map_err(|_| io::ErrorKind::BrokenPipe)?;
    }
    Ok(())
}

struct Connection {
    stream: TcpStream,
    rule: usize,
    /// Bytes of the present batch that have come, and of its answer that are still to be written.
    got: usize,
    owed: usize,
}

fn work(mut poll: Poll, incoming: &Receiver<TcpStream>, rules: &[Rule]) -> io::Result<()> {
    let (mut events, mut buffer) = (Events::with_capacity(EVENTS), vec![0; READ]);
    let mut connections: Vec<Connection> = Vec::new();
    loop {
        poll.poll(&mut events, None)?;
        for event in &events {
            while connections.len() <= event.token().0 {
                let Ok(stream) = incoming.recv() else { return Ok(()) };
                connections.push(Connection { stream, rule: 0, got: 0, owed: 0 });
            }
            // An error is a client that has gone, or that will try again at the next event.
            let _ = connections[event.token().0].go_on(rules, &mut buffer);
        }
    }
}

impl Connection {
    fn go_on(&mut self, rules: &[Rule], buffer: &mut [u8]) -> io::Result<()> {
        self.write(rules)?;
        loop {
            let n = self.stream.read(buffer)?;
            if self.got == 0 && n > 0 {
                self.rule = usize::from(buffer[0]);
            }
            self.got += n;
            if n > 0 && self.got >= rules[self.rule].request {
                self.got = 0;
                self.owed = rules[self.rule].reply.len();
                self.write(rules)?;
            }
            if n < buffer.len() {
                return Ok(());
            }
        }
    }

    fn write(&mut self, rules: &[Rule]) -> io::Result<()> {
        while self.owed > 0 {
            let reply = &rules[self.rule].reply;
            self.owed -= self.stream.write(&reply[reply.len() - self.owed..])?;
        }
        Ok(())
    }
}
