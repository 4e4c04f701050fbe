//! Names of peers to addresses, off the replication thread.
//!
//! Owns a helper thread for each name: a slow name server must not keep heartbeats waiting, nor the
//! name of one peer that of another. Addresses need no thread. Never caches: each try asks again.

use super::dial::ADDRESSES_MAX;
use crate::base::address::Address;
use crate::net::listen;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::Arc;

/// A peer of the command line with its port. What cannot be taken apart is taken as a name: the
/// command line has refused it before.
pub(super) fn peer(text: &str, default_port: u16) -> Address {
    let address = Address::parse(text).unwrap_or(Address { host: text.to_owned(), port: None });
    Address { port: address.port.or(Some(default_port)), ..address }
}

/// The addresses that a listening address of the command line stands for, without its port.
pub(super) fn local(listen: &str) -> io::Result<Vec<IpAddr>> {
    let found = listen::resolve(&peer(listen, 0), 0)?;
    Ok(found.into_iter().map(|address| address.ip()).collect())
}

/// What a lookup brought.
#[derive(Debug)]
pub(super) struct Answer {
    pub peer: usize,
    pub result: Result<Vec<SocketAddr>, String>,
}

/// The helper threads, each started at the first question about its name.
#[derive(Debug)]
pub(super) struct Resolver {
    waker: Arc<mio::Waker>,
    questions: BTreeMap<usize, Sender<Address>>,
    answers: (Sender<Answer>, Receiver<Answer>),
    /// Peers whose name is being looked up: one question per peer at a time.
    asked: Vec<usize>,
}

impl Resolver {
    pub fn new(waker: Arc<mio::Waker>) -> Resolver {
        let (questions, asked) = (BTreeMap::new(), Vec::new());
        Resolver { waker, questions, answers: mpsc::channel(), asked }
    }

    /// Asks for a peer's addresses; an address is answered by itself.
    pub fn ask(&mut self, peer: usize, address: &Address) -> Option<Answer> {
        if let Ok(ip) = address.host.parse::<IpAddr>() {
            let port = address.port.unwrap_or(0);
            return Some(Answer { peer, result: Ok(vec![SocketAddr::new(ip, port)]) });
        }
        if self.asked.contains(&peer) {
            return None;
        }
        let question = address.clone();
        match self.thread(peer).and_then(|to| to.send(question).map_err(io::Error::other)) {
            Ok(()) => {
                self.asked.push(peer);
                None
            }
            Err(error) => {
                self.questions.remove(&peer);
                Some(Answer { peer, result: Err(error.to_string()) })
            }
        }
    }

    /// The next answer that has come.
    pub fn answer(&mut self) -> Option<Answer> {
        let answer = self.answers.1.try_recv().ok()?;
        self.asked.retain(|&peer| peer != answer.peer);
        Some(answer)
    }

    fn thread(&mut self, peer: usize) -> io::Result<&Sender<Address>> {
        if !self.questions.contains_key(&peer) {
            let (to, from) = mpsc::channel::<Address>();
            let (answers, waker) = (self.answers.0.clone(), Arc::clone(&self.waker));
            // Ends when the replication thread, the only one who asks, is gone.
            std::thread::Builder::new().name("resolver".to_owned()).spawn(move || {
                while let Ok(address) = from.recv() {
                    let found = listen::resolve(&address, 0);
                    let result = match found {
                        Ok(found) => Ok(found.into_iter().take(ADDRESSES_MAX).collect()),
                        Err(error) => Err(error.to_string()),
                    };
                    if answers.send(Answer { peer, result }).is_err() || waker.wake().is_err() {
                        return;
                    }
                }
            })?;
            self.questions.insert(peer, to);
        }
        self.questions.get(&peer).ok_or_else(|| io::Error::other("no resolver"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_come_in_all_forms() {
        for (text, shown) in [
            ("127.0.0.1", "127.0.0.1:11212"),
            ("127.0.0.1:99", "127.0.0.1:99"),
            ("cache2", "cache2:11212"),
            ("cache2:99", "cache2:99"),
            ("::1", "[::1]:11212"),
            ("[::1]:99", "[::1]:99"),
        ] {
            assert_eq!(peer(text, 11212).to_string(), shown);
        }
        assert_eq!(local("127.0.0.1:11211").ok(), Some(vec![IpAddr::from([127, 0, 0, 1])]));
    }
}
