//! The binary protocol, the server's side of it.
//!
//! ```text
//!  byte 0     1       2        4       5      6         8         12      16   24
//!       magic|opcode |key len |extras |data  |reserved |body len |opaque |CAS |extras|key|value
//!       0x80 |       |        |len    |type 0|0        |         |       |    |
//!
//!  bytes -> parse -> Frame -> Frame::check -> Frame::request -> Request    ... encode -> bytes
//! ```
//!
//! Owns the packets: what a header says, which lengths a command may have, the status codes and
//! their exact texts. What memcached 1.6.45 answers is the rule; the one command that it leaves out
//! and the protocol's description has (verbosity) is taken in the form described. Never sees a
//! value: it stays with the caller, who decides whether it comes in at all. Never allocates, except
//! that encoders append to the `Vec` they are given.

pub mod encode;
pub mod sasl;

#[cfg(test)]
mod tests;

use super::{ArithVerb, StoreHead, StoreVerb, KEY_MAX};

/// Length of every header, in bytes.
pub const HEADER: usize = 24;

/// First byte of every request: it tells a binary client from a text one.
pub const REQUEST: u8 = 0x80;

/// First byte of every response.
pub const RESPONSE: u8 = 0x81;

/// The largest body that may be announced (memcached's limit of `-I`).
pub const BODY_MAX: u32 = 1 << 30;

/// Longest name of a SASL mechanism, in bytes.
pub const MECHANISM_MAX: usize = 32;

/// The exptime of an increment or decrement that creates nothing.
pub const CREATE_NOTHING: u32 = u32::MAX;

/// Opcodes, by memcached's names.
pub mod opcode {
    #![allow(missing_docs)]
    pub const GET: u8 = 0x00;
    pub const SET: u8 = 0x01;
    pub const ADD: u8 = 0x02;
    pub const REPLACE: u8 = 0x03;
    pub const DELETE: u8 = 0x04;
    pub const INCREMENT: u8 = 0x05;
    pub const DECREMENT: u8 = 0x06;
    pub const QUIT: u8 = 0x07;
    pub const FLUSH: u8 = 0x08;
    pub const GETQ: u8 = 0x09;
    pub const NOOP: u8 = 0x0a;
    pub const VERSION: u8 = 0x0b;
    pub const GETK: u8 = 0x0c;
    pub const GETKQ: u8 = 0x0d;
    pub const APPEND: u8 = 0x0e;
    pub const PREPEND: u8 = 0x0f;
    pub const STAT: u8 = 0x10;
    pub const SETQ: u8 = 0x11;
    pub const ADDQ: u8 = 0x12;
    pub const REPLACEQ: u8 = 0x13;
    pub const DELETEQ: u8 = 0x14;
    pub const INCREMENTQ: u8 = 0x15;
    pub const DECREMENTQ: u8 = 0x16;
    pub const QUITQ: u8 = 0x17;
    pub const FLUSHQ: u8 = 0x18;
    pub const APPENDQ: u8 = 0x19;
    pub const PREPENDQ: u8 = 0x1a;
    pub const VERBOSITY: u8 = 0x1b;
    pub const TOUCH: u8 = 0x1c;
    pub const GAT: u8 = 0x1d;
    pub const GATQ: u8 = 0x1e;
    pub const SASL_LIST_MECHS: u8 = 0x20;
    pub const SASL_AUTH: u8 = 0x21;
    pub const SASL_STEP: u8 = 0x22;
    pub const GATK: u8 = 0x23;
    pub const GATKQ: u8 = 0x24;
}

/// How a command went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Status {
    /// Done.
    Success = 0x00,
    /// There is no such item.
    NotFound = 0x01,
    /// Somebody changed the item, or (add) it is there.
    Exists = 0x02,
    /// The value is over `-I`.
    TooLarge = 0x03,
    /// Lengths that this command cannot have.
    Invalid = 0x04,
    /// The condition of an append or prepend does not hold.
    NotStored = 0x05,
    /// Increment or decrement of what is not a number.
    NonNumeric = 0x06,
    /// Not authenticated, wrong credentials, or not allowed.
    AuthError = 0x20,
    /// The SASL exchange goes on.
    AuthContinue = 0x21,
    /// No such command.
    UnknownCommand = 0x81,
    /// No memory.
    NoMemory = 0x82,
    /// Not in this protocol: what the proxy says.
    NotSupported = 0x83,
    /// It may go better another time: a change that too few peers have acknowledged.
    Temporary = 0x86,
}

