//! Names of peers to addresses, off the replication thread.
//!
//! Owns the parsing of `host:port` and one helper thread for names: a slow name server must not
//! keep heartbeats waiting. Addresses need no thread. Never caches: each try asks again.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::Arc;

/// Most addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;

/// Splits `host`, `host:port`, an address, or `[v6]:port`.
pub(super) fn split(peer: &str, default_port: u16) -> (String, u16) {
    if let Ok(address) = peer.parse::<SocketAddr>() {
        return (address.ip().to_string(), address.port());
    }
    let bare = peer.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(peer);
    if bare.parse::<IpAddr>().is_ok() {
        return (bare.to_owned(), default_port);
    }
    if let Some((host, port)) = peer.rsplit_once(':') {
        if let Ok(port) = port.parse() {
            return (host.to_owned(), port);
        }
    }
    (peer.to_owned(), default_port)
}

/// `host:port` for the log, with brackets where they are needed.
pub(super) fn join(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// The addresses that a listening address of the command line stands for.
pub(super) fn local(listen: &str) -> io::Result<Vec<IpAddr>> {
    let (host, _) = split(listen, 0);
    if let Ok(ip) = host.parse() {
        return Ok(vec![ip]);
    }
    Ok((host.as_str(), 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

/// What a lookup brought.
#[derive(Debug)]
pub(super) struct Answer {
    pub peer: usize,
    pub result: Result<Vec<SocketAddr>, String>,
}

/// The helper thread, started at the first name.
#[derive(Debug)]
pub(super) struct Resolver {
    waker: Arc<mio::Waker>,
    questions: Option<Sender<(usize, String, u16)>>,
    answers: (Sender<Answer>, Receiver<Answer>),
    /// Peers whose name is being looked up: one question per peer at a time.
    asked: Vec<usize>,
}

impl Resolver {
    pub fn new(waker: Arc<mio::Waker>) -> Resolver {
        Resolver { waker, questions: None, answers: mpsc::channel(), asked: Vec::new() }
    }

    /// Asks for a peer's addresses; an address is answered by itself.
    pub fn ask(&mut self, peer: usize, host: &str, port: u16) -> Option<Answer> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Some(Answer { peer, result: Ok(vec![SocketAddr::new(ip, port)]) });
        }
        if self.asked.contains(&peer) {
            return None;
        }
        let question = (peer, host.to_owned(), port);
        match self.questions().and_then(|to| to.send(question).map_err(io::Error::other)) {
            Ok(()) => {
                self.asked.push(peer);
                None
            }
            Err(error) => {
                self.questions = None;
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

    fn questions(&mut self) -> io::Result<&Sender<(usize, String, u16)>> {
        if self.questions.is_none() {
            let (to, from) = mpsc::channel::<(usize, String, u16)>();
            let (answers, waker) = (self.answers.0.clone(), Arc::clone(&self.waker));
            // Ends when the replication thread, the only one who asks, is gone.
            std::thread::Builder::new().name("resolver".to_owned()).spawn(move || {
                while let Ok((peer, host, port)) = from.recv() {
                    let found = (host.as_str(), port).to_socket_addrs();
                    let result = match found {
                        Ok(found) => Ok(found.take(ADDRESSES_MAX).collect()),
                        Err(error) => Err(error.to_string()),
                    };
                    if answers.send(Answer { peer, result }).is_err() || waker.wake().is_err() {
                        return;
                    }
                }
            })?;
            self.questions = Some(to);
        }
        self.questions.as_ref().ok_or_else(|| io::Error::other("no resolver"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_come_in_all_forms() {
        for (peer, host, port) in [
            ("127.0.0.1", "127.0.0.1", 11212),
            ("127.0.0.1:99", "127.0.0.1", 99),
            ("cache2", "cache2", 11212),
            ("cache2:99", "cache2", 99),
            ("::1", "::1", 11212),
            ("[::1]", "::1", 11212),
            ("[::1]:99", "::1", 99),
        ] {
            assert_eq!(split(peer, 11212), (host.to_owned(), port), "{peer}");
        }
        assert_eq!(join("::1", 9), "[::1]:9");
        assert_eq!(join("a", 9), "a:9");
    }
}
