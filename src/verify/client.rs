//! One node, as a client that only asks for statistics sees it.
//!
//! Owns the connection, both dialects of it, and the login. Knows nothing of what the statistics
//! mean. Blocks, for no longer than it was told to; a message names the node it is about.
//!
//! Speaks text first. A node that hangs up on that without a word (`-S`, `-B binary`) is asked
//! again in packets. Names its user only when the node wants one: a login of the text protocol is a
//! `set`, which a node without users would store.

use std::fmt::Display;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::Path;
use std::time::Duration;

use crate::base::address::Address;

/// Default of a node's port, memcached's.
const DEFAULT_PORT: u16 = 11211;
/// Longest line of an answer: a percent-encoded key and six numbers are far below.
const LINE_MAX: u64 = 4096;
/// Longest packet of an answer.
const BODY_MAX: usize = 64 * 1024;
/// Longest command line of text: a server takes 2048 bytes.
const TEXT_ROOM: usize = 2000;
/// Longest key of a packet, which is what `stats ` has behind it.
const PACKET_KEY: usize = 250;
/// Commands that are sent before their answers are read: with [`TEXT_ROOM`] less than any socket
/// takes in, so that neither side waits for the other.
const WINDOW: usize = 8;
/// Bytes read at once.
const BUFFER: usize = 256 * 1024;
/// Longest file of a user and a password that is read.
const LOGIN_MAX: u64 = 4096;

/// The header of a packet.
const HEADER: usize = 24;
const STAT: u8 = 0x10;
const SASL_AUTH: u8 = 0x21;
/// Status of a packet: who are you?
const AUTH_ERROR: u16 = 0x20;

/// memcached's words to a client that has not logged in.
const UNAUTHENTICATED: &[u8] = b"CLIENT_ERROR unauthenticated";

/// A user and a password.
#[derive(Clone)]
pub(super) struct Login {
    user: String,
    password: String,
}

impl Login {
    /// Reads the first line of a file, as a server's `-Y` has it: `user:password`.
    ///
    /// # Errors
    /// It cannot be read, or is not of that form.
    pub fn read(path: &Path) -> Result<Login, String> {
        let name = path.display();
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(LOGIN_MAX).read_to_string(&mut text))
            .map_err(|error| format!("-Y {name}: {error}"))?;
        let line = text.lines().next().and_then(|line| line.split_once(':'));
        let (user, password) =
            line.ok_or_else(|| format!("-Y {name}: its first line must be user:password"))?;
        Ok(Login { user: user.to_owned(), password: password.to_owned() })
    }
}

/// What all connections have in common.
#[derive(Clone)]
pub(super) struct Options {
    /// Longest wait for a connection, and for anything to be said on it.
    pub timeout: Duration,
    /// Who to say that we are, where that is asked.
    pub login: Option<Login>,
    /// Speak packets from the start.
    pub binary: bool,
}

/// What is told of each statistic: its name, and the rest of its line.
pub(super) type Each<'a> = &'a mut dyn FnMut(&[u8], &[u8]);

/// A connected node.
pub(super) struct Client {
    name: String,
    address: Address,
    options: Options,
    stream: BufReader<TcpStream>,
    binary: bool,
    /// It has answered.
    known: bool,
    line: Vec<u8>,
}

/// Why a command has no answer.
enum Fail {
    /// The node hung up before the first byte of its answer.
    HungUp,
    /// It wants to know who we are.
    Login,
    /// It said something else.
    Refused(String),
    Io(io::Error),
}

impl From<io::Error> for Fail {
    fn from(error: io::Error) -> Fail {
        match error.kind() {
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                Fail::HungUp
            }
            _ => Fail::Io(error),
        }
    }
}

