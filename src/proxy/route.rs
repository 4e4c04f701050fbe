//! A key's server and its backup.
//!
//! Owns two rings, servers and backups, each over its own list. A backend is named by one index:
//! servers first, backups behind them. Never knows whether one of them lives.

use super::config::{Config, Place, ServerAddr};
use super::ring::Ring;

/// The index of a backend: servers in `-s` order, then backups in `-b` order.
pub type BackendId = usize;

/// Where one key goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Reads and writes go here first.
    pub server: BackendId,
    /// Writes are copied here, and reads fall back to it.
    pub backup: Option<BackendId>,
}

/// The routes of all keys.
#[derive(Clone, Debug)]
pub struct Router {
    servers: Ring,
    backups: Ring,
    server_count: usize,
    backup_count: usize,
}

impl Router {
    /// The routes that `config` describes.
    pub fn new(config: &Config) -> Router {
        Router {
            servers: ring(config, &config.servers),
            backups: ring(config, &config.backups),
            server_count: config.servers.len(),
            backup_count: config.backups.len(),
        }
    }

    /// The key's route, or `None` where there is no server at all.
    pub fn route(&self, key: &[u8]) -> Option<Route> {
        let server = self.servers.pick(key)?;
        let backup = self.backups.pick(key).map(|index| self.server_count + index);
        Some(Route { server, backup })
    }

    /// Indices of the servers.
    pub fn servers(&self) -> std::ops::Range<BackendId> {
        0..self.server_count
    }

    /// Indices of the backups.
    pub fn backups(&self) -> std::ops::Range<BackendId> {
        self.server_count..self.server_count + self.backup_count
    }
}

/// All backends in [`BackendId`] order.
pub fn backends(config: &Config) -> impl Iterator<Item = &ServerAddr> {
    config.servers.iter().chain(&config.backups).map(Place::first)
}

fn ring(config: &Config, places: &[Place]) -> Ring {
    let firsts: Vec<ServerAddr> = places.iter().map(|place| place.first().clone()).collect();
    Ring::new(config, &firsts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(servers: &[u16], backups: &[u16]) -> Config {
        let addr = |&port: &u16| ServerAddr::tcp("127.0.0.1", port).into();
        Config {
            servers: servers.iter().map(addr).collect(),
            backups: backups.iter().map(addr).collect(),
            ..Config::default()
        }
    }

    #[test]
    fn the_transcript_of_the_magent_readme() {
        let router = Router::new(&config(&[11211, 11212], &[11213]));
        assert_eq!(router.route(b"key1"), Some(Route { server: 1, backup: Some(2) }));
        assert_eq!(router.route(b"key2"), Some(Route { server: 0, backup: Some(2) }));
        assert_eq!((router.servers(), router.backups()), (0..2, 2..3));
    }

    #[test]
    fn no_backup_and_no_server() {
        let router = Router::new(&config(&[11211], &[]));
        assert_eq!(router.route(b"k"), Some(Route { server: 0, backup: None }));
        assert_eq!(Router::new(&config(&[], &[1])).route(b"k"), None);
    }
}
