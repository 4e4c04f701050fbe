//! A circle of 32 bits with points of servers on it: every kind of ketama.
//!
//! Owns how points are labelled and how many a server has, and the search for the first point at or
//! after a hash. What is equal goes to the server that comes first in the list handed in.
//!
//! ```text
//!   hash --top bits--> starts [  0 |  2 |  5 | ... ]     a few points at most are left to look at
//!                                   |
//!                  at      [ 12 40 | 77 78 90 | ...      sorted
//!                  server  [  1  0 |  2  2  1 | ...
//! ```

use super::hash::{md5_points, KeyHash};
use crate::proxy::config::{Endpoint, ServerAddr};

/// magent's md5 digests per server; each gives four points.
const MAGENT_LABELS: u32 = 500;
/// libmemcached's points per server without weights.
const LIBMEMCACHED_POINTS: u32 = 100;
/// libmemcached's and twemproxy's points per server of average weight.
const WEIGHTED_POINTS: f32 = 160.0;
/// Most bits of a hash that `starts` is indexed by: 256 KiB of it.
const INDEX_BITS_MAX: u32 = 16;

/// Points sorted by where they are.
#[derive(Clone, Debug)]
pub struct Continuum {
    at: Vec<u32>,
    server: Vec<u16>,
    /// How many points are below each value of the top bits, and at the end all of them.
    starts: Vec<u32>,
    /// By how much a hash is shifted to have its top bits.
    shift: u32,
}

impl Continuum {
    /// Of equal points the one of lower rank is found; `order` has the servers by rank, or is empty
    /// where their rank is their index.
    fn new(mut points: Vec<(u32, u16)>, order: &[u16]) -> Continuum {
        points.sort_unstable();
        let bits = (points.len() as u32).max(2).ilog2().min(INDEX_BITS_MAX);
        let shift = 32 - bits;
        let below = |top: u32| points.partition_point(|&(at, _)| at >> shift < top) as u32;
        let starts = (0..=1 << bits).map(below).collect();
        let index = |rank: u16| order.get(usize::from(rank)).copied().unwrap_or(rank);
        let (at, server) = points.into_iter().map(|(at, rank)| (at, index(rank))).unzip();
        Continuum { at, server, starts, shift }
    }

    /// Whose point is the first at or after `hash`, or the first of all behind the last.
    #[inline]
    pub fn pick(&self, hash: u32) -> Option<usize> {
        let top = (hash >> self.shift) as usize;
        let (from, to) = (self.starts[top] as usize, self.starts[top + 1] as usize);
        let next = from + self.at[from..to].partition_point(|&at| at < hash);
        self.server.get(next).or(self.server.first()).map(|&server| usize::from(server))
    }

    /// magent's `-k`: `ip-port-n`.
    pub fn magent(servers: &[ServerAddr]) -> Continuum {
        let mut points = Vec::with_capacity(servers.len() * MAGENT_LABELS as usize * 4);
        for (server, index) in servers.iter().zip(0..) {
            let label = match &server.endpoint {
                Endpoint::Tcp { host, port } => format!("{host}-{port}"),
                Endpoint::Unix(path) => format!("{}-0", path.display()),
            };
            push_digests(&mut points, index, &label, MAGENT_LABELS);
        }
        Continuum::new(points, &[])
    }

    /// libmemcached's without weights: a point for each label, by the hash that keys are placed
    /// with.
    pub fn libmemcached(servers: &[ServerAddr], hash: KeyHash) -> Continuum {
        let mut points = Vec::with_capacity(servers.len() * LIBMEMCACHED_POINTS as usize);
        for (server, index) in servers.iter().zip(0..) {
            let host = server.libmemcached_host();
            let point = |n| (hash(format!("{host}-{n}").as_bytes()), index);
            points.extend((0..LIBMEMCACHED_POINTS).map(point));
        }
        Continuum::new(points, &[])
    }

    /// libmemcached's and twemproxy's by weight. `order` has the servers by rank, all of them;
    /// `label` is what the label of a point begins with.
    pub fn weighted(
        servers: &[ServerAddr],
        order: &[u16],
        label: impl Fn(&ServerAddr) -> String,
    ) -> Continuum {
        let total: u64 = servers.iter().map(|server| u64::from(server.weight)).sum();
        let mut points = Vec::with_capacity(servers.len() * WEIGHTED_POINTS as usize);
        for (&index, rank) in order.iter().zip(0..) {
            let server = &servers[usize::from(index)];
            push_digests(&mut points, rank, &label(server), share(server, total, servers.len()));
        }
        Continuum::new(points, order)
    }
}

/// Digests of a server of this weight: single precision throughout, in this order, as in both
/// programs; the small number is added in double precision there.
fn share(server: &ServerAddr, total: u64, servers: usize) -> u32 {
    let part = server.weight as f32 / total as f32;
    let digests = part * WEIGHTED_POINTS / 4.0 * servers as f32;
    (f64::from(digests) + 1e-10) as f32 as u32
}

/// Four points for each of `label-0` to `label-(n-1)`.
fn push_digests(points: &mut Vec<(u32, u16)>, server: u16, label: &str, digests: u32) {
    for n in 0..digests {
        let marks = md5_points(format!("{label}-{n}").as_bytes());
        points.extend(marks.iter().map(|&at| (at, server)));
    }
}
