//! The classic text protocol (protocol.txt), both directions.
//!
//! ```text
//! server:  bytes -> parse -> Request (-> parse_data -> value)   ... encode -> bytes
//! proxy:   Request -> encode::request -> bytes ... bytes -> parse_reply -> Reply (-> parse_data)
//! ```
//!
//! Owns the grammar and the limits on what may be buffered for one line. What memcached 1.6.45
//! answers is the rule, down to the words of its errors; the few places where it is not followed
//! say so. Never allocates, except that encoders append to the `Vec` they are given.

pub mod admin;
pub mod encode;
mod login;
mod plain;
pub mod reply;
mod request;
mod token;

#[cfg(test)]
mod tests;

pub use login::{parse_login, parse_login_data};
pub use plain::{plain, Plain};
pub use reply::{parse_reply, Reply};
pub use request::{parse, parse_more_keys, MoreKeys, SHORTEST};
pub(super) use token::{next_word, trim};

use super::reject::{self, Reject};
use super::{Parsed, StoreHead, KEY_MAX};

/// Bytes that may wait for a newline. memcached closes a connection that has sent more than this
/// without one, unless the line is a get.
pub const LINE_MAX: usize = 2048;

/// Bytes of a get line that are collected before its keys are handed out in portions. memcached
/// collects without a limit; 64 KiB hold over 250 of the longest keys, so that portions stay rare.
pub const GET_LINE_MAX: usize = 64 * 1024;

/// The largest length a storage command may announce (memcached: INT_MAX less the `\r\n`). What a
/// server takes (`-I`) is far below; up to here a refused block can be swallowed.
pub const DATA_MAX: u32 = i32::MAX as u32 - 2;

/// The keys of a get, separated by blanks, each of 1 to [`KEY_MAX`] bytes. Ends after the first key
/// that is too long, which comes as a refusal.
///
/// memcached answers such a get with the error alone: values that were already encoded for this
/// line must be taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys<'a> {
    rest: &'a [u8],
    /// Only a portion of a longer line: its remainder could not be told from commands.
    portion: bool,
}

impl<'a> Keys<'a> {
    /// The keys in `line`, parted by one or more blanks.
    pub const fn new(line: &'a [u8]) -> Keys<'a> {
        Keys { rest: line, portion: false }
    }

    pub(super) const fn portion(line: &'a [u8]) -> Keys<'a> {
        Keys { rest: line, portion: true }
    }

    /// What is left, as it was written.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.rest
    }

    /// The key, when there is exactly one and it is not too long: the most frequent request.
    pub fn single(&self) -> Option<&'a [u8]> {
        let mut keys = self.clone();
        match (keys.next(), keys.next()) {
            (Some(Ok(key)), None) => Some(key),
            _ => None,
        }
    }
}

impl<'a> Iterator for Keys<'a> {
    type Item = Result<&'a [u8], Reject>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (key, rest) = token::next_word(self.rest)?;
        self.rest = rest;
        if key.len() <= KEY_MAX {
            return Some(Ok(key));
        }
        self.rest = &[];
        Some(Err(Reject { line: reject::BAD_FORMAT, swallow: 0, close: self.portion }))
    }
}

/// Takes a data block of `len` bytes and its `\r\n` from the front of `input`.
///
/// A block that does not end there is refused as memcached does it: exactly `len + 2` bytes are
/// dropped and whatever follows is read as commands. Under `noreply` the caller keeps silent
/// ([`Reject::quiet_if`]). The same blocks follow `VALUE` and `VA` in a reply.
#[inline]
pub fn parse_data(input: &[u8], len: u32) -> Parsed<&[u8]> {
    let len = len as usize;
    let used = len + 2;
    match input.get(..used) {
        None => Parsed::Incomplete,
        Some(block) if block.ends_with(b"\r\n") => Parsed::Done { value: &block[..len], used },
        Some(_) => Parsed::Reject { reject: Reject::line(reject::BAD_CHUNK), used },
    }
}

/// The refusal of a value that is over the server's limit: its data block is swallowed. memcached
/// also removes what was stored under the key when the verb is `set`, so that no stale value stays.
pub const fn too_large(head: &StoreHead<'_>) -> Reject {
    refuse_data(head, reject::TOO_LARGE)
}

/// The refusal of a value that finds no room before its data was read: swallowed like a too large
/// one, and as there a `set` removes what was stored.
pub const fn no_memory(head: &StoreHead<'_>) -> Reject {
    refuse_data(head, reject::NO_MEMORY)
}

const fn refuse_data(head: &StoreHead<'_>, line: &'static [u8]) -> Reject {
    Reject { line, swallow: head.len as u64 + 2, close: false }.quiet_if(head.noreply)
}
