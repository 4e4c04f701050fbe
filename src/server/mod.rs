//! The server: sockets and threads around the store, the protocol and replication.
//!
//! Owns the main thread, the workers and the maintenance and replication threads. The meaning of
//! commands is in [`execute`], connections without their sockets in [`conn`].

pub mod accept;
pub mod admin;
pub mod auth;
pub mod config;
pub mod conn;
pub mod execute;
pub mod maintenance;
pub mod peer;
pub mod run;
pub mod secret_file;
pub mod shared;
pub mod udp;
pub mod waits;
pub mod watch;
pub mod worker;
