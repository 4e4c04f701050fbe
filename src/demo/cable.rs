//! A network cable on loopback that can be cut and mended.
//!
//! Owns a listening port and the connections that it forwards to another port. For demonstrations
//! and tests of links that break while both nodes live; never part of a server.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Bytes moved at once.
const CHUNK: usize = 16 * 1024;

/// A cable from a port of its own to another port. Its threads end with the process.
pub struct Cable {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    cut: AtomicBool,
    silent: AtomicBool,
    ends: Mutex<Vec<TcpStream>>,
    carried: AtomicU64,
}

impl State {
    fn ends(&self) -> MutexGuard<'_, Vec<TcpStream>> {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cable {
    /// A cable to `127.0.0.1:target`. Nobody needs to listen there yet.
    ///
    /// # Errors
    /// No port or no thread is left.
    pub fn to(target: u16) -> io::Result<Cable> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        thread::Builder::new().name("cable".into()).spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.cut.load(Ordering::SeqCst) {
                    continue; // dropped, and so closed
                }
                if let Ok(server) = TcpStream::connect(("127.0.0.1", target)) {
                    // A connection that cannot be carried is closed by its drop.
                    let _ = plug(client, server, &shared);
                }
            }
        })?;
        Ok(Cable { port, state })
    }

    /// Where to connect.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Closes what is connected; what comes is closed at once.
    pub fn cut(&self) {
        self.state.cut.store(true, Ordering::SeqCst);
        for end in self.state.ends().drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    /// Swallows all bytes without closing anything, as a packet filter would.
    pub fn hush(&self) {
        self.state.silent.store(true, Ordering::SeqCst);
    }

    /// Undoes [`Cable::cut`] and [`Cable::hush`] for what comes.
    pub fn mend(&self) {
        self.state.silent.store(false, Ordering::SeqCst);
        self.state.cut.store(false, Ordering::SeqCst);
    }

    /// Bytes carried so far, both ways.
    pub fn carried(&self) -> u64 {
        self.state.carried.load(Ordering::SeqCst)
    }
}

/// Carries both directions of one connection, a thread each.
fn plug(client: TcpStream, server: TcpStream, state: &Arc<State>) -> io::Result<()> {
    for (from, to) in [(&client, &server), (&server, &client)] {
        from.set_nodelay(true)?;
        let (from, to) = (from.try_clone()?, to.try_clone()?);
        let state = Arc::clone(state);
        thread::Builder::new().name("cable".into()).spawn(move || carry(from, to, &state))?;
    }
    let mut ends = state.ends();
    ends.push(client);
    ends.push(server);
    drop(ends);
    if state.cut.load(Ordering::SeqCst) {
        for end in state.ends().drain(..) {
            let _ = end.shutdown(Shutdown::Both);
        }
    }
    Ok(())
}

fn carry(mut from: TcpStream, mut to: TcpStream, state: &State) {
    let mut bytes = vec![0; CHUNK];
    while let Ok(n) = from.read(&mut bytes) {
        if n == 0 {
            break;
        }
        if state.silent.load(Ordering::SeqCst) {
            continue;
        }
        state.carried.fetch_add(n as u64, Ordering::SeqCst);
        if to.write_all(&bytes[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
