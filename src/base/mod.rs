//! What every layer may use: time, buffers, numbers, hashing, counters, ordered replies, logging.
//!
//! Owns no sockets, no threads and no global state but the logger. Depends on `std` and the `log`
//! facade only.

pub mod address;
pub mod buf;
pub mod clock;
pub mod counters;
pub mod hash;
pub mod log;
pub mod network;
pub mod num;
pub mod replies;
