//! A key's place among the servers and among the backups.
//!
//! Owns two rings, servers and backups, each over its own list. Made once for all workers; a
//! reload makes another. Never knows whether a server lives, nor which connections lead to it.
//!
//! ```text
//!   key --> ring of servers --> index of a place (-s), its members
//!      \--> ring of backups --> index of a place (-b), its members
//! ```

use super::config::{Config, Place, ServerAddr};
use super::ring::Ring;

/// The routes of all keys.
#[derive(Clone, Debug)]
pub struct Routes {
    servers: Vec<Place>,
    backups: Vec<Place>,
    server_ring: Ring,
    backup_ring: Ring,
}

impl Routes {
    /// The routes that `config` describes.
    pub fn new(config: &Config) -> Routes {
        Routes {
            server_ring: ring(config, &config.servers),
            backup_ring: ring(config, &config.backups),
            servers: config.servers.clone(),
            backups: config.backups.clone(),
        }
    }

    /// The key's index among [`Routes::servers`], or `None` where there is no server at all.
    pub fn server(&self, key: &[u8]) -> Option<usize> {
        self.server_ring.pick(key)
    }

    /// The key's index among [`Routes::backups`], or `None` where there is no backup.
    pub fn backup(&self, key: &[u8]) -> Option<usize> {
        self.backup_ring.pick(key)
    }

    /// The places of `-s`, in their order.
    pub fn servers(&self) -> &[Place] {
        &self.servers
    }

    /// The places of `-b`, in their order.
    pub fn backups(&self) -> &[Place] {
        &self.backups
    }
}

fn ring(config: &Config, places: &[Place]) -> Ring {
    let firsts: Vec<ServerAddr> = places.iter().map(|place| place.first().clone()).collect();
    Ring::new(config, &firsts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(servers: &[u16], backups: &[u16]) -> Routes {
        let addr = |&port: &u16| ServerAddr::tcp("127.0.0.1", port).into();
        Routes::new(&Config {
            servers: servers.iter().map(addr).collect(),
            backups: backups.iter().map(addr).collect(),
            ..Config::default()
        })
    }

    #[test]
    fn the_transcript_of_the_magent_readme() {
        let routes = routes(&[11211, 11212], &[11213]);
        assert_eq!((routes.server(b"key1"), routes.backup(b"key1")), (Some(1), Some(0)));
        assert_eq!((routes.server(b"key2"), routes.backup(b"key2")), (Some(0), Some(0)));
        assert_eq!((routes.servers().len(), routes.backups().len()), (2, 1));
    }

    #[test]
    fn no_backup_and_no_server() {
        assert_eq!(routes(&[11211], &[]).backup(b"k"), None);
        assert_eq!(routes(&[], &[1]).server(b"k"), None);
    }
}
