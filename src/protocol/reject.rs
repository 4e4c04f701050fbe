//! Why a request is refused, with memcached's exact text and what becomes of the connection.

/// A refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The line to answer, with its `\r\n`.
    pub line: &'static [u8],
    /// Data bytes that follow on the wire and must be dropped unread.
    pub swallow: u64,
    /// Close after the answer.
    pub close: bool,
}
