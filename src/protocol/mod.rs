//! Bytes to requests and replies, and back. Pure: no sockets, no store, no clock.
//!
//! Owns the grammar and the exact texts of memcached's protocols, in both directions: a server
//! parses requests and encodes replies, a proxy also encodes requests and parses replies. Parsed
//! values borrow from the input; nothing here allocates per request.

pub mod binary;
pub mod classic;
pub mod meta;
pub mod reject;
pub mod udp;

use crate::base::clock::ClockMove;

/// Longest key, in bytes (protocol.txt).
pub const KEY_MAX: usize = 250;

/// What a parser made of the bytes so far.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// More bytes are needed; nothing was consumed.
    Incomplete,
    /// A whole value, made of the first `used` bytes.
    Done {
        /// What was parsed.
        value: T,
        /// How many bytes it took.
        used: usize,
    },
    /// The first `used` bytes are not acceptable; [`reject::Reject`] says what to answer and what
    /// to do with the connection.
    Reject {
        /// The answer and the consequence.
        reject: reject::Reject,
        /// How many bytes to drop.
        used: usize,
    },
}

/// Which of the four retrieval commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GetVerb {
    /// `get`
    Get,
    /// `gets`: with the CAS unique.
    Gets,
    /// `gat`: get and touch.
    Gat,
    /// `gats`: get and touch, with the CAS unique.
    Gats,
}

/// Which storage command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreVerb {
    /// `set`
    Set,
    /// `add`
    Add,
    /// `replace`
    Replace,
    /// `append`
    Append,
    /// `prepend`
    Prepend,
    /// `cas`, with the unique the client saw.
    Cas(u64),
}

/// `incr` or `decr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArithVerb {
    /// `incr`: wraps at 64 bits.
    Incr,
    /// `decr`: stops at zero.
    Decr,
}

/// The head line of a storage command; its data block follows on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreHead<'a> {
    /// Which command.
    pub verb: StoreVerb,
    /// The key, 1 to [`KEY_MAX`] bytes.
    pub key: &'a [u8],
    /// Opaque to the server.
    pub flags: u32,
    /// As the client wrote it: 0 never, negative at once, up to 30 days relative, else unix
    /// seconds.
    pub exptime: i64,
    /// Length of the data block without its `\r\n`.
    pub len: u32,
    /// Answer nothing.
    pub noreply: bool,
}

/// One classic request. Key and value slices borrow from the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// get, gets, gat, gats. `line` holds the keys, separated by blanks; walk it with
    /// [`classic::Keys`].
    Get {
        /// Which one.
        verb: GetVerb,
        /// For gat and gats, as the client wrote it; else 0.
        exptime: i64,
        /// The keys.
        keys: classic::Keys<'a>,
        /// The line was too long to wait for its end: more keys follow, to be read with
        /// [`classic::parse_more_keys`].
        more: bool,
    },
    /// A storage command's head. The caller decides how to take in the data block
    /// ([`classic::parse_data`]).
    Store(StoreHead<'a>),
    /// delete
    Delete {
        /// The key.
        key: &'a [u8],
        /// Answer nothing.
        noreply: bool,
    },
    /// incr, decr
    Arith {
        /// Which one.
        verb: ArithVerb,
        /// The key.
        key: &'a [u8],
        /// By how much.
        delta: u64,
        /// Answer nothing.
        noreply: bool,
    },
    /// touch
    Touch {
        /// The key.
        key: &'a [u8],
        /// As the client wrote it.
        exptime: i64,
        /// Answer nothing.
        noreply: bool,
    },
    /// flush_all
    FlushAll {
        /// Seconds from now (or unix time over 30 days), as the client wrote it; 0 when absent.
        delay: i64,
        /// Answer nothing.
        noreply: bool,
    },
    /// flush_all with a delay that is no number. Where nobody may flush, that is the answer to this
    /// one too.
    BadFlush {
        /// Answer nothing.
        noreply: bool,
    },
    /// version
    Version,
    /// verbosity
    Verbosity {
        /// The level asked for.
        level: u32,
        /// Answer nothing.
        noreply: bool,
    },
    /// stats, with the rest of its line.
    Stats {
        /// What follows `stats`, without surrounding blanks; empty for the general ones.
        args: &'a [u8],
    },
    /// watch, with the rest of its line.
    Watch {
        /// The classes of lines, separated by blanks.
        args: &'a [u8],
    },
    /// quit
    Quit,
    /// shutdown
    Shutdown {
        /// `shutdown graceful`: let connections finish. None for a mode that there is not: whether
        /// it is allowed at all is to be looked at first.
        graceful: Option<bool>,
        /// Answer nothing.
        noreply: bool,
    },
    /// slabs, lru, lru_crawler, cache_memlimit: not yet looked into, [`classic::admin::parse`]
    /// does.
    Admin {
        /// The whole line.
        line: &'a [u8],
    },
    /// debugtime, memcached's debug build only.
    DebugTime(ClockMove),
    /// Meta no-op: answered `MN`.
    MetaNoop,
    /// `mg`, not yet looked into: [`meta::Meta::parse`] reads the flags.
    MetaGet {
        /// The key as written (base64 when flag `b` is among the flags).
        key: &'a [u8],
        /// The flags, separated by blanks.
        flags: &'a [u8],
    },
    /// `ms`, not yet looked into. Its data block follows on the wire.
    MetaSet {
        /// The key as written.
        key: &'a [u8],
        /// Length of the data block without its `\r\n`.
        len: u32,
        /// The flags, separated by blanks.
        flags: &'a [u8],
    },
    /// `md`, not yet looked into.
    MetaDelete {
        /// The key as written.
        key: &'a [u8],
        /// The flags, separated by blanks.
        flags: &'a [u8],
    },
    /// `ma`, not yet looked into.
    MetaArith {
        /// The key as written.
        key: &'a [u8],
        /// The flags, separated by blanks.
        flags: &'a [u8],
    },
    /// `me`, not yet looked into: [`meta::debug_key`] reads the key.
    MetaDebug {
        /// The key as written.
        key: &'a [u8],
        /// The flags, separated by blanks.
        flags: &'a [u8],
    },
}
