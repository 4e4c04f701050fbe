//! Which of n servers has a key.
//!
//! Owns the placements. A distribution of another system is a placement, a hash of the key and, for
//! a continuum, the way points are labelled; [`Ring::new`] is where the three are put together.
//! Never knows whether a server lives, and never allocates for a key.
//!
//! ```text
//!   key --tag--> bytes --hash--+-- Slots:      hash mod the sum of weights
//!                              +-- Continuum:  the first point at or after it
//!                              +-- Jump:       jump hash over the slots
//!                              +-- Rendezvous: the server that draws the best lot with it
//! ```

mod continuum;
pub mod hash;
mod rendezvous;
mod xxh3;

use crate::proxy::config::{Config, Distribution, ServerAddr};
use continuum::Continuum;
use hash::{KeyHash, WideHash};
use rendezvous::Rendezvous;

/// Places keys on a list of servers.
#[derive(Clone, Debug)]
pub struct Ring {
    tag: Option<(u8, u8)>,
    placement: Placement,
}

#[derive(Clone, Debug)]
enum Placement {
    Nobody,
    /// All keys are with the only one.
    One,
    Slots(KeyHash, Slots),
    Continuum(KeyHash, Continuum),
    Jump(WideHash, Slots),
    Rendezvous(WideHash, Rendezvous),
}

impl Ring {
    /// A ring over `servers` (at most 65,535), spread as `config` says.
    pub fn new(config: &Config, servers: &[ServerAddr]) -> Ring {
        let placement = match servers.len() {
            0 => Placement::Nobody,
            1 => Placement::One,
            _ => place(config, servers),
        };
        Ring { tag: config.hash_tag, placement }
    }

    /// The index of the key's server, or `None` where there are no servers.
    #[inline]
    pub fn pick(&self, key: &[u8]) -> Option<usize> {
        let key = self.tag.and_then(|tag| tagged(key, tag)).unwrap_or(key);
        match &self.placement {
            Placement::Nobody => None,
            Placement::One => Some(0),
            Placement::Slots(hash, slots) => Some(slots.server(hash(key) % slots.total)),
            Placement::Continuum(hash, continuum) => continuum.pick(hash(key)),
            Placement::Jump(hash, slots) => Some(slots.server(jump(hash(key), slots.total))),
            Placement::Rendezvous(hash, lots) => Some(lots.pick(hash(key))),
        }
    }
}

fn place(config: &Config, servers: &[ServerAddr]) -> Placement {
    let distribution = config.distribution;
    let hash = hash::key_hash(distribution, config.hash);
    let wide = hash::wide_hash(distribution, config.hash);
    let as_given: Vec<u16> = (0u16..).take(servers.len()).collect();
    match distribution {
        // Neither looks at weights.
        Distribution::Magent | Distribution::LibmemcachedModula => {
            Placement::Slots(hash, Slots::new(&as_given, |_| 1))
        }
        Distribution::MagentKetama => Placement::Continuum(hash, Continuum::magent(servers)),
        // The first weight that is not 1 makes libmemcached's points weighted; the hash stays.
        Distribution::LibmemcachedKetama if servers.iter().all(|server| server.weight == 1) => {
            Placement::Continuum(hash, Continuum::libmemcached(servers, hash))
        }
        Distribution::LibmemcachedKetama | Distribution::LibmemcachedKetamaWeighted => {
            let label = ServerAddr::libmemcached_host;
            Placement::Continuum(hash, Continuum::weighted(servers, &as_given, label))
        }
        Distribution::TwemproxyKetama => {
            let (order, label) = (twemproxy_order(servers), ServerAddr::twemproxy_name);
            Placement::Continuum(hash, Continuum::weighted(servers, &order, label))
        }
        Distribution::TwemproxyModula => {
            let order = twemproxy_order(servers);
            Placement::Slots(hash, Slots::new(&order, |index| servers[index].weight))
        }
        Distribution::Jump => {
            Placement::Jump(wide, Slots::new(&as_given, |index| servers[index].weight))
        }
        Distribution::Rendezvous => Placement::Rendezvous(wide, Rendezvous::new(servers)),
    }
}

/// twemproxy sorts its servers by their names: the shorter first, those of one length by bytes.
fn twemproxy_order(servers: &[ServerAddr]) -> Vec<u16> {
    let mut order: Vec<u16> = (0u16..).take(servers.len()).collect();
    order.sort_by_cached_key(|&index| {
        let name = servers[usize::from(index)].twemproxy_name();
        (name.len(), name)
    });
    order
}

/// What a key has between the first of the one and the next of the other, if there is anything.
#[inline]
fn tagged(key: &[u8], (open, close): (u8, u8)) -> Option<&[u8]> {
    let from = memchr::memchr(open, key)? + 1;
    let len = memchr::memchr(close, &key[from..])?;
    (len > 0).then(|| &key[from..from + len])
}

/// As many slots for each server as its weight is, one server after the other.
#[derive(Clone, Debug)]
struct Slots {
    total: u32,
    /// Where the slots of each server end, in the order of `servers`; empty where each has one.
    ends: Vec<u32>,
    servers: Vec<u16>,
}

impl Slots {
    /// The weights together fit in 32 bits: see [`crate::proxy::places::WEIGHT_MAX`].
    fn new(order: &[u16], weight: impl Fn(usize) -> u32) -> Slots {
        let mut total = 0u32;
        let mut ends = Vec::with_capacity(order.len());
        for &index in order {
            total = total.saturating_add(weight(usize::from(index)));
            ends.push(total);
        }
        if total as usize == order.len() {
            ends.clear();
        }
        Slots { total, ends, servers: order.to_vec() }
    }

    #[inline]
    fn server(&self, slot: u32) -> usize {
        let place = match self.ends.is_empty() {
            true => slot as usize,
            false => self.ends.partition_point(|&end| end <= slot),
        };
        usize::from(self.servers[place])
    }
}

/// Jump consistent hash (Lamping and Veach, 2014): which of `slots` a key is in, so that more of
/// them take keys from all alike and give none to each other.
fn jump(mut key: u64, slots: u32) -> u32 {
    let (mut slot, mut next) = (0i64, 0i64);
    while next < i64::from(slots) {
        slot = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        next = ((slot + 1) as f64 * ((1i64 << 31) as f64 / ((key >> 33) + 1) as f64)) as i64;
    }
    slot as u32
}

#[cfg(test)]
mod tests;
