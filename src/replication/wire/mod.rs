//! What travels between two nodes, as bytes.
//!
//! Owns the codecs, one file per wire. Never touches a socket, the store or a clock: bytes in,
//! frames out, and back.

pub mod line;
pub mod native;
pub mod repcached;
