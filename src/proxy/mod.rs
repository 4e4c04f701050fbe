//! The proxy: keys are spread over servers, writes copied to backups, losses read from backups.
//!
//! `run` and `worker` own the sockets; everything else here is pure or sans-IO.

pub mod backend;
pub mod config;
pub mod fanout;
pub mod front;
pub mod guard;
pub mod missed;
pub mod relay;
pub mod ring;
pub mod route;

pub use config::{Config, Distribution, ServerAddr};
