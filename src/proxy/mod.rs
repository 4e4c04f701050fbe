//! The proxy: keys are spread over servers, writes copied to backups, losses read from backups.
//!
//! [`run()`] and [`worker`] own the sockets and threads; everything else is pure or sans-IO and can
//! be driven with bytes and times alone.
//!
//! ```text
//!   clients ==== worker ---- Front ---- Relay ---- Backend ---- worker ==== servers, backups
//!                            (one per    |  |       (one per server
//!                             client)    |  |        and worker)
//!                          Routes, Ring -+  +- Fanout, Guard, Missed
//! ```

pub mod backend;
pub mod behind;
pub mod cold;
pub mod config;
pub mod fanout;
pub mod figures;
pub mod front;
pub mod guard;
pub mod lane;
pub mod lookup;
pub mod missed;
pub mod places;
pub mod recent;
pub mod relay;
pub mod renew;
pub mod ring;
pub mod route;
pub mod run;
pub mod servers_file;
#[cfg(test)]
mod sim;
pub mod turns;
pub mod worker;

pub use config::{Config, Distribution, Place, ServerAddr};
pub use run::run;
