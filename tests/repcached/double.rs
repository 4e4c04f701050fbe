//! A double of repcached 2.3.1's replication, over real sockets.
//!
//! Owns what a repcached shows of itself on its replication port, its faults included: it connects
//! once, when it starts; it sends its copy as soon as it has accepted; it accepts one peer and does
//! not listen while that is linked; when a link ends it listens for ever; it answers nothing; where
//! it cannot take an item it runs the value as commands; flags over 31 bits it sends as negative
//! numbers. It serves no clients: tests do to it what clients would.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// Its `-I`, over all that it keeps of an item.
const ITEM_MAX: usize = 1 << 20;
/// What it keeps of an item beside key and value.
const ITEM_OVERHEAD: usize = 59 + 24;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub flags: u32,
    pub exptime: u64,
    pub value: Vec<u8>,
    pub cas: u64,
}

#[derive(Default)]
struct State {
    items: BTreeMap<String, Item>,
    cas: u64,
    link: Option<TcpStream>,
    log: Vec<String>,
    /// Lines that it did not know.
    unknown: Vec<String>,
    flushes: Vec<String>,
    serving: bool,
    stop: bool,
}

pub struct Double {
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("the double's state")
}

fn log(state: &Mutex<State>, line: &str) {
    lock(state).log.push(line.to_owned());
}

impl Double {
    /// One that finds nobody, and so listens on `port` and serves.
    pub fn alone(port: u16) -> Double {
        let state = Arc::new(Mutex::new(State { serving: true, ..State::default() }));
        Double::run(state, port, None)
    }

    /// One that is started against a peer. It will listen on `port` when that is lost.
    pub fn against(peer: u16, port: u16) -> Double {
        Double::run(Arc::default(), port, Some(peer))
    }

    fn run(state: Arc<Mutex<State>>, port: u16, peer: Option<u16>) -> Double {
        let its = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            if let Some(peer) = peer {
                log(&its, "connect");
                log(&its, "marugoto copying");
                if let Ok(stream) = TcpStream::connect(("127.0.0.1", peer)) {
                    linked(&its, stream, false);
                }
                log(&its, "close");
            }
            while !lock(&its).stop {
                if let Some(stream) = accept(&its, port) {
                    log(&its, "accept");
                    linked(&its, stream, true);
                    log(&its, "close");
                }
            }
        });
        Double { state, thread: Some(thread) }
    }

    fn say(&self, bytes: &[u8]) {
        if let Some(link) = &mut lock(&self.state).link {
            let _ = link.write_all(bytes);
        }
    }

    /// What a client's `set` does.
    pub fn set(&self, key: &str, flags: u32, exptime: u64, value: &[u8]) {
        let mut state = lock(&self.state);
        state.cas += 1;
        let item = Item { flags, exptime, value: value.to_vec(), cas: state.cas };
        let bytes = rep(key, &item);
        state.items.insert(key.to_owned(), item);
        drop(state);
        self.say(&bytes);
    }

    /// What a client's `delete` does, and an eviction.
    pub fn delete(&self, key: &str) {
        lock(&self.state).items.remove(key);
        self.say(format!("delete {key}\r\n").as_bytes());
    }

    /// What a client's `flush_all` does.
    pub fn flush_all(&self) {
        lock(&self.state).items.clear();
        self.say(b"flush_all \r\n");
    }

    /// `can't create Q_ITEM`: a burst was too much for its queue.
    pub fn overflow(&self) {
        if let Some(link) = &lock(&self.state).link {
            let _ = link.shutdown(Shutdown::Both);
        }
    }

    /// Says something else.
    pub fn mumble(&self, bytes: &str) {
        self.say(bytes.as_bytes());
    }

    pub fn get(&self, key: &str) -> Option<Item> {
        lock(&self.state).items.get(key).cloned()
    }

    pub fn value(&self, key: &str) -> Option<String> {
        self.get(key).map(|item| String::from_utf8_lossy(&item.value).into_owned())
    }

    pub fn len(&self) -> usize {
        lock(&self.state).items.len()
    }

    pub fn is_linked(&self) -> bool {
        lock(&self.state).link.is_some()
    }

    pub fn is_serving(&self) -> bool {
        lock(&self.state).serving
    }

    pub fn log(&self) -> Vec<String> {
        lock(&self.state).log.clone()
    }

    /// The lines of `flush_all` that it was sent, without their ends.
    pub fn flushes(&self) -> Vec<String> {
        lock(&self.state).flushes.clone()
    }

    /// Lines that it did not know, but for our opening line: values that it ran as commands.
    pub fn accidents(&self) -> Vec<String> {
        let state = lock(&self.state);
        let ours = |line: &&String| line.starts_with("twincached replication ");
        state.unknown.iter().filter(|line| !ours(line)).cloned().collect()
    }
}

