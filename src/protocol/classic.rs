//! The classic text protocol (protocol.txt), both directions.

/// The keys of a get, separated by blanks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys<'a> {
    rest: &'a [u8],
}
