//! What the benches share. Each uses its part of it, hence the one allowance below.
//!
//! ```text
//!   frame      command line, what is printed where it is wrong, how a bench ends
//!   server     child processes, and what /proc says of them
//!   pin        which processors servers and load generator have
//!   requests   keys, values, batches as bytes        scenario   kinds of load made of them
//!   client     the load generator                    probe      clients that only wait
//!   side       a server with its client; rounds      figures    medians, ratios, goals
//! ```
//!
//! Nothing here knows what a bench is about.

#![allow(dead_code)]

pub mod client;
pub mod figures;
pub mod frame;
pub mod pin;
pub mod probe;
pub mod requests;
pub mod scenario;
pub mod server;
pub mod side;
