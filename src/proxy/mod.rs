//! The proxy: keys are spread over servers, writes copied to backups, losses read from backups.
//!
//! `run` and `worker` own the sockets; everything else here is pure or sans-IO.

pub mod config;
pub mod ring;
pub mod route;

pub use config::{Config, Distribution, ServerAddr};
