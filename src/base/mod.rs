//! What every layer may use: time, buffers, numbers, hashing, digests, counters, ordered replies,
//! logging.
//!
//! Owns no sockets, no threads and no global state but the logger. Depends on `std`, the `log`
//! facade and `crc32fast` only.

pub mod address;
pub mod buf;
pub mod clock;
pub mod counters;
pub mod digest;
pub mod hash;
pub mod log;
pub mod network;
pub mod num;
pub mod replies;
pub mod sync;
pub mod uri;
