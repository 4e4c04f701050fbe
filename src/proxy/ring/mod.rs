//! Which of n servers has a key.
//!
//! Owns the placements: modulo, and a continuum of points. A distribution of another system is a
//! placement, a hash of the key and, for a continuum, the way points are labelled; [`Ring::new`] is
//! where the three are put together. Never knows whether a server lives.
//!
//! ```text
//!   key --hash--> u32 --+-- Modula:     u32 mod n
//!                       +-- Continuum:  the first point at or after it, wrapping to the first
//! ```

pub mod hash;

use crate::proxy::config::{Distribution, Endpoint, ServerAddr};
use hash::KeyHash;

/// magent's md5 digests per server; each gives four points.
const MAGENT_LABELS: u32 = 500;

/// Places keys on a list of servers.
#[derive(Clone, Debug)]
pub struct Ring {
    hash: KeyHash,
    placement: Placement,
}

#[derive(Clone, Debug)]
enum Placement {
    /// The remainder is the index.
    Modula(u32),
    /// Points sorted by value; equal points in index order.
    Continuum(Vec<Point>),
}

/// A server's mark on the continuum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    at: u32,
    server: u16,
}

impl Ring {
    /// A ring over `servers` (at most 65,535) in their given order.
    pub fn new(distribution: Distribution, servers: &[ServerAddr]) -> Ring {
        match distribution {
            Distribution::Magent => {
                Ring { hash: hash::magent_djb, placement: Placement::Modula(servers.len() as u32) }
            }
            Distribution::MagentKetama => Ring {
                hash: hash::md5_first,
                placement: Placement::Continuum(continuum(servers, |server, n| {
                    magent_label(server, n)
                })),
            },
            _ => Ring::new(Distribution::Magent, servers),
        }
    }

    /// The index of the key's server, or `None` where there are no servers.
    pub fn pick(&self, key: &[u8]) -> Option<usize> {
        match &self.placement {
            Placement::Modula(0) => None,
            Placement::Modula(1) => Some(0),
            Placement::Modula(n) => Some(((self.hash)(key) % n) as usize),
            Placement::Continuum(points) => {
                let hash = (self.hash)(key);
                let next = points.partition_point(|point| point.at < hash);
                points.get(next).or(points.first()).map(|point| usize::from(point.server))
            }
        }
    }
}

fn magent_label(server: &ServerAddr, n: u32) -> String {
    match &server.endpoint {
        Endpoint::Tcp { host, port } => format!("{host}-{port}-{n}"),
        Endpoint::Unix(path) => format!("{}-0-{n}", path.display()),
    }
}

/// Every server's points, sorted.
fn continuum(servers: &[ServerAddr], label: impl Fn(&ServerAddr, u32) -> String) -> Vec<Point> {
    let mut points = Vec::with_capacity(servers.len() * MAGENT_LABELS as usize * 4);
    for (server, index) in servers.iter().zip(0u16..) {
        for n in 0..MAGENT_LABELS {
            let marks = hash::md5_points(label(server, n).as_bytes());
            points.extend(marks.iter().map(|&at| Point { at, server: index }));
        }
    }
    points.sort_unstable();
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addrs(list: &str) -> Vec<ServerAddr> {
        let addr = |text: &str| {
            let (host, port) = text.rsplit_once(':').expect("host:port");
            ServerAddr::tcp(host, port.parse().expect("a port"))
        };
        list.split(',').map(addr).collect()
    }

    #[test]
    fn every_row_of_the_magent_vectors() {
        let table = include_str!("../../../tests/vectors/magent.tsv");
        let mut rings: std::collections::HashMap<&str, (Ring, Ring)> = Default::default();
        let mut rows = 0;
        for line in table.lines().filter(|line| !line.starts_with('#')) {
            let fields: Vec<&str> = line.split('\t').collect();
            let (list, key) = (fields[0], fields[1].as_bytes());
            let (plain, ketama) = rings.entry(list).or_insert_with(|| {
                let servers = addrs(list);
                (
                    Ring::new(Distribution::Magent, &servers),
                    Ring::new(Distribution::MagentKetama, &servers),
                )
            });
            assert_eq!(plain.pick(key), fields[2].parse().ok(), "{line}");
            assert_eq!(ketama.pick(key), fields[3].parse().ok(), "-k {line}");
            rows += 1;
        }
        assert_eq!(rows, 380, "the whole table was read");
    }

    #[test]
    fn nobody_and_one() {
        for distribution in [Distribution::Magent, Distribution::MagentKetama] {
            assert_eq!(Ring::new(distribution, &[]).pick(b"k"), None);
            assert_eq!(Ring::new(distribution, &addrs("a:1")).pick(b"k"), Some(0));
        }
    }

    #[test]
    fn ketama_spreads_evenly_and_moves_little() {
        let five = addrs("10.0.0.1:1,10.0.0.2:1,10.0.0.3:1,10.0.0.4:1,10.0.0.5:1");
        let all = Ring::new(Distribution::MagentKetama, &five);
        let four = Ring::new(Distribution::MagentKetama, &five[..4]);
        let mut counts = [0; 5];
        for n in 0..10_000 {
            let key = format!("key{n}");
            let before = all.pick(key.as_bytes()).expect("a server");
            counts[before] += 1;
            if before != 4 {
                assert_eq!(four.pick(key.as_bytes()), Some(before), "{key} moved needlessly");
            }
        }
        assert!(counts.iter().all(|&count| (1600..2400).contains(&count)), "{counts:?}");
    }
}
