//! The server: store, protocol and replication joined to sockets and threads.

pub mod config;
