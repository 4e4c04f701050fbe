//! Binary packets, as a client makes and reads them.
//!
//! Owns their layout, written down once more so that it does not depend on the code under test.

use crate::script::Link;

/// Length of a header.
const HEADER: usize = 24;

/// Opcodes that have a name here.
#[rustfmt::skip]
pub mod opcode {
    pub const GET: u8 = 0x00; pub const GETQ: u8 = 0x09;
    pub const GETK: u8 = 0x0c; pub const GETKQ: u8 = 0x0d;
    pub const SET: u8 = 0x01; pub const SETQ: u8 = 0x11;
    pub const ADD: u8 = 0x02; pub const ADDQ: u8 = 0x12;
    pub const REPLACE: u8 = 0x03; pub const REPLACEQ: u8 = 0x13;
    pub const DELETE: u8 = 0x04; pub const DELETEQ: u8 = 0x14;
    pub const INCREMENT: u8 = 0x05; pub const INCREMENTQ: u8 = 0x15;
    pub const DECREMENT: u8 = 0x06; pub const DECREMENTQ: u8 = 0x16;
    pub const QUIT: u8 = 0x07; pub const QUITQ: u8 = 0x17;
    pub const FLUSH: u8 = 0x08; pub const FLUSHQ: u8 = 0x18;
    pub const APPEND: u8 = 0x0e; pub const APPENDQ: u8 = 0x19;
    pub const PREPEND: u8 = 0x0f; pub const PREPENDQ: u8 = 0x1a;
    pub const NOOP: u8 = 0x0a;
    pub const VERSION: u8 = 0x0b;
    pub const STAT: u8 = 0x10;
    pub const TOUCH: u8 = 0x1c;
    pub const GAT: u8 = 0x1d; pub const GATQ: u8 = 0x1e;
    pub const GATK: u8 = 0x23; pub const GATKQ: u8 = 0x24;
    pub const SASL_LIST_MECHS: u8 = 0x20;
    pub const SASL_AUTH: u8 = 0x21;
    pub const SASL_STEP: u8 = 0x22;
}

/// A request as it is sent, but for its CAS unique, which is each server's own.
#[derive(Clone, Default)]
pub struct Packet {
    pub opcode: u8,
    pub extras: Vec<u8>,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    pub opaque: u32,
    /// The CAS unique, where there is only one server.
    pub unique: u64,
    /// Index of a pair of uniques; none: 0.
    pub cas: Option<usize>,
    /// Added to the length of the body, over the end of the numbers if need be.
    pub longer: u32,
}

impl Packet {
    pub fn new(opcode: u8, key: &[u8]) -> Packet {
        Packet::with(opcode, b"", key, b"")
    }

    pub fn with(opcode: u8, extras: &[u8], key: &[u8], value: &[u8]) -> Packet {
        let [extras, key, value] = [extras, key, value].map(<[u8]>::to_vec);
        Packet { opcode, extras, key, value, ..Packet::default() }
    }

    pub fn unique(self, unique: u64) -> Packet {
        Packet { unique, ..self }
    }

    /// On the wire, with this CAS unique.
    pub fn bytes(&self, cas: u64) -> Vec<u8> {
        let body = (self.extras.len() + self.key.len() + self.value.len()) as u32;
        let mut out = vec![0x80, self.opcode];
        out.extend((self.key.len() as u16).to_be_bytes());
        out.extend([self.extras.len() as u8, 0, 0, 0]);
        out.extend(body.wrapping_add(self.longer).to_be_bytes());
        out.extend(self.opaque.to_be_bytes());
        out.extend(cas.to_be_bytes());
        out.extend([&self.extras[..], &self.key, &self.value].concat());
        out
    }
}

/// A response, parsed.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    /// The header without its CAS unique.
    pub head: [u8; 16],
    pub cas: u64,
    pub body: Vec<u8>,
}

impl Answer {
    /// Opcode, status and body.
    pub fn said(&self) -> (u8, u16, Vec<u8>) {
        (self.head[1], u16::from_be_bytes([self.head[6], self.head[7]]), self.body.clone())
    }

    /// Key and value.
    pub fn named(&self) -> (&[u8], &[u8]) {
        let key = usize::from(u16::from_be_bytes([self.head[2], self.head[3]]));
        self.body.split_at(key.min(self.body.len()))
    }
}

impl std::fmt::Debug for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (extras, key) = (show(&self.extras), show(&self.key));
        let (value, cas, longer) = (show(&self.value), self.cas, self.longer);
        write!(f, "\n  {:#04x} [{extras}] [{key}] [{value}] {cas:?} {longer:+}", self.opcode)
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (head, body) = (self.head.escape_ascii(), show(&self.body));
        write!(f, "\n  {head} cas {} [{body}]", self.cas)
    }
}

fn show(bytes: &[u8]) -> String {
    let dots = if bytes.len() > 40 { format!("...{}", bytes.len()) } else { String::new() };
    format!("{}{dots}", bytes[..bytes.len().min(40)].escape_ascii())
}

/// One server's end of a conversation.
pub struct Side<'a> {
    link: &'a mut dyn Link,
    received: Vec<u8>,
    pub closed: bool,
}

impl<'a> Side<'a> {
    /// On a connection that has nothing unread.
    pub fn new(link: &'a mut dyn Link) -> Side<'a> {
        Side { link, received: Vec::new(), closed: false }
    }

    /// Sends `bytes` in pieces that end at `cuts`.
    pub fn send(&mut self, bytes: &[u8], cuts: &[usize]) -> Result<(), String> {
        let mut from = 0;
        for &to in cuts.iter().chain([&bytes.len()]) {
            // A server that has closed meanwhile is found out when it is read from.
            if self.link.send(&bytes[from..to]).is_err() {
                return Ok(());
            }
            from = to;
        }
        Ok(())
    }

    /// The next response. None: the server closed the connection.
    pub fn next(&mut self) -> Result<Option<Answer>, String> {
        loop {
            if let Some(header) = self.received.get(..HEADER) {
                let body = u32::from_be_bytes(header[8..12].try_into().expect("4 bytes")) as usize;
                let cas = u64::from_be_bytes(header[16..24].try_into().expect("8 bytes"));
                let head = header[..16].try_into().expect("16 bytes");
                if let Some(body) = self.received.get(HEADER..HEADER + body) {
                    let answer = Answer { head, cas, body: body.to_vec() };
                    self.received.drain(..HEADER + answer.body.len());
                    return Ok(Some(answer));
                }
            }
            if self.closed || !self.link.receive(&mut self.received)? {
                self.closed = true;
                let rest = self.received.escape_ascii();
                let whole = self.received.is_empty();
                return if whole { Ok(None) } else { Err(format!("closed in \"{rest}\"")) };
            }
        }
    }

    /// All responses up to the one to the mark, or to the end of the connection.
    pub fn answers(&mut self, mark: u32) -> Result<Vec<Answer>, String> {
        let mut all = Vec::new();
        while let Some(answer) = self.next()? {
            let done = answer.head[1] == opcode::NOOP && answer.head[12..] == mark.to_be_bytes();
            all.push(answer);
            if done {
                break;
            }
        }
        Ok(all)
    }
}