fn dial(address: &Address, timeout: Duration) -> io::Result<TcpStream> {
    let port = address.port.unwrap_or(DEFAULT_PORT);
    let mut last = io::Error::new(ErrorKind::NotFound, "the name has no address");
    for target in (address.host.as_str(), port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&target, timeout) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(timeout))?;
                stream.set_write_timeout(Some(timeout))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Client {
    /// Connects to a node.
    ///
    /// # Errors
    /// A sentence that names it.
    pub fn connect(address: &Address, options: &Options) -> Result<Client, String> {
        let port = address.port.unwrap_or(DEFAULT_PORT);
        let name = Address { host: address.host.clone(), port: Some(port) }.to_string();
        let unreachable = |error: io::Error| format!("cannot connect to {name}: {error}");
        let stream = dial(address, options.timeout).map_err(unreachable)?;
        Ok(Client {
            name,
            address: address.clone(),
            options: options.clone(),
            stream: BufReader::with_capacity(BUFFER, stream),
            binary: options.binary,
            known: false,
            line: Vec::new(),
        })
    }

    /// `HOST:PORT`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Longest command line, with `stats `.
    pub fn room(&self) -> usize {
        if self.binary {
            "stats ".len() + PACKET_KEY
        } else {
            TEXT_ROOM
        }
    }

    fn sentence(&self, fail: Fail) -> String {
        let name = &self.name;
        match fail {
            Fail::HungUp => format!("{name} has closed the connection"),
            Fail::Login if self.options.login.is_some() => {
                format!("{name} does not take the user and password of -Y")
            }
            Fail::Login => format!("{name} wants to know a user and password: -Y FILE"),
            Fail::Io(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
            {
                format!("{name} does not answer")
            }
            Fail::Io(error) => format!("{name}: {error}"),
            Fail::Refused(text) => self.refused(text),
        }
    }

    fn refused(&self, text: impl Display) -> String {
        format!("{} cannot be compared: it does not tell digests (it answered: {text})", self.name)
    }

    /// The first question: finds out what to speak, and logs in where that is wanted.
    fn ask_first(&mut self, line: &[String], each: Each<'_>) -> Result<(), Fail> {
        let mut outcome = self.exchange(line, each);
        if matches!(outcome, Err(Fail::HungUp)) && !self.binary {
            self.stream = BufReader::with_capacity(BUFFER, self.dial_again()?);
            self.binary = true;
            outcome = self.exchange(line, each);
        }
        if matches!(outcome, Err(Fail::Login)) && self.options.login.is_some() {
            self.log_in()?;
            outcome = self.exchange(line, each);
        }
        self.known = outcome.is_ok();
        outcome
    }

    fn dial_again(&self) -> io::Result<TcpStream> {
        dial(&self.address, self.options.timeout)
    }

    /// Sends these commands, each `stats ...`, and shows what comes back, in order.
    ///
    /// # Errors
    /// A sentence that names the node.
    pub fn ask(&mut self, lines: &[String], each: Each<'_>) -> Result<(), String> {
        let first = if self.known { 0 } else { lines.len().min(1) };
        if first > 0 {
            self.ask_first(&lines[..first], each).map_err(|fail| self.sentence(fail))?;
        }
        for window in lines[first..].chunks(WINDOW) {
            self.exchange(window, each).map_err(|fail| self.sentence(fail))?;
        }
        Ok(())
    }

    fn exchange(&mut self, lines: &[String], each: Each<'_>) -> Result<(), Fail> {
        let mut out = Vec::new();
        for line in lines {
            if self.binary {
                push_packet(&mut out, STAT, line.strip_prefix("stats ").unwrap_or(line), b"");
            } else {
                // Blanks mean nothing. A node that wants packets says so when it has a header.
                let _ = write!(out, "{line:HEADER$}\r\n");
            }
        }
        self.stream.get_mut().write_all(&out)?;
        for _ in lines {
            if self.binary {
                self.read_packets(each)?;
            } else {
                self.read_lines(each)?;
            }
        }
        Ok(())
    }

    fn read_line(&mut self) -> Result<(), Fail> {
        self.line.clear();
        let read = (&mut self.stream).take(LINE_MAX).read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Err(Fail::HungUp);
        }
        if self.line.pop() != Some(b'\n') {
            return Err(Fail::Refused("a line without an end".into()));
        }
        if self.line.last() == Some(&b'\r') {
            self.line.pop();
        }
        Ok(())
    }

    fn read_lines(&mut self, each: Each<'_>) -> Result<(), Fail> {
        loop {
            self.read_line()?;
            let Some(stat) = self.line.strip_prefix(b"STAT ") else { break };
            let (name, rest) = split(stat);
            each(name, rest);
        }
        match self.line.as_slice() {
            b"END" => Ok(()),
            line if line.starts_with(UNAUTHENTICATED) => Err(Fail::Login),
            line => Err(Fail::Refused(shown(line))),
        }
    }

    /// One packet: its status, its key and what is behind the key.
    fn read_packet(&mut self) -> Result<(u16, Vec<u8>, usize), Fail> {
        let mut head = [0; HEADER];
        self.stream.read_exact(&mut head)?;
        let (key, extras) = (usize::from(u16::from_be_bytes([head[2], head[3]])), head[4]);
        let body = u32::from_be_bytes([head[8], head[9], head[10], head[11]]) as usize;
        if head[0] != 0x81 || body > BODY_MAX || key + usize::from(extras) > body {
            return Err(Fail::Refused(shown(&head)));
        }
        let mut bytes = vec![0; body];
        self.stream.read_exact(&mut bytes)?;
        bytes.drain(..usize::from(extras));
        Ok((u16::from_be_bytes([head[6], head[7]]), bytes, key))
    }

    fn read_packets(&mut self, each: Each<'_>) -> Result<(), Fail> {
        loop {
            match self.read_packet()? {
                (0, bytes, 0) if bytes.is_empty() => return Ok(()),
                (0, bytes, key) => each(&bytes[..key], &bytes[key..]),
                (AUTH_ERROR, ..) => return Err(Fail::Login),
                (_, bytes, _) => return Err(Fail::Refused(shown(&bytes))),
            }
        }
    }

    fn log_in(&mut self) -> Result<(), Fail> {
        let Some(Login { user, password }) = self.options.login.clone() else {
            return Err(Fail::Login);
        };
        let mut out = Vec::new();
        if self.binary {
            let message = format!("\0{user}\0{password}");
            push_packet(&mut out, SASL_AUTH, "PLAIN", message.as_bytes());
            self.stream.get_mut().write_all(&out)?;
            return match self.read_packet()? {
                (0, ..) => Ok(()),
                _ => Err(Fail::Login),
            };
        }
        let data = format!("{user} {password}");
        out.extend_from_slice(format!("set login 0 0 {}\r\n{data}\r\n", data.len()).as_bytes());
        self.stream.get_mut().write_all(&out)?;
        self.read_line()?;
        match self.line.as_slice() {
            b"STORED" => Ok(()),
            _ => Err(Fail::Login),
        }
    }
}

