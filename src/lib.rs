//! twincached: a memcached server whose nodes replicate to each other, and a memcached proxy.
//!
//! Threads: the main thread listens, hands connections to workers and takes signals; each worker
//! runs one `mio` poll over its own connections; one replication thread drives all peer links; one
//! maintenance thread keeps memory free ahead of demand. ARCHITECTURE.md has the picture.
//!
//! Layers point one way: `main → cli → {server, proxy, verify, demo}`; `server → replication,
//! store, protocol, net, platform`; `proxy → protocol, net, platform`; `replication → store`;
//! everything → `base`. `tests/tidy.rs` checks it.

#![deny(unsafe_code)]
#![deny(unsafe_op_in_unsafe_fn)]
#![warn(missing_docs)]
#![deny(clippy::undocumented_unsafe_blocks)]

pub mod base;
pub mod cli;
pub mod demo;
pub mod net;
pub mod platform;
pub mod protocol;
pub mod proxy;
pub mod replication;
pub mod server;
pub mod store;
pub mod verify;
