//! The meta commands of the text protocol: mn, me, mg, ms, md, ma.
//!
//! ```text
//! server:  line -> parse_line -> Request::Meta* -> Meta::parse -> Meta ... Meta::encode_* -> bytes
//! proxy:   the same Request and Meta; the line's own words go on as they came
//! ```
//!
//! Owns their grammar, their flags, their keys in base64 and their replies. memcached 1.6.45 is the
//! rule, down to the words of its errors and the order in which it finds fault. Never knows what a
//! flag does to an item, and never allocates, except that replies are appended to the `Vec` they
//! are given.

mod encode;
mod flags;
mod key;
mod line;

#[cfg(test)]
mod tests;

pub use encode::{encode_debug, Debugged, Hit, Number, Status};
pub use flags::{ArithMode, Meta, SetMode};
pub use key::{encode_base64, BinaryKey, Key};
pub use line::debug_key;
pub(super) use line::parse_line;

/// Which of the commands that take flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `mg`
    Get,
    /// `ms`
    Set,
    /// `md`
    Delete,
    /// `ma`
    Arith,
}

/// The words of a line.
fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|&byte| byte == b' ').filter(|word| !word.is_empty())
}
