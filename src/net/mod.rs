//! Sockets and the queues between threads: what the operating system's edge looks like to us.
//!
//! Owns how addresses are resolved, bound and listened on, the one [`stream::Stream`] type for TCP
//! and unix clients, and mailboxes. Knows no protocol and decides nothing about a connection's
//! life.

pub mod listen;
pub mod mailbox;
pub mod stream;
pub mod udp;