impl Status {
    /// The body of an answer with this status.
    pub const fn text(self) -> &'static [u8] {
        match self {
            Status::Success | Status::AuthContinue => b"",
            Status::NotFound => b"Not found",
            Status::Exists => b"Data exists for key.",
            Status::TooLarge => b"Too large.",
            Status::Invalid => b"Invalid arguments",
            Status::NotStored => b"Not stored.",
            Status::NonNumeric => b"Non-numeric server-side value for incr or decr",
            Status::AuthError => b"Auth failure.",
            Status::UnknownCommand => b"Unknown command",
            Status::NoMemory => b"Out of memory",
            Status::NotSupported => b"Not supported",
            Status::Temporary => b"Not acknowledged by enough peers",
        }
    }
}

/// A request's header. Data type and the reserved bytes are ignored, as memcached does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// What is asked; the answer repeats it.
    pub opcode: u8,
    /// Length of the key.
    pub key_len: u16,
    /// Length of the extras.
    pub extras_len: u8,
    /// Length of extras, key and value together.
    pub body_len: u32,
    /// The client's own mark; the answer repeats it.
    pub opaque: [u8; 4],
    /// The CAS unique that the item must have; 0: any.
    pub cas: u64,
}

impl Head {
    /// All that an answer repeats of a request.
    pub const fn answering(opcode: u8, opaque: [u8; 4]) -> Head {
        Head { opcode, key_len: 0, extras_len: 0, body_len: 0, opaque, cas: 0 }
    }
}

/// Why a request is refused, and what becomes of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the answer says.
    pub status: Status,
    /// The answer's body.
    pub text: &'static [u8],
    /// Bytes behind the frame that are dropped unread.
    pub swallow: u64,
    /// Then the connection closes: what follows cannot be trusted to be a request.
    pub close: bool,
}

impl Refusal {
    /// Answer with this status; the next request follows at once.
    pub const fn status(status: Status) -> Refusal {
        Refusal { status, text: status.text(), swallow: 0, close: false }
    }

    /// The same, with `bytes` to be dropped first.
    #[must_use]
    pub const fn swallow(self, bytes: u64) -> Refusal {
        Refusal { swallow: bytes, ..self }
    }
}

/// What stands at the head of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framed<'a> {
    /// More bytes are needed.
    Incomplete,
    /// Not a request: the connection closes without a word.
    BadMagic,
    /// A header with extras and key.
    Frame(Frame<'a>),
}

/// A header with its extras and its key. The value follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The header.
    pub head: Head,
    /// The extras; empty when the key is too long.
    extras: &'a [u8],
    /// The key; empty when it is too long.
    key: &'a [u8],
    /// Bytes of header, extras and key.
    pub used: usize,
}

/// A request whose lengths are right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The header, for the answer.
    pub head: Head,
    /// Only the less usual outcome is answered: the value of a get, the failure of anything else.
    pub quiet: bool,
    /// What is asked.
    pub command: Command<'a>,
}

/// What is asked. Exptimes are as the client wrote them: 0 never, up to 30 days relative, else unix
/// seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// get, gat and their kind.
    Get {
        /// The key.
        key: &'a [u8],
        /// The answer repeats the key.
        with_key: bool,
        /// The exptime that the item gets.
        touch: Option<u32>,
    },
    /// touch
    Touch {
        /// The key.
        key: &'a [u8],
        /// The exptime that the item gets.
        exptime: u32,
    },
    /// set, add, replace, append, prepend. The value follows the frame.
    Store(StoreHead<'a>),
    /// delete
    Delete {
        /// The key.
        key: &'a [u8],
    },
    /// increment, decrement
    Arith {
        /// Which one.
        verb: ArithVerb,
        /// The key.
        key: &'a [u8],
        /// By how much.
        delta: u64,
        /// The number to begin with where there is none, and its exptime.
        create: Option<(u64, u32)>,
    },
    /// flush
    Flush {
        /// When; 0 now.
        exptime: u32,
    },
    /// quit
    Quit,
    /// noop
    Noop,
    /// version
    Version,
    /// stat
    Stat {
        /// Which statistics; empty for the general ones.
        key: &'a [u8],
    },
    /// verbosity
    Verbosity {
        /// The level asked for.
        level: u32,
    },
    /// Which SASL mechanisms there are.
    SaslList,
    /// A step of SASL. The data follow the frame.
    Sasl {
        /// The first step.
        start: bool,
        /// The mechanism's name.
        mechanism: &'a [u8],
        /// Length of the data.
        len: u32,
    },
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].iter().take(4).fold(0, |sum, &byte| sum << 8 | u32::from(byte))
}