impl Drop for Double {
    /// The end of its process.
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.stop = true;
        if let Some(link) = &state.link {
            let _ = link.shutdown(Shutdown::Both);
        }
        drop(state);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Waits for a peer, as long as it takes; does not listen any more behind that.
fn accept(state: &Mutex<State>, port: u16) -> Option<TcpStream> {
    let pause = || std::thread::sleep(Duration::from_millis(2));
    let mut listener = None;
    while !lock(state).stop {
        let Some(listening) = &listener else {
            // On a shared host the port may still be with the process before.
            listener = TcpListener::bind(("127.0.0.1", port)).ok();
            if let Some(listening) = &listener {
                listening.set_nonblocking(true).expect("nonblocking");
                log(state, "listen");
            }
            pause();
            continue;
        };
        if let Ok((stream, _)) = listening.accept() {
            stream.set_nonblocking(false).expect("blocking");
            return Some(stream);
        }
        pause();
    }
    None
}

/// A link, until it ends.
fn linked(state: &Mutex<State>, stream: TcpStream, copies: bool) {
    let mut writer = stream.try_clone().expect("a second handle");
    let mut held = lock(state);
    if held.stop {
        return;
    }
    if copies {
        // Under the lock: what clients change meanwhile comes behind it.
        let copy: Vec<u8> = held.items.iter().flat_map(|(key, item)| rep(key, item)).collect();
        let _ = writer.write_all(&copy);
        let _ = writer.write_all(b"marugoto_end\r\n");
    }
    held.link = Some(writer);
    drop(held);
    let mut reader = BufReader::new(stream);
    while hear(state, &mut reader).is_some() {}
    lock(state).link = None;
}

fn rep(key: &str, item: &Item) -> Vec<u8> {
    let Item { flags, exptime, value, cas } = item;
    let (flags, cas) = (*flags as i32, *cas as u32);
    let line = format!("rep {key} {flags} {exptime} {} {cas}\r\n", value.len());
    [line.as_bytes(), value, b"\r\n"].concat()
}

/// Reads one line, with its value. `None`: the link is over.
fn hear(state: &Mutex<State>, reader: &mut impl BufRead) -> Option<()> {
    let mut line = Vec::new();
    reader.read_until(b'\n', &mut line).ok().filter(|&n| n > 0)?;
    let line = String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned();
    let words: Vec<&str> = line.split(' ').filter(|word| !word.is_empty()).collect();
    match words[..] {
        ["rep", key, flags, exptime, len, cas] => {
            let parsed = (flags.parse(), exptime.parse(), len.parse::<usize>(), cas.parse());
            let (Ok(flags), Ok(exptime), Ok(len), Ok(cas)) = parsed else {
                // The value is next, and will be taken for lines.
                lock(state).unknown.push(line);
                return Some(());
            };
            if key.len() > 250 || key.len() + len + ITEM_OVERHEAD > ITEM_MAX {
                lock(state).unknown.push(line);
                return Some(());
            }
            let mut value = vec![0; len + 2];
            reader.read_exact(&mut value).ok()?;
            assert!(value.ends_with(b"\r\n"), "bad data chunk for {key}");
            value.truncate(len);
            let item = Item { flags, exptime, value, cas };
            lock(state).items.insert(key.to_owned(), item);
        }
        ["delete", key] => {
            lock(state).items.remove(key);
        }
        ["flush_all"] => {
            let mut state = lock(state);
            state.items.clear();
            state.flushes.push(line);
        }
        ["flush_all", _] => lock(state).flushes.push(line),
        ["marugoto_end"] => {
            lock(state).serving = true;
            log(state, "start");
        }
        _ => lock(state).unknown.push(line),
    }
    Some(())
}