/// A name, and what is behind the blank after it.
fn split(stat: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr::memchr(b' ', stat).unwrap_or(stat.len());
    (&stat[..end], stat.get(end + 1..).unwrap_or_default())
}

/// What a stranger said, so that it can be shown on one line.
fn shown(bytes: &[u8]) -> String {
    let bytes = &bytes[..bytes.len().min(80)];
    format!("\"{}\"", bytes.escape_ascii())
}

/// Appends a request. Keys are short, see [`Client::room`].
fn push_packet(out: &mut Vec<u8>, opcode: u8, key: &str, value: &[u8]) {
    let mut head = [0; HEADER];
    head[0] = 0x80;
    head[1] = opcode;
    head[2..4].copy_from_slice(&(key.len() as u16).to_be_bytes());
    head[8..12].copy_from_slice(&((key.len() + value.len()) as u32).to_be_bytes());
    out.extend_from_slice(&head);
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A node that reads one command and gives one answer, once per answer, each on a connection
    /// of its own.
    fn node(answers: &'static [&'static [u8]]) -> (Address, std::thread::JoinHandle<Vec<Vec<u8>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("address").port();
        let thread = std::thread::spawn(move || {
            let mut heard = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().expect("accepted");
                let mut bytes = vec![0; 4096];
                let len = stream.read(&mut bytes).expect("read");
                bytes.truncate(len);
                heard.push(bytes);
                stream.write_all(answer).expect("written");
            }
            heard
        });
        (Address { host: "127.0.0.1".into(), port: Some(port) }, thread)
    }

    fn connect(address: &Address) -> Client {
        let options = Options { timeout: Duration::from_secs(20), login: None, binary: false };
        Client::connect(address, &options).unwrap_or_else(|why| panic!("{why}"))
    }

    fn question() -> Vec<String> {
        vec!["stats digest".to_owned()]
    }

    #[test]
    fn who_cannot_be_compared_is_named_with_the_reason() {
        for (answer, why) in [
            (&b"ERROR\r\n"[..], "does not tell digests (it answered: \"ERROR\")"),
            (b"CLIENT_ERROR unauthenticated\r\n", "wants to know a user and password: -Y FILE"),
            (b"SERVER_ERROR \xff\r\n", "it answered: \"SERVER_ERROR \\xff\""),
        ] {
            let answers: &'static [&'static [u8]] = Box::leak(Box::new([answer]));
            let (address, thread) = node(answers);
            let mut client = connect(&address);
            let said = client.ask(&question(), &mut |_, _| {}).err().unwrap_or_default();
            assert!(said.contains(&address.to_string()) && said.contains(why), "{said}");
            assert_eq!(thread.join().expect("heard"), [b"stats digest            \r\n"]);
        }
    }

    #[test]
    fn who_hangs_up_on_text_is_asked_in_packets() {
        const END: &[u8] = b"\x81\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        let (address, thread) = node(&[b"", END]);
        let mut client = connect(&address);
        assert_eq!((client.binary, client.room()), (false, TEXT_ROOM));
        assert_eq!(client.ask(&question(), &mut |_, _| {}), Ok(()));
        assert_eq!((client.binary, client.room()), (true, 256));
        let heard = thread.join().expect("heard");
        assert_eq!(heard[1][..4], [0x80, 0x10, 0, 6]);
        assert_eq!(&heard[1][HEADER..], b"digest");
    }
}