fn be64(bytes: &[u8], at: usize) -> u64 {
    u64::from(be32(bytes, at)) << 32 | u64::from(be32(bytes, at + 4))
}

impl Head {
    /// The head in [`HEADER`] bytes.
    pub fn of(header: &[u8]) -> Head {
        Head {
            opcode: header[1],
            key_len: u16::from_be_bytes([header[2], header[3]]),
            extras_len: header[4],
            body_len: be32(header, 8),
            opaque: [header[12], header[13], header[14], header[15]],
            cas: be64(header, 16),
        }
    }
}

/// Reads the head of the input.
pub fn parse(input: &[u8]) -> Framed<'_> {
    let Some((header, rest)) = input.split_at_checked(HEADER) else { return Framed::Incomplete };
    if header[0] != REQUEST {
        return Framed::BadMagic;
    }
    let head = Head::of(header);
    if usize::from(head.key_len) > KEY_MAX {
        // Whatever is asked, it is refused and the connection closes: this key is not collected.
        return Framed::Frame(Frame { head, extras: &[], key: &[], used: HEADER });
    }
    let Some((extras, rest)) = rest.split_at_checked(usize::from(head.extras_len)) else {
        return Framed::Incomplete;
    };
    let Some(key) = rest.get(..usize::from(head.key_len)) else { return Framed::Incomplete };
    Framed::Frame(Frame { head, extras, key, used: HEADER + extras.len() + key.len() })
}

impl<'a> Frame<'a> {
    fn lead(&self) -> u64 {
        u64::from(self.head.extras_len) + u64::from(self.head.key_len)
    }

