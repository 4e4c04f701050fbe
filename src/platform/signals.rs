//! Signals as readable events of a poll.
//!
//! Owns which signals a server takes, and the socket pair that a handler writes to. Never acts on
//! one.

use std::io;

use mio::event::Source;
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

/// What was asked of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGINT: stop now.
    Interrupt,
    /// SIGTERM: stop now.
    Terminate,
    /// SIGUSR1: stop when the clients are done.
    Graceful,
    /// SIGHUP: open the log file again.
    Hangup,
}

impl Signal {
    /// Its number, as in repcached's `got signal 15`.
    pub fn number(self) -> i32 {
        match self {
            Signal::Interrupt => SIGINT,
            Signal::Terminate => SIGTERM,
            Signal::Graceful => SIGUSR1,
            Signal::Hangup => SIGHUP,
        }
    }
}

/// Readable in a poll when a signal has arrived.
pub struct Signals {
    delivery: SignalDelivery<UnixStream, SignalOnly>,
}

impl Signals {
    /// Takes SIGINT, SIGTERM, SIGUSR1 and SIGHUP from now on. SIGPIPE is ignored since the start of
    /// every Rust program: a write to a closed socket is an error of that write. Once a process,
    /// after daemonizing.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn new() -> io::Result<Signals> {
        let (read, write) = UnixStream::pair()?;
        let delivery =
            SignalDelivery::with_pipe(read, write, SignalOnly, [SIGINT, SIGTERM, SIGUSR1, SIGHUP])?;
        Ok(Signals { delivery })
    }

    /// What has arrived since the last call, each at most once. Empties the pipe, so an
    /// edge-triggered poll tells of the next one.
    pub fn pending(&mut self) -> Vec<Signal> {
        self.delivery
            .pending()
            .filter_map(|number| match number {
                SIGINT => Some(Signal::Interrupt),
                SIGTERM => Some(Signal::Terminate),
                SIGUSR1 => Some(Signal::Graceful),
                SIGHUP => Some(Signal::Hangup),
                _ => None,
            })
            .collect()
    }
}

impl Source for Signals {
    fn register(&mut self, r: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.delivery.get_read_mut().register(r, token, interests)
    }

    fn reregister(&mut self, r: &Registry, token: Token, interests: Interest) -> io::Result<()> {
        self.delivery.get_read_mut().reregister(r, token, interests)
    }

    fn deregister(&mut self, r: &Registry) -> io::Result<()> {
        self.delivery.get_read_mut().deregister(r)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mio::{Events, Poll};
    use std::time::Duration;

    #[test]
    fn a_signal_wakes_the_poll() {
        let mut signals = Signals::new().unwrap();
        let mut poll = Poll::new().unwrap();
        poll.registry().register(&mut signals, Token(1), Interest::READABLE).unwrap();
        for expected in [Signal::Graceful, Signal::Hangup] {
            signal_hook::low_level::raise(expected.number()).unwrap();
            let mut events = Events::with_capacity(4);
            poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
            assert!(!events.is_empty(), "no event for {expected:?}");
            assert_eq!(signals.pending(), [expected]);
        }
        assert_eq!(signals.pending(), []);
    }
}