    /// The key; empty when it is too long.
    pub fn key(&self) -> &'a [u8] {
        self.key
    }

    /// A refusal that ends the connection, once extras and key are read.
    pub fn closing(&self, status: Status) -> Refusal {
        let here = (self.extras.len() + self.key.len()) as u64;
        Refusal { close: true, ..Refusal::status(status) }.swallow(self.lead() - here)
    }

    /// Whether the header agrees with itself. What comes before the question who asks.
    ///
    /// # Errors
    ///
    /// A refusal that ends the connection.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.lead() > u64::from(self.head.body_len) {
            return Err(self.closing(Status::UnknownCommand));
        }
        if self.head.body_len > BODY_MAX {
            return Err(self.closing(Status::Invalid));
        }
        Ok(())
    }

    /// Whether this may be asked before the client has said who it is.
    pub fn needs_no_login(&self) -> bool {
        use opcode::{SASL_AUTH, SASL_LIST_MECHS, SASL_STEP, VERSION};
        matches!(self.head.opcode, SASL_LIST_MECHS | SASL_AUTH | SASL_STEP | VERSION)
    }

    /// What is asked.
    ///
    /// # Errors
    ///
    /// Lengths that the command cannot have end the connection; a command that does not exist does
    /// not.
    pub fn request(&self) -> Result<Request<'a>, Refusal> {
        let (plain, quiet) = plain(self.head.opcode);
        if usize::from(self.head.key_len) > KEY_MAX {
            return Err(self.closing(Status::Invalid));
        }
        match self.command(plain, quiet) {
            Some(Some(command)) => Ok(Request { head: self.head, quiet, command }),
            Some(None) => Err(self.closing(Status::Invalid)),
            // As memcached does, so that both go on at the same byte: extras and key are read
            // already, and the whole length of the body is dropped on top of them.
            None => {
                Err(Refusal::status(Status::UnknownCommand).swallow(u64::from(self.head.body_len)))
            }
        }
    }

    /// The command with this opcode. None: there is none; `Some(None)`: its lengths are wrong.
    fn command(&self, plain: u8, quiet: bool) -> Option<Option<Command<'a>>> {
        let (extras, key) = (self.extras, self.key);
        let (bare, alone) = (key.is_empty(), self.value_len() == 0);
        let empty = bare && alone && extras.is_empty();
        Some(match plain {
            opcode::GET | opcode::GETK => (extras.is_empty() && !bare && alone)
                .then_some(Command::Get { key, with_key: plain == opcode::GETK, touch: None }),
            opcode::GAT | opcode::GATK => (extras.len() == 4 && !bare).then(|| Command::Get {
                key,
                with_key: plain == opcode::GATK,
                touch: Some(be32(extras, 0)),
            }),
            opcode::TOUCH => (extras.len() == 4 && !bare)
                .then(|| Command::Touch { key, exptime: be32(extras, 0) }),
            opcode::SET | opcode::ADD | opcode::REPLACE => (extras.len() == 8 && !bare)
                .then(|| self.store(plain, be32(extras, 0), be32(extras, 4), quiet)),
            opcode::APPEND | opcode::PREPEND => {
                (extras.is_empty() && !bare).then(|| self.store(plain, 0, 0, quiet))
            }
            opcode::DELETE => {
                (extras.is_empty() && !bare && alone).then_some(Command::Delete { key })
            }
            opcode::INCREMENT | opcode::DECREMENT => {
                (extras.len() == 20 && !bare && alone).then(|| {
                    let verb = match plain {
                        opcode::INCREMENT => ArithVerb::Incr,
                        _ => ArithVerb::Decr,
                    };
                    let (initial, exptime) = (be64(extras, 8), be32(extras, 16));
                    let create = (exptime != CREATE_NOTHING).then_some((initial, exptime));
                    Command::Arith { verb, key, delta: be64(extras, 0), create }
                })
            }
            opcode::FLUSH => (bare && alone && matches!(extras.len(), 0 | 4)).then(|| {
                Command::Flush { exptime: if extras.is_empty() { 0 } else { be32(extras, 0) } }
            }),
            opcode::QUIT => empty.then_some(Command::Quit),
            opcode::NOOP => empty.then_some(Command::Noop),
            opcode::VERSION => empty.then_some(Command::Version),
            opcode::STAT => extras.is_empty().then_some(Command::Stat { key }),
            opcode::VERBOSITY if bare && alone && extras.len() == 4 => {
                Some(Command::Verbosity { level: be32(extras, 0) })
            }
            opcode::SASL_LIST_MECHS => empty.then_some(Command::SaslList),
            opcode::SASL_AUTH | opcode::SASL_STEP => {
                (extras.is_empty() && !bare).then_some(Command::Sasl {
                    start: plain == opcode::SASL_AUTH,
                    mechanism: key,
                    len: self.value_len(),
                })
            }
            _ => return None,
        })
    }

    /// What of the body is left for the value. [`Frame::check`] has seen that it is not less than
    /// nothing.
    fn value_len(&self) -> u32 {
        let lead = u32::from(self.head.extras_len) + u32::from(self.head.key_len);
        self.head.body_len.saturating_sub(lead)
    }

    fn store(&self, plain: u8, flags: u32, exptime: u32, noreply: bool) -> Command<'a> {
        let verb = match plain {
            opcode::ADD => StoreVerb::Add,
            opcode::REPLACE => StoreVerb::Replace,
            opcode::APPEND => StoreVerb::Append,
            opcode::PREPEND => StoreVerb::Prepend,
            _ => StoreVerb::Set,
        };
        let (key, len, exptime) = (self.key, self.value_len(), i64::from(exptime));
        Command::Store(StoreHead { verb, key, flags, exptime, len, noreply })
    }
}

/// The opcode without its quietness, and whether it had it.
fn plain(opcode: u8) -> (u8, bool) {
    use opcode::*;
    let loud = match opcode {
        SETQ => SET,
        ADDQ => ADD,
        REPLACEQ => REPLACE,
        DELETEQ => DELETE,
        INCREMENTQ => INCREMENT,
        DECREMENTQ => DECREMENT,
        QUITQ => QUIT,
        FLUSHQ => FLUSH,
        APPENDQ => APPEND,
        PREPENDQ => PREPEND,
        GETQ => GET,
        GETKQ => GETK,
        GATQ => GAT,
        GATKQ => GATK,
        _ => return (opcode, false),
    };
    (loud, true)
}
